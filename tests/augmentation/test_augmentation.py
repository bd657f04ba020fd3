"""data_augmentation.py against a naive one-word-at-a-time reference on Hugging Face's model, and its files."""
from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import data_augmentation
from tests.conftest import make_cased, names, pad_embeddings, task_lines, write_lines
from transformer.augmentation import glove as glove_module
from transformer.augmentation import rows as rows_module
from transformer.augmentation import variants as variants_module
from transformer.augmentation.candidates import (
    LOGITS_ROWS,
    STOP_WORDS,
    Candidates,
    MaskedLM,
    MaskedWords,
    Splitter,
    open_table,
    words_to_vary,
)
from transformer.augmentation.glove import Glove
from transformer.augmentation.passages import PassageExamples
from transformer.augmentation.rows import augment_row
from transformer.augmentation.variants import vary
from transformer.checkpoint import load_tokenizer, save_model
from transformer.config import BertConfig
from transformer.data import arrays
from transformer.data.arrays import BlocksOnDisk
from transformer.data.tables import read_rows
from transformer.files import InputError, locked
from transformer.modeling import BertForMaskedLM, BertModel
from transformer.tasks.glue import GLUE
from transformer.tasks.table import TASKS
from transformer.training.batches import batches_by_length
from transformer.training.processes import Processes
from transformer.training.scoring import train_file

WORDS = ("cat dog bird fish horse house garden river mountain city red blue green small large old new quick slow "
         "sees likes finds takes gives runs walks sings sleeps reads writes paper water stone tree "
         "the a and is not").split()
SUFFIXES = ["##s", "##ing", "##ed", "##er", "##ness"]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", "'", '"', "3", "中", "t", "don", *WORDS, *SUFFIXES]
POSITIONS = 40
SENTENCES = ["cat sees dog .", "the old house is not new , and small birdness sleeps in a garden",
             "red blue green", "", "the is a", "quick quick quick slow",
             " ".join(WORDS[:30]),                 # 63 pieces: the copy of the original is cut
             " ".join(WORDS[:20] + WORDS[:25])]    # the sentence itself is longer than the model's positions


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    """A random BERT with a masked-LM head, weights large enough for well separated logits; dropout is on in train()."""
    folder = tmp_path_factory.mktemp("bert")
    (folder / "words.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    torch.manual_seed(3)
    config = BertConfig(len(VOCAB), hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40,
                        max_position_embeddings=POSITIONS, initializer_range=0.4)
    save_model(BertForMaskedLM(config), folder, folder / "words.txt")
    return folder


@pytest.fixture(scope="module")
def glove(tmp_path_factory) -> Path:
    """Vectors for some words of the vocabulary and for some that take several pieces."""
    path = tmp_path_factory.mktemp("glove") / "glove.txt"
    generator = np.random.default_rng(5)
    words = ["cats", "birds", "birdness", "sleeping", "reading", ". . .", "at name@domain.com", "中文", *WORDS]
    path.write_text("".join(f"{word} {' '.join(f'{x:.5f}' for x in generator.normal(size=8))}\n" for word in words),
                    encoding="utf-8")
    return path


def naive_candidates(folder: Path, words: list[str], count: int, preset: str = "paper") -> dict[int, list[str]]:
    """The definition, word by word: one sequence, no padding, every position decoded, the whole vocabulary sorted.

    The published code cuts after `count` pieces and leaves out those with ## then; nothing left: the word itself.
    """
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder, attn_implementation="eager").double().eval()
    split = [[word] if word in VOCAB else {"birdness": ["bird", "##ness"]}.get(word, ["[UNK]"]) for word in words]
    original = sum(split, [])
    result = {}
    for i, word in enumerate(words):
        if len(split[i]) > 1 or not word.isalpha() or word in ("the", "a", "and", "is", "not", "in"):
            continue
        position = 1 + sum(len(part) for part in split[:i])
        masked = list(original)
        masked[position - 1] = "[MASK]"
        sequence = (["[CLS]"] + masked + ["[SEP]"] + original + ["[SEP]"])[:POSITIONS]
        if position >= POSITIONS:
            continue
        segments = ([0] * (len(masked) + 2) + [1] * (len(masked) + 1))[:POSITIONS]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[VOCAB.index(piece) for piece in sequence]]),
                           token_type_ids=torch.tensor([segments])).logits[0, position].tolist()
        ranked = sorted(range(len(VOCAB)), key=lambda piece: -logits[piece])
        if preset == "code":
            result[i] = [VOCAB[piece] for piece in ranked[:count] if not VOCAB[piece].startswith("##")] or [word]
        else:
            result[i] = [VOCAB[piece] for piece in ranked if not VOCAB[piece].startswith("##")][:count]
    return result


ONE = Processes(0, 1, torch.device("cpu"))


def found(bert: Path, folder: Path, sentences: list[str], count: int, batch_tokens: int = 4096,
          neighbours: dict[str, list[str]] | None = None,
          preset: str = "paper") -> tuple[Candidates, list[int], MaskedLM]:
    """Candidates of sentences, the sentences' numbers, and the model, in double precision."""
    tokenizer = load_tokenizer(bert, True)
    masked_lm = MaskedLM(BertForMaskedLM.from_pretrained(bert).double(), tokenizer, count, preset=preset)
    splitter = Splitter(tokenizer, POSITIONS)
    words = MaskedWords(splitter)
    numbers = [words.add(sentence) for sentence in sentences]
    words.finish()
    batches = batches_by_length(words.lengths(), batch_tokens, LOGITS_ROWS)
    table = open_table(folder, masked_lm.count, "H", len(batches[1]), {}, False, ONE)
    rows = masked_lm.fill(words, batches, table, ONE, "")
    return Candidates(splitter, words.first, rows, table.map(), neighbours or {}), numbers, masked_lm


