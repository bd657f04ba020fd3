"""Questions about passages as arrays of windows."""
from __future__ import annotations

import argparse
import contextlib
import functools
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from transformer.cli import SPAN_SETTINGS
from transformer.data.arrays import convert_parts, key_of
from transformer.data.augmented import augmented_passages, require_augmented
from transformer.data.features import Sequences
from transformer.data.parts import FilePart, byte_ranges
from transformer.data.tables import require_file
from transformer.files import InputError, sha256_of
from transformer.pieces import Tokenizer
from transformer.stopwatch import STOPWATCH
from transformer.tasks.squad import (
    Passage,
    PassagePieces,
    Question,
    is_misplaced,
    label_of,
    misplaced_answers,
    passage_words,
    passages_with_progress,
    read_passages,
    windows_with_max_context,
)
from transformer.tasks.task import Task

_WINDOWS_FORMAT = 1      # of the arrays; another number makes them anew
_BYTES_OF_PASSAGES = 1 << 18
_SHOWN = 3               # misplaced answers that are shown, and that any file may have
_MISPLACED_SHARE = 0.01  # of the questions: more are a file whose offsets count something else
_FOR_ANSWERS = {"question_of": "i", "words": "i", "is_max_context": "B"}
_ARRAYS = {"train": {"labels": "i"}, "score": _FOR_ANSWERS, "answer": _FOR_ANSWERS, "augmented": {}}  # and type codes
_COUNTED = ("questions", "misplaced", "unlike", "several", "without_windows")  # questions, by the worker

_window_facts: tuple  # of a worker: tokenizer, three lengths, use


@dataclass
class Windows(Sequences):
    """Windows over passages whose answers are to be found, in the order of the questions.

    question_of: int32 [n], number of the question of each; words: int32 [pieces], for each wordpiece of `tokens` the
    word of its passage, -1 where it is none of it; is_max_context: uint8 [pieces], 1 where an answer may start.
    path, sha256: the file; has_answers: whether it was read as one that has them; task, tokenizer: by which.
    """
    question_of: np.ndarray | None = None
    words: np.ndarray | None = None
    is_max_context: np.ndarray | None = None
    path: Path | None = None
    task: Task | None = None
    tokenizer: Tokenizer | None = None
    sha256: str | None = None
    has_answers: bool = True

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return super().nbytes + self.question_of.nbytes + self.words.nbytes + self.is_max_context.nbytes

    def questions(self) -> Iterator[tuple[Question, list[str], range]]:
        """Each question of the file, also one without windows, with the words of its passage and its windows.

        The file is read again; InputError where it is another one by now.
        """
        number = start = 0
        for passage in self._passages():
            words = passage_words(passage.context)
            for question in passage.questions:
                stop = start
                while stop < len(self) and self.question_of[stop] == number:
                    stop += 1
                yield question, words, range(start, stop)
                number, start = number + 1, stop

    def count(self) -> int:
        """Questions of the file."""
        return sum(len(passage.questions) for passage in self._passages())

    def unanswerable_share(self) -> float:
        """The share of questions that no stretch of their passage answers."""
        counts = Counter(question.answers == () for passage in self._passages() for question in passage.questions)
        return counts[True] / counts.total()

    def _passages(self) -> Iterator[Passage]:
        if not self.path.is_file() or sha256_of(self.path) != self.sha256:
            raise InputError(f"{self.path} is not the file any more that the windows were made from: start again")
        return read_passages(self.path, self.task.head.unanswerable, self.has_answers)


def settled(task: Task, args: argparse.Namespace) -> Task:
    """A task as the flags of transformer.cli.add_span_flags() have it; those that are not given get their defaults.

    args: with max_seq_length filled in. InputError where the lengths fit no window, and for a flag of no effect.
    """
    given = [name for name in SPAN_SETTINGS if hasattr(args, name)]
    if task.is_table:
        if given:
            raise InputError(f"--{given[0]} is for the passages of SQuAD and {task.name} has none: drop it")
        return task
    if args.hf_head:
        raise InputError(f"--hf_head has no effect on {task.name}, whose head is that of Hugging Face anyway: drop it")
    if "null_score_diff_threshold" in given and not task.head.unanswerable:
        raise InputError(f"--null_score_diff_threshold is for unanswerable questions and {task.name} has none: drop it")
    for name, value in SPAN_SETTINGS.items():
        setattr(args, name, getattr(args, name, value))
    _check_lengths(args.max_seq_length, args.doc_stride, args.max_query_length)
    return replace(task, head=replace(task.head, n_best_size=args.n_best_size, max_answer_length=args.max_answer_length,
                                      null_score_diff_threshold=args.null_score_diff_threshold))


