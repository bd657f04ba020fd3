"""The two stages of task distillation: what a student is taught, and its losses (paper, section 3)."""
from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from transformer.data.features import Sequences
from transformer.distillation import Outputs, Pairs, needed, transformer_losses
from transformer.tasks.head import Head
from transformer.tasks.task import Task
from transformer.training.batches import few_lengths
from transformer.training.processes import Processes, mixed
from transformer.training.scoring import cached_logits


def learns_labels(args: argparse.Namespace, head: Head) -> bool:
    """Whether the prediction stage learns the data's labels. Published code, and the paper's text, give STS-B gold
    scores; the paper's numbers used the teacher's."""
    return args.hard_labels or (head.gold_in_code and args.preset == "code")


def keeps_answers(args: argparse.Namespace, head: Head) -> bool:
    """Whether the prediction stage asks the teacher once for each example: in evaluation mode it says the same in every
    epoch. In the published code its dropout is on."""
    return args.preset == "paper" and not learns_labels(args, head)


def padding_counts(args: argparse.Namespace, head: Head) -> bool:
    """Whether the loss of the prediction stage depends on how far one pads."""
    return head.sees_padding and (learns_labels(args, head) or args.preset == "code")


def answer_length(args: argparse.Namespace, sees_padding: bool, lengths: np.ndarray) -> int | None:
    """Wordpieces to pad a batch of examples of these lengths to, where answers are learnt.

    Where the loss sees padding, the longest that there can be; else None, which is the longest of each share, or, with
    --compile, one of few lengths.
    """
    if sees_padding:
        return args.max_seq_length
    return few_lengths(lengths, args.max_seq_length) if args.compile else None


@dataclass
class IntermediateStage:
    """The student learns attention and hidden states of its teacher. pairs: those of compared(); transformer_losses: or
    as losses_on() gives it."""
    args: argparse.Namespace
    pairs: tuple[Pairs, Pairs]
    transformer_losses: Callable[..., tuple[Tensor, Tensor]] = transformer_losses
    loss_names = ("att_loss", "rep_loss")

    def padded_length(self, lengths: np.ndarray) -> int | None:
        """Wordpieces to pad all shares of a batch to: the losses average over padding, so its length matters, and must
        not depend on how a batch is split. lengths: of the examples of the batch."""
        return int(lengths.max()) if self.args.dynamic_padding else self.args.max_seq_length

    def taught(self, teacher: nn.Module, batch: tuple[Tensor, ...], rows: np.ndarray,
               stages: Sequence[IntermediateStage]) -> Outputs:
        """Attention scores and hidden states of the teacher, as far as the losses of these stages read them.

        batch: input_ids, token_type_ids, attention_mask, int64 [batch, length], of the examples `rows`.
        """
        with torch.no_grad():
            _, *outputs = teacher(*batch, classify=False, query_key=self.args.attention_loss == "gram",
                                  **needed([stage.pairs for stage in stages], 1))
        return outputs

    def losses(self, student: nn.Module, batch: tuple[Tensor, ...], teacher_outputs: Outputs) -> tuple[Tensor, Tensor]:
        """Attention loss and hidden loss of a batch, two scalars (paper, equations 7 to 9)."""
        with mixed(self.args.precision, batch[0].device):
            _, *outputs = student(*batch, is_student=True, classify=False, query_key=self.args.attention_loss == "gram",
                                  **needed([self.pairs], 0))
        return self.transformer_losses(outputs, teacher_outputs, self.pairs, batch[2])


class PredictionStage:
    """The student learns answers: the data's labels, or its teacher's logits."""
    loss_names = ("cls_loss",)

    def __init__(self, args: argparse.Namespace, task: Task, teacher: nn.Module, order: list[int], train: Sequences,
                 processes: Processes):
        """order: the teacher's column for each class; train: the examples to learn."""
        self.args, self.head, self.processes = args, task.head, processes
        self.as_published = args.preset == "code"
        self.order = torch.tensor(order, device=processes.device)
        self.is_gold = learns_labels(args, task.head)
        self.known = train.labels if self.is_gold else None  # what to learn; None: the teacher is asked each time
        if keeps_answers(args, task.head):
            self.known = cached_logits(teacher, task.head, train, args.eval_batch_size, processes,
                                       args.cache_dir or Path(args.data_dir) / "features",
                                       fallback=Path(args.output_dir) / "features")

    def padded_length(self, lengths: np.ndarray) -> int | None:
        """See answer_length()."""
        return answer_length(self.args, padding_counts(self.args, self.head), lengths)

    def taught(self, teacher: nn.Module, batch: tuple[Tensor, ...], rows: np.ndarray,
               stages: Sequence[PredictionStage]) -> Tensor:
        """What to learn of the examples `rows`: labels, or logits whose columns are the teacher's; batch as in
        IntermediateStage. No stage shares its teacher with another one."""
        if self.known is not None:
            targets, = self.processes.send([torch.from_numpy(self.known[rows])])
            return targets
        with torch.no_grad():
            return teacher(*batch, attention_scores=())[0]

    def losses(self, student: nn.Module, batch: tuple[Tensor, ...], targets: Tensor) -> tuple[Tensor]:
        """Prediction loss of a batch, a scalar (paper, equation 10)."""
        with mixed(self.args.precision, batch[0].device):
            logits = student(*batch, attention_scores=())[0].float()
        if self.is_gold:
            return self.head.hard_loss(logits, targets),
        return self.head.soft_loss(logits, targets.float()[..., self.order], self.args.temperature, batch[2],
                                   self.as_published),


Stage = IntermediateStage | PredictionStage
