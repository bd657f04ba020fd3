"""reproduce.sh --task_dir: the steps and commands of a task of one's own, with a stand-in for python; what is refused;
its plan; and one real run on tiny models, killed in the middle and gone on with."""
from __future__ import annotations

import csv
import functools
import http.server
import importlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.chain.test_reproduce import PYTHON, caller, flags
from tests.conftest import PIECES, ROOT, edit_config, names, sentence, write_lines, zipped
from transformer.fetching.sources import HUB_MODELS, REVISIONS
from transformer.planning.steps import read_steps, works_of
from transformer.tasks.own import open_task, own_task, recorded, write_task

MOODS = {"version": 1, "name": "my_task-2", "kind": "classes", "labels": ["sad", "glad"], "metric": "macro_f1",
         "texts": 1, "max_seq_length": 24, "rows": {"train.tsv": 70, "dev.tsv": 18}}
STARS = {"version": 1, "name": "stars", "kind": "score", "range": [1, 10], "metric": "corr", "texts": 2,
         "max_seq_length": 24, "rows": {"train.tsv": 24, "dev.tsv": 18}}
DOWNLOADS = ["get_bert_models", "fix_teacher_layers"]


def own_folder(folder: Path, description: dict = MOODS, **changes) -> Path:
    """The folder of a task as prepare_task.py writes it."""
    description = {**description, **changes}
    texts = ["sentence"] if description["texts"] == 1 else ["sentence1", "sentence2"]
    for file, rows in description["rows"].items():
        alone = file == "unlabelled.tsv" or file == "test.tsv" and not description["test_has_labels"]
        labels = description.get("labels", ["1.5", "7"])
        made = [[labels[row % 2]][alone:] + [sentence(row + text) for text in range(len(texts))] for row in range(rows)]
        write_lines(folder / file, map("\t".join, [["label"][alone:] + texts, *made]))
    write_task(folder, own_task(description, folder))
    return folder


@pytest.fixture
def reproduce(tmp_path):
    """Call reproduce.sh with a stand-in for python, which answers as the kit what the task is, and is content with
    students that nobody has fetched: the run, and the calls of scripts."""
    knows = ('if [[ "$*" == *"transformer.planning --task_dir"* ]]; then\n'
             '    [[ "$*" != *--students* || -d models/distilled_tinybert_4l ]] || exit 0\n'
             f'    exec {shlex.quote(sys.executable)} "$@"\nfi\n')
    return caller(tmp_path, PYTHON.replace("\n", f"\n{knows}", 1))


def scripts(calls: list[str]) -> list[str]:
    return [re.search(r"import fetch|import unzip|\w+(?=\.py)", call)[0] for call in calls]


def taken(calls: list[str], folder: Path) -> None:
    """Each command is taken by the parser of its script, and each names the task as it is found in its folder."""
    for call in calls:
        script, *given = shlex.split(call)
        if not script.endswith(".py"):
            continue
        module = importlib.import_module(Path(script).stem)
        args = module.parse_args(given)
        if script.endswith("task_distill.py"):
            module.resolve(args, open_task(args.task_name, folder / args.data_dir))
        if script.endswith(("finetune_teacher.py", "data_augmentation.py")):
            name, = args.tasks if "tasks" in args else (args.task_name,)
            assert open_task(name, folder / args.glue_dir).folder == folder / args.glue_dir


# --- steps and commands

