"""From logits to answers and scores of SQuAD: golden numbers, plain loops over the same rules, Hugging Face's own."""
import json
import math
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from tests.tasks import test_squad
from transformer.data.windows import encode_windows
from transformer.files import InputError
from transformer.tasks.answers import ANSWER_FILES, decode
from transformer.tasks.metrics import normal_answer, squad_scores
from transformer.tasks.spans import NO_POSITION
from transformer.tasks.squad import is_v2, main
from transformer.tasks.table import TASKS
from transformer.tokenization import BertTokenizer
from transformer.training.scoring import KeptLogits

tokenizer = test_squad.tokenizer
GOLDEN = test_squad.GOLDEN
PREDICTIONS = GOLDEN["predictions"]


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
    assert list(found) == list(expected) and in_percent(found) == pytest.approx(expected, rel=1e-12)


def in_percent(scores):
    return {key: value if key.endswith(("total", "thresh")) else 100 * value for key, value in scores.items()}


class Plain:
    """Section 5 of BERT's rules as plain loops. leaves_hashes: as Hugging Face's version, which does not take away the
    ## that a span may begin with."""

    def __init__(self, windows, head, leaves_hashes=False):
        self.windows, self.head, self.leaves_hashes = windows, head, leaves_hashes

    def candidates(self, number, logits):
        windows, found = self.windows, []
        offset, length = int(windows.offsets[number]), int(windows.lengths[number])
        starts, ends = (sorted(range(len(logits)), key=lambda place: -logits[place][side])[:self.head.n_best_size]
                        for side in (0, 1))
        for start in starts:
            for end in ends:
                if start >= length or end >= length or end < start or end - start + 1 > self.head.max_answer_length:
                    continue
                if windows.words[offset + start] < 0 or windows.words[offset + end] < 0:
                    continue
                if windows.is_max_context[offset + start]:
                    found.append((logits[start][0], logits[end][1], offset + start, offset + end))
        return found

    def text(self, words, first, last):
        windows = self.windows
        written = " ".join(windows.tokenizer.ids_to_tokens[piece] for piece in windows.tokens[first:last + 1])
        written = written.replace(" ##", "")
        written = " ".join((written if self.leaves_hashes else written.replace("##", "")).split())
        original = " ".join(words[windows.words[first]:windows.words[last] + 1])
        tokens = " ".join(windows.tokenizer.basic_tokenizer.tokenize(original))
        place = tokens.find(written)
        if place < 0:
            return original
        of_tokens = [index for index, character in enumerate(tokens) if character != " "]
        of_original = [index for index, character in enumerate(original) if character != " "]
        if len(of_tokens) != len(of_original):
            return original
        return original[of_original[of_tokens.index(place)]:
                        of_original[of_tokens.index(place + len(written) - 1)] + 1]

    def answers(self, logits):
        """{id: (text, n-best list, null odds)}"""
        head, found = self.head, {}
        for question, words, numbers in self.windows.questions():
            candidates, null = [], None
            for number in numbers:
                rows = [tuple(map(float, row)) for row in logits[number]]
                candidates += self.candidates(number, rows)
                if null is None or sum(rows[0]) < sum(null[:2]):
                    null = (*rows[0], None, None)
            if not candidates and null is None:
                found[question.id] = "", None, None
                continue
            if head.unanswerable:
                candidates.append(null)
            best = []
            for start, end, first, last in sorted(candidates, key=lambda row: -(row[0] + row[1])):
                if len(best) == head.n_best_size:
                    break
                text = "" if first is None else self.text(words, first, last)
                if text not in [entry[0] for entry in best]:
                    best.append((text, start, end))
            if head.unanswerable:
                if "" not in [entry[0] for entry in best]:
                    best.append(("", *null[:2]))
                if len(best) == 1:
                    best.insert(0, ("empty", 0.0, 0.0))
            best = best or [("empty", 0.0, 0.0)]
            text, start, end = next(entry for entry in best if entry[0])
            odds = null[0] + null[1] - start - end if head.unanswerable else None
            is_null = head.unanswerable and odds > head.null_score_diff_threshold
            found[question.id] = "" if is_null else text, best, odds
        return found


