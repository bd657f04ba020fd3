"""Inputs of a rehearsal: samples of the files that are there, and made-up ones of the right size where they are not.

Made up are models with random weights, a vocabulary, rows of a task, instances, text, word vectors: fit to be computed
with, and to nothing else.
"""
from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
import torch

from transformer.checkpoint import save_model
from transformer.config import BertConfig
from transformer.data.augmented import AUGMENTED_HEADER, augmented_line, augmented_passage
from transformer.files import write_json
from transformer.modeling import BertForPreTraining, TinyBertForPreTraining
from transformer.planning.steps import QUESTION_WORDS, WORDS, usual_windows
from transformer.tasks.answers import ANSWER_FILES
from transformer.tasks.own import write_task
from transformer.tasks.squad import Passage, Question, read_passages
from transformer.tasks.task import Task
from transformer.tokenization import open_tokenizer, vocab_path
from transformer.training.record import is_finished

_READ_WHOLE = 32 << 20  # bytes of a file whose lines are all looked at for a sample
_COMMON = "the of and to in is it that was for".split()  # about half of English: they are not augmented
_SPECIALS = ["[PAD]", *(f"[unused{number}]" for number in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VECTORS, _DIMENSIONS = 5000, 300  # of a made-up GloVe file
_SENTENCE_WORDS, _DOCUMENT_SENTENCES = 20, 25


def made_up_words() -> Iterator[str]:
    """Words that nobody knows, of two syllables and more, each once."""
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    for count in itertools.count(2):
        yield from map("".join, itertools.product(syllables, repeat=count))


def sample_lines(path: Path, count: int, has_header: bool) -> tuple[list[bytes], list[bytes]]:
    """The header (no line, or one) of a file of lines, and at most `count` of the others by chance, each ended.

    Of a large file they are those after places by chance. Lines with another number of tabs than most have are left
    out, as the scripts skip them or refuse the file.
    """
    random = np.random.default_rng(0)
    size = path.stat().st_size
    with open(path, "rb") as handle:
        header = [handle.readline()] if has_header else []
        begin = handle.tell()
        if size <= _READ_WHOLE:
            found = [line for line in handle if line.strip()]
            if len(found) > count:
                found = [found[number] for number in random.choice(len(found), count, replace=False)]
        else:
            found = [_line_after(handle, place) for place in random.integers(begin, size, count)]
    tabs = [line.count(b"\t") for line in found]
    usual = max(set(tabs), key=tabs.count, default=0)
    return header, [line.rstrip(b"\r\n") + b"\n" for line, number in zip(found, tabs) if number == usual]


def _line_after(handle: IO[bytes], place: int) -> bytes:
    handle.seek(place)
    handle.readline()
    return handle.readline() or _line_after(handle, place // 2)


def first_questions(passages: Iterable[Passage], count: int) -> Iterator[Passage]:
    """Passages with the first `count` questions."""
    for passage in passages:
        if passage.questions:
            yield replace(passage, questions=passage.questions[:count])
        count -= len(passage.questions)
        if count <= 0:
            return


def write_passages(path: Path, task: Task, passages: Iterable[Passage]) -> None:
    """Write a SQuAD file, or the augmented one, without answers."""
    with open(path, "w", encoding="utf-8") as handle:
        if path.name == task.aug_file:
            lines = (augmented_line(passage, passage.context, 0) for passage in passages)
            handle.writelines(f"{line}\n" for line in (AUGMENTED_HEADER, *lines))
            return
        paragraphs = [{"context": passage.context, "qas": [
            {"id": question.id, "question": question.text,
             "answers": [{"text": text, "answer_start": start} for text, start in question.answers],
             **({"is_impossible": not question.answers} if task.head.unanswerable else {})}
            for question in passage.questions]} for passage in passages]
        json.dump({"version": "v2.0" if task.head.unanswerable else "1.1",
                   "data": [{"title": "", "paragraphs": paragraphs}]}, handle)


class Inputs:
    """What the rehearsed steps read, below a temporary folder.

    known: a model folder whose vocabulary all made-up models and texts have; None: that is made up, too.
    invented: what was made up since the caller last cleared it, for people.
    """

    def __init__(self, folder: Path, known: Path | None):
        self.folder = folder
        self.known = known
        self.invented: list[str] = []
        self._random = np.random.default_rng(0)

    def vocabulary(self, config: BertConfig) -> Path:
        """The vocabulary file, of as many pieces as `config` says where it is made up."""
        if self.known:
            return vocab_path(self.known)
        path = self.folder / f"vocab_{config.vocab_size}.txt"
        if not path.is_file():
            words = itertools.chain(_SPECIALS, _COMMON, made_up_words())
            path.write_text("".join(f"{word}\n" for word in itertools.islice(words, config.vocab_size)))
        return path

    def words(self, config: BertConfig, count: int) -> list[str]:
        """Words of the vocabulary by chance, one piece each, half of them common ones."""
        whole = filter(None, open_tokenizer(self.vocabulary(config)).whole_words())
        every = [word for word in whole if word.isascii() and word.isalpha()]
        every = every or ["a"]
        common = [piece for piece in every if piece in _COMMON] or every
        choices = [common[number % len(common)] if is_common else every[number % len(every)] for number, is_common in
                   zip(self._random.integers(0, 1 << 30, count), self._random.random(count) < 0.5)]
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
        train = folder / (task.aug_file if augmented else task.train_file)
        if not task.is_table:
            for path, count in ((train, rows), *((folder / name, dev_rows) for name in task.dev_files)):
                if count:
                    self._passages(path, task, real, count, config)
            return folder
        wanted = [(train, rows, task.header), *((folder / name, dev_rows, task.dev_header or task.header)
                                                for name in task.dev_files)]
        for path, count, header in wanted:
            if not count:
                continue
            source = real / path.name
            if not source.is_file() and augmented and path == train and (real / task.train_file).is_file():
                self.invented.append(path.name)
                source = real / task.train_file
            if source.is_file():
                header_line, lines = sample_lines(source, count, task.has_header)
                path.write_bytes(b"".join(header_line + lines))
            else:
                self.invented.append(f"{task.name}/{path.name}")
                self._write_rows(path, task, header.split(","), count, config)
        return folder

    def _passages(self, path: Path, task: Task, real: Path, count: int, config: BertConfig) -> None:
        """Write a file of passages with about `count` questions, a sample of the real one or made up."""
        source, is_augmented = real / path.name, path.name == task.aug_file
        if is_augmented and source.is_file():
            _, lines = sample_lines(source, count, has_header=True)
            chosen = [augmented_passage(line, source) for line in lines]
        elif (real / (task.train_file if is_augmented else path.name)).is_file():
            if is_augmented:
                self.invented.append(path.name)
            chosen = list(read_passages(real / (task.train_file if is_augmented else path.name),
                                        task.head.unanswerable))
            chosen = [chosen[number] for number in self._random.permutation(len(chosen))]
        else:
            self.invented.append(f"{task.name}/{path.name}")
            chosen = self.passages(task, count, config)
        write_passages(path, task, first_questions(chosen, count))

    def passages(self, task: Task, count: int, config: BertConfig) -> Iterator[Passage]:
        """Made-up passages, as long as SQuAD's, with `count` questions; of v2.0 every third has no answer."""
        for start in range(0, count, 5):
            words = self.words(config, int(usual_windows(1, self._random)[0]) - QUESTION_WORDS - 3)
            context, questions = " ".join(words), []
            for number in range(start, min(start + 5, count)):
                first, length = self._random.integers(0, len(words) - 3), self._random.integers(1, 4)
                answer = " ".join(words[first:first + length]), len(" ".join([*words[:first], ""]))
                is_answerable = not task.head.unanswerable or number % 3
                questions.append(Question(f"made-up-{number}", " ".join(self.words(config, QUESTION_WORDS)),
                                          (answer,) if is_answerable else ()))
            yield Passage(context, tuple(questions))

    def _write_rows(self, path: Path, task: Task, columns: Sequence[str], count: int, config: BertConfig) -> None:
        mean = WORDS[len(task.text_columns)]
        lengths = self._random.poisson(mean, (count, len(task.text_columns))).clip(2)
        words = iter(self.words(config, int(lengths.sum())))
        lines = ["\t".join(columns)] if task.has_header else []
        for row in range(count):
            cells = [str(row)] * len(columns)
            for column, length in zip(task.text_columns, lengths[row]):
                cells[column] = " ".join(itertools.islice(words, int(length)))
            cells[task.label_column] = task.head.word(row % (len(task.labels) or 6))
            lines.append("\t".join(cells))
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

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
        words = self.words(config, size // 6)
        sentences = (" ".join(words[start:start + _SENTENCE_WORDS]) for start in range(0, len(words), _SENTENCE_WORDS))
        with open(path, "w", encoding="utf-8") as handle:
            for number, sentence in enumerate(sentences, 1):
                handle.write(f"{sentence}\n" + "\n" * (number % _DOCUMENT_SENTENCES == 0))
        return path
