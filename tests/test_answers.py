"""From logits to answers and scores of SQuAD: golden numbers, plain loops over the same rules, Hugging Face's own."""
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from transformer.data.windows import encode_windows
from transformer.tasks.answers import decode
from transformer.tasks.table import TASKS
from transformer.tokenization import BertTokenizer

GOLDEN = json.loads((Path(__file__).parent / "golden" / "squad.json").read_text())
PREDICTIONS = GOLDEN["predictions"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("".join(f"{piece}\n" for piece in GOLDEN["vocab"]), encoding="utf-8")
    return BertTokenizer(path)


@pytest.fixture(scope="module")
def golden(tmp_path_factory, tokenizer):
    """golden(name): head, windows and logits [windows, max_seq_length, 2] of an entry of the golden predictions."""
    folder = tmp_path_factory.mktemp("golden")

    def get(name):
        entry = PREDICTIONS[name]
        path = folder / f"{entry['file']}.json"
        path.write_text(json.dumps(GOLDEN[entry["file"]]))
        task = task_of(entry["version_2"], **{key: entry[key] for key in
                                              ("n_best_size", "max_answer_length", "null_score_diff_threshold")})
        windows = encode_windows(task, path, tokenizer, entry["max_seq_length"], entry["doc_stride"],
                                 entry["max_query_length"], "score", num_workers=1)
        logits = entry["start_end_logits"]
        logits = PREDICTIONS[logits.removeprefix("as in ")]["start_end_logits"] if isinstance(logits, str) else logits
        return task.head, windows, np.array(logits).transpose(0, 2, 1)
    return get


def task_of(version_2, **settings):
    task = TASKS["squad2" if version_2 else "squad1"]
    return replace(task, head=replace(task.head, **settings))


@pytest.mark.parametrize("name", PREDICTIONS)
def test_golden_answers(name, golden):
    head, windows, logits = golden(name)
    expected = PREDICTIONS[name]
    answers = {question.id: answer for question, answer in decode(logits, windows, head, listed=True)}
    assert {key: answer.text for key, answer in answers.items()} == expected["predictions"]
    for key, wanted in expected["nbest"].items():
        listed = answers[key].listed
        assert [[entry["text"], entry["start_logit"], entry["end_logit"]] for entry in listed[:4]] == \
            [row[:3] for row in wanted]
        assert [entry["probability"] for entry in listed[:4]] == pytest.approx([row[3] for row in wanted], rel=1e-12)
        assert len(listed) <= head.n_best_size + head.unanswerable
    if head.unanswerable:
        assert {key: answer.null_odds for key, answer in answers.items()} == expected["null_odds"]
    else:
        assert {answer.null_odds for answer in answers.values()} == {None}


@pytest.mark.parametrize("name", PREDICTIONS)
def test_golden_scores(name, golden):
    head, windows, logits = golden(name)
    expected = PREDICTIONS[name]["metrics"]
    found = head.score(logits, windows)
    assert list(found) == list(expected)
    for key, value in expected.items():
        scale = 1 if key.endswith(("total", "thresh")) else 100
        assert found[key] * scale == pytest.approx(value, rel=1e-12), key
