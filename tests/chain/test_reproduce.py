"""reproduce.sh with a stand-in for python: order, skipping, stopping at the first failure, starting from a step."""
import importlib
import os
import re
import shlex
import subprocess
import time
from argparse import Namespace
from pathlib import Path

import pytest

import task_distill
from tests.conftest import ROOT, started
from transformer.tasks.clue import CLUE
from transformer.tasks.table import get_task

PYTHON = r"""#!/bin/bash
call=${*//$'\n'/ }
echo "${call//"${PYTHONPATH%%:*}"\/}" >> calls  # without the kit's folder
if [[ -n ${DEVICES:-} && $1 == *task_distill.py ]]; then  # hold the device and note it, until a neighbour has done so
    mkdir "held_$CUDA_VISIBLE_DEVICES" || touch shared
    echo "$CUDA_VISIBLE_DEVICES" >> devices
    for _ in {1..1000}; do (($(wc -l < devices) % 2)) || break; sleep 0.01; done
    rmdir "held_$CUDA_VISIBLE_DEVICES"
fi
echo "${OMP_NUM_THREADS-unset}" >> threads
[[ -z ${SCORE:-} ]] || echo "$SCORE"
[[ -z ${BREAK:-} || "$*" != *$BREAK* ]] || { echo "it broke" >&2; exit 2; }
"""


