"""The task table, rows of TSV files, labels and metrics, against hand-made numbers."""
import math
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from tests.conftest import write_lines
from transformer.data.parts import byte_ranges
from transformer.data.tables import data_folder, read_rows, row_width, rows_of_part, task_folder
from transformer.files import InputError
from transformer.tasks.glue import GLUE as TASKS
from transformer.tasks.labels import UNTRAINED, class_order, name_labels, parse_label
from transformer.tasks.table import get_task


@pytest.mark.parametrize("name,wanted", [("RTE", "RTE"), ("rte", "RTE"), ("sst-2", "SST-2"), ("SST2", "SST-2"),
                                         ("sts-b", "STS-B"), ("mnli-mm", "MNLI"), ("Cola", "CoLA"), ("qqp", "QQP"),
                                         ("STS_B", "STS-B"), ("MNLI_M", "MNLI"), ("SST", "SST-2"), ("STS", "STS-B")])
def test_task_names(name, wanted):
    assert get_task(name).name == wanted


def test_an_unknown_task_lists_the_known():
    with pytest.raises(InputError, match="'sst3'.*: CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI, RTE, WNLI, SQuAD1, "
                                         "SQuAD2, AFQMC, TNEWS, IFLYTEK, CMNLI, OCNLI, CSL, CLUEWSC2020, ChnSentiCorp, "
                                         "XNLI-zh$"):
        get_task("sst3")


# As version 7c3ad54 printed its tasks, and the last one's test set of three, when it named encoded files after them.
PRINTED = [
    "Task(name='CoLA', text_columns=(3,), label_column=1, train_columns=4, labels=('0', '1'), metric='mcc', "
    "has_header=False, dev_files=('dev.tsv',), intermediate_epochs=50, max_seq_length=64, "
    "augment_copies_in_code=30)",
    "Task(name='SST-2', text_columns=(0,), label_column=1, train_columns=2, labels=('0', '1'), metric='acc', "
    "has_header=True, dev_files=('dev.tsv',), intermediate_epochs=20, max_seq_length=64, "
    "augment_copies_in_code=20)",
    "Task(name='MRPC', text_columns=(3, 4), label_column=0, train_columns=5, labels=('0', '1'), metric='acc', "
    "has_header=True, dev_files=('dev.tsv',), intermediate_epochs=20, max_seq_length=128, "
    "augment_copies_in_code=30)",
    "Task(name='STS-B', text_columns=(7, 8), label_column=-1, train_columns=10, labels=None, metric='corr', "
    "has_header=True, dev_files=('dev.tsv',), intermediate_epochs=20, max_seq_length=128, "
    "augment_copies_in_code=30)",
    "Task(name='QQP', text_columns=(3, 4), label_column=5, train_columns=6, labels=('0', '1'), metric='acc', "
    "has_header=True, dev_files=('dev.tsv',), intermediate_epochs=10, max_seq_length=128, "
    "augment_copies_in_code=10)",
    "Task(name='MNLI', text_columns=(8, 9), label_column=-1, train_columns=12, labels=('contradiction', "
    "'entailment', 'neutral'), metric='acc', has_header=True, dev_files=('dev_matched.tsv', "
    "'dev_mismatched.tsv'), intermediate_epochs=10, max_seq_length=128, augment_copies_in_code=10)",
    "Task(name='QNLI', text_columns=(1, 2), label_column=-1, train_columns=4, labels=('entailment', "
    "'not_entailment'), metric='acc', has_header=True, dev_files=('dev.tsv',), intermediate_epochs=10, "
    "max_seq_length=128, augment_copies_in_code=20)",
    "Task(name='RTE', text_columns=(1, 2), label_column=-1, train_columns=4, labels=('entailment', "
    "'not_entailment'), metric='acc', has_header=True, dev_files=('dev.tsv',), intermediate_epochs=20, "
    "max_seq_length=128, augment_copies_in_code=30)",
    "Task(name='WNLI', text_columns=(1, 2), label_column=-1, train_columns=4, labels=('0', '1'), "
    "metric='acc', has_header=True, dev_files=('dev.tsv',), intermediate_epochs=20, max_seq_length=128, "
    "augment_copies_in_code=None)",
    "Task(name='CoLA', text_columns=(1,), label_column=None, train_columns=2, labels=('0', '1'), "
    "metric='mcc', has_header=True, dev_files=('dev.tsv',), intermediate_epochs=50, max_seq_length=64, "
    "augment_copies_in_code=30)",
    "Task(name='STS-B', text_columns=(7, 8), label_column=None, train_columns=9, labels=None, metric='corr', "
    "has_header=True, dev_files=('dev.tsv',), intermediate_epochs=20, max_seq_length=128, "
    "augment_copies_in_code=30)",
    "Task(name='MNLI', text_columns=(1, 2), label_column=None, train_columns=3, labels=('contradiction', "
    "'entailment', 'neutral'), metric='acc', has_header=True, dev_files=('dev_matched.tsv', "
    "'dev_mismatched.tsv'), intermediate_epochs=10, max_seq_length=128, augment_copies_in_code=10)",
]


