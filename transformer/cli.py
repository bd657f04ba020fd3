"""The command line that all scripts share: parser, common flags, the one-line error. Imports no torch."""
from __future__ import annotations

import argparse
import importlib.util
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformer.files import InputError, in_words

# Settings of windows over passages and of the answers that are chosen from them, by flag. BERT's own.
SPAN_SETTINGS = {"doc_stride": 128, "max_query_length": 64, "n_best_size": 20, "max_answer_length": 30,
                 "null_score_diff_threshold": 0.0}

# Flags of the published code that are no more, and why; --help is silent about them.
GONE = {"--data_url": "it copied the data from the authors' own cloud storage (moxing): leave it out and name a local "
                      "folder, with --data_dir or --pregenerated_data"}


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the default to a flag's help, except where there is none to speak of."""

    def _get_help_string(self, action: argparse.Action) -> str:
        if action.default is None or action.default is False or action.default == [] or action.required:
            return action.help or ""
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser without abbreviations that shows defaults and answers bad flags with one line."""

    def __init__(self, description: str):
        super().__init__(description=description, formatter_class=_HelpFormatter, allow_abbrev=False)

    def parse_args(self, args: Sequence[str] | None = None,
                   namespace: argparse.Namespace | None = None) -> argparse.Namespace:
        """As ArgumentParser's; ends as error() does at a flag that is gone, with the reason."""
        for argument in sys.argv[1:] if args is None else args:
            name = argument.partition("=")[0]
            if name in GONE:
                self.error(f"{name} is gone: {GONE[name]}")
        return super().parse_args(args, namespace)

    def error(self, message: str) -> None:
        """End the script with status 2 and one line on stderr."""
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")

    def refuse(self, argv: list[str] | None, why: str, *flags: str | argparse._ArgumentGroup) -> None:
        """End as error() does if one of these flags stands in `argv`, whatever its value: it would do nothing.

        flags: names without the hyphens, and groups of flags; why: goes on after the flag's name.
        """
        names = [name for flag in flags for name in
                 ([flag] if isinstance(flag, str) else [action.dest for action in flag._group_actions])]
        absent = object()
        given = super().parse_args(argv, argparse.Namespace(**dict.fromkeys(names, absent)))
        for name in names:
            if getattr(given, name) is not absent:
                self.error(f"--{name} {why}")


class _Without(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
                 option_string: str | None = None) -> None:
        if set(values) == set(self.choices):
            parser.error(f"--without {' '.join(self.choices)} leaves no loss")
        setattr(namespace, self.dest, values)


class _Tensorboard(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
                 option_string: str | None = None) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            parser.error("--tensorboard needs the package tensorboard: pip install tensorboard, or drop the flag")
        setattr(namespace, self.dest, True)


def add_run_flags(parser: Parser, preset: bool = False) -> None:
    """Add the flags of every script that makes something: --seed, and --preset where paper and published code differ.
    """
    group = parser.add_argument_group("run")
    group.add_argument("--seed", type=seed, default=42, help="seed of every random choice")
    if preset:
        group.add_argument("--preset", choices=("paper", "code"), default="paper",
                           help="defaults as the paper says, or as the published code behaves; an explicit flag wins")


def add_device_flags(parser: Parser, precision: bool = False) -> None:
    """Add the flags of every script that runs a model: where it computes and, with `precision`, how exactly."""
    group = parser.add_argument_group("device")
    if precision:
        _add_precision_flag(group)
    group.add_argument("--no_cuda", action="store_true", help="use the CPU even where there is a GPU")
    group.add_argument("--local_rank", "--local-rank", type=int, default=-1,
                       help="number of the GPU to use; torchrun sets its own")


def _add_precision_flag(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--precision", choices=("auto", "fp32", "tf32", "bf16", "fp16"), default="auto",
                       help="of matrix products; weights, losses and optimizer stay in fp32; auto: bf16 on a GPU that "
                            "has it, else fp32; tf32 and fp16 need a GPU")


