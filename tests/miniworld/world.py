"""Building the embedded world into a folder that is laid out as the server offers it."""
from __future__ import annotations

import contextlib
import fcntl
import hashlib
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
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
BERT_FOLDER = "google-bert/bert-base-uncased"
MANIFEST = "manifest.json"
SOURCES = ("bert", "glue_examples", "glue_files", "language", "squad_files", "wiki", "words", "world")


def fingerprint(sources: Sequence[str] = SOURCES) -> str:
    """SHA-256 over the sources of the generator: another generator makes another world."""
    digest = hashlib.sha256()
    for name in sources:
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return digest.hexdigest()


def is_built(manifest: Path, sources: Sequence[str]) -> bool:
    """Whether what the manifest stands for is there, whole and of these sources: it is written last."""
    return manifest.is_file() and read_json(manifest)["fingerprint"] == fingerprint(sources)


@contextlib.contextmanager
def locked_world(directory: Path) -> Iterator[None]:
    """Hold a world's lock: one process builds, others wait. The system frees it when the process ends, however it ends.
    """
    path = directory.with_name(f".{directory.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def timed(name: str, seconds: dict[str, float]) -> Iterator[None]:
    """Print how long a part took, and put it into `seconds`."""
    begin = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - begin, 1)
    print(f"embedded world: {name} in {seconds[name]} s", flush=True)


def ensure_world(directory: str | Path) -> Path:
    """Build the world in `directory` unless it stands there; returns the folder. What a killed build left is made
    again."""
    directory = Path(directory)
    with locked_world(directory):
        manifest = directory / MANIFEST
        if not is_built(manifest, SOURCES):
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)
            write_json(manifest, {"fingerprint": fingerprint(), "seed": SEED, "seconds": build(directory)})
    return directory


def world_articles() -> list[Article]:
    """The encyclopedia of this world."""
    return list(articles(random.Random(SEED), ARTICLES))


def build(directory: Path) -> dict[str, float]:
    """Make all parts of the world; returns the seconds that each took."""
    seconds: dict[str, float] = {}
    with timed("encyclopedia", seconds):
        written = world_articles()
        write_dump(directory / "wiki" / "wiki.xml.bz2", SEED, written)
    with timed("GLUE", seconds):
        write_glue(directory, SEED, FULL)
        write_glue(directory / "nano", SEED + 1, NANO)
    with timed("SQuAD", seconds):
        write_squad(directory, SEED, FULL)
        write_squad(directory / "nano", SEED + 1, NANO)
    with timed("words", seconds):
        vocabulary = write_words(directory, written)
    with timed("bert-base-uncased", seconds):
        import torch  # only here: a world that is there needs none
        torch.set_num_threads(1)  # tensors this small gain little from a second core, and lose much where it is busy
        model, tokenizer = write_bert(directory, vocabulary, written)
    with timed("its siblings", seconds):
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


def sentences_of(written: list[Article]) -> tuple[list[Sequence[str]], list[Sequence[str]]]:
    """Those of each article, and those of each that tells of a person."""
    return ([article.sentences for article in written],
            [article.sentences for article in written if article.kind == "person"])


def write_bert(directory: Path, vocabulary: list[str], written: list[Article]):
    """BERT, pre-trained on the articles, as the hub's google-bert/bert-base-uncased; returns it and its tokenizer."""
    from . import bert
    folder = directory / BERT_FOLDER
    folder.mkdir(parents=True)
    (folder / bert.VOCAB_NAME).write_text("".join(f"{piece}\n" for piece in vocabulary), newline="\n")
    tokenizer = bert.BertTokenizer(folder / bert.VOCAB_NAME)
    model = bert.pretrain(bert.MaskedWords(tokenizer), *sentences_of(written), SEED)
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
