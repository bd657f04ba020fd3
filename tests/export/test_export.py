"""Back to Hugging Face: what the scripts write loads in transformers, with equal outputs; a chain of real weights."""
import hashlib
import json
import random
import re
import shutil
import types

import pytest
import torch
import transformers

from tests.base.test_parity import minilm_folder
from tests.conftest import TEACHER, edit_config, finetune, make_cased, names, run, train, write_lines
from transformer.checkpoint import (
    head_note,
    load_model,
    load_tokenizer,
    model_sha256,
    require_same_vocabulary,
    save_model,
    write_vocab,
)
from transformer.config import BertConfig
from transformer.data.tables import read_rows
from transformer.files import InputError
from transformer.modeling import BertForMaskedLM, BertModel, TinyBertForPreTraining, TinyBertForSequenceClassification
from transformer.tasks.table import get_task
from transformer.weights import read_weights

TOLERANCE = {"rtol": 0, "atol": 1e-5}
IDS = torch.tensor([[2, 7, 8, 9, 3, 10, 11, 3], [2, 12, 33, 34, 35, 3, 0, 0]])
SEGMENTS = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0, 0]])
MASK = torch.tensor([[1] * 8, [1] * 6 + [0] * 2])


@torch.no_grad()
def ours(cls, folder, **kwargs):
    return cls.from_pretrained(folder, **kwargs).eval()(IDS, SEGMENTS, MASK)


@torch.no_grad()
def theirs(model):
    return model.eval()(input_ids=IDS, token_type_ids=SEGMENTS, attention_mask=MASK)


def load(cls, folder):
    """A model of Hugging Face, of whose weights none was missing."""
    model, report = cls.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"], report
    return model


def put_relu(model):
    """What docs/running.md says for a classifier that stands on relu(pooled)."""
    model.bert.pooler.activation = torch.nn.Sequential(torch.nn.Tanh(), torch.nn.ReLU())


@pytest.mark.parametrize("hf_head", [False, True])
def test_classifiers_of_both_scripts(hf_head, tiny, script):
    flags = {"hf_head": hf_head, "learning_rate": 1e-3}
    teacher_out = run(script, "finetune_teacher", finetune(tiny, model=tiny / "bert", **flags))
    student_out = run(script, "task_distill", train(tiny, student_model=tiny / "general", pred_distill=True, **flags))
    assert ("--hf_head: the relu before the classifier" in student_out) is hf_head
    for folder, out in ((tiny / "final_mrpc_teacher", teacher_out), (tiny / "out", student_out)):
        logits = ours(TinyBertForSequenceClassification, folder, num_labels=2)[0]
        model = load(transformers.BertForSequenceClassification, folder)
        assert model.config.id2label == {0: "0", 1: "1"} and model.config.problem_type == "single_label_classification"
        assert json.loads((folder / "config.json").read_text())["classifier_relu"] is not hf_head
        if not hf_head:
            assert f"{folder}: the classifier stands on relu" in out and "--hf_head" in out
            assert not torch.allclose(theirs(model).logits, logits, atol=1e-3)
            put_relu(model)
        else:
            assert f"{folder}: Hugging Face's BertForSequenceClassification gives the same logits" in out
        torch.testing.assert_close(theirs(model).logits, logits, **TOLERANCE)


def test_masked_lm_after_fixing(tiny, script):
    shutil.copytree(tiny / "bert", tiny / "mlm")
    assert script("fix_teacher_layers", tiny / "mlm")[0] == 0
    assert "cls.predictions.decoder.weight" not in read_weights(tiny / "mlm")
    wanted = theirs(load(transformers.BertForMaskedLM, tiny / "mlm")).logits
    torch.testing.assert_close(ours(BertForMaskedLM, tiny / "mlm"), wanted, **TOLERANCE)


def test_general_and_intermediate_students(tiny, script):
    run(script, "task_distill", train(tiny))
    for folder in (tiny / "general", tiny / "out"):  # the latter holds the projection, too
        hidden, _, pooled = ours(BertModel, folder)
        model = load(transformers.BertModel, folder)
        with torch.no_grad():
            wanted = model.eval()(IDS, MASK, SEGMENTS, output_hidden_states=True)
        for first, second in zip(hidden, wanted.hidden_states, strict=True):
            torch.testing.assert_close(first, second, **TOLERANCE)
        torch.testing.assert_close(pooled, wanted.pooler_output, **TOLERANCE)


# --- model folders

