"""download_glue.py: the folders it makes of the published files, from a server, a mirror or by hand; its checks."""
from __future__ import annotations

import errno
import hashlib
import json
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

import download_glue
from tests.conftest import ROOT, names, started, zipped
from tests.faulty_server import Fault
from transformer.data.tables import read_rows
from transformer.fetching import download
from transformer.fetching.sources import HOSTS, Source
from transformer.files import InputError
from transformer.tasks.glue import GLUE
from transformer.tasks.table import SQUAD, TASKS


def tsv(task, rows: int, train: bool = True) -> bytes:
    """A labelled file in the layout of `task`."""
    width = task.train_columns + (0 if train or task.name != "MNLI" else 4)
    lines = ["\t".join(f"column{i}" for i in range(width))] if task.has_header else []
    for row in range(rows):
        columns = [f"{row}.{i} \"quoted" for i in range(width)]
        columns[task.label_column] = task.labels[row % len(task.labels)] if task.labels else "2.5"
        lines.append("\t".join(columns))
    return ("\n".join(lines) + "\n").encode()


# Two pairs are of the dev set, the one of ids 13, 12 is not: their order counts.
MRPC_TRAIN = ("\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
              "1\t10\t11\tHe said \"yes\".\tYes , he said .\r\n"
              "0\t12\t13\tCaf\u00e9 \u2028one\tTwo\r\n"
              "1\t13\t12\tThree\tFour\r\n"
              "0\t14\t15\tFive\tSix")  # no final newline
MRPC_TEST = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t20\t21\tSeven\tEight\n0\t22\t23\tNine\tTen\n"
ARCHIVES = {"CoLA": "CoLA.zip", "SST-2": "SST-2.zip", "STS-B": "STS-B.zip", "QQP": "QQP-clean.zip", "MNLI": "MNLI.zip",
            "QNLI": "QNLIv2.zip", "RTE": "RTE.zip", "WNLI": "WNLI.zip"}
SMALL = {"AX.tsv": b"index\tsentence1\tsentence2\n0\ta\tb\n", "mrpc_dev_ids.tsv": b"\xef\xbb\xbf12\t13\r\n14\t15",
         "msr_paraphrase_train.txt": MRPC_TRAIN.encode(), "msr_paraphrase_test.txt": MRPC_TEST.encode()}


GOLDEN = json.loads((ROOT / "tests/golden/squad.json").read_text())
SQUAD_FILES = {file: json.dumps(GOLDEN[data]).encode() for data, files in (
    ("data_v1", ("train-v1.1.json", "dev-v1.1.json")), ("data_v2", ("train-v2.0.json", "dev-v2.0.json"))
) for file in files}


def questions(file: str) -> int:
    return SQUAD_FILES[file].count(b'"question":')


@pytest.fixture
def site(server, monkeypatch):
    """A web server in the place of the official one: 3 examples for training, 2 for dev, 1 for test (MRPC 2, 2, 2)."""
    for task, archive in ARCHIVES.items():
        task = TASKS[task.lower().replace("-", "")]
        files = {"train.tsv": tsv(task, 3)}
        files |= {dev: tsv(task, 2, train=False) for dev in task.dev_files}
        for submission in task.submissions:
            if submission.name != "AX":
                header = submission.header.replace(",", "\t")
                files[submission.file] = f"{header}\n0{header.count(chr(9)) * chr(9)}x\n".encode()
        content = zipped({f"{task.name}/{name}": content for name, content in files.items()})
        (server.folder / archive).write_bytes(content)
    for name, content in {**SMALL, **SQUAD_FILES}.items():
        (server.folder / name).write_bytes(content)
    monkeypatch.setenv("GLUE_BASE", server.url)
    monkeypatch.setenv("SENTEVAL_BASE", f"{server.url}/")
    monkeypatch.setenv("SQUAD_BASE", server.url)
    return server


