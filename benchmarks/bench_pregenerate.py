"""Time and memory of the corpus steps: sentences, wordpieces, instances; for corpora of one to eight times a size.

    python benchmarks/bench_pregenerate.py [--megabytes 8] [--runs 3]

The corpus is the documentation of botocore; twice the corpus has every sentence twice, shuffled anew. Chinese is made
up, as many bytes. Memory is that of all processes of a step together (PSS). The naive implementation, in this file,
does what the definition says a sentence at a time with lists of strings; it too makes three epochs.
"""
from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench_tokenizer import VOCAB
from chinese import chinese_sentences
from english import documents
from measure import ROOT, Run, machine, print_table, run

SENTENCES = 40  # of a document
WORKERS = {1: "1 worker", 2: "2 workers"}

TOKENIZE = """
import sys
from pathlib import Path
from transformer.data.corpus import open_corpus
from transformer.tokenization import BertTokenizer
if __name__ == "__main__":
    corpus, vocab, store, workers = sys.argv[1:]
    with open_corpus(corpus, BertTokenizer(vocab), Path(store), int(workers)):
        pass
"""


def naive(corpus: str, vocab: str, output: str) -> None:
    """Tokenize all of a corpus into lists of strings, then write three epochs of instances of 128 wordpieces."""
    from transformer.tokenization import BasicTokenizer, WordpieceTokenizer, load_vocab
    basic, wordpiece = BasicTokenizer(), WordpieceTokenizer(load_vocab(vocab))
    texts: list[list[list[str]]] = [[]]
    with open(corpus, encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                texts[-1].append([piece for word in basic.tokenize(line) for piece in wordpiece.tokenize(word)])
            else:
                texts.append([])
    rng = random.Random(42)
    sizes = [len(text) for text in texts]
    cumulated = [sum(sizes[:1])]
    for size in sizes[1:]:
        cumulated.append(cumulated[-1] + size)
    for epoch in range(3):
        with open(f"{output}/epoch_{epoch}.json", "w") as handle:
            for index, document in enumerate(texts):
                for instance in naive_instances(texts, cumulated, index, document, rng):
                    handle.write(json.dumps(instance) + "\n")


def naive_instances(texts: list[list[list[str]]], cumulated: list[int], index: int, document: list[list[str]],
                    rng: random.Random) -> Iterator[dict[str, Any]]:
    """Instances of document `index`, as BERT's procedure builds them; cumulated: sentences up to each end."""
    room = 125
    target = rng.randint(2, room) if rng.random() < 0.1 else room
    chunk, length, i = [], 0, 0
    while i < len(document):
        chunk.append(document[i])
        length += len(document[i])
        if i == len(document) - 1 or length >= target:
            split = rng.randrange(1, len(chunk)) if len(chunk) >= 2 else 1
            first = [token for sentence in chunk[:split] for token in sentence]
            second = []
            random_next = len(chunk) == 1 or rng.random() < 0.5
            if random_next:
                other = index
                while other == index:
                    other = rng.choices(range(len(texts)), cum_weights=cumulated)[0]
                for sentence in texts[other][rng.randrange(len(texts[other])):]:
                    second += sentence
                    if len(second) >= target - len(first):
                        break
                i -= len(chunk) - split
            else:
                second = [token for sentence in chunk[split:] for token in sentence]
            while len(first) + len(second) > room:
                longer = first if len(first) > len(second) else second
                if rng.random() < 0.5:
                    del longer[0]
                else:
                    longer.pop()
            yield {"tokens": ["[CLS]", *first, "[SEP]", *second, "[SEP]"],
                   "segment_ids": [0] * (len(first) + 2) + [1] * (len(second) + 1), "is_random_next": random_next,
                   "masked_lm_positions": [], "masked_lm_labels": []}
            chunk, length = [], 0
        i += 1


def write_corpora(folder: Path, sentences: list[str], times: int) -> None:
    """corpus.txt, and extracted/wiki_NN with the same documents, of `times` times the sentences."""
    rng = random.Random(0)
    (folder / "extracted").mkdir(parents=True)
    with open(folder / "corpus.txt", "w", encoding="utf-8") as corpus:
        for copy in range(times):
            rng.shuffle(sentences)
            texts = [sentences[i:i + SENTENCES] for i in range(0, len(sentences), SENTENCES)]
            corpus.writelines("\n".join(text) + "\n\n" for text in texts)
            for start in range(0, len(texts), 200):
                with open(folder / "extracted" / f"wiki_{copy}_{start:05}", "w", encoding="utf-8") as extracted:
                    extracted.writelines(json.dumps({"text": " ".join(text)}) + "\n"
                                         for text in texts[start:start + 200])


def write_chinese(folder: Path, size: float) -> None:
    """extracted/wiki_NN with about `size` bytes of made-up Chinese, 200 documents each."""
    sentences = chinese_sentences()
    (folder / "extracted").mkdir(parents=True)
    for number in itertools.count():
        texts = ["".join(itertools.islice(sentences, SENTENCES)) for _ in range(200)]
        with open(folder / "extracted" / f"wiki_{number:05}", "w", encoding="utf-8") as extracted:
            extracted.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
        size -= sum(len(text.encode()) for text in texts)
        if size <= 0:
            break


def start(*command: object) -> Run:
    """A run of Python with a command, to which the kit is importable."""
    return run([sys.executable, *command], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})


