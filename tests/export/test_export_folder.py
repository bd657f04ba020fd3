"""python -m transformer.export: what others open computes what the model does, and the card tells what is so."""
import contextlib
import importlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from huggingface_hub import ModelCard
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.base.test_tokenization import BERT_VOCAB, TEXTS, cased_vocab, comparable_with_rust, make_lines  # noqa: F401
from tests.conftest import STUDENT, contents, edit_config, general, names, run, sentence, train, write_lines
from transformer.checkpoint import load_tokenizer, save_model
from transformer.config import BertConfig
from transformer.export import __main__ as program
from transformer.export import measures, onnx_files
from transformer.export.tokenizer_json import tokenizer_json
from transformer.modeling import TinyBertForQuestionAnswering, TinyBertForSequenceClassification
from transformer.tasks import own
from transformer.tasks.labels import name_labels
from transformer.tasks.table import get_task
from transformer.tokenization import BertTokenizer
from transformer.weights import read_safetensors

EXPORT = "transformer.export.__main__"
FILES = ["README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"]
ONNX_FILES = ["model.onnx", "model_int8.onnx"]
TOLERANCE = {"rtol": 0, "atol": 1e-5}
needs_onnx = pytest.mark.skipif(bool(onnx_files.missing_packages()),
                                reason=f"not installed: {', '.join(onnx_files.missing_packages())}")


def export(script, model: Path, out: Path, *flags) -> str:
    return run(script, EXPORT, [model, "--output_dir", out, *flags])


def snippet(folder: Path, *texts: str) -> torch.nn.Module:
    """What the code on the card computes of other texts than its own."""
    card = (folder / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0].replace("FOLDER", str(folder))
    placeholders = ("a question", "a passage") if "a passage" in code else ("a text", "another")
    for placeholder, text in zip(placeholders, texts):
        code = code.replace(f'"{placeholder}"', repr(text))
    values = {}
    with torch.no_grad():
        exec(code, values)
    return values["outputs"]


def logits_of(folder: Path, cls, *texts: str, **sizes) -> torch.Tensor:
    with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        return cls.from_pretrained(folder, **sizes).eval()(*load_tokenizer(folder).inputs(*texts))[0]


