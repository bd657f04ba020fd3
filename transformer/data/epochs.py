"""Epochs of pre-training instances as integer arrays, which are mapped.

An epoch is a folder epoch_K.instances, which holds the arrays, or the published epoch_K.json, which is turned into
arrays once. Those lie beside the JSON in epoch_K.arrays, in a folder whose name tells what they were made from. Arrays
of another JSON are so never written over while a running process maps them. No torch here: workers import this module.
"""
from __future__ import annotations

import json
import os
import shutil
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transformer.data.arrays import (
    append_examples,
    convert_lines,
    finish_arrays,
    open_arrays,
    read_manifest,
    summary_of_examples,
)
from transformer.data.features import Sequences
from transformer.data.parts import FilePart, GrowingFiles, Place, decode_lines, read_range
from transformer.files import InputError, delete, read_json
from transformer.pieces import Tokenizer
from transformer.stopwatch import STOPWATCH

EPOCH_ARRAYS = ("tokens", "offsets", "first_lengths")  # of an epoch; tokens are of the tokenizer's id_typecode
_EPOCH_FORMAT = 2            # of the arrays; another number makes them anew
_JSON_PART_BYTES = 1 << 24   # of an epoch_K.json, a worker's task

_vocab: dict[str, int]  # of a worker, with the type code of its ids
_typecode: str


def epoch_files(folder: str | Path, epochs: int) -> list[tuple[Path, Path]]:
    """(epoch_K.instances or epoch_K.json, epoch_K_metrics.json) for each training epoch, looping over what is there,
    with a warning.

    Raises InputError where there is none.
    """
    files: list[tuple[Path, Path]] = []
    while epoch := _instances_of(Path(folder) / f"epoch_{len(files)}"):
        files.append((epoch, epoch.with_name(f"{epoch.stem}_metrics.json")))
    if not files:
        raise InputError(f"{folder} holds no epoch_0.json, and no epoch_0.instances: make them with "
                         "pregenerate_training_data.py")
    if len(files) < epochs:
        print(f"warning: {epochs} epochs asked for, {folder} holds {len(files)}: going over them again", flush=True)
    return [files[epoch % len(files)] for epoch in range(epochs)]


def _instances_of(epoch: Path) -> Path | None:
    """epoch_K.instances, which is said where epoch_K.json is there as well, or that, or nothing."""
    folder, epoch_json = epoch.with_suffix(".instances"), epoch.with_suffix(".json")
    is_there = os.path.lexists(folder)  # a file in its place, or a link to nothing, is refused by its own name
    if is_there and epoch_json.is_file():
        print(f"{epoch.parent} holds both {folder.name} and {epoch_json.name}: taking {folder.name}", flush=True)
    return folder if is_there else epoch_json if epoch_json.is_file() else None


def examples_in(metrics_json: str | Path, max_seq_length: int, lower_case: bool) -> int:
    """Number of sequences that an epoch_K_metrics.json tells; InputError where they are longer, or cased otherwise."""
    metrics = read_epoch_metrics(metrics_json)
    if metrics.get("do_lower_case", lower_case) != lower_case:
        data, model = ("cased", "uncased") if lower_case else ("lower-cased", "cased")
        raise InputError(f"{metrics_json}: the data are {data} and the teacher is {model}: generate the data again "
                         "with --bert_model set to this teacher")
    longest = metrics.get("max_seq_len")
    if not isinstance(longest, int):
        raise InputError(f"{metrics_json} has no max_seq_len: generate the data again")
    if longest > max_seq_length:
        raise InputError(f"{metrics_json}: the data have up to {longest} wordpieces, more than "
                         f"--max_seq_length {max_seq_length}: set it to {longest}")
    return metrics["num_training_examples"]


def read_epoch_metrics(path: str | Path) -> dict[str, Any]:
    """What an epoch_K_metrics.json holds; InputError where that is no number of sequences."""
    metrics = read_json(path)
    if not isinstance(metrics.get("num_training_examples"), int):
        raise InputError(f"{path} has no num_training_examples: generate the data again")
    return metrics


def append_instances(files: GrowingFiles, part: Sequences, counts: dict[str, int]) -> None:
    """Append a part to the EPOCH_ARRAYS of an epoch that is being made; counts: what to remember of it."""
    append_examples(files, part.tokens.itemsize, part.tokens.tobytes(), part.lengths, [part.first_lengths.tobytes()],
                    **counts)


def finish_instances(files: GrowingFiles, folder: Path, vocab_sha256: str) -> None:
    """Make `folder`, an epoch_K.instances for open_epoch(), of the parts of a whole epoch."""
    finish_arrays(files, _facts(vocab_sha256), summary_of_examples(files))
    delete(folder)  # one that is not whole
    os.replace(files.folder, folder)


