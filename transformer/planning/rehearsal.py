"""The rehearsal of reproduce.sh: each command that remains is run for a few steps, and what it took is scaled up.

A rehearsed command is the real script with its real flags (batch, length, precision, augmentation, ...) on a sample of
its files, in a temporary folder; it saves and evaluates twice. Commands that are alike are rehearsed once. Nothing that
is there is written to, and of a rehearsal results/rehearsal.json alone stays.
"""
from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from transformer.config import BertConfig
from transformer.data.parallel import available_cores
from transformer.data.tables import data_folder, task_folder
from transformer.files import InputError, in_words, read_json, write_json
from transformer.planning.costs import forward_flops, training_flops
from transformer.planning.languages import ENGLISH
from transformer.planning.made_up import Inputs
from transformer.planning.printing import aligned, print_assumed
from transformer.planning.projection import Measured, projected_bytes, projected_seconds
from transformer.planning.steps import Work, bytes_in, listed
from transformer.tokenization import open_tokenizer, vocab_path

RESULT = Path("results/rehearsal.json")
FEWEST_STEPS, MOST_STEPS = 3, 100  # of a rehearsed training
FEWEST_ROWS, MOST_ROWS = 64, 4096  # of each dev set, and to augment
FEWEST_INSTANCES = 20_000          # of an epoch file, whose reading is measured, too
TEXT_BYTES_EACH = 4 << 20          # of the corpus, for each worker
_SECONDS = 10                      # that the steps of a rehearsal are to take, as far as that can be told before
_FIRST_GUESS = {"cpu": 3e10, "cuda": 3e13}  # operations a second of one core, of a GPU; the first rehearsal tells more
# Settings that change nothing of what a step, a row or a start takes.
_NO_DIFFERENCE = {
    "output_dir", "seed", "variant", "data_dir", "task_name", "tasks", "student_model", "teacher_model", "model",
    "num_train_epochs", "eval_step", "save_steps", "learning_rate", "warmup_proportion", "weight_decay", "cache_dir",
    "do_predict", "models_dir", "resume", "overwrite_output_dir", "keep_checkpoints", "glue_dir",
    "skip_teacher_check", "temperature"}


class RehearsalFailed(Exception):
    """A rehearsed command ended with an error, which the message is, in one line."""


@dataclass
class Rehearsed:
    """A command, and what its rehearsal told: `measured`, or `failure`. like: the step whose rehearsal this was, where
    it was that of another."""
    work: Work
    measured: Measured | None = None
    failure: str = ""
    like: str = ""

    def facts(self, cores: int) -> dict[str, Any]:
        """For rehearsal.json."""
        measured = self.measured
        if measured is None:
            return {"command": list(self.work.step.argv), "failure": self.failure}
        return {"command": list(self.work.step.argv), "like": self.like or None,
                "hours": projected_seconds(measured, self.work, cores) / 3600, "steps": self.work.steps,
                "seconds_per_step": measured.seconds_per_step, "memory_gb": measured.memory_gb,
                "gpu_gb": measured.gpu_gb, "disk_gb": projected_bytes(measured, self.work) / 1e9,
                "made_up": measured.made_up}


