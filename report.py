"""Report of all runs below some folders beside the published numbers: report.md, report.html and plots.

Reads run.json, metrics.jsonl and eval_results.json of every run, and inference.json; writes report.md, report.html
(one page that needs nothing else) and plots/*.png into --output_dir. What is missing or left out is said.
"""
from __future__ import annotations

import argparse
import math
import shlex
import statistics
import sys
from pathlib import Path

from transformer.cli import Parser, run_script
from transformer.files import InputError, atomic_write
from transformer.reporting.answers_table import squad
from transformer.reporting.chinese_table import chinese
from transformer.reporting.curves import draw_models, require_matplotlib
from transformer.reporting.own_table import own_tasks
from transformer.reporting.pages import Block, Heading, Inline, Link, Pictures, Table, Text, render
from transformer.reporting.published import ABLATIONS, FASTER, PAPER, SMALLER, ablation_table, published
from transformer.reporting.runs import (
    MISSING,
    FinishedRun,
    Remarks,
    cell,
    comparable,
    is_number,
    lines_of,
    model_name,
    parameters,
    picture,
    references,
    score,
    shown_metrics,
    students_of,
    tasks_of,
)
from transformer.reporting.scores_table import dev_table
from transformer.reporting.timings import milliseconds, noted_seconds
from transformer.tasks.clue import CLUE
from transformer.tasks.glue import GLUE
from transformer.tasks.table import TASKS

