"""The Chinese tasks: their tables made of archives laid out as the published ones, what is refused of those, and what
is sent to CLUE's server."""
from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import download_glue
import task_distill
from tests.conftest import STUDENT, TEACHER, command_line, names, run, write_lines, zipped
from tests.faulty_server import Fault
from transformer.checkpoint import load_tokenizer, save_model
from transformer.config import BertConfig
from transformer.data.features import encode_file
from transformer.data.tables import read_rows
from transformer.fetching import download
from transformer.fetching.download import KNOWN_FILES, unzip
from transformer.fetching.sources import HOSTS, Source
from transformer.files import InputError, read_json
from transformer.modeling import TinyBertForPreTraining, TinyBertForSequenceClassification
from transformer.tasks.clue import CLUE
from transformer.tasks.clue_files import marked
from transformer.tasks.labels import name_labels
from transformer.tasks.table import TASKS, get_task, is_known_task

COMMIT = "02d55cb3c7dc984682677b8dd81db6a1e4710720"
HOST_NAMES = ("CLUE_BASE", "OCNLI_BASE", "CHNSENTICORP_BASE", "XNLI_BASE")


def json_lines(*rows: dict, end: str = "\n") -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + end for row in rows).encode()


def pair(first: str, second: str, label: str | None = None, **more) -> dict:
    return {"sentence1": first, "sentence2": second} | ({} if label is None else {"label": label}) | more


def wsc(text: str, first: tuple[int, str], second: tuple[int, str], **more) -> dict:
    return {"target": {"span2_index": second[0], "span1_index": first[0], "span1_text": first[1],
                       "span2_text": second[1]}, "text": text, **more}


def xnli(language: str, label: str, first: str, second: str) -> str:
    return "\t".join([language, label, "(x)", "(x)", "(ROOT x)", "(ROOT x)", first, second, "7", "7", "facetoface",
                      *[label] * 5, first, second, "True"])


XNLI_HEADER = ("language\tgold_label\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t"
               "sentence2_parse\tsentence1\tsentence2\tpromptID\tpairID\tgenre\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\t"
               "sentence1_tokenized\tsentence2_tokenized\tmatch")

# Files of the published archives, in their layout, with rows of our own.
ARCHIVES = {
    "afqmc_public.zip": {
        "train.json": json_lines(pair("怎么\t还款\r\n呢", "何时还款\n", "0"), pair("“额度”多少", 'a "b" \\t c', "1")),
        "dev.json": json_lines(pair("开通花呗", "关闭花呗", "0")) + b"\n",
        "test.json": json_lines({"id": 7, **pair("多久到账", "几天到账")}, {"id": 3, **pair("怎么提额", "提额")}),
        "__MACOSX/._train.json": b"\0\5\26\7", ".DS_Store": b"\0"},
    "tnews_public.zip": {
        "train.json": json_lines({"label": "100", "label_desc": "news_story", "sentence": "从前有座山",
                                  "keywords": "山,庙"},
                                 {"label": "116", "label_desc": "news_game", "sentence": "新版本上线", "keywords": ""}),
        "dev.json": json_lines({"label": 104, "sentence": "股市\u2028收盘"}),  # a number; without keywords
        "test.json": json_lines({"id": 0, "sentence": "春耕开始", "keywords": "春耕"}),
        "labels.json": json_lines({"label": "100", "label_desc": "news_story"})},
    "iflytek_public.zip": {
        "train.json": json_lines({"label": "0", "label_des": "打车", "sentence": "叫车软件"},
                                 {"label": "118", "label_des": "其他", "sentence": "记账\n软件"}),
        "dev.json": json_lines({"label": "7", "label_des": "地图", "sentence": "导航"}),
        "test.json": json_lines({"id": 0, "sentence": "天气预报"}), "labels.json": b"{}\n"},
    "cmnli_public.zip": {
        "cmnli_public/train.json": json_lines(pair("他走了", "他没走", "contradiction"), pair("天晴", "有云", "-"),
                                              pair("她在读书", "她识字", "entailment"), pair("冷", "热", "-")),
        "cmnli_public/dev.json": json_lines(pair("新的", "旧的", "-"), pair("去过", "喜欢", "neutral")),
        "cmnli_public/test.json": json_lines({"id": 0, **pair("看书", "读书")}), "cmnli_public/.DS_Store": b"\0"},
    "clue_diagnostics_public.zip": {
        "diagnostics_test.json": json_lines({"index": 1, "premise": "甲在跑步", "hypothesis": "甲将跑步"})},
    f"{COMMIT}.zip": {
        f"OCNLI-{COMMIT}/data/ocnli/train.json": json_lines(
            pair("雨停了", "没下雨", "contradiction", level="easy", label0=None, genre="lit", prem_id="lit_1", id=5)),
        f"OCNLI-{COMMIT}/data/ocnli/dev.json": json_lines(pair("走吧", "来吧", "-", id=0),
                                                          pair("有人在", "有人", "entailment", id=1)),
        f"OCNLI-{COMMIT}/data/ocnli/test.json": json_lines(pair("吃了", "饱了", id=0)),
        f"OCNLI-{COMMIT}/data/ocnli/train.3k.json": b"not read", f"OCNLI-{COMMIT}/more/dev.json": b"not read",
        f"OCNLI-{COMMIT}/README.md": b"# OCNLI"},
    "csl_public.zip": {
        "train.json": json_lines({"id": 1, "abst": "本文研究\t图像", "keyword": ["图像", "深度 学习"], "label": "1"}),
        "dev.json": json_lines({"id": 1, "abst": "提出算法", "keyword": ["算法"], "label": "0"}),
        "test.json": json_lines({"id": 2415, "abst": "总结经验", "keyword": []})},
    "cluewsc2020_public.zip": {
        "train.json": json_lines(wsc("小王看见老李，他笑了", (0, "小王"), (7, "他"), label="true", idx=0),
                                 wsc("他说老李来了", (2, "老李"), (0, "他"), label="false", idx=1)),
        "dev.json": json_lines(wsc("😀小猫它睡", (1, "小猫"), (3, "它"), label="false", idx=0)),
        "test.json": json_lines(wsc("它是猫", (2, "猫"), (0, "它"), id=9))},
    "chnsenticorp.zip": {
        "train.tsv": "label\ttext_a\n1\t\"很好\" 的酒店\n0\t太\r差\n".encode(),
        "dev.tsv": "label\ttext_a\r\n0\t不推荐\r\n".encode(), "test.tsv": "\ufefflabel\ttext_a\n1\t還可以".encode()},
    "XNLI-MT-1.0.zip": {
        "XNLI-MT-1.0/multinli/multinli.train.zh.tsv":
            "premise\thypo\tlabel\n他 走 了 。\t他 没 走 。\tcontradictory\n好 。\t\"不 坏 。\tneutral\n".encode(),
        "XNLI-MT-1.0/multinli/multinli.train.de.tsv": b"premise\thypo\tlabel\nja\tnein\tneutral\n"},
    "XNLI-1.0.zip": {
        "XNLI-1.0/xnli.dev.tsv": "\n".join([XNLI_HEADER, xnli("ar", "neutral", "a", "b"),
                                            xnli("zh", "entailment", "回家了", "在家")]).encode(),
        "XNLI-1.0/xnli.test.tsv": "\n".join([XNLI_HEADER, xnli("zh", "contradiction", "来", "不来"),
                                             xnli("vi", "neutral", "a", "b")]).encode(),
        "__MACOSX/XNLI-1.0/._xnli.dev.tsv": b"\0"},
}

