"""reproduce.sh --plan: examples and steps by hand, operations and memory as torch counts them, what is missing."""
from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from general_distill import learned, taught
from tests.conftest import ROOT, SIZES, STUDENT, TEACHER, command_line, general, train, write_lines
from transformer.config import BertConfig
from transformer.distillation import compared, transformer_losses
from transformer.files import InputError
from transformer.modeling import BertModel, TinyBertForPreTraining, TinyBertForSequenceClassification
from transformer.planning import costs, passage_files, plan, rehearsal, steps
from transformer.planning.costs import H100, RTX_4090, Device, price
from transformer.planning.languages import BERT_BASE, CHINESE, ENGLISH, count_words
from transformer.planning.steps import Step, Work, read_steps, work_of, works_of
from transformer.planning.table_files import TableFiles
from transformer.tasks.table import get_task
from transformer.training.processes import freeze, mixed

STUDENTS = {name: BertConfig.from_json_file(ROOT / f"tinybert_{name}_config" / "config.json") for name in ("4l", "6l")}
CPU = Device("slow", "cpu", 8e9, False, lambda precision: 1e9)


def step(script: str, *argv: object, name: str = "it", state: str = "open") -> Step:
    return Step(name, state, (str(ROOT / f"{script}.py"), *map(str, argv)))


# --- what the steps do

def test_the_commands_come_as_they_were_written():
    words = "glove open 0 bert done 2 a b|c d general begun 1 x".replace("|", "\n").split(" ")
    words[7:9] = [words[7] + " " + words[8]]  # a word with a space and a newline in it
    assert words[6:8] == ["a", "b\nc d"]
    stream = "".join(word + "\0" for word in words).encode()
    for broken in (b"", stream, stream[:9]):
        with pytest.raises(InputError, match="broke off"):
            read_steps(io.BytesIO(broken))
    assert read_steps(io.BytesIO(b"END\0")) == []
    assert read_steps(io.BytesIO(stream + b"END\0")) == [
        Step("glove", "open", ()), Step("bert", "done", ("a", "b\nc d")), Step("general", "begun", ("x",))]


def test_general_distillation_by_hand(tiny):
    """Two files of 20 instances, three epochs in batches of 8: 2 steps each, logs after steps 4 and 6."""
    work = work_of(step("general_distill", *general(tiny, num_train_epochs=3, gradient_accumulation_steps=2,
                                                    eval_step=4)))
    assert (work.kind, work.counts, work.steps, work.micro_batch) == ("general", [20, 20, 20], 6, 4)
    assert (work.length, work.evaluations, work.unread) == (32, 0, 40)
    assert (work.logs, work.saves) == (2, 2)  # each with a step_N_pytorch_model.bin
    assert (work.student.num_hidden_layers, work.teacher.num_hidden_layers) == (2, 4)
    assert not work.missing and not work.assumed and not work.refused


def test_students_that_are_trained_together(tiny):
    """Each has sizes, saves and a folder of its own, by which the next step finds it."""
    BertConfig(**{**STUDENT, "hidden_size": 4, "vocab_size": 7}).to_json_file(tiny / "narrow.json")
    (tiny / "narrow").mkdir()
    (tiny / "narrow.json").rename(tiny / "narrow" / "config.json")
    both = "--student_model", tiny / "config", tiny / "narrow", "--output_dir", tiny / "wide_one", tiny / "narrow_one"
    distilled = step("general_distill", *general(tiny, eval_step=2), *both, name="general")
    task = step("task_distill", *train(tiny), "--student_model", tiny / "narrow_one", tiny / "wide_one",
                "--output_dir", tiny / "narrow_two", tiny / "wide_two", name="intermediate")
    answers = step("task_distill", *train(tiny, pred_distill=True, student_model=tiny / "narrow_two"))
    works = works_of([distilled, task, answers])
    assert [[config.hidden_size for config in work.students] for work in works] == [[8, 4], [4, 8], [4]]
    assert works[0].student is works[0].students[0] and works[0].students[1].vocab_size == works[0].teacher.vocab_size
    assert works[0].outputs == [str(tiny / "wide_one"), str(tiny / "narrow_one")]
    assert (works[0].logs, works[0].saves, works[1].saves) == (2, 4, 2)
    assert not any(work.missing or work.refused for work in works)


def test_instances_as_arrays_are_not_read_again(tiny):
    """Those that are there, and those that a step will write."""
    argv = general(tiny)
    assert work_of(step("general_distill", *argv)).unread == 40
    made = step("pregenerate_training_data", "--train_corpus", "text", "--bert_model", tiny / "bert", "--output_dir",
                tiny / "json", "--epochs_to_generate", 2, name="pregenerate")
    for flags, unread in (((), 40), (("--arrays",), 0)):
        command = replace(made, argv=(*made.argv, *flags))
        assert works_of([command, step("general_distill", *argv)])[1].unread == unread
    for epoch in (0, 1):
        (tiny / "json" / f"epoch_{epoch}.json").unlink()
        (tiny / "json" / f"epoch_{epoch}.instances").mkdir()
    work = work_of(step("general_distill", *argv))
    assert (work.counts, work.unread) == ([20, 20], 0)


def test_how_often_a_stage_is_scored_follows_from_its_counts(tiny, monkeypatch):
    """--eval_step that is not given: 50 of the intermediate stage; of the prediction stage by the script's own rule,
    with words in place of wordpieces. 24 rows, in train.tsv and dev.tsv, of 12 words: 18.36 wordpieces each."""
    asked = []
    monkeypatch.setattr(steps, "scoring_interval", lambda *counts: asked.append(counts) or 7)
    assert work_of(step("task_distill", *train(tiny, num_train_epochs=40))).logs == math.ceil(120 / 50) and not asked
    work = work_of(step("task_distill", *train(tiny, num_train_epochs=40, pred_distill=True)))
    assert asked == [(120, round(8 * 18.36), round(24 * 18.36))]
    assert work.logs == work.evaluations == math.ceil(120 / 7)


