"""The weights of models: files read safely and written atomically, the one set of names that this kit gives to them,
and whether they are those that a model needs.
"""
from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from transformer.config import CONFIG_NAME, BertConfig
from transformer.files import InputError, atomic_write

WEIGHTS_NAME = "pytorch_model.bin"
SAFETENSORS_NAME = "model.safetensors"
WORD_EMBEDDINGS = "bert.embeddings.word_embeddings.weight"
TIED_DECODER = "cls.predictions.decoder.weight"  # of the masked LM: the word embeddings once more
MAX_HEADER_BYTES = 8 << 20  # of a .safetensors file; BERT-large's has 50 KB


def read_weights(folder: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a model folder, on the CPU, under the names that the file gives them.

    pytorch_model.bin comes before model.safetensors where both are there, because it is what this kit writes.
    Nothing in the file is executed. Raises InputError when there is no such file, or when it is damaged.
    """
    folder = Path(folder)
    if (folder / WEIGHTS_NAME).is_file():
        return read_bin(folder / WEIGHTS_NAME)
    if (folder / SAFETENSORS_NAME).is_file():
        return read_safetensors(folder / SAFETENSORS_NAME)
    raise InputError(f"{folder} holds neither {WEIGHTS_NAME} nor {SAFETENSORS_NAME}")


def read_bin(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict saved by torch.save; InputError if it is cut short or holds anything but tensors.

    What it takes in memory follows from the size of the file, whatever the file says.
    """
    try:
        _check_pickle(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(f"{path} is damaged or holds more than tensors (a pickle with code is never run): "
                         "get it again from a source you trust") from None
    except Exception as error:  # noqa: BLE001  damage can make the reader stumble over anything
        raise InputError(f"{path} cannot be read ({type(error).__name__}): it is damaged or cut short; "
                         "get it again") from None
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
        raise InputError(f"{path} cannot be read (a header of {header:,} bytes): it is damaged or cut short; "
                         "get it again")
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(f"{path} cannot be read ({error}): it is damaged or cut short; get it again") from None


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


def canonical_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give tensors the names of the published package, whatever BERT package saved them.

    Bare encoder names get the prefix `bert.`; `gamma` and `beta` become `weight` and `bias`; position_ids buffers and
    the second name of the masked-LM bias are dropped; a decoder weight that the file leaves out because it is tied to
    the word embeddings is put in. Raises InputError where two tensors claim one name.
    """
    canonical: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith(("embeddings.position_ids", "embeddings.token_type_ids")):
            continue
        if name == "cls.predictions.decoder.bias":
            if "cls.predictions.bias" in state:
                if not torch.equal(tensor, state["cls.predictions.bias"]):
                    raise InputError(f"{name} differs from cls.predictions.bias, to which BERT ties it")
                continue
            name = "cls.predictions.bias"
        if name.startswith(("embeddings.", "encoder.", "pooler.")):
            name = f"bert.{name}"
        if name.endswith(".gamma"):
            name = name.removesuffix("gamma") + "weight"
        if name.endswith(".beta"):
            name = name.removesuffix("beta") + "bias"
        if name in canonical:
            raise InputError(f"two tensors of the checkpoint claim the name {name}")
        canonical[name] = tensor
    if "cls.predictions.bias" in canonical and WORD_EMBEDDINGS in canonical:
        canonical.setdefault(TIED_DECODER, canonical[WORD_EMBEDDINGS])
    return canonical


def require_sizes(config: BertConfig, state: dict[str, Tensor], folder: str | Path) -> None:
    """InputError where the large weights, under canonical names, are not of the sizes that a config says.

    Asked before a model of these sizes is made: its memory then follows from what the file of weights really holds.
    """
    rows = {"embeddings.word_embeddings": config.vocab_size,
            "embeddings.position_embeddings": config.max_position_embeddings,
            "embeddings.token_type_embeddings": config.type_vocab_size}
    for layer in range(config.num_hidden_layers):
        rows[f"encoder.layer.{layer}.attention.self.query"] = config.hidden_size
        rows[f"encoder.layer.{layer}.intermediate.dense"] = config.intermediate_size
    for name, size in rows.items():
        found = state.get(f"bert.{name}.weight", torch.empty(0)).shape
        if found != (size, config.hidden_size):
            raise InputError(f"{folder}: by {CONFIG_NAME} bert.{name}.weight is [{size}, {config.hidden_size}], in the "
                             f"weights it is {list(found) if found != (0,) else 'missing'}")


def load_strictly(model: nn.Module, state: dict[str, Tensor], source: str | Path, new: tuple[str, ...] = ()) -> None:
    """Load tensors under canonical names into a model of modeling.py; heads that it does not have are left out.

    new: name prefixes of weights that may stay as they are where `state` lacks them or holds them in another shape.
    What was left out and what is new is printed. Raises InputError, which names the `source`, listing every missing,
    unexpected or misshapen weight, and where the tied weights differ.
    """
    if not hasattr(model, "bert"):
        state = {name.removeprefix("bert."): tensor for name, tensor in state.items()}
    own = model.state_dict()
    fits = {name: tensor for name, tensor in state.items() if name in own and tensor.shape == own[name].shape}
    misshapen = [f"{name} is {list(state[name].shape)}, the model needs {list(own[name].shape)}"
                 for name in own if name in state and name not in fits and not name.startswith(new)]
    missing = [name for name in own if name not in state and not name.startswith(new)]
    heads = ("cls.", "classifier.", "fit_dense", "bert.pooler.", "pooler.")
    left_out = [name for name in state if name not in own and name.startswith(heads)]
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
