"""Running a script: device, seeds, batches, predictions, and the record of how a run was made."""
from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from transformer.arrays import open_arrays
from transformer.features import Sequences
from transformer.files import InputError, read_json, write_json
from transformer.glue import Task, compute_metrics
from transformer.parts import GrowingFiles

RUN_NAME = "run.json"


def select_device(no_cuda: bool = False, local_rank: int = -1) -> torch.device:
    """The CUDA device (number local_rank where given) if there is one and no_cuda is false, else the CPU.

    Raises InputError where there is no GPU of that number.
    """
    if no_cuda or not torch.cuda.is_available():
        return torch.device("cpu")
    if not -1 <= local_rank < torch.cuda.device_count():
        raise InputError(f"--local_rank {local_rank}: this machine has GPUs 0 to {torch.cuda.device_count() - 1}")
    return torch.device("cuda", max(local_rank, 0))


def refuse_several_processes() -> None:
    """InputError under torchrun with more than one process: each would do all of the work."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("several processes (WORLD_SIZE above 1) are not supported: start one, without torchrun")


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's generators (all devices)."""
    random.seed(seed)
    np.random.seed(seed % (1 << 32))
    torch.manual_seed(seed)


def shuffled_batches(count: int, batch_size: int, seed: int, epoch: int, start: int = 0) -> Iterator[np.ndarray]:
    """Index arrays [batch_size] over a permutation of `count` examples set by (seed, epoch), from batch `start` on.

    uint32, int64 where the examples are too many for it. The incomplete last batch is dropped, as published.
    """
    order = np.arange(count, dtype=np.uint32 if count < 1 << 32 else np.int64)
    np.random.default_rng((seed, epoch)).shuffle(order)
    for begin in range(start * batch_size, count - batch_size + 1, batch_size):
        yield order[begin:begin + batch_size]


def micro_batch_size(train_batch_size: int, accumulation: int) -> int:
    """Sequences of one forward pass: train_batch_size is the total over accumulation. InputError if not whole."""
    if train_batch_size % accumulation:
        raise InputError(f"--train_batch_size {train_batch_size} is no multiple of "
                         f"--gradient_accumulation_steps {accumulation}")
    return train_batch_size // accumulation


def steps_per_epoch(count: int, train_batch_size: int, what: str) -> int:
    """Optimizer steps in one pass over `count` examples; InputError where they do not fill one batch."""
    if count < train_batch_size:
        raise InputError(f"{what} holds {count} examples, not enough for one batch of {train_batch_size}: "
                         "lower --train_batch_size")
    return count // train_batch_size


def count_steps(per_epoch: list[int], num_train_epochs: float) -> int:
    """Optimizer steps of training epochs with `per_epoch` steps each, the last one in part for 2.5 epochs.

    Raises InputError where that is none.
    """
    steps = int(sum(count * min(1.0, num_train_epochs - epoch) for epoch, count in enumerate(per_epoch)))
    if steps == 0:
        raise InputError(f"--num_train_epochs {num_train_epochs:g} is less than one step: raise it")
    return steps


def require_finished(folder: str | Path) -> None:
    """InputError where a run of this kit was stopped before it finished the model in `folder`."""
    if (Path(folder) / RUN_NAME).is_file() and not read_json(Path(folder) / RUN_NAME).get("finished"):
        raise InputError(f"{folder} is unfinished: the run that writes it was stopped ({RUN_NAME} says so); "
                         f"run it again, or delete {RUN_NAME} to take the model as it is")


def check_length(max_seq_length: int, *models: nn.Module) -> None:
    """InputError where sequences would be longer than a model's position embeddings, or hold no text."""
    positions = min(model.config.max_position_embeddings for model in models)
    if not 4 <= max_seq_length <= positions:
        raise InputError(f"--max_seq_length {max_seq_length} is not between 4 and the {positions} positions "
                         "(max_position_embeddings) of the model")


@torch.no_grad()
def predict(model: nn.Module, sequences: Sequences, batch_size: int, device: torch.device,
            rows: np.ndarray | None = None) -> np.ndarray:
    """Logits [rows, classes], float32, of a sequence classifier in eval mode; its mode is put back afterwards.

    rows: numbers of the examples wanted (None: all), in whose order the logits come. Batches hold examples of similar
    length, padded to their longest: padding does not change a logit.
    """
    was_training = model.training
    model.eval()
    rows = np.arange(len(sequences)) if rows is None else rows
    logits = np.empty((len(rows), model.num_labels), dtype=np.float32)
    order = np.argsort(sequences.offsets[rows + 1] - sequences.offsets[rows], kind="stable")
    for begin in range(0, len(order), batch_size):
        places = order[begin:begin + batch_size]
        batch = (t.to(device) for t in sequences.batch(rows[places]))
        logits[places] = model(*batch, scores=())[0].float().cpu().numpy()
    model.train(was_training)
    return logits