def read_instances_manifest(folder: Path) -> dict[str, Any] | None:
    """What is recorded of an epoch_K.instances; None where it is not whole."""
    manifest = read_manifest(folder, EPOCH_ARRAYS)
    told = manifest and all(isinstance(manifest.get(name), int) for name in ("examples", "longest"))
    return manifest if told else None


@STOPWATCH.part("encode")
def open_epoch(epoch: str | Path, metrics_json: str | Path, tokenizer: Tokenizer, max_seq_length: int,
               fallback: str | Path | None = None, in_memory: bool = False, num_workers: int | None = None,
               part_bytes: int = _JSON_PART_BYTES) -> Sequences:
    """The instances of one epoch (epoch_K.instances or epoch_K.json, epoch_K_metrics.json) as memory-mapped arrays,
    without labels.

    The first call converts JSON, with num_workers processes (one for each core by default) that take part_bytes
    of it at a time; a killed conversion goes on where it was, and a process that comes meanwhile waits for it. Later
    calls read nothing of the JSON while its size, its time of change and the vocabulary stay the same.

    fallback: folder for the arrays where that of the JSON cannot be written; in_memory: read the arrays instead of
    mapping them. Raises InputError when a file is missing or damaged, the number of instances is not that of the
    metrics, a token is not in the vocabulary, the recorded vocabulary is another one, or a sequence is longer than
    max_seq_length.
    """
    epoch = Path(epoch)
    metrics = read_epoch_metrics(metrics_json)
    require_vocabulary(epoch, metrics, tokenizer)
    if not epoch.exists() and not _is_arrays(epoch):
        raise InputError(f"{epoch} does not exist: pregenerate_training_data.py makes it")
    if _is_arrays(epoch):
        arrays, manifest = _open_instances(epoch, tokenizer, in_memory)
    else:
        arrays, manifest = _convert_json(epoch, tokenizer, fallback, in_memory, num_workers, part_bytes)
    if manifest["examples"] != metrics["num_training_examples"]:
        raise InputError(f"{epoch} holds {manifest['examples']} instances, {metrics_json} says "
                         f"{metrics['num_training_examples']}: it may be cut short, generate it again")
    if not manifest["examples"]:
        raise InputError(f"{epoch} holds no instances: generate it again")
    sequences = Sequences(**arrays)
    if manifest["longest"] > max_seq_length:
        number = int(np.argmax(sequences.lengths > max_seq_length))
        raise InputError(f"{epoch}, {'instance' if _is_arrays(epoch) else 'line'} {number + 1}: "
                         f"{sequences.lengths[number]} wordpieces, more than --max_seq_length {max_seq_length}; the "
                         f"data was generated with --max_seq_len {metrics.get('max_seq_len', 'unknown')}: set "
                         "--max_seq_length to that")
    return sequences


def require_vocabulary(epoch: Path, metrics: dict[str, Any], tokenizer: Tokenizer) -> None:
    """InputError where the metrics of an epoch say that it has another vocabulary than a tokenizer."""
    if metrics.get("vocab_sha256", tokenizer.vocab_fingerprint) != tokenizer.vocab_fingerprint:
        raise InputError(f"{epoch} was generated with another vocabulary than {tokenizer.vocab_file}: "
                         "generate it again with --bert_model set to this model, or use the model it was made with")


def _facts(vocab_sha256: str) -> dict[str, Any]:
    return {"format": _EPOCH_FORMAT, "vocab_sha256": vocab_sha256}


def _types(tokenizer: Tokenizer) -> dict[str, str]:
    return dict(zip(EPOCH_ARRAYS, (tokenizer.id_typecode, "q", "i"), strict=True))


def _is_arrays(epoch: Path) -> bool:
    return epoch.suffix == ".instances"


def _manifest_of(folder: Path) -> dict[str, Any]:
    """read_instances_manifest(); InputError where the epoch is not whole."""
    manifest = read_instances_manifest(folder)
    if manifest is None:
        raise InputError(f"{folder} is not whole: copy it again, or start pregenerate_training_data.py again, which "
                         "makes what is missing")
    return manifest


