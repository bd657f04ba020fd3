"""reproduce.sh with a stand-in for python: order, skipping, stopping at the first failure, starting from a step."""
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYTHON = r"""#!/bin/bash
echo "${*//$'\n'/ }" >> calls
[[ -z ${BREAK:-} || "$*" != *$BREAK* ]] || { echo "it broke" >&2; exit 2; }
"""


@pytest.fixture
def reproduce(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(PYTHON)
    (tmp_path / "bin" / "python").chmod(0o755)

    def call(*argv, **environment):
        (tmp_path / "calls").write_text("")
        run = subprocess.run(["bash", ROOT / "reproduce.sh", *argv], cwd=tmp_path, capture_output=True, text=True,
                             env=os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"} | environment)
        return run, (tmp_path / "calls").read_text().splitlines()
    return call


def test_each_step_once_in_order_then_none(reproduce):
    run, calls = reproduce("--tasks", "RTE,STS-B", "--students", "4l")
    assert run.returncode == 0, run.stderr
    scripts = [re.search(r"(import fetch|\w+\.py|WikiExtractor|zipfile)", call).group(1) for call in calls]
    assert scripts == [
        "import fetch", "zipfile", *["download_glue.py"] * 2, "import fetch", "get_bert_models.py", "WikiExtractor",
        "prepare_data.py", "pregenerate_training_data.py", "general_distill.py", *["data_augmentation.py"] * 2,
        "fix_teacher_layers.py", *["finetune_teacher.py"] * 2, *["task_distill.py"] * 6]
    distill = calls[-6:]
    assert ["--pred_distill" in call for call in distill] == [False, False, True, True, False, False]
    assert ["--aug_train" in call for call in distill] == [True, True, True, False, False, False]  # STS-B: as it was
    assert all("--do_eval" in call for call in distill[4:])
    run, calls = reproduce("--tasks", "RTE,STS-B", "--students", "4l")
    assert run.returncode == 0 and not calls and run.stdout.count("skipped") == 20


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_failure_names_the_step_and_its_log_and_a_new_start_goes_on(jobs, reproduce, tmp_path):
    run, calls = reproduce("--tasks", "RTE,CoLA", JOBS=jobs, BREAK="--task_name CoLA --output_dir models/tmp")
    assert run.returncode == 1
    assert "step intermediate_4l_cola failed" in run.stderr and "results/steps/intermediate_4l_cola.log" in run.stderr
    assert "it broke" in run.stderr and not any("--pred_distill" in call for call in calls)
    run, calls = reproduce("--tasks", "RTE,CoLA", JOBS=jobs)
    assert run.returncode == 0, run.stderr
    assert not any("general_distill" in call or "download" in call for call in calls)
    # what the failed try left is gone on with; a folder that somebody else filled is not
    resuming = [call for call in calls if "--resume" in call]
    assert resuming and all("--output_dir models/tmp_distilled_tinybert" in call and "CoLA" in call
                            for call in resuming)
    assert not any("--overwrite_output_dir" in call for call in calls)
    assert sum("--pred_distill" in call for call in calls) == 4


def test_from_does_the_step_and_what_follows_again(reproduce):
    reproduce("--tasks", "RTE", "--students", "6l")
    run, calls = reproduce("--tasks", "RTE", "--students", "6l", "--from", "prediction_6l_rte")
    assert run.returncode == 0 and len(calls) == 2 and "--pred_distill" in calls[0] and "--do_eval" in calls[1]
    assert "--overwrite_output_dir" in calls[0] and "--resume" not in calls[0]
    reproduce("--tasks", "RTE", "--students", "6l", "--from", "intermediate_6l_rte", BREAK="--output_dir models/tmp")
    run, calls = reproduce("--tasks", "RTE", "--students", "6l")  # without --from: what follows is still done again
    assert run.returncode == 0 and len(calls) == 3
    assert all("--overwrite_output_dir" in call for call in calls[:2])
    run, calls = reproduce("--tasks", "RTE", "--students", "6l")
    assert not calls


@pytest.mark.parametrize("argv", [
    ["--form", "x"], ["--from", "nothing"], ["--students", "5l"], ["--tasks", "rte"], ["--from"]])
def test_bad_arguments(argv, reproduce):
    run, calls = reproduce(*argv)
    assert run.returncode == 2 and len(run.stderr.splitlines()) == 1 and "error" in run.stderr and not calls


def test_wnli_is_not_augmented(reproduce):
    run, calls = reproduce("--tasks", "WNLI", "--students", "4l")
    assert run.returncode == 0 and not any("augment" in call or "--aug_train" in call for call in calls), run.stderr


def test_extra_flags_come_last(reproduce):
    _, calls = reproduce("--tasks", "RTE", "--students", "4l", INTERMEDIATE_FLAGS="--num_train_epochs 2")
    intermediate = next(call for call in calls if "task_distill" in call)
    assert intermediate.index("--num_train_epochs 10") < intermediate.index("--num_train_epochs 2")