# What becomes of them, lines without the header.
TABLES = {
    "AFQMC": {"train.tsv": ["0\t怎么 还款  呢\t何时还款 ", '1\t“额度”多少\ta "b" \\t c'],
              "dev.tsv": ["0\t开通花呗\t关闭花呗"], "test.tsv": ["7\t多久到账\t几天到账", "3\t怎么提额\t提额"]},
    "TNEWS": {"train.tsv": ["100\t从前有座山\t山,庙", "116\t新版本上线\t"], "dev.tsv": ["104\t股市\u2028收盘\t"],
              "test.tsv": ["0\t春耕开始\t春耕"]},
    "IFLYTEK": {"train.tsv": ["0\t叫车软件", "118\t记账 软件"], "dev.tsv": ["7\t导航"], "test.tsv": ["0\t天气预报"]},
    "CMNLI": {"train.tsv": ["contradiction\t他走了\t他没走", "entailment\t她在读书\t她识字"],
              "dev.tsv": ["neutral\t去过\t喜欢"], "test.tsv": ["0\t看书\t读书"],
              "diagnostics.tsv": ["1\t甲在跑步\t甲将跑步"]},
    "OCNLI": {"train.tsv": ["contradiction\t雨停了\t没下雨"], "dev.tsv": ["entailment\t有人在\t有人"],
              "test.tsv": ["0\t吃了\t饱了"]},
    "CSL": {"train.tsv": ["1\t图像 深度 学习\t本文研究 图像"], "dev.tsv": ["0\t算法\t提出算法"],
            "test.tsv": ["2415\t\t总结经验"]},
    "CLUEWSC2020": {"train.tsv": ["true\t_小王_看见老李，[他]笑了", "false\t[他]说_老李_来了"],
                    "dev.tsv": ["false\t😀_小猫_[它]睡"], "test.tsv": ["9\t[它]是_猫_"]},
    "ChnSentiCorp": {"train.tsv": ['1\t"很好" 的酒店', "0\t太 差"], "dev.tsv": ["0\t不推荐"],
                     "test.tsv": ["1\t還可以"]},
    "XNLI-zh": {"train.tsv": ["contradiction\t他 走 了 。\t他 没 走 。", 'neutral\t好 。\t"不 坏 。'],
                "dev.tsv": ["entailment\t回家了\t在家"], "test.tsv": ["contradiction\t来\t不来"]},
}
TEXTS = {"TNEWS": "sentence\tkeywords", "IFLYTEK": "sentence", "CSL": "keywords\tabstract", "CLUEWSC2020": "text",
         "ChnSentiCorp": "text_a"}
SEVEN = ["AFQMC", "TNEWS", "IFLYTEK", "CMNLI", "OCNLI", "CSL", "CLUEWSC2020"]


@pytest.fixture
def site(server, monkeypatch):
    """A web server in the place of all hosts of the Chinese tasks."""
    for name, files in ARCHIVES.items():
        (server.folder / name).write_bytes(zipped(files))
    for host in HOST_NAMES:
        monkeypatch.setenv(host, server.url)
    return server


def get(tmp_path: Path, *arguments: object) -> Path:
    download_glue.main([*map(str, arguments), "--data_dir", str(tmp_path / "g")])
    return tmp_path / "g"


def changed(site, archive: str, name: str, content: bytes | None) -> None:
    """Serve an archive with another content of a file (None: without it)."""
    files = {**ARCHIVES[archive], name: content}
    (site.folder / archive).write_bytes(zipped({name: content for name, content in files.items()
                                                if content is not None}))


