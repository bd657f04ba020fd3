"""Work that no loss reads is left out, and what is left equals the whole: scores, layers, heads, frozen weights."""
import functools
import itertools

import pytest
import torch
from torch.testing import assert_close

from transformer.config import BertConfig
from transformer.distillation import (
    ablate,
    attention_loss,
    hidden_loss,
    layer_map,
    needed,
    soft_cross_entropy,
    transformer_losses,
)
from transformer.modeling import (
    BertModel,
    BertSelfAttention,
    TinyBertForPreTraining,
    TinyBertForQuestionAnswering,
    TinyBertForSequenceClassification,
    fused_attention,
)
from transformer.optimization import freeze_unused

TOLERANCE = {"rtol": 0, "atol": 1e-5}
ABLATIONS = [(), ("attn",), ("hidn",), ("embd", "hidn"), ("attn", "hidn"), ("attn", "embd")]


def config(layers, hidden=24):
    return BertConfig(vocab_size=61, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=4,
                      intermediate_size=40, max_position_embeddings=16, initializer_range=0.2)


@pytest.fixture
def batch():
    torch.manual_seed(3)
    input_ids, mask = torch.randint(1, 61, (3, 11)), torch.ones(3, 11, dtype=torch.long)
    mask[1, 7:] = mask[2, 1:] = 0
    return input_ids * mask, torch.randint(0, 2, input_ids.shape) * mask, mask


