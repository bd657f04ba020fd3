"""The pre-training corpus: sentences as integer arrays, instances drawn from them, and instances read back."""
from __future__ import annotations

import json
import random
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from transformer.files import InputError, read_json, read_lines
from transformer.tokenization import SPECIAL_TOKENS, BertTokenizer

if TYPE_CHECKING:
    from transformer.features import Sequences

_BUFFERED_VALUES = 1 << 20  # that an array in a file keeps in memory


class GrowingArray:
    """A flat array of integers that grows at its end, in memory or in a file."""

    def __init__(self, typecode: str, path: Path | None = None):
        self._typecode = typecode
        self._path = path
        self._values = array(typecode)
        if path is not None:
            path.write_bytes(b"")

    def extend(self, values: Iterable[int]) -> None:
        """Append `values`."""
        self._values.extend(values)
        if self._path is not None and len(self._values) >= _BUFFERED_VALUES:
            self._flush()

    def _flush(self) -> None:
        with open(self._path, "ab") as handle:
            self._values.tofile(handle)
        self._values = array(self._typecode)

    def finish(self) -> np.ndarray:
        """The whole array, 1-dimensional, a read-only np.memmap where it is in a file; it grows no more after this."""
        if self._path is None:
            return np.asarray(self._values)
        self._flush()
        return map_array(self._typecode, self._path)


def map_array(typecode: str, path: Path) -> np.ndarray:
    """The array in a file of a GrowingArray, not read until it is used."""
    if not path.stat().st_size:
        return np.zeros(0, dtype=typecode)  # the operating system maps no empty file
    return np.memmap(path, dtype=typecode, mode="r")


@dataclass(frozen=True)
class Corpus:
    """A text corpus as wordpiece ids; no sentence and no document is empty.

    tokens: uint16 or int32 [wordpieces]; sentence_offsets: int64 [sentences + 1], where each sentence begins in
    `tokens`; document_offsets: int64 [documents + 1], where each document begins in `sentence_offsets`.
    """
    tokens: np.ndarray
    sentence_offsets: np.ndarray
    document_offsets: np.ndarray

    @property
    def num_documents(self) -> int:
        return len(self.document_offsets) - 1

    @property
    def num_sentences(self) -> int:
        return len(self.sentence_offsets) - 1


