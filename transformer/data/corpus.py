"""The pre-training corpus: a text file, tokenized once, as a store of wordpieces on disk."""
from __future__ import annotations

import hashlib
import mmap
import os
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from transformer.data.parallel import in_order
from transformer.data.parts import GrowingFiles, byte_ranges, decode_lines, read_range
from transformer.files import InputError, require_unchanged, write_json
from transformer.pieces import Tokenizer

TEXT_PART_BYTES = 1 << 20   # of text that a process tokenizes at a time
STORE_NAME = "tokenized_corpus"  # of a store's folder
STORE_FILES = ("tokens", "sentence_offsets", "document_offsets")
STORE_MANIFEST = "manifest.json"
_SENTENCES_AT_A_TIME = 1 << 20
_STORE_VERSION = 1          # raised when the same text would make other arrays


class TokenizedPart(NamedTuple):
    """A part of the text as wordpieces: flat arrays as bytes, counts from the start of the part."""
    sha256: str              # of the text
    tokens: bytes            # the tokenizer's id_typecode [wordpieces]
    sentence_ends: bytes     # int64 [sentences], where each ends in `tokens`
    document_ends: bytes     # int64 [empty lines], the number of sentences before each
    left_out: int            # lines that are neither empty nor have a wordpiece


def tokenize_part(text_file: Path, tokenizer: Tokenizer, text_range: tuple[int, int]) -> TokenizedPart:
    """Tokenize one of byte_ranges(): a sentence per line, an empty line between documents."""
    content = read_range(text_file, *text_range)
    digest = hashlib.sha256(content).hexdigest()
    sentences: list[bytes] = []
    lengths, document_ends = array("q"), array("q")
    left_out = 0
    for line in decode_lines(text_file, text_range[0], content):
        ids = tokenizer.encode_to_bytes(line)
        if ids:
            sentences.append(ids)
            lengths.append(len(ids))
        elif line.strip():
            left_out += 1
        else:
            document_ends.append(len(lengths))
    ends = np.cumsum(lengths) // array(tokenizer.id_typecode).itemsize
    return TokenizedPart(digest, b"".join(sentences), ends.tobytes(), document_ends.tobytes(), left_out)


_worker_tokenize = None  # tokenize_part of a worker process


def _start_tokenizing(text_file: Path, tokenizer: Tokenizer) -> None:
    global _worker_tokenize
    _worker_tokenize = partial(tokenize_part, text_file, tokenizer)


def _tokenize_in_worker(text_range: tuple[int, int]) -> TokenizedPart:
    return _worker_tokenize(text_range)


@dataclass(frozen=True)
class Corpus:
    """A text corpus as wordpiece ids, memory-mapped; no sentence and no document is empty.

    tokens: uint16 or int32 [wordpieces]; sentence_offsets: int64 [sentences + 1], where each sentence begins in
    `tokens`; document_offsets: int64 [documents + 1], where each document begins in `sentence_offsets`.
    """
    tokens: np.ndarray
    sentence_offsets: np.ndarray
    document_offsets: np.ndarray
    maps: list[mmap.mmap]
    file: int | None = None  # descriptor of the file of `tokens`, where they are to be read, not mapped

    @classmethod
    def map(cls, folder: Path, tokenizer: Tokenizer, reduce_memory: bool = False) -> Corpus:
        """The arrays of a complete store in `folder`, not read until they are used.

        reduce_memory: keep no more pages in memory than release() lets it; wordpieces are read, not mapped.
        """
        maps = []
        for name in STORE_FILES:
            with open(folder / name, "rb") as handle:
                maps.append(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ))
        return cls(*(np.frombuffer(mapped, typecode) for mapped, typecode in
                     zip(maps, (tokenizer.id_typecode, "q", "q"))), maps,
                   os.open(folder / STORE_FILES[0], os.O_RDONLY) if reduce_memory else None)

    def ids(self, start: int, stop: int) -> list[int]:
        """The wordpieces start to stop of the corpus."""
        if self.file is None:
            return self.tokens[start:stop].tolist()
        size = self.tokens.itemsize
        return np.frombuffer(os.pread(self.file, size * (stop - start), size * start), self.tokens.dtype).tolist()

    def release(self) -> None:
        """Give the memory of the pages used so far back; they are read from the file again when needed."""
        for mapped in self.maps:
            mapped.madvise(mmap.MADV_DONTNEED)

    @property
    def num_documents(self) -> int:
        """How many documents the corpus has."""
        return len(self.document_offsets) - 1

    @property
    def num_sentences(self) -> int:
        """How many sentences the corpus has."""
        return len(self.sentence_offsets) - 1

    def wordpieces(self, first: int, stop: int) -> int:
        """How many wordpieces the documents `first` to `stop` - 1 have."""
        begin, end = self.sentence_offsets[self.document_offsets[[first, stop]]]
        return int(end - begin)

    def longer_than(self, wordpieces: int) -> int:
        """How many wordpieces stand in sentences beyond the first `wordpieces` of each."""
        count = 0
        for start in range(0, self.num_sentences, _SENTENCES_AT_A_TIME):
            lengths = np.diff(self.sentence_offsets[start:start + _SENTENCES_AT_A_TIME + 1])
            count += int(np.maximum(lengths - wordpieces, 0).sum())
            self.release()
        return count

    def document_ranges(self, wordpieces: int) -> Iterator[tuple[int, int]]:
        """All documents in consecutive (first, last + 1) of about `wordpieces` each."""
        def start(document: int) -> int:
            return int(self.sentence_offsets[self.document_offsets[document]])

        first = 0
        while first < self.num_documents:
            stop = bisect_left(range(self.num_documents), start(first) + wordpieces, key=start)
            yield first, stop
            first = stop


