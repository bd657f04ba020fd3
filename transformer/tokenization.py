"""BERT's tokenizer: text to words (BasicTokenizer), words to wordpieces (WordpieceTokenizer), both at once and fast
(BertTokenizer); and open_tokenizer(), which opens that of a model folder, whatever its pieces are."""
from __future__ import annotations

import hashlib
import re
import unicodedata
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformer.families import model_type_of
from transformer.files import InputError, read_json, read_lines
from transformer.pieces import Memory, Tokenizer
from transformer.sentencepieces import SPIECE_NAME, AlbertTokenizer, has_accents, read_sentencepieces

if TYPE_CHECKING:
    import numpy as np

VOCAB_NAME = "vocab.txt"
TOKENIZER_NAME = "tokenizer.json"  # of the package tokenizers; some models have it instead
TOKENIZER_CONFIG_NAME = "tokenizer_config.json"
MAX_WORDPIECES = 1_000_000  # multilingual BERT has 119,547
SPECIAL_TOKENS = ("[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]")
_ASCII_WORDS = re.compile(r"[0-9A-Za-z]+|[!-/:-@\[-`{-~]").findall  # words and punctuation marks of ASCII text

# The blocks that BERT takes for ideographs. Hangul, Hiragana and Katakana are written with spaces or left whole.
_CJK_RANGES = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
               (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F))
CJK_CLASS = "".join(f"{chr(first)}-{chr(last)}" for first, last in _CJK_RANGES)  # in the brackets of a pattern of re


def vocab_path(path: str | Path) -> Path:
    """The file that holds the vocabulary of a model folder: vocab.txt, else spiece.model, else tokenizer.json; of an
    ALBERT spiece.model first. A file is its own."""
    path = Path(path)
    if not path.is_dir():
        return path
    is_plain, config = (path / VOCAB_NAME).is_file() and not (path / SPIECE_NAME).is_file(), path / "config.json"
    names = vocabulary_names({} if is_plain or not config.is_file() else read_json(config))
    return path / next((name for name in names if (path / name).is_file()), names[0])


def vocabulary_names(config: dict[str, Any]) -> tuple[str, ...]:
    """Names of the files that may hold the vocabulary of a model with this config.json; the first that is there does.
    """
    # A Chinese ALBERT has BERT's vocabulary and no spiece.model; beside that, a vocab.txt can only list its pieces.
    first = (SPIECE_NAME, VOCAB_NAME) if model_type_of(config) == "albert" else (VOCAB_NAME, SPIECE_NAME)
    return (*first, TOKENIZER_NAME)


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


def is_ideograph(text: str) -> bool:
    """Whether a text is one character of the blocks that BERT takes for ideographs, each of which is a word."""
    return len(text) == 1 and not text.isascii() and any(first <= ord(text) <= last for first, last in _CJK_RANGES)


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
        elif is_ideograph(character):
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


class _Words(Memory):
    """Ids of words and punctuation marks as BasicTokenizer gives them."""

    def __init__(self, vocab: dict[str, int], typecode: str, tokenizer: WordpieceTokenizer):
        super().__init__()
        self._ids = {wordpiece: array(typecode, [index]).tobytes() for wordpiece, index in vocab.items()}
        self._tokenizer = tokenizer

    def __missing__(self, word: str) -> bytes:
        return self.remember(word, b"".join(map(self._ids.__getitem__, self._tokenizer.split_word(word))))


class _Cleaned(Memory):
    """Ids of what BasicTokenizer.words() gives, among it each ideograph: a Chinese sentence has no spaces, and is not
    met again, but its characters are."""

    def __init__(self, basic: BasicTokenizer, words: _Words):
        super().__init__()
        self._basic = basic
        self._words = words

    def __missing__(self, word: str) -> bytes:
        return self.remember(word, b"".join(map(self._words.__getitem__, self._basic.split_word(word))))


