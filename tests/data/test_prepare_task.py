"""prepare_task.py: the same task from whatever wrote the table, what it says of the rows, what it refuses."""
from __future__ import annotations

import csv
import io
import json
import random
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import prepare_task
from tests.conftest import names, run
from transformer.data.gathering import Rows, contradicted, held_out, repeated
from transformer.data.tables import read_rows
from transformer.files import InputError
from transformer.tasks.own import read_task

# (text, label), and how it stands in a cell of the kit; long enough that dev gets one of each class
TABLE = [('plain', 'pos', 'plain'), ('a, "quoted" one; so', 'neg', 'a, "quoted" one; so'),
         ('two\nlines\n', 'pos', 'two lines '), ('a\ttab', 'neg', 'a tab'), ('é 文 a/b', 'pos', 'é 文 a/b'),
         ('"all of it"', 'neg', '"all of it"'), ('C:\\new', 'neg', 'C:\\new'), ("it's\u2028so", 'pos', "it's\u2028so"),
         ('🙂', 'pos', '🙂')]

# The same rows as the bytes that each program writes of them: pandas 3.1 (to_csv, to_csv(sep="\t"), to_json(orient=
# "records", lines=True)), Excel ("CSV UTF-8" where a comma is the decimal mark), Python's csv (QUOTE_ALL).
CSV_OF_PANDAS = '''id,review,mood
1,plain,pos
2,"a, ""quoted"" one; so",neg
3,"two
lines
",pos
4,a\ttab,neg
5,é 文 a/b,pos
6,"""all of it""",neg
7,C:\\new,neg
8,it's\u2028so,pos
9,🙂,pos
'''.encode()
TSV_OF_PANDAS = CSV_OF_PANDAS.replace(b'\t', b'TAB').replace(b',', b'\t').replace(
    b'"a\t ""quoted"" one; so"', b'"a, ""quoted"" one; so"').replace(b'aTABtab', b'"a\ttab"')
CSV_OF_EXCEL = '''\ufeffid;review;mood\r
1;plain;pos\r
2;"a, ""quoted"" one; so";neg\r
3;"two
lines
";pos\r
4;a\ttab;neg\r
5;é 文 a/b;pos\r
6;"""all of it""";neg\r
7;C:\\new;neg\r
8;it's\u2028so;pos\r
9;🙂;pos\r
'''.encode()
CSV_OF_PYTHON = ('"id","review","mood"\r\n"1","plain","pos"\r\n"2","a, ""quoted"" one; so","neg"\r\n"3","two\n'
                 'lines\n","pos"\r\n"4","a\ttab","neg"\r\n"5","é 文 a/b","pos"\r\n"6","""all of it""","neg"\r\n'
                 '"7","C:\\new","neg"\r\n"8","it\'s\u2028so","pos"\r\n"9","🙂","pos"\r\n').encode()
JSON_OF_PANDAS = rb'''{"id":1,"review":"plain","mood":"pos"}
{"id":2,"review":"a, \"quoted\" one; so","mood":"neg"}
{"id":3,"review":"two\nlines\n","mood":"pos"}
{"id":4,"review":"a\ttab","mood":"neg"}
{"id":5,"review":"\u00e9 \u6587 a\/b","mood":"pos"}
{"id":6,"review":"\"all of it\"","mood":"neg"}
{"id":7,"review":"C:\\new","mood":"neg"}
{"id":8,"review":"it's\u2028so","mood":"pos"}
{"id":9,"review":"\ud83d\ude42","mood":"pos"}
'''
COLUMNS = ["--text", "review", "--label", "mood"]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def table(rows, header=("review", "mood")) -> str:
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    return text.getvalue()


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.tsv")}


def cells(folder: Path, name: str) -> list[tuple[str, ...]]:
    """The rows of a file of the task, without its header."""
    return [tuple(line.split("\t")) for line in contents(folder)[name].split("\n")[1:-1]]


@pytest.fixture
def prepare(script, tmp_path):
    """Prepare the task `out` of a table that has to do; what is printed."""
    def call(content, *flags, name="my.csv") -> str:
        flags = list(flags) if "--text" in flags else [*COLUMNS, *flags]
        return run(script, "prepare_task", ["--train", write(tmp_path / name, content), *flags,
                                            "--output_dir", tmp_path / "out"])
    return call


@pytest.fixture
def refuses(refused, tmp_path):
    """Prepare the task `out` of a table that may not do: one line, and nothing is written."""
    def call(content, *flags, words, name="my.csv") -> None:
        flags = list(flags) if "--text" in flags else [*COLUMNS, *flags]
        refused("prepare_task", "--train", write(tmp_path / name, content), *flags, "--output_dir", tmp_path / "out",
                words=words)
        assert not (tmp_path / "out").exists()
    return call


# --- the same task from each source

def check_table(folder: Path) -> None:
    """The task of TABLE: every row is in one of the two files, in its order, and the kit reads it back."""
    task = read_task(folder)
    assert (task.name, task.labels, task.metric) == ("out", ("neg", "pos"), "acc")
    wanted = [(label, cell) for _, label, cell in TABLE]
    train, dev = cells(folder, "train.tsv"), cells(folder, "dev.tsv")
    assert [row for row in wanted if row in train] == train and [row for row in wanted if row in dev] == dev
    assert Counter(train + dev) == Counter(wanted) and Counter(label for label, _ in dev) == {"neg": 1, "pos": 1}
    for name, rows in (("train.tsv", train), ("dev.tsv", dev)):
        assert [tuple(row) for _, row in read_rows(task, folder / name)] == rows


