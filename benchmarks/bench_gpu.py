"""GPU memory and launches of training steps: counted, not measured, and without a GPU.

    python benchmarks/bench_gpu.py [--stages memory launches]

Whole steps of the kit's models, losses and optimizer run on tensors without data (torch's device meta), as they would
run on a GPU: under autocast as CUDA's, and with CUDA's kernels for attention and dropout. The bytes of all tensors that
are alive are added up after each operation, at their peak beside what torch itself takes on a GPU: some 0.5 GB, and
what its allocator cannot use. Operations that compute are counted, views are not. Takes about 2 minutes on one core.
"""
from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import itertools
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from measure import ROOT, print_table
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from transformer.config import BertConfig
from transformer.distillation import layer_map, needed, soft_cross_entropy, transformer_losses
from transformer.modeling import BertModel, TinyBertForPreTraining, TinyBertForSequenceClassification, fused_attention
from transformer.optimization import BertAdam, parameter_groups
from transformer.planning.languages import BERT_BASE as TEACHER
from transformer.training.processes import PRECISIONS, freeze

STUDENTS = {name: BertConfig.from_json_file(ROOT / f"tinybert_{name}_config" / "config.json") for name in ("4l", "6l")}
TOGETHER = {"4l": ("4l",), "6l": ("6l",), "4l and 6l": ("4l", "6l")}
BATCH, LENGTHS, PASSES = 256, (128, 256, 384, 512), (1, 2, 4, 8)  # of general distillation
LOSSES, PRECISIONS_SHOWN = ("scores", "gram"), ("bf16", "fp32")
SHORT_BATCH, SHORT_LENGTH = 32, 64                                # of task distillation
# What the host does alone: other views of the same memory, memory without values.
LAUNCHES_NOTHING = set(
    "view transpose t expand _unsafe_view unsqueeze select slice detach permute alias as_strided squeeze unbind split "
    "split_with_sizes empty empty_like new_empty _record_function_enter_new _record_function_exit".split())
# A kernel over lists of tensors takes so many tensors at once, by the number of lists, and so many blocks of elements
# (multi_tensor_apply of PyTorch).
TENSORS_AT_ONCE, BLOCKS_AT_ONCE, BLOCK = {1: 110, 2: 64, 3: 48, 4: 36}, 320, 1 << 16


