"""The tiny BERT of the embedded world: pre-training on the articles, fine-tuning on a task, saving as the hub has it.

The sizes and rates below are chosen so that all of it takes about two minutes on two cores.
"""
from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from transformer.config import CONFIG_NAME, BertConfig
from transformer.files import write_json
from transformer.modeling import BertForPreTraining, TinyBertForSequenceClassification
from transformer.tasks.labels import name_labels
from transformer.tasks.task import Task
from transformer.tokenization import VOCAB_NAME, BertTokenizer
from transformer.weights import SAFETENSORS_NAME, WEIGHTS_NAME, own_names, write_bin, write_safetensors

SIZES = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 256,
         "max_position_embeddings": 512, "initializer_range": 0.1}
BATCH_SIZE = 64
LEARNING_RATE = 1e-3
MATCHING_STEPS = 800      # at most, of next sentences only
MATCHING_LOSS = 0.35      # binary cross-entropy at which that stage ends; guessing has 0.69
PRETRAINING_STEPS = 900   # of masked words and next sentences
FINETUNING_STEPS = 150
MASKED_SHARE = 0.15
DROPOUT = 0.03            # of fine-tuning: with BERT's 0.1 a model this small hardly learns to point at answers
IGNORED = -100

Pair = tuple[list[int], list[int]]  # token ids of two segments, the second one empty for a single sentence


def pad_pairs(tokenizer: BertTokenizer, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor, Tensor]:
    """[CLS] a [SEP] b [SEP] of each pair: ids, segments and mask, int64 [pairs, longest]."""
    cls, sep = tokenizer.vocab["[CLS]"], tokenizer.vocab["[SEP]"]
    rows = [([cls, *a, sep], [*b, sep] if b else []) for a, b in pairs]
    ids, segments, mask = np.zeros((3, len(rows), max(len(first) + len(second) for first, second in rows)), np.int64)
    for row, (first, second) in enumerate(rows):
        end = len(first) + len(second)
        ids[row, :end] = first + second
        segments[row, len(first):end] = 1
        mask[row, :end] = 1
    return torch.from_numpy(ids), torch.from_numpy(segments), torch.from_numpy(mask)


def mask_tokens(tokenizer: BertTokenizer, ids: Tensor) -> tuple[Tensor, Tensor]:
    """BERT's masking (80% [MASK], 10% random, 10% kept): new ids, and labels, IGNORED at the other positions."""
    specials = torch.tensor([tokenizer.vocab[name] for name in ("[PAD]", "[CLS]", "[SEP]")])
    chosen = (torch.rand(ids.shape) < MASKED_SHARE) & ~torch.isin(ids, specials)
    kind = torch.rand(ids.shape)
    noise = torch.randint(len(tokenizer.vocab), ids.shape)
    replaced = torch.where(kind < 0.8, tokenizer.vocab["[MASK]"], torch.where(kind < 0.9, noise, ids))
    return torch.where(chosen, replaced, ids), torch.where(chosen, ids, IGNORED)


def sentence_pairs(rng: random.Random, documents: Sequence[Sequence[list[int]]]) -> tuple[list[Pair], Tensor]:
    """A batch of next-sentence instances; class 0 where the second follows the first, 1 where it is from elsewhere."""
    pairs, labels = [], []
    for _ in range(BATCH_SIZE):
        document = rng.choice(documents)
        start = rng.randrange(len(document) - 1)
        labels.append(rng.randrange(2))
        pairs.append((document[start], rng.choice(rng.choice(documents)) if labels[-1] else document[start + 1]))
    return pairs, torch.tensor(labels)