def check_questions(task: Task, path: str | Path) -> None:
    """Read a SQuAD file, which is to have answers, to its end; InputError where it is missing or no such file."""
    require_file(task, path)
    for _ in read_passages(path, task.head.unanswerable):
        pass


@STOPWATCH.part("encode")
def encode_windows(task: Task, path: str | Path, tokenizer: Tokenizer, max_seq_length: int, doc_stride: int,
                   max_query_length: int, use: str, cache_dir: str | Path | None = None,
                   fallback: str | Path | None = None, num_workers: int | None = None,
                   part_bytes: int = _BYTES_OF_PASSAGES) -> Sequences:
    """The windows of a SQuAD file, or of a train_aug.jsonl: `[CLS] question [SEP] part of the passage [SEP]`.

    max_seq_length: wordpieces of a window at most; doc_stride: those from the start of one to that of the next;
    max_query_length: of a question, the rest is cut off.
    use: "train" (labels, int32 [n, 2]; questions whose answer cannot be found are skipped, which is said), "score"
    (Windows, of a file with answers), "answer" (Windows, of a file that may have none), "augmented" (train_aug.jsonl:
    neither labels nor answers). cache_dir, fallback, num_workers, part_bytes: as of features.encode_file().
    Raises InputError for lengths that leave no room, as read_passages() does, and where there are no windows ("answer"
    may have none), or the answers of a training file stand elsewhere than it says.
    """
    path = Path(path)
    _check_lengths(max_seq_length, doc_stride, max_query_length)
    _require_file(task, path, use)
    status = path.stat()
    sha256 = sha256_of(path)
    facts = {"format": _WINDOWS_FORMAT, "task": task.key_text, "sha256": sha256, **tokenizer.facts,
             "max_seq_length": max_seq_length, "doc_stride": doc_stride, "max_query_length": max_query_length,
             "use": use}
    key = f"{task.key}_{key_of(facts)}"
    parts = functools.partial(_lines_in_parts, path, part_bytes) if use == "augmented" else \
        functools.partial(_passages_in_parts, path, task.head.unanswerable, use != "answer", part_bytes)
    with tempfile.TemporaryDirectory() if cache_dir is None else contextlib.nullcontext(cache_dir) as folder:
        arrays, manifest = convert_parts(
            {path: status}, [Path(place) / key for place in (folder, fallback) if place],
            {"tokens": tokenizer.id_typecode, "offsets": "q", "first_lengths": "i", **_ARRAYS[use]}, facts, parts,
            _encode_passages, _start_windows, (tokenizer, max_seq_length, doc_stride, max_query_length, use),
            part_bytes, num_workers, in_memory=cache_dir is None)
    _report_questions(path, task.head.unanswerable, use == "answer",
                      *(manifest.get(name, 0) for name in ("examples", *_COUNTED)))
    if use == "train":
        arrays["labels"] = arrays["labels"].reshape(-1, *task.head.label_shape)
    if use in ("train", "augmented"):
        return Sequences(**arrays, key=key)
    return Windows(**arrays, key=key, path=path, task=task, tokenizer=tokenizer, sha256=sha256,
                   has_answers=use == "score")


def _check_lengths(max_seq_length: int, doc_stride: int, max_query_length: int) -> None:
    if max_query_length < 1 or doc_stride < 1:
        raise InputError(f"--max_query_length {max_query_length} and --doc_stride {doc_stride} have to be at least 1")
    if max_seq_length <= max_query_length + 3:
        raise InputError(f"--max_seq_length {max_seq_length} leaves no room for a passage beside a question of "
                         f"--max_query_length {max_query_length} and three special tokens: make it larger, or the "
                         "question's shorter")


def _require_file(task: Task, path: Path, use: str) -> None:
    """InputError where there is no file, or a train_aug.jsonl that does not say so in its first line."""
    if use in ("train", "score"):
        require_file(task, path)
    elif not path.is_file():
        how = "data_augmentation.py makes it" if use == "augmented" else "name a file of questions"
        raise InputError(f"{path} does not exist: {how}")
    if use == "augmented":
        require_augmented(path)


