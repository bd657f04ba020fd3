"""A training: all that every run needs beside its method, in one object that the method's loop goes over.

The scripts own the loop, the forward passes and the losses. What a reader of the paper does not look for stands here: a
Run is one model with its optimizer, its record and its states in its output folder; a Training leads one run or several
over the same batches: seeds, shares of a batch, going on after a stop, signals, progress.
"""
from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from transformer.checkpoint import save_model
from transformer.cli import print_settings
from transformer.data.features import Sequences, unpack
from transformer.files import find_model
from transformer.modeling import BertPreTrainedModel
from transformer.optimization import BertAdam, parameter_groups
from transformer.stopwatch import STOPWATCH
from transformer.training.batches import Plan, own_shares, seed_share
from transformer.training.losses import Losses
from transformer.training.processes import Processes
from transformer.training.record import RunRecord, read_run
from transformer.training.signals import StopSignals
from transformer.training.states import Allowance, States, files_sha256, result_settings

Made = tuple[Tensor, Tensor, Tensor] | Tensor  # the tensors of a batch, or the one that they are packed in
Shares = Iterator[tuple[np.ndarray, tuple[Tensor, Tensor, Tensor]]]


class Run:
    """One model that is trained: its optimizer, losses, record and states.

    Making it restores the state with --resume; begin() then makes the record. Attributes: trained (the model as it is
    called in training), step (optimizer steps done), learning_rate (of the last one), best and kept (the score of the
    model that was kept, and what was logged of it), record.
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
        self.trained: nn.Module = processes.wrap(model)
        self.optimizer = optimizer
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=args.precision == "fp16")
        self.losses = Losses(loss_names, processes)
        self.output_dir = output_dir
        self.source = source
        self.name = name
        self.step, self.best, self.kept = 0, -math.inf, {}
        self.learning_rate = 0.0
        self.shown: dict[str, str] = {}  # beside the progress bar
        self.times: dict[str, Any] = {}  # where the time of its training went, of all runs of it together
        self.remembered = dict(remember or {})
        self._due_every = due_every
        self._is_written = True  # whether the model that was kept is in the folder
        self._states = States(output_dir, result_settings(vars(args), **facts), processes, **{role: model},
                              optimizer=optimizer, scaler=self.scaler, losses=self.losses)
        self._state = self._states.restore(args.resume)
        if self._state:
            self.step = self._state["step"]
            self.best = self._state.get("best", self.best)
            # general distillation once kept what it logged last under another name
            self.kept = self._state["kept"] if "kept" in self._state else self._state["values"]
            self.remembered = {name: self._state[name] for name in self.remembered}
            noted = (read_run(output_dir) or {}).get("best")  # with the model that is there, maybe later than the state
            if noted and noted["score"] > self.best:
                self.best, self.kept = noted["score"], noted["kept"]

    @property
    def is_resumed(self) -> bool:
        """Whether it goes on from a saved state."""
        return self._state is not None

    def begin(self, **facts: Any) -> None:
        """Make the record of the run, with what run.json is to say of it: from here on the folder is unfinished."""
        log_sizes = self._state["logs"] if self._state else None
        self.record = RunRecord(self.output_dir, self.args, self.processes, log_sizes=log_sizes, resumed_from=self.step,
                                steps=self.plan.total_steps, variant=self.args.variant, **facts)
        if self.best > -math.inf:
            self.record.note_best(self.best, self.kept)

    def backward(self, losses: Sequence[Tensor]) -> None:
        """The backward pass of the sum of some losses of a share, scalars, which are noted for the log."""
        self.scaler.scale(sum(losses) / self.args.gradient_accumulation_steps).backward()
        self.losses.add(self.step, losses)

    def update(self) -> None:
        """The optimizer step on the gradients of a batch, which are cleared after it; BertAdam clips them.

        Whether the gradients are finite is noted. With fp16 a step whose scaled gradients are not finite is
        skipped, and their scale is lowered.
        """
        self.learning_rate = self.optimizer.learning_rate()
        self.scaler.unscale_(self.optimizer)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.losses.check(self.optimizer.norms)
        self.step += 1

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
        self.shown = {name: f"{values[name]:.4f}" for name in (*self.losses.names, *shown)}
        self.record.log(**labels, **values, **self.record.speed())
        self.record.text(file, text)

    def keep(self, values: dict[str, Any], score: float | None = None) -> None:
        """Save the model if `score` is above the best so far; without a score the last one counts, which is written
        with the next state and at the end. `values` is what to say of the model that is kept."""
        if score is not None:
            if not score > self.best:
                return
            self.best = score
        self.kept = values
        self._is_written = False
        if score is not None:
            self.write()
            self.record.note_best(score, values)

    def write(self) -> None:
        """Write the model that is kept into the output folder, unless it is there."""
        if not self._is_written and self.processes.is_first:
            with STOPWATCH.part("save"):
                save_model(self.model, self.output_dir, self.source)
        self._is_written = True

    def save_state(self) -> None:
        """Save what the rest of the run follows from. All processes have to call it."""
        self._require_finite()
        self.write()
        with STOPWATCH.part("state"):
            self._states.save(self.step, best=self.best, kept=self.kept, logs=self.record.sizes(), **self.remembered)

    def _require_finite(self) -> None:
        self.losses.require_finite(self.step, self.model.parameters(), self.plan, self._states.last,
                                   f"{self.name}: " if self.name else "")

    def finish(self, **results: Any) -> None:
        """Write the results, which marks the folder as complete; the states are of no use any more."""
        self.record.finish(**results, **self.times)
        self._states.clear()


class Training:
    """Leads runs from their first step, or from the last saved states, to their last step, over the same batches.

        with training:
            for shares in training:                 # one optimizer step
                for rows, batch in shares:          # one forward pass: numbers of examples, and their tensors
                    for run in training.turns():    # the runs that take this step
                        run.backward(losses)
                for run in training.active:
                    run.update()
                    if run.is_due:                  # to log, to score, to keep
                        ...
        for run in runs:
            run.finish(...)

    No run knows of the others: each comes to the weights that it has alone. After a stop one may be ahead; it waits
    until the others have come to its step. Attributes: data (the examples of the current epoch), step (optimizer steps
    that all have done), active (the runs that take the current step).
    """

    def __init__(self, args: argparse.Namespace, processes: Processes, plan: Plan, runs: Sequence[Run],
                 padded_length: Callable[[np.ndarray], int | None]):
        """padded_length: from the lengths of a batch to the one that its shares are padded to, None for that of their
        longest example."""
        self.args = args
        self.processes = processes
        self.plan = plan
        self.runs = runs
        self.step = min(run.step for run in runs)
        for run in runs:
            run.trained = self._compiled(run.trained)
        self.active: list[Run] = []
        self.data: Sequences | None = None
        self._padded_length = padded_length
        self._share = 0

    def __enter__(self) -> Training:
        self._around = contextlib.ExitStack()
        self._progress = self._around.enter_context(tqdm(
            total=self.plan.total_steps, initial=self.step, unit="step", mininterval=1,
            desc=self.runs[0].name if len(self.runs) == 1 else None, disable=not self.processes.is_first))
        self._stop = self._around.enter_context(StopSignals(self.step))
        self._ahead = None
        if self.processes.device.type == "cuda":  # the host is idle there; on the CPU it would only take a core away
            self._ahead = self._around.enter_context(ThreadPoolExecutor(1))
        self._allowance = Allowance()
        self._around.enter_context(STOPWATCH.part("first_step"))
        self._is_warm = False
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._around.close()
        if not error:
            times = STOPWATCH.facts()
            for run in self.runs:
                run.times = times

    def __iter__(self) -> Iterator[Shares]:
        """The shares of each batch that is left."""
        first_epoch, first_batch = self.plan.locate(self.step)
        for epoch in range(first_epoch, len(self.plan.epochs)):
            self.data = None  # its memory is free for the next epoch
            with self._stop.suspended() if self.plan.opens_epochs else contextlib.nullcontext():
                self.data = self.plan.epochs[epoch]
                self.processes.wait()  # gradients do not wait for hours
            batches = self.plan.batches(epoch, first_batch if epoch == first_epoch else 0)
            for indices, shares in self._made_ahead(batches):
                if self.step == self.plan.total_steps:
                    return
                self.active = [run for run in self.runs if run.step == self.step]
                for run in self.active:
                    run.record.count(self.data.lengths_of(indices))
                yield self._sent(shares)
                self._end_step()

    def companions(self, run: Run) -> dict[str, list[str]]:
        """For the record of a run: the folders of those that are trained with it, if there are any."""
        others = [str(other.output_dir) for other in self.runs if other is not run]
        return {"trained_with": others} if others else {}

    def turns(self) -> Iterator[Run]:
        """The runs that take this step, one after the other. Dropout is seeded for each, so that it is what it would be
        if the run were alone."""
        for run in self.active:
            seed_share(self.args.seed, self.step, self._share)
            yield run

    def _compiled(self, trained: nn.Module) -> nn.Module:
        """A model as it is called in training. Compiled, its step is captured on a GPU, too, and replayed by one launch
        for hundreds of kernels, where it is one pass of one model: gradients lie in the memory of the capture, where
        those of another pass or model would come upon them. Each length would be captured anew."""
        captured = (self.processes.device.type == "cuda" and self.processes.world == 1 and len(self.runs) == 1
                    and self.args.gradient_accumulation_steps == 1
                    and not getattr(self.args, "dynamic_padding", False))
        return compiled(trained, self.args, "reduce-overhead" if captured else None)

    def _made(self, indices: np.ndarray) -> list[tuple[int, np.ndarray, Made]]:
        """This process's shares of a batch: the number of each, its examples, and their tensors, packed for a GPU."""
        length = self._padded_length(self.data.lengths_of(indices))
        own = own_shares(indices, self.args.gradient_accumulation_steps, self.processes)
        if self.processes.device.type == "cpu":
            return [(share, rows, self.data.batch(rows, length)) for share, rows in own]
        return [(share, rows, self.processes.pinned(self.data.packed(rows, length))) for share, rows in own]

    def _made_ahead(self, batches: Iterator[np.ndarray]) -> Iterator[tuple[np.ndarray, list]]:
        """Each batch and its shares; on a GPU the next are made while it computes."""
        if not self._ahead:
            yield from ((indices, self._made(indices)) for indices in batches)
            return
        before = None
        for indices in batches:
            made = indices, self._ahead.submit(self._made, indices)
            if before:
                yield before[0], before[1].result()
            before = made
        if before:
            yield before[0], before[1].result()

    def _sent(self, shares: list[tuple[int, np.ndarray, Made]]) -> Shares:
        """The examples of each forward pass. The teacher's dropout is seeded; gradients are averaged over the processes
        after the last pass."""
        for number, (share, rows, made) in enumerate(shares, 1):
            self._share = share
            seed_share(self.args.seed, self.step, share, of_teacher=True)
            with contextlib.ExitStack() as stack:
                for run in self.active:
                    stack.enter_context(self.processes.synchronised(run.trained, number == len(shares)))
                yield rows, made if isinstance(made, tuple) else unpack(*self.processes.send([made]))

    def _short_name(self, run: Run) -> str:
        """What tells a run from the others beside the progress bar."""
        short = [Path(other.name).name for other in self.runs]
        if len(short) == 1:
            return ""
        return f"{Path(run.name).name if len(set(short)) == len(short) else run.name} "

    def _end_step(self) -> None:
        """Save states where it is time for it; end the runs after a signal."""
        self.step += 1
        self._progress.update()
        if not self._is_warm:  # whatever the first step had to set up is no part of what a step takes
            self.processes.finish_computing()
            STOPWATCH.switch("steps")
            self._is_warm = True
        is_due, is_last = any(run.is_due for run in self.active), self.step == self.plan.total_steps
        if is_due:
            self._progress.set_postfix({f"{self._short_name(run)}{name}": value
                                        for run in self.runs for name, value in run.shown.items()})
        ends = self.plan.opens_epochs and self.step in self.plan.epoch_ends
        stopping = self._stop.agreed(self.processes, self.step, at_once=ends or is_last)
        asked = self.args.save_steps and self.step % self.args.save_steps == 0
        cheap = is_due and not is_last and self.processes.any(self.processes.is_first and self._allowance.is_left)
        with self._allowance.spending():
            for run in self.active:
                if stopping or ends or asked or cheap:  # the same for all processes
                    run.save_state()
                elif is_last:
                    run.write()
        if stopping:
            self._progress.close()
            self._stop.end(self.step, self.processes)


