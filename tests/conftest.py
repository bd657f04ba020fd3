"""What the tests share: tiny models and data, calling a script as the command line does, a web server, files."""
from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.faulty_server import FaultyServer
from transformer.checkpoint import save_model
from transformer.cli import run_script
from transformer.config import BertConfig
from transformer.fetching import download
from transformer.modeling import (
    BertForMaskedLM,
    BertForPreTraining,
    BertModel,
    TinyBertForPreTraining,
    TinyBertForSequenceClassification,
)
from transformer.tasks.labels import name_labels
from transformer.tasks.table import get_task
from transformer.tasks.task import Task
from transformer.weights import read_weights

torch.set_num_threads(1)  # the models of the tests are too small for more to help
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it, and all that it starts

ROOT = Path(__file__).resolve().parent.parent
WORDS = "the a cat dog bird sees likes hears good bad old new not very and".split()
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", ".", "##s", *WORDS[2:]]
SIZES = {"vocab_size": len(PIECES), "num_attention_heads": 2, "max_position_embeddings": 40, "initializer_range": 0.2}
TEACHER = {"hidden_size": 16, "num_hidden_layers": 4, "intermediate_size": 32, **SIZES}
TEACHERS = {  # of other families: what sets their config.json apart
    "electra": {"model_type": "electra", "embedding_size": 8},
    "nezha": {"model_type": "nezha", "max_relative_position": 3},
    "albert": {"model_type": "albert", "embedding_size": 8, "hidden_dropout_prob": 0.1,
               "attention_probs_dropout_prob": 0.1}}
STUDENT = {"hidden_size": 8, "num_hidden_layers": 2, "intermediate_size": 16, **SIZES}


def pytest_make_parametrize_id(config, val, argname) -> str | None:
    """Long bytes are named by their length: zip files hold the time, and `pytest -n 2` wants equal names in both."""
    return f"{argname}_of_{len(val)}" if isinstance(val, bytes) and len(val) > 20 else None


def sentence(number: int) -> str:
    """The sentence of a number: three words, the second from 0 to 2 deciding what the tasks ask."""
    return f"the {WORDS[2 + number % 3]} {WORDS[5 + number // 3 % 3]} the {WORDS[8 + number // 9 % 4]} bird"


def write_lines(path: Path, lines) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def task_lines(task: Task, rows: int, text: Callable[[int, int], str]) -> list[str]:
    """Lines of a train.tsv in the official columns; text(row, column) is what stands in a column of text."""
    header = ["\t".join(f"column{c}" for c in range(task.train_columns))] if task.has_header else []
    table = [[f'{row}.{c} "x' for c in range(task.train_columns)] for row in range(rows)]
    for row, columns in enumerate(table):
        for column in task.text_columns:
            columns[column] = text(row, column)
        columns[task.label_column] = task.labels[row % 3 % task.num_labels] if task.labels else f"{row % 6}.0"
    return header + ["\t".join(columns) for columns in table]


def write_task(folder: Path, name: str, rows: int) -> None:
    """train.tsv, train_aug.tsv and dev files of a task, whose labels follow from the sentences."""
    task = get_task(name)
    for file, count in (("train.tsv", rows), ("train_aug.tsv", 2 * rows), *((dev, rows) for dev in task.dev_files)):
        lines = task_lines(task, count, lambda row, column: sentence(row * (column + 1)))
        write_lines(folder / task.name / file, lines)


@pytest.fixture(scope="session")
def template(tmp_path_factory) -> Path:
    """A folder to copy: vocab.txt, bert (pre-training heads), teacher_TASK and student_TASK (classifiers), general (a
    general student), config (a student's config.json), glue/TASK, json (two epochs of pregenerated data); base_electra
    (the encoder alone), base_nezha and base_albert (with their masked LM)."""
    tmp_path = tmp_path_factory.mktemp("template")
    torch.manual_seed(0)
    vocab = write_lines(tmp_path / "vocab.txt", PIECES)
    save_model(BertForPreTraining(BertConfig(**TEACHER)), tmp_path / "bert", vocab)
    save_model(TinyBertForPreTraining(BertConfig(**STUDENT), fit_size=16), tmp_path / "general", vocab)
    for name in ("CoLA", "MRPC", "MNLI", "STS-B"):
        task = get_task(name)
        write_task(tmp_path / "glue", name, 24)
        for role, sizes in (("teacher", TEACHER), ("student", STUDENT)):
            config = BertConfig(**sizes)
            name_labels(config.extra, task)
            model = TinyBertForSequenceClassification(config, task.num_labels)
            save_model(model, tmp_path / f"{role}_{task.key}", vocab)
    for name, keys in TEACHERS.items():
        config = BertConfig.from_dict({**TEACHER, **keys})
        model = BertModel(config, add_pooler=False) if name == "electra" else BertForMaskedLM(config)
        save_model(model, tmp_path / f"base_{name}", vocab)
    (tmp_path / "config").mkdir()
    BertConfig(**STUDENT).to_json_file(tmp_path / "config" / "config.json")
    for epoch in range(2):
        instances = []
        for number in range(20):
            a, b = sentence(number + epoch).split(), sentence(number + 1).split()
            instances.append(json.dumps({
                "tokens": ["[CLS]", *(p if p in PIECES else "[UNK]" for p in a), "[SEP]",
                           *(p if p in PIECES else "[UNK]" for p in b[:number % 5 + 1]), "[SEP]"],
                "segment_ids": [0] * 8 + [1] * (number % 5 + 2), "is_random_next": False,
                "masked_lm_positions": [], "masked_lm_labels": []}))
        write_lines(tmp_path / "json" / f"epoch_{epoch}.json", instances)
        (tmp_path / "json" / f"epoch_{epoch}_metrics.json").write_text(
            json.dumps({"num_training_examples": 20, "max_seq_len": 32}))
    return tmp_path


