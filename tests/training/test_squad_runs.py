"""SQuAD through the scripts: teachers, both stages, scores, answers; stops, processes, and bad input."""
from __future__ import annotations

import argparse
import functools
import importlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

import finetune_teacher
import task_distill
from tests.conftest import (
    STUDENT,
    TEACHER,
    assert_equal_weights,
    command_line,
    lines,
    names,
    run,
    torchrun,
    write_lines,
)
from tests.training.test_processes import run_all
from tests.training.test_resume import child, kill_in_state, send
from transformer.checkpoint import load_model, load_tokenizer, save_model
from transformer.cli import SPAN_SETTINGS
from transformer.config import BertConfig
from transformer.data.parts import GrowingFiles
from transformer.data.windows import encode_windows
from transformer.modeling import BertForPreTraining, TinyBertForQuestionAnswering
from transformer.tasks.table import get_task
from transformer.training import scoring, stages
from transformer.training.processes import Processes
from transformer.training.record import RunRecord
from transformer.training.run import Training
from transformer.training.stages import PredictionStage
from transformer.training.states import result_settings
from transformer.weights import read_weights

ONE = Processes(0, 1, torch.device("cpu"))
ANIMALS = ("cat", "dog", "bird")
FILLERS = ("old", "good", "new", "bad", "very", "not", "sees", "hears")
LENGTHS = {"max_seq_length": 20, "doc_stride": 4, "max_query_length": 6}
FILES = {"squad1": ("train-v1.1.json", "dev-v1.1.json"), "squad2": ("train-v2.0.json", "dev-v2.0.json")}
VERSIONS = {"squad1": "1.1", "squad2": "v2.0"}


def passage(number: int, has_animal: bool = True) -> list[str]:
    """The words of a passage, some too long for one window, with one animal, which is not the first."""
    words = [FILLERS[(number * number + place) % len(FILLERS)] for place in range(6 + number % 13)]
    if has_animal:
        words[1 + number * 5 % (len(words) - 1)] = ANIMALS[number % 3]
    return words


def squad(key: str, first: int, count: int, answers: bool = True) -> dict:
    """A SQuAD file of so many passages. Each question asks for the animal; every third passage of v2.0 has none."""
    paragraphs = []
    for number in range(first, first + count):
        possible = key == "squad1" or number % 3 > 0
        words = passage(number, possible)
        text = " ".join(words)
        qas = []
        for which, asked in enumerate(("likes", "sees and likes")):
            qas.append({"id": f"{number}.{which}", "question": asked})
            if answers:
                animal = next((word for word in words if word in ANIMALS), None)
                qas[-1]["answers"] = [{"text": animal, "answer_start": text.index(animal)}] if possible else []
                if key == "squad2":
                    qas[-1]["is_impossible"] = not possible
        paragraphs.append({"context": text, "qas": qas})
    return {"version": VERSIONS[key], "data": [{"title": "Animals", "paragraphs": paragraphs}]}


def write_data(folder: Path, key: str) -> Path:
    """The folder of a task: train and dev file, train_aug.jsonl, and questions.json, the dev file less its answers."""
    place = folder / get_task(key).name
    place.mkdir(parents=True)
    for name, first, count in zip(FILES[key], (0, 100), (24, 12)):
        (place / name).write_text(json.dumps(squad(key, first, count)))
    (place / "questions.json").write_text(json.dumps(squad(key, 100, 12, answers=False)))
    variants = [{"context": " ".join(passage(number)), "qas": [{"id": f"{number}#0", "question": "likes"}]}
                for number in range(40)]
    write_lines(place / "train_aug.jsonl", map(json.dumps, [{"version": "augmented"}, *variants]))
    return place


