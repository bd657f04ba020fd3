"""SQuAD's files, and the windows that a model reads them through.

The rules are those of BERT's run_squad, so that labels and scores are comparable with all that was published.
python -m transformer.tasks.squad scores files of predictions as the official scorers do.
"""
from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from transformer.cli import Parser, run_script
from transformer.files import InputError, read_json
from transformer.tasks.json_stream import CORRECT_IT, KINDS, JsonStream
from transformer.tasks.metrics import squad_scores

if TYPE_CHECKING:
    from transformer.pieces import Tokenizer

AUGMENTED = "augmented"  # the version in the first line of a train_aug.jsonl

_IDS_AT_A_TIME = 1 << 16
_WORDS = re.compile("[^ \t\r\n\u202f]+")  # of a passage: no other space divides words


@dataclass(frozen=True)
class Question:
    """A question about a passage. answers: (text, its first character in the passage), those that people gave; empty
    where it is unanswerable, and None where the file tells no answers."""
    id: str
    text: str
    answers: tuple[tuple[str, int], ...] | None


@dataclass(frozen=True)
class Passage:
    """A paragraph and the questions about it."""
    context: str
    questions: tuple[Question, ...]


def read_passages(path: str | Path, unanswerable: bool, has_answers: bool = True) -> Iterator[Passage]:
    """The passages of a SQuAD file, checked, one paragraph in memory at a time.

    unanswerable: of v2.0. Without has_answers, a file that is to be answered may have no answers. Where an answer
    stands is not compared with its passage, see misplaced_answers(). Raises InputError naming file, article and
    question: no JSON, or not all of it; a key that is missing or of the wrong type; a version of the other task; an
    unanswerable question in v1.1; a question without answers where they are needed; an id for the second time; half of
    a character; no questions.
    """
    for passage, _ in passages_with_progress(path, unanswerable, has_answers):
        yield passage


def passages_with_progress(path: str | Path, unanswerable: bool, has_answers: bool,
                           ) -> Iterator[tuple[Passage, int]]:
    """read_passages() with how many bytes of the file were read by then."""
    stream = JsonStream(path)
    ids = _Ids()
    questions = 0
    keys = set()
    for key in stream.members("the file"):
        keys.add(key)
        if key == "version":
            _check_version(path, stream.value(), unanswerable, has_answers)
        elif key == "data":
            for where, entry in _paragraphs(stream):
                passage = parse_passage(entry, where, unanswerable, has_answers)
                for question in passage.questions:
                    if not ids.add(question.id):
                        raise InputError(f"{where}, question {question.id!r}: another question has this id: give it "
                                         "one of its own")
                questions += len(passage.questions)
                yield passage, stream.bytes_read
        else:
            stream.value()
    stream.end()
    if "data" not in keys:
        raise InputError(f"{path} has no key 'data' and is no SQuAD file: get it again, or name another")
    if not questions:
        raise InputError(f"{path} holds no questions: name a file that asks some")


def _paragraphs(stream: JsonStream) -> Iterator[tuple[str, Any]]:
    """Where each paragraph of "data" stands, and what it is."""
    for number in stream.items("'data'"):
        article = f"article {number}"
        keys = set()
        for key in stream.members(article):
            keys.add(key)
            if key == "title":
                title = stream.value()
                if not isinstance(title, str):
                    raise InputError(f"{stream.path}, {article}: 'title' is to be {KINDS[str]}: {CORRECT_IT}")
                article = f"article {title!r}"
            elif key == "paragraphs":
                for paragraph in stream.items(f"{article}, 'paragraphs'"):
                    yield f"{stream.path}, {article}, paragraph {paragraph}", stream.value()
            else:
                stream.value()
        if "paragraphs" not in keys:
            raise InputError(f"{stream.path}, {article}: no key 'paragraphs': {CORRECT_IT}")


def parse_passage(entry: Any, where: str, unanswerable: bool, has_answers: bool) -> Passage:
    """The passage that a JSON value {"context", "qas"} describes; InputError, with `where`, as read_passages()."""
    context = _text(entry, "context", where)
    questions = []
    for number, asked in enumerate(_get(entry, "qas", list, where), 1):
        question_id = _text(asked, "id", f"{where}, question {number}")
        at_question = f"{where}, question {question_id!r}"
        text = _text(asked, "question", at_question)
        questions.append(Question(question_id, text, _answers(asked, at_question, unanswerable, has_answers)))
    return Passage(context, tuple(questions))


