"""Windows over passages as arrays on disk: what is counted and refused, what is made again, kills, memory."""
from __future__ import annotations

import json
import os
import random
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import killed_at_the_fourth_part, write_lines
from transformer import files
from transformer.data import windows as module
from transformer.data.features import Sequences, show_examples
from transformer.data.windows import Windows, encode_windows
from transformer.files import InputError
from transformer.tasks.table import TASKS
from transformer.tokenization import BertTokenizer

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "dog", "sat", "ran", "who", "what", "##s", "?",
          ".", "red", "a", "b"]
WORDS = ["the", "cats", "dog", "sat", "ran.", "red", "a", "b"]
LENGTHS = (16, 4, 5)  # of a window, between starts, of a question


@pytest.fixture
def tokenizer(tmp_path) -> BertTokenizer:
    return BertTokenizer(write_lines(tmp_path / "vocab.txt", PIECES))


def passages(count: int, questions: int = 3) -> list[dict]:
    """Paragraphs of random words; every third question is unanswerable."""
    rng = random.Random(count)
    result = []
    for number in range(count):
        words = rng.choices(WORDS, k=rng.randint(1, 30))
        starts = [sum(len(word) + 1 for word in words[:place]) for place in range(len(words))]
        chosen = [rng.randrange(len(words)) for _ in range(questions)]
        result.append({"context": " ".join(words), "qas": [
            {"id": f"{number}-{index}", "question": " ".join(["who", *rng.choices(WORDS, k=rng.randint(0, 8))]),
             "is_impossible": index % 3 == 2, "answers": [] if index % 3 == 2 else
             [{"text": words[place], "answer_start": starts[place]}]} for index, place in enumerate(chosen)]})
    return result


def write_squad(path: Path, paragraphs: list[dict], version: str = "v2.0") -> Path:
    path.write_text(json.dumps({"version": version, "data": [{"title": "T", "paragraphs": paragraphs}]}))
    return path


def write_augmented(path: Path, paragraphs: list[dict], first: str = '{"version": "augmented"}') -> Path:
    lines = [json.dumps({"context": paragraph["context"], "qas": [
        {"id": f"{asked['id']}#0", "question": asked["question"]} for asked in paragraph["qas"]]})
        for paragraph in paragraphs]
    return write_lines(path, [first, *lines] if first else lines)


def one(context: str, *questions: dict) -> dict:
    return {"context": context, "qas": list(questions)}


def ask(question_id: str, *answers: tuple[str, int], text: str = "who ?") -> dict:
    return {"id": question_id, "question": text,
            "answers": [{"text": answer, "answer_start": start} for answer, start in answers]}


def read_back(sequences: Sequences) -> list[np.ndarray]:
    arrays = [sequences.tokens, sequences.offsets, sequences.first_lengths]
    if isinstance(sequences, Windows):
        arrays += [sequences.question_of, sequences.words, sequences.is_max_context]
    return [array.tolist() for array in arrays] + [None if sequences.labels is None else sequences.labels.tolist()]


@pytest.mark.parametrize("use", ["train", "score", "answer"])
def test_parts_and_workers_change_nothing(use, tokenizer, tmp_path):
    path = write_squad(tmp_path / "a.json", passages(40))

    def encoded(cache: str | None, workers: int, part_bytes: int) -> list[np.ndarray]:
        return read_back(encode_windows(TASKS["squad2"], path, tokenizer, *LENGTHS, use, cache and tmp_path / cache,
                                        num_workers=workers, part_bytes=part_bytes))

    whole = encoded(None, 1, 1 << 20)
    assert encoded("one", 1, 100) == encoded("two", 2, 300) == encoded(None, 3, 900) == whole
    assert len(whole[2]) > 120  # more windows than questions