@pytest.fixture(scope="module")
def animals(template, tmp_path_factory) -> Path:
    """bert and general as in the template, data/SQuAD1 and data/SQuAD2, and a teacher_squad1 and teacher_squad2 that
    have learnt them."""
    tiny = tmp_path_factory.mktemp("animals")
    for name in ("bert", "general", "config", "teacher_mrpc"):
        shutil.copytree(template / name, tiny / name)
    shutil.copytree(template / "glue" / "MRPC", tiny / "data" / "MRPC")
    shutil.copy(template / "vocab.txt", tiny)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformer.reporting.curves.draw_curves", lambda folder: None)
        for key in FILES:
            write_data(tiny / "data", key)
            finetune_teacher.main(teacher(tiny, key, output_dir=tiny / f"teacher_{key}", num_train_epochs=12))
    return tiny


@pytest.fixture
def tiny(animals, tmp_path) -> Path:
    """A copy for one test."""
    return shutil.copytree(animals, tmp_path / "tiny")


def teacher(tiny: Path, key: str = "squad1", **changes) -> list[str]:
    """Arguments of a finetune_teacher run that would work, with changes."""
    flags = {"tasks": key, "glue_dir": tiny / "data", "model": tiny / "bert", "output_dir": tiny / "out",
             "num_train_epochs": 2, "train_batch_size": 8, "learning_rate": 3e-3, "no_cuda": True, **LENGTHS, **changes}
    return list(map(str, command_line(flags)))


def distill(tiny: Path, key: str = "squad1", **changes) -> list[str]:
    """Arguments of a task_distill run that would work, with changes."""
    flags = {"data_dir": tiny / "data" / get_task(key).name, "task_name": key, "student_model": tiny / "general",
             "teacher_model": tiny / f"teacher_{key}", "output_dir": tiny / "out", "train_batch_size": 8,
             "num_train_epochs": 1, "learning_rate": 1e-3, "no_cuda": True, **LENGTHS, **changes}
    return list(map(str, command_line(flags)))


def scored(tiny: Path, folder: str, key: str = "squad1", **changes) -> list[str]:
    """Arguments that score a model, with changes."""
    training = dict.fromkeys(("teacher_model", "train_batch_size", "num_train_epochs", "learning_rate"))
    return distill(tiny, key, **{"student_model": tiny / folder, "output_dir": tiny / "scores", **training,
                                 "do_eval": "do_predict" not in changes, **changes})


def dev_windows(tiny: Path, key: str, use: str = "train", name: int = 0):
    task = get_task(key)
    return encode_windows(task, tiny / "data" / task.name / FILES[key][name], load_tokenizer(tiny / "bert", True),
                          *LENGTHS.values(), use)


# --- what a run gives

@pytest.mark.parametrize("key", FILES)
def test_from_the_teacher_to_the_answers(key, tiny, script):
    run(script, "task_distill", distill(tiny, key, output_dir=tiny / "intermediate", num_train_epochs=4))
    assert all("f1" not in entry for entry in lines(tiny / "intermediate/metrics.jsonl"))
    out = run(script, "task_distill", distill(tiny, key, student_model=tiny / "intermediate", pred_distill=True,
                                              output_dir=tiny / "student", num_train_epochs=12, eval_step=10,
                                              learning_rate=5e-3))
    record = json.loads((tiny / "student/run.json").read_text())
    logged = [entry["f1"] for entry in lines(tiny / "student/metrics.jsonl")]
    assert record["kept"]["f1"] == max(logged) > 0.8 and len(logged) > 5
    assert "BertForQuestionAnswering gives the same logits" in out
    assert {name: record["settings"][name] for name in SPAN_SETTINGS} == {**SPAN_SETTINGS, **{
        name: LENGTHS[name] for name in ("doc_stride", "max_query_length")}}
    assert not [name for name in read_weights(tiny / "student") if "pooler" in name or "fit" in name]

    out = run(script, "task_distill", scored(tiny, "student", key, save_predictions=True))
    results = json.loads((tiny / "student/eval_results.json").read_text())
    assert results["values"]["f1"] == pytest.approx(record["kept"]["f1"])
    assert results["counts"] == {Path(FILES[key][1]).stem: 24}
    dev = tiny / "data" / get_task(key).name / FILES[key][1]
    odds = ["--na_prob_file", tiny / "student/null_odds.json"] if key == "squad2" else []
    official = json.loads(run(script, "transformer.tasks.squad", [dev, tiny / "student/predictions.json", *odds]))
    wanted = {"squad1": {"exact_match", "f1"}, "squad2": {
        "exact", "f1", "total", "best_exact", "best_exact_thresh", "best_f1", "best_f1_thresh",
        *(f"{kind}_{score}" for kind in ("HasAns", "NoAns") for score in ("exact", "f1", "total"))}}[key]
    assert set(official) == set(results["values"]) == wanted
    for name, value in official.items():
        percent = 1 if name.endswith(("total", "thresh")) else 100
        assert results["values"][name] * percent == pytest.approx(value), name
        assert f"{name} = {results['values'][name]:.6g}" in out

    files = ["nbest_predictions.json", *(["null_odds.json"] if odds else []), "predictions.json"]
    out = run(script, "task_distill", scored(tiny, "student", key, output_dir=tiny / "answers", do_predict=True,
                                             predict_file=dev.with_name("questions.json")))
    assert names(tiny / "answers") == files and "answers to the 24 questions" in out
    for file in files:
        assert (tiny / "answers" / file).read_bytes() == (tiny / "student" / file).read_bytes()
    run(script, "task_distill", scored(tiny, "student", key))  # the files are of the last scoring
    assert not {*files} & {*names(tiny / "student")}


