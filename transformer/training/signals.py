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
