"""What the steps of reproduce.sh will do: its commands, read as the scripts read them, with examples and steps counted.

A script that a command names is loaded from its path, and its own parse_args() reads the flags: no default of a script
stands here again.
"""
from __future__ import annotations

import argparse
import contextlib
import fnmatch
import functools
import importlib.util
import io
import itertools
import math
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import IO

import numpy as np

from transformer.config import CONFIG_NAME, BertConfig
from transformer.data.augmented import augmented_passages
from transformer.data.epochs import epoch_files, read_epoch_metrics
from transformer.data.parts import byte_ranges
from transformer.data.tables import data_folder, read_rows, task_folder
from transformer.files import InputError, read_json
from transformer.planning.languages import ENGLISH, Language, count_words, usual_words
from transformer.tasks.own import open_task
from transformer.tasks.squad import cut_windows, read_passages
from transformer.tasks.table import get_task
from transformer.tasks.task import Task
from transformer.training.batches import count_steps, micro_batch_size, steps_per_epoch
from transformer.training.scoring import scoring_interval
from transformer.training.stages import padding_counts

INSTANCE_LENGTH = 128   # wordpieces of the instances that a Language tells of, at most
_SAMPLE = 2000          # rows that the lengths of a file are judged by
# SQuAD at lengths of 384, 128 and 64: windows of the training set (as others say, not counted here) and of the dev set;
# passages of the training set (as others say); words of a passage and of a question.
WINDOWS = {"squad1": (88_641, 10_833), "squad2": (131_944, 12_232)}
PASSAGES = {"squad1": 18_896, "squad2": 19_035}
PASSAGE_WORDS, QUESTION_WORDS = 120, 10
# Wordpieces of a window of the dev set: median 164, mean 178, 90% below 275, 2.6% full; a gamma distribution like that.
WINDOW_LENGTH = 178
_WINDOW_LENGTHS = 4.8, 37
# Bytes of the text of an article at the beginning of the English dump, where long ones stand, and share of the text in
# the XML: measured on 105 articles.
FIRST_ARTICLE, TEXT_OF_XML = 25_000, 0.43
_MINIATURE = re.compile(r"bert_uncased_L-(\d+)_H-(\d+)_A-(\d+)")  # how the small BERTs of Google are called
_COUNTED_BYTES = 32 << 20  # bytes of a train_aug.jsonl that are looked at


@dataclass(frozen=True)
class Step:
    """A command of a step as reproduce.sh would run it.

    name: of the step; a step of several commands comes several times, one that has nothing to run once, with an empty
    argv. state: done, begun (stopped before, goes on) or open. argv: what would be given to `python`.
    """
    name: str
    state: str
    argv: tuple[str, ...]

    @property
    def script(self) -> str:
        """Name of the script without .py: general_distill; of a module -m and its name; of code -c; or nothing."""
        if not self.argv:
            return ""
        return " ".join(self.argv[:2]) if self.argv[0] == "-m" else Path(self.argv[0]).stem

    @property
    def stage(self) -> str:
        """What steps that can run side by side have in common: general of full/seed_1/general_4l."""
        return self.name.rpartition("/")[2].partition("_")[0]

    @property
    def command(self) -> str:
        """The command for people, with the script's bare name and without the flags of a second try."""
        again = "--resume", "--overwrite_output_dir"
        return shlex.join([Path(word).name if number == 0 else word for number, word in enumerate(self.argv)
                           if word not in again])

    @property
    def flags(self) -> list[str]:
        """What comes after the script."""
        return list(self.argv[1:])


