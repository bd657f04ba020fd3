"""From the published archives of the Chinese tasks to the kit's own tables: train.tsv, dev.tsv, test.tsv.

The one place that knows how those are laid out: CLUE's and OCNLI's are lines of JSON, the others tables of their own.
A table of the kit has a header and one example a line, so tabs and ends of lines in a text become spaces.
"""
from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformer.files import InputError, atomic_write, read_lines
from transformer.tasks.json_stream import KINDS
from transformer.tasks.labels import parse_label
from transformer.tasks.task import Task

_LANGUAGE = "zh"  # of a file with a column `language`: the only rows wanted
_UNDECIDED = "-"  # in the place of the label where people did not agree: no example
_OTHER_SPELLINGS = {"contradictory": "contradiction"}  # of labels
_NO_CELL = re.compile(r"[\t\n\r\0]")        # what would end a cell or a row, or pass for damage
_ALTERED = "the file was altered, get it again"
_HALF_CHARACTER = re.compile(r"[\ud800-\udfff]")  # which JSON can spell and UTF-8 cannot


class _Row:
    """A row of a published file: its values by name, and where it stands."""

    def __init__(self, values: dict[str, Any], where: str):
        self.values, self.where = values, where

    def get(self, name: str, kind: type = str) -> Any:
        """A value; InputError where it is missing or of another kind."""
        if name not in self.values:
            raise InputError(f"{self.where}: no {name!r} among {', '.join(self.values) or 'nothing'}: {_ALTERED}")
        value = self.values[name]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise InputError(f"{self.where}: {name!r} is to be {KINDS[kind]}, and is {_shown(value)}: {_ALTERED}")
        return value

    def name(self, name: str) -> str:
        """A label or an id: a text, or a whole number."""
        value = self.values.get(name)
        return str(value) if type(value) is int else self.get(name)

    def row(self, name: str) -> _Row:
        """An object among the values."""
        return _Row(self.get(name, dict), f"{self.where}, {name!r}")


def _named(*names: str) -> Callable[[_Row], list[str]]:
    return lambda row: [row.get(name) for name in names]


def _tnews(row: _Row) -> list[str]:
    return [row.get("sentence"), row.get("keywords") if "keywords" in row.values else ""]


def _csl(row: _Row) -> list[str]:
    keywords = row.get("keyword", list)
    if not all(isinstance(word, str) for word in keywords):
        raise InputError(f"{row.where}: 'keyword' is to be a list of texts, and is {_shown(keywords)}: {_ALTERED}")
    return [" ".join(keywords), row.get("abst")]


def _wsc(row: _Row) -> list[str]:
    text, target = row.get("text"), row.row("target")
    return [marked(text, [(target.get(f"span{number}_index", int), target.get(f"span{number}_text"), opening, closing)
                          for number, opening, closing in ((1, "_", "_"), (2, "[", "]"))], target.where)]


def marked(text: str, spans: list[tuple[int, str, str, str]], where: str) -> str:
    """A text with marks around spans of it, as CLUE's baseline sets them: (index of the first character, the span,
    mark before it, mark behind it). InputError where the span does not stand there."""
    marks = []
    for start, span, opening, closing in spans:
        stop = start + len(span)
        if start < 0 or not span or text[start:stop] != span:
            raise InputError(f"{where}: {span!r} does not stand at character {start} of the text, where "
                             f"{text[max(start, 0):max(stop, 0)]!r} is: {_ALTERED}")
        marks += [(start, True, opening), (stop, False, closing)]
    for place, _, mark in sorted(marks, reverse=True):  # from the end, so that what is before stays where it is
        text = text[:place] + mark + text[place:]
    return text


@dataclass(frozen=True)
class _Table:
    """A table as it is made: of which file in the archives (its name, or how its path ends; one of several), the texts
    of a row of that, and the name of its label, or of its id in a test set."""
    sources: tuple[str, ...]
    texts: Callable[[_Row], list[str]]
    first: str = "label"


def _json_files(texts: Callable[[_Row], list[str]], folder: str = "", other_trains: tuple[str, ...] = (),
                ) -> dict[str, _Table]:
    trains = "train.json", *other_trains
    return {"train.tsv": _Table(tuple(folder + name for name in trains), texts),
            "dev.tsv": _Table((f"{folder}dev.json",), texts), "test.tsv": _Table((f"{folder}test.json",), texts, "id")}


