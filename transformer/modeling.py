"""BERT and TinyBERT as modules, with the names, call conventions and outputs of the published package.

Models return what distillation reads: hidden states and attention scores before softmax, all or those asked for.
Shapes: B batch, S sequence length, H hidden size, A attention heads, D = H / A. Tensors are of the weights' dtype,
ids and masks int64.
"""
from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from transformer.config import ACTIVATIONS, CONFIG_NAME, BertConfig
from transformer.files import InputError
from transformer.kinds import kind_of
from transformer.weights import head_convention, load_strictly, read_model, require_sizes

MASKED_SCORE = -10000.0  # added to the attention score of every padded position

Scores = Tensor | tuple[Tensor, Tensor] | None  # of a layer: [B, A, S, S], or (query, key), [B, A, S, D] each

# What people call the heads of models -> how the names of their weights begin.
HEADS = {"pooler": "bert.pooler.", "masked LM": "cls.predictions.", "next sentence": "cls.seq_relationship.",
         "classifier": "classifier.", "span": "qa_outputs.", "projections": "fit_dense"}


class BertEmbeddings(nn.Module):
    """Sum of word, position (not in a NEZHA) and segment embeddings, normalised; projected where they are narrow."""

    def __init__(self, config: BertConfig):
        super().__init__()
        width = config.embedding_width
        self.word_embeddings = nn.Embedding(config.vocab_size, width, padding_idx=0)
        if config.max_relative_position is None:
            self.position_embeddings = nn.Embedding(config.max_position_embeddings, width)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        if config.has_projection:
            self.project = nn.Linear(width, config.hidden_size)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor) -> Tensor:
        """Ids and segments [B, S] -> [B, S, H]."""
        summed = self.word_embeddings(input_ids)
        if hasattr(self, "position_embeddings"):
            summed = summed + self.position_embeddings(torch.arange(input_ids.size(1), device=input_ids.device))
        embedded = self.dropout(self.LayerNorm(summed + self.token_type_embeddings(token_type_ids)))
        return self.project(embedded) if hasattr(self, "project") else embedded


def fused_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float,
                    multiple: int = 1) -> Tensor:
    """Attention by one kernel that writes no scores: query, key, value [B, A, S, D], mask [B, 1, 1, S] -> [B, A, S, D].

    multiple: the kernel takes heads of a multiple of so many numbers; others are padded with zeros, which add nothing.
    """
    size = query.size(-1)
    padding = -size % multiple
    if padding:
        query, key, value = (nn.functional.pad(tensor, (0, padding)) for tensor in (query, key, value))
    context = nn.functional.scaled_dot_product_attention(
        query, key, value, None if mask is None else mask.to(query.dtype), dropout, scale=1 / math.sqrt(size))
    return context[..., :size] if padding else context


def relative_positions(length: int, furthest: int, size: int, device: torch.device) -> Tensor:
    """What NEZHA adds to a key and a value by its distance from the query: float32 [2 S, D], for the distances
    -(S - 1) to S, of which those beyond `furthest` count as that far.

    Sines in even columns, cosines in odd ones (NEZHA, arXiv 1909.00204, equation 6, where distances count from
    -furthest).
    """
    distances = torch.arange(1 - length, length + 1, device=device).clamp(-furthest, furthest) + furthest
    rates = torch.pow(10000.0, -torch.arange(0, size, 2, device=device, dtype=torch.float64) / size)
    angles = distances[:, None] * rates
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)[:, :size].float()


def by_key(of_distances: Tensor) -> Tensor:
    """[..., S, 2 S], for each query a value of each distance as in relative_positions() -> [..., S, S], of each key:
    a view, since from one query to the next the keys move by one place."""
    length = of_distances.size(-2)
    return of_distances.flatten(-2)[..., length - 1:2 * length * length - 1].unflatten(
        -1, (length, 2 * length - 1))[..., :length]


def by_distance(of_keys: Tensor) -> Tensor:
    """The way back: [..., S, S] -> [..., S, 2 S], with 0 at distances that no key has."""
    length = of_keys.size(-1)
    rows = nn.functional.pad(of_keys, (0, length - 1)).flatten(-2)
    return nn.functional.pad(rows, (length - 1, 1)).unflatten(-1, (length, 2 * length))


