"""The records in docs/laptop are what docs/results.md tells of them, and name no place on anybody's disk."""
import json
import re
import statistics
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.house.test_readme import rows_of
from transformer.reporting.collection import collect
from transformer.reporting.published import ABLATIONS

LAPTOP = ROOT / "docs" / "laptop"
PAGE = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """What stands below a heading of the third level."""
    return re.search(rf"^### {title}\n(.*?)(?=^##)", PAGE, re.M | re.S)[1]


@pytest.fixture
def runs(monkeypatch):
    """The runs of the sitting; paths in their records are relative to the folder that they were started in."""
    monkeypatch.chdir(LAPTOP / "runs")
    found, remarks = collect([Path("models"), Path("results")])
    assert not remarks
    return found


def test_scores_by_hand_are_those_of_the_records(runs):
    told = [row for row in rows_of(section("By hand, on real text")) if row[0] in ("SST-2", "MRPC")]
    assert len(told) >= 9
    full = {}
    for task, model, variant, n, mean, sd, difference, paper in told:
        scores = [100 * run.scores[run.task.metric] for run in runs if run.task and run.task.name == task and (
            run.stage == "teacher" if model == "teacher" else run.is_result and run.variant == variant)]
        assert (n, mean) == (str(len(scores)), f"{statistics.fmean(scores):.1f}"), (task, model, variant)
        assert sd == (f"{statistics.stdev(scores):.2f}" if len(scores) > 1 else ""), (task, model, variant)
        if variant == "full":
            full[task] = statistics.fmean(scores)
        wanted = "" if variant in ("full", "") else f"{statistics.fmean(scores) - full[task]:+.1f}"
        assert difference == wanted, (task, model, variant)
        published = {name: row.scores["average"] - ABLATIONS["full"].scores["average"]
                     for name, row in ABLATIONS.items() if name != "full"}
        assert paper == (f"{published[variant]:+.1f}" if variant in published else ""), (task, model, variant)
    assert sum(int(row[3]) for row in told) == sum(run.is_result or run.stage == "teacher" for run in runs)


def test_losses_beside_the_published_code_are_those_of_the_records():
    def mean(folder: str, name: str, first: int, last: int) -> float:
        """Of a loss over steps after `first` up to `last`, from logs that are means since the log before."""
        total, before = 0.0, 0
        for line in (LAPTOP / "published_code" / folder / "metrics.jsonl").read_text().splitlines():
            log = json.loads(line)
            total += log[name] * max(0, min(last, log["step"]) - max(first, before))
            before = log["step"]
        assert before >= last
        return total / (last - first)

    # the second epoch of general distillation begins after step 298, that of the intermediate stage after 787
    here = [row[2] for row in rows_of(section("Against the published code"))]
    losses = [f"{mean('gen_code', 'att_loss', 0, 49):.1f}"]
    losses += [", ".join(f"{mean(folder, name, first, last):.{digits}f}" for name, digits in zip(
        ("att_loss", "rep_loss"), shown, strict=True)) for folder, first, last, shown in (
            ("gen_code", 298, 601, (2, 3)), ("int_code", 787, 905, (3, 3)))]
    losses += [f"{mean('pred_code', 'cls_loss', 0, 787):.3f}"]
    assert [value for value in here if value in losses] == losses
    for folder in ("gen_code", "pred_code"):
        record = json.loads((LAPTOP / "published_code" / folder / "run.json").read_text())
        assert f"{record['seconds_of']['steps'] / record['steps']:.2f}" in here


def test_records_name_no_place_of_a_machine():
    files = [path for path in LAPTOP.rglob("*") if path.is_file()]
    assert len(files) > 50
    places = re.compile(r"(?<![\w./<])/(\w+/|root\b)|\b[A-Z]:\\|file://")
    texts = {path: re.sub(r"base64,[^\"]+", "", path.read_text(encoding="utf-8")) for path in files}
    assert [path for path, text in texts.items() if places.search(text)] == []
