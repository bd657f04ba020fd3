"""ALBERT's tokenizer: SentencePiece's unigram model, spiece.model, with what ALBERT does to the text before and to the
pieces after. The package sentencepiece is imported where such a file is opened, and nowhere else."""
from __future__ import annotations

import hashlib
import unicodedata
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformer.files import InputError
from transformer.pieces import Memory, Tokenizer

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

SPIECE_NAME = "spiece.model"
MARK = "\u2581"  # stands for the space before a word


def _open_model(path: str | Path) -> SentencePieceProcessor:
    """The model of a file; InputError where it is missing or none, and where the package is."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"vocabulary file {path} does not exist")
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        raise InputError(f"{path} needs the package sentencepiece: pip install sentencepiece") from None
    content = path.read_bytes()
    try:
        if content:  # of nothing it would say so on its own
            return SentencePieceProcessor(model_proto=content)
    except (RuntimeError, TypeError, ValueError):
        pass
    raise InputError(f"{path} is no SentencePiece model, or cut short: get it again")


def _pieces_of(processor: SentencePieceProcessor) -> dict[str, int]:
    return {processor.id_to_piece(index): index for index in range(processor.get_piece_size())}


def read_sentencepieces(path: str | Path) -> dict[str, int]:
    """{piece: id}, in the order of the ids, of a spiece.model; InputError where it is missing or none."""
    return _pieces_of(_open_model(path))


def has_accents(pieces: Iterable[str]) -> bool:
    """Whether stripping accents changes a piece."""
    return any(unicodedata.combining(character) for piece in pieces if not piece.isascii()
               for character in unicodedata.normalize("NFKD", piece))


class _Texts(Memory):
    """Ids of what stands between two spaces of a text."""

    def __init__(self, tokenizer: AlbertTokenizer):
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, text: str) -> bytes:
        return self.remember(text, array(self._tokenizer.id_typecode, self._tokenizer.ids_of(text)).tobytes())


class AlbertTokenizer(Tokenizer):
    """SentencePiece as ALBERT uses it, with a memory for words met before.

    What stands between two spaces becomes pieces by itself, as in Hugging Face's: ALBERT's pieces reach over no space,
    and the first of each word begins with U+2581. (In one piece the text gives the same, but where two ways to split a
    word are equally likely: rounding decides there, by what stands before.) Words, as the kit asks for them, are what
    stands between spaces, marks included.
    keep_accents: whether to leave accents, and with them all that NFKD changes, to the model's own normalizer.
    Raises InputError where the file is missing or none, lacks a special piece, has another piece for padding than its
    first, or has pieces that reach over spaces; and where the package sentencepiece is not there.
    """
    SPECIALS = ("<unk>", "[SEP]", "<pad>", "[CLS]", "[MASK]")

    def __init__(self, vocab_file: str | Path, do_lower_case: bool = True, keep_accents: bool = False,
                 max_len: int = 512):
        self._processor = _open_model(vocab_file)
        vocab = _pieces_of(self._processor)
        missing = [piece for piece in self.SPECIALS if piece not in vocab]
        if missing:
            raise InputError(f"{vocab_file} is no model of ALBERT's: it lacks {', '.join(missing)}")
        if vocab["<pad>"]:
            raise InputError(f"{vocab_file} is no model of ALBERT's: <pad> is its piece {vocab['<pad>']}, not 0")
        if any(MARK in piece[1:] for piece in vocab) \
                or self._processor.encode("a a") != 2 * self._processor.encode("a"):
            raise InputError(f"{vocab_file} is no model of ALBERT's: its pieces reach over spaces, or words begin "
                             "without U+2581")
        super().__init__(vocab_file, vocab, hashlib.sha256(Path(vocab_file).read_bytes()).hexdigest(), do_lower_case,
                         max_len)
        self.keep_accents = keep_accents
        self._with_comma = {index: self._before_comma(piece) for piece, index in vocab.items()
                            if piece.endswith(",") and piece[-2:-1].isdigit()}
        self._texts = _Texts(self)

    def _before_comma(self, piece: str) -> list[int]:
        """The ids that take the place of a piece which ends in a digit and a comma.

        Numbers are to have the same pieces whether a comma follows or not: what is before it is encoded anew, without
        the mark if the piece had none. So do the code that ALBERT was trained with and the slow tokenizer of Hugging
        Face's transformers 4; the fast one, the only one since 5, makes such pieces unlikely in its search for the
        best ones instead, which gives other ids where the next best hold the comma with more digits or fewer.
        """
        before = self._processor.encode(piece[:-1].replace(MARK, ""), out_type=str)
        if not piece.startswith(MARK):
            before = [before[0].removeprefix(MARK), *before[1:]]
        return [self._processor.piece_to_id(part) for part in (*before, ",") if part]

    @property
    def facts(self) -> dict[str, Any]:
        """Those of Tokenizer, and what becomes of accents."""
        return {**super().facts, "keep_accents": self.keep_accents}

    def prepared(self, text: str) -> str:
        """What the model is given of a text without spaces: the tokenizer of XLNet, which ALBERT's comes from, takes
        two backticks or apostrophes for a double quote; accents and capitals go, where they do."""
        text = text.replace("``", '"').replace("''", '"')
        if not text.isascii():
            text = text.encode("utf-8", "ignore").decode()  # without half characters, which JSON may hold
            if not self.keep_accents:
                # by the combining class, as in ALBERT's code: a sign that takes room of its own, as in Thai, stays
                text = "".join(character for character in unicodedata.normalize("NFKD", text)
                               if not unicodedata.combining(character))
        return text.lower() if self.do_lower_case else text

    def ids_of(self, text: str) -> list[int]:
        """encode() of a text without spaces, without the memory."""
        ids = self._processor.encode(self.prepared(text))
        if self._with_comma.keys().isdisjoint(ids):
            return ids
        return [part for index in ids for part in self._with_comma.get(index, (index,))]

    def encode_to_bytes(self, text: str) -> bytes:
        """As Tokenizer has it."""
        return b"".join(map(self._texts.__getitem__, text.split()))

    def find(self, text: str, ids: list[int]) -> tuple[int, int] | None:
        """As Tokenizer has it, by letters: within a word the text may have other pieces than alone."""
        wanted, letters, starts, ends = "".join(self._letters(self.encode(text))), "", {}, {}
        for number, piece in enumerate(self._letters(ids)):
            if piece:
                starts[len(letters)] = number
                letters += piece
                ends[len(letters)] = number
        for start, first in starts.items() if wanted else ():
            if letters.startswith(wanted, start) and start + len(wanted) in ends:
                return first, ends[start + len(wanted)]
        return None

    def _letters(self, ids: Iterable[int]) -> list[str]:
        return [piece.removeprefix(MARK) for piece in self.convert_ids_to_tokens(ids)]

    def continues_word(self) -> list[bool]:
        """Whether a piece lacks the mark of a word's beginning and is no punctuation mark or symbol, which is a word of
        its own. <unk> stands for some letters of a word."""
        return [not piece.startswith(MARK)
                and not all(unicodedata.category(character)[0] in "PS" for character in piece)
                for piece in self.ids_to_tokens]

    def whole_words(self) -> list[str | None]:
        """The pieces of letters with the mark, without it."""
        return [piece[1:] if piece.startswith(MARK) and piece[1:].isalpha() else None for piece in self.ids_to_tokens]

    def chunks(self, text: str) -> list[str]:
        """What stands between spaces."""
        return text.split()

    def split_chunk(self, chunk: str) -> list[str]:
        """The words as the model's normalizer gives them: most often the chunk, in small letters where that is so."""
        return self._processor.normalize(self.prepared(chunk)).replace(MARK, " ").split()

    def encode_word(self, word: str) -> list[int]:
        """As encode() does."""
        return self.encode(word)

    def spelled(self, ids: Iterable[int]) -> str:
        """As Tokenizer has it; <unk> for letters that are unknown."""
        return " ".join("".join(self.convert_ids_to_tokens(ids)).replace(MARK, " ").split())