@pytest.mark.parametrize("batch_tokens", [1, 100, 333, 4096])
def test_candidates_are_those_of_the_naive_way(bert, tmp_path, batch_tokens):
    candidates, numbers, _ = found(bert, tmp_path, SENTENCES, 6, batch_tokens)
    compared = 0
    for sentence, number in zip(SENTENCES, numbers, strict=True):
        words, replacements, counts = candidates.find(sentence, number)
        naive = naive_candidates(bert, words, 6)
        assert words == sentence.split()
        for i in replacements:  # what has no candidates stands for itself
            assert replacements[i] == naive.get(i, [words[i]]), (sentence, i)
        assert naive.keys() <= replacements.keys() and counts["words_by_masked_lm"] == len(naive)
        compared += len(naive)
    assert compared > 60
    long = SENTENCES[-1].split()
    _, replacements, _ = candidates.find(SENTENCES[-1], numbers[-1])
    assert replacements[POSITIONS - 1] == [long[POSITIONS - 1]]  # masked position past the end
    assert len(replacements[POSITIONS - 2]) == 6


@pytest.mark.parametrize("count", [1, 5, 999])
def test_candidates_of_the_code_preset_are_what_is_left_of_the_best(bert, tmp_path, count):
    candidates, numbers, masked_lm = found(bert, tmp_path, SENTENCES, count, preset="code")
    assert masked_lm.count == min(count, len(VOCAB))
    lengths = set()
    for sentence, number in zip(SENTENCES, numbers, strict=True):
        words, replacements, counts = candidates.find(sentence, number)
        naive = naive_candidates(bert, words, count, "code")
        for i in replacements:
            assert replacements[i] == naive.get(i, [words[i]]), (sentence, i)
            lengths.add(len(replacements[i]))
        assert sum(counts.values()) == len(replacements)
    if count == 5:
        assert lengths >= {1, 4, 5}  # pieces with ## are among the best here


def test_batches_hold_every_word_once_within_their_tokens():
    lengths = np.random.default_rng(0).integers(5, 60, 1000)
    order, bounds = batches_by_length(lengths, 300, 25)
    assert sorted(order) == list(range(1000)) and bounds[0][0] == 0 and bounds[-1][1] == 1000
    assert [stop for _, stop in bounds[:-1]] == [start for start, _ in bounds[1:]]
    assert all((stop - start) * lengths[order[start:stop]].max() <= 300 for start, stop in bounds)
    assert max(stop - start for start, stop in bounds) == 25 < max(
        stop - start for start, stop in batches_by_length(lengths, 300, 1000)[1])
    assert batches_by_length(np.array([50, 40]), 1, 40)[1] == [(0, 1), (1, 2)]  # at least one row
    assert batches_by_length(np.array([], np.int64), 1, 40)[1] == []


def test_sources_of_candidates(bert, tmp_path):
    text = "Don't \"CATS\" see the Birdness of 3 horsés 中, 12"
    candidates, numbers, _ = found(bert, tmp_path, [text], 999, neighbours={"birdness": ["fish", "tree"]})
    words, replacements, counts = candidates.find(text, numbers[0])
    assert words == ["don", "'", "t", '"', "cats", '"', "see", "the", "birdness", "of", "3", "horses", "中", ",", "12"]
    # stop words (don, t, the, of), digits and marks stay; "see" is one piece, [UNK]; 中 is the only such character
    assert sorted(replacements) == [4, 6, 8, 11, 12] and replacements[12] == ["中"]
    assert replacements[4] == ["cats"] and replacements[8] == ["fish", "tree"] and replacements[11] == ["horses"]
    assert sorted(replacements[6]) == sorted(set(VOCAB) - set(SUFFIXES))  # M above the vocabulary: all but ##
    assert counts == {"words_by_masked_lm": 2, "words_by_glove": 1, "words_without_candidates": 2}


def test_equal_sentences_are_one(bert):
    words = MaskedWords(Splitter(load_tokenizer(bert, True), POSITIONS))
    assert [words.add(text) for text in ("cat sees dog", "red", "cat sees dog", "", "red", "")] == [0, 1, 0, 2, 1, 2]
    words.finish()
    assert len(words) == 4 and words.first.tolist() == [0, 3, 4, 4]


def test_the_model_and_the_words_agree_with_the_tokenizer(bert):
    tokenizer = load_tokenizer(bert, True)
    splitter = Splitter(tokenizer, POSITIONS)
    for text in [*SENTENCES, "Don't \u0130stanbul [MASK] caf\u00e9\u0085s\u2028中文 \x00x", "birdness's"]:
        words = splitter.words(text)
        assert words == tokenizer.basic_tokenizer.tokenize(text)
        assert [index for word in words for index in splitter.ids(word)] == tokenizer.encode(text)


