"""Files made to harm, or damaged badly: one clear line, exit status 2, under 1 GB of memory and 10 s of computing.

Each case runs in a process of its own, forked from one that has the scripts imported (this file, run as a script), so
that its memory and time can be measured and bounded.
"""
import functools
import importlib
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT, contents, edit_config, finetune, general, names
from transformer.cli import run_script

SCRIPTS = ("fix_teacher_layers", "finetune_teacher", "general_distill", "get_bert_models")
GIGABYTE = 1 << 30


def serve() -> None:
    """For each line [script, folder, arguments] on stdin: run it in a fork, in the folder; answer [status, bytes]."""
    mains = {name: importlib.import_module(name).main for name in SCRIPTS}
    torch.empty(1, device="meta").normal_()  # the first loads much
    for line in sys.stdin:
        name, folder, arguments = json.loads(line)
        child = os.fork()
        if not child:
            os.chdir(folder)
            for number, stream in ((1, "out"), (2, "err")):
                os.dup2(os.open(f"{stream}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            resource.setrlimit(resource.RLIMIT_CPU, (10, 10))  # seconds: more is death by a signal
            sys.argv = [f"{name}.py"]
            status = run_script(functools.partial(mains[name], arguments))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        _, status, usage = os.wait4(child, 0)
        print(json.dumps([os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024]), flush=True)


@pytest.fixture(scope="module")
def server():
    with subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def run(world, server, tmp_path):
    """A folder with `model`, `MRPC` and `CoLA` to spoil, and run(script, *arguments) in it -> (status, stderr)."""
    shutil.copytree(world / "teacher_mrpc", tmp_path / "model")
    shutil.copytree(world / "config", tmp_path / "config")
    for task in ("MRPC", "CoLA"):
        shutil.copytree(world / "glue" / task, tmp_path / task)

    def call(name: str, *arguments) -> tuple[int, str]:
        server.stdin.write(json.dumps([name, str(tmp_path), [str(part) for part in arguments]]) + "\n")
        server.stdin.flush()
        status, memory = json.loads(server.stdout.readline())
        assert memory < GIGABYTE, f"{memory:,} bytes"
        return status, (tmp_path / "err.txt").read_text()
    return call


def finetune_arguments(task: str, world: Path) -> list:
    return finetune(world, tasks=task, glue_dir=".", model=world / "bert", output_dir="out", num_train_epochs=1)


GET = ("get_bert_models", "--models", "model", "--output_dir", "got")


def is_refused(answer: tuple[int, str], *words: str) -> None:
    status, err = answer
    message = err.strip().splitlines()
    assert status == 2 and len(message) == 1, f"status {status}\n{err}"
    for word in words:
        assert word in message[0], err


def both_refuse(run, folder: Path, *words: str) -> None:
    """Neither the script that changes a model nor, unless the copying takes long, the one that gets it leaves a trace
    of the attempt."""
    before = names(folder / "model")
    is_refused(run("fix_teacher_layers", "model"), "model", *words)
    assert names(folder / "model") == before
    if all(path.stat().st_size < GIGABYTE for path in (folder / "model").iterdir()):
        is_refused(run(*GET), "model", *words)
        assert contents(folder / "got") == {}


def test_honest_files_pass(run, world):
    assert run(*GET)[0] == 0
    assert run("fix_teacher_layers", "model")[0] == 0
    assert run("finetune_teacher", *finetune_arguments("MRPC", world))[0] == 0


# --- weights: spoil(file) makes it anew

class Calls:
    """Pickled as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def deflated(path):
    torch.save({"weight": torch.zeros(1 << 24)}, path)
    with zipfile.ZipFile(path) as plain:
        files = {name: plain.read(name) for name in plain.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    assert path.stat().st_size < 1 << 20


def enlarged(name, *shape):
    """A tensor that says it is large, of one number on the disk."""
    return lambda path: torch.save({**torch.load(path, weights_only=True), name: torch.zeros(1).expand(shape)}, path)


def sparse(start: bytes = b""):
    """A file of 1 GB that takes nearly no disk: `start`, then NULs without a line end."""
    def make(path):
        path.write_bytes(start)
        os.truncate(path, GIGABYTE)
    return make


BINS = {
    "code": (lambda path: torch.save(Calls(open, "danger", "w"), path), "code"),
    "code_in_a_plain_pickle": (lambda path: path.write_bytes(pickle.dumps(Calls(open, "danger", "w"), 2)), "code"),
    "system": (lambda path: path.write_bytes(b"cos\nsystem\n(S'touch danger'\ntR."), "code"),
    "bytes_from_a_number": (lambda path: torch.save({"weight": Calls(bytearray, 3 * GIGABYTE)}, path), "trust"),
    "packed": (deflated, "trust"),
    "larger_than_the_file": (enlarged("bert.pooler.dense.bias", 50_000, 50_000), "larger than the file"),
    "huge_classifier": (enlarged("classifier.weight", 10**9, 16), "larger than the file"),
    "no_width": (lambda path: torch.save({**torch.load(path, weights_only=True),
                                          "classifier.weight": torch.zeros(10**9, 0)}, path), "[1000000000, 0]"),
    "not_dense": (lambda path: torch.save({"weight": torch.sparse_coo_tensor(
        torch.zeros(2, 1), torch.ones(1), (10**6, 10**6))}, path), "another kind"),
    "list": (lambda path: torch.save([torch.zeros(1)], path), "table of named tensors"),
    "half": (lambda path: path.write_bytes(path.read_bytes()[:path.stat().st_size // 2]), "damaged or cut short"),
    "empty": (lambda path: path.write_bytes(b""), "damaged or cut short"),
    "nul": (sparse(), "damaged"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", BINS)
def test_bin(case, run, tmp_path):
    spoil, word = BINS[case]
    spoil(tmp_path / "model" / "pytorch_model.bin")
    both_refuse(run, tmp_path, word)
    assert not (tmp_path / "danger").exists()


def header(table: dict | bytes, data: int = 64, length: int | None = None):
    """A .safetensors file of this header and `data` bytes; `length` is what it says of the header's length."""
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return lambda path: path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text
                                         + bytes(data))


def entry(start: int, stop: int, *shape: int) -> dict:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, stop]}