def test_a_task_of_ones_own_from_its_folder_to_scores(reproduce, tmp_path):
    """Published students, BERT alone, no data to fetch; a name with _ and - is that of the steps without; and all is
    done once."""
    own_folder(tmp_path / "data/my_task-2")
    argv = "--task_dir", "data/my_task-2", "--students", "4l"
    run, calls = reproduce(*argv)
    assert run.returncode == 0, run.stderr
    assert scripts(calls) == ["import fetch", "import unzip", *DOWNLOADS, "finetune_teacher", "get_bert_models",
                              "data_augmentation", *["task_distill"] * 3]
    taken(calls, tmp_path)
    assert reproduce(*argv, "--list")[0].stdout.split() == [
        "glove", "bert", "fix", "teacher_mytask2", "general_4l", "augment_mytask2", "intermediate_4l_mytask2",
        "prediction_4l_mytask2", "eval_4l_mytask2"]
    bert, fix, teacher, general, augment, intermediate, prediction, scored = calls[2:]
    assert bert.endswith(" --models bert-base-uncased") and fix.endswith(" models/bert-base-uncased")
    assert "bert: getting BERT ..." in run.stdout.splitlines()
    assert "teacher_mytask2: fine-tuning BERT on my_task-2, the teacher ..." in run.stdout.splitlines()
    assert flags(teacher)["--output_dir"] == flags(intermediate)["--teacher_model"] == \
        flags(prediction)["--teacher_model"] == "models/final_mytask2_teacher"
    assert flags(augment)["--glove_embs"] == "data/glove.840B.300d.txt"
    assert general.endswith(" --models distilled_tinybert_4l")
    assert flags(intermediate)["--student_model"] == "models/distilled_tinybert_4l"
    assert flags(prediction)["--student_model"] == flags(intermediate)["--output_dir"] == \
        "models/tmp_distilled_tinybert_4l_mytask2"
    assert flags(scored)["--student_model"] == flags(prediction)["--output_dir"] == \
        "models/distilled_tinybert_4l_mytask2"
    for call in (intermediate, prediction, scored):
        assert (flags(call)["--data_dir"], flags(call)["--task_name"]) == ("data/my_task-2", "my_task-2")
        assert ("--aug_train" in call) == (call != scored) and "--do_predict" not in call
    run, calls = reproduce(*argv)
    assert run.returncode == 0 and not calls and run.stdout.count("skipped") == 9


def test_a_given_teacher_is_taken_as_it_is(reproduce, tmp_path):
    """BERT is fetched for augmentation alone."""
    own_folder(tmp_path / "data/moods", name="moods")
    teacher = tmp_path / "models/mine"
    write_lines(teacher / "config.json", ["{}"])
    argv = "--task_dir", "data/moods", "--teacher", "models/mine"
    assert reproduce(*argv, "--list", "--apart")[0].stdout.split() == [
        "glove", "bert", "fix", "general_4l", "general_6l", "augment_moods",
        *(f"{stage}_{student}_moods" for stage in ("intermediate", "prediction", "eval") for student in ("4l", "6l"))]
    run, calls = reproduce(*argv, "--no_augmentation")
    assert run.returncode == 0, run.stderr
    assert scripts(calls) == [*["get_bert_models"] * 2, *["task_distill"] * 5]
    assert {flags(call)["--teacher_model"] for call in calls[2:5]} == {"models/mine"}
    assert not any("--aug_train" in call for call in calls) and names(teacher) == ["config.json"]
    taken(calls, tmp_path)
    run, calls = reproduce(*argv, "--no_augmentation")
    assert run.returncode == 0 and not calls


def test_without_augmentation_no_vectors(reproduce, tmp_path):
    own_folder(tmp_path / "data/moods", name="moods")
    run, calls = reproduce("--task_dir", "data/moods", "--no_augmentation", "--students", "6l")
    assert run.returncode == 0, run.stderr
    assert scripts(calls) == [*DOWNLOADS, "finetune_teacher", "get_bert_models", *["task_distill"] * 3]


@pytest.mark.parametrize(("has_labels", "answered"), [(True, False), (False, True)])
def test_a_test_set_without_labels_is_answered(has_labels, answered, reproduce, tmp_path):
    """By students of the full method."""
    own_folder(tmp_path / "moods", name="moods", test_has_labels=has_labels,
               rows={**MOODS["rows"], "test.tsv": 5})
    run, calls = reproduce("--task_dir", "moods", "--students", "4l", "--ablation", "full,no_da")
    assert run.returncode == 0, run.stderr
    scored = {flags(call)["--output_dir"]: "--do_predict" in call for call in calls if "--do_eval" in call}
    assert scored == {"results/runs/full/seed_42/4l_moods": answered, "results/runs/no_da/seed_42/4l_moods": False}
    assert calls[-1].endswith("report.py")


def test_scores_are_predicted_on_the_original_rows(reproduce, tmp_path):
    """As the paper has it for STS-B; and a step tells the score that chooses."""
    own_folder(tmp_path / "stars", STARS)
    own_folder(tmp_path / "moods", name="moods")
    run, calls = reproduce("--task_dir", "stars", "--students", "4l", SCORE="acc = 0.1\ncorr = 0.75")
    assert ["--aug_train" in call for call in calls if "--teacher_model" in call] == [True, False]
    assert re.search(r"^eval_4l_stars: done in \d+ s, corr 0.75$", run.stdout, re.M)
    run, calls = reproduce("--task_dir", "moods", "--students", "4l", SCORE="macro_f1 = 0.5\nacc = 0.9")
    assert re.search(r"^eval_4l_moods: done in \d+ s, macro_f1 0.5$", run.stdout, re.M)
    assert scripts(calls)[:2] == ["finetune_teacher", "data_augmentation"]  # BERT and the students are there


