"""General distillation: a small BERT learns attention and hidden states of BERT on general text (paper, section 3).

Reads epoch_K.json from pregenerate_training_data.py and a teacher folder. Writes a student folder that
task_distill.py takes as --student_model: pytorch_model.bin, config.json, vocab.txt; and log.txt, run.json.
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
    data.add_argument("--pregenerated_data", required=True, help="folder with epoch_K.json and epoch_K_metrics.json")
    data.add_argument("--teacher_model", required=True, help="folder of the teacher, a BERT without fine-tuning")
    data.add_argument("--student_model", required=True,
                      help="folder with the student's config.json (random weights); a checkpoint with --continue_train")
    data.add_argument("--output_dir", required=True, help="folder to write the student to; must be empty")
    data.add_argument("--overwrite_output_dir", action="store_true", help="write into a folder that is not empty")
    data.add_argument("--continue_train", action="store_true", help="start from the weights in --student_model")
    data.add_argument("--max_seq_length", type=positive, default=128, help="wordpieces every sequence is padded to")
    data.add_argument("--do_lower_case", action="store_true", help="the data are lower-cased; refused if they are not")
    data.add_argument("--reduce_memory", action="store_true",
                      help="read an epoch's arrays from disk as they are needed, not into memory at its start")
    train = parser.add_argument_group("training")
    train.add_argument("--train_batch_size", type=positive, default=32, help="sequences per optimizer step, in total")
    train.add_argument("--gradient_accumulation_steps", type=positive, default=1,
                       help="forward passes that one optimizer step is split into")
    train.add_argument("--learning_rate", type=positive_float, default=5e-5, help="peak rate of BertAdam")
    train.add_argument("--weight_decay", "--wd", type=decay, default=0.01,
                       help="decoupled decay of weights, per unit of learning rate")
    train.add_argument("--num_train_epochs", type=positive_float, default=3.0, help="passes, one epoch file each")
    train.add_argument("--warmup_proportion", type=proportion, default=0.1, help="share of all steps to warm up")
    train.add_argument("--layer_mapping", choices=("uniform", "top", "bottom"), default="uniform",
                       help="teacher layers the student learns from (paper, table 4)")
    train.add_argument("--without", nargs="+", choices=("attn", "embd", "hidn"), default=[], metavar="LOSS",
                       help="leave out losses: attn, embd (embedding output), hidn (layers) (paper, table 3)")
    evaluation = parser.add_argument_group("evaluation")
    evaluation.add_argument("--do_eval", action="store_true",
                            help="at every log also measure the losses without dropout on the first 100 batches")
    evaluation.add_argument("--eval_batch_size", type=positive, default=8, help="sequences per batch of --do_eval")
    evaluation.add_argument("--eval_step", type=positive, default=1000, help="optimizer steps between logs and saves")
    device = parser.add_argument_group("device")
    device.add_argument("--no_cuda", action="store_true", help="use the CPU even where there is a GPU")
    device.add_argument("--local_rank", type=int, default=-1, help="number of the GPU to use")
    device.add_argument("--fp16", action="store_true", help="half precision with gradient scaling; needs a GPU")
    add_run_flags(parser, preset=True)
    args = parser.parse_args(argv)
    if {"attn", "embd", "hidn"} == set(args.without):
        parser.error("--without attn embd hidn leaves no loss")
    if args.fp16 and args.no_cuda:
        parser.error("--fp16 needs a GPU and --no_cuda forbids it: drop one of them")
    return args


if __name__ == "__main__":
    parse_args()  # --help and refused flags answer before the slow imports below

import math
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from transformer.checkpoint import VOCAB_NAME, load_tokenizer, save_model
from transformer.distillation import ablate, attention_loss, check_pair, hidden_loss, layer_map
from transformer.epochs import open_epoch
from transformer.features import Sequences, show
from transformer.files import InputError, find_input, read_json, require_empty_folder
from transformer.modeling import BertModel, TinyBertForPreTraining
from transformer.optimization import BertAdam, parameter_groups
from transformer.runtime import (
    RunRecord,
    check_length,
    count_steps,
    micro_batch_size,
    refuse_several_processes,
    seed_everything,
    select_device,
    shuffled_batches,
    steps_per_epoch,
)
from transformer.weights import WEIGHTS_NAME, write_bin


def epoch_files(folder: Path, epochs: int) -> list[tuple[Path, Path]]:
    """(epoch_K.json, epoch_K_metrics.json) for each training epoch, looping over what is there, with a warning."""
    there = []
    while (folder / f"epoch_{len(there)}.json").is_file():
        there.append((folder / f"epoch_{len(there)}.json", folder / f"epoch_{len(there)}_metrics.json"))
    if not there:
        raise InputError(f"{folder} holds no epoch_0.json: make it with pregenerate_training_data.py")
    if len(there) < epochs:
        print(f"warning: {epochs} epochs asked for, {folder} holds {len(there)}: going over them again", flush=True)
    return [there[epoch % len(there)] for epoch in range(epochs)]


def examples_in(metrics: Path, max_seq_length: int, lower_case: bool) -> int:
    """Number of sequences that an epoch_K_metrics.json tells; InputError where they are longer or cased."""
    try:
        facts = read_json(metrics)
        count, longest = int(facts["num_training_examples"]), int(facts["max_seq_len"])
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{metrics} does not tell num_training_examples and max_seq_len: "
                         "generate the data again") from None
    if lower_case and not facts.get("do_lower_case", True):
        raise InputError(f"{metrics}: the data are cased: drop --do_lower_case, or generate them with it")
    if longest > max_seq_length:
        raise InputError(f"{metrics}: the data have up to {longest} wordpieces, more than "
                         f"--max_seq_length {max_seq_length}: set it to {longest}")
    return count


def distillation_losses(student, teacher, batch, pairs) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention loss and hidden loss of one batch (input_ids, token_type_ids, attention_mask)."""
    with torch.no_grad():
        teacher_hidden, teacher_scores, _ = teacher(*batch, pool=False)
    student_scores, student_hidden = student(*batch)
    return (attention_loss(student_scores, teacher_scores, pairs[0]),
            hidden_loss(student_hidden, teacher_hidden, pairs[1]))


