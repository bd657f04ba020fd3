"""Models as a run of a task starts from them."""
from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from transformer.checkpoint import load_model
from transformer.files import InputError
from transformer.modeling import BertPreTrainedModel
from transformer.tasks.labels import UNTRAINED
from transformer.tasks.task import Task
from transformer.training.record import read_run
from transformer.weights import read_model


def load_classifier(folder: Path, task: Task, args: argparse.Namespace) -> BertPreTrainedModel:
    """The model of a task in a folder. InputError where its classifier is missing or known to be untrained, with the
    step that trains it; --skip_teacher_check lets an untrained one pass."""
    finetune = shlex.join(["python", "finetune_teacher.py", "--tasks", task.name, "--model", str(folder)])
    trains = f"{finetune} trains a teacher's, task_distill.py (last stage: --pred_distill) a student's"
    if not args.skip_teacher_check and (step := next_step(folder, args)):
        raise InputError(f"the classifier of {folder} is not trained yet; the next step: {step}")
    try:
        model = load_model(folder, task.head)
    except InputError as error:
        if f"{task.head.weights}weight" in read_model(folder)[1]:
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
