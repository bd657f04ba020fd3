"""What a model says about the dev and test sets of its task, and the files that tell it.

`args` are those of task_distill.py.
"""
from __future__ import annotations

import argparse
import json
import os
import shlex
import time
from pathlib import Path

import numpy as np

from transformer.checkpoint import load_tokenizer, model_sha256
from transformer.cli import print_settings
from transformer.config import check_sizes
from transformer.data.features import Sequences, encode_file
from transformer.data.tables import data_folder
from transformer.files import (
    InputError,
    atomic_write,
    find_folder,
    find_model,
    read_json,
    require_no_file,
    sha256_of,
    write_json,
)
from transformer.modeling import TinyBertForSequenceClassification
from transformer.tasks.glue import DIAGNOSTIC
from transformer.tasks.head import UNTRAINED, class_order
from transformer.tasks.metrics import chance_level
from transformer.tasks.submission import write_submission
from transformer.tasks.task import Submission, Task
from transformer.tokenization import BertTokenizer
from transformer.training.processes import Processes
from transformer.training.record import (
    EVAL_NAME,
    PREDICTIONS_NAME,
    append_line,
    clear_evaluation,
    describe_run,
    format_metrics,
    is_finished,
    read_run,
)
from transformer.training.scoring import decide, evaluate, predict
from transformer.weights import read_model


def encoded(task: Task, path: Path, tokenizer: BertTokenizer, args: argparse.Namespace) -> Sequences:
    """A file of the task as arrays, which stay for the next run."""
    return encode_file(task, path, tokenizer, args.max_seq_length, args.cache_dir or path.parent / "features",
                       fallback=Path(args.output_dir) / "features")


def train_file(folder: Path, augmented: bool) -> Path:
    """train.tsv in the task's folder, or train_aug.tsv; InputError where that is missing, or where train_aug.json says
    that it was made from another train.tsv than the one beside it."""
    plain, path = folder / "train.tsv", folder / "train_aug.tsv"
    if not augmented:
        return plain
    if not path.is_file():
        raise InputError(f"{path} does not exist: make it with data_augmentation.py, or drop --aug_train")
    record = path.with_suffix(".json")
    made_from = read_json(record).get("made_from") if record.is_file() else None
    sha256 = made_from.get("train_sha256") if isinstance(made_from, dict) else None
    if sha256 is None or not plain.is_file():
        print(f"{path}: nothing tells whether it was made from the train.tsv beside it: taken as it is", flush=True)
    elif sha256 != sha256_of(plain):
        raise InputError(f"{path} was made from another train.tsv than the one beside it: run data_augmentation.py "
                         "again, or drop --aug_train")
    return path


def dev_sets(task: Task, folder: Path, tokenizer: BertTokenizer, args: argparse.Namespace) -> dict[str, Sequences]:
    """The task's dev sets, encoded: {"dev": ...}, and for MNLI {"dev_matched": ..., "dev_mismatched": ...}."""
    return {Path(name).stem: encoded(task, folder / name, tokenizer, args) for name in task.dev_files}


def test_sets(task: Task, folder: Path, tokenizer: BertTokenizer,
              args: argparse.Namespace) -> dict[Submission, Sequences]:
    """The task's test sets, encoded, by the submission files that answer them; the diagnostic set where it is."""
    sets = {}
    for submission in task.submissions:
        path = Path(os.path.normpath(folder / submission.file))
        if submission.name == "AX" and not path.is_file():
            print(f"no AX.tsv: {path} does not exist (download_glue.py --tasks {DIAGNOSTIC} gets it)", flush=True)
        else:
            sets[submission] = encoded(task.for_test(submission), path, tokenizer, args)
    return sets


def load_classifier(folder: Path, task: Task, args: argparse.Namespace) -> TinyBertForSequenceClassification:
    """The model of a task in a folder. InputError where its classifier is missing or known to be untrained, with the
    step that trains it; --skip_teacher_check lets an untrained one pass."""
    finetune = shlex.join(["python", "finetune_teacher.py", "--tasks", task.name, "--model", str(folder)])
    trains = f"{finetune} trains a teacher's, task_distill.py (last stage: --pred_distill) a student's"
    if not args.skip_teacher_check and (step := next_step(folder, args)):
        raise InputError(f"the classifier of {folder} is not trained yet; the next step: {step}")
    try:
        model = TinyBertForSequenceClassification.from_pretrained(folder, num_labels=task.num_labels)
    except InputError as error:
        if "classifier.weight" in read_model(folder)[1]:
            raise
        raise InputError(f"{error}; it has no classifier: {trains}") from None
    if not args.skip_teacher_check and model.config.extra.get(UNTRAINED):
        raise InputError(f"the classifier of {folder} is untrained ({UNTRAINED} in its config.json): {trains}")
    return model


def next_step(folder: Path, args: argparse.Namespace) -> str | None:
    """The command of the next step for a student whose classifier no step has trained, as its run.json tells; else
    None."""
    settings = (read_run(folder) or {}).get("settings")
    if not isinstance(settings, dict):
        return None
    if settings.get("pred_distill") is False:
        stage, known = ["--pred_distill"], settings
    elif "pregenerated_data" in settings:
        stage, known = [], {**vars(args), "teacher_model": "TEACHER"}
    else:
        return None
    command = ["python", "task_distill.py", *stage]
    for name in ("task_name", "teacher_model", "data_dir", "max_seq_length"):
        command += [f"--{name}", str(known.get(name))]
    command += ["--student_model", str(folder), "--output_dir", "NEW_FOLDER"]
    command += ["--preset", "code"] if known.get("preset") == "code" else []
    return shlex.join(command + [f"--{name}" for name in ("aug_train", "do_lower_case") if known.get(name)])