SAFETENSORS = {
    "length_of_exabytes": header({}, length=1 << 62),
    "length_over_the_end": header({}, length=1000),
    "length_of_a_gigabyte": lambda path: (header(b"", length=GIGABYTE - 8)(path), os.truncate(path, GIGABYTE)),
    "many_tensors": header({f"t{i}": entry(0, 0, 0) for i in range(150_000)}, data=0),
    "no_json": header(b"this is no table"),
    "deep": header(b'{"a":' + b"[" * 1_000_000),
    "a_list": header(b"[1, 2, 3]"),
    "overlap": header({"a": entry(0, 40, 10), "b": entry(24, 64, 10)}),
    "gap": header({"a": entry(0, 16, 4), "b": entry(32, 64, 8)}),
    "past_the_end": header({"a": entry(0, 400, 100)}),
    "backwards": header({"a": entry(64, 0, 16)}),
    "huge_shape": header({"a": entry(0, 64, 10**9, 10**9)}),
    "overflowing_shape": header({"a": entry(0, 64, 1 << 62, 1 << 62)}),
    "negative_shape": header({"a": entry(0, 64, -16)}),
    "nul": sparse(),
}


@pytest.mark.parametrize("case", SAFETENSORS)
def test_safetensors(case, run, tmp_path):
    (tmp_path / "model" / "pytorch_model.bin").unlink()
    SAFETENSORS[case](tmp_path / "model" / "model.safetensors")
    both_refuse(run, tmp_path, "model.safetensors", "damaged or cut short")


# --- tables and vocab.txt

TABLES = {
    "deep_100_mb": (b"[" * 100_000_000, "more than 16 MB"),
    "deep_10_mb": (b"[" * 10_000_000, "not valid JSON"),
    "deep_objects": (b'{"a":' * 1_000_000, "not valid JSON"),
    "long_number": (b'{"vocab_size": ' + b"9" * 100_000 + b"}", "not valid JSON"),
    "no_object": (b"[1, 2]", "no JSON object"),
    "nul": (b"\0" * 1000, "not valid JSON"),
}


