"""Work shared out to processes, with the results in order."""
from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from transformer.files import InputError

# Linux processes begin as copies of this one: they start at once and share the memory of what is loaded already.
# Elsewhere that is not safe, and they import what they need anew.
_CONTEXT = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(function: Callable, tasks: Iterable, num_workers: int, start_worker: Callable | None = None,
             facts: tuple = ()) -> Iterator:
    """Results of `function` for each task, in the order of the tasks, computed by `num_workers` processes.

    start_worker(*facts) prepares a worker once; it keeps what it needs in globals of its module. One worker is this
    process itself. Few results wait for their turn, so that memory does not grow with the number of tasks. Close the
    iterator (contextlib.closing) where it may be left before its end: what is being computed is then given up. Raises
    InputError when a worker dies.

    Not an executor of concurrent.futures: its threads and this one share locks, and a Ctrl-C that came while this one
    took or gave back a lock ended, about once in a hundred times, in a wait for ever. Here are pipes alone.
    """
    if num_workers == 1:
        if start_worker:
            start_worker(*facts)
        yield from map(function, tasks)
        return
    numbered = enumerate(tasks)
    processes: list[BaseProcess] = []
    idle: list[Connection] = []
    busy: dict[Connection, int] = {}  # with the number of the task that each worker computes
    done: dict[int, tuple] = {}  # result, error, its traceback
    more, first = True, 0
    try:
        while more or busy or done:
            while more and len(busy) < num_workers and len(busy) + len(done) < 2 * num_workers:
                number, task = next(numbered, (None, None))
                more = number is not None
                if more:
                    connection = idle.pop() if idle else _begin_worker(processes, function, start_worker, facts)
                    busy[connection] = number
                    with _alive():
                        connection.send(task)
            for connection in wait(busy, 0 if first in done else None) if busy else []:
                with _alive():
                    done[busy.pop(connection)] = answer = connection.recv()
                if answer[1] is None:
                    idle.append(connection)
                else:
                    more = False
            if first in done:
                result, error, trace = done.pop(first)
                if error is not None:
                    raise error from _InWorker(trace)
                yield result
                first += 1
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
        for connection in [*idle, *busy]:
            connection.close()


@contextlib.contextmanager
def _alive() -> Iterator[None]:
    """Raises InputError where the worker at the other end of a pipe has died."""
    try:
        yield
    except (EOFError, ConnectionError):
        raise InputError("a worker process died, most likely for want of memory: use fewer workers") from None


class _InWorker(Exception):
    """The traceback of a worker, as the cause of what is raised here."""

    def __str__(self) -> str:
        return f"in a worker\n{self.args[0]}"


def _begin_worker(processes: list[BaseProcess], function: Callable, start_worker: Callable | None,
                  facts: tuple) -> Connection:
    """Start one more of `processes`; the end of its pipe that tasks go into and results come out of."""
    ours, theirs = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=_work, args=(theirs, function, start_worker, facts), daemon=True)
    process.start()
    processes.append(process)
    theirs.close()  # so that the worker's death is an end of file
    return ours


def _work(connection: Connection, function: Callable, start_worker: Callable | None, facts: tuple) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal, and the main one decides
    threading.Thread(target=_end_with_main, daemon=True).start()
    try:
        if start_worker:
            start_worker(*facts)
        while True:
            task = connection.recv()
            connection.send((function(task), None, None))
    except Exception as error:  # noqa: BLE001 (whatever it is: the main process raises it)
        connection.send((None, error, traceback.format_exc()))


def _end_with_main() -> None:
    """End this worker when the main process was killed: it would wait for work for ever."""
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
