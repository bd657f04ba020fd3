"""Tasks that a folder describes: task.json, and everything that is done with one's own data."""
from __future__ import annotations

import functools
import json
import multiprocessing
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from tests.conftest import (
    ROOT,
    STUDENT,
    TEACHER,
    command_line,
    contents,
    edit_config,
    lines,
    names,
    run,
    sentence,
    write_lines,
)
from tests.training.test_resume import child, send
from transformer.checkpoint import load_model, save_model
from transformer.config import BertConfig
from transformer.data.features import encode_file
from transformer.data.tables import read_rows
from transformer.files import InputError
from transformer.modeling import TinyBertForSequenceClassification
from transformer.planning.made_up import Inputs
from transformer.planning.steps import Step, work_of
from transformer.tasks.glue import GLUE
from transformer.tasks.head import CLASS_METRICS, Classes, Score
from transformer.tasks.labels import class_order, name_labels
from transformer.tasks.own import described, open_task, own_task, read_task, write_task
from transformer.tasks.table import get_task
from transformer.tasks.task import Task
from transformer.tokenization import BertTokenizer

MOODS = ("sad", "glad", "none")
CLASSES = {"version": 1, "name": "moods", "kind": "classes", "labels": list(MOODS), "metric": "macro_f1", "texts": 1,
           "max_seq_length": 24, "rows": {"train.tsv": 24, "dev.tsv": 18}}
SCORES = {"version": 1, "name": "stars", "kind": "score", "range": [1, 10], "metric": "corr", "texts": 2,
          "max_seq_length": 24, "rows": {"train.tsv": 24, "dev.tsv": 18}}


class Examples:
    """Rows of an embedded evaluation."""

    def __init__(self, labels: list):
        self.labels = np.array(labels, np.float32)


def table(task: Task, rows: int, first: int = 0, labelled: bool = True) -> list[str]:
    """Lines of a file of a task, whose labels follow from the texts."""
    header = (["label"] if labelled else []) + (["sentence"] if task.segments == 1 else ["sentence1", "sentence2"])
    made = ["\t".join(header)]
    for row in range(first, first + rows):
        label = task.labels[row % 3 % len(task.labels)] if task.labels else f"{1 + row % 3 * 4}.5"
        made.append("\t".join([label] * labelled + [sentence(row + text) for text in range(task.segments)]))
    return made


def make(folder: Path, description: dict, **changes) -> Task:
    """The folder of a task of a description, with all files that that counts."""
    task = own_task({**description, **changes}, "here")
    for file, rows in described(task)["rows"].items():
        is_labelled = file != "unlabelled.tsv" and not any(file == one.file for one in task.submissions)
        write_lines(folder / file, table(task, rows, 5 * len(file), is_labelled))
    write_task(folder, task, {"train": "somewhere.csv"})
    return read_task(folder)


def arguments(tiny: Path, **changes) -> list:
    """Arguments of a task_distill run on tiny / "data/moods" that would work, with changes."""
    flags = {"data_dir": tiny / "data/moods", "student_model": tiny / "general", "teacher_model": tiny / "teacher",
             "output_dir": tiny / "out", "train_batch_size": 8, "num_train_epochs": 2, "eval_step": 3, "no_cuda": True,
             "skip_teacher_check": True} | changes
    return command_line(flags)


def a_teacher(tiny: Path, task: Task) -> Path:
    torch.manual_seed(3)
    config = BertConfig(**TEACHER)
    name_labels(config.extra, task)
    save_model(TinyBertForSequenceClassification(config, task.num_labels), tiny / "teacher", tiny / "bert")
    return tiny / "teacher"


# --- what a folder says

def test_a_task_is_what_its_folder_says(tmp_path):
    task = make(tmp_path / "moods", CLASSES, rows={"train.tsv": 24, "dev.tsv": 18, "test.tsv": 6, "unlabelled.tsv": 9},
                test_has_labels=False, settings={"teacher_epochs": 5, "teacher_learning_rate": 1e-4})
    assert task.head == Classes(MOODS, "macro_f1")
    assert (task.key, task.name, task.metric) == ("moods", "moods", "macro_f1")
    assert (task.text_columns, task.label_column, task.header) == ((1,), 0, "label,sentence")
    assert (task.rows, task.dev_files, task.unlabelled_rows) == ((24, 18), ("dev.tsv",), 9)
    assert (task.max_seq_length, task.teacher_max_seq_length) == (24, 24)
    assert (task.teacher_epochs, task.teacher_learning_rate, task.teacher_batch_size) == (5, 1e-4, 32)
    assert task.folder == tmp_path / "moods" and task.unlabelled_in(task.folder) == task.folder / "unlabelled.tsv"
    (test,) = task.submissions
    assert (test.file, test.rows, test.answers_file, task.for_test(test).header) == \
        ("test.tsv", 6, "predictions.tsv", "sentence")
    texts = [columns for _, columns in read_rows(task.texts_alone, task.folder / "unlabelled.tsv")]
    assert texts == [[sentence(70 + row)] for row in range(9)]
    assert json.loads((task.folder / "task.json").read_text())["made_from"] == {"train": "somewhere.csv"}


