"""The losses of span heads, and how their logits are kept."""
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.conftest import ROOT
from transformer.distillation import span_cross_entropy
from transformer.tasks.spans import NO_POSITION, Spans
from transformer.tasks.table import TASKS, get_task

GOLDEN = json.loads((ROOT / "tests" / "golden" / "squad.json").read_text())["losses"]
EXPECTED = GOLDEN["results"]
HEAD = Spans(unanswerable=False)
STUDENT, TEACHER = (torch.tensor([GOLDEN[f"{who}_start"], GOLDEN[f"{who}_end"]], dtype=torch.float64).permute(1, 2, 0)
                    for who in ("student", "teacher"))
MASK = torch.tensor(GOLDEN["mask"])
LABELS = torch.tensor([GOLDEN["positions"]["start"], GOLDEN["positions"]["end"]], dtype=torch.int32).T


@pytest.mark.parametrize("temperature", [1, 2])
@pytest.mark.parametrize("mask, name", [(MASK, "padding_masked"), (torch.ones_like(MASK), "all_positions")])
def test_golden_soft_losses(temperature, mask, name):
    expected = EXPECTED[f"T{temperature}_{name}_sum_over_positions_mean_over_batch"]
    for loss in (HEAD.soft_loss(STUDENT, TEACHER, temperature, mask),
                 span_cross_entropy(STUDENT, TEACHER, mask, temperature)):
        assert loss.item() == pytest.approx(expected["average"], rel=1e-12)
    for column, side in enumerate(("start", "end")):
        only = slice(column, column + 1)
        loss = span_cross_entropy(STUDENT[..., only], TEACHER[..., only], mask, temperature)
        assert loss.item() == pytest.approx(expected[side], rel=1e-12)


@pytest.mark.parametrize("temperature", [1, 2])
@pytest.mark.parametrize("mask, name", [(MASK, "padding_masked"), (torch.ones_like(MASK), "all_positions")])
def test_the_divergence_of_others_is_the_same_less_the_entropy_of_the_teacher(temperature, mask, name):
    loss, least = (span_cross_entropy(logits, TEACHER, mask, temperature) for logits in (STUDENT, TEACHER))
    expected = EXPECTED[f"T{temperature}_{name}_kl_batchmean_average_times_T2"]
    assert (loss - least).item() * temperature ** 2 == pytest.approx(expected, rel=1e-10)


def test_golden_loss_as_published():
    expected = EXPECTED["T1_all_positions_mean_over_batch_and_positions"]["sum"]
    for mask in (MASK, None):  # padding counts
        loss = HEAD.soft_loss(STUDENT, TEACHER, 1.0, mask, as_published=True)
        assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_golden_hard_loss():
    assert HEAD.hard_loss(STUDENT, LABELS).item() == pytest.approx(EXPECTED["hard_labels_all_positions"]["average"],
                                                                   rel=1e-12)
    masked = STUDENT.masked_fill(MASK[:, :, None] == 0, NO_POSITION)
    assert HEAD.hard_loss(masked, LABELS).item() == pytest.approx(EXPECTED["hard_labels_padding_masked"]["average"],
                                                                  rel=1e-12)


