"""SQuAD: windows of 10,000 questions, their answers and scores, and what a window of 384 wordpieces costs a step.

    python benchmarks/bench_squad.py [--stages windows answers steps] [--questions 10000] [--busy]

Passages are botocore's documentation, of 40 to 400 words, 5 questions to each, a quarter of them unanswerable. Plain
ways stand in this file, and what they give is compared.
Windows: the plain way tokenizes each passage for each of its questions. Seconds are those of the processor, of all
processes; memory is that of all processes of a Python that makes them (PSS), above one that has only loaded torch.
Answers: logits are random, those of the answer raised. The plain way follows the same rules in loops over one question.
Memory is that of the process, above that with the windows and their logits.
Steps: of the intermediate stage, BERT-base and TinyBERT4, random weights, forward and backward, each kind in a process
of its own; memory of a window is that of a batch less that of one window, by windows.
"""
from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from bench_tokenizer import VOCAB
from bench_train import attention_step
from english import documents
from measure import (
    PeakMemory,
    busy_seconds,
    machine,
    memory_of,
    parse_with_clock,
    print_table,
    seconds_by_workers,
    tree_memory,
)

from transformer.data.features import Sequences
from transformer.data.windows import Windows, encode_windows
from transformer.tasks.answers import decode
from transformer.tasks.spans import NO_POSITION
from transformer.tasks.squad import read_passages
from transformer.tasks.table import TASKS
from transformer.tokenization import BertTokenizer

TASK, LENGTH, STRIDE, QUERY = TASKS["squad2"], 384, 128, 64
PLAIN_QUESTIONS = 300  # the plain way is slow
TOGETHER = 5           # questions about a passage
BATCH = 2              # windows of a step, beside one
RUNS = 3


ENCODE_WINDOWS = """
import sys
import torch
from transformer.data.windows import encode_windows
from transformer.tasks.table import TASKS
from transformer.tokenization import BertTokenizer
if len(sys.argv) > 1:
    path, vocab, cache, workers = sys.argv[1:]
    encode_windows(TASKS["squad2"], path, BertTokenizer(vocab), 384, 128, 64, "train", cache, num_workers=int(workers))
"""


def write_questions(path: Path, questions: int) -> None:
    """A file of v2.0; of more than 50,000 questions the passages begin again."""
    rng = np.random.default_rng(0)
    prose = documents(min(questions * 160, 8_000_000))  # there is little more
    words = [word for document in prose for sentence in document for word in sentence.split()]
    paragraphs, at = [], 0
    for first in range(0, questions, TOGETHER):
        size = int(rng.lognormal(4.7, 0.4).__round__())
        passage = words[at:at + min(max(size, 40), 400)]
        at = (at + len(passage)) % (len(words) - 400)
        qas = []
        for number in range(first, min(first + TOGETHER, questions)):
            place = int(rng.integers(len(passage) - 5))
            text = " ".join(passage[place:place + 1 + int(rng.integers(5))])
            start = len(" ".join([*passage[:place], ""]))
            impossible = bool(rng.random() < 0.25)
            qas.append({"id": str(number), "question": " ".join(passage[place - 12:place]) + "?",
                        "answers": [] if impossible else [{"text": text, "answer_start": start}] * 3,
                        "is_impossible": impossible})
        paragraphs.append({"context": " ".join(passage), "qas": qas})
    path.write_text(json.dumps({"version": "v2.0", "data": [{"title": "all", "paragraphs": paragraphs}]}))


def plain_windows(path: Path, questions: int, tokenizer: BertTokenizer, remembers: bool) -> list[list[int]]:
    """The windows of the first questions, as lists of ids, each passage tokenized for each question; with the kit's
    memory for words where `remembers`. Labels are left out: they would make it slower still."""
    def pieces(text: str) -> list[int]:
        if remembers:
            return tokenizer.encode(text)
        return tokenizer.convert_tokens_to_ids(piece for word in tokenizer.basic_tokenizer.tokenize(text)
                                               for piece in tokenizer.wordpiece_tokenizer.tokenize(word))

    cls, sep = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])
    asked = ((passage.context, question.text) for passage in read_passages(path, unanswerable=True)
             for question in passage.questions)
    windows = []
    for (context, question), _ in zip(asked, range(questions)):
        before = [cls, *pieces(question)[:QUERY], sep]
        passage = []
        for word in context.split():
            passage.extend(pieces(word))
        room, start = LENGTH - len(before) - 1, 0
        while start < len(passage):
            windows.append([*before, *passage[start:start + room], sep])
            if start + room >= len(passage):
                break
            start += min(room, STRIDE)
    return windows


