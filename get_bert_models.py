"""Get BERT models from the Hugging Face hub, a mirror or a folder: config.json, vocab.txt and weights, each compared
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
    bring_by_hand,
    check_manifest,
    fetch,
    write_manifest,
)
from transformer.fetching.sources import DEFAULT_MODELS, HOSTS, HUB_MODELS, KNOWN_FILES, REVISIONS, base_url
from transformer.fetching.transport import NotFound
from transformer.files import InputError, locked, read_json, require_no_file, write_json
from transformer.kinds import kind_of, not_bert
from transformer.tasks.glue import get_task

BASE_MODEL = DEFAULT_MODELS[0]


def find_model(text: str) -> tuple[str, str | Path]:
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
        raise InputError(f"unknown model {text!r}; known: {', '.join(HUB_MODELS)}, a GLUE task, a local folder, or "
                         "OWNER/NAME or OWNER/NAME@REVISION on the hub") from None
    name = f"{BASE_MODEL}-{task.key}"
    if name not in HUB_MODELS:
        raise InputError(f"the hub has no known model for {task.name}: get {BASE_MODEL}, then "
                         f"finetune_teacher.py --tasks {task.name} makes one")
    return name, HUB_MODELS[name]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; `models` comes back as {folder name: origin}, see find_model()."""
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
            name, origin = find_model(text)
        except InputError as error:
            parser.error(str(error))
        if models.setdefault(name, origin) != origin:
            parser.error(f"{models[name]} and {origin} would both go into {args.output_dir / name}: get them in two "
                         "runs, with another --output_dir")
        if args.mirror and isinstance(origin, str) and "@" in origin:
            parser.error(f"a mirror holds one revision of a model: drop --mirror, or the revision of {origin}")
    args.models = models
    return args


if __name__ == "__main__":
    parse_args()  # --help and refused flags answer before the slow imports below

import torch
from torch import Tensor

from transformer.checkpoint import load_tokenizer, tokenizer_files, write_vocab
from transformer.config import CONFIG_NAME, BertConfig
from transformer.modeling import HEADS, TinyBertForPreTraining, TinyBertForSequenceClassification
from transformer.tokenization import TOKENIZER_CONFIG_NAME, TOKENIZER_NAME, VOCAB_NAME, casing
from transformer.training.record import RUN_NAME
from transformer.weights import (
    SAFETENSORS_NAME,
    TIED_DECODER,
    WEIGHT_NAMES,
    WEIGHTS_NAME,
    read_model,
    shard_names,
)

# what a model folder needs; of alternatives the first that the source has
FILES = ((CONFIG_NAME,), (VOCAB_NAME, TOKENIZER_NAME),
         tuple(sorted(WEIGHT_NAMES, key=lambda name: (name.endswith(".json"), name != SAFETENSORS_NAME))))
OPTIONAL = (TOKENIZER_CONFIG_NAME,)  # it may tell the casing; else the vocabulary does


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
    return head


def summary(folder: Path) -> str:
    """Open a model folder and describe it in one line.

    InputError where vocabulary, weights and config disagree: a weight that is missing, of another shape or unknown.
    """
    config, state = read_model(folder)
    load_tokenizer(folder)  # its check that the vocabulary fits
    if not any(name.startswith("bert.") for name in state):
        raise InputError(f"{folder} holds no BERT: no weight is called bert.*, embeddings.* or encoder.*")
    last = f"bert.encoder.layer.{config.num_hidden_layers - 1}."  # first: many layers take long, also without memory
    if not any(name.startswith(last) for name in state):
        raise InputError(f"{folder}: the weights are not those of {CONFIG_NAME}: {last}* is missing")
    expected = expected_weights(config, state)
    heads = [head for head, start in HEADS.items() if any(name.startswith(start) for name in state)]
    absent = tuple(start for head, start in HEADS.items() if head not in heads)
    problems = [f"{name} is missing" for name in expected if name not in state and not name.startswith(absent)]
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


def fetch_one(names: tuple[str, ...], folder: Path, base: str, published: str, offline: bool) -> str:
    """Bring the first of the files `names` that `base` has; return its name."""
    # A file that is there comes first, so that nobody who brought one by hand downloads the other.
    for name in sorted(names, key=lambda name: not (folder / name).is_file()):
        known = KNOWN_FILES.get(f"{published}/{name}")
        try:
            fetch(f"{base}/{name}", folder / name, *((known.size, known.sha256) if known else ()), offline=offline)
            return name
        except NotFound:
            if len(names) == 1:
                raise
    raise InputError(f"{base} holds no {' and no '.join(names)}: check the address, or put one of them into {folder}")


