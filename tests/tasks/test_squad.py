"""SQuAD's files and the rules of windows: golden conversions, a plain reading of the rules, bad input."""
from __future__ import annotations

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT, write_lines
from transformer.data.windows import encode_windows
from transformer.files import InputError
from transformer.tasks import json_stream, squad
from transformer.tasks.squad import (
    Passage,
    PassagePieces,
    Question,
    cut_windows,
    label_of,
    misplaced_answers,
    passage_words,
    passages_with_progress,
    read_passages,
    windows_with_max_context,
)
from transformer.tasks.table import TASKS
from transformer.tokenization import BertTokenizer

GOLDEN = json.loads((ROOT / "tests" / "golden" / "squad.json").read_text(encoding="utf-8"))
CONTEXT = "A red fox sat. Nobody saw it."


def golden_vocab(folder: Path) -> Path:
    return write_lines(folder / "vocab.txt", GOLDEN["vocab"])


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> BertTokenizer:
    return BertTokenizer(golden_vocab(tmp_path_factory.mktemp("vocab")))


def file_of(path: Path, data: object, version: object = "1.1", **more: object) -> Path:
    path.write_text(json.dumps({"version": version, "data": data, **more}), encoding="utf-8")
    return path


def question(question_id: str = "q1", text: str = "What sat?", answers: object = (("fox", 6),), **more: object) -> dict:
    return {"id": question_id, "question": text,
            "answers": [{"text": answer, "answer_start": start} for answer, start in answers], **more}


def article(*questions: object, context: object = CONTEXT, title: object = "Foxes") -> dict:
    return {"title": title, "paragraphs": [{"context": context, "qas": list(questions)}]}


def pieces_of(sequences, index: int) -> slice:
    return slice(sequences.offsets[index], sequences.offsets[index + 1])


# Conversions.

@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("name", GOLDEN["conversions"])
def test_golden_conversions(name, workers, tokenizer, tmp_path, capsys):
    golden = GOLDEN["conversions"][name]
    path = tmp_path / "data.json"
    path.write_text(json.dumps(GOLDEN[golden["file"]]), encoding="utf-8")
    task = TASKS["squad2" if golden["version_2"] else "squad1"]
    windows = encode_windows(task, path, tokenizer, golden["max_seq_length"], golden["doc_stride"],
                             golden["max_query_length"], "train" if golden["training"] else "score",
                             tmp_path / "cache", num_workers=workers, part_bytes=400)
    features = golden["features"]
    assert len(windows) == len(features)
    for index, feature in enumerate(features):
        ids = windows.tokens[pieces_of(windows, index)].tolist()
        assert ids == feature["input_ids"] and tokenizer.convert_ids_to_tokens(ids) == feature["tokens"]
        assert windows.first_lengths[index] == feature["segment_ids"].count(0)
        assert feature["segment_ids"] == sorted(feature["segment_ids"])
    if golden["training"]:
        assert windows.labels.tolist() == [[feature["start"], feature["end"]] for feature in features]
        assert windows.labels.dtype == np.int32
    else:
        order = []
        for asked, words, own in windows.questions():
            order.append(asked.id)
            of_question = [feature for feature in features if feature["id"] == asked.id]
            assert [feature["span"] for feature in of_question] == list(range(len(own)))
            assert [features[index]["id"] for index in own] == [asked.id] * len(of_question)
            for index, feature in zip(own, of_question, strict=True):
                numbers = windows.words[pieces_of(windows, index)]
                assert [[place, int(numbers[place])] for place in np.flatnonzero(numbers >= 0)] == \
                    feature["token_to_word"]
                assert np.flatnonzero(windows.is_max_context[pieces_of(windows, index)]).tolist() == \
                    feature["max_context"]
                assert numbers.max() < len(words) and set(numbers[numbers < 0].tolist()) == {-1}
        assert order == golden["examples"]
        assert windows.unanswerable_share() == pytest.approx(3 / 34)
    out = capsys.readouterr().out
    assert ("'g027': 'Bad offsets' is to stand at character 4, where 'offsets hap' stands" in out) == golden["training"]
    assert out.count("skipped 1 questions") == len(golden["skipped"])