def test_a_chinese_task_of_ones_own(reproduce, tmp_path):
    own_folder(tmp_path / "data/心情", name="心情")
    run, calls = reproduce("--task_dir", "data/心情", "--language", "chinese", "--students", "4l",
                           TEACHER_FLAGS_OWN="--seed 7")
    assert run.returncode == 0, run.stderr
    assert scripts(calls) == [*DOWNLOADS, "finetune_teacher", "get_bert_models", "data_augmentation",
                              *["task_distill"] * 3]
    assert calls[0].endswith(" --models bert-base-chinese") and calls[1].endswith(" models/bert-base-chinese")
    assert flags(calls[2])["--model"] == flags(calls[4])["--pretrained_bert_model"] == "models/bert-base-chinese"
    assert flags(calls[2])["--seed"] == "7" and "--glove_embs" not in calls[4]
    assert flags(calls[5])["--student_model"] == "models/distilled_tinybert_4l_zh"
    assert flags(calls[7])["--student_model"] == "models/distilled_tinybert_4l_心情"
    assert not any("--do_lower_case" in call for call in calls)
    taken(calls, tmp_path)
    own_folder(tmp_path / "zh", name="z_h")
    run, calls = reproduce("--task_dir", "zh", "--language", "chinese")
    assert run.returncode == 2 and "a task called z_h would have the folder of the general ones" in run.stderr


@pytest.mark.parametrize("name", ["SQuADx", "4l"])
def test_names_that_look_like_others(name, reproduce, tmp_path):
    """No step mistakes them, nor does the next start."""
    own_folder(tmp_path / name, name=name)
    argv = "--task_dir", name, "--settings", "paper"
    key = name.replace("_", "").lower()
    run, calls = reproduce(*argv, BREAK="--pred_distill")
    assert run.returncode == 1 and f"step prediction_4l_{key} failed" in run.stderr
    run, calls = reproduce(*argv)
    assert run.returncode == 0 and scripts(calls) == ["task_distill"] * 4, run.stderr
    assert ["--resume" in call for call in calls] == [True, False, False, False]
    assert {flags(call)["--task_name"] for call in calls} == {name}
    assert flags(calls[0])["--student_model"] == f"models/tmp_distilled_tinybert_4l_{key}"
    assert not any("--save_predictions" in call for call in calls)
    run, calls = reproduce(*argv, "--from", f"prediction_6l_{key}")
    assert run.returncode == 0 and "--overwrite_output_dir" in calls[0]
    assert [flags(call)["--output_dir"] for call in calls] == [
        f"models/distilled_tinybert_6l_{key}", f"results/4l_{key}", f"results/6l_{key}"]


def test_flags_seeds_and_search(reproduce, tmp_path):
    own_folder(tmp_path / "moods", name="moods")
    run, calls = reproduce("--task_dir", "moods", "--students", "4l", "--seeds", "1,2", "--no_augmentation",
                           TASK_FLAGS_OWN="--max_seq_length 9", PREDICTION_FLAGS="--save_steps 3",
                           PREDICTION_FLAGS_OWN="--save_steps 4")
    assert run.returncode == 0, run.stderr
    stages = [flags(call) for call in calls if "task_distill" in call]
    assert [call["--max_seq_length"] for call in stages] == ["9"] * 6
    assert [call.get("--save_steps") for call in stages] == [None, None, "4", "4", None, None]
    assert [call["--output_dir"] for call in stages[2:4]] == [
        f"models/runs/full/seed_{seed}/distilled_tinybert_4l_moods" for seed in (1, 2)]
    run, _ = reproduce("--task_dir", "moods", "--students", "4l", "--search", "--no_augmentation", "--list")
    assert run.stdout.split()[4:6] == ["full/seed_42/intermediate_4l_moods",
                                       "search_b16_lr1e-5/seed_42/prediction_4l_moods"]
    assert len(run.stdout.split()) == 4 + 1 + 6 + 6


