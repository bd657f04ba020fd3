"""The report's section on SQuAD: the paper's table 6 with the dev scores of these runs in it."""
from __future__ import annotations

from transformer.reporting.pages import Block, Heading, Inline, Table, Text
from transformer.reporting.published import PAPER, SQUAD_ROWS
from transformer.reporting.runs import (
    METRICS,
    FinishedRun,
    cell,
    differing_settings,
    model_name,
    references,
    shown_metrics,
)
from transformer.tasks.table import SQUAD

_TUNED = ("best_exact", "best_f1")
# of each group of columns: its heading, the task of the runs whose scores stand there, the metrics, and how the columns
# of the paper's scores begin that stand there; empty where none do
_GROUPS = (("v1.1", "squad1", shown_metrics(SQUAD["squad1"]), "v1.1"),
           ("v2.0, threshold 0", "squad2", shown_metrics(SQUAD["squad2"]), ""),
           ("v2.0, best threshold", "squad2", _TUNED, ""),
           ("v2.0, threshold unknown", "", shown_metrics(SQUAD["squad2"]), "v2.0"))


def squad(runs: list[FinishedRun]) -> list[Block]:
    """The section: table 6 beside the runs of the full method, and what is told of those of v2.0 besides; nothing where
    no run is on SQuAD."""
    if not any(run.task in SQUAD.values() for run in runs):
        return []
    full = [run for run in runs if run.is_full and run.task in SQUAD.values()]
    blocks: list[Block] = [Heading("SQuAD"), Text(
        "Percent, on the dev sets, which the best checkpoint of a run was picked on, too. EM is the share of exact "
        "matches, F1 is over the words of an answer. Of v2.0, threshold 0: a question counts as unanswerable where "
        "that scores higher than each answer; best threshold: where it does so by a margin, which for EM and for F1 "
        "was chosen on this same dev set, so that these scores are too high. Which of the two the paper's scores of "
        "v2.0 are is unknown, so they have columns of their own and compare with neither for certain."),
        _table_of(full)]
    rows = [[[name, *references([run])], str(run.seed), *(f"{100 * run.scores[metric]:.1f}" for metric in (
        "HasAns_exact", "HasAns_f1", "NoAns_f1")), *(f"{run.scores[f'{metric}_thresh']:.2f}" for metric in _TUNED)]
        for name, group in _models(full).items() for run in group if "best_f1_thresh" in run.scores]
    if rows:
        blocks += [Text("Of the runs of v2.0: scores of questions that have an answer and of those that have none, at "
                        "threshold 0, and the best thresholds."),
                   Table(["model", "seed", "EM", "F1", "F1", "for EM", "for F1"], rows, "lrrrrrr",
                         (("", 2), ("with answer", 2), ("without", 1), ("best threshold", 2)))]
    return blocks


def _models(runs: list[FinishedRun]) -> dict[str, list[FinishedRun]]:
    """Runs by what is compared: the student, and whether it saw augmented passages; the two students of the paper and
    its teacher also where there are no runs."""
    models: dict[str, list[FinishedRun]] = {model_name(student): [] for student in ("", "4l", "6l")}
    for run in runs:
        name = model_name(run.student) + ", augmented passages" * run.is_augmented
        models.setdefault(name, []).append(run)
    return models


def _table_of(runs: list[FinishedRun]) -> Table:
    """The rows of the paper, and each model of these runs below that which it stands for."""
    models = _models(runs)
    rows: list[list[Inline]] = []
    for published in SQUAD_ROWS:
        scores = {column: f"{score:.1f}" for column, score in published.scores.items()}
        rows.append([published.model, PAPER, *(scores.get(f"{begin} {METRICS[metric]}", "-") if begin else ""
                                               for _, _, metrics, begin in _GROUPS for metric in metrics)])
        own = published.model if published.model in models else "teacher" if "teacher" in published.model else None
        rows += [_own_row(name, models.pop(name)) for name in list(models) if own and name.split(",")[0] == own]
    rows += [_own_row(name, group) for name, group in models.items()]
    notes = [f"The runs of {task.name} of {name} do not have the same settings: {', '.join(differing)}. "
             for name, group in _models(runs).items() for task in SQUAD.values()
             if (differing := differing_settings([run for run in group if run.task == task]))]
    notes += [f"{task.name}: not its dev set of {task.rows[1]} questions, but one of {size}. "
              for task in SQUAD.values()
              for size in sorted({size for run in runs if run.task == task for size in run.dev_examples})
              if size != task.rows[1]]
    header = [METRICS[metric] for _, _, metrics, _ in _GROUPS for metric in metrics]
    groups = (("", 2), *((heading, len(metrics)) for heading, _, metrics, _ in _GROUPS))
    return Table(["model", "from", *header], rows, "ll" + "r" * len(header), groups, "".join(notes))


def _own_row(name: str, runs: list[FinishedRun]) -> list[Inline]:
    """The row of a model: means over its runs."""
    return [name, "these runs", *(cell([run for run in runs if run.task.key == key], metric) if key else ""
                                  for _, key, metrics, _ in _GROUPS for metric in metrics)]