def test_the_key_of_encoded_files_is_what_it_was():
    """Encoded files and stopped runs of that version are found again."""
    tests = [task.for_test(task.submissions[-1]) for task in map(get_task, ("CoLA", "STS-B", "MNLI"))]
    assert [task.key_text for task in (*TASKS.values(), *tests)] == PRINTED


def test_scores_shown_as_the_paper_does():
    shown = {task.name: task.head.shown_scores for task in TASKS.values()}
    assert shown == {"CoLA": ("mcc",), "MRPC": ("f1", "acc"), "QQP": ("f1", "acc"), "STS-B": ("pearson", "spearmanr"),
                     **dict.fromkeys(("SST-2", "MNLI", "QNLI", "RTE", "WNLI"), ("acc",))}


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_answers_are_labels(task):
    """What a head answers is written as a word that it reads as the same label; its logits are kept as they are."""
    logits = np.random.default_rng(0).normal(2.5, 0.5, (9, task.num_labels)).astype(np.float32)
    answers, lengths = task.head.answers(logits), np.arange(9)
    assert [task.head.read_label(task.head.word(answer)) for answer in answers] == pytest.approx(answers, abs=1e-6)
    assert task.head.read_label("something else") is None
    flat = task.head.pack(logits, lengths)
    assert len(flat) == task.head.numbers(lengths).sum() and (task.head.unpack(flat, lengths) == logits).all()


def test_columns_of_the_official_files(tmp_path):
    """Headers of the official train.tsv files; the table must point at the texts and the label."""
    headers = {
        "CoLA": "source\tlabel\tmark\tsentence",  # which the file itself does not hold
        "SST-2": "sentence\tlabel", "MRPC": "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        "STS-B": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        "QQP": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        "MNLI": "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t"
                "sentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label",
        "QNLI": "index\tquestion\tsentence\tlabel", "RTE": "index\tsentence1\tsentence2\tlabel",
        "WNLI": "index\tsentence1\tsentence2\tlabel"}
    texts = {"sentence", "#1 String", "#2 String", "sentence1", "sentence2", "question1", "question2", "question"}
    assert headers.keys() == {task.name for task in TASKS.values()}
    for name, header in headers.items():
        task, columns = get_task(name), header.split("\t")
        assert len(columns) == task.train_columns and columns == task.header.split(",")
        assert {columns[c] for c in task.text_columns} == texts & set(columns)
        assert columns[task.label_column] in ("label", "Quality", "score", "is_duplicate", "gold_label")


