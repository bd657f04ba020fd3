"""General distillation: a small BERT learns attention and hidden states of BERT on general text (paper, section 3).

Reads the epochs of pregenerate_training_data.py and a teacher folder. Writes a student folder that
task_distill.py takes as --student_model: pytorch_model.bin, config.json, vocab.txt; and log.txt, run.json.
Several students learn side by side from one pass of the teacher, each as it would alone.
"""
from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from transformer.cli import (
    Parser,
    add_device_flags,
    add_loss_flags,
    add_run_flags,
    add_training_flags,
    add_warmup_flag,
    check_losses,
    check_students,
    count,
    each_student,
    positive,
    positive_float,
    resolve_precision,
    run_script,
)
from transformer.files import find_folder, find_model
from transformer.stopwatch import STOPWATCH

if TYPE_CHECKING:  # torch takes a second to load: it stands inside the functions, --help and refused flags do without
    from collections.abc import Sequence

    from torch import Tensor, nn

    from transformer.data.epochs import Epochs
    from transformer.data.features import Sequences
    from transformer.distillation import Outputs, Pairs
    from transformer.modeling import BertModel, TinyBertForPreTraining
    from transformer.pieces import Tokenizer
    from transformer.training.processes import Processes
    from transformer.training.run import Run

CHECKPOINT = ("step_", "_pytorch_model.bin")  # before and after the number of its step


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, as given; resolve_preset() settles what depends on the preset."""
    parser = Parser(__doc__.splitlines()[0])
    data = parser.add_argument_group("data and models")
    data.add_argument("--pregenerated_data", required=True, help="folder that pregenerate_training_data.py wrote")
    data.add_argument("--teacher_model", required=True, help="folder of the teacher, a BERT without fine-tuning")
    data.add_argument("--student_model", required=True, nargs="+", metavar="FOLDER",
                      help="folder with the student's config.json (random weights); a checkpoint with "
                           "--continue_train; several: students that learn side by side")
    data.add_argument("--output_dir", required=True, nargs="+", metavar="FOLDER",
                      help="folder to write the student to; must be empty; one for each student")
    data.add_argument("--continue_train", action="store_true", help="start from the weights in --student_model")
    data.add_argument("--init_from_teacher_layers", action="store_true",
                      help="start from the teacher's embeddings and its layers of --layer_mapping, for a student as "
                           "wide as the teacher")
    data.add_argument("--max_seq_length", type=positive, default=128, help="wordpieces every sequence is padded to")
    data.add_argument("--do_lower_case", action="store_true",
                      help="the data are lower-cased, as an uncased teacher needs them; a cased one refuses this")
    data.add_argument("--reduce_memory", action="store_true",
                      help="read an epoch's arrays from disk as they are needed, not into memory at its start")
    train = parser.add_argument_group("training")
    train.add_argument("--learning_rate", type=positive_float,
                       help="peak rate of BertAdam (default paper: 1e-4; code: 5e-5)")
    train.add_argument("--num_train_epochs", type=positive_float, default=3.0, help="passes, one epoch file each")
    add_warmup_flag(train, None, " (default paper: 10,000 steps, at most 0.1; code: 0.1)")
    add_loss_flags(train)
    add_training_flags(train, None, " (default paper: 256; code: 32)")
    evaluation = parser.add_argument_group("evaluation")
    evaluation.add_argument("--eval_step", type=positive, default=1000, help="optimizer steps between logs and saves")
    evaluation.add_argument("--keep_checkpoints", type=count, default=2,
                            help="step_N_pytorch_model.bin to keep, one for each log, the newest; 0 keeps all")
    evaluation.add_argument("--do_eval", action="store_true",
                            help="at every log also measure the losses without dropout on the first 100 batches")
    evaluation.add_argument("--eval_batch_size", type=positive, default=8, help="sequences per batch of --do_eval")
    add_device_flags(parser)
    add_run_flags(parser, preset=True)
    args = parser.parse_args(argv)
    if args.continue_train and args.init_from_teacher_layers:
        parser.error("--continue_train starts from the student's weights, --init_from_teacher_layers from the "
                     "teacher's: drop one of them")
    if args.init_from_teacher_layers and args.layer_mapping == "last":
        parser.error("--init_from_teacher_layers copies a layer of --layer_mapping to each of the student's, and last "
                     "names one layer alone: drop one of them")
    if not args.do_eval:
        parser.refuse(argv, "is for --do_eval: add that, or drop it", "eval_batch_size")
    check_losses(parser, argv, args)
    check_students(parser, args)
    return resolve_precision(parser, args)


def resolve_preset(args: argparse.Namespace) -> None:
    """Fill in rate and batch that the user left open: those of BERT's pre-training (paper, section 4.2; BERT, appendix
    A.2), or as published."""
    paper = args.preset == "paper"
    args.learning_rate = args.learning_rate or (1e-4 if paper else 5e-5)
    args.train_batch_size = args.train_batch_size or (256 if paper else 32)


def warmup_share(preset: str, total_steps: int) -> float:
    """Share of a run of so many steps that warms up: 10,000 of BERT's steps, but no more than the published tenth."""
    return min(10_000 / total_steps, 0.1) if preset == "paper" else 0.1


