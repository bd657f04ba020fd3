"""Lines of train_aug.jsonl from the passages of a SQuAD file.

The paper does not say what it varies of SQuAD. Here it is the passage, once a paragraph, and all of its questions stand
as they are with each variant. No answer comes along: its place would be another one, and no loss of the intermediate
stage asks for it.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from transformer.augmentation.variants import PART_BYTES, Examples
from transformer.data.augmented import AUGMENTED_HEADER, augmented_line
from transformer.data.tables import require_file
from transformer.tasks.squad import Passage, read_passages
from transformer.tasks.task import Task


class PassageExamples(Examples):
    """The passages of a SQuAD file; one that nobody asks anything about is left out."""
    texts = 1

    def __init__(self, task: Task, folder: Path):
        super().__init__(task, folder)
        require_file(task, self.path)

    def parts(self) -> Iterator[list[Passage]]:
        """Passages with their questions; the file is read as they are taken."""
        part, size = [], 0
        for passage in read_passages(self.path, self.task.head.unanswerable):
            part.append(passage)
            size += len(passage.context) + sum(len(question.id + question.text) for question in passage.questions)
            if size >= PART_BYTES:
                yield part
                part, size = [], 0
        if part:
            yield part

    def read(self, part: list[Passage]) -> Iterator[Passage | None]:
        """The passages of a part; None for those without questions."""
        return (passage if passage.questions else None for passage in part)

    def report(self, count: int, skipped: int) -> None:
        """Say how many passages have no questions."""
        if skipped:
            print(f"{self.path}: skipped {skipped} passages without questions", flush=True)

    def texts_of(self, example: Passage) -> list[str]:
        """The passage itself."""
        return [example.context]

    def first_line(self) -> str:
        """What says that these are passages without answers."""
        return AUGMENTED_HEADER

    def rows(self, example: Passage, variants: list[list[str]], preset: str) -> Iterator[str]:
        """augmented_line() of the passage and each variant, in both presets."""
        for number, context in enumerate([example.context, *variants[0]]):
            yield augmented_line(example, context, number)

    def counts_of(self, example: Passage) -> Counter:
        """Its questions, too."""
        return super().counts_of(example) + Counter(questions=len(example.questions))