SOURCES = {"pandas.csv": CSV_OF_PANDAS, "excel.csv": CSV_OF_EXCEL, "python.csv": CSV_OF_PYTHON,
           "pandas.jsonl": JSON_OF_PANDAS, "pipes.txt": CSV_OF_PANDAS.replace(b",", b"|").replace(b"a| ", b"a, ")}


def test_the_same_task_from_each_program(prepare, tmp_path):
    made = {}
    for name, content in SOURCES.items():
        prepare(content, name=name)
        check_table(tmp_path / "out")
        made[name] = contents(tmp_path / "out")
    out = prepare(TSV_OF_PANDAS, "--delimiter", "tab", name="pandas.tsv")
    assert "columns parted by tab" in out
    made["pandas.tsv"] = contents(tmp_path / "out")
    prepare(CSV_OF_EXCEL.decode().encode("utf-16"), "--encoding", "utf-16")
    made["utf-16"] = contents(tmp_path / "out")
    assert all(made[name] == made["pandas.csv"] for name in made)


def arrow_table(pyarrow, **columns):
    """TABLE as pyarrow has it, with the names of classes as datasets writes them down where columns say so."""
    features = {"review": {"dtype": "string", "_type": "Value"},
                "mood": {"names": ["neg", "pos"], "_type": "ClassLabel"}}
    made = pyarrow.table({"id": list(range(9)), "review": [text for text, _, _ in TABLE],
                          "mood": [label for _, label, _ in TABLE]} | columns)
    return made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}) if columns \
        else made


def save_dataset(pyarrow, folder: Path, made) -> None:
    """As Dataset.save_to_disk of datasets 5.2 does, in two files."""
    folder.mkdir(parents=True)
    files = [f"data-0000{number}-of-00002.arrow" for number in range(2)]
    for file, part in zip(files, (made.slice(0, 4), made.slice(4))):
        with pyarrow.ipc.new_stream(folder / file, made.schema) as stream:
            stream.write_table(part)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": file} for file in files]}))


def test_the_same_task_from_parquet_and_a_saved_dataset(prepare, script, refused, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    prepare(CSV_OF_PANDAS)
    wanted = contents(tmp_path / "out")
    parquet.write_table(arrow_table(pyarrow), tmp_path / "my.parquet")
    numbers = arrow_table(pyarrow, mood=[int(label == "pos") for _, label, _ in TABLE])  # of named classes
    save_dataset(pyarrow, tmp_path / "saved" / "train", numbers)
    for source in (tmp_path / "my.parquet", tmp_path / "saved" / "train",
                   tmp_path / "saved" / "train" / "data-00000-of-00002.arrow"):
        run(script, "prepare_task", ["--train", source, *COLUMNS, "--output_dir", tmp_path / "out"])
        if source.suffix != ".arrow":  # which is a part of it
            assert contents(tmp_path / "out") == wanted
    unknown = arrow_table(pyarrow, mood=[-1] * 9)
    whole = ["prepare_task", "--train", tmp_path / "saved", *COLUMNS, "--output_dir", tmp_path / "out"]
    save_dataset(pyarrow, tmp_path / "saved" / "validation", numbers)
    save_dataset(pyarrow, tmp_path / "saved" / "test", unknown)
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "validation", "test"]}')
    refused(*whole, "--dev_share", "0.5", words=("--dev_share is for splitting --train, and its validation is",))
    run(script, *whole[:1], whole[1:])
    made = contents(tmp_path / "out")
    assert made["dev.tsv"] == made["train.tsv"] and made["test.tsv"].split("\n")[0] == "sentence"
    assert [row for row, in cells(tmp_path / "out", "test.tsv")] == [cell for _, _, cell in TABLE]
    command = ["prepare_task", *COLUMNS, "--output_dir", tmp_path / "new", "--train"]
    refused(*command, tmp_path / "my.parquet", "--dev", tmp_path / "saved", words=("train, validation, test",))
    write(tmp_path / "cut.parquet", (tmp_path / "my.parquet").read_bytes()[:-30])
    refused(*command, tmp_path / "cut.parquet", words=("cut.parquet is damaged",))
    refused(*command, tmp_path / "my.parquet", "--encoding", "cp1252", words=("--encoding is for files of text",))
    part = write(tmp_path / "cut.arrow", (tmp_path / "saved/test/data-00000-of-00002.arrow").read_bytes()[:-200])
    refused(*command, part, words=("cut.arrow is damaged",))
    parquet.write_table(arrow_table(pyarrow, mood=[7] * 9), tmp_path / "seven.parquet")
    refused(*command, tmp_path / "seven.parquet", words=("seven.parquet, row 1: class 7, and the file names 2",))
    parquet.write_table(arrow_table(pyarrow, review=[["a"]] * 9, mood=[0, 1, 0] * 3), tmp_path / "lists.parquet")
    refused(*command, tmp_path / "lists.parquet", words=("lists.parquet, row 1: ", "is a list"))