@pytest.fixture
def tiny(template, tmp_path) -> Path:
    """A copy of the template for one test."""
    return shutil.copytree(template, tmp_path, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def world(template, tmp_path_factory) -> Path:
    """A copy of the template for the tests of one file."""
    return shutil.copytree(template, tmp_path_factory.mktemp("world"), dirs_exist_ok=True)


# --- what is there: models, records, files

def edit_config(folder: Path, **values) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def without_vocab_txt(*folders: Path) -> None:
    """Put a tokenizer.json, as the package tokenizers writes it, in the place of vocab.txt."""
    for folder in folders:
        pieces = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
        table = {"type": "WordPiece", "vocab": {piece: number for number, piece in enumerate(pieces)}}
        (folder / "tokenizer.json").write_text(json.dumps({"model": table}))
        (folder / "vocab.txt").unlink()
        (folder / "tokenizer_config.json").unlink(missing_ok=True)


def pad_embeddings(folder: Path, rows: int) -> None:
    """Add rows to the word embeddings of a model, and to the masked LM's bias, which makes them its first choice."""
    state = read_weights(folder)
    for name in ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias", "cls.predictions.decoder.weight"):
        if name in state:
            more = torch.full((rows, *state[name].shape[1:]), 100.0 if name.endswith("bias") else 0.0)
            state[name] = torch.cat([state[name], more])
    torch.save(state, folder / "pytorch_model.bin")
    edit_config(folder, vocab_size=len(state["bert.embeddings.word_embeddings.weight"]))


def make_cased(*folders: Path) -> None:
    """The first piece that is a word gets a capital; nothing but the vocabulary tells the casing."""
    for folder in folders:
        path = folder / "vocab.txt"
        path.write_text(path.read_text(encoding="utf-8").replace("\ncat\n", "\nCat\n"), encoding="utf-8")
        (folder / "tokenizer_config.json").unlink(missing_ok=True)


def without_dropout(tiny: Path, *folders: str) -> None:
    for folder in folders:
        edit_config(tiny / folder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def assert_equal_weights(first: Path, second: Path, tolerance: float) -> None:
    """Two model folders: the same names, and values within the tolerance."""
    first, second = read_weights(first), read_weights(second)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=0, atol=tolerance)


def lines(path: Path) -> list[dict]:
    """The objects in a .jsonl file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def zipped(entries: dict[str, bytes], link: str | None = None) -> bytes:
    """A zip file of these entries, and of a symbolic link with that name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
        if link:
            info = zipfile.ZipInfo(link)
            info.external_attr = 0o120777 << 16
            archive.writestr(info, "/etc/passwd")
    return buffer.getvalue()


# --- scripts

def command_line(flags: dict) -> list:
    """{"flag": value} as arguments; None and False drop a flag, True gives it no value, a list several."""
    return [part for name, value in flags.items() if value is not None and value is not False
            for part in (f"--{name}", *([] if value is True else value if isinstance(value, list) else [value]))]


def train(tiny: Path, task="MRPC", key="mrpc", **changes) -> list:
    """Arguments of a task_distill run that would work, with changes."""
    flags = {"data_dir": tiny / "glue" / task, "task_name": task, "student_model": tiny / "general",
             "teacher_model": tiny / f"teacher_{key}", "output_dir": tiny / "out", "max_seq_length": 24,
             "train_batch_size": 8, "num_train_epochs": 1, "do_lower_case": True, "no_cuda": True,
             "skip_teacher_check": True} | changes
    return command_line(flags)


def general(tiny: Path, **changes) -> list:
    """Arguments of a general_distill run that would work, with changes."""
    flags = {"pregenerated_data": tiny / "json", "student_model": tiny / "config", "teacher_model": tiny / "bert",
             "output_dir": tiny / "out", "max_seq_length": 32, "train_batch_size": 8, "num_train_epochs": 2,
             "no_cuda": True} | changes
    return command_line(flags)


def finetune(tiny: Path, **changes) -> list:
    """Arguments of a finetune_teacher run, with changes, of which one has to be the model."""
    flags = {"tasks": "mrpc", "glue_dir": tiny / "glue", "models_dir": tiny, "max_seq_length": 24,
             "train_batch_size": 8, "num_train_epochs": 2, "no_cuda": True} | changes
    return command_line(flags)


@pytest.fixture
def script(capfd, monkeypatch):
    """Call a script as the command line does: script("task_distill", "--flag", value) -> (status, out, err).

    Training draws no curves here: that takes longer than the training of a tiny model.
    """
    monkeypatch.setattr("transformer.reporting.curves.draw_curves", lambda folder: None)

    def call(name: str, *argv) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", [f"{name}.py"])
        main = importlib.import_module(name).main
        try:
            status = run_script(lambda: main([str(part) for part in argv]))
        except SystemExit as stop:  # argparse: --help, refused flags
            status = stop.code
        return status, *capfd.readouterr()
    return call


@pytest.fixture
def refused(script):
    """Call a script that must refuse: status 2, one line on stderr that holds all `words`."""
    def call(name: str, *argv, words: tuple[str, ...]) -> None:
        status, _, err = script(name, *argv)
        assert status == 2, err
        assert len(err.strip().splitlines()) == 1 and "Traceback" not in err, err
        assert err.startswith(f"{name}.py: error: "), err
        assert not re.search(r"\[Errno|\.tmp\b|\.unpacking|/\.fixing|\.part\b", err), err  # see test_messages.py
        for word in words:
            assert word in err, err
    return call


def run(script, name: str, arguments: list) -> str:
    """Call a script that must succeed: its output."""
    status, out, err = script(name, *arguments)
    assert status == 0, err
    return out


@contextlib.contextmanager
def started(*command, **options) -> Iterator[subprocess.Popen]:
    """A process and pipes for its text; it ends with the block, or after five minutes, with all that waits for it."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(list(map(str, command)), text=True, **pipes, **options) as process:
        deadline = threading.Timer(300, process.kill)
        deadline.start()
        try:
            yield process
        finally:
            deadline.cancel()
            process.kill()


_STOPPING = """
import sys, time
from pathlib import Path
from transformer.data import {module}, parts
from transformer.tasks.table import TASKS
from transformer.tokenization import BertTokenizer

folder, encode, count = Path(sys.argv[1]), {module}.{function}, 0

def stopping(part):
    global count
    count += 1
    with open(folder / "encoded", "a") as log:
        log.write(f"{{next(number for number in part if isinstance(number, int))}}\\n")
    while count == 4 and not (folder / "go").exists():
        time.sleep(0.01)
    return encode(part)

{module}.{function}, parts._SECONDS_BETWEEN_SAVES = stopping, 0
{call}
"""


def killed_at_the_fourth_part(folder: Path, module: str, function: str, call: str) -> None:
    """Run `call`, code that makes arrays in folder / "cache" by `function` of transformer.data.MODULE, kill -9 it while
    that has the fourth part, and run it again: it begins with this part, and makes those that follow."""
    command = [sys.executable, "-c", _STOPPING.format(module=module, function=function, call=call), folder]

    def encoded() -> list[int]:
        log = folder / "encoded"
        return [int(line) for line in log.read_text().split()] if log.exists() else []

    with started(*command, cwd=ROOT) as process:
        while len(encoded()) < 4:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        process.kill()
        process.wait()
    assert not list(folder.glob("cache/*/manifest.json"))
    (folder / "go").touch()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    numbers = encoded()
    assert numbers[4:] == sorted(set(numbers))[3:] and len(numbers) > 5


def torchrun(program: Path | str, *arguments, directory: Path) -> subprocess.CompletedProcess:
    """Two processes of a program; their output together."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(program),
         *map(str, arguments)], cwd=directory, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})


# --- downloads

@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server of the folder `served`; nobody waits long before asking it again."""
    monkeypatch.setattr(download, "BACK_OFF", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    (tmp_path / "served").mkdir()
    with FaultyServer(tmp_path / "served") as instance:
        yield instance
