"""The training engine: steps of the scripts against bare models, prediction stage, scoring, optimizer, memory.

    python benchmarks/bench_train.py [--stages general intermediate together attention prediction share evaluation
                                      optimizer memory]
    python benchmarks/bench_train.py --stages hours     the estimates in docs/results.md, nothing is measured

A BERT-base as the teacher and a TinyBERT4 as the student, with random weights; made-up data. The scripts run inside
this process; what they are compared with takes turns with them, step by step; ratios are medians over the turns.
All stages take about 20 minutes on 2 cores. What a GPU would hold and be given to do is counted in bench_gpu.py.
"""
from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import itertools
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import ModuleType
from unittest import mock

import numpy as np
import torch
from bench_reader import write_epoch
from measure import ROOT, PeakMemory, machine, parse_with_clock, print_table, seconds, tree_memory
from torch.optim.optimizer import register_optimizer_step_post_hook

import general_distill
import task_distill
from transformer.checkpoint import load_tokenizer, save_model
from transformer.config import BertConfig
from transformer.data.epochs import open_epoch
from transformer.data.features import Sequences, encode_file
from transformer.distillation import layer_map, needed, soft_cross_entropy, transformer_losses
from transformer.modeling import BertModel, TinyBertForPreTraining, TinyBertForSequenceClassification
from transformer.optimization import BertAdam, parameter_groups
from transformer.planning.costs import (
    H100,
    LAUNCH_SECONDS,
    RTX_4090,
    Cost,
    distillation_flops,
    price,
    product_rate,
)
from transformer.planning.languages import BERT_BASE as TEACHER
from transformer.planning.printing import hours_text
from transformer.planning.steps import Work, read_steps, works_of
from transformer.tasks.table import TASKS
from transformer.tasks.task import Task
from transformer.training import stages
from transformer.training.batches import shuffled_batches
from transformer.training.losses import Losses
from transformer.training.processes import Processes, freeze, mixed
from transformer.training.scoring import padded_wordpieces, predict, scoring_interval
from transformer.training.states import SHARE_OF_TIME

TASK, LENGTH = TASKS["sst2"], 128
WARM_UP = 2  # steps that do not count
NEVER = 10_000  # steps between logs, where they are not to be measured
ROWS, BATCH, EPOCHS, ROUNDS = 128, 32, 3, 3  # of the prediction stage
LENGTHS = 64, 128  # that a task's rows are cut to; all are padded to them in the plain way
DEV_ROWS = 512
SLICE = 512  # of MNLI, the stage `share` trains on one row of so many
TOGETHER_ROUNDS = 2
OLD_EVAL_STEP = 50  # before --eval_step followed from the data
ATTENTION_LENGTHS, WORDPIECES = (64, 128, 256, 512), 2048  # of the stage `attention`: at most so many in a step
STUDENTS = {name: BertConfig.from_json_file(ROOT / f"tinybert_{name}_config" / "config.json") for name in ("4l", "6l")}
ALONE = Processes(0, 1, torch.device("cpu"))


def planned(*flags: str) -> dict[str, Work]:
    """What reproduce.sh does with these flags in an empty folder, by the names of its steps."""
    with tempfile.TemporaryDirectory() as temporary:
        python = Path(temporary) / "bin" / "python"
        python.parent.mkdir()
        python.write_text("#!/bin/sh\nexec cat\n")  # shows the commands that the plan is made of
        python.chmod(0o755)
        run = subprocess.run([ROOT / "reproduce.sh", "--plan", *flags], cwd=temporary, stdout=subprocess.PIPE,
                             check=True, env={**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}",
                                              "WORKERS": "16"})
        before = Path.cwd()
        os.chdir(temporary)
        works = works_of(read_steps(io.BytesIO(run.stdout)))
        os.chdir(before)
    return {work.step.name: work for work in works if work.teacher or work.kind == "teacher"}


