"""The table at the end of `make ablations`, read from the run folders in the working directory.

Fails unless task distillation, data augmentation and the Transformer losses each raise the mean score, as in the paper.
"""
from __future__ import annotations

import sys
from pathlib import Path
from statistics import fmean

from transformer.reporting.published import ABLATIONS
from transformer.tasks.table import get_task

from .table import scores

TASKS = ("CoLA", "MRPC")


def mean_score(variant: str, task: str, seeds: set[str]) -> float:
    """Of a variant's students of a task, over the folders of `seeds`."""
    task = get_task(task)
    return fmean(scores(f"models/runs/{variant}/{seed}/distilled_tinybert_4l_{task.key}/eval_results.json")[task.metric]
                 for seed in seeds)


def main() -> int:
    """Print the table; 1 where a part that is to help does not."""
    seeds = set.intersection(*({path.name for path in Path("models/runs", variant).glob("seed_*")}
                               for variant in ABLATIONS))  # those that all variants have
    print(f"\n{'dev scores':10}" + "".join(f" {task + ' ' + get_task(task).metric:>10}" for task in TASKS)
          + f" {'mean':>6} {'to full':>7}")
    means = {}
    for variant in ABLATIONS:
        by_task = [mean_score(variant, task, seeds) for task in TASKS]
        means[variant] = fmean(by_task)
        print(f"{variant:10}" + "".join(f" {100 * score:10.1f}" for score in by_task)
              + f" {100 * means[variant]:6.1f} {100 * (means[variant] - means['full']):+7.1f}")
    missed = [variant for variant in ("no_td", "no_da", "no_trm") if means[variant] >= means["full"]]
    for variant in missed:
        print(f"ablations: {variant} scores no less than full", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
