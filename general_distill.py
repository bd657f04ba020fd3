"""General distillation: a small BERT learns attention and hidden states of BERT on general text (paper, section 3).

Reads epoch_K.json from pregenerate_training_data.py and a teacher folder. Writes a student folder that
task_distill.py takes as --student_model: pytorch_model.bin, config.json, vocab.txt; and log.txt, run.json.
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
    count,
    positive,
    positive_float,
    print_settings,
    resolve_precision,
    run_script,
)
from transformer.files import find_folder, find_model
from transformer.stopwatch import STOPWATCH

if TYPE_CHECKING:  # torch takes a second to load: it stands inside the functions, --help and refused flags do without
    from torch import Tensor, nn

    from transformer.data.features import Sequences
    from transformer.distillation import Pairs
    from transformer.modeling import BertModel, TinyBertForPreTraining
    from transformer.training.processes import Processes
    from transformer.training.run import Run

CHECKPOINT = ("step_", "_pytorch_model.bin")  # before and after the number of its step


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, as given; resolve_preset() settles what depends on the preset."""
    parser = Parser(__doc__.splitlines()[0])
    data = parser.add_argument_group("data and models")
    data.add_argument("--pregenerated_data", required=True, help="folder with epoch_K.json and epoch_K_metrics.json")
    data.add_argument("--teacher_model", required=True, help="folder of the teacher, a BERT without fine-tuning")
    data.add_argument("--student_model", required=True,
                      help="folder with the student's config.json (random weights); a checkpoint with --continue_train")
    data.add_argument("--output_dir", required=True, help="folder to write the student to; must be empty")
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
    if not args.do_eval:
        parser.refuse(argv, "is for --do_eval: add that, or drop it", "eval_batch_size")
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


def distillation_losses(student: nn.Module, teacher: nn.Module, batch: tuple[Tensor, ...], pairs: tuple[Pairs, Pairs],
                        precision: str) -> tuple[Tensor, Tensor]:
    """Attention loss and hidden loss of a batch, two scalars (paper, equations 7 to 9).

    batch: input_ids, token_type_ids, attention_mask, int64 [batch, length]; pairs: those of compared().
    """
    import torch

    from transformer.distillation import needed, transformer_losses
    from transformer.training.processes import mixed

    of_student, of_teacher = needed(pairs)
    with torch.no_grad():
        teacher_hidden, teacher_scores, _ = teacher(*batch, pool=False, **of_teacher)
    with mixed(precision, batch[0].device):
        outputs = student(*batch, **of_student)
    return transformer_losses(outputs, (teacher_scores, teacher_hidden), pairs)


@STOPWATCH.part("evaluate")
def losses_without_dropout(student: nn.Module, teacher: nn.Module, data: Sequences, args: argparse.Namespace,
                           pairs: tuple[Pairs, Pairs], processes: Processes) -> dict[str, float]:
    """Mean losses without dropout over the first 100 batches of `data`, for --do_eval."""
    import numpy as np
    import torch

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
            losses.add(0, distillation_losses(student, teacher, batch, pairs, args.precision))
    student.train(modes[0])
    teacher.train(modes[1])
    return losses.means()


def load_pair(args: argparse.Namespace, teacher_folder: Path, student_folder: Path,
              processes: Processes) -> tuple[BertModel, TinyBertForPreTraining, tuple[Pairs, Pairs]]:
    """Teacher and student, on the device and in the modes of training, and what the losses compare of them.

    The weights that no loss reaches are frozen.
    """
    import torch

    from transformer.checkpoint import load_encoder, require_same_vocabulary
    from transformer.config import check_sizes
    from transformer.distillation import compared, copy_layers, layer_map
    from transformer.modeling import TinyBertForPreTraining
    from transformer.optimization import freeze_unused
    from transformer.training.processes import freeze

    teacher = load_encoder(teacher_folder).to(processes.device)
    fit_size = teacher.config.hidden_size
    if args.continue_train:
        student = TinyBertForPreTraining.from_pretrained(student_folder, fit_size=fit_size)
        require_same_vocabulary(student_folder, teacher_folder)
    else:
        student = TinyBertForPreTraining.from_scratch(student_folder, vocab_size=teacher.config.vocab_size,
                                                      fit_size=fit_size)
    student.to(processes.device)
    check_sizes(args.max_seq_length, 2, {student_folder: student.config, teacher_folder: teacher.config})
    pairs = compared(student.config, teacher.config, args.layer_mapping, args.without)
    if args.init_from_teacher_layers:
        layers = teacher.config.num_hidden_layers, student.config.num_hidden_layers
        copy_layers(student.bert, teacher, layer_map(*layers, args.layer_mapping)[0])
    freeze(teacher, args.precision)
    teacher.train(args.preset == "code")  # the published code leaves the teacher's dropout on
    student.train()
    ids = torch.zeros(1, args.max_seq_length, dtype=torch.int64)  # any text tells which weights the losses reach
    freeze_unused(student, sum(distillation_losses(student, teacher, processes.send((ids, ids, ids + 1)), pairs,
                                                   args.precision)))
    return teacher, student, pairs


