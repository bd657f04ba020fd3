"""The losses of a run since its last log, and whether all was finite so far."""
from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from transformer.files import InputError
from transformer.training.batches import Plan
from transformer.training.processes import Processes

_NEVER = 1 << 62  # a step that no run reaches
_ROWS = 1024  # forward passes that the device keeps before they are read


class Losses:
    """Losses since the last log, and the size of the gradients that came of them. The device keeps them until they are
    asked for, so that a step never waits for it."""

    def __init__(self, names: Sequence[str], processes: Processes):
        self.names = names
        self._processes = processes
        self._rows = torch.zeros(_ROWS, len(names) + 1, device=processes.device)  # the last column: of gradients
        self._steps: list[int] = []  # of the rows in use
        self._sums = torch.zeros(len(names) + 1, dtype=torch.float64)  # and the number of forward passes
        self._bad_step = _NEVER

    def add(self, step: int, losses: Sequence[Tensor]) -> None:
        """Add the losses of one forward pass of optimizer step `step`."""
        if len(self._steps) == _ROWS:
            self._read()
        torch.stack([loss.detach() for loss in losses], out=self._rows[len(self._steps), :-1])
        self._steps.append(step)

    def check(self, norms: Tensor) -> None:
        """Note whether the gradients of the step that add() was last called for are finite, by their norms (see
        BertAdam): a finite loss can have others, and by these alone weights stop being finite."""
        torch.sum(norms, 0, keepdim=True, out=self._rows[len(self._steps) - 1, -1:])

    def require_finite(self, step: int, weights: Iterable[Tensor], plan: Plan, last_state: object,
                       what: str = "") -> None:
        """InputError where a loss, a gradient or a weight was not finite in any process: with the first such step, the
        examples of its batch, and the last good state.

        step: how many are done; weights: as they are now: steps too large could have broken them by the last one, and
        nothing broken is to be saved; what: begins the message.
        """
        self._read()
        norms = torch._foreach_norm([weight.detach() for weight in weights])
        if norms and not torch.stack(norms).isfinite().all():
            self._bad_step = min(self._bad_step, step - 1)
        bad = int(self._processes.smallest(torch.tensor(self._bad_step)))
        if bad < _NEVER:
            raise InputError(f"{what}loss, gradients or weights are not finite at step {bad + 1}, whose batch holds "
                             f"the examples {plan.batch_at(bad).tolist()}; last good state: {last_state or 'none'}; "
                             "lower --learning_rate")

    def state_dict(self) -> Tensor:
        """Sums so far of all processes: float64 [names + 1], the number of forward passes last. For States."""
        self._read()
        return self._processes.total(self._sums.clone())

    def load_state_dict(self, totals: Tensor) -> None:
        """Go on from state_dict(), whatever the number of processes was."""
        if self._processes.is_first:
            self._sums.copy_(totals)

    def means(self) -> dict[str, float]:
        """Mean of each loss over all forward passes since the last call, of all processes."""
        self._read()
        sums = self._processes.total(self._sums.clone())
        self._sums.zero_()
        return dict(zip(self.names, (sums[:-1] / sums[-1]).tolist(), strict=True))

    def _read(self) -> None:
        """Empty the rows into the sums, and note the first step that was not finite."""
        if not self._steps:
            return
        rows = self._rows[:len(self._steps)].cpu()
        bad = ~rows.isfinite().all(dim=1).numpy()
        self._bad_step = min([self._bad_step, *np.array(self._steps)[bad].tolist()])
        rows[:, -1] = 1
        for row in rows.double():  # one after the other, so that the sum does not depend on when it was read
            self._sums += row
        self._rows[:, -1] = 0
        self._steps.clear()