def hours(*_: object) -> None:
    """Estimated hours, GPU memory and disk of every stage as reproduce.sh runs it, where nothing is there yet."""
    gpus = [dataclasses.replace(gpu, has_bf16=has_bf16) for has_bf16 in (False, True) for gpu in (RTX_4090, H100)]
    plans = {"all": planned(), "all, students apart": planned("--apart"), "all for 4l": planned("--students", "4l"),
             "all for 6l": planned("--students", "6l"), "all from published students": planned("--published")}
    costs = {title: {name: [price(work, gpu, cores=16) for gpu in gpus] for name, work in plan.items()}
             for title, plan in plans.items()}

    def cells(found: list[list[Cost]]) -> list[str]:
        """Of some steps, one after the other: in fp32 and in bf16 hours on both GPUs and memory."""
        each_hours = [hours_text(sum(cost.hours for cost in of_gpu)) for of_gpu in zip(*found)]
        memory = [f"{max(cost.memory for cost in of_gpu) / 1e9:.1f}" for of_gpu in zip(*found)]
        return [*each_hours[:2], memory[0], *each_hours[2:], memory[2]]

    def disk(found: list[list[Cost]]) -> str:
        return f"{(sum(cost.disk for cost, *_ in found) + max(cost.passing for cost, *_ in found)) / 1e9:.1f}"

    order = {work.step.stage: number for number, work in enumerate(plans["all"].values())}
    rows: dict[str, tuple[Work, list[Cost]]] = {}
    for title, plan in plans.items():
        for name, work in plan.items():
            rows.setdefault(name, (work, costs[title][name]))
    table = [[name, f"{work.examples:,}", f"{work.steps:,}" if work.steps else "", f"{work.length:.0f}",
              *cells([found]), disk([found])]
             for name, (work, found) in sorted(rows.items(), key=lambda row: order[row[1][0].step.stage])]  # by stages
    for title in plans:
        found = list(costs[title].values())
        table.append([title, "", "", "", *cells(found), disk(found)])
    print(f"Estimates: matrix products at {RTX_4090.share:.0%} of the dense peak of one GPU, or "
          f"{LAUNCH_SECONDS * 1e6:.0f} microseconds of the host for each operation that it launches, where that takes "
          "longer; scoring and saving counted in; 32 million instances in an epoch of Wikipedia, augmented files as "
          "large as they can be, rows as long as those of the official train files. Disk: what stays and what a step "
          "takes while it runs.\n")
    print_table(["step", "examples", "steps", "wordpieces",
                 *(head for precision in ("fp32", "bf16")
                   for head in (*(f"{precision}: {gpu.name}" for gpu in (RTX_4090, H100)), "GPU GB")), "disk GB"],
                table)


def words_in(folder: Path) -> list[str]:
    """What rows are made of."""
    return [piece for piece in (folder / "vocab.txt").read_text().split() if piece.isalpha()]


def write_pairs(path: Path, task: Task, rows: int, seed: int) -> None:
    """Rows of MNLI with two texts of 4 to 100 words, 39 wordpieces together on average, as in its train.tsv."""
    rng = np.random.default_rng(seed)
    words = words_in(path.parent.parent)
    columns = (task.header if path.name == "train.tsv" else task.dev_header).split(",")
    with path.open("w") as file:
        print(*columns, sep="\t", file=file)
        for _ in range(rows):
            cells = ["x"] * len(columns)
            for column, mean in zip(task.text_columns, (24, 12)):
                length = int(np.clip(rng.lognormal(np.log(mean) - 0.18, 0.6), 4, 100))
                cells[column] = " ".join(rng.choice(words, length))
            cells[task.label_column] = rng.choice(task.labels)
            print(*cells, sep="\t", file=file)


def write_rows(path: Path, rows: int, seed: int) -> None:
    """Rows of SST-2 with 4 to 60 wordpieces, 13 on average, as in its train.tsv."""
    rng = np.random.default_rng(seed)
    words = words_in(path.parent.parent)
    lengths = rng.lognormal(np.log(13) - 0.14, 0.6, rows).round().astype(int).clip(4, 60)
    path.write_text("sentence\tlabel\n" + "".join(f"{' '.join(rng.choice(words, length - 2))}\t{rng.integers(2)}\n"
                                                  for length in lengths))


