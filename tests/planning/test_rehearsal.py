"""reproduce.sh --rehearse: what is run, what stays, what is projected; and where a run's time goes."""
from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import (
    ROOT,
    STUDENT,
    TEACHER,
    WORDS,
    command_line,
    contents,
    finetune,
    general,
    names,
    run,
    train,
    write_lines,
)
from transformer import stopwatch
from transformer.augmentation.candidates import STOP_CHARACTERS
from transformer.augmentation.glove import Glove
from transformer.checkpoint import load_encoder
from transformer.config import BertConfig
from transformer.data.epochs import open_epoch
from transformer.data.tables import read_rows
from transformer.data.windows import encode_windows
from transformer.files import InputError
from transformer.planning import made_up, rehearsal, task_files
from transformer.planning.languages import CHINESE, ENGLISH, usual_words
from transformer.planning.made_up import Inputs
from transformer.planning.projection import Measured, projected_bytes, projected_seconds
from transformer.planning.rehearsal import Rehearsed, lacking, rehearse, run_command
from transformer.planning.steps import Step, Work, files_for, works_of
from transformer.stopwatch import STOPWATCH, Stopwatch
from transformer.tasks.squad import read_passages
from transformer.tasks.table import get_task
from transformer.tokenization import BertTokenizer, is_ideograph

SMALL = BertConfig(**{**TEACHER, "vocab_size": 200})


def step(name: str, script: str, arguments: list, state: str = "open") -> Step:
    return Step(name, state, (str(ROOT / f"{script}.py"), *map(str, arguments)))


# --- where the time of a run goes

def test_a_part_stops_the_one_around_it(monkeypatch):
    now = itertools.chain([0, 1, 3, 7, 15, 31], itertools.repeat(31))
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: next(now))
    watch = Stopwatch()                 # 0
    with watch.part("steps"):           # 1
        with watch.part("save"):        # 3
            pass                        # 7
    assert watch.facts() == {"seconds_of": {"other": 1 + 16, "steps": 2 + 8, "save": 4},  # 15, 31
                             "times_of": {"steps": 1, "save": 1}}
    assert watch.facts() == {"seconds_of": {"other": 0}, "times_of": {}}


def test_a_part_ends_with_an_error():
    watch = Stopwatch()
    with pytest.raises(ValueError), watch.part("save"):
        raise ValueError
    assert watch.switch("steps") == "other"


@pytest.mark.parametrize(("script_name", "arguments", "parts"), [
    ("general_distill", general, {"encode": 4, "first_step": 1, "save": 4, "state": None}),
    ("task_distill", train, {"encode": 2, "teacher": 1, "first_step": 1, "save": 2, "state": None, "score": 1}),
    ("task_distill", lambda tiny, **flags: train(tiny, pred_distill=True, student_model=tiny / "student_mrpc", **flags),
     {"encode": 2, "teacher": 1, "logits": 1, "evaluate": 2, "first_step": 1, "score": 3, "save": None, "state": None}),
    ("finetune_teacher", lambda tiny, eval_step, **flags: finetune(tiny, model=tiny / "bert", **flags),
     {"encode": 2, "evaluate": 3, "score": 3, "first_step": 1, "save": None, "state": None})])
def test_the_record_tells_where_the_time_went(tiny, script, script_name, arguments, parts):
    STOPWATCH.facts()  # what went before is no part of it
    begin = time.perf_counter()
    run(script, script_name, arguments(tiny, eval_step=2, output_dir=tiny / "out"))
    wall = time.perf_counter() - begin
    record = json.loads((tiny / "out" / "run.json").read_text())
    seconds, times = record["seconds_of"], record["times_of"]
    assert seconds.keys() == {*parts, "other", "steps"}
    assert all(value >= 0 for value in seconds.values()) and seconds["steps"] > 0
    assert sum(seconds.values()) <= wall + 0.01
    assert sum(seconds[part] for part in ("first_step", "steps", "save", "state") if part in seconds) <= \
        record["seconds"] + 0.06  # which has one digit
    for part, count in parts.items():
        assert times[part] == count if count else times[part] >= 1, part


# --- what is projected

