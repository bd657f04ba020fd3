"""From texts to compact integer arrays on disk, and from those to padded batches.

torch is loaded by the first batch: workers that only tokenize can do without.
"""
from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from transformer.data.arrays import convert_lines, key_of
from transformer.data.parts import FilePart
from transformer.data.tables import report_rows, row_width, rows_of_part
from transformer.files import sha256_of
from transformer.pieces import Tokenizer, fitting_lengths
from transformer.stopwatch import STOPWATCH
from transformer.tasks.task import Task

if TYPE_CHECKING:
    from torch import Tensor

_FORMAT = 2  # of the arrays; another number makes them anew
_PART_BYTES = 1 << 20
_CLS, _SEP = -1, -2  # in the layout of an example, beside the numbers of its texts

_worker_facts: tuple  # of a worker: {file: (task as it is laid out, columns of a row)}, tokenizer, longest sequence


@dataclass
class Sequences:
    """Examples end to end in flat arrays: a few bytes per wordpiece, no Python object per example.

    tokens: uint16 or int32 [pieces], `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]` of every example;
    offsets: int64 [n + 1], where each example begins; first_lengths: int32 [n], the length of its segment 0;
    labels: [n, *head.label_shape] of head.label_type, such as float32 [n], class numbers or scores, or None;
    key: what the arrays were made from, as a file name.
    """
    tokens: np.ndarray
    offsets: np.ndarray
    first_lengths: np.ndarray
    labels: np.ndarray | None = None
    key: str | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Wordpieces per example, specials included: int64 [n]."""
        return np.diff(self.offsets)

    def count(self) -> int:
        """Examples of the file, each with one answer."""
        return len(self)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        arrays = self.tokens, self.offsets, self.first_lengths, self.labels
        return sum(array.nbytes for array in arrays if array is not None)

    def lengths_of(self, indices: np.ndarray) -> np.ndarray:
        """Wordpieces of the examples `indices`: int64 [batch]."""
        return self.offsets[indices + 1] - self.offsets[indices]

    def batch(self, indices: np.ndarray, length: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """input_ids, token_type_ids, attention_mask of the examples `indices`: int64 [batch, length].

        Padded with 0 to `length`, or to the longest of the batch. Raises ValueError where `length` is too small.
        """
        import torch
        cut, lengths = self._cut(indices, length)
        input_ids = cut.astype(np.int64)
        leading_ones = _leading_ones(cut.shape[1])
        mask = leading_ones.take(lengths, axis=0)
        input_ids *= mask
        segments = mask - leading_ones.take(self.first_lengths[indices], axis=0)
        return torch.from_numpy(input_ids), torch.from_numpy(segments), torch.from_numpy(mask)

    def packed(self, indices: np.ndarray, length: int | None = None) -> Tensor:
        """All that batch() follows from, in one small tensor for unpack() on a GPU: int16 or int32 [batch, length + 2].

        Of each example the ids, unsigned, with anything as padding, then its length, then that of its segment 0. Raises
        ValueError as batch() does.
        """
        import torch
        cut, lengths = self._cut(indices, length)
        numbers = np.column_stack([cut, lengths, self.first_lengths[indices]]).astype(cut.dtype)
        return torch.from_numpy(numbers.view(f"i{numbers.itemsize}"))

    def _cut(self, indices: np.ndarray, length: int | None) -> tuple[np.ndarray, np.ndarray]:
        """The ids of examples and whatever follows them, [batch, length] of the tokens' dtype, and their lengths."""
        starts = self.offsets[indices]
        lengths = self.offsets[indices + 1] - starts
        longest = int(lengths.max())
        length = longest if length is None else length
        if longest > length:
            raise ValueError(f"an example of {longest} wordpieces does not fit into {length}")
        tokens = self.tokens
        if starts.max() + length <= len(tokens):  # cut whole windows
            windows = np.ndarray((len(tokens) - length + 1, length), tokens.dtype, tokens, strides=2 * tokens.strides)
            return windows[starts], lengths
        return tokens.take(starts[:, None] + np.arange(length), mode="clip"), lengths


@functools.lru_cache(maxsize=4)
def _leading_ones(length: int) -> np.ndarray:
    """int64 [length + 1, length]: row k is k ones, then zeros. Copying rows of it is faster than comparing."""
    return np.tri(length + 1, length, -1, dtype=np.int64)