def naive_windows(passage: Passage, tokenizer: BertTokenizer, length: int, stride: int, query: int,
                  ) -> list[tuple[str, list[str], list[int], list[bool], tuple[int, int]] | str]:
    """By the rules, question by question and piece by piece: (id, tokens, word of each piece or -1, max context of
    each, label) of each window; of a question that cannot be learnt its id alone."""
    result = []
    for asked in passage.questions:
        words, word_at, inside = [], [], False
        for character in passage.context:
            if character in " \t\r\n\u202f":
                inside = False
            elif inside:
                words[-1] += character
            else:
                words.append(character)
                inside = True
            word_at.append(len(words) - 1)
        pieces, piece_word, first_piece = [], [], []
        for number, word in enumerate(words):
            first_piece.append(len(pieces))
            for piece in tokenizer.tokenize(word):
                pieces.append(piece)
                piece_word.append(number)
        span = None
        if asked.answers:
            text, start = asked.answers[0]
            if start < 0 or passage.context[start:start + len(text)] != text or word_at[start] < 0:
                result.append(asked.id)
                continue
            first, last = word_at[start], word_at[start + len(text) - 1]
            begin = first_piece[first]
            end = first_piece[last + 1] - 1 if last + 1 < len(words) else len(pieces) - 1
            if " ".join(text.split()) not in " ".join(words[first:last + 1]) or end < begin:
                result.append(asked.id)
                continue
            span = begin, end
            want = " ".join(tokenizer.tokenize(text))
            tries = [(b, e) for b in range(begin, end + 1) for e in range(end, b - 1, -1)]
            span = next((found for found in tries if " ".join(pieces[found[0]:found[1] + 1]) == want), span)
        before = ["[CLS]", *tokenizer.tokenize(asked.text)[:query], "[SEP]"]
        room = length - len(before) - 1
        starts, start = [], 0
        while start < len(pieces):
            size = min(room, len(pieces) - start)
            starts.append((start, size))
            if start + size == len(pieces):
                break
            start += min(size, stride)
        for start, size in starts:
            best = []
            for piece in range(start, start + size):
                scores = [min(piece - s, s + n - 1 - piece) + 0.01 * n if s <= piece < s + n else -1
                          for s, n in starts]
                best.append(starts[scores.index(max(scores))] == (start, size))
            label = 0, 0
            if span and start <= span[0] and span[1] < start + size:
                label = tuple(place - start + len(before) for place in span)
            outside = [-1] * len(before)
            result.append((asked.id, [*before, *pieces[start:start + size], "[SEP]"],
                           [*outside, *piece_word[start:start + size], -1],
                           [*[False] * len(before), *best, False], label))
    return result


WORDS = ["the", "Japanese", "world", "fox", "(1895-1943).", "x\u200by", "\u200b", "e\u0301te", "[SEP]", "東京",
         "a\u00a0b", "İx", "ones", "\u2028", "$5", "''"]
TEXTS = st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from([" ", "  ", "\n", "\t", "\u202f", ""])), max_size=25)


@settings(deadline=None, max_examples=40)
@given(TEXTS, st.lists(st.tuples(st.integers(0, 60), st.integers(1, 25), TEXTS), min_size=1, max_size=3),
       st.integers(8, 30), st.integers(1, 12), st.integers(1, 6), st.booleans())
def test_windows_by_the_rules(tokenizer, tmp_path_factory, text, asked, length, stride, query, leading):
    context = " " * leading + "".join(word + space for word, space in text)
    length = max(length, query + 4)
    questions = tuple(Question(str(number), "".join(word + space for word, space in question_words),
                               ((context[start:start + size], start),) if context[start:start + size].strip() else ())
                      for number, (start, size, question_words) in enumerate(asked))
    wanted = naive_windows(Passage(context, questions), tokenizer, length, stride, query)
    path = file_of(tmp_path_factory.mktemp("naive") / "train.json", [article(*(
        question(q.id, q.text, q.answers, is_impossible=not q.answers) for q in questions), context=context)], "v2.0")
    learnt = [window for window in wanted if not isinstance(window, str)]
    if not learnt:
        with pytest.raises(InputError, match="gives no windows"):
            encode_windows(TASKS["squad2"], path, tokenizer, length, stride, query, "train", num_workers=1)
        return
    windows = encode_windows(TASKS["squad2"], path, tokenizer, length, stride, query, "train", num_workers=1)
    assert [(tokenizer.convert_ids_to_tokens(windows.tokens[pieces_of(windows, index)].tolist()),
             tuple(windows.labels[index].tolist())) for index in range(len(windows))] == \
        [(tokens, label) for _, tokens, _, _, label in learnt]
    scored = encode_windows(TASKS["squad2"], path, tokenizer, length, stride, query, "score", num_workers=1)
    everything = naive_windows(Passage(context, tuple(Question(q.id, q.text, ()) for q in questions)), tokenizer,
                               length, stride, query)
    assert [(str(scored.question_of[index]),
             tokenizer.convert_ids_to_tokens(scored.tokens[pieces_of(scored, index)].tolist()),
             scored.words[pieces_of(scored, index)].tolist(),
             scored.is_max_context[pieces_of(scored, index)].astype(bool).tolist())
            for index in range(len(scored))] == \
        [window[:4] for window in everything]


