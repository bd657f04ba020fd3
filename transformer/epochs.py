"""Epochs of pre-training instances: each epoch_K.json is turned into integer arrays once, then only mapped.

The arrays lie beside the JSON in epoch_K.arrays, in a folder whose name tells what they were made from. Arrays of
another JSON are so never written over while a running process maps them. No torch here: workers import this module.
"""
from __future__ import annotations

import contextlib
import json
import os
import shutil
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from transformer.files import InputError, read_json, write_json
from transformer.parallel import available_cores, in_order
from transformer.parts import GrowingFiles, byte_ranges, decode_lines, line_number, read_range
from transformer.tokenization import BertTokenizer

if TYPE_CHECKING:
    from transformer.features import Sequences

_FORMAT = 1  # of the arrays; another number makes them anew
_PART_BYTES = 1 << 24
_NAMES = ("tokens", "offsets", "first_lengths")

_vocab: dict[str, int]  # of a worker, with the type code of its ids
_typecode: str


def open_epoch(epoch_json: str | Path, metrics_json: str | Path, tokenizer: BertTokenizer, max_seq_length: int,
               fallback: str | Path | None = None, in_memory: bool = False, num_workers: int | None = None,
               part_bytes: int = _PART_BYTES) -> Sequences:
    """The instances of one epoch (epoch_K.json, epoch_K_metrics.json) as memory-mapped arrays, without labels.

    The first call converts the JSON, with num_workers processes (one for each core by default) that take part_bytes
    of it at a time; a killed conversion goes on where it was, and a process that comes meanwhile waits for it. Later
    calls read nothing of the JSON while its size, its time of change and the vocabulary stay the same.

    fallback: folder for the arrays where that of the JSON cannot be written; in_memory: read the arrays instead of
    mapping them. Raises InputError when a file is missing or damaged, the number of instances is not that of the
    metrics, a token is not in the vocabulary, the recorded vocabulary is another one, or a sequence is longer than
    max_seq_length.
    """
    epoch_json = Path(epoch_json)
    metrics = read_json(metrics_json)
    if not isinstance(metrics, dict) or not isinstance(metrics.get("num_training_examples"), int):
        raise InputError(f"{metrics_json} has no num_training_examples: generate the data again")
    if metrics.get("vocab_sha256", tokenizer.vocab_fingerprint) != tokenizer.vocab_fingerprint:
        raise InputError(f"{epoch_json} was generated with another vocabulary than this model's vocab.txt: generate "
                         "the data again with --bert_model set to this model, or use the model it was made with")
    if not epoch_json.is_file():
        raise InputError(f"{epoch_json} does not exist: pregenerate_training_data.py makes it")

    facts = _facts(epoch_json, tokenizer)
    name = "{format}-{size}-{mtime_ns}-{vocab_sha256:.16}".format(**facts)
    places = [Path(parent) / f"{epoch_json.stem}.arrays" / name for parent in (epoch_json.parent, fallback) if parent]
    folder = next((place for place in places if _manifest(place, facts)), None)
    if folder is None:
        folder = _first_writable(places)
        _convert(epoch_json, folder, facts, tokenizer, num_workers or available_cores(), part_bytes)
    manifest = _manifest(folder, facts)
    if manifest is None or facts != _facts(epoch_json, tokenizer):
        raise InputError(f"{epoch_json} changed while it was read: start again when it is complete")

    from transformer.features import Sequences  # loads torch

    def load(name: str, typecode: str) -> np.ndarray:
        # Plain arrays over the mapped pages: np.memmap's own indexing takes microseconds more.
        path = folder / name
        return np.fromfile(path, typecode) if in_memory else np.asarray(np.memmap(path, typecode, mode="r"))

    if manifest["instances"] != metrics["num_training_examples"]:
        raise InputError(f"{epoch_json} holds {manifest['instances']} instances, {metrics_json} says "
                         f"{metrics['num_training_examples']}: it may be cut short, generate it again")
    if not manifest["instances"]:
        raise InputError(f"{epoch_json} holds no instances: generate it again")
    sequences = Sequences(load("tokens", tokenizer.id_typecode), load("offsets", "q"), load("first_lengths", "i"))
    if manifest["longest"] > max_seq_length:
        line = int(np.argmax(sequences.lengths > max_seq_length))
        raise InputError(f"{epoch_json}, line {line + 1}: {sequences.lengths[line]} wordpieces, more than "
                         f"--max_seq_length {max_seq_length}; the data was generated with --max_seq_len "
                         f"{metrics.get('max_seq_len', 'unknown')}: set --max_seq_length to that")
    return sequences


def _facts(epoch_json: Path, tokenizer: BertTokenizer) -> dict[str, Any]:
    """What the arrays follow from."""
    status = epoch_json.stat()
    return {"format": _FORMAT, "size": status.st_size, "mtime_ns": status.st_mtime_ns,
            "vocab_sha256": tokenizer.vocab_fingerprint}


