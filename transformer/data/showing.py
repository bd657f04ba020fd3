"""What is told of a task's rows before they are written: how they will be read, classes, lengths, what is odd."""
from __future__ import annotations

from typing import Any

import numpy as np

from transformer.data.gathering import ClassNames, Rows, contradicted, repeated
from transformer.files import InputError
from transformer.pieces import Tokenizer

SHOWN_ROWS = 3

_UNBALANCED = 3           # how many times the smallest class the largest is for macro F1 to be suggested
_LENGTHS_OF = 10_000      # rows whose wordpieces are counted
_HELD, _STEP = 0.99, 32   # the length that is suggested: holds this share of the rows, a multiple of this
_LARGEST_SCORE = 10       # without a warning: twice that of STS-B, at whose rates scores are learnt
_SHOWN_CLASSES, _SHOWN_CHARACTERS = 20, 110


def shown(cells: list[str]) -> str:
    """A row for people."""
    line = " | ".join(cells)
    return line if len(line) <= _SHOWN_CHARACTERS else f"{line[:_SHOWN_CHARACTERS]}..."


def show_rows(tables: dict[str, Rows], names: ClassNames | None, metric: str) -> None:
    """Print the first rows, the classes, and what is odd; InputError where train lacks a class that is asked for."""
    train = tables["train.tsv"]
    print("The first rows as they will be read:", flush=True)
    for cells in train.examples(np.ones(len(train), bool), SHOWN_ROWS):
        print(f"  {shown(cells)}", flush=True)
    for name, rows in tables.items():
        print(f"{name}: {len(rows):,} rows" + (f", {label_shares(rows, names)}" if rows.labelled.any() else ""),
              flush=True)
        for what, mask in (("with an empty text", rows.empty), ("that repeat the texts of an earlier one",
                                                                 repeated(rows))):
            if mask.any():
                print(f"warning: {name}: {np.sum(mask):,} rows {what}", flush=True)
        if rows.labelled.any() and (mask := contradicted(rows)).any():
            print(f"warning: {name}: {np.sum(mask):,} rows have the texts of another with another label, such as "
                  f"{shown(rows.examples(mask, 1)[0])}", flush=True)
    if names:
        show_balance({name: names.counts(rows) for name, rows in tables.items() if rows.labelled.any()}, metric)


def label_shares(rows: Rows, names: ClassNames | None) -> str:
    """The classes of some rows with their counts, or how scores lie."""
    if names is None:
        low, middle, high = np.quantile(rows.labels, (0, 0.5, 1))
        return f"scores from {low:g} to {high:g}, half of them up to {middle:g}"
    counts = names.counts(rows)
    parts = [f"{name} {count:,} ({count / len(rows):.1%})" for name, count in counts.items()]
    return f"{len(parts)} classes: {', '.join(parts[:_SHOWN_CLASSES])}" + (
        f" and {len(parts) - _SHOWN_CLASSES} more" if len(parts) > _SHOWN_CLASSES else "")


def show_balance(counts: dict[str, dict[str, int]], metric: str) -> None:
    """Warn of rare and missing classes, by rows of each class of each file; InputError where train lacks one."""
    train = counts["train.tsv"]
    once = [name for name, count in train.items() if count == 1]
    if once:
        print(f"warning: train.tsv: {len(once)} labels occur once: {', '.join(once[:_SHOWN_CLASSES])}", flush=True)
    lacking = [name for name, count in train.items() if not count]
    if lacking:
        raise InputError(f"--drop_leaks leaves no row of class {lacking[0]!r} in train: drop the flag, or give more "
                         "rows")
    missing = [name for name, count in counts["dev.tsv"].items() if not count]
    if missing:
        print(f"warning: dev.tsv: no row of {', '.join(missing[:_SHOWN_CLASSES])}, which no score will tell of",
              flush=True)
    if metric == "acc" and max(train.values()) > _UNBALANCED * min(train.values()):
        print(f"The classes are unbalanced, {max(train.values()):,} rows to {min(train.values()):,}: --metric macro_f1 "
              "counts each class alike", flush=True)
    if metric == "f1":
        print(f"f1 is that of class {list(train)[1]}", flush=True)


def show_scale(answers: dict[str, Any]) -> None:
    """Warn of scores, as task.json describes them, that a new head would take long to reach: it starts at 0, and its
    weights move by about the rate in a step, 2e-5."""
    largest = max(map(abs, answers.get("range", [0])))
    if largest > _LARGEST_SCORE:
        print(f"warning: scores go up to {largest:g}, and are learnt as they are, at rates that suit STS-B's 0 to 5: "
              "divide them in your table, or give teacher and student higher rates", flush=True)


def suggest_length(train: Rows, tokenizer: Tokenizer, positions: int, asked: int | None) -> int:
    """The length `asked` for, or else one that suits the rows, of at most so many positions; says how long they are.
    In wordpieces, [CLS] and [SEP] among them."""
    mask = np.zeros(len(train), bool)
    mask[np.linspace(0, len(train) - 1, min(len(train), _LENGTHS_OF)).astype(int)] = True
    _, *columns = zip(*train.examples(mask, _LENGTHS_OF))
    lengths = sum(tokenizer.encode_texts(list(column))[1] for column in columns) + 1 + len(columns)
    held = int(np.quantile(lengths, _HELD, method="higher"))
    suggested = min(-(-held // _STEP) * _STEP, positions)
    length = asked or suggested
    print(f"Wordpieces of {len(lengths):,} rows of train, [CLS] and [SEP] among them: half up to "
          f"{int(np.median(lengths))}, {_HELD:.0%} up to {held}, the longest {lengths.max()}; max_seq_length {length} "
          f"cuts {np.mean(lengths > length):.1%}" + (
              f"; --max_seq_length {suggested} would do" if length != suggested else ""), flush=True)
    return length