# --- the table of tasks

def test_settings_of_the_baselines():
    """Epochs, rate, batch and length of CLUE's baselines and, of the last two, of HFL's; labels; official examples."""
    found = {task.name: (task.teacher_epochs, task.teacher_learning_rate, task.teacher_batch_size,
                         task.teacher_max_seq_length, task.num_labels,
                         download_glue.published_sizes(task.name)) for task in CLUE.values()}
    assert found == {
        "AFQMC": (3, 2e-5, 16, 128, 2, [34334, 4316, 3861]),
        "TNEWS": (3, 2e-5, 16, 128, 15, [53360, 10000, 10000]),
        "IFLYTEK": (3, 2e-5, 16, 128, 119, [12133, 2599, 2600]),
        "CMNLI": (3, 3e-5, 16, 128, 3, [391783, 12241, 13880, 514]),
        "OCNLI": (2, 3e-5, 16, 128, 3, [50437, 2950, 3000]),
        "CSL": (5, 1e-5, 8, 256, 2, [20000, 3000, 3000]),
        "CLUEWSC2020": (50, 1e-5, 16, 128, 2, [1244, 304, 2574]),
        "ChnSentiCorp": (3, 2e-5, 64, 256, 2, [9600, 1200, 1200]),
        "XNLI-zh": (2, 3e-5, 64, 128, 3, [392702, 2490, 5010])}
    assert all(task.metric == "acc" and task.head.shown_scores == ("acc",) and task.beats_chance and
               task.max_seq_length == task.teacher_max_seq_length for task in CLUE.values())
    assert [task.name for task in CLUE.values() if task.augment_copies_in_code is None] == ["CLUEWSC2020"]


@pytest.mark.parametrize("preset", ["paper", "code"])
def test_lengths_of_the_students(preset):
    cola = 64 if preset == "paper" else 128
    for name, length in (("CSL", 256), ("ChnSentiCorp", 256), ("TNEWS", 128), ("CoLA", cola)):
        args = task_distill.parse_args(["--data_dir", "d", "--task_name", name, "--student_model", "s", "--output_dir",
                                        "o", "--teacher_model", "t", "--preset", preset])
        task_distill.resolve(args, get_task(name))
        assert args.max_seq_length == length


def test_labels_are_those_of_the_files():
    assert get_task("tnews").labels == tuple("100 101 102 103 104 106 107 108 109 110 112 113 114 115 116".split())
    assert get_task("IFLYTEK").labels[::59] == ("0", "59", "118") and len(set(get_task("IFLYTEK").labels)) == 119
    assert get_task("ocnli").labels == get_task("mnli").labels
    assert get_task("cluewsc2020").head.read_label("true") == 0 and get_task("csl").head.read_label("1") == 1
    for task in CLUE.values():
        assert [task.head.read_label(task.head.word(number)) for number in range(task.num_labels)] == \
            list(range(task.num_labels)) and task.head.read_label("-") is None


def test_names_of_tasks():
    assert [get_task(name).name for name in ("AFQMC", "wsc", "CLUE-WSC", "xnli", "XNLI_zh", "chnsenticorp")] == [
        "AFQMC", "CLUEWSC2020", "CLUEWSC2020", "XNLI-zh", "XNLI-zh", "ChnSentiCorp"]
    assert all(map(is_known_task, ("AFQMC", "wsc", "xnli", "XNLI_zh", "sst", "SST-2", "SQuAD v1.1", "mnli-mm")))
    assert not any(map(is_known_task, ("my-task", "all", "squad3", "")))
    assert list(TASKS)[-9:] == list(CLUE)
    assert download_glue.parse_args(["--tasks", "clue", "tnews"]).tasks == SEVEN
    assert not set(download_glue.parse_args(["--tasks", "all"]).tasks) & {task.name for task in CLUE.values()}


# --- archives to tables

@pytest.mark.parametrize("name", TABLES)
def test_tables_of_an_archive(name, site, tmp_path, capsys):
    """Names, headers and rows; the kit's reader finds the same texts and labels."""
    folder, task = get(tmp_path, "--tasks", name), get_task(name)
    assert names(folder) == [name] and names(folder / name) == sorted(TABLES[name])
    out = capsys.readouterr().out
    for file, rows in TABLES[name].items():
        first = "id" if name in SEVEN and file in ("test.tsv", "diagnostics.tsv") else "label"
        texts = "premise\thypothesis" if file == "diagnostics.tsv" else TEXTS.get(name, "sentence1\tsentence2")
        content = (folder / name / file).read_bytes().decode()
        assert content == "".join(f"{line}\n" for line in (f"{first}\t{texts}", *rows))
        assert f"{file} {len(rows)} examples" in out
    columns = [columns for _, columns in read_rows(task, folder / name / "train.tsv")]
    assert ["\t".join(row) for row in columns] == TABLES[name]["train.tsv"]
    assert "taken as the header" not in out and "warning" not in out
    requests = len(site.requests)
    get(tmp_path, "--tasks", name)
    assert len(site.requests) == requests == len(download_glue.TASK_FILES[name])


