"""What users meet: every refusal is one clear line and status 2, and loses nothing."""
import hashlib
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.conftest import contents, edit_config, finetune, general, make_cased, names, run, train, write_task
from transformer.checkpoint import load_tokenizer
from transformer.config import BertConfig
from transformer.files import InputError, atomic_write, read_json
from transformer.modeling import BertForMaskedLM, BertModel, TinyBertForSequenceClassification
from transformer.tasks.table import get_task
from transformer.training import record
from transformer.training.scoring import misordered, require_fit_teacher
from transformer.weights import read_weights, write_bin, write_safetensors


def edit_row(path, line, change):
    lines = path.read_text().splitlines()
    lines[line - 1] = change(lines[line - 1])
    path.write_text("\n".join(lines) + "\n")


def test_missing_and_empty_inputs(tiny, refused):
    refused("task_distill", *train(tiny, data_dir=tiny / "nowhere"), words=("nowhere", "does not exist"))
    refused("task_distill", *train(tiny, student_model=tiny / "nowhere"), words=("nowhere", "does not exist"))
    (tiny / "empty").mkdir()
    refused("task_distill", *train(tiny, teacher_model=tiny / "empty"), words=("empty", "vocab.txt"))
    refused("general_distill", *general(tiny, pregenerated_data=tiny / "empty"), words=("empty", "epoch_0.json"))
    (tiny / "glue" / "MRPC" / "train.tsv").write_text("")
    refused("task_distill", *train(tiny), words=("train.tsv", "no examples"))


def test_rows(tiny, refused):
    path = tiny / "glue" / "MRPC" / "train.tsv"
    good = path.read_text()
    edit_row(path, 7, lambda row: row.rsplit("\t", 1)[0])
    refused("task_distill", *train(tiny), words=("train.tsv, line 7", "4 columns", "expected 5"))
    path.write_text(good)
    edit_row(path, 7, lambda row: row + "\tmore")
    refused("task_distill", *train(tiny), words=("train.tsv, line 7", "6 columns", "expected 5"))
    path.write_text(good)
    edit_row(path, 9, lambda row: "2" + row[1:])
    refused("task_distill", *train(tiny), words=("train.tsv, line 9", "unknown label '2'", "0, 1"))
    path.write_bytes(good.encode().replace(b"bird", b"b\xe9rd", 1))
    refused("task_distill", *train(tiny), words=("train.tsv, line 2", "UTF-8"))
    assert not (tiny / "out").exists()


@pytest.mark.parametrize("score", ["6.0", "-0.5", "nan", "good"])
def test_score_out_of_range(score, tiny, refused):
    edit_row(tiny / "glue" / "STS-B" / "train.tsv", 3, lambda row: row.rsplit("\t", 1)[0] + f"\t{score}")
    refused("task_distill", *train(tiny, "STS-B", "stsb"), words=("train.tsv, line 3", score, "0 to 5"))


def test_unknown_task_lists_the_known(tiny, refused):
    refused("task_distill", *train(tiny, task_name="SQuAD3"), words=("SQuAD3", "CoLA", "WNLI", "SQuAD1, SQuAD2"))


def test_vocabularies(tiny, refused):
    student = tiny / "general" / "vocab.txt"
    pieces = student.read_text().splitlines()
    student.write_text("\n".join([*pieces, "more"]) + "\n")
    refused("task_distill", *train(tiny), words=("general", "vocab_size", str(len(pieces))))
    student.write_text("\n".join(pieces[:-1]) + "\n")
    refused("task_distill", *train(tiny), words=("vocabularies differ", "general", "teacher_mrpc"))
    student.write_text("\n".join([*pieces[:-2], pieces[-1], pieces[-2]]) + "\n")
    refused("task_distill", *train(tiny), words=("vocabularies differ", "general", "teacher_mrpc"))
    refused("general_distill", *general(tiny, student_model=tiny / "general", continue_train=True),
            words=("vocabularies differ", "general", "bert"))


def test_a_random_student_takes_its_teachers_vocabulary(tiny, script):
    """One config folder serves every vocabulary; that of another size than config.json says is told."""
    size = len((tiny / "bert" / "vocab.txt").read_text().splitlines())
    for name, argv in (("general_distill", general(tiny, output_dir=tiny / "general_out")),
                       ("task_distill", train(tiny, student_model=tiny / "config", from_scratch=True))):
        for own in (size, size - 1, 2 * size):
            edit_config(tiny / "config", vocab_size=own)
            status, out, err = script(name, *argv, "--overwrite_output_dir")
            assert status == 0, err
            said = f"config/config.json says vocab_size {own}: {size} is taken, the teacher's"
            assert out.count(said) == (own != size)
            folder = tiny / ("general_out" if name == "general_distill" else "out")
            assert read_json(folder / "config.json")["vocab_size"] == size
            assert len(read_weights(folder)["bert.embeddings.word_embeddings.weight"]) == size
            assert read_json(tiny / "config" / "config.json")["vocab_size"] == own


