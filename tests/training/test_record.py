"""What run.json and metrics.jsonl tell of a run: how it was called, on what, and how fast it went."""
from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from transformer.files import InputError, write_json
from transformer.training import record
from transformer.training.processes import Processes

ALONE = Processes(0, 1, torch.device("cpu"))


def test_a_run_tells_how_it_was_called_and_on_what(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/home/me/kit/general_distill.py", "--output_dir", "my models/out"])
    told = record.describe_run(argparse.Namespace(seed=7), Processes(0, 3, torch.device("cpu")))
    assert told["command"] == "general_distill.py --output_dir 'my models/out'" and told["settings"] == {"seed": 7}
    assert told["versions"] == {"python": sys.version.split()[0], "torch": torch.__version__, "numpy": np.__version__}
    hardware = told["hardware"]
    assert (hardware["device"], hardware["processes"], hardware["threads"]) == ("cpu", 3, torch.get_num_threads())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}", told["started"])


def test_the_commit_of_the_kit(tmp_path, monkeypatch):
    """With a + where files of it were changed, those that are new aside; none outside of a checkout and without git."""
    def git(*arguments: object) -> str:
        return subprocess.run(["git", "-c", "user.name=n", "-c", "user.email=e@x", *map(str, arguments)], cwd=tmp_path,
                              check=True, capture_output=True, text=True).stdout.strip()

    def commit() -> str | None:
        return record.describe_run(argparse.Namespace(), ALONE)["commit"]

    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(record, "__file__", str(tmp_path / "record.py"))
    assert commit() is None
    git("init", "--quiet")
    (tmp_path / "record.py").write_text("1")
    git("add", "record.py")
    git("commit", "--quiet", "--message", "one")
    (tmp_path / "new.txt").write_text("1")
    assert commit() == git("rev-parse", "HEAD") and re.fullmatch("[0-9a-f]{40}", commit())
    (tmp_path / "record.py").write_text("2")
    assert commit() == git("rev-parse", "HEAD") + "+"
    monkeypatch.setenv("PATH", "")
    assert commit() is None


def test_speeds_are_those_since_the_last_log(tmp_path, monkeypatch):
    clock = SimpleNamespace(now=100.0, strftime=lambda _: "then")
    clock.time = lambda: clock.now
    monkeypatch.setattr(record, "time", clock)
    run = record.RunRecord(tmp_path, argparse.Namespace(resume=False), ALONE)
    for now, batches, sequences, wordpieces in ((104, ([3, 5], [4]), 0.75, 3), (106, ([10],), 0.5, 5), (107, (), 0, 0)):
        clock.now = now
        for lengths in batches:
            run.count(np.array(lengths))
        speed = run.speed()
        assert (speed["sequences_per_s"], speed["wordpieces_per_s"]) == (sequences, wordpieces)
        assert "gpu_memory_gb" not in speed
    if sys.platform == "linux":
        peak = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
        assert speed["memory_gb"] == pytest.approx(peak / 1e9, rel=0.01)
    clock.now = 142.25
    run.finish(acc=0.5)
    told = record.read_run(tmp_path)
    assert told["seconds"] == 42.2 and told["finished"] and told["acc"] == 0.5


def test_only_a_finished_run_needs_no_going_on(tmp_path):
    for finished in (True, False):
        write_json(tmp_path / "run.json", {"finished": finished})
        assert record.check_output(tmp_path, resume=True, overwrite=False) == finished == record.is_finished(tmp_path)
    with pytest.raises(InputError, match="holds a run that was stopped"):
        record.check_output(tmp_path, resume=False, overwrite=False)
    assert record.check_output(tmp_path, resume=False, overwrite=True) is False
    (tmp_path / "run.json").unlink()
    assert record.check_output(tmp_path, resume=True, overwrite=False) is False and record.is_finished(tmp_path)