class BertSelfAttention(nn.Module):
    """Multi-head attention that also returns its scores before softmax, where they are wanted (paper, equation 1)."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.heads = config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(self, hidden: Tensor, mask: Tensor | None, want_scores: bool,
                query_key: bool = False, relative: Tensor | None = None) -> tuple[Tensor, Scores]:
        """hidden [B, S, H], mask (added to the scores, [B, 1, 1, S]) -> context [B, S, H], scores [B, A, S, S].

        The scores are None unless wanted; with query_key they are what they are made of: (query, key), [B, A, S, D].
        relative: what relative_positions() gives, of a NEZHA; no kernel is fused then, and query_key has no meaning.
        """
        query, key, value = (projection(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)   # [B, A, S, D]
                             for projection in (self.query, self.key, self.value))
        writes_scores = want_scores and not query_key
        # What learns from its scores goes on with them. What learns nothing, as a teacher, is fused whatever is asked
        # of it, so that its numbers do not depend on that. On the CPU, in bfloat16, the fused kernel with its backward
        # pass is slower than separate operations.
        is_fused = relative is None and not (torch.is_grad_enabled() and (
            writes_scores or query.is_cpu and query.dtype == torch.bfloat16))
        attention_scores = None
        if writes_scores or not is_fused:
            scaled = query / math.sqrt(query.size(-1))
            attention_scores = scaled @ key.transpose(-1, -2)                                     # [B, A, S, S]
            if relative is not None:
                relative = relative.to(value.dtype)
                attention_scores = attention_scores + by_key(scaled @ relative.T)
            if mask is not None:
                attention_scores += mask  # in place: the product's gradient does not read it
        if is_fused:  # CUDA's kernels that take a mask want heads of a multiple of 8
            context = fused_attention(query, key, value, mask, self.dropout.p if self.training else 0.0,
                                      multiple=8 if query.is_cuda else 1)
        else:
            attention = self.dropout(attention_scores.softmax(dim=-1))
            context = attention @ value                                                          # [B, A, S, D]
            if relative is not None:
                context = context + by_distance(attention).to(relative.dtype) @ relative
        context = context.transpose(1, 2).flatten(2)
        return context, ((query, key) if query_key else attention_scores) if want_scores else None


class BertSelfOutput(nn.Module):
    """Projection, dropout, residual and LayerNorm after attention and after the feed-forward layer."""

    def __init__(self, config: BertConfig, input_size: int):
        super().__init__()
        self.dense = nn.Linear(input_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, values: Tensor, residual: Tensor) -> Tensor:
        """values [B, S, input_size], residual [B, S, H] -> [B, S, H]."""
        return self.LayerNorm(self.dropout(self.dense(values)) + residual)


class BertAttention(nn.Module):
    """Self-attention with its output projection."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.self = BertSelfAttention(config)
        self.output = BertSelfOutput(config, config.hidden_size)

    def forward(self, hidden: Tensor, mask: Tensor | None, want_scores: bool, query_key: bool,
                relative: Tensor | None) -> tuple[Tensor, Scores]:
        """As BertSelfAttention, with hidden states in place of the context."""
        context, attention_scores = self.self(hidden, mask, want_scores, query_key, relative)
        return self.output(context, hidden), attention_scores


class BertIntermediate(nn.Module):
    """First half of the feed-forward layer."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, S, H] -> [B, S, intermediate_size]."""
        return self.activation(self.dense(hidden))


