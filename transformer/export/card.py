"""The model card of an exported folder: README.md with the header that the hub reads."""
from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from transformer.checkpoint import head_note
from transformer.data.features import Sequences
from transformer.export.measures import FileFacts
from transformer.export.onnx_files import TIMED
from transformer.export.origin import DevScores, chosen_scores, settings_of
from transformer.families import ELECTRA
from transformer.modeling import BertPreTrainedModel
from transformer.reporting.pages import as_markdown
from transformer.reporting.runs import METRICS
from transformer.tasks.task import Task

CARD_NAME = "README.md"
_STAGE_HEADER = ("stage", "started from", "teacher", "texts", "seed", "epochs", "batch", "rate", "steps", "commit")


def percent(value: float | None) -> str:
    """A score as tables show it; a dash for none."""
    return "-" if value is None else f"{100 * value:.1f}"


def _stage_cells(name: str, record: dict[str, Any]) -> list[Any]:
    """What the card tells of a run, as far as its run.json does."""
    settings = settings_of(record)
    start, teacher, data = (Path(str(folder)).name if folder else "-" for folder in (
        "random weights" if settings.get("from_scratch") else record.get("start") or settings.get("student_model"),
        settings.get("teacher_model"), settings.get("pregenerated_data")))
    texts = data if data != "-" else "augmented" if settings.get("aug_train") else "original"
    numbers = (settings.get(key, "-") for key in ("seed", "num_train_epochs", "train_batch_size", "learning_rate"))
    return [name, start, teacher, texts, *numbers, record.get("steps", "-"), str(record.get("commit") or "-")[:9]]


@dataclass(frozen=True)
class Exported:
    """A model that is exported. max_seq_length: of its training, where knows_length, else the task's; is_named: whether
    it names the task's classes, which else are taken in the task's order; lower: whether text is lower-cased;
    megabytes: of its weights; scores: on the dev set, if they are known; stages: of its making, see origin.stages();
    files: measured, with the examples that they were timed on; none where there is no ONNX."""
    name: str
    model: BertPreTrainedModel
    task: Task
    max_seq_length: int
    knows_length: bool
    is_named: bool
    lower: bool
    megabytes: float
    scores: DevScores | None
    stages: list[tuple[str, dict[str, Any]]]
    files: list[FileFacts]
    examples: Sequences | None


def card(of: Exported) -> str:
    """The text of the card."""
    config, task = of.model.config, of.task
    own = of.scores.values if of.scores else {}
    teacher = chosen_scores(task, of.stages[-1][1].get("teacher")) if of.stages else {}
    metrics = list(own or teacher)
    is_span, is_pair = not task.is_table, task.segments == 2
    pooler = "classifier" if config.family is ELECTRA else f"{config.family.prefix}.pooler"
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), trim_blocks=True, lstrip_blocks=True,
                              keep_trailing_newline=True, undefined=StrictUndefined, autoescape=False)  # noqa: S701
    environment.filters["markdown"] = as_markdown
    return environment.get_template("card.md.j2").render(
        of=of, config=config, is_span=is_span, is_pair=is_pair,
        family="TinyBERT student" if teacher else config.family.name,
        parameters=sum(weight.numel() for weight in of.model.parameters()),
        classes=[str(config.extra["id2label"][str(number)]) for number in range(task.head.width) if task.labels],
        tags=["tinybert", "knowledge-distillation"] * bool(teacher) + ["onnx"] * bool(of.files),
        auto_class=f"AutoModelFor{'QuestionAnswering' if is_span else 'SequenceClassification'}",
        pooler=pooler, note="" if config.classifier_relu else head_note(config, of.name).partition(": ")[2],
        has_test=any(metric.endswith("_test") for metric in metrics),
        metrics=[METRICS.get(metric, metric) for metric in metrics],
        scores=[[title, *(percent(values.get(metric)) for metric in metrics)]
                for title, values in (("this model", own), ("its teacher", teacher)) if values],
        stage_header=_STAGE_HEADER, stages=[_stage_cells(*stage) for stage in of.stages],
        file_header=["file", "MB", "ms a text", *(METRICS.get(metric, metric) for metric in _measured(of))],
        files=[[file.name, f"{file.megabytes:.1f}", f"{file.milliseconds:.2f}", *map(percent, file.scores.values())]
               for file in of.files],
        timed=min(TIMED, len(of.examples)) if of.files else 0, processor=platform.machine(),
        wordpieces=round(float(of.examples.lengths[:TIMED].mean())) if of.files else 0)


def _measured(of: Exported) -> dict[str, float]:
    return of.files[0].scores if of.files else {}