FOLDERS = ["models", "results"]
INFERENCE_NAME = "inference.json"  # of benchmarks/bench_inference.py
LOSSES = {"att_loss": "attention loss", "rep_loss": "hidden loss", "cls_loss": "prediction loss"}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, as given."""
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", default=FOLDERS,
                        help="folders to look for runs in, with all that is below them")
    parser.add_argument("--output_dir", default="results", help="folder to write to, and to read inference.json from")
    return parser.parse_args(argv)


def results(runs: list[FinishedRun]) -> list[Block]:
    """Dev scores of the full method on GLUE, student by student, and of the teachers; the paper's tasks are shown when
    they are missing."""
    full = [run for run in runs if run.variant == "full" and run.is_result and run.task.key in GLUE]
    blocks = [Heading("Dev scores of these runs"), Text(
        "Percent, on the dev set, on which the best checkpoint of a run was picked, too. n runs that differ in their "
        "seed; sd is the sample standard deviation over these n, which a single run does not have. A small number is "
        "the number of a run in the list at the end, and links to its run.json; the best score links to the run's "
        "folder.")]
    groups = {f"{model_name(student)}:": [run for run in full if run.student == student]
              for student in students_of(full)}
    groups["Teachers:"] = [run for run in runs if run.stage == "teacher"]
    for caption, group in groups.items():
        tasks = [task for task in GLUE.values() if task.name != "WNLI" or task in tasks_of(group)]  # as in the paper
        blocks += dev_table(group, tasks, caption)
    return blocks


def ablations(runs: list[FinishedRun]) -> list[Block]:
    """For each student: mean dev scores of each variant, their average and its distance to the full method."""
    blocks = [Heading("Ablations"), Text(
        "Dev scores. The average is over the columns that a variant and the full method both have, and so is the "
        f"difference to the full method. Averages of different tasks, as the {PAPER}'s, do not compare; the "
        "differences tell what each part is worth. SQuAD's F1 is part of no average, Chinese tasks of none with "
        "GLUE's, and your own of none with others.")]
    students = [run for run in runs if run.is_result and not run.variant.startswith("search")]
    tables = [variant_table([run for run in students if run.student == student], model_name(student))
              for student in students_of(students) if student == "4l" or
              any(run.student == student and run.variant != "full" for run in students)]
    return [*blocks, *tables, Text(f"{PAPER}, TinyBERT4, dev; which metric of MRPC this is, is not known here:"),
            ablation_table()]


def variant_table(runs: list[FinishedRun], model: str) -> Table:
    """A row for each variant of one student, those of the paper also where no run is of them; full is the first."""
    paper = {variant: row.scores["average"] for variant, row in ABLATIONS.items()}
    tasks = tasks_of(run for run in runs if run.variant != "full") or [TASKS["mnli"], TASKS["mrpc"], TASKS["cola"]]
    own = {task.key for task in tasks} - TASKS.keys()
    averaged = next((group for group in (GLUE, CLUE) if any(task.key in group for task in tasks)), own)
    columns = {}  # task and metric by heading
    for task in tasks:
        mismatched = f"{task.metric}_mismatched"
        if mismatched in shown_metrics(task):
            columns |= {f"{task.name}-m": (task, task.metric), f"{task.name}-mm": (task, mismatched)}
        else:
            columns[task.name] = task, task.metric
    rows, full = [], []
    for variant in dict.fromkeys([*paper, *(run.variant for run in runs)]):
        cells, means = [], []
        for task, metric in columns.values():
            group = [run for run in runs if (run.variant, run.task) == (variant, task)]
            cells.append(cell(group, metric))
            _, values = score(group, metric)
            if task.key in averaged:
                means.append(statistics.fmean(values) if values else None)
        full = full or means
        both = [pair for pair in zip(means, full) if None not in pair]
        averages = [MISSING, MISSING]
        if both:
            average, average_of_full = map(statistics.fmean, zip(*both))
            share = f" ({len(both)} of {len(means)})" if len(both) < len(means) else ""
            averages = [f"{average:.1f}{share}", f"{average - average_of_full:+.1f}{share}"]
        published_averages = ["", ""]
        if variant in paper:
            published_averages = [f"{paper[variant]:.1f}", f"{paper[variant] - paper['full']:+.1f}"]
        rows.append([variant, *cells, *averages, *published_averages])
    return Table(["variant", *columns, "average", "to full", "average", "to full"], rows,
                 "l" + "r" * (len(columns) + 4), (("", 1), (f"these runs, {model}", len(columns) + 2), (PAPER, 2)))


def search(runs: list[FinishedRun]) -> list[Block]:
    """Dev score at each batch size and learning rate of the prediction stage."""
    searched = [run for run in runs if run.is_result and run.variant.startswith("search")]
    blocks = [Heading("Search of the prediction stage"), Text(
        "Batch size and learning rate, chosen on the dev set as in the paper: the chosen score is the best of several "
        "on the same set, and so a little too high.")]
    if not searched:
        return [*blocks, Text("Missing: there is no run models/runs/search_*.")]
    settings = sorted({run.batch_and_rate for run in searched})
    rows = []
    for student, task in dict.fromkeys((run.student, run.task) for run in searched):
        alike = [run for run in searched if (run.student, run.task) == (student, task)]
        cells, means = [], {}
        for setting in settings:
            group = [run for run in alike if run.batch_and_rate == setting]
            cells.append(cell(group, task.metric))
            if group:
                means[setting] = statistics.fmean(score(group, task.metric)[1])
        batch, rate = max(means, key=means.get)
        rows.append([f"{model_name(student)}, {task.name}", *cells, f"{batch}, {rate:g}"])
    heads = [f"{batch}, {rate:g}" for batch, rate in settings]
    # as an example, the last row's
    variable, asked = task.key.upper(), f"--tasks {task.name}" + " --language chinese" * (task.key in CLUE)
    if task.key not in TASKS:
        variable, asked = "OWN", f"--task_dir {shlex.quote(str(alike[-1].record['settings'].get('data_dir')))}"
    flags = f'PREDICTION_FLAGS_{variable}="--train_batch_size {batch} --learning_rate {rate:g}"'
    return [*blocks, Table(["batch, rate", *heads, "chosen"], rows, "l" + "r" * len(heads) + "l"), Text(
        f"To train more seeds so: {flags} ./reproduce.sh {asked} --students {student} --seeds 1,2,3")]


def curves(runs: list[FinishedRun], plots: Path, remarks: Remarks) -> list[Block]:
    """Pictures of the losses of both distillations, and of the dev scores, over the steps."""
    general, losses, scores = [], [], []
    for value in ("att_loss", "rep_loss"):
        lines = lines_of([run for run in runs if run.stage == "general"], value, 1, remarks)
        general += picture(plots / f"general_{value}.png", "General distillation", LOSSES[value], lines)
    full = [run for run in runs if run.variant == "full"]
    for task in tasks_of(full):
        of_task = [run for run in full if run.task == task]
        for value, label in LOSSES.items():
            stage = "prediction" if value == "cls_loss" else "intermediate"
            lines = lines_of([run for run in of_task if run.stage == stage], value, 1, remarks)
            losses += picture(plots / f"{task.key}_{value}.png", f"{task.name}, {stage} stage", label, lines)
        _, teachers = score([run for run in of_task if run.stage == "teacher"], task.metric)
        lines = lines_of([run for run in of_task if run.is_result], task.metric, 100, remarks)
        scores += picture(plots / f"{task.key}_dev.png", task.name, f"dev {task.metric}, percent", lines,
                          statistics.fmean(teachers) if teachers else None)
    blocks = []
    for title, items in (("Losses of general distillation", general), ("Losses of task distillation", losses),
                         ("Dev score over steps", scores)):
        blocks += [Heading(title), Pictures(items) if items else Text("Missing: there is no such run.")]
    return blocks


def sizes(runs: list[FinishedRun], plots: Path, inference: Path, remarks: Remarks) -> list[Block]:
    """Parameters, latency and mean dev score of each model, over the tasks that all of them have."""
    models, shared = comparable(runs)
    blocks = [Heading("Size, speed and score")]
    if not models or not shared:
        return [*blocks, Text("Missing: there are no models that share a task.")]
    timings = milliseconds(inference, remarks)
    rows, points, timed = [], [], []
    size_of_teacher = parameters(models["teacher"][0]) if "teacher" in models else 0
    for name, group in models.items():
        used = [run for run in group if run.task in shared]
        mean = statistics.fmean(statistics.fmean(score([run for run in used if run.task == task], task.metric)[1])
                                for task in shared)
        size = parameters(group[0])
        timed_size, time = timings.get(name, (0, 0.0))
        if not math.isclose(size, timed_size, rel_tol=0.02):  # another model; a wider classifier makes no other
            time = 0.0
        points.append((name, size, mean, size))
        timed += [(name, time, mean, size)] if time else []
        rows.append([name, f"{size:,}", f"{size_of_teacher / size:.1f}" if size_of_teacher else MISSING,
                     [f"{time:.1f}", " ", Link("source", inference)] if time else MISSING,
                     [f"{mean:.1f}", *references(used)]])
    note: list[Inline] = [
        f"Average over {', '.join(task.name for task in shared)}. In the paper TinyBERT4 is {SMALLER} times smaller "
        f"and {FASTER} times faster than BERT-base (on one K80)."]
    if not timed:
        note.append(f" Speed is left out: {inference} does not time models of these sizes (batch 1, length 128, fp32, "
                    "CPU); benchmarks/bench_inference.py makes it.")
    items = [(draw_models(plots / "size_score.png", "Score and size", "parameters", "mean dev score", points),
              "mean dev score over the number of parameters", "areas: parameters")]
    if timed:
        items.append((draw_models(plots / "speed_score.png", "Score and speed", "milliseconds for a sequence",
                                  "mean dev score", timed), "mean dev score over milliseconds", "areas: parameters"))
    return [*blocks, Table(["model", "parameters", "times smaller", "milliseconds", "mean dev score"], rows, "lrrrr",
                           note=note), Pictures(items)]


def costs(runs: list[FinishedRun], roots: list[Path], remarks: Remarks) -> list[Block]:
    """Wall time and speed of each kind of run, and the seconds that reproduce.sh noted for its steps."""
    rows = []
    full = [run for run in runs if run.variant == "full"]
    for stage, team, task in dict.fromkeys((run.stage, run.team, run.task) for run in full):
        group = [run for run in full if (run.stage, run.team, run.task) == (stage, team, task)
                 and all(is_number(run.record.get(name)) for name in ("seconds", "steps", "resumed_from"))]
        if not group:
            continue
        once = [run for run in group if run.student == group[0].student]  # the record of each tells the time of all
        seconds = [run.record["seconds"] for run in once]
        steps = [run.record["steps"] - run.record["resumed_from"] for run in once]
        speeds = [value for _, _, values in lines_of(once, "sequences_per_s", 1, remarks) for value in values]
        students = " and ".join(map(model_name, team)) + " together" * (len(team) > 1)
        rows.append([f"{stage}, {students}" if any(team) else stage, task.name if task else "",
                     str(len(once)), f"{statistics.fmean(steps):.0f}",
                     [f"{statistics.fmean(seconds):.0f}", *references(group)],
                     f"{sum(seconds) / max(1, sum(steps)):.3f}",
                     f"{statistics.median(speeds):.4g}" if speeds else MISSING,
                     ", ".join(sorted({str(run.record["hardware"].get("device")) for run in group}))])
    head = ["run", "task", "n", "steps", "wall seconds", "seconds per step", "sequences/s", "device"]
    blocks = [Heading("Cost"), Text(
        "Means over n runs. Wall seconds are those of a run from its first step on, its evaluations included; of one "
        "that was stopped and resumed, those since then, with the steps since then. Students that were trained "
        "together, from one pass of their teacher, have one row, whose seconds are those of all. Sequences a second: "
        "the median of what was logged. Energy is left out: it is not measured."),
        Table(head, rows, "llrrrrrl") if rows else Text("Missing: there is no such run.")]
    noted = noted_seconds(roots)
    if noted:
        rows = [[Link(str(folder), folder), kind, str(len(seconds)), f"{sum(seconds):,}"]
                for (folder, kind), seconds in sorted(noted.items())]
        blocks += [Text("Steps of reproduce.sh, wall seconds as it noted them, of all tasks and runs together:"),
                   Table(["folder", "step", "n", "seconds"], rows, "llrr")]
    return blocks


def lists(runs: list[FinishedRun], remarks: Remarks) -> list[Block]:
    """All runs by number, and what was left out or is to be noted."""
    rows = [[str(run.number), run.stage, model_name(run.student), run.task.name if run.task else "", run.variant,
             str(run.seed), f"{100 * run.scores[run.task.metric]:.1f} {run.task.metric}" if run.scores else "",
             Link(str(run.folder), run.folder), Link(run.file.name, run.file),
             str(run.record.get("started", ""))[:10], str(run.record.get("commit") or "")[:8]] for run in runs]
    head = ["no.", "stage", "model", "task", "variant", "seed", "dev score", "folder", "record", "started", "commit"]
    noted = [[Link(str(path), path), reason] for path, reason in remarks]
    return [Heading("Runs"), Table(head, rows, "rllllrrllll") if rows else Text("Missing: no run was found."),
            Heading("Left out, and notes"), Table(["folder", "reason"], noted, "ll") if remarks else Text("Nothing.")]


def main(argv: list[str] | None = None) -> None:
    """Collect the runs, draw the plots, and write the report twice."""
    args = parse_args(argv)
    from transformer.reporting.collection import collect  # after --help and refused flags: it takes seconds to load

    missing = [folder for folder in args.folders if not Path(folder).is_dir()]
    if missing and (args.folders != FOLDERS or missing == FOLDERS):
        raise InputError(f"no folder {' or '.join(missing)} here: run this where reproduce.sh was run, or name "
                         "folders with runs")
    require_matplotlib()
    roots = [Path(folder) for folder in dict.fromkeys(args.folders) if folder not in missing]
    output = Path(args.output_dir)
    plots = output / "plots"
    runs, remarks = collect(roots)
    tasks = tasks_of(runs)
    keys = dict.fromkeys([*TASKS, *(task.key for task in tasks)])
    pictures = [f"{what}_{value}" for what in ("general", *keys) for value in (*LOSSES, "dev")]
    for name in (*pictures, "size_score", "speed_score"):  # of an earlier report, which may have had other runs
        (plots / f"{name}.png").unlink(missing_ok=True)
    blocks = [*own_tasks(runs), *chinese(runs)]
    if not blocks or any(task.key in TASKS.keys() - CLUE.keys() for task in tasks):
        blocks = [*results(runs), *squad(runs), *published(), *blocks, *ablations(runs)]
    elif any(run.variant != "full" for run in runs):
        blocks += ablations(runs)
    blocks += [*search(runs), *curves(runs, plots, remarks), *sizes(runs, plots, output / INFERENCE_NAME, remarks),
               *costs(runs, roots, remarks)]
    blocks += lists(runs, remarks)  # the steps above add to the remarks
    blocks.insert(0, Text(f"{len(runs)} runs below {', '.join(map(str, roots))}; what is left out in whole or in part, "
                          f"and what else is to be known, is listed at the end ({len(remarks)} lines)."))
    for name in ("report.md", "report.html"):
        with atomic_write(output / name) as handle:
            handle.write(render(f"{name}.j2", "TinyBERT: results of this kit", blocks, output))
        print(output / name, flush=True)


if __name__ == "__main__":
    sys.exit(run_script(main))
