"""All tasks by their keys: the nine of GLUE, SQuAD v1.1 and v2.0, and the Chinese ones."""
from __future__ import annotations

from transformer.files import InputError
from transformer.tasks.clue import CLUE
from transformer.tasks.glue import GLUE
from transformer.tasks.spans import Spans
from transformer.tasks.task import Task

# Nobody published code that distils these: the code preset has the paper's settings, too. Teachers are fine-tuned as
# BERT's own README says.
SQUAD = {task.key: task for task in (
    Task(name, (), None, Spans(unanswerable=unanswerable), (), rows, "", has_header=False,
         train_file=f"train-{version}.json", dev_files=(f"dev-{version}.json",), aug_file="train_aug.jsonl",
         max_seq_length=384, teacher_epochs=2, teacher_learning_rate=3e-5, teacher_batch_size=12,
         teacher_max_seq_length=384, augment_copies_in_code=20)
    for name, version, unanswerable, rows in (("SQuAD1", "v1.1", False, (87599, 10570)),
                                              ("SQuAD2", "v2.0", True, (130319, 11873))))}

TASKS = {**GLUE, **SQUAD, **CLUE}

_OTHER_NAMES = {"mnlimm": "mnli", "mnlim": "mnli", "sst": "sst2", "sts": "stsb",
                **dict.fromkeys(("squad", "squadv1", "squad11", "squadv11"), "squad1"),
                **dict.fromkeys(("squadv2", "squad20", "squadv20"), "squad2"),
                **dict.fromkeys(("wsc", "cluewsc"), "cluewsc2020"), "xnli": "xnlizh"}


def plain_name(name: str) -> str:
    """A task's name without what its spellings differ in: case, hyphens, dots, spaces."""
    return name.lower().translate(dict.fromkeys(map(ord, "-_. ")))


def is_known_task(name: str) -> bool:
    """Whether get_task() has a task for a name."""
    key = plain_name(name)
    return _OTHER_NAMES.get(key, key) in TASKS


def get_task(name: str) -> Task:
    """The task called `name` in any case, with or without the hyphen; mnli-mm is MNLI, squad alone SQuAD v1.1.
    InputError lists the known."""
    key = plain_name(name)
    key = _OTHER_NAMES.get(key, key)
    if key not in TASKS:
        raise InputError(f"unknown task {name!r}; known tasks: {', '.join(task.name for task in TASKS.values())}")
    return TASKS[key]
