"""fix_teacher_layers.py: every layout gives the same logits, nothing is lost."""
from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file

import fix_teacher_layers
from tests.conftest import ROOT, without_vocab_txt
from transformer.fetching.download import check_manifest, write_manifest
from transformer.files import InputError
from transformer.modeling import BertForMaskedLM, BertModel, TinyBertForSequenceClassification
from transformer.weights import read_weights, write_bin

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
SIZES = {"vocab_size": len(VOCAB), "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 40, "max_position_embeddings": 32}
IDS = torch.tensor([[2, 7, 8, 9, 3, 10, 11, 3], [2, 12, 4, 3, 14, 3, 0, 0]])
SEGMENTS = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1, 0, 0]])
MASK = torch.tensor([[1] * 8, [1] * 6 + [0] * 2])


def hf_model(name: str, **extra):
    """A random model of Hugging Face, with weights large enough that wrong ones cannot go unnoticed."""
    torch.manual_seed(1)
    config = transformers.BertConfig(**SIZES, initializer_range=0.3, attn_implementation="eager", **extra)
    return getattr(transformers, name)(config).eval()


@torch.no_grad()
def hf_output(model, field: str) -> torch.Tensor:
    return model(input_ids=IDS, token_type_ids=SEGMENTS, attention_mask=MASK)[field]


def folder_of(path: Path, model, state=None, weights: str = "pytorch_model.bin") -> Path:
    """A model folder in the layout of the hub, holding `state` (by default the model's)."""
    path.mkdir(parents=True)
    config = {**SIZES, "initializer_range": 0.3, "model_type": "bert", "architectures": [type(model).__name__],
              "position_embedding_type": "absolute"}
    (path / "config.json").write_text(json.dumps(config))
    (path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    state = {name: tensor.clone() for name, tensor in (state or model.state_dict()).items()}
    if weights.endswith(".bin"):
        torch.save(state, path / weights)
    else:
        save_file(state, path / weights)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def old_names(state):
    return {name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
            for name, tensor in state.items()}


def bare(state):
    return {name.removeprefix("bert."): tensor for name, tensor in state.items()}


def with_buffers(state):
    return {**state, "bert.embeddings.position_ids": torch.arange(32)[None]}


@pytest.mark.parametrize("weights", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("layout", [dict, old_names, bare, with_buffers, lambda state: old_names(bare(state))],
                         ids=["prefixed", "gamma_beta", "bare", "position_ids", "bare_gamma_beta"])
def test_every_layout_gives_hugging_faces_logits(tmp_path, layout, weights):
    model = hf_model("BertForSequenceClassification", num_labels=3)
    folder = folder_of(tmp_path / "teacher", model, layout(model.state_dict()), weights)
    fix_teacher_layers.main([str(folder)])
    assert sorted(contents(folder)) == ["config.json", "pytorch_model.bin", "vocab.txt"]
    ours = TinyBertForSequenceClassification.from_pretrained(folder, num_labels=3).eval()
    with torch.no_grad():
        logits, _, hidden = ours(IDS, SEGMENTS, MASK)
    torch.testing.assert_close(logits, hf_output(model, "logits"), atol=1e-5, rtol=0)
    assert json.loads((folder / "config.json").read_text())["classifier_relu"] is False
    again = transformers.BertForSequenceClassification.from_pretrained(folder, num_labels=3).eval()
    torch.testing.assert_close(hf_output(again, "logits"), logits, atol=1e-5, rtol=0)

    before = contents(folder)
    fix_teacher_layers.main(["--model_dir", str(folder)])
    assert contents(folder) == before


def test_bare_encoder(tmp_path):
    model = hf_model("BertModel")
    folder = folder_of(tmp_path / "encoder", model, old_names(model.state_dict()), "model.safetensors")
    fix_teacher_layers.main([str(folder)])
    with torch.no_grad():
        hidden, _, pooled = BertModel.from_pretrained(folder).eval()(IDS, SEGMENTS, MASK)
    torch.testing.assert_close(hidden[-1], hf_output(model, "last_hidden_state"), atol=1e-5, rtol=0)
    torch.testing.assert_close(pooled, hf_output(model, "pooler_output"), atol=1e-5, rtol=0)
    assert "classifier_relu" not in json.loads((folder / "config.json").read_text())


def test_the_masked_lm_head_is_kept_and_a_sibling_gets_a_classifier(tmp_path, capsys):
    model = hf_model("BertForPreTraining")
    folder = folder_of(tmp_path / "bert-base-uncased-mnli", model, weights="model.safetensors")
    fix_teacher_layers.main([str(folder)])
    assert "classifier added (3 labels of MNLI" in capsys.readouterr().out
    with torch.no_grad():
        logits = BertForMaskedLM.from_pretrained(folder).eval()(IDS, SEGMENTS, MASK)
    torch.testing.assert_close(logits, hf_output(model, "prediction_logits"), atol=1e-4, rtol=1e-5)
    config = json.loads((folder / "config.json").read_text())
    assert config["classifier_relu"] is True
    assert config["id2label"] == {"0": "contradiction", "1": "entailment", "2": "neutral"}
    classifier = TinyBertForSequenceClassification.from_pretrained(folder, num_labels=3).classifier
    assert classifier.bias.eq(0).all() and 0.15 < classifier.weight.std() < 0.45
    before = contents(folder)
    fix_teacher_layers.main([str(folder)])
    assert contents(folder) == before


def test_a_plain_model_gets_no_classifier(tmp_path):
    folder = folder_of(tmp_path / "bert-base-uncased", hf_model("BertForPreTraining"))
    fix_teacher_layers.main([str(folder)])
    assert not [name for name in read_weights(folder) if name.startswith("classifier")]


def test_the_head_convention_is_not_overwritten_and_tinybert_keeps_its_relu(tmp_path):
    model = hf_model("BertForSequenceClassification")
    folder = folder_of(tmp_path / "a", model)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "classifier_relu": True, "mine": [1]}))
    fix_teacher_layers.main([str(folder)])
    assert json.loads((folder / "config.json").read_text()) == {**config, "classifier_relu": True, "mine": [1]}
    tiny = TinyBertForSequenceClassification.from_scratch(folder, num_labels=2, fit_size=48)
    folder = folder_of(tmp_path / "b", model, tiny.state_dict())
    fix_teacher_layers.main([str(folder)])
    assert json.loads((folder / "config.json").read_text())["classifier_relu"] is True