def test_a_model_is_saved_over_itself(tiny):
    """The vocabulary may be the one that is replaced; the config says what Hugging Face asks for."""
    folder = tiny / "teacher_mrpc"
    model = TinyBertForSequenceClassification.from_pretrained(folder, num_labels=2)
    torch.nn.init.ones_(model.classifier.bias)
    vocabulary = (folder / "vocab.txt").read_bytes()
    save_model(model, folder, folder / "vocab.txt")
    assert (folder / "vocab.txt").read_bytes() == vocabulary
    assert names(folder) == ["config.json", "pytorch_model.bin", "tokenizer_config.json", "vocab.txt"]
    assert read_weights(folder)["classifier.bias"].tolist() == [1, 1]
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("bert", ["BertForSequenceClassification"])


def test_a_model_is_loaded_with_the_head_of_a_task(tiny, capsys):
    head = types.SimpleNamespace(model_class=TinyBertForSequenceClassification, sizes={"num_labels": 2})
    model = load_model(tiny / "bert", head, new=("classifier.", "fit_dense"), fit_size=24)
    assert model.classifier.weight.shape == (2, 16) and model.fit_dense.weight.shape == (24, 16)
    assert "newly initialised in TinyBertForSequenceClassification: classifier.weight" in capsys.readouterr().out
    with pytest.raises(InputError, match="2 missing weights: classifier.weight, classifier.bias"):
        load_model(tiny / "bert", head)


def test_head_note():
    config = BertConfig(vocab_size=9)
    assert re.search("^models/a: .*BertForQuestionAnswering gives the same logits", head_note(config, "models/a"))
    config.classifier_relu = True
    assert re.search("^models/a: .*relu.* other logits .*docs/running.md, Back to Hugging Face.* --hf_head ",
                     head_note(config, "models/a"))
    config.classifier_relu = False
    assert re.search("^models/a: .*BertForSequenceClassification gives the same logits", head_note(config, "models/a"))


def test_the_tokenizer_of_a_folder(tiny, capsys):
    folder, pieces = tiny / "bert", (tiny / "vocab.txt").read_text().splitlines()
    assert load_tokenizer(folder, True).tokenize("The Cat") == load_tokenizer(str(folder), True).tokenize("the cat")
    assert capsys.readouterr().out == ""
    assert load_tokenizer(folder, False).tokenize("Bird cat") == ["bird", "cat"]
    assert f"{folder} is uncased ({folder}/tokenizer_config.json says so): lower-casing" in capsys.readouterr().out
    make_cased(folder)
    assert load_tokenizer(folder, False).tokenize("Cat") == ["Cat"]
    assert capsys.readouterr().out == ""
    count = len(pieces)
    write_lines(folder / "vocab.txt", pieces[:-1])
    load_tokenizer(folder, True)
    assert f"{folder}: {count} word embeddings for {count - 1} pieces" in capsys.readouterr().out
    write_lines(folder / "vocab.txt", [*pieces, "more"])
    with pytest.raises(InputError, match=f"{folder}/vocab.txt has {count + 1} pieces .* vocab_size {count}: "):
        load_tokenizer(folder, True)
    with pytest.raises(InputError, match="model folder nowhere does not exist"):
        load_tokenizer("nowhere", True)


@pytest.mark.parametrize("pieces, settings, text, wanted", [
    (["Cat", "cat"], None, "Cat", ["Cat"]), (["cat"], None, "Cat", ["cat"]),
    (["Cat", "cat"], {"do_lower_case": True}, "Cat", ["cat"]), (["cat"], {"do_lower_case": False}, "Cat", ["[UNK]"])])
@pytest.mark.parametrize("table", [False, True])
def test_a_saved_model_has_the_casing_of_its_source(tiny, pieces, settings, text, wanted, table):
    """Here and in Hugging Face transformers, whichever files the source tells it by; what lay there is replaced."""
    source, folder = tiny / "source", tiny / "teacher_mrpc"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces]
    write_lines(source / "vocab.txt", pieces)
    if table:
        lower = settings["do_lower_case"] if settings else "Cat" not in pieces
        content = {"model": {"vocab": {piece: number for number, piece in enumerate(pieces)}},
                   "normalizer": {"type": "BertNormalizer", "lowercase": lower}}
        (source / "tokenizer.json").write_text(json.dumps(content))
        (source / "vocab.txt").unlink()
    elif settings:
        (source / "tokenizer_config.json").write_text(json.dumps(settings))
    save_model(BertModel(BertConfig(len(pieces), 8, 1, 2, 8)), folder, source)
    assert load_tokenizer(folder).tokenize(text) == wanted
    assert transformers.AutoTokenizer.from_pretrained(folder).tokenize(text) == wanted
    assert (folder / "vocab.txt").read_text().splitlines() == pieces


