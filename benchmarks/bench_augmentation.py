"""Data augmentation: candidates of the masked LM and GloVe neighbours, against one word at a time.

python benchmarks/bench_augmentation.py    (2 cores, about 25 minutes, 1 GB in a temporary folder)

The naive way runs the masked LM on one masked word at a time, with gradients on and the decoder on every position, and
sorts the whole vocabulary. The floor is the encoder's forward pass alone, on the kit's own batches.
"""
from __future__ import annotations

import argparse
import copy
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from bench_tokenizer import VOCAB
from english import documents
from measure import ROOT, machine, print_table, run, seconds

from transformer.augmentation.candidates import LOGITS_ROWS, MaskedLM, MaskedWords, Splitter, batch_tokens_for
from transformer.augmentation.glove import Glove
from transformer.checkpoint import load_tokenizer, save_model
from transformer.config import BertConfig
from transformer.modeling import BertForMaskedLM
from transformer.tokenization import BertTokenizer
from transformer.training.batches import batches_by_length

SIZES = {"BERT-base": BertConfig(30_522),
         "6 layers, 384 wide": BertConfig(30_522, hidden_size=384, num_hidden_layers=6, num_attention_heads=12,
                                          intermediate_size=1536)}
WORDS = {"SST-2": 9, "MRPC": 22}  # words of an average sentence of train.tsv
COUNT = 15                        # candidates for each word
GLOVE_SHAPE = (100_000, 300)
PLAIN_WORDS = 100                 # whose neighbours the plain way looks for
NEIGHBOURS = 10_000               # whose neighbours the kit looks for
TABLES = ("masked_lm", "glove", "memory")


def naive(model: BertForMaskedLM, words: MaskedWords, which: np.ndarray, suffixes: torch.Tensor) -> list[list[int]]:
    """Candidates of masked words, one sequence each."""
    result = []
    for index in which:
        ids, segments, attention, position, _ = words.batch(np.array([index]))
        logits = model(ids, segments, attention)[0, position[0]]
        result.append([piece for piece in logits.argsort(descending=True).tolist() if not suffixes[piece]][:COUNT])
    return result


def encode(model: BertForMaskedLM, words: MaskedWords, batches: list[np.ndarray]) -> None:
    """The floor: hidden states of the kit's own batches, and nothing else."""
    with torch.inference_mode():
        for batch in batches:
            model.bert(*words.batch(batch)[:3], attention_scores=())


def sentences(length: int, tokenizer: BertTokenizer, tokens: int) -> MaskedWords:
    """Sentences of `length` words of English prose, until their masked words give about `tokens` pieces."""
    words = MaskedWords(Splitter(tokenizer, tokenizer.max_len))
    whole = (sentence.split() for document in documents(1_000_000) for sentence in document)
    for text in (text for text in whole if len(text) >= length):
        words.add(" ".join(text[:length]))
        if len(words) * 2.5 * length >= tokens:
            break
    words.finish()
    return words


