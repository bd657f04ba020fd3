"""Losses and layer maps against numbers worked out by hand and naive loops."""
import dataclasses
import math

import pytest
import torch
from test_bad_input import general, train
from test_training import assert_equal_weights, run

from transformer.config import BertConfig
from transformer.distillation import (
    attention_loss,
    compared,
    copy_layers,
    hidden_loss,
    layer_map,
    soft_cross_entropy,
)
from transformer.files import InputError
from transformer.modeling import BertModel, TinyBertForPreTraining
from transformer.tasks.head import Classes, Score
from transformer.weights import canonical_names, read_weights


@pytest.mark.parametrize("teacher,student,mapping,attention,hidden", [
    # the paper's g(m) = 3 m for TinyBERT4 and BERT-base, layers counted from 1
    (12, 4, "uniform", [2, 5, 8, 11], [0, 3, 6, 9, 12]),
    (12, 6, "uniform", [1, 3, 5, 7, 9, 11], [0, 2, 4, 6, 8, 10, 12]),
    (12, 4, "top", [8, 9, 10, 11], [0, 9, 10, 11, 12]),
    (12, 4, "bottom", [0, 1, 2, 3], [0, 1, 2, 3, 4]),
    (2, 2, "uniform", [0, 1], [0, 1, 2]),
    (3, 2, "top", [1, 2], [0, 2, 3]),
])
def test_layer_map(teacher, student, mapping, attention, hidden):
    assert layer_map(teacher, student, mapping) == (list(enumerate(attention)), list(enumerate(hidden)))


@pytest.mark.parametrize("teacher,student,mapping", [(12, 5, "uniform"), (4, 6, "uniform"), (4, 6, "top")])
def test_layer_map_refuses(teacher, student, mapping):
    with pytest.raises(InputError, match=f"{teacher}.*{student}"):
        layer_map(teacher, student, mapping)


SIZES = {"vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 12,
         "max_position_embeddings": 6}


HEADS = "student has 4 attention heads, the teacher 2.*--without attn"


@pytest.mark.parametrize("changes,mapping,without,attention,hidden", [
    ({"num_hidden_layers": 2}, "uniform", [], [(0, 1), (1, 3)], [(0, 0), (1, 2), (2, 4)]),
    ({"num_hidden_layers": 3}, "top", [], [(0, 1), (1, 2), (2, 3)], [(0, 0), (1, 2), (2, 3), (3, 4)]),
    ({"num_hidden_layers": 2, "num_attention_heads": 4}, "uniform", ["attn"], [], [(0, 0), (1, 2), (2, 4)]),
    ({"num_hidden_layers": 3, "num_attention_heads": 4}, "uniform", ["hidn", "attn"], [], [(0, 0)]),
    ({"num_hidden_layers": 6}, "uniform", ["attn", "hidn"], [], [(0, 0)]),
    ({"num_hidden_layers": 3}, "uniform", [], "4 layers are no multiple of the student's 3", None),
    ({"num_hidden_layers": 3}, "uniform", ["attn", "embd"], "4 layers are no multiple of the student's 3", None),
    ({"num_attention_heads": 4}, "uniform", [], HEADS, None),
    ({"num_attention_heads": 4}, "uniform", ["embd", "hidn"], HEADS, None),
])
def test_only_what_is_compared_has_to_fit(changes, mapping, without, attention, hidden):
    student, teacher = BertConfig(**{**SIZES, **changes}), BertConfig(**SIZES)
    if hidden is None:
        with pytest.raises(InputError, match=attention):
            compared(student, teacher, mapping, without)
    else:
        assert compared(student, teacher, mapping, without) == (attention, hidden)


@pytest.mark.parametrize("changes", [{"hidden_size": 16}, {"intermediate_size": 13}, {"num_attention_heads": 4},
                                     {"max_position_embeddings": 7}, {"type_vocab_size": 3}])
def test_copy_layers_refuses(changes):
    student, teacher = BertModel(BertConfig(**{**SIZES, **changes})), BertModel(BertConfig(**SIZES))
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    (name, value), = changes.items()
    with pytest.raises(InputError, match=f"{name} is {value} in the student and {getattr(teacher.config, name)} in"):
        copy_layers(student, teacher, [(0, 0)])
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())


