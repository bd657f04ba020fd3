"""A run that is killed and goes on ends as if it had not been: weights and logs, bit for bit. Dropout is on."""
from __future__ import annotations

import functools
import importlib
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from conftest import finetune, general, train

from transformer import prediction, record, resume
from transformer.cli import run_script
from transformer.optimization import BertAdam
from transformer.weights import read_weights, write_bin

CASES = {
    "general": ("general_distill", general, {"num_train_epochs": 7, "eval_step": 4, "do_eval": True, "preset": "code",
                                             "gradient_accumulation_steps": 2}),
    "intermediate": ("task_distill", train, {"num_train_epochs": 2.4, "eval_step": 4, "aug_train": True}),
    "prediction": ("task_distill", train, {"num_train_epochs": 2.4, "eval_step": 4, "aug_train": True,
                                           "pred_distill": True, "gradient_accumulation_steps": 4}),
    "finetune": ("finetune_teacher", finetune, {"num_train_epochs": 5, "model": "bert",
                                                "gradient_accumulation_steps": 2})}
STEPS = {"general": 14, "intermediate": 14, "prediction": 14, "finetune": 15}
SPEEDS = {"sequences_per_s", "wordpieces_per_s", "memory_gb"}


def child(name: str, argv: list[str], log: Path, step: int, act) -> None:
    """Run a script in this process, its output into `log`; act(optimizer) comes at the end of optimizer step `step`."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)
    module, original = importlib.import_module(name), BertAdam.step
    pieces, batches = module.pieces, []
    record.draw_curves = lambda folder: None  # it takes longer than the run

    def noted(indices, *args):
        batches.append(indices.tolist())
        return pieces(indices, *args)

    def stepped(self, closure=None):
        original(self)
        if max(state["step"] for state in self.state.values()) == step:
            print(f"acting after the batch {batches[-1]}", flush=True)
            act(self)

    module.pieces, BertAdam.step, sys.argv = noted, stepped, [f"{name}.py"]
    sys.exit(run_script(lambda: module.main(argv)))


def send(number: signal.Signals, optimizer=None) -> None:
    os.kill(os.getpid(), number)


def send_in_evaluation(number: signal.Signals, optimizer) -> None:
    metrics = prediction.compute_metrics
    prediction.compute_metrics = lambda *args: send(number) or metrics(*args)


def kill_before_state(optimizer) -> None:
    resume.States.save = lambda *_, **__: send(signal.SIGKILL)


def kill_in_state(optimizer) -> None:
    resume.write_pickle = lambda value, handle: (handle.write(b"half"), handle.flush(), send(signal.SIGKILL))


def fill_disk(optimizer) -> None:
    """No file can grow beyond 4 KiB: room for the logs, not for weights. The system refuses, as with a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


def poison(value: float, optimizer) -> None:
    optimizer.param_groups[0]["params"][0].data.view(-1)[0] = value


class World:
    """A working folder for all tests here, and what the runs that nobody stopped left."""

    def __init__(self, tiny: Path):
        self.tiny = tiny
        self.context = multiprocessing.get_context("forkserver")  # no torch thread before the fork
        self.context.set_forkserver_preload([  # whatever is slow to load
            "test_resume", "general_distill", "task_distill", "finetune_teacher", "torch._dynamo", "sklearn.metrics",
            "scipy.stats"])
        self.whole = functools.cache(self._whole)

    def arguments(self, case: str, out: str, **changes) -> tuple[str, list[str]]:
        name, make, flags = CASES[case]
        if case == "finetune":
            flags = {**flags, "model": self.tiny / "bert"}
        flags = {"learning_rate": 1e-2, "save_steps": 3, "output_dir": self.tiny / out, **flags, **changes}
        return name, [str(part) for part in make(self.tiny, **flags)]

    def start(self, case: str, out: str, step: int = -1, act=None, **changes) -> tuple[int, str]:
        """(exit status, output) of a run in a process of its own."""
        log = self.tiny / "output.txt"
        process = self.context.Process(target=child, args=(*self.arguments(case, out, **changes), log, step, act))
        process.start()
        process.join(60)
        assert process.exitcode is not None, log.read_text()
        return process.exitcode, log.read_text()

    def states(self, out: str) -> list[int]:
        return sorted(int(path.stem[6:]) for path in (self.tiny / out).glob("state_*.pt"))

    def result(self, out: str) -> dict[str, object]:
        """Everything in a folder, less what tells of the time that it took."""
        files: dict[str, object] = {path.name: path.read_bytes() for path in (self.tiny / out).iterdir()}
        run = json.loads(files["run.json"])
        assert run["finished"]
        files["run.json"] = {name: run.get(name) for name in ("kept", "before", "eval_rep_loss", "acc", "steps")}
        metrics = [json.loads(line) for line in files["metrics.jsonl"].splitlines()]
        files["metrics.jsonl"] = [{name: line[name] for name in line.keys() - SPEEDS} for line in metrics]
        return files

    def _whole(self, case: str) -> dict[str, object]:
        status, output = self.start(case, f"whole_{case}")
        assert status == 0, output
        result = self.result(f"whole_{case}")
        assert result["run.json"]["steps"] == STEPS[case] and len(result["metrics.jsonl"]) == (STEPS[case] + 3) // 4 + (
            case == "finetune"), "an evaluation every 4 steps (3 in fine-tuning) and at the end"
        return result

    def finish(self, case: str, out: str, **changes) -> None:
        """Resume without another stop; the result has to be that of a whole run."""
        status, output = self.start(case, out, resume=True, **changes)
        assert status == 0, output
        result, whole = self.result(out), self.whole(case)
        assert result.keys() == whole.keys()
        for name, content in whole.items():
            assert result[name] == content, name