def test_the_presets_of_the_scripts_hold(tiny):
    """The batch of general distillation and what task distillation takes for CoLA are the scripts' own."""
    write_lines(tiny / "json" / "epoch_0_metrics.json", ['{"num_training_examples": 600, "max_seq_len": 32}'])
    write_lines(tiny / "json" / "epoch_1_metrics.json", ['{"num_training_examples": 512, "max_seq_len": 32}'])
    command = step("general_distill", *general(tiny, train_batch_size=None, num_train_epochs=2))
    assert work_of(command).steps == 600 // 256 + 512 // 256
    made = step("pregenerate_training_data", "--train_corpus", "text", "--bert_model", tiny / "bert", "--output_dir",
                tiny / "json", "--epochs_to_generate", 3, "--max_seq_len", 64)
    assert work_of(made).counts == [600, 512, 64_000_000]  # those of an earlier try, and twice as many half as long
    command = step("task_distill", *train(tiny, "CoLA", "cola", max_seq_length=None, num_train_epochs=None))
    work = work_of(command)
    assert (work.length, len(work.counts), work.steps) == (64, 50, 50 * (24 // 8))


def test_task_distillation_by_hand(tiny):
    """24 rows, 48 of them augmented, in batches of 8: 6 steps an epoch."""
    work = work_of(step("task_distill", *train(tiny, aug_train=True, num_train_epochs=2, eval_step=5)))
    assert (work.kind, work.counts, work.steps, work.logs, work.evaluations) == ("intermediate", [48, 48], 12, 3, 0)
    assert work.saves == 1  # at the end; before that, with the states
    assert (work.length, work.dev_examples) == (24, 24)
    work = work_of(step("task_distill", *train(tiny, num_train_epochs=2, eval_step=5, pred_distill=True)))
    assert (work.kind, work.counts, work.steps, work.evaluations, work.saves) == ("prediction", [24, 24], 6, 2, 2)
    assert work.length == pytest.approx(2 * 6 * 1.28 + 3)  # all rows have twice six words, [CLS] and two [SEP]
    record = {"rows_out": 40}  # what data augmentation says of its file counts
    (tiny / "glue" / "MRPC" / "train_aug.json").write_text(json.dumps(record))
    assert work_of(step("task_distill", *train(tiny, aug_train=True))).counts == [40]


def test_the_teacher_is_asked_once(tiny):
    """Of the same examples, whatever the student; with labels not at all, by the published code at every step."""
    def answers(state: str = "open", **flags: object) -> Step:
        return step("task_distill", *train(tiny, pred_distill=True, **flags), state=state)

    other = tiny / "glue" / "other"
    shutil.copytree(tiny / "glue" / "MRPC", other / "MRPC")
    works = works_of([step("task_distill", *train(tiny)), answers(), answers(output_dir=tiny / "again", seed=2),
                      answers(aug_train=True), answers(data_dir=other), answers(cache_dir=tiny / "kept")])
    assert [work.asked for work in works] == [0, 24, 0, 48, 24, 24] and not any(work.refused for work in works)
    assert [work.asked for work in works_of([answers("done"), answers()])] == [24, 0]
    for flag in ({"hard_labels": True}, {"preset": "code"}):
        assert [work.asked for work in works_of([answers(**flag), answers()])] == [0, 24]
    first, again = (price(work, CPU) for work in works[1:3])
    assert first.seconds - again.seconds == pytest.approx(
        24 * costs.forward_flops(works[1].teacher, works[1].length) / 0.7e9)


def test_a_prediction_stage_is_scored_as_often_as_it_pays_for(tiny):
    """Ten times the 24 rows to score, as long as those in batches of 8: 90 of 180 steps pay for it once."""
    dev = tiny / "glue" / "MRPC" / "dev.tsv"
    header, *rows = dev.read_text().splitlines()
    write_lines(dev, [header, *rows * 10])
    work = work_of(step("task_distill", *train(tiny, num_train_epochs=60, pred_distill=True)))
    assert (work.steps, work.dev_examples, work.args.eval_step, work.evaluations) == (180, 240, 100, 2)


def test_teacher_and_scores_by_hand(tiny):
    work = work_of(step("finetune_teacher", "--tasks", "MNLI", "--glue_dir", tiny / "glue", "--model", tiny / "bert",
                        "--models_dir", tiny, "--train_batch_size", 8))
    assert (work.kind, work.counts, work.steps, work.evaluations) == ("teacher", [24] * 3, 9, 4)
    assert work.outputs == [str(tiny / "final_mnli_teacher")] and work.dev_examples == 2 * 24
    work = work_of(step("task_distill", "--do_eval", "--student_model", tiny / "student_mnli", "--task_name", "MNLI",
                        "--data_dir", tiny / "glue", "--output_dir", tiny / "out"))
    assert (work.kind, work.examples) == ("evaluation", 48)


def test_what_earlier_steps_make_is_there(tmp_path, monkeypatch):
    """In an empty folder sizes come from the steps before, rows from GLUE; the same steps, done, leave them missing."""
    monkeypatch.chdir(tmp_path)
    student = BertConfig(**{**STUDENT, "hidden_size": 24, "num_attention_heads": 12})
    student.to_json_file("config.json")
    commands = [
        step("download_glue", "--tasks", "MRPC", "--data_dir", "glue", name="glue"),
        step("get_bert_models", "--models", "bert-base-uncased", "--output_dir", "models", name="bert"),
        step("pregenerate_training_data", "--train_corpus", "text", "--bert_model", "models/bert-base-uncased",
             "--output_dir", "json", "--epochs_to_generate", 2, name="pregenerate"),
        step("general_distill", *general(Path("models"), pregenerated_data="json", student_model=".",
                                         teacher_model="models/bert-base-uncased", max_seq_length=128), name="general"),
        step("data_augmentation", "--pretrained_bert_model", "models/bert-base-uncased", "--glove_embs", "vectors",
             "--glue_dir", "glue", "--task_name", "MRPC", "--N", 3, name="augment"),
        step("finetune_teacher", "--tasks", "MRPC", "--glue_dir", "glue", "--models_dir", "models", name="teacher"),
        step("task_distill", *train(Path(), data_dir="glue/MRPC", student_model="models/out", aug_train=True,
                                    teacher_model="models/final_mrpc_teacher"), name="intermediate")]
    works = works_of(commands)
    assert {work.step.name: work.missing for work in works if work.missing} == \
        {"pregenerate": ["text"], "augment": ["vectors"]}
    *_, distilled, augment, teacher, task = works
    assert distilled.student == replace(student, vocab_size=30_522) and distilled.teacher == BERT_BASE
    assert distilled.counts == [32_000_000] * 2 and any("Wikipedia" in text for text in distilled.assumed)
    assert (augment.counts, teacher.counts) == ([3668], [3668] * 3)
    assert task.student.hidden_size == 24 and task.teacher.hidden_size == 768
    assert task.counts == [3668 * (1 + 2 * 3)] and task.dev_examples == 408

    augmented = works_of([replace(command, state="done" if command.name == "augment" else "open")
                          for command in commands])[-1]
    assert augmented.counts == [3668 * (1 + 2 * 20)]  # the folder is to be fetched, what is in it was there once

    BertConfig(**STUDENT).to_json_file("config.json")
    refused, = [work.refused for work in works_of(commands) if work.kind == "general"]
    assert refused.startswith("the student has 2 attention heads, the teacher 12")

    done = works_of([replace(command, state="done") for command in commands[:-1]] + commands[-1:])[-1]
    assert {"models/out/config.json", "models/final_mrpc_teacher/config.json", "glue/MRPC/train_aug.tsv"} <= \
        set(done.missing)


def test_mnli_comes_with_its_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    BertConfig(**STUDENT).to_json_file("config.json")
    glue, scores = works_of([step("download_glue", "--tasks", "MNLI", "--data_dir", "glue"),
                             step("task_distill", "--do_predict", "--student_model", ".", "--task_name", "MNLI",
                                  "--data_dir", "glue/MNLI", "--output_dir", "out")])
    assert not glue.refused and not scores.missing and scores.examples == 9796 + 9847 + 1104
    without = works_of([replace(glue.step, state="done"), scores.step])[1]  # no diagnostic set is no hindrance
    assert {Path(path).name for path in without.missing} == {"test_matched.tsv", "test_mismatched.tsv"}


def test_what_several_steps_lack_is_told_once_at_the_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    works = works_of([step("general_distill", *general(Path("x")), name=name) for name in ("first", "second")])
    assert set(works[1].missing) == {"x/json", "x/bert/config.json", "x/config/config.json"}
    monkeypatch.setattr(plan, "this_device", lambda no_cuda=False: CPU)
    found = plan.lacks(plan.rows_of(works), [], 1)
    assert [(name, what.split(":")[0]) for name, what in found] == [
        ("first", "x/json"), ("first", "x/bert/config.json"), ("first", "x/config/config.json")]


def test_a_command_that_the_script_refuses_is_told(tiny):
    for flags, words in ((train(tiny, temperature=2), "prediction stage"), (train(tiny, train_batch_size=25), "24"),
                         (train(tiny, gradient_accumulation_steps=3), "no multiple")):
        assert words in work_of(step("task_distill", *flags)).refused
    assert "refused: " in dict(plan.lacks(plan.rows_of([work_of(step("task_distill", *train(tiny, wrong=1)))]), [],
                                          1))["it"]


def test_models_that_a_script_would_refuse_are_told(tiny):
    """A masked LM that is an ELECTRA; instances, there or to be made, with another vocabulary than the teacher's."""
    def augmented(model: str) -> str:
        return work_of(step("data_augmentation", "--pretrained_bert_model", tiny / model, "--glue_dir", tiny / "glue",
                            "--task_name", "MRPC")).refused

    (tiny / "electra").mkdir()
    BertConfig(**{**TEACHER, "extra": {"model_type": "electra"}}).to_json_file(tiny / "electra" / "config.json")
    assert "ELECTRA" in augmented("electra") and not augmented("bert")

    shutil.copytree(tiny / "bert", tiny / "other")
    with open(tiny / "other" / "vocab.txt", "a", encoding="utf-8") as handle:
        handle.write("another\n")
    made, other = (step("pregenerate_training_data", "--train_corpus", "text", "--bert_model", tiny / name,
                        "--output_dir", tiny / "json") for name in ("bert", "other"))
    distilled = step("general_distill", *general(tiny))
    assert [works_of([first, distilled])[1].refused for first in (made, replace(other, state="done"))] == ["", ""]
    assert "one model" in works_of([other, distilled])[1].refused
    metrics = {"num_training_examples": 20, "max_seq_len": 32, "vocab_sha256": "0" * 64}
    (tiny / "json" / "epoch_1_metrics.json").write_text(json.dumps(metrics))
    assert "epoch_1.json was generated with another vocabulary" in work_of(distilled).refused


# --- SQuAD

@pytest.fixture
def squad(tmp_path, monkeypatch):
    """An empty working directory with write(file, words of each passage, questions of each), of ten words each."""
    monkeypatch.chdir(tmp_path)
    BertConfig(**STUDENT).to_json_file("config.json")
    folder = tmp_path / "glue" / "SQuAD1"
    folder.mkdir(parents=True)

    def write(name: str, *passages: tuple[int, int]) -> Path:
        numbers = itertools.count()
        paragraphs = [{"context": " ".join(["word"] * words), "qas": [
            {"id": f"q{next(numbers)}", "question": " ".join(["what"] * 10),
             "answers": [{"text": "word", "answer_start": 0}]} for _ in range(questions)]}
            for words, questions in passages]
        if name.endswith(".jsonl"):
            return write_lines(folder / name, ['{"version": "augmented"}', *map(json.dumps, paragraphs)])
        (folder / name).write_text(json.dumps({"version": "1.1", "data": [{"title": "x", "paragraphs": paragraphs}]}))
        return folder / name
    return write


def on_squad(task: str = "SQuAD1", **flags: object) -> Step:
    return step("task_distill", *command_line({
        "teacher_model": ".", "student_model": ".", "data_dir": f"glue/{task}", "task_name": task, "output_dir": "out",
        **flags}))


def test_windows_by_hand(squad):
    """500 words are 640 wordpieces, ten are 13 and with [CLS] and two [SEP] 16: windows of 368 from 0, 128, 256, 384;
    100 words are one of 128. A second window from 128 on where the stride is no more than the room."""
    squad("train-v1.1.json", (500, 2), (100, 1))
    squad("dev-v1.1.json", (100, 3))
    work = work_of(on_squad(train_batch_size=3, num_train_epochs=2, max_seq_length=384))
    assert (work.kind, work.counts, work.steps, work.dev_examples) == ("intermediate", [9, 9], 6, 3)
    assert not work.assumed and not work.missing and not work.refused
    lengths = work.files.lengths(Path("glue/SQuAD1/train-v1.1.json"))
    assert sorted(lengths) == sorted([384, 384, 384, 640 - 384 + 16] * 2 + [128 + 16])
    squad("train_aug.jsonl", (500, 1), *[(100, 2)] * 3)
    work = work_of(on_squad(aug_train=True, train_batch_size=3, max_seq_length=384))
    assert work.counts == [4 + 6] * 20  # epochs of the paper
    for flags, length in ((("hard_labels",), 384), ((), (2 * (3 * 384 + 272) + 144) / 9)):  # labels see padding
        flags = {"pred_distill": True, "train_batch_size": 1, "max_seq_length": 384, **dict.fromkeys(flags, True)}
        work = work_of(on_squad(**flags))
        assert (work.counts, work.length) == ([9] * 3, pytest.approx(length))
    scored = work_of(on_squad(do_eval=True, save_predictions=True, teacher_model=None, max_seq_length=384))
    assert (scored.kind, scored.counts, scored.length) == ("evaluation", [3], 144)


def test_a_long_augmented_file_is_judged_by_its_beginning(squad, monkeypatch):
    path = squad("train_aug.jsonl", *[(100, 2)] * 400)
    monkeypatch.setattr(passage_files, "_COUNTED_BYTES", 20_000)
    work = work_of(on_squad(aug_train=True, max_seq_length=384))
    assert path.stat().st_size > 10 * 20_000 and work.counts[0] == pytest.approx(800, rel=0.05)
    lines = path.read_text().splitlines()
    for line, words in (("{", "not valid JSON"), ('{"qas": []}', "'context'")):
        write_lines(path.with_name("other.jsonl"), [lines[0], line]).replace(path)
        assert all(word in work_of(on_squad(aug_train=True)).refused for word in ("train_aug.jsonl, line 2", words))


def test_squad_that_is_not_there_yet(squad):
    """The official numbers, which N multiplies; windows as long as those of the official dev set."""
    step_of = {"augment": step("data_augmentation", "--pretrained_bert_model", ".", "--glove_embs", "config.json",
                               "--glue_dir", "glue", "--task_name", "squad1", "--N", 5),
               "teacher": step("finetune_teacher", "--tasks", "SQuAD2", "--glue_dir", "glue", "--model", ".")}
    squad("train-v1.1.json", (100, 3), (50, 1))
    augment, distilled = works_of([step_of["augment"], on_squad(aug_train=True, max_seq_length=384)])
    assert (augment.counts, augment.words) == ([2], 75)
    assert distilled.counts[0] == 4 * 6 and any("most rows" in text for text in distilled.assumed)
    teacher, augment, distilled, answers = works_of([
        step_of["teacher"], *(replace(one, argv=tuple(word.replace("SQuAD1", "SQuAD2").replace("squad1", "squad2")
                                                      for word in one.argv)) for one in (
            step_of["augment"], on_squad(aug_train=True), on_squad(pred_distill=True, train_batch_size=1)))])
    assert teacher.counts[0] == answers.counts[0] == 131_944 and teacher.dev_examples == 12_232
    assert (augment.counts, augment.words) == ([19_035], 120) and distilled.counts[0] == 131_944 * 6
    assert any("unverified" in text for text in teacher.assumed)
    assert answers.length == pytest.approx(178, rel=0.02)  # mean of the dev set, each by itself
    lengths = passage_files.usual_windows(20_000, np.random.default_rng(1)).clip(max=384)
    assert np.median(lengths) == pytest.approx(164, rel=0.03)
    assert (lengths < 275).mean() == pytest.approx(0.90, abs=0.03) and (lengths == 384).mean() < 0.04


def test_what_squad_takes():
    """Kept answers of the teacher, 2 x 4 bytes a wordpiece, and the augmented file with its arrays, by hand."""
    task = get_task("squad1")
    answers = replace(work("prediction", STUDENTS["4l"], 16, 384), task=task, counts=[88_641], saves=1)
    asking = replace(answers, asked=88_641)
    assert price(asking, CPU).disk - price(answers, CPU).disk == 88_641 * 178 * 8  # 126 MB
    args = Namespace(N=20, M=15, batch_tokens=4096, precision="fp32")
    cost = price(Work(step("data_augmentation"), "augment", args, task=task, counts=[18_896], words=120, length=155,
                      teacher=BERT_BASE), CPU)
    # 21 passages of 720 bytes, 4.6 questions of 120, 4.7 windows of 178 wordpieces of 2 bytes
    assert cost.disk == pytest.approx(18_896 * 21 * (720 + 4.636 * 120 + 4.691 * 356), rel=1e-3)
    masked = 18_896 * 60  # "about 1.1 million"
    each = costs.forward_flops(BERT_BASE, 153 + 153 + 3) + 2 * 768 * (768 + 30_522)
    assert cost.seconds == pytest.approx(masked * each / 0.7e9)


# --- Chinese

ROWS = {"train.tsv": ["0\t花呗不能用了\t我的花呗", "1\t你好\tok 吗？"], "dev.tsv": ["1\t好\t好"]}


@pytest.fixture
def afqmc(tmp_path, monkeypatch):
    """A working directory with two rows to train on and one to score; its folder."""
    monkeypatch.chdir(tmp_path)
    BertConfig(**STUDENT).to_json_file("config.json")
    for name, rows in ROWS.items():
        write_lines(tmp_path / "clue" / "AFQMC" / name, ["label\tsentence1\tsentence2", *rows])
    return tmp_path / "clue" / "AFQMC"


def in_chinese(*given: Step) -> list[Work]:
    return works_of(given, CHINESE)


AUGMENT = step("data_augmentation", "--pretrained_bert_model", ".", "--glue_dir", "clue", "--task_name", "AFQMC", "--N",
               3, name="augment")


def on_clue(task: str = "AFQMC", **flags: object) -> Step:
    return step("task_distill", *command_line({
        "teacher_model": ".", "student_model": ".", "data_dir": f"clue/{task}", "task_name": task, "output_dir": "out",
        "train_batch_size": 2, **flags}))


def test_characters_are_counted():
    """Each is a word; so is whatever else stands between two of them, or between spaces."""
    texts = {"花呗不能用了": 6, "ok 吗？": 3, "看films，3.5元": 3, "two words": 2, "": 0, "㐀𠀀": 2, "かな 漢": 2}
    assert {text: count_words(text) for text in texts} == texts


def test_chinese_rows_by_hand(afqmc):
    """10 and 5 words in the two rows, of which 65% are masked; 7 rows of each; longest 10 * 1.02 + 3 wordpieces."""
    augment, distilled, answers = in_chinese(AUGMENT, on_clue(aug_train=True, num_train_epochs=2), on_clue(
        pred_distill=True, num_train_epochs=2))
    assert not any(work.refused or work.missing for work in (augment, distilled, answers))
    assert (augment.counts, augment.words, augment.length) == ([2], 7.5, pytest.approx(7.5 / 2 * 1.02 + 2))
    assert (distilled.counts, distilled.steps, distilled.dev_examples) == ([2 * 7] * 2, 14, 1)
    assert (answers.counts, answers.steps, answers.length) == ([2, 2], 2, pytest.approx(10 * 1.02 + 3))
    args = Namespace(N=3, M=15, batch_tokens=4096, precision="fp32")
    cost = price(replace(augment, args=args), CPU)
    config = augment.teacher
    each = costs.forward_flops(config, 2 * 7.5 / 2 * 1.02 + 3) + 2 * config.hidden_size * (
        config.hidden_size + config.vocab_size)
    assert cost.seconds == pytest.approx(0.65 * 15 * each / 0.7e9)
    row = 7.5 * 3 + 2 * 2 * augment.length + 2 * 4  # text, two arrays of wordpieces, the teacher's logits
    assert cost.disk == pytest.approx(14 * row)


def test_chinese_tasks_that_are_not_there_yet(tmp_path, monkeypatch):
    """The rows that CLUE tells of, and lengths of each task; the vocabulary of bert-base-chinese, without a guess."""
    monkeypatch.chdir(tmp_path)
    given = [step("download_glue", "--tasks", "clue", "--data_dir", "clue", name="glue"),
             step("get_bert_models", "--models", "bert-base-chinese", "distilled_tinybert_4l_zh", name="bert"),
             replace(AUGMENT, argv=tuple({".": "models/bert-base-chinese", "AFQMC": "IFLYTEK"}.get(word, word)
                                         for word in AUGMENT.argv)),
             on_clue("IFLYTEK", aug_train=True, teacher_model="models/bert-base-chinese",
                     student_model="models/distilled_tinybert_4l_zh"),
             on_clue("CMNLI", do_eval=True, do_predict=True, teacher_model=None, train_batch_size=None,
                     student_model="models/distilled_tinybert_4l_zh")]
    glue, bert, augment, distilled, scored = works = in_chinese(*given)
    assert [(work.refused, work.missing) for work in works] == [("", [])] * 5
    assert (augment.counts, augment.words) == ([12_133], 290)
    assert distilled.counts[0] == 12_133 * 4 and distilled.dev_examples == 2599
    assert distilled.teacher == BertConfig(21_128) and distilled.student == replace(STUDENTS["4l"], vocab_size=21_128)
    assert scored.counts == [12_241 + 13_880 + 514]
    assert not any("BERT-base" in text for work in (augment, distilled) for text in work.assumed)
    archives = 5_123_575 + 6_505_938 + 31_404_066 + 12_062 + 281_384 + 3_234_594 + 4_359_754  # AFQMC's is not known
    assert price(glue, CPU).disk == pytest.approx(2.5 * archives)


def test_a_chinese_wikipedia(tmp_path, monkeypatch):
    """From memory where it is not there; of a thousandth of it a thousandth; the splitter's own rate."""
    monkeypatch.chdir(tmp_path)
    given = [Step("wiki", "open", ("-c", "fetch", "address", "data/zhwiki.xml.bz2")),
             Step("extract", "open", ("-m", "wikiextractor.WikiExtractor", "data/zhwiki.xml.bz2", "--json", "-o", "a")),
             step("prepare_data", "--language", "chinese", "--input_dir", "a", "--output_file", "text", name="text"),
             step("pregenerate_training_data", "--train_corpus", "text", "--bert_model", "v", "--output_dir", "json",
                  "--epochs_to_generate", 2, "--arrays", name="pregenerate")]
    for share in (1, 1e-3):
        if share < 1:
            (tmp_path / "data").mkdir()
            with open("data/zhwiki.xml.bz2", "wb") as handle:
                handle.truncate(3_000_000)
        works = in_chinese(*given)
        assert [price(work, CPU).disk for work in works[1:3]] == pytest.approx([4.5e9 * share, 2e9 * share])
        assert price(works[2], CPU).seconds == pytest.approx(share * 2e9 / 10.9e6)
        assert works[3].counts == [round(6_700_000 * share)] * 2
        assert any("from memory" in text for text in works[3].assumed)
        assert price(works[3], CPU).seconds == pytest.approx(share * 2e9 * (1 / 36e6 + 2 / 14e6))
        assert price(works[3], CPU).disk == pytest.approx(share * (2 * 6_700_000 * 250 + 0.86 * 2e9))
    assert price(works[0], CPU).disk == 3e9


# --- what they take

def counted(model: torch.nn.Module, batch: tuple, **arguments: object) -> int:
    with FlopCounterMode(display=False) as counter:
        model(*batch, **arguments)
    return counter.get_total_flops()


@pytest.mark.parametrize(("sizes", "fit"), [(TEACHER, None), (STUDENT, 16)])
def test_operations_are_those_that_torch_counts(sizes, fit):
    config = BertConfig(**sizes)
    model = TinyBertForPreTraining(config, fit_size=fit).eval() if fit else BertModel(config, add_pooler=False)
    batch = torch.zeros(3, 24, dtype=torch.int64), torch.zeros(3, 24, dtype=torch.int64), torch.ones(
        3, 24, dtype=torch.int64)
    # separate products, all of which are counted; without gradients attention would run fused beside them
    all_scores = {"attention_scores": range(config.num_hidden_layers)}
    total = counted(model, batch, **({} if fit else {"pool": False}), **all_scores)
    assert 3 * costs.forward_flops(config, 24, fit or 0) == total


@pytest.mark.parametrize("fit_per_layer", [False, True])
@pytest.mark.parametrize("student", STUDENTS)
def test_parameters_are_those_of_the_model(student, fit_per_layer):
    config = STUDENTS[student]
    with torch.device("meta"):
        model = TinyBertForSequenceClassification(config, 2, 768, fit_per_layer)
    count = sum(weight.numel() for weight in model.parameters())
    head = sum(weight.numel() for weight in model.classifier.parameters())
    assert costs.parameter_count(config, 768, fit_per_layer) == count - head
    asked = {kind: work(kind, config, 16, 128, fit_per_layer=fit_per_layer) for kind in ("intermediate", "prediction")}
    assert costs.student_weights(asked["intermediate"]) == [count - head]
    assert costs.student_weights(asked["prediction"]) == [costs.parameter_count(config)]


def work(kind: str, students: BertConfig | tuple[BertConfig, ...], batch: int, length: int,
         teacher: BertConfig | None = BERT_BASE, **flags):
    args = Namespace(**{"precision": "bf16", "max_seq_length": length, "train_batch_size": batch, "preset": "paper",
                        "gradient_accumulation_steps": 1, "eval_batch_size": 32, "keep_checkpoints": 2,
                        "hard_labels": False, "attention_loss": "scores", "fit_per_layer": False,
                        "layer_mapping": "uniform", "without": []} | flags)
    return Work(step("general_distill"), kind, args, counts=[1000, 1000], steps=2000 // batch, length=length,
                micro_batch=batch, students=students if isinstance(students, tuple) else (students,), teacher=teacher)


@pytest.fixture(scope="module")
def benchmark():
    """A script in benchmarks/, by its name."""
    sys.path.append(str(ROOT / "benchmarks"))
    yield importlib.import_module
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def counter(benchmark):
    return benchmark("bench_gpu")


def test_the_counter_counts_what_is_there(counter):
    """By hand: weight [8, 6] and input [4, 6]; held for the backward pass are the input in 16 bits, the product, what
    dropout leaves of it, and its mask, beside them for a while the weight in 16 bits and a layer norm in 32."""
    with torch.device("meta"), counter.Gpu(), counter.Counted() as counted:
        weight, batch = torch.nn.Parameter(torch.empty(8, 6)), torch.empty(4, 6)
        assert counted.now == counted.peak == 4 * (48 + 24)
        with counter.Gpu(torch.bfloat16):
            product = torch.nn.functional.linear(batch, weight)
            left = torch.nn.functional.dropout(product, 0.1, True)
            norm = torch.nn.functional.layer_norm(product, (8,))
        assert (product.dtype, left.dtype, norm.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
        launches = {name: count for name, count in counted.launches.items() if count}
        assert launches == {"_to_copy": 3, "mm": 1, "native_dropout": 1, "native_layer_norm": 1}
        del norm
        assert counted.now == 4 * (48 + 24) + 2 * 24 + (2 + 2 + 1) * 32 < counted.peak - 2 * 48 - 4 * 32
        del product, left
        assert counted.now == 4 * (48 + 24)
    assert counter.kernels("_foreach_add_", [[torch.ones(3)] * 200, [torch.ones(3)] * 200]) == 4  # 64 at once
    assert counter.kernels("_foreach_mul_", [[torch.ones(3)] * 200, [torch.ones(())] * 200]) == 200
    assert counter.kernels("view", [torch.ones(3)]) == 0


@pytest.mark.parametrize(("kind", "students", "precision", "batch", "length", "loss"), [
    ("general", "4l", "bf16", 256, 128, "scores"), ("general", "6l", "fp32", 256, 128, "scores"),
    ("general", "4l 6l", "bf16", 64, 512, "scores"), ("general", "4l 6l", "fp32", 64, 384, "gram"),
    ("prediction", "4l", "bf16", 32, 64, "auto"), ("prediction", "6l", "fp32", 32, 64, "auto")])
def test_a_gpu_holds_and_is_given_what_is_estimated(counter, kind, students, precision, batch, length, loss):
    """Whole steps of the real sizes, on tensors without data."""
    names = students.split()
    with counter.counter_of("prediction" if kind == "prediction" else "distillation", names, precision,
                            loss == "gram") as count:
        counted = count(batch, length)
    wanted = work(kind, tuple(map(STUDENTS.get, names)), batch, length, precision=precision, attention_loss=loss)
    assert costs.training_memory(wanted, RTX_4090) == pytest.approx(counted.peak, rel=0.07)
    assert costs.launches(wanted, precision == "bf16") == pytest.approx(counted.launches.total(), rel=0.07)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("name", ["4l", "6l"])
def test_a_gpu_is_given_what_is_estimated_to_score_a_batch(counter, name, precision):
    model = counter.TinyBertForSequenceClassification
    with mock.patch("torch.autocast", lambda *_, **__: contextlib.nullcontext()), torch.device("meta"), \
            counter.Gpu(), counter.Counted() as counted, torch.no_grad():
        student, ids = model(STUDENTS[name], 2).eval(), torch.zeros(32, 64, dtype=torch.int64)
        with counter.Gpu(counter.PRECISIONS[precision]):
            for _ in range(2):  # the first makes autocast's copies of the weights
                counted.launches.clear()
                student(ids, torch.zeros_like(ids), torch.ones_like(ids), attention_scores=())[0].float()
    assert costs.scoring_launches(STUDENTS[name], precision == "bf16") == \
        pytest.approx(counted.launches.total(), rel=0.07)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("kind", ["general", "prediction"])
def test_a_step_holds_what_is_estimated(kind, precision):
    """Real passes of small models on the CPU: what the graph holds is within the estimate and most of it."""
    batch, length = 3, 40
    sizes = {**SIZES, "vocab_size": 100, "max_position_embeddings": 64, "num_attention_heads": 12}
    teacher = BertConfig(**{**sizes, "hidden_size": 192, "num_hidden_layers": 6, "intermediate_size": 768})
    config = BertConfig(**{**sizes, "hidden_size": 96, "num_hidden_layers": 3, "intermediate_size": 384})
    model, asked = TinyBertForSequenceClassification(config, 2), BertModel(teacher, add_pooler=False).eval()
    if kind == "general":
        model = TinyBertForPreTraining(config, fit_size=192)
    freeze(asked, precision)
    model.train()
    ids = torch.randint(0, 100, (batch, length))
    inputs = ids, torch.zeros_like(ids), torch.ones_like(ids)
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    held = {}
    wanted = work(kind, config, batch, length, teacher, precision=precision)

    def hold(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and not (tensor.dim() == 2 and tensor.shape[0] != batch * length):
            held[storage.data_ptr()] = tensor
        return tensor

    wanted = work(kind, config, batch, length, teacher, precision=precision)
    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
        if kind == "general":
            pairs, wanted.args.attention_loss = compared(config, teacher, "uniform", []), "scores"
            outputs = learned(model, inputs, pairs, wanted.args), taught(asked, inputs, [pairs], wanted.args)
            loss = sum(transformer_losses(*outputs, pairs, inputs[2]))
        else:
            with mixed(precision, torch.device("cpu")):
                loss = model(*inputs, attention_scores=())[0].float().sum()
    estimate = batch * costs.activations(wanted, config, costs.KEPT[precision == "bf16"], on_gpu=False)
    assert loss.requires_grad
    found = sum(tensor.untyped_storage().nbytes() for tensor in held.values())
    assert 0.6 * estimate < found < 1.1 * estimate


def test_hours_follow_from_operations_launches_scores_and_saves():
    """The student 4l, 2000 sequences of 128 in 125 steps."""
    general_work = work("general", STUDENTS["4l"], 16, 128)
    flops = 2000 * costs.distillation_flops([STUDENTS["4l"]], BERT_BASE, 128)
    cost = price(general_work, CPU)
    assert cost.seconds == pytest.approx(flops / 0.7e9)
    assert cost.hours == pytest.approx(cost.seconds / 3600)
    assert price(general_work, H100).seconds == pytest.approx(125 * costs.launches(general_work, True) * 1e-5)
    scored = replace(general_work, kind="prediction", task=get_task("rte"), evaluations=5, dev_examples=100, logs=5,
                     saves=5, asked=1000)
    cost = price(scored, CPU)
    forward = [costs.forward_flops(config, 128) for config in (STUDENTS["4l"], BERT_BASE)]
    assert cost.seconds == pytest.approx((2000 * 3 * forward[0] + 1000 * forward[1]) / 0.7e9)
    assert cost.evaluation == pytest.approx((500 * forward[0] + 100 * forward[1]) / 0.7e9)
    # training scores in its own precision, in 16 bits; its host launches a batch for 32 x 128 wordpieces
    scored_more = replace(scored, dev_examples=100_000)
    flops = 500_000 * forward[0] + 100_000 * forward[1]
    assert price(scored_more, RTX_4090).evaluation == pytest.approx(flops / (0.4 * 165e12))
    launched = 5 * costs.scoring_launches(STUDENTS["4l"], True) * 1e-5
    assert price(scored_more, H100).evaluation == pytest.approx(3125 * launched)
    assert price(replace(scored_more, length=64), H100).evaluation == pytest.approx(1563 * launched)
    only_scored = replace(scored_more, kind="evaluation", steps=0)  # in 32 bits
    assert price(only_scored, H100).evaluation == pytest.approx(1000 * forward[0] / (0.4 * 67e12))
    weights = costs.parameter_count(STUDENTS["4l"])
    states = 5 * 3 * weights * 4 / 5e8  # weights and two moments
    assert cost.saving == pytest.approx((1 + 2 * math.log(5)) * weights * 4 / 5e8 + states)  # a model for each new best
    assert (cost.disk, cost.passing) == (4 * weights, 2 * 12 * weights)


@pytest.mark.parametrize(("flags", "layers", "layers_of_teacher"), [
    ({}, 4, 12), ({"without": ["attn"]}, 4, 12), ({"without": ["embd", "hidn"]}, 4, 12),
    ({"layer_mapping": "top"}, 4, 12), ({"layer_mapping": "bottom"}, 4, 4), ({"without": ["attn", "hidn"]}, 0, 0)])
def test_layers_that_no_loss_reads_cost_nothing(flags, layers, layers_of_teacher):
    """Table 4 of the paper has the student's layers learn the teacher's first or last ones."""
    counted = work("general", STUDENTS["4l"], 16, 128, **flags)
    layer = 12 * 768 * 768 + 2 * 128 * 768, 4 * 312 * 312 + 2 * 312 * 1200 + 2 * 128 * 312  # of BERT-base, of 4l
    products = layers_of_teacher * layer[0] + 3 * (layers * layer[1] + (layers + 1) * 312 * 768)
    assert costs.training_flops(counted) == 2000 * 2 * 128 * products
    assert costs.launches(counted, False) == 14 * layers_of_teacher + 87 * layers + 35


def test_two_students_share_a_pass_of_the_teacher():
    """They cost less than each alone, hold little more than the larger one, and are saved both."""
    apart = [work("general", STUDENTS[name], 256, 128) for name in ("4l", "6l")]
    both = work("general", (STUDENTS["4l"], STUDENTS["6l"]), 256, 128)
    once = 2000 // 256 * 256 * costs.forward_flops(BERT_BASE, 128)
    assert costs.training_flops(both) == sum(map(costs.training_flops, apart)) - once
    small, large, held = (costs.training_memory(one, RTX_4090) for one in (*apart, both))
    assert max(small, large) < held < 1.1 * large
    weights = sum(costs.parameter_count(STUDENTS[name], 768) for name in ("4l", "6l"))
    cost = price(replace(both, logs=1, saves=2), CPU)
    assert cost.saving == pytest.approx((weights + 4 * weights) * 4 / 5e8)  # of each a checkpoint; model and state
    assert (cost.disk, cost.passing) == (3 * 4 * weights, 2 * 12 * weights)


def test_accumulation_and_fewer_bits_need_less_memory():
    whole = work("general", STUDENTS["6l"], 256, 128)
    assert costs.training_memory(replace(whole, micro_batch=64), RTX_4090) < costs.training_memory(whole, RTX_4090)
    full = work("general", STUDENTS["6l"], 256, 128, precision="fp32")
    assert costs.training_memory(whole, RTX_4090) < costs.training_memory(full, RTX_4090)


# --- reproduce.sh --plan

@pytest.fixture
def planned(tmp_path):
    """Call reproduce.sh --plan in an empty folder: (status, table as {step: cells}, lines of output, stderr)."""
    folder = tmp_path / "project"
    folder.mkdir()

    def call(*argv: str, **environment: str):
        path = f"{call.python}:{os.environ['PATH']}"
        run = subprocess.run(["bash", ROOT / "reproduce.sh", "--plan", *argv], cwd=folder, capture_output=True,
                             text=True, env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **environment})
        lines = run.stdout.splitlines()
        return run.returncode, {line.split()[0]: line.split()[1:] for line in lines if line}, lines, run.stderr
    call.folder, call.python = folder, Path(sys.executable).parent
    return call


@pytest.fixture(scope="module")
def loaded():
    """A folder with a `python` for reproduce.sh --plan: a process does it that has loaded what it needs."""
    server = [sys.executable, str(ROOT / "tests" / "miniworld" / "prefork.py")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        client = shlex.join([server[0], "-S", "-E", server[1], f"{folder}/socket",
                             str(ROOT / "transformer" / "planning" / "__main__.py")])
        (Path(folder) / "python").write_text('#!/bin/bash\n[[ "$1 $2" == "-m transformer.planning" ]] || exit 3\n'
                                             f'exec {client} "${{@:3}}"\n')
        (Path(folder) / "python").chmod(0o755)
        with subprocess.Popen([*server, "socket"], cwd=folder, env=environment) as process:
            while not Path(folder, "socket").exists():
                assert process.poll() is None
                time.sleep(0.05)
            yield Path(folder)
            process.kill()


@pytest.fixture
def planned_soon(planned, loaded):
    """The same without a start of python."""
    planned.python = loaded
    return planned


def test_plan_of_an_empty_folder_creates_nothing(planned):
    status, rows, lines, errors = planned("--tasks", "RTE", "--students", "4l", GENERAL_FLAGS="--num_train_epochs 1",
                                          CONFIG_4L="nowhere", INTERMEDIATE_FLAGS_RTE="--num_train_epochs 2")
    assert list(planned.folder.iterdir()) == []
    assert rows["general_4l"][:3] == ["open", "32,000,000", "125,000"]  # 32 million / 256
    assert rows["intermediate_4l_rte"][:3] == ["open", "102,090", "6,380"]  # 2490 x 41 / 32, twice
    assert rows["eval_4l_rte"][:2] == ["open", "3,277"]  # dev and test
    assert any(line.startswith("missing: general_4l: nowhere/config.json: it is not there") for line in lines)
    assert status == 2 and len(errors.splitlines()) == 1
    first = next(line for line in lines if line.startswith("missing: ") and "GPU" not in line).split(":")[1].strip()
    assert errors.startswith(f"reproduce.sh: error: the run would stop at {first}:")
    assert any(line.startswith("assumed: as many rows as the official files have: ") for line in lines)


def test_plan_of_chinese(planned_soon):
    """Rows of CLUE; CLUEWSC2020 is not augmented; nothing is missing."""
    status, rows, lines, errors = planned_soon("--language", "chinese", "--tasks", "TNEWS,wsc", "--students", "4l",
                                               "--published", AUGMENT_FLAGS="--N 2",
                                               TASK_FLAGS_TNEWS="--eval_batch_size 8")
    assert status == 0 and not errors, (lines, errors)
    assert rows["augment_tnews"][:2] == ["open", "53,360"] and "augment_cluewsc2020" not in rows
    assert rows["intermediate_4l_tnews"][:3] == ["open", "160,080", "100,040"]  # 53360 x 3 / 32, 20 times
    assert rows["intermediate_4l_cluewsc2020"][:3] == ["open", "1,244", "760"]
    assert rows["eval_4l_tnews"][:2] == ["open", "20,000"] and list(planned_soon.folder.iterdir()) == []
    assert any(line.startswith("assumed: 22 words in a text: ") for line in lines)


@pytest.mark.parametrize("teacher", ["small bert", None])
def test_plan_of_the_laptop_s_size(teacher, planned_soon, tmp_path):
    """The sizes of the BERT come from its name or its folder; its heads are the students'; nothing is missing."""
    argv = []
    if teacher:
        (tmp_path / teacher).mkdir()
        BertConfig(40, 144, 6, 12, 48).to_json_file(tmp_path / teacher / "config.json")
        argv = ["--teacher", str(tmp_path / teacher)]
    status, rows, lines, errors = planned_soon("--size", "laptop", "--tasks", "SST-2,MRPC", "--articles", "40", *argv)
    assert status == 0 and not errors, (lines, errors)
    instances = round(40 * 25_000 / 15e9 * 32e6 * 128 / 64)
    assert rows["general_2l+3l"][:3] == ["open", f"{instances:,}", f"{instances // 32 * 3:,}"]
    assert rows["teacher_sst2"][:3] == ["open", "67,349", f"{67_349 // 32 * 2:,}"]
    assert rows["intermediate_2l+3l_sst2"][:3] == ["open", "134,698", f"{134_698 // 32 // 2:,}"]
    assert rows["intermediate_2l+3l_mrpc"][:3] == ["open", "40,348", f"{40_348 // 32:,}"]
    assert not any("sizes of BERT" in line or "as long as it can be" in line for line in lines)
    assert list(planned_soon.folder.iterdir()) == []


def test_sizes_of_a_small_bert_and_of_its_students(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "bert_uncased_L-6_H-256_A-4"
    students = [str(ROOT / "docs" / "laptop" / f"tinybert_{size}_config") for size in ("2l", "3l")]
    bert, general = works_of([
        step("get_bert_models", "--models", f"google/{name}", name="bert"),
        step("general_distill", "--pregenerated_data", "data", "--teacher_model", f"models/{name}", "--student_model",
             *students, "--output_dir", "a", "b", name="general_2l+3l")])
    assert general.teacher == BertConfig(30_522, 256, 6, 4, 1024) and not general.assumed
    assert [(config.num_hidden_layers, config.num_attention_heads, config.vocab_size)
            for config in general.students] == [(2, 4, 30_522), (3, 4, 30_522)]


def test_the_first_articles_of_a_dump(tmp_path, monkeypatch):
    """25,000 bytes of text each, of whatever is there the share that is text; the vectors' archive by its name."""
    monkeypatch.chdir(tmp_path)
    commands = [Step("wiki", "open", ("-m", "transformer.fetching.wikipedia", "address", "--articles", "8",
                                      "--output_file", "first.xml")),
                Step("extract", "open", ("-m", "wikiextractor.WikiExtractor", "first.xml", "--json", "-o", "articles")),
                step("prepare_data", "--input_dir", "articles", "--output_file", "text", name="sentences")]
    assert [work.text_bytes for work in works_of(commands)] == [200_000] * 3
    assert price(works_of(commands)[0], CPU).disk == pytest.approx(200_000 / 0.43)
    with open("first.xml", "wb") as handle:
        handle.truncate(1_000_000)
    assert works_of([replace(commands[0], state="done"), *commands[1:]])[2].text_bytes == pytest.approx(430_000)
    disks = [[price(work_of(Step("glove", "open", ("-c", "code", "from", f"data/{name}"))), CPU).disk for name in names]
             for names in (("glove.840B.300d.zip", "glove.840B.300d.txt"), ("glove.6B.zip", "glove.6B.50d.txt"),
                           ("own.zip", "own.vec"))]
    assert disks == [[2.2e9, 5.8e9], [0.86e9, 0.17e9], [2.2e9, 5.8e9]]


@pytest.mark.parametrize(("task", "mean", "padded"), [("sst2", 13.4, 40.6), ("cola", 11.3, 22.9), ("mrpc", 53.2, 79.9)])
def test_rows_that_are_not_there_are_as_long_as_the_official_ones(task, mean, padded, tmp_path):
    """As BERT's tokenizer counts them in the official train files, alone and padded to the longest of 32."""
    files = TableFiles(get_task(task), ENGLISH, Namespace(max_seq_length=128))
    assert files.padded_length(tmp_path / "none", 1) == pytest.approx(mean, rel=0.15)
    assert files.padded_length(tmp_path / "none", 32) == pytest.approx(padded, rel=0.2)


def test_plan_where_steps_are_done(planned_soon, template):
    """What is done takes nothing; what a done step should have left and is not there is missing; --from does it."""
    steps = planned_soon.folder / "results" / "steps"
    write_lines(steps / "settings", ["paper"])
    done = subprocess.run(["bash", ROOT / "reproduce.sh", "--list", "--tasks", "MRPC", "--students", "4l"],
                          cwd=planned_soon.folder, capture_output=True, text=True, check=True).stdout.split()
    for name in done[:done.index("augment_mrpc")]:
        write_lines(steps / f"{name}.seconds", ["1"])
    write_lines(steps / "augment_mrpc.log", ["stopped"])
    data, models = planned_soon.folder / "data", planned_soon.folder / "models"
    shutil.copytree(template / "glue", data / "glue_data")
    write_lines(data / "glue_data" / "MRPC" / "test.tsv",
                ["index\t#1 ID\t#2 ID\t#1 String\t#2 String", "0\t1\t2\ta\tb"])
    for folder, source in (("bert-base-uncased", "bert"), ("final_mrpc_teacher", "teacher_mrpc"),
                           ("distilled_tinybert_4l", "general")):
        shutil.copytree(template / source, models / folder)
    before = sorted(planned_soon.folder.rglob("*"))
    flags = {"TASK_FLAGS_MRPC": "--max_seq_length 32", "INTERMEDIATE_FLAGS": "--train_batch_size 8",
             "PREDICTION_FLAGS": "--train_batch_size 8", "TEACHER_FLAGS": "--train_batch_size 8"}
    status, rows, lines, errors = planned_soon("--tasks", "MRPC", "--students", "4l", **flags)
    assert sorted(planned_soon.folder.rglob("*")) == before
    assert rows["general_4l"][0] == "done" and rows["augment_mrpc"][:2] == ["begun", "24"]
    assert rows["intermediate_4l_mrpc"][:3] == ["open", "984", "2,460"]  # 20 epochs of 984 / 8
    missing = [line for line in lines if line.startswith("missing: ") and "GPU" not in line]
    assert status == 2 and missing == [
        "missing: augment_mrpc: data/glove.840B.300d.txt: step glove is done, and it is gone: --from glove makes it "
        "again"], (lines, errors)

    (data / "glue_data" / "MRPC" / "train_aug.tsv").unlink()
    write_lines(steps / "augment_mrpc.seconds", ["1"])
    status, rows, lines, errors = planned_soon("--tasks", "MRPC", "--students", "4l", **flags)
    assert status == 2 and any("train_aug.tsv: step augment_mrpc is done, and it is gone" in line for line in lines)
    (steps / "augment_mrpc.seconds").unlink()
    write_lines(data / "glove.840B.300d.txt", ["the 1"])
    write_lines(planned_soon.folder / "results" / "rehearsal.json", ['{"machine": {"cores": 0, "gpus": []}}'])
    status, rows, lines, errors = planned_soon("--tasks", "MRPC", "--students", "4l", "--from", "teacher_mrpc", **flags)
    assert status == 0 and not errors, (lines, errors)
    assert [rows[name][0] for name in ("fix", "teacher_mrpc", "general_4l", "augment_mrpc", "eval_4l_mrpc")] == \
        ["done", "open", "done", "begun", "open"]


def test_plan_of_both_students(planned_soon):
    """In one row, of which that is left which is not done yet, as in a folder of an earlier version."""
    def missing() -> tuple[list[str], list[str]]:
        _, rows, lines, _ = planned_soon("--tasks", "RTE", CONFIG_4L="small", CONFIG_6L="large")
        found = [line.split(": ")[2] for line in lines if line.startswith("missing: general")]
        return rows["general_4l+6l"], [what for what in found if what != "memory"]  # of two as large as BERT-base

    row, found = missing()
    assert row[:3] == ["open", "32,000,000", "375,000"] and found == ["small/config.json", "large/config.json"]
    write_lines(planned_soon.folder / "results" / "steps" / "settings", ["paper"])
    write_lines(planned_soon.folder / "results" / "steps" / "general_4l.seconds", ["1"])
    row, found = missing()
    assert row[:3] == ["open", "32,000,000", "375,000"] and found == ["large/config.json"]
    write_lines(planned_soon.folder / "results" / "steps" / "general_6l.log", ["begun"])
    assert missing()[0][0] == "begun"
    write_lines(planned_soon.folder / "results" / "steps" / "general_6l.seconds", ["1"])
    row, found = missing()
    assert row[0] == "done" and not found


def test_a_rehearsal_of_this_machine_counts(tiny, monkeypatch, capsys):
    monkeypatch.chdir(tiny)
    monkeypatch.setattr(plan, "this_device", lambda no_cuda=False: CPU)
    monkeypatch.setattr(rehearsal, "available_cores", lambda: 3)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    command = step("task_distill", *train(tiny))
    entry = {"command": [*command.argv, "--resume"], "hours": 12.5, "memory_gb": 3.0, "gpu_gb": None}
    record = {"steps": {"it": entry}, "machine": {"cores": 3, "gpus": []}}
    (tiny / "results").mkdir()
    for change, hours, memory in (({}, 12.5, 3.0), ({"machine": {"cores": 4, "gpus": []}}, None, None),
                                  ({"steps": {"it": {**entry, "command": ["other.py"]}}}, None, None)):
        (tiny / "results" / "rehearsal.json").write_text(json.dumps(record | change))
        row, = plan.rows_of([work_of(command)], plan.rehearsed())
        assert row.measured == (hours is not None) == ("measured" in row.cells())
        if hours:
            assert (row.hours, row.memory / 1e9) == (hours, memory)
    assert "another machine" in capsys.readouterr().out
    for damaged in ({"machine": 3}, {**record, "steps": {"it": {"hours": 1}}}, {**record, "steps": [1]}):
        (tiny / "results" / "rehearsal.json").write_text(json.dumps(damaged))
        with pytest.raises(InputError, match="delete it, or rehearse again"):
            plan.rehearsed()


def test_lack_of_memory_and_disk_stops_the_plan(tiny, monkeypatch, capsys):
    monkeypatch.chdir(tiny)
    small = replace(CPU, name="a small one", memory=0.5e9)
    monkeypatch.setattr(plan, "this_device", lambda no_cuda=False: small)
    works = [work_of(step("task_distill", *train(tiny), name="first"))]
    with pytest.raises(InputError, match="stop at first"):
        plan.print_plan(works)
    assert "missing: first: memory: it takes about 0.6 GB and a small one has 0.5" in capsys.readouterr().out
    monkeypatch.setattr(plan, "this_device", lambda no_cuda=False: CPU)
    plan.print_plan(works)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(InputError, match="stop at first"):
        plan.print_plan(works)
    assert "GB of disk: make room" in capsys.readouterr().out


def test_steps_side_by_side_share_the_memory(tiny, monkeypatch):
    """Two of 0.6 GB do not fit in 1 GB, unless each has a GPU of its own."""
    monkeypatch.setattr(plan, "this_device", lambda no_cuda=False: replace(CPU, memory=1e9))
    rows = plan.rows_of(works_of([step("task_distill", *train(tiny), name=f"x_{number}") for number in range(3)]))
    for jobs, gpus, fits in ((1, 0, True), (2, 0, False), (2, 1, False), (2, 2, True), (3, 2, False)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        found = plan.lacks(rows, [], jobs)
        assert not found if fits else "2 such steps side by side take about 1.2 GB" in dict(found)["x_0"]


@pytest.mark.parametrize("flags", [(), ("--published",), ("--students", "4l"), ("--tasks", "RTE,MNLI,QQP")])
def test_four_steps_side_by_side_fit_into_the_memory_of_the_front_page(flags, benchmark, monkeypatch):
    """JOBS=4 on one GPU of 24 GB and of 80 GB; not both students of general distillation, which are trained apart."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)

    def lacking(gpu: Device, *more: str) -> list[str]:
        monkeypatch.setattr(plan, "this_device", lambda no_cuda=False: gpu)
        rows = plan.rows_of(list(benchmark("bench_train").planned(*flags, *more).values()))
        assert {row.works[0].kind for row in rows} >= {"teacher", "augment", "intermediate", "prediction"}
        return [what for _, what in plan.lacks(rows, [], 4) if what.startswith("memory")]

    assert not lacking(RTX_4090) and not lacking(H100)
    if not flags:
        assert "2 such steps side by side take about 26" in lacking(RTX_4090, "--apart")[0]


def test_instances_as_arrays_are_made_sooner():
    for arrays, rate in ((True, 22e6), (False, 16e6)):
        made = work_of(step("pregenerate_training_data", "--train_corpus", "text", "--bert_model", "bert",
                            "--output_dir", "json", "--epochs_to_generate", 3, *["--arrays"] * arrays))
        assert price(made, CPU).seconds == pytest.approx(15e9 / 22e6 + 3 * 15e9 / rate)


def test_a_dump_that_is_not_the_english_one(tmp_path, monkeypatch):
    """A thousandth of it: of the articles, of the sentences, also where the dump is gone and the articles are there."""
    monkeypatch.chdir(tmp_path)
    with open("wiki.bz2", "wb") as handle:
        handle.truncate(22_000_000)
    commands = [Step("extract", "open", ("-m", "wikiextractor.WikiExtractor", "wiki.bz2", "--json", "-o", "articles")),
                step("prepare_data", "--input_dir", "articles", "--output_file", "text", name="sentences")]
    extract, sentences = works_of(commands)
    assert price(extract, CPU).disk == 17e6 and price(sentences, CPU).disk == 15e6
    Path("articles").mkdir()
    with open("articles/wiki_00", "wb") as handle:
        handle.truncate(17_000_000)
    Path("wiki.bz2").unlink()
    sentences = works_of([replace(commands[0], state="done"), commands[1]])[1]
    assert price(sentences, CPU).disk == pytest.approx(15e6)


def test_a_reader_that_leaves_and_a_package_that_is_missing(tmp_path):
    command = [sys.executable, "-m", "transformer.planning", "--plan"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    reader, writer = os.pipe()
    os.close(reader)
    words = "".join(f"step_{number}\0open\0" + "0\0" for number in range(500)).encode() + b"END\0"
    with os.fdopen(writer, "wb") as gone:
        run = subprocess.run(command, input=words, stdout=gone, stderr=subprocess.PIPE, cwd=tmp_path, env=environment)
    assert run.stderr == b"" and run.returncode == -signal.SIGPIPE
    write_lines(tmp_path / "torch.py", ["raise ModuleNotFoundError('no', name='torch')"])
    run = subprocess.run(command, input="", capture_output=True, text=True, cwd=tmp_path,
                         env={**environment, "PYTHONPATH": f"{tmp_path}:{ROOT}"})
    assert run.returncode == 2 and "error: the package torch is not there" in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_a_gpu_is_asked_for_its_own_memory(tiny, monkeypatch, capsys):
    """38 GB for 64 sequences of 512 do not fit in the 24 of an RTX 4090; 16 at a time do."""
    monkeypatch.chdir(tiny)
    monkeypatch.setattr(plan, "this_device", lambda no_cuda=False: RTX_4090)
    BERT_BASE.to_json_file(tiny / "bert" / "config.json")
    STUDENTS["6l"].to_json_file(tiny / "config" / "config.json")
    (tiny / "json" / "epoch_0_metrics.json").write_text('{"num_training_examples": 6400, "max_seq_len": 512}')
    flags = {"max_seq_length": 512, "train_batch_size": 64, "num_train_epochs": 1, "no_cuda": None,
             "attention_loss": "scores"}
    with pytest.raises(InputError, match="stop at it"):
        plan.print_plan([work_of(step("general_distill", *general(tiny, **flags)))])
    out = capsys.readouterr().out
    assert "GPU GB" in out and "RTX 4090 has 24.0: raise --gradient_accumulation_steps" in out
    assert "missing: a GPU" not in out
    plan.print_plan([work_of(step("general_distill", *general(tiny, gradient_accumulation_steps=4, **flags)))])


def test_steps_side_by_side_share_the_hours_of_a_stage(monkeypatch):
    rows = [plan.Row(name, [Work(Step(name, state, ("x",)))], hours=hours) for name, state, hours in (
        ("general_4l", "done", 50.0), ("full/seed_1/prediction_4l_rte", "open", 4.0),
        ("prediction_6l_rte", "open", 2.0), ("prediction_6l_cola", "open", 2.0), ("eval_4l_rte", "open", 1.0),
        ("glove", "open", None))]
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for gpus, jobs, hours in ((1, 4, 9.0), (0, 2, 9.0), (2, 2, 5.0), (4, 2, 5.0), (4, 4, 5.0), (4, 1, 9.0)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        assert plan.hours_left(rows, jobs) == hours


def test_steps_share_the_cores_unless_each_has_threads_of_its_own(monkeypatch):
    rows = [plan.Row(f"teacher_{task}", [Work(Step(f"teacher_{task}", "open", ("x",)))], hours=2.0)
            for task in ("rte", "cola", "mrpc", "sst2")]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(plan, "available_cores", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert plan.hours_left(rows, 4) == 8.0
    for threads, jobs, hours in ((1, 4, 2.0), (1, 2, 4.0), (2, 4, 4.0), (4, 4, 8.0), (8, 4, 8.0)):
        monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert plan.hours_left(rows, jobs) == hours
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert plan.hours_left(rows, 4) == 4.0  # the GPUs count, not the threads
