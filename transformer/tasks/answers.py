"""From the logits of windows to answers, by the rules of BERT's run_squad."""
from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from transformer.tasks.squad import Question

ANSWER_FILES = ("predictions.json", "nbest_predictions.json", "null_odds.json")
NO_POSITION = -10000.0  # logit of padding

_NO_WINDOWS_ODDS = 1e6    # null odds of a question without windows: beyond any threshold, as BERT starts from them
_WINDOWS_AT_ONCE = 64               # windows whose candidates are found at once
_WORDS_REMEMBERED = 1 << 13


@dataclass(frozen=True)
class Answer:
    """What is said to a question. text: of the best answer, empty where it is unanswerable; listed: the n-best list,
    [{"text", "probability", "start_logit", "end_logit"}]; null_odds: score of no answer less that of the best, None
    where all questions have one."""
    text: str
    listed: list[dict[str, Any]] | None
    null_odds: float | None


class _Entry(NamedTuple):
    """A text that may be the answer, and its logits."""
    text: str
    start: float
    end: float

    @property
    def score(self) -> float:
        return self.start + self.end


class _Spans(NamedTuple):
    """Candidates of a window, by rank of the start, then of the end: first and last place among the wordpieces of all
    windows, int64 [spans], and their logits, float64; and what the window says of no answer."""
    firsts: np.ndarray
    lasts: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    null: _Entry


_EMPTY = _Entry("empty", 0.0, 0.0)  # BERT's word for having found nothing


def decode(logits: np.ndarray, examples: Any, head: Any, listed: bool) -> Iterator[tuple[Question, Answer]]:
    """The answer to each question of some examples (transformer.data.windows.Windows), in their order.

    logits: [windows, longest, 2]; head: a Spans, whose n_best_size, max_answer_length, null_score_diff_threshold and
    unanswerable are read; listed: whether n-best lists are wanted: without, one text a question is made, two of v2.0.
    A question without windows is answered by nothing. What is held does not grow with the number of questions.
    """
    windows = _spans_of_windows(logits, examples, head)
    tokenizer = examples.tokenizer
    tokens_of = functools.lru_cache(_WORDS_REMEMBERED)(lambda word: " ".join(tokenizer.words(word)))
    for question, words, numbers in examples.questions():
        of_question = list(islice(windows, len(numbers)))
        if of_question:
            text_of = functools.partial(_as_written, examples, words, tokens_of)
            yield question, _answer(of_question, head, listed, text_of)
        else:
            yield question, Answer("", _listed([_Entry("", 0.0, 0.0)]) if listed else None,
                                   _NO_WINDOWS_ODDS if head.unanswerable else None)


def _spans_of_windows(logits: np.ndarray, examples: Any, head: Any) -> Iterator[_Spans]:
    """The candidates of each window, block by block."""
    for start in range(0, len(examples), _WINDOWS_AT_ONCE):
        block = np.asarray(logits[start:start + _WINDOWS_AT_ONCE], np.float64)
        offsets = examples.offsets[start:start + _WINDOWS_AT_ONCE + 1]
        # The greatest come first, of equal ones the lower position: [windows, rank, 2].
        ranked = np.argsort(-block, axis=1, kind="stable")[:, :head.n_best_size]
        values = np.take_along_axis(block, ranked, axis=1)
        is_real = ranked < np.diff(offsets)[:, None, None]  # not padding, whatever its logits are
        places = np.where(is_real, offsets[:-1, None, None] + ranked, offsets[0])
        in_passage = is_real & (examples.words[places] >= 0)
        may_start = in_passage[:, :, 0] & (examples.is_max_context[places[:, :, 0]] != 0)
        firsts, lasts = places[:, :, None, 0], places[:, None, :, 1]
        fit = may_start[:, :, None] & in_passage[:, None, :, 1] & (lasts >= firsts) \
            & (lasts - firsts < head.max_answer_length)
        for row in range(len(block)):
            first, last = np.nonzero(fit[row])
            yield _Spans(places[row, first, 0], places[row, last, 1], values[row, first, 0], values[row, last, 1],
                         _Entry("", *block[row, 0].tolist()))


