"""Teachers of other families, ELECTRA, NEZHA and ALBERT: against Hugging Face transformers, loops, numbers by hand."""
import json
import math
import os

import pytest
import torch
import transformers

from tests.conftest import PIECES, STUDENT, TEACHER, edit_config, finetune, general, run, train, write_lines
from transformer.checkpoint import load_encoder, load_tokenizer, save_model
from transformer.config import MAX_PARAMETERS, BertConfig
from transformer.distillation import copy_layers
from transformer.families import ALBERT, BERT, ELECTRA, FAMILIES, NEZHA
from transformer.files import InputError, read_json
from transformer.kinds import not_bert
from transformer.modeling import (
    BertForMaskedLM,
    BertModel,
    BertSelfAttention,
    TinyBertForQuestionAnswering,
    TinyBertForSequenceClassification,
    relative_positions,
)
from transformer.weights import WEIGHTS_NAME, canonical_names, own_names, read_model, read_weights, write_bin

TOLERANCE = {"rtol": 0, "atol": 1e-5}
HF = {"vocab_size": len(PIECES), "hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 4,
      "intermediate_size": 40, "max_position_embeddings": 40, "attn_implementation": "eager"}
# the layouts that are published: narrow embeddings and others, one layer for all and several, both activations
transformers.utils.logging.disable_progress_bar()
LAYOUTS = [("Electra", {"embedding_size": 24}), ("Electra", {"embedding_size": 8}),
           ("Albert", {"embedding_size": 8}), ("Albert", {"embedding_size": 24, "hidden_act": "gelu"}),
           ("Albert", {"embedding_size": 8, "num_hidden_groups": 2, "hidden_act": "relu"})]


def scattered(model):
    """All weights away from what they begin as, so that each shows in the outputs."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator) + (parameter.ndim == 1) * 0.2)
    return model.eval()


def theirs(cls, layout, folder, **more):
    """A model of Hugging Face transformers, saved with our vocabulary beside it."""
    family, sizes = layout
    config = getattr(transformers, f"{family}Config")(**HF, **sizes, **more)
    model = scattered(getattr(transformers, f"{family}{cls}")(config))
    model.save_pretrained(folder)
    write_lines(folder / "vocab.txt", PIECES)
    return model


def batch(length=17, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, len(PIECES), (3, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, length // 2:] = 0
    return ids * mask, torch.randint(0, 2, ids.shape, generator=generator) * mask, mask


def equal_weights(folder, other):
    found, wanted = read_weights(folder), read_weights(other)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in found)


# --- against Hugging Face

@pytest.mark.parametrize("layout", LAYOUTS)
def test_hidden_states_and_attention(layout, tmp_path):
    model = theirs("Model", layout, tmp_path)
    ids, segments, mask = batch()
    with torch.no_grad():
        wanted = model(ids, mask, segments, output_hidden_states=True, output_attentions=True)
        hidden, scores, _ = load_encoder(tmp_path).eval()(ids, segments, mask)
        for ours, their in zip(hidden, wanted.hidden_states, strict=True):
            torch.testing.assert_close(ours, their, **TOLERANCE)
        for ours, their in zip(scores, wanted.attentions, strict=True):
            torch.testing.assert_close(ours.softmax(-1), their, **TOLERANCE)


@pytest.mark.parametrize("layout", LAYOUTS[2:])
def test_masked_lm_of_an_albert(layout, tmp_path):
    model = theirs("ForMaskedLM", layout, tmp_path)
    ids, segments, mask = batch()
    with torch.no_grad():
        torch.testing.assert_close(BertForMaskedLM.from_pretrained(tmp_path).eval()(ids, segments, mask),
                                   model(ids, mask, segments).logits, **TOLERANCE)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cls, ours", [("ForSequenceClassification", TinyBertForSequenceClassification),
                                       ("ForQuestionAnswering", TinyBertForQuestionAnswering)])
def test_heads_in_both_directions(layout, cls, ours, tmp_path, capsys):
    """Saved in the family's own names and type, so that Hugging Face finds every weight."""
    classes = {"num_labels": 3} if "Sequence" in cls else {}
    model = theirs(cls, layout, tmp_path / "theirs", **classes)
    inputs = batch()
    own = ours.from_pretrained(tmp_path / "theirs", **classes).eval()
    save_model(own, tmp_path / "saved", tmp_path / "theirs")
    back, report = getattr(transformers, f"{layout[0]}{cls}").from_pretrained(tmp_path / "saved",
                                                                               output_loading_info=True)
    assert not any(report.values()), report
    config = read_json(tmp_path / "saved" / "config.json")
    assert (config["model_type"], config["architectures"]) == (layout[0].lower(), [f"{layout[0]}{cls}"])
    equal_weights(tmp_path / "saved", tmp_path / "theirs")
    with torch.no_grad():
        logits = own(*inputs)[0]
        for other in (model, back.eval()):
            wanted = other(inputs[0], inputs[2], inputs[1])
            wanted = wanted.logits if classes else torch.stack((wanted.start_logits, wanted.end_logits), -1)
            torch.testing.assert_close(logits, wanted, **TOLERANCE)
    assert "relu" not in capsys.readouterr().out.replace("without a relu", "")


