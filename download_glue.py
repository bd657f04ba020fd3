"""Get the data of GLUE, SQuAD and CLUE: official files into glue_data/TASK, every example counted and checked.

The tasks of GLUE and the Chinese ones become {train,dev,test}.tsv, SQuAD stays as published. Without arguments RTE,
SST-2, CoLA and MRPC. The addresses are the official ones, or those of the environment variables GLUE_BASE,
SENTEVAL_BASE (MRPC's source texts), SQUAD_BASE, CLUE_BASE, OCNLI_BASE, CHNSENTICORP_BASE and XNLI_BASE, or --mirror's.
A task folder that is there is only checked.
"""
from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from transformer.cli import Parser, add_run_flags, print_settings, run_script
from transformer.data.tables import read_rows, row_width, table_lines
from transformer.fetching.download import Missing, add_source_flags, fetch, missing_error, unzip
from transformer.fetching.sources import HOSTS, KNOWN_FILES, OCNLI_ARCHIVE, base_url
from transformer.fetching.transport import local_path
from transformer.files import (
    InputError,
    atomic_write,
    find_folder,
    find_input,
    locked,
    naming,
    read_lines,
    require_no_file,
    workplace,
)
from transformer.tasks.clue import CLUE
from transformer.tasks.clue_files import wanted_files, write_tables
from transformer.tasks.glue import DIAGNOSTIC, GLUE
from transformer.tasks.labels import parse_label
from transformer.tasks.squad import read_passages
from transformer.tasks.table import SQUAD, get_task
from transformer.tasks.task import Task

DEV_IDS = "mrpc_dev_ids.tsv"
MRPC_TEXTS = ("msr_paraphrase_train.txt", "msr_paraphrase_test.txt")
ALTERED = ("rows were lost, merged or added when it was copied or opened in another program (a quotation mark there is "
           "a character); get it again")  # of a source text of MRPC
MRPC_HEADER = "#1 ID\t#2 ID\t#1 String\t#2 String\n"  # of the task's files, after their first column

# task -> what to download: the archive, or the files from which the task is built here
TASK_FILES = {"CoLA": ("CoLA.zip",), "SST-2": ("SST-2.zip",), "MRPC": (*MRPC_TEXTS, DEV_IDS),
              "STS-B": ("STS-B.zip",), "QQP": ("QQP-clean.zip",), "MNLI": ("MNLI.zip",), "QNLI": ("QNLIv2.zip",),
              "RTE": ("RTE.zip",), "WNLI": ("WNLI.zip",), DIAGNOSTIC: ("AX.tsv",)}
GLUE_TASKS = tuple(TASK_FILES)
SQUAD_FILES = {task.name: (task.train_file, *task.dev_files) for task in SQUAD.values()}
CLUE_FILES = {**{name: (f"{name.lower()}_public.zip",) for name in ("AFQMC", "TNEWS", "IFLYTEK")},
              "CMNLI": ("cmnli_public.zip", "clue_diagnostics_public.zip"), "OCNLI": (OCNLI_ARCHIVE,),
              **{name: (f"{name.lower()}_public.zip",) for name in ("CSL", "CLUEWSC2020")},
              "ChnSentiCorp": ("chnsenticorp.zip",), "XNLI-zh": ("XNLI-MT-1.0.zip", "XNLI-1.0.zip")}
