"""Rows of train_aug.tsv from those of a train.tsv: the file is surveyed first, then worker processes vary its rows."""
from __future__ import annotations

import contextlib
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from transformer.data.parallel import available_cores, in_order
from transformer.data.parts import FilePart, byte_ranges
from transformer.data.tables import report_rows, rows_of_part
from transformer.files import InputError, atomic_write, read_lines
from transformer.stopwatch import STOPWATCH
from transformer.tasks.task import Task

if TYPE_CHECKING:
    from transformer.augmentation.candidates import Candidates, MaskedWords

TRAIN_PART_BYTES = 1 << 16  # of train.tsv, a worker's task; its rows come back 20 or 40 times as big

NumberedPart = tuple[FilePart, int]  # a part of train.tsv, and the number of its first row

_augmenting_facts: tuple  # of a worker: those of write_rows()


def vary(sentence: str, words: list[str], candidates: dict[int, list[str]], tries: int, p: float,
         generator: np.random.Generator) -> list[str]:
    """At most `tries` different variants of `sentence`, none equal to it (paper, algorithm 1).

    Every try replaces each word that has candidates with probability p by a random one of them. Variants are the
    basic-tokenised words joined by spaces: a try that replaces nothing is new where the original has another form.
    """
    positions = list(candidates)
    sizes = np.array([len(candidates[i]) for i in positions], dtype=np.int64)
    replaced = generator.random((tries, len(positions))) < p
    choices = generator.integers(0, sizes, size=(tries, len(positions)))
    variants: dict[str, None] = {}
    for chosen, choice in zip(replaced, choices):
        variant = list(words)
        for i in np.flatnonzero(chosen):
            variant[positions[i]] = candidates[positions[i]][choice[i]]
        variants[" ".join(variant)] = None
    variants.pop(sentence, None)
    return list(variants)


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


def rows_in(task: Task, file_part: FilePart, width: int) -> Iterator[list[str]]:
    """Columns of the rows in a part of train.tsv, less those that are skipped."""
    return (columns for columns, _ in rows_of_part(task, file_part, width) if columns)


@STOPWATCH.part("survey")
def survey(task: Task, path: Path, width: int, words: MaskedWords) -> tuple[list[NumberedPart], np.ndarray]:
    """Read the whole file before the long work, and add its texts to `words`; InputError for bad rows and labels.

    Returns its parts, and the number of each text among the different sentences: int32 [rows, texts].
    """
    numbers, parts, skipped = array("i"), [], 0
    for start, stop in byte_ranges(path, TRAIN_PART_BYTES):
        file_part = path, start, stop
        parts.append((file_part, len(numbers) // len(task.text_columns)))
        for columns, _ in rows_of_part(task, file_part, width):
            if columns:
                numbers.extend([words.add(columns[column]) for column in task.text_columns])
            else:
                skipped += 1
    report_rows(str(path), len(numbers), skipped, width)
    if not len(words) and not words.longer:
        raise InputError(f"{path}: no word of its texts can be varied, since only words of the letters a to z that are "
                         "no stop words are: train without --aug_train")
    words.finish()
    return parts, np.frombuffer(numbers, "i").reshape(-1, len(task.text_columns))


def start_augmenting(*facts: object) -> None:
    """Keep what augment_part() needs."""
    global _augmenting_facts
    _augmenting_facts = facts


def augment_part(part: NumberedPart) -> tuple[str, Counter]:
    """The augmented rows of a part of train.tsv, as text, and counts of what they hold."""
    args, task, width, numbers, candidates = _augmenting_facts
    file_part, first_row = part
    lines, counts = [], Counter()
    for row, columns in enumerate(rows_in(task, file_part, width), first_row):
        variants = []
        for place, column in enumerate(task.text_columns):
            words, replacements, origins = candidates.find(columns[column], int(numbers[row, place]))
            generator = np.random.default_rng((args.seed, row, place))
            variants.append(vary(columns[column], words, replacements, args.N, args.p, generator))
            counts.update(origins, duplicates_dropped=args.N - len(variants[-1]))
        augmented = ["\t".join(columns) + "\n" for columns in augment_row(columns, task, variants, args.preset)]
        counts.update(rows_in=1, rows_out=len(augmented))
        lines += augmented
    return "".join(lines), counts


@STOPWATCH.part("rows")
def write_rows(output: Path, path: Path, parts: list[NumberedPart], worker_facts: tuple) -> Counter:
    """Write the augmented rows of a train.tsv, `path`, its header before them; the counts of what they hold.

    worker_facts: the command line, task, columns of a row, numbers of the texts, candidates.
    """
    _, task, _, numbers, _ = worker_facts
    counts = Counter()
    results = in_order(augment_part, parts, min(available_cores(), len(parts)), start_augmenting, worker_facts)
    with atomic_write(output) as handle, contextlib.closing(results), \
            tqdm(total=len(numbers), unit="row", desc=f"{task.name} rows", disable=None) as progress:
        if task.has_header:
            handle.write(next(read_lines(path)) + "\n")
        for text, part_counts in results:
            handle.write(text)
            counts.update(part_counts)
            progress.update(part_counts["rows_in"])
    return counts


def show_candidates(parts: list[NumberedPart], task: Task, width: int, numbers: np.ndarray, candidates: Candidates,
                    count: int) -> None:
    """Print the first different sentences and their candidates, for a person to look at."""
    shown = 0
    rows = (columns for file_part, _ in parts for columns in rows_in(task, file_part, width))
    for columns, row_numbers in zip(rows, numbers):
        for column, number in zip(task.text_columns, row_numbers):
            if number == shown < count:  # sentences are numbered as they come
                shown += 1
                print(columns[column])
                words, replacements, _ = candidates.find(columns[column], int(number))
                for i, texts in replacements.items():
                    print(f"    {words[i]}: {' '.join(texts)}", flush=True)
        if shown == count:
            return