def unpack(packed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """input_ids, token_type_ids, attention_mask, int64 [batch, length], of what Sequences.packed() made; on the device
    where that is, without waiting for it."""
    import torch
    numbers = packed.to(torch.int64)
    if packed.dtype == torch.int16:
        numbers &= 0xFFFF
    ids, length, first_length = numbers[:, :-2], numbers[:, -2:-1], numbers[:, -1:]
    places = torch.arange(ids.size(1), device=ids.device)
    mask = (places < length).long()
    return ids * mask, (places >= first_length) * mask, mask


def encode(columns: Sequence[list[str]], labels: Sequence, tokenizer: Tokenizer, max_seq_length: int,
           label_type: str = "f") -> Sequences:
    """Encode one column of texts, or two, to examples of at most max_seq_length wordpieces, specials included.

    label_type: type code of the numbers in `labels`.
    """
    ids, lengths = zip(*map(tokenizer.encode_texts, columns))
    if len(columns) == 1:
        layout, kept = (_CLS, 0, _SEP), [np.minimum(lengths[0], max_seq_length - 2)]
    else:
        layout, kept = (_CLS, 0, _SEP, 1, _SEP), np.stack(lengths)
        for pair in np.flatnonzero(kept.sum(axis=0) > max_seq_length - 3):
            kept[:, pair] = fitting_lengths(*kept[:, pair], max_seq_length - 3)
    counts = np.ones((len(labels), len(layout)), np.int64)
    counts[:, 1::2] = np.stack(kept, axis=1)
    what = np.repeat(np.tile(np.array(layout, np.int8), len(labels)), counts.ravel())  # stands at each place
    tokens = np.where(what == _CLS, tokenizer.cls_id, tokenizer.sep_id).astype(tokenizer.id_typecode)
    for column in range(len(columns)):
        within = np.arange(len(ids[column])) - np.repeat(np.cumsum(lengths[column]) - lengths[column], lengths[column])
        tokens[what == column] = ids[column][within < np.repeat(kept[column], lengths[column])]
    return Sequences(tokens, np.append(0, np.cumsum(counts.sum(axis=1))), (kept[0] + 2).astype(np.int32),
                     np.asarray(labels, label_type))


@STOPWATCH.part("encode")
def encode_file(task: Task, path: str | Path, tokenizer: Tokenizer, max_seq_length: int,
                cache_dir: str | Path | None = None, fallback: str | Path | None = None,
                num_workers: int | None = None, part_bytes: int = _PART_BYTES,
                unlabelled: str | Path | None = None) -> Sequences:
    """Encode a TSV file of a task; after its examples come those of `unlabelled`, a file of texts alone, whose labels
    are NaN.

    cache_dir: folder for the arrays, in a folder of their own whose name tells what they were made from; they are
    mapped, and found again by the next call. fallback: another one where that cannot be written. Without cache_dir
    the arrays stay in memory. num_workers processes (one for each core by default) share parts of about part_bytes;
    a killed run goes on where it was, and a process that comes meanwhile waits. Raises InputError as
    tables.row_width() and rows_of_part() do, and where there are no examples.
    """
    tasks = {Path(path): task} | ({Path(unlabelled): task.texts_alone} if unlabelled else {})
    layouts = {file: (layout, row_width(layout, file)) for file, layout in tasks.items()}
    sources = {file: file.stat() for file in layouts}
    facts = {"format": _FORMAT, "task": task.key_text, "sha256": sha256_of(path),
             **tokenizer.facts, "max_seq_length": max_seq_length,
             **({"unlabelled": sha256_of(unlabelled)} if unlabelled else {})}
    key = f"{task.key}_{key_of(facts)}"
    with tempfile.TemporaryDirectory() if cache_dir is None else contextlib.nullcontext(cache_dir) as folder:
        arrays, manifest = convert_lines(
            sources, [Path(place) / key for place in (folder, fallback) if place],
            {"tokens": tokenizer.id_typecode, "offsets": "q", "first_lengths": "i", "labels": task.head.label_type},
            facts, _encode_part, _start_worker, (layouts, tokenizer, max_seq_length), part_bytes,
            num_workers, in_memory=cache_dir is None)
    arrays["labels"] = arrays["labels"].reshape(-1, *task.head.label_shape)
    report_rows(str(path), manifest["examples"], manifest.get("skipped", 0), layouts[Path(path)][1])
    return Sequences(**arrays, key=key)


def _start_worker(*facts: Any) -> None:
    global _worker_facts
    _worker_facts = facts


def _encode_part(part: FilePart) -> tuple[bytes, np.ndarray, list[bytes], dict[str, int]]:
    """The examples in a range of bytes, as arrays.convert_parts() wants them."""
    layouts, tokenizer, max_seq_length = _worker_facts
    task, width = layouts[part[0]]
    texts: list[list[str]] = [[] for _ in task.text_columns]
    labels, skipped = [], 0
    for columns, label in rows_of_part(task, part, width):
        if columns is None:
            skipped += 1
            continue
        for column, texts_of_column in zip(task.text_columns, texts):
            texts_of_column.append(columns[column])
        labels.append(label)
    sequences = encode(texts, labels, tokenizer, max_seq_length, task.head.label_type)
    return (sequences.tokens.tobytes(), sequences.lengths,
            [sequences.first_lengths.tobytes(), sequences.labels.tobytes()], {"skipped": skipped})


def show_examples(sequences: Sequences, tokenizer: Tokenizer, count: int = 2) -> None:
    """Print the first examples as wordpieces, segment lengths and label, for a person to look at."""
    for index in range(min(count, len(sequences))):
        ids = sequences.tokens[sequences.offsets[index]:sequences.offsets[index + 1]]
        label = "" if sequences.labels is None else \
            "  label " + " ".join(f"{number:g}" for number in np.atleast_1d(sequences.labels[index]))
        print(f"example {index}: {' '.join(tokenizer.ids_to_tokens[int(i)] for i in ids)}  "
              f"(segment 0: {sequences.first_lengths[index]} of {len(ids)}){label}", flush=True)
