"""Augmentation of Chinese texts: characters take the place of characters."""
import json
import re

import numpy as np
import pytest
import torch

from tests.augmentation.test_augmentation import write_task
from tests.conftest import TEACHER, names, run, write_lines
from transformer.augmentation.candidates import STOP_CHARACTERS, STOP_WORDS, words_to_vary
from transformer.augmentation.variants import joined, vary
from transformer.checkpoint import save_model
from transformer.config import BertConfig
from transformer.modeling import BertForMaskedLM
from transformer.tasks.table import get_task
from transformer.tokenization import is_ideograph

CHARACTERS = "天地山水好书人大小上下来去说看电影院城市海"
STOPPED = "的了不很"
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHARACTERS, *STOPPED, *"，。！", "film", "good", "see", "##s",
          *(f"##{character}" for character in CHARACTERS[:5])]
TEXTS = ["这部电影很好看，我不说。", "城市 好大 ! film院的海水", "山上看films，goods", "鱼鱼 好", "天气不好 see 3.5"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A masked LM with random weights and Chinese characters."""
    folder = tmp_path_factory.mktemp("chinese")
    torch.manual_seed(1)
    model = BertForMaskedLM(BertConfig(**TEACHER | {"vocab_size": len(PIECES)}))
    save_model(model, folder / "bert", write_lines(folder / "vocab.txt", PIECES))
    return folder / "bert"


def test_characters_are_words_but_for_the_stop_list():
    words = ["天", "的", "不", "film", "the", "，", "3", "〇", "あ", "天天", "龜"]
    assert words_to_vary(words) == [0, 3, 10]
    assert {"没", "無", "不", "是", "我"} <= STOP_CHARACTERS and all(map(is_ideograph, STOP_CHARACTERS))
    assert not STOP_CHARACTERS & STOP_WORDS


@pytest.mark.parametrize("words, text", [
    (["电", "影", "，", "好", "看"], "电影，好看"), (["看", "film", "院", "。", "」"], "看 film 院。」"),
    (["a", "b", "，", "c"], "a b ， c"), (["3", ".", "5", "元"], "3 . 5 元"), (["，", "！"], "，！"), ([], "")])
def test_no_spaces_between_characters(words, text):
    assert joined(words) == text
    assert re.sub(" ", "", text) == "".join(words)


def test_characters_have_a_probability_of_their_own():
    words, candidates = ["天", "see"], {0: ["海"], 1: ["good"]}
    def seen(p, p_characters):
        return set(vary("original", words, candidates, 400, p, np.random.default_rng(0), p_characters))
    assert seen(0.5, 0.0) == {"天 see", "天 good"} and seen(0.0, 0.5) == {"天 see", "海 see"}
    assert seen(0.5, 0.5) == {"天 see", "天 good", "海 see", "海 good"}


def augment(script, folder, bert, *flags):
    path = write_task(folder, get_task("cola"))
    path.write_text("".join(f"x\t{number % 2}\t\t{text}\n" for number, text in enumerate(TEXTS)), encoding="utf-8")
    out = run(script, "data_augmentation", ["--pretrained_bert_model", bert, "--glue_dir", folder, "--task_name",
                                            "CoLA", "--N", "40", "--p_characters", "0.5", "--no_cuda", *flags])
    rows = [line.split("\t")[3] for line in path.with_name("train_aug.tsv").read_text("utf-8").splitlines()]
    return out, rows, json.loads(path.with_name("train_aug.json").read_text())


def test_rows(bert, tmp_path, script):
    """Against the definition: a character becomes one of the M that the masked LM finds best, and nothing else changes;
    without --glove_embs words of several pieces stay."""
    _, rows, record = augment(script, tmp_path, bert, "--M", "3")
    assert record["settings"]["glove_embs"] is None and record["words_by_glove"] == 0
    model = BertForMaskedLM.from_pretrained(bert).eval()
    sources = {text: [row for row in rows if row != text and fits(row, text)] for text in TEXTS}
    assert all(row in TEXTS or sum(fits(row, text) for text in TEXTS) == 1 for row in rows)
    assert len(sources[TEXTS[0]]) > 20 and "鱼" in sources[TEXTS[3]][0]  # unknown: it stays
    for text in (TEXTS[0], TEXTS[1]):
        words = re.findall(r"[a-z]+|\S", text)
        for place, word in enumerate(words):
            found = {re.findall(r"[a-z]+|\S", row)[place] for row in sources[text]}
            if word not in CHARACTERS:
                assert found == {word} or word == "film"
                continue
            ids = [PIECES.index(piece) if piece in PIECES else 1 for piece in words]
            masked = [4 if number == place else index for number, index in enumerate(ids)]
            with torch.no_grad():
                logits = model(torch.tensor([[2, *masked, 3, *ids, 3]]),
                               torch.tensor([[0] * (len(ids) + 2) + [1] * (len(ids) + 1)]))[0, place + 1]
            best = [PIECES[index] for index in logits.argsort(descending=True).tolist() if is_ideograph(PIECES[index])]
            assert found <= {word, *best[:3]} and len(found) > 1


def fits(row, text):
    """Whether a row may come of a text: it differs where words vary alone, and there by words of the same kind."""
    ours, original = (re.findall(r"[a-z]+|\S", line) for line in (row, text))
    return len(ours) == len(original) and all(
        own == other or (other in CHARACTERS and is_ideograph(own)) or (other.isascii() and other.isalpha())
        for own, other in zip(ours, original))


def test_resumed_and_again(bert, tmp_path, script):
    _, rows, record = augment(script, tmp_path, bert)
    assert "nothing to resume" in augment(script, tmp_path, bert, "--resume")[0]
    path = tmp_path / "CoLA" / "train_aug.json"
    del record["made_from"]["p_characters"]  # as an earlier version wrote it
    path.write_text(json.dumps(record))
    assert "nothing to resume" in augment(script, tmp_path, bert, "--resume")[0]
    again = augment(script, tmp_path, bert, "--resume", "--seed", "5")[1]
    assert again != rows and names(tmp_path / "CoLA") == ["train.tsv", "train_aug.json", "train_aug.tsv"]


def test_few_characters_in_the_vocabulary(bert, tmp_path, script):
    """Fewer than M: no wordpiece of another kind takes a place."""
    rows = augment(script, tmp_path, bert, "--M", "60")[1]
    parts = {part for row in rows for part in re.findall(r"[a-z]+|\S", row) if is_ideograph(part)}
    assert parts <= set(CHARACTERS + STOPPED + "这部我鱼气") and len(parts) > 20
