"""The processes that train together, the device of each, and how exactly it computes."""
from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from transformer.distillation import compiler_fault
from transformer.files import InputError

_OF_GRADIENTS = timedelta(minutes=30)  # that a process waits for another's; longer than the first takes to save
_OF_NUMBERS = timedelta(days=7)  # one may wait long for arrays that another makes


@dataclass(frozen=True)
class Processes:
    """This process among all that train together: one without torchrun, several (on one or more machines) with it.

    rank: number of this process, 0 the one that writes; world: how many there are; device: what this one computes on;
    patient: the group in which they exchange what lies on the CPU.
    """
    rank: int
    world: int
    device: torch.device
    patient: dist.ProcessGroup | None = field(default=None, compare=False)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def send(self, tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
        """Tensors on the device; the host does not wait until they are there."""
        if self.device.type == "cuda":
            return tuple(self.pinned(tensor).to(self.device, non_blocking=True) for tensor in tensors)
        return tuple(tensors)

    def pinned(self, tensor: Tensor) -> Tensor:
        """A tensor from which send() need not copy first."""
        return tensor.pin_memory() if self.device.type == "cuda" else tensor

    def finish_computing(self) -> None:
        """Wait until the device has done all that it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def total(self, values: Tensor) -> Tensor:
        """Sum of `values` over all processes, in place."""
        if self.world > 1:
            dist.all_reduce(values, group=self._group_of(values))
        return values

    def smallest(self, values: Tensor) -> Tensor:
        """The smallest of `values` of all processes, element by element, in place."""
        if self.world > 1:
            dist.all_reduce(values, dist.ReduceOp.MIN, self._group_of(values))
        return values

    def _group_of(self, values: Tensor) -> dist.ProcessGroup | None:
        return self.patient if values.device.type == "cpu" else None

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in any process."""
        return bool(self.total(torch.tensor(int(flag))))

    def from_first(self, number: int) -> int:
        """The number that the first process has."""
        return int(self.total(torch.tensor(number if self.is_first else 0)))

    def wait(self) -> None:
        """Until all processes are here."""
        self.any(False)

    def end_together(self, error: Exception | None) -> None:
        """Where any process has an error all end: the first of those that have one raises it, so that it is printed
        once, and the others end with status 2."""
        speaker = int(self.smallest(torch.tensor(self.rank if error else self.world)))
        if speaker == self.rank:
            raise error
        if speaker < self.world:
            raise SystemExit(2)

    def in_turn(self, work: Callable[[], None]) -> None:
        """Call `work` in the first process and, when that is done, in the others; where it fails (InputError, OSError)
        all end together."""
        for first in (True, False):
            error = None
            if self.is_first == first:
                try:
                    work()
                except (InputError, OSError) as failure:
                    error = failure
            self.end_together(error)

    def synchronised(self, wrapped: nn.Module, last: bool) -> contextlib.AbstractContextManager:
        """Around forward and backward of one share of a batch: gradients are averaged after the last one only."""
        return wrapped.no_sync() if self.world > 1 and not last else contextlib.nullcontext()

    def wrap(self, student: nn.Module) -> nn.Module:
        """The student as it is trained: with gradients averaged over the processes. All its trainable parameters have
        to take part in every loss (see optimization.freeze_unused)."""
        return DistributedDataParallel(student) if self.world > 1 else student


def join_processes(no_cuda: bool = False, local_rank: int = -1) -> Processes:
    """This process, with its device, after joining those that torchrun started; the first alone prints to stdout.

    The device is the CUDA device of the process's number on its machine (or local_rank, without torchrun), the CPU
    where there is none or with no_cuda. Raises InputError where there is no GPU of that number.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        if "LOCAL_RANK" not in os.environ:
            raise InputError(f"WORLD_SIZE is {world} and LOCAL_RANK is not set: start several processes with torchrun")
        local_rank = int(os.environ["LOCAL_RANK"])
    device = _device(no_cuda, local_rank)
    if world == 1:
        return Processes(0, 1, device)
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=_OF_GRADIENTS)
    processes = Processes(dist.get_rank(), world, device, dist.new_group(backend="gloo", timeout=_OF_NUMBERS))
    if not processes.is_first:
        sys.stdout = open(os.devnull, "w")
    return processes


def _device(no_cuda: bool, local_rank: int) -> torch.device:
    """What join_processes() says of the device; a warning where there is a GPU that torch cannot use."""
    if no_cuda:
        return torch.device("cpu")
    with warnings.catch_warnings():  # torch's, over several lines, say what is said here
        warnings.simplefilter("ignore")
        if not torch.cuda.is_available():
            if local_rank <= 0 and (unused := _unused_gpu()):
                print(f"warning: {unused}", file=sys.stderr, flush=True)
            return torch.device("cpu")
        if not -1 <= local_rank < torch.cuda.device_count():
            raise InputError(f"GPU {local_rank} was asked for and this machine has {torch.cuda.device_count()}: start "
                             "as many processes as there are GPUs")
        device = torch.device("cuda", max(local_rank, 0))
        _require_kernels(device)
        torch.cuda.set_device(device)
    return device


def _unused_gpu() -> str:
    """What to say of the GPU that nvidia-smi shows and torch cannot use; nothing where none is shown, or it is hidden
    on purpose."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    command = shutil.which("nvidia-smi")
    if command is None or visible in ("", "-1"):
        return ""
    try:
        shown = subprocess.run([command, "--query-gpu=name,driver_version", "--format=csv,noheader"], text=True,
                               check=True, capture_output=True, timeout=30).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):  # a driver without a GPU
        return ""
    if not shown:
        return ""
    name, _, driver = shown[0].rpartition(", ")
    if torch.version.cuda is None:
        cause = "which has no CUDA: install a torch that has"
    else:
        cause = f"which is for CUDA {torch.version.cuda}: install a newer driver, or a torch for an older CUDA"
        cause += f", or mend CUDA_VISIBLE_DEVICES={visible}" if visible else ""
    return (f"this runs on the CPU: {name} (driver {driver}) is there and cannot be used by torch {torch.__version__}, "
            f"{cause}; --no_cuda says that the CPU is meant")