def test_vocabularies_that_differ_in_order(tiny, capsys):
    student, teacher = tiny / "general", tiny / "bert"
    require_same_vocabulary(student, teacher)
    assert capsys.readouterr().out == ""
    (student / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    require_same_vocabulary(student, teacher)
    assert f"warning: of {student} and {teacher} one is cased" in capsys.readouterr().out
    pieces = (tiny / "vocab.txt").read_text().splitlines()
    write_lines(student / "vocab.txt", [*pieces[:-2], pieces[-1], pieces[-2]])
    with pytest.raises(InputError, match=f"differ: {student}/vocab.txt and {teacher}/vocab.txt"):
        require_same_vocabulary(student, str(teacher))


def test_a_tokenizer_without_type_and_prefix_is_a_wordpiece(tmp_path):
    """As older versions of the package tokenizers wrote it; a piece with the end of a line is refused."""
    for piece, allowed in (("b", True), ("b\r", False), ("", False)):
        (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {piece: 1, "a": 0}}}))
        if allowed:
            write_vocab(tmp_path / "tokenizer.json", tmp_path / "vocab.txt")
        else:
            with pytest.raises(InputError, match="tokenizer.json: a piece is empty or holds the end of a line"):
                write_vocab(tmp_path / "tokenizer.json", tmp_path / "vocab.txt")
        assert (tmp_path / "vocab.txt").read_text() == "a\nb\n"


# --- the classifier that fine-tuning starts from

def head_of(folder):
    return read_weights(folder)["classifier.weight"]


def test_a_head_that_fits_is_kept_and_one_that_is_already_best_stays(tiny, script):
    edit_config(tiny / "teacher_mrpc", classifier_relu=False)
    rate = {"model": tiny / "teacher_mrpc", "learning_rate": 1e-9}  # learns nothing: no epoch is better than the start
    out = run(script, "finetune_teacher", finetune(tiny, **rate))
    assert f"MRPC: classifier of {tiny / 'teacher_mrpc'} kept, without relu" in out
    record = json.loads((tiny / "final_mrpc_teacher" / "run.json").read_text())
    assert record["epoch"] == 0 and record["acc"] == record["before"]["acc"]
    assert torch.equal(head_of(tiny / "final_mrpc_teacher"), head_of(tiny / "teacher_mrpc"))
    again = finetune(tiny, **rate, hf_head=True, keep_head=True, output_dir=tiny / "again")  # it has no relu
    assert "kept, without relu" in run(script, "finetune_teacher", again)


@pytest.mark.parametrize("start,config,flags,reason", [
    ("bert", {}, {}, "bert has none"),
    ("teacher_mrpc", {}, {"new_head": True}, "--new_head"),
    ("teacher_mrpc", {}, {"hf_head": True}, "stands on a relu"),
    ("teacher_mnli", {}, {}, "is [3, 16], MRPC needs [2, 16]"),
    ("teacher_cola", {}, {}, "was trained on CoLA"),
    ("teacher_mrpc", {"finetuning_task": "x", "id2label": {"0": "1", "1": "2"}}, {}, "does not fit the labels"),
])
def test_a_new_head_is_said_aloud(start, config, flags, reason, tiny, script, refused):
    edit_config(tiny / start, **config)
    out = run(script, "finetune_teacher", finetune(tiny, model=tiny / start, learning_rate=1e-9, **flags))
    line = next(line for line in out.splitlines() if line.startswith("MRPC: "))
    assert "new classifier (" in line and reason in line
    assert line.endswith("without relu" if "hf_head" in flags else "with relu")
    new = head_of(tiny / "final_mrpc_teacher")
    assert new.shape == (2, 16) and 0.1 < new.std() < 0.3  # initializer_range 0.2
    if start != "bert":
        assert not torch.allclose(new, head_of(tiny / start)[:2], atol=1e-3)
    if "new_head" not in flags:
        refused("finetune_teacher", *finetune(tiny, model=tiny / start, keep_head=True, output_dir=tiny / "other",
                                              **flags), words=("--keep_head", reason))
        assert not (tiny / "other").exists()


# --- real weights, all the way