@pytest.mark.parametrize("changes,words", [
    ({"num_hidden_layers": 3}, ("4 layers", "student's 3")),
    ({"num_hidden_layers": 6}, ("4 layers", "student's 6")),
    ({"num_attention_heads": 3}, ("3 attention heads", "hidden_size 8")),
    ({"num_attention_heads": 4}, ("4 attention heads", "teacher 2")),
    ({"hidden_act": "mish"}, ("hidden_act", "mish")),
    ({"hidden_size": 0}, ("hidden_size",)),
    ({"hidden_dropout_prob": "0.1"}, ("hidden_dropout_prob", "0.1")),
    ({"hidden_dropout_prob": 1.5}, ("hidden_dropout_prob", "1.5")),
    ({"classifier_relu": "false"}, ("classifier_relu", "'false'")),
])
def test_student_sizes(changes, words, tiny, refused):
    edit_config(tiny / "config", **changes)
    refused("general_distill", *general(tiny), words=words)


def test_positions(tiny, refused):
    refused("general_distill", *general(tiny, max_seq_length=41), words=("41", "40 positions"))
    refused("task_distill", *train(tiny, max_seq_length=41), words=("41", "40 positions"))
    refused("general_distill", *general(tiny, max_seq_length=8), words=("epoch_0", "max_seq_length"))


def test_missing_and_unexpected_weights(tiny, refused):
    state = read_weights(tiny / "teacher_mrpc")
    missing = {name: tensor for name, tensor in state.items() if "layer.2.output.dense.weight" not in name}
    write_bin(tiny / "teacher_mrpc" / "pytorch_model.bin", missing)
    refused("task_distill", *train(tiny), words=("teacher_mrpc", "1 missing", "layer.2.output.dense.weight"))
    write_bin(tiny / "teacher_mrpc" / "pytorch_model.bin", state | {"adapter.down": torch.zeros(2)})
    refused("task_distill", *train(tiny), words=("1 unexpected", "adapter.down"))
    write_bin(tiny / "teacher_mrpc" / "pytorch_model.bin", state | {"classifier.weight": torch.zeros(3, 16)})
    refused("task_distill", *train(tiny), words=("misshapen", "classifier.weight", "[3, 16]", "[2, 16]"))
    write_bin(tiny / "teacher_mrpc" / "pytorch_model.bin", {k: v for k, v in state.items() if k[:4] != "clas"})
    refused("task_distill", *train(tiny), words=("2 missing", "classifier"))  # a teacher never gets a random head


@pytest.mark.parametrize("keep", [0, 10, 2000, -100])
def test_truncated_weights(keep, tiny, refused):
    path = tiny / "teacher_mrpc" / "pytorch_model.bin"
    state = read_weights(path.parent)
    path.write_bytes(path.read_bytes()[:keep])
    refused("task_distill", *train(tiny), words=("pytorch_model.bin",))
    path.unlink()
    path = path.with_name("model.safetensors")
    write_safetensors(path, state)
    assert read_weights(path.parent).keys() == state.keys()
    path.write_bytes(path.read_bytes()[:keep])
    refused("task_distill", *train(tiny), words=("model.safetensors", "damaged or cut short"))


def test_output_folder_not_empty(tiny, refused, script):
    (tiny / "out").mkdir()
    (tiny / "out" / "thesis.txt").write_text("precious")
    refused("task_distill", *train(tiny), words=("out", "not empty", "--overwrite_output_dir"))
    refused("general_distill", *general(tiny), words=("out", "not empty", "--overwrite_output_dir"))
    assert [path.name for path in (tiny / "out").iterdir()] == ["thesis.txt"]
    assert script("general_distill", *general(tiny, overwrite_output_dir=True))[0] == 0
    assert (tiny / "out" / "thesis.txt").read_text() == "precious"


def earlier_run(tiny, finished: bool = True) -> dict[str, bytes]:
    """The files of a run in tiny/out, which another is to overwrite."""
    (tiny / "out").mkdir()
    for name, text in (("run.json", json.dumps({"finished": finished, "acc": 0.7})), ("metrics.jsonl", "{}\n"),
                       ("eval_results.json", "{}"), ("pytorch_model.bin", "weights"), ("state_3.pt", "a state"),
                       ("step_3_pytorch_model.bin", "weights"), ("notes.txt", "precious")):
        (tiny / "out" / name).write_text(text)
    return contents(tiny / "out")


MAKE = {"general_distill": general, "task_distill": train,
        "finetune_teacher": lambda tiny, **flags: finetune(tiny, **{"model": tiny / "bert", **flags})}


