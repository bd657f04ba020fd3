"""Task distillation: a general TinyBERT learns one GLUE task from a BERT fine-tuned on it (paper, section 3).

Two runs: the intermediate stage (attention and hidden states), then, with --pred_distill, the prediction stage
(the teacher's logits). With --do_eval the script only scores --student_model on the dev set. Reads
DATA_DIR/{train,train_aug,dev}.tsv; writes a student folder, eval_results.txt, metrics.jsonl and run.json.
"""
from __future__ import annotations

import argparse
import sys

from transformer.cli import (
    Parser,
    add_run_flags,
    decay,
    positive,
    positive_float,
    print_settings,
    proportion,
    run_script,
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__.splitlines()[0])
    data = parser.add_argument_group("data and models")
    data.add_argument("--data_dir", required=True, help="the task's folder with train.tsv and dev.tsv")
    data.add_argument("--task_name", required=True, help="a GLUE task, in any case, with or without the hyphen")
    data.add_argument("--student_model", required=True,
                      help="student folder: a general TinyBERT, or the intermediate student for --pred_distill")
    data.add_argument("--teacher_model", help="folder of the fine-tuned teacher; needed for training")
    data.add_argument("--output_dir", required=True, help="folder to write to; must be empty for training")
    data.add_argument("--overwrite_output_dir", action="store_true", help="train into a folder that is not empty")
    data.add_argument("--cache_dir", help="folder that keeps the encoded examples (default: DATA_DIR/features)")
    data.add_argument("--max_seq_length", type=positive,
                      help="longest sequence in wordpieces (default paper: 64 for CoLA and SST-2, else 128; code: 128)")
    data.add_argument("--do_lower_case", action="store_true", help="lower-case the text: for uncased vocabularies")
    stage = parser.add_argument_group("stage")
    stage.add_argument("--pred_distill", action="store_true", help="run the prediction stage, not the intermediate one")
    stage.add_argument("--aug_train", action="store_true", help="train on train_aug.tsv of data_augmentation.py")
    stage.add_argument("--temperature", type=positive_float, default=1.0, help="of the soft cross-entropy")
    stage.add_argument("--layer_mapping", choices=("uniform", "top", "bottom"), default="uniform",
                       help="teacher layers the student learns from (paper, table 4)")
    stage.add_argument("--without", nargs="+", choices=("attn", "embd", "hidn"), default=[], metavar="LOSS",
                       help="leave out losses: attn, embd (embedding output), hidn (layers) (paper, table 3)")
    stage.add_argument("--hard_labels", action="store_true",
                       help="prediction stage from the labels in the data, not from the teacher (paper, table 3)")
    stage.add_argument("--skip_teacher_check", action="store_true", help="go on with a teacher at chance level")
    train = parser.add_argument_group("training")
    train.add_argument("--train_batch_size", type=positive, default=32, help="sequences per optimizer step, in total")
    train.add_argument("--gradient_accumulation_steps", type=positive, default=1,
                       help="forward passes that one optimizer step is split into")
    train.add_argument("--learning_rate", type=positive_float,
                       help="rate of BertAdam (default 5e-5; prediction stage of the paper preset: 3e-5)")
    train.add_argument("--weight_decay", "--wd", type=decay, default=0.01,
                       help="decoupled decay of weights, per unit of learning rate")
    train.add_argument("--num_train_epochs", type=positive_float,
                       help="passes over the data (default paper: 20, MNLI QQP QNLI 10, CoLA 50, "
                            "prediction stage 3; code: 3)")
    train.add_argument("--warmup_proportion", type=proportion, default=0.1,
                       help="share of all steps to warm up, prediction stage only")
    evaluation = parser.add_argument_group("evaluation")
    evaluation.add_argument("--do_eval", action="store_true", help="score --student_model on the dev set; no training")
    evaluation.add_argument("--eval_batch_size", type=positive, default=32, help="sequences per batch")
    evaluation.add_argument("--eval_step", type=positive, default=50, help="optimizer steps between logs and saves")
    device = parser.add_argument_group("device")
    device.add_argument("--no_cuda", action="store_true", help="use the CPU even where there is a GPU")
    add_run_flags(parser, preset=True)
    args = parser.parse_args(argv)
    if args.do_eval:
        for flag in ("pred_distill", "aug_train", "teacher_model"):
            if getattr(args, flag):
                parser.error(f"--do_eval only scores the student and --{flag} is for training: drop one of them")
    elif not args.teacher_model:
        parser.error("training needs --teacher_model (or --do_eval to score a student)")
    if args.temperature != 1.0 and not args.pred_distill:
        parser.error("--temperature is for the prediction stage: add --pred_distill, or drop it")
    if (args.layer_mapping != "uniform" or args.without) and args.pred_distill:
        parser.error("--layer_mapping and --without are for the intermediate stage: drop them, or drop --pred_distill")
    if args.hard_labels and not args.pred_distill:
        parser.error("--hard_labels is for the prediction stage: add --pred_distill, or drop it")
    if {"attn", "embd", "hidn"} == set(args.without):
        parser.error("--without attn embd hidn leaves no loss")
    return args


