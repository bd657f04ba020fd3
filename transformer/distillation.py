"""What a student learns from a teacher: which layer from which, and the losses as pure functions."""
from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from transformer.config import SIZES, BertConfig
from transformer.files import InputError
from transformer.modeling import MASKED_SCORE, BertModel, Scores

PADDED_SCORE = -100.0  # scores at or below this belong to padded positions and count as 0 in both models
GRAM_LENGTH = 256  # wordpieces from which on the attention loss costs less without scores

_WARNED: set[str] = set()  # whose low scores were told of

Pairs = list[tuple[int, int]]  # (student index, teacher index)
Outputs = tuple[Sequence[Scores], Sequence[Tensor]]  # attention scores (or what they are made of), hidden states


def layer_map(teacher_layers: int, student_layers: int, mapping: str = "uniform") -> tuple[Pairs, Pairs]:
    """Pairs (student, teacher) of attention layers and of hidden states, counted from 0 (paper, 3.1 and table 4).

    Hidden state 0 is the embedding output and always pairs with 0. With k = teacher / student layers, `uniform`
    pairs attention i with i * k + k - 1 and hidden state j with j * k; `top` takes the teacher's last layers,
    `bottom` its first. `last` pairs the two last layers alone, however many there are, and not the embedding outputs:
    the loss of AutoTinyBERT (ACL 2021). Raises InputError where the teacher has fewer layers, or no multiple for
    `uniform`.
    """
    if mapping == "last":
        return [(student_layers - 1, teacher_layers - 1)], [(student_layers, teacher_layers)]
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


def compared(student: BertConfig, teacher: BertConfig, mapping: str, without: Sequence[str]) -> tuple[Pairs, Pairs]:
    """What the losses compare of a student and its teacher: the pairs of layer_map(), less those that ablate() leaves
    out.

    Raises InputError where the numbers of layers do not fit, or those of heads; neither is asked where no layer, or no
    attention score, is compared.
    """
    if {"attn", "hidn"} <= set(without) and mapping != "last":
        return [], [(0, 0)]
    pairs = ablate(layer_map(teacher.num_hidden_layers, student.num_hidden_layers, mapping), without)
    heads = teacher.num_attention_heads
    if pairs[0] and student.num_attention_heads != heads:
        width = f", whose hidden_size is a multiple of that: {student.hidden_size} is none"
        raise InputError(f"the student has {student.num_attention_heads} attention heads, the teacher {heads}: scores "
                         "are compared head by head, so they must agree: leave that loss out with --without attn, or "
                         f"take a student of {heads} heads{width if student.hidden_size % heads else ''}")
    return pairs


def needed(pairs: Sequence[tuple[Pairs, Pairs]], side: int) -> dict[str, Any]:
    """What the losses of all these (attention pairs, hidden pairs) read of a model: of the student (side 0), or of the
    teacher (side 1) that several students may share.

    As keywords of its forward: `layers`, how many to run, `attention_scores`, the layers whose attention scores to
    return, and for a student `fitted`, the hidden states to project.
    """
    # a set: of the list of a second model torch.compile finds no element
    scored = frozenset(pair[side] for attention, _ in pairs for pair in attention)
    hidden = [pair[side] for _, hidden_pairs in pairs for pair in hidden_pairs]
    # attention layer i is the (i + 1)-th; hidden state j is the output of the j-th
    wanted = {"layers": max([0, *(layer + 1 for layer in scored), *hidden]), "attention_scores": scored}
    return wanted if side else {**wanted, "fitted": frozenset(hidden)}