@pytest.mark.parametrize("key", FILES)
def test_passages_without_wordpieces_are_answered_by_nothing(key, tiny, script):
    asked = squad(key, 0, 1, answers=False)
    asked["data"][0]["paragraphs"][0]["context"] = " \n"
    (tiny / "blank.json").write_text(json.dumps(asked))
    out = run(script, "task_distill", scored(tiny, f"teacher_{key}", key, output_dir=tiny / "answers", do_predict=True,
                                             predict_file=tiny / "blank.json"))
    assert "2 questions have no windows" in out and "answers to the 2 questions" in out
    assert json.loads((tiny / "answers/predictions.json").read_text()) == {"0.0": "", "0.1": ""}
    assert (tiny / "answers/null_odds.json").exists() == (key == "squad2")


def test_a_teacher_learns_what_its_check_asks(animals):
    """Far above answering the first word (0), or nothing (a third)."""
    for key, share in (("squad1", 0.0), ("squad2", 1 / 3)):
        record = json.loads((animals / f"teacher_{key}/run.json").read_text())
        assert record["f1"] > max(0.6, share + 0.2) > record["before"]["f1"]


def test_answer_settings_reach_the_scores(tiny, script):
    """A threshold that no answer beats, and answers of no more than the first of their wordpieces."""
    run(script, "task_distill", scored(tiny, "teacher_squad2", "squad2", null_score_diff_threshold=-1000,
                                       save_predictions=True))
    answers = json.loads((tiny / "teacher_squad2/predictions.json").read_text())
    assert len(answers) == 24 and set(answers.values()) == {""}
    run(script, "task_distill", scored(tiny, "teacher_squad2", "squad2", null_score_diff_threshold=1000,
                                       max_answer_length=1, n_best_size=3, save_predictions=True))
    answers = json.loads((tiny / "teacher_squad2/predictions.json").read_text())
    assert "" not in answers.values() and not any(" " in text for text in answers.values())
    lists = json.loads((tiny / "teacher_squad2/nbest_predictions.json").read_text())
    assert max(map(len, lists.values())) <= 4


# --- losses and padding

def naive_span_loss(student, teacher, lengths, temperature):
    """Mean over windows, start and end of the cross-entropy over the real positions, one at a time."""
    total = 0.0
    for row, length in enumerate(lengths):
        for column in range(2):
            own, other = (logits[row, :length, column].double() / temperature for logits in (student, teacher))
            total = total - (other.softmax(0) * own.log_softmax(0)).sum()
    return total / (2 * len(lengths))


