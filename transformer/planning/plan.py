"""The plan of a run: a table of its steps with what they take on this machine, and what is missing for them."""
from __future__ import annotations

import functools
import importlib.util
import itertools
import math
import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from transformer.data.parallel import available_cores
from transformer.files import InputError, read_json
from transformer.planning.costs import LAUNCH_SECONDS, Cost, Device, price, product_rate
from transformer.planning.printing import aligned, hours_text, print_assumed
from transformer.planning.rehearsal import RESULT, machine
from transformer.planning.steps import Step, Work, bytes_in, is_among
from transformer.training.processes import PRECISIONS, Processes, set_precision

_PROCESS_BYTES = 0.6e9  # of a training process on a CPU, beside what the model takes: Python with torch
_HEADER = ("step", "state", "examples", "steps", "hours", "{} GB", "disk GB", "")


@functools.cache
def this_device(no_cuda: bool = False) -> Device:
    """What this machine computes on: its first GPU, or its CPU where there is none or with no_cuda. How fast it is, is
    measured for each precision when that is asked for first."""
    if torch.cuda.is_available() and not no_cuda:
        device = torch.device("cuda", 0)
        facts = torch.cuda.get_device_properties(device)
        name, memory = facts.name, facts.total_memory
    else:
        device = torch.device("cpu")
        name = f"CPU ({platform.machine()}, {available_cores()} cores)"
        memory = 1e9 * machine()["memory_gb"]
    alone = Processes(0, 1, device)

    @functools.cache
    def rate(precision: str) -> float:
        set_precision(precision, alone)
        return product_rate(PRECISIONS[precision] or torch.float32, device=device)

    return Device(name, device.type, memory, set_precision("auto", alone) == "bf16", rate)


@dataclass
class Row:
    """A step in the table: its commands, what they take together, and whether that was measured by a rehearsal."""
    name: str
    works: list[Work]
    costs: list[Cost] = field(default_factory=list)
    hours: float | None = 0.0
    memory: float = 0.0
    measured: bool = False

    @property
    def state(self) -> str:
        """done, begun or open."""
        return self.works[0].step.state

    @property
    def disk(self) -> float:
        """Bytes that are still to come and will stay."""
        return sum(map(to_come, self.works, self.costs))

    def cells(self) -> tuple[str, ...]:
        """Texts of the columns."""
        examples, steps = (sum(getattr(work, name) for work in self.works) for name in ("examples", "steps"))
        left = self.state != "done"
        hours = hours_text(self.hours) if left and any(work.step.argv for work in self.works) else ""
        return (self.name, self.state, f"{examples:,}" if examples else "", f"{steps:,}" if steps else "", hours,
                f"{self.memory / 1e9:.1f}" if left and self.memory else "",
                f"{self.disk / 1e9:.1f}" if left and self.disk >= 5e7 else "", "measured" if self.measured else "")


def rows_of(works: Sequence[Work], measured: dict[str, Any] | None = None) -> list[Row]:
    """The rows of the table. measured: what rehearsed() gives."""
    rows = []
    for name, group in itertools.groupby(works, lambda work: work.step.name):
        row = Row(name, list(group))
        rows.append(row)
        if row.state == "done":
            continue
        row.costs = [price(work, this_device(getattr(work.args, "no_cuda", False)), available_cores())
                     for work in row.works]
        row.hours = None if any(cost.hours is None for cost in row.costs) else sum(cost.hours for cost in row.costs)
        row.memory = max(cost.memory for cost in row.costs)
        on_gpu = this_device().type == "cuda"
        if row.memory and not on_gpu:
            row.memory += _PROCESS_BYTES
        known = (measured or {}).get(name)
        if known and known["command"] == row.works[-1].step.command:
            row.hours, row.measured = known["hours"], True
            row.memory = 1e9 * (known.get("gpu_gb" if on_gpu else "memory_gb") or row.memory / 1e9)
    return rows


def rehearsed() -> dict[str, Any]:
    """The steps in results/rehearsal.json that were measured, where it was made on a machine like this."""
    if not RESULT.is_file():
        return {}
    found, here = read_json(RESULT), machine()
    try:
        if any(found["machine"][fact] != here[fact] for fact in ("gpus", "cores")):
            print(f"{RESULT} was made on another machine: left aside")
            return {}
        return {name: {**facts, "command": Step(name, "", tuple(facts["command"])).command,
                       "hours": float(facts["hours"])} for name, facts in found["steps"].items() if "hours" in facts}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(f"{RESULT} is not what a rehearsal writes: delete it, or rehearse again") from None


