"""The record of a run in its output folder: how it was made and what it measured."""
from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from transformer.files import (
    InputError,
    atomic_write,
    naming,
    read_json,
    read_lines,
    remove_abandoned,
    require_no_file,
    write_json,
)
from transformer.tasks.answers import ANSWER_FILES
from transformer.tasks.head import PREDICTIONS_NAME
from transformer.training.events import EventFile, load_writer, remove_events
from transformer.training.processes import Processes
from transformer.training.states import clear_states

RUN_NAME = "run.json"
BEFORE_NAME = "run.json.before"
EVAL_NAME = "eval_results.json"
_METRICS_NAME = "metrics.jsonl"
_LOGS = (_METRICS_NAME, "log.txt", "eval_results.txt")
# Arrays that found no other place: what a run that was killed before it wrote run.json can have left.
_LEFT_BEHIND = re.compile(r"features|epoch_\d+\.arrays")


def read_run(folder: str | Path) -> dict[str, Any] | None:
    """What run.json in a folder says; None where there is none."""
    path = Path(folder) / RUN_NAME
    return read_json(path) if path.is_file() else None


def is_finished(folder: str | Path) -> bool:
    """False where a run of this kit was stopped before it finished the model in `folder`."""
    run = read_run(folder)
    return run is None or bool(run.get("finished"))


def require_finished(folder: str | Path) -> None:
    """InputError where a model is not finished."""
    if not is_finished(folder):
        raise InputError(f"{folder} is unfinished: the run that writes it was stopped ({RUN_NAME} says so); "
                         f"go on with it (--resume), or move {RUN_NAME} away to take the model as it is")


def check_output(folder: str | Path, resume: bool, overwrite: bool, *starts: str | Path) -> bool:
    """Whether resume finds a finished run in the output folder of a training run.

    Raises InputError where the folder holds something that is neither to be resumed nor to be overwritten, or one of
    the models that the run starts from. What a killed run left behind before its run.json counts as nothing.
    """
    require_no_file(folder)
    run = read_run(folder)
    if resume and run is not None:
        return bool(run.get("finished"))
    if run is not None and not run.get("finished") and not overwrite:
        raise InputError(f"{folder} holds a run that was stopped: go on with it with --resume, or start it anew with "
                         "--overwrite_output_dir")
    if Path(folder).resolve() in (Path(start).resolve() for start in starts):
        raise InputError(f"{folder} holds a model that the run starts from, and would lose it: name another folder for "
                         "--output_dir")
    remove_abandoned(folder)
    if not overwrite and not all(_LEFT_BEHIND.fullmatch(path.name) for path in Path(folder).glob("*")):
        raise InputError(f"output folder {folder} is not empty: name another, or add --overwrite_output_dir")
    return False


def open_outputs(students: Sequence[argparse.Namespace], processes: Processes,
                 *starts: str | Path) -> list[argparse.Namespace]:
    """check_output() of the flags of each student, for all processes: those that are not finished. starts: the models
    that all start from, beside their own. Of the others it is said that there is nothing to do."""
    unfinished = []
    for args in students:
        finished, error = False, None
        if processes.is_first:
            try:
                finished = check_output(args.output_dir, args.resume, args.overwrite_output_dir, *starts,
                                        *(own.student_model for own in students))
            except (InputError, OSError) as refusal:
                error = refusal
        processes.end_together(error)
        if processes.any(finished):
            print(f"{args.output_dir} is finished: nothing to resume", flush=True)
        else:
            unfinished.append(args)
    return unfinished


def student_label(settings: dict[str, Any], start: str | None, layers: int) -> str:
    """What tells students apart, 4l: by the names of the folders that a run wrote to and started from (tinybert_4l),
    else by the model's number of layers. layers: 0 where only a name makes it a student; empty where none does."""
    for folder in (settings.get("output_dir"), settings.get("student_model"), start):
        if match := re.search(r"tinybert_(\d+l)", Path(str(folder)).name):
            return match[1]
    return f"{layers}l" if layers else ""


def format_metrics(title: str, values: dict[str, float]) -> str:
    """A block for people: the title between asterisks, then one `name = value` a line."""
    return "\n".join([f"***** {title} *****", *(f"{name} = {value:.6g}" for name, value in values.items())])


def _commit() -> str | None:
    """Commit of the kit, with a + where files differ from it; None outside a git checkout."""
    kit = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=kit, capture_output=True, text=True, timeout=10)
        changes = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=kit, capture_output=True, text=True,
                                 timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return commit.stdout.strip() + ("+" if changes.stdout.strip() else "") if commit.returncode == 0 else None


def describe_run(args: argparse.Namespace, processes: Processes) -> dict[str, Any]:
    """How this process was called, on what: command, settings, commit, start, versions, hardware."""
    device = processes.device
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]), "settings": dict(vars(args)),
        "commit": _commit(), "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "hardware": {"device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
                     "processor": platform.machine(), "threads": torch.get_num_threads(),
                     "processes": processes.world}}


def append_line(path: str | Path, text: str) -> None:
    """Add a line of text to a log."""
    with naming(path), open(path, "a", encoding="utf-8") as handle:
        handle.write(text + "\n")


