"""The published behaviour in numbers: outputs, losses and four optimizer steps of tiny models (tests/golden)."""
import json

import numpy as np
import pytest
import torch

from tests.conftest import ROOT
from transformer.config import BertConfig
from transformer.distillation import attention_loss, hidden_loss, layer_map, soft_cross_entropy
from transformer.modeling import (
    HEADS,
    BertForMaskedLM,
    BertModel,
    TinyBertForPreTraining,
    TinyBertForSequenceClassification,
)
from transformer.optimization import BertAdam, parameter_groups
from transformer.weights import canonical_names, load_strictly

GOLDEN = ROOT / "tests" / "golden"
SETTINGS = json.loads((GOLDEN / "optimizer.json").read_text())


def arrays(name):
    with np.load(GOLDEN / name) as file:
        return {key: torch.from_numpy(file[key]) for key in file}


def load(cls, role, states, **kwargs):
    model = cls(BertConfig.from_json_file(GOLDEN / f"{role}_config.json"), **kwargs)
    load_strictly(model, canonical_names(arrays(states)), states, tuple(HEADS.values()))
    return model.eval()


@pytest.fixture(scope="module")
def expected():
    return arrays("expected.npz")


@pytest.fixture(scope="module")
def batch(expected):
    return expected["input_ids"], expected["token_type_ids"], expected["attention_mask"]


def close(actual, wanted):
    torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-5)


def test_teacher_outputs(expected, batch):
    hidden, scores, pooled = load(BertModel, "teacher", "teacher_state.npz")(*batch)
    for index, tensor in enumerate(hidden):
        close(tensor, expected[f"teacher_rep_{index}"])
    for index, tensor in enumerate(scores):
        # padded scores are about -10000, where 1e-5 is below the spacing of float32
        torch.testing.assert_close(tensor, expected[f"teacher_att_{index}"], rtol=1e-6, atol=1e-5)
    close(pooled, expected["teacher_pooled"])
    close(load(BertForMaskedLM, "teacher", "teacher_state.npz")(*batch), expected["teacher_mlm_logits"])


def test_student_outputs(expected, batch):
    scores, hidden = load(TinyBertForPreTraining, "student", "student_state.npz", fit_size=SETTINGS["fit_size"])(*batch)
    for index, tensor in enumerate(hidden):
        close(tensor, expected[f"student_rep_{index}"])
    for index, tensor in enumerate(scores):
        torch.testing.assert_close(tensor, expected[f"student_att_{index}"], rtol=1e-6, atol=1e-5)


def test_classifier_outputs_and_prediction_loss(expected, batch):
    sizes = {"num_labels": SETTINGS["num_labels"], "fit_size": SETTINGS["fit_size"]}
    student, _, _ = load(TinyBertForSequenceClassification, "student", "student_classifier_state.npz", **sizes)(*batch)
    teacher, _, _ = load(TinyBertForSequenceClassification, "teacher", "teacher_classifier_state.npz", **sizes)(*batch)
    close(student, expected["student_logits"])
    close(teacher, expected["teacher_logits"])
    losses = torch.stack([soft_cross_entropy(student, teacher, temperature) for temperature in (1.0, 2.0)])
    close(losses.double(), expected["soft_cross_entropy_T1_T2"])


def test_four_steps_of_general_distillation(expected, batch):
    teacher = load(BertModel, "teacher", "teacher_state.npz")
    student = load(TinyBertForPreTraining, "student", "student_state.npz", fit_size=SETTINGS["fit_size"])
    pairs = layer_map(teacher.config.num_hidden_layers, student.config.num_hidden_layers)
    optimizer = BertAdam(parameter_groups(student, SETTINGS["weight_decay"]), lr=SETTINGS["lr"],
                         warmup=SETTINGS["warmup"], t_total=SETTINGS["t_total"], schedule=SETTINGS["schedule"])
    with torch.no_grad():
        teacher_hidden, teacher_scores, _ = teacher(*batch)
    for wanted in expected["distill_losses_att_rep_per_step"]:
        scores, hidden = student(*batch)
        losses = attention_loss(scores, teacher_scores, pairs[0]), hidden_loss(hidden, teacher_hidden, pairs[1])
        close(torch.stack(losses).double(), wanted)
        sum(losses).backward()
        optimizer.step()
        optimizer.zero_grad()
    after = arrays("student_state_after_4_steps.npz")
    assert after.keys() == student.state_dict().keys()
    before = arrays("student_state.npz")
    assert max((after[name] - before[name]).abs().max() for name in after) > 1e-3, "the golden weights do not move"
    for name, tensor in student.state_dict().items():
        close(tensor, after[name])
