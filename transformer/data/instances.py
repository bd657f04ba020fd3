"""BERT's pre-training instances: two halves of sentences, masked, drawn from a tokenized corpus."""
from __future__ import annotations

import itertools
import json
import random
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from transformer.data.corpus import Corpus
from transformer.data.features import Sequences
from transformer.pieces import Tokenizer, fitting_lengths

INSTANCES_VERSION = 1  # raised when the same corpus and settings would make other instances

# What json.dumps makes of an instance, to be filled with what is JSON already: json.dumps of all of it takes twice as
# long.
_INSTANCE_LINE = ('{"tokens": [%s], "segment_ids": [%s], "is_random_next": %s, '
                  '"masked_lm_positions": [%s], "masked_lm_labels": [%s]}\n')


@dataclass(frozen=True)
class InstanceSettings:
    """What instances depend on beside corpus and vocabulary.

    max_seq_len: wordpieces with [CLS] and both [SEP]; short_seq_prob: share of documents with a random shorter target;
    masked_lm_prob: share of wordpieces to predict, at most max_predictions_per_seq of a sequence; mask_at_least_one:
    mask one wordpiece even where masked_lm_prob is 0; whole_word: mask all wordpieces of a word or none; one_seq:
    the second half is always the real continuation.
    """
    seed: int = 42
    max_seq_len: int = 128
    short_seq_prob: float = 0.1
    masked_lm_prob: float = 0.0
    max_predictions_per_seq: int = 20
    mask_at_least_one: bool = False
    whole_word: bool = False
    one_seq: bool = False


class Instance(NamedTuple):
    """[CLS], first half, [SEP], second half, [SEP], as ids, masked; `labels` are the ids that stood at `positions`."""
    tokens: list[int]
    first_length: int  # with [CLS] and [SEP]
    is_random_next: bool
    positions: list[int]
    labels: list[int]


class InstanceSampler:
    """Draws BERT's pre-training instances; which ones depends on settings.seed, epoch and document only.

    used: wordpieces of the documents drawn from so far that stand in instances of their own document. The others of
    its wordpieces were cut off; random second halves do not count.
    """

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, settings: InstanceSettings):
        self.corpus = corpus
        self.settings = settings
        self.used = 0
        self._cls, self._sep, self._mask = tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id
        self._filler = tokenizer.encode(".")  # stands for an empty half; [UNK] where the vocabulary has no "."
        self._typecode = tokenizer.id_typecode
        self._in_json = [json.dumps(piece) for piece in tokenizer.ids_to_tokens]
        self._continues_word = tokenizer.continues_word()
        # BERT draws from the whole vocabulary; a random [SEP] or [PAD] would only damage the sequence.
        self._replacements = tokenizer.ordinary_ids()

    def instances(self, epoch: int, document: int) -> Iterator[Instance]:
        """The instances of one document."""
        key = f"{self.settings.seed} {epoch} {document}"
        masks = self.settings.masked_lm_prob > 0 or self.settings.mask_at_least_one
        mask_rng = random.Random(key + " mask")  # its own: masking changes nothing else
        for first, second, is_random_next in self.pairs(document, random.Random(key)):
            tokens = [self._cls, *first, self._sep, *second, self._sep]
            positions, labels = self.mask(tokens, mask_rng) if masks else ([], [])
            yield Instance(tokens, len(first) + 2, is_random_next, positions, labels)

    def json_line(self, instance: Instance) -> str:
        """An instance as a line of epoch_K.json, byte for byte what json.dumps makes of it."""
        in_json, (tokens, first_length, is_random_next, positions, labels) = self._in_json.__getitem__, instance
        return _INSTANCE_LINE % (
            ", ".join(map(in_json, tokens)),
            "0, " * first_length + "1, " * (len(tokens) - first_length - 1) + "1",
            "true" if is_random_next else "false",
            ", ".join(map(str, positions)),
            ", ".join(map(in_json, labels)))

    def arrays(self, instances: Sequence[Instance]) -> Sequences:
        """Instances as general distillation takes them: without is_random_next, positions and labels."""
        tokens, lengths = array(self._typecode), [0]
        for instance in instances:
            tokens.fromlist(instance.tokens)
            lengths.append(len(instance.tokens))
        return Sequences(np.frombuffer(tokens, self._typecode), np.cumsum(lengths, dtype=np.int64),
                         np.array([instance.first_length for instance in instances], np.int32))

    def pairs(self, document: int, rng: random.Random) -> Iterator[tuple[list[int], list[int], bool]]:
        """Token ids of both halves and is_random_next, for chunk after chunk of the document's sentences.

        Halves have at least one token each and at most max_seq_len - 3 together.
        """
        settings, ids = self.settings, self.corpus.ids
        longest = settings.max_seq_len - 3
        target = rng.randint(2, longest) if rng.random() < settings.short_seq_prob else longest
        begin, end = map(int, self.corpus.document_offsets[document:document + 2])
        offsets = self.corpus.sentence_offsets[begin:end + 1].tolist()
        start = 0  # of the chunk, in sentences of this document
        while start < end - begin:
            # The chunk takes sentences until they reach the target, or the document ends.
            stop = bisect_left(offsets, offsets[start] + target, hi=end - begin)
            split = rng.randrange(start + 1, stop) if stop - start > 1 else stop
            first = ids(offsets[start], offsets[split])
            is_random_next = not settings.one_seq and (split == stop or rng.random() < 0.5)
            if is_random_next:
                second = self._random_run(begin, end, target - len(first), rng)
                start = split  # the sentences left over begin the next chunk
            else:
                second = ids(offsets[split], offsets[stop])
                start = stop
            is_own = bool(second) and not is_random_next
            first, second = truncate(first, second or self._filler, longest, rng)
            self.used += len(first) + (len(second) if is_own else 0)
            yield first, second, is_random_next

    def _random_run(self, begin: int, end: int, length: int, rng: random.Random) -> list[int]:
        """Consecutive sentences outside begin..end with `length` tokens or more, fewer where their document ends.

        BERT draws a document in proportion to its number of sentences and a sentence of it to start with: that is
        one draw among all sentences of other documents.
        """
        corpus = self.corpus
        start = rng.randrange(corpus.num_sentences - (end - begin))
        if start >= begin:
            start += end - begin
        document = int(np.searchsorted(corpus.document_offsets, start, side="right")) - 1
        ends = corpus.sentence_offsets[start + 1:int(corpus.document_offsets[document + 1]) + 1]
        first_token = int(corpus.sentence_offsets[start])
        enough = min(int(np.searchsorted(ends, first_token + length)), len(ends) - 1)
        return corpus.ids(first_token, int(ends[enough]))

    def mask(self, tokens: list[int], rng: random.Random) -> tuple[list[int], list[int]]:
        """Replace some tokens in place; return their positions, ascending, and the ids that stood there.

        Of those chosen 80% become [MASK], 10% stay as they are, 10% become a random wordpiece. No more than
        round(length * masked_lm_prob), at least 1, are chosen; a word that would exceed that is passed over.
        """
        settings = self.settings
        words: list[list[int]] = []
        for position, token in enumerate(tokens):
            if token in (self._cls, self._sep):
                continue
            if settings.whole_word and self._continues_word[token] and words and words[-1][-1] == position - 1:
                words[-1].append(position)
            else:
                words.append([position])
        wanted = min(settings.max_predictions_per_seq, max(1, round(len(tokens) * settings.masked_lm_prob)))
        rng.shuffle(words)
        positions: list[int] = []
        for word in words:
            if len(positions) + len(word) <= wanted:
                positions += word
            if len(positions) == wanted:
                break
        positions.sort()
        labels = [tokens[position] for position in positions]
        for position in positions:
            draw = rng.random()
            if draw < 0.8:
                tokens[position] = self._mask
            elif draw < 0.9:
                tokens[position] = rng.choice(self._replacements)
        return positions, labels


