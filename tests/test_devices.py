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
from conftest import finetune, general, train
from torch.utils._python_dispatch import TorchDispatchMode

from transformer.optimization import BertAdam
from transformer.training.processes import Processes

DEVICE = torch.device("meta")
STEPS = 4  # less than an epoch: no state is saved, nothing is logged


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
    watch, done, step, tensor = Watch(), [], BertAdam.step, torch.tensor

    @dataclasses.dataclass(frozen=True)
    class OnDevice(Processes):
        def send(self, tensors):
            with watch.sending():
                return tuple(tensor.to(self.device) for tensor in tensors)

    def watched(self, closure=None):
        step(self)
        done.append(self)  # of several students each has its own
        watch.strict = True
        if done.count(self) == STEPS:
            raise Enough

    def autocast(device_type, *_, **__):
        assert device_type == DEVICE.type  # of another it would cast nothing
        return contextlib.nullcontext()

    monkeypatch.setattr(BertAdam, "step", watched)
    monkeypatch.setattr("transformer.training.processes.join_processes", lambda *_: OnDevice(0, 1, DEVICE))
    monkeypatch.setattr("torch.autocast", autocast)
    monkeypatch.setattr("torch.tensor", lambda values, device="cpu", **options: tensor(values, **options).to(device))
    monkeypatch.setattr("transformer.training.scoring.model_sha256", lambda model: "of a teacher without numbers")
    monkeypatch.setattr("transformer.training.scoring.predict", lambda model, head, sequences, *_: np.zeros(
        (len(sequences), head.width), np.float32))

    def call(name, arguments):
        with watch, pytest.raises(Enough):
            script(name, *arguments)
    return call


CASES = {
    "general": ("general_distill", general, {}),
    "16 bits": ("general_distill", general, {"precision": "bf16"}),
    "gram": ("general_distill", general, {"attention_loss": "gram"}),
    "accumulated": ("general_distill", general, {"gradient_accumulation_steps": 2}),
    "code": ("general_distill", general, {"preset": "code"}),
    "intermediate": ("task_distill", train, {}),
    "without attn": ("task_distill", train, {"without": "attn"}),
    "without hidn": ("task_distill", train, {"without": "hidn", "dynamic_padding": True}),
    "prediction": ("task_distill", train, {"pred_distill": True}),
    "asked": ("task_distill", train, {"pred_distill": True, "preset": "code", "precision": "bf16"}),
    "hard": ("task_distill", train, {"pred_distill": True, "hard_labels": True}),
    "finetune": ("finetune_teacher", finetune, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_step_stays_on_its_device_and_waits_for_nothing(case, tiny, steps):
    name, make, changes = CASES[case]
    if name == "finetune_teacher":
        changes = {"model": tiny / "bert", **changes}
    steps(name, make(tiny, no_cuda=None, train_batch_size=4, **changes))


def test_the_steps_of_two_students_stay_on_their_device_and_wait_for_nothing(tiny, steps):
    two = ["--student_model", tiny / "config", tiny / "config", "--output_dir", tiny / "one", tiny / "two"]
    steps("general_distill", [*general(tiny, no_cuda=None, train_batch_size=4), *two])