@pytest.fixture(scope="module")
def world(world):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # for the fork server
        yield World(world)


@pytest.fixture
def out(world):
    yield "out"
    shutil.rmtree(world.tiny / "out", ignore_errors=True)


@pytest.mark.parametrize("case", CASES)
def test_killed_five_times(case, world, out):
    rng = random.Random(case)
    stops = [rng.randint(1, 2), *sorted(rng.sample(range(3, STEPS[case]), 4))]  # the first before there is a state
    for number, stop in enumerate(stops):
        states = world.states(out)
        status, output = world.start(case, out, stop, functools.partial(send, signal.SIGKILL), resume=number > 0)
        assert status == -signal.SIGKILL, output
        assert (f"going on from {world.tiny / out}/state_{max(states, default=0)}.pt" in output) == bool(states)
        # every third step, and at evaluations, where that has been cheap
        assert len(world.states(out)) <= 2 and max(world.states(out), default=0) >= (stop - 1) // 3 * 3
    world.finish(case, out)
    before = {path: path.stat().st_mtime_ns for path in (world.tiny / out).iterdir()}
    status, output = world.start(case, out, resume=True)
    assert status == 0 and ("skipped" if case == "finetune" else "is finished: nothing to resume") in output
    assert {path: path.stat().st_mtime_ns for path in (world.tiny / out).iterdir()} == before


@pytest.mark.parametrize("act", [kill_before_state, kill_in_state])
def test_killed_between_an_evaluation_and_its_state(act, world, out):
    status, output = world.start("prediction", out, 11, act)  # evaluation and state come after step 12
    assert status == -signal.SIGKILL and world.states(out)[-1] < 12, output
    assert len((world.tiny / out / "metrics.jsonl").read_text().splitlines()) == 3
    world.finish("prediction", out)


def test_of_the_last_two_states_one_may_be_damaged(world, out):
    world.start("prediction", out, 11, functools.partial(send, signal.SIGKILL))
    steps = world.states(out)
    assert len(steps) == 2
    newest = world.tiny / out / f"state_{steps[1]}.pt"
    newest.write_bytes(newest.read_bytes()[:-1000])
    shutil.copytree(world.tiny / out, world.tiny / "copy")
    world.finish("prediction", out)
    log = (world.tiny / "output.txt").read_text()
    assert f"warning: {newest} cannot be read" in log and f"going on from {newest.parent}/state_{steps[0]}.pt" in log
    for path in (world.tiny / "copy").glob("state_*.pt"):
        path.write_bytes(path.read_bytes()[:100])
    world.finish("prediction", "copy")  # from the beginning


@pytest.mark.parametrize("case,act,number", [
    ("general", send, signal.SIGTERM), ("intermediate", send, signal.SIGINT), ("finetune", send, signal.SIGTERM),
    ("prediction", send_in_evaluation, signal.SIGTERM), ("finetune", send_in_evaluation, signal.SIGINT)])