def masked_lm_row(name: str, model: BertForMaskedLM, words: MaskedWords, tokenizer: BertTokenizer, turns: int) -> list:
    """A row of the table: one model on sentences of one length."""
    order, bounds = batches_by_length(words.lengths(), batch_tokens_for(torch.device("cpu")), LOGITS_ROWS)
    batches = [order[start:stop] for start, stop in bounds]
    chosen = np.random.default_rng(0).choice(len(words), max(16, len(words) // 16), replace=False)
    lms = {precision: MaskedLM(copy.deepcopy(model), tokenizer, COUNT, precision) for precision in ("fp32", "bf16")}
    found = {precision: np.empty((len(words), COUNT), np.int64) for precision in lms}
    naive_found: list[list[int]] = []

    def kit(precision: str) -> None:
        for batch in batches:
            found[precision][batch] = lms[precision].best(*words.batch(batch)).numpy()

    def one_by_one() -> None:
        model.requires_grad_(True)
        naive_found[:] = naive(model, words, chosen, lms["fp32"].ruled_out)
        model.requires_grad_(False)

    ways = {"naive": one_by_one, "floor": lambda: encode(model, words, batches),
            "fp32": lambda: kit("fp32"), "bf16": lambda: kit("bf16")}
    times: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(turns + 1):
        for way, function in ways.items():
            took = seconds(function)
            if turn:  # the first warms up
                times[way].append(took * (len(words) / len(chosen) if way == "naive" else 1))
    rates = {way: len(words) / statistics.median(values) for way, values in times.items()}
    ratios = {pair: statistics.median(a / b for a, b in zip(times[pair[0]], times[pair[1]], strict=True))
              for pair in (("naive", "fp32"), ("naive", "bf16"), ("fp32", "floor"))}
    same = np.mean([len(set(a) & set(b)) / COUNT for a, b in zip(found["fp32"], found["bf16"], strict=True)])
    return [name, f"{rates['naive']:.1f}", f"{rates['fp32']:.1f}", f"{ratios['naive', 'fp32']:.2f}",
            "yes" if found["fp32"][chosen].tolist() == naive_found else "no", f"{ratios['fp32', 'floor']:.2f}",
            f"{ratios['naive', 'bf16']:.2f}", f"{100 * same:.1f}%"]


def write_glove(path: Path) -> None:
    """A file of random vectors, of the size of what is read of glove.840B.300d.txt."""
    generator = np.random.default_rng(0)
    numbers = np.array([f"{value:.5f}" for value in generator.normal(size=20_000)])
    with open(path, "w", encoding="utf-8") as handle:
        for row in range(GLOVE_SHAPE[0]):
            handle.write(f"word{row} {' '.join(generator.choice(numbers, GLOVE_SHAPE[1]))}\n")


def plain_glove(path: Path) -> tuple[list[str], np.ndarray]:
    """Words and vectors of a file, line by line, number by number."""
    words, vectors = [], []
    with open(path, encoding="utf-8") as handle:
        for line in handle:
            word, *numbers = line.rstrip().split(" ")
            words.append(word)
            vectors.append(np.array([float(number) for number in numbers], dtype=np.float32))
    matrix = np.stack(vectors)
    return words, matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def plain_neighbours(words: list[str], matrix: np.ndarray, rows: range) -> dict[str, list[str]]:
    """Neighbours of some words: a product with the matrix and a full sort for each."""
    result = {}
    for row in rows:
        order = np.argsort(-(matrix @ matrix[row]), kind="stable")
        result[words[row]] = [words[other] for other in order[:COUNT + 1] if other != row][:COUNT]
    return result


def glove_rows(folder: Path) -> list[list]:
    """Rows of the table for GloVe."""
    path = folder / "glove.txt"
    write_glove(path)
    results = {}

    def timed(name: str, function: Callable) -> float:
        def call() -> None:
            results[name] = function()
        return seconds(call)

    plain_load = timed("plain", lambda: plain_glove(path))
    first = timed("kit", lambda: Glove(path, GLOVE_SHAPE[0]))
    second = statistics.median(timed("kit", lambda: Glove(path, GLOVE_SHAPE[0])) for _ in range(3))
    words, matrix = results["plain"]
    wanted = range(1000, 1000 + NEIGHBOURS)
    plain = statistics.median(timed("plain neighbours", lambda: plain_neighbours(words, matrix, wanted[:PLAIN_WORDS]))
                              for _ in range(3)) / PLAIN_WORDS
    kit = statistics.median(timed("neighbours", lambda: results["kit"].neighbours(
        [words[row] for row in wanted], COUNT)) for _ in range(3)) / NEIGHBOURS
    same = sum(results["neighbours"][word] == found for word, found in results["plain neighbours"].items())
    return [["100,000 vectors, first start", f"{plain_load:.2f} s", f"{first:.2f} s", f"{plain_load / first:.1f}", ""],
            ["100,000 vectors, second start", f"{plain_load:.2f} s", f"{second:.2f} s", f"{plain_load / second:.1f}",
             ""],
            [f"neighbours of {NEIGHBOURS:,} words, a word", f"{1e3 * plain:.2f} ms", f"{1e3 * kit:.2f} ms",
             f"{plain / kit:.1f}", f"{same} of {PLAIN_WORDS} words"]]


def memory_rows(folder: Path, counts: tuple[int, ...]) -> list[list]:
    """Rows of the table for whole runs on MNLI-like files: three hypotheses for each premise, all of them different."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"##{letter}" for letter in "abcdefghijklmnop")]
    generator = np.random.default_rng(0)
    words = np.array(["".join(letters) for letters in generator.choice(list("abcdefghijklmnop"), (5000, 5))])
    (folder / "vocab.txt").write_text("\n".join([*vocabulary, *sorted({*words[:4000], *"abcdefghijklmnop"})]) + "\n")
    (folder / "glove.txt").write_text("".join(f"{word} {row} {row * row % 7 + 1}\n" for row, word in enumerate(words)))
    config = BertConfig((folder / "vocab.txt").read_text().count("\n"), hidden_size=16, num_hidden_layers=1,
                        num_attention_heads=1, intermediate_size=16)
    save_model(BertForMaskedLM(config), folder / "bert", folder / "vocab.txt")
    words = np.append(words, ["the"] * len(words))  # about every second word of a sentence is a stop word
    table = []
    for count in counts:
        path = folder / str(count) / "MNLI" / "train.tsv"
        path.parent.mkdir(parents=True)
        with open(path, "w", encoding="utf-8") as handle:
            handle.write("\t".join("index a b c d e f g premise hypothesis h label".split()) + "\n")
            for row in range(count):
                if row % 3 == 0:
                    premise = " ".join(generator.choice(words, 20))
                hypothesis = " ".join(generator.choice(words, 10))
                handle.write("\t".join([str(row), *"-------", premise, hypothesis, "-", "neutral"]) + "\n")
        done = run([sys.executable, "data_augmentation.py", "--pretrained_bert_model", folder / "bert", "--glove_embs",
                    folder / "glove.txt", "--glue_dir", path.parent.parent, "--task_name", "MNLI", "--N", "2"],
                   cwd=ROOT)
        table.append([f"{count:,} rows", f"{path.stat().st_size / 1e6:.0f} MB", f"{done.seconds:.0f} s",
                      f"{done.peak_memory / 1e6:.0f} MB"])
    return table


def main() -> None:
    """Measure what --tables names, and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3, help="turns of each measurement; their median counts")
    parser.add_argument("--tokens", type=int, default=20_000, help="wordpieces that each model is run on, about")
    parser.add_argument("--model", type=Path, help="also this folder: a BERT with its masked-LM head (of English)")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES, help="those to measure")
    args = parser.parse_args()
    torch.manual_seed(0)
    print(machine("torch", "numpy"))
    print(f"medians of {args.turns} turns, {torch.get_num_threads()} threads; random weights but for --model\n")
    if "masked_lm" in args.tables:
        models = [(name, BertForMaskedLM(config), BertTokenizer(VOCAB)) for name, config in SIZES.items()]
        if args.model:
            models.append((args.model.name, BertForMaskedLM.from_pretrained(args.model),
                           load_tokenizer(args.model, True)))
        rows = []
        for name, model, tokenizer in models:
            for task, length in WORDS.items():
                words = sentences(length, tokenizer, args.tokens)
                rows.append(masked_lm_row(f"{name}, {task} ({length} words)", model.eval(), words, tokenizer,
                                          args.turns))
        print_table(["masked LM", "naive words/s", "fp32 words/s", "x naive", "same candidates", "x floor",
                     "bf16 x naive", "bf16 same"], rows)
        print()
    with tempfile.TemporaryDirectory() as folder:
        if "glove" in args.tables:
            print_table(["GloVe", "plain", "kit", "x plain", "same neighbours"], glove_rows(Path(folder)))
            print()
        if "memory" in args.tables:
            print_table(["the whole script, a tiny model", "train.tsv", "time", "peak memory of all processes"],
                        memory_rows(Path(folder), (50_000, 400_000)))


if __name__ == "__main__":
    main()