def copy_layers(student: BertModel, teacher: BertModel, pairs: Pairs) -> None:
    """Copy the teacher's embeddings and, for each (student layer, teacher layer) of `pairs`, that layer's weights.

    Of embeddings of positions, which a NEZHA has none of, it is printed where only one of the two has them: the
    student's stay random, the teacher's are left out. Raises InputError where a size of the two or the activation
    differs, the number of layers aside, and the rows of the word embeddings, of which either may have some for padding.
    """
    if teacher.config.has_projection:
        raise InputError(f"--init_from_teacher_layers: the teacher's embeddings are {teacher.config.embedding_width} "
                         f"wide and projected, as an {teacher.config.family.name} has them, and no student's are: drop "
                         "the flag")
    for name in (*SIZES, "hidden_act", "max_relative_position"):
        sizes = [getattr(model.config, name) for model in (student, teacher)]
        if name in ("vocab_size", "num_hidden_layers") or name == "max_relative_position" and None in sizes:
            continue
        if sizes[0] != sizes[1]:
            raise InputError(f"--init_from_teacher_layers: {name} is {sizes[0]} in the student and {sizes[1]} in the "
                             "teacher: take a student that is as the teacher there, or drop the flag")
    embeddings, words = teacher.embeddings.state_dict(), student.embeddings.word_embeddings.weight.detach().clone()
    shared = min(len(words), teacher.config.vocab_size)
    words[:shared] = embeddings["word_embeddings.weight"][:shared]
    own, copied = student.embeddings.state_dict(), {**embeddings, "word_embeddings.weight": words}
    if new := own.keys() - copied.keys():
        print(f"--init_from_teacher_layers: {', '.join(sorted(new))} of the student stay random, the teacher has none",
              flush=True)
    if unused := copied.keys() - own.keys():
        print(f"--init_from_teacher_layers: {', '.join(sorted(unused))} of the teacher are left out, the student has "
              "none", flush=True)
    student.embeddings.load_state_dict({name: copied.get(name, tensor) for name, tensor in own.items()})
    own_layers, teacher_layers = student.encoder.layers(), teacher.encoder.layers()
    for student_layer, teacher_layer in pairs:
        own_layers[student_layer].load_state_dict(teacher_layers[teacher_layer].state_dict())


def attention_loss(student: Sequence[Scores], teacher: Sequence[Scores], pairs: Pairs) -> Tensor:
    """Sum over layer pairs, of which there is one, of the mean squared error of attention scores (paper, equation 7),
    in float32.

    student, teacher: scores before softmax, [batch, heads, sequence, sequence] each; those outside `pairs` may be
    None. The mean goes over the whole tensor; scores <= -100 count as 0, in each model by itself. These are the padded
    positions, to which the models add MASKED_SCORE, and whatever real score lies so low (see lowest_score).
    """
    def visible(scores: Tensor) -> Tensor:
        return functional.threshold(scores.float(), PADDED_SCORE, 0.0)  # one pass, and no mask to keep for backward

    first, *others = (functional.mse_loss(visible(student[s]), visible(teacher[t])) for s, t in pairs)
    return sum(others, first)


class _Gram(torch.autograd.Function):
    """The products of all columns with each other, X^T X of X = [learned, fixed]: [..., S, D] and [..., S, E], float32
    -> [..., D + E, D + E]. The gradient reaches `learned` alone.

    Forward and backward are exact in float32, also where --precision tf32 shortens the factors of other products: the
    loss is a small difference of large products, so that the rounded factors of its backward pass would show.
    """

    @staticmethod
    def forward(ctx: Any, learned: Tensor, fixed: Tensor) -> Tensor:
        columns = torch.cat([learned, fixed], -1)
        ctx.save_for_backward(columns)
        ctx.width = learned.size(-1)
        return _exact_product(columns.mT, columns)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        columns, = ctx.saved_tensors
        return _exact_product(columns, (gradient + gradient.mT)[..., :ctx.width]), None


def _exact_product(one: Tensor, other: Tensor) -> Tensor:
    """The product of matrices of float32 whose elements are not shortened; torch has one setting for all, which is put
    back."""
    precision = torch.get_float32_matmul_precision()
    if precision == "highest":
        return one @ other
    torch.set_float32_matmul_precision("highest")
    try:
        return one @ other
    finally:
        torch.set_float32_matmul_precision(precision)


