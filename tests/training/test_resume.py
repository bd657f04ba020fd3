"""A run that is killed and goes on ends as if it had not been: weights and logs, bit for bit. Dropout is on."""
from __future__ import annotations

import errno
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
import socket
import sys
import weakref
from pathlib import Path

import pytest
import torch

from tests.conftest import STUDENT, TEACHER, TEACHERS, contents, finetune, general, names, train
from transformer.checkpoint import save_model
from transformer.cli import run_script
from transformer.config import BertConfig
from transformer.data import epochs
from transformer.files import InputError
from transformer.modeling import TinyBertForPreTraining, TinyBertForSequenceClassification
from transformer.optimization import BertAdam
from transformer.reporting import curves
from transformer.training import run as training_run
from transformer.training import scoring, states
from transformer.training.processes import Processes
from transformer.training.record import RunRecord
from transformer.training.states import States, result_settings
from transformer.weights import read_weights, write_bin

CASES = {
    "general": ("general_distill", general, {"num_train_epochs": 7, "eval_step": 4, "do_eval": True, "preset": "code",
                                             "gradient_accumulation_steps": 2, "fit_per_layer": True}),
    "intermediate": ("task_distill", train, {"num_train_epochs": 2.4, "eval_step": 4, "aug_train": True}),
    "prediction": ("task_distill", train, {"num_train_epochs": 2.4, "eval_step": 4, "aug_train": True,
                                           "pred_distill": True, "gradient_accumulation_steps": 4}),
    "finetune": ("finetune_teacher", finetune, {"num_train_epochs": 5, "model": "bert",
                                                "gradient_accumulation_steps": 2})}
# With an ALBERT, whose layers are one, as the teacher and as the model that is trained.
CASES["intermediate of albert"] = "task_distill", train, {**CASES["intermediate"][2], "teacher_model": "teacher_albert"}
CASES["finetune albert"] = "finetune_teacher", finetune, {**CASES["finetune"][2], "model": "base_albert"}
# Two students side by side: the names of their folders, and of those that they start from.
SIDE_BY_SIDE = {"generals": {"2l": "config", "4l": "config_4l"}, "intermediates": {"2l": "general", "4l": "general_4l"}}
CASES |= {case: CASES[case.removesuffix("s")] for case in SIDE_BY_SIDE}
STEPS = {case: 15 if case.startswith("finetune") else 14 for case in CASES}
SPEEDS = {"sequences_per_s", "wordpieces_per_s", "memory_gb"}


def child(name: str, argv: list[str], log: Path, step: int, act, prepare=None) -> None:
    """Run a script in this process, its output into `log`; prepare() comes first, and act(optimizer) at the end of
    optimizer step `step`; poison() at its beginning."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)
    if prepare:
        prepare()
    module, original = importlib.import_module(name), BertAdam.step
    own_shares, batches = training_run.own_shares, []
    curves.draw_curves = lambda folder: None  # it takes longer than the run

    def noted(indices, *args):
        batches.append(indices.tolist())
        return own_shares(indices, *args)

    def stepped(self, closure=None):
        is_poison = getattr(act, "func", act) is poison
        for begins in (True, False):
            if is_poison == begins and self.param_groups[0]["step"] == step - begins:
                print(f"acting after the batch {batches[-1]}", flush=True)
                act(self)
            if begins:
                original(self)

    training_run.own_shares, BertAdam.step, sys.argv = noted, stepped, [f"{name}.py"]
    sys.exit(run_script(lambda: module.main(argv)))


def send(number: signal.Signals, optimizer=None) -> None:
    os.kill(os.getpid(), number)


def send_in_evaluation(number: signal.Signals, optimizer) -> None:
    checked = scoring.require_finite_logits
    scoring.require_finite_logits = lambda *args: send(number) or checked(*args)


def kill_before_state(optimizer) -> None:
    states.States.save = lambda *_, **__: send(signal.SIGKILL)


def kill_before_second_state(optimizer) -> None:
    save = states.States.save
    states.States.save = lambda *state, **values: save(*state, **values) or kill_before_state(optimizer)


def kill_in_second_state(optimizer) -> None:
    save = states.States.save
    states.States.save = lambda *state, **values: save(*state, **values) or kill_in_state(optimizer)


def kill_before_second_finish() -> None:
    finish = RunRecord.finish

    def finish_the_first(self, **results) -> None:
        finish(self, **results)
        RunRecord.finish = lambda *_, **__: send(signal.SIGKILL)

    RunRecord.finish = finish_the_first


def kill_in_state(optimizer) -> None:
    states.write_pickle = lambda value, handle: (handle.write(b"half"), handle.flush(), send(signal.SIGKILL))


def fill_disk(optimizer) -> None:
    """No file can grow beyond 16 KiB: room for the logs, not for weights. The system refuses, as with a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, 1 << 14))