def _answers(asked: dict[str, Any], where: str, unanswerable: bool, has_answers: bool,
             ) -> tuple[tuple[str, int], ...] | None:
    if has_answers and "answers" not in asked:
        raise InputError(f"{where}: no key 'answers': without them it can be answered (task_distill.py --do_predict), "
                         "not learnt or scored: name a file with answers")
    answers = tuple((_text(answer, "text", where), _get(answer, "answer_start", int, where))
                    for answer in _get(asked, "answers", list, where)) if "answers" in asked else ()
    impossible = _get(asked, "is_impossible", bool, where) if "is_impossible" in asked else None
    if impossible and not unanswerable:
        raise InputError(f"{where}: unanswerable, which v1.1 does not have: the task of this file is squad2")
    if impossible and answers:
        raise InputError(f"{where}: 'is_impossible' is true and 'answers' has {len(answers)}: correct one of them")
    if not answers and not impossible:
        if not has_answers:
            return None
        if impossible is False:
            raise InputError(f"{where}: 'is_impossible' is false and 'answers' is empty: correct one of them")
        if not unanswerable:
            raise InputError(f"{where}: 'answers' is empty, and v1.1 has no unanswerable questions: correct it, or "
                             "take the task squad2")
    return answers


def _get(entry: Any, key: str, kind: type, where: str) -> Any:
    """entry[key], of exactly this type."""
    if not isinstance(entry, dict):
        raise InputError(f"{where}: not {KINDS[dict]} with the key {key!r}: {CORRECT_IT}")
    if key not in entry:
        raise InputError(f"{where}: no key {key!r}: {CORRECT_IT}")
    if type(entry[key]) is not kind:
        raise InputError(f"{where}: {key!r} is to be {KINDS[kind]}: {CORRECT_IT}")
    return entry[key]


def _text(entry: Any, key: str, where: str) -> str:
    text = _get(entry, key, str, where)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: {key!r} holds half of a character, \\u{ord(text[error.start]):x}, its character "
                         f"{error.start}: correct it, or take it out") from None
    return text


def _check_version(path: str | Path, version: Any, unanswerable: bool, has_answers: bool) -> None:
    """InputError where a file says that it is of another task; a name that says nothing is accepted."""
    if version == AUGMENTED:
        raise InputError(f"{path} is what data_augmentation.py made, questions without answers: name the original")
    major = _major(version)
    if has_answers and major and (major == "2") != unanswerable:  # of questions alone it says nothing
        raise InputError(f"{path} is SQuAD of version {version}: its task is squad{major}")


def _major(version: Any) -> str:
    """"1" or "2" of a version such as "1.1" or "v2.0"; empty where it says neither."""
    found = re.fullmatch(r"v?([12])(\.\d+)*", str(version).lower())
    return found[1] if found else ""


class _Ids:
    """Ids that were met: eight bytes each."""

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._sorted = np.empty(0, np.uint64)

    def add(self, text: str) -> bool:
        """Whether it is new."""
        digest = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
        place = np.searchsorted(self._sorted, np.uint64(digest))
        if digest in self._recent or place < len(self._sorted) and int(self._sorted[place]) == digest:
            return False
        self._recent.add(digest)
        if len(self._recent) == _IDS_AT_A_TIME:
            self._sorted = np.union1d(self._sorted, np.fromiter(self._recent, np.uint64))
            self._recent.clear()
        return True


def is_misplaced(context: str, text: str, start: int) -> bool:
    """Whether an answer does not stand at character `start` of its passage, or is nothing but spaces."""
    return start < 0 or not text.strip() or not context.startswith(text, start)


def misplaced_answers(passages: Iterable[Passage]) -> Iterator[str]:
    """Of each question whose first answer is misplaced, its id and what stands there, for people."""
    for passage in passages:
        for question in passage.questions:
            for text, start in (question.answers or ())[:1]:
                if is_misplaced(passage.context, text, start):
                    stands = passage.context[max(start, 0):max(start, 0) + max(len(text), 1)] if start >= 0 else ""
                    yield (f"question {question.id!r}: {text!r} is to stand at character {start}, where "
                           f"{repr(stands) if stands else 'nothing'} stands")