def caller(tmp_path: Path, python: str):
    """A call of reproduce.sh in tmp_path with this text as python: the run, and the calls that the text wrote down."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(python)
    (tmp_path / "bin" / "python").chmod(0o755)

    def call(*argv, **environment):
        (tmp_path / "calls").write_text("")
        run = subprocess.run(["bash", ROOT / "reproduce.sh", *argv], cwd=tmp_path, capture_output=True, text=True,
                             env=os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"} | environment)
        return run, (tmp_path / "calls").read_text().splitlines()
    return call


@pytest.fixture
def reproduce(tmp_path):
    return caller(tmp_path, PYTHON)


def test_each_step_once_in_order_then_none(reproduce):
    run, calls = reproduce("--tasks", "RTE,STS-B", "--students", "4l")
    assert run.returncode == 0, run.stderr
    scripts = [re.search(r"(import fetch|\w+\.py|WikiExtractor|import unzip)", call).group(1) for call in calls]
    assert scripts == [
        "import fetch", "import unzip", *["download_glue.py"] * 2, "import fetch", "get_bert_models.py",
        "fix_teacher_layers.py", *["finetune_teacher.py"] * 2, "WikiExtractor", "prepare_data.py",
        "pregenerate_training_data.py", "general_distill.py", *["data_augmentation.py"] * 2,
        *["task_distill.py"] * 6]
    distill = calls[-6:]
    assert ["--pred_distill" in call for call in distill] == [False, False, True, True, False, False]
    assert ["--aug_train" in call for call in distill] == [True, True, True, False, False, False]  # STS-B: as it was
    assert all("--do_eval" in call for call in distill[4:])
    run, calls = reproduce("--tasks", "RTE,STS-B", "--students", "4l")
    assert run.returncode == 0 and not calls and run.stdout.count("skipped") == 20


# --- SQuAD

def test_squad_from_download_to_scores(reproduce):
    """The passages are not augmented, so no word vectors are fetched; both students learn in one pass; answers are
    written with the scores; and all is done once."""
    argv = "--tasks", "squad1", "--published"
    run, calls = reproduce(*argv)
    assert run.returncode == 0, run.stderr
    assert [re.search(r"\w+(?=\.py)", call)[0] for call in calls] == [
        "download_glue", "get_bert_models", "fix_teacher_layers", "finetune_teacher", *["get_bert_models"] * 2,
        *["task_distill"] * 5]
    assert "getting SQuAD1 ..." in run.stdout and "getting SQuAD1 of GLUE" not in run.stdout
    intermediate, *predictions = calls[-5:]
    own = flags(intermediate)
    assert own["--student_model"] == "models/distilled_tinybert_4l models/distilled_tinybert_6l"
    assert own["--output_dir"] == "models/tmp_distilled_tinybert_4l_squad1 models/tmp_distilled_tinybert_6l_squad1"
    assert (own["--task_name"], own["--data_dir"], own["--teacher_model"]) == (
        "SQuAD1", "data/glue_data/SQuAD1", "models/final_squad1_teacher")
    assert not any("--aug_train" in call or "--do_predict" in call for call in calls)
    assert ["--pred_distill" in call for call in predictions] == [True, True, False, False]
    assert ["--do_eval --save_predictions" in call for call in predictions] == [False, False, True, True]
    run, calls = reproduce(*argv)
    assert run.returncode == 0 and not calls


@pytest.mark.parametrize("spelling", [
    "squad1", "SQuAD1", "squad", "SQuAD_v1.1", "squad-v1", "squad1.1", "squad v1.1", "squad2", "SQuAD-2.0", "squadv2",
    "SQUAD V2.0"])
def test_squad_is_known_as_the_scripts_know_it(spelling, reproduce):
    run, _ = reproduce("--tasks", f"RTE,{spelling}", "--list", "--published", "--students", "4l")
    assert run.stdout.split()[-1] == f"eval_4l_{get_task(spelling).key}", run.stderr


def test_squad_beside_glue(reproduce):
    """Each with its own flags, the vectors for GLUE alone; --apart trains each student by itself."""
    run, calls = reproduce("--tasks", "squad2,RTE", "--apart", EVAL_FLAGS_SQUAD2="--n_best_size 5",
                           TASK_FLAGS_SQUAD2="--doc_stride 64", AUGMENT_FLAGS_RTE="--N 2")
    assert run.returncode == 0, run.stderr
    squad, rte = ([call for call in calls if name in call.split()] for name in ("SQuAD2", "RTE"))
    assert sum("data_augmentation" in call for call in squad) == 0 and sum("--N 2" in call for call in rte) == 1
    assert sum("--doc_stride 64" in call for call in squad) == 6 and not any("--doc_stride" in call for call in rte)
    assert sum("--n_best_size 5" in call for call in squad) == 2 and "import fetch" in str(calls)
    assert [flags(call)["--output_dir"] for call in squad if "task_distill" in call][:2] == [
        f"models/tmp_distilled_tinybert_{student}_squad2" for student in ("4l", "6l")]


def test_augmented_passages_are_asked_for(reproduce):
    """They are for the intermediate stage alone; that of a variant without data augmentation leaves them out, too."""
    run, calls = reproduce("--tasks", "squad1", "--students", "4l", "--augment_squad", "--ablation", "full,no_da",
                           "--published", AUGMENT_FLAGS_SQUAD1="--N 5")
    assert run.returncode == 0, run.stderr
    augment, = (call for call in calls if "data_augmentation" in call)
    assert "--task_name SQuAD1" in augment and "--N 5" in augment and "import fetch" in calls[0]
    stages = {flags(call)["--output_dir"]: "--aug_train" in call for call in calls if "task_distill" in call}
    assert stages == {f"{where}/seed_42/{name}": name.startswith("tmp") and "full" in where
                      for where in ("models/runs/full", "models/runs/no_da")
                      for name in ("tmp_distilled_tinybert_4l_squad1", "distilled_tinybert_4l_squad1")} | {
        f"results/runs/{variant}/seed_42/4l_squad1": False for variant in ("full", "no_da")}


def test_days_of_augmentation_are_not_for_nothing(reproduce, tmp_path):
    """Where the students are there already, or where the flag is forgotten when the script is started again."""
    argv = "--tasks", "squad1,RTE", "--students", "4l", "--published"
    reproduce(*argv, BREAK="--pred_distill")
    run, calls = reproduce(*argv, "--augment_squad")
    assert run.returncode == 2 and not calls and run.stderr == (
        "reproduce.sh: error: step intermediate_4l_squad1 was done without augmented data: --from augment_squad1 does "
        "it again with it\n")
    run, calls = reproduce(*argv, "--augment_squad", "--from", "augment_squad1", BREAK="data_augmentation.py")
    assert run.returncode == 1 and "data_augmentation" in calls[-1]
    for more in ((), ("--plan",)):
        run, calls = reproduce(*argv, *more)
        assert run.returncode == 2 and not calls and "step augment_squad1 was begun here: give --augment_squad" in \
            run.stderr
    run, calls = reproduce(*argv, "--augment_squad")
    assert run.returncode == 0, run.stderr
    intermediate = next(call for call in calls if "SQuAD1" in call and "task_distill" in call)
    assert "--aug_train" in intermediate and "--overwrite_output_dir" in intermediate
    run, calls = reproduce(*argv, "--augment_squad")
    assert run.returncode == 0 and not calls
    run, _ = reproduce("--tasks", "RTE", "--students", "4l", "--published")
    assert run.returncode == 0  # no word of SQuAD


@pytest.mark.parametrize(("argv", "words"), [
    (("--tasks", "RTE", "--augment_squad"), "--augment_squad needs squad1 or squad2"),
    (("--tasks", "squad1,RTE", "--settings", "earlier"), "--settings earlier is not for SQuAD"),
    (("--tasks", "RTE,squad1", "--ablation", "no_da"), "no_da leaves out augmented data"),
    (("--tasks", "squad3"), "unknown task squad3: ")])
def test_what_squad_is_not_for(argv, words, reproduce):
    run, calls = reproduce(*argv)
    assert run.returncode == 2 and words in run.stderr and len(run.stderr.splitlines()) == 1 and not calls


@pytest.mark.parametrize("argv", [(), ("--augment_squad",), ("--search",), ("--augment_squad", "--ablation", "all")])
def test_the_commands_for_squad_are_taken(argv, reproduce):
    """Every one by the parser of its script, and by what settles its flags for the task."""
    run, calls = reproduce("--tasks", "squad1,squad2", *argv)
    assert run.returncode == 0, run.stderr
    seen = set()
    for call in calls:
        script, *given = shlex.split(call)
        if not script.endswith(".py") or Path(script).stem == "report":
            continue
        module = importlib.import_module(Path(script).stem)
        args = module.parse_args(given)
        seen.add(Path(script).stem)
        if script.endswith("task_distill.py"):
            task = get_task(args.task_name)
            module.resolve(args, task)
            assert (args.max_seq_length, args.doc_stride, args.max_query_length) == (384, 128, 64)
            assert args.do_eval or args.num_train_epochs == (3 if args.pred_distill else 20)
        if script.endswith("finetune_teacher.py"):
            own, _ = module.resolved(args, get_task(args.tasks[0]))
            assert (own.num_train_epochs, own.train_batch_size, own.learning_rate, own.max_seq_length) == (
                2, 12, 3e-5, 384)
    assert seen >= {"download_glue", "finetune_teacher", "task_distill", "general_distill"}
    assert ("data_augmentation" in seen) == ("--augment_squad" in argv)


def test_the_score_of_a_step_on_squad_is_f1(reproduce):
    run, _ = reproduce("--tasks", "squad2", "--students", "4l", "--published",
                       SCORE="HasAns_f1 = 0.7\nexact = 0.6\nf1 = 0.65\nbest_f1 = 0.66")
    assert re.search(r"^eval_4l_squad2: done in \d+ s, f1 0.65$", run.stdout, re.M)


# --- Chinese

def test_chinese_from_download_to_scores(reproduce):
    """Of the four tasks that take least CLUEWSC2020 alone is not augmented, for which there are no vectors; the model
    tells its casing itself; and all is done once."""
    argv = "--language", "chinese", "--students", "4l"
    run, calls = reproduce(*argv)
    assert run.returncode == 0, run.stderr
    scripts = [re.search(r"(import fetch|\w+\.py|WikiExtractor)", call)[0] for call in calls]
    assert scripts == [
        *["download_glue.py"] * 4, "import fetch", "get_bert_models.py", "fix_teacher_layers.py",
        *["finetune_teacher.py"] * 4, "WikiExtractor", "prepare_data.py", "pregenerate_training_data.py",
        "general_distill.py", *["data_augmentation.py"] * 3, *["task_distill.py"] * 12]
    assert not any(word in call for call in calls for word in (
        "--do_lower_case", "glove", "bert-base-uncased", "enwiki"))
    assert "https://dumps.wikimedia.org/zhwiki/latest/zhwiki-latest-pages-articles.xml.bz2 data/zhwiki-" in calls[4]
    assert calls[5].endswith("--models bert-base-chinese") and calls[6].endswith(" models/bert-base-chinese")
    assert flags(calls[12])["--language"] == "chinese" and calls[11].split()[2] == calls[4].split()[-1]
    for script, flag in (("finetune_teacher", "--model"), ("pregenerate_training_data", "--bert_model"),
                         ("general_distill", "--teacher_model"), ("data_augmentation", "--pretrained_bert_model")):
        assert {flags(call)[flag] for call in calls if script in call} == {"models/bert-base-chinese"}
    distill = [flags(call) for call in calls[-12:]]
    general = flags(next(call for call in calls if "general_distill" in call))
    assert {call["--student_model"] for call in distill[:4]} == {general["--output_dir"]} == {
        "models/distilled_tinybert_4l_zh"}
    names = ["AFQMC", "TNEWS", "IFLYTEK", "CLUEWSC2020"]
    assert [call["--task_name"] for call in distill] == names * 3
    assert [call["--data_dir"] for call in distill[:4]] == [f"data/glue_data/{name}" for name in names]
    assert ["--aug_train" in call for call in distill] == [True, True, True, False] * 2 + [False] * 4
    assert ["--do_predict" in call for call in distill] == [False] * 8 + [True] * 4
    said = run.stdout.splitlines()
    assert "glue_tnews: getting TNEWS of CLUE ..." in said and "bert: getting the Chinese BERT ..." in said
    run, calls = reproduce(*argv)
    assert run.returncode == 0 and not calls


def test_chinese_tasks_are_what_the_table_says(reproduce):
    """Known by all their names; augmented, and answered for CLUE's server, where the table says so. Each command is
    taken by the parser of its script, and by what settles its flags for the task."""
    assert reproduce("--language", "chinese", "--tasks", "xnli,wsc,cluewsc,CLUE-WSC-2020", "--list", "--students", "4l",
                     "--published")[0].stdout.split()[:3] == ["glue_xnlizh", "glue_cluewsc2020", "bert"]
    run, calls = reproduce("--language", "chinese", "--tasks", ",".join(CLUE), "--students", "4l", "--published",
                           **{f"TASK_FLAGS_{key.upper()}": "--eval_batch_size 8"
                              for key in CLUE})
    assert run.returncode == 0, run.stderr
    for task in CLUE.values():
        assert ("getting " + task.name + (" of CLUE" if task.submissions else "") + " ...") in run.stdout
        own = [call for call in calls if task.name in call.split()]
        is_augmented = task.augment_copies_in_code is not None
        assert any("data_augmentation" in call for call in own) == is_augmented
        *training, scored = [flags(call) for call in own if "task_distill" in call]
        assert len(training) == 2 and all(("--aug_train" in call) == is_augmented for call in training)
        assert ("--do_predict" in scored) == bool(task.submissions)
    for call in calls:
        script, *given = shlex.split(call)
        module = importlib.import_module(Path(script).stem)
        args = module.parse_args(given)
        if script.endswith("task_distill.py"):
            task = get_task(args.task_name)
            module.resolve(args, task)
            assert args.eval_batch_size == 8
            assert args.do_eval or args.num_train_epochs == (3 if args.pred_distill else task.intermediate_epochs)


@pytest.mark.parametrize(("argv", "words"), [
    (("--language", "chinese", "--tasks", "TNEWS,RTE"), "task RTE is not for --language chinese: AFQMC TNEWS "),
    (("--language", "chinese", "--tasks", "squad1"), "task SQuAD1 is not for --language chinese"),
    (("--tasks", "RTE,tnews"), "task TNEWS is not for --language english: RTE "),
    (("--language", "chinese", "--settings", "earlier"), "--settings earlier is not for Chinese"),
    (("--language", "chinese", "--tasks", "nothing"), "unknown task nothing: AFQMC "),
    (("--language", "thai"), "unknown language thai: english or chinese"), (("--language",), "--language needs")])
def test_what_languages_are_not_for(argv, words, reproduce):
    run, calls = reproduce(*argv)
    assert run.returncode == 2 and words in run.stderr and len(run.stderr.splitlines()) == 1 and not calls


def test_languages_do_not_mix_in_one_folder(reproduce, tmp_path):
    """Nor does a folder of before there were two become another one."""
    settings = tmp_path / "results/steps/settings"
    argv = "--language", "chinese", "--tasks", "wsc", "--students", "4l", "--published"
    run, calls = reproduce(*argv)
    assert run.returncode == 0 and settings.read_text() == "paper --published --language chinese\n"
    fetched, = (call for call in calls if "--models distilled" in call)
    assert fetched.endswith("--models distilled_tinybert_4l_zh")
    for other, words in ((("--published",), "--settings paper --published --language chinese: give that"),
                         (argv[:-1], "--settings paper --published --language chinese: give that")):
        run, calls = reproduce(*other)
        assert run.returncode == 2 and words in run.stderr and not calls
    settings.write_text("paper --published\n")
    run, calls = reproduce(*argv)
    assert run.returncode == 2 and "--settings paper --published --language english: give that" in run.stderr
    assert len(run.stderr.splitlines()) == 1 and not calls
    run, calls = reproduce("--language", "english", "--published", "--tasks", "RTE", "--students", "4l")
    assert run.returncode == 0 and settings.read_text() == "paper --published\n"


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_failure_names_the_step_and_its_log_and_a_new_start_goes_on(jobs, reproduce, tmp_path):
    run, calls = reproduce("--tasks", "RTE,CoLA", JOBS=jobs, BREAK="--task_name CoLA --output_dir models/tmp")
    assert run.returncode == 1
    assert "step intermediate_4l+6l_cola failed" in run.stderr
    assert "results/steps/intermediate_4l+6l_cola.log" in run.stderr
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


def test_the_log_of_each_try_is_kept_and_the_seconds_of_all_are_added_up(reproduce, tmp_path):
    steps = tmp_path / "results/steps"
    for message in ("--output_dir models/tmp", "task_distill.py"):
        run, _ = reproduce("--tasks", "RTE", "--students", "4l", BREAK=message)
        assert run.returncode == 1 and "its log is results/steps/intermediate_4l_rte.log" in run.stderr
        (steps / "intermediate_4l_rte.log").write_text(message)
    assert int((steps / "intermediate_4l_rte.spent").read_text()) >= 0
    (steps / "intermediate_4l_rte.spent").write_text("1000\n")  # so long did they take
    reproduce("--tasks", "RTE", "--students", "4l", BREAK="--pred_distill")
    assert {path.name: path.read_text() for path in steps.glob("intermediate*.log")} == {
        "intermediate_4l_rte.1.log": "--output_dir models/tmp", "intermediate_4l_rte.2.log": "task_distill.py",
        "intermediate_4l_rte.log": ""}
    assert int((steps / "intermediate_4l_rte.seconds").read_text()) >= 1000
    assert not (steps / "intermediate_4l_rte.spent").exists()
    reproduce("--tasks", "RTE", "--students", "4l", "--from", "intermediate_4l_rte")  # made anew, and so is its time
    assert int((steps / "intermediate_4l_rte.seconds").read_text()) < 1000
    assert (steps / "intermediate_4l_rte.3.log").is_file()


@pytest.mark.parametrize("step", ["wiki", "sentences"])
def test_from_with_a_new_dump_reaches_what_is_made_of_it(step, reproduce, tmp_path):
    argv = "--tasks", "RTE", "--students", "4l"
    reproduce(*argv, BREAK="pregenerate_training_data.py")
    _, calls = reproduce(*argv)
    assert "pregenerate" in calls[0] and "--resume" not in calls[0] and "--overwrite" not in calls[0]  # by itself
    (tmp_path / "data/extracted_wiki/AA").mkdir(parents=True)
    run, calls = reproduce(*argv, "--from", step, BREAK="pregenerate_training_data.py")
    assert run.returncode == 1 and calls[-1].count("--overwrite_output_dir") == 1 and "pregenerate" in calls[-1]
    assert (tmp_path / "data/extracted_wiki/AA").exists() == (step == "sentences")  # no article of the old dump stays
    _, calls = reproduce(*argv, BREAK="pregenerate_training_data.py")  # refused before it had begun
    assert "--overwrite_output_dir" in calls[-1]
    (tmp_path / "data/json_wiki/epoch_0.unfinished").mkdir(parents=True)
    (tmp_path / "data/json_wiki/epoch_0.unfinished/progress.jsonl").touch()  # begun, and stopped
    run, calls = reproduce(*argv)
    assert run.returncode == 0 and "pregenerate" in calls[0] and "--overwrite_output_dir" not in calls[0]
    assert "--overwrite_output_dir" in calls[1] and "general_distill" in calls[1]


def test_a_new_extraction_empties_the_folder_that_a_link_names(reproduce, tmp_path):
    argv = "--tasks", "RTE", "--students", "4l"
    reproduce(*argv, BREAK="prepare_data.py")
    (tmp_path / "disk/AA").mkdir(parents=True)
    (tmp_path / "data/extracted_wiki").symlink_to("../disk")
    run, calls = reproduce(*argv, "--from", "extract", BREAK="import wikiextractor")  # which is not installed
    assert run.returncode == 1 and len(calls) == 1 and (tmp_path / "disk/AA").exists()
    run, calls = reproduce(*argv)
    assert run.returncode == 0 and "WikiExtractor" in calls[1]
    assert (tmp_path / "data/extracted_wiki").is_symlink() and not list((tmp_path / "disk").iterdir())


def test_what_a_try_after_from_began_is_gone_on_with(reproduce, tmp_path):
    argv = "--tasks", "RTE", "--students", "4l"
    reproduce(*argv)
    for step, file, call in (
            ("general_4l", "models/distilled_tinybert_4l/run.json", "general_distill"),
            ("augment_rte", "data/glue_data/RTE/train_aug.unfinished/facts.json", "data_augmentation"),
            ("teacher_rte", "models/final_rte_teacher/run.json", "finetune_teacher"),
            ("intermediate_4l_rte", "models/tmp_distilled_tinybert_4l_rte/run.json", "task_distill"),
            ("prediction_4l_rte", "models/distilled_tinybert_4l_rte/run.json", "task_distill")):
        _, calls = reproduce(*argv, "--from", step, BREAK=call)
        assert call in calls[0] and "--resume" not in calls[0]
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("begun")
        run, calls = reproduce(*argv)
        assert run.returncode == 0 and call in calls[0] and "--resume" in calls[0] and "--overwrite" not in calls[0]


def trained(calls: list[str]) -> list[tuple[str, str, str]]:
    """(students, outputs, what becomes of an earlier try) of the calls for general distillation and the intermediate
    stage, without what all folders of a kind have in common."""
    found = []
    for call in calls:
        own = flags(call)
        if "general_distill" in call or "task_distill" in call and not own.keys() & {"--pred_distill", "--do_eval"}:
            again = [flag for flag in ("--resume", "--overwrite_output_dir") if flag in own]
            names = [own[name].replace("distilled_tinybert_", "").replace("models/", "")
                     for name in ("--student_model", "--output_dir")]
            found.append((names[0].replace("tinybert_", ""), names[1], " ".join(again)))
    return found


TOGETHER = ("4l_config 6l_config", "4l 6l"), ("4l 6l", "tmp_4l_rte tmp_6l_rte")


def test_both_students_are_trained_together(reproduce):
    """In any order of their names; predictions and scores are of each one, with --apart all; and all is done once."""
    argv = "--tasks", "RTE", "--students", "6l,4l"
    run, calls = reproduce(*argv)
    assert run.returncode == 0, run.stderr
    assert trained(calls) == [(*names, "") for names in TOGETHER]
    assert sum("--pred_distill" in call for call in calls) == sum("--do_eval" in call for call in calls) == 2
    assert "general_4l+6l: general distillation of the 4- and the 6-layer student ..." in run.stdout
    assert "the 4- and the 6-layer student learn the teacher's" in run.stdout
    for argv in (("--tasks", "RTE", "--apart"), ("--tasks", "RTE", "--students", "6l")):
        run, calls = reproduce(*argv)
        assert run.returncode == 0 and not calls and "general_6l: finished before" in run.stdout
    assert reproduce("--apart", "--list", "--tasks", "RTE")[0].stdout.split()[-9:] == [
        "general_4l", "general_6l", "augment_rte", *(
            f"{stage}_{student}_rte" for stage in ("intermediate", "prediction", "eval") for student in ("4l", "6l"))]


def test_what_was_trained_apart_is_not_trained_again_together(reproduce):
    """As in folders of earlier versions: what is finished is left alone, what was stopped is gone on with."""
    argv = "--tasks", "RTE", "--apart"
    reproduce(*argv, BREAK="6l_config")  # general_6l
    run, calls = reproduce("--tasks", "RTE")
    assert run.returncode == 0, run.stderr
    assert trained(calls) == [("6l_config", "6l", "--resume"), (*TOGETHER[1], "")]
    assert "general_4l+6l: general distillation of the 6-layer student ..." in run.stdout
    reproduce(*argv, "--from", "intermediate_4l_rte", BREAK="models/tmp_distilled_tinybert_4l_rte")
    run, calls = reproduce("--tasks", "RTE")
    assert trained(calls) == [("4l 6l", "tmp_4l_rte tmp_6l_rte", "--overwrite_output_dir")]
    run, calls = reproduce(*argv)
    assert run.returncode == 0 and not calls


@pytest.mark.parametrize("logs", [True, False])
def test_from_does_both_students_again(logs, reproduce, tmp_path):
    """Whoever trained them before; and with one of them alone, the other one's work is kept."""
    reproduce("--tasks", "RTE", "--apart")
    for log in () if logs else (tmp_path / "results/steps").rglob("*.log"):
        log.unlink()
    for before in (("--apart",), ()):
        _, calls = reproduce("--tasks", "RTE", *before)
        assert not calls
        run, calls = reproduce("--tasks", "RTE", "--from", "general_4l+6l")
        assert run.returncode == 0, run.stderr
        assert trained(calls) == [(*names, "--overwrite_output_dir") for names in TOGETHER]
    run, calls = reproduce("--tasks", "RTE", "--students", "4l", "--from", "general_4l")
    assert trained(calls) == [("4l_config", "4l", "--overwrite_output_dir"),
                              ("4l", "tmp_4l_rte", "--overwrite_output_dir")]
    run, calls = reproduce("--tasks", "RTE")
    assert run.returncode == 0 and not calls
    reproduce("--tasks", "RTE", "--from", "general_4l+6l", BREAK="general_distill")
    reproduce("--tasks", "RTE", "--students", "4l", "--from", "general_4l", BREAK="general_distill")
    run, calls = reproduce("--tasks", "RTE", BREAK="general_distill")  # of neither is anything left
    assert trained(calls) == [(*TOGETHER[0], "--overwrite_output_dir")]


