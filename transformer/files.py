"""Files and folders: the error that users see, atomic writing, finding inputs, fingerprints.

Nothing here imports torch or numpy, so that `--help` and refused flags answer at once.
"""
from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from transformer.kinds import kind_of

# What a file can make a script hold in memory; far above any file that is what it should be.
MAX_JSON_BYTES = 16 << 20
MAX_LINE_BYTES = 32 << 20

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
_TEMPORARY = re.compile(r"\.(.+)\.(\d+)\.tmp")  # the names that atomic_write() gives: .NAME.PID.tmp
_HUB_NAME = re.compile(r"([A-Za-z0-9][\w-]*/)?[A-Za-z0-9][\w.-]*(@[\w.-]+)?")  # OWNER/NAME@REVISION, or NAME
_LOADED_AT = time.time()


class InputError(Exception):
    """Something the user gave cannot be used. The message is one line: what, where, how to mend it."""


def in_words(error: Exception) -> str:
    """What an error says, for people; of the system's refusals the file, if one is known, and the reason, without a
    number."""
    if not isinstance(error, OSError):
        return str(error)
    reason = error.strerror or str(error) or type(error).__name__
    return f"{os.fsdecode(error.filename)}: {reason}" if error.filename is not None else reason


@contextlib.contextmanager
def naming(path: str | Path, instead_of: str | Path | None = None) -> Iterator[None]:
    """Make an OSError of the disk (full, over quota, damaged) name `path`: the system itself names no file then.

    instead_of: a temporary file, which nobody knows and for which `path` is named, too.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_ERRORS and error.filename is None or error.filename == str(instead_of):
            error.filename, error.filename2 = str(path), None
        raise


def remove_abandoned(folder: str | Path, name: str | None = None) -> None:
    """Delete the temporary files in a folder of the kit whose process was killed while it wrote them, see
    atomic_write(); with `name` those of the file of that name alone, as in folders that are not the kit's own."""
    with contextlib.suppress(OSError):  # a folder that others may write, or nobody
        for path in Path(folder).iterdir():
            match = _TEMPORARY.fullmatch(path.name)
            if match and name in (None, match[1]) and _is_abandoned(path, int(match[2])):
                path.unlink()


