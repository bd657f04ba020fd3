"""Losses and layer maps against numbers worked out by hand and naive loops."""
import dataclasses
import itertools
import json
import math
import re
import shutil

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from tests.conftest import PIECES, STUDENT, assert_equal_weights, edit_config, general, lines, run, train
from transformer import distillation
from transformer.checkpoint import save_model
from transformer.config import MAX_PARAMETERS, BertConfig
from transformer.distillation import (
    attention_loss,
    chosen_attention_loss,
    compared,
    compiler_fault,
    copy_layers,
    gram_attention_loss,
    hidden_loss,
    layer_map,
    losses_on,
    lowest_score,
    needed,
    soft_cross_entropy,
    transformer_losses,
    warn_of_low_scores,
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


@pytest.mark.parametrize("teacher,student", [(12, 4), (12, 5), (24, 4), (4, 6), (1, 1)])
def test_layer_map_of_the_last_layers(teacher, student):
    """Whatever their numbers: the outputs of the two last layers, which are hidden states `student` and `teacher`."""
    assert layer_map(teacher, student, "last") == ([(student - 1, teacher - 1)], [(student, teacher)])


SIZES = {"vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 12,
         "max_position_embeddings": 6}


LARGE = {"num_attention_heads": 12, "hidden_size": 312}  # of a student; such a teacher has 16 heads
HEADS = "student has 4 attention heads, the teacher 2: .*--without attn, or take a student of 2 heads$"
WIDTH = "student has 12 attention heads, the teacher 16: .*--without attn, .* 16 heads, whose hidden_size is a " \
    "multiple of that: 312 is none$"


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
    ({"num_hidden_layers": 3}, "last", [], [(2, 3)], [(3, 4)]),
    ({"num_hidden_layers": 6, "num_attention_heads": 4}, "last", ["attn"], [], [(6, 4)]),
    ({"num_hidden_layers": 3}, "last", ["hidn"], [(2, 3)], []),
    ({"num_attention_heads": 4}, "last", [], HEADS, None),
    ({"num_attention_heads": 4}, "last", ["hidn"], HEADS, None),
    (LARGE, "uniform", [], WIDTH, None),
    (LARGE, "last", [], WIDTH, None),
    (LARGE, "uniform", ["attn"], [], [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)]),
    ({**LARGE, "num_attention_heads": 16, "hidden_size": 320}, "last", [], [(3, 3)], [(4, 4)]),
])
def test_only_what_is_compared_has_to_fit(changes, mapping, without, attention, hidden):
    wide = {"hidden_size": 1024, "num_attention_heads": 16} if changes.get("hidden_size") else {}
    student, teacher = BertConfig(**{**SIZES, **changes}), BertConfig(**{**SIZES, **wide})
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
    refused("general_distill", *general(tiny, init_from_teacher_layers=True, layer_mapping="last"),
            words=("--init_from_teacher_layers", "--layer_mapping", "last names one layer alone"))


def last_scores(model, hidden_states, mask):
    """Attention scores of the last layer of a model of transformers, from its input."""
    own, heads = model.encoder.layer[-1].attention.self, model.config.num_attention_heads
    query, key = (part(hidden_states[-2]).unflatten(-1, (heads, -1)).transpose(1, 2) for part in (own.query, own.key))
    return query @ key.mT / query.shape[-1] ** 0.5 * mask[:, None, None]


