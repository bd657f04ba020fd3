"""What is not what it was taken for is named: files by their first bytes, model folders by what lies in them."""
import bz2
import errno
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile

import pytest
import torch

from tests.conftest import edit_config, finetune, general, names, run, train, write_lines, zipped
from transformer.checkpoint import load_encoder, model_sha256, save_model
from transformer.cli import run_script
from transformer.config import BertConfig
from transformer.data.parts import byte_ranges
from transformer.families import FAMILIES, Family
from transformer.files import InputError, atomic_write, read_json, read_lines, remove_abandoned
from transformer.kinds import kind_of, not_bert
from transformer.modeling import BertForMaskedLM, BertModel, TinyBertForSequenceClassification
from transformer.weights import read_model, read_weights, write_bin, write_safetensors

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 440449768\n"


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("train.tsv"))
    return buffer.getvalue()


FILES = {  # name -> content, words that the message must hold
    "pointer": (POINTER, "Git LFS pointer", "git lfs pull"),
    "page": (b"\n  <!DOCTYPE HTML><html><head><title>404</title>", "web page", "get the file itself"),
    "bare page": (b"\xef\xbb\xbf<html>\n", "web page", "get the file itself"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML", "get the file itself"),
    "dump": (b'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">', "XML", "extracted"),
    "zip": (zipped({"train.tsv": b"x"}), "zip archive", "unpack it"),
    "gzip": (gzip.compress(b"text"), "gzip", "unpack it"),
    "bzip2": (bz2.compress(b"text"), "bzip2", "unpack it"),
    "xz": (lzma.compress(b"text"), "xz", "unpack it"),
    "tar": (tarred(), "tar archive", "unpack it"),
    "utf-16": ("text".encode("utf-16"), "UTF-16", "convert it to UTF-8"),
    "utf-16 without a mark": ("text with a few words\n".encode("utf-16-le"), "UTF-16", "convert it to UTF-8"),
}


@pytest.mark.parametrize("name", FILES)
def test_every_reader_of_text_names_it(name, tmp_path):
    content, *words = FILES[name]
    path = tmp_path / "file"
    path.write_bytes(content)
    for read in (lambda: list(read_lines(path)), lambda: byte_ranges(path, 100), lambda: read_json(path)):
        with pytest.raises(InputError) as error:
            read()
        assert str(error.value).startswith(f"{path} is "), error.value
        assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("content", [b"", b"the cat .\n", "漢字\n".encode(), b'{"a": 1}', b"PK is text\n", b"<b>\n"])
def test_text_is_taken(content, tmp_path):
    (tmp_path / "file").write_bytes(content)
    assert kind_of(tmp_path / "file") is None
    assert len(list(read_lines(tmp_path / "file"))) == content.count(b"\n") + (content[-1:] not in (b"\n", b""))


@pytest.mark.parametrize("weights", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("name", ["pointer", "page", "gzip", "tar"])
def test_weights_that_are_something_else(name, weights, tiny):
    (tiny / "bert" / "pytorch_model.bin").unlink()
    (tiny / "bert" / weights).write_bytes(FILES[name][0])
    with pytest.raises(InputError) as error:
        read_weights(tiny / "bert")
    assert str(error.value).startswith(f"{tiny / 'bert' / weights} is ")
    assert all(word in str(error.value) for word in FILES[name][1:])


@pytest.mark.parametrize("failure, cause", [
    (OSError(errno.ESTALE, "Stale file handle"), "Stale file handle"), (MemoryError(), "not enough memory")])
def test_what_the_system_refuses_is_no_damage(failure, cause, tiny, refused, monkeypatch):
    def fail(*arguments, **keywords):
        raise failure
    monkeypatch.setattr(torch, "load", fail)
    path = tiny / "teacher_mrpc" / "pytorch_model.bin"
    refused("task_distill", *train(tiny), words=(f"{path} cannot be read: {cause}",))


TF = ("bert_model.ckpt.data-00000-of-00001", "bert_model.ckpt.index", "bert_model.ckpt.meta", "bert_config.json")


@pytest.mark.parametrize("files, words", [
    (TF, ("TensorFlow checkpoint", "transformers-cli convert", "bert_model.ckpt --config", "bert_config.json")),
    (("model.ckpt-1000.index", "config.json"), ("TensorFlow checkpoint", "model.ckpt-1000 --config")),
    (("config.json", "tf_model.h5"), ("tf_model.h5", "from_tf=True")),
    (("config.json", "flax_model.msgpack"), ("flax_model.msgpack", "from_flax=True")),
    (("bert_config.json", "pytorch_model.bin"), ("bert_config.json", "rename it to config.json")),
    (("config.json", "vocab.txt"), ("no weights", "get_bert_models.py", "general_distill.py")),
    (("pytorch_model.bin", "vocab.txt"), ("no config.json",)),
    ((), ("empty folder",))])
def test_folders_without_a_model(files, words, tiny):
    folder = tiny / "folder"
    folder.mkdir()
    for name in files:
        content = tiny / "bert" / name.replace("bert_config", "config")
        (folder / name).write_bytes(content.read_bytes() if content.is_file() else b"x")
    with pytest.raises(InputError) as error:
        read_model(folder)
    assert str(error.value).startswith(f"{folder} ")
    assert all(word in str(error.value) for word in words), error.value


def scripts_of(tiny, model):
    """A command of each script, with the model in the place of its BERT: {script: arguments}."""
    glove = write_lines(tiny / "glove.txt", ["a 1 2", "b 2 1"])
    scored = ["--data_dir", tiny / "glue" / "MRPC", "--task_name", "mrpc", "--output_dir", tiny / "out", "--no_cuda"]
    return {"teacher": ("task_distill", train(tiny, teacher_model=model)),
            "student": ("task_distill", train(tiny, student_model=model)),
            "scored": ("task_distill", ["--do_eval", "--student_model", model, *scored]),
            "start": ("finetune_teacher", finetune(tiny, model=model, output_dir=tiny / "out")),
            "general": ("general_distill", general(tiny, teacher_model=model)),
            "augmentation": ("data_augmentation", [
                "--pretrained_bert_model", model, "--glove_embs", glove, "--glue_dir", tiny / "glue", "--task_name",
                "CoLA", "--no_cuda"]),
            "fixed": ("fix_teacher_layers", [model]),
            "pregenerated": ("pregenerate_training_data", [
                "--train_corpus", write_lines(tiny / "text.txt", ["a cat .", "", "a dog ."]), "--bert_model", model,
                "--output_dir", tiny / "made"])}


@pytest.mark.parametrize("role", ["teacher", "student", "scored", "start", "general", "augmentation", "fixed"])
def test_every_script_names_what_a_model_folder_is(role, tiny, refused):
    folder = tiny / "bert"
    script, arguments = scripts_of(tiny, folder)[role]
    (folder / "pytorch_model.bin").rename(tiny / "weights")
    refused(script, *arguments, words=(f"{folder} holds config.json and no weights", "get_bert_models.py"))
    for name in TF:
        (folder / name).write_bytes((folder / "config.json").read_bytes())
    refused(script, *arguments, words=(f"{folder} holds a TensorFlow checkpoint", "transformers-cli convert"))
    for name in TF[:3]:
        (folder / name).unlink()
    (folder / "config.json").unlink()
    refused(script, *arguments, words=(f"{folder} holds bert_config.json", "rename it to config.json"))
    (tiny / "weights").rename(folder / "pytorch_model.bin")
    (folder / "bert_config.json").rename(folder / "config.json")
    edit_config(folder, model_type="roberta")
    refused(script, *arguments, words=(f"{folder} holds another model than a BERT, RoBERTa",))


@pytest.mark.parametrize("role", ["teacher", "student", "scored", "start", "general", "augmentation", "fixed",
                                  "pregenerated"])
def test_every_script_names_a_hub_name_and_a_file(role, tiny, refused, monkeypatch):
    monkeypatch.chdir(tiny)
    script, arguments = scripts_of(tiny, "google-bert/bert-base-uncased")[role]
    refused(script, *arguments, words=("get_bert_models.py --models google-bert/bert-base-uncased",
                                       "models/bert-base-uncased"))
    if role != "pregenerated":  # which takes a vocabulary file
        script, arguments = scripts_of(tiny, tiny / "bert" / "pytorch_model.bin")[role]
        refused(script, *arguments, words=("pytorch_model.bin is a file: name the folder",))


@pytest.mark.parametrize("name", ["general_distill", "task_distill"])
def test_a_student_s_config_of_another_model(name, tiny, refused):
    """Its keys would be passed over in silence, and BERT-base's sizes taken."""
    edit_config(tiny / "config", model_type="distilbert", dim=16, hidden_dim=32)
    arguments = general(tiny) if name == "general_distill" else train(tiny, student_model=tiny / "config",
                                                                      from_scratch=True)
    refused(name, *arguments, words=(f"{tiny / 'config'} holds another model than a BERT, DistilBERT",))
    (tiny / "config" / "config.json").rename(tiny / "config" / "bert_config.json")
    refused(name, *arguments, words=(f"{tiny / 'config'} holds bert_config.json: rename it",))


def test_a_checkpoint_of_tensorflow_2_is_no_path(tiny, refused):
    write_lines(tiny / "bert" / "ckpt-1.index", ["x"])
    refused("task_distill", *train(tiny, teacher_model=tiny / "bert" / "ckpt-1"), words=("ckpt-1 does not exist",))


def test_a_converted_checkpoint_has_only_to_be_renamed(tiny):
    for name in TF[:3]:
        write_lines(tiny / "bert" / name, ["x"])
    (tiny / "bert" / "config.json").rename(tiny / "bert" / "bert_config.json")
    with pytest.raises(InputError, match="holds bert_config.json: rename it to config.json"):
        read_model(tiny / "bert")
    (tiny / "bert" / "bert_config.json").rename(tiny / "bert" / "config.json")
    read_model(tiny / "bert")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "config.json"])