def test_all_of_clue_and_the_rows_that_are_left_out(site, tmp_path, capsys):
    assert names(get(tmp_path, "--tasks", "clue")) == sorted(SEVEN)
    out = capsys.readouterr().out
    left_out = [line for line in out.splitlines() if "left out" in line]
    assert left_out == ["CMNLI/train.tsv: left out 2 rows whose label is '-'",
                        "CMNLI/dev.tsv: left out 1 rows whose label is '-'",
                        "OCNLI/dev.tsv: left out 1 rows whose label is '-'"]
    assert {request.path.strip("/") for request in site.requests} == set(ARCHIVES) - {
        "chnsenticorp.zip", "XNLI-MT-1.0.zip", "XNLI-1.0.zip"}


@pytest.mark.parametrize("text", ["a\tb", "a\nb", "a\rb", "a\0b", "a\r\n\t\0b"])
def test_what_would_end_a_cell_becomes_spaces(text, site, tmp_path):
    changed(site, "iflytek_public.zip", "train.json", json_lines({"label": "0", "sentence": text}))
    folder = get(tmp_path, "--tasks", "iflytek")
    assert (folder / "IFLYTEK/train.tsv").read_bytes() == f"label\tsentence\n0\ta{' ' * (len(text) - 2)}b\n".encode()


def test_half_of_a_character_that_json_can_spell(site, tmp_path):
    changed(site, "iflytek_public.zip", "train.json",
            b'{"label": "0", "sentence": "\\ud83d\\ude00 \\ud83d \\udc00x"}\n')
    folder = get(tmp_path, "--tasks", "iflytek")
    assert (folder / "IFLYTEK/train.tsv").read_text(encoding="utf-8").splitlines()[1] == "0\t\U0001f600 \ufffd \ufffdx"


def test_another_name_of_ocnlis_train_file(site, tmp_path):
    begin = f"OCNLI-{COMMIT}/data/ocnli"
    files = dict(ARCHIVES[f"{COMMIT}.zip"])
    files[f"{begin}/train.50k.json"] = files.pop(f"{begin}/train.json")
    (site.folder / f"{COMMIT}.zip").write_bytes(zipped(files))
    folder = get(tmp_path, "--tasks", "ocnli")
    assert (folder / "OCNLI/train.tsv").read_text(encoding="utf-8").splitlines()[1:] == TABLES["OCNLI"]["train.tsv"]


def test_marks_around_spans():
    """By hand: apart, in either order, touching, one in the other, the whole text."""
    def mark(text, first, second):
        return marked(text, [(*first, "_", "_"), (*second, "[", "]")], "f")

    assert mark("abcdef", (0, "ab"), (4, "e")) == "_ab_cd[e]f"
    assert mark("abcdef", (4, "ef"), (0, "a")) == "[a]bcd_ef_"
    assert mark("abcdef", (1, "b"), (2, "c")) == "a_b_[c]def" and mark("abcdef", (2, "c"), (1, "b")) == "a[b]_c_def"
    assert mark("abcdef", (1, "bcd"), (2, "c")) == "a_b[c]d_ef"
    for start, span in ((1, "a"), (-1, "f"), (6, "g"), (5, "fg"), (0, "")):
        with pytest.raises(InputError, match=f"^f: '{span}' does not stand at character {start} of the text"):
            mark("abcdef", (0, "ab"), (start, span))


# --- what is refused

GOOD = pair("a", "b", "0")


@pytest.mark.parametrize("archive, file, content, words", [
    ("afqmc", "train.json", json_lines(GOOD, {"sentence1": "a", "label": "0"}),
     "line 2: no 'sentence2' among sentence1, label"),
    ("afqmc", "train.json", json_lines(GOOD, pair("a", "b")), "line 2: no 'label' among sentence1, sentence2"),
    ("afqmc", "test.json", json_lines(pair("a", "b")), "line 1: no 'id' among"),
    ("afqmc", "dev.json", json_lines({}), "line 1: no 'label' among nothing"),
    ("afqmc", "train.json", json_lines(pair("a", ["b"], "0")), "line 1: 'sentence2' is to be a text, and is [\"b\"]"),
    ("afqmc", "train.json", json_lines(pair("a", None, "0")), "line 1: 'sentence2' is to be a text, and is null"),
    ("afqmc", "train.json", json_lines(pair("a", "b", True)), "line 1: 'label' is to be a text, and is true"),
    ("afqmc", "train.json", json_lines(pair("a", "b", "2")), "line 1: unknown label '2', expected one of 0, 1 (AFQMC)"),
    ("afqmc", "dev.json", json_lines(GOOD)[:-4], "line 1: not valid JSON"),
    ("afqmc", "train.json", json_lines(GOOD) + b"\n" + json_lines(GOOD)[9:], "line 3: not valid JSON"),
    ("afqmc", "train.json", b"[" * 100_000, "line 1: not valid JSON"),
    ("afqmc", "train.json", b"[1]\n", "line 1: is to be a table in braces, and is [1]"),
    ("afqmc", "train.json", json_lines(GOOD) + b'{"\xff"}', "line 2: not valid UTF-8"),
    ("afqmc", "train.json", b"<!DOCTYPE html><html>", "is a web page"),
    ("tnews", "train.json", json_lines({"label": "105", "sentence": "a"}), "line 1: unknown label '105'"),
    ("tnews", "train.json", json_lines({"label": "100", "sentence": "a", "keywords": 3}), "'keywords' is to be a text"),
    ("iflytek", "dev.json", json_lines({"label": "119", "sentence": "a"}), "line 1: unknown label '119'"),
    ("csl", "train.json", json_lines({"abst": "a", "keyword": "b", "label": "1"}),
     "line 1: 'keyword' is to be a list, and is \"b\""),
    ("csl", "train.json", json_lines({"abst": "a", "keyword": ["图", 2], "label": "1"}),
     "line 1: 'keyword' is to be a list of texts, and is [\"图\", 2]"),
    ("cluewsc2020", "train.json", json_lines(wsc("小王看见老李，他笑了", (0, "小王"), (6, "他"), label="true")),
     "line 1, 'target': '他' does not stand at character 6 of the text, where '，' is"),
    ("cluewsc2020", "dev.json", json_lines(wsc("小王", (0, "小"), (9, "他"), label="true")),
     "line 1, 'target': '他' does not stand at character 9 of the text, where '' is"),
    ("cluewsc2020", "dev.json", json_lines({"text": "a", "label": "true", "target": {"span1_index": 0}}),
     "line 1, 'target': no 'span1_text' among span1_index"),
    ("cluewsc2020", "dev.json", json_lines({"text": "a", "label": "true", "target": "a"}),
     "line 1: 'target' is to be a table in braces, and is \"a\""),
    ("cluewsc2020", "train.json", json_lines(wsc("ab", ("0", "a"), (1, "b"), label="true")),
     "line 1, 'target': 'span1_index' is to be a whole number, and is \"0\"")])