def test_a_test_set_with_labels_is_a_second_dev_set(tmp_path):
    task = make(tmp_path / "stars", SCORES, rows={"train.tsv": 24, "dev.tsv": 18, "test.tsv": 6}, test_has_labels=True)
    assert task.head == Score(1.0, 10.0) and task.header == "label,sentence1,sentence2"
    assert (task.dev_files, task.rows, task.submissions) == (("dev.tsv", "test.tsv"), (24, 18, 6), ())
    assert task.unlabelled_in(tmp_path) is None


@pytest.mark.parametrize("description", [
    CLASSES, SCORES, CLASSES | {"rows": {**CLASSES["rows"], "test.tsv": 5}, "test_has_labels": True},
    CLASSES | {"rows": {**CLASSES["rows"], "test.tsv": 5, "unlabelled.tsv": 7}, "test_has_labels": False,
               "settings": {"intermediate_epochs": 3, "teacher_batch_size": 8}}])
def test_what_is_written_is_read(description):
    assert described(own_task(description, "here")) == description


BAD = [
    ({"version": 2}, ("version 2, this kit reads 1", "prepare_task.py")), ({"version": "1"}, ("version is '1'",)),
    ({"version": True}, ("version is True",)), ({"name": None}, ("name is missing",)),
    ({"name": "../x"}, ("name is '../x'", "letters, digits")), ({"name": 7}, ("name is 7",)),
    ({"name": "SST-2"}, ("name 'SST-2' is that of a known task",)), ({"name": "all"}, ("known task",)),
    ({"kind": "spans"}, ("kind is 'spans', expected classes or score",)),
    ({"labels": ["sad"]}, ("at least two different names",)), ({"labels": ["a", "a"]}, ("labels is",)),
    ({"labels": "sad"}, ("labels is 'sad'",)), ({"labels": ["a", "b\tc"]}, ("without tabs",)),
    ({"labels": ["a", 1]}, ("labels is",)), ({"labels": ["a", ""]}, ("labels is",)),
    ({"metric": "f1"}, ("metric is 'f1'", "acc or macro_f1 or mcc, of more than two classes")),
    ({"metric": "corr"}, ("metric is 'corr'",)), ({"metric": ["acc"]}, ("metric is ['acc']",)),
    ({"texts": 3}, ("texts is 3, expected 1 or 2",)), ({"texts": True}, ("texts is True",)),
    ({"max_seq_length": 2}, ("max_seq_length is 2",)), ({"max_seq_length": "24"}, ("max_seq_length is '24'",)),
    ({"rows": {"train.tsv": 1}}, ("rows: dev.tsv is missing",)), ({"rows": []}, ("rows is []",)),
    ({"rows": {"train.tsv": 0, "dev.tsv": 1}}, ("rows: train.tsv is 0",)),
    ({"rows": {**CLASSES["rows"], "more.tsv": 1}}, ("rows: unknown 'more.tsv'", "unlabelled.tsv")),
    ({"rows": {**CLASSES["rows"], "test.tsv": 1}}, ("test_has_labels is missing, expected true or false",)),
    ({"settings": {"learning_rate": 1}}, ("settings: unknown 'learning_rate'", "teacher_learning_rate")),
    ({"settings": {"teacher_learning_rate": 0}}, ("settings: teacher_learning_rate is 0",)),
    ({"settings": {"teacher_epochs": 2.5}}, ("settings: teacher_epochs is 2.5",)),
    ({"range": [0, 1]}, ("unknown 'range'",)), ({"more": 1}, ("unknown 'more'", "max_seq_length")),
    ({"made_from": "a.csv"}, ("made_from is 'a.csv'",))]
BAD_SCORES = [({"range": [5, 0]}, ("range is [5, 0]",)), ({"range": [0, float("inf")]}, ("range is",)),
              ({"range": None}, ("range is missing",)), ({"metric": "acc"}, ("metric is 'acc', expected corr",)),
              ({"range": [0, "5"]}, ("range is",))]


@pytest.mark.parametrize("start,changes,words", [
    *((CLASSES, *bad) for bad in BAD), *((SCORES, *bad) for bad in BAD_SCORES)])
def test_nonsense_is_refused_in_one_line(start, changes, words, tmp_path):
    path = tmp_path / "task.json"
    values = {name: value for name, value in {**start, **changes}.items() if value is not None}
    path.write_text(json.dumps(values))
    with pytest.raises(InputError) as refusal:
        read_task(tmp_path)
    text = str(refusal.value)
    assert text.startswith(f"{path}") and "\n" not in text and all(word in text for word in words), text


