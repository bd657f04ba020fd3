"""Getting files from the web, from S3 or from a folder: verified, renamed into place only when whole; unpacking them.

What comes stands in .NAME.part beside the target until it is whole and checked; a broken transfer goes on from there,
in this run or in the next one. sources.py knows the published files; others are checked against the length that the
server tells, and their SHA-256 is printed.
"""
from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import re
import shutil
import stat
import struct
import time
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from transformer.fetching.sources import KNOWN_FILES
from transformer.fetching.transport import Broken, Progress, Stale, is_local, opened
from transformer.files import InputError, in_words, locked, read_json, sha256_of, workplace, write_json
from transformer.kinds import kind_of

MANIFEST_NAME = "manifest.json"  # in a downloaded model folder: where its files come from; at the end, their sums

ATTEMPTS = 4             # in a row that bring nothing new
BACK_OFF = 1.0           # seconds before the second attempt; doubles each time
MAX_WAIT = 120.0         # seconds; a server that asks for more in Retry-After is asked again after this time
_BYTES_BETWEEN_RECORDS = 1 << 20  # what a killed process can lose
MAX_UNPACKED = 8 << 30   # bytes; far above what any archive of a task unpacks to
MAX_ENTRIES = 10_000
MAX_RATIO = 100          # bytes unpacked for a byte of the archive; text reaches about 5, a bomb 1000 and more
ANY_RATIO_BELOW = 64 << 20  # bytes unpacked that harm nobody


class Missing(InputError):
    """Without the network a file is not there. Attributes: url, target, size and sha256 (None where not known)."""

    def __init__(self, url: str, target: Path, size: int | None, sha256: str | None):
        known = ", ".join(_known(size, sha256))
        super().__init__(f"{url} to {target}" + (f" ({known})" if known else ""))
        self.url, self.target, self.size, self.sha256 = url, target, size, sha256


def _known(size: int | None, sha256: str | None) -> list[str]:
    """What is known about a file, in words."""
    return [f"{size} bytes"] * (size is not None) + [f"sha256 {sha256}"] * (sha256 is not None)


def _mirror(text: str) -> str:
    """argparse type: the base of a mirror, free of passwords: it is printed, and written into manifests."""
    if re.match(r"[^/]+://[^/?#]*@", text):
        raise argparse.ArgumentTypeError("user and password do not belong into an address: put them into ~/.netrc")
    return text


def add_source_flags(parser: argparse._ActionsContainer, what: str) -> None:
    """Add --mirror and --offline to a parser or a group of one; `what` they get reads like "BASE/MODEL/FILE"."""
    parser.add_argument("--mirror", type=_mirror, metavar="BASE",
                        help=f"take {what} instead: BASE is an http(s):// or s3:// address, or a folder")
    parser.add_argument("--offline", action="store_true",
                        help="use what is there or in a local folder and ask no server; say which files to bring, from "
                             "where to where")


def missing_error(missing: list[Missing]) -> InputError:
    """The error, one line, that names every missing file: its address, where to put it, what it must be."""
    return InputError(f"--offline, and {len(missing)} file{'s are' if len(missing) > 1 else ' is'} not there; bring "
                      + "; ".join(map(str, missing)))


