"""Tables of others, row by row: CSV, TSV, JSON lines, Parquet, and what Hugging Face's datasets saves to disk.

What a file is, its name says; what has none of the names is CSV. No table is held in memory.
"""
from __future__ import annotations

import codecs
import contextlib
import csv
import functools
import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from transformer.files import MAX_LINE_BYTES, InputError, find_input, in_words, read_json, read_line, refuse_foreign

if TYPE_CHECKING:
    from pyarrow import RecordBatch, Schema

DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}  # looked for in this order

_LONGEST_FIELD = 1 << 22   # characters of a CSV's: a quote that is never closed is not followed to the end of the file
_SHOWN_COLUMNS = 30        # of a table that lacks one
_WORKBOOKS = (".xlsx", ".xls", ".ods")


class ForeignTable(ABC):
    """A table of others: its path; names, of its columns, in their order; note, on how it is read; classes, by column,
    where the table names them itself, in their order."""
    number_of = "row"       # what place() counts
    has_encoding = False    # whether it is text
    has_delimiter = False   # whether it is CSV

    def __init__(self, path: Path, names: list[str], note: str):
        self.path = path
        self.names = names
        self.note = note
        self.classes: dict[str, list[str]] = {}

    @abstractmethod
    def rows(self, columns: Sequence[str]) -> Iterator[tuple[int, list[Any]]]:
        """The number of each row (of its first line in a file of text) and its values in some columns: texts, numbers,
        True or False, None for what is missing. InputError for what is no row."""

    def place(self, number: int) -> str:
        """Where a row stands, for messages."""
        return f"{self.path}, {self.number_of} {number}"

    def require(self, columns: Sequence[str]) -> None:
        """InputError, with the names that there are, where a column is missing or there twice."""
        for column in columns:
            if column not in self.names:
                shown = ", ".join(map(repr, self.names[:_SHOWN_COLUMNS])) + ", ..." * (
                    len(self.names) > _SHOWN_COLUMNS)
                raise InputError(f"{self.path} has no column {column!r} ({self.note}); its columns: {shown}")
            if self.names.count(column) > 1:
                raise InputError(f"{self.path} has {self.names.count(column)} columns {column!r}: rename all but one")


class _Text(ForeignTable):
    """A table in a file of text."""
    number_of = "line"
    has_encoding = True

    def __init__(self, path: Path, encoding: str):
        if codecs.lookup(encoding).name == "utf-8":
            refuse_foreign(path)
            encoding = "utf-8-sig"  # Excel begins a file with a byte-order mark
        self.encoding = encoding
        super().__init__(path, [], "")

    def lines(self, newline: str) -> Iterator[str]:
        """The lines with their ends; InputError where bytes are not of the encoding, for a NUL, and for a line that
        has no end. newline: as of open()."""
        number = 0
        with open(self.path, encoding=self.encoding, newline=newline) as handle:
            try:
                for number, line in enumerate(_bounded(handle), 1):
                    if "\0" in line:
                        raise InputError(f"{self.place(number)}: holds a NUL: the file is damaged, or in another "
                                         "encoding, which --encoding names, such as utf-16")
                    if len(line) >= MAX_LINE_BYTES:
                        raise InputError(f"{self.place(number)}: has no end within {MAX_LINE_BYTES >> 20} MB: this is "
                                         "no table, or a damaged one")
                    yield line
            except UnicodeError:
                raise InputError(self._undecodable()) from None

    def _undecodable(self) -> str:
        """Which byte is not of the encoding. Reads the file again: for messages."""
        decoder = codecs.getincrementaldecoder(self.encoding)()
        number, why = 0, "it ends within a character"
        with open(self.path, "rb") as handle:
            try:
                for line in iter(functools.partial(read_line, handle), b""):
                    number += 1
                    decoder.decode(line)
                line = b""
                decoder.decode(line, final=True)
            except UnicodeDecodeError as error:
                if error.start < len(line):
                    why = f"byte {error.start + 1} of the line is 0x{error.object[error.start]:02x}"
            except UnicodeError as error:  # UTF-16 without its mark
                why = str(error)
        return (f"{self.place(number)}: not {self.encoding.removesuffix('-sig')} ({why}): save the file as utf-8, or "
                "say what it is with --encoding, such as cp1252 (Excel in the West) or gb18030 (in China)")


def _bounded(handle: TextIO) -> Iterator[str]:
    return iter(functools.partial(handle.readline, MAX_LINE_BYTES), "")