def test_a_teacher_of_another_vocabulary(reproduce, template, tmp_path):
    """Is found out when the students are there, before the augmentation; and where they have been fetched for another
    task, before anything is done."""
    own_folder(tmp_path / "moods", name="moods")
    for name, source in (("mine", "bert"), ("general", "general")):
        shutil.copytree(template / source, tmp_path / name)
    write_lines(tmp_path / "mine/vocab.txt", PIECES[:-1] + ["another"])
    left = write_lines(tmp_path / "models/distilled_tinybert_4l/manifest.json", ["{}"])  # by a killed download
    stand_in = tmp_path / "bin/python"
    stand_in.write_text(f"{stand_in.read_text()}[[ $* != *'--models distilled'* ]] || cp general/* {left.parent}\n")
    argv = "--task_dir", "moods", "--teacher", "mine", "--students", "4l"
    run, calls = reproduce(*argv)
    words = "student and teacher vocabularies differ: models/distilled_tinybert_4l/vocab.txt and mine/vocab.txt"
    assert run.returncode == 1 and "step general_4l failed" in run.stderr and words in run.stderr
    assert scripts(calls) == ["import fetch", "import unzip", *DOWNLOADS, "get_bert_models"]
    assert not (tmp_path / "results/steps/general_4l.seconds").exists()
    (tmp_path / "results/steps/general_4l.seconds").write_text("1\n")
    run, calls = reproduce(*argv)
    assert run.returncode == 2 and not calls
    assert run.stderr.splitlines()[-1] == f"reproduce.sh: error: {words}"  # after how the teacher's classes are read


# --- what is refused

@pytest.mark.parametrize(("argv", "words"), [
    (("--task_dir",), "--task_dir needs a value"),
    (("--task_dir", "data/none"), "--task_dir data/none: no such folder"),
    (("--task_dir", "data"), "--task_dir data holds no task.json: name a folder that prepare_task.py has written"),
    (("--task_dir", "data/moods", "--tasks", "RTE"), "--tasks and --task_dir: "),
    (("--task_dir", "data/moods", "--teacher", "models/none"), "--teacher models/none: no such folder"),
    (("--task_dir", "data/moods", "--teacher", "data"), "data holds no config.json"),
    (("--task_dir", "data/moods", "--teacher", "models/other"), "does not fit the labels of moods"),
    (("--task_dir", "data/moods", "--settings", "earlier"), "--settings earlier is not for a task of your own"),
    (("--task_dir", "data/moods", "--augment_squad"), "--augment_squad needs squad1 or squad2"),
    (("--task_dir", "data/moods", "--ablation", "no_da", "--no_augmentation"), "as --no_augmentation does for all"),
    (("--task_dir", "data/moods", "--ablation", "no_attn"),
     "--task_dir is --published, which leaves out the corpus, which step no_attn/general_4l+6l needs: drop it"),
    (("--task_dir", "data/moods", "--ablation", "no_td"), "no_td learns labels, and 4 rows of data/moods have none"),
    (("--task_dir", "data/lost"), "data/lost/dev.tsv does not exist, and task.json beside it counts its rows"),
    (("--task_dir", "data/odd"), "data/odd/task.json: labels is ['sad'], expected a list of at least two"),
    (("--teacher", "models/other"), "--teacher is for a task of your own"),
    (("--no_augmentation",), "--no_augmentation is for a task of your own")])