def test_a_table_keeps_what_reached_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "_SECONDS_BETWEEN_BLOCKS", 1e9)
    blocks = np.arange(24).reshape(4, 2, 3)
    table = BlocksOnDisk(tmp_path, 3, "H")
    table.create(4, {"a": 1})
    table.write(2, 4, blocks[2])
    table.save()
    table.write(0, 0, blocks[0])  # never saved: a kill comes first
    again = BlocksOnDisk(tmp_path, 3, "H")
    assert again.facts() == {"a": 1} and again.missing().tolist() == [0, 1, 3]
    for number in (3, 0, 1):
        again.write(number, 2 * number, blocks[number])
    again.save()
    assert again.missing().size == 0 and (again.map() == blocks.reshape(8, 3)).all()


def test_words_to_vary_and_the_stop_list():
    words = ["good", "the", "don", "3d", "caf\u00e9", "Good", "'s", "wouldn", "x"]
    assert words_to_vary(words) == [0, 8]
    assert len(STOP_WORDS) == 173 and {"'s", "'re", "i", "needn't"} <= STOP_WORDS


# --- GloVe

def test_neighbours_are_those_of_the_naive_way(glove, tmp_path):
    vectors = Glove(glove, 1000)
    matrix = {line.rsplit(" ", 8)[0]: np.array(line.rsplit(" ", 8)[1:], dtype=float)
              for line in glove.read_text(encoding="utf-8").splitlines()}
    assert vectors.words == list(matrix) and ". . ." in matrix and vectors.vectors.dtype == np.float32
    wanted = ["cats", "birdness", "中文", "cat", "absent"]
    found = vectors.neighbours(wanted, 7)
    assert sorted(found) == sorted(set(wanted) - {"absent"})
    for word in found:
        cosine = {other: vector @ matrix[word] / np.linalg.norm(vector) / np.linalg.norm(matrix[word])
                  for other, vector in matrix.items() if other != word}
        assert found[word] == sorted(cosine, key=cosine.get, reverse=True)[:7]
    assert len(vectors.neighbours(["cats"], 10 ** 6)["cats"]) == len(matrix) - 1


def test_blocks_do_not_matter_and_only_the_first_vectors_count(glove, monkeypatch):
    whole = Glove(glove, 1000).neighbours(WORDS, 5)
    monkeypatch.setattr(glove_module, "_BLOCK", 3)
    assert Glove(glove, 1000).neighbours(WORDS, 5) == whole
    assert Glove(glove, 10).words == Glove(glove, 1000).words[:10]


def test_vectors_are_parsed_once_for_a_file(glove, tmp_path, monkeypatch):
    path = tmp_path / "glove.txt"
    path.write_bytes(glove.read_bytes())
    monkeypatch.setattr(glove_module, "_PART_LINES", 7)
    first = Glove(path, 1000)
    assert (first.vectors == Glove(glove, 1000).vectors).all()
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(lines[2:]) + "\n", encoding="utf-8")
    assert Glove(path, 1000).words == first.words[2:]
    assert len(list((tmp_path / "glove.txt.arrays").iterdir())) == 1  # those of the file that is no more are gone
    monkeypatch.setattr(glove_module, "_parse_missing", None)     # nothing is parsed now
    assert Glove(path, 1000).words == first.words[2:]


@pytest.mark.parametrize("lines, message", [
    ("a 1 2 3\nb 1 2\n", "line 2"), ("a 1 2 3\nb 1 2 3 4\n", "line 2"), ("a 1 2 3\nb 1 x 3\n", "line 2"),
    ("a 1 2 3\n\nc 1 2 3\n", "line 2"), ("a 1 2 3\nb 1 nan 3\n", "line 2"), ("a 1 2 3\nb 1  3\n", "line 2"),
    ("a 1 2 3\nb 1e 2 3\n", "line 2"), ("a\n", "line 1"), ("\na 1\n", "line 1"), ("", "no vectors")])
def test_bad_vectors(tmp_path, lines, message):
    (tmp_path / "glove.txt").write_text(lines)
    with pytest.raises(InputError, match=message):
        Glove(tmp_path / "glove.txt", 1000)


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
@pytest.mark.parametrize("part_lines", [1, 2, 2_000])
def test_the_header_of_word2vec_and_an_empty_last_line_are_passed_over(tmp_path, monkeypatch, capsys, end, part_lines):
    monkeypatch.setattr(glove_module, "_PART_LINES", part_lines)
    path = tmp_path / "vectors.txt"
    path.write_bytes(f"2 3\na 1 0 0 \nb 0 2 0 \n{end}".encode())
    for limit, words in ((9, ["a", "b"]), (2, ["a", "b"]), (1, ["a"])):
        vectors = Glove(path, limit)
        assert vectors.words == words and (vectors.vectors == np.eye(3)[:len(words)]).all()
        assert f"{path}: skipped line 1, the header of word2vec's format: 2 3" in capsys.readouterr().out
    (tmp_path / "glove.txt").write_text(f"2 1\n7 1{end}")  # vectors of one number, of words that are numbers
    assert Glove(tmp_path / "glove.txt", 9).words == ["2", "7"] and capsys.readouterr().out == ""
    path.write_text("2 3\na 1 0 0\n\nb 0 2 0\n")
    with pytest.raises(InputError, match="vectors.txt, line 3: expected a word and 3 numbers"):
        Glove(path, 9)


@pytest.mark.parametrize("header", ["\ufeff2 3", "2\t3", "2   3 ", "\ufeff2 \t3\r"])
def test_the_header_of_word2vec_in_other_spellings(header, tmp_path, capsys):
    path = tmp_path / "vectors.txt"
    path.write_bytes(f"{header}\na 1 0 0\nb 0 2 0\n".encode())
    assert Glove(path, 9).words == ["a", "b"]
    assert f"{path}: skipped line 1, the header of word2vec's format: 2 3\n" in capsys.readouterr().out
    for end in ("", "\n", "\n\n"):
        path.write_bytes(f"{header}{end}".encode())
        with pytest.raises(InputError, match="vectors.txt holds no vectors"):
            Glove(path, 9)