def taught(teacher: nn.Module, batch: tuple[Tensor, ...], pairs: Sequence[tuple[Pairs, Pairs]],
           args: argparse.Namespace) -> Outputs:
    """Attention scores, or what they are made of, and hidden states of the teacher, as far as the losses of these pairs
    of compared() read them.

    batch: input_ids, token_type_ids, attention_mask, int64 [batch, length].
    """
    import torch

    from transformer.distillation import needed

    with torch.no_grad():
        hidden, scores, _ = teacher(*batch, pool=False, query_key=args.attention_loss == "gram", **needed(pairs, 1))
    return scores, hidden


def learned(student: nn.Module, batch: tuple[Tensor, ...], pairs: tuple[Pairs, Pairs],
            args: argparse.Namespace) -> Outputs:
    """The same of the student, projected to the teacher's width."""
    from transformer.distillation import needed
    from transformer.training.processes import mixed

    with mixed(args.precision, batch[0].device):
        return student(*batch, query_key=args.attention_loss == "gram", **needed([pairs], 0))


def check_epochs(epochs: Epochs, first: int, tokenizer: Tokenizer) -> None:
    """Read the epochs that are left, or make their arrays, so that a bad one is found before hours go into others."""
    from transformer.data.features import show_examples

    for number, instances in enumerate(epochs.check(first)):
        if number == 0:
            show_examples(instances, tokenizer)


@STOPWATCH.part("evaluate")
def losses_without_dropout(student: nn.Module, teacher: nn.Module, data: Sequences, args: argparse.Namespace,
                           pairs: tuple[Pairs, Pairs], processes: Processes) -> dict[str, float]:
    """Mean losses without dropout over the first 100 batches of `data`, for --do_eval."""
    import numpy as np
    import torch

    from transformer.distillation import transformer_losses
    from transformer.training.losses import Losses

    modes = student.training, teacher.training
    student.eval()
    teacher.eval()
    losses = Losses(("eval_att_loss", "eval_rep_loss"), processes)
    starts = range(0, min(len(data), 100 * args.eval_batch_size), args.eval_batch_size)
    with torch.no_grad():
        for start in starts[processes.rank::processes.world]:
            rows = np.arange(start, min(start + args.eval_batch_size, len(data)))
            batch = processes.send(data.batch(rows, args.max_seq_length))
            from_teacher = taught(teacher, batch, [pairs], args)
            losses.add(0, transformer_losses(learned(student, batch, pairs, args), from_teacher, pairs, batch[2]))
    student.train(modes[0])
    teacher.train(modes[1])
    return losses.means()