def test_what_comes_back(tokenizer, tmp_path):
    path = write_squad(tmp_path / "a.json", passages(20))
    made = {use: encode_windows(TASKS["squad2"], path, tokenizer, *LENGTHS, use, tmp_path / "cache", num_workers=1)
            for use in ("train", "score", "answer")}
    train, score, answer = made.values()
    assert type(train) is Sequences and train.labels.shape == (len(train), 2) and train.labels.dtype == np.int32
    assert type(score) is type(answer) is Windows and score.labels is answer.labels is None
    assert score.question_of.dtype == score.words.dtype == np.int32 and score.is_max_context.dtype == np.uint8
    assert len(score.words) == len(score.is_max_context) == len(score.tokens)
    assert score.nbytes == sum(file.stat().st_size for file in (tmp_path / "cache" / score.key).iterdir()
                               if "." not in file.name)
    assert len({sequences.key for sequences in made.values()}) == 3
    assert all(sequences.key.startswith("squad2_") for sequences in made.values())
    asked = list(score.questions())
    assert [question.id for question, _, _ in asked] == [f"{n}-{i}" for n in range(20) for i in range(3)]
    assert [index for _, _, own in asked for index in own] == list(range(len(score)))
    assert score.unanswerable_share() == answer.unanswerable_share() == pytest.approx(1 / 3)


def test_questions_without_windows_stand_in_their_order(tokenizer, tmp_path, capsys):
    path = write_squad(tmp_path / "a.json", [one("", ask("1")), one("cat", ask("2"), ask("3")),
                                             one(" \u200b\n", ask("4")), one("dog", ask("5")), one("", ask("6"))])
    windows = encode_windows(TASKS["squad2"], path, tokenizer, *LENGTHS, "score", num_workers=1)
    assert [(question.id, words, own) for question, words, own in windows.questions()] == [
        ("1", [], range(0)), ("2", ["cat"], range(1)), ("3", ["cat"], range(1, 2)), ("4", ["\u200b"], range(2, 2)),
        ("5", ["dog"], range(2, 3)), ("6", [], range(3, 3))]
    assert windows.question_of.tolist() == [1, 2, 4] and windows.unanswerable_share() == 1
    assert capsys.readouterr().out == \
        f"{path}: 3 questions have no windows: there are no wordpieces in their passages\n"
    for use in ("train", "score"):
        with pytest.raises(InputError, match="b.json gives no windows: none of its 2 questions has a passage with"):
            encode_windows(TASKS["squad2"], write_squad(tmp_path / "b.json", [one("", ask("1"), ask("2"))]), tokenizer,
                           *LENGTHS, use, tmp_path / "cache")


def test_skipped_questions_are_counted_and_told_once(tokenizer, tmp_path, capsys):
    good = [one("the cats sat.", ask(f"g{number}", ("cats", 4))) for number in range(396)]
    bad = [ask("m1", ("cat", 3)), ask("m2", ("dog", 4)), ask("m3", ("sat", 99)), ask("m4", ("", 4))]
    other = [one("a\u00a0b \u200b", ask("u1", ("a\u00a0b", 0)), ask("u2", ("\u200b", 4)), ask("s", ("b", 2), ("a", 0))),
             one("the cats sat.", *bad)]

    def encoded(paragraphs: list[dict]) -> Sequences:
        path = write_squad(tmp_path / "a.json", [*other, *paragraphs], "1.1")
        return encode_windows(TASKS["squad1"], path, tokenizer, *LENGTHS, "train", tmp_path / "cache", num_workers=1,
                              part_bytes=1000)

    for out in (f"{tmp_path}/a.json: skipped 4 questions whose answers do not stand where the file says: "
                "question 'm1': 'cat' is to stand at character 3, where ' ca' stands; question 'm2': 'dog' is to stand "
                "at character 4, where 'cat' stands; question 'm3': 'sat' is to stand at character 99, where nothing "
                f"stands\n{tmp_path}/a.json: skipped 2 questions whose answers are no words of their passages (a space "
                f"in them is none there, or they have no wordpieces)\n{tmp_path}/a.json: 1 questions have several "
                "answers: the first is learnt\n", ""):
        sequences = encoded(good)
        assert capsys.readouterr().out == out and len(sequences) == 397
        # "a b": both pieces of the first of its words, for it is the whole word that is not cut.
        assert sequences.labels[0].tolist() == [5, 5] and sequences.labels[1:].tolist() == [[5, 6]] * 396
    for _ in range(2):  # 4 of 403 are 1%, 4 of 399 are more
        with pytest.raises(InputError) as error:
            encoded(good[:392])
        assert str(error.value) == (
            f"{tmp_path}/a.json: 4 of 399 answers do not stand where the file says, as that of question 'm1': 'cat' is "
            "to stand at character 3, where ' ca' stands: 'answer_start' counts characters, not bytes, of the passage "
            "as it stands there, from 0; correct it")
    other[1]["qas"] = bad[:3]
    assert len(encoded([])) == 1  # three are not too many of any file


