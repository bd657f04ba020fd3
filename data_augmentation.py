"""Augment a training set by replacing words (paper, section 3.2 and algorithm 1): train.tsv -> train_aug.tsv.

Candidates for a word of one wordpiece come from BERT's masked LM, for longer words from their GloVe neighbours, where
--glove_embs names vectors. In Chinese each character is a word, and characters take its place. Reads the train file in
glue_dir/TASK; writes train_aug.tsv (same columns, tab-separated, no quoting) and train_aug.json (settings and counts)
beside it. The masked LM's part is kept there until then: a stopped run goes on with --resume.
Of SQuAD the passages are varied, and train_aug.jsonl has their questions without answers: for the intermediate stage.
Several GPUs share it: torchrun --nproc_per_node N data_augmentation.py ...
"""
from __future__ import annotations

import argparse
import contextlib
import functools
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformer.augmentation.glove import Glove
from transformer.augmentation.passages import PassageExamples
from transformer.augmentation.rows import TableExamples
from transformer.augmentation.variants import Examples, show_candidates, survey, write_rows
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
from transformer.data.tables import task_folder
from transformer.files import (
    InputError,
    find_file,
    find_folder,
    find_model,
    locked,
    read_json,
    require_unchanged,
    sha256_of,
    write_json,
)
from transformer.pieces import Tokenizer
from transformer.stopwatch import STOPWATCH
from transformer.tasks.glue import GLUE
from transformer.tasks.own import open_task
from transformer.tasks.task import Task