def test_signals(case, act, number, world, out):
    status, output = world.start(case, out, 7, functools.partial(act, number))
    assert status == 128 + number
    ends = {("prediction", send_in_evaluation): 8, ("finetune", send_in_evaluation): 9}.get((case, act), 7)
    assert output.count(f"stopped by {number.name} after step {ends}: the same command with --resume goes on") == 1
    assert "Traceback" not in output and "Error" not in output
    assert world.states(out)[-1] == ends
    world.finish(case, out)


@pytest.mark.parametrize("case,what", [("general", "state"), ("prediction", "model"), ("finetune", "state"),
                                       ("finetune", "model")])
def test_full_disk(case, what, world, out):
    # after step 10 the state alone is written; after step 8, and 9 in fine-tuning, the model before it
    full, save_steps = (9, 5) if what == "state" else (7 + (case == "finetune"), 3)
    status, output = world.start(case, out, full, fill_disk, save_steps=save_steps)
    assert status == 2 and "Traceback" not in output, output
    folder = world.tiny / out
    assert re.search(rf"^\w+\.py: error: {folder}/\w+\.(pt|bin): File too large$", output, re.M), output
    assert not list(folder.glob(".*")), "a part of a file was left"
    for path in [*folder.glob("state_*.pt"), folder / "pytorch_model.bin"]:
        assert torch.load(path, weights_only=True)
    assert world.states(out) and world.states(out)[-1] <= full
    world.finish(case, out, save_steps=save_steps)


@pytest.mark.parametrize("case,value", [*((case, float("nan")) for case in CASES), ("prediction", float("inf"))])
def test_weights_that_are_not_finite(case, value, world, out):
    status, output = world.start(case, out, 5, functools.partial(poison, value))
    batch = re.search(r"acting after the batch (\[.*\])", output).group(1)
    last = world.states(out)[-1]
    assert status == 2 and last in (3, 4) and "Traceback" not in output
    error = [line for line in output.splitlines() if "error: " in line]
    assert len(error) == 1 and "not finite at step 5," in error[0] and f"holds the examples {batch};" in error[0], error
    assert f"last good state: {world.tiny / out}/state_{last}.pt" in error[0]
    for step in world.states(out):
        state = torch.load(world.tiny / out / f"state_{step}.pt", weights_only=True)
        weights = state["model" if case == "finetune" else "student"]
        assert all(tensor.isfinite().all() for tensor in weights.values())
    world.finish(case, out)


@pytest.mark.parametrize("case,changes", [
    ("prediction", ["learning_rate=0.02", "seed=1", "train_batch_size=4", "gradient_accumulation_steps=2",
                    "max_seq_length=20", "num_train_epochs=3.0", "temperature=2.0", "eval_step=2"]),
    ("general", ["learning_rate=0.02", "preset=paper", "warmup_proportion=0.2", "precision=bf16"]),
    ("finetune", ["learning_rate=0.02", "weight_decay=0.1", "num_train_epochs=6"])])
def test_changed_settings(case, changes, world, out, refused):
    assert world.start(case, out, 7, functools.partial(send, signal.SIGKILL))[0] == -signal.SIGKILL
    before = {path: path.read_bytes() for path in (world.tiny / out).iterdir()}
    for change in changes:
        name, value = change.split("=")
        script, argv = world.arguments(case, out, resume=True, **{name: value})
        refused(script, *argv, words=(f"--resume: {name} was ", f"is {value} now"))
    data = {"general": world.tiny / "json" / "epoch_1.json"}.get(case, world.tiny / "glue/MRPC/train.tsv")
    if case == "prediction":
        data = data.with_name("train_aug.tsv")
    text = data.read_text()
    data.write_text(text.replace("dog", "cat", 1) if case != "general" else text.replace('"dog"', '"[UNK]"', 1))
    script, argv = world.arguments(case, out, resume=True)
    refused(script, *argv, words=("--resume: ", "data_bytes was" if case == "general" else "train was mrpc_"))
    data.write_text(text)
    start = world.tiny / ("general" if case == "prediction" else "bert")
    weights = (start / "pytorch_model.bin").read_bytes()
    write_bin(start / "pytorch_model.bin", {name: -tensor for name, tensor in read_weights(start).items()})
    refused(script, *argv, words=("--resume: ", "_files was "))
    (start / "pytorch_model.bin").write_bytes(weights)
    assert {path: path.read_bytes() for path in (world.tiny / out).iterdir()} == before
    free = {"general": {"reduce_memory": True}, "prediction": {"cache_dir": world.tiny / "cache"}}.get(case, {})
    world.finish(case, out, save_steps=2, **free)
