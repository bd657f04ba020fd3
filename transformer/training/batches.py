"""Which examples train in which step: orders of the data, batches and the shares of them, seeds."""
from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch

from transformer.data.features import Sequences
from transformer.files import InputError
from transformer.training.processes import Processes


@dataclass(frozen=True)
class Plan:
    """Which examples a run trains on, in which order, and how many optimizer steps that takes.

    epochs: the examples of each training epoch, by its number; counts: how many each has; steps: of each whole epoch;
    opens_epochs: whether it takes long to get the examples of an epoch, which are made or read when its turn comes.
    """
    epochs: Sequence[Sequences]
    counts: Sequence[int]
    steps: Sequence[int]
    total_steps: int
    batch_size: int
    seed: int
    opens_epochs: bool

    @classmethod
    def of(cls, args: argparse.Namespace, epochs: Sequence[Sequences], counts: Sequence[int], names: Sequence[object],
           opens_epochs: bool = False) -> Plan:
        """The plan of a run with these flags. names: of the files of the epochs, for messages.

        Raises InputError where an epoch does not fill a batch, and where there is no whole step.
        """
        steps = [steps_per_epoch(count, args.train_batch_size, name) for count, name in zip(counts, names, strict=True)]
        return cls(epochs, counts, steps, count_steps(steps, args.num_train_epochs), args.train_batch_size, args.seed,
                   opens_epochs)

    @property
    def epoch_ends(self) -> frozenset[int]:
        """The numbers of steps after which another epoch begins."""
        return frozenset(accumulate(self.steps[:-1]))

    def locate(self, step: int) -> tuple[int, int]:
        """(epoch, batch in it) of optimizer step `step`, from 0."""
        epoch = 0
        while epoch < len(self.steps) and step >= self.steps[epoch]:
            step -= self.steps[epoch]
            epoch += 1
        return epoch, step

    def batches(self, epoch: int, start: int) -> Iterator[np.ndarray]:
        """shuffled_batches() of an epoch, from batch `start` on."""
        return shuffled_batches(self.counts[epoch], self.batch_size, self.seed, epoch, start)

    def batch_at(self, step: int) -> np.ndarray:
        """Indices of the batch of optimizer step `step`, from 0."""
        return next(self.batches(*self.locate(step)))


def seed_share(seed: int, step: int, share: int, of_teacher: bool = False) -> None:
    """Seed torch's generators in use for one forward pass: dropout follows from the seed, the step and which share of
    its batch it is alone, so that a run can go on from any step, with other processes, and beside other runs.
    of_teacher: the pass is a teacher's, whose dropout is another."""
    numbers = (seed, step, share, 1) if of_teacher else (seed, step, share)
    number = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
    torch.default_generator.manual_seed(number)  # torch.manual_seed() goes through all kinds of devices
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(number)


def shuffled_batches(count: int, batch_size: int, seed: int, epoch: int, start: int = 0) -> Iterator[np.ndarray]:
    """Index arrays [batch_size] over a permutation of `count` examples set by (seed, epoch), from batch `start` on.

    uint32, int64 where the examples are too many for it. The incomplete last batch is dropped, as published.
    """
    order = np.arange(count, dtype=np.uint32 if count < 1 << 32 else np.int64)
    np.random.default_rng((seed, epoch)).shuffle(order)
    for begin in range(start * batch_size, count - batch_size + 1, batch_size):
        yield order[begin:begin + batch_size]


Batches = tuple[np.ndarray, list[tuple[int, int]]]  # an order of examples; (start, stop) in it of each batch


def batches_by_length(lengths: np.ndarray, batch_tokens: int, most_rows: int) -> Batches:
    """An order of examples of these lengths, longest first, and (start, stop) in it of each batch.

    A batch that is padded to its longest has at most batch_tokens wordpieces, and at most most_rows examples, but at
    least one. The batches follow from the arguments alone: other batches round other sums.
    """
    order = np.argsort(-lengths, kind="stable")
    bounds = []
    start = 0
    while start < len(order):
        stop = min(start + max(1, min(most_rows, batch_tokens // int(lengths[order[start]]))), len(order))
        bounds.append((start, stop))
        start = stop
    return order, bounds


def micro_batch_size(train_batch_size: int, accumulation: int, world: int = 1) -> int:
    """Sequences of one forward pass: train_batch_size is the total over accumulation and processes.

    Raises InputError if that is not a whole number.
    """
    if train_batch_size % (accumulation * world):
        raise InputError(f"--train_batch_size {train_batch_size} is no multiple of --gradient_accumulation_steps "
                         f"{accumulation}" + f" x {world} processes" * (world > 1))
    return train_batch_size // (accumulation * world)


def own_shares(indices: np.ndarray, accumulation: int, processes: Processes) -> list[tuple[int, np.ndarray]]:
    """What this process has to do of a batch: (number of the share, its indices), `accumulation` of them."""
    every = list(enumerate(np.split(indices, accumulation * processes.world)))
    return every[processes.rank::processes.world]


def few_lengths(lengths: np.ndarray, longest: int) -> int:
    """The longest of `lengths`, rounded up to a multiple of 32 but no more than `longest`: what a batch is padded to
    where its padding does not count and a model is compiled for each length that it meets."""
    return min(-(-int(lengths.max()) // 32) * 32, longest)


def steps_per_epoch(count: int, train_batch_size: int, what: object) -> int:
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