def test_rows_that_are_none(archive, file, content, words, site, refused, tmp_path):
    """One line with the archive, the file in it and the line; no folder is made; the archive stays."""
    changed(site, f"{archive}_public.zip", file, content)
    place = f"{tmp_path / 'g' / archive}_public.zip/{file}"
    refused("download_glue", "--tasks", archive, "--data_dir", tmp_path / "g", words=(place, words))
    assert names(tmp_path / "g") == [f"{archive}_public.zip"]


@pytest.mark.parametrize("archive, file, content, words", [
    ("chnsenticorp", "train.tsv", b"label\ttext_a\n1\ta\tb\n", "line 2: 3 columns, expected 2 as in its first line"),
    ("chnsenticorp", "train.tsv", b"label\ttext_a\n2\ta\n", "line 2: unknown label '2', expected one of 0, 1"),
    ("chnsenticorp", "dev.tsv", b"0\ta\n1\tb\n", "line 2: no 'label' among 0, a"),
    ("chnsenticorp", "dev.tsv", b"", "dev.tsv holds no examples"),
    ("XNLI-MT-1.0", "XNLI-MT-1.0/multinli/multinli.train.zh.tsv", b"premise\thypo\tlabel\na\tb\tcontradict\n",
     "line 2: unknown label 'contradict', expected one of contradiction, entailment, neutral"),
    ("XNLI-1.0", "XNLI-1.0/xnli.dev.tsv", f"{XNLI_HEADER}\nzh\tneutral\n".encode(), "line 2: 2 columns, expected 19"),
    ("XNLI-1.0", "XNLI-1.0/xnli.test.tsv", f"{XNLI_HEADER}\n{xnli('de', 'neutral', 'a', 'b')}".encode(),
     "test.tsv holds no examples")])
def test_rows_of_tables_that_are_none(archive, file, content, words, site, refused, tmp_path):
    changed(site, f"{archive}.zip", file, content)
    refused("download_glue", "--tasks", "xnli" if "XNLI" in archive else archive, "--data_dir", tmp_path / "g",
            words=(words, str(tmp_path / "g"), file.rpartition("/")[2].removeprefix("xnli.")))


@pytest.mark.parametrize("entries, words", [
    ({"test.json": None}, "afqmc_public.zip holds no file test.json, so it is not that of AFQMC: move it away"),
    ({"copy/dev.json": b"{}"}, "two files of one name"), ({"../evil.json": b"{}"}, "unsafe name '../evil.json'"),
    ({"/etc/evil": b"x"}, "unsafe name '/etc/evil'")])
def test_archives_that_are_others(entries, words, site, refused, tmp_path):
    files = {**ARCHIVES["afqmc_public.zip"], **entries}
    (site.folder / "afqmc_public.zip").write_bytes(zipped({name: content for name, content in files.items()
                                                           if content is not None}))
    refused("download_glue", "--tasks", "afqmc", "--data_dir", tmp_path / "g", words=(words, "afqmc_public.zip"))
    assert names(tmp_path / "g") == ["afqmc_public.zip"] and names(tmp_path) == ["g", "served"]


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_an_archive_that_is_cut_short(share, site, refused, tmp_path):
    content = (site.folder / "csl_public.zip").read_bytes()
    (site.folder / "csl_public.zip").write_bytes(content[:int(share * len(content))])
    refused("download_glue", "--tasks", "csl", "--data_dir", tmp_path / "g",
            words=("csl_public.zip is not a readable zip file", "move it away and run again"))
    assert names(tmp_path / "g") == ["csl_public.zip"]


def test_a_link_in_an_archive_is_refused(site, refused, tmp_path):
    (site.folder / "csl_public.zip").write_bytes(zipped(ARCHIVES["csl_public.zip"], link="train.jsonl"))
    refused("download_glue", "--tasks", "csl", "--data_dir", tmp_path / "g", words=("holds the link 'train.jsonl'",))


def test_of_an_archive_only_what_is_asked_for_is_unpacked(tmp_path):
    (tmp_path / "x.zip").write_bytes(zipped({"a/train.zh.tsv": b"1", "a/train.de.tsv": b"2", "b/b/dev.json": b"3",
                                             "dev.jsonl": b"4"}))
    unzip(tmp_path / "x.zip", tmp_path / "out", ("train.zh.tsv", "dev.json"))
    assert sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")) == [
        "a/train.zh.tsv", "b/b/dev.json"]
    (tmp_path / "y.zip").write_bytes(zipped({"dev.json": b"3", "../x": b""}))  # the whole archive is looked at
    with pytest.raises(InputError, match="unsafe name"):
        unzip(tmp_path / "y.zip", tmp_path / "other", ("dev.json",))