class _Csv(_Text):
    """A table whose fields may stand in quotes, as RFC 4180 has it, with any delimiter."""
    has_delimiter = True

    def __init__(self, path: Path, encoding: str, delimiter: str | None, wanted: Sequence[str]):
        super().__init__(path, encoding)
        headers = {mark: self._header(mark) for mark in dict.fromkeys((*DELIMITERS.values(), *(delimiter or "")))}
        fitting = [mark for mark, names in headers.items() if set(wanted) <= set(names)]
        most = max(headers, key=lambda mark: len(headers[mark]))
        self.delimiter = delimiter or next(iter(fitting), most)
        self.names = headers[self.delimiter]
        self.note = f"CSV, columns parted by {shown_delimiter(self.delimiter)}"
        if not self.names:
            raise InputError(f"{path} is empty, or its first line is no row of names")
        if delimiter and not set(wanted) <= set(self.names):
            guess = next(iter(fitting), None if len(self.names) > 1 or most == delimiter else most)
            if guess:
                raise InputError(f"{path} has {len(self.names)} column{'s' * (len(self.names) > 1)} with --delimiter "
                                 f"{shown_delimiter(delimiter)}, and {len(headers[guess])} with "
                                 f"{shown_delimiter(guess)}: try --delimiter {shown_delimiter(guess)}")

    def _header(self, delimiter: str) -> list[str]:
        """The names in the first row; none where it is no row with this delimiter."""
        reader = csv.reader(self.lines(""), delimiter=delimiter, strict=True)
        try:
            return [name.strip() for name in next(reader, [])]
        except csv.Error:
            return []

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
        """See ForeignTable; empty lines are passed over."""
        csv.field_size_limit(_LONGEST_FIELD)
        places, width = [self.names.index(column) for column in columns], len(self.names)
        reader = csv.reader(self.lines(""), delimiter=self.delimiter, strict=True)
        last = 0  # line of the row before
        try:
            next(reader)
            last = reader.line_num
            for row in reader:
                if len(row) == width:
                    yield last + 1, [row[place] for place in places]
                elif row:
                    raise InputError(f"{self.place(last + 1)}: {len(row)} columns, expected {width} as in the header: "
                                     "a text that holds the delimiter, a quote or a line break has to stand in quotes")
                last = reader.line_num
        except csv.Error as error:
            raise InputError(f"{self.place(last + 1)}: the row that begins here is no CSV "
                             f"({_csv_reason(str(error))})") from None


def _csv_reason(error: str) -> str:
    if error == "unexpected end of data" or error.startswith("field larger"):
        return "a quote in it is never closed"
    if "expected after" in error:
        return "a closing quote with text behind it: within quotes a quote is written twice"
    return error


class _Tsv(_Text):
    """A table whose cells are parted by tabs, and where a quote is a character, as in GLUE."""

    def __init__(self, path: Path, encoding: str):
        super().__init__(path, encoding)
        self.note = "TSV, where quotes are characters"
        self.names = next(self._cells(), [])
        if self.names in ([], [""]):
            raise InputError(f"{path} is empty")

    def _cells(self) -> Iterator[list[str]]:
        return (line.removesuffix("\n").removesuffix("\r").split("\t") for line in self.lines("\n"))

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
        """See ForeignTable; empty lines are passed over."""
        places, width, quoted = [self.names.index(column) for column in columns], len(self.names), 0
        for number, cells in enumerate(self._cells(), 1):
            if len(cells) != width and cells != [""]:
                raise InputError(f"{self.place(number)}: {len(cells)} columns, expected {width} as in the header; "
                                 "where texts with tabs or line breaks stand in quotes, --delimiter tab reads them")
            if number > 1 and cells != [""]:
                row = [cells[place] for place in places]
                quoted += any(cell.startswith('"') and '""' in cell for cell in row)
                yield number, row
        if quoted:
            print(f"warning: {self.path}: {quoted:,} rows have texts in quotes, with doubled ones in them: --delimiter "
                  "tab takes them off, as of CSV", flush=True)


class _JsonLines(_Text):
    """A JSON object in each line, as pandas writes them with orient="records", lines=True."""

    def __init__(self, path: Path, encoding: str, looked_for: Set[str]):
        super().__init__(path, encoding)
        self.note = "JSON lines"
        names: dict[str, None] = {}
        for _, row in self._objects():
            names |= dict.fromkeys(row)
            if looked_for <= names.keys():  # the first row may lack one: some programs leave out what is null
                break
        if not names:
            raise InputError(f"{path} is empty")
        self.names = list(names)

    def _objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in enumerate(self.lines("\n"), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                row = [] if number == 1 and line.lstrip().startswith("[") else error
            if isinstance(row, list):
                raise InputError(f"{self.place(number)}: a list, and not one object a line: in pandas, write it with "
                                 "to_json(FILE, orient='records', lines=True)")
            if not isinstance(row, dict):
                why = f" ({row})" if isinstance(row, Exception) else ""
                raise InputError(f"{self.place(number)}: no JSON object{why}; the file may be cut short")
            yield number, row

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[int, list[Any]]]:
        """See ForeignTable; what a row lacks is None."""
        for number, row in self._objects():
            yield number, [row.get(column) for column in columns]