@pytest.mark.parametrize("fit_per_layer", [False, True])
@pytest.mark.parametrize("without", [[], ["attn"], ["hidn"]])
@pytest.mark.parametrize("gram", [False, True])
def test_losses_of_the_last_layers_equal_the_definition(gram, without, fit_per_layer, tiny):
    """AutoTinyBERT's: losses, and gradients of all weights, from transformers' models; padding in the batch."""
    student = TinyBertForPreTraining(BertConfig(**{**STUDENT, "num_hidden_layers": 3}), 16, fit_per_layer).eval()
    save_model(student, tiny / "start", tiny / "vocab.txt")
    teacher = BertModel.from_pretrained(tiny / "bert").eval()
    own, other = (transformers.BertModel.from_pretrained(tiny / name, add_pooling_layer=False).eval()
                  for name in ("start", "bert"))
    torch.manual_seed(1)
    mask = padding([9, 4, 1], 9)
    ids = torch.randint(5, 40, (3, 9)) * mask
    batch = ids, torch.zeros_like(ids), mask
    hidden, other_hidden = (model(ids, attention_mask=mask, output_hidden_states=True).hidden_states
                            for model in (own, other))
    dense = torch.nn.Linear(8, 16)
    dense.load_state_dict((student.fit_denses[3] if fit_per_layer else student.fit_dense).state_dict())
    squares = (last_scores(own, hidden, mask) - last_scores(other, other_hidden, mask).detach()) ** 2
    wanted = (squares.mean() * ("attn" not in without),
              ((dense(hidden[3]) - other_hidden[4].detach()) ** 2).mean() * ("hidn" not in without))
    sum(wanted).backward()

    pairs = compared(student.config, teacher.config, "last", without)
    with torch.no_grad():
        states, scores, _ = teacher(*batch, pool=False, query_key=gram, **needed([pairs], 1))
    losses = transformer_losses(student(*batch, query_key=gram, **needed([pairs], 0)), (scores, states), pairs, mask)
    sum(losses).backward()
    assert torch.stack(losses).tolist() == pytest.approx([loss.item() for loss in wanted], rel=1e-4)
    gradients = {f"bert.{name}": weight.grad for name, weight in own.named_parameters()}
    gradients |= {f"{'fit_denses.3' if fit_per_layer else 'fit_dense'}.{name}": weight.grad
                  for name, weight in dense.named_parameters()}
    for name, weight in student.named_parameters():
        gradient = gradients.get(name)
        if gradient is None or not gradient.any():
            assert weight.grad is None or not weight.grad.any(), name
        else:
            torch.testing.assert_close(weight.grad, gradient, rtol=1e-3, atol=1e-6, msg=name)


SCRIPTS = pytest.mark.parametrize("name,make", [("general_distill", general), ("task_distill", train)])


@SCRIPTS
def test_a_run_on_the_last_layers(name, make, tiny, script):
    """Of three layers and a teacher of four: all that lies under the last layer's output learns, and of the projections
    the last alone."""
    config = BertConfig(**{**STUDENT, "num_hidden_layers": 3})
    save_model(TinyBertForPreTraining(config, 16, fit_per_layer=True), tiny / "start", tiny / "vocab.txt")
    run(script, name, make(tiny, student_model=tiny / "start", layer_mapping="last", learning_rate=1e-2,
                           continue_train=name == "general_distill"))
    before, after = (read_weights(tiny / folder) for folder in ("start", "out"))
    shared = before.keys() & after.keys()
    moved = {weight for weight in shared if not torch.equal(before[weight], after[weight])}
    aside = ("cls.", "bert.pooler.", "fit_denses.0.", "fit_denses.1.", "fit_denses.2.")
    assert moved >= {weight for weight in shared if not weight.startswith(aside) and not weight.endswith("key.bias")}
    assert moved >= {"fit_denses.3.weight", "fit_denses.3.bias", "bert.encoder.layer.0.output.dense.weight"}
    # the decoder of the masked LM is the word embeddings
    assert {weight for weight in moved if weight.startswith(aside)} <= {"cls.predictions.decoder.weight"}


