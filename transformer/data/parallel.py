"""Work shared out to processes, with the results in order."""
from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection

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
    """
    if num_workers == 1:
        if start_worker:
            start_worker(*facts)
        yield from map(function, tasks)
        return
    told_to_end, tell_to_end = _CONTEXT.Pipe(duplex=False)
    pool = ProcessPoolExecutor(num_workers, _CONTEXT, _prepare_worker, (told_to_end, start_worker, facts))
    waiting: deque = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(function, task))
            if len(waiting) >= 2 * num_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BaseException as error:
        tell_to_end.send(None)
        if isinstance(error, BrokenProcessPool):
            raise InputError("a worker process died, most likely for want of memory: use fewer workers") from None
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        told_to_end.close()
        tell_to_end.close()


def _prepare_worker(told_to_end: Connection, start_worker: Callable | None, facts: tuple) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal, and the main one decides
    threading.Thread(target=_end_worker, args=(told_to_end,), daemon=True).start()
    if start_worker:
        start_worker(*facts)


def _end_worker(told_to_end: Connection) -> None:
    """End this worker when the main process says so, and when that was killed: it would wait for work for ever."""
    multiprocessing.connection.wait([told_to_end, multiprocessing.parent_process().sentinel])
    os._exit(1)