def poison(value: float, optimizer) -> None:
    """A gradient, as an overflow makes it, under a loss that is finite."""
    optimizer.param_groups[0]["params"][0].grad.view(-1)[0] = value


def damage_epoch(tiny: Path, number: int, optimizer=None) -> None:
    """No arrays, and a JSON of the same size that is no JSON."""
    shutil.rmtree(tiny / f"json/epoch_{number}.arrays")
    path = tiny / f"json/epoch_{number}.json"
    path.write_bytes(b"x" * path.stat().st_size)


_parse, _main, _number = epochs._parse_instances, 0, 0


def _parse_or_signal(part):
    """In a worker: the second part of epoch_1 sends the main process a signal, and never ends."""
    if part[0].name == "epoch_1.json" and part[1]:
        os.kill(_main, _number)
        while True:
            signal.pause()
    return _parse(part)


def interrupt_conversion(tiny: Path, number: signal.Signals, optimizer=None) -> None:
    """Let two workers convert epoch_1, to whose arrays something happened, and one of them send a signal."""
    global _main, _number
    _main, _number = os.getpid(), number
    shutil.rmtree(tiny / "json/epoch_1.arrays", ignore_errors=True)
    epochs._parse_instances = _parse_or_signal
    epochs.open_epoch = functools.partial(epochs.open_epoch, num_workers=2, part_bytes=1500)


def join_two(rank: int, port: int, prepare_second=None) -> None:
    """Be one of two processes, as under torchrun."""
    os.environ.update(WORLD_SIZE="2", RANK=str(rank), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(port))
    if rank and prepare_second:
        prepare_second()


def read_no_file() -> None:
    def refuse(path):
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    Path.read_bytes = refuse


