"""model.onnx and model_int8.onnx: made by torch and onnxruntime, compared with the model, timed. Their packages are
loaded here alone, where they are installed."""
from __future__ import annotations

import contextlib
import importlib.util
import logging
import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from transformer.data.features import Sequences
from transformer.files import InputError
from transformer.pieces import Tokenizer

ONNX_NAME, INT8_NAME = "model.onnx", "model_int8.onnx"
TOLERANCE = 1e-4  # of a logit
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")  # in the order in which Hugging Face's classes take them
_BATCHES = (1, 2, 5, 8)  # sizes of those that are compared
TIMED = 100  # texts, at most
_COMPARED, _MADE_UP = 256, 64  # texts


def missing_packages() -> list[str]:
    """Names of the packages without which no ONNX can be made."""
    return [name for name in _PACKAGES if importlib.util.find_spec(name) is None]


def _output_names(model: nn.Module) -> tuple[str, ...]:
    """Those of Hugging Face's classes."""
    return ("start_logits", "end_logits") if hasattr(model, "qa_outputs") else ("logits",)


class _Graph(nn.Module):
    """A model with the inputs and outputs of Hugging Face's class for its task."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor | tuple[Tensor, ...]:
        logits = self.model(input_ids, token_type_ids, attention_mask, attention_scores=())[0]
        return logits if len(_output_names(self.model)) == 1 else logits.unbind(-1)


class OnnxModel(nn.Module):
    """An ONNX file of this module, called like the model that it was made from; the logits alone are told.

    threads: that compute; 0: one for each core.
    """

    def __init__(self, path: Path, threads: int = 0):
        super().__init__()
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def forward(self, input_ids: Tensor, token_type_ids: Tensor, attention_mask: Tensor,
                attention_scores: Sequence[int] = ()) -> tuple[Tensor]:
        """As TinyBertForSequenceClassification's and TinyBertForQuestionAnswering's, whose other results are left out.
        """
        values = dict(zip(_INPUTS, (tensor.numpy() for tensor in (input_ids, attention_mask, token_type_ids))))
        outputs = list(map(torch.from_numpy, self._session.run(None, values)))
        return (outputs[0] if len(outputs) == 1 else torch.stack(outputs, -1),)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the warnings of packages about themselves; what cannot be made is an InputError."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001  of versions that do not fit each other the packages raise any
        reason = " ".join(f"{type(error).__name__} {error}".split())[:200]
        raise InputError(f"no ONNX can be made of the model ({reason}): upgrade {', '.join(_PACKAGES)}, or leave it "
                         "out with --no_onnx") from None
    finally:
        logging.disable(level)


def write_onnx(model: nn.Module, path: Path) -> None:
    """Write a model in eval mode as ONNX, in float32, batch and length free."""
    example = tuple(torch.ones(2, 8, dtype=torch.int64) for _ in _INPUTS)  # one tensor would become one input
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    with _quietly(), torch.no_grad():
        import onnx
        program = torch.onnx.export(_Graph(model).eval(), example, dynamo=True, verbose=False,
                                    input_names=_INPUTS, output_names=_output_names(model),
                                    dynamic_shapes=dict.fromkeys(_INPUTS, axes))
        made = program.model_proto
        for node in made.graph.node:
            del node.metadata_props[:]  # where in this machine's files each operation stands
        del made.graph.value_info[:]  # shapes, over which the quantisation of older versions stumbles
        onnx.save(made, path)


def write_int8(onnx: Path, path: Path) -> None:
    """Write an ONNX file with weights in 8 bits, from which activations get 8 bits as they come (dynamic quantisation).

    Of each column of a matrix its own range, in 7 of the 8 bits: sums of two products of 8 bits would not fit into the
    16 of processors without VNNI, and the file would answer otherwise there.
    """
    with _quietly():
        from onnxruntime.quantization import QuantType, quantize_dynamic
        quantize_dynamic(onnx, path, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)


def made_up(tokenizer: Tokenizer, max_seq_length: int) -> Sequences:
    """Examples of random pieces and lengths, half of them pairs, where no data are at hand."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(4, max_seq_length + 1, _MADE_UP)
    offsets = np.append(0, np.cumsum(lengths))
    tokens = rng.choice(np.array(tokenizer.ordinary_ids(), tokenizer.id_typecode), offsets[-1])
    tokens[offsets[:-1]], tokens[offsets[1:] - 1] = tokenizer.cls_id, tokenizer.sep_id
    first_lengths = np.where(np.arange(_MADE_UP) % 2, lengths, 1 + lengths // 2)
    return Sequences(tokens, offsets, first_lengths.astype(np.int32))


def require_equal_logits(model: nn.Module, onnx: nn.Module, examples: Sequences) -> None:
    """InputError where the logits of the first examples, in batches of several sizes and lengths, differ by more than
    TOLERANCE."""
    count = min(_COMPARED, len(examples))
    ends = np.cumsum(np.resize(_BATCHES, count))
    for rows in np.split(np.arange(count), ends[ends < count]):
        batch = examples.batch(rows)
        with torch.no_grad():
            difference = (model(*batch, attention_scores=())[0] - onnx(*batch)[0]).abs().max().item()
        if not difference <= TOLERANCE:
            raise InputError(f"{ONNX_NAME} would give other logits than the model, by {difference:.2g}, and nothing is "
                             f"written: upgrade {', '.join(_PACKAGES)}, or leave it out with --no_onnx")


def time_of_a_text(model: nn.Module, examples: Sequences) -> float:
    """The median time that one text takes on one thread, over the first TIMED."""
    batches = [examples.batch(np.array([row])) for row in range(min(TIMED, len(examples)))]
    threads, times = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            for batch in (*batches[:5], *batches):  # the first warm up
                started = time.perf_counter()
                model(*batch, attention_scores=())
                times.append(1000 * (time.perf_counter() - started))
    finally:
        torch.set_num_threads(threads)
    return statistics.median(times[len(batches[:5]):])
