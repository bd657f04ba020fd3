"""Examples as arrays on disk against a row at a time by the definition; what is made again; a teacher's logits."""
from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import PIECES, ROOT, TEACHER, killed_at_the_fourth_part, write_lines
from transformer.config import BertConfig
from transformer.data import features
from transformer.data.features import Sequences, encode, encode_file, show_examples, unpack
from transformer.data.tables import read_rows
from transformer.files import InputError
from transformer.modeling import TinyBertForSequenceClassification
from transformer.tasks.head import Classes
from transformer.tasks.table import TASKS
from transformer.tasks.task import Task
from transformer.tokenization import BasicTokenizer, BertTokenizer, WordpieceTokenizer
from transformer.training import scoring
from transformer.training.processes import Processes
from transformer.training.scoring import cached_logits, predict

CPU = Processes(0, 1, torch.device("cpu"))
LENGTH = 12
MNLI, ALL = TASKS["mnli"].head, np.arange(50)  # what `classified` is made for
WORDS = [*PIECES[5:], "Cats", "ants", "été", "[SEP]", "[PAD]", "\u2028", "\x85", '"', "中", "birds.", ""]


def write_task_file(path: Path, task: Task, rows: int = 60, end: str = "\n", bom: str = "", extra_columns: int = 0,
                    last_end: bool = True, words: list[str] = WORDS) -> list[tuple[list[str], float]]:
    """A file of random texts, one in seven empty; (texts, label) of its rows. In QQP one row in ten is short."""
    rng = random.Random(rows)
    lines = ["\t".join([*task.header.split(","), *"h" * extra_columns])] if task.has_header else []
    examples = []
    for row in range(rows):
        columns = ["x"] * (task.train_columns + extra_columns)
        for column in task.text_columns:
            columns[column] = " ".join(rng.choices(words, k=rng.choice([0, 1, 2, 3, 5, 8, 15])))
        label = rng.randrange(task.num_labels)
        columns[task.label_column] = task.labels[label] if task.labels else f"{row % 51 / 10}"
        if task.name == "QQP" and row % 10 == 3:
            lines.append("\t".join(columns[:-1]))
            continue
        lines.append("\t".join(columns))
        examples.append(([columns[c] for c in task.text_columns], label if task.labels else row % 51 / 10))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes((bom + end.join(lines) + end * last_end).encode())
    return examples


def naive(examples: list[tuple[list[str], float]], vocab: Path, length: int, lower: bool = True) -> list[tuple]:
    """(ids, length of segment 0, label) of every example, by the definition."""
    pieces = vocab.read_text(encoding="utf-8").splitlines()
    basic, wordpiece = BasicTokenizer(lower), WordpieceTokenizer({piece: i for i, piece in enumerate(pieces)})
    rows = []
    for texts, label in examples:
        a, *rest = ([piece for word in basic.tokenize(text) for piece in wordpiece.tokenize(word)] for text in texts)
        b = rest[0] if rest else []
        while len(a) + len(b) > length - 2 - len(rest):
            (a if len(a) > len(b) else b).pop()
        tokens = ["[CLS]", *a, "[SEP]", *([*b, "[SEP]"] if rest else [])]
        rows.append(([pieces.index(token) for token in tokens], len(a) + 2, np.float32(label)))
    return rows


def read_back(sequences: Sequences) -> list[tuple]:
    assert len(sequences) == len(sequences.lengths) == len(sequences.offsets) - 1
    return [(sequences.tokens[start:start + length].tolist(), first, label) for start, length, first, label in
            zip(sequences.offsets[:-1], sequences.lengths, sequences.first_lengths, sequences.labels, strict=True)]


@pytest.fixture
def vocab(tmp_path) -> Path:
    return write_lines(tmp_path / "vocab.txt", PIECES)


@pytest.mark.parametrize("workers,part_bytes", [(1, 1 << 20), (1, 1), (2, 300)])
@pytest.mark.parametrize("name,layout", [
    ("sst2", {}), ("sst2", {"end": "\r\n", "bom": "\ufeff"}), ("cola", {"bom": "\ufeff", "last_end": False}),
    ("mrpc", {"last_end": False}), ("mnli", {"extra_columns": 4}), ("stsb", {"end": "\r\n"}), ("qqp", {})])