def misordered(task: Task, reached: float, labels: np.ndarray) -> str | None:
    """What is wrong with a classifier whose dev score is far below chance: under half of the majority class's share, a
    coefficient under -0.2. None where it is not, or where every BERT may be."""
    bound = chance_level(task, labels)[0] / 2 if task.metric == "acc" else -0.2
    if not task.beats_chance or not reached < bound:
        return None
    if task.is_regression:
        return f"its scores run the wrong way, low where they should be high: train it on {task.name}"
    return "its classes are in another order than config.json says: set id2label there to the order it was trained in"


def require_fit_teacher(folder: Path, task: Task, reached: float, labels: np.ndarray) -> None:
    """InputError where a teacher's dev score is no better than chance; a warning where no BERT's is."""
    chance, error = chance_level(task, labels)
    if reached > chance + 2 * error:
        return
    found = f"teacher {folder} scores {task.metric} {reached:.4f} on the dev set, chance is {chance:.4f} +- {error:.4f}"
    if not task.beats_chance:
        print(f"warning: {found}; no BERT does better on {task.name}", flush=True)
        return
    cause = misordered(task, reached, labels) or f"fine-tune it on {task.name}"
    raise InputError(f"{found}: {cause} (or --skip_teacher_check)")


def evaluate_only(args: argparse.Namespace, task: Task, processes: Processes) -> None:
    """--do_eval: score the student, print the scores and write them into its folder. --do_predict: write the
    submission files of the task's test sets into --output_dir."""
    require_no_file(args.output_dir)
    folder, data_dir = find_model(args.student_model), data_folder(find_folder(args.data_dir), task)
    finished = is_finished(folder)
    if not finished:
        print(f"warning: {folder} is unfinished: the run that writes it was stopped", flush=True)
    student = load_classifier(folder, task, args)
    check_sizes(args.max_seq_length, len(task.text_columns), {folder: student.config})
    order = class_order(student.config.extra, task, folder)
    tokenizer = load_tokenizer(folder, args.do_lower_case)
    args.do_lower_case = tokenizer.do_lower_case
    dev = dev_sets(task, data_dir, tokenizer, args) if args.do_eval else {}
    test = test_sets(task, data_dir, tokenizer, args) if args.do_predict else {}
    print_settings(args)
    student.to(processes.device)
    if args.do_eval:
        run, started = describe_run(args, processes), time.monotonic()
        values, logits = evaluate(student, task, dev, order, args.eval_batch_size, processes)
        facts = {"task": task.name, "metric": task.metric, "values": values,
                 "counts": {name: len(sequences) for name, sequences in dev.items()}, "model": str(folder),
                 "model_finished": finished, "model_sha256": model_sha256(student, order), **run,
                 "wall_seconds": round(time.monotonic() - started, 1), "finished": True}
        if processes.is_first:
            write_evaluation(folder, Path(args.output_dir), task, facts,
                             {name: (dev[name].labels, logits[name]) for name in dev if args.save_predictions})
        print(format_metrics(f"Eval results {task.name}", values), flush=True)
        if cause := misordered(task, values[task.metric], next(iter(dev.values())).labels):
            print(f"warning: {folder} scores far below chance: {cause}", flush=True)
    for submission, sequences in test.items():
        answers = decide(task, predict(student, sequences, args.eval_batch_size, processes)[:, order])
        if processes.is_first:
            write_submission(args.output_dir, task, submission, answers)


def write_evaluation(folder: Path, output_dir: Path, task: Task, facts: dict,
                     predictions: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Write eval_results.json, of `facts`, and an eval_predictions_SET.tsv for each set's (labels, logits).

    They go into the model's `folder`; where that cannot be written, into one of its name in output_dir. There the
    metrics of all models that it was named for are collected: a line in metrics.jsonl, a block in eval_results.txt.
    """
    def write_facts(place: Path) -> Path:
        clear_evaluation(place)
        write_json(place / EVAL_NAME, facts)
        return place

    try:
        place = write_facts(folder)
    except OSError as error:
        place = write_facts(output_dir / folder.absolute().name)
        print(f"warning: {folder} cannot be written ({error.strerror}): the results are in {place}", flush=True)
    for name, (labels, logits) in predictions.items():
        write_predictions(place / PREDICTIONS_NAME.format(name), task, labels, logits)
    output_dir.mkdir(parents=True, exist_ok=True)
    append_line(output_dir / "metrics.jsonl", json.dumps({"task": task.name, "model": str(folder), **facts["values"]}))
    append_line(output_dir / "eval_results.txt", format_metrics(f"{task.name} {folder}", facts["values"]))


def write_predictions(path: Path, task: Task, labels: np.ndarray, logits: np.ndarray) -> None:
    """A header and a line for each example: index, label, prediction, and of classes the logit of each."""
    names = task.labels or ()
    predictions = decide(task, logits)
    if names:
        labels, predictions = (np.array(names)[numbers.astype(int)] for numbers in (labels, predictions))
    lines = [["index", "label", "prediction", *(f"logit_{name}" for name in names)]]
    lines += [[index, label, prediction, *row[:len(names)]]
              for index, (label, prediction, row) in enumerate(zip(labels, predictions, logits))]
    with atomic_write(path) as handle:
        handle.writelines("\t".join(map(str, line)) + "\n" for line in lines)
