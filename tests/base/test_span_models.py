"""Models with a span head, for SQuAD: equal to Hugging Face's, from folders of any package, told from classifiers."""
from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace

import pytest
import torch
import transformers
from safetensors.torch import save_file

import fix_teacher_layers
import get_bert_models
from tests.base.test_models_fix import (
    IDS,
    MASK,
    SEGMENTS,
    VOCAB,
    folder_of,
    hf_model,
    hf_output,
    old_names,
    with_buffers,
)
from tests.conftest import STUDENT, TEACHER, contents, edit_config, finetune, run, train
from transformer.checkpoint import head_note, load_model, save_model
from transformer.config import BertConfig
from transformer.fetching.sources import HUB_MODELS
from transformer.files import InputError, read_json, write_json
from transformer.inspection import check_loads, summary
from transformer.modeling import BertModel, TinyBertForQuestionAnswering, TinyBertForSequenceClassification
from transformer.tasks.labels import UNTRAINED, class_order, name_labels
from transformer.tasks.table import get_task
from transformer.training.models import load_start, load_student, load_task_model, misfit
from transformer.weights import read_model, read_weights, write_bin

SQUAD1, SQUAD2, MNLI = get_task("squad1"), get_task("squad2"), get_task("mnli")
TOLERANCE = {"rtol": 0, "atol": 1e-5}
OF_MNLI = {"id2label": {"0": "contradiction", "1": "entailment", "2": "neutral"}, "num_labels": 3,
           "label2id": {"contradiction": 0, "entailment": 1, "neutral": 2},
           "problem_type": "single_label_classification"}


@torch.no_grad()
def our_logits(folder):
    return TinyBertForQuestionAnswering.from_pretrained(folder).eval()(IDS, SEGMENTS, MASK)[0]


def their_logits(model):
    return torch.stack([hf_output(model, "start_logits"), hf_output(model, "end_logits")], -1)


def with_leftovers(state):
    """As a BERT that was pre-trained, and then taught another task, keeps them."""
    return with_buffers({
        **state, "bert.pooler.dense.weight": torch.ones(24, 24), "bert.pooler.dense.bias": torch.ones(24),
        "cls.predictions.bias": torch.ones(len(VOCAB)), "cls.seq_relationship.bias": torch.ones(2),
        "classifier.weight": torch.ones(3, 24), "classifier.bias": torch.ones(3)})


def with_old_pooler(state):
    return {name: tensor for name, tensor in with_leftovers(state).items() if not name.startswith(("cls.", "classi"))}


def of_tensorflow(separator):
    def renamed(state):
        names = {f"qa_outputs.{kind}": separator.join(("cls", "squad", f"output_{kind}s")).replace("biass", "bias")
                 for kind in ("weight", "bias")}
        return {names.get(name, name): tensor for name, tensor in old_names(state).items()}
    return renamed


LAYOUTS = {"plain": dict, "gamma_beta": old_names, "buffers": with_buffers, "old_pooler": with_old_pooler,
           "tensorflow": of_tensorflow("/"), "tensorflow_dots": of_tensorflow(".")}


def qa_folder(path, layout=dict, weights="pytorch_model.bin", **config):
    model = hf_model("BertForQuestionAnswering")
    folder = folder_of(path, model, layout(model.state_dict()), weights)
    edit_config(folder, **config)
    return folder, model


# --- equal to Hugging Face's

