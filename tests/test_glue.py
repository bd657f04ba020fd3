"""The task table, rows of TSV files, labels and metrics, against hand-made numbers."""
import math

import numpy as np
import pytest
from conftest import write_lines

from transformer.files import InputError
from transformer.glue import (
    TASKS,
    chance_level,
    class_order,
    compute_metrics,
    get_task,
    parse_label,
    read_rows,
    task_folder,
)


@pytest.mark.parametrize("name,wanted", [("RTE", "RTE"), ("rte", "RTE"), ("sst-2", "SST-2"), ("SST2", "SST-2"),
                                         ("sts-b", "STS-B"), ("mnli-mm", "MNLI"), ("Cola", "CoLA"), ("qqp", "QQP")])
def test_task_names(name, wanted):
    assert get_task(name).name == wanted


def test_columns_of_the_official_files(tmp_path):
    """Headers of the official train.tsv files; the table must point at the texts and the label."""
    headers = {
        "SST-2": "sentence\tlabel", "MRPC": "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        "STS-B": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        "QQP": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        "MNLI": "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t"
                "sentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label",
        "QNLI": "index\tquestion\tsentence\tlabel", "RTE": "index\tsentence1\tsentence2\tlabel",
        "WNLI": "index\tsentence1\tsentence2\tlabel"}
    texts = {"sentence", "#1 String", "#2 String", "sentence1", "sentence2", "question1", "question2", "question"}
    assert headers.keys() | {"CoLA"} == {task.name for task in TASKS.values()}
    for name, header in headers.items():
        task, columns = get_task(name), header.split("\t")
        assert len(columns) == task.train_columns
        assert {columns[c] for c in task.text_columns} == texts & set(columns)
        assert columns[task.label_column] in ("label", "Quality", "score", "is_duplicate", "gold_label")


def test_rows_are_read_without_quoting(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_bytes("\ufeffsentence\tlabel\r\n\"a\" quote \" here\t1\r\nnext\u2028line\x85\t0".encode())
    rows = list(read_rows(get_task("SST-2"), path))
    assert rows == [(2, ['"a" quote " here', "1"]), (3, ["next\u2028line\x85", "0"])]


def test_short_rows_are_skipped_in_qqp_alone(tmp_path, capsys):
    path = write_lines(tmp_path / "train.tsv", ["id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
                                                "1\t2\t3\ta\tb\t0", "4\t5\t6\tbroken", "7\t8\t9\tc\td\t1"])
    assert [columns[3] for _, columns in read_rows(get_task("QQP"), path)] == ["a", "c"]
    assert "skipped 1 rows" in capsys.readouterr().out
    path = write_lines(tmp_path / "train.tsv", ["index\tquestion\tsentence\tlabel", "0\ta\tb\tentailment", "1\tbroken"])
    with pytest.raises(InputError, match="line 3: 2 columns, expected 4"):
        list(read_rows(get_task("QNLI"), path))


def test_labels():
    assert parse_label(get_task("MNLI"), ["x"] * 11 + ["neutral"], "f") == 2
    assert parse_label(get_task("STS-B"), ["x", "4.25"], "f") == 4.25
    assert parse_label(get_task("MRPC"), ["1", "x"], "f") == 1


def test_task_folder(tmp_path):
    (tmp_path / "RTE").mkdir()
    assert task_folder(tmp_path, get_task("rte")) == tmp_path / "RTE"
    assert task_folder(tmp_path / "RTE", get_task("rte")) == tmp_path / "RTE"


def test_class_order():
    task = get_task("MNLI")
    assert class_order({}, task, "f") == [0, 1, 2]
    assert class_order({"id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}}, task, "f") == [0, 1, 2]
    assert class_order({"id2label": {"0": "Entailment", "1": "Neutral", "2": "Contradiction"}}, task, "f") == [2, 0, 1]
    for broken in ({"1": "entailment", "2": "neutral", "3": "contradiction"}, ["entailment"]):
        with pytest.raises(InputError, match="id2label"):
            class_order({"id2label": broken}, task, "f")
    with pytest.raises(InputError, match="id2label"):
        class_order({"id2label": {"0": "entailment", "1": "not_entailment"}}, task, "f")


def test_metrics_by_hand():
    predictions, labels = np.array([1, 1, 1, 0, 0, 1]), np.array([1, 0, 1, 0, 1, 1])  # tp 3, fp 1, fn 1, tn 1
    metrics = compute_metrics(get_task("MRPC"), predictions, labels)
    assert metrics == pytest.approx({"acc": 4 / 6, "f1": 3 / 4, "acc_and_f1": (4 / 6 + 3 / 4) / 2})
    mcc = (3 * 1 - 1 * 1) / math.sqrt(4 * 4 * 2 * 2)
    assert compute_metrics(get_task("CoLA"), predictions, labels) == pytest.approx({"mcc": mcc})
    assert compute_metrics(get_task("RTE"), predictions, labels) == pytest.approx({"acc": 4 / 6})
    assert compute_metrics(get_task("CoLA"), np.ones(6), labels) == {"mcc": 0.0}
    scores, gold = np.array([1.0, 2.0, 4.0]), np.array([0.0, 5.0, 4.0])
    # deviations -4/3 -1/3 5/3 and -3 2 1: covariance 5, squares 14/3 and 14; ranks 1 2 3 and 1 3 2: 1 - 6*2/(3*8)
    pearson, spearman = 5 / math.sqrt(14 / 3 * 14), 0.5
    assert compute_metrics(get_task("STS-B"), scores, gold) == pytest.approx(
        {"pearson": pearson, "spearmanr": spearman, "corr": (pearson + spearman) / 2})
    assert compute_metrics(get_task("STS-B"), np.ones(3), gold)["corr"] == 0.0


def test_chance_level():
    # standard error of a share p over n: sqrt(p (1 - p) / n); of a coefficient of nothing: 1 / sqrt(n)
    assert chance_level(get_task("RTE"), np.array([1.0, 0.0, 1.0])) == pytest.approx((2 / 3, math.sqrt(2 / 27)))
    assert chance_level(get_task("CoLA"), np.ones(4)) == (0.0, 0.5)
