"""Questions about passages as arrays of windows."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from transformer.data.features import Sequences
from transformer.tasks.squad import Question
from transformer.tasks.task import Task
from transformer.tokenization import BertTokenizer


@dataclass
class Windows(Sequences):
    """Windows over passages whose answers are to be found, in the order of the questions.

    question_of: int32 [n], number of the question of each; words: int32 [pieces], for each wordpiece of `tokens` the
    word of its passage, -1 where it is none of it; is_max_context: uint8 [pieces], 1 where an answer may start.
    """
    question_of: np.ndarray | None = None
    words: np.ndarray | None = None
    is_max_context: np.ndarray | None = None
    path: Path | None = None
    task: Task | None = None
    tokenizer: BertTokenizer | None = None

    def questions(self) -> Iterator[tuple[Question, list[str], range]]:
        """Each question of the file, also one without windows, with the words of its passage and its windows."""
        raise NotImplementedError

    def unanswerable_share(self) -> float:
        """The share of questions that no stretch of their passage answers."""
        raise NotImplementedError


def encode_windows(task: Task, path: str | Path, tokenizer: BertTokenizer, max_seq_length: int, doc_stride: int,
                   max_query_length: int, use: str, cache_dir: str | Path | None = None,
                   fallback: str | Path | None = None, num_workers: int | None = None) -> Sequences:
    """The windows of a SQuAD file, or of a train_aug.jsonl.

    use: "train" (labels, int32 [n, 2]), "score" (Windows, of a file with answers), "answer" (Windows, of a file that
    may have none), "augmented" (train_aug.jsonl: neither labels nor answers).
    """
    raise NotImplementedError