class World:
    """A working folder for all tests here, and what the runs that nobody stopped left."""

    def __init__(self, tiny: Path):
        self.tiny = tiny
        self.context = multiprocessing.get_context("forkserver")  # no torch thread before the fork
        self.context.set_forkserver_preload([  # whatever is slow to load
            __name__, "general_distill", "task_distill", "finetune_teacher", "torch._dynamo", "sklearn.metrics",
            "scipy.stats"])
        self.whole = functools.cache(self._whole)
        config = BertConfig(**{**STUDENT, "hidden_size": 12, "num_hidden_layers": 4})
        save_model(TinyBertForPreTraining(config, fit_size=TEACHER["hidden_size"]), tiny / "general_4l", tiny / "bert")
        albert = BertConfig.from_dict({**TEACHER, **TEACHERS["albert"]})
        save_model(TinyBertForSequenceClassification(albert, 2), tiny / "teacher_albert", tiny / "bert")
        (tiny / "config_4l").mkdir()
        config.to_json_file(tiny / "config_4l/config.json")

    def folders(self, case: str, out: str) -> list[str]:
        """The output folders of a case: of each student its own."""
        return [f"{out}/{student}" for student in SIDE_BY_SIDE[case]] if case in SIDE_BY_SIDE else [out]

    def alone(self, case: str, out: str, student: str) -> dict[str, Path]:
        """Flags for one of two students alone, in the folder that it has beside the other."""
        return {"student_model": self.tiny / SIDE_BY_SIDE[case][student], "output_dir": self.tiny / out / student}

    def arguments(self, case: str, out: str, **changes) -> tuple[str, list[str]]:
        name, make, flags = CASES[case]
        flags = {**flags, **{flag: self.tiny / flags[flag] for flag in ("model", "teacher_model") if flag in flags}}
        students = SIDE_BY_SIDE.get(case)
        if students:
            flags = {**flags, "student_model": [self.tiny / start for start in students.values()]}
        outputs = [self.tiny / folder for folder in self.folders(case, out)]
        flags = {"learning_rate": 1e-2, "save_steps": 3, "output_dir": outputs, **flags, **changes}
        return name, [str(part) for part in make(self.tiny, **flags)]

    def start(self, case: str, out: str, step: int = -1, act=None, prepare=None, **changes) -> tuple[int, str]:
        """(exit status, output) of a run in a process of its own."""
        (result,) = self._start([prepare], case, out, step, act, **changes)
        return result

    def start_two(self, case: str, out: str, prepare_second=None, **changes) -> list[tuple[int, str]]:
        """The same of two processes that train together."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        prepares = [functools.partial(join_two, rank, port, prepare_second) for rank in range(2)]
        return self._start(prepares, case, out, -1, None, **changes)

    def _start(self, prepares: list, case: str, out: str, step: int, act, **changes) -> list[tuple[int, str]]:
        command = self.arguments(case, out, **changes)
        logs = [self.tiny / f"output{'_2' * number}.txt" for number in range(len(prepares))]
        processes = [self.context.Process(target=child, args=(*command, log, step, act, prepare))
                     for log, prepare in zip(logs, prepares)]
        for process in processes:
            process.start()
        for process, log in zip(processes, logs):
            process.join(60)
            process.kill()  # where it waits for something that does not come
            assert process.exitcode is not None, log.read_text()
        return [(process.exitcode, log.read_text()) for process, log in zip(processes, logs)]

    def states(self, out: str) -> list[int]:
        return sorted(int(path.stem[6:]) for path in (self.tiny / out).glob("state_*.pt"))

    def result(self, out: str) -> dict[str, object]:
        """Everything in a folder, less damaged states and what tells of the time that it took."""
        files: dict[str, object] = {}
        for file, content in contents(self.tiny / out).items():
            name = Path(file).name
            if name == "run.json":
                run = json.loads(content)
                assert run["finished"]
                content = {fact: run.get(fact) for fact in ("kept", "before", "eval_rep_loss", "acc", "steps")}
            elif name == "metrics.jsonl":
                metrics = [json.loads(line) for line in content.splitlines()]
                content = [{value: line[value] for value in line.keys() - SPEEDS} for line in metrics]
            if not name.endswith(".bad"):
                files[file] = content
        return files

    def _whole(self, case: str) -> dict[str, object]:
        status, output = self.start(case, f"whole_{case}")
        assert status == 0, output
        for folder in self.folders(case, f"whole_{case}"):
            result = self.result(folder)
            assert result["run.json"]["steps"] == STEPS[case]
            assert len(result["metrics.jsonl"]) == (STEPS[case] + 3) // 4 + case.startswith("finetune"), (
                "an evaluation every 4 steps (3 in fine-tuning) and at the end")
        return self.result(f"whole_{case}")

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


def times(folder: Path) -> dict[str, int]:
    """When each file was written."""
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("case", CASES)
def test_killed_five_times(case, world, out):
    rng = random.Random(case)
    stops = [rng.randint(1, 2), *sorted(rng.sample(range(3, STEPS[case]), 4))]  # the first before there is a state
    for number, stop in enumerate(stops):
        states = {folder: world.states(folder) for folder in world.folders(case, out)}
        status, output = world.start(case, out, stop, functools.partial(send, signal.SIGKILL), resume=number > 0)
        assert status == -signal.SIGKILL, output
        for folder, found in states.items():
            assert (f"going on from {world.tiny / folder}/state_{max(found, default=0)}.pt" in output) == bool(found)
            # every third step, and at evaluations, where that has been cheap
            assert len(world.states(folder)) <= 2 and max(world.states(folder), default=0) >= (stop - 1) // 3 * 3
    world.finish(case, out)
    before = times(world.tiny / out)
    status, output = world.start(case, out, resume=True)
    assert status == 0
    assert output.count("skipped" if case.startswith("finetune") else "is finished: nothing to resume") == len(states)
    assert times(world.tiny / out) == before


@pytest.mark.parametrize("act", [kill_before_state, kill_in_state])
def test_killed_between_an_evaluation_and_its_state(act, world, out):
    status, output = world.start("prediction", out, 11, act)  # evaluation and state come after step 12
    assert status == -signal.SIGKILL and world.states(out)[-1] < 12, output
    assert len((world.tiny / out / "metrics.jsonl").read_text().splitlines()) == 3
    world.finish("prediction", out)


@pytest.mark.parametrize("case,act", [("generals", kill_before_second_state), ("intermediates", kill_in_second_state)])
def test_a_student_that_is_ahead_waits(case, act, world, out):
    """It is not trained until the other has come to its step, not even by a run that is killed before that."""
    first, second = world.folders(case, out)
    status, output = world.start(case, out, 7, act)
    ahead, behind = world.states(first)[-1], world.states(second)[-1]
    assert status == -signal.SIGKILL and behind < ahead, output
    before = contents(world.tiny / first)
    status, output = world.start(case, out, behind + 1, functools.partial(send, signal.SIGKILL), resume=True)
    assert status == -signal.SIGKILL and f"going on from {world.tiny / first}/state_{ahead}.pt" in output
    after = contents(world.tiny / first)
    assert {name for name in before | after if before.get(name) != after.get(name)} <= {"run.json"}
    world.finish(case, out)


@pytest.mark.parametrize("case,how", [("generals", "killed"), ("intermediates", "alone")])
def test_a_finished_student_is_left_alone(case, how, world, out):
    """It was finished when the run was killed; or it was trained alone, and the other one, alone, was stopped."""
    first, second = world.folders(case, out)
    if how == "killed":
        assert world.start(case, out, prepare=kill_before_second_finish)[0] == -signal.SIGKILL
    else:
        assert world.start(case, out, **world.alone(case, out, "2l"))[0] == 0
        kill = functools.partial(send, signal.SIGKILL)
        assert world.start(case, out, 11, kill, **world.alone(case, out, "4l"))[0] == -signal.SIGKILL
    before, written = contents(world.tiny / first), times(world.tiny / first)
    assert json.loads(before["run.json"])["finished"] and world.states(second)[-1] >= 9
    world.finish(case, out)
    assert contents(world.tiny / first) == before and times(world.tiny / first) == written
    assert "trained_with" not in json.loads((world.tiny / second / "run.json").read_text())


def test_a_student_that_was_stopped_alone_goes_on_beside_another(world, out):
    """Which starts, and for which it waits."""
    status, output = world.start("intermediates", out, 11, functools.partial(send, signal.SIGKILL),
                                 **world.alone("intermediates", out, "4l"))
    assert status == -signal.SIGKILL and world.states(f"{out}/4l") and not world.states(f"{out}/2l"), output
    world.finish("intermediates", out)


def test_damaged_states_of_one_of_two_students(world, out):
    """It goes back to the one before; where it has none nothing is lost, in both folders."""
    first, second = world.folders("generals", out)
    world.start("generals", out, 11, functools.partial(send, signal.SIGKILL))
    before, newest = (world.tiny / second / f"state_{step}.pt" for step in world.states(second))
    whole = before.read_bytes()
    for path in (before, newest):
        path.write_bytes(path.read_bytes()[:-1000])
    found = contents(world.tiny / out)
    status, log = world.start("generals", out, resume=True)
    assert status == 2 and log.count("error: ") == 1 and f"error: --resume: {newest} cannot be read" in log
    assert contents(world.tiny / out) == found
    before.write_bytes(whole)
    world.finish("generals", out)
    assert contents(world.tiny / second)[f"{newest.name}.bad"] == found[f"4l/{newest.name}"]
    assert not list((world.tiny / first).glob("*.bad"))


def cut(content: bytes) -> bytes:
    return content[:-1000]


def flip_a_bit(content: bytes) -> bytes:
    middle = len(content) // 2  # of a tensor: a reader that compares no sums takes it
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1:]


@pytest.mark.parametrize("damage", [cut, flip_a_bit])
def test_of_the_last_two_states_one_may_be_damaged(damage, world, out):
    world.start("prediction", out, 11, functools.partial(send, signal.SIGKILL))
    before, newest = (world.tiny / out / f"state_{step}.pt" for step in world.states(out))
    damaged = damage(newest.read_bytes())
    newest.write_bytes(damaged)
    (world.tiny / out / f"{newest.name}.bad").write_bytes(b"of an earlier time")
    status, log = world.start("prediction", out, 10, functools.partial(send, signal.SIGKILL), resume=True)
    assert f"warning: {newest} cannot be read" in log and f"going on from {before}" in log
    assert (world.tiny / out / f"{newest.name}.bad").read_bytes() == damaged
    world.finish("prediction", out)


def test_where_no_state_can_be_read_nothing_is_lost(world, out):
    world.start("prediction", out, 11, functools.partial(send, signal.SIGKILL))
    for path in (world.tiny / out).glob("state_*.pt"):
        path.write_bytes(path.read_bytes()[:100])
    before = contents(world.tiny / out)
    newest = world.states(out)[-1]
    for left in ("none", "one renamed"):
        if left == "one renamed":
            (world.tiny / out / f"state_{newest}.pt").rename(world.tiny / out / f"state_{newest}.pt.bad")
            (world.tiny / out / f"state_{world.states(out)[0]}.pt").unlink()
            before = contents(world.tiny / out)
        status, log = world.start("prediction", out, resume=True)
        assert status == 2 and log.count("error: ") == 1 and "Traceback" not in log
        assert f"error: --resume: {world.tiny / out}/state_{newest}.pt" in log and "--overwrite_output_dir" in log
        assert contents(world.tiny / out) == before
    status, log = world.start("prediction", out, overwrite_output_dir=True)
    assert status == 0 and world.result(out).keys() - {"run.json.before"} == world.whole("prediction").keys()


class Part:
    """A part of a state, as a model or an optimizer is one."""

    def __init__(self, value: object):
        self.value = value

    def state_dict(self) -> object:
        return self.value

    def load_state_dict(self, value: object) -> None:
        if isinstance(self.value, Exception):
            raise self.value
        self.value = value


def saved(folder: Path, part: object) -> States:
    """States 1 and 2 of a run, and what reads them into `part`."""
    alone = Processes(0, 1, torch.device("cpu"))
    for step in (1, 2):
        States(folder, {"seed": "1"}, alone, part=Part(torch.full((500,), float(step)))).save(step, values={})
    (folder / "state_best.pt").write_bytes(b"a file of the user's")
    return States(folder, {"seed": "1"}, alone, part=Part(part))


@pytest.mark.parametrize("change", [{"settings": []}, {"step": "x"}, {"settings": {"seed": "1"}, "part": None}],
                         ids=["settings", "step", "part"])
def test_a_state_of_odd_content_is_one_line(change, tmp_path):
    states = saved(tmp_path, KeyError("exp_avg") if "part" in change else None)
    torch.save({"step": 2, "settings": {"seed": "1"}, "values": {}, "part": 0} | change, tmp_path / "state_2.pt")
    if "part" in change:
        with pytest.raises(InputError, match="state_2.pt cannot be loaded .*nothing was deleted"):
            states.restore(True)
    else:
        assert states.restore(True)["step"] == 1
        assert (tmp_path / "state_2.pt.bad").exists()


def test_a_damaged_state_is_kept_when_the_run_is_finished(tmp_path):
    states = saved(tmp_path, None)
    (tmp_path / "state_2.pt").write_bytes(b"damaged")
    states.restore(True)
    states.clear()
    assert names(tmp_path) == ["state_2.pt.bad", "state_best.pt"]


OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nSee the documentation")


STALE = OSError(errno.ESTALE, "Stale file handle")
ALLOCATOR = RuntimeError("[enforce fail at alloc_cpu.cpp:1] can't allocate memory")


@pytest.mark.parametrize("where,failure,cause", [
    ("file", STALE, "(Stale file handle)"), ("file", MemoryError(), "not enough memory"),
    ("load", MemoryError(), "not enough memory"), ("load", ALLOCATOR, "can't allocate memory"),
    ("load", OUT_OF_MEMORY, "Tried to allocate 20.00 MiB."), ("part", OUT_OF_MEMORY, "Tried to allocate 20.00 MiB.")])
def test_what_is_no_damage_ends_the_run(where, failure, cause, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise failure

    states = saved(tmp_path, failure if where == "part" else None)
    before = contents(tmp_path)
    if where != "part":
        monkeypatch.setattr(*{"file": (Path, "read_bytes"), "load": (torch, "load")}[where], fail)
    with pytest.raises(InputError) as refusal:
        states.restore(True)
    monkeypatch.undo()
    message = str(refusal.value)
    assert message.startswith(f"{tmp_path}/state_2.pt cannot be ") and cause in message and "\n" not in message
    assert "Errno" not in message and contents(tmp_path) == before


def test_resume_without_a_file_handle_left(tmp_path):
    states, limits = saved(tmp_path, None), resource.getrlimit(resource.RLIMIT_NOFILE)
    before = contents(tmp_path)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(InputError, match=f"{tmp_path} cannot be read .Too many open files."):
            states.restore(True)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert contents(tmp_path) == before


def test_a_state_is_read_on_the_cpu_and_not_kept(tmp_path, monkeypatch):
    """Read onto the device and kept, it would take the room that the run had before it was stopped."""
    states = saved(tmp_path, None)
    load, read = torch.load, []

    def noted(*args, **options):
        state = load(*args, **options)
        read.append((options["map_location"], weakref.ref(state["part"])))
        return state

    monkeypatch.setattr(torch, "load", noted)
    states.processes = Processes(0, 1, torch.device("meta"))
    state = states.restore(True)
    assert state["step"] == 2 and torch.equal(states.parts["part"].value, torch.full((500,), 2.0))
    states.parts["part"].value = None
    ((place, tensor),) = read
    assert place == "cpu" and tensor() is None


def test_resume_settings_that_do_not_matter():
    settings = {"teacher_model": "models/bert", "eval_batch_size": 8, "keep_checkpoints": 2, "task_name": "SST-2"}
    other = {"teacher_model": "./models//bert/", "eval_batch_size": 9, "keep_checkpoints": 0, "task_name": "SST-2"}
    assert result_settings(settings) == result_settings(other) == {"teacher_model": "models/bert", "task_name": "SST-2"}
    assert result_settings({"teacher_model": "models/../bert"}) == {"teacher_model": "models/../bert"}  # a link, maybe


@pytest.mark.parametrize("name,as_before,other", [("attention_loss", ("auto", "scores"), "gram"),
                                                  ("fit_per_layer", ("False",), "True")])
def test_a_state_from_before_there_was_a_setting(name, as_before, other, tmp_path):
    """What the run did then is no change."""
    saved(tmp_path, None)
    alone = Processes(0, 1, torch.device("cpu"))
    for value in as_before:
        assert States(tmp_path, {"seed": "1", name: value}, alone, part=Part(None)).restore(True)["step"] == 2
    with pytest.raises(InputError, match=f"--resume: {name} was None and is {other} now"):
        States(tmp_path, {"seed": "1", name: other}, alone, part=Part(None)).restore(True)


def test_two_processes_go_on_from_what_the_first_reads(world, out):
    """Damage is the first process's to see, and the renaming its own."""
    world.start("intermediate", out, 11, functools.partial(send, signal.SIGKILL))
    before, newest = (world.tiny / out / f"state_{step}.pt" for step in world.states(out))
    newest.write_bytes(newest.read_bytes()[:-1000])
    (first, log), (second, other) = world.start_two("intermediate", out, resume=True)
    assert first == second == 0, log + other
    assert f"warning: {newest} cannot be read" in log and f"going on from {before}" in log and "warning" not in other
    assert world.result(out).keys() == world.whole("intermediate").keys()


