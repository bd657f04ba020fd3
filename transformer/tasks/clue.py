"""The Chinese tasks as one table: seven of CLUE, ChnSentiCorp and XNLI-zh.

Their files are the kit's own, which transformer.tasks.clue_files makes of the published archives: a header, in the
first column the label (of a test set for CLUE's server: the id), then the texts. Teachers are fine-tuned as CLUE's
baselines were, those of ChnSentiCorp and XNLI as HFL's. Nobody published code that distils these: the code preset makes
the paper's 20 rows of one.
"""
from __future__ import annotations

from typing import Any

from transformer.tasks.head import Classes
from transformer.tasks.task import CLUE_SERVER, Submission, Task

_NO_OR_YES = ("0", "1")
_NLI = ("contradiction", "entailment", "neutral")
_TWO = "sentence1,sentence2"
# Headlines of news: 15 of the numbers from 100 to 116.
_NEWS = tuple(str(number) for number in range(100, 117) if number not in (105, 111))
_APPS = tuple(map(str, range(119)))


def _task(name: str, texts: str, labels: tuple[str, ...], rows: tuple[int, ...], answers: dict[str, int],
          text_columns: tuple[int, ...] = (), teacher_batch_size: int = 16, augment_copies_in_code: int | None = 20,
          diagnostics: tuple[Submission, ...] = (), **settings: Any) -> Task:
    """A task whose tables have a label, or an id, and these columns of `texts`, all of which are texts unless
    `text_columns` says otherwise. answers: rows of the test set by the name of the file that answers it."""
    text_columns = text_columns or tuple(range(1, texts.count(",") + 2))
    submissions = tuple(Submission(file, count, text_columns, f"id,{texts}", server=CLUE_SERVER)
                        for file, count in answers.items())
    return Task(name, text_columns, 0, Classes(labels), submissions + diagnostics, rows, f"label,{texts}",
                teacher_batch_size=teacher_batch_size, augment_copies_in_code=augment_copies_in_code, **settings)


CLUE = {task.key: task for task in (
    _task("AFQMC", _TWO, _NO_OR_YES, (34334, 4316), {"afqmc": 3861}),
    # CLUE's baseline reads the headline alone, and so does this.
    _task("TNEWS", "sentence,keywords", _NEWS, (53360, 10000), {"tnews10": 10000}, text_columns=(1,)),
    _task("IFLYTEK", "sentence", _APPS, (12133, 2599), {"iflytek": 2600}),
    _task("CMNLI", _TWO, _NLI, (391783, 12241), {"cmnli": 13880}, intermediate_epochs=10, teacher_learning_rate=3e-5,
          diagnostics=(Submission("diagnostics", 514, (1, 2), "id,premise,hypothesis", "diagnostics.tsv",
                                  CLUE_SERVER),)),
    _task("OCNLI", _TWO, _NLI, (50437, 2950), {"ocnli_50k": 3000}, teacher_epochs=2, teacher_learning_rate=3e-5),
    _task("CSL", "keywords,abstract", _NO_OR_YES, (20000, 3000), {"csl": 3000}, max_seq_length=256, teacher_epochs=5,
          teacher_learning_rate=1e-5, teacher_batch_size=8, teacher_max_seq_length=256),
    # Which noun a pronoun stands for hangs on single words: not augmented.
    _task("CLUEWSC2020", "text", ("true", "false"), (1244, 304), {"cluewsc10": 2574}, teacher_epochs=50,
          teacher_learning_rate=1e-5, augment_copies_in_code=None),
    # The test sets of these have labels: they are scored as a second dev set is, which chooses nothing.
    _task("ChnSentiCorp", "text_a", _NO_OR_YES, (9600, 1200, 1200), {}, dev_files=("dev.tsv", "test.tsv"),
          max_seq_length=256, teacher_batch_size=64, teacher_max_seq_length=256),
    _task("XNLI-zh", _TWO, _NLI, (392702, 2490, 5010), {}, dev_files=("dev.tsv", "test.tsv"),
          intermediate_epochs=10, teacher_epochs=2, teacher_learning_rate=3e-5, teacher_batch_size=64),
)}