def test_classes_keep_the_order_of_the_table(prepare, script, tmp_path):
    """A teacher's columns stand in it."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    features = {"mood": {"names": ["pos", "none", "neg"], "_type": "ClassLabel"}}  # of which none is not there
    made = pyarrow.table({"review": [text for text, _, _ in TABLE],
                          "mood": [0 if label == "pos" else 2 for _, label, _ in TABLE]})
    parquet.write_table(made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}),
                        tmp_path / "my.parquet")
    run(script, "prepare_task", ["--train", tmp_path / "my.parquet", *COLUMNS, "--output_dir", tmp_path / "named"])
    assert read_task(tmp_path / "named").labels == ("pos", "neg")
    prepare(CSV_OF_PANDAS)
    assert contents(tmp_path / "named") == contents(tmp_path / "out")


@pytest.mark.parametrize("name", ["my.parquet", "saved"])
def test_pyarrow_is_named_where_it_is_missing(name, refused, tmp_path, monkeypatch):
    write(tmp_path / "my.parquet", b"PAR1")
    write(tmp_path / "saved" / "state.json", '{"_data_files": [{"filename": "a.arrow"}]}')
    write(tmp_path / "saved" / "a.arrow", b"")
    for module in ("pyarrow", "pyarrow.parquet", "pyarrow.ipc"):
        monkeypatch.setitem(sys.modules, module, None)
    refused("prepare_task", "--train", tmp_path / name, *COLUMNS, "--output_dir", tmp_path / "out",
            words=(f"{tmp_path / name} is ", "package pyarrow", "pip install pyarrow"))


def test_a_tsv_has_no_quotes(prepare, tmp_path):
    prepare('review\tmood\n"all" of it\tpos\n"a\t0\n"b"\t0\r\n\nc\tpos\n', name="my.tsv")
    rows = cells(tmp_path / "out", "train.tsv") + cells(tmp_path / "out", "dev.tsv")
    assert sorted(rows) == [("0", '"a'), ("0", '"b"'), ("pos", '"all" of it'), ("pos", "c")]
    out = prepare('review\tmood\n"an ""a"""\tpos\n"b"\tneg\na\tpos\nb\tneg\n', name="my.tsv")
    assert "my.tsv: 1 rows have texts in quotes, with doubled ones in them: --delimiter tab takes them off" in out


def test_encodings_and_delimiters_that_are_named(prepare, tmp_path):
    text = "review§mood\ncafé§a\nthé§b\nhé§a\nbé§b\n"
    prepare(text.encode("cp1252"), "--encoding", "cp1252", "--delimiter", "§")
    assert {text for _, text in cells(tmp_path / "out", "train.tsv")} < {"café", "thé", "hé", "bé"}


def test_marks_line_ends_and_long_texts(prepare, tmp_path):
    """A byte-order mark before a column that is asked for, CRLF behind the text, a text beyond the limit of csv."""
    long = "word " * 40_000
    rows = [("x", "a"), ("y", "b"), ("x", "c"), ("y", long)]
    prepare(b"\xef\xbb\xbf" + "".join(f"{mood}\t{review}\r\n" for mood, review in [("mood", "review"), *rows]).encode(),
            name="my.tsv")
    made = contents(tmp_path / "out")
    assert sorted(cells(tmp_path / "out", "train.tsv") + cells(tmp_path / "out", "dev.tsv")) == sorted(rows)
    prepare(b"\xef\xbb\xbf" + table(rows, ("mood", "review")).encode())
    assert contents(tmp_path / "out") == made


# --- labels

def test_labels_are_the_same_from_numbers_and_texts(prepare, tmp_path):
    rows = [(f"t{number}", label) for number, label in enumerate([2, 10, 1, 2, 10, 1])]
    sources = {"int.csv": table(rows), "float.csv": table((text, f"{label}.0") for text, label in rows),
               "spaces.csv": table((text, f" {label} ") for text, label in rows),
               "float.jsonl": "".join(json.dumps({"review": text, "mood": float(label)}) + "\n"
                                      for text, label in rows)}
    made = []
    for name, content in sources.items():
        prepare(content, name=name)
        made.append(contents(tmp_path / "out"))
        assert read_task(tmp_path / "out").labels == ("1", "2", "10")
    assert made[1:] == made[:-1]
    for name, content in {"bool.csv": table([("a", "True"), ("b", "False"), ("c", "True"), ("d", "False")]),
                          "bool.json": "".join(json.dumps({"review": text, "mood": text in "ac"}) + "\n"
                                               for text in "abcd")}.items():
        prepare(content, name=name)
        assert read_task(tmp_path / "out").labels == ("False", "True")


def test_rows_without_a_label_are_left_out_of_train_and_dev(prepare, tmp_path):
    rows = [("a", "x"), ("b", ""), ("c", "y"), ("d", "x"), ("e", None), ("f", "y"), ("g", "None")]
    out = prepare(table([*rows, ("h", "None")]))
    assert "train.tsv: left out 2 rows without a label" in out
    assert read_task(tmp_path / "out").labels == ("None", "x", "y")  # a word is a word
    lines = [json.dumps({"review": text, "mood": label}) for text, label in rows[:6]]
    out = prepare("\n".join([*lines, '{"review": "g", "mood": NaN}', '{"review": "h"}']), "--dev",
                  write(tmp_path / "d.csv", table([("a", "y"), ("b", ""), ("c", "x")])), name="my.jsonl")
    assert "train.tsv: left out 4 rows without a label" in out and "dev.tsv: left out 1 rows without a label" in out
    assert cells(tmp_path / "out", "dev.tsv") == [("y", "a"), ("x", "c")]