def test_both_formats_side_by_side(tmp_path, capsys):
    model = hf_model("BertForSequenceClassification")
    folder = folder_of(tmp_path / "same", model)
    save_file(old_names(model.state_dict()), folder / "model.safetensors")
    fix_teacher_layers.main([str(folder)])
    assert not (folder / "model.safetensors").exists()  # nothing is lost with it
    folder = folder_of(tmp_path / "other", model)
    save_file({**model.state_dict(), "classifier.bias": torch.ones(2)}, folder / "model.safetensors")
    capsys.readouterr()
    fix_teacher_layers.main([str(folder)])
    assert (folder / "model.safetensors").exists() and "warning" in capsys.readouterr().out


def spoil_weights(folder):
    (folder / "pytorch_model.bin").write_bytes((folder / "pytorch_model.bin").read_bytes()[:5000])


def spoil_state(folder):
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    del state["bert.encoder.layer.1.output.dense.bias"]
    torch.save(state, folder / "pytorch_model.bin")


def spoil_vocab(folder):
    (folder / "vocab.txt").write_text("\n".join([*VOCAB, "more"]) + "\n")


def spoil_config(folder):
    (folder / "config.json").write_text((folder / "config.json").read_text()[:40])


@pytest.mark.parametrize("spoil, message", [
    (spoil_weights, "pytorch_model.bin"), (spoil_state, "layer.1.output.dense.bias"), (spoil_vocab, "32 pieces"),
    (spoil_config, "config.json"), (lambda folder: (folder / "vocab.txt").unlink(), "vocab.txt")])
def test_a_folder_that_cannot_be_fixed_stays_as_it_was(tmp_path, spoil, message):
    folder = folder_of(tmp_path / "x-rte", hf_model("BertForSequenceClassification"))
    spoil(folder)
    before = contents(folder)
    with pytest.raises((InputError, OSError), match=message):
        fix_teacher_layers.main([str(folder)])
    assert contents(folder) == before and not (folder / ".fixing").exists()


def test_a_full_disk_is_told_of_a_file_that_people_know(tmp_path, monkeypatch, refused):
    folder = folder_of(tmp_path / "x-rte", hf_model("BertForSequenceClassification"))
    before = contents(folder)

    def full(path, state):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))
    monkeypatch.setattr("transformer.weights.write_bin", full)
    refused("fix_teacher_layers", folder, words=(f"{folder}/pytorch_model.bin: No space left on device",))
    assert contents(folder) == before and not (folder / ".fixing").exists()


def test_the_files_of_the_tokenizer_stay_as_they_are(tmp_path, capsys):
    """A tokenizer.json alone, and word embeddings padded beyond it (here from 29 to 31), which is said once."""
    folder = folder_of(tmp_path / "bert", hf_model("BertForMaskedLM"))
    (folder / "vocab.txt").write_text("\n".join(VOCAB[:29]))
    without_vocab_txt(folder)
    before = (folder / "tokenizer.json").read_bytes()
    write_manifest(folder, ["config.json", "tokenizer.json", "pytorch_model.bin"], "somewhere")
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    torch.save({**state, "bert.embeddings.position_ids": torch.arange(32)[None]}, folder / "pytorch_model.bin")
    fix_teacher_layers.main([str(folder)])
    out = capsys.readouterr().out
    assert "position_ids" in out and out.count(f"{folder}: 31 word embeddings for 29 pieces") == 1
    assert ".fixing" not in out and (folder / "tokenizer.json").read_bytes() == before and check_manifest(folder)
    assert sorted(contents(folder)) == ["config.json", "manifest.json", "pytorch_model.bin", "tokenizer.json"]


