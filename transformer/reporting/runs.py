"""What the report knows of a run, and how it shows runs: a model's name, a score with its spread and its sources."""
from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from transformer.files import InputError
from transformer.reporting.curves import draw_lines, read_metrics
from transformer.reporting.pages import Inline, Link
from transformer.tasks.clue import CLUE
from transformer.tasks.glue import GLUE
from transformer.tasks.table import TASKS
from transformer.tasks.task import Task

METRICS = {"acc": "accuracy", "acc_mismatched": "accuracy, mm", "acc_test": "accuracy, test", "f1": "F1", "mcc": "MCC",
           "macro_f1": "macro F1", "f1_test": "F1, test", "macro_f1_test": "macro F1, test", "mcc_test": "MCC, test",
           "corr_test": "correlation, test", "pearson": "Pearson", "spearmanr": "Spearman", "exact_match": "EM",
           "exact": "EM", "best_exact": "EM", "best_f1": "F1"}
MISSING = "missing"  # in place of a score that no run has
Remarks = list[tuple[Path, str]]  # what is left out, in whole or in part, and why; and what else is to be known
_STAGES = ("teacher", "general", "intermediate", "prediction", "fine-tuning")
_PLACES = {"data_dir", "glue_dir", "models_dir", "student_model", "teacher_model", "model"}


@dataclass
class FinishedRun:
    """A finished run. `scores` are those on the dev set, fractions by metric, read from the file `source`; a run
    without a task or a score has none. `student` is 4l or 6l, empty for a teacher."""
    file: Path                 # run.json, in the folder of the run
    stage: str                 # one of _STAGES; fine-tuning: of a student, by finetune_teacher.py
    student: str
    task: Task | None
    variant: str
    seed: int
    record: dict[str, Any]     # what run.json says
    scores: dict[str, float] = field(default_factory=dict)
    source: str = ""
    dev_examples: tuple[int, ...] = ()  # of each dev set that --do_eval scored; empty where its file does not tell
    is_augmented: bool = False  # whether its intermediate stage had augmented data
    number: int = 0            # in the report

    @property
    def folder(self) -> Path:
        """Where the run wrote its model."""
        return self.file.parent

    @property
    def is_result(self) -> bool:
        """Whether it is the last run of a student on a task, whose score counts."""
        return self.stage in ("prediction", "fine-tuning")

    @property
    def is_full(self) -> bool:
        """Whether it is of the full method and has a score that counts: such a student's, or a teacher's."""
        return self.variant == "full" and (self.is_result or self.stage == "teacher")

    @property
    def team(self) -> tuple[str, ...]:
        """The students that were trained together, this one among them: the seconds of each are those of all."""
        from transformer.training.record import student_label

        others = self.record.get("trained_with", [])
        return tuple(sorted([self.student, *(student_label({"output_dir": folder}, None, 0) or Path(folder).name
                                             for folder in others)]))

    @property
    def key(self) -> tuple:
        """What two runs must not have in common; general students also differ in their teachers, by name."""
        teacher = Path(str(self.record["settings"].get("teacher_model"))).name if self.stage == "general" else ""
        return self.variant, self.seed, self.task and self.task.key, self.student, self.is_result or self.stage, teacher

    @property
    def order(self) -> tuple:
        """To sort by: stage, student, task as in the table of tasks, variant, seed."""
        task = place_of(self.task) if self.task else (0, "")
        return _STAGES.index(self.stage), self.student, task, self.variant != "full", self.variant, self.seed

    @property
    def batch_and_rate(self) -> tuple[int, float]:
        """What the search of the prediction stage varies."""
        settings = self.record["settings"]
        return settings.get("train_batch_size", 0), settings.get("learning_rate", 0)

    @property
    def started(self) -> float:
        """Seconds since 1970; 0 where run.json does not tell."""
        return started_at(self.record)