def test_regression(prepare, refuses, tmp_path):
    rows = [(f"t{number}", f"{number / 8}") for number in range(80)]
    out = prepare(table([*rows, ("none", ""), ("nan", "nan")]), "--regression", "--dev_share", "0.2")
    assert "left out 2 rows" in out and "scores go up to" not in out  # 9.875
    task = read_task(tmp_path / "out")
    assert (task.metric, task.head.low, task.head.high) == ("corr", 0, 79 / 8)
    dev = [float(label) for label, _ in cells(tmp_path / "out", "dev.tsv")]
    tenths = Counter(min(int(score / (79 / 8) * 10), 9) for score in dev)  # 8 scores in each, of which a fifth
    assert len(dev) == 20 and set(tenths.values()) == {2}
    assert ("3", "t24") in cells(tmp_path / "out", "train.tsv") + cells(tmp_path / "out", "dev.tsv")
    assert "warning: scores go up to 100" in prepare(table(rows), "--regression", "-5", "1e2")
    assert (read_task(tmp_path / "out").head.low, read_task(tmp_path / "out").head.high) == (-5, 100)
    for name in names(tmp_path / "out"):
        (tmp_path / "out" / name).unlink()
    (tmp_path / "out").rmdir()
    refuses(table(rows), "--regression", "0", "9", words=("my.csv, line 75: score 9.125 is outside of 0 to 9",))
    refuses(table([*rows, ("x", "inf")]), "--regression", words=("my.csv, line 82: score inf is outside of",))
    refuses(table([*rows, ("x", "good")]), "--regression", words=("my.csv, line 82: score 'good' is no number",))
    for odd in ("1_000", "٣"):
        refuses(table([*rows, ("x", odd)]), "--regression", words=(f"my.csv, line 82: score '{odd}' is no number",))
    refuses(table([("a", "1"), ("b", "1.0")]), "--regression", words=("says 1 in every row",))


def test_many_small_classes_and_digits_without_end(prepare, tmp_path):
    rows = [(f"t{number}", f"intent {number % 30}") for number in range(55)]  # of 30 five have one row
    prepare(table(rows))
    assert len(read_task(tmp_path / "out").labels) == 30
    prepare(table((n, ("9" * 5000, "8")[n % 2]) for n in range(8)))
    assert read_task(tmp_path / "out").labels == ("8", "9" * 5000)


# --- pairs, test sets, texts without labels

def test_pairs_and_all_files(prepare, script, tmp_path, template):
    header = ("left", "right", "same")
    rows = [(f"l{number}", f"r{number}", "yes" if number % 3 else "no") for number in range(30)]
    flags = ["--text", "left", "right", "--label", "same", "--metric", "f1", "--dev",
             write(tmp_path / "d.csv", table(rows[:2], header)), "--unlabelled",
             write(tmp_path / "u1.csv", table([("u", "v"), ("", "w")], header[:2])),
             write(tmp_path / "u2.jsonl", '{"right": "y", "left": "x"}\n')]
    test = write(tmp_path / "t.csv", table([("a", "b"), ("", "")], header[:2]))
    out = prepare(table(rows, header), *flags, "--test", test)
    assert "unlabelled.tsv: left out 1 rows without text" in out and "f1 is that of class yes" in out
    made = contents(tmp_path / "out")
    assert made["unlabelled.tsv"] == "sentence1\tsentence2\nu\tv\nx\ty\n"
    assert made["test.tsv"] == "sentence1\tsentence2\na\tb\n\t\n"  # a row is answered, whatever it says
    assert made["dev.tsv"] == "label\tsentence1\tsentence2\nno\tl0\tr0\nyes\tl1\tr1\n"
    task = read_task(tmp_path / "out")
    assert (task.segments, task.metric, task.rows, task.unlabelled_rows) == (2, "f1", (30, 2), 2)
    assert task.submissions[0].rows == 2
    write(test, table(rows[:4], header))
    prepare(table(rows, header), *flags, "--test", test)
    assert read_task(tmp_path / "out").rows == (30, 2, 4) and not read_task(tmp_path / "out").submissions
    prepare(table(rows, header), *flags[:7])
    assert names(tmp_path / "out") == ["dev.tsv", "task.json", "train.tsv"]  # of the task before nothing is left


def test_an_empty_last_text_is_still_a_row(prepare, tmp_path):
    test = write(tmp_path / "t.csv", "review\nx\n\"\"\n")
    prepare(CSV_OF_PANDAS, "--test", test)
    task = read_task(tmp_path / "out")
    assert len(list(read_rows(task.for_test(task.submissions[0]), tmp_path / "out" / "test.tsv"))) == 2


def test_a_test_set_has_labels_or_has_none(refuses, tmp_path):
    test = write(tmp_path / "t.csv", table([("a", "pos"), ("b", "")]))
    refuses(CSV_OF_PANDAS, "--test", test, words=("t.csv: 1 rows without a label and 1 with one",))