_SENTENCES = _named("sentence1", "sentence2")
_TABLES = {
    "AFQMC": _json_files(_SENTENCES),
    "TNEWS": _json_files(_tnews),
    "IFLYTEK": _json_files(_named("sentence")),
    "CMNLI": _json_files(_SENTENCES) | {
        "diagnostics.tsv": _Table(("diagnostics_test.json",), _named("premise", "hypothesis"), "index")},
    "OCNLI": _json_files(_SENTENCES, "data/ocnli/", ("train.50k.json",)),
    "CSL": _json_files(_csl),
    "CLUEWSC2020": _json_files(_wsc),
    "ChnSentiCorp": {f"{name}.tsv": _Table((f"{name}.tsv",), _named("text_a")) for name in ("train", "dev", "test")},
    "XNLI-zh": {"train.tsv": _Table(("multinli.train.zh.tsv",), _named("premise", "hypo")),
                "dev.tsv": _Table(("xnli.dev.tsv",), _SENTENCES, "gold_label"),
                "test.tsv": _Table(("xnli.test.tsv",), _SENTENCES, "gold_label")},
}


def wanted_files(task: Task) -> tuple[str, ...]:
    """The files in the archives of a task that its tables can be made of: names, or how their paths end."""
    return tuple(name for table in _TABLES[task.name].values() for name in table.sources)


def write_tables(task: Task, unpacked: list[Path], folder: Path) -> None:
    """Write the files of a task, as its Task describes them, into `folder`, of its archives' files, which lie in the
    folders `unpacked`. Rows without a label on which people agreed are left out, and counted aloud.

    Raises InputError, with file and line, for what is no row of the task.
    """
    headers = {Path(submission.file).name: submission.header for submission in task.submissions}
    for name, table in _TABLES[task.name].items():
        path = _found(task, table, unpacked)
        undecided = 0
        with atomic_write(folder / name) as handle:
            handle.write(headers.get(name, task.header).replace(",", "\t") + "\n")
            for row in _rows(path):
                first = row.name(table.first)
                if first == _UNDECIDED:
                    undecided += 1
                    continue
                cells = [_OTHER_SPELLINGS.get(first, first), *table.texts(row)]
                if name not in headers:
                    parse_label(task, cells, row.where)
                handle.write("\t".join(map(as_cell, cells)) + "\n")
        if undecided:
            print(f"{task.name}/{name}: left out {undecided} rows whose label is {_UNDECIDED!r}", flush=True)


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:50]


def as_cell(text: str) -> str:
    """A text as it stands in a table of the kit: what would end a cell or a row, or pass for damage, is a space."""
    return _HALF_CHARACTER.sub("\ufffd", _NO_CELL.sub(" ", text))


def _found(task: Task, table: _Table, unpacked: list[Path]) -> Path:
    """The file of a table; InputError where there is none, or more than one."""
    for source in table.sources:
        paths = sorted(path for folder in unpacked for path in folder.rglob(source) if path.is_file())
        if len(paths) > 1:
            raise InputError(f"{paths[0]} and {paths[1]}: two files of one name, so that is no archive of {task.name}: "
                             "move it away, check where it came from, and run again")
        if paths:
            return paths[0]
    raise InputError(f"{' and '.join(map(str, unpacked))} holds no file {' or '.join(table.sources)}, so it is not "
                     f"that of {task.name}: move it away, check where it came from, and run again")


def _rows(path: Path) -> Iterator[_Row]:
    """The rows of a file of JSON lines, or of a table with a header; of one with languages those of _LANGUAGE."""
    rows = _json_rows(path) if path.suffix == ".json" else _table_rows(path)
    return (row for row in rows if row.values.get("language", _LANGUAGE) == _LANGUAGE)


def _json_rows(path: Path) -> Iterator[_Row]:
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: not valid JSON ({error}); the file may be cut short: get it again") from None
        if not isinstance(values, dict):
            raise InputError(f"{where}: is to be {KINDS[dict]}, and is {line[:50]}: {_ALTERED}")
        yield _Row(values, where)


def _table_rows(path: Path) -> Iterator[_Row]:
    lines = enumerate(read_lines(path), 1)
    names = next(lines, (0, ""))[1].split("\t")
    for number, line in lines:
        where, columns = f"{path}, line {number}", line.split("\t")
        if len(columns) != len(names):
            raise InputError(f"{where}: {len(columns)} columns, expected {len(names)} as in its first line: {_ALTERED}")
        yield _Row(dict(zip(names, columns)), where)
