"""One layer of each family of teachers beside BERT's, and the file that each base model makes.

    python benchmarks/bench_teachers.py [--busy] [--quick]

Encoders of 4 layers of BERT-base's sizes with random weights, 8 sequences without padding; the time of a layer is a
fourth of what the encoder takes. "teacher" is a forward pass without gradient that returns all attention scores, as in
distillation; "fine-tuning" a forward and backward pass with dropout that returns none. The families take turns; ratios
are medians over the turns, to BERT. Peak memory is what one pass at length 512 adds, in a process of its own. The file
is pytorch_model.bin of the base model, 12 layers. About 6 minutes on 2 cores.
"""
from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from measure import PeakMemory, machine, parse_with_clock, print_table, tree_memory

from transformer.config import BertConfig
from transformer.families import FAMILIES
from transformer.modeling import BertModel
from transformer.weights import own_names, write_bin

LAYERS, BATCH = 4, 8
VOCABULARY = {"bert": 30_522, "electra": 30_522, "nezha": 21_128, "albert": 30_000}
WORK = ("teacher", "fine-tuning")


def config_of(family: str, layers: int) -> BertConfig:
    """The base model of a family as published, with so many layers; dropout as in BERT, for equal work."""
    values = {"vocab_size": VOCABULARY[family], "num_hidden_layers": layers, "model_type": family,
              "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    return BertConfig.from_dict(values | ({"embedding_size": 768} if family == "electra" else {}))


def one_pass(model: BertModel, work: str, length: int) -> None:
    """What a step asks of the encoder."""
    ids = torch.randint(1000, 20_000, (BATCH, length), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    model.train(work == "fine-tuning")
    with torch.set_grad_enabled(model.training):
        hidden = model(ids, mask, mask, attention_scores=() if model.training else None)[0]
        if model.training:
            hidden[-1].sum().backward()
            model.zero_grad()


def times(lengths: tuple[int, ...], turns: int, args: argparse.Namespace) -> dict[tuple[str, str, int], list[float]]:
    """Seconds of a layer in every turn, by family, work and length."""
    models = {family: BertModel(config_of(family, LAYERS), add_pooler=False) for family in FAMILIES}
    found: dict[tuple[str, str, int], list[float]] = {}
    for turn in range(turns + 1):
        for length in lengths:
            for work in WORK:
                for family, model in models.items():
                    start = args.clock()
                    one_pass(model, work, length)
                    if turn:  # the first one warms up
                        found.setdefault((family, work, length), []).append((args.clock() - start) / LAYERS)
    return found


def added_memory(family: str, work: str) -> int:
    """Bytes that a pass at length 512 takes beside the weights; in a process of its own."""
    torch.set_num_threads(1)
    model = BertModel(config_of(family, LAYERS), add_pooler=False)
    one_pass(model, work, 16)
    before = tree_memory(multiprocessing.current_process().pid)
    with PeakMemory(interval=0.01) as memory:
        one_pass(model, work, 512)
    return memory.peak - before


def file_size(family: str) -> int:
    """Bytes of the weights on disk."""
    config = config_of(family, 12)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.bin"
        write_bin(path, own_names({f"bert.{name}": tensor for name, tensor in BertModel(config).state_dict().items()},
                                  config.family))
        return path.stat().st_size


def main(argv: list[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three turns, length 128 alone, no memory")
    args = parse_with_clock(parser, argv)
    torch.manual_seed(0)
    lengths, turns = ((128,), 3) if args.quick else ((128, 512), 9)
    found = times(lengths, turns, args)
    rows = []
    for length in lengths:
        for work in WORK:
            base = found["bert", work, length]
            for family in FAMILIES:
                own = found[family, work, length]
                ratio = statistics.median(one / other for one, other in zip(own, base))
                rows.append([f"{FAMILIES[family].name}, {work}", length, f"{1000 * statistics.median(own):.1f}",
                             f"{ratio:.2f}"])
    print_table(["layer", "length", "ms", "x BERT"], rows)
    print()
    rows = [[known.name, f"{config_of(family, 12).parameters / 1e6:.1f}", f"{file_size(family) / 1e6:.0f}"]
            for family, known in FAMILIES.items()]
    header = ["base model", "parameters, millions", "file, MB"]
    if not args.quick:
        header += [f"{work} at 512, MB" for work in WORK]
        for row, family in zip(rows, FAMILIES):
            for work in WORK:
                with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
                    row.append(f"{alone.submit(added_memory, family, work).result() / 1e6:.0f}")
    print_table(header, rows)
    print(f"\n{BATCH} sequences; {machine('torch')}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