@functools.cache  # a file that is read again is not reported again
def _report_questions(path: Path, unanswerable: bool, may_be_empty: bool, windows: int, questions: int,
                      misplaced: int, unlike: int, several: int, without_windows: int) -> None:
    """Say what was left out; InputError where too much of it is wrong, or nothing is left to be learnt or scored."""
    if misplaced:
        shown = list(islice(misplaced_answers(read_passages(path, unanswerable)), _SHOWN))
        if misplaced > max(_SHOWN, _MISPLACED_SHARE * questions):
            raise InputError(f"{path}: {misplaced} of {questions} answers do not stand where the file says, as that of "
                             f"{shown[0]}: 'answer_start' counts characters, not bytes, of the passage as it stands "
                             "there, from 0; correct it")
        print(f"{path}: skipped {misplaced} questions whose answers do not stand where the file says: "
              f"{'; '.join(shown)}", flush=True)
    if unlike:
        print(f"{path}: skipped {unlike} questions whose answers are no words of their passages (a space in them is "
              "none there, or they have no wordpieces)", flush=True)
    if several:
        print(f"{path}: {several} questions have several answers: the first is learnt", flush=True)
    if without_windows:
        print(f"{path}: {without_windows} questions have no windows: there are no wordpieces in their passages",
              flush=True)
    if not windows and not may_be_empty:
        raise InputError(f"{path} gives no windows: none of its {questions} questions has a passage with wordpieces "
                         "and, where one is learnt, an answer in it; get or make it again")


def _passages_in_parts(path: Path, unanswerable: bool, has_answers: bool, part_bytes: int,
                       ) -> Iterator[tuple[tuple[int, list[Passage]], int]]:
    """Passages that are read for about part_bytes, once for each question, with the number of their first question, and
    how far the file is read by then."""
    first = questions = characters = bytes_read = 0
    passages: list[Passage] = []
    for passage, bytes_read in passages_with_progress(path, unanswerable, has_answers):
        passages.append(passage)
        questions += len(passage.questions)
        characters += len(passage.context) * max(len(passage.questions), 1)
        characters += sum(len(question.text) for question in passage.questions)
        if characters >= part_bytes:
            yield (first, passages), bytes_read
            first, passages, characters = questions, [], 0
    if passages:
        yield (first, passages), bytes_read


def _lines_in_parts(path: Path, part_bytes: int) -> Iterator[tuple[tuple[int, FilePart], int]]:
    return (((0, (path, start, stop)), stop) for start, stop in byte_ranges(path, part_bytes))


def _start_windows(*facts: Any) -> None:
    global _window_facts
    _window_facts = facts


def _encode_passages(part: tuple[int, list[Passage] | FilePart],
                     ) -> tuple[bytes, np.ndarray, list[bytes], dict[str, int]]:
    """The windows of some passages, as arrays.convert_parts() wants them."""
    tokenizer, max_seq_length, doc_stride, max_query_length, use = _window_facts
    first, passages = part
    cls, sep = (np.array([index], tokenizer.id_typecode) for index in (tokenizer.cls_id, tokenizer.sep_id))
    tokens, lengths, first_lengths, labels, question_of, words, max_context = ([] for _ in range(7))
    counts = Counter(dict.fromkeys(_COUNTED, 0))
    outside = np.full(max_query_length + 2, -1, np.int32)
    for passage in augmented_passages(passages) if use == "augmented" else passages:
        pieces = PassagePieces.of(passage.context, tokenizer)
        word_of = pieces.word_of_pieces()
        for question in passage.questions:
            number = first + counts["questions"]
            counts["questions"] += 1
            asked = np.frombuffer(tokenizer.encode_to_bytes(question.text), cls.dtype)[:max_query_length]
            answer, why_not = _answer_pieces(pieces, question, tokenizer, counts) if use == "train" else (None, "")
            if why_not:
                counts[why_not] += 1
                continue
            windows = windows_with_max_context(len(pieces.ids), max_seq_length - 3 - len(asked), doc_stride)
            counts["without_windows"] += not windows
            for start, end, is_max_context in windows:
                tokens += cls, asked, sep, pieces.ids[start:end], sep
                lengths.append(len(asked) + 3 + end - start)
                first_lengths.append(len(asked) + 2)
                if use == "train":
                    labels.append(label_of(answer, start, end, len(asked)))
                elif use != "augmented":
                    question_of.append(number)
                    words += outside[:len(asked) + 2], word_of[start:end], outside[:1]
                    max_context += bytes(len(asked) + 2), is_max_context.tobytes(), b"\0"
    others = [np.array(first_lengths, np.int32).tobytes()]
    if use == "train":
        others.append(np.array(labels, np.int32).tobytes())
    elif use != "augmented":
        others += np.array(question_of, np.int32).tobytes(), b"".join(words), b"".join(max_context)
    return b"".join(tokens), np.array(lengths, np.int32), others, dict(counts)


def _answer_pieces(pieces: PassagePieces, question: Question, tokenizer: Tokenizer, counts: Counter[str],
                   ) -> tuple[tuple[int, int] | None, str]:
    """The pieces of the answer to learn, None where there is none, and why the question is skipped, as counted."""
    if not question.answers:
        return None, ""
    text, start = question.answers[0]
    counts["several"] += len(question.answers) > 1
    if is_misplaced(pieces.context, text, start):
        return None, "misplaced"
    answer = pieces.find(text, start, tokenizer)
    return answer, "" if answer else "unlike"
