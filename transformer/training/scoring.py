"""What a task's model says about examples: logits, answers and scores; those that do not change are kept on disk.

And the files of --do_eval and --do_predict, which tell them. `args` are the flags of task_distill.py; dev_sets() and
encoded() are asked by finetune_teacher.py and the export, too, which have no --cache_dir.
"""
from __future__ import annotations

import argparse
import contextlib
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from transformer.checkpoint import load_tokenizer, model_sha256
from transformer.cli import print_settings
from transformer.config import check_sizes
from transformer.data.arrays import key_of, open_arrays, unfinished_arrays
from transformer.data.features import Sequences, encode_file
from transformer.data.tables import data_folder, read_rows
from transformer.data.windows import encode_windows
from transformer.files import (
    InputError,
    atomic_write,
    find_file,
    find_folder,
    find_model,
    read_json,
    require_no_file,
    sha256_of,
    write_json,
)
from transformer.pieces import Tokenizer
from transformer.stopwatch import STOPWATCH
from transformer.tasks.glue import DIAGNOSTIC
from transformer.tasks.head import Head
from transformer.tasks.labels import class_order
from transformer.tasks.own import recorded
from transformer.tasks.submission import write_submission
from transformer.tasks.task import Submission, Task
from transformer.training.batches import Plan, batches_by_length
from transformer.training.models import load_task_model
from transformer.training.processes import Processes, mixed
from transformer.training.record import (
    EVAL_NAME,
    append_line,
    clear_evaluation,
    describe_run,
    format_metrics,
    is_finished,
)

_WORDPIECES_ON_CPU = 512  # of a batch at most: what leaves its cache takes up to a fifth longer


@torch.no_grad()
def predict(model: nn.Module, head: Head, sequences: Sequences, batch_size: int, processes: Processes,
            rows: np.ndarray | None = None) -> np.ndarray:
    """Logits, float32, as head.unpack() gives them, of a model with that head in eval mode; its mode is put back
    afterwards.

    rows: numbers of the examples wanted (None: all), in whose order the logits come. Batches hold examples of similar
    length, padded to their longest: padding does not change a logit. batch_size: of the longest examples; a batch of
    shorter ones holds more of them, as many wordpieces. Processes share the batches, and each gets all logits. The host
    waits for the device once, at the end.
    """
    was_training = model.training
    model.eval()
    rows = np.arange(len(sequences)) if rows is None else rows
    lengths = sequences.lengths_of(rows)
    offsets = _offsets(head, lengths)
    flat = np.zeros(offsets[-1], np.float32)
    wordpieces = batch_size * int(lengths.max(initial=0))
    if processes.device.type == "cpu":
        wordpieces = min(wordpieces, _WORDPIECES_ON_CPU)
    order, bounds = batches_by_length(lengths, wordpieces, len(rows))
    own = [order[start:stop] for start, stop in bounds[processes.rank::processes.world]]
    logits = [model(*processes.send(sequences.batch(rows[places])), attention_scores=())[0].float() for places in own]
    model.train(was_training)
    for places, of_batch in zip(own, _on_host(logits), strict=True):
        flat[_positions(offsets, places)] = head.pack(of_batch, lengths[places])
    # exact: all processes but one have 0 for a row
    return head.unpack(processes.total(torch.from_numpy(flat)).numpy(), lengths)


def _on_host(tensors: list[Tensor]) -> list[np.ndarray]:
    """Tensors of one dtype as arrays: one copy of all, for which the host waits once."""
    if not tensors:
        return []
    flat = torch.cat([tensor.flatten() for tensor in tensors]).cpu().numpy()
    ends = np.cumsum([tensor.numel() for tensor in tensors])
    return [part.reshape(tensor.shape) for part, tensor in zip(np.split(flat, ends[:-1]), tensors, strict=True)]


def _offsets(head: Head, lengths: np.ndarray) -> np.ndarray:
    """Where the numbers of each example of so many wordpieces begin among those of all: int64 [examples + 1]."""
    return np.append(0, np.cumsum(head.numbers(lengths)))