def run(tmp_path: Path, *arguments: object) -> Path:
    download_glue.main([*map(str, arguments), "--data_dir", str(tmp_path / "g")])
    return tmp_path / "g"


def test_without_arguments_the_four_tasks_of_the_reproduction(site, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    download_glue.main([])
    assert names(tmp_path / "glue_data") == ["CoLA", "MRPC", "RTE", "SST-2"]
    out = capsys.readouterr().out
    assert "\nRTE: train.tsv 3 examples, dev.tsv 2 examples, test.tsv 1 examples\n" in out
    assert "\nMRPC: train.tsv 2 examples, dev.tsv 2 examples, test.tsv 2 examples\n" in out
    requests = len(site.requests)
    download_glue.main([])
    assert len(site.requests) == requests


def test_all_tasks_of_glue_are_readable(site, tmp_path):
    folder = run(tmp_path, "--tasks", "all")
    assert names(folder) == sorted([task.name for task in GLUE.values()] + ["diagnostic"])
    for task in GLUE.values():
        rows = [columns for _, columns in read_rows(task, folder / task.name / "train.tsv")]
        assert len(rows) == (2 if task.name == "MRPC" else 3)
    assert (folder / "diagnostic/diagnostic.tsv").read_bytes() == SMALL["AX.tsv"]
    assert (folder / "MNLI/dev_mismatched.tsv").read_bytes() == tsv(TASKS["mnli"], 2, train=False)
    assert len(site.requests) == 12


def test_task_names_in_any_spelling_and_the_diagnostic_set_with_mnli():
    assert download_glue.parse_args(["--tasks", "mnli", "sts-b", "STSB", "ax"]).tasks == ["MNLI", "diagnostic", "STS-B"]


@pytest.mark.parametrize("local", [(), ("msr_paraphrase_train.txt", "msr_paraphrase_test.txt"),
                                   ("msr_paraphrase_train.txt", "msr_paraphrase_test.txt", "mrpc_dev_ids.tsv")])
def test_mrpc_is_built_from_the_source_texts(site, tmp_path, local):
    arguments = ["--tasks", "mrpc"]
    if local:
        (tmp_path / "src").mkdir()
        for name in local:
            (site.folder / name).rename(tmp_path / "src" / name)
        arguments += ["--path_to_mrpc", tmp_path / "src"]
    folder = run(tmp_path, *arguments) / "MRPC"
    assert names(tmp_path / "g") == ["MRPC"] and names(folder) == ["dev.tsv", "test.tsv", "train.tsv"]
    header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    assert (folder / "train.tsv").read_text(encoding="utf-8") == \
        header + "1\t10\t11\tHe said \"yes\".\tYes , he said .\n1\t13\t12\tThree\tFour\n"
    assert (folder / "dev.tsv").read_bytes().decode() == \
        header + "0\t12\t13\tCaf\u00e9 \u2028one\tTwo\n0\t14\t15\tFive\tSix\n"
    assert (folder / "test.tsv").read_text() == \
        "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t20\t21\tSeven\tEight\n1\t22\t23\tNine\tTen\n"
    assert len(site.requests) == 3 - len(local) and (not local or names(tmp_path / "src") == sorted(local))


def rewritten(path: Path, name: str, change) -> None:
    """Write the zip file `path` again with one of its files changed (None: left out)."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry: archive.read(entry) for entry in archive.namelist()}
    content = change(entries.pop(name))
    path.write_bytes(zipped(entries if content is None else {**entries, name: content}))


@pytest.mark.parametrize("file, change, message", [
    ("train.tsv", lambda text: text + text.splitlines()[-1], "train.tsv holds 4 examples, GLUE has 3"),
    ("dev.tsv", lambda text: text[:text.index(b"\n", text.index(b"\n") + 1)], "dev.tsv holds 1 examples, GLUE has 2"),
    ("test.tsv", lambda text: text + b"1\ty", "test.tsv holds 2 examples, GLUE has 1"),
    ("test.tsv", lambda text: text + b"\n\n", "test.tsv, line 3: empty"),
    ("test.tsv", lambda text: None, "test.tsv does not exist")])
def test_every_split_is_counted_where_the_addresses_are_the_official_ones(site, tmp_path, monkeypatch, file, change,
                                                                          message):
    for host in ("GLUE_BASE", "SENTEVAL_BASE"):
        monkeypatch.setitem(HOSTS, host, site.url)
        monkeypatch.delenv(host)
    monkeypatch.setattr(download_glue, "published_sizes", lambda _: [3, 2, 1])
    shutil.rmtree(run(tmp_path, "--tasks", "rte"))
    rewritten(site.folder / "RTE.zip", f"RTE/{file}", change)
    with pytest.raises(InputError, match=f"{message}.*[Mm]ove .*RTE away and run again"):
        run(tmp_path, "--tasks", "rte")


@pytest.mark.parametrize("archive, file, first, message", [
    ("RTE.zip", "RTE/test.tsv", b"0\ta\tb\n", "an example, not a header.*index,sentence1,sentence2"),
    ("SST-2.zip", "SST-2/test.tsv", b"sentence\tlabel\n", "the header of SST-2, expected that of SST-2's test set"),
    ("AX.tsv", "diagnostic/diagnostic.tsv", b"0\ta\tb\n", "an example, not a header")])
def test_the_first_line_of_a_test_set_is_read(site, tmp_path, archive, file, first, message):
    if archive == "AX.tsv":
        (site.folder / archive).write_bytes(first * 2)
    else:
        rewritten(site.folder / archive, file, lambda text: first * 2)
    with pytest.raises(InputError, match=f"{file}, line 1: {message}"):
        run(tmp_path, "--tasks", file.split("/")[0])


@pytest.mark.parametrize("file", ["train.tsv", "dev.tsv", "test.tsv"])
def test_a_folder_that_lacks_a_file_gets_one_advice(site, refused, tmp_path, file):
    folder = run(tmp_path, "--tasks", "rte") / "RTE"
    (folder / file).unlink()
    refused("download_glue", "--tasks", "rte", "--data_dir", tmp_path / "g", words=(
        f"error: {folder / file} does not exist. Move {folder} away and run again, which makes it anew\n",))


def test_the_tables_cover_every_file():
    """One number for each file that is read, and the archives that the test serves are the ones that are asked for."""
    sizes = {name: download_glue.published_sizes(name) for name in download_glue.TASK_FILES}
    assert all(len(sizes[task.name]) == 1 + 2 * len(task.dev_files) for task in GLUE.values())
    assert {name: sizes[name] for name in ("SQuAD1", "SQuAD2")} == {"SQuAD1": [87599, 10570],
                                                                    "SQuAD2": [130319, 11873]}
    assert sizes["MNLI"] == [392702, 9815, 9832, 9796, 9847] and sizes["diagnostic"] == [1104]
    assert {tuple(download_glue.TASK_FILES[name]) for name in ARCHIVES} == {(archive,) for archive in ARCHIVES.values()}
    assert sizes.keys() == {*(task.name for task in TASKS.values()), "diagnostic"}


@pytest.mark.parametrize("archive, message", [
    (zipped({"RTE/train.tsv": b"i\ta\tb\tlabel\n0\ta\tb\tmaybe\n"}), "unknown label 'maybe'.*Move .*RTE away and run"),
    (zipped({"RTE/train.tsv": b"i\ta\tb\tlabel\n0\ta\tb\n"}), "line 2: 3 columns"),
    (zipped({"other/train.tsv": b""}), "no folder RTE"), (zipped({"../evil": b""}), "unsafe"), (b"<html>", "zip")])
def test_bad_archives(site, tmp_path, archive, message):
    (site.folder / "RTE.zip").write_bytes(archive)
    with pytest.raises(InputError, match=message):
        run(tmp_path, "--tasks", "rte")
    assert set(names(tmp_path / "g")) <= {"RTE", "RTE.zip"} and names(tmp_path) == ["g", "served"]


def test_a_bad_row_of_mrpc_is_named(site, tmp_path):
    altered = "rows were lost, merged or added when it was copied or opened in another program"
    for text, place in (("h\th\th\th\th\n1\t2\t3\tfour\n", "line 2: 4 columns, expected 5"),
                        ("h\th\th\th\th\n1\t2\t3\tfour 1\t4\t5\tsix\tsix\tseven\n", "line 2: 9 columns, expected 5"),
                        ("1\t20\t21\tSeven\tEight\n0\t22\t23\tNine\tTen\n", "line 1: an example, not a header")):
        (site.folder / "msr_paraphrase_test.txt").write_text(text)
        (tmp_path / "g" / "msr_paraphrase_test.txt").unlink(missing_ok=True)
        with pytest.raises(InputError, match=f"msr_paraphrase_test.txt, {place}: {altered}"):
            run(tmp_path, "--tasks", "mrpc")
    assert "MRPC" not in names(tmp_path / "g")


@pytest.mark.parametrize("file, published", [("msr_paraphrase_train.txt", [2, 3, 2]),
                                             ("msr_paraphrase_test.txt", [2, 2, 3])])
def test_a_source_text_of_mrpc_that_lost_a_row_is_named(site, refused, tmp_path, monkeypatch, file, published):
    """4 pairs for training, of which 2 are of the dev set, and 2 for test are there."""
    (tmp_path / "src").mkdir()
    for text in download_glue.MRPC_TEXTS:
        shutil.copy(site.folder / text, tmp_path / "src")
    arguments = ["--tasks", "mrpc", "--path_to_mrpc", tmp_path / "src", "--data_dir", tmp_path / "g"]
    for host in ("GLUE_BASE", "SENTEVAL_BASE"):
        monkeypatch.setitem(HOSTS, host, site.url)
        monkeypatch.delenv(host)
    monkeypatch.setattr(download_glue, "published_sizes", lambda _: published)
    count = {"msr_paraphrase_train.txt": "4 pairs, the official text 5", "msr_paraphrase_test.txt": "2 pairs, the "
             "official text 3"}[file]
    refused("download_glue", *arguments, words=(f"{tmp_path / 'src' / file} holds {count}: rows were lost",
                                                "get it again"))
    assert "MRPC" not in names(tmp_path / "g") and names(tmp_path / "src") == sorted(download_glue.MRPC_TEXTS)


def test_an_empty_last_line_of_a_test_set_is_passed_over(site, tmp_path, capsys):
    rewritten(site.folder / "RTE.zip", "RTE/test.tsv", lambda text: text + b"\n")
    run(tmp_path, "--tasks", "rte")
    assert "test.tsv 1 examples" in capsys.readouterr().out


def test_a_complete_folder_is_checked_without_writing(site, tmp_path, monkeypatch, capsys):
    """A data_dir that cannot be written to has no place for a lock."""
    run(tmp_path, "--tasks", "rte")
    monkeypatch.setattr(download_glue, "locked", lambda *_, **__: pytest.fail("a lock"))
    capsys.readouterr()
    run(tmp_path, "--tasks", "rte")
    assert "RTE: train.tsv 3 examples" in capsys.readouterr().out


def test_a_full_disk_is_named_by_the_folder_that_is_known(site, refused, tmp_path, monkeypatch):
    def full(archive, folder):
        raise OSError(errno.ENOSPC, "No space left on device", f"{tmp_path}/g/.RTE.unpacking/RTE/train.tsv")
    monkeypatch.setattr(download_glue, "unzip", full)
    refused("download_glue", "--tasks", "rte", "--data_dir", tmp_path / "g",
            words=(f"{tmp_path}/g/RTE/train.tsv: No space left on device",))


def test_a_task_that_failed_is_finished_by_the_next_run(site, tmp_path):
    site.faults["/SST-2.zip"] = [Fault(status=403)]
    with pytest.raises(InputError, match="403"):
        run(tmp_path, "--tasks", "rte", "sst-2")
    assert names(tmp_path / "g") == ["RTE"]
    (tmp_path / "g" / ".SST-2.unpacking" / "SST-2").mkdir(parents=True)  # as a killed run leaves it
    assert names(run(tmp_path, "--tasks", "rte", "sst-2")) == ["RTE", "SST-2"]
    assert [request.path for request in site.requests].count("/RTE.zip") == 1


def test_two_runs_at_once_share_the_work(site, tmp_path):
    command = [sys.executable, ROOT / "download_glue.py", "--tasks", "all", "--data_dir", tmp_path / "g"]
    with started(*command) as first, started(*command) as second:
        for process in (first, second):
            out, err = process.communicate()
            assert process.returncode == 0, err
            assert out.count(" examples") == 9 * 3 + 2 + 1  # MNLI has two dev and two test files
    assert names(tmp_path / "g") == sorted(download_glue.GLUE_TASKS) and len(site.requests) == 12


def test_offline_names_all_that_is_missing_and_takes_what_was_brought(site, tmp_path):
    with pytest.raises(InputError) as caught:
        run(tmp_path, "--tasks", "rte", "mrpc", "ax", "--offline")
    missing = ["RTE.zip", "msr_paraphrase_train.txt", "msr_paraphrase_test.txt", "mrpc_dev_ids.tsv", "AX.tsv"]
    for file in missing:
        assert f"{site.url}/{file}" in str(caught.value) and str(tmp_path / "g" / file) in str(caught.value)
    for file in missing[:-1]:
        shutil.copy(site.folder / file, tmp_path / "g")
    with pytest.raises(InputError) as caught:
        run(tmp_path, "--tasks", "rte", "mrpc", "ax", "--offline")
    assert "AX.tsv" in str(caught.value) and "RTE.zip" not in str(caught.value)
    assert names(tmp_path / "g") == sorted(["MRPC", "RTE", *missing[:-1]])  # done; what was brought is the user's
    assert not site.requests


def test_a_mirror_has_the_same_files(site, tmp_path, monkeypatch):
    """Its sums and counts are those of the official files, which the environment's addresses need not have."""
    with pytest.raises(InputError, match="RTE.zip"):
        run(tmp_path, "--tasks", "rte", "--mirror", site.folder)
    assert names(tmp_path / "g") == []
    for host, file in [("GLUE_BASE", "RTE.zip"), ("GLUE_BASE", "mrpc_dev_ids.tsv"),
                       *(("SENTEVAL_BASE", file) for file in download_glue.MRPC_TEXTS)]:
        url = f"{HOSTS[host]}/{file}"
        known = Source(file, url, (site.folder / file).stat().st_size, download.sha256_of(site.folder / file), "")
        monkeypatch.setitem(download_glue.KNOWN_FILES, url, known)
    with pytest.raises(InputError, match="holds 3 examples, GLUE has 2490"):
        run(tmp_path, "--tasks", "rte", "--mirror", site.folder)
    monkeypatch.setattr(download_glue, "published_sizes", lambda _: [2, 2, 2])
    run(tmp_path, "--tasks", "mrpc", "--mirror", f"{site.url}/")
    assert len(site.requests) == 3 and "MRPC" in names(tmp_path / "g")


# --- SQuAD

def test_squad_stays_as_published(site, tmp_path, capsys):
    folder = run(tmp_path, "--tasks", "squad1", "SQuAD-2.0", "squad")
    assert names(folder) == ["SQuAD1", "SQuAD2"]
    for task in SQUAD.values():
        assert {name: (folder / task.name / name).read_bytes() for name in names(folder / task.name)} == {
            name: SQUAD_FILES[name] for name in (task.train_file, *task.dev_files)}
    out = capsys.readouterr().out
    assert f"\nSQuAD2: train-v2.0.json {questions('train-v2.0.json')} questions, dev-v2.0.json " in out
    assert f"(from {site.url})" in out
    requests = len(site.requests)
    run(tmp_path, "--tasks", "squad1", "squad2")
    assert len(site.requests) == requests == 4


def test_the_published_files_of_squad():
    """Sizes and sums that agree in the manifests of TFDS and of Hugging Face's data sets; the licence is SQuAD's."""
    wanted = {"train-v1.1.json": (30288272, "3527663986b8295af4f7fcdff1ba1ff3f72d07d61a20f487cb238a6ef92fd955"),
              "dev-v1.1.json": (4854279, "95aa6a52d5d6a735563366753ca50492a658031da74f301ac5238b03966972c9"),
              "train-v2.0.json": (42123633, "68dcfbb971bd3e96d5b46c7177b16c1a4e7d4bdef19fb204502738552dede002"),
              "dev-v2.0.json": (4370528, "80a5225e94905956a6446d296ca1093975c4d3b3260f1d6c8f68bc2ab77182d8")}
    base = "https://rajpurkar.github.io/SQuAD-explorer/dataset"
    known = {name: download.KNOWN_FILES[f"{base}/{name}"] for name in wanted}
    assert {name: (source.size, source.sha256) for name, source in known.items()} == wanted
    assert {source.licence for source in known.values()} == {"CC BY-SA 4.0"}
    assert {file for name in ("SQuAD1", "SQuAD2") for file in download_glue.TASK_FILES[name]} == wanted.keys()


def as_official(site, monkeypatch, file: str, count: int) -> None:
    """The test's site in the place of SQuAD's, its file published with `count` questions."""
    monkeypatch.setitem(HOSTS, "SQUAD_BASE", site.url)
    monkeypatch.delenv("SQUAD_BASE")
    for name, content in SQUAD_FILES.items():
        url = f"{site.url}/{name}"
        known = Source(name, url, len(content), hashlib.sha256(content).hexdigest(), "CC BY-SA 4.0")
        monkeypatch.setitem(download.KNOWN_FILES, url, known)
    monkeypatch.setattr(download_glue, "published_sizes", lambda name: [
        count if name == file else questions(name) for name in download_glue.TASK_FILES[name]])


@pytest.mark.parametrize("file", ["train-v1.1.json", "dev-v1.1.json"])
def test_questions_are_counted_whatever_glue_comes_from(site, refused, tmp_path, monkeypatch, file):
    as_official(site, monkeypatch, file, questions(file) + 1)
    refused("download_glue", "--tasks", "squad1", "--data_dir", tmp_path / "g", words=(
        f"{file} holds {questions(file)} questions, SQuAD has {questions(file) + 1}", "SQuAD1 away and run again"))
    monkeypatch.setenv("SQUAD_BASE", f"{site.url}/")  # named by the user: it may serve other data
    monkeypatch.setitem(HOSTS, "SQUAD_BASE", "http://127.0.0.1:9")
    run(tmp_path, "--tasks", "squad1")


def test_a_broken_transfer_of_squad_goes_on_and_the_licence_is_told(site, tmp_path, monkeypatch, capsys):
    as_official(site, monkeypatch, "", 0)
    site.faults["/train-v1.1.json"] = [Fault(cut=1000)]
    run(tmp_path, "--tasks", "squad1")
    assert (tmp_path / "g/SQuAD1/train-v1.1.json").read_bytes() == SQUAD_FILES["train-v1.1.json"]
    assert [request.path for request in site.requests].count("/train-v1.1.json") == 2
    assert "train-v1.1.json, sha256 as published; licence: CC BY-SA 4.0" in capsys.readouterr().out


def test_another_file_of_squad_is_refused(site, refused, tmp_path, monkeypatch):
    as_official(site, monkeypatch, "", 0)
    (site.folder / "dev-v1.1.json").write_bytes(SQUAD_FILES["dev-v1.1.json"].replace(b"1895", b"1896"))
    refused("download_glue", "--tasks", "squad1", "--data_dir", tmp_path / "g",
            words=("dev-v1.1.json", "wrong content", hashlib.sha256(SQUAD_FILES["dev-v1.1.json"]).hexdigest()))
    assert "SQuAD1" not in names(tmp_path / "g")


def test_squad_offline_and_from_a_mirror(site, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="2 files are not there.*train-v2.0.json.*dev-v2.0.json"):
        run(tmp_path, "--tasks", "squad2", "--offline")
    with pytest.raises(InputError, match="train-v2.0.json.*(42123633|offers)"):  # its files are the published ones
        run(tmp_path, "--tasks", "squad2", "--mirror", site.folder)
    for name in ("train-v2.0.json", "dev-v2.0.json"):
        shutil.copy(site.folder / name, tmp_path / "g")
    folder = run(tmp_path, "--tasks", "squad2", "--offline")
    assert names(folder) == ["SQuAD2", "dev-v2.0.json", "train-v2.0.json"]  # what was brought is the user's
    as_official(site, monkeypatch, "", 0)
    folder = run(tmp_path, "--tasks", "squad1", "--mirror", site.folder)
    assert names(folder / "SQuAD1") == ["dev-v1.1.json", "train-v1.1.json"] and not site.requests


@pytest.mark.parametrize("content, words", [
    (SQUAD_FILES["dev-v2.0.json"], "its task is squad2"), (SQUAD_FILES["dev-v1.1.json"][:-30], "dev-v1.1.json"),
    (b"<html>", "a web page")], ids=["other version", "cut", "page"])
def test_what_is_no_squad_of_this_version(site, refused, tmp_path, content, words):
    (site.folder / "dev-v1.1.json").write_bytes(content)
    refused("download_glue", "--tasks", "squad1", "--data_dir", tmp_path / "g",
            words=("dev-v1.1.json", words, "SQuAD1 away and run again"))


@pytest.mark.parametrize("mirror", ["data", "data/../data/", "link", "file"])
def test_a_mirror_that_is_the_data_dir_keeps_its_files(refused, tmp_path, monkeypatch, mirror):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("link").symlink_to("data")
    Path("data/RTE.zip").write_bytes(b"the only copy")
    mirror = (tmp_path / "data").as_uri() if mirror == "file" else mirror
    refused("download_glue", "--tasks", "rte", "--mirror", mirror, "--data_dir", "data", words=("one folder",))
    assert names(tmp_path / "data") == ["RTE.zip"]


@pytest.mark.parametrize("arguments, message", [
    (["--tasks", "rte", "nonsense"], "unknown task 'nonsense'"), (["--tasks", "rte", "--path_to_mrpc", "."], "MRPC"),
    (["--tasks", "mrpc", "--path_to_mrpc", "nowhere"], "nowhere does not exist"),
    (["--tasks", "mrpc", "--path_to_mrpc", "."], "msr_paraphrase_train.txt does not exist"),
    (["--tasks", "mrpc", "--path_to_mrpc", "file"], "file is a file: name the folder"),
    (["--tasks", "rte", "--data_dir", "file"], "file is a file: name a folder"),
    (["--tasks", "rte", "--data_dir", "file/deep"], "file is a file: name a folder"),
    (["--tasks", "cola", "rte", "--data_dir", "there"], "there/RTE is a file: name a folder"),
    (["--tasks", "wnli"], "WNLI.zip")])
def test_bad_input_ends_with_one_line_and_status_2(site, refused, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (site.folder / "WNLI.zip").unlink()
    Path("file").touch()
    Path("there").mkdir()
    Path("there/RTE").touch()
    refused("download_glue", *arguments, words=(message,))
    assert not list(tmp_path.glob("glue_data/**/*")) and names(tmp_path / "there") == ["RTE"]
