"""Tables of rows, as GLUE, CLUE and one's own data are, for a plan and a rehearsal."""
from __future__ import annotations

import contextlib
import io
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from transformer.data.features import Sequences, encode_file
from transformer.data.tables import read_rows
from transformer.files import read_json
from transformer.pieces import Tokenizer
from transformer.planning.languages import ROW_LENGTHS, count_words, usual_words
from transformer.planning.task_files import SAMPLE, TaskFiles, once_for_each_file, sample_lines
from transformer.tasks.task import Task

_READING_BYTES = 2 << 20  # of rows whose reading is measured


class TableFiles(TaskFiles):
    """The tables of a task: an example is a row, and so is what is augmented."""
    assumed_count = "as many rows as the official files have"
    kept_bytes = 0.0  # augmented_bytes() has them

    @property
    def assumed_lengths(self) -> str:
        """See lengths()."""
        return "rows as long as those of the official train file" if self.task.key in ROW_LENGTHS else \
            "every sequence as long as it can be"

    @property
    def official(self) -> tuple[int, ...]:
        """Those of the task's table."""
        return self.task.rows

    @property
    def texts(self) -> int:
        """The columns of text."""
        return len(self.task.text_columns)

    def augmented_bytes(self, words: float, length: float) -> float:
        """The row, its array, and the teacher's logits."""
        return words * self.language.word_bytes + 2 * length * self.texts + 4 * self.task.num_labels

    def count(self, path: Path) -> int:
        """The rows; those of an augmented file as its record tells them, if it does."""
        record = path.with_suffix(".json")
        known = read_json(record).get("rows_out") if path.name == self.task.aug_file and record.is_file() else None
        return known if isinstance(known, int) else _count_rows(self.task, path)

    def lengths(self, path: Path) -> np.ndarray:
        """Those of the first rows; usual are those of the official train file, or else the longest sequence."""
        if path.is_file():
            words = _words_of(self.task, path)
        elif self.task.key in ROW_LENGTHS:
            mean, shape = ROW_LENGTHS[self.task.key]
            words = np.random.default_rng(0).gamma(shape, mean / shape, SAMPLE)
        else:
            return np.full(1, self.args.max_seq_length, np.float64)
        return words * self.language.pieces + 1 + self.texts

    def to_augment(self, path: Path) -> tuple[int, float, list[str]]:
        """All rows, and the words of the first."""
        if path.is_file():
            return self.count(path), float(_words_of(self.task, path).mean()), []
        usual = usual_words(self.task)
        return self.official[0], usual * self.texts, [self.assumed_count, f"{usual} words in a text"]

    def copy_some(self, source: Path, path: Path, count: int, random: np.random.Generator) -> None:
        """The header, and rows."""
        header, lines = sample_lines(source, count, self.task.has_header)
        path.write_bytes(b"".join(header + lines))

    def make_up(self, path: Path, count: int, words: Callable[[int], list[str]], random: np.random.Generator) -> None:
        """Texts of about the usual words, and the labels in turn."""
        task = self.task
        header = path.name in task.dev_files and task.dev_header or task.header
        lengths = random.poisson(usual_words(task), (count, self.texts)).clip(2)
        of_texts = iter(words(int(lengths.sum())))
        lines = [header.replace(",", "\t")] if task.has_header else []
        for row in range(count):
            cells = [str(row)] * (header.count(",") + 1)
            for column, length in zip(task.text_columns, lengths[row]):
                cells[column] = self.language.between.join(itertools.islice(of_texts, int(length)))
            cells[task.label_column] = task.head.word(row % (len(task.labels) or 6))
            lines.append("\t".join(cells))
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def encode(self, path: Path, tokenizer: Tokenizer) -> Sequences:
        """See TaskFiles."""
        return encode_file(self.task, path, tokenizer, self.args.max_seq_length, num_workers=1)

    def enlarged(self, path: Path, place: Path) -> Path:
        """Its rows, again and again."""
        with open(path, "rb") as handle:
            header, lines = handle.readline() if self.task.has_header else b"", handle.readlines()
        count = math.ceil(_READING_BYTES / sum(map(len, lines))) * len(lines)
        copy = place / "read.tsv"
        copy.write_bytes(header + b"".join(itertools.islice(itertools.cycle(lines), count)))
        return copy

    def variety(self, sample: Path, real: Path) -> float:
        """A text is masked once, however many rows have it."""
        if not real.is_file():
            return 1.0
        return self._different_texts(sample) / self.count(sample) / (self._different_texts(real) / self.count(real))

    def _different_texts(self, path: Path) -> int:
        with open(path, "rb") as handle:
            rows = (line.rstrip(b"\n").split(b"\t") for line in itertools.islice(handle, self.task.has_header, None))
            return len({hash(row[column]) for row in rows if len(row) >= self.task.train_columns
                        for column in self.task.text_columns})


@once_for_each_file
def _count_rows(task: Task, path: Path) -> int:
    with contextlib.redirect_stdout(io.StringIO()):
        return sum(1 for _ in read_rows(task, path))


@once_for_each_file
def _words_of(task: Task, path: Path) -> np.ndarray:
    """Words in the texts of each of the first rows of a file: int64 [rows]."""
    with contextlib.redirect_stdout(io.StringIO()):
        rows = list(itertools.islice(read_rows(task, path), SAMPLE))
    return np.array([sum(count_words(columns[column]) for column in task.text_columns) for _, columns in rows])
