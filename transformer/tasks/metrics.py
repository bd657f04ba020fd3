"""The scores of GLUE as functions of answers and labels, and what a model reaches without reading.

Where a score is undefined it is 0: a correlation of constants, F1 without a 1 anywhere.
"""
from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np


def accuracy(answers: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The share `acc` of right class numbers; answers, labels: [examples]."""
    return {"acc": float(np.mean(answers == labels))}


def accuracy_and_f1(answers: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """accuracy(), with `f1` of class 1 and `acc_and_f1`, the mean of both."""
    from sklearn.metrics import f1_score
    acc, f1 = accuracy(answers, labels)["acc"], float(f1_score(labels, answers, zero_division=0))
    return {"acc": acc, "f1": f1, "acc_and_f1": (acc + f1) / 2}


def matthews_correlation(answers: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Matthews correlation `mcc`, from -1 to 1, of class numbers; answers, labels: [examples]."""
    from sklearn.metrics import matthews_corrcoef
    return {"mcc": float(matthews_corrcoef(labels, answers))}


def correlations(answers: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """`pearson`, `spearmanr` and their mean `corr`, from -1 to 1, of scores; answers, labels: [examples].

    NaN among the scores makes them NaN.
    """
    from scipy.stats import pearsonr, spearmanr
    if np.ptp(answers) == 0 or np.ptp(labels) == 0:
        return {"pearson": 0.0, "spearmanr": 0.0, "corr": 0.0}
    pearson, spearman = float(pearsonr(answers, labels)[0]), float(spearmanr(answers, labels)[0])
    return {"pearson": pearson, "spearmanr": spearman, "corr": (pearson + spearman) / 2}


def majority_share(labels: np.ndarray) -> tuple[float, float]:
    """Accuracy of a model that always names the most frequent class, and its standard error on so many examples."""
    share = float(np.bincount(labels.astype(int)).max() / len(labels))
    return share, math.sqrt(share * (1 - share) / len(labels))


def no_correlation(labels: np.ndarray) -> tuple[float, float]:
    """Coefficient of a model whose answers have nothing to do with the labels, 0, and its standard error."""
    return 0.0, 1 / math.sqrt(len(labels))


def squad_scores(answers: Iterable[tuple[Sequence[str], str, float | None]], unanswerable: bool) -> dict[str, float]:
    """The official scores of answers, fractions: `exact_match` and `f1` of SQuAD v1.1; of v2.0 (unanswerable) all that
    its scorer tells with null odds, of which totals and thresholds are what they are.

    Each is (what people answered, the answer, its null odds); people answered nothing where none could be given.
    """
    raise NotImplementedError