@contextmanager
def open_corpus(text_file: str | Path, tokenizer: Tokenizer, folder: Path, num_workers: int = 1,
                ) -> Iterator[tuple[Corpus, dict[str, Any]]]:
    """Tokenize a text file, a sentence per line and an empty line between documents, into a store in `folder`.

    Gives the corpus and its manifest (corpus_sha256 tells its text). What stands in the folder already is kept as far
    as it comes from the same beginning of the same text by the same tokenizer: all of it, or what a killed run had
    finished. Lines without a wordpiece (control characters only) are left out. Until the block ends the store is
    nobody else's.
    Raises InputError when the file is not UTF-8, holds no text, or has no document breaks (the random second halves
    of instances come from other documents), and when another run has the store.
    """
    text_file = Path(text_file)
    if not text_file.is_file():
        raise InputError(f"training corpus {text_file} is not a file: name the text file that prepare_data.py wrote")
    before = text_file.stat()
    ranges = byte_ranges(text_file, TEXT_PART_BYTES)
    facts = {"version": _STORE_VERSION, **tokenizer.facts}
    with GrowingFiles(folder, STORE_FILES, facts) as store:
        reused = _unchanged(store.records, text_file, ranges)
        if reused < len(ranges):
            (folder / STORE_MANIFEST).unlink(missing_ok=True)
        store.keep(reused)
        if reused:
            print(f"{folder}: {reused} of {len(ranges)} parts of {text_file} are tokenized already", flush=True)
        with tqdm(total=len(ranges), initial=reused, desc="tokenizing", unit=" parts", disable=None) as progress, \
                closing(in_order(_tokenize_in_worker, ranges[reused:], num_workers, _start_tokenizing,
                                 (text_file, tokenizer))) as parts:
            for text_range, part in zip(ranges[reused:], parts, strict=True):
                _append(store, part, text_range, text_range == ranges[-1], array(tokenizer.id_typecode).itemsize)
                progress.update()
        store.save()
        require_unchanged(text_file, before)
        problem = _problem(store, text_file)
        if problem:
            store.keep(0)
            raise InputError(problem)
        corpus = Corpus.map(folder, tokenizer)
        manifest = {**facts, "train_corpus": str(text_file),
                    "corpus_sha256": _joined(record["sha256"] for record in store.records),
                    "documents": corpus.num_documents, "sentences": corpus.num_sentences,
                    "wordpieces": len(corpus.tokens), "left_out": store.records[-1]["left_out"]}
        write_json(folder / STORE_MANIFEST, manifest)  # last: where it stands, the store is complete
        yield corpus, manifest


def corpus_sha256(text_file: Path) -> str:
    """The corpus_sha256 that a store of this text has in its manifest."""
    return _joined(hashlib.sha256(read_range(text_file, *text_range)).hexdigest()
                   for text_range in byte_ranges(text_file, TEXT_PART_BYTES))


def _joined(sha256_of_parts: Iterable[str]) -> str:
    return hashlib.sha256("".join(sha256_of_parts).encode()).hexdigest()


def _unchanged(records: list[dict[str, Any]], text_file: Path, ranges: list[tuple[int, int]]) -> int:
    """How many of the first parts in a store come from this very text."""
    for number, (record, text_range) in enumerate(zip(records, ranges)):
        if (record["range"], record["is_last"]) != (list(text_range), text_range == ranges[-1]) \
                or record["sha256"] != hashlib.sha256(read_range(text_file, *text_range)).hexdigest():
            return number
    return min(len(records), len(ranges))


def _append(store: GrowingFiles, part: TokenizedPart, text_range: tuple[int, int], is_last: bool,
            itemsize: int) -> None:
    """Add a part to a store, with what it counts from its own start now counted from the start of the text."""
    before = store.records[-1] if store.records else {"sentences": 0, "document_end": 0, "left_out": 0}
    sentence_ends = np.frombuffer(part.sentence_ends, np.int64) + store.sizes[0] // itemsize
    sentences = before["sentences"] + len(sentence_ends)
    document_ends = np.frombuffer(part.document_ends, np.int64) + before["sentences"]
    # Of several empty lines in a row the first ends a document; the end of the text ends the last one.
    if is_last:
        document_ends = np.append(document_ends, sentences)
    document_ends = np.unique(document_ends[document_ends > before["document_end"]])
    first = b"" if store.records else bytes(8)  # where the first sentence and the first document begin: at 0
    store.append([part.tokens, first + sentence_ends.tobytes(), first + document_ends.tobytes()],
                 range=list(text_range), is_last=is_last, sha256=part.sha256, sentences=sentences,
                 document_end=int(document_ends[-1]) if len(document_ends) else before["document_end"],
                 left_out=before["left_out"] + part.left_out)


def _problem(store: GrowingFiles, text_file: Path) -> str | None:
    """Why a text cannot be used."""
    if not store.sizes[0]:
        return f"{text_file} holds no text"
    if store.sizes[2] < 3 * 8:
        return (f"{text_file} has no document breaks: put an empty line between documents (prepare_data.py does); "
                "instances need sentences from other documents")
    return None
