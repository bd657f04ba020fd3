"""Training runs: processes and their devices, precision, seeds, batches, losses."""
from __future__ import annotations

import contextlib
import os
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from transformer.config import BertConfig
from transformer.files import InputError


@dataclass(frozen=True)
class Processes:
    """This process among all that train together: one without torchrun, several (on one or more machines) with it.

    rank: number of this process, 0 the one that writes; world: how many there are; device: what this one computes on.
    """
    rank: int
    world: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def send(self, tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
        """Tensors on the device; the host does not wait until they are there."""
        if self.device.type == "cuda":
            return tuple(tensor.pin_memory().to(self.device, non_blocking=True) for tensor in tensors)
        return tuple(tensors)

    def total(self, values: Tensor) -> Tensor:
        """Sum of `values` over all processes, in place."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def smallest(self, values: Tensor) -> Tensor:
        """The smallest of `values` of all processes, element by element, in place."""
        if self.world > 1:
            dist.all_reduce(values, dist.ReduceOp.MIN)
        return values

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in any process."""
        return bool(self.total(torch.tensor(int(flag))))

    def wait(self) -> None:
        """Until all processes are here."""
        self.any(False)

    def end_together(self, error: Exception | None) -> None:
        """Where any process has an error all end: the first of those that have one raises it, so that it is printed
        once, and the others end with status 2."""
        speaker = int(self.smallest(torch.tensor(self.rank if error else self.world)))
        if speaker == self.rank:
            raise error
        if speaker < self.world:
            raise SystemExit(2)

    def in_turn(self, work: Callable[[], None]) -> None:
        """Call `work` in the first process and, when that is done, in the others; where it fails (InputError, OSError)
        all end together."""
        for first in (True, False):
            error = None
            if self.is_first == first:
                try:
                    work()
                except (InputError, OSError) as failure:
                    error = failure
            self.end_together(error)

    def synchronised(self, wrapped: nn.Module, last: bool) -> contextlib.AbstractContextManager:
        """Around forward and backward of one piece of a batch: gradients are averaged after the last one only."""
        return wrapped.no_sync() if self.world > 1 and not last else contextlib.nullcontext()

    def wrap(self, student: nn.Module) -> nn.Module:
        """The student as it is trained: with gradients averaged over the processes. All its trainable parameters have
        to take part in every loss (see optimization.freeze_unused)."""
        return DistributedDataParallel(student) if self.world > 1 else student


def join_processes(no_cuda: bool = False, local_rank: int = -1) -> Processes:
    """This process, with its device, after joining those that torchrun started; the first alone prints to stdout.

    The device is the CUDA device of the process's number on its machine (or local_rank, without torchrun), the CPU
    where there is none or with no_cuda. Raises InputError where there is no GPU of that number.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        if "LOCAL_RANK" not in os.environ:
            raise InputError(f"WORLD_SIZE is {world} and LOCAL_RANK is not set: start several processes with torchrun")
        local_rank = int(os.environ["LOCAL_RANK"])
    device = torch.device("cpu")
    if torch.cuda.is_available() and not no_cuda:
        if not -1 <= local_rank < torch.cuda.device_count():
            raise InputError(f"GPU {local_rank} was asked for and this machine has {torch.cuda.device_count()}: start "
                             "as many processes as there are GPUs")
        device = torch.device("cuda", max(local_rank, 0))
        torch.cuda.set_device(device)
    if world == 1:
        return Processes(0, 1, device)
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
                                timeout=timedelta(days=7))  # one may wait long for arrays that another run makes
    processes = Processes(dist.get_rank(), world, device)
    if not processes.is_first:
        sys.stdout = open(os.devnull, "w")
    return processes


PRECISIONS = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def set_precision(precision: str, device: torch.device) -> None:
    """Make fp32 matrix products exact, or TensorFloat-32 with tf32. InputError where the device lacks the precision."""
    if precision in ("tf32", "fp16") and device.type != "cuda":
        raise InputError(f"--precision {precision} needs a GPU and there is none (or --no_cuda): take fp32 or bf16")
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")


def mixed(precision: str, device: torch.device) -> torch.autocast:
    """Context of a student's forward pass: its matrix products in 16 bits with bf16 and fp16."""
    return torch.autocast(device.type, PRECISIONS[precision], enabled=PRECISIONS[precision] is not None)


def freeze(teacher: nn.Module, precision: str) -> None:
    """Make a teacher's weights constants, of 16 bits with bf16 and fp16."""
    teacher.requires_grad_(False)
    if PRECISIONS[precision]:
        teacher.to(PRECISIONS[precision])


def seed_step(seed: int, step: int, piece: int) -> None:
    """Seed torch's generators for one forward pass: dropout follows from the seed, the step and which piece of its
    batch it is alone, so that a run can go on from any step, and with other processes."""
    torch.manual_seed(int(np.random.SeedSequence((seed, step, piece)).generate_state(1, np.uint64)[0] >> 1))


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's generators (all devices)."""
    random.seed(seed)
    np.random.seed(seed % (1 << 32))
    torch.manual_seed(seed)


def shuffled_batches(count: int, batch_size: int, seed: int, epoch: int, start: int = 0) -> Iterator[np.ndarray]:
    """Index arrays [batch_size] over a permutation of `count` examples set by (seed, epoch), from batch `start` on.

    uint32, int64 where the examples are too many for it. The incomplete last batch is dropped, as published.
    """
    order = np.arange(count, dtype=np.uint32 if count < 1 << 32 else np.int64)
    np.random.default_rng((seed, epoch)).shuffle(order)
    for begin in range(start * batch_size, count - batch_size + 1, batch_size):
        yield order[begin:begin + batch_size]


def micro_batch_size(train_batch_size: int, accumulation: int, world: int = 1) -> int:
    """Sequences of one forward pass: train_batch_size is the total over accumulation and processes.

    Raises InputError if that is not a whole number.
    """
    if train_batch_size % (accumulation * world):
        raise InputError(f"--train_batch_size {train_batch_size} is no multiple of --gradient_accumulation_steps "
                         f"{accumulation}" + f" x {world} processes" * (world > 1))
    return train_batch_size // (accumulation * world)


def pieces(indices: np.ndarray, accumulation: int, processes: Processes) -> list[tuple[int, np.ndarray]]:
    """What this process has to do of a batch: (number of the piece, its indices), `accumulation` of them."""
    every = list(enumerate(np.split(indices, accumulation * processes.world)))
    return every[processes.rank::processes.world]


def steps_per_epoch(count: int, train_batch_size: int, what: str) -> int:
    """Optimizer steps in one pass over `count` examples; InputError where they do not fill one batch."""
    if count < train_batch_size:
        raise InputError(f"{what} holds {count} examples, not enough for one batch of {train_batch_size}: "
                         "lower --train_batch_size")
    return count // train_batch_size


def count_steps(per_epoch: list[int], num_train_epochs: float) -> int:
    """Optimizer steps of training epochs with `per_epoch` steps each, the last one in part for 2.5 epochs.

    Raises InputError where that is none.
    """
    steps = int(sum(count * min(1.0, num_train_epochs - epoch) for epoch, count in enumerate(per_epoch)))
    if steps == 0:
        raise InputError(f"--num_train_epochs {num_train_epochs:g} is less than one step: raise it")
    return steps


def batch_at(step: int, counts: Sequence[int], batch_size: int, seed: int) -> np.ndarray:
    """Indices of the batch of optimizer step `step`, from 0, where epoch e goes over counts[e] examples."""
    epoch, number = locate(step, [count // batch_size for count in counts])
    return next(shuffled_batches(counts[epoch], batch_size, seed, epoch, number))


def locate(step: int, per_epoch: Sequence[int]) -> tuple[int, int]:
    """(epoch, batch in it) of optimizer step `step`, from 0, where epoch e has per_epoch[e] steps."""
    epoch = 0
    while epoch < len(per_epoch) and step >= per_epoch[epoch]:
        step -= per_epoch[epoch]
        epoch += 1
    return epoch, step


_NEVER = 1 << 62  # a step that no run reaches


class Losses:
    """Losses since the last log. They are summed up on the device, so that a step never waits for the device."""

    def __init__(self, names: Sequence[str], processes: Processes):
        self.names = names
        self._processes = processes
        self.sums = torch.zeros(len(names) + 1, dtype=torch.float64, device=processes.device)  # and the number of them
        self._bad_step = torch.full((), _NEVER, device=processes.device)

    def add(self, step: int, losses: Sequence[Tensor]) -> None:
        """Add the losses of one forward pass of optimizer step `step`."""
        values = torch.stack([loss.detach() for loss in losses])
        self.sums += torch.cat([values, values.new_ones(1)])
        self._note(step, values)

    def check(self, step: int, weights: Iterable[Tensor]) -> None:
        """Note whether the weights are finite after optimizer step `step`: a finite loss can have other gradients."""
        self._note(step, torch.stack(torch._foreach_norm([weight.detach() for weight in weights])))

    def _note(self, step: int, values: Tensor) -> None:
        self._bad_step = torch.where(values.isfinite().all(), self._bad_step, self._bad_step.clamp(max=step))

    def require_finite(self, counts: Sequence[int], batch_size: int, seed: int, last_state: object,
                       what: str = "") -> None:
        """InputError where a loss or a weight was not finite in any process: with the first such step, the examples of
        its batch, and the last good state.

        counts: examples of each epoch, from which shuffled_batches() drew with `seed`; what: begins the message.
        """
        bad = int(self._processes.smallest(self._bad_step.clone()))
        if bad < _NEVER:
            raise InputError(f"{what}loss or weights are not finite at step {bad + 1}, whose batch holds the examples "
                             f"{batch_at(bad, counts, batch_size, seed).tolist()}; last good state: "
                             f"{last_state or 'none'}; lower --learning_rate")

    def state_dict(self) -> Tensor:
        """Sums so far of all processes: float64 [names + 1], the number of forward passes last. For resume.States."""
        return self._processes.total(self.sums.clone())

    def load_state_dict(self, totals: Tensor) -> None:
        """Go on from state_dict(), whatever the number of processes was."""
        if self._processes.is_first:
            self.sums.copy_(totals)

    def means(self) -> dict[str, float]:
        """Mean of each loss over all forward passes since the last call, of all processes."""
        sums = self._processes.total(self.sums.clone())
        self.sums.zero_()
        return dict(zip(self.names, (sums[:-1] / sums[-1]).tolist(), strict=True))


def parameter_counts(student: nn.Module) -> dict[str, int]:
    """How many weights a student has, and how many of them are trained, under their names in run.json."""
    return {"student_parameters": sum(weight.numel() for weight in student.parameters()),
            "trained_parameters": sum(weight.numel() for weight in student.parameters() if weight.requires_grad)}


def optimizer_step(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, losses: Losses, step: int) -> None:
    """Optimizer step `step` on the gradients of its forward passes, which are cleared after it; BertAdam clips them.

    Weights that are not finite afterwards are noted in `losses`. With fp16 `scaler` skips a step whose scaled gradients
    are not finite, and lowers their scale.
    """
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    losses.check(step, (weight for group in optimizer.param_groups for weight in group["params"]))


def check_sizes(max_seq_length: int, segments: int, configs: dict[str | Path, BertConfig]) -> None:
    """InputError where examples of so many wordpieces in so many segments are more than one of the models, whose
    `configs` come by folder, has embeddings for, or hold no text."""
    for folder, config in configs.items():
        if not 4 <= max_seq_length <= config.max_position_embeddings:
            raise InputError(f"--max_seq_length {max_seq_length} is not between 4 and the "
                             f"{config.max_position_embeddings} positions (max_position_embeddings) of {folder}")
        check_segments(segments, folder, config)


def check_segments(segments: int, folder: str | Path, config: BertConfig) -> None:
    """InputError where the model in `folder` tells fewer segments of its input from each other."""
    if segments > config.type_vocab_size:
        raise InputError(f"{folder} tells no more than {config.type_vocab_size} segment from another (type_vocab_size "
                         f"in config.json) and pairs of texts need {segments}: take another model")