@pytest.mark.parametrize("name,flags,spoil,word", [
    ("general_distill", {}, lambda tiny: edit_row(tiny / "json/epoch_0.json", 9, lambda row: row[:-9]), "line 9"),
    ("task_distill", {"skip_teacher_check": None}, lambda tiny: None, "chance"),
    ("task_distill", {"aug_train": True}, lambda tiny: (tiny / "glue/MRPC/train_aug.tsv").unlink(), "train_aug.tsv"),
    ("task_distill", {}, lambda tiny: edit_row(tiny / "glue/MRPC/train.tsv", 7, lambda row: "2" + row[1:]), "line 7"),
    ("task_distill", {"train_batch_size": 32}, lambda tiny: None, "24 examples"),
    ("task_distill", {"num_train_epochs": 0.1}, lambda tiny: None, "--num_train_epochs 0.1"),
    ("finetune_teacher", {}, lambda tiny: edit_row(tiny / "glue/MRPC/dev.tsv", 7, lambda row: "2" + row[1:]), "line 7"),
    ("finetune_teacher", {"train_batch_size": 32}, lambda tiny: None, "24 examples"),
    ("finetune_teacher", {"max_seq_length": 41}, lambda tiny: None, "40 positions")])
@pytest.mark.parametrize("finished", [True, False])
def test_a_refused_run_leaves_what_it_was_to_overwrite(name, flags, spoil, word, finished, tiny, refused):
    state = read_weights(tiny / "teacher_mrpc")  # which shall not pass the check
    write_bin(tiny / "teacher_mrpc" / "pytorch_model.bin", state | {"classifier.weight": torch.zeros(2, 16)})
    spoil(tiny)
    before = earlier_run(tiny, finished)
    refused(name, *MAKE[name](tiny, output_dir=tiny / "out", overwrite_output_dir=True, **flags), words=(word,))
    assert contents(tiny / "out") == before


@pytest.mark.parametrize("name", MAKE)
def test_an_overwritten_run_keeps_its_record(name, tiny, script, monkeypatch):
    before = earlier_run(tiny)
    arguments = MAKE[name](tiny, output_dir=tiny / "out", overwrite_output_dir=True)

    def stop_at(function: str) -> dict[str, bytes]:
        """What a run leaves that is killed when it calls a function of record.py for the first time."""
        def kill(*_):
            raise SystemExit(137)

        with monkeypatch.context() as patch:
            patch.setattr(record, function, kill)
            assert script(name, *arguments)[0] == 137
        return contents(tiny / "out")

    def is_marked(after: dict[str, bytes]) -> bool:
        return json.loads(after["run.json"])["finished"] is False and after["run.json.before"] == before["run.json"]

    # before the mark nothing is lost
    assert stop_at("write_json") == before | {"run.json.before": before["run.json"]}
    after = stop_at("clear_states")
    assert is_marked(after) and after["state_3.pt"] == b"a state"
    after = stop_at("append_line")  # the first log, later than the states and before the first weights
    assert is_marked(after) and "state_3.pt" not in after and after["pytorch_model.bin"] == b"weights"
    run(script, name, arguments)
    after = contents(tiny / "out")
    assert json.loads(after["run.json"])["finished"] and after["run.json.before"] == before["run.json"]
    assert after["notes.txt"] == b"precious" and not {"state_3.pt", "eval_results.json"} & after.keys()
    assert (name != "general_distill") == ("step_3_pytorch_model.bin" in after)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("left", ["features/mrpc_1/tokens", "epoch_0.arrays/1/tokens", ".pytorch_model.bin.123.tmp"])
def test_what_a_killed_run_left_before_its_record_counts_as_nothing(left, resume, tmp_path):
    (tmp_path / left).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / left).touch()
    assert record.check_output(tmp_path, resume, overwrite=False) is False
    for other in ("epoch_0.json", "features.txt", "notes.tmp"):
        (tmp_path / other).touch()
        with pytest.raises(InputError, match="not empty.*--overwrite_output_dir"):
            record.check_output(tmp_path, resume, overwrite=False)
        (tmp_path / other).unlink()


@pytest.mark.parametrize("name", MAKE)
def test_a_run_starts_where_a_killed_one_had_not_begun(name, tiny, script):
    for folder in ("features", "epoch_0.arrays"):
        (tiny / "out" / folder).mkdir(parents=True)
    run(script, name, MAKE[name](tiny, output_dir=tiny / "out", num_train_epochs=1, resume=True))
    assert read_json(tiny / "out" / "run.json")["finished"] and "run.json.before" not in names(tiny / "out")


@pytest.mark.parametrize("name, start, arguments", [
    ("general_distill", "general", lambda tiny: general(tiny, student_model=tiny / "general", continue_train=True)),
    ("general_distill", "bert", general), ("task_distill", "general", train), ("task_distill", "teacher_mrpc", train),
    ("finetune_teacher", "bert", lambda tiny: finetune(tiny, model=tiny / "bert"))])
def test_a_run_does_not_write_over_what_it_starts_from(tiny, refused, name, start, arguments):
    before = read_weights(tiny / start)
    refused(name, *arguments(tiny), "--output_dir", tiny / "out" / ".." / start, "--overwrite_output_dir",
            words=(start, "starts from", "--output_dir"))
    assert all(before[key].equal(tensor) for key, tensor in read_weights(tiny / start).items())
    assert not (tiny / start / "run.json").exists()