WORK = {"counts": [1000, 1000], "steps": 501, "evaluations": 10, "dev_examples": 200, "logs": 10, "saves": 10,
        "students": (SMALL,), "asked": 1000}


def test_the_projection_of_a_training_by_hand():
    """5 s of start, 2 of the first step; 0.5 s a step; 100 rows and 20 dev rows in the sample."""
    measured = Measured(
        wall=7 + 5 + 1 + 2 + 4 + 0.6 + 0.2, steps=10, size=120, rows={"logits": 100, "teacher": 20, "evaluate": 40},
        seconds={"other": 5, "first_step": 2, "steps": 5, "logits": 1, "teacher": 2, "evaluate": 4, "save": 0.6,
                 "state": 0.2}, times={"save": 2, "state": 2}, reading=0.01)
    work = Work(Step("it", "open", ("task_distill.py",)), "intermediate", **WORK)
    fixed = 7 + 0.01 * (1200 - 120) / 2
    parts = 0.5 * 500 + 1 / 100 * 1000 + 2 / 20 * 200 + 4 / 40 * 200 * 10
    assert measured.seconds_per_step == 0.5
    best = Work(work.step, "prediction", **WORK)  # saves where a score is the best so far
    saves = 1 + 2 * math.log(10)
    assert projected_seconds(measured, best, 2) == pytest.approx(fixed + parts + 0.3 * saves + 0.1 * 10)
    after = replace(best, asked=0)  # the teacher's answers are there
    assert projected_seconds(measured, after, 2) == pytest.approx(fixed + parts - 10 + 0.3 * saves + 0.1 * 10)
    two = Work(work.step, "intermediate", **WORK | {"students": (SMALL, SMALL), "saves": 2})  # saves with the states
    whole = fixed + parts + 0.3 * 2
    assert projected_seconds(measured, two, 2) == pytest.approx(whole + 2 * (0.3 + 0.1) * 10)
    measured.seconds["state"] = 200  # 100 s each: the first ones, and a twentieth of the time
    measured.wall += 199.8
    assert projected_seconds(measured, two, 2) == pytest.approx(whole + 2 * (0.3 + 100) + whole / 20)
    assert projected_seconds(measured, best, 2) == pytest.approx((fixed + parts + 0.3 * saves) * 1.05 + 100)


def test_the_projection_of_the_others_by_hand(tmp_path):
    kept = {"kept": 1e6, "growing": 2e6, "size": 100}
    text = Measured(wall=3, seconds={"making": 1}, **kept)
    work = Work(Step("it", "open", ()), "pregenerate", text_bytes=1000)
    assert projected_seconds(text, work, 2) == 2 + 1 * 10
    assert projected_bytes(text, work) == 1e6 + 2e6 * 10
    # a row of the sample has twice as many different texts as one of the whole file
    rows = Measured(wall=10, seconds={"survey": 1, "masked_lm": 4, "rows": 2, "glove": 1}, different=2, **kept)
    assert projected_seconds(rows, Work(Step("it", "open", ()), "augment", counts=[1000]), 2) == 3 + 10 + 40 / 2 + 20
    answers = Measured(wall=5, seconds={"evaluate": 2}, rows={"evaluate": 50}, reading=0.1, **kept)
    work = Work(Step("it", "open", ()), "evaluation", counts=[200], dev_examples=150)
    assert projected_seconds(answers, work, 4) == pytest.approx(3 + 2 * 4 + 0.1 * 100 / 4)


def test_what_does_not_fit_is_told(tmp_path):
    work = Work(Step("big", "open", ()), "pregenerate", text_bytes=10, outputs=[str(tmp_path / "not" / "there")])
    fitting = Rehearsed(work, Measured(1, memory_gb=1))
    assert lacking([fitting, Rehearsed(work, failure="it broke")], 2) == []
    memory, disk = lacking([Rehearsed(work, Measured(1, memory_gb=3, growing=1e15))], 2)
    assert memory == "big needs 3.0 GB of memory, and the machine has 2.0"
    assert disk.startswith(f"the disk of {tmp_path} has ") and disk.endswith(" need 10000000.0")


# --- what is made up, and what is a sample

