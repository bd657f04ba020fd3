"""The report's section on tasks that their folders describe, one's own data: dev scores, and those of a test set."""
from __future__ import annotations

from transformer.reporting.pages import Block, Heading, Text
from transformer.reporting.runs import FinishedRun, model_name, tasks_of
from transformer.reporting.scores_table import dev_table
from transformer.tasks.table import TASKS


def own_tasks(runs: list[FinishedRun]) -> list[Block]:
    """The section: runs of the full method, model by model; nothing where no run is on such a task."""
    scored = [run for run in runs if run.is_full and run.task.key not in TASKS]
    if not scored:
        return []
    blocks: list[Block] = [Heading("Your own tasks"), Text(
        "Percent, on the dev set, on which the best checkpoint of a run was picked, too; where a test set has labels, "
        "also on that, which chose nothing.")]
    for student in (*sorted({run.student for run in scored} - {""}), ""):
        group = [run for run in scored if run.student == student]
        blocks += dev_table(group, tasks_of(group), f"{model_name(student)}:" if student else "Teachers:")
    return blocks
