"""data_augmentation.py on SQuAD, against a naive reference for the whole file, and the files that it writes."""
from __future__ import annotations

import json
import multiprocessing
import signal
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import data_augmentation
from tests.augmentation import test_augmentation as of_rows
from tests.augmentation.test_augmentation import SUFFIXES, WORDS, arguments, child, naive_candidates
from tests.conftest import names
from transformer.augmentation import passages as passages_module
from transformer.augmentation import variants as variants_module
from transformer.augmentation.candidates import MaskedLM
from transformer.checkpoint import load_tokenizer
from transformer.data import parts as parts_module
from transformer.data.windows import encode_windows
from transformer.tasks import squad
from transformer.tasks.table import TASKS

bert, glove = of_rows.bert, of_rows.glove

STAY = ("the", "a", "and", "is", "not", "in")  # of the words here those in the stop list
CONTEXTS = ["The Cat  sees\na dog .", "red BLUE\u00a0green , the birdness sings in 3 cities",
            "small cats",                           # asked nothing
            "", "the cat sees a dog .",             # the first one's words, another text
            " ".join(WORDS[:30] + WORDS[5:25]),     # longer than the model's positions
            "The Cat  sees\na dog ."]               # the first one again
QUESTIONS = [2, 1, 0, 1, 1, 2, 1]


def squad_file(contexts: list[str], questions: list[int], unanswerable: bool) -> dict:
    """A training file with so many questions about each context. Their texts have to be kept as they are."""
    paragraphs = []
    for number, (context, count) in enumerate(zip(contexts, questions, strict=True)):
        qas = []
        for asked in range(count):
            entry = {"id": f"{number:012x}{asked:012x}",
                     "question": f" Who sees \u2028 \"{asked}\", caf\u00e9 \U0001f600?",
                     "answers": [{"text": context[:3], "answer_start": 0}]}
            if unanswerable:
                entry["is_impossible"] = asked % 2 == 1 or not context
                if entry["is_impossible"]:
                    entry |= {"answers": [], "plausible_answers": [{"text": context[:3], "answer_start": 0}]}
            qas.append(entry)
        paragraphs.append({"context": context, "qas": qas})
    half = len(paragraphs) // 2
    return {"version": "v2.0" if unanswerable else "1.1", "data": [
        {"title": "One", "paragraphs": paragraphs[:half]}, {"title": "Two", "paragraphs": paragraphs[half:]}]}


def write_squad(folder: Path, key: str, contexts: list[str] = CONTEXTS, questions: list[int] = QUESTIONS) -> Path:
    task = TASKS[key]
    path = folder / task.name / task.train_file
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(squad_file(contexts, questions, task.head.unanswerable)))
    return path


def augmented(path: Path) -> Path:
    return path.with_name("train_aug.jsonl")