def test_a_task_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = make(Path("data/My-Folder"), CLASSES)
    for name, folder in ((None, "data/My-Folder"), ("moods", "data/My-Folder"), ("MOODS", "data/My-Folder/"),
                         ("myfolder", "data/My-Folder"), ("My-Folder", "data"), (None, "My-Folder")):
        assert open_task(name, folder) == task
        assert open_task(name, folder).folder.resolve() == tmp_path / "data/My-Folder"
    assert open_task("RTE", "data/glue_data") is open_task("rte", "data") is get_task("RTE")
    monkeypatch.chdir(tmp_path / "data/My-Folder")
    assert open_task("My-Folder", ".") == open_task(None, "") == task


@pytest.mark.parametrize("name,folder,words", [
    ("MRPC", "data/moods", ("data/moods holds the task moods", "not MRPC")),
    ("others", "data/moods", ("holds the task moods", "not others")),
    ("others", "data", ("unknown task 'others'; known tasks: CoLA", "nor does data/others hold the task.json")),
    (None, "data", ("data holds no task.json", "prepare_task.py")), (None, "nowhere", ("nowhere does not exist",)),
    (None, "data/RTE", ("data/RTE/task.json", "the name of a known one, RTE: rename the folder")),
    ("rte", "data", ("data/RTE/task.json", "a known one, RTE")), ("mrpc", "data", ("data/mrpc/task.json", "MRPC"))])