def test_columns_of_the_official_test_files(tmp_path):
    """Headers of the official test files; a row of them gives the texts, and no label."""
    headers = {
        "CoLA": "index\tsentence", "SST-2": "index\tsentence", "MRPC": "index\t#1 ID\t#2 ID\t#1 String\t#2 String",
        "STS-B": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2",
        "QQP": "id\tquestion1\tquestion2", "QNLI": "index\tquestion\tsentence", "AX": "index\tsentence1\tsentence2",
        "RTE": "index\tsentence1\tsentence2", "WNLI": "index\tsentence1\tsentence2"}
    headers["MNLI-m"] = headers["MNLI-mm"] = ("index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\t"
                                              "sentence2_binary_parse\tsentence1_parse\tsentence2_parse\t"
                                              "sentence1\tsentence2")
    found = {submission.name: (task, submission) for task in TASKS.values() for submission in task.submissions}
    assert found.keys() == headers.keys()
    texts = {"sentence", "#1 String", "#2 String", "sentence1", "sentence2", "question1", "question2", "question"}
    for name, (task, submission) in found.items():
        columns = headers[name].split("\t")
        test = task.for_test(submission)
        path = write_lines(tmp_path / name, [headers[name], headers[name]])
        (number, row), = read_rows(test, path)
        assert number == 2 and len(row) == test.train_columns == len(columns)
        assert {row[c] for c in test.text_columns} == texts & set(columns)
        assert math.isnan(parse_label(test, row, path)) and test.labels == task.labels
        with pytest.raises(InputError, match="line 3: 1 columns"):  # also of QQP: each row is to be answered
            list(read_rows(test, write_lines(tmp_path / name, [headers[name], headers[name], "0"])))


def rte(tmp_path, *header: str, label: str = "entailment"):
    return write_lines(tmp_path / "train.tsv", ["\t".join(header), f"0\tone\ttwo\t{label}", f"1\ta\tb\t{label}"])


def test_a_first_line_that_is_an_example_is_refused(tmp_path):
    """Files without header, of every task that has one: the first example would be lost."""
    for task in TASKS.values():
        columns = ["x"] * task.train_columns
        columns[task.label_column] = task.labels[-1] if task.labels else "3.5"
        path = write_lines(tmp_path / "train.tsv", ["\t".join(columns)] * 2)
        if task.name == "CoLA":
            assert len(list(read_rows(task, path))) == 2
        else:
            with pytest.raises(InputError, match=f"^{path}, line 1: an example, not a header.*: {task.header}$"):
                row_width(task, path)
    columns = ["x"] * 15 + ["neutral"]
    with pytest.raises(InputError, match="label1,label2,label3,label4,label5,gold_label$"):
        row_width(get_task("MNLI"), write_lines(tmp_path / "dev_matched.tsv", ["\t".join(columns)]))


def test_a_first_line_that_begins_with_a_number_is_refused(tmp_path):
    """Rows of test sets begin with their index, most others with an index, an id or the label; no header does."""
    tests = [task.for_test(submission) for task in TASKS.values() for submission in task.submissions]
    for task in (*tests, *(task for task in TASKS.values() if task.has_header)):
        path = write_lines(tmp_path / "test.tsv", ["\t".join(["0", *["x"] * (task.train_columns - 1)])] * 2)
        with pytest.raises(InputError, match=f"^{path}, line 1: an example, not a header.*: {task.header}$"):
            row_width(task, path)


def test_a_header_of_another_task_is_refused(tmp_path):
    """RTE and QNLI have the same columns and labels, RTE and WNLI the same header and other labels."""
    path = rte(tmp_path, "index", "sentence1", "sentence2", "label")
    assert len(list(read_rows(get_task("RTE"), path))) == 2
    with pytest.raises(InputError, match=f"^{path}, line 1: the header of RTE or WNLI, expected that of QNLI: ind"):
        row_width(get_task("QNLI"), path)
    (_, row), _ = read_rows(get_task("WNLI"), path)
    with pytest.raises(InputError, match="unknown label 'entailment', expected one of 0, 1"):
        parse_label(get_task("WNLI"), row, path)
    path = rte(tmp_path, "index", "question", "sentence", "label")
    with pytest.raises(InputError, match="line 1: the header of QNLI, expected that of RTE: index,sentence1"):
        row_width(get_task("RTE"), path)
    write_lines(path, ["index\tsentence", "0\tgood"])
    with pytest.raises(InputError, match="line 1: the header of CoLA's test set or SST-2's test set, .*: sentence,lab"):
        row_width(get_task("SST-2"), path)
    sst2, = get_task("SST-2").submissions
    write_lines(path, ["sentence\tlabel", "good\t1"])  # whose labels would be answered as texts
    with pytest.raises(InputError, match="line 1: the header of SST-2, expected that of SST-2's test set: index,se"):
        row_width(get_task("SST-2").for_test(sst2), path)
    test, = get_task("RTE").submissions
    assert row_width(get_task("RTE").for_test(test), rte(tmp_path, "index", "sentence1", "sentence2", "label")) == 4


