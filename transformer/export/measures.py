"""What the files of an exported model take and reach: size, time, dev scores."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from transformer.data.features import Sequences
from transformer.export.onnx_files import (
    INT8_NAME,
    ONNX_NAME,
    OnnxModel,
    require_equal_logits,
    time_of_a_text,
    write_int8,
    write_onnx,
)
from transformer.export.origin import chosen_scores
from transformer.modeling import BertPreTrainedModel
from transformer.tasks.task import Task
from transformer.training.processes import Processes
from transformer.training.scoring import evaluate
from transformer.weights import SAFETENSORS_NAME


@dataclass(frozen=True)
class FileFacts:
    """A file of weights: its megabytes, the milliseconds that a text takes with it, and its dev scores, fractions by
    metric, none without dev sets."""
    name: str
    megabytes: float
    milliseconds: float
    scores: dict[str, float]


def measure(model: BertPreTrainedModel, task: Task, dev: dict[str, Sequences], examples: Sequences, order: list[int],
            folder: Path) -> list[FileFacts]:
    """Write model.onnx and model_int8.onnx into a folder that holds model.safetensors, and measure the three.

    dev: the dev sets by name; examples: to compare logits and to take times on; order: the model's column of each
    class. InputError where model.onnx gives other logits than the model.
    """
    write_onnx(model, folder / ONNX_NAME)
    require_equal_logits(model, OnnxModel(folder / ONNX_NAME), examples)
    write_int8(folder / ONNX_NAME, folder / INT8_NAME)
    facts = []
    for name in (SAFETENSORS_NAME, ONNX_NAME, INT8_NAME):
        path, is_onnx = folder / name, name != SAFETENSORS_NAME
        taken = time_of_a_text(OnnxModel(path, threads=1) if is_onnx else model, examples)
        if dev and name != ONNX_NAME:
            values, _ = evaluate(OnnxModel(path) if is_onnx else model, task, dev, order, 32,
                                 Processes(0, 1, torch.device("cpu")))
        else:  # that of model.onnx, whose logits are those of the first
            values = facts[0].scores if facts else {}
        facts.append(FileFacts(name, path.stat().st_size / 1e6, taken, chosen_scores(task, values)))
    return facts