def test_two_processes_go_on_with_students_at_different_steps(world, out):
    first, second = world.folders("intermediates", out)
    world.start("intermediates", out, 7, kill_before_second_state)
    ahead, behind = world.states(first)[-1], world.states(second)[-1]
    (status, log), (other_status, other) = world.start_two("intermediates", out, resume=True)
    assert status == other_status == 0 and ahead > behind, log + other
    for folder, step in ((first, ahead), (second, behind)):
        assert f"going on from {world.tiny / folder}/state_{step}.pt" in log
    result, whole = world.result(out), world.whole("intermediates")
    assert result.keys() == whole.keys() and len(result["2l/metrics.jsonl"]) == len(whole["2l/metrics.jsonl"]) == 4


def test_two_processes_of_which_one_cannot_read_the_state(world, out):
    world.start("general", out, 11, functools.partial(send, signal.SIGKILL))
    before, newest = contents(world.tiny / out), world.states(out)[-1]
    (first, log), (second, other) = world.start_two("general", out, read_no_file, resume=True)
    assert first == second == 2 and "error" not in log and "Traceback" not in log + other, log + other
    path = world.tiny / out / f"state_{newest}.pt"
    assert other == (f"general_distill.py: error: process 1: {path} cannot be read (Stale file handle): nothing was "
                     "deleted, go on with --resume when it can\n")
    assert contents(world.tiny / out) == before
    world.finish("general", out)