def test_a_header_with_names_that_are_nobodys_is_taken_and_said_once(tmp_path, capsys):
    path = rte(tmp_path, "number", "premise", "hypothesis", "gold")
    for _ in range(2):
        assert [number for number, _ in read_rows(get_task("RTE"), path)] == [2, 3]
    assert capsys.readouterr().out == f"{path}, line 1: taken as the header, though its names are not those of RTE: " \
                                      "number premise hypothesis gold\n"
    list(read_rows(get_task("RTE"), rte(tmp_path / "official", "index", "sentence1", "sentence2", "label")))
    assert capsys.readouterr().out == ""


def test_a_header_where_the_task_has_none(tmp_path):
    """CoLA's train and dev files."""
    path = write_lines(tmp_path / "train.tsv", ["source\tlabel\tmark\tsentence", "x\t1\t\tgood"])
    with pytest.raises(InputError, match=f"^{path}, line 1: 'label' in the place of the label.*CoLA have no header"):
        list(read_rows(get_task("CoLA"), path))
    write_lines(path, ["index\tsentence", "0\tgood"])
    with pytest.raises(InputError, match="line 1: the header of CoLA's test set or SST-2's.*CoLA have no header"):
        list(read_rows(get_task("CoLA"), path))


def test_an_empty_last_line_is_passed_over(tmp_path):
    """By the reader of lines and by that of parts; an empty line in the middle stays an error."""
    path = tmp_path / "train.tsv"
    for end in ("\n\n", "\r\n\r\n"):
        path.write_bytes(f"sentence\tlabel{end[len(end) // 2:]}good\t1{end}".encode())
        assert list(read_rows(get_task("SST-2"), path)) == [(2, ["good", "1"])]
        for part_bytes in (1, 1 << 20):
            parts = [(path, *part) for part in byte_ranges(path, part_bytes)]
            assert [row for part in parts for row in rows_of_part(get_task("SST-2"), part, 2)] == [(["good", "1"], 1)]
    path.write_text("sentence\tlabel\ngood\t1\n\nbad\t0\n")
    with pytest.raises(InputError, match="line 3: 1 columns, expected 2"):
        list(read_rows(get_task("SST-2"), path))
    with pytest.raises(InputError, match="line 3: 1 columns, expected 2"):
        list(rows_of_part(get_task("SST-2"), (path, 0, path.stat().st_size), 2))


