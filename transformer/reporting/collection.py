"""The runs of this kit below some folders: what each one is, its dev scores, and what had to be left out, and why.

And how report.py speaks of them: the name of a model, a score with its spread and its sources.
"""
from __future__ import annotations

import math
import os
import re
import shlex
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from transformer.config import CONFIG_NAME, BertConfig
from transformer.files import InputError, read_json
from transformer.modeling import TinyBertForSequenceClassification
from transformer.reporting.curves import read_metrics
from transformer.reporting.pages import Inline, Link
from transformer.tasks.glue import TASKS, get_task
from transformer.tasks.task import Task
from transformer.training.record import EVAL_NAME, RUN_NAME
from transformer.training.states import result_settings

METRICS = {"acc": "accuracy", "acc_mismatched": "accuracy, mm", "f1": "F1", "mcc": "MCC", "pearson": "Pearson",
           "spearmanr": "Spearman"}
MISSING = "missing"  # in place of a score that no run has
Left = list[tuple[Path, str]]  # what is left out, in whole or in part, and why; and what else is to be known
_STAGES = ("teacher", "general", "intermediate", "prediction", "fine-tuning")
_TEACHER_LAYERS = "--init_from_teacher_layers"
_PLACES = {"data_dir", "glue_dir", "models_dir", "student_model", "teacher_model", "model"}


@dataclass
class Run:
    """A finished run. `scores` are those on the dev set, fractions by metric, read from the file `source`; a run
    without a task or a score has none. `student` is 4l or 6l, empty for a teacher."""
    folder: Path
    stage: str                 # one of _STAGES; fine-tuning: of a student, by finetune_teacher.py
    student: str
    task: Task | None
    variant: str
    seed: int
    record: dict[str, Any]
    scores: dict[str, float] = field(default_factory=dict)
    source: str = ""
    number: int = 0            # in the report

    @property
    def is_result(self) -> bool:
        """Whether it is the last run of a student on a task, whose score counts."""
        return self.stage in ("prediction", "fine-tuning")

    @property
    def key(self) -> tuple:
        """What two runs must not have in common."""
        return self.variant, self.seed, self.task and self.task.key, self.student, self.is_result or self.stage

    @property
    def order(self) -> tuple:
        """To sort by: stage, student, task as in the table of tasks, variant, seed."""
        task = list(TASKS).index(self.task.key) if self.task else 0
        return _STAGES.index(self.stage), self.student, task, self.variant != "full", self.variant, self.seed

    @property
    def started(self) -> float:
        """Seconds since 1970; 0 where run.json does not tell."""
        return _started(self.record)