if __name__ == "__main__":
    parse_args()  # --help and refused flags answer before the slow imports below

import math
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from transformer.checkpoint import VOCAB_NAME, load_tokenizer, save_model
from transformer.distillation import ablate, check_pair, layer_map, prediction_loss, transformer_losses
from transformer.features import Sequences, encode_file, show
from transformer.files import InputError, find_input, require_empty_folder
from transformer.glue import Task, chance_level, class_order, get_task, name_labels
from transformer.modeling import TinyBertForSequenceClassification
from transformer.optimization import BertAdam, parameter_groups
from transformer.runtime import (
    RunRecord,
    check_length,
    count_steps,
    format_metrics,
    micro_batch_size,
    refuse_several_processes,
    require_finished,
    score,
    seed_everything,
    select_device,
    shuffled_batches,
    steps_per_epoch,
)


def resolve(args: argparse.Namespace, task: Task) -> None:
    """Fill in what depends on preset, task and stage, where the user left it open (paper, section 4.2)."""
    paper = args.preset == "paper"
    if args.max_seq_length is None:
        args.max_seq_length = task.max_seq_length if paper else 128
    if args.num_train_epochs is None:
        args.num_train_epochs = task.intermediate_epochs if paper and not args.pred_distill else 3
    if args.learning_rate is None:
        args.learning_rate = 3e-5 if paper and args.pred_distill else 5e-5


def encoded(task: Task, path: Path, tokenizer, args: argparse.Namespace) -> Sequences:
    """A file of the task as arrays, which stay for the next run."""
    return encode_file(task, path, tokenizer, args.max_seq_length, args.cache_dir or path.parent / "features",
                       fallback=Path(args.output_dir) / "features")


def dev_sets(task: Task, folder: Path, tokenizer, args: argparse.Namespace) -> dict[str, Sequences]:
    """The task's dev sets, encoded: {"dev": ...}, and for MNLI {"dev_matched": ..., "dev_mismatched": ...}."""
    return {Path(name).stem: encoded(task, folder / name, tokenizer, args) for name in task.dev_files}


