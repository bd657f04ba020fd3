"""The weights of models: files read safely and written atomically, the one set of names that this kit gives to them,
and whether they are those that a model needs.
"""
from __future__ import annotations

import errno
import pickle
import zipfile
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from transformer.config import CONFIG_NAME, BertConfig
from transformer.families import BERT, Family
from transformer.files import InputError, atomic_write, find_model, read_json, remove_abandoned
from transformer.kinds import kind_of, not_bert

WEIGHTS_NAME = "pytorch_model.bin"
SAFETENSORS_NAME = "model.safetensors"
_INDEX_NAMES = (f"{SAFETENSORS_NAME}.index.json", f"{WEIGHTS_NAME}.index.json")  # of weights in several files
# of a model folder, by preference
WEIGHT_NAMES = (WEIGHTS_NAME, SAFETENSORS_NAME, *_INDEX_NAMES)
WORD_EMBEDDINGS = "bert.embeddings.word_embeddings.weight"
_PUBLISHED_KEYS = ("cell", "pre_trained", "structure", "emb_size")  # of the published students' config.json
TIED_DECODER = "cls.predictions.decoder.weight"  # of the masked LM: the word embeddings once more
_MLM_BIAS, _DECODER_BIAS = "cls.predictions.bias", "cls.predictions.decoder.bias"  # the second is the first once more
MAX_HEADER_BYTES = 8 << 20  # of a .safetensors file; BERT-large's has 50 KB


def weight_files(folder: str | Path) -> list[Path]:
    """The files that hold the weights of a model folder: one, or the index of several and these; none where there are
    no weights.

    Of several kinds pytorch_model.bin comes first, because it is what this kit writes. Raises InputError where an index
    is damaged, or names a file that is not there.
    """
    folder = Path(folder)
    name = next((name for name in WEIGHT_NAMES if (folder / name).is_file()), None)
    if name is None:
        return []
    if name not in _INDEX_NAMES:
        return [folder / name]
    shards = [folder / shard for shard in shard_names(folder / name)]
    for shard in shards:
        if not shard.is_file():
            raise InputError(f"{shard} does not exist, and {name} says that weights are in it: get it, too")
    return [folder / name, *shards]


def _weight_map(index: Path) -> dict[str, str]:
    """{name of a tensor: name of the file beside the index that holds it}."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(
            isinstance(shard, str) and Path(shard).name == shard for shard in weight_map.values()):
        raise InputError(f"{index} holds no weight_map of tensors and the files beside it: get it again")
    return weight_map


def shard_names(file: str | Path) -> list[str]:
    """Names of the files beside `file` that it lists, where it is an index of weights; else none. InputError where it
    is damaged."""
    return sorted(set(_weight_map(Path(file)).values())) if Path(file).name in _INDEX_NAMES else []


def read_weights(folder: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a model folder, on the CPU, under the names that the file gives them.

    Which files, weight_files() tells; of several each is read, and compared with what the index says of it. Nothing in
    a file is executed. Raises InputError when there is none, saying what the folder is, or when one is damaged.
    """
    files = weight_files(folder)
    if not files:
        raise InputError(f"{folder} {kind_of(folder, WEIGHT_NAMES) or f'holds no {WEIGHTS_NAME}'}")
    if len(files) == 1:
        return _read_file(files[0])
    index, *shards = files
    weight_map, state = _weight_map(index), {}
    for shard in shards:
        tensors = _read_file(shard)
        listed = {name for name, file in weight_map.items() if file == shard.name}
        if different := sorted(listed ^ tensors.keys()):
            raise InputError(f"{shard} {'lacks' if different[0] in listed else 'holds'} {different[0]}, unlike "
                             f"{index.name} says: the files do not belong together, get them again")
        state |= tensors
    return state


def _read_file(path: Path) -> dict[str, Tensor]:
    return read_safetensors(path) if path.suffix == ".safetensors" else read_bin(path)


def _unreadable(path: str | Path, why: str) -> InputError:
    """The error for a file of weights: what it is, if that can be told, else why it cannot be read."""
    return InputError(f"{path} {kind_of(path, WEIGHT_NAMES) or why}")


