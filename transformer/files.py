"""Files and folders: the error that users see, atomic writing, finding inputs, fingerprints.

Nothing here imports torch or numpy, so that `--help` and refused flags answer at once.
"""
from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


class InputError(Exception):
    """Something the user gave cannot be used. The message is one line: what, where, how to mend it."""


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Open a temporary file beside `path`; rename it over `path` only when the block ends without an error.

    Text is UTF-8 with "\\n" line ends. A reader sees the old file or the whole new one, never a part,
    even when the machine loses power: the data reach the disk before the rename does.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        with open(temporary, mode, **text) as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_write(path) as handle:
        json.dump(value, handle, indent=2, ensure_ascii=False)
        handle.write("\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file; InputError if it is missing or is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); it may be cut short: get or make it again") from None


def read_lines(path: str | Path) -> Iterator[str]:
    """Lines of a UTF-8 text file without their ends ("\\n" or "\\r\\n"); a leading byte-order mark is dropped.

    Only "\\n" ends a line: str.splitlines() would also cut at U+0085, U+2028 and others that occur in text.
    Raises InputError naming the line when the file is not valid UTF-8.
    """
    with open(path, "rb") as handle:
        for number, raw in enumerate(handle, 1):
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise InputError(f"{path}, line {number}: not valid UTF-8 ({error.reason} at byte {error.start}); "
                                 "convert the file to UTF-8") from None
            if number == 1:
                line = line.removeprefix("\ufeff")
            yield line.rstrip("\n").removesuffix("\r")


def find_input(path: str | Path) -> Path:
    """Return `path` if it exists, else the same path with or without a leading data/, saying so.

    Earlier instructions for this reproduction name files beside data/ that stand inside it, and the reverse.
    Raises InputError when neither exists.
    """
    path = Path(path)
    if path.exists():
        return path
    if not path.is_absolute():
        other = Path(*path.parts[1:]) if path.parts[:1] == ("data",) else Path("data") / path
        if len(other.parts) and other.exists():
            print(f"{path} does not exist: taking {other}", flush=True)
            return other
    raise InputError(f"{path} does not exist")


def require_empty_folder(path: str | Path, overwrite: bool = False) -> Path:
    """Make the folder `path` and return it; InputError if it already holds something and `overwrite` is false."""
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file: name a folder")
    if path.exists() and any(path.iterdir()) and not overwrite:
        raise InputError(f"output folder {path} is not empty: name another, or add --overwrite_output_dir")
    path.mkdir(parents=True, exist_ok=True)
    return path


def sha256_of(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
