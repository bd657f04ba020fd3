"""The families of models: which are read, what sets each apart from BERT, and the names of the others.

A family is read as a BERT: its tensors get BERT's names, and what it computes in another way follows from keys of
config.json. Nothing of the kit is imported.
"""
from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Family:
    """A family of models that this kit reads.

    name: as people call it. renames: (pattern, replacement) as re.sub() takes them, applied in this order to the name
    of each tensor; they end with BERT's, and leave alone the names that save_model() gives. keys: those of config.json
    that only the families which list them honour; in other models' they are leftovers.
    """
    name: str
    renames: tuple[tuple[str, str], ...] = ()
    keys: tuple[str, ...] = ()

    def canonical_name(self, name: str) -> str:
        """The name that this kit gives to a tensor, by the one that a file of this family gives to it."""
        for pattern, replacement in self.renames:
            name = re.sub(pattern, replacement, name)
        return name


BERT = Family("BERT", renames=(
    (r"\A(embeddings|encoder|pooler)\.", r"bert.\g<0>"),  # a bare encoder's
    (r"\.gamma\Z", ".weight"), (r"\.beta\Z", ".bias"),    # TensorFlow's, of LayerNorms
    (r"\Acls[./]squad[./]output_weights\Z", "qa_outputs.weight"),  # TensorFlow's, of the head for SQuAD
    (r"\Acls[./]squad[./]output_bias\Z", "qa_outputs.bias"),
))
# Keys of config.json about a classifier's classes. By them Hugging Face makes any other head as wide, too.
CLASS_KEYS = ("id2label", "label2id", "num_labels", "problem_type")

# model_type of config.json -> family
FAMILIES = {"bert": BERT}
# The others that are known, and how people call them; the names of their weights begin with the model_type, _ for -.
OTHER_FAMILIES = {"albert": "ALBERT", "camembert": "CamemBERT", "deberta": "DeBERTa", "deberta-v2": "DeBERTa",
                  "distilbert": "DistilBERT", "electra": "ELECTRA", "ernie": "ERNIE", "mobilebert": "MobileBERT",
                  "modernbert": "ModernBERT", "nezha": "NEZHA", "roberta": "RoBERTa", "xlm-roberta": "XLM-RoBERTa",
                  "xlnet": "XLNet"}


def model_type_of(config: dict[str, Any]) -> str:
    """The model_type by the keys of a config.json, in one spelling; "bert" where it names none."""
    if config.get("use_relative_position"):  # published NEZHAs call themselves bert
        return "nezha"
    return str(config.get("model_type") or "bert").lower().replace("_", "-")


def family_of(config: dict[str, Any]) -> Family:
    """The family by the keys of a config.json; BERT for a model_type that is not read, which kinds.not_bert() tells."""
    return FAMILIES.get(model_type_of(config), BERT)