def evaluate(model, task: Task, sets: dict[str, Sequences], order: list[int], args, device) -> dict[str, float]:
    """Metrics on the dev sets; those of a second set carry its name, so that the first stays what it is."""
    values: dict[str, float] = {}
    for name, sequences in sets.items():
        suffix = f"_{name.removeprefix('dev_')}" if values else ""
        metrics = score(model, task, sequences, order, args.eval_batch_size, device)
        values |= {f"{metric}{suffix}": value for metric, value in metrics.items()}
    return values


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    refuse_several_processes()
    task = get_task(args.task_name)
    resolve(args, task)
    device = select_device(args.no_cuda)
    seed_everything(args.seed)
    data_dir, student_folder = find_input(args.data_dir), find_input(args.student_model)
    tokenizer = load_tokenizer(student_folder, args.do_lower_case)

    if args.do_eval:
        student = TinyBertForSequenceClassification.from_pretrained(student_folder, num_labels=task.num_labels)
        check_length(args.max_seq_length, student)
        order = class_order(student.config.extra, task, student_folder)
        sets = dev_sets(task, data_dir, tokenizer, args)
        print_settings(args)
        record = RunRecord(args.output_dir, args, device, name=f"eval_{task.key}_{student_folder.name}.json")
        values = evaluate(student.to(device), task, sets, order, args, device)
        record.log(task=task.name, model=str(student_folder), **values)
        record.text("eval_results.txt", format_metrics(f"{task.name} {student_folder}", values))
        record.finish(task=task.name, **values)
        print(format_metrics(f"Eval results {task.name}", values), flush=True)
        return

    micro_batch = micro_batch_size(args.train_batch_size, args.gradient_accumulation_steps)
    teacher_folder = find_input(args.teacher_model)
    require_finished(teacher_folder)
    require_finished(student_folder)
    if load_tokenizer(teacher_folder, args.do_lower_case).vocab != tokenizer.vocab:
        raise InputError(f"student and teacher vocabularies differ: {student_folder / VOCAB_NAME} and "
                         f"{teacher_folder / VOCAB_NAME}")
    teacher = TinyBertForSequenceClassification.from_pretrained(teacher_folder, num_labels=task.num_labels).to(device)
    # the projection is a part of the intermediate stage alone; the student that is handed on has none
    fit_size = None if args.pred_distill else teacher.config.hidden_size
    student = TinyBertForSequenceClassification.from_pretrained(
        student_folder, num_labels=task.num_labels, fit_size=fit_size, new=("classifier.", "fit_dense")).to(device)
    check_pair(student.config, teacher.config)
    check_length(args.max_seq_length, student, teacher)
    pairs = ablate(layer_map(teacher.config.num_hidden_layers, student.config.num_hidden_layers, args.layer_mapping),
                   args.without)
    teacher_order = class_order(teacher.config.extra, task, teacher_folder)
    student_order = list(range(task.num_labels))  # the task's own order, whatever the teacher's
    name_labels(student.config.extra, task)

    output_dir = require_empty_folder(args.output_dir, args.overwrite_output_dir)
    print_settings(args)
    sets = dev_sets(task, data_dir, tokenizer, args)
    teacher_values = evaluate(teacher, task, sets, teacher_order, args, device)
    print(format_metrics(f"teacher {teacher_folder}", teacher_values), flush=True)
    chance, error = chance_level(task, next(iter(sets.values())).labels)
    reached = teacher_values[task.metric]
    if not reached > chance + 2 * error and not args.skip_teacher_check:
        raise InputError(f"teacher {teacher_folder} scores {task.metric} {reached:.4f} on the dev set, "
                         f"chance is {chance:.4f} +- {error:.4f}: "
                         f"fine-tune it on {task.name} (or --skip_teacher_check)")
    train_file = data_dir / ("train_aug.tsv" if args.aug_train else "train.tsv")
    if args.aug_train and not train_file.is_file():
        raise InputError(f"{train_file} does not exist: make it with data_augmentation.py, or drop --aug_train")
    train = encoded(task, train_file, tokenizer, args)
    show(train, tokenizer)
    epochs = math.ceil(args.num_train_epochs)
    total_steps = count_steps([steps_per_epoch(len(train), args.train_batch_size, str(train_file))] * epochs,
                              args.num_train_epochs)

    teacher.train(args.preset == "code")  # the published code leaves the teacher's dropout on
    student.train()
    # published code, and the paper's text, give STS-B gold scores; the paper's numbers used the teacher's
    gold = args.hard_labels or (task.is_regression and args.preset == "code")

    optimizer = BertAdam(parameter_groups(student, args.weight_decay), lr=args.learning_rate,
                         warmup=args.warmup_proportion, t_total=total_steps,
                         schedule="warmup_linear" if args.pred_distill else "none")
    record = RunRecord(output_dir, args, device, steps=total_steps, teacher=teacher_values,
                       student_parameters=sum(p.numel() for p in student.parameters()))
    print(f"{'prediction' if args.pred_distill else 'intermediate'} stage: {len(train)} examples, "
          f"{total_steps} steps of {args.train_batch_size} = {args.gradient_accumulation_steps} x {micro_batch}, "
          f"on {device}", flush=True)

    step, best = 0, -math.inf
    names = ("cls_loss",) if args.pred_distill else ("att_loss", "rep_loss")
    window = torch.zeros(len(names) + 1, device=device, dtype=torch.float64)  # losses, number of batches
    progress = tqdm(total=total_steps, unit="step", mininterval=1)
    for epoch in range(epochs):
        for indices in shuffled_batches(len(train), args.train_batch_size, args.seed, epoch):
            for rows in np.split(indices, args.gradient_accumulation_steps):
                # the intermediate losses average over padding, so its length matters; the prediction loss does not
                length = None if args.pred_distill else args.max_seq_length
                batch = [t.to(device) for t in train.batch(rows, length)]
                with torch.no_grad():
                    teacher_logits, teacher_scores, teacher_hidden = teacher(*batch)
                logits, scores, hidden = student(*batch, is_student=not args.pred_distill)
                if args.pred_distill:
                    labels = torch.from_numpy(train.labels[rows]).to(device) if gold else None
                    losses = [prediction_loss(logits, teacher_logits[:, teacher_order], labels, args.temperature)]
                else:
                    losses = transformer_losses((scores, hidden), (teacher_scores, teacher_hidden), pairs)
                (sum(losses) / args.gradient_accumulation_steps).backward()
                window += torch.stack([*(loss.detach() for loss in losses), torch.ones_like(losses[0])])
            learning_rate = optimizer.learning_rate()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            progress.update()
            if step % args.eval_step == 0 or step == total_steps:
                means = (window[:-1] / window[-1]).tolist()
                window.zero_()
                if not np.isfinite(means).all():
                    raise InputError(f"the loss is not finite at step {step}: lower --learning_rate")
                values = {"step": step, "loss": sum(means), **dict(zip(names, means)), "learning_rate": learning_rate}
                if args.pred_distill:
                    values |= evaluate(student, task, sets, student_order, args, device)
                progress.set_postfix(loss=f"{sum(means):.4f}")
                record.log(**values)
                record.text("eval_results.txt", format_metrics(f"step {step}", values))
                # the intermediate stage has no score to choose by: its last state is its result
                if not args.pred_distill or values[task.metric] > best:
                    best = values.get(task.metric, best)
                    save_model(student, output_dir, student_folder / VOCAB_NAME)
                    kept = values
            if step == total_steps:
                break
    progress.close()
    record.finish(task=task.name, kept=kept)
    print(format_metrics(f"student in {output_dir}", kept), flush=True)


if __name__ == "__main__":
    sys.exit(run_script(main))
