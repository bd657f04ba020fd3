"""Make model folders loadable by this kit: weights in pytorch_model.bin under their family's names, head recorded.

Without arguments models/bert-base-uncased and its siblings for MRPC, SST-2, CoLA and RTE. Reads .bin or .safetensors of
any BERT package, with or without the prefix `bert.`, with gamma/beta or weight/bias; every head is kept, copies and
buffers are dropped. The old files stay until the new ones have been loaded and compared. A second run changes nothing.
"""
from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformer.cli import Parser, add_run_flags, print_settings, run_script
from transformer.families import BERT, CLASS_KEYS, family_of, model_type_of
from transformer.fetching.download import MANIFEST_NAME, write_manifest
from transformer.fetching.sources import DEFAULT_MODELS
from transformer.files import InputError, find_model, read_json, workplace, write_json
from transformer.tasks.labels import name_labels
from transformer.tasks.table import TASKS
from transformer.tasks.task import Task

if TYPE_CHECKING:
    from torch import Tensor

    from transformer.config import BertConfig
    from transformer.families import Family

WORKPLACE = ".fixing"  # in the model folder: the new files, until they have been loaded and compared


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; `folders` comes back as the list of model folders to fix."""
    parser = Parser(__doc__.splitlines()[0])
    group = parser.add_argument_group("models")
    group.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="model folders to fix")
    group.add_argument("--model_dir", type=Path, help="one model folder to fix")
    group.add_argument("--models_dir", type=Path,
                       help=f"folder that holds {DEFAULT_MODELS[0]} and its four siblings (default: models)")
    add_run_flags(parser)
    args = parser.parse_args(argv)
    if sum((bool(args.folders), args.model_dir is not None, args.models_dir is not None)) > 1:
        parser.error("name folders, or --model_dir, or --models_dir, not several of them")
    if args.model_dir:
        args.folders = [args.model_dir]
    elif not args.folders:
        args.folders = [(args.models_dir or Path("models")) / name for name in DEFAULT_MODELS]
    return args


def sibling_task(folder: Path) -> Task | None:
    """The task that the folder's name ends in, as in bert-base-uncased-sst2."""
    match = re.search(rf"[-_]({'|'.join(TASKS)})$", folder.resolve().name.lower())
    return TASKS[match[1]] if match else None


def new_head(task: Task, config: BertConfig, seed: int) -> dict[str, Tensor]:
    """The head of `task` with random weights (standard deviation initializer_range) and zero biases."""
    import torch
    weight = torch.empty(task.head.width, config.hidden_size)
    weight.normal_(std=config.initializer_range, generator=torch.Generator().manual_seed(seed))
    return {f"{task.head.weights}weight": weight, f"{task.head.weights}bias": torch.zeros(task.head.width)}


