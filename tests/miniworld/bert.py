"""The tiny BERT of the embedded world: pre-training on the articles, fine-tuning on a task, saving as the hub has it.

The sizes and rates below are chosen so that all of it takes about two minutes on two cores.
"""
from __future__ import annotations

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
from transformer.weights import SAFETENSORS_NAME, WEIGHTS_NAME, write_bin, write_safetensors

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


def look_for_equal_words(model: BertForPreTraining) -> None:
    """Change initial weights so that in the lower layers a position attends to those that hold the same word.

    Queries equal to keys and positions smaller than words make it so. A model as small as this takes long to find
    that by itself, and most tasks on sentence pairs ask whether two sentences speak of the same things.
    """
    layers = model.bert.encoder.layer
    with torch.no_grad():
        model.bert.embeddings.position_embeddings.weight.mul_(0.15)
        for layer in layers[:len(layers) // 2]:
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


def pretrain(tokenizer: BertTokenizer, documents: Sequence[Sequence[str]], lives: Sequence[Sequence[str]],
             seed: int) -> BertForPreTraining:
    """Pre-train from random weights on documents, lists of sentences; `lives` are those that tell of a person.

    First next sentences of lives alone, until the model sees whether two sentences agree (with masked words from the
    start it takes several times as long), then masked words and next sentences of everything.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)
    encoded, encoded_lives = ([[tokenizer.encode(sentence) for sentence in document] for document in part]
                              for part in (documents, lives))
    model = BertForPreTraining(BertConfig(vocab_size=len(tokenizer.vocab), hidden_dropout_prob=0.0,
                                          attention_probs_dropout_prob=0.0, **SIZES))
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
        ids, labels = mask_tokens(tokenizer, ids)
        hidden, _, pooled = model.bert(ids, segments, mask)
        words, next_logits = model.cls(hidden[-1][labels != IGNORED], pooled)
        word_loss = cross_entropy(words, labels[labels != IGNORED])
        next_loss = cross_entropy(next_logits, following)
        _update(model, optimizer, word_loss + next_loss, 1 - step / PRETRAINING_STEPS)
    print(f"masked words: loss {word_loss:.2f}, next sentences {next_loss:.2f} after {step + 1} more", flush=True)
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


def save(model: BertForPreTraining | TinyBertForSequenceClassification, folder: Path, tokenizer: BertTokenizer,
         layout: str, task: Task | None = None) -> None:
    """A folder as the hub has it: config.json without this kit's keys, vocab.txt, weights.

    layout: "safetensors", "bin", or "old": a .bin with gamma and beta, and encoder names without their prefix.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = {**model.config.to_dict(), "model_type": "bert", "architectures": [model.hf_architecture],
              "hidden_dropout_prob": DROPOUT, "attention_probs_dropout_prob": DROPOUT}
    values.pop("classifier_relu", None)
    if task:
        name_labels(values, task)
    write_json(folder / CONFIG_NAME, values)
    pieces = sorted(tokenizer.vocab, key=tokenizer.vocab.get)
    (folder / VOCAB_NAME).write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8", newline="\n")
    state = model.state_dict()
    if layout == "safetensors":
        write_safetensors(folder / SAFETENSORS_NAME, state)
        return
    if layout == "old":
        state = {name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
                 .removeprefix("bert."): tensor for name, tensor in state.items()}
    write_bin(folder / WEIGHTS_NAME, state)
