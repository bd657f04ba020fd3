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

from transformer.checkpoint import no_masked_lm
from transformer.config import CONFIG_NAME, BertConfig
from transformer.data.epochs import epoch_files, read_epoch_metrics, require_vocabulary
from transformer.data.tables import data_folder, task_folder
from transformer.distillation import compared
from transformer.families import ELECTRA
from transformer.files import InputError
from transformer.pieces import Tokenizer
from transformer.planning.languages import ENGLISH, Language
from transformer.planning.passage_files import PassageFiles
from transformer.planning.table_files import TableFiles
from transformer.planning.task_files import TaskFiles
from transformer.tasks.own import open_task
from transformer.tasks.task import Task
from transformer.tokenization import open_tokenizer, vocab_path
from transformer.training.batches import count_steps, micro_batch_size, steps_per_epoch
from transformer.training.scoring import scoring_interval
from transformer.training.stages import keeps_answers, padding_counts

INSTANCE_LENGTH = 128   # wordpieces of the instances that a Language tells of, at most
# Arguments of the prediction stage that the teacher's answers to its examples follow from.
_ANSWERS = ("teacher_model", "data_dir", "task_name", "aug_train", "max_seq_length", "do_lower_case", "cache_dir")
_MINIATURE = re.compile(r"bert_uncased_L-(\d+)_H-(\d+)_A-(\d+)")  # how these are called
TEXT_OF_XML = 0.43      # share of the text in the XML of articles, measured on 105


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
    that is asked, or masks. asked: examples whose logits it gives before the first step (prediction), none where an
    earlier command has kept them. outputs: paths that are there afterwards, with * for any text, those of the students
    in their order. missing: inputs that are not there and that no earlier step makes. assumed: figures that are
    guesses, because their file is not there yet, as "what: which file". language: of all texts of the run.
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
    asked: int = 0
    outputs: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)
    refused: str = ""
    language: Language = ENGLISH

    @property
    def files(self) -> TaskFiles:
        """The files of the task, as this command reads them."""
        return files_for(self.task, self.language, self.args)

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


def files_for(task: Task, language: Language, args: argparse.Namespace | None = None) -> TaskFiles:
    """The files of a task, by their kind."""
    return (TableFiles if task.is_table else PassageFiles)(task, language, args)


def sizes_in_name(folder: str | Path) -> BertConfig | None:
    """The sizes of a small BERT of Google, which its name tells (arXiv 1908.08962); None of others."""
    if not (found := _MINIATURE.fullmatch(Path(folder).name)):
        return None
    layers, hidden, heads = map(int, found.groups())
    return BertConfig(30_522, hidden, layers, heads, 4 * hidden)


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
    """The commands that reproduce.sh writes: NAME STATE ARGC ARG ... of each, then END, with a NUL after every word.

    InputError where END is missing, since the script broke off.
    """
    text = stream.read().decode()
    if not f"\0{text}".endswith("\0END\0"):
        raise InputError("the list of its steps broke off, for the reason that stands above: give other arguments, or "
                         "report it")
    words = iter(text.split("\0")[:-2])
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


class _Earlier:
    """What is there when a command starts: on the disk now, or made by the steps before."""

    def __init__(self, works: Sequence[Work], work: Work):
        self.works = [other for other in works if other.step.state != "done"]
        self._all = works
        self._work = work

    def maker(self, path: str | Path) -> Work | None:
        """The last of the steps still to be done that makes a path, or the folder it is in."""
        return next((work for work in reversed(self.works) if is_among(path, work.outputs)), None)

    def has(self, path: str | Path) -> bool:
        """Whether a path is there, or will be."""
        return Path(path).exists() or self.maker(path) is not None

    def need(self, path: str | Path) -> Path:
        """The path; noted as missing where it neither is there nor will be."""
        if not self.has(path):
            self._work.missing.append(str(path))
        return Path(path)

    def kept_answers(self) -> bool:
        """Whether an earlier prediction stage has asked the command's teacher about the same examples."""
        return any(other.kind == self._work.kind == "prediction" and keeps_answers(other.args, other.task.head) and
                   all(getattr(other.args, name) == getattr(self._work.args, name) for name in _ANSWERS)
                   for other in self._all)

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
            elif sizes := sizes_in_name(folder):
                return sizes
        if file.is_file():
            return BertConfig.from_json_file(file, defaults)
        if not maker:
            self._work.missing.append(str(file))
        elif self._work.language.bert not in str(folder):
            self._work.assumed.append(f"sizes of BERT-base: {folder}")
        return self._work.language.config

    def tokenizer(self, folder: str | Path) -> Tokenizer | None:
        """That of a model folder; None where its vocabulary is not there, or will be made anew."""
        return None if self.maker(folder) or not vocab_path(folder).is_file() else open_tokenizer(folder)

    def rows(self, path: Path, official: int, task: Task | None = None) -> int:
        """Examples of a file of the command's task, or of one that is laid out as that of another; as many as the
        official one has where it is not there."""
        files = files_for(task or self._work.task, self._work.language, self._work.args)
        if self.need(path).is_file():
            return files.count(path)
        self._work.assumed.append(f"{files.assumed_count}: {path}")
        return official

    def length(self, path: Path, batch_size: int) -> float:
        """TaskFiles.padded_length() of a file of the command's task."""
        if not path.is_file():
            self._work.assumed.append(f"{self._work.files.assumed_lengths}: {path}")
        return self._work.files.padded_length(path, batch_size)