@SCRIPTS
def test_a_teacher_with_other_heads(name, make, tiny, script, refused):
    """Of 16 heads, a student of 2: hidden states alone are compared, with either mapping."""
    for folder in ("bert", "teacher_mrpc"):
        edit_config(tiny / folder, num_attention_heads=16)
    words = ("2 attention heads, the teacher 16", "--without attn", "multiple of that: 8 is none")
    for mapping in ("uniform", "last"):
        refused(name, *make(tiny, layer_mapping=mapping), words=words)
        refused(name, *make(tiny, layer_mapping=mapping, without="embd" if mapping == "uniform" else "hidn"),
                words=words)
        run(script, name, make(tiny, layer_mapping=mapping, without="attn", output_dir=tiny / mapping))
        record = lines(tiny / mapping / "metrics.jsonl")[-1]
        assert record["att_loss"] == 0 < record["rep_loss"]


def projections(folder):
    return {weight: tensor for weight, tensor in read_weights(folder).items() if weight.startswith("fit_dense")}


def test_a_projection_for_each_hidden_state(tiny, script, refused):
    """From general distillation to the last stage, where it is gone; a checkpoint keeps its own form."""
    run(script, "general_distill", general(tiny, fit_per_layer=True, learning_rate=1e-2, output_dir=tiny / "ours"))
    made = projections(tiny / "ours")
    assert {weight: tensor.shape for weight, tensor in made.items()} == {
        f"fit_denses.{index}.{kind}": shape for index in range(3) for kind, shape in (("weight", (16, 8)),
                                                                                     ("bias", (16,)))}
    assert all(tensor.any() for tensor in made.values()), "a bias that starts as 0 has not learnt"
    for output, fit_per_layer in (("kept", None), ("asked", True)):
        run(script, "task_distill", train(tiny, student_model=tiny / "ours", fit_per_layer=fit_per_layer,
                                          output_dir=tiny / output, learning_rate=1e-2))
    learnt = projections(tiny / "kept")
    assert learnt.keys() == made.keys() and not any(torch.equal(learnt[weight], made[weight]) for weight in made)
    assert_equal_weights(tiny / "kept", tiny / "asked", 0)
    run(script, "task_distill", train(tiny, student_model=tiny / "kept", pred_distill=True))
    assert not projections(tiny / "out")
    run(script, "task_distill", train(tiny, student_model=tiny / "out", fit_per_layer=True, output_dir=tiny / "again"))
    assert projections(tiny / "again").keys() == made.keys()  # of a checkpoint without any
    for output, fit_per_layer in (("one", None), ("each", True)):
        run(script, "task_distill", train(tiny, student_model=tiny / "config", from_scratch=True,
                                          fit_per_layer=fit_per_layer, output_dir=tiny / output))
    assert projections(tiny / "one").keys() == {"fit_dense.weight", "fit_dense.bias"}
    assert projections(tiny / "each").keys() == made.keys()
    words = (f"--fit_per_layer: {tiny}/general has one projection for all hidden states", "drop the flag")
    refused("task_distill", *train(tiny, fit_per_layer=True, output_dir=tiny / "no"), words=words)
    refused("general_distill", *general(tiny, student_model=tiny / "general", continue_train=True, fit_per_layer=True,
                                        output_dir=tiny / "no"), words=words)
    assert not (tiny / "no").exists()


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
    teacher = vocab_size and BertConfig(vocab_size=vocab_size)
    student = TinyBertForPreTraining.from_scratch(tmp_path, teacher, fit_size=16)
    assert student.config == dataclasses.replace(config, vocab_size=vocab_size or 37)
    assert student.fit_dense.weight.shape == (16, 8)
    assert student.cls.predictions.decoder.weight.shape == (vocab_size or 37, 8)
    said = f"{tmp_path}/config.json says vocab_size 37: 41 is taken, the teacher's\n"
    assert capsys.readouterr().out == (said if vocab_size == 41 else "")
    with pytest.raises(InputError, match="parameters are too many"):
        TinyBertForPreTraining.from_scratch(tmp_path, BertConfig(MAX_PARAMETERS // 8 + 1, 4, 1, 2, 4))


def test_what_a_student_s_config_leaves_out_is_the_teacher_s(tiny, script, refused):
    """The number of attention heads, in both distillations; nobody else may leave it out."""
    config = json.loads((tiny / "config" / "config.json").read_text())
    del config["vocab_size"], config["num_attention_heads"]
    (tiny / "config" / "config.json").write_text(json.dumps(config))
    run(script, "general_distill", general(tiny, output_dir=tiny / "g"))
    run(script, "task_distill", train(tiny, student_model=tiny / "config", from_scratch=True, output_dir=tiny / "t"))
    for folder in (tiny / "g", tiny / "t"):
        made = json.loads((folder / "config.json").read_text())
        assert (made["num_attention_heads"], made["vocab_size"]) == (2, len(PIECES))
    edit_config(tiny / "bert", num_attention_heads=16)
    refused("general_distill", *general(tiny), words=("config", "16 attention heads do not divide hidden_size 8"))


def test_attention_loss_by_hand():
    student = [torch.tensor([[[[1.0, -9999.0]]]]), torch.tensor([[[[2.0, 0.0]]]])]
    teacher = [torch.full((1, 1, 1, 2), 7.0), torch.tensor([[[[3.0, -10001.0]]]]), torch.tensor([[[[2.0, -100.0]]]])]
    # pair (0, 1): ((1 - 3)^2 + (0 - 0)^2) / 2 = 2; pair (1, 2): (0 + 0) / 2, since -100 counts as 0
    assert attention_loss(student, teacher, [(0, 1), (1, 2)]).item() == 2.0
    # -99.9 is a score, not a padded position: (0 - -99.9)^2 / 2
    teacher[2][0, 0, 0, 1] = -99.9
    assert attention_loss(student, teacher, [(1, 2)]).item() == pytest.approx(99.9 ** 2 / 2, rel=1e-6)


def plain_attention_loss(student, teacher, pairs, mask):
    """In float64, from the definition: queries and keys of one head and one sequence after the other."""
    total = 0.0
    for s, t in pairs:
        squares, count = 0.0, 0
        for row, head in itertools.product(range(len(mask)), range(student[s][0].shape[1])):
            (query, key), (other_query, other_key) = ([tensor[row, head].double() for tensor in pair]
                                                      for pair in (student[s], teacher[t]))
            difference = query @ key.T / query.shape[1] ** 0.5 - other_query @ other_key.T / other_query.shape[1] ** 0.5
            squares = squares + (difference[:, mask[row].bool()] ** 2).sum()
            count += difference.numel()
        total = total + squares / count
    return total


def as_scores(layers, mask):
    return [query / query.shape[-1] ** 0.5 @ key.mT + (1 - mask[:, None, None].to(query.dtype)) * -10000
            for query, key in layers]


def padding(lengths, longest):
    return (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()


def difference(ours, wanted):
    """Largest relative difference of tensors, by their norms."""
    return max(((our.double() - want.double()).norm() / want.double().norm()).item()
               for our, want in zip(ours, wanted, strict=True))


def two_models(sizes, nearness, lengths, dtype, seed=0, layers=2, heads=3):
    """Queries and keys of the layers of a student and a teacher whose heads have these sizes, and the mask. nearness:
    by what the student's differ from the teacher's; None: they have nothing in common."""
    generator = torch.Generator().manual_seed(seed)

    def layer(size):
        return tuple(torch.randn(len(lengths), heads, max(lengths), size, generator=generator) * 2 for _ in range(2))

    teacher = [layer(sizes[1]) for _ in range(layers)]
    student = [layer(sizes[0]) for _ in range(layers)]
    if nearness is not None:
        student = [tuple(ours * nearness + theirs for ours, theirs in zip(*both)) for both in zip(student, teacher)]
    student = [tuple(tensor.to(dtype).requires_grad_() for tensor in pair) for pair in student]
    return student, [tuple(tensor.to(dtype) for tensor in pair) for pair in teacher], padding(lengths, max(lengths))


@pytest.mark.parametrize("sizes,nearness,dtype,loss_error,gradient_error", [
    ((26, 64), None, torch.float32, 1e-6, 1e-6),
    ((64, 26), None, torch.float32, 1e-6, 1e-6),
    ((64, 64), 0.3, torch.float32, 2e-6, 3e-6),
    ((64, 64), 0.03, torch.float32, 1e-5, 3e-5),       # the scores are a thousand times as large as their difference
    ((26, 64), None, torch.bfloat16, 1e-6, 3e-3),      # a gradient of 16 bits is rounded by 2e-3
    # squares of 8 bits end alike, so that their sums are all rounded to one side; with products in 16 bits the loss
    # would be wrong by a hundredth, the gradient by a tenth
    ((64, 64), 0.03, torch.bfloat16, 1e-4, 3e-3)])
@pytest.mark.parametrize("gram", [True, False])
def test_attention_loss_equals_the_definition(sizes, nearness, dtype, loss_error, gradient_error, gram):
    student, teacher, mask = two_models(sizes, nearness, [37, 20, 1], dtype)
    pairs = [(0, 1), (1, 0)] if nearness is None else [(0, 0), (1, 1)]
    leaves = [tensor for pair in student for tensor in pair]
    wanted = plain_attention_loss(student, teacher, pairs, mask)
    if gram:
        loss = gram_attention_loss(student, teacher, pairs, mask)
    else:
        loss = attention_loss(as_scores([[t.float() for t in pair] for pair in student], mask),
                              as_scores([[t.float() for t in pair] for pair in teacher], mask), pairs)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(wanted.item(), rel=loss_error)
    assert difference(torch.autograd.grad(loss, leaves), torch.autograd.grad(wanted, leaves)) < gradient_error


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_attention_loss_without_scores_of_any_shape(data):
    sizes = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)), "sizes")
    lengths = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=4), "lengths")
    student, teacher, mask = two_models(sizes, None, lengths, torch.float32, data.draw(st.integers(0, 999), "seed"),
                                        heads=data.draw(st.integers(1, 3), "heads"))
    leaves = [tensor for pair in student for tensor in pair]
    pairs = [(0, 0), (1, 0), (1, 1)]
    loss, wanted = (way(student, teacher, pairs, mask) for way in (gram_attention_loss, plain_attention_loss))
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert difference(torch.autograd.grad(loss, leaves), torch.autograd.grad(wanted, leaves)) < 1e-4


