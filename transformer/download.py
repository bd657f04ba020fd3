"""Getting files from the web, from S3 or from a folder: verified, renamed into place only when whole.

Where files come from is set by three environment variables (HF_ENDPOINT, GLUE_BASE, SENTEVAL_BASE). KNOWN_FILES
holds the checksums of the published files under their default addresses; files from anywhere else are checked
against the length that the server tells, and their SHA-256 is printed.
"""
from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from tqdm import tqdm

from transformer.files import InputError, atomic_write, read_json, sha256_of, write_json

HOSTS = {
    "HF_ENDPOINT": "https://huggingface.co",
    "GLUE_BASE": "https://dl.fbaipublicfiles.com/glue/data",
    "SENTEVAL_BASE": "https://dl.fbaipublicfiles.com/senteval/senteval_data",
}
_BASE = "bert-base-uncased"
# folder under models/ -> hub repository: BERT-base, and BERT-base fine-tuned on a task
HUB_MODELS = {_BASE: f"google-bert/{_BASE}", **{f"{_BASE}-{task}": f"JeremiahZ/{_BASE}-{task}"
                                                for task in ("mrpc", "sst2", "cola", "rte", "mnli", "qqp")}}
DEFAULT_MODELS = tuple(HUB_MODELS)[:5]  # those of the reproduction's four tasks
REVISIONS = {HUB_MODELS[_BASE]: "86b5e0934494bd15c9632b12f734a8a67f723594"}  # the others: main