@pytest.mark.parametrize("what", ["state", "epoch"])
def test_two_processes_end_with_one_line(what, world, out):
    world.start("general", out, 11, functools.partial(send, signal.SIGKILL))
    json_text = (world.tiny / "json/epoch_1.json").read_text()
    if what == "state":
        for path in (world.tiny / out).glob("state_*.pt"):
            path.write_bytes(b"")
        changes, words = {"resume": True}, f"state_{world.states(out)[-1]}.pt cannot be read"
    else:
        damage_epoch(world.tiny, 1)
        changes, words = {"overwrite_output_dir": True}, "epoch_1.json, line 1: cut short"
    (first, log), (second, other) = world.start_two("general", out, **changes)
    (world.tiny / "json/epoch_1.json").write_text(json_text)
    assert first == second == 2 and "Traceback" not in log + other, log + other
    assert log.count("error: ") == 1 and words in log and "error" not in other


def test_an_epoch_that_cannot_be_opened_costs_nothing(world, out):
    """No state is due, and the next epoch is gone when the first is done: the state at its end is there."""
    json_text = (world.tiny / "json/epoch_1.json").read_text()
    status, output = world.start("general", out, 2, functools.partial(damage_epoch, world.tiny, 1), save_steps=100)
    (world.tiny / "json/epoch_1.json").write_text(json_text)
    assert status == 2 and "epoch_1.json, line 1: cut short" in output and "Traceback" not in output
    assert world.states(out) == [2]
    world.finish("general", out)


