"""Make a task of your own data: a CSV, TSV, JSON lines, Parquet or a saved dataset -> data/NAME/{train,dev}.tsv.

Beside them test.tsv and unlabelled.tsv, where there are such files, and task.json, by which the other scripts know the
task: the classes, or the range of scores, the metric, the length. Shows what there is to know of the rows first.
"""
from __future__ import annotations

import argparse
import codecs
import contextlib
import itertools
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from transformer.cli import Parser, add_run_flags, number, positive, print_settings, proportion, run_script
from transformer.data.foreign import DELIMITERS, ForeignTable, open_source, splits_of
from transformer.data.gathering import ClassNames, Rows, ScoreRange, gather, held_out
from transformer.data.showing import SHOWN_ROWS, show_rows, show_scale, shown, suggest_length
from transformer.files import InputError, atomic_write, find_model, naming, read_json, remove_abandoned, require_no_file
from transformer.kinds import kind_of
from transformer.tasks.head import CLASS_METRICS
from transformer.tasks.own import MIN_LENGTH, TASK_JSON, TEST_FILE, VERSION, is_task_name, own_task, write_task
from transformer.tasks.task import UNLABELLED_FILE, Task

if TYPE_CHECKING:
    from transformer.pieces import Tokenizer

LENGTH = 128  # wordpieces, where --bert_model does not tell how long the texts are
FILES = ("train.tsv", "dev.tsv", TEST_FILE, UNLABELLED_FILE)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__.splitlines()[0])
    group = parser.add_argument_group("data")
    group.add_argument("--train", type=Path, required=True, metavar="FILE",
                       help="CSV, TSV, JSON lines, Parquet, or a folder that datasets has saved: of several splits its "
                            "train, and validation and test where --dev and --test are not given")
    group.add_argument("--dev", type=Path, metavar="FILE", help="what scores the task (default: a share of --train)")
    group.add_argument("--test", type=Path, metavar="FILE",
                       help="with labels, to be scored, too; without, for task_distill.py --do_predict")
    group.add_argument("--unlabelled", type=Path, nargs="+", metavar="FILE",
                       help="more texts, which the teacher labels for the student")
    group.add_argument("--text", nargs="+", required=True, metavar="COLUMN", help="name of the column of the text, or "
                                                                                  "names of the two of a pair")
    group.add_argument("--label", required=True, metavar="COLUMN", help="name of the column of the label")
    group.add_argument("--delimiter", type=delimiter, metavar="MARK",
                       help=f"of a CSV: {', '.join(DELIMITERS)} or a character (default: the one of these by which the "
                            "named columns are found)")
    group.add_argument("--encoding", type=text_encoding, default="utf-8", help="of files of text, such as cp1252")
    group.add_argument("--output_dir", type=Path, required=True, help="folder to write; its name is the task's")
    group = parser.add_argument_group("task")
    group.add_argument("--regression", type=number, nargs="*", metavar="LIMIT",
                       help="labels are scores, from LOW to HIGH where two numbers follow, else as the data have it")
    group.add_argument("--metric", choices=(*CLASS_METRICS, "corr"),
                       help="dev score that chooses: accuracy, F1 of the second of two classes, mean F1 of all "
                            "classes, Matthews correlation; of scores corr alone (default: acc, or corr)")
    group.add_argument("--max_seq_length", type=positive,
                       help=f"longest sequence, in wordpieces (default: one that suits the rows, by --bert_model, or "
                            f"{LENGTH})")
    group.add_argument("--bert_model", metavar="FOLDER", help="model whose wordpieces are counted, such as the teacher")
    group.add_argument("--dev_share", type=proportion, default=0.1,
                       help="without --dev: share of the texts of each class that becomes the dev set")
    group.add_argument("--drop_leaks", action="store_true",
                       help="take rows whose texts are in the dev or test set, too, out of train and unlabelled")
    add_run_flags(parser)
    args = parser.parse_args(argv)
    check_flags(parser, argv, args)
    return args


