"""Inputs of a rehearsal: samples of the files that are there, and made-up ones of the right size where they are not.

Made up are models with random weights, a vocabulary, rows of a task, instances, text, word vectors: fit to be computed
with, and to nothing else.
"""
from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from transformer.augmentation.candidates import STOP_CHARACTERS
from transformer.checkpoint import save_model
from transformer.config import BertConfig
from transformer.files import write_json
from transformer.modeling import BertForPreTraining, TinyBertForPreTraining
from transformer.planning.languages import ENGLISH, Language
from transformer.planning.steps import files_for
from transformer.tasks.answers import ANSWER_FILES
from transformer.tasks.own import write_task
from transformer.tasks.task import Task
from transformer.tokenization import is_ideograph, open_tokenizer, vocab_path
from transformer.training.record import is_finished

_COMMON = "the of and to in is it that was for".split()  # about half of English: they are not augmented
_CHARACTERS = [chr(code) for code in range(0x4E00, 0x4E00 + 7300)]  # about as many as bert-base-chinese knows
_SPECIALS = ["[PAD]", *(f"[unused{number}]" for number in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VECTORS, _DIMENSIONS = 5000, 300  # of a made-up GloVe file
_SENTENCE_WORDS, _DOCUMENT_SENTENCES = 20, 25


def made_up_words() -> Iterator[str]:
    """Words that nobody knows, of two syllables and more, each once."""
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    for count in itertools.count(2):
        yield from map("".join, itertools.product(syllables, repeat=count))


class Inputs:
    """What the rehearsed steps read, below a temporary folder.

    known: a model folder whose vocabulary all made-up models and texts have; None: that is made up, too.
    language: of the texts. invented: what was made up since the caller last cleared it, for people.
    """

    def __init__(self, folder: Path, known: Path | None, language: Language = ENGLISH):
        self.folder = folder
        self.known = known
        self.language = language
        self.invented: list[str] = []
        self._random = np.random.default_rng(0)

    def vocabulary(self, config: BertConfig) -> Path:
        """The vocabulary file, of as many pieces as `config` says where it is made up."""
        if self.known:
            return vocab_path(self.known)
        path = self.folder / f"vocab_{config.vocab_size}.txt"
        if not path.is_file():
            words = itertools.chain(_SPECIALS, _COMMON if self.language.between else _CHARACTERS, made_up_words())
            path.write_text("".join(f"{word}\n" for word in itertools.islice(words, config.vocab_size)), "utf-8")
        return path

    def words(self, config: BertConfig, count: int) -> list[str]:
        """Words of the vocabulary by chance, one piece each, of which as many are common ones as are not masked; of
        Chinese they are characters, and stop characters."""
        whole = filter(None, open_tokenizer(self.vocabulary(config)).whole_words())
        if self.language.between:
            every, stopped = [word for word in whole if word.isascii() and word.isalpha()], _COMMON
        else:
            every, stopped = list(filter(is_ideograph, whole)), STOP_CHARACTERS
        every = every or ["a"]
        common = [piece for piece in every if piece in stopped] or every
        choices = [common[number % len(common)] if is_common else every[number % len(every)] for number, is_common in
                   zip(self._random.integers(0, 1 << 30, count),
                       self._random.random(count) >= self.language.masked)]
        return choices

    def model(self, path: str | Path, role: str, config: BertConfig, teacher: BertConfig | None = None,
              task: Task | None = None, fit_per_layer: bool = False) -> Path:
        """The model folder itself where a finished one is there; else one with random weights.

        role: bert (with the heads of pre-training), task (with the head of `task`), or general (a student of
        `teacher`, with `fit_per_layer` a projection for each hidden state).
        """
        if Path(path).is_dir() and any(Path(path).iterdir()) and is_finished(path):
            return Path(path)
        self.invented.append(Path(path).name)
        config = replace(config, extra={"model_type": config.family.prefix})
        if teacher:
            config = replace(config, vocab_size=teacher.vocab_size)
        sizes = [config.family.prefix, config.vocab_size, config.hidden_size, config.num_hidden_layers]
        head = task.head if role == "task" else None
        kind = [head.model_class.__name__, head.width] if head else []
        kind += ["fit_per_layer"] * fit_per_layer
        folder = self.folder / "_".join(map(str, ["model", role, *sizes, *kind]))
        if not folder.is_dir():
            torch.manual_seed(0)
            if role == "bert":
                model = BertForPreTraining(config)
            elif role == "general":
                model = TinyBertForPreTraining(config, (teacher or config).hidden_size, fit_per_layer)
            else:
                model = head.model_class(config, **head.sizes)
            save_model(model, folder, self.vocabulary(config))
        return folder

    def linked(self, place: Path, folder: Path) -> Path:
        """A folder of links to the files of a model, so that what is written beside them stays here."""
        links = place / folder.name
        links.mkdir()
        for path in folder.iterdir():
            if path.is_file() and not path.name.startswith("eval_") and path.name not in ANSWER_FILES:
                (links / path.name).symlink_to(path.resolve())
        return links

    def task(self, place: Path, task: Task, real: Path, rows: int, dev_rows: int, augmented: bool,
             config: BertConfig) -> Path:
        """The folder of a task with at most `rows` examples of its train file and `dev_rows` of each dev file (of
        SQuAD about as many questions), in GLUE/TASK; a file of which none are asked for is left out.

        Of an augmented file that is not there yet, examples of the train file are taken, which are as long.
        """
        folder = place / "glue" / task.name
        folder.mkdir(parents=True)
        if task.folder:  # the rows without labels are as others, and are left out
            write_task(folder, replace(task, unlabelled_rows=0))
        train = task.aug_file if augmented else task.train_file
        for name, count in ((train, rows), *((name, dev_rows) for name in task.dev_files)):
            if count:
                self._write_examples(folder / name, task, real, count, config)
        return folder

    def _write_examples(self, path: Path, task: Task, real: Path, count: int, config: BertConfig) -> None:
        """Write a file of a task with about `count` rows or questions, a sample of the real one or made up."""
        source, files = real / path.name, files_for(task, self.language)
        if not source.is_file() and path.name == task.aug_file and (real / task.train_file).is_file():
            self.invented.append(path.name)
            source = real / task.train_file
        if source.is_file():
            files.copy_some(source, path, count, self._random)
        else:
            self.invented.append(f"{task.name}/{path.name}")
            files.make_up(path, count, functools.partial(self.words, config), self._random)

    def instances(self, place: Path, real: Path, count: int, length: int, config: BertConfig) -> tuple[Path, int]:
        """A folder with one epoch of at most `count` instances, the first of the real one, and how many they are; with
        all of the real one, where those are arrays, which are mapped."""
        folder = place / "json"
        folder.mkdir()
        epoch, metrics = folder / "epoch_0.json", {"max_seq_len": length}
        arrays = real / "epoch_0.instances"
        if arrays.is_dir() and (real / "epoch_0_metrics.json").is_file():
            (folder / arrays.name).symlink_to(arrays.resolve())
            metrics = json.loads((real / "epoch_0_metrics.json").read_text())
            count = metrics["num_training_examples"]
        elif (real / "epoch_0.json").is_file() and (real / "epoch_0_metrics.json").is_file():
            with open(real / "epoch_0.json", "rb") as handle:
                lines = list(itertools.islice(handle, count))
            epoch.write_bytes(b"".join(lines))
            metrics = json.loads((real / "epoch_0_metrics.json").read_text())
            count = len(lines)
        else:
            self.invented.append("instances")
            first = length // 2
            words, tokenizer = self.words(config, count * (length - 3)), open_tokenizer(self.vocabulary(config))
            with open(epoch, "w", encoding="utf-8") as handle:
                for start in range(0, len(words), length - 3):
                    pieces = tokenizer.tokenize(" ".join(words[start:start + length - 3]))[:length - 3]
                    tokens = ["[CLS]", *pieces[:first], "[SEP]", *pieces[first:], "[SEP]"]
                    handle.write(json.dumps({"tokens": tokens, "segment_ids": [0] * (first + 2) +
                                             [1] * (len(tokens) - first - 2), "is_random_next": False,
                                             "masked_lm_positions": [], "masked_lm_labels": []}) + "\n")
        write_json(folder / "epoch_0_metrics.json", {**metrics, "num_training_examples": count})
        return folder, count

    def vectors(self, real: Path, config: BertConfig) -> Path:
        """The file of word vectors: a link to it, beside which its arrays stay, or a small one."""
        path = self.folder / "vectors" / real.name
        if not path.exists():
            path.parent.mkdir()
            if real.is_file():
                path.symlink_to(real.resolve())
            else:
                numbers = self._random.normal(size=(VECTORS, _DIMENSIONS)).round(4)
                words = dict.fromkeys([*self.words(config, VECTORS), *itertools.islice(made_up_words(), VECTORS)])
                path.write_text("".join(f"{word} {' '.join(map(str, row))}\n" for word, row in zip(words, numbers)))
        if not real.is_file():
            self.invented.append("word vectors")
        return path

    def corpus(self, place: Path, real: Path, size: int, config: BertConfig) -> Path:
        """About the first `size` bytes of a text of sentences and documents."""
        path = place / "corpus.txt"
        if real.is_file():
            with open(real, "rb") as source, open(path, "wb") as handle:
                for line in source:
                    handle.write(line)
                    if handle.tell() >= size and not line.strip():
                        break
            return path
        self.invented.append("text")
        words = self.words(config, size // self.language.word_bytes)
        sentences = (self.language.between.join(words[start:start + _SENTENCE_WORDS])
                     for start in range(0, len(words), _SENTENCE_WORDS))
        with open(path, "w", encoding="utf-8") as handle:
            for number, sentence in enumerate(sentences, 1):
                handle.write(f"{sentence}\n" + "\n" * (number % _DOCUMENT_SENTENCES == 0))
        return path
