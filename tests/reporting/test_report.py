"""report.py on made-up run folders: its numbers by hand, what it leaves out and why, a page that needs nothing else."""
import base64
import copy
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from unittest import mock
from urllib.parse import unquote

import pytest

import report
from tests.conftest import ROOT
from tests.miniworld import ablation_table
from transformer.config import BertConfig
from transformer.files import read_json, write_json
from transformer.reporting.published import ABLATIONS, PAPER, REPRODUCTION, ROWS
from transformer.reporting.runs import tasks_of
from transformer.tasks.own import recorded_task
from transformer.tasks.table import get_task
from transformer.training.processes import join_processes
from transformer.training.record import RunRecord, student_label

ODD = "<b>&odd|[name]*"
FLAGS = {"general_distill": "--pregenerated_data d --teacher_model t --student_model config --output_dir o "
                            "--learning_rate 1e-4 --train_batch_size 256",
         "finetune_teacher": "--tasks RTE",
         "task_distill": "--data_dir d --task_name RTE --student_model s --teacher_model t --output_dir o "
                         "--pred_distill --aug_train --learning_rate 3e-5 --max_seq_length 128 --do_lower_case"}


@pytest.fixture(scope="module")
def templates(tmp_path_factory) -> dict[str, dict]:
    """run.json as each script writes it, less what earlier versions did not write: what the run is."""
    records = {}
    for script, flags in FLAGS.items():
        folder = tmp_path_factory.mktemp(script)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", [f"{script}.py"])
            module = importlib.import_module(script)
            args = module.parse_args(flags.split())
            if script == "finetune_teacher":
                args, _ = module.resolved(args, get_task("RTE"))
            record = RunRecord(folder, args, join_processes(True, -1), steps=20, resumed_from=0)
        record.log(step=20, loss=0.5)
        record.finish()
        records[script] = read_json(folder / "run.json")
        for fact in ("variant", "student"):
            records[script].pop(fact, None)
            records[script]["settings"].pop(fact, None)
    return records


@pytest.fixture(autouse=True)
def outlines(request, monkeypatch):
    """Pictures are made up to where they are painted, which takes longer than the rest of a report; tests with the
    fixture `painted` have them whole."""
    if "painted" not in request.fixturenames:
        monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, handle, **settings: None)


@pytest.fixture
def painted():
    """For tests that look at pictures."""


