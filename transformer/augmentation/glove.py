"""GloVe vectors: parsed once into mapped arrays beside the file, and nearest neighbours by cosine."""
from __future__ import annotations

import contextlib
import itertools
import re
import shutil
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from transformer.data.arrays import UnfinishedArrays, open_arrays, unfinished_arrays
from transformer.data.parallel import available_cores, in_order
from transformer.data.parts import Place, decode_lines, read_range
from transformer.files import InputError, refuse_foreign
from transformer.stopwatch import STOPWATCH

_GLOVE_FORMAT = 1     # of the arrays; another number makes them anew
_PART_LINES = 2_000   # a worker's task: 5 MB of a file with 300 numbers a line
_GROUP = 64           # neighbouring columns of similarities, of which the maximum is taken first
_BLOCK = 512          # words per product with the matrix: 512 * 100,000 similarities are 200 MB
_WORD2VEC_HEADER = re.compile(rb"(?:\xef\xbb\xbf)?(\d+)[ \t]+(\d{1,9})")  # how many, how many numbers


class Glove:
    """The first `limit` vectors of a GloVe file (text: a word and its numbers on every line), at unit length.

    Attributes: words (list), index (word -> row, its first one), vectors (float32 [words, dimensions], mapped).
    The arrays lie beside the file, in `fallback` where that place cannot be written; later calls read nothing of the
    file while its size and time of change stay the same. Raises InputError naming the line of a bad vector.
    """

    @STOPWATCH.part("glove")
    def __init__(self, path: str | Path, limit: int, fallback: str | Path | None = None):
        path = Path(path)
        status = path.stat()
        facts = {"format": _GLOVE_FORMAT, "size": status.st_size, "mtime_ns": status.st_mtime_ns, "limit": limit}
        name = "-".join(map(str, facts.values()))
        folders = [Path(parent) / f"{path.name}.arrays" for parent in (path.parent, fallback) if parent]
        for made_before in (path for folder in folders for path in folder.glob("*-*-*-*")):
            if not made_before.name.startswith(f"{_GLOVE_FORMAT}-{status.st_size}-{status.st_mtime_ns}-"):
                shutil.rmtree(made_before, ignore_errors=True)  # of a file that is no more
        places, typecodes = [folder / name for folder in folders], {"vectors": "f", "words": "B"}
        with unfinished_arrays(places, typecodes, facts, _PART_LINES) as files:
            if files is not None:
                _parse_missing(files, path, limit)
        arrays, manifest = open_arrays(places, typecodes, facts)
        self.vectors = arrays["vectors"].reshape(-1, manifest["dimensions"])
        self.words = arrays["words"].tobytes().decode().split("\n")[:-1]
        self.index: dict[str, int] = {}
        for row, word in enumerate(self.words):
            self.index.setdefault(word, row)

    def neighbours(self, words: Iterable[str], count: int, device: str = "cpu") -> dict[str, list[str]]:
        """For each word that has a vector, its `count` nearest other words, the nearest first.

        All products of a block of words with the matrix at once, on a device of torch.
        """
        import torch
        known = sorted(word for word in set(words) if word in self.index)
        count = min(count, len(self.words) - 1)
        if not known or not count:
            return {}
        matrix = torch.zeros(-(-len(self.words) // _GROUP) * _GROUP, self.vectors.shape[1], device=device)
        matrix[:len(self.words)] = torch.from_numpy(np.array(self.vectors))
        similarities = torch.empty(min(_BLOCK, len(known)), len(matrix), device=device)  # new pages cost a third more
        result: dict[str, list[str]] = {}
        for start in tqdm(range(0, len(known), _BLOCK), desc="GloVe neighbours", unit_scale=_BLOCK, unit="word",
                          disable=None):
            block = known[start:start + _BLOCK]
            rows = torch.tensor([self.index[word] for word in block], device=device)
            similarity = torch.mm(matrix[rows], matrix.T, out=similarities[:len(block)])  # [block, words and padding]
            similarity[:, len(self.words):] = -torch.inf
            similarity.scatter_(1, rows[:, None], -torch.inf)                         # the word itself
            # The nearest stand in the groups of highest maximum: to look in these alone is several times as fast.
            groups = similarity.view(len(block), -1, _GROUP)
            best = groups.amax(2).topk(min(count, groups.size(1))).indices            # [block, groups kept]
            kept = groups.gather(1, best[:, :, None].expand(-1, -1, _GROUP)).flatten(1)
            places = kept.topk(count).indices
            nearest = best.gather(1, places // _GROUP) * _GROUP + places % _GROUP     # [block, count]
            for word, nearest_rows in zip(block, nearest.tolist(), strict=True):
                result[word] = [self.words[row] for row in nearest_rows]
        return result


def _parse_missing(files: UnfinishedArrays, path: Path, limit: int) -> None:
    """Append the parts of the file that `files` lacks.

    The first line of word2vec's text format (how many vectors, how many numbers each) and an empty last line are
    passed over.
    """
    refuse_foreign(path)
    with open(path, "rb") as handle:
        first, second = (handle.readline().rstrip() for _ in range(2))
        handle.seek(0)
        header = _WORD2VEC_HEADER.fullmatch(first)
        # over 1: the vectors of words that are numbers, of one number each, look the same
        if header and int(header[2]) > 1 and (not second or second.count(b" ") >= int(header[2])):
            print(f"{path}: skipped line 1, the header of word2vec's format: {header[1].decode()} {header[2].decode()}",
                  flush=True)
            handle.readline()
            first = second
        cuts = [handle.tell()]
        for start in range(0, limit, _PART_LINES):
            lines = list(itertools.islice(handle, min(_PART_LINES, limit - start)))
            if lines and not lines[-1].rstrip(b"\r\n") and not handle.peek(1):
                lines.pop()
            if not lines:
                break
            cuts.append(cuts[-1] + sum(map(len, lines)))
    if not first and len(cuts) == 1:
        raise InputError(f"{path} holds no vectors")
    dimensions = first.count(b" ")  # the first word has no space in it
    missing = [(path, start, stop, dimensions) for start, stop in itertools.pairwise(cuts)][len(files.records):]
    parsed = in_order(_parse_vectors, missing, max(1, min(available_cores(), len(missing))))
    with contextlib.closing(parsed):
        for blocks in tqdm(parsed, desc=path.name, total=len(missing), unit_scale=_PART_LINES, unit="word",
                           disable=None):
            files.append(blocks)
    files.summary = {"dimensions": dimensions}


def _parse_vectors(part: tuple[Path, int, int, int]) -> tuple[bytes, bytes]:
    """The vectors in a range of bytes as float32, and their words, each with a line end."""
    path, start, stop, dimensions = part
    lines = [line.rstrip(" ") for line in decode_lines(path, start, read_range(path, start, stop))]
    words, texts = [], []
    for line in lines:
        word, _, text = line.partition(" ")
        if text.count(" ") != dimensions - 1:
            # From the right: glove.840B.300d has words with spaces in them (". . .", "at name@domain.com").
            word, *numbers = line.rsplit(" ", dimensions)
            text = " ".join(numbers)
        words.append(word)
        texts.append(text)
    vectors = _numbers(" ".join(texts))
    extra = [" " in word and all(_numbers(text).size for text in word.split(" ")[1:]) for word in words]
    if not dimensions or len(vectors) != len(lines) * dimensions or any(extra):
        for index, text in enumerate(texts):
            if extra[index] or not dimensions or len(_numbers(text)) != dimensions:
                raise InputError(f"{Place(path, start, index)}: expected a word and {dimensions or 'some'} numbers, as "
                                 "in the first line; the file may be cut short: get it again")
    kept = ["\t" not in word for word in words]  # as a candidate it would break a row into more columns
    vectors = vectors.reshape(-1, dimensions)[np.array(kept)]
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.where(lengths > 0, lengths, 1)
    return vectors.tobytes(), "".join(f"{word}\n" for word in itertools.compress(words, kept)).encode()


def _numbers(text: str) -> np.ndarray:
    """The finite numbers of a text as float32; none where it holds anything else."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # numpy's way to say that it stopped before the end
        try:
            numbers = np.fromstring(text, np.float32, sep=" ")
        except (DeprecationWarning, ValueError):
            return np.empty(0, np.float32)
    return numbers if np.isfinite(numbers).all() else numbers[:0]