def with_copies(state):
    """What some packages save: buffers, and the tied decoder as tensors of its own."""
    return {**with_buffers(state), "cls.predictions.decoder.weight": state["cls.predictions.decoder.weight"].clone(),
            "cls.predictions.decoder.bias": state["cls.predictions.bias"].clone()}


def test_copies_are_dropped_and_reported(tmp_path, capsys):
    model = hf_model("BertForPreTraining")
    folder = folder_of(tmp_path / "bert", model, old_names(with_copies(model.state_dict())))
    fix_teacher_layers.main([str(folder)])
    out = capsys.readouterr().out
    layer_norms = 2 * (1 + 2 * SIZES["num_hidden_layers"] + 1)  # embeddings, layers, masked LM
    assert f"{folder}: {layer_norms} weights renamed; " in out
    for name in ("bert.embeddings.position_ids", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"):
        assert name in out.partition(" dropped")[0] and name not in read_weights(folder)
    again = transformers.BertForPreTraining.from_pretrained(folder).eval()
    for field in ("prediction_logits", "seq_relationship_logits"):
        torch.testing.assert_close(hf_output(again, field), hf_output(model, field), atol=1e-5, rtol=0)
    fix_teacher_layers.main([str(folder)])
    assert "nothing to do" in capsys.readouterr().out


def test_a_tied_decoder_in_the_file_is_all_there_is_to_change(tmp_path, capsys):
    """One tensor under two names, as torch.save keeps those that are one in memory."""
    folder = folder_of(tmp_path / "bert", hf_model("BertForPreTraining"))
    fix_teacher_layers.main([str(folder)])
    state = read_weights(folder)
    torch.save({**state, "cls.predictions.decoder.weight": state["bert.embeddings.word_embeddings.weight"]},
               folder / "pytorch_model.bin")
    fix_teacher_layers.main([str(folder)])
    assert f"{folder}: cls.predictions.decoder.weight dropped (" in capsys.readouterr().out
    assert "cls.predictions.decoder.weight" not in read_weights(folder)


@pytest.mark.parametrize("name", ["cls.predictions.decoder.weight", "cls.predictions.decoder.bias"])
def test_what_only_looks_like_a_copy_is_not_dropped(tmp_path, name):
    state = with_copies(hf_model("BertForPreTraining").state_dict())
    folder = folder_of(tmp_path / "bert", hf_model("BertForPreTraining"), {**state, name: state[name] + 1})
    before = contents(folder)
    with pytest.raises(InputError, match=f"{name} differs"):
        fix_teacher_layers.main([str(folder)])
    assert contents(folder) == before


def test_old_files_stay_until_the_new_ones_are_verified(tmp_path, monkeypatch):
    """One bit that turns on the way to the disk, then a stop at each rename in turn: nothing is ever lost."""
    model = hf_model("BertForSequenceClassification")
    folder = folder_of(tmp_path / "bert", model, bare(model.state_dict()), "model.safetensors")
    before = contents(folder)
    with monkeypatch.context() as patch:
        patch.setattr("transformer.weights.write_bin", lambda path, state: write_bin(
            path, {**state, "classifier.bias": state["classifier.bias"] + 1e-7}))
        with pytest.raises(InputError, match="check the disk"):
            fix_teacher_layers.main([str(folder)])
    assert contents(folder) == before

    stops, replace = 0, os.replace
    while True:
        calls = iter(range(stops))

        def stopped(*paths, calls=calls):
            if next(calls, None) is None:
                raise KeyboardInterrupt
            replace(*paths)
        with monkeypatch.context() as patch:
            patch.setattr("os.replace", stopped)
            patch.setattr("shutil.rmtree", lambda *_, **__: None)  # killed: it cleans nothing
            try:
                fix_teacher_layers.main([str(folder)])
                break
            except KeyboardInterrupt:
                stops += 1
        assert before["model.safetensors"] == (folder / "model.safetensors").read_bytes()
        if (folder / "pytorch_model.bin").exists():
            assert read_weights(folder).keys() == model.state_dict().keys()
    assert stops == 4  # two files beside the old ones, then each to its place
    fix_teacher_layers.main([str(folder)])
    assert sorted(contents(folder)) == ["config.json", "pytorch_model.bin", "vocab.txt"]
    again = transformers.BertForSequenceClassification.from_pretrained(folder).eval()
    torch.testing.assert_close(hf_output(again, "logits"), hf_output(model, "logits"), atol=1e-5, rtol=0)


def test_default_folders_and_contradictions(tmp_path):
    assert [str(path) for path in fix_teacher_layers.parse_args([]).folders] == [
        "models/bert-base-uncased", *(f"models/bert-base-uncased-{task}" for task in ("mrpc", "sst2", "cola", "rte"))]
    assert fix_teacher_layers.parse_args(["--models_dir", "a"]).folders[0] == Path("a/bert-base-uncased")
    result = subprocess.run([sys.executable, str(ROOT / "fix_teacher_layers.py"), "a", "--model_dir", "b"],
                            cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "--model_dir" in result.stderr
