"""Where tensors lie and what a step waits for, told without a GPU.

The training scripts run with torch's device `meta` in place of a GPU: its tensors have a device and no numbers, so that
whatever asks for one fails, as `if loss > 0` would make a GPU's host wait. Losses have no value there, and autocast
knows no such device: what is computed, other tests compare.
"""
import contextlib
from unittest import mock

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.conftest import STUDENT, TEACHER, finetune, general, train
from tests.training import test_squad_runs as squad_runs
from transformer.augmentation.candidates import MaskedLM
from transformer.checkpoint import load_tokenizer, save_model
from transformer.config import BertConfig
from transformer.data.features import encode_file
from transformer.modeling import (
    BertForMaskedLM,
    BertForPreTraining,
    TinyBertForQuestionAnswering,
    TinyBertForSequenceClassification,
)
from transformer.optimization import BertAdam
from transformer.tasks.table import get_task
from transformer.training.processes import Processes
from transformer.training.scoring import predict

DEVICE = torch.device("meta")
STEPS = 4  # less than an epoch: nothing is logged, no state is saved


class Refused(Exception):
    """What a GPU would refuse, or wait for."""


class Enough(Exception):
    """The steps were made."""


class Watch(TorchDispatchMode):
    """Refuses, while it is strict, operations over tensors of two devices, and copies from one to another."""

    strict = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        devices = {tensor.device for tensor in tensors_in([args, kwargs, result])}
        if self.strict and len(devices) > 1:
            raise Refused(f"{func} of tensors on {devices}")
        return result


class OnDevice(Processes):
    """A process whose batches may be copied to the device: on a GPU the host does not wait for what send() copies."""

    def send(self, tensors):
        with mock.patch.object(Watch, "strict", False):
            return tuple(tensor.to(self.device) for tensor in tensors)


ONE = OnDevice(0, 1, DEVICE)


def tensors_in(values):
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple, dict)):
            yield from tensors_in(value.values() if isinstance(value, dict) else value)


@pytest.fixture
def device(monkeypatch):
    """The device, as torch would have it if it were a GPU."""
    def autocast(device_type, *_, **__):
        assert device_type == DEVICE.type  # of another it would cast nothing
        return contextlib.nullcontext()

    tensor = torch.tensor  # which makes a tensor of values on a GPU by a copy, for which the host waits
    monkeypatch.setattr("torch.tensor", lambda values, device="cpu", **options: tensor(values, **options).to(device))
    monkeypatch.setattr("torch.autocast", autocast)
    monkeypatch.setattr("transformer.training.processes.join_processes", lambda *_: ONE)
    return DEVICE


@pytest.fixture
def steps(script, device, monkeypatch):
    """steps(name, arguments): make some optimizer steps of a script on the device. All between the end of the second
    and the end of the last is watched."""
    done, step = [], BertAdam.step

    def watched(self, closure=None):
        step(self)
        done.append(self)  # of several students each has its own
        monkeypatch.setattr(Watch, "strict", done.count(self) > 1)  # the first steps of all may set something up
        if done.count(self) == STEPS:
            raise Enough

    monkeypatch.setattr(BertAdam, "step", watched)
    monkeypatch.setattr("transformer.training.scoring.model_sha256", lambda model: "of a teacher without numbers")
    monkeypatch.setattr("transformer.training.scoring.predict", lambda model, head, sequences, *_: head.unpack(
        np.zeros(head.numbers(sequences.lengths).sum(), np.float32), sequences.lengths))

    def call(name, arguments):
        with Watch(), pytest.raises(Enough):
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


@pytest.mark.parametrize("model_type", ["electra", "nezha", "albert"])
@pytest.mark.parametrize("name", ["general_distill", "finetune_teacher"])
def test_other_teachers_stay_on_their_device_and_wait_for_nothing(name, model_type, tiny, steps):
    config = BertConfig.from_dict({**TEACHER, "model_type": model_type, "embedding_size": 8})
    save_model(BertForPreTraining(config), tiny / "other", tiny / "vocab.txt")
    make, role = (general, "teacher_model") if name == "general_distill" else (finetune, "model")
    steps(name, make(tiny, no_cuda=None, train_batch_size=4, **{role: tiny / "other"}))


def test_the_steps_of_two_students_stay_on_their_device_and_wait_for_nothing(tiny, steps):
    two = ["--student_model", tiny / "config", tiny / "config", "--output_dir", tiny / "one", tiny / "two"]
    steps("general_distill", [*general(tiny, no_cuda=None, train_batch_size=4), *two])


@pytest.mark.parametrize("name,make,changes", [
    ("task_distill", squad_runs.distill, {}), ("task_distill", squad_runs.distill, {"pred_distill": True}),
    ("task_distill", squad_runs.distill, {"pred_distill": True, "preset": "code", "precision": "bf16"}),
    ("task_distill", squad_runs.distill, {"pred_distill": True, "hard_labels": True}),
    ("finetune_teacher", squad_runs.teacher, {})])
def test_a_step_of_squad_stays_on_its_device_and_waits_for_nothing(name, make, changes, tiny, steps):
    squad_runs.write_data(tiny / "data", "squad2")
    save_model(TinyBertForQuestionAnswering(BertConfig(**TEACHER)), tiny / "teacher_squad2", tiny / "vocab.txt")
    check = {"skip_teacher_check": True} if name == "task_distill" else {}
    steps(name, make(tiny, "squad2", no_cuda=None, train_batch_size=4, **check, **changes))


def test_scoring_asks_for_numbers_after_the_last_batch(tiny, device):
    task = get_task("MRPC")
    path = tiny / "glue" / "MRPC" / "train.tsv"
    sequences = encode_file(task, path, load_tokenizer(tiny / "bert", True), 24, path.parent / "features")
    model, calls = TinyBertForSequenceClassification(BertConfig(**STUDENT), 2), []
    model.register_forward_hook(lambda *_: calls.append(1))
    predict(model, task.head, sequences, 5, Processes(0, 1, torch.device("cpu")))
    batches = len(calls)
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        predict(model.to(device), task.head, sequences, 5, ONE)
    assert len(calls) == 2 * batches > 4


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_candidates_are_found_without_waiting(precision, tiny, device, monkeypatch):
    model = BertForMaskedLM.from_pretrained(tiny / "bert").to(device)
    masked_lm = MaskedLM(model, load_tokenizer(tiny / "bert", True), 3, precision)
    batch = ONE.send(torch.ones(3, 4, 8, dtype=torch.int64))
    positions, is_character = ONE.send(torch.ones(2, 4, dtype=torch.int64))
    monkeypatch.setattr(Watch, "strict", True)
    with Watch():
        assert masked_lm.best(*batch, positions, is_character).shape == (4, 3)