def truncate(first: list[int], second: list[int], room: int, rng: random.Random) -> tuple[list[int], list[int]]:
    """Shorten the longer list (the second where both are equal) a token at a time until both fit into `room`.

    Each token goes from the front or from the back with equal chance: the number of those from the front is the
    number of ones among as many random bits.
    """
    shortened = []
    for tokens, length in zip((first, second), fitting_lengths(len(first), len(second), room)):
        from_front = rng.getrandbits(len(tokens) - length).bit_count()
        shortened.append(tokens[from_front:from_front + length])
    return shortened[0], shortened[1]


EpochPart = tuple[int, tuple[int, int]]  # epoch; first document, last document + 1

_worker_sampler: InstanceSampler  # of a worker process


def start_generating(store: Path, tokenizer: Tokenizer, settings: InstanceSettings, reduce_memory: bool) -> None:
    """Open the tokenized corpus; processes share its pages."""
    global _worker_sampler
    _worker_sampler = InstanceSampler(Corpus.map(store, tokenizer, reduce_memory), tokenizer, settings)


def draw_part(sampler: InstanceSampler, epoch_part: EpochPart, as_arrays: bool,
              ) -> tuple[bytes | Sequences, dict[str, int]]:
    """The instances of some documents, as lines of JSON or as arrays; how many they are, wordpieces of the documents,
    and those used."""
    epoch, documents = epoch_part
    used = sampler.used
    instances = [instance for document in range(*documents) for instance in sampler.instances(epoch, document)]
    part = sampler.arrays(instances) if as_arrays else "".join(map(sampler.json_line, instances)).encode()
    return part, {"instances": len(instances), "wordpieces": sampler.corpus.wordpieces(*documents),
                  "wordpieces_used": sampler.used - used}


def generate(as_arrays: bool, epoch_part: EpochPart) -> tuple[bytes | Sequences, dict[str, int]]:
    """draw_part() in a worker."""
    drawn = draw_part(_worker_sampler, epoch_part, as_arrays)
    if _worker_sampler.corpus.file is not None:
        _worker_sampler.corpus.release()
    return drawn


def show_instances(sampler: InstanceSampler, count: int) -> None:
    """Print some instances, for a person to look at."""
    lines = (sampler.json_line(instance) for document in range(sampler.corpus.num_documents)
             for instance in sampler.instances(0, document))
    for number, instance in enumerate(map(json.loads, itertools.islice(lines, count))):
        print(f"instance {number}: {' '.join(instance['tokens'])}\n"
              f"  segment_ids {' '.join(map(str, instance['segment_ids']))}  "
              f"is_random_next {instance['is_random_next']}  "
              f"masked {dict(zip(instance['masked_lm_positions'], instance['masked_lm_labels'], strict=True))}",
              flush=True)
