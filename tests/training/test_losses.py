"""The losses between two logs: their means, and the first step that is not finite."""
from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from transformer.files import InputError
from transformer.training import losses
from transformer.training.batches import Plan
from transformer.training.losses import Losses
from transformer.training.processes import Processes

ALONE = Processes(0, 1, torch.device("cpu"))
FINE = torch.ones(2)
PLAN = Plan([], counts=[20, 12], steps=[5, 3], total_steps=8, batch_size=4, seed=7, opens_epochs=False)
OF_RUN = {"plan": PLAN, "last_state": "state_2.pt"}


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    monkeypatch.setattr(losses, "_ROWS", 3)


def noted(*passes, processes=ALONE):
    """Losses after some forward passes, each (step, loss, loss)."""
    result = Losses(("one", "two"), processes)
    for step, *values in passes:
        result.add(step, [torch.tensor(float(value), requires_grad=True) for value in values])
        result.check(FINE)
    return result


def test_means_of_all_passes_since_the_last_call():
    """More than the device keeps, and then fewer; the norms of the gradients are no part of them."""
    result = noted(*((number, number, 10 * number) for number in range(7)))
    assert result.means() == {"one": 3, "two": 30}
    result.add(7, [torch.tensor(0.5), torch.tensor(2.5)])
    assert result.means() == {"one": 0.5, "two": 2.5}


def test_sums_do_not_depend_on_when_they_are_read():
    """A run that saves a state in between logs the same to the last bit."""
    torch.manual_seed(0)
    passes = [(number, *pair) for number, pair in enumerate(torch.rand(20, 2).tolist())]
    whole, parts = noted(*passes), noted(*passes[:10])
    state = parts.state_dict()
    assert state.dtype == torch.float64 and state[-1] == 10
    again = noted()
    again.load_state_dict(state)
    for result in (parts, again):
        for step, *values in passes[10:]:
            result.add(step, [torch.tensor(value) for value in values])
    assert whole.means() == parts.means() == again.means()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["loss", "gradient", "weight"])
def test_the_first_step_that_is_not_finite(where, value):
    """Read at once or much later, and not forgotten."""
    result, weights = noted(), [torch.ones(3), torch.ones(2, 2)]
    for step in range(6):
        result.require_finite(step, weights, **OF_RUN)
        result.add(step, [torch.tensor(value if where == "loss" and step == 5 else 1.0), torch.tensor(2.0)])
        result.check(torch.tensor([0.5, value if where == "gradient" and step == 5 else 0.5]))
    if where == "weight":  # the last step was one too far
        weights[1][0, 1] = value
    else:
        for step in range(6, 11):
            result.add(step, [torch.tensor(math.nan), torch.tensor(1.0)])
            result.check(FINE)
    for _ in range(2):
        with pytest.raises(InputError) as refusal:
            result.require_finite(6, weights, **OF_RUN, what="MRPC: ")
        message = str(refusal.value)
        assert message.startswith("MRPC: ") and "not finite at step 6, " in message and "state_2.pt" in message
        order = np.arange(12, dtype=np.uint32)
        np.random.default_rng((7, 1)).shuffle(order)  # step 6 is the first of the second epoch
        assert f"examples {order[:4].tolist()};" in message
        result.means()


def test_another_process_is_not_finite():
    """The first bad step of any process is named in all."""
    result = noted((0, 1, 1), (1, math.nan, 1))
    result._processes = SimpleNamespace(smallest=lambda value: value.clamp(max=0))
    with pytest.raises(InputError, match="not finite at step 1,"):
        result.require_finite(2, [FINE], **OF_RUN)


def test_a_step_is_not_waited_for():
    """Adding and checking reads nothing back: with tensors that have no numbers it would fail."""
    meta = torch.device("meta")
    result = Losses(("one", "two"), Processes(0, 1, meta))
    for step in range(losses._ROWS):
        result.add(step, [torch.ones((), device=meta)] * 2)
        result.check(torch.ones(5, device=meta))
    with pytest.raises((NotImplementedError, RuntimeError)):
        result.means()