class BertLayer(nn.Module):
    """One Transformer layer."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.attention = BertAttention(config)
        self.intermediate = BertIntermediate(config)
        self.output = BertSelfOutput(config, config.intermediate_size)

    def forward(self, hidden: Tensor, mask: Tensor | None, want_scores: bool, query_key: bool,
                relative: Tensor | None) -> tuple[Tensor, Scores]:
        """As BertSelfAttention, with hidden states in place of the context."""
        hidden, attention_scores = self.attention(hidden, mask, want_scores, query_key, relative)
        return self.output(self.intermediate(hidden), hidden), attention_scores


class BertEncoder(nn.Module):
    """The stack of layers: `layer` holds those that have weights of their own, of which an ALBERT runs each several
    times in a row."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.config = config
        self.layer = nn.ModuleList(BertLayer(config) for _ in range(config.num_own_layers))

    def layers(self) -> list[BertLayer]:
        """The layers in the order in which they run, num_hidden_layers of them."""
        config = self.config
        return [self.layer[index * config.num_own_layers // config.num_hidden_layers]
                for index in range(config.num_hidden_layers)]

    def forward(self, hidden: Tensor, mask: Tensor | None, layers: int | None,
                attention_scores: Collection[int] | None, query_key: bool) -> tuple[list[Tensor], list[Scores]]:
        """Embedding output [B, S, H] -> hidden states and attention scores, as BertModel returns them."""
        hidden_states, all_attention_scores, relative = [hidden], [], None
        if self.config.max_relative_position:  # once for all layers: it has no weights
            relative = relative_positions(hidden.size(1), self.config.max_relative_position,
                                          self.config.hidden_size // self.config.num_attention_heads, hidden.device)
        for index, layer in enumerate(self.layers()[:layers]):
            want_scores = attention_scores is None or index in attention_scores
            hidden, layer_scores = layer(hidden, mask, want_scores, query_key, relative)
            hidden_states.append(hidden)
            all_attention_scores.append(layer_scores)
        return hidden_states, all_attention_scores


class BertPooler(nn.Module):
    """tanh (of an ELECTRA gelu) of a projection of the first token's last hidden state."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.family.pooler_act]

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, S, H] -> [B, H]."""
        return self.activation(self.dense(hidden[:, 0]))


class BertPredictionHeadTransform(nn.Module):
    """Projection to the width of the embeddings before the masked-LM decoder."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.embedding_width)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(config.embedding_width, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., H] -> [..., width of the embeddings]."""
        return self.LayerNorm(self.activation(self.dense(hidden)))


class BertLMPredictionHead(nn.Module):
    """Masked-LM head; its decoder weight is the word embedding matrix."""

    def __init__(self, config: BertConfig, word_embeddings: nn.Parameter):
        super().__init__()
        self.transform = BertPredictionHeadTransform(config)
        self.decoder = nn.Linear(config.embedding_width, config.vocab_size, bias=False)
        self.decoder.weight = word_embeddings
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., H] -> logits [..., vocabulary]."""
        return self.decoder(self.transform(hidden)) + self.bias


class BertOnlyMLMHead(nn.Module):
    """The masked-LM head under the name `cls.predictions`; takes hidden states of any leading shape."""

    def __init__(self, config: BertConfig, word_embeddings: nn.Parameter):
        super().__init__()
        self.predictions = BertLMPredictionHead(config, word_embeddings)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., H] -> logits [..., vocabulary]."""
        return self.predictions(hidden)


class BertPreTrainingHeads(BertOnlyMLMHead):
    """Masked-LM head and next-sentence head (class 0: B follows A; class 1: B is random)."""

    def __init__(self, config: BertConfig, word_embeddings: nn.Parameter):
        super().__init__(config, word_embeddings)
        self.seq_relationship = nn.Linear(config.hidden_size, 2)

    def forward(self, hidden: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """hidden [..., H], pooled [B, H] -> logits [..., vocabulary], [B, 2]."""
        return self.predictions(hidden), self.seq_relationship(pooled)


def student_config(folder: str | Path, teacher: BertConfig | None = None) -> BertConfig:
    """The config.json of a folder, of a student. What it leaves out of vocab_size and num_attention_heads is the
    teacher's. Raises InputError as BertConfig does, and where the folder is another model's or the family one that no
    students are made of."""
    if what := kind_of(folder):
        raise InputError(f"{folder} {what}")
    config = BertConfig.from_json_file(Path(folder) / CONFIG_NAME, teacher.for_students if teacher else None)
    if not config.family.is_student:
        raise InputError(f"{folder}: a student is a BERT or a NEZHA, whatever its teacher is, and by {CONFIG_NAME} "
                         f"this is an {config.family.name}: name another folder, such as tinybert_4l_config")
    return config


class BertPreTrainedModel(nn.Module):
    """What all models share: weight initialisation, strict loading, building from a config folder."""

    hf_architecture = ""  # the class of Hugging Face transformers that reads this model's folder
    has_fit = False       # whether the class takes fit_size and fit_per_layer

    def __init__(self, config: BertConfig):
        super().__init__()
        self.config = config

    def init_weights(self) -> None:
        """Normal with standard deviation initializer_range; biases 0; LayerNorm 1 and 0. `bert` has done its own."""
        parts = [part for name, part in self.named_children() if name != "bert"]
        for module in (module for part in parts for module in part.modules()):
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=self.config.initializer_range)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    @classmethod
    def from_scratch(cls, folder: str | Path, teacher: BertConfig | None = None, **kwargs: Any) -> BertPreTrainedModel:
        """A model with random weights, of the sizes in `folder`/config.json; `kwargs` go to the class.

        teacher: whose vocabulary a student takes in place of its own, which is printed, and what student_config() says.
        Raises InputError as student_config() does.
        """
        config = student_config(folder, teacher)
        if teacher and config.vocab_size != teacher.vocab_size:
            print(f"{Path(folder) / CONFIG_NAME} says vocab_size {config.vocab_size}: {teacher.vocab_size} is taken, "
                  "the teacher's", flush=True)
            config = dataclasses.replace(config, vocab_size=teacher.vocab_size)
        return cls(config, **kwargs)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, new: tuple[str, ...] = (), **kwargs: Any) -> BertPreTrainedModel:
        """Load a model folder strictly; `kwargs` go to the class.

        new: name prefixes of weights that the caller accepts as newly initialised where the checkpoint lacks them or
        holds them in another shape, e.g. ("classifier",). What was left out and what is new is printed.
        Of a classifier in the weights it is printed whether it stands on a relu. Raises InputError listing every
        missing, unexpected or misshapen weight, and for files that cannot be used.
        """
        config, state = read_model(folder)
        if cls.has_fit and any(name.startswith("fit_denses.") for name in state):
            kwargs["fit_per_layer"] = True
        elif kwargs.get("fit_per_layer") and any(name.startswith("fit_dense.") for name in state):
            raise InputError(f"--fit_per_layer: {folder} has one projection for all hidden states, fit_dense, and "
                             "keeps it: drop the flag")
        require_sizes(config, state, folder)
        config.classifier_relu, why = head_convention(config, state, kwargs.get("num_labels"))
        model = cls(config, **kwargs)
        load_strictly(model, state, folder, tuple(HEADS.values()), new)
        if hasattr(model, "classifier") and len(state.get("classifier.weight", ())) == len(model.classifier.weight):
            print(f"{folder}: classifier {'on' if config.classifier_relu else 'without'} a relu ({why})", flush=True)
        return model