def test_the_seconds_of_tries_together_and_apart_are_added_up(reproduce, tmp_path):
    steps = tmp_path / "results/steps"

    def seconds(kind: str) -> dict[str, int]:
        return {path.name.removeprefix("general_").removesuffix(kind): int(path.read_text()) // 1000
                for path in steps.glob(f"general*{kind}")}

    reproduce("--tasks", "RTE", BREAK="general_distill")
    (steps / "general_4l+6l.spent").write_text("4000\n")  # so long did it take
    for jobs in ("1", "2"):  # one of the two takes all of it
        reproduce("--tasks", "RTE", "--apart", BREAK="general_distill", JOBS=jobs)
        assert sum(seconds(".spent").values()) == 4
    (steps / "general_6l.spent").write_text("2000\n")
    reproduce("--tasks", "RTE", BREAK="general_distill")
    assert seconds(".spent") == {"4l+6l": 6, "4l": 0, "6l": 0}
    run, _ = reproduce("--tasks", "RTE", "--apart", BREAK="6l_config")
    assert seconds(".seconds") == {"4l": 6} and seconds(".spent")["4l+6l"] == 0
    (steps / "general_6l.spent").write_text("3000\n")
    reproduce("--tasks", "RTE")
    assert seconds(".seconds") == {"4l": 6, "4l+6l": 3} and not list(steps.glob("*.spent"))
    reproduce("--tasks", "RTE", "--students", "6l", "--from", "general_6l")
    assert seconds(".seconds") == {"4l": 6, "6l": 0}
    reproduce("--tasks", "RTE", "--from", "general_4l+6l")
    (steps / "general_4l+6l.seconds").write_text("5000\n")
    reproduce("--tasks", "RTE", "--students", "4l", "--from", "general_4l")  # the other one is as it was
    assert seconds(".seconds") == {"4l": 0, "6l": 5} and not list(steps.glob("*.spent"))


