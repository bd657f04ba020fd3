"""Several processes (torchrun, on the CPU) train what one does, and end together."""
from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import (
    ROOT,
    WORDS,
    assert_equal_weights,
    finetune,
    general,
    lines,
    run,
    torchrun,
    train,
    without_dropout,
    write_lines,
)

import data_augmentation
from transformer.checkpoint import load_tokenizer
from transformer.cli import run_script
from transformer.data.features import encode_file
from transformer.modeling import TinyBertForSequenceClassification
from transformer.tasks.glue import get_task
from transformer.training import processes, scoring
from transformer.weights import read_weights

LOGGED = {"loss", "att_loss", "rep_loss", "cls_loss", "eval_att_loss", "eval_rep_loss", "acc", "f1", "learning_rate"}


def commands(tiny: Path, out: str, split: int) -> dict[str, tuple[str, list]]:
    """20 steps and more of everything that trains: {name: (script, arguments)}; each batch is split into `split`
    passes in all. With one pass there is no dropout: it is drawn for each pass. `generals` and `intermediates` are two
    students, of which the second has its weights from --seed."""
    flags = {"learning_rate": 1e-4}
    cases = {
        "general": ("general_distill", general, {"num_train_epochs": 10, "eval_step": 7, "do_eval": True}),
        "intermediate": ("task_distill", train, {"num_train_epochs": 7, "eval_step": 7}),
        "prediction": ("task_distill", train, {"num_train_epochs": 7, "eval_step": 7, "pred_distill": True,
                                               "cache_dir": tiny / f"cache_{out}", "eval_batch_size": 5}),
        "finetune": ("finetune_teacher", finetune, {"num_train_epochs": 7, "model": tiny / "bert"})}
    return {name: (script, [str(part) for part in make(
        tiny, output_dir=tiny / out / name, gradient_accumulation_steps=split, **flags, **extra)])
        for name, (script, make, extra) in cases.items()}


def run_all(tasks: str) -> None:
    """In each process: call scripts one after the other."""
    for script, argv in json.loads(Path(tasks).read_text()):
        sys.argv = [f"{script}.py"]
        if status := run_script(lambda script=script, argv=argv: importlib.import_module(script).main(argv)):
            sys.exit(status)


