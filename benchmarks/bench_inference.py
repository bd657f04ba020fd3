"""Size and latency of TinyBERT4, TinyBERT6 and BERT-base as classifiers, beside Hugging Face transformers.

    python benchmarks/bench_inference.py [--quick] [--json results/inference.json]

Random weights, the same in both libraries, whose logits are compared; sequences without padding. transformers runs with
its default attention (sdpa). The six models take turns; a time is the mean of as many calls as fill a tenth of a
second; ratios are medians over the turns. bf16 is autocast, which casts the weights once, before the times. On a GPU,
where there is one, the clock is read after it has finished. All takes about 10 minutes on 2 cores.
"""
from __future__ import annotations

import argparse
import contextlib
import ctypes
import math
import os
import time
from collections.abc import Callable

import numpy as np
import torch
from bench_train import STUDENTS, TEACHER
from measure import machine, parse_with_clock, print_table
from torch import nn
from transformers import BertConfig as HuggingFaceConfig
from transformers import BertForSequenceClassification

from transformer.config import BertConfig
from transformer.files import write_json
from transformer.modeling import TinyBertForSequenceClassification
from transformer.planning.costs import forward_flops
from transformer.reporting.published import FASTER, SMALLER
from transformer.training.processes import mixed

CONFIGS = {"TinyBERT4": STUDENTS["4l"], "TinyBERT6": STUDENTS["6l"], "BERT-base": TEACHER}
ENGINES = "kit", "transformers"
TOLERANCES = {"fp32": 1e-5, "bf16": 2e-2}  # of the logits
SLICE = 0.1  # seconds