def test_objects_may_lack_what_is_null(prepare, refuses, tmp_path):
    rows = [{"id": 1, "mood": "a"}, {"review": "b"}, *({"review": f"t{n}", "mood": "ab"[n % 2]} for n in range(9))]
    lines = [json.dumps(row) + "\n" for row in rows]
    refuses("".join(lines[2:]), "--test", write(tmp_path / "t.jsonl", "".join(lines[1:])), name="my.jsonl",
            words=("t.jsonl: 1 rows without a label and 9 with one",))
    out = prepare("".join(lines), name="my.jsonl")
    assert "train.tsv: left out 1 rows without a label" in out
    assert len(cells(tmp_path / "out", "train.tsv") + cells(tmp_path / "out", "dev.tsv")) == 10


def test_minus_one_is_no_label_where_train_lacks_it(prepare, tmp_path):
    """So datasets write test sets of tables without named classes."""
    test = write(tmp_path / "t.csv", table([("new", -1), ("newer", "-1.0")]))
    dev = write(tmp_path / "d.csv", table([("plain", "neg"), ("none", -1), ("x", "pos")]))
    assert "dev.tsv: left out 1 rows without a label" in prepare(CSV_OF_PANDAS, "--test", test, "--dev", dev)
    assert contents(tmp_path / "out")["test.tsv"] == "sentence\nnew\nnewer\n"
    prepare(table([(n, n % 2 * 2 - 1) for n in range(9)]), "--test", test)
    assert cells(tmp_path / "out", "test.tsv") == [("-1", "new"), ("-1", "newer")]


# --- what is told of the rows

def test_what_is_told(prepare, tmp_path):
    rows = [("good", "pos")] * 3 + [("good", "neg"), ("", "pos"), ("rare", "odd"), ("kept", "pos"), ("fine", "pos")]
    rows += [(f"more {number}", "pos") for number in range(20)] + [("last", "neg"), ("leak", "neg")]
    dev = write(tmp_path / "d.csv", table([("leak", "pos"), ("fine", "pos"), ("new", "neg")]))
    out = prepare(table(rows), "--dev", dev)
    for line in ("  pos | good\n", "train.tsv: 30 rows, 3 classes: neg 3 (10.0%), odd 1 (3.3%), pos 26 (86.7%)",
                 "dev.tsv: 3 rows, 3 classes: neg 1 (33.3%), odd 0 (0.0%), pos 2 (66.7%)",
                 "train.tsv: 3 rows that repeat the texts of an earlier one", "train.tsv: 1 rows with an empty text",
                 "train.tsv: 4 rows have the texts of another with another label, such as pos | good",
                 "train.tsv: 1 labels occur once: odd", "dev.tsv: no row of odd",
                 "unbalanced, 26 rows to 1: --metric macro_f1",
                 "train.tsv: 2 rows are in dev.tsv, too, which makes its scores too good: --drop_leaks takes them out\n"
                 "  pos | fine\n  neg | leak\n"):
        assert line in out, line
    assert len(cells(tmp_path / "out", "train.tsv")) == 30
    unlabelled = write(tmp_path / "u.csv", "review\nnew\nother\nmore 19\n")
    test = write(tmp_path / "t.csv", "review\nmore 19\nunseen\nfine\n")
    out = prepare(table(rows), "--dev", dev, "--drop_leaks", "--metric", "macro_f1", "--unlabelled", unlabelled,
                  "--test", test)
    assert "train.tsv: 1 rows are in test.tsv, too: taken out\n  pos | more 19\n" in out
    assert "dev.tsv: 1 rows are in test.tsv, too, and stay" in out and len(cells(tmp_path / "out", "dev.tsv")) == 3
    assert "train.tsv: 2 rows are in dev.tsv, too: taken out" in out and "unbalanced" not in out
    assert cells(tmp_path / "out", "train.tsv") == [(label, text) for text, label in rows
                                                    if text not in ("fine", "leak", "more 19")]
    assert cells(tmp_path / "out", "unlabelled.tsv") == [("other",)]


def test_lengths(prepare, refused, tmp_path, template):
    rows = [(" ".join(["dog"] * number), "ab"[number % 2]) for number in range(1, 41)]
    dev = write(tmp_path / "d.csv", table(rows[:2]))
    out = prepare(table(rows), "--dev", dev, "--bert_model", template / "bert", "--max_seq_length", "12")
    assert "Wordpieces of 40 rows" in out and "half up to 22, 99% up to 42, the longest 42" in out
    assert "max_seq_length 12 cuts 75.0%; --max_seq_length 40 would do" in out  # the model takes no more
    assert read_task(tmp_path / "out").max_seq_length == 12
    out = prepare(table(rows), "--dev", dev, "--bert_model", template / "bert")
    assert "max_seq_length 40 cuts 5.0%\n" in out and read_task(tmp_path / "out").max_seq_length == 40
    prepare(table(rows), "--dev", dev)
    assert read_task(tmp_path / "out").max_seq_length == 128
    pairs = table(((text, "cat cat", label) for text, label in rows[:20]), ("left", "right", "mood"))
    out = prepare(pairs, "--text", "left", "right", "--label", "mood", "--bert_model", template / "bert", "--dev",
                  write(tmp_path / "pairs.csv", pairs))
    assert "half up to 15, 99% up to 25, the longest 25; max_seq_length 32 cuts 0.0%" in out
    flags = ["--train", tmp_path / "my.csv", *COLUMNS, "--output_dir", tmp_path / "new", "--bert_model"]
    refused("prepare_task", *flags, template / "bert", "--max_seq_length", "41", words=("41 is over the 40 positions",))
    refused("prepare_task", *flags, tmp_path / "none", words=("model folder", "does not exist"))


