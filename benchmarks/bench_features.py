"""Task features: tokenizing an augmented task file, and opening it again; windows of SQuAD.

    python benchmarks/bench_features.py [--stages rows windows] [--rows 1000000] [--questions 10000]

The file has the columns of SST-2; its texts are phrases of botocore's documentation, 19 of 20 with some words replaced,
as data_augmentation.py does. Memory is that of all processes of a Python that converts or opens the file (PSS), above
that of one that has only loaded torch. The plain definition, in this file, goes row by row through lists.
The questions are words of the same documentation, five for each of its passages of about 120 words; the plain way
tokenizes each passage for each of its questions. Seconds are those of the processor, of all processes.
"""
from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from bench_tokenizer import VOCAB
from english import documents
from measure import ROOT, machine, median_seconds, print_table, run, seconds

from transformer.data.features import Sequences, encode_file
from transformer.data.windows import encode_windows
from transformer.files import read_lines
from transformer.tasks.squad import read_passages
from transformer.tasks.table import TASKS
from transformer.tokenization import BertTokenizer

TASK, LENGTH = TASKS["sst2"], 64
PLAIN_ROWS = 20_000  # the plain definition is slow
PLAIN_QUESTIONS = 500
PER_PASSAGE = 5
DEV_ROWS = 256
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

    def memory(*arguments: object) -> int:
        return run([sys.executable, "-c", ENCODE, *arguments], cwd=ROOT,
                   env={**os.environ, "PYTHONPATH": str(ROOT)}).peak_memory

    torch_only = memory()
    for workers in (1, 2):
        took = []
        for _ in range(RUNS):
            shutil.rmtree(cache, ignore_errors=True)
            took.append(seconds(lambda workers=workers: encode(workers)))
        shutil.rmtree(cache)
        rate = rows / statistics.median(took)
        table.append([f"this kit, {workers} worker{'s' * (workers > 1)}", f"{rate:,.0f} rows/s",
                      f"{rate / plain_rate:.1f}", f"{(memory(path, VOCAB, cache, workers) - torch_only) / 1e6:.0f}"])
    table.append(["this kit, opening what is there", f"{median_seconds(lambda: encode(1), RUNS):.2f} s", "",
                  f"{(memory(path, VOCAB, cache, 1) - torch_only) / 1e6:.0f}"])
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


ENCODE_WINDOWS = """
import sys
import torch
from transformer.data.windows import encode_windows
from transformer.tasks.table import TASKS
from transformer.tokenization import BertTokenizer
if len(sys.argv) > 1:
    path, vocab, cache, workers = sys.argv[1:]
    encode_windows(TASKS["squad1"], path, BertTokenizer(vocab), 384, 128, 64, "train", cache, num_workers=int(workers))
"""


def write_questions(path: Path, questions: int) -> None:
    """Passages of 40 to 200 words, each with five questions of 8 to 14 words about one to four of its words."""
    rng = np.random.default_rng(0)
    words = [word for document in documents(2_000_000) for sentence in document for word in sentence.split()]
    with open(path, "w", encoding="utf-8") as file:
        file.write('{"version": "1.1", "data": [')
        start = 0
        for passage in range(-(-questions // PER_PASSAGE)):
            start = (start + 200) % (len(words) - 200)
            chosen = words[start:start + int(rng.integers(40, 201))]
            places = np.cumsum([0, *(len(word) + 1 for word in chosen)]).tolist()
            asked = []
            for number in range(PER_PASSAGE):
                first, at = int(rng.integers(len(chosen) - 4)), int(rng.integers(len(words) - 14))
                answer = " ".join(chosen[first:first + int(rng.integers(1, 5))])
                asked.append({"id": f"{passage}-{number}",
                              "question": " ".join(words[at:at + int(rng.integers(8, 15))]) + "?",
                              "answers": [{"text": answer, "answer_start": places[first]}]})
            file.write(", " * (passage > 0) + json.dumps({"title": str(passage), "paragraphs": [
                {"context": " ".join(chosen), "qas": asked}]}))
        file.write("]}")


def plain_windows(path: Path, questions: int, tokenizer: BertTokenizer, remembers: bool) -> list[list[int]]:
    """The windows of the first questions, as lists of ids, each passage tokenized for each question; with the kit's
    memory for words where `remembers`. Labels are left out: they would make it slower still."""
    def pieces(text: str) -> list[int]:
        if remembers:
            return tokenizer.encode(text)
        return tokenizer.convert_tokens_to_ids(piece for word in tokenizer.basic_tokenizer.tokenize(text)
                                               for piece in tokenizer.wordpiece_tokenizer.tokenize(word))

    cls, sep = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])
    asked = ((passage.context, question.text) for passage in read_passages(path, unanswerable=False)
             for question in passage.questions)
    windows = []
    for (context, question), _ in zip(asked, range(questions)):
        before = [cls, *pieces(question)[:64], sep]
        passage = []
        for word in context.split():
            passage.extend(pieces(word))
        room, start = 384 - len(before) - 1, 0
        while start < len(passage):
            windows.append([*before, *passage[start:start + room], sep])
            if start + room >= len(passage):
                break
            start += min(room, 128)
    return windows


