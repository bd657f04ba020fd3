"""Pictures of a training run: python -m transformer.curves FOLDER draws FOLDER/curves.png from its metrics.jsonl."""
from __future__ import annotations

import json
import sys
from pathlib import Path

from transformer.cli import run_script
from transformer.files import InputError, atomic_write, read_lines

CURVES_NAME = "curves.png"
_NOT_SHOWN = {"step", "epoch", "learning_rate", "sequences_per_s", "wordpieces_per_s", "memory_gb", "gpu_memory_gb"}


def draw_curves(folder: str | Path) -> Path:
    """Draw the losses and, below them, the dev scores of a run over its steps; returns the picture's path.

    Raises InputError where the folder has no metrics.jsonl with steps or epochs.
    """
    from matplotlib.figure import Figure  # takes a second to load

    metrics = Path(folder) / "metrics.jsonl"
    if not metrics.is_file():
        raise InputError(f"{metrics} does not exist: name the output folder of a training run")
    try:
        lines = [line for line in map(json.loads, read_lines(metrics)) if "loss" in line]
        steps = [line.get("step", line.get("epoch")) for line in lines]
        names = [name for name, value in lines[0].items() if isinstance(value, (int, float)) and name not in _NOT_SHOWN]
    except (ValueError, TypeError, IndexError):
        raise InputError(f"{metrics} holds no losses of a training run") from None
    panels = [[name for name in names if name.endswith("loss")], [name for name in names if not name.endswith("loss")]]
    panels = [panel for panel in panels if panel]
    figure = Figure(figsize=(8, 3.5 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), squeeze=False)[:, 0]
    for axis, panel in zip(axes, panels, strict=True):
        for name in panel:
            axis.plot(steps, [line.get(name) for line in lines], label=name, marker="." if len(lines) < 50 else None)
        axis.legend()
        axis.grid(alpha=0.3)
    axes[0].set_title(Path(folder).resolve().name)
    axes[-1].set_xlabel("optimizer step" if "step" in lines[0] else "epoch")
    path = Path(folder) / CURVES_NAME
    with atomic_write(path, "wb") as handle:
        figure.savefig(handle, format="png", dpi=120)
    return path


def main() -> None:
    if len(sys.argv) != 2:
        raise InputError("name one folder: python -m transformer.curves FOLDER")
    print(draw_curves(sys.argv[1]))


if __name__ == "__main__":
    sys.exit(run_script(main))