def test_invalid_utf8_in_vectors(tmp_path):
    (tmp_path / "glove.txt").write_bytes(b"a 1 2\n\xff 1 2\n")
    with pytest.raises(InputError, match="line 2: not valid UTF-8"):
        Glove(tmp_path / "glove.txt", 1000)


# --- random choices

def test_replaced_share_and_choices_are_as_asked():
    words = [f"w{i}" for i in range(40)]
    candidates = {i: [f"c{i}{letter}" for letter in "abcde"] for i in range(0, 40, 2)}
    tries, p = 3000, 0.4
    variants = vary("original", words, candidates, tries, p, np.random.default_rng(0))
    assert len(set(variants)) == len(variants) > 0.999 * tries  # as good as all: the shares below are not biased
    table = np.array([variant.split(" ") for variant in variants])
    assert (table[:, 1::2] == np.array(words[1::2])).all()
    replaced = table[:, ::2] != np.array(words[::2])
    n = replaced.size
    assert abs(replaced.mean() - p) < 4 * np.sqrt(p * (1 - p) / n)
    letters = np.array([word[-1] for word in table[:, ::2][replaced]])
    for letter in "abcde":
        assert abs((letters == letter).mean() - 0.2) < 4 * np.sqrt(0.2 * 0.8 / len(letters))


def test_variants_are_new_and_at_most_as_many_as_tries():
    candidates = {1: ["x", "y"]}
    variants = vary("a b", ["a", "b"], candidates, 50, 0.5, np.random.default_rng(1))
    assert sorted(variants) == ["a x", "a y"]                      # the original itself is not new
    assert "a b" in vary("A b", ["a", "b"], candidates, 50, 0.5, np.random.default_rng(1))
    assert vary("a b", ["a", "b"], candidates, 50, 0.0, np.random.default_rng(1)) == []
    assert len(vary("a b", ["a", "b"], {0: list("cdefgh"), 1: list("cdefgh")}, 3, 0.9, np.random.default_rng(1))) <= 3
    assert vary("", [], {}, 5, 0.5, np.random.default_rng(1)) == []


def test_pairs_under_both_presets():
    row = ["7", "a0", "b0", "entailment"]
    paper = list(augment_row(row, TASKS["rte"], [["a1", "a2"], ["b1"]], "paper"))
    code = list(augment_row(row, TASKS["rte"], [["a1", "a2"], ["b1"]], "code"))
    assert [columns[1:3] for columns in paper] == [["a0", "b0"], ["a1", "b0"], ["a2", "b0"], ["a0", "b1"]]
    assert [columns[1:3] for columns in code] == \
        [["a0", "b0"], ["a1", "b0"], ["a2", "b0"], ["a2", "b0"], ["a2", "b1"]]
    assert all(columns[0] == "7" and columns[3] == "entailment" for columns in paper + code)
    assert [columns[1:3] for columns in augment_row(row, TASKS["rte"], [[], ["b1"]], "code")] == \
        [["a0", "b0"], ["a0", "b0"], ["a0", "b1"]]
    assert [columns[1:3] for columns in augment_row(row, TASKS["rte"], [["a1"], []], "code")] == \
        [["a0", "b0"], ["a1", "b0"], ["a1", "b0"]]
    single = augment_row(["the", "0"], TASKS["sst2"], [["a", "b"]], "code")
    assert list(single) == [["the", "0"], ["a", "0"], ["b", "0"]]


# --- the whole script

def write_task(folder: Path, task, rows: int = 3) -> Path:
    """A train.tsv of `task`; its texts hold capitals, quotes and a line separator."""
    def text(row: int, column: int) -> str:
        other = row + task.text_columns.index(column)
        return f"The \"Cat sees\u2028 {WORDS[row]} and {WORDS[other]} cats, not {WORDS[-8 - row]}"
    return write_lines(folder / task.name / "train.tsv", task_lines(task, rows, text))


def arguments(bert, glove, glue, task: str, *more: str) -> list[str]:
    return ["--pretrained_bert_model", str(bert), "--glove_embs", str(glove), "--glue_dir", str(glue),
            "--task_name", task, *more]


@pytest.mark.parametrize("key", [key for key in GLUE if key != "wnli"])
def test_columns_of_every_task(bert, glove, tmp_path, key):
    task = TASKS[key]
    path = write_task(tmp_path, task)
    data_augmentation.main(arguments(bert, glove, tmp_path, task.name.lower(), "--N", "4"))
    output = path.with_name("train_aug.tsv")
    assert names(path.parent) == ["train.tsv", "train_aug.json", "train_aug.tsv"]
    if task.has_header:
        assert output.read_bytes().split(b"\n")[0] == path.read_bytes().split(b"\n")[0]
    originals = [columns for _, columns in read_rows(task, path)]
    augmented = [columns for _, columns in read_rows(task, output)]
    starts = [augmented.index(original) for original in originals]
    assert starts == sorted(starts) and starts[0] == 0  # the original comes first
    others = [i for i in range(task.train_columns) if i not in task.text_columns]
    for original, start, end in zip(originals, starts, [*starts[1:], len(augmented)]):
        group = augmented[start:end]
        assert 2 < len(group) <= 1 + 4 * len(task.text_columns)
        assert all([columns[i] for i in others] == [original[i] for i in others] for columns in group)
        assert len({tuple(columns) for columns in group}) == len(group)
        for columns in group[1:]:  # one text varied, the other as it stands
            assert sum(columns[i] != original[i] for i in task.text_columns) == 1
            assert all(columns[i] == original[i] or columns[i].startswith('the " ') for i in task.text_columns)
    counts = json.loads(path.with_name("train_aug.json").read_text())
    assert counts["rows_in"] == 3 and counts["rows_out"] == len(augmented)
    assert counts["settings"]["N"] == 4 and counts["settings"]["preset"] == "paper"


