"""Candidates for the words of sentences by BERT's masked LM (paper, algorithm 1).

Every word that may be replaced, of every different sentence, is masked once. The sequences go through the model in
batches by length; the best wordpieces for each are kept on disk, so that a killed run goes on where it was.
"""
from __future__ import annotations

import functools
import re
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from transformer.data.arrays import BlocksOnDisk
from transformer.files import InputError, read_lines
from transformer.modeling import BertForMaskedLM
from transformer.pieces import Tokenizer
from transformer.stopwatch import STOPWATCH
from transformer.tokenization import is_ideograph
from transformer.training.batches import Batches
from transformer.training.processes import PRECISIONS, Processes, mixed

STOP_WORDS = frozenset(read_lines(Path(__file__).with_name("stop_words.txt")))  # NLTK's English list and two more
STOP_CHARACTERS = frozenset(read_lines(Path(__file__).with_name("stop_characters.txt")))  # Chinese ones

LOGITS_ROWS = 1024  # of a batch, at most: the logits of 30,522 wordpieces take 125 MB for them

_PLAIN_WORD = re.compile("[a-z]+")
_REMEMBERED_WORDS = 1 << 17


def words_to_vary(words: list[str]) -> list[int]:
    """Positions of the words that may be replaced: letters a to z only, or one Chinese character, and not in the stop
    lists, which hold words such as "the" and "not", in both languages.

    Words of a cased model keep their capitals, and those that have one stay: they begin a sentence or are names.
    """
    return [i for i, word in enumerate(words) if (_PLAIN_WORD.fullmatch(word) and word not in STOP_WORDS)
            or (is_ideograph(word) and word not in STOP_CHARACTERS)]


class Splitter:
    """Sentences to words and wordpieces, as the tokenizer does it, with a memory for words.

    longest: wordpieces that the model takes; a word that would be masked past them is not masked.
    """

    def __init__(self, tokenizer: Tokenizer, longest: int):
        self.tokenizer = tokenizer
        self.longest = longest
        self._split = functools.lru_cache(_REMEMBERED_WORDS)(tokenizer.split_chunk)
        self.ids = functools.lru_cache(_REMEMBERED_WORDS)(tokenizer.encode_word)

    def __reduce__(self) -> tuple:  # for worker processes: without the memory
        return Splitter, (self.tokenizer, self.longest)

    def words(self, sentence: str) -> list[str]:
        """Words and marks of a sentence (Tokenizer.words)."""
        return [word for chunk in self.tokenizer.chunks(sentence) for word in self._split(chunk)]

    def to_vary(self, words: list[str]) -> list[int]:
        """words_to_vary(), without characters that the vocabulary does not have."""
        return [i for i in words_to_vary(words)
                if not is_ideograph(words[i]) or self.ids(words[i]) != [self.tokenizer.unk_id]]

    def to_mask(self, words: list[str]) -> dict[int, int]:
        """{position among `words`: position among their wordpieces} of those that the masked LM is asked about."""
        starts = np.cumsum([0, *(len(self.ids(word)) for word in words)])
        return {i: int(starts[i]) for i in self.to_vary(words)
                if len(self.ids(words[i])) == 1 and starts[i] + 1 < self.longest}