def test_arrays_against_the_definition(name, layout, workers, part_bytes, tmp_path, vocab):
    task, path = TASKS[name], tmp_path / "train.tsv"
    wanted = naive(write_task_file(path, task, **layout), vocab, LENGTH)
    assert max(len(ids) for ids, _, _ in wanted) == LENGTH  # some are cut
    for cache_dir in (tmp_path / "cache", tmp_path / "cache", None):
        sequences = encode_file(task, path, BertTokenizer(vocab), LENGTH, cache_dir, num_workers=workers,
                                part_bytes=part_bytes)
        assert read_back(sequences) == wanted
        assert [array.dtype for array in (sequences.tokens, sequences.offsets, sequences.first_lengths,
                                          sequences.labels)] == [np.uint16, np.int64, np.int32, np.float32]
        assert isinstance(sequences.tokens.base, np.memmap) == (cache_dir is not None)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_wide_ids_and_cased_text(tmp_path):
    vocab = write_lines(tmp_path / "vocab.txt", [*PIECES, *(f"piece{i}" for i in range(1 << 16)), "Cats"])
    examples = write_task_file(tmp_path / "train.tsv", TASKS["rte"])
    sequences = encode_file(TASKS["rte"], tmp_path / "train.tsv", BertTokenizer(vocab, do_lower_case=False), 32)
    assert sequences.tokens.dtype == np.int32 and sequences.tokens.max() > 1 << 16
    assert read_back(sequences) == naive(examples, vocab, 32, lower=False)


def test_batches(vocab):
    examples = [(["the cat sees", "a bird"], 1.0), (["cat", "dog " * 9], 0.0), (["a b c d e f g h i", "j k"], 2.0),
                (["", "x"], 3.0)]
    texts, labels = zip(*examples)
    sequences = encode(list(map(list, zip(*texts))), labels, BertTokenizer(vocab), 10)
    assert sequences.first_lengths.dtype == np.int32 and sequences.labels.dtype == np.float32
    ids, segments, mask = sequences.batch(np.array([0, 1, 2, 3]), 12)
    for row, (tokens, first, _) in enumerate(naive(examples, vocab, 10)):
        padding = [0] * (12 - len(tokens))
        assert ids[row].tolist() == tokens + padding
        assert segments[row].tolist() == [0] * first + [1] * (len(tokens) - first) + padding
        assert mask[row].tolist() == [1] * len(tokens) + padding
    longest = max(sequences.lengths[[3, 0]])
    assert sequences.batch(np.array([3, 0]))[0].shape == (2, longest)
    assert sequences.batch(np.array([3, 0]))[0][1].tolist() == ids[0, :longest].tolist()
    with pytest.raises(ValueError, match="does not fit"):
        sequences.batch(np.array([1]), 9)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), min_size=1, max_size=6), st.data())
def test_a_batch_against_a_row_at_a_time(segments, data):
    """Examples of (length of segment 0, of segment 1), tokens counted through: a padding never shows a neighbour."""
    first_lengths, lengths = np.array([first for first, _ in segments], np.int32), np.sum(segments, axis=1)
    offsets = np.append(0, np.cumsum(lengths))
    sequences = Sequences(np.arange(1, offsets[-1] + 1, dtype=np.uint16), offsets, first_lengths)
    indices = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=6)))
    assert sequences.lengths_of(indices).tolist() == [lengths[index] for index in indices]
    longest = max(lengths[index] for index in indices)
    length = data.draw(st.integers(longest, longest + 8))
    batch = sequences.batch(indices, length)
    assert [(tensor.dtype, tensor.shape) for tensor in batch] == [(torch.int64, (len(indices), length))] * 3
    for index, *row in zip(indices, *(tensor.tolist() for tensor in batch)):
        (first, second), padding = segments[index], [0] * (length - lengths[index])
        assert row == [[*range(offsets[index] + 1, offsets[index + 1] + 1), *padding],
                       [0] * first + [1] * second + padding, [1] * (first + second) + padding]
    for ours, padded in zip(sequences.batch(indices), batch):
        assert torch.equal(ours, padded[:, :longest])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.sampled_from([np.uint16, np.int32]),
       st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), min_size=1, max_size=6), st.data())
