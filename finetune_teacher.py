"""Fine-tune BERT on GLUE tasks: the teachers of task distillation.

Without arguments: RTE, CoLA, SST-2 and MRPC from models/bert-base-uncased-{rte,cola,sst2,mrpc}, where these are, else
from models/bert-base-uncased, into models/final_{rte,cola,sst2,mrpc}_teacher; data in data/glue_data.
"""
from __future__ import annotations

import argparse
import sys

from transformer.cli import (
    Parser,
    add_device_flags,
    add_run_flags,
    add_training_flags,
    add_warmup_flag,
    positive,
    positive_float,
    print_settings,
    resolve_precision,
    run_script,
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__.splitlines()[0])
    data = parser.add_argument_group("data and models")
    data.add_argument("--tasks", nargs="+", default=["RTE", "CoLA", "SST-2", "MRPC"], metavar="TASK",
                      help="GLUE tasks, one teacher each")
    data.add_argument("--glue_dir", default="data/glue_data", help="folder with one folder per task")
    data.add_argument("--models_dir", default="models", help="folder to read models from and write teachers to")
    data.add_argument("--model", help="start every task from this folder (default: as the first lines say)")
    data.add_argument("--output_dir", help="teacher folder, for one task (default: MODELS_DIR/final_TASK_teacher)")
    data.add_argument("--cased", action="store_true",
                      help="keep capitals, as is done for a cased model anyway; an uncased one refuses this")
    data.add_argument("--max_seq_length", type=positive, default=128, help="longest sequence in wordpieces")
    head = parser.add_argument_group("classifier", "kept where that of the start model fits the task, else a new one")
    choice = head.add_mutually_exclusive_group()
    choice.add_argument("--keep_head", action="store_true", help="stop where that of the start model does not fit")
    choice.add_argument("--new_head", action="store_true", help="a new one in any case")
    head.add_argument("--hf_head", action="store_true",
                      help="one without relu, for Hugging Face's BertForSequenceClassification; one with is not kept")
    train = parser.add_argument_group("training")
    train.add_argument("--learning_rate", type=positive_float, default=2e-5, help="peak rate of BertAdam")
    train.add_argument("--num_train_epochs", type=positive, default=3, help="passes over train.tsv")
    train.add_argument("--eval_batch_size", type=positive, default=32, help="sequences per batch of evaluation")
    add_warmup_flag(train)
    add_training_flags(train)
    add_device_flags(parser)
    add_run_flags(parser)
    args = parser.parse_args(argv)
    if args.output_dir and len(args.tasks) > 1:
        parser.error("--output_dir is for one task: with several, each has its own folder under --models_dir")
    return resolve_precision(parser, args)


if __name__ == "__main__":
    parse_args()  # --help and refused flags answer before the slow imports below

import contextlib
import math
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from transformer.checkpoint import head_note, load_tokenizer, save_model
from transformer.config import BertConfig, check_sizes
from transformer.data.features import encode_file, show
from transformer.data.tables import read_rows, task_folder
from transformer.files import InputError, find_folder, find_model
from transformer.modeling import TinyBertForSequenceClassification
from transformer.optimization import BertAdam, parameter_groups
from transformer.tasks.glue import get_task
from transformer.tasks.labels import UNTRAINED, class_order, name_labels
from transformer.tasks.task import Task
from transformer.tokenization import BertTokenizer, casing
from transformer.training.batches import locate, micro_batch_size, seed_share, shares, shuffled_batches, steps_per_epoch
from transformer.training.losses import Losses, optimizer_step
from transformer.training.processes import Processes, join_processes, mixed, seed_everything, set_precision
from transformer.training.record import RunRecord, check_output, format_metrics, read_run, require_finished
from transformer.training.scoring import evaluate
from transformer.training.signals import StopSignals
from transformer.training.states import States, files_sha256, result_settings
from transformer.weights import head_convention, read_model


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
    output_dir = teacher_folder(task, args)
    run = read_run(output_dir) or {}
    if run.get("finished") and (args.resume or not args.overwrite_output_dir):
        print(f"{output_dir} is there, with {task.metric} {run.get(task.metric)}: skipped", flush=True)
        return False
    folder = start_folder(task, args)
    require_finished(folder)
    check_output(output_dir, args.resume, args.overwrite_output_dir, folder)
    load_tokenizer(folder, cased=args.cased)
    config, state = read_model(folder)
    check_sizes(args.max_seq_length, len(task.text_columns), {folder: config})
    for name in ("train.tsv", *task.dev_files):
        path = task_folder(find_folder(args.glue_dir), task) / name
        rows = sum(1 for _ in read_rows(task, path))
        if name == "train.tsv":
            steps_per_epoch(rows, args.train_batch_size, str(path))
    if args.keep_head and (reason := misfit(folder, config, state, task, args)):
        raise InputError(f"--keep_head: {task.name} needs a new classifier: {reason}")
    return True


