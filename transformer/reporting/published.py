"""Published numbers to compare with, scores in percent, dev and test apart: a row for each line of the tables, and how
the report shows them.
"""
from __future__ import annotations

from dataclasses import dataclass

from transformer.reporting.pages import Block, Heading, Table, Text


@dataclass(frozen=True)
class Published:
    """A line of a published table. `split`: the set that was scored, dev or test; `scores`: percent by column."""
    source: str
    split: str
    model: str
    variant: str
    scores: dict[str, float]


PAPER = "TinyBERT paper"
REPRODUCTION = "earlier public reproduction"
SMALLER, FASTER = 7.5, 9.4  # times, TinyBERT4 against BERT-base in the paper (one K80)

_TEST = "MNLI-m MNLI-mm QQP QNLI SST-2 CoLA STS-B MRPC RTE average".split()  # the server's metric of each task
_DEV = ("CoLA", "MNLI-m", "MNLI-mm", "MRPC F1", "MRPC accuracy", "QNLI", "QQP F1", "QQP accuracy", "RTE", "SST-2",
        "STS-B Pearson", "STS-B Spearman")
_FOUR = "RTE SST-2 CoLA MRPC".split()
_ABLATION = "MNLI-m MNLI-mm MRPC CoLA average".split()

ROWS = [Published(source, split, model, variant, dict(zip(columns, scores))) for source, split, model, variant, columns,
        scores in (
    (PAPER, "test", "BERT-base (teacher)", "full", _TEST, (83.9, 83.4, 71.1, 90.9, 93.4, 52.8, 85.2, 87.5, 67.0, 79.5)),
    (PAPER, "test", "TinyBERT4", "full", _TEST, (82.5, 81.8, 71.3, 87.7, 92.6, 44.1, 80.4, 86.4, 66.6, 77.0)),
    (PAPER, "test", "TinyBERT6", "full", _TEST, (84.6, 83.2, 71.6, 90.4, 93.1, 51.1, 83.7, 87.3, 70.0, 79.4)),
    (PAPER, "dev", "TinyBERT6", "full", _DEV, (54.0, 84.5, 84.5, 90.6, 86.3, 91.1, 88.0, 91.1, 73.4, 93.0, 90.1, 89.6)),
    (REPRODUCTION, "dev", "TinyBERT4", "full", _FOUR, (58.6, 91.8, 37.2, 85.7)),
    (REPRODUCTION, "dev", "TinyBERT6", "full", _FOUR, (69.0, 92.3, 54.3, 88.8)),
    (PAPER, "dev", "TinyBERT4", "full", _ABLATION, (82.8, 82.9, 85.8, 50.8, 75.6)),
    (PAPER, "dev", "TinyBERT4", "no_gd", _ABLATION, (82.5, 82.6, 84.1, 40.8, 72.5)),
    (PAPER, "dev", "TinyBERT4", "no_td", _ABLATION, (80.6, 81.2, 83.8, 28.5, 68.5)),
    (PAPER, "dev", "TinyBERT4", "no_da", _ABLATION, (80.5, 81.0, 82.4, 29.8, 68.4)),
    (PAPER, "dev", "TinyBERT4", "no_embd", _ABLATION, (82.3, 82.3, 85.0, 46.7, 74.1)),
    (PAPER, "dev", "TinyBERT4", "no_pred", _ABLATION, (80.5, 81.0, 84.3, 48.2, 73.5)),
    (PAPER, "dev", "TinyBERT4", "no_trm", _ABLATION, (71.7, 72.3, 70.1, 11.2, 56.3)),
    (PAPER, "dev", "TinyBERT4", "no_attn", _ABLATION, (79.9, 80.7, 82.3, 41.1, 71.0)),
    (PAPER, "dev", "TinyBERT4", "no_hidn", _ABLATION, (81.7, 82.1, 84.1, 43.7, 72.9)),
    (PAPER, "dev", "TinyBERT4", "map_top", _ABLATION, (81.7, 82.3, 83.6, 35.9, 70.9)),
    (PAPER, "dev", "TinyBERT4", "map_bottom", _ABLATION, (80.6, 81.3, 84.6, 38.5, 71.3)),
)]

# The lines of the ablation table; the other rows are those of tables of whole tasks.
ABLATIONS = {row.variant: row for row in ROWS if list(row.scores) == _ABLATION}