def test_words():
    assert passage_words(" a  b\tc\r\nd\u202fe\u00a0f\u3000g\u2028h ") == ["a", "b", "c", "d", "e\u00a0f\u3000g\u2028h"]
    assert passage_words("") == passage_words(" \n") == []


def test_pieces_of_a_passage(tokenizer):
    pieces = PassagePieces.of(" John \u200b (18)", tokenizer)
    assert (pieces.words, pieces.starts, pieces.firsts) == (["John", "\u200b", "(18)"], [1, 6, 8], [0, 1, 1, 5])
    assert tokenizer.convert_ids_to_tokens(pieces.ids) == ["john", "(", "1", "##8", ")"]
    assert pieces.word_of_pieces().tolist() == [0, 2, 2, 2, 2] and pieces.word_of_pieces().dtype == np.int32


@pytest.mark.parametrize("text,start,wanted", [
    ("1895", 27, (10, 13)), ("1943", 32, (15, 18)), ("Smith (1895", 20, (8, 13)), ("John Smith", 15, (7, 8)),
    ("leader was", 4, (1, 6)), ("1943).", 32, (15, 20)), (").", 36, (19, 20)), ("The", 0, (0, 0)),
    ("mit", 21, (8, 8)), ("5-1", 30, (9, 20)),  # begins inside a piece: all pieces of its words
    ("smith", 20, None)])                       # not what stands there
def test_pieces_of_an_answer(text, start, wanted, tokenizer):
    pieces = PassagePieces.of("The leader was John Smith (1895-1943).", tokenizer)
    assert tokenizer.convert_ids_to_tokens(pieces.ids) == [
        "the", "l", "##e", "##a", "##d", "##er", "was", "john", "smith", "(", "1", "##8", "##9", "##5", "-", "1",
        "##9", "##4", "##3", ")", "."]
    assert pieces.find(text, start, tokenizer) == wanted


def test_answers_without_pieces_or_words(tokenizer):
    assert PassagePieces.of("  a", tokenizer).find(" a", 1, tokenizer) is None  # begins before the first word
    assert PassagePieces.of("a \u200b b", tokenizer).find("\u200b", 2, tokenizer) is None
    assert PassagePieces.of("a \u200b b", tokenizer).find("\u200b b", 2, tokenizer) == (1, 1)
    assert PassagePieces.of("a\u00a0b c", tokenizer).find("a\u00a0b", 0, tokenizer) is None  # run_squad's own rule
    assert PassagePieces.of("a  b", tokenizer).find("a  b", 0, tokenizer) == (0, 1)


@pytest.mark.parametrize("pieces,room,stride,wanted", [
    (0, 5, 3, []), (1, 5, 3, [(0, 1)]), (5, 5, 3, [(0, 5)]), (6, 5, 3, [(0, 5), (3, 6)]), (8, 5, 3, [(0, 5), (3, 8)]),
    (9, 5, 3, [(0, 5), (3, 8), (6, 9)]), (9, 4, 100, [(0, 4), (4, 8), (8, 9)]), (3, 1, 1, [(0, 1), (1, 2), (2, 3)])])
def test_where_windows_are_cut(pieces, room, stride, wanted):
    assert cut_windows(pieces, room, stride) == wanted
    assert [window[:2] for window in windows_with_max_context(pieces, room, stride)] == wanted