def prediction_stage(tiny: Path, train, preset: str = "paper", hard: bool = False, temperature: float = 1.0):
    args = argparse.Namespace(preset=preset, hard_labels=hard, temperature=temperature, precision="fp32", compile=False,
                              eval_batch_size=4, cache_dir=str(tiny / "cache"), data_dir=str(tiny), output_dir="unused",
                              **LENGTHS)
    taught = load_model(tiny / "teacher_squad2", get_task("squad2").head)
    taught.requires_grad_(False).train(preset == "code")
    return taught, PredictionStage(args, get_task("squad2"), taught, [0, 1], train, ONE)


@pytest.fixture
def train_windows(tiny):
    train = dev_windows(tiny, "squad2")
    train.key = "windows"
    return train


def a_student(tiny: Path) -> TinyBertForQuestionAnswering:
    torch.manual_seed(1)
    return TinyBertForQuestionAnswering(BertConfig(**STUDENT)).eval()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_prediction_loss_is_that_of_the_real_positions(temperature, tiny, train_windows):
    """From logits that were kept without padding; padding a batch further changes neither loss nor gradients."""
    taught, stage = prediction_stage(tiny, train_windows, temperature=temperature)
    student, rows = a_student(tiny), np.array([3, 11, 5, 20])
    lengths = train_windows.lengths_of(rows)
    assert len(set(lengths)) > 1 and stage.padded_length(lengths) is None
    (kept,) = (tiny / "cache").glob("logits_*/logits")
    assert kept.stat().st_size == train_windows.lengths.sum() * 2 * 4
    gradients = []
    for length in (None, LENGTHS["max_seq_length"]):
        batch = train_windows.batch(rows, length)
        loss, = stage.losses(student, batch, stage.taught(taught, batch, rows, [stage]))
        wanted = naive_span_loss(student(*batch)[0], taught(*batch)[0], lengths, temperature)
        assert loss.item() == pytest.approx(wanted.item(), abs=1e-5)
        gradients.append(torch.autograd.grad(loss, [p for p in student.parameters() if p.requires_grad],
                                             allow_unused=True))
    for short, long in zip(*gradients, strict=True):
        torch.testing.assert_close(short, long, rtol=1e-4, atol=1e-6)


def test_hard_labels_and_the_code_preset_see_the_whole_length(tiny, train_windows):
    student, rows, longest = a_student(tiny), np.array([3, 11, 5, 20]), LENGTHS["max_seq_length"]
    batch = train_windows.batch(rows, longest)
    logits = student(*batch)[0]
    taught, stage = prediction_stage(tiny, train_windows, hard=True)
    assert stage.padded_length(train_windows.lengths_of(rows)) == longest
    loss, = stage.losses(student, batch, stage.taught(taught, batch, rows, [stage]))
    wanted = sum(-logits[number, :, column].log_softmax(0)[train_windows.labels[row, column]]
                 for number, row in enumerate(rows) for column in range(2)) / 8
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-5)

    taught, stage = prediction_stage(tiny, train_windows, preset="code")
    assert stage.padded_length(train_windows.lengths_of(rows)) == longest
    torch.manual_seed(5)
    targets = stage.taught(taught, batch, rows, [stage])  # with the teacher's dropout
    torch.manual_seed(5)
    assert torch.equal(targets, taught(*batch, attention_scores=())[0])
    loss, = stage.losses(student, batch, targets)
    wanted = sum(functional.cross_entropy(logits[:, :, column], targets[:, :, column].softmax(1))
                 for column in range(2)) / longest
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-6)


@pytest.mark.parametrize("make,changes,padded", [
    (distill, {"pred_distill": True}, False), (distill, {}, True), (distill, {"dynamic_padding": True}, False),
    (distill, {"pred_distill": True, "hard_labels": True}, True),
    (distill, {"pred_distill": True, "preset": "code"}, True), (teacher, {"num_train_epochs": 1}, True)])
