"""BERT's tokenizer: text to words (BasicTokenizer), words to wordpieces (WordpieceTokenizer), both at once and fast
(BertTokenizer)."""
from __future__ import annotations

import hashlib
import itertools
import re
import unicodedata
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformer.files import InputError, read_json, read_lines

if TYPE_CHECKING:
    from torch import Tensor

VOCAB_NAME = "vocab.txt"
TOKENIZER_NAME = "tokenizer.json"  # of the package tokenizers; some models have it instead
TOKENIZER_CONFIG_NAME = "tokenizer_config.json"
MAX_WORDPIECES = 1_000_000  # multilingual BERT has 119,547
MAX_PADDING = 1024  # rows that a model may have beyond its wordpieces; frameworks round up to 8, 64, 128 or 1024
SPECIAL_TOKENS = ("[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]")
_REMEMBERED = 1 << 18      # texts in each of two memories, together some 100 MB with their ids
_LONGEST_REMEMBERED = 100  # characters
_ASCII_WORDS = re.compile(r"[0-9A-Za-z]+|[!-/:-@\[-`{-~]").findall  # words and punctuation marks of ASCII text

# The blocks that BERT takes for ideographs. Hangul, Hiragana and Katakana are written with spaces or left whole.
_CJK_RANGES = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
               (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F))


def vocab_path(path: str | Path) -> Path:
    """The file that holds the vocabulary of a model folder: vocab.txt, else tokenizer.json. A file is its own."""
    path = Path(path)
    if not path.is_dir():
        return path
    text, table = path / VOCAB_NAME, path / TOKENIZER_NAME
    return table if table.is_file() and not text.is_file() else text


