"""Rows of tables of others as they will stand in a task's files, and what there is to know of them: which are told
apart, which classes there are, which rows are double, which become a dev set.

A row is kept as its line on the disk, beside a number for its label and one for its texts: 14 to 18 bytes of memory.
"""
from __future__ import annotations

import functools
import hashlib
import itertools
import math
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any

import numpy as np

from transformer.data.foreign import ForeignTable
from transformer.files import InputError
from transformer.tasks.clue_files import as_cell

MAX_CLASSES = 1000

_NO_CLASS = -1
_NO_LABEL = "-1"        # what Hugging Face's datasets write where there is no class
_MOST = 0.9             # more of the classes than this, each of one row: texts, or scores
_BINS = 10              # of scores, from which a dev set takes its share each
_WHOLE = re.compile(r"([+-]?[0-9]+)\.0+")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")  # Python refuses to read one of thousands of digits


@dataclass(frozen=True)
class Rows:
    """Rows in the order in which they came; those `chosen` of all that were gathered.

    file: their lines, `label<TAB>text`, or two texts, with an empty label where there is none; chosen: bool [lines];
    all_labels: int32 class numbers or float64 scores [lines]; all_texts: uint64 [lines], the same for the same texts;
    all_empty: bool [lines], whether a text is empty.
    """
    file: IO[bytes]
    chosen: np.ndarray
    all_labels: np.ndarray
    all_texts: np.ndarray
    all_empty: np.ndarray

    def __len__(self) -> int:
        return int(np.count_nonzero(self.chosen))

    @property
    def labels(self) -> np.ndarray:
        """The labels of the chosen."""
        return self.all_labels[self.chosen]

    @property
    def texts(self) -> np.ndarray:
        """The numbers of the texts of the chosen."""
        return self.all_texts[self.chosen]

    @property
    def empty(self) -> np.ndarray:
        """Whether a text of the chosen is empty."""
        return self.all_empty[self.chosen]

    @property
    def labelled(self) -> np.ndarray:
        """bool [chosen]: whether a row has a label."""
        return ~np.isnan(self.labels) if self.all_labels.dtype.kind == "f" else self.labels != _NO_CLASS

    def only(self, mask: np.ndarray) -> Rows:
        """Those of the chosen for which the mask, bool [chosen], is true."""
        chosen = self.chosen.copy()
        chosen[chosen] = mask
        return replace(self, chosen=chosen)

    def lines(self, with_label: bool = True) -> Iterator[bytes]:
        """The lines of the chosen, with their ends; without label the texts alone."""
        self.file.seek(0)
        lines = itertools.compress(self.file, self.chosen.tolist())
        return lines if with_label else (line.partition(b"\t")[2] for line in lines)

    def examples(self, mask: np.ndarray, count: int) -> list[list[str]]:
        """The cells, label first, of the first rows for which the mask, bool [chosen], is true."""
        return [line.decode().removesuffix("\n").split("\t")
                for line in itertools.islice(self.only(mask).lines(), count)]