def identity(source: str) -> tuple[str, str]:
    """OWNER/NAME and revision of a source on whatever host, as manifests record it; of a folder its path and ""."""
    found = re.search(r"([\w.-]+/[\w.-]+)/resolve/([\w./-]+)", source)
    return (found[1], found[2]) if found else (source, "")


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
        return fill(folder, base, published, source, offline)


def fill(folder: Path, base: str, published: str, source: str, offline: bool) -> list[Missing]:
    """Bring config, vocabulary and weights, and write their sums last; return what --offline lacks.

    What lies in the folder before is the user's: only what came in this run is ever deleted.
    """
    there, found, missing = {path.name for path in folder.iterdir()}, [], []
    judged = False  # whether what came is looked at, so that it is to blame for an error
    if MANIFEST_NAME not in there:
        write_manifest(folder, [], source)  # first: the files of a run that breaks off are not to be mixed with others
    wanted = [*FILES, OPTIONAL]
    try:
        for names in wanted:  # which grows by the files that an index of weights lists
            try:
                found.append(fetch_one(names, folder, base, published, offline))
            except InputError as error:
                if names != OPTIONAL and not isinstance(error, Missing):
                    raise
                if names != OPTIONAL:
                    missing.append(error)
                elif not isinstance(error, (Missing, NotFound)):  # some servers forbid what they do not have
                    print(f"warning: {error}: taken as not there, the vocabulary tells the casing", flush=True)
                continue
            judged = True
            if found[-1] == CONFIG_NAME and (what := not_bert(read_json(folder / CONFIG_NAME))):
                raise InputError(f"{base} {what}")
            wanted += [(shard,) for shard in shard_names(folder / found[-1])]
            judged = False
        if missing:
            return missing
        judged = True
        if found[1] == TOKENIZER_NAME:
            lower, _ = casing(folder)
            write_vocab(folder / TOKENIZER_NAME, folder / VOCAB_NAME)
            if casing(folder)[0] != lower:  # the vocabulary does not tell what the other file does
                told = read_json(folder / TOKENIZER_CONFIG_NAME) if TOKENIZER_CONFIG_NAME in found else {}
                write_json(folder / TOKENIZER_CONFIG_NAME, {**told, "do_lower_case": lower})
            print(f"{folder / VOCAB_NAME} made from {TOKENIZER_NAME}", flush=True)
        line = summary(folder)
    except InputError as error:
        if not judged:
            raise
        came = {*found, VOCAB_NAME, TOKENIZER_CONFIG_NAME} - there
        for name in came:  # else a rerun would keep them
            (folder / name).unlink(missing_ok=True)
        kept = [str(folder / name) for name in found if name in there]
        blamed = [path for path in kept if path in str(error)]
        then = f"move {' or '.join(blamed or kept)} away to get it again" if blamed or came.isdisjoint(found) \
            else "what came is deleted"
        raise InputError(f"{error}; {then}") from None
    finally:
        if not any((folder / name).is_file() for names in FILES for name in names):
            (folder / MANIFEST_NAME).unlink(missing_ok=True)
    write_manifest(folder, [CONFIG_NAME, *tokenizer_files(folder), found[2], *shard_names(folder / found[2])], source)
    if found[1] == TOKENIZER_NAME and TOKENIZER_NAME not in there:
        (folder / TOKENIZER_NAME).unlink()
    print(line, flush=True)
    return []


def main(argv: list[str] | None = None) -> None:
    """Get each model in turn."""
    args = parse_args(argv)
    print_settings(args)
    print(f"into {args.output_dir}: " + ", ".join(f"{name} from {addresses(origin, args.mirror)[0]}"
                                                  for name, origin in args.models.items()), flush=True)
    missing = []
    require_no_file(args.output_dir)
    for name, origin in args.models.items():
        missing += get_model(args.output_dir / name, origin, args.mirror, args.offline)
    if missing:
        raise InputError(f"{bring_by_hand(missing)}; where a model has no {SAFETENSORS_NAME} or no {VOCAB_NAME}, its "
                         f"{WEIGHTS_NAME} or {TOKENIZER_NAME} will do")


if __name__ == "__main__":
    sys.exit(run_script(main))