@pytest.fixture
def world(tmp_path, monkeypatch, templates):
    """Works in an empty folder; make(path, score, ...) makes a finished run below models. says: variant and student in
    run.json."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()

    def make(path: str, score: float, task="RTE", metric="acc", script="task_distill", seed=42, started=0,
             says=None, **settings):
        folder = tmp_path / "models" / path
        folder.mkdir(parents=True)
        run = {**copy.deepcopy(templates[script]), **(says or {})}
        run["started"] = f"2026-01-01T00:00:{started:02}+0000"
        if script != "finetune_teacher":  # whose folder follows from --models_dir and the task
            run["settings"]["output_dir"] = f"models/{path}"
        run["settings"] |= {"seed": seed, **settings}
        scores = {metric: score}
        run |= {"kept": {"step": 20, **scores}} if script == "task_distill" else scores
        if script != "general_distill":
            run["task"] = task
        write_json(folder / "run.json", run)
        BertConfig(vocab_size=30, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
                   intermediate_size=16).to_json_file(folder / "config.json")
        with open(folder / "metrics.jsonl", "w") as handle:
            for step in (10, 20):
                handle.write(json.dumps({"step": step, "loss": 1 / step, "att_loss": 1.0, "rep_loss": 2.0, **scores,
                                         "cls_loss": 1 / step, "sequences_per_s": 10.0 * step}) + "\n")
        return folder
    return make


def made(*argv: str) -> dict[str, list[list[str]]]:
    """Run report.py; of report.md, the rows of the tables below each heading (cells without references)."""
    report.main(list(argv))
    sections: dict[str, list[list[str]]] = {}
    for line in Path("results/report.md").read_text().splitlines():
        if line.startswith("## "):
            heading = line[3:]
            sections[heading] = []
        elif line.startswith("| ") and sections:
            line = re.sub(r" ?<sup>.*?</sup>", "", line)
            sections[heading].append([re.sub(r"\[(.*?)\]\(.*?\)", r"\1", cell).strip()
                                      for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return sections


def rows_of(section: list[list[str]], *first: str) -> list[list[str]]:
    return [row for row in section if tuple(row[:len(first)]) == first]


def seeds(world, scores=(0.60, 0.64, 0.62), variant="full", **settings):
    return [world(f"runs/{variant}/seed_{seed}/distilled_tinybert_4l_rte", score, seed=seed, **settings)
            for seed, score in enumerate(scores, 1)]


def test_mean_deviation_best_and_missing(world):
    first, *_ = seeds(world)
    world("distilled_tinybert_4l_cola", 0.415, "CoLA", "mcc", seed=7)
    world("distilled_tinybert_6l_mnli", 0.8, "MNLI")
    world("final_rte_teacher", 0.70, script="finetune_teacher")
    table = made()["Dev scores of these runs"]
    # 60, 64, 62: mean 62, squares of the distances 4 + 4 + 0 over n - 1 = 2
    assert rows_of(table, "RTE", "accuracy") == [
        ["RTE", "accuracy", "3", "62.0", "2.00", "64.0", "run.json"], ["RTE", "accuracy", "0", "missing", "", "", ""],
        ["RTE", "accuracy", "1", "70.0", "none", "70.0", "run.json"]]
    assert rows_of(table, "CoLA")[0] == ["CoLA", "MCC", "1", "41.5", "none", "41.5", "run.json"]
    assert [row[3] for row in rows_of(table, "MNLI")] == ["missing", "80.0", "missing"]
    assert [row[3] for row in rows_of(table, "QNLI")] == ["missing"] * 3 and not rows_of(table, "WNLI")
    # what --do_eval wrote comes first
    write_json(first / "eval_results.json", {"task": "RTE", "values": {"acc": 0.66}, "counts": {"dev": 24},
                                             "finished": True})
    assert rows_of(made()["Dev scores of these runs"], "RTE")[0][3:] == [
        "64.0", "2.00", "66.0", "eval_results.json, run.json"]
    assert "RTE: not the official dev set of 277 examples, but one of 24." in Path("results/report.md").read_text()


@pytest.mark.parametrize("counts,shown", [
    ((9815, 9832), ""), ((9815, 20), "MNLI: not the official dev set of 9815 + 9832 examples, but one of 9815 + 20.")])
def test_both_dev_sets_count(counts, shown, world):
    folder = world("distilled_tinybert_4l_mnli", 0.6, "MNLI")
    write_json(folder / "eval_results.json", {"task": "MNLI", "values": {"acc": 0.6}, "counts": dict(
        zip(("dev_matched", "dev_mismatched"), counts))})
    made()
    text = Path("results/report.md").read_text()
    assert shown in text and ("not the official dev set" in text) == bool(shown)


@pytest.mark.parametrize("script,scored,notes", [
    ("task_distill", {"max_seq_length": 128, "do_lower_case": True}, []),
    ("finetune_teacher", {"max_seq_length": 128, "do_lower_case": True}, []), ("task_distill", [], []),
    ("task_distill", {"max_seq_length": 64, "do_lower_case": True}, ["max_seq_length 64, the run had 128"]),
    ("finetune_teacher", {"do_lower_case": False}, ["do_lower_case False, the run had True"])])
def test_evaluation_with_other_settings_is_noted(script, scored, notes, world):
    folder = world("final_rte_teacher" if script == "finetune_teacher" else "distilled_tinybert_4l_rte", 0.6,
                   script=script)
    write_json(folder / "eval_results.json", {"task": "RTE", "values": {"acc": 0.66}, "settings": scored})
    sections = made()
    assert [row[1] for row in sections["Left out, and notes"][2:]] == [
        f"eval_results.json was scored with {note}" for note in notes]
    assert ["66.0"] == [row[3] for row in rows_of(sections["Dev scores of these runs"], "RTE") if row[3] != "missing"]


@pytest.mark.parametrize("evaluation", [
    "{", "[]", '{"task": "CoLA", "values": {"mcc": 0.9}}', '{"task": "RTE", "values": {"acc": NaN}}',
    '{"task": "RTE", "values": {"acc": 0.9}, "model_finished": false}', '{"task": "RTE", "values": {"f1": 0.9}}'])
def test_evaluation_that_cannot_be_used(evaluation, world):
    folder = world("distilled_tinybert_4l_rte", 0.6)
    (folder / "eval_results.json").write_text(evaluation)
    sections = made()
    assert rows_of(sections["Dev scores of these runs"], "RTE")[0][3:] == ["60.0", "none", "60.0", "run.json"]
    assert "the score is that of run.json" in sections["Left out, and notes"][-1][1]


def test_settings_that_differ_between_seeds_are_named(world):
    edit(seeds(world)[0], lambda run: run["settings"].pop("dynamic_padding"))  # before the kit had this flag
    assert "same settings" not in str(made()) + Path("results/report.md").read_text()
    world("distilled_tinybert_4l_rte", 0.6, seed=9, learning_rate=1e-5, cache_dir="elsewhere")
    made()
    assert "The runs of RTE do not have the same settings: learning_rate." in Path("results/report.md").read_text()


def test_ablations_beside_the_paper(world):
    seeds(world)
    world("distilled_tinybert_4l_mrpc", 0.9, "MRPC")
    seeds(world, (0.50, 0.54), "no_da", aug_train=False)
    world("runs/my_own/seed_1/distilled_tinybert_4l_rte", 0.7)
    world("runs/no_da/seed_1/distilled_tinybert_4l_mrpc", 0.7, "MRPC", aug_train=False)
    table = made()["Ablations"]
    assert table[0][1:3] == ["these runs, TinyBERT4: MRPC", "these runs, TinyBERT4: RTE"]
    assert rows_of(table, "full")[0] == ["full", "90.0 (n=1)", "62.0 ± 2.0 (n=3)", "76.0", "+0.0", "75.6", "+0.0"]
    # (70 + 52) / 2 = 61 against (90 + 62) / 2 = 76; the deviation of 50 and 54 is sqrt(8)
    assert rows_of(table, "no_da")[0] == ["no_da", "70.0 (n=1)", "52.0 ± 2.8 (n=2)", "61.0", "-15.0", "68.4", "-7.2"]
    assert rows_of(table, "my_own")[0] == ["my_own", "missing", "70.0 (n=1)", "70.0 (1 of 2)", "+8.0 (1 of 2)", "", ""]
    assert rows_of(table, "no_trm")[0][1:5] == ["missing"] * 4
    assert rows_of(table, "no_trm")[1] == ["no_trm", "71.7", "72.3", "70.1", "11.2", "56.3"]


# --- SQuAD

V2 = {"exact": 0.70, "f1": 0.72, "best_exact": 0.71, "best_f1": 0.735, "best_exact_thresh": -1.25,
      "best_f1_thresh": -2.5, "HasAns_exact": 0.62, "HasAns_f1": 0.66, "NoAns_exact": 0.78, "NoAns_f1": 0.78,
      "HasAns_total": 5928, "NoAns_total": 5945, "total": 11873}


def answered(world, path: str, task: str, scores: dict[str, float], seed=42, **settings) -> Path:
    """A run on SQuAD that --do_eval has scored."""
    folder = world(path, scores["f1"], task, "f1", seed=seed, aug_train=False)
    write_json(folder / "eval_results.json", {"task": task, "values": scores, "settings": settings,
                                              "counts": {"dev-v1.1": {"SQuAD1": 10_570, "SQuAD2": 300}[task]}})
    return folder


def test_squad_beside_table_6(world):
    """EM, F1: means over two seeds; of v2.0 at 0 and at the best threshold apart, the paper's in their own columns."""
    for seed, (exact, f1) in enumerate(((0.70, 0.80), (0.72, 0.83)), 1):
        answered(world, f"runs/full/seed_{seed}/distilled_tinybert_4l_squad1", "SQuAD1",
                 {"exact_match": exact, "f1": f1}, seed)
    answered(world, "distilled_tinybert_6l_squad2", "SQuAD2", V2)
    world("final_squad1_teacher", 0.88, "SQuAD1", "f1", script="finetune_teacher")
    table = made()["SQuAD"]
    assert table[0] == ["model", "from", "v1.1: EM", "v1.1: F1", *(
        f"v2.0, {name}: {metric}" for name in ("threshold 0", "best threshold", "threshold unknown")
        for metric in ("EM", "F1"))]
    own, paper = ({row[0]: row[2:] for row in table[2:] if row[1] == source} for source in ("these runs", PAPER))
    # 70 and 72: mean 71, deviation sqrt(2); 80 and 83: 81.5, sqrt(4.5)
    assert own["TinyBERT4"] == ["71.0 ± 1.4 (n=2)", "81.5 ± 2.1 (n=2)", *["missing"] * 4, "", ""]
    assert own["TinyBERT6"] == ["missing", "missing", *(f"{score} (n=1)" for score in (70.0, 72.0, 71.0, 73.5)), "", ""]
    assert own["teacher"] == ["missing", "88.0 (n=1)", *["missing"] * 4, "", ""]
    assert paper == {  # arXiv 1909.10351, table 6
        "BERT-base (teacher)": ["80.7", "88.4", "", "", "", "", "74.5", "77.7"],
        "BERT4-PKD": ["70.1", "79.5", "", "", "", "", "60.8", "64.6"],
        "DistilBERT4": ["71.8", "81.2", "", "", "", "", "60.6", "64.1"],
        "MiniLM4": ["-", "-", "", "", "", "", "-", "69.7"],
        "TinyBERT4": ["72.7", "82.1", "", "", "", "", "68.2", "71.8"],
        "BERT6-PKD": ["77.1", "85.3", "", "", "", "", "66.3", "69.8"],
        "DistilBERT6": ["78.1", "86.2", "", "", "", "", "66.0", "69.5"],
        "MiniLM6": ["-", "-", "", "", "", "", "-", "76.4"],
        "TinyBERT6": ["79.7", "87.5", "", "", "", "", "74.7", "77.7"]}
    assert [row[0] for row in table[2:5]] == ["BERT-base (teacher)", "teacher", "BERT4-PKD"]
    assert table[-1] == ["TinyBERT6", "42", "62.0", "66.0", "78.0", "-1.25", "-2.50"]
    text = Path("results/report.md").read_text()
    assert "Which of the two the paper's scores of v2.0 are is unknown" in text
    assert "SQuAD2: not its dev set of 11873 questions, but one of 300." in text and "SQuAD1: not" not in text
    page = Page(Path("results/report.html").read_text())
    assert len(page.pictures) == 2 * 2  # of each task the prediction loss and the dev F1


