"""The TSV files of tasks: their folders, headers and rows."""
from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from transformer.data.parts import FilePart, Place, decode_lines, read_range
from transformer.files import InputError, read_lines
from transformer.tasks.labels import parse_label
from transformer.tasks.table import TASKS
from transformer.tasks.task import Task


def task_folder(glue_dir: str | Path, task: Task) -> Path:
    """The task's folder: the one that describes it; else `glue_dir`/NAME, or `glue_dir` itself where that is the task's
    folder."""
    if task.folder:
        return task.folder
    inside = Path(glue_dir) / task.name
    return Path(glue_dir) if not inside.is_dir() and Path(glue_dir).name == task.name else inside


def data_folder(data_dir: str | Path, task: Task) -> Path:
    """The folder that describes the task; else `data_dir`, which holds the task's files whatever its name, or
    `data_dir`/NAME where they are there, said aloud."""
    if task.folder:
        return task.folder
    data_dir, inside = Path(data_dir), Path(data_dir) / task.name
    if not inside.is_dir() or (data_dir / task.train_file).exists():
        return data_dir
    print(f"{data_dir} holds the folder of {task.name}: taking {inside}", flush=True)
    return inside


def require_file(task: Task, path: str | Path) -> Path:
    """The path; InputError where there is no such file of the task's folder, which tells how to get it."""
    path = Path(path)
    if not path.is_file() and path.parent == task.folder:
        raise InputError(f"{path} does not exist, and task.json beside it counts its rows: put it back, or make the "
                         "folder anew with prepare_task.py")
    if not path.is_file():
        place = f" --data_dir {path.parent.parent}" if path.parent.name == task.name else ""
        raise InputError(f"{path} does not exist: name the folder that holds it, or make it with "
                         f"`python download_glue.py --tasks {task.name}{place}`")
    return path


def row_width(task: Task, path: str | Path) -> int:
    """Columns of a row of a TSV file: as many as its header has, since dev files of MNLI have more than train.tsv,
    or as train.tsv has where the task has no header. InputError: no such file; a header too short, too long, damaged,
    or of another task; an example in its place, or a header where the task has none."""
    path = require_file(task, path)
    first = next(read_lines(path), None)
    if first is None:
        return task.train_columns
    where = f"{path}, line 1"
    _refuse_nul(first, task, where)
    columns = first.split("\t", 2 * task.train_columns)  # at most: no list of a million columns is made
    if not task.has_header:
        _refuse_header(task, columns, where)
        return task.train_columns
    if not task.train_columns <= len(columns) <= 2 * task.train_columns:
        width = first.count("\t") + 1
        raise InputError(f"{where}: {width} columns, expected the {task.train_columns} of {task.name}")
    _check_header(task, columns, where)
    return len(columns)


def _is_label(task: Task, columns: Sequence[str]) -> bool:
    try:
        return not math.isnan(parse_label(task, columns, ""))
    except InputError:
        return False


def _files_with_header(names: str) -> list[tuple[Task, str]]:
    """GLUE's files whose official header is `names`: the task as such a file is laid out, and what to call the file."""
    files = [(header, task, task.name) for task in TASKS.values() if task.has_header
             for header in (task.header, task.dev_header)]
    files += [(submission.header, task.for_test(submission), f"{submission.name}'s test set")
              for task in TASKS.values() for submission in task.submissions]
    return [(task, name) for header, task, name in files if header == names]


def _refuse_header(task: Task, columns: Sequence[str], where: str) -> None:
    """InputError where the first line of a file without header is one."""
    others = " or ".join(name for _, name in _files_with_header(",".join(columns)))
    if others or len(columns) == task.train_columns and not _is_label(task, columns):
        what = f"the header of {others}" if others else f"{columns[task.label_column]!r} in the place of the label"
        raise InputError(f"{where}: {what}. The train and dev files of {task.name} have no header: remove the line if "
                         f"the rest of the file is {task.name}'s")


@functools.cache  # a file that is read again is not reported again
def _report_header(where: str, names: str, task: str) -> None:
    print(f"{where}: taken as the header, though its names are not those of {task}: {names[:200]}", flush=True)