def test_a_sample_has_whole_lines_of_the_usual_width(tmp_path, monkeypatch):
    rows = [f"{number}\tsome text" for number in range(300)] + ["short"]
    path = write_lines(tmp_path / "train.tsv", ["label\ttext", *rows])
    for limit in (1 << 20, 0):  # read whole, and by places
        monkeypatch.setattr(task_files, "_READ_WHOLE", limit)
        header, lines = task_files.sample_lines(path, 100, has_header=True)
        assert header == [b"label\ttext\n"] and 90 <= len(lines) <= 100
        assert {line.decode() for line in lines} <= {f"{row}\n" for row in rows[:-1]}
        assert len({line[0] for line in lines}) > 5  # from all over
    assert len(task_files.sample_lines(path, 1000, has_header=True)[1]) >= 300


def test_made_up_instances_vectors_and_text(tmp_path, monkeypatch):
    monkeypatch.setattr(made_up, "VECTORS", 50)
    inputs = Inputs(tmp_path, None)
    tokenizer = BertTokenizer(inputs.vocabulary(SMALL))
    folder, count = inputs.instances(tmp_path, tmp_path / "nothing", 9, 32, SMALL)
    epoch = open_epoch(folder / "epoch_0.json", folder / "epoch_0_metrics.json", tokenizer, 32)
    assert len(epoch) == count == 9 and set(epoch.lengths) == {32}
    glove = Glove(inputs.vectors(tmp_path / "glove.txt", SMALL), 1000)
    assert len(glove.words) == 50 and glove.vectors.shape == (50, 300)
    text = inputs.corpus(tmp_path, tmp_path / "nothing", 6000, SMALL).read_text()
    assert 3000 < len(text) < 9000 and "\n\n" in text
    assert inputs.invented == ["instances", "word vectors", "text"]


def test_instances_that_are_arrays_are_linked(tmp_path):
    real = tmp_path / "real"
    (real / "epoch_0.instances").mkdir(parents=True)
    (real / "epoch_0.json").write_text("no instance")
    (real / "epoch_0_metrics.json").write_text('{"num_training_examples": 77, "max_seq_len": 32}')
    folder, count = Inputs(tmp_path, None).instances(tmp_path, real, 9, 32, SMALL)
    assert count == 77 and (folder / "epoch_0.instances").samefile(real / "epoch_0.instances")
    assert names(folder) == ["epoch_0.instances", "epoch_0_metrics.json"]
    assert json.loads((folder / "epoch_0_metrics.json").read_text())["num_training_examples"] == 77


@pytest.mark.parametrize("model_type", ["electra", "nezha", "albert"])
def test_made_up_teachers_are_of_their_family(tmp_path, model_type):
    config = BertConfig.from_dict({**SMALL.to_dict(), "model_type": model_type, "embedding_size": SMALL.hidden_size})
    inputs = Inputs(tmp_path, None)
    folder = inputs.model(tmp_path / "nothing", "bert", config)
    assert load_encoder(folder).config.family is config.family
    assert inputs.model(tmp_path / "nothing", "bert", SMALL) != folder
    teacher = inputs.model(tmp_path / "nothing", "task", config, task=get_task("RTE"))
    assert load_encoder(teacher).config.family is config.family


@pytest.mark.parametrize("name", ["CoLA", "MNLI", "STS-B"])
def test_made_up_rows_are_rows_of_the_task(tmp_path, name):
    task = get_task(name)
    folder = Inputs(tmp_path, None).task(tmp_path, task, tmp_path / "nothing", 30, 7, False, SMALL)
    for file, count in (("train.tsv", 30), *((dev, 7) for dev in task.dev_files)):
        rows = [columns for _, columns in read_rows(task, folder / file)]
        assert len(rows) == count and all(len(row[task.text_columns[0]].split()) > 1 for row in rows)
        assert len({row[task.label_column] for row in rows}) > 1