def test_answers_that_stand_elsewhere_do_not_matter_to_scores(tokenizer, tmp_path, capsys):
    path = write_squad(tmp_path / "a.json", [one("the cats sat.", *(ask(str(n), ("cat", 3)) for n in range(9)))], "1.1")
    assert len(encode_windows(TASKS["squad1"], path, tokenizer, *LENGTHS, "score")) == 9
    assert not capsys.readouterr().out


@pytest.mark.parametrize("lengths,message", [
    ((8, 4, 5), "--max_seq_length 8 leaves no room for a passage beside a question of --max_query_length 5 and three "),
    ((9, 0, 5), "--max_query_length 5 and --doc_stride 0 have to be at least 1"), ((9, 4, 5), None),
    ((9, 4, 0), "--max_query_length 0 and --doc_stride 4 have to be at least 1"), ((9, 1, 1), None)])
def test_lengths(lengths, message, tokenizer, tmp_path):
    path = write_squad(tmp_path / "a.json", passages(3))
    if message is None:
        assert encode_windows(TASKS["squad2"], path, tokenizer, *lengths, "score").lengths.max() <= 9
        return
    with pytest.raises(InputError, match=f"^{message}"):
        encode_windows(TASKS["squad2"], path, tokenizer, *lengths, "score")


def test_a_file_without_answers(tokenizer, tmp_path):
    asked = {"id": "1", "question": "who ?"}
    path = write_squad(tmp_path / "a.json", [one("the cats", asked)])
    for use in ("score", "train"):
        with pytest.raises(InputError, match="question '1': no key 'answers': without them it can be answered"):
            encode_windows(TASKS["squad2"], path, tokenizer, *LENGTHS, use, tmp_path / "cache")
    windows = encode_windows(TASKS["squad2"], path, tokenizer, *LENGTHS, "answer", tmp_path / "cache")
    ((question, _, own),) = windows.questions()
    assert question.answers is None and own == range(1) and windows.unanswerable_share() == 0


def test_no_file(tokenizer, tmp_path):
    for use, how in (("train", "make it with `python download_glue.py --tasks SQuAD1`"),
                     ("augmented", "data_augmentation.py makes it")):
        with pytest.raises(InputError, match=f"a.json does not exist: .*{how}"):
            encode_windows(TASKS["squad1"], tmp_path / "a.json", tokenizer, *LENGTHS, use)
    with pytest.raises(InputError, match="a.json does not exist: name a file of questions"):
        encode_windows(TASKS["squad1"], tmp_path / "a.json", tokenizer, *LENGTHS, "answer")


# Augmented passages.

