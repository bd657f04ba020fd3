"""Getting files from the web, from S3 or from a folder: verified, renamed into place only when whole.

What comes stands in .NAME.part beside the target until it is whole and checked; a broken transfer goes on from there,
in this run or in the next one. sources.py knows the published files; others are checked against the length that the
server tells, and their SHA-256 is printed.
"""
from __future__ import annotations

import argparse
import contextlib
import email.utils
import errno
import hashlib
import json
import os
import re
import shutil
import stat
import struct
import time
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from tqdm import tqdm

from transformer.files import InputError, read_json, sha256_of, write_json
from transformer.parts import locked
from transformer.sources import KNOWN_FILES, base_url

if TYPE_CHECKING:
    import requests

MANIFEST_NAME = "manifest.json"  # in a downloaded model folder: where its files come from; at the end, their sums

ATTEMPTS = 4             # in a row that bring nothing new
BACK_OFF = 1.0           # seconds before the second attempt; doubles each time
MAX_WAIT = 120.0         # seconds; a server that asks for more in Retry-After is asked again after this time
TIMEOUT = (10, 60)       # seconds to connect, seconds without a byte
BLOCK = 1 << 16          # bytes; what a broken connection can cost
_BYTES_BETWEEN_RECORDS = 1 << 20  # what a killed process can lose
MAX_UNPACKED = 8 << 30   # bytes; far above what any GLUE archive unpacks to
MAX_ENTRIES = 10_000
MAX_RATIO = 100          # bytes unpacked for a byte of the archive; text reaches about 5, a bomb 1000 and more
ANY_RATIO_BELOW = 64 << 20  # bytes unpacked that harm nobody


class NotFound(InputError):
    """The source answers that it has no such file."""


class Missing(InputError):
    """Without the network a file is not there. Attributes: url, target, size and sha256 (None where not known)."""

    def __init__(self, url: str, target: Path, size: int | None, sha256: str | None):
        facts = [f"{size} bytes"] * (size is not None) + [f"sha256 {sha256}"] * (sha256 is not None)
        super().__init__(f"{url} to {target}" + (f" ({', '.join(facts)})" if facts else ""))
        self.url, self.target, self.size, self.sha256 = url, target, size, sha256


