"""The nine GLUE tasks as one table."""
from __future__ import annotations

from transformer.tasks.head import Classes, Score
from transformer.tasks.task import Submission, Task

DIAGNOSTIC = "diagnostic"  # folder of the AX set beside the tasks' folders: a test set for models of MNLI


_MNLI = ("index,promptID,pairID,genre,sentence1_binary_parse,sentence2_binary_parse,sentence1_parse,sentence2_parse,"
         "sentence1,sentence2")
_STSB = "index,genre,filename,year,old_index,source1,source2,sentence1,sentence2"
_PAIR = "index,sentence1,sentence2"

_BINARY = Classes(("0", "1"))
_ENTAILMENT = Classes(("entailment", "not_entailment"))

GLUE = {task.key: task for task in (
    Task("CoLA", (3,), 1, Classes(("0", "1"), metric="mcc"), (Submission("CoLA", 1063, (1,), "index,sentence"),),
         (8551, 1043), "source,label,mark,sentence", has_header=False, intermediate_epochs=50, max_seq_length=64),
    Task("SST-2", (0,), 1, _BINARY, (Submission("SST-2", 1821, (1,), "index,sentence"),), (67349, 872),
         "sentence,label", max_seq_length=64, augment_copies_in_code=20),
    Task("MRPC", (3, 4), 0, Classes(("0", "1"), has_f1=True),
         (Submission("MRPC", 1725, (3, 4), "index,#1 ID,#2 ID,#1 String,#2 String"),), (3668, 408),
         "Quality,#1 ID,#2 ID,#1 String,#2 String"),
    Task("STS-B", (7, 8), -1, Score(), (Submission("STS-B", 1379, (7, 8), _STSB),), (5749, 1500),
         f"{_STSB},score"),
    Task("QQP", (3, 4), 5, Classes(("0", "1"), has_f1=True),
         (Submission("QQP", 390965, (1, 2), "id,question1,question2"),), (363846, 40430),
         "id,qid1,qid2,question1,question2,is_duplicate", intermediate_epochs=10, augment_copies_in_code=10),
    Task("MNLI", (8, 9), -1, Classes(("contradiction", "entailment", "neutral")),
         (Submission("MNLI-m", 9796, (8, 9), _MNLI, "test_matched.tsv"),
          Submission("MNLI-mm", 9847, (8, 9), _MNLI, "test_mismatched.tsv"),
          Submission("AX", 1104, (1, 2), _PAIR, f"../{DIAGNOSTIC}/diagnostic.tsv")), (392702, 9815, 9832),
         f"{_MNLI},label1,gold_label", f"{_MNLI},label1,label2,label3,label4,label5,gold_label",
         dev_files=("dev_matched.tsv", "dev_mismatched.tsv"), intermediate_epochs=10, augment_copies_in_code=10),
    Task("QNLI", (1, 2), -1, _ENTAILMENT,
         (Submission("QNLI", 5463, (1, 2), "index,question,sentence"),), (104743, 5463),
         "index,question,sentence,label", intermediate_epochs=10, augment_copies_in_code=20),
    Task("RTE", (1, 2), -1, _ENTAILMENT, (Submission("RTE", 3000, (1, 2), _PAIR),),
         (2490, 277), f"{_PAIR},label"),
    Task("WNLI", (1, 2), -1, _BINARY, (Submission("WNLI", 146, (1, 2), _PAIR),), (635, 71),
         f"{_PAIR},label", augment_copies_in_code=None, beats_chance=False),
)}