def test_hugging_face_has_the_same_hard_loss():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1,
                                     intermediate_size=4, attn_implementation="eager")
    torch.manual_seed(0)
    model = transformers.BertForQuestionAnswering(config).eval()
    labels = LABELS.long()
    with torch.no_grad():
        output = model(torch.randint(9, (2, 6)), start_positions=labels[:, 0], end_positions=labels[:, 1])
    loss = HEAD.hard_loss(torch.stack([output.start_logits, output.end_logits], dim=-1), LABELS)
    assert loss.item() == pytest.approx(output.loss.item(), rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_masked_loss_does_not_depend_on_padding(temperature):
    """Neither its value nor its gradient, however far student and teacher are padded, and with what."""
    torch.manual_seed(0)
    lengths = torch.tensor([7, 4, 9])
    student, teacher = torch.randn(2, 3, 9, 2) * 4

    def loss_and_gradient(length, of_padding, teacher_length):
        mask = (torch.arange(length) < lengths[:, None]).long()
        padded = functional.pad(student, (0, 0, 0, length - 9))
        padded = torch.where(mask[:, :, None] == 1, padded, torch.full_like(padded, of_padding)).requires_grad_()
        of_teacher = functional.pad(teacher, (0, 0, 0, teacher_length - 9), value=of_padding)
        loss = HEAD.soft_loss(padded, of_teacher, temperature, mask)
        loss.backward()
        return loss.item(), padded.grad[:, :9] * mask[:, :9, None], padded.grad[mask == 0].abs().sum().item()

    expected, gradient, _ = loss_and_gradient(9, 0.0, 9)
    for case in ((16, 50.0, 16), (16, -3.0, 9), (9, 2.0, 16), (12, NO_POSITION, 10)):
        loss, of_student, of_padding = loss_and_gradient(*case)
        assert loss == pytest.approx(expected, rel=1e-6) and of_padding == 0
        assert torch.allclose(of_student, gradient, rtol=1e-5, atol=1e-8)


def test_a_batch_is_the_mean_of_its_windows_alone():
    """Without padding: the loss of [2, S, 2] is the mean of those of its windows cut to their lengths."""
    lengths = MASK.sum(dim=1).tolist()
    alone = [HEAD.soft_loss(STUDENT[[row], :length], TEACHER[[row], :length], 1.0, torch.ones(1, length))
             for row, length in enumerate(lengths)]
    assert HEAD.soft_loss(STUDENT, TEACHER, 1.0, MASK).item() == pytest.approx(sum(alone).item() / 2, rel=1e-12)


def test_kept_logits_of_a_teacher_are_padded_to_the_student():
    """As published, padding counts: what the teacher says there is kept by nobody, and counts as nothing."""
    short = 4
    loss = HEAD.soft_loss(STUDENT, TEACHER[:, :short], 1.0, MASK, as_published=True)
    shares = torch.cat([TEACHER[:, :short].softmax(1), torch.zeros(2, 2, 2)], dim=1)
    assert loss.item() == pytest.approx(-(shares * STUDENT.log_softmax(1)).sum().item() / (2 * 6), rel=1e-12)


def test_logits_without_padding_and_back():
    logits, lengths = np.arange(24, dtype=np.float32).reshape(3, 4, 2), np.array([4, 1, 3])
    flat = HEAD.pack(logits, lengths)
    assert flat.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 18, 19, 20, 21]
    assert HEAD.numbers(lengths).tolist() == [8, 2, 6] and HEAD.numbers(lengths).sum() == len(flat)
    back = HEAD.unpack(flat, lengths)
    assert back.dtype == np.float32 and back.shape == (3, 4, 2)
    for row, length in enumerate(lengths):
        assert (back[row, :length] == logits[row, :length]).all() and (back[row, length:] == NO_POSITION).all()
    assert HEAD.unpack(flat[8:], lengths[1:]).shape == (2, 3, 2)
    assert HEAD.unpack(flat[:0], lengths[:0]).shape == (0, 0, 2)


def test_what_span_heads_say_of_themselves():
    heads = [TASKS[key].head for key in ("squad1", "squad2")]
    assert [head.unanswerable for head in heads] == [False, True]
    assert [head.shown_scores for head in heads] == [("exact_match", "f1"), ("exact", "f1")]
    assert {head.metric for head in heads} == {"f1"} and {head.sees_padding for head in heads} == {True}
    assert [head.outputs for head in heads] == [("start", "end")] * 2 and heads[0].sizes == {}
    assert (heads[0].n_best_size, heads[0].max_answer_length, heads[0].null_score_diff_threshold) == (20, 30, 0.0)
    # windows are found again whatever flags choose answers
    assert replace(heads[0], n_best_size=3).key_text == heads[0].key_text != heads[1].key_text


@pytest.mark.parametrize("name, key", [("SQuAD", "squad1"), ("squad-v1.1", "squad1"), ("SQuAD1", "squad1"),
                                       ("squad2.0", "squad2"), ("SQUAD_v2", "squad2")])
def test_names_of_the_tasks(name, key):
    assert get_task(name).key == key