def read_bin(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict saved by torch.save; InputError if it is cut short or holds anything but tensors.

    What it takes in memory follows from the size of the file, whatever the file says.
    """
    try:
        _check_pickle(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise _unreadable(path, "is damaged or holds more than tensors (a pickle with code is never run): get it again "
                                "from a source you trust") from None
    except Exception as error:  # noqa: BLE001  damage can make the reader stumble over anything
        if isinstance(error, MemoryError):
            raise InputError(f"{path} cannot be read: not enough memory") from None
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # the system's, not the file's
            raise InputError(f"{path} cannot be read: {error.strerror}") from None
        raise _unreadable(path, f"cannot be read ({type(error).__name__}): it is damaged or cut short; get it "
                                "again") from None
    if not isinstance(state, dict) or not all(
            isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()):
        raise InputError(f"{path} is not a table of named tensors (a state dict)")
    plain = all(tensor.layout == torch.strided and tensor.device.type == "cpu" for tensor in state.values())
    if not plain or sum(tensor.nbytes for tensor in state.values()) > 2 * Path(path).stat().st_size:  # tied ones twice
        raise InputError(f"{path} holds tensors of another kind, or larger than the file itself: "
                         "get it again from a source you trust")
    return dict(state)


def _check_pickle(path: str | Path) -> None:
    """UnpicklingError where torch.load(weights_only=True) would make more memory than the file has bytes."""
    function, rest = b"bytearray\n", b""  # the one that torch allows in a pickle and that makes bytes from a number
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            if function in rest + block:
                raise pickle.UnpicklingError
            rest = block[-len(function):]
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:  # torch packs nothing
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise pickle.UnpicklingError


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """Read a .safetensors file; InputError if it is damaged."""
    import safetensors
    import safetensors.torch
    with open(path, "rb") as handle:
        header = int.from_bytes(handle.read(8), "little")
    if header > MAX_HEADER_BYTES:
        raise _unreadable(path, f"cannot be read (a header of {header:,} bytes): it is damaged or cut short; get it "
                                "again")
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise _unreadable(path, f"cannot be read ({error}): it is damaged or cut short; get it again") from None


def write_bin(path: str | Path, state: dict[str, Tensor]) -> None:
    """Write named tensors with torch.save, atomically."""
    with atomic_write(path, "wb") as handle:
        write_pickle({name: tensor.detach().cpu() for name, tensor in state.items()}, handle)


def write_pickle(value: Any, handle: IO[bytes]) -> None:
    """torch.save() into an open file; OSError where it cannot be written, of which torch makes a RuntimeError."""
    try:
        torch.save(value, handle)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def write_safetensors(path: str | Path, state: dict[str, Tensor]) -> None:
    """Write named tensors as .safetensors, atomically; a tensor that shares its memory with another is copied."""
    import safetensors.torch
    with atomic_write(path, "wb") as handle:
        handle.write(safetensors.torch.save(
            {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()},
            metadata={"format": "pt"}))


def canonical_names(state: dict[str, Tensor], family: Family = BERT) -> dict[str, Tensor]:
    """Give the tensors of a model of some family the names of the published package, whatever package saved them.

    What a wrapper put before all names goes (DataParallel's `module.`, torch.compile's `_orig_mod.`); then the
    family's own renames apply; what the family drops and the second name of the masked-LM bias go; a decoder weight
    that the file leaves out because it is tied to the word embeddings is put in. Raises InputError where two tensors
    claim one name, or the second bias differs from the first.
    """
    for wrapper in ("module.", "_orig_mod.", "module."):  # either may stand before the other
        if state and all(name.startswith(wrapper) for name in state):
            state = {name.removeprefix(wrapper): tensor for name, tensor in state.items()}
    canonical: dict[str, Tensor] = {}
    for given_name, tensor in state.items():
        name = family.canonical_name(given_name)
        if name is None:
            continue
        if name in canonical:
            raise InputError(f"two tensors of the checkpoint claim the name {name}")
        canonical[name] = tensor
    second = canonical.pop(_DECODER_BIAS, None)
    if second is not None and not torch.equal(second, canonical.setdefault(_MLM_BIAS, second)):
        raise InputError(f"{_DECODER_BIAS} differs from {_MLM_BIAS}, to which BERT ties it")
    if _MLM_BIAS in canonical and WORD_EMBEDDINGS in canonical:
        canonical.setdefault(TIED_DECODER, canonical[WORD_EMBEDDINGS])
    return canonical


def own_names(state: dict[str, Tensor], family: Family) -> dict[str, Tensor]:
    """Give tensors under canonical names those of their family, by which Hugging Face transformers finds them."""
    return {family.own_name(name): tensor for name, tensor in state.items()}


def head_convention(config: BertConfig, state: dict[str, Tensor], num_labels: int | None = None) -> tuple[bool, str]:
    """Whether a classifier was trained on relu(pooled), and why that is so, by config.json and the weights.

    The published TinyBERT class trains its head so, Hugging Face's does not; under the wrong one the logits are others.
    A head that the weights do not hold (with num_labels: for so many classes) will be a new one of the published kind.
    """
    if config.classifier_relu is not None:
        return config.classifier_relu, f"classifier_relu in {CONFIG_NAME}"
    if not config.family.relu_head:
        return False, f"as {config.family.name}'s"
    if any(name.startswith("fit_dense") for name in state):
        return True, "the weights hold fit_dense, as published students' do"
    if key := next((key for key in _PUBLISHED_KEYS if key in config.extra), None):
        return True, f"{CONFIG_NAME} has published students' key {key}"
    head = state.get("classifier.weight")
    if head is None or num_labels not in (None, len(head)):
        return True, "it is new"
    return False, f"as Hugging Face's: {CONFIG_NAME} does not say, and it is no published student"


def open_model_folder(folder: str | Path) -> BertConfig:
    """The config of a model folder; what a killed process left unfinished in it is removed.

    Raises InputError where it is no folder with a BERT in it, saying what it is, and as BertConfig does.
    """
    folder = find_model(folder)
    if what := kind_of(folder, WEIGHT_NAMES):
        raise InputError(f"{folder} {what}")
    remove_abandoned(folder)
    return BertConfig.from_json_file(folder / CONFIG_NAME)


def read_model(folder: str | Path) -> tuple[BertConfig, dict[str, Tensor]]:
    """Config and weights, under canonical names, of a model folder.

    Raises InputError as open_model_folder() and read_weights() do.
    """
    config = open_model_folder(folder)
    state = canonical_names(read_weights(folder), config.family)
    if what := not_bert(config.extra, tuple(state)):
        raise InputError(f"{folder} {what}")
    return config, state


def layer_names(config: BertConfig) -> list[str]:
    """How the canonical names of each layer's weights begin; an ALBERT's layers share theirs."""
    return [f"bert.encoder.layer.{layer}." for layer in range(config.num_own_layers)]


def require_sizes(config: BertConfig, state: dict[str, Tensor], folder: str | Path) -> None:
    """InputError where the large weights, under canonical names, are not of the sizes that a config says.

    Asked before a model of these sizes is made: its memory then follows from what the file of weights really holds.
    """
    hidden, width = config.hidden_size, config.embedding_width
    sizes = {"bert.embeddings.word_embeddings": [config.vocab_size, width],
             "bert.embeddings.position_embeddings": [config.max_position_embeddings, width],
             "bert.embeddings.token_type_embeddings": [config.type_vocab_size, width]}
    if config.max_relative_position:
        del sizes["bert.embeddings.position_embeddings"]
    if config.has_projection:
        sizes["bert.embeddings.project"] = [hidden, width]
    for layer in layer_names(config):
        sizes[f"{layer}attention.self.query"] = [hidden, hidden]
        sizes[f"{layer}intermediate.dense"] = [config.intermediate_size, hidden]
    for name, size in sizes.items():
        tensor = state.get(f"{name}.weight")
        if tensor is None or list(tensor.shape) != size:
            raise InputError(f"{folder}: by {CONFIG_NAME} {name}.weight is {size}, in the weights it is "
                             f"{'missing' if tensor is None else list(tensor.shape)}")


def load_strictly(model: nn.Module, state: dict[str, Tensor], source: str | Path, heads: tuple[str, ...],
                  new: tuple[str, ...] = ()) -> None:
    """Load tensors under canonical names into a model of modeling.py.

    heads: name prefixes of weights that are left out where the model does not have them; new: of those that may stay
    as they are where `state` lacks them or holds them in another shape.
    What was left out and what is new is printed. Raises InputError, which names the `source`, listing every missing,
    unexpected or misshapen weight, and where the tied weights differ.
    """
    if not hasattr(model, "bert"):
        state = {name.removeprefix("bert."): tensor for name, tensor in state.items()}
        heads = tuple(head.removeprefix("bert.") for head in heads)
    own = model.state_dict()
    fits = {name: tensor for name, tensor in state.items() if name in own and tensor.shape == own[name].shape}
    misshapen = [f"{name} is {list(state[name].shape)}, the model needs {list(own[name].shape)}"
                 for name in own if name in state and name not in fits and not name.startswith(new)]
    missing = [name for name in own if name not in state and not name.startswith(new)]
    has_head = tuple(head for head in heads if any(name.startswith(head) for name in own))  # no part of it goes unsaid
    left_out = [name for name in state if name not in own and name.startswith(heads) and not name.startswith(has_head)]
    unexpected = [name for name in state if name not in own and name not in left_out]
    problems = [f"{len(names)} {kind} weights: {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}"
                for kind, names in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
                if names]
    if problems:
        raise InputError(f"{source} does not fit {type(model).__name__}: {'; '.join(problems)}")
    if TIED_DECODER in fits and not torch.equal(fits[TIED_DECODER], fits[WORD_EMBEDDINGS]):
        raise InputError(f"{source}: {TIED_DECODER} differs from the word embeddings, to which BERT ties it")
    model.load_state_dict(fits, strict=False)
    created = [name for name in own if name not in fits]
    for what, names in (("left out, not used by", left_out), ("newly initialised in", created)):
        if names:
            print(f"{source}: {what} {type(model).__name__}: {', '.join(names)}", flush=True)