def started_at(record: dict[str, Any]) -> float:
    """Seconds since 1970 at which a run started, by its run.json; 0 where that does not tell."""
    try:
        return datetime.strptime(record["started"], "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except (KeyError, TypeError, ValueError):
        return 0.0


def shown_metrics(task: Task) -> tuple[str, ...]:
    """The metrics of a task that tables show, as the paper does; of a second dev set, too."""
    others = (Path(name).stem.removeprefix("dev_") for name in task.dev_files[1:])
    return *task.head.shown_scores, *(f"{task.metric}_{name}" for name in others)


def is_number(value: Any) -> bool:
    """Whether a value from a JSON file is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def differing_settings(runs: list[FinishedRun]) -> list[str]:
    """Names of the settings, seed and places aside, in which runs of one group differ though they move the result.

    Those that only some have are of another version of the kit.
    """
    from transformer.training.states import result_settings

    if not runs:
        return []
    settings = [result_settings(run.record["settings"]) for run in runs]
    names = set.intersection(*map(set, settings)) - _PLACES - {"seed"}
    return sorted(name for name in names if len({values[name] for values in settings}) > 1)


def place_of(task: Task) -> tuple[int, str]:
    """To sort tasks by: the table of tasks, then the names of those that their folders describe."""
    return list(TASKS).index(task.key) if task.key in TASKS else len(TASKS), task.key


def tasks_of(runs: Iterable[FinishedRun]) -> list[Task]:
    """The tasks that the runs have, in the order of place_of(), those that share a place as the runs come."""
    return sorted(dict.fromkeys(run.task for run in runs if run.task), key=place_of)


def comparable(runs: list[FinishedRun]) -> tuple[dict[str, list[FinishedRun]], list[Task]]:
    """Runs of the full method on GLUE by the name of a model whose size can be read, and the tasks that all of these
    have; of Chinese tasks, whose models have another vocabulary and so other sizes, where there are none on GLUE."""
    full = [run for run in runs if run.is_full]
    tasks = GLUE if any(run.task.key in GLUE for run in full) else CLUE
    scored = [run for run in full if run.task.key in tasks]
    models = {model_name(student): [run for run in scored if run.student == student]
              for student in sorted({run.student for run in scored})}
    models = {name: group for name, group in models.items() if parameters(group[0])}
    return models, [task for task in tasks.values() if all(task in tasks_of(group) for group in models.values())]


def students_of(runs: Iterable[FinishedRun]) -> list[str]:
    """The students that the runs are of, and the paper's 4l and 6l, unless all are other ones."""
    found = {run.student for run in runs} - {""}
    paper = {"4l", "6l"}
    return sorted(found if found and found.isdisjoint(paper) else found | paper)


def model_name(student: str) -> str:
    """TinyBERT4 for 4l; of the empty string, teacher."""
    return f"TinyBERT{student.removesuffix('l')}" if student else "teacher"


def score(runs: list[FinishedRun], metric: str) -> tuple[list[FinishedRun], list[float]]:
    """The runs that have the metric, and its values in percent."""
    scored = [run for run in runs if metric in run.scores]
    return scored, [100 * run.scores[metric] for run in scored]


def cell(runs: list[FinishedRun], metric: str) -> Inline:
    """Mean of a metric in percent, sample standard deviation where there are several, n, and the runs it is from."""
    scored, values = score(runs, metric)
    if not values:
        return MISSING
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return [f"{statistics.fmean(values):.1f}{deviation} (n={len(values)})", *references(scored)]


def references(runs: Iterable[FinishedRun]) -> list[Inline]:
    """The runs' numbers in the report, each a link to its run.json."""
    parts: list[Inline] = []
    for run in runs:
        parts += [" ", Link(str(run.number), run.file, small=True)]
    return parts


def lines_of(runs: list[FinishedRun], value: str, scale: float,
             remarks: Remarks) -> list[tuple[FinishedRun, list, list]]:
    """(run, steps, values) of those runs whose metrics.jsonl tells the value."""
    lines = []
    for run in runs:
        try:
            points = [(line["step"], scale * line[value]) for line in read_metrics(run.folder)
                      if is_number(line.get("step")) and is_number(line.get(value))]
        except InputError as error:
            remark = run.folder, f"no curve: {error}"
            if remark not in remarks:
                remarks.append(remark)
            continue
        if points:
            lines.append((run, *map(list, zip(*points))))
    return lines


def picture(path: Path, title: str, label: str, lines: list[tuple[FinishedRun, list, list]],
            teacher: float | None = None) -> list[tuple[Path, str, Inline]]:
    """The picture of the lines of lines_of(), and of a teacher's score, as an item of Pictures; none without lines."""
    if not lines:
        return []
    drawn = [(model_name(run.student) + ("" if run.variant == "full" else f", {run.variant}"), steps, values)
             for run, steps, values in lines]
    if teacher is not None:
        drawn.append(("teacher", [0, max(steps[-1] for _, steps, _ in lines)], [teacher] * 2))
    draw_lines(path, title, label, drawn)
    return [(path, f"{title}: {label} over optimizer steps", ["runs", *references(run for run, _, _ in lines)])]


def parameters(run: FinishedRun) -> int:
    """Of the model with its head that config.json in the run's folder describes; 0 where none can be read."""
    import torch

    from transformer.config import CONFIG_NAME, BertConfig

    head = run.task.head
    try:
        with torch.device("meta"):
            model = head.model_class(BertConfig.from_json_file(run.folder / CONFIG_NAME), **head.sizes)
    except (InputError, TypeError):
        return 0
    return sum(weight.numel() for weight in model.parameters())
