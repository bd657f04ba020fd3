"""Where a model comes from, by the records of the runs that made it: its task, its stages, its dev scores."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformer.config import BertConfig
from transformer.files import InputError, read_json
from transformer.reporting.runs import is_number, shown_metrics
from transformer.tasks.own import TASK_JSON, open_task, recorded_task
from transformer.tasks.table import get_task, is_known_task
from transformer.tasks.task import Task
from transformer.training.record import EVAL_NAME, RUN_NAME, read_run


@dataclass(frozen=True)
class DevScores:
    """Dev scores, fractions by metric; the file that tells them, and of what."""
    values: dict[str, float]
    source: str


def exported_task(folder: Path, record: dict[str, Any], config: BertConfig, data_dir: str | None) -> Task:
    """The task of a model: of its run.json, whose content is `record`, else finetuning_task of its config.json, else
    the one that data_dir describes. InputError where nothing tells, or data_dir holds another."""
    named = str(config.extra.get("finetuning_task"))
    told = recorded_task(record, folder / RUN_NAME) if "task" in record else None
    if told is None and is_known_task(named):
        told = get_task(named)
    if data_dir is not None and (told is None or not is_known_task(told.name)):
        there = open_task(told and told.name, data_dir)
        if told not in (None, there):
            raise InputError(f"{folder} was trained on {told.name} as its {RUN_NAME} describes it, and {TASK_JSON} in "
                             f"{data_dir} says something else: name the folder of then, or leave --data_dir out")
        told = there
    if told is None:
        raise InputError(f"nothing tells the task of {folder}: it has no {RUN_NAME}, and finetuning_task in its "
                         "config.json names none; put that there, such as \"finetuning_task\": \"SST-2\", or, of a "
                         "task of your own, name its folder with --data_dir")
    return told


def settings_of(record: dict[str, Any]) -> dict[str, Any]:
    """The settings in a run.json; none where there are none."""
    settings = record.get("settings")
    return settings if isinstance(settings, dict) else {}


def stages(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """(name, run.json) of the runs that made the model in a folder, the first one first, as far as they are there."""
    found: list[tuple[str, dict[str, Any]]] = []
    seen: set[Path] = set()
    while folder.resolve() not in seen:
        seen.add(folder.resolve())
        try:
            record = read_run(folder) or {}
        except InputError:  # of a folder that is none of ours any more
            break
        settings = settings_of(record)
        if "pregenerated_data" in settings:
            name = "general distillation"
        elif "pred_distill" in settings:
            name = "prediction stage" if settings["pred_distill"] else "intermediate stage"
        elif "tasks" in settings:
            name = "fine-tuning"
        else:
            break
        found.insert(0, (name, record))
        folder = Path(str(record.get("start") or settings.get("student_model")))
    return found


def dev_scores(folder: Path, record: dict[str, Any], task: Task, sha256: str) -> DevScores | None:
    """What is known of a model's dev scores: of eval_results.json, where its weights are those of `sha256`, else of
    run.json, whose content is `record`; None where neither tells."""
    evaluated = folder / EVAL_NAME
    if evaluated.is_file():
        facts = read_json(evaluated)
        if facts.get("model_sha256") == sha256 and (values := chosen_scores(task, facts.get("values"))):
            return DevScores(values, f"{EVAL_NAME} of {folder.name}, {facts.get('started')}")
    kept = record.get("kept", record)  # finetune_teacher.py has its scores beside the rest
    values = chosen_scores(task, kept)
    return DevScores(values, f"{RUN_NAME} of {folder.name}, {record.get('started')}") if values else None


def chosen_scores(task: Task, values: Any) -> dict[str, float]:
    """Those of some scores that tables of the task show."""
    values = values if isinstance(values, dict) else {}
    return {name: values[name] for name in shown_metrics(task) if is_number(values.get(name))}