def test_resume_opens_the_epoch_that_it_needs(world, out):
    json_text = (world.tiny / "json/epoch_0.json").read_text()
    status, output = world.start("general", "two_epochs", num_train_epochs=2)
    assert status == 0, output
    status, output = world.start("general", out, 3, functools.partial(send, signal.SIGKILL), num_train_epochs=2)
    assert status == -signal.SIGKILL and max(world.states(out)) >= 2, "one is saved at the end of the epoch"
    damage_epoch(world.tiny, 0)
    status, output = world.start("general", out, resume=True, num_train_epochs=2)
    assert status == 0, output
    assert not (world.tiny / "json/epoch_0.arrays").exists()
    (world.tiny / "json/epoch_0.json").write_text(json_text)
    assert world.result(out) == world.result("two_epochs")


@pytest.mark.parametrize("step,number", [(-1, signal.SIGINT), (-1, signal.SIGTERM), (2, signal.SIGTERM)])
def test_a_signal_during_a_conversion(step, number, world, out):
    """Before the first step; and between two epochs, where the arrays are gone in the meantime."""
    interrupt = functools.partial(interrupt_conversion, world.tiny, number)
    status, output = world.start("general", out, step, interrupt, interrupt if step < 0 else None)
    assert status == (130 if number == signal.SIGINT else -number), output
    assert "Traceback" not in output and output.count("interrupted") == (number == signal.SIGINT)
    assert world.states(out) == ([2] if step > 0 else [])
    assert not list((world.tiny / "json/epoch_1.arrays").glob("*/manifest.json"))
    if step > 0:
        world.finish("general", out)