def test_steps_that_share_a_gpu_leave_it_to_general_distillation(reproduce):
    run, calls = reproduce("--tasks", "RTE", JOBS="4", CUDA_VISIBLE_DEVICES="0,1", BREAK="general_distill")
    assert run.returncode == 1 and "general_distill" in calls[-1]


def test_a_run_of_both_that_was_begun_anew_is_gone_on_with(reproduce, tmp_path):
    """Only where it has begun with both of them."""
    reproduce("--tasks", "RTE")
    reproduce("--tasks", "RTE", "--from", "general_4l+6l", BREAK="general_distill")
    for student, wanted in (("6l", "--overwrite_output_dir"), ("4l", "--resume")):
        folder = tmp_path / f"models/distilled_tinybert_{student}"
        folder.mkdir(parents=True)
        (folder / "run.json").write_text("begun")
        _, calls = reproduce("--tasks", "RTE", BREAK="general_distill")
        assert trained(calls) == [(*TOGETHER[0], wanted)]


def test_variants_train_both_together(reproduce):
    run, calls = reproduce("--tasks", "RTE", "--ablation", "no_gd,no_td,no_pred,no_attn", "--seeds", "7")
    assert run.returncode == 0, run.stderr
    found = [names for *names, _ in trained(calls)]
    assert found == [[*TOGETHER[0]], ["4l_config 6l_config", "runs/no_attn/4l runs/no_attn/6l"], *(
        [start, " ".join(f"runs/{variant}/seed_7/tmp_{student}_rte" for student in ("4l", "6l"))]
        for variant, start in (("no_gd", "4l_config 6l_config"), ("full", "4l 6l"),
                               ("no_attn", "runs/no_attn/4l runs/no_attn/6l")))]


