"""SQuAD's files, passages that are read through windows, for a plan and a rehearsal."""
from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from transformer.data.augmented import AUGMENTED_HEADER, augmented_line, augmented_passage, augmented_passages
from transformer.data.features import Sequences
from transformer.data.parts import byte_ranges
from transformer.data.windows import encode_windows
from transformer.pieces import Tokenizer
from transformer.planning.languages import ENGLISH
from transformer.planning.task_files import SAMPLE, TaskFiles, once_for_each_file, sample_lines
from transformer.tasks.squad import Passage, Question, cut_windows, read_passages
from transformer.tasks.task import Task

# At lengths of 384, 128 and 64: windows of the training set (as others say, not counted here) and of the dev set;
# passages of the training set (as others say); words of a passage and of a question.
_WINDOWS = {"squad1": (88_641, 10_833), "squad2": (131_944, 12_232)}
_PASSAGES = {"squad1": 18_896, "squad2": 19_035}
_PASSAGE_WORDS, _QUESTION_WORDS = 120, 10
# Wordpieces of a window of the dev set: median 164, mean 178, 90% below 275, 2.6% full; a gamma distribution like that.
_WINDOW_LENGTH = 178
_WINDOW_LENGTHS = 4.8, 37
_QUESTION_BYTES = _QUESTION_WORDS * ENGLISH.word_bytes + 60  # with its id, in train_aug.jsonl
_COUNTED_BYTES = 32 << 20  # of a train_aug.jsonl that are looked at


class PassageFiles(TaskFiles):
    """The questions of a task about passages: an example is a window, and what is augmented is a passage."""
    assumed_count = "windows as others and this kit count them in the official files at lengths of 384, 128 and 64, " \
                    "those of training sets unverified"
    assumed_lengths = "windows as long as those of SQuAD's dev set"
    texts = 1

    @property
    def official(self) -> tuple[int, ...]:
        """Windows of SQuAD."""
        return _WINDOWS[self.task.key]

    @property
    def kept_bytes(self) -> float:
        """Those of a window of usual length, without padding."""
        return 4.0 * self.task.num_labels * _WINDOW_LENGTH

    def augmented_bytes(self, words: float, length: float) -> float:
        """The passage, its questions, and the arrays of its windows."""
        passages = _PASSAGES[self.task.key]
        windows, questions = _WINDOWS[self.task.key][0] / passages, self.task.rows[0] / passages
        return words * self.language.word_bytes + questions * _QUESTION_BYTES + windows * 2 * _WINDOW_LENGTH

    @property
    def _settings(self) -> tuple[int, int, int]:
        """The three lengths that windows follow from."""
        return self.args.max_seq_length, self.args.doc_stride, self.args.max_query_length

    def count(self, path: Path) -> int:
        """Windows, judged by words; those of a long augmented file by its beginning."""
        return round(_windows_in(self.task, path, *self._settings)[0])

    def lengths(self, path: Path) -> np.ndarray:
        """Those of the same windows; usual are those of SQuAD's dev set."""
        if not path.is_file():
            return usual_windows(SAMPLE, np.random.default_rng(0))
        return _windows_in(self.task, path, *self._settings)[1]

    def to_augment(self, path: Path) -> tuple[int, float, list[str]]:
        """All passages, and the words of each."""
        if path.is_file():
            words = [len(passage.context.split()) for passage in self._passages(path, has_answers=False)]
            return len(words), float(np.mean(words)), []
        return _PASSAGES[self.task.key], _PASSAGE_WORDS, [
            f"as many passages as the official files have, of {_PASSAGE_WORDS} words"]

    def _passages(self, path: Path, has_answers: bool = True) -> Iterator[Passage]:
        return read_passages(path, self.task.head.unanswerable, has_answers)

    def copy_some(self, source: Path, path: Path, count: int, random: np.random.Generator) -> None:
        """Passages with about so many questions; of an original file they become an augmented one, too."""
        if source.name == self.task.aug_file:
            chosen = [augmented_passage(line, source) for line in sample_lines(source, count, has_header=True)[1]]
        else:
            passages = list(self._passages(source))
            chosen = [passages[number] for number in random.permutation(len(passages))]
        self._write(path, _first_questions(chosen, count))

    def make_up(self, path: Path, count: int, words: Callable[[int], list[str]], random: np.random.Generator) -> None:
        """Passages as long as SQuAD's, with five questions each; of v2.0 every third question has no answer."""
        passages = []
        for start in range(0, count, 5):
            of_passage = words(int(usual_windows(1, random)[0]) - _QUESTION_WORDS - 3)
            questions = []
            for number in range(start, min(start + 5, count)):
                first, length = random.integers(0, len(of_passage) - 3), random.integers(1, 4)
                answer = " ".join(of_passage[first:first + length]), len(" ".join([*of_passage[:first], ""]))
                is_answerable = not self.task.head.unanswerable or number % 3
                questions.append(Question(f"made-up-{number}", " ".join(words(_QUESTION_WORDS)),
                                          (answer,) if is_answerable else ()))
            passages.append(Passage(" ".join(of_passage), tuple(questions)))
        self._write(path, passages)

    def _write(self, path: Path, passages: Iterable[Passage]) -> None:
        """A SQuAD file, or the augmented one, without answers."""
        is_v2 = self.task.head.unanswerable
        with open(path, "w", encoding="utf-8") as handle:
            if path.name == self.task.aug_file:
                lines = (augmented_line(passage, passage.context, 0) for passage in passages)
                handle.writelines(f"{line}\n" for line in (AUGMENTED_HEADER, *lines))
                return
            paragraphs = [{"context": passage.context, "qas": [
                {"id": question.id, "question": question.text,
                 "answers": [{"text": text, "answer_start": start} for text, start in question.answers],
                 **({"is_impossible": not question.answers} if is_v2 else {})}
                for question in passage.questions]} for passage in passages]
            data = [{"title": "", "paragraphs": paragraphs}]
            json.dump({"version": "v2.0" if is_v2 else "1.1", "data": data}, handle)

    def encode(self, path: Path, tokenizer: Tokenizer) -> Sequences:
        """See TaskFiles."""
        use = "augmented" if path.name == self.task.aug_file else "answer"
        return encode_windows(self.task, path, tokenizer, *self._settings, use, num_workers=1)