def test_rows_are_read_without_quoting(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_bytes("\ufeffsentence\tlabel\r\n\"a\" quote \" here\t1\r\nnext\u2028line\x85\t0".encode())
    rows = list(read_rows(get_task("SST-2"), path))
    assert rows == [(2, ['"a" quote " here', "1"]), (3, ["next\u2028line\x85", "0"])]


def test_short_rows_are_skipped_in_qqp_alone(tmp_path, capsys):
    path = write_lines(tmp_path / "train.tsv", ["id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
                                                "1\t2\t3\ta\tb\t0", "4\t5\t6\tbroken", "7\t8\t9\tc\td\t1", "broken"])
    assert [columns[3] for _, columns in read_rows(get_task("QQP"), path)] == ["a", "c"]
    assert f"{path}: skipped 2 rows with fewer than 6 columns" in capsys.readouterr().out
    write_lines(path, ["id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "1\t2\t3\ta\tb\t0\tmore"])
    with pytest.raises(InputError, match="line 2: 7 columns, expected 6"):
        list(read_rows(get_task("QQP"), path))
    path = write_lines(tmp_path / "train.tsv", ["index\tquestion\tsentence\tlabel", "0\ta\tb\tentailment", "1\tbroken"])
    with pytest.raises(InputError, match="line 3: 2 columns, expected 4"):
        list(read_rows(get_task("QNLI"), path))


@pytest.mark.parametrize("columns", [11, 12, 16, 24, 25])
def test_the_header_tells_the_width(columns, tmp_path):
    """Dev files of MNLI have up to 16 columns, train.tsv 12; half of that or more than twice is another file."""
    path = write_lines(tmp_path / "dev.tsv", ["\t".join("x" * columns)])
    if 12 <= columns <= 24:
        assert row_width(get_task("MNLI"), path) == columns
    else:
        with pytest.raises(InputError, match=f"dev.tsv, line 1: {columns} columns, expected the 12 of MNLI"):
            row_width(get_task("MNLI"), path)
    assert row_width(get_task("CoLA"), path) == 4  # which has no header


def test_files_that_are_missing_empty_or_damaged(tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path}/x.tsv does not exist: .*download_glue.py --tasks SST-2`$"):
        list(read_rows(get_task("SST-2"), tmp_path / "x.tsv"))
    with pytest.raises(InputError, match=f"download_glue.py --tasks SST-2 --data_dir {tmp_path}/g`$"):
        row_width(get_task("SST-2"), tmp_path / "g" / "SST-2" / "x.tsv")
    path = write_lines(tmp_path / "train.tsv", [])
    with pytest.raises(InputError, match="train.tsv holds no examples"):
        list(read_rows(get_task("SST-2"), path))
    for number in (1, 2):
        damaged = ["sentence\tlabel", "a\t1", "b\t0"]
        damaged[number - 1] = "\0\t"
        with pytest.raises(InputError, match=rf"train.tsv, line {number}: .*damaged, get it again \(SST-2\)"):
            list(read_rows(get_task("SST-2"), write_lines(path, damaged)))


def test_labels():
    assert parse_label(get_task("MNLI"), ["x"] * 11 + ["neutral"], "f") == 2
    assert parse_label(get_task("STS-B"), ["x", "4.25"], "f") == 4.25
    assert parse_label(get_task("MRPC"), ["1", "x"], "f") == 1
    assert [parse_label(get_task("STS-B"), [text], "f") for text in ("0", "5.000")] == [0, 5]
    for text in ("-0.01", "5.01", "nan", "inf", "high", ""):
        with pytest.raises(InputError, match=f"^a.tsv, line 3: score '{text}', expected a number from 0 to 5"):
            parse_label(get_task("STS-B"), [text], "a.tsv, line 3")
    with pytest.raises(InputError, match="^a.tsv, line 3: .*'-', .* contradiction, entailment, neutral "):
        parse_label(get_task("MNLI"), ["-"], "a.tsv, line 3")


def test_task_folder(tmp_path):
    (tmp_path / "RTE").mkdir()
    assert task_folder(tmp_path, get_task("rte")) == tmp_path / "RTE"
    assert task_folder(tmp_path / "RTE", get_task("rte")) == tmp_path / "RTE"
    assert task_folder(tmp_path, get_task("MRPC")) == tmp_path / "MRPC"  # which the message about it names
    (tmp_path / "RTE" / "RTE").mkdir()
    assert task_folder(tmp_path / "RTE", get_task("rte")) == tmp_path / "RTE" / "RTE"


def test_data_folder(tmp_path, capsys):
    """A folder of any name is the task's own, unless the task's folder is in it and its files are not."""
    assert data_folder(tmp_path, get_task("rte")) == tmp_path
    (tmp_path / "RTE").mkdir()
    assert data_folder(tmp_path, get_task("MRPC")) == tmp_path and capsys.readouterr().out == ""
    assert data_folder(tmp_path, get_task("rte")) == tmp_path / "RTE"
    assert f"taking {tmp_path / 'RTE'}" in capsys.readouterr().out
    (tmp_path / "train.tsv").touch()
    assert data_folder(tmp_path, get_task("rte")) == tmp_path and capsys.readouterr().out == ""


def test_name_labels():
    """What transformers.BertConfig reads; other keys stay."""
    extra = {"mine": 1, "id2label": {"0": "LABEL_0"}}
    name_labels(extra, get_task("RTE"))
    assert extra == {"mine": 1, "id2label": {"0": "entailment", "1": "not_entailment"}, "finetuning_task": "RTE",
                     "label2id": {"entailment": 0, "not_entailment": 1}, "problem_type": "single_label_classification"}
    extra.clear()
    name_labels(extra, get_task("STS-B"))
    assert extra == {"id2label": {"0": "score"}, "label2id": {"score": 0}, "problem_type": "regression",
                     "finetuning_task": "STS-B"}


def test_class_order():
    task = get_task("MNLI")
    assert class_order({}, task, "f") == class_order({"id2label": None}, task, "f") == [0, 1, 2]
    assert class_order({"id2label": {"0": "score"}}, get_task("STS-B"), "f") == [0]
    assert class_order({"id2label": {0: "not_entailment", 1: "entailment"}}, get_task("RTE"), "f") == [1, 0]
    assert class_order({"id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}}, task, "f") == [0, 1, 2]
    assert class_order({"id2label": {"0": "Entailment", "1": "Neutral", "2": "Contradiction"}}, task, "f") == [2, 0, 1]
    for broken in ({"1": "entailment", "2": "neutral", "3": "contradiction"}, ["entailment"]):
        with pytest.raises(InputError, match="^f/config.json: id2label is no table of columns from 0 on: .*entailment"):
            class_order({"id2label": broken}, task, "f")
    for labels in (["entailment", "not_entailment"], ["entailment", "neutral", "x"],
                   ["entailment", "neutral", "contradiction", "x"]):
        with pytest.raises(InputError, match="^f/config.json: .*entailment.* MNLI, .*contradiction.*entail.*neutral"):
            class_order({"id2label": {str(i): label for i, label in enumerate(labels)}}, task, "f")


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_metrics_against_the_libraries(task):
    """Random answers, better and worse ones, in the types that evaluation hands over."""
    random = np.random.default_rng(0)
    for count, noise in ((5, 1.0), (200, 0.3), (1000, 0.8)):
        if task.name == "STS-B":
            labels = random.integers(0, 26, count).astype(np.float32) / 5  # with ties
            answers = np.round(labels + 5 * noise * random.normal(size=count), 1).astype(np.float32)
            pearson = scipy.stats.pearsonr(labels, answers).statistic
            spearman = scipy.stats.spearmanr(labels, answers).statistic
            wanted = {"pearson": pearson, "spearmanr": spearman, "corr": (pearson + spearman) / 2}
        else:
            labels = random.integers(0, task.num_labels, count)
            answers = np.where(random.random(count) < noise, random.integers(0, task.num_labels, count), labels)
            wanted = {"acc": sklearn.metrics.accuracy_score(labels, answers)}
            if task.name == "CoLA":
                wanted = {"mcc": sklearn.metrics.matthews_corrcoef(labels, answers)}
            elif task.name in ("MRPC", "QQP"):
                wanted["f1"] = sklearn.metrics.f1_score(labels, answers, pos_label=1)
                wanted["acc_and_f1"] = (wanted["acc"] + wanted["f1"]) / 2
        metrics = task.head.dev_scores(answers, labels.astype(np.float32))
        assert metrics == pytest.approx(wanted, abs=1e-6) and task.metric in metrics
        assert all(type(value) is float for value in metrics.values())


@pytest.mark.filterwarnings("ignore:A single label was found")
@pytest.mark.parametrize("name,predictions,labels,wanted", [
    # tp 3, fp 1, fn 1, tn 1
    ("CoLA", [1, 1, 1, 0, 0, 1], [1, 0, 1, 0, 1, 1], (3 * 1 - 1 * 1) / math.sqrt(4 * 4 * 2 * 2)),
    ("CoLA", [1, 1, 1, 1], [1, 0, 1, 0], 0),            # constant predictions
    ("CoLA", [1, 0, 1, 0], [1, 1, 1, 1], 0),            # one class
    ("CoLA", [1, 1], [1, 1], 0),                        # one class, all right: still undefined
    ("CoLA", [1, 0, 0], [1, 0, 0], 1), ("CoLA", [0, 1, 1], [1, 0, 0], -1),
    ("MRPC", [1, 1, 1, 0, 0, 1], [1, 0, 1, 0, 1, 1], (4 / 6, 3 / 4)),
    ("MRPC", [1, 1, 1, 1], [1, 0, 0, 0], (1 / 4, 2 / 5)),  # precision 1/4, recall 1
    ("MRPC", [0, 0, 0, 0], [1, 0, 0, 0], (3 / 4, 0)),   # nothing found
    ("QQP", [0, 0], [0, 0], (1, 0)),                    # F1 is of class 1, which is nowhere
    ("QQP", [1, 1], [1, 1], (1, 1)), ("QQP", [1, 0], [0, 1], (0, 0)),
    ("RTE", [1, 1, 1, 0, 0, 1], [1, 0, 1, 0, 1, 1], 4 / 6), ("RTE", [0, 0, 0], [0, 0, 0], 1),
    ("WNLI", [1, 0], [0, 1], 0), ("MNLI", [0, 1, 2, 2], [0, 1, 2, 0], 3 / 4),
    # deviations -4/3 -1/3 5/3 and -3 2 1: covariance 5, squares 14/3 and 14; ranks 1 2 3 and 1 3 2: 1 - 6*2/(3*8)
    ("STS-B", [1, 2, 4], [0, 5, 4], (5 / math.sqrt(14 / 3 * 14), 1 / 2)),
    # ties: ranks 1.5 1.5 3 4 and 1 2.5 2.5 4; deviations -5/4 -5/4 -1/4 11/4 and -1 0 0 1
    ("STS-B", [1, 1, 2, 5], [1, 2, 2, 3], (4 / math.sqrt(10.75 * 2), 3.75 / 4.5)),
    ("STS-B", [1, 3, 9], [0, 1, 4], (1, 1)),            # another scale and origin
    ("STS-B", [4, 3, 0], [0, 1, 4], (-1, -1)), ("STS-B", [0, 1, 8, 27], [0, 1, 2, 3], (44 / math.sqrt(470 * 5), 1)),
    ("STS-B", [2, 2, 2], [0, 5, 4], (0, 0)), ("STS-B", [0, 5, 4], [2, 2, 2], (0, 0)), ("STS-B", [2, 2], [2, 2], (0, 0)),
    ("STS-B", [1, math.nan, 4], [0, 5, 4], (math.nan, math.nan)),
])
def test_metrics_by_hand(name, predictions, labels, wanted):
    metrics = get_task(name).head.dev_scores(np.array(predictions), np.array(labels, np.float32))
    if name in ("MRPC", "QQP", "STS-B"):
        keys = ("pearson", "spearmanr", "corr") if name == "STS-B" else ("acc", "f1", "acc_and_f1")
        wanted = dict(zip(keys, (*wanted, sum(wanted) / 2)))
    else:
        wanted = {get_task(name).metric: wanted}
    assert metrics == pytest.approx(wanted, nan_ok=True)


def test_chance_level():
    # standard error of a share p over n: sqrt(p (1 - p) / n); of a coefficient of nothing: 1 / sqrt(n)
    three = SimpleNamespace(labels=np.array([1.0, 0.0, 1.0]))
    assert get_task("RTE").head.chance(three) == pytest.approx((2 / 3, math.sqrt(2 / 27)))
    assert get_task("CoLA").head.chance(SimpleNamespace(labels=np.ones(4))) == (0.0, 0.5)


def test_short_names_of_tasks():
    assert [get_task(name).name for name in ("sst", "SST", "sts", "mnli-mm", "mnli_m")] == [
        "SST-2", "SST-2", "STS-B", "MNLI", "MNLI"]


def test_scores_are_clipped_for_the_server():
    word = get_task("STS-B").head.word
    assert [word(answer) for answer in (-0.2, 0.0, 2.5, 5.0, 5.1)] == [
        "0.000000", "0.000000", "2.500000", "5.000000", "5.000000"]


def test_a_head_that_gets_trained_is_untrained_no_more():
    extra: dict = {}
    name_labels(extra, get_task("RTE"), trained=False)
    assert extra[UNTRAINED] is True
    name_labels(extra, get_task("RTE"))
    assert UNTRAINED not in extra