@dataclass
class Work:
    """What a command will do.

    kind: general, intermediate, prediction, teacher, augment, pregenerate, evaluation, or other.
    args: the command line as the script resolves it, for this task; None for kind other and where `refused` says why.
    counts: examples of each training epoch (general, intermediate, prediction, teacher), instances of each epoch
    (pregenerate), rows or passages to augment (augment), examples to answer (evaluation); those of SQuAD are windows.
    steps: optimizer steps, 0 where nothing is trained. micro_batch: sequences of one forward pass. length: wordpieces
    of a sequence as computed, padding included, a mean where it differs; of a text (augment). evaluations: passes over
    the dev sets of dev_examples examples (of the general and intermediate stage there are none but the teacher's one).
    logs: times that it logs, at which states are saved as far as that is cheap, with the models of the general and
    intermediate stage. saves: models written at most, without those. words: words of a row or a passage (augment).
    text_bytes: of the sentences that are extracted, written or read. unread: instances that have to be made arrays
    first (general). students: the models that are trained side by side, or the one that is scored; teacher: the one
    that is asked, or masks. outputs: paths that are there afterwards, with * for any text, those of the students in
    their order. missing: inputs that are not there and that no earlier step makes. assumed: figures that are guesses,
    because their file is not there yet, as "what: which file". language: of all texts of the run.
    """
    step: Step
    kind: str = "other"
    args: argparse.Namespace | None = None
    task: Task | None = None
    counts: list[int] = field(default_factory=list)
    steps: int = 0
    micro_batch: int = 0
    length: float = 0.0
    evaluations: int = 0
    dev_examples: int = 0
    logs: int = 0
    saves: int = 0
    words: float = 0.0
    text_bytes: float = 0.0
    unread: int = 0
    students: tuple[BertConfig, ...] = ()
    teacher: BertConfig | None = None
    outputs: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)
    refused: str = ""
    language: Language = ENGLISH

    @property
    def student(self) -> BertConfig | None:
        """The first of the students."""
        return self.students[0] if self.students else None

    @property
    def examples(self) -> int:
        """Examples of the longest epoch."""
        return max(self.counts, default=0)

    @property
    def masked_length(self) -> float:
        """Wordpieces of what the masked LM is given (augment): a text with a masked word, and the text itself."""
        return min(2 * self.length - 1, self.teacher.max_position_embeddings)

    @property
    def expected_saves(self) -> float:
        """Models that are written, of the `saves` at most: in a prediction stage where a score is the best so far. By
        chance one of n scores is that ln n times, and a run rises."""
        return min(self.saves, 1 + 2 * math.log(self.saves)) if self.kind == "prediction" else self.saves


def listed(value: str | Path | list[str] | None) -> list[str | Path]:
    """The values of a flag that takes one or several; none for None."""
    return value if isinstance(value, list) else [] if value is None else [value]


def is_among(path: str | Path, outputs: Sequence[str]) -> bool:
    """Whether a path is one of the outputs of a command, or lies in one."""
    path = os.path.normpath(path)
    return any(fnmatch.fnmatchcase(path, pattern) for output in map(os.path.normpath, outputs)
               for pattern in (output, f"{output}/*"))