def test_what_is_no_place_of_the_task_is_told(name, folder, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = make(Path("data/moods"), CLASSES)
    for known in ("RTE", "mrpc"):
        with pytest.raises(InputError, match="in a folder with the name of a known one"):
            write_task(Path("data") / known, task)
        shutil.copytree("data/moods", f"data/{known}")
    with pytest.raises(InputError) as refusal:
        open_task(name, folder)
    assert all(word in str(refusal.value) for word in words), refusal.value


# --- its files

@pytest.mark.parametrize("file,line,text,words", [
    ("train.tsv", 1, "sentence\tlabel", ("train.tsv, line 1", "with its labelled texts", "label,sentence, and here")),
    ("train.tsv", 1, "sad\tthe cat", ("line 1", "label,sentence")),
    ("train.tsv", 1, "sentence", ("line 1", "1 columns")),
    ("dev.tsv", 4, "angry\tthe cat", ("dev.tsv, line 4", "unknown label 'angry', expected one of sad, glad, none")),
    ("train.tsv", 9, "sad\tthe\tcat", ("train.tsv, line 9", "3 columns, expected 2")),
    ("unlabelled.tsv", 3, "sad\tthe cat", ("unlabelled.tsv, line 3", "2 columns, expected 1")),
    ("unlabelled.tsv", 1, "label\tsentence", ("line 1", "with its texts alone", "sentence, and here")),
    ("unlabelled.tsv", 1, "the cat", ("line 1", "with its texts alone"))])
def test_bad_rows_are_told_by_file_and_line(file, line, text, words, tiny, refused):
    task = make(tiny / "data/moods", CLASSES, rows={**CLASSES["rows"], "unlabelled.tsv": 9})
    a_teacher(tiny, task)
    rows = (task.folder / file).read_text().splitlines()
    rows[line - 1] = text
    write_lines(task.folder / file, rows)
    refused("task_distill", *arguments(tiny), words=words)
    assert not (tiny / "out" / "run.json").exists()


def test_a_file_that_is_missing_is_told(tiny, refused):
    task = make(tiny / "data/moods", CLASSES, rows={**CLASSES["rows"], "unlabelled.tsv": 9})
    a_teacher(tiny, task)
    (task.folder / "unlabelled.tsv").unlink()
    refused("task_distill", *arguments(tiny), words=("unlabelled.tsv does not exist", "make the folder anew"))
    (task.folder / "dev.tsv").unlink()
    refused("finetune_teacher", *command_line({"glue_dir": task.folder, "model": tiny / "bert", "models_dir": tiny,
                                               "train_batch_size": 8, "no_cuda": True}),
            words=("dev.tsv does not exist", "prepare_task.py"))


def test_a_class_that_nobody_learns_is_told(tiny, script):
    task = make(tiny / "data/moods", CLASSES)
    rows = (task.folder / "train.tsv").read_text().splitlines()
    write_lines(task.folder / "train.tsv", [row.replace("none\t", "sad\t") for row in rows])
    write_lines(task.folder / "dev.tsv", ["label\tsentence", "sad\tthe cat", "none\tthe dog", "none\ta bird"])
    out = run(script, "finetune_teacher", command_line({
        "data_dir": task.folder, "model": tiny / "bert", "models_dir": tiny, "train_batch_size": 8, "no_cuda": True,
        "num_train_epochs": 1}))
    assert [line for line in out.splitlines() if line.startswith("warning: ")] == [
        f"warning: {task.folder}/dev.tsv, line 3: label 'none', of which train.tsv has no example"]


def test_rows_without_labels_come_after_the_others(tiny, tmp_path):
    """Small parts, several workers, found again; their file is part of what the arrays are known by."""
    task = make(tmp_path / "stars", SCORES, rows={**SCORES["rows"], "unlabelled.tsv": 30})
    train, more = task.folder / "train.tsv", task.folder / "unlabelled.tsv"
    tokenizer = BertTokenizer(tiny / "vocab.txt")
    alone = [encode_file(layout, path, tokenizer, 16) for layout, path in ((task, train), (task.texts_alone, more))]
    both = encode_file(task, train, tokenizer, 16, tmp_path / "cache", num_workers=2, part_bytes=200, unlabelled=more)
    assert (both.tokens == np.concatenate([part.tokens for part in alone])).all()
    assert (both.lengths == np.concatenate([part.lengths for part in alone])).all()
    assert (both.first_lengths == np.concatenate([part.first_lengths for part in alone])).all()
    assert (both.labels[:24] == alone[0].labels).all() and np.isnan(both.labels[24:]).all() and len(both) == 54
    again = encode_file(task, train, tokenizer, 16, tmp_path / "cache", unlabelled=more)
    assert again.key == both.key != alone[0].key and len(list((tmp_path / "cache").iterdir())) == 1
    write_lines(more, table(task, 30, 1, labelled=False))
    assert encode_file(task, train, tokenizer, 16, tmp_path / "cache", unlabelled=more).key != both.key


# --- metrics

@pytest.mark.parametrize("metric", CLASS_METRICS)
def test_metrics_of_classes_against_sklearn(metric):
    random, head = np.random.default_rng(0), Classes(("a", "b", "c")[:2 if metric == "f1" else 3], metric)
    for _ in range(20):
        labels = random.integers(0, random.integers(1, head.width + 1), 40).astype(np.float32)
        logits = random.normal(size=(40, head.width)).astype(np.float32)
        told, answers = head.score(logits, Examples(labels)), logits.argmax(axis=1)
        wanted = {"acc": accuracy_score, "f1": functools.partial(f1_score, zero_division=0), "mcc": matthews_corrcoef,
                  "macro_f1": functools.partial(f1_score, average="macro", zero_division=0)}
        assert metric in told and set(head.shown_scores) <= told.keys()
        for name in told.keys() - {"acc_and_f1"}:
            assert told[name] == pytest.approx(wanted[name](labels, answers)), name


def test_metrics_of_scores_against_scipy():
    random, head = np.random.default_rng(0), Score(-3.0, 8.0)
    labels, logits = random.uniform(-3, 8, 50), random.normal(size=(50, 1))
    told = head.score(logits, Examples(labels))
    wanted = pearsonr(logits[:, 0], labels)[0], spearmanr(logits[:, 0], labels)[0]
    assert (told["pearson"], told["spearmanr"]) == pytest.approx(wanted)
    assert told["corr"] == pytest.approx(sum(wanted) / 2)
    assert head.read_label("-3") == -3 and head.read_label("8.01") is None and head.expected == "a number from -3 to 8"
    assert head.word(9.5) == "8.000000" and head.word(-4) == "-3.000000"


@pytest.mark.parametrize("metric", ["f1", "macro_f1"])
def test_what_does_not_read_is_at_chance(metric):
    """By simulation: answers that do not depend on the labels, as often as the best of such models gives each; none
    that gives them in other shares is better."""
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2][:2 if metric == "f1" else 3], [1200, 300, 500][:2 if metric == "f1" else 3])
    head = Classes(tuple("abc"[:labels.max() + 1]), metric)
    chance, error = head.chance(Examples(labels))

    def reached(shares):
        drawn = [random.choice(len(shares), len(labels), p=shares) for _ in range(80)]
        return np.array([head.dev_scores(answers, labels)[metric] for answers in drawn])

    best = [0, 1] if metric == "f1" else [0.6, 0.15, 0.25]
    assert reached(best).mean() == pytest.approx(chance, abs=0.006)
    for shares in ([0.3, 0.7], [0.8, 0.2]) if metric == "f1" else ([1, 0, 0], [1 / 3] * 3, [0.2, 0.3, 0.5]):
        assert reached(shares).mean() < chance
    if metric == "f1":  # what varies is the share of class 1 in the dev set
        drawn = random.binomial(len(labels), labels.mean(), 2000) / len(labels)
        assert (2 * drawn / (1 + drawn)).std() == pytest.approx(error, rel=0.1)
    else:
        assert reached(best).std() == pytest.approx(error, rel=0.25)
    assert head.least(Examples(labels)) == 0.0


