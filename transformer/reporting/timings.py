"""What was measured beside the runs: milliseconds of models, seconds of the steps of reproduce.sh."""
from __future__ import annotations

from pathlib import Path

from transformer.files import InputError, read_json
from transformer.reporting.runs import Remarks, is_number


def milliseconds(path: Path, remarks: Remarks) -> dict[str, tuple[int, float]]:
    """(parameters, median milliseconds) of each model of the kit in inference.json: batch 1, length 128, fp32, CPU."""
    if not path.is_file():
        return {}
    wanted = {"engine": "kit", "device": "cpu", "precision": "fp32", "batch": 1, "length": 128}
    try:
        rows = [row for row in read_json(path)["rows"] if wanted.items() <= row.items()]
        return {row["model"].replace("BERT-base", "teacher"):
                (int(row["parameters"]), float(row["milliseconds_median"])) for row in rows
                if is_number(row["milliseconds_median"]) and row["milliseconds_median"] > 0}
    except (InputError, KeyError, TypeError, ValueError, AttributeError) as error:
        remarks.append((path, f"not one of benchmarks/bench_inference.py ({error!r})"))
        return {}


def noted_seconds(roots: list[Path]) -> dict[tuple[Path, str], list[int]]:
    """The seconds that reproduce.sh noted in results/steps: by that folder and the first word of the step's name."""
    seconds: dict[tuple[Path, str], list[int]] = {}
    for steps in sorted({steps.resolve(): steps for root in roots for steps in root.rglob("steps")}.values()):
        for mark in filter(Path.is_file, steps.rglob("*.seconds")):
            text = mark.read_text(encoding="utf-8", errors="replace").strip()
            if text.isdecimal():
                seconds.setdefault((steps, mark.stem.split("_")[0]), []).append(int(text))
    return seconds