_TABLE_6 = ("v1.1 EM", "v1.1 F1", "v2.0 EM", "v2.0 F1")
# Of MiniLM, whose 4 layers are wider than TinyBERT4's, F1 of v2.0 alone is told.
SQUAD_ROWS = [Published(PAPER, "dev", model, "full", dict(zip(_TABLE_6[-len(scores):], scores))) for model, scores in (
    ("BERT-base (teacher)", (80.7, 88.4, 74.5, 77.7)),
    ("BERT4-PKD", (70.1, 79.5, 60.8, 64.6)),
    ("DistilBERT4", (71.8, 81.2, 60.6, 64.1)),
    ("MiniLM4", (69.7,)),
    ("TinyBERT4", (72.7, 82.1, 68.2, 71.8)),
    ("BERT6-PKD", (77.1, 85.3, 66.3, 69.8)),
    ("DistilBERT6", (78.1, 86.2, 66.0, 69.5)),
    ("MiniLM6", (76.4,)),
    ("TinyBERT6", (79.7, 87.5, 74.7, 77.7)),
)]  # table 6

CHINESE_BERT, CHINESE_TINYBERT4, CHINESE_TINYBERT6 = "BERT-base-chinese", "TinyBERT_4L_zh", "TinyBERT_6L_zh"
_PADDLE = "PaddleNLP's README"
_SEVEN = "AFQMC TNEWS IFLYTEK CMNLI OCNLI CLUEWSC2020 CSL".split()
_WITHOUT_OCNLI = [name for name in _SEVEN if name != "OCNLI"]
_OTHERS = "ChnSentiCorp XNLI-zh".split()
# Of accuracies on the dev sets. The best and the mean of HFL's are over several runs of one setting.
CHINESE_ROWS = [Published(source, "dev", model, "full", dict(zip(columns, scores)))
                for source, model, columns, scores in (
    (_PADDLE, CHINESE_BERT, _SEVEN, (74.63, 57.13, 61.29, 80.97, 75.22, 81.91, 81.90)),
    ("CLUE's README", CHINESE_BERT, _WITHOUT_OCNLI, (74.16, 56.09, 60.37, 79.47, 59.6, 79.63)),
    ("OCNLI's README", CHINESE_BERT, ["OCNLI"], (74.5,)),
    ("HFL, best", CHINESE_BERT, _OTHERS, (94.7, 77.8)),
    ("HFL, mean", CHINESE_BERT, _OTHERS, (94.3, 77.4)),
    (_PADDLE, CHINESE_TINYBERT6, _SEVEN, (72.22, 55.70, 54.48, 79.12, 74.07, 77.63, 80.17)),
    (_PADDLE, "RBT6 (6 layers of 768)", _SEVEN, (73.45, 56.82, 59.64, 79.36, 73.32, 76.64, 80.67)),
    (_PADDLE, "PP-MiniLM (6 layers of 768)", _SEVEN, (74.14, 57.43, 61.75, 81.01, 76.17, 86.18, 79.17)),
    (_PADDLE, CHINESE_TINYBERT4, _SEVEN, (69.07, 54.02, 39.71, 73.94, 69.59, 70.07, 75.07)),
    (_PADDLE, "ERNIE 3.0 Nano (4 layers of 312)", _SEVEN, (70.51, 54.57, 48.36, 74.97, 70.61, 68.75, 75.93)),
    (_PADDLE, "RBT3 (3 layers of 768)", _SEVEN, (70.95, 55.53, 59.18, 76.20, 70.71, 67.11, 76.63)),
    (_PADDLE, "RoBERTa-wwm-ext (12 layers)", _SEVEN, (74.60, 58.08, 61.23, 81.11, 76.92, 88.49, 80.77)),
    (_PADDLE, "RoBERTa-wwm-ext-large", _SEVEN, (76.00, 59.33, 62.02, 83.88, 78.81, 90.79, 83.67)),
)]


def published() -> list[Block]:
    """The tables of whole tasks, dev and test in sections of their own."""
    whole = [row for row in ROWS if row not in ABLATIONS.values()]
    blocks = [Heading("Published dev scores"), Text(
        "The numbers of this section and the next are not of these runs. The earlier public reproduction trained four "
        "tasks.")]
    for source in dict.fromkeys(row.source for row in whole if row.split == "dev"):
        blocks += [Text(f"{source[0].upper()}{source[1:]}, dev:"),
                   _table([row for row in whole if row.split == "dev" and row.source == source])]
    return [*blocks, Heading("Published test scores"), Text(
        f"{PAPER}, from the GLUE server. Test scores are never to be compared with dev scores."),
        _table([row for row in whole if row.split == "test"])]


def _table(rows: list[Published]) -> Table:
    """A line for each task, a column for each model; all rows have the same tasks."""
    return Table(["task", *(row.model for row in rows)], [
        [task, *(f"{row.scores[task]:.1f}" for row in rows)] for task in rows[0].scores], "l" + "r" * len(rows))


def ablation_table() -> Table:
    """A line for each variant (paper, tables 2 to 4), a column for each task."""
    return Table(["variant", *_ABLATION], [[variant, *(f"{score:.1f}" for score in row.scores.values())]
                                           for variant, row in ABLATIONS.items()], "l" + "r" * len(_ABLATION))
