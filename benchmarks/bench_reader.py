"""The reader of general_distill.py: turning epoch_K.json into arrays, and batches from them, against plain ways.

python benchmarks/bench_reader.py    (2 cores, about a minute, 200 MB in a temporary folder)
"""
from __future__ import annotations

import argparse
import itertools
import json
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measure import machine, median_seconds, print_table

from transformer.data.epochs import open_epoch
from transformer.tokenization import SPECIAL_TOKENS, BertTokenizer

# torch is imported in main(): the workers of the conversion import this file, and can do without.
LENGTH = 128
SAMPLE = 4096  # instances that the plain ways are timed on: they are slow
REPEATED = 4  # how often the instances stand in the JSON that is converted: starting the workers must not decide


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, as given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instances", type=int, default=30_000)
    parser.add_argument("--runs", type=int, default=3, help="runs of each measurement; their median counts")
    return parser.parse_args(argv)


class LinesDataset:
    """An example is parsed, converted and padded whenever it is asked for."""

    def __init__(self, lines: list[str], vocab: dict[str, int], tensor: Callable):
        self.lines, self.vocab, self.tensor = lines, vocab, tensor

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> tuple:
        instance = json.loads(self.lines[index])
        ids = [self.vocab[token] for token in instance["tokens"]]
        padding = [0] * (LENGTH - len(ids))
        return tuple(map(self.tensor, (ids + padding, instance["segment_ids"] + padding, [1] * len(ids) + padding)))


class ArraysDataset:
    """As published: every epoch is first parsed into padded arrays; an example is a tensor from each of five."""

    def __init__(self, lines: list[str], vocab: dict[str, int], tensor: Callable):
        self.tensor = tensor
        shape = (len(lines), LENGTH)
        self.input_ids = np.zeros(shape, np.int32)
        self.masks, self.segments = np.zeros(shape, bool), np.zeros(shape, bool)
        self.labels, self.is_next = np.full(shape, -1, np.int32), np.zeros(len(lines), bool)
        for row, line in enumerate(lines):
            instance = json.loads(line)
            length = len(instance["tokens"])
            self.input_ids[row, :length] = [vocab[token] for token in instance["tokens"]]
            self.masks[row, :length] = 1
            self.segments[row, :length] = instance["segment_ids"]
            self.labels[row, instance["masked_lm_positions"]] = [vocab[t] for t in instance["masked_lm_labels"]]
            self.is_next[row] = instance["is_random_next"]

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, index: int) -> tuple:
        return tuple(self.tensor(array[index].astype(np.int64))
                     for array in (self.input_ids, self.masks, self.segments, self.labels, self.is_next))


def write_epoch(folder: Path, count: int) -> list[str]:
    """vocab.txt of 30,522 pieces, epoch_0.json and its metrics; returns the lines."""
    rng = random.Random(0)
    letters = "etaoinshrdlu"
    pieces = ["##" * (number % 4 == 0) + "".join(letter) for number, letter in
              zip(range(30_522 - len(SPECIAL_TOKENS)), itertools.product(letters, repeat=5))]
    lines = []
    for _ in range(count):
        first = rng.randint(1, LENGTH - 4)
        tokens = rng.choices(pieces, k=LENGTH - 3)
        lines.append(json.dumps({
            "tokens": ["[CLS]", *tokens[:first], "[SEP]", *tokens[first:], "[SEP]"],
            "segment_ids": [0] * (first + 2) + [1] * (LENGTH - first - 2),
            "is_random_next": rng.random() < 0.5, "masked_lm_positions": [], "masked_lm_labels": []}))
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, *pieces]) + "\n")
    with open(folder / "epoch_0.json", "w") as epoch:
        epoch.writelines(f"{line}\n" for _ in range(REPEATED) for line in lines)
    (folder / "epoch_0_metrics.json").write_text(
        json.dumps({"num_training_examples": REPEATED * count, "max_seq_len": LENGTH}))
    return lines


def main(argv: list[str] | None = None) -> None:
    """Measure both ways to read an epoch, and print the table."""
    args = parse_args(argv)
    print(f"{machine('numpy', 'torch')}; {args.instances:,} instances of {LENGTH} wordpieces, median of {args.runs} "
          "runs", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        lines = write_epoch(folder, args.instances)
        tokenizer = BertTokenizer(folder / "vocab.txt")

        def convert(workers: int):
            shutil.rmtree(folder / "epoch_0.arrays", ignore_errors=True)
            # small parts: as in a big file, each worker gets many
            return open_epoch(folder / "epoch_0.json", folder / "epoch_0_metrics.json", tokenizer, LENGTH,
                              num_workers=workers, part_bytes=1 << 21)

        rates = {f"JSON to arrays, once, by {workers} process{'es' * (workers > 1)}":
                 REPEATED * args.instances / median_seconds(lambda workers=workers: convert(workers), args.runs)
                 for workers in (1, 2)}

        import torch
        from torch.utils.data import DataLoader

        from transformer.training.batches import shuffled_batches
        torch.set_num_threads(1)
        epoch = convert(1)

        def read(batch_size: int) -> None:
            for rows in shuffled_batches(len(epoch), batch_size, seed=0, epoch=0):
                epoch.batch(rows, LENGTH)

        for size in (32, 64, 128, 256):
            took = median_seconds(lambda size=size: read(size), args.runs, warm_up=1)
            rates[f"reader, batches of {size}"] = len(epoch) // size * size / took

        def plain(dataset) -> float:
            return len(dataset) / median_seconds(lambda: list(DataLoader(dataset, 32, shuffle=True)), args.runs)

        sample = lines[:SAMPLE], tokenizer.vocab, torch.tensor
        parsing = median_seconds(lambda: ArraysDataset(*sample), args.runs) / len(sample[0])
        a, c = plain(LinesDataset(*sample)), plain(ArraysDataset(*sample))
        b = 1 / (parsing + 1 / c)
        rates |= {"a: Dataset, an example is parsed when asked for": a,
                  "b: Dataset over arrays, parsed for every epoch": b,
                  "c: as b, the parsing not counted": c}
    print_table(["one thread, warm page cache", "sequences/s", "times a", "times b", "times c"],
                [[what, f"{rate:,.0f}", *(f"{rate / other:,.1f}" for other in (a, b, c))]
                 for what, rate in rates.items()])


if __name__ == "__main__":
    main()
