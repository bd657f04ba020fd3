"""The beginning of a Wikipedia dump, read from its address no further than the articles asked for: of the 22 GB of the
English one, 500 articles take some megabytes."""
from __future__ import annotations

import argparse
import bz2
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from transformer.cli import Parser, add_run_flags, positive, print_settings, run_script
from transformer.fetching.download import back_off
from transformer.fetching.transport import Broken, Progress, opened
from transformer.files import InputError, atomic_write, locked, require_no_file

_START_OF_PAGE, _END_OF_PAGE, _END_OF_DUMP = b"<page>", b"</page>", b"</mediawiki>"
_ARTICLE = re.compile(rb"<ns>0</ns>(?!.*<redirect )", re.DOTALL)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    group = parser.add_argument_group("data")
    group.add_argument("dump", help="address or path of a dump: ...-pages-articles.xml.bz2")
    group.add_argument("--articles", type=positive, required=True, help="how many to take, redirects not counted")
    group.add_argument("--output_file", type=Path, required=True, help="XML file to write, as WikiExtractor reads it")
    add_run_flags(parser)
    return parser.parse_args(argv)


def streamed(url: str) -> Iterator[bytes]:
    """The bytes of an address, as they come. A connection that breaks is opened again, and goes on where it broke.

    InputError where several attempts in a row bring nothing, or the server begins anew.
    """
    have, failures = Progress(), 0
    while True:
        try:
            with opened(url, have) as (start, blocks):
                if start.have != have.have:
                    raise InputError("the connection broke, and the server cannot go on in the middle: run it again")
                have = start
                for block in blocks:
                    have.have += len(block)
                    failures = 0
                    yield block
                if have.total is not None and have.have < have.total:
                    raise Broken("the connection ended early")
            return
        except Broken as error:
            if have.have and not have.validator:
                raise InputError(f"{error}, and the server cannot go on in the middle: run it again") from None
            failures += 1
            back_off(url, error, failures)


def decompressed(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """What bz2 streams, one behind the other, hold, in pieces. InputError where they are none or end early."""
    stream = bz2.BZ2Decompressor()
    try:
        for block in blocks:
            while block:
                if stream.eof:
                    stream = bz2.BZ2Decompressor()
                yield stream.decompress(block)
                block = stream.unused_data
    except OSError:
        raise InputError("this is no bz2 file: name a dump that ends in .xml.bz2") from None
    if not stream.eof:
        raise InputError("the file is cut short: get it again")


def pages(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The head of a dump, then each of its pages, all with what stands before them. InputError where it has no page."""
    text = bytearray()
    found = False
    for piece in pieces:
        searched = max(0, len(text) - len(_END_OF_PAGE))
        text += piece
        if not found:
            begin = text.find(_START_OF_PAGE)
            if begin < 0:
                if len(text) > 1 << 20:
                    break
                continue
            found = True
            yield bytes(text[:begin])
            del text[:begin]
            searched = 0
        while (end := text.find(_END_OF_PAGE, searched)) >= 0:
            end += len(_END_OF_PAGE)
            yield bytes(text[:end])
            del text[:end]
            searched = 0
    if not found:
        raise InputError("this is no dump of a Wikipedia: it has no <page>")


def fetch_articles(url: str, target: Path, count: int) -> None:
    """Write the first pages of a dump to the file `target`, up to the `count`-th article, as a dump of their own.

    A target that is there is kept. InputError where the dump cannot be read; `target` then is not written. Where it
    holds fewer articles, they are all, which is printed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.with_name(f".{target.name}.lock"), wait=True, keep=False):
        if target.is_file():
            print(f"{target} is there already and is kept", flush=True)
            return
        found = 0
        try:
            with atomic_write(target, "wb") as handle, tqdm(total=count, desc=target.name, unit=" articles",
                                                            disable=None) as bar:
                for page in pages(decompressed(streamed(url))):
                    handle.write(page)
                    if _ARTICLE.search(page[:page.find(b"<text")]):
                        found += 1
                        bar.update()
                    if found == count:
                        break
                handle.write(b"\n" + _END_OF_DUMP + b"\n")
        except InputError as error:
            raise InputError(f"{url}: {error}") from None
    print(f"{target}: the first {found:,} articles of {url}" +
          f", which has no more: {count:,} were asked for" * (found < count), flush=True)


def main(argv: list[str] | None = None) -> None:
    """Get the articles."""
    args = parse_args(argv)
    print_settings(args)
    require_no_file(args.output_file.parent)
    fetch_articles(args.dump, args.output_file, args.articles)


if __name__ == "__main__":
    sys.exit(run_script(main))
