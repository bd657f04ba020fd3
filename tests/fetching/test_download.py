"""fetch() where all goes well or the user's words are wrong (faults: test_faults.py), the sources, safe unpacking."""
from __future__ import annotations

import argparse
import contextlib
import copy
import hashlib
import os
import random
import subprocess
import sys
import zipfile

import pytest

from tests.conftest import ROOT, names, zipped
from tests.faulty_server import Fault
from transformer.fetching import download
from transformer.fetching.download import Missing, fetch, missing_error, unzip, unzip_file
from transformer.fetching.sources import DEFAULT_MODELS, HOSTS, HUB_MODELS, KNOWN_FILES, REVISIONS, Source, base_url
from transformer.fetching.transport import NotFound
from transformer.files import InputError

CONTENT = bytes(range(256)) * 900
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(server):
    """A server of /f, which holds CONTENT."""
    (server.folder / "f").write_bytes(CONTENT)
    return server


def test_fetch_unreachable_host(monkeypatch, tmp_path):
    monkeypatch.setattr(download, "BACK_OFF", 0)
    with pytest.raises(InputError, match="connection"):
        fetch("http://127.0.0.1:9/file", tmp_path / "file")
    assert names(tmp_path) == []


def test_fetch_refuses_other_bytes_than_the_published(server, tmp_path, monkeypatch):
    url = f"{server.url}/f"
    for size, sha256, message in [(len(CONTENT) + 1, None, "bytes"), (None, "0" * 64, "sha256"),
                                  (len(CONTENT), "0" * 64, "sha256")]:
        with pytest.raises(InputError, match=message):
            fetch(url, tmp_path / "f", size, sha256)
    monkeypatch.setitem(KNOWN_FILES, url, Source("f", url, len(CONTENT), "1" * 64, "none"))
    with pytest.raises(InputError, match="1" * 64):  # looked up by the address
        fetch(url, tmp_path / "f")
    assert names(tmp_path) == ["served"]


def test_nothing_is_downloaded_twice(server, tmp_path, capsys):
    target = tmp_path / "f"
    for _ in range(2):
        fetch(f"{server.url}/f", target, len(CONTENT), SHA256)
    assert len(server.requests) == 1
    target.write_bytes(CONTENT[:-1] + b"x")  # damaged: got again
    fetch(f"{server.url}/f", target, len(CONTENT), SHA256)
    assert len(server.requests) == 2 and target.read_bytes() == CONTENT
    target.write_bytes(b"brought by hand")   # nothing known about it: kept, and said
    capsys.readouterr()
    assert fetch(f"{server.url}/f", target) == hashlib.sha256(b"brought by hand").hexdigest()
    assert len(server.requests) == 2 and "is kept" in capsys.readouterr().out


def test_an_unknown_file_has_its_sum_printed(server, tmp_path, capsys):
    fetch(f"{server.url}/f", tmp_path / "f")
    assert SHA256 in capsys.readouterr().out


def test_folders_and_file_addresses(tmp_path):
    (tmp_path / "a b").write_bytes(CONTENT)
    assert fetch(tmp_path / "a b", tmp_path / "1") == fetch((tmp_path / "a b").as_uri(), tmp_path / "2") == SHA256
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes() == CONTENT
    with pytest.raises(NotFound):
        fetch(tmp_path / "absent", tmp_path / "3")
    assert names(tmp_path) == ["1", "2", "a b"]


def test_addresses_come_from_the_environment(monkeypatch):
    monkeypatch.delenv("GLUE_BASE", raising=False)
    assert f"{base_url('GLUE_BASE')}/CoLA.zip" in KNOWN_FILES
    monkeypatch.setenv("GLUE_BASE", "http://other/")
    assert base_url("GLUE_BASE") == "http://other"