@pytest.mark.parametrize("case,act,number", [
    ("general", send, signal.SIGTERM), ("intermediate", send, signal.SIGINT), ("finetune", send, signal.SIGTERM),
    ("prediction", send_in_evaluation, signal.SIGTERM), ("finetune", send_in_evaluation, signal.SIGINT),
    ("generals", send, signal.SIGINT), ("intermediates", send, signal.SIGTERM)])
def test_signals(case, act, number, world, out):
    status, output = world.start(case, out, 7, functools.partial(act, number))
    assert status == 128 + number
    ends = {("prediction", send_in_evaluation): 8, ("finetune", send_in_evaluation): 9}.get((case, act), 7)
    assert output.count(f"stopped by {number.name} after step {ends}: the same command with --resume goes on") == 1
    assert "Traceback" not in output and "Error" not in output
    assert [world.states(folder)[-1] for folder in world.folders(case, out)] == [ends] * output.count("settings: ")
    world.finish(case, out)


@pytest.mark.parametrize("case,what", [("general", "state"), ("prediction", "model"), ("finetune", "state"),
                                       ("finetune", "model"), ("generals", "state"), ("intermediates", "state")])
def test_full_disk(case, what, world, out):
    # after step 10 the state alone is written; after step 8, and 9 in fine-tuning, the model before it
    full, save_steps = (9, 5) if what == "state" else (7 + (case == "finetune"), 3)
    status, output = world.start(case, out, full, fill_disk, save_steps=save_steps)
    assert status == 2 and "Traceback" not in output, output
    folder = world.tiny / out
    assert re.search(rf"^\w+\.py: error: {folder}/(\w+/)?\w+\.(pt|bin): File too large$", output, re.M), output
    assert not list(folder.rglob(".*")), "a part of a file was left"
    for name in world.folders(case, out):
        for path in [*(world.tiny / name).glob("state_*.pt"), world.tiny / name / "pytorch_model.bin"]:
            assert torch.load(path, weights_only=True)
        assert world.states(name) and world.states(name)[-1] <= full
    world.finish(case, out, save_steps=save_steps)