def test_augmented_passages_and_other_students_have_rows_of_their_own(world):
    world("tmp_distilled_tinybert_4l_squad1", 0.0, "SQuAD1", "f1", pred_distill=False, aug_train=True)
    augmented = answered(world, "distilled_tinybert_4l_squad1", "SQuAD1", {"exact_match": 0.7, "f1": 0.8})
    edit(augmented, lambda run: run["settings"].update(student_model="models/tmp_distilled_tinybert_4l_squad1"))
    answered(world, "runs/full/seed_7/distilled_tinybert_4l_squad1", "SQuAD1", {"exact_match": 0.5, "f1": 0.6}, 7)
    answered(world, "distilled_tinybert_3l_squad1", "SQuAD1", {"exact_match": 0.3, "f1": 0.4})
    rows = [[row[0], row[3]] for row in made()["SQuAD"] if row[1] == "these runs"]
    assert rows == [["teacher", "missing"], ["TinyBERT4", "60.0 (n=1)"],
                    ["TinyBERT4, augmented passages", "80.0 (n=1)"], ["TinyBERT6", "missing"],
                    ["TinyBERT3", "40.0 (n=1)"]]


def test_squad_has_no_section_without_a_run_of_it(world):
    world("distilled_tinybert_4l_rte", 0.6)
    assert "SQuAD" not in made()


def test_another_threshold_is_never_in_the_column_of_0(world):
    folder = answered(world, "distilled_tinybert_4l_squad2", "SQuAD2", V2, null_score_diff_threshold=-1.5)
    sections = made()
    assert "--null_score_diff_threshold -1.5, not 0" in sections["Left out, and notes"][-1][1]
    assert [row[4:6] for row in sections["SQuAD"] if row[:2] == ["TinyBERT4", "these runs"]] == [
        ["missing", "72.0 (n=1)"]]  # of run.json, trained at 0
    edit(folder, lambda run: run["settings"].update(null_score_diff_threshold=-1.5))
    (folder / "eval_results.json").unlink()
    answered(world, "distilled_tinybert_4l_squad1", "SQuAD1", {"exact_match": 0.7, "f1": 0.8})
    sections = made()
    assert [row[2:8] for row in sections["SQuAD"] if row[:2] == ["TinyBERT4", "these runs"]] == [
        ["70.0 (n=1)", "80.0 (n=1)", *["missing"] * 4]]
    assert "not 0: score it with --do_eval alone" in sections["Left out, and notes"][-1][1]


def test_averages_over_glue_leave_squad_out(world):
    """SQuAD alone, then beside RTE, of which all averages are."""
    answered(world, "distilled_tinybert_4l_squad1", "SQuAD1", {"exact_match": 0.7, "f1": 0.8})
    answered(world, "runs/no_gd/seed_1/distilled_tinybert_4l_squad1", "SQuAD1", {"exact_match": 0.6, "f1": 0.7})
    edit(Path("models/runs/no_gd/seed_1/distilled_tinybert_4l_squad1"),
         lambda run: run["settings"].update(from_scratch=True))
    sections = made()
    assert rows_of(sections["Ablations"], "no_gd")[0][1:4] == ["70.0 (n=1)", "missing", "missing"]
    assert not sections["Size, speed and score"] and not rows_of(sections["Dev scores of these runs"], "SQuAD1")
    world("distilled_tinybert_4l_rte", 0.6)
    world("runs/no_gd/seed_1/distilled_tinybert_4l_rte", 0.5, from_scratch=True)
    sections = made()
    assert rows_of(sections["Ablations"], "no_gd")[0][1:5] == ["50.0 (n=1)", "70.0 (n=1)", "50.0", "-10.0"]
    assert rows_of(sections["Size, speed and score"], "TinyBERT4")[0][4] == "60.0"
    assert "Average over RTE." in Path("results/report.md").read_text()


# --- Chinese tasks

# PaddleNLP's README, dev.
PADDLE = """
| model | AFQMC | TNEWS | IFLYTEK | CMNLI | OCNLI | CLUEWSC2020 | CSL |
| BERT-base-chinese (12L) | 74.63 | 57.13 | 61.29 | 80.97 | 75.22 | 81.91 | 81.90 |
| TinyBERT_6L_zh | 72.22 | 55.70 | 54.48 | 79.12 | 74.07 | 77.63 | 80.17 |
| TinyBERT_4L_zh (312) | 69.07 | 54.02 | 39.71 | 73.94 | 69.59 | 70.07 | 75.07 |
| RBT6 (6L/768) | 73.45 | 56.82 | 59.64 | 79.36 | 73.32 | 76.64 | 80.67 |
| RBT3 (3L/768) | 70.95 | 55.53 | 59.18 | 76.20 | 70.71 | 67.11 | 76.63 |
| ERNIE 3.0 Nano (4L/312) | 70.51 | 54.57 | 48.36 | 74.97 | 70.61 | 68.75 | 75.93 |
| PP-MiniLM (6L/768) | 74.14 | 57.43 | 61.75 | 81.01 | 76.17 | 86.18 | 79.17 |
| RoBERTa-wwm-ext (12L, a BERT) | 74.60 | 58.08 | 61.23 | 81.11 | 76.92 | 88.49 | 80.77 |
| RoBERTa-wwm-ext-large | 76.00 | 59.33 | 62.02 | 83.88 | 78.81 | 90.79 | 83.67 |
"""
CHINESE = "AFQMC TNEWS IFLYTEK CMNLI OCNLI CSL CLUEWSC2020 ChnSentiCorp XNLI-zh".split()