def gram_attention_loss(student: Sequence[Scores], teacher: Sequence[Scores], pairs: Pairs,
                        attention_mask: Tensor) -> Tensor:
    """attention_loss() from (query, key) of each layer, [batch, heads, sequence, head size] each: no scores are made.

    attention_mask: 1 real, 0 padding, [batch, sequence]. For a head, the sum of the squares of
    Q_s K_s^T / sqrt(d_s) - Q_t K_t^T / sqrt(d_t) = U V^T is the sum over the elements of (U^T U) * (V^T V), where
    U = [Q_s / sqrt(d_s), -Q_t / sqrt(d_t)] and V = [K_s, K_t], less the rows of V whose keys are padding.

    In float32, also within autocast and of queries and keys of 16 bits. Where student and teacher all but agree the sum
    is rounded, and the loss, never the gradient, is cut at 0. Real scores <= -100 count as they are.
    """
    def layer_loss(own: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> Tensor:
        batch, heads, length, _ = own[0].shape
        queries = _Gram.apply(own[0].float() / math.sqrt(own[0].size(-1)),
                              other[0].float() / -math.sqrt(other[0].size(-1)))
        keys = _Gram.apply(own[1].float() * is_real, other[1].float() * is_real)
        return (queries * keys).sum() / (batch * heads * length * length)

    with torch.autocast(attention_mask.device.type, enabled=False):
        is_real = attention_mask[:, None, :, None].float()
        first, *others = (layer_loss(student[s], teacher[t]) for s, t in pairs)
        loss = sum(others, first)
        return loss + (loss.clamp(min=0) - loss).detach()


def hidden_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], pairs: Pairs) -> Tensor:
    """Sum over pairs, of which there is one, of the mean squared error of hidden states (paper, equations 8 and 9), in
    float32.

    student: projected to the teacher's width; both [batch, sequence, width]. Padded positions are part of the mean.
    """
    first, *others = (functional.mse_loss(student[s].float(), teacher[t].float()) for s, t in pairs)
    return sum(others, first)


