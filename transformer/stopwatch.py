"""Where the time of a run goes: what run.json tells as seconds_of and times_of. Imports no torch."""
from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator

OTHER = "other"  # what no part is measured of: starting, loading models, drawing


class Stopwatch:
    """Shares out the time of this process among parts with names. One part is on at a time: a part that begins within
    another stops that one until it ends, so that the parts add up to the time that has passed."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._part, self._since = OTHER, time.perf_counter()
        self._seconds: Counter[str] = Counter()
        self._times: Counter[str] = Counter()

    def switch(self, part: str) -> str:
        """From now on the time is that of `part`; the part that it was until now."""
        now, before = time.perf_counter(), self._part
        self._seconds[before] += now - self._since
        self._part, self._since = part, now
        return before

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """The time of a block, or of each call of a function that this decorates, is that of a part."""
        before = self.switch(name)
        self._times[name] += 1
        try:
            yield
        finally:
            self.switch(before)

    def facts(self) -> dict[str, dict[str, float]]:
        """For a record: seconds_of each part until now, and times_of those that were begun. Then it begins anew, for
        another run in this process."""
        self.switch(self._part)
        facts = {"seconds_of": {part: round(seconds, 3) for part, seconds in self._seconds.items()},
                 "times_of": dict(self._times)}
        self._begin()
        return facts


STOPWATCH = Stopwatch()  # of this process
