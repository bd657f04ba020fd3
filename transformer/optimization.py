"""BertAdam, the optimizer of BERT and TinyBERT, and its learning-rate schedules."""
from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

NO_DECAY = ("bias", "LayerNorm.weight")


# Schedules: the factor of the learning rate after a share `progress` of all steps, from 0 to 1.

def warmup_constant(progress: float, warmup: float) -> float:
    """Rise linearly over the first `warmup` of the steps, then 1."""
    return progress / warmup if progress < warmup else 1.0


def warmup_cosine(progress: float, warmup: float) -> float:
    """Rise linearly over the first `warmup` of the steps, then fall along half a cosine to 0."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def warmup_linear(progress: float, warmup: float) -> float:
    """Rise linearly over the first `warmup` of the steps, then fall linearly to 0 at the last."""
    return progress / warmup if progress < warmup else max((progress - 1) / (warmup - 1), 0.0)


SCHEDULES = {"none": lambda progress, warmup: 1.0, "constant": lambda progress, warmup: 1.0,
             "warmup_constant": warmup_constant, "warmup_cosine": warmup_cosine, "warmup_linear": warmup_linear}


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: decayed, and not decayed (biases and LayerNorm weights)."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return [{"params": [p for name, p in named if not name.endswith(NO_DECAY)], "weight_decay": weight_decay},
            {"params": [p for name, p in named if name.endswith(NO_DECAY)], "weight_decay": 0.0}]


def freeze_unused(model: nn.Module, loss: torch.Tensor) -> list[str]:
    """Set requires_grad to False on the parameters that `loss`, a scalar, does not reach; returns their names.

    They are then neither trained nor synchronised between processes. Gradients are left as they are; the graph of
    `loss` is gone afterwards. A tied weight counts as reached where any of its uses is.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss, [parameter for _, parameter in named], allow_unused=True)
    unused = [pair for pair, gradient in zip(named, gradients) if gradient is None]
    for _, parameter in unused:
        parameter.requires_grad_(False)
    return [name for name, _ in unused]