@contextlib.contextmanager
def _temporary_folder(parent: Path) -> Iterator[Path]:
    """A folder that is removed at the end, also after a signal."""
    def stop(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".rehearsal-", dir=parent) as folder:
            yield Path(folder).resolve()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_command(argv: Sequence[str], mark: str = "", threads: int | None = None) -> tuple[float, float, float]:
    """Run a command of Python: its seconds, the GB of memory that its largest process had at its peak, and the seconds
    until it printed a line that starts with `mark` (0 where it did not). threads: of it; None: as it likes. The memory
    is no less than the peak of this process, which Linux counts in.

    RehearsalFailed with its last words where it fails; whatever it started ends with this process's part in it.
    """
    begin, marked, last = time.perf_counter(), 0.0, ""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)} if threads else None
    process = subprocess.Popen([sys.executable, *argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               errors="replace", start_new_session=True, env=environment)
    usage = None
    try:
        for line in process.stdout:
            if mark and not marked and line.startswith(mark):
                marked = time.perf_counter() - begin
            if line.strip() and (": error: " not in last or ": error: " in line):
                last = line.rstrip("\n").split("\r")[-1].strip() or last
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        if usage is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()
    if process.returncode:
        if process.returncode == -signal.SIGKILL:
            last = "killed by the system, most likely for want of memory"
        raise RehearsalFailed(last.partition(": error: ")[2] or last or f"exit status {process.returncode}")
    unit = 1e9 if sys.platform == "darwin" else 1e9 / 1024
    return time.perf_counter() - begin, usage.ru_maxrss / unit, marked


class Rehearsal:
    """Rehearses commands in a temporary folder, in the order of the run."""

    def __init__(self, works: Sequence[Work], folder: Path, jobs: int = 1):
        self.works = works
        self.jobs = jobs
        self.cores = available_cores()
        on_gpu = torch.cuda.is_available()
        self.speed = _FIRST_GUESS["cuda"] if on_gpu else _FIRST_GUESS["cpu"] * torch.get_num_threads()
        self._done: dict[str, Rehearsed] = {}
        self._language = works[0].language if works else ENGLISH
        self._inputs = Inputs(folder, self._known_vocabulary(), self._language)
        self._place = folder / "now"  # of the command that is rehearsed now

    def _known_vocabulary(self) -> Path | None:
        """A model folder that is there, and whose vocabulary the run has."""
        for work in self.works:
            for name in ("teacher_model", "bert_model", "pretrained_bert_model", "student_model"):
                for folder in map(Path, listed(getattr(work.args, name, None))):
                    if vocab_path(folder).is_file() and folder.is_dir():
                        return folder
        folder = Path("models", self._language.bert)
        return folder if (folder / "vocab.txt").is_file() else None

    def rehearse(self, work: Work) -> Rehearsed:
        """What a command will take; a command like an earlier one is not run again."""
        if work.refused:
            return Rehearsed(work, failure=work.refused)
        key = self._key(work)
        if key in self._done:
            earlier = self._done[key]
            return Rehearsed(work, earlier.measured, earlier.failure, earlier.work.step.name)
        result = Rehearsed(work)
        self._inputs.invented.clear()
        self._place.mkdir()
        try:
            result.measured = getattr(self, f"_{work.kind}")(work)
            result.measured.made_up = list(dict.fromkeys(self._inputs.invented))
        except (RehearsalFailed, InputError, OSError) as error:
            result.failure = " ".join(in_words(error).split())
        finally:
            shutil.rmtree(self._place, ignore_errors=True)
        self._done[key] = result
        return result

    def _key(self, work: Work) -> str:
        """What commands that take the same for a row and a step have in common."""
        facts = {name: value for name, value in vars(work.args).items() if name not in _NO_DIFFERENCE}
        facts["models"] = [folder for name in ("teacher_model", "student_model", "model")
                           for folder in listed(getattr(work.args, name, None)) if Path(folder).is_dir()]
        if work.kind != "intermediate" or getattr(work.args, "dynamic_padding", False):
            facts["task"] = work.task and work.task.name  # rows are as long as they are
        return json.dumps([work.kind, facts, list(map(vars, work.students)), work.teacher and vars(work.teacher)],
                          default=str, sort_keys=True)

    def threads(self, work: Work) -> int | None:
        """What reproduce.sh sets OMP_NUM_THREADS to, for the step of a command; None: nothing."""
        names = {other.step.name for other in self.works if other.step.stage == work.step.stage}
        side_by_side = min(self.jobs, len(names))
        return max(1, self.cores // side_by_side) if side_by_side > 1 and "OMP_NUM_THREADS" not in os.environ else None

    def _run(self, work: Work, flags: dict[str, object], without: Sequence[str] = (), mark: str = "",
             ) -> tuple[float, float, float]:
        """run_command() of a step's command, with these flags at the end, where the last of two equal ones counts."""
        given = [word for word in work.step.argv if word not in without]
        for name, value in flags.items():
            values = value if isinstance(value, list) else [] if value is True else [value]
            given += [f"--{name}", *map(str, values)]
        return run_command(given, mark, self.threads(work))

    # --- training

    def _steps(self, work: Work) -> int:
        """Optimizer steps to rehearse, of which the first is not measured."""
        step = training_flops(work) / work.steps / self.speed
        return math.ceil(min(max(_SECONDS / step, FEWEST_STEPS), MOST_STEPS))

    def _rows(self, work: Work, config: BertConfig) -> int:
        """Rows to answer by a model of this config, of each dev set."""
        row = forward_flops(config, max(work.length, 16)) / self.speed
        return math.ceil(min(max(_SECONDS / 2 / row, FEWEST_ROWS), MOST_ROWS))

    def _train(self, work: Work, flags: dict[str, object], size: int, cache: Path, rows: dict[str, float],
               reading: float) -> Measured:
        """Run a training script on `size` rows, and read its record. cache: where its arrays go; rows: of each time
        that a part is gone through; reading: as in Measured."""
        outputs = [self._place / f"output_{number}" for number, _ in enumerate(work.students)]
        wall, memory_gb, _ = self._run(work, {"output_dir": outputs, **flags}, ["--resume", "--overwrite_output_dir"])
        output = outputs[0]  # where several students are trained, each record has the time of all
        record = read_json(output / "run.json")
        seconds, times = record["seconds_of"], record["times_of"]
        timed = record["steps"] - record["resumed_from"] - 1
        # once for each block of rows, which a sample does not fill, or each dev set
        rows = {part: count * times.get(part, 1) for part, count in rows.items()}
        last_line = (output / "metrics.jsonl").read_text().splitlines()[-1]
        self.speed = training_flops(work) / work.steps / (seconds["steps"] / timed)  # for the next rehearsal
        gpu_gb = json.loads(last_line).get("gpu_memory_gb")
        # two, each with both moments
        states = 6 * sum((folder / "pytorch_model.bin").stat().st_size for folder in outputs)
        return Measured(wall, seconds, times, timed, size, rows, reading, memory_gb=memory_gb, gpu_gb=gpu_gb,
                        kept=sum(map(bytes_in, outputs)), growing=bytes_in(cache), states=states)

    @staticmethod
    def _two_logs(steps: int) -> dict[str, object]:
        return dict.fromkeys(("eval_step", "save_steps"), math.ceil(steps / 2))

    def _general(self, work: Work) -> Measured:
        args, steps = work.args, self._steps(work)
        batch = args.train_batch_size
        folder, instances = self._inputs.instances(
            self._place, Path(args.pregenerated_data), max(FEWEST_INSTANCES, steps * batch), args.max_seq_length,
            work.teacher)
        epoch_steps = max(1, instances // batch)
        flags = {"pregenerated_data": folder, "teacher_model": self._teacher_model(work, "bert"),
                 "student_model": self._student_models(work), "num_train_epochs": (steps + 0.5) / epoch_steps,
                 **self._two_logs(steps)}
        measured = self._train(work, flags, instances, folder / "epoch_0.arrays", {}, 0.0)
        parts = max(1, bytes_in(folder / "epoch_0.json") >> 24)
        measured.reading = measured.seconds["encode"] * min(self.cores, parts) / instances
        if not args.reduce_memory:  # an epoch is held in memory
            measured.memory_gb += measured.growing / instances * max(0, work.examples - instances) / 1e9
        return measured

    def _teacher_model(self, work: Work, role: str) -> Path:
        name = "teacher_model" if "teacher_model" in vars(work.args) else "pretrained_bert_model"
        return self._inputs.model(getattr(work.args, name), role, work.teacher, task=work.task)

    def _student_models(self, work: Work) -> list[Path]:
        return [self._inputs.model(folder, "general", student, work.teacher, fit_per_layer=work.args.fit_per_layer)
                for folder, student in zip(listed(work.args.student_model), work.students, strict=True)]

    def _task_stage(self, work: Work) -> Measured:
        args, steps = work.args, self._steps(work)
        teacher = self._teacher_model(work, "task")
        students = self._student_models(work)
        dev_rows = self._rows(work, work.teacher)
        real = data_folder(args.data_dir, work.task)
        folder = self._inputs.task(self._place, work.task, real, steps * args.train_batch_size, dev_rows,
                                   args.aug_train, work.teacher)
        train = folder / (work.task.aug_file if args.aug_train else work.task.train_file)
        flags = {"data_dir": folder, "task_name": work.task.name, "teacher_model": teacher, "student_model": students,
                 "cache_dir": self._place / "cache", **self._two_logs(steps),
                 "skip_teacher_check": True}
        return self._train_on_task(work, flags, steps, train, self._place / "cache")

    _intermediate = _prediction = _task_stage

    def _teacher(self, work: Work) -> Measured:
        args, steps = work.args, self._steps(work)
        start = args.model
        if any(other.step.script == "fix_teacher_layers" and other.step.state != "done" for other in self.works):
            start = "a fixed model"  # which is not there yet, whatever the hub's looks like
        model = self._inputs.model(start, "task", work.student, task=work.task)
        folder = self._inputs.task(self._place, work.task, task_folder(args.glue_dir, work.task),
                                   math.ceil(steps / 2) * args.train_batch_size, self._rows(work, work.student), False,
                                   work.student)
        train = folder / work.task.train_file
        epoch = work.files.count(train) // args.train_batch_size
        flags = {"glue_dir": folder.parent, "tasks": work.task.name, "models_dir": self._place / "models",
                 "model": model, "save_steps": max(1, epoch)}
        return self._train_on_task(work, flags, steps, train, folder / "features")

    def _train_on_task(self, work: Work, flags: dict[str, object], steps: int, train: Path, cache: Path) -> Measured:
        examples = work.files.count(train)
        dev = [work.files.count(train.parent / name) for name in work.task.dev_files]
        epoch_steps = examples // work.args.train_batch_size
        if not epoch_steps:
            raise InputError(f"{train.name} holds {examples} examples, not enough for one batch of "
                             f"{work.args.train_batch_size}: make that smaller")
        epochs = max(2, steps // epoch_steps) if work.kind == "teacher" else (steps + 0.5) / epoch_steps
        tokenizer = open_tokenizer(flags.get("teacher_model", flags.get("model")))
        mean = sum(dev) / len(dev)  # of each pass over one dev set
        return self._train(work, {**flags, "num_train_epochs": epochs}, examples + sum(dev), cache,
                           {"logits": examples, "teacher": mean, "evaluate": mean},
                           work.files.reading(train, tokenizer, self._place))

    # --- the others

    def _evaluation(self, work: Work) -> Measured:
        args = work.args
        config = work.student
        model = self._inputs.model(*listed(args.student_model), "task", config, work.teacher, work.task)
        real = data_folder(args.data_dir, work.task)
        folder = self._inputs.task(self._place, work.task, real, 0, self._rows(work, config), False, config)
        rows = sum(work.files.count(folder / name) for name in work.task.dev_files)
        model, output = self._inputs.linked(self._place, model), self._place / "output"
        flags = {"data_dir": folder, "task_name": work.task.name, "student_model": model, "output_dir": output,
                 "cache_dir": self._place / "cache", "do_eval": True}
        wall, memory_gb, _ = self._run(work, flags, ["--do_predict"])
        record = read_json(model / "eval_results.json")
        return Measured(wall, record["seconds_of"], record["times_of"], 0, rows, {"evaluate": rows},
                        work.files.reading(folder / work.task.dev_files[0], open_tokenizer(model), self._place),
                        memory_gb=memory_gb, growing=bytes_in(self._place / "cache"))

    def _augment(self, work: Work) -> Measured:
        args, task = work.args, work.task
        each = work.words * forward_flops(work.teacher, work.masked_length)  # of a row's masked words
        count = math.ceil(min(max(_SECONDS * self.speed / each, FEWEST_ROWS / 2), MOST_ROWS))
        real = task_folder(args.glue_dir, task)
        folder = self._inputs.task(self._place, task, real, count, 0, False, work.teacher)
        flags = {"glue_dir": folder.parent, "task_name": task.name,
                 "pretrained_bert_model": self._teacher_model(work, "bert")}
        if args.glove_embs:
            flags["glove_embs"] = self._inputs.vectors(Path(args.glove_embs), work.teacher)
        wall, memory_gb, _ = self._run(work, flags, ["--resume", "--overwrite_output_dir"])
        record = read_json((folder / task.aug_file).with_suffix(".json"))
        train = folder / task.train_file
        return Measured(wall, record["seconds_of"], record["times_of"], size=work.files.to_augment(train)[0],
                        different=work.files.variety(train, real / train.name), memory_gb=memory_gb,
                        growing=(folder / task.aug_file).stat().st_size)

    def _pregenerate(self, work: Work) -> Measured:
        args = work.args
        text = self._inputs.corpus(self._place, Path(args.train_corpus), TEXT_BYTES_EACH * args.num_workers,
                                   work.language.config)
        model = args.bert_model
        if not model.exists():
            self._inputs.invented.append("vocabulary")
            model = self._inputs.vocabulary(work.language.config)
        output = self._place / "output"
        flags = {"train_corpus": text, "bert_model": model, "output_dir": output, "tmp_dir": output}
        wall, memory_gb, marked = self._run(work, flags, mark="estimate:")
        return Measured(wall, {"making": wall - marked}, size=text.stat().st_size, memory_gb=memory_gb,
                        growing=bytes_in(output))


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {"processor": platform.machine(), "cores": available_cores(), "memory_gb": round(memory, 1), "gpus": gpus,
            "torch": torch.__version__}


def lacking(results: Sequence[Rehearsed], memory_gb: float) -> list[str]:
    """What the run needs and this machine has not, one line each."""
    problems = [f"{result.work.step.name} needs {result.measured.memory_gb:.1f} GB of memory, and the machine has "
                f"{memory_gb:.1f}" for result in results
                if result.measured and result.measured.memory_gb > memory_gb]
    needed: dict[int, tuple[float, float, Path]] = {}
    for result in results:
        if result.measured:
            place = _existing(Path(result.work.outputs[0] if result.work.outputs else "."))
            disk = place.stat().st_dev
            stays, states, _ = needed.get(disk, (0.0, 0.0, place))
            needed[disk] = (stays + projected_bytes(result.measured, result.work), max(states, result.measured.states),
                            place)
    for stays, states, place in needed.values():
        free = shutil.disk_usage(place).free
        if stays + states > free:
            problems.append(f"the disk of {place.resolve()} has {free / 1e9:.1f} GB free, and the rehearsed steps need "
                            f"{(stays + states) / 1e9:.1f}")
    return problems


def _existing(path: Path) -> Path:
    """The path, or the folder above it that is there."""
    return path if path.exists() else _existing(path.parent)


def table(results: Sequence[Rehearsed], cores: int) -> str:
    """The measured table, for people."""
    rows = [("step", "s/step", "steps", "RAM GB", "GPU GB", "hours", "disk GB", "")]
    hours = 0.0
    for result in results:
        measured, work = result.measured, result.work
        if measured is None:
            rows.append((work.step.name, *[""] * 6, f"FAILED: {result.failure}"))
            continue
        own = projected_seconds(measured, work, cores) / 3600
        hours += own
        notes = [f"as {result.like}"] if result.like else []
        notes += ["made-up input: " + ", ".join(measured.made_up)] if measured.made_up else []
        rows.append((work.step.name, f"{measured.seconds_per_step:.3g}" if measured.steps else "",
                     f"{work.steps:,}" if work.steps else "", f"{measured.memory_gb:.1f}",
                     "" if measured.gpu_gb is None else f"{measured.gpu_gb:.1f}", f"{own:.4g}",
                     f"{projected_bytes(measured, work) / 1e9:.3g}", "; ".join(notes)))
    rows.append(("together", "", "", "", "", f"{hours:.4g}", "", "one after the other"))
    return aligned(rows, names=1)


def rehearse(works: Sequence[Work], jobs: int = 1) -> None:
    """Rehearse all commands that remain, each with the threads that it gets where so many run side by side; print the
    table and write results/rehearsal.json. InputError where a command failed or something does not fit."""
    remaining = [work for work in works if work.step.state != "done" and work.step.argv]
    skipped = [work.step.name for work in remaining if work.kind == "other" and not work.refused]
    chosen = [work for work in remaining if work.kind != "other" or work.refused]
    results = []
    with _temporary_folder(RESULT.parent) as folder:
        rehearsal = Rehearsal(works, folder, jobs)
        for number, work in enumerate(chosen, 1):
            print(f"[{number}/{len(chosen)}] {work.step.name}", flush=True)
            results.append(rehearsal.rehearse(work))
    facts = machine()
    if results:
        print(table(results, rehearsal.cores))
    if skipped:
        print(f"not rehearsed: {' '.join(dict.fromkeys(skipped))}")
    print_assumed(chosen)
    write_json(RESULT, {
        "steps": {result.work.step.name: result.facts(rehearsal.cores) for result in results}, "machine": facts})
    problems = lacking(results, facts["memory_gb"])
    failed = [result.work.step.name for result in results if result.failure]
    if failed or problems:
        raise InputError("; ".join(([f"failed: {' '.join(failed)}"] if failed else []) + problems))