def usual_windows(count: int, random: np.random.Generator) -> np.ndarray:
    """Wordpieces of windows, as SQuAD's dev set has them, cut nowhere: float64 [count]."""
    return random.gamma(*_WINDOW_LENGTHS, count).clip(min=2 * _QUESTION_WORDS)


def _first_questions(passages: Iterable[Passage], count: int) -> Iterator[Passage]:
    """Passages with the first `count` questions."""
    for passage in passages:
        if passage.questions:
            yield replace(passage, questions=passage.questions[:count])
        count -= len(passage.questions)
        if count <= 0:
            return


@once_for_each_file
def _windows_in(task: Task, path: Path, longest: int, stride: int, longest_question: int,
                ) -> tuple[float, np.ndarray]:
    """How many windows a file gives, and the wordpieces of some of them, float64; both judged by words."""
    size = read = path.stat().st_size
    if path.name == task.aug_file:
        _, read = next(iter(byte_ranges(path, _COUNTED_BYTES)), (0, size))
        passages = augmented_passages((path, 0, read))
    else:
        passages = read_passages(path, task.head.unanswerable, has_answers=False)
    lengths: list[float] = []
    for passage in passages:
        pieces = round(len(passage.context.split()) * ENGLISH.pieces)
        for question in passage.questions:
            own = min(round(len(question.text.split()) * ENGLISH.pieces), longest_question) + 3  # [CLS] and two [SEP]
            lengths += [own + end - start for start, end in cut_windows(pieces, longest - own, stride)]
    return len(lengths) * size / max(read, 1), np.array(lengths, np.float64)
