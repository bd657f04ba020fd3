"""The labels of a task: in the rows of its files, and in the config.json of its models."""
from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformer.families import CLASS_KEYS
from transformer.files import InputError
from transformer.tasks.task import Task

UNTRAINED = "untrained_classifier"  # key of config.json


def parse_label(task: Task, columns: Sequence[str], where: object) -> float:
    """The label of a row, a number as its head reads it; NaN of a test set. `where` (file, line) goes into the
    InputError."""
    if task.label_column is None:
        return math.nan
    text = columns[task.label_column]
    label = task.head.read_label(text)
    if label is None:
        raise InputError(f"{where}: {task.head.label_word} {text!r}, expected {task.head.expected} ({task.name})")
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

    MNLI models of different origin order their classes differently. Where id2label does not name the task's labels
    (LABEL_0, ...), the columns are taken in the task's order, as those of a head without classes always are. Raises
    InputError where it names some of them only.
    """
    if task.head.problem_type is None:
        return list(range(task.head.width))
    id2label = extra.get("id2label") or {}
    if not isinstance(id2label, dict) or sorted(map(str, id2label)) != sorted(map(str, range(len(id2label)))):
        raise InputError(f"{folder}/config.json: id2label is no table of columns from 0 on: {id2label}")
    named = {str(label).lower(): int(column) for column, label in id2label.items()}
    labels = [label.lower() for label in task.head.names]
    known = [label in named for label in labels]
    if not any(known):
        return list(range(task.head.width))
    if not all(known) or len(named) != len(labels):
        raise InputError(f"{folder}/config.json: id2label {sorted(named)} does not fit the labels of {task.name}, "
                         f"{sorted(labels)}")
    return [named[label] for label in labels]