class BertModel(BertPreTrainedModel):
    """The encoder: embeddings, layers and, unless `add_pooler` is false, the pooler."""

    hf_architecture = "BertModel"

    def __init__(self, config: BertConfig, add_pooler: bool = True):
        super().__init__(config)
        self.embeddings = BertEmbeddings(config)
        self.encoder = BertEncoder(config)
        self.pooler = BertPooler(config) if add_pooler else None
        self.init_weights()

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None = None, attention_mask: Tensor | None = None,
                pool: bool = True, layers: int | None = None,
                attention_scores: Collection[int] | None = None, query_key: bool = False,
                ) -> tuple[list[Tensor], list[Scores], Tensor | None]:
        """input_ids, token_type_ids, attention_mask (1 real, 0 padding): int [B, S].

        layers: run only the first so many (None: all). attention_scores: the layers, from 0, whose attention scores the
        caller reads (None: all); the others run through a fused kernel where that is faster. query_key: return what
        these scores are made of in their place, so that these layers are fused, too. Without gradient all layers are
        fused, and what is asked for changes no number.

        Returns hidden states (layers + 1 of [B, S, H], embedding output first), attention scores (`layers` of
        [B, A, S, S], before softmax, mask added, or with query_key (query, key), [B, A, S, D] each, whose product over
        sqrt(D) they are without the mask; None where not asked for), and pooled [B, H] (None without a pooler, with
        pool=False or where `layers` ends before the last).
        """
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        embedded = self.embeddings(input_ids, token_type_ids)
        mask = None
        # Without a mask attention is faster. Only the CPU is asked whether it hides nothing: a GPU would have to finish
        # all it was given first, a compiled model would be cut in two.
        if attention_mask is not None and (
                not input_ids.is_cpu or torch.compiler.is_compiling() or not attention_mask.all()):
            mask = (1 - attention_mask[:, None, None, :].to(embedded.dtype)) * MASKED_SCORE       # [B, 1, 1, S]
        hidden_states, all_attention_scores = self.encoder(embedded, mask, layers, attention_scores, query_key)
        whole = len(hidden_states) > self.config.num_hidden_layers
        pooled = self.pooler(hidden_states[-1]) if pool and whole and self.pooler is not None else None
        return hidden_states, all_attention_scores, pooled


