"""Report of all runs below some folders beside the published numbers: report.md, report.html and plots.

Reads run.json, metrics.jsonl and eval_results.json of every run, and inference.json; writes report.md, report.html
(one page that needs nothing else) and plots/*.png into --output_dir. What is missing or left out is said.
"""
from __future__ import annotations

import argparse
import sys

from transformer.cli import Parser, run_script

FOLDERS = ["models", "results"]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, as given."""
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", default=FOLDERS,
                        help="folders to look for runs in, with all that is below them")
    parser.add_argument("--output_dir", default="results", help="folder to write to, and to read inference.json from")
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_args()  # --help and refused flags answer before the slow imports below

import math
import statistics
from collections.abc import Callable
from pathlib import Path

from transformer.files import InputError, atomic_write
from transformer.reporting.curves import draw_lines, draw_models
from transformer.reporting.pages import Block, Heading, Inline, Link, Pictures, Table, Text, render
from transformer.reporting.published import ABLATIONS, FASTER, PAPER, SMALLER, ablation_table, published
from transformer.reporting.runs import (
    METRICS,
    MISSING,
    Left,
    Run,
    cell,
    collect,
    comparable,
    dev_examples,
    differing_settings,
    is_number,
    lines_of,
    milliseconds,
    model_name,
    noted_seconds,
    parameters,
    references,
    score,
    shown_metrics,
    tasks_of,
)
from transformer.tasks.glue import TASKS
from transformer.training.record import RUN_NAME

INFERENCE_NAME = "inference.json"  # of benchmarks/bench_inference.py
LOSSES = {"att_loss": "attention loss", "rep_loss": "hidden loss", "cls_loss": "prediction loss"}


def dev_table(runs: list[Run], caption: str) -> list[Block]:
    """Dev scores of one model: a row for each task and metric; the paper's tasks are shown when they are missing."""
    rows, notes = [], []
    for task in TASKS.values():
        group = [run for run in runs if run.task == task]
        if not group and task.name != "WNLI":  # which the paper leaves out
            rows.append([task.name, METRICS.get(task.metric, "correlation"), "0", MISSING, "", "", ""])
        for metric in shown_metrics(task):
            scored, values = score(group, metric)
            if not values:
                continue
            best = max(scored, key=lambda run: run.scores[metric])
            sources = sorted({run.source for run in scored})
            rows.append([task.name, METRICS[metric], str(len(values)),
                         [f"{statistics.fmean(values):.1f}", *references(scored)],
                         f"{statistics.stdev(values):.2f}" if len(values) > 1 else "none",
                         [Link(f"{max(values):.1f}", best.folder), *references([best])], ", ".join(sources)])
        if differing := differing_settings(group) if len(group) > 1 else []:
            notes.append(f"The runs of {task.name} do not have the same settings: {', '.join(differing)}. ")
        if counts := {dev_examples(run.folder) for run in group} - {(), task.rows[1:]}:
            glue, *others = (" + ".join(map(str, rows)) for rows in (task.rows[1:], *sorted(counts)))
            notes.append(f"{task.name}: not GLUE's dev set of {glue} examples, but one of {', '.join(others)}. ")
    return [Text([caption]), Table(["task", "metric", "n", "mean", "sd", "best", "score from"], rows, "llrrrrl",
                                   note="".join(notes))]


def results(runs: list[Run]) -> list[Block]:
    """Dev scores of the full method, student by student, and of the teachers."""
    full = [run for run in runs if run.variant == "full" and run.is_result]
    blocks = [Heading("Dev scores of these runs"), Text(
        "Percent, on the dev set, on which the best checkpoint of a run was picked, too. n runs that differ in their "
        "seed; sd is the sample standard deviation over these n, which a single run does not have. A small number is "
        "the number of a run in the list at the end, and links to its run.json; the best score links to the run's "
        "folder.")]
    for student in sorted({"4l", "6l"} | {run.student for run in full}):
        blocks += dev_table([run for run in full if run.student == student], f"{model_name(student)}:")
    return blocks + dev_table([run for run in runs if run.stage == "teacher"], "Teachers:")


