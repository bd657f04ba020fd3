"""Get the GLUE data: official archives into glue_data/TASK/{train,dev,test}.tsv, every example counted and checked.

Without arguments RTE, SST-2, CoLA and MRPC. The addresses come from the environment variables GLUE_BASE and
SENTEVAL_BASE (MRPC's source texts), by default the official ones. A task folder that is there is only checked.
"""
from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from transformer.cli import Parser, add_run_flags, print_settings, run_script
from transformer.download import HOSTS, base_url, fetch, unzip
from transformer.files import InputError, atomic_write, find_input, read_lines
from transformer.glue import DIAGNOSTIC, TASKS, Task, get_task, parse_label, read_rows

# archives that are not called TASK.zip; None: the files are built here
ARCHIVES = {"MRPC": None, "QQP": "QQP-clean.zip", "QNLI": "QNLIv2.zip"}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; `tasks` comes back as official names in the order given, without repeats."""
    parser = Parser(__doc__.splitlines()[0])
    group = parser.add_argument_group("data")
    group.add_argument("--tasks", nargs="+", default=["RTE", "SST-2", "CoLA", "MRPC"], metavar="TASK",
                       help="GLUE tasks in any spelling, 'diagnostic' (AX, comes with MNLI), or 'all'")
    group.add_argument("--data_dir", type=Path, default=Path("glue_data"), help="folder that gets one folder per task")
    group.add_argument("--path_to_mrpc", type=Path,
                       help="folder holding msr_paraphrase_train.txt and msr_paraphrase_test.txt, instead of the web")
    add_run_flags(parser)
    args = parser.parse_args(argv)
    names = []
    for text in args.tasks:
        try:
            if text.lower() == "all":
                names += [task.name for task in TASKS.values()] + [DIAGNOSTIC]
            elif text.lower() in (DIAGNOSTIC, "ax"):
                names.append(DIAGNOSTIC)
            else:
                names.append(get_task(text).name)
                names += [DIAGNOSTIC] if names[-1] == "MNLI" else []
        except InputError as error:
            parser.error(f"{error}, {DIAGNOSTIC}, all")
    args.tasks = list(dict.fromkeys(names))
    if args.path_to_mrpc and "MRPC" not in args.tasks:
        parser.error("--path_to_mrpc is given, but MRPC is not among --tasks")
    return args


def unpack_task(task: Task, data_dir: Path) -> None:
    """Download and unpack the official archive of `task` so that data_dir/TASK appears whole or not at all."""
    archive = data_dir / ARCHIVES.get(task.name, f"{task.name}.zip")
    workplace = data_dir / f".{task.name}.unpacking"
    shutil.rmtree(workplace, ignore_errors=True)  # left by a run that was killed
    fetch(f"{base_url('GLUE_BASE')}/{archive.name}", archive)
    try:
        unzip(archive, workplace)
        if not (workplace / task.name).is_dir():
            raise InputError(f"{archive} holds no folder {task.name}; delete it and check GLUE_BASE")
        (workplace / task.name).rename(data_dir / task.name)
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
    archive.unlink()


def mrpc_rows(path: Path) -> Iterator[list[str]]:
    """Rows of a source text of MRPC after its header: label, first id, second id, first string, second string.

    Tolerates a byte-order mark, carriage returns and blank lines. Raises InputError for any other number of columns.
    """
    for number, line in enumerate(read_lines(path), 1):
        columns = line.strip().split("\t")
        if columns == [""]:
            continue
        if len(columns) != 5:
            raise InputError(f"{path}, line {number}: {len(columns)} columns, expected 5")
        if number > 1:
            yield columns


def build_mrpc(data_dir: Path, source_folder: Path | None) -> None:
    """Write data_dir/MRPC/{train,dev,test}.tsv from the two source texts of the Microsoft Research Paraphrase Corpus.

    A pair of the training text whose ids stand in mrpc_dev_ids.tsv belongs to dev, as in the official GLUE split.
    """
    workplace = data_dir / ".MRPC.unpacking"
    workplace.mkdir(exist_ok=True)
    files = [("SENTEVAL_BASE", "msr_paraphrase_train.txt"), ("SENTEVAL_BASE", "msr_paraphrase_test.txt"),
             ("GLUE_BASE", "mrpc_dev_ids.tsv")]
    for host, name in files:
        local = source_folder / name if source_folder else None
        if local and (host == "SENTEVAL_BASE" or local.is_file()):
            (workplace / name).unlink(missing_ok=True)  # the folder named now, not what an earlier run left
            fetch(local, workplace / name)
        else:
            fetch(f"{base_url(host)}/{name}", workplace / name)
    train_text, test_text, ids = (workplace / name for _, name in files)
    dev_ids = {tuple(line.split()) for line in read_lines(ids)}
    with atomic_write(workplace / "MRPC" / "train.tsv") as train, atomic_write(workplace / "MRPC" / "dev.tsv") as dev:
        for handle in (train, dev):
            handle.write("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n")
        for columns in mrpc_rows(train_text):
            (dev if (columns[1], columns[2]) in dev_ids else train).write("\t".join(columns) + "\n")
    with atomic_write(workplace / "MRPC" / "test.tsv") as test:
        test.write("index\t#1 ID\t#2 ID\t#1 String\t#2 String\n")
        for index, columns in enumerate(mrpc_rows(test_text)):
            test.write("\t".join([str(index), *columns[1:]]) + "\n")
    (workplace / "MRPC").rename(data_dir / "MRPC")
    shutil.rmtree(workplace)


def check_task(task: Task, data_dir: Path) -> None:
    """Read every labelled file of `task`, check each label, print the counts, and compare them with GLUE's.

    Other addresses than the official ones may serve other data: their counts are printed only.
    """
    official = all(base_url(variable) == HOSTS[variable] for variable in ("GLUE_BASE", "SENTEVAL_BASE"))
    counts = {}
    for name, published in zip(("train.tsv", *task.dev_files), task.rows):
        path = data_dir / task.name / name
        counts[name] = 0
        for number, columns in read_rows(task, path):
            parse_label(task, columns, f"{path}, line {number}")
            counts[name] += 1
        if official and counts[name] != published:
            raise InputError(f"{path} holds {counts[name]} examples, GLUE has {published}: "
                             f"delete {data_dir / task.name} and run again")
    print(f"{task.name}: " + ", ".join(f"{name} {count} examples" for name, count in counts.items()), flush=True)


def get_diagnostic(data_dir: Path) -> None:
    """Get the AX diagnostic set as data_dir/diagnostic/diagnostic.tsv (sentence pairs without labels)."""
    path = data_dir / DIAGNOSTIC / "diagnostic.tsv"
    if not path.is_file():
        path.parent.mkdir(exist_ok=True)
        fetch(f"{base_url('GLUE_BASE')}/AX.tsv", path)
    print(f"{DIAGNOSTIC}: {path.name} {sum(1 for _ in read_lines(path)) - 1} examples, no labels", flush=True)


def main(argv: list[str] | None = None) -> None:
    """Get and check each task in turn; a task that is done costs only its check."""
    args = parse_args(argv)
    print_settings(args)
    print(f"into {args.data_dir}: {', '.join(args.tasks)} (from {base_url('GLUE_BASE')})", flush=True)
    args.data_dir.mkdir(parents=True, exist_ok=True)
    for name in args.tasks:
        if name == DIAGNOSTIC:
            get_diagnostic(args.data_dir)
            continue
        task = get_task(name)
        if not (args.data_dir / name).is_dir():
            if name == "MRPC":
                build_mrpc(args.data_dir, args.path_to_mrpc and find_input(args.path_to_mrpc))
            else:
                unpack_task(task, args.data_dir)
        check_task(task, args.data_dir)


if __name__ == "__main__":
    sys.exit(run_script(main))