def test_what_is_refused(argv, words, reproduce, tmp_path):
    """In one line, and before anything is done."""
    own_folder(tmp_path / "data/moods", name="moods", rows={**MOODS["rows"], "unlabelled.tsv": 4})
    (own_folder(tmp_path / "data/lost", name="lost") / "dev.tsv").unlink()
    odd = own_folder(tmp_path / "data/odd", name="odd") / "task.json"
    odd.write_text(odd.read_text().replace('"glad"', "").replace('"sad",', '"sad"'))
    other = {"model_type": "bert", "id2label": {"0": "red", "1": "blue"}}
    write_lines(tmp_path / "models/other/config.json", [json.dumps(other)])
    run, calls = reproduce(*argv)
    assert run.returncode == 2 and not calls and not (tmp_path / "results").exists()
    assert run.stderr.startswith("reproduce.sh: error: ") and words in run.stderr, run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_one_folder_takes_several_tasks_each_in_one_way(reproduce, tmp_path):
    """Another task is one more; the same name from another place, another teacher, or augmented or not, is refused
    once a step of it is done; another spelling of the same place is not. Known tasks want a folder of their own."""
    own_folder(tmp_path / "data/my_task", name="my_task")
    own_folder(tmp_path / "data/my-task", name="my-task")
    own_folder(tmp_path / "data/others", name="others")
    write_lines(tmp_path / "models/mine/config.json", ['{"id2label": {"0": "sad", "1": "glad"}}'])
    argv = "--task_dir", "data/my_task", "--students", "4l"
    run, _ = reproduce("--task_dir", "data/my-task", "--students", "4l", BREAK="get_bert_models")
    assert run.returncode == 1  # of the task itself, nothing is done
    run, calls = reproduce(*argv, BREAK="--pred_distill")
    assert run.returncode == 1 and (tmp_path / "results/steps/settings").read_text() == "paper --task_dir\n"
    for others in (("--task_dir", "data/my-task"), (*argv, "--no_augmentation"), (*argv, "--teacher", "models/mine"),
                   (*argv, "--no_augmentation", "--plan")):
        run, calls = reproduce(*others)
        assert run.returncode == 2 and not calls and len(run.stderr.splitlines()) == 1
        assert "in this folder were done with --task_dir data/my_task: give that, or" in run.stderr
    run, calls = reproduce("--task_dir", "./data/../data/my_task/", "--students", "4l")
    assert run.returncode == 0 and scripts(calls) == ["task_distill"] * 2
    assert flags(calls[0])["--data_dir"] == "data/my_task"
    run, calls = reproduce("--task_dir", str(tmp_path / "data/others"), "--teacher", "models/mine", "--students", "4l")
    assert run.returncode == 0 and scripts(calls) == ["data_augmentation", *["task_distill"] * 3], run.stderr
    assert (tmp_path / "results/steps/task_others").read_text().startswith("data/others --teacher models/mine\n")
    run, calls = reproduce("--tasks", "RTE", "--published")
    assert run.returncode == 2 and "with --settings paper --task_dir: give that" in run.stderr and not calls


def test_a_folder_that_was_made_anew(reproduce, tmp_path):
    """What is finished is not taken for the new data's; what task.json tells of its making is no other data. From its
    first step on, all of the task is done again, the augmentation and other runs' steps, too, and nothing else."""
    folder = own_folder(tmp_path / "data/moods", name="moods")
    argv = "--task_dir", "data/moods", "--students", "4l"
    for more in ((), ("--seeds", "1", "--students", "6l")):
        assert reproduce(*argv, *more)[0].returncode == 0
    write_task(folder, own_task({**MOODS, "name": "moods"}, folder), {"train": "another.csv"})
    run, calls = reproduce(*argv)
    assert run.returncode == 0 and not calls, run.stderr
    table = (folder / "dev.tsv").read_text()
    (folder / "dev.tsv").write_text(table.replace("glad", "sad", 1))
    for more in ((), ("--plan",), ("--from", "augment_moods"), ("--from", "bert")):
        run, calls = reproduce(*argv, *more)
        assert (run.returncode, calls) == (2, []) and len(run.stderr.splitlines()) == 1
        assert "data/moods was made anew since steps of moods were done here: do them again with --from teacher_moods" \
            in run.stderr
    run, calls = reproduce(*argv, "--from", "teacher_moods", BREAK="data_augmentation")
    assert run.returncode == 1 and scripts(calls) == ["finetune_teacher", "data_augmentation"]
    assert flags(calls[0]).keys() >= {"--overwrite_output_dir"} and "step augment_moods failed" in run.stderr
    run, calls = reproduce(*argv)
    assert run.returncode == 0 and scripts(calls) == ["data_augmentation", *["task_distill"] * 3], run.stderr
    run, calls = reproduce(*argv, "--seeds", "1", "--students", "6l")
    assert scripts(calls)[:3] == ["task_distill"] * 3