@pytest.mark.parametrize("argv,step,wanted", [
    ((), "general_6l", "general_4l+6l, which trains both students together"),
    ((), "intermediate_4l_rte", "intermediate_4l+6l_rte, which trains both students together"),
    (("--students", "6l"), "general_4l+6l", "general_6l, which trains a student by itself"),
    (("--apart",), "general_4l+6l", "general_4l, which trains a student by itself")])
def test_a_step_of_other_company_is_told(argv, step, wanted, reproduce):
    run, calls = reproduce("--tasks", "RTE", *argv, "--from", step)
    assert run.returncode == 2 and not calls and len(run.stderr.splitlines()) == 1
    assert f"no step {step} here: --from {wanted}" in run.stderr


def test_a_shared_step_done_again_reaches_runs_that_were_stopped(reproduce):
    reproduce("--seeds", "1", "--tasks", "RTE", "--students", "4l", BREAK="models/runs/full/seed_1/tmp")
    run, _ = reproduce("--from", "general_4l", "--tasks", "RTE", "--students", "4l")
    assert run.returncode == 0, run.stderr
    _, calls = reproduce("--seeds", "1", "--tasks", "RTE", "--students", "4l")
    assert "models/runs/full/seed_1/tmp" in calls[0] and "--overwrite_output_dir" in calls[0]


def test_task_names_in_any_spelling(reproduce):
    names = "rte,sst2,STS_B,mnli-mm,cola,Rte,MNLI"
    run, _ = reproduce("--tasks", names, "--list")
    assert [line for line in run.stdout.split() if line.startswith("glue_")] == \
        ["glue_rte", "glue_sst2", "glue_stsb", "glue_mnli", "glue_cola"]
    _, calls = reproduce("--tasks", names, BREAK="--tasks MNLI")  # MNLI twice: once
    assert [call.split()[2] for call in calls if "download_glue" in call] == ["RTE", "SST-2", "STS-B", "MNLI"]


@pytest.mark.parametrize("logs", [True, False])
def test_from_a_shared_step_does_the_runs_that_start_from_it_again(logs, reproduce, tmp_path):
    reproduce("--seeds", "1", "--tasks", "RTE", "--students", "4l")
    for log in () if logs else (tmp_path / "results/steps").rglob("*.log"):
        log.unlink()
    run, calls = reproduce("--from", "general_4l", "--tasks", "RTE", "--students", "4l")
    assert run.returncode == 0 and "general_distill" in calls[0] and "--overwrite_output_dir" in calls[0], run.stderr
    run, calls = reproduce("--seeds", "1", "--tasks", "RTE", "--students", "4l")
    assert run.returncode == 0 and len([call for call in calls if "--output_dir models/runs/full/seed_1" in call]) == 2
    assert all("--overwrite_output_dir" in call for call in calls if "--output_dir models/" in call)