def _training(work: Work, names: Sequence[object]) -> None:
    """Steps of a training run over work.counts. names: of the files of the epochs."""
    args = work.args
    work.micro_batch = micro_batch_size(args.train_batch_size, args.gradient_accumulation_steps)
    work.steps = count_steps([steps_per_epoch(count, args.train_batch_size, name)
                              for count, name in zip(work.counts, names, strict=True)], args.num_train_epochs)


def _teacher_and_students(work: Work, earlier: _Earlier) -> None:
    """Note the models of a stage of distillation; the students have the teacher's vocabulary."""
    work.teacher = earlier.config(work.args.teacher_model)
    work.students = tuple(replace(earlier.config(folder, work.teacher.for_students), vocab_size=work.teacher.vocab_size)
                          for folder in listed(work.args.student_model))
    for student in work.students if work.kind != "prediction" else ():  # which compares no layers
        compared(student, work.teacher, work.args.layer_mapping, work.args.without)


def _general(work: Work, earlier: _Earlier) -> None:
    args = work.args
    load_script(work.step.argv[0]).resolve_preset(args)
    work.kind, work.outputs = "general", listed(args.output_dir)
    data = earlier.need(args.pregenerated_data)
    _teacher_and_students(work, earlier)
    epochs, maker = math.ceil(args.num_train_epochs), earlier.maker(data)
    made, are_arrays, metrics_of = [work.language.instances], False, {}
    if maker:
        made, are_arrays = maker.counts or made, getattr(maker.args, "arrays", False)
        work.assumed += [assumption for assumption in maker.assumed if "instances" in assumption]
    elif data.exists():
        with contextlib.redirect_stdout(io.StringIO()):  # its warning comes with the run
            files = epoch_files(data, epochs)
        metrics_of = {instances: read_epoch_metrics(metrics) for instances, metrics in files}
        made = [metrics["num_training_examples"] for metrics in metrics_of.values()]
        are_arrays = all(instances.is_dir() for instances, _ in files)
    work.counts = [made[epoch % len(made)] for epoch in range(epochs)]
    are_arrays = are_arrays or (data / "epoch_0.arrays").is_dir() or any(
        other.kind == "general" and other.args.pregenerated_data == args.pregenerated_data for other in earlier.works)
    work.unread = 0 if are_arrays else sum(made)
    work.length = args.max_seq_length
    _training(work, [data] * epochs)
    work.logs = math.ceil(work.steps / args.eval_step)
    work.saves = len(work.students) * work.logs  # as step_N_pytorch_model.bin
    if tokenizer := earlier.tokenizer(args.teacher_model):
        for instances, metrics in metrics_of.items():
            require_vocabulary(instances, metrics, tokenizer)
        other = earlier.tokenizer(maker.args.bert_model) if maker and maker.kind == "pregenerate" else tokenizer
        if other and other.vocab_fingerprint != tokenizer.vocab_fingerprint:
            raise InputError(f"{data} will have the vocabulary of {other.vocab_file}, the teacher has that of "
                             f"{tokenizer.vocab_file}: give both steps one model")


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
    task, files = work.task, work.files
    official, *of_dev = files.official
    work.dev_examples = sum(earlier.rows(folder / name, rows)
                            for name, rows in zip(task.dev_files, of_dev, strict=True))
    if not augmented:
        path = folder / task.train_file
        work.counts = [earlier.rows(path, official)]
        return path
    path = folder / task.aug_file
    maker = earlier.maker(path)
    if maker and maker.kind == "augment":  # not the download of the folder that it is in
        work.counts = [files.augmented(earlier.rows(folder / task.train_file, official), maker.args.N)]
        work.assumed.append(f"the most rows that augmentation can give: {path}")
    elif earlier.need(path).is_file():
        work.counts = [files.count(path)]
    else:
        work.counts = [files.augmented(official, 20)]
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
        dev = [earlier.rows(folder / name, rows) for name, rows in
               zip(task.dev_files, work.files.official[1:], strict=True)] if args.do_eval else []
        test = [earlier.rows(folder / one.file, one.rows, task.for_test(one)) for one in task.submissions
                if not one.is_beside or earlier.has(folder / one.file)] if args.do_predict else []  # as the script does
        if args.predict_file:
            test = [earlier.rows(Path(args.predict_file), 0, task.texts_alone)]
        work.dev_examples = sum(dev)
        work.counts, work.evaluations = [sum(dev) + sum(test)], 1
        work.length = earlier.length(folder / task.dev_files[0], 1)
        return
    work.kind = "prediction" if args.pred_distill else "intermediate"
    _teacher_and_students(work, earlier)
    path = _task_files(work, earlier, folder, args.aug_train)
    if unlabelled := task.unlabelled_in(folder):
        work.counts = [work.counts[0] + earlier.rows(unlabelled, task.unlabelled_rows, task.texts_alone)]
    work.counts *= math.ceil(args.num_train_epochs)
    if work.kind == "prediction" and keeps_answers(args, task.head) and not earlier.kept_answers():
        work.asked = work.examples
    _training(work, [path] * len(work.counts))
    if args.eval_step is None:  # as the script finds it, with lengths judged by words
        batch = args.train_batch_size * earlier.length(folder / task.train_file, args.train_batch_size)
        dev = work.dev_examples * earlier.length(folder / task.dev_files[0], 1)
        args.eval_step = scoring_interval(work.steps, round(batch), max(1, round(dev)))
    work.logs = math.ceil(work.steps / args.eval_step)
    work.evaluations = work.logs if args.pred_distill else 0
    work.saves = work.logs if args.pred_distill else len(work.students)
    padded = padding_counts(args, task.head) if args.pred_distill else not args.dynamic_padding
    work.length = args.max_seq_length if padded else earlier.length(folder / task.train_file, work.micro_batch)