def test_clue_beside_the_published_and_beside_glue(world):
    """Every published number under its own model and task; those of these runs below; GLUE's elsewhere."""
    for seed, score in ((1, 0.60), (2, 0.64)):
        world(f"runs/full/seed_{seed}/distilled_tinybert_4l_afqmc", score, "AFQMC", seed=seed)
    both = world("distilled_tinybert_6l_chnsenticorp", 0.90, "ChnSentiCorp")
    write_json(both / "eval_results.json", {"task": "ChnSentiCorp", "values": {"acc": 0.91, "acc_test": 0.92},
                                            "counts": {"dev": 1200, "test": 50}})
    world("distilled_tinybert_3l_cluewsc2020", 0.65, "CLUEWSC2020", aug_train=False)  # which is not augmented
    world("final_afqmc_teacher", 0.74, "AFQMC", script="finetune_teacher")
    world("distilled_tinybert_4l_rte", 0.66)
    sections = made()
    assert not sections["Left out, and notes"]
    assert [row[3] for row in rows_of(sections["Dev scores of these runs"], "RTE")] == ["66.0", "missing", "missing"]
    assert not any(name in str(sections["Dev scores of these runs"]) for name in CHINESE)
    table = sections["Chinese tasks"]
    start = table.index(["model", "from", *CHINESE])
    # 60 and 64: mean 62, deviation sqrt(8); a row for each of 3l, 4l, 6l and the teachers
    assert [row[2:] for row in rows_of(table[:start], "AFQMC", "accuracy")] == [
        ["0", "missing", "", "", ""], ["2", "62.0", "2.83", "64.0", "run.json"],
        ["0", "missing", "", "", ""], ["1", "74.0", "none", "74.0", "run.json"]]
    assert [row[1:4] for row in rows_of(table[:start], "ChnSentiCorp") if row[2] != "0"] == [
        ["accuracy", "1", "91.0"], ["accuracy, test", "1", "92.0"]]
    assert not rows_of(table[:start], "RTE") and not rows_of(table[:start], "XNLI-zh")
    text = Path("results/report.md").read_text()
    assert "ChnSentiCorp: not the official dev set of 1200 + 1200 examples, but one of 1200 + 50." in text
    assert "of plain fine-tuning" in text and "grid search" in text

    own = {row[0]: row[2:] for row in table[start:] if row[1] == "these runs"}
    assert own == {"teacher": ["74.0 (n=1)", *["missing"] * 8],
                   "TinyBERT4": ["62.0 ± 2.8 (n=2)", *["missing"] * 8],
                   "TinyBERT6": [*["missing"] * 7, "91.0 (n=1)", "missing"],
                   "TinyBERT3": [*["missing"] * 6, "65.0 (n=1)", *["missing"] * 2]}
    order = [row[0] for row in table[start + 2:]]
    for model, above in (("teacher", "BERT-base-chinese"), ("TinyBERT4", "TinyBERT_4L_zh"),
                         ("TinyBERT6", "TinyBERT_6L_zh")):
        assert order[order.index(model) - 1] == above
    published = {(row[0].split(" (")[0], row[1], task): score for row in table[start + 2:] if row[1] != "these runs"
                 for task, score in zip(CHINESE, row[2:], strict=True) if score != "-"}
    wanted = {("BERT-base-chinese", source, task): score for source, scores in (
        ("CLUE's README", {"AFQMC": "74.16", "TNEWS": "56.09", "IFLYTEK": "60.37", "CMNLI": "79.47",
                           "CLUEWSC2020": "59.6", "CSL": "79.63"}),
        ("OCNLI's README", {"OCNLI": "74.5"}), ("HFL, best", {"ChnSentiCorp": "94.7", "XNLI-zh": "77.8"}),
        ("HFL, mean", {"ChnSentiCorp": "94.3", "XNLI-zh": "77.4"})) for task, score in scores.items()}
    (_, *tasks), *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in PADDLE.split("\n")[1:-1])
    wanted |= {(model.split(" (")[0], "PaddleNLP's README", task): score.removesuffix("0")
               for model, *scores in lines for task, score in zip(tasks, scores, strict=True)}
    assert published == wanted


def test_chinese_runs_alone(world):
    """Without GLUE's sections; sizes and ablations are over Chinese tasks, and a test set is part of no average."""
    for path, score, variant in (("distilled_tinybert_4l_chnsenticorp", 0.9, "full"),
                                 ("runs/no_da/seed_1/distilled_tinybert_4l_chnsenticorp", 0.8, "no_da")):
        folder = world(path, score, "ChnSentiCorp", aug_train=variant == "full")
        write_json(folder / "eval_results.json", {"task": "ChnSentiCorp", "values": {"acc": score, "acc_test": 0.1}})
    sections = made()
    assert list(sections)[:2] == ["Chinese tasks", "Ablations"]
    assert not {"Dev scores of these runs", "SQuAD", "Published dev scores", "Published test scores"} & set(sections)
    assert sections["Ablations"][0][1:4] == [f"these runs, TinyBERT4: {name}"
                                             for name in ("ChnSentiCorp", "average", "to full")]
    assert rows_of(sections["Ablations"], "no_da")[0][1:4] == ["80.0 (n=1)", "80.0", "-10.0"]
    assert rows_of(sections["Size, speed and score"], "TinyBERT4")[0][4] == "90.0"
    world("distilled_tinybert_4l_rte", 0.6)  # beside GLUE they are part of no average
    world("runs/no_da/seed_1/distilled_tinybert_4l_rte", 0.5, aug_train=False)
    sections = made()
    assert rows_of(sections["Ablations"], "no_da")[0][1:5] == ["50.0 (n=1)", "80.0 (n=1)", "50.0", "-10.0"]
    assert rows_of(sections["Size, speed and score"], "TinyBERT4")[0][4] == "60.0"


def test_general_students_of_two_teachers_are_two(world):
    """English and Chinese ones, of the same seed."""
    world("general_4l", 0.0, script="general_distill", says={"student": "4l"}, started=1)
    world("general_4l_again", 0.0, script="general_distill", says={"student": "4l"}, started=2)
    world("general_4l_zh", 0.0, script="general_distill", says={"student": "4l"}, teacher_model="m/bert-base-chinese")
    sections = made()
    assert [row[7] for row in sections["Runs"][2:]] == ["models/general_4l_again", "models/general_4l_zh"]
    assert [row[0] for row in sections["Left out, and notes"][2:]] == ["models/general_4l"]
    assert "Chinese tasks" not in sections  # no run is on one


