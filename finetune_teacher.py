"""Fine-tune BERT on tasks of GLUE, SQuAD or CLUE: the teachers of task distillation.

Each from models/bert-base-uncased-TASK, where that is, else from models/bert-base-uncased, into
models/final_TASK_teacher, all in lower case. Without --tasks: the task that GLUE_DIR itself describes, as the folders
of prepare_task.py do, else RTE, CoLA, SST-2 and MRPC; data in data/glue_data.
"""
from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from transformer.cli import (
    Parser,
    add_device_flags,
    add_run_flags,
    add_span_flags,
    add_training_flags,
    add_warmup_flag,
    positive,
    positive_float,
    print_settings,
    resolve_precision,
    run_script,
)
from transformer.data.tables import count_classes, task_folder
from transformer.data.windows import check_questions, settled
from transformer.files import InputError, find_folder, find_model
from transformer.tasks.own import is_described, open_task, recorded
from transformer.tasks.task import Task

if TYPE_CHECKING:  # torch takes a second to load: it stands inside the functions, --help and refused flags do without
    from transformer.data.features import Sequences
    from transformer.training.processes import Processes
    from transformer.training.run import Run, Training


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__.splitlines()[0])
    data = parser.add_argument_group("data and models")
    data.add_argument("--tasks", nargs="+", metavar="TASK",
                      help="GLUE tasks, squad1 and squad2, Chinese tasks, your own; one teacher each (default: the one "
                           "that GLUE_DIR itself describes, else RTE, CoLA, SST-2 and MRPC)")
    data.add_argument("--glue_dir", "--data_dir", default="data/glue_data",
                      help="folder with one folder per task, or that of one of your own")
    data.add_argument("--models_dir", default="models", help="folder to read models from and write teachers to")
    data.add_argument("--model", help="start every task from this folder (default: as the first lines say)")
    data.add_argument("--output_dir", help="teacher folder, for one task (default: MODELS_DIR/final_TASK_teacher)")
    data.add_argument("--cased", action="store_true",
                      help="keep capitals, as is done for a cased model anyway; an uncased one refuses this")
    data.add_argument("--max_seq_length", type=positive,
                      help="longest sequence in wordpieces (default 128; SQuAD: 384; CSL, ChnSentiCorp: 256)")
    head = parser.add_argument_group("head", "kept where that of the start model fits the task, else a new one")
    choice = head.add_mutually_exclusive_group()
    choice.add_argument("--keep_head", action="store_true", help="stop where that of the start model does not fit")
    choice.add_argument("--new_head", action="store_true", help="a new one in any case")
    head.add_argument("--hf_head", action="store_true",
                      help="one without relu, for Hugging Face's BertForSequenceClassification; one with is not kept")
    train = parser.add_argument_group("training")
    train.add_argument("--learning_rate", type=positive_float,
                       help="peak rate of BertAdam (default 2e-5; SQuAD, CMNLI, OCNLI, XNLI: 3e-5; "
                            "CSL, CLUEWSC2020: 1e-5)")
    train.add_argument("--num_train_epochs", type=positive,
                       help="passes over the train file (default 3; SQuAD, OCNLI, XNLI: 2; CSL: 5; CLUEWSC2020: 50)")
    train.add_argument("--eval_batch_size", type=positive, default=32,
                       help="longest sequences per batch of evaluation; of shorter ones as many wordpieces "
                            "(on the CPU 512 at most)")
    add_warmup_flag(train)
    add_training_flags(train, batch_size=None, batch_note=" (default 32; SQuAD: 12; "
                       "CLUE: 16, CSL 8; ChnSentiCorp, XNLI: 64)")
    add_span_flags(parser)
    add_device_flags(parser)
    add_run_flags(parser)
    args = parser.parse_args(argv)
    return resolve_precision(parser, args)


def asked_tasks(args: argparse.Namespace) -> list[Task]:
    """The tasks asked for, each once; InputError where there is no such task, or one output folder for several."""
    names = args.tasks or ([None] if is_described(args.glue_dir) else ["RTE", "CoLA", "SST-2", "MRPC"])
    tasks = list(dict.fromkeys(open_task(name, args.glue_dir) for name in names))
    if args.output_dir and len(tasks) > 1:
        raise InputError("--output_dir is for one task: with several, each has its own folder under --models_dir")
    return tasks