def test_dev_set_missing(tiny, refused):
    (tiny / "glue" / "MRPC" / "dev.tsv").unlink()
    refused("task_distill", "--do_eval", "--data_dir", tiny / "glue" / "MRPC", "--task_name", "mrpc", "--no_cuda",
            "--student_model", tiny / "student_mrpc", "--output_dir", tiny / "out", "--max_seq_length", 24,
            "--do_lower_case", words=("dev.tsv", "does not exist"))


def test_the_folder_above_the_tasks_is_taken_for_it(tiny, script, refused):
    """Where a file is missing, the line says which and what makes it, and advises to delete nothing."""
    evaluation = ["--do_eval", "--data_dir", tiny / "glue", "--task_name", "mrpc", "--no_cuda", "--student_model",
                  tiny / "student_mrpc", "--output_dir", tiny / "scores", "--max_seq_length", 24, "--do_lower_case"]
    status, out, err = script("task_distill", *evaluation)
    assert status == 0 and f"taking {tiny / 'glue' / 'MRPC'}" in out, err
    train_tsv = tiny / "glue" / "MRPC" / "train.tsv"
    train_tsv.unlink()
    words = (f"{train_tsv} does not exist: ", f"`python download_glue.py --tasks MRPC --data_dir {tiny / 'glue'}`")
    refused("task_distill", *train(tiny, data_dir=tiny / "glue"), words=words)
    shutil.rmtree(tiny / "glue" / "MRPC")
    _, _, err = script("task_distill", *train(tiny, data_dir=tiny / "glue"))
    assert f"{tiny / 'glue' / 'dev.tsv'} does not exist: " in err and "delete" not in err


def test_first_lines_that_are_not_the_header(tiny, refused, script):
    """task_distill, whose arrays would lose the example for good, and data_augmentation."""
    for name in ("train.tsv", "dev.tsv"):
        path = tiny / "glue" / "MRPC" / name
        good = path.read_text()
        path.write_text(good.split("\n", 1)[1])
        words = (f"{path}, line 1: an example, not a header", "Quality,#1 ID,#2 ID,#1 String,#2 String")
        refused("task_distill", *train(tiny, overwrite_output_dir=True), words=words)
        path.write_text(good)
    refused("data_augmentation", "--pretrained_bert_model", tiny / "bert", "--glove_embs", tiny / "vocab.txt",
            "--glue_dir", edited(tiny, "MRPC"), "--task_name", "mrpc", words=("line 1: the header of MRPC's test set",))


def edited(tiny, task):
    """The folder of a task whose train.tsv has the header of the test set."""
    path = tiny / "glue" / task / "train.tsv"
    path.write_text("index\t#1 ID\t#2 ID\t#1 String\t#2 String\n" + path.read_text().split("\n", 1)[1])
    return path.parent


@pytest.mark.parametrize("name,changes,words", [
    ("task_distill", {"do_eval": True, "pred_distill": True, "teacher_model": None}, ("--do_eval", "--pred_distill")),
    ("task_distill", {"do_eval": True}, ("--do_eval", "--teacher_model")),
    ("task_distill", {"teacher_model": None}, ("--teacher_model",)),
    ("task_distill", {"temperature": 2.0}, ("--temperature", "--pred_distill")),
    ("task_distill", {"pred_distill": True, "layer_mapping": "top"}, ("--layer_mapping",)),
    ("task_distill", {"pred_distill": True, "fit_per_layer": True}, ("--fit_per_layer", "intermediate stage")),
    ("task_distill", {"without": ["embd", "hidn"], "fit_per_layer": True}, ("--fit_per_layer", "--without")),
    ("general_distill", {"without": "hidn", "layer_mapping": "last", "fit_per_layer": True}, ("--fit_per_layer",)),
    ("general_distill", {"without": "embd", "layer_mapping": "last"}, ("--layer_mapping last", "drop embd")),
    ("task_distill", {"without": ["hidn", "attn"], "layer_mapping": "last"}, ("mapping last", "leaves no loss")),
    ("task_distill", {"do_eval": True, "teacher_model": None}, ("--do_eval", "--skip_teacher_check")),
    ("task_distill", {"warmup_proportion": 0.1}, ("--warmup_proportion", "--pred_distill")),  # its default, too
    ("task_distill", {"pred_distill": True, "hard_labels": True, "temperature": 2}, ("--temperature", "--hard_labels")),
    ("task_distill", {"pred_distill": True, "task_name": "STS-B", "temperature": 2}, ("--temperature", "STS-B")),
    ("general_distill", {"eval_batch_size": 8}, ("--eval_batch_size", "--do_eval")),
    ("task_distill", {"data_url": "s3://bucket/data"}, ("--data_url is gone", "cloud storage", "--data_dir")),
    ("general_distill", {"data_url": ""}, ("--data_url is gone", "cloud storage", "--pregenerated_data")),
    ("task_distill", {"train_batch_size": 0}, ("--train_batch_size", "0")),
    ("task_distill", {"train_batch_size": 9, "gradient_accumulation_steps": 2}, ("no multiple",)),
    ("task_distill", {"train_batch_size": 32}, ("24 examples", "--train_batch_size")),
    ("task_distill", {"num_train_epochs": 0.1}, ("--num_train_epochs 0.1",)),
    ("task_distill", {"num_train_epochs": "inf"}, ("--num_train_epochs",)),
    ("task_distill", {"weight_decay": "nan"}, ("--wd",)),
    ("task_distill", {"seed": 1 << 64}, ("--seed",)),
    ("task_distill", {"hard_labels": True}, ("--hard_labels", "--pred_distill")),
    ("task_distill", {"warmup_proportion": 1.5}, ("--warmup_proportion", "1.5")),
    ("general_distill", {"fp16": True}, ("fp16", "--no_cuda")),
    ("general_distill", {"train_batch_size": 32}, ("20 examples", "--train_batch_size")),
    ("general_distill", {"num_train_epochs": -1}, ("--num_train_epochs",)),
])
def test_flags_that_cannot_be(name, changes, words, tiny, refused):
    refused(name, *(train if name == "task_distill" else general)(tiny, **changes), words=words)
    assert not (tiny / "out").exists() or not any((tiny / "out").iterdir())