def test_what_batches_are_padded_to(make, changes, padded, tiny, script, monkeypatch):
    lengths, made = [], Training._made
    monkeypatch.setattr(Training, "_made", lambda self, indices: [
        share for share in made(self, indices) if lengths.append(share[2][0].size(1)) is None])
    run(script, "task_distill" if make is distill else "finetune_teacher", make(tiny, train_batch_size=2, **changes))
    assert (set(lengths) == {20}) == padded and max(lengths) == 20


def test_the_intermediate_stage_reads_no_labels(tiny, script):
    """The same student of other answers in the train file."""
    path = tiny / "data/SQuAD1" / FILES["squad1"][0]
    run(script, "task_distill", distill(tiny, output_dir=tiny / "before"))
    text = json.loads(path.read_text())
    for entry in text["data"][0]["paragraphs"]:
        for asked in entry["qas"]:
            asked["answers"] = [{"text": entry["context"].split()[0], "answer_start": 0}]
    path.write_text(json.dumps(text))
    run(script, "task_distill", distill(tiny, output_dir=tiny / "after"))
    assert_equal_weights(tiny / "before", tiny / "after", 0)


def test_augmented_passages_are_for_the_intermediate_stage(tiny, script, refused):
    out = run(script, "task_distill", distill(tiny, aug_train=True))
    assert "nothing tells whether it was made from the train-v1.1.json" in out
    rows = len(encode_windows(get_task("squad1"), tiny / "data/SQuAD1/train_aug.jsonl", load_tokenizer(
        tiny / "bert", True), *LENGTHS.values(), "augmented"))
    assert f"intermediate stage: {rows} examples" in out and rows > 40
    refused("task_distill", *distill(tiny, aug_train=True, pred_distill=True, output_dir=tiny / "other"),
            words=("--aug_train", "intermediate stage", "appendix B"))
    record = tiny / "data/SQuAD1/train_aug.json"
    record.write_text('{"made_from": {"train_sha256": "of another"}}')
    refused("task_distill", *distill(tiny, aug_train=True, output_dir=tiny / "other"),
            words=("train_aug.jsonl was made from another train-v1.1.json",))
    record.with_name("train_aug.jsonl").unlink()
    refused("task_distill", *distill(tiny, aug_train=True, output_dir=tiny / "other"),
            words=("train_aug.jsonl does not exist", "data_augmentation.py"))


# --- settings

@pytest.mark.parametrize("key,given,wanted", [
    ("squad1", {}, (2, 3e-5, 12, 384)), ("squad2", {}, (2, 3e-5, 12, 384)), ("rte", {}, (3, 2e-5, 32, 128)),
    ("cola", {"learning_rate": 1e-4, "max_seq_length": 96}, (3, 1e-4, 32, 96)),
    ("squad2", {"num_train_epochs": 3, "train_batch_size": 32}, (3, 3e-5, 32, 384))])
def test_defaults_of_teachers(key, given, wanted):
    args = finetune_teacher.parse_args(["--tasks", "rte", "squad1", *map(str, command_line(given))])
    own, _ = finetune_teacher.resolved(args, get_task(key))
    assert (own.num_train_epochs, own.learning_rate, own.train_batch_size, own.max_seq_length) == wanted


@pytest.mark.parametrize("preset", ["paper", "code"])
@pytest.mark.parametrize("stage,epochs,rate", [([], {"paper": 20, "code": 3}, {"paper": 5e-5, "code": 5e-5}),
                                               (["--pred_distill"], {"paper": 3, "code": 3},
                                                {"paper": 3e-5, "code": 5e-5})])
def test_defaults_of_students(preset, stage, epochs, rate):
    given = ["--preset", preset, *stage, "--n_best_size", "7", "--null_score_diff_threshold", "-1.5"]
    needed = command_line(dict.fromkeys(("data_dir", "task_name", "student_model", "output_dir", "teacher_model"), "x"))
    args = task_distill.parse_args([*needed, *given])
    task = task_distill.resolve(args, get_task("squad2"))
    assert (args.max_seq_length, args.doc_stride, args.max_query_length) == (384, 128, 64)
    assert (args.num_train_epochs, args.learning_rate) == (epochs[preset], rate[preset])
    assert (task.head.n_best_size, task.head.max_answer_length, task.head.null_score_diff_threshold) == (7, 30, -1.5)
    assert task.key == "squad2" and task.head.unanswerable