@pytest.fixture(scope="module")
def both(template, tmp_path_factory):
    """A folder with the same runs in one/ and in two/, of one process and of two; and what the two printed."""
    folder, tasks = tmp_path_factory.mktemp("processes"), []
    for split in (1, 4):
        tiny = shutil.copytree(template, folder / str(split))
        if split == 1:
            without_dropout(tiny, "config", "bert", "general", "teacher_mrpc")
        for script, argv in commands(tiny, "one", split).values():
            importlib.import_module(script).main(argv)
        for script, argv in commands(tiny, "two", split).values():
            argv[argv.index("--gradient_accumulation_steps") + 1] = str(max(1, split // 2))
            tasks.append((script, argv))
    glove = write_lines(folder / "glove.txt", (f"{word} 1 {number}" for number, word in enumerate(WORDS)))
    one, two = (["--pretrained_bert_model", f"{folder}/1/bert", "--glove_embs", str(glove), "--glue_dir",
                 str(shutil.copytree(folder / "1" / "glue", folder / "1" / place / "glue")), "--task_name", "MRPC",
                 "--batch_tokens", "100", "--no_cuda"] for place in ("one", "two"))
    data_augmentation.main(one)
    tasks.append(("data_augmentation", two))
    (folder / "tasks.json").write_text(json.dumps(tasks))
    done = torchrun(__file__, folder / "tasks.json", directory=folder)
    assert done.returncode == 0, done.stdout
    return folder, done.stdout


@pytest.mark.parametrize("split", [1, 4])
@pytest.mark.parametrize("name", ["general", "intermediate", "prediction", "finetune"])
def test_two_processes_train_what_one_does(name, split, both):
    """split 1: two passes in place of one, without dropout; 4: four passes each way, two of them in each process."""
    folder = both[0] / str(split)
    one, two = (folder / place / name for place in ("one", "two"))
    assert_equal_weights(one, two, 1e-6)
    first, last = lines(one / "metrics.jsonl"), lines(two / "metrics.jsonl")
    assert len(first) == len(last) >= 3 and first[-1]["step"] >= 20
    for before, after in zip(first, last):
        for key in LOGGED & before.keys():
            assert after[key] == pytest.approx(before[key], abs=1e-5), key
    start = read_weights(folder / ("bert" if name == "finetune" else "general"))
    if name != "general":  # which starts at random
        key = "bert.encoder.layer.0.output.dense.weight"
        assert (read_weights(two)[key] - start[key]).abs().max() > 1e-4, "nothing was learned"
    record = json.loads((two / "run.json").read_text())
    assert record["finished"] and record["hardware"]["processes"] == 2


def test_two_processes_augment_as_one_does(both):
    one, two = ((both[0] / "1" / place / "glue/MRPC/train_aug.tsv").read_bytes() for place in ("one", "two"))
    assert one == two != (both[0] / "1/glue/MRPC/train_aug.tsv").read_bytes()


def test_the_first_process_alone_writes_and_prints(both):
    folder, printed = both
    for line in ("prediction stage: ", "intermediate stage: ", "***** MRPC teacher in ", "student in "):
        assert printed.count(line) == {"student in ": 6}.get(line, 2), printed
    assert "21 steps of 8 = 2 processes x 1 x 4" in printed and "21 steps of 8 = 2 processes x 2 x 2" in printed
    for name in ("general", "prediction", "finetune"):
        one, two = ({path.name for path in (folder / "1" / place / name).iterdir()} for place in ("one", "two"))
        assert one == two


def test_cached_logits_are_those_of_one_process(both):
    """The teacher's logits of two processes, and those of one, found again by their name."""
    for split in ("1", "4"):
        (one,) = (both[0] / split / "cache_one").glob("logits_*/logits")
        two = both[0] / split / "cache_two" / one.parent.name / "logits"
        first, second = (torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.float32) for path in (one, two))
        torch.testing.assert_close(first, second, rtol=0, atol=1e-5)
        assert len(first) == 48 and first.std() > 1e-3


def test_predictions_are_divided(both, monkeypatch):
    """predict() of two ranks, one after the other: each row comes from one of them alone."""
    tiny = both[0] / "1"
    model = TinyBertForSequenceClassification.from_pretrained(tiny / "teacher_mrpc", num_labels=2)
    tokenizer = load_tokenizer(tiny / "teacher_mrpc", True)
    sequences = encode_file(get_task("mrpc"), tiny / "glue/MRPC/dev.tsv", tokenizer, 24)
    monkeypatch.setattr(processes.Processes, "total", lambda self, values: values)
    cpu = torch.device("cpu")
    alone, *halves = (scoring.predict(model, get_task("mrpc").head, sequences, 5, processes.Processes(rank, world, cpu))
                      for rank, world in ((0, 1), (0, 2), (1, 2)))
    assert all((half == 0).any() for half in halves) and (halves[0] * halves[1] == 0).all()
    assert (halves[0] + halves[1] == alone).all()


DRIVER = """
import os, runpy, signal, sys
from transformer.files import InputError
from transformer.optimization import BertAdam
step, rank, what = int(sys.argv[1]), sys.argv[2], sys.argv[3]
original, calls = BertAdam.step, []
def stepped(self, closure=None):
    original(self)
    calls.append(1)
    if len(calls) == step and os.environ.get("RANK", "0") == rank:
        if what == "raise":
            raise InputError("the second process has something against it")
        os.kill(os.getpid(), getattr(signal, what))
BertAdam.step = stepped
sys.argv = sys.argv[4:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_process_that_fails_ends_all(tiny):
    (tiny / "driver.py").write_text(DRIVER)
    done = torchrun("driver.py", 2, 1, "raise", ROOT / "general_distill.py", *general(tiny), directory=tiny)
    assert done.returncode != 0
    assert done.stdout.count("general_distill.py: error: the second process has something against it") == 1
    assert not json.loads((tiny / "out" / "run.json").read_text())["finished"]


def test_going_on_with_other_processes(tiny, script):
    """One of two processes is told to stop; then one process goes on."""
    without_dropout(tiny, "config", "bert", "general", "teacher_mrpc")
    (tiny / "driver.py").write_text(DRIVER)
    flags = {"num_train_epochs": 7, "eval_step": 4, "learning_rate": 1e-4, "save_steps": 3}
    run(script, "task_distill", train(tiny, output_dir=tiny / "whole", **flags))
    done = torchrun("driver.py", 11, 1, "SIGTERM", ROOT / "task_distill.py", *train(tiny, **flags), directory=tiny)
    assert done.returncode != 0
    assert done.stdout.count("stopped by SIGTERM after step 11: the same command with --resume goes on") == 1, \
        done.stdout
    out = run(script, "task_distill", train(tiny, resume=True, **flags))
    assert "going on from" in out and "state_11.pt" in out
    assert_equal_weights(tiny / "out", tiny / "whole", 1e-6)


def test_batches_that_do_not_divide(tiny, monkeypatch, refused):
    monkeypatch.setattr(processes, "join_processes", lambda *_: processes.Processes(0, 3, torch.device("cpu")))
    monkeypatch.setattr(processes.Processes, "wait", lambda self: None)
    precision = {"precision": "fp32"}  # for which no process asks the others
    for name, argv in (("general_distill", general(tiny, **precision)), ("task_distill", train(tiny, **precision)),
                       ("finetune_teacher", finetune(tiny, model=tiny / "bert", **precision))):
        refused(name, *argv, words=("--train_batch_size 8", "3 processes"))


if __name__ == "__main__":
    run_all(sys.argv[1])
