"""Going on after a stop: the full state of a training run on disk, and what it has to agree with."""
from __future__ import annotations

import contextlib
import hashlib
import io
import pickle
import re
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch

from transformer.config import CONFIG_NAME
from transformer.files import InputError, atomic_write, remove_abandoned, sha256_of
from transformer.sentencepieces import SPIECE_NAME
from transformer.training.processes import Processes
from transformer.weights import weight_files, write_pickle

_KEPT = 2               # states; the one before is there in case that the last is damaged
_BAD = ".bad"           # comes after the name of a damaged one
_NONE = -1              # in place of a step where there is no state
SHARE_OF_TIME = 0.05    # that saving at evaluations may take

# Settings that do not change the result of a run: another value is no reason to refuse --resume.
_FREE_SETTINGS = {"output_dir", "overwrite_output_dir", "resume", "save_steps", "keep_checkpoints", "eval_batch_size",
                  "no_cuda", "local_rank", "reduce_memory", "cache_dir", "skip_teacher_check", "variant",
                  "deterministic", "fp16",  # precision says what fp16 says
                  "predict_file", "tensorboard"}

# Settings that came later, and what they say of a run that was stopped before they were there.
_AS_BEFORE = {"attention_loss": ("scores", "auto"), "fit_per_layer": ("False",)}


def result_settings(settings: dict[str, Any], **facts: Any) -> dict[str, str]:
    """What the result of a run follows from: its settings, less those that cannot change it, and `facts`.

    A path is the same with ./ before it and a slash after it.
    """
    kept = {name: str(value) for name, value in {**settings, **facts}.items() if name not in _FREE_SETTINGS}
    return {name: str(Path(value)) if "/" in value else value for name, value in kept.items()}


def files_sha256(folder: str | Path, weights: bool = True) -> str:
    """Fingerprint of a model folder that a run starts from: of config.json, spiece.model where there is one and, with
    `weights`, the files of weights. Of vocab.txt the data tell.

    Of the files, since random weights of the same seed differ in their last bits from processor to processor.
    """
    pieces = Path(folder) / SPIECE_NAME
    digests = [sha256_of(path) for path in (Path(folder) / CONFIG_NAME, *([pieces] if pieces.is_file() else []),
                                            *(weight_files(folder) if weights else ()))]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


