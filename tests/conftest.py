"""Shared fixtures: a folder with tiny models and data, and calling a script as the command line does."""
from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch

from transformer.checkpoint import save_model
from transformer.cli import run_script
from transformer.glue import get_task, name_labels
from transformer.modeling import (
    BertConfig,
    BertForPreTraining,
    TinyBertForPreTraining,
    TinyBertForSequenceClassification,
)

torch.set_num_threads(1)  # the models of the tests are too small for more to help

WORDS = "the a cat dog bird sees likes hears good bad old new not very and".split()
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", ".", "##s", *WORDS[2:]]
SIZES = {"vocab_size": len(PIECES), "num_attention_heads": 2, "max_position_embeddings": 40, "initializer_range": 0.2}
TEACHER = {"hidden_size": 16, "num_hidden_layers": 4, "intermediate_size": 32, **SIZES}
STUDENT = {"hidden_size": 8, "num_hidden_layers": 2, "intermediate_size": 16, **SIZES}


def sentence(number: int) -> str:
    """The sentence of a number: three words, the second from 0 to 2 deciding what the tasks ask."""
    return f"the {WORDS[2 + number % 3]} {WORDS[5 + number // 3 % 3]} the {WORDS[8 + number // 9 % 4]} bird"


def write_lines(path: Path, lines) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def write_task(folder: Path, name: str, rows: int) -> None:
    """train.tsv, train_aug.tsv and dev files of a task in its official columns, labels by the sentence's number."""
    task = get_task(name)
    for file, count in (("train.tsv", rows), ("train_aug.tsv", 2 * rows), *((dev, rows) for dev in task.dev_files)):
        lines = ["\t".join(f"column{c}" for c in range(task.train_columns))] if task.has_header else []
        for number in range(count):
            columns = [f"x{c}" for c in range(task.train_columns)]
            for text in task.text_columns:
                columns[text] = sentence(number * (text + 1))
            columns[task.label_column] = task.labels[number % 3 % task.num_labels] if task.labels else f"{number % 6}.0"
            lines.append("\t".join(columns))
        write_lines(folder / task.name / file, lines)


@pytest.fixture
def tiny(tmp_path) -> Path:
    """The folder of make_tiny(), for one test."""
    return make_tiny(tmp_path)


def make_tiny(tmp_path: Path) -> Path:
    """A working folder: vocab.txt, bert (pre-training heads), teacher_TASK and student_TASK (classifiers), general (a
    general student), config (a student's config.json), glue/TASK, json (two epochs of pregenerated data)."""
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
def script(capfd, monkeypatch):
    """Call a script as the command line does: script("task_distill", "--flag", value) -> (status, out, err)."""
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
        for word in words:
            assert word in err, err
    return call
