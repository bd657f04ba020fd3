"""How the bytes of an address come: by http(s), from S3 or from a folder, from the first byte or from the middle on."""
from __future__ import annotations

import contextlib
import email.utils
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from transformer.fetching.sources import base_url
from transformer.files import InputError

if TYPE_CHECKING:
    import requests

TIMEOUT = (10, 60)  # seconds to connect, seconds without a byte
BLOCK = 1 << 16     # bytes; what a broken connection can cost


class NotFound(InputError):
    """The source answers that it has no such file."""


class Broken(Exception):
    """A transfer failed in a way that another attempt, after `wait` seconds, may mend."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


class Stale(Broken):
    """What came before does not belong to what would come now: another attempt must begin at the first byte."""


@dataclass
class Progress:
    """How far a transfer has come: `have` of the `total` bytes of the content that the server names `validator`."""
    have: int = 0
    total: int | None = None
    validator: str | None = None
    digest: Any = field(default_factory=hashlib.sha256, compare=False)  # SHA-256 of the first `have` bytes


Opened = AbstractContextManager[tuple[Progress, Iterator[bytes]]]


def _opener(url: str) -> Callable[[str, Progress], Opened]:
    """The function that opens an address or a plain path."""
    scheme = url.partition("://")[0].lower() if "://" in url else "file"
    openers = {"http": _open_http, "https": _open_http, "s3": _open_s3, "file": _open_local}
    if scheme not in openers:
        raise InputError(f"{scheme}:// is none of {', '.join(openers)}")
    return openers[scheme]


def is_local(url: str) -> bool:
    """Whether an address is a folder's, so that no server is asked; InputError where nothing here opens it."""
    return _opener(url) is _open_local


def opened(url: str, before: Progress) -> Opened:
    """Open an address: what the blocks belong to and where they begin, and blocks of at most BLOCK bytes.

    They go on after what the caller has from `before`, or begin at the first byte where the source cannot do that.
    Raises NotFound, Stale, Broken, or InputError for what no other attempt mends, on opening and while the blocks are
    read.
    """
    return _opener(url)(url, before)


# Errors that come up while the caller reads the blocks surface at an opener's `yield`: one `except` serves both.

@contextlib.contextmanager
def _open_http(url: str, before: Progress) -> Iterator[tuple[Progress, Iterator[bytes]]]:
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
                raise Stale(answer)
            if reply.status_code in (408, 429) or reply.status_code >= 500:
                raise Broken(answer, _seconds(reply.headers.get("Retry-After", "")))
            if reply.status_code not in (200, 206):
                raise InputError(answer)
            yield _place(reply, before), reply.iter_content(BLOCK)
    except (requests.TooManyRedirects, ValueError) as error:  # its text may quote the token
        raise InputError(f"no usable address, answer or HF_TOKEN ({type(error).__name__})") from None
    except requests.RequestException as error:
        raise Broken(f"no or broken connection ({type(error).__name__})") from error


def _place(reply: requests.Response, before: Progress) -> Progress:
    """Where the body of a 200 or 206 begins and what it belongs to; Stale if it does not go on after `before`."""
    encoded = "Content-Encoding" in reply.headers  # though not asked for: neither lengths nor ranges are the file's
    length, tag = reply.headers.get("Content-Length", ""), reply.headers.get("ETag", "")
    strong = None if encoded or tag.startswith("W/") else tag or None  # a weak one allows for other bytes
    if reply.status_code == 200:
        return Progress(0, int(length) if length.isdecimal() and not encoded else None, strong)
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", reply.headers.get("Content-Range", ""))
    if not before.have or not span or Progress(int(span[1]), int(span[2]), strong) != before:
        raise Stale("the server answers with another part than the one asked for")
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
def _open_s3(url: str, before: Progress) -> Iterator[tuple[Progress, Iterator[bytes]]]:
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
        start = Progress(before.have, before.have + reply["ContentLength"], reply["ETag"])
        if before.have and start != before:
            raise Stale("the object is another one than before")
        yield before if before.have else start, reply["Body"].iter_chunks(BLOCK)
    except exceptions.ClientError as error:
        code, answer = error.response["Error"]["Code"], error.response["ResponseMetadata"]
        if code in ("NoSuchKey", "NoSuchBucket", "404"):
            raise NotFound(f"not found ({code})") from None
        if before.have and answer["HTTPStatusCode"] in (412, 416):
            raise Stale(f"S3 refuses: {error}") from None
        if answer["HTTPStatusCode"] == 429 or answer["HTTPStatusCode"] >= 500:
            raise Broken(f"S3 refuses: {error}", _seconds(answer["HTTPHeaders"].get("retry-after", ""))) from None
        raise InputError(f"S3 refuses: {error}") from None
    except (exceptions.HTTPClientError, exceptions.ConnectionError, exceptions.IncompleteReadError) as error:
        raise Broken(f"no or broken connection ({type(error).__name__})") from error
    except exceptions.FlexibleChecksumError as error:
        raise Stale(f"damaged on the way ({error})") from None
    except exceptions.BotoCoreError as error:  # credentials, bucket names
        raise InputError(f"S3 cannot be used: {error}") from None


def local_path(url: str) -> Path:
    """The path that a file:// address or a plain path names; InputError where the address is malformed."""
    try:
        return Path(unquote(urlsplit(url).path)) if url.startswith("file:") else Path(url)
    except ValueError:
        raise InputError(f"{url} is no usable address") from None


@contextlib.contextmanager
def _open_local(url: str, _: Progress) -> Iterator[tuple[Progress, Iterator[bytes]]]:
    path = local_path(url)
    if not path.is_file():
        raise NotFound("there is no such file")
    try:
        handle = open(path, "rb")
    except OSError as error:
        raise InputError(f"it cannot be read ({error.strerror})") from None
    with handle:
        yield Progress(0, path.stat().st_size), iter(lambda: handle.read(BLOCK), b"")