def ablations(runs: list[Run]) -> list[Block]:
    """For each student: mean dev scores of each variant, their average and its distance to the full method."""
    paper = {variant: row.scores for variant, row in ABLATIONS.items()}
    blocks = [Heading("Ablations"), Text(
        "Dev scores. The average is over the columns that a variant and the full method both have, and so is the "
        f"difference to the full method. Averages of different tasks, as the {PAPER}'s, do not compare; the "
        "differences tell what each part is worth.")]
    there = [run for run in runs if run.is_result and not run.variant.startswith("search")]
    for student in sorted({"4l"} | {run.student for run in there if run.variant != "full"}):
        mine = [run for run in there if run.student == student]
        tried = tasks_of(run for run in mine if run.variant != "full") or [TASKS["mnli"], TASKS["mrpc"], TASKS["cola"]]
        columns = [(task, metric) for task in tried
                   for metric in (shown_metrics(task) if task.name == "MNLI" else (task.metric,))]
        labels = [task.name if task.name != "MNLI" else "MNLI-m" if metric == "acc" else "MNLI-mm"
                  for task, metric in columns]
        rows, full = [], []
        for variant in dict.fromkeys([*paper, *(run.variant for run in mine)]):
            groups = [[run for run in mine if (run.variant, run.task) == (variant, task)] for task, _ in columns]
            values = [score(group, metric)[1] for group, (_, metric) in zip(groups, columns)]
            means = [statistics.fmean(some) if some else None for some in values]
            full = full or means
            pairs = [pair for pair in zip(means, full) if None not in pair]
            average, base = map(statistics.fmean, zip(*pairs)) if pairs else (0, 0)
            some = f" ({len(pairs)} of {len(columns)})" if len(pairs) < len(columns) else ""
            other = paper.get(variant, {}).get("average")
            rows.append([variant, *(cell(group, metric) for group, (_, metric) in zip(groups, columns)),
                         *([f"{average:.1f}{some}", f"{average - base:+.1f}{some}"] if pairs else [MISSING] * 2),
                         *([f"{other:.1f}", f"{other - paper['full']['average']:+.1f}"] if other else ["", ""])])
        blocks.append(Table(["variant", *labels, "average", "to full", "average", "to full"], rows,
                            "l" + "r" * (len(labels) + 4), (
                                ("", 1), (f"these runs, {model_name(student)}", len(labels) + 2), (PAPER, 2))))
    return [*blocks, Text(f"{PAPER}, TinyBERT4, dev; which metric of MRPC this is, is not known here:"),
            ablation_table()]


def search(runs: list[Run]) -> list[Block]:
    """Dev score at each batch size and learning rate of the prediction stage."""
    tried = [run for run in runs if run.is_result and run.variant.startswith("search")]
    blocks = [Heading("Search of the prediction stage"), Text(
        "Batch size and learning rate, chosen on the dev set as in the paper: the chosen score is the best of several "
        "on the same set, and so a little too high.")]
    if not tried:
        return [*blocks, Text("Missing: there is no run models/runs/search_*.")]

    def setting(run: Run) -> tuple[int, float]:
        return run.record["settings"].get("train_batch_size", 0), run.record["settings"].get("learning_rate", 0)

    settings = sorted(set(map(setting, tried)))
    rows = []
    for student, task in dict.fromkeys((run.student, run.task) for run in tried):
        groups = {one: [run for run in tried if (run.student, run.task, setting(run)) == (student, task, one)]
                  for one in settings}
        batch, rate = max((one for one in settings if groups[one]),
                          key=lambda one: statistics.fmean(score(groups[one], task.metric)[1]))
        rows.append([f"{model_name(student)}, {task.name}", *(cell(group, task.metric) for group in groups.values()),
                     f"{batch}, {rate:g}"])
    heads = [f"{batch}, {rate:g}" for batch, rate in settings]
    return [*blocks, Table(["batch, rate", *heads, "chosen"], rows, "l" + "r" * len(heads) + "l")]


