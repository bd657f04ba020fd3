"""The GLUE tasks of the embedded world as files: the official archives, columns, headers and file names."""
from __future__ import annotations

import random
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .glue_examples import EXAMPLES, Example, examples

_PARSES = "sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse"
TRAIN_COLUMNS = {
    "CoLA": "source label mark sentence",  # written without a header
    "SST-2": "sentence label",
    "MRPC": "Quality #1_ID #2_ID #1_String #2_String",
    "STS-B": "index genre filename year old_index source1 source2 sentence1 sentence2 score",
    "QQP": "id qid1 qid2 question1 question2 is_duplicate",
    "MNLI": f"index promptID pairID genre {_PARSES} sentence1 sentence2 label1 gold_label",
    "QNLI": "index question sentence label",
    "RTE": "index sentence1 sentence2 label",
    "WNLI": "index sentence1 sentence2 label",
}
DEV_COLUMNS = {"MNLI": TRAIN_COLUMNS["MNLI"].replace("label1", "label1 label2 label3 label4 label5")}
TEST_COLUMNS = {"CoLA": "index sentence", "SST-2": "index sentence", "QQP": "id question1 question2"}
TEXTS = {"sentence", "sentence1", "sentence2", "question", "question1", "question2", "#1_String", "#2_String"}
LABELS = {"label", "score", "is_duplicate", "gold_label", "Quality", *(f"label{n}" for n in range(1, 6))}
ARCHIVES = {"QQP": "QQP-clean.zip", "QNLI": "QNLIv2.zip"}  # the others are TASK.zip

TRAIN_FACTORS = {"STS-B": 3.0, "CoLA": 1.2}  # grades and word order take longer to learn than the rest


@dataclass(frozen=True)
class Counts:
    """Rows of train, and of every dev and test file; TRAIN_FACTORS makes the first larger for some tasks."""
    train: int
    dev: int
    test: int


def lines(columns: str, rows: Sequence[Example], header: bool = True) -> list[str]:
    """Tab-separated lines of `rows` under these columns: texts and labels in their places, numbers in the others."""
    names = columns.split()
    written = ["\t".join(names).replace("_ID", " ID").replace("_String", " String")] if header else []
    for index, (texts, label) in enumerate(rows):
        remaining = iter(texts)
        cells = []
        for name in names:
            if name in TEXTS:
                cells.append(next(remaining))
            elif name in LABELS:
                cells.append(label)
            elif name == "mark":
                cells.append("" if label == "1" else "*")
            elif name.endswith("_ID"):
                cells.append(str(2 * index + int(name[1])))
            else:
                cells.append(str(index) if name in ("index", "id") else f"{name}{index}")
        written.append("\t".join(cells))
    return written


def task_files(task: str, rng: random.Random, counts: Counts) -> dict[str, list[str]]:
    """Lines of every file of a task but MRPC, by file name."""
    suffixes = ("_matched", "_mismatched") if task == "MNLI" else ("",)
    train_rows = int(counts.train * TRAIN_FACTORS.get(task, 1))
    rows = examples(task, rng, train_rows + len(suffixes) * (counts.dev + counts.test))
    train = TRAIN_COLUMNS[task]
    test = TEST_COLUMNS.get(task) or " ".join(name for name in train.split() if name not in LABELS)
    files = {"train.tsv": lines(train, rows[:train_rows], header=task != "CoLA")}
    rest = rows[train_rows:]
    for suffix in suffixes:
        files[f"dev{suffix}.tsv"] = lines(DEV_COLUMNS.get(task, train), rest[:counts.dev], header=task != "CoLA")
        files[f"test{suffix}.tsv"] = lines(test, rest[counts.dev:counts.dev + counts.test])
        rest = rest[counts.dev + counts.test:]
    return files


def write_archive(path: Path, files: dict[str, str]) -> None:
    """A zip file whose bytes depend on its contents only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text.encode(), zipfile.ZIP_DEFLATED)


def write_mrpc(glue: Path, senteval: Path, rng: random.Random, counts: Counts) -> None:
    """The two source texts (byte-order mark, CRLF) and the ids of those training pairs that make the dev set."""
    rows = examples("MRPC", rng, counts.train + counts.dev + counts.test)
    cut = counts.train + counts.dev
    senteval.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", rows[:cut]), ("test", rows[cut:])):
        text = "".join(f"{line}\r\n" for line in lines(TRAIN_COLUMNS["MRPC"], part))
        (senteval / f"msr_paraphrase_{name}.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    dev = sorted(rng.sample(range(cut), counts.dev))
    (glue / "mrpc_dev_ids.tsv").write_text("".join(f"{2 * row + 1}\t{2 * row + 2}\n" for row in dev), newline="\n")


def write_glue(folder: Path, seed: int, counts: Counts) -> None:
    """All nine tasks and the diagnostic set under `folder`, in the paths of the official hosts."""
    glue = folder / "glue" / "data"
    for task in EXAMPLES:
        rng = random.Random(f"{seed} {task}")
        if task == "MRPC":
            write_mrpc(glue, folder / "senteval" / "senteval_data", rng, counts)
            continue
        files = {f"{task}/{name}": "".join(f"{line}\n" for line in part)
                 for name, part in task_files(task, rng, counts).items()}
        write_archive(glue / ARCHIVES.get(task, f"{task}.zip"), files)
    diagnostic = lines("index sentence1 sentence2", examples("MNLI", random.Random(f"{seed} AX"), counts.test))
    (glue / "AX.tsv").write_text("".join(f"{line}\n" for line in diagnostic), newline="\n")
