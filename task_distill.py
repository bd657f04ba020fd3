"""Task distillation: a general TinyBERT learns one GLUE task from a BERT fine-tuned on it (paper, section 3).

Two runs: the intermediate stage (attention and hidden states), then, with --pred_distill, the prediction stage (the
teacher's logits). --do_eval only scores --student_model on the dev set, into eval_results.json in its folder;
--do_predict writes the GLUE submission file of the test set. Reads DATA_DIR/{train,train_aug,dev,test}.tsv; writes a
student folder, eval_results.txt, metrics.jsonl and run.json.
"""
from __future__ import annotations

import argparse
import sys

from transformer.cli import (
    Parser,
    add_device_flags,
    add_loss_flags,
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
    """The command line, as given; resolve() settles what depends on preset and task."""
    parser = Parser(__doc__.splitlines()[0])
    data = parser.add_argument_group("data and models")
    data.add_argument("--data_dir", required=True, help="the task's folder with train.tsv and dev.tsv")
    data.add_argument("--task_name", required=True, help="a GLUE task, in any case, with or without the hyphen")
    data.add_argument("--student_model", required=True, help="general student, for --pred_distill an intermediate one")
    data.add_argument("--output_dir", required=True, help="folder to write to; must be empty for training")
    data.add_argument("--cache_dir", help="keeps encoded examples and teacher logits (default: DATA_DIR/features)")
    data.add_argument("--max_seq_length", type=positive,
                      help="longest sequence in wordpieces (default paper: 64 for CoLA and SST-2, else 128; code: 128)")
    data.add_argument("--do_lower_case", action="store_true",
                      help="lower-case the text, as is done for an uncased model anyway; a cased one refuses this")
    data.add_argument("--eval_batch_size", type=positive, default=32, help="sequences per batch without training")
    train = parser.add_argument_group("training")
    train.add_argument("--teacher_model", help="folder of the fine-tuned teacher; needed for training")
    train.add_argument("--pred_distill", action="store_true", help="run the prediction stage, not the intermediate one")
    train.add_argument("--aug_train", action="store_true", help="train on train_aug.tsv of data_augmentation.py")
    train.add_argument("--skip_teacher_check", action="store_true", help="go on with a teacher at chance level")
    train.add_argument("--from_scratch", action="store_true",
                       help="start from random weights: of --student_model only config.json is read (paper, table 2)")
    train.add_argument("--learning_rate", type=positive_float,
                       help="rate of BertAdam (default 5e-5; prediction stage of the paper preset: 3e-5)")
    train.add_argument("--num_train_epochs", type=positive_float,
                       help="default: 3; intermediate stage of the paper preset: 20, MNLI QQP QNLI 10, CoLA 50")
    train.add_argument("--eval_step", type=positive, default=50, help="optimizer steps between logs and saves")
    add_training_flags(train)
    intermediate = parser.add_argument_group("intermediate stage")
    add_loss_flags(intermediate)
    intermediate.add_argument("--dynamic_padding", action="store_true",
                              help="pad to the longest of each batch: faster; the losses, means over padding, change")
    prediction = parser.add_argument_group("prediction stage")
    add_warmup_flag(prediction)
    prediction.add_argument("--temperature", type=positive_float, default=1.0, help="of the soft cross-entropy")
    prediction.add_argument("--hard_labels", action="store_true", help="learn the data's labels (paper, table 3: Pred)")
    prediction.add_argument("--hf_head", action="store_true",
                            help="a classifier without relu, for Hugging Face's BertForSequenceClassification")
    scoring = parser.add_argument_group("scoring, without training")
    scoring.add_argument("--do_eval", action="store_true", help="score --student_model on the dev set")
    scoring.add_argument("--save_predictions", action="store_true",
                         help="with --do_eval: also write label, prediction and logits of each example")
    scoring.add_argument("--do_predict", action="store_true", help="answer the test set, for the GLUE server")
    add_device_flags(parser)
    add_run_flags(parser, preset=True)
    args = parser.parse_args(argv)
    if args.do_eval or args.do_predict:
        mode = "--do_eval" if args.do_eval else "--do_predict"
        parser.refuse(argv, f"is for training, not for {mode}: drop one of them", train, intermediate, prediction)
    elif not args.teacher_model:
        parser.error("training needs --teacher_model (or --do_eval to score a student)")
    elif args.pred_distill:
        parser.refuse(argv, "is for the intermediate stage: drop it, or drop --pred_distill", intermediate)
    else:
        parser.refuse(argv, "is for the prediction stage: add --pred_distill, or drop it", prediction)
    if args.hard_labels:
        parser.refuse(argv, "is for the teacher's answers and --hard_labels asks for none: drop one", "temperature")
    if args.save_predictions and not args.do_eval:
        parser.error("--save_predictions is for --do_eval: add it, or drop it")
    return resolve_precision(parser, args)


if __name__ == "__main__":
    parse_args()  # --help and refused flags answer before the slow imports below

import math
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from transformer.checkpoint import head_note, load_tokenizer, require_same_vocabulary, save_model
from transformer.config import check_sizes
from transformer.data.features import show
from transformer.data.tables import data_folder
from transformer.distillation import compared, needed, transformer_losses
from transformer.files import InputError, find_folder, find_model
from transformer.modeling import TinyBertForSequenceClassification
from transformer.optimization import BertAdam, freeze_unused, parameter_groups
from transformer.tasks.glue import get_task
from transformer.tasks.labels import class_order, name_labels
from transformer.tasks.task import Task
from transformer.training.batches import (
    count_steps,
    locate,
    micro_batch_size,
    seed_share,
    shares,
    shuffled_batches,
    steps_per_epoch,
)
from transformer.training.losses import Losses, optimizer_step, parameter_counts
from transformer.training.models import load_classifier
from transformer.training.processes import freeze, join_processes, mixed, seed_everything, set_precision
from transformer.training.record import RunRecord, format_metrics, open_output, require_finished
from transformer.training.scoring import (
    cached_logits,
    dev_sets,
    encoded,
    evaluate,
    evaluate_only,
    require_fit_teacher,
    train_file,
)
from transformer.training.signals import StopSignals
from transformer.training.states import States, files_sha256, result_settings


def resolve(args: argparse.Namespace, task: Task) -> None:
    """Fill in what the user left open, by preset, task and stage (paper, section 4.2); InputError for an idle flag."""
    paper = args.preset == "paper"
    args.max_seq_length = args.max_seq_length or (task.max_seq_length if paper else 128)
    epochs = task.intermediate_epochs if paper and not args.pred_distill else 3
    args.num_train_epochs = args.num_train_epochs or epochs
    args.learning_rate = args.learning_rate or (3e-5 if paper and args.pred_distill else 5e-5)
    if not task.head.has_temperature and args.temperature != 1.0:
        raise InputError(f"--temperature has no effect on {task.name}, whose answers are scores: drop it")


def main(argv: list[str] | None = None) -> None:
    """Train a student, or score one."""
    args = parse_args(argv)
    task = get_task(args.task_name)
    args.task_name = task.name
    resolve(args, task)
    processes = join_processes(args.no_cuda, args.local_rank)
    device = processes.device
    set_precision(args.precision, device)
    seed_everything(args.seed)
    if args.do_eval or args.do_predict:
        evaluate_only(args, task, processes)
        return

    student_folder, teacher_folder = find_model(args.student_model), find_model(args.teacher_model)
    data_dir = data_folder(find_folder(args.data_dir), task)
    args.data_dir = str(data_dir)
    train_path = train_file(data_dir, args.aug_train)
    batch_size, accumulation = args.train_batch_size, args.gradient_accumulation_steps
    micro_batch = micro_batch_size(batch_size, accumulation, processes.world)
    require_finished(teacher_folder)
    tokenizer = load_tokenizer(teacher_folder, args.do_lower_case)
    args.do_lower_case = tokenizer.do_lower_case
    teacher = load_classifier(teacher_folder, task, args).to(device)
    # the projection is a part of the intermediate stage alone; the student that is handed on has none
    sizes = {"num_labels": task.num_labels, "fit_size": None if args.pred_distill else teacher.config.hidden_size}
    build = TinyBertForSequenceClassification.from_scratch
    if not args.from_scratch:
        require_finished(student_folder)
        require_same_vocabulary(student_folder, teacher_folder)
        build, sizes["new"] = TinyBertForSequenceClassification.from_pretrained, ("classifier.", "fit_dense")
    student = build(student_folder, **sizes).to(device)
    if args.from_scratch:
        tokenizer.require_rows(student.config.vocab_size, student_folder)
    check_sizes(args.max_seq_length, len(task.text_columns),
                {student_folder: student.config, teacher_folder: teacher.config})
    if args.pred_distill:  # only answers are compared
        pairs, (of_student, of_teacher) = ([], []), ({"attention_scores": ()},) * 2
    else:
        pairs = compared(student.config, teacher.config, args.layer_mapping, args.without)
        of_student, of_teacher = needed(pairs)
    teacher_order = class_order(teacher.config.extra, task, teacher_folder)
    student_order = list(range(task.num_labels))  # the task's own order, whatever the teacher's
    name_labels(student.config.extra, task, trained=args.pred_distill)
    if args.hf_head and student.config.classifier_relu:
        print(f"--hf_head: the relu before the classifier of {student_folder} is left out from here on", flush=True)
        student.config.classifier_relu = False

    output_dir = Path(args.output_dir)
    if open_output(output_dir, args.resume, args.overwrite_output_dir, processes, teacher_folder, student_folder):
        return
    print_settings(args)
    sets = dev_sets(task, data_dir, tokenizer, args)
    teacher_values, _ = evaluate(teacher, task, sets, teacher_order, args.eval_batch_size, processes)
    print(format_metrics(f"teacher {teacher_folder}", teacher_values), flush=True)
    if not args.skip_teacher_check:
        require_fit_teacher(teacher_folder, task, teacher_values[task.metric], next(iter(sets.values())).labels)
    train = encoded(task, train_path, tokenizer, args)
    show(train, tokenizer)
    epochs = math.ceil(args.num_train_epochs)
    counts, per_epoch = [len(train)] * epochs, [steps_per_epoch(len(train), batch_size, str(train_path))] * epochs
    total_steps = count_steps(per_epoch, args.num_train_epochs)

    freeze(teacher, args.precision)
    teacher.train(args.preset == "code")  # the published code leaves the teacher's dropout on
    student.train()
    # published code, and the paper's text, give STS-B gold scores; the paper's numbers used the teacher's
    gold = args.hard_labels or (task.head.gold_in_code and args.preset == "code")
    ask_teacher = not args.pred_distill or (teacher.training and not gold)
    columns = torch.tensor(teacher_order, device=device)
    targets = None
    if args.pred_distill and not (ask_teacher or gold):  # in evaluation mode it says the same in every epoch
        targets = cached_logits(teacher, task.head, train, args.eval_batch_size, processes,
                                args.cache_dir or data_dir / "features", fallback=output_dir / "features")

    def batch_losses(student: torch.nn.Module, teacher: torch.nn.Module, rows: np.ndarray,
                     length: int | None) -> list[torch.Tensor]:
        """Of some examples, padded to `length`: the prediction loss, or attention loss and hidden loss."""
        batch = processes.send(train.batch(rows, length))
        if ask_teacher:
            with torch.no_grad():
                teacher_logits, *teacher_outputs = teacher(*batch, classify=args.pred_distill, **of_teacher)
        with mixed(args.precision, device):
            logits, *outputs = student(*batch, is_student=not args.pred_distill, classify=args.pred_distill,
                                       **of_student)
        if not args.pred_distill:
            return list(transformer_losses(outputs, teacher_outputs, pairs))
        if gold:
            labels, = processes.send([torch.from_numpy(train.labels[rows])])
            return [task.head.hard_loss(logits.float(), labels)]
        if targets is not None:
            teacher_logits, = processes.send([torch.from_numpy(targets[rows])])
        return [task.head.soft_loss(logits.float(), teacher_logits.float()[..., columns], args.temperature)]

    freeze_unused(student, sum(batch_losses(student, teacher, np.arange(1), None)))
    trained, guide = processes.wrap(student), teacher
    if args.compile:
        trained, guide = torch.compile(trained), torch.compile(teacher)
    optimizer = BertAdam(parameter_groups(student, args.weight_decay), lr=args.learning_rate,
                         warmup=args.warmup_proportion, t_total=total_steps,
                         schedule="warmup_linear" if args.pred_distill else "none")
    scaler = torch.amp.GradScaler(device.type, enabled=args.precision == "fp16")
    losses = Losses(("cls_loss",) if args.pred_distill else ("att_loss", "rep_loss"), processes)

    settings = result_settings(vars(args), train=train.key, dev=[sequences.key for sequences in sets.values()],
                               teacher_files=files_sha256(teacher_folder),
                               student_files=files_sha256(student_folder, weights=not args.from_scratch))
    states = States(output_dir, settings, processes, student=student, optimizer=optimizer, scaler=scaler, losses=losses)
    step, best, kept = 0, -math.inf, {}
    if state := states.restore(args.resume):
        step, best, kept = state["step"], state["best"], state["kept"]
    record = RunRecord(output_dir, args, processes, log_sizes=state and state["logs"], resumed_from=step,
                       steps=total_steps, teacher=teacher_values, **parameter_counts(student))
    print(f"{'prediction' if args.pred_distill else 'intermediate'} stage: {len(train)} examples, {total_steps} steps "
          f"of {batch_size} = {processes.world} processes x {accumulation} x {micro_batch}, on {device}", flush=True)

    progress = tqdm(total=total_steps, initial=step, unit="step", mininterval=1, disable=not processes.is_first)
    first_epoch, first_batch = locate(step, per_epoch)
    with progress, StopSignals() as stop:
        for epoch in range(first_epoch, epochs):
            start = first_batch if epoch == first_epoch else 0
            for indices in shuffled_batches(len(train), batch_size, args.seed, epoch, start):
                if step == total_steps:
                    break
                # The intermediate losses average over padding, so its length matters, and must not depend on how a
                # batch is split; the prediction loss does not see it.
                length = None if args.pred_distill else \
                    int(train.lengths_of(indices).max()) if args.dynamic_padding else args.max_seq_length
                for number, (piece, rows) in enumerate(shares(indices, accumulation, processes), 1):
                    seed_share(args.seed, step, piece)
                    with processes.synchronised(trained, number == accumulation):
                        parts = batch_losses(trained, guide, rows, length)
                        scaler.scale(sum(parts) / accumulation).backward()
                    losses.add(step, parts)
                learning_rate = optimizer.learning_rate()
                optimizer_step(optimizer, scaler, losses, step)
                record.count(train.lengths_of(indices))
                step += 1
                progress.update()

                if step % args.eval_step == 0 or step == total_steps:
                    losses.require_finite(counts, batch_size, args.seed, states.last)
                    means = losses.means()
                    values = {"step": step, "loss": sum(means.values()), **means, "learning_rate": learning_rate}
                    if args.pred_distill:
                        values |= evaluate(student, task, sets, student_order, args.eval_batch_size, processes)[0]
                    progress.set_postfix({name: f"{mean:.4f}" for name, mean in means.items()})
                    record.log(**values, **record.speed())
                    record.text("eval_results.txt", format_metrics(f"step {step}", values))
                    # the intermediate stage has no score to choose by: its last state is its result
                    if not args.pred_distill or values[task.metric] > best:
                        best, kept = values.get(task.metric, best), values
                        if processes.is_first:
                            save_model(student, output_dir, teacher_folder)
                stopping = stop.agreed(processes)
                if stopping or states.is_due(step, args.save_steps, args.eval_step):
                    losses.require_finite(counts, batch_size, args.seed, states.last)
                    states.save(step, best=best, kept=kept, logs=record.sizes())
                if stopping:
                    progress.close()
                    stop.end(step, processes)
    record.finish(task=task.name, kept=kept)
    states.clear()
    print(format_metrics(f"student in {output_dir}", kept), flush=True)
    if args.pred_distill:
        print(head_note(student.config, output_dir), flush=True)


if __name__ == "__main__":
    sys.exit(run_script(main))
