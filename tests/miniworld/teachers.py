"""The tiny ELECTRA, NEZHA and ALBERT of the embedded world: of the sizes, the articles and the wordpieces of its BERT.

No part of the world that `ensure_world` builds: they take some minutes, are made where `make teachers` asks, and lie
beside the BERT from then on.
"""
from __future__ import annotations

import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from transformer.config import BertConfig
from transformer.files import write_json
from transformer.modeling import BertForMaskedLM, BertModel
from transformer.tokenization import BertTokenizer

from .bert import IGNORED, VOCAB_NAME, MaskedWords, mask_tokens, pretrain, save
from .world import (
    BERT_FOLDER,
    SEED,
    SOURCES,
    ensure_world,
    fingerprint,
    is_built,
    locked_world,
    sentences_of,
    timed,
    world_articles,
)

OWN_SOURCES = (*SOURCES, "teachers")
OWN_MANIFEST = "teachers.json"
ELECTRA, NEZHA, ALBERT = "google/electra-base-discriminator", "sijunhe/nezha-cn-base", "voidful/albert_chinese_base"
TEACHERS = {  # folder -> keys of config.json in which it is not as the BERT
    ELECTRA: {"model_type": "electra", "embedding_size": 32},
    NEZHA: {"model_type": "nezha", "max_relative_position": 16},  # nearer than the ends of most pairs of sentences
    ALBERT: {"model_type": "albert", "embedding_size": 32, "num_hidden_groups": 1, "inner_group_num": 1,
             "hidden_act": "gelu_new"}}
LAYOUTS = {ELECTRA: "safetensors", NEZHA: "bin", ALBERT: "safetensors"}
REPLACED_WEIGHT = 10.0  # of ELECTRA's loss, whose two classes are told apart by less than the words of a vocabulary


class Discriminator(nn.Module):
    """An ELECTRA with its head, which tells of each wordpiece whether it was replaced, and one for next sentences."""

    hf_architecture = "BertForPreTraining"

    def __init__(self, config: BertConfig):
        super().__init__()
        self.config, hidden = config, config.hidden_size
        self.bert = BertModel(config)
        self.cls = nn.ModuleDict({
            "predictions": nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, 1)),
            "seq_relationship": nn.Linear(hidden, 2)})


class ReplacedWords(MaskedWords):
    """The words of pre-training as ELECTRA learns them: which of them a masked LM made up."""

    def __init__(self, tokenizer: BertTokenizer, generator: BertForMaskedLM, **family: object):
        super().__init__(tokenizer, **family)
        self.generator = generator

    def model(self) -> nn.Module:
        """A discriminator with random weights."""
        return Discriminator(self.config)

    def change(self, ids: Tensor, segments: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Labels: 1 where a wordpiece is another than before, 0 where it is not, IGNORED in the padding."""
        _, hidden = mask_tokens(self.tokenizer, ids)
        is_hidden = hidden != IGNORED
        with torch.no_grad():
            masked = torch.where(is_hidden, self.tokenizer.vocab["[MASK]"], ids)
            logits = self.generator.cls(self.generator.bert(masked, segments, mask)[0][-1][is_hidden])
        replaced = ids.clone()
        replaced[is_hidden] = torch.multinomial(logits.softmax(-1), 1)[:, 0]
        return replaced, torch.where(mask.bool(), (replaced != ids).long(), IGNORED)

    def loss(self, model: nn.Module, hidden: Tensor, labels: Tensor) -> Tensor:
        """Of the last hidden states [N, H] and whether each wordpiece was replaced [N]."""
        logits = model.cls["predictions"](hidden)[:, 0]
        return REPLACED_WEIGHT * binary_cross_entropy_with_logits(logits, labels.float())


def hub_state(name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a teacher that the hub has, with the heads under its names."""
    renamed = {}
    for key, tensor in state.items():
        if name == ELECTRA:
            if key.startswith(("bert.pooler.", "cls.seq_relationship.")):  # an ELECTRA learns neither
                continue
            key = key.replace("cls.predictions.0.", "discriminator_predictions.dense.") \
                .replace("cls.predictions.2.", "discriminator_predictions.dense_prediction.")
        if name == ALBERT:
            key = key.replace("cls.seq_relationship.", "sop_classifier.classifier.")
        renamed[key] = tensor
    return renamed


def write_teacher(directory: Path, name: str) -> None:
    """Pre-train one of TEACHERS on the world's articles, into its folder."""
    torch.set_num_threads(1)
    tokenizer = BertTokenizer(directory / BERT_FOLDER / VOCAB_NAME)
    words = MaskedWords(tokenizer, **TEACHERS[name])
    if name == ELECTRA:
        words = ReplacedWords(tokenizer, BertForMaskedLM.from_pretrained(directory / BERT_FOLDER), **TEACHERS[name])
    model = pretrain(words, *sentences_of(world_articles()), SEED)
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0} if name == ALBERT else {}
    save(model, directory / name, tokenizer, LAYOUTS[name], state=hub_state(name, model.state_dict()), **rates)


def ensure_teachers(directory: str | Path) -> Path:
    """Build the world, and the teachers in it, unless they stand there; returns the folder."""
    directory = ensure_world(directory)
    manifest, seconds = directory / OWN_MANIFEST, {}
    with locked_world(directory):
        if not is_built(manifest, OWN_SOURCES):
            for name in TEACHERS:
                shutil.rmtree(directory / name, ignore_errors=True)
            with timed("ELECTRA, NEZHA and ALBERT", seconds), \
                    ProcessPoolExecutor(len(TEACHERS), get_context("spawn")) as pool:
                list(pool.map(write_teacher, [directory] * len(TEACHERS), TEACHERS))
            write_json(manifest, {"fingerprint": fingerprint(OWN_SOURCES), "seed": SEED, "seconds": seconds})
    return directory