def add_training_flags(group: argparse._ArgumentGroup, batch_size: int | None = 32, batch_note: str = "") -> None:
    """Add the flags that mean the same in every script that trains.

    batch_size: default of --train_batch_size; None: the script fills it in, and batch_note ends the help on it.
    """
    group.add_argument("--overwrite_output_dir", action="store_true", help="train into a folder that is not empty")
    group.add_argument("--resume", action="store_true",
                       help="go on with the run that was stopped in the output folder; start it where there is none")
    group.add_argument("--variant", default="full", metavar="NAME",
                       help="what run.json and the report call this way to train: full, or the name of an ablation")
    group.add_argument("--train_batch_size", type=positive, default=batch_size,
                       help=f"sequences per optimizer step, in total{batch_note}")
    group.add_argument("--gradient_accumulation_steps", type=positive, default=1,
                       help="forward passes that one optimizer step is split into")
    group.add_argument("--weight_decay", "--wd", type=decay, default=0.01,
                       help="decoupled decay of weights, per unit of learning rate")
    group.add_argument("--save_steps", type=positive,
                       help="also save the state for --resume every so many steps (default: when it logs alone)")
    _add_precision_flag(group)
    group.add_argument("--fp16", action="store_true", help="the same as --precision fp16")
    group.add_argument("--tensorboard", action=_Tensorboard, nargs=0, default=False,
                       help="the numbers of metrics.jsonl also as curves for TensorBoard, in the output folder (needs "
                            "the package tensorboard)")
    group.add_argument("--compile", action="store_true", help="compile the models first, with torch.compile")
    group.add_argument("--deterministic", action="store_true",
                       help="the same weights for the same command on a GPU, too, where they else differ in their last "
                            "bits; slower")


def check_students(parser: Parser, args: argparse.Namespace) -> None:
    """End as error() does unless each --student_model has an --output_dir of its own."""
    students, folders = args.student_model, args.output_dir
    if len(students) != len(folders):
        parser.error(f"--student_model names {len(students)} and --output_dir {len(folders)} folders: each student "
                     "needs one to be written to")
    places = [Path(folder).resolve() for folder in folders]
    if len(set(places)) < len(places) or any(place in other.parents for place in places for other in places):
        parser.error("--output_dir names a folder twice, or one within another: each student needs one of its own")


def each_student(args: argparse.Namespace) -> list[argparse.Namespace]:
    """The flags as they would be for each --student_model alone."""
    return [argparse.Namespace(**{**vars(args), "student_model": student, "output_dir": folder})
            for student, folder in zip(args.student_model, args.output_dir, strict=True)]


def add_warmup_flag(group: argparse._ArgumentGroup, default: float | None = 0.1, note: str = "") -> None:
    """Add --warmup_proportion. default: None where the script fills it in; note: ends the help then."""
    group.add_argument("--warmup_proportion", type=proportion, default=default,
                       help=f"share of all steps to warm up{note}")


def add_loss_flags(group: argparse._ArgumentGroup) -> None:
    """Add the flags of the attention and hidden losses (paper, tables 3 and 4)."""
    group.add_argument("--layer_mapping", choices=("uniform", "top", "bottom", "last"), default="uniform",
                       help="teacher layers the student learns from (paper, table 4); last: its last layer the "
                            "teacher's last alone (AutoTinyBERT)")
    group.add_argument("--without", nargs="+", choices=("attn", "embd", "hidn"), default=[], metavar="LOSS",
                       action=_Without,
                       help="leave out losses: attn, embd (embedding output), hidn (layers) (paper, table 3)")
    group.add_argument("--attention_loss", choices=("auto", "scores", "gram"), default="auto",
                       help="from the scores, as published, or the same from Gram matrices of queries and keys, in "
                            "less memory; auto: gram from 256 wordpieces on, never with --preset code")
    group.add_argument("--fit_per_layer", action="store_true",
                       help="a new projection to the teacher's width for each hidden state, as in the second published "
                            "models, not one for all; those of a checkpoint stay as they are")


def check_losses(parser: Parser, argv: list[str] | None, args: argparse.Namespace) -> None:
    """End as error() does where a flag of add_loss_flags() does nothing, or no loss is left."""
    without = set(args.without)
    if args.layer_mapping == "last":
        if "embd" in without:
            parser.error("--layer_mapping last has no loss of the embedding output: drop embd from --without")
        if {"attn", "hidn"} <= without:
            parser.error("--layer_mapping last --without attn hidn leaves no loss")
        without.add("embd")
    if "attn" in without:
        parser.refuse(argv, "is for the loss that --without attn leaves out: drop one of them", "attention_loss")
    if {"embd", "hidn"} <= without:
        parser.refuse(argv, "is for losses that --without leaves out: drop one of them", "fit_per_layer")


