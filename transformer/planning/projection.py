"""From what a rehearsed command took to what the whole command will take."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from transformer.planning.steps import Work
from transformer.training.states import SHARE_OF_TIME

# Parts of a training script's time (see transformer.stopwatch) that grow with the data; all else is there once.
_GROWING = ("logits", "teacher", "steps", "evaluate", "save", "state")
_AUGMENTING = ("survey", "masked_lm", "rows")


@dataclass
class Measured:
    """What a rehearsed command took.

    wall: seconds of the process; seconds, times: of parts of it, see transformer.stopwatch. steps: optimizer steps in
    the part of that name. size: of the sample, as size_of() tells that of all; rows: examples that went through the
    parts logits, teacher and evaluate. reading: seconds of one core for a row of the files, or an instance. different:
    of augmentation, how many times as many different texts a row of the sample has as one of the whole file.
    memory_gb, gpu_gb: peaks. kept: bytes that stay whatever the data; growing: bytes that grow with them; states: bytes
    that are needed until the end. made_up: what was not there.
    """
    wall: float
    seconds: dict[str, float] = field(default_factory=dict)
    times: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    size: int = 1
    rows: dict[str, int] = field(default_factory=dict)
    reading: float = 0.0
    different: float = 1.0
    memory_gb: float = 0.0
    gpu_gb: float | None = None
    kept: float = 0.0
    growing: float = 0.0
    states: float = 0.0
    made_up: list[str] = field(default_factory=list)

    @property
    def seconds_per_step(self) -> float | None:
        """Of an optimizer step after the first; None where nothing is trained."""
        return self.seconds["steps"] / self.steps if self.steps else None


def size_of(work: Work) -> float:
    """How much a command reads: bytes of text (pregenerate), instances that are no arrays yet (general), else rows."""
    if work.kind == "pregenerate":
        return work.text_bytes
    if work.kind == "general":
        return work.unread
    return work.examples + (work.dev_examples if work.steps else 0)


def projected_seconds(measured: Measured, work: Work, cores: int) -> float:
    """Seconds that a command will take on this machine, by its own rehearsal or that of a command like it."""
    seconds = measured.seconds
    scale = size_of(work) / measured.size
    if work.kind == "pregenerate":
        return _grown(measured, ["making"], scale)
    if work.kind == "augment":
        texts = seconds["masked_lm"] * scale * (1 / measured.different - 1)
        return _grown(measured, _AUGMENTING, scale) + texts
    reading = measured.reading * max(0, size_of(work) - measured.size) / cores
    if work.kind == "evaluation":
        return _grown(measured, ["evaluate"], work.examples / measured.rows["evaluate"]) + reading
    total = measured.wall - sum(seconds.get(part, 0) for part in _GROWING) + reading
    total += measured.seconds_per_step * (work.steps - 1)
    for part, rows in (("logits", work.asked), ("teacher", work.dev_examples),
                       ("evaluate", work.dev_examples * work.evaluations)):
        if seconds.get(part):
            total += seconds[part] / measured.rows[part] * rows
    save, state = (seconds[part] / measured.times[part] if seconds.get(part) else 0.0 for part in ("save", "state"))
    total += save * work.expected_saves
    # at the logs, as long as that is cheap; without scores to choose by the model is saved with the state
    once = len(work.students) * (state + (save if work.kind in ("general", "intermediate") else 0))
    return total + min(once * work.logs, once + SHARE_OF_TIME * total)


def _grown(measured: Measured, parts: Sequence[str], scale: float) -> float:
    """The seconds of the whole process where some parts of it grow."""
    growing = sum(measured.seconds.get(part, 0) for part in parts)
    return measured.wall + (scale - 1) * growing


def projected_bytes(measured: Measured, work: Work) -> float:
    """Bytes on disk that a command will leave."""
    return measured.kept + measured.growing * size_of(work) / measured.size