class _Chunks(Memory):
    """Ids of what stands between two spaces of a text: no wordpiece reaches over a space."""

    def __init__(self, basic: BasicTokenizer, words: _Words):
        super().__init__()
        self._basic = basic
        self._words = words
        self._cleaned = _Cleaned(basic, words)

    def __missing__(self, chunk: str) -> bytes:
        if chunk.isascii() and chunk.isprintable() and chunk not in SPECIAL_TOKENS:
            # Here cleaning and accents have nothing to do: only case, and splitting off whatever is no letter or digit.
            words = _ASCII_WORDS(chunk.lower() if self._basic.do_lower_case else chunk)
            return self.remember(chunk, b"".join(map(self._words.__getitem__, words)))
        return self.remember(chunk, b"".join(map(self._cleaned.__getitem__, self._basic.words(chunk))))


class BertTokenizer(Tokenizer):
    """BasicTokenizer followed by WordpieceTokenizer, with the same result and a memory for words met before.

    vocab_fingerprint is the SHA-256 of the wordpieces as a vocabulary file holds them: the same whether they come from
    vocab.txt or from tokenizer.json.
    """
    SPECIALS = SPECIAL_TOKENS

    def __init__(self, vocab_file: str | Path, do_lower_case: bool = True, max_len: int = 512):
        vocab = load_vocab(vocab_file)
        fingerprint = hashlib.sha256("".join(f"{token}\n" for token in vocab).encode()).hexdigest()
        super().__init__(vocab_file, vocab, fingerprint, do_lower_case, max_len)
        self.basic_tokenizer = BasicTokenizer(do_lower_case)
        self.wordpiece_tokenizer = WordpieceTokenizer(self.vocab)
        self._chunks = _Chunks(self.basic_tokenizer, _Words(self.vocab, self.id_typecode, self.wordpiece_tokenizer))

    def encode_to_bytes(self, text: str) -> bytes:
        """As Tokenizer has it."""
        return b"".join(map(self._chunks.__getitem__, text.split(" ")))

    def encode_texts(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """As Tokenizer has it."""
        import numpy as np
        # At once is faster than one by one. No piece reaches over a space, so that [PAD] can tell the texts apart.
        ids = np.frombuffer(self.encode_to_bytes(" [PAD] ".join([*texts, ""])), self.id_typecode)
        ends = np.flatnonzero(ids == self.pad_id)
        if len(ends) == len(texts):
            return np.delete(ids, ends), np.diff(ends, prepend=-1) - 1
        return super().encode_texts(texts)  # one says [PAD] itself

    def continues_word(self) -> list[bool]:
        """Whether a wordpiece begins with ##."""
        return [wordpiece.startswith("##") for wordpiece in self.ids_to_tokens]

    def whole_words(self) -> list[str | None]:
        """The wordpieces that do not begin with ##."""
        return [None if wordpiece.startswith("##") else wordpiece for wordpiece in self.ids_to_tokens]

    def chunks(self, text: str) -> list[str]:
        """BasicTokenizer.words()."""
        return self.basic_tokenizer.words(text)

    def split_chunk(self, chunk: str) -> list[str]:
        """BasicTokenizer.split_word(): words and punctuation marks."""
        return self.basic_tokenizer.split_word(chunk)

    def encode_word(self, word: str) -> list[int]:
        """As WordpieceTokenizer splits the word."""
        return self.convert_tokens_to_ids(self.wordpiece_tokenizer.split_word(word))

    def spelled(self, ids: Iterable[int]) -> str:
        """As Tokenizer has it; [UNK] where a word is unknown."""
        return " ".join(" ".join(self.convert_ids_to_tokens(ids)).replace(" ##", "").replace("##", "").split())


def _is_sentencepiece(vocabulary: Path) -> bool:
    return vocabulary.suffix == Path(SPIECE_NAME).suffix


def read_pieces(path: str | Path) -> dict[str, int]:
    """{piece: id}, in the order of the ids, of what vocab_path() gives: read_sentencepieces() or read_wordpieces()."""
    return (read_sentencepieces if _is_sentencepiece(Path(path)) else read_wordpieces)(path)


def vocabulary_content(path: str | Path) -> tuple[str, bytes]:
    """Name and content of the file by which the kit hands on the vocabulary of a model folder, or vocabulary file:
    spiece.model as it is, else vocab.txt. Raises InputError as read_pieces() does."""
    vocabulary = vocab_path(path)
    pieces = read_pieces(vocabulary)
    if _is_sentencepiece(vocabulary):
        return SPIECE_NAME, vocabulary.read_bytes()
    return VOCAB_NAME, "".join(f"{piece}\n" for piece in pieces).encode()


def open_tokenizer(path: str | Path, do_lower_case: bool | None = None, max_len: int = 512) -> Tokenizer:
    """The tokenizer of a model folder, or of a vocabulary file, by what lies there: see vocab_path().

    do_lower_case: None for what casing() says. Of SentencePiece, keep_accents of tokenizer_config.json counts, too, and
    without that the vocabulary: see accents(). Raises InputError where a file is missing, damaged or of no use.
    """
    vocabulary = vocab_path(path)
    lower = casing(path)[0] if do_lower_case is None else do_lower_case
    if _is_sentencepiece(vocabulary):
        return AlbertTokenizer(vocabulary, lower, accents(path), max_len)
    return BertTokenizer(vocabulary, lower, max_len)


def casing(path: str | Path) -> tuple[bool, Path]:
    """Whether the text of a model folder is lower-cased, and the file that says so; of a vocabulary file it alone.

    do_lower_case in tokenizer_config.json, else, of a tokenizer.json alone, its normalizer, else the vocabulary: see
    is_uncased(). Raises InputError where one of the first two is neither true nor false.
    """
    vocabulary = vocab_path(path)
    if (told := _setting_of(path, "do_lower_case")) is not None:
        return told, Path(path) / TOKENIZER_CONFIG_NAME
    if vocabulary.suffix == ".json":
        normalizer = read_json(vocabulary).get("normalizer")
        if isinstance(normalizer, dict) and normalizer.get("type") == "BertNormalizer" and "lowercase" in normalizer:
            return _true_or_false(vocabulary, normalizer, "lowercase"), vocabulary
    return is_uncased(read_pieces(vocabulary)), vocabulary


def accents(path: str | Path) -> bool:
    """Whether the text of a model folder, or of a spiece.model, keeps its accents: keep_accents in
    tokenizer_config.json, else whether a piece has one. Raises InputError as casing() does."""
    told = _setting_of(path, "keep_accents")
    return has_accents(read_pieces(vocab_path(path))) if told is None else told


def _setting_of(path: str | Path, key: str) -> bool | None:
    """What tokenizer_config.json says; None where there is none, or it says nothing."""
    config = Path(path) / TOKENIZER_CONFIG_NAME
    settings = read_json(config) if config.is_file() else {}
    return _true_or_false(config, settings, key) if key in settings else None


def _true_or_false(file: Path, settings: dict[str, Any], key: str) -> bool:
    if type(settings[key]) is not bool:
        raise InputError(f"{file}: {key} is {settings[key]!r}, expected true or false")
    return settings[key]


def tokenizer_settings(path: str | Path) -> dict[str, Any]:
    """What tokenizer_config.json of a model folder is to say so that the kit, and Hugging Face, open the tokenizer of
    `path`, a model folder or vocabulary file."""
    # the class by the pieces, whatever the model is: a student is a BERT, a Chinese ALBERT has BERT's pieces
    settings = {"do_lower_case": casing(path)[0], "tokenizer_class": "BertTokenizer"}
    if _is_sentencepiece(vocab_path(path)):
        settings |= {"keep_accents": accents(path), "tokenizer_class": "AlbertTokenizer"}
    return settings


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
    if not lower and is_uncased(read_pieces(vocab_path(path))):
        print(f"warning: {says} and its vocabulary has no capitals: capitalised words become [UNK]; if it was trained "
              "on lower-cased text, correct that file", flush=True)
    return lower