@pytest.mark.parametrize("key, in_code", [("sst2", 20), ("rte", 30), ("qqp", 10)])
def test_copies_by_preset(key, in_code, capsys):
    def copies(*flags: str) -> int:
        args = data_augmentation.parse_args(arguments("bert", "glove", "glue", key, *flags))
        return data_augmentation.resolve_copies(args, TASKS[key])

    assert (copies(), copies("--N", "7"), copies("--preset", "code")) == (20, 7, in_code)
    assert copies("--preset", "code", "--N", "2") == in_code
    assert f"--N 2 is overridden by {in_code}" in capsys.readouterr().out


def test_the_code_preset_varies_the_second_text_beside_the_last_variant_of_the_first(bert, glove, tmp_path):
    path = write_task(tmp_path, TASKS["rte"], rows=1)
    data_augmentation.main(arguments(bert, glove, tmp_path, "rte", "--preset", "code"))
    rows = [columns for _, columns in read_rows(TASKS["rte"], path.with_name("train_aug.tsv"))]
    original = rows[0]
    first = [columns for columns in rows[1:] if columns[2] == original[2]]
    assert first[-1] == first[-2] and len({tuple(columns) for columns in first}) == len(first) - 1
    second = rows[1 + len(first):]
    assert len(first) > 3 and len(second) > 3
    assert {columns[1] for columns in second} == {first[-1][1]} and first[-1][1] != original[1]


def test_the_same_seed_gives_the_same_bytes_whatever_the_parts_and_workers(bert, glove, tmp_path, monkeypatch):
    path = write_task(tmp_path, TASKS["mrpc"], rows=8)
    results = []
    for part_bytes, workers, tokens, seed in ((1 << 16, 1, "4096", "1"), (150, 3, "50", "1"), (1 << 16, 1, "50", "2")):
        monkeypatch.setattr(rows_module, "PART_BYTES", part_bytes)
        monkeypatch.setattr(variants_module, "available_cores", lambda workers=workers: workers)
        data_augmentation.main(arguments(bert, glove, tmp_path, "MRPC", "--seed", seed, "--batch_tokens", tokens))
        results.append(path.with_name("train_aug.tsv").read_bytes())
    assert results[0] == results[1] != results[2]


def child(argv: list[str], name: str, call: int) -> None:
    """The script in a process of its own, every batch saved at once; call number `call` of a function kills it."""
    torch.set_num_threads(1)
    owner = {"best": MaskedLM, "augment_row": rows_module, "rows": PassageExamples}[name]
    original, before = getattr(owner, name), iter(range(call - 1))
    setattr(owner, name, lambda *args: original(*args) if next(before, None) is not None
            else os.kill(os.getpid(), signal.SIGKILL))
    arrays._SECONDS_BETWEEN_BLOCKS = 0
    data_augmentation.main(argv)


def test_a_killed_run_goes_on_and_gives_the_same_bytes(bert, glove, tmp_path):
    """kill -9 at four moments of the masked LM's part and, the fifth time, while the rows are written."""
    path = write_task(tmp_path, TASKS["mrpc"], rows=30)
    lines = path.read_text(encoding="utf-8").split("\n")
    path.write_text("\n".join(f"{line} {WORDS[i % 7]} {WORDS[i % 11]}" if i else line
                              for i, line in enumerate(lines[:-1])) + "\n", encoding="utf-8")
    argv = arguments(bert, glove, tmp_path, "mrpc", "--batch_tokens", "60")
    data_augmentation.main(argv)
    output, unfinished = path.with_name("train_aug.tsv"), path.with_name("train_aug.unfinished")
    uninterrupted = output.read_bytes()
    output.unlink()
    saved = 0
    for name, call in (("best", 1), ("best", 20), ("best", 30), ("best", 40), ("augment_row", 15)):
        process = multiprocessing.get_context("fork").Process(target=child, args=([*argv, "--resume"], name, call))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL and not output.exists()
        done = np.fromfile(unfinished / "done", np.uint8)
        saved = saved + call - 1 if name == "best" else len(done)
        assert done.sum() == saved
    assert list(unfinished.glob(".rows.*.tmp"))
    data_augmentation.main([*argv, "--resume"])
    assert output.read_bytes() == uninterrupted
    assert names(path.parent) == ["train.tsv", "train_aug.json", "train_aug.tsv"]