def objects(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def naive_neighbours(path: Path, word: str, count: int) -> list[str]:
    matrix = {line.rsplit(" ", 8)[0]: np.array(line.rsplit(" ", 8)[1:], dtype=float)
              for line in path.read_text(encoding="utf-8").splitlines()}
    if word not in matrix:
        return []
    cosine = {other: vector @ matrix[word] / np.linalg.norm(vector) / np.linalg.norm(matrix[word])
              for other, vector in matrix.items() if other != word}
    return sorted(cosine, key=cosine.get, reverse=True)[:count]


def naive_lines(data: dict, bert: Path, glove: Path, tries: int, count: int, p: float, seed: int, preset: str):
    """The whole file by its definition, one word after the other: (the objects of its lines; words that are masked)."""
    lines, masked, number = [{"version": "augmented"}], {}, -1
    for paragraph in (paragraph for article in data["data"] for paragraph in article["paragraphs"]):
        context, asked = paragraph["context"], paragraph["qas"]
        if not asked:
            continue
        number += 1
        words = context.lower().split()
        candidates = naive_candidates(bert, words, count, preset)
        masked[context] = len(candidates)
        places = [place for place, word in enumerate(words)
                  if word.isascii() and word.isalpha() and word not in STAY]
        for place in places:
            if place not in candidates:
                more = naive_neighbours(glove, words[place], count) if words[place] == "birdness" else []
                candidates[place] = more or [words[place]]
        generator = np.random.default_rng((seed, number, 0))
        draws = generator.random((tries, len(places)))
        choices = generator.integers(0, [len(candidates[place]) for place in places], (tries, len(places)))
        texts = [context]
        for draw, choice in zip(draws, choices):
            varied = list(words)
            for place, is_drawn, chosen in zip(places, draw < p, choice):
                if is_drawn:
                    varied[place] = candidates[place][chosen]
            if " ".join(varied) not in texts:
                texts.append(" ".join(varied))
        lines += [{"context": text, "qas": [{"id": f"{entry['id']}#{k}", "question": entry["question"]}
                                            for entry in asked]} for k, text in enumerate(texts)]
    return lines, sum(masked.values())


@pytest.mark.parametrize("key, preset, tries", [("squad1", "paper", 6), ("squad2", "code", 20)])
def test_the_file_is_that_of_the_naive_way(bert, glove, tmp_path, key, preset, tries, capsys):
    path = write_squad(tmp_path, key)
    data_augmentation.main(arguments(bert, glove, tmp_path, key.replace("squad", "SQuAD-v"), "--preset", preset,
                                     "--M", "4", "--p", "0.3", "--seed", "11", "--batch_tokens", "1",
                                     *(["--N", str(tries)] if tries != 20 else [])))
    expected, masked = naive_lines(json.loads(path.read_text()), bert, glove, tries, 4, 0.3, 11, preset)
    found = objects(augmented(path))
    assert found == expected
    assert len(found) > 1 + 3 * tries and all(set(line) == {"context", "qas"} for line in found[1:])
    assert names(path.parent) == sorted([path.name, "train_aug.json", "train_aug.jsonl"])

    contexts = [context for context, count in zip(CONTEXTS, QUESTIONS) if count]
    out = capsys.readouterr().out
    assert "skipped 1 passages without questions" in out
    assert (f"{path}: {len(contexts)} rows with {sum(QUESTIONS)} questions; {len(set(contexts))} different texts, "
            f"{masked} words to mask in {masked} forward passes; 1 longer words for GloVe; at most "
            f"{len(contexts) * (1 + tries)} rows with {sum(QUESTIONS) * (1 + tries)} questions are written") in out
    summary = json.loads(path.with_name("train_aug.json").read_text())
    assert (summary["rows_in"], summary["rows_out"]) == (len(contexts), len(found) - 1)
    assert (summary["questions_in"], summary["questions_out"]) == \
        (sum(QUESTIONS), sum(len(line["qas"]) for line in found[1:]))
    assert summary["duplicates_dropped"] == len(contexts) * (1 + tries) - (len(found) - 1)


def test_the_cost_is_said_before_the_long_work(bert, glove, tmp_path, monkeypatch, capsys):
    write_squad(tmp_path, "squad1")

    def stopped(*_):
        raise KeyboardInterrupt
    monkeypatch.setattr(MaskedLM, "best", stopped)
    with pytest.raises(KeyboardInterrupt):
        data_augmentation.main(arguments(bert, glove, tmp_path, "squad1", "--N", "5"))
    assert "at most 36 rows with 48 questions are written" in capsys.readouterr().out


def test_parts_and_workers_do_not_matter_and_the_seed_does(bert, glove, tmp_path, monkeypatch):
    path = write_squad(tmp_path, "squad1", [f"{context} {word}" for word in WORDS[:3] for context in CONTEXTS],
                       QUESTIONS * 3)
    results = []
    for part_bytes, workers, tokens, seed in ((1 << 16, 1, "4096", "1"), (1, 3, "50", "1"), (1 << 16, 1, "50", "2")):
        monkeypatch.setattr(passages_module, "PART_BYTES", part_bytes)
        monkeypatch.setattr(variants_module, "available_cores", lambda workers=workers: workers)
        data_augmentation.main(arguments(bert, glove, tmp_path, "squad1", "--seed", seed, "--batch_tokens", tokens))
        results.append(augmented(path).read_bytes())
    assert results[0] == results[1] != results[2]


def test_a_killed_run_goes_on_and_gives_the_same_bytes(bert, glove, tmp_path):
    """kill -9 at three moments of the masked LM's part and, the fourth time, while the passages are written."""
    path = write_squad(tmp_path, "squad2")
    argv = arguments(bert, glove, tmp_path, "squad2", "--batch_tokens", "60")
    data_augmentation.main(argv)
    uninterrupted = augmented(path).read_bytes()
    augmented(path).unlink()
    saved = 0
    for name, call in (("best", 1), ("best", 8), ("best", 15), ("rows", 3)):
        process = multiprocessing.get_context("fork").Process(target=child, args=([*argv, "--resume"], name, call))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL and not augmented(path).exists()
        done = np.fromfile(path.with_name("train_aug.unfinished") / "done", np.uint8)
        saved = saved + call - 1 if name == "best" else len(done)
        assert done.sum() == saved
    data_augmentation.main([*argv, "--resume"])
    assert augmented(path).read_bytes() == uninterrupted
    assert names(path.parent) == sorted([path.name, "train_aug.json", "train_aug.jsonl"])


@pytest.mark.parametrize("part", ["survey", "write_rows"])
def test_memory_does_not_grow_with_the_questions(bert, glove, tmp_path, monkeypatch, part):
    """The peak of what Python holds while files of 15 and of 60 passages are read, or written, with 200 questions each:
    all rows of the larger are seven megabytes, all its questions two."""
    original, peaks, sizes = getattr(data_augmentation, part), [], []

    def measured(*arguments):
        tracemalloc.start()
        result = original(*arguments)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        return result
    monkeypatch.setattr(data_augmentation, part, measured)
    monkeypatch.setattr(variants_module, "available_cores", lambda: 1)
    monkeypatch.setattr(squad, "_IDS_AT_A_TIME", 100)
    for passages in (15, 15, 60):  # the first for what is loaded and kept once
        folder = tmp_path / str(len(peaks))
        path = write_squad(folder, "squad1", [f"{WORDS[passage % 39]} {WORDS[passage * 7 % 37]}"
                                              for passage in range(passages)], [200] * passages)
        data_augmentation.main(arguments(bert, glove, folder, "squad1", "--N", "6", "--p", "0.9"))
        sizes.append((augmented if part == "write_rows" else Path)(path).stat().st_size)
    assert sizes[2] > 3.5 * sizes[1] > 1e6
    assert peaks[2] - peaks[1] < 0.4 * (sizes[2] - sizes[1])  # the ids that were met take eight bytes each, and copies


def test_the_reader_of_the_intermediate_stage_takes_it(bert, glove, tmp_path, monkeypatch):
    """One window for each question of each line whose passage has words; nobody counts lines, as for a bad one."""
    path = write_squad(tmp_path, "squad2")
    monkeypatch.setattr(parts_module, "line_number", None)
    data_augmentation.main(arguments(bert, glove, tmp_path, "squad2", "--N", "4"))
    tokenizer = load_tokenizer(bert, True)
    windows = encode_windows(TASKS["squad2"], augmented(path), tokenizer, 150, 128, 64, "augmented", num_workers=1)
    split = tokenizer.tokenize
    expected = [["[CLS]", *split(entry["question"]), "[SEP]", *split(line["context"]), "[SEP]"]
                for line in objects(augmented(path))[1:] for entry in line["qas"] if line["context"]]
    assert len(windows) == len(expected) > 4 * 7
    for number, tokens in enumerate(expected):
        start, stop = windows.offsets[number:number + 2]
        assert tokenizer.convert_ids_to_tokens(windows.tokens[start:stop].tolist()) == tokens
        assert windows.first_lengths[number] == tokens.index("[SEP]") + 1


def test_copies(capsys):
    def copies(*flags: str) -> int:
        args = data_augmentation.parse_args(arguments("bert", "glove", "glue", "squad1", *flags))
        return data_augmentation.resolve_copies(args, TASKS["squad1"])

    assert (copies(), copies("--N", "7"), copies("--preset", "code"), copies("--preset", "code", "--N", "2")) == \
        (20, 7, 20, 2)  # no published code says another
    assert not capsys.readouterr().out


def test_all_tasks_are_those_of_glue(bert, glove, tmp_path, refused):
    path = write_squad(tmp_path, "squad1")
    refused("data_augmentation", *arguments(bert, glove, tmp_path, "all"), words=("no folder of a task",))
    of_rows.write_task(tmp_path, TASKS["cola"])
    data_augmentation.main(arguments(bert, glove, tmp_path, "all", "--N", "2"))
    assert (tmp_path / "CoLA/train_aug.tsv").is_file() and names(path.parent) == [path.name]


@pytest.mark.parametrize("change, words", [
    (lambda path: path.write_text(json.dumps(squad_file(CONTEXTS, QUESTIONS, True))),
     ("train-v1.1.json", "version v2.0", "squad2")),
    (lambda path: path.write_text(path.read_text()[:-700]), ("train-v1.1.json", "cut short", "byte")),
    (lambda path: path.write_text(path.read_text().replace('"context"', '"contexts"')),
     ("'One'", "paragraph 1", "'context'")),
    (lambda path: path.write_text(json.dumps(squad_file(["the ."], [2], False))),
     ("no word of its texts", "--aug_train")),
    (lambda path: path.write_text(json.dumps(squad_file(CONTEXTS, [0] * 7, False))), ("no questions",)),
    (lambda path: path.unlink(), ("train-v1.1.json does not exist", "download_glue.py --tasks SQuAD1"))])
def test_bad_files_are_refused_before_the_work(bert, glove, tmp_path, refused, monkeypatch, change, words):
    path = write_squad(tmp_path, "squad1")
    change(path)
    augmented(path).write_text("earlier")
    before = names(path.parent)
    monkeypatch.setattr(MaskedLM, "best", None)
    refused("data_augmentation", *arguments(bert, glove, tmp_path, "squad1"), words=words)
    assert names(path.parent) == before and augmented(path).read_text() == "earlier"


@pytest.mark.parametrize("when", ["show_candidates", "write_rows"])
def test_a_file_that_changes_meanwhile_is_refused(bert, glove, tmp_path, monkeypatch, when):
    path = write_squad(tmp_path, "squad1")
    original = getattr(data_augmentation, when)

    def changing(*arguments):
        result = original(*arguments)
        path.write_text(json.dumps(squad_file(CONTEXTS[:2], QUESTIONS[:2], False)))
        return result
    monkeypatch.setattr(data_augmentation, when, changing)
    with pytest.raises(data_augmentation.InputError, match="changed while"):
        data_augmentation.main(arguments(bert, glove, tmp_path, "squad1"))
    assert not augmented(path).exists()


def test_a_look_at_the_candidates(bert, glove, tmp_path, capsys):
    write_squad(tmp_path, "squad1")
    data_augmentation.main(arguments(bert, glove, tmp_path, "squad1", "--show", "3", "--M", "4"))
    out = capsys.readouterr().out
    assert f"\n{CONTEXTS[0]}\n    cat: " in out and f"\n{CONTEXTS[1]}\n    red: " in out and CONTEXTS[4] not in out
    assert not any(f" {suffix}" in out for suffix in SUFFIXES)