def test_what_is_gone_is_refused_also_with_a_sign_of_equality(tiny, refused, script):
    refused("task_distill", *train(tiny), "--data_url=s3://bucket/data", words=("--data_url is gone",))
    assert "--data_url" not in script("task_distill", "--help")[1]


def test_processes_that_torchrun_did_not_start(tiny, refused, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    scripts = {"general_distill": general(tiny), "task_distill": train(tiny), "finetune_teacher": []}
    for name, arguments in scripts.items():
        refused(name, *arguments, words=("WORLD_SIZE", "torchrun"))


def test_teacher_at_chance_level(tiny, refused):
    state = read_weights(tiny / "teacher_mrpc")
    state["classifier.weight"].zero_()  # the same answer for every example
    write_bin(tiny / "teacher_mrpc" / "pytorch_model.bin", state)
    status_words = ("teacher_mrpc", "chance is 0.6667 +- 0.0962", "--skip_teacher_check")
    refused("task_distill", *train(tiny, skip_teacher_check=None), words=status_words)


@pytest.mark.parametrize("task,reached,word", [  # of 100 examples, the half of each class: chance is 0.5 +- 0.05
    ("RTE", 0.24, "another order"), ("RTE", 0.26, "fine-tune it on RTE"), ("RTE", 0.6, "fine-tune it on RTE"),
    ("RTE", 0.61, None), ("CoLA", -0.21, "set id2label"), ("CoLA", -0.19, "fine-tune it on CoLA"),
    ("CoLA", 0.21, None), ("STS-B", -0.21, "wrong way"), ("STS-B", -0.19, "fine-tune it on STS-B"),
    ("STS-B", float("nan"), "fine-tune it on STS-B")])
def test_a_teacher_far_below_chance_has_its_classes_in_another_order(task, reached, word, tmp_path):
    examples = SimpleNamespace(labels=np.arange(100) % 2)
    if word is None:
        require_fit_teacher(tmp_path, get_task(task), reached, examples)
    else:
        with pytest.raises(InputError, match=rf"{reached:.4f} on the dev set.*{word}.*\(or --skip_teacher_check\)"):
            require_fit_teacher(tmp_path, get_task(task), reached, examples)
    is_misordered = word in ("another order", "set id2label", "wrong way")
    assert bool(misordered(get_task(task), reached, examples)) == is_misordered


def test_classes_in_another_order_are_told_of_teacher_and_student(tiny, script, refused):
    """The dev labels are what the model says, which then scores 1; with its classes named in another order it scores
    0."""
    folder, dev = tiny / "teacher_mnli", tiny / "glue/MNLI/dev_matched.tsv"
    order = get_task("MNLI").labels

    def score() -> tuple[str, list[list[str]]]:
        out = run(script, "task_distill", ["--do_eval", "--save_predictions", "--data_dir", tiny / "glue/MNLI",
                                           "--task_name", "MNLI", "--student_model", folder, "--output_dir",
                                           tiny / "scores", "--max_seq_length", 24, "--do_lower_case", "--no_cuda"])
        predictions = (folder / "eval_predictions_dev_matched.tsv").read_text().splitlines()[1:]
        return out, [line.split("\t") for line in predictions]

    state = read_weights(folder)
    logits = np.array([row[3:] for row in score()[1]], float)
    state["classifier.bias"] -= torch.from_numpy(logits.mean(0)).float()  # all classes among the answers
    write_bin(folder / "pytorch_model.bin", state)
    answers = [row[2] for row in score()[1]]
    assert set(answers) == set(order)
    header, *rows = dev.read_text().splitlines()
    labelled = [row.rpartition("\t")[0] + f"\t{answer}" for row, answer in zip(rows, answers, strict=True)]
    dev.write_text("\n".join([header, *labelled]) + "\n")
    out, _ = score()
    assert "acc = 1\n" in out and "warning" not in out
    edit_config(folder, id2label=dict(enumerate([*order[1:], order[0]])))
    out, _ = score()
    assert "acc = 0\n" in out and f"warning: {folder} scores far below chance: its classes are in another order" in out
    teach = train(tiny, "MNLI", "mnli", skip_teacher_check=None)
    refused("task_distill", *teach, words=("teacher_mnli scores acc 0.0000", "another order", "id2label"))
    edit_config(folder, id2label=dict(enumerate(order)))
    run(script, "task_distill", teach)


def test_no_bert_beats_chance_on_wnli(tiny, script, refused):
    write_task(tiny / "glue", "WNLI", 24)
    state = read_weights(tiny / "teacher_cola")
    write_bin(tiny / "teacher_cola" / "pytorch_model.bin", state | {"classifier.weight": torch.zeros(2, 16)})
    out = run(script, "task_distill", train(tiny, "WNLI", "cola", skip_teacher_check=None))
    assert out.count("warning: teacher ") == 1 and "chance is 0.6667 +- 0.0962; no BERT does better on WNLI" in out
    refused("task_distill", *train(tiny, "CoLA", "cola", skip_teacher_check=None, output_dir=tiny / "other"),
            words=("fine-tune it on CoLA",))
    assert misordered(get_task("WNLI"), 0.0, SimpleNamespace(labels=np.arange(71) % 2)) is None


def score(tiny, student, *mode: str) -> list:
    return [*mode, "--data_dir", tiny / "glue/MRPC", "--task_name", "MRPC", "--no_cuda", "--student_model", student,
            "--output_dir", tiny / "scores", "--max_seq_length", 24, "--do_lower_case"]


@pytest.mark.parametrize("mode", ["--do_eval", "--do_predict"])
def test_a_classifier_that_no_step_has_trained_is_not_scored(mode, tiny, script, refused):
    """What is asked for instead is the next step's command, which works as it is printed, up to the last."""
    run(script, "general_distill", general(tiny, output_dir=tiny / "gd", num_train_epochs=1))
    command = (f"python task_distill.py --task_name MRPC --teacher_model TEACHER --data_dir {tiny}/glue/MRPC "
               f"--max_seq_length 24 --student_model {tiny}/gd --output_dir NEW_FOLDER --do_lower_case")
    refused("task_distill", *score(tiny, tiny / "gd", mode), words=(f"{tiny}/gd is not trained yet", command))
    (tiny / "gd" / "run.json").unlink()
    refused("task_distill", *score(tiny, tiny / "gd", mode), words=(f"{tiny}/gd", "classifier", "task_distill.py"))

    run(script, "task_distill", train(tiny, student_model=tiny / "gd", aug_train=True, output_dir=tiny / "stage1"))
    command = (f"task_distill.py --pred_distill --task_name MRPC --teacher_model {tiny}/teacher_mrpc --data_dir "
               f"{tiny}/glue/MRPC --max_seq_length 24 --student_model {tiny}/stage1 --output_dir NEW_FOLDER "
               "--aug_train --do_lower_case")
    refused("task_distill", *score(tiny, tiny / "stage1", mode), words=(f"python {command}",))
    assert not (tiny / "scores").exists() and not (tiny / "stage1" / "eval_results.json").exists()
    (tiny / "stage1" / "run.json").unlink()
    refused("task_distill", *score(tiny, tiny / "stage1", mode), words=("untrained", "--pred_distill"))
    words = command.replace("NEW_FOLDER", str(tiny / "stage2")).split()[1:]
    run(script, "task_distill", [*words, "--skip_teacher_check", "--no_cuda", "--train_batch_size", 8])
    (tiny / "glue/MRPC/test.tsv").write_text((tiny / "glue/MRPC/dev.tsv").read_text())
    run(script, "task_distill", score(tiny, tiny / "stage2", mode))


def test_the_next_step_has_the_preset_of_the_one_before(tiny, script, refused):
    run(script, "task_distill", train(tiny, preset="code", output_dir=tiny / "stage1"))
    refused("task_distill", *score(tiny, tiny / "stage1", "--do_eval"), words=("--pred_distill", "--preset code"))


def test_a_classifier_that_was_only_added_is_a_start_and_no_teacher(tiny, script, refused):
    shutil.copytree(tiny / "bert", tiny / "bert-mrpc")
    run(script, "fix_teacher_layers", [tiny / "bert-mrpc"])
    words = ("bert-mrpc is untrained", "finetune_teacher.py --tasks MRPC --model ")
    refused("task_distill", *score(tiny, tiny / "bert-mrpc", "--do_eval"), words=words)
    refused("task_distill", *train(tiny, teacher_model=tiny / "bert-mrpc", skip_teacher_check=None), words=words)
    run(script, "task_distill", train(tiny, teacher_model=tiny / "bert-mrpc"))  # --skip_teacher_check
    out = run(script, "finetune_teacher", finetune(tiny, model=tiny / "bert-mrpc", num_train_epochs=1))
    assert f"new classifier (that of {tiny}/bert-mrpc is untrained)" in out
    assert read_json(tiny / "final_mrpc_teacher" / "run.json")["epoch"] > 0  # not the start
    run(script, "task_distill", score(tiny, tiny / "final_mrpc_teacher", "--do_eval"))


def test_augmented_data_of_another_train_file_are_refused(tiny, script, refused):
    folder = tiny / "glue" / "MRPC"
    flags = {"aug_train": True, "overwrite_output_dir": True}
    assert "nothing tells whether" in run(script, "task_distill", train(tiny, **flags))
    for made_from in ({}, {"made_from": "RTE"}, {"made_from": {"N": 20}}):
        (folder / "train_aug.json").write_text(json.dumps(made_from))
        assert "nothing tells whether" in run(script, "task_distill", train(tiny, **flags))
    sha256 = hashlib.sha256((folder / "train.tsv").read_bytes()).hexdigest()
    (folder / "train_aug.json").write_text(json.dumps({"made_from": {"train_sha256": sha256}}))
    assert "nothing tells whether" not in run(script, "task_distill", train(tiny, **flags))
    edit_row(folder / "train.tsv", 3, lambda row: row.replace("bird", "cat"))
    refused("task_distill", *train(tiny, **flags), words=(
        "train_aug.tsv was made from another train.tsv", "data_augmentation.py", "--aug_train"))
    run(script, "task_distill", train(tiny, overwrite_output_dir=True))
    (folder / "train.tsv").unlink()
    assert "nothing tells whether" in run(script, "task_distill", train(tiny, **flags))


def test_unfinished_models_are_not_taken(tiny, refused):
    (tiny / "general" / "run.json").write_text('{"finished": false}')
    refused("task_distill", *train(tiny), words=("general", "unfinished", "run.json"))
    (tiny / "general" / "run.json").unlink()
    (tiny / "teacher_mrpc" / "run.json").write_text('{"finished": false}')
    refused("task_distill", *train(tiny), words=("teacher_mrpc", "unfinished"))
    refused("finetune_teacher", "--tasks", "mrpc", "--glue_dir", tiny / "glue", "--model", tiny / "teacher_mrpc",
            "--models_dir", tiny, words=("teacher_mrpc", "unfinished"))
    refused("finetune_teacher", "--tasks", "mrpc", "--glue_dir", tiny / "glue", "--model", tiny / "bert",
            "--output_dir", tiny / "teacher_mrpc", words=("teacher_mrpc", "a run that was stopped", "--resume"))


def test_finetuning_refuses_before_it_trains(tiny, refused):
    arguments = ["--glue_dir", tiny / "glue", "--models_dir", tiny, "--max_seq_length", 24, "--train_batch_size", 8]
    refused("finetune_teacher", *arguments, "--tasks", "mrpc", words=("bert-base-uncased", "does not exist"))
    arguments += ["--model", tiny / "bert"]
    (tiny / "glue" / "CoLA" / "dev.tsv").unlink()
    refused("finetune_teacher", *arguments, "--tasks", "mrpc", "cola", words=("CoLA", "dev.tsv"))
    refused("finetune_teacher", *arguments, "--tasks", "mrpc", "squad3", words=("squad3", "MRPC", "SQuAD2"))
    refused("finetune_teacher", *arguments, "--tasks", "mrpc", "--output_dir", tiny / "glue",
            words=("glue", "not empty"))
    assert not list(tiny.glob("final_mrpc_teacher/*"))


def test_fewer_epochs_than_asked_is_a_warning(tiny, script):
    status, out, _ = script("general_distill", *general(tiny, num_train_epochs=3))
    assert status == 0 and "warning: 3 epochs asked for" in out and "holds 2" in out


def test_damaged_epoch_data(tiny, refused):
    path = tiny / "json" / "epoch_0.json"
    good = path.read_text()
    path.write_text(good[:-40])
    refused("general_distill", *general(tiny), words=("epoch_0.json, line 20",))
    path.write_text("".join(good.splitlines(keepends=True)[:-3]))
    refused("general_distill", *general(tiny), words=("epoch_0", "17", "20"))
    path.write_text(good.replace('"bird"', '"ostrich"', 1))
    refused("general_distill", *general(tiny), words=("epoch_0.json, line 1", "ostrich"))
    (tiny / "json" / "epoch_0_metrics.json").write_text("{}")
    refused("general_distill", *general(tiny), words=("epoch_0_metrics.json", "num_training_examples"))


def test_data_of_another_casing_than_the_teacher(tiny, refused, script):
    """With and without the flag; and the flag with a cased teacher. Data that do not tell, those of make, are taken."""
    metrics = {"num_training_examples": 20, "max_seq_len": 32}
    (tiny / "json" / "epoch_1_metrics.json").write_text(json.dumps({**metrics, "do_lower_case": False}))
    for flag in (True, None):
        refused("general_distill", *general(tiny, do_lower_case=flag),
                words=("epoch_1_metrics.json", "cased", "the teacher is uncased", "--bert_model"))
    make_cased(tiny / "bert")
    (tiny / "json" / "epoch_1_metrics.json").write_text(json.dumps({**metrics, "do_lower_case": True}))
    refused("general_distill", *general(tiny), words=("epoch_1_metrics.json", "lower-cased", "the teacher is cased"))
    refused("general_distill", *general(tiny, do_lower_case=True), words=("--do_lower_case", "bert is cased", "drop"))
    (tiny / "json" / "epoch_1_metrics.json").write_text(json.dumps({**metrics, "do_lower_case": False}))
    for path in (tiny / "json").glob("epoch_?.json"):
        path.write_text(path.read_text().replace('"cat"', '"Cat"'))
    run(script, "general_distill", general(tiny))
    assert json.loads((tiny / "out" / "run.json").read_text())["settings"]["do_lower_case"] is False


def test_a_model_without_masked_lm_head_is_refused(tiny):
    with pytest.raises(InputError, match="missing.*cls.predictions"):
        BertForMaskedLM.from_pretrained(tiny / "teacher_mrpc")


def test_left_out_and_new_weights_are_named(tiny, capsys):
    BertModel.from_pretrained(tiny / "bert")
    assert "left out" in capsys.readouterr().out
    model = TinyBertForSequenceClassification.from_pretrained(tiny / "bert", num_labels=3, new=("classifier.",))
    out = capsys.readouterr().out
    assert "newly initialised" in out and "classifier.weight, classifier.bias" in out
    assert model.classifier.weight.shape == (3, 16)


def test_old_names_load(tiny):
    state = read_weights(tiny / "teacher_mrpc")
    wanted = TinyBertForSequenceClassification.from_pretrained(tiny / "teacher_mrpc", num_labels=2).state_dict()
    old = {name.removeprefix("bert.").replace("LayerNorm.weight", "LayerNorm.gamma")
           .replace("LayerNorm.bias", "LayerNorm.beta"): tensor for name, tensor in state.items()}
    old["embeddings.position_ids"] = torch.arange(40)[None]
    write_bin(tiny / "teacher_mrpc" / "pytorch_model.bin", old)
    again = TinyBertForSequenceClassification.from_pretrained(tiny / "teacher_mrpc", num_labels=2).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in wanted.items())


