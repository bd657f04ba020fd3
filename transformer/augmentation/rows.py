"""Rows of train_aug.tsv from those of a train.tsv."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from transformer.augmentation.variants import PART_BYTES, Examples
from transformer.data.parts import FilePart, byte_ranges
from transformer.data.tables import report_rows, row_width, rows_of_part
from transformer.files import read_lines
from transformer.tasks.task import Task


class TableExamples(Examples):
    """The rows of a train.tsv; an example is the list of its columns."""

    def __init__(self, task: Task, folder: Path):
        super().__init__(task, folder)
        self.width = row_width(task, self.path)
        self.texts = len(task.text_columns)

    def parts(self) -> list[FilePart]:
        """Byte ranges of whole lines."""
        return [(self.path, start, stop) for start, stop in byte_ranges(self.path, PART_BYTES)]

    def read(self, part: FilePart) -> Iterator[list[str] | None]:
        """The columns of each row, whose label is read, too; None where there are too few of QQP's."""
        return (columns for columns, _ in rows_of_part(self.task, part, self.width))

    def report(self, count: int, skipped: int) -> None:
        """As report_rows() does."""
        report_rows(str(self.path), count, skipped, self.width)

    def texts_of(self, example: list[str]) -> list[str]:
        """Those in the task's columns of text."""
        return [example[column] for column in self.task.text_columns]

    def first_line(self) -> str | None:
        """The header of train.tsv."""
        return next(read_lines(self.path)) if self.task.has_header else None

    def rows(self, example: list[str], variants: list[list[str]], preset: str) -> Iterator[str]:
        """augment_row() as lines."""
        return map("\t".join, augment_row(example, self.task, variants, preset))


def augment_row(columns: list[str], task: Task, variants: list[list[str]], preset: str) -> Iterator[list[str]]:
    """Rows for one row of train.tsv: itself, then each text in turn varied. variants: one list per text column.

    The other text stays the original. In the code preset the second text varies beside the first one's last variant,
    and the row that holds that (the original where there is none) comes once more before.
    """
    row = columns
    for place, (column, texts) in enumerate(zip(task.text_columns, variants)):
        beside = row if preset == "code" else columns  # the published code leaves it standing
        if place == 0 or preset == "code":
            yield beside
        for text in texts:
            row = [*beside[:column], text, *beside[column + 1:]]
            yield row
