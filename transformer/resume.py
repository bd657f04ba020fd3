"""Going on after a stop: the full state of a training run on disk, and signals that end a run in good order."""
from __future__ import annotations

import hashlib
import os
import pickle
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch

from transformer.config import CONFIG_NAME
from transformer.files import InputError, atomic_write, sha256_of
from transformer.runtime import Processes
from transformer.weights import weight_files, write_pickle

_KEPT = 2               # states; the one before is there in case that the last is damaged
_SHARE_OF_TIME = 0.05   # that saving at evaluations may take
_SECONDS_OF_ONE_SIGNAL = 2  # in which a scheduler and torchrun may both pass the same one on

# Settings that do not change the result of a run: another value is no reason to refuse --resume.
_FREE_SETTINGS = {"output_dir", "overwrite_output_dir", "resume", "save_steps", "no_cuda", "local_rank",
                  "reduce_memory", "cache_dir", "skip_teacher_check", "fp16"}  # precision says what fp16 says


def result_settings(settings: dict[str, Any], **facts: Any) -> dict[str, Any]:
    """What the result of a run follows from: its settings, less those that cannot change it, and `facts`."""
    return {name: str(value) for name, value in {**settings, **facts}.items() if name not in _FREE_SETTINGS}


def files_sha256(folder: str | Path, weights: bool = True) -> str:
    """Fingerprint of a model folder that a run starts from: of config.json and, with `weights`, the files of weights.

    Of the files, since random weights of the same seed differ in their last bits from processor to processor.
    """
    digests = [sha256_of(path) for path in (Path(folder) / CONFIG_NAME, *(weight_files(folder) if weights else ()))]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


class States:
    """The states of a run, state_STEP.pt in its output folder. Each holds everything that the rest of the run follows
    from: weights, optimizer, step, best score, settings. Data order and dropout follow from seed and step alone.

    settings: what the result follows from, compared when a run goes on; parts: the model, the optimizer and whatever
    else has state_dict() and load_state_dict(). Of several processes the first alone writes.
    """

    def __init__(self, folder: str | Path, settings: dict[str, Any], processes: Processes, **parts: Any):
        self.folder = Path(folder)
        self.settings = settings
        self.processes = processes
        self.parts = parts
        self._started = time.monotonic()
        self._spent = 0.0  # seconds, by saving
        for unfinished in self.folder.glob(".state_*.tmp"):  # by a run that was killed while it saved
            unfinished.unlink(missing_ok=True)

    def restore(self, resume: bool) -> dict[str, Any] | None:
        """With `resume` the newest state that can be read, loaded into the parts; a damaged one is passed over, with a
        warning. Else, or where there is none, None.

        Raises InputError naming the first setting that differs from those of the stopped run.
        """
        state = self._newest() if resume else None
        if state is not None:
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
        return state

    def save(self, step: int, **values: Any) -> None:
        """Write a state, read it back, and only then give it its name; then delete the oldest beyond two.

        All processes have to call it. values: tensors, numbers, strings, and lists and dicts of them.
        """
        started = time.monotonic()
        state = {name: part.state_dict() for name, part in self.parts.items()}
        if not self.processes.is_first:
            return
        with atomic_write(self.folder / f"state_{step}.pt", "wb") as handle:
            write_pickle({"step": step, "settings": self.settings, **values, **state}, handle)
            handle.flush()
            _read(Path(handle.name), "cpu")
        later = [path for path in _paths(self.folder) if _step(path) > step]  # damaged ones, that restore() passed over
        earlier = [path for path in _paths(self.folder) if _step(path) <= step][:-_KEPT]
        for path in [*later, *earlier]:
            path.unlink()
        self._spent += time.monotonic() - started

    def is_due(self, step: int, save_steps: int | None, eval_step: int) -> bool:
        """Whether to save after this step: every save_steps steps, and at evaluations as long as saving has not taken
        more than a twentieth of the time. The first process decides for all."""
        if save_steps and step % save_steps == 0:
            return True
        cheap = self._spent <= _SHARE_OF_TIME * (time.monotonic() - self._started)
        return step % eval_step == 0 and self.processes.any(self.processes.is_first and cheap)

    @property
    def last(self) -> Path | None:
        """The newest state."""
        return max(_paths(self.folder), default=None, key=_step)

    def clear(self) -> None:
        """Delete all states: the run is finished."""
        if self.processes.is_first:
            clear_states(self.folder)

    def _newest(self) -> dict[str, Any] | None:
        for path in reversed(_paths(self.folder)):
            try:
                state = _read(path, self.processes.device)
            except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                print(f"warning: {path} cannot be read ({reason}): taking the one before", flush=True)
                continue
            for name in {**self.settings, **state["settings"]}:
                before, now = state["settings"].get(name), self.settings.get(name)
                if before != now:
                    raise InputError(f"--resume: {name} was {before} and is {now} now, which changes the result: give "
                                     f"it as before, or start anew in another --output_dir")
            print(f"going on from {path}", flush=True)
            return state
        return None


def clear_states(folder: str | Path) -> None:
    """Delete the states of all runs in a folder."""
    for path in _paths(folder):
        path.unlink()


def _paths(folder: str | Path) -> list[Path]:
    """States in a folder from the oldest to the newest."""
    return sorted(Path(folder).glob("state_*.pt"), key=_step)


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("state_"))


def _read(path: Path, device: torch.device | str) -> dict[str, Any]:
    return torch.load(path, map_location=device, weights_only=True)


class StopSignals:
    """Inside a with statement, the first SIGTERM or SIGINT only sets `received`, so that the run can end after its step
    with a saved state; the second ends it at once."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Callable | int | None] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def agreed(self, processes: Processes) -> bool:
        """Whether a signal has reached any of the processes: then all end for it."""
        number = -int(processes.smallest(torch.tensor(-(self.received or 0))))
        if number:
            self.received = signal.Signals(number)
        return number > 0

    def end(self, step: int, processes: Processes) -> NoReturn:
        """End the process after step `step`, whose state is saved, with the status of the signal."""
        processes.wait()  # torchrun ends all as soon as one has ended, and the first may still be saving
        print(f"stopped by {self.received.name} after step {step}: the same command with --resume goes on", flush=True)
        raise SystemExit(128 + self.received)

    def _handle(self, number: int, _frame: object) -> None:
        if self.received is None:
            self.received = signal.Signals(number)
            self._at = time.monotonic()
            os.write(2, b"\nstopping after this step; once more to stop at once\n")
        elif time.monotonic() - self._at > _SECONDS_OF_ONE_SIGNAL:
            self.__exit__()
            os.kill(os.getpid(), number)
