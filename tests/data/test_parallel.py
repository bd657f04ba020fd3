"""Work shared out to processes."""
import contextlib
import multiprocessing
import os
import random
import signal
import time

import pytest

from transformer.data.parallel import available_cores, in_order
from transformer.files import InputError

PREPARED = []


def prepare(*facts):
    PREPARED.append(facts)


def unbroken(task):
    """Earlier tasks take longer than later ones."""
    time.sleep(0.02 * (3 - task % 4))
    return task * task, os.getpid(), list(PREPARED)


def fail_at_three(task):
    if task == 3:
        raise InputError("line 3 is wrong")
    if task == 4:
        raise KeyError("never seen")
    time.sleep(0.05 if task == 2 else 0)
    return task


def die_at_three(task):
    if task == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def large(task):
    return len(task) * b"x"


def test_cores_that_this_process_may_use(monkeypatch):
    """Those of a container or of taskset; all where the system does not tell, and one where nothing does."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 60}, raising=False)
    assert available_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert available_cores() == 64
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cores() == 1


@pytest.mark.parametrize("workers", [2, 5, 40])
def test_results_in_order_of_the_tasks(workers):
    results = list(in_order(unbroken, range(17), workers, prepare, ("a", 1)))
    assert [square for square, _, _ in results] == [number * number for number in range(17)]
    assert 2 <= len({process for _, process, _ in results} - {os.getpid()}) <= min(workers, 17)
    assert all(prepared == [("a", 1)] for _, _, prepared in results) and not PREPARED
    assert list(in_order(unbroken, [], workers)) == []
    assert not multiprocessing.active_children()


def test_one_worker_is_this_process():
    try:
        assert list(in_order(unbroken, [2], 1, prepare, (5,))) == [(4, os.getpid(), [(5,)])]
    finally:
        PREPARED.clear()


def test_results_that_wait_are_few():
    given = []

    def tasks():
        for task in range(1000):
            given.append(task)
            yield task

    with contextlib.closing(in_order(unbroken, tasks(), 3)) as results:
        for taken in range(20):
            next(results)
            time.sleep(0.03)  # the workers are faster than who takes the results
            assert len(given) <= taken + 1 + 2 * 3
    assert not multiprocessing.active_children()


def test_messages_larger_than_a_pipe():
    tasks = [bytes(size) for size in (1 << 22, 1, 1 << 21, 1 << 23, 0, 1 << 22)]
    assert [len(result) for result in in_order(large, tasks, 2)] == list(map(len, tasks))


def test_an_error_comes_in_its_turn_and_says_where_it_was():
    taken = []
    with pytest.raises(InputError, match="line 3 is wrong") as error:
        taken.extend(in_order(fail_at_three, range(100), 2))
    assert taken == [0, 1, 2] and "in fail_at_three" in str(error.value.__cause__)
    assert not multiprocessing.active_children()


def test_a_worker_that_dies():
    """As the kernel ends one where memory is short."""
    with pytest.raises(InputError, match="a worker process died.*use fewer workers"):
        list(in_order(die_at_three, range(100), 2))
    assert not multiprocessing.active_children()


def test_interrupted_at_any_moment():
    """It ends, and at once, wherever a Ctrl-C meets this process: no lock of anybody's stays taken."""
    def interrupt(*_):
        raise KeyboardInterrupt

    previous, generator, interrupted = signal.signal(signal.SIGALRM, interrupt), random.Random(0), 0
    try:
        for _ in range(60):
            try:
                with contextlib.closing(in_order(abs, range(50_000), 2)) as results:
                    for expected, result in enumerate(results):
                        assert result == expected
                        if expected == 20:  # by now all workers have begun
                            signal.setitimer(signal.ITIMER_REAL, generator.uniform(0.0001, 0.01))
            except KeyboardInterrupt:
                interrupted += 1
            assert not multiprocessing.active_children()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert interrupted > 50  # Python itself swallows one that meets it in the end of an object
