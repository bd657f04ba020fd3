"""Signals that end a training run in good order."""
from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

import torch

from transformer.training.processes import Processes

_SECONDS_OF_ONE_SIGNAL = 2  # in which a scheduler and torchrun may both pass the same one on
_STEPS_APART = 16  # that several processes ask each other at most
_SECONDS_APART = 1.0


class StopSignals:
    """Inside a with statement, the first SIGTERM or SIGINT only sets `received`, so that the run can end after a step
    with a saved state; the second ends it at once."""

    def __init__(self, step: int = 0) -> None:
        """step: how many are done."""
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Callable | int | None] = {}
        self._ask_at = self._asked_at = step
        self._asked_when = time.monotonic()

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Inside, a signal ends the process at once, whatever it waits for: for long work after a saved state."""
        self.__exit__()
        if self.received:
            os.kill(os.getpid(), self.received)
        try:
            yield
        finally:
            self.__enter__()

    def agreed(self, processes: Processes, step: int, at_once: bool = False) -> bool:
        """Whether a signal has reached any of the processes: then all end for it, after this step.

        To be called by all, after each step, with the number of steps done. Several ask each other every 16th step or
        every second, whichever is sooner by the pace of the slowest since they last did, and with at_once; when, is the
        same in all.
        """
        if processes.world == 1:
            return self.received is not None
        if step < self._ask_at and not at_once:
            return False
        seconds = (time.monotonic() - self._asked_when) / max(step - self._asked_at, 1)
        answer = processes.smallest(torch.tensor([-(self.received or 0), -seconds], dtype=torch.float64))
        number, seconds = (-answer).tolist()
        self._ask_at = step + max(1, min(_STEPS_APART, int(_SECONDS_APART / max(seconds, 1e-9))))
        self._asked_at, self._asked_when = step, time.monotonic()
        if number:
            self.received = signal.Signals(int(number))
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
            os.write(2, b"\nstopping after a step; once more to stop at once\n")
        elif time.monotonic() - self._at > _SECONDS_OF_ONE_SIGNAL:
            self.__exit__()
            os.kill(os.getpid(), number)
