"""The families of models: which are read, what sets each apart from BERT, and the names of the others.

A family is read as a BERT: its tensors get BERT's names, and what it computes in another way follows from keys of
config.json. It is saved under its own names again. Nothing of the kit is imported.
"""
from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

_BARE = re.compile(r"\A(embeddings|embeddings_project|encoder|pooler)\.")  # how names of an encoder alone begin
_OLD_ENDS = (("gamma", "weight"), ("beta", "bias"))  # TensorFlow's, of LayerNorms
_OLD_NAMES = {f"cls{dot}squad{dot}output_{old}": f"qa_outputs.{new}"  # TensorFlow's, of the head for SQuAD
              for dot in "./" for old, new in (("weights", "weight"), ("bias", "bias"))}


@dataclass(frozen=True)
class Family:
    """A family of models that this kit reads.

    name: as people call it. prefix: of the names of its weights, and class_prefix: of its classes in Hugging Face
    transformers. names: how its names begin, beside how BERT's do, # for a number; the first that fits counts, in both
    directions. dropped: what the names of tensors hold that are not needed. refused: how names of weights begin, or a
    name in `architectures`, and what such a model is.
    defaults: keys of config.json whose defaults are others than BERT's; own_keys: those among them that only the
    families which list them honour; in other models' they are leftovers.
    pooler_act: the activation of the pooler. relu_head: whether the kit's new classifiers stand on a relu, as the
    published students'; where not, they are as the family's own. is_student: whether students of it can be made.
    hf_note: what to say of a saved model where current versions of Hugging Face transformers have no class for it.
    """
    name: str
    prefix: str
    class_prefix: str
    names: tuple[tuple[str, str], ...] = ()
    dropped: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    defaults: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    own_keys: tuple[str, ...] = ()
    pooler_act: str = "tanh"
    relu_head: bool = False
    is_student: bool = False
    hf_note: str = ""

    def canonical_name(self, name: str) -> str | None:
        """The name that this kit gives to a tensor, BERT's, by the one in a file of this family; None for one that is
        not needed."""
        if _BARE.match(name):
            name = f"{self.prefix}.{name}"
        for old, new in _OLD_ENDS:
            if name.endswith(f".{old}"):
                name = name.removesuffix(old) + new
        if any(part in name for part in self.dropped):
            return None
        return _renamed(_OLD_NAMES.get(name, name), self.names)

    def own_name(self, name: str) -> str:
        """The name in a file of this family, by the one that this kit gives to a tensor."""
        names = tuple((ours, theirs) for theirs, ours in self.names)
        if _BARE.match(name):
            return _renamed(f"bert.{name}", names).removeprefix(f"{self.prefix}.")
        return _renamed(name, names)


def _renamed(name: str, names: tuple[tuple[str, str], ...]) -> str:
    for beginning, other in names:
        if match := re.match(re.escape(beginning).replace(r"\#", r"(\d+)"), name):
            return other.replace("#", match[1] if match.groups() else "") + name[match.end():]
    return name


_POSITION_IDS = ("embeddings.position_ids", "embeddings.token_type_ids")  # counters that some versions wrote
BERT = Family("BERT", "bert", "Bert", dropped=_POSITION_IDS, relu_head=True, is_student=True)

# google-research/electra: a BERT whose pooler, with gelu, is part of the classifier.
ELECTRA = Family("ELECTRA", "electra", "Electra", names=(
    ("classifier.dense.", "bert.pooler.dense."),
    ("classifier.out_proj.", "classifier."),
    ("electra.embeddings_project.", "bert.embeddings.project."),
    ("electra.", "bert."),
), dropped=(*_POSITION_IDS, "discriminator_predictions."), refused=MappingProxyType(dict.fromkeys(
    ("generator_predictions.", "generator_lm_head.", "ElectraForMaskedLM"),
    "holds ELECTRA's generator, the small model that only makes up words for the other to judge: take the "
    "discriminator, such as google/electra-base-discriminator")),
    defaults=MappingProxyType({"embedding_size": 128}), own_keys=("embedding_size",), pooler_act="gelu")

# huawei-noah/Pretrained-Language-Model: a BERT with relative positions in its attention, in place of embeddings.
NEZHA = Family("NEZHA", "nezha", "Nezha", names=(("nezha.", "bert."),),
               dropped=(*_POSITION_IDS, ".relative_positions_encoding.positions_encoding"),  # a constant, in each layer
               defaults=MappingProxyType({"max_relative_position": 64}), own_keys=("max_relative_position",),
               is_student=True, hf_note="Hugging Face transformers up to 4.57 has a class for it, version 5 has none")

_ALBERT_LAYER = "albert.encoder.albert_layer_groups.#.albert_layers.0."
# google-research/albert: a BERT whose layers are one (or few) again and again, with narrow embeddings.
ALBERT = Family("ALBERT", "albert", "Albert", names=(
    ("albert.encoder.embedding_hidden_mapping_in.", "bert.embeddings.project."),
    *((f"{_ALBERT_LAYER}{theirs}.", f"bert.encoder.layer.#.{ours}.") for theirs, ours in (
        ("attention.dense", "attention.output.dense"), ("attention.LayerNorm", "attention.output.LayerNorm"),
        ("attention.query", "attention.self.query"), ("attention.key", "attention.self.key"),
        ("attention.value", "attention.self.value"), ("ffn", "intermediate.dense"), ("ffn_output", "output.dense"),
        ("full_layer_layer_norm", "output.LayerNorm"))),
    ("albert.pooler.", "bert.pooler.dense."),
    ("albert.", "bert."),
    ("predictions.dense.", "cls.predictions.transform.dense."),
    ("predictions.LayerNorm.", "cls.predictions.transform.LayerNorm."),
    ("predictions.", "cls.predictions."),
), dropped=(*_POSITION_IDS, "sop_classifier."),
    defaults=MappingProxyType({"embedding_size": 128, "num_hidden_groups": 1, "inner_group_num": 1,
                               "hidden_act": "gelu_new", "hidden_dropout_prob": 0.0,
                               "attention_probs_dropout_prob": 0.0}),
    own_keys=("embedding_size", "num_hidden_groups", "inner_group_num"))

# Keys of config.json about a classifier's classes. By them Hugging Face makes any other head as wide, too.
CLASS_KEYS = ("id2label", "label2id", "num_labels", "problem_type")

# model_type of config.json -> family
FAMILIES = {"bert": BERT, "electra": ELECTRA, "nezha": NEZHA, "albert": ALBERT}
# The others that are known, and how people call them; the names of their weights begin with the model_type, _ for -.
OTHER_FAMILIES = {"camembert": "CamemBERT", "deberta": "DeBERTa", "deberta-v2": "DeBERTa", "distilbert": "DistilBERT",
                  "ernie": "ERNIE", "mobilebert": "MobileBERT", "modernbert": "ModernBERT", "roberta": "RoBERTa",
                  "xlm-roberta": "XLM-RoBERTa", "xlnet": "XLNet"}


def model_type_of(config: dict[str, Any]) -> str:
    """The model_type by the keys of a config.json, in one spelling; "bert" where it names none."""
    model_type = str(config.get("model_type") or "bert").lower().replace("_", "-")
    if model_type == "bert" and config.get("use_relative_position"):  # published NEZHAs call themselves bert
        return "nezha"
    return model_type


def family_of(config: dict[str, Any]) -> Family:
    """The family by the keys of a config.json; BERT for a model_type that is not read, which kinds.not_bert() tells."""
    return FAMILIES.get(model_type_of(config), BERT)