def test_one_projection_per_layer(tiny):
    from transformer.modeling import TinyBertForPreTraining
    state = read_weights(tiny / "general")
    matrices = {f"fit_denses.{i}.{kind}": torch.randn_like(state[f"fit_dense.{kind}"])
                for i in range(3) for kind in ("weight", "bias")}
    write_bin(tiny / "general" / "pytorch_model.bin",
              {name: tensor for name, tensor in state.items() if "fit_dense" not in name} | matrices)
    model = TinyBertForPreTraining.from_pretrained(tiny / "general", fit_size=16).eval()
    hidden = model.bert(torch.tensor([[2, 5, 3]]))[0]
    for i, fitted in enumerate(model(torch.tensor([[2, 5, 3]]))[1]):
        wanted = hidden[i] @ matrices[f"fit_denses.{i}.weight"].T + matrices[f"fit_denses.{i}.bias"]
        torch.testing.assert_close(fitted, wanted)
    assert matrices.keys() <= model.state_dict().keys()


def test_decoder_must_be_tied(tiny):
    state = read_weights(tiny / "bert")
    state["cls.predictions.decoder.weight"] = state["cls.predictions.decoder.weight"] + 1
    write_bin(tiny / "bert" / "pytorch_model.bin", state)
    with pytest.raises(InputError, match="decoder.weight differs"):
        BertForMaskedLM.from_pretrained(tiny / "bert")


