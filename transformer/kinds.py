"""What a file or folder is where it is not what was asked for, by its first bytes and by config.json's model_type.

Readers ask here before they blame a line or a byte, so that a message names the cause. Of the kit the families alone
are imported: everything that reads stands above.
"""
from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from transformer.families import FAMILIES, OTHER_FAMILIES, model_type_of

_LOOKED_AT = 1024           # bytes at the beginning of a file
_LARGEST_CONFIG = 1 << 20   # bytes
_ZIP = b"PK\x03\x04"

# How a file begins that is no text, and what to do with it.
_BEGINNINGS = (
    (b"version https://git-lfs.github.com/spec/", "is a Git LFS pointer, not the file itself: run `git lfs pull`"),
    (_ZIP, "is a zip archive: unpack it"),
    (b"\x1f\x8b", "is a gzip file: unpack it"),
    (b"BZh", "is a bzip2 file: unpack it"),
    (b"\xfd7zXZ\0", "is an xz file: unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive: unpack it"),
    (b"\x28\xb5\x2f\xfd", "is a zstd file: unpack it"),
    (b"%PDF-", "is a PDF: take the text itself"),
    (b"\xff\xfe", "is text in UTF-16: convert it to UTF-8"),
    (b"\xfe\xff", "is text in UTF-16: convert it to UTF-8"),
)
_MARKUP = {
    (b"<!doctype html", b"<html"): "is a web page, most likely a server's error or its login: get the file itself",
    (b"<?xml", b"<mediawiki"): "is XML, a server's error or a dump that is still to be extracted: get the file itself",
}

_OTHER_FRAMEWORKS = {"tf_model.h5": "from_tf", "flax_model.msgpack": "from_flax"}


def kind_of(path: str | Path, weights: tuple[str, ...] = ()) -> str | None:
    """What a file is that cannot be read as what it is meant for, or a folder that is no BERT's, and the way out, to
    follow the name of `path`; None where nothing speaks against it, or it cannot be opened.

    weights: names of the files of which one is to be in the folder (none: config.json is enough); given, a file may be
    a zip archive, which torch's own format is.
    """
    path = Path(path)
    with contextlib.suppress(OSError):
        return _kind_of_folder(path, weights) if path.is_dir() else _kind_of_file(path, bool(weights))
    return None


def _kind_of_file(path: Path, weights: bool) -> str | None:
    with open(path, "rb") as handle:
        beginning = handle.read(_LOOKED_AT)
    for start, what in _BEGINNINGS:
        if beginning.startswith(start) and not (weights and start == _ZIP):
            return what
    for starts, what in _MARKUP.items():
        if beginning.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(starts):
            return what
    if beginning[257:262] == b"ustar":
        return "is a tar archive: unpack it"
    nothing = beginning.count(b"\0") / max(len(beginning), 1)
    if not weights and 0.25 < nothing <= 0.5:  # each Latin letter has one
        return "is no text, or text in UTF-16: convert it to UTF-8"
    return None


def _kind_of_folder(folder: Path, weights: tuple[str, ...]) -> str | None:
    names = sorted(path.name for path in folder.iterdir())
    has_weights = not set(names).isdisjoint(weights)
    if "config.json" in names and (has_weights or not weights):
        return not_bert(_config(folder))
    for name in names:
        if not has_weights and (".ckpt." in name or ".ckpt-" in name):
            checkpoint = folder / name.removesuffix(".index").removesuffix(".meta").split(".data-")[0]
            return (f"holds a TensorFlow checkpoint: convert it with transformers 4 and tensorflow (transformers-cli "
                    f"convert --model_type bert --tf_checkpoint {checkpoint} --config {folder / 'bert_config.json'} "
                    f"--pytorch_dump_output {folder / 'pytorch_model.bin'}) and rename bert_config.json to config.json")
        if name in _OTHER_FRAMEWORKS and not has_weights:
            return (f"holds the weights of another framework, {name}: convert them with transformers 4 "
                    f"(BertForPreTraining.from_pretrained(FOLDER, {_OTHER_FRAMEWORKS[name]}=True)"
                    ".save_pretrained(FOLDER))")
    if "config.json" not in names:
        if "bert_config.json" in names:
            return "holds bert_config.json: rename it to config.json"
        return "holds no config.json: get that of the model, or name its folder" if names else \
            "is an empty folder: a model folder holds config.json, weights and, most often, vocab.txt"
    no_vocabulary = "" if {"vocab.txt", "spiece.model"}.intersection(names) else ", nor vocab.txt"
    return not_bert(_config(folder)) or (
        f"holds config.json and no weights ({weights[0]}{no_vocabulary}): "
        "get_bert_models.py gets those of a published model; general_distill.py, or task_distill.py --from_scratch, "
        "makes a student of a config.json alone")


def _config(folder: Path) -> dict[str, Any]:
    """config.json of a folder; empty where it cannot be read, which whoever needs it will say."""
    with contextlib.suppress(ValueError, RecursionError), open(folder / "config.json", "rb") as handle:
        config = json.loads(handle.read(_LARGEST_CONFIG))
        return config if isinstance(config, dict) else {}
    return {}


def not_bert(config: dict[str, Any], names: tuple[str, ...] = ()) -> str | None:
    """Why a model is none of the families that are read, by its config.json or the `names` of its weights, to follow
    the name of its folder; None where nothing says so."""
    model_type = model_type_of(config)
    if model_type == "bert":
        model_type = next((other for other in OTHER_FAMILIES for name in names
                           if name.startswith(f"{other.replace('-', '_')}.")), "bert")
    if model_type not in FAMILIES:
        *read, last = (family.name for family in FAMILIES.values())
        return (f"holds another model than a BERT, {OTHER_FAMILIES.get(model_type, model_type)}: take a "
                f"{', '.join(read)} or {last}")
    family = FAMILIES[model_type]
    architectures = config.get("architectures")
    for found in (*(architectures if isinstance(architectures, list) else ()), *names):
        what = next((what for part, what in family.refused.items() if str(found).startswith(part)), None)
        if what:
            return what
    for other, known in FAMILIES.items():
        if other != model_type and any(name.startswith(f"{known.prefix}.") for name in names) and known.name != "BERT":
            says = f"says {config['model_type']}" if config.get("model_type") else "names no model_type"
            return (f"holds the weights of a model of the family {known.name}, and its config.json {says}: get the "
                    f"config.json that belongs to them, with model_type {other}")
    return None
