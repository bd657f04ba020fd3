"""A table of somebody's own, for the front page: made-up reviews as a CSV, with what such files have in them."""
from __future__ import annotations

import csv
import random
from pathlib import Path

from transformer.files import atomic_write

from .language import judge

ROWS = 400
SUBJECTS = ("film", "hotel", "museum")  # what the class is, which most reviews name


def write_reviews(path: Path) -> None:
    """Write ROWS rows of number, review and subject. Some reviews have quotes, commas or two lines; the first ten
    come once more at the end, as in tables that grew by hand."""
    rng = random.Random("42 reviews")
    rows = []
    for number in range(1, ROWS - 9):
        subject = rng.choice(SUBJECTS)
        text = judge(rng, subject, rng.random() < 0.5)
        if number % 5 == 0:
            text = f'"{text}" they said.'
        elif number % 7 == 0:
            text = text.replace(" and ", ",\n", 1)
        rows.append((number, text, subject))
    rows += [(ROWS - 10 + number, *rest) for number, *rest in rows[:10]]
    with atomic_write(path) as handle:
        csv.writer(handle).writerows([("number", "review", "subject"), *rows])