def test_max_context_by_hand():
    # Pieces 3 and 4 are in both. Least neighbours of 3: 1 and 0; of 4: 0 and 1. Piece 5: 2 in the second alone.
    assert [window[2].tolist() for window in windows_with_max_context(8, 5, 3)] == [[1, 1, 1, 1, 0], [0, 1, 1, 1, 1]]
    # A tie of windows of one length goes to the first (piece 2 is first or last of three), a longer window wins.
    assert [window[2].tolist() for window in windows_with_max_context(5, 3, 2)] == [[1, 1, 1], [0, 1, 1]]
    assert [window[2].tolist() for window in windows_with_max_context(4, 3, 2)] == [[1, 1, 1], [0, 1]]


@pytest.mark.parametrize("answer,wanted", [
    (None, (0, 0)), ((10, 12), (7, 9)), ((10, 19), (7, 16)), ((19, 19), (16, 16)), ((9, 12), (0, 0)),
    ((18, 20), (0, 0)), ((20, 20), (0, 0)), ((9, 9), (0, 0))])
def test_label_of_a_window(answer, wanted):
    assert label_of(answer, 10, 20, 5) == wanted


# The reader.

def test_what_is_read(tmp_path):
    path = file_of(tmp_path / "a.json", [
        article(question(" id ", " What? ", [("fox", 6), ("red fox", 2)]), question("2", answers=[("A", 0)])),
        {"paragraphs": [{"qas": [], "context": ""}, {"qas": [question("3")], "context": CONTEXT, "other": 1}],
         "other": [1, {}], "title": ""}])
    assert list(read_passages(path, unanswerable=False)) == [
        Passage(CONTEXT, (Question(" id ", " What? ", (("fox", 6), ("red fox", 2))),
                          Question("2", "What sat?", (("A", 0),)))),
        Passage("", ()), Passage(CONTEXT, (Question("3", "What sat?", (("fox", 6),)),))]


def test_what_is_read_of_the_second_version(tmp_path):
    path = file_of(tmp_path / "a.json", [article(
        question("1", is_impossible=False), question("2", answers=[], is_impossible=True, plausible_answers=[{"x": 1}]),
        question("3", answers=[]), question("4"))], "v2.0")
    (passage,) = read_passages(path, unanswerable=True)
    assert [asked.answers for asked in passage.questions] == [(("fox", 6),), (), (), (("fox", 6),)]


def test_a_file_that_is_to_be_answered(tmp_path):
    asked = [{"id": "1", "question": "?"}, question("2"), question("3", answers=[]),
             question("4", answers=[], is_impossible=True), question("5", answers=[], is_impossible=False)]
    (passage,) = read_passages(file_of(tmp_path / "a.json", [article(*asked)], "v2.0"), True, has_answers=False)
    assert [asked.answers for asked in passage.questions] == [None, (("fox", 6),), None, (), None]
    del asked[3]
    (passage,) = read_passages(file_of(tmp_path / "a.json", [article(*asked)]), False, has_answers=False)
    assert [asked.answers for asked in passage.questions] == [None, (("fox", 6),), None, None]


def spelled(value: object, rng: random.Random) -> str:
    """JSON with spaces anywhere."""
    def space() -> str:
        return rng.choice(["", " ", "\n", "\r\n\t  "])
    if isinstance(value, dict):
        inside = ",".join(f"{space()}{json.dumps(key)}{space()}:{spelled(member, rng)}"
                          for key, member in value.items())
        return f"{space()}{{{inside or space()}}}{space()}"
    if isinstance(value, list):
        return f"{space()}[{','.join(spelled(item, rng) for item in value) or space()}]{space()}"
    return f"{space()}{json.dumps(value, ensure_ascii=rng.random() < 0.5)}{space()}"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 40, 1 << 16])