def kernels(name: str, args: Sequence[Any]) -> int:
    """Launched by an operation: by one over lists of tensors (_foreach_, _fused_) several, and one for each where
    shapes differ between the lists, which CUDA takes one by one."""
    if name in LAUNCHES_NOTHING:
        return 0
    lists = [argument for argument in args[:4] if isinstance(argument, (list, tuple)) and argument
             and isinstance(argument[0], Tensor)]
    if not name.startswith(("_foreach_", "_fused_")) or not lists:
        return 1
    if any(tensor.shape != first.shape for column in zip(*lists) for first, tensor in itertools.pairwise(column)):
        return len(lists[0])
    blocks = sum(-(-tensor.numel() // BLOCK) for tensor in lists[0])
    return max(-(-len(lists[0]) // TENSORS_AT_ONCE[len(lists)]), -(-blocks // BLOCKS_AT_ONCE))


class Counted(TorchDispatchMode):
    """Counts the kernels that a GPU would be given, by operation in `launches`, and the bytes of all tensors that are
    alive, now and at the peak.

    Tensors that were there before are not seen: make all of them inside.
    """

    def __init__(self):
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self._seen:
            return
        self._seen.add(storage._cdata)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, storage._cdata, storage.nbytes())

    def _remove(self, name: int, size: int) -> None:
        self._seen.discard(name)
        self.now -= size

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        self.launches[name] += kernels(name, args)
        if name == "_fused_adamw_":  # in place, and unknown to meta tensors
            return None
        found = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                self._add(tensor)
        return found


class Fused(torch.autograd.Function):
    """Attention as CUDA's fused kernels keep it: no scores, but for each row of them a sum in 32 bits."""

    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """As scaled_dot_product_attention's."""
        out = torch.zeros_like(query)  # what a kernel writes
        sums = query.detach().new_empty(query.shape[:-1], dtype=torch.float32)
        context.save_for_backward(query, key, value, mask, out, sums)
        return out

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of query, key and value."""
        return *map(torch.zeros_like, context.saved_tensors[:3]), None


# What CUDA's autocast computes in 16 bits, and in 32 bits, of the functions that models and losses call.
PRODUCTS = {functional.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, functional.scaled_dot_product_attention}
EXACT = {functional.layer_norm, torch.softmax, Tensor.softmax, Tensor.log_softmax, functional.mse_loss}


class Gpu(TorchFunctionMode):
    """Makes functions of meta tensors what they are on a GPU: under autocast to `dtype`, if that is given, and with its
    kernels for attention and dropout."""

    def __init__(self, dtype: torch.dtype | None = None):
        super().__init__()
        self._dtype = dtype
        self._copies: dict[int, Tensor] = {}  # of weights, which autocast makes once in a forward pass

    def _cast(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        if not tensor.is_floating_point() or tensor.dtype == dtype:
            return tensor
        if not isinstance(tensor, torch.nn.Parameter):
            return tensor.to(dtype)
        if id(tensor) not in self._copies:
            self._copies[id(tensor)] = tensor.to(dtype)
        return self._copies[id(tensor)]

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        dtype = self._dtype if function in PRODUCTS else torch.float32 if self._dtype and function in EXACT else None
        if dtype:
            args, kwargs = tree_map_only(Tensor, lambda tensor: self._cast(tensor, dtype), (args, kwargs))
        if function is functional.dropout:
            return torch.native_dropout(args[0], kwargs["p"], True)[0] if kwargs["training"] else args[0]
        if function is functional.scaled_dot_product_attention:
            return Fused.apply(*args[:4])
        return function(*args, **kwargs)


class Step:
    """One optimizer step of some students under one teacher, with all that it holds."""

    def __init__(self, kind: str, names: Sequence[str], precision: str, query_key: bool = False):
        """kind: distillation (as the general and the intermediate stage) or prediction; names: of the students;
        query_key: the attention loss without scores."""
        self.kind, self.precision, self.query_key = kind, precision, query_key
        self.teacher = BertModel(TEACHER, add_pooler=False).eval()  # in memory also where its answers are known
        freeze(self.teacher, precision)
        self.students = [TinyBertForPreTraining(STUDENTS[name], TEACHER.hidden_size) if kind == "distillation" else
                         TinyBertForSequenceClassification(STUDENTS[name], 2) for name in names]
        self.pairs = [layer_map(TEACHER.num_hidden_layers, student.config.num_hidden_layers)
                      for student in self.students]
        for student in self.students:
            student.train()
        self.optimizers = [BertAdam(parameter_groups(student, 0.01), lr=1e-4) for student in self.students]

    def __call__(self, micro_batch: int, length: int, passes: int = 1) -> None:
        """Train on so many forward passes of so many sequences."""
        for _ in range(passes):
            ids = torch.zeros(micro_batch, length, dtype=torch.int64)
            batch = ids, torch.zeros_like(ids), torch.ones_like(ids)
            if self.kind == "distillation":
                self._distill(batch)
            else:
                self._predict(batch)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()

    def _distill(self, batch: tuple[Tensor, ...]) -> None:
        with torch.no_grad():
            hidden, scores, _ = self.teacher(*batch, pool=False, query_key=self.query_key, **needed(self.pairs, 1))
        for student, pairs in zip(self.students, self.pairs):
            with Gpu(PRECISIONS[self.precision]):
                outputs = student(*batch, query_key=self.query_key, **needed([pairs], 0))
            losses = transformer_losses(outputs, (scores, hidden), pairs, batch[2])
            del outputs  # as the scripts, which hold the losses alone
            sum(losses).backward()

    def _predict(self, batch: tuple[Tensor, ...]) -> None:
        for student in self.students:
            with Gpu(PRECISIONS[self.precision]):
                logits = student(*batch, attention_scores=())[0].float()
            soft_cross_entropy(logits, torch.zeros_like(logits)).backward()


@contextlib.contextmanager
def counter_of(kind: str, names: Sequence[str], precision: str,
               query_key: bool = False) -> Iterator[Callable[..., Counted]]:
    """count(batch_size, length, passes=1): what such a step launches and holds, with gradients and both moments there.
    Of several passes two are run, for a third would find what the second does; their launches are not those of all."""
    with mock.patch("torch.autocast", lambda *_, **__: contextlib.nullcontext()), \
            mock.patch("transformer.modeling.fused_attention", functools.partial(fused_attention, multiple=8)), \
            torch.device("meta"), Gpu(), Counted() as counted:
        step = Step(kind, names, precision, query_key)
        step(1, 8)  # the first makes the moments

        def count(batch_size: int, length: int, passes: int = 1) -> Counted:
            gc.collect()
            counted.launches.clear()
            counted.peak = counted.now
            step(batch_size // passes, length, min(passes, 2))
            return counted

        yield count


def memory() -> None:
    """Of general distillation, by students, length, attention loss, precision and forward passes."""
    columns = list(itertools.product(PRECISIONS_SHOWN, PASSES))
    peaks: dict[tuple[str, int, str], dict[tuple[str, int], str]] = {}
    for students, loss, precision in itertools.product(TOGETHER, LOSSES, PRECISIONS_SHOWN):
        with counter_of("distillation", TOGETHER[students], precision, loss == "gram") as count:
            for length, passes in itertools.product(LENGTHS, PASSES):
                cells = peaks.setdefault((students, length, loss), {})
                cells[precision, passes] = f"{count(BATCH, length, passes).peak / 1e9:.1f}"
    print(f"GB at the peak of a step of general distillation, {BATCH} sequences, by precision and forward passes\n")
    print_table(["students, wordpieces, attention loss", *(f"{precision}, {passes}" for precision, passes in columns)],
                [[", ".join(map(str, row)), *map(peaks[row].get, columns)]
                 for row in itertools.product(TOGETHER, LENGTHS, LOSSES)])
    table = []
    for name in STUDENTS:
        row = [name]
        for precision in PRECISIONS_SHOWN:
            with counter_of("prediction", [name], precision) as count:
                row.append(f"{count(SHORT_BATCH, SHORT_LENGTH).peak / 1e9:.2f}")
        table.append(row)
    print(f"\nGB at the peak of a step of the prediction stage, {SHORT_BATCH} x {SHORT_LENGTH}\n")
    print_table(["student", *PRECISIONS_SHOWN], table)


def launches() -> None:
    """Of a step of both stages of task distillation."""
    def row(kind: str, students: str, loss: str) -> list[str]:
        cells = []
        for precision in PRECISIONS_SHOWN:
            with counter_of(kind, TOGETHER[students], precision, loss == "gram") as count:
                cells.append(f"{count(SHORT_BATCH, SHORT_LENGTH).launches.total():,}")
        return [", ".join(filter(None, [kind, students, loss])), *cells]

    print_table(["stage, students, attention loss", *PRECISIONS_SHOWN], [
        *(row("prediction", name, "") for name in STUDENTS),
        *(row("distillation", students, loss) for students, loss in itertools.product(TOGETHER, LOSSES))])


STAGES = {function.__name__: function for function in (memory, launches)}


def main(argv: list[str] | None = None) -> None:
    """Count what is asked for, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    for stage in parser.parse_args(argv).stages:
        print(f"\n## {stage}: counted, not measured\n", flush=True)
        STAGES[stage]()


if __name__ == "__main__":
    main()