@pytest.mark.parametrize("name", ["TNEWS", "CSL", "CLUEWSC2020", "XNLI-zh"])
def test_made_up_chinese(tmp_path, name):
    """Characters of the vocabulary without spaces, a third of them stop characters, as many as the task usually has."""
    task, config = get_task(name), replace(SMALL, vocab_size=3000)
    inputs = Inputs(tmp_path, None, CHINESE)
    folder = inputs.task(tmp_path, task, tmp_path / "nothing", 100, 7, False, config)
    texts = []
    for file, count in (("train.tsv", 100), *((dev, 7) for dev in task.dev_files)):
        rows = [columns for _, columns in read_rows(task, folder / file)]
        assert len(rows) == count and {row[0] for row in rows} <= set(task.labels)
        texts += [row[column] for row in rows for column in task.text_columns]
    together = "".join(texts)
    assert len(together) / len(texts) == pytest.approx(usual_words(task), rel=0.1) and all(map(is_ideograph, together))
    assert BertTokenizer(inputs.vocabulary(config)).tokenize(together) == list(together)
    stopped = sum(character in STOP_CHARACTERS for character in together) / len(together)
    assert stopped == pytest.approx(0.35, abs=0.05)
    text = inputs.corpus(tmp_path, tmp_path / "nothing", 6000, config).read_text("utf-8")
    assert 5000 < len(text.encode()) < 8000 and not set(text) & {" ", "t"} and "\n\n" in text


@pytest.mark.parametrize("name", ["SQuAD1", "SQuAD2"])
def test_made_up_questions_are_learnt_and_answered(tmp_path, name):
    """Every answer stands in its passage; of v2.0 some questions have none. Windows are about as long as SQuAD's, some
    178 wordpieces, and seldom more than one to a question."""
    task = get_task(name)
    inputs = Inputs(tmp_path, None)
    folder = inputs.task(tmp_path, task, tmp_path / "nothing", 203, 7, False, SMALL)
    assert inputs.invented == [f"{name}/{task.train_file}", f"{name}/{task.dev_files[0]}"]
    for file, count in ((task.train_file, 203), (task.dev_files[0], 7)):
        passages = list(read_passages(folder / file, task.head.unanswerable))
        questions = [(passage, question) for passage in passages for question in passage.questions]
        assert len(questions) == count and all(len(question.text.split()) == 10 for _, question in questions)
        assert all(passage.context[start:start + len(text)] == text
                   for passage, question in questions for text, start in question.answers)
        assert {len(question.answers) for _, question in questions} == ({0, 1} if name == "SQuAD2" else {1})
    tokenizer = BertTokenizer(inputs.vocabulary(SMALL))
    windows = encode_windows(task, folder / task.train_file, tokenizer, 384, 128, 64, "train", num_workers=1)
    assert 203 <= len(windows) < 1.1 * 203 and 140 < windows.lengths.mean() < 210


def test_a_sample_of_squad_is_of_the_real_files(tmp_path):
    """Chosen by chance; of an augmented file that is not there the questions of the train file, without answers."""
    task = get_task("squad2")
    inputs = Inputs(tmp_path, None)
    real = inputs.task(tmp_path, task, tmp_path / "nothing", 100, 20, False, SMALL)
    known = {question.id: question for passage in read_passages(real / task.train_file, True)
             for question in passage.questions}
    inputs.invented.clear()
    for number, augmented in enumerate((False, True)):
        place = tmp_path / f"place_{number}"
        folder = inputs.task(place, task, real, 30, 5, augmented, SMALL)
        assert names(folder) == sorted([task.dev_files[0], task.aug_file if augmented else task.train_file])
    assert inputs.invented == [task.aug_file]
    sample = read_passages(tmp_path / "place_0/glue/SQuAD2" / task.train_file, True)
    sampled = {question.id: question for passage in sample for question in passage.questions}
    assert len(sampled) == 30 and sampled.items() <= known.items() and list(sampled) != list(known)[:30]
    first, *lines = (tmp_path / "place_1/glue/SQuAD2" / task.aug_file).read_text().splitlines()
    assert json.loads(first) == {"version": "augmented"}
    asked = [question for line in lines for question in json.loads(line)["qas"]]
    assert len(asked) == 30 and all(question.keys() == {"id", "question"} for question in asked)
    assert {question["id"].removesuffix("#0") for question in asked} <= set(known)
    inputs.invented.clear()
    again = inputs.task(tmp_path / "again", task, tmp_path / "place_1/glue/SQuAD2", 10, 0, True, SMALL)
    assert not inputs.invented and len(encode_windows(
        task, again / task.aug_file, BertTokenizer(inputs.vocabulary(SMALL)), 384, 128, 64,
        "augmented", num_workers=1)) >= 10


