"""The losses of a run since its last log, and whether all was finite so far."""
from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from transformer.files import InputError
from transformer.training.batches import batch_at
from transformer.training.processes import Processes

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
        """Sums so far of all processes: float64 [names + 1], the number of forward passes last. For States."""
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
