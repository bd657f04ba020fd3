"""Chinese from the dump to the files for CLUE's server: reproduce.sh in the embedded world's Chinese part, looked at
step by step; and what kill -9 leaves in the middle of steps, gone on with to the same bytes."""
from __future__ import annotations

import json
import multiprocessing
import os
import pkgutil
import random
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from tests.conftest import ROOT, contents, names
from tests.miniworld import chinese, chinese_bert
from tests.miniworld.chinese import COUNTS, MEN, NOUNS, TOPICS, TRADITIONAL, UNDECIDED, VERBS
from tests.training.test_resume import SPEEDS
from transformer.augmentation.candidates import STOP_CHARACTERS
from transformer.cli import run_script
from transformer.data import arrays
from transformer.tasks.table import get_task

AUGMENTED = ("TNEWS", "OCNLI", "AFQMC", "CSL")
CHARACTER = "[\u4e00-\u9fff]"
SETUP = f'set -euo pipefail\nsource "{ROOT}/tests/miniworld/setup.sh"\n'
REPRODUCE = f'bash "$kit/reproduce.sh" --language chinese --tasks {",".join(COUNTS)} --students 4l\n'


def bash(script: str, *argv: object, path: Path | str = Path(sys.executable).parent, **options) -> str:
    done = subprocess.run(["bash", "-c", script, "bash", *map(str, argv)], capture_output=True, text=True,
                          env=os.environ | {"PATH": f"{path}{os.pathsep}{os.environ['PATH']}"}, **options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> Path:
    """The folder in which reproduce.sh has run, once."""
    folder = tmp_path_factory.mktemp("chinese") / "run"
    bash(SETUP + f'enter "$1" chinese\npreload\n{REPRODUCE}', folder)
    return folder


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> dict[str, dict[str, list[dict]]]:
    """Of each task, its rows by the names of their files, as they stand in the archives."""
    folder = tmp_path_factory.mktemp("archives")
    chinese.write_tasks(folder, chinese_bert.SEED)
    found = {}
    for name in COUNTS:
        path, = folder.glob("ocnli/*.zip" if name == "OCNLI" else f"clue/{name.lower()}_public.zip")
        with zipfile.ZipFile(path) as source:
            files = {file: source.read(file).decode().splitlines() for file in source.namelist()}
        found[name] = {Path(file).name.split(".")[0]: list(map(json.loads, lines)) for file, lines in files.items()
                       if re.search(r"(train|train.50k|dev|test)\.json$", file)}
    return found


def table(path: Path) -> list[list[str]]:
    """Rows of a tab-separated file below its header."""
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    assert lines and {line.count("\t") for line in lines} == {header.count("\t")}
    return [line.split("\t") for line in lines]


def written_articles() -> list[chinese.Article]:
    return list(chinese.articles(random.Random(chinese_bert.SEED), chinese_bert.ARTICLES))


# --- what the world holds

def test_the_seed_decides_everything(tmp_path, archives):
    """In a process of its own, so that no order of a set leaks in."""
    code = ("import random, sys; from pathlib import Path\nfrom tests.miniworld import chinese\n"
            "folder, rng = Path(sys.argv[1]), random.Random(7)\n"
            "chinese.write_dump(folder / 'wiki.xml.bz2', rng, list(chinese.articles(rng, 9)))\n"
            "chinese.write_tasks(folder, 7)")
    for hash_seed in "12":
        subprocess.run([sys.executable, "-c", code, tmp_path / hash_seed], check=True, env=os.environ | {
            "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)})
    assert len(contents(tmp_path / "1")) == 6 and contents(tmp_path / "1") == contents(tmp_path / "2")


def test_labels_follow_from_the_texts(archives):
    """By rules of the test's own; and no file has one label alone."""
    topics = {noun: topic for topic, (_, nouns) in TOPICS.items() for noun in nouns.split()}
    for name, files in archives.items():
        for part in ("train", "dev"):
            labels = Counter(row["label"] for row in files[part])
            assert sum(labels.values()) == getattr(COUNTS[name], part)
            assert max(labels.values()) < 0.7 * sum(labels.values()), (name, part, labels)
    for row in archives["TNEWS"]["train"]:
        assert {topics[noun] for noun in re.findall("|".join(NOUNS), row["sentence"])} == {row["label"]}
    for row in archives["AFQMC"]["train"]:
        asked = (re.search(r"(?:怎么|如何)(.{2})“?(.{2})", row[text]) for text in ("sentence1", "sentence2"))
        assert row["label"] == str(int(len({match.groups() for match in asked}) == 1))
    for row in archives["OCNLI"]["train"]:
        told = row["sentence2"]
        said = "neutral" if "可能" in told else "entailment" if "有人" in told else "contradiction"
        assert row["label"] in (said, "-")
        assert any(verb in row["sentence1"] for verb in VERBS)
    for row in archives["CSL"]["train"]:
        assert row["label"] == str(int(all(word in row["abst"] for word in row["keyword"])))
    for row in archives["CLUEWSC2020"]["train"]:
        name, pronoun = row["target"]["span1_text"], row["target"]["span2_text"]
        assert row["label"] == ("true" if (name in MEN) == (pronoun == "他") else "false")
    assert all("label" not in row for files in archives.values() for row in files["test"])


# --- what the steps made

def test_every_step_ran_and_a_second_start_has_nothing_to_do(chain):
    steps = bash(SETUP + REPRODUCE.strip() + " --list", cwd=chain).split()
    assert len(steps) == 5 * 5 + 4 + 7 and "glove" not in steps and "augment_cluewsc2020" not in steps
    for name in steps:
        log = (chain / "results/steps" / f"{name}.log").read_text(encoding="utf-8")
        assert "capitalised words become [UNK]" not in log, name  # the hub's file says cased, which is corrected
        assert (log or name == "wiki") and "Traceback" not in log, name
    assert json.loads((chain / "models/bert-base-chinese/tokenizer_config.json").read_text())["do_lower_case"] is True
    assert bash(SETUP + REPRODUCE, cwd=chain).count("skipped") == len(steps)


def test_the_articles_come_out_of_the_dump_whole(chain):
    """Nothing lost but markup: of words in two regions the simplified one stands there."""
    text = (chain / "data/wiki_for_bert.txt").read_text(encoding="utf-8")
    documents = ["".join(document.split("\n")) for document in text.split("\n\n")]
    wanted = ["条目：{}其他.{}".format(*map("".join, article.paragraphs)) for article in written_articles()]
    assert documents == wanted
    assert not set("".join(TRADITIONAL.values())) - set("".join(TRADITIONAL)) & set(text)
    lines = text.split()
    assert 5 < np.mean([len(line) for line in lines]) < 21
    assert not any(re.match("[，。！？；：”》）]", line) for line in lines)


def test_the_characters_of_the_corpus_come_into_instances(chain):
    """At least 95% of them, counted by another library's tokenizer; none is lost for its capitals."""
    hub = transformers.BertTokenizerFast(str(chain / "models/bert-base-chinese/vocab.txt"), do_lower_case=True)
    text = "\n".join(sentence for article in written_articles() for part in article.paragraphs for sentence in part)
    pieces = hub.tokenize(text)
    unknown = sum(text.count(mark) for mark in chinese_bert.WITHOUT_PIECE)
    assert 0 < pieces.count("[UNK]") == unknown < 0.05 * len(pieces) and {"wifi", "##3"} <= set(pieces)
    corpus = np.fromfile(chain / "data/json_wiki/tokenized_corpus/tokens", np.uint16)
    lines = (chain / "data/wiki_for_bert.txt").read_text(encoding="utf-8")
    assert corpus.tolist() == hub.convert_tokens_to_ids(hub.tokenize(lines))
    for epoch in range(3):
        metrics = json.loads((chain / f"data/json_wiki/epoch_{epoch}_metrics.json").read_text())
        assert metrics["wordpieces_used"] >= 0.95 * len(pieces)
        assert metrics["num_training_examples"] > chinese_bert.ARTICLES


def test_tables_have_the_rows_of_the_archives(chain, archives):
    for name, files in archives.items():
        for part, wanted in files.items():
            wanted = [row for row in wanted if row.get("label") != "-"]
            assert len(wanted) == getattr(COUNTS[name], part) - UNDECIDED * (name == "OCNLI" and part != "test")
            found = table(chain / f"data/glue_data/{name}/{part}.tsv")
            assert [row[0] for row in found] == [str(row["id" if part == "test" else "label"]) for row in wanted]
            for row, (_, *texts) in zip(wanted, found):
                if name == "CSL":
                    assert texts == [" ".join(row["keyword"]), row["abst"].replace("\t", " ")]
                elif name == "CLUEWSC2020":
                    marks = {span: row["target"][f"span{span}_text"] for span in (1, 2)}
                    assert f"_{marks[1]}_" in texts[0] and f"[{marks[2]}]" in texts[0]
                    assert re.sub(r"[][_]", "", texts[0]) == row["text"]
                else:
                    assert texts == [row[key] for key in ("sentence", "sentence1", "sentence2", "keywords")
                                     if key in row]


def words(text: str) -> list[str]:
    return re.findall(rf"{CHARACTER}|[A-Za-z0-9]+|\[UNK\]|[^\s\w]", text)


@pytest.mark.parametrize("name", AUGMENTED)
def test_augmented_rows_differ_in_characters_alone(name, chain):
    """Each original row stands there, followed by its variants: of the same label and of as many words, of which some
    characters are other characters; no space between characters, but in a text that stays as it is."""
    folder = chain / "data/glue_data" / name
    originals, rows = iter(table(folder / "train.tsv")), table(folder / "train_aug.tsv")
    texts = get_task(name).text_columns
    original, following, changed = None, next(originals), Counter()
    for row in rows:
        if row == following:
            original, following = row, next(originals, None)
            continue
        assert row[0] == original[0]
        for column in range(1, len(row)):
            if column not in texts or row[column] == original[column]:
                assert row[column] == original[column]
                continue
            assert not re.search(f"{CHARACTER} {CHARACTER}", row[column]), row[column]
            old, new = words(original[column]), words(row[column])
            assert len(old) == len(new)
            for before, after in zip(old, new):
                if before != after:
                    is_character = bool(re.fullmatch(CHARACTER, before))
                    assert is_character or before.isascii() and before.isalpha(), (before, after)
                    assert re.fullmatch(CHARACTER, after) or not is_character, (before, after)
                    assert before not in STOP_CHARACTERS
                    changed[is_character] += 1
    assert following is None and len(rows) > 1.8 * COUNTS[name].train
    assert changed[True] > 0.5 * COUNTS[name].train


def test_students_have_their_teachers_vocabulary(chain):
    vocabulary = (chain / "models/bert-base-chinese/vocab.txt").read_bytes()
    size = len(vocabulary.decode().split())
    folders = names(chain / "models")
    assert len(folders) == 2 + 3 * len(COUNTS)
    for folder in folders:
        assert (chain / "models" / folder / "vocab.txt").read_bytes() == vocabulary
        assert json.loads((chain / "models" / folder / "config.json").read_text())["vocab_size"] == size
    assert json.loads((ROOT / "tests/miniworld/tinybert_4l_config/config.json").read_text())["vocab_size"] != size


def test_the_student_learns_what_follows_from_the_texts(chain):
    """A third of OCNLI's labels is right by chance."""
    log = (chain / "results/4l_ocnli/eval_results.txt").read_text()
    assert float(re.search(r"^acc = (\S+)", log, re.M)[1]) > 0.65


def test_answers_are_for_the_rows_of_the_test_set(chain, archives):
    files = {"TNEWS": "tnews10", "OCNLI": "ocnli_50k", "AFQMC": "afqmc", "CSL": "csl", "CLUEWSC2020": "cluewsc10"}
    for name, file in files.items():
        path = chain / f"results/4l_{name.lower()}" / f"{file}_predict.json"
        answers = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert [answer["id"] for answer in answers] == [row["id"] for row in archives[name]["test"]]
        assert all(answer.keys() == {"id", "label"} for answer in answers)
        assert {answer["label"] for answer in answers} <= set(get_task(name).labels)


# --- kill -9

def kill_at(owner: str, name: str, call: int) -> None:
    """Let a function end the process in its call number `call`, and save all that is to be saved before."""
    place = pkgutil.resolve_name(owner)
    original, before = getattr(place, name), iter(range(call - 1))
    setattr(place, name, lambda *args, **values: original(*args, **values) if next(before, None) is not None
            else os.kill(os.getpid(), signal.SIGKILL))
    arrays._SECONDS_BETWEEN_BLOCKS = 0


def child(folder: Path, command: list[str], kill: tuple | None) -> None:
    """A script in this process, its output into a log."""
    os.chdir(folder)
    log = os.open("killed.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    if kill:
        kill_at(*kill)
    name, sys.argv = Path(command[0]).stem, command
    sys.exit(run_script(lambda: __import__(name).main(command[1:])))


@pytest.fixture(scope="module")
def commands(chain, tmp_path_factory) -> list[list[str]]:
    """What reproduce.sh ran in the chain, as it calls a stand-in for python."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "python").write_text('#!/bin/sh\nprintf "%s\\001" "$@" >>calls\nprintf "\\0" >>calls\n')
    (folder / "python").chmod(0o755)
    bash(SETUP + f"set_sizes_chinese\n{REPRODUCE}", cwd=folder, path=folder)
    return [call.split("\1")[:-1] for call in (folder / "calls").read_text().split("\0") if call and "\n" not in call]


# The words of a step's command; its output; and where kill -9 comes, one time after the other, each with how much the
# step has then saved for the next.
LM, ADAM = "transformer.augmentation.candidates:MaskedLM", "transformer.optimization:BertAdam"
STEPS = {
    "sentences": (("prepare_data.py",), "data/wiki_for_bert.txt",
                  [("transformer.data.chinese", "chinese_lines", 20, 0)]),
    "augment": (("data_augmentation.py", "OCNLI"), "data/glue_data/OCNLI/train_aug.tsv",
                [(LM, "best", 3, 2), (LM, "best", 2, 3), ("transformer.augmentation.rows", "augment_row", 150, 24)]),
    "intermediate": (("task_distill.py", "models/tmp_distilled_tinybert_4l_ocnli"),
                     "models/tmp_distilled_tinybert_4l_ocnli", [(ADAM, "step", 5, 4), (ADAM, "step", 6, 8)])}
MORE_FLAGS = {"sentences": ("--num_workers", "1"), "augment": ("--resume",),
              "intermediate": ("--resume", "--save_steps", "2")}


def saved(output: Path) -> int:
    """Forward passes of an augmentation that was stopped, optimizer steps of a training; 0 of a step that saves none.
    """
    if (done := output.parent / "train_aug.unfinished/done").is_file():
        return int(np.fromfile(done, np.uint8).sum())
    return max((int(path.stem.removeprefix("state_")) for path in output.glob("state_*.pt")), default=0)


def result(path: Path) -> dict[str, object]:
    """The bytes of a file, or of all in a folder, less what tells of time and of the run's own settings."""
    if path.is_file():
        return {path.name: path.read_bytes()}
    files: dict[str, object] = {name: content for name, content in contents(path).items() if name != "run.json"}
    metrics = [json.loads(line) for line in files.pop("metrics.jsonl").splitlines()]
    return files | {"metrics": [{key: line[key] for key in line.keys() - SPEEDS} for line in metrics]}


@pytest.mark.parametrize("step", STEPS)
def test_a_killed_step_goes_on_to_the_same_bytes(step, chain, commands):
    wanted, path, kills = STEPS[step]
    command, = (command for command in commands if {*wanted} <= {Path(command[0]).name, *command}
                and "--pred_distill" not in command)
    output = chain / path
    whole = result(output)
    shutil.rmtree(output) if output.is_dir() else output.unlink()
    context = multiprocessing.get_context("forkserver")  # no torch thread before the fork
    context.set_forkserver_preload([__name__, "torch._dynamo"])
    for kill in [*kills, None]:
        process = context.Process(target=child, args=(chain, [*command, *MORE_FLAGS[step]], kill and kill[:3]))
        process.start()
        process.join(120)
        assert process.exitcode == (-signal.SIGKILL if kill else 0), (chain / "killed.log").read_text("utf-8")
        assert not kill or not output.is_file() and saved(output) == kill[3]
    assert result(output) == whole
