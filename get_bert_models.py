"""Get models from the Hugging Face hub, a mirror or a folder: config.json, vocab.txt and weights, each compared
with the others and summed up, and tokenizer_config.json where there is one.

Without arguments models/bert-base-uncased and its fine-tuned siblings for MRPC, SST-2, CoLA and RTE. The hub's address
comes from the environment variable HF_ENDPOINT. A folder whose manifest.json agrees with its files is left alone.
"""
from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from transformer.cli import Parser, add_run_flags, print_settings, run_script
from transformer.fetching.download import (
    MANIFEST_NAME,
    Missing,
    add_source_flags,
    check_manifest,
    missing_error,
)
from transformer.fetching.sources import DEFAULT_MODELS, HOSTS, HUB_MODELS, REVISIONS, base_url
from transformer.files import InputError, locked, read_json, require_no_file
from transformer.kinds import kind_of
from transformer.tasks.table import get_task
from transformer.tokenization import TOKENIZER_NAME, VOCAB_NAME

BASE_MODEL = DEFAULT_MODELS[0]


def known_model(text: str) -> tuple[str, str | Path]:
    """Folder name and origin (a local folder, OWNER/NAME or OWNER/NAME@REVISION) of what the user calls a model.

    InputError where it is none of the known names, no task with a fine-tuned model, no folder and no hub repository.
    """
    if text in HUB_MODELS:
        return text, HUB_MODELS[text]
    if Path(text).is_dir():
        return Path(text).resolve().name, Path(text)
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w-][\w./-]*)?", text, re.ASCII):
        return text.split("@")[0].split("/")[1], text
    try:
        task = get_task(text.removeprefix(f"{BASE_MODEL}-"))
    except InputError:
        raise InputError(f"unknown model {text!r}; known: {', '.join(HUB_MODELS)}, a task, a local folder, or "
                         "OWNER/NAME or OWNER/NAME@REVISION on the hub") from None
    name = f"{BASE_MODEL}-{task.key}"
    if name not in HUB_MODELS:
        raise InputError(f"the hub has no known model for {task.name}: get {BASE_MODEL}, then "
                         f"finetune_teacher.py --tasks {task.name} makes one")
    return name, HUB_MODELS[name]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; `models` comes back as {folder name: origin}, see known_model()."""
    parser = Parser(" ".join(__doc__.split("\n\n")[0].split()))
    group = parser.add_argument_group("models")
    group.add_argument("--models", nargs="+", default=list(DEFAULT_MODELS), metavar="MODEL",
                       help=f"{', '.join(HUB_MODELS)}; a task for the {BASE_MODEL} fine-tuned on it; OWNER/NAME or "
                            "OWNER/NAME@REVISION on the hub; or a local folder")
    group.add_argument("--output_dir", type=Path, default=Path("models"), help="folder that gets one folder per model")
    add_source_flags(group, "BASE/MODEL/FILE")
    add_run_flags(parser)
    args = parser.parse_args(argv)
    models: dict[str, str | Path] = {}
    for text in args.models:
        try:
            name, origin = known_model(text)
        except InputError as error:
            parser.error(str(error))
        if models.setdefault(name, origin) != origin:
            parser.error(f"{models[name]} and {origin} would both go into {args.output_dir / name}: get them in two "
                         "runs, with another --output_dir")
        if args.mirror and isinstance(origin, str) and "@" in origin:
            parser.error(f"a mirror holds one revision of a model: drop --mirror, or the revision of {origin}")
    args.models = models
    return args


def addresses(origin: str | Path, mirror: str | None) -> tuple[str, str]:
    """Where the files of a model lie, and the address under which KNOWN_FILES may know them."""
    if isinstance(origin, Path):
        return (str(origin.resolve()),) * 2
    repository, _, revision = origin.partition("@")
    path = f"{repository}/resolve/{revision or REVISIONS.get(repository, 'main')}"
    if mirror:  # the same files in another place
        return f"{mirror.rstrip('/')}/{repository.split('/')[1]}", f"{HOSTS['HF_ENDPOINT']}/{path}"
    base = f"{base_url('HF_ENDPOINT')}/{path}"
    return base, base


def identity(source: str) -> tuple[str, str]:
    """OWNER/NAME and revision of a source on whatever host, as manifests record it; of a folder its path and ""."""
    match = re.search(r"([\w.-]+/[\w.-]+)/resolve/([\w./-]+)", source)
    return (match[1], match[2]) if match else (source, "")


def is_complete(folder: Path, origin: str | Path, source: str) -> bool:
    """Whether `folder` is complete, which is printed; InputError where its files, or the first of them, are others.

    To a complete folder any revision will do where none is asked for, and so does what came from a local folder.
    """
    complete = check_manifest(folder)
    if not (folder / MANIFEST_NAME).is_file():
        return False
    recorded = str(read_json(folder / MANIFEST_NAME).get("source"))
    (name, revision), asked = identity(recorded), identity(source)
    same = (name, revision) == asked or source == str(folder.resolve())
    if complete and isinstance(origin, str) and "@" not in origin:
        same = name == asked[0] or not revision
    if not same:
        raise InputError(f"{folder} holds files of {recorded}, not of {origin}: move it away, or name another "
                         "--output_dir")
    if complete:
        print(f"{folder} is complete (from {recorded})", flush=True)
    return complete


def get_model(folder: Path, origin: str | Path, mirror: str | None, offline: bool) -> list[Missing]:
    """Make `folder` complete, one process at a time; return what --offline lacks."""
    from transformer.fetching.models import fill_folder
    from transformer.training.record import RUN_NAME
    from transformer.weights import WEIGHT_NAMES
    if isinstance(origin, Path):  # what is wrong there cannot be mended in a copy
        for path in (origin, *map(origin.joinpath, WEIGHT_NAMES)):
            if what := kind_of(path, WEIGHT_NAMES):
                raise InputError(f"{path} {what}")
    base, published = addresses(origin, mirror)
    source = base if base == published else f"{base} (in place of {published})"
    if is_complete(folder, origin, source):
        return []
    if (folder / RUN_NAME).is_file():
        raise InputError(f"{folder} holds a model that was trained here: name another --output_dir")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock", wait=True, keep=False):
        if is_complete(folder, origin, source):  # another process may have filled it meanwhile
            return []
        return fill_folder(folder, base, published, source, offline)


def main(argv: list[str] | None = None) -> None:
    """Get each model in turn."""
    args = parse_args(argv)
    from transformer.weights import SAFETENSORS_NAME, WEIGHTS_NAME
    print_settings(args)
    print(f"into {args.output_dir}: " + ", ".join(f"{name} from {addresses(origin, args.mirror)[0]}"
                                                  for name, origin in args.models.items()), flush=True)
    missing = []
    require_no_file(args.output_dir)
    for name, origin in args.models.items():
        missing += get_model(args.output_dir / name, origin, args.mirror, args.offline)
    if missing:
        raise InputError(f"{missing_error(missing)}; where a model has no {SAFETENSORS_NAME} or no {VOCAB_NAME}, its "
                         f"{WEIGHTS_NAME} or {TOKENIZER_NAME} will do")


if __name__ == "__main__":
    sys.exit(run_script(main))
