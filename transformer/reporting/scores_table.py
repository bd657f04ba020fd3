"""The dev scores of one model as the report shows them: a row for each task and metric."""
from __future__ import annotations

import statistics
from collections.abc import Iterable

from transformer.reporting.pages import Block, Link, Table, Text
from transformer.reporting.runs import (
    METRICS,
    MISSING,
    FinishedRun,
    differing_settings,
    references,
    score,
    shown_metrics,
)
from transformer.tasks.task import Task


def dev_table(runs: list[FinishedRun], tasks: Iterable[Task], caption: str) -> list[Block]:
    """Dev scores of one model: a row for each metric of each of these tasks, also of one that no run is of."""
    rows, notes = [], []
    for task in tasks:
        group = [run for run in runs if run.task == task]
        if not group:
            rows.append([task.name, METRICS.get(task.metric, "correlation"), "0", MISSING, "", "", ""])
        for metric in shown_metrics(task):
            scored, values = score(group, metric)
            if not values:
                continue
            best = max(scored, key=lambda run: run.scores[metric])
            sources = sorted({run.source for run in scored})
            rows.append([task.name, METRICS[metric], str(len(values)),
                         [f"{statistics.fmean(values):.1f}", *references(scored)],
                         f"{statistics.stdev(values):.2f}" if len(values) > 1 else "none",
                         [Link(f"{max(values):.1f}", best.folder), *references([best])], ", ".join(sources)])
        if differing := differing_settings(group):
            notes.append(f"The runs of {task.name} do not have the same settings: {', '.join(differing)}. ")
        if sizes := {run.dev_examples for run in group} - {(), task.rows[1:]}:
            official, *scored_on = (" + ".join(map(str, size)) for size in (task.rows[1:], *sorted(sizes)))
            notes.append(f"{task.name}: not the official dev set of {official} examples, but one of "
                         f"{', '.join(scored_on)}. ")
    return [Text([caption]), Table(["task", "metric", "n", "mean", "sd", "best", "score from"], rows, "llrrrrl",
                                   note="".join(notes))]