def clear_evaluation(folder: str | Path) -> None:
    """Delete what an earlier evaluation left in a model's folder."""
    folder = Path(folder)
    for path in (*(folder / name for name in (EVAL_NAME, *ANSWER_FILES)), *folder.glob(PREDICTIONS_NAME.format("*"))):
        path.unlink(missing_ok=True)


class RunRecord:
    """How a run was made and what it measured, in its output folder.

    run.json: command, settings, commit, versions, hardware, and, written last, the results and `finished`: true.
    With them come `seconds_of` the parts of the process's time since it started or resumed, and `times_of`, how often
    each began: encode (texts), logits (the teacher's, kept), teacher (its answers to the dev set), first_step, steps
    (the others), evaluate (own answers), score (answers), save (models), state (for --resume), other.
    metrics.jsonl: one JSON object a line; with --tensorboard the same as an EventFile. log.txt, eval_results.txt: lines
    for people.

    A run that overwrites another makes its record when all that can be refused has been checked, right before it
    trains: from then on the folder is unfinished, and the earlier record stands in run.json.before. Of several
    processes the first alone writes.
    """

    def __init__(self, folder: str | Path, args: argparse.Namespace, processes: Processes,
                 log_sizes: dict[str, int] | None = None, **facts: Any):
        """log_sizes: sizes() of an earlier record of the same run: what was logged after that is cut off. Without it
        the run is a new one: logs start afresh, states of an earlier one are deleted."""
        self.folder = Path(folder)
        self._device = processes.device
        self._writes = processes.is_first
        self._started = self._counted_from = time.time()
        self._sequences = self._wordpieces = 0
        self.run = {**describe_run(args, processes), **facts, "finished": False}
        self._events: EventFile | None = None
        if self._writes:
            writer_class = load_writer() if getattr(args, "tensorboard", False) else None
            self.folder.mkdir(parents=True, exist_ok=True)
            if not args.resume:
                self._keep_earlier()
            self._write()  # first: whatever else is stopped halfway, the folder passes for no finished run
            if log_sizes is None:
                clear_states(self.folder)
            remove_events(self.folder)  # they may tell steps that are cut off; who wants them gets all that is logged
            clear_evaluation(self.folder)  # it was of other weights
            for log in _LOGS:
                if (self.folder / log).is_file():
                    os.truncate(self.folder / log, (log_sizes or {}).get(log, 0))
            if writer_class:
                metrics = self.folder / _METRICS_NAME
                logged = map(json.loads, read_lines(metrics)) if metrics.is_file() else ()
                self._events = EventFile(writer_class, self.folder, logged)

    def _keep_earlier(self) -> None:
        """Copy the record of the run that is overwritten; that of a stopped run not over that of a finished one, whose
        weights may still be there."""
        record, before = self.folder / RUN_NAME, self.folder / BEFORE_NAME
        if record.is_file() and (is_finished(self.folder) or not before.is_file()):
            with atomic_write(before, "wb") as handle:
                handle.write(record.read_bytes())

    def _write(self) -> None:
        if self._writes:
            write_json(self.folder / RUN_NAME, json.loads(json.dumps(self.run, default=str)))

    def sizes(self) -> dict[str, int]:
        """Bytes in each log."""
        return {log: (self.folder / log).stat().st_size for log in _LOGS if (self.folder / log).is_file()}

    def count(self, lengths: np.ndarray) -> None:
        """Note that sequences of these lengths went through training."""
        self._sequences += len(lengths)
        self._wordpieces += int(lengths.sum())

    def speed(self) -> dict[str, float]:
        """Sequences and wordpieces (padding left out) a second since the last call, and the memory in use, in GB: of
        this process at its peak, on the GPU at its peak where there is one."""
        seconds = time.time() - self._counted_from
        values = {"sequences_per_s": self._sequences / seconds, "wordpieces_per_s": self._wordpieces / seconds,
                  "memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin"
                                                                                   else 1e9 / 1024)}
        if self._device.type == "cuda":
            values["gpu_memory_gb"] = torch.cuda.max_memory_allocated(self._device) / 1e9
        self._sequences = self._wordpieces = 0
        self._counted_from = time.time()
        return {name: float(f"{value:.4g}") for name, value in values.items()}

    def log(self, **values: Any) -> None:
        """Append a line to metrics.jsonl."""
        self.text(_METRICS_NAME, json.dumps(values))
        if self._events:
            self._events.add(values)

    def text(self, name: str, text: str) -> None:
        """Append a line to the file `name` (log.txt, eval_results.txt)."""
        if self._writes:
            append_line(self.folder / name, text)

    def note_best(self, score: float, kept: dict[str, Any]) -> None:
        """Say in run.json what the model in the folder scores, and what was logged of it, until the run is finished."""
        self.run["best"] = {"score": score, "kept": kept}
        self._write()

    def finish(self, **results: Any) -> None:
        """Write the results and the seconds that the run took, which marks the folder as complete."""
        if self._events:
            self._events.close()
        self.run.pop("best", None)
        self.run.update(results, seconds=round(time.time() - self._started, 1), finished=True)
        self._write()
