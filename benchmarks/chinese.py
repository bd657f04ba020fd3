"""Chinese for benchmarks, made up: text, and a vocabulary of the make and size of bert-base-chinese's."""
from __future__ import annotations

import random
import string
from collections.abc import Iterator
from pathlib import Path

_CHARACTERS = [chr(0x4E00 + number) for number in range(7321)]  # as many as bert-base-chinese has as one piece
_IN_TEXTS = 3500  # of these; the twenty most frequent make a sixth of a text
_MARKS = "，。！？；：、《》（）"
_PIECES = 21128


def chinese_sentences(seed: int = 0) -> Iterator[str]:
    """Sentences of clauses of characters, without end; in one clause of ten a Latin word or a number."""
    rng = random.Random(seed)
    cumulated, total = [], 0.0
    for rank in range(_IN_TEXTS):
        total += 1 / (rank + 15)
        cumulated.append(total)

    def clause() -> str:
        characters = "".join(rng.choices(_CHARACTERS[:_IN_TEXTS], cum_weights=cumulated, k=rng.randint(4, 16)))
        if rng.random() > 0.1:
            return characters
        letters = string.digits if rng.random() < 0.5 else string.ascii_lowercase
        return characters + "".join(rng.choices(letters, k=rng.randint(2, 6))).capitalize()

    while True:
        yield "，".join(clause() for _ in range(rng.randint(1, 5))) + rng.choice("。。。！？；")


def write_vocabulary(path: Path) -> Path:
    """A vocabulary: special tokens, characters alone and with ##, Latin pieces, and unused ones up to the size."""
    latin = string.ascii_lowercase + string.digits
    words = [*_CHARACTERS, *_MARKS, *string.punctuation, *latin, *(a + b for a in latin for b in latin)]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *(f"##{word}" for word in words if word.isalnum())]
    pieces += [f"[unused{number}]" for number in range(_PIECES - len(pieces))]
    path.write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
    return path
