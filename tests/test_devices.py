"""Where tensors lie and what a step waits for, told without a GPU.

The training scripts run with torch's device `meta` in place of a GPU: its tensors have a device and no numbers, so that
whatever asks for one fails, as `if loss > 0` would make a GPU's host wait. Losses have no value there, and autocast
knows no such device: what is computed, other tests compare.
"""
import contextlib
import dataclasses

import numpy as np
import pytest
import torch
from conftest import PIECES, STUDENT, TEACHER, finetune, general, run, train
from torch.utils._python_dispatch import TorchDispatchMode

from transformer.optimization import BertAdam
from transformer.training.processes import Processes

DEVICE = torch.device("meta")
STEPS = 3


class Refused(Exception):
    """What a GPU would refuse, or wait for."""


class Enough(Exception):
    """The steps were made."""


class Watch(TorchDispatchMode):
    """Refuses, while it is told to be strict, operations over tensors of two devices and copies between them."""

    strict = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        devices = {tensor.device for tensor in tensors_in([args, kwargs, result])}
        if self.strict and len(devices) > 1:
            raise Refused(f"{func} of tensors on {devices}")
        return result

    @contextlib.contextmanager
    def sending(self):
        """Copies are allowed: batches are sent from memory for which the host need not wait."""
        strict, self.strict = self.strict, False
        yield
        self.strict = strict


def tensors_in(values):
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple, dict)):
            yield from tensors_in(value.values() if isinstance(value, dict) else value)


@pytest.fixture
def steps(script, monkeypatch):
    """steps(name, arguments): make some optimizer steps of a script on the device. All between the end of the first
    and the end of the last is watched."""
    watch, done, step = Watch(), [], BertAdam.step

    @dataclasses.dataclass(frozen=True)
    class OnDevice(Processes):
        def send(self, tensors):
            with watch.sending():
                return tuple(tensor.to(self.device) for tensor in tensors)

    def watched(self, closure=None):
        step(self)
        done.append(self)
        watch.strict = True
        if len(done) == STEPS:
            raise Enough

    def mixed(precision, device):
        assert device == DEVICE  # of another autocast would cast nothing
        return contextlib.nullcontext()

    monkeypatch.setattr(BertAdam, "step", watched)
    monkeypatch.setattr("transformer.training.processes.join_processes", lambda *_: OnDevice(0, 1, DEVICE))
    monkeypatch.setattr("transformer.training.processes.mixed", mixed)
    monkeypatch.setattr("transformer.training.scoring.predict", lambda model, head, sequences, *_: np.zeros(
        (len(sequences), head.width), np.float32))

    def call(name, arguments):
        with watch, pytest.raises(Enough):
            script(name, *arguments)
    return call


CASES = {
    "general": ("general_distill", general, {}),
    "accumulated": ("general_distill", general, {"gradient_accumulation_steps": 2}),
    "without attn": ("general_distill", general, {"without": "attn"}),
    "code": ("general_distill", general, {"preset": "code"}),
    "intermediate": ("task_distill", train, {}),
    "dynamic": ("task_distill", train, {"dynamic_padding": True, "without": "hidn"}),
    "prediction": ("task_distill", train, {"pred_distill": True}),
    "asked": ("task_distill", train, {"pred_distill": True, "preset": "code"}),
    "hard": ("task_distill", train, {"pred_distill": True, "hard_labels": True}),
    "finetune": ("finetune_teacher", finetune, {}),
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("case", CASES)
def test_a_step_stays_on_its_device_and_waits_for_nothing(case, precision, tiny, steps):
    name, make, changes = CASES[case]
    if name == "finetune_teacher":
        changes = {"model": tiny / "bert", **changes}
    steps(name, make(tiny, no_cuda=None, precision=precision, num_train_epochs=2, **changes))