def test_the_table_of_sources():
    assert len(KNOWN_FILES) == 29 and all(url == source.url and url.endswith(f"/{source.name}") and source.licence
                                          and len(bytes.fromhex(source.sha256)) == 32
                                          for url, source in KNOWN_FILES.items())
    assert [source.name for source in KNOWN_FILES.values() if source.size is None] == ["glove.840B.300d.zip"]
    bert = "google-bert/bert-base-uncased"
    published = {
        f"{HOSTS['GLUE_BASE']}/RTE.zip":
            (697150, "6bf86de103ecd335f3441bd43574d23fef87ecc695977a63b82d5efb206556ee"),
        f"{HOSTS['SENTEVAL_BASE']}/msr_paraphrase_train.txt":
            (1047044, "60a9b09084528f0673eedee2b69cb941920f0b8cd0eeccefc464a98768457f89"),
        f"{HOSTS['HF_ENDPOINT']}/{bert}/resolve/86b5e0934494bd15c9632b12f734a8a67f723594/model.safetensors":
            (440449768, "68d45e234eb4a928074dfd868cead0219ab85354cc53d20e772753c6bb9169d3")}
    assert {url: (KNOWN_FILES[url].size, KNOWN_FILES[url].sha256) for url in published} == published
    assert f"{HOSTS['HF_ENDPOINT']}/{bert}/resolve/{REVISIONS[bert]}/vocab.txt" in KNOWN_FILES
    assert HUB_MODELS == {
        "bert-base-uncased": bert,
        **{f"bert-base-uncased-{task}": f"JeremiahZ/bert-base-uncased-{task}"
           for task in ("mrpc", "sst2", "cola", "rte", "mnli", "qqp")},
        "bert-base-uncased-squad1": "csarron/bert-base-uncased-squad-v1",
        "bert-base-uncased-squad2": "deepset/bert-base-uncased-squad2",
        "distilled_tinybert_4l": "huawei-noah/TinyBERT_General_4L_312D",
        "distilled_tinybert_6l": "huawei-noah/TinyBERT_General_6L_768D",
        "bert-base-chinese": "google-bert/bert-base-chinese",
        "distilled_tinybert_4l_zh": "huawei-noah/TinyBERT_4L_zh",
        "distilled_tinybert_6l_zh": "huawei-noah/TinyBERT_6L_zh"}
    assert DEFAULT_MODELS == ("bert-base-uncased", *(f"bert-base-uncased-{task}"
                                                     for task in ("mrpc", "sst2", "cola", "rte")))


def test_offline_asks_nobody_and_says_what_to_bring(server, tmp_path, monkeypatch):
    (tmp_path / "wrong").write_bytes(b"other")
    known, unknown, local = f"{server.url}/f", f"{server.url}/g", server.folder / "f"
    monkeypatch.setitem(KNOWN_FILES, known, Source("f", known, len(CONTENT), SHA256, "none"))
    missing = []
    for url, name in ((known, "f"), (unknown, "sub/g"), (known, "wrong")):
        with pytest.raises(Missing) as caught:
            fetch(url, tmp_path / name, offline=True)
        missing.append(caught.value)
    assert [(error.url, error.target, error.size, error.sha256) for error in missing] == [
        (known, tmp_path / "f", len(CONTENT), SHA256), (str(unknown), tmp_path / "sub/g", None, None),
        (known, tmp_path / "wrong", len(CONTENT), SHA256)]
    message = str(missing_error(missing))
    assert "\n" not in message and message.count(f"({len(CONTENT)} bytes, sha256 {SHA256})") == 2
    for error in missing:
        assert f"{error.url} to {error.target}" in message
    assert names(tmp_path) == ["served", "wrong"]
    assert fetch(local, tmp_path / "1", offline=True) == fetch(local.as_uri(), tmp_path / "2", offline=True) == SHA256
    (tmp_path / "f").write_bytes(CONTENT)  # brought
    (tmp_path / "h").write_bytes(b"anything")
    assert fetch(known, tmp_path / "f", offline=True) == SHA256
    assert fetch(unknown, tmp_path / "h", offline=True) == hashlib.sha256(b"anything").hexdigest()
    assert not server.requests


@pytest.mark.parametrize("entries, link", [
    ({"ok": b"1", "../evil": b"1"}, None), ({"ok": b"1", "/evil": b"1"}, None),
    ({"ok": b"1", "a/../../evil": b"1"}, None), ({"ok": b"1", "ok//": b"", "./ok": b"2"}, None),
    ({"ok": b"1", "..\\evil": b"1"}, None), ({"ok": b"1", "C:evil": b"1"}, None), ({"ok": b"1"}, "link")])