def test_packed_batches(dtype, segments, data):
    """Ids of the whole range of their type, also above 32767 and 65535, read back from one tensor of as many bytes."""
    top, rng = min(np.iinfo(dtype).max, 1 << 20), random.Random(len(segments))
    examples = [([rng.choice([0, 1, 32767, 32768, top, rng.randint(0, top)]) for _ in range(first + second)], first)
                for first, second in segments]
    tokens = np.array([token for ids, _ in examples for token in ids], dtype)
    offsets = np.append(0, np.cumsum([len(ids) for ids, _ in examples]))
    sequences = Sequences(tokens, offsets, np.array([first for _, first in examples], np.int32))
    # the last example, whose padding has no tokens to stand for it, is often among them
    rows = data.draw(st.lists(st.sampled_from([*range(len(examples)), len(examples) - 1]), min_size=1, max_size=6))
    longest = max(len(examples[row][0]) for row in rows)
    length = data.draw(st.one_of(st.none(), st.integers(longest, longest + len(tokens) + 3)))  # beyond all tokens, too
    packed = sequences.packed(np.array(rows, np.uint32), length)
    length = length or longest
    assert packed.dtype == {np.uint16: torch.int16, np.int32: torch.int32}[dtype]
    assert packed.shape == (len(rows), length + 2) and packed.is_contiguous()
    taken_apart = unpack(packed)
    assert all(tensor.dtype == torch.int64 and tensor.shape == (len(rows), length) for tensor in taken_apart)
    for row, ids, token_types, mask in zip(rows, *(tensor.tolist() for tensor in taken_apart)):
        pieces, first = examples[row]
        padding = [0] * (length - len(pieces))
        assert ids == [*pieces, *padding]
        assert token_types == [0] * first + [1] * (len(pieces) - first) + padding
        assert mask == [1] * len(pieces) + padding
    assert sequences.tokens.tolist() == [token for ids, _ in examples for token in ids], "nothing is written into them"


@pytest.mark.parametrize("texts", [["the cat sees"], ["the cat", "a dog hears"], ["", "the"], [""],
                                   ["the cat " * 9], ["the cat " * 9, "a dog"], ["the", "a dog " * 9], ["a " * 9] * 2])
def test_inputs_of_one_example_against_a_batch(texts, vocab):
    tokenizer = BertTokenizer(vocab, max_len=LENGTH)
    wanted = encode([[text] for text in texts], [0], tokenizer, LENGTH).batch(np.arange(1))
    found = tokenizer.inputs(*texts)
    assert [tensor.dtype for tensor in found] == [torch.int64] * 2
    assert [tensor.tolist() for tensor in found] == [tensor.tolist() for tensor in wanted[:2]]


def test_show(vocab, capsys):
    tokenizer = BertTokenizer(vocab)
    sequences = encode([["good cat", "dogs", "x"], ["a bird", "", "y"]], [2.0, 0.5, 0.0], tokenizer, LENGTH)
    show_examples(sequences, tokenizer)
    lines = capsys.readouterr().out.splitlines()
    for line, pieces, first, length, label in zip(
            lines, ("[CLS] good cat [SEP] a bird [SEP]", "[CLS] dog ##s [SEP] [SEP]"), (4, 4), (7, 5), ("2", "0.5"),
            strict=True):
        assert f": {pieces}  " in line and f"{first} of {length}" in line and line.split()[-1] == label
    sequences.labels = None
    show_examples(sequences, tokenizer, 5)
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 3 and "label" not in out


