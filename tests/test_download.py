"""Downloads from real local servers (http, S3), safe unpacking, and the GLUE folders that download_glue.py makes."""
from __future__ import annotations

import hashlib
import http.server
import io
import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

import download_glue
from transformer import download
from transformer.download import NotFound, base_url, fetch, unzip
from transformer.files import InputError
from transformer.glue import TASKS, read_rows

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
    monkeypatch.setitem(download.KNOWN_FILES, f"{server.url}/f", (len(CONTENT), "1" * 64))
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
    assert f"{base_url('GLUE_BASE')}/CoLA.zip" in download.KNOWN_FILES
    monkeypatch.setenv("GLUE_BASE", "http://other/")
    assert base_url("GLUE_BASE") == "http://other"
    assert "https://huggingface.co/google-bert/bert-base-uncased/resolve/86b5e0934494bd15c9632b12f734a8a67f723594/" \
           "model.safetensors" in download.KNOWN_FILES


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
    ({"ok": b"1", "a/../../evil": b"1"}, None),
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


def test_unzip_damaged_and_good(tmp_path):
    good = zipped({"T/a.tsv": b"text", "T/deep/b": CONTENT})
    (tmp_path / "good.zip").write_bytes(good)
    unzip(tmp_path / "good.zip", tmp_path / "good")
    assert (tmp_path / "good/T/a.tsv").read_bytes() == b"text"
    assert (tmp_path / "good/T/deep/b").read_bytes() == CONTENT
    (tmp_path / "cut.zip").write_bytes(good[:len(good) // 2])
    with pytest.raises(InputError, match="cut.zip"):
        unzip(tmp_path / "cut.zip", tmp_path / "cut")


# --- download_glue.py

def tsv(task, rows: int, train: bool = True) -> bytes:
    """A labelled file in the layout of `task`."""
    width = task.train_columns + (0 if train or task.name != "MNLI" else 4)
    lines = ["\t".join(f"column{i}" for i in range(width))] if task.has_header else []
    for row in range(rows):
        columns = [f"{row}.{i} \"quoted" for i in range(width)]
        columns[task.label_column] = task.labels[row % len(task.labels)] if task.labels else "2.5"
        lines.append("\t".join(columns))
    return ("\n".join(lines) + "\n").encode()


MRPC_TRAIN = ("\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
              "1\t10\t11\tHe said \"yes\".\tYes , he said .\r\n"
              "0\t12\t13\tCaf\u00e9 \u2028one\tTwo\r\n"
              "1\t13\t12\tThree\tFour\r\n"
              "0\t14\t15\tFive\tSix")  # no final newline
MRPC_TEST = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t20\t21\tSeven\tEight\n0\t22\t23\tNine\tTen\n"
MRPC_HEADER = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"


@pytest.fixture
def glue_server(server, monkeypatch):
    for task in TASKS.values():
        name, archive = task.name, download_glue.ARCHIVES.get(task.name, f"{task.name}.zip")
        files = {f"{name}/{dev}": tsv(task, 2, train=False) for dev in task.dev_files}
        if archive:
            server.files[f"/glue/{archive}"] = zipped({f"{name}/train.tsv": tsv(task, 3), f"{name}/test.tsv": b"x\n",
                                                       **files})
    server.files["/glue/AX.tsv"] = b"index\tsentence1\tsentence2\n0\ta\tb\n"
    server.files["/glue/mrpc_dev_ids.tsv"] = b"12\t13\r\n14\t15\n"
    server.files["/senteval/msr_paraphrase_train.txt"] = MRPC_TRAIN.encode()
    server.files["/senteval/msr_paraphrase_test.txt"] = MRPC_TEST.encode()
    monkeypatch.setenv("GLUE_BASE", f"{server.url}/glue")
    monkeypatch.setenv("SENTEVAL_BASE", f"{server.url}/senteval/")
    return server


def test_without_arguments_the_four_tasks_of_the_reproduction(glue_server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    download_glue.main([])
    assert names(tmp_path / "glue_data") == ["CoLA", "MRPC", "RTE", "SST-2"]
    assert "RTE: train.tsv 3 examples, dev.tsv 2 examples" in capsys.readouterr().out
    requests = len(glue_server.requests)
    download_glue.main([])
    assert len(glue_server.requests) == requests


def test_all_tasks_are_readable(glue_server, tmp_path):
    download_glue.main(["--tasks", "all", "--data_dir", str(tmp_path / "g")])
    assert names(tmp_path / "g") == sorted([task.name for task in TASKS.values()] + ["diagnostic"])
    for task in TASKS.values():
        rows = [columns for _, columns in read_rows(task, tmp_path / "g" / task.name / "train.tsv")]
        assert len(rows) == (2 if task.name == "MRPC" else 3)
    assert (tmp_path / "g/diagnostic/diagnostic.tsv").read_bytes() == glue_server.files["/glue/AX.tsv"]
    assert (tmp_path / "g/MNLI/dev_mismatched.tsv").read_bytes() == tsv(TASKS["mnli"], 2, train=False)


def test_task_names_in_any_spelling_and_the_diagnostic_set_with_mnli():
    assert download_glue.parse_args(["--tasks", "mnli", "sts-b", "STSB", "ax"]).tasks == ["MNLI", "diagnostic", "STS-B"]


@pytest.mark.parametrize("local", [False, True])
def test_mrpc_is_built_from_the_source_texts(glue_server, tmp_path, local):
    arguments = ["--tasks", "mrpc", "--data_dir", str(tmp_path / "g")]
    if local:
        (tmp_path / "src").mkdir()
        for name in ("msr_paraphrase_train.txt", "msr_paraphrase_test.txt"):
            (tmp_path / "src" / name).write_bytes(glue_server.files.pop(f"/senteval/{name}"))
        arguments += ["--path_to_mrpc", str(tmp_path / "src")]
    download_glue.main(arguments)
    folder = tmp_path / "g" / "MRPC"
    assert names(tmp_path / "g") == ["MRPC"] and names(folder) == ["dev.tsv", "test.tsv", "train.tsv"]
    assert (folder / "train.tsv").read_text(encoding="utf-8") == \
        MRPC_HEADER + "1\t10\t11\tHe said \"yes\".\tYes , he said .\n1\t13\t12\tThree\tFour\n"
    assert (folder / "dev.tsv").read_bytes().decode() == \
        MRPC_HEADER + "0\t12\t13\tCaf\u00e9 \u2028one\tTwo\n0\t14\t15\tFive\tSix\n"
    assert (folder / "test.tsv").read_text() == \
        "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t20\t21\tSeven\tEight\n1\t22\t23\tNine\tTen\n"


def test_counts_are_compared_where_the_addresses_are_the_official_ones(glue_server, tmp_path, monkeypatch):
    monkeypatch.setitem(download.HOSTS, "GLUE_BASE", f"{glue_server.url}/glue")
    monkeypatch.setitem(download.HOSTS, "SENTEVAL_BASE", f"{glue_server.url}/senteval")
    with pytest.raises(InputError, match="3 examples, GLUE has 2490"):
        download_glue.main(["--tasks", "rte", "--data_dir", str(tmp_path)])


@pytest.mark.parametrize("archive, message", [
    (zipped({"RTE/train.tsv": b"i\ta\tb\tlabel\n0\ta\tb\tmaybe\n"}), "unknown label 'maybe'"),
    (zipped({"RTE/train.tsv": b"i\ta\tb\tlabel\n0\ta\tb\n"}), "line 2: 3 columns"),
    (zipped({"other/train.tsv": b""}), "no folder RTE"), (zipped({"../evil": b""}), "unsafe"), (b"<html>", "zip")])
def test_bad_archives(glue_server, tmp_path, archive, message):
    glue_server.files["/glue/RTE.zip"] = archive
    with pytest.raises(InputError, match=message):
        download_glue.main(["--tasks", "rte", "--data_dir", str(tmp_path / "g")])
    assert set(names(tmp_path / "g")) <= {"RTE", "RTE.zip"} and names(tmp_path) == ["g"]


def test_a_bad_row_of_mrpc_is_named(glue_server, tmp_path):
    glue_server.files["/senteval/msr_paraphrase_test.txt"] = b"h\th\th\th\th\n1\t2\t3\tfour\n"
    with pytest.raises(InputError, match=r"msr_paraphrase_test.txt, line 2: 4 columns, expected 5"):
        download_glue.main(["--tasks", "mrpc", "--data_dir", str(tmp_path)])
    assert not (tmp_path / "MRPC").exists()


@pytest.mark.parametrize("arguments, message", [
    (["--tasks", "rte", "nonsense"], "unknown task 'nonsense'"), (["--tasks", "rte", "--path_to_mrpc", "."], "MRPC"),
    (["--tasks", "wnli"], "WNLI.zip")])
def test_bad_input_ends_with_one_line_and_status_2(server, tmp_path, arguments, message):
    result = subprocess.run([sys.executable, str(ROOT / "download_glue.py"), *arguments], cwd=tmp_path, text=True,
                            capture_output=True, env={**os.environ, "GLUE_BASE": f"{server.url}/absent"})
    assert result.returncode == 2 and message in result.stderr and result.stderr.count("\n") == 1, result.stderr
    assert not list(tmp_path.rglob("*.*"))