def load_teacher(folder: Path, args: argparse.Namespace, processes: Processes) -> BertModel:
    """The teacher on the device, its weights constants."""
    from transformer.checkpoint import load_encoder
    from transformer.training.processes import freeze

    teacher = load_encoder(folder).to(processes.device)
    freeze(teacher, args.precision)
    return teacher.train(args.preset == "code")  # the published code leaves the teacher's dropout on


def attention_loss_for(args: argparse.Namespace, teacher: BertModel) -> str:
    """`scores` or `gram`, whichever --attention_loss comes to for this teacher and all students."""
    from transformer.distillation import chosen_attention_loss
    from transformer.modeling import student_config

    students = [student_config(find_model(own.student_model), teacher.config) for own in each_student(args)]
    return chosen_attention_loss(args.attention_loss, args.preset, args.max_seq_length, [teacher.config, *students])


def load_general_student(args: argparse.Namespace, folder: Path, teacher_folder: Path, teacher: BertModel,
                         processes: Processes) -> tuple[TinyBertForPreTraining, tuple[Pairs, Pairs]]:
    """A student on the device, to be trained, and what its losses compare. The weights that no loss reaches are
    frozen."""
    import torch

    from transformer.checkpoint import require_same_vocabulary
    from transformer.config import check_sizes
    from transformer.distillation import compared, copy_layers, layer_map, transformer_losses
    from transformer.modeling import TinyBertForPreTraining
    from transformer.optimization import freeze_unused
    from transformer.training.processes import seed_everything

    fit = {"fit_size": teacher.config.hidden_size, "fit_per_layer": args.fit_per_layer}
    seed_everything(args.seed)  # random weights are the same whatever was made before
    if args.continue_train:
        student = TinyBertForPreTraining.from_pretrained(folder, **fit)
        require_same_vocabulary(folder, teacher_folder)
    else:
        student = TinyBertForPreTraining.from_scratch(folder, teacher.config, **fit)
    student.to(processes.device).train()
    check_sizes(args.max_seq_length, 2, {folder: student.config, teacher_folder: teacher.config})
    pairs = compared(student.config, teacher.config, args.layer_mapping, args.without)
    if args.init_from_teacher_layers:
        layers = teacher.config.num_hidden_layers, student.config.num_hidden_layers
        copy_layers(student.bert, teacher, layer_map(*layers, args.layer_mapping)[0])
    ids = torch.zeros(1, args.max_seq_length, dtype=torch.int64)  # any text tells which weights the losses reach
    batch = processes.send((ids, ids, ids + 1))
    freeze_unused(student, sum(transformer_losses(learned(student, batch, pairs, args),
                                                  taught(teacher, batch, [pairs], args), pairs, batch[2])))
    return student, pairs


@STOPWATCH.part("save")
def keep_checkpoint(run: Run, keep: int) -> None:
    """Save the weights of this step as step_N_pytorch_model.bin, of which the newest `keep` stay (0: all)."""
    from transformer.training.states import numbered
    from transformer.weights import write_bin

    if not run.processes.is_first:
        return
    write_bin(run.output_dir / str(run.step).join(CHECKPOINT), run.model.state_dict())
    if keep:
        for earlier in numbered(run.output_dir, *CHECKPOINT)[:-keep]:
            earlier.unlink()