def curves(runs: list[Run], plots: Path, left: Left) -> list[Block]:
    """Pictures of the losses of both distillations, and of the dev scores, over the steps."""
    def picture(name: str, title: str, label: str, value: str, of: list[Run], named: Callable[[Run], str],
                scale: float = 1, extra: tuple = ()) -> list[tuple]:
        lines = lines_of(of, value, scale, left)
        if not lines:
            return []
        path = draw_lines(plots / f"{name}.png", title, label, [(named(run), *points) for run, *points in lines] + [
            (text, [0, max(points[0][-1] for _, *points in lines)], [level] * 2) for text, level in extra])
        return [(path, f"{title}: {label} over optimizer steps", ["runs", *references(run for run, *_ in lines)])]

    general, losses, scores = [], [], []
    for value in ("att_loss", "rep_loss"):
        general += picture(f"general_{value}", "General distillation", LOSSES[value], value,
                           [run for run in runs if run.stage == "general"], lambda run: model_name(run.student) + (
                               "" if run.variant == "full" else f", {run.variant}"))
    full = [run for run in runs if run.variant == "full"]
    for task in tasks_of(full):
        for value, label in LOSSES.items():
            stage = "prediction" if value == "cls_loss" else "intermediate"
            losses += picture(f"{task.key}_{value}", f"{task.name}, {stage} stage", label, value, [
                run for run in full if run.task == task and run.stage == stage], lambda run: model_name(run.student))
        _, teacher = score([run for run in full if run.stage == "teacher" and run.task == task], task.metric)
        scores += picture(f"{task.key}_dev", task.name, f"dev {task.metric}, percent", task.metric, [
            run for run in full if run.task == task and run.is_result], lambda run: model_name(run.student), 100,
            (("teacher", statistics.fmean(teacher)),) if teacher else ())
    blocks = []
    for title, items in (("Losses of general distillation", general), ("Losses of task distillation", losses),
                         ("Dev score over steps", scores)):
        blocks += [Heading(title), Pictures(items) if items else Text("Missing: there is no such run.")]
    return blocks


def sizes(runs: list[Run], plots: Path, inference: Path, left: Left) -> list[Block]:
    """Parameters, latency and mean dev score of each model, over the tasks that all of them have."""
    models, shared = comparable(runs)
    blocks = [Heading("Size, speed and score")]
    if not models or not shared:
        return [*blocks, Text("Missing: there are no models that share a task.")]
    timed = milliseconds(inference, left)
    rows, points, fast = [], [], []
    first = parameters(models["teacher"][0]) if "teacher" in models else 0
    for name, group in models.items():
        used = [run for run in group if run.task in shared]
        mean = statistics.fmean(statistics.fmean(score([run for run in used if run.task == task], task.metric)[1])
                                for task in shared)
        size = parameters(group[0])
        there, time = timed.get(name, (0, 0.0))
        if not math.isclose(size, there, rel_tol=0.02):  # other sizes were timed; a wider classifier is no other
            time = 0.0
        points.append((name, size, mean, size))
        fast += [(name, time, mean, size)] if time else []
        rows.append([name, f"{size:,}", f"{first / size:.1f}" if first else MISSING,
                     [f"{time:.1f}", " ", Link("source", inference)] if time else MISSING,
                     [f"{mean:.1f}", *references(used)]])
    note: list[Inline] = [
        f"Average over {', '.join(task.name for task in shared)}. In the paper TinyBERT4 is {SMALLER} times smaller "
        f"and {FASTER} times faster than BERT-base (on one K80)."]
    if not fast:
        note.append(f" Speed is left out: {inference} does not time models of these sizes (batch 1, length 128, fp32, "
                    "CPU); benchmarks/bench_inference.py makes it.")
    items = [(draw_models(plots / "size_score.png", "Score and size", "parameters", "mean dev score", points),
              "mean dev score over the number of parameters", "areas: parameters")]
    if fast:
        items.append((draw_models(plots / "speed_score.png", "Score and speed", "milliseconds for a sequence",
                                  "mean dev score", fast), "mean dev score over milliseconds", "areas: parameters"))
    return [*blocks, Table(["model", "parameters", "times smaller", "milliseconds", "mean dev score"], rows, "lrrrr",
                           note=note), Pictures(items)]