def encoding(folder: Path, args: argparse.Namespace) -> list[list[str]]:
    """The rows about making windows."""
    path, large, cache = folder / "train.json", folder / "ten_times.json", folder / "cache"
    write_questions(path, args.questions)
    write_questions(large, 10 * args.questions)

    def encode(workers: int) -> Sequences:
        return encode_windows(TASK, path, BertTokenizer(VOCAB), LENGTH, STRIDE, QUERY, "train", cache,
                              num_workers=workers)

    def memory(data: Path, workers: int) -> str:
        return f"{(memory_of(ENCODE_WINDOWS, data, VOCAB, folder / data.stem, workers) - torch_only) / 1e6:.0f}"

    some = min(PLAIN_QUESTIONS, args.questions)
    rates = [some / statistics.median(busy_seconds(lambda remembers=remembers: plain_windows(
        path, some, BertTokenizer(VOCAB), remembers)) for _ in range(RUNS)) for remembers in (False, True)]
    table = [[f"plain way, question by question ({some} questions)", f"{rates[0]:,.0f}", "1.0", ""],
             ["the same with a memory for words", f"{rates[1]:,.0f}", f"{rates[1] / rates[0]:.1f}", ""]]
    torch_only = memory_of(ENCODE_WINDOWS)
    for workers, took in seconds_by_workers(encode, cache, busy_seconds, RUNS):
        rate = args.questions / took
        table.append([f"this kit, workers: {workers}", f"{rate:,.0f}", f"{rate / rates[0]:.1f}", memory(path, workers)])
        shutil.rmtree(folder / path.stem)
    table.append(["ten times the questions, workers: 2", "", "", memory(large, 2)])
    made = encode(1)
    for window, wanted in enumerate(plain_windows(path, some, BertTokenizer(VOCAB), True)):
        assert made.tokens[made.offsets[window]:made.offsets[window + 1]].tolist() == wanted
    return table


def made_up_logits(windows: Windows) -> np.ndarray:
    """[windows, longest, 2], as predict() gives them: some positions stand out."""
    rng = np.random.default_rng(1)
    logits = rng.normal(-6, 2, (len(windows), int(windows.lengths.max()), 2)).astype(np.float32)
    for row, length in enumerate(windows.lengths):
        logits[row, length:] = NO_POSITION
        place = int(rng.integers(windows.first_lengths[row], length))
        logits[row, place:place + 3] += rng.normal(9, 2)
        logits[row, 0] += rng.normal(9, 4)
    return logits


def plain_decode(logits: np.ndarray, windows: Windows, questions: int) -> dict[str, str]:
    """The texts of the first questions: every candidate an object, every text of the n-best list made."""
    head, basic, answers = TASK.head, windows.tokenizer.basic_tokenizer, {}
    for question, words, numbers in islice(windows.questions(), questions):
        candidates, null = [], (float("inf"),)
        for number in numbers:
            rows = logits[number].tolist()
            offset, length = int(windows.offsets[number]), int(windows.lengths[number])
            starts, ends = (sorted(range(len(rows)), key=lambda place: -rows[place][side])[:head.n_best_size]
                            for side in (0, 1))
            null = min(null, (sum(rows[0]), None, None))
            candidates += [(rows[start][0] + rows[end][1], offset + start, offset + end)
                           for start in starts for end in ends
                           if start <= end < length and end - start < head.max_answer_length
                           and windows.words[offset + start] >= 0 and windows.words[offset + end] >= 0
                           and windows.is_max_context[offset + start]]
        best: dict[str, float] = {}
        for score, first, last in sorted([*candidates, null], key=lambda candidate: -candidate[0]):
            if len(best) < head.n_best_size:
                best.setdefault(plain_text(windows, words, basic, first, last) if first is not None else "", score)
        text, score = next(((text, score) for text, score in best.items() if text), ("empty", 0.0))
        answers[question.id] = "" if null[0] - score > head.null_score_diff_threshold else text
    return answers


