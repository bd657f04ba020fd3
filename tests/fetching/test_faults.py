"""Downloads when something goes wrong: each ends in the right bytes or in one clear line, and a rerun finishes it."""
from __future__ import annotations

import contextlib
import email.utils
import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, names, started
from tests.faulty_server import CuttingProxy, Fault, FaultyServer
from transformer.fetching import download, transport
from transformer.fetching.download import fetch
from transformer.fetching.transport import NotFound
from transformer.files import InputError

CONTENT = random.Random(0).randbytes(2_500_000)  # several blocks
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = random.Random(1).randbytes(len(CONTENT))
FAR = 2_200_000  # a cut there leaves blocks that need not come again


@pytest.fixture
def server(server, monkeypatch):
    """A server of /f, which holds CONTENT."""
    monkeypatch.setattr(transport, "TIMEOUT", (5, 0.5))
    (server.folder / "f").write_bytes(CONTENT)
    return server


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "got" / "f"


def refused(*arguments, kind: type[InputError] = InputError) -> str:
    """The message of a fetch that must fail: one line."""
    with pytest.raises(kind) as caught:
        fetch(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def each(faults: dict[str, Fault]):
    return pytest.mark.parametrize("fault", faults.values(), ids=faults)


def write_old(target: Path) -> None:
    """A file of an earlier day, which a fetch that fails has to leave."""
    target.parent.mkdir()
    target.write_bytes(b"old")


with_and_without_sum = pytest.mark.parametrize("sha256", [SHA256, None], ids=["sum known", "sum not known"])

STAYING = {  # another request mends these; when they stay, nothing comes
    "cut at once": Fault(cut=0), "no answer": Fault(cut=-9999), "stall at once": Fault(stall=-9999),
    "429": Fault(status=429), "500": Fault(status=500), "503": Fault(status=503, retry_after="0"),
}
MENDED = {
    **STAYING, "cut": Fault(cut=FAR), "cut before the end": Fault(cut=len(CONTENT) - 1), "stall": Fault(stall=FAR),
    "reset": Fault(cut=FAR, reset=True), "cut in a chunk": Fault(cut=FAR, framing="chunked"),
    "cut in gzip": Fault(cut=FAR, gzip=True),
}
HARMLESS = {"none": Fault(), "chunked": Fault(framing="chunked"), "length not told": Fault(framing="close"),
            "gzip": Fault(gzip=True)}
FATAL = {"401": Fault(status=401), "403": Fault(status=403), "410": Fault(status=410)}
DOUBTFUL = {  # trying again may help, or not
    "416": Fault(status=416), "cut in the head": Fault(cut=-10), "announces too many bytes": Fault(lie=10),
    "announces too few bytes": Fault(lie=-10), "wrong bytes": Fault(wrong=True),
    "cut, length not told": Fault(cut=FAR, framing="close"), "too long": Fault(content=CONTENT + b"x"),
}


@each(MENDED)
def test_another_request_mends_it(server, target, fault):
    server.faults["/f"] = [fault]
    assert fetch(f"{server.url}/f", target, len(CONTENT), SHA256) == SHA256
    assert target.read_bytes() == CONTENT and names(target.parent) == ["f"]
    assert len(server.requests) == 2


def test_several_requests_mend_several_faults(server, target):
    server.faults["/f"] = [Fault(status=503), Fault(status=429), Fault(cut=FAR), Fault(status=500), Fault(cut=9)]
    assert fetch(f"{server.url}/f", target) == SHA256
    assert target.read_bytes() == CONTENT and len(server.requests) == 6


@each(STAYING)
def test_a_fault_that_stays_ends_in_one_line_and_a_rerun_finishes(server, target, fault):
    write_old(target)
    server.faults["/f"] = [fault] * download.ATTEMPTS
    message = refused(f"{server.url}/f", target, len(CONTENT), SHA256)
    assert f"{server.url}/f" in message and str(target) in message
    assert (str(fault.status) if fault.status else "connection") in message
    assert len(server.requests) == download.ATTEMPTS
    assert names(target.parent) == ["f"] and target.read_bytes() == b"old"
    assert fetch(f"{server.url}/f", target, len(CONTENT), SHA256) == SHA256
    assert target.read_bytes() == CONTENT


@each(HARMLESS)
def test_one_request_is_enough(server, target, fault):
    server.faults["/f"] = [fault]
    assert fetch(f"{server.url}/f", target) == SHA256
    assert target.read_bytes() == CONTENT and names(target.parent) == ["f"] and len(server.requests) == 1


@each(FATAL)
def test_another_request_would_not_help(server, target, fault):
    write_old(target)
    server.faults["/f"] = [fault]
    message = refused(f"{server.url}/f", target, len(CONTENT), SHA256)
    assert str(fault.status) in message and f"{server.url}/f" in message and str(target) in message
    assert len(server.requests) == 1 and names(target.parent) == ["f"] and target.read_bytes() == b"old"


def test_not_found(server, target):
    assert "404" in refused(f"{server.url}/absent", target, kind=NotFound)
    assert len(server.requests) == 1 and names(target.parent) == []


@each(DOUBTFUL)
@pytest.mark.parametrize("times", [1, 9])
def test_no_wrong_file_gets_the_name(server, target, fault, times):
    server.faults["/f"] = [fault] * times
    with contextlib.suppress(InputError):
        fetch(f"{server.url}/f", target, len(CONTENT), SHA256)
    assert not target.exists() or times == 1 and target.read_bytes() == CONTENT
    server.faults.clear()
    (server.folder / "f").write_bytes(CONTENT)
    assert fetch(f"{server.url}/f", target, len(CONTENT), SHA256) == SHA256
    assert target.read_bytes() == CONTENT


@with_and_without_sum
@pytest.mark.parametrize("rerun", [False, True])
def test_only_the_rest_comes_again(server, target, sha256, rerun, monkeypatch):
    server.faults["/f"] = [Fault(cut=FAR)]
    if rerun:
        monkeypatch.setattr(download, "ATTEMPTS", 1)
        refused(f"{server.url}/f", target, None, sha256)
    assert fetch(f"{server.url}/f", target, None, sha256) == SHA256
    assert target.read_bytes() == CONTENT
    first, second = server.requests
    assert first.range is None and second.sent == len(CONTENT) - int(second.range[len("bytes="):-1]) < len(CONTENT)


def test_attempts_that_bring_something_do_not_count(server, target):
    server.faults["/f"] = [Fault(cut=300_000)] * (download.ATTEMPTS + 2)
    assert fetch(f"{server.url}/f", target, len(CONTENT), SHA256) == SHA256
    assert target.read_bytes() == CONTENT and len(server.requests) == download.ATTEMPTS + 3


def test_a_part_whose_end_a_crash_has_lost(server, target, monkeypatch):
    """The file system kept its length, not its content, and no sum of the file is known."""
    server.faults["/f"] = [Fault(cut=FAR)]
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    refused(f"{server.url}/f", target)
    with open(target.parent / ".f.part", "r+b") as part:
        part.seek(FAR - 300_000)
        part.write(bytes(200_000))
    assert fetch(f"{server.url}/f", target) == SHA256
    assert target.read_bytes() == CONTENT


AFTER_A_CUT = {"Range ignored": Fault(ignore_range=True), "starts too late": Fault(shift=3),
               "starts too early": Fault(shift=-3), "gzip": Fault(gzip=True), "416": Fault(status=416),
               "chunked": Fault(framing="chunked"), "length not told": Fault(framing="close")}


@with_and_without_sum
@each(AFTER_A_CUT)
def test_a_range_that_is_answered_in_another_way(server, target, fault, sha256):
    server.faults["/f"] = [Fault(cut=FAR), fault]
    assert fetch(f"{server.url}/f", target, None, sha256) == SHA256
    assert target.read_bytes() == CONTENT


@with_and_without_sum
@pytest.mark.parametrize("part", [CONTENT, CONTENT + b"more", OTHER, OTHER[:FAR], CONTENT[:FAR]],
                         ids=["whole", "too long", "other", "part of other", "part"])
def test_whatever_an_earlier_run_left(server, target, part, sha256):
    target.parent.mkdir()
    (target.parent / ".f.part").write_bytes(part)
    for _ in range(2):  # a part that the sum proves wrong may cost one error
        with contextlib.suppress(InputError):
            fetch(f"{server.url}/f", target, None, sha256)
        assert not target.exists() or target.read_bytes() == CONTENT
    assert target.exists()


CHANGED = {"as long": Fault(content=OTHER), "If-Range ignored": Fault(content=OTHER, ignore_if_range=True),
           "shorter": Fault(content=OTHER[:FAR - 1]), "longer": Fault(content=OTHER + b"more")}


@each(CHANGED)
@pytest.mark.parametrize("etag", [True, False])
@pytest.mark.parametrize("rerun", [False, True])
def test_a_file_that_changes_is_never_mixed(server, target, fault, etag, rerun, monkeypatch):
    server.faults["/f"] = [Fault(cut=FAR, etag=etag), fault]
    if rerun:
        monkeypatch.setattr(download, "ATTEMPTS", 1)
        refused(f"{server.url}/f", target)
    for _ in range(2):
        with contextlib.suppress(InputError):
            fetch(f"{server.url}/f", target)
        assert not target.exists() or target.read_bytes() == fault.content
    assert target.exists()


@pytest.mark.parametrize("wanted", [CONTENT, OTHER], ids=["before", "after"])
def test_a_file_that_changes_must_still_have_the_sum(server, target, wanted):
    server.faults["/f"] = [Fault(cut=FAR), Fault(content=OTHER)]
    sha256 = hashlib.sha256(wanted).hexdigest()
    for _ in range(2):
        with contextlib.suppress(InputError):
            fetch(f"{server.url}/f", target, len(wanted), sha256)
    assert target.exists() == (wanted is OTHER)
    assert wanted is CONTENT or target.read_bytes() == OTHER


@pytest.mark.parametrize("value, least", [("7", 7), ("in 30 s", 28), ("soon", 0), ("-5", 0),
                                          ("Mon, 01 Jan 1990 00:00:00 GMT", 0)])
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured(server, target, value, least, status, monkeypatch):
    sleeps = []
    if value == "in 30 s":
        value = email.utils.formatdate(time.time() + 30, usegmt=True)
    monkeypatch.setattr(download.time, "sleep", sleeps.append)
    server.faults["/f"] = [Fault(status=status, retry_after=value)]
    assert fetch(f"{server.url}/f", target, len(CONTENT), SHA256) == SHA256
    assert least <= sum(sleeps) <= max(31, least) and min(sleeps) >= 0 and len(server.requests) == 2


def test_nobody_waits_a_day(server, target, monkeypatch):
    sleeps = []
    monkeypatch.setattr(download.time, "sleep", sleeps.append)
    server.faults["/f"] = [Fault(status=429, retry_after="86400")] * 9
    assert "429" in refused(f"{server.url}/f", target, len(CONTENT), SHA256)
    assert sum(sleeps) < 3600 and not target.exists()


def test_redirects(server, target, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    with FaultyServer(tmp_path / "served") as other:  # another port
        server.faults["/here"] = [Fault(redirect=f"{server.url}/f")]
        server.faults["/there"] = [Fault(redirect=f"{other.url}/f")] * 3
        server.faults["/host"] = [Fault(redirect=f"{other.url}/f".replace("127.0.0.1", "localhost"))]
        other.faults["/f"] = [Fault(), Fault(cut=FAR)]
        for url in (*(f"{server.url}/{name}" for name in ("here", "there", "there", "host")), f"{other.url}/f"):
            assert fetch(url, target, len(CONTENT), SHA256) == SHA256
            assert target.read_bytes() == CONTENT
            target.unlink()
        assert [(request.path, request.authorization) for request in server.requests] == \
            [(path, "Bearer secret") for path in ("/here", "/f", "/there", "/there", "/there", "/host")]
        assert [request.authorization for request in other.requests] == [None] * 5  # the token is for the hub alone
        assert [request.range is None for request in other.requests] == [True, True, False, True, True]


def test_a_circle_of_redirects(server, target):
    server.faults["/f"] = [Fault(redirect=f"{server.url}/f")] * 1000
    refused(f"{server.url}/f", target, len(CONTENT), SHA256)
    assert not target.exists()


def random_faults(rng: random.Random, content: bytes, other: str) -> list[Fault]:
    """Up to six faults, one or two things wrong with each; `other` is the same file at another address."""
    faults = []
    for _ in range(rng.randint(0, 6)):
        place = rng.randint(-200, len(content))
        kinds = [{"cut": place}, {"cut": place, "reset": True}, {"status": rng.choice([429, 500, 502, 503])},
                 {"status": rng.choice([429, 503]), "retry_after": rng.choice(["0", "x", "-1"])},
                 {"status": rng.choice([403, 404, 416])}, {"ignore_range": True}, {"ignore_if_range": True},
                 {"shift": rng.randint(-2000, 2000)}, {"lie": rng.randint(-2000, 2000)}, {"wrong": True},
                 {"framing": rng.choice(["chunked", "close"])}, {"gzip": True}, {"etag": False}, {"redirect": other},
                 {"content": rng.randbytes(rng.choice([0, 1000, len(content)]))}, {"content": content}]
        fault = {**rng.choice(kinds), **rng.choice(kinds)}
        faults.append(Fault(**fault, stall=place if rng.random() < 0.03 else None))
    return faults


def test_200_random_sequences_of_faults(server, tmp_path):
    outcomes = []
    with FaultyServer(tmp_path / "served") as other:
        for seed in range(200):
            rng = random.Random(seed)
            content, old = rng.randbytes(rng.randint(0, 300_000)), b"of an earlier day" if rng.random() < 0.3 else None
            size, sha256 = rng.choice([None, len(content)]), hashlib.sha256(content).hexdigest()
            target = tmp_path / "got" / f"{seed}" / "f"
            target.parent.mkdir(parents=True)
            if old:
                target.write_bytes(old)
            for last in (False, False, True):
                (tmp_path / "served" / "f").write_bytes(content)
                for instance in (server, other):
                    instance.faults["/f"] = [] if last else random_faults(rng, content, f"{other.url}/f")
                try:
                    assert fetch(f"{server.url}/f", target, size, sha256) == sha256, seed
                    right = True
                except InputError as error:
                    assert "\n" not in str(error), seed
                    right = False
                found = target.read_bytes() if target.exists() else None
                assert found == content if right else found == old, seed
                outcomes.append(right)
                if right:
                    break
            assert right, seed
            assert names(target.parent) == ["f"], seed
    first = [right for right, before in zip(outcomes, [True, *outcomes]) if before]
    assert len(first) == 200 and 50 < sum(first) < 150  # the faults are neither harmless nor hopeless


# --- S3

@pytest.fixture(scope="module")
def moto():
    """The port of a local S3 server."""
    from moto.server import ThreadedMotoServer
    instance = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    instance.start()
    yield instance.get_host_and_port()[1]
    instance.stop()


@pytest.fixture
def s3(moto, monkeypatch):
    """(client, proxy that fetch() goes through) with s3://mirror/a/f holding CONTENT."""
    import boto3
    monkeypatch.setattr(download, "BACK_OFF", 0.001)
    with CuttingProxy(moto) as proxy:
        for name, value in (("NO_PROXY", "127.0.0.1"), ("AWS_ENDPOINT_URL", proxy.url), ("AWS_ACCESS_KEY_ID", "x"),
                            ("AWS_SECRET_ACCESS_KEY", "x"), ("AWS_DEFAULT_REGION", "us-east-1"),
                            ("AWS_MAX_ATTEMPTS", "1")):
            monkeypatch.setenv(name, value)
        client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{moto}")
        client.create_bucket(Bucket="mirror")
        client.put_object(Bucket="mirror", Key="a/f", Body=CONTENT)
        yield client, proxy


@pytest.mark.parametrize("cuts, ranges", [([], 0), ([FAR], 1), ([0, FAR], 1), ([FAR, 100_000], 2)])
def test_s3_goes_on_after_a_cut(s3, target, cuts, ranges):
    proxy = s3[1]
    proxy.cuts = list(cuts)
    assert fetch("s3://mirror/a/f", target, len(CONTENT), SHA256) == SHA256
    assert target.read_bytes() == CONTENT and names(target.parent) == ["f"]
    assert not proxy.cuts and proxy.heard.lower().count(b"\r\nrange: bytes=") == ranges


def test_s3_a_broken_server_ends_in_one_line_and_a_rerun_finishes(s3, target):
    proxy = s3[1]
    proxy.cuts = [0] * download.ATTEMPTS
    assert "s3://mirror/a/f" in refused("s3://mirror/a/f", target)
    assert not target.exists()
    assert fetch("s3://mirror/a/f", target) == SHA256
    assert target.read_bytes() == CONTENT


def test_s3_an_object_that_changes_is_never_mixed(s3, target, monkeypatch):
    client, proxy = s3
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    proxy.cuts = [FAR]
    refused("s3://mirror/a/f", target)
    client.put_object(Bucket="mirror", Key="a/f", Body=OTHER)
    for _ in range(2):
        with contextlib.suppress(InputError):
            fetch("s3://mirror/a/f", target)
        assert not target.exists() or target.read_bytes() == OTHER
    assert target.exists()


@pytest.mark.parametrize("url", ["s3://mirror/absent", "s3://no-such-bucket/f"])
def test_s3_not_found(s3, target, url):
    assert url in refused(url, target, kind=NotFound)
    assert not target.exists()


def test_s3_no_server(s3, target, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound and not listening: refuses
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
        refused("s3://mirror/a/f", target)
    assert not target.exists()


# --- processes, disks and folders

FETCH = """import sys
from transformer.cli import run_script
from transformer.fetching.download import fetch
sys.exit(run_script(lambda: fetch(*sys.argv[1:3], None, *sys.argv[3:])))"""


def fetching(url: str, target: Path, *sha256: str, before: str = "") -> contextlib.AbstractContextManager:
    """fetch() in a process of its own, as a script calls it."""
    return started(sys.executable, "-c", before + FETCH, url, target, *sha256, cwd=ROOT)


@pytest.mark.parametrize("killed", [False, True])
def test_two_processes_at_once(server, target, killed):
    server.faults["/f"] = [Fault(stall=FAR)]
    with fetching(f"{server.url}/f", target, SHA256) as first:
        assert server.stalled.wait(60)
        with fetching(f"{server.url}/f", target, SHA256) as second:
            assert second.stdout.readline() == f"another run is working in {target.parent}: waiting for it to end\n"
            assert len(server.requests) == 1 and not target.exists()
            if killed:
                first.kill()
            else:
                server.release.set()
            for process, status in ((first, -signal.SIGKILL if killed else 0), (second, 0)):
                _, err = process.communicate()
                assert process.returncode == status, err
    assert target.read_bytes() == CONTENT and names(target.parent) == ["f"]
    assert len(server.requests) == 1 + killed  # what came before the kill does not come again
    assert (server.requests[-1].sent < len(CONTENT)) == killed


def fails(*arguments, **keywords) -> str:
    """What a fetch that must fail says: one line, status 2."""
    with fetching(*arguments, **keywords) as process:
        _, err = process.communicate()
    assert process.returncode == 2 and err.count("\n") == 1, err
    assert "Traceback" not in err and str(arguments[1].parent) in err, err
    return err


@contextlib.contextmanager
def mounted(folder: Path, options: str):
    """`folder` as a file system of its own; skips the test where mounting is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    with contextlib.suppress(FileNotFoundError):
        if subprocess.run(command, capture_output=True).returncode == 0:
            try:
                yield
            finally:
                subprocess.run(["umount", str(folder)], check=True)
            return
    pytest.skip("mounting needs root")


@pytest.mark.parametrize("framing", ["length", "close"])
def test_full_disk(server, target, framing):
    server.faults["/f"] = [Fault(framing=framing)]
    with mounted(target.parent, "size=1m"):
        fails(f"{server.url}/f", target, SHA256)
        assert not target.exists()
        assert subprocess.run(["mount", "-o", "remount,size=8m", str(target.parent)]).returncode == 0
        assert fetch(f"{server.url}/f", target, None, SHA256) == SHA256
        assert target.read_bytes() == CONTENT


def test_a_write_that_fails(server, target):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1500000, 1500000))\n"
    fails(f"{server.url}/f", target, SHA256, before=limit)
    assert not target.exists()
    assert fetch(f"{server.url}/f", target, None, SHA256) == SHA256
    assert target.read_bytes() == CONTENT


def test_read_only_folder(server, target):
    with mounted(target.parent, "ro"):
        fails(f"{server.url}/f", target, SHA256)
        assert not target.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission(server, target):
    target.parent.mkdir(mode=0o555)
    fails(f"{server.url}/f", target, SHA256)
    assert not target.exists()


def test_no_folder_to_write_to(server, target):
    target.parent.write_bytes(b"a file")
    fails(f"{server.url}/f", target, SHA256)
    assert target.parent.read_bytes() == b"a file"


def test_a_folder_in_the_place_of_the_file(server, target):
    target.mkdir(parents=True)
    fails(f"{server.url}/f", target, SHA256)
    assert target.is_dir() and not any(target.iterdir())