def test_cased_text_for_an_uncased_vocabulary_is_lower_cased_which_is_said(tiny, capsys):
    assert load_tokenizer(tiny / "bert", do_lower_case=False).tokenize("Cat") == ["cat"]
    assert "lower-casing, as with --do_lower_case" in capsys.readouterr().out
    load_tokenizer(tiny / "bert", do_lower_case=True)
    assert capsys.readouterr().out == ""


def test_configs(tmp_path):
    with pytest.raises(InputError, match="config.json.*vocab_size"):
        (tmp_path / "config.json").write_text("{}")
        BertConfig.from_json_file(tmp_path / "config.json")
    with pytest.raises(InputError, match="config.json.*JSON"):
        (tmp_path / "config.json").write_text('{"vocab_size": 5')
        BertConfig.from_json_file(tmp_path / "config.json")
    config = BertConfig.from_dict({"vocab_size": 5, "id2label": {"0": "no"}, "classifier_relu": False})
    config.to_json_file(tmp_path / "config.json")
    assert BertConfig.from_json_file(tmp_path / "config.json") == config


def test_interrupted_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OSError):
        with atomic_write(path) as handle:
            handle.write("new")
            raise OSError(28, "No space left on device")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_full_disk_is_one_line_and_keeps_the_student(tiny, refused, script, monkeypatch):
    script("task_distill", *train(tiny))
    before = {path.name: path.read_bytes() for path in (tiny / "out").iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr("os.fsync", full)
    refused("task_distill", *train(tiny, overwrite_output_dir=True, learning_rate=0.1),
            words=("No space left on device",))
    for name in ("pytorch_model.bin", "config.json", "vocab.txt", "run.json"):
        assert (tiny / "out" / name).read_bytes() == before[name], name
