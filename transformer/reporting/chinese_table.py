"""The report's section on Chinese tasks: the dev scores of these runs, and the published ones."""
from __future__ import annotations

from transformer.reporting.pages import Block, Heading, Inline, Table, Text
from transformer.reporting.published import CHINESE_BERT, CHINESE_ROWS, CHINESE_TINYBERT4, CHINESE_TINYBERT6
from transformer.reporting.runs import FinishedRun, cell, model_name, students_of, tasks_of
from transformer.reporting.scores_table import dev_table
from transformer.tasks.clue import CLUE

_STANDS_FOR = {CHINESE_BERT: "", CHINESE_TINYBERT4: "4l", CHINESE_TINYBERT6: "6l"}  # the student; the teacher is ""


def chinese(runs: list[FinishedRun]) -> list[Block]:
    """The section: runs of the full method on Chinese tasks, model by model, and beside the published scores; nothing
    where no run is on a Chinese task."""
    scored = [run for run in runs if run.is_full and run.task.key in CLUE]
    if not any(run.task and run.task.key in CLUE for run in runs):
        return []
    students = students_of(scored)
    blocks: list[Block] = [Heading("Chinese tasks"), Text(
        "Accuracies in percent, on the dev set, on which the best checkpoint of a run was picked, too; where a task's "
        "test set has labels, also on that, which chose nothing.")]
    for student in (*students, ""):
        blocks += dev_table([run for run in scored if run.student == student], tasks_of(scored),
                            f"{model_name(student)}:" if student else "Teachers:")
    return [*blocks, Text(
        "Beside published dev scores. Those are of plain fine-tuning on the labels: PaddleNLP's with a grid search, "
        "HFL's the best and the mean of several runs. So TinyBERT_4L_zh and TinyBERT_6L_zh are general students "
        "without the distillation of a task, after which no Chinese scores are published; the students of these runs "
        "had it. "
        "CLUEWSC2020's dev set has 304 examples, and the published scores of one model there are 22 points apart."),
        _beside_published(scored, students)]


def _beside_published(runs: list[FinishedRun], students: list[str]) -> Table:
    """A row for each published model, and each model of these runs below the last row of that which it stands for."""
    rows: list[list[Inline]] = []
    for published, following in zip(CHINESE_ROWS, [*(row.model for row in CHINESE_ROWS[1:]), ""]):
        rows.append([published.model, published.source,
                     *(f"{published.scores[task.name]:.2f}".removesuffix("0") if task.name in published.scores else "-"
                       for task in CLUE.values())])
        if published.model in _STANDS_FOR and following != published.model:
            rows.append(_own_scores(runs, _STANDS_FOR[published.model]))
    rows += [_own_scores(runs, student) for student in students if student not in _STANDS_FOR.values()]
    return Table(["model", "from", *(task.name for task in CLUE.values())], rows, "ll" + "r" * len(CLUE))


def _own_scores(runs: list[FinishedRun], student: str) -> list[Inline]:
    """The row of a model: means over its runs."""
    return [model_name(student), "these runs", *(
        cell([run for run in runs if (run.student, run.task) == (student, task)], task.metric)
        for task in CLUE.values())]
