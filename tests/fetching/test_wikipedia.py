"""The first articles of a dump, read as a stream: against a naive reader of the whole, and where the stream breaks."""
import bz2
import itertools
import random
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import names, run
from tests.faulty_server import Fault
from tests.miniworld.wiki import page, write_pages
from transformer.fetching import download, transport, wikipedia
from transformer.files import InputError

ROWS = [(f"Title {number}", 10 if number % 7 == 3 else 0, f"Text {number} of <ref>2</ref> <page> </mediawiki>",
         "Title 1" if number % 5 == 2 else None) for number in range(40)]  # of 40 pages 24 or so are articles
NAME = "enwiki-latest-pages-articles.xml.bz2"


@pytest.fixture
def dump(server, monkeypatch):
    """A dump at the server's NAME, which comes in blocks of 50 bytes; its file."""
    monkeypatch.setattr(transport, "BLOCK", 50)
    path = server.folder / NAME
    write_pages(path, [page(number, *row) for number, row in enumerate(ROWS)])
    return path


def articles(text: bytes) -> list[str]:
    """Titles of the articles of a dump, by an XML parser."""
    root = ElementTree.fromstring(text)
    space = root.tag.removesuffix("mediawiki")
    return [entry.findtext(f"{space}title") for entry in root.iter(f"{space}page")
            if entry.findtext(f"{space}ns") == "0" and entry.find(f"{space}redirect") is None]


@pytest.mark.parametrize("count", [1, 2, 9, 24])
def test_the_first_articles_by_an_xml_parser(count, dump, server, tmp_path, capsys):
    target = tmp_path / "first.xml"
    wikipedia.main([f"{server.url}/{NAME}", "--articles", str(count), "--output_file", str(target)])
    whole = bz2.decompress(dump.read_bytes())
    assert articles(target.read_bytes()) == articles(whole)[:count] != []
    assert whole.startswith(target.read_bytes().removesuffix(b"\n</mediawiki>\n"))
    assert f"{target}: the first {count} articles of " in capsys.readouterr().out


def test_a_dump_with_fewer_is_taken_whole(dump, server, tmp_path, capsys):
    wikipedia.fetch_articles(f"{server.url}/{NAME}", tmp_path / "first.xml", 1000)
    whole = bz2.decompress(dump.read_bytes())
    assert (tmp_path / "first.xml").read_bytes() == whole.rstrip() + b"\n"
    assert f"{len(articles(whole))} articles of {server.url}/{NAME}, which has no more: 1,000 were asked for" in \
        capsys.readouterr().out
    wikipedia.fetch_articles("http://127.0.0.1:9/none", tmp_path / "first.xml", 1000)
    assert "first.xml is there already and is kept" in capsys.readouterr().out


def test_no_more_is_read_than_the_articles_take(server, tmp_path, monkeypatch):
    """Of a dump of some megabytes that does not compress; in several bz2 streams, as the multistream dumps are."""
    texts = random.Random(0)
    pages = [page(number, f"T{number}", 0, texts.randbytes(30_000).hex()) for number in range(100)]
    parts = ["<mediawiki>\n", *pages, "</mediawiki>\n"]
    dump = server.folder / NAME
    dump.write_bytes(b"".join(bz2.compress(part.encode()) for part in parts))
    read = []
    blocks = wikipedia.streamed
    monkeypatch.setattr(wikipedia, "streamed", lambda url: (read.append(len(block)) or block for block in blocks(url)))
    wikipedia.fetch_articles(f"{server.url}/{NAME}", tmp_path / "first.xml", 5)
    assert len(articles((tmp_path / "first.xml").read_bytes())) == 5
    assert sum(read) < dump.stat().st_size / 10