def write_inputs(folder: Path, args: argparse.Namespace) -> None:
    """vocab.txt, instances, SST-2, and the folders of a teacher and of students: still has no dropout, pair is for a
    task of three classes."""
    torch.manual_seed(0)
    write_epoch(folder, -(-args.batch * (args.steps + WARM_UP) // 4))
    (folder / "SST-2").mkdir()
    write_rows(folder / "SST-2" / "train.tsv", args.batch * (args.steps + WARM_UP), 0)
    write_rows(folder / "SST-2" / "dev.tsv", BATCH, 1)
    still = BertConfig.from_dict({**STUDENTS["4l"].to_dict(), "hidden_dropout_prob": 0.0,
                                  "attention_probs_dropout_prob": 0.0})
    for name, config in (("teacher", TEACHER), ("student", STUDENTS["4l"]), ("still", still),
                         ("pair", STUDENTS["4l"])):
        (folder / name).mkdir()
        model = TinyBertForSequenceClassification(config, 3 if name == "pair" else 2)
        torch.nn.init.normal_(model.classifier.weight, std=0.2)  # so that answers differ
        save_model(model, folder / name, folder / "vocab.txt")


def run_script(script: ModuleType, folder: Path, teacher: str, students: dict[str, Path], data: Sequence[object],
               after_step: Callable[[], None]) -> None:
    """A training run of a script, silent, in this process; after_step() is called after each optimizer step.

    students: where each comes from, by the name of the folder that it goes to.
    """
    hook = register_optimizer_step_post_hook(lambda *_: after_step())
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            script.main([str(part) for part in (
                "--teacher_model", folder / teacher, "--student_model", *students.values(), "--do_lower_case",
                "--output_dir", *(folder / name for name in students), "--overwrite_output_dir", *data)])
    finally:
        hook.remove()


def bare_step(precision: str, batch_size: int, length: int, name: str = "4l",
              query_key: bool = False, every_layer: bool = False) -> Callable[[], None]:
    """Forward and backward of the teacher and a student alone, on random wordpieces; query_key: the attention loss
    without scores; every_layer: all layers are run and asked for scores, whether the losses read them or not."""
    teacher, student = BertModel(TEACHER, add_pooler=False).eval(), TinyBertForPreTraining(STUDENTS[name])
    freeze(teacher, precision)
    pairs = layer_map(TEACHER.num_hidden_layers, student.config.num_hidden_layers)
    ids = torch.randint(1000, 30_000, (batch_size, length))
    batch = ids, torch.zeros_like(ids), torch.ones_like(ids)
    of_student, of_teacher = ({} if every_layer else needed([pairs], side) for side in (0, 1))

    def step() -> None:
        with torch.no_grad():
            hidden, scores, _ = teacher(*batch, pool=False, query_key=query_key, **of_teacher)
        with mixed(precision, batch[0].device):
            outputs = student(*batch, query_key=query_key, **of_student)
        sum(transformer_losses(outputs, (scores, hidden), pairs, batch[2])).backward()
        student.zero_grad()

    return step


def turns(script: ModuleType, folder: Path, flags: list[object], bare: dict[str, Callable[[], None]],
          args: argparse.Namespace) -> list[dict[str, float]]:
    """Seconds of each step of a script, from the end of one optimizer step to that of the next ("whole step"), and of
    the bare models of each precision, which run between the script's steps."""
    found: list[dict[str, float]] = []
    since = 0.0

    def after_step() -> None:
        nonlocal since
        turn = {"whole step": args.clock() - since}
        for precision, step in bare.items():
            start = args.clock()
            for _ in range(args.accumulation):
                step()
            turn[precision] = args.clock() - start
        found.append(turn)
        since = args.clock()

    run_script(script, folder, "teacher", {"out": folder / "student"}, flags, after_step)
    return found[WARM_UP:]


def general(folder: Path, args: argparse.Namespace) -> None:
    """Steps of general_distill.py."""
    steps(general_distill, folder, ["--pregenerated_data", folder], args)


def intermediate(folder: Path, args: argparse.Namespace) -> None:
    """Steps of the intermediate stage of task_distill.py."""
    steps(task_distill, folder, ["--data_dir", folder / "SST-2", "--task_name", "SST-2", "--skip_teacher_check"], args)


def steps(script: ModuleType, folder: Path, data: list[object], args: argparse.Namespace) -> None:
    """Whole steps of a script against the bare models."""
    bare = {precision: bare_step(precision, args.batch // args.accumulation, args.length)
            for precision in ("fp32", "bf16")}
    rates = {"fp32": product_rate(torch.float32, args.clock), "bf16": product_rate(torch.bfloat16, args.clock)}
    flops = args.batch * distillation_flops([STUDENTS["4l"]], TEACHER, args.length)
    table, relative = [], {}
    for precision in bare:
        flags = ["--train_batch_size", args.batch, "--gradient_accumulation_steps", args.accumulation,
                 "--num_train_epochs", 1, "--max_seq_length", args.length, "--precision", precision,
                 "--eval_step", NEVER, *data]
        found = turns(script, folder, flags, {name: bare[name] for name in ("fp32", precision)}, args)
        for name in (precision, "whole step"):
            took = statistics.median(turn[name] for turn in found)
            relative[precision] = statistics.median(turn[name] / turn["fp32"] for turn in found)
            table.append([f"{precision}, {'bare models' if name == precision else name}", f"{took * 1e3:,.0f}",
                          f"{flops / took / 1e9:,.0f}", f"{flops / took / rates[precision]:.0%}",
                          f"{relative[precision]:.3f}",
                          f"{statistics.median(turn[name] / turn[precision] for turn in found):.3f}"])
    units: set[str] = set()
    with contextlib.suppress(OSError):  # Linux
        units = {flag for flag in Path("/proc/cpuinfo").read_text().split() if flag in ("avx512_bf16", "amx_bf16")}
    print(f"bfloat16 units: {', '.join(sorted(units)) or 'none known'}; torch.mm reaches " +
          " and ".join(f"{rate / 1e9:,.0f} GFLOP/s in {precision}" for precision, rate in rates.items()))
    print(f"{args.steps} steps of {args.batch} sequences of {args.length} in {args.accumulation} passes, "
          f"{flops / 1e9:,.0f} GFLOP a step; whole steps in bf16 are {relative['fp32'] / relative['bf16']:.2f} times "
          "as fast as in fp32\n")
    print_table([script.__name__ + ".py", "ms", "GFLOP/s", "of torch.mm", "x bare fp32", "x bare of its precision"],
                table)


def together(folder: Path, args: argparse.Namespace) -> None:
    """Two students in one pass of general_distill.py against each in a run of its own, which gives the same weights."""
    flags = ["--train_batch_size", args.batch, "--gradient_accumulation_steps", args.accumulation, "--precision",
             "fp32", "--num_train_epochs", 1, "--max_seq_length", args.length, "--eval_step", NEVER,
             "--pregenerated_data", folder]
    runs = {"TinyBERT4 alone": ("4l",), "TinyBERT6 alone": ("6l",), "both in one pass": ("4l", "6l")}
    took: dict[str, list[float]] = {name: [] for name in runs}
    for _, (name, students) in itertools.product(range(TOGETHER_ROUNDS), runs.items()):
        stamps: list[float] = []
        outputs = {f"{student}_of_{len(students)}": ROOT / f"tinybert_{student}_config" for student in students}
        run_script(general_distill, folder, "teacher", outputs, flags,
                   lambda stamps=stamps: stamps.append(args.clock()))
        ends = stamps[len(students) - 1::len(students)]  # of a step, after the optimizer of its last student
        took[name] += [later - sooner for sooner, later in itertools.pairwise(ends)][WARM_UP - 1:]
    for student in STUDENTS:
        alone, beside = (torch.load(folder / f"{student}_of_{number}" / "pytorch_model.bin") for number in (1, 2))
        assert all(torch.equal(alone[key], beside[key]) for key in alone), f"{student}: other weights than alone"
    medians = {name: statistics.median(times) for name, times in took.items()}
    apart = medians["TinyBERT4 alone"] + medians["TinyBERT6 alone"]
    counted = {name: args.batch * distillation_flops([STUDENTS[student] for student in students], TEACHER, args.length)
               for name, students in runs.items()}
    flops_apart = counted["TinyBERT4 alone"] + counted["TinyBERT6 alone"]
    print(f"{len(took['both in one pass'])} steps of {args.batch} sequences of {args.length}, fp32; each student comes "
          "to the same weights, bit by bit, as in a run of its own\n")
    print_table(["general_distill.py", "ms a step", "of both apart", "of their operations"], [
        [name, f"{medians[name] * 1e3:,.0f}", f"{medians[name] / apart:.3f}", f"{counted[name] / flops_apart:.3f}"]
        for name in runs])


def attention_step(name: str, batch: int, length: int, query_key: bool, busy: bool,
                   every_layer: bool = False) -> tuple[float, int]:
    """Seconds of a step of bare models in this process, and the most bytes that it takes beside the models."""
    if busy:
        torch.set_num_threads(1)
    clock = time.process_time if busy else time.perf_counter
    step = bare_step("fp32", batch, length, name, query_key, every_layer)
    before, took = tree_memory(os.getpid()), []
    with PeakMemory(interval=0.01) as memory:
        for _ in range(3):
            start = clock()
            step()
            took.append(clock() - start)
    return statistics.median(took[1:]), memory.peak - before


def attention(folder: Path, args: argparse.Namespace) -> None:
    """Both attention losses: seconds and memory of a step of the bare models, each in a process of its own."""
    table = []
    for student, length in itertools.product(STUDENTS, ATTENTION_LENGTHS):
        found, batch = [], min(8, WORDPIECES // length)
        for query_key in (False, True):
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
                found.append(alone.submit(attention_step, student, batch, length, query_key, args.busy).result())
        (slow, much), (fast, little) = found
        table.append([f"{student}, {batch} x {length}", f"{slow * 1e3:,.0f}",
                      f"{fast * 1e3:,.0f}", f"{fast / slow:.2f}", f"{much / 1e9:.2f}", f"{little / 1e9:.2f}"])
    print("fp32, a step of BERT-base and the student, forward and backward; memory beside that of the models\n")
    print_table(["student, sequences x wordpieces", "scores, ms", "gram, ms", "ratio", "scores, GB", "gram, GB"], table)


def padded_prediction(folder: Path, train: Sequences, length: int,
                      clock: Callable[[], float]) -> Iterator[tuple[float, float]]:
    """(seconds, loss) of each step of the prediction stage, all padded to `length`, the teacher asked in each."""
    load = TinyBertForSequenceClassification.from_pretrained
    with contextlib.redirect_stdout(io.StringIO()):
        teacher, student = load(folder / "teacher", num_labels=2).eval(), load(folder / "still", num_labels=2)
    optimizer = BertAdam(parameter_groups(student, 0.01), lr=3e-5, warmup=0.1, t_total=EPOCHS * (len(train) // BATCH))
    for epoch in range(EPOCHS):
        for rows in shuffled_batches(len(train), BATCH, 42, epoch):
            start = clock()
            batch = train.batch(rows, length)
            with torch.no_grad():
                target = teacher(*batch, attention_scores=())[0]
            loss = soft_cross_entropy(student(*batch, attention_scores=())[0], target)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            yield clock() - start, loss.item()


def kit_prediction(folder: Path, length: int, clock: Callable[[], float]) -> tuple[float, list[float]]:
    """Rows a second of the prediction stage of task_distill.py, from its first question to the teacher to its last
    step, and the losses of its steps."""
    losses, stamps = [], []

    def ask(*arguments, plain=stages.cached_logits, **keywords):
        stamps.append(clock())
        return plain(*arguments, **keywords)

    def add(self, step, values, plain=Losses.add):
        losses.append(values[0].item())
        plain(self, step, values)

    shutil.rmtree(folder / "SST-2" / "features", ignore_errors=True)
    with mock.patch.object(stages, "cached_logits", ask), mock.patch.object(Losses, "add", add):
        run_script(task_distill, folder, "teacher", {"out": folder / "still"}, [
            "--pred_distill", "--data_dir", folder / "SST-2", "--task_name", "SST-2", "--skip_teacher_check",
            "--max_seq_length", length, "--train_batch_size", BATCH, "--num_train_epochs", EPOCHS,
            "--eval_step", NEVER], lambda: stamps.append(clock()))
    return EPOCHS * ROWS / (stamps[-1] - stamps[0]), losses


def prediction(folder: Path, args: argparse.Namespace) -> None:
    """The prediction stage of task_distill.py against padding everything and asking the teacher in every epoch."""
    write_rows(folder / "SST-2" / "train.tsv", ROWS, 0)
    table = []
    for length in LENGTHS:
        train = encode_file(TASK, folder / "SST-2" / "train.tsv", load_tokenizer(folder / "teacher", True), length)
        padded = padded_prediction(folder, train, length, args.clock)
        slow, fast, wanted = [], [], []
        for _ in range(ROUNDS):
            rate, losses = kit_prediction(folder, length, args.clock)
            fast.append(rate)
            for took, loss in itertools.islice(padded, 2):
                slow.append(BATCH / took)
                wanted.append(loss)
        difference = float(np.abs(np.subtract(losses[:len(wanted)], wanted)).max())
        assert difference <= 1e-5 < 1e-3 < np.ptp(wanted), difference  # losses that differ from step to step
        rates = statistics.median(slow), statistics.median(fast)
        table += [[f"all padded to {length}, teacher asked every time", f"{rates[0]:,.1f}", "1.0", ""],
                  [f"task_distill.py --pred_distill, --max_seq_length {length}", f"{rates[1]:,.1f}",
                   f"{rates[1] / rates[0]:.1f}", f"{difference:.0e}"]]
    print(f"{ROWS} rows of {train.lengths.mean():.1f} wordpieces on average, batches of {BATCH}, {EPOCHS} epochs and "
          f"the teacher's logits before them, fp32, no dropout; losses of the first {len(wanted)} steps compared\n")
    print_table(["prediction stage", "rows/s", "ratio", "largest difference of a loss"], table)


def share(folder: Path, args: argparse.Namespace) -> None:
    """Time that the prediction stage of an MNLI-sized task spends scoring and saving: what a step, a scored row and a
    saved model take is measured on a slice of the task, how many there are is counted."""
    task = TASKS["mnli"]
    rows, *dev_rows = task.rows
    (folder / task.name).mkdir()
    write_pairs(folder / task.name / "train.tsv", task, rows // SLICE, 0)
    for seed, name in enumerate(task.dev_files, 1):
        write_pairs(folder / task.name / name, task, DEV_ROWS, seed)
    steps_done = EPOCHS * (rows // SLICE // BATCH)
    # the student is its own teacher, whose answers, asked once, are not what is looked at
    run_script(task_distill, folder, "pair", {"out": folder / "pair"}, [
        "--pred_distill", "--data_dir", folder / task.name, "--task_name", task.name, "--skip_teacher_check",
        "--train_batch_size", BATCH, "--num_train_epochs", EPOCHS, "--eval_step", steps_done // 2], lambda: None)
    record = json.loads((folder / "out" / "run.json").read_text())
    spent, times = record["seconds_of"], record["times_of"]
    a_step = spent["steps"] / (steps_done - 1)  # the first is a part of its own
    a_row = (spent["evaluate"] + spent["score"]) / times["evaluate"] / DEV_ROWS
    a_model, a_state = (spent.get(part, 0.0) / times.get(part, 1) for part in ("save", "state"))
    total = EPOCHS * (rows // BATCH)
    train, *dev = (encode_file(task, folder / task.name / name, load_tokenizer(folder / "pair", True),
                               task.max_seq_length).lengths for name in ("train.tsv", *task.dev_files))
    dev_wordpieces = sum(round(lengths.mean() * count) for lengths, count in zip(dev, dev_rows))
    chosen = scoring_interval(total, padded_wordpieces(train, BATCH), dev_wordpieces)
    table = []
    for interval, text in ((OLD_EVAL_STEP, "as it was"), (chosen, "as it is chosen")):
        scorings = -(-total // interval)
        scoring = scorings * sum(dev_rows) * a_row
        training = total * a_step
        saving = scorings * a_model + min(scorings * a_state, SHARE_OF_TIME * (training + scoring))
        everything = training + scoring + saving
        table.append([f"--eval_step {interval:,}, {text}", f"{scorings:,}", f"{everything / 3600:.1f}",
                      f"{scoring / everything:.1%}", f"{saving / everything:.1%}"])
    print(f"{rows:,} rows, {total:,} steps of {BATCH}, dev sets of {' and '.join(f'{count:,}' for count in dev_rows)}: "
          f"extrapolated by these counts from {steps_done} steps of {a_step * 1e3:,.0f} ms, {times['evaluate']} sets "
          f"of {DEV_ROWS} rows of {a_row * 1e3:.1f} ms and {times.get('save', 0)} models of {a_model:.2f} s on this "
          "machine. At most: as if both sets were scored and a better model saved every time.\n")
    print_table(["prediction stage", "scorings", "hours", "scoring", "saving"], table)


def evaluation(folder: Path, args: argparse.Namespace) -> None:
    """Scoring a dev set in batches of similar length against padding it."""
    with contextlib.redirect_stdout(io.StringIO()):
        student = TinyBertForSequenceClassification.from_pretrained(folder / "student", num_labels=2).eval()
    write_rows(folder / "SST-2" / "dev.tsv", DEV_ROWS, 1)
    table = []
    for length in LENGTHS:
        dev = encode_file(TASK, folder / "SST-2" / "dev.tsv", load_tokenizer(folder / "teacher", True), length)

        @torch.no_grad()
        def padded(dev=dev, length=length) -> np.ndarray:
            return np.concatenate([student(*dev.batch(np.arange(start, min(start + BATCH, len(dev))), length),
                                           attention_scores=())[0].numpy() for start in range(0, len(dev), BATCH)])

        def sorted_by_length(dev=dev) -> np.ndarray:
            return predict(student, TASK.head, dev, BATCH, ALONE)

        assert (padded().argmax(axis=1) == sorted_by_length().argmax(axis=1)).all()
        turns = [(seconds(padded), seconds(sorted_by_length)) for _ in range(5)]
        slow, fast = map(statistics.median, zip(*turns))
        table += [[f"all padded to {length}", f"{len(dev) / slow:,.0f}", "1.0"],
                  [f"batches of similar length, of {length} at most", f"{len(dev) / fast:,.0f}",
                   f"{statistics.median(a / b for a, b in turns):.1f}"]]
    print(f"{DEV_ROWS} rows of {dev.lengths.mean():.1f} wordpieces on average; the same predictions\n")
    print_table(["TinyBERT4 on a dev set", "rows/s", "ratio"], table)


def plain_bert_adam(parameters: list[torch.Tensor], states: list[tuple[torch.Tensor, torch.Tensor]],
                    decays: list[float], rate: float) -> None:
    """A step of BertAdam, one tensor after the other."""
    for parameter, (mean, variance), decay in zip(parameters, states, decays, strict=True):
        torch.nn.utils.clip_grad_norm_([parameter], 1.0)
        mean.mul_(0.9).add_(parameter.grad, alpha=0.1)
        variance.mul_(0.999).addcmul_(parameter.grad, parameter.grad, value=1 - 0.999)
        update = mean / (variance.sqrt() + 1e-6)
        if decay:
            update += decay * parameter
        parameter -= rate * update


@torch.no_grad()
def optimizer(folder: Path, args: argparse.Namespace) -> None:
    """BertAdam on the parameters of TinyBERT4 against a definition that takes one tensor after the other."""
    torch.manual_seed(0)
    student, plain = (TinyBertForPreTraining(STUDENTS["4l"]) for _ in range(2))
    plain.load_state_dict(student.state_dict())
    pairs = [parameter_groups(model, 0.01) for model in (student, plain)]
    adam = BertAdam(pairs[0], lr=1e-4)
    ours, theirs = ([p for group in groups for p in group["params"]] for groups in pairs)
    decays = [group["weight_decay"] for group in pairs[1] for _ in group["params"]]
    states = [(torch.zeros_like(p), torch.zeros_like(p)) for p in theirs]
    turns = []
    for _ in range(15):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a) * 0.01
            b.grad = a.grad.clone()
        turns.append((seconds(lambda: plain_bert_adam(theirs, states, decays, 1e-4)), seconds(adam.step)))
    difference = max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
    assert difference < 1e-6, difference
    slow, fast = map(statistics.median, zip(*turns[WARM_UP:]))
    print(f"{sum(p.numel() for p in ours) / 1e6:.1f} million parameters in {len(ours)} tensors; largest difference "
          f"after {len(turns)} steps {difference:.0e}\n")
    print_table(["optimizer", "ms a step", "ratio"], [
        ["one tensor after the other", f"{slow * 1e3:.1f}", "1.0"],
        ["BertAdam", f"{fast * 1e3:.1f}", f"{statistics.median(a / b for a, b in turns[WARM_UP:]):.1f}"]])


def memory(folder: Path, args: argparse.Namespace) -> None:
    """Bytes of an example in the arrays against padded int64 tensors: ids, segments, mask, label."""
    tokenizer = load_tokenizer(folder / "teacher", True)
    write_rows(folder / "SST-2" / "dev.tsv", DEV_ROWS, 1)
    sets = {"rows of SST-2": encode_file(TASK, folder / "SST-2" / "dev.tsv", tokenizer, LENGTH),
            "instances of general distillation": open_epoch(folder / "epoch_0.json", folder / "epoch_0_metrics.json",
                                                            tokenizer, LENGTH)}
    table = []
    for name, data in sets.items():
        arrays = [array for array in (data.tokens, data.offsets, data.first_lengths, data.labels) if array is not None]
        size, padded = sum(array.nbytes for array in arrays) / len(data), 8 * (3 * LENGTH + (data.labels is not None))
        table += [[f"{name}, padded tensors of int64", f"{data.lengths.mean():.1f}", f"{padded}", "1.0"],
                  [f"{name}, arrays", f"{data.lengths.mean():.1f}", f"{size:.1f}", f"{padded / size:.1f}"]]
    print_table(["features", "wordpieces an example", "bytes an example", "ratio"], table)


STAGES = {function.__name__: function
          for function in (general, intermediate, together, attention, prediction, share, evaluation, optimizer, memory,
                           hours)}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; `clock` tells the seconds that count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=[name for name in STAGES if name != "hours"])
    parser.add_argument("--batch", type=int, default=8, help="sequences of a step in `general` and `intermediate`")
    parser.add_argument("--accumulation", type=int, default=1, help="forward passes of such a step")
    parser.add_argument("--length", type=int, default=LENGTH, help="wordpieces of its sequences")
    parser.add_argument("--steps", type=int, default=6, help=f"such steps in each run, after {WARM_UP} others")
    return parse_with_clock(parser, argv)


def main(argv: list[str] | None = None) -> None:
    """Measure the stages asked for, and print their tables."""
    args = parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        if args.stages != ["hours"]:
            print(f"{machine('numpy', 'torch')}; {torch.get_num_threads()} threads of torch" +
                  ", processor time" * args.busy, flush=True)
            write_inputs(Path(temporary), args)
        for stage in args.stages:
            print(f"\n## {stage}" + f", load of the machine {os.getloadavg()[0]:.1f}" * (stage != "hours"), flush=True)
            STAGES[stage](Path(temporary), args)


if __name__ == "__main__":
    main()
