"""The files of a model folder, brought one by one until it is whole: config.json, vocabulary, weights."""
from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformer.checkpoint import tokenizer_files, write_vocab
from transformer.config import CONFIG_NAME
from transformer.fetching.download import MANIFEST_NAME, Missing, fetch, write_manifest
from transformer.fetching.sources import KNOWN_FILES, LOWER_CASED
from transformer.fetching.transport import NotFound
from transformer.files import InputError, read_json, write_json
from transformer.inspection import summary
from transformer.kinds import not_bert
from transformer.tokenization import TOKENIZER_CONFIG_NAME, TOKENIZER_NAME, VOCAB_NAME, casing, vocabulary_names
from transformer.weights import SAFETENSORS_NAME, WEIGHT_NAMES, shard_names

# what a model folder needs; of alternatives the first that the source has
MODEL_FILES = ((CONFIG_NAME,), vocabulary_names({}),
               tuple(sorted(WEIGHT_NAMES, key=lambda name: (name.endswith(".json"), name != SAFETENSORS_NAME))))
OPTIONAL = (TOKENIZER_CONFIG_NAME,)  # it may tell the casing; else the vocabulary does


def fetch_first(names: tuple[str, ...], folder: Path, base: str, published: str, offline: bool) -> str:
    """Bring the first of the files `names` that `base` has into `folder`; return its name.

    published: the address under which KNOWN_FILES may know the files. Raises NotFound or InputError where `base` has
    none of them, and as fetch() does.
    """
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


def fill_folder(folder: Path, base: str, published: str, source: str, offline: bool) -> list[Missing]:
    """Bring config, vocabulary and weights from `base`, look at them, and write their sums last; return what --offline
    lacks.

    published: as fetch_first() takes it; source: what the manifest says of where they come from. What lies in the
    folder before is the user's: only what came in this run is ever deleted. Raises InputError as fetch_first() does,
    and where what came makes no whole model.
    """
    before = {path.name for path in folder.iterdir()}
    names: list[str] = []  # of the files that are there now, in the order of MODEL_FILES
    missing: list[Missing] = []
    if MANIFEST_NAME not in before:
        write_manifest(folder, [], source)  # first: the files of a run that breaks off are not to be mixed with others
    wanted = [*MODEL_FILES, OPTIONAL]
    try:
        for alternatives in wanted:  # which grows by the files that an index of weights lists
            try:
                name = fetch_first(alternatives, folder, base, published, offline)
            except Missing as error:
                if alternatives != OPTIONAL:
                    missing.append(error)
                continue
            except InputError as error:
                if alternatives != OPTIONAL:
                    raise
                if not isinstance(error, NotFound):  # some servers forbid what they do not have
                    print(f"warning: {error}: taken as not there, the vocabulary tells the casing", flush=True)
                continue
            names.append(name)
            with _blaming_the_content(folder, names, before):
                if name == CONFIG_NAME:
                    config = read_json(folder / CONFIG_NAME)
                    if what := not_bert(config):
                        raise InputError(f"{base} {what}")
                    wanted[1] = vocabulary_names(config)
                wanted += [(shard,) for shard in shard_names(folder / name)]
        if missing:
            return missing
        _, vocabulary, weights, *_ = names
        with _blaming_the_content(folder, names, before):
            if vocabulary == TOKENIZER_NAME:
                _make_vocab(folder, TOKENIZER_CONFIG_NAME in names)
            if TOKENIZER_CONFIG_NAME in names:  # also of a run that was killed, or brought by hand
                _correct_casing(folder, source)
            line = summary(folder)
    finally:
        if not any((folder / name).is_file() for alternatives in MODEL_FILES for name in alternatives):
            (folder / MANIFEST_NAME).unlink(missing_ok=True)
    write_manifest(folder, [CONFIG_NAME, *tokenizer_files(folder), weights, *shard_names(folder / weights)], source)
    if vocabulary == TOKENIZER_NAME and TOKENIZER_NAME not in before:
        (folder / TOKENIZER_NAME).unlink()
    print(line, flush=True)
    return []


@contextlib.contextmanager
def _blaming_the_content(folder: Path, names: list[str], before: set[str]) -> Iterator[None]:
    """On an InputError, which is about what the files `names` hold, delete those that came in this run: a rerun would
    keep them. The error then says so, or names the user's files, which were there `before`, to move away."""
    try:
        yield
    except InputError as error:
        new = {*names, VOCAB_NAME, TOKENIZER_CONFIG_NAME} - before
        for name in new:
            (folder / name).unlink(missing_ok=True)
        kept = [str(folder / name) for name in names if name in before]
        blamed = [path for path in kept if path in str(error)]
        if blamed or new.isdisjoint(names):
            advice = f"move {' or '.join(blamed or kept)} away to get it again"
        else:
            advice = "what came is deleted"
        raise InputError(f"{error}; {advice}") from None


def _make_vocab(folder: Path, has_config: bool) -> None:
    """Make vocab.txt from tokenizer.json; where it does not tell the casing that tokenizer.json does, the tokenizer's
    config does, which was fetched if `has_config`."""
    lower, _ = casing(folder)
    write_vocab(folder / TOKENIZER_NAME, folder / VOCAB_NAME)
    if casing(folder)[0] != lower:
        _write_casing(folder, read_json(folder / TOKENIZER_CONFIG_NAME) if has_config else {}, lower)
    print(f"{folder / VOCAB_NAME} made from {TOKENIZER_NAME}", flush=True)


def _correct_casing(folder: Path, source: str) -> None:
    """Where the hub's tokenizer_config.json is wrong about a model of LOWER_CASED, write what is right into it."""
    settings = read_json(folder / TOKENIZER_CONFIG_NAME)
    if settings.get("do_lower_case") is False and any(f"/{name}/resolve/" in source for name in LOWER_CASED):
        _write_casing(folder, settings, True)
        print(f"{folder / TOKENIZER_CONFIG_NAME}: do_lower_case made true, as the model was trained", flush=True)


def _write_casing(folder: Path, settings: dict[str, Any], lower: bool) -> None:
    write_json(folder / TOKENIZER_CONFIG_NAME, {**settings, "do_lower_case": lower})