def cached_logits(model: nn.Module, sequences: Sequences, batch_size: int, device: torch.device,
                  cache_dir: str | Path, fallback: str | Path | None = None, block: int = 1 << 16) -> np.ndarray:
    """predict() of all rows, computed once for the same weights, config and sequences; memory-mapped, read-only.

    The logits are kept in cache_dir (in `fallback` where that cannot be written), in a folder named after what they
    follow from. They come in blocks of so many rows: a killed run goes on after the last whole one, and a process
    that comes meanwhile waits. The columns are the model's own, whatever its id2label says. Raises ValueError for
    sequences without a key, which are not encode_file()'s.
    """
    if sequences.key is None:
        raise ValueError("sequences without a key: nothing tells whether logits are theirs")
    facts = {"format": 1, "model": _model_sha256(model), "sequences": sequences.key, "examples": len(sequences)}
    name = f"logits_{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]}"

    def fill(files: GrowingFiles) -> dict[str, Any]:
        left = range(len(files.records) * block, len(sequences), block)
        with tqdm(desc="logits of the teacher", unit="row", total=len(sequences), initial=left.start,
                  disable=None) as progress:
            for start in left:
                rows = np.arange(start, min(start + block, len(sequences)))
                files.append([predict(model, sequences, batch_size, device, rows).tobytes()])
                progress.update(len(rows))
        return {}

    places = [Path(place) / name for place in (cache_dir, fallback) if place]
    arrays, _ = open_arrays(places, {"logits": "f"}, facts, block, fill)
    return arrays["logits"].reshape(len(sequences), model.num_labels)


def _model_sha256(model: nn.Module) -> str:
    """Of all that a prediction follows from: the weights, wherever they came from, and the sizes and rates."""
    config = {name: value for name, value in vars(model.config).items() if name != "extra"}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def score(model: nn.Module, task: Task, sequences: Sequences, order: list[int], batch_size: int,
          device: torch.device) -> dict[str, float]:
    """Metrics of a classifier on labelled sequences; `order` is the model's column for each class of the task."""
    logits = predict(model, sequences, batch_size, device)[:, order]
    return compute_metrics(task, logits[:, 0] if task.is_regression else logits.argmax(axis=1), sequences.labels)


def format_metrics(title: str, values: dict[str, float]) -> str:
    """A block for people: the title between asterisks, then one `name = value` a line."""
    return "\n".join([f"***** {title} *****", *(f"{name} = {value:.6g}" for name, value in values.items())])


def _commit() -> str | None:
    """Commit of the kit, with a + where files differ from it; None outside a git checkout."""
    kit = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=kit, capture_output=True, text=True, timeout=10)
        changes = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=kit, capture_output=True, text=True,
                                 timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return commit.stdout.strip() + ("+" if changes.stdout.strip() else "") if commit.returncode == 0 else None


class RunRecord:
    """How a run was made and what it measured, in its output folder.

    run.json: command, settings, commit, versions, hardware, and, written last, the results and `finished`: true.
    metrics.jsonl: one JSON object a line. log.txt, eval_results.txt: lines for people. A new record starts these
    afresh, unless it has a `name` of its own for run.json: then it shares the folder and adds to them.
    """

    def __init__(self, folder: str | Path, args: argparse.Namespace, device: torch.device, name: str = RUN_NAME,
                 **facts: Any):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        if name == RUN_NAME:
            for log in ("metrics.jsonl", "log.txt", "eval_results.txt"):
                (self.folder / log).unlink(missing_ok=True)
        self.started = time.time()
        self.run = {
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]), "settings": dict(vars(args)),
            "commit": _commit(), "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
            "hardware": {"device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
                         "processor": platform.machine(), "threads": torch.get_num_threads()},
            **facts, "finished": False}
        self._write()

    def _write(self) -> None:
        write_json(self.folder / self.name, json.loads(json.dumps(self.run, default=str)))

    def log(self, **values: Any) -> None:
        """Append a line to metrics.jsonl."""
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as handle:
            handle.write(json.dumps(values) + "\n")

    def text(self, name: str, text: str) -> None:
        """Append a line to the file `name` (log.txt, eval_results.txt)."""
        with open(self.folder / name, "a", encoding="utf-8") as handle:
            handle.write(text + "\n")

    def finish(self, **results: Any) -> None:
        """Write the results and the seconds that the run took; this marks the folder as complete."""
        self.run.update(results, seconds=round(time.time() - self.started, 1), finished=True)
        self._write()