def misfit(folder: Path, config: BertConfig, state: dict[str, Tensor], task: Task,
           args: argparse.Namespace) -> str | None:
    """Why the classifier of the model in `folder`, with this config and these weights, is not kept for a task; None
    where it is."""
    head = state.get("classifier.weight")
    if head is None:
        return f"{folder} has none"
    if config.extra.get(UNTRAINED):
        return f"that of {folder} is untrained"
    if args.new_head:
        return "--new_head"
    if args.hf_head and head_convention(config, state)[0]:
        return f"--hf_head, and that of {folder} stands on a relu"
    if head.shape != (task.num_labels, config.hidden_size):
        return f"that of {folder} is {list(head.shape)}, {task.name} needs {[task.num_labels, config.hidden_size]}"
    trained_on = str(config.extra.get("finetuning_task") or task.key)
    with contextlib.suppress(InputError):  # some models name no task there
        if get_task(trained_on) != task:
            return f"that of {folder} was trained on {trained_on}"
    try:
        class_order(config.extra, task, folder)
    except InputError as error:
        return str(error)
    return None


def load_start(folder: Path, task: Task, args: argparse.Namespace) -> tuple[TinyBertForSequenceClassification, bool]:
    """The model to fine-tune, with its classifier, its convention and the classes in the task's order where it fits,
    else with a new one; and whether it is kept."""
    config, state = read_model(folder)
    reason, new = misfit(folder, config, state, task, args), ()
    if reason:
        has_pooler = any(name.startswith("bert.pooler.") for name in state)
        new = ("classifier.",) if has_pooler else ("classifier.", "bert.pooler.")  # masked-LM training needs none
    del state
    model = TinyBertForSequenceClassification.from_pretrained(folder, num_labels=task.num_labels, new=new)
    if reason:
        model.init_weights()  # of the classifier: one may have been loaded
        model.config.classifier_relu = not args.hf_head
    else:
        order = class_order(model.config.extra, task, folder)
        model.classifier.weight.data = model.classifier.weight.data[order]
        model.classifier.bias.data = model.classifier.bias.data[order]
    name_labels(model.config.extra, task)
    what = f"new classifier ({reason})" if reason else f"classifier of {folder} kept"
    print(f"{task.name}: {what}, {'with' if model.config.classifier_relu else 'without'} relu", flush=True)
    return model, not reason