def read_corpus(path: str | Path, tokenizer: BertTokenizer, folder: Path | None = None) -> Corpus:
    """Tokenize a text file with one sentence per line and an empty line between documents.

    folder: where the arrays are kept in files, for map_corpus() too; None keeps them in memory. Lines without a
    wordpiece (control characters only) are left out. Raises InputError when the file is not UTF-8, holds no text,
    or has no document breaks: the random second halves of instances come from other documents.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"training corpus {path} is not a file: name the text file that prepare_data.py wrote")
    arrays = [GrowingArray(typecode, folder and folder / name) for name, typecode in _corpus_files(tokenizer)]
    tokens, sentence_offsets, document_offsets = arrays
    num_tokens = num_sentences = num_documents = document_start = without_pieces = 0
    sentence_offsets.extend([0])
    document_offsets.extend([0])
    for line in tqdm(read_lines(path), desc="tokenizing", unit=" lines", unit_scale=True, disable=None):
        ids = tokenizer.encode(line)
        if ids:
            tokens.extend(ids)
            num_tokens += len(ids)
            num_sentences += 1
            sentence_offsets.extend([num_tokens])
        elif line.strip():
            without_pieces += 1
        elif num_sentences > document_start:  # the first empty line after a document
            document_offsets.extend([num_sentences])
            num_documents += 1
            document_start = num_sentences
    if num_sentences > document_start:
        document_offsets.extend([num_sentences])
        num_documents += 1
    if without_pieces:
        print(f"{path}: left out {without_pieces} lines without any wordpiece", flush=True)
    if not num_sentences:
        raise InputError(f"{path} holds no text")
    if num_documents < 2:
        raise InputError(f"{path} has no document breaks: put an empty line between documents (prepare_data.py does); "
                         "instances need sentences from other documents")
    return Corpus(*(values.finish() for values in arrays))


def map_corpus(folder: Path, tokenizer: BertTokenizer) -> Corpus:
    """The corpus that read_corpus() with the same tokenizer left in `folder`."""
    return Corpus(*(map_array(typecode, folder / name) for name, typecode in _corpus_files(tokenizer)))


def _corpus_files(tokenizer: BertTokenizer) -> tuple[tuple[str, str], ...]:
    return ("tokens", tokenizer.id_typecode), ("sentence_offsets", "q"), ("document_offsets", "q")


@dataclass(frozen=True)
class InstanceSettings:
    """What instances depend on beside corpus and vocabulary.

    max_seq_len: wordpieces with [CLS] and both [SEP]; short_seq_prob: share of documents with a random shorter target;
    masked_lm_prob: share of wordpieces to predict, at most max_predictions_per_seq of a sequence; mask_at_least_one:
    mask one wordpiece even where masked_lm_prob is 0; whole_word: mask all pieces of a word or none; one_seq: the
    second half is always the real continuation.
    """
    seed: int = 42
    max_seq_len: int = 128
    short_seq_prob: float = 0.1
    masked_lm_prob: float = 0.0
    max_predictions_per_seq: int = 20
    mask_at_least_one: bool = False
    whole_word: bool = False
    one_seq: bool = False


class InstanceSampler:
    """Draws BERT's pre-training instances; which ones depends on settings.seed, epoch and document only."""

    def __init__(self, corpus: Corpus, tokenizer: BertTokenizer, settings: InstanceSettings):
        self.corpus = corpus
        self.tokenizer = tokenizer
        self.settings = settings
        self._cls, self._sep, self._mask = tokenizer.convert_tokens_to_ids(("[CLS]", "[SEP]", "[MASK]"))
        self._filler = tokenizer.encode(".")  # stands for an empty half; [UNK] where the vocabulary has no "."
        self._continues_word = [piece.startswith("##") for piece in tokenizer.vocab]
        # BERT draws from the whole vocabulary; a random [SEP] or [PAD] would only damage the sequence.
        self._replacements = [i for piece, i in tokenizer.vocab.items() if piece not in SPECIAL_TOKENS]

    def instances(self, epoch: int, document: int) -> Iterator[dict[str, Any]]:
        """The instances of one document, with the keys of a line of epoch_K.json."""
        key = f"{self.settings.seed} {epoch} {document}"
        mask_rng = random.Random(key + " mask")  # its own, so that masking does not change what is masked
        names = self.tokenizer.convert_ids_to_tokens
        for first, second, is_random_next in self.pairs(document, random.Random(key)):
            tokens = [self._cls, *first, self._sep, *second, self._sep]
            positions, labels = self.mask(tokens, mask_rng)
            yield {"tokens": names(tokens),
                   "segment_ids": [0] * (len(first) + 2) + [1] * (len(second) + 1),
                   "is_random_next": is_random_next,
                   "masked_lm_positions": positions,
                   "masked_lm_labels": names(labels)}

    def pairs(self, document: int, rng: random.Random) -> Iterator[tuple[list[int], list[int], bool]]:
        """Token ids of both halves and is_random_next, for chunk after chunk of the document's sentences.

        Halves have at least one token each and at most max_seq_len - 3 together.
        """
        settings, tokens = self.settings, self.corpus.tokens
        longest = settings.max_seq_len - 3
        target = rng.randint(2, longest) if rng.random() < settings.short_seq_prob else longest
        begin, end = map(int, self.corpus.document_offsets[document:document + 2])
        offsets = self.corpus.sentence_offsets[begin:end + 1].tolist()
        start = 0  # of the chunk, in sentences of this document
        while start < end - begin:
            # The chunk takes sentences until they reach the target, or the document ends.
            stop = min(bisect_left(offsets, offsets[start] + target, start + 1), end - begin)
            split = rng.randrange(start + 1, stop) if stop - start > 1 else stop
            first = tokens[offsets[start]:offsets[split]].tolist()
            is_random_next = not settings.one_seq and (split == stop or rng.random() < 0.5)
            if is_random_next:
                second = self._random_run(begin, end, target - len(first), rng)
                start = split  # the sentences left over begin the next chunk
            else:
                second = tokens[offsets[split]:offsets[stop]].tolist()
                start = stop
            yield *truncate(first, second or self._filler, longest, rng), is_random_next

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
        return corpus.tokens[first_token:int(ends[enough])].tolist()

    def mask(self, tokens: list[int], rng: random.Random) -> tuple[list[int], list[int]]:
        """Replace some tokens in place; return their positions, ascending, and the ids that stood there.

        Of those chosen 80% become [MASK], 10% stay as they are, 10% become a random piece. No more than
        round(length * masked_lm_prob), at least 1, are chosen; a word that would exceed that is passed over.
        """
        settings = self.settings
        if not settings.masked_lm_prob and not settings.mask_at_least_one:
            return [], []
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
    if len(first) + len(second) <= room:
        return first, second
    kept = min(len(first), max(room - room // 2, room - len(second)))
    shortened = []
    for tokens, length in ((first, kept), (second, room - kept)):
        from_front = rng.getrandbits(len(tokens) - length).bit_count()
        shortened.append(tokens[from_front:from_front + length])
    return shortened[0], shortened[1]


def read_epoch(epoch_json: str | Path, metrics_json: str | Path, tokenizer: BertTokenizer, max_seq_length: int,
               memory_map_dir: str | Path | None = None) -> Sequences:
    """Read the instances of one epoch (epoch_K.json, epoch_K_metrics.json) into flat arrays, without labels.

    memory_map_dir: folder for the arrays, which are then np.memmap; None keeps them in memory. Raises InputError when
    a file is missing or damaged, the number of instances is not that of the metrics, a token is not in the
    vocabulary, the recorded vocabulary is another one, or a sequence is longer than max_seq_length.
    """
    from transformer.features import Sequences  # loads torch, which pregenerate_training_data.py can do without
    epoch_json = Path(epoch_json)
    metrics = read_json(metrics_json)
    if not isinstance(metrics, dict) or not isinstance(metrics.get("num_training_examples"), int):
        raise InputError(f"{metrics_json} has no num_training_examples: generate the data again")
    if metrics.get("vocab_sha256", tokenizer.vocab_fingerprint) != tokenizer.vocab_fingerprint:
        raise InputError(f"{epoch_json} was generated with another vocabulary than this model's vocab.txt: generate "
                         "the data again with --bert_model set to this model, or use the model it was made with")
    if not epoch_json.is_file():
        raise InputError(f"{epoch_json} does not exist: pregenerate_training_data.py makes it")

    def growing(name: str, typecode: str) -> GrowingArray:
        return GrowingArray(typecode, folder and folder / f"{epoch_json.stem}.{name}")

    folder = memory_map_dir and Path(memory_map_dir)
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    tokens = growing("tokens", tokenizer.id_typecode)
    offsets, first_lengths = growing("offsets", "q"), growing("first_lengths", "i")
    offsets.extend([0])
    end = count = 0
    for line in tqdm(read_lines(epoch_json), desc=epoch_json.name, total=metrics["num_training_examples"],
                     unit=" instances", unit_scale=True, disable=None):
        count += 1
        ids, first_length = _parse_instance(line, tokenizer, f"{epoch_json}, line {count}")
        if len(ids) > max_seq_length:
            raise InputError(f"{epoch_json}, line {count}: {len(ids)} wordpieces, more than --max_seq_length "
                             f"{max_seq_length}; the data was generated with --max_seq_len "
                             f"{metrics.get('max_seq_len', 'unknown')}: set --max_seq_length to that")
        tokens.extend(ids)
        end += len(ids)
        offsets.extend([end])
        first_lengths.extend([first_length])
    if count != metrics["num_training_examples"]:
        raise InputError(f"{epoch_json} holds {count} instances, {metrics_json} says "
                         f"{metrics['num_training_examples']}: it may be cut short, generate it again")
    return Sequences(tokens.finish(), offsets.finish(), first_lengths.finish())


def _parse_instance(line: str, tokenizer: BertTokenizer, where: str) -> tuple[list[int], int]:
    """Token ids of a line of epoch_K.json and the length of its segment 0."""
    try:
        instance = json.loads(line)
        pieces, segments = instance["tokens"], instance["segment_ids"]
        first_length = segments.count(0)
        if not pieces or segments != [0] * first_length + [1] * (len(pieces) - first_length):
            raise ValueError
        ids = [tokenizer.vocab.get(piece) for piece in pieces]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{where}: not an instance (a JSON object with tokens and segment_ids of the same length, "
                         "zeros before ones); it may be cut short, generate the data again") from None
    if None in ids:
        raise InputError(f"{where}: token {pieces[ids.index(None)]!r} is not in the vocabulary; generate the data "
                         "again with --bert_model set to this model")
    return ids, first_length
