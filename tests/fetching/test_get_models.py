"""get_bert_models.py: hub, mirror, folder or by hand; what arrives is opened, compared with config.json, summed up."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import save_file

import fix_teacher_layers
import get_bert_models
from tests.conftest import PIECES, ROOT, STUDENT, TEACHER, contents, edit_config, run, train, write_lines
from tests.faulty_server import Fault, FaultyServer
from transformer.checkpoint import save_model, write_vocab
from transformer.config import BertConfig
from transformer.fetching.sources import DEFAULT_MODELS, HOSTS, HUB_MODELS, KNOWN_FILES, REVISIONS, Source
from transformer.files import InputError, sha256_of
from transformer.modeling import TinyBertForPreTraining, TinyBertForSequenceClassification
from transformer.weights import read_weights, write_safetensors

BERT, RTE = HUB_MODELS["bert-base-uncased"], HUB_MODELS["bert-base-uncased-rte"]
GENERAL = HUB_MODELS["distilled_tinybert_4l"]
VOCAB = {piece: index for index, piece in enumerate(PIECES)}


def hf_folder(path: Path, name: str, weights: str, **settings) -> Path:
    """A folder as on the hub, holding a random model of Hugging Face's class `name`."""
    torch.manual_seed(1)
    model = getattr(transformers, name)(transformers.BertConfig(**TEACHER, **settings))
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({**TEACHER, **settings, "model_type": "bert"}))
    write_lines(path / "vocab.txt", PIECES)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.save(state, path / weights) if weights.endswith(".bin") else save_file(state, path / weights)
    return path


def general_folder(path: Path) -> Path:
    """A general TinyBERT as on the hub: old LayerNorm names, all pre-training heads, one projection a hidden state."""
    torch.manual_seed(2)
    state = TinyBertForPreTraining(BertConfig(**STUDENT), fit_size=16, fit_per_layer=True).state_dict()
    assert sum(name.startswith("fit_denses.") for name in state) == 2 * 3 and "cls.seq_relationship.bias" in state
    state = {name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
             for name, tensor in state.items()}
    path.mkdir(parents=True)
    torch.save(state, path / "pytorch_model.bin")
    (path / "config.json").write_text(json.dumps({**STUDENT, "cell": {}, "pre_trained": "", "structure": []}))
    write_lines(path / "vocab.txt", PIECES)
    return path


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> Path:
    """A folder of models by their names on the hub, OWNER/NAME."""
    folder = tmp_path_factory.mktemp("originals")
    hf_folder(folder / BERT, "BertForPreTraining", "model.safetensors")
    for task, labels in (("mrpc", None), ("sst2", None), ("cola", None), ("rte", {0: "entailment", 1: "no"})):
        hf_folder(folder / HUB_MODELS[f"bert-base-uncased-{task}"], "BertForSequenceClassification",
                  "pytorch_model.bin", **({"id2label": labels} if labels else {}))
    general_folder(folder / GENERAL)
    return folder


@pytest.fixture
def hub(originals, server, monkeypatch):
    """A web server in the hub's layout."""
    for model in originals.glob("*/*"):
        shutil.copytree(model, on_hub(server, str(model.relative_to(originals))))
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    return server


def on_hub(server: FaultyServer, repository: str) -> Path:
    return server.folder / repository / "resolve" / REVISIONS.get(repository, "main")


def get(tmp_path: Path, *arguments: object) -> Path:
    get_bert_models.main(["--models", *map(str, arguments), "--output_dir", str(tmp_path / "m")])
    return tmp_path / "m"


