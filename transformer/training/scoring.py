"""What a classifier says about examples: logits and scores, computed once where they do not change."""
from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from transformer.checkpoint import model_sha256
from transformer.data.arrays import open_arrays
from transformer.data.features import Sequences
from transformer.data.parts import GrowingFiles
from transformer.files import InputError
from transformer.tasks.metrics import compute_metrics
from transformer.tasks.task import Task
from transformer.training.processes import Processes


@torch.no_grad()
def predict(model: nn.Module, sequences: Sequences, batch_size: int, processes: Processes,
            rows: np.ndarray | None = None) -> np.ndarray:
    """Logits [rows, classes], float32, of a sequence classifier in eval mode; its mode is put back afterwards.

    rows: numbers of the examples wanted (None: all), in whose order the logits come. Batches hold examples of similar
    length, padded to their longest: padding does not change a logit. Processes share the batches, and each gets all
    logits.
    """
    was_training = model.training
    model.eval()
    rows = np.arange(len(sequences)) if rows is None else rows
    logits = torch.zeros(len(rows), model.num_labels)
    order = np.argsort(sequences.lengths_of(rows), kind="stable")
    starts = range(0, len(order), batch_size)
    for start in starts[processes.rank::processes.world]:
        places = order[start:start + batch_size]
        logits[places] = model(*processes.send(sequences.batch(rows[places])), attention_scores=())[0].float().cpu()
    model.train(was_training)
    return processes.total(logits).numpy()  # exact: all processes but one have 0 for a row


def cached_logits(model: nn.Module, sequences: Sequences, batch_size: int, processes: Processes,
                  cache_dir: str | Path, fallback: str | Path | None = None, block: int = 1 << 16) -> np.ndarray:
    """predict() of all rows, computed once for the same weights, config and sequences; memory-mapped, read-only.

    The logits are kept in cache_dir (in `fallback` where that cannot be written), in a folder named after what they
    follow from. They come in blocks of so many rows: a killed run goes on after the last whole one, and another run
    that comes meanwhile waits. Processes share the rows of a block. The columns are the model's own, whatever its
    id2label says. Raises ValueError for sequences without a key, which are not encode_file()'s.
    """
    if sequences.key is None:
        raise ValueError("sequences without a key: nothing tells whether logits are theirs")
    facts = {"format": 1, "model": model_sha256(model), "sequences": sequences.key, "examples": len(sequences),
             "products": torch.get_float32_matmul_precision()}
    name = f"logits_{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]}"

    places = [Path(place) / name for place in (cache_dir, fallback) if place]

    def agree_on(start: int) -> int:
        """The block that the first process is at, from its first row; -1 when all is done."""
        return int(processes.total(torch.tensor(start if processes.is_first else 0)))

    def rows_from(start: int) -> np.ndarray:
        return np.arange(start, min(start + block, len(sequences)))

    def fill(files: GrowingFiles) -> dict[str, Any]:
        left = range(len(files.records) * block, len(sequences), block)
        with tqdm(desc="logits of the teacher", unit=" examples", total=len(sequences), initial=left.start,
                  disable=None) as progress:
            for start in left:
                agree_on(start)
                files.append([predict(model, sequences, batch_size, processes, rows_from(start)).tobytes()])
                progress.update(len(rows_from(start)))
        return {}

    if not processes.is_first:
        while (start := agree_on(0)) >= 0:
            predict(model, sequences, batch_size, processes, rows_from(start))
    arrays, _ = open_arrays(places, {"logits": "f"}, facts, block, fill)
    if processes.is_first:
        agree_on(-1)
    return arrays["logits"].reshape(len(sequences), model.num_labels)


def decide(task: Task, logits: np.ndarray) -> np.ndarray:
    """Class numbers, int64 [rows], or scores, float32 [rows], of logits [rows, classes] in the task's order.

    InputError where a logit is not finite: it would pass for an answer.
    """
    broken = int((~np.isfinite(logits)).any(axis=1).sum())
    if broken:
        raise InputError(f"the model's logits are not finite for {broken} of {len(logits)} examples of {task.name}: "
                         "its weights are of no use, train it again")
    return logits[:, 0] if task.is_regression else logits.argmax(axis=1)


def evaluate(model: nn.Module, task: Task, sets: dict[str, Sequences], order: list[int], batch_size: int,
             processes: Processes) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Metrics of a classifier on the dev sets of its task, and the logits of each: float32 [rows, classes], columns in
    the task's order.

    sets: labelled sequences by name; order: the model's column for each class. The metrics of a second set carry its
    name, so that the first stays what it is. Raises InputError as decide() does.
    """
    values: dict[str, float] = {}
    logits = {}
    for name, sequences in sets.items():
        logits[name] = predict(model, sequences, batch_size, processes)[:, order]
        suffix = f"_{name.removeprefix('dev_')}" if values else ""
        metrics = compute_metrics(task, decide(task, logits[name]), sequences.labels)
        values |= {f"{metric}{suffix}": value for metric, value in metrics.items()}
    return values, logits