class ClassNames:
    """Labels that are classes: their numbers, as they turn up in train. What comes later has to be among them.

    told: the names, in their order, where the table tells them; else none.
    """
    typecode = "i"  # of array, of what read() gives

    def __init__(self, told: Sequence[str]):
        self.numbers: dict[str, int] = {}
        self._told = [label_text(name, str) for name in told]
        self._closed = False

    def read(self, value: Any, place: Callable[[], str]) -> tuple[str, int]:
        """The name and the number of a label: a text, a whole number, or true or false; empty where there is none, or
        -1 that is no class of train."""
        text = label_text(value, place)
        number = self.numbers.get(text)
        if not text or (number is None and self._closed and text == _NO_LABEL):
            return "", _NO_CLASS
        if number is None:
            if self._closed:
                raise InputError(f"{place()}: label {text[:50]!r}, which the train file lacks; it has "
                                 f"{', '.join(sorted(self.numbers)[:20])}: take the row out, or give the train file "
                                 "rows of that class")
            number = self.numbers[text] = len(self.numbers)
            if number >= MAX_CLASSES:
                self._refuse(f"more than {MAX_CLASSES:,} classes", place())
        return text, number

    def settle(self, rows: Rows, label: str) -> None:
        """Take no more classes than the rows of train have, numbered in order, in the rows, too; InputError where
        these have one, or so many that the column `label` holds something else."""
        count = len(self.numbers)
        if count == 1:
            raise InputError(f"column {label!r} says {next(iter(self.numbers))!r} in every row: a classifier needs two "
                             "classes")
        once = np.count_nonzero(np.bincount(rows.labels) == 1)
        if count > 2 and count > len(rows) // 2 and once > _MOST * count:
            self._refuse(f"{count:,} classes in {len(rows):,} rows", f"column {label!r}")
        self._closed = True
        found, self.numbers = self.numbers, {name: number for number, name in enumerate(self.in_order())}
        rows.all_labels[:] = np.array([*(self.numbers[name] for name in found), _NO_CLASS])[rows.all_labels]

    def _refuse(self, what: str, where: str) -> None:
        first = next(iter(self.numbers))
        if all(map(_says_number, self.numbers)):
            raise InputError(f"{where}: {what}, and all are numbers: did you mean --regression?")
        raise InputError(f"{where}: {what}, such as {first[:50]!r}: that is a column of texts, not of labels; --label "
                         "names that of the labels")

    def in_order(self) -> list[str]:
        """The names in the order of the table where it tells one; else sorted: as numbers where all are whole numbers,
        else as texts."""
        names = list(self.numbers)
        if set(names) <= set(self._told):
            return sorted(names, key=self._told.index)
        return sorted(names, key=int) if all(map(_INTEGER.fullmatch, names)) else sorted(names)

    def counts(self, rows: Rows) -> dict[str, int]:
        """Rows of each class, in order."""
        counts = np.bincount(rows.labels[rows.labelled], minlength=len(self.numbers))
        return {name: int(counts[self.numbers[name]]) for name in self.in_order()}

    def described(self, _: Iterable[Rows]) -> dict[str, Any]:
        """As task.json has it."""
        return {"kind": "classes", "labels": self.in_order()}


def _says_number(text: str) -> bool:
    try:
        return math.isfinite(_number(text))
    except ValueError:
        return False


def _number(text: str) -> float:
    """The number that a text says; ValueError for none, and for what is one to Python alone."""
    return float("" if "_" in text or not text.isascii() else text)


class ScoreRange:
    """Labels that are numbers, from `low` to `high` where these are given."""
    typecode = "d"  # of array, of what read() gives

    def __init__(self, low: float = -math.inf, high: float = math.inf):
        self.low, self.high = low, high

    def settle(self, rows: Rows, label: str) -> None:
        """InputError where all rows of train have one score."""
        if np.ptp(rows.labels) == 0:
            raise InputError(f"column {label!r} says {rows.labels[0]:g} in every row: there is nothing to learn")

    def described(self, tables: Iterable[Rows]) -> dict[str, Any]:
        """As task.json has it; the range is that of all tables where none was given."""
        if math.isfinite(self.low):
            return {"kind": "score", "range": [self.low, self.high]}
        labels = np.concatenate([rows.labels[rows.labelled] for rows in tables])
        return {"kind": "score", "range": [float(labels.min()), float(labels.max())]}

    def read(self, value: Any, place: Callable[[], str]) -> tuple[str, float]:
        """A score as it is written, and as a number; empty and NaN where there is none."""
        text = label_text(value, place)
        try:
            score = _number(text or "nan")
        except ValueError:
            raise InputError(f"{place()}: score {text[:50]!r} is no number: drop --regression if these are classes, or "
                             "mend the row; a decimal mark is a point") from None
        if math.isnan(score):
            return "", math.nan
        if not self.low <= score <= self.high or math.isinf(score):
            raise InputError(f"{place()}: score {text[:50]} is outside of {self.low:g} to {self.high:g}")
        return label_text(score, place), score


