"""General distillation: a small BERT learns attention and hidden states of BERT on general text (paper, section 3).

Reads epoch_K.json from pregenerate_training_data.py and a teacher folder. Writes a student folder that
task_distill.py takes as --student_model: pytorch_model.bin, config.json, vocab.txt; and log.txt, run.json.
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
    count,
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
    train.add_argument("--learning_rate", type=positive_float, default=5e-5, help="peak rate of BertAdam")
    train.add_argument("--num_train_epochs", type=positive_float, default=3.0, help="passes, one epoch file each")
    add_warmup_flag(train)
    add_loss_flags(train)
    add_training_flags(train)
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


if __name__ == "__main__":
    parse_args()  # --help and refused flags answer before the slow imports below

import math
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from transformer.checkpoint import load_tokenizer, require_same_vocabulary, save_model
from transformer.config import check_sizes
from transformer.data.epochs import epoch_files, examples_in, open_epoch
from transformer.data.features import Sequences, show_examples
from transformer.distillation import Pairs, compared, copy_layers, layer_map, needed, transformer_losses
from transformer.files import find_folder, find_model
from transformer.modeling import BertModel, TinyBertForPreTraining
from transformer.optimization import BertAdam, freeze_unused, parameter_groups
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
from transformer.training.processes import Processes, freeze, join_processes, mixed, seed_everything, set_precision
from transformer.training.record import RunRecord, open_output
from transformer.training.signals import StopSignals
from transformer.training.states import States, files_sha256, numbered, result_settings
from transformer.weights import WEIGHTS_NAME, write_bin

CHECKPOINT = ("step_", f"_{WEIGHTS_NAME}")  # before and after the number of its step


def distillation_losses(student: nn.Module, teacher: nn.Module, batch: tuple[Tensor, ...], pairs: tuple[Pairs, Pairs],
                        precision: str) -> tuple[Tensor, Tensor]:
    """Attention loss and hidden loss of a batch, two scalars (paper, equations 7 to 9).

    batch: input_ids, token_type_ids, attention_mask, int64 [batch, length]; pairs: those of compared().
    """
    of_student, of_teacher = needed(pairs)
    with torch.no_grad():
        teacher_hidden, teacher_scores, _ = teacher(*batch, pool=False, **of_teacher)
    with mixed(precision, batch[0].device):
        outputs = student(*batch, **of_student)
    return transformer_losses(outputs, (teacher_scores, teacher_hidden), pairs)


@torch.no_grad()
def evaluate(student: nn.Module, teacher: nn.Module, data: Sequences, args: argparse.Namespace,
             pairs: tuple[Pairs, Pairs], processes: Processes) -> dict[str, float]:
    """Mean losses without dropout over the first 100 batches of `data`."""
    modes = student.training, teacher.training
    student.eval()
    teacher.eval()
    losses = Losses(("eval_att_loss", "eval_rep_loss"), processes)
    starts = range(0, min(len(data), 100 * args.eval_batch_size), args.eval_batch_size)
    for start in starts[processes.rank::processes.world]:
        rows = np.arange(start, min(start + args.eval_batch_size, len(data)))
        batch = processes.send(data.batch(rows, args.max_seq_length))
        losses.add(0, distillation_losses(student, teacher, batch, pairs, args.precision))
    student.train(modes[0])
    teacher.train(modes[1])
    return losses.means()


def main(argv: list[str] | None = None) -> None:
    """Train a general student."""
    args = parse_args(argv)
    processes = join_processes(args.no_cuda, args.local_rank)
    device = processes.device
    set_precision(args.precision, device)
    seed_everything(args.seed)
    batch_size, accumulation = args.train_batch_size, args.gradient_accumulation_steps
    micro_batch = micro_batch_size(batch_size, accumulation, processes.world)
    teacher_folder, student_folder = find_model(args.teacher_model), find_model(args.student_model)
    tokenizer = load_tokenizer(teacher_folder, args.do_lower_case)  # only names become ids: the text is split already
    args.do_lower_case = tokenizer.do_lower_case
    files = epoch_files(find_folder(args.pregenerated_data), math.ceil(args.num_train_epochs))
    counts = [examples_in(metrics, args.max_seq_length, args.do_lower_case) for _, metrics in files]
    per_epoch = [steps_per_epoch(count, batch_size, str(epoch_json)) for (epoch_json, _), count in zip(files, counts)]
    total_steps = count_steps(per_epoch, args.num_train_epochs)

    teacher = BertModel.from_pretrained(teacher_folder, add_pooler=False).to(device)
    build = TinyBertForPreTraining.from_pretrained if args.continue_train else TinyBertForPreTraining.from_scratch
    student = build(student_folder, fit_size=teacher.config.hidden_size).to(device)
    if args.continue_train:
        require_same_vocabulary(student_folder, teacher_folder)
    else:
        tokenizer.require_rows(student.config.vocab_size, student_folder)
    check_sizes(args.max_seq_length, 2, {student_folder: student.config, teacher_folder: teacher.config})
    pairs = compared(student.config, teacher.config, args.layer_mapping, args.without)
    if args.init_from_teacher_layers:
        layers = teacher.config.num_hidden_layers, student.config.num_hidden_layers
        copy_layers(student.bert, teacher, layer_map(*layers, args.layer_mapping)[0])
    freeze(teacher, args.precision)
    teacher.train(args.preset == "code")  # the published code leaves the teacher's dropout on
    student.train()

    output_dir = Path(args.output_dir)
    if open_output(output_dir, args.resume, args.overwrite_output_dir, processes, teacher_folder, student_folder):
        return
    print_settings(args)
    ids = torch.zeros(1, args.max_seq_length, dtype=torch.int64)  # any text tells which weights the losses reach
    freeze_unused(student, sum(distillation_losses(student, teacher, processes.send((ids, ids, ids + 1)), pairs,
                                                   args.precision)))
    trained, guide = processes.wrap(student), teacher
    if args.compile:
        trained, guide = torch.compile(trained), torch.compile(teacher)
    optimizer = BertAdam(parameter_groups(student, args.weight_decay), lr=args.learning_rate,
                         warmup=args.warmup_proportion, t_total=total_steps, schedule="warmup_linear")
    scaler = torch.amp.GradScaler(device.type, enabled=args.precision == "fp16")
    losses = Losses(("att_loss", "rep_loss"), processes)

    sizes = [epoch_json.stat().st_size for epoch_json, _ in files]
    settings = result_settings(vars(args), examples=counts, data_bytes=sizes,
                               teacher_files=files_sha256(teacher_folder),
                               student_files=files_sha256(student_folder, weights=args.continue_train))
    states = States(output_dir, settings, processes, student=student, optimizer=optimizer, scaler=scaler, losses=losses)
    step, values = 0, {}
    if state := states.restore(args.resume):
        step, values = state["step"], state["values"]
    first_epoch, first_batch = locate(step, per_epoch)

    def check_epochs() -> None:
        """Make the arrays of all epochs that are left, which finds what is wrong with one before days are spent."""
        for number, epoch in enumerate(dict.fromkeys(files[first_epoch:])):
            data = open_epoch(*epoch, tokenizer, args.max_seq_length, output_dir)
            if number == 0:
                show_examples(data, tokenizer)

    processes.in_turn(check_epochs)
    record = RunRecord(output_dir, args, processes, log_sizes=state and state["logs"], resumed_from=step,
                       steps=total_steps, **parameter_counts(student),
                       teacher_parameters=sum(p.numel() for p in teacher.parameters()))
    if not state and processes.is_first:
        for earlier in numbered(output_dir, *CHECKPOINT):
            earlier.unlink()
    print(f"{total_steps} steps of {batch_size} sequences = {processes.world} processes x {accumulation} x "
          f"{micro_batch}, on {device}", flush=True)

    progress = tqdm(total=total_steps, initial=step, unit="step", mininterval=1, disable=not processes.is_first)
    ends = set(accumulate(per_epoch[:-1]))
    with progress, StopSignals() as stop:
        for epoch in range(first_epoch, len(files)):
            data = None  # its memory is free for the next epoch
            with stop.suspended():  # the state is saved at the end of each epoch
                data = open_epoch(*files[epoch], tokenizer, args.max_seq_length, output_dir,
                                  in_memory=not args.reduce_memory)
            start = first_batch if epoch == first_epoch else 0
            for indices in shuffled_batches(len(data), batch_size, args.seed, epoch, start):
                if step == total_steps:
                    break
                for number, (piece, rows) in enumerate(shares(indices, accumulation, processes), 1):
                    seed_share(args.seed, step, piece)
                    batch = processes.send(data.batch(rows, args.max_seq_length))
                    with processes.synchronised(trained, number == accumulation):
                        att_loss, rep_loss = distillation_losses(trained, guide, batch, pairs, args.precision)
                        scaler.scale((att_loss + rep_loss) / accumulation).backward()
                    losses.add(step, (att_loss, rep_loss))
                learning_rate = optimizer.learning_rate()
                optimizer_step(optimizer, scaler, losses, step)
                record.count(data.lengths_of(indices))
                step += 1
                progress.update()

                if step % args.eval_step == 0 or step == total_steps:
                    losses.require_finite(counts, batch_size, args.seed, states.last)
                    means = losses.means()
                    values = {"step": step, "loss": sum(means.values()), **means, "learning_rate": learning_rate}
                    if args.do_eval:
                        values |= evaluate(student, teacher, data, args, pairs, processes)
                    progress.set_postfix({name: f"{mean:.3f}" for name, mean in means.items()})
                    record.log(**values, **record.speed())
                    record.text("log.txt", "  ".join(f"{name} = {value:.6g}" for name, value in values.items()))
                    if processes.is_first:
                        write_bin(output_dir / str(step).join(CHECKPOINT), student.state_dict())
                        save_model(student, output_dir, teacher_folder)  # what --continue_train takes
                        if args.keep_checkpoints:
                            for earlier in numbered(output_dir, *CHECKPOINT)[:-args.keep_checkpoints]:
                                earlier.unlink()
                stopping = stop.agreed(processes)
                if stopping or step in ends or states.is_due(step, args.save_steps, args.eval_step):
                    losses.require_finite(counts, batch_size, args.seed, states.last)
                    states.save(step, values=values, logs=record.sizes())
                if stopping:
                    progress.close()
                    stop.end(step, processes)
    record.finish(**values)
    states.clear()
    print(f"student in {output_dir}: att_loss {values['att_loss']:.4f}, rep_loss {values['rep_loss']:.4f}", flush=True)


if __name__ == "__main__":
    sys.exit(run_script(main))