@pytest.mark.parametrize("step,wanted", [
    ("fix", ["fix_teacher_layers", "finetune_teacher"]), ("augment_rte", ["data_augmentation"]),
    ("pregenerate", ["pregenerate_training_data", "general_distill"])])
def test_teachers_general_students_and_augmented_data_do_not_follow_from_each_other(step, wanted, reproduce):
    argv = "--tasks", "RTE", "--students", "4l"
    reproduce(*argv)
    reproduce(*argv, "--ablation", "no_attn")
    run, calls = reproduce(*argv, "--from", step)
    assert run.returncode == 0
    assert [re.search(r"(\w+)\.py", call)[1] for call in calls] == wanted + ["task_distill"] * 3
    run, calls = reproduce(*argv, "--ablation", "no_attn")  # nor does the general student of an ablation
    assert run.returncode == 0
    general = ["general_distill"] * ("general_distill" in wanted)
    assert [re.search(r"(\w+)\.py", call)[1] for call in calls] == general + ["task_distill"] * 3 + ["report"]


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_nothing_more_is_started_after_a_failure_and_a_signal_ends_what_runs(jobs, reproduce, tmp_path):
    tasks = ("--tasks", "RTE,CoLA,MRPC,SST-2,QNLI")
    run, calls = reproduce(*tasks, JOBS=jobs, BREAK="--output_dir models/tmp")
    assert run.returncode == 1 and 1 <= sum("--output_dir models/tmp" in call for call in calls) <= int(jobs)
    for spent in (tmp_path / "results/steps").glob("*.spent"):
        spent.unlink()
    (tmp_path / "bin" / "python").write_text("#!/bin/bash\necho $$ >&$RUNNING\nexec sleep 60\n")
    read, write = os.pipe()
    with open(read) as running, started("bash", ROOT / "reproduce.sh", *tasks, cwd=tmp_path, pass_fds=[write], env={
            **os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "JOBS": jobs,
            "RUNNING": str(write)}) as process:
        os.close(write)
        pids = [running.readline().strip() for _ in range(int(jobs))]
        process.terminate()
        assert process.wait() == 143
        assert len(list((tmp_path / "results/steps").glob("*.spent"))) == int(jobs)  # the seconds of these tries count
        assert not any(Path("/proc", pid, "cwd").exists() for pid in pids) and all(pids)
        assert running.read() == ""


def test_a_signal_ends_a_step_whose_neighbours_have_ended(tmp_path, reproduce):
    (tmp_path / "bin" / "python").write_text(
        '#!/bin/bash\nif [[ "$*" == *"--tasks RTE"* ]]; then echo $$ >&$RUNNING; exec sleep 60; fi\n')
    read, write = os.pipe()
    with open(read) as running, started("bash", ROOT / "reproduce.sh", "--tasks", "RTE", cwd=tmp_path,
                                        pass_fds=[write], env={
            **os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "JOBS": "2",
            "RUNNING": str(write)}) as process:
        os.close(write)
        pid = running.readline().strip()
        while not (tmp_path / "results/steps/bert.seconds").exists():  # the last of those beside it
            assert process.poll() is None
            time.sleep(0.01)
        process.terminate()
        assert process.wait() == 143
        assert pid and not Path("/proc", pid, "cwd").exists() and running.read() == ""


@pytest.mark.parametrize("argv", [
    ["--form", "x"], ["--from", "nothing"], ["--students", "5l"], ["--students", ","],
    ["--tasks", "rte,sst3"], ["--from"], ["--seeds", ""],
    ["--settings", "late"], ["--seeds", "1,two"], ["--seeds", "-1"], ["--ablation", "no_da,no_dada"], ["--ablation"]])
def test_bad_arguments(argv, reproduce):
    run, calls = reproduce(*argv)
    assert run.returncode == 2 and len(run.stderr.splitlines()) == 1 and "error" in run.stderr and not calls


def test_wnli_is_not_augmented(reproduce):
    run, calls = reproduce("--tasks", "WNLI", "--students", "4l")
    assert run.returncode == 0 and not any("augment" in call or "--aug_train" in call for call in calls), run.stderr


def test_extra_flags_come_last(reproduce):
    _, calls = reproduce("--tasks", "RTE", "--students", "4l", INTERMEDIATE_FLAGS="--num_train_epochs 2")
    intermediate = next(call for call in calls if "task_distill" in call)
    assert intermediate.index("--do_lower_case") < intermediate.index("--num_train_epochs 2")


def test_flags_of_one_task(reproduce):
    """All steps of a kind, all of task distillation for the task, one step for the task: the last one wins."""
    _, calls = reproduce("--tasks", "RTE,sst-2", "--students", "4l", PREDICTION_FLAGS="--seed 1",
                         TASK_FLAGS_SST2="--max_seq_length 9 --seed 2", PREDICTION_FLAGS_SST2="--seed 3",
                         TEACHER_FLAGS_RTE="--num_train_epochs 7")
    teachers = [flags(call) for call in calls if "finetune" in call]
    assert [call.get("--num_train_epochs") for call in teachers] == ["7", None]
    found = [(call.get("--seed"), call.get("--max_seq_length")) for call in
             (flags(call) for call in calls if "task_distill" in call)]
    assert found == [(None, None), ("2", "9"), ("1", None), ("3", "9"), (None, None), ("2", "9")]


@pytest.mark.parametrize("name", ["TASK_FLAGS_SST", "PREDICTION_FLAGS_rte", "EVAL_FLAGS_"])
def test_flags_of_no_task(name, reproduce):
    run, calls = reproduce(**{name: "--seed 3"})
    assert run.returncode == 2 and name in run.stderr and len(run.stderr.splitlines()) == 1 and not calls


def resolved(call: str, data: Path) -> Namespace:
    """The settings that a run of task_distill.py computes with: its own resolve() on the flags of a call."""
    args = task_distill.parse_args([str(data) if part == "data" else part for part in call.split()[1:]])
    task_distill.resolve(args, get_task(args.task_name))
    return args


