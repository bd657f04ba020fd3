"""Which language a text is in, as far as its letters tell."""
from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable

from transformer.files import InputError

# What the names of letters in Unicode begin with, and the language that is taken where most letters are so. Several are
# written in the first two.
_LANGUAGES = {"LATIN": "english", "CYRILLIC": "russian", "GREEK": "greek", "MALAYALAM": "malayalam", "CJK": "chinese"}
_HARDLY_ANY = 0.1  # of Chinese characters and others of the Far East: kana in Chinese text; Japanese has far more
NOT_SPLIT = {"japanese": "its words stand without spaces, and its models cut them with a dictionary, which the kit's "
                         "tokenizer does not have",
             "thai": "its sentences end without a mark and its words without a space"}
_NOT_SPLIT_BY_LETTER = {"HIRAGANA": "japanese", "KATAKANA": "japanese", "THAI": "thai"}


def guess_language(texts: Iterable[str]) -> str:
    """The language of texts, a sample of a corpus, by the alphabet of their letters, which is printed; English where
    they have none.

    Raises InputError where there is nothing to split their sentences with.
    """
    characters = Counter()
    for text in texts:
        characters.update(text)
    letters = Counter()
    for character, count in characters.items():
        if character.isalpha():  # by bytes of UTF-8: a Chinese character says more than a Latin letter
            letters[_alphabet(character)] += count * len(character.encode())
    if not letters:
        return "english"
    alphabet, count = letters.most_common(1)[0]
    if alphabet == "CJK":
        others = Counter({other: letters[other] for other in letters.keys() - _LANGUAGES.keys()})
        if others.total() > _HARDLY_ANY * (others.total() + count):
            alphabet, count = others.most_common(1)[0]
    name = "Chinese" if alphabet == "CJK" else alphabet.title()
    share = f"{count / letters.total():.0%} of the letters of a sample, by bytes, are {name}"
    if alphabet not in _LANGUAGES:
        language = _NOT_SPLIT_BY_LETTER.get(alphabet, "")
        reason = f"{language.title()} cannot be split: {NOT_SPLIT[language]}" if language else \
            "there is nothing to split its sentences with"
        raise InputError(f"{share}. {reason}; if most of the corpus is in another language, name that with --language")
    language = _LANGUAGES[alphabet]
    print(f"Language: {language.title()}, since {share}; --language names another", flush=True)
    return language


def _alphabet(letter: str) -> str:
    name = unicodedata.name(letter, "UNKNOWN").removeprefix("FULLWIDTH ").removeprefix("HALFWIDTH ")
    return name.split()[0].split("-")[0]