def test_runs_say_what_they_are(world):
    """In folders whose names tell nothing; beside runs of an earlier version, whose folders tell it."""
    for number, (variant, student, score) in enumerate((
            ("full", "4l", 0.6), ("no_da", "4l", 0.5), ("full", "6l", 0.7), ("search_b16_lr3e-5", "4l", 0.65))):
        world(f"run_{number}", score, says={"variant": variant, "student": student}, aug_train=variant != "no_da")
    world("runs/no_da/seed_1/distilled_tinybert_4l_rte", 0.54, seed=1, aug_train=False)
    world("teacher", 0.8, script="finetune_teacher", says={"variant": "full", "student": ""})
    world("labels", 0.4, script="finetune_teacher", says={"variant": "labels", "student": "4l"})
    sections = made()
    assert [row[3] for row in rows_of(sections["Dev scores of these runs"], "RTE")] == ["60.0", "70.0", "80.0"]
    assert rows_of(sections["Ablations"], "no_da")[0][1] == "52.0 ± 2.8 (n=2)"
    assert rows_of(sections["Ablations"], "labels")[0][1] == "40.0 (n=1)"
    assert sections["Search of the prediction stage"][-1][1] == "65.0 (n=1)"
    assert not sections["Left out, and notes"]


def test_other_students_stand_alone(world):
    """Where all runs are of 2 and 3 layers, nothing is missing of 4 and 6."""
    for student, score in (("2l", 0.5), ("3l", 0.6)):
        world(f"runs/full/seed_1/distilled_tinybert_{student}_rte", score, says={"student": student})
    world("runs/no_da/seed_1/distilled_tinybert_3l_rte", 0.4, says={"variant": "no_da", "student": "3l"})
    sections = made()
    assert [row[3] for row in rows_of(sections["Dev scores of these runs"], "RTE")] == ["50.0", "60.0", "missing"]
    assert [row[1] for row in rows_of(sections["Ablations"], "full")] == ["60.0 (n=1)", "82.8"]  # 3l's and the paper's
    text = Path("results/report.md").read_text()
    assert "TinyBERT3:" in text and "TinyBERT6:" not in text and "these runs, TinyBERT4" not in text
    world("runs/full/seed_1/distilled_tinybert_4l_rte", 0.7, says={"student": "4l"})
    assert [row[3] for row in rows_of(made()["Dev scores of these runs"], "RTE")] == [
        "50.0", "60.0", "70.0", "missing", "missing"]


def test_run_json_is_believed_before_the_folder_s_name(world):
    world("runs/no_da/seed_1/distilled_tinybert_4l_rte", 0.5, says={"variant": "no_pred", "student": "6l"})
    sections = made()
    assert rows_of(sections["Ablations"], "no_pred")[1][:2] == ["no_pred", "50.0 (n=1)"]  # the second table, of 6l
    assert "50.0 (n=1)" not in str(rows_of(sections["Ablations"], "no_da"))
    assert sections["Left out, and notes"][2:] == [[
        "models/runs/no_da/seed_1/distilled_tinybert_4l_rte",
        "variant no_pred by its run.json, no_da by its folder: it counts as no_pred"]]


@pytest.mark.parametrize("settings,start,layers,label", [
    ({"output_dir": "a/tmp_distilled_tinybert_6l_rte", "student_model": "tinybert_4l"}, None, 12, "6l"),
    ({"output_dir": None, "student_model": "models/tinybert_3l_config/"}, "tinybert_4l", 12, "3l"),
    ({"output_dir": "tinybert_4l/out"}, "models/distilled_tinybert_4l", 12, "4l"),  # the folder above tells nothing
    ({"output_dir": "out"}, None, 5, "5l"), ({"output_dir": "final_rte_teacher"}, "bert-base-uncased", 0, "")])
def test_student_label(settings, start, layers, label):
    assert student_label(settings, start, layers) == label


def test_search_is_chosen_on_dev(world):
    for batch, rate, score in ((16, 1e-5, 0.5), (16, 3e-5, 0.7), (32, 1e-5, 0.6)):
        world(f"runs/search_b{batch}_lr{rate:g}/seed_42/distilled_tinybert_4l_rte", score, train_batch_size=batch,
              learning_rate=rate)
    sections = made()
    assert sections["Search of the prediction stage"] == [
        ["batch, rate", "16, 1e-05", "16, 3e-05", "32, 1e-05", "chosen"], ["---", "---:", "---:", "---:", "---"],
        ["TinyBERT4, RTE", "50.0 (n=1)", "70.0 (n=1)", "60.0 (n=1)", "16, 3e-05"]]
    told = re.search(r'PREDICTION_FLAGS_RTE="(.*)" ./reproduce.sh --tasks RTE --students 4l',
                     Path("results/report.md").read_text())
    assert told[1] == "--train_batch_size 16 --learning_rate 3e-05"
    assert rows_of(sections["Dev scores of these runs"], "RTE")[0][3] == "missing"  # not a run of the full method


def own(name="moods", rows=70) -> dict:
    """What run.json tells of somebody's own task."""
    return {"task_json": {"version": 1, "name": name, "kind": "classes", "labels": ["sad", "glad"], "metric": "acc",
                          "texts": 1, "max_seq_length": 24, "rows": {"train.tsv": rows, "dev.tsv": 18}}}


@pytest.mark.parametrize(("task", "says", "variable", "asked"), [
    ("AFQMC", {}, "AFQMC", "--tasks AFQMC --language chinese"),
    ("moods", own(), "OWN", "--task_dir 'data/my moods'")])