def test_attention_loss_without_scores_within_autocast():
    student, teacher, mask = two_models((26, 64), None, [9, 4], torch.float32)
    leaves = [tensor for pair in student for tensor in pair]
    outcomes = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = gram_attention_loss(student, teacher, [(0, 0)], mask)
        outcomes.append((loss, *torch.autograd.grad(loss, leaves[:2])))
    assert all(map(torch.equal, *outcomes))


class NotedPrecision(TorchDispatchMode):
    """Notes how exactly float32 is multiplied when a product is made."""
    def __init__(self):
        super().__init__()
        self.noted = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "mm" in str(function):
            self.noted.append(torch.get_float32_matmul_precision())
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_products_of_queries_and_keys_are_exact_whatever_the_others_are(precision):
    """Forward and backward; what was set is set again."""
    student, teacher, mask = two_models((26, 64), None, [9, 4], torch.float32)
    torch.set_float32_matmul_precision(precision)
    try:
        with NotedPrecision() as products:
            gram_attention_loss(student, teacher, [(0, 0)], mask).backward()
            set_now = torch.get_float32_matmul_precision()
    finally:
        torch.set_float32_matmul_precision("highest")
    assert products.noted == ["highest"] * 4 and set_now == precision


def test_a_loss_rounded_below_0_is_0_and_its_gradient_stays():
    values = []
    for seed in range(20):
        student, teacher, mask = two_models((64, 64), 1e-6, [9, 4], torch.float32, seed)
        loss = gram_attention_loss(student, teacher, [(0, 0)], mask)
        gradient = torch.autograd.grad(loss, student[0])
        assert all(tensor.abs().max() > 0 for tensor in gradient)
        values.append(loss.item())
    assert min(values) == 0.0 < max(values) < 1e-4