@pytest.mark.parametrize("case,value", [*((case, float("nan")) for case in CASES if case not in SIDE_BY_SIDE),
                                        ("prediction", float("inf"))])
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
        weights = state["model" if case.startswith("finetune") else "student"]
        assert all(tensor.isfinite().all() for tensor in weights.values())
    world.finish(case, out)


@pytest.mark.parametrize("case,changes", [
    ("prediction", ["learning_rate=0.02", "seed=1", "train_batch_size=4", "gradient_accumulation_steps=2",
                    "max_seq_length=20", "num_train_epochs=3.0", "temperature=2.0", "eval_step=2"]),
    ("general", ["learning_rate=0.02", "preset=paper", "warmup_proportion=0.2", "precision=bf16",
                 "layer_mapping=last", "fit_per_layer="]),
    ("finetune", ["learning_rate=0.02", "weight_decay=0.1", "num_train_epochs=6"])])
def test_changed_settings(case, changes, world, out, refused):
    assert world.start(case, out, 7, functools.partial(send, signal.SIGKILL))[0] == -signal.SIGKILL
    before = {path: path.read_bytes() for path in (world.tiny / out).iterdir()}
    for change in changes:
        name, value = change.split("=")
        script, argv = world.arguments(case, out, resume=True, **{name: value or None})
        refused(script, *argv, words=(f"--resume: {name} was ", f"is {value or False} now"))
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
    free = {"general": {"reduce_memory": True, "teacher_model": f"{world.tiny}/./bert/"},
            "prediction": {"cache_dir": world.tiny / "cache", "eval_batch_size": 5, "task_name": "mrpc",
                           "data_dir": world.tiny / "glue"},
            "finetune": {"eval_batch_size": 5, "model": f"{world.tiny}/bert/"}}[case]
    world.finish(case, out, save_steps=2, **free)