class _Broken(Exception):
    """A transfer failed in a way that another attempt, after `wait` seconds, may mend."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


class _Stale(_Broken):
    """What came before does not belong to what would come now: another attempt must begin at the first byte."""


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


def bring_by_hand(missing: list[Missing]) -> InputError:
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
    found = _sum_if_right(target, size, sha256)
    if found is not None:
        if sha256 is None:
            print(f"{target} is there already and is kept (no checksum is known for it; sha256 {found})", flush=True)
        return found
    if offline and _opener(url) is not _open_local:
        raise Missing(url, target, size, sha256)
    if target.is_file():
        print(f"{target} is there but is not the expected file: getting it again", flush=True)
    try:
        if target.is_dir():
            raise InputError(f"{target} is a folder and {target.parent} gets a file of that name")
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target.with_name(f".{target.name}.lock"), wait=True, keep=False):
            found = _sum_if_right(target, size, sha256)  # another process may have brought it meanwhile
            if found is None:
                found = _get(url, target, size, sha256)
                checked = "sha256 as published" if sha256 else f"no checksum is known for it; sha256 {found}"
                licence = f"; licence: {source.licence}" if source else ""
                print(f"{target}: from {url}, {checked}{licence}", flush=True)
            return found
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
    found = sha256_of(path)
    return found if sha256 in (None, found) else None


def _get(url: str, target: Path, size: int | None, sha256: str | None) -> str:
    """fetch() once the target is known to be absent or wrong, and nobody else is at it."""
    part = target.with_name(f".{target.name}.part")
    failures, most = 0, _progress(url, part).have
    while True:
        try:
            found = _attempt(url, part, size, sha256)
        except _Broken as error:
            have = part.stat().st_size if part.exists() else 0
            failures = 1 if have > most else failures + 1
            most = max(most, have)
            reason, wait = error, min(MAX_WAIT, max(error.wait, BACK_OFF * 2 ** (failures - 1)))
        else:
            os.replace(part, target)
            _record(part).unlink(missing_ok=True)
            return found
        if failures == ATTEMPTS:
            raise InputError(f"{reason} ({ATTEMPTS} attempts)")
        print(f"{url}: {reason}; again in {wait:.0f} s", flush=True)
        time.sleep(wait)


@dataclass
class _Progress:
    """What a .part file holds: `have` of the `total` bytes of the content that the server names `validator`."""
    have: int = 0
    total: int | None = None
    validator: str | None = None
    digest: Any = field(default_factory=hashlib.sha256, compare=False)  # SHA-256 of the first `have` bytes


def _record(part: Path) -> Path:
    """The file that says what a .part file holds the beginning of."""
    return part.with_name(f"{part.name}.json")


def _progress(url: str, part: Path) -> _Progress:
    """How far an earlier attempt came; nothing counts without a record of where it came from and of its sum: a machine
    that lost power may have kept the length of a file and not its content."""
    with contextlib.suppress(InputError, OSError, KeyError, TypeError):
        record = read_json(_record(part))
        progress = _Progress(record["have"], record["size"], str(record["validator"]))
        with open(part, "rb") as handle:
            left = progress.have
            while left > 0 and (block := handle.read(min(left, 1 << 20))):
                progress.digest.update(block)
                left -= len(block)
        if record["url"] == url and progress.digest.hexdigest() == record["sha256"]:
            return progress
    return _Progress()


def _write_record(part: Path, url: str, progress: _Progress) -> None:
    """Record what the .part file holds, if another attempt could go on from there."""
    if progress.validator and progress.total and progress.have:
        _record(part).write_text(json.dumps({
            "url": url, "validator": progress.validator, "size": progress.total, "have": progress.have,
            "sha256": progress.digest.hexdigest()}))


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _record(part).unlink(missing_ok=True)


def _attempt(url: str, part: Path, size: int | None, sha256: str | None) -> str:
    """Complete the .part file and check it; its SHA-256. One attempt of _get()."""
    before = _progress(url, part)
    if before.have == before.total and sha256 is None:
        before = _Progress()  # whole, but nothing can show that it is right
    if before.have != before.total:
        try:
            _transfer(url, part, before, size)
        except (_Broken, OSError, KeyboardInterrupt) as error:
            if isinstance(error, _Stale) or not _record(part).exists():  # of no use to a later attempt
                _discard(part)
            raise
    found, received = sha256_of(part), part.stat().st_size
    if size in (None, received) and sha256 in (None, found):
        return found
    _discard(part)
    expected = [f"{size} bytes"] * (size is not None) + [f"sha256 {sha256}"] * (sha256 is not None)
    reason = f"wrong content: {received} bytes with sha256 {found}, expected {' with '.join(expected)}"
    raise (_Broken if before.have else InputError)(reason)  # the wrong bytes may have come in an earlier attempt


def _transfer(url: str, part: Path, before: _Progress, size: int | None) -> None:
    """Write what the source gives to the .part file; raise _Broken where that is not all of it."""
    with _opener(url)(url, before) as (start, blocks):
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
        raise (_Broken if start.have < total else _Stale)(f"the connection gave {start.have} of {total} bytes")


def _opener(url: str) -> Any:
    """The function that opens an address or a plain path."""
    scheme = url.partition("://")[0].lower() if "://" in url else "file"
    openers = {"http": _open_http, "https": _open_http, "s3": _open_s3, "file": _open_local}
    if scheme not in openers:
        raise InputError(f"{scheme}:// is none of {', '.join(openers)}")
    return openers[scheme]


# Each opener yields (where the blocks begin, in what), blocks of bytes. Errors of the transport that come up while the
# caller reads the blocks surface at the `yield`, so that one `except` serves opening and reading.

@contextlib.contextmanager
def _open_http(url: str, before: _Progress) -> Iterator[tuple[_Progress, Iterator[bytes]]]:
    import requests  # a sixth of a second; only downloads pay for it
    headers = {"Accept-Encoding": "identity"}  # else Content-Length may count compressed bytes
    if before.have:
        headers |= {"Range": f"bytes={before.have}-", "If-Range": before.validator}
    token = os.environ.get("HF_TOKEN", "").strip()
    try:
        if token and urlsplit(url)[:2] == urlsplit(base_url("HF_ENDPOINT"))[:2]:
            headers["Authorization"] = f"Bearer {token}"  # requests drops it on a redirect elsewhere
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as reply:
            answer = f"the server answers {reply.status_code} {reply.reason}"
            if reply.status_code == 404:
                raise NotFound("not found (404)")
            if reply.status_code == 416 and before.have:
                raise _Stale(answer)
            if reply.status_code in (408, 429) or reply.status_code >= 500:
                raise _Broken(answer, _seconds(reply.headers.get("Retry-After", "")))
            if reply.status_code not in (200, 206):
                raise InputError(answer)
            yield _place(reply, before), reply.iter_content(BLOCK)
    except (requests.TooManyRedirects, ValueError) as error:  # its text may quote the token
        raise InputError(f"no usable address, answer or HF_TOKEN ({type(error).__name__})") from None
    except requests.RequestException as error:
        raise _Broken(f"no or broken connection ({type(error).__name__})") from error


def _place(reply: requests.Response, before: _Progress) -> _Progress:
    """Where the body of a 200 or 206 begins and what it belongs to; _Stale if it does not go on after `before`."""
    encoded = "Content-Encoding" in reply.headers  # though not asked for: neither lengths nor ranges are the file's
    length, tag = reply.headers.get("Content-Length", ""), reply.headers.get("ETag", "")
    strong = None if encoded or tag.startswith("W/") else tag or None  # a weak one allows for other bytes
    if reply.status_code == 200:
        return _Progress(0, int(length) if length.isdecimal() and not encoded else None, strong)
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", reply.headers.get("Content-Range", ""))
    if not before.have or not span or _Progress(int(span[1]), int(span[2]), strong) != before:
        raise _Stale("the server answers with another part than the one asked for")
    return before


def _seconds(text: str) -> float:
    """What a Retry-After header asks for: seconds, or a date; 0 where it is neither."""
    if text.strip().isdecimal():
        return float(text)
    try:
        return email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    except (TypeError, ValueError, OverflowError):
        return 0.0


@contextlib.contextmanager
def _open_s3(url: str, before: _Progress) -> Iterator[tuple[_Progress, Iterator[bytes]]]:
    import boto3  # half a second
    from botocore import exceptions
    from botocore.config import Config
    bucket, _, key = url[len("s3://"):].partition("/")
    rest = {"Range": f"bytes={before.have}-", "IfMatch": before.validator} if before.have else {}
    try:
        client = boto3.client("s3", config=Config(connect_timeout=TIMEOUT[0], read_timeout=TIMEOUT[1]))
    except (exceptions.BotoCoreError, ValueError) as error:  # region, endpoint
        raise InputError(f"S3 cannot be used: {error}") from None
    try:
        reply = client.get_object(Bucket=bucket, Key=key, **rest)
        start = _Progress(before.have, before.have + reply["ContentLength"], reply["ETag"])
        if before.have and start != before:
            raise _Stale("the object is another one than before")
        yield before if before.have else start, reply["Body"].iter_chunks(BLOCK)
    except exceptions.ClientError as error:
        code, answer = error.response["Error"]["Code"], error.response["ResponseMetadata"]
        if code in ("NoSuchKey", "NoSuchBucket", "404"):
            raise NotFound(f"not found ({code})") from None
        if before.have and answer["HTTPStatusCode"] in (412, 416):
            raise _Stale(f"S3 refuses: {error}") from None
        if answer["HTTPStatusCode"] == 429 or answer["HTTPStatusCode"] >= 500:
            raise _Broken(f"S3 refuses: {error}", _seconds(answer["HTTPHeaders"].get("retry-after", ""))) from None
        raise InputError(f"S3 refuses: {error}") from None
    except (exceptions.HTTPClientError, exceptions.ConnectionError, exceptions.IncompleteReadError) as error:
        raise _Broken(f"no or broken connection ({type(error).__name__})") from error
    except exceptions.FlexibleChecksumError as error:
        raise _Stale(f"damaged on the way ({error})") from None
    except exceptions.BotoCoreError as error:  # credentials, bucket names
        raise InputError(f"S3 cannot be used: {error}") from None


def local_path(url: str) -> Path:
    """The path that a file:// address or a plain path names; InputError where the address is malformed."""
    try:
        return Path(unquote(urlsplit(url).path)) if url.startswith("file:") else Path(url)
    except ValueError:
        raise InputError(f"{url} is no usable address") from None