# --- teachers of others

@pytest.mark.parametrize("labels,id2label,order", [
    (MOODS, ("glad", "none", "sad"), [2, 0, 1]), (MOODS, ("GLAD", "Sad", "none"), [1, 0, 2]),
    (("a", "A"), ("A", "a"), [1, 0]), (MOODS, ("LABEL_0", "LABEL_1", "LABEL_2"), [0, 1, 2]),
    (MOODS, ("0", "1", "2"), [0, 1, 2]), (("0", "1"), ("negative", "positive"), [0, 1])])
def test_classes_are_matched_by_their_names(labels, id2label, order, capsys):
    task = replace(own_task(CLASSES, "here"), head=Classes(labels))
    assert class_order({"id2label": {str(i): name for i, name in enumerate(id2label)}}, task, f"{labels}") == order
    out = capsys.readouterr().out
    said = f"{labels}: its classes {', '.join(id2label)} are taken, in this order, for {', '.join(labels)} of moods: "
    assert out.startswith(said) if order == sorted(order) else not out
    assert ("by id2label in config.json" in out) == bool(out) and out.count("\n") <= 1


def test_columns_without_names_are_told(capsys):
    """Hugging Face writes no id2label of two classes that were never named."""
    for labels, said in ((("no", "yes"), "LABEL_0, LABEL_1 are taken, in this order, for no, yes"), (("0", "1"), "")):
        task = replace(own_task(CLASSES, "here"), head=Classes(labels))
        assert class_order({}, task, "without names") == [0, 1]
        out = capsys.readouterr().out
        assert said in out and bool(out) == bool(said)


@pytest.mark.parametrize("id2label,words", [
    (("down", "up", "none"), ("id2label down, none, up", "labels of moods, glad, none, sad")),
    (("down", "up", "zero"), ("id2label down, up, zero", "glad, none, sad", "call them so there"))])
def test_classes_of_other_names_are_refused(id2label, words, tiny, refused):
    teacher = a_teacher(tiny, make(tiny / "data/moods", CLASSES))
    edit_config(teacher, id2label=dict(enumerate(id2label)))
    refused("task_distill", *arguments(tiny), words=(f"{teacher}/config.json", *words))


def test_a_teacher_of_another_number_of_classes_is_refused(tiny, refused):
    teacher = a_teacher(tiny, make(tiny / "data/moods", CLASSES, labels=["up", "down"]))
    make(tiny / "data/moods", CLASSES)
    refused("task_distill", *arguments(tiny), words=(
        f"{teacher} tells 2 classes apart: up, down (its classifier is [2, 16]), and moods has 3: sad, glad, none",
        "finetune_teacher.py"))


def test_a_teacher_of_another_order_teaches_the_same(tiny, script):
    """The student of a teacher whose classes, and what they are called, are exchanged."""
    task = make(tiny / "data/moods", CLASSES)
    teacher = a_teacher(tiny, task)
    flags = {"pred_distill": True, "num_train_epochs": 1}
    run(script, "task_distill", arguments(tiny, **flags))
    model = load_model(teacher, task.head)
    order = [1, 2, 0]
    for weight in model.classifier.parameters():
        weight.data = weight.data[order]
    model.config.extra["id2label"] = {str(column): MOODS[old] for column, old in enumerate(order)}
    save_model(model, tiny / "other", teacher)
    run(script, "task_distill", arguments(tiny, teacher_model=tiny / "other", output_dir=tiny / "again", **flags))
    assert contents(tiny / "again")["pytorch_model.bin"] == contents(tiny / "out")["pytorch_model.bin"]


# --- all steps