# --- the dev set

def test_dev_share_is_stratified_and_hangs_on_texts_and_seed_alone(prepare, tmp_path):
    rng = random.Random(3)
    counts = {"a": 100, "b": 40, "c": 2, "d": 1}
    rows = [(f"{label} {number}", label) for label, count in counts.items() for number in range(count)]
    rows += [rows[number] for number in (0, 0, 0, 120)]  # twice and more

    def dev_of(rows, seed="42") -> set[tuple[str, ...]]:
        prepare(table(rows), "--dev_share", "0.25", "--seed", seed)
        train, dev = cells(tmp_path / "out", "train.tsv"), cells(tmp_path / "out", "dev.tsv")
        assert Counter((text, label) for label, text in train + dev) == Counter(rows)
        assert not set(train) & set(dev)
        assert Counter(label for label, _ in set(dev)) == {"a": 25, "b": 10, "c": 1}
        return set(dev)

    dev = dev_of(rows)
    assert dev_of(rng.sample(rows, len(rows))) == dev
    others = [dev_of(rows, str(seed)) for seed in range(6)]
    assert len(set(map(frozenset, [dev, *others]))) == 7
    # each text is as likely as another: of 100 texts none is in all seven, and most are in one
    assert len(set().union(dev, *others)) > 90 and not set.intersection(dev, *others) - {("c", "c 0"), ("c", "c 1")}


def test_texts_that_differ_in_spaces_alone_are_one(prepare, tmp_path):
    """They go to one side as they are written, are told as repeated, and are found in another file."""
    rows = [(text, label) for number, label in enumerate("ab" * 20) for text in (
        f"u {number}", f"u  {number}", f" u\n{number}\n", f"u\u3000{number}")]
    prepare(table(rows))
    train, dev = cells(tmp_path / "out", "train.tsv"), cells(tmp_path / "out", "dev.tsv")
    assert Counter(train + dev) == Counter((label, text.replace("\n", " ")) for text, label in rows)
    assert len(dev) == 16 and {text.split()[1] for _, text in dev}.isdisjoint(text.split()[1] for _, text in train)
    out = prepare(table(rows), "--dev", write(tmp_path / "d.csv", table([("u 1 ", "b"), ("u2", "a")])))
    assert "train.tsv: 120 rows that repeat" in out and "train.tsv: 4 rows are in dev.tsv, too" in out


def test_texts_of_two_labels_in_whatever_order(script, tmp_path):
    """The split hangs on no order, of rows or of classes; where it takes a whole class, it says so, as no flag did."""
    rows = [(f"a {number}", "a") for number in range(20)] + [(f"b {number}", "b") for number in range(9)]
    rows += [(f"a {number}", "b") for number in range(9)] + [(f"a {number}", "c") for number in range(2)]
    orders = (rows, rows[::-1], random.Random(4).sample(rows, len(rows)))
    flags = [*COLUMNS, "--dev_share", "0.5", "--output_dir", tmp_path / "out", "--train"]
    statuses = set()
    for seed in range(6):
        made = []
        for order in orders:
            status, _, err = script("prepare_task", *flags, write(tmp_path / "my.csv", table(order)), "--seed", seed)
            statuses.add(status)
            assert ("each text of class 'c' has another label" in err and "--drop_leaks" not in err) == (status == 2)
            made.append(err or set(cells(tmp_path / "out", "dev.tsv")))
        assert made[1:] == made[:-1]
    assert statuses == {0, 2}


@pytest.mark.parametrize("kind", ["i", "d"])
def test_rows_against_a_naive_look(kind, tmp_path):
    rng = np.random.default_rng(5)
    texts, labels = rng.integers(0, 40, 120).astype("<u8"), rng.integers(0, 3, 120).astype(kind)
    with open(write(tmp_path / "lines", b"\n" * 120), "rb") as file:
        rows = Rows(file, np.ones(120, bool), labels, texts, np.zeros(120, bool)).only(rng.random(120) < 0.8)
    pairs = list(zip(rows.texts.tolist(), rows.labels.tolist()))
    assert len(rows) == len(pairs) < 120
    assert repeated(rows).tolist() == [any(pairs[i][0] == pairs[j][0] for j in range(i)) for i in range(len(pairs))]
    assert contradicted(rows).tolist() == [any(text == other and label != said for other, said in pairs)
                                           for text, label in pairs]
    held = held_out(rows, 0.3)
    assert {text for (text, _), is_held in zip(pairs, held) if is_held}.isdisjoint(
        text for (text, _), is_held in zip(pairs, held) if not is_held)