def busy_seconds(function: Callable[[], object]) -> float:
    """Seconds of the processor that one call takes, here and in the processes that it starts and awaits."""
    before = os.times()
    function()
    return sum(os.times()[:4]) - sum(before[:4])


def squad_windows(folder: Path, questions: int) -> list[list[str]]:
    """The table's rows about SQuAD."""
    path, large, cache = folder / "train-v1.1.json", folder / "ten_times.json", folder / "cache"
    write_questions(path, questions)
    write_questions(large, 10 * questions)

    def encode(workers: int) -> Sequences:
        return encode_windows(TASKS["squad1"], path, BertTokenizer(VOCAB), 384, 128, 64, "train", cache,
                              num_workers=workers)

    def memory(*arguments: object) -> str:
        return f"{(peak(*arguments) - torch_only) / 1e6:.0f}"

    def peak(*arguments: object) -> int:
        return run([sys.executable, "-c", ENCODE_WINDOWS, *arguments], cwd=ROOT,
                   env={**os.environ, "PYTHONPATH": str(ROOT)}).peak_memory

    few = min(questions, PLAIN_QUESTIONS)
    rates = [few / statistics.median(busy_seconds(lambda remembers=remembers: plain_windows(
        path, few, BertTokenizer(VOCAB), remembers)) for _ in range(RUNS)) for remembers in (False, True)]
    table = [["plain way, question by question", f"{rates[0]:,.0f} questions/s", "1.0", ""],
             ["the same with a memory for words", f"{rates[1]:,.0f} questions/s", f"{rates[1] / rates[0]:.1f}", ""]]
    torch_only = peak()
    for workers in (1, 2):
        took = []
        for _ in range(RUNS):
            shutil.rmtree(cache, ignore_errors=True)
            took.append(busy_seconds(lambda workers=workers: encode(workers)))
        shutil.rmtree(cache)
        rate = questions / statistics.median(took)
        table.append([f"this kit, {workers} worker{'s' * (workers > 1)}", f"{rate:,.0f} questions/s",
                      f"{rate / rates[0]:.1f}", memory(path, VOCAB, cache, workers)])
    table.append(["ten times the questions, 2 workers", "", "", memory(large, VOCAB, folder / "large", 2)])
    made = encode(1)
    for window, wanted in enumerate(plain_windows(path, few, BertTokenizer(VOCAB), True)):
        assert made.tokens[made.offsets[window]:made.offsets[window + 1]].tolist() == wanted
    return table


def main() -> None:
    """Measure on made-up files, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the augmented file")
    parser.add_argument("--questions", type=int, default=10_000, help="questions about passages")
    parser.add_argument("--stages", nargs="+", choices=("rows", "windows"), default=["rows", "windows"],
                        help="what to measure")
    args = parser.parse_args()
    print(f"{machine('numpy', 'torch')}; {args.rows:,} rows, {args.questions:,} questions; load of the machine "
          f"{os.getloadavg()[0]:.1f}; medians of "
          f"{RUNS} runs\n")
    for stage, measure, size in (("rows", features, args.rows), ("windows", squad_windows, args.questions)):
        if stage in args.stages:
            with tempfile.TemporaryDirectory() as temporary:
                table = measure(Path(temporary), size)
            print_table([stage, "speed", "x plain", "peak MB above torch"], table)
            print()


if __name__ == "__main__":
    main()
