"""Model folders looked at: what one holds, whether its files agree with each other, and whether it loads."""
from __future__ import annotations

import contextlib
import io
from pathlib import Path

import torch
from torch import Tensor

from transformer.checkpoint import load_tokenizer
from transformer.config import CONFIG_NAME, BertConfig
from transformer.files import InputError
from transformer.modeling import (
    HEADS,
    BertForMaskedLM,
    BertModel,
    TinyBertForPreTraining,
    TinyBertForQuestionAnswering,
    TinyBertForSequenceClassification,
)
from transformer.weights import TIED_DECODER, WEIGHTS_NAME, layer_names, own_names, read_model, read_weights


def expected_weights(config: BertConfig, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every weight of a model of these sizes with all heads, on the device "meta": shapes without memory.

    What config.json does not say (classes, width of the projections) is taken from the weights themselves.
    """
    def outputs(name: str) -> int | None:
        return next(iter(state[name].shape), None) if name in state else None

    per_layer = "fit_denses.0.weight" in state
    fit_size = outputs("fit_denses.0.weight" if per_layer else "fit_dense.weight")
    with torch.device("meta"):
        return {**TinyBertForPreTraining(config, fit_size, per_layer).state_dict(),
                **TinyBertForQuestionAnswering(config).state_dict(),
                **TinyBertForSequenceClassification(config, outputs("classifier.weight") or 1).state_dict()}


def describe_head(head: str, config: BertConfig, expected: dict[str, Tensor]) -> str:
    """A head with what people ask about it: the classes of a classifier, the width of projections."""
    if head == "classifier":
        labels = config.extra.get("id2label") or {}
        labels = [str(label) for label in labels.values()] if isinstance(labels, dict) else []
        count = expected["classifier.weight"].shape[0]
        named = len(labels) == count and not any(label.startswith("LABEL_") for label in labels)
        return f"classifier ({count} labels{': ' + ', '.join(labels) if named else ''})"
    if head == "projections":
        widths = [tensor.shape[0] for name, tensor in expected.items()
                  if name.startswith("fit_dense") and name.endswith("weight")]
        return f"projections ({len(widths)}, to {widths[0]})"
    return "span (start and end of an answer)" if head == "span" else head


def summary(folder: Path) -> str:
    """Open a model folder and describe it in one line.

    InputError where vocabulary, weights and config disagree: a weight that is missing, of another shape or unknown.
    """
    config, state = read_model(folder)
    load_tokenizer(folder)  # its check that the vocabulary fits
    if not any(name.startswith("bert.") for name in state):
        raise InputError(f"{folder} holds no BERT: no weight is called bert.*, embeddings.* or encoder.*")
    last = layer_names(config)[-1]  # first: many layers take long, also without memory
    if not any(name.startswith(last) for name in state):
        raise InputError(f"{folder}: the weights are not those of {CONFIG_NAME}: {last}* is missing")
    expected = expected_weights(config, state)
    heads = [head for head, prefix in HEADS.items() if any(name.startswith(prefix) for name in state)]
    other_heads = tuple(prefix for head, prefix in HEADS.items() if head not in heads)
    problems = [f"{name} is missing" for name in expected if name not in state and not name.startswith(other_heads)]
    for name, tensor in state.items():
        if name not in expected:
            problems.append(f"{name} is unknown")
        elif tensor.shape != expected[name].shape:
            problems.append(f"{name} is {list(tensor.shape)}, expected {list(expected[name].shape)}")
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise InputError(f"{folder}: the weights are not those of {CONFIG_NAME}: {'; '.join(problems[:4])}{more}")
    parameters = sum(tensor.numel() for name, tensor in state.items() if name != TIED_DECODER)
    return (f"{folder}: {parameters:,} parameters, {config.num_hidden_layers} layers, {config.num_attention_heads} "
            f"attention heads, hidden size {config.hidden_size}; "
            f"heads: {', '.join(describe_head(head, config, expected) for head in heads) or 'none'}")


def check_loads(folder: Path, state: dict[str, Tensor]) -> None:
    """Load `folder` with every class it has weights for, and compare its tensors with `state`, which has canonical
    names; InputError otherwise."""
    with contextlib.redirect_stdout(io.StringIO()):  # which heads a class leaves out says nothing here
        if "classifier.weight" in state:
            TinyBertForSequenceClassification.from_pretrained(folder, num_labels=state["classifier.weight"].shape[0])
        if "qa_outputs.weight" in state:
            TinyBertForQuestionAnswering.from_pretrained(folder)
        if not {"classifier.weight", "qa_outputs.weight"} & state.keys():
            BertModel.from_pretrained(folder, add_pooler="bert.pooler.dense.weight" in state)
        if "cls.predictions.bias" in state:
            BertForMaskedLM.from_pretrained(folder)
    written, wanted = read_weights(folder), own_names(state, read_model(folder)[0].family)
    if written.keys() != wanted.keys() or not all(torch.equal(written[name], wanted[name]) for name in wanted):
        raise InputError(f"{folder / WEIGHTS_NAME} does not hold what was written into it: check the disk")