def test_runs_of_other_tasks_have_the_settings_of_before():
    """So that those that were stopped go on: nothing of SQuAD is compared."""
    needed = command_line(dict.fromkeys(("data_dir", "task_name", "student_model", "output_dir", "teacher_model"), "x"))
    args = task_distill.parse_args(needed)
    task_distill.resolve(args, get_task("MRPC"))
    own, _ = finetune_teacher.resolved(finetune_teacher.parse_args([]), get_task("MRPC"))
    for settings in (result_settings(vars(args)), result_settings(vars(own))):
        assert not {*SPAN_SETTINGS, "predict_file"} & settings.keys()
    assert result_settings(vars(own))["max_seq_length"] == "128"


def test_teachers_of_several_kinds_in_one_command(tiny, script):
    """Each by its own defaults."""
    config = BertConfig(**{**TEACHER, "num_hidden_layers": 1, "max_position_embeddings": 384})
    save_model(BertForPreTraining(config), tiny / "bert-base-uncased", tiny / "vocab.txt")
    run(script, "finetune_teacher", ["--tasks", "mrpc", "squad1", "mrpc", "--models_dir", tiny, "--glue_dir",
                                     tiny / "data", "--train_batch_size", "8", "--no_cuda"])
    for key, epochs, longest in (("mrpc", 3, 128), ("squad1", 2, 384)):
        record = json.loads((tiny / f"final_{key}_teacher/run.json").read_text())
        assert record["finished"] and record["settings"]["num_train_epochs"] == epochs
        assert record["settings"]["max_seq_length"] == longest and record["settings"]["train_batch_size"] == 8
        assert ("doc_stride" in record["settings"]) == (key == "squad1")


# --- bad input

@pytest.mark.parametrize("make,changes,words", [
    (distill, {"hf_head": True, "pred_distill": True}, ("--hf_head has no effect on SQuAD1",)),
    (teacher, {"hf_head": True}, ("--hf_head has no effect on SQuAD1",)),
    (teacher, {"tasks": ["squad1", "mrpc"], "output_dir": None}, ("--doc_stride is for the passages of SQuAD", "MRPC")),
    (distill, {"null_score_diff_threshold": 1.0}, ("--null_score_diff_threshold", "SQuAD1 has none")),
    (distill, {"max_seq_length": 9}, ("--max_seq_length 9 leaves no room", "--max_query_length 6")),
    (teacher, {"max_seq_length": 9}, ("--max_seq_length 9 leaves no room", "--max_query_length 6")),
    (distill, {"predict_file": "x"}, ("--predict_file is for --do_predict",)),
    (distill, {"teacher_model": "general"}, ("general", "no span head")),
    (distill, {"teacher_model": "bert"}, ("bert", "no span head")),
    (distill, {"teacher_model": "teacher_mrpc"}, ("teacher_mrpc has a classifier, SQuAD1 needs a span head",)),
    (distill, {"data_dir": "data/SQuAD2"}, ("data/SQuAD2/", "-v1.1.json does not exist", "download_glue.py")),
    (distill, {"data_dir": "data/MRPC"}, ("data/MRPC/", ".json does not exist", "download_glue.py")),
    (teacher, {"glue_dir": "bert"}, ("train-v1.1.json does not exist", "download_glue.py")),
    (teacher, {"train_batch_size": 1000}, ("train-v1.1.json", "not enough for one batch of 1000"))])
def test_bad_input_of_runs(make, changes, words, tiny, refused):
    paths = {"teacher_model", "data_dir", "glue_dir"}
    changes = {name: tiny / value if name in paths else value for name, value in changes.items()}
    refused("task_distill" if make is distill else "finetune_teacher", *make(tiny, **changes), words=words)
    assert not (tiny / "out/run.json").exists()


