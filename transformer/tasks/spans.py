"""The head of SQuAD: the first and the last wordpiece of an answer in a passage."""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from transformer.cli import SPAN_SETTINGS
from transformer.tasks.answers import NO_POSITION, decode, prediction_files
from transformer.tasks.head import Head
from transformer.tasks.metrics import squad_scores

if TYPE_CHECKING:
    from torch import Tensor

    from transformer.modeling import BertPreTrainedModel


@dataclass(frozen=True)
class Spans(Head):
    """A stretch of wordpieces of a passage, or, where `unanswerable` questions are asked (SQuAD v2.0), none.

    Logits of a window are [length, 2], start and end; a label is the positions of both in the window, 0 and 0 where the
    answer is not in it. Of several windows over a passage the best answer counts, see transformer.tasks.answers.

    n_best_size: candidates for start and for end, and entries of a list of answers; max_answer_length: of an answer, in
    wordpieces; null_score_diff_threshold: a question counts as unanswerable where no answer beats this one by more.
    """
    unanswerable: bool
    n_best_size: int = SPAN_SETTINGS["n_best_size"]
    max_answer_length: int = SPAN_SETTINGS["max_answer_length"]
    null_score_diff_threshold: float = SPAN_SETTINGS["null_score_diff_threshold"]

    names = ()
    metric = "f1"
    problem_type: ClassVar[None] = None
    label_word = "answer"
    expected = "a stretch of its passage"
    label_type = "i"
    label_shape = (2,)
    has_temperature = True
    sees_padding = True
    gold_in_code = False
    answers_variants = False
    called = "span head"
    on_pooled = False
    weights = "qa_outputs."
    misordered = ""  # see least()

    @property
    def shown_scores(self) -> tuple[str, ...]:
        """Exact match and F1, as the scorer of the version calls them."""
        return ("exact" if self.unanswerable else "exact_match", "f1")

    @property
    def other_scores(self) -> tuple[str, ...]:
        """Of v2.0 those at the best thresholds, these, and those of either kind of questions."""
        if not self.unanswerable:
            return ()
        return ("best_exact", "best_f1", "best_exact_thresh", "best_f1_thresh", "HasAns_exact", "HasAns_f1",
                "NoAns_exact", "NoAns_f1")

    @property
    def outputs(self) -> tuple[str, ...]:
        """The columns of logits."""
        return ("start", "end")

    @property
    def model_class(self) -> type[BertPreTrainedModel]:
        """See Head."""
        from transformer.modeling import TinyBertForQuestionAnswering
        return TinyBertForQuestionAnswering

    @property
    def sizes(self) -> dict[str, Any]:
        """None: there are always two columns."""
        return {}

    @property
    def key_text(self) -> str:
        """The version: windows do not depend on how answers are chosen."""
        return f"unanswerable={self.unanswerable!r}"

    def hard_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy over all positions of logits [batch, length, 2], the mean of that of the start and that of the
        end; labels: [batch, 2]. Padding counts, as in BERT's own fine-tuning and in Hugging Face's."""
        from torch.nn import functional
        return functional.cross_entropy(logits, labels.long())

    def soft_loss(self, logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0,
                  attention_mask: Tensor | None = None, as_published: bool = False) -> Tensor:
        """span_cross_entropy() of logits [batch, length, 2]; teacher_logits may be padded to another length.

        as_published: soft_cross_entropy() of the start plus that of the end, a mean over positions, too, in which
        padding counts.
        """
        from torch.nn import functional

        from transformer.distillation import soft_cross_entropy, span_cross_entropy
        shorter = logits.size(1) - teacher_logits.size(1)
        teacher_logits = functional.pad(teacher_logits, (0, 0, 0, shorter), value=NO_POSITION)
        if as_published:
            return soft_cross_entropy(logits.mT, teacher_logits.mT, temperature) * 2
        return span_cross_entropy(logits, teacher_logits, attention_mask, temperature)

    def numbers(self, lengths: np.ndarray) -> np.ndarray:
        """See Head."""
        return 2 * np.asarray(lengths, np.int64)

    def pack(self, logits: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """See Head; logits: [examples, length, 2]."""
        return logits[np.arange(logits.shape[1]) < np.asarray(lengths)[:, None]].reshape(-1)

    def unpack(self, flat: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """See Head: [examples, longest, 2], NO_POSITION at padding."""
        logits = np.full((len(lengths), max(lengths, default=0), 2), NO_POSITION, np.float32)
        logits[np.arange(logits.shape[1]) < np.asarray(lengths)[:, None]] = flat.reshape(-1, 2)
        return logits

    def score(self, logits: np.ndarray, examples: Any) -> dict[str, float]:
        """See Head; logits [windows, length, 2] of examples of transformer.data.windows. Thresholds are what they are,
        all else is a fraction."""
        answers = decode(logits, examples, self, listed=False)
        return squad_scores((([text for text, _ in question.answers], answer.text, answer.null_odds)
                             for question, answer in answers), self.unanswerable)

    def chance(self, examples: Any) -> tuple[float, float]:
        """See Head. By the heads of frozen encoders, F1 0.16, for v1.1; for v2.0 what answering nothing reaches."""
        return (examples.unanswerable_share() + 0.02 if self.unanswerable else 0.2), 0.0

    def least(self, examples: Any) -> float:
        """None: a span head has no order to get wrong."""
        return 0.0

    def prediction_files(self, name: str, examples: Any, logits: np.ndarray) -> Iterator[tuple[str, Iterable[str]]]:
        """See Head: predictions.json, nbest_predictions.json and, of v2.0, null_odds.json, as the official scorers and
        BERT's own script know them."""
        return prediction_files(logits, examples, self)