if TYPE_CHECKING:
    from transformer.modeling import BertForMaskedLM
    from transformer.training.processes import Processes


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, as given; resolve_copies() settles N."""
    parser = Parser(__doc__.splitlines()[0])
    data = parser.add_argument_group("data and models")
    data.add_argument("--pretrained_bert_model", required=True, help="folder of a BERT with its masked-LM head")
    data.add_argument("--glove_embs", help="GloVe vectors, text: a word and its numbers on every line (without them "
                                           "words of several wordpieces stay as they are)")
    data.add_argument("--glue_dir", "--data_dir", required=True,
                      help="folder that holds the task's folder, or that of one of your own")
    data.add_argument("--task_name",
                      help="task, in any spelling; all: every task of GLUE that has a folder there, but WNLI (SQuAD "
                           "only by its own names, squad1 and squad2); not needed where GLUE_DIR has the task.json of "
                           "prepare_task.py")
    data.add_argument("--glove_vocab", type=positive, default=100_000, help="vectors read, of the most frequent words")
    augment = parser.add_argument_group("augmentation")
    augment.add_argument("--N", type=positive, help="tries per sentence, or per passage of SQuAD; each new one is a "
                         "row (paper preset: 20; code preset: 10, 20 or 30 by task of GLUE, whatever is given here)")
    augment.add_argument("--M", type=positive, default=15, help="candidates per word")
    augment.add_argument("--p", type=proportion, default=0.4, help="probability of replacing a word with candidates")
    augment.add_argument("--p_characters", type=proportion, default=0.15,
                         help="probability of replacing a Chinese character, of which a word has one to four")
    augment.add_argument("--show", type=positive, default=0, metavar="K",
                         help="print the candidates of the first K sentences")
    augment.add_argument("--batch_tokens", type=positive,
                         help="wordpieces per forward pass, padding included (default: 4096 on a CPU, 16384 or, where "
                              "there are more than 12 GB, 65536 on a GPU)")
    augment.add_argument("--resume", action="store_true",
                         help="go on with the run that was stopped; start it where there is none")
    add_device_flags(parser, precision=True)
    add_run_flags(parser, preset=True)
    args = parser.parse_args(argv)
    if not args.glove_embs:
        parser.refuse(argv, "is for --glove_embs: add that, or drop it", "glove_vocab")
    return resolve_precision(parser, args)


def resolve_copies(args: argparse.Namespace, task: Task) -> int:
    """N of this run."""
    if args.preset == "paper" or not task.is_table:  # nobody published code that augments passages
        return args.N or 20
    if args.N not in (None, task.augment_copies_in_code):
        print(f"preset code: --N {args.N} is overridden by {task.augment_copies_in_code}, as published", flush=True)
    return task.augment_copies_in_code


def is_augmented(output: Path, unfinished: Path, made_from: dict[str, Any]) -> bool:
    """Whether the augmented file is there, made from just this."""
    record = output.with_suffix(".json")
    if not output.is_file() or not record.is_file() or unfinished.exists():
        return False
    earlier = read_json(record).get("made_from")
    # a record of before characters were varied tells nothing of them
    return isinstance(earlier, dict) and {"p_characters": made_from["p_characters"], **earlier} == made_from


def examples_of(glue_dir: str, task: Task) -> Examples:
    """What is augmented of a task; InputError where its train file is missing or is of another task."""
    return (TableExamples if task.is_table else PassageExamples)(task, task_folder(glue_dir, task))


def _counted(counts: Mapping[str, int], times: int = 1) -> str:
    return " with ".join(f"{times * count:,} {name}" for name, count in counts.items())


def augment(args: argparse.Namespace, task: Task, tokenizer: Tokenizer, model: BertForMaskedLM,
            glove: Callable[[], Glove], processes: Processes) -> None:
    """Augment one task: its train file to the augmented file beside it."""
    from transformer.augmentation.candidates import LOGITS_ROWS, Candidates, MaskedLM, MaskedWords, Splitter, open_table
    from transformer.checkpoint import model_sha256
    from transformer.training.batches import batches_by_length
    examples = examples_of(args.glue_dir, task)
    path = examples.path
    output, unfinished = path.with_name(task.aug_file), path.with_name("train_aug.unfinished")
    args = argparse.Namespace(**{**vars(args), "N": resolve_copies(args, task), "task_name": task.name})
    print_settings(args)
    status, train_sha256 = path.stat(), sha256_of(path)
    masked_lm = MaskedLM(model, tokenizer, args.M, args.precision, args.preset)
    splitter = Splitter(tokenizer, min(tokenizer.max_len, model.config.max_position_embeddings))
    words = MaskedWords(splitter)
    firsts, numbers, surveyed = survey(examples, words)
    batches = batches_by_length(words.lengths(), args.batch_tokens, LOGITS_ROWS)
    facts = {"train_sha256": train_sha256, "model_sha256": model_sha256(model), **tokenizer.facts, "M": args.M,
             "preset": args.preset, "precision": args.precision, "batch_tokens": args.batch_tokens}
    glove_status = Path(args.glove_embs).stat() if args.glove_embs else None
    made_from = {**facts, **{name: getattr(args, name) for name in ("N", "p", "p_characters", "seed", "glove_vocab")},
                 "glove": glove_status and [glove_status.st_size, glove_status.st_mtime_ns]}
    if args.resume and is_augmented(output, unfinished, made_from):
        print(f"{output} is finished: nothing to resume", flush=True)
        return
    print(f"{path}: {_counted(surveyed)}; {len(words.first) - 1:,} different texts, {len(words):,} words to mask in "
          f"{len(batches[1]):,} forward passes; {len(words.longer):,} longer words for GloVe; at most "
          f"{_counted(surveyed, examples.most_rows(args.N, args.preset))} are written", flush=True)
    with contextlib.ExitStack() as stack:
        if processes.is_first:
            unfinished.mkdir(exist_ok=True)
            stack.enter_context(locked(unfinished / "lock"))
        table = open_table(unfinished, masked_lm.count, tokenizer.id_typecode, len(batches[1]), facts, args.resume,
                           processes)
        has_vectors = processes.is_first and args.glove_embs
        neighbours = glove().neighbours(words.longer, args.M, processes.device) if has_vectors else {}
        rows = masked_lm.fill(words, batches, table, processes, f"{task.name} masked LM")
        if not processes.is_first:
            return
        candidates = Candidates(splitter, words.first, rows, table.map(), neighbours)
        show_candidates(examples, numbers, candidates, args.show)
        require_unchanged(path, status)
        counts = write_rows(unfinished / "rows", firsts, (args, examples, numbers, candidates))
        require_unchanged(path, status)
        os.replace(unfinished / "rows", output)
        write_json(output.with_suffix(".json"), {"settings": vars(args), "made_from": made_from, **counts,
                                                 **STOPWATCH.facts()})
        table.remove()
    print(f"{output}: " + ", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in counts.items()),
          flush=True)


def chosen_tasks(args: argparse.Namespace) -> list[Task]:
    """The task asked for, or with `all` those of GLUE that have a folder; InputError as examples_of() does."""
    if args.task_name and args.task_name.lower() == "all":
        tasks = [task for task in GLUE.values()
                 if task_folder(args.glue_dir, task).is_dir() and task.augment_copies_in_code]
        if not tasks:
            raise InputError(f"{args.glue_dir} has no folder of a task that is augmented: download_glue.py gets them")
        print(f"augmenting {', '.join(task.name for task in tasks)}", flush=True)
    else:
        tasks = [open_task(args.task_name, args.glue_dir)]
    for task in tasks:
        if task.augment_copies_in_code is None:
            raise InputError(f"{task.name} is not augmented: its label hangs on single words, which noun a pronoun "
                             "stands for; train without --aug_train")
        examples_of(args.glue_dir, task)
    return tasks


def main(argv: list[str] | None = None) -> None:
    """Augment the task, or all of them."""
    args = parse_args(argv)

    import torch

    from transformer.augmentation.candidates import batch_tokens_for
    from transformer.checkpoint import load_masked_lm, load_tokenizer
    from transformer.config import check_segments
    from transformer.training.processes import join_processes, set_precision
    processes = join_processes(args.no_cuda, args.local_rank)
    for name, find in (("glue_dir", find_folder), ("pretrained_bert_model", find_model), ("glove_embs", find_file)):
        if getattr(args, name):
            setattr(args, name, str(find(getattr(args, name))))
    tasks = chosen_tasks(args)
    args.precision = set_precision(args.precision, processes)
    tokens = args.batch_tokens or batch_tokens_for(processes.device)
    args.batch_tokens = int(processes.smallest(torch.tensor(tokens)))  # the same batches, whatever GPU a process has
    tokenizer = load_tokenizer(args.pretrained_bert_model)
    args.do_lower_case = tokenizer.do_lower_case
    model = load_masked_lm(args.pretrained_bert_model).to(processes.device)
    check_segments(2, args.pretrained_bert_model, model.config)
    glove = functools.cache(lambda: Glove(args.glove_embs, args.glove_vocab, args.glue_dir))
    for task in tasks:
        augment(args, task, tokenizer, model, glove, processes)
    processes.wait()  # the first writes the rows


if __name__ == "__main__":
    sys.exit(run_script(main))