class BertForMaskedLM(BertPreTrainedModel):
    """BERT with the masked-LM head; `cls(hidden)` decodes hidden states of any leading shape, `bert` has no pooler."""

    hf_architecture = "BertForMaskedLM"

    def __init__(self, config: BertConfig):
        super().__init__(config)
        self.bert = BertModel(config, add_pooler=False)
        self.cls = BertOnlyMLMHead(config, self.bert.embeddings.word_embeddings.weight)
        self.init_weights()

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None = None,
                attention_mask: Tensor | None = None) -> Tensor:
        """Returns masked-LM logits [B, S, vocabulary]; arguments as BertModel's."""
        return self.cls(self.bert(input_ids, token_type_ids, attention_mask, attention_scores=())[0][-1])


class BertForPreTraining(BertPreTrainedModel):
    """BERT with both pre-training heads; `cls(hidden, pooled)` gives their logits."""

    hf_architecture = "BertForPreTraining"

    def __init__(self, config: BertConfig):
        super().__init__(config)
        self.bert = BertModel(config)
        self.cls = BertPreTrainingHeads(config, self.bert.embeddings.word_embeddings.weight)
        self.init_weights()


class _Fit(BertPreTrainedModel):
    """The projection of student hidden states to the teacher's width (W_h of the paper, equation 8).

    One linear `fit_dense` shared by all layers, as in the first published checkpoints, or one per hidden state,
    `fit_denses.0..M`, as in the second ones. Applied also where the widths agree.
    """

    has_fit = True

    def add_fit(self, fit_size: int | None, fit_per_layer: bool) -> None:
        """Make the projections to the width `fit_size`; None: there are none."""
        if fit_size is not None and fit_per_layer:
            self.fit_denses = nn.ModuleList(nn.Linear(self.config.hidden_size, fit_size)
                                            for _ in range(self.config.num_hidden_layers + 1))
        elif fit_size is not None:
            self.fit_dense = nn.Linear(self.config.hidden_size, fit_size)

    def fit(self, hidden_states: list[Tensor], fitted: Collection[int] | None) -> list[Tensor | None]:
        """[B, S, H] -> [B, S, fit_size] for the hidden states `fitted` (None: all), None for the others."""
        denses = self.fit_denses if hasattr(self, "fit_denses") else [self.fit_dense] * len(hidden_states)
        return [dense(hidden) if fitted is None or index in fitted else None
                for index, (dense, hidden) in enumerate(zip(denses, hidden_states))]


