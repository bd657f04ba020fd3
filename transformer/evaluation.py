"""What a model says about the dev and test sets of its task, and the files that tell it.

`args` are those of task_distill.py.
"""
from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np

from transformer.checkpoint import load_tokenizer
from transformer.cli import print_settings
from transformer.features import Sequences, encode_file
from transformer.files import InputError, atomic_write, find_input, write_json
from transformer.glue import DIAGNOSTIC, Submission, Task, chance_level, class_order
from transformer.modeling import TinyBertForSequenceClassification
from transformer.prediction import decide, evaluate, model_sha256, predict
from transformer.record import (
    EVAL_NAME,
    PREDICTIONS_NAME,
    append_line,
    clear_evaluation,
    describe_run,
    format_metrics,
    is_finished,
)
from transformer.runtime import Processes, check_length
from transformer.submission import write_submission
from transformer.tokenization import BertTokenizer


def encoded(task: Task, path: Path, tokenizer: BertTokenizer, args: argparse.Namespace) -> Sequences:
    """A file of the task as arrays, which stay for the next run."""
    return encode_file(task, path, tokenizer, args.max_seq_length, args.cache_dir or path.parent / "features",
                       fallback=Path(args.output_dir) / "features")


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


def require_fit_teacher(folder: Path, task: Task, reached: float, labels: np.ndarray) -> None:
    """InputError where a teacher's dev score is no better than chance."""
    chance, error = chance_level(task, labels)
    if not reached > chance + 2 * error:
        raise InputError(f"teacher {folder} scores {task.metric} {reached:.4f} on the dev set, chance is {chance:.4f} "
                         f"+- {error:.4f}: fine-tune it on {task.name} (or --skip_teacher_check)")


def evaluate_only(args: argparse.Namespace, task: Task, processes: Processes) -> None:
    """--do_eval: score the student, print the scores and write them into its folder. --do_predict: write the
    submission files of the task's test sets into --output_dir."""
    folder, data_dir = find_input(args.student_model), find_input(args.data_dir)
    finished = is_finished(folder)
    if not finished:
        print(f"warning: {folder} is unfinished: the run that writes it was stopped", flush=True)
    student = TinyBertForSequenceClassification.from_pretrained(folder, num_labels=task.num_labels)
    check_length(args.max_seq_length, student)
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
