"""SQuAD through finetune_teacher.py and task_distill.py: the whole chain, stops and processes, bad input."""
from __future__ import annotations

import functools
import importlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import (
    STUDENT,
    TEACHER,
    assert_equal_weights,
    command_line,
    contents,
    lines,
    run,
    torchrun,
    write_lines,
)

from transformer.checkpoint import load_tokenizer, save_model
from transformer.cli import run_script
from transformer.config import BertConfig
from transformer.data import arrays, windows
from transformer.files import read_json, write_json
from transformer.modeling import TinyBertForQuestionAnswering
from transformer.optimization import BertAdam
from transformer.reporting import curves
from transformer.tasks.labels import name_labels
from transformer.tasks.squad import read_passages
from transformer.tasks.table import get_task
from transformer.training import scoring, states
from transformer.training.record import RunRecord
from transformer.weights import read_weights, write_bin

LENGTHS = {"max_seq_length": 22, "doc_stride": 6, "max_query_length": 6}
ANIMALS = ("cat", "dog", "bird")


def squad_file(path: Path, name: str, seed: int, passages: int = 8, answers: bool = True) -> Path:
    """A SQuAD file: who of the animals sees, likes and hears another; of v2.0 one question in three has no answer."""
    draw = random.Random(seed)
    paragraphs = []
    for number in range(passages):
        facts = [(draw.choice(ANIMALS), verb, draw.choice(ANIMALS)) for verb in ("sees", "likes", "hears")]
        context = " ".join(f"the {who} {verb} the {draw.choice(('old', 'new'))} {whom}." for who, verb, whom in facts)
        questions = []
        for place, (who, verb, _) in enumerate(facts):
            entry = {"id": f"{path.stem}-{number}-{place}", "question": f"who {verb} the {facts[place][2]}"}
            start = context.index(f"{who} {verb}")
            nothing = name == "SQuAD2" and place == number % 3
            if answers:
                entry["answers"] = [] if nothing else [{"text": who, "answer_start": start}]
                entry |= {"is_impossible": nothing} if name == "SQuAD2" else {}
            questions.append(entry)
        paragraphs.append({"context": context, "qas": questions})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"version": "v2.0" if name == "SQuAD2" else "1.1",
                      "data": [{"title": "animals", "paragraphs": paragraphs}]})
    return path


@pytest.fixture(scope="module")
def animals(world) -> Path:
    """The template with glue/SQuAD1 and glue/SQuAD2, teachers and students for both."""
    torch.manual_seed(1)
    for name in ("SQuAD1", "SQuAD2"):
        task = get_task(name)
        squad_file(world / "glue" / name / task.train_file, name, 1, 16)
        squad_file(world / "glue" / name / task.dev_files[0], name, 2)
        for role, sizes in (("teacher", TEACHER), ("student", STUDENT)):
            config = BertConfig(**sizes)
            name_labels(config.extra, task)
            save_model(TinyBertForQuestionAnswering(config), world / f"{role}_{task.key}", world / "vocab.txt")
    return world


@pytest.fixture
def own(animals, tmp_path) -> Path:
    """A copy for one test."""
    return shutil.copytree(animals, tmp_path, dirs_exist_ok=True)


def distill(folder: Path, name: str = "squad1", **changes) -> list[str]:
    """Arguments of a task_distill run that would work, with changes."""
    flags = {"data_dir": folder / "glue", "task_name": name, "student_model": folder / "general",
             "teacher_model": folder / f"teacher_{name}", "output_dir": folder / "out", "train_batch_size": 8,
             "num_train_epochs": 1, "no_cuda": True, "skip_teacher_check": True, "learning_rate": 1e-3,
             **LENGTHS} | changes
    return [str(part) for part in command_line(flags)]


def evaluation(folder: Path, name: str = "squad1", **changes) -> list[str]:
    """Arguments of a run that scores, with changes."""
    flags = {"data_dir": folder / "glue", "task_name": name, "student_model": folder / f"student_{name}",
             "no_cuda": True, "output_dir": folder / "tmp", "do_eval": True, **LENGTHS} | changes
    return [str(part) for part in command_line(flags)]