def _require_kernels(device: torch.device) -> None:
    """InputError where torch was built for other GPUs than this one."""
    names = torch.cuda.get_arch_list()
    built = [(match[1], divmod(int(match[2]), 10)) for name in names
             if (match := re.fullmatch("(sm|compute)_([0-9]+)[a-z]?", name))]
    if not built:  # AMD
        return
    own = torch.cuda.get_device_capability(device)
    # code for 8.0 runs on 8.6, not on 9.0; what can be compiled for 8.0, on all later ones
    if not any(have <= own and (kind == "compute" or have[0] == own[0]) for kind, have in built):
        raise InputError(f"{torch.cuda.get_device_name(device)} has compute capability {own[0]}.{own[1]}, and torch "
                         f"{torch.__version__} is built for {', '.join(names)}: install a torch for an older or newer "
                         "CUDA that has it, or give --no_cuda")


PRECISIONS = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def set_precision(precision: str, processes: Processes) -> str:
    """Make fp32 matrix products exact, or TensorFloat-32 with tf32. Returns the precision to compute in, which is
    `precision` or, for auto, bf16 where all processes have a GPU with bf16 units, else fp32.

    Raises InputError where the device lacks the precision.
    """
    on_gpu = processes.device.type == "cuda"
    has_units = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "auto":
        precision = "fp32" if processes.any(not has_units) else "bf16"
    if precision in ("tf32", "fp16") and not on_gpu:
        raise InputError(f"--precision {precision} needs a GPU and there is none (or --no_cuda): take fp32 or bf16")
    if precision in ("tf32", "bf16") and on_gpu and not has_units:
        raise InputError(f"--precision {precision} needs a GPU of compute capability 8.0 and "
                         f"{torch.cuda.get_device_name(processes.device)} has less: take fp32 or fp16")
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    return precision


def set_device_flags(args: argparse.Namespace, processes: Processes) -> None:
    """With --deterministic let the GPU add up in the same order every time; to be called before it computes. An
    operation that cannot is refused when it comes.

    Raises InputError with --compile where torch cannot compile, and with --deterministic where there is no GPU: the CPU
    adds up in one order anyway.
    """
    if args.compile and (fault := compiler_fault(processes.device)):
        raise InputError(f"--compile: torch cannot compile here: {fault}: mend that, or leave --compile out")
    if not args.deterministic:
        return
    if processes.device.type != "cuda":
        raise InputError("--deterministic is for a GPU and there is none: the CPU gives the same weights for the same "
                         "command anyway; drop the flag")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which cuBLAS reads when it starts
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads what was not written


def mixed(precision: str, device: torch.device) -> torch.autocast:
    """Context of a student's forward pass: its matrix products in 16 bits with bf16 and fp16."""
    return torch.autocast(device.type, PRECISIONS[precision], enabled=PRECISIONS[precision] is not None)


def freeze(teacher: nn.Module, precision: str) -> None:
    """Make a teacher's weights constants, of 16 bits with bf16 and fp16."""
    teacher.requires_grad_(False)
    if PRECISIONS[precision]:
        teacher.to(PRECISIONS[precision])


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's generators (all devices)."""
    random.seed(seed)
    np.random.seed(seed % (1 << 32))
    torch.manual_seed(seed)