@pytest.mark.parametrize("argv", [(), ("--search",), ("--ablation", "full,no_gd,no_da,no_attn")])
def test_the_papers_settings(argv, reproduce, tmp_path):
    """No flag for what the preset has, in runs of whatever kind; epochs and length follow from the task."""
    wanted = {"CoLA": (50, 64), "MNLI": (10, 128)}
    if not argv:
        wanted |= {"SST-2": (20, 64), "RTE": (20, 128)}
    run, calls = reproduce("--tasks", ",".join(wanted), "--students", "4l", *argv)
    assert run.returncode == 0, run.stderr
    general = [flags(call) for call in calls if "general_distill" in call]
    assert general and not any({"--learning_rate", "--train_batch_size", "--warmup_proportion"} & set(call)
                               for call in general)
    calls = [call for call in calls if "task_distill" in call]
    of_search = {"--learning_rate", "--train_batch_size"} if "--search" in argv else set()
    for call in calls:
        given = {"--num_train_epochs", "--max_seq_length", "--learning_rate", "--train_batch_size"} & set(flags(call))
        assert given == (of_search if "--pred_distill" in call else set()), call
        args = resolved(call, tmp_path)
        epochs, length = wanted[args.task_name]
        assert args.max_seq_length == length, call
        if not args.do_eval:
            assert args.num_train_epochs == (3 if args.pred_distill else epochs), call
            assert args.train_batch_size == 32 or of_search and args.train_batch_size == 16
            assert args.learning_rate == (3e-5 if args.pred_distill else 5e-5) or of_search
    assert {args.task_name for args in (resolved(call, tmp_path) for call in calls)} == set(wanted)
    assert not any("--eval_step" in call for call in calls)  # how often to score follows from the data


def test_the_settings_of_an_earlier_reproduction(reproduce, tmp_path):
    run, calls = reproduce("--settings", "earlier", "--tasks", "CoLA,SST-2,MNLI,RTE", "--students", "4l")
    assert run.returncode == 0, run.stderr
    general = next(flags(call) for call in calls if "general_distill" in call)
    assert [general[flag] for flag in ("--train_batch_size", "--learning_rate", "--warmup_proportion")] == \
        ["256", "5e-5", "0.1"]
    runs = [resolved(call, tmp_path) for call in calls if "task_distill" in call]
    assert len(runs) == 12 and {args.max_seq_length for args in runs} == {128}
    assert {(args.num_train_epochs, args.learning_rate) for args in runs[:4]} == {(10, 5e-5)}
    assert {(args.num_train_epochs, args.learning_rate, args.eval_step) for args in runs[4:8]} == {(3, 3e-5, 100)}


def test_settings_do_not_mix_in_one_folder(reproduce, tmp_path):
    argv = "--tasks", "RTE", "--students", "4l"
    reproduce(*argv)
    run, calls = reproduce(*argv, "--settings", "earlier")
    assert run.returncode == 2 and "--settings paper" in run.stderr and not calls
    assert len(run.stderr.splitlines()) == 1
    (tmp_path / "results/steps/settings").unlink()  # as the script's first versions left it, which knew one alone
    run, calls = reproduce(*argv)
    assert run.returncode == 2 and "--settings earlier" in run.stderr and not calls
    run, calls = reproduce(*argv, "--settings", "earlier")
    assert run.returncode == 0 and not calls


def test_published_general_students(reproduce):
    """They are fetched in place of the corpus and general distillation; what needs the corpus is refused."""
    argv = "--tasks", "RTE", "--students", "6l"
    run, calls = reproduce(*argv, "--published")
    assert run.returncode == 0, run.stderr
    assert not any(word in call for call in calls for word in (
        "enwiki", "WikiExtractor", "prepare_data", "pregenerate", "general_distill"))
    fetched = next(number for number, call in enumerate(calls) if "--models distilled_tinybert_6l" in call)
    assert flags(calls[fetched + 2])["--student_model"] == "models/distilled_tinybert_6l"  # after the augmentation
    run, calls = reproduce(*argv)
    assert run.returncode == 2 and "--settings paper --published" in run.stderr and not calls
    run, calls = reproduce(*argv, "--published", "--ablation", "no_da,no_attn")
    assert run.returncode == 2 and "no_attn/general_6l" in run.stderr and not calls
    run, calls = reproduce(*argv, "--published", "--ablation", "no_da")
    assert run.returncode == 0 and calls, run.stderr


@pytest.mark.parametrize("jobs,given,wanted", [
    ("1", None, {"unset"}), ("2", None, {"3", "unset"}), ("4", None, {"3", "2", "1", "unset"}), ("2", "5", {"5"})])
def test_steps_side_by_side_share_out_the_cores(jobs, given, wanted, reproduce, tmp_path, monkeypatch):
    """Of 6 cores: as many to each as there are for the steps that run at once."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (tmp_path / "bin" / "getconf").write_text("#!/bin/bash\necho 6\n")
    (tmp_path / "bin" / "getconf").chmod(0o755)
    environment = {} if given is None else {"OMP_NUM_THREADS": given}
    run, calls = reproduce("--tasks", "RTE,CoLA", "--students", "4l", JOBS=jobs, **environment)
    assert run.returncode == 0, run.stderr
    assert set((tmp_path / "threads").read_text().split()) == wanted


def test_a_step_says_what_it_does_and_what_it_scored(reproduce, tmp_path):
    run, _ = reproduce("--tasks", "STS-B", "--students", "6l", SCORE="corr = 0.75")
    said = run.stdout.splitlines()
    assert said[0] == "glove: getting the GloVe vectors ..."
    assert "teacher_stsb: fine-tuning BERT on STS-B, the teacher ..." in said
    assert "general_6l: general distillation of the 6-layer student ..." in said
    assert re.fullmatch(r"eval_6l_stsb: done in \d+ s, corr 0.75", said[-1])
    scored = [line.split("_")[0] for line in said if line.endswith(", corr 0.75")]
    assert scored == ["teacher", "prediction", "eval"]  # in the log of the intermediate stage stands its teacher's
    assert all(re.fullmatch(r"\S+: (.+ \.\.\.|done in .*)", line) for line in said)


def flags(call: str) -> dict[str, str]:
    """The flags of a call with their values; of equal ones the last."""
    return {part.split()[0]: " ".join(part.split()[1:]) for part in call.replace(" --", "\n--").split("\n")[1:]}


def stages(calls: list[str], folder: str) -> list[dict[str, str]]:
    """The flags of the calls that write below models/`folder` and results/`folder`, less the folder's name."""
    return [flags(call.replace(folder, "RUN")) for call in calls if f"--output_dir models/{folder}" in call
            or f"--output_dir results/{folder}" in call]