def _open_instances(folder: Path, tokenizer: Tokenizer, in_memory: bool,
                    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of an epoch_K.instances, and its manifest."""
    manifest = _manifest_of(folder)
    if manifest["facts"] != _facts(tokenizer.vocab_fingerprint):
        raise InputError(f"{folder} was generated with another vocabulary than {tokenizer.vocab_file}, or by another "
                         "version: generate it again with --bert_model set to this model")
    return open_arrays([folder], _types(tokenizer), manifest["facts"], in_memory)


def _convert_json(epoch_json: Path, tokenizer: Tokenizer, fallback: str | Path | None, in_memory: bool,
                  num_workers: int | None, part_bytes: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of an epoch_K.json, made where they are not there yet, and their manifest."""
    status = epoch_json.stat()
    facts = {**_facts(tokenizer.vocab_fingerprint), "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    this_json = f"{_EPOCH_FORMAT}-{status.st_size}-{status.st_mtime_ns}-"
    folders = [Path(parent) / f"{epoch_json.stem}.arrays" for parent in (epoch_json.parent, fallback) if parent]
    for made_before in (path for folder in folders for path in folder.glob("*")):
        if not made_before.name.startswith(this_json):  # from a JSON that is no more; who maps it can go on
            shutil.rmtree(made_before, ignore_errors=True)
    return convert_lines(
        {epoch_json: status}, [folder / f"{this_json}{tokenizer.vocab_fingerprint:.16}" for folder in folders],
        _types(tokenizer), facts, _parse_instances, _start_parsing, (tokenizer.vocab, tokenizer.id_typecode),
        part_bytes, num_workers, in_memory)


class Epochs:
    """The instances of a run, epoch by epoch: epochs[k] opens those of the k-th training epoch, as open_epoch() does.

    Attributes: files, those of each epoch (see epoch_files()); counts, how many instances each has. Raises InputError
    as examples_in() does.
    """

    def __init__(self, files: Sequence[tuple[Path, Path]], tokenizer: Tokenizer, max_seq_length: int,
                 fallback: str | Path | None = None, in_memory: bool = False):
        self.files = files
        self.tokenizer = tokenizer
        self.max_seq_length = max_seq_length
        self.fallback = fallback
        self.in_memory = in_memory
        self.counts = [examples_in(metrics, max_seq_length, tokenizer.do_lower_case) for _, metrics in files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, epoch: int) -> Sequences:
        return open_epoch(*self.files[epoch], self.tokenizer, self.max_seq_length, self.fallback,
                          in_memory=self.in_memory)

    @property
    def data_bytes(self) -> list[int]:
        """Bytes of the instances of each epoch: tells runs on other data apart."""
        return [sum(_manifest_of(epoch)["sizes"]) if _is_arrays(epoch) else epoch.stat().st_size
                for epoch, _ in self.files]

    def check(self, first: int = 0) -> Iterator[Sequences]:
        """Make the arrays of all epochs from `first` on, which finds what is wrong with one before days are spent.

        Gives the instances of each as soon as they are made, memory-mapped; those of one file once.
        """
        for files in dict.fromkeys(self.files[first:]):
            yield open_epoch(*files, self.tokenizer, self.max_seq_length, self.fallback)


def _start_parsing(vocab: dict[str, int], typecode: str) -> None:
    global _vocab, _typecode
    _vocab, _typecode = vocab, typecode


def _parse_instances(file_part: FilePart) -> tuple[bytes, array, list[bytes], dict[str, int]]:
    """Token ids of the lines in a range of bytes, end to end; the wordpieces of each; those of its segment 0; nothing
    else is counted."""
    path, start, stop = file_part
    tokens, lengths, first_lengths = array(_typecode), array("i"), array("i")
    content = read_range(path, start, stop)
    lines = decode_lines(path, start, content)
    for index, line in enumerate(lines):
        try:
            instance = json.loads(line)
            wordpieces, segments = instance["tokens"], instance["segment_ids"]
            first_length = segments.count(0)
            if not wordpieces or segments != [0] * first_length + [1] * (len(wordpieces) - first_length):
                raise ValueError
            unknown = None
            try:
                tokens.fromlist(list(map(_vocab.__getitem__, wordpieces)))
            except KeyError as error:
                unknown = repr(error.args[0])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            if index == len(lines) - 1 and not content.endswith(b"\n"):
                raise InputError(f"{Place(path, start, index)}: cut short: the run that wrote this file was killed, or "
                                 "it was not copied whole; copy or generate it again") from None
            raise InputError(f"{Place(path, start, index)}: not an instance (a JSON object with "
                             "tokens and segment_ids of the same length, zeros before ones); generate the data "
                             "again") from None
        if unknown:
            raise InputError(f"{Place(path, start, index)}: token {unknown} is not in the "
                             "vocabulary; generate the data again with --bert_model set to this model")
        lengths.append(len(wordpieces))
        first_lengths.append(first_length)
    return tokens.tobytes(), lengths, [first_lengths.tobytes()], {}