@pytest.mark.parametrize("name", ["SQuAD1", "SQuAD2"])
def test_from_bert_to_answers(name, own, script):
    task = get_task(name)
    out = run(script, "finetune_teacher", command_line({
        "tasks": name, "glue_dir": own / "glue", "model": own / "bert", "output_dir": own / "teacher", "no_cuda": True,
        "num_train_epochs": 1, **LENGTHS}))
    assert "new span head" in out and "BertForQuestionAnswering gives the same logits" in out
    settings = read_json(own / "teacher" / "run.json")["settings"]
    assert (settings["learning_rate"], settings["train_batch_size"], settings["doc_stride"]) == (3e-5, 12, 6)
    run(script, "task_distill", distill(own, name, teacher_model=own / "teacher", output_dir=own / "between"))
    assert "qa_outputs.weight" in read_weights(own / "between")
    run(script, "task_distill", distill(own, name, teacher_model=own / "teacher", pred_distill=True, eval_step=2,
                                        student_model=own / "between"))
    kept = read_json(own / "out" / "run.json")["kept"]
    logged = lines(own / "out" / "metrics.jsonl")
    assert kept["f1"] == max(line["f1"] for line in logged)  # the checkpoint is chosen by F1
    assert not any(key in read_json(own / "out" / "config.json") for key in ("id2label", "label2id", "problem_type"))

    run(script, "task_distill", evaluation(own, name, student_model=own / "out", save_predictions=True))
    values = read_json(own / "out" / "eval_results.json")["values"]
    assert values == pytest.approx({key: kept[key] for key in values})
    found = read_json(own / "out" / "predictions.json")
    dev = own / "glue" / name / task.dev_files[0]
    ids = [question.id for passage in read_passages(dev, task.head.unanswerable) for question in passage.questions]
    assert list(found) == ids == list(read_json(own / "out" / "nbest_predictions.json"))
    odds = ["--na_prob_file", str(own / "out" / "null_odds.json")] if task.head.unanswerable else []
    assert (own / "out" / "null_odds.json").exists() == bool(odds)
    official = json.loads(run(script, "transformer.tasks.squad", [
        dev, own / "out" / "predictions.json", *odds, *(("--na_prob_thresh", "1e9") if odds else ())]))
    assert official == pytest.approx({key: value * (100 if key.endswith(("f1", "exact", "match")) else 1)
                                      for key, value in values.items()})

    asked = squad_file(own / "asked.json", name, 2, answers=False)
    run(script, "task_distill", evaluation(own, name, student_model=own / "out", do_eval=False, do_predict=True,
                                           predict_file=asked))
    answered = read_json(own / "tmp" / "predictions.json")
    assert list(answered.values()) == list(found.values())
    assert not list((own / "tmp").glob("*.tsv"))


def losses_of(out: Path) -> list[float]:
    return [line["cls_loss"] for line in lines(out / "metrics.jsonl")]