@pytest.mark.parametrize("workers", [1, 2])
def test_augmented_passages(workers, tokenizer, tmp_path):
    paragraphs = passages(30)
    path = write_augmented(tmp_path / "train_aug.jsonl", paragraphs)
    augmented = encode_windows(TASKS["squad2"], path, tokenizer, *LENGTHS, "augmented", tmp_path / "cache",
                               num_workers=workers, part_bytes=700)
    wanted = encode_windows(TASKS["squad2"], write_squad(tmp_path / "a.json", paragraphs), tokenizer, *LENGTHS, "score")
    assert type(augmented) is Sequences and augmented.labels is None
    assert read_back(augmented)[:3] == read_back(wanted)[:3]


@pytest.mark.parametrize("change,message", [
    (lambda lines: lines[1:], ', line 1: not {"version": "augmented"}, as data_augmentation.py writes it'),
    (lambda lines: ["[1]", *lines], ', line 1: not {"version": "augmented"}'), (lambda lines: [""], ", line 1: not {"),
    (lambda lines: [*lines[:9], lines[9][:-1]], ", line 10: not valid JSON (Expecting ',' delimiter: line 1 column "),
    (lambda lines: [*lines[:9], ""], ", line 10: not valid JSON"),
    (lambda lines: [lines[0], "", *lines[1:]], ", line 2: not valid JSON"),
    (lambda lines: [*lines[:9], "[]"], ", line 10: not a table in braces with the key 'context'"),
    (lambda lines: [*lines[:9], '{"context": 3}'], ", line 10: 'context' is to be a text"),
    (lambda lines: [*lines[:9], '{"context": "a", "qas": [{"id": "x"}]}'],
     ", line 10, question 'x': no key 'question'"),
    (lambda lines: lines[:1], " gives no windows")])
def test_damaged_augmented_passages(change, message, tokenizer, tmp_path):
    path = write_augmented(tmp_path / "train_aug.jsonl", passages(20))
    write_lines(path, change(path.read_text().splitlines()))
    with pytest.raises(InputError, match=f"^{re.escape(f'{path}{message}')}"):
        encode_windows(TASKS["squad2"], path, tokenizer, *LENGTHS, "augmented", tmp_path / "cache", part_bytes=300)


def test_an_augmented_file_is_not_learnt_from(tokenizer, tmp_path):
    path = write_augmented(tmp_path / "train_aug.jsonl", passages(2))
    with pytest.raises(InputError, match="is what data_augmentation.py made, questions without answers"):
        encode_windows(TASKS["squad2"], path, tokenizer, *LENGTHS, "train")


# What is kept.

