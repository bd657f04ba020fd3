"""Get BERT models from the Hugging Face hub or a mirror: config.json, vocab.txt and weights, checked and summed up.

Without arguments models/bert-base-uncased and its fine-tuned siblings for MRPC, SST-2, CoLA and RTE. The hub's address
comes from the environment variable HF_ENDPOINT. A folder whose manifest.json agrees with its files is left alone.
"""
from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from transformer.cli import Parser, add_run_flags, print_settings, run_script
from transformer.download import (
    DEFAULT_MODELS,
    HUB_MODELS,
    REVISIONS,
    NotFound,
    base_url,
    check_manifest,
    fetch,
    write_manifest,
)
from transformer.files import InputError


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; `models` comes back as {folder name: hub repository}."""
    parser = Parser(__doc__.splitlines()[0])
    group = parser.add_argument_group("models")
    group.add_argument("--models", nargs="+", default=list(DEFAULT_MODELS), metavar="MODEL",
                       help=f"{DEFAULT_MODELS[0]}, {DEFAULT_MODELS[0]}-TASK or just TASK, or OWNER/NAME on the hub")
    group.add_argument("--output_dir", type=Path, default=Path("models"), help="folder that gets one folder per model")
    group.add_argument("--mirror", metavar="BASE",
                       help="take BASE/MODEL/FILE instead of the hub: an http(s):// or s3:// address, or a folder")
    add_run_flags(parser)
    args = parser.parse_args(argv)
    models = {}
    for text in args.models:
        name = f"{DEFAULT_MODELS[0]}-{text.lower().replace('-', '')}"  # a bare task
        name = name if name in HUB_MODELS else text
        if name in HUB_MODELS:
            models[name] = HUB_MODELS[name]
        elif re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", text, re.ASCII):
            models[text.split("/")[1]] = text
        else:
            parser.error(f"unknown model {text!r}; known: {', '.join(HUB_MODELS)}, or OWNER/NAME on the hub "
                         f"(finetune_teacher.py makes a teacher of any other task from {DEFAULT_MODELS[0]})")
    args.models = models
    return args


if __name__ == "__main__":
    parse_args()  # --help and refused flags answer before the slow imports below

from transformer.checkpoint import VOCAB_NAME, load_tokenizer
from transformer.modeling import CONFIG_NAME, BertConfig
from transformer.weights import SAFETENSORS_NAME, WEIGHTS_NAME, canonical_names, read_weights

HEADS = {"pooler": "bert.pooler.dense.weight", "masked LM": "cls.predictions.transform.dense.weight",
         "next sentence": "cls.seq_relationship.weight", "classifier": "classifier.weight"}


def summary(folder: Path) -> str:
    """Open a model folder and describe it in one line; InputError where weights, config and vocabulary disagree."""
    config = BertConfig.from_json_file(folder / CONFIG_NAME)
    state = canonical_names(read_weights(folder))
    layers = len({name.split(".")[3] for name in state if name.startswith("bert.encoder.layer.")})
    embeddings = state.get("bert.embeddings.word_embeddings.weight")
    if embeddings is None:
        raise InputError(f"{folder} holds no BERT: there is no tensor bert.embeddings.word_embeddings.weight")
    found = {"num_hidden_layers": layers, "vocab_size": embeddings.shape[0], "hidden_size": embeddings.shape[1]}
    for key, value in found.items():
        if getattr(config, key) != value:
            raise InputError(f"{folder}: {CONFIG_NAME} says {key} {getattr(config, key)}, the weights have {value}")
    load_tokenizer(folder, do_lower_case=True)  # its check that the vocabulary fits
    tied = "cls.predictions.decoder.weight"     # the word embeddings once more
    parameters = sum(tensor.numel() for name, tensor in state.items() if name != tied)
    heads = [f"{head} ({state[key].shape[0]} labels)" if head == "classifier" else head
             for head, key in HEADS.items() if key in state]
    return (f"{folder}: {parameters:,} parameters, {layers} layers, hidden size {config.hidden_size}, "
            f"heads: {', '.join(heads) or 'none'}")


def get_model(folder: Path, base: str) -> None:
    """Fill `folder` with config, vocabulary and weights from the address `base`, and write its manifest last."""
    if check_manifest(folder):
        print(f"{folder} is complete", flush=True)
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG_NAME, VOCAB_NAME):
        fetch(f"{base}/{name}", folder / name)
    # A file that is there comes first, so that nobody who brought one by hand downloads the other.
    names = sorted((SAFETENSORS_NAME, WEIGHTS_NAME), key=lambda name: not (folder / name).is_file())
    try:
        fetch(f"{base}/{names[0]}", folder / names[0])
        weights = names[0]
    except NotFound:
        fetch(f"{base}/{names[1]}", folder / names[1])
        weights = names[1]
    line = summary(folder)
    write_manifest(folder, [CONFIG_NAME, VOCAB_NAME, weights], base)
    print(line, flush=True)


def main(argv: list[str] | None = None) -> None:
    """Get each model in turn."""
    args = parse_args(argv)
    print_settings(args)
    source = args.mirror.rstrip("/") if args.mirror else base_url("HF_ENDPOINT")
    print(f"into {args.output_dir}: {', '.join(args.models)} (from {source})", flush=True)
    for name, repository in args.models.items():
        hub = f"{source}/{repository}/resolve/{REVISIONS.get(repository, 'main')}"
        get_model(args.output_dir / name, f"{source}/{repository.split('/')[1]}" if args.mirror else hub)


if __name__ == "__main__":
    sys.exit(run_script(main))