@pytest.mark.parametrize("wanted,preset,length,gram", [
    ("auto", "paper", 256, True), ("auto", "paper", 255, False), ("auto", "code", 512, False),
    ("gram", "paper", 8, True), ("gram", "code", 512, True), ("scores", "paper", 512, False)])
def test_which_way_the_attention_loss_is_made(wanted, preset, length, gram):
    assert chosen_attention_loss(wanted, preset, length, [BertConfig(9)]) == ("gram" if gram else "scores")


def test_attention_loss_flag_without_that_loss(tiny, refused):
    for script, flags in (("general_distill", general), ("task_distill", train)):
        refused(script, *flags(tiny, without="attn", attention_loss="auto"),
                words=("--attention_loss", "--without attn"))


def test_lowest_score():
    """The bound where it suffices, else the score itself: of real keys alone, and of all queries, as in the loss."""
    query, key = torch.zeros(2, 2, 3, 4), torch.zeros(2, 2, 3, 4)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    query[0, 1, 2], key[0, 1, 0] = torch.tensor([0, 3.0, 4, 0]), torch.tensor([0, 0, -6.0, 8])
    assert lowest_score(query, key, mask) == -5 * 10 / 2            # by the norms; the score is -24 / 2
    key[1, 0, 2] = 1e6                                              # of padding
    query[1, 0, 2, 0] = -1e3                                        # the query of padding sees real keys
    assert lowest_score(query, key, mask) == -5 * 10 / 2
    key[1, 0, 1] = torch.tensor([0.0, 7, 0, 0])                     # -1e3 * 7 / 2 by the norms
    assert lowest_score(query, key, mask) == -24 / 2
    key[1, 0, 1, 0] = 0.5
    assert lowest_score(query.bfloat16(), key.bfloat16(), mask) == -250


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 999), st.floats(0.1, 40), st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_lowest_score_is_a_bound(seed, scale, lengths):
    (pair, *_), _, mask = two_models((5, 5), None, lengths, torch.float32, seed)
    query, key = (tensor.detach() * scale for tensor in pair)
    scores = query.double() @ key.double().mT / 5 ** 0.5
    lowest = scores.masked_fill(~mask.bool()[:, None, None], math.inf).min().item()
    bound = lowest_score(query, key, mask)
    assert bound <= lowest + 1e-5 * abs(lowest)
    assert bound > -100 or bound == pytest.approx(lowest, rel=1e-5)