def check_flags(parser: Parser, argv: list[str] | None, args: argparse.Namespace) -> None:
    """End as Parser.error() does where flags contradict each other."""
    columns = [*args.text, args.label]
    if len(args.text) > 2:
        parser.error(f"--text names {len(args.text)} columns: a BERT reads one text, or a pair")
    if len(set(columns)) < len(columns):
        parser.error("--text and --label name one column twice")
    if args.dev or {"train", "validation"} <= splits_of(args.train).keys():
        there = "--dev is given: drop one of them" if args.dev else "its validation is the dev set: drop the flag"
        parser.refuse(argv, f"is for splitting --train, and {there}", "dev_share")
    if (args.max_seq_length or MIN_LENGTH) < MIN_LENGTH:
        parser.error(f"--max_seq_length {args.max_seq_length} is too short: take {MIN_LENGTH} or more")
    if not 0 < args.dev_share < 1:
        parser.error("--dev_share leaves nothing on one side: give a share between 0 and 1")
    limits = args.regression
    if limits and (len(limits) != 2 or limits[0] >= limits[1]):
        parser.error("--regression takes no number, or the lowest and the highest score")
    if args.metric and (args.metric in CLASS_METRICS) != (limits is None):
        parser.error(f"--metric {args.metric} is for {'scores: add' if limits is None else 'classes: drop'} "
                     "--regression, or take another")
    args.metric = args.metric or ("acc" if limits is None else "corr")


def delimiter(text: str) -> str:
    """Type of a flag: a character, or its name."""
    mark = DELIMITERS.get(text, "\t" if text == "\\t" else text)
    if len(mark) != 1 or mark in '"\r\n':
        raise argparse.ArgumentTypeError(f"{text!r} is none: give {', '.join(DELIMITERS)} or one character")
    return mark


def text_encoding(text: str) -> str:
    """Type of a flag: the name of an encoding that Python knows."""
    try:
        "".encode(text)
        return codecs.lookup(text).name
    except (LookupError, UnicodeError):
        raise argparse.ArgumentTypeError(f"{text!r} is unknown: give one such as utf-8, cp1252 or gb18030") from None


def task_of(args: argparse.Namespace, length: int, answers: dict[str, Any], rows: dict[str, int],
            **more: bool) -> Task:
    """The task, as task.json will describe it; InputError where it may not be called or be so."""
    folder = args.output_dir.resolve()
    return own_task({"version": VERSION, "name": folder.name, **answers, "metric": args.metric, "texts": len(args.text),
                     "max_seq_length": length, "rows": rows, **more}, args.output_dir)


def check_place(args: argparse.Namespace) -> None:
    """InputError where the folder cannot be the task's, or holds more than prepare_task.py has written there."""
    if not is_task_name(name := args.output_dir.resolve().name):
        raise InputError(f"--output_dir {args.output_dir}: its last part is the task's name, and {name!r} is none: "
                         "take letters, digits, _ and -")
    any_head = {"kind": "classes", "labels": ["no", "yes"]} if args.regression is None else \
        {"kind": "score", "range": [0, 1]}
    task_of(args, args.max_seq_length or LENGTH, any_head, {"train.tsv": 1, "dev.tsv": 1})
    require_no_file(args.output_dir)
    for name in (*FILES, TASK_JSON):
        remove_abandoned(args.output_dir, name)
    found = {path.name for path in args.output_dir.iterdir()} if args.output_dir.is_dir() else set()
    others = sorted(found - {TASK_JSON, *FILES}) if TASK_JSON in found else sorted(found)
    if others:
        raise InputError(f"{args.output_dir} holds {', '.join(others[:3])}{', ...' * (len(others) > 3)}: name a new "
                         "folder, or delete this one")


