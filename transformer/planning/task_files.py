"""What a plan and a rehearsal ask of the files of a task. All that differs between tables of rows and passages with
windows over them stands in transformer.planning.table_files and transformer.planning.passage_files.
"""
from __future__ import annotations

import argparse
import contextlib
import functools
import io
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, ClassVar, TypeVar

import numpy as np

from transformer.data.features import Sequences
from transformer.pieces import Tokenizer
from transformer.planning.languages import Language
from transformer.tasks.task import Task

Counted = TypeVar("Counted")
SAMPLE = 2000             # examples that the lengths of a file are judged by
_READ_WHOLE = 32 << 20    # bytes of a file whose lines are all looked at for a sample


@dataclass(frozen=True)
class TaskFiles(ABC):
    """The files of a task in a language, as a command with these args, resolved, reads them.

    Examples are what is trained on and scored: rows, or windows. What is augmented are rows, or passages, with `texts`
    that are varied in turn.
    """
    task: Task
    language: Language
    args: argparse.Namespace | None = None

    assumed_count: ClassVar[str]  # what is taken for the examples of a file that is not there, for people

    @property
    @abstractmethod
    def assumed_lengths(self) -> str:
        """And for their lengths."""

    @property
    @abstractmethod
    def official(self) -> tuple[int, ...]:
        """Examples of the official train file and of each dev file."""

    @property
    @abstractmethod
    def texts(self) -> int:
        """Texts of what is augmented."""

    @property
    @abstractmethod
    def kept_bytes(self) -> float:
        """Of the teacher's logits of an example, as a prediction stage keeps them beside what augmentation leaves."""

    @abstractmethod
    def augmented_bytes(self, words: float, length: float) -> float:
        """Of a row or passage that augmentation makes, with what task distillation makes of it. words, length: as of
        the Work that augments."""

    @abstractmethod
    def count(self, path: Path) -> int:
        """Examples of a file that is there. InputError as the script's that reads it."""

    @abstractmethod
    def lengths(self, path: Path) -> np.ndarray:
        """Wordpieces of examples of a file, judged by its words, cut nowhere: float64; usual ones where it is not
        there."""

    @abstractmethod
    def to_augment(self, path: Path) -> tuple[int, float, list[str]]:
        """Of a train file, whether it is there or not: what is to be augmented, the mean words of each, and what was
        assumed, for people."""

    @abstractmethod
    def copy_some(self, source: Path, path: Path, count: int, random: np.random.Generator) -> None:
        """Write some `count` rows or questions of a file by chance, as the task's file of the name that `path` has."""

    @abstractmethod
    def make_up(self, path: Path, count: int, words: Callable[[int], list[str]], random: np.random.Generator) -> None:
        """Write the task's file of the name that `path` has, with `count` made-up rows or questions. words: as many
        words as it is asked for."""

    @abstractmethod
    def encode(self, path: Path, tokenizer: Tokenizer) -> Sequences:
        """The examples of a file, read by one process."""

    def augmented(self, count: int, copies: int) -> int:
        """The most that augmentation, or examples of what it makes, can be of so many."""
        return count * (1 + copies * self.texts)

    def padded_length(self, path: Path, batch_size: int) -> float:
        """Mean wordpieces of the examples of a file after padding to the longest of batch_size, judged by its words."""
        longest, lengths = self.args.max_seq_length, self.lengths(path)
        order = np.random.default_rng(0).permutation(len(lengths))[:SAMPLE]
        parts = np.array_split(lengths[order].clip(max=longest), max(1, len(order) // batch_size))
        return float(np.mean([part.max() for part in parts])) if len(lengths) else longest

    def reading(self, path: Path, tokenizer: Tokenizer, place: Path) -> float:
        """Seconds that one core takes to read an example of a file. place: a folder for a larger one."""
        source = self.enlarged(path, place)
        begin = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            examples = self.encode(source, tokenizer)
        return (time.perf_counter() - begin) / len(examples)

    def enlarged(self, path: Path, place: Path) -> Path:
        """A file that takes long enough to read for a time to tell, in a folder for it: this one, or a larger one."""
        return path

    def variety(self, sample: Path, real: Path) -> float:
        """How many times as many different texts a row of a sample has as one of the real file."""
        return 1.0


def once_for_each_file(function: Callable[..., Counted]) -> Callable[..., Counted]:
    """A cache for a function of a task, the path of a file, and numbers; a file in the place of another is another."""
    known: dict[tuple, Counted] = {}

    @functools.wraps(function)
    def remembered(task: Task, path: Path, *numbers: int) -> Counted:
        status = path.stat()
        key = task, path, status.st_ino, status.st_size, status.st_mtime_ns, *numbers
        if key not in known:
            known[key] = function(task, path, *numbers)
        return known[key]
    return remembered


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