def label_text(value: Any, place: Callable[[], str]) -> str:
    """A label as the same from whatever file it came: without spaces around it, a whole number without decimals (1.0
    is 1); empty where it is missing. InputError for a list or the like."""
    text = as_cell(_as_text(value, place)).strip()
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def _as_text(value: Any, place: Callable[[], str]) -> str:
    if isinstance(value, str):
        return value
    if value is None or value != value:  # NaN, as pandas has it for what is missing
        return ""
    if not isinstance(value, (bool, int, float)):
        raise InputError(f"{place()}: {str(value)[:50]!r} is a {type(value).__name__}, where a text is expected, or a "
                         "number")
    return str(value)


def gather(sources: Sequence[ForeignTable], texts: Sequence[str], label: str | None, reader: ClassNames | ScoreRange,
           file: IO[bytes], seed: int) -> Rows:
    """Read the rows of some tables into a file that is open for both.

    texts, label: the columns; seed: of the numbers of texts, by which held_out() chooses; texts that differ in spaces
    alone, which no model sees, have the same. Raises InputError as ForeignTable.rows() and reader.read() do.
    """
    key = seed.to_bytes(8, "little")
    digests, empty, labels = bytearray(), bytearray(), array(reader.typecode)
    columns = [*texts, *([label] if label else [])]
    for source in sources:
        for number, values in source.rows(columns):
            place = functools.partial(source.place, number)
            name, value = reader.read(values.pop() if label else None, place)
            cells = [as_cell(_as_text(text, place)) for text in values]
            seen = [" ".join(cell.split()) for cell in cells]
            empty.append(not all(seen))
            digests += hashlib.blake2b("\t".join(seen).encode(), digest_size=8, key=key).digest()
            labels.append(value)
            file.write("\t".join((name, *cells)).encode() + b"\n")
    return Rows(file, np.ones(len(labels), bool), np.array(labels), np.frombuffer(bytes(digests), "<u8"),
                np.frombuffer(bytes(empty), bool))


def held_out(rows: Rows, share: float) -> np.ndarray:
    """bool [rows]: which of them make a dev set: of each class, or each tenth of the range of scores, this share of the
    different texts, at least one and never all.

    All rows of a text go to the same side; of several labels the lowest counts. Which texts come first follows from
    them and gather()'s seed alone, and not from the order of the rows.
    """
    order = np.lexsort((rows.labels, rows.texts))
    texts, first = np.unique(rows.texts[order], return_index=True)
    strata = rows.labels[order[first]]
    if strata.dtype.kind == "f":
        strata = np.floor((strata - strata.min()) / (np.ptp(strata) or 1) * _BINS).clip(max=_BINS - 1).astype(int)
    held = np.zeros(len(texts), bool)
    for stratum in np.unique(strata):
        of_stratum = np.flatnonzero(strata == stratum)  # in the order of their hashes: at random
        held[of_stratum[:min(max(round(share * len(of_stratum)), 1), len(of_stratum) - 1)]] = True
    return np.isin(rows.texts, texts[held])


def repeated(rows: Rows) -> np.ndarray:
    """bool [rows]: whether an earlier row has the same texts."""
    mask = np.ones(len(rows), bool)
    mask[np.unique(rows.texts, return_index=True)[1]] = False
    return mask


def contradicted(rows: Rows) -> np.ndarray:
    """bool [rows]: whether a row with the same texts has another label."""
    texts, number = np.unique(rows.texts, return_inverse=True)
    lowest, highest = np.full(len(texts), np.inf), np.full(len(texts), -np.inf)
    np.minimum.at(lowest, number, rows.labels)
    np.maximum.at(highest, number, rows.labels)
    return (lowest < highest)[number]