def lacks(rows: Sequence[Row], disks: Sequence[Disk], jobs: int) -> list[tuple[str, str]]:
    """(step, what it lacks and what to do) for all that the run would stop at, in the order of the steps; of steps that
    lack the same the first."""
    found = []
    device = this_device()
    for row in rows:
        if row.state == "done":
            continue
        for work in row.works:
            if work.refused:
                found.append((row.name, f"the command is refused: {work.refused}"))
            for path in work.missing:
                maker = next((other.name for other in reversed(rows)
                              if any(is_among(path, one.outputs) for one in other.works)), None)
                found.append((row.name, f"{path}: " + (f"step {maker} is done, and it is gone: --from {maker} makes it "
                                                       "again" if maker else "it is not there, and no step makes it")))
            if work.step.script.startswith("-m ") and not importlib.util.find_spec(work.step.argv[1].split(".")[0]):
                found.append((row.name, f"the package {work.step.argv[1].split('.')[0]}: install requirements.txt"))
        if row.memory > device.memory:
            found.append((row.name, f"memory: it takes about {row.memory / 1e9:.1f} GB and {device.name} has "
                                    f"{device.memory / 1e9:.1f}: raise --gradient_accumulation_steps"))
    sharing = math.ceil(jobs / max(1, torch.cuda.device_count()))  # that have one memory
    for stage in stages_left(rows):
        memories = sorted(row.memory for row in stage)[-sharing:]
        if max(memories) <= device.memory < sum(memories):
            found.append((stage[0].name, f"memory: {len(memories)} such steps side by side take about "
                          f"{sum(memories) / 1e9:.1f} GB and {device.name} has {device.memory / 1e9:.1f}: lower JOBS"))
    found += [
        (disk.full_at or rows[-1].name, f"about {(disk.needed(jobs) - disk.free) / 1e9:,.0f} GB of disk: make room, or "
         "make data or models a link to another disk") for disk in disks if disk.needed(jobs) > disk.free]
    order = {row.name: number for number, row in enumerate(rows)}
    first: dict[str, str] = {}
    for step, what in sorted(found, key=lambda lack: order[lack[0]]):
        first.setdefault(what, step)
    return [(step, what) for what, step in first.items()]


@dataclass
class Disk:
    """What the steps need of one disk, in bytes: what stays, what each takes beside that while it runs. place: a folder
    that they write to; full_at: the step for which there is no room, done one after another."""
    place: Path
    free: int
    stays: float = 0.0
    passing: list[float] = field(default_factory=list)
    full_at: str = ""

    def needed(self, jobs: int) -> float:
        """With the largest `jobs` steps side by side."""
        return self.stays + sum(sorted(self.passing)[-jobs:])


def disks_of(rows: Sequence[Row]) -> list[Disk]:
    """The disks that the steps write to."""
    disks: dict[int, Disk] = {}
    for row in rows:
        for work, cost in zip(row.works, row.costs):
            output = Path(*work.outputs[:1]).absolute()
            place = next(path for path in (output, *output.parents) if path.exists())
            folder = place if place.is_dir() and place != output else place.parent
            disk = disks.setdefault(place.stat().st_dev, Disk(folder, shutil.disk_usage(place).free))
            disk.stays += to_come(work, cost)
            disk.passing.append(cost.passing)
            if disk.stays + cost.passing > disk.free and not disk.full_at:
                disk.full_at = row.name
    return list(disks.values())


def to_come(work: Work, cost: Cost) -> float:
    """Bytes that a command will leave, less those that are there."""
    return max(0.0, cost.disk - _bytes_of(work.outputs))


def _bytes_of(outputs: Sequence[str]) -> int:
    """Bytes of the files that are there already of what a command makes."""
    return sum(bytes_in(path) for output in outputs
               for path in (Path().glob(output) if not Path(output).is_absolute() else [Path(output)]))


def stages_left(rows: Sequence[Row]) -> list[list[Row]]:
    """The steps of each stage that are not done."""
    stages: dict[str, list[Row]] = {}
    for row in rows:
        if row.state != "done":
            stages.setdefault(row.works[0].step.stage, []).append(row)
    return list(stages.values())


def hours_left(rows: Sequence[Row], jobs: int) -> float:
    """Hours of the steps that are not done; with several GPUs those of one stage side by side, `jobs` at most. Without
    one they share the cores that their estimates took all of; but with OMP_NUM_THREADS each has those threads alone."""
    places = torch.cuda.device_count()
    if not places and os.environ.get("OMP_NUM_THREADS"):
        places = available_cores() // torch.get_num_threads()
    side_by_side = max(1, min(jobs, places))
    hours = [[row.hours or 0.0 for row in stage] for stage in stages_left(rows)]
    return sum(max(*stage, math.fsum(stage) / side_by_side) for stage in hours)


def print_plan(works: Sequence[Work], jobs: int = 1) -> None:
    """Print the table, totals, what is missing and what is assumed. InputError where the run would stop for something
    that is missing. Nothing is written."""
    rows = rows_of(works, rehearsed())
    device = this_device()
    launching = f", and {LAUNCH_SECONDS * 1e6:.0f} microseconds for each operation launched" * (device.type == "cuda")
    print(f"On {device.name}, {device.memory / 1e9:.0f} GB. Estimates: hours by torch.mm, measured now, of which "
          f"{device.share:.0%} are reached{launching}; a step that was begun counts in full; ? is not estimated.\n")
    header = [cell.format("GPU" if device.type == "cuda" else "RAM") for cell in _HEADER]
    print(aligned([header, *(row.cells() for row in rows)], names=2))
    print(f"\nhours left: about {hours_text(hours_left(rows, jobs))}, with JOBS={jobs}, without those marked ?")
    disks = disks_of(rows)
    for disk in disks:
        print(f"disk: about {disk.needed(jobs) / 1e9:,.0f} GB to come, {disk.free / 1e9:,.0f} GB free (the disk of "
              f"{disk.place})")
    found = lacks(rows, disks, jobs)
    if device.type != "cuda":
        print("missing: a GPU that torch can use; the run goes on without one, in the hours above")
    for step, what in found:
        print(f"missing: {step}: {what}")
    print_assumed([work for work in works if work.step.state != "done"])
    if found:
        raise InputError(f"the run would stop at {found[0][0]}: what is missing stands above")
