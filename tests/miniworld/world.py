"""Building the embedded world into a folder that is laid out as the server offers it."""
from __future__ import annotations

import contextlib
import fcntl
import hashlib
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from transformer.files import read_json, write_json
from transformer.tasks.table import get_task
from transformer.tokenization import BasicTokenizer

from .glue_examples import EXAMPLES, examples
from .glue_files import Counts, write_archive, write_glue
from .language import Article, articles
from .squad_files import write_squad
from .wiki import write_dump
from .words import glove_lines, make_vocabulary, word_vectors

SEED = 7
ARTICLES = 900
FULL = Counts(train=1000, dev=300, test=100)
NANO = Counts(train=40, dev=32, test=8)  # under /nano/, for a quick walk through every command
GLOVE_NAME = "glove.840B.300d"           # the name the README unpacks; the vectors are smaller
SIBLINGS = {"MRPC": "safetensors", "SST-2": "bin", "CoLA": "old", "RTE": "safetensors"}  # and their file layouts
MANIFEST = "manifest.json"
SOURCES = ("bert", "glue_examples", "glue_files", "language", "squad_files", "wiki", "words", "world")


def fingerprint() -> str:
    """SHA-256 over the sources of the generator: another generator makes another world."""
    digest = hashlib.sha256()
    for name in SOURCES:
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; the system frees it when the process ends, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def ensure_world(directory: str | Path) -> Path:
    """Build the world in `directory` unless it stands there, whole and of these sources; returns the folder.

    The manifest is written last, so what a killed build left is made again. One process builds, others wait.
    """
    directory = Path(directory)
    with _locked(directory.with_name(f".{directory.name}.lock")):
        manifest = directory / MANIFEST
        if not manifest.is_file() or read_json(manifest)["fingerprint"] != fingerprint():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)
            write_json(manifest, {"fingerprint": fingerprint(), "seed": SEED, "seconds": build(directory)})
    return directory


def build(directory: Path) -> dict[str, float]:
    """Make all parts of the world; returns the seconds that each took."""
    seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def part(name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        seconds[name] = round(time.perf_counter() - begin, 1)
        print(f"embedded world: {name} in {seconds[name]} s", flush=True)

    with part("encyclopedia"):
        written = list(articles(random.Random(SEED), ARTICLES))
        write_dump(directory / "wiki" / "wiki.xml.bz2", SEED, written)
    with part("GLUE"):
        write_glue(directory, SEED, FULL)
        write_glue(directory / "nano", SEED + 1, NANO)
    with part("SQuAD"):
        write_squad(directory, SEED, FULL)
        write_squad(directory / "nano", SEED + 1, NANO)
    with part("words"):
        vocabulary = write_words(directory, written)
    with part("bert-base-uncased"):
        import torch  # only here: a world that is there needs none
        torch.set_num_threads(1)  # tensors this small gain little from a second core, and lose much where it is busy
        model, tokenizer = write_bert(directory, vocabulary, written)
    with part("its siblings"):
        write_siblings(directory, model, tokenizer)
    return seconds


def write_words(directory: Path, written: list[Article]) -> list[str]:
    """Word vectors as a zipped GloVe file; returns the vocabulary of wordpieces."""
    split = BasicTokenizer().tokenize
    sentences = [split(sentence) for article in written for sentence in article.sentences]
    words, vectors = word_vectors(sentences)
    write_archive(directory / "glove" / f"{GLOVE_NAME}.zip",
                  {f"{GLOVE_NAME}.txt": "".join(glove_lines(words, vectors))})
    seen = Counter(word for sentence in sentences for word in sentence)
    for task in EXAMPLES:
        rows = examples(task, random.Random(SEED), 500)  # words that only the tasks have
        seen.update(word for texts, _ in rows for text in texts for word in split(text))
    return make_vocabulary(seen)


def write_bert(directory: Path, vocabulary: list[str], written: list[Article]):
    """BERT, pre-trained on the articles, as the hub's google-bert/bert-base-uncased; returns it and its tokenizer."""
    from . import bert
    folder = directory / "google-bert" / "bert-base-uncased"
    folder.mkdir(parents=True)
    (folder / bert.VOCAB_NAME).write_text("".join(f"{piece}\n" for piece in vocabulary), newline="\n")
    tokenizer = bert.BertTokenizer(folder / bert.VOCAB_NAME)
    lives = [article.sentences for article in written if article.kind == "person"]
    model = bert.pretrain(tokenizer, [article.sentences for article in written], lives, SEED)
    bert.save(model, folder, tokenizer, "safetensors")
    return model, tokenizer


def write_siblings(directory: Path, model, tokenizer) -> None:
    """BERT fine-tuned on tasks, as the hub's JeremiahZ/bert-base-uncased-TASK."""
    from . import bert
    for name, layout in SIBLINGS.items():
        task = get_task(name)
        rows = examples(name, random.Random(f"{SEED} sibling {name}"), FULL.train)
        labels = [task.labels.index(label) for _, label in rows]
        sibling = bert.finetune(model, tokenizer, task, [texts for texts, _ in rows], labels, SEED)
        bert.save(sibling, directory / "JeremiahZ" / f"bert-base-uncased-{task.key}", tokenizer, layout, task)