def test_any_cut_into_blocks_reads_the_same(size, tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "_BYTES_AT_A_TIME", size)
    content = {"n": -12.5e-3, "on": True, "data": GOLDEN["data_v2"]["data"][:1], "none": [None, [], {}],
               "long": 10 ** 60, "version": "v2.0", "number": 1.25}
    content["data"] = [*content["data"], *({**article(question(f"é{n} \U0001f600")), "a": n / 7} for n in range(4))]
    path = tmp_path / "a.json"
    path.write_text(spelled(content, random.Random(size)), encoding="utf-8", newline="")
    passages = list(read_passages(path, unanswerable=True))
    assert [passage.context for passage in passages] == [
        paragraph["context"] for entry in content["data"] for paragraph in entry["paragraphs"]]
    assert [asked.id for passage in passages for asked in passage.questions] == [
        asked["id"] for entry in content["data"] for paragraph in entry["paragraphs"] for asked in paragraph["qas"]]


def test_order_of_keys_mark_and_progress(tmp_path):
    text = json.dumps({"data": [article(question())], "version": "1.1"})
    for content in (text, "\ufeff" + text, text + "\n \n"):
        (tmp_path / "a.json").write_text(content, encoding="utf-8")
        ((passage, read),) = passages_with_progress(tmp_path / "a.json", False, True)
        assert passage.questions[0].id == "q1" and read == len(content.encode()) - 3 * content.startswith("\ufeff")


@pytest.mark.parametrize("version,task,accepted", [
    ("1.1", 1, True), ("v1.1", 1, True), ("1.0", 1, True), (1.1, 1, True), ("mine", 1, True), ("", 1, True),
    (None, 2, True), ("v2.0", 2, True), ("V2.0", 2, True), (2, 2, True), ("mine", 2, True), ("v2.0", 1, False),
    ("2.0", 1, False), ("1.1", 2, False)])
@pytest.mark.parametrize("last", [False, True])
def test_versions(version, task, accepted, last, tmp_path):
    content = {"version": version, "data": [article(question())]}
    (tmp_path / "a.json").write_text(json.dumps(dict(reversed(content.items())) if last else content))
    if accepted:
        assert len(list(read_passages(tmp_path / "a.json", unanswerable=task == 2))) == 1
        return
    with pytest.raises(InputError) as error:
        list(read_passages(tmp_path / "a.json", unanswerable=task == 2))
    assert str(error.value) == f"{tmp_path}/a.json is SQuAD of version {version}: its task is squad{3 - task}"


IMPOSSIBLE = question("q2", answers=[], is_impossible=True)


