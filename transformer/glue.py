"""The nine GLUE tasks as one table, and what every script asks of it: rows of a file, labels, metrics."""
from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from transformer.files import InputError, read_lines
from transformer.parts import Part, Place, decode_lines, read_range

UNTRAINED = "untrained_classifier"  # key of config.json
DIAGNOSTIC = "diagnostic"  # folder of the AX set beside the tasks' folders: a test set for models of MNLI


@dataclass(frozen=True)
class Submission:
    """One file NAME.tsv of a submission to the GLUE server, and the test set it answers: a header, no labels."""
    name: str
    rows: int                      # of the test set, as the server counts them
    text_columns: tuple[int, ...]
    header: str                    # of the test set, see Task
    file: str = "test.tsv"         # in the task's folder


@dataclass(frozen=True)
class Task:
    """One GLUE task: where its texts and labels stand in the TSV files, how it is scored, and the paper's settings.

    Columns are 0-based; -1 is the last one. `labels` is in class order, None for a regression. `metric` is the
    score that picks the best checkpoint, one of the keys that compute_metrics() returns. `header`: the official names
    of the columns of train.tsv, with commas between them, also where the file itself has no header.
    """
    name: str                          # folder under glue_dir, as in the official archives
    text_columns: tuple[int, ...]      # of train.tsv and the dev files
    label_column: int | None           # None: no labels, see for_test()
    train_columns: int = field(init=False)  # number of columns in train.tsv
    labels: tuple[str, ...] | None
    metric: str
    # not in the name of encoded files, in which nothing follows from these
    submissions: tuple[Submission, ...] = field(repr=False)
    rows: tuple[int, ...] = field(repr=False)  # examples of the official train.tsv and of each dev file
    header: str = field(repr=False)
    dev_header: str | None = field(default=None, repr=False)  # where it is not that of train.tsv
    has_header: bool = True
    dev_files: tuple[str, ...] = ("dev.tsv",)
    intermediate_epochs: int = 20      # paper, section 4.2
    max_seq_length: int = 128          # paper: 64 for single sentences, 128 for pairs
    augment_copies_in_code: int | None = 30  # published code's N; the paper uses 20 everywhere; None: not augmented
    # false: no BERT is above chance_level() on the dev set, whose sentences stand in train.tsv with the other label
    beats_chance: bool = field(default=True, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "train_columns", self.header.count(",") + 1)

    @property
    def key(self) -> str:
        """The name in the file names of this kit: lower case without hyphens."""
        return self.name.lower().replace("-", "")

    @property
    def is_regression(self) -> bool:
        """Whether the labels are scores: STS-B."""
        return self.labels is None

    @property
    def num_labels(self) -> int:
        """Width of the classifier: 1 for a regression."""
        return 1 if self.labels is None else len(self.labels)

    def for_test(self, submission: Submission) -> Task:
        """This task as the test set of `submission` is laid out: a row's label reads as NaN."""
        return replace(self, text_columns=submission.text_columns, label_column=None, header=submission.header,
                       dev_header=None, has_header=True)


_MNLI = ("index,promptID,pairID,genre,sentence1_binary_parse,sentence2_binary_parse,sentence1_parse,sentence2_parse,"
         "sentence1,sentence2")
_STSB = "index,genre,filename,year,old_index,source1,source2,sentence1,sentence2"
_PAIR = "index,sentence1,sentence2"