def fetch(url: str | Path, target: str | Path, size: int | None = None, sha256: str | None = None,
          offline: bool = False) -> str:
    """Bring `url` (http, https, s3, file, or a plain path) to the file `target`; return its SHA-256.

    `size` (bytes) and `sha256` are what the file must have; left out, they are looked up in KNOWN_FILES. A target
    that is there already is kept when it has them, or when nothing is known about it: people put files there by
    hand. Busy servers and broken connections are tried again; a second process waits for the first and takes its
    file. With `offline` no server is asked; what lies in a local folder comes as ever. Raises Missing (offline),
    NotFound (the source has no such file) or InputError; `target` then is as it was before.
    """
    url, target = str(url), Path(target)
    source = KNOWN_FILES.get(url)
    if source and size is None and sha256 is None:
        size, sha256 = source.size, source.sha256
    actual = _sum_if_right(target, size, sha256)
    if actual is not None:
        if sha256 is None:
            print(f"{target} is there already and is kept (no checksum is known for it; sha256 {actual})", flush=True)
        return actual
    if offline and not is_local(url):
        raise Missing(url, target, size, sha256)
    if target.is_file():
        print(f"{target} is there but is not the expected file: getting it again", flush=True)
    try:
        if target.is_dir():
            raise InputError(f"{target} is a folder and {target.parent} gets a file of that name")
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target.with_name(f".{target.name}.lock"), wait=True, keep=False):
            actual = _sum_if_right(target, size, sha256)  # another process may have brought it meanwhile
            if actual is None:
                actual = _download(url, target, size, sha256)
                checked = "sha256 as published" if sha256 else f"no checksum is known for it; sha256 {actual}"
                licence = f"; licence: {source.licence}" if source else ""
                print(f"{target}: from {url}, {checked}{licence}", flush=True)
            return actual
    except InputError as error:
        by_hand = f"check the address, or get the file by hand and put it at {target}"
        raise type(error)(f"{url}: {error}; {by_hand}") from None
    except OSError as error:
        raise InputError(f"{url}: {target.name} cannot be written to {target.parent} ({error.strerror or error}): "
                         "make room or name another folder, and run again") from None


def _sum_if_right(path: Path, size: int | None, sha256: str | None) -> str | None:
    """SHA-256 of the file; None if there is no such file or it has another size or sum than the expected."""
    if not path.is_file() or size not in (None, path.stat().st_size):
        return None
    actual = sha256_of(path)
    return actual if sha256 in (None, actual) else None


def _download(url: str, target: Path, size: int | None, sha256: str | None) -> str:
    """fetch() once the target is known to be absent or wrong, and nobody else is at it."""
    part = target.with_name(f".{target.name}.part")
    failures, most_received = 0, _progress(url, part).have
    while True:
        try:
            actual = _attempt(url, part, size, sha256)
        except Broken as error:
            have = part.stat().st_size if part.exists() else 0
            failures = 1 if have > most_received else failures + 1
            most_received = max(most_received, have)
            reason = error
        else:
            os.replace(part, target)
            _record_path(part).unlink(missing_ok=True)
            return actual
        back_off(url, reason, failures)


def back_off(url: str, reason: Broken, failures: int) -> None:
    """Wait before another attempt, longer after each of so many `failures` in a row; InputError after ATTEMPTS."""
    if failures == ATTEMPTS:
        raise InputError(f"{reason} ({ATTEMPTS} attempts)")
    wait = min(MAX_WAIT, max(reason.wait, BACK_OFF * 2 ** (failures - 1)))
    print(f"{url}: {reason}; again in {wait:.0f} s", flush=True)
    time.sleep(wait)


def _record_path(part: Path) -> Path:
    """The file that says what a .part file holds the beginning of."""
    return part.with_name(f"{part.name}.json")


def _progress(url: str, part: Path) -> Progress:
    """How far an earlier attempt came; nothing counts without a record of where it came from and of its sum: a machine
    that lost power may have kept the length of a file and not its content."""
    with contextlib.suppress(InputError, OSError, KeyError, TypeError):
        record = read_json(_record_path(part))
        progress = Progress(record["have"], record["size"], str(record["validator"]))
        with open(part, "rb") as handle:
            remaining = progress.have
            while remaining > 0 and (block := handle.read(min(remaining, 1 << 20))):
                progress.digest.update(block)
                remaining -= len(block)
        if record["url"] == url and progress.digest.hexdigest() == record["sha256"]:
            return progress
    return Progress()


def _write_record(part: Path, url: str, progress: Progress) -> None:
    """Record what the .part file holds, if another attempt could go on from there."""
    if progress.validator and progress.total and progress.have:
        _record_path(part).write_text(json.dumps({
            "url": url, "validator": progress.validator, "size": progress.total, "have": progress.have,
            "sha256": progress.digest.hexdigest()}))


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _record_path(part).unlink(missing_ok=True)