def write_reviews(folder, rows):
    """SST-2 in its own format: reviews that a reader of English can tell apart."""
    draw = random.Random(5)
    words = {"0": ["dull", "awful", "boring", "a mess"], "1": ["lovely", "brilliant", "a delight", "moving"]}
    for name, count in (("train.tsv", rows), ("dev.tsv", rows // 2)):
        lines = [f"the {draw.choice(['film', 'story', 'plot', 'cast'])} is {draw.choice(['so', 'really', 'quite'])} "
                 f"{draw.choice(words[label])}\t{label}" for label in "01" * (count // 2)]
        write_lines(folder / "SST-2" / name, ["sentence\tlabel", *lines])


def test_real_weights_from_a_mirror_to_hugging_face(tmp_path, script, monkeypatch):
    """MiniLM (6 layers, 384 wide): got, fixed, fine-tuned, distilled into 3 layers of 48; all equal in transformers."""
    monkeypatch.chdir(tmp_path)
    mirror = tmp_path / "mirror" / "all-MiniLM-L6-v2"
    mirror.mkdir(parents=True)
    for name in ("config.json", "vocab.txt", "model.safetensors"):
        (mirror / name).symlink_to(minilm_folder() / name)
    out = run(script, "get_bert_models", ["--models", "sentence-transformers/all-MiniLM-L6-v2", "--mirror",
                                          tmp_path / "mirror", "--output_dir", "models"])
    model = tmp_path / "models" / "all-MiniLM-L6-v2"
    assert "6 layers" in out
    out = run(script, "fix_teacher_layers", [model])
    assert "103 weights renamed" in out and "embeddings.position_ids dropped" in out
    assert not (model / "model.safetensors").exists()
    package = transformers.BertModel.from_pretrained(minilm_folder()).state_dict()
    fixed = load(transformers.BertModel, model).state_dict()
    assert package.keys() == fixed.keys() and all(torch.equal(package[name], fixed[name]) for name in package)

    write_reviews(tmp_path / "glue", 64)
    common = ["--max_seq_length", 16, "--train_batch_size", 8, "--learning_rate", 1e-4, "--no_cuda", "--hf_head"]
    run(script, "finetune_teacher", [*common, "--tasks", "SST-2", "--glue_dir", "glue", "--model", model,
                                     "--output_dir", "models/teacher", "--num_train_epochs", 2])
    vocab_size = sum(1 for _ in open(model / "vocab.txt", encoding="utf-8"))
    config = BertConfig(vocab_size, hidden_size=48, num_hidden_layers=3, intermediate_size=96)
    save_model(TinyBertForPreTraining(config, fit_size=384), "models/general", model / "vocab.txt")
    task = ["--data_dir", "glue/SST-2", "--task_name", "SST-2", "--teacher_model", "models/teacher", "--do_lower_case",
            "--num_train_epochs", 1]
    run(script, "task_distill", [*task, *common[:-1], "--student_model", "models/general",
                                 "--output_dir", "models/tmp"])
    run(script, "task_distill", [*task, *common, "--student_model", "models/tmp", "--pred_distill",
                                 "--output_dir", "models/student"])

    reviews = [columns[0] for _, columns in read_rows(get_task("SST-2"), "glue/SST-2/dev.tsv")]
    record = json.loads((tmp_path / "models" / "teacher" / "run.json").read_text())
    for folder in ("models/teacher", "models/student"):
        batch = transformers.AutoTokenizer.from_pretrained(folder)(reviews, padding=True, return_tensors="pt")
        with torch.no_grad():
            wanted = load(transformers.BertForSequenceClassification, folder).eval()(**batch).logits
            logits, _, _ = TinyBertForSequenceClassification.from_pretrained(folder, num_labels=2).eval()(
                batch["input_ids"], batch["token_type_ids"], batch["attention_mask"])
        torch.testing.assert_close(logits, wanted, **TOLERANCE)
        if folder == "models/teacher":  # its dev score again, with nothing of this kit
            right = wanted.argmax(1) == torch.tensor([0, 1] * (len(reviews) // 2))
            assert right.float().mean().item() == pytest.approx(record["acc"]) and record["acc"] > 0.9


def test_fingerprint_of_a_model():
    """Spelled as the first versions did: kept logits, and a stopped augmentation, are found again by it."""
    model = BertModel(BertConfig(**TEACHER, classifier_relu=True, extra={"id2label": {"0": "no"}}), add_pooler=False)
    config = {name: getattr(model.config, name) for name in (
        "attention_probs_dropout_prob", "classifier_relu", "hidden_act", "hidden_dropout_prob", "hidden_size",
        "initializer_range", "intermediate_size", "layer_norm_eps", "max_position_embeddings", "num_attention_heads",
        "num_hidden_layers", "type_vocab_size", "vocab_size")}  # in the order of the alphabet
    weights = b"".join(f"{name} torch.float32 {list(tensor.shape)}".encode() + tensor.numpy().tobytes()
                       for name, tensor in model.state_dict().items())
    for order, facts in ((None, config), ([1, 0], [config, [1, 0]])):
        assert model_sha256(model, order) == hashlib.sha256(json.dumps(facts).encode() + weights).hexdigest()
