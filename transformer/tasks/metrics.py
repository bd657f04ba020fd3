"""The scores of GLUE, and what a model reaches without reading."""
from __future__ import annotations

import math

import numpy as np

from transformer.tasks.task import Task


def compute_metrics(task: Task, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Scores of the task as GLUE defines them, each a fraction (or a coefficient from -1 to 1).

    predictions, labels: [examples], class numbers, or scores for a regression. Accuracy `acc`; with F1 of class 1
    and their mean for MRPC and QQP; Matthews correlation `mcc` for CoLA; `pearson`, `spearmanr` and their mean
    `corr` for STS-B. Where a score is undefined it is 0: a correlation of constants, F1 without a 1 anywhere. NaN among
    the scores makes a correlation NaN.
    """
    if task.metric == "corr":
        from scipy.stats import pearsonr, spearmanr
        if np.ptp(predictions) == 0 or np.ptp(labels) == 0:
            return {"pearson": 0.0, "spearmanr": 0.0, "corr": 0.0}
        pearson, spearman = float(pearsonr(predictions, labels)[0]), float(spearmanr(predictions, labels)[0])
        return {"pearson": pearson, "spearmanr": spearman, "corr": (pearson + spearman) / 2}
    if task.metric == "mcc":
        from sklearn.metrics import matthews_corrcoef
        return {"mcc": float(matthews_corrcoef(labels, predictions))}
    accuracy = float(np.mean(predictions == labels))
    if task.name not in ("MRPC", "QQP"):
        return {"acc": accuracy}
    from sklearn.metrics import f1_score
    f1 = float(f1_score(labels, predictions, zero_division=0))
    return {"acc": accuracy, "f1": f1, "acc_and_f1": (accuracy + f1) / 2}


def chance_level(task: Task, labels: np.ndarray) -> tuple[float, float]:
    """Score (of task.metric) that a model reaches without reading, and its standard error on so many examples.

    The majority class's share for an accuracy, 0 for a coefficient.
    """
    if task.metric != "acc":
        return 0.0, 1 / math.sqrt(len(labels))
    share = float(np.bincount(labels.astype(int)).max() / len(labels))
    return share, math.sqrt(share * (1 - share) / len(labels))
