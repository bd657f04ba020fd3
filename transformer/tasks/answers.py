"""From the logits of windows to answers (BERT's run_squad, by facts)."""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from transformer.tasks.squad import Question

ANSWER_FILES = ("predictions.json", "nbest_predictions.json", "null_odds.json")
NO_POSITION = -10000.0  # logit of padding


@dataclass(frozen=True)
class Answer:
    """What is said to a question. text: of the best answer, empty where it is unanswerable; listed: the n-best list,
    [{"text", "probability", "start_logit", "end_logit"}]; null_odds: score of no answer less that of the best, None
    where all questions have one."""
    text: str
    listed: list[dict[str, Any]] | None
    null_odds: float | None


def decode(logits: np.ndarray, examples: Any, head: Any, listed: bool) -> Iterator[tuple[Question, Answer]]:
    """The answer to each question of some examples (transformer.data.windows.Windows), in their order.

    logits: [windows, longest, 2]; head: a Spans, whose n_best_size, max_answer_length, null_score_diff_threshold and
    unanswerable are read; listed: whether n-best lists are wanted: without, one text a question is made, two of v2.0.
    """
    raise NotImplementedError


def prediction_files(logits: np.ndarray, examples: Any, head: Any) -> Iterator[tuple[str, Iterable[str]]]:
    """Names and texts of ANSWER_FILES (the last of v2.0 only), as Head.prediction_files() gives them."""
    raise NotImplementedError
