"""What the embedded world knows about words: a WordPiece vocabulary and word vectors, both from the corpus."""
from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from .language import SURNAME_PIECES

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SPLIT_SHARE = 10  # one word in so many is cut in two, so that wordpieces have work to do
VECTOR_WIDTH = 50
WINDOW = 4  # words


def make_vocabulary(words: Counter[str]) -> list[str]:
    """Pieces for these lower-case words, ids in list order; [PAD] is 0.

    Whole words, but for surnames, which are two parts, and for the longest tenth of the words, which are cut in the
    middle. Single characters at the front and within words make every other ASCII word representable.
    """
    heads, tails = SURNAME_PIECES
    surnames = {(head + tail).lower() for head in heads for tail in tails}
    pieces = [head.lower() for head in heads] + [f"##{tail}" for tail in tails]
    longest_first = sorted((word for word in words if word.isalpha() and word not in surnames),
                           key=lambda word: (-len(word), word))
    split = longest_first[:len(longest_first) // SPLIT_SHARE]
    for word in split:
        middle = len(word) // 2
        pieces += [word[:middle], f"##{word[middle:]}"]
    pieces += [word for word in longest_first if word not in split]
    characters = string.ascii_lowercase + string.digits
    return list(dict.fromkeys([*SPECIALS, *string.punctuation, *characters,
                               *(f"##{character}" for character in characters), *pieces]))


def word_vectors(sentences: Iterable[Sequence[str]]) -> tuple[list[str], np.ndarray]:
    """Vectors of the words of tokenized sentences, frequent words first.

    Positive pointwise mutual information of words at most WINDOW apart, reduced by a singular value decomposition.
    Returns the words and float64 [words, VECTOR_WIDTH].
    """
    from scipy.sparse import coo_matrix
    sentences = list(sentences)
    counts = Counter(word for sentence in sentences for word in sentence)
    words = sorted(counts, key=lambda word: (-counts[word], word))
    number = {word: index for index, word in enumerate(words)}
    pairs: Counter[tuple[int, int]] = Counter()
    for sentence in sentences:
        ids = [number[word] for word in sentence]
        for position, word in enumerate(ids):
            pairs.update((word, other) for other in ids[position + 1:position + 1 + WINDOW])
    rows, columns = np.array(list(pairs)).T
    together = coo_matrix((list(pairs.values()), (rows, columns)), shape=(len(words),) * 2).toarray()
    together = together + together.T
    frequency = together.sum(axis=1)
    with np.errstate(divide="ignore"):
        information = np.log(together * frequency.sum() / np.outer(frequency, frequency))
    left, values, _ = np.linalg.svd(np.maximum(information, 0.0))
    return words, left[:, :VECTOR_WIDTH] * np.sqrt(values[:VECTOR_WIDTH])


def glove_lines(words: Sequence[str], vectors: np.ndarray) -> Iterable[str]:
    """Lines of a GloVe text file: the word and its numbers, separated by spaces."""
    for word, vector in zip(words, vectors):
        yield f"{word} {' '.join(f'{value:.5f}' for value in vector)}\n"