@pytest.fixture(scope="module")
def chain(world):
    """The three stages of a student on MRPC, with a classifier for Hugging Face, and its evaluation."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setattr("transformer.reporting.curves.draw_curves", lambda folder: None)
        patch.setattr("sys.argv", ["x.py"])

        def call(name, arguments):
            importlib.import_module(name).main([str(part) for part in arguments])

        call("general_distill", general(world, output_dir=world / "gd"))
        call("task_distill", train(world, student_model=world / "gd", output_dir=world / "stage1", aug_train=True))
        call("task_distill", train(world, student_model=world / "stage1", output_dir=world / "student", hf_head=True,
                                   pred_distill=True, seed=7, learning_rate=1e-2, num_train_epochs=3))
        call("task_distill", ["--do_eval", "--data_dir", world / "glue/MRPC", "--task_name", "mrpc", "--student_model",
                              world / "student", "--output_dir", world / "tmp", "--do_lower_case", "--max_seq_length",
                              24, "--no_cuda"])
    return world


# --- what others open

def test_a_student_opens_elsewhere_with_its_logits(chain, tmp_path, script):
    out = export(script, chain / "student", tmp_path / "mine", "--no_onnx")
    assert names(tmp_path) == ["mine"] and names(tmp_path / "mine") == FILES
    assert "Hugging Face's BertForSequenceClassification gives the same logits" in out
    model, report = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "mine",
                                                                                    output_loading_info=True)
    assert not any(report.values()) and type(model) is transformers.BertForSequenceClassification
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "mine")
    assert tokenizer.model_max_length == STUDENT["max_position_embeddings"]
    for number in range(12):
        texts = sentence(number).upper(), sentence(2 * number)[:20]
        wanted = logits_of(chain / "student", TinyBertForSequenceClassification, *texts, num_labels=2)
        ids, segments = load_tokenizer(chain / "student").inputs(*texts)
        encoded = tokenizer(*texts, return_tensors="pt")
        assert torch.equal(encoded["input_ids"], ids) and torch.equal(encoded["token_type_ids"], segments)
        with torch.no_grad():
            torch.testing.assert_close(model.eval()(**encoded).logits, wanted, **TOLERANCE)
        torch.testing.assert_close(snippet(tmp_path / "mine", *texts).logits, wanted, **TOLERANCE)


def test_a_classifier_on_a_relu_needs_the_line_of_the_card(tiny, script):
    """Also the projections, which training alone needs, and keys of the published students are left out."""
    task, config = get_task("MRPC"), BertConfig(**STUDENT)
    name_labels(config.extra, task)
    config.extra |= {"cell": {}, "emb_size": 8, "pre_trained": "", "structure": [], "training": ""}
    model = TinyBertForSequenceClassification(config, 2, fit_size=16)
    torch.nn.init.normal_(model.classifier.weight)
    save_model(model, tiny / "published", tiny / "vocab.txt")
    out = export(script, tiny / "published", tiny / "mine", "--no_onnx")
    assert "relu" in out.splitlines()[-2]
    assert not any("fit_dense" in name for name in read_safetensors(tiny / "mine/model.safetensors"))
    assert not {"cell", "emb_size", "pre_trained", "structure", "training"} & json.loads(
        (tiny / "mine/config.json").read_text()).keys()
    texts = sentence(3), sentence(4)
    wanted = logits_of(tiny / "published", TinyBertForSequenceClassification, *texts, num_labels=2)
    torch.testing.assert_close(snippet(tiny / "mine", *texts).logits, wanted, **TOLERANCE)
    torch.testing.assert_close(logits_of(tiny / "mine", TinyBertForSequenceClassification, *texts, num_labels=2),
                               wanted, **TOLERANCE)
    assert "**The line with ReLU is needed**" in (tiny / "mine/README.md").read_text()
    with torch.no_grad():
        encoded = transformers.AutoTokenizer.from_pretrained(tiny / "mine")(*texts, return_tensors="pt")
        plain = transformers.AutoModelForSequenceClassification.from_pretrained(tiny / "mine").eval()(**encoded).logits
    assert not torch.allclose(plain, wanted, atol=1e-3)


def span_model(tiny: Path) -> Path:
    torch.manual_seed(2)
    model = TinyBertForQuestionAnswering(BertConfig(**{**STUDENT, "max_position_embeddings": 400}), fit_size=16)
    name_labels(model.config.extra, get_task("squad1"))
    save_model(model, tiny / "spans", tiny / "vocab.txt")
    settings = {"max_seq_length": 40, "doc_stride": 8, "max_query_length": 12, "n_best_size": 20,
                "max_answer_length": 30, "null_score_diff_threshold": 0.0}  # as SQuAD v1.1 records them, too
    (tiny / "spans/run.json").write_text(json.dumps({"task": "SQuAD1", "finished": True, "settings": settings}))
    return tiny / "spans"


def test_a_model_of_spans(tiny, script):
    export(script, span_model(tiny), tiny / "mine", "--no_onnx")
    texts = sentence(3), sentence(4)
    outputs = snippet(tiny / "mine", *texts)
    wanted = logits_of(tiny / "spans", TinyBertForQuestionAnswering, *texts)
    torch.testing.assert_close(torch.stack([outputs.start_logits, outputs.end_logits], -1), wanted, **TOLERANCE)
    assert ModelCard.load(tiny / "mine/README.md").data.pipeline_tag == "question-answering"


@pytest.mark.parametrize("do_lower_case", [True, False])
def test_generated_lines_through_the_table(do_lower_case, cased_vocab, tmp_path):  # noqa: F811
    """tokenizer.json gives the ids of this kit, and so does the class that AutoTokenizer makes of it."""
    shutil.copy(BERT_VOCAB if do_lower_case else cased_vocab, tmp_path / "vocab.txt")
    ours = BertTokenizer(tmp_path / "vocab.txt", do_lower_case)
    (tmp_path / "vocab.txt").unlink()
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_json(ours), ensure_ascii=False), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer",
                                                                "do_lower_case": do_lower_case}))
    raw = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    lines = [line for line in make_lines(3000, seed=3) if comparable_with_rust(line)]
    assert len(lines) > 1500
    ids = [[ours.cls_id, *ours.encode(line), ours.sep_id] for line in lines]
    assert [encoding.ids for encoding in raw.encode_batch(lines)] == ids
    assert auto(lines)["input_ids"] == ids
    for special in ours.SPECIALS:
        for text in (f"The {special} cat", f"The {special.lower()} cat"):
            assert raw.encode(text).ids == ours.inputs(text)[0][0].tolist()
    for room in range(6, 14):  # but where both are cut, the package has its own way with an odd number of pieces
        raw.enable_truncation(room)
        ours.max_len = room
        for texts in (("a b c d e f g", "h"), ("a", "b c d e f g h"), ("a b c d e f g", "h i j k l m n")):
            if room % 2 or len(texts[0]) != len(texts[1]):
                assert raw.encode(*texts).ids == ours.inputs(*texts)[0][0].tolist(), (room, texts)
    raw.no_truncation()
    ours.max_len = 512
    pair = raw.encode("One text", "and another")
    assert (pair.ids, pair.type_ids) == tuple(part[0].tolist() for part in ours.inputs("One text", "and another"))


_OURS = BertTokenizer(BERT_VOCAB)
_RAW = tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json(_OURS)))


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.one_of(TEXTS, st.text(max_size=40, alphabet=st.sampled_from("abcéÉüÄñ中国的了是我 .,，。?'ABC"))))
def test_any_text_through_the_table(text):
    assume(comparable_with_rust(text))
    assert _RAW.encode(text).ids == [_OURS.cls_id, *_OURS.encode(text), _OURS.sep_id]


# --- the card

def table_of(card: str, heading: str) -> list[list[str]]:
    """The cells of the rows of the first table below a heading."""
    lines = card.split(f"## {heading}\n")[1].split("\n## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return rows[:1] + rows[2:]


def test_the_card_tells_where_the_model_comes_from(chain, tmp_path, script):
    export(script, chain / "student", tmp_path / "my model", "--no_onnx")
    card = ModelCard.load(tmp_path / "my model/README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-classification")
    assert card.data.license is None and "## Licence\n\nNone is chosen yet." in card.text
    assert card.data.tags == ["bert", "tinybert", "knowledge-distillation"]
    values = json.loads((chain / "student/eval_results.json").read_text())["values"]
    teacher = json.loads((chain / "student/run.json").read_text())["teacher"]
    assert table_of(card.text, "Scores") == [["model", "F1", "accuracy"], *(
        [name, f"{100 * of['f1']:.1f}", f"{100 * of['acc']:.1f}"]
        for name, of in (("this model", values), ("its teacher", teacher)))]
    assert "by eval\\_results.json of student" in card.text or "by eval_results.json of student" in card.text
    header, *stages = table_of(card.text, "How it was made")
    assert [[*stage[:5], *stage[6:9]] for stage in stages] == [
        ["general distillation", "config", "bert", "json", "42", "8", "0.0001", "4"],
        ["intermediate stage", "gd", "teacher_mrpc", "augmented", "42", "8", "5e-05", "6"],
        ["prediction stage", "stage1", "teacher_mrpc", "original", "7", "8", "0.01", "9"]]
    assert "2 layers, 8 wide" in card.text and "It takes two texts, trained on at most 24 wordpieces" in card.text
    model = TinyBertForSequenceClassification(BertConfig(**STUDENT), 2)
    assert f" {sum(weight.numel() for weight in model.parameters()):,} parameters" in card.text
    assert "## Files" not in card.text


def test_scores_of_other_weights_are_not_told(chain, tmp_path, script):
    """Those of run.json are told in their place; where the data cannot be found nobody minds."""
    shutil.copytree(chain / "student", tmp_path / "student")
    facts = json.loads((tmp_path / "student/eval_results.json").read_text())
    facts |= {"model_sha256": "0" * 64, "values": {"acc": 0.123, "f1": 0.123}}
    (tmp_path / "student/eval_results.json").write_text(json.dumps(facts))
    export(script, tmp_path / "student", tmp_path / "mine", "--no_onnx")
    card = (tmp_path / "mine/README.md").read_text()
    assert "12.3" not in card and "by run.json of student" in card
    (tmp_path / "student/eval_results.json").unlink()
    (tmp_path / "student/run.json").unlink()
    export(script, tmp_path / "student", tmp_path / "other", "--no_onnx")
    card = (tmp_path / "other/README.md").read_text()
    assert "None are known." in card and "Nothing tells:" in card and "A BERT for MRPC" in card
    assert "It takes two texts, lower-cased.\n" in card  # nothing tells the length, either


# --- ONNX

@needs_onnx
def test_onnx_gives_the_logits_and_is_scored(chain, tmp_path, script):
    import onnxruntime
    out = export(script, chain / "student", tmp_path / "mine")
    assert names(tmp_path / "mine") == sorted(FILES + ONNX_FILES)
    session = onnxruntime.InferenceSession(tmp_path / "mine/model.onnx")
    assert [(put.name, put.shape) for put in session.get_inputs()] == [
        (name, ["batch", "length"]) for name in ("input_ids", "attention_mask", "token_type_ids")]
    assert [put.name for put in session.get_outputs()] == ["logits"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "mine")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "mine").eval()
    for rows in (range(1), range(7), range(3, 20)):
        encoded = tokenizer([sentence(row)[:9 + row] for row in rows], padding=True, return_tensors="pt")
        got, = session.run(None, {name: tensor.numpy() for name, tensor in encoded.items()})
        with torch.no_grad():
            np.testing.assert_allclose(got, model(**encoded).logits.numpy(), rtol=0, atol=1e-5)
    assert b"/transformer/modeling.py" not in (tmp_path / "mine/model.onnx").read_bytes()
    header, *rows = table_of((tmp_path / "mine/README.md").read_text(), "Files")
    assert header == ["file", "MB", "ms a text", "F1", "accuracy"]
    assert [row[0] for row in rows] == ["model.safetensors", *ONNX_FILES]
    for row in rows:
        assert float(row[1]) == pytest.approx((tmp_path / "mine" / row[0]).stat().st_size / 1e6, abs=0.051)
    values = json.loads((chain / "student/eval_results.json").read_text())["values"]
    assert "The scores of model.onnx are those of model.safetensors" in (tmp_path / "mine/README.md").read_text()
    assert rows[0][3:] == rows[1][3:] == [f"{100 * values[name]:.1f}" for name in ("f1", "acc")]
    assert f"model.safetensors: {rows[0][1]} MB, " in out and f" acc {values['acc']:.4f}" in out
    # the dev score of the file in 8 bits, by hand
    quantised = onnxruntime.InferenceSession(tmp_path / "mine/model_int8.onnx")
    right = []
    for line in (chain / "glue/MRPC/dev.tsv").read_text().splitlines()[1:]:
        label, _, _, *texts = line.split("\t")
        encoded = tokenizer(*texts, truncation=True, max_length=24, return_tensors="np")
        right.append(quantised.run(None, dict(encoded))[0].argmax() == int(label))
    assert rows[2][4] == f"{100 * np.mean(right):.1f}"
    assert ModelCard.load(tmp_path / "mine/README.md").data.tags[-1] == "onnx"


@needs_onnx
def test_onnx_of_spans_without_data(tiny, script):
    import onnxruntime
    out = export(script, span_model(tiny), tiny / "mine")
    assert "compared on made-up texts and not scored (nothing tells where its dev set is)" in out
    session = onnxruntime.InferenceSession(tiny / "mine/model.onnx")
    texts = sentence(3), sentence(4)
    encoded = transformers.AutoTokenizer.from_pretrained(tiny / "mine")(*texts, return_tensors="np")
    wanted = logits_of(tiny / "spans", TinyBertForQuestionAnswering, *texts)
    got = dict(zip([put.name for put in session.get_outputs()], session.run(None, dict(encoded))))
    np.testing.assert_allclose(got["start_logits"], wanted[..., 0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(got["end_logits"], wanted[..., 1], rtol=0, atol=1e-5)
    assert table_of((tiny / "mine/README.md").read_text(), "Files")[0] == ["file", "MB", "ms a text"]


class Shifted(torch.nn.Module):
    def forward(self, *batch, **_):
        return logits_for(batch) + 2e-4 * (len(batch[0]) == 5),


def logits_for(batch) -> torch.Tensor:
    return batch[0].sum(1, keepdim=True).float() / 64


class Plain(torch.nn.Module):
    def forward(self, *batch, **_):
        return logits_for(batch),


def test_other_logits_are_refused():
    """Found in whichever batch they are; made-up texts are of all lengths and of both segments."""
    examples = onnx_files.made_up(BertTokenizer(BERT_VOCAB), 30)
    ids, segments, mask = examples.batch(np.arange(64))
    assert ids[:, 0].eq(101).all() and ids.gather(1, mask.sum(1, keepdim=True) - 1).eq(102).all()
    assert 4 <= mask.sum(1).min() < 10 and mask.sum(1).max() == 30 == ids.shape[1]
    assert 0 < (segments.sum(1) > 0).sum() < 64 and not (segments * (1 - mask)).any()
    onnx_files.require_equal_logits(Plain(), Plain(), examples)
    with pytest.raises(onnx_files.InputError, match="model.onnx would give other logits than the model, by 0.0002"):
        onnx_files.require_equal_logits(Plain(), Shifted(), examples)


@needs_onnx
def test_packages_that_do_not_fit_are_named(chain, tmp_path, refused, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("opset 99\nis not known")

    monkeypatch.setattr(torch.onnx, "export", fail)
    refused(EXPORT, chain / "student", "--output_dir", tmp_path / "mine", words=(
        "no ONNX can be made of the model (RuntimeError opset 99 is not known)", "onnxscript", "--no_onnx"))
    assert names(tmp_path) == []


def test_missing_packages_are_named(chain, tmp_path, script, monkeypatch):
    monkeypatch.setattr(onnx_files.importlib.util, "find_spec", lambda name: None if name != "onnx" else name)
    out = export(script, chain / "student", tmp_path / "mine")
    assert "no ONNX: it needs onnxscript, onnxruntime (pip install onnxscript onnxruntime)" in out
    assert names(tmp_path / "mine") == FILES


# --- own tasks

def test_a_task_of_ones_own(tiny, script, refused, monkeypatch):
    """Its task.json tells the classes where run.json does; another is refused, without its folder nothing is scored."""
    folder = tiny / "reviews"
    for name, count in (("train.tsv", 8), ("dev.tsv", 4)):
        write_lines(folder / name, ["label\tsentence", *(f"{('bad', 'good')[row % 2]}\t{sentence(row)}"
                                                         for row in range(count))])
    description = {"version": 1, "name": "Reviews-1", "kind": "classes", "labels": ["bad", "good"], "metric": "acc",
                   "texts": 1, "max_seq_length": 24, "rows": {"train.tsv": 8, "dev.tsv": 4}}
    (folder / "task.json").write_text(json.dumps(description))
    task, config = own.read_task(folder), BertConfig(**STUDENT)
    name_labels(config.extra, task)
    save_model(TinyBertForSequenceClassification(config, 2), tiny / "student", tiny / "vocab.txt")
    record = {**own.recorded(task), "finished": True, "kept": {"acc": 0.75},
              "settings": {"data_dir": str(folder), "max_seq_length": 20, "pred_distill": True}}
    measured = []
    monkeypatch.setattr(onnx_files, "missing_packages", list)
    monkeypatch.setattr(measures, "measure", lambda *args: measured.append(args) or [
        measures.FileFacts("model.safetensors", 1.0, 2.0, {"acc": 0.5} if args[2] else {})])
    refused(EXPORT, tiny / "student", "--output_dir", tiny / "mine", words=("nothing tells the task", "--data_dir"))
    export(script, tiny / "student", tiny / "first", "--data_dir", folder)  # which tells it
    card = (tiny / "first/README.md").read_text()
    assert table_of(card, "Scores")[1] == ["this model", "50.0"] and "by this export, on 4 examples" in card
    assert table_of(card, "Files")[1:] == [["model.safetensors", "1.0", "2.00", "50.0"]]
    (tiny / "student/run.json").write_text(json.dumps(record))
    export(script, tiny / "student", tiny / "second")
    for _, of, dev, examples, order, _ in measured:
        assert of == task and [*dev] == ["dev"] and dev["dev"] is examples and order == [0, 1] and len(examples) == 4
    assert "Its classes, in the order of the logits: bad, good." in (tiny / "second/README.md").read_text()
    assert "75.0" in (tiny / "second/README.md").read_text()
    assert "On the dev set, in percent:" in (tiny / "second/README.md").read_text()
    (folder / "task.json").write_text(json.dumps(description | {"labels": ["good", "bad"]}))
    refused(EXPORT, tiny / "student", "--output_dir", tiny / "mine", "--data_dir", folder,
            words=("Reviews-1", "task.json", "something else"))
    out = export(script, tiny / "student", tiny / "third")
    assert "not scored" in out and "describes another task than the run had" in out and measured[-1][2] == {}
    shutil.rmtree(folder)
    assert f"{folder} does not exist" in export(script, tiny / "student", tiny / "fourth")
    record["task_json"] = description | {"rows": {**description["rows"], "test.tsv": 6}, "test_has_labels": True}
    (tiny / "student/run.json").write_text(json.dumps(record | {"kept": {"acc": 0.75, "acc_test": 0.5}}))
    export(script, tiny / "student", tiny / "fifth", "--no_onnx")
    card = (tiny / "fifth/README.md").read_text()
    assert "On the dev set, and on the test set, which chose nothing, in percent:" in card
    assert table_of(card, "Scores") == [["model", "accuracy", "accuracy, test"], ["this model", "75.0", "50.0"]]


# --- refused, and nothing half-written

def test_what_is_no_model_of_a_task_is_refused(chain, tmp_path, refused):
    out = tmp_path / "mine"
    for folder, words in ((chain / "gd", ("neither a classifier nor a span head", "--pred_distill")),
                          (chain / "bert", ("neither a classifier nor a span head",)),
                          (chain / "stage1", ("not trained yet", "task_distill.py --pred_distill")),
                          (chain / "nowhere", ("nowhere does not exist",))):
        refused(EXPORT, folder, "--output_dir", out, "--no_onnx", words=words)
    shutil.copytree(chain / "student", tmp_path / "stopped")
    record = json.loads((tmp_path / "stopped/run.json").read_text())
    (tmp_path / "stopped/run.json").write_text(json.dumps(record | {"finished": False}))
    refused(EXPORT, tmp_path / "stopped", "--output_dir", out, words=("is unfinished",))
    (tmp_path / "stopped/run.json").unlink()
    edit_config(tmp_path / "stopped", finetuning_task=None)
    refused(EXPORT, tmp_path / "stopped", "--output_dir", out, words=("nothing tells the task of", "finetuning_task"))
    assert names(tmp_path) == ["stopped"]


def test_a_folder_with_something_in_it_stays_as_it_is(chain, tmp_path, refused, script):
    before = contents(chain / "stage1")
    refused(EXPORT, chain / "student", "--output_dir", chain / "stage1", words=("stage1 is not empty", "another"))
    assert contents(chain / "stage1") == before
    (tmp_path / "file").write_text("mine")
    refused(EXPORT, chain / "student", "--output_dir", tmp_path / "file", words=("file is a file",))
    (tmp_path / "empty").mkdir()
    export(script, chain / "student", tmp_path / "empty", "--no_onnx")
    assert names(tmp_path / "empty") == FILES


@pytest.mark.parametrize("error,words", [
    (OSError(28, "No space left on device", "{place}/x"), "error: {out}/x: No space left on device"),
    (onnx_files.InputError("{place} is damaged"), "error: {out} is damaged"), (KeyboardInterrupt(), "interrupted")])
def test_nothing_is_half_written(error, words, chain, tmp_path, script, monkeypatch):
    """Nor is the place named where it was written."""
    def fail(path, *_):
        if isinstance(error, OSError):
            error.filename = error.filename.format(place=path.parent)
        else:
            error.args = tuple(part.format(place=path.parent) for part in error.args)
        raise error

    monkeypatch.setattr(program, "write_json", fail)
    write_lines(tmp_path / ".mine.exporting/old", ["of an export that was killed"])
    status, _, err = script(EXPORT, chain / "student", "--output_dir", tmp_path / "mine")
    assert status in (2, 130) and words.format(out=tmp_path / "mine") in err and names(tmp_path) == []


def test_a_data_dir_that_nothing_is_read_of_is_refused(chain, tmp_path, refused):
    refused(EXPORT, chain / "student", "--output_dir", tmp_path / "mine", "--data_dir", chain / "glue/MRPC",
            "--no_onnx", words=("--data_dir is for the scores of ONNX files, which --no_onnx leaves out",))
    assert not (tmp_path / "mine").exists()


def test_a_data_dir_that_is_given_has_to_hold_the_task(chain, tmp_path, refused, monkeypatch):
    monkeypatch.setattr(onnx_files, "missing_packages", list)
    refused(EXPORT, chain / "student", "--output_dir", tmp_path / "mine", "--data_dir", chain / "glue/CoLA",
            words=("dev.tsv", "line 1"))
    assert names(tmp_path) == []


def test_classes_that_config_json_does_not_name(tiny, script):
    """They are columns in the task's order, and are called so from then on."""
    config = BertConfig(**STUDENT)
    config.extra |= {"finetuning_task": "mrpc", "id2label": {"0": "LABEL_0", "1": "LABEL_1"}}
    save_model(TinyBertForSequenceClassification(config, 2), tiny / "model", tiny / "vocab.txt")
    export(script, tiny / "model", tiny / "mine", "--no_onnx")
    assert transformers.AutoConfig.from_pretrained(tiny / "mine").id2label == {0: "0", 1: "1"}
    unnamed = "Its config.json did not name them: they were taken in the order of the task."
    assert f"of the logits: 0, 1.\n{unnamed}\n" in (tiny / "mine/README.md").read_text()
    config.extra |= {"finetuning_task": "MNLI", "id2label": {"0": "neutral", "1": "entailment", "2": "contradiction"}}
    save_model(TinyBertForSequenceClassification(config, 3), tiny / "model", tiny / "vocab.txt")
    export(script, tiny / "model", tiny / "other", "--no_onnx")
    assert "of the logits: neutral, entailment, contradiction.\n\n## Use" in (tiny / "other/README.md").read_text()


def test_a_teacher_of_another_family(tiny, script):
    """Its own class and names; an ELECTRA's classifier has no relu."""
    config = BertConfig.from_dict({**STUDENT, "model_type": "electra", "embedding_size": 4})
    name_labels(config.extra, get_task("MRPC"))
    save_model(TinyBertForSequenceClassification(config, 2), tiny / "teacher", tiny / "vocab.txt")
    export(script, tiny / "teacher", tiny / "mine", "--no_onnx")
    texts = sentence(3), sentence(4)
    wanted = logits_of(tiny / "teacher", TinyBertForSequenceClassification, *texts, num_labels=2)
    torch.testing.assert_close(snippet(tiny / "mine", *texts).logits, wanted, **TOLERANCE)
    card = ModelCard.load(tiny / "mine/README.md")
    assert "An ELECTRA for MRPC" in card.text and card.data.tags == ["electra"]