def resolved(args: argparse.Namespace, task: Task) -> tuple[argparse.Namespace, Task]:
    """The flags as they are for one task, whose defaults fill in what the user left open, and the task with what they
    say of its answers. InputError for an idle flag."""
    own = argparse.Namespace(**{**vars(args), "output_dir": str(teacher_folder(task, args))})
    own.max_seq_length = args.max_seq_length or task.teacher_max_seq_length
    own.num_train_epochs = args.num_train_epochs or task.teacher_epochs
    own.train_batch_size = args.train_batch_size or task.teacher_batch_size
    own.learning_rate = args.learning_rate or task.teacher_learning_rate
    return own, settled(task, own)


def start_folder(task: Task, args: argparse.Namespace) -> Path:
    """The model that a task starts from."""
    if args.model:
        return find_model(args.model)
    sibling = Path(args.models_dir) / f"bert-base-uncased-{task.key}"
    return sibling if sibling.is_dir() else find_model(Path(args.models_dir) / "bert-base-uncased")


def teacher_folder(task: Task, args: argparse.Namespace) -> Path:
    """Where the teacher of a task goes."""
    return Path(args.output_dir or Path(args.models_dir) / f"final_{task.key}_teacher")


def is_pending(task: Task, args: argparse.Namespace) -> bool:
    """Whether a task is still to be done; InputError where something that it needs is missing.

    Asked of all tasks before the first is trained, so that a bad last one is not found out hours later.
    """
    from transformer.checkpoint import load_tokenizer
    from transformer.config import check_sizes
    from transformer.training.batches import steps_per_epoch
    from transformer.training.models import misfit
    from transformer.training.record import RUN_NAME, check_output, read_run, require_finished
    from transformer.weights import read_model

    output_dir = teacher_folder(task, args)
    run = read_run(output_dir) or {}
    takes_what_is_there = args.resume or not args.overwrite_output_dir
    described = recorded(task).get("task_json")
    if run and takes_what_is_there and described != run.get("task_json"):
        raise InputError(f"{output_dir} holds a teacher of another task, or of {task.name} before it was made anew "
                         f"(task_json in {RUN_NAME} tells): train it anew with --overwrite_output_dir, or name another "
                         "folder for --output_dir")
    if run.get("finished") and takes_what_is_there:
        print(f"{output_dir} is there, with {task.metric} {run.get(task.metric)}: skipped", flush=True)
        return False
    folder = start_folder(task, args)
    require_finished(folder)
    check_output(output_dir, args.resume, args.overwrite_output_dir, folder)
    load_tokenizer(folder, cased=args.cased)
    config, state = read_model(folder)
    if args.hf_head and not (config.family.relu_head or config.classifier_relu):
        raise InputError(f"--hf_head has no effect on {folder}: no classifier of an {config.family.name} stands on a "
                         "relu: drop it")
    check_sizes(args.max_seq_length, task.segments, {folder: config})
    learnt: dict[str, int] = {}
    for name in (task.train_file, *task.dev_files):
        path = task_folder(find_folder(args.glue_dir), task) / name
        if not task.is_table:
            check_questions(task, path)
            continue
        rows, classes = count_classes(task, path)
        if name == task.train_file:
            learnt = classes
            steps_per_epoch(rows, args.train_batch_size, str(path))
        for label in classes.keys() - learnt.keys():
            print(f"warning: {path}, line {classes[label]}: label {label!r}, of which {task.train_file} has no example",
                  flush=True)
    if args.keep_head and (reason := misfit(folder, config, state, task, args)):
        raise InputError(f"--keep_head: {task.name} needs a new {task.head.called}: {reason}")
    return True