@pytest.mark.parametrize("asked", [(), (1,), {0, 3}])
def test_fused_layers_equal_explicit_ones(batch, asked):
    model = BertModel(config(4)).eval()
    outcomes = []
    for scored in (None, asked):
        hidden, all_scores, pooled = model(*batch, attention_scores=scored)
        gradients = torch.autograd.grad(pooled.square().sum(), list(model.parameters()))
        outcomes.append((hidden, all_scores, pooled, gradients))
    (hidden, all_scores, pooled, gradients), (our_hidden, our_scores, our_pooled, our_gradients) = outcomes
    assert [layer for layer in range(4) if our_scores[layer] is not None] == sorted(asked)
    for layer in asked:
        assert_close(our_scores[layer], all_scores[layer], rtol=1e-6, atol=1e-5)  # padded ones are about -10000
    assert_close(our_hidden, hidden, **TOLERANCE)
    assert_close(our_pooled, pooled, **TOLERANCE)
    assert_close(our_gradients, gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_without_gradient_what_is_asked_for_changes_no_number(batch, training):
    """Bit by bit: students that share a teacher learn the same from it as each alone."""
    model = BertModel(config(4)).train(training)
    outcomes = {}
    for asked in ((), (1,), frozenset({0, 3}), None):
        for query_key in (False, True):
            torch.manual_seed(8)
            with torch.no_grad():
                outcomes[asked, query_key] = model(*batch, attention_scores=asked, query_key=query_key)
    hidden, _, pooled = outcomes[(), False]
    for (asked, query_key), (our_hidden, our_scores, our_pooled) in outcomes.items():
        assert all(map(torch.equal, our_hidden, hidden)) and torch.equal(our_pooled, pooled)
        for layer, (ours, every) in enumerate(zip(our_scores, outcomes[None, query_key][1])):
            if asked is None or layer in asked:
                assert all(map(torch.equal, ours, every))
            else:
                assert ours is None


@pytest.mark.parametrize("with_gradient", [True, False])
def test_scores_are_the_products_of_queries_and_keys(batch, with_gradient):
    model = BertModel(config(3)).eval()
    with torch.set_grad_enabled(with_gradient):
        hidden, all_scores, pooled = model(*batch)
        our_hidden, all_pairs, our_pooled = model(*batch, attention_scores=(0, 2), query_key=True)
    assert_close(our_hidden, hidden, **TOLERANCE)
    assert_close(our_pooled, pooled, **TOLERANCE)
    assert all_pairs[1] is None
    for scores, (query, key) in ((all_scores[layer], all_pairs[layer]) for layer in (0, 2)):
        assert query.shape == key.shape == (3, 4, 11, 6)
        products = torch.einsum("bhqd,bhkd->bhqk", query, key) / 6 ** 0.5
        is_real = batch[2].bool()[:, None, None].expand_as(products)
        assert_close(products[is_real], scores[is_real], **TOLERANCE)
        assert scores[~is_real].max() < -9000


@pytest.mark.parametrize("size", [6, 8, 26])
@pytest.mark.parametrize("masked", [True, False])
def test_heads_padded_for_a_kernel(size, masked, monkeypatch):
    """As CUDA wants them, of a multiple of 8: context and gradients are the same, what the kernel gets is padded."""
    torch.manual_seed(2)
    leaves = [torch.randn(2, 3, 9, size, requires_grad=True) for _ in range(3)]
    mask = torch.tensor([[0.0] * 9, [0.0] * 5 + [-10000.0] * 4])[:, None, None] if masked else None
    sizes, kernel = [], torch.nn.functional.scaled_dot_product_attention

    def noted(query, *args, **kwargs):
        sizes.append(query.size(-1))
        return kernel(query, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    outcomes = []
    for multiple in (1, 8):
        context = fused_attention(*leaves, mask, 0.0, multiple)
        outcomes.append((context, *torch.autograd.grad(context.square().sum(), leaves)))
    assert sizes == [size, {6: 8, 8: 8, 26: 32}[size]]
    assert_close(outcomes[1], outcomes[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("asked", [None, ()])
def test_rows_without_padding_equal_themselves_beside_padded_ones(batch, asked):
    """Alone they need no mask, and then none is used."""
    model = BertModel(config(2)).eval()
    input_ids, segments, mask = batch
    beside = model(*batch, attention_scores=asked)
    for alone in (model(input_ids[:1], segments[:1], mask[:1], attention_scores=asked),
                  model(input_ids[:1], segments[:1], attention_scores=asked)):
        assert_close(alone[0], [hidden[:1] for hidden in beside[0]], **TOLERANCE)
        assert_close(alone[1], [layer if layer is None else layer[:1] for layer in beside[1]], **TOLERANCE)


@pytest.mark.parametrize("with_gradient", [True, False])
@pytest.mark.parametrize("want_scores", [True, False])
def test_dropout_of_attention(want_scores, with_gradient):
    """One token attends to itself with probability 1, so that dropout leaves a head 0 or value / (1 - p)."""
    torch.manual_seed(0)
    attention = BertSelfAttention(BertConfig(vocab_size=9, hidden_size=8, num_attention_heads=2,
                                             attention_probs_dropout_prob=0.3))
    hidden, mask = torch.randn(2000, 1, 8), torch.zeros(2000, 1, 1, 1)
    with torch.set_grad_enabled(with_gradient):
        value = attention.value(hidden).unflatten(-1, (2, 4))
        assert_close(attention.eval()(hidden, mask, want_scores)[0].unflatten(-1, (2, 4)), value, **TOLERANCE)
        context = attention.train()(hidden, mask, want_scores)[0].unflatten(-1, (2, 4))
    dropped = (context == 0).all(-1, keepdim=True)
    assert_close(context, torch.where(dropped, torch.zeros(()), value / 0.7), **TOLERANCE)
    assert 0.26 < dropped.float().mean() < 0.34  # standard error 0.007


@pytest.mark.parametrize("layers", range(4))
def test_first_layers_equal_those_of_all(batch, layers):
    classifier = TinyBertForSequenceClassification(config(3), num_labels=2, fit_size=16).eval()
    general = TinyBertForPreTraining(config(3), fit_size=16, fit_per_layer=True).eval()
    with torch.no_grad():
        for whole, part in ((classifier.bert(*batch)[:2], classifier.bert(*batch, layers=layers)[:2]),
                            (classifier(*batch)[:0:-1], classifier(*batch, layers=layers)[:0:-1]),
                            (general(*batch)[::-1], general(*batch, layers=layers)[::-1])):
            assert (len(part[0]), len(part[1])) == (layers + 1, layers)
            assert_close(part[0], whole[0][:layers + 1], rtol=0, atol=0)
            assert_close(part[1], whole[1][:layers], rtol=0, atol=0)
        # the heads read the last layer alone
        assert (classifier.bert(*batch, layers=layers)[2] is None) == (layers < 3)
        assert (classifier(*batch, layers=layers)[0] is None) == (layers < 3)
        assert classifier(*batch, classify=False)[0] is None


def outputs(model, batch, **kwargs):
    """(attention scores, hidden states) of any model, without its head."""
    if isinstance(model, BertModel):
        return model(*batch, pool=False, **kwargs)[1::-1]
    if isinstance(model, (TinyBertForSequenceClassification, TinyBertForQuestionAnswering)):
        return model(*batch, is_student=True, classify=False, **kwargs)[1:]
    return model(*batch, **kwargs)


@pytest.mark.parametrize("mapping,without,student,teacher", [
    ("uniform", (), (2, {0, 1}, {0, 1, 2}), (6, {2, 5})),
    ("bottom", (), (2, {0, 1}, {0, 1, 2}), (2, {0, 1})),
    ("top", ("attn",), (2, set(), {0, 1, 2}), (6, set())),
    ("bottom", ("embd", "hidn"), (2, {0, 1}, set()), (2, {0, 1})),
    ("uniform", ("attn", "hidn"), (0, set(), {0}), (0, set())),
    ("last", (), (2, {1}, {2}), (6, {5})),
    ("last", ("attn",), (2, set(), {2}), (6, set())),
    ("last", ("hidn",), (2, {1}, set()), (6, {5}))])
def test_needed_by_hand(mapping, without, student, teacher):
    """Layers to run, those whose attention scores are read, and the hidden states to project."""
    pairs = ablate(layer_map(6, 2, mapping), without)
    assert needed([pairs], 0) == dict(zip(("layers", "attention_scores", "fitted"), student))
    assert needed([pairs], 1) == dict(zip(("layers", "attention_scores"), teacher))


@pytest.mark.parametrize("mapping,without", [
    *itertools.product(("uniform", "top", "bottom"), ABLATIONS), *itertools.product(["last"], ABLATIONS[:3])])
def test_losses_of_what_is_needed_equal_those_of_all(batch, mapping, without):
    student, teacher = TinyBertForPreTraining(config(2, 12), fit_size=24).eval(), BertModel(config(4)).eval()
    pairs = ablate(layer_map(4, 2, mapping), without)
    student_needs, teacher_needs = needed([pairs], 0), needed([pairs], 1)
    with torch.no_grad():
        (scores, hidden), (teacher_scores, teacher_hidden) = outputs(student, batch), outputs(teacher, batch)
        losses = transformer_losses(outputs(student, batch, **student_needs), outputs(teacher, batch, **teacher_needs),
                                    pairs)
    wanted = (sum((attention_loss(scores, teacher_scores, [pair]).item() for pair in pairs[0]), 0.0),
              sum((hidden_loss(hidden, teacher_hidden, [pair]).item() for pair in pairs[1]), 0.0))
    assert torch.stack(losses).tolist() == pytest.approx(wanted, rel=1e-4)
    has_hidden = "hidn" not in without or mapping != "last" and "embd" not in without
    assert [loss > 0 for loss in wanted] == ["attn" not in without, has_hidden]


@pytest.mark.parametrize("fit_per_layer", [False, True])
@pytest.mark.parametrize("stage", ["general", "intermediate", "span"])
def test_only_what_is_compared_is_projected(batch, stage, fit_per_layer):
    """What is not stands as None; and the numbers of the others are the same."""
    sizes = {"fit_size": 24, "fit_per_layer": fit_per_layer}
    student = {"general": TinyBertForPreTraining, "span": TinyBertForQuestionAnswering,
               "intermediate": functools.partial(TinyBertForSequenceClassification, num_labels=2)}[stage](
                   config(3, 12), **sizes).eval()
    calls = []
    for name, module in student.named_modules():
        if name.startswith("fit_dense") and isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda _, given, fitted, name=name: calls.append(name))
    whole, part = outputs(student, batch)[1], outputs(student, batch, fitted={1, 3})[1]
    names = [f"fit_denses.{index}" if fit_per_layer else "fit_dense" for index in range(4)]
    assert calls == [*names, names[1], names[3]]
    assert [hidden is None for hidden in part] == [True, False, True, False]
    assert torch.equal(part[1], whole[1]) and torch.equal(part[3], whole[3])


def test_losses_without_pairs_lie_where_the_student_is():
    hidden = [torch.zeros(1, 2, 3, device="meta")]
    for pairs in (([], []), ([], [(0, 0)])):
        assert [loss.device.type for loss in transformer_losses(([], hidden), ([], hidden), pairs)] == ["meta"] * 2


def test_attention_loss_and_its_gradient_equal_the_definition():
    """Scores at and below -100 in both models, in one of the two, and in none."""
    torch.manual_seed(5)
    layers = [[torch.randn(2, 3, 4, 4) * 60 for _ in range(2)] for _ in "st"]
    layers[0][0][0, 0, 0] = torch.tensor([-100.0, -100.0, -99.99, 3.0])
    layers[1][0][0, 0, 0] = torch.tensor([-100.0, 5.0, -100.01, -10000.0])
    ours, theirs = (layers[side][0] <= -100 for side in (0, 1))
    assert min((ours & theirs).sum(), (ours & ~theirs).sum(), (~ours & theirs).sum()) > 0, "a case is not tested"
    student = [layer.clone().requires_grad_() for layer in layers[0]]
    loss = attention_loss(student, layers[1], [(0, 0), (1, 1)])
    loss.backward()
    total = 0.0
    for ours, theirs, leaf in zip(*layers, student):
        gradient = torch.zeros(ours.numel())
        for i, (s, t) in enumerate(zip(ours.flatten().tolist(), theirs.flatten().tolist())):
            difference = (0.0 if s <= -100 else s) - (0.0 if t <= -100 else t)
            total += difference ** 2 / ours.numel()
            gradient[i] = 0.0 if s <= -100 else 2 * difference / ours.numel()
        assert_close(leaf.grad.flatten(), gradient, rtol=1e-5, atol=1e-7)
    assert loss.item() == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("mapping,without", [("uniform", ()), ("top", ("hidn",)), ("bottom", ("attn",)), ("last", ())])
def test_losses_without_scores_equal_those_with(batch, mapping, without):
    """Of a student and a teacher with other heads, padding in the batch: losses, and gradients of all weights."""
    torch.manual_seed(6)
    student, teacher = TinyBertForPreTraining(config(2, 12), fit_size=24).eval(), BertModel(config(4)).eval()
    pairs = ablate(layer_map(4, 2, mapping), without)
    outcomes = []
    for query_key in (False, True):
        with torch.no_grad():
            targets = outputs(teacher, batch, **needed([pairs], 1), query_key=query_key)
        learned = outputs(student, batch, **needed([pairs], 0), query_key=query_key)
        losses = transformer_losses(learned, targets, pairs, batch[2])
        student.zero_grad()
        sum(losses).backward()
        outcomes.append((torch.stack(losses), {name: weight.grad for name, weight in student.named_parameters()}))
    (losses, gradients), (our_losses, our_gradients) = outcomes
    assert_close(our_losses, losses, rtol=1e-5, atol=0)
    largest = max(gradient.norm() for gradient in gradients.values() if gradient is not None)
    for name, gradient in gradients.items():
        ours = our_gradients[name]
        assert (ours is None) == (gradient is None), name
        assert gradient is None or (ours - gradient).norm() <= 1e-5 * largest + 1e-4 * gradient.norm(), name


def test_several_students_need_what_each_of_them_needs():
    pairs = [layer_map(12, 4), layer_map(12, 6), ablate(layer_map(12, 3, "bottom"), ("hidn",))]
    assert needed([pairs[2], layer_map(12, 5, "last")], 1) == {"layers": 12, "attention_scores": {0, 1, 2, 11}}
    assert needed(pairs, 1) == {"layers": 12, "attention_scores": {2, 5, 8, 11} | {1, 3, 5, 7, 9, 11} | {0, 1, 2}}
    assert needed(pairs[2:], 1) == {"layers": 3, "attention_scores": {0, 1, 2}}
    assert needed([ablate(each, ("attn",)) for each in pairs[:2]], 1) == {"layers": 12, "attention_scores": set()}
    assert needed([([], [(0, 0)]), ([], [])], 1) == {"layers": 0, "attention_scores": set()}


HEAD = {"general": ("bert.pooler.", "cls."), "intermediate": ("bert.pooler.", "classifier.")}
BESIDE_LAST_SCORES = tuple(f"bert.encoder.layer.1.{part}." for part in (
    "attention.self.value", "attention.output", "intermediate", "output"))


@pytest.mark.parametrize("stage", HEAD)
@pytest.mark.parametrize("without,unreached,mapping", [
    ((), (), "uniform"), (("attn",), (), "uniform"), (("embd",), (), "uniform"), (("embd", "attn"), (), "uniform"),
    (("hidn",), BESIDE_LAST_SCORES, "uniform"), (("hidn", "embd"), ("fit_dense.", *BESIDE_LAST_SCORES), "uniform"),
    (("hidn", "attn"), ("bert.encoder.",), "uniform"), ((), (), "last"), (("attn",), (), "last"),
    (("hidn",), ("fit_dense.", *BESIDE_LAST_SCORES), "last")])
@pytest.mark.parametrize("fit_per_layer", [False, True])
def test_freeze_unused(batch, stage, without, unreached, mapping, fit_per_layer):
    """The word embeddings stay trained, though the masked-LM head, which no loss reads, shares them."""
    fit = {"fit_size": 24, "fit_per_layer": fit_per_layer}
    student = TinyBertForPreTraining(config(2, 12), **fit) if stage == "general" else \
        TinyBertForSequenceClassification(config(2, 12), num_labels=2, **fit)
    pairs = ablate(layer_map(4, 2, mapping), without)
    if fit_per_layer:
        layers = () if "hidn" in without else (2,) if mapping == "last" else (1, 2)
        read = {*layers, *(() if "embd" in without or mapping == "last" else (0,))}
        unreached = (*(part for part in unreached if part != "fit_dense."),
                     *(f"fit_denses.{index}." for index in range(3) if index not in read))
    with torch.no_grad():
        teacher = outputs(BertModel(config(4)).eval(), batch)

    def loss():
        return sum(transformer_losses(outputs(student, batch, **needed([pairs], 0)), teacher, pairs))

    everything = {name for name, _ in student.named_parameters()}
    frozen = freeze_unused(student, loss())
    assert set(frozen) == {name for name in everything if name.startswith(HEAD[stage] + unreached)}
    assert all(parameter.grad is None for parameter in student.parameters())
    loss().backward()
    assert {name for name, parameter in student.named_parameters() if parameter.grad is not None} == \
        {name for name, parameter in student.named_parameters() if parameter.requires_grad} == everything - set(frozen)
    assert freeze_unused(student, loss()) == []


def test_prediction_stage_freezes_nothing(batch):
    student = TinyBertForSequenceClassification(config(2), num_labels=2)
    logits, _, _ = student(*batch, attention_scores=())
    assert freeze_unused(student, soft_cross_entropy(logits, torch.randn(3, 2))) == []


def test_losses_under_bfloat16(batch):
    """A teacher of bfloat16 weights, a student under autocast: float32 losses near those of float32, and gradients."""
    torch.manual_seed(1)
    student, teacher = TinyBertForPreTraining(config(2, 12), fit_size=24).eval(), BertModel(config(4)).eval()
    pairs = layer_map(4, 2)
    student_needs, teacher_needs = needed([pairs], 0), needed([pairs], 1)
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        with torch.no_grad():
            targets = outputs(teacher.to(dtype), batch, **teacher_needs)
        assert {tensor.dtype for tensors in targets for tensor in tensors if tensor is not None} == {dtype}
        assert [scores is not None for scores in targets[0]] == [False, True, False, True]
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            learned = outputs(student, batch, **student_needs)
        losses.append(torch.stack(transformer_losses(learned, targets, pairs)))
        sum(losses[-1]).backward()
        assert losses[-1].dtype == student.fit_dense.weight.grad.dtype == torch.float32
    assert_close(losses[1], losses[0], rtol=0.03, atol=0)


def test_models_compile_as_one_graph(batch):
    model = TinyBertForPreTraining(config(2), fit_size=16).eval()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for kwargs in ({}, {"attention_scores": (1,)}, {"layers": 1, "attention_scores": ()}, {"query_key": True},
                   {"fitted": frozenset([2])}):
        assert_close(compiled(*batch, **kwargs), model(*batch, **kwargs), rtol=1e-6, atol=1e-5)


def test_a_model_leaves_the_config_that_it_is_given_alone():
    given = config(2)
    model = TinyBertForSequenceClassification(given, num_labels=2)
    assert given == config(2) and model.config.classifier_relu is True and model.bert.config is model.config