def test_parts_of_about_the_size_that_is_asked_for(tmp_path, vocab, monkeypatch):
    sizes, encode_part = [], features._encode_part
    monkeypatch.setattr(features, "_encode_part", lambda part: sizes.append(part[2] - part[1]) or encode_part(part))
    write_task_file(tmp_path / "train.tsv", TASKS["sst2"], rows=200)
    encode_file(TASKS["sst2"], tmp_path / "train.tsv", BertTokenizer(vocab), LENGTH, num_workers=1, part_bytes=1000)
    assert sum(sizes) == (tmp_path / "train.tsv").stat().st_size
    assert len(sizes) > 3 and all(1000 <= size < 1200 for size in sizes[:-1])  # whole rows


@pytest.mark.parametrize("workers", [1, 2])
def test_as_many_processes_as_asked_for(workers, tmp_path, vocab, monkeypatch):
    start_worker = features._start_worker

    def note(*facts):
        with open(tmp_path / "started", "a") as log:
            log.write(f"{os.getpid()}\n")
        start_worker(*facts)

    monkeypatch.setattr(features, "_start_worker", note)
    write_task_file(tmp_path / "train.tsv", TASKS["sst2"], rows=200)
    encode_file(TASKS["sst2"], tmp_path / "train.tsv", BertTokenizer(vocab), LENGTH, num_workers=workers,
                part_bytes=500)
    started = (tmp_path / "started").read_text().split()
    assert (started == [str(os.getpid())]) == (workers == 1) and len(started) <= workers


def test_everything_that_decides_makes_other_arrays(tmp_path, vocab, monkeypatch):
    path, cache, task = tmp_path / "train.tsv", tmp_path / "cache", TASKS["sst2"]
    other_vocab = write_lines(tmp_path / "other.txt", [*PIECES[:5], *reversed(PIECES[5:])])
    old = write_task_file(path, task)

    def opened(length=LENGTH, vocab=vocab, lower=True, task=task) -> Sequences:
        return encode_file(task, path, BertTokenizer(vocab, lower), length, cache, num_workers=1)

    first = opened()
    assert read_back(opened(length=7)) == naive(old, vocab, 7)
    assert read_back(opened(vocab=other_vocab)) == naive(old, other_vocab, LENGTH)
    assert read_back(opened(lower=False)) == naive(old, vocab, LENGTH, lower=False)
    new = write_task_file(path, task, rows=61)
    assert read_back(opened()) == naive(new, vocab, LENGTH)
    assert read_back(first) == naive(old, vocab, LENGTH)
    with pytest.raises(InputError, match="line 1: 2 columns, expected the 4 of RTE"):
        opened(task=TASKS["rte"])
    assert len(list(cache.iterdir())) == 5
    (tmp_path / "elsewhere").mkdir()
    path = path.rename(tmp_path / "elsewhere" / "renamed.tsv")
    monkeypatch.setattr(features, "_encode_part", None)  # nothing is tokenized again
    assert read_back(opened()) == naive(new, vocab, LENGTH) and opened().key == opened().key != first.key


def test_a_task_with_other_columns_makes_other_arrays(tmp_path, vocab):
    examples = write_task_file(tmp_path / "train.tsv", TASKS["mrpc"])
    swapped = [(texts[::-1], label) for texts, label in examples]
    for columns, wanted in (((3, 4), examples), ((4, 3), swapped)):
        task = dataclasses.replace(TASKS["mrpc"], text_columns=columns)
        sequences = encode_file(task, tmp_path / "train.tsv", BertTokenizer(vocab), LENGTH, tmp_path / "cache")
        assert read_back(sequences) == naive(wanted, vocab, LENGTH)