@pytest.mark.parametrize("name", ["RTE", "SQuAD1"])
def test_a_sample_in_the_place_of_another_is_counted_anew(tmp_path, name):
    """Rehearsals of one task have their files in the same place, one after the other."""
    task, args = get_task(name), Namespace(max_seq_length=4000, doc_stride=128, max_query_length=64)  # a window each
    for rows in (20, 35):
        folder = Inputs(tmp_path, None).task(tmp_path / "now", task, tmp_path / "nothing", rows, 0, False, SMALL)
        assert files_for(task, ENGLISH, args).count(folder / task.train_file) == rows
        shutil.rmtree(tmp_path / "now")


def test_made_up_words_are_wordpieces_of_the_made_up_vocabulary(tmp_path):
    inputs = Inputs(tmp_path, None)
    tokenizer = BertTokenizer(inputs.vocabulary(SMALL))
    words = inputs.words(SMALL, 50)
    assert len(tokenizer.vocab) == 200 and len(words) == 50
    assert tokenizer.tokenize(" ".join(words)) == words


# --- the rehearsal

@pytest.fixture(scope="module")
def rehearsed(world):
    """A rehearsal in a folder of tiny models: (its folder, what was there before, rehearsal.json, the error, what was
    printed)."""
    os.truncate(world / "teacher_cola" / "pytorch_model.bin", 1000)
    stage = {"data_dir": world / "glue" / "MRPC", "aug_train": True, "eval_step": 5}
    given = [
        step("pregenerate", "pregenerate_training_data", command_line({
            "train_corpus": "no.txt", "bert_model": world / "bert", "output_dir": "json_new", "max_seq_len": 16})),
        step("general", "general_distill", general(world, output_dir="general_new")),
        step("general_both", "general_distill", [
            *general(world), "--student_model", world / "config", world / "narrow", "--output_dir", "one", "two"]),
        step("both", "task_distill", [
            *train(world), "--student_model", world / "general", "two", "--output_dir", "new6", "new7"]),
        step("augment", "data_augmentation", command_line({
            "pretrained_bert_model": world / "bert", "glove_embs": "glove.txt", "glue_dir": world / "glue",
            "task_name": "MRPC", "no_cuda": True})),
        step("teacher", "finetune_teacher", finetune(world, model=world / "bert", output_dir="teacher_new")),
        step("prediction", "task_distill", train(world, pred_distill=True, output_dir="new", **stage)),
        step("again", "task_distill", train(world, pred_distill=True, output_dir="new2", seed=7, **stage)),
        step("broken", "task_distill", train(world, "CoLA", "cola", output_dir="new3")),
        step("done", "task_distill", train(world, "CoLA", "cola", output_dir="new4"), "done"),
        step("eval", "task_distill", command_line({
            "do_eval": True, "do_predict": True, "student_model": world / "student_mrpc", "task_name": "MRPC",
            "data_dir": world / "glue" / "MRPC", "max_seq_length": 24, "output_dir": "results/mrpc"})),
        step("from_nothing", "task_distill", train(
            world, "RTE", data_dir="none/RTE", teacher_model="no_teacher", student_model="no_student",
            output_dir="new5", num_train_epochs=50, aug_train=True, fit_per_layer=True)),
        step("refused", "task_distill", train(world, no_such_flag=True)),
        step("fetched", "download_glue", ["--tasks", "RTE"])]
    (world / "results").mkdir()
    (world / "narrow").mkdir()
    BertConfig(**{**STUDENT, "hidden_size": 4, "num_hidden_layers": 1}).to_json_file(world / "narrow" / "config.json")
    write_lines(world / "glove.txt", [f"{word} {number} 1.5" for number, word in enumerate(WORDS)])
    error, printed = "", []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world)
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr(made_up, "VECTORS", 100)
        patch.setattr("builtins.print", lambda *words, **_: printed.append(" ".join(map(str, words))))
        for name, size in (("MOST_STEPS", 4), ("FEWEST_INSTANCES", 16), ("MOST_ROWS", 10), ("TEXT_BYTES_EACH", 5000)):
            patch.setattr(rehearsal, name, size)
        before = contents(world)
        try:
            rehearse(works_of(given, replace(ENGLISH, text=20_000, config=SMALL)))
        except InputError as failure:
            error = str(failure)
    told = json.loads((world / "results" / "rehearsal.json").read_text())
    return world, before, told, error, "\n".join(printed)