class MaskedWords:
    """The different sentences of a file, numbered as they come, and the words of each that are to be masked.

    longer: the words to vary that are several wordpieces long, which are not masked.
    After finish(): wordpieces (uint16 or int32, of all sentences end to end), offsets (int64 [sentences + 1]); sentence
    and position (int32 [masked words], the place among the wordpieces), is_character (int8 [masked words], 1 for a
    Chinese character); first (int64 [sentences + 1], the first masked word of each sentence).
    """

    def __init__(self, splitter: Splitter):
        self.splitter = splitter
        self.longer: set[str] = set()
        self._numbers: dict[str, int] = {}
        typecode = splitter.tokenizer.id_typecode
        self._arrays = (array(typecode), array("q", [0]), array("i"), array("i"), array("b"),
                        array("q", [0]))

    def add(self, sentence: str) -> int:
        """The number of a sentence."""
        number = self._numbers.setdefault(sentence, len(self._numbers))
        wordpieces, offsets, sentences, positions, characters, first = self._arrays
        if number == len(first) - 1:  # it is new
            words = self.splitter.words(sentence)
            for word in words:
                wordpieces.extend(self.splitter.ids(word))
            self.longer.update(word for word in map(words.__getitem__, self.splitter.to_vary(words))
                               if len(self.splitter.ids(word)) > 1)
            offsets.append(len(wordpieces))
            for place, position in self.splitter.to_mask(words).items():
                sentences.append(number)
                positions.append(position)
                characters.append(is_ideograph(words[place]))
            first.append(len(positions))
        return number

    def finish(self) -> None:
        """Forget the sentences themselves."""
        self._numbers.clear()
        self.wordpieces, self.offsets, self.sentence, self.position, self.is_character, self.first = \
            (np.frombuffer(values, values.typecode) for values in self._arrays)

    def __len__(self) -> int:
        """How many words are to be masked."""
        return len(self._arrays[3])

    def lengths(self) -> np.ndarray:
        """Wordpieces of the model's input for each masked word, specials included: int64 [masked words]."""
        return np.minimum(2 * np.diff(self.offsets)[self.sentence] + 3, self.splitter.longest)

    def batch(self, which: np.ndarray) -> tuple[torch.Tensor, ...]:
        """input_ids, token_type_ids, attention_mask of masked words, int64 [batch, length], their positions, and
        which of them are Chinese characters, int64 [batch].

        [CLS] masked sentence [SEP] original sentence [SEP], segments 0 and 1, cut at the longest the model takes.
        """
        tokenizer = self.splitter.tokenizer
        start = self.offsets[self.sentence[which]][:, None]
        count = self.offsets[self.sentence[which] + 1][:, None] - start
        place = np.arange(min(2 * int(count.max()) + 3, self.splitter.longest))[None]      # [1, length]
        second = place > count + 1
        within = np.where(second, place - count - 2, place - 1)
        ids = self.wordpieces.take(start + within, mode="clip").astype(np.int64)           # [batch, length]
        ids[np.broadcast_to(place == 0, ids.shape)] = tokenizer.cls_id
        ids[(place == count + 1) | (place == 2 * count + 2)] = tokenizer.sep_id
        attention = place <= 2 * count + 2
        ids[~attention] = 0
        positions = self.position[which].astype(np.int64) + 1
        ids[np.arange(len(which)), positions] = tokenizer.mask_id
        return tuple(map(torch.from_numpy, (ids, (second & attention).astype(np.int64), attention.astype(np.int64),
                                            positions, self.is_character[which].astype(np.int64))))


def batch_tokens_for(device: torch.device) -> int:
    """Wordpieces per batch, padding included, where the user names none."""
    return batch_tokens_in(None if device.type == "cpu" else torch.cuda.get_device_properties(device).total_memory)


def batch_tokens_in(gpu_memory: float | None) -> int:
    """batch_tokens_for() a GPU with so many bytes of memory; None: the CPU."""
    if gpu_memory is None:
        return 4096
    return 65_536 if gpu_memory > 12 << 30 else 16_384


class MaskedLM:
    """The best replacements for masked words: model (evaluation mode, no gradient), count (M, candidates a word).

    precision: with bf16 and fp16 the model is changed: its layers' matrices are of 16 bits from then on.
    preset: with `paper` the M best of the wordpieces that may stand for a word (Tokenizer.whole_words); with `code` the
    M best of all, of which Candidates leaves out the others, as the published code does. For a Chinese character the M
    best characters, in both.
    """

    def __init__(self, model: BertForMaskedLM, tokenizer: Tokenizer, count: int, precision: str = "fp32",
                 preset: str = "paper"):
        self.model = model.eval().requires_grad_(False)
        self.precision = precision
        self.device = next(model.parameters()).device
        if PRECISIONS[precision]:  # of weights that are not trained autocast keeps no casts: each batch would make them
            for layer in model.bert.encoder.modules():
                if isinstance(layer, nn.Linear):
                    layer.to(PRECISIONS[precision])
        whole_words = tokenizer.whole_words()
        ruled_out = [[preset == "paper" and word is None for word in whole_words],
                     [word is None or not is_ideograph(word) for word in whole_words]]
        self.ruled_out = torch.tensor(ruled_out, device=self.device)  # for words, for characters
        self.count = min(count, ruled_out[0].count(False))

    @torch.inference_mode()
    def best(self, ids: torch.Tensor, segments: torch.Tensor, attention: torch.Tensor,
             positions: torch.Tensor, is_character: torch.Tensor) -> torch.Tensor:
        """Ids [batch, count] of the best wordpieces at each row's position, the best first; -1 in place of all of them
        where one of the row's logits is not finite. On a GPU the host does not wait for them."""
        with mixed(self.precision, self.device):
            hidden = self.model.bert(ids, segments, attention, attention_scores=())[0][-1]            # [B, S, H]
            logits = self.model.cls(hidden[torch.arange(len(ids), device=ids.device), positions])     # [B, vocab_size]
        logits = logits[:, :self.ruled_out.size(1)].float()  # without rows of padding, which stand for no wordpiece
        best = logits.masked_fill(self.ruled_out[is_character], -torch.inf).topk(self.count).indices
        return best.where(logits.isfinite().all(dim=1, keepdim=True), -1)

    def answers(self, batches: Iterable[tuple[torch.Tensor, ...]]) -> Iterator[np.ndarray]:
        """best() of each batch, as arrays. A batch is made before that of the one before it is read: meanwhile a GPU is
        at work on that.

        Raises InputError where the model's logits are not finite or a batch does not fit into the memory of a GPU.
        """
        best = None
        for batch in batches:
            if best is not None:
                yield self._read(best)
            try:
                best = self.best(*batch)
            except torch.OutOfMemoryError:
                raise InputError("out of GPU memory: give a smaller --batch_tokens") from None
        if best is not None:
            yield self._read(best)

    def _read(self, best: torch.Tensor) -> np.ndarray:
        ids = best.cpu().numpy()
        if (ids < 0).any():
            raise InputError(f"the masked LM's logits are not finite with --precision {self.precision}: the weights "
                             "are damaged, or too large for it")
        return ids

    @STOPWATCH.part("masked_lm")
    def fill(self, words: MaskedWords, batches: Batches, table: BlocksOnDisk, processes: Processes,
             description: str) -> np.ndarray:
        """Fill a table with the candidates of all words; the row in it of each word, int32 [masked words].

        Processes share the batches that are not in it yet. Raises InputError as answers() does.
        """
        order, bounds = batches
        own = [number for number in table.missing() if number % processes.world == processes.rank]
        ends = np.diff(words.sentence[order], append=-1) != 0  # the last masked word of a sentence
        with tqdm(total=sum(int(ends[slice(*bounds[number])].sum()) for number in own), unit=" sentences",
                  desc=description, disable=None if processes.is_first else True) as progress:
            batches = (processes.send(words.batch(order[slice(*bounds[number])])) for number in own)
            for number, best in zip(own, self.answers(batches), strict=True):
                start, stop = bounds[number]
                table.write(int(number), start, best)
                progress.update(int(ends[start:stop].sum()))
        table.save()
        processes.wait()
        rows = np.empty(len(order), np.int32)
        rows[order] = np.arange(len(order))
        return rows