def transformer_losses(student: Outputs, teacher: Outputs, pairs: tuple[Pairs, Pairs],
                       attention_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Attention loss and hidden loss of (attention scores, hidden states) of both models; 0 where nothing is paired.

    Where the models tell (query, key) in place of scores the attention loss is gram_attention_loss(), which needs the
    attention_mask of the batch.
    """
    attention, hidden = teacher[1][0].new_zeros(2, dtype=torch.float32)  # on the device: nothing waits for a copy
    if pairs[0]:
        of_scores = isinstance(student[0][pairs[0][0][0]], Tensor)
        attention = attention_loss(student[0], teacher[0], pairs[0]) if of_scores else \
            gram_attention_loss(student[0], teacher[0], pairs[0], attention_mask)
    if pairs[1]:
        hidden = hidden_loss(student[1], teacher[1], pairs[1])
    return attention, hidden


def chosen_attention_loss(wanted: str, preset: str, max_seq_length: int, models: Iterable[BertConfig]) -> str:
    """What the attention loss is made of: `scores`, or `gram` for queries and keys; by --attention_loss, which may be
    `auto`, too.

    auto: `gram` where the scores, which grow with the square of the length, are dearer than the products of queries and
    keys, but never with --preset code, whose loss leaves out real scores <= -100, too. models: what is compared. Raises
    InputError for `gram` where one of them adds to its scores more than such products.
    """
    if any(model.max_relative_position for model in models):
        if wanted == "gram":
            raise InputError("--attention_loss gram: a NEZHA's scores are more than products of queries and keys: take "
                             "--attention_loss scores")
        return "scores"
    if wanted == "auto":
        is_dearer = preset == "paper" and max_seq_length >= GRAM_LENGTH
        return "gram" if is_dearer else "scores"
    return wanted


def losses_on(device: torch.device, is_compiled: bool) -> Callable[..., tuple[Tensor, Tensor]]:
    """transformer_losses() as it is called in training on a device: compiled with --compile (is_compiled) and, on a GPU
    for which torch finds a compiler, by default, since each of its many small operations would have to be launched.

    What is compiled gives the same numbers but for rounding. The loss from queries and keys, nearly all of which are
    matrix products, stays as it is.
    """
    if not is_compiled:
        if device.type != "cuda":
            return transformer_losses
        if fault := compiler_fault(device):
            print(f"the losses are not compiled, which takes longer: {fault}", flush=True)
            return transformer_losses
    compiled = torch.compile(transformer_losses)

    def losses(student: Outputs, teacher: Outputs, pairs: tuple[Pairs, Pairs],
               attention_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        called = transformer_losses if any(isinstance(layer, tuple) for layer in student[0]) else compiled
        return called(student, teacher, pairs, attention_mask)

    return losses


def compiler_fault(device: torch.device) -> str:
    """Why torch cannot compile for a device, in one line; nothing where it can. That takes several packages and
    programs, some of which are looked for in the midst of it: so it is tried."""
    try:
        torch.compile(lambda ones: ones + 1)(torch.ones(2, device=device))
    except Exception as error:  # noqa: BLE001  # each part fails in its own way
        fault = f"{type(error).__name__}: {' '.join(str(error).partition(chr(10))[0].split())}"
        # torch 2.13 writes both into a line for g++, which it then splits at spaces; it has set the variable
        folders = str(Path(torch.__file__).parent), os.environ.get("TORCHINDUCTOR_CACHE_DIR", "")
        spaced = [folder for folder in folders if " " in folder]
        if "CppCompileError" in fault and spaced:
            fault += f" (torch does not compile with a space in {spaced[0]})"
        return fault
    return ""


def lowest_score(query: Tensor, key: Tensor, attention_mask: Tensor) -> float:
    """A lower bound of the attention scores of a layer for real keys, from query and key, [B, A, S, D] each: by the
    norms of both where that is above PADDED_SCORE, else the lowest score itself. The host waits for it."""
    query, key = query.detach().float() / math.sqrt(query.size(-1)), key.detach().float()
    is_real = attention_mask[:, None, :].bool()                                                  # [B, 1, S]
    longest = key.norm(dim=-1).masked_fill(~is_real, 0.0).amax(-1)                               # [B, A]
    bound = -(query.norm(dim=-1).amax(-1) * longest).max().item()
    if bound > PADDED_SCORE:
        return bound
    return min((q @ k.mT).masked_fill(~real[:, None], math.inf).min().item()  # of one sequence after the other
               for q, k, real in zip(query, key, is_real))


def warn_of_low_scores(layers: Sequence[Scores], attention_mask: Tensor, whose: str) -> None:
    """Print, once for each `whose`, that real scores lie where --attention_loss scores would count them as padding.

    layers: of a model's last batch; asked are those that tell (query, key). The host waits for the answer.
    """
    asked = [layer for layer in layers if isinstance(layer, tuple)]
    if whose in _WARNED or not asked:
        return
    lowest = min(lowest_score(query, key, attention_mask) for query, key in asked)
    if lowest <= PADDED_SCORE:
        _WARNED.add(whose)
        print(f"warning: an attention score of the {whose} is {lowest:.1f}: the published loss counts scores <= "
              f"{PADDED_SCORE:.0f} as 0, --attention_loss gram does not; take --attention_loss scores for that",
              flush=True)


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean over batch AND classes of -softmax(teacher / t) * log_softmax(student / t) (paper, equation 10).

    student, teacher: logits [batch, classes].
    """
    target = (teacher / temperature).softmax(dim=-1)
    return -(target * (student / temperature).log_softmax(dim=-1)).mean()


def span_cross_entropy(student: Tensor, teacher: Tensor, attention_mask: Tensor, temperature: float = 1.0) -> Tensor:
    """Sum over positions of -softmax(teacher / t) * log_softmax(student / t), both over the positions that are no
    padding; its mean over the batch, and of start and end. So it does not depend on how far one pads.

    student, teacher: logits [B, S, 2]; attention_mask: [B, S]. That BERT learns spans by the same sum over positions
    sets its scale: see docs/squad.md.
    """
    is_padding = attention_mask[:, :, None] == 0
    target = (teacher.masked_fill(is_padding, MASKED_SCORE) / temperature).softmax(dim=1)
    log_shares = (student.masked_fill(is_padding, MASKED_SCORE) / temperature).log_softmax(dim=1)
    return -(target * log_shares).sum(dim=1).mean()