def test_unzip_refuses_what_leaves_its_folder_before_writing(tmp_path, entries, link):
    (tmp_path / "x.zip").write_bytes(zipped(entries, link))
    with pytest.raises(InputError, match="x.zip"):
        unzip(tmp_path / "x.zip", tmp_path / "in" / "side")
    assert names(tmp_path) == ["x.zip"]


def test_unzip_bounds_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MAX_UNPACKED", 1000)
    (tmp_path / "big.zip").write_bytes(zipped({"a": bytes(600), "b": bytes(600)}))
    with pytest.raises(InputError, match="1000 bytes"):
        unzip(tmp_path / "big.zip", tmp_path / "out")
    # An entry that declares 10 bytes and holds 600: never more than the declared ones reach the disk.
    (tmp_path / "lie.zip").write_bytes(zipped({"a": bytes(600)}).replace((600).to_bytes(4, "little"),
                                                                         (10).to_bytes(4, "little")))
    with pytest.raises(InputError, match="not a readable zip"):
        unzip(tmp_path / "lie.zip", tmp_path / "out")
    assert (tmp_path / "out" / "a").stat().st_size <= 10


def test_what_a_server_sent_in_place_of_an_archive_is_named(tmp_path):
    (tmp_path / "RTE.zip").write_bytes(b"<!doctype html><title>Not found</title>")
    with pytest.raises(InputError, match="RTE.zip is a web page.*; move it away and run again$"):
        unzip(tmp_path / "RTE.zip", tmp_path / "out")


@pytest.mark.parametrize("content, refused", [(bytes(100_000), True), (os.urandom(100_000), False)])
def test_unzip_refuses_what_is_packed_too_well_to_be_text(tmp_path, monkeypatch, content, refused):
    (tmp_path / "x.zip").write_bytes(zipped({"a": content}))
    unzip(tmp_path / "x.zip", tmp_path / "small")  # harms nobody
    monkeypatch.setattr(download, "ANY_RATIO_BELOW", len(content) - 1)
    with pytest.raises(InputError, match="100 times") if refused else contextlib.nullcontext():
        unzip(tmp_path / "x.zip", tmp_path / "out")
    assert (tmp_path / "out").exists() != refused


