"""One training run: all that every run needs beside its method, in one object that the method's loop goes over.

The scripts own the loop, the forward passes and the losses. The run owns what a reader of the paper does not look for:
going on after a stop, signals, seeds, shares of a batch, finiteness, progress, records, states, the best model.
"""
from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from transformer.checkpoint import save_model
from transformer.data.features import Sequences
from transformer.modeling import BertPreTrainedModel
from transformer.stopwatch import STOPWATCH
from transformer.training.batches import Plan, own_shares, seed_share
from transformer.training.losses import Losses
from transformer.training.processes import Processes
from transformer.training.record import RunRecord
from transformer.training.signals import StopSignals
from transformer.training.states import States, result_settings


class Run:
    """A training run from its first step, or from the last saved state, to its last step.

        with run:
            for indices in run:                     # the examples of one optimizer step
                for rows in run.shares(indices):    # those of one forward pass
                    run.backward(losses)
                run.update()
                if run.is_due:                      # to log, to score, to keep
                    ...
        run.finish(...)

    Making it restores the state with --resume; begin() then makes the record. Attributes: trained (the model as it is
    called in training), data (the examples of the current epoch), step (optimizer steps done), learning_rate (of the
    last one), best and kept (the score of the model that was kept, and what was logged of it), record.
    """

    def __init__(self, args: argparse.Namespace, processes: Processes, plan: Plan, model: BertPreTrainedModel,
                 optimizer: torch.optim.Optimizer, loss_names: Sequence[str], output_dir: Path, source: Path,
                 due_every: int, facts: dict[str, Any], remember: dict[str, Any] | None = None, name: str = "",
                 role: str = "student"):
        """source: the folder whose vocabulary and casing a saved model has; due_every: steps between logs; facts: what
        the result follows from, beside the settings; remember: what the states are to hold for the script; name: of the
        run among several of a script, for messages; role: what the states call the model."""
        self.args = args
        self.processes = processes
        self.plan = plan
        self.model = model
        self.trained = self.compiled(processes.wrap(model))
        self.optimizer = optimizer
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=args.precision == "fp16")
        self.losses = Losses(loss_names, processes)
        self.output_dir = output_dir
        self.source = source
        self.data: Sequences | None = None
        self.step, self.best, self.kept = 0, -math.inf, {}
        self.learning_rate = 0.0
        self.remembered = dict(remember or {})
        self._due_every = due_every
        self._name = name
        self._states = States(output_dir, result_settings(vars(args), **facts), processes, **{role: model},
                              optimizer=optimizer, scaler=self.scaler, losses=self.losses)
        self._state = self._states.restore(args.resume)
        if self._state:
            self.step = self._state["step"]
            self.best = self._state.get("best", self.best)
            # general distillation once kept what it logged last under another name
            self.kept = self._state["kept"] if "kept" in self._state else self._state["values"]
            self.remembered = {name: self._state[name] for name in self.remembered}

    @property
    def is_resumed(self) -> bool:
        """Whether it goes on from a saved state."""
        return self._state is not None

    def compiled(self, model: nn.Module) -> nn.Module:
        """A model as it is called in training: compiled with --compile."""
        return torch.compile(model) if self.args.compile else model

    def begin(self, **facts: Any) -> None:
        """Make the record of the run, with what run.json is to say of it: from here on the folder is unfinished."""
        log_sizes = self._state["logs"] if self._state else None
        self.record = RunRecord(self.output_dir, self.args, self.processes, log_sizes=log_sizes, resumed_from=self.step,
                                steps=self.plan.total_steps, variant=self.args.variant, **facts)

    def __enter__(self) -> Run:
        self._around = contextlib.ExitStack()
        self._progress = self._around.enter_context(tqdm(
            total=self.plan.total_steps, initial=self.step, unit="step", desc=self._name or None, mininterval=1,
            disable=not self.processes.is_first))
        self._stop = self._around.enter_context(StopSignals())
        self._around.enter_context(STOPWATCH.part("first_step"))
        self._is_warm = False
        return self

    def __exit__(self, *_: object) -> None:
        self._around.close()

    def __iter__(self) -> Iterator[np.ndarray]:
        """The examples of each batch that is left: uint32 or int64 [train_batch_size]."""
        first_epoch, first_batch = self.plan.locate(self.step)
        for epoch in range(first_epoch, len(self.plan.epochs)):
            self.data = None  # its memory is free for the next epoch
            with self._stop.suspended() if self.plan.opens_epochs else contextlib.nullcontext():
                self.data = self.plan.epochs[epoch]
            for indices in self.plan.batches(epoch, first_batch if epoch == first_epoch else 0):
                if self.step == self.plan.total_steps:
                    return
                self._indices = indices
                yield indices
                self._end_step()

    def shares(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """This process's shares of a batch, the examples of one forward pass each: dropout is seeded for it, and
        gradients are averaged over the processes after the last one."""
        own = own_shares(indices, self.args.gradient_accumulation_steps, self.processes)
        for number, (share, rows) in enumerate(own, 1):
            seed_share(self.args.seed, self.step, share)
            with self.processes.synchronised(self.trained, number == len(own)):
                yield rows

    def backward(self, losses: Sequence[Tensor]) -> None:
        """The backward pass of the sum of some losses of a share, scalars, which are noted for the log."""
        self.scaler.scale(sum(losses) / self.args.gradient_accumulation_steps).backward()
        self.losses.add(self.step, losses)

    def update(self) -> None:
        """The optimizer step on the gradients of a batch, which are cleared after it; BertAdam clips them.

        Whether the weights are finite afterwards is noted. With fp16 a step whose scaled gradients are not finite is
        skipped, and their scale is lowered.
        """
        self.learning_rate = self.optimizer.learning_rate()
        self.scaler.unscale_(self.optimizer)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.losses.check(self.step, (weight for group in self.optimizer.param_groups for weight in group["params"]))
        self.record.count(self.data.lengths_of(self._indices))
        self.step += 1
        self._progress.update()
        if not self._is_warm:  # whatever the first step had to set up is no part of what a step takes
            self.processes.finish_computing()
            STOPWATCH.switch("steps")
            self._is_warm = True

    @property
    def is_due(self) -> bool:
        """Whether to log after this step."""
        return self.step % self._due_every == 0 or self.step == self.plan.total_steps

    @property
    def to_beat(self) -> float | None:
        """The score above which the model of this step is kept; None at the last step, of which all is told anyway."""
        return None if self.step == self.plan.total_steps else self.best

    def means(self) -> dict[str, float]:
        """The step, the sum of the losses, and each of them: means since the last call.

        Raises InputError where a loss or a weight was not finite.
        """
        self._require_finite()
        means = self.losses.means()
        return {"step": self.step, "loss": sum(means.values()), **means}

    def log(self, values: dict[str, float], file: str, text: str, shown: Sequence[str] = (), **labels: Any) -> None:
        """Log `values`, after `labels` and with the speed, in metrics.jsonl, and `text`, for people, in `file`.

        shown: names of values that the progress bar shows beside the losses.
        """
        self._progress.set_postfix({name: f"{values[name]:.4f}" for name in (*self.losses.names, *shown)})
        self.record.log(**labels, **values, **self.record.speed())
        self.record.text(file, text)

    def keep(self, values: dict[str, Any], score: float | None = None) -> None:
        """Save the model if `score` is above the best so far, without a score in any case; `values` is what to say of
        it."""
        if score is not None:
            if not score > self.best:
                return
            self.best = score
        self.kept = values
        if self.processes.is_first:
            with STOPWATCH.part("save"):
                save_model(self.model, self.output_dir, self.source)

    def _require_finite(self) -> None:
        self.losses.require_finite(self.plan.counts, self.plan.batch_size, self.plan.seed, self._states.last,
                                   f"{self._name}: " if self._name else "")

    def _end_step(self) -> None:
        """Save a state where it is time for one; end the run after a signal."""
        stopping = self._stop.agreed(self.processes)
        ends = self.plan.opens_epochs and self.step in self.plan.epoch_ends
        if stopping or ends or self._states.is_due(self.step, self.args.save_steps, self._due_every):
            self._require_finite()
            with STOPWATCH.part("state"):
                self._states.save(self.step, best=self.best, kept=self.kept, logs=self.record.sizes(),
                                  **self.remembered)
        if stopping:
            self._progress.close()
            self._stop.end(self.step, self.processes)

    def finish(self, **results: Any) -> None:
        """Write the results, which marks the folder as complete; the states are of no use any more."""
        self.record.finish(**results)
        self._states.clear()


def parameter_counts(student: nn.Module) -> dict[str, int]:
    """How many weights a student has, and how many of them are trained, under their names in run.json."""
    return {"student_parameters": sum(weight.numel() for weight in student.parameters()),
            "trained_parameters": sum(weight.numel() for weight in student.parameters() if weight.requires_grad)}