def read_wordpieces(path: str | Path) -> dict[str, int]:
    """{wordpiece: id}, in the order of the ids, of a tokenizer.json or of a vocabulary file: one a line, from 0.

    Raises InputError when it is missing, not UTF-8, has an empty line (other than as its last) or a repeated one, more
    than MAX_WORDPIECES, or where a tokenizer.json is no WordPiece or a vocabulary file could not hold its wordpieces.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"vocabulary file {path} does not exist")
    return _read_table(path) if path.suffix == ".json" else _read_lines(path)


def _read_lines(path: Path) -> dict[str, int]:
    vocab: dict[str, int] = {}
    for number, wordpiece in enumerate(read_lines(path), 1):
        if "" in vocab:
            raise InputError(f"{path}, line {number - 1}: empty; a vocabulary has one piece on every line")
        if wordpiece and number > MAX_WORDPIECES:
            raise InputError(f"{path} is no BERT vocabulary: it has more than {MAX_WORDPIECES:,} lines")
        if wordpiece in vocab:
            raise InputError(f"{path}, line {number}: piece {wordpiece!r} again "
                             f"(first on line {vocab[wordpiece] + 1})")
        vocab[wordpiece] = number - 1
    vocab.pop("", None)  # the last line: editors leave an empty one
    return vocab


def _read_table(path: Path) -> dict[str, int]:
    """Those of a tokenizer.json in the order of their ids; those that were added to its vocabulary are part of it."""
    content = read_json(path)
    model = content.get("model")
    try:
        if model.get("type", "WordPiece") != "WordPiece" or model.get("continuing_subword_prefix", "##") != "##":
            raise InputError(f"{path} is no WordPiece with the prefix ##, as BERT has: take another model")
        wordpieces = [*model["vocab"].items(),
                      *((token["content"], token["id"]) for token in content.get("added_tokens") or ())]
        vocab = dict(wordpieces)
        ids = sorted(vocab.values())
        if any(vocab[wordpiece] != index for wordpiece, index in wordpieces) or ids != list(range(len(ids))):
            raise InputError(f"{path}: the ids of its {len(ids)} pieces are not 0, 1, 2 and so on, each once")
        if any(not wordpiece or "\n" in wordpiece or "\r" in wordpiece for wordpiece in vocab):
            raise InputError(f"{path}: a piece is empty or holds the end of a line")
        "".join(vocab).encode()
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(f"{path} holds no table of pieces of text and their ids: get it again") from None
    return {wordpiece: vocab[wordpiece] for wordpiece in sorted(vocab, key=vocab.get)}


def load_vocab(path: str | Path) -> dict[str, int]:
    """read_wordpieces() of a vocabulary that BERT can use; InputError also where it lacks a special token."""
    vocab = read_wordpieces(path)
    missing = [token for token in SPECIAL_TOKENS if token not in vocab]
    if missing:
        raise InputError(f"{path} is no BERT vocabulary: it lacks {', '.join(missing)}")
    return vocab


def is_uncased(wordpieces: Iterable[str]) -> bool:
    """Whether lower-casing changes no wordpiece, those in brackets such as [CLS] or <S> aside: such a vocabulary needs
    do_lower_case, or every word with a capital becomes [UNK]."""
    return not any(wordpiece.lower() != wordpiece for wordpiece in wordpieces
                   if (wordpiece[0], wordpiece[-1]) not in (("[", "]"), ("<", ">")))


class _Cleaning(dict):
    """Code point -> what it becomes before the text is split at whitespace; filled as code points turn up.

    Made for str.translate: nothing for what is dropped, a space for whitespace, spaces around ideographs.
    """

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        if character in "\t\n\r" or category == "Zs":
            result = " "
        elif code in (0, 0xFFFD) or category.startswith("C"):
            result = ""
        elif any(first <= code <= last for first, last in _CJK_RANGES):
            result = f" {character} "
        else:
            result = character
        self[code] = result
        return result


_CLEANING = _Cleaning()


def is_punctuation(character: str) -> bool:
    """Whether BERT splits words at `character`: Unicode punctuation and every ASCII symbol, `$` and `^` too."""
    code = ord(character)
    if 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126:
        return True
    return unicodedata.category(character).startswith("P")


class BasicTokenizer:
    """Splits text into words and punctuation marks; lower-cases and strips accents where `do_lower_case`.

    A whitespace-separated word that is one of `[UNK] [SEP] [PAD] [CLS] [MASK]` stays whole. Lower-casing is
    Python's, as in BERT: a capital sigma that ends a word becomes the final sigma.
    """

    def __init__(self, do_lower_case: bool = True):
        self.do_lower_case = do_lower_case

    def words(self, text: str) -> list[str]:
        """Clean the text and split it at whitespace; every ideograph is a word."""
        # Cleaning comes first: str.split() would also split at control characters that have to vanish (U+0085,
        # U+001C to U+001F). It rightly splits at U+2028 and U+2029, which cleaning leaves alone.
        return text.translate(_CLEANING).split()

    def split_word(self, word: str) -> list[str]:
        """Split one result of words() further, at punctuation; empty when stripping accents leaves nothing."""
        if word in SPECIAL_TOKENS:
            return [word]
        if self.do_lower_case:
            word = "".join(character for character in unicodedata.normalize("NFD", word.lower())
                           if unicodedata.category(character) != "Mn")
        return "".join(f" {character} " if is_punctuation(character) else character for character in word).split()

    def tokenize(self, text: str) -> list[str]:
        """Words and punctuation marks of `text`, in order."""
        return [token for word in self.words(text) for token in self.split_word(word)]


class WordpieceTokenizer:
    """Splits a word into wordpieces, always taking the longest that fits; all but the first start with ##."""

    def __init__(self, vocab: dict[str, int], unk_token: str = "[UNK]", max_input_chars_per_word: int = 100):
        self.vocab = vocab
        self.unk_token = unk_token
        self.max_input_chars_per_word = max_input_chars_per_word

    def tokenize(self, text: str) -> list[str]:
        """Wordpieces of the whitespace-separated words of `text`; a word too long or without a match is `unk_token`."""
        return [wordpiece for word in text.split() for wordpiece in self.split_word(word)]

    def split_word(self, word: str) -> list[str]:
        """Wordpieces of one word, which holds no whitespace."""
        if len(word) > self.max_input_chars_per_word:
            return [self.unk_token]
        wordpieces = []
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            for end in range(len(word), start, -1):
                wordpiece = prefix + word[start:end]
                if wordpiece in self.vocab:
                    break
            else:
                return [self.unk_token]
            wordpieces.append(wordpiece)
            start = end
        return wordpieces