def test_from_the_folder_to_answers_and_report(tiny, script, monkeypatch):
    """Nothing but the folder is named; the best by the task's metric is kept."""
    monkeypatch.chdir(tiny)
    files = {"train.tsv": 24, "dev.tsv": 18, "test.tsv": 7, "unlabelled.tsv": 10}
    task = make(Path("data/moods"), CLASSES, rows=files, test_has_labels=False,
                settings={"teacher_epochs": 12, "teacher_batch_size": 4})
    run(script, "finetune_teacher", command_line({"data_dir": "data/moods", "model": a_teacher(tiny, task),
                                                  "learning_rate": 1e-3, "no_cuda": True}))
    record = json.loads(Path("models/final_moods_teacher/run.json").read_text())
    told = [line["macro_f1"] for line in lines(Path("models/final_moods_teacher/metrics.jsonl"))]
    assert len(told) == 12 and record["macro_f1"] == max(told) > 0.8 and "acc" in record
    assert json.loads(Path("models/final_moods_teacher/config.json").read_text())["id2label"] == dict(
        zip("012", MOODS))
    for flags in ({"glue_dir": "data/moods"}, {"glue_dir": "data", "task_name": "moods", "resume": True}):
        run(script, "data_augmentation", command_line(
            {**flags, "pretrained_bert_model": "bert", "N": 2, "p": 1.0, "no_cuda": True}))
    augmented = [columns[0] for _, columns in read_rows(task, Path("data/moods/train_aug.tsv"))]
    assert len(augmented) > 24 and set(augmented) == set(MOODS)

    teacher = Path("models/final_moods_teacher")
    out = run(script, "task_distill", arguments(tiny, data_dir="data/moods", teacher_model=teacher, aug_train=True,
                                                output_dir="models/tmp_tinybert_2l_moods"))
    assert f"intermediate stage: {len(augmented) + 10} examples" in out
    flags = {"teacher_model": teacher, "student_model": "models/tmp_tinybert_2l_moods", "task_name": "moods"}
    out = run(script, "task_distill", arguments(tiny, data_dir="data", pred_distill=True, learning_rate=1e-2,
                                                output_dir="models/distilled_tinybert_2l_moods", **flags))
    assert "prediction stage: 34 examples" in out
    student = Path("models/distilled_tinybert_2l_moods")
    record = json.loads((student / "run.json").read_text())
    told = [line["macro_f1"] for line in lines(student / "metrics.jsonl")]
    assert record["kept"]["macro_f1"] == max(told) and record["settings"]["max_seq_length"] == 24
    assert own_task(record["task_json"], "here") == task

    scoring = {"student_model": student, "output_dir": "results/moods", "no_cuda": True, "data_dir": "data/moods"}
    run(script, "task_distill", command_line({**scoring, "do_eval": True}))
    assert json.loads((student / "eval_results.json").read_text())["values"]["macro_f1"] == pytest.approx(max(told))
    out = run(script, "task_distill", command_line({**scoring, "do_predict": True}))
    assert "results/moods/predictions.tsv: 7 predictions\n" in out
    wanted = plain_answers(student, task, [columns for _, columns in read_rows(task.texts_alone,
                                                                               task.folder / "test.tsv")])
    header, *rows = [line.split("\t") for line in Path("results/moods/predictions.tsv").read_text().splitlines()]
    assert header == ["row", "label", "p_sad", "p_glad", "p_none"] and [row[0] for row in rows] == list("0123456")
    assert [row[1] for row in rows] == [MOODS[number] for number in wanted.argmax(axis=1)]
    assert np.array([row[2:] for row in rows], float) == pytest.approx(wanted, abs=1e-5)

    write_lines(Path("new/more.txt"), ["sentence", sentence(3), sentence(11)])
    run(script, "task_distill", command_line({**scoring, "do_predict": True, "predict_file": "new/more.txt",
                                              "output_dir": "results/new", "do_eval": True}))
    assert own_task(json.loads((student / "eval_results.json").read_text())["task_json"], "here") == task
    assert len(Path("results/new/predictions.tsv").read_text().splitlines()) == 3 and names(Path("new")) == ["more.txt"]
    run(script, "report", [])
    report = Path("results/report.md").read_text()
    assert "## Your own tasks" in report and "## GLUE" not in report
    assert len([line for line in report.splitlines() if line.startswith("| moods | macro F1 | 1 |")]) == 2


def test_the_same_texts_give_the_student_of_the_known_task(tiny, script):
    """MRPC, and its rows as one's own: the same weights after both stages, the same dev scores."""
    known, folder = get_task("MRPC"), tiny / "data/pairs"
    counts = {}
    for file in ("train.tsv", "dev.tsv"):
        rows = [[row[known.label_column], *(row[column] for column in known.text_columns)]
                for _, row in read_rows(known, tiny / "glue/MRPC" / file)]
        write_lines(folder / file, ["label\tsentence1\tsentence2", *map("\t".join, rows)])
        counts[file] = len(rows)
    write_task(folder, own_task({**CLASSES, "name": "pairs", "labels": ["0", "1"], "metric": "acc", "texts": 2,
                                 "rows": counts}, "here"))
    for place, start in ((tiny / "glue/MRPC", "known"), (folder, "own")):
        flags = {"data_dir": place, "task_name": "MRPC" if start == "known" else None, "max_seq_length": 24,
                 "teacher_model": tiny / "teacher_mrpc", "num_train_epochs": 1, "learning_rate": 1e-2}
        run(script, "task_distill", arguments(tiny, output_dir=tiny / f"tmp_{start}", **flags))
        run(script, "task_distill", arguments(tiny, student_model=tiny / f"tmp_{start}", output_dir=tiny / start,
                                              pred_distill=True, **flags))
    assert contents(tiny / "own")["pytorch_model.bin"] == contents(tiny / "known")["pytorch_model.bin"]
    assert [line["acc"] for line in lines(tiny / "own/metrics.jsonl")] == \
        [line["acc"] for line in lines(tiny / "known/metrics.jsonl")]
    write_lines(tiny / "new.tsv", ["sentence1\tsentence2",
                                   *(f"{sentence(row)}\t{sentence(row + 1)}" for row in range(4))])
    scoring = {"student_model": tiny / "own", "predict_file": tiny / "new.tsv", "do_predict": True, "no_cuda": True,
               "max_seq_length": 24}
    told = {}
    for name, place in (("MRPC", tiny / "glue/MRPC"), ("pairs", folder)):
        out = run(script, "task_distill", command_line({**scoring, "task_name": name, "data_dir": place,
                                                        "output_dir": tiny / f"told_{name}"}))
        assert "taken as the header" not in out
        told[name] = (tiny / f"told_{name}/predictions.tsv").read_text()
    assert told["MRPC"] == told["pairs"] and told["pairs"].startswith("row\tlabel\tp_0\tp_1\n0\t")
    write_lines(tiny / "new.tsv", ["id\tsentence1\tsentence2", "1\ta\tb"])
    status, _, err = script("task_distill", *command_line({**scoring, "task_name": "MRPC", "output_dir": tiny / "x",
                                                           "data_dir": tiny / "glue/MRPC"}))
    assert status == 2 and "new.tsv, line 1: the header of a file of MRPC with its texts alone is" in err


