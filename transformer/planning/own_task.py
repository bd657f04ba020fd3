"""What reproduce.sh asks of the folder of somebody's own task, and of a teacher for it, before hours are spent."""
from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from transformer.data.tables import require_file
from transformer.files import InputError, find_model, read_json, sha256_of
from transformer.kinds import kind_of
from transformer.tasks.labels import class_order
from transformer.tasks.own import TASK_JSON, described, is_described, read_task
from transformer.tasks.task import Task


def print_task(folder: str, teacher: str | None = None, students: Sequence[str] = ()) -> None:
    """Print a folder's task in one line, with spaces between: name, metric, test sets to answer (0 or 1), rows without
    labels, digest of its tables and task.json. InputError where it is none, lacks a file, or the teacher cannot be one
    for it, or for the students."""
    if not is_described(folder):
        raise InputError(f"--task_dir {folder} holds no {TASK_JSON}: name a folder that prepare_task.py has written")
    task = read_task(folder)
    files = [Path(folder) / name for name in described(task)["rows"]]
    for path in files:
        require_file(task, path)
    if teacher:
        with contextlib.redirect_stdout(sys.stderr):  # how its classes are read
            check_teacher(teacher, task, students)
    print(task.name, task.metric, len(task.submissions), task.unlabelled_rows, digest(task, files))


def digest(task: Task, files: Sequence[Path]) -> str:
    """Of what a task's description says, made_from aside, and of what its files hold: 64 hexadecimal digits."""
    content = [described(task), *((path.name, sha256_of(path)) for path in files)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_teacher(teacher: str, task: Task, students: Sequence[str]) -> None:
    """InputError where a folder is no model, or one with other classes than the task's, as far as its config.json
    tells, or one with another vocabulary than students."""
    folder = find_model(Path(teacher))
    if what := kind_of(folder):
        raise InputError(f"{folder} {what}")
    class_order(read_json(folder / "config.json"), task, folder)
    if students:
        from transformer.checkpoint import require_same_vocabulary  # it loads torch
        for student in students:
            require_same_vocabulary(student, folder)