@pytest.mark.parametrize("task,data,message", [
    (1, {}, ", byte 27: 'data' is to be a list"), (1, [[]], ", byte 28: article 1 is to be a table in braces"),
    (1, [], " holds no questions: name a file that asks some"),
    (1, [article()], " holds no questions: name a file that asks some"),
    (1, [{"paragraphs": 3}], ", byte 43: article 1, 'paragraphs' is to be a list"),
    (1, [{"title": "T", "paragraphs": {}}], ", byte 57: article 'T', 'paragraphs' is to be a list"),
    (1, [article(question()), {"title": "T"}], ", article 'T': no key 'paragraphs'"),
    (1, [{"paragraphs": []}, {}], ", article 2: no key 'paragraphs'"),
    (1, [{"title": 1}], ", article 1: 'title' is to be a text"),
    (1, [{"title": "T", "paragraphs": [[]]}], ", article 'T', paragraph 1: not a table in braces with the key "
                                              "'context'"),
    (1, [{"title": "T", "paragraphs": [{"qas": []}]}], ", article 'T', paragraph 1: no key 'context'"),
    (1, [{"title": "T", "paragraphs": [{"context": "x", "qas": []}, {"context": "x"}]}],
     ", article 'T', paragraph 2: no key 'qas'"),
    (1, [article(context=1)], ", article 'Foxes', paragraph 1: 'context' is to be a text"),
    (1, [{"title": "T", "paragraphs": [{"context": "x", "qas": {}}]}],
     ", article 'T', paragraph 1: 'qas' is to be a list"),
    (1, [article(question(), 1)],
     ", article 'Foxes', paragraph 1, question 2: not a table in braces with the key 'id'"),
    (1, [article({})], ", article 'Foxes', paragraph 1, question 1: no key 'id'"),
    (1, [article({"id": 3})], ", article 'Foxes', paragraph 1, question 1: 'id' is to be a text"),
    (1, [article({"id": "q"})], ", article 'Foxes', paragraph 1, question 'q': no key 'question'"),
    (1, [article({"id": "q", "question": "?"})],
     ", article 'Foxes', paragraph 1, question 'q': no key 'answers': without them it can be answered (task_distill.py "
     "--do_predict), not learnt or scored: name a file with answers"),
    (1, [article({"id": "q", "question": "?", "answers": "x"})],
     ", article 'Foxes', paragraph 1, question 'q': 'answers' is to be a list"),
    (1, [article({"id": "q", "question": "?", "answers": ["x"]})],
     ", article 'Foxes', paragraph 1, question 'q': not a table in braces with the key 'text'"),
    (1, [article({"id": "q", "question": "?", "answers": [{"text": "x"}]})],
     ", article 'Foxes', paragraph 1, question 'q': no key 'answer_start'"),
    (1, [article(question(answers=[("x", True)]))],
     ", article 'Foxes', paragraph 1, question 'q1': 'answer_start' is to be a whole number"),
    (1, [article(question(answers=[("x", 1.0)]))],
     ", article 'Foxes', paragraph 1, question 'q1': 'answer_start' is to be a whole number"),
    (2, [article(question(is_impossible=0))],
     ", article 'Foxes', paragraph 1, question 'q1': 'is_impossible' is to be true or false"),
    (1, [article(question(), IMPOSSIBLE)],
     ", article 'Foxes', paragraph 1, question 'q2': unanswerable, which v1.1 does not have: the task of this file is "
     "squad2"),
    (1, [article(question(answers=[]))],
     ", article 'Foxes', paragraph 1, question 'q1': 'answers' is empty, and v1.1 has "
     "no unanswerable questions: correct it, or take the task squad2"),
    (2, [article(question(is_impossible=True))],
     ", article 'Foxes', paragraph 1, question 'q1': 'is_impossible' is true "
     "and 'answers' has 1: correct one of them"),
    (2, [article(question(answers=[], is_impossible=False))], ", article 'Foxes', paragraph 1, question 'q1': "
     "'is_impossible' is false and 'answers' is empty: correct one of them"),
    (1, [article(question("1"), question("2")), article(question("1"))],
     ", article 'Foxes', paragraph 1, question '1': another question has this id: give it one of its own"),
    (1, [article(question(), context="ab\ud83d")],
     ", article 'Foxes', paragraph 1: 'context' holds half of a character, "
     "\\ud83d, its character 2: correct it, or take it out"),
    (1, [article(question(text="\udc00"))], ", article 'Foxes', paragraph 1, question 'q1': 'question' holds half of a "
     "character, \\udc00, its character 0: correct it, or take it out")])
def test_errors_name_the_place(task, data, message, tmp_path):
    path = file_of(tmp_path / "a.json", data, "1.1" if task == 1 else "2.0")
    with pytest.raises(InputError) as error:
        list(read_passages(path, unanswerable=task == 2))
    mended = re.sub(r"(is to be [\w ]+|key '\w+')$", r"\1: correct it, or get or make the file again", message)
    assert str(error.value) == f"{path}{mended}"


def test_an_unanswerable_question_is_none_of_v1_without_answers_either(tmp_path):
    with pytest.raises(InputError, match="question 'q2': unanswerable, which v1.1 does not have"):
        list(read_passages(file_of(tmp_path / "a.json", [article(IMPOSSIBLE)]), False, has_answers=False))