def test_no_table_is_held_in_memory(prepare, tmp_path, capfd):
    content = table((f"{number} " + "word " * 400, number % 2) for number in range(4000))
    write(tmp_path / "big.csv", content)
    assert len(content) > 8_000_000
    flags = ["--train", str(tmp_path / "big.csv"), *COLUMNS, "--output_dir", str(tmp_path / "out")]
    del content
    tracemalloc.start()
    try:
        prepare_task.main(flags)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


# --- bad input

TWO = table([("a", "x"), ("b", "y"), ("c", "x"), ("d", "y")])
BAD = {
    "label column of texts": (table((f"text {n}", f"some words {n}") for n in range(30)), [],
                              ("30 classes in 30 rows, such as 'some words 0': that is a column of texts",)),
    "more than 1,000 classes": (table((f"t{n}", f"w{n % 1100}") for n in range(2300)), [],
                                ("my.csv, line 1002: more than 1,000 classes, such as 'w0'",)),
    "more than 1,000 numbers": (table((f"t{n}", n / 7) for n in range(1100)), [], ("did you mean --regression?",)),
    "a score each": (table((f"t{n}", n / 7) for n in range(30)), [],
                     ("column 'mood': 30 classes in 30 rows, and all are numbers: did you mean --regression?",)),
    "four rows of texts": (table((f"text {n}", f"some words {n}") for n in range(4)), [],
                           ("4 classes in 4 rows, such as 'some words 0': that is a column of texts",)),
    "one class": (table([("a", "x"), ("b", "x")]), [], ("says 'x' in every row",)),
    "unknown column": ("review,Mood,\"a;b\"\na,x,1\n", [],
                       ("no column 'mood' (CSV, columns parted by comma); its columns: 'review', 'Mood', 'a;b'",)),
    "column twice": ("review,mood,mood\na,x,x\n", [], ("my.csv has 2 columns 'mood': rename",)),
    "ragged": ('review,mood\n"a\nb",x\n\nc,d,y\n', [], ("my.csv, line 5: 3 columns, expected 2",)),
    "ragged tsv": ("review\tmood\na\tx\nb\n", [], ("my.tsv, line 3: 1 columns, expected 2",)),
    "open quote": ('review,mood\na,x\n"b,y\nc,x\n', [], ("my.csv, line 3: ", "a quote in it is never closed")),
    "quote in a field": ('review,mood\na,x\n"b" c,y\n', [], ("my.csv, line 3: ", "a quote is written twice")),
    "wrong delimiter": (CSV_OF_EXCEL, ["--delimiter", "comma"],
                        ("1 column with --delimiter comma, and 3 with semicolon: try --delimiter semicolon",)),
    "delimiter of no csv": (JSON_OF_PANDAS, ["--delimiter", "comma"], ("--delimiter is for CSV",)),
    "latin-1": (TWO.encode() + b"\xe9t\xe9 caf\xe9,x\n" * 2, [],
                ("my.csv, line 6: not utf-8 (byte 1 of the line is 0xe9)", "--encoding, such as cp1252")),
    "cut in a character": (TWO.encode() + "é,x\nyé".encode()[:-1], [], ("my.csv, line 7: not utf-8 (it ends within",)),
    "not cp1252": (TWO.encode() + b"\x81,x\n", ["--encoding", "cp1252"], ("my.csv, line 6: not cp1252 (byte 1 of",)),
    "utf-16": (TWO.encode("utf-16"), [], ("is text in UTF-16",)),
    "utf-16 without its mark": (TWO.encode("utf-16-le"), ["--encoding", "utf-16"], ("line 1: not utf-16",)),
    "unknown encoding": (TWO, ["--encoding", "klingon"], ("'klingon' is unknown",)),
    "bad delimiter": (TWO, ["--delimiter", "::"], ("'::' is none: give comma",)),
    "nul": (TWO + "e\0,x\n", [], ("my.csv, line 6: holds a NUL",)),
    "empty": ("", [], ("my.csv is empty",)),
    "empty tsv": ("", [], ("my.tsv is empty",)),
    "empty jsonl": ("\n", [], ("my.jsonl is empty",)),
    "no rows": ("review,mood\n", [], ("my.csv holds no rows",)),
    "no labels": ("review,mood\na,\n", [], ("my.csv holds no rows with a label",)),
    "json list": ('[{"review": "a"}]', [], ("my.jsonl, line 1: a list", "lines=True")),
    "cut json": ('{"review": "a", "mood": 1}\n{"review', [], ("my.jsonl, line 2: no JSON object (",)),
    "json text": ('{"review": "a", "mood": 1}\n"a"\n', [], ("my.jsonl, line 2: no JSON object;",)),
    "label is a list": ('{"review": "a", "mood": [1]}\n', [], ("my.jsonl, line 1: '[1]' is a list",)),
    "workbook": (b"PK\x03\x04", [], ("my.xlsx is a workbook: save the sheet as CSV UTF-8",)),
    "zip": (b"PK\x03\x04", [], ("my.csv is a zip archive",)),
    "nothing to hold out": (table([("a", "x"), ("b", "y")]), [], ("name a file with --dev",)),
    "three texts": (TWO, ["--text", "a", "b", "c", "--label", "mood"], ("--text names 3 columns",)),
    "label is the text": (TWO, ["--text", "mood", "--label", "mood"], ("--text and --label name one column twice",)),
    "metric of scores": (TWO, ["--metric", "corr"], ("--metric corr is for scores: add --regression",)),
    "metric of classes": (TWO, ["--metric", "acc", "--regression"], ("acc is for classes: drop --regression",)),
    "f1 of three": (table([(n, n % 3) for n in range(9)]), ["--metric", "f1"],
                    ("--metric f1 is for two classes, and", "my.csv has 3: take macro_f1")),
    "one limit": (TWO, ["--regression", "1"], ("--regression takes no number, or the lowest",)),
    "limits": (TWO, ["--regression", "2", "1"], ("--regression takes no number, or the lowest",)),
    "all is dev": (TWO, ["--dev_share", "1"], ("--dev_share leaves nothing on one side",)),
    "short": (TWO, ["--max_seq_length", "4"], ("--max_seq_length 4 is too short: take 8 or more",)),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, refuses):
    content, flags, words = BAD[case]
    name = next((f"my.{kind}" for kind in ("tsv", "jsonl") if kind in case), "my.csv")
    name = {"workbook": "my.xlsx"}.get(case, "my.jsonl" if "json" in case or "a list" in case or
                                       case == "delimiter of no csv" else name)
    refuses(content, *flags, words=words, name=name)


