"""data_augmentation.py against a naive one-word-at-a-time reference on Hugging Face's model, and its files."""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import data_augmentation
from data_augmentation import CandidateFinder, Glove, augment_row, vary, words_to_vary
from transformer.checkpoint import load_tokenizer, save_model
from transformer.files import InputError
from transformer.glue import TASKS, read_rows
from transformer.modeling import BertConfig, BertForMaskedLM, BertModel

ROOT = Path(__file__).resolve().parent.parent
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


def naive_candidates(folder: Path, words: list[str], count: int) -> dict[int, list[str]]:
    """The definition, word by word: one sequence, no padding, every position decoded, the whole vocabulary sorted."""
    model = transformers.BertForMaskedLM.from_pretrained(folder, attn_implementation="eager").double().eval()
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
        result[i] = [VOCAB[piece] for piece in ranked if not VOCAB[piece].startswith("##")][:count]
    return result


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_candidates_are_those_of_the_naive_way(bert, batch_size):
    model = BertForMaskedLM.from_pretrained(bert).double()
    finder = CandidateFinder(model, load_tokenizer(bert, True), {}, 6, batch_size)
    finder.prepare(SENTENCES)
    compared = 0
    for sentence in SENTENCES:
        words, candidates = finder.find(sentence)
        naive = naive_candidates(bert, words, 6)
        assert words == sentence.split()
        for i in candidates:  # what has no candidates stands for itself
            assert candidates[i] == naive.get(i, [words[i]]), (sentence, i)
        assert naive.keys() <= candidates.keys()
        compared += len(naive)
    assert compared == finder.by_masked_lm > 60
    long = SENTENCES[-1].split()
    assert finder.find(SENTENCES[-1])[1][POSITIONS - 1] == [long[POSITIONS - 1]]  # masked position past the end
    assert len(finder.find(SENTENCES[-1])[1][POSITIONS - 2]) == 6


def test_sources_of_candidates(bert):
    model = BertForMaskedLM.from_pretrained(bert)
    finder = CandidateFinder(model, load_tokenizer(bert, True), {"birdness": ["fish", "tree"]}, 999)
    text = "Don't \"CATS\" see the Birdness of 3 horsés 中, 12"
    finder.prepare([text])
    words, candidates = finder.find(text)
    assert words == ["don", "'", "t", '"', "cats", '"', "see", "the", "birdness", "of", "3", "horses", "中", ",", "12"]
    # stop words (don, t, the, of), digits, marks and ideographs stay; "see" is one piece, [UNK]
    assert sorted(candidates) == [4, 6, 8, 11]
    assert candidates[4] == ["cats"] and candidates[8] == ["fish", "tree"] and candidates[11] == ["horses"]
    assert sorted(candidates[6]) == sorted(set(VOCAB) - set(SUFFIXES))  # M above the vocabulary: all but ##
    assert (finder.by_masked_lm, finder.by_glove, finder.without) == (1, 1, 2)


def test_sentences_are_computed_once(bert, monkeypatch):
    finder = CandidateFinder(BertForMaskedLM.from_pretrained(bert), load_tokenizer(bert, True), {}, 6)
    seen = []
    run = finder._masked_lm
    monkeypatch.setattr(finder, "_masked_lm", lambda batch: seen.extend(batch) or run(batch))
    finder.prepare(["cat sees dog", "cat sees dog", "red"])
    finder.prepare(["red", "cat sees dog"])
    assert len(seen) == 4


def test_words_to_vary_and_the_stop_list():
    words = ["good", "the", "don", "3d", "caf\u00e9", "Good", "'s", "wouldn", "x"]
    assert words_to_vary(words) == [0, 8]
    assert len(data_augmentation.STOP_WORDS) == 173 and {"'s", "'re", "i", "needn't"} <= data_augmentation.STOP_WORDS


# --- GloVe

def test_neighbours_are_those_of_the_naive_way(glove, tmp_path):
    vectors = Glove(glove)
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
    whole = Glove(glove).neighbours(WORDS, 5)
    monkeypatch.setattr(data_augmentation, "NEIGHBOUR_BLOCK", 3)
    assert Glove(glove).neighbours(WORDS, 5) == whole
    assert Glove(glove, limit=10).words == Glove(glove).words[:10]


@pytest.mark.parametrize("lines, message", [
    ("a 1 2 3\nb 1 2\n", "line 2"), ("a 1 2 3\nb 1 2 3 4\n", "line 2"), ("a 1 2 3\nb 1 x 3\n", "line 2"),
    ("a 1 2 3\n\nc 1 2 3\n", "line 2"), ("a 1 2 3\nb 1 nan 3\n", "line 2"), ("a\n", "line 1"), ("", "no vectors")])
def test_bad_vectors(tmp_path, lines, message):
    (tmp_path / "glove.txt").write_text(lines)
    with pytest.raises(InputError, match=message):
        Glove(tmp_path / "glove.txt")