@pytest.mark.parametrize("weights", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("layout", [*LAYOUTS.values(), with_leftovers], ids=[*LAYOUTS, "leftovers"])
def test_a_folder_of_another_package_gives_its_logits(tmp_path, layout, weights, capsys):
    """Whatever a classifier left in it, in config.json too; what is not used is named."""
    folder, model = qa_folder(tmp_path / "model", layout, weights, **OF_MNLI)
    torch.testing.assert_close(our_logits(folder), their_logits(model), **TOLERANCE)
    out = capsys.readouterr().out
    assert ("left out, not used by TinyBertForQuestionAnswering: " in out) is (layout in (with_leftovers,
                                                                                           with_old_pooler))
    assert "relu" not in out and "newly initialised" not in out


def test_the_loss_is_hugging_faces(tmp_path):
    folder, model = qa_folder(tmp_path / "model")
    labels = torch.tensor([[5, 6], [0, 0]], dtype=torch.int32)
    wanted = model(input_ids=IDS, token_type_ids=SEGMENTS, attention_mask=MASK, start_positions=labels[:, 0].long(),
                   end_positions=labels[:, 1].long()).loss
    ours = TinyBertForQuestionAnswering.from_pretrained(folder).eval()
    loss = SQUAD1.head.hard_loss(ours(IDS, SEGMENTS, MASK)[0], labels)
    torch.testing.assert_close(loss, wanted, **TOLERANCE)
    loss.backward()
    wanted.backward()
    torch.testing.assert_close(ours.qa_outputs.weight.grad, model.qa_outputs.weight.grad, **TOLERANCE)


@pytest.mark.parametrize("safetensors", [False, True])
def test_a_saved_folder_loads_in_hugging_face(tmp_path, safetensors):
    """Though its config comes from an MNLI model with a relu."""
    torch.manual_seed(1)
    given = BertConfig(**{**TEACHER, "vocab_size": len(VOCAB)}, classifier_relu=True, extra={**OF_MNLI, "mine": 1})
    ours = TinyBertForQuestionAnswering(given, fit_size=7).eval()
    torch.nn.init.normal_(ours.qa_outputs.bias)
    name_labels(ours.config.extra, SQUAD2)
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    save_model(ours, tmp_path / "model", tmp_path / "vocab.txt", safetensors=safetensors)
    if safetensors:
        (tmp_path / "model" / "pytorch_model.bin").unlink()
    config = read_json(tmp_path / "model" / "config.json")
    assert not config.keys() & {*OF_MNLI, "classifier_relu", UNTRAINED}
    assert (config["architectures"], config["model_type"]) == (["BertForQuestionAnswering"], "bert")
    assert (config["finetuning_task"], config["mine"]) == ("SQuAD2", 1)
    assert given.classifier_relu is True and given.extra == {**OF_MNLI, "mine": 1}  # the caller's own
    theirs, report = transformers.AutoModelForQuestionAnswering.from_pretrained(
        tmp_path / "model", output_loading_info=True, attn_implementation="eager")
    assert type(theirs) is transformers.BertForQuestionAnswering
    assert not report["missing_keys"] and not report["mismatched_keys"]
    assert set(report["unexpected_keys"]) == {"fit_dense.weight", "fit_dense.bias"}
    with torch.no_grad():
        logits, _, hidden = ours(IDS, SEGMENTS, MASK, is_student=True)
    assert logits.shape == (*IDS.shape, 2) and hidden[-1].shape == (*IDS.shape, 7)
    torch.testing.assert_close(their_logits(theirs.eval()), logits, **TOLERANCE)
    assert "BertForQuestionAnswering gives the same logits" in head_note(ours.config, "f")


@pytest.mark.parametrize("sizes,count", [
    ({"num_hidden_layers": 4, "hidden_size": 312, "intermediate_size": 1200}, 14_253_218),
    ({"num_hidden_layers": 6}, 66_365_954), ({}, 108_893_186)])
def test_its_size_is_that_of_hugging_faces_class(sizes, count):
    with torch.device("meta"):
        models = (TinyBertForQuestionAnswering(BertConfig(30522, **sizes)),
                  transformers.BertForQuestionAnswering(transformers.BertConfig(**sizes)))
    assert [sum(parameter.numel() for parameter in model.parameters()) for model in models] == [count, count]


# --- what is in a folder

def test_a_span_head_is_summed_up_and_compared(tmp_path):
    folder, model = qa_folder(tmp_path / "model", **OF_MNLI)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert summary(folder).startswith(f"{folder}: {count:,} parameters, 2 layers")
    assert summary(folder).endswith("; heads: span (start and end of an answer)")
    state = read_weights(folder)
    check_loads(folder, state)
    for name, tensor, problem in (("qa_outputs.weight", torch.ones(3, 24), r"is \[3, 24\], expected \[2, 24\]"),
                                  ("qa_outputs.bias", None, "is missing")):
        changed = {**state, name: tensor} if tensor is not None else {
            key: value for key, value in state.items() if key != name}
        write_bin(folder / "pytorch_model.bin", changed)
        with pytest.raises(InputError, match=f"{name} {problem}"):
            summary(folder)
        with pytest.raises(InputError, match=name):
            check_loads(folder, changed)
    classifier = {"classifier.weight": torch.ones(3, 24), "classifier.bias": torch.ones(3)}
    write_bin(folder / "pytorch_model.bin", {**with_old_pooler(state), **classifier})
    assert summary(folder).endswith("heads: pooler, classifier (3 labels: contradiction, entailment, neutral), "
                                    "span (start and end of an answer)")


def test_the_labels_of_a_span_head():
    extra = {**OF_MNLI, "finetuning_task": "mnli", "mine": 1}
    assert class_order({"id2label": ["no table"]}, SQUAD1, "f") == class_order(extra, SQUAD2, "f") == [0, 1]
    name_labels(extra, SQUAD1, trained=False)
    assert extra == {"mine": 1, "finetuning_task": "SQuAD1", UNTRAINED: True}


# --- the folders of fix_teacher_layers.py

@pytest.mark.parametrize("weights", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_span_head_is_kept_by_fixing(tmp_path, layout, weights, capsys):
    folder, model = qa_folder(tmp_path / "bert-base-uncased-squad2", layout, weights, **OF_MNLI)
    fix_teacher_layers.main([str(folder)])
    out = capsys.readouterr().out
    assert sorted(contents(folder)) == ["config.json", "pytorch_model.bin", "vocab.txt"]
    assert "heads: span)" in out and "untrained" not in out and "relu" not in out
    assert "id2label, label2id, num_labels, problem_type dropped from config.json" in out
    assert ("embeddings.position_ids dropped" in out) is (layout in (with_buffers, with_old_pooler))
    state = read_weights(folder)
    assert ("bert.pooler.dense.weight" in state) is (layout is with_old_pooler)
    assert torch.equal(state["qa_outputs.weight"], model.qa_outputs.weight)
    torch.testing.assert_close(our_logits(folder), their_logits(model), **TOLERANCE)
    again = transformers.BertForQuestionAnswering.from_pretrained(folder, attn_implementation="eager").eval()
    torch.testing.assert_close(their_logits(again), their_logits(model), **TOLERANCE)
    before = contents(folder)
    fix_teacher_layers.main([str(folder)])
    assert contents(folder) == before and "nothing to do" in capsys.readouterr().out


def test_a_sibling_for_squad_gets_an_untrained_span_head(tmp_path, capsys):
    folder = folder_of(tmp_path / "bert-base-uncased-squad1", hf_model("BertForPreTraining"))
    fix_teacher_layers.main([str(folder)])
    assert "untrained span head added (SQuAD1)" in capsys.readouterr().out
    head = read_weights(folder)["qa_outputs.weight"]
    assert head.shape == (2, 24) and 0.15 < head.std() < 0.45  # initializer_range 0.3
    config = read_json(folder / "config.json")
    assert config[UNTRAINED] is True and config["finetuning_task"] == "SQuAD1" and "classifier_relu" not in config
    before = contents(folder)
    fix_teacher_layers.main([str(folder)])
    assert contents(folder) == before
    with pytest.raises(InputError, match=f"the span head of {folder} is untrained .*--tasks SQuAD1 --model {folder}"):
        load_task_model(folder, SQUAD1, argparse.Namespace(skip_teacher_check=False))
    load_task_model(folder, SQUAD1, argparse.Namespace(skip_teacher_check=True))


def test_both_heads_of_a_folder_are_kept(tmp_path):
    model = hf_model("BertForSequenceClassification", num_labels=3)
    qa = hf_model("BertForQuestionAnswering").state_dict()
    state = {**model.state_dict(), **{name: qa[name] for name in ("qa_outputs.weight", "qa_outputs.bias")}}
    folder = folder_of(tmp_path / "both", model, state)
    edit_config(folder, **OF_MNLI)
    fix_teacher_layers.main([str(folder)])
    assert read_weights(folder).keys() == state.keys()
    config = read_json(folder / "config.json")
    assert config["classifier_relu"] is False and config["id2label"] == OF_MNLI["id2label"]  # the classifier's
    assert our_logits(folder).shape == (*IDS.shape, 2)


# --- from the hub

@pytest.mark.parametrize("text,name", [
    ("squad1", "bert-base-uncased-squad1"), ("SQuAD", "bert-base-uncased-squad1"),
    ("bert-base-uncased-squad1", "bert-base-uncased-squad1"), ("squad2.0", "bert-base-uncased-squad2"),
    ("csarron/bert-base-uncased-squad-v1", "bert-base-uncased-squad-v1"),
    ("deepset/bert-base-uncased-squad2", "bert-base-uncased-squad2")])
def test_teachers_from_the_hub(tmp_path, server, monkeypatch, capsys, text, name):
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    models = {repository: qa_folder(server.folder / repository / "resolve" / "main", with_old_pooler)[1]
              for repository in list(HUB_MODELS.values()) if "squad" in repository}
    get_bert_models.main(["--models", text, "--output_dir", str(tmp_path / "m")])
    folder = tmp_path / "m" / name
    assert f"{folder}: " in (out := capsys.readouterr().out) and "heads: pooler, span (start and end" in out
    fix_teacher_layers.main([str(folder)])
    requests = len(server.requests)
    get_bert_models.main(["--models", text, "--output_dir", str(tmp_path / "m")])
    assert len(server.requests) == requests  # complete, also fixed
    torch.testing.assert_close(our_logits(folder), their_logits(next(iter(models.values()))), **TOLERANCE)
    assert load_task_model(folder, SQUAD2, argparse.Namespace(skip_teacher_check=False))


# --- as teacher, start and student

@pytest.fixture
def teacher(tiny):
    """A teacher of SQuAD v1.1 in the template's world."""
    torch.manual_seed(3)
    model = TinyBertForQuestionAnswering(BertConfig(**TEACHER))
    name_labels(model.config.extra, SQUAD1)
    save_model(model, tiny / "teacher_squad1", tiny / "vocab.txt")
    return tiny / "teacher_squad1"


def flags(**changes):
    values = {"skip_teacher_check": False, "new_head": False, "hf_head": False, "pred_distill": False,
              "from_scratch": False, "fit_per_layer": False, "max_seq_length": 24}
    return argparse.Namespace(**values | changes)


def test_a_teacher_of_another_kind_is_named_with_the_command_for_the_right_one(tiny, teacher, refused):
    refused("task_distill", *train(tiny, teacher_model=teacher), words=(
        f"{teacher} has a span head, MRPC needs a classifier: python finetune_teacher.py --tasks MRPC --model {teacher}"
        " trains a teacher's",))
    folder = tiny / "teacher_mnli"
    for task in (SQUAD1, SQUAD2):
        with pytest.raises(InputError, match=f"^{folder} has a classifier, {task.name} needs a span head: python "
                                             f"finetune_teacher.py --tasks {task.name} --model {folder} trains"):
            load_task_model(folder, task, flags())
    with pytest.raises(InputError, match=f"{tiny}/bert does not fit .*qa_outputs.weight.*it has no span head: python"):
        load_task_model(tiny / "bert", SQUAD1, flags())
    changed = replace(SQUAD1, head=replace(SQUAD1.head, n_best_size=3))  # the scripts' flags
    assert isinstance(load_task_model(teacher, changed, flags()), TinyBertForQuestionAnswering)


def misfit_of(folder, task, **changes):
    return misfit(folder, *read_model(folder), task, flags(**changes))


def test_a_span_head_is_kept_where_it_fits(tiny, teacher, capsys):
    changed = replace(SQUAD1, head=replace(SQUAD1.head, max_answer_length=3))
    before = read_weights(teacher)
    model, kept = load_start(teacher, changed, flags(hf_head=True))  # which is for classifiers
    assert kept and torch.equal(model.qa_outputs.weight, before["qa_outputs.weight"])
    out = capsys.readouterr().out
    assert f"SQuAD1: span head of {teacher} kept\n" in out and "relu" not in out
    assert misfit_of(teacher, SQUAD1, new_head=True) == "--new_head"
    assert "was trained on SQuAD1" in misfit_of(teacher, SQUAD2)
    assert misfit_of(teacher, MNLI) == f"{teacher} has none"
    edit_config(teacher, id2label=["broken"])
    assert misfit_of(teacher, SQUAD1) is None
    edit_config(teacher, **{UNTRAINED: True})
    assert "untrained" in misfit_of(teacher, SQUAD1)


@pytest.mark.parametrize("start", ["bert", "teacher_mnli"])
def test_a_new_span_head(tiny, start, capsys):
    model, kept = load_start(tiny / start, SQUAD2, flags())
    assert not kept and 0.1 < model.qa_outputs.weight.std() < 0.3 and model.qa_outputs.bias.eq(0).all()
    out = capsys.readouterr().out
    assert f"SQuAD2: new span head ({tiny / start} has none)\n" in out and "relu" not in out
    save_model(model, tiny / "saved", tiny / "vocab.txt")
    config = read_json(tiny / "saved" / "config.json")
    assert config["finetuning_task"] == "SQuAD2" and not config.keys() & {*OF_MNLI, "classifier_relu"}
    transformers.BertForQuestionAnswering.from_pretrained(tiny / "saved")


def test_a_classifier_on_a_span_model_has_a_new_pooler(tiny, teacher, script):
    """Which has none of its own."""
    out = run(script, "finetune_teacher", finetune(tiny, model=teacher, num_train_epochs=1))
    assert f"MRPC: new classifier ({teacher} has none), with relu" in out
    assert "newly initialised in TinyBertForSequenceClassification: bert.pooler.dense.weight" in out
    TinyBertForSequenceClassification.from_pretrained(tiny / "final_mrpc_teacher", num_labels=2)


def test_students_of_squad(tiny, teacher):
    config = load_task_model(teacher, SQUAD1, flags()).config
    student = load_student(tiny / "general", teacher, config, SQUAD1, flags())
    assert student.fit_dense.weight.shape == (16, 8) and student.config.extra[UNTRAINED] is True
    save_model(student, tiny / "stage1", tiny / "vocab.txt")
    student = load_student(tiny / "stage1", teacher, config, SQUAD1, flags(pred_distill=True))
    assert not hasattr(student, "fit_dense") and UNTRAINED not in student.config.extra
    assert torch.equal(student.qa_outputs.weight, read_weights(tiny / "stage1")["qa_outputs.weight"])
    random = load_student(tiny / "config", teacher, config, SQUAD1, flags(from_scratch=True))
    assert random.qa_outputs.weight.shape == (2, 8) and random.config.classifier_relu is None
    encoder = load_model(tiny / "general", SQUAD1.head, new=("qa_outputs.",)).bert
    for name, weight in BertModel.from_pretrained(tiny / "general", add_pooler=False).named_parameters():
        assert torch.equal(weight, encoder.state_dict()[name])
    shutil.rmtree(tiny / "config")
    write_json(tiny / "config" / "config.json", {**STUDENT, "type_vocab_size": 1})
    with pytest.raises(InputError, match="pairs of texts need 2"):  # a question and its passage
        load_student(tiny / "config", teacher, config, SQUAD1, flags(from_scratch=True))


def test_the_next_step_of_squad(tiny, teacher):
    """The windows stay as they were; the prediction stage takes no augmented passages."""
    student = tiny / "stage1"
    shutil.copytree(tiny / "general", student)
    settings = {"pred_distill": False, "task_name": "SQuAD1", "teacher_model": "T", "data_dir": "D", "doc_stride": 100,
                "max_seq_length": 320, "max_query_length": 50, "aug_train": True, "do_lower_case": True}
    (student / "run.json").write_text(json.dumps({"finished": True, "settings": settings}))
    with pytest.raises(InputError) as caught:
        load_task_model(student, SQUAD1, flags())
    assert str(caught.value) == (
        f"the span head of {student} is not trained yet; the next step: python task_distill.py --pred_distill "
        "--task_name SQuAD1 --teacher_model T --data_dir D --max_seq_length 320 --doc_stride 100 --max_query_length 50 "
        f"--student_model {student} --output_dir NEW_FOLDER --do_lower_case")
    (student / "run.json").write_text(json.dumps({"settings": {"pregenerated_data": "P"}}))
    with pytest.raises(InputError, match="python task_distill.py --task_name squad2 --teacher_model TEACHER --data_dir "
                                         "D --max_seq_length 24 --student_model .* NEW_FOLDER --aug_train$"):
        load_task_model(student, SQUAD2, flags(task_name="squad2", data_dir="D", aug_train=True))


def test_a_folder_in_both_formats(tmp_path, capsys):
    folder, model = qa_folder(tmp_path / "model")
    save_file(of_tensorflow("/")(model.state_dict()), folder / "model.safetensors")
    fix_teacher_layers.main([str(folder)])
    assert not (folder / "model.safetensors").exists()  # nothing is lost with it
    assert "model.safetensors removed" in capsys.readouterr().out