# --- where they come from

def test_addresses_and_what_is_known_of_the_published_files():
    """Sizes and sums as Hugging Face's data sets recorded them; ChnSentiCorp's of the file in HFL's repository."""
    google, github = "https://storage.googleapis.com/cluebenchmark/tasks", "https://github.com/CLUEbenchmark/OCNLI/archive"
    wanted = {
        f"{google}/tnews_public.zip": (5123575, "77c476e70cfe0b014a81b84c6e1db2142a8a2f52f4ae0a8216aa75e673933462"),
        f"{google}/iflytek_public.zip": (6505938, "c59b961b29f1d0bad0c5e01aa62e4a61a80e9cfb980ce89b06c000851fbb3b06"),
        f"{google}/cmnli_public.zip": (31404066, "3a3f3b1d3d27134cf11e585156f07fa050bd0a0836821c02696af0dbaa14513b"),
        f"{google}/cluewsc2020_public.zip":
            (281384, "ebe5f357b19392d601be401b2fd4246983f534809a078eab7bda1de418fb3ffe"),
        f"{google}/csl_public.zip": (3234594, "795d1a2e475d59acad8236f6c5baba7a0b43d3e0508cb60f15ffbc76d5f437c4"),
        f"{google}/clue_diagnostics_public.zip":
            (12062, "56b52e70c195686557a966c6064c9bdc4dece1de8c89551f89ad046637e9a7c4"),
        f"{github}/{COMMIT}.zip": (4359754, "93abd5dbe417101d4c7526920fae59cc67969936c1868b1559fa4802839c49d0"),
        f"{HOSTS['CHNSENTICORP_BASE']}/chnsenticorp.zip":
            (1756782, "79218af1c3efdfd3223569440736eac207ab6b19babd2cd73b7ffc04250700ba")}
    assert {url: (KNOWN_FILES[url].size, KNOWN_FILES[url].sha256) for url in wanted} == wanted
    files = {f"{HOSTS[download_glue.host_of(file)]}/{file}" for task in CLUE.values()
             for file in download_glue.TASK_FILES[task.name]}
    assert files - set(wanted) == {f"{google}/afqmc_public.zip", f"{HOSTS['XNLI_BASE']}/XNLI-1.0.zip",
                                   f"{HOSTS['XNLI_BASE']}/XNLI-MT-1.0.zip"}
    assert set(wanted) < files


def as_official(site, monkeypatch, *archives: str) -> None:
    """The test's site in the place of CLUE's, these archives published there with size and sum."""
    monkeypatch.setitem(HOSTS, "CLUE_BASE", site.url)
    monkeypatch.delenv("CLUE_BASE")
    for name in archives:
        content = (site.folder / name).read_bytes()
        monkeypatch.setitem(download.KNOWN_FILES, f"{site.url}/{name}", Source(
            name, f"{site.url}/{name}", len(content), hashlib.sha256(content).hexdigest(), "not stated"))


def test_examples_are_counted_where_the_archive_is_known(site, refused, tmp_path, monkeypatch, script):
    """And told, no more, where CLUE may have published another version."""
    as_official(site, monkeypatch, "csl_public.zip")
    refused("download_glue", "--tasks", "csl", "--data_dir", tmp_path / "g",
            words=("CSL/train.tsv holds 1 examples, CSL has 20000", f"Move {tmp_path}/g/CSL away and run again"))
    out = run(script, "download_glue", ["--tasks", "afqmc", "--data_dir", tmp_path / "g"])
    assert f"warning: {tmp_path}/g/AFQMC/train.tsv holds 2 examples, AFQMC has 34334" in out
    digest = hashlib.sha256((site.folder / "afqmc_public.zip").read_bytes()).hexdigest()
    assert f"no checksum is known for it; sha256 {digest}" in out and "AFQMC: train.tsv 2 examples" in out


def test_another_archive_than_the_published_is_refused(site, refused, tmp_path, monkeypatch):
    as_official(site, monkeypatch, "csl_public.zip")
    changed(site, "csl_public.zip", "dev.json", b"{}\n")
    refused("download_glue", "--tasks", "csl", "--data_dir", tmp_path / "g",
            words=("csl_public.zip", "the published file has", "CLUE_BASE=FOLDER"))
    changed(site, "csl_public.zip", "dev.json", ARCHIVES["csl_public.zip"]["dev.json"])
    monkeypatch.setenv("CLUE_BASE", str(site.folder))  # as the message says
    monkeypatch.setitem(HOSTS, "CLUE_BASE", "http://127.0.0.1:9")
    assert names(get(tmp_path, "--tasks", "csl")) == ["CSL"]


def test_a_broken_transfer_goes_on_and_a_mirror_serves_all(site, tmp_path, capsys):
    site.faults["/XNLI-1.0.zip"] = [Fault(cut=300)]
    assert names(get(tmp_path, "--tasks", "xnli")) == ["XNLI-zh"]
    assert [request.path for request in site.requests].count("/XNLI-1.0.zip") == 2
    shutil.rmtree(tmp_path / "g")
    requests = len(site.requests)
    get(tmp_path, "--tasks", "xnli", "afqmc", "--mirror", site.folder)  # of which no sums are known
    assert names(tmp_path / "g") == ["AFQMC", "XNLI-zh"] and len(site.requests) == requests
    assert "XNLI-zh has 392702" in capsys.readouterr().out
    with pytest.raises(InputError, match="the published file has 3234594"):
        get(tmp_path, "--tasks", "csl", "--mirror", site.folder)