def open_sources(args: argparse.Namespace) -> dict[str, list[ForeignTable]]:
    """The tables of each file that is to be written; InputError where one is not there, or lacks a column."""
    splits = splits_of(args.train)
    if "train" in splits:
        args.train, args.dev = splits["train"], args.dev or splits.get("validation")
        args.test = args.test or splits.get("test")
    given = zip(FILES, ([args.train], [args.dev], [args.test], args.unlabelled or []))
    sources = {}
    for name, paths in given:
        label = [args.label] if name != UNLABELLED_FILE else []
        wanted = [*args.text, *label] if name != TEST_FILE else args.text
        sources[name] = [open_source(path, wanted, args.encoding, args.delimiter, label) for path in paths if path]
        for source in sources[name]:
            if args.output_dir.resolve() in source.path.resolve().parents:
                raise InputError(f"{source.path} stands in --output_dir, where it would be written over: name another")
            print(f"{name}: from {source.path} ({source.note})", flush=True)
    tables = [source for of_name in sources.values() for source in of_name]
    if args.delimiter and not any(source.has_delimiter for source in tables):
        raise InputError("--delimiter is for CSV, and none of the files is one: drop it")
    if args.encoding != "utf-8" and not any(source.has_encoding for source in tables):
        raise InputError("--encoding is for files of text, and none of the files is one: drop it")
    return sources


def read_sources(args: argparse.Namespace, sources: dict[str, list[ForeignTable]], reader: ClassNames | ScoreRange,
                 stack: contextlib.ExitStack) -> dict[str, Rows]:
    """The rows of each file, of those that are there; of train and dev those with a label."""
    place = next(folder for folder in (args.output_dir, *args.output_dir.parents) if folder.is_dir())
    tables = {}
    for name, of_name in sources.items():
        if not of_name:
            continue
        has_label = name != UNLABELLED_FILE and args.label in of_name[0].names
        file = stack.enter_context(tempfile.TemporaryFile(dir=place))
        rows = gather(of_name, args.text, args.label if has_label else None, reader, file, args.seed)
        kept, what = np.ones(len(rows), bool), "a label"
        if name in ("train.tsv", "dev.tsv"):
            kept = rows.labelled
        elif name == UNLABELLED_FILE:
            kept, what = ~rows.empty, "text"
        elif rows.labelled.any() and not rows.labelled.all():
            raise InputError(f"{of_name[0].path}: {np.sum(~rows.labelled):,} rows without a label and "
                             f"{np.sum(rows.labelled):,} with one: take either out, so that it is to be scored, or to "
                             "be answered")
        if not kept.all():
            print(f"{name}: left out {np.sum(~kept):,} rows without {what}", flush=True)
        tables[name] = rows.only(kept)
        if not kept.any():
            raise InputError(f"{of_name[0].path} holds no rows{' with ' + what if len(rows) else ''}")
        if name == "train.tsv":
            reader.settle(tables[name], args.label)
            if args.metric == "f1" and len(reader.numbers) > 2:
                raise InputError(f"--metric f1 is for two classes, and {args.train} has {len(reader.numbers)}: take "
                                 "macro_f1")
    return tables


def split_dev(args: argparse.Namespace, tables: dict[str, Rows], names: ClassNames | None) -> None:
    """Make a dev set of a part of train where there is none; InputError where nothing of a class would be left."""
    if "dev.tsv" in tables:
        return
    train = tables["train.tsv"]
    held = held_out(train, args.dev_share)
    if not held.any():
        raise InputError(f"{args.train}: no class has two different texts, of which one could be held out: name a file "
                         "with --dev")
    lost = np.setdiff1d(train.labels, train.labels[~held])
    if names and len(lost):
        raise InputError(f"{args.train}: each text of class {list(names.numbers)[lost[0]]!r} has another label in "
                         "another row, and all went to the dev set with these: mend the labels, take another --seed, "
                         "or name a file with --dev")
    tables |= {"train.tsv": train.only(~held), "dev.tsv": train.only(held)}
    print(f"dev.tsv: {np.sum(held):,} rows of {args.train}, {args.dev_share:g} of the texts of each "
          f"{'class' if args.regression is None else 'tenth of the range'}, by --seed {args.seed}", flush=True)