def test_the_command_after_a_search_is_one_that_is_taken(task, says, variable, asked, world, tmp_path):
    """reproduce.sh names its steps for it, with a folder of the task there."""
    world("runs/search_b16_lr1e-5/seed_42/distilled_tinybert_4l_x", 0.5, task, says=says, train_batch_size=16,
          learning_rate=1e-5, data_dir="data/my moods")
    made()
    command = re.search("To train more seeds so: (.*)", Path("results/report.md").read_text())[1].replace("\\", "")
    assert command == (f'PREDICTION_FLAGS_{variable}="--train_batch_size 16 --learning_rate 1e-05" ./reproduce.sh '
                       f"{asked} --students 4l --seeds 1,2,3")
    if says:
        folder = tmp_path / "data/my moods"
        folder.mkdir(parents=True)
        write_json(folder / "task.json", says["task_json"])
        for name in ("train.tsv", "dev.tsv"):
            (folder / name).write_text("label\tsentence\nsad\tthe dog\n")
    command = command.replace("./", shlex.quote(f"{ROOT}/"))
    run = subprocess.run(["bash", "-c", f"{command} --list"], capture_output=True, text=True,
                         env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"})
    assert run.returncode == 0 and f"full/seed_3/prediction_4l_{task.lower()}" in run.stdout.split(), run.stderr


def test_ablations_of_own_tasks_alone_have_an_average(world):
    """(80 + 60) / 2 = 70 against (90 + 50) / 2 = 70; beside GLUE they are part of none."""
    for name, full, without in (("moods", 0.9, 0.8), ("stars", 0.5, 0.6)):
        world(f"distilled_tinybert_4l_{name}", full, name, says=own(name))
        world(f"runs/no_da/seed_1/distilled_tinybert_4l_{name}", without, name, says=own(name), aug_train=False)
    assert rows_of(made()["Ablations"], "no_da")[0][:5] == ["no_da", "80.0 (n=1)", "60.0 (n=1)", "70.0", "+0.0"]
    world("distilled_tinybert_4l_rte", 0.9)
    world("runs/no_da/seed_1/distilled_tinybert_4l_rte", 0.7, aug_train=False)
    assert rows_of(made()["Ablations"], "no_da")[0][:6] == ["no_da", "70.0 (n=1)", "80.0 (n=1)", "60.0 (n=1)", "70.0",
                                                            "-20.0"]


def test_one_task_made_anew_stays_in_the_order_of_its_runs(world):
    """Not in that of the hashes of names, which every process has its own of."""
    tasks = [recorded_task({**own(rows=rows), "task": "moods"}, "here") for rows in range(70, 90)]
    runs = [mock.Mock(task=task) for task in (*tasks, None, tasks[3])]
    assert [task.rows for task in tasks_of(iter(runs))] == [(rows, 18) for rows in range(70, 90)]


def edit(folder: Path, change) -> None:
    run = read_json(folder / "run.json")
    change(run)
    write_json(folder / "run.json", run)


@pytest.mark.parametrize("change,reason", [
    (lambda run: run.update(finished=False), "not finished"), (lambda run: run.update(kept={}), "no acc of RTE"),
    (lambda run: run.update(kept={"acc": "high"}), "no acc of RTE"),
    (lambda run: run["settings"].pop("seed"), "another version of the kit"),
    (lambda run: run.update(settings=[1]), "another version of the kit"),
    (lambda run: run.update(hardware="a GPU"), "another version of the kit"),
    (lambda run: run["settings"].update(without=3), "another version of the kit"),
    (lambda run: run.pop("task"), "names no task"), (lambda run: run.update(task="SQuAD3"), "unknown task"),
    (lambda run: run.update(command="train.py"), "no training script of this kit"),
    (lambda run: run["settings"].update(hard_labels=True),
     "an ablation by its settings (--hard_labels): keep it in models/runs/NAME/seed_S; one that is made anew takes "
     "--variant NAME"),
    (lambda run: run.update(variant="full") or run["settings"].update(hard_labels=True),
     "an ablation by its settings (--hard_labels): make it with --variant NAME"),
    (lambda run: run.update(variant=3), "another version of the kit"),
    (lambda run: run.update(trained_with=[4]), "another version of the kit"),
    (lambda run: run.update(student=None), "another version of the kit"),
    (lambda run: run["settings"].update(aug_train=False), "an ablation by its settings (no --aug_train)")])
def test_run_that_is_left_out(change, reason, world):
    folder = world("distilled_tinybert_4l_rte", 0.6)
    edit(folder, change)
    sections = made()
    (row,) = sections["Left out, and notes"][2:]
    assert row[0] == "models/distilled_tinybert_4l_rte" or str(folder) in row[0]
    assert reason in row[1]
    assert rows_of(sections["Dev scores of these runs"], "RTE")[0][3] == "missing"


def test_fine_tuned_student_does_not_replace_the_distilled_one(world):
    world("distilled_tinybert_4l_rte", 0.6, started=1)
    world("finetuned_tinybert_4l_rte", 0.9, script="finetune_teacher", started=2)
    world("runs/labels/seed_42/distilled_tinybert_4l_rte", 0.5, script="finetune_teacher")
    sections = made()
    assert rows_of(sections["Dev scores of these runs"], "RTE")[0][2:4] == ["1", "60.0"]
    assert rows_of(sections["Ablations"], "labels")[0][1] == "50.0 (n=1)"
    ((folder, reason),) = sections["Left out, and notes"][2:]
    assert folder == "models/finetuned_tinybert_4l_rte" and "an ablation by its settings (no teacher)" in reason


def test_folders_above_tell_neither_student_nor_variant(world, tmp_path, monkeypatch):
    world("final_rte_teacher", 0.7, script="finetune_teacher", output_dir="/tinybert_4l/models/final_rte_teacher")
    world("runs/no_da/seed_1/distilled_tinybert_4l_rte", 0.5, aug_train=False)
    world("distilled_tinybert_4l_rte", 0.6)
    (tmp_path / "runs" / "linked").mkdir(parents=True)
    Path("models").rename("runs/models")
    Path("runs/linked/models").symlink_to("../models")
    for folder, argv in ((".", ()), ("models", (".",)), ("models/runs/no_da", ("../..",)), ("linked", ())):
        monkeypatch.chdir(tmp_path / "runs" / folder)
        sections = made(*argv)
        assert [row[3] for row in rows_of(sections["Dev scores of these runs"], "RTE")] == ["60.0", "missing", "70.0"]
        assert rows_of(sections["Ablations"], "no_da")[0][1] == "50.0 (n=1)"
        assert len(sections["Left out, and notes"]) == 0
    Path("../models").rename("../weights")
    Path("models").unlink()
    Path("models").symlink_to("../weights")
    assert rows_of(made()["Ablations"], "no_da")[0][1] == "50.0 (n=1)"


@pytest.mark.parametrize("flag,note", [
    ("init_from_teacher_layers", "general distillation began with the teacher's layers"),
    ("fit_per_layer", "each hidden state has a projection of its own")])
def test_what_the_paper_does_not_have_is_noted(flag, note, world):
    world("distilled_tinybert_6l", 0.0, script="general_distill", **{flag: True})
    world("distilled_tinybert_6l_rte", 0.6, student_model="models/tmp_distilled_tinybert_6l_rte")
    world("tmp_distilled_tinybert_6l_rte", 0.0, pred_distill=False, student_model="models/distilled_tinybert_6l")
    sections = made()
    assert rows_of(sections["Dev scores of these runs"], "RTE")[1][3] == "60.0" and len(sections["Runs"]) == 2 + 3
    assert [row[1] for row in sections["Left out, and notes"][2:]] == [f"{note} (--{flag})"] * 3


def test_another_family_of_teachers_is_noted(world, tmp_path):
    world("tmp_distilled_tinybert_6l_rte", 0.0, pred_distill=False)
    world("distilled_tinybert_6l_rte", 0.6, student_model="models/tmp_distilled_tinybert_6l_rte")
    for folder, family in (("tmp_distilled_tinybert_6l_rte", "BERT"), ("distilled_tinybert_6l_rte", "ELECTRA")):
        path = next(Path().rglob(f"models/{folder}/run.json"))
        path.write_text(json.dumps({**json.loads(path.read_text()), "teacher_family": family}))
    assert made()["Left out, and notes"][2:] == [
        ["models/distilled_tinybert_6l_rte", "its teacher is of the family ELECTRA, the paper's is a BERT"]]


@pytest.mark.parametrize("remade", [True, False])
def test_start_that_was_made_anew_is_noted(remade, world):
    world("tmp_distilled_tinybert_4l_rte", 0.0, pred_distill=False, started=3 if remade else 1)
    world("distilled_tinybert_4l_rte", 0.6, student_model="models/tmp_distilled_tinybert_4l_rte", started=2)
    sections = made()
    assert sections["Left out, and notes"][2:] == [[
        "models/distilled_tinybert_4l_rte",
        "it started from models/tmp_distilled_tinybert_4l_rte, which was made anew afterwards"]] * remade
    assert rows_of(sections["Dev scores of these runs"], "RTE")[0][3] == "60.0"


def test_the_run_before_makes_an_ablation_too(world):
    world("tmp_distilled_tinybert_4l_rte", 0.0, pred_distill=False, without=["attn"])
    world("distilled_tinybert_4l_rte", 0.6, student_model="models/tmp_distilled_tinybert_4l_rte")
    assert [row[1].split(")")[0] for row in made()["Left out, and notes"][2:]] == [
        "an ablation by its settings (--without attn"] * 2


def test_newest_of_duplicates_and_folders_of_others(world):
    world("distilled_tinybert_4l_rte", 0.6, seed=1, started=1)
    world("runs/full/seed_1/distilled_tinybert_4l_rte", 0.8, seed=1, started=2)
    for name, text in (("broken", "{"), ("list", "[1]"), ("other", '{"epochs": 3}'), ("deep", "[" * 100_000)):
        (Path("models") / name).mkdir()
        (Path("models") / name / "run.json").write_text(text)
    Path("results").mkdir()
    Path("results/inference.json").write_text('{"rows": [{"engine": "kit"}, 3]}')
    sections = made()
    assert rows_of(sections["Dev scores of these runs"], "RTE")[0][2:4] == ["1", "80.0"]
    left = dict(sections["Left out, and notes"][2:])
    assert "same variant, seed, task and student" in left["models/distilled_tinybert_4l_rte"]
    assert "not valid JSON" in left["models/broken"] and "not valid JSON" in left["models/deep"]
    assert left["models/other"] == "not a run of this kit" and "no JSON object" in left["models/list"]
    assert "bench_inference" in left["results/inference.json"]


def test_curves_that_cannot_be_drawn_leave_the_score(world):
    folder = world("distilled_tinybert_4l_rte", 0.6)
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss"')
    sections = made()
    assert "no curve" in sections["Left out, and notes"][-1][1] and len(sections["Left out, and notes"]) == 3
    assert rows_of(sections["Dev scores of these runs"], "RTE")[0][3] == "60.0"


def test_speed_is_that_of_models_of_the_same_size(world):
    world("distilled_tinybert_4l_rte", 0.6)
    world("final_rte_teacher", 0.7, script="finetune_teacher")
    row = {"model": "TinyBERT4", "engine": "kit", "device": "cpu", "precision": "fp32", "batch": 1, "length": 128,
           "milliseconds_median": 12.5, "parameters": 14_500_000, "flops": 1}
    table = made()["Size, speed and score"]
    # 30 + 512 + 2 embeddings of 8, their norm 16; a layer: 4 * (64 + 8) + 2 * 16 + 2 * 128 + 16 + 8; 8 * 8 + 8 pooler;
    # classifier 8 * 2 + 2
    size = 544 * 8 + 16 + 2 * (288 + 32 + 280) + 72 + 18
    assert rows_of(table, "TinyBERT4")[0] == ["TinyBERT4", f"{size:,}", "1.0", "missing", "60.0"]
    assert "Speed is left out" in Path("results/report.md").read_text()
    for parameters, shown in ((14_500_000, "missing"), (size, "12.5 source")):
        write_json("results/inference.json", {"machine": "x", "rows": [
            {**row, "engine": "transformers", "milliseconds_median": 99}, {**row, "parameters": parameters}]})
        assert rows_of(made()["Size, speed and score"], "TinyBERT4")[0][3] == shown


def test_cost(world):
    for seed, seconds in ((1, 30.0), (2, 50.0)):
        edit(world(f"runs/full/seed_{seed}/distilled_tinybert_4l_rte", 0.6, seed=seed),
             lambda run, seconds=seconds: run.update(seconds=seconds, resumed_from=0 if seconds == 30 else 10))
    marks = Path("results/steps/full/seed_1")
    marks.mkdir(parents=True)
    for name, text in (("eval_4l_rte", "3\n"), ("eval_4l_cola", "4\n"), ("glove", "soon")):
        (marks / f"{name}.seconds").write_text(text)
    table = made()["Cost"]
    # 80 seconds for 20 + 10 steps; the median of 100, 200, 100, 200
    assert rows_of(table, "prediction, TinyBERT4")[0][1:7] == ["RTE", "2", "15", "40", "2.667", "150"]
    assert table[-1][1:] == ["eval", "2", "7"] and not any("glove" in row for row in table)


def test_the_seconds_of_students_trained_together_count_once(world):
    """In a row for both; one that was trained alone has its own."""
    folders = {student: f"tmp_distilled_tinybert_{student}_rte" for student in ("4l", "6l")}
    for student, other, seconds in (("4l", "6l", 40.0), ("6l", "4l", 40.0)):
        edit(world(folders[student], 0, pred_distill=False),
             lambda run, other=other, seconds=seconds: run.update(
                 seconds=seconds, trained_with=[f"models/{folders[other]}"]))
    edit(world("distilled_tinybert_6l_rte", 0.6), lambda run: run.update(seconds=10.0))
    table = made()["Cost"]
    assert [row[:5] for row in table if row[1] == "RTE"] == [
        ["intermediate, TinyBERT4 and TinyBERT6 together", "RTE", "1", "20", "40"],
        ["prediction, TinyBERT6", "RTE", "1", "20", "10"]]


class Page(HTMLParser):
    """Checks that tags are closed in order; collects links, pictures and text."""
    def __init__(self, text: str):
        super().__init__()
        self.open, self.links, self.pictures, self.anchors, self.words = [], [], [], set(), []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        assert tag not in ("script", "link", "iframe", "object", "b"), tag
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.anchors |= {attributes["id"]} if "id" in attributes else set()
        if tag == "a":
            self.links.append(attributes["href"])
        if tag == "img":
            assert attributes["alt"]
            self.pictures.append(attributes["src"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_page_stands_alone_and_its_links_lead_somewhere(painted, world):
    seeds(world)
    for student in ("4l", "6l"):
        world(f"distilled_tinybert_{student}", 0.0, script="general_distill")
        world(f"tmp_distilled_tinybert_{student}_rte", 0.0, pred_distill=False)
    world("distilled_tinybert_6l_rte", 0.6)
    world("final_rte_teacher", 0.7, script="finetune_teacher")
    odd = world(f"runs/{ODD}/seed_1/distilled_tinybert_4l_rte", 0.6)
    (odd / "inner").mkdir()
    (odd / "inner" / "run.json").write_text(json.dumps({"<script>alert(1)</script>": 1}))
    made()
    source = Path("results/report.html").read_text()
    page = Page(source)
    assert not re.search(r"""(src|href)=["'](https?:|//)|url\(|@import""", source)
    assert ODD in "".join(page.words)
    for link in page.links:
        assert link[1:] in page.anchors if link.startswith("#") else (Path("results") / unquote(link)).exists(), link
    folders = {(Path("results") / unquote(link)).resolve() for link in page.links if not link.startswith("#")}
    for run in Path("models").rglob("run.json"):
        assert run.parent.resolve() in folders, run
        assert run.resolve() in folders or run.parent.name == "inner", run
    # two losses of general distillation, three and the dev scores of RTE, size and score
    assert len(page.pictures) == 2 + 3 + 1 + 1
    for picture in page.pictures:
        assert base64.b64decode(picture.removeprefix("data:image/png;base64,")).startswith(b"\x89PNG\r\n")
    markdown = Path("results/report.md").read_text()
    targets = re.findall(r"\]\(([^)]*)\)", markdown)
    assert len(targets) >= len(page.links) - len(page.anchors)
    for target in targets:
        assert (Path("results") / unquote(target)).exists(), target
    widths = [len(re.split(r"(?<!\\)\|", line)) for line in markdown.splitlines() if line.startswith("|")]
    assert min(widths) >= 4
    assert not list(Path("results").rglob("*.tmp"))


def test_pictures_of_an_earlier_report_go(world):
    folder = world("distilled_tinybert_4l_rte", 0.6)
    made()
    plots = Path("results/plots")
    assert (plots / "rte_dev.png").is_file() and (plots / "size_score.png").is_file()
    (plots / "mine.png").touch()
    (folder / "run.json").unlink()
    made()
    assert [path.name for path in plots.iterdir()] == ["mine.png"]


def test_no_matplotlib(world, refused, monkeypatch):
    world("distilled_tinybert_4l_rte", 0.6)
    made()
    before = {path: path.read_bytes() for path in Path("results").rglob("*") if path.is_file()}
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    refused("report", words=("the plots need matplotlib", "pip install -r requirements.txt"))
    assert {path: path.read_bytes() for path in Path("results").rglob("*") if path.is_file()} == before


def test_no_home_for_the_caches_of_matplotlib(world):
    """It draws all the same, and says nothing of it."""
    world("distilled_tinybert_4l_rte", 0.6)
    run = subprocess.run([sys.executable, Path(report.__file__)], capture_output=True, text=True,
                         env={"HOME": "/proc/self", "PATH": os.environ["PATH"]})
    assert (run.returncode, run.stdout, run.stderr) == (0, "results/report.md\nresults/report.html\n", "")


def test_published_numbers_are_those_of_the_readme():
    text = (ROOT / "README.md").read_text().split("\n## Results\n")[1].split("\n## ")[0]
    columns = {"test": "MNLI-m MNLI-mm QQP QNLI SST-2 CoLA STS-B MRPC RTE average".split(),
               "dev": ["RTE", "SST-2", "CoLA", "MRPC", "MRPC F1", "MRPC accuracy", "MNLI-m", "MNLI-mm", "QNLI",
                       "QQP F1", "QQP accuracy", "STS-B Pearson", "STS-B Spearman"]}
    tables = dict(zip(("test", "dev"), text.split("**Dev** set", 1), strict=True))
    whole = [row for row in ROWS if row not in ABLATIONS.values()]
    for row in whole:
        model = re.sub(r"(?<=TinyBERT)(\d)", r" \1 layers", row.model)
        source = {PAPER: "paper", REPRODUCTION: REPRODUCTION}[row.source]
        first = f"| {model} |" if row.split == "test" else f"| {model} | {source} |"
        (line,) = (line for line in tables[row.split].splitlines() if line.startswith(first))
        assert set(row.scores) <= set(columns[row.split])
        assert [row.scores[name] for name in columns[row.split] if name in row.scores] == [
            float(number) for number in re.findall(r"\d+\.\d", line)]
    assert len(whole) == sum(line.startswith(("| TinyBERT", "| BERT")) for line in text.splitlines())
    for row in whole:  # the published averages follow from the columns
        if row.split == "test":
            *scores, average = row.scores.values()
            assert len(scores) == 9 and round(sum(scores) / 9, 1) == average


def test_dev_and_test_scores_are_apart(world):
    sections = made()
    assert rows_of(sections["Published test scores"], "average") == [["average", "79.5", "77.0", "79.4"]]
    assert all(row.split == "dev" for row in ABLATIONS.values()) and len(ABLATIONS) == 11
    others = str([rows for name, rows in sections.items() if name != "Published test scores"])
    assert "'75.6'" in others and not any(f"'{score}'" in others for score in (77.0, 79.5, 44.1, 52.8))
    for row in ABLATIONS.values():  # the averages of the table follow from its columns, to rounding
        *scores, average = row.scores.values()
        assert average == pytest.approx(sum(scores) / 4, abs=0.1)


def test_nothing_there(world, refused):
    sections = made()
    assert "Missing: no run was found." in Path("results/report.md").read_text()
    assert rows_of(sections["Ablations"], "full")[0][1:4] == ["missing"] * 3
    refused("report", "nowhere", "neither", words=("nowhere or neither",))
    refused("report", "models", "modles", words=("no folder modles here",))


def test_ablation_table_compares_the_same_seeds(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for variant in ABLATIONS:
        for seed in range(1, 4 if variant == "full" else 3):
            for task, metric in (("cola", "mcc"), ("mrpc", "acc")):
                folder = Path(f"models/runs/{variant}/seed_{seed}/distilled_tinybert_4l_{task}")
                folder.mkdir(parents=True)
                score = 0.7 if variant != "full" else 0.0 if seed == 3 else 0.8
                write_json(folder / "eval_results.json", {"finished": True, "values": {metric: score}})
    assert ablation_table.main() == 0
    assert re.findall(r"^(?:full|no_gd) .*", capsys.readouterr().out, re.M) == [
        f"{'full':10}{80:11.1f}{80:11.1f}{80:7.1f}{0:+8.1f}", f"{'no_gd':10}{70:11.1f}{70:11.1f}{70:7.1f}{-10:+8.1f}"]