def test_offline_names_what_is_missing(site, tmp_path):
    with pytest.raises(InputError) as caught:
        get(tmp_path, "--tasks", "cmnli", "ocnli", "--offline")
    for file in ("cmnli_public.zip", "clue_diagnostics_public.zip", f"{COMMIT}.zip"):
        assert f"{site.url}/{file} to {tmp_path / 'g' / file}" in str(caught.value)
        shutil.copy(site.folder / file, tmp_path / "g")
    get(tmp_path, "--tasks", "cmnli", "ocnli", "--offline")
    assert {"CMNLI", "OCNLI"} < set(names(tmp_path / "g")) and not site.requests


# --- the converted files in the kit

CHARACTERS = "我你他她它们的是不了在有人这中大来上个国好坏新旧怎么还款花呗额度多少_[]"
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHARACTERS]
SIZES = {"vocab_size": len(PIECES)}
ROWS = 12


def phrase(number: int) -> str:
    return "".join(CHARACTERS[(number * step + step) % (len(CHARACTERS) - 3)] for step in range(1, 3 + number % 5))


def texts_of(task, number: int) -> list[str]:
    return [phrase(number * (column + 1) + column) for column in range(len(task.text_columns))]


def json_row(task, number: int, label: str | None) -> dict:
    """A row of a published file of CLUE with the texts of a number; ids begin at 100 and run down."""
    first, *rest = texts_of(task, number)
    row = {"label": label} if label else {"id": 100 - number}
    if task.name == "CSL":
        return row | {"keyword": [first], "abst": rest[0]}
    return row | (pair(first, rest[0]) if rest else {"sentence": first})


@pytest.fixture
def converted(tmp_path, site):
    """converted(NAME): the folder of a task of CLUE of ROWS rows in each file, made by download_glue.py; beside it
    vocab.txt, general, teacher and student, models of Chinese characters."""
    def make(name: str) -> Path:
        task = get_task(name)
        archive = f"{COMMIT}.zip" if name == "OCNLI" else f"{name.lower()}_public.zip"
        inside = f"OCNLI-{COMMIT}/data/ocnli/" if name == "OCNLI" else ""
        split = {f"{inside}{file}": json_lines(*(json_row(task, n, None if file == "test.json" else
                                             task.labels[n % 3 % task.num_labels]) for n in range(ROWS)))
                 for file in ("train.json", "dev.json", "test.json")}
        (site.folder / archive).write_bytes(zipped(split))
        (site.folder / "clue_diagnostics_public.zip").write_bytes(zipped({"diagnostics_test.json": json_lines(
            *({"index": 5 * n, "premise": phrase(n), "hypothesis": phrase(2 * n)} for n in range(ROWS)))}))
        vocab = write_lines(tmp_path / "vocab.txt", PIECES)
        torch.manual_seed(0)
        for role, sizes in (("teacher", TEACHER), ("student", STUDENT)):
            config = BertConfig(**(sizes | SIZES))
            name_labels(config.extra, task)
            save_model(TinyBertForSequenceClassification(config, task.num_labels), tmp_path / role, vocab)
        save_model(TinyBertForPreTraining(BertConfig(**(STUDENT | SIZES)), fit_size=16), tmp_path / "general", vocab)
        return get(tmp_path, "--tasks", name) / name
    return make


def naive_ids(pieces: list[str], texts: list[str], length: int) -> list[int]:
    """Ids of the characters, cut from the longer text; those of one text from its end."""
    parts = [[character for character in text if character != " "] for text in texts]
    while sum(map(len, parts)) > length - 1 - len(parts):
        max(reversed(parts), key=len).pop()
    return [pieces.index(piece) for piece in ["[CLS]", *(piece for part in parts for piece in (*part, "[SEP]"))]]


@pytest.mark.parametrize("name", ["AFQMC", "TNEWS", "CSL"])
def test_converted_files_as_arrays(name, converted, tmp_path):
    """Of TNEWS the sentence alone, of CSL the keywords before the abstract; Chinese without spaces."""
    folder, task = converted(name), get_task(name)
    sequences = encode_file(task, folder / "train.tsv", load_tokenizer(tmp_path / "student"), 9)
    assert sequences.labels.tolist() == [number % 3 % task.num_labels for number in range(ROWS)]
    for number in range(ROWS):
        ids = sequences.tokens[sequences.offsets[number]:sequences.offsets[number + 1]].tolist()
        assert ids == naive_ids(PIECES, texts_of(task, number), 9)


def naive_logits(model, texts: list[str]) -> np.ndarray:
    ids = torch.tensor([naive_ids(PIECES, texts, 24)])
    segments = torch.zeros_like(ids)
    segments[:, len(texts[0]) + 2:] = 1
    with torch.no_grad():
        return model(ids, segments, torch.ones_like(ids))[0][0].numpy()


def arguments(tmp_path: Path, name: str, *, output_dir: str, student_model: str, **changes) -> list:
    return command_line({"data_dir": tmp_path / "g" / name, "task_name": name, "output_dir": tmp_path / output_dir,
                         "student_model": tmp_path / student_model, "max_seq_length": 24, "do_lower_case": True,
                         "no_cuda": True} | changes)