def random_logits(windows, seed, values=None, dtype=np.float32):
    """Logits [windows, longest, 2], NO_POSITION at padding, of which three quarters of the windows favour no answer;
    values: so many different ones, so that there are ties."""
    rng = np.random.default_rng(seed)
    shape = len(windows), int(windows.lengths.max()), 2
    logits = rng.integers(0, values, shape) * 0.5 if values else rng.normal(0, 3, shape)
    logits[rng.random(len(windows)) < 0.75, 0] += 5
    logits[np.arange(shape[1]) >= windows.lengths[:, None]] = NO_POSITION
    return logits.astype(dtype)


def assert_same_answers(expected, logits, windows, head):
    """Also: the texts do not depend on whether lists are asked for."""
    listed = {question.id: answer for question, answer in decode(logits, windows, head, listed=True)}
    assert list(listed) == list(expected)
    for key, (text, best, odds) in expected.items():
        assert (listed[key].text, listed[key].null_odds) == (text, odds), key
        assert [(entry["text"], entry["start_logit"], entry["end_logit"]) for entry in listed[key].listed] == best, key
        weights = [math.exp(start + end) for _, start, end in best]
        assert [entry["probability"] for entry in listed[key].listed] == pytest.approx(
            [weight / sum(weights) for weight in weights], rel=1e-9), key
    alone = {question.id: answer for question, answer in decode(logits, windows, head, listed=False)}
    assert alone == {key: replace(answer, listed=None) for key, answer in listed.items()}


@pytest.mark.parametrize("settings", [
    {}, {"n_best_size": 1}, {"n_best_size": 2, "max_answer_length": 1}, {"n_best_size": 5, "max_answer_length": 3},
    {"n_best_size": 500, "max_answer_length": 2},
    {"null_score_diff_threshold": -4.0}, {"null_score_diff_threshold": 2.5, "n_best_size": 3}])
@pytest.mark.parametrize("name", ["v1", "v2"])
def test_answers_are_those_of_plain_loops(name, settings, golden):
    head, windows, logits = golden(name)
    head = replace(head, **{"n_best_size": 20, "max_answer_length": 30, "null_score_diff_threshold": 0.0} | settings)
    for values in (logits, random_logits(windows, 1), random_logits(windows, 2, values=3)):
        assert_same_answers(Plain(windows, head).answers(values), values, windows, head)


def test_random_logits_lead_to_answers_and_to_none(golden):
    head, windows, _ = golden("v2")
    logits = random_logits(windows, 1)
    answers = dict(decode(logits, windows, head, listed=True))
    assert max(len(numbers) for *_, numbers in windows.questions()) > 2
    assert {answer.text == "" for answer in answers.values()} == {True, False}
    assert any(len(answer.listed) == head.n_best_size + 1 for answer in answers.values())


@pytest.mark.parametrize("name", ["v1", "v2"])
def test_hugging_face_finds_the_same(name, golden, tmp_path):
    """Its lists differ in one rule alone (see Plain), with which plain loops give exactly them."""
    metrics = pytest.importorskip("transformers.data.metrics.squad_metrics")
    head, windows, logits = golden(name)
    examples, features, results, words_of = [], [], [], {}
    for index, (question, words, numbers) in enumerate(windows.questions()):
        examples.append(SimpleNamespace(qas_id=question.id, doc_tokens=words))
        words_of[question.id] = words
        for number in numbers:
            pieces = slice(windows.offsets[number], windows.offsets[number + 1])
            positions = [place for place, word in enumerate(windows.words[pieces]) if word >= 0]
            features.append(SimpleNamespace(
                unique_id=number, example_index=index,
                tokens=windows.tokenizer.convert_ids_to_tokens(windows.tokens[pieces].tolist()),
                token_to_orig_map={place: int(windows.words[pieces][place]) for place in positions},
                token_is_max_context={place: bool(windows.is_max_context[pieces][place]) for place in positions}))
            results.append(SimpleNamespace(unique_id=number, start_logits=logits[number, :, 0].tolist(),
                                           end_logits=logits[number, :, 1].tolist()))
    stub = SimpleNamespace(convert_tokens_to_string=lambda tokens: " ".join(tokens).replace(" ##", ""))
    files = [tmp_path / file for file in ANSWER_FILES]
    metrics.compute_predictions_logits(
        examples, features, results, head.n_best_size, head.max_answer_length, True, *map(str, files), False,
        head.unanswerable, head.null_score_diff_threshold, stub)
    texts, lists = (json.loads(file.read_text()) for file in files[:2])
    plain = Plain(windows, head, leaves_hashes=True).answers(logits)
    assert texts == {key: text for key, (text, _, _) in plain.items()}
    for key, (_, best, _) in plain.items():
        assert [(entry["text"], entry["start_logit"], entry["end_logit"]) for entry in lists[key]] == best
    if head.unanswerable:
        odds = {question.id: answer.null_odds for question, answer in decode(logits, windows, head, listed=False)}
        assert odds == json.loads(files[2].read_text())


