"""Task features: tokenizing an augmented task file, and opening it again.

    python benchmarks/bench_features.py [--rows 1000000]

The file has the columns of SST-2; its texts are phrases of botocore's documentation, 19 of 20 with some words replaced,
as data_augmentation.py does. Memory is that of all processes of a Python that converts or opens the file (PSS), above
that of one that has only loaded torch. The plain definition, in this file, goes row by row through lists.
"""
from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
from bench_tokenizer import VOCAB
from english import documents
from measure import machine, median_seconds, memory_of, print_table, seconds, seconds_by_workers

from transformer.data.features import encode_file
from transformer.files import read_lines
from transformer.tasks.table import TASKS
from transformer.tokenization import BertTokenizer

TASK, LENGTH = TASKS["sst2"], 64
PLAIN_ROWS = 20_000  # the plain definition is slow
RUNS = 3

ENCODE = """
import sys
import torch
from transformer.data.features import encode_file
from transformer.tasks.table import TASKS
from transformer.tokenization import BertTokenizer
if len(sys.argv) > 1:
    path, vocab, cache, workers = sys.argv[1:]
    encode_file(TASKS["sst2"], path, BertTokenizer(vocab), 64, cache, num_workers=int(workers))
"""


def write_rows(path: Path, rows: int) -> None:
    """Phrases of 1 to 20 words, each with 19 variants."""
    rng = np.random.default_rng(0)
    words = [word for document in documents(2_000_000) for sentence in document for word in sentence.split()]
    others = [word for word in BertTokenizer(VOCAB).vocab if word.isalpha() and word.isascii()]
    with open(path, "w", encoding="utf-8") as file:
        file.write("sentence\tlabel\n")
        start = 0
        for row in range(rows):
            if row % 20 == 0:
                start = (start + 20) % (len(words) - 20)
                phrase, label = words[start:start + 1 + int(rng.integers(20))], rng.integers(2)
                replaced = rng.random((20, len(phrase))) < 0.4
                chosen = rng.integers(len(others), size=(20, len(phrase)))
            variant = list(phrase)
            for place in np.flatnonzero(replaced[row % 20]) if row % 20 else ():
                variant[place] = others[chosen[row % 20, place]]
            file.write(f"{' '.join(variant)} \t{label}\n")


def plain(path: Path, rows: int) -> tuple[list[list[int]], list[int]]:
    """Wordpiece ids and labels of the first rows, as lists."""
    tokenizer = BertTokenizer(VOCAB)
    cls, sep = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])
    ids, labels = [], []
    for line, _ in zip(read_lines(path), range(rows + 1)):
        if line != "sentence\tlabel":
            text, label = line.split("\t")
            pieces = [piece for word in tokenizer.basic_tokenizer.tokenize(text)
                      for piece in tokenizer.wordpiece_tokenizer.tokenize(word)][:LENGTH - 2]
            ids.append([cls, *tokenizer.convert_tokens_to_ids(pieces), sep])
            labels.append(int(label))
    return ids, labels


def features(folder: Path, rows: int) -> list[list[str]]:
    """The table's rows about the file."""
    path, cache = folder / "train_aug.tsv", folder / "cache"
    write_rows(path, rows)
    plain_rate = PLAIN_ROWS / median_seconds(lambda: plain(path, PLAIN_ROWS), RUNS)
    table = [["plain definition, row by row", f"{plain_rate:,.0f} rows/s", "1.0", ""]]

    def encode(workers: int):
        return encode_file(TASK, path, BertTokenizer(VOCAB), LENGTH, cache, num_workers=workers)

    def memory(workers: int) -> str:
        return f"{(memory_of(ENCODE, path, VOCAB, cache, workers) - torch_only) / 1e6:.0f}"

    torch_only = memory_of(ENCODE)
    for workers, took in seconds_by_workers(encode, cache, seconds, RUNS):
        table.append([f"this kit, workers: {workers}", f"{rows / took:,.0f} rows/s", f"{rows / took / plain_rate:.1f}",
                      memory(workers)])
    table.append(["this kit, opening what is there", f"{median_seconds(lambda: encode(1), RUNS):.2f} s", "", memory(1)])
    sequences = encode(1)
    ids, labels = plain(path, PLAIN_ROWS)
    for row, wanted in enumerate(ids):
        assert sequences.tokens[sequences.offsets[row]:sequences.offsets[row + 1]].tolist() == wanted
    assert sequences.labels[:PLAIN_ROWS].tolist() == labels and len(sequences) == rows
    (arrays,) = cache.iterdir()
    size = sum((arrays / name).stat().st_size for name in ("tokens", "offsets", "first_lengths", "labels"))
    table.append([f"arrays, {sequences.lengths.mean() - 2:.1f} wordpieces on average", f"{size / rows:.1f} bytes/row",
                  "", ""])
    return table


def main() -> None:
    """Measure on a made-up file, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the augmented file")
    args = parser.parse_args()
    print(f"{machine('numpy', 'torch')}; {args.rows:,} rows; load of the machine {os.getloadavg()[0]:.1f}; medians of "
          f"{RUNS} runs\n")
    with tempfile.TemporaryDirectory() as temporary:
        print_table(["", "speed", "x plain", "peak MB above torch"], features(Path(temporary), args.rows))


if __name__ == "__main__":
    main()
