"""Big files in parts: byte ranges of a text file that hold whole lines, and files that grow by whole parts."""
from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

from transformer.files import InputError, locked, naming, read_line, refuse_foreign

FilePart = tuple[Path, int, int]  # of a file: from which byte to which

_SECONDS_BETWEEN_SAVES = 1.0  # of work that a kill can cost; waiting for the disk after every part would cost more


def byte_ranges(path: str | Path, part_bytes: int) -> list[tuple[int, int]]:
    """Cut a file into (start, stop) of about `part_bytes` each, at line ends: every range holds whole lines.

    Raises InputError as files.read_line() and refuse_foreign() do.
    """
    refuse_foreign(path)
    size = Path(path).stat().st_size
    cuts = [0]
    with open(path, "rb") as handle:
        while cuts[-1] < size:
            handle.seek(min(cuts[-1] + part_bytes, size) - 1)
            read_line(handle)  # the rest of the line that reaches over the cut
            cuts.append(handle.tell())
    return list(pairwise(cuts))


def read_range(path: str | Path, start: int, stop: int) -> bytes:
    """Bytes start to stop of a file."""
    with open(path, "rb") as handle:
        handle.seek(start)
        return handle.read(stop - start)


def decode_lines(path: str | Path, start: int, content: bytes) -> list[str]:
    """Lines of `content`, bytes of a UTF-8 text file from `start` on, as files.read_lines() gives them.

    Raises InputError naming the line of the file when the bytes are not valid UTF-8.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line_start = content.rfind(b"\n", 0, error.start) + 1
        number = line_number(path, start + line_start)
        raise InputError(f"{path}, line {number}: not valid UTF-8 ({error.reason} at byte {error.start - line_start}); "
                         "convert the file to UTF-8") from None
    if start == 0:
        text = text.removeprefix("\ufeff")
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()  # nothing follows the last line end
    return [line.removesuffix("\r") for line in lines] if "\r" in text else lines


def line_number(path: str | Path, position: int) -> int:
    """Number, from 1, of the line that begins at byte `position` of a file. Reads all before it: for messages."""
    number = 1
    with open(path, "rb") as handle:
        while block := handle.read(min(1 << 20, position - handle.tell())):
            number += block.count(b"\n")
    return number


@dataclass
class Place:
    """Line `index`, from 0, of those from byte `start` of a file on. Its number is counted when it is printed."""
    path: str | Path
    start: int
    index: int = 0

    def __str__(self) -> str:
        return f"{self.path}, line {line_number(self.path, self.start) + self.index}"


class GrowingFiles:
    """Files of one folder that grow together by whole parts; a killed run goes on after the last part saved.

    progress.jsonl in the folder holds the facts that the contents follow from, then a record for each part with the
    sizes of the files after it. What the files hold beyond the last record is cut off when they are opened again;
    where the facts are others they start empty. Use it in a with statement: the folder belongs to one process at a
    time, and another one is refused (InputError), or waits for its turn where `wait` is true.

    Attributes: folder; records, those of all parts, in order; dropped, how many parts were there of other facts.
    """

    def __init__(self, folder: Path, names: Sequence[str], facts: dict[str, Any], wait: bool = False):
        progress = folder / "progress.jsonl"
        # in this order: a process that makes the folder at this moment begins with progress.jsonl
        if folder.is_dir() and any(folder.iterdir()) and not progress.exists():
            raise InputError(f"{folder} holds files of something else: name another place, or move them away")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._lock = contextlib.ExitStack()
        self._lock.enter_context(locked(progress, wait))
        self._progress = open(progress, "a+b")
        self._files = [open(folder / name, "ab") for name in names]
        self._facts = _json_line(facts)
        self._pending: list[bytes] = []
        self._saved_at = time.monotonic()
        self.dropped = 0
        self.records = self._read_progress()
        self.keep(len(self.records))

    def __enter__(self) -> GrowingFiles:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        disk_failed = kind is not None and issubclass(kind, OSError)
        try:
            if not disk_failed:
                self.save()
        finally:
            for file in [*self._files, self._progress]:
                with contextlib.suppress(OSError):  # what could not be written once is not in the records
                    file.close()
            self._lock.close()

    def _read_progress(self) -> list[dict[str, Any]]:
        """Records of the parts that are whole; none where the facts are others."""
        self._progress.seek(0)
        if self._progress.readline() != self._facts:
            self.dropped = sum(1 for _ in self._progress)
            self._progress.truncate(0)
            self._progress.write(self._facts)
            return []
        sizes = [os.fstat(file.fileno()).st_size for file in self._files]
        records = []
        for line in self._progress:
            try:
                record = json.loads(line)
            except ValueError:
                break  # cut short by a crash
            whole = line.endswith(b"\n") and record.get("part") == len(records)
            if not whole or any(size < needed for size, needed in zip(sizes, record["sizes"], strict=True)):
                break  # a crash of the machine lost some of it, or of what it speaks of
            records.append(record)
        return records

    def keep(self, count: int) -> None:
        """Go back to the first `count` parts."""
        self.save()
        self.records = self.records[:count]
        self._progress.truncate(len(self._facts) + sum(len(_json_line(record)) for record in self.records))
        for file, size in zip(self._files, self.sizes, strict=True):
            file.truncate(size)

    @property
    def sizes(self) -> list[int]:
        """Bytes in each file."""
        return self.records[-1]["sizes"] if self.records else [0] * len(self._files)

    def append(self, blocks: Sequence[bytes], **record: Any) -> None:
        """Add a part: the bytes for each file, and what to remember of it."""
        sizes = [size + len(block) for size, block in zip(self.sizes, blocks, strict=True)]
        for file, block in zip(self._files, blocks, strict=True):
            with naming(file.name):
                file.write(block)
        self.records.append({"part": len(self.records), "sizes": sizes, **record})
        self._pending.append(_json_line(self.records[-1]))
        if time.monotonic() - self._saved_at > _SECONDS_BETWEEN_SAVES:
            self.save()

    def save(self) -> None:
        """Bring all parts to the disk, then their records."""
        for file in self._files:
            _to_disk(file)
        pending, self._pending = self._pending, []  # at once: an interrupted save() must not write a record twice
        self._progress.writelines(pending)
        _to_disk(self._progress)
        self._saved_at = time.monotonic()


def _to_disk(file: IO[bytes]) -> None:
    with naming(file.name):
        file.flush()
        os.fsync(file.fileno())


def _json_line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"