class TinyBertForPreTraining(_Fit):
    """The student of general distillation. Its pooler and pre-training heads are carried along, as published."""

    hf_architecture = "BertForPreTraining"

    def __init__(self, config: BertConfig, fit_size: int | None = 768, fit_per_layer: bool = False):
        super().__init__(config)
        self.bert = BertModel(config)
        self.cls = BertPreTrainingHeads(config, self.bert.embeddings.word_embeddings.weight)
        self.add_fit(fit_size, fit_per_layer)
        self.init_weights()

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None = None,
                attention_mask: Tensor | None = None, layers: int | None = None,
                attention_scores: Collection[int] | None = None, query_key: bool = False,
                fitted: Collection[int] | None = None) -> tuple[list[Scores], list[Tensor | None]]:
        """Returns attention scores and projected hidden states; all as BertModel's, with fit_size for H. fitted: the
        hidden states to project, from 0 (None: all); None stands for the others."""
        hidden_states, all_attention_scores, _ = self.bert(input_ids, token_type_ids, attention_mask, False, layers,
                                                           attention_scores, query_key)
        return all_attention_scores, self.fit(hidden_states, fitted)


class TinyBertForSequenceClassification(_Fit):
    """BERT or TinyBERT with a classifier on the pooled first token (a score where num_labels is 1), after a relu as
    published unless config.classifier_relu says no."""

    hf_architecture = "BertForSequenceClassification"

    def __init__(self, config: BertConfig, num_labels: int, fit_size: int | None = None, fit_per_layer: bool = False):
        if config.classifier_relu is None:  # in a copy: the caller may build other models from it
            config = dataclasses.replace(config, classifier_relu=config.family.relu_head)
        super().__init__(config)
        self.bert = BertModel(config)
        self.classifier = nn.Linear(config.hidden_size, num_labels)
        self.add_fit(fit_size, fit_per_layer)
        self.init_weights()

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None = None, attention_mask: Tensor | None = None,
                is_student: bool = False, classify: bool = True, layers: int | None = None,
                attention_scores: Collection[int] | None = None, query_key: bool = False,
                fitted: Collection[int] | None = None) -> tuple[Tensor | None, list[Scores], list[Tensor | None]]:
        """Returns logits [B, num_labels], attention scores and hidden states, projected where is_student is true,
        those of `fitted` alone, as TinyBertForPreTraining does.

        `layers`, `attention_scores` and `query_key` as BertModel's. The logits are None with classify=False or where
        `layers` ends before the last.
        """
        hidden_states, all_attention_scores, pooled = self.bert(input_ids, token_type_ids, attention_mask, classify,
                                                                layers, attention_scores, query_key)
        logits = None
        if pooled is not None:
            logits = self.classifier(torch.relu(pooled) if self.config.classifier_relu else pooled)
        return logits, all_attention_scores, self.fit(hidden_states, fitted) if is_student else hidden_states


class TinyBertForQuestionAnswering(_Fit):
    """BERT or TinyBERT that scores each wordpiece as the first and as the last of an answer, without a pooler.

    As in Hugging Face's BertForQuestionAnswering there is no dropout and no relu before `qa_outputs`. What the config
    says of a classifier is left out of the model's.
    """

    hf_architecture = "BertForQuestionAnswering"

    def __init__(self, config: BertConfig, fit_size: int | None = None, fit_per_layer: bool = False):
        super().__init__(config.without_classifier())
        self.bert = BertModel(self.config, add_pooler=False)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.add_fit(fit_size, fit_per_layer)
        self.init_weights()

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None = None, attention_mask: Tensor | None = None,
                is_student: bool = False, classify: bool = True, layers: int | None = None,
                attention_scores: Collection[int] | None = None, query_key: bool = False,
                fitted: Collection[int] | None = None) -> tuple[Tensor | None, list[Scores], list[Tensor | None]]:
        """Returns logits [B, S, 2], those of the start in column 0, of the end in column 1; the rest, and the
        arguments, as TinyBertForSequenceClassification's."""
        hidden_states, all_attention_scores, _ = self.bert(input_ids, token_type_ids, attention_mask, False, layers,
                                                           attention_scores, query_key)
        has_answers = classify and len(hidden_states) > self.config.num_hidden_layers
        logits = self.qa_outputs(hidden_states[-1]) if has_answers else None
        return logits, all_attention_scores, self.fit(hidden_states, fitted) if is_student else hidden_states