@pytest.mark.parametrize("finished", [True, False])
def test_a_teacher_of_the_task_before_it_was_made_anew(finished, script, refused, tmp_path):
    """Is neither skipped nor gone on with."""
    folder, teacher = own_folder(tmp_path / "moods", name="moods"), tmp_path / "teacher"
    task = open_task(None, folder)
    write_lines(teacher / "run.json", [json.dumps({**recorded(task), "finished": finished})])
    argv = ["--tasks", "moods", "--glue_dir", folder, "--output_dir", teacher, "--model", tmp_path / "none",
            "--no_cuda", *["--resume"] * (not finished)]
    if finished:
        status, out, err = script("finetune_teacher", *argv)
        assert status in (None, 0) and out.endswith("skipped\n"), err
    own_folder(folder, name="moods", rows={"train.tsv": 71, "dev.tsv": 18})
    refused("finetune_teacher", *argv, words=(f"{teacher} holds a teacher of another task, or of moods before it was",
                                              "--overwrite_output_dir"))


# --- its plan

def test_the_plan_counts_the_rows_of_the_folder(reproduce, tmp_path, monkeypatch):
    """By hand: 70 rows, 4 without labels for both stages, 18 and 5 to answer. The teacher is the one that is given."""
    own_folder(tmp_path / "data/moods", name="moods", test_has_labels=False,
               rows={**MOODS["rows"], "unlabelled.tsv": 4, "test.tsv": 5})
    config = {"vocab_size": 99, "hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 12,
              "intermediate_size": 32}
    write_lines(tmp_path / "models/mine/config.json", [json.dumps(config)])
    stand_in = tmp_path / "bin/python"
    stand_in.write_text(f"{stand_in.read_text()}[[ $* != *transformer.planning* ]] || cat >plan\n")
    argv = "--task_dir", "data/moods", "--students", "4l", "--plan"
    monkeypatch.chdir(tmp_path)
    planned = []
    for more in ((), ("--teacher", "models/mine", "--no_augmentation")):
        assert reproduce(*argv, *more)[0].returncode == 0
        works = works_of(read_steps(io.BytesIO((tmp_path / "plan").read_bytes())))
        assert not any(work.refused or work.missing for work in works)
        planned.append({work.step.name: work for work in works})
    made, given = planned
    assert made["teacher_moods"].counts == [70] * 3 and made["teacher_moods"].steps == 3 * (70 // 32)
    assert made["augment_moods"].counts == [70] and given.keys() == made.keys() - {
        "glove", "bert", "fix", "teacher_moods", "augment_moods"}
    for works, rows in ((made, 70 * (1 + 20)), (given, 70)):  # at most 20 rows are made of one
        assert works["intermediate_4l_moods"].counts == [rows + 4] * 20
        assert works["intermediate_4l_moods"].steps == 20 * ((rows + 4) // 32)
        assert works["prediction_4l_moods"].counts == [rows + 4] * 3
        assert works["prediction_4l_moods"].dev_examples == 18
        assert works["eval_4l_moods"].counts == [18 + 5]
        assert works["intermediate_4l_moods"].student.hidden_size == 312
    assert [works["intermediate_4l_moods"].teacher.num_hidden_layers for works in planned] == [12, 4]


# --- a real run

KILL = """
import os, runpy, signal, sys
from transformer.optimization import BertAdam

step, before = BertAdam.step, iter(range(4))
BertAdam.step = lambda *args, **values: step(*args, **values) if next(before, None) is not None else \
    os.kill(os.getpid(), signal.SIGKILL)
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""
WATCHED = r"""#!/bin/bash
[[ $1 != *.py ]] || printf '%s\0' "$*" >>calls
if [[ -e kill && $* == *" --output_dir models/tmp_"* ]]; then rm kill; exec bin/python kill.py "$@"; fi
exec bin/python "$@"
"""
RUN = f"""set -euo pipefail
source "{ROOT}/tests/miniworld/setup.sh"
trap 'kill $servers 2>/dev/null' EXIT
servers= ; cd "$1"; preload
PATH=$PWD/first:$PATH
python "$kit/prepare_task.py" --train reviews.csv --test new.csv --unlabelled more.csv --text review --label mood \
    --max_seq_length 24 --output_dir data/my_task-2
start() {{ rm -f calls; touch calls; bash "$kit/reproduce.sh" --students 4l "$@"; }}
! start --task_dir data/my_task-2 2>killed; mv calls calls_1
start --task_dir data/my_task-2; mv calls calls_2
start --task_dir data/my_task-2; mv calls calls_3
start --task_dir data/other --teacher models/final_mytask2_teacher --no_augmentation; mv calls calls_4
"""


@pytest.fixture
def hub(template, tmp_path):
    """Published models of tiny sizes, and word vectors, behind an address."""
    for name, source in (("bert-base-uncased", "bert"), ("distilled_tinybert_4l", "general")):
        folder = tmp_path / "hub" / HUB_MODELS[name] / "resolve" / REVISIONS.get(HUB_MODELS[name], "main")
        shutil.copytree(template / source, folder)
        edit_config(folder, model_type="bert")
    vectors = [f"{word} {' '.join(str((number + place) % 7 - 3) for place in range(300))}"
               for number, word in enumerate(("the", "dog", "cat", "reviewer", "reviewers"))]
    entry = "\n".join([*vectors, ""]).encode()
    (tmp_path / "hub/glove.840B.300d.zip").write_bytes(zipped({"glove.840B.300d.txt": entry}))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "hub"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_from_a_csv_to_answers_killed_and_gone_on_with(hub, tmp_path):
    """kill -9 in the intermediate stage; the next start goes on there, and the one after has nothing to do. Then
    another task, with the first one's teacher."""
    folder = tmp_path / "run"
    for file, rows in (("reviews", 80), ("new", 7), ("more", 9)):
        (folder / file).parent.mkdir(exist_ok=True)
        with open(folder / f"{file}.csv", "w", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(["id", "review"] + ["mood"] * (file == "reviews"))
            writer.writerows([row, sentence(row), *([("sad", "glad")[row % 3 % 2]] if file == "reviews" else [])]
                             for row in range(rows))
    own_folder(folder / "data/other", name="other")
    (folder / "kill").touch()
    (folder / "kill.py").write_text(KILL)
    (folder / "first").mkdir()
    (folder / "first/python").write_text(WATCHED)
    (folder / "first/python").chmod(0o755)
    sizes = "--max_seq_length 24 --train_batch_size 16 --learning_rate 1e-3"
    environment = {
        "HF_ENDPOINT": hub, "GLOVE_URL": f"{hub}/glove.840B.300d.zip", "OMP_NUM_THREADS": "1", "AUGMENT_FLAGS": "--N 2",
        "TEACHER_FLAGS_OWN": f"{sizes} --num_train_epochs 2", "TASK_FLAGS_OWN": "--max_seq_length 24",
        "INTERMEDIATE_FLAGS": "--skip_teacher_check --train_batch_size 16 --num_train_epochs 1 --save_steps 2",
        "PREDICTION_FLAGS": "--skip_teacher_check --train_batch_size 16 --num_train_epochs 1"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["bash", "-c", RUN, "bash", folder], capture_output=True, text=True,
                          env=os.environ | environment | {"PATH": path})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert not (folder / "kill").exists() and "step intermediate_4l_mytask2 failed" in (folder / "killed").read_text()
    calls = [[call for call in (folder / f"calls_{start}").read_text().split("\0") if call] for start in range(1, 5)]
    assert [[re.search(r"\w+(?=\.py)", call)[0] for call in start] for start in calls] == [
        [*DOWNLOADS, "finetune_teacher", "get_bert_models", "data_augmentation", "task_distill"],
        ["task_distill"] * 3, [], ["task_distill"] * 3]
    assert "--resume" in calls[1][0] and not any("--resume" in call for call in calls[3])
    record = json.loads((folder / "models/tmp_distilled_tinybert_4l_mytask2/run.json").read_text())
    assert record["resumed_from"] == 4 and record["finished"] and record["task_json"]["name"] == "my_task-2"
    answers = (folder / "results/4l_mytask2/predictions.tsv").read_text().splitlines()
    assert answers[0].split("\t")[:2] == ["row", "label"] and len(answers) == 1 + 7
    assert {line.split("\t")[1] for line in answers[1:]} <= {"sad", "glad"}
    for key, metric in (("mytask2", "acc"), ("other", "macro_f1")):
        told = re.search(rf"^eval_4l_{key}: done in \d+ s, {metric} (\S+)$", done.stdout, re.M)[1]
        scores = json.loads((folder / f"models/distilled_tinybert_4l_{key}/eval_results.json").read_text())
        assert float(told) == pytest.approx(scores["values"][metric], rel=1e-5)
    assert json.loads((folder / "models/distilled_tinybert_4l_other/run.json").read_text())["settings"][
        "teacher_model"] == "models/final_mytask2_teacher"
