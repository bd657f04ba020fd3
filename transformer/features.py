"""From texts to compact integer arrays, and from those to padded batches."""
from __future__ import annotations

import contextlib
import functools
import hashlib
import zipfile
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from transformer.files import atomic_write, sha256_of
from transformer.glue import Task, parse_label, read_rows
from transformer.tokenization import BertTokenizer


@dataclass
class Sequences:
    """Examples end to end in flat arrays: a few bytes per wordpiece, no Python object per example.

    tokens: uint16 or int32 [pieces], `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]` of every example;
    offsets: int64 [n + 1], where each example begins; first_lengths: int32 [n], the length of its segment 0;
    labels: float32 [n], class numbers or scores, or None.
    """
    tokens: np.ndarray
    offsets: np.ndarray
    first_lengths: np.ndarray
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Wordpieces per example, specials included: int64 [n]."""
        return np.diff(self.offsets)

    def lengths_of(self, indices: np.ndarray) -> np.ndarray:
        """Wordpieces of the examples `indices`: int64 [batch]."""
        return self.offsets[indices + 1] - self.offsets[indices]

    def batch(self, indices: np.ndarray, length: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """input_ids, token_type_ids, attention_mask of the examples `indices`: int64 [batch, length].

        Padded with 0 to `length`, or to the longest of the batch. Raises ValueError where `length` is too small.
        """
        starts = self.offsets[indices]
        lengths = self.offsets[indices + 1] - starts
        longest = int(lengths.max())
        length = longest if length is None else length
        if longest > length:
            raise ValueError(f"an example of {longest} wordpieces does not fit into {length}")
        tokens = self.tokens
        if starts.max() + length <= len(tokens):  # cut whole windows of `length`, with what follows the examples
            windows = np.ndarray((len(tokens) - length + 1, length), tokens.dtype, tokens, strides=2 * tokens.strides)
            input_ids = windows[starts].astype(np.int64)
        else:
            input_ids = tokens.take(starts[:, None] + np.arange(length), mode="clip").astype(np.int64)
        leading_ones = _leading_ones(length)
        mask = leading_ones.take(lengths, axis=0)
        input_ids *= mask
        segments = mask - leading_ones.take(self.first_lengths[indices], axis=0)
        return torch.from_numpy(input_ids), torch.from_numpy(segments), torch.from_numpy(mask)


@functools.lru_cache(maxsize=4)
def _leading_ones(length: int) -> np.ndarray:
    """int64 [length + 1, length]: row k is k ones, then zeros. Copying rows of it is faster than comparing."""
    return np.tri(length + 1, length, -1, dtype=np.int64)


def truncate_pair(first: list[int], second: list[int], room: int) -> None:
    """Shorten the longer of two lists from its end, one token at a time, until both fit into `room` (in place)."""
    while len(first) + len(second) > room:
        (first if len(first) > len(second) else second).pop()


def encode(texts: Iterable[tuple[list[str], float]], tokenizer: BertTokenizer, max_seq_length: int) -> Sequences:
    """Encode (texts, label) pairs, one or two texts each, to at most max_seq_length wordpieces, specials included."""
    cls, sep = tokenizer.vocab["[CLS]"], tokenizer.vocab["[SEP]"]
    tokens = array(tokenizer.id_typecode)
    offsets, first_lengths, labels = array("q", [0]), array("i"), array("f")
    for pair, label in texts:
        first, *rest = (tokenizer.encode(text) for text in pair)
        second = rest[0] if rest else []
        truncate_pair(first, second, max_seq_length - (3 if rest else 2))
        tokens.extend([cls, *first, sep])
        if rest:
            tokens.extend([*second, sep])
        first_lengths.append(len(first) + 2)
        offsets.append(len(tokens))
        labels.append(label)
    return Sequences(np.asarray(tokens), np.asarray(offsets), np.asarray(first_lengths), np.asarray(labels))


def encode_file(task: Task, path: str | Path, tokenizer: BertTokenizer, max_seq_length: int,
                cache_dir: str | Path | None = None) -> Sequences:
    """Encode a labelled TSV file of a task. Raises InputError as glue.read_rows() and parse_label() do.

    cache_dir: folder where the arrays are kept, under a name made of everything that determines them.
    """
    if cache_dir is not None and Path(path).is_file():  # a missing file is read_rows()'s to refuse
        facts = f"1 {task} {sha256_of(path)} {tokenizer.vocab_fingerprint} {tokenizer.do_lower_case} {max_seq_length}"
        cached = Path(cache_dir) / f"{task.key}_{hashlib.sha256(facts.encode()).hexdigest()[:24]}.npz"
        with contextlib.suppress(FileNotFoundError, ValueError, zipfile.BadZipFile):  # made again where it is damaged
            with np.load(cached) as arrays:
                return Sequences(**arrays)
    sequences = encode((([columns[c] for c in task.text_columns], parse_label(task, columns, f"{path}, line {number}"))
                        for number, columns in read_rows(task, path)), tokenizer, max_seq_length)
    if cache_dir is not None:
        with atomic_write(cached, "wb") as handle:
            np.savez(handle, **vars(sequences))
    return sequences


def show(sequences: Sequences, tokenizer: BertTokenizer, count: int = 2) -> None:
    """Print the first examples as wordpieces, segment lengths and label, for a person to look at."""
    for index in range(min(count, len(sequences))):
        ids = sequences.tokens[sequences.offsets[index]:sequences.offsets[index + 1]]
        label = "" if sequences.labels is None else f"  label {sequences.labels[index]:g}"
        print(f"example {index}: {' '.join(tokenizer.ids_to_tokens[int(i)] for i in ids)}  "
              f"(segment 0: {sequences.first_lengths[index]} of {len(ids)}){label}", flush=True)