@pytest.mark.parametrize("changes,words", [
    ({"do_predict": True}, ("SQuAD1 has none; --predict_file names",)),
    ({"do_predict": True, "predict_file": "absent.json"}, ("absent.json does not exist",)),
    ({"predict_file": "questions.json"}, ("--predict_file is for --do_predict",)),
    ({"task_name": "mrpc", "data_dir": "data/MRPC", "student_model": "teacher_squad1",
      **dict.fromkeys(("doc_stride", "max_query_length"))},
     ("teacher_squad1 has a span head, MRPC needs a classifier",))])
def test_bad_input_of_scoring(changes, words, tiny, refused):
    paths = {"data_dir", "student_model", "predict_file"}
    changes = {name: tiny / value if name in paths else value for name, value in changes.items()}
    refused("task_distill", *scored(tiny, "teacher_squad1", **changes), words=words)
    assert not (tiny / "scores").exists()


def spoil_no_answers(data: dict) -> str:
    for entry in data["data"][0]["paragraphs"]:
        for asked in entry["qas"]:
            del asked["answers"]
    return json.dumps(data)


@pytest.mark.parametrize("spoil,words", [
    (spoil_no_answers, ("dev-v1.1.json", "article 'Animals'", "no key 'answers'", "--do_predict")),
    (lambda data: json.dumps(data)[:-100], ("dev-v1.1.json is cut short", "byte")),
    (lambda data: json.dumps(squad("squad2", 0, 9)), ("dev-v1.1.json", "squad2"))])
def test_a_dev_file_that_cannot_be_scored(spoil, words, tiny, refused):
    path = tiny / "data/SQuAD1/dev-v1.1.json"
    path.write_text(spoil(squad("squad1", 100, 12)))
    refused("task_distill", *scored(tiny, "teacher_squad1"), words=words)
    refused("task_distill", *distill(tiny), words=words)
    refused("finetune_teacher", *teacher(tiny), words=words)
    assert not (tiny / "teacher_squad1/eval_results.json").exists() and not (tiny / "out/run.json").exists()


@pytest.mark.parametrize("key,threshold,score", [
    ("squad1", None, "f1 0.0000 on the dev set, chance is 0.2000"),  # the first word of each passage
    ("squad2", "-1", "f1 0.3333 on the dev set, chance is 0.3533")])  # nothing, to each question
def test_a_teacher_at_chance_is_refused(key, threshold, score, tiny, script, refused):
    state = read_weights(tiny / f"teacher_{key}")
    state |= {name: torch.zeros_like(weight) for name, weight in state.items() if name.startswith("qa_outputs.")}
    torch.save(state, tiny / f"teacher_{key}/pytorch_model.bin")
    arguments = distill(tiny, key, null_score_diff_threshold=threshold)
    refused("task_distill", *arguments, words=(score, f"fine-tune it on {get_task(key).name}", "--skip_teacher_check"))
    run(script, "task_distill", [*arguments, "--skip_teacher_check"])


# --- stops

def small_parts(moment: str = "") -> None:
    """In the process of a run: windows and kept logits come in small parts; it is killed at a moment."""
    scoring.encode_windows = functools.partial(encode_windows, part_bytes=1000, num_workers=1)
    stages.cached_logits = functools.partial(scoring.cached_logits, block=20)
    append, finish, calls = GrowingFiles.append, RunRecord.finish, []

    def counted(self, parts, **record):
        append(self, parts, **record)
        calls.append("logits" if len(parts) == 1 else "windows")
        if moment and calls.count(moment) == 2:
            send(signal.SIGKILL)

    GrowingFiles.append = counted
    RunRecord.finish = lambda self, **facts: send(signal.SIGKILL) if moment == "end" else finish(self, **facts)