def plain_answers(folder: Path, task: Task, rows: list[list[str]]) -> np.ndarray:
    """Probabilities (of a score: the logit) for texts, one example after the other."""
    model, tokenizer = load_model(folder, task.head).eval(), BertTokenizer(folder / "vocab.txt")
    found = []
    for texts in rows:
        ids, segments = [tokenizer.cls_id], [0]
        for segment, text in enumerate(texts):
            pieces = [tokenizer.vocab[piece] for piece in tokenizer.tokenize(text)]
            ids += [*pieces, tokenizer.sep_id]
            segments += [segment] * (len(pieces) + 1)
        with torch.no_grad():
            logits = model(torch.tensor([ids]), torch.tensor([segments]), torch.ones(1, len(ids), dtype=torch.int64))[0]
        found.append((logits.softmax(1) if task.labels else logits)[0].numpy())
    return np.array(found)


def test_scores_from_the_folder_to_answers(tiny, script, monkeypatch):
    """Two texts, a range of one's own, a test set with labels that is scored and chooses nothing."""
    monkeypatch.chdir(tiny)
    task = make(Path("data/stars"), SCORES, rows={"train.tsv": 24, "dev.tsv": 18, "test.tsv": 12, "unlabelled.tsv": 8},
                test_has_labels=True)
    run(script, "finetune_teacher", command_line({
        "tasks": "stars", "glue_dir": "data", "model": "bert", "no_cuda": True, "train_batch_size": 8,
        "num_train_epochs": 2, "learning_rate": 1e-2}))
    flags = {"data_dir": "data/stars", "teacher_model": "models/final_stars_teacher", "learning_rate": 1e-2}
    run(script, "task_distill", arguments(tiny, output_dir="tmp", **flags))
    out = run(script, "task_distill", arguments(tiny, output_dir="student", pred_distill=True, student_model="tmp",
                                                **flags))
    assert "prediction stage: 32 examples" in out
    record, logged = json.loads(Path("student/run.json").read_text()), lines(Path("student/metrics.jsonl"))
    assert record["kept"]["corr"] == max(line["corr"] for line in logged) and "corr_test" in logged[-1]
    scoring = {"student_model": "student", "output_dir": "answers", "no_cuda": True, "data_dir": "data/stars"}
    run(script, "task_distill", command_line({**scoring, "do_eval": True}))
    values = json.loads(Path("student/eval_results.json").read_text())["values"]
    rows = [columns for _, columns in read_rows(task, task.folder / "test.tsv")]
    wanted = plain_answers(Path("student"), task, [row[1:] for row in rows])[:, 0]
    assert values["pearson_test"] == pytest.approx(pearsonr(wanted, [float(row[0]) for row in rows])[0], abs=1e-5)
    write_lines(Path("new.txt"), ["sentence1\tsentence2", *("\t".join(row[1:]) for row in rows)])
    run(script, "task_distill", command_line({**scoring, "do_predict": True, "predict_file": "new.txt"}))
    header, *told = [line.split("\t") for line in Path("answers/predictions.tsv").read_text().splitlines()]
    assert header == ["row", "score"] and np.array(told, float)[:, 1] == pytest.approx(wanted.clip(1, 10), abs=1e-4)
    status, _, err = script("task_distill", *command_line({**scoring, "do_predict": True}))
    assert status == 2 and "that of stars has them: --do_eval scores it; --predict_file names other texts" in err


@pytest.mark.parametrize("flags,words", [
    ({"hard_labels": True}, ("--hard_labels learns the labels", "moods has 9 rows without (unlabelled.tsv)"))])