def test_a_dev_label_that_train_lacks(refuses, tmp_path):
    dev = write(tmp_path / "d.csv", table([("a", "x"), ("b", "z")]))
    refuses(TWO, "--dev", dev, words=("d.csv, line 3: label 'z', which the train file lacks; it has x, y",))
    write(dev, table([("a", "x"), ("c", "x")]))
    refuses(TWO, "--dev", dev, "--drop_leaks", words=("--drop_leaks leaves no row of class 'x' in train",))
    refuses(TWO, "--dev", dev, "--dev_share", "0.2", words=("--dev_share is for splitting --train",))
    refuses(TWO, "--dev", write(tmp_path / "e.csv", TWO), "--drop_leaks", words=("leaves no row of train.tsv",))


def test_folders_that_are_refused(refused, prepare, tmp_path):
    flags = ["prepare_task", "--train", write(tmp_path / "my.csv", CSV_OF_PANDAS), *COLUMNS, "--output_dir"]
    for name in ("RTE", "sst-2", "squad"):
        refused(*flags, tmp_path / name, words=(f"name '{name}' is that of a known task",))
    refused(*flags, tmp_path / "a b", words=("--output_dir", "'a b' is none: take letters, digits, _ and -"))
    write(tmp_path / "old" / "train.tsv", "mine")
    refused(*flags, tmp_path / "old", words=("old holds train.tsv: name a new folder",))
    assert (tmp_path / "old" / "train.tsv").read_text() == "mine"
    refused(*flags, write(tmp_path / "file", "") / "out", words=("file is a file: name a folder",))
    prepare(CSV_OF_PANDAS)
    refused("prepare_task", "--train", tmp_path / "out" / "train.tsv", "--text", "sentence", "--label", "label",
            "--output_dir", tmp_path / "out", words=("train.tsv stands in --output_dir",))
    write(tmp_path / "out" / "train_aug.tsv", "made of train.tsv")
    refused(*flags, tmp_path / "out", words=("out holds train_aug.tsv",))
    refused("prepare_task", "--train", tmp_path / "out", *COLUMNS, "--output_dir", tmp_path / "new",
            words=("is a folder, and not one that datasets has saved",))
    write(tmp_path / "saved" / "state.json", '{"_data_files": [{"filename": "none.arrow"}]}')
    refused("prepare_task", "--train", tmp_path / "saved", *COLUMNS, "--output_dir", tmp_path / "new",
            words=("state.json names no files, or some that are not there",))


def test_what_stops_a_run_leaves_no_half_of_a_task(script, prepare, tmp_path, monkeypatch):
    prepare(CSV_OF_PANDAS)
    before = contents(tmp_path / "out")
    flags = ["--train", write(tmp_path / "new.csv", TWO), *COLUMNS, "--output_dir"]

    def stop(*_):
        raise KeyboardInterrupt

    real, opened = prepare_task.atomic_write, []
    for folder in ("out", "first"):
        with monkeypatch.context() as patched:  # while the second table is written
            opened.clear()
            patched.setattr(prepare_task, "atomic_write", lambda path, mode: (
                opened.append(path), real(path, mode) if len(opened) == 1 else stop())[1])
            assert script("prepare_task", *flags, tmp_path / folder)[0] == 130
    assert contents(tmp_path / "out") == before and read_task(tmp_path / "out").labels == ("neg", "pos")
    assert names(tmp_path / "out") == ["dev.tsv", "task.json", "train.tsv"] and names(tmp_path / "first") == []
    write(tmp_path / "out" / ".dev.tsv.99999999.tmp", "of a process that was killed")
    with monkeypatch.context() as patched:  # when all tables are there
        patched.setattr(prepare_task, "write_task", stop)
        assert script("prepare_task", *flags, tmp_path / "out")[0] == 130
    assert names(tmp_path / "out") == ["dev.tsv", "train.tsv"] and contents(tmp_path / "out") != before
    with pytest.raises(InputError, match=r"task.json does not exist"):
        read_task(tmp_path / "out")