@pytest.mark.parametrize("mapping,layers", [("uniform", (1, 3)), ("top", (2, 3)), ("bottom", (0, 1))])
def test_init_from_teacher_layers(mapping, layers, tiny, script):
    """At a rate too small to change a weight, the student of two layers is still what it started as."""
    sizes = BertConfig.from_json_file(tiny / "bert" / "config.json").to_dict()
    BertConfig.from_dict({**sizes, "num_hidden_layers": 2}).to_json_file(tiny / "config" / "config.json")
    run(script, "general_distill", general(tiny, init_from_teacher_layers=True, layer_mapping=mapping,
                                           learning_rate=1e-30))
    student, teacher = (canonical_names(read_weights(tiny / folder)) for folder in ("out", "bert"))
    source = {f"bert.encoder.layer.{own}.": f"bert.encoder.layer.{other}." for own, other in enumerate(layers)}
    source["bert.embeddings."] = "bert.embeddings."
    for prefix, other in source.items():
        names = [name for name in student if name.startswith(prefix)]
        assert len(names) == (5 if "embeddings" in prefix else 16)
        for name in names:
            torch.testing.assert_close(student[name], teacher[name.replace(prefix, other)], rtol=0, atol=1e-20)


@pytest.mark.parametrize("own,other", [(16, 11), (11, 16)])
def test_copy_layers_between_embeddings_of_different_padding(own, other):
    """The rows of the 11 pieces come from the teacher; rows for padding, which no id reaches, stay as they are."""
    student, teacher = (BertModel(BertConfig(**{**SIZES, "vocab_size": rows})) for rows in (own, other))
    before = student.embeddings.word_embeddings.weight.detach().clone()
    copy_layers(student, teacher, [(0, 3)])
    words = student.embeddings.word_embeddings.weight
    assert torch.equal(words[:11], teacher.embeddings.word_embeddings.weight[:11])
    assert torch.equal(words[11:], before[11:])
    for name in ("position_embeddings.weight", "LayerNorm.weight"):
        assert torch.equal(student.embeddings.state_dict()[name], teacher.embeddings.state_dict()[name])


def test_init_from_teacher_layers_refuses(tiny, refused):
    refused("general_distill", *general(tiny, init_from_teacher_layers=True),
            words=("--init_from_teacher_layers", "hidden_size is 8 in the student and 16 in the teacher"))
    refused("general_distill", *general(tiny, init_from_teacher_layers=True, continue_train=True),
            words=("--init_from_teacher_layers", "--continue_train"))


def test_from_scratch_reads_the_config_alone(tiny, script, refused):
    for folder in ("config", "general"):  # the second has weights
        run(script, "task_distill", train(tiny, student_model=tiny / folder, from_scratch=True,
                                          output_dir=tiny / folder[0]))
    assert_equal_weights(tiny / "c", tiny / "g", 0)
    assert (tiny / "c" / "vocab.txt").read_bytes() == (tiny / "vocab.txt").read_bytes()
    refused("task_distill", *train(tiny, student_model=tiny / "config"), words=("config", "vocab.txt"))


@pytest.mark.parametrize("vocab_size", [None, 37, 41])
def test_a_student_from_scratch_takes_its_teacher_s_vocabulary(vocab_size, tmp_path, capsys):
    """What differs is said; all else is the student's own, and the sizes are checked with it."""
    config = BertConfig(vocab_size=37, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                        extra={"cell": {}})
    config.to_json_file(tmp_path / "config.json")
    student = TinyBertForPreTraining.from_scratch(tmp_path, vocab_size, fit_size=16)
    assert student.config == dataclasses.replace(config, vocab_size=vocab_size or 37)
    assert student.fit_dense.weight.shape == (16, 8)
    assert student.cls.predictions.decoder.weight.shape == (vocab_size or 37, 8)
    said = f"{tmp_path}/config.json says vocab_size 37: 41 is taken, the teacher's\n"
    assert capsys.readouterr().out == (said if vocab_size == 41 else "")
    with pytest.raises(InputError, match="parameters are too many"):
        TinyBertForPreTraining.from_scratch(tmp_path, 10**9)