@pytest.fixture(scope="module")
def fork_server():
    """Processes in which torch is loaded and has no threads yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torch._dynamo"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        yield context


MOMENTS = (("windows", -1, None), ("logits", -1, None), ("", 5, functools.partial(send, signal.SIGKILL)),
           ("", 9, kill_in_state), ("end", -1, None))


@pytest.mark.parametrize("name,make,changes", [
    ("task_distill", distill, {"pred_distill": True, "eval_step": 4}),
    ("task_distill", distill, {"eval_step": 4}),
    ("finetune_teacher", teacher, {})])
def test_killed_at_five_moments(name, make, changes, tiny, fork_server):
    """While windows are made, while the teacher's logits are kept, between steps, while a state is saved, after the
    last step; without a teacher's logits at four."""
    def start(out: str, moment: str = "", step: int = -1, act=None, **more) -> tuple[int, str]:
        arguments = make(tiny, "squad2", output_dir=tiny / out, num_train_epochs=2, save_steps=3, **changes, **more)
        log = tiny / "output.txt"
        process = fork_server.Process(target=child, args=(name, arguments, log, step, act,
                                                          functools.partial(small_parts, moment)))
        process.start()
        process.join(60)
        process.kill()
        return process.exitcode, log.read_text()

    shutil.rmtree(tiny / "data/SQuAD2/features")
    for moment, step, act in MOMENTS:
        if moment == "logits" and not changes.get("pred_distill"):
            continue
        status, output = start("out", moment, step, act, resume=True)
        assert status == -signal.SIGKILL, output
        assert bool([*(tiny / "out").glob("state_*.pt")]) == (moment not in ("windows", "logits")), output
    status, output = start("out", resume=True)
    assert status == 0, output
    shutil.rmtree(tiny / "data/SQuAD2/features")
    status, output = start("whole")
    assert status == 0, output
    assert_equal_weights(tiny / "out", tiny / "whole", 0)
    speeds = {"sequences_per_s", "wordpieces_per_s", "memory_gb"}
    killed, whole = ([{key: line[key] for key in line.keys() - speeds} for line in lines(tiny / out / "metrics.jsonl")]
                     for out in ("out", "whole"))
    assert killed == whole and len(whole) > 1


# --- processes

@pytest.fixture(scope="module")
def both(animals, tmp_path_factory):
    """A folder with the same runs of one process in one/, and of two in two/, which do half of the passes each."""
    tiny, tasks = tmp_path_factory.mktemp("processes"), []
    shutil.copytree(animals, tiny, dirs_exist_ok=True)
    cases = {"teacher": ("finetune_teacher", teacher, {}), "intermediate": ("task_distill", distill, {}),
             "prediction": ("task_distill", distill, {"pred_distill": True, "eval_step": 5})}
    for case, (name, make, changes) in cases.items():
        one, two = (make(tiny, "squad2", output_dir=tiny / place / case, gradient_accumulation_steps=passes,
                         num_train_epochs=2, cache_dir=None if name == "finetune_teacher" else tiny / f"cache_{place}",
                         **{**changes, "learning_rate": 1e-4}) for place, passes in (("one", 4), ("two", 2)))
        importlib.import_module(name).main(one)
        tasks.append((name, two))
    (tiny / "tasks.json").write_text(json.dumps(tasks))
    done = torchrun(__file__, tiny / "tasks.json", directory=tiny)
    assert done.returncode == 0, done.stdout
    return tiny


@pytest.mark.parametrize("case", ["teacher", "intermediate", "prediction"])
def test_two_processes_train_what_one_does(case, both):
    one, two = (both / place / case for place in ("one", "two"))
    assert_equal_weights(one, two, 1e-6)
    first, last = lines(one / "metrics.jsonl"), lines(two / "metrics.jsonl")
    assert len(first) == len(last)
    for before, after in zip(first, last):
        for name in {"loss", "f1", "exact", "NoAns_f1", "best_f1"} & before.keys():
            assert after[name] == pytest.approx(before[name], abs=1e-5), name
    assert json.loads((two / "run.json").read_text())["hardware"]["processes"] == 2


if __name__ == "__main__":
    run_all(sys.argv[1])