@pytest.mark.parametrize("cls", ["ForPreTraining", "Model"])
def test_heads_of_a_discriminator_are_left_out(cls, tmp_path, script):
    theirs(cls, LAYOUTS[1], tmp_path / "hub")
    out = run(script, "get_bert_models", ["--models", tmp_path / "hub", "--output_dir", tmp_path / "models"])
    assert "4 layers" in out and "heads: none" in out
    assert "turned into pytorch_model.bin" in run(script, "fix_teacher_layers", [tmp_path / "models" / "hub"])
    load_encoder(tmp_path / "models" / "hub")


def test_a_generator_is_refused_by_name(tmp_path, refused):
    theirs("ForMaskedLM", LAYOUTS[1], tmp_path / "hub")
    for arguments in (("get_bert_models", "--models", tmp_path / "hub", "--output_dir", tmp_path / "models"),
                      ("fix_teacher_layers", tmp_path / "hub")):
        refused(*arguments, words=("holds ELECTRA's generator", "take the discriminator"))
    edit_config(tmp_path / "hub", architectures=None)
    with pytest.raises(InputError, match="ELECTRA's generator"):  # by its weights
        read_model(tmp_path / "hub")


# --- ELECTRA

def test_pooler_with_gelu():
    config = BertConfig.from_dict({**TEACHER, "model_type": "electra", "embedding_size": 16})
    model = TinyBertForSequenceClassification(config, 2)
    assert model.config.classifier_relu is False
    hidden = torch.randn(2, 3, 16)
    dense = model.bert.pooler.dense
    wanted = torch.nn.functional.gelu(hidden[:, 0] @ dense.weight.T + dense.bias)
    torch.testing.assert_close(model.bert.pooler(hidden), wanted)


def test_no_part_of_a_classifier_vanishes(tmp_path):
    """As ELECTRA's first layer would in a BERT: a printed line is not enough."""
    model = TinyBertForSequenceClassification(BertConfig(**TEACHER), 2)
    save_model(model, tmp_path, write_lines(tmp_path / "vocab.txt", PIECES))
    state = read_weights(tmp_path)
    write_bin(tmp_path / WEIGHTS_NAME, {**state, "classifier.dense.weight": torch.ones(16, 16)})
    with pytest.raises(InputError, match="1 unexpected weights: classifier.dense.weight"):
        TinyBertForSequenceClassification.from_pretrained(tmp_path, num_labels=2)
    BertModel.from_pretrained(tmp_path)  # which has no classifier


def test_embedding_size_is_128_where_an_electra_does_not_say():
    assert BertConfig.from_dict({"vocab_size": 9, "hidden_size": 256, "model_type": "electra",
                                 "num_attention_heads": 4}).embedding_size == 128


# --- NEZHA