@pytest.mark.parametrize("name, stage", [("IFLYTEK", {}), ("AFQMC", {"pred_distill": True})])
def test_one_step_of_distillation(name, stage, converted, tmp_path, script):
    converted(name)
    student = "student" if stage else "general"
    run(script, "task_distill", arguments(
        tmp_path, name, output_dir="out", student_model=student, teacher_model=tmp_path / "teacher", eval_step=1,
        train_batch_size=ROWS, num_train_epochs=1, skip_teacher_check=True, **stage))
    record = read_json(tmp_path / "out" / "run.json")
    assert record["finished"] and record["task"] == name and (not stage or 0 <= record["kept"]["acc"] <= 1)


def test_teacher_takes_the_tasks_own_settings(converted, tmp_path, script):
    converted("CSL")
    run(script, "finetune_teacher", command_line({
        "tasks": "csl", "glue_dir": tmp_path / "g", "models_dir": tmp_path, "model": tmp_path / "teacher",
        "max_seq_length": 24, "num_train_epochs": 1, "no_cuda": True}))
    settings = read_json(tmp_path / "final_csl_teacher" / "run.json")["settings"]
    assert (settings["learning_rate"], settings["train_batch_size"]) == (1e-5, 8)


@pytest.mark.parametrize("name, files", [
    ("AFQMC", {"afqmc_predict.json": "test.tsv"}), ("TNEWS", {"tnews10_predict.json": "test.tsv"}),
    ("CMNLI", {"cmnli_predict.json": "test.tsv", "diagnostics_predict.json": "diagnostics.tsv"}),
    ("OCNLI", {"ocnli_50k_predict.json": "test.tsv"})])
def test_predictions_for_clues_server(name, files, converted, tmp_path, script):
    """A line of JSON for each row of the test set, with its id; answers against the model, one row at a time."""
    folder, task = converted(name), get_task(name)
    model = TinyBertForSequenceClassification.from_pretrained(tmp_path / "student", num_labels=task.num_labels).eval()
    mean = np.mean([naive_logits(model, texts_of(task, number)) for number in range(ROWS)], axis=0)
    model.classifier.bias.data -= torch.from_numpy(mean)  # so that answers differ
    save_model(model, tmp_path / "student", tmp_path / "vocab.txt")
    out = run(script, "task_distill", arguments(tmp_path, name, output_dir="results", student_model="student",
                                                do_predict=True))
    assert names(tmp_path / "results") == sorted(files)
    said = set()
    for file, table in files.items():
        found = [json.loads(line) for line in (tmp_path / "results" / file).read_text().splitlines()]
        rows = [line.split("\t") for line in (folder / table).read_text(encoding="utf-8").splitlines()[1:]]
        assert [list(row) for row in found] == [["id", "label"]] * ROWS
        assert [row["id"] for row in found] == [int(cells[0]) for cells in rows] == (
            [100 - n for n in range(ROWS)] if table == "test.tsv" else [5 * n for n in range(ROWS)])
        for row, cells in zip(found, rows):
            logits = naive_logits(model, [cells[column] for column in task.text_columns])
            assert row["label"] == task.labels[int(np.argmax(logits))]
            said.add(row["label"])
        assert f"{file}: {ROWS} predictions; the CLUE server wants " in out
    assert len(said) > 1


def test_the_zip_for_glues_server_has_nothing_of_clue(tmp_path, script):
    write_lines(tmp_path / "results" / "afqmc_predict.json", ['{"id": 0, "label": "0"}'])
    write_lines(tmp_path / "results" / "WNLI.tsv", ["index\tprediction", "0\t1"])
    out = run(script, "transformer.tasks.submission", [
        "--results", tmp_path / "results", "--output", tmp_path / "x.zip", "--any_rows"])
    assert "1 files of predictions, 10 in the sample's form" in out and "afqmc" not in out


def test_a_test_set_with_labels_is_scored_and_chooses_nothing(site, tmp_path, script, refused):
    folder = get(tmp_path, "--tasks", "chnsenticorp") / "ChnSentiCorp"
    for file, labels in (("dev.tsv", "0110"), ("test.tsv", "01101")):
        write_lines(folder / file, ["label\ttext_a", *(f"{label}\t{phrase(n)}" for n, label in enumerate(labels))])
    task, config = get_task("ChnSentiCorp"), BertConfig(**(STUDENT | SIZES))
    name_labels(config.extra, task)
    torch.manual_seed(0)
    save_model(TinyBertForSequenceClassification(config, 2), tmp_path / "student",
               write_lines(tmp_path / "vocab.txt", PIECES))
    score = arguments(tmp_path, "ChnSentiCorp", output_dir="results", student_model="student")
    run(script, "task_distill", [*score, "--do_eval", "--save_predictions"])
    record = read_json(tmp_path / "student" / "eval_results.json")
    assert record["counts"] == {"dev": 4, "test": 5} and list(record["values"]) == ["acc", "acc_test"]
    for name, metric in (("dev", "acc"), ("test", "acc_test")):
        table = (tmp_path / "student" / f"eval_predictions_{name}.tsv").read_text().splitlines()[1:]
        right = [label == answer for _, label, answer, *_ in (line.split("\t") for line in table)]
        assert record["values"][metric] == pytest.approx(sum(right) / len(right))
    refused("task_distill", *score, "--do_predict",
            words=("--do_predict is for test sets without labels, and that of ChnSentiCorp has them: --do_eval",))