def test_what_is_made_again(tokenizer, tmp_path, monkeypatch):
    path, cache = write_squad(tmp_path / "a.json", passages(9)), tmp_path / "cache"

    def encoded(task="squad2", lengths=LENGTHS, use="train", text=tokenizer) -> Sequences:
        return encode_windows(TASKS[task], path, text, *lengths, use, cache, num_workers=1)

    first = encoded()
    keys = {first.key}
    for more in ({"lengths": (17, 4, 5)}, {"lengths": (16, 3, 5)}, {"lengths": (16, 4, 6)}, {"use": "score"},
                 {"use": "answer"}, {"text": BertTokenizer(tokenizer.vocab_file, do_lower_case=False)}):
        keys.add(encoded(**more).key)
    assert len(keys) == len(list(cache.iterdir())) == 7
    with monkeypatch.context() as patch:
        patch.setattr(module, "_encode_passages", None)
        path = path.rename(tmp_path / "b.json")
        assert read_back(encoded()) == read_back(first) and encoded().key == first.key
    write_squad(path, passages(10))
    assert encoded().key not in keys
    for name in ("tokens", "labels", "manifest.json"):
        os.truncate(cache / first.key / name, (cache / first.key / name).stat().st_size // 2)
        assert read_back(encode_windows(TASKS["squad2"], write_squad(tmp_path / "c.json", passages(9)), tokenizer,
                                        *LENGTHS, "train", cache, num_workers=1)) == read_back(
            encode_windows(TASKS["squad2"], tmp_path / "c.json", tokenizer, *LENGTHS, "train", num_workers=1))


def test_a_file_that_changed(tokenizer, tmp_path, monkeypatch):
    path, encode = write_squad(tmp_path / "a.json", passages(9)), module._encode_passages
    windows = encode_windows(TASKS["squad2"], path, tokenizer, *LENGTHS, "score", tmp_path / "cache")
    os.utime(path, (1, 1))
    assert len(list(windows.questions())) == 27  # the same bytes
    write_squad(path, passages(8))
    for read in (lambda: list(windows.questions()), windows.unanswerable_share):
        with pytest.raises(InputError, match="a.json is not the file any more that the windows were made from"):
            read()
    path.unlink()
    with pytest.raises(InputError, match="a.json is not the file any more"):
        list(windows.questions())
    write_squad(path, passages(8))

    def change(part):
        os.utime(path, (2, 2))
        return encode(part)

    monkeypatch.setattr(module, "_encode_passages", change)
    with pytest.raises(InputError, match="a.json changed while it was read"):
        encode_windows(TASKS["squad2"], path, tokenizer, *LENGTHS, "score", tmp_path / "cache", num_workers=1)


def test_a_killed_run_goes_on(tokenizer, tmp_path):
    """With the number of the question that comes next."""
    path = write_squad(tmp_path / "a.json", passages(30))
    killed_at_the_fourth_part(tmp_path, "windows", "_encode_passages", """
windows.encode_windows(TASKS["squad2"], folder / "a.json", BertTokenizer(folder / "vocab.txt"), 16, 4, 5, "score",
                       folder / "cache", num_workers=1, part_bytes=1000)""")
    sequences = encode_windows(TASKS["squad2"], path, tokenizer, *LENGTHS, "score", tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert read_back(sequences) == read_back(encode_windows(TASKS["squad2"], path, tokenizer, *LENGTHS, "score"))


@pytest.mark.parametrize("use", ["score", "augmented"])
def test_memory_does_not_grow_with_the_file(use, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_JSON_BYTES", 1 << 12)  # room that is made for each manifest

    def peak(copies: int) -> int:
        path = tmp_path / f"{copies}.json"
        paragraphs = [{**paragraph, "qas": [{**asked, "id": f"{copy}-{asked['id']}"} for asked in paragraph["qas"]]}
                      for copy in range(copies) for paragraph in passages(50)]
        (write_augmented if use == "augmented" else write_squad)(path, paragraphs)
        del paragraphs
        tracemalloc.start()
        made = encode_windows(TASKS["squad2"], path, tokenizer, *LENGTHS, use, tmp_path / f"cache{copies}",
                              num_workers=1, part_bytes=10_000)
        if use == "score":
            assert sum(1 for _ in made.questions()) == 150 * copies
        reached = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return reached

    peak(3)  # what is loaded or remembered once
    small, large = peak(2), peak(20)
    arrays = sum(file.stat().st_size for file in (tmp_path / "cache20").rglob("*") if file.is_file())
    assert large < small + arrays / 2  # ids that were met and words that are remembered: both are bounded


def test_they_are_shown(tokenizer, tmp_path, capsys):
    path = write_squad(tmp_path / "a.json", [one("the cats sat.", ask("1", ("sat", 9)), ask("2", ("cats", 4)))], "1.1")
    show_examples(encode_windows(TASKS["squad1"], path, tokenizer, *LENGTHS, "train"), tokenizer, 1)
    show_examples(encode_windows(TASKS["squad1"], path, tokenizer, *LENGTHS, "score"), tokenizer, 1)
    assert capsys.readouterr().out == (
        "example 0: [CLS] who ? [SEP] the cat ##s sat . [SEP]  (segment 0: 4 of 10)  label 7 7\n"
        "example 0: [CLS] who ? [SEP] the cat ##s sat . [SEP]  (segment 0: 4 of 10)\n")