@contextlib.contextmanager
def _open_local(url: str, _: _Progress) -> Iterator[tuple[_Progress, Iterator[bytes]]]:
    path = local_path(url)
    if not path.is_file():
        raise NotFound("there is no such file")
    try:
        handle = open(path, "rb")
    except OSError as error:
        raise InputError(f"it cannot be read ({error.strerror})") from None
    with handle:
        yield _Progress(0, path.stat().st_size), iter(lambda: handle.read(BLOCK), b"")


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
        raise InputError(f"{path} is no manifest of this kit: delete it and run again") from None
    if not files or not all(file.is_file() for file in files):
        return False
    changed = [file.name for file, sha256 in files.items() if sha256_of(file) != sha256]
    if changed:
        raise InputError(f"{folder}: {', '.join(changed)} changed since {MANIFEST_NAME} was written: delete the "
                         "changed files to get them again, or the manifest to keep them")
    return True


def unzip(archive: str | Path, folder: str | Path) -> None:
    """Unpack the zip file `archive` into `folder`, which is made.

    Before anything is written, the whole archive is refused (InputError) for an absolute name, a `..`, a link, a name
    that comes twice, another compression than deflate (bzip2 and lzma unpack 64 KB to gigabytes of memory at once), or
    a declared content of more than MAX_UNPACKED bytes, MAX_ENTRIES entries or, from
    ANY_RATIO_BELOW bytes on, MAX_RATIO times the archive. While writing, more bytes than declared are refused.
    """
    archive, folder = Path(archive), Path(folder)
    try:
        with zipfile.ZipFile(archive) as source:
            entries = source.infolist()
            left = sum(entry.file_size for entry in entries)
            if len(entries) > MAX_ENTRIES or left > MAX_UNPACKED:
                raise InputError(f"{archive} would unpack to more than {MAX_ENTRIES} files or {MAX_UNPACKED} bytes")
            if left > max(ANY_RATIO_BELOW, MAX_RATIO * archive.stat().st_size):
                raise InputError(f"{archive} would unpack to {left} bytes, more than {MAX_RATIO} times its own size: "
                                 "no text does; get it from its origin")
            seen = set()
            for entry in entries:
                name = PurePosixPath(entry.filename)
                if name.is_absolute() or ".." in name.parts or "\\" in entry.filename or ":" in entry.filename:
                    raise InputError(f"{archive} holds the unsafe name {entry.filename!r}; get it from its origin")
                if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise InputError(f"{archive} holds the link {entry.filename!r}; get it from its origin")
                if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise InputError(f"{archive} packs {entry.filename!r} in a way that GLUE's archives do not use; "
                                     "get it from its origin")
                if name in seen:
                    raise InputError(f"{archive} holds {entry.filename!r} twice; get it from its origin")
                seen.add(name)
            folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(folder).free
            if left > free:
                raise InputError(f"{archive} unpacks to {left} bytes and {folder} has {free} free: make room")
            for entry in entries:
                path = folder / entry.filename
                if entry.is_dir():
                    path.mkdir(parents=True, exist_ok=True)
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                with source.open(entry) as packed, open(path, "wb") as handle:
                    while block := packed.read(BLOCK):
                        left -= len(block)
                        if left < 0:
                            raise InputError(f"{archive} holds more bytes than it declares; get it from its origin")
                        handle.write(block)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, OverflowError, struct.error,
            OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: a place before the file's beginning
            raise
        raise InputError(f"{archive} is not a readable zip file ({error}); delete it and run again") from None
