"""Tasks that a folder describes itself, by a task.json beside its tables: what prepare_task.py makes of anybody's data.

train.tsv and dev.tsv have the header `label<TAB>sentence`, or `label<TAB>sentence1<TAB>sentence2`. test.tsv has that,
too, and is scored as a second dev set; or it has texts alone, which --do_predict answers. unlabelled.tsv has texts
alone, for both stages of distillation. Tabs and ends of lines in texts are spaces. task.json is a JSON object:

    version         1
    name            of letters, digits, _ and -; no known task's
    kind            "classes" or "score"
    labels          of classes: their names, in their order, at least two
    range           of a score: [lowest, highest]
    metric          of classes: acc, f1 (two classes: of the second), macro_f1, mcc; of a score: corr
    texts           1 or 2, of an example
    max_seq_length  longest sequence, in wordpieces
    rows            examples of each file by its name: train.tsv, dev.tsv and, where they are there, the other two
    test_has_labels with a test.tsv: whether it has
    settings        may be left out, as may each of it: those of SETTINGS that differ from the defaults
    made_from       may be left out: what the files were made from, for people
"""
from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformer.files import InputError, find_folder, find_input, read_json, write_json
from transformer.tasks.head import CLASS_METRICS, Classes, LabelHead, Score
from transformer.tasks.table import get_task, is_known_task, plain_name
from transformer.tasks.task import UNLABELLED_FILE, Task

TASK_JSON = "task.json"
TEST_FILE = "test.tsv"
SETTINGS = ("intermediate_epochs", "teacher_epochs", "teacher_learning_rate", "teacher_batch_size")

VERSION = 1
MIN_LENGTH = 8  # wordpieces
_NAME = re.compile(r"[^\W_][\w-]{0,63}")
_LABEL = re.compile(r"[^\t\n\r\0]+")
_HEADERS = {1: "label,sentence", 2: "label,sentence1,sentence2"}


def own_task(description: Any, where: str | Path, folder: Path | None = None) -> Task:
    """The task of a description as the first lines of this file tell it; InputError for what is none, naming `where`.

    folder: where its files are; None: nowhere, as of a run that was recorded elsewhere.
    """
    if not isinstance(description, dict):
        raise InputError(f"{where}: no description of a task: make it anew with prepare_task.py")
    read = _Reader(description, where)
    version = read.value("version", lambda value: type(value) is int, "a whole number")
    if version != VERSION:
        raise InputError(f"{where}: version {version}, this kit reads {VERSION}: make it anew with this kit's "
                         "prepare_task.py, or take the kit that made it")
    name = read.value("name", lambda value: isinstance(value, str) and is_task_name(value),
                      "a name of letters, digits, _ and -")
    if is_known_task(name) or name == "all":
        raise InputError(f"{where}: name {name!r} is that of a known task: choose another")
    head = _head(read)
    texts = read.value("texts", lambda value: type(value) is int and value in _HEADERS, "1 or 2")
    length = read.value("max_seq_length", lambda value: type(value) is int and value >= MIN_LENGTH,
                        f"a whole number from {MIN_LENGTH} on")
    rows = read.value("rows", lambda value: isinstance(value, dict), "a table of rows by file")
    counts = _Reader(rows, f"{where}, rows")
    train, dev, test, unlabelled = (counts.count(file, required) for file, required in
                                    (("train.tsv", True), ("dev.tsv", True), (TEST_FILE, False),
                                     (UNLABELLED_FILE, False)))
    counts.refuse_others()
    has_labels = bool(test) and read.value("test_has_labels", lambda value: isinstance(value, bool), "true or false")
    settings = _settings(_Reader(read.value("settings", lambda value: isinstance(value, dict), "a table", {}),
                                 f"{where}, settings"))
    read.value("made_from", lambda value: isinstance(value, dict), "a table", {})
    read.refuse_others()
    task = Task(name, tuple(range(1, texts + 1)), 0, head, (), (train, dev), _HEADERS[texts], is_strict=True,
                max_seq_length=length, teacher_max_seq_length=length, augment_copies_in_code=20,
                unlabelled_rows=unlabelled, folder=folder, **settings)
    if has_labels:
        return replace(task, rows=(*task.rows, test), dev_files=(*task.dev_files, TEST_FILE))
    return replace(task, submissions=(task.answering(TEST_FILE, test),)) if test else task


def is_task_name(name: str) -> bool:
    """Whether a name is of what a task's may be: up to 64 letters, digits, _ and -, first a letter or a digit."""
    return _NAME.fullmatch(name) is not None


class _Reader:
    """Reads values of a table, and says what is wrong with them."""

    def __init__(self, values: dict[str, Any], where: str | Path):
        self._values, self._where, self._read = values, where, []

    def value(self, name: str, is_good: Callable[[Any], Any], expected: str, default: Any = None) -> Any:
        """A value; the default, if there is one, where it is missing. InputError where it is not good."""
        self._read.append(name)
        if name not in self._values and default is not None:
            return default
        value = self._values.get(name)
        if not is_good(value):
            found = f"is {value!r:.60}" if name in self._values else "is missing"
            raise InputError(f"{self._where}: {name} {found}, expected {expected}: mend it, or make it anew with "
                             "prepare_task.py")
        return value

    def count(self, name: str, required: bool) -> int:
        """A number above 0; 0 for one that is missing and may be."""
        return self.value(name, lambda value: type(value) is int and value > 0, "a whole number above 0",
                          None if required else 0)

    def refuse_others(self) -> None:
        """InputError where there are values that nobody has read."""
        others = [name for name in self._values if name not in self._read]
        if others:
            raise InputError(f"{self._where}: unknown {', '.join(map(repr, others))}: take it out; known: "
                             f"{', '.join(self._read)}")


