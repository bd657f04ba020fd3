"""SQuAD's files, and the windows that a model reads them through."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Question:
    """A question about a passage. answers: (text, its first character in the passage), those that people gave; empty
    where it is unanswerable, and None where the file tells no answers."""
    id: str
    text: str
    answers: tuple[tuple[str, int], ...] | None


@dataclass(frozen=True)
class Passage:
    """A paragraph and the questions about it."""
    context: str
    questions: tuple[Question, ...]


def read_passages(path: str | Path, unanswerable: bool, has_answers: bool = True) -> Iterator[Passage]:
    """The passages of a SQuAD file, checked, one article in memory at a time. unanswerable: of v2.0."""
    raise NotImplementedError