def _manifest(folder: Path, facts: dict[str, Any]) -> dict[str, Any] | None:
    """What is recorded of the finished arrays in `folder`; None where they are not whole or of other facts."""
    try:
        manifest = read_json(folder / "manifest.json")
        whole = manifest["facts"] == facts and \
            manifest["sizes"] == [(folder / name).stat().st_size for name in _NAMES]
    except (InputError, OSError, KeyError, TypeError):
        return None
    return manifest if whole else None


def _first_writable(places: list[Path]) -> Path:
    for place in places:
        with contextlib.suppress(OSError):
            place.mkdir(parents=True, exist_ok=True)
            if os.access(place, os.W_OK):
                if place != places[0]:
                    print(f"the arrays go to {place.parent}", flush=True)
                return place
        print(f"{place.parent} cannot be written", flush=True)
    raise InputError(f"no place for the arrays of the data: make {places[-1].parent} writable")


def _convert(epoch_json: Path, folder: Path, facts: dict[str, Any], tokenizer: BertTokenizer, num_workers: int,
             part_bytes: int) -> None:
    """Write the arrays of the JSON and, last, manifest.json into `folder`."""
    this_json = folder.name.rpartition("-")[0] + "-"
    for other in folder.parent.iterdir():
        if not other.name.startswith(this_json):  # made from a JSON that is no more; who maps it can go on
            shutil.rmtree(other, ignore_errors=True)
    with _lock(folder, {**facts, "part_bytes": part_bytes}) as arrays:
        if _manifest(folder, facts):
            return  # while this process waited
        ranges = byte_ranges(epoch_json, part_bytes)
        left = ranges[len(arrays.records):]
        parts = in_order(_parse_part, ((epoch_json, *part) for part in left), max(1, min(num_workers, len(left))),
                         _start_worker, (tokenizer.vocab, tokenizer.id_typecode))
        with contextlib.closing(parts), tqdm(desc=f"{epoch_json.name} to arrays", total=facts["size"], unit="B",
                                             initial=facts["size"] - sum(stop - start for start, stop in left),
                                             unit_scale=True, disable=None) as progress:
            for (start, stop), (tokens, lengths, first_lengths) in zip(left, parts):
                ends = np.cumsum(lengths, dtype=np.int64) + arrays.sizes[0] // array(tokenizer.id_typecode).itemsize
                offsets = ends if start else np.concatenate(([0], ends))
                arrays.append((tokens, offsets.tobytes(), first_lengths), instances=len(lengths),
                              longest=max(lengths, default=0))
                progress.update(stop - start)
        arrays.save()
        write_json(folder / "manifest.json", {
            "facts": facts, "sizes": arrays.sizes,
            "instances": sum(record["instances"] for record in arrays.records),
            "longest": max((record["longest"] for record in arrays.records), default=0)})


def _lock(folder: Path, facts: dict[str, Any]) -> GrowingFiles:
    try:
        return GrowingFiles(folder, _NAMES, facts)
    except InputError:
        print(f"another process makes {folder.parent}: waiting for it", flush=True)
        return GrowingFiles(folder, _NAMES, facts, wait=True)


def _start_worker(vocab: dict[str, int], typecode: str) -> None:
    global _vocab, _typecode
    _vocab, _typecode = vocab, typecode


def _parse_part(part: tuple[Path, int, int]) -> tuple[bytes, array, bytes]:
    """Token ids of the lines in a range of bytes, end to end; the wordpieces of each; those of its segment 0."""
    path, start, stop = part
    tokens, lengths, first_lengths = array(_typecode), array("i"), array("i")
    for index, line in enumerate(decode_lines(path, start, read_range(path, start, stop))):
        try:
            instance = json.loads(line)
            pieces, segments = instance["tokens"], instance["segment_ids"]
            first_length = segments.count(0)
            if not pieces or segments != [0] * first_length + [1] * (len(pieces) - first_length):
                raise ValueError
            unknown = None
            try:
                tokens.fromlist(list(map(_vocab.__getitem__, pieces)))
            except KeyError as error:
                unknown = repr(error.args[0])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(f"{path}, line {line_number(path, start) + index}: not an instance (a JSON object with "
                             "tokens and segment_ids of the same length, zeros before ones); it may be cut short, "
                             "generate the data again") from None
        if unknown:
            raise InputError(f"{path}, line {line_number(path, start) + index}: token {unknown} is not in the "
                             "vocabulary; generate the data again with --bert_model set to this model")
        lengths.append(len(pieces))
        first_lengths.append(first_length)
    return tokens.tobytes(), lengths, first_lengths.tobytes()
