"""BertAdam and its schedules against rates worked out by hand and a naive scalar loop."""
import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from transformer.config import BertConfig
from transformer.modeling import TinyBertForSequenceClassification
from transformer.optimization import SCHEDULES, BertAdam, parameter_groups

# without memory an update is the sign of the gradient, times the rate
BY_SIGN = {"b1": 0, "b2": 0, "e": 0, "weight_decay": 0}


def parameter(*values):
    return torch.nn.Parameter(torch.tensor(values))


def step(optimizer, gradients):
    """One step; how far each parameter of {parameter: gradient}, a number each, went down."""
    before = [weight.item() for weight in gradients]
    for weight, gradient in gradients.items():
        weight.grad = None if gradient is None else torch.full_like(weight, gradient)
    optimizer.step()
    return [old - weight.item() for old, weight in zip(before, gradients)]


@pytest.mark.parametrize("schedule,warmup,t_total,rates", [
    ("warmup_linear", 0.2, 10, [0, 1 / 2, 8 / 8, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0, 0]),
    # (1 + cos x) / 2 is cos^2 of x / 2
    ("warmup_cosine", 0.2, 10, [0, 1 / 2, *(math.cos(math.pi * eighth / 16) ** 2 for eighth in range(9))]),
    ("warmup_constant", 0.2, 10, [0, 1 / 2, *[1] * 10]),
    ("warmup_linear", 0, 4, [1, 3 / 4, 2 / 4, 1 / 4, 0, 0]),
    ("warmup_cosine", 0, 3, [1, 3 / 4, 1 / 4, 0]),
    ("warmup_constant", 0, 3, [1] * 4),
    *((schedule, 1, 4, [0, 1 / 4, 2 / 4, 3 / 4]) for schedule in ("warmup_linear", "warmup_cosine", "warmup_constant")),
    ("none", 0.5, 4, [1] * 5), ("constant", 0.5, 4, [1] * 5), ("warmup_linear", 0.5, -1, [1] * 5),
    # -1: no warm-up, the decay alone from the first step on
    ("warmup_linear", -1, 4, [1, 3 / 4, 2 / 4, 1 / 4, 0, 0]), ("warmup_cosine", -1, 3, [1, 3 / 4, 1 / 4, 0]),
    ("warmup_constant", -1, 3, [1] * 4), ("none", -1, 4, [1] * 5), ("warmup_linear", -1, -1, [1] * 5),
])
def test_schedules(schedule, warmup, t_total, rates):
    """The rate that is logged is the one that the next step takes."""
    weight = parameter(1.0)
    optimizer = BertAdam([weight], lr=0.1, warmup=warmup, t_total=t_total, schedule=schedule, **BY_SIGN)
    for rate in rates:
        assert optimizer.learning_rate() == pytest.approx(0.1 * rate)
        assert step(optimizer, {weight: 5.0}) == pytest.approx([0.1 * rate], abs=1e-6)


def test_defaults_are_those_of_the_published_class():
    """A constant rate, momentum of 0.9 and 0.999, decay of 0.01, gradients clipped to 1."""
    weight = parameter(2.0)
    optimizer = BertAdam([weight], lr=0.1)
    assert optimizer.defaults == {"lr": 0.1, "warmup": -1, "t_total": -1, "schedule": "warmup_linear", "b1": 0.9,
                                  "b2": 0.999, "e": 1e-6, "weight_decay": 0.01, "max_grad_norm": 1.0}
    # clipped to 1: m = 0.1, v = 0.001; then m = 0.19, v = 0.001999
    first = 0.1 * (0.1 / (math.sqrt(0.001) + 1e-6) + 0.01 * 2)
    assert step(optimizer, {weight: 5.0}) == pytest.approx([first], abs=1e-6)
    second = 0.1 * (0.19 / (math.sqrt(0.001999) + 1e-6) + 0.01 * (2 - first))
    assert step(optimizer, {weight: 5.0}) == pytest.approx([second], abs=1e-6)