class BertAdam(torch.optim.Optimizer):
    """Adam as BERT was trained with it.

    No bias correction; decoupled weight decay inside the update, before the learning rate is applied; gradients
    clipped to norm `max_grad_norm` for each parameter tensor by itself. The learning rate of step s (counted from 0)
    is lr * schedule(s / t_total), so the first warmup_linear step has rate 0.

    warmup: share of t_total, -1 for none, of no effect under a schedule without it; t_total: number of optimizer steps,
    or -1 for a constant rate. The defaults are those of the published class. Computed by torch's fused AdamW, whose
    bias corrections are 1 after steps without end; parameters and gradients are dense, as autograd makes them.
    Raises ValueError for an unknown schedule or values out of range.
    """

    _step_supports_amp_scaling = True  # GradScaler then calls step() always, and does not wait for the device

    def __init__(self, params: Iterable, lr: float, warmup: float = -1, t_total: int = -1,
                 schedule: str = "warmup_linear", b1: float = 0.9, b2: float = 0.999, e: float = 1e-6,
                 weight_decay: float = 0.01, max_grad_norm: float = 1.0):
        if schedule not in SCHEDULES:
            raise ValueError(f"unknown schedule {schedule!r}, known: {', '.join(SCHEDULES)}")
        if lr < 0 or not (warmup == -1 or 0 <= warmup <= 1) or not (0 <= b1 < 1 and 0 <= b2 < 1) or e < 0:
            raise ValueError(f"BertAdam: lr {lr}, warmup {warmup}, b1 {b1}, b2 {b2} or e {e} is out of range")
        super().__init__(params, {"lr": lr, "warmup": warmup, "t_total": t_total, "schedule": schedule, "b1": b1,
                                  "b2": b2, "e": e, "weight_decay": weight_decay, "max_grad_norm": max_grad_norm})
        self._sizes: dict[tuple[int, ...], torch.Tensor] = {}  # numbers of elements, on the device

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._sizes = {}
        for group in self.param_groups:  # states of earlier versions count the steps of each parameter by itself
            counts = [self.state[parameter].pop("step", 0) for parameter in group["params"] if parameter in self.state]
            group.setdefault("step", max(counts, default=0))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As Optimizer's: a group of parameters more, whose steps are counted from 0, in its `step`."""
        super().add_param_group({"step": 0, **param_group})

    def learning_rate(self) -> float:
        """The rate that the next step() will use, for the log."""
        return self._rate(self.param_groups[0])

    @staticmethod
    def _rate(group: dict[str, Any]) -> float:
        """Learning rate of the next step in a parameter group."""
        if group["t_total"] == -1:
            return group["lr"]
        progress = group["step"] / group["t_total"]
        return group["lr"] * SCHEDULES[group["schedule"]](progress, max(group["warmup"], 0.0))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every parameter that has a gradient; its gradient is clipped in place.

        Sets `norms`: of these gradients as they came, float [parameters with a gradient]. GradScaler lets the step
        happen on the device, or not happen if the gradients overflowed: then the schedule goes on alone, as the run
        does, and the norms are 0. It has to unscale_() the gradients first.
        """
        if getattr(self, "grad_scale", None) is not None:
            raise RuntimeError("BertAdam clips gradients: GradScaler.unscale_() has to come before its step()")
        columns = [[parameter for parameter in group["params"] if parameter.grad is not None]
                   for group in self.param_groups]
        gradients = [parameter.grad for parameters in columns for parameter in parameters]
        found_inf = getattr(self, "found_inf", None)
        norms = torch.stack(torch._foreach_norm(gradients)) if gradients else torch.zeros(0)
        for parameters, group, own in zip(columns, self.param_groups, norms.split([*map(len, columns)])):
            if parameters:
                self._update(parameters, group, own, found_inf)
            group["step"] += 1
        self.norms = norms if found_inf is None else torch.where(found_inf > 0, 0.0, norms)

    def _update(self, parameters: list[torch.Tensor], group: dict[str, Any], norms: torch.Tensor,
                found_inf: torch.Tensor | None) -> None:
        """Clip the gradients of some parameters of a group, which have these norms, and take one step with them."""
        gradients = [parameter.grad for parameter in parameters]
        if group["max_grad_norm"] > 0:
            factors = (group["max_grad_norm"] / (norms + 1e-6)).clamp(max=1.0)
            if factors.device.type == "cpu":  # where kernels cost nothing, and memory does
                torch._foreach_mul_(gradients, factors.unbind())
            else:
                self._scale(gradients, factors)
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter].update(next_m=torch.zeros_like(parameter), next_v=torch.zeros_like(parameter))
        states = [self.state[parameter] for parameter in parameters]
        torch._fused_adamw_(parameters, gradients, [state["next_m"] for state in states],
                            [state["next_v"] for state in states], [], [norms.new_full((), math.inf)] * len(states),
                            lr=self._rate(group), beta1=group["b1"], beta2=group["b2"], eps=group["e"],
                            weight_decay=group["weight_decay"], amsgrad=False, maximize=False, found_inf=found_inf)

    def _scale(self, tensors: list[torch.Tensor], factors: torch.Tensor) -> None:
        """Multiply each of some tensors, in place, by its element of `factors`, in a few kernels for all together: by
        tensors of other shapes than their own it would be one kernel for each. Takes 8 bytes an element meanwhile."""
        sizes = tuple(tensor.numel() for tensor in tensors)
        if sizes not in self._sizes:  # the host waits for such a copy: once
            self._sizes[sizes] = torch.tensor(sizes, dtype=torch.int32, device=factors.device)
        spread = factors.repeat_interleave(self._sizes[sizes], output_size=sum(sizes)).split(sizes)
        torch._foreach_mul_(tensors, [part.view_as(tensor) for part, tensor in zip(spread, tensors)])