def test_invalid_utf8_in_vectors(tmp_path):
    (tmp_path / "glove.txt").write_bytes(b"a 1 2\n\xff 1 2\n")
    with pytest.raises(InputError, match="line 2: not valid UTF-8"):
        Glove(tmp_path / "glove.txt")


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
    assert [columns[1:3] for columns in code] == [["a0", "b0"], ["a1", "b0"], ["a2", "b0"], ["a2", "b1"]]
    assert all(columns[0] == "7" and columns[3] == "entailment" for columns in paper + code)
    assert [columns[1:3] for columns in augment_row(row, TASKS["rte"], [[], ["b1"]], "code")] == \
        [["a0", "b0"], ["a0", "b1"]]


# --- the whole script

def write_task(folder: Path, task, rows: int = 3) -> Path:
    """A train.tsv of `task`; its texts hold capitals, quotes and a line separator."""
    path = folder / task.name / "train.tsv"
    path.parent.mkdir(parents=True)
    lines = ["\t".join(f"name{i}" for i in range(task.train_columns))] if task.has_header else []
    for row in range(rows):
        columns = [f"{row}.{i} \"x" for i in range(task.train_columns)]
        for place, column in enumerate(task.text_columns):
            columns[column] = f"The \"Cat sees\u2028 {WORDS[row]} and {WORDS[row + place]} cats, not {WORDS[-8 - row]}"
        columns[task.label_column] = task.labels[row % len(task.labels)] if task.labels else str(row + 0.25)
        lines.append("\t".join(columns))
    path.write_bytes(("\n".join(lines) + "\n").encode())
    return path


def arguments(bert, glove, glue, task: str, *more: str) -> list[str]:
    return ["--pretrained_bert_model", str(bert), "--glove_embs", str(glove), "--glue_dir", str(glue),
            "--task_name", task, *more]


@pytest.mark.parametrize("key", [key for key in TASKS if key != "wnli"])
def test_columns_of_every_task(bert, glove, tmp_path, key):
    task = TASKS[key]
    path = write_task(tmp_path, task)
    data_augmentation.main(arguments(bert, glove, tmp_path, task.name.lower(), "--N", "4"))
    output = path.with_name("train_aug.tsv")
    assert sorted(file.name for file in path.parent.iterdir()) == ["train.tsv", "train_aug.json", "train_aug.tsv"]
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


def test_copies_by_preset(bert, glove, tmp_path, capsys):
    results = {}
    for key in ("sst2", "rte", "qqp"):
        path = write_task(tmp_path, TASKS[key])
        for preset, more in (("paper", []), ("code", ["--N", "2"])):
            data_augmentation.main(arguments(bert, glove, tmp_path, key, "--preset", preset, *more))
            results[key, preset] = json.loads(path.with_name("train_aug.json").read_text())["settings"]["N"]
    assert results == {("sst2", "paper"): 20, ("rte", "paper"): 20, ("qqp", "paper"): 20,
                       ("sst2", "code"): 20, ("rte", "code"): 30, ("qqp", "code"): 10}
    assert "--N 2 is overridden by 10" in capsys.readouterr().out


def test_the_code_preset_varies_the_second_text_beside_the_last_variant_of_the_first(bert, glove, tmp_path):
    path = write_task(tmp_path, TASKS["rte"], rows=1)
    data_augmentation.main(arguments(bert, glove, tmp_path, "rte", "--preset", "code"))
    rows = [columns for _, columns in read_rows(TASKS["rte"], path.with_name("train_aug.tsv"))]
    original = rows[0]
    first = [columns for columns in rows[1:] if columns[2] == original[2]]
    second = rows[1 + len(first):]
    assert len(first) > 3 and len(second) > 3
    assert {columns[1] for columns in second} == {first[-1][1]} and first[-1][1] != original[1]


def test_the_same_seed_gives_the_same_bytes_whatever_the_blocks(bert, glove, tmp_path, monkeypatch):
    path = write_task(tmp_path, TASKS["mrpc"], rows=8)
    results = []
    for blocks, remembered, seed in ((1024, 50_000, "1"), (3, 0, "1"), (1024, 50_000, "2")):
        monkeypatch.setattr(data_augmentation, "BLOCK_ROWS", blocks)
        monkeypatch.setattr(data_augmentation, "REMEMBERED_SENTENCES", remembered)
        data_augmentation.main(arguments(bert, glove, tmp_path, "MRPC", "--seed", seed))
        results.append(path.with_name("train_aug.tsv").read_bytes())
    assert results[0] == results[1] != results[2]


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


@pytest.mark.parametrize("task, more, message", [
    ("wnli", [], "WNLI is not augmented"), ("rte", ["--p", "1.5"], "--p"), ("rte", [], "predictions")])
def test_refusals_end_with_one_line_and_status_2(bert, glove, tmp_path, task, more, message):
    for key in ("wnli", "rte"):
        write_task(tmp_path, TASKS[key])
    encoder = BertModel(BertConfig.from_json_file(bert / "config.json"))
    save_model(encoder, tmp_path / "encoder", bert / "vocab.txt")  # no masked-LM head: never augment from a random one
    result = subprocess.run([sys.executable, str(ROOT / "data_augmentation.py"),
                             *arguments(tmp_path / "encoder", glove, tmp_path, task, *more)],
                            capture_output=True, text=True)
    assert result.returncode == 2 and message in result.stderr and result.stderr.count("\n") == 1, result.stderr
    assert not list(tmp_path.rglob("train_aug*"))
