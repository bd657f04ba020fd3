"""The runs of this kit below some folders: what each one is, its dev scores, and what has to be left out, and why."""
from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any

from transformer.cli import SPAN_SETTINGS
from transformer.config import CONFIG_NAME, BertConfig
from transformer.files import InputError, read_json
from transformer.reporting.runs import FinishedRun, Remarks, is_number, shown_metrics, started_at
from transformer.tasks.own import recorded_task
from transformer.tasks.table import SQUAD, is_known_task
from transformer.tasks.task import Task
from transformer.training.record import EVAL_NAME, RUN_NAME, student_label

# Flags that the paper does not have, and what is noted of a run with one, or of one that started from its student.
_NOTED = {"--init_from_teacher_layers": "general distillation began with the teacher's layers",
          "--fit_per_layer": "each hidden state has a projection of its own"}


def collect(roots: list[Path]) -> tuple[list[FinishedRun], Remarks]:
    """All runs below `roots`, numbered and in order, and (folder, reason) for all that is left out or noted.

    Of two runs of the same variant, seed, task and student the one that started later is taken.
    """
    taken: dict[tuple, FinishedRun] = {}
    remarks = []
    folders = {path.parent.resolve(): path.parent for root in reversed(roots) for path in root.rglob(RUN_NAME)}
    for folder in sorted(folders.values()):
        try:
            newer, notes = examine_run(folder)
        except (InputError, OSError) as error:
            remarks.append((folder, str(error)))
            continue
        remarks += [(folder, note) for note in notes]
        older = taken.get(newer.key)
        if older and older.started >= newer.started:
            newer, older = older, newer
        if older:
            remarks.append((older.folder,
                            f"the same variant, seed, task and student as {newer.folder}, which is newer"))
        taken[newer.key] = newer
    ordered = sorted(taken.values(), key=lambda run: run.order)
    for number, run in enumerate(ordered, 1):
        run.number = number
    return ordered, remarks


def examine_run(folder: Path) -> tuple[FinishedRun, list[str]]:
    """The run of a folder, and what is to be said of it. InputError with the reason where it is none to report."""
    record = read_json(folder / RUN_NAME)
    if "finished" not in record:
        raise InputError("not a run of this kit")
    if record["finished"] is not True:
        raise InputError("not finished: it was stopped, it failed, or it is still going")
    try:
        run = _as_recorded(folder, record)
        settings = record["settings"]
        flags = ablation_flags(settings, run.task) + ["no teacher"] * (run.stage == "fine-tuning")
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(f"run.json of another tool or of another version of the kit ({error!r})") from None
    notes = [f"{_NOTED[flag]} ({flag})" for flag in flags if flag in _NOTED]
    flags = [flag for flag in flags if flag not in _NOTED]
    if (family := record.get("teacher_family", "BERT")) != "BERT":
        notes.append(f"its teacher is of the family {family}, the paper's is a BERT")
    if run.variant == "full" and flags:
        raise InputError(f"an ablation by its settings ({', '.join(flags)}): " + (
            f'make it with --variant NAME, or write NAME as "variant" into its {RUN_NAME}' if "variant" in record else
            "keep it in models/runs/NAME/seed_S; one that is made anew takes --variant NAME"))
    if folder_variant(folder) not in (None, run.variant):
        notes.append(f"variant {run.variant} by its {RUN_NAME}, {folder_variant(folder)} by its folder: it counts as "
                     f"{run.variant}")
    if 0 < run.started < started_at(_record_of_start(settings)):
        notes.append(f"it started from {settings['student_model']}, which was made anew afterwards")
    before = _record_of_start(settings).get("settings")
    run.is_augmented = isinstance(before, dict) and before.get("aug_train") is True
    if run.is_result or run.stage == "teacher":
        notes += _add_scores(run)
    return run, notes


def _script(record: dict[str, Any]) -> str:
    """The script that made a run, without .py."""
    return Path(shlex.split(record["command"])[0]).stem


def _as_recorded(folder: Path, record: dict[str, Any]) -> FinishedRun:
    """The run that run.json describes, without scores. InputError where it is none to report, and whatever comes of a
    run.json that is not as the kit writes it."""
    settings, script = record["settings"], _script(record)
    task = recorded_task(record, RUN_NAME) if "task" in record else None
    variant = record["variant"] if "variant" in record else folder_variant(folder) or "full"
    student = record["student"] if "student" in record else _guessed_student(folder, record)
    if not isinstance(variant, str) or not isinstance(student, str):
        raise TypeError("variant or student")
    if not all(is_number(settings[name]) for name in ("train_batch_size", "learning_rate")) or \
            not isinstance(record["hardware"], dict):
        raise TypeError("batch size, learning rate or hardware")
    if not all(isinstance(folder, str) for folder in record.get("trained_with", [])):
        raise TypeError("trained_with")
    stages = {"general_distill": "general", "finetune_teacher": "fine-tuning" if student else "teacher",
              "task_distill": "prediction" if settings.get("pred_distill") else "intermediate"}
    if script not in stages:
        raise InputError(f"made by {script}, which is no training script of this kit")
    stage = stages[script]
    if stage != "general" and not task:
        raise InputError("run.json of another version of the kit: it names no task")
    return FinishedRun(folder / RUN_NAME, stage, student, task, variant, int(settings["seed"]), record)


