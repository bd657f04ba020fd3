"""What a task is: where its texts and labels stand, its head, the paper's settings."""
from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from transformer.tasks.head import Head

GLUE_SERVER, CLUE_SERVER = "GLUE", "CLUE"
NO_SERVER = ""  # the answers are for whoever asked
UNLABELLED_FILE = "unlabelled.tsv"


@dataclass(frozen=True)
class Submission:
    """One file of a submission to a server, and the test set it answers: a header, no labels."""
    name: str
    rows: int                      # of the test set, as the server counts them
    text_columns: tuple[int, ...]
    header: str                    # of the test set, see Task; CLUE_SERVER asks for the ids in column 0
    file: str = "test.tsv"         # in the task's folder
    server: str = GLUE_SERVER

    @property
    def is_beside(self) -> bool:
        """Whether the test set lies beside the task's folder, as GLUE's diagnostic set, which need not be there."""
        return self.file.startswith("../")

    @property
    def answers_file(self) -> str:
        """The name of the file, as the server wants it."""
        return f"{self.name}_predict.json" if self.server == CLUE_SERVER else f"{self.name}.tsv"


@dataclass(frozen=True)
class Task:
    """One task: where its texts and labels stand in its files, what its answers are, and the paper's settings.

    Columns are 0-based; -1 is the last one. `header`: the official names of the columns of train.tsv, with commas
    between them, also where the file itself has no header. A task without text columns, and so without label column,
    submissions and header, has no tables: its head reads questions about passages, see transformer.tasks.squad.
    """
    name: str                          # folder under glue_dir, as in the official archives
    text_columns: tuple[int, ...]      # of train.tsv and the dev files
    label_column: int | None           # None: no labels, see for_test()
    head: Head                         # what answers are
    submissions: tuple[Submission, ...]
    rows: tuple[int, ...]              # examples of the official train file and of each dev file
    header: str
    dev_header: str | None = None      # where it is not that of train.tsv
    has_header: bool = True
    is_strict: bool = False            # the header is the kit's own, which tells what the columns are: no other passes
    dev_files: tuple[str, ...] = ("dev.tsv",)
    train_file: str = "train.tsv"
    aug_file: str = "train_aug.tsv"    # of data_augmentation.py
    intermediate_epochs: int = 20      # paper, section 4.2
    max_seq_length: int = 128          # paper: 64 for single sentences, 128 for pairs
    teacher_epochs: int = 3            # of its fine-tuning, as are the next three
    teacher_learning_rate: float = 2e-5
    teacher_batch_size: int = 32
    teacher_max_seq_length: int = 128
    augment_copies_in_code: int | None = 30  # published code's N; the paper uses 20 everywhere; None: not augmented
    # false: no BERT is above chance on the dev set, whose sentences stand in train.tsv with the other label
    beats_chance: bool = True
    unlabelled_rows: int = 0           # of UNLABELLED_FILE, whose rows only a teacher can label; 0: there is none
    folder: Path | None = field(default=None, compare=False)  # that describes it, see transformer.tasks.own

    @property
    def key(self) -> str:
        """The name in the file names of this kit: lower case without hyphens."""
        return self.name.lower().replace("-", "")

    @property
    def is_table(self) -> bool:
        """Whether its files are tables, and not questions about passages."""
        return bool(self.text_columns)

    @property
    def segments(self) -> int:
        """Texts of an example."""
        return len(self.text_columns) if self.is_table else 2  # a question, a passage

    @property
    def train_columns(self) -> int:
        """Number of columns in train.tsv."""
        return self.header.count(",") + 1

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes in their order; empty for a score."""
        return self.head.names

    @property
    def metric(self) -> str:
        """The dev score that chooses the checkpoint."""
        return self.head.metric

    @property
    def num_labels(self) -> int:
        """Numbers of a vector of logits."""
        return self.head.width

    @property
    def key_text(self) -> str:
        """What encoded files of the task follow from, as a text that goes into their key.

        It is spelled, in these words and this order, as the first versions of this kit printed a task: a file of
        theirs, and a run that was stopped, is found again as long as nothing in it changes.
        """
        return (f"Task(name={self.name!r}, text_columns={self.text_columns!r}, label_column={self.label_column!r}, "
                f"train_columns={self.train_columns!r}, {self.head.key_text}, has_header={self.has_header!r}, "
                f"dev_files={self.dev_files!r}, intermediate_epochs={self.intermediate_epochs!r}, "
                f"max_seq_length={self.max_seq_length!r}, augment_copies_in_code={self.augment_copies_in_code!r})")

    @property
    def texts_alone(self) -> Task:
        """This task as a file of nothing but its texts is laid out: a row's label reads as NaN. Passages with questions
        are laid out as ever."""
        return self.for_test(self.answering("")) if self.is_table else self

    def answering(self, file: str, rows: int = 0) -> Submission:
        """The plain answers to a file of texts alone, of so many rows."""
        header = "sentence" if self.segments == 1 else "sentence1,sentence2"
        return Submission("predictions", rows, tuple(range(self.segments)), header, file, NO_SERVER)

    def unlabelled_in(self, folder: Path) -> Path | None:
        """Its file of rows without labels; None where it has none."""
        return folder / UNLABELLED_FILE if self.unlabelled_rows else None

    def for_test(self, submission: Submission) -> Task:
        """This task as the test set of `submission` is laid out: a row's label reads as NaN."""
        return replace(self, text_columns=submission.text_columns, label_column=None, header=submission.header,
                       dev_header=None, has_header=True,
                       is_strict=self.is_strict or submission.server == NO_SERVER)