def treat_leaks(args: argparse.Namespace, tables: dict[str, Rows]) -> None:
    """Tell which rows of train and unlabelled are in dev or test, too, and with --drop_leaks take them out; and which
    of dev are in test."""
    learned = ("train.tsv", UNLABELLED_FILE)
    for name, other in (*itertools.product(learned, ("dev.tsv", TEST_FILE)), ("dev.tsv", TEST_FILE)):
        if name not in tables or other not in tables:
            continue
        rows = tables[name]
        leaked = np.isin(rows.texts, tables[other].texts)
        if not leaked.any():
            continue
        drops = args.drop_leaks and name in learned
        print(f"{name}: {np.sum(leaked):,} rows are in {other}, too" + (
            ": taken out" if drops else ", which makes its scores too good: --drop_leaks takes them out"
            if name in learned else ", and stay in both: dev chooses the checkpoint that test scores"), flush=True)
        for cells in rows.examples(leaked, SHOWN_ROWS):
            print(f"  {shown(cells)}", flush=True)
        if drops:
            tables[name] = rows.only(~leaked)
            if leaked.all():
                raise InputError(f"--drop_leaks leaves no row of {name}")


def open_model(args: argparse.Namespace) -> tuple[Tokenizer, int] | None:
    """The tokenizer of --bert_model, and the longest sequence that it takes; InputError where that is too short."""
    if not args.bert_model:
        return None
    from transformer.tokenization import open_tokenizer
    folder = find_model(args.bert_model)
    if what := kind_of(folder):
        raise InputError(f"{folder} {what}")
    positions = read_json(folder / "config.json").get("max_position_embeddings", 512)
    if not isinstance(positions, int) or (args.max_seq_length or 0) > positions:
        raise InputError(f"--max_seq_length {args.max_seq_length} is over the {positions} positions of {folder}")
    return open_tokenizer(folder), positions


def write_files(args: argparse.Namespace, tables: dict[str, Rows], task: Task) -> None:
    """Write the tables and, last, task.json: none is there before all are whole."""
    label, _, texts = task.header.partition(",")
    with contextlib.ExitStack() as stack:
        for name, rows in tables.items():
            with_label = name in ("train.tsv", *task.dev_files)
            file = stack.enter_context(atomic_write(args.output_dir / name, "wb"))
            header = f"{label},{texts}" if with_label else texts
            file.write(header.replace(",", "\t").encode() + b"\n")
            # an empty line at the end would be no row
            file.writelines(line if line != b"\n" else b" \n" for line in rows.lines(with_label))
        (args.output_dir / TASK_JSON).unlink(missing_ok=True)
    for name in set(FILES) - set(tables):
        (args.output_dir / name).unlink(missing_ok=True)
    write_task(args.output_dir, task, {"settings": {name: str(value) for name, value in vars(args).items()}})


def main(argv: list[str] | None = None) -> None:
    """Read, show and write the task."""
    args = parse_args(argv)
    print_settings(args)
    check_place(args)
    model = open_model(args)
    sources = open_sources(args)
    names = ClassNames(sources["train.tsv"][0].classes.get(args.label, ())) if args.regression is None else None
    reader = names or ScoreRange(*args.regression)
    with contextlib.ExitStack() as stack, naming(args.output_dir):
        tables = read_sources(args, sources, reader, stack)
        split_dev(args, tables, names)
        treat_leaks(args, tables)
        show_rows(tables, names, args.metric)
        length = suggest_length(tables["train.tsv"], *model, args.max_seq_length) if model else \
            args.max_seq_length or LENGTH
        counts = {name: len(rows) for name, rows in tables.items()}
        test = {"test_has_labels": bool(tables[TEST_FILE].labelled.any())} if TEST_FILE in tables else {}
        answers = reader.described(tables.values())
        show_scale(answers)
        task = task_of(args, length, answers, counts, **test)
        write_files(args, tables, task)
    print(f"{args.output_dir}: the task {task.name}: " + ", ".join(f"{count:,} rows in {name}" for name, count in
                                                                   counts.items()), flush=True)


if __name__ == "__main__":
    sys.exit(run_script(main))