def test_resume_refuses_other_settings_and_leaves_what_is_finished(bert, glove, tmp_path, monkeypatch, capsys):
    path = write_task(tmp_path, TASKS["rte"])
    argv = arguments(bert, glove, tmp_path, "rte", "--resume")

    def interrupted(*_):
        raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(data_augmentation, "write_json", interrupted)
        data_augmentation.main(argv)
    with pytest.raises(InputError, match="--resume: M was 15 and is 4 now"):
        data_augmentation.main([*argv, "--M", "4"])
    with locked(path.with_name("train_aug.unfinished") / "lock"), pytest.raises(InputError, match="another run"):
        data_augmentation.main(argv)
    with pytest.raises(InputError, match="--resume: preset was paper and is code now"):
        data_augmentation.main([*argv, "--preset", "code"])
    facts = path.with_name("train_aug.unfinished") / "facts.json"  # as before the preset was told: that of the paper
    facts.write_text(json.dumps({name: value for name, value in json.loads(facts.read_text()).items()
                                 if name != "preset"}))
    with pytest.raises(InputError, match="--resume: preset was paper and is code now"):
        data_augmentation.main([*argv, "--preset", "code"])
    data_augmentation.main(argv)
    status = path.with_name("train_aug.tsv").stat().st_mtime_ns
    data_augmentation.main(argv)
    assert "nothing to resume" in capsys.readouterr().out
    assert path.with_name("train_aug.tsv").stat().st_mtime_ns == status
    data_augmentation.main([*argv, "--p", "0.1"])  # other rows are wanted: made anew
    assert json.loads(path.with_name("train_aug.json").read_text())["settings"]["p"] == 0.1