@pytest.mark.parametrize("name", ["tokens", "offsets", "first_lengths", "labels", "manifest.json"])
def test_damaged_arrays_are_made_again(name, tmp_path, vocab):
    path, cache = tmp_path / "train.tsv", tmp_path / "cache"
    wanted = naive(write_task_file(path, TASKS["mrpc"]), vocab, LENGTH)
    for _ in range(2):
        sequences = encode_file(TASKS["mrpc"], path, BertTokenizer(vocab), LENGTH, cache, num_workers=1,
                                part_bytes=500)
        assert read_back(sequences) == wanted
        (folder,) = cache.iterdir()
        os.truncate(folder / name, (folder / name).stat().st_size // 2)


def test_a_killed_run_goes_on(tmp_path, vocab):
    path, cache = tmp_path / "train.tsv", tmp_path / "cache"
    wanted = naive(write_task_file(path, TASKS["sst2"]), vocab, LENGTH)
    killed_at_the_fourth_part(tmp_path, "features", "_encode_part", """
features.encode_file(TASKS["sst2"], folder / "train.tsv", BertTokenizer(folder / "vocab.txt"), 12, folder / "cache",
                     num_workers=1, part_bytes=200)""")
    (folder,) = cache.iterdir()
    whole = (folder / "manifest.json").read_bytes()
    sequences = encode_file(TASKS["sst2"], path, BertTokenizer(vocab), LENGTH, cache)
    assert read_back(sequences) == wanted and (folder / "manifest.json").read_bytes() == whole


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("name,change,message", [
    ("sst2", lambda row: row + b"\tmore", "3 columns, expected 2"),
    ("mrpc", lambda row: b"2" + row[1:], "unknown label '2', expected one of 0, 1"),
    ("stsb", lambda row: row.rpartition(b"\t")[0] + b"\t5.5", "score '5.5', expected a number from 0 to 5"),
    ("cola", lambda row: row.replace(b"x", b"\xff"), "not valid UTF-8"),
    ("qqp", lambda row: row + b"\tmore", "7 columns, expected 6"), ("mnli", lambda row: b"", "1 columns, expected 12")])
def test_errors_name_the_line(name, change, message, workers, tmp_path, vocab):
    path = tmp_path / "train.tsv"
    write_task_file(path, TASKS[name], rows=80)
    rows = path.read_bytes().split(b"\n")
    rows[69] = change(rows[69])
    path.write_bytes(b"\n".join(rows))
    for _ in range(2):
        with pytest.raises(InputError, match=f"^{path}, line 70: {message}"):
            encode_file(TASKS[name], path, BertTokenizer(vocab), LENGTH, tmp_path / "cache", num_workers=workers,
                        part_bytes=700)


@pytest.mark.parametrize("task,content", [("sst2", ""), ("sst2", "sentence\tlabel\n"), ("cola", ""),
                                          ("qqp", "id\tq1\tq2\tquestion1\tquestion2\tsame\n1\t2\n")])
def test_no_examples(task, content, tmp_path, vocab):
    (tmp_path / "train.tsv").write_text(content)
    for cache_dir in (None, tmp_path / "cache", tmp_path / "cache"):
        with pytest.raises(InputError, match="train.tsv holds no examples"):
            encode_file(TASKS[task], tmp_path / "train.tsv", BertTokenizer(vocab), LENGTH, cache_dir)
    with pytest.raises(InputError, match="nothing.tsv does not exist"):
        encode_file(TASKS[task], tmp_path / "nothing.tsv", BertTokenizer(vocab), LENGTH)


def test_skipped_rows_are_reported_once(tmp_path, vocab, capsys):
    path = tmp_path / "train.tsv"
    examples = write_task_file(path, TASKS["qqp"], rows=60)
    for out in (f"{path}: skipped 6 rows with fewer than 6 columns\n", ""):
        encode_file(TASKS["qqp"], path, BertTokenizer(vocab), LENGTH, tmp_path / "cache", part_bytes=500)
        assert capsys.readouterr().out == out
        assert len(list(read_rows(TASKS["qqp"], path))) == len(examples) == 54
    assert not capsys.readouterr().out


def test_file_that_changes_meanwhile(tmp_path, vocab, monkeypatch):
    path, encode_part = tmp_path / "train.tsv", features._encode_part
    write_task_file(path, TASKS["sst2"])

    def change(part):
        os.utime(path, (1, 1))
        return encode_part(part)

    with monkeypatch.context() as patch:
        patch.setattr(features, "_encode_part", change)
        with pytest.raises(InputError, match="train.tsv changed while it was read"):
            encode_file(TASKS["sst2"], path, BertTokenizer(vocab), LENGTH, tmp_path / "cache")
    wanted = naive(write_task_file(path, TASKS["sst2"]), vocab, LENGTH)
    assert read_back(encode_file(TASKS["sst2"], path, BertTokenizer(vocab), LENGTH, tmp_path / "cache")) == wanted


def test_folder_that_cannot_be_written(tmp_path, vocab, capsys):
    path, cache, fallback = tmp_path / "train.tsv", tmp_path / "cache", tmp_path / "out" / "features"
    wanted = naive(write_task_file(path, TASKS["sst2"]), vocab, LENGTH)
    cache.write_text("no place for a folder")
    for _ in range(2):
        sequences = encode_file(TASKS["sst2"], path, BertTokenizer(vocab), LENGTH, cache, fallback)
        assert read_back(sequences) == wanted
    assert capsys.readouterr().out == f"{cache} cannot be written\nthe arrays go to {fallback}\n"
    with pytest.raises(InputError, match="make .*cache writable"):
        encode_file(TASKS["sst2"], path, BertTokenizer(vocab), LENGTH, cache)


@pytest.fixture
def classified(tmp_path, vocab) -> tuple[TinyBertForSequenceClassification, Sequences]:
    """A random teacher, and the examples it is to label."""
    torch.manual_seed(0)
    write_task_file(tmp_path / "train.tsv", TASKS["mnli"], rows=50)
    model = TinyBertForSequenceClassification(BertConfig(**TEACHER), num_labels=3).train()
    return model, encode_file(TASKS["mnli"], tmp_path / "train.tsv", BertTokenizer(vocab), 20)


def test_predictions_are_those_of_rows_alone(classified):
    model, sequences = classified
    logits = predict(model, MNLI, sequences, 8, CPU)
    assert model.training and logits.dtype == np.float32
    model.eval()
    with torch.no_grad():
        alone = np.concatenate([model(*sequences.batch(np.array([row]), 30))[0].numpy() for row in range(50)])
    np.testing.assert_allclose(logits, alone, atol=2e-6)
    assert np.ptp(alone, axis=0).min() > 1e-3
    rows = np.array([40, 3, 3, 17, 0], np.uint32)
    np.testing.assert_allclose(predict(model, MNLI, sequences, 2, CPU, rows), alone[rows], atol=2e-6)
    assert predict(model, MNLI, sequences, 2, CPU, rows[:0]).shape == (0, 3)


def test_cached_logits_of_a_run_that_was_stopped(classified, tmp_path, monkeypatch):
    model, sequences = classified
    blocks = []

    def stop_at(count):
        def counted(model, head, sequences, batch_size, processes, rows):
            blocks.append(rows[0])
            if len(blocks) == count:
                raise KeyboardInterrupt
            return predict(model, head, sequences, batch_size, processes, rows)
        return counted

    def cached(model=model, sequences=sequences):
        return cached_logits(model, MNLI, sequences, 8, CPU, tmp_path / "cache", block=16)

    monkeypatch.setattr(scoring, "predict", stop_at(3))
    with pytest.raises(KeyboardInterrupt):
        cached()
    for _ in range(2):
        logits = cached()
        np.testing.assert_allclose(logits[ALL], predict(model, MNLI, sequences, 8, CPU), atol=2e-6)
        assert blocks == [0, 16, 32, 32, 48]
    with pytest.raises(ValueError, match="without a key"):
        cached(sequences=Sequences(sequences.tokens, sequences.offsets, sequences.first_lengths))
    assert logits[ALL].shape == (50, 3) and logits[ALL].dtype == np.float32 and not logits.flat.flags.writeable


class Ends(Classes):
    """A head whose label is two whole numbers, start and end."""
    label_type, label_shape = "i", (2,)

    def read_label(self, text):
        return tuple(map(int, text.split("-"))) if text[0].isdecimal() else None


@pytest.mark.parametrize("cache", [None, "cache"])
def test_labels_of_several_numbers(cache, tmp_path, vocab, capsys):
    task = dataclasses.replace(TASKS["sst2"], head=Ends(("start", "end")))
    rows = [f"good cat\t{row}-{70000 * row}" for row in range(5)]
    path = write_lines(tmp_path / "train.tsv", ["sentence\tlabel", *rows])
    tokenizer = BertTokenizer(vocab)
    sequences = encode_file(task, path, tokenizer, LENGTH, cache and tmp_path / cache, num_workers=1, part_bytes=40)
    assert sequences.labels.dtype == np.int32 and sequences.labels.tolist() == [[n, 70000 * n] for n in range(5)]
    show_examples(sequences, tokenizer)
    assert capsys.readouterr().out.splitlines()[1].endswith("  label 1 70000")


class EveryPosition(Classes):
    """A head with two numbers for each wordpiece."""

    def numbers(self, lengths):
        return 2 * lengths

    def pack(self, logits, lengths):
        return np.concatenate([row[:length].reshape(-1) for row, length in zip(logits, lengths)])

    def unpack(self, flat, lengths):
        logits = np.zeros((len(lengths), max(lengths), 2), np.float32)
        for row, length, numbers in zip(logits, lengths, np.split(flat, 2 * np.cumsum(lengths)[:-1])):
            row[:length] = numbers.reshape(length, 2)
        return logits


class IdsAndSegments(torch.nn.Module):
    """Says of each wordpiece its id, and its segment less 9; of padding too."""
    config = BertConfig(**TEACHER)

    def forward(self, ids, segments, mask, attention_scores):
        return torch.stack([ids, segments - 9], dim=-1), [], []


def test_logits_of_every_position(classified, tmp_path):
    """Examples of any length have each their own numbers, in memory and on disk, whatever the batch and the block."""
    _, sequences = classified
    head, rows = EveryPosition(("0", "1")), np.array([40, 3, 3, 17, 0], np.uint32)
    kept = cached_logits(IdsAndSegments(), head, sequences, 8, CPU, tmp_path / "cache", block=16)
    assert len(kept.flat) == 2 * len(sequences.tokens) and len(set(sequences.lengths)) > 3
    ids, segments, mask = (tensor.numpy() for tensor in sequences.batch(rows))
    wanted = np.stack([ids, segments - 9], axis=-1) * mask[..., None]
    assert (predict(IdsAndSegments(), head, sequences, 2, CPU, rows) == wanted).all()
    assert (kept[rows] == wanted).all()


@pytest.mark.parametrize("change", ["weights", "config", "sequences"])
def test_logits_of_another_teacher_or_other_examples(change, classified, tmp_path, vocab):
    model, sequences = classified
    cached_logits(model, MNLI, sequences, 8, CPU, tmp_path / "cache")
    if change == "weights":
        model.classifier.bias.data[1] += 0.5
    elif change == "config":
        model.config.classifier_relu = False
    else:
        write_task_file(tmp_path / "train.tsv", TASKS["mnli"], rows=50, words=PIECES[5:])
        sequences = encode_file(TASKS["mnli"], tmp_path / "train.tsv", BertTokenizer(vocab), 20)
    logits = cached_logits(model, MNLI, sequences, 8, CPU, tmp_path / "cache")
    np.testing.assert_allclose(logits[ALL], predict(model, MNLI, sequences, 8, CPU), atol=2e-6)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_tokenizing_needs_no_torch():
    code = "import sys, transformer.data.features; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_key_of_encoded_files_is_that_of_earlier_versions(tmp_path, vocab):
    """By it their arrays, and runs that were stopped, are found again."""
    tokenizer, path = BertTokenizer(vocab), write_lines(tmp_path / "train.tsv", ["sentence\tlabel", "the cat\t1"])
    facts = {"format": 2, "task": TASKS["sst2"].key_text, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
             "vocab_sha256": hashlib.sha256(vocab.read_bytes()).hexdigest(), "do_lower_case": True,
             "unicode": unicodedata.unidata_version, "max_seq_length": 24}
    key = f"sst2_{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]}"
    assert encode_file(TASKS["sst2"], path, tokenizer, 24).key == key
    encode_file(TASKS["sst2"], path, tokenizer, 24, tmp_path / "features")
    assert [folder.name for folder in (tmp_path / "features").iterdir()] == [key]