def test_attention_loss_by_hand():
    student = [torch.tensor([[[[1.0, -9999.0]]]]), torch.tensor([[[[2.0, 0.0]]]])]
    teacher = [torch.full((1, 1, 1, 2), 7.0), torch.tensor([[[[3.0, -10001.0]]]]), torch.tensor([[[[2.0, -100.0]]]])]
    # pair (0, 1): ((1 - 3)^2 + (0 - 0)^2) / 2 = 2; pair (1, 2): (0 + 0) / 2, since -100 counts as 0
    assert attention_loss(student, teacher, [(0, 1), (1, 2)]).item() == 2.0
    # -99.9 is a score, not a padded position: (0 - -99.9)^2 / 2
    teacher[2][0, 0, 0, 1] = -99.9
    assert attention_loss(student, teacher, [(1, 2)]).item() == pytest.approx(99.9 ** 2 / 2, rel=1e-6)


def test_hidden_loss_counts_padding_and_sums_layers():
    student = [torch.zeros(1, 2, 2), torch.ones(1, 2, 2)]
    teacher = [torch.tensor([[[1.0, 1.0], [3.0, 3.0]]]), torch.full((1, 2, 2), 9.0), torch.full((1, 2, 2), 2.0)]
    # (1 + 1 + 9 + 9) / 4 + (1 + 1 + 1 + 1) / 4
    assert hidden_loss(student, teacher, [(0, 0), (1, 2)]).item() == 6.0


def test_soft_cross_entropy_by_hand():
    student, teacher = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[math.log(4), 0.0]])
    # softmax of teacher .8 .2, of student .25 .75; mean over 2 classes
    wanted = -(0.8 * math.log(0.25) + 0.2 * math.log(0.75)) / 2
    assert soft_cross_entropy(student, teacher).item() == pytest.approx(wanted, abs=1e-6)
    # t = 0.5 doubles the logits: teacher 16/17 1/17, student 1/10 9/10
    wanted = -(16 / 17 * math.log(0.1) + 1 / 17 * math.log(0.9)) / 2
    assert soft_cross_entropy(student, teacher, 0.5).item() == pytest.approx(wanted, abs=1e-6)


def test_prediction_loss_targets():
    student, teacher = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [2.0]])
    score, classes = Score(), Classes(("0", "1"))
    assert score.soft_loss(student, teacher).item() == 2.0                          # ((1-3)^2 + 0) / 2
    assert score.hard_loss(student, torch.tensor([1.0, 5.0])).item() == 4.5         # (0 + (2-5)^2) / 2
    logits, teacher = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[math.log(4), 0.0]])
    assert classes.hard_loss(logits, torch.tensor([1.0])).item() == pytest.approx(-math.log(0.75), abs=1e-6)
    assert classes.soft_loss(logits, teacher) == soft_cross_entropy(logits, teacher)
    assert classes.soft_loss(logits, teacher, 0.5) == soft_cross_entropy(logits, teacher, 0.5)


def test_layers_of_a_deeper_teacher_with_another_vocabulary():
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 12}
    student = BertModel(BertConfig(vocab_size=9, num_hidden_layers=2, **sizes), add_pooler=False)
    teacher = BertModel(BertConfig(vocab_size=7, num_hidden_layers=4, **sizes), add_pooler=False)
    last = student.embeddings.word_embeddings.weight[7:].clone()
    copy_layers(student, teacher, [(0, 1), (1, 3)])
    words = student.embeddings.word_embeddings.weight
    assert torch.equal(words[:7], teacher.embeddings.word_embeddings.weight) and torch.equal(words[7:], last)
    for own, other in ((0, 1), (1, 3)):
        copied, original = student.encoder.layer[own].state_dict(), teacher.encoder.layer[other].state_dict()
        assert all(torch.equal(copied[name], original[name]) for name in original)