def costs(runs: list[Run], roots: list[Path], left: Left) -> list[Block]:
    """Wall time and speed of each kind of run, and the seconds that reproduce.sh noted for its steps."""
    rows = []
    full = [run for run in runs if run.variant == "full"]
    for stage, student, task in dict.fromkeys((run.stage, run.student, run.task) for run in full):
        group = [run for run in full if (run.stage, run.student, run.task) == (stage, student, task)
                 and all(is_number(run.record.get(name)) for name in ("seconds", "steps", "resumed_from"))]
        if not group:
            continue
        seconds = [run.record["seconds"] for run in group]
        steps = [run.record["steps"] - run.record["resumed_from"] for run in group]
        speeds = [value for _, _, values in lines_of(group, "sequences_per_s", 1, left) for value in values]
        rows.append([f"{stage}, {model_name(student)}" if student else stage, task.name if task else "",
                     str(len(group)), f"{statistics.fmean(steps):.0f}",
                     [f"{statistics.fmean(seconds):.0f}", *references(group)],
                     f"{sum(seconds) / max(1, sum(steps)):.3f}",
                     f"{statistics.median(speeds):.4g}" if speeds else MISSING,
                     ", ".join(sorted({str(run.record["hardware"].get("device")) for run in group}))])
    head = ["run", "task", "n", "steps", "wall seconds", "seconds per step", "sequences/s", "device"]
    blocks = [Heading("Cost"), Text(
        "Means over n runs. Wall seconds are those of a run from its first step on, its evaluations included; of one "
        "that was stopped and resumed, those since then, with the steps since then. Sequences a second: the median of "
        "what was logged. Energy is left out: it is not measured."),
        Table(head, rows, "llrrrrrl") if rows else Text("Missing: there is no such run.")]
    noted = noted_seconds(roots)
    if noted:
        rows = [[Link(str(folder), folder), kind, str(len(seconds)), f"{sum(seconds):,}"]
                for (folder, kind), seconds in sorted(noted.items())]
        blocks += [Text("Steps of reproduce.sh, wall seconds as it noted them, of all tasks and runs together:"),
                   Table(["folder", "step", "n", "seconds"], rows, "llrr")]
    return blocks


def lists(runs: list[Run], left: Left) -> list[Block]:
    """All runs by number, and what was left out or is to be noted."""
    rows = [[str(run.number), run.stage, model_name(run.student), run.task.name if run.task else "", run.variant,
             str(run.seed), f"{100 * run.scores[run.task.metric]:.1f} {run.task.metric}" if run.scores else "",
             Link(str(run.folder), run.folder), Link(RUN_NAME, run.folder / RUN_NAME),
             str(run.record.get("started", ""))[:10], str(run.record.get("commit") or "")[:8]] for run in runs]
    head = ["no.", "stage", "model", "task", "variant", "seed", "dev score", "folder", "record", "started", "commit"]
    noted = [[Link(str(path), path), reason] for path, reason in left]
    return [Heading("Runs"), Table(head, rows, "rllllrrllll") if rows else Text("Missing: no run was found."),
            Heading("Left out, and notes"), Table(["folder", "reason"], noted, "ll") if left else Text("Nothing.")]


def main(argv: list[str] | None = None) -> None:
    """Collect the runs, draw the plots, and write the report twice."""
    args = parse_args(argv)
    missing = [folder for folder in args.folders if not Path(folder).is_dir()]
    if missing and (args.folders != FOLDERS or missing == FOLDERS):
        raise InputError(f"no folder {' or '.join(missing)} here: run this where reproduce.sh was run, or name "
                         "folders with runs")
    roots = [Path(folder) for folder in dict.fromkeys(args.folders) if folder not in missing]
    output = Path(args.output_dir)
    plots = output / "plots"
    runs, left = collect(roots)
    pictures = [f"{what}_{value}" for what in ("general", *TASKS) for value in (*LOSSES, "dev")]
    for name in (*pictures, "size_score", "speed_score"):  # of an earlier report, which may have had other runs
        (plots / f"{name}.png").unlink(missing_ok=True)
    blocks = [*results(runs), *published(), *ablations(runs), *search(runs), *curves(runs, plots, left),
              *sizes(runs, plots, output / INFERENCE_NAME, left), *costs(runs, roots, left)]
    blocks += lists(runs, left)  # the steps above add to what is left out
    blocks.insert(0, Text(f"{len(runs)} runs below {', '.join(map(str, roots))}; what is left out in "
                          f"whole or in part, and what else is to be known, is listed at the end ({len(left)} lines)."))
    for name in ("report.md", "report.html"):
        with atomic_write(output / name) as handle:
            handle.write(render(f"{name}.j2", "TinyBERT: results of this kit", blocks, output))
        print(output / name, flush=True)


if __name__ == "__main__":
    sys.exit(run_script(main))