def finetune(task: Task, args: argparse.Namespace, processes: Processes) -> None:
    """Fine-tune one teacher. The best of its epochs on the dev set is kept, or the start where its classifier is kept
    and no epoch is better."""
    output_dir, device = teacher_folder(task, args), processes.device
    seed_everything(args.seed)
    folder = start_folder(task, args)
    tokenizer = BertTokenizer.from_pretrained(folder, casing(folder)[0])  # is_pending() has said what there is to say
    args = argparse.Namespace(**{**vars(args), "cased": not tokenizer.do_lower_case})
    print_settings(args)
    model, keeps_head = load_start(folder, task, args)
    model.to(device)
    data_dir = task_folder(find_folder(args.glue_dir), task)
    dev, train = (encode_file(task, data_dir / name, tokenizer, args.max_seq_length, data_dir / "features",
                              fallback=output_dir / "features") for name in (task.dev_files[0], "train.tsv"))
    sets = {"dev": dev}
    show(train, tokenizer)
    batch_size, accumulation = args.train_batch_size, args.gradient_accumulation_steps
    per_epoch = steps_per_epoch(len(train), batch_size, str(data_dir / "train.tsv"))
    counts, total_steps = [len(train)] * args.num_train_epochs, per_epoch * args.num_train_epochs
    order = list(range(task.num_labels))
    trained = processes.wrap(model)
    if args.compile:
        trained = torch.compile(trained)
    optimizer = BertAdam(parameter_groups(model, args.weight_decay), lr=args.learning_rate,
                         warmup=args.warmup_proportion, t_total=total_steps)
    scaler = torch.amp.GradScaler(device.type, enabled=args.precision == "fp16")
    losses = Losses(("loss",), processes)

    settings = result_settings(vars(args), tasks=task.name, start=folder, start_files=files_sha256(folder),
                               train=train.key)
    states = States(output_dir, settings, processes, model=model, optimizer=optimizer, scaler=scaler, losses=losses)
    if state := states.restore(args.resume):
        step, best, kept, before = (state[name] for name in ("step", "best", "kept", "before"))
    else:
        step, best, kept = 0, -math.inf, {}
        before, _ = evaluate(model, task, sets, order, args.eval_batch_size, processes)
    record = RunRecord(output_dir, args, processes, log_sizes=state and state["logs"], task=task.name,
                       start=str(folder), steps=total_steps, before=before, resumed_from=step)
    print(format_metrics(f"{task.name} from {folder}, before training", before), flush=True)
    if not state and keeps_head:
        best, kept = before[task.metric], {"epoch": 0, "step": 0, **before}
        if processes.is_first:
            save_model(model, output_dir, folder)

    progress = tqdm(total=total_steps, initial=step, unit="step", desc=task.name, mininterval=1,
                    disable=not processes.is_first)
    first_epoch, first_batch = locate(step, [per_epoch] * args.num_train_epochs)
    model.train()
    with progress, StopSignals() as stop:
        for epoch in range(first_epoch, args.num_train_epochs):
            start = first_batch if epoch == first_epoch else 0
            for indices in shuffled_batches(len(train), batch_size, args.seed, epoch, start):
                for number, (piece, rows) in enumerate(shares(indices, accumulation, processes), 1):
                    seed_share(args.seed, step, piece)
                    batch = processes.send(train.batch(rows))
                    labels, = processes.send([torch.from_numpy(train.labels[rows])])
                    with processes.synchronised(trained, number == accumulation):
                        with mixed(args.precision, device):
                            logits = trained(*batch, attention_scores=())[0].float()
                        loss = task.head.hard_loss(logits, labels)
                        scaler.scale(loss / accumulation).backward()
                    losses.add(step, (loss,))
                optimizer_step(optimizer, scaler, losses, step)
                record.count(train.lengths_of(indices))
                step += 1
                progress.update()

                if step % per_epoch == 0:
                    losses.require_finite(counts, batch_size, args.seed, states.last, f"{task.name}: ")
                    values = {"epoch": epoch + 1, "step": step, **losses.means(),
                              **evaluate(model, task, sets, order, args.eval_batch_size, processes)[0]}
                    progress.set_postfix({name: f"{values[name]:.4f}" for name in ("loss", task.metric)})
                    record.log(task=task.name, **values, **record.speed())
                    record.text("eval_results.txt", format_metrics(f"epoch {epoch + 1}", values))
                    if values[task.metric] > best:
                        best, kept = values[task.metric], values
                        if processes.is_first:
                            save_model(model, output_dir, folder)
                stopping = stop.agreed(processes)
                if stopping or states.is_due(step, args.save_steps, per_epoch):
                    losses.require_finite(counts, batch_size, args.seed, states.last, f"{task.name}: ")
                    states.save(step, best=best, kept=kept, before=before, logs=record.sizes())
                if stopping:
                    progress.close()
                    stop.end(step, processes)
    record.finish(**kept)
    states.clear()
    print(format_metrics(f"{task.name} teacher in {output_dir}", kept), head_note(model.config, output_dir), sep="\n",
          flush=True)


def main(argv: list[str] | None = None) -> None:
    """Fine-tune a teacher for each task that has none."""
    args = parse_args(argv)
    tasks = list(dict.fromkeys(map(get_task, args.tasks)))
    processes = join_processes(args.no_cuda, args.local_rank)
    set_precision(args.precision, processes.device)
    micro_batch_size(args.train_batch_size, args.gradient_accumulation_steps, processes.world)  # or InputError
    pending = [task for task in tasks if is_pending(task, args)]
    processes.wait()  # before the first process writes what the others still look for
    for task in pending:
        finetune(task, args, processes)


if __name__ == "__main__":
    sys.exit(run_script(main))
