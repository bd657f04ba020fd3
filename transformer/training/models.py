"""Models as a run of a task starts from them."""
from __future__ import annotations

import argparse
import contextlib
import shlex
from pathlib import Path

from torch import Tensor

from transformer.checkpoint import load_model, require_same_vocabulary
from transformer.config import BertConfig, check_sizes
from transformer.files import InputError
from transformer.modeling import BertPreTrainedModel, student_config
from transformer.tasks.head import shortened
from transformer.tasks.labels import UNTRAINED, class_order, name_labels
from transformer.tasks.table import TASKS, get_task
from transformer.tasks.task import Task
from transformer.training.record import read_run, require_finished
from transformer.weights import head_convention, read_model


def load_task_model(folder: Path, task: Task, args: argparse.Namespace) -> BertPreTrainedModel:
    """The model of a task in a folder. InputError where the task's head is missing, another task's is there in its
    place, or it is known to be untrained, with the step that trains it; --skip_teacher_check lets an untrained one
    pass."""
    head = task.head
    place = ["--glue_dir", str(task.folder)] if task.folder else []
    finetune = shlex.join(["python", "finetune_teacher.py", "--tasks", task.name, *place, "--model", str(folder)])
    trains = f"{finetune} trains a teacher's, task_distill.py (last stage: --pred_distill) a student's"
    if not args.skip_teacher_check and (step := next_step(folder, task, args)):
        raise InputError(f"the {head.called} of {folder} is not trained yet; the next step: {step}")
    try:
        model = load_model(folder, head)
    except InputError as error:
        config, state = read_model(folder)
        if f"{head.weights}weight" in state:
            if head.names:
                require_same_classes(folder, config, state, task)
            raise
        other = next((known.head for known in TASKS.values() if f"{known.head.weights}weight" in state), None)
        if other:
            raise InputError(f"{folder} has a {other.called}, {task.name} needs a {head.called}: {trains}") from None
        raise InputError(f"{error}; it has no {head.called}: {trains}") from None
    if not args.skip_teacher_check and model.config.extra.get(UNTRAINED):
        raise InputError(f"the {head.called} of {folder} is untrained ({UNTRAINED} in its config.json): {trains}")
    if other := other_task(model.config, task):
        print(f"warning: {folder} was trained on {other}, not on {task.name}", flush=True)
    return model


def require_same_classes(folder: Path, config: BertConfig, state: dict[str, Tensor], task: Task) -> None:
    """InputError, with the names on both sides, where a model with this config and these weights has a whole head for
    another number of classes than the task has."""
    weight, bias = (state.get(f"{task.head.weights}{part}") for part in ("weight", "bias"))
    count = len(weight)
    if count != task.head.width and bias is not None and len(bias) == count:
        id2label = config.extra.get("id2label")
        names = list(map(str, id2label.values())) if isinstance(id2label, dict) and len(id2label) == count else []
        raise InputError(f"{folder} tells {count} classes apart{': ' * bool(names)}{shortened(names)} (its "
                         f"{task.head.called} is {list(weight.shape)}), and {task.name} has {task.head.width}: "
                         f"{shortened(task.head.names)}: take a model of these, or fine-tune this one with "
                         "finetune_teacher.py, which gives it a new one")


def other_task(config: BertConfig, task: Task) -> str | None:
    """What finetuning_task of config.json names, where that is another task than this one."""
    named = str(config.extra.get("finetuning_task") or task.key)
    with contextlib.suppress(InputError):  # some models name no task there
        if get_task(named).key != task.key:
            return named
    return None


def next_step(folder: Path, task: Task, args: argparse.Namespace) -> str | None:
    """The command of the next step for a student whose head no step has trained, as its run.json tells; else None."""
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
    for name in ("doc_stride", "max_query_length"):  # of SQuAD alone
        command += [f"--{name}", str(known[name])] if known.get(name) else []
    command += ["--student_model", str(folder), "--output_dir", "NEW_FOLDER"]
    command += ["--preset", "code"] if known.get("preset") == "code" else []
    augmented = not stage or task.head.answers_variants
    return shlex.join(command + [f"--{name}" for name, allowed in (("aug_train", augmented), ("do_lower_case", True))
                                 if allowed and known.get(name)])


