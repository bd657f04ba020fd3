"""All tasks by their keys: the nine of GLUE, and SQuAD v1.1 and v2.0."""
from __future__ import annotations

import argparse
from dataclasses import replace

from transformer.cli import SPAN_DEFAULTS
from transformer.files import InputError
from transformer.tasks.glue import GLUE
from transformer.tasks.spans import Spans
from transformer.tasks.task import Task, TeacherSettings

_AS_BERT = TeacherSettings(epochs=2, learning_rate=3e-5, batch_size=12, max_seq_length=384)  # google-research/bert

# Nobody published code that distils these: the code preset has the paper's settings, too.
SQUAD = {task.key: task for task in (
    Task(name, (), None, Spans(unanswerable=unanswerable), (), rows, "", has_header=False,
         train_file=f"train-{version}.json", dev_files=(f"dev-{version}.json",), aug_file="train_aug.jsonl",
         max_seq_length=384, augment_copies_in_code=20, teacher=_AS_BERT)
    for name, version, unanswerable, rows in (("SQuAD1", "v1.1", False, (87599, 10570)),
                                              ("SQuAD2", "v2.0", True, (130319, 11873))))}

TASKS = {**GLUE, **SQUAD}

_OTHER_NAMES = {"mnlimm": "mnli", "mnlim": "mnli", "sst": "sst2", "sts": "stsb",
                **dict.fromkeys(("squad", "squadv1", "squad11", "squadv11"), "squad1"),
                **dict.fromkeys(("squadv2", "squad20", "squadv20"), "squad2")}


def get_task(name: str) -> Task:
    """The task called `name` in any case, with or without the hyphen; mnli-mm is MNLI, squad alone SQuAD v1.1.
    InputError lists the known."""
    key = name.lower().translate(dict.fromkeys(map(ord, "-_. ")))
    key = _OTHER_NAMES.get(key, key)
    if key not in TASKS:
        raise InputError(f"unknown task {name!r}; known tasks: {', '.join(task.name for task in TASKS.values())}")
    return TASKS[key]


def settle_span_flags(args: argparse.Namespace, task: Task) -> Task:
    """Fill in the flags of add_span_flags() that were not given, and put those of answers into the task's head; of a
    task without passages take them out of `args`. InputError where such a one is given one."""
    if task.is_table:
        for name in SPAN_DEFAULTS:
            if getattr(args, name) is not None:
                raise InputError(f"--{name} is for SQuAD and has no effect on {task.name}: drop it")
            delattr(args, name)
        return task
    for name, default in SPAN_DEFAULTS.items():
        if getattr(args, name) is None:
            setattr(args, name, default)
    if args.max_seq_length <= args.max_query_length + 3:
        raise InputError(f"--max_seq_length {args.max_seq_length} leaves no room for a passage beside a question of "
                         f"--max_query_length {args.max_query_length} and 3 special wordpieces: raise it, or lower "
                         "that")
    return replace(task, head=replace(task.head, n_best_size=args.n_best_size, max_answer_length=args.max_answer_length,
                                      null_score_diff_threshold=args.null_score_diff_threshold))