TASK_FILES |= SQUAD_FILES | CLUE_FILES
HOSTS_OF_FILES = {**dict.fromkeys(MRPC_TEXTS, "SENTEVAL_BASE"), OCNLI_ARCHIVE: "OCNLI_BASE",
                  "chnsenticorp.zip": "CHNSENTICORP_BASE", **dict.fromkeys(CLUE_FILES["XNLI-zh"], "XNLI_BASE")}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; `tasks` comes back as official names in the order given, without repeats."""
    parser = Parser(__doc__.splitlines()[0])
    group = parser.add_argument_group("data")
    group.add_argument("--tasks", nargs="+", default=["RTE", "SST-2", "CoLA", "MRPC"], metavar="TASK",
                       help="GLUE tasks in any spelling, 'diagnostic' (AX, comes with MNLI), or 'all' of these; "
                            "squad1, squad2; 'clue' (all that CLUE's server scores) or some of "
                            f"{', '.join(CLUE_FILES)}")
    group.add_argument("--data_dir", type=Path, default=Path("glue_data"), help="folder that gets one folder per task")
    group.add_argument("--path_to_mrpc", type=Path, metavar="FOLDER",
                       help=f"folder that holds {' and '.join(MRPC_TEXTS)}, instead of the web")
    add_source_flags(group, "BASE/FILE")
    add_run_flags(parser)
    args = parser.parse_args(argv)
    names = []
    for text in args.tasks:
        try:
            if text.lower() == "all":
                names += GLUE_TASKS
            elif text.lower() == "clue":
                names += [task.name for task in CLUE.values() if task.submissions]
            elif text.lower() in (DIAGNOSTIC, "ax"):
                names.append(DIAGNOSTIC)
            else:
                names.append(get_task(text).name)
                names += [DIAGNOSTIC] if names[-1] == "MNLI" else []
        except InputError as error:
            parser.error(f"{error}, {DIAGNOSTIC}, all, clue")
    args.tasks = list(dict.fromkeys(names))
    if args.path_to_mrpc and "MRPC" not in args.tasks:
        parser.error("--path_to_mrpc is given, but MRPC is not among --tasks")
    if args.mirror and local_path(args.mirror).resolve() == args.data_dir.resolve():
        parser.error("--mirror and --data_dir are one folder, and archives that are done are removed from --data_dir: "
                     "drop --mirror, or name another --data_dir")
    return args


def host_of(file: str) -> str:
    """The environment variable that tells where a file of TASK_FILES lies."""
    by_name = "SQUAD_BASE" if file.endswith(".json") else "CLUE_BASE" if "_public." in file else "GLUE_BASE"
    return HOSTS_OF_FILES.get(file, by_name)


def is_known(file: str) -> bool:
    """Whether size and sum of a file of TASK_FILES are known, so that it is the one that was published."""
    return f"{HOSTS[host_of(file)]}/{file}" in KNOWN_FILES


def fetch_files(name: str, args: argparse.Namespace) -> tuple[list[Path], list[Path], list[Missing]]:
    """Where the files of TASK_FILES[name] lie, in data_dir or --path_to_mrpc; those of them that were not there before;
    and those that --offline leaves missing."""
    paths, new, missing = [], [], []
    for file in TASK_FILES[name]:
        if args.path_to_mrpc and name == "MRPC" and (file in MRPC_TEXTS or (args.path_to_mrpc / file).is_file()):
            paths.append(find_input(args.path_to_mrpc / file))
            continue
        host = host_of(file)
        path = args.data_dir / file
        paths.append(path)
        if not path.is_file():
            new.append(path)
        try:
            if args.mirror:  # the same files in another place
                known = KNOWN_FILES.get(f"{HOSTS[host]}/{file}")
                facts = (known.size, known.sha256) if known else ()
                fetch(f"{args.mirror.rstrip('/')}/{file}", path, *facts, offline=args.offline)
            else:
                fetch(f"{base_url(host)}/{file}", path, offline=args.offline)
        except Missing as error:
            missing.append(error)
        except InputError as error:
            if host != "CLUE_BASE" or not is_known(file):
                raise
            raise InputError(f"{error}; what CLUE has published since 2022 comes, unverified, with {host}=FOLDER, "
                             "the one with that file") from None
    return paths, new, missing


def mrpc_rows(path: Path) -> Iterator[list[str]]:
    """Rows of a source text of MRPC after its header: label, first id, second id, first string, second string.

    Tolerates a byte-order mark, carriage returns and blank lines. Raises InputError for any other number of columns,
    and for an example in the place of the header.
    """
    for number, line in enumerate(read_lines(path), 1):
        columns = line.strip().split("\t")
        if columns == [""]:
            continue
        if len(columns) != 5:
            raise InputError(f"{path}, line {number}: {len(columns)} columns, expected 5: {ALTERED}")
        if number > 1:
            yield columns
        elif columns[0] in ("0", "1"):
            raise InputError(f"{path}, line 1: an example, not a header: {ALTERED}")


def build_mrpc(train_text: Path, test_text: Path, dev_ids: Path, folder: Path, official: bool) -> None:
    """Write folder/{train,dev,test}.tsv from the two source texts of the Microsoft Research Paraphrase Corpus.

    A pair of the training text whose ids stand in `dev_ids` belongs to dev, as in the official GLUE split. InputError
    where, of `official` files, a text has lost rows.
    """
    *labelled, unlabelled = published_sizes("MRPC")
    for path, published in ((train_text, sum(labelled)), (test_text, unlabelled)):
        if official and (count := sum(1 for _ in mrpc_rows(path))) != published:
            raise InputError(f"{path} holds {count} pairs, the official text {published}: {ALTERED}")
    ids = {tuple(line.split()) for line in read_lines(dev_ids)}
    with atomic_write(folder / "train.tsv") as train, atomic_write(folder / "dev.tsv") as dev:
        for handle in (train, dev):
            handle.write(f"Quality\t{MRPC_HEADER}")
        for columns in mrpc_rows(train_text):
            (dev if (columns[1], columns[2]) in ids else train).write("\t".join(columns) + "\n")
    with atomic_write(folder / "test.tsv") as test:
        test.write(f"index\t{MRPC_HEADER}")
        for index, columns in enumerate(mrpc_rows(test_text)):
            test.write("\t".join([str(index), *columns[1:]]) + "\n")


def make_folder(name: str, paths: list[Path], data_dir: Path, official: bool) -> None:
    """Make data_dir/NAME of the files, whole or not at all."""
    temporary = data_dir / f".{name}.unpacking"
    with workplace(temporary, data_dir), naming(data_dir / name):  # ARCHIVE.zip/FILE, in messages, is clear
        if name == "MRPC":
            build_mrpc(*paths, temporary / name, official)
        elif name == DIAGNOSTIC:
            (temporary / name).mkdir()
            shutil.copyfile(paths[0], temporary / name / "diagnostic.tsv")
        elif name in SQUAD_FILES:
            (temporary / name).mkdir()
            for path in paths:
                shutil.copyfile(path, temporary / name / path.name)
        elif name in CLUE_FILES:
            task = get_task(name)
            for path in paths:
                unzip(path, temporary / path.name, wanted_files(task))
            write_tables(task, [temporary / path.name for path in paths], temporary / name)
        else:
            unzip(paths[0], temporary)
            if not (temporary / name).is_dir():
                raise InputError(f"{paths[0]} holds no folder {name}, so it is not GLUE's: move it away, check where "
                                 "it came from, and run again")
        (temporary / name).rename(data_dir / name)


def count_labelled(task: Task, path: Path) -> int:
    """Examples of a train or dev file, each of whose labels is checked; of SQuAD its questions, with their answers."""
    if not task.is_table:
        return sum(len(passage.questions) for passage in read_passages(path, task.head.unanswerable))
    count = 0
    for number, columns in read_rows(task, path):
        parse_label(task, columns, f"{path}, line {number}")
        count += 1
    return count


def count_unlabelled(task: Task, path: Path) -> int:
    """Examples of a test file: the lines after its header, which is checked, none of them empty."""
    row_width(task, path)
    count = -1
    for number, line in table_lines(path):
        if not line.strip() or "\0" in line:
            raise InputError(f"{path}, line {number}: empty or damaged")
        count += 1
    return count


def files_of(name: str) -> dict[str, Task]:
    """The files of a task's folder, each with the task as it is laid out there; see published_sizes()."""
    task = GLUE["mnli"] if name == DIAGNOSTIC else get_task(name)
    files = {} if name == DIAGNOSTIC else dict.fromkeys((task.train_file, *task.dev_files), task)
    return files | {Path(submission.file).name: task.for_test(submission) for submission in task.submissions
                    if submission.is_beside == (name == DIAGNOSTIC)}