TASKS = {task.key: task for task in (
    Task("CoLA", (3,), 1, ("0", "1"), "mcc", (Submission("CoLA", 1063, (1,), "index,sentence"),), (8551, 1043),
         "source,label,mark,sentence", has_header=False, intermediate_epochs=50, max_seq_length=64),
    Task("SST-2", (0,), 1, ("0", "1"), "acc", (Submission("SST-2", 1821, (1,), "index,sentence"),), (67349, 872),
         "sentence,label", max_seq_length=64, augment_copies_in_code=20),
    Task("MRPC", (3, 4), 0, ("0", "1"), "acc",
         (Submission("MRPC", 1725, (3, 4), "index,#1 ID,#2 ID,#1 String,#2 String"),), (3668, 408),
         "Quality,#1 ID,#2 ID,#1 String,#2 String"),
    Task("STS-B", (7, 8), -1, None, "corr", (Submission("STS-B", 1379, (7, 8), _STSB),), (5749, 1500),
         f"{_STSB},score"),
    Task("QQP", (3, 4), 5, ("0", "1"), "acc", (Submission("QQP", 390965, (1, 2), "id,question1,question2"),),
         (363846, 40430), "id,qid1,qid2,question1,question2,is_duplicate", intermediate_epochs=10,
         augment_copies_in_code=10),
    Task("MNLI", (8, 9), -1, ("contradiction", "entailment", "neutral"), "acc",
         (Submission("MNLI-m", 9796, (8, 9), _MNLI, "test_matched.tsv"),
          Submission("MNLI-mm", 9847, (8, 9), _MNLI, "test_mismatched.tsv"),
          Submission("AX", 1104, (1, 2), _PAIR, f"../{DIAGNOSTIC}/diagnostic.tsv")), (392702, 9815, 9832),
         f"{_MNLI},label1,gold_label", f"{_MNLI},label1,label2,label3,label4,label5,gold_label",
         dev_files=("dev_matched.tsv", "dev_mismatched.tsv"), intermediate_epochs=10, augment_copies_in_code=10),
    Task("QNLI", (1, 2), -1, ("entailment", "not_entailment"), "acc",
         (Submission("QNLI", 5463, (1, 2), "index,question,sentence"),), (104743, 5463),
         "index,question,sentence,label", intermediate_epochs=10, augment_copies_in_code=20),
    Task("RTE", (1, 2), -1, ("entailment", "not_entailment"), "acc", (Submission("RTE", 3000, (1, 2), _PAIR),),
         (2490, 277), f"{_PAIR},label"),
    Task("WNLI", (1, 2), -1, ("0", "1"), "acc", (Submission("WNLI", 146, (1, 2), _PAIR),), (635, 71),
         f"{_PAIR},label", augment_copies_in_code=None, beats_chance=False),
)}


def get_task(name: str) -> Task:
    """The task called `name` in any case, with or without the hyphen; mnli-mm is MNLI. InputError lists the known."""
    key = name.lower().replace("-", "").replace("_", "")
    key = {"mnlimm": "mnli", "mnlim": "mnli", "sst": "sst2", "sts": "stsb"}.get(key, key)
    if key not in TASKS:
        raise InputError(f"unknown task {name!r}; known tasks: {', '.join(task.name for task in TASKS.values())}")
    return TASKS[key]


def task_folder(glue_dir: str | Path, task: Task) -> Path:
    """The task's folder: `glue_dir`/NAME, or `glue_dir` itself where that is the task's folder."""
    inside = Path(glue_dir) / task.name
    return Path(glue_dir) if not inside.is_dir() and Path(glue_dir).name == task.name else inside


def data_folder(data_dir: str | Path, task: Task) -> Path:
    """`data_dir`, which holds the task's files whatever its name; `data_dir`/NAME where they are there, said aloud."""
    data_dir, inside = Path(data_dir), Path(data_dir) / task.name
    if not inside.is_dir() or (data_dir / "train.tsv").exists():
        return data_dir
    print(f"{data_dir} holds the folder of {task.name}: taking {inside}", flush=True)
    return inside


def row_width(task: Task, path: str | Path) -> int:
    """Columns of a row of a TSV file: as many as its header has, since dev files of MNLI have more than train.tsv,
    or as train.tsv has where the task has no header. InputError: no such file; a header too short, too long, damaged,
    or of another task; an example in its place, or a header where the task has none."""
    path = Path(path)
    if not path.is_file():
        place = f" --data_dir {path.parent.parent}" if path.parent.name == task.name else ""
        raise InputError(f"{path} does not exist: name the folder that holds it, or make it with "
                         f"`python download_glue.py --tasks {task.name}{place}`")
    first = next(read_lines(path), None)
    if first is None:
        return task.train_columns
    where = f"{path}, line 1"
    _refuse_nul(first, task, where)
    columns = first.split("\t", 2 * task.train_columns)  # at most: no list of a million columns is made
    if not task.has_header:
        _refuse_header(task, columns, where)
        return task.train_columns
    if not task.train_columns <= len(columns) <= 2 * task.train_columns:
        raise InputError(f"{where}: {first.count(chr(9)) + 1} columns, expected the {task.train_columns} of "
                         f"{task.name}")
    _check_header(task, columns, where)
    return len(columns)


def _is_label(task: Task, columns: Sequence[str]) -> bool:
    try:
        return not math.isnan(parse_label(task, columns, ""))
    except InputError:
        return False


