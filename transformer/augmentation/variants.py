"""Variants of the texts of a training file: it is surveyed first, then worker processes vary its examples."""
from __future__ import annotations

import contextlib
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from transformer.data.parallel import available_cores, in_order
from transformer.files import InputError, atomic_write
from transformer.stopwatch import STOPWATCH
from transformer.tasks.task import Task
from transformer.tokenization import CJK_CLASS, is_ideograph

if TYPE_CHECKING:
    from transformer.augmentation.candidates import Candidates, MaskedWords

PART_BYTES = 1 << 16  # of a training file, about, a worker's task; its rows come back 20 or 40 times as big

_CHINESE = f"{CJK_CLASS}\u3000-\u303f\uff01-\uff65"
_SPACE_IN_CHINESE = re.compile(f"(?<=[{_CHINESE}]) (?=[{_CHINESE}])")

_augmenting_facts: tuple  # of a worker: those of write_rows()


class Examples:
    """The examples of a training file, of which an augmented file is made; each kind of file is a subclass.

    Made of a task and its folder: InputError where the file cannot be one of that task's. texts: those of an example
    that are varied; path: the file. A part of it is what one worker takes; examples are its own lines of Python.
    """
    texts: int

    def __init__(self, task: Task, folder: Path):
        self.task = task
        self.path = folder / task.train_file

    def parts(self) -> Iterable[Any]:
        """The parts of the file, in order, of PART_BYTES or little more; few are in memory at a time."""
        raise NotImplementedError

    def read(self, part: Any) -> Iterator[Any]:
        """The examples of a part, None for each that is left out; InputError for a bad one."""
        raise NotImplementedError

    def report(self, count: int, skipped: int) -> None:
        """Say how many examples of the file are left out; InputError where there are no others."""
        raise NotImplementedError

    def most_rows(self, tries: int, preset: str) -> int:
        """The most rows that come of one example."""
        return (self.texts if preset == "code" else 1) + tries * self.texts

    def texts_of(self, example: Any) -> list[str]:
        """The texts of an example that are varied."""
        raise NotImplementedError

    def first_line(self) -> str | None:
        """What stands above the rows of the augmented file."""
        raise NotImplementedError

    def rows(self, example: Any, variants: list[list[str]], preset: str) -> Iterator[str]:
        """Lines for one example: itself, then its variants; variants: one list for each of its texts."""
        raise NotImplementedError

    def counts_of(self, example: Any) -> Counter:
        """What an example counts for: one row, and what stands in that."""
        return Counter(rows=1)


def joined(words: list[str]) -> str:
    """Words with spaces between them, but none between Chinese characters and marks."""
    text = " ".join(words)
    return text if text.isascii() else _SPACE_IN_CHINESE.sub("", text)


def vary(sentence: str, words: list[str], candidates: dict[int, list[str]], tries: int, p: float,
         generator: np.random.Generator, p_characters: float = 0.0) -> list[str]:
    """At most `tries` different variants of `sentence`, none equal to it (paper, algorithm 1).

    Every try replaces each word that has candidates with probability p, and each Chinese character with p_characters,
    by a random one of them. Variants are the basic-tokenised words joined(): a try that replaces nothing is new where
    the original has another form.
    """
    positions = list(candidates)
    p = np.array([p_characters if is_ideograph(words[i]) else p for i in positions])
    sizes = np.array([len(candidates[i]) for i in positions], dtype=np.int64)
    replaced = generator.random((tries, len(positions))) < p
    choices = generator.integers(0, sizes, size=(tries, len(positions)))
    variants: dict[str, None] = {}
    for chosen, choice in zip(replaced, choices):
        variant = list(words)
        for i in np.flatnonzero(chosen):
            variant[positions[i]] = candidates[positions[i]][choice[i]]
        variants[joined(variant)] = None
    variants.pop(sentence, None)
    return list(variants)


@STOPWATCH.part("survey")
def survey(examples: Examples, words: MaskedWords) -> tuple[list[int], np.ndarray, Counter]:
    """Read the whole file before the long work, and add its texts to `words`; InputError for bad examples.

    Returns the number of the first example of each part, the number of each text among the different ones, int32
    [examples, texts], and what all examples count for.
    """
    numbers, firsts, counts, skipped = array("i"), [], Counter(), 0
    for part in examples.parts():
        firsts.append(len(numbers) // examples.texts)
        for example in examples.read(part):
            if example is None:
                skipped += 1
            else:
                numbers.extend(map(words.add, examples.texts_of(example)))
                counts += examples.counts_of(example)
    examples.report(len(numbers) // examples.texts, skipped)
    if not len(words) and not words.longer:
        raise InputError(f"{examples.path}: no word of its texts can be varied, since only words of the letters a to z "
                         "and Chinese characters that are no stop words are: train without --aug_train")
    words.finish()
    return firsts, np.frombuffer(numbers, "i").reshape(-1, examples.texts), counts


def start_augmenting(*facts: object) -> None:
    """Keep what augment_part() needs."""
    global _augmenting_facts
    _augmenting_facts = facts


def augment_part(numbered: tuple[Any, int]) -> tuple[str, Counter]:
    """The augmented rows of a part, given with the number of its first example, as text; counts of what they hold."""
    args, examples, numbers, candidates = _augmenting_facts
    part, first = numbered
    lines, counts = [], Counter()
    for number, example in enumerate(filter(None, examples.read(part)), first):
        variants = []
        for place, text in enumerate(examples.texts_of(example)):
            words, replacements, origins = candidates.find(text, int(numbers[number, place]))
            generator = np.random.default_rng((args.seed, number, place))
            variants.append(vary(text, words, replacements, args.N, args.p, generator, args.p_characters))
            counts.update(origins, duplicates_dropped=args.N - len(variants[-1]))
        rows = [row + "\n" for row in examples.rows(example, variants, args.preset)]
        for name, count in examples.counts_of(example).items():
            counts.update({f"{name}_in": count, f"{name}_out": count * len(rows)})
        lines += rows
    return "".join(lines), counts


@STOPWATCH.part("rows")
def write_rows(output: Path, firsts: list[int], worker_facts: tuple) -> Counter:
    """Write the augmented rows of a file whose parts begin with the examples `firsts`; the counts of what they hold.

    worker_facts: the command line, examples, numbers of the texts, candidates.
    """
    _, examples, numbers, _ = worker_facts
    counts = Counter()
    results = in_order(augment_part, zip(examples.parts(), firsts), min(available_cores(), len(firsts)),
                       start_augmenting, worker_facts)
    with atomic_write(output) as handle, contextlib.closing(results), \
            tqdm(total=len(numbers), unit="row", desc=f"{examples.task.name} rows", disable=None) as progress:
        first_line = examples.first_line()
        if first_line is not None:
            handle.write(first_line + "\n")
        for text, part_counts in results:
            handle.write(text)
            counts.update(part_counts)
            progress.update(part_counts["rows_in"])
    return counts


def show_candidates(examples: Examples, numbers: np.ndarray, candidates: Candidates, count: int) -> None:
    """Print the first different texts and their candidates, for a person to look at."""
    shown = 0
    read = (example for part in examples.parts() for example in examples.read(part) if example is not None)
    for example, of_example in zip(read, numbers):
        for text, number in zip(examples.texts_of(example), of_example):
            if number == shown < count:  # texts are numbered as they come
                shown += 1
                print(text)
                words, replacements, _ = candidates.find(text, int(number))
                for i, texts in replacements.items():
                    print(f"    {words[i]}: {' '.join(texts)}", flush=True)
        if shown == count:
            return