def published_sizes(name: str) -> list[int]:
    """Examples in the official train, dev and test files of a task, or in the diagnostic set."""
    if name == DIAGNOSTIC:
        return [submission.rows for submission in GLUE["mnli"].submissions if submission.is_beside]
    task = get_task(name)
    return [*task.rows, *(submission.rows for submission in task.submissions if not submission.is_beside)]


def check_folder(name: str, folder: Path, official: bool) -> None:
    """Read every file of a task, check each label, print the counts and, where `official`, compare them with those."""
    counts = {}
    source, what = ("SQuAD", "questions") if name in SQUAD_FILES else ("GLUE", "examples")
    source = name if name in CLUE_FILES else source
    is_sure = name not in CLUE_FILES or all(map(is_known, TASK_FILES[name]))
    try:
        for (file, task), published in zip(files_of(name).items(), published_sizes(name), strict=True):
            path = folder / file
            if not path.is_file():
                raise InputError(f"{path} does not exist")
            is_test = task.is_table and task.label_column is None
            counts[file] = (count_unlabelled if is_test else count_labelled)(task, path)
            if official and counts[file] != published:
                difference = f"{path} holds {counts[file]} {what}, {source} has {published}"
                if is_sure:
                    raise InputError(difference)
                print(f"warning: {difference}: another version may have been published since", flush=True)
    except InputError as error:
        raise InputError(f"{error}. Move {folder} away and run again, which makes it anew") from None
    note = ", no labels" if name == DIAGNOSTIC else ""
    print(f"{name}: " + ", ".join(f"{file} {count} {what}" for file, count in counts.items()) + note, flush=True)


def main(argv: list[str] | None = None) -> None:
    """Get and check each task in turn; a task that is done costs only its check.

    Other addresses than the official ones (by the environment) may serve other data: its size is not compared.
    """
    args = parse_args(argv)
    for name in args.tasks:
        require_no_file(args.data_dir / name)
    if args.path_to_mrpc:
        args.path_to_mrpc = find_folder(args.path_to_mrpc)
    print_settings(args)
    hosts = dict.fromkeys(host_of(file) for name in args.tasks for file in TASK_FILES[name])
    print(f"into {args.data_dir}: {', '.join(args.tasks)} (from {args.mirror or ', '.join(map(base_url, hosts))})",
          flush=True)
    args.data_dir.mkdir(parents=True, exist_ok=True)
    all_missing = []
    for name in args.tasks:
        folder, hosts = args.data_dir / name, set(map(host_of, TASK_FILES[name]))
        official = bool(args.mirror) or all(base_url(host) == HOSTS[host] for host in hosts)
        if not folder.is_dir():
            with locked(args.data_dir / f".{name}.lock", wait=True, keep=False):
                if not folder.is_dir():  # another process may have made it meanwhile
                    paths, new, missing = fetch_files(name, args)
                    if missing:
                        all_missing += missing
                        continue
                    make_folder(name, paths, args.data_dir, official)
                    for path in new:  # what was brought by hand stays
                        path.unlink()
        check_folder(name, folder, official)
    if all_missing:
        raise missing_error(all_missing)


if __name__ == "__main__":
    sys.exit(run_script(main))