def keep_memory() -> None:
    """Let the process keep the memory that it frees, where its C library can (glibc).

    Else big blocks go back to the system and come again page by page, in one engine or the other as chance has it: 4%
    of the time of a batch of 32.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)          # M_MMAP_MAX: no block has a mapping of its own
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the heap does not shrink


def both(config: BertConfig) -> tuple[nn.Module, nn.Module]:
    """The classifier of this kit and that of transformers, with the same weights."""
    values = {**config.to_dict(), "classifier_relu": False}  # transformers has no such relu
    ours = TinyBertForSequenceClassification(BertConfig.from_dict(values), num_labels=2)
    theirs = BertForSequenceClassification(HuggingFaceConfig(**values))
    theirs.load_state_dict(ours.state_dict())
    return ours.eval(), theirs.eval()


def calls(models: dict[str, tuple[nn.Module, nn.Module]], batch: int, length: int,
          device: torch.device) -> dict[tuple[str, str], Callable[[], torch.Tensor]]:
    """For each model and engine a call that gives the logits of the same random wordpieces."""
    ids = torch.randint(1000, 30_000, (batch, length), device=device)
    segments, mask = torch.zeros_like(ids), torch.ones_like(ids)
    found = {}
    for name, (ours, theirs) in models.items():
        found[name, "kit"] = lambda ours=ours: ours(ids, segments, mask, attention_scores=())[0]
        found[name, "transformers"] = lambda theirs=theirs: theirs(ids, mask, segments).logits
    return found


def measure(models: dict[str, tuple[nn.Module, nn.Module]], precision: str, batch: int, length: int,
            device: torch.device, args: argparse.Namespace) -> dict[tuple[str, str], np.ndarray]:
    """Milliseconds of a call in every turn, for each model and engine."""

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return args.clock()

    times: dict[tuple[str, str], list[float]] = {}
    with torch.inference_mode(), mixed(precision, device):
        functions = calls(models, batch, length, device)
        for name in models:
            logits = [functions[name, engine]().float() for engine in ENGINES]
            torch.testing.assert_close(*logits, rtol=0, atol=TOLERANCES[precision])
        repeats = {}
        for key, function in functions.items():
            start = clock()
            function()
            repeats[key] = math.ceil(SLICE / (clock() - start))
        for turn in range(args.turns):
            for key in list(functions)[::-1 if turn % 2 else 1]:  # no model always follows the same one
                start = clock()
                for _ in range(repeats[key]):
                    functions[key]()
                times.setdefault(key, []).append((clock() - start) / repeats[key] * 1e3)
    return {key: np.array(values) for key, values in times.items()}


def show(milliseconds: np.ndarray) -> str:
    """Median and quartiles."""
    low, median, high = np.percentile(milliseconds, [25, 50, 75])
    return f"{median:,.2f} ({low:,.2f} to {high:,.2f})"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, as given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=15, help="of each of the six models, in every setting")
    parser.add_argument("--quick", action="store_true", help="batches of 1 alone, 3 turns: some seconds")
    parser.add_argument("--json", metavar="FILE", help="also write the results to FILE, for report.py")
    args = parse_with_clock(parser, argv)
    args.turns = 3 if args.quick else args.turns
    return args


def main(argv: list[str] | None = None) -> None:
    """Measure all models in every setting; print the table, and write it where --json says."""
    args = parse_args(argv)
    keep_memory()
    torch.manual_seed(0)
    conditions = (f"{machine('torch', 'transformers')}; {torch.get_num_threads()} torch thread(s)" +
                  ", processor time" * args.busy)
    print(f"{conditions}; load of the machine {os.getloadavg()[0]:.1f}; medians and quartiles of {args.turns} turns")
    models = {name: both(config) for name, config in CONFIGS.items()}
    parameters = {name: sum(p.numel() for p in ours.parameters()) for name, (ours, _) in models.items()}
    print("\nFloating-point operations (FLOP) are those of the layers' matrix products, for one sequence\n")
    print_table(["model", "million parameters", "x smaller", "GFLOP, length 32", "GFLOP, length 128"], [
        [name, f"{count / 1e6:.1f}", f"{parameters['BERT-base'] / count:.2f}",
         *(f"{forward_flops(CONFIGS[name], length) / 1e9:.2f}" for length in (32, 128))]
        for name, count in parameters.items()])
    rows, measured = [], []
    for device in ["cpu"] + ["cuda"] * torch.cuda.is_available():
        for pair in models.values():
            for model in pair:
                model.to(device)
        where = torch.cuda.get_device_name() if device == "cuda" else "CPU"
        for precision in ("fp32", "bf16"):
            table = []
            for batch in (1,) if args.quick else (1, 32):
                for length in (32, 128):
                    times = measure(models, precision, batch, length, torch.device(device), args)
                    rows += [{"model": name, "engine": engine, "device": device, "precision": precision,
                              "batch": batch, "length": length, "milliseconds_median": float(np.median(values)),
                              "milliseconds_quartiles": np.percentile(values, [25, 75]).tolist(),
                              "parameters": parameters[name], "flops": forward_flops(CONFIGS[name], length)}
                             for (name, engine), values in times.items()]
                    for name in models:
                        ours, theirs = (times[name, engine] for engine in ENGINES)
                        faster = np.median(times["BERT-base", "kit"] / ours)
                        table.append([f"{name}, {batch} x {length}", show(ours), show(theirs), f"{faster:.1f}",
                                      f"{np.median(theirs / ours):.2f}"])
                        if name == "TinyBERT4" and length == 128:
                            measured.append(f"{faster:.1f}x ({where}, {precision}, batch {batch})")
            print(f"\n{where}, {precision}\n")
            print_table(["model, batch x length", "this kit, ms", "transformers, ms", "x BERT-base",
                         "x transformers"], table)
    print(f"\nTinyBERT4 against BERT-base: the paper has {SMALLER}x smaller and {FASTER}x faster (on a K80); "
          f"here {parameters['BERT-base'] / parameters['TinyBERT4']:.1f}x smaller and, at length 128, "
          f"{', '.join(measured)} faster")
    if args.json:
        write_json(args.json, {"machine": conditions, "rows": rows})


if __name__ == "__main__":
    main()
