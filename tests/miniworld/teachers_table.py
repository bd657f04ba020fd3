"""The table at the end of `make teachers`, read from one folder for each teacher; fails below its bounds.

    python -m tests.miniworld.teachers_table FOLDER ...

Bounds: each teacher and each student is 15 points above the majority class, and the student, of two layers in place of
four, keeps at least 90% of its teacher's score.
"""
from __future__ import annotations

import sys
from pathlib import Path

from transformer.tasks.table import get_task

from .table import failures, scores, trivial

TASKS = ("RTE", "SST-2")


def main(folders: list[str]) -> int:
    """Print the table of the teachers in these folders; 1 where a bound is missed."""
    print(f"\n{'teacher':27} {'task':6} {'trivial':>8} {'teacher':>8} {'student':>8} {'of teacher':>10}")
    missed = []
    for folder in map(Path, folders):
        for task in map(get_task, TASKS):
            records = (f"final_{task.key}_teacher/run.json", f"distilled_tinybert_4l_{task.key}/eval_results.json")
            baseline, teacher, student = (found[task.metric] for found in (
                trivial(task, folder), *(scores(folder / "models" / record) for record in records)))
            print(f"{folder.name:27} {task.name:6} {100 * baseline:8.1f} {100 * teacher:8.1f} {100 * student:8.1f} "
                  f"{student / teacher:10.0%}")
            missed += [f"{folder.name}, {task.name}, {who}: {what}" for who, score in (("teacher", teacher),
                                                                                      ("student", student))
                       for what in failures(task, baseline, teacher, score)]
    for line in missed:
        print(f"teachers: bound missed: {line}", file=sys.stderr)
    return 1 if missed or not folders else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