def test_unzip_counts_what_it_writes(tmp_path, monkeypatch):
    """Zipfile gives no more than an entry declares; were it to, the count would stop it."""
    (tmp_path / "x.zip").write_bytes(zipped({"a": bytes(200_000)}))
    entries = zipfile.ZipFile.infolist

    def declare_less(archive):
        declared = [copy.copy(entry) for entry in entries(archive)]
        for entry in declared:
            entry.file_size = 70_000
        return declared

    monkeypatch.setattr(zipfile.ZipFile, "infolist", declare_less)
    real = zipfile.ZipFile.open
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda archive, entry: real(archive, entry.filename))
    with pytest.raises(InputError, match="more bytes than it declares"):
        unzip(tmp_path / "x.zip", tmp_path / "out")
    assert (tmp_path / "out" / "a").stat().st_size <= 70_000


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unzip_refuses_what_unpacks_without_bounds(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", method) as archive:
        archive.writestr("a", b"text")
    with pytest.raises(InputError, match="x.zip packs 'a'"):
        unzip(tmp_path / "x.zip", tmp_path / "out")
    assert names(tmp_path) == ["x.zip"]


KILLED = """
import os, signal, sys, zipfile
from transformer.fetching.download import unzip_file
read, blocks = zipfile.ZipExtFile.read, []
def reading(*arguments):
    blocks.append(read(*arguments))
    if len(blocks) == 3: os.kill(os.getpid(), signal.SIGKILL)
    return blocks[-1]
zipfile.ZipExtFile.read = reading
unzip_file(*sys.argv[1:])
"""


def test_one_file_of_an_archive_is_whole_or_not_there(tmp_path, capsys):
    wanted = os.urandom(300_000)
    archive, target = tmp_path / "x.zip", tmp_path / "to" / "b.txt"
    archive.write_bytes(zipped({"a.txt": b"other", "in/b.txt": wanted}))
    target.parent.mkdir()
    killed = subprocess.run([sys.executable, "-c", KILLED, archive, target], cwd=ROOT)
    assert killed.returncode == -9 and not target.exists() and any(target.parent.rglob("b.txt"))
    unzip_file(archive, target)
    assert target.read_bytes() == wanted and names(target.parent) == ["b.txt"]
    archive.write_bytes(b"no archive")
    unzip_file(archive, target)
    assert "b.txt is there already and is kept" in capsys.readouterr().out


@pytest.mark.parametrize(("content", "words"), [
    (zipped({"a.txt": b"other"}), "x.zip holds no b.txt: name one"),
    (zipped({"b.txt": os.urandom(300_000)})[:200_000], "x.zip is not a readable zip file")])
def test_an_archive_without_the_file_is_told(tmp_path, content, words):
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(InputError, match=words):
        unzip_file(tmp_path / "x.zip", tmp_path / "b.txt")
    assert names(tmp_path) == ["x.zip"]


@pytest.mark.parametrize("token, location", [
    ("\u0433\u0435\u0442\u0435\u0439", None), ("gete\ny", None), ("getey", "http://[::1/"), ("getey", "http://.x/")])
def test_addresses_and_tokens_of_no_use_end_in_one_line_without_the_token(server, tmp_path, monkeypatch, token,
                                                                          location):
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    server.faults["/f"] = [Fault(redirect=location)]
    with pytest.raises(InputError, match="no usable address, answer or HF_TOKEN") as caught:
        fetch(f"{server.url}/f", tmp_path / "f")
    assert token not in str(caught.value) and "\n" not in str(caught.value)
    assert names(tmp_path) == ["served"]


@pytest.mark.parametrize("url", ["http://[::1/f", "file://[::1/f"])
def test_malformed_addresses(tmp_path, url):
    with pytest.raises(InputError, match="no usable address"):
        fetch(url, tmp_path / "f")
    with pytest.raises(Missing if url.startswith("http") else InputError):
        fetch(url, tmp_path / "f", offline=True)


@pytest.mark.parametrize("length", ["9" * 30, "9" * 5000])
def test_an_absurd_length_ends_in_one_line(server, tmp_path, length):
    server.faults["/f"] = [Fault(length=length)] * download.ATTEMPTS
    with pytest.raises(InputError) as caught:
        fetch(f"{server.url}/f", tmp_path / "f")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000 and names(tmp_path) == ["served"]


@pytest.mark.parametrize("mirror, taken", [("http://me:secret@host/x", False), ("https://me@host", False),
                                           ("http://host/a@b", True), ("folder@home", True), ("s3://bucket/x", True)])
def test_a_mirror_is_named_without_passwords(capsys, mirror, taken):
    parser = argparse.ArgumentParser()
    download.add_source_flags(parser, "FILE")
    if taken:
        assert parser.parse_args(["--mirror", mirror]).mirror == mirror
        return
    with pytest.raises(SystemExit):
        parser.parse_args(["--mirror", mirror])
    err = capsys.readouterr().err
    assert "~/.netrc" in err and "secret" not in err and "host" not in err


def test_other_schemes_are_named(tmp_path):
    with pytest.raises(InputError, match="ftp://"):
        fetch("ftp://127.0.0.1/f", tmp_path / "f")
    assert names(tmp_path) == []


def test_unzip_damaged_and_good(tmp_path):
    good = zipped({"T/a.tsv": b"text", "T/deep/b": CONTENT})
    (tmp_path / "good.zip").write_bytes(good)
    unzip(tmp_path / "good.zip", tmp_path / "good")
    assert (tmp_path / "good/T/a.tsv").read_bytes() == b"text"
    assert (tmp_path / "good/T/deep/b").read_bytes() == CONTENT
    (tmp_path / "cut.zip").write_bytes(good[:len(good) // 2])
    with pytest.raises(InputError, match="cut.zip"):
        unzip(tmp_path / "cut.zip", tmp_path / "cut")


def test_unzip_of_damaged_bytes_ends_well_or_in_one_line(tmp_path):
    good = zipped({"T/a.tsv": b"text\t1\n" * 50, "T/b/\u00fc": b"x" * 300})
    refused = 0
    for seed in range(400):
        rng, damaged = random.Random(seed), bytearray(good)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        (tmp_path / "x.zip").write_bytes(damaged)
        try:
            unzip(tmp_path / "x.zip", tmp_path / "in" / f"{seed}")
        except InputError as error:
            assert "\n" not in str(error)
            refused += 1
    assert 200 < refused < 400 and names(tmp_path) == ["in", "x.zip"]
