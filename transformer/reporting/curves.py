"""Pictures of training runs; python -m transformer.reporting.curves FOLDER draws FOLDER/curves.png."""
from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformer.cli import run_script
from transformer.files import InputError, atomic_write, read_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES_NAME = "curves.png"
_NOT_SHOWN = {"step", "epoch", "learning_rate", "sequences_per_s", "wordpieces_per_s", "memory_gb", "gpu_memory_gb"}
_FEW = 50  # points, up to which each is marked: a line through one point is not seen


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl that hold a loss.

    Raises InputError where the folder has no metrics.jsonl with steps or epochs.
    """
    metrics = Path(folder) / "metrics.jsonl"
    if not metrics.is_file():
        raise InputError(f"{metrics} does not exist: name the output folder of a training run")
    try:
        lines = [line for line in map(json.loads, read_lines(metrics)) if isinstance(line, dict) and "loss" in line]
    except (ValueError, RecursionError):
        lines = []
    if not lines:
        raise InputError(f"{metrics} holds no losses of a training run: name the output folder of one")
    return lines


def draw_curves(folder: str | Path) -> Path:
    """Draw the losses and, below them, the dev scores of a run over its steps; returns the picture's path.

    Raises InputError as read_metrics() does, and where the picture cannot be drawn or written.
    """
    lines, path = read_metrics(folder), Path(folder) / CURVES_NAME
    try:
        return _draw_curves(lines, path)
    except Exception as error:  # noqa: BLE001  without its fonts, its caches or a part of itself matplotlib raises any
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, OSError) and error.strerror:  # without its number; a temporary file is nobody's
            named = str(error.filename or ".tmp")
            reason = error.strerror if named.endswith(".tmp") else f"{error.strerror}: {named}"
        raise InputError(f"{path} cannot be drawn ({reason}): see to matplotlib and to the space on the disk, then "
                         f"python -m transformer.reporting.curves {folder}") from None


def draw_or_warn(folder: str | Path) -> None:
    """draw_curves() at the end of a run, which is finished also where it cannot be drawn: then a warning tells why."""
    try:
        draw_curves(folder)
    except InputError as error:
        print(f"warning: {error}", flush=True)


def require_matplotlib() -> None:
    """InputError where matplotlib cannot be loaded: nothing can be drawn then."""
    try:
        _figure(1, 1)
    except ImportError as error:
        raise InputError(f"the plots need matplotlib, which cannot be loaded ({error}): pip install -r "
                         "requirements.txt") from None


def _draw_curves(lines: list[dict[str, Any]], path: Path) -> Path:
    steps = [line.get("step", line.get("epoch")) for line in lines]
    # a second dev set is not scored with every log
    names = dict.fromkeys(name for line in lines for name, value in line.items()
                          if isinstance(value, (int, float)) and name not in _NOT_SHOWN)
    panels = [[name for name in names if name.endswith("loss")], [name for name in names if not name.endswith("loss")]]
    panels = [panel for panel in panels if panel]
    figure = _figure(8, 3.5 * len(panels))
    axes = figure.subplots(len(panels), squeeze=False)[:, 0]
    for axis, panel in zip(axes, panels, strict=True):
        for name in panel:
            points = [(step, line[name]) for step, line in zip(steps, lines, strict=True) if name in line]
            axis.plot(*zip(*points, strict=True), label=name, marker="." if len(points) < _FEW else None)
        axis.legend()
        axis.grid(alpha=0.3)
    axes[0].set_title(path.parent.resolve().name)
    axes[-1].set_xlabel("optimizer step" if "step" in lines[0] else "epoch")
    return _save(figure, path, dpi=120)


def _figure(width: float, height: float) -> Figure:
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it draws without a home to write to, and need not say so
    from matplotlib.figure import Figure  # takes a second to load

    return Figure(figsize=(width, height), layout="constrained")


def _small_figure(title: str, x_label: str, y_label: str) -> tuple[Figure, Axes]:
    """A figure that is still readable when it is shown 350 pixels wide, and its axis."""
    figure = _figure(4.6, 3.1)
    axis = figure.subplots()
    axis.set_title(title, fontsize=11)
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def _save(figure: Figure, path: Path, dpi: int) -> Path:
    with atomic_write(path, "wb") as handle:
        figure.savefig(handle, format="png", dpi=dpi)
    return path


def draw_lines(path: Path, title: str, y_label: str, lines: Sequence[tuple[str, list, list]]) -> Path:
    """Draw a line for each (name, steps, values) into the PNG `path`, which is returned; equal names share a colour."""
    figure, axis = _small_figure(title, "optimizer step", y_label)
    colours = {name: f"C{number}" for number, name in enumerate(dict.fromkeys(name for name, _, _ in lines))}
    seen = set()
    for name, steps, values in lines:
        axis.plot(steps, values, color=colours[name], label=None if name in seen else name, linewidth=1.2, alpha=0.85,
                  marker="." if len(steps) < _FEW else None)
        seen.add(name)
    axis.set_xlim(left=0)
    axis.legend(fontsize=9)
    return _save(figure, path, dpi=144)


def draw_models(path: Path, title: str, x_label: str, y_label: str,
                points: Sequence[tuple[str, float, float, int]]) -> Path:
    """Draw (name, x, y, parameters) of models into the PNG `path`, which is returned: x on a log scale, areas as the
    parameters."""
    figure, axis = _small_figure(title, x_label, y_label)
    largest = max(parameters for *_, parameters in points)
    for number, (name, x, y, parameters) in enumerate(points):
        axis.scatter([x], [y], s=30 + 600 * parameters / largest, color=f"C{number}", alpha=0.6)
        axis.annotate(name, (x, y), fontsize=9, ha="center", va="bottom", xytext=(0, 16), textcoords="offset points")
    axis.set_xscale("log")
    axis.margins(0.3, 0.35)
    return _save(figure, path, dpi=144)


def main() -> None:
    """Draw the curves of the folder that the command line names."""
    if len(sys.argv) != 2:
        raise InputError("name one folder: python -m transformer.reporting.curves FOLDER")
    print(draw_curves(sys.argv[1]))


if __name__ == "__main__":
    sys.exit(run_script(main))