def passage_words(context: str) -> list[str]:
    """The words of a passage: what stands between spaces, tabs, ends of lines and U+202F. Other spaces are part of
    them."""
    return _WORDS.findall(context)


@dataclass(frozen=True)
class PassagePieces:
    """The wordpieces of a passage, word by word.

    ids: [pieces] of the tokenizer's id_typecode; words: the words; starts: the first character of each; firsts: the
    first piece of each, and behind the last word the number of pieces. A word without pieces has the next one's.
    """
    context: str
    ids: np.ndarray
    words: list[str]
    starts: list[int]
    firsts: list[int]

    @classmethod
    def of(cls, context: str, tokenizer: Tokenizer) -> PassagePieces:
        """Those of a passage."""
        found = list(_WORDS.finditer(context))
        words = [match[0] for match in found]
        encoded = [tokenizer.encode_to_bytes(word) for word in words]
        ids = np.frombuffer(b"".join(encoded), tokenizer.id_typecode)
        return cls(context, ids, words, [match.start() for match in found],
                   [0, *accumulate(len(word) // ids.itemsize for word in encoded)])

    def word_of_pieces(self) -> np.ndarray:
        """The number of the word that each piece is of: int32 [pieces]."""
        return np.repeat(np.arange(len(self.words), dtype=np.int32), np.diff(self.firsts))

    def find(self, text: str, start: int, tokenizer: Tokenizer) -> tuple[int, int] | None:
        """The first and the last piece of the answer that stands at character `start`; None where there are none, or
        its words are not those of the passage, as with U+00A0 in it, so that BERT skips it.

        They are the pieces of the answer alone if they are found among those of the words that it lies in ("1895" in
        "(1895-1943)."), else those of all these words ("Japan" in "Japanese").
        """
        first_word = bisect_right(self.starts, start) - 1
        last_word = bisect_right(self.starts, start + len(text) - 1) - 1
        if first_word < 0 or " ".join(text.split()) not in " ".join(self.words[first_word:last_word + 1]):
            return None
        first, end = self.firsts[first_word], self.firsts[last_word + 1]
        if first == end:
            return None
        found = tokenizer.find(text, self.ids[first:end].tolist())
        return (first + found[0], first + found[1]) if found else (first, end - 1)


def cut_windows(pieces: int, room: int, doc_stride: int) -> list[tuple[int, int]]:
    """(first piece, end) of the windows over a passage: of `room` pieces at most, every doc_stride, until one reaches
    the end. No pieces, no window."""
    if not pieces:
        return []
    starts = range(0, max(pieces - room, 0) + min(doc_stride, room), min(doc_stride, room))
    return [(start, min(start + room, pieces)) for start in starts]


def windows_with_max_context(pieces: int, room: int, doc_stride: int) -> list[tuple[int, int, np.ndarray]]:
    """cut_windows(), each with uint8 [length]: 1 for the pieces that have more around them here than in any other.

    What a piece has around it is the lesser of the pieces to its left and to its right, and a hundredth of the window's
    length; of equal windows the first counts.
    """
    windows = cut_windows(pieces, room, doc_stride)
    if len(windows) == 1:
        return [(0, pieces, np.ones(pieces, np.uint8))]
    most = np.full(pieces, -1.0)
    owner = np.zeros(pieces, np.int64)
    for number, (start, end) in enumerate(windows):
        places = np.arange(end - start)
        around = np.minimum(places, places[::-1]) + 0.01 * (end - start)
        better = around > most[start:end]
        most[start:end][better] = around[better]
        owner[start:end][better] = number
    return [(start, end, (owner[start:end] == number).astype(np.uint8)) for number, (start, end) in enumerate(windows)]


def label_of(answer: tuple[int, int] | None, start: int, end: int, question_pieces: int) -> tuple[int, int]:
    """The positions in a window over the pieces start to end of the first and the last piece of an answer; both 0,
    that of [CLS], where not all of it lies there, or there is no answer."""
    if answer is None or answer[0] < start or answer[1] >= end:
        return 0, 0
    before = question_pieces + 2 - start
    return answer[0] + before, answer[1] + before


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, as given."""
    parser = Parser("Score predictions as the official scorer of the file's version of SQuAD does, as JSON on stdout.")
    parser.add_argument("data", type=Path, metavar="DATA.json", help="a SQuAD file, v1.1 or v2.0, with answers")
    parser.add_argument("predictions", type=Path, metavar="PREDICTIONS.json", help="{id: text}")
    parser.add_argument("--na_prob_file", "--na-prob-file", type=Path, metavar="FILE",
                        help="of v2.0, {id: number}, such as null_odds.json: the greater, the surer that there is no "
                             "answer; the scores at the best thresholds are told, too")
    parser.add_argument("--na_prob_thresh", "--na-prob-thresh", type=float, default=1.0, metavar="T",
                        help="of these numbers: where one is greater, the question counts as answered by nothing")
    args = parser.parse_args(argv)
    if args.na_prob_file is None:
        parser.refuse(argv, "is a threshold of what --na_prob_file tells, which is not given", "na_prob_thresh")
    return args


def is_v2(path: str | Path) -> bool:
    """Whether a SQuAD file is of v2.0: its version says so, or, where that says nothing, a question has the key
    "is_impossible" or an empty list of answers."""
    stream = JsonStream(path)
    found = False
    for key in stream.members("the file"):
        if key == "data":
            for _, entry in _paragraphs(stream):
                found = found or _tells_unanswerable(entry)
        else:
            value = stream.value()
            if key == "version" and _major(value):
                return _major(value) == "2"
    return found


def _tells_unanswerable(entry: Any) -> bool:
    asked = entry.get("qas") if isinstance(entry, dict) else None
    return isinstance(asked, list) and any(isinstance(question, dict) and (
        "is_impossible" in question or question.get("answers") == []) for question in asked)


def _read_values(path: Path, kinds: tuple[type, ...], expected: str) -> dict[str, Any]:
    """The JSON table in a file; InputError where a value is not of one of these types, or no number at all."""
    table = read_json(path)
    for key, value in table.items():
        if type(value) not in kinds or value != value:
            raise InputError(f"{path}: {key!r} has {value!r:.60}, expected {expected}: name a file as task_distill.py "
                             "--save_predictions writes it")
    return table


def main(argv: list[str] | None = None) -> None:
    """Print the scores; how many questions are not answered, and which is the first, goes to stderr."""
    args = parse_args(argv)
    unanswerable = is_v2(args.data)
    predictions = _read_values(args.predictions, (str,), "a text")
    odds = None
    if args.na_prob_file:
        if not unanswerable:
            raise InputError(f"{args.data} is of v1.1, which has no unanswerable questions: leave out --na_prob_file")
        odds = _read_values(args.na_prob_file, (int, float), "a number")
    golds = {question.id: [text for text, _ in question.answers]
             for passage in read_passages(args.data, unanswerable) for question in passage.questions}
    missing = [key for key in golds if key not in predictions]
    if len(missing) == len(golds):
        raise InputError(f"{args.predictions} answers none of the {len(golds)} questions of {args.data}: these files "
                         "do not belong together")
    if missing:
        print(f"warning: {args.predictions} does not answer {len(missing)} of {len(golds)} questions, such as "
              f"{missing[0]!r}: as the official scorer has it, these "
              f"{'are left out' if unanswerable else 'are wrong'}", file=sys.stderr)
    if odds is not None:
        without = [key for key in golds if key in predictions and key not in odds]
        if without:
            raise InputError(f"{args.na_prob_file} has no number for {len(without)} questions that {args.predictions} "
                             f"answers, such as {without[0]!r}: name the file of the same predictions")
        # Of equal numbers the official scorer takes the first of that file first.
        golds = {key: golds[key] for key in (*odds, *missing) if key in golds}
    scores = squad_scores(((texts, predictions.get(key), (odds or {}).get(key)) for key, texts in golds.items()),
                          unanswerable, args.na_prob_thresh)
    print(json.dumps({name: value if name.endswith(("_thresh", "total")) else 100 * value
                      for name, value in scores.items()}, indent=2 if unanswerable else None))


if __name__ == "__main__":
    sys.exit(run_script(main))