def open_table(folder: Path, count: int, typecode: str, blocks: int, facts: dict[str, Any], resume: bool,
               processes: Processes) -> BlocksOnDisk:
    """The table of a run: empty, or with `resume` as an earlier run of the same facts left it.

    Raises InputError where it was left by a run of other facts.
    """
    table = BlocksOnDisk(folder, count, typecode)
    if processes.is_first:
        earlier = table.facts() if resume else None
        if earlier:
            earlier = {"preset": "paper", **earlier}  # which once was not told, and made no difference
        changed = [name for name in facts if earlier and earlier.get(name) != facts[name]]
        if changed:
            name = changed[0]
            raise InputError(f"--resume: {name} was {earlier.get(name)} and is {facts[name]} now: give it as before, "
                             "or drop --resume to start anew")
        if not earlier or not table.is_whole(blocks):
            table.create(blocks, facts)
    processes.wait()
    return table


class Candidates:
    """Looks up what each word of a sentence may be replaced by.

    first: where the masked words of each sentence begin (of MaskedWords); rows: their rows in `table`, the ids of
    wordpieces [rows, count]; neighbours: longer word -> GloVe neighbours.
    """

    def __init__(self, splitter: Splitter, first: np.ndarray, rows: np.ndarray, table: np.ndarray,
                 neighbours: dict[str, list[str]]):
        self.splitter = splitter
        self.first = first
        self.rows = rows
        self.table = table
        self.neighbours = neighbours
        self._whole_words = splitter.tokenizer.whole_words()

    def find(self, sentence: str, number: int) -> tuple[list[str], dict[int, list[str]], dict[str, int]]:
        """(words of sentence `number`; {position of a word that may be replaced: its candidates, never empty, the
        word itself where nothing else was found}; how many candidates came from where)."""
        words = self.splitter.words(sentence)
        table_rows = self.rows[self.first[number]:self.first[number + 1]]
        masked = dict(zip(self.splitter.to_mask(words), self.table[table_rows].tolist(), strict=True))
        counts = {"words_by_masked_lm": 0, "words_by_glove": 0, "words_without_candidates": 0}
        candidates = {}
        for i in self.splitter.to_vary(words):
            whole = [word for index in masked.get(i, ()) if (word := self._whole_words[index]) is not None]
            if is_ideograph(words[i]):  # a vocabulary with few characters fills up the count with others
                whole = [word for word in whole if is_ideograph(word)]
            if whole:
                candidates[i] = whole
                counts["words_by_masked_lm"] += 1
            elif i not in masked and words[i] in self.neighbours:
                candidates[i] = self.neighbours[words[i]]
                counts["words_by_glove"] += 1
            else:
                candidates[i] = [words[i]]
                counts["words_without_candidates"] += 1
        return words, candidates, counts