def compiled(model: nn.Module, args: argparse.Namespace, mode: str | None = None) -> nn.Module:
    """A model as it is called in training: compiled with --compile. mode: torch.compile's."""
    return torch.compile(model, mode=mode) if args.compile else model


def student_run(args: argparse.Namespace, processes: Processes, plan: Plan, student: BertPreTrainedModel,
                loss_names: Sequence[str], schedule: str, teacher_folder: Path, facts: dict[str, Any],
                random: bool) -> Run:
    """The run of a student with these flags, and its BertAdam; random: it does not start from weights in its folder."""
    print_settings(args)
    optimizer = BertAdam(parameter_groups(student, args.weight_decay), lr=args.learning_rate,
                         warmup=args.warmup_proportion, t_total=plan.total_steps, schedule=schedule)
    facts = {**facts, "student_files": files_sha256(find_model(args.student_model), weights=not random)}
    return Run(args, processes, plan, student, optimizer, loss_names, Path(args.output_dir), teacher_folder,
               due_every=args.eval_step, facts=facts, name=str(args.output_dir))


def parameter_counts(student: nn.Module) -> dict[str, int]:
    """How many weights a student has, and how many of them are trained, under their names in run.json."""
    return {"student_parameters": sum(weight.numel() for weight in student.parameters()),
            "trained_parameters": sum(weight.numel() for weight in student.parameters() if weight.requires_grad)}