class Allowance:
    """The share of its time that a training may spend on states, and the models that are written with them, at logs:
    SHARE_OF_TIME of that since this was made."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._spent = 0.0  # seconds

    @property
    def is_left(self) -> bool:
        """Whether saving has taken no more than its share so far."""
        return self._spent <= SHARE_OF_TIME * (time.monotonic() - self._started)

    @contextlib.contextmanager
    def spending(self) -> Iterator[None]:
        """The time of the block is spent on saving."""
        started = time.monotonic()
        yield
        self._spent += time.monotonic() - started


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
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_abandoned(self.folder)  # by a run that was killed while it saved

    def restore(self, resume: bool) -> dict[str, Any] | None:
        """With `resume` the newest state that is whole, loaded into the parts: what is returned is the rest of it, and
        None where there are no states, or without `resume`. Damaged ones after it are renamed, with a warning.

        The first process chooses, and all load the same. Raises InputError naming the first setting that differs from
        those of the stopped run, where no state is whole, and where the system refuses one, which says nothing of the
        file: nothing is renamed or deleted then.
        """
        if not resume:
            return None
        step, state, error = _NONE, None, None
        if self.processes.is_first:
            try:
                step, state = self._newest()
            except InputError as refusal:
                error = refusal
            except OSError as failure:
                error = InputError(f"--resume: {self.folder} cannot be read ({_cause(failure)})")
        self.processes.end_together(error)
        step = self.processes.from_first(step)
        if step == _NONE:
            return None
        path = _path(self.folder, step)
        try:
            state = state or _read(path)
            for name, part in self.parts.items():
                part.load_state_dict(state.pop(name))  # nothing holds it any longer, in whatever memory it is
        except InputError as refusal:
            error = InputError(f"process {self.processes.rank}: {refusal}")
        except (RuntimeError, ValueError, KeyError, TypeError, MemoryError) as failure:
            error = InputError(f"{path} cannot be loaded ({_cause(failure)}): nothing was deleted")
        self.processes.end_together(error)
        print(f"going on from {path}", flush=True)
        return state

    def save(self, step: int, **values: Any) -> None:
        """Write a state, read it back, and only then give it its name; then delete the oldest beyond two.

        All processes have to call it. values: tensors, numbers, strings, and lists and dicts of them.
        """
        state = {name: part.state_dict() for name, part in self.parts.items()}
        if not self.processes.is_first:
            return
        with atomic_write(_path(self.folder, step), "wb") as handle:
            write_pickle({"step": step, "settings": self.settings, **values, **state}, handle)
            handle.flush()
            with open(handle.name, "rb") as written:
                _require_whole(written, _path(self.folder, step))
        for path in _paths(self.folder)[:-_KEPT]:
            path.unlink()

    @property
    def last(self) -> Path | None:
        """The newest state."""
        return max(_paths(self.folder), default=None, key=_step)

    def clear(self) -> None:
        """Delete all states but damaged ones: the run is finished."""
        if self.processes.is_first:
            for path in _paths(self.folder):
                path.unlink()

    def _newest(self) -> tuple[int, dict[str, Any] | None]:
        """Step and content of the newest state that is whole; the damaged ones after it get another name."""
        damaged: list[tuple[Path, _Damaged]] = []
        for path in reversed(_paths(self.folder)):
            try:
                state = _read(path)
                self._compare(state["settings"])
                if missing := self.parts.keys() - state.keys():
                    raise _Damaged(path, f"it holds no {min(missing)}")
            except _Damaged as error:
                damaged.append((path, error))
                continue
            for later, error in damaged:
                bad = later.with_name(later.name + _BAD)
                print(f"warning: {error}: taking the one before, and keeping it as {bad.name}", flush=True)
                later.replace(bad)
            return _step(path), state
        renamed = _paths(self.folder, _BAD)  # without them a later run would start anew, unasked
        if damaged or renamed:
            reason = damaged[0][1] if damaged else f"{renamed[-1]} is damaged"
            raise InputError(f"--resume: {reason}, and no other state can be read: nothing was deleted; to start anew, "
                             "give --overwrite_output_dir in place of --resume")
        return _NONE, None

    def _compare(self, settings: dict[str, Any]) -> None:
        settings = result_settings(settings)  # those of an earlier version of the kit may hold more
        for name in {**self.settings, **settings}:
            before, now = settings.get(name), self.settings.get(name)
            if before is None and now in _AS_BEFORE.get(name, ()):
                continue
            if before != now:
                raise InputError(f"--resume: {name} was {before} and is {now} now, which changes the result: give "
                                 f"it as before, or start anew in another --output_dir")


def clear_states(folder: str | Path) -> None:
    """Delete the states of all runs in a folder, damaged ones as well."""
    for path in [*_paths(folder), *_paths(folder, _BAD)]:
        path.unlink()


def numbered(folder: str | Path, before: str, after: str) -> list[Path]:
    """The files of a folder whose names are a number between `before` and `after`, from the lowest number on."""
    name = re.compile(f"{re.escape(before)}([0-9]+){re.escape(after)}")
    found = [(int(match[1]), path) for path in Path(folder).iterdir() if (match := name.fullmatch(path.name))]
    return [path for _, path in sorted(found)]  # glob() would take a folder that cannot be read for an empty one


def _path(folder: Path, step: int) -> Path:
    return folder / f"state_{step}.pt"


def _paths(folder: str | Path, end: str = "") -> list[Path]:
    """States in a folder from the oldest to the newest; with the end _BAD the damaged ones."""
    return numbered(folder, "state_", f".pt{end}")


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("state_"))


class _Damaged(InputError):
    """A state is not what was written."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path} cannot be read ({reason})")


def _read(path: Path) -> dict[str, Any]:
    """A state, on the CPU. Raises _Damaged, and InputError where it is the system that refuses the file."""
    try:
        content = io.BytesIO(path.read_bytes())  # torch would make the same error of a failing disk and a damaged file
        _require_whole(content, path)
        content.seek(0)
        state = torch.load(content, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # which advises to run what is in the file
        raise _Damaged(path, "it holds something else than a state") from None
    except (EOFError, ValueError) as error:
        raise _Damaged(path, _cause(error)) from None
    except (OSError, MemoryError, RuntimeError) as error:
        if "PytorchStreamReader" in str(error):
            raise _Damaged(path, _cause(error)) from None
        raise InputError(f"{path} cannot be read ({_cause(error)}): nothing was deleted, go on with --resume when it "
                         "can") from None
    if not isinstance(state, dict) or type(state.get("step")) is not int or \
            not isinstance(state.get("settings"), dict):
        raise _Damaged(path, "it holds something else than a state")
    return state


def _require_whole(file: IO[bytes], path: Path) -> None:
    """_Damaged unless every part of a state has the sum that was written with it: torch compares none."""
    try:
        with zipfile.ZipFile(file) as archive:
            part = archive.testzip()
    except (OSError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001  damage can make the reader stumble over anything
        raise _Damaged(path, _cause(error)) from None
    if part:
        raise _Damaged(path, f"{part} has another sum")


def _cause(error: Exception) -> str:
    """An error in one line, without its number."""
    if isinstance(error, MemoryError):
        return "not enough memory"
    text = error.strerror if isinstance(error, OSError) else str(error)
    return (text or type(error).__name__).splitlines()[0]
