"""The sizes and rates of a BERT model, config.json, and whether examples fit them."""
from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from transformer.families import CLASS_KEYS, FAMILIES, Family, family_of
from transformer.files import InputError, read_json, write_json

CONFIG_NAME = "config.json"
ACTIVATIONS = {  # gelu: the exact one, by erf
    "gelu": functional.gelu, "gelu_new": functools.partial(functional.gelu, approximate="tanh"), "relu": torch.relu,
    "silu": functional.silu, "swish": functional.silu, "tanh": torch.tanh}
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads",
         "max_position_embeddings", "type_vocab_size")  # whole numbers above 0
_OWN_SIZES = tuple(sorted({key for family in FAMILIES.values() for key in family.own_keys}))  # of some families alone
MAX_LAYERS, MAX_PARAMETERS = 1000, 10**9  # BERT-large: 24 layers, 335 million parameters


@dataclass
class BertConfig:
    """Sizes and rates of a BERT model, read from and written to config.json; rates are fractions from 0 to 1.

    `classifier_relu`: whether the classifier was trained on relu(pooled), as the published TinyBERT class does and
    Hugging Face's class does not; None where config.json does not say, see weights.head_convention(). `extra` keeps the
    keys that this package has no use for (id2label, ...).
    Of some families alone: `embedding_size`, the width of embeddings before they are projected to hidden_size;
    `num_hidden_groups`, how many different layers there are, each of which runs several times; `inner_group_num`, how
    many layers such a group has, which has to be 1; `max_relative_position`, from where on distances in the relative
    positions of the attention count as equal. None: as BERT, which has embeddings of hidden_size, each layer once, and
    embeddings of positions.
    Raises InputError where heads do not divide the hidden size, a size is not positive, a rate is none, the activation
    is unknown, or the sizes make a model of more than MAX_LAYERS or MAX_PARAMETERS.
    """
    vocab_size: int
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    classifier_relu: bool | None = None
    embedding_size: int | None = None
    num_hidden_groups: int | None = None
    inner_group_num: int | None = None
    max_relative_position: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        for name in (*SIZES, *_OWN_SIZES):
            value = getattr(self, name)
            if (type(value) is not int or value <= 0) and (value is not None or name in SIZES):
                raise InputError(f"config: {name} is {value!r}, expected a whole number above 0")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range", "layer_norm_eps"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 <= value <= 1:
                raise InputError(f"config: {name} is {value!r}, expected a number from 0 to 1")
        if self.classifier_relu is not None and type(self.classifier_relu) is not bool:
            raise InputError(f"config: classifier_relu is {self.classifier_relu!r}, expected true or false")
        if self.hidden_size % self.num_attention_heads:
            raise InputError(f"config: {self.num_attention_heads} attention heads do not divide "
                             f"hidden_size {self.hidden_size}")
        if self.hidden_act not in list(ACTIVATIONS):
            raise InputError(f"config: unknown hidden_act {self.hidden_act!r}, known: {', '.join(ACTIVATIONS)}")
        if self.inner_group_num not in (None, 1):
            raise InputError(f"config: inner_group_num is {self.inner_group_num}: no published ALBERT runs several "
                             "layers in a group, and this kit reads none that does")
        if self.num_hidden_layers > MAX_LAYERS or self.parameters > MAX_PARAMETERS:
            raise InputError(f"config: {self.num_hidden_layers} layers and {self.parameters:,} parameters are "
                             f"too many for a BERT (at most {MAX_LAYERS} and {MAX_PARAMETERS:,})")

    @property
    def embedding_width(self) -> int:
        """The width of the word embeddings."""
        return self.embedding_size or self.hidden_size

    @property
    def has_projection(self) -> bool:
        """Whether embeddings are projected to hidden_size: an ALBERT's always, others' where the widths differ."""
        return self.num_hidden_groups is not None or self.embedding_width != self.hidden_size

    @property
    def num_own_layers(self) -> int:
        """How many layers have weights of their own."""
        return self.num_hidden_groups or self.num_hidden_layers

    @property
    def parameters(self) -> int:
        """How many parameters the encoder has, with its pooler, without other heads; shared ones count once."""
        hidden, inner, width = self.hidden_size, self.intermediate_size, self.embedding_width
        positions = 0 if self.max_relative_position else self.max_position_embeddings
        layer = 4 * hidden * (hidden + 1) + 2 * hidden * inner + inner + hidden + 4 * hidden
        return (self.vocab_size + positions + self.type_vocab_size + 2) * width + self.has_projection * (
            width + 1) * hidden + self.num_own_layers * layer + hidden * (hidden + 1)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> BertConfig:
        """Build a config from the keys of a config.json; those that mean something to other families alone count as
        extra. InputError where vocab_size is missing or a value is bad."""
        if "vocab_size" not in values:
            raise InputError("config: vocab_size is missing")
        family = family_of(values)
        known = {item.name for item in dataclasses.fields(cls)} - {"extra"}
        known -= set(_OWN_SIZES).difference(family.own_keys)
        given = {key: value for key, value in values.items() if key in known
                 and not (value is None and key in family.own_keys)}
        return cls(**{**family.defaults, **given},
                   extra={key: value for key, value in values.items() if key not in known})

    @classmethod
    def from_json_file(cls, path: str | Path, defaults: dict[str, Any] | None = None) -> BertConfig:
        """Read a config.json; `defaults`: keys that it may leave out. InputError names the file."""
        try:
            return cls.from_dict({**(defaults or {}), **read_json(path)})
        except InputError as error:
            if str(path) in str(error):
                raise
            raise InputError(f"{path}: {error}") from None

    @property
    def family(self) -> Family:
        """The family of the model, by its model_type."""
        return family_of(self.to_dict())

    @property
    def for_students(self) -> dict[str, int]:
        """Keys that the config.json of a student of this model may leave out: they are the teacher's."""
        return {"vocab_size": self.vocab_size, "num_attention_heads": self.num_attention_heads}

    def without_classifier(self) -> BertConfig:
        """This config for a model that has no classifier: nothing is said of one, or of its classes."""
        extra = {name: value for name, value in self.extra.items() if name not in CLASS_KEYS}
        return dataclasses.replace(self, classifier_relu=None, extra=extra)

    def to_dict(self) -> dict[str, Any]:
        """All keys, those of `extra` among them; not those that are None."""
        values = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return {**values.pop("extra"), **values}

    def to_json_file(self, path: str | Path) -> None:
        """Write config.json, atomically."""
        write_json(path, self.to_dict())


def check_sizes(max_seq_length: int, segments: int, configs: dict[str | Path, BertConfig]) -> None:
    """InputError where examples of so many wordpieces in so many segments are more than one of the models, whose
    `configs` come by folder, has embeddings for, or hold no text."""
    for folder, config in configs.items():
        if not 4 <= max_seq_length <= config.max_position_embeddings:
            raise InputError(f"--max_seq_length {max_seq_length} is not between 4 and the "
                             f"{config.max_position_embeddings} positions (max_position_embeddings) of {folder}")
        check_segments(segments, folder, config)


def check_segments(segments: int, folder: str | Path, config: BertConfig) -> None:
    """InputError where the model in `folder` tells fewer segments of its input from each other."""
    if segments > config.type_vocab_size:
        raise InputError(f"{folder} tells no more than {config.type_vocab_size} segment from another (type_vocab_size "
                         f"in config.json) and pairs of texts need {segments}: take another model")