def plain_text(windows: Windows, words: list[str], basic, first: int, last: int) -> str:
    """What a span stands for, aligned character by character."""
    pieces = windows.tokenizer.convert_ids_to_tokens(windows.tokens[first:last + 1].tolist())
    wanted = " ".join(pieces).replace(" ##", "").replace("##", "")
    text = " ".join(words[windows.words[first]:windows.words[last] + 1])
    tokens = " ".join(basic.tokenize(text))
    place = tokens.find(wanted)
    of_text, of_tokens = ([at for at, character in enumerate(line) if character != " "] for line in (text, tokens))
    if place < 0 or len(of_text) != len(of_tokens):
        return text
    return text[of_text[of_tokens.index(place)]:of_text[of_tokens.index(place + len(wanted) - 1)] + 1]


def answers(folder: Path, args: argparse.Namespace) -> list[list[str]]:
    """The rows about decoding."""
    write_questions(folder / "dev.json", args.questions)
    windows = encode_windows(TASK, folder / "dev.json", BertTokenizer(VOCAB), LENGTH, STRIDE, QUERY, "score")
    logits = made_up_logits(windows)
    print(f"{args.questions:,} questions, {len(windows):,} windows of {windows.lengths.mean():.0f} wordpieces\n")

    def write_files() -> None:
        for file, texts in TASK.head.prediction_files("dev", windows, logits):
            with open(folder / file, "w") as handle:
                handle.writelines(texts)

    def measured(function: Callable[[], object]) -> tuple[float, int]:
        before = tree_memory(os.getpid())
        with PeakMemory() as memory:
            start = args.clock()
            function()
            took = args.clock() - start
        return took, memory.peak - before

    some = min(PLAIN_QUESTIONS, args.questions)
    start = args.clock()
    wanted = plain_decode(logits, windows, some)
    rate = some / (args.clock() - start)
    found = {question.id: answer.text for question, answer in islice(decode(logits, windows, TASK.head, False), some)}
    assert found == wanted and 0 < list(found.values()).count("") < some
    table = [[f"plain loops, n-best lists ({some} questions)", f"{args.questions / rate:,.1f}", f"{rate:,.0f}", "1.0",
              ""]]
    for name, function in (("one text a question, and its scores", lambda: TASK.head.score(logits, windows)),
                           ("the three files of predictions", write_files)):
        took, memory = measured(function)
        table.append([name, f"{took:.1f}", f"{args.questions / took:,.0f}", f"{args.questions / took / rate:.1f}",
                      f"{memory / 1e6:.0f}"])
    return table


def steps(_: Path, args: argparse.Namespace) -> list[list[str]]:
    """The rows about steps of the intermediate stage."""
    table = []
    for name, query_key, every_layer in (("scores of every layer", False, True),
                                         ("scores of the layers that the losses read", False, False),
                                         ("Gram matrices of these layers (--attention_loss auto)", True, False)):
        found = []
        for batch in (1, 1 + BATCH):
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
                found.append(alone.submit(attention_step, "4l", batch, LENGTH, query_key, args.busy,
                                          every_layer).result())
        (_, least), (took, most) = found
        table.append([name, f"{took / (1 + BATCH) * 1e3:,.0f}", f"{(most - least) / BATCH / 1e6:,.0f}"])
    return table


def main(argv: list[str] | None = None) -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", choices=("windows", "answers", "steps"),
                        default=["windows", "answers", "steps"], help="what to measure")
    parser.add_argument("--questions", type=int, default=10_000, help="of the file")
    args = parse_with_clock(parser, argv)
    print(machine("numpy", "torch") + ", processor time" * args.busy, flush=True)
    for stage, header, rows in (
            ("windows", ["windows", "questions/s", "x plain", "peak MB above torch"], encoding),
            ("answers", ["answers", f"s for {args.questions:,}", "questions/s", "x plain", "MB"], answers),
            ("steps", [f"a step of {1 + BATCH} windows of {LENGTH}, fp32", "ms a window", "MB a window"], steps)):
        if stage in args.stages:
            with tempfile.TemporaryDirectory() as temporary:
                table = rows(Path(temporary), args)
            print()
            print_table(header, table)


if __name__ == "__main__":
    main()
