"""The tiny Chinese BERT of the embedded world, and the building of the world's Chinese part, which needs no other.

The BERT has the sizes of the world's other one and, like bert-base-chinese, one piece for each character, no piece with
a capital, none for curly quotes and the ellipsis, and a tokenizer_config.json that calls it cased. From random weights
it has seen TRAINING_STEPS batches of masked sentences of the encyclopedia, a matter of seconds: enough to tell
characters that stand in the same places, no more. Its head for next sentences is random.
"""
from __future__ import annotations

import random
import shutil
import string
from collections.abc import Sequence
from pathlib import Path

import torch

from transformer.files import write_json
from transformer.tokenization import TOKENIZER_CONFIG_NAME, BertTokenizer

from . import chinese
from .bert import IGNORED, LEARNING_RATE, VOCAB_NAME, MaskedWords, look_for_equal_words, pad_pairs, save
from .words import SPECIALS
from .world import MANIFEST, SEED, fingerprint, is_built, locked_world, timed

SOURCES = ("bert", "chinese", "chinese_bert", "glue_files", "wiki", "world")
BERT_FOLDER = "google-bert/bert-base-chinese"
ARTICLES = 24
TRAINING_STEPS, BATCH_SIZE = 60, 32
WITHOUT_PIECE = "“”…"


def make_vocabulary(texts: Sequence[str]) -> list[str]:
    """Pieces for the characters of these texts, ids in list order; Latin words are spelled, but for two."""
    others = sorted({character for text in texts for character in text if not character.isascii()} - {*WITHOUT_PIECE})
    letters = string.ascii_lowercase + string.digits
    return [*SPECIALS, "<S>", "<T>", *string.punctuation, *letters, *(f"##{letter}" for letter in letters),
            "wifi", "app", *others]


def train(words: MaskedWords, sentences: Sequence[str]) -> torch.nn.Module:
    """A model with random weights that has then seen some batches of the sentences, characters masked."""
    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    model, encoded = words.model(), list(map(words.tokenizer.encode, sentences))
    look_for_equal_words(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    for _ in range(TRAINING_STEPS):
        ids, segments, mask = pad_pairs(words.tokenizer, [(row, []) for row in rng.sample(encoded, BATCH_SIZE)])
        ids, labels = words.change(ids, segments, mask)
        hidden, _, _ = model.bert(ids, segments, mask)
        loss = words.loss(model, hidden[-1][labels != IGNORED], labels[labels != IGNORED])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"characters: loss {loss:.2f} after {TRAINING_STEPS} steps", flush=True)
    return model.eval()


def write_bert(directory: Path, written: Sequence[chinese.Article]) -> None:
    """The BERT as the hub's google-bert/bert-base-chinese."""
    sentences = [sentence for article in written for part in article.paragraphs for sentence in part]
    rng = random.Random(SEED)
    rows = [str(make(rng)) for make in chinese.TASKS.values() for _ in range(200)]  # characters that only they have
    folder = directory / BERT_FOLDER
    folder.mkdir(parents=True)
    (folder / VOCAB_NAME).write_text("".join(f"{piece}\n" for piece in make_vocabulary([*sentences, *rows])),
                                     encoding="utf-8", newline="\n")
    tokenizer = BertTokenizer(folder / VOCAB_NAME)
    save(train(MaskedWords(tokenizer), sentences), folder, tokenizer, "safetensors")
    write_json(folder / TOKENIZER_CONFIG_NAME, {"do_lower_case": False, "model_max_length": 512})


def ensure_chinese(directory: str | Path) -> Path:
    """Build the Chinese part in `directory`, a folder of its own, unless it stands there; returns the folder."""
    directory, seconds = Path(directory), {}
    manifest = directory / MANIFEST
    with locked_world(directory):
        if not is_built(manifest, SOURCES):
            shutil.rmtree(directory, ignore_errors=True)
            with timed("Chinese encyclopedia and tasks", seconds):
                rng = random.Random(SEED)
                written = list(chinese.articles(rng, ARTICLES))
                chinese.write_dump(directory / "wiki" / "wiki.xml.bz2", rng, written)
                chinese.write_tasks(directory, SEED)
            with timed("bert-base-chinese", seconds):
                torch.set_num_threads(1)
                write_bert(directory, written)
            write_json(manifest, {"fingerprint": fingerprint(SOURCES), "seed": SEED, "seconds": seconds})
    return directory