def test_low_scores_are_told_once(monkeypatch, capsys):
    monkeypatch.setattr(distillation, "_WARNED", set())
    mask = torch.ones(1, 2, dtype=torch.long)
    low, high = ((torch.full((1, 1, 2, 4), value), torch.ones(1, 1, 2, 4)) for value in (-51.0, 40.0))
    warn_of_low_scores([None, high], mask, "teacher")
    warn_of_low_scores([torch.full((1, 1, 2, 2), -102.0)], mask, "teacher")  # of the loss that counts them as 0
    assert capsys.readouterr().out == ""
    for _ in range(2):
        warn_of_low_scores([high, None, low], mask, "teacher")
        warn_of_low_scores([low], mask, "student")
    out = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in out] == ["warning"] * 2
    for line, whose in zip(out, ("teacher", "student")):
        assert f"score of the {whose} is -102.0" in line and "--attention_loss scores" in line


def some_outputs(dtype=torch.float32):
    """Attention scores and hidden states of a student and a teacher, the student's with gradient, and their pairs."""
    generator = torch.Generator().manual_seed(4)
    scores = [(torch.randn(2, 3, 8, 8, generator=generator) * 60).to(dtype) for _ in range(3)]
    hidden = [torch.randn(2, 8, 12, generator=generator).to(dtype) for _ in range(4)]
    student = [scores[0].requires_grad_()], [tensor.requires_grad_() for tensor in hidden[:2]]
    return student, (scores[1:], hidden[2:]), ([(0, 1)], [(0, 0), (1, 1)])