def test_seeds_share_what_they_do_not_change_and_are_skipped_when_done(reproduce):
    run, calls = reproduce("--tasks", "RTE,CoLA", "--students", "4l,6l", "--seeds", "1,2")
    assert run.returncode == 0, run.stderr
    assert calls[-1].endswith("report.py")
    distill = [call for call in calls if "task_distill" in call]
    assert len(distill) == 2 * (2 + 4 + 4) and sum("general_distill" in call for call in calls) == 1
    one, two = (stages(distill, f"runs/full/seed_{seed}/") for seed in "12")
    assert len(one) == 10 and "--seed" not in one[-1]  # evaluation has no seed
    assert [call | {"--seed": "2"} if "--seed" in call else call for call in one] == two
    assert one[0]["--student_model"] == "models/distilled_tinybert_4l models/distilled_tinybert_6l"
    assert one[0]["--output_dir"] == " ".join(call["--student_model"] for call in one[2:4]) == \
        "models/RUNtmp_distilled_tinybert_4l_rte models/RUNtmp_distilled_tinybert_6l_rte"
    assert one[2]["--output_dir"] == one[6]["--student_model"] == "models/RUNdistilled_tinybert_4l_rte"
    assert one[6]["--output_dir"] == "results/RUN4l_rte"
    assert [call.get("--variant") for call in one] == ["full"] * 6 + [None] * 4  # a run has a variant, no evaluation
    assert not any("--variant" in call for call in calls if "models/runs/" not in call)
    _, calls = reproduce("--tasks", "RTE,CoLA", "--students", "4l,6l", "--seeds", "1,2,3")
    assert len(calls) == 11 and len(stages(calls, "runs/full/seed_3/")) == 10


def test_a_stopped_run_is_gone_on_with_and_from_does_it_again(reproduce):
    argv = "--tasks", "RTE", "--students", "4l", "--seeds", "1,2"
    reproduce(*argv, BREAK="--pred_distill --teacher_model models/final_rte_teacher --student_model models/runs/full/"
                           "seed_2")
    _, calls = reproduce(*argv)
    assert len(calls) == 4 and "seed_2/tmp_" in calls[0] and "--resume" in calls[0]
    _, calls = reproduce(*argv, "--from", "full/seed_2/prediction_4l_rte")
    assert len(calls) == 4 and "seed_2/tmp_" in calls[0] and "--overwrite_output_dir" in calls[0]


def test_search_starts_from_one_intermediate_student(reproduce):
    _, calls = reproduce("--tasks", "RTE", "--students", "4l", "--search", PREDICTION_FLAGS="--learning_rate 7")
    distill = [flags(call) for call in calls if "task_distill" in call]
    assert [("--pred_distill" in call, "--do_eval" in call) for call in distill] == \
        [(False, False), *[(True, False)] * 6, *[(False, True)] * 6]
    found = {call["--output_dir"]: (call["--train_batch_size"], call["--learning_rate"]) for call in distill[1:7]}
    assert found == {f"models/runs/search_b{batch}_lr{rate}/seed_42/distilled_tinybert_4l_rte": (batch, rate)
                     for batch in ("16", "32") for rate in ("1e-5", "2e-5", "3e-5")}
    assert {call["--student_model"] for call in distill[1:7]} == {distill[0]["--output_dir"]} == \
        {"models/runs/full/seed_42/tmp_distilled_tinybert_4l_rte"}
    assert [call["--variant"] for call in distill[:7]] == [call["--output_dir"].split("/")[2] for call in distill[:7]]


# What differs from `full` in general distillation (None: no call of its own), intermediate and prediction stage.
OWN_GENERAL = {"--student_model": "models/runs/{}/distilled_tinybert_4l"}
NO_TRM, TOP, BOTTOM = {"--without": "attn hidn"}, {"--layer_mapping": "top"}, {"--layer_mapping": "bottom"}
FULL_INTERMEDIATE = {"--student_model": "models/runs/full/seed_42/tmp_distilled_tinybert_4l_rte"}
DIFFERENCES = {
    "no_gd": (None, {"--student_model": "tinybert_4l_config", "--from_scratch": ""}, {}),
    "no_td": (None, None, {"--student_model": "models/distilled_tinybert_4l", "--hard_labels": ""}),
    "no_da": (None, {"--aug_train": None}, {"--aug_train": None}),
    "no_pred": (None, None, {**FULL_INTERMEDIATE, "--hard_labels": ""}),
    "no_trm": (NO_TRM, {**OWN_GENERAL, **NO_TRM}, {}),
    "map_top": (TOP, {**OWN_GENERAL, **TOP}, {}),
    "map_bottom": (BOTTOM, {**OWN_GENERAL, **BOTTOM}, {}),
    **{f"no_{loss}": ({"--without": loss}, {**OWN_GENERAL, "--without": loss}, {})
       for loss in ("embd", "attn", "hidn")},
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_ablation(name, reproduce):
    """Each differs from `full` in what it leaves out, and in its folders and the variant's name alone."""
    run, calls = reproduce("--tasks", "RTE", "--students", "4l", "--ablation", f"{name},full")
    assert run.returncode == 0, run.stderr
    general = [flags(call) for call in calls if "general_distill" in call]
    full, mine = (stages([call for call in calls if "task_distill" in call], f"runs/{variant}/seed_42/")
                  for variant in ("full", name))
    if DIFFERENCES[name][1] is None:
        mine.insert(0, None)
    differences = [
        None if other is None else {flag: other.get(flag) for flag in one | other if one.get(flag) != other.get(flag)}
        for one, other in zip([general[0], *full], [general[1] if len(general) > 1 else None, *mine], strict=True)]
    for difference in filter(None, differences[:3]):  # of the runs; evaluation has no variant
        assert difference.pop("--variant") == name
    if differences[0]:
        assert differences[0].pop("--output_dir") == f"models/runs/{name}/distilled_tinybert_4l"
    wanted = [part and {flag: value and value.format(name) for flag, value in part.items()}
              for part in DIFFERENCES[name]]
    assert differences == [*wanted, {"--do_predict": None}]  # only students of the full method go to the server


def test_all_ablations(reproduce):
    run, _ = reproduce("--tasks", "RTE", "--students", "4l", "--ablation", "all", "--ablation", "no_da", "--list")
    predictions = [line.split("/")[0] for line in run.stdout.splitlines() if "/prediction" in line]
    assert predictions[0] == "full" and sorted(predictions[1:]) == sorted(DIFFERENCES)
    assert run.stdout.split() == list(dict.fromkeys(run.stdout.split()))


@pytest.mark.parametrize("visible,wanted", [
    ("4,GPU-7", {"4", "GPU-7"}), (None, {"0", "1"}), ("3", {"3"}), ("", {""})])
def test_steps_side_by_side_share_out_the_gpus(visible, wanted, reproduce, tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "bin" / "nvidia-smi").write_text("#!/bin/bash\necho 0\necho 1\n")
    (tmp_path / "bin" / "nvidia-smi").chmod(0o755)
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    run, _ = reproduce("--tasks", "RTE", "--students", "4l", "--seeds", "1,2", JOBS="2", DEVICES="yes", **environment)
    assert run.returncode == 0, run.stderr
    assert set((tmp_path / "devices").read_text().split("\n")[:6]) == wanted
    assert (tmp_path / "shared").exists() == (len(wanted) == 1)  # two at a time: only where there are not two
