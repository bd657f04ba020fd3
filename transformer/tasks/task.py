"""What a task is: where its texts and labels stand, its labels, its score, the paper's settings."""
from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Submission:
    """One file NAME.tsv of a submission to the GLUE server, and the test set it answers: a header, no labels."""
    name: str
    rows: int                      # of the test set, as the server counts them
    text_columns: tuple[int, ...]
    header: str                    # of the test set, see Task
    file: str = "test.tsv"         # in the task's folder


@dataclass(frozen=True)
class Task:
    """One GLUE task: where its texts and labels stand in the TSV files, how it is scored, and the paper's settings.

    Columns are 0-based; -1 is the last one. `labels` is in class order, None for a regression. `metric` is the
    score that picks the best checkpoint, one of the keys that compute_metrics() returns. `header`: the official names
    of the columns of train.tsv, with commas between them, also where the file itself has no header.
    """
    name: str                          # folder under glue_dir, as in the official archives
    text_columns: tuple[int, ...]      # of train.tsv and the dev files
    label_column: int | None           # None: no labels, see for_test()
    train_columns: int = field(init=False)  # number of columns in train.tsv
    labels: tuple[str, ...] | None
    metric: str
    # not in the name of encoded files, in which nothing follows from these
    submissions: tuple[Submission, ...] = field(repr=False)
    rows: tuple[int, ...] = field(repr=False)  # examples of the official train.tsv and of each dev file
    header: str = field(repr=False)
    dev_header: str | None = field(default=None, repr=False)  # where it is not that of train.tsv
    has_header: bool = True
    dev_files: tuple[str, ...] = ("dev.tsv",)
    intermediate_epochs: int = 20      # paper, section 4.2
    max_seq_length: int = 128          # paper: 64 for single sentences, 128 for pairs
    augment_copies_in_code: int | None = 30  # published code's N; the paper uses 20 everywhere; None: not augmented
    # false: no BERT is above chance_level() on the dev set, whose sentences stand in train.tsv with the other label
    beats_chance: bool = field(default=True, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "train_columns", self.header.count(",") + 1)

    @property
    def key(self) -> str:
        """The name in the file names of this kit: lower case without hyphens."""
        return self.name.lower().replace("-", "")

    @property
    def is_regression(self) -> bool:
        """Whether the labels are scores: STS-B."""
        return self.labels is None

    @property
    def num_labels(self) -> int:
        """Width of the classifier: 1 for a regression."""
        return 1 if self.labels is None else len(self.labels)

    def for_test(self, submission: Submission) -> Task:
        """This task as the test set of `submission` is laid out: a row's label reads as NaN."""
        return replace(self, text_columns=submission.text_columns, label_column=None, header=submission.header,
                       dev_header=None, has_header=True)