def without_copies(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights without those that are the word embeddings once more: BERT ties its masked-LM decoder to them."""
    from transformer.weights import TIED_DECODER, WORD_EMBEDDINGS
    state = dict(state)
    if WORD_EMBEDDINGS in state and TIED_DECODER in state and state[TIED_DECODER].equal(state[WORD_EMBEDDINGS]):
        del state[TIED_DECODER]
    return state


def drop_safetensors(folder: Path, state: dict[str, Tensor], family: Family) -> str | None:
    """Remove model.safetensors if `state`, which pytorch_model.bin holds, has all of its tensors; say what was done."""
    from transformer.weights import SAFETENSORS_NAME, WEIGHTS_NAME, canonical_names, read_safetensors
    path = folder / SAFETENSORS_NAME
    if not path.is_file():
        return None
    other = canonical_names(read_safetensors(path), family)
    if all(name in state and tensor.equal(state[name]) for name, tensor in other.items()):
        path.unlink()
        return f"{SAFETENSORS_NAME} removed, {WEIGHTS_NAME} holds its tensors"
    return f"warning: {SAFETENSORS_NAME} holds other tensors than {WEIGHTS_NAME} and is left as it is"


def replace_files(folder: Path, settings: dict[str, Any], state: dict[str, Tensor]) -> None:
    """Put config.json with these settings and pytorch_model.bin with these weights into a model folder, once they have
    been loaded from a workplace inside it and compared; on an InputError the folder is as it was."""
    from transformer.config import CONFIG_NAME
    from transformer.inspection import check_loads
    from transformer.weights import WEIGHTS_NAME, own_names, write_bin
    temporary = folder / WORKPLACE
    with workplace(temporary, folder):
        write_bin(temporary / WEIGHTS_NAME, own_names(state, family_of(settings)))
        write_json(temporary / CONFIG_NAME, settings)
        check_loads(temporary, state)
        # config.json goes first: without its record, a run after a kill here would take a new head for a found one
        for name in (CONFIG_NAME, WEIGHTS_NAME):
            os.replace(temporary / name, folder / name)


def changes_of_weights(folder: Path, raw: dict[str, Tensor], state: dict[str, Tensor], family: Family) -> list[str]:
    """What becomes of the weights in a folder, `raw` as its files have them, when they are written as `state`."""
    from transformer.weights import TIED_DECODER, WEIGHTS_NAME, own_names, shard_names, weight_files
    changes = []
    if renamed := own_names(state, family).keys() - raw.keys():
        changes.append(f"{len(renamed)} weights renamed")
    used = {id(tensor) for tensor in state.values()}
    if dropped := [name for name, tensor in raw.items() if id(tensor) not in used
                   or name.endswith(TIED_DECODER) and TIED_DECODER not in state]:  # one tensor may have both names
        changes.append(f"{', '.join(dropped)} dropped")
    if (file := weight_files(folder)[0].name) != WEIGHTS_NAME:
        shards = shard_names(folder / file)
        stay = f" ({', '.join(shards)} stay and are not read any more)" if shards else ""
        changes.append(f"{file} turned into {WEIGHTS_NAME}{stay}")
    return changes


def record_head(settings: dict[str, Any], config: BertConfig, state: dict[str, Tensor]) -> list[str]:
    """Put into `settings`, of config.json, whether the classifier stands on a relu, where they do not say; take out
    what they say of one that is not there. Returns what was done."""
    from transformer.config import CONFIG_NAME
    from transformer.weights import head_convention
    if "classifier.weight" in state and config.classifier_relu is None:
        settings["classifier_relu"], why = head_convention(config, state)
        return [f"classifier recorded as {'with' if settings['classifier_relu'] else 'without'} relu ({why})"]
    leftover = sorted(settings.keys() & set(CLASS_KEYS))
    if leftover and "classifier.weight" not in state and "qa_outputs.weight" in state:
        for key in leftover:
            del settings[key]
        return [f"{', '.join(leftover)} dropped from {CONFIG_NAME}, of a classifier that is not there"]
    return []


def fix_folder(folder: Path, seed: int) -> str:
    """Fix one model folder; return what was done, in one line. On an InputError the folder is as it was."""
    from transformer.checkpoint import load_tokenizer, tokenizer_files
    from transformer.config import CONFIG_NAME
    from transformer.inspection import check_loads
    from transformer.weights import WEIGHTS_NAME, canonical_names, open_model_folder, read_weights
    config = open_model_folder(folder)
    shutil.rmtree(folder / WORKPLACE, ignore_errors=True)  # left by a run that was killed
    raw = read_weights(folder)
    whole = canonical_names(raw, config.family)
    settings = read_json(folder / CONFIG_NAME)
    load_tokenizer(folder)
    changes = []
    if model_type_of(settings) != settings.get("model_type") and config.family is not BERT:
        settings["model_type"] = model_type_of(settings)  # by which Hugging Face chooses the class
        changes.append(f"model_type {settings['model_type']} recorded")
    classifier = whole.get("classifier.weight")
    if classifier is not None and (classifier.ndim != 2 or classifier.shape[1] != config.hidden_size):
        raise InputError(f"{folder}: classifier.weight is {list(classifier.shape)}, hidden_size is "
                         f"{config.hidden_size}")
    state = without_copies(whole)
    task = sibling_task(folder)
    changes += changes_of_weights(folder, raw, state, config.family) + record_head(settings, config, state)
    has_pooler = "bert.pooler.dense.weight" in state  # finetune_teacher.py makes both, where there is none
    if task and f"{task.head.weights}weight" not in state and (has_pooler or not task.head.on_pooled):
        state.update(new_head(task, config, seed))
        name_labels(settings, task, trained=False)
        facts = task.name
        if task.head.on_pooled:
            relu = settings["classifier_relu"] = config.family.relu_head
            facts = f"{task.num_labels} labels of {task.name}, {'with' if relu else 'without'} relu"
        changes.append(f"untrained {task.head.called} added ({facts})")

    if changes:
        replace_files(folder, settings, state)
    else:
        check_loads(folder, state)
    if removed := drop_safetensors(folder, whole, config.family):
        changes.append(removed)
    if (folder / MANIFEST_NAME).is_file():  # get_bert_models.py compares the files with it
        source = read_json(folder / MANIFEST_NAME).get("source")
        write_manifest(folder, [CONFIG_NAME, *tokenizer_files(folder), WEIGHTS_NAME], source)
    heads = [name for name, key in (("masked LM", "cls.predictions.bias"), ("classifier", "classifier.weight"),
                                    ("span", "qa_outputs.weight")) if key in state]
    return f"{folder}: {'; '.join(changes) or 'nothing to do'} " \
           f"({len(state)} tensors, heads: {', '.join(heads) or 'none'})"


def main(argv: list[str] | None = None) -> None:
    """Fix each folder in turn."""
    args = parse_args(argv)
    print_settings(args)
    for folder in args.folders:
        print(fix_folder(find_model(folder), args.seed), flush=True)


if __name__ == "__main__":
    sys.exit(run_script(main))