def _attempt(url: str, part: Path, size: int | None, sha256: str | None) -> str:
    """Complete the .part file and check it; its SHA-256. One attempt of _download()."""
    before = _progress(url, part)
    if before.have == before.total and sha256 is None:
        before = Progress()  # whole, but nothing can show that it is right
    if before.have != before.total:
        try:
            _transfer(url, part, before, size)
        except (Broken, OSError, KeyboardInterrupt) as error:
            if isinstance(error, Stale) or not _record_path(part).exists():  # of no use to a later attempt
                _discard(part)
            raise
    actual, received = sha256_of(part), part.stat().st_size
    if size in (None, received) and sha256 in (None, actual):
        return actual
    _discard(part)
    expected = " with ".join(_known(size, sha256))
    reason = f"wrong content: {received} bytes with sha256 {actual}, expected {expected}"
    raise (Broken if before.have else InputError)(reason)  # the wrong bytes may have come in an earlier attempt


def _transfer(url: str, part: Path, before: Progress, size: int | None) -> None:
    """Write what the source gives to the .part file; raise Broken where that is not all of it."""
    with opened(url, before) as (start, blocks):
        if None not in (size, start.total) and start.total != size:
            raise InputError(f"the source offers {start.total} bytes, the published file has {size}")
        total = size if start.total is None else start.total
        if not start.have:
            _discard(part)
        if total is None:
            print(f"{url}: the server does not tell the length of the file", flush=True)
        need, free = (total or 0) - start.have, shutil.disk_usage(part.parent).free
        if need > free:
            raise OSError(errno.ENOSPC, f"{need} bytes are to come, {free} are free")
        with open(part, "r+b" if start.have else "wb") as handle, \
                tqdm(total=total, initial=start.have, desc=part.name[1:-len(".part")], unit="B", unit_scale=True,
                     disable=None) as bar:
            handle.seek(start.have)
            handle.truncate()
            recorded = start.have
            try:
                for block in blocks:
                    handle.write(block)
                    start.digest.update(block)
                    start.have += len(block)
                    bar.update(len(block))
                    if start.have - recorded >= _BYTES_BETWEEN_RECORDS:
                        handle.flush()
                        _write_record(part, url, start)
                        recorded = start.have
            finally:
                handle.flush()  # first: a full disk is not to cost the earlier record
                _write_record(part, url, start)
            os.fsync(handle.fileno())
    if total is not None and start.have != total:
        raise (Broken if start.have < total else Stale)(f"the connection gave {start.have} of {total} bytes")


def write_manifest(folder: str | Path, names: list[str], source: str) -> None:
    """Record the files `names` of a downloaded folder (bytes, SHA-256) and the `source` they came from.

    Without names: the source of what is about to come; the folder is not complete.
    """
    paths = [Path(folder) / name for name in names]
    write_json(Path(folder) / MANIFEST_NAME, {"source": source, "files": {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in paths}})


def check_manifest(folder: str | Path) -> bool:
    """Whether the folder is complete: a manifest that lists files, all present. InputError if one has changed."""
    path = Path(folder) / MANIFEST_NAME
    if not path.is_file():
        return False
    try:
        files = {Path(folder) / name: facts["sha256"] for name, facts in read_json(path)["files"].items()}
    except (KeyError, TypeError, AttributeError):
        raise InputError(f"{path} is no manifest of this kit: move it away and run again") from None
    if not files or not all(file.is_file() for file in files):
        return False
    changed = [file.name for file, sha256 in files.items() if sha256_of(file) != sha256]
    if changed:
        raise InputError(f"{folder}: {', '.join(changed)} changed since {MANIFEST_NAME} was written: move the "
                         "changed files away to get them again, or the manifest to keep them")
    return True