@torch.no_grad()
def evaluate(student, teacher, data: Sequences, args: argparse.Namespace, pairs, device) -> dict[str, float]:
    """Mean losses without dropout over the first 100 batches of `data`."""
    modes = student.training, teacher.training
    student.eval()
    teacher.eval()
    batches = np.array_split(np.arange(min(len(data), 100 * args.eval_batch_size)),
                             -(-min(len(data), 100 * args.eval_batch_size) // args.eval_batch_size))
    losses = [torch.stack(distillation_losses(
        student, teacher, [t.to(device) for t in data.batch(rows, args.max_seq_length)], pairs)) for rows in batches]
    student.train(modes[0])
    teacher.train(modes[1])
    attention, hidden = torch.stack(losses).mean(0).tolist()
    return {"eval_att_loss": attention, "eval_rep_loss": hidden}


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    refuse_several_processes()
    device = select_device(args.no_cuda, args.local_rank)
    if args.fp16 and device.type != "cuda":
        raise InputError("--fp16 needs a GPU and there is none: drop the flag")
    seed_everything(args.seed)
    micro_batch = micro_batch_size(args.train_batch_size, args.gradient_accumulation_steps)
    files = epoch_files(find_input(args.pregenerated_data), math.ceil(args.num_train_epochs))
    counts = [examples_in(metrics, args.max_seq_length, args.do_lower_case) for _, metrics in files]
    total_steps = count_steps([steps_per_epoch(count, args.train_batch_size, str(epoch_json))
                               for (epoch_json, _), count in zip(files, counts)], args.num_train_epochs)
    teacher_folder, student_folder = find_input(args.teacher_model), find_input(args.student_model)

    tokenizer = load_tokenizer(teacher_folder, do_lower_case=True)  # only names become ids: the text is split already
    teacher = BertModel.from_pretrained(teacher_folder, add_pooler=False).to(device)
    build = TinyBertForPreTraining.from_pretrained if args.continue_train else TinyBertForPreTraining.from_scratch
    student = build(student_folder, fit_size=teacher.config.hidden_size).to(device)
    if args.continue_train and load_tokenizer(student_folder, do_lower_case=True).vocab != tokenizer.vocab:
        raise InputError(f"student and teacher vocabularies differ: {student_folder / VOCAB_NAME} and "
                         f"{teacher_folder / VOCAB_NAME}")
    check_pair(student.config, teacher.config)
    check_length(args.max_seq_length, student, teacher)
    pairs = ablate(layer_map(teacher.config.num_hidden_layers, student.config.num_hidden_layers, args.layer_mapping),
                   args.without)
    teacher.train(args.preset == "code")  # the published code leaves the teacher's dropout on
    student.train()

    output_dir = require_empty_folder(args.output_dir, args.overwrite_output_dir)
    for earlier in output_dir.glob(f"step_*_{WEIGHTS_NAME}"):
        earlier.unlink()
    print_settings(args)
    reading = {"fallback": output_dir, "in_memory": not args.reduce_memory}
    data = open_epoch(*files[0], tokenizer, args.max_seq_length, **reading)
    show(data, tokenizer)
    optimizer = BertAdam(parameter_groups(student, args.weight_decay), lr=args.learning_rate,
                         warmup=args.warmup_proportion, t_total=total_steps, schedule="warmup_linear")
    scaler = torch.amp.GradScaler(device.type, enabled=args.fp16)
    record = RunRecord(output_dir, args, device, steps=total_steps,
                       student_parameters=sum(p.numel() for p in student.parameters()),
                       teacher_parameters=sum(p.numel() for p in teacher.parameters()))
    print(f"{total_steps} steps of {args.train_batch_size} sequences = {args.gradient_accumulation_steps} x "
          f"{micro_batch}, on {device}", flush=True)

    step = 0
    window = torch.zeros(3, device=device, dtype=torch.float64)  # attention loss, hidden loss, batches
    progress = tqdm(total=total_steps, unit="step", mininterval=1)
    for epoch in range(len(files)):
        if epoch > 0 and files[epoch] != files[epoch - 1]:
            data = None  # its memory is free for the next epoch
            data = open_epoch(*files[epoch], tokenizer, args.max_seq_length, **reading)
        for indices in shuffled_batches(len(data), args.train_batch_size, args.seed, epoch):
            for rows in np.split(indices, args.gradient_accumulation_steps):
                batch = [t.to(device) for t in data.batch(rows, args.max_seq_length)]
                with torch.autocast(device.type, torch.float16, enabled=args.fp16):
                    att_loss, rep_loss = distillation_losses(student, teacher, batch, pairs)
                scaler.scale((att_loss + rep_loss) / args.gradient_accumulation_steps).backward()
                window += torch.stack([att_loss.detach(), rep_loss.detach(), torch.ones_like(att_loss)])
            learning_rate = optimizer.learning_rate()
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            step += 1
            progress.update()
            if step % args.eval_step == 0 or step == total_steps:
                att_loss, rep_loss = (window[:2] / window[2]).tolist()
                window.zero_()
                if not np.isfinite(att_loss + rep_loss):
                    raise InputError(f"the loss is {att_loss + rep_loss} at step {step}: lower --learning_rate")
                values = {"step": step, "loss": att_loss + rep_loss, "att_loss": att_loss, "rep_loss": rep_loss,
                          "learning_rate": learning_rate}
                if args.do_eval:
                    values |= evaluate(student, teacher, data, args, pairs, device)
                progress.set_postfix(att=f"{att_loss:.3f}", rep=f"{rep_loss:.3f}")
                record.log(**values)
                record.text("log.txt", "  ".join(f"{name} = {value:.6g}" for name, value in values.items()))
                write_bin(output_dir / f"step_{step}_{WEIGHTS_NAME}", student.state_dict())
                save_model(student, output_dir, teacher_folder / VOCAB_NAME)  # what --continue_train takes
            if step == total_steps:
                break
    progress.close()
    record.finish(**values)
    print(f"student in {output_dir}: att_loss {values['att_loss']:.4f}, rep_loss {values['rep_loss']:.4f}", flush=True)


if __name__ == "__main__":
    sys.exit(run_script(main))