@settings(deadline=None)
@given(st.lists(st.integers(0, 12_000), max_size=30), st.sampled_from(["", "x" * 3000]))
def test_pages_are_the_same_however_they_come(cuts, before):
    """Cut anywhere, in the midst of <page> and </page>, too."""
    text = f"<mediawiki>{before}\n" + "".join(page(number, *row) for number, row in enumerate(ROWS)) + "</mediawiki>"
    head, *rest = re.split(r"(?<=</page>)", text)
    place = head.index("<page>")
    wanted = [head[:place], head[place:], *rest[:-1]]
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    found = wikipedia.pages(text[begin:end].encode() for begin, end in itertools.pairwise(edges))
    assert [one.decode() for one in found] == wanted


def test_a_byte_at_a_time():
    text = b"<mediawiki>" + b"".join(page(number, *row).encode() for number, row in enumerate(ROWS[:4]))
    assert len(list(wikipedia.pages(bytes([byte]) for byte in text))) == 5


def test_what_has_no_page_is_not_read_for_ever():
    with pytest.raises(InputError, match="no dump of a Wikipedia"):
        next(wikipedia.pages(itertools.repeat(b"<html>" * 1000)))


def test_a_broken_connection_is_gone_on_with(dump, server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "BACK_OFF", 0)
    size = dump.stat().st_size
    server.faults[f"/{NAME}"] = [Fault(status=503), Fault(cut=100), Fault(cut=size // 2, reset=True), Fault(cut=7)]
    wikipedia.fetch_articles(f"{server.url}/{NAME}", tmp_path / "first.xml", 20)
    assert len(articles((tmp_path / "first.xml").read_bytes())) == 20
    starts = [request.range for request in server.requests]
    assert starts[:2] == [None, None] and starts[2] == "bytes=100-" and len(starts) == 5


@pytest.mark.parametrize(("faults", "words"), [
    ([Fault(cut=0, lie=0)] * 9, "attempts"),
    ([Fault(status=503)] * 9, "503.*attempts"),
    ([Fault(cut=50), Fault(ignore_range=True)], "cannot go on in the middle"),
    ([Fault(cut=50, etag=False)], "cannot go on in the middle"),
    ([Fault(status=404)], "not found"),
    ([Fault(content=b"no bz2" * 100)], "this is no bz2 file"),
    ([Fault(content=bz2.compress(b"<html>" * 100))], "no dump of a Wikipedia"),
    ([Fault(content=bz2.compress(bytes(1 << 22)))], "no dump of a Wikipedia"),
    ([Fault(content=b"")], "cut short")])
def test_what_cannot_be_read_leaves_nothing(faults, words, dump, server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "BACK_OFF", 0)
    server.faults[f"/{NAME}"] = faults
    with pytest.raises(InputError, match=words) as caught:
        wikipedia.fetch_articles(f"{server.url}/{NAME}", tmp_path / "new" / "first.xml", 30)
    assert str(caught.value).startswith(f"{server.url}/{NAME}: ") and names(tmp_path / "new") == []


def test_a_file_that_is_cut_short(dump, tmp_path):
    short = tmp_path / "short.xml.bz2"
    short.write_bytes(dump.read_bytes()[:-30])
    with pytest.raises(InputError, match="cut short"):
        wikipedia.fetch_articles(str(short), tmp_path / "first.xml", 1000)
    assert names(tmp_path) == sorted(["served", "short.xml.bz2"])


def test_wikiextractor_and_the_splitter_read_it(dump, tmp_path, script):
    wikipedia.fetch_articles(str(dump), tmp_path / "first.xml", 10)
    subprocess.run([sys.executable, "-m", "wikiextractor.WikiExtractor", "first.xml", "--json", "-o", "extracted"],
                   cwd=tmp_path, check=True, capture_output=True)
    run(script, "prepare_data", ["--input_dir", tmp_path / "extracted", "--output_file", tmp_path / "text.txt",
                                 "--train_splitter"])
    numbers = [int(number) for number in re.findall(r"^Text (\d+)", (tmp_path / "text.txt").read_text(), re.M)]
    assert numbers == [number for number, (_, space, _, redirect) in enumerate(ROWS) if not space and not redirect][:10]