def _answer(windows: list[_Spans], head: Any, listed: bool, text_of: Callable[[int, int], str]) -> Answer:
    """The answer by the candidates of a question's windows; text_of(first place, last place) makes the texts."""
    null = min((window.null for window in windows), key=lambda entry: entry.score) if head.unanswerable else None
    entries = []
    for entry in islice(_different_texts(windows, null, text_of), head.n_best_size):
        entries.append(entry)
        if entry.text and not listed:
            break
    if null and null not in entries:
        entries.append(null)
    if not any(entry.text for entry in entries):
        entries.insert(0, _EMPTY)
    best = next(entry for entry in entries if entry.text)
    odds = null.score - best.start - best.end if null else None  # in this order, as BERT rounds it
    is_null = null is not None and odds > head.null_score_diff_threshold
    return Answer("" if is_null else best.text, _listed(entries) if listed else None, odds)


def _different_texts(windows: list[_Spans], null: _Entry | None, text_of: Callable[[int, int], str],
                     ) -> Iterator[_Entry]:
    """Texts from the best score down, each once; of equal scores the earlier candidate, and that of no answer last."""
    firsts, lasts, starts, ends = (np.concatenate(arrays) for arrays in list(zip(*windows))[:4])
    scores = np.append(starts + ends, [null.score] if null else [])
    seen = set()
    for place in np.argsort(-scores, kind="stable").tolist():
        text = "" if place == len(starts) else text_of(firsts[place], lasts[place])
        if text not in seen:
            seen.add(text)
            yield _Entry(text, float(starts[place]), float(ends[place])) if text else null


def _as_written(examples: Any, words: list[str], tokens_of: Callable[[str], str], first: int, last: int) -> str:
    """What the wordpieces from one place to another stand for, as the passage of these words has it.

    That is the part of the words that the wordpieces come from where it can be told by aligning the words with their
    tokens character by character, spaces apart; else all of the words. tokens_of(word): its tokens, with spaces.
    """
    wanted = examples.tokenizer.spelled(examples.tokens[first:last + 1].tolist())
    of_span = words[examples.words[first]:examples.words[last] + 1]
    text, tokens = " ".join(of_span), " ".join(filter(None, map(tokens_of, of_span)))
    place = tokens.find(wanted)
    letters = [number for number, character in enumerate(text) if character != " "]
    if not wanted or place < 0 or len(letters) != len(tokens.replace(" ", "")):
        return text
    before, length = len(tokens[:place].replace(" ", "")), len(wanted.replace(" ", ""))
    return text[letters[before]:letters[before + length - 1] + 1]


def _listed(entries: list[_Entry]) -> list[dict[str, Any]]:
    """The n-best list, with the softmax of the scores over it."""
    greatest = max(entry.score for entry in entries)
    weights = [math.exp(entry.score - greatest) for entry in entries]
    total = sum(weights)
    return [{"text": entry.text, "probability": weight / total, "start_logit": entry.start, "end_logit": entry.end}
            for entry, weight in zip(entries, weights)]


def prediction_files(logits: np.ndarray, examples: Any, head: Any) -> Iterator[tuple[str, Iterable[str]]]:
    """Names and texts of ANSWER_FILES (the last of v2.0 only), as Head.prediction_files() gives them: what
    decode(logits, examples, head) says, anew for each file, so that memory stays flat."""
    def table(of_answer: Callable[[Answer], Any], listed: bool = False) -> Iterator[str]:
        # ASCII: the official scorers read in whatever encoding the system has
        between = "{\n"
        for question, answer in decode(logits, examples, head, listed):
            yield f"{between}{json.dumps(question.id)}: {json.dumps(of_answer(answer))}"
            between = ",\n"
        yield "\n}\n"

    predictions, n_best, null_odds = ANSWER_FILES
    yield predictions, table(lambda answer: answer.text)
    yield n_best, table(lambda answer: answer.listed, listed=True)
    if head.unanswerable:
        yield null_odds, table(lambda answer: answer.null_odds)
