"""Files of predictions as the servers of GLUE and CLUE take them, and as plain tables for everybody else.

python -m transformer.tasks.submission zips GLUE's.
"""
from __future__ import annotations

import argparse
import json
import sys
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from transformer.cli import Parser, run_script
from transformer.files import InputError, atomic_write, find_folder, read_lines
from transformer.tasks.glue import GLUE
from transformer.tasks.task import CLUE_SERVER, GLUE_SERVER, NO_SERVER, Submission, Task

_ANEW = "make it anew, with task_distill.py --do_predict"
_SUBMISSION_HEADER = "index\tprediction"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, as given."""
    parser = Parser("Check the prediction files of one student and zip them for the GLUE server.")
    parser.add_argument("--results", nargs="+", required=True, metavar="DIR",
                        help="folders that hold NAME.tsv of task_distill.py --do_predict, at any depth")
    parser.add_argument("--output", type=Path, default=Path("submission.zip"), help="zip file to write")
    parser.add_argument("--any_rows", action="store_true",
                        help="take files whose number of rows is not the server's: for data that are not GLUE's")
    return parser.parse_args(argv)


def submission_text(task: Task, answers: Iterable[float]) -> str:
    """GLUE's file for answers of the task's head, as words; one row an answer."""
    rows = (f"{index}\t{task.head.word(answer)}" for index, answer in enumerate(answers))
    return "".join(f"{line}\n" for line in [_SUBMISSION_HEADER, *rows])


def clue_text(task: Task, answers: Iterable[float], ids: Sequence[str]) -> str:
    """The file for answers of the task's head to the rows with these ids, as words: a line of JSON each. An id that
    is a number stands there as one, as in CLUE's files."""
    rows = ({"id": int(name) if name.isdecimal() else name, "label": task.head.word(answer)}
            for name, answer in zip(ids, answers, strict=True))
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)


def answers_text(task: Task, logits: np.ndarray) -> str:
    """A plain table of what finite logits of the task's head say: its answer_lines(), tab-separated."""
    return "".join("\t".join(map(str, cells)) + "\n" for cells in task.head.answer_lines(logits))


def write_submission(folder: str | Path, task: Task, submission: Submission, logits: np.ndarray,
                     ids: Sequence[str]) -> None:
    """Write the file of a submission, of finite logits, into `folder`, and say how many rows it has and whether a
    server wants another number. ids: of the rows, in column 0 of the test set; GLUE's server goes by their order, and
    so does everybody."""
    path = Path(folder) / submission.answers_file
    texts = {GLUE_SERVER: lambda: submission_text(task, task.head.answers(logits)),
             CLUE_SERVER: lambda: clue_text(task, task.head.answers(logits), ids),
             NO_SERVER: lambda: answers_text(task, logits)}
    with atomic_write(path) as handle:
        handle.write(texts[submission.server]())
    wants = f"; the {submission.server} server wants {submission.rows}" \
        if submission.server and len(logits) != submission.rows else ""
    print(f"{path}: {len(logits)} predictions{wants}", flush=True)


def check_submission(path: Path, task: Task, submission: Submission, any_rows: bool = False) -> int:
    """Number of rows of a prediction file; InputError, naming the line, where the server would refuse it."""
    rows = -1
    for rows, line in enumerate(read_lines(path)):
        where = f"{path}, line {rows + 1}"
        if rows == 0:
            if line != _SUBMISSION_HEADER:
                raise InputError(f"{where}: {line!r}, expected the header {_SUBMISSION_HEADER!r}: {_ANEW}")
            continue
        index, _, word = line.partition("\t")
        if index != str(rows - 1):
            raise InputError(f"{where}: index {index!r}, expected {rows - 1}: {_ANEW}")
        if task.head.read_label(word) is None:
            raise InputError(f"{where}: prediction {word!r}, expected {task.head.expected}: {_ANEW}")
    if rows < 1 or rows != submission.rows and not any_rows:
        raise InputError(f"{path}: {max(rows, 0)} predictions, the GLUE server wants {submission.rows}: make it from "
                         "the official test set (--any_rows takes other data)")
    return rows


def main(argv: list[str] | None = None) -> None:
    """Check every file of predictions, fill in those that are missing, and write the zip file."""
    args = parse_args(argv)
    folders = [find_folder(folder) for folder in args.results]
    wanted = {submission.answers_file: (task, submission)
              for task in GLUE.values() for submission in task.submissions}
    texts = {}
    for name, (task, submission) in wanted.items():
        paths = list({path.resolve(): path for folder in folders for path in sorted(folder.rglob(name))}.values())
        if len(paths) > 1:
            raise InputError(f"{paths[0]} and {paths[1]}: --results may name the folders of one student only")
        for path in paths:
            rows = check_submission(path, task, submission, args.any_rows)
            texts[name] = path.read_text(encoding="utf-8")
            print(f"{name}: {rows} predictions of {path}", flush=True)
    if not texts:
        raise InputError(f"no predictions in {', '.join(args.results)}: task_distill.py --do_predict makes them")
    predicted = len(texts)
    for name in [name for name in wanted if name not in texts]:
        task, submission = wanted[name]
        texts[name] = submission_text(task, [0] * submission.rows)
        print(f"{name}: no predictions, so as in the server's sample: {submission.rows} rows that all say "
              f"{texts[name].split()[-1]}", flush=True)
    with atomic_write(args.output, "wb") as handle, zipfile.ZipFile(handle, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in texts.items():
            archive.writestr(name, text)
    print(f"{args.output}: {predicted} files of predictions, {len(texts) - predicted} in the sample's form", flush=True)


if __name__ == "__main__":
    sys.exit(run_script(main))