def test_rows_without_labels_are_no_labels(flags, words, tiny, refused, script):
    rows = {**CLASSES["rows"], "unlabelled.tsv": 9}
    a_teacher(tiny, make(tiny / "data/moods", CLASSES, rows=rows))
    refused("task_distill", *arguments(tiny, pred_distill=True, **flags), words=words)
    make(tiny / "data/moods", CLASSES)
    run(script, "task_distill", arguments(tiny, pred_distill=True, **flags))


def test_published_code_learns_scores_of_the_data(tiny, refused):
    a_teacher(tiny, make(tiny / "data/stars", SCORES, rows={**SCORES["rows"], "unlabelled.tsv": 9}))
    refused("task_distill", *arguments(tiny, data_dir=tiny / "data/stars", pred_distill=True, preset="code"),
            words=("--preset code learns the labels", "9 rows without"))


def test_killed_with_rows_without_labels(tiny, script, refused, monkeypatch):
    """A run that was killed goes on to the same student; with other such rows it is refused."""
    task = make(tiny / "data/moods", CLASSES, rows={**CLASSES["rows"], "unlabelled.tsv": 10})
    a_teacher(tiny, task)
    flags = {"pred_distill": True, "num_train_epochs": 3, "save_steps": 2, "learning_rate": 1e-2}
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    command = [str(part) for part in arguments(tiny, **flags)]
    process = multiprocessing.get_context("spawn").Process(
        target=child, args=("task_distill", command, tiny / "log", 7, functools.partial(send, signal.SIGKILL)))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL, (tiny / "log").read_text()
    write_lines(task.folder / "unlabelled.tsv", table(task, 10, 1, labelled=False))
    refused("task_distill", *command, "--resume", words=("train",))
    make(tiny / "data/moods", CLASSES, rows={**CLASSES["rows"], "unlabelled.tsv": 10})
    assert f"going on from {tiny / 'out'}/state_6.pt" in run(script, "task_distill", [*command, "--resume"])
    run(script, "task_distill", arguments(tiny, output_dir=tiny / "whole", **flags))
    assert contents(tiny / "out")["pytorch_model.bin"] == contents(tiny / "whole")["pytorch_model.bin"]
    assert json.loads((tiny / "out/run.json").read_text())["steps"] == 12  # 34 rows: 4 whole batches in each epoch


# --- plan and rehearsal

def test_the_plan_counts_rows_without_labels(tiny):
    task = make(tiny / "data/moods", CLASSES, rows={**CLASSES["rows"], "unlabelled.tsv": 10, "test.tsv": 5},
                test_has_labels=False, settings={"teacher_epochs": 4})
    a_teacher(tiny, task)

    def work(script: str, arguments: list):
        return work_of(Step("it", "open", (str(ROOT / f"{script}.py"), *map(str, arguments))))

    stage = work("task_distill", arguments(tiny))
    assert (stage.counts, stage.steps, stage.dev_examples, stage.missing) == ([34, 34], 8, 18, [])
    assert "--hard_labels" in work("task_distill", arguments(tiny, pred_distill=True, hard_labels=True)).refused
    teacher = work("finetune_teacher", command_line({"data_dir": task.folder, "model": tiny / "bert",
                                                     "train_batch_size": 8}))
    assert (teacher.counts, teacher.steps, teacher.outputs) == ([24] * 4, 12, ["models/final_moods_teacher"])
    flags = {"student_model": tiny / "teacher", "output_dir": tiny / "out", "data_dir": tiny / "data",
             "task_name": "moods"}
    scored = work("task_distill", command_line({**flags, "do_eval": True, "do_predict": True}))
    assert scored.counts == [18 + 5]
    augmented = work("data_augmentation", ["--glue_dir", task.folder, "--pretrained_bert_model", tiny / "bert"])
    assert augmented.counts == [24] and augmented.outputs == [f"{task.folder}/train_aug.*"]


def test_a_rehearsed_folder_is_one_of_the_task(tiny):
    task = make(tiny / "data/moods", CLASSES, rows={**CLASSES["rows"], "unlabelled.tsv": 10})
    folder = Inputs(tiny / "made", None).task(tiny / "now", task, task.folder, 8, 5, False, BertConfig(**STUDENT))
    sample = open_task("moods", folder.parent)
    assert folder == tiny / "now/glue/moods" and sample.unlabelled_rows == 0 and sample.head == task.head
    real = set((task.folder / "train.tsv").read_text().splitlines())
    assert set((folder / "train.tsv").read_text().splitlines()) < real and names(folder) == [
        "dev.tsv", "task.json", "train.tsv"]
    assert len(list(read_rows(sample, folder / "train.tsv"))) == 8


def test_known_tasks_stay_what_they_are(tiny):
    assert all(task.folder is None and not task.unlabelled_rows for task in GLUE.values())