def _positions(offsets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Where the numbers of the examples `rows` are, one example after the other."""
    starts, counts = offsets[rows], offsets[rows + 1] - offsets[rows]
    return np.arange(counts.sum()) + np.repeat(starts - (np.cumsum(counts) - counts), counts)


class KeptLogits:
    """A model's logits of all examples, which kept[rows] gives of the examples `rows` as predict() would.

    flat: float32, as head.pack() gives them, one example after the other.
    """

    def __init__(self, flat: np.ndarray, head: Head, sequences: Sequences):
        self.flat = flat
        self._head = head
        self._sequences = sequences
        self._offsets = _offsets(head, sequences.lengths)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self._head.unpack(self.flat[_positions(self._offsets, rows)], self._sequences.lengths_of(rows))


def cached_logits(model: nn.Module, head: Head, sequences: Sequences, batch_size: int, processes: Processes,
                  cache_dir: str | Path, fallback: str | Path | None = None, block: int = 1 << 16) -> KeptLogits:
    """predict() of all rows, computed once for the same weights, config and sequences; memory-mapped, read-only.

    The logits are kept in cache_dir (in `fallback` where that cannot be written), in a folder named after what they
    follow from. They come in blocks of so many rows: a killed run goes on after the last whole one, and another run
    that comes meanwhile waits. Processes share the rows of a block. The columns are the model's own, whatever its
    id2label says. Raises ValueError for sequences without a key, which are not encode_file()'s.
    """
    if sequences.key is None:
        raise ValueError("sequences without a key: nothing tells whether logits are theirs")
    facts = {"format": 1, "model": model_sha256(model), "sequences": sequences.key, "examples": len(sequences),
             "products": torch.get_float32_matmul_precision()}
    name = f"logits_{key_of(facts)}"
    places = [Path(place) / name for place in (cache_dir, fallback) if place]
    starts = range(0, len(sequences), block)
    with contextlib.ExitStack() as stack:
        files = None  # in all processes but the first, and where the logits are there
        if processes.is_first:
            files = stack.enter_context(unfinished_arrays(places, {"logits": "f"}, facts, block))
        done = processes.from_first(len(starts) if files is None else len(files.records))
        with tqdm(desc="logits of the teacher", unit=" examples", total=len(sequences), initial=done * block,
                  disable=True if files is None else None) as progress:
            for start in starts[done:]:
                rows = np.arange(start, min(start + block, len(sequences)))
                with STOPWATCH.part("logits"):
                    logits = predict(model, head, sequences, batch_size, processes, rows)
                if files is not None:
                    files.append([head.pack(logits, sequences.lengths_of(rows)).tobytes()])
                progress.update(len(rows))
    processes.wait()  # until the first process has said that they are whole
    arrays, _ = open_arrays(places, {"logits": "f"}, facts)
    return KeptLogits(arrays["logits"], head, sequences)


def require_finite_logits(task: Task, logits: np.ndarray) -> None:
    """InputError where a logit is not finite: it would pass for an answer."""
    broken = int((~np.isfinite(logits)).any(axis=tuple(range(1, logits.ndim))).sum())
    if broken:
        raise InputError(f"the model's logits are not finite for {broken} of {len(logits)} examples of {task.name}: "
                         "its weights are of no use, train it again")


def evaluate(model: nn.Module, task: Task, sets: dict[str, Sequences], order: list[int], batch_size: int,
             processes: Processes, part: str = "evaluate", to_beat: float | None = None,
             precision: str = "fp32") -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Metrics of a model on the dev sets of its task, and the logits of each: float32, columns in the task's order.

    sets: labelled sequences by name; order: the model's column for each class. The metrics of a second set carry its
    name, so that the first stays what it is. part: of the time that the record tells. to_beat: a score; where the first
    set's is below it, the others are left out. precision: of the matrix products, as in mixed(). Raises InputError as
    require_finite_logits() does.
    """
    values: dict[str, float] = {}
    logits = {}
    for name, sequences in sets.items():
        if values and to_beat is not None and not values[task.metric] >= to_beat:
            break
        with STOPWATCH.part(part), mixed(precision, processes.device):
            logits[name] = predict(model, task.head, sequences, batch_size, processes)[..., order]
        require_finite_logits(task, logits[name])
        suffix = f"_{name.removeprefix('dev_')}" if values else ""
        with STOPWATCH.part("score"):
            metrics = task.head.score(logits[name], sequences)
        values |= {f"{metric}{suffix}": value for metric, value in metrics.items()}
    return values, logits


def eval_step_for(plan: Plan, dev: dict[str, Sequences]) -> int:
    """scoring_interval() of a stage that goes over the same examples in every epoch."""
    return scoring_interval(plan.total_steps, padded_wordpieces(plan.epochs[0].lengths, plan.batch_size),
                            sum(int(sequences.lengths.sum()) for sequences in dev.values()))


def scoring_interval(steps: int, batch_wordpieces: int, dev_wordpieces: int) -> int:
    """Optimizer steps between two scorings of a stage of so many steps: the smallest multiple of 50 with which scoring
    takes at most a tenth of the stage; if none does, one with which the stage is scored at its end alone.

    By counts, not by time, so that a run follows from its data and flags: a wordpiece is one forward pass in scoring,
    and three in training, where the backward pass costs as much as two. batch_wordpieces: of a step, padding included;
    dev_wordpieces: of all dev sets, as if each was scored every time.
    """
    affordable = 3 * steps * batch_wordpieces // (9 * dev_wordpieces)  # scorings: they may take a ninth of the rest
    return 50 * -(-steps // (50 * max(1, affordable)))


def padded_wordpieces(lengths: np.ndarray, batch_size: int) -> int:
    """Wordpieces of a batch of examples of these lengths that is padded to its longest: what is to be expected of
    examples drawn at random, so that it follows from the data alone and no seed."""
    up_to = np.cumsum(np.bincount(lengths)) / len(lengths)  # the share of examples that are no longer than 0, 1, ...
    return round(batch_size * float((1 - up_to ** batch_size).sum()))


def encoded(task: Task, path: Path, tokenizer: Tokenizer, args: argparse.Namespace, use: str,
            unlabelled: Path | None = None) -> Sequences:
    """A file of the task as arrays, which stay for the next run. use: what for, as encode_windows() has it; unlabelled:
    as encode_file() has it."""
    cache_dir = getattr(args, "cache_dir", None) or path.parent / "features"
    fallback = Path(args.output_dir) / "features"
    if task.is_table:
        return encode_file(task, path, tokenizer, args.max_seq_length, cache_dir, fallback, unlabelled=unlabelled)
    return encode_windows(task, path, tokenizer, args.max_seq_length, args.doc_stride, args.max_query_length, use,
                          cache_dir, fallback)


def train_file(folder: Path, task: Task, augmented: bool) -> Path:
    """The train file in the task's folder, or the augmented one; InputError where that is missing, or where the record
    beside it says that it was made from another train file than the one there."""
    plain, path = folder / task.train_file, folder / task.aug_file
    if not augmented:
        return plain
    if not path.is_file():
        raise InputError(f"{path} does not exist: make it with data_augmentation.py, or drop --aug_train")
    record = path.with_suffix(".json")
    made_from = read_json(record).get("made_from") if record.is_file() else None
    sha256 = made_from.get("train_sha256") if isinstance(made_from, dict) else None
    if sha256 is None or not plain.is_file():
        print(f"{path}: nothing tells whether it was made from the {plain.name} beside it: taken as it is", flush=True)
    elif sha256 != sha256_of(plain):
        raise InputError(f"{path} was made from another {plain.name} than the one beside it: run data_augmentation.py "
                         "again, or drop --aug_train")
    return path


def dev_sets(task: Task, folder: Path, tokenizer: Tokenizer, args: argparse.Namespace) -> dict[str, Sequences]:
    """The task's dev sets, encoded: {"dev": ...}, for MNLI {"dev_matched": ..., "dev_mismatched": ...}, for SQuAD
    {"dev-v1.1": ...}; with a test set that has labels, {"dev": ..., "test": ...}."""
    return {Path(name).stem: encoded(task, folder / name, tokenizer, args, "score") for name in task.dev_files}


def test_sets(task: Task, folder: Path, tokenizer: Tokenizer,
              args: argparse.Namespace) -> dict[Submission, Sequences]:
    """The task's test sets, encoded, by the submission files that answer them, the diagnostic set where it is; or the
    texts of --predict_file."""
    sets, submissions = {}, task.submissions
    if args.predict_file:
        submissions = (task.answering(str(find_file(args.predict_file).absolute())),)
        cache_dir = args.cache_dir or Path(args.output_dir) / "features"  # not beside somebody's file
        args = argparse.Namespace(**{**vars(args), "cache_dir": cache_dir})
    for submission in submissions:
        path = Path(os.path.normpath(folder / submission.file))
        if submission.is_beside and not path.is_file():
            print(f"no {submission.answers_file}: {path} does not exist "
                  f"(download_glue.py --tasks {DIAGNOSTIC} gets it)", flush=True)
        else:
            sets[submission] = encoded(task.for_test(submission), path, tokenizer, args, "answer")
    return sets


def misordered(task: Task, reached: float, examples: Sequences) -> str | None:
    """What is wrong with a model whose dev score is far below chance, see head.least(). None where it is not, or
    where every BERT may be."""
    if not task.beats_chance or not reached < task.head.least(examples):
        return None
    return task.head.misordered.format(task=task.name)


def require_fit_teacher(folder: Path, task: Task, reached: float, examples: Sequences) -> None:
    """InputError where a teacher's dev score is no better than chance; a warning where no BERT's is."""
    chance, error = task.head.chance(examples)
    if reached > chance + 2 * error:
        return
    what = f"teacher {folder} scores {task.metric} {reached:.4f} on the dev set, chance is {chance:.4f} +- {error:.4f}"
    if not task.beats_chance:
        print(f"warning: {what}; no BERT does better on {task.name}", flush=True)
        return
    cause = misordered(task, reached, examples) or f"fine-tune it on {task.name}"
    raise InputError(f"{what}: {cause} (or --skip_teacher_check)")


def evaluate_only(args: argparse.Namespace, task: Task, processes: Processes) -> None:
    """--do_eval: score the student, print the scores and write them into its folder. --do_predict: write the
    submission files of the task's test sets into --output_dir, or the prediction files of --predict_file."""
    require_no_file(args.output_dir)
    folder, data_dir = find_model(args.student_model), data_folder(find_folder(args.data_dir), task)
    questions = None if task.is_table else args.predict_file  # a file of texts alone is a test set
    if questions and Path(args.output_dir).resolve() == folder.resolve():
        raise InputError(f"the answers to --predict_file would take the place of those to the dev set in {folder}: "
                         "name another --output_dir")
    finished = is_finished(folder)
    if not finished:
        print(f"warning: {folder} is unfinished: the run that writes it was stopped", flush=True)
    student = load_task_model(folder, task, args)
    check_sizes(args.max_seq_length, task.segments, {folder: student.config})
    order = class_order(student.config.extra, task, folder)
    tokenizer = load_tokenizer(folder, args.do_lower_case)
    args.do_lower_case = tokenizer.do_lower_case
    dev = dev_sets(task, data_dir, tokenizer, args) if args.do_eval else {}
    test = test_sets(task, data_dir, tokenizer, args) if args.do_predict and not questions else {}
    asked = encoded(task, Path(questions), tokenizer, args, "answer") if questions else None
    print_settings(args)
    student.to(processes.device)
    if args.do_eval:
        run, started = describe_run(args, processes), time.monotonic()
        values, logits = evaluate(student, task, dev, order, args.eval_batch_size, processes)
        facts = {**recorded(task), "metric": task.metric, "values": values,
                 "counts": {name: sequences.count() for name, sequences in dev.items()}, "model": str(folder),
                 "model_finished": finished, "model_sha256": model_sha256(student, order), **run,
                 "wall_seconds": round(time.monotonic() - started, 1), **STOPWATCH.facts(), "finished": True}
        if processes.is_first:
            write_evaluation(folder, Path(args.output_dir), task, facts,
                             {name: (dev[name], logits[name]) for name in dev if args.save_predictions})
        print(format_metrics(f"Eval results {task.name}", values), flush=True)
        if cause := misordered(task, values[task.metric], next(iter(dev.values()))):
            print(f"warning: {folder} scores far below chance: {cause}", flush=True)
    for submission, sequences in test.items():
        logits = predict(student, task.head, sequences, args.eval_batch_size, processes)[..., order]
        require_finite_logits(task, logits)
        if processes.is_first:
            rows = read_rows(task.for_test(submission), data_dir / submission.file)
            write_submission(args.output_dir, task, submission, logits, [columns[0] for _, columns in rows])
    if asked is not None:
        logits = predict(student, task.head, asked, args.eval_batch_size, processes)[..., order]
        require_finite_logits(task, logits)
        if processes.is_first:
            write_predictions(Path(args.output_dir), task, Path(questions).stem, asked, logits)
            print(f"{args.output_dir}: answers to the {asked.count()} questions of {questions}", flush=True)


def write_evaluation(folder: Path, output_dir: Path, task: Task, facts: dict,
                     predictions: dict[str, tuple[Sequences, np.ndarray]]) -> None:
    """Write eval_results.json, of `facts`, and the prediction files of the head for each set's (examples, logits).

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
    for name, (examples, logits) in predictions.items():
        write_predictions(place, task, name, examples, logits)
    output_dir.mkdir(parents=True, exist_ok=True)
    append_line(output_dir / "metrics.jsonl", json.dumps({"task": task.name, "model": str(folder), **facts["values"]}))
    append_line(output_dir / "eval_results.txt", format_metrics(f"{task.name} {folder}", facts["values"]))


def write_predictions(folder: Path, task: Task, name: str, examples: Sequences, logits: np.ndarray) -> None:
    """Write the files into `folder` that show what finite logits say of the examples of the set `name`."""
    for file, texts in task.head.prediction_files(name, examples, logits):
        with atomic_write(folder / file) as handle:
            handle.writelines(texts)