@pytest.mark.parametrize("flags", [{}, {"temperature": 2}, {"preset": "code"}, {"hard_labels": True}])
def test_the_prediction_stage_computes_what_it_says(flags, own, script):
    """One step's loss against a plain loop over all windows, each of them alone."""
    examples = windows.encode_windows(get_task("squad1"), own / "glue/SQuAD1/train-v1.1.json",
                                      load_tokenizer(own / "teacher_squad1"), *LENGTHS.values(), "train")
    for folder in ("teacher_squad1", "student_squad1"):
        config = read_json(own / folder / "config.json")
        write_json(own / folder / "config.json", config | {"hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0})
    run(script, "task_distill", distill(own, pred_distill=True, student_model=own / "student_squad1",
                                        train_batch_size=len(examples), eval_step=1, **flags))
    teacher, student = (TinyBertForQuestionAnswering.from_pretrained(own / folder).eval()
                        for folder in ("teacher_squad1", "student_squad1"))
    total = 0.0
    padded = bool(flags) and "temperature" not in flags
    for number in range(len(examples)):
        batch = examples.batch(np.array([number]), LENGTHS["max_seq_length"] if padded else None)
        with torch.no_grad():
            given, wanted = (model(*batch)[0][0].double().T for model in (student, teacher))
        temperature = flags.get("temperature", 1)
        for column in (0, 1):
            log_shares = given[column].div(temperature).log_softmax(0)
            if flags.get("hard_labels"):
                total -= log_shares[examples.labels[number, column]].item() / 2
            else:
                entropy = -(wanted[column].div(temperature).softmax(0) * log_shares).sum().item()
                total += entropy / (LENGTHS["max_seq_length"] if padded else 2)
    assert losses_of(own / "out") == [pytest.approx(total / len(examples), rel=1e-5)]


# --- stopped and gone on, several processes

def killed(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(number: int, function):
    """The function, but its call of that number kills the process."""
    calls = []

    @functools.wraps(function)
    def counted(*args, **kwargs):
        calls.append(1)
        return killed() if len(calls) == number else function(*args, **kwargs)
    return counted


def half_a_state(value, handle) -> None:
    handle.write(b"half")
    handle.flush()
    killed()


MOMENTS = {
    "while windows are made": lambda: setattr(arrays, "append_examples", at_call(3, arrays.append_examples)),
    "while the teacher is asked": lambda: setattr(scoring, "predict", at_call(2, scoring.predict)),
    "between two steps": lambda: setattr(BertAdam, "step", at_call(8, BertAdam.step)),
    "in a state": lambda: setattr(states, "write_pickle", half_a_state),
    "at the end": lambda: setattr(RunRecord, "finish", killed)}


def in_a_process(argv: list[str], log: Path, moment: str | None) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)
    curves.draw_curves = lambda folder: None  # it takes longer than the run
    scoring.encode_windows = functools.partial(windows.encode_windows, part_bytes=300)
    if moment:
        MOMENTS[moment]()
    sys.argv = ["task_distill.py"]
    sys.exit(run_script(lambda: importlib.import_module("task_distill").main(argv)))


def test_killed_at_any_moment_it_ends_with_the_same_weights(animals, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_squad_runs", "task_distill", "torch._dynamo", "scipy.stats"])

    def start(place: Path, moment: str | None, *flags: str) -> int:
        argv = distill(place, pred_distill=True, student_model=place / "student_squad1", eval_step=4, save_steps=2,
                       num_train_epochs=2)
        process = context.Process(target=in_a_process, args=([*argv, *flags], place / "log.txt", moment))
        process.start()
        process.join(60)
        assert process.exitcode is not None
        return process.exitcode

    def result(place: Path) -> tuple:
        files = contents(place / "out")
        return files["pytorch_model.bin"], files["eval_results.txt"]

    place = tmp_path / "whole"
    shutil.copytree(animals, place)
    assert start(place, None) == 0, (place / "log.txt").read_text()
    wanted = result(place)
    for number, moment in enumerate(MOMENTS):
        place = tmp_path / str(number)
        shutil.copytree(animals, place)
        assert start(place, moment) == -signal.SIGKILL, (moment, (place / "log.txt").read_text())
        assert start(place, None, "--resume") == 0, (moment, (place / "log.txt").read_text())
        assert result(place) == wanted, moment


def two_processes(tasks: str) -> None:
    for script, argv in json.loads(Path(tasks).read_text()):
        sys.argv = [f"{script}.py"]
        if status := run_script(lambda script=script, argv=argv: importlib.import_module(script).main(argv)):
            sys.exit(status)


def test_two_processes_train_what_one_does(own, script):
    for folder in ("general", "bert", "student_squad2"):
        config = read_json(own / folder / "config.json")  # dropout is drawn for each pass
        write_json(own / folder / "config.json", config | {"hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0})
    shutil.copytree(own, own / "two")

    def commands(place: Path) -> list[tuple[str, list[str]]]:
        flags = {"tasks": "squad2", "glue_dir": place / "glue", "model": place / "bert", "no_cuda": True,
                 "num_train_epochs": 1, "output_dir": place / "tuned", **LENGTHS}
        return [("finetune_teacher", [str(part) for part in command_line(flags)]),
                ("task_distill", distill(place, "squad2", output_dir=place / "between", learning_rate=1e-4)),
                ("task_distill", distill(place, "squad2", pred_distill=True, student_model=place / "student_squad2",
                                         learning_rate=1e-4)),
                ("task_distill", evaluation(place, "squad2", student_model=place / "out", save_predictions=True))]

    for name, argv in commands(own):
        run(script, name, argv)
    (own / "tasks.json").write_text(json.dumps(commands(own / "two")))
    done = torchrun(__file__, own / "tasks.json", directory=own)
    assert done.returncode == 0, done.stdout
    for folder in ("tuned", "between", "out"):
        for place in (own, own / "two"):  # a bias that is added to all positions alike moves by rounding alone
            state = read_weights(place / folder)
            state.pop("qa_outputs.bias")
            write_bin(place / folder / "pytorch_model.bin", state)
        assert_equal_weights(own / folder, own / "two" / folder, 1e-6)
    for file in ("predictions.json", "null_odds.json"):
        assert read_json(own / "out" / file) == pytest.approx(read_json(own / "two" / "out" / file), abs=1e-4)


@pytest.mark.parametrize("flag,value", [("doc_stride", 3), ("max_query_length", 2), ("max_answer_length", 1),
                                        ("n_best_size", 2)])
def test_each_flag_does_something(flag, value, own, script):
    """--doc_stride --max_query_length --max_answer_length --n_best_size, also in finetune_teacher.py."""
    seen = []
    for changes in ({}, {flag: value}):
        run(script, "task_distill", evaluation(own, save_predictions=True, **changes))
        listed = read_json(own / "student_squad1" / "nbest_predictions.json")
        tuned = own / f"tuned_{len(seen)}"
        run(script, "finetune_teacher", command_line({
            "tasks": "squad1", "glue_dir": own / "glue", "model": own / "bert", "no_cuda": True, "num_train_epochs": 1,
            "output_dir": tuned, **LENGTHS, **changes}))
        assert read_json(tuned / "run.json")["settings"].get(flag) == changes.get(flag, LENGTHS.get(
            flag, get_task("squad1").head.__dict__.get(flag)))
        seen.append(listed)
    assert seen[0] != seen[1]
    if flag == "max_answer_length":
        assert all(len(entry["text"].split()) <= 1 for entries in seen[1].values() for entry in entries)
    if flag == "n_best_size":
        assert {len(entries) for entries in seen[1].values()} <= {1, 2}


def test_the_threshold_decides_what_is_unanswerable(own, script):
    for threshold in (-1e9, 1e9):
        run(script, "task_distill", evaluation(own, "squad2", save_predictions=True,
                                               null_score_diff_threshold=threshold))
        answers = read_json(own / "student_squad2" / "predictions.json")
        assert {answer == "" for answer in answers.values()} == {threshold < 0}  # --null_score_diff_threshold


# --- augmented passages

def augmented(folder: Path, *first: object) -> Path:
    data = read_json(folder / "glue/SQuAD1/train-v1.1.json")["data"][0]["paragraphs"]
    passages = [{"context": passage["context"], "qas": [{"id": f"{entry['id']}#0", "question": entry["question"]}
                                                        for entry in passage["qas"]]} for passage in data]
    return write_lines(folder / "glue/SQuAD1/train_aug.jsonl", map(json.dumps, [*first, *passages, *passages]))


def test_the_intermediate_stage_learns_from_augmented_passages(own, script):
    augmented(own, {"version": "augmented"})
    plain = run(script, "task_distill", distill(own, output_dir=own / "plain"))
    out = run(script, "task_distill", distill(own, aug_train=True))
    counts = [int(text.split("intermediate stage: ")[1].split(" ")[0].replace(",", "")) for text in (plain, out)]
    assert counts[1] == 2 * counts[0]


def test_a_file_that_is_not_of_the_augmentation(own, refused):
    path = augmented(own)
    refused("task_distill", *distill(own, aug_train=True), words=("train_aug.jsonl, line 1", "data_augmentation.py"))
    write_lines(path, [json.dumps({"version": "augmented"}), json.dumps({"context": "a cat", "qas": [{"id": "1"}]})])
    refused("task_distill", *distill(own, aug_train=True), words=("train_aug.jsonl, line 2", "no key 'question'"))


# --- bad input

@pytest.mark.parametrize("name,changes,words", [
    ("squad1", {"pred_distill": True, "aug_train": True}, ("--aug_train", "original data")),
    ("squad1", {"pred_distill": True, "hf_head": True}, ("--hf_head", "that of Hugging Face anyway")),
    ("squad1", {"max_query_length": 19}, ("--max_seq_length 22", "--max_query_length 19")),
    ("mrpc", {"doc_stride": 6}, ("--doc_stride is for the passages of SQuAD", "MRPC")),
    ("mrpc", {"null_score_diff_threshold": 0}, ("--null_score_diff_threshold is for the passages of SQuAD",)),
    ("squad1", {"n_best_size": 0}, ("--n_best_size",)),
    ("squad1", {"predict_file": "asked.json"}, ("--predict_file is for --do_predict",)),
    ("squad1", {"teacher_model": "teacher_mrpc"}, ("needs a span head", "finetune_teacher.py --tasks SQuAD1")),
    ("mrpc", {"teacher_model": "teacher_squad1"}, ("needs a classifier", "finetune_teacher.py --tasks MRPC")),
    ("squad2", {"data_dir": "glue/SQuAD1"}, ("dev-v2.0.json", "--tasks squad2"))])
def test_training_refuses(name, changes, words, own, refused):
    lengths = dict.fromkeys(LENGTHS) if name == "mrpc" else {}
    changes = {key: own / value if isinstance(value, str) else value for key, value in changes.items()}
    refused("task_distill", *distill(own, name, **lengths | changes), words=words)
    assert not (own / "out").exists()


def test_a_teacher_at_chance_is_refused(own, refused):
    refused("task_distill", *distill(own, "squad2", skip_teacher_check=False), words=("scores f1", "chance is 0.3533"))
    assert get_task("squad1").head.chance(None) == (0.2, 0.0)  # the head of a frozen BERT-base reaches 0.16


def test_scoring_refuses(own, refused, script):
    dev = own / "glue/SQuAD1/dev-v1.1.json"
    refused("task_distill", *evaluation(own, do_eval=False, do_predict=True), words=("--predict_file", "SQuAD1"))
    refused("task_distill", *evaluation(own, "mrpc", student_model=own / "student_mrpc", do_eval=False, do_predict=True,
                                        predict_file=dev, **dict.fromkeys(LENGTHS)),
            words=("--predict_file is for SQuAD",))
    run(script, "task_distill", distill(own, output_dir=own / "between"))
    refused("task_distill", *evaluation(own, student_model=own / "between"),
            words=("span head", "not trained yet", "--pred_distill"))
    squad_file(dev, "SQuAD1", 2, answers=False)
    refused("task_distill", *evaluation(own), words=("'dev-v1.1-0-0': no key 'answers'", "--do_predict"))


def test_fine_tuning_refuses(own, refused):
    def flags(**changes) -> list:
        return command_line({"tasks": "squad1", "glue_dir": own / "glue", "model": own / "bert", "no_cuda": True,
                             "output_dir": own / "out", **LENGTHS} | changes)
    refused("finetune_teacher", *flags(hf_head=True), words=("--hf_head", "SQuAD1"))
    refused("finetune_teacher", *flags(keep_head=True), words=("--keep_head", "SQuAD1"))
    refused("finetune_teacher", *flags(tasks="mrpc"), words=("--doc_stride is for the passages of SQuAD",))
    path = own / "glue/SQuAD1/train-v1.1.json"
    path.write_bytes(path.read_bytes()[:-40])
    refused("finetune_teacher", *flags(), words=("train-v1.1.json is cut short: it ends at byte",))
    assert not (own / "out").exists()


if __name__ == "__main__":
    two_processes(sys.argv[1])
