"""The kinds of answers that tasks ask for: classes and scores here, spans of a passage in transformer.tasks.spans.

All that differs between them stands in these; scripts, training and report ask the task's head and never what kind it
is. No torch before a loss is computed: worker processes that only read examples need none.
"""
from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from transformer.tasks.metrics import (
    accuracy,
    accuracy_and_f1,
    best_blind_f1,
    best_blind_macro_f1,
    correlations,
    macro_f1,
    majority_share,
    matthews_correlation,
    no_correlation,
)

if TYPE_CHECKING:
    from torch import Tensor

    from transformer.modeling import BertPreTrainedModel

_SHOWN_NAMES = 20
PREDICTIONS_NAME = "eval_predictions_{}.tsv"  # eval_predictions_SET.tsv, of each dev set


def shortened(names: Sequence[str]) -> str:
    """Names for a message: the first of many, and how many they are."""
    if len(names) <= _SHOWN_NAMES:
        return ", ".join(names)
    return f"{', '.join(names[:_SHOWN_NAMES])}, ... ({len(names)} in all)"


class Head(ABC):
    """What stands on the encoder for one kind of answer: module, labels, losses, answers, scores.

    What is no method of a kind below holds for a linear layer on the pooled first token: one vector of logits an
    example, [examples, width]; one label an example, [examples]. A head whose logits have another shape says so with
    called, on_pooled, model_class, sizes, weights, numbers(), pack() and unpack(), and one with other labels with
    label_type, label_shape.
    """
    # of its dev scores
    metric: str                             # the one that chooses the checkpoint
    shown_scores: tuple[str, ...]           # those that tables show, as the paper does
    other_scores: tuple[str, ...] = ()      # those that the report reads besides
    # of its labels and answers
    names: tuple[str, ...]                  # of the classes, in their order; empty where there are none
    problem_type: ClassVar[str | None]      # as config.json calls it for Hugging Face; None: not at all
    label_word: ClassVar[str]               # what a bad label is called in messages
    expected: str                           # what one should have been, in messages
    label_type: ClassVar[str] = "f"         # type code (of array and numpy) of the numbers of a label
    label_shape: ClassVar[tuple[int, ...]] = ()  # of a label: one number
    # of its losses
    has_temperature: ClassVar[bool]         # whether soft_loss() has one
    sees_padding: ClassVar[bool] = False    # hard_loss(), and soft_loss() as published, depend on how far one pads
    gold_in_code: ClassVar[bool]            # the published code teaches it the data's labels in the prediction stage
    answers_variants: ClassVar[bool] = True  # the prediction stage takes augmented data; else answers to the original
    # of its module
    called: ClassVar[str] = "classifier"    # in messages
    on_pooled: ClassVar[bool] = True        # it stands on the pooled first token, with a relu between or without
    weights: ClassVar[str] = "classifier."  # how the names of its weights begin
    misordered: ClassVar[str]               # what is wrong with a model far below chance, {task} for its name

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the numbers of a vector of logits."""
        return self.names

    @property
    def width(self) -> int:
        """How many numbers a vector of logits has."""
        return len(self.outputs)

    @property
    def model_class(self) -> type[BertPreTrainedModel]:
        """The encoder with this head on it."""
        from transformer.modeling import TinyBertForSequenceClassification
        return TinyBertForSequenceClassification

    @property
    def sizes(self) -> dict[str, Any]:
        """The sizes of the head as keywords of model_class."""
        return {"num_labels": self.width}

    @property
    @abstractmethod
    def key_text(self) -> str:
        """What labels follow from, see Task.key_text."""

    @abstractmethod
    def hard_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean loss against the labels of the data; logits: float32."""

    @abstractmethod
    def soft_loss(self, logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0,
                  attention_mask: Tensor | None = None, as_published: bool = False) -> Tensor:
        """Mean loss against a teacher's logits of the same shape, columns in the same order.

        attention_mask: [batch, length], 0 at padding, and as_published, the variant of the code preset, are for heads
        that answer with positions.
        """

    def numbers(self, lengths: np.ndarray) -> np.ndarray:
        """How many numbers the logits of an example are, of examples of so many wordpieces: int64 [examples]."""
        return np.full(len(lengths), self.width, np.int64)

    def pack(self, logits: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Logits of a batch as flat numbers, example by example, as they are kept; padding is left out.

        lengths: wordpieces of each example.
        """
        return logits.reshape(-1)

    def unpack(self, flat: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """The logits of which pack() made flat numbers, padded to the longest of the examples."""
        return flat.reshape(len(lengths), self.width)

    @abstractmethod
    def score(self, logits: np.ndarray, examples: Any) -> dict[str, float]:
        """The dev scores of what finite logits say of some examples (of data/), by name, each a fraction or a
        coefficient from -1 to 1."""

    @abstractmethod
    def chance(self, examples: Any) -> tuple[float, float]:
        """The score `metric` that a model reaches without reading, and its standard error on these examples."""

    @abstractmethod
    def least(self, examples: Any) -> float:
        """The score `metric` below which a model has learned, and says something else than is asked: see misordered."""

    @abstractmethod
    def prediction_files(self, name: str, examples: Any, logits: np.ndarray) -> Iterator[tuple[str, Iterable[str]]]:
        """Names and texts, piece by piece, of the files that show what finite logits say of the set `name`."""


class LabelHead(Head):
    """A head whose examples have one label each, a cell of a table; the examples' `labels` are [examples]."""

    @property
    @abstractmethod
    def described(self) -> dict[str, Any]:
        """The head in the words of task.json, see transformer.tasks.own."""

    @abstractmethod
    def read_label(self, text: str) -> float | None:
        """The label that a text stands for, of label_shape; None where it is none."""

    @abstractmethod
    def word(self, answer: float) -> str:
        """An answer as it stands in a file for the GLUE server; read_label() takes it."""

    @abstractmethod
    def answers(self, logits: np.ndarray) -> np.ndarray:
        """What finite logits say: [examples]."""

    @abstractmethod
    def answer_lines(self, logits: np.ndarray) -> Iterator[Sequence[object]]:
        """The cells of each line of a file that tells answers to whoever asked; its header first."""

    @abstractmethod
    def prediction_lines(self, labels: np.ndarray, logits: np.ndarray) -> Iterator[Sequence[object]]:
        """The cells of each line of a file that shows labels, answers and logits; its header first."""

    @abstractmethod
    def dev_scores(self, answers: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """The scores of answers(), by name, each a fraction or a coefficient from -1 to 1; labels: [examples]."""

    def score(self, logits: np.ndarray, examples: Any) -> dict[str, float]:
        """See Head."""
        return self.dev_scores(self.answers(logits), examples.labels)

    def least(self, examples: Any) -> float:
        """See Head."""
        return -0.2

    def prediction_files(self, name: str, examples: Any, logits: np.ndarray) -> Iterator[tuple[str, Iterable[str]]]:
        """See Head: one table."""
        yield PREDICTIONS_NAME.format(name), ("\t".join(map(str, cells)) + "\n"
                                              for cells in self.prediction_lines(examples.labels, logits))


@dataclass(frozen=True)
class _Metric:
    """A score of classes. scores(answers, labels): it and those that are told with it, by name; shown: the names that
    tables show; chance(labels), least(chance): as of Head."""
    scores: Callable[[np.ndarray, np.ndarray], dict[str, float]]
    shown: tuple[str, ...]
    chance: Callable[[np.ndarray], tuple[float, float]]
    least: Callable[[float], float]


# An F1 is 0 where a class is never named, which has nothing to do with the order of the classes.
_METRICS_OF_CLASSES = {
    "acc": _Metric(accuracy, ("acc",), majority_share, lambda chance: chance / 2),
    "f1": _Metric(accuracy_and_f1, ("f1", "acc"), best_blind_f1, lambda _: 0.0),
    "macro_f1": _Metric(macro_f1, ("macro_f1", "acc"), best_blind_macro_f1, lambda _: 0.0),
    "mcc": _Metric(matthews_correlation, ("mcc",), no_correlation, lambda _: -0.2),
}
CLASS_METRICS = tuple(_METRICS_OF_CLASSES)


@dataclass(frozen=True)
class Classes(LabelHead):
    """One of some classes. A label is the number of its class.

    names: of the classes in their order; metric: one of CLASS_METRICS: accuracy `acc`, `f1` of class 1, the mean F1 of
    all classes `macro_f1`, or Matthews correlation `mcc`; has_f1: whether F1 of class 1, and the mean of it and the
    accuracy, are told beside the accuracy, which chooses.
    """
    names: tuple[str, ...]
    metric: str = "acc"
    has_f1: bool = False

    problem_type = "single_label_classification"
    label_word = "unknown label"
    has_temperature = True
    gold_in_code = False
    misordered = "its classes are in another order than config.json says: set id2label there to the order it was " \
                 "trained in"

    @property
    def _told(self) -> _Metric:
        """What tells the scores."""
        return _METRICS_OF_CLASSES["f1" if self.has_f1 else self.metric]

    @property
    def shown_scores(self) -> tuple[str, ...]:
        """The metric, and the accuracy where that is an F1."""
        return self._told.shown

    @property
    def expected(self) -> str:
        """The names."""
        return f"one of {shortened(self.names)}"

    @property
    def key_text(self) -> str:
        """See Head."""
        return f"labels={self.names!r}, metric={self.metric!r}"

    @property
    def described(self) -> dict[str, Any]:
        """See LabelHead."""
        return {"kind": "classes", "labels": list(self.names), "metric": self.metric}

    def read_label(self, text: str) -> int | None:
        """The number of the class called `text`."""
        return self._numbers.get(text)

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    def word(self, answer: float) -> str:
        """The name of a class."""
        return self.names[int(answer)]

    def hard_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of logits [batch, classes]; labels: [batch], of any dtype."""
        from torch.nn import functional
        return functional.cross_entropy(logits, labels.long())

    def soft_loss(self, logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0,
                  attention_mask: Tensor | None = None, as_published: bool = False) -> Tensor:
        """soft_cross_entropy() of logits [batch, classes] (paper, equation 10)."""
        from transformer.distillation import soft_cross_entropy
        return soft_cross_entropy(logits, teacher_logits, temperature)

    def answers(self, logits: np.ndarray) -> np.ndarray:
        """Class numbers, int64 [examples]."""
        return logits.argmax(axis=1)

    def answer_lines(self, logits: np.ndarray) -> Iterator[Sequence[object]]:
        """Row, label, and the probability of each class, whose sum is 1."""
        yield ["row", "label", *(f"p_{name}" for name in self.names)]
        powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        shares = powers / powers.sum(axis=1, keepdims=True)
        for row, (answer, probabilities) in enumerate(zip(self.answers(logits), shares, strict=True)):
            yield [row, self.names[answer], *(f"{probability:.6f}" for probability in probabilities)]

    def prediction_lines(self, labels: np.ndarray, logits: np.ndarray) -> Iterator[Sequence[object]]:
        """Index, label, answer, and the logit of each class."""
        yield ["index", "label", "prediction", *(f"logit_{name}" for name in self.names)]
        words = np.array(self.names)
        rows = zip(words[labels.astype(int)], words[self.answers(logits)], logits, strict=True)
        yield from ([index, label, answer, *row] for index, (label, answer, row) in enumerate(rows))

    def dev_scores(self, answers: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """The metric; where it is an F1, or has_f1 is true, the accuracy, too, and with `f1` the mean of both."""
        return self._told.scores(answers, labels)

    def chance(self, examples: Any) -> tuple[float, float]:
        """The majority class's share for an accuracy, 0 for a coefficient, for an F1 what best_blind_f1() and
        best_blind_macro_f1() say; and its standard error."""
        return _METRICS_OF_CLASSES[self.metric].chance(examples.labels)

    def least(self, examples: Any) -> float:
        """Half of chance() for an accuracy, 0 for an F1."""
        return _METRICS_OF_CLASSES[self.metric].least(self.chance(examples)[0])


@dataclass(frozen=True)
class Score(LabelHead):
    """A number from `low` to `high`, those of STS-B unless others are given, which the one logit says."""
    low: float = 0.0
    high: float = 5.0

    metric = "corr"
    shown_scores = ("pearson", "spearmanr")
    names = ()
    problem_type = "regression"
    label_word = "score"
    has_temperature = False
    gold_in_code = True
    misordered = "its scores run the wrong way, low where they should be high: train it on {task}"

    @property
    def expected(self) -> str:
        """The range."""
        return f"a number from {self.low:g} to {self.high:g}"

    @property
    def key_text(self) -> str:
        """See Head; another range than STS-B's refuses other labels."""
        own = "" if self == Score() else f", range={self.low!r}..{self.high!r}"
        return f"labels=None, metric='corr'{own}"

    @property
    def outputs(self) -> tuple[str, ...]:
        """The score alone."""
        return ("score",)

    @property
    def described(self) -> dict[str, Any]:
        """See LabelHead."""
        return {"kind": "score", "range": [self.low, self.high], "metric": self.metric}

    def read_label(self, text: str) -> float | None:
        """The number that `text` says."""
        try:
            score = float(text)
        except ValueError:
            return None
        return score if self.low <= score <= self.high else None

    def word(self, answer: float) -> str:
        """The number, clipped to the range."""
        return f"{np.clip(answer, self.low, self.high):.6f}"

    def hard_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean squared error of logits [batch, 1]; labels: [batch]."""
        from torch.nn import functional
        return functional.mse_loss(logits[:, 0], labels.float())

    def soft_loss(self, logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0,
                  attention_mask: Tensor | None = None, as_published: bool = False) -> Tensor:
        """Mean squared error of logits [batch, 1]; a number has no temperature."""
        from torch.nn import functional
        return functional.mse_loss(logits[:, 0], teacher_logits[:, 0])

    def answers(self, logits: np.ndarray) -> np.ndarray:
        """Scores, float32 [examples]."""
        return logits[:, 0]

    def answer_lines(self, logits: np.ndarray) -> Iterator[Sequence[object]]:
        """Row and score, which stays in the range."""
        yield ["row", "score"]
        yield from ([row, self.word(answer)] for row, answer in enumerate(self.answers(logits)))

    def prediction_lines(self, labels: np.ndarray, logits: np.ndarray) -> Iterator[Sequence[object]]:
        """Index, label and answer, which is the logit."""
        yield ["index", "label", "prediction"]
        yield from zip(range(len(labels)), labels, self.answers(logits), strict=True)

    def dev_scores(self, answers: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """`pearson`, `spearmanr` and their mean `corr`."""
        return correlations(answers, labels)

    def chance(self, examples: Any) -> tuple[float, float]:
        """0, and its standard error."""
        return no_correlation(examples.labels)