@pytest.mark.parametrize("case", TABLES)
def test_config(case, run, tmp_path):
    content, word = TABLES[case]
    (tmp_path / "model" / "config.json").write_bytes(content)
    both_refuse(run, tmp_path, "config.json", word)


@pytest.mark.parametrize("name", ["model/tokenizer.json", "got/model/manifest.json"])
@pytest.mark.parametrize("case", TABLES)
def test_what_a_download_has_beside(case, name, run, tmp_path):
    (tmp_path / "model" / "vocab.txt").unlink()
    (tmp_path / "got" / "model").mkdir(parents=True)
    content, word = TABLES[case]
    (tmp_path / name).write_bytes(content)
    is_refused(run(*GET), Path(name).name, word)


SIZES = [("hidden_size", 10**9, "too many"), ("num_hidden_layers", 10**9, "too many"),
         ("num_hidden_layers", 999, "encoder.layer.4"), ("intermediate_size", 10**9, "too many"),
         ("intermediate_size", 10**6, "intermediate.dense"), ("max_position_embeddings", 10**7, "position_embeddings"),
         ("type_vocab_size", 10**7, "token_type_embeddings"), ("hidden_size", 5000, "classifier.weight"),
         ("vocab_size", 10**7, "vocab.txt")]


@pytest.mark.parametrize("key,value,word", SIZES)
def test_sizes(key, value, word, run, world, tmp_path):
    for folder in ("model", "config"):
        edit_config(tmp_path / folder, **{key: value})
    is_refused(run("fix_teacher_layers", "model"), "model", word)
    is_refused(run(*GET), "model")
    if value == 10**9:  # smaller ones are what someone may want of a student
        is_refused(run("general_distill", *general(world, student_model="config", output_dir="out")), "config.json",
                   word)


VOCABULARIES = {
    "duplicates": (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nword\nother\nword\n", "'word' again (first on line 6)"),
    "ten_million_lines": ("\n".join(map(str, range(1_100_000))).encode() + b"\n1" * 8_900_000, "more than 1,000,000"),
    "empty_lines": (b"[PAD]" + b"\n" * 10_000_000, "empty"),
    "no_text": (b"\xff\xfe" * 1000, "UTF-8"),
    "nul": (None, "no end within 32 MB"),
}


@pytest.mark.parametrize("case", VOCABULARIES)
def test_vocabulary(case, run, tmp_path):
    content, word = VOCABULARIES[case]
    path = tmp_path / "model" / "vocab.txt"
    if content is None:
        sparse()(path)
    else:
        path.write_bytes(content)
    both_refuse(run, tmp_path, "vocab.txt", word)


# --- data

ROWS = {
    "million_columns": (b"\t" * 999_999, "1000000 columns, expected"),
    "thirty_million_columns": (b"\t" * 30_000_000, "30000001 columns, expected"),
    "nul": (b"0\t0\t0\tgood\0bird\t0", "NUL"),
    "only_nul": (b"\0" * 4096, "NUL"),
    "no_text": (b"0\t1\t\xff\t\xfe\t0", "UTF-8"),
    "line_of_a_gigabyte": (None, "no end within 32 MB"),
}


@pytest.mark.parametrize("task,first", [("MRPC", True), ("MRPC", False), ("CoLA", True)])  # CoLA has no headings
@pytest.mark.parametrize("case", ROWS)
def test_rows(case, first, task, run, world, tmp_path):
    row, word = ROWS[case]
    path = tmp_path / task / "train.tsv"
    lines = path.read_bytes().splitlines(keepends=True)
    before = b"".join(lines[:0 if first else 5])
    if row is None:
        sparse(before)(path)
    else:
        path.write_bytes(before + row + b"\n" + b"".join(lines[5:]))
    is_refused(run("finetune_teacher", *finetune_arguments(task, world)), "train.tsv", word)


if __name__ == "__main__":
    serve()