def fitting_lengths(first: int, second: int, room: int) -> tuple[int, int]:
    """Lengths of two texts, in wordpieces, after the longer one (the second where both are equal) has given up one at a
    time until both fit into `room`: BERT's truncation of a pair."""
    first = min(first, max(room - room // 2, room - second))
    return first, min(second, room - first)


class _Memory(dict):
    """Wordpiece ids, as the bytes of an integer array, of texts met before; of bounded size."""

    def remember(self, text: str, ids: bytes) -> bytes:
        if len(text) <= _LONGEST_REMEMBERED:
            if len(self) >= _REMEMBERED:
                self.clear()  # the frequent ones are back soon
            self[text] = ids
        return ids


class _Words(_Memory):
    """Ids of words and punctuation marks as BasicTokenizer gives them."""

    def __init__(self, vocab: dict[str, int], typecode: str, tokenizer: WordpieceTokenizer):
        super().__init__()
        self._ids = {wordpiece: array(typecode, [index]).tobytes() for wordpiece, index in vocab.items()}
        self._tokenizer = tokenizer

    def __missing__(self, word: str) -> bytes:
        return self.remember(word, b"".join(map(self._ids.__getitem__, self._tokenizer.split_word(word))))


class _Chunks(_Memory):
    """Ids of what stands between two spaces of a text: no wordpiece reaches over a space."""

    def __init__(self, basic: BasicTokenizer, words: _Words):
        super().__init__()
        self._basic = basic
        self._words = words

    def __missing__(self, chunk: str) -> bytes:
        if chunk.isascii() and chunk.isprintable() and chunk not in SPECIAL_TOKENS:
            # Here cleaning and accents have nothing to do: only case, and splitting off whatever is no letter or digit.
            words = _ASCII_WORDS(chunk.lower() if self._basic.do_lower_case else chunk)
        else:
            words = self._basic.tokenize(chunk)
        return self.remember(chunk, b"".join(map(self._words.__getitem__, words)))


class BertTokenizer:
    """BasicTokenizer followed by WordpieceTokenizer, with the same result and a memory for words met before.

    Attributes: vocab (wordpiece -> id), ids_to_tokens (id -> wordpiece), do_lower_case, max_len (longest sequence the
    model takes, in wordpieces; the caller's to respect), vocab_fingerprint (SHA-256 of the wordpieces as a vocabulary
    file holds them: the same whether they come from vocab.txt or from tokenizer.json), vocab_file.
    """

    def __init__(self, vocab_file: str | Path, do_lower_case: bool = True, max_len: int = 512):
        self.vocab_file = Path(vocab_file)
        self.vocab = load_vocab(vocab_file)
        self.ids_to_tokens = list(self.vocab)
        self.vocab_fingerprint = hashlib.sha256("".join(f"{token}\n" for token in self.vocab).encode()).hexdigest()
        self.do_lower_case = do_lower_case
        self.max_len = max_len
        self.basic_tokenizer = BasicTokenizer(do_lower_case)
        self.wordpiece_tokenizer = WordpieceTokenizer(self.vocab)
        self._chunks = _Chunks(self.basic_tokenizer, _Words(self.vocab, self.id_typecode, self.wordpiece_tokenizer))

    @classmethod
    def from_pretrained(cls, path: str | Path, do_lower_case: bool = True, max_len: int = 512) -> BertTokenizer:
        """The tokenizer of a model folder, or of a vocabulary file; casing() tells whether to lower-case."""
        return cls(vocab_path(path), do_lower_case, max_len)

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
        wordpieces = len(self.vocab)
        if type(vocab_size) is not int or not wordpieces <= vocab_size < wordpieces + MAX_PADDING:
            raise InputError(f"{self.vocab_file} has {wordpieces} pieces and {folder}/config.json says vocab_size "
                             f"{vocab_size}: the files do not belong together")
        if vocab_size > wordpieces:
            print(f"{folder}: {vocab_size} word embeddings for {wordpieces} pieces: the last "
                  f"{vocab_size - wordpieces} are padding and never used", flush=True)

    def encode(self, text: str) -> list[int]:
        """Ids of the wordpieces of `text`, without [CLS] or [SEP] around them."""
        return array(self.id_typecode, self.encode_to_bytes(text)).tolist()

    def encode_to_bytes(self, text: str) -> bytes:
        """The same ids as the bytes of an array of id_typecode: the fast way to many of them."""
        return b"".join(map(self._chunks.__getitem__, text.split(" ")))

    def tokenize(self, text: str) -> list[str]:
        """Wordpieces of `text`."""
        return self.convert_ids_to_tokens(self.encode(text))

    def inputs(self, first: str, second: str | None = None) -> tuple[Tensor, Tensor]:
        """input_ids and token_type_ids of one text, or of a pair, as a model takes them: int64 [1, length].

        `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`, of at most max_len wordpieces: what is over is cut off.
        """
        import torch  # only here: text alone needs none
        texts = [self.encode(text) for text in (first, second) if text is not None]
        room = self.max_len - 1 - len(texts)
        lengths = fitting_lengths(*map(len, texts), room) if len(texts) == 2 else [room]
        cls, sep = self.convert_tokens_to_ids(["[CLS]", "[SEP]"])
        parts = [[*text[:length], sep] for text, length in zip(texts, lengths)]
        segments = [0] + [number for number, part in enumerate(parts) for _ in part]
        return torch.tensor([[cls, *itertools.chain(*parts)]]), torch.tensor([segments])

    def convert_tokens_to_ids(self, tokens: Iterable[str]) -> list[int]:
        """Ids of wordpieces that are in the vocabulary; KeyError for one that is not."""
        return [self.vocab[token] for token in tokens]

    def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str]:
        """Wordpieces for ids."""
        return [self.ids_to_tokens[index] for index in ids]


def casing(path: str | Path) -> tuple[bool, Path]:
    """Whether the text of a model folder is lower-cased, and the file that says so; of a vocabulary file it alone.

    do_lower_case in tokenizer_config.json, else, without a vocab.txt, the normalizer of tokenizer.json, else the
    vocabulary: see is_uncased(). Raises InputError where one of the first two is neither true nor false.
    """
    vocabulary, config = vocab_path(path), Path(path) / TOKENIZER_CONFIG_NAME
    told = []
    if config.is_file():
        told.append((config, read_json(config), "do_lower_case"))
    if vocabulary.suffix == ".json":
        normalizer = read_json(vocabulary).get("normalizer")
        if isinstance(normalizer, dict) and normalizer.get("type") == "BertNormalizer":
            told.append((vocabulary, normalizer, "lowercase"))
    for file, settings, key in told:
        if key in settings:
            if type(settings[key]) is not bool:
                raise InputError(f"{file}: {key} is {settings[key]!r}, expected true or false")
            return settings[key], file
    return is_uncased(read_wordpieces(vocabulary)), vocabulary


def resolve_casing(path: str | Path, do_lower_case: bool | None = None, cased: bool | None = None) -> bool:
    """Whether to lower-case the text of a model folder or vocabulary file: as casing() says, whatever the flags.

    do_lower_case, cased: whether the user gave the flag of that name; None where a script has no such flag. InputError
    where the model contradicts a flag; where a flag that was not given would have said the same, this is printed.
    """
    lower, file = casing(path)
    says = f"{path} is {'uncased' if lower else 'cased'}" + (f" ({file} says so)" if file != Path(path) else "")
    for flag, given, agrees in (("--do_lower_case", do_lower_case, lower), ("--cased", cased, not lower)):
        if given and not agrees:
            wrong = f"put do_lower_case into its {TOKENIZER_CONFIG_NAME}" if Path(path).is_dir() else \
                f"name its folder, with do_lower_case in a {TOKENIZER_CONFIG_NAME}"
            raise InputError(f"{flag}: {says}: drop the flag, or, where that is wrong, {wrong}")
        if given is False and agrees:
            print(f"{says}: {'lower-casing' if lower else 'keeping capitals'}, as with {flag}", flush=True)
    if not lower and is_uncased(read_wordpieces(vocab_path(path))):
        print(f"warning: {says} and its vocabulary has no capitals: capitalised words become [UNK]; if it was trained "
              "on lower-cased text, correct that file", flush=True)
    return lower
