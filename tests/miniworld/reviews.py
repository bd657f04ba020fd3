"""A table of somebody's own, for the front page: made-up reviews as a CSV, with what such files have in them."""
from __future__ import annotations

import csv
import random
from pathlib import Path

from transformer.files import atomic_write

from .glue_examples import examples

ROWS = 400
OPINIONS = {"0": "complaint", "1": "praise"}


def write_reviews(path: Path, seed: int = 42, count: int = ROWS) -> None:
    """Write `count` rows of number, review and opinion. Some reviews have quotes, commas or two lines; the first ten
    come once more at the end, as in tables that grew by hand."""
    rng = random.Random(f"{seed} reviews")
    rows = []
    for number, ((text,), label) in enumerate(examples("SST-2", rng, count - 10), 1):
        text = text.strip()
        if number % 5 == 0:
            text = f'"{text}", they said'
        elif number % 7 == 0:
            text = text.replace(" and ", ",\n", 1)
        rows.append((number, text, OPINIONS[label]))
    rows += [(count - 10 + number, *rest) for number, *rest in rows[:10]]
    with atomic_write(path) as handle:
        csv.writer(handle).writerows([("number", "review", "opinion"), *rows])