# default address -> file -> (bytes, SHA-256); None: not known
_PUBLISHED = {
    HOSTS["GLUE_BASE"]: {
        "CoLA.zip": (376971, "f212fcd832b8f7b435fb991f101abf89f96b933ab400603bf198960dfc32cbff"),
        "SST-2.zip": (7439277, "d67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa"),
        "QQP-clean.zip": (41696084, "40e7c862c04eb26ee04b67fd900e76c45c6ba8e6d8fab4f8f1f8072a1a3fbae0"),
        "STS-B.zip": (802872, "e60a6393de5a8b5b9bac5020a1554b54e3691f9d600b775bd131e613ac179c85"),
        "MNLI.zip": (312783507, "e7c1d896d26ed6caf700110645df426cc2d8ebf02a5ab743d5a5c68ac1c83633"),
        "QNLIv2.zip": (10627589, "e634e78627a29adaecd4f955359b22bf5e70f2cbd93b493f2d624138a0c0e5f5"),
        "RTE.zip": (697150, "6bf86de103ecd335f3441bd43574d23fef87ecc695977a63b82d5efb206556ee"),
        "WNLI.zip": (28999, "ae0e8e4d16f4d46d4a0a566ec7ecceccfd3fbfaa4a7a4b4e02848c0f2561ac46"),
        "AX.tsv": (222257, "0e13510b1bb14436ff7e2ee82338f0efb0133ecf2e73507a697dc210db3f05fd"),
        "mrpc_dev_ids.tsv": (6222, "971d7767d81b997fd9060ade0ec23c4fc31cbb226a55d1bd4a1bac474eb81dc7"),
    },
    HOSTS["SENTEVAL_BASE"]: {
        "msr_paraphrase_train.txt": (1047044, "60a9b09084528f0673eedee2b69cb941920f0b8cd0eeccefc464a98768457f89"),
        "msr_paraphrase_test.txt": (441275, "a04e271090879aaba6423d65b94950c089298587d9c084bf9cd7439bd785f784"),
    },
    f"{HOSTS['HF_ENDPOINT']}/{HUB_MODELS[_BASE]}/resolve/{REVISIONS[HUB_MODELS[_BASE]]}": {
        "model.safetensors": (440449768, "68d45e234eb4a928074dfd868cead0219ab85354cc53d20e772753c6bb9169d3"),
        "pytorch_model.bin": (440473133, "097417381d6c7230bd9e3557456d726de6e83245ec8b24f529f60198a67b203a"),
        "vocab.txt": (231508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
        "config.json": (570, "7160e1553ad2ca51d8c1cb066be533db31826e12d173824c1bb0cb1a4f187d20"),
    },
    "https://nlp.stanford.edu/data": {
        "glove.840B.300d.zip": (None, "c06db255e65095393609f19a4cfca20bf3a71e20cc53e892aafa490347e3849f"),
    },
}
KNOWN_FILES = {f"{base}/{name}": facts for base, files in _PUBLISHED.items() for name, facts in files.items()}

MANIFEST_NAME = "manifest.json"  # in a downloaded model folder, written last: where its files came from, their sums

ATTEMPTS = 4
BACK_OFF = 1.0          # seconds before the second attempt; doubles each time
TIMEOUT = (10, 60)      # seconds to connect, seconds without a byte
MAX_UNPACKED = 8 << 30  # bytes; far above what any GLUE archive unpacks to
MAX_ENTRIES = 10_000


class NotFound(InputError):
    """The source answers that it has no such file."""


class _Broken(Exception):
    """A transfer failed in a way that another attempt may mend."""


def base_url(variable: str) -> str:
    """The address set by the environment variable `variable`, or its default in HOSTS; no slash at the end."""
    return (os.environ.get(variable) or HOSTS[variable]).rstrip("/")


def fetch(url: str | Path, target: str | Path, size: int | None = None, sha256: str | None = None) -> str:
    """Bring `url` (http, https, s3, file, or a plain path) to the file `target`; return its SHA-256.

    `size` (bytes) and `sha256` are what the file must have; left out, they are looked up in KNOWN_FILES. A target
    that is there already is kept when it has them, or when nothing is known about it: people put files there by
    hand. Busy servers and broken connections are tried again. Raises NotFound (the server has no such file) or
    InputError; `target` then is as it was before.
    """
    url, target = str(url), Path(target)
    if size is None and sha256 is None:
        size, sha256 = KNOWN_FILES.get(url, (None, None))
    if target.is_file():
        found = sha256_of(target)
        if sha256 in (None, found) and size in (None, target.stat().st_size):
            if sha256 is None:
                print(f"{target} is there already and is kept (no checksum is known for it; sha256 {found})",
                      flush=True)
            return found
        print(f"{target} is there but is not the expected file (sha256 {found}): getting it again", flush=True)
    by_hand = f"check the address, or get the file by hand and put it at {target}"
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(BACK_OFF * 2 ** (attempt - 1))
        try:
            found = _transfer(url, target, size, sha256)
        except _Broken as error:
            reason = error
        except InputError as error:
            raise type(error)(f"{url}: {error}; {by_hand}") from None
        else:
            if sha256 is None:
                print(f"{target}: from {url}, no checksum is known for it; sha256 {found}", flush=True)
            return found
    raise InputError(f"{url}: {reason} ({ATTEMPTS} attempts); {by_hand}")


def _transfer(url: str, target: Path, size: int | None, sha256: str | None) -> str:
    """One attempt of fetch()."""
    openers = {"http": _open_http, "https": _open_http, "s3": _open_s3, "file": _open_local}
    opener = openers.get(urlsplit(url).scheme.lower(), _open_local)
    digest, received = hashlib.sha256(), 0
    with opener(url) as (length, blocks), atomic_write(target, "wb") as handle, \
            tqdm(total=length, desc=target.name, unit="B", unit_scale=True, disable=None) as bar:
        if None not in (size, length) and length != size:
            raise InputError(f"the server offers {length} bytes, the published file has {size}")
        for block in blocks:
            handle.write(block)
            digest.update(block)
            received += len(block)
            bar.update(len(block))
        if length is not None and received != length:
            raise _Broken(f"the connection broke after {received} of {length} bytes")
        if size is not None and received != size:
            raise InputError(f"{received} bytes came, the published file has {size}")
        if sha256 not in (None, digest.hexdigest()):
            raise InputError(f"wrong content: sha256 is {digest.hexdigest()}, expected {sha256}")
    return digest.hexdigest()


# Each opener yields (length in bytes or None, blocks of bytes). Errors of the transport that come up while the
# caller reads the blocks surface at the `yield`, so that one `except` serves opening and reading.

@contextlib.contextmanager
def _open_http(url: str) -> Iterator[tuple[int | None, Iterator[bytes]]]:
    import requests  # a sixth of a second; only downloads pay for it
    headers = {"Accept-Encoding": "identity"}  # else Content-Length may count compressed bytes
    if os.environ.get("HF_TOKEN") and urlsplit(url).netloc == urlsplit(base_url("HF_ENDPOINT")).netloc:
        headers["Authorization"] = f"Bearer {os.environ['HF_TOKEN']}"  # requests drops it on a redirect elsewhere
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as reply:
            if reply.status_code == 404:
                raise NotFound("not found (404)")
            if reply.status_code == 429 or reply.status_code >= 500:
                raise _Broken(f"the server answers {reply.status_code} {reply.reason}")
            if not reply.ok:
                raise InputError(f"the server answers {reply.status_code} {reply.reason}")
            length = None if "Content-Encoding" in reply.headers else reply.headers.get("Content-Length")
            yield int(length) if length else None, reply.iter_content(1 << 20)
    except requests.RequestException as error:
        raise _Broken(f"no or broken connection ({type(error).__name__})") from error


@contextlib.contextmanager
def _open_s3(url: str) -> Iterator[tuple[int | None, Iterator[bytes]]]:
    import boto3  # half a second
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError
    parts = urlsplit(url)
    try:
        reply = boto3.client("s3").get_object(Bucket=parts.netloc, Key=parts.path.lstrip("/"))
        yield reply["ContentLength"], reply["Body"].iter_chunks(1 << 20)
    except ClientError as error:
        if error.response["Error"]["Code"] in ("NoSuchKey", "NoSuchBucket", "404"):
            raise NotFound(f"not found ({error.response['Error']['Code']})") from None
        raise InputError(f"S3 refuses: {error}") from None
    except (HTTPClientError, IncompleteReadError) as error:  # boto3 itself has tried the request again
        raise _Broken(f"no or broken connection ({type(error).__name__})") from error
    except BotoCoreError as error:  # credentials, region, bucket names
        raise InputError(f"S3 cannot be used: {error}") from None


@contextlib.contextmanager
def _open_local(url: str) -> Iterator[tuple[int | None, Iterator[bytes]]]:
    path = Path(unquote(urlsplit(url).path)) if url.startswith("file:") else Path(url)
    if not path.is_file():
        raise NotFound("there is no such file")
    with open(path, "rb") as handle:
        yield path.stat().st_size, iter(lambda: handle.read(1 << 20), b"")


def write_manifest(folder: str | Path, names: list[str], source: str) -> None:
    """Record the files `names` of a downloaded folder (bytes, SHA-256) and the `source` they came from."""
    paths = [Path(folder) / name for name in names]
    write_json(Path(folder) / MANIFEST_NAME, {"source": source, "files": {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in paths}})


def check_manifest(folder: str | Path) -> bool:
    """Whether the folder is complete: a manifest, and every file it lists present. InputError if one has changed."""
    path = Path(folder) / MANIFEST_NAME
    if not path.is_file():
        return False
    try:
        files = {Path(folder) / name: facts["sha256"] for name, facts in read_json(path)["files"].items()}
    except (KeyError, TypeError, AttributeError):
        raise InputError(f"{path} is no manifest of this kit: delete it and run again") from None
    if not all(file.is_file() for file in files):
        return False
    changed = [file.name for file, sha256 in files.items() if sha256_of(file) != sha256]
    if changed:
        raise InputError(f"{folder}: {', '.join(changed)} changed since {MANIFEST_NAME} was written: delete the "
                         "changed files to get them again, or the manifest to keep them")
    return True


def unzip(archive: str | Path, folder: str | Path) -> None:
    """Unpack the zip file `archive` into `folder`, which is made.

    Before anything is written, the whole archive is refused (InputError) for an absolute name, a `..`, a link,
    or more than MAX_UNPACKED bytes or MAX_ENTRIES entries. Zipfile itself never gives more bytes for an entry than
    the entry declares, so the declared sizes bound the actual ones.
    """
    archive, folder = Path(archive), Path(folder)
    try:
        with zipfile.ZipFile(archive) as source:
            entries = source.infolist()
            if len(entries) > MAX_ENTRIES or sum(entry.file_size for entry in entries) > MAX_UNPACKED:
                raise InputError(f"{archive} would unpack to more than {MAX_ENTRIES} files or {MAX_UNPACKED} bytes")
            for entry in entries:
                name = PurePosixPath(entry.filename)
                if name.is_absolute() or ".." in name.parts or "\\" in entry.filename or ":" in entry.filename:
                    raise InputError(f"{archive} holds the unsafe name {entry.filename!r}; get it from its origin")
                if stat.S_ISLNK(entry.external_attr >> 16):
                    raise InputError(f"{archive} holds the link {entry.filename!r}; get it from its origin")
            for entry in entries:
                path = folder / entry.filename
                if entry.is_dir():
                    path.mkdir(parents=True, exist_ok=True)
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                with source.open(entry) as packed, open(path, "wb") as handle:
                    shutil.copyfileobj(packed, handle, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{archive} is not a readable zip file ({error}); delete it and run again") from None
