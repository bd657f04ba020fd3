"""The scores of GLUE and of SQuAD as functions of answers and labels, and what a model reaches without reading.

Where a score is undefined it is 0: a correlation of constants, F1 without a 1 anywhere.
"""
from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

_PUNCTUATION = dict.fromkeys(map(ord, string.punctuation))
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def accuracy(answers: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The share `acc` of right class numbers; answers, labels: [examples]."""
    return {"acc": float(np.mean(answers == labels))}


def accuracy_and_f1(answers: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """accuracy(), with `f1` of class 1 and `acc_and_f1`, the mean of both."""
    from sklearn.metrics import f1_score
    acc, f1 = accuracy(answers, labels)["acc"], float(f1_score(labels, answers, zero_division=0))
    return {"acc": acc, "f1": f1, "acc_and_f1": (acc + f1) / 2}


def macro_f1(answers: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """accuracy(), with `macro_f1`, the mean of the F1 of each class that is among the labels or the answers."""
    from sklearn.metrics import f1_score
    return {**accuracy(answers, labels),
            "macro_f1": float(f1_score(labels, answers, average="macro", zero_division=0))}


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


def best_blind_f1(labels: np.ndarray) -> tuple[float, float]:
    """F1 of class 1 of a model that always answers 1: of all that do not read none has a higher one; and its standard
    error on so many examples."""
    share = float(np.mean(labels == 1))
    return 2 * share / (1 + share), 2 / (1 + share) ** 2 * math.sqrt(share * (1 - share) / len(labels))


def best_blind_macro_f1(labels: np.ndarray) -> tuple[float, float]:
    """Mean F1 of the classes, of a model that draws its answers as often as each class occurs, which expects 1 over
    their number: of all that do not read none expects more; and its standard error, where no class is rare."""
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    return 1 / len(shares), math.sqrt(float((1 - shares ** 2).sum()) / len(labels)) / len(shares)


def no_correlation(labels: np.ndarray) -> tuple[float, float]:
    """Coefficient of a model whose answers have nothing to do with the labels, 0, and its standard error."""
    return 0.0, 1 / math.sqrt(len(labels))


def normal_answer(text: str) -> str:
    """A text as the scorers of SQuAD compare it: lower case, without ASCII punctuation and then without articles, one
    space between words."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _shared_f1(answer: list[str], gold: list[str]) -> float:
    """F1 of two bags of words; 0 where they share none."""
    shared = (Counter(answer) & Counter(gold)).total()
    if not shared:
        return 0.0
    precision, recall = shared / len(answer), shared / len(gold)
    return 2 * precision * recall / (precision + recall)


def _best_of(answer: str, golds: Sequence[str], unanswerable: bool) -> tuple[float, float]:
    """Exact match and F1 of an answer, each with the one of `golds` that it fits best. unanswerable: as the scorer of
    v2.0 has it, where texts may say nothing."""
    normal, normals = normal_answer(answer), [normal_answer(gold) for gold in golds]
    if unanswerable:
        normals = [gold for gold in normals if gold] or [""]
    words = normal.split()
    return (float(normal in normals),
            max((float(not words and not gold) if unanswerable and not (words and gold) else
                 _shared_f1(words, gold.split()) for gold in normals), default=0.0))


def squad_scores(answers: Iterable[tuple[Sequence[str], str | None, float | None]], unanswerable: bool,
                 na_prob_thresh: float = math.inf) -> dict[str, float]:
    """The official scores of answers, fractions: `exact_match` and `f1` of SQuAD v1.1; of v2.0 (unanswerable) all that
    its scorer tells, of which totals and thresholds are what they are.

    Each is (what people answered, the answer, its null odds); people answered nothing where none could be given. An
    answer that is None, for missing, scores 0 in v1.1 and is not counted in v2.0. There an answer with null odds above
    na_prob_thresh counts as none, and `best_exact` and `best_f1` are those at the best of all thresholds; they are left
    out where null odds are None.
    """
    scored = [(bool(golds), (0.0, 0.0) if answer is None else _best_of(answer, golds, unanswerable), answer, odds)
              for golds, answer, odds in answers]
    if not unanswerable:
        return dict(zip(("exact_match", "f1"), _means([scores for _, scores, _, _ in scored])))
    nothing = sum(not has_answer for has_answer, *_ in scored)
    scored = [found for found in scored if found[2] is not None]
    kept = [(has_answer, scores if odds is None or not odds > na_prob_thresh else (float(not has_answer),) * 2)
            for has_answer, scores, _, odds in scored]
    values = {}
    for prefix, wanted in (("", (True, False)), ("HasAns_", (True,)), ("NoAns_", (False,))):
        of_kind = [scores for has_answer, scores in kept if has_answer in wanted]
        if of_kind or not prefix:
            exact, f1 = _means(of_kind)
            values |= {f"{prefix}exact": exact, f"{prefix}f1": f1, f"{prefix}total": len(of_kind)}
    if scored and all(odds is not None for *_, odds in scored):
        by_odds = sorted(scored, key=lambda found: found[3])
        for column, name in enumerate(("exact", "f1")):
            best, threshold = _best_threshold(by_odds, column, nothing)
            values |= {f"best_{name}": best / len(scored), f"best_{name}_thresh": threshold}
    return values


def _means(scores: list[tuple[float, float]]) -> list[float]:
    """The mean of each column; 0 of nothing."""
    return [sum(column) / len(scores) for column in zip(*scores)] or [0.0, 0.0]


def _best_threshold(by_odds: list[tuple[bool, tuple[float, float], str, float]], column: int, nothing: int,
                    ) -> tuple[float, float]:
    """The greatest sum of scores at any threshold of null odds, and the lowest such threshold (0 if answering nothing
    is best). by_odds: (whether people answered, scores, answer, null odds); nothing: the sum of answering nothing."""
    best, threshold, reached = float(nothing), 0.0, float(nothing)
    for has_answer, scores, answer, odds in by_odds:
        reached += scores[column] if has_answer else -bool(answer)
        if reached > best:
            best, threshold = reached, odds
    return best, threshold