def load_student(folder: Path, teacher_folder: Path, teacher: BertConfig, task: Task,
                 args: argparse.Namespace) -> BertPreTrainedModel:
    """The student of task distillation from a teacher of this config: random with --from_scratch, else that of a
    folder. In the intermediate stage it has a projection to the teacher's width; the prediction stage leaves that out,
    and the student that is handed on has none.

    InputError where it is unfinished, has another vocabulary, or one of the two is too small for the examples.
    """
    fit = {"fit_size": None if args.pred_distill else teacher.hidden_size, "fit_per_layer": args.fit_per_layer}
    student_config(folder, teacher)  # or InputError: not every family has students
    if args.from_scratch:
        student = task.head.model_class.from_scratch(folder, teacher, **task.head.sizes, **fit)
    else:
        require_finished(folder)
        require_same_vocabulary(folder, teacher_folder)
        student = load_model(folder, task.head, new=(task.head.weights, "fit_dense"), **fit)
    check_sizes(args.max_seq_length, task.segments, {folder: student.config, teacher_folder: teacher})
    name_labels(student.config.extra, task, trained=args.pred_distill)
    if args.hf_head:  # not refused where it is idle: reproduce.sh gives it to every student of somebody's own task
        print(f"--hf_head: the relu before the classifier of {folder} is left out from here on"
              if student.config.classifier_relu else f"--hf_head: the classifier of {folder} has no relu anyway",
              flush=True)
        student.config.classifier_relu = False
    return student


def misfit(folder: Path, config: BertConfig, state: dict[str, Tensor], task: Task,
           args: argparse.Namespace) -> str | None:
    """Why finetune_teacher.py does not keep the head of the model in `folder`, with this config and these
    weights, for a task; None where it does."""
    weight = state.get(f"{task.head.weights}weight")
    if weight is None:
        return f"{folder} has none"
    if config.extra.get(UNTRAINED):
        return f"that of {folder} is untrained"
    if args.new_head:
        return "--new_head"
    if args.hf_head and task.head.on_pooled and head_convention(config, state)[0]:
        return f"--hf_head, and that of {folder} stands on a relu"
    if weight.shape != (task.head.width, config.hidden_size):
        return f"that of {folder} is {list(weight.shape)}, {task.name} needs {[task.head.width, config.hidden_size]}"
    if other := other_task(config, task):  # answers may be chosen in another way
        return f"that of {folder} was trained on {other}"
    try:
        class_order(config.extra, task, folder)
    except InputError as error:
        return str(error)
    return None


def load_start(folder: Path, task: Task, args: argparse.Namespace) -> tuple[BertPreTrainedModel, bool]:
    """The model to fine-tune, with its head, its convention and the classes in the task's order where it fits, else
    with a new one; and whether it is kept."""
    config, state = read_model(folder)
    reason, new = misfit(folder, config, state, task, args), ()
    if reason:
        has_pooler = any(name.startswith("bert.pooler.") for name in state)
        new = (task.head.weights, *(() if has_pooler else ("bert.pooler.",)))  # masked-LM training needs no pooler
    del state
    model = load_model(folder, task.head, new=new)
    if reason:
        model.init_weights()  # of the head: one may have been loaded
        if task.head.on_pooled:
            model.config.classifier_relu = model.config.family.relu_head and not args.hf_head
    else:
        order = class_order(model.config.extra, task, folder)
        for name, weight in model.named_parameters():
            if name.startswith(task.head.weights):
                weight.data = weight.data[order]
    name_labels(model.config.extra, task)
    what = f"new {task.head.called} ({reason})" if reason else f"{task.head.called} of {folder} kept"
    relu = f", {'with' if model.config.classifier_relu else 'without'} relu" if task.head.on_pooled else ""
    print(f"{task.name}: {what}{relu}", flush=True)
    return model, not reason
