"""Augment a GLUE training set by replacing words (paper, section 3.2 and algorithm 1): train.tsv -> train_aug.tsv.

Candidates for a word of one wordpiece come from BERT's masked LM, for longer words from their GloVe neighbours. Reads
glue_dir/TASK/train.tsv; writes train_aug.tsv (same columns, tab-separated, no quoting) and train_aug.json (settings
and counts) beside it. The masked LM's part is kept beside train.tsv until then: a stopped run goes on with --resume.
Several GPUs share it: torchrun --nproc_per_node N data_augmentation.py ...
"""
from __future__ import annotations

import argparse
import sys

from transformer.cli import (
    Parser,
    add_device_flags,
    add_run_flags,
    positive,
    print_settings,
    proportion,
    resolve_precision,
    run_script,
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, as given; resolve_copies() settles N."""
    parser = Parser(__doc__.splitlines()[0])
    data = parser.add_argument_group("data and models")
    data.add_argument("--pretrained_bert_model", required=True, help="folder of a BERT with its masked-LM head")
    data.add_argument("--glove_embs", required=True, help="GloVe vectors, text: a word and its numbers on every line")
    data.add_argument("--glue_dir", required=True, help="folder that holds the task's folder")
    data.add_argument("--task_name", required=True,
                      help="GLUE task, in any spelling; all: every task that has a folder there, but WNLI")
    data.add_argument("--glove_vocab", type=positive, default=100_000, help="vectors read, of the most frequent words")
    augment = parser.add_argument_group("augmentation")
    augment.add_argument("--N", type=positive, help="tries per sentence; each new sentence is a row (paper preset: 20; "
                         "code preset: 10, 20 or 30 by task, whatever is given here)")
    augment.add_argument("--M", type=positive, default=15, help="candidates per word")
    augment.add_argument("--p", type=proportion, default=0.4, help="probability of replacing a word with candidates")
    augment.add_argument("--show", type=positive, default=0, metavar="K",
                         help="print the candidates of the first K sentences")
    augment.add_argument("--batch_tokens", type=positive,
                         help="wordpieces per forward pass, padding included (default: 4096 on a CPU, 16384 or, where "
                              "there are more than 12 GB, 65536 on a GPU)")
    augment.add_argument("--resume", action="store_true",
                         help="go on with the run that was stopped; start it where there is none")
    add_device_flags(parser, precision=True)
    add_run_flags(parser, preset=True)
    return resolve_precision(parser, parser.parse_args(argv))


if __name__ == "__main__":
    parse_args()  # --help and refused flags answer before the slow imports below

import contextlib
import functools
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from transformer.augmentation.candidates import (
    Candidates,
    MaskedLM,
    MaskedWords,
    Splitter,
    batch_tokens_for,
    batches_by_length,
    open_table,
)
from transformer.augmentation.glove import Glove
from transformer.checkpoint import load_tokenizer, model_sha256
from transformer.config import check_segments
from transformer.data.parallel import available_cores, in_order
from transformer.data.parts import FilePart, byte_ranges
from transformer.data.tables import report_rows, row_width, rows_of_part, task_folder
from transformer.files import (
    InputError,
    atomic_write,
    find_file,
    find_folder,
    find_model,
    locked,
    read_json,
    read_lines,
    sha256_of,
    write_json,
)
from transformer.modeling import BertForMaskedLM
from transformer.tasks.glue import TASKS, get_task
from transformer.tasks.task import Task
from transformer.tokenization import BertTokenizer
from transformer.training.processes import Processes, join_processes, set_precision

PART_BYTES = 1 << 16  # of train.tsv, a worker's task; its rows come back 20 or 40 times as big

_worker: tuple  # of a worker: the command line, task, columns of a row, numbers of the texts, candidates


def vary(sentence: str, words: list[str], candidates: dict[int, list[str]], tries: int, p: float,
         generator: np.random.Generator) -> list[str]:
    """At most `tries` different variants of `sentence`, none equal to it (paper, algorithm 1).

    Every try replaces each word that has candidates with probability p by a random one of them. Variants are the
    basic-tokenised words joined by spaces: a try that replaces nothing is new where the original has another form.
    """
    positions = list(candidates)
    sizes = np.array([len(candidates[i]) for i in positions], dtype=np.int64)
    replaced = generator.random((tries, len(positions))) < p
    choices = generator.integers(0, sizes, size=(tries, len(positions)))
    variants: dict[str, None] = {}
    for chosen, choice in zip(replaced, choices):
        variant = list(words)
        for i in np.flatnonzero(chosen):
            variant[positions[i]] = candidates[positions[i]][choice[i]]
        variants[" ".join(variant)] = None
    variants.pop(sentence, None)
    return list(variants)


def augment_row(columns: list[str], task: Task, variants: list[list[str]], preset: str) -> Iterator[list[str]]:
    """Rows for one row of train.tsv: itself, then each text in turn varied. variants: one list per text column.

    The other text stays the original. In the code preset the second text varies beside the first one's last variant,
    and the row that holds that (the original where there is none) comes once more before.
    """
    row = columns
    for place, (column, texts) in enumerate(zip(task.text_columns, variants)):
        beside = row if preset == "code" else columns  # the published code leaves it standing
        if place == 0 or preset == "code":
            yield beside
        for text in texts:
            yield (row := [*beside[:column], text, *beside[column + 1:]])


def resolve_copies(args: argparse.Namespace, task: Task) -> int:
    """N of this run."""
    if args.preset == "paper":
        return args.N or 20
    if args.N not in (None, task.augment_copies_in_code):
        print(f"preset code: --N {args.N} is overridden by {task.augment_copies_in_code}, as published", flush=True)
    return task.augment_copies_in_code


def rows_in(task: Task, part: FilePart, width: int) -> Iterator[list[str]]:
    """Columns of the rows in a part of train.tsv, less those that are skipped."""
    return (columns for columns, _ in rows_of_part(task, part, width) if columns)


def survey(task: Task, path: Path, width: int, splitter: Splitter,
           ) -> tuple[list[tuple[FilePart, int]], np.ndarray, MaskedWords]:
    """Read the whole file before the long work; InputError for bad rows and labels.

    Returns its parts, each with the number of its first row; the number of each text among the different sentences,
    int32 [rows, texts]; and those sentences.
    """
    words, skipped = MaskedWords(splitter), 0
    numbers, parts = array("i"), []
    for start, stop in byte_ranges(path, PART_BYTES):
        parts.append(((path, start, stop), len(numbers) // len(task.text_columns)))
        for columns, _ in rows_of_part(task, parts[-1][0], width):
            if columns:
                numbers.extend([words.add(columns[column]) for column in task.text_columns])
            else:
                skipped += 1
    report_rows(str(path), len(numbers), skipped, width)
    if not len(words) and not words.longer:
        raise InputError(f"{path}: no word of its texts can be varied, since only words of the letters a to z that are "
                         "no stop words are: train without --aug_train")
    words.finish()
    return parts, np.frombuffer(numbers, "i").reshape(-1, len(task.text_columns)), words


def start_worker(*facts: object) -> None:
    """Keep what augment_part() needs."""
    global _worker
    _worker = facts


def augment_part(part: tuple[FilePart, int]) -> tuple[str, Counter]:
    """The augmented rows of a part of train.tsv, as text, and counts of what they hold."""
    args, task, width, numbers, candidates = _worker
    lines, counts = [], Counter()
    for row, columns in enumerate(rows_in(task, part[0], width), part[1]):
        variants = []
        for place, column in enumerate(task.text_columns):
            words, replacements, found = candidates.find(columns[column], int(numbers[row, place]))
            generator = np.random.default_rng((args.seed, row, place))
            variants.append(vary(columns[column], words, replacements, args.N, args.p, generator))
            counts.update(found, duplicates_dropped=args.N - len(variants[-1]))
        augmented = ["\t".join(columns) + "\n" for columns in augment_row(columns, task, variants, args.preset)]
        counts.update(rows_in=1, rows_out=len(augmented))
        lines += augmented
    return "".join(lines), counts


def show(parts: list[tuple[FilePart, int]], task: Task, width: int, numbers: np.ndarray, candidates: Candidates,
         count: int) -> None:
    """Print the first different sentences and their candidates, for a person to look at."""
    shown = 0
    rows = (columns for part, _ in parts for columns in rows_in(task, part, width))
    for columns, row_numbers in zip(rows, numbers):
        for column, number in zip(task.text_columns, row_numbers):
            if number == shown < count:  # sentences are numbered as they come
                shown += 1
                print(columns[column])
                words, replacements, _ = candidates.find(columns[column], int(number))
                for i, texts in replacements.items():
                    print(f"    {words[i]}: {' '.join(texts)}", flush=True)
        if shown == count:
            return


def augment(args: argparse.Namespace, task: Task, tokenizer: BertTokenizer, model: BertForMaskedLM,
            glove: Callable[[], Glove], processes: Processes) -> None:
    """Augment one task: its train.tsv to train_aug.tsv."""
    path = task_folder(args.glue_dir, task) / "train.tsv"
    output, unfinished = path.with_name("train_aug.tsv"), path.with_name("train_aug.unfinished")
    args = argparse.Namespace(**{**vars(args), "N": resolve_copies(args, task), "task_name": task.name})
    print_settings(args)
    status, train_sha256, width = path.stat(), sha256_of(path), row_width(task, path)
    masked_lm = MaskedLM(model, tokenizer, args.M, args.precision, args.preset)
    splitter = Splitter(tokenizer, min(tokenizer.max_len, model.config.max_position_embeddings))
    parts, numbers, words = survey(task, path, width, splitter)
    batches = batches_by_length(words.lengths(), args.batch_tokens)
    facts = {"train_sha256": train_sha256, "model_sha256": model_sha256(model), **tokenizer.facts, "M": args.M,
             "preset": args.preset, "precision": args.precision, "batch_tokens": args.batch_tokens}
    glove_status = Path(args.glove_embs).stat()
    made_from = {**facts, **{name: getattr(args, name) for name in ("N", "p", "seed", "glove_vocab")},
                 "glove": [glove_status.st_size, glove_status.st_mtime_ns]}
    if args.resume and output.is_file() and output.with_suffix(".json").is_file() and not unfinished.exists() and \
            read_json(output.with_suffix(".json")).get("made_from") == made_from:
        print(f"{output} is finished: nothing to resume", flush=True)
        return
    print(f"{path}: {len(numbers):,} rows, {len(words.first) - 1:,} different sentences, {len(words):,} words to mask; "
          f"{len(words.longer):,} longer words for GloVe", flush=True)
    with contextlib.ExitStack() as stack:
        if processes.is_first:
            unfinished.mkdir(exist_ok=True)
            stack.enter_context(locked(unfinished / "lock"))
        table = open_table(unfinished, masked_lm.count, tokenizer.id_typecode, len(batches[1]), facts, args.resume,
                           processes)
        neighbours = glove().neighbours(words.longer, args.M, processes.device) if processes.is_first else {}
        rows = masked_lm.fill(words, batches, table, processes, f"{task.name} masked LM")
        if not processes.is_first:
            return
        candidates = Candidates(splitter, words.first, rows, table.map(), neighbours)
        show(parts, task, width, numbers, candidates, args.show)
        counts = Counter()
        results = in_order(augment_part, parts, min(available_cores(), len(parts)), start_worker,
                           (args, task, width, numbers, candidates))
        with atomic_write(unfinished / "rows") as handle, contextlib.closing(results), \
                tqdm(total=len(numbers), unit="row", desc=f"{task.name} rows", disable=None) as progress:
            if task.has_header:
                handle.write(next(read_lines(path)) + "\n")
            for text, found in results:
                handle.write(text)
                counts.update(found)
                progress.update(found["rows_in"])
        if (path.stat().st_size, path.stat().st_mtime_ns) != (status.st_size, status.st_mtime_ns):
            raise InputError(f"{path} changed while it was augmented: start again")
        os.replace(unfinished / "rows", output)
        write_json(output.with_suffix(".json"), {"settings": vars(args), "made_from": made_from, **counts})
        table.remove()
    print(f"{output}: " + ", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in counts.items()),
          flush=True)


def chosen_tasks(args: argparse.Namespace) -> list[Task]:
    """The task asked for, or with `all` those that have a folder; InputError where a train.tsv is missing."""
    if args.task_name.lower() == "all":
        tasks = [task for task in TASKS.values()
                 if task_folder(args.glue_dir, task).is_dir() and task.augment_copies_in_code]
        if not tasks:
            raise InputError(f"{args.glue_dir} has no folder of a task that is augmented: download_glue.py gets them")
        print(f"augmenting {', '.join(task.name for task in tasks)}", flush=True)
    else:
        tasks = [get_task(args.task_name)]
    for task in tasks:
        if task.augment_copies_in_code is None:
            raise InputError(f"{task.name} is not augmented: its label hangs on single words, which noun a pronoun "
                             "stands for; train without --aug_train")
        row_width(task, task_folder(args.glue_dir, task) / "train.tsv")
    return tasks


def main(argv: list[str] | None = None) -> None:
    """Augment the task, or all of them."""
    args = parse_args(argv)
    processes = join_processes(args.no_cuda, args.local_rank)
    for name, find in (("glue_dir", find_folder), ("pretrained_bert_model", find_model), ("glove_embs", find_file)):
        setattr(args, name, str(find(getattr(args, name))))
    tasks = chosen_tasks(args)
    set_precision(args.precision, processes.device)
    tokens = args.batch_tokens or batch_tokens_for(processes.device)
    args.batch_tokens = int(processes.smallest(torch.tensor(tokens)))  # the same batches, whatever GPU a process has
    tokenizer = load_tokenizer(args.pretrained_bert_model)
    args.do_lower_case = tokenizer.do_lower_case
    model = BertForMaskedLM.from_pretrained(args.pretrained_bert_model).to(processes.device)
    check_segments(2, args.pretrained_bert_model, model.config)
    glove = functools.cache(lambda: Glove(args.glove_embs, args.glove_vocab, args.glue_dir))
    for task in tasks:
        augment(args, task, tokenizer, model, glove, processes)
    processes.wait()  # the first writes the rows


if __name__ == "__main__":
    sys.exit(run_script(main))