def test_without_arguments_the_five_models(hub, tmp_path, originals, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    get_bert_models.main([])
    assert sorted(path.name for path in Path("models").iterdir()) == sorted(DEFAULT_MODELS)
    got = contents(Path("models/bert-base-uncased"))
    manifest = json.loads(got.pop("manifest.json"))
    assert got == contents(originals / BERT) and sorted(manifest["files"]) == sorted(got)
    assert "pytorch_model.bin" in contents(Path("models/bert-base-uncased-rte"))
    model = transformers.BertForPreTraining(transformers.BertConfig(**TEACHER))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    out = capsys.readouterr().out
    assert f"models/bert-base-uncased: {parameters:,} parameters, 4 layers, 2 attention heads, hidden size 16; " \
           "heads: pooler, masked LM, next sentence\n" in out
    assert "-rte: " in out and "heads: pooler, classifier (2 labels: entailment, no)\n" in out
    assert "heads: pooler, classifier (2 labels)\n" in out
    requests = len(hub.requests)
    get_bert_models.main([])
    fix_teacher_layers.main([])
    get_bert_models.main([])  # the fixed folders are complete too
    assert len(hub.requests) == requests


def test_an_interrupted_run_is_finished_by_the_next(hub, tmp_path):
    weights = on_hub(hub, BERT) / "model.safetensors"
    weights.rename(tmp_path / "away")
    with pytest.raises(InputError, match="no model.safetensors and no pytorch_model.bin"):
        get(tmp_path, "bert-base-uncased")
    folder = tmp_path / "m" / "bert-base-uncased"
    assert sorted(contents(folder)) == ["config.json", "manifest.json", "vocab.txt"]
    assert json.loads((folder / "manifest.json").read_text())["files"] == {}  # not complete
    (tmp_path / "away").rename(weights)
    before = len(hub.requests)
    get(tmp_path, "bert-base-uncased")
    assert len(hub.requests) == before + 2  # tokenizer_config.json, which it has not, is asked for as well
    assert sorted(json.loads((folder / "manifest.json").read_text())["files"]) == [
        "config.json", "model.safetensors", "vocab.txt"]
    (folder / "vocab.txt").write_text("changed")
    with pytest.raises(InputError, match="vocab.txt changed"):
        get(tmp_path, "bert-base-uncased")
    (folder / "vocab.txt").unlink()
    get(tmp_path, "bert-base-uncased")
    assert (folder / "vocab.txt").read_text().split("\n")[:-1] == PIECES


@pytest.mark.parametrize("how", ["folder", "mirror folder", "mirror address"])
def test_from_folders(originals, tmp_path, monkeypatch, how):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody answers there
    owner = originals / "JeremiahZ"
    get(tmp_path, *{"folder": [owner / "bert-base-uncased-rte"],
                    "mirror folder": ["anyone/bert-base-uncased-rte", "--mirror", owner],
                    "mirror address": ["rte", "--mirror", owner.as_uri()]}[how])
    got = contents(tmp_path / "m" / "bert-base-uncased-rte")
    assert got.pop("manifest.json") and got == contents(originals / RTE)


def test_a_mirror_has_the_known_files(originals, tmp_path, monkeypatch):
    arguments = ("bert-base-uncased", "--mirror", originals / "google-bert")
    with pytest.raises(InputError, match="config.json"):  # of the right size, perhaps, but not the published one
        get(tmp_path, *arguments)
    base = f"{HOSTS['HF_ENDPOINT']}/{BERT}/resolve/{REVISIONS[BERT]}"
    for path in (originals / BERT).iterdir():
        url = f"{base}/{path.name}"
        monkeypatch.setitem(KNOWN_FILES, url, Source(path.name, url, path.stat().st_size, sha256_of(path), ""))
    assert (get(tmp_path, *arguments) / "bert-base-uncased" / "manifest.json").is_file()


def test_a_revision(hub, tmp_path, capsys):
    older = on_hub(hub, RTE).with_name("v1.0")
    shutil.copytree(on_hub(hub, RTE), older)
    get(tmp_path, f"{RTE}@v1.0")
    assert {request.path.split("/")[4] for request in hub.requests} == {"v1.0"}
    get(tmp_path, f"{RTE}@v1.0")
    get(tmp_path, RTE)  # any revision will do
    assert capsys.readouterr().out.count(f"is complete (from {hub.url}/{RTE}/resolve/v1.0)") == 2
    with pytest.raises(InputError, match=r"v1.0, not of .*@v2"):
        get(tmp_path, f"{RTE}@v2")


def test_what_broke_off_is_not_mixed_with_another_origin(hub, originals, tmp_path):
    one, two = (on_hub(hub, RTE).with_name(revision) for revision in ("v1", "v2"))
    shutil.copytree(on_hub(hub, RTE), one)
    shutil.copytree(one, two)
    (one / "pytorch_model.bin").unlink()
    with pytest.raises(InputError, match="no pytorch_model.bin"):
        get(tmp_path, f"{RTE}@v1")
    before = len(hub.requests)
    other = shutil.copytree(originals / RTE, tmp_path / "bert-base-uncased-rte")
    for origin, named in ((f"{RTE}@v2", "@v2"), ("rte", RTE), ("other/bert-base-uncased-rte", "other/"),
                          (other, str(other))):
        with pytest.raises(InputError, match=f"{RTE}/resolve/v1, not of .*{named}.*move it away, or .*--output_dir"):
            get(tmp_path, origin)
    assert len(hub.requests) == before
    shutil.rmtree(tmp_path / "m")
    assert "manifest.json" in contents(get(tmp_path, f"{RTE}@v2") / "bert-base-uncased-rte")


def test_a_complete_folder_is_not_taken_for_another_of_its_name(hub, originals, tmp_path, monkeypatch, capsys):
    one, two = (shutil.copytree(originals / RTE, tmp_path / name / "bert-base-uncased-rte") for name in ("1", "2"))
    folder = get(tmp_path, one) / "bert-base-uncased-rte"
    get(tmp_path, one)
    get(tmp_path, folder)  # itself
    get(tmp_path, "rte")   # a copy of it may have come from a folder
    with pytest.raises(InputError, match=f"files of {one}, not of {two}"):
        get(tmp_path, two)
    shutil.rmtree(folder)
    get(tmp_path, "rte", "--mirror", originals / "JeremiahZ")
    monkeypatch.setattr(get_bert_models, "locked", lambda *_, **__: pytest.fail("a lock"))  # it may be read-only
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    get(tmp_path, "rte")   # whatever the host
    assert capsys.readouterr().out.count("is complete") == 4
    with pytest.raises(InputError, match=f"{RTE}/resolve/main.*, not of other/bert-base-uncased-rte"):
        get(tmp_path, "other/bert-base-uncased-rte")


@pytest.mark.parametrize("file", ["config.json", "vocab.txt", "pytorch_model.bin"])
def test_a_page_in_the_place_of_a_file_is_mended_by_a_rerun(hub, tmp_path, file):
    hub.faults[f"/{RTE}/resolve/main/{file}"] = [Fault(content=b"<html>\n")]
    good = (on_hub(hub, RTE) / file).read_bytes()
    with pytest.raises(InputError, match="what came is deleted"):
        get(tmp_path, "rte")
    folder = tmp_path / "m" / "bert-base-uncased-rte"
    assert contents(folder) == {}
    (on_hub(hub, RTE) / file).write_bytes(good)
    (folder / file).write_bytes(b"<html>\n")  # brought by hand: it is the user's
    with pytest.raises(InputError, match=f"move {folder / file} away to get it again"):
        get(tmp_path, "rte")
    assert sorted(contents(folder)) == sorted([file, "manifest.json"])
    (folder / file).unlink()
    get(tmp_path, "rte")
    assert (folder / file).read_bytes() == good


def test_offline_names_all_that_is_missing_and_takes_what_was_brought(hub, originals, tmp_path):
    with pytest.raises(InputError) as caught:
        get(tmp_path, "rte", "bert-base-uncased", "--offline")
    for name, repository in (("bert-base-uncased-rte", RTE), ("bert-base-uncased", BERT)):
        for file in ("config.json", "vocab.txt", "model.safetensors"):
            url = f"{hub.url}/{repository}/resolve/{REVISIONS.get(repository, 'main')}/{file}"
            assert url in str(caught.value) and str(tmp_path / "m" / name / file) in str(caught.value)
    assert "pytorch_model.bin" in str(caught.value) and "tokenizer.json" in str(caught.value)
    shutil.copytree(originals / RTE, tmp_path / "m" / "bert-base-uncased-rte", dirs_exist_ok=True)  # .bin will do
    with pytest.raises(InputError) as caught:
        get(tmp_path, "rte", "bert-base-uncased", "--offline")
    assert "bert-base-uncased-rte" not in str(caught.value)
    assert (tmp_path / "m/bert-base-uncased-rte/manifest.json").is_file() and not hub.requests
    get(tmp_path, "rte", originals / GENERAL, "--offline")  # a folder is no network
    get(tmp_path, "sst-2", "--offline", "--mirror", originals / "JeremiahZ")
    assert not hub.requests


def tokenizer_json(path: Path, **changes) -> None:
    """What the package tokenizers writes for the vocabulary PIECES; changes: to its key "model"."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(VOCAB, unk_token="[UNK]"))
    tokenizer.add_special_tokens(PIECES[:5])
    content = json.loads(tokenizer.to_str())
    content["model"].update(changes)
    path.write_text(json.dumps(content))


def test_the_vocabulary_from_tokenizer_json(hub, tmp_path, capsys):
    (on_hub(hub, RTE) / "vocab.txt").unlink()
    tokenizer_json(on_hub(hub, RTE) / "tokenizer.json")
    folder = get(tmp_path, "rte") / "bert-base-uncased-rte"
    assert (folder / "vocab.txt").read_text().split("\n") == [*PIECES, ""]
    assert sorted(contents(folder)) == ["config.json", "manifest.json", "pytorch_model.bin", "vocab.txt"]
    assert "vocab.txt made from tokenizer.json" in capsys.readouterr().out


@pytest.mark.parametrize("damaged", [False, True])
def test_a_tokenizer_json_of_the_users_own_stays(hub, tmp_path, damaged):
    """Before the fetched weights are found good, and after; what the script made or got in a failed run goes."""
    folder = tmp_path / "m" / "bert-base-uncased-rte"
    folder.mkdir(parents=True)
    (on_hub(hub, RTE) / "vocab.txt").unlink()
    tokenizer_json(folder / "tokenizer.json")
    before = (folder / "tokenizer.json").read_bytes()
    if damaged:
        (on_hub(hub, RTE) / "pytorch_model.bin").write_bytes(b"<html>")
        with pytest.raises(InputError, match="pytorch_model.bin is a web page.*; what came is deleted"):
            get(tmp_path, "rte")
        assert sorted(contents(folder)) == ["manifest.json", "tokenizer.json"]
    else:
        get(tmp_path, "rte")
        assert sorted(contents(folder)) == [
            "config.json", "manifest.json", "pytorch_model.bin", "tokenizer.json", "vocab.txt"]
    assert (folder / "tokenizer.json").read_bytes() == before


def test_a_server_may_forbid_what_it_does_not_have(hub, tmp_path, capsys):
    hub.faults[f"/{RTE}/resolve/main/tokenizer_config.json"] = [Fault(status=403)] * 2
    assert (get(tmp_path, "rte") / "bert-base-uncased-rte" / "manifest.json").is_file()
    assert "warning: " in (out := capsys.readouterr().out) and "tokenizer_config.json" in out and "403" in out


def test_another_model_is_named_before_its_weights_come(hub, tmp_path):
    config = on_hub(hub, RTE) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "roberta"}))
    with pytest.raises(InputError, match="holds another model than a BERT, RoBERTa: take a .*T; what came is deleted"):
        get(tmp_path, "rte")
    assert [request.path.rsplit("/", 1)[1] for request in hub.requests] == ["config.json"]
    assert not any((tmp_path / "m" / "bert-base-uncased-rte").iterdir())


@pytest.mark.parametrize("local", [False, True])
def test_weights_in_several_files(hub, originals, tmp_path, local, capsys):
    source = shutil.copytree(originals / RTE, tmp_path / "bert-base-uncased-rte") if local else on_hub(hub, RTE)
    state = read_weights(source)
    (source / "pytorch_model.bin").unlink()
    parts = {"model-1.safetensors": dict(list(state.items())[:5]), "model-2.safetensors": dict(list(state.items())[5:])}
    for name, part in parts.items():
        write_safetensors(source / name, part)
    (source / "model.safetensors.index.json").write_text(json.dumps({
        "weight_map": {tensor: name for name, part in parts.items() for tensor in part}}))
    folder = get(tmp_path, source if local else "rte") / "bert-base-uncased-rte"
    found = read_weights(folder)
    assert found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)
    get(tmp_path, source if local else "rte")
    assert "is complete" in capsys.readouterr().out
    (folder / "model-2.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="model-2.safetensors changed"):
        get(tmp_path, source if local else "rte")


@pytest.mark.parametrize("name, content, words", [
    ("pytorch_model.bin", b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer"),
    ("bert_model.ckpt.index", b"x", "holds a TensorFlow checkpoint"), (None, b"", "holds config.json and no weights")])
def test_a_local_folder_without_a_model_is_named_where_it_lies(originals, tmp_path, name, content, words):
    source = shutil.copytree(originals / RTE, tmp_path / "mine")
    (source / "pytorch_model.bin").unlink()
    if name:
        (source / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{source}.* {words}"):
        get(tmp_path, source)
    assert not (tmp_path / "m" / "mine").exists()


def test_the_casing_comes_along(hub, originals, tmp_path, capsys):
    """tokenizer_config.json where the source has one; what a tokenizer.json alone tells is written into one."""
    (on_hub(hub, RTE) / "tokenizer_config.json").write_text('{"do_lower_case": false, "model_max_length": 512}')
    folder = get(tmp_path, "rte") / "bert-base-uncased-rte"
    assert (folder / "tokenizer_config.json").read_bytes() == (on_hub(hub, RTE) / "tokenizer_config.json").read_bytes()
    assert "tokenizer_config.json" in json.loads((folder / "manifest.json").read_text())["files"]
    assert "warning: " in capsys.readouterr().out  # the vocabulary has no capitals
    requests = len(hub.requests)
    get(tmp_path, "rte")
    assert len(hub.requests) == requests
    local = shutil.copytree(originals / RTE, tmp_path / "local")
    (local / "vocab.txt").unlink()
    tokenizer_json(local / "tokenizer.json")
    content = json.loads((local / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "BertNormalizer", "lowercase": False}
    (local / "tokenizer.json").write_text(json.dumps(content))
    folder = get(tmp_path, local) / "local"
    assert json.loads((folder / "tokenizer_config.json").read_text()) == {"do_lower_case": False}
    assert sorted(contents(folder)) == ["config.json", "manifest.json", "pytorch_model.bin", "tokenizer_config.json",
                                        "vocab.txt"]
    (on_hub(hub, GENERAL) / "tokenizer_config.json").write_text('{"do_lower_case": "no"}')
    with pytest.raises(InputError, match="tokenizer_config.json: do_lower_case is 'no'.*what came is deleted"):
        get(tmp_path, "distilled_tinybert_4l")
    assert contents(tmp_path / "m" / "distilled_tinybert_4l") == {}


@pytest.mark.parametrize("brought", [True, False])
def test_a_wrong_casing_of_the_hub_is_corrected_wherever_it_comes_from(brought, hub, originals, tmp_path):
    repository = HUB_MODELS["bert-base-chinese"]
    shutil.copytree(originals / BERT, on_hub(hub, repository))
    (on_hub(hub, repository) / "tokenizer_config.json").write_text('{"do_lower_case": false, "other": 1}')
    folder = tmp_path / "m/bert-base-chinese"
    if brought:
        shutil.copytree(on_hub(hub, repository), folder)
    get(tmp_path, "bert-base-chinese")
    assert json.loads((folder / "tokenizer_config.json").read_text()) == {"do_lower_case": True, "other": 1}
    get(tmp_path, "bert-base-chinese")  # whose sums are those of now


def test_two_at_once_make_one_vocabulary(hub, tmp_path):
    (on_hub(hub, RTE) / "vocab.txt").unlink()
    tokenizer_json(on_hub(hub, RTE) / "tokenizer.json")
    with ThreadPoolExecutor(2) as pool:  # locks are between open files, whoever has opened them
        assert list(pool.map(lambda _: get(tmp_path, "rte"), range(2))) == [tmp_path / "m"] * 2
    assert sorted(contents(tmp_path / "m" / "bert-base-uncased-rte")) == [
        "config.json", "manifest.json", "pytorch_model.bin", "vocab.txt"]
    assert len(hub.requests) == 7  # in vain: vocab.txt, spiece.model, model.safetensors, tokenizer_config.json


def test_pieces_added_to_a_tokenizer_are_part_of_the_vocabulary(tmp_path):
    tokenizer_json(tmp_path / "tokenizer.json")
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["added_tokens"].append({"id": len(PIECES), "content": "[NEW]"})
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    write_vocab(tmp_path / "tokenizer.json", tmp_path / "vocab.txt")
    assert (tmp_path / "vocab.txt").read_text().split("\n") == [*PIECES, "[NEW]", ""]


@pytest.mark.parametrize("changes, message", [
    ({"type": "BPE"}, "WordPiece"), ({"continuing_subword_prefix": "@@"}, "WordPiece"), ({"vocab": None}, "table"),
    ({"vocab": {**VOCAB, "gap": len(PIECES) + 1}}, "each once"), ({"vocab": {**VOCAB, "twice": 7}}, "each once"),
    ({"vocab": {**VOCAB, "[PAD]": 1, "[UNK]": 0}}, "each once"),  # added_tokens has them the other way round
    ({"vocab": {**VOCAB, "two\nlines": len(PIECES)}}, "end of a line"), ({"vocab": {"a": "0"}}, "table"),
    ({"vocab": {**VOCAB, "\ud800": len(PIECES)}}, "table")])
def test_tokenizers_that_make_no_vocabulary(tmp_path, changes, message):
    tokenizer_json(tmp_path / "tokenizer.json", **changes)
    with pytest.raises(InputError, match=message):
        write_vocab(tmp_path / "tokenizer.json", tmp_path / "vocab.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


@pytest.mark.parametrize("key, value, message", [
    ("num_hidden_layers", 5, "layer.4.*missing"), ("num_hidden_layers", 3, "layer.3.*unknown"),
    ("hidden_size", 32, r"word_embeddings.weight is \[\d+, 16\], expected \[\d+, 32\]"),
    ("intermediate_size", 64, r"intermediate.*\[32, 16\].*\[64, 16\]"),
    ("max_position_embeddings", 64, r"position_embeddings.weight is \[40, 16\], expected \[64, 16\]"),
    ("type_vocab_size", 1, "token_type"), ("vocab_size", 32, "vocab_size 32")])
def test_sizes_that_config_and_weights_do_not_share(hub, tmp_path, key, value, message):
    edit_config(on_hub(hub, RTE), **{key: value})
    with pytest.raises(InputError, match=message):
        get(tmp_path, "rte")
    assert not (tmp_path / "m/bert-base-uncased-rte/manifest.json").exists()


@pytest.mark.parametrize("change, message", [
    (lambda state: state.pop("bert.encoder.layer.1.output.dense.bias"), "layer.1.output.dense.bias is missing"),
    (lambda state: state.pop("bert.pooler.dense.bias"), "pooler.dense.bias is missing"),
    (lambda state: state.update({"classifier.bias": torch.zeros(3)}), r"classifier.bias is \[3\], expected \[2\]"),
    (lambda state: state.update({"span_outputs.weight": torch.zeros(2, 16)}), "span_outputs.weight is unknown"),
    (lambda state: state.update({"qa_outputs.weight": torch.zeros(2, 16)}), "qa_outputs.bias is missing"),
    (lambda state: state.update({"classifier.weight": torch.tensor(1.0)}), r"classifier.weight is \[\]"),
    (lambda state: [state.pop(name) for name in list(state) if name.startswith("bert.")], "no BERT")])
def test_weights_that_are_no_bert_of_this_config(originals, tmp_path, change, message):
    folder = shutil.copytree(originals / RTE, tmp_path / "bad")
    state = read_weights(folder)
    change(state)
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=message):
        get(tmp_path, folder)


def test_a_bare_encoder_without_pooler(originals, tmp_path, capsys):
    folder = shutil.copytree(originals / RTE, tmp_path / "bare")
    state = {name.removeprefix("bert."): tensor for name, tensor in read_weights(folder).items()
             if name.startswith("bert.") and "pooler" not in name}
    torch.save(state, folder / "pytorch_model.bin")
    get(tmp_path, folder)
    assert "heads: none\n" in capsys.readouterr().out


def test_a_general_tinybert_of_the_hub_is_a_student(hub, originals, tiny, script):
    """It comes under the name that general distillation gives its result, and task distillation starts from it."""
    folder = tiny / "models" / "distilled_tinybert_4l"
    out = run(script, "get_bert_models", ["--models", folder.name, "--output_dir", folder.parent])
    assert "2 layers, 2 attention heads, hidden size 8; heads: pooler, masked LM, next sentence, " \
           "projections (3, to 16)\n" in out
    source = torch.load(originals / GENERAL / "pytorch_model.bin", weights_only=True)
    student = TinyBertForPreTraining.from_pretrained(folder, fit_size=16)
    other = TinyBertForSequenceClassification.from_pretrained(folder, num_labels=2, fit_size=16, new=("classifier.",))
    for model in (student.state_dict(), other.state_dict()):
        assert all(torch.equal(model[f"fit_denses.{i}.weight"], source[f"fit_denses.{i}.weight"]) for i in range(3))
        assert torch.equal(model["bert.embeddings.LayerNorm.weight"], source["bert.embeddings.LayerNorm.gamma"])
    out = run(script, "task_distill", train(tiny, student_model=folder))
    assert any(name.startswith("fit_denses.") for name in read_weights(tiny / "out"))
    assert "newly initialised in TinyBertForSequenceClassification: classifier.weight, classifier.bias" in out


def test_a_model_that_was_trained_here_is_not_taken_for_a_download(hub, tmp_path):
    save_model(TinyBertForPreTraining(BertConfig(**STUDENT), 16), tmp_path / "m/distilled_tinybert_4l",
               on_hub(hub, RTE) / "vocab.txt")
    (tmp_path / "m/distilled_tinybert_4l/run.json").write_text("{}")
    with pytest.raises(InputError, match="trained here"):
        get(tmp_path, "distilled_tinybert_4l")


def test_models_by_task_and_repository():
    models = get_bert_models.parse_args(["--models", "SST-2", "mnli", "bert-base-uncased-cola", "a/b", "c/d@e",
                                         "distilled_tinybert_6l_zh"]).models
    assert models == {"bert-base-uncased-sst2": "JeremiahZ/bert-base-uncased-sst2",
                      "bert-base-uncased-mnli": "JeremiahZ/bert-base-uncased-mnli",
                      "bert-base-uncased-cola": "JeremiahZ/bert-base-uncased-cola", "b": "a/b", "d": "c/d@e",
                      "distilled_tinybert_6l_zh": "huawei-noah/TinyBERT_6L_zh"}


@pytest.mark.parametrize("arguments, message", [
    (["sts-b"], "finetune_teacher.py --tasks STS-B"), (["../x/y"], "unknown model"), (["nonsense"], "unknown model"),
    ([BERT, "other/bert-base-uncased"], "both go into"), ([f"{RTE}@v1", "--mirror", "."], "one revision"),
    (["google-bert/absent"], "not found")])
def test_bad_models_end_with_one_line_and_status_2(hub, refused, tmp_path, arguments, message):
    refused("get_bert_models", "--models", *arguments, "--output_dir", tmp_path / "m", words=(message,))
    assert not [path for path in tmp_path.glob("m/**/*") if path.is_file()]


def test_refusals_come_before_the_slow_imports(tmp_path):
    result = subprocess.run([sys.executable, "-X", "importtime", ROOT / "get_bert_models.py", "--models", "wnli"],
                            cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert result.returncode == 2 and "finetune_teacher.py --tasks WNLI" in result.stderr
    assert "| torch\n" not in result.stderr