class MaskedWords:
    """The words of pre-training as BERT learns them: those that are hidden, by what stands around them.

    family: keys of config.json by which the model is none of BERT's own kind.
    """

    def __init__(self, tokenizer: BertTokenizer, **family: object):
        self.tokenizer = tokenizer
        self.config = BertConfig.from_dict({"vocab_size": len(tokenizer.vocab), "hidden_dropout_prob": 0.0,
                                            "attention_probs_dropout_prob": 0.0, **SIZES, **family})

    def model(self) -> torch.nn.Module:
        """A model with random weights: `bert`, and `cls` with the heads `predictions` and `seq_relationship`."""
        return BertForPreTraining(self.config)

    def change(self, ids: Tensor, segments: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """New ids, and labels, IGNORED where nothing is asked, for a batch as pad_pairs() makes it."""
        return mask_tokens(self.tokenizer, ids)

    def loss(self, model: torch.nn.Module, hidden: Tensor, labels: Tensor) -> Tensor:
        """Of the last hidden states at the positions that are not IGNORED, [N, H], and their labels, [N]."""
        return cross_entropy(model.cls.predictions(hidden), labels)


def look_for_equal_words(model: torch.nn.Module) -> None:
    """Change initial weights so that in the lower layers a position attends to those that hold the same word.

    Queries equal to keys and positions smaller than words make it so. A model as small as this takes long to find
    that by itself, and most tasks on sentence pairs ask whether two sentences speak of the same things. Embeddings that
    are projected get the size that others have after their LayerNorm.
    """
    embeddings, layers = model.bert.embeddings, model.bert.encoder.layers()
    with torch.no_grad():
        if hasattr(embeddings, "position_embeddings"):
            embeddings.position_embeddings.weight.mul_(0.15)
        if hasattr(embeddings, "project"):
            weight = embeddings.project.weight
            torch.nn.init.orthogonal_(weight, math.sqrt(len(weight) / weight.size(1)))
        for layer in dict.fromkeys(layers[:len(layers) // 2]):  # an ALBERT's is one
            layer.attention.self.key.weight.mul_(1.6)
            layer.attention.self.query.weight.copy_(layer.attention.self.key.weight)


def _update(model: torch.nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, rate: float) -> None:
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.param_groups[0]["lr"] = LEARNING_RATE * rate
    optimizer.step()


def _optimizer(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01, fused=True)


def pretrain(words: MaskedWords, documents: Sequence[Sequence[str]], lives: Sequence[Sequence[str]],
             seed: int) -> torch.nn.Module:
    """Pre-train from random weights on documents, lists of sentences; `lives` are those that tell of a person.

    First next sentences of lives alone, until the model sees whether two sentences agree (with words from the start it
    takes several times as long), then words and next sentences of everything.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)
    tokenizer = words.tokenizer
    encoded, encoded_lives = ([[tokenizer.encode(sentence) for sentence in document] for document in part]
                              for part in (documents, lives))
    model = words.model()
    look_for_equal_words(model)
    optimizer = _optimizer(model)
    mean = 0.7  # of the loss, over some twenty steps
    for step in range(MATCHING_STEPS):
        pairs, following = sentence_pairs(rng, encoded_lives)
        _, _, pooled = model.bert(*pad_pairs(tokenizer, pairs))
        loss = cross_entropy(model.cls.seq_relationship(pooled), following)
        _update(model, optimizer, loss, min(1, (step + 1) / 40))
        mean = 0.95 * mean + 0.05 * loss.item()
        if mean < MATCHING_LOSS:
            break
    print(f"next sentences: loss {mean:.2f} after {step + 1} steps", flush=True)
    for step in range(PRETRAINING_STEPS):
        pairs, following = sentence_pairs(rng, encoded)
        ids, segments, mask = pad_pairs(tokenizer, pairs)
        ids, labels = words.change(ids, segments, mask)
        hidden, _, pooled = model.bert(ids, segments, mask)
        word_loss = words.loss(model, hidden[-1][labels != IGNORED], labels[labels != IGNORED])
        next_loss = cross_entropy(model.cls.seq_relationship(pooled), following)
        _update(model, optimizer, word_loss + next_loss, 1 - step / PRETRAINING_STEPS)
    print(f"words: loss {word_loss:.2f}, next sentences {next_loss:.2f} after {step + 1} more", flush=True)
    return model.eval()


def finetune(start: BertForPreTraining, tokenizer: BertTokenizer, task: Task, texts: Sequence[tuple[str, ...]],
             labels: Sequence[float], seed: int) -> TinyBertForSequenceClassification:
    """A classifier without relu on top of `start`, as Hugging Face's class has it, trained on labelled texts."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    pairs = [(tokenizer.encode(first), tokenizer.encode(rest[0]) if rest else []) for first, *rest in texts]
    classes = torch.tensor(labels).long()
    config = BertConfig.from_dict({**start.config.to_dict(), "classifier_relu": False})
    model = TinyBertForSequenceClassification(config, task.num_labels)
    model.bert.load_state_dict(start.bert.state_dict())
    optimizer = _optimizer(model)
    for step in range(FINETUNING_STEPS):
        rows = rng.choice(len(pairs), 32, replace=False)
        logits = model(*pad_pairs(tokenizer, [pairs[row] for row in rows]))[0]
        _update(model, optimizer, cross_entropy(logits, classes[rows]), 1 - step / FINETUNING_STEPS)
    return model.eval()


def save(model: torch.nn.Module, folder: Path, tokenizer: BertTokenizer, layout: str, task: Task | None = None,
         state: dict[str, Tensor] | None = None, **config: object) -> None:
    """A folder as the hub has it: config.json without this kit's keys, vocab.txt, weights.

    layout: "safetensors", "bin", or "old": a .bin with gamma and beta, and encoder names without their prefix. state:
    the weights in place of the model's, config: keys of config.json in place of its.
    """
    folder.mkdir(parents=True, exist_ok=True)
    family = model.config.family
    values = {**model.config.to_dict(), "model_type": family.prefix, "hidden_dropout_prob": DROPOUT,
              "architectures": [model.hf_architecture.replace("Bert", family.class_prefix)],
              "attention_probs_dropout_prob": DROPOUT, **config}
    values.pop("classifier_relu", None)
    if task:
        name_labels(values, task)
    write_json(folder / CONFIG_NAME, values)
    pieces = sorted(tokenizer.vocab, key=tokenizer.vocab.get)
    (folder / VOCAB_NAME).write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8", newline="\n")
    state = own_names(state or model.state_dict(), family)
    if layout == "safetensors":
        write_safetensors(folder / SAFETENSORS_NAME, state)
        return
    if layout == "old":
        state = {name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
                 .removeprefix("bert."): tensor for name, tensor in state.items()}
    write_bin(folder / WEIGHTS_NAME, state)