def rows_by_definition(furthest, size):
    """Facts of the published code: sine and cosine in turn, row p for the distance p - furthest."""
    table = torch.zeros(2 * furthest + 1, size, dtype=torch.float64)
    for p in range(2 * furthest + 1):
        for m in range(size // 2):
            table[p, 2 * m] = math.sin(p / 10000 ** (2 * m / size))
            table[p, 2 * m + 1] = math.cos(p / 10000 ** (2 * m / size))
    return table


def test_rows_by_hand():
    """The first three of four columns, for distances from -2 on."""
    rows = relative_positions(3, 2, 4, torch.device("cpu"))
    wanted = torch.tensor([[0, 1, 0, 1], [.841471, .540302, .010000, .999950], [.909297, -.416147, .019999, .999800]])
    torch.testing.assert_close(rows[:3], wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("length, furthest, size", [(1, 3, 2), (2, 1, 4), (5, 64, 6), (9, 2, 4)])
def test_rows_of_distances(length, furthest, size):
    table, rows = rows_by_definition(furthest, size), relative_positions(length, furthest, size, torch.device("cpu"))
    assert rows.shape == (2 * length, size)
    for query in range(length):
        for key in range(length):
            index = min(max(key - query, -furthest), furthest) + furthest
            torch.testing.assert_close(rows[key - query + length - 1], table[index].float(), rtol=0, atol=1e-6)


def worked_attention():
    """One head of two numbers, distances up to 1, of three tokens: q, k and v are what the hidden states hold."""
    config = BertConfig(9, hidden_size=2, num_attention_heads=1, attention_probs_dropout_prob=0.0)
    attention = BertSelfAttention(config)
    hidden = torch.tensor([[[1., 0, 1, 2, 1, 0], [0, 1, 3, 4, 0, 1], [1, 1, 0, 1, 1, 1]]])
    for number, projection in enumerate((attention.query, attention.key, attention.value)):
        projection.weight = torch.nn.Parameter(torch.eye(6)[2 * number:2 * number + 2])
        projection.bias = torch.nn.Parameter(torch.zeros(2))
    return attention, hidden


@pytest.mark.parametrize("with_gradient", [True, False])
def test_the_worked_example(with_gradient):
    attention, hidden = worked_attention()
    with torch.set_grad_enabled(with_gradient):
        context, scores = attention(hidden, None, True, relative=relative_positions(3, 1, 2, torch.device("cpu")))
    torch.testing.assert_close(scores[0, 0], torch.tensor([
        [1.302117, 2.764291, 0.642970], [2.121320, 3.210479, 0.412847], [2.828427, 5.656854, 1.684168]]),
        rtol=0, atol=2e-6)
    torch.testing.assert_close(context[0], torch.tensor([
        [1.157808, 0.576386], [0.926220, 1.368482], [0.086989, 1.937140]]), rtol=0, atol=2e-6)


def naive_nezha(state, config, ids, segments, mask):
    """Hidden states and scores by the definition, token by token, in float64."""
    state = {name.removeprefix("bert."): tensor.double() for name, tensor in state.items()}

    def linear(values, name):
        return values @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(values, name):
        return torch.nn.functional.layer_norm(values, values.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"],
                                              1e-12)

    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    table, furthest = rows_by_definition(config.max_relative_position, size), config.max_relative_position
    hidden = norm(state["embeddings.word_embeddings.weight"][ids]
                  + state["embeddings.token_type_embeddings.weight"][segments], "embeddings.LayerNorm")
    length, states, all_scores = ids.shape[1], [hidden], []
    relative = torch.stack([torch.stack([table[min(max(j - i, -furthest), furthest) + furthest]
                                         for j in range(length)]) for i in range(length)])
    for layer in range(config.num_hidden_layers):
        name = f"encoder.layer.{layer}"
        query, key, value = (linear(hidden, f"{name}.attention.self.{part}").unflatten(-1, (heads, size))
                             for part in ("query", "key", "value"))
        scores = torch.zeros(len(ids), heads, length, length, dtype=torch.float64)
        contexts = torch.zeros_like(query)
        for i in range(length):
            for j in range(length):
                scores[:, :, i, j] = ((query[:, i] * (key[:, j] + relative[i, j])).sum(-1) / math.sqrt(size)
                                      + (1 - mask[:, None, j]) * -10000.0)
            attention = scores[:, :, i].softmax(-1)
            for j in range(length):
                contexts[:, i] += attention[:, :, j, None] * (value[:, j] + relative[i, j])
        all_scores.append(scores)
        hidden = norm(linear(contexts.flatten(2), f"{name}.attention.output.dense") + hidden,
                      f"{name}.attention.output.LayerNorm")
        inner = torch.nn.functional.gelu(linear(hidden, f"{name}.intermediate.dense"))
        hidden = norm(linear(inner, f"{name}.output.dense") + hidden, f"{name}.output.LayerNorm")
        states.append(hidden)
    return states, all_scores


def nezha_config(**values):
    return BertConfig.from_dict({**TEACHER, "model_type": "nezha", "max_relative_position": 3, **values})


@pytest.mark.parametrize("length", [1, 4, 13])  # below the clip, at it, far above
def test_nezha_against_a_loop(length):
    model = scattered(BertModel(nezha_config(num_hidden_layers=2)))
    inputs = batch(length)
    wanted, wanted_scores = naive_nezha(model.state_dict(), model.config, *inputs)
    for is_learning in (True, False):
        with torch.set_grad_enabled(is_learning):
            hidden, scores, _ = model(*inputs)
        for ours, loop in zip((*hidden, *scores), (*wanted, *wanted_scores), strict=True):
            torch.testing.assert_close(ours.detach(), loop.float(), rtol=1e-5, atol=1e-5)


def test_gradients_of_relative_positions():
    """Through the views that move from distances to keys and back, against finite differences."""
    torch.manual_seed(0)
    attention = BertSelfAttention(BertConfig(9, hidden_size=4, num_attention_heads=2,
                                             attention_probs_dropout_prob=0.0)).double()
    relative = relative_positions(5, 2, 2, torch.device("cpu")).double()
    hidden = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: attention(values, None, True, relative=relative), hidden)


LAYOUT_OF_NEZHA = {
    "huawei": lambda name: name,
    "transformers": lambda name: f"nezha.{name.removeprefix('bert.')}" if name.startswith("bert.") else name,
    "transformers, with a constant in each layer": lambda name: f"nezha.{name.removeprefix('bert.')}"
    if name.startswith("bert.") else name}


@pytest.mark.parametrize("layout", LAYOUT_OF_NEZHA)
def test_published_layouts_of_nezha(layout, tmp_path, script):
    """With the leftovers that stand in their configs, and the buffers that some versions wrote: 24 in the large one."""
    model = scattered(BertForMaskedLM(nezha_config(num_hidden_layers=24)))
    state = {LAYOUT_OF_NEZHA[layout](name): tensor for name, tensor in model.state_dict().items()}
    if "constant" in layout:
        state |= {f"nezha.encoder.layer.{layer}.attention.self.relative_positions_encoding.positions_encoding":
                  torch.zeros(40, 40, 8) for layer in range(24)}
    write_bin(tmp_path / "hub" / WEIGHTS_NAME, state)
    config = {**TEACHER, "num_hidden_layers": 24, "max_relative_position": 3,  # leftovers of another family:
              "embedding_size": 128, "num_hidden_groups": 1, "inner_group_num": 1}
    config |= {"model_type": "bert", "use_relative_position": True} if layout == "huawei" else {"model_type": "nezha"}
    (tmp_path / "hub" / "config.json").write_text(json.dumps(config))
    write_lines(tmp_path / "hub" / "vocab.txt", PIECES)
    out = run(script, "fix_teacher_layers", [tmp_path / "hub"])
    assert ("positions_encoding" in out) == ("constant" in layout)
    assert "nothing to do" in run(script, "fix_teacher_layers", [tmp_path / "hub"])
    assert read_json(tmp_path / "hub" / "config.json")["model_type"] == "nezha"  # Hugging Face reads nothing else
    kept = read_weights(tmp_path / "hub")
    assert not any("positions_encoding" in name or name.startswith("bert.") for name in kept)
    loaded = BertForMaskedLM.from_pretrained(tmp_path / "hub").eval()
    with torch.no_grad():
        assert torch.equal(loaded(*batch()), model(*batch()))
    save_model(loaded, tmp_path / "saved", tmp_path / "hub")
    saved = read_json(tmp_path / "saved" / "config.json")
    assert (saved["model_type"], saved["max_relative_position"]) == ("nezha", 3)
    assert torch.equal(BertForMaskedLM.from_pretrained(tmp_path / "saved").eval()(*batch()), loaded(*batch()))


def test_a_nezha_that_calls_itself_bert():
    for config in ({"model_type": "bert", "use_relative_position": True}, {"use_relative_position": True},
                   {"model_type": "nezha"}):
        assert BertConfig.from_dict({"vocab_size": 9, **config}).max_relative_position == 64
    assert BertConfig.from_dict({"vocab_size": 9, "max_relative_position": 64}).max_relative_position is None


# --- ALBERT

def test_activations():
    """gelu_new, which torch calls gelu with tanh; by hand."""
    from transformer.config import ACTIVATIONS
    values = torch.tensor([-2., -1, 1, 2])
    torch.testing.assert_close(ACTIVATIONS["gelu_new"](values), torch.tensor(
        [-0.0454023, -0.1588080, 0.8411920, 1.9545977]), rtol=0, atol=1e-6)
    torch.testing.assert_close(ACTIVATIONS["gelu"](values), torch.tensor(
        [-0.0455003, -0.1586553, 0.8413447, 1.9544997]), rtol=0, atol=1e-6)


def test_shared_layers_are_stored_once(tmp_path):
    """In memory and on disk, where the reader compares what a file holds with its size."""
    layers = {}
    for groups in (1, 2, 12):
        config = BertConfig.from_dict({**TEACHER, "num_hidden_layers": 12, "model_type": "albert", "embedding_size": 4,
                                       "num_hidden_groups": groups})
        model = BertModel(config)
        assert len(model.encoder.layers()) == 12 and len(set(model.encoder.layers())) == groups
        assert sum(parameter.numel() for parameter in model.parameters()) == config.parameters
        save_model(model, tmp_path / str(groups), write_lines(tmp_path / "vocab.txt", PIECES))
        layers[groups] = (tmp_path / str(groups) / WEIGHTS_NAME).stat().st_size
        equal = read_model(tmp_path / str(groups))[1]
        assert all(torch.equal(equal[f"bert.{name}"], tensor) for name, tensor in model.state_dict().items())
    assert layers[12] - layers[2] > 4 * (layers[2] - layers[1])
    assert layers[1] < 20_000 + 4 * BertConfig.from_dict({**TEACHER, "model_type": "albert", "embedding_size": 4,
                                                           "num_hidden_layers": 1}).parameters


def test_groups_run_in_a_row():
    config = BertConfig.from_dict({**TEACHER, "num_hidden_layers": 6, "model_type": "albert", "num_hidden_groups": 3})
    encoder = BertModel(config).encoder
    assert [list(encoder.layer).index(layer) for layer in encoder.layers()] == [0, 0, 1, 1, 2, 2]


def test_gradients_of_a_shared_layer_add_up():
    torch.manual_seed(0)
    config = BertConfig.from_dict({**TEACHER, "model_type": "albert", "embedding_size": 4})
    shared = BertModel(config, add_pooler=False)
    apart = BertModel(BertConfig.from_dict({**config.to_dict(), "num_hidden_groups": 4}), add_pooler=False)
    apart.load_state_dict({name: shared.state_dict()[name if ".layer." not in name else
                                                     ".".join(["encoder.layer.0", *name.split(".")[3:]])]
                           for name in apart.state_dict()})
    for model in (shared, apart):
        model(*batch())[0][-1].pow(2).sum().backward()
    name = "attention.self.query.weight"
    summed = sum(layer.get_parameter(name).grad for layer in apart.encoder.layer)
    torch.testing.assert_close(shared.encoder.layer[0].get_parameter(name).grad, summed, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sizes, parameters", [
    ({"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}, 11_683_584),
    ({"hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 8192}, 58_724_864),
    ({"hidden_size": 4096, "num_hidden_layers": 12, "num_attention_heads": 64, "intermediate_size": 16384},
     222_595_584)])
def test_published_alberts_are_not_too_large(sizes, parameters):
    """Their layers count once: unshared, xxlarge would have 2.4 thousand million parameters."""
    config = BertConfig.from_dict({"vocab_size": 30_000, "model_type": "albert", "embedding_size": 128, **sizes})
    assert config.parameters == parameters < MAX_PARAMETERS
    if sizes["hidden_size"] > 768:
        with pytest.raises(InputError, match="too many"):
            BertConfig(30_000, **sizes)


@pytest.mark.parametrize("model_type, sizes, parameters", [
    ("electra", {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024}, 13_483_008),
    ("electra", {"embedding_size": 768}, 108_891_648),
    ("nezha", {"vocab_size": 21_128}, 101_874_432),
    ("nezha", {"vocab_size": 21_128, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
               "intermediate_size": 4096}, 324_998_144)])
def test_published_sizes(model_type, sizes, parameters):
    """As their files have them; an ELECTRA has no pooler."""
    config = BertConfig.from_dict({"vocab_size": 30_522, "model_type": model_type, **sizes})
    pooler = config.hidden_size * (config.hidden_size + 1) if model_type == "electra" else 0
    assert config.parameters - pooler == parameters


def test_several_layers_in_a_group_are_refused():
    with pytest.raises(InputError, match="inner_group_num is 2"):
        BertConfig.from_dict({**TEACHER, "model_type": "albert", "inner_group_num": 2})


# --- all families

@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_names_there_and_back(family):
    """Whatever is saved gets its own names, and read its canonical ones again."""
    config = BertConfig.from_dict({**TEACHER, "model_type": family.prefix, "embedding_size": 4, "num_hidden_groups": 2})
    with torch.device("meta"):
        models = [TinyBertForSequenceClassification(config, 2), TinyBertForQuestionAnswering(config)]
        models += [BertForMaskedLM(config)] if family is not ELECTRA else []
    for model in models:
        state = model.state_dict()
        own = own_names(state, family)
        assert len(own) == len(state) and [family.canonical_name(name) for name in own] == list(state)
        begin = {name.split(".")[0] for name in own} - {"classifier", "qa_outputs", "cls", "predictions"}
        assert begin == {family.prefix}
        with_wrapper = {f"module.{name}": tensor for name, tensor in own.items()}
        assert canonical_names(with_wrapper, family).keys() == state.keys()


@pytest.mark.parametrize("model_type", [None, "bert"])
@pytest.mark.parametrize("family", [ELECTRA, NEZHA, ALBERT], ids=lambda family: family.name)
def test_weights_of_another_family_than_config_says(family, model_type):
    config = {} if model_type is None else {"model_type": model_type}
    what = not_bert(config, (f"{family.prefix}.embeddings.word_embeddings.weight",))
    assert f"of the family {family.name}" in what and f"model_type {family.prefix}" in what
    assert not_bert({"model_type": family.prefix}, ("bert.embeddings.word_embeddings.weight",)) is None


DISGUISES = {  # BertModels with other names, by their config.json on the hub
    "chinese-roberta-wwm-ext": {"architectures": ["BertForMaskedLM"], "model_type": "bert", "directionality": "bidi",
                                "pooler_fc_size": 768, "pooler_type": "first_token_transform", "output_past": True,
                                "eos_token_id": 2, "bos_token_id": 0},
    "chinese-macbert-base": {"architectures": ["BertForMaskedLM"], "model_type": "bert", "directionality": "bidi",
                             "gradient_checkpointing": False},
    "rbt3": {"architectures": ["BertForMaskedLM"], "model_type": "bert", "num_hidden_layers": 3, "output_past": True},
    "rbt6": {"architectures": ["BertForMaskedLM"], "model_type": "bert", "num_hidden_layers": 6}}


@pytest.mark.parametrize("name", DISGUISES)
def test_berts_in_disguise(name, tmp_path):
    config = BertConfig.from_dict({**TEACHER, **DISGUISES[name]})
    assert config.family is BERT
    model = scattered(BertForMaskedLM(config))
    save_model(model, tmp_path, write_lines(tmp_path / "vocab.txt", PIECES))
    assert read_json(tmp_path / "config.json") | DISGUISES[name] == read_json(tmp_path / "config.json")
    with torch.no_grad():
        assert torch.equal(BertForMaskedLM.from_pretrained(tmp_path).eval()(*batch()), model(*batch()))


@pytest.mark.parametrize("model_type", ["electra", "albert"])
@pytest.mark.parametrize("name", ["general_distill", "task_distill"])
def test_students_are_berts_or_nezhas(name, model_type, tiny, refused):
    edit_config(tiny / "config", model_type=model_type)
    arguments = general(tiny) if name == "general_distill" else train(tiny, student_model=tiny / "config",
                                                                      from_scratch=True)
    refused(name, *arguments, words=(f"{tiny / 'config'}: a student is a BERT or a NEZHA", FAMILIES[model_type].name))


def encoder(model_type, **values):
    return scattered(BertModel(BertConfig.from_dict({**TEACHER, "model_type": model_type, "embedding_size": 16,
                                                     **values}), add_pooler=False))


def test_layers_are_copied_where_they_fit(capsys):
    student = encoder("bert", num_hidden_layers=2)
    teacher = encoder("electra")
    copy_layers(student, teacher, [(0, 1), (1, 3)])
    for name, tensor in student.encoder.layer[1].state_dict().items():
        assert torch.equal(tensor, teacher.encoder.layer[3].state_dict()[name])
    assert torch.equal(student.embeddings.position_embeddings.weight, teacher.embeddings.position_embeddings.weight)
    assert not capsys.readouterr().out
    before = student.embeddings.position_embeddings.weight.clone()
    copy_layers(student, encoder("nezha"), [(0, 1), (1, 3)])
    assert torch.equal(student.embeddings.position_embeddings.weight, before)
    assert "position_embeddings.weight of the student stay random, the teacher has none" in capsys.readouterr().out
    copy_layers(encoder("nezha", num_hidden_layers=2), teacher, [(0, 1), (1, 3)])
    assert "position_embeddings.weight of the teacher are left out, the student has none" in capsys.readouterr().out
    for student in (encoder("bert", num_hidden_layers=2, hidden_act="relu"),
                    encoder("nezha", num_hidden_layers=2, max_relative_position=5)):
        with pytest.raises(InputError, match="hidden_act is relu|max_relative_position is 5"):
            copy_layers(student, encoder("nezha"), [(0, 1), (1, 3)])


@pytest.mark.parametrize("teacher, words", [
    ({"model_type": "albert", "embedding_size": 4}, "4 wide and projected, as an ALBERT"),
    ({"model_type": "albert"}, "16 wide and projected, as an ALBERT"),  # an ALBERT's always are
    ({"model_type": "electra", "embedding_size": 4}, "4 wide and projected, as an ELECTRA")])
def test_layers_are_not_copied_from_narrow_embeddings(teacher, words):
    with pytest.raises(InputError, match=f"--init_from_teacher_layers: the teacher's embeddings are {words}"):
        copy_layers(encoder("bert", num_hidden_layers=2), encoder(**teacher), [(0, 1), (1, 3)])


def test_gram_does_not_know_relative_positions(tiny, refused, script):
    """Neither the teacher's nor a student's: the scores are more than products of queries and keys."""
    save_model(scattered(TinyBertForSequenceClassification(nezha_config(), 2)), tiny / "nezha", tiny / "vocab.txt")
    words = ("--attention_loss gram", "NEZHA", "--attention_loss scores")
    refused("task_distill", *train(tiny, teacher_model=tiny / "nezha", attention_loss="gram", skip_teacher_check=True),
            words=words)
    refused("general_distill", *general(tiny), "--teacher_model", tiny / "nezha", "--attention_loss", "gram",
            words=words)
    edit_config(tiny / "config", model_type="nezha")
    refused("general_distill", *general(tiny), "--attention_loss", "gram", words=words)


def test_a_teacher_of_another_family_is_fine_tuned_from_its_encoder(tiny, script):
    """A discriminator has no pooler: it is new with the classifier, as ELECTRA's, so that Hugging Face loads both."""
    theirs("ForPreTraining", ("Electra", {"embedding_size": 8}), tiny / "electra")
    out = run(script, "finetune_teacher", finetune(tiny, model=tiny / "electra"))
    assert "without relu" in out and "ElectraForSequenceClassification gives the same logits" in out
    teacher = next(path for path in tiny.rglob("final_mrpc_teacher"))
    theirs_, report = transformers.ElectraForSequenceClassification.from_pretrained(teacher, output_loading_info=True)
    assert not any(report.values())
    ours = TinyBertForSequenceClassification.from_pretrained(teacher, num_labels=2).eval()
    inputs = batch()
    with torch.no_grad():
        wanted = theirs_.eval()(inputs[0], inputs[2], inputs[1]).logits
        torch.testing.assert_close(ours(*inputs)[0], wanted, **TOLERANCE)


@pytest.mark.parametrize("model_type", ["electra", "nezha", "albert"])
def test_hf_head_is_for_classifiers_on_a_relu(model_type, tiny, refused):
    config = BertConfig.from_dict({**TEACHER, "model_type": model_type, "classifier_relu": None})
    save_model(TinyBertForSequenceClassification(config, 2), tiny / "start", tiny / "vocab.txt")
    flags = finetune(tiny, model=tiny / "start", hf_head=True)
    refused("finetune_teacher", *flags, words=(f"--hf_head has no effect on {tiny / 'start'}", model_type.upper(),
                                               "drop it"))


def test_augmentation_names_the_model_to_take(tiny, refused):
    theirs("ForPreTraining", LAYOUTS[0], tiny / "electra")
    refused("data_augmentation", "--pretrained_bert_model", tiny / "electra", "--glove_embs", os.devnull, "--glue_dir",
            tiny / "glue", "--task_name", "MRPC", words=("ELECTRA", "masked-LM head", "bert-base-uncased"))


@pytest.mark.parametrize("pred_distill", [False, True])
def test_a_teacher_of_another_family_is_no_student(pred_distill, tiny, refused):
    """Also where its weights are there: of an ALBERT's layers a student would learn one."""
    config = BertConfig.from_dict({**TEACHER, "model_type": "albert"})
    save_model(TinyBertForSequenceClassification(config, 2), tiny / "albert", tiny / "vocab.txt")
    refused("task_distill", *train(tiny, student_model=tiny / "albert", pred_distill=pred_distill or None),
            words=("a student is a BERT or a NEZHA", "ALBERT"))


def test_hugging_face_opens_the_tokenizer_of_an_albert_with_wordpieces(tmp_path):
    """As all Chinese ones have; by the model's type alone it would take another class, to which all is unknown."""
    config = BertConfig.from_dict({**TEACHER, "model_type": "albert"})
    vocab = write_lines(tmp_path.parent / "vocab.txt", PIECES)
    save_model(TinyBertForSequenceClassification(config, 2), tmp_path, vocab)
    theirs_ = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "The cat likes cats, the Bird not."
    assert theirs_(text)["input_ids"] == load_tokenizer(tmp_path).inputs(text)[0][0].tolist()


def test_null_is_no_size_and_silu_is_swish():
    config = nezha_config(max_relative_position=None, hidden_act="silu")
    assert config.max_relative_position == 64
    BertModel(config)


def test_a_student_keeps_its_family(tiny):
    config = BertConfig.from_dict({**STUDENT, "model_type": "nezha"})
    save_model(TinyBertForSequenceClassification(config, 2, fit_size=16), tiny / "student", tiny / "vocab.txt")
    saved = read_weights(tiny / "student")
    assert {"nezha.embeddings.word_embeddings.weight", "fit_dense.weight"} <= saved.keys()
    assert read_json(tiny / "student" / "config.json")["classifier_relu"] is False