class Steps:
    """The rows of the table; runs: of each step, whose median counts."""

    def __init__(self, runs: int):
        self.runs = runs
        self.rows: list[list[str]] = []

    def add(self, step: str, times: int, size: float, measured: Sequence[Run]) -> float:
        """Add a row for a step on a corpus of so many megabytes; its seconds."""
        seconds = statistics.median(one.seconds for one in measured)
        self.rows.append([step, f"{times}x", f"{seconds:.2f}", f"{size / seconds:.2f}", "",
                          f"{max(one.peak_memory for one in measured) / 1e6:.0f}"])
        return seconds

    def measure(self, step: str, times: int, size: float, output: Path, *command: object) -> float:
        """add() a step that starts a command with an empty folder `output`."""
        measured = []
        for _ in range(self.runs):
            shutil.rmtree(output, ignore_errors=True)
            output.mkdir()
            measured.append(start(*command))
        return self.add(step, times, size, measured)


def instances(folder: Path, sentences: list[str], steps: Steps) -> None:
    """Add the steps from a corpus to instances, on corpora of several sizes."""
    output, store = folder / "output", folder / "store"
    for times in (1, 2, 4, 8):
        source = folder / f"{times}x"
        write_corpora(source, sentences, times)
        corpus = source / "corpus.txt"
        size = corpus.stat().st_size / 1e6
        if times == 1:
            naive_rate = size / steps.measure("naive", times, size, output, __file__, "--naive", corpus, VOCAB, output)
        for workers, name in WORKERS.items():
            tokenizing = steps.measure(f"tokenize, {name}", times, size, store, "-c", TOKENIZE, corpus, VOCAB,
                                       store / "corpus", workers)
            command = ("pregenerate_training_data.py", "--train_corpus", corpus, "--bert_model", VOCAB,
                       "--do_lower_case", "--output_dir", output, "--tmp_dir", store, "--reduce_memory",
                       "--num_workers", workers)
            generating = steps.measure(f"3 epochs of the tokenized corpus, {name}", times, size, output, *command)
            steps.measure(f"the same with --arrays, {name}", times, size, output, *command, "--arrays")
            both = tokenizing + generating
            steps.rows.append([f"both, {name}", f"{times}x", f"{both:.2f}", f"{size / both:.2f}",
                               f"{size / both / naive_rate:.1f}", ""])
        shutil.rmtree(output)
        shutil.rmtree(source)


def splitting(folder: Path, sentences: list[str], steps: Steps) -> list[list[Run]]:
    """Add prepare_data.py in English and in Chinese; its runs, turn by turn, each language with 1 and 2 workers."""
    source, chinese = folder / "english", folder / "chinese"
    write_corpora(source, sentences, 48)  # so big that starting Python does not decide
    size = (source / "corpus.txt").stat().st_size / 1e6
    write_chinese(chinese, 1e6 * size)
    commands = {f"prepare_data.py, {language}, {name}": (
        "prepare_data.py", "--input_dir", origin / "extracted", "--output_file", folder / "sentences.txt", *flags,
        "--num_workers", workers)
        for language, origin, flags in (("English", source, ["--train_splitter"]), ("Chinese", chinese, []))
        for workers, name in WORKERS.items()}
    # one after the other in each turn: the speed of a machine drifts
    turns = [[start(*command) for command in commands.values()] for _ in range(steps.runs)]
    for name, measured in zip(commands, zip(*turns)):
        steps.add(name, 48, size, measured)
    return turns


def main() -> None:
    """Measure every step on corpora of several sizes, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=8, help="size of the smallest corpus")
    parser.add_argument("--runs", type=int, default=3, help="runs of every step, of which the median counts")
    args = parser.parse_args()
    sentences = [sentence for document in documents(int(args.megabytes * 1e6)) for sentence in document]
    print(machine("numpy", "nltk"))
    print(f"medians of {args.runs} runs; every step starts Python anew\n")
    steps = Steps(args.runs)
    with tempfile.TemporaryDirectory() as temporary:
        instances(Path(temporary), sentences, steps)
        turns = splitting(Path(temporary), sentences, steps)
    print_table(["step", "corpus", "s", "MB/s", "x naive", "peak MB"], steps.rows)
    for told, first, second in (("2 workers are {} times as fast as 1, in English", 0, 1),
                                ("2 workers are {} times as fast as 1, in Chinese", 2, 3),
                                ("Chinese is {} times as fast as English with 1 worker", 0, 2)):
        ratios = sorted(turn[first].seconds / turn[second].seconds for turn in turns)
        print(f"\nprepare_data.py: {told.format(f'{statistics.median(ratios):.2f}')} (median of {args.runs} turns, "
              f"{ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--naive"]:
        naive(*sys.argv[2:])
    else:
        main()