def finetune(task: Task, args: argparse.Namespace, processes: Processes) -> None:
    """Fine-tune one teacher. The best of its epochs on the dev set is kept, or the start where its head is kept and
    no epoch is better."""
    from transformer.checkpoint import head_note
    from transformer.data.features import show_examples
    from transformer.optimization import BertAdam, parameter_groups
    from transformer.reporting.curves import draw_or_warn
    from transformer.tokenization import open_tokenizer
    from transformer.training.batches import Plan
    from transformer.training.models import load_start
    from transformer.training.processes import seed_everything
    from transformer.training.record import format_metrics, student_label
    from transformer.training.run import Run, Training
    from transformer.training.scoring import dev_sets, encoded, evaluate
    from transformer.training.stages import answer_length
    from transformer.training.states import files_sha256

    output_dir, folder = teacher_folder(task, args), start_folder(task, args)
    seed_everything(args.seed)
    tokenizer = open_tokenizer(folder)  # is_pending() has said what there is to say
    args = argparse.Namespace(**{**vars(args), "cased": not tokenizer.do_lower_case})
    print_settings(args)
    model, keeps_head = load_start(folder, task, args)
    model.to(processes.device)
    data_dir = task_folder(find_folder(args.glue_dir), task)
    dev = dev_sets(task, data_dir, tokenizer, args)
    train = encoded(task, data_dir / task.train_file, tokenizer, args, "train")
    show_examples(train, tokenizer)
    epochs = args.num_train_epochs
    plan = Plan.of(args, [train] * epochs, [len(train)] * epochs, [data_dir / task.train_file] * epochs)
    optimizer = BertAdam(parameter_groups(model, args.weight_decay), lr=args.learning_rate,
                         warmup=args.warmup_proportion, t_total=plan.total_steps)
    run = Run(args, processes, plan, model, optimizer, ("loss",), output_dir, folder, due_every=plan.steps[0],
              facts={"tasks": task.name, "start": folder, "start_files": files_sha256(folder), "train": train.key},
              remember={"before": None}, name=task.name, role="model")
    training = Training(args, processes, plan, [run], functools.partial(answer_length, args, task.head.sees_padding))

    if not run.is_resumed:
        own_order = list(range(task.num_labels))
        run.remembered["before"], _ = evaluate(model, task, dev, own_order, args.eval_batch_size, processes)
    before = run.remembered["before"]
    run.begin(student=student_label({"output_dir": output_dir}, str(folder), 0), **recorded(task), start=str(folder),
              before=before)
    print(format_metrics(f"{task.name} from {folder}, before training", before), flush=True)
    if keeps_head and not run.is_resumed:
        run.keep({"epoch": 0, "step": 0, **before}, before[task.metric])
    learn_answers(task, run, training, train, dev)
    run.finish(**run.kept)
    if processes.is_first:
        draw_or_warn(output_dir)
    print(format_metrics(f"{task.name} teacher in {output_dir}", run.kept), head_note(model.config, output_dir),
          sep="\n", flush=True)


def learn_answers(task: Task, run: Run, training: Training, train: Sequences, dev: dict[str, Sequences]) -> None:
    """Train the model of a run to its last step; each epoch is scored, and the best one kept."""
    import torch

    from transformer.training.processes import mixed
    from transformer.training.record import format_metrics
    from transformer.training.scoring import evaluate

    args, processes, own_order = run.args, run.processes, list(range(task.num_labels))
    run.model.train()
    with training:
        for shares in training:
            for rows, batch in shares:
                labels, = processes.send([torch.from_numpy(train.labels[rows])])
                for run in training.turns():
                    with mixed(args.precision, processes.device):
                        logits = run.trained(*batch, attention_scores=())[0]
                    run.backward([task.head.hard_loss(logits.float(), labels)])
            run.update()
            if run.is_due:
                epoch = run.step // run.plan.steps[0]
                values = {"epoch": epoch, **run.means()}
                values |= evaluate(run.model, task, dev, own_order, args.eval_batch_size, processes,
                                   to_beat=run.to_beat, precision=args.precision)[0]
                run.log(values, "eval_results.txt", format_metrics(f"epoch {epoch}", values), shown=[task.metric],
                        task=task.name)
                run.keep(values, values[task.metric])


def main(argv: list[str] | None = None) -> None:
    """Fine-tune a teacher for each task that has none."""
    args = parse_args(argv)
    runs = [resolved(args, task) for task in asked_tasks(args)]

    from transformer.training.batches import micro_batch_size
    from transformer.training.processes import join_processes, set_device_flags, set_precision

    processes = join_processes(args.no_cuda, args.local_rank)
    precision = set_precision(args.precision, processes)
    set_device_flags(args, processes)
    for own, _ in runs:
        own.precision = precision
        micro_batch_size(own.train_batch_size, own.gradient_accumulation_steps, processes.world)  # or InputError
    pending = [(task, own) for own, task in runs if is_pending(task, own)]
    processes.wait()  # before the first process writes what the others still look for
    for task, own in pending:
        finetune(task, own, processes)


if __name__ == "__main__":
    sys.exit(run_script(main))