def test_logits_that_are_kept_without_padding(golden):
    head, windows, logits = golden("v2")
    logits = logits.astype(np.float32)
    kept = KeptLogits(head.pack(logits, windows.lengths), head, windows)
    assert kept.flat.shape == (2 * int(windows.lengths.sum()),)
    unpacked = kept[np.arange(len(windows))]
    assert (unpacked[np.arange(unpacked.shape[1]) >= windows.lengths[:, None]] == NO_POSITION).all()
    padded = np.where(np.arange(logits.shape[1])[:, None] < windows.lengths[:, None, None], logits, NO_POSITION)
    assert_same_answers(Plain(windows, head).answers(padded), unpacked, windows, head)
    rows = np.array([7, 0, 3])
    assert np.array_equal(kept[rows], unpacked[rows, :windows.lengths[rows].max()])
    assert np.array_equal(head.numbers(windows.lengths[rows]), 2 * windows.lengths[rows])


def asked(tmp_path, context, questions=("a?",), version_2=False, length=64):
    """Head and windows of questions about a passage, with all letters and their continuations as wordpieces."""
    letters = sorted({character for text in (context, *questions) for character in text.lower() if character.strip()}
                     | set("abcdefghijklmnopqrstuvwxyz"))
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (tmp_path / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
    qas = [{"id": f"q{number}", "question": question} for number, question in enumerate(questions)]
    (tmp_path / "asked.json").write_text(json.dumps({"data": [{"paragraphs": [{"context": context, "qas": qas}]}]}))
    task = task_of(version_2)
    return task.head, encode_windows(task, tmp_path / "asked.json", BertTokenizer(tmp_path / "vocab.txt"), length, 16,
                                     8, "answer", num_workers=1)


@pytest.mark.parametrize("context, span, expected", [
    ("Mr Steve Smith's hat", "stevesmith", "Steve Smith"),
    ("in Zürich.", "zurich", "Zürich"),
    ("x\u200by z", "xy", "x\u200by"),              # a character that vanishes: all of the word
    ("(1895-1943).", "1895", "1895"),
    ("(1895-1943).", "5-19", "5-19"),              # within words: no ## is left
    ("one \t two\n\nthree", "two", "two"),
    ("one \t two\n\nthree", "onetwo", "one two"),
    ("abab", "ab", "ab"),                          # the first place counts where a text stands twice
    ("5\u00a0000 years", "5000", "5\u00a0000"),    # a space that divides no words
])
def test_the_text_of_a_span(context, span, expected, tmp_path):
    head, windows = asked(tmp_path, context)
    spelled = [piece.removeprefix("##") for piece in windows.tokenizer.convert_ids_to_tokens(windows.tokens.tolist())]
    place = next(place for place in range(int(windows.first_lengths[0]), len(spelled))
                 if "".join(spelled[place:place + len(span)]) == span)
    logits = np.zeros((1, len(spelled), 2))
    logits[0, place, 0] = logits[0, place + len(span) - 1, 1] = 9
    assert [answer.text for _, answer in decode(logits, windows, head, listed=False)] == [expected]


def test_a_span_with_an_unknown_wordpiece_is_all_its_words(tmp_path):
    head, windows = asked(tmp_path, "ab cd")
    windows.tokens = windows.tokens.copy()
    windows.tokens[windows.first_lengths[0]] = windows.tokenizer.vocab["[UNK]"]
    logits = np.zeros((1, int(windows.lengths[0]), 2))
    logits[0, windows.first_lengths[0], :] = 9
    assert [answer.text for _, answer in decode(logits, windows, head, listed=False)] == ["ab"]


@pytest.mark.parametrize("version_2", [False, True])
def test_a_question_without_windows_is_answered_by_nothing(version_2, tmp_path):
    """Its null odds are beyond any threshold, as those that BERT starts from."""
    path = tmp_path / "asked.json"
    head, windows = asked(tmp_path, "ab cd", version_2=version_2)
    content = json.loads(path.read_text())
    content["data"][0]["paragraphs"].insert(0, {"context": "\u200b", "qas": [{"id": "none", "question": "a?"}]})
    path.write_text(json.dumps(content))
    windows = encode_windows(task_of(version_2), path, windows.tokenizer, 64, 16, 8, "answer", num_workers=1)
    answers = {question.id: answer for question, answer in
               decode(random_logits(windows, 0), windows, head, listed=True)}
    assert list(answers) == ["none", "q0"] and len(answers["q0"].listed) > 1
    assert answers["none"].text == ""
    assert answers["none"].listed == [{"text": "", "probability": 1.0, "start_logit": 0.0, "end_logit": 0.0}]
    assert answers["none"].null_odds == (1e6 if version_2 else None)


def test_where_no_pair_is_an_answer_bert_says_empty(tmp_path):
    head, windows = asked(tmp_path, "ab cd")
    logits = np.zeros((1, int(windows.lengths[0]), 2))
    logits[0, 0] = 5  # with one candidate for each, [CLS] is all there is
    (_, answer), = decode(logits, windows, replace(head, n_best_size=1), listed=True)
    assert (answer.text, answer.listed) == ("empty", [{"text": "empty", "probability": 1.0, "start_logit": 0.0,
                                                       "end_logit": 0.0}])


def test_answers_come_as_they_are_asked_for(golden):
    """Only the windows near the question are looked at: what is held does not grow with the file."""
    head, windows, logits = golden("v2")
    seen = []

    class Watched:
        def __getitem__(self, rows):
            seen.append(rows)
            return logits[rows]

    answers = decode(Watched(), windows, head, listed=True)
    next(answers)
    assert len(seen) == 1 and len(logits[seen[0]]) < len(logits)
    assert len(list(answers)) == len(PREDICTIONS["v2"]["predictions"]) - 1


@pytest.mark.parametrize("name", ["v1", "v2_threshold"])
def test_files_of_predictions(name, golden):
    head, windows, logits = golden(name)
    files = {file: "".join(pieces) for file, pieces in head.prediction_files("dev", windows, logits)}
    assert tuple(files) == ANSWER_FILES[:3 if head.unanswerable else 2]
    assert all(text.isascii() and text.endswith("\n") for text in files.values())
    answers = {question.id: answer for question, answer in decode(logits, windows, head, listed=True)}
    for text, attribute in zip(files.values(), ("text", "listed", "null_odds")):
        assert json.loads(text) == {key: getattr(answer, attribute) for key, answer in answers.items()}
    first = json.loads(files[ANSWER_FILES[1]])["g001"][0]
    assert list(first) == ["text", "probability", "start_logit", "end_logit"]


@pytest.mark.parametrize("case", GOLDEN["metrics"]["cases"], ids=lambda case: repr(case["prediction"]))
def test_golden_scores_of_texts(case):
    assert normal_answer(case["prediction"]) == case["normal_prediction"]
    assert normal_answer(case["answer"]) == case["normal_answer"]
    pair = [case["answer"]], case["prediction"], None
    assert squad_scores([pair], unanswerable=False) == pytest.approx(
        {"exact_match": case["v1_exact"], "f1": case["v1_f1"]}, rel=1e-12)
    found = squad_scores([pair], unanswerable=True)
    assert (found["exact"], found["f1"]) == pytest.approx((case["v2_exact"], case["v2_f1"]), rel=1e-12)
    assert found["total"] == found["HasAns_total"] == 1 and "NoAns_total" not in found


def test_each_score_is_the_best_over_the_answers_of_people():
    """By hand: "x y" is none of them; it shares x with "x" (precision 1/2, recall 1), both with "x z y" (1, 2/3)."""
    assert squad_scores([(["x", "x z y", "w"], "x y", None)], unanswerable=False) == pytest.approx(
        {"exact_match": 0.0, "f1": 0.8})
    assert squad_scores([(["w", "The x. y"], "x y", None), (["w"], None, None)], unanswerable=False) == {
        "exact_match": 0.5, "f1": 0.5}
    # v2.0 leaves out answers that say nothing, where others do
    assert squad_scores([(["the", "w"], ".", None)], unanswerable=True)["exact"] == 0.0
    assert squad_scores([(["the", "a"], ".", None)], unanswerable=True)["exact"] == 1.0


def test_golden_thresholds():
    golden = GOLDEN["metrics"]["thresholds"]
    answers = [([answer["text"] for answer in question["answers"]], golden["predictions"][question["id"]],
                golden["null_odds"][question["id"]])
               for article in golden["data"]["data"] for paragraph in article["paragraphs"]
               for question in paragraph["qas"]]
    found = squad_scores(answers, unanswerable=True, na_prob_thresh=golden["na_prob_thresh"])
    assert in_percent(found) == pytest.approx(golden["result"], rel=1e-12)


def test_best_thresholds_by_hand():
    """Two questions have an answer, two have none. From answering nothing (2 of 4 right), by odds: -2 found (3), -1 a
    wrong answer where there is none (2), then a half found (2 or 2.5), then nothing said where there is none."""
    answers = [(["x y"], "x z", 0.5), ([], "x", -1.0), (["w"], "w", -2.0), ([], "", 3.0)]
    found = squad_scores(answers, unanswerable=True)
    assert list(found) == ["exact", "f1", "total", "HasAns_exact", "HasAns_f1", "HasAns_total", "NoAns_exact",
                           "NoAns_f1", "NoAns_total", "best_exact", "best_exact_thresh", "best_f1", "best_f1_thresh"]
    assert found == {"exact": 0.5, "f1": 0.625, "total": 4, "HasAns_exact": 0.5, "HasAns_f1": 0.75, "HasAns_total": 2,
                     "NoAns_exact": 0.5, "NoAns_f1": 0.5, "NoAns_total": 2, "best_exact": 0.75,
                     "best_exact_thresh": -2.0, "best_f1": 0.75, "best_f1_thresh": -2.0}
    # an answer counts as none where its odds are greater than the threshold, not where they equal it
    cut = squad_scores(answers, unanswerable=True, na_prob_thresh=-1.0)
    assert (cut["HasAns_exact"], cut["HasAns_f1"], cut["NoAns_exact"]) == (0.5, 0.5, 0.5)
    assert squad_scores(answers, unanswerable=True, na_prob_thresh=-1.5)["exact"] == 0.75
    assert (cut["best_exact"], cut["best_f1"]) == (0.75, 0.75)  # of all thresholds: the answers are as they were
    # nothing is better than answering nothing: the threshold is 0
    wrong = squad_scores([(["x"], "y", -3.0), ([], "", 2.0)], unanswerable=True)
    assert (wrong["best_exact"], wrong["best_exact_thresh"]) == (0.5, 0.0)


def test_missing_predictions_of_v2_are_left_out():
    """As the official scorer has it, their questions count for what answering nothing reaches."""
    answers = [(["x"], "x", -2.0), ([], None, None), (["w"], None, None)]
    found = squad_scores(answers, unanswerable=True)
    assert (found["exact"], found["total"], found["HasAns_total"]) == (1.0, 1, 1) and "NoAns_total" not in found
    assert (found["best_exact"], found["best_exact_thresh"]) == (2.0, -2.0)
    assert squad_scores([], unanswerable=True) == {"exact": 0.0, "f1": 0.0, "total": 0}
    assert squad_scores([], unanswerable=False) == {"exact_match": 0.0, "f1": 0.0}


def run_scorer(folder, capsys, data, predictions, null_odds=None, *flags):
    """What python -m transformer.tasks.squad prints, read, and what it says on stderr."""
    flags = [*flags]
    for name, content in (("data.json", data), ("predictions.json", predictions), ("odds.json", null_odds)):
        (folder / name).write_text(json.dumps(content))
    if null_odds is not None:
        flags += ["--na_prob_file", str(folder / "odds.json")]
    main([str(folder / "data.json"), str(folder / "predictions.json"), *flags])
    out, err = capsys.readouterr()
    return json.loads(out), err


@pytest.mark.parametrize("name", PREDICTIONS)
def test_the_command_prints_the_official_scores(name, tmp_path, capsys):
    golden = PREDICTIONS[name]
    data, expected = GOLDEN[golden["file"]], golden["metrics"]
    printed, said = run_scorer(tmp_path, capsys, data, golden["predictions"], golden.get("null_odds") or None)
    assert printed == pytest.approx(expected, rel=1e-12) and list(printed) == list(expected) and not said
    printed, _ = run_scorer(tmp_path, capsys, data, golden["predictions"])
    assert printed == pytest.approx({key: value for key, value in expected.items() if "best" not in key}, rel=1e-12)


def squad_file(answers, version=None):
    """A SQuAD file of questions q0, q1, ... with these lists of answers about one passage."""
    context = " ".join(text for texts in answers for text in texts) or "w"
    qas = [{"id": f"q{number}", "question": "?", "answers": [{"text": text, "answer_start": 0} for text in texts]}
           | ({} if version == "1.1" else {"is_impossible": not texts}) for number, texts in enumerate(answers)]
    data = {"data": [{"title": "T", "paragraphs": [{"context": context, "qas": qas}]}]}
    return data if version is None else data | {"version": version}


def test_the_command_and_missing_predictions(tmp_path, capsys):
    data = squad_file([["x"], ["y"], ["z"]], "1.1")
    printed, said = run_scorer(tmp_path, capsys, data, {"q0": "x", "other": "y"})
    assert printed == pytest.approx({"exact_match": 100 / 3, "f1": 100 / 3})
    assert "does not answer 2 of 3 questions, such as 'q1'" in said and "wrong" in said and said.count("\n") == 1
    data = squad_file([["x"], [], ["z"], []], "v2.0")
    printed, said = run_scorer(tmp_path, capsys, data, {"q0": "x", "q2": "", "q3": "z"}, {"q3": 0, "q0": -1.5, "q2": 3})
    assert printed == pytest.approx({
        "exact": 100 / 3, "f1": 100 / 3, "total": 3, "HasAns_exact": 50.0, "HasAns_f1": 50.0, "HasAns_total": 2,
        "NoAns_exact": 0.0, "NoAns_f1": 0.0, "NoAns_total": 1, "best_exact": 100.0, "best_exact_thresh": -1.5,
        "best_f1": 100.0, "best_f1_thresh": -1.5})
    assert "does not answer 1 of 4 questions, such as 'q1'" in said and "left out" in said


def test_the_command_and_thresholds(tmp_path, capsys):
    data = squad_file([["x"], []], "v2.0")
    predictions, odds = {"q0": "x", "q1": "z"}, {"q0": 0.75, "q1": 2.0}
    assert run_scorer(tmp_path, capsys, data, predictions, odds)[0]["exact"] == 100.0  # 1.0, as the official one
    assert run_scorer(tmp_path, capsys, data, predictions, odds, "--na_prob_thresh", "2")[0]["exact"] == 50.0
    assert run_scorer(tmp_path, capsys, data, predictions, odds, "--na-prob-thresh", "0.5")[0]["HasAns_exact"] == 0.0


def test_equal_odds_are_taken_as_they_stand_in_their_file(tmp_path, capsys):
    """By hand: at odds 1 one question is found and one is answered wrongly; found first, it is 2 of 2 for a moment."""
    data = squad_file([["x"], []], "v2.0")
    predictions = {"q0": "x", "q1": "z"}
    first = run_scorer(tmp_path, capsys, data, predictions, {"q0": 1, "q1": 1})[0]
    assert (first["best_exact"], first["best_exact_thresh"]) == (100.0, 1)
    last = run_scorer(tmp_path, capsys, data, predictions, {"q1": 1, "of another file": -9, "q0": 1})[0]
    assert (last["best_exact"], last["best_exact_thresh"]) == (50.0, 0.0)


@pytest.mark.parametrize("change, expected", [
    ({"version": "1.1"}, False), ({"version": "v2.0"}, True), ({"version": 2}, True), ({"version": "V1"}, False),
    ({}, True), ({"version": "mine"}, True), ({"version": None, "more": {"version": "1.1"}}, True)])
def test_the_version_of_a_file(change, expected, tmp_path):
    path = tmp_path / "data.json"
    for content in (squad_file([["x"], []]) | change, change | squad_file([["x"], []])):
        path.write_text(json.dumps(content))
        assert is_v2(path) is expected
    if "version" not in change:
        path.write_text(json.dumps(squad_file([["x"], ["y"]], "1.1") | {"version": "mine"}))
        assert is_v2(path) is False
        path.write_text(path.read_text().replace(json.dumps([{"text": "y", "answer_start": 0}]), "[]"))
        assert is_v2(path) is True
        path.write_text(json.dumps({"data": [{"paragraphs": [3, {"qas": 3}, {"qas": ["is_impossible"]}]}]}))
        assert is_v2(path) is False  # whoever reads it says what is wrong


@pytest.mark.parametrize("predictions, odds, message", [
    (["x"], None, "holds no JSON object"),
    ({"q0": [{"text": "x"}]}, None, "'q0' has [{'text': 'x'}], expected a text"),
    ({"q9": "x"}, None, "answers none of the 2 questions"),
    ({"q0": "x", "q1": ""}, {"q0": 1.0}, "has no number for 1 questions that FOLDER/predictions.json answers, such "
                                         "as 'q1'"),
    ({"q0": "x", "q1": ""}, {"q0": "1", "q1": 0}, "'q0' has '1', expected a number"),
    ({"q0": "x", "q1": ""}, {"q0": True, "q1": 0}, "'q0' has True, expected a number"),
    ({"q0": "x", "q1": ""}, {"q0": 0, "q1": math.nan}, "'q1' has nan, expected a number")])
def test_the_command_refuses_what_it_cannot_score(predictions, odds, message, tmp_path, capsys):
    with pytest.raises(InputError) as refusal:
        run_scorer(tmp_path, capsys, squad_file([["x"], []], "v2.0"), predictions, odds)
    assert message.replace("FOLDER", str(tmp_path)) in str(refusal.value)
    assert str(tmp_path / ("odds.json" if odds else "predictions.json")) in str(refusal.value)
    assert capsys.readouterr() == ("", "")


def test_the_command_refuses_null_odds_of_v1(tmp_path, capsys):
    with pytest.raises(InputError, match="is of v1.1, which has no unanswerable questions: leave out --na_prob_file"):
        run_scorer(tmp_path, capsys, squad_file([["x"]], "1.1"), {"q0": "x"}, {"q0": 1.0})
    with pytest.raises(SystemExit) as end:
        run_scorer(tmp_path, capsys, squad_file([["x"], []], "v2.0"), {"q0": "x"}, None, "--na_prob_thresh", "1")
    assert end.value.code == 2 and "--na_prob_file" in capsys.readouterr().err


def test_the_command_ends_with_one_line(tmp_path):
    (tmp_path / "data.json").write_text(json.dumps(squad_file([["x"]], "1.1"))[:-9])
    (tmp_path / "predictions.json").write_text('{"q0": "x"}')
    run = subprocess.run([sys.executable, "-m", "transformer.tasks.squad", tmp_path / "data.json",
                          tmp_path / "predictions.json"], capture_output=True, text=True)
    assert run.returncode == 2 and run.stdout == "" and "cut short" in run.stderr and run.stderr.count("\n") == 1