def test_nothing_stays_but_the_figures(rehearsed):
    world, before, _, _, _ = rehearsed
    after = contents(world)
    assert after.pop("results/rehearsal.json") and after == before
    assert names(world / "results") == ["rehearsal.json"]


def test_the_table_has_the_figures_of_each_step(rehearsed):
    _, _, told, _, printed = rehearsed
    assert list(told["steps"]) == ["pregenerate", "general", "general_both", "both", "augment", "teacher",
                                   "prediction", "again", "broken", "eval", "from_nothing", "refused"]
    rows = {line.split()[0]: line for line in printed.splitlines()}
    for name, facts in told["steps"].items():
        assert name in rows
        if name in ("broken", "refused"):
            continue
        assert 0 < facts["hours"] < 20 and 0.01 < facts["memory_gb"] < 10 and 0 < facts["disk_gb"] < 1, name
        assert (facts["seconds_per_step"] is not None) == (facts["steps"] > 0)
        assert f"{facts['hours']:.4g}" in rows[name]
    assert told["machine"]["cores"] >= 1
    assert "not rehearsed: fetched" in printed


def test_what_was_made_up_is_said(rehearsed):
    _, _, told, _, printed = rehearsed
    found = {name: facts.get("made_up") for name, facts in told["steps"].items()}
    assert found["pregenerate"] == ["text"]
    assert not any(found[name] for name in ("general", "augment", "teacher", "prediction", "again", "eval"))
    assert (found["general_both"], found["both"]) == ([], ["two"])
    assert found["from_nothing"] == ["no_teacher", "no_student", "RTE/train_aug.tsv", "RTE/dev.tsv"]
    assert "made-up input: no_teacher, no_student" in printed
    guess = next(line for line in printed.splitlines() if line.startswith("assumed: as many rows"))
    assert "none/RTE/dev.tsv" in guess and "CoLA" not in guess


def test_equal_work_is_rehearsed_once(rehearsed):
    _, _, told, _, printed = rehearsed
    first, again = told["steps"]["prediction"], told["steps"]["again"]
    assert again["like"] == "prediction" and again["seconds_per_step"] == first["seconds_per_step"]
    assert "as prediction" in printed


def test_a_failing_step_is_named_and_the_others_go_on(rehearsed):
    _, _, told, error, printed = rehearsed
    assert error == "failed: broken refused"
    assert "teacher_cola/pytorch_model.bin" in told["steps"]["broken"]["failure"]
    assert "--no_such_flag" in told["steps"]["refused"]["failure"]
    assert printed.count("FAILED: ") == 2 and "Traceback" not in printed