def add_span_flags(parser: Parser) -> None:
    """Add a flag for each of SPAN_SETTINGS; only those that are given become attributes, see windows.settled()."""
    group = parser.add_argument_group("SQuAD")
    for name, kind, text in (
            ("doc_stride", positive, "wordpieces from the start of a window over a passage to that of the next"),
            ("max_query_length", positive, "longest question in wordpieces; of a longer one the first are read"),
            ("n_best_size", positive, "candidates for the start and for the end of an answer, and answers in "
                                      "nbest_predictions.json"),
            ("max_answer_length", positive, "longest answer in wordpieces"),
            ("null_score_diff_threshold", number, "score by which no answer has to beat the best one for a question of "
                                                  "SQuAD2 to count as unanswerable, a sum of two logits")):
        group.add_argument(f"--{name}", type=kind, default=argparse.SUPPRESS,
                           help=f"{text} (default {SPAN_SETTINGS[name]:g})")


def resolve_precision(parser: Parser, args: argparse.Namespace) -> argparse.Namespace:
    """Turn --fp16 into its --precision; refuse what contradicts it, or --no_cuda. `auto` is left for
    set_precision()."""
    fp16 = getattr(args, "fp16", False)
    if fp16 and args.precision not in ("auto", "fp16"):
        parser.error(f"--fp16 and --precision {args.precision} contradict each other: drop one of them")
    if fp16:
        args.precision = "fp16"
    if args.no_cuda and getattr(args, "deterministic", False):
        parser.error("--deterministic is for a GPU and --no_cuda forbids it: drop one of them")
    if args.no_cuda and args.precision in ("tf32", "fp16"):
        parser.error(f"--precision {args.precision} needs a GPU and --no_cuda forbids it: drop one of them")
    return args


def proportion(text: str) -> float:
    """argparse type: a number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def seed(text: str) -> int:
    """argparse type: a whole number that the generators of numpy and torch take."""
    value = int(text)
    if not 0 <= value < 1 << 63:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 2^63 - 1")
    return value


def positive(text: str) -> int:
    """argparse type: a whole number above 0."""
    value = int(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def count(text: str) -> int:
    """argparse type: a whole number from 0 on."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0 on")
    return value


def positive_float(text: str) -> float:
    """argparse type: a number above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def number(text: str) -> float:
    """argparse type: any finite number."""
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number")
    return value


def decay(text: str) -> float:
    """argparse type: a number from 0 on."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 on")
    return value


def print_settings(args: argparse.Namespace) -> None:
    """Print the resolved settings of a run, one line."""
    print("settings: " + " ".join(f"{name}={value}" for name, value in sorted(vars(args).items())), flush=True)


def run_script(main: Callable[[], None]) -> int:
    """Run a script's main(); return its exit status.

    Bad input (InputError), the operating system's refusals (no space, no permission), no memory left, here or on a GPU,
    and another process that has ended become one line on stderr and status 2; anything else is a defect of the kit and
    keeps its traceback.
    """
    script = Path(sys.argv[0]).name
    try:
        main()
    except KeyboardInterrupt:
        print(f"{script}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, MemoryError):
            text = f"out of memory{f' ({error})' if str(error) else ''}: end other programs, or ask for less at a time"
        else:
            text = in_words(error) if isinstance(error, (InputError, OSError)) else _of_torch(error)
        if text is None:
            raise
        print(f"{script}: error: {' '.join(text.split())}", file=sys.stderr)
        return 2
    return 0


def _of_torch(error: Exception) -> str | None:
    """What to say of an error of torch that is no defect of the kit: no GPU memory, or another process has ended."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(error, RuntimeError):
        return None
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError) or "CUDA error: out of memory" in text or "_ALLOC_FAILED" in text:
        return ("out of GPU memory: raise --gradient_accumulation_steps in training, lower --eval_batch_size in "
                "scoring, --batch_tokens in augmentation")
    if "RANK" in os.environ and (isinstance(error, torch.distributed.DistError) or "/gloo/" in text):
        return (f"process {os.environ['RANK']} ends because another has ended or does not answer; its own message says "
                f"why ({text.splitlines()[0]})")
    return None