def test_a_parameter_that_joins_later_has_the_rate_of_the_others():
    """One that never gets a gradient, one from the start, one that joins, in its own group too: all rates are those of
    the step, and what has had no gradient has no moments."""
    idle, first, late, alone = parameter(1.0), parameter(2.0), parameter(3.0), parameter(4.0)
    optimizer = BertAdam([{"params": [idle, first, late]}, {"params": [alone]}], lr=0.1, warmup=0.5, t_total=8,
                         **BY_SIGN)
    for number, rate in enumerate([0, 1 / 4, 2 / 4, 3 / 4, 1]):
        assert optimizer.learning_rate() == pytest.approx(0.1 * rate)
        joined = 1.0 if number >= 2 else None
        moved = step(optimizer, {idle: None, first: 1.0, late: joined, alone: joined})
        assert moved == pytest.approx([0, 0.1 * rate, *[0.1 * rate if joined else 0] * 2], abs=1e-6)
        assert (late in optimizer.state, idle in optimizer.state) == (joined is not None, False)


def test_states_of_earlier_versions_go_on():
    """They count the steps of each parameter by itself, in its state; one without a gradient has none."""
    first, second, idle = parameter(1.0), parameter(2.0), parameter(3.0)
    settings = {"lr": 0.1, "warmup": 0.5, "t_total": 8, "schedule": "warmup_linear", "b1": 0.9, "b2": 0.999, "e": 1e-6,
                "weight_decay": 0.0, "max_grad_norm": 1.0}
    old = {"state": {number: {"step": 3, "next_m": torch.tensor([0.5]), "next_v": torch.tensor([0.25])}
                     for number in (0, 1)},
           "param_groups": [{**settings, "params": [0]}, {**settings, "params": [1, 2]}]}
    optimizer = BertAdam([{"params": [first]}, {"params": [second, idle]}], lr=1e-9)
    optimizer.load_state_dict(old)
    assert optimizer.learning_rate() == pytest.approx(0.1 * 3 / 4)
    # m = 0.9 * 0.5 + 0.1 * 1, v = 0.999 * 0.25 + 0.001 * 1
    update = 0.55 / (math.sqrt(0.25075) + 1e-6)
    assert step(optimizer, {first: 1.0, second: 1.0, idle: None}) == pytest.approx([0.075 * update] * 2 + [0], abs=1e-6)
    saved = optimizer.state_dict()
    assert [group["step"] for group in saved["param_groups"]] == [4, 4]
    assert [sorted(state) for state in saved["state"].values()] == [["next_m", "next_v"]] * 2
    again = BertAdam([{"params": [first]}, {"params": [second, idle]}], lr=1e-9)
    again.load_state_dict(saved)
    assert again.learning_rate() == pytest.approx(0.1)
    assert old["state"][0]["step"] == 3, "what is loaded stays as it is"
    young = BertAdam([{"params": [first]}, {"params": [second, idle]}], lr=1e-9)
    young.load_state_dict({"state": {}, "param_groups": old["param_groups"]})  # before the first step
    assert young.learning_rate() == 0


def test_a_state_of_a_group_of_several_goes_on():
    weights = [parameter(1.0), parameter(2.0)]
    optimizer = BertAdam(weights, lr=0.1, warmup=0.5, t_total=8)
    step(optimizer, dict.fromkeys(weights, 1.0))
    again = BertAdam(weights, lr=0.1, warmup=0.5, t_total=8)
    again.load_state_dict(optimizer.state_dict())
    assert again.learning_rate() == pytest.approx(0.1 / 4)


