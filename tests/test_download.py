"""Downloads from real local servers (http, S3), and safe unpacking."""
from __future__ import annotations

import argparse
import contextlib
import copy
import hashlib
import http.server
import io
import os
import random
import threading
import zipfile
from pathlib import Path

import pytest

from transformer import download
from transformer.download import Missing, bring_by_hand, fetch, unzip
from transformer.files import InputError
from transformer.sources import DEFAULT_MODELS, HOSTS, HUB_MODELS, KNOWN_FILES, REVISIONS, Source, base_url
from transformer.transport import NotFound

ROOT = Path(__file__).resolve().parent.parent
CONTENT = bytes(range(256)) * 9000  # 2.3 MB: several blocks
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server:
    """A local web server. files: path -> bytes. faults: path -> what to do, request by request, before serving it.

    A fault is a status code, "cut" (half of the body, then the end), or an address to redirect to.
    """

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list] = {}
        self.requests: list[tuple[str, str | None]] = []  # path, Authorization header
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                owner.requests.append((self.path, self.headers.get("Authorization")))
                fault = owner.faults.get(self.path, [])
                fault = fault.pop(0) if fault else None
                body = owner.files.get(self.path)
                status = fault if isinstance(fault, int) else 404 if body is None else 200
                if isinstance(fault, str) and fault.startswith("http"):
                    self.send_response(302)
                    self.send_header("Location", fault)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                body = body if status == 200 else b"no"
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[:len(body) // 2] if fault == "cut" else body)
                self.close_connection = True

            def log_message(self, *_):
                pass

        self.httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.httpd.server_address[1]}"
        threading.Thread(target=self.httpd.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self.httpd.shutdown()
        self.httpd.server_close()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "BACK_OFF", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    instance = Server()
    yield instance
    instance.close()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_fetch_brings_the_bytes_and_returns_their_sum(server, tmp_path):
    server.files["/a/file.bin"] = CONTENT
    assert fetch(f"{server.url}/a/file.bin", tmp_path / "sub" / "file.bin") == SHA256
    assert (tmp_path / "sub" / "file.bin").read_bytes() == CONTENT
    assert names(tmp_path / "sub") == ["file.bin"]


@pytest.mark.parametrize("faults", [[500], [503, 429], ["cut"], ["cut", 500, "cut"]])
def test_fetch_tries_again(server, tmp_path, faults):
    server.files["/f"] = CONTENT
    server.faults["/f"] = list(faults)
    assert fetch(f"{server.url}/f", tmp_path / "f") == SHA256
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert len(server.requests) == len(faults) + 1


@pytest.mark.parametrize("fault, attempts, message", [
    (500, download.ATTEMPTS, "500"), ("cut", download.ATTEMPTS, "connection"), (403, 1, "403"), (401, 1, "401")])
def test_fetch_gives_up_with_one_clear_line_and_leaves_what_was_there(server, tmp_path, fault, attempts, message):
    server.files["/f"] = CONTENT
    server.faults["/f"] = [fault] * 9
    (tmp_path / "f").write_bytes(b"old")
    with pytest.raises(InputError, match=message) as caught:
        fetch(f"{server.url}/f", tmp_path / "f", sha256=SHA256)
    assert len(server.requests) == attempts
    assert f"{server.url}/f" in str(caught.value) and str(tmp_path / "f") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["f"] and (tmp_path / "f").read_bytes() == b"old"


def test_fetch_not_found_is_told_apart(server, tmp_path):
    with pytest.raises(NotFound, match="404"):
        fetch(f"{server.url}/absent", tmp_path / "absent")
    with pytest.raises(NotFound):
        fetch(tmp_path / "absent", tmp_path / "target")
    assert names(tmp_path) == []


def test_fetch_unreachable_host(monkeypatch, tmp_path):
    monkeypatch.setattr(download, "BACK_OFF", 0)
    with pytest.raises(InputError, match="connection"):
        fetch("http://127.0.0.1:9/file", tmp_path / "file")
    assert names(tmp_path) == []


def test_fetch_refuses_other_bytes_than_the_published(server, tmp_path, monkeypatch):
    server.files["/f"] = CONTENT
    for size, sha256, message in [(len(CONTENT) + 1, None, "bytes"), (None, "0" * 64, "sha256"),
                                  (len(CONTENT), "0" * 64, "sha256")]:
        with pytest.raises(InputError, match=message):
            fetch(f"{server.url}/f", tmp_path / "f", size, sha256)
    url = f"{server.url}/f"
    monkeypatch.setitem(KNOWN_FILES, url, Source("f", url, len(CONTENT), "1" * 64, "none"))
    with pytest.raises(InputError, match="1" * 64):  # looked up by the address
        fetch(f"{server.url}/f", tmp_path / "f")
    assert names(tmp_path) == []


def test_nothing_is_downloaded_twice(server, tmp_path, capsys):
    server.files["/f"] = CONTENT
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
    server.files["/f"] = CONTENT
    fetch(f"{server.url}/f", tmp_path / "f")
    assert SHA256 in capsys.readouterr().out


def test_the_token_goes_to_the_hub_only(server, tmp_path, monkeypatch):
    other = Server()
    try:
        monkeypatch.setenv("HF_TOKEN", "secret")
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.files["/f"] = other.files["/f"] = other.files["/g"] = b"x"
        server.faults["/g"] = [f"{other.url}/g".replace("127.0.0.1", "localhost")]
        fetch(f"{server.url}/f", tmp_path / "1")
        fetch(f"{other.url}/f", tmp_path / "2")
        fetch(f"{server.url}/g", tmp_path / "3")  # redirected to another host
        assert [header for _, header in server.requests] == ["Bearer secret"] * 2
        assert [header for _, header in other.requests] == [None] * 2
    finally:
        other.close()


def test_folders_and_file_addresses(tmp_path):
    (tmp_path / "a b").write_bytes(CONTENT)
    assert fetch(tmp_path / "a b", tmp_path / "1") == fetch((tmp_path / "a b").as_uri(), tmp_path / "2") == SHA256
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes() == CONTENT


def test_s3(tmp_path, monkeypatch):
    import boto3
    from moto.server import ThreadedMotoServer
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    s3 = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    s3.start()
    try:
        host, port = s3.get_host_and_port()
        for name, value in (("ENDPOINT_URL", f"http://{host}:{port}"), ("ACCESS_KEY_ID", "x"),
                            ("SECRET_ACCESS_KEY", "x"), ("DEFAULT_REGION", "us-east-1")):
            monkeypatch.setenv(f"AWS_{name}", value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="mirror")
        client.put_object(Bucket="mirror", Key="models/x/file.bin", Body=CONTENT)
        assert fetch("s3://mirror/models/x/file.bin", tmp_path / "file.bin") == SHA256
        assert (tmp_path / "file.bin").read_bytes() == CONTENT
        with pytest.raises(NotFound):
            fetch("s3://mirror/absent", tmp_path / "absent")
        with pytest.raises(NotFound):
            fetch("s3://no-such-bucket/absent", tmp_path / "absent")
        assert names(tmp_path) == ["file.bin"]
    finally:
        s3.stop()


def test_addresses_come_from_the_environment(monkeypatch):
    monkeypatch.delenv("GLUE_BASE", raising=False)
    assert f"{base_url('GLUE_BASE')}/CoLA.zip" in KNOWN_FILES
    monkeypatch.setenv("GLUE_BASE", "http://other/")
    assert base_url("GLUE_BASE") == "http://other"


def test_the_table_of_sources():
    assert len(KNOWN_FILES) == 17 and all(url == source.url and url.endswith(f"/{source.name}") and source.licence
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
        "distilled_tinybert_4l": "huawei-noah/TinyBERT_General_4L_312D",
        "distilled_tinybert_6l": "huawei-noah/TinyBERT_General_6L_768D",
        "tinybert_4l_zh": "huawei-noah/TinyBERT_4L_zh", "tinybert_6l_zh": "huawei-noah/TinyBERT_6L_zh"}
    assert DEFAULT_MODELS == ("bert-base-uncased", *(f"bert-base-uncased-{task}"
                                                     for task in ("mrpc", "sst2", "cola", "rte")))


def test_offline_asks_nobody_and_says_what_to_bring(server, tmp_path, monkeypatch):
    server.files["/f"] = CONTENT
    (tmp_path / "wrong").write_bytes(b"other")
    (tmp_path / "served").write_bytes(CONTENT)
    known, unknown, local = f"{server.url}/f", f"{server.url}/g", tmp_path / "served"
    monkeypatch.setitem(KNOWN_FILES, known, Source("f", known, len(CONTENT), SHA256, "none"))
    missing = []
    for url, name in ((known, "f"), (unknown, "sub/g"), (known, "wrong")):
        with pytest.raises(Missing) as caught:
            fetch(url, tmp_path / name, offline=True)
        missing.append(caught.value)
    assert [(error.url, error.target, error.size, error.sha256) for error in missing] == [
        (known, tmp_path / "f", len(CONTENT), SHA256), (str(unknown), tmp_path / "sub/g", None, None),
        (known, tmp_path / "wrong", len(CONTENT), SHA256)]
    message = str(bring_by_hand(missing))
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


def zipped(entries: dict[str, bytes], link: str | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
        if link:
            info = zipfile.ZipInfo(link)
            info.external_attr = 0o120777 << 16
            archive.writestr(info, "/etc/passwd")
    return buffer.getvalue()


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


@pytest.mark.parametrize("token, location", [
    ("\u0433\u0435\u0442\u0435\u0439", None), ("gete\ny", None), ("getey", "http://[::1/"), ("getey", "http://.x/")])
def test_addresses_and_tokens_of_no_use_end_in_one_line_without_the_token(server, tmp_path, monkeypatch, token,
                                                                          location):
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    server.files["/f"] = CONTENT
    server.faults["/f"] = [location] if location else []
    with pytest.raises(InputError, match="no usable address, answer or HF_TOKEN") as caught:
        fetch(f"{server.url}/f", tmp_path / "f")
    assert token not in str(caught.value) and "\n" not in str(caught.value)
    assert names(tmp_path) == []


@pytest.mark.parametrize("url", ["http://[::1/f", "file://[::1/f"])
def test_malformed_addresses(tmp_path, url):
    with pytest.raises(InputError, match="no usable address"):
        fetch(url, tmp_path / "f")
    with pytest.raises(Missing if url.startswith("http") else InputError):
        fetch(url, tmp_path / "f", offline=True)


@pytest.mark.parametrize("length", ["9" * 30, "9" * 5000])
def test_an_absurd_length_ends_in_one_line(server, tmp_path, monkeypatch, length):
    server.files["/f"] = CONTENT
    send = http.server.BaseHTTPRequestHandler.send_header
    monkeypatch.setattr(http.server.BaseHTTPRequestHandler, "send_header", lambda handler, name, value: send(
        handler, name, length if name == "Content-Length" else value))
    with pytest.raises(InputError) as caught:
        fetch(f"{server.url}/f", tmp_path / "f")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000 and names(tmp_path) == []


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
