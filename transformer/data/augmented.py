"""train_aug.jsonl: passages and their questions without answers, one a line, below a line that says what they are."""
from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from transformer.data.parts import FilePart, Place, decode_lines, read_range
from transformer.files import InputError, read_lines
from transformer.tasks.squad import AUGMENTED, Passage, parse_passage

AUGMENTED_HEADER = json.dumps({"version": AUGMENTED})  # tells every reader that these are no training data with answers


def augmented_line(passage: Passage, context: str, number: int) -> str:
    """{"context", "qas": [{"id", "question"}]}: the questions about a passage, asked about its variant `context`; their
    ids end in the number of the variant, #0 for the passage as it stands."""
    return json.dumps({"context": context, "qas": [{"id": f"{question.id}#{number}", "question": question.text}
                                                   for question in passage.questions]}, ensure_ascii=False)


def require_augmented(path: Path) -> None:
    """InputError where the first line of a file is not AUGMENTED_HEADER."""
    try:
        says = json.loads(next(read_lines(path), ""))
    except (ValueError, RecursionError):
        says = None
    if not isinstance(says, dict) or says.get("version") != AUGMENTED:
        raise InputError(f"{path}, line 1: not {AUGMENTED_HEADER}, as data_augmentation.py writes it: make the file "
                         "again")


def augmented_passage(line: str | bytes, where: Place | Path) -> Passage:
    """The passage in a line of the file; InputError, saying where, if there is none."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not valid JSON ({error}); the file may be cut short: make it again") from None
    try:
        return parse_passage(entry, "", unanswerable=True, has_answers=False)
    except InputError:  # once more, to say where: the number of a line takes reading all before it
        return parse_passage(entry, str(where), unanswerable=True, has_answers=False)


def augmented_passages(part: FilePart) -> Iterator[Passage]:
    """The passages in a range of bytes of the file, as byte_ranges() cuts it; InputError as augmented_passage()."""
    path, start, stop = part
    where = Place(path, start)
    first = int(start == 0)  # after the header
    for where.index, line in enumerate(decode_lines(path, start, read_range(path, start, stop))[first:], first):
        yield augmented_passage(line, where)