@pytest.mark.parametrize("is_there", [True, False])
def test_a_rehearsal_of_squad(tiny, is_there, monkeypatch, capsys):
    """Teacher, augmentation, both stages and scores, on files that are there; without them two of these."""
    monkeypatch.chdir(tiny)
    if is_there:
        (tiny / "new").mkdir()
        Inputs(tiny / "new", tiny / "bert").task(tiny, get_task("squad2"), tiny / "nothing", 60, 20, False, SMALL)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(made_up, "VECTORS", 100)
    for name, size in (("MOST_STEPS", 3), ("MOST_ROWS", 10), ("FEWEST_ROWS", 10)):
        monkeypatch.setattr(rehearsal, name, size)
    lengths = {"max_seq_length": 40, "doc_stride": 16, "max_query_length": 12}
    shared = {"task_name": "squad2", "data_dir": "glue/SQuAD2", **lengths}
    stage = {**shared, "teacher_model": "teacher", "train_batch_size": 4, "num_train_epochs": 2}
    given = [
        step("teacher", "finetune_teacher", command_line({
            "tasks": "squad2", "glue_dir": "glue", "model": "bert", "output_dir": "teacher", "train_batch_size": 4,
            **lengths})),
        step("augment", "data_augmentation", command_line({
            "pretrained_bert_model": "bert", "glove_embs": "no.txt", "glue_dir": "glue", "task_name": "squad2",
            "N": 2})),
        step("intermediate", "task_distill", command_line({
            **stage, "student_model": "general", "output_dir": "tmp", "aug_train": True})),
        step("prediction", "task_distill", command_line({
            **stage, "student_model": "tmp", "output_dir": "student", "pred_distill": True})),
        step("eval", "task_distill", command_line({
            **shared, "student_model": "student", "output_dir": "out", "do_eval": True, "save_predictions": True}))]
    before = contents(tiny)
    works = works_of(given)
    assert [work.refused for work in works] == [""] * 5
    rehearse(works if is_there else works[::2][:2])
    told = json.loads(Path("results/rehearsal.json").read_text())["steps"]
    assert {name for name, facts in told.items() if facts.get("failure")} == set() and "FAILED" not in \
        capsys.readouterr().out
    assert all(facts["hours"] > 0 for facts in told.values()) and len(told) == (5 if is_there else 2)
    invented = {name: set(facts["made_up"]) for name, facts in told.items()}
    assert ("SQuAD2/train-v2.0.json" in invented["teacher"]) == (not is_there)
    assert ("SQuAD2/train_aug.jsonl" in invented["intermediate"]) == (not is_there)
    assert ("train_aug.jsonl" in invented["intermediate"]) == is_there and "teacher" in invented["intermediate"]
    after = contents(tiny)
    assert after.pop("results/rehearsal.json") and after == before


def test_a_rehearsal_of_chinese(tmp_path, monkeypatch, capsys):
    """The corpus, augmentation without vectors, and both kinds of distillation, where nothing is there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name, size in (("MOST_STEPS", 3), ("MOST_ROWS", 10), ("FEWEST_ROWS", 20), ("TEXT_BYTES_EACH", 5000)):
        monkeypatch.setattr(rehearsal, name, size)
    monkeypatch.setattr(rehearsal, "FEWEST_INSTANCES", 16)
    BertConfig(**STUDENT).to_json_file("config.json")
    bert = "models/bert-base-chinese"
    given = [
        step("bert", "get_bert_models", ["--models", "bert-base-chinese"]),
        step("glue", "download_glue", ["--tasks", "TNEWS", "--data_dir", "data"]),
        step("text", "prepare_data", ["--language", "chinese", "--input_dir", ".", "--output_file", "text"]),
        step("pregenerate", "pregenerate_training_data", command_line({
            "train_corpus": "text", "bert_model": bert, "output_dir": "json_new", "max_seq_len": 16, "arrays": True})),
        step("general", "general_distill", command_line({
            "pregenerated_data": "json_new", "teacher_model": bert, "student_model": ".", "output_dir": "general",
            "max_seq_length": 16, "train_batch_size": 4})),
        step("augment", "data_augmentation", command_line({
            "pretrained_bert_model": bert, "glue_dir": "data", "task_name": "TNEWS", "N": 2})),
        step("intermediate", "task_distill", command_line({
            "teacher_model": bert, "student_model": "general", "data_dir": "data/TNEWS", "task_name": "TNEWS",
            "train_batch_size": 4, "num_train_epochs": 2, "max_seq_length": 32, "aug_train": True,
            "output_dir": "tmp"}))]
    before = contents(tmp_path)
    rehearse(works_of(given, replace(CHINESE, config=replace(SMALL, vocab_size=3000), text=20_000)))
    told = json.loads(Path("results/rehearsal.json").read_text())["steps"]
    assert "FAILED" not in capsys.readouterr().out
    assert list(told) == ["pregenerate", "general", "augment", "intermediate"]
    assert all(facts["hours"] > 0 for facts in told.values())
    assert told["pregenerate"]["made_up"] == ["text", "vocabulary"]
    assert set(told["augment"]["made_up"]) == {"TNEWS/train.tsv", "bert-base-chinese"}
    after = contents(tmp_path)
    assert after.pop("results/rehearsal.json") and after == before


# --- commands and their ends

def test_a_step_has_the_threads_that_the_run_gives_it(tmp_path, monkeypatch):
    """reproduce.sh: the cores over the steps of its stage that run side by side."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(rehearsal, "available_cores", lambda: 8)
    works = [Work(Step(name, "open", ("x",))) for name in ("general_4l", "general_4l", "general_6l", "fix",
                                                           "full/seed_1/eval_4l_rte", "full/seed_2/eval_4l_rte",
                                                           "eval_6l_rte")]
    for jobs, threads in ((1, {None}), (2, {4, None})):
        assert {rehearsal.Rehearsal(works, tmp_path, jobs).threads(work) for work in works} == threads
    many = rehearsal.Rehearsal(works, tmp_path, 20)
    assert [many.threads(work) for work in works] == [4, 4, 4, None, 2, 2, 2]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert many.threads(works[0]) is None
    assert run_command(["-c", "import os; raise SystemExit(os.environ['OMP_NUM_THREADS'] != '5')"], threads=5)