def _teacher(work: Work, earlier: _Earlier) -> None:
    script = load_script(work.step.argv[0])
    with contextlib.redirect_stdout(io.StringIO()):
        tasks = script.asked_tasks(work.args)
    task = work.task = tasks[0]  # reproduce.sh asks for one at a time
    work.kind = "teacher"
    work.outputs = [str(script.teacher_folder(other, work.args)) for other in tasks]
    args = work.args = script.resolved(work.args, task)[0]
    own = Path(args.models_dir) / f"bert-base-uncased-{task.key}"
    args.model = args.model or str(own if own.is_dir() or earlier.maker(own) else own.with_name("bert-base-uncased"))
    work.students = earlier.config(args.model),
    folder = task_folder(args.glue_dir, task)
    path = _task_files(work, earlier, folder, False)
    work.counts *= args.num_train_epochs
    _training(work, [path] * len(work.counts))
    work.logs = work.saves = args.num_train_epochs
    work.evaluations = 1 + work.logs
    work.length = args.max_seq_length if task.head.sees_padding else earlier.length(path, work.micro_batch)


def _augment(work: Work, earlier: _Earlier) -> None:
    args = work.args
    with contextlib.redirect_stdout(io.StringIO()):
        task = work.task = open_task(args.task_name, args.glue_dir)
        args.N = load_script(work.step.argv[0]).resolve_copies(args, task)
    folder = task_folder(args.glue_dir, task)
    work.kind, work.outputs = "augment", [str(folder / f"{Path(task.aug_file).stem}.*")]
    work.teacher = earlier.config(args.pretrained_bert_model)
    if args.glove_embs:
        earlier.need(args.glove_embs)
    path = earlier.need(folder / task.train_file)
    count, work.words, assumed = work.files.to_augment(path)
    work.counts = [count]
    work.assumed += [f"{what}: {path}" for what in assumed]
    work.length = work.words / work.files.texts * work.language.pieces + 2
    if work.teacher.family is ELECTRA:
        raise no_masked_lm(args.pretrained_bert_model, work.teacher)


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
    if step.script == "-c":
        work.outputs = [step.argv[-1]]  # the file that is fetched, or unpacked
    elif step.script.startswith("-m wikiextractor"):
        work.outputs, dump = [step.argv[-1]], Path(step.argv[2])  # the folder after -o
        maker = earlier.maker(dump)
        if maker and maker.text_bytes:
            work.text_bytes = maker.text_bytes
        elif dump.suffix == ".xml" and dump.is_file():
            work.text_bytes = TEXT_OF_XML * dump.stat().st_size
        else:
            work.text_bytes = work.language.text * (dump.stat().st_size / work.language.dump if dump.is_file() else 1)
    elif step.script == "-m transformer.fetching.wikipedia":
        args = importlib.import_module(step.argv[1]).parse_args(list(step.argv[2:]))
        work.outputs = [str(args.output_file)]
        work.text_bytes = min(args.articles * work.language.first_article, work.language.text)
        work.assumed.append(f"{work.language.first_article:,} bytes of text in an article at the beginning of a dump: "
                            f"{args.output_file}")


_DESCRIBE = {"general_distill": _general, "pregenerate_training_data": _pregenerate, "task_distill": _task_distill,
             "finetune_teacher": _teacher, "data_augmentation": _augment,
             **dict.fromkeys(("download_glue", "get_bert_models", "prepare_data", "fix_teacher_layers"),
                             _fetched_or_split)}