class _Arrow(ForeignTable):
    """A table in Arrow's memory: Parquet, or the files of datasets. Numbers of classes that it names are the names."""

    def __init__(self, path: Path, note: str, schema: Schema, batches: Callable[[list[str]], Iterator[RecordBatch]]):
        super().__init__(path, list(schema.names), note)
        self._batches = batches
        told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = told.get("info", {}).get("features", {})
        self.classes = {name: feature["names"] for name, feature in features.items()
                        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"}

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[int, list[Any]]]:
        """See ForeignTable; of named classes -1, which datasets has for none, is None."""
        classes = {place: self.classes[column] for place, column in enumerate(columns) if column in self.classes}
        for number, row in enumerate(self._values(columns), 1):
            for place, names in classes.items():
                if not isinstance(label := row[place], int):
                    continue
                if not -1 <= label < len(names):
                    raise InputError(f"{self.place(number)}: class {label}, and the file names {len(names)}")
                row[place] = None if label == -1 else names[label]
            yield number, row

    def _values(self, columns: Sequence[str]) -> Iterator[list[Any]]:
        for batch in self._batches(list(columns)):
            places = map(batch.schema.get_field_index, columns)
            yield from map(list, zip(*(batch.column(place).to_pylist() for place in places)))


def _pyarrow(module: str, path: Path, what: str) -> Any:
    """A module of pyarrow; InputError where it is not installed."""
    try:
        return importlib.import_module(f"pyarrow.{module}")
    except ImportError:
        raise InputError(f"{path} is {what}, which the package pyarrow reads, and that is not installed: pip install "
                         "pyarrow, or save the table as CSV or JSON lines") from None


def _open_parquet(path: Path) -> _Arrow:
    parquet = _pyarrow("parquet", path, "Parquet")
    with _undamaged(path):
        file = parquet.ParquetFile(path)

        def batches(columns: list[str]) -> Iterator[RecordBatch]:
            with _undamaged(path):
                yield from file.iter_batches(4096, columns=columns)

        return _Arrow(path, "Parquet", file.schema_arrow, batches)


def _open_arrow(path: Path, files: list[Path]) -> _Arrow:
    """Files as datasets writes them, Arrow's streams, of one schema, one after the other."""
    ipc = _pyarrow("ipc", path, "a table of Hugging Face's datasets, in Arrow files")
    memory_map = importlib.import_module("pyarrow").memory_map

    def batches(_: list[str]) -> Iterator[RecordBatch]:
        for file in files:
            with _undamaged(file):
                yield from ipc.open_stream(memory_map(str(file)))

    with _undamaged(files[0]):
        return _Arrow(path, "saved by datasets", ipc.open_stream(memory_map(str(files[0]))).schema, batches)


@contextlib.contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    """InputError for what pyarrow cannot read."""
    try:
        yield
    except (importlib.import_module("pyarrow").ArrowException, OSError) as error:
        raise InputError(f"{path} is damaged, or not what it is called ({in_words(error)}): make or get it again"
                         ) from None


def splits_of(path: str | Path) -> dict[str, Path]:
    """The folders of the splits by their names, of what datasets saves of several; empty of anything else."""
    table = Path(path) / "dataset_dict.json"
    return {str(name): Path(path) / str(name) for name in read_json(table).get("splits", ())} if table.is_file() else {}


def _open_folder(path: Path) -> _Arrow:
    if splits := splits_of(path):
        raise InputError(f"{path} holds the splits {', '.join(splits)}: name the folder of one, such as "
                         f"{next(iter(splits.values()))}")
    state = path / "state.json"
    if not state.is_file():
        raise InputError(f"{path} is a folder, and not one that datasets has saved with save_to_disk (state.json is "
                         "missing): name a file")
    files = read_json(state).get("_data_files")
    if not files or not all(isinstance(file, dict) and (path / str(file.get("filename"))).is_file() for file in files):
        raise InputError(f"{state} names no files, or some that are not there: save the dataset again")
    return _open_arrow(path, [path / file["filename"] for file in files])


def shown_delimiter(delimiter: str) -> str:
    """A delimiter as --delimiter takes it: its name, or itself."""
    return next((name for name, mark in DELIMITERS.items() if mark == delimiter), delimiter)


def open_source(path: str | Path, wanted: Sequence[str], encoding: str, delimiter: str | None,
                optional: Sequence[str]) -> ForeignTable:
    """The table in a file, or in a folder that datasets has saved.

    wanted: names of columns, by which the delimiter of a CSV is found where that is None; a TSV with a delimiter is
    read as CSV. optional: names of more, which JSON lines are searched for, too. InputError where the file is missing,
    empty, damaged or of another kind, where a column of `wanted` is missing, and where pyarrow would be needed and is
    not installed.
    """
    path = find_input(path)
    kind = path.suffix.lower()
    if path.is_dir():
        source: ForeignTable = _open_folder(path)
    elif kind in _WORKBOOKS:
        raise InputError(f"{path} is a workbook: save the sheet as CSV UTF-8")
    elif kind in (".parquet", ".pq"):
        source = _open_parquet(path)
    elif kind == ".arrow":
        source = _open_arrow(path, [path])
    elif kind in (".jsonl", ".ndjson", ".json"):
        source = _JsonLines(path, encoding, {*wanted, *optional})
    elif kind in (".tsv", ".tab") and delimiter is None:
        source = _Tsv(path, encoding)
    else:
        source = _Csv(path, encoding, delimiter, wanted)
    source.require(wanted)
    return source