def _files_with_header(names: str) -> list[tuple[Task, str]]:
    """GLUE's files whose official header is `names`: the task as such a file is laid out, and what to call the file."""
    files = [(header, task, task.name) for task in TASKS.values() if task.has_header
             for header in (task.header, task.dev_header)]
    files += [(submission.header, task.for_test(submission), f"{submission.name}'s test set")
              for task in TASKS.values() for submission in task.submissions]
    return [(task, name) for header, task, name in files if header == names]


def _refuse_header(task: Task, columns: Sequence[str], where: str) -> None:
    """InputError where the first line of a file without header is one."""
    others = " or ".join(name for _, name in _files_with_header(",".join(columns)))
    if others or len(columns) == task.train_columns and not _is_label(task, columns):
        what = f"the header of {others}" if others else f"{columns[task.label_column]!r} in the place of the label"
        raise InputError(f"{where}: {what}. The train and dev files of {task.name} have no header: remove the line if "
                         f"the rest of the file is {task.name}'s")


@functools.cache  # a file that is read again is not reported again
def _report_header(where: str, names: str, task: str) -> None:
    print(f"{where}: taken as the header, though its names are not those of {task}: {names[:200]}", flush=True)


def _check_header(task: Task, columns: Sequence[str], where: str) -> None:
    """InputError where a first line is no header, or the official one of a file with other columns; said where its
    names are nobody's."""
    names = ",".join(columns)
    wanted = next((header for header in (task.dev_header, task.header)
                   if header and header.count(",") == names.count(",")), task.header)
    if _is_label(task, columns) or columns[0].isdecimal():  # an index or an id, which also test sets have
        raise InputError(f"{where}: an example, not a header: it would be lost. Put the header above it, with tabs "
                         f"for the commas: {wanted}")
    found = _files_with_header(names)
    if not found:
        _report_header(where, " ".join(columns), task.name)
    elif not any(other.name == task.name and (other.text_columns == task.text_columns if task.label_column is None
                                              else other.label_column is not None) for other, _ in found):
        own = f"{task.name}'s test set" if task.label_column is None else task.name
        raise InputError(f"{where}: the header of {' or '.join(name for _, name in found)}, expected that of "
                         f"{own}: {wanted}")


def _refuse_nul(line: str, task: Task, where: object) -> None:
    if "\0" in line:
        raise InputError(f"{where}: holds a NUL: the file is damaged, get it again ({task.name})")


def split_row(task: Task, line: str, width: int, where: object) -> list[str] | None:
    """The `width` columns of a line, tab-separated without quoting: a `"` is a character.

    QQP's official labelled files hold some rows with too few, to be skipped: None. Anywhere else such a row is an
    InputError, in which `where` (file, line) stands; so is a NUL, the mark of a damaged file.
    """
    _refuse_nul(line, task, where)
    found = line.count("\t") + 1  # counted first: no list of a million columns is made
    if found == width:
        return line.split("\t")
    if found < width and task.name == "QQP" and task.label_column is not None:
        return None
    raise InputError(f"{where}: {found} columns, expected {width} ({task.name})")


@functools.cache  # a file that is read again is not reported again
def report_rows(path: str, examples: int, skipped: int, width: int) -> None:
    """Say how many rows were skipped; InputError where there are no others."""
    if skipped:
        print(f"{path}: skipped {skipped} rows with fewer than {width} columns", flush=True)
    if not examples:
        raise InputError(f"{path} holds no examples")


def table_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """(number, line) of the lines of a file; an empty last one is passed over."""
    for number, (line, following) in enumerate(itertools.pairwise(itertools.chain(read_lines(path), (None,))), 1):
        if line or following is not None:
            yield number, line