def main(argv: list[str] | None = None) -> None:
    """Train general students."""
    args = parse_args(argv)
    resolve_preset(args)

    from transformer.checkpoint import load_tokenizer
    from transformer.data.epochs import Epochs, epoch_files
    from transformer.distillation import losses_on, warn_of_low_scores
    from transformer.reporting.curves import draw_or_warn
    from transformer.training.batches import Plan, micro_batch_size
    from transformer.training.processes import join_processes, seed_everything, set_device_flags, set_precision
    from transformer.training.record import open_outputs, student_label
    from transformer.training.run import Training, compiled, parameter_counts, student_run
    from transformer.training.states import files_sha256, numbered

    processes = join_processes(args.no_cuda, args.local_rank)
    args.precision = set_precision(args.precision, processes)
    set_device_flags(args, processes)
    seed_everything(args.seed)
    micro_batch = micro_batch_size(args.train_batch_size, args.gradient_accumulation_steps, processes.world)
    teacher_folder = find_model(args.teacher_model)
    tokenizer = load_tokenizer(teacher_folder, args.do_lower_case)  # only names become ids: the text is split already
    args.do_lower_case = tokenizer.do_lower_case
    epochs = Epochs(epoch_files(find_folder(args.pregenerated_data), math.ceil(args.num_train_epochs)), tokenizer,
                    args.max_seq_length, fallback=Path(args.output_dir[0]), in_memory=not args.reduce_memory)
    plan = Plan.of(args, epochs, epochs.counts, [instances for instances, _ in epochs.files], opens_epochs=True)
    if args.warmup_proportion is None:
        args.warmup_proportion = warmup_share(args.preset, plan.total_steps)
    teacher = load_teacher(teacher_folder, args, processes)
    args.attention_loss = attention_loss_for(args, teacher)
    students = {own.output_dir: load_general_student(own, find_model(own.student_model), teacher_folder, teacher,
                                                     processes) for own in each_student(args)}
    unfinished = open_outputs(each_student(args), processes, teacher_folder)
    if not unfinished:
        return
    facts = {"examples": epochs.counts, "data_bytes": epochs.data_bytes, "teacher_files": files_sha256(teacher_folder)}
    pairs = {}  # of each run, what its losses compare
    for own in unfinished:
        student, compares = students[own.output_dir]
        run = student_run(own, processes, plan, student, ("att_loss", "rep_loss"), "warmup_linear", teacher_folder,
                          facts, random=not args.continue_train)
        pairs[run] = compares
    training = Training(args, processes, plan, list(pairs), lambda lengths: args.max_seq_length)
    processes.in_turn(lambda: check_epochs(epochs, plan.locate(training.step)[0], tokenizer))
    for run in pairs:
        run.begin(student=student_label(vars(run.args), None, run.model.config.num_hidden_layers),
                  **parameter_counts(run.model),
                  teacher_parameters=sum(weight.numel() for weight in teacher.parameters()), **training.companions(run))
        if processes.is_first and not run.is_resumed:
            for earlier in numbered(run.output_dir, *CHECKPOINT):
                earlier.unlink()
    print(f"{plan.total_steps} steps of {args.train_batch_size} sequences = {processes.world} processes x "
          f"{args.gradient_accumulation_steps} x {micro_batch}, on {processes.device}", flush=True)

    compiled_teacher, losses = compiled(teacher, args), losses_on(processes.device, args.compile)
    with training:
        for shares in training:
            for _, batch in shares:
                from_teacher = None  # the memory of the last is free for it
                from_teacher = taught(compiled_teacher, batch, [pairs[run] for run in training.active], args)
                for run in training.turns():
                    run.backward(losses(learned(run.trained, batch, pairs[run], args), from_teacher, pairs[run],
                                        batch[2]))
            for run in training.active:
                run.update()
                if run.is_due:
                    values = {**run.means(), "learning_rate": run.learning_rate}
                    if args.do_eval:
                        values |= losses_without_dropout(run.model, teacher, training.data, args, pairs[run], processes)
                    run.log(values, "log.txt", "  ".join(f"{name} = {value:.6g}" for name, value in values.items()))
                    warn_of_low_scores(from_teacher[0], batch[2], "teacher")
                    keep_checkpoint(run, args.keep_checkpoints)
                    run.keep(values)  # what --continue_train takes
    for run in pairs:
        run.finish(**run.kept)
    for run in pairs:
        if processes.is_first:
            draw_or_warn(run.output_dir)
        print(f"student in {run.output_dir}: att_loss {run.kept['att_loss']:.4f}, rep_loss "
              f"{run.kept['rep_loss']:.4f}", flush=True)


if __name__ == "__main__":
    sys.exit(run_script(main))