def test_what_is_no_vocabulary(name, tiny, refused):
    script, arguments = scripts_of(tiny, tiny / "bert" / name)["pregenerated"]
    refused(script, *arguments, words=(f"{name} is no vocabulary: name the model folder",))


def test_json_may_begin_with_a_byte_order_mark(tiny):
    path = tiny / "bert" / "config.json"
    wanted = read_json(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_json(path) == wanted


@pytest.mark.parametrize("where", ["out", "out/below"])
def test_a_file_in_the_place_of_an_output_folder(where, tiny, refused):
    write_lines(tiny / "out", ["notes"])
    commands = scripts_of(tiny, tiny / "student_mrpc")
    for role in ("scored", "start"):
        script, arguments = commands[role]
        arguments[arguments.index("--output_dir") + 1] = tiny / where
        refused(script, *arguments, words=(f"{tiny / 'out'} is a file: name a folder",))
    refused("get_bert_models", "--models", tiny / "bert", "--output_dir", tiny / where, words=("out is a file",))
    assert not (tiny / "student_mrpc" / "eval_results.json").exists()


@pytest.mark.parametrize("flag, value, words", [
    ("data_dir", "glue/MRPC/train.tsv", ("train.tsv is a file", "folder")),
    ("glue_dir", "glue/CoLA/dev.tsv", ("dev.tsv is a file",)),
    ("glove_embs", "glue", ("glue is a folder", "file")), ("pregenerated_data", "json/epoch_0.json", ("is a file",))])
def test_a_file_for_a_folder_and_the_reverse(flag, value, words, tiny, refused):
    role = {"data_dir": "teacher", "pregenerated_data": "general"}.get(flag, "augmentation")
    script, arguments = scripts_of(tiny, tiny / "bert")[role]
    arguments[arguments.index(f"--{flag}") + 1] = tiny / value
    refused(script, *arguments, words=words)


@pytest.mark.parametrize("config, name", [
    ({"model_type": "distilbert"}, "DistilBERT"), ({"model_type": "roberta"}, "RoBERTa"),
    ({"model_type": "xlm-roberta"}, "XLM-RoBERTa"), ({"model_type": "gpt2"}, "gpt2")])
def test_other_models_are_named(config, name, tiny, refused):
    edit_config(tiny / "teacher_mrpc", **config)
    refused("task_distill", *train(tiny), words=(str(tiny / "teacher_mrpc"), name, "BERT"))


def test_a_family_is_an_entry_of_the_table(tiny, monkeypatch):
    """Its names become BERT's, also twice, and its keys count in its own config.json alone; saved, it stays what it
    is."""
    state = read_weights(tiny / "bert")
    others = {name.replace("bert.", "other.").replace(".attention.self.", ".attention."): tensor
              for name, tensor in state.items()}
    write_bin(tiny / "bert" / "pytorch_model.bin", others)
    edit_config(tiny / "bert", model_type="Other_BERT", hidden_act="relu")
    with pytest.raises(InputError, match="holds another model than a BERT, other-bert: take a BERT, E.* or ALBERT$"):
        load_encoder(tiny / "bert")
    monkeypatch.setitem(FAMILIES, "other-bert", Family("OtherBERT", "other", "Other", names=(
        *((f"other.encoder.layer.#.attention.{part}.", f"bert.encoder.layer.#.attention.self.{part}.")
          for part in ("query", "key", "value")), ("other.", "bert.")), defaults={"hidden_dropout_prob": 0.5},
        own_keys=("embedding_size",)))
    model = load_encoder(tiny / "bert")
    save_model(model, tiny / "saved", tiny / "bert")
    saved = read_weights(tiny / "saved")
    assert {f"other.{name}" for name in saved} <= set(others) and "encoder.layer.1.attention.query.weight" in saved
    assert read_json(tiny / "saved" / "config.json")["architectures"] == ["OtherModel"]
    for encoder in (model, load_encoder(tiny / "saved")):
        assert encoder.pooler is None and encoder.config.hidden_act == "relu"
        assert encoder.config.hidden_dropout_prob == 0.1  # of its config.json
        assert all(torch.equal(tensor, state[f"bert.{name}"]) for name, tensor in encoder.state_dict().items())
    config = BertConfig.from_dict({"vocab_size": 9, "embedding_size": 4})
    assert (config.embedding_size, config.extra) == (None, {"embedding_size": 4})
    config = BertConfig.from_dict({"vocab_size": 9, "embedding_size": 4, "model_type": "other-bert"})
    assert (config.embedding_size, config.hidden_dropout_prob) == (4, 0.5)
    assert not_bert({"model_type": "xlnet"}).endswith(
        "than a BERT, XLNet: take a BERT, ELECTRA, NEZHA, ALBERT or OtherBERT")


def test_a_size_that_a_model_does_not_have_is_no_part_of_it(tiny):
    """Kept logits and evaluations are found again when another family brings a key with it."""
    model = load_encoder(tiny / "bert")
    before = model_sha256(model)
    model.config.other_size = None
    assert model_sha256(model) == before
    model.config.other_size = 3
    assert model_sha256(model) != before


def test_other_models_without_a_type_are_named_by_their_weights(tiny):
    state = {f"roberta.{name.removeprefix('bert.')}": tensor for name, tensor in read_weights(tiny / "bert").items()}
    write_bin(tiny / "bert" / "pytorch_model.bin", state)
    config = json.loads((tiny / "bert" / "config.json").read_text())
    del config["model_type"]
    (tiny / "bert" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="RoBERTa"):
        BertModel.from_pretrained(tiny / "bert")


@pytest.mark.parametrize("name, words", [
    ("bert/pytorch_model.bin", ("is a file: name the folder that holds it",)),
    ("bert-base-uncased", ("does not exist", "get_bert_models.py --models bert-base-uncased`", "models/bert-base-unc")),
    ("google-bert/bert-base-cased", ("get_bert_models.py --models google-bert/bert-base-cased`", "models/bert-base-c")),
    ("models/bert-base-uncased", ("bert-base-uncased does not exist: run the step that makes it (get_bert_models.py",)),
    ("google-bert/bert-base-cased@main", ("get_bert_models.py --models google-bert/bert-base-cased@main` gets it, into "
                                          "models/bert-base-cased: name",)),
    ("tf/bert_model.ckpt", ("tf holds a TensorFlow checkpoint",))])
def test_what_is_no_model_folder(name, words, tiny, monkeypatch):
    monkeypatch.chdir(tiny)
    write_lines(tiny / "tf" / "bert_model.ckpt.index", ["x"])
    with pytest.raises(InputError) as error:
        read_model(name)
    assert all(word in str(error.value) for word in words), error.value
    assert ("get_bert_models.py" in str(error.value)) == ("get_bert_models.py" in "".join(words))


# --- weights in other shapes

def shard(folder, name, of_shard):
    """The weights of a folder in two files and their index; of_shard changes what is in the second."""
    state = read_weights(folder)
    (folder / "pytorch_model.bin").unlink()
    write = write_safetensors if name.endswith("safetensors") else write_bin
    stem, suffix = name.split(".")
    parts = [dict(list(state.items())[:7]), dict(list(state.items())[7:])]
    weight_map = {}
    for number, part in enumerate(parts, 1):
        file = f"{stem}-0000{number}-of-00002.{suffix}"
        weight_map |= dict.fromkeys(part, file)
        write(folder / file, of_shard(part) if number == 2 else part)
    (folder / f"{name}.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return state


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_sharded_weights(name, tiny, script):
    state = shard(tiny / "teacher_mrpc", name, dict)
    found = read_weights(tiny / "teacher_mrpc")
    assert found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)
    run(script, "task_distill", train(tiny))
    out = run(script, "fix_teacher_layers", [tiny / "teacher_mrpc"])
    stem, suffix = name.split(".")
    assert f"{name}.index.json turned into pytorch_model.bin ({stem}-00001-of-00002.{suffix}, " in out
    assert {"pytorch_model.bin"} <= set(names(tiny / "teacher_mrpc"))


@pytest.mark.parametrize("spoil, words", [
    (lambda folder: (folder / "model-00002-of-00002.safetensors").unlink(), ("00002-of-00002", "does not exist")),
    (lambda folder: os.truncate(folder / "model-00002-of-00002.safetensors", 500), ("00002-of-00002", "cut short")),
    (lambda folder: write_safetensors(folder / "model-00002-of-00002.safetensors", {"a": torch.ones(1)}),
     ("00002-of-00002", "belong together")),
    (lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../x.bin"}}'),
     ("index.json", "weight_map")),
    (lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight_map": {}}'),
     ("index.json", "weight_map"))])
def test_every_shard_is_checked(spoil, words, tiny, refused):
    shard(tiny / "teacher_mrpc", "model.safetensors", dict)
    spoil(tiny / "teacher_mrpc")
    refused("task_distill", *train(tiny), words=words)


def test_resume_sees_another_shard(tiny):
    from transformer.training.states import files_sha256
    state = shard(tiny / "bert", "model.safetensors", dict)
    before = files_sha256(tiny / "bert")
    last = list(state)[-1]
    write_safetensors(tiny / "bert" / "model-00002-of-00002.safetensors",
                      {name: state[name] + (name == last) for name in list(state)[7:]})
    assert files_sha256(tiny / "bert") != before


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_names_under_a_wrapper(prefix, tiny):
    wanted = read_model(tiny / "bert")[1]
    write_bin(tiny / "bert" / "pytorch_model.bin", {prefix + name: tensor for name, tensor in wanted.items()})
    found = read_model(tiny / "bert")[1]
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
    BertForMaskedLM.from_pretrained(tiny / "bert")


def test_a_bert_without_pooler_starts_a_teacher(tiny, script, refused):
    state = {name: tensor for name, tensor in read_weights(tiny / "bert").items()
             if not name.startswith(("bert.pooler", "cls.seq"))}
    write_bin(tiny / "bert" / "pytorch_model.bin", state)
    out = run(script, "finetune_teacher", finetune(tiny, model=tiny / "bert", output_dir=tiny / "out"))
    assert "newly initialised in TinyBertForSequenceClassification: bert.pooler.dense.weight, bert.pooler." in out
    assert "bert.pooler.dense.weight" in read_weights(tiny / "out")
    # a classifier that stands on a pooler is nothing without it
    state = {name: tensor for name, tensor in read_weights(tiny / "teacher_mrpc").items()
             if not name.startswith("bert.pooler")}
    write_bin(tiny / "teacher_mrpc" / "pytorch_model.bin", state)
    refused("finetune_teacher", *finetune(tiny, model=tiny / "teacher_mrpc", output_dir=tiny / "other"),
            words=("missing", "bert.pooler"))


def test_a_damaged_pooler_is_not_replaced(tiny, refused):
    state = read_weights(tiny / "bert")
    del state["bert.pooler.dense.bias"]
    write_bin(tiny / "bert" / "pytorch_model.bin", state | {"bert.pooler.dense.weight": torch.ones(3, 3)})
    refused("finetune_teacher", *finetune(tiny, model=tiny / "bert", output_dir=tiny / "out"),
            words=("1 missing weights: bert.pooler.dense.bias", "bert.pooler.dense.weight is [3, 3]"))


# --- sizes that the data exceed

def one_segment(folder):
    edit_config(folder, type_vocab_size=1)
    state = read_weights(folder)
    name = "bert.embeddings.token_type_embeddings.weight"
    write_bin(folder / "pytorch_model.bin", state | {name: state[name][:1].clone()})


@pytest.mark.parametrize("script_name, folder, arguments", [
    ("task_distill", "teacher_mrpc", train), ("task_distill", "general", train),
    ("task_distill", "student_mrpc", lambda tiny: [
        "--do_eval", "--data_dir", tiny / "glue" / "MRPC", "--task_name", "mrpc", "--student_model",
        tiny / "student_mrpc", "--output_dir", tiny / "out", "--max_seq_length", 24, "--do_lower_case", "--no_cuda"]),
    ("finetune_teacher", "bert", lambda tiny: finetune(tiny, model=tiny / "bert", output_dir=tiny / "out")),
    ("general_distill", "bert", general),
    ("data_augmentation", "bert", lambda tiny: [
        "--pretrained_bert_model", tiny / "bert", "--glove_embs", write_lines(tiny / "glove.txt", ["a 1 2", "b 2 1"]),
        "--glue_dir", tiny / "glue", "--task_name", "CoLA", "--no_cuda"])])
def test_a_model_of_one_segment(script_name, folder, arguments, tiny, refused):
    one_segment(tiny / folder)
    refused(script_name, *arguments(tiny), words=(str(tiny / folder), "type_vocab_size", "2"))


def test_the_last_task_is_checked_before_the_first_is_trained(tiny, refused):
    arguments = finetune(tiny, tasks="cola", model=tiny / "bert")
    arguments.insert(arguments.index("cola") + 1, "mrpc")
    lines = (tiny / "glue" / "MRPC" / "train.tsv").read_text().splitlines()
    write_lines(tiny / "glue" / "MRPC" / "train.tsv", lines[:6])
    refused("finetune_teacher", *arguments, words=("MRPC/train.tsv holds 5 examples", "batch of 8"))
    one_segment(tiny / "bert")
    refused("finetune_teacher", *arguments, words=("type_vocab_size",))
    assert not (tiny / "final_cola_teacher").exists()


def test_a_model_of_one_segment_takes_single_sentences(tiny, script):
    for folder in ("teacher_cola", "general"):
        one_segment(tiny / folder)
    run(script, "task_distill", train(tiny, "CoLA", "cola"))


def test_positions_of_either_model(tiny, refused):
    for folder, positions in (("teacher_mrpc", 40), ("general", 20)):
        state = read_weights(tiny / folder)
        name = "bert.embeddings.position_embeddings.weight"
        write_bin(tiny / folder / "pytorch_model.bin", state | {name: state[name][:positions].clone()})
        edit_config(tiny / folder, max_position_embeddings=positions)
    refused("task_distill", *train(tiny), words=("--max_seq_length 24", "20 positions", str(tiny / "general")))


# --- what a killed process leaves

def dead_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_unfinished_files_of_dead_processes_are_removed(tmp_path):
    dead, alive = dead_process(), os.getppid()
    kept = [f".run.json.{alive}.tmp", ".run.json.tmp", "run.json.1.tmp", f".notes.{dead}.txt", "run.json"]
    for name in [*kept, f".pytorch_model.bin.{dead}.tmp", f".state_7.pt.{dead}.tmp"]:
        (tmp_path / name).write_text("")
    with atomic_write(tmp_path / "pytorch_model.bin") as handle:  # in whatever folder: of this file alone
        assert names(tmp_path) == sorted([*kept, f".pytorch_model.bin.{os.getpid()}.tmp", f".state_7.pt.{dead}.tmp"])
        remove_abandoned(tmp_path)  # in one of the kit's all, less those of this process, which writes
        handle.write("whole")
    assert names(tmp_path) == sorted([*kept, "pytorch_model.bin"])


def test_a_number_that_was_another_process_s(tmp_path):
    """In a container each run may have the same number."""
    path = tmp_path / f".state_7.pt.{os.getpid()}.tmp"
    path.write_text("")
    remove_abandoned(tmp_path)
    assert path.exists()
    os.utime(path, (1e9, 1e9))
    remove_abandoned(tmp_path)
    assert not path.exists()


def test_whoever_opens_a_model_removes_them(tiny, script):
    left = [tiny / folder / f".pytorch_model.bin.{dead_process()}.tmp" for folder in ("general", "teacher_mrpc")]
    for path in left:
        path.write_text("")
    run(script, "task_distill", train(tiny))
    assert not any(path.exists() for path in left)


def test_what_the_system_refuses_names_the_file_that_is_known(tmp_path, monkeypatch, capsys):
    """Not the temporary one, and no number."""
    def refusing(path, *arguments, **keywords):
        raise PermissionError(13, "Permission denied", str(path))

    def main():
        with atomic_write(tmp_path / "run.json"):
            pass
    monkeypatch.setattr("builtins.open", refusing)
    assert run_script(main) == 2
    assert capsys.readouterr().err.endswith(f"error: {tmp_path / 'run.json'}: Permission denied\n")


def test_a_lack_of_memory_is_one_line(capsys):
    def main():
        raise MemoryError("Unable to allocate 9.00 GiB for an array")
    assert run_script(main) == 2
    assert "error: out of memory (Unable to allocate 9.00 GiB for an array): " in capsys.readouterr().err


def test_more_epochs_than_fit_into_memory_are_one_line(tiny, refused):
    flags = finetune(tiny, model=tiny / "teacher_mrpc", num_train_epochs=10**15)
    refused("finetune_teacher", *flags, words=("out of memory",))


def test_the_classes_of_a_model_are_not_touched(tiny):
    """No classifier, no word of a relu."""
    model = TinyBertForSequenceClassification.from_pretrained(tiny / "bert", num_labels=2, new=("classifier.",))
    assert model.config.classifier_relu is True