@pytest.mark.parametrize("max_grad_norm,gradients,clipped", [
    (1.0, [[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]], [[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]),  # norms 5, 0.5 and 0
    (0.1, [[3.0, 4.0], [0.3, 0.4]], [[0.06, 0.08], [0.06, 0.08]]),
    (0.0, [[3.0, 4.0]], [[3.0, 4.0]]),
    (1e-6, [[1e-6]], [[0.5e-6]]),  # the norm is taken as 1e-6 more than it is
])
def test_gradients_are_clipped_in_place_each_tensor_by_itself(max_grad_norm, gradients, clipped):
    weights = [parameter(*[1.0] * len(values)) for values in gradients]
    for weight, values in zip(weights, gradients):
        weight.grad = torch.tensor(values)
    BertAdam(weights, lr=0.1, max_grad_norm=max_grad_norm).step()
    for weight, wanted in zip(weights, clipped):
        torch.testing.assert_close(weight.grad, torch.tensor(wanted), rtol=1e-5, atol=0)


def test_a_gpu_clips_as_the_cpu_does():
    """What takes the place of a kernel for each tensor there, called here."""
    torch.manual_seed(0)
    tensors, factors = [torch.randn(size) for size in [(2, 3), (1,), (4,), (3, 2, 1)]], torch.rand(4)
    wanted = [tensor * factor for tensor, factor in zip(tensors, factors)]
    optimizer = BertAdam(tensors, lr=0.1)
    for _ in range(2):
        scaled = [tensor.clone() for tensor in tensors]
        optimizer._scale(scaled, factors)
        for tensor, product in zip(scaled, wanted):
            assert torch.equal(tensor, product)


class Operations(TorchDispatchMode):
    """The operations that a device is given, of PyTorch's own (views and questions about a tensor aside)."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "aten" and not func.is_view:
            self.names.append(func.overloadpacket.__name__)
        if str(func) == "aten._foreach_mul_.List":
            assert [tensor.shape for tensor in args[0]] == [tensor.shape for tensor in args[1]]
        return func(*args, **(kwargs or {}))


def test_kernels_on_a_gpu():
    """As many for a hundred parameters as for three, and nothing is copied to the device."""
    given = []
    for count in (3, 100):
        with FakeTensorMode():
            weights = [torch.nn.Parameter(torch.empty(number + 1, 2, device="cuda")) for number in range(count)]
            optimizer = BertAdam(weights, lr=0.1)
            for _ in range(2):  # the first makes the moments
                for weight in weights:
                    weight.grad = torch.empty_like(weight)
                with Operations() as operations:
                    optimizer.step()
            given.append(operations.names)
    assert given[0] == given[1] and len(given[0]) <= 12 and "_fused_adamw_" in given[0], given
    assert not {"_to_copy", "copy_", "lift_fresh"} & {*given[0]}


def test_gradients_that_overflow_in_16_bits():
    """GradScaler leaves the step out, and its schedule goes on as the run does: no moments, no decay, another rate."""
    first, second = parameter(1.0), parameter(2.0)
    optimizer = BertAdam([{"params": [first]}, {"params": [second]}], lr=0.1, warmup=0.5, t_total=8)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)

    def scaled_step(*gradients):
        for weight, gradient in zip((first, second), gradients):
            weight.grad = scaler.scale(torch.tensor([gradient]))
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()

    for number, gradients in enumerate([(0.5, 0.25), (float("inf"), 0.25), (0.5, float("nan"))]):
        assert optimizer.learning_rate() == pytest.approx(0.1 * number / 4)
        scaled_step(*gradients)
        assert optimizer.norms.tolist() == ([0.5, 0.25] if number == 0 else [0, 0])
        assert (first.item(), second.item()) == (1, 2)
    assert scaler.get_scale() == 1
    scaled_step(0.5, 0.25)
    # m = 0.9 * 0.05 + 0.05, v = 0.999 * 0.00025 + 0.00025, at 3/4 of the rate
    moved = 0.075 * (0.095 / (math.sqrt(0.00049975) + 1e-6) + 0.01 * 1)
    assert first.item() == pytest.approx(1 - moved, abs=1e-6)
    first.grad = scaler.scale(torch.tensor([1.0]))
    with pytest.raises(RuntimeError, match="unscale_"):
        scaler.step(optimizer)


def test_norms_are_those_before_clipping():
    weights = [parameter(1.0, 1.0), parameter(1.0), parameter(1.0)]
    for weight, gradient in zip(weights, ([3.0, 4.0], None, [-0.5])):
        weight.grad = None if gradient is None else torch.tensor(gradient)
    optimizer = BertAdam([{"params": weights[:1]}, {"params": weights[1:], "max_grad_norm": 0.0}], lr=0.1)
    optimizer.step()
    assert optimizer.norms.tolist() == [5, 0.5] and weights[0].grad.norm() <= 1


def test_bert_adam_equals_the_definition():
    """A naive scalar loop: clip per tensor, no bias correction, decay inside the update, by default of 0.01."""
    torch.manual_seed(2)
    tensors = [torch.nn.Parameter(torch.randn(size) * 5) for size in (3, 2, 2)]
    optimizer = BertAdam([{"params": tensors[:1], "weight_decay": 0.1}, {"params": tensors[1:2], "weight_decay": 0.0},
                          {"params": tensors[2:]}], lr=0.05, warmup=0.1, t_total=10)
    values = [tensor.tolist() for tensor in tensors]
    means, squares = [[0.0] * len(v) for v in values], [[0.0] * len(v) for v in values]
    for number in range(6):
        gradients = [torch.randn(3) * 4, torch.randn(2) * 0.1, torch.randn(2)]
        for tensor, gradient in zip(tensors, gradients):
            tensor.grad = gradient.clone()
        optimizer.step()
        rate = 0.05 * (number / 10 / 0.1 if number / 10 < 0.1 else (number / 10 - 1) / (0.1 - 1))
        for k, decay in enumerate((0.1, 0.0, 0.01)):
            norm = math.sqrt(sum(g * g for g in gradients[k].tolist()))
            for i, gradient in enumerate(gradients[k].tolist()):
                gradient *= min(1.0, 1.0 / (norm + 1e-6))
                means[k][i] = 0.9 * means[k][i] + 0.1 * gradient
                squares[k][i] = 0.999 * squares[k][i] + 0.001 * gradient ** 2
                values[k][i] -= rate * (means[k][i] / (math.sqrt(squares[k][i]) + 1e-6) + decay * values[k][i])
    for tensor, wanted in zip(tensors, values):
        torch.testing.assert_close(tensor.detach(), torch.tensor(wanted), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("wrong", [
    {"lr": -1e-9}, {"warmup": -1e-9}, {"warmup": -2}, {"warmup": 1.01}, {"b1": -0.1}, {"b1": 1.0}, {"b2": -0.1},
    {"b2": 1.0}, {"e": -1e-9}])
def test_values_out_of_range(wrong):
    (name, value), = wrong.items()
    with pytest.raises(ValueError, match=rf"\b{name} {value}\b.*out of range"):
        BertAdam([parameter(1.0)], **{"lr": 0.1, **wrong})


def test_unknown_schedule_lists_the_known():
    with pytest.raises(ValueError, match=f"'linear'.*{', '.join(SCHEDULES)}"):
        BertAdam([parameter(1.0)], lr=0.1, schedule="linear")


def test_biases_and_layer_norms_are_not_decayed():
    model = TinyBertForSequenceClassification(BertConfig(vocab_size=9, hidden_size=4, num_hidden_layers=1,
                                                         num_attention_heads=1, intermediate_size=4), num_labels=2)
    model.bert.pooler.requires_grad_(False)  # not trained, in neither group
    names = {id(p): name for name, p in model.named_parameters() if not name.startswith("bert.pooler.")}
    groups = parameter_groups(model, 0.01)
    decayed, kept = ([names[id(p)] for p in group["params"]] for group in groups)
    assert [group["weight_decay"] for group in groups] == [0.01, 0]
    assert len(decayed) + len(kept) == len(names)
    assert all(name.endswith("weight") and "LayerNorm" not in name for name in decayed)
    assert all(name.endswith("bias") or "LayerNorm" in name for name in kept)
