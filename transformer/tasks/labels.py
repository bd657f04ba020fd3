"""The labels of a task: in the rows of its files, and in the config.json of its models."""
from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformer.families import CLASS_KEYS
from transformer.files import InputError
from transformer.tasks.head import shortened
from transformer.tasks.task import Task

UNTRAINED = "untrained_classifier"  # key of config.json

_NUMBERED = re.compile(r"(label_)?\d+", re.I)  # a name that tells nothing of a class


def parse_label(task: Task, columns: Sequence[str], where: object) -> float:
    """The label of a row, a number as its head reads it; NaN of a test set. `where` (file, line) goes into the
    InputError."""
    if task.label_column is None:
        return math.nan
    text = columns[task.label_column]
    label = task.head.read_label(text)
    if label is None:
        raise InputError(f"{where}: {task.head.label_word} {text!r}, expected {task.head.expected} ({task.name}): "
                         "correct it, or name the task that this file is of")
    return label


def name_labels(extra: dict[str, Any], task: Task, trained: bool = True) -> None:
    """Record the outputs of the task's head in a config's `extra` keys, as Hugging Face does: id2label, label2id,
    problem_type; of a head without classes nothing.

    trained: whether the head is trained, or is about to be; where it is not, the key UNTRAINED says so.
    """
    extra.pop(UNTRAINED, None)
    if not trained:
        extra[UNTRAINED] = True
    extra["finetuning_task"] = task.name
    if task.head.problem_type is None:
        for name in CLASS_KEYS:
            extra.pop(name, None)
        return
    extra.update(id2label={str(i): label for i, label in enumerate(task.head.outputs)},
                 label2id={label: i for i, label in enumerate(task.head.outputs)},
                 problem_type=task.head.problem_type)


def class_order(extra: dict[str, Any], task: Task, folder: str | Path) -> list[int]:
    """For each class of the task, the model's column for it, read from `id2label` in a config's `extra` keys.

    MNLI models of different origin order their classes differently. Where names tell nothing, since the model's
    (LABEL_0, ..., as where Hugging Face writes none) or the task's (0, 1) are numbers, the columns are taken in the
    task's order, and that is printed unless both are; those of a head without classes are always taken so. Raises
    InputError where id2label names other classes.
    """
    if task.head.problem_type is None:
        return list(range(task.head.width))
    id2label = extra.get("id2label") or {}
    if not isinstance(id2label, dict) or sorted(map(str, id2label)) != sorted(map(str, range(len(id2label)))):
        raise InputError(f"{folder}/config.json: id2label is no table of columns from 0 on: correct {id2label}")
    columns = sorted((int(column), str(label)) for column, label in id2label.items())
    wanted = task.head.names
    found = [label for _, label in columns] or [f"LABEL_{column}" for column in range(task.head.width)]
    for spelling in (str, str.lower):
        named = {spelling(label): column for column, label in columns}
        if len(named) == len(columns) == len(wanted) and {*map(spelling, wanted)} == named.keys():
            return [named[spelling(label)] for label in wanted]
    if {label.lower() for label in found}.isdisjoint(label.lower() for label in wanted):
        numbered = [all(map(_NUMBERED.fullmatch, names)) for names in (found, wanted)]
        if any(numbered):
            if not all(numbered):
                _report_order(str(folder), *map(shortened, (found, wanted)), task.name)
            return list(range(task.head.width))
    raise InputError(f"{folder}/config.json: id2label {shortened(sorted(found))} does not fit the labels of "
                     f"{task.name}, {shortened(sorted(wanted))}: if they are the same classes, call them so there, "
                     "each in its column")


@functools.cache  # a model that is read again is not reported again
def _report_order(folder: str, found: str, wanted: str, task: str) -> None:
    print(f"{folder}: its classes {found} are taken, in this order, for {wanted} of {task}: if that is wrong, "
          "name each column there, by id2label in config.json, as the task calls its class", flush=True)