def unzip(archive: str | Path, folder: str | Path, only: tuple[str, ...] = ("*",)) -> None:
    """Unpack the zip file `archive` into `folder`, which is made: the files that match one of the patterns `only`, as
    PurePath.match() has it.

    Before anything is written, the whole archive is refused (InputError) for an absolute name, a `..`, a link, a name
    that comes twice, another compression than deflate (bzip2 and lzma unpack 64 KB to gigabytes of memory at once), or
    a declared content of more than MAX_UNPACKED bytes, MAX_ENTRIES entries or, from
    ANY_RATIO_BELOW bytes on, MAX_RATIO times the archive. While writing, more bytes than declared are refused.
    """
    archive, folder = Path(archive), Path(folder)
    try:
        with zipfile.ZipFile(archive) as source:
            entries = source.infolist()
            _refuse_unsafe(archive, entries)
            entries = [entry for entry in entries if any(map(PurePosixPath(entry.filename).match, only))]
            remaining = sum(entry.file_size for entry in entries)
            folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(folder).free
            if remaining > free:
                raise InputError(f"{archive} unpacks to {remaining} bytes and {folder.parent} has {free} free: "
                                 "make room")
            for entry in entries:
                path = folder / entry.filename
                if entry.is_dir():
                    path.mkdir(parents=True, exist_ok=True)
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                with source.open(entry) as packed, open(path, "wb") as handle:
                    while block := packed.read(1 << 16):
                        remaining -= len(block)
                        if remaining < 0:
                            raise InputError(f"{archive} holds more bytes than it declares; get it from its origin")
                        handle.write(block)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, OverflowError, struct.error,
            OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: a place before the file's beginning
            raise
        what = kind_of(archive, (archive.name,)) or f"is not a readable zip file ({in_words(error)})"
        raise InputError(f"{archive} {what}; move it away and run again") from None


def unzip_file(archive: str | Path, target: str | Path) -> None:
    """Unpack the file of the zip file `archive` that is called as the file `target`; that is whole, or not there.

    A target that is there is kept. InputError as unzip() has it, and where no file of the archive has the name.
    """
    target = Path(target)
    temporary = target.with_name(f".{target.name}.unpacking")
    with locked(target.with_name(f".{target.name}.lock"), wait=True, keep=False):
        if target.is_file():
            print(f"{target} is there already and is kept", flush=True)
            return
        with workplace(temporary, target.parent):
            unzip(archive, temporary, (target.name,))
            found = next(temporary.rglob(target.name), None)
            if found is None:
                raise InputError(f"{archive} holds no {target.name}: name one of its files, or another archive")
            with open(found, "rb") as handle:
                os.fsync(handle.fileno())  # so that it is whole under its name even when the machine loses power
            os.replace(found, target)


def _refuse_unsafe(archive: Path, entries: list[zipfile.ZipInfo]) -> None:
    """InputError where an archive holds what unzip() refuses before it writes."""
    declared = sum(entry.file_size for entry in entries)
    if len(entries) > MAX_ENTRIES or declared > MAX_UNPACKED:
        raise InputError(f"{archive} would unpack to more than {MAX_ENTRIES} files or {MAX_UNPACKED} bytes")
    if declared > max(ANY_RATIO_BELOW, MAX_RATIO * archive.stat().st_size):
        raise InputError(f"{archive} would unpack to {declared} bytes, more than {MAX_RATIO} times its own size: "
                         "no text does; get it from its origin")
    seen = set()
    for entry in entries:
        name = PurePosixPath(entry.filename)
        if name.is_absolute() or ".." in name.parts or "\\" in entry.filename or ":" in entry.filename:
            raise InputError(f"{archive} holds the unsafe name {entry.filename!r}; get it from its origin")
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise InputError(f"{archive} holds the link {entry.filename!r}; get it from its origin")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(f"{archive} packs {entry.filename!r} in a way that no archive of a task does; "
                             "get it from its origin")
        if name in seen:
            raise InputError(f"{archive} holds {entry.filename!r} twice; get it from its origin")
        seen.add(name)