def folder_variant(folder: Path) -> str | None:
    """VARIANT of models/runs/VARIANT/MODEL and models/runs/VARIANT/seed_S/MODEL; None elsewhere.

    It tells the variant of runs of earlier versions, whose run.json does not.
    """
    path = os.path.abspath(folder)  # noqa: PTH100  links are kept: models may be one to a folder of another name
    match = re.search(r"/models/runs/([^/]+)/(seed_[^/]+/)?[^/]+$", path)
    return match[1] if match else None


def _guessed_student(folder: Path, record: dict[str, Any]) -> str:
    """FinishedRun.student of a run of an earlier version, whose run.json does not tell it."""
    label = student_label(record["settings"], record.get("start"), 0) or student_label({"output_dir": folder}, None, 0)
    if label or _script(record) == "finetune_teacher":
        return label
    layers = read_json(folder / CONFIG_NAME).get("num_hidden_layers", BertConfig.num_hidden_layers)
    return student_label({}, None, layers)


def _record_of_start(settings: dict[str, Any]) -> dict[str, Any]:
    """run.json of the run that made the student from which a run started; empty where it cannot be read."""
    try:
        return read_json(Path(str(settings.get("student_model"))) / RUN_NAME)
    except (InputError, OSError):
        return {}


def ablation_flags(settings: dict[str, Any], task: Task | None) -> list[str]:
    """The flags among the settings of a run, and of those that it started from, that make it an ablation; and
    those of _NOTED."""
    flags = [flag for flag in ("--hard_labels", "--from_scratch", *_NOTED) if settings.get(flag[2:])]
    if settings.get("layer_mapping", "uniform") != "uniform":
        flags.append(f"--layer_mapping {settings['layer_mapping']}")
    if settings.get("without"):
        flags.append(f"--without {' '.join(map(str, settings['without']))}")
    # some tasks are not augmented, in the paper nor STS-B in the prediction stage; of SQuAD the report tells it; one's
    # own data are augmented or not, as one likes
    plain = task is None or task.augment_copies_in_code is None or not is_known_task(task.name) or \
        task.name == "STS-B" and settings.get("pred_distill") or task in SQUAD.values()
    if settings.get("aug_train") is False and not plain:
        flags.append("no --aug_train")
    try:
        before = _record_of_start(settings)["settings"]
        if settings.get("pred_distill") and "task_name" not in before:
            flags.append("no intermediate stage")
        if before.get("student_model") != settings["student_model"]:
            flags += ablation_flags(before, task if "task_name" in before else None)
    except (KeyError, TypeError, AttributeError, RecursionError):
        pass  # it is judged, and named, where it stands
    return list(dict.fromkeys(flags))


def _add_scores(run: FinishedRun) -> list[str]:
    """Give a run its dev scores, those of --do_eval where there are any; returns what is to be said of them."""
    settings, evaluated = run.record["settings"], run.folder / EVAL_NAME
    run.dev_examples = _dev_examples(evaluated)
    try:
        evaluation = read_json(evaluated)
        if recorded_task(evaluation, EVAL_NAME) != run.task:
            raise InputError(f"not of {run.task.name}")
        if evaluation.get("model_finished") is False:
            raise InputError("of a model that was not finished")
        _require_threshold_0(evaluation.get("settings"))
        run.scores, run.source = _dev_scores(evaluation.get("values"), run.task), EVAL_NAME
    except InputError as error:
        _require_threshold_0(settings)
        last = run.record.get("kept") if _script(run.record) == "task_distill" else run.record
        run.scores, run.source = _dev_scores(last, run.task), RUN_NAME
        return [f"{EVAL_NAME} left out ({error}): the score is that of {RUN_NAME}"] if evaluated.exists() else []
    trained = {"do_lower_case": not settings.get("cased"), **settings}  # finetune_teacher.py has --cased
    scored = evaluation.get("settings")
    scored = {**trained, **scored} if isinstance(scored, dict) else trained
    return [f"{EVAL_NAME} was scored with {name} {scored[name]}, the run had {trained.get(name)}"
            for name in ("max_seq_length", "do_lower_case", *SPAN_SETTINGS) if scored.get(name) != trained.get(name)]


def _require_threshold_0(settings: Any) -> None:
    """InputError where scores of SQuAD v2.0 are at another threshold: they would stand among those at 0."""
    threshold = settings.get("null_score_diff_threshold") if isinstance(settings, dict) else None
    if threshold:
        raise InputError(f"scored with --null_score_diff_threshold {threshold}, not 0: score it with --do_eval alone")


def _dev_scores(values: Any, task: Task) -> dict[str, float]:
    """The metrics of a task among `values`; InputError where the one that counts is not there."""
    if not isinstance(values, dict) or not is_number(values.get(task.metric)):
        raise InputError(f"no {task.metric} of {task.name}")
    names = {task.metric, *shown_metrics(task), *task.head.other_scores}
    return {name: float(values[name]) for name in names if is_number(values.get(name))}


def _dev_examples(evaluated: Path) -> tuple[int, ...]:
    """FinishedRun.dev_examples, by the file that --do_eval wrote."""
    try:
        return tuple(map(int, read_json(evaluated)["counts"].values()))
    except (InputError, KeyError, TypeError, ValueError, AttributeError):
        return ()
