"""Several processes (torchrun, on the CPU) train what one does, and end together."""
from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import re
import shutil
import signal
import sys
import warnings
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import data_augmentation
from tests.conftest import (
    ROOT,
    WORDS,
    assert_equal_weights,
    finetune,
    general,
    lines,
    run,
    sentence,
    torchrun,
    train,
    without_dropout,
    write_lines,
)
from transformer.checkpoint import load_tokenizer
from transformer.cli import run_script
from transformer.data.features import encode_file
from transformer.files import InputError
from transformer.modeling import TinyBertForSequenceClassification
from transformer.optimization import BertAdam
from transformer.tasks.table import get_task
from transformer.training import processes, scoring, signals
from transformer.training.batches import micro_batch_size, seed_share
from transformer.training.signals import StopSignals
from transformer.weights import read_weights

LOGGED = {"loss", "att_loss", "rep_loss", "cls_loss", "eval_att_loss", "eval_rep_loss", "acc", "f1", "learning_rate"}


def commands(tiny: Path, out: str, split: int) -> dict[str, tuple[str, list]]:
    """20 steps and more of everything that trains: {name: (script, arguments)}; each batch is split into `split`
    passes in all. With one pass there is no dropout: it is drawn for each pass. With more there are also two
    students side by side, the second a model like the teacher."""
    flags = {"learning_rate": 1e-4}
    cases = {
        "general": ("general_distill", general, {"num_train_epochs": 10, "eval_step": 7, "do_eval": True}),
        "intermediate": ("task_distill", train, {"num_train_epochs": 7, "eval_step": 7}),
        "prediction": ("task_distill", train, {"num_train_epochs": 7, "eval_step": 7, "pred_distill": True,
                                               "cache_dir": tiny / f"cache_{out}", "eval_batch_size": 5}),
        "finetune": ("finetune_teacher", finetune, {"num_train_epochs": 7, "model": tiny / "bert"})}
    for family in ("nezha", "albert"):
        cases[f"finetune {family}"] = *cases["finetune"][:2], {"num_train_epochs": 7, "model": tiny / f"base_{family}"}
    for name, start in (("general", "config"), ("intermediate", "general")) if split > 1 else ():
        script, make, extra = cases[name]
        cases[f"two {name}"] = script, make, {**extra, "student_model": [tiny / start, tiny / "bert"],
                                              "output_dir": [tiny / out / f"two {name}" / layers for layers in "24"]}
    return {name: (script, [str(part) for part in make(
        tiny, **{"output_dir": tiny / out / name, "gradient_accumulation_steps": split, **flags, **extra})])
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
            without_dropout(tiny, "config", "bert", "base_nezha", "base_albert", "general", "teacher_mrpc")
        for script, argv in commands(tiny, "one", split).values():
            importlib.import_module(script).main(argv)
        for script, argv in commands(tiny, "two", split).values():
            argv[argv.index("--gradient_accumulation_steps") + 1] = str(max(1, split // 2))
            tasks.append((script, argv))
    glove = write_lines(folder / "glove.txt", (f"{word} 1 {number}" for number, word in enumerate(WORDS)))
    write_lines(folder / "1/glue/SQuAD1/train-v1.1.json", [json.dumps({"data": [{"title": "", "paragraphs": [
        {"context": sentence(number), "qas": [{"id": str(number), "question": "?", "answers": [
            {"text": "the", "answer_start": 0}]}]} for number in range(12)]}]})])
    for place in ("one", "two"):
        shutil.copytree(folder / "1/glue", folder / "1" / place / "glue")
    for task in ("MRPC", "SQuAD1"):
        one, two = (["--pretrained_bert_model", f"{folder}/1/bert", "--glove_embs", str(glove), "--glue_dir",
                     f"{folder}/1/{place}/glue", "--task_name", task, "--batch_tokens", "100", "--no_cuda"]
                    for place in ("one", "two"))
        data_augmentation.main(one)
        tasks.append(("data_augmentation", two))
    (folder / "tasks.json").write_text(json.dumps(tasks))
    done = torchrun(__file__, folder / "tasks.json", directory=folder)
    assert done.returncode == 0, done.stdout
    return folder, done.stdout


@pytest.mark.parametrize("name,split", [
    *itertools.product(("general", "intermediate", "prediction", "finetune", "finetune nezha", "finetune albert"),
                       (1, 4)),
    *itertools.product(("two general/2", "two general/4", "two intermediate/2", "two intermediate/4"), (4,))])
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
    base = "bert" if name in ("finetune", "two intermediate/4") else "general"
    start = read_weights(folder / (name.replace("finetune ", "base_") if "finetune " in name else base))
    if "general" not in name:  # which starts at random
        key, = (key for key in start if key.endswith(("layer.0.output.dense.weight", "layers.0.ffn_output.weight")))
        assert (read_weights(two)[key] - start[key]).abs().max() > 1e-4, "nothing was learned"
    record = json.loads((two / "run.json").read_text())
    assert record["finished"] and record["hardware"]["processes"] == 2


def test_two_processes_augment_as_one_does(both):
    one, two = ((both[0] / "1" / place / "glue/MRPC/train_aug.tsv").read_bytes() for place in ("one", "two"))
    assert one == two != (both[0] / "1/glue/MRPC/train_aug.tsv").read_bytes()
    one, two = ((both[0] / "1" / place / "glue/SQuAD1/train_aug.jsonl").read_bytes() for place in ("one", "two"))
    assert one == two and one.count(b"\n") > 1 + 3 * 12


def test_the_first_process_alone_writes_and_prints(both):
    folder, printed = both
    for line in ("prediction stage: ", "intermediate stage: ", "***** MRPC teacher in ", "student in "):
        assert printed.count(line) == {
            "student in ": 10, "intermediate stage: ": 3, "***** MRPC teacher in ": 6}.get(line, 2), printed
    assert "21 steps of 8 = 2 processes x 1 x 4" in printed and "21 steps of 8 = 2 processes x 2 x 2" in printed
    for name in ("general", "prediction", "finetune", "two general/2", "two intermediate/4"):
        split = "4" if "two" in name else "1"
        one, two = ({path.name for path in (folder / split / place / name).iterdir()} for place in ("one", "two"))
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
    assert done.stdout.count("general_distill.py: error: process 0 ends because another has ended") == 1, done.stdout
    assert done.stdout.count("Traceback") == 1, "torchrun's own"
    assert not json.loads((tiny / "out" / "run.json").read_text())["finished"]


def test_going_on_with_other_processes(tiny, script):
    """One of two processes is told to stop; then one process goes on."""
    without_dropout(tiny, "config", "bert", "base_nezha", "base_albert", "general", "teacher_mrpc")
    (tiny / "driver.py").write_text(DRIVER)
    flags = {"num_train_epochs": 20, "eval_step": 4, "learning_rate": 1e-4, "save_steps": 3}
    run(script, "task_distill", train(tiny, output_dir=tiny / "whole", **flags))
    done = torchrun("driver.py", 11, 1, "SIGTERM", ROOT / "task_distill.py", *train(tiny, **flags), directory=tiny)
    assert done.returncode != 0
    said = re.findall("stopped by SIGTERM after step ([0-9]+): the same command with --resume goes on", done.stdout)
    assert len(said) == 1 and 11 <= int(said[0]) <= 11 + 16, done.stdout  # they ask each other every 16th step
    out = run(script, "task_distill", train(tiny, resume=True, **flags))
    assert "going on from" in out and f"state_{said[0]}.pt" in out
    assert_equal_weights(tiny / "out", tiny / "whole", 1e-6)


def test_batches_that_do_not_divide(tiny, monkeypatch, refused):
    monkeypatch.setattr(processes, "join_processes", lambda *_: processes.Processes(0, 3, torch.device("cpu")))
    monkeypatch.setattr(processes.Processes, "wait", lambda self: None)
    precision = {"precision": "fp32"}  # for which no process asks the others
    for name, argv in (("general_distill", general(tiny, **precision)), ("task_distill", train(tiny, **precision)),
                       ("finetune_teacher", finetune(tiny, model=tiny / "bert", **precision))):
        refused(name, *argv, words=("--train_batch_size 8", "3 processes"))
    with pytest.raises(InputError, match="no multiple of --gradient_accumulation_steps 2 x 2 processes$"):
        micro_batch_size(6, 2, world=2)
    with pytest.raises(InputError, match="no multiple of --gradient_accumulation_steps 4$"):
        micro_batch_size(6, 4)
    assert micro_batch_size(24, 2, world=3) == 4


class Clock:
    """time.monotonic() of a process, whose steps take `seconds`."""

    def __init__(self, seconds: float):
        self.seconds, self.now = seconds, 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize("own,others,first,asked", [
    (0.01, 0.01, 0.01, [1, 17, 33, 49]), (0.01, 0.3, 0.01, [1, 4, 7, 10]), (0.3, 0.01, 0.3, [1, 4, 7, 10]),
    (2, 0.01, 2, [1, 2, 3, 4]), (0.06, 0.01, 5, [1, 2, 18, 34])])
def test_when_processes_ask_each_other_for_signals(own, others, first, asked, monkeypatch):
    """Every 16th step, or every second of the slowest, which all know. first: seconds of the first step, which has to
    set up much."""
    clock, when = Clock(own), []
    monkeypatch.setattr(signals, "time", clock)
    stop = StopSignals()

    def smallest(values):
        when.append(step)
        return torch.minimum(values, torch.tensor([0, -others], dtype=values.dtype))

    together = SimpleNamespace(world=2, smallest=smallest)
    for step in range(1, asked[-1] + 1):
        clock.now += first if step == 1 else own
        assert not stop.agreed(together, step)
    assert when == asked
    assert not stop.agreed(together, step, at_once=True) and when == [*asked, step]


def test_a_signal_of_another_process(monkeypatch):
    """All end after the same step: that after which they ask. One process alone asks nobody, and ends at once."""
    clock, stop = Clock(0.01), StopSignals()
    monkeypatch.setattr(signals, "time", clock)
    number = 0
    together = SimpleNamespace(world=2, smallest=lambda values: torch.minimum(
        values, torch.tensor([-number, 0], dtype=values.dtype)))
    for step in range(1, 18):
        clock.now += 0.01
        assert stop.agreed(together, step) == (step == 17)
        number = signal.SIGTERM if step > 5 else 0
    assert stop.received is signal.SIGTERM
    alone = SimpleNamespace(world=1)
    assert stop.agreed(alone, 18) and not StopSignals().agreed(alone, 18)


def test_a_second_signal_ends_the_run_at_once(monkeypatch, capfd):
    """As the first one says; what comes within two seconds is the first one passed on. Then the signal is what it
    was before."""
    clock, killed = Clock(0), []
    monkeypatch.setattr(signals, "time", clock)
    monkeypatch.setattr(os, "kill", lambda process, number: killed.append((process, number, signal.getsignal(number))))
    before = signal.getsignal(signal.SIGINT)
    with StopSignals() as stop:
        clock.now = 10
        signal.raise_signal(signal.SIGTERM)
        assert "once more to stop at once" in capfd.readouterr().err
        for clock.now in (10, 11.9):
            signal.raise_signal(signal.SIGINT)
        assert not killed and stop.received is signal.SIGTERM
        clock.now = 12.1
        signal.raise_signal(signal.SIGINT)
        assert killed == [(os.getpid(), signal.SIGINT, before)]


def test_gradients_are_waited_for_shortly_and_numbers_for_days(monkeypatch):
    """What lies on the CPU goes through a group of its own, on a GPU and without one."""
    made, sent = [], []
    for name in ("init_process_group", "new_group"):
        monkeypatch.setattr(processes.dist, name, lambda backend, timeout, name=name: made.append(
            (name, backend, timeout / timedelta(days=1))) or name)
    monkeypatch.setattr(processes.dist, "get_rank", lambda: 0)
    monkeypatch.setattr(processes.dist, "all_reduce", lambda values, op=None, group=None: sent.append(group))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    joined = processes.join_processes(no_cuda=True)
    assert made == [("init_process_group", "gloo", 1 / 48), ("new_group", "gloo", 7)]
    joined.any(True)
    joined.smallest(torch.zeros(1))
    joined.total(torch.zeros(1, device="meta"))
    assert sent == ["new_group", "new_group", None]


@pytest.mark.parametrize("rank,order", [(0, ["work", "all", "all"]), (1, ["all", "work", "all"])])
def test_the_first_process_works_before_the_others(rank, order, monkeypatch):
    """Each meets the others after the first has worked, and after all have; with what it has against going on."""
    done, errors = [], []
    monkeypatch.setattr(processes.Processes, "end_together",
                        lambda self, error: done.append("all") or errors.append(error))
    process = processes.Processes(rank, 2, torch.device("cpu"))
    process.in_turn(lambda: done.append("work"))
    assert done == order and errors == [None, None]
    for failure in (InputError("no epoch"), OSError("no room")):
        def fail(failure=failure):
            raise failure

        errors.clear()
        process.in_turn(fail)
        assert errors == ([failure, None] if rank == 0 else [None, failure])


def test_what_is_sent_to_a_gpu_is_not_waited_for(monkeypatch):
    """From pinned memory, which alone is copied while the host goes on; on the CPU nothing is copied."""
    calls = []

    class Noted:
        """A tensor of a machine with a GPU."""

        def pin_memory(self) -> Noted:
            calls.append("pin")
            return self

        def to(self, *place, **how) -> str:
            calls.append((*place, how))
            return "on the GPU"

    monkeypatch.setattr(torch.cuda, "synchronize", lambda *which: calls.append(which))
    gpu, cpu, tensor = torch.device("cuda", 1), torch.device("cpu"), Noted()
    assert processes.Processes(0, 1, gpu).send([tensor]) == ("on the GPU",)
    processes.Processes(0, 1, gpu).finish_computing()
    assert calls == ["pin", (gpu, {"non_blocking": True}), (gpu,)]
    calls.clear()
    assert processes.Processes(0, 1, cpu).send([tensor]) == (tensor,)
    processes.Processes(0, 1, cpu).finish_computing()
    assert not calls


def test_gradients_are_averaged_after_the_last_share_only():
    together = processes.Processes(0, 2, torch.device("cpu"))
    wrapped = SimpleNamespace(no_sync=lambda: "not averaged")
    assert together.synchronised(wrapped, last=False) == "not averaged"
    for each, last in ((together, True), (replace(together, world=1), True), (replace(together, world=1), False)):
        assert isinstance(each.synchronised(wrapped, last), contextlib.nullcontext)


@pytest.fixture
def pretend_gpu(monkeypatch):
    """A GPU of capability 8.6, as far as join_processes() looks."""
    for name, value in {"is_available": True, "device_count": 1, "set_device": None, "get_device_name": "GeForce",
                        "get_device_capability": (8, 6)}.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)


@pytest.mark.parametrize("built,fits", [
    (["sm_86"], True), (["sm_75", "sm_80", "sm_90"], True), (["sm_75", "compute_80"], True), (["compute_75"], True),
    ([], True), (["gfx942"], True), (["sm_75", "sm_90", "sm_120"], False), (["sm_89"], False),
    (["sm_90", "compute_90a"], False), (["sm_100f"], False)])
def test_a_gpu_that_torch_is_not_built_for(built, fits, pretend_gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)
    if fits:
        assert processes.join_processes().device == torch.device("cuda", 0)
        return
    with pytest.raises(InputError, match=f"GeForce has compute capability 8.6, .* for {', '.join(built)}: .*--no_cuda"):
        processes.join_processes()
    assert processes.join_processes(no_cuda=True).device.type == "cpu"


@pytest.mark.parametrize("visible,cuda,words", [
    (None, "13.0", ("for CUDA 13.0: install a newer driver, ", "older CUDA; --no_cuda")),
    (None, None, ("which has no CUDA: install a torch that has; --no_cuda",)),
    ("7", "13.0", ("for CUDA 13.0: ", "or mend CUDA_VISIBLE_DEVICES=7; --no_cuda")), ("", "13.0", None),
    ("-1", "13.0", None)])
def test_a_gpu_that_torch_cannot_use(visible, cuda, words, tmp_path, monkeypatch, capfd):
    """It is said once, in one line, unless the GPU is hidden on purpose."""
    write_lines(tmp_path / "nvidia-smi", ["#!/bin/sh", "echo 'NVIDIA A100-SXM4-80GB, 470.82.01'", "echo another"])
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: warnings.warn("two\nlines", stacklevel=1))
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert processes.join_processes().device.type == "cpu"
    error = capfd.readouterr().err
    assert error.count("\n") == (words is not None)
    for word in ("NVIDIA A100-SXM4-80GB (driver 470.82.01)", torch.__version__, *words) if words else ():
        assert word in error
    processes.join_processes(no_cuda=True)
    write_lines(tmp_path / "nvidia-smi", ["#!/bin/sh", "echo no driver; exit 9"])
    processes.join_processes()
    assert not capfd.readouterr().err


@pytest.mark.parametrize("name,error", [
    ("general_distill", torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nSee the documents")),
    ("task_distill", RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA")),
    ("finetune_teacher", RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))])
def test_out_of_gpu_memory(name, error, tiny, script, monkeypatch):
    """One line, below the progress bar, says what to do."""
    def fail(*_):
        raise error

    monkeypatch.setattr(BertAdam, "step", fail)
    make = {"general_distill": general, "task_distill": train}.get(name, finetune)
    status, _, err = script(name, *make(tiny, **{"model": tiny / "bert"} if make is finetune else {}))
    assert status == 2 and "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith(f"{name}.py: error: out of GPU memory: raise --gradient_accumulation_steps "), err


def test_other_errors_of_torch_keep_their_traceback(script):
    """A process alone has no other that it could have lost."""
    for error in (RuntimeError("shapes [3] and [4]"), ValueError("of the kit"), torch.distributed.DistError("no")):
        def fail(error=error):
            raise error
        with pytest.raises(type(error), match=re.escape(str(error))):
            run_script(fail)


@pytest.mark.parametrize("error", [
    torch.distributed.DistBackendError("NCCL error: remote process exited\nLast error"),
    RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [::1]:40148")])
def test_a_process_that_has_lost_another(error, monkeypatch, capsys):
    def fail():
        raise error

    monkeypatch.setenv("RANK", "3")
    assert run_script(fail) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "error: process 3 ends because another has ended" in said
    assert str(error).splitlines()[0] in said


@pytest.mark.parametrize("on_gpu", [False, True])
def test_seeds_of_a_share(on_gpu, monkeypatch):
    """As torch.manual_seed() would set them, where a GPU is in use its generator, too."""
    seeded = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: on_gpu)
    monkeypatch.setattr(torch.cuda, "manual_seed", seeded.append)
    drawn = set()
    for seed, step, share in ((1, 2, 3), (1, 2, 4), (1, 3, 3), (2, 2, 3)):
        seed_share(seed, step, share)
        number = torch.initial_seed()
        values = torch.rand(3)
        torch.manual_seed(number)
        assert torch.equal(torch.rand(3), values)
        drawn.add(number)
        assert seeded == [number] * on_gpu
        seeded.clear()
    assert len(drawn) == 4
    seed_share(42, 0, 0)
    assert torch.initial_seed() == int(np.random.SeedSequence((42, 0, 0)).generate_state(1, np.uint64)[0] >> 1)


if __name__ == "__main__":
    run_all(sys.argv[1])