def test_the_last_words_of_a_command_are_its_failure(tmp_path):
    program = write_lines(tmp_path / "it.py", ["import sys", "print('x.py: error: no such file')", "print('bye')",
                                               "sys.exit(2)"])
    with pytest.raises(rehearsal.RehearsalFailed, match="^no such file$"):
        run_command([str(program)])
    with pytest.raises(rehearsal.RehearsalFailed, match="want of memory"):
        run_command(["-c", "import os; os.kill(os.getpid(), 9)"])


def test_a_mark_is_timed_and_memory_is_that_of_the_command():
    """Asked in a process of its own: Linux counts in the command's peak what the process was that started it."""
    command = "import time; time.sleep(.2); print('estimate: x', flush=True); x = b'x' * 10**9; time.sleep(.3)"
    asks = subprocess.run([sys.executable, "-c", f"""if 1:
        from transformer.planning.rehearsal import run_command
        print(*run_command(["-c", {command!r}], "estimate:"))"""], cwd=ROOT, capture_output=True, text=True, check=True)
    wall, memory_gb, marked = map(float, asks.stdout.split())
    assert 0.2 < marked < wall - 0.1
    assert 1 < memory_gb < 1.1


def test_a_stopped_rehearsal_leaves_no_folder_and_no_process(tmp_path):
    program = write_lines(tmp_path / "it.py", [
        "from pathlib import Path", "from transformer.planning.rehearsal import run_command, _temporary_folder",
        "with _temporary_folder(Path('results')) as folder:",
        "    (folder / 'file').touch()",
        "    run_command(['-c', 'import os, time; open(\"pid\", \"w\").write(str(os.getpid())); time.sleep(60)'])"])
    for number in (signal.SIGTERM, signal.SIGINT):
        with subprocess.Popen([sys.executable, program], cwd=tmp_path, stderr=subprocess.PIPE,
                              env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
            pid = tmp_path / "pid"
            while not (pid.is_file() and pid.read_text()):
                time.sleep(0.05)
            assert len(list((tmp_path / "results").iterdir())) == 1
            process.send_signal(number)
            process.communicate(timeout=30)
        assert names(tmp_path / "results") == []
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid.read_text()), 0)
        pid.unlink()


def test_the_script_hands_its_steps_over(tmp_path):
    """reproduce.sh --rehearse where all is refused: no flag reaches a script that is not known to it."""
    environment = {**os.environ, "GENERAL_FLAGS": "--no_such_flag"}
    (tmp_path / "results" / "steps").mkdir(parents=True)
    listed = subprocess.run([ROOT / "reproduce.sh", "--list"], cwd=tmp_path, text=True, capture_output=True).stdout
    (tmp_path / "results" / "steps" / "settings").write_text("paper\n")
    for name in listed.split():
        if not name.startswith("general_"):
            (tmp_path / "results" / "steps" / f"{name}.seconds").write_text("1\n")
    done = subprocess.run([ROOT / "reproduce.sh", "--rehearse"], cwd=tmp_path, text=True, capture_output=True,
                          env={**environment, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"})
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip() == "reproduce.sh: error: failed: general_4l+6l"
    assert done.stdout.count("FAILED: unrecognized arguments: --no_such_flag") == 1
    assert names(tmp_path / "results") == ["rehearsal.json", "steps"]
