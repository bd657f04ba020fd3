"""The table at the end of `make smoke`, read from the run folders in the working directory; fails below its bounds.

Bounds: on the RTE-, SST-2- and MRPC-like tasks every student is at least 15 points above the majority class and
keeps at least 90% of its teacher's score; Matthews correlation of the CoLA-like and correlation of the STS-B-like
task are at least 0.5.
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
from transformer.tasks.table import get_task
from transformer.tasks.task import Task

TASKS = ("RTE", "SST-2", "CoLA", "MRPC", "STS-B")
STUDENTS = ("4l", "6l")


def majority(task: Task) -> float:
    """Score on the dev set of an answer that is always the same."""
    path = Path("data/glue_data", task.name, task.dev_files[0])
    labels = [parse_label(task, columns, str(path)) for _, columns in read_rows(task, path)]
    return task.head.chance(SimpleNamespace(labels=np.array(labels)))[0]


def result(record: str, task: Task) -> float:
    """Score in the record of a finished run, or of an evaluation."""
    run = read_json(record)
    if not run.get("finished"):
        raise InputError(f"{record}: the run is not finished")
    return run.get("values", run)[task.metric]


def failures(task: Task, baseline: float, teacher: float, student: float) -> list[str]:
    """The bounds that a student misses."""
    if task.metric != "acc":
        return [] if student >= 0.5 else [f"{task.metric} {student:.3f} is under 0.5"]
    missed = []
    if student < baseline + 0.15:
        missed.append(f"{student:.3f} is less than 15 points above the majority class, {baseline:.3f}")
    if student < 0.9 * teacher:
        missed.append(f"{student:.3f} is less than 90% of the teacher's {teacher:.3f}")
    return missed


def main() -> int:
    print(f"\n{'task':6} {'metric':6} {'majority':>8} {'teacher':>8}"
          + "".join(f" {student + ' student':>11} {'of teacher':>10}" for student in STUDENTS))
    missed = []
    for task in map(get_task, TASKS):
        baseline, teacher = majority(task), result(f"models/final_{task.key}_teacher/run.json", task)
        line = f"{task.name:6} {task.metric:6} {100 * baseline:8.1f} {100 * teacher:8.1f}"
        for student in STUDENTS:
            name = f"{student}_{task.key}"
            score = result(f"models/distilled_tinybert_{name}/eval_results.json", task)
            line += f" {100 * score:11.1f} {score / teacher:10.0%}"
            missed += [f"{task.name}, {student} student: {what}" for what in failures(task, baseline, teacher, score)]
        print(line)
    seconds = Counter()
    for mark in Path("results/steps").glob("*.seconds"):
        seconds[mark.stem.split("_")[0]] += int(mark.read_text())
    print("seconds per step, runs of a step added up: "
          + ", ".join(f"{step} {count}" for step, count in seconds.most_common()))
    for line in missed:
        print(f"smoke: bound missed: {line}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