def bytes_in(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def read_steps(stream: IO[bytes]) -> list[Step]:
    """The commands that reproduce.sh writes: NAME STATE ARGC ARG ... of each, with a NUL after every word."""
    words = iter(stream.read().decode().split("\0")[:-1])
    return [Step(name, next(words), tuple(itertools.islice(words, int(next(words))))) for name in words]


@functools.cache
def load_script(path: str) -> ModuleType:
    """A script of the kit as a module."""
    name = f"script_{Path(path).stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its dataclasses look there
    spec.loader.exec_module(module)
    return module


def parse(step: Step) -> argparse.Namespace:
    """The command line of a step's script; InputError with the words of the script where it refuses it."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return load_script(step.argv[0]).parse_args(step.flags)
    except SystemExit:
        raise InputError(errors.getvalue().strip().partition("error: ")[2] or "the command is refused") from None


def work_of(step: Step, earlier: Sequence[Work] = (), language: Language = ENGLISH) -> Work:
    """What a command will do after the `earlier` ones of the same run, in whose language its texts are."""
    work = Work(step, language=language)
    describe = _DESCRIBE.get(step.script)
    if describe is None:
        _module(work, _Earlier(earlier, work))
        return work
    try:
        work.args = parse(step)
        describe(work, _Earlier(earlier, work))
    except InputError as error:
        work.refused = str(error)
    return work


def works_of(steps: Sequence[Step], language: Language = ENGLISH) -> list[Work]:
    """work_of() of each of the commands of a run, in their order."""
    works: list[Work] = []
    for step in steps:
        works.append(work_of(step, works, language))
    return works


def print_assumed(works: Sequence[Work]) -> None:
    """Print what is a guess in the counts of some commands, each guess once, with the files that it is about."""
    assumed: dict[str, list[str]] = {}
    for what, _, which in (text.partition(": ") for work in works for text in work.assumed):
        assumed.setdefault(what, []).append(which)
    for what, which in assumed.items():
        print(f"assumed: {what}: {', '.join(dict.fromkeys(which))}")


class _Earlier:
    """What is there when a command starts: on the disk now, or made by the steps before."""

    def __init__(self, works: Sequence[Work], work: Work):
        self.works = [other for other in works if other.step.state != "done"]
        self._work = work

    def maker(self, path: str | Path) -> Work | None:
        """The last of the steps still to be done that makes a path, or the folder it is in."""
        return next((work for work in reversed(self.works) if is_among(path, work.outputs)), None)

    def need(self, path: str | Path) -> Path:
        """The path; noted as missing where it neither is there nor will be."""
        if not Path(path).exists() and not self.maker(path):
            self._work.missing.append(str(path))
        return Path(path)

    def config(self, folder: str | Path, defaults: dict[str, int] | None = None) -> BertConfig:
        """Sizes of the model in a folder, of the step that will make it, or of BERT-base. defaults: of what its
        config.json may leave out."""
        maker = self.maker(folder)
        for config, output in zip(maker.students if maker else (), maker.outputs if maker else ()):
            if is_among(folder, [output]):
                return config
        file = Path(folder) / CONFIG_NAME
        if maker:  # a published student has the sizes that the kit gives to its own
            name = Path(folder).name.removeprefix("distilled_").removesuffix("_zh")
            own = Path(maker.step.argv[0]).parent / f"{name}_config"
            file = file if file.is_file() else own / CONFIG_NAME
        if maker and maker.step.script == "get_bert_models":
            origin = maker.args.models.get(Path(folder).name)
            if isinstance(origin, Path) and not file.is_file():
                file = origin / CONFIG_NAME
            elif sizes := _MINIATURE.fullmatch(Path(folder).name):
                layers, hidden, heads = map(int, sizes.groups())
                return BertConfig(30_522, hidden, layers, heads, 4 * hidden)
        if file.is_file():
            return BertConfig.from_json_file(file, defaults)
        if not maker:
            self._work.missing.append(str(file))
        elif self._work.language.bert not in str(folder):
            self._work.assumed.append(f"sizes of BERT-base: {folder}")
        return self._work.language.config

    def rows(self, task: Task, path: Path, official: int) -> int:
        """Examples of a task's file, rows or windows, or as many as the official one has."""
        self.need(path)
        if path.is_file():
            return count_rows(task, path) if task.is_table else round(windows_in(self._work, path)[0])
        what = "as many rows as the official files have" if task.is_table else "windows as others and this kit count " \
            "them in the official files at lengths of 384, 128 and 64, those of training sets unverified"
        self._work.assumed.append(f"{what}: {path}")
        return official


@functools.cache
def count_rows(task: Task, path: Path) -> int:
    """Examples in a GLUE file that is there. InputError as the script's that reads it."""
    with contextlib.redirect_stdout(io.StringIO()):
        return sum(1 for _ in read_rows(task, path))


def official_examples(task: Task) -> tuple[int, ...]:
    """Examples, rows or windows, of the official train file and of each dev file."""
    return task.rows if task.is_table else WINDOWS[task.key]


def augmented_rows(rows: int, task: Task, copies: int) -> int:
    """The most rows, windows or passages that data augmentation makes of so many."""
    return rows * (1 + copies * max(1, len(task.text_columns)))


def usual_windows(count: int, random: np.random.Generator) -> np.ndarray:
    """Wordpieces of windows, as SQuAD's dev set has them, cut nowhere: float64 [count]."""
    return random.gamma(*_WINDOW_LENGTHS, count).clip(min=2 * QUESTION_WORDS)


def window_settings(work: Work) -> tuple[int, int, int]:
    """The three lengths of a command that windows follow from."""
    return work.args.max_seq_length, work.args.doc_stride, work.args.max_query_length


def windows_in(work: Work, path: Path) -> tuple[float, np.ndarray]:
    """How many windows a file of passages gives at the lengths of a command, and the wordpieces of some of them,
    float64; both judged by words."""
    return _windows_in(work.task.key, path, *window_settings(work))


@functools.cache
def _windows_in(key: str, path: Path, longest: int, stride: int, longest_question: int) -> tuple[float, np.ndarray]:
    task = get_task(key)
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


@functools.cache
def words_of(task: Task, path: Path) -> np.ndarray:
    """Words in the texts of each of the first rows of a task's file, see count_words(): int64 [rows]."""
    with contextlib.redirect_stdout(io.StringIO()):
        rows = list(itertools.islice(read_rows(task, path), _SAMPLE))
    return np.array([sum(count_words(columns[column]) for column in task.text_columns) for _, columns in rows])


def lengths_in(work: Work, path: Path, batch_size: int) -> float:
    """Mean wordpieces of the examples of a task's file after padding to the longest of batch_size, judged by its words.
    Where it is not there yet, the longest sequence, or, of windows, as it is in SQuAD's dev set."""
    longest = work.args.max_seq_length
    if not path.is_file() and work.task.is_table:
        work.assumed.append(f"every sequence as long as it can be: {path}")
        return longest
    if not path.is_file():
        work.assumed.append(f"windows as long as those of SQuAD's dev set: {path}")
        lengths = usual_windows(_SAMPLE, np.random.default_rng(0))
    elif work.task.is_table:
        lengths = words_of(work.task, path) * work.language.pieces + 1 + len(work.task.text_columns)
    else:
        lengths = windows_in(work, path)[1]
    order = np.random.default_rng(0).permutation(len(lengths))[:_SAMPLE]
    parts = np.array_split(lengths[order].clip(max=longest), max(1, len(order) // batch_size))
    return float(np.mean([part.max() for part in parts])) if len(lengths) else longest


def _training(work: Work, names: Sequence[object]) -> None:
    """Steps of a training run over work.counts. names: of the files of the epochs."""
    args = work.args
    work.micro_batch = micro_batch_size(args.train_batch_size, args.gradient_accumulation_steps)
    work.steps = count_steps([steps_per_epoch(count, args.train_batch_size, name)
                              for count, name in zip(work.counts, names, strict=True)], args.num_train_epochs)


def _teacher_and_students(work: Work, earlier: _Earlier) -> None:
    """Note the models of a stage of distillation; the students have the teacher's vocabulary."""
    work.teacher = earlier.config(work.args.teacher_model)
    shared = {name: getattr(work.teacher, name) for name in ("vocab_size", "num_attention_heads")}
    work.students = tuple(replace(earlier.config(folder, shared), vocab_size=work.teacher.vocab_size)
                          for folder in listed(work.args.student_model))


def _general(work: Work, earlier: _Earlier) -> None:
    args = work.args
    load_script(work.step.argv[0]).resolve_preset(args)
    work.kind, work.outputs = "general", listed(args.output_dir)
    data = earlier.need(args.pregenerated_data)
    _teacher_and_students(work, earlier)
    epochs, maker = math.ceil(args.num_train_epochs), earlier.maker(data)
    made, are_arrays = [work.language.instances], False
    if maker:
        made, are_arrays = maker.counts or made, getattr(maker.args, "arrays", False)
        work.assumed += [assumption for assumption in maker.assumed if "instances" in assumption]
    elif data.exists():
        with contextlib.redirect_stdout(io.StringIO()):  # its warning comes with the run
            files = epoch_files(data, epochs)
        made = [read_epoch_metrics(metrics)["num_training_examples"] for _, metrics in dict.fromkeys(files)]
        are_arrays = all(instances.is_dir() for instances, _ in files)
    work.counts = [made[epoch % len(made)] for epoch in range(epochs)]
    are_arrays = are_arrays or (data / "epoch_0.arrays").is_dir() or any(
        other.kind == "general" and other.args.pregenerated_data == args.pregenerated_data for other in earlier.works)
    work.unread = 0 if are_arrays else sum(made)
    work.length = args.max_seq_length
    _training(work, [data] * epochs)
    work.logs = math.ceil(work.steps / args.eval_step)
    work.saves = len(work.students) * work.logs  # as step_N_pytorch_model.bin


def _pregenerate(work: Work, earlier: _Earlier) -> None:
    args = work.args
    work.kind, work.outputs, work.length = "pregenerate", [str(args.output_dir)], args.max_seq_len
    earlier.need(args.bert_model)
    corpus, maker = earlier.need(args.train_corpus), earlier.maker(args.train_corpus)
    usual = work.language
    work.text_bytes = maker.text_bytes if maker else corpus.stat().st_size if corpus.is_file() else usual.text
    instances = round(work.text_bytes / usual.text * usual.instances * INSTANCE_LENGTH / args.max_seq_len)
    # an earlier try has told how many they are
    metrics = [args.output_dir / f"epoch_{epoch}_metrics.json" for epoch in range(args.epochs_to_generate)]
    work.counts = [read_epoch_metrics(path)["num_training_examples"] if path.is_file() else instances
                   for path in metrics]
    if not corpus.is_file() and not all(path.is_file() for path in metrics):
        work.assumed.append(f"instances as of {usual.wikipedia}: {instances:,} in an epoch")


def _task_files(work: Work, earlier: _Earlier, folder: Path, augmented: bool) -> Path:
    """Note train file and dev sets of a task; the train file."""
    task = work.task
    official, *of_dev = official_examples(task)
    work.dev_examples = sum(earlier.rows(task, folder / name, rows)
                            for name, rows in zip(task.dev_files, of_dev, strict=True))
    if not augmented:
        path = folder / task.train_file
        work.counts = [earlier.rows(task, path, official)]
        return path
    path = folder / task.aug_file
    maker = earlier.maker(path)
    if maker and maker.args:  # its N
        copies = load_script(maker.step.argv[0]).resolve_copies(maker.args, task)
        rows = maker.examples if task.is_table else earlier.rows(task, folder / task.train_file, official)
        work.counts = [augmented_rows(rows, task, copies)]
        work.assumed.append(f"the most rows that augmentation can give: {path}")
    elif earlier.need(path).is_file() and not task.is_table:
        work.counts = [earlier.rows(task, path, 0)]
    elif path.is_file():
        record = path.with_suffix(".json")
        known = read_json(record).get("rows_out") if record.is_file() else None
        work.counts = [known if isinstance(known, int) else count_rows(task, path)]
    else:
        work.counts = [augmented_rows(official, task, 20)]
    return path


def _task_distill(work: Work, earlier: _Earlier) -> None:
    args = work.args
    with contextlib.redirect_stdout(io.StringIO()):
        task = open_task(args.task_name, args.data_dir)
        args.task_name = task.name
        task = work.task = load_script(work.step.argv[0]).resolve(args, task)
        folder = data_folder(args.data_dir, task)
    work.outputs = listed(args.output_dir)
    if args.do_eval or args.do_predict:
        work.kind, work.students = "evaluation", (earlier.config(*listed(args.student_model)),)
        dev = [earlier.rows(task, folder / name, rows) for name, rows in
               zip(task.dev_files, official_examples(task)[1:], strict=True)] if args.do_eval else []
        test = [earlier.rows(task.for_test(one), folder / one.file, one.rows)
                for one in task.submissions] if args.do_predict else []
        if args.predict_file:
            test = [earlier.rows(task.texts_alone if task.is_table else task, Path(args.predict_file), 0)]
        work.dev_examples = sum(dev)
        work.counts, work.evaluations = [sum(dev) + sum(test)], 1
        work.length = lengths_in(work, folder / task.dev_files[0], 1)
        return
    work.kind = "prediction" if args.pred_distill else "intermediate"
    _teacher_and_students(work, earlier)
    path = _task_files(work, earlier, folder, args.aug_train)
    if unlabelled := task.unlabelled_in(folder):
        work.counts = [work.counts[0] + earlier.rows(task.texts_alone, unlabelled, task.unlabelled_rows)]
    work.counts *= math.ceil(args.num_train_epochs)
    _training(work, [path] * len(work.counts))
    if args.eval_step is None:  # as the script finds it, with lengths judged by words
        batch = args.train_batch_size * lengths_in(work, folder / task.train_file, args.train_batch_size)
        dev = work.dev_examples * lengths_in(work, folder / task.dev_files[0], 1)
        args.eval_step = scoring_interval(work.steps, round(batch), max(1, round(dev)))
    work.logs = math.ceil(work.steps / args.eval_step)
    work.evaluations = work.logs if args.pred_distill else 0
    work.saves = work.logs if args.pred_distill else len(work.students)
    padded = padding_counts(args, task.head) if args.pred_distill else not args.dynamic_padding
    work.length = args.max_seq_length if padded else lengths_in(work, folder / task.train_file, work.micro_batch)


def _teacher(work: Work, earlier: _Earlier) -> None:
    script = load_script(work.step.argv[0])
    with contextlib.redirect_stdout(io.StringIO()):
        tasks = script.asked_tasks(work.args)
    task = work.task = tasks[0]  # reproduce.sh asks for one at a time
    work.kind = "teacher"
    work.outputs = [str(script.teacher_folder(other, work.args)) for other in tasks]
    args = work.args = script.resolved(work.args, task)[0]
    own = Path(args.models_dir) / f"bert-base-uncased-{task.key}"
    start = args.model or (own if own.is_dir() or earlier.maker(own) else Path(args.models_dir) / "bert-base-uncased")
    work.students = earlier.config(start),
    folder = task_folder(args.glue_dir, task)
    path = _task_files(work, earlier, folder, False)
    work.counts *= args.num_train_epochs
    _training(work, [path] * len(work.counts))
    work.logs = work.saves = args.num_train_epochs
    work.evaluations = 1 + work.logs
    work.length = args.max_seq_length if task.head.sees_padding else lengths_in(work, path, work.micro_batch)


def _augment(work: Work, earlier: _Earlier) -> None:
    args = work.args
    with contextlib.redirect_stdout(io.StringIO()):
        task = work.task = open_task(args.task_name, args.glue_dir)
    folder = task_folder(args.glue_dir, task)
    work.kind, work.outputs = "augment", [str(folder / f"{Path(task.aug_file).stem}.*")]
    work.teacher = earlier.config(args.pretrained_bert_model)
    if args.glove_embs:
        earlier.need(args.glove_embs)
    path = folder / task.train_file
    if not task.is_table:
        earlier.need(path)
        contexts = [passage.context for passage in read_passages(path, task.head.unanswerable, has_answers=False)
                    ] if path.is_file() else []
        work.counts = [len(contexts) or PASSAGES[task.key]]
        work.words = float(np.mean([len(context.split()) for context in contexts])) if contexts else PASSAGE_WORDS
        work.length = work.words * work.language.pieces + 2
        if not contexts:
            work.assumed.append(f"as many passages as the official files have, of {PASSAGE_WORDS} words: {path}")
        return
    work.counts = [earlier.rows(task, path, task.rows[0])]
    texts = len(task.text_columns)
    if path.is_file():
        work.words = float(words_of(task, path).mean())
    else:
        work.words = usual_words(task) * texts
        work.assumed.append(f"{usual_words(task)} words in a text: {path}")
    work.length = work.words / texts * work.language.pieces + 2


def _fetched_or_split(work: Work, earlier: _Earlier) -> None:
    """What the scripts leave that neither train nor ask a model."""
    args = work.args
    if work.step.script == "download_glue":
        work.outputs = [str(args.data_dir / name) for name in args.tasks]
    elif work.step.script == "get_bert_models":
        work.outputs = [str(args.output_dir / name) for name in args.models]
    elif work.step.script == "prepare_data":
        articles, maker = earlier.need(args.input_dir), earlier.maker(args.input_dir)
        work.text_bytes = maker.text_bytes if maker else \
            work.language.text / work.language.articles * bytes_in(articles)
        work.outputs = [str(args.output_file)]


def _module(work: Work, earlier: _Earlier) -> None:
    """What a command without a script of the kit leaves."""
    step = work.step
    if step.script == "-m zipfile":
        work.outputs = [f"{step.argv[-1]}/*.txt"]
    elif step.script == "-c":
        work.outputs = [step.argv[-1]]  # the file that is fetched
    elif step.script.startswith("-m wikiextractor"):
        work.outputs, dump = [step.argv[-1]], Path(step.argv[2])  # the folder after -o
        maker = earlier.maker(dump)
        if maker and maker.text_bytes:
            work.text_bytes = maker.text_bytes
        elif dump.suffix == ".xml":
            work.text_bytes = TEXT_OF_XML * (dump.stat().st_size if dump.is_file() else 0)
        else:
            work.text_bytes = work.language.text * (dump.stat().st_size / work.language.dump if dump.is_file() else 1)
    elif step.script == "-m transformer.fetching.wikipedia":
        work.outputs = [step.argv[-1]]  # after --output_file
        work.text_bytes = int(step.argv[-3]) * FIRST_ARTICLE  # after --articles
        work.assumed.append(f"{FIRST_ARTICLE:,} bytes of text in an article at the beginning of a dump: "
                            f"{work.outputs[0]}")


_DESCRIBE = {"general_distill": _general, "pregenerate_training_data": _pregenerate, "task_distill": _task_distill,
             "finetune_teacher": _teacher, "data_augmentation": _augment,
             **dict.fromkeys(("download_glue", "get_bert_models", "prepare_data", "fix_teacher_layers"),
                             _fetched_or_split)}
