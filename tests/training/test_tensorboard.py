"""--tensorboard: event files say what metrics.jsonl says, once, whatever stopped the run."""
import argparse
import importlib.util
import json
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch

from tests.conftest import finetune, general, lines, run, train
from transformer import cli
from transformer.training import events, record, states
from transformer.training.processes import Processes

FLAGS = {"tensorboard": True, "num_train_epochs": 2, "eval_step": 2, "save_steps": 1}
RUNS = {"general_distill": (general, FLAGS),
        "task_distill": (train, {**FLAGS, "pred_distill": True}),
        "finetune_teacher": (finetune, {"tensorboard": True, "num_train_epochs": 3, "model": "bert",
                                        "output_dir": "out"})}
needs_tensorboard = pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None,
                                       reason="the package tensorboard is not installed")


def arguments(tiny: Path, script: str, **changes) -> list:
    make, flags = RUNS[script]
    flags = {**flags, **changes}
    return make(tiny, **{**flags, **{name: tiny / flags[name] for name in ("model", "output_dir") if name in flags}})


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """{name: [(step, value)]} of all event files in a folder, as they are written: nothing is purged here."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0}, purge_orphaned_data=False)
    reader.Reload()
    return {name: [(event.step, event.value) for event in reader.Scalars(name)] for name in reader.Tags()["scalars"]}


def require_equal_curves(folder: Path, logs: int) -> None:
    """The event files hold all numbers of metrics.jsonl, which has so many lines, and nothing else."""
    wanted: dict[str, list[tuple[int, float]]] = {}
    metrics = lines(folder / "metrics.jsonl")
    assert len(metrics) == logs
    for line in metrics:
        for name, value in line.items():
            if name not in ("step", "task"):
                wanted.setdefault(name, []).append((line["step"], pytest.approx(value, rel=1e-6)))
    assert {"loss", "sequences_per_s"} <= wanted.keys() and curves(folder) == wanted


def event_files(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if "tfevents" in path.name]


@needs_tensorboard
@pytest.mark.parametrize("name", RUNS)
def test_curves_of_a_run_that_was_stopped(name, tiny, script, monkeypatch):
    """Stopped where a log is later than the last state; an event of a step that comes again is not there twice."""
    save, steps = states.States.save, []

    def save_twice(self, step, **values):
        steps.append(step)
        if len(steps) == 3:
            raise OSError(5, "as a disk does")
        save(self, step, **values)

    monkeypatch.setattr(states.States, "save", save_twice)
    stop = {"save_steps": 2} if name == "finetune_teacher" else {"eval_step": 1, "save_steps": 1}
    status, _, err = script(name, *arguments(tiny, name, **stop))
    assert status == 2 and "as a disk does" in err
    monkeypatch.setattr(states.States, "save", save)
    before = lines(tiny / "out/metrics.jsonl")
    require_equal_curves(tiny / "out", len(before))
    assert max(line["step"] for line in before) > max(
        int(path.stem.removeprefix("state_")) for path in (tiny / "out").glob("state_*.pt"))
    run(script, name, arguments(tiny, name, **stop, resume=True))
    total = json.loads((tiny / "out/run.json").read_text())["steps"]
    require_equal_curves(tiny / "out", 3 if name == "finetune_teacher" else total)
    assert len(event_files(tiny / "out")) == 1


@needs_tensorboard
def test_a_run_that_began_without_the_flag(tiny, script):
    """It is no other run; students that learn side by side have curves of their own, a run that begins anew none."""
    starts, outputs = [tiny / "general", tiny / "general"], [tiny / "out/a", tiny / "out/b"]
    flags = {"student_model": starts, "output_dir": outputs, "eval_step": 1, "save_steps": 1}
    run(script, "task_distill", train(tiny, **flags))
    for folder in outputs:
        assert not event_files(folder)
        facts = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps(facts | {"finished": False}))
    run(script, "task_distill", train(tiny, **flags, tensorboard=True, resume=True))
    for folder in outputs:  # no state is left of a finished run: it begins anew
        require_equal_curves(folder, 3)
    run(script, "task_distill", train(tiny, **flags, overwrite_output_dir=True))
    assert not event_files(outputs[0]) and not event_files(outputs[1])


@pytest.mark.parametrize("rank", [0, 1])
def test_of_several_processes_the_first_writes(rank, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(record, "load_writer", lambda: lambda *args, **how: made.append((args, how)) or mock.Mock())
    args = argparse.Namespace(tensorboard=True, resume=False)
    record.RunRecord(tmp_path, args, Processes(rank, 2, torch.device("cpu"))).log(step=1, loss=2.0)
    # purge_step: a TensorBoard that is open forgets the steps that come again
    assert made == [((tmp_path,), {"purge_step": 0})] * (rank == 0)


def without_tensorboard(monkeypatch):
    """Whatever imports it gets an ImportError."""
    for name in ("tensorboard", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)


def test_gone_on_with_without_the_flag(tmp_path):
    """Steps that are done again are in no file of before; metrics.jsonl keeps what the state has."""
    (tmp_path / "events.out.tfevents.1.before").write_bytes(b"")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    args = argparse.Namespace(tensorboard=False, resume=True)
    record.RunRecord(tmp_path, args, Processes(0, 1, torch.device("cpu")), {"metrics.jsonl": 12})
    assert not event_files(tmp_path) and lines(tmp_path / "metrics.jsonl") == [{"step": 1}]


def test_nothing_is_loaded_without_the_flag(tiny, script, monkeypatch):
    without_tensorboard(monkeypatch)
    run(script, "task_distill", train(tiny))


@pytest.mark.parametrize("name", RUNS)
def test_a_missing_package_is_named_before_any_work(name, tiny, refused, monkeypatch):
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda package: None)
    refused(name, *arguments(tiny, name), words=("--tensorboard needs the package tensorboard", "pip install"))
    assert not (tiny / "out").exists()


def test_a_package_that_cannot_be_loaded(tiny, refused, monkeypatch):
    """Found before the run that is overwritten loses anything."""
    (tiny / "out").mkdir()
    (tiny / "out/run.json").write_text('{"finished": true}')
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda package: True)
    without_tensorboard(monkeypatch)
    refused("task_distill", *train(tiny, tensorboard=True, overwrite_output_dir=True),
            words=("--tensorboard: the package tensorboard cannot be loaded", "pip install"))
    assert [path.name for path in (tiny / "out").iterdir()] == ["run.json"]
    assert (tiny / "out/run.json").read_text() == '{"finished": true}'


@needs_tensorboard
def test_what_is_logged_is_on_disk_at_once(tmp_path):
    """A process that is killed loses no curve, and so does one whose earlier logs were killed with it."""
    (tmp_path / "events.out.tfevents.1.before").write_bytes(b"cut sho")
    file = events.EventFile(events.load_writer(), tmp_path, [{"step": 1, "loss": 2.0, "task": "MRPC"}])
    file.add({"step": 2, "loss": 1.5, "epoch": 1})
    assert curves(tmp_path) == {"loss": [(1, 2.0), (2, 1.5)], "epoch": [(2, 1.0)]}
    file.close()