def _check_header(task: Task, columns: Sequence[str], where: str) -> None:
    """InputError where a first line is no header, or the official one of a file with other columns; said where its
    names are nobody's."""
    names = ",".join(columns)
    if names == task.header:
        return
    if task.is_strict:
        what = "its texts alone" if task.label_column is None else "its labelled texts"
        raise InputError(f"{where}: the header of a file of {task.name} with {what} is, with tabs for the commas, "
                         f"{task.header}, and here stands {' '.join(columns)[:100]!r}")
    wanted = next((header for header in (task.dev_header, task.header)
                   if header and header.count(",") == names.count(",")), task.header)
    if _is_label(task, columns) or columns[0].isdecimal():  # an index or an id, which also test sets have
        raise InputError(f"{where}: an example, not a header: it would be lost. Put the header above it, with tabs "
                         f"for the commas: {wanted}")
    found = _files_with_header(names)
    if not found:
        _report_header(where, " ".join(columns), task.name)
    elif not any(other.name == task.name and (other.text_columns == task.text_columns if task.label_column is None
                                              else other.label_column is not None) for other, _ in found):
        own = f"{task.name}'s test set" if task.label_column is None else task.name
        raise InputError(f"{where}: the header of {' or '.join(name for _, name in found)}, expected that of "
                         f"{own}: {wanted}")


def _refuse_nul(line: str, task: Task, where: object) -> None:
    if "\0" in line:
        raise InputError(f"{where}: holds a NUL: the file is damaged, get it again ({task.name})")


def split_row(task: Task, line: str, width: int, where: object) -> list[str] | None:
    """The `width` columns of a line, tab-separated without quoting: a `"` is a character.

    QQP's official labelled files hold some rows with too few, to be skipped: None. Anywhere else such a row is an
    InputError, in which `where` (file, line) stands; so is a NUL, the mark of a damaged file.
    """
    _refuse_nul(line, task, where)
    columns = line.count("\t") + 1  # counted first: no list of a million columns is made
    if columns == width:
        return line.split("\t")
    if columns < width and task.name == "QQP" and task.label_column is not None:
        return None
    raise InputError(f"{where}: {columns} columns, expected {width} ({task.name})")


@functools.cache  # a file that is read again is not reported again
def report_rows(path: str, examples: int, skipped: int, width: int) -> None:
    """Say how many rows were skipped; InputError where there are no others."""
    if skipped:
        print(f"{path}: skipped {skipped} rows with fewer than {width} columns", flush=True)
    if not examples:
        raise InputError(f"{path} holds no examples")


def table_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """(number, line) of the lines of a file; an empty last one is passed over."""
    for number, (line, following) in enumerate(itertools.pairwise(itertools.chain(read_lines(path), (None,))), 1):
        if line or following is not None:
            yield number, line


def read_rows(task: Task, path: str | Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, columns) of a TSV file of `task`, its header left out; see split_row()."""
    width = row_width(task, path)
    skipped = rows = 0
    for number, line in table_lines(path):
        if number == 1 and task.has_header:
            continue
        columns = split_row(task, line, width, f"{path}, line {number}")
        if columns is None:
            skipped += 1
            continue
        rows += 1
        yield number, columns
    report_rows(str(path), rows, skipped, width)


def count_classes(task: Task, path: str | Path) -> tuple[int, dict[str, int]]:
    """The examples of a labelled file, and the first line of each of the task's classes in it. InputError as
    read_rows()."""
    rows, lines = 0, {}
    for number, columns in read_rows(task, path):
        rows += 1
        label = columns[task.label_column]
        if label not in lines and label in task.labels:
            lines[label] = number
    return rows, lines


def rows_of_part(task: Task, part: FilePart, width: int) -> Iterator[tuple[list[str] | None, float]]:
    """The columns and the label of each row in a part of a TSV file, its header and an empty last line left out; None
    for a row that is skipped. InputError as split_row() and parse_label()."""
    path, start, stop = part
    where = Place(path, start)
    lines = decode_lines(path, start, read_range(path, start, stop))
    if lines and not lines[-1] and stop == Path(path).stat().st_size:
        lines.pop()
    header = int(start == 0 and task.has_header)
    for where.index, line in enumerate(lines[header:], header):
        columns = split_row(task, line, width, where)
        yield columns, math.nan if columns is None else parse_label(task, columns, where)