@pytest.mark.parametrize("content,message", [
    (b"", " is cut short: it ends at byte 0, in the middle of its JSON: get or make it again"),
    (b"  \n", " is cut short: it ends at byte 3, in the middle of its JSON: get or make it again"),
    (b"[]", ", byte 0: the file is to be a table in braces"),
    (b"\xef\xbb\xbf[]", ", byte 3: the file is to be a table"),
    (b"{}", " has no key 'data' and is no SQuAD file: get it again, or name another"),
    (b'{"data": 1', ", byte 9: 'data' is to be a list"),
    (b'{"data": []} x', ", byte 13: something follows the JSON that ends there: get or make it again"),
    (b'{"version": "augmented"}\n{}',
     " is what data_augmentation.py made, questions without answers: name the original"),
    (b'{"a" 1}', ", byte 5: not valid JSON (expected :): get or make it again"),
    (b'{"a": 1; "b": 2}', ", byte 7: not valid JSON (expected , or }): get or make it again"),
    (b'{"a": 1, b: 2}', ", byte 9: not valid JSON (expected a name in quotes): get or make it again"),
    ('{"é": nul}'.encode(), ", byte 7: not valid JSON (Expecting value): get or make it again"),
    (b'{"a": [1 2], "b": "' + b"x" * 100 + b'"}', ", byte 9: not valid JSON (Expecting ',' delimiter): get or make it"),
    (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", ", byte 6: not valid JSON"),
    (b'{"a": ' + b"1" * 10_000 + b"}", ", byte 6: not valid JSON"),
    (b'{"a": "\xff"}', ": not valid UTF-8 at byte 7; convert the file to UTF-8"),
    (b'{"a": "' + b"\xc3\xa9" * 40_000 + b'\xc3"}', ": not valid UTF-8 at byte 80007; convert the file to UTF-8"),
    (b"<!DOCTYPE html>", " is a web page"), (b"PK\x03\x04", " is a zip archive: unpack it")])
def test_what_is_no_squad_file(content, message, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=f"^{re.escape(f'{tmp_path}/a.json{message}')}"):
        list(read_passages(tmp_path / "a.json", unanswerable=False))


def test_no_file(tmp_path):
    with pytest.raises(InputError, match="nothing.json does not exist: name a file$"):
        list(read_passages(tmp_path / "nothing.json", unanswerable=False))
    with pytest.raises(InputError, match="is no file: name a file$"):
        list(read_passages(tmp_path, unanswerable=False))


@pytest.mark.parametrize("block", [5, 1 << 16])
def test_a_file_that_is_cut_short(block, tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "_BYTES_AT_A_TIME", block)
    whole = json.dumps({"version": "1.1", "n": [1.5, True, None], "data": [article(question("\u00e9\U0001f600"))]})
    for end in range(1, len(whole)):
        (tmp_path / "a.json").write_text(whole[:end])
        with pytest.raises(InputError) as error:
            list(read_passages(tmp_path / "a.json", unanswerable=False))
        assert str(error.value) == (f"{tmp_path}/a.json is cut short: it ends at byte {end}, in the middle of its "
                                    "JSON: get or make it again")


def test_what_never_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "MAX_LINE_BYTES", 1 << 20)
    monkeypatch.setattr(json_stream, "_BYTES_AT_A_TIME", 1 << 18)
    (tmp_path / "a.json").write_text('{"version": "' + "x" * (5 << 20))
    with pytest.raises(InputError, match="a.json: what begins at byte 12 has no end within 1 MB: get or make the file"):
        list(read_passages(tmp_path / "a.json", unanswerable=False))


def test_ids_are_told_apart_after_many(tmp_path, monkeypatch):
    monkeypatch.setattr(squad, "_IDS_AT_A_TIME", 4)
    asked = [question(str(number)) for number in range(11)]
    assert len(next(read_passages(file_of(tmp_path / "a.json", [article(*asked)]), False)).questions) == 11
    for again in range(11):
        with pytest.raises(InputError, match=f"question '{again}': another question has this id"):
            list(read_passages(file_of(tmp_path / "a.json", [article(*asked, question(str(again)))]), False))


@pytest.mark.parametrize("text,start,told", [
    ("fox", 5, "'fox' is to stand at character 5, where ' fo' stands"), ("fox", 6, None),
    ("Fox", 6, "where 'fox' stands"), ("it.", 26, None), ("it.x", 26, "where 'it.' stands"),
    ("A", 0, None), ("fox", 0, "where 'A r' stands"),
    ("x", 29, "where nothing stands"), ("x", 1000, "where nothing stands"),
    ("A", -29, "is to stand at character -29, where nothing stands"),
    ("", 3, "where 'e' stands"), (" ", 1, "where ' ' stands")])
def test_answers_that_stand_elsewhere(text, start, told):
    passages = [Passage(CONTEXT, (Question("n", "?", None), Question("u", "?", ()),
                                  Question("id", "?", ((text, start), ("second", 0)))))]
    found = list(misplaced_answers(passages))
    assert len(found) == (told is not None)
    assert not found or found[0].startswith(f"question 'id': {text!r} is to stand at character {start}, where ")
    assert not found or found[0].endswith(told)
