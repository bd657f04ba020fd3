"""What the kit asks a tokenizer, whatever its pieces are: WordPiece's of BERT (transformer.tokenization), or
SentencePiece's of ALBERT (transformer.sentencepieces)."""
from __future__ import annotations

import itertools
import unicodedata
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from transformer.files import InputError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

MAX_PADDING = 1024  # rows that a model may have beyond its pieces; frameworks round up to 8, 64, 128 or 1024
_REMEMBERED = 1 << 18      # texts in each memory; BERT's two, together, take some 100 MB with their ids
_LONGEST_REMEMBERED = 100  # characters


def fitting_lengths(first: int, second: int, room: int) -> tuple[int, int]:
    """Lengths of two texts, in wordpieces, after the longer one (the second where both are equal) has given up one at a
    time until both fit into `room`: BERT's truncation of a pair."""
    first = min(first, max(room - room // 2, room - second))
    return first, min(second, room - first)


class Memory(dict):
    """Ids of pieces, as the bytes of an integer array, of texts met before; of bounded size."""

    def remember(self, text: str, ids: bytes) -> bytes:
        """Keep the ids of a text that is not too long; returns them."""
        if len(text) <= _LONGEST_REMEMBERED:
            if len(self) >= _REMEMBERED:
                self.clear()  # the frequent ones are back soon
            self[text] = ids
        return ids


class Tokenizer:
    """Text to pieces and their ids; each kind of pieces is a subclass.

    SPECIALS: names of the pieces for what is unknown, for the end of a part, for padding, for the beginning, and for
    what is masked.
    Attributes: vocab (piece -> id, in the order of the ids), ids_to_tokens (id -> piece), unk_id, sep_id, pad_id,
    cls_id, mask_id, do_lower_case, max_len (longest sequence the model takes, in pieces; the caller's to respect),
    vocab_fingerprint (SHA-256 of all that makes the pieces, the same for the same pieces), vocab_file.
    """
    SPECIALS: ClassVar[tuple[str, ...]]

    def __init__(self, vocab_file: str | Path, vocab: dict[str, int], vocab_fingerprint: str, do_lower_case: bool,
                 max_len: int):
        self.vocab_file = Path(vocab_file)
        self.vocab = vocab
        self.ids_to_tokens = list(vocab)
        self.vocab_fingerprint = vocab_fingerprint
        self.do_lower_case = do_lower_case
        self.max_len = max_len
        self.unk_id, self.sep_id, self.pad_id, self.cls_id, self.mask_id = map(vocab.__getitem__, self.SPECIALS)

    @property
    def facts(self) -> dict[str, Any]:
        """What its results follow from, to recognise them: the vocabulary, the casing, and Python's Unicode tables."""
        return {"vocab_sha256": self.vocab_fingerprint, "do_lower_case": self.do_lower_case,
                "unicode": unicodedata.unidata_version}

    @property
    def id_typecode(self) -> str:
        """Type code (of array and numpy) of ids: two bytes each where the vocabulary allows, else four."""
        return "H" if len(self.vocab) <= 1 << 16 else "i"

    def require_rows(self, vocab_size: int, folder: str | Path) -> None:
        """InputError where `vocab_size`, of config.json in `folder`, is not that of this vocabulary.

        It may be up to MAX_PADDING larger, which is said: word embeddings are padded to sizes that suit a GPU.
        """
        pieces = len(self.vocab)
        if type(vocab_size) is not int or not pieces <= vocab_size < pieces + MAX_PADDING:
            raise InputError(f"{self.vocab_file} has {pieces} pieces and {folder}/config.json says vocab_size "
                             f"{vocab_size}: the files do not belong together")
        if vocab_size > pieces:
            print(f"{folder}: {vocab_size} word embeddings for {pieces} pieces: the last "
                  f"{vocab_size - pieces} are padding and never used", flush=True)

    def encode(self, text: str) -> list[int]:
        """Ids of the pieces of `text`, without [CLS] or [SEP] around them."""
        return array(self.id_typecode, self.encode_to_bytes(text)).tolist()

    def encode_to_bytes(self, text: str) -> bytes:
        """The same ids as the bytes of an array of id_typecode: the fast way to many of them. Those of words that
        spaces part are those of the words, one after the other."""
        raise NotImplementedError

    def find(self, text: str, ids: list[int]) -> tuple[int, int] | None:
        """The first and the last of `ids`, those of some words, that are `text` alone: "1895" in "(1895-1943).". None
        where it has no pieces, or theirs reach beyond it, as of "Japan" in "Japanese"."""
        wanted = self.encode(text)
        for place in range(len(ids) - len(wanted) + 1 if wanted else 0):
            if ids[place:place + len(wanted)] == wanted:
                return place, place + len(wanted) - 1
        return None

    def encode_texts(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all texts, end to end, of id_typecode [pieces]; how many each has, int64 [texts]."""
        import numpy as np  # only where many texts are asked for
        encoded = [self.encode_to_bytes(text) for text in texts]
        ids = np.frombuffer(b"".join(encoded), self.id_typecode)
        return ids, np.array([len(part) // ids.itemsize for part in encoded], np.int64)

    def tokenize(self, text: str) -> list[str]:
        """Pieces of `text`."""
        return self.convert_ids_to_tokens(self.encode(text))

    def inputs(self, first: str, second: str | None = None) -> tuple[Tensor, Tensor]:
        """input_ids and token_type_ids of one text, or of a pair, as a model takes them: int64 [1, length].

        `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`, of at most max_len pieces: what is over is cut off.
        """
        import torch  # only here: text alone needs none
        texts = [self.encode(text) for text in (first, second) if text is not None]
        room = self.max_len - 1 - len(texts)
        lengths = fitting_lengths(*map(len, texts), room) if len(texts) == 2 else [room]
        parts = [[*text[:length], self.sep_id] for text, length in zip(texts, lengths)]
        segments = [0] + [number for number, part in enumerate(parts) for _ in part]
        return torch.tensor([[self.cls_id, *itertools.chain(*parts)]]), torch.tensor([segments])

    def convert_tokens_to_ids(self, tokens: Iterable[str]) -> list[int]:
        """Ids of pieces that are in the vocabulary; KeyError for one that is not."""
        return [self.vocab[token] for token in tokens]

    def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str]:
        """Pieces for ids."""
        return [self.ids_to_tokens[index] for index in ids]

    def ordinary_ids(self) -> list[int]:
        """Ids of the pieces that can stand in a text: all but the special ones."""
        return [index for piece, index in self.vocab.items() if piece not in self.SPECIALS]

    def continues_word(self) -> list[bool]:
        """For each id whether its piece goes on with the word of the piece before it."""
        raise NotImplementedError

    def whole_words(self) -> list[str | None]:
        """For each id the word that its piece may stand for alone; None where it can only be a part of one."""
        raise NotImplementedError

    def chunks(self, text: str) -> list[str]:
        """The text split at whitespace, for split_chunk()."""
        raise NotImplementedError

    def split_chunk(self, chunk: str) -> list[str]:
        """The words of one of chunks(), as the vocabulary has them: lower-cased, without accents where that is so."""
        raise NotImplementedError

    def words(self, text: str) -> list[str]:
        """The words of `text`, in order."""
        return [word for chunk in self.chunks(text) for word in self.split_chunk(chunk)]

    def encode_word(self, word: str) -> list[int]:
        """Ids of the pieces of one of words()."""
        raise NotImplementedError

    def spelled(self, ids: Iterable[int]) -> str:
        """What stands for the pieces in " ".join(words()) of their text; the last and the first word may be parts."""
        raise NotImplementedError