@pytest.mark.parametrize("name", ["facts.json", "table", "done"])
def test_a_damaged_unfinished_folder_is_made_anew(bert, glove, tmp_path, monkeypatch, name):
    path = write_task(tmp_path, TASKS["cola"])
    argv = arguments(bert, glove, tmp_path, "cola", "--resume")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(BlocksOnDisk, "remove", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        data_augmentation.main(argv)
    expected = path.with_name("train_aug.tsv").read_bytes()
    path.with_name("train_aug.tsv").unlink()
    (path.with_name("train_aug.unfinished") / name).unlink()
    data_augmentation.main(argv)
    assert path.with_name("train_aug.tsv").read_bytes() == expected


def test_a_file_that_changes_meanwhile_is_refused(bert, glove, tmp_path, monkeypatch):
    path = write_task(tmp_path, TASKS["cola"])
    lines = path.read_text(encoding="utf-8").split("\n")
    monkeypatch.setattr(data_augmentation, "show_candidates",
                        lambda *_: path.write_text("\n".join(lines[::-1]).strip() + "\n"))
    with pytest.raises(InputError, match="changed while"):
        data_augmentation.main(arguments(bert, glove, tmp_path, "cola"))
    assert not path.with_name("train_aug.tsv").exists()


def test_logits_that_are_not_finite_are_refused(bert, tmp_path):
    model = BertForMaskedLM.from_pretrained(bert)
    model.bert.encoder.layer[1].output.dense.bias.data[0] = float("nan")
    save_model(model, tmp_path / "broken", bert / "vocab.txt")
    with pytest.raises(InputError, match="not finite"):
        found(tmp_path / "broken", tmp_path / "table", SENTENCES, 3)


def test_padding_is_no_candidate(bert, tmp_path):
    """The masked LM's first choices are rows that stand for no piece: the candidates are those without them."""
    shutil.copytree(bert, tmp_path / "padded")
    pad_embeddings(tmp_path / "padded", 3)
    tables = []
    for folder in (bert, tmp_path / "padded"):
        candidates, _, _ = found(folder, tmp_path / f"{folder.name}_table", SENTENCES, 6)
        tables.append(np.array(candidates.table))
    assert len(tables[0]) > 60 and (tables[0] == tables[1]).all()


def test_a_cased_model_keeps_capitals(bert, glove, tmp_path):
    """Words with a capital stay; the variants of the others keep the sentence as it is written."""
    shutil.copytree(bert, tmp_path / "cased")
    make_cased(tmp_path / "cased")  # the piece cat is Cat
    path = write_task(tmp_path, TASKS["cola"])
    path.write_text("x\t1\t\tThe Cat sees Dog Cat\n", encoding="utf-8")
    data_augmentation.main(arguments(tmp_path / "cased", glove, tmp_path, "cola"))
    rows = [columns[3] for _, columns in read_rows(TASKS["cola"], path.with_name("train_aug.tsv"))]
    assert len(rows) > 5 and all(re.fullmatch(r"The Cat \S+ Dog Cat", row) for row in rows)
    facts = json.loads(path.with_name("train_aug.json").read_text())
    assert facts["made_from"]["do_lower_case"] is facts["settings"]["do_lower_case"] is False


def test_processes_share_blocks_by_their_number(bert, tmp_path):
    """Whatever another one has already saved when a process looks, every block has its owner."""
    tokenizer = load_tokenizer(bert, True)
    masked_lm = MaskedLM(BertForMaskedLM.from_pretrained(bert).double(), tokenizer, 6)
    words = MaskedWords(Splitter(tokenizer, POSITIONS))
    for sentence in SENTENCES:
        words.add(sentence)
    words.finish()
    batches = batches_by_length(words.lengths(), 60, LOGITS_ROWS)
    table = open_table(tmp_path / "two", 6, "H", len(batches[1]), {}, False, ONE)

    class Process(Processes):  # one of two, that waits for nobody
        def wait(self):
            pass
    for rank in (0, 1):  # the second begins when the first has finished
        masked_lm.fill(words, batches, table, Process(rank, 2, ONE.device), "")
    assert table.missing().size == 0
    alone = open_table(tmp_path / "one", 6, "H", len(batches[1]), {}, False, ONE)
    masked_lm.fill(words, batches, alone, ONE, "")
    assert (table.map() == alone.map()).all()


def test_all_tasks_and_a_look_at_the_candidates(bert, glove, tmp_path, capsys):
    for key in ("rte", "wnli", "cola"):
        write_task(tmp_path, TASKS[key])
    data_augmentation.main(arguments(bert, glove, tmp_path, "all", "--show", "2", "--N", "2"))
    assert sorted(file.parent.name for file in tmp_path.rglob("train_aug.tsv")) == ["CoLA", "RTE"]
    shown = capsys.readouterr().out.split("\n")
    assert sum(line.startswith('The "Cat sees') for line in shown) == 4
    house = next(line for line in shown if line.startswith("    cat: "))
    assert len(house.split()) == 1 + 15 and not any(word.startswith("##") for word in house.split())


def test_a_task_without_words_to_vary_is_refused(bert, glove, tmp_path, refused):
    path = write_task(tmp_path, TASKS["cola"])
    path.write_text("x\t1\t\tthe is a .\nx\t0\t\t\nx\t0\t\t龜文 3\n", encoding="utf-8")
    path.with_name("train_aug.tsv").write_text("earlier")
    refused("data_augmentation", *arguments(bert, glove, tmp_path, "cola"),
            words=(f"{path}: no word of its texts can be varied", "train without --aug_train"))
    assert names(path.parent) == ["train.tsv", "train_aug.tsv"]
    assert path.with_name("train_aug.tsv").read_text() == "earlier"


def test_a_size_of_vectors_that_are_not_given_is_refused(tmp_path, refused):
    refused("data_augmentation", "--pretrained_bert_model", tmp_path, "--glue_dir", tmp_path, "--task_name", "cola",
            "--glove_vocab", "9", words=("--glove_vocab is for --glove_embs",))


def test_bf16_and_a_small_glove_vocabulary(bert, glove, tmp_path, capsys):
    path = write_task(tmp_path, TASKS["cola"])
    data_augmentation.main(arguments(bert, glove, tmp_path, "cola", "--precision", "bf16", "--glove_vocab", "1"))
    summary = json.loads(path.with_name("train_aug.json").read_text())
    assert summary["words_by_masked_lm"] > 0 == summary["words_by_glove"]  # cats, the one vector, has no other near it
    batch = [torch.tensor([row]) for row in ([2, 4, 14, 3, 13, 14, 3], [0] * 4 + [1] * 3, [1] * 7)]
    model, seen = BertForMaskedLM.from_pretrained(bert), []
    model.cls.predictions.decoder.register_forward_hook(lambda _, inputs, output: seen.append(output.dtype))
    for precision in ("fp32", "bf16"):
        MaskedLM(model, load_tokenizer(bert, True), 3, precision).best(*batch, torch.tensor([1]), torch.tensor([0]))
    assert seen == [torch.float32, torch.bfloat16]


def test_weights_that_are_cast_once_find_what_those_find_that_are_cast_for_each_batch(bert):
    tokenizer = load_tokenizer(bert, True)
    batch = [torch.tensor([row]) for row in ([2, 4, 14, 3, 13, 14, 3], [0] * 4 + [1] * 3, [1] * 7)]
    model = BertForMaskedLM.from_pretrained(bert).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = model(*batch)[0, 1].float()
    every = len(tokenizer.ids_to_tokens)
    best = MaskedLM(model, tokenizer, every, "bf16", preset="code").best(
        *batch, torch.tensor([1]), torch.tensor([0]))[0]
    assert sorted(best.tolist()) == list(range(every)) and (logits[best].diff() <= 0).all()
    dtypes = {weight.dtype for name, weight in model.named_parameters() if name.endswith(("query.weight", "dense.bias"))
              and ".encoder." in name}
    assert dtypes == {torch.bfloat16} and model.bert.embeddings.word_embeddings.weight.dtype == torch.float32


def test_a_batch_is_made_while_the_one_before_it_is_computed(bert):
    """That is: before anything asks for the answers, for which the host waits on a GPU."""
    events = []

    class Asked(MaskedLM):
        def best(self, number):
            events.append(f"start {number}")
            return torch.tensor([[number]])

    def batches():
        for number in range(3):
            events.append(f"make {number}")
            yield [number]

    masked_lm = Asked(BertForMaskedLM.from_pretrained(bert), load_tokenizer(bert, True), 1)
    events.extend(f"read {ids.item()}" for ids in masked_lm.answers(batches()))
    assert events == ["make 0", "start 0", "make 1", "read 0", "start 1", "make 2", "read 1", "start 2", "read 2"]
    assert list(masked_lm.answers([])) == []


def test_the_summary_tells_task_distillation_what_was_augmented(bert, glove, tmp_path, capsys):
    path = write_task(tmp_path, TASKS["rte"])
    data_augmentation.main(arguments(bert, glove, tmp_path, "rte", "--N", "2"))
    capsys.readouterr()
    assert train_file(path.parent, TASKS["rte"], True) == path.with_name("train_aug.tsv")
    assert not capsys.readouterr().out
    path.write_text(path.read_text(encoding="utf-8").replace("Cat", "Dog", 1), encoding="utf-8")
    with pytest.raises(InputError, match="train_aug.tsv was made from another train.tsv"):
        train_file(path.parent, TASKS["rte"], True)


def test_the_summary_counts_what_the_files_hold(bert, glove, tmp_path):
    path = write_task(tmp_path, TASKS["rte"], rows=4)
    data_augmentation.main(arguments(bert, glove, tmp_path, "rte"))
    summary = json.loads(path.with_name("train_aug.json").read_text())
    rows = [columns for _, columns in read_rows(TASKS["rte"], path.with_name("train_aug.tsv"))]
    assert summary["rows_in"] == 4 and summary["rows_out"] == len(rows)
    assert summary["rows_out"] + summary["duplicates_dropped"] == 4 + 4 * 2 * 20
    tokenizer = load_tokenizer(bert, True)
    kinds = [word in VOCAB for _, columns in read_rows(TASKS["rte"], path) for column in (1, 2)
             for word in tokenizer.basic_tokenizer.tokenize(columns[column])
             if word.isascii() and word.isalpha() and word not in STOP_WORDS]
    assert summary["words_by_masked_lm"] == sum(kinds)
    assert summary["words_by_glove"] + summary["words_without_candidates"] == len(kinds) - sum(kinds) > 0


def test_equal_sentences_in_other_rows_and_columns_get_their_own_random_choices(bert, glove, tmp_path):
    path = write_task(tmp_path, TASKS["rte"])
    text = " ".join(WORDS[:20])
    path.write_text("a\tb\tc\td\n" + f"0\t{text}\t{text}\tentailment\n" * 2)
    data_augmentation.main(arguments(bert, glove, tmp_path, "rte"))
    rows = [columns for _, columns in read_rows(TASKS["rte"], path.with_name("train_aug.tsv"))]
    assert len(rows) == 2 * 41
    variants = {frozenset(columns[column] for columns in rows[start + 1:start + 41]) for start in (0, 41)
                for column in (1, 2)}
    assert len(variants) == 4


# --- bad input: nothing half-written, nothing existing lost

@pytest.mark.parametrize("change, message", [
    (lambda world: (world / "RTE/train.tsv").write_text("a\tb\tc\td\n1\t2\t3\n"), "line 2: 3 columns, expected 4"),
    (lambda world: (world / "RTE/train.tsv").write_text("a\tb\tc\td\n1\t2\t3\tmaybe\n"), "unknown label 'maybe'"),
    (lambda world: (world / "RTE/train.tsv").write_text(""), "no examples"),
    (lambda world: (world / "RTE/train.tsv").write_bytes(b"a\tb\tc\td\n1\t\xff\t3\tentailment\n"), "line 2: not valid"),
    (lambda world: (world / "RTE/train.tsv").unlink(), "train.tsv does not exist"),
    (lambda world: (world / "glove.txt").write_text("a 1 2\nb 1\n"), "glove.txt, line 2"),
    (lambda world: (world / "glove.txt").unlink(), "glove.txt does not exist"),
    (lambda world: (world / "bert/vocab.txt").write_text("[PAD]\n"), "vocab.txt"),
    (lambda world: (world / "bert/pytorch_model.bin").unlink(), "pytorch_model.bin")])
def test_bad_input(bert, glove, tmp_path, change, message):
    write_task(tmp_path, TASKS["rte"])
    (tmp_path / "RTE" / "train_aug.tsv").write_text("earlier")
    (tmp_path / "glove.txt").write_bytes(glove.read_bytes())
    (tmp_path / "bert").mkdir()
    for name in ("config.json", "vocab.txt", "pytorch_model.bin"):
        (tmp_path / "bert" / name).write_bytes((bert / name).read_bytes())
    change(tmp_path)
    with pytest.raises(InputError, match=message):
        data_augmentation.main(arguments(tmp_path / "bert", tmp_path / "glove.txt", tmp_path, "RTE"))
    assert (tmp_path / "RTE" / "train_aug.tsv").read_text() == "earlier"
    assert not list(tmp_path.rglob(".*"))


def test_inputs_beside_data_are_found(bert, glove, tmp_path, monkeypatch, capsys):
    write_task(tmp_path / "data" / "glue_data", TASKS["cola"])
    (tmp_path / "glove.txt").write_bytes(glove.read_bytes())
    monkeypatch.chdir(tmp_path)
    data_augmentation.main(arguments(bert, "data/glove.txt", "glue_data", "cola"))
    assert (tmp_path / "data/glue_data/CoLA/train_aug.tsv").is_file()
    assert "taking glove.txt" in capsys.readouterr().out


def test_a_gpu_that_is_not_there_is_refused(bert, glove, tmp_path, refused, monkeypatch):
    write_task(tmp_path, TASKS["rte"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    refused("data_augmentation", *arguments(bert, glove, tmp_path, "rte"), "--local_rank", "1", words=("GPU 1",))


@pytest.mark.parametrize("task, more, message", [
    ("wnli", [], "WNLI is not augmented"), ("rte", ["--p", "1.5"], "--p"), ("rte", [], "has no masked-LM head")])
def test_refusals_end_with_one_line_and_status_2(bert, glove, tmp_path, refused, task, more, message):
    for key in ("wnli", "rte"):
        write_task(tmp_path, TASKS[key])
    encoder = BertModel(BertConfig.from_json_file(bert / "config.json"))
    save_model(encoder, tmp_path / "encoder", bert / "vocab.txt")  # no masked-LM head: never augment from a random one
    refused("data_augmentation", *arguments(tmp_path / "encoder", glove, tmp_path, task, *more), words=(message,))
    assert not list(tmp_path.rglob("train_aug*"))