def _head(read: _Reader) -> LabelHead:
    kind = read.value("kind", lambda value: value in ("classes", "score"), "classes or score")
    if kind == "score":
        low, high = read.value("range", _is_range, "[lowest, highest], two numbers")
        read.value("metric", lambda value: value == "corr", "corr")
        return Score(float(low), float(high))
    labels = read.value("labels", _are_labels, "a list of at least two different names, without tabs")
    metrics = [name for name in CLASS_METRICS if len(labels) == 2 or name != "f1"]
    return Classes(tuple(labels), read.value("metric", metrics.__contains__, " or ".join(metrics) + (
        ", of more than two classes" if len(labels) > 2 else "")))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_range(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)) and value[0] < value[1]


def _are_labels(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1 and \
        all(isinstance(label, str) and _LABEL.fullmatch(label) for label in value) and len(set(value)) == len(value)


def _settings(read: _Reader) -> dict[str, Any]:
    values = {}
    for name in SETTINGS:
        default = getattr(Task, name)
        if type(default) is int:
            values[name] = read.count(name, required=False) or default
        else:
            values[name] = read.value(name, lambda value: _is_number(value) and value > 0, "a number above 0", default)
    read.refuse_others()
    return values


def described(task: Task) -> dict[str, Any]:
    """The description of which own_task() makes a task like this one."""
    files = dict(zip(("train.tsv", *task.dev_files), task.rows)) | {one.file: one.rows for one in task.submissions}
    if task.unlabelled_rows:
        files[UNLABELLED_FILE] = task.unlabelled_rows
    settings = {name: getattr(task, name) for name in SETTINGS if getattr(task, name) != getattr(Task, name)}
    return {"version": VERSION, "name": task.name, **task.head.described, "texts": task.segments,
            "max_seq_length": task.max_seq_length, "rows": files,
            **({"test_has_labels": TEST_FILE in task.dev_files} if TEST_FILE in files else {}),
            **({"settings": settings} if settings else {})}


def write_task(folder: str | Path, task: Task, made_from: dict[str, Any] | None = None) -> None:
    """Write task.json of a task of own_task() into the folder of its tables, which stand there: a script that finds it
    takes them for whole. InputError as read_task() of where it may not be."""
    path = Path(folder) / TASK_JSON
    _refuse_known_name(path)
    write_json(path, described(task) | ({"made_from": made_from} if made_from else {}))


def read_task(folder: str | Path) -> Task:
    """The task that a folder describes; InputError where task.json is none, or the folder has a known task's name."""
    path = Path(folder) / TASK_JSON
    _refuse_known_name(path)
    return own_task(read_json(path), path, Path(folder))


def recorded(task: Task) -> dict[str, Any]:
    """What a run's record tells of its task."""
    return {"task": task.name, **({"task_json": described(task)} if task.folder else {})}


def recorded_task(record: dict[str, Any], where: str | Path) -> Task:
    """The task of which a record of `where` tells what recorded() does; InputError where it tells of none."""
    if "task_json" in record:
        return own_task(record["task_json"], f"{where}, task_json")
    return get_task(str(record.get("task")))


def _refuse_known_name(path: Path) -> None:
    name = path.resolve().parent.name
    if is_known_task(name):
        raise InputError(f"{path} describes a task in a folder with the name of a known one, {get_task(name).name}: "
                         "rename the folder, or move task.json away")


def is_described(folder: str | Path) -> bool:
    """Whether a folder describes a task; find_input() says where it is looked for."""
    with contextlib.suppress(InputError):
        return (find_input(folder) / TASK_JSON).is_file()
    return False


def open_task(name: str | None, folder: str | Path) -> Task:
    """The task called `name` whose files are in `folder`, or in a folder of it: a known one, or one that its folder
    describes, which may be called by its own name or the folder's, or by none where `folder` itself describes it.

    InputError where there is no such task, or the folder holds another.
    """
    folder, known = Path(folder), name is not None and is_known_task(name)
    if not known:
        with contextlib.suppress(InputError):  # a known task's folder is looked for, and missed, where it is read
            folder = find_input(folder)
    if (folder / TASK_JSON).is_file():
        task = read_task(folder)
        if name is not None and plain_name(name) not in map(plain_name, (task.name, folder.resolve().name)):
            raise InputError(f"{folder} holds the task {task.name} ({TASK_JSON} says so), not {name}: name that, or "
                             "another folder")
        return task
    if name is None:
        raise InputError(f"{find_folder(folder)} holds no {TASK_JSON}, which would tell what its task is: name a known "
                         "task, or the folder of your own that prepare_task.py made")
    for inside in dict.fromkeys((folder / name, folder / get_task(name).name) if known else (folder / name,)):
        if (inside / TASK_JSON).is_file():
            return read_task(inside)
    try:
        return get_task(name)
    except InputError as error:
        raise InputError(f"{error}; nor does {folder / name} hold the {TASK_JSON} of one of your own") from None
