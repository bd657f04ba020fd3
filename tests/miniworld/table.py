"""The table at the end of `make smoke`, read from the run folders in the working directory; fails below its bounds.

    python -m tests.miniworld.table TASK ...

Bounds: on the RTE-, SST-2- and MRPC-like tasks every student is at least 15 points above the majority class and
keeps at least 90% of its teacher's score; Matthews correlation of the CoLA-like and correlation of the STS-B-like
task are at least 0.5. On those like SQuAD the teacher's F1 is at least 80, the 6-layer student keeps 90% of it, and
answering with the first word of the passage stays below 20. What stands for the 4-layer student has two layers, too few
to compare question and passage, and has no bound there.
"""
from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from transformer.data.tables import read_rows
from transformer.files import InputError, read_json
from transformer.tasks.labels import parse_label
from transformer.tasks.metrics import squad_scores
from transformer.tasks.squad import read_passages
from transformer.tasks.table import get_task
from transformer.tasks.task import Task

STUDENTS = ("4l", "6l")


def metrics_of(task: Task) -> tuple[str, ...]:
    """The scores of a task that have a line in the table; the last one has bounds."""
    return (task.metric,) if task.is_table else task.head.shown_scores


def trivial(task: Task, folder: str | Path = "") -> dict[str, float]:
    """Dev scores of an answer that needs no model: always the same class, or the first word of the passage; `folder` is
    where reproduce.sh ran."""
    path = Path(folder, "data/glue_data", task.name, task.dev_files[0])
    if task.is_table:
        labels = [parse_label(task, columns, str(path)) for _, columns in read_rows(task, path)]
        return {task.metric: task.head.chance(SimpleNamespace(labels=np.array(labels)))[0]}
    return squad_scores((([text for text, _ in question.answers], passage.context.split()[0], None)
                         for passage in read_passages(path, task.head.unanswerable)
                         for question in passage.questions), task.head.unanswerable)


def scores(record: str | Path) -> dict[str, float]:
    """Those in the record of a finished run, or of an evaluation."""
    run = read_json(record)
    if not run.get("finished"):
        raise InputError(f"{record}: the run is not finished")
    return run.get("values", run)


def failures(task: Task, baseline: float, teacher: float, student: float) -> list[str]:
    """The bounds that a student misses."""
    missed = []
    if not task.is_table:
        if baseline >= 0.2:
            missed.append(f"the first word of the passage has {task.metric} {baseline:.3f}, not under 0.2")
        if teacher < 0.8:
            missed.append(f"the teacher's {task.metric} {teacher:.3f} is under 0.8")
    elif task.metric != "acc":
        return [] if student >= 0.5 else [f"{task.metric} {student:.3f} is under 0.5"]
    elif student < baseline + 0.15:
        missed.append(f"{student:.3f} is less than 15 points above the majority class, {baseline:.3f}")
    if student < 0.9 * teacher:
        missed.append(f"{student:.3f} is less than 90% of the teacher's {teacher:.3f}")
    return missed


def main(names: list[str]) -> int:
    """Print the table of these tasks; 1 where a bound is missed."""
    print(f"\n{'task':6} {'metric':11} {'trivial':>8} {'teacher':>8}"
          + "".join(f" {student + ' student':>11} {'of teacher':>10}" for student in STUDENTS))
    missed = []
    for task in map(get_task, names):
        baseline, teacher = trivial(task), scores(f"models/final_{task.key}_teacher/run.json")
        students = {student: scores(f"models/distilled_tinybert_{student}_{task.key}/eval_results.json")
                    for student in STUDENTS}
        for metric in metrics_of(task):
            print(f"{task.name:6} {metric:11} {100 * baseline[metric]:8.1f} {100 * teacher[metric]:8.1f}"
                  + "".join(f" {100 * values[metric]:11.1f} {values[metric] / teacher[metric]:10.0%}"
                            for values in students.values()))
        for student, values in students.items():
            if not task.is_table and student == "4l":
                continue
            bounded = (found[task.metric] for found in (baseline, teacher, values))
            missed += [f"{task.name}, {student} student: {what}" for what in failures(task, *bounded)]
    seconds = Counter()
    for mark in Path("results/steps").glob("*.seconds"):
        seconds[mark.stem.split("_")[0]] += int(mark.read_text())
    print("seconds per step, runs of a step added up: "
          + ", ".join(f"{step} {count}" for step, count in seconds.most_common()))
    for line in missed:
        print(f"smoke: bound missed: {line}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