@STOPWATCH.part("save")
def keep_checkpoint(run: Run, keep: int) -> None:
    """Save the weights of this step as step_N_pytorch_model.bin, of which the newest `keep` stay (0: all)."""
    from transformer.training.states import numbered
    from transformer.weights import write_bin

    write_bin(run.output_dir / str(run.step).join(CHECKPOINT), run.model.state_dict())
    if keep:
        for earlier in numbered(run.output_dir, *CHECKPOINT)[:-keep]:
            earlier.unlink()


def main(argv: list[str] | None = None) -> None:
    """Train a general student."""
    args = parse_args(argv)
    resolve_preset(args)

    from transformer.checkpoint import load_tokenizer
    from transformer.data.epochs import Epochs, epoch_files
    from transformer.data.features import show_examples
    from transformer.optimization import BertAdam, parameter_groups
    from transformer.reporting.curves import draw_or_warn
    from transformer.training.batches import Plan, micro_batch_size
    from transformer.training.processes import join_processes, seed_everything, set_deterministic, set_precision
    from transformer.training.record import open_output, student_label
    from transformer.training.run import Run, parameter_counts
    from transformer.training.states import files_sha256, numbered

    processes = join_processes(args.no_cuda, args.local_rank)
    args.precision = set_precision(args.precision, processes)
    set_deterministic(args.deterministic, processes)
    seed_everything(args.seed)
    accumulation = args.gradient_accumulation_steps
    micro_batch = micro_batch_size(args.train_batch_size, accumulation, processes.world)
    teacher_folder, student_folder = find_model(args.teacher_model), find_model(args.student_model)
    output_dir = Path(args.output_dir)
    tokenizer = load_tokenizer(teacher_folder, args.do_lower_case)  # only names become ids: the text is split already
    args.do_lower_case = tokenizer.do_lower_case
    epochs = Epochs(epoch_files(find_folder(args.pregenerated_data), math.ceil(args.num_train_epochs)), tokenizer,
                    args.max_seq_length, fallback=output_dir, in_memory=not args.reduce_memory)
    plan = Plan.of(args, epochs, epochs.counts, [epoch_json for epoch_json, _ in epochs.files], opens_epochs=True)
    if args.warmup_proportion is None:
        args.warmup_proportion = warmup_share(args.preset, plan.total_steps)
    teacher, student, pairs = load_pair(args, teacher_folder, student_folder, processes)
    if open_output(output_dir, args.resume, args.overwrite_output_dir, processes, teacher_folder, student_folder):
        return
    print_settings(args)
    optimizer = BertAdam(parameter_groups(student, args.weight_decay), lr=args.learning_rate,
                         warmup=args.warmup_proportion, t_total=plan.total_steps, schedule="warmup_linear")
    run = Run(args, processes, plan, student, optimizer, ("att_loss", "rep_loss"), output_dir, teacher_folder,
              due_every=args.eval_step,
              facts={"examples": epochs.counts, "data_bytes": epochs.data_bytes,
                     "teacher_files": files_sha256(teacher_folder),
                     "student_files": files_sha256(student_folder, weights=args.continue_train)})
    first_epoch, _ = plan.locate(run.step)

    def check_epochs() -> None:
        for number, instances in enumerate(epochs.check(first_epoch)):
            if number == 0:  # before hours go into the others
                show_examples(instances, tokenizer)

    processes.in_turn(check_epochs)
    run.begin(student=student_label(vars(args), None, student.config.num_hidden_layers), **parameter_counts(student),
              teacher_parameters=sum(weight.numel() for weight in teacher.parameters()))
    if processes.is_first and not run.is_resumed:
        for earlier in numbered(output_dir, *CHECKPOINT):
            earlier.unlink()
    print(f"{plan.total_steps} steps of {args.train_batch_size} sequences = {processes.world} processes x "
          f"{accumulation} x {micro_batch}, on {processes.device}", flush=True)

    compiled_teacher = run.compiled(teacher)
    with run:
        for indices in run:
            for rows in run.shares(indices):
                batch = processes.send(run.data.batch(rows, args.max_seq_length))
                run.backward(distillation_losses(run.trained, compiled_teacher, batch, pairs, args.precision))
            run.update()
            if run.is_due:
                values = {**run.means(), "learning_rate": run.learning_rate}
                if args.do_eval:
                    values |= losses_without_dropout(student, teacher, run.data, args, pairs, processes)
                run.log(values, "log.txt", "  ".join(f"{name} = {value:.6g}" for name, value in values.items()))
                if processes.is_first:
                    keep_checkpoint(run, args.keep_checkpoints)
                run.keep(values)  # what --continue_train takes
    run.finish(**run.kept)
    if processes.is_first:
        draw_or_warn(output_dir)
    print(f"student in {output_dir}: att_loss {run.kept['att_loss']:.4f}, rep_loss {run.kept['rep_loss']:.4f}",
          flush=True)


if __name__ == "__main__":
    sys.exit(run_script(main))