def _started(record: dict) -> float:
    try:
        return datetime.strptime(record["started"], "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except (KeyError, TypeError, ValueError):
        return 0.0


def shown_metrics(task: Task) -> tuple[str, ...]:
    """The metrics of a task that tables show, as the paper does."""
    return {"MNLI": ("acc", "acc_mismatched"), "MRPC": ("f1", "acc"), "QQP": ("f1", "acc"),
            "STS-B": ("pearson", "spearmanr")}.get(task.name, (task.metric,))


def is_number(value: Any) -> bool:
    """Whether a value from a JSON file is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def variant_of(folder: Path) -> str:
    """VARIANT of models/runs/VARIANT/MODEL and models/runs/VARIANT/seed_S/MODEL; full elsewhere."""
    path = os.path.abspath(folder)  # noqa: PTH100  links are kept: models may be one to a folder of another name
    match = re.search(r"/models/runs/([^/]+)/(seed_[^/]+/)?[^/]+$", path)
    return match[1] if match else "full"


def _student(record: dict, folder: Path, script: str) -> str:
    """4l, 6l: from the names of the folders in run.json, else the number of layers; empty for a teacher."""
    settings = record["settings"]
    for name in (settings.get("output_dir"), settings.get("student_model"), record.get("start"), folder.name):
        if match := re.search(r"tinybert_(\d+l)", Path(str(name)).name):
            return match[1]
    return "" if script == "finetune_teacher" else f"{read_json(folder / CONFIG_NAME).get('num_hidden_layers')}l"


def _scores(values: Any, task: Task) -> dict[str, float]:
    """The metrics of a task among `values`; InputError where the one that counts is not there."""
    if not isinstance(values, dict) or not is_number(values.get(task.metric)):
        raise InputError(f"no {task.metric} of {task.name}")
    return {name: float(values[name]) for name in {task.metric, *shown_metrics(task)} if is_number(values.get(name))}


def dev_examples(folder: Path) -> tuple[int, ...]:
    """Rows of each dev set that --do_eval scored; empty where its file does not tell."""
    try:
        return tuple(map(int, read_json(folder / EVAL_NAME)["counts"].values()))
    except (InputError, KeyError, TypeError, ValueError, AttributeError):
        return ()


def _start(settings: dict[str, Any]) -> dict[str, Any]:
    """run.json of the run that made the student from which a run started; empty where it cannot be read."""
    try:
        return read_json(Path(str(settings.get("student_model"))) / RUN_NAME)
    except (InputError, OSError):
        return {}


def ablation_flags(settings: dict[str, Any], task: Task | None) -> list[str]:
    """The flags among the settings of a run, and of those that it started from, that make it an ablation; and
    _TEACHER_LAYERS, which the paper does not have."""
    flags = [flag for flag in ("--hard_labels", "--from_scratch", _TEACHER_LAYERS) if settings.get(flag[2:])]
    if settings.get("layer_mapping", "uniform") != "uniform":
        flags.append(f"--layer_mapping {settings['layer_mapping']}")
    if settings.get("without"):
        flags.append(f"--without {' '.join(map(str, settings['without']))}")
    # the paper does not augment WNLI, nor STS-B in the prediction stage
    plain = task is None or task.name == "WNLI" or task.name == "STS-B" and settings.get("pred_distill")
    if settings.get("aug_train") is False and not plain:
        flags.append("no --aug_train")
    try:
        before = _start(settings)["settings"]
        if settings.get("pred_distill") and "task_name" not in before:
            flags.append("no intermediate stage")
        if before.get("student_model") != settings["student_model"]:
            flags += ablation_flags(before, task if "task_name" in before else None)
    except (KeyError, TypeError, AttributeError, RecursionError):
        pass  # it is judged, and named, where it stands
    return list(dict.fromkeys(flags))


def read_run(folder: Path) -> tuple[Run, list[str]]:
    """The run of a folder, and what is to be said of it. InputError with the reason where it is none to report."""
    record = read_json(folder / RUN_NAME)
    if "finished" not in record:
        raise InputError("not a run of this kit")
    if record["finished"] is not True:
        raise InputError("not finished: it was stopped, it failed, or it is still going")
    try:
        script = Path(shlex.split(record["command"])[0]).stem
        settings = record["settings"]
        task = get_task(record["task"]) if "task" in record else None
        student = _student(record, folder, script)
        stage = {"general_distill": "general", "finetune_teacher": "fine-tuning" if student else "teacher",
                 "task_distill": "prediction" if settings.get("pred_distill") else "intermediate"}.get(script)
        run = Run(folder, stage, student, task, variant_of(folder), int(settings["seed"]), record)
        flags = ablation_flags(settings, task) + ["no teacher"] * (stage == "fine-tuning")
        if not all(is_number(settings[name]) for name in ("train_batch_size", "learning_rate")) or \
                not isinstance(record["hardware"], dict):
            raise TypeError("batch size, learning rate or hardware")
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(f"run.json of another tool or of another version of the kit ({error!r})") from None
    if not stage:
        raise InputError(f"made by {script}, which is no training script of this kit")
    if stage != "general" and not task:
        raise InputError("run.json of another version of the kit: it names no task")
    notes = []
    if _TEACHER_LAYERS in flags:
        flags.remove(_TEACHER_LAYERS)
        notes.append(f"general distillation began with the teacher's layers ({_TEACHER_LAYERS})")
    if run.variant == "full" and flags:
        raise InputError(f"an ablation by its settings ({', '.join(flags)}): keep it in models/runs/NAME/seed_S")
    if 0 < run.started < _started(_start(settings)):
        notes.append(f"it started from {settings['student_model']}, which was made anew afterwards")
    if run.is_result or stage == "teacher":
        try:
            evaluation = read_json(folder / EVAL_NAME)
            if get_task(str(evaluation.get("task"))) != task:
                raise InputError(f"not of {task.name}")
            if evaluation.get("model_finished") is False:
                raise InputError("of a model that was not finished")
            run.scores, run.source = _scores(evaluation.get("values"), task), EVAL_NAME
            trained = {"do_lower_case": not settings.get("cased"), **settings}  # finetune_teacher.py has --cased
            scored = evaluation.get("settings")
            scored = {**trained, **scored} if isinstance(scored, dict) else trained
            notes += [f"{EVAL_NAME} was scored with {name} {scored[name]}, the run had {trained.get(name)}"
                      for name in ("max_seq_length", "do_lower_case") if scored.get(name) != trained.get(name)]
        except InputError as error:
            if (folder / EVAL_NAME).exists():
                notes.append(f"{EVAL_NAME} left out ({error}): the score is that of {RUN_NAME}")
            run.scores, run.source = _scores(record.get("kept") if script == "task_distill" else record, task), RUN_NAME
    return run, notes


def collect(roots: list[Path]) -> tuple[list[Run], Left]:
    """All runs below `roots`, numbered and in order, and (folder, reason) for all that is left out or noted.

    Of two runs of the same variant, seed, task and student the one that started later is taken.
    """
    runs: dict[tuple, Run] = {}
    left = []
    folders = {path.parent.resolve(): path.parent for root in reversed(roots) for path in root.rglob(RUN_NAME)}
    for folder in sorted(folders.values()):
        try:
            run, notes = read_run(folder)
        except (InputError, OSError) as error:
            left.append((folder, str(error)))
            continue
        left += [(folder, note) for note in notes]
        other = runs.get(run.key)
        if other and other.started >= run.started:
            run, other = other, run
        if other:
            left.append((other.folder, f"the same variant, seed, task and student as {run.folder}, which is newer"))
        runs[run.key] = run
    ordered = sorted(runs.values(), key=lambda run: run.order)
    for number, run in enumerate(ordered, 1):
        run.number = number
    return ordered, left


def differing_settings(runs: list[Run]) -> list[str]:
    """Names of the settings, seed and places aside, in which runs of one group differ though they move the result.

    Those that only some have are of another version of the kit.
    """
    settings = [result_settings(run.record["settings"]) for run in runs]
    names = set.intersection(*map(set, settings)) - _PLACES - {"seed"}
    return sorted(name for name in names if len({values[name] for values in settings}) > 1)


def tasks_of(runs: Iterable[Run]) -> list[Task]:
    """The tasks that the runs have, in the order of the table of tasks."""
    there = {run.task for run in runs}
    return [task for task in TASKS.values() if task in there]


def comparable(runs: list[Run]) -> tuple[dict[str, list[Run]], list[Task]]:
    """Runs of the full method by the name of a model whose size can be read, and the tasks that all of these have."""
    scored = [run for run in runs if run.variant == "full" and (run.is_result or run.stage == "teacher")]
    models = {model_name(student): [run for run in scored if run.student == student]
              for student in sorted({run.student for run in scored})}
    models = {name: group for name, group in models.items() if parameters(group[0])}
    return models, [task for task in TASKS.values() if all(task in tasks_of(group) for group in models.values())]


def model_name(student: str) -> str:
    """TinyBERT4 for 4l; of the empty string, teacher."""
    return f"TinyBERT{student.removesuffix('l')}" if student else "teacher"


def score(runs: list[Run], metric: str) -> tuple[list[Run], list[float]]:
    """The runs that have the metric, and its values in percent."""
    scored = [run for run in runs if metric in run.scores]
    return scored, [100 * run.scores[metric] for run in scored]


def cell(runs: list[Run], metric: str) -> Inline:
    """Mean of a metric in percent, sample standard deviation where there are several, n, and the runs it is from."""
    scored, values = score(runs, metric)
    if not values:
        return MISSING
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return [f"{statistics.fmean(values):.1f}{deviation} (n={len(values)})", *references(scored)]


def references(runs: Iterable[Run]) -> list[Inline]:
    """The runs' numbers in the report, each a link to its run.json."""
    parts: list[Inline] = []
    for run in runs:
        parts += [" ", Link(str(run.number), run.folder / RUN_NAME, small=True)]
    return parts


def lines_of(runs: list[Run], value: str, scale: float, left: Left) -> list[tuple[Run, list, list]]:
    """(run, steps, values) of those runs whose metrics.jsonl tells the value."""
    lines = []
    for run in runs:
        try:
            points = [(line["step"], scale * line[value]) for line in read_metrics(run.folder)
                      if is_number(line.get("step")) and is_number(line.get(value))]
        except InputError as error:
            if (run.folder, f"no curve: {error}") not in left:
                left.append((run.folder, f"no curve: {error}"))
            continue
        if points:
            lines.append((run, *map(list, zip(*points))))
    return lines


def parameters(run: Run) -> int:
    """Of the classifier that config.json in the run's folder describes; 0 where there is none that can be read."""
    try:
        with torch.device("meta"):
            model = TinyBertForSequenceClassification(BertConfig.from_json_file(run.folder / CONFIG_NAME),
                                                      run.task.num_labels)
    except (InputError, TypeError):
        return 0
    return sum(weight.numel() for weight in model.parameters())


def milliseconds(path: Path, left: Left) -> dict[str, tuple[int, float]]:
    """(parameters, median milliseconds) of each model of the kit in inference.json: batch 1, length 128, fp32, CPU."""
    if not path.is_file():
        return {}
    wanted = {"engine": "kit", "device": "cpu", "precision": "fp32", "batch": 1, "length": 128}
    try:
        rows = [row for row in read_json(path)["rows"] if wanted.items() <= row.items()]
        return {row["model"].replace("BERT-base", "teacher"):
                (int(row["parameters"]), float(row["milliseconds_median"])) for row in rows
                if is_number(row["milliseconds_median"]) and row["milliseconds_median"] > 0}
    except (InputError, KeyError, TypeError, ValueError, AttributeError) as error:
        left.append((path, f"not one of benchmarks/bench_inference.py ({error!r})"))
        return {}


def noted_seconds(roots: list[Path]) -> dict[tuple[Path, str], list[int]]:
    """The seconds that reproduce.sh noted in results/steps: by that folder and the first word of the step's name."""
    found: dict[tuple[Path, str], list[int]] = {}
    for steps in sorted({steps.resolve(): steps for root in roots for steps in root.rglob("steps")}.values()):
        for mark in filter(Path.is_file, steps.rglob("*.seconds")):
            text = mark.read_text(encoding="utf-8", errors="replace").strip()
            if text.isdecimal():
                found.setdefault((steps, mark.stem.split("_")[0]), []).append(int(text))
    return found
