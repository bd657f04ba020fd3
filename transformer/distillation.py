"""What a student learns from a teacher: which layer from which, and the losses as pure functions."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from transformer.config import SIZES, BertConfig
from transformer.files import InputError
from transformer.modeling import BertModel

PADDED_SCORE = -100.0  # scores at or below this belong to padded positions and count as 0 in both models

Pairs = list[tuple[int, int]]  # (student index, teacher index)
Outputs = tuple[Sequence[Tensor | None], Sequence[Tensor]]  # attention scores, hidden states


def layer_map(teacher_layers: int, student_layers: int, mapping: str = "uniform") -> tuple[Pairs, Pairs]:
    """Pairs (student, teacher) of attention layers and of hidden states, counted from 0 (paper, 3.1 and table 4).

    Hidden state 0 is the embedding output and always pairs with 0. With k = teacher / student layers, `uniform`
    pairs attention i with i * k + k - 1 and hidden state j with j * k; `top` takes the teacher's last layers,
    `bottom` its first. Raises InputError where the teacher has fewer layers, or no multiple for `uniform`.
    """
    if teacher_layers < student_layers:
        raise InputError(f"the teacher has {teacher_layers} layers, fewer than the student's {student_layers}")
    if mapping == "uniform" and teacher_layers % student_layers:
        raise InputError(f"the teacher's {teacher_layers} layers are no multiple of the student's {student_layers}, "
                         "as the uniform layer mapping needs: take another student")
    step = teacher_layers // student_layers
    last = {"uniform": lambda i: i * step + step - 1,
            "top": lambda i: teacher_layers - student_layers + i,
            "bottom": lambda i: i}[mapping]
    attention = [(i, last(i)) for i in range(student_layers)]
    # hidden state j + 1 is the output of layer j
    return attention, [(0, 0)] + [(student + 1, teacher + 1) for student, teacher in attention]


def ablate(pairs: tuple[Pairs, Pairs], without: Sequence[str]) -> tuple[Pairs, Pairs]:
    """Leave out the pairs of some losses (paper, table 3): `attn` attention, `embd` embedding output, `hidn` layers."""
    attention, hidden = pairs
    return ([] if "attn" in without else attention,
            [pair for pair in hidden if ("embd" if pair == (0, 0) else "hidn") not in without])


def compared(student: BertConfig, teacher: BertConfig, mapping: str = "uniform",
             without: Sequence[str] = ()) -> tuple[Pairs, Pairs]:
    """What the losses compare of a student and its teacher: the pairs of layer_map(), less those that ablate() leaves
    out.

    Raises InputError where the numbers of layers do not fit, or those of heads; neither is asked where no layer, or no
    attention score, is compared.
    """
    if {"attn", "hidn"} <= set(without):
        return [], [(0, 0)]
    pairs = ablate(layer_map(teacher.num_hidden_layers, student.num_hidden_layers, mapping), without)
    if pairs[0] and student.num_attention_heads != teacher.num_attention_heads:
        raise InputError(f"the student has {student.num_attention_heads} attention heads, the teacher "
                         f"{teacher.num_attention_heads}: scores are compared head by head, so they must agree (or "
                         "--without attn)")
    return pairs


def needed(pairs: Iterable[tuple[Pairs, Pairs]], side: int) -> dict[str, Any]:
    """What the losses of all these (attention pairs, hidden pairs) read of student (side 0) or teacher (side 1).

    As keywords of a model's forward: `layers`, how many to run, and `attention_scores`, the layers whose attention
    scores to return.
    """
    attention, hidden = (list(chain.from_iterable(parts)) for parts in zip(*pairs))
    # a set: of the list of a second model torch.compile finds no element
    scored = frozenset(pair[side] for pair in attention)
    # attention layer i is the (i + 1)-th; hidden state j is the output of the j-th
    return {"layers": max([0, *(layer + 1 for layer in scored), *(pair[side] for pair in hidden)]),
            "attention_scores": scored}


def copy_layers(student: BertModel, teacher: BertModel, pairs: Pairs) -> None:
    """Copy the teacher's embeddings and, for each (student layer, teacher layer) of `pairs`, that layer's weights.

    Raises InputError where a size of the two differs, the number of layers aside, and the rows of the word embeddings,
    of which either may have some for padding.
    """
    for name in SIZES:
        if name in ("vocab_size", "num_hidden_layers"):
            continue
        sizes = [getattr(model.config, name) for model in (student, teacher)]
        if sizes[0] != sizes[1]:
            raise InputError(f"--init_from_teacher_layers: {name} is {sizes[0]} in the student and {sizes[1]} in the "
                             "teacher: take a student as wide as the teacher, or drop the flag")
    embeddings, words = teacher.embeddings.state_dict(), student.embeddings.word_embeddings.weight.detach().clone()
    shared = min(len(words), teacher.config.vocab_size)
    words[:shared] = embeddings["word_embeddings.weight"][:shared]
    student.embeddings.load_state_dict({**embeddings, "word_embeddings.weight": words})
    for student_layer, teacher_layer in pairs:
        student.encoder.layer[student_layer].load_state_dict(teacher.encoder.layer[teacher_layer].state_dict())


def attention_loss(student: Sequence[Tensor | None], teacher: Sequence[Tensor | None], pairs: Pairs) -> Tensor:
    """Sum over layer pairs of the mean squared error of attention scores (paper, equation 7), in float32.

    student, teacher: scores before softmax, [batch, heads, sequence, sequence] each; those outside `pairs` may be
    None. The mean goes over the whole tensor; scores <= -100 (padded positions) count as 0, in each model by itself.
    """
    def visible(scores: Tensor) -> Tensor:
        return functional.threshold(scores.float(), PADDED_SCORE, 0.0)  # one pass, and no mask to keep for backward

    return sum((functional.mse_loss(visible(student[s]), visible(teacher[t])) for s, t in pairs), torch.zeros(()))


def hidden_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], pairs: Pairs) -> Tensor:
    """Sum over pairs of the mean squared error of hidden states (paper, equations 8 and 9), in float32.

    student: projected to the teacher's width; both [batch, sequence, width]. Padded positions are part of the mean.
    """
    return sum((functional.mse_loss(student[s].float(), teacher[t].float()) for s, t in pairs), torch.zeros(()))


def transformer_losses(student: Outputs, teacher: Outputs, pairs: tuple[Pairs, Pairs]) -> tuple[Tensor, Tensor]:
    """Attention loss and hidden loss of (attention scores, hidden states) of both models; 0 where nothing is paired."""
    losses = attention_loss(student[0], teacher[0], pairs[0]), hidden_loss(student[1], teacher[1], pairs[1])
    return tuple(loss.to(student[1][0].device) for loss in losses)  # a loss without pairs lies on the CPU


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean over batch AND classes of -softmax(teacher / t) * log_softmax(student / t) (paper, equation 10).

    student, teacher: logits [batch, classes].
    """
    target = (teacher / temperature).softmax(dim=-1)
    return -(target * (student / temperature).log_softmax(dim=-1)).mean()