def _is_abandoned(path: Path, pid: int) -> bool:
    if pid == os.getpid():  # an earlier process had this number, as in containers
        if path.stat().st_mtime >= _LOADED_AT:
            return False
    elif _is_alive(pid):
        return False
    with open(path, "r+b") as handle:  # a process on another machine, or in another container, holds its lock
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Open a temporary file beside `path`; rename it over `path` only when the block ends without an error.

    Text is UTF-8 with "\\n" line ends. A reader sees the old file or the whole new one, never a part,
    even when the machine loses power: the data reach the disk before the rename does. What a killed process left of
    it is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path.parent, path.name)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        with naming(path, temporary):
            with open(temporary, mode, **text) as handle:
                with contextlib.suppress(OSError):  # not every file system has locks
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
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


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object; InputError if the file is missing, larger than MAX_JSON_BYTES, or no JSON object."""
    try:
        with open(path, "rb") as handle:
            content = handle.read(MAX_JSON_BYTES + 1)
        if len(content) > MAX_JSON_BYTES:
            raise InputError(f"{path} has more than {MAX_JSON_BYTES >> 20} MB and is not read: get or make it again")
        value = json.loads(content.decode("utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (ValueError, RecursionError) as error:
        refuse_foreign(path)
        raise InputError(f"{path} is not valid JSON ({error}); it may be cut short: get or make it again") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds no JSON object (a table in braces): get or make it again")
    return value


def refuse_foreign(path: str | Path) -> None:
    """InputError where a file that is to hold text is something else, as kinds.kind_of() tells."""
    if what := kind_of(path):
        raise InputError(f"{path} {what}")


def read_line(handle: IO[bytes]) -> bytes:
    """The next line of a file, with its end; empty after the last. InputError if it is MAX_LINE_BYTES long."""
    line = handle.readline(MAX_LINE_BYTES)
    if len(line) == MAX_LINE_BYTES:
        raise InputError(f"{handle.name}: the line at byte {handle.tell() - len(line)} has no end within "
                         f"{MAX_LINE_BYTES >> 20} MB: this is no text file, or a damaged one; get or make it again")
    return line


def read_lines(path: str | Path) -> Iterator[str]:
    """Lines of a UTF-8 text file without their ends ("\\n" or "\\r\\n"); a leading byte-order mark is dropped.

    Only "\\n" ends a line: str.splitlines() would also cut at U+0085, U+2028 and others that occur in text.
    Raises InputError naming the line when the file is not valid UTF-8, and as read_line() and refuse_foreign() do.
    """
    refuse_foreign(path)
    with open(path, "rb") as handle:
        for number, raw in enumerate(iter(functools.partial(read_line, handle), b""), 1):
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


def find_file(path: str | Path) -> Path:
    """find_input() of a file; InputError where it is a folder."""
    path = find_input(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder: name the file itself")
    return path


def find_folder(path: str | Path) -> Path:
    """find_input() of a folder; InputError where it is a file."""
    path = find_input(path)
    if not path.is_dir():
        raise InputError(f"{path} is a file: name the folder that holds it")
    return path


def find_model(path: str | Path, or_file: bool = False) -> Path:
    """find_folder() of a model folder (find_input() where a file will do, too); the InputError tells what gets a model
    of the hub that was named."""
    path = Path(path)
    try:
        return find_input(path) if or_file else find_folder(path)
    except InputError as error:
        if path.exists():
            raise
        if Path(f"{path}.index").is_file() and (what := kind_of(path.parent)):
            raise InputError(f"{path.parent} {what}") from None
        owner = path.parent
        if _HUB_NAME.fullmatch(str(path)) and (owner == Path() or owner.name != "models" and not owner.exists()):
            name = path.name.split("@")[0]
            how = f"`get_bert_models.py --models {path}` gets it, into models/{name}: name that folder"
            if owner == Path():
                how += "; one that --help there does not name wants its owner before, as OWNER/NAME"
            raise InputError(f"model folder {error}: if that is a model of the hub, {how}") from None
        raise InputError(f"model folder {error}: run the step that makes it (get_bert_models.py gets published "
                         "models), or name another") from None


def delete(path: str | Path) -> None:
    """Delete a file, a folder with all that it holds, or a link, but not what that leads to; nothing is no error."""
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def workplace(temporary: Path, known_as: Path) -> Iterator[None]:
    """Inside, `temporary` is an empty folder to make something in; it is gone at the end, with all that was not moved
    away.

    Nobody knows that folder: in what an InputError says, and in the file that an OSError names, `known_as` stands in
    its place.
    """
    shutil.rmtree(temporary, ignore_errors=True)  # left by a run that was killed
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        yield
    except InputError as error:
        raise InputError(str(error).replace(str(temporary), str(known_as))) from None
    except OSError as error:
        if error.filename is not None:
            error.filename, error.filename2 = os.fsdecode(error.filename).replace(str(temporary), str(known_as)), None
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def require_no_file(folder: str | Path) -> None:
    """InputError where a file stands in the place of a folder that may have to be made, or of one above it."""
    for path in (Path(folder), *Path(folder).parents):
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file: name a folder")


def require_unchanged(path: Path, before: os.stat_result) -> None:
    """InputError where a file is not any more what its status said before it was read."""
    after = path.stat()
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise InputError(f"{path} changed while it was read: start again when it is complete")


def sha256_of(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def locked(file: Path, wait: bool = False, keep: bool = True) -> Iterator[None]:
    """Have the folder of a lock file to oneself: another process is refused (InputError), or waits if `wait` is true.

    Unless `keep`, the file is removed at the end.
    """
    while True:
        with open(file, "ab") as handle:  # for writing, as network file systems want it
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    raise InputError(f"another run is working in {file.parent}: wait for it to end") from None
                print(f"another run is working in {file.parent}: waiting for it to end", flush=True)
                fcntl.flock(handle, fcntl.LOCK_EX)
            # Whoever held it before may have removed it: then this is a lock on a file that nobody else will find.
            try:
                if not os.path.samestat(os.fstat(handle.fileno()), file.stat()):
                    continue
            except FileNotFoundError:
                continue
            try:
                yield
            finally:
                if not keep:
                    file.unlink(missing_ok=True)
            return
