"""What every benchmark needs: clocks, medians of runs, the machine it ran on, tables, memory of a tree of processes.

Importing it makes the kit importable from a benchmark that is run as `python benchmarks/bench_X.py`.
"""
from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.metadata
import os
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from transformer.data.parallel import available_cores


def parse_with_clock(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """The command line, with --busy added; its `clock()` tells the seconds to measure by."""
    parser.add_argument("--busy", action="store_true",
                        help="one thread, by the processor's time and not by the clock: for a machine with other work")
    args = parser.parse_args(argv)
    args.clock = time.perf_counter
    if args.busy:
        import torch  # most benchmarks do without
        torch.set_num_threads(1)
        args.clock = time.process_time
    return args


def seconds(function: Callable[[], Any]) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def busy_seconds(function: Callable[[], Any]) -> float:
    """Seconds of the processor that one call takes, here and in the processes that it starts and awaits."""
    before = os.times()
    function()
    return sum(os.times()[:4]) - sum(before[:4])


def median_seconds(function: Callable[[], Any], runs: int, warm_up: int = 0) -> float:
    """Median of the seconds that `runs` calls take, after `warm_up` calls that do not count."""
    for _ in range(warm_up):
        function()
    return statistics.median(seconds(function) for _ in range(runs))


def seconds_by_workers(encode: Callable[[int], Any], cache: Path, clock: Callable[[Callable[[], Any]], float],
                       runs: int) -> Iterator[tuple[int, float]]:
    """(workers, median of what `clock` tells of so many calls of encode(workers)), each into an empty folder `cache`,
    which is gone afterwards."""
    for workers in (1, 2):
        took = []
        for _ in range(runs):
            shutil.rmtree(cache, ignore_errors=True)
            took.append(clock(functools.partial(encode, workers)))
        shutil.rmtree(cache)
        yield workers, statistics.median(took)


def machine(*packages: str) -> str:
    """One line: processor, cores that may be used, Python and the versions of `packages`."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):  # Linux
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    versions = [f"{package} {importlib.metadata.version(package)}" for package in packages]
    return ", ".join([f"{processor}, {available_cores()} cores", f"Python {platform.python_version()}", *versions])


def print_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a Markdown table; the columns after the first are numbers, set to the right."""
    table = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(3, *map(len, column)) for column in zip(*table)]
    table.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    for first, *others in table:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:]))]
        print(f"| {' | '.join(cells)} |", flush=True)


def tree_memory(process: int) -> int:
    """Bytes of memory that a process and all below it hold now, shared pages counted once (PSS). Linux only."""
    total = 0
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):  # it has ended
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
        for thread in Path(f"/proc/{process}/task").iterdir():
            for child in (thread / "children").read_text().split():
                total += tree_memory(int(child))
    return total


class PeakMemory:
    """Watches tree_memory() of a process (this one by default) inside a with statement; `peak` is the largest seen."""

    def __init__(self, process: int | None = None, interval: float = 0.05):
        self.peak = 0
        self._process = process or os.getpid()
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while True:
            self.peak = max(self.peak, tree_memory(self._process))
            if self._stop.wait(self._interval):
                return

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


class Run(NamedTuple):
    """A command that was measured: wall-clock seconds, and the peak memory of its processes in bytes."""
    seconds: float
    peak_memory: int


def run(command: Sequence[Any], **options: Any) -> Run:
    """Run a command, its output thrown away, with `options` for subprocess.Popen. CalledProcessError if it fails."""
    command = [str(part) for part in command]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **options) as process:
        with PeakMemory(process.pid) as memory:
            _, errors = process.communicate()
        took = time.perf_counter() - start
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, stderr=errors)
    return Run(took, memory.peak)


def memory_of(code: str, *arguments: Any) -> int:
    """The peak memory in bytes of a Python that runs `code`, to which the kit is importable, with these arguments."""
    return run([sys.executable, "-c", code, *arguments], cwd=ROOT,
               env={**os.environ, "PYTHONPATH": str(ROOT)}).peak_memory