def read_rows(task: Task, path: str | Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, columns) of a TSV file of `task`, its header left out; see split_row()."""
    width = row_width(task, path)
    skipped = rows = 0
    for number, line in table_lines(path):
        if number == 1 and task.has_header:
            continue
        columns = split_row(task, line, width, f"{path}, line {number}")
        if columns is None:
            skipped += 1
            continue
        rows += 1
        yield number, columns
    report_rows(str(path), rows, skipped, width)


def parse_label(task: Task, columns: Sequence[str], where: object) -> float:
    """The label of a row: class number, or the score of a regression; NaN of a test set. `where` (file, line) goes into
    the InputError."""
    if task.label_column is None:
        return math.nan
    text = columns[task.label_column]
    if task.labels is None:
        try:
            score = float(text)
        except ValueError:
            score = math.nan
        if not 0 <= score <= 5:
            raise InputError(f"{where}: score {text!r}, expected a number from 0 to 5 ({task.name})")
        return score
    if text not in task.labels:
        raise InputError(f"{where}: unknown label {text!r}, expected one of {', '.join(task.labels)} ({task.name})")
    return task.labels.index(text)


def rows_of_part(task: Task, part: Part, width: int) -> Iterator[tuple[list[str] | None, float]]:
    """The columns and the label of each row in a part of a TSV file, its header and an empty last line left out; None
    for a row that is skipped. InputError as split_row() and parse_label()."""
    path, start, stop = part
    where = Place(path, start)
    lines = decode_lines(path, start, read_range(path, start, stop))
    if lines and not lines[-1] and stop == Path(path).stat().st_size:
        lines.pop()
    header = int(start == 0 and task.has_header)
    for where.index, line in enumerate(lines[header:], header):
        columns = split_row(task, line, width, where)
        yield columns, math.nan if columns is None else parse_label(task, columns, where)


def compute_metrics(task: Task, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Scores of the task as GLUE defines them, each a fraction (or a coefficient from -1 to 1).

    predictions, labels: [examples], class numbers, or scores for a regression. Accuracy `acc`; with F1 of class 1
    and their mean for MRPC and QQP; Matthews correlation `mcc` for CoLA; `pearson`, `spearmanr` and their mean
    `corr` for STS-B. Where a score is undefined it is 0: a correlation of constants, F1 without a 1 anywhere. NaN among
    the scores makes a correlation NaN.
    """
    if task.metric == "corr":
        from scipy.stats import pearsonr, spearmanr
        if np.ptp(predictions) == 0 or np.ptp(labels) == 0:
            return {"pearson": 0.0, "spearmanr": 0.0, "corr": 0.0}
        pearson, spearman = float(pearsonr(predictions, labels)[0]), float(spearmanr(predictions, labels)[0])
        return {"pearson": pearson, "spearmanr": spearman, "corr": (pearson + spearman) / 2}
    if task.metric == "mcc":
        from sklearn.metrics import matthews_corrcoef
        return {"mcc": float(matthews_corrcoef(labels, predictions))}
    accuracy = float(np.mean(predictions == labels))
    if task.name not in ("MRPC", "QQP"):
        return {"acc": accuracy}
    from sklearn.metrics import f1_score
    f1 = float(f1_score(labels, predictions, zero_division=0))
    return {"acc": accuracy, "f1": f1, "acc_and_f1": (accuracy + f1) / 2}


def chance_level(task: Task, labels: np.ndarray) -> tuple[float, float]:
    """Score (of task.metric) that a model reaches without reading, and its standard error on so many examples.

    The majority class's share for an accuracy, 0 for a coefficient.
    """
    if task.metric != "acc":
        return 0.0, 1 / math.sqrt(len(labels))
    share = float(np.bincount(labels.astype(int)).max() / len(labels))
    return share, math.sqrt(share * (1 - share) / len(labels))


def name_labels(extra: dict[str, Any], task: Task, trained: bool = True) -> None:
    """Record the task's classes in a config's `extra` keys, as Hugging Face does: id2label, label2id, problem_type.

    trained: whether the classifier is trained, or is about to be; where it is not, the key UNTRAINED says so.
    """
    labels = task.labels or ("score",)
    extra.pop(UNTRAINED, None)
    if not trained:
        extra[UNTRAINED] = True
    extra.update(id2label={str(i): label for i, label in enumerate(labels)},
                 label2id={label: i for i, label in enumerate(labels)},
                 problem_type="regression" if task.is_regression else "single_label_classification",
                 finetuning_task=task.name)


def class_order(extra: dict[str, Any], task: Task, folder: str | Path) -> list[int]:
    """For each class of the task, the model's column for it, read from `id2label` in a config's `extra` keys.

    MNLI models of different origin order their classes differently. Where id2label does not name the task's labels
    (LABEL_0, ...), the columns are taken in the task's order. Raises InputError where it names some of them only.
    """
    id2label = extra.get("id2label") or {}
    if not isinstance(id2label, dict) or sorted(map(str, id2label)) != sorted(map(str, range(len(id2label)))):
        raise InputError(f"{folder}/config.json: id2label is no table of columns from 0 on: {id2label}")
    named = {str(label).lower(): int(column) for column, label in id2label.items()}
    labels = [label.lower() for label in task.labels or ()]
    known = [label in named for label in labels]
    if not any(known):
        return list(range(task.num_labels))
    if not all(known) or len(named) != len(labels):
        raise InputError(f"{folder}/config.json: id2label {sorted(named)} does not fit the labels of {task.name}, "
                         f"{sorted(labels)}")
    return [named[label] for label in labels]