def compared_with_plain(losses, dtype, **tolerance):
    student, teacher, pairs = some_outputs(dtype)
    leaves = [*student[0], *student[1]]
    outcomes = []
    for function in (losses, transformer_losses):
        values = function(student, teacher, pairs, torch.ones(2, 8, dtype=torch.long))
        outcomes.append((*values, *torch.autograd.grad(sum(values), leaves)))
    torch.testing.assert_close(*outcomes, **tolerance)


def test_losses_are_one_graph():
    compared_with_plain(torch.compile(transformer_losses, backend="aot_eager", fullgraph=True), torch.float32,
                        rtol=2e-7, atol=0)


@pytest.mark.skipif(not shutil.which("g++"), reason="torch compiles for the CPU with g++")
@pytest.mark.skipif(" " in torch.__file__, reason="torch does not compile where its own path has a space")
def test_compiled_losses_equal_plain_ones():
    compared_with_plain(losses_on(torch.device("cpu"), True), torch.float32, rtol=1e-6, atol=1e-10)


@pytest.mark.skipif(not shutil.which("g++"), reason="torch compiles for the CPU with g++")
def test_a_space_where_torch_compiles_is_named(tmp_path, monkeypatch):
    torch.compiler.reset()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "a folder"))
    fault = compiler_fault(torch.device("cpu"))
    assert re.fullmatch(r"InductorError: CppCompileError: .* \(torch does not compile with a space in /.* .*\)", fault)

    def broken(*args):
        raise RuntimeError("CppCompileError: g++\nand more")

    monkeypatch.setattr(torch, "compile", lambda function: broken)
    monkeypatch.setattr(torch, "__file__", "/the kit/torch/__init__.py")
    assert compiler_fault(torch.device("cpu")) == (
        "RuntimeError: CppCompileError: g++ (torch does not compile with a space in /the kit/torch)")


@pytest.mark.parametrize("device,is_compiled,finds_compiler,wanted", [
    ("cpu", False, True, False), ("cpu", True, True, True), ("cuda", False, True, True), ("cuda", False, False, False),
    ("cuda", True, False, True)])
def test_where_the_losses_are_compiled(device, is_compiled, finds_compiler, wanted, monkeypatch, capsys):
    """The loss from queries and keys never; where the compiler is broken the reason is one line."""
    def compiled(function):
        def call(*args):
            if not finds_compiler:
                raise RuntimeError("no g++\nand more")
            return "compiled", function(*args)
        return call

    ones = torch.ones(2)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "compile", compiled)
        patch.setattr(torch, "ones", lambda *_, device: ones)
        losses = losses_on(torch.device(device), is_compiled)
    said = capsys.readouterr().out
    assert said == ("" if wanted or finds_compiler else
                    "the losses are not compiled, which takes longer: RuntimeError: no g++\n")
    if finds_compiler:
        student, teacher, pairs = some_outputs()
        assert (losses(student, teacher, pairs)[0] == "compiled") == wanted
        layers, others, mask = two_models((4, 4), None, [8, 3], torch.float32)
        by_gram = losses((layers, student[1]), (others, teacher[1]), pairs, mask)
        assert all(map(torch.equal, by_gram, (gram_attention_loss(layers, others, [(0, 1)], mask),
                                              hidden_loss(student[1], teacher[1], pairs[1]))))


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
