"""English ALBERT's pieces: a model of SentencePiece, trained here, against its own package; and all that asks for them.
"""
from __future__ import annotations

import io
import itertools
import json
import pickle
import random
import re
import shutil
import string
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.conftest import STUDENT, TEACHER, finetune, general, names, run, task_lines, train, write_lines
from tests.data.test_corpus import assert_share, draw, read_corpus, unmask
from tests.miniworld import language, squad_files
from transformer.augmentation.candidates import Candidates, MaskedLM, MaskedWords, Splitter
from transformer.checkpoint import load_tokenizer, require_same_vocabulary, save_model, tokenizer_files
from transformer.config import BertConfig
from transformer.data.epochs import open_epoch
from transformer.data.features import encode_file
from transformer.data.instances import InstanceSampler, InstanceSettings
from transformer.data.windows import encode_windows
from transformer.files import InputError
from transformer.modeling import BertForMaskedLM, BertForPreTraining
from transformer.sentencepieces import AlbertTokenizer
from transformer.tasks.answers import decode
from transformer.tasks.squad import PassagePieces
from transformer.tasks.table import get_task
from transformer.tokenization import accents, casing, is_uncased, open_tokenizer, read_pieces, resolve_casing
from transformer.training.states import files_sha256

SPECIALS = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
SYMBOLS = list('()"-.–£€')  # as in ALBERT's own
FLAGS = {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "control_symbols": SPECIALS[2:],
         "user_defined_symbols": SYMBOLS, "minloglevel": 2}
MARK = "\u2581"
PIECES = 600


def trained(lines: list[str], pieces: int, **flags) -> bytes:
    """A spiece.model made from lines."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, vocab_size=pieces,
                                             **{**FLAGS, **flags})
    return model.getvalue()


def make_documents(count: int) -> list[list[str]]:
    """Articles of the embedded world, with sentences that have numbers and symbols between theirs."""
    rng = random.Random(0)

    def number() -> str:
        year, few, thousand = rng.randrange(100, 1000), rng.randrange(1, 90), rng.randrange(1, 9)
        return rng.choice((f"In {year}, {thousand},{rng.randrange(1000):03} people ({few} of them \"guests\") came.",
                           f"In {year}, it cost £{few} – or €{few + 1} - and {few}, {few}, later."))

    return [[sentence for own in article.sentences for sentence in (own, *([number()] if rng.random() < 0.3 else []))]
            for article in language.articles(rng, count)]


@pytest.fixture(scope="module")
def documents() -> list[list[str]]:
    return make_documents(150)


@pytest.fixture(scope="module")
def lines(documents) -> list[str]:
    return [line for document in documents for line in document]


@pytest.fixture(scope="module")
def folder(lines, tmp_path_factory) -> Path:
    """A BERT with random weights whose pieces are SentencePiece's, lower-cased."""
    folder = tmp_path_factory.mktemp("albert")
    (folder / "made.model").write_bytes(trained([line.lower() for line in lines], PIECES))
    torch.manual_seed(0)
    config = BertConfig(**{**STUDENT, "vocab_size": PIECES, "max_position_embeddings": 64})
    save_model(BertForPreTraining(config), folder, folder / "made.model")
    (folder / "made.model").unlink()
    return folder


@pytest.fixture(scope="module")
def cased(lines, tmp_path_factory) -> Path:
    """A spiece.model with capitals and accents."""
    path = tmp_path_factory.mktemp("cased") / "cased.model"
    path.write_bytes(trained([line.replace("er", "ér").replace("au", "Äu") for line in lines], 400))
    return path


@pytest.fixture(scope="module")
def tokenizer(folder) -> AlbertTokenizer:
    return open_tokenizer(folder)


@pytest.fixture(scope="module")
def package(folder) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))


def by_definition(package: sentencepiece.SentencePieceProcessor, text: str, lower: bool, keep_accents: bool,
                  ) -> list[int]:
    """ALBERT's slow tokenizer, step by step, of a text that is one word or may be taken as one."""
    text = " ".join(text.split()).replace("``", '"').replace("''", '"')
    if not keep_accents:
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if unicodedata.combining(c) == 0)
    text = text.lower() if lower else text
    pieces = []
    for piece in package.encode(text, out_type=str):
        if len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit():
            number = package.encode(piece[:-1].replace(MARK, ""), out_type=str)
            if piece[0] != MARK and number[0][0] == MARK:
                number = [number[0][1:], *number[1:]] if len(number[0]) > 1 else number[1:]
            pieces += [*number, ","]
        else:
            pieces.append(piece)
    return [package.piece_to_id(piece) for piece in pieces]


# --- ids

def test_the_model_has_the_layout_of_albert(tokenizer, package):
    assert tokenizer.ids_to_tokens[:14] == [*SPECIALS, *SYMBOLS, MARK]
    assert tokenizer.ids_to_tokens == [package.id_to_piece(index) for index in range(PIECES)]
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id) == (0, 1, 2, 3,
                                                                                                          4)
    assert tokenizer.vocab == {piece: index for index, piece in enumerate(tokenizer.ids_to_tokens)}
    assert tokenizer.do_lower_case and not tokenizer.keep_accents and tokenizer.id_typecode == "H"


def test_the_corpus_as_the_package_has_it(tokenizer, package, lines):
    """Whole lines; twice, so that the second time they come from the memory."""
    for line in lines * 2:
        assert tokenizer.encode(line) == by_definition(package, line, True, False), line
    assert any(1 in tokenizer.encode(line + " ü中") for line in lines)


@pytest.fixture(scope="module")
def four(cased) -> tuple:
    """The package's own, and ours for both values of both settings."""
    made = {pair: AlbertTokenizer(cased, *pair) for pair in itertools.product((False, True), repeat=2)}
    return sentencepiece.SentencePieceProcessor(model_file=str(cased)), made


TEXTS = st.one_of(st.text(max_size=40), st.text(max_size=30, alphabet=st.sampled_from(
    "aAeEbnsrt019,,..()\"'`-£€–éÉüßİ´½ﬁⅨ\u0301\u0345\u200b\u3000\u2581 \t\n\r\x1c\x85\u2028\xa0中한\x00")))


@settings(max_examples=2000, deadline=None, derandomize=True)
@given(text=TEXTS, lower=st.booleans(), keep_accents=st.booleans())
@example(text="``Ja'' it's '' ` `", lower=False, keep_accents=True)
@example(text="FALSÉ\u0301 ´ a´b", lower=True, keep_accents=False)
def test_any_text_as_the_package_has_it(four, text, lower, keep_accents):
    """Word by word, as Hugging Face's fast tokenizer gives them to the model: of two equally likely ways to split a
    word, what stands before it decides otherwise, by rounding."""
    package, tokenizers = four
    text = text.encode("utf-8", "ignore").decode()
    expected = [index for word in text.split() for index in by_definition(package, word, lower, keep_accents)]
    assert tokenizers[lower, keep_accents].encode(text) == expected


def test_hugging_face_has_the_same_ids(tokenizer, package, lines):
    """Of texts without a comma behind a digit, the one thing in which its fast tokenizer follows another rule."""
    vocabulary = [(package.id_to_piece(index), package.get_score(index)) for index in range(PIECES)]
    theirs = transformers.AlbertTokenizer(vocab=vocabulary)
    rng, compared = random.Random(1), 0
    for line in [*lines, "Crème brûlée, Ångström", "``one'' (two)"]:
        if not re.search("[0-9],", line):
            line = "".join(rng.choice((c, c, c.upper())) for c in line)
            assert theirs.encode(line, add_special_tokens=False) == tokenizer.encode(line), line
            compared += 1
    assert compared > len(lines) / 2


def test_a_number_has_the_same_pieces_before_a_comma(tokenizer, lines, tmp_path):
    with_comma = [piece for piece in tokenizer.vocab if len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit()]
    assert len(with_comma) > 5
    seen = {index for line in lines for index in tokenizer.encode(line)}
    assert not seen & set(tokenizer.convert_tokens_to_ids(with_comma))

    path = tmp_path / "commas.model"  # which has each kind of such a piece, and takes it wherever it can
    path.write_bytes(trained(["1 5 7 a b"] * 9, 40, hard_vocab_limit=False,
                             user_defined_symbols=[*SYMBOLS, f"{MARK}15,", f"{MARK}15", "57,", "5", "7", ",", "a,"]))
    package, small = sentencepiece.SentencePieceProcessor(model_file=str(path)), open_tokenizer(path)
    for text, taken, wanted in (("15, 5", f"{MARK}15,", f"{MARK}15 , {MARK} 5"), ("57,7", "57,", f"{MARK} 5 7 , 7"),
                                ("a, 7", "a,", f"{MARK} a, {MARK} 7")):
        assert taken in package.encode(text, out_type=str)
        assert small.tokenize(text) == wanted.split(), text


def test_capitals_and_accents(tokenizer, cased):
    assert tokenizer.encode("ThE ﬁlm, FILMÉ") == tokenizer.encode("the film, filme")
    assert tokenizer.prepared("``Ḧällo''") == '"hallo"'
    for lower, keep, expected in ((False, False, "FALSE ½"), (True, False, "false ½"), (False, True, "FALSÉ ½"),
                                  (True, True, "falsé ½")):
        made = AlbertTokenizer(cased, lower, keep)
        assert made.prepared("FALSÉ") == expected.split()[0]
        assert made.words("FALSÉ\u00a0 ½") == [expected.split()[0], "1\u20442"]  # the model's own normalizer
        assert made.facts == {**AlbertTokenizer(cased).facts, "do_lower_case": lower, "keep_accents": keep}
    assert tokenizer.encode("a \ud800b\udc00") == tokenizer.encode("a b")  # half characters, as JSON may hold them


def test_what_tells_casing_and_accents(folder, cased, tmp_path, capsys):
    """tokenizer_config.json, else the pieces."""
    assert casing(cased) == (False, cased) and accents(cased)
    (tmp_path / "spiece.model").write_bytes((folder / "spiece.model").read_bytes())
    assert casing(tmp_path) == (True, tmp_path / "spiece.model") and not accents(tmp_path)
    assert is_uncased(read_pieces(tmp_path / "spiece.model"))
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false, "keep_accents": true}')
    made = open_tokenizer(tmp_path)
    assert (made.do_lower_case, made.keep_accents) == (False, True)
    assert open_tokenizer(tmp_path, do_lower_case=True, max_len=9).max_len == 9
    assert resolve_casing(tmp_path) is False and "its vocabulary has no capitals" in capsys.readouterr().out
    (tmp_path / "tokenizer_config.json").write_text('{"keep_accents": 1}')
    with pytest.raises(InputError, match="tokenizer_config.json: keep_accents is 1, expected true or false"):
        open_tokenizer(tmp_path)


def test_a_tokenizer_in_another_process(tokenizer):
    text = "Bruno lives in 195, or not."
    expected = tokenizer.encode(text)
    assert pickle.loads(pickle.dumps(tokenizer)).encode(text) == expected


# --- which file

def test_the_pieces_of_a_folder(folder, tmp_path):
    """vocab.txt first, but of an ALBERT, where it can only list the pieces."""
    write_lines(tmp_path / "vocab.txt", [*SPECIALS[2:], "[PAD]", "[UNK]", "a"])
    (tmp_path / "spiece.model").write_bytes((folder / "spiece.model").read_bytes())
    assert open_tokenizer(tmp_path).SPECIALS[0] == "[UNK]"
    for model_type, unknown in (("bert", "[UNK]"), ("albert", "<unk>")):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        assert open_tokenizer(tmp_path).SPECIALS[0] == unknown
    (tmp_path / "vocab.txt").unlink()
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')  # a student
    assert open_tokenizer(tmp_path).SPECIALS[0] == "<unk>" and tokenizer_files(tmp_path) == ["spiece.model"]
    (tmp_path / "spiece.model").unlink()
    for model_type, name in (("bert", "vocab.txt"), ("albert", "spiece.model")):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        with pytest.raises(InputError, match=f"vocabulary file .*{name} does not exist"):
            open_tokenizer(tmp_path)


def test_a_model_is_saved_with_its_pieces(folder, tokenizer, tmp_path, capsys):
    assert names(folder) == ["config.json", "pytorch_model.bin", "spiece.model", "tokenizer_config.json"]
    assert json.loads((folder / "tokenizer_config.json").read_text()) == {
        "do_lower_case": True, "keep_accents": False, "tokenizer_class": "AlbertTokenizer"}
    model = BertForPreTraining.from_pretrained(folder)
    save_model(model, tmp_path / "copy", folder)
    save_model(model, tmp_path / "copy", tmp_path / "copy")  # over itself
    for name in ("spiece.model", "tokenizer_config.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (folder / name).read_bytes()
    assert load_tokenizer(tmp_path / "copy").facts == tokenizer.facts
    require_same_vocabulary(tmp_path / "copy", folder)
    save_model(model, tmp_path / "copy", write_lines(tmp_path / "vocab.txt", [f"{number}" for number in range(600)]))
    assert names(tmp_path / "copy") == ["config.json", "pytorch_model.bin", "tokenizer_config.json", "vocab.txt"]
    save_model(model, tmp_path / "copy", folder)  # again: what does not belong to it is no part of it
    assert names(tmp_path / "copy") == names(folder)
    model.config.vocab_size = PIECES - 1
    save_model(model, tmp_path / "copy", folder)
    with pytest.raises(InputError, match="spiece.model has 600 pieces and .*vocab_size 599: the files do not belong"):
        load_tokenizer(tmp_path / "copy")


def test_other_pieces_are_another_vocabulary(folder, cased, lines, tmp_path):
    shutil.copytree(folder, tmp_path / "other")
    (tmp_path / "other" / "spiece.model").write_bytes(trained(list(map(str.lower, lines[:500])), PIECES,
                                                              hard_vocab_limit=False))
    for weights in (False, True):  # of a run that starts from it
        assert files_sha256(folder, weights) != files_sha256(tmp_path / "other", weights)
    assert open_tokenizer(tmp_path / "other").vocab_fingerprint != open_tokenizer(folder).vocab_fingerprint
    with pytest.raises(InputError, match="student and teacher vocabularies differ: .*other/spiece.model and .*spiece"):
        require_same_vocabulary(tmp_path / "other", folder)


def test_a_published_model_is_brought_with_its_pieces(folder, tmp_path, script):
    local = tmp_path / "local"
    save_model(BertForPreTraining.from_pretrained(folder), local, folder)
    (local / "tokenizer_config.json").unlink()
    run(script, "get_bert_models", ["--models", local, "--output_dir", tmp_path / "models"])
    assert names(tmp_path / "models" / "local") == ["config.json", "manifest.json", "pytorch_model.bin", "spiece.model"]
    manifest = json.loads((tmp_path / "models" / "local" / "manifest.json").read_text())
    assert sorted(manifest["files"]) == ["config.json", "pytorch_model.bin", "spiece.model"]
    (tmp_path / "models" / "local" / "spiece.model").write_bytes(b"changed")
    status, _, err = script("get_bert_models", "--models", local, "--output_dir", tmp_path / "models")
    assert status == 2 and "spiece.model changed" in err


def test_an_albert_that_has_a_list_of_its_pieces_too(folder, tmp_path, script, monkeypatch):
    """Its spiece.model is brought, not the list."""
    local = shutil.copytree(folder, tmp_path / "local")
    config = json.loads((local / "config.json").read_text())
    (local / "config.json").write_text(json.dumps({**config, "model_type": "albert"}))
    write_lines(local / "vocab.txt", open_tokenizer(folder).ids_to_tokens)
    for name in ("fetching.models.not_bert", "fetching.models.summary", "kinds.not_bert"):  # its weights are a BERT's
        monkeypatch.setattr(f"transformer.{name}", lambda *_: None)
    run(script, "get_bert_models", ["--models", local, "--output_dir", tmp_path / "models"])
    assert "spiece.model" in names(tmp_path / "models" / "local") and "vocab.txt" not in names(
        tmp_path / "models" / "local")


# --- bad files

def without(control: str) -> bytes:
    return trained(["a b c d e f g"] * 9, 24, hard_vocab_limit=False,
                   control_symbols=[piece for piece in SPECIALS[2:] if piece != control])


@pytest.mark.parametrize("make, words", [
    (lambda whole: b"", ("is no SentencePiece model, or cut short",)),
    (lambda whole: whole[:len(whole) // 2], ("is no SentencePiece model, or cut short: get it again",)),
    (lambda whole: whole[:-9], ("is no SentencePiece model, or cut short",)),
    (lambda whole: b"[PAD]\n[UNK]\n[CLS]\n", ("is no SentencePiece model",)),
    (lambda whole: without("[MASK]"), ("is no model of ALBERT's: it lacks [MASK]",)),
    (lambda whole: trained(["a b c d"] * 9, 24, hard_vocab_limit=False, pad_id=-1, unk_id=0), ("it lacks <pad>",)),
    (lambda whole: trained(["a b c d"] * 9, 24, hard_vocab_limit=False, pad_id=1, unk_id=0),
     ("<pad> is its piece 1, not 0",)),
    (lambda whole: trained(["a b c d"] * 9, 24, hard_vocab_limit=False, add_dummy_prefix=False),
     ("its pieces reach over spaces, or words begin without U+2581",)),
    (lambda whole: trained(["a b a b c d"] * 9, 24, hard_vocab_limit=False, split_by_whitespace=False),
     ("its pieces reach over spaces",)),
], ids=["empty", "half", "cut", "text", "no mask", "no padding", "padding elsewhere", "no mark", "over spaces"])
def test_bad_models_are_refused(folder, tmp_path, refused, capfd, make, words):
    (tmp_path / "spiece.model").write_bytes(make((folder / "spiece.model").read_bytes()))
    write_lines(tmp_path / "corpus.txt", ["a b"])
    capfd.readouterr()
    refused("pregenerate_training_data", "--train_corpus", tmp_path / "corpus.txt", "--bert_model", tmp_path,
            "--output_dir", tmp_path / "out", words=(f"{tmp_path / 'spiece.model'} ", *words))
    assert not (tmp_path / "out").exists() and not capfd.readouterr().err  # the library says nothing either


def test_without_the_package(folder, tmp_path, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    write_lines(tmp_path / "corpus.txt", ["a b"])
    refused("pregenerate_training_data", "--train_corpus", tmp_path / "corpus.txt", "--bert_model", folder,
            "--output_dir", tmp_path / "out",
            words=("spiece.model needs the package sentencepiece: pip install sentencepiece",))


# --- pregeneration

def starts_of_words(tokens: list[str]) -> list[bool]:
    """A word begins at a mark; a punctuation mark or a symbol is one by itself."""
    return [token.startswith(MARK) or token in SPECIALS[2:] or all(c in string.punctuation + "–£€" for c in token)
            for token in tokens]


def test_which_pieces_continue_a_word(tokenizer):
    continues = dict(zip(tokenizer.ids_to_tokens, tokenizer.continues_word(), strict=True))
    assert [piece for piece in (MARK, f"{MARK}the", "(", ".", ",", "-", "–", "£", "€") if continues[piece]] == []
    assert continues["s"] and continues["<unk>"]
    assert [piece for piece, continued in continues.items()
            if continued == starts_of_words([piece])[0] and piece not in SPECIALS] == []


@pytest.fixture(scope="module")
def text(documents, tmp_path_factory) -> Path:
    return write_lines(tmp_path_factory.mktemp("text") / "corpus.txt",
                       [line for document in documents[:60] for line in (*document, "")])


def test_whole_word_masking(tokenizer, text):
    """Of 15% of the pieces 80% are masked, 10% kept and 10% changed; never half a word; never to a control symbol."""
    corpus, kinds, wanted, chosen, words = read_corpus(text, tokenizer), Counter(), 0, 0, Counter()
    sampler = InstanceSampler(corpus, tokenizer, InstanceSettings(masked_lm_prob=0.15, whole_word=True))
    longer = 0
    for instance in (i for epoch in range(3) for document in range(corpus.num_documents)
                     for i in draw(sampler, epoch, document)):
        original, masked = unmask(instance), set(instance["masked_lm_positions"])
        wanted += min(20, max(1, round(0.15 * len(original))))
        chosen += len(masked)
        for position in masked:
            new = instance["tokens"][position]
            kinds["mask" if new == "[MASK]" else "kept" if new == original[position] else "other"] += 1
            assert new == "[MASK]" or new not in SPECIALS
        starts = starts_of_words(original)
        for place in range(1, len(original)):
            if not starts[place] and original[place - 1] not in ("[CLS]", "[SEP]"):
                longer += 1
                assert (place in masked) == (place - 1 in masked), (original, masked)
        for place, token in enumerate(original):
            if starts[place] and token not in SPECIALS:
                words[place in masked] += 1
    assert longer > 1000 and 0.97 * wanted < chosen <= wanted  # now and then no word fits into what is left
    assert 0.14 < words[True] / words.total() < 0.18           # words, too: longer ones are passed over more often
    for kind, share in (("mask", 0.8), ("kept", 0.1), ("other", 0.1)):
        assert_share(kinds[kind], kinds.total(), share)


def test_pregeneration_with_any_number_of_workers(folder, tokenizer, text, tmp_path, script):
    made = {}
    for workers, more in ((1, ()), (2, ()), (2, ("--arrays",))):
        output = tmp_path / f"{workers}{len(more)}"
        run(script, "pregenerate_training_data", [
            "--train_corpus", text, "--bert_model", folder, "--output_dir", output, "--epochs_to_generate", 1,
            "--max_seq_len", 48, "--masked_lm_prob", 0.15, "--do_whole_word_mask", "--num_workers", workers, *more])
        name = "epoch_0.instances" if more else "epoch_0.json"
        made[workers, bool(more)] = output / name, output / "epoch_0_metrics.json"
    assert made[1, False][0].read_bytes() == made[2, False][0].read_bytes()
    metrics = json.loads(made[1, False][1].read_text())
    assert metrics["keep_accents"] is False and metrics["vocab_sha256"] == tokenizer.vocab_fingerprint
    json_epoch, arrays = (open_epoch(*made[key], tokenizer, 48) for key in ((1, False), (2, True)))
    assert len(json_epoch) == metrics["num_training_examples"]
    for name in ("tokens", "offsets", "first_lengths"):
        np.testing.assert_array_equal(getattr(json_epoch, name), getattr(arrays, name))


# --- features

@pytest.mark.parametrize("name", ["CoLA", "MRPC"])
def test_features_text_by_text(tokenizer, lines, name, tmp_path):
    """Each text by itself, cut as BERT cuts pairs, whatever stands in it."""
    task, length = get_task(name), 24
    odd = ["[PAD] a [SEP]", "", "\u200b", "in 1950, é <pad>"]
    texts = [*odd, *lines[:60]]

    def text_of(row: int, column: int) -> str:
        return texts[(row * (column + 1)) % len(texts)]

    path = write_lines(tmp_path / "train.tsv", task_lines(task, len(texts), text_of))
    found = encode_file(task, path, tokenizer, length, num_workers=1)
    assert len(found) == len(texts)
    for row in range(len(texts)):
        parts = [tokenizer.encode(text_of(row, column)) for column in task.text_columns]
        while sum(map(len, parts)) > length - 1 - len(parts):
            (parts[0] if len(parts) == 1 or len(parts[0]) > len(parts[1]) else parts[1]).pop()
        expected = [2, *parts[0], 3, *(index for part in parts[1:] for index in (*part, 3))]
        assert found.tokens[found.offsets[row]:found.offsets[row + 1]].tolist() == expected
        assert found.first_lengths[row] == len(parts[0]) + 2


def test_inputs_of_a_model(tokenizer):
    ids, segments = tokenizer.inputs("the film", "is bad")
    first, second = tokenizer.encode("the film"), tokenizer.encode("is bad")
    assert ids.tolist() == [[2, *first, 3, *second, 3]]
    assert segments.tolist() == [[0] * (len(first) + 2) + [1] * (len(second) + 1)]
    assert tokenizer.encode_texts([])[0].dtype == np.uint16


def test_the_chain(tiny, folder, text, script):
    """Each script takes the pieces of the model that it is given, and hands them on; a student learns of them alone."""
    config = BertConfig(**{**TEACHER, "vocab_size": PIECES})
    save_model(BertForPreTraining(config), tiny / "pieces", folder)
    run(script, "pregenerate_training_data", ["--train_corpus", text, "--bert_model", tiny / "pieces", "--output_dir",
                                              tiny / "data", "--epochs_to_generate", 1, "--max_seq_len", 32])
    run(script, "general_distill", general(tiny, pregenerated_data=tiny / "data", teacher_model=tiny / "pieces",
                                           output_dir=tiny / "gd", num_train_epochs=1))
    run(script, "finetune_teacher", finetune(tiny, model=tiny / "pieces", output_dir=tiny / "ft", num_train_epochs=1))
    out = run(script, "task_distill", train(tiny, student_model=tiny / "gd", teacher_model=tiny / "ft",
                                              pred_distill=True))
    assert "example 0: [CLS] ▁" in out
    run(script, "task_distill", ["--do_eval", "--data_dir", tiny / "glue" / "MRPC", "--task_name", "MRPC", "--no_cuda",
                                 "--student_model", tiny / "out", "--output_dir", tiny / "eval",
                                 "--max_seq_length", 24])
    settings = ("spiece.model", "tokenizer_config.json")
    for made in ("gd", "ft", "out"):
        assert [(tiny / made / name).read_bytes() for name in settings] == [
            (folder / name).read_bytes() for name in settings] and not (tiny / made / "vocab.txt").exists()


# --- augmentation

def test_candidates_are_words(folder, tokenizer):
    """The best of the pieces that are a word's beginning and letters alone, without the mark."""
    model = BertForMaskedLM.from_pretrained(folder).eval()
    sentence = "The garden, is music because critics like poetry horse"
    splitter = Splitter(tokenizer, 64)
    words = splitter.words(sentence)
    assert words == sentence.lower().split()
    whole = [index for index, piece in enumerate(tokenizer.ids_to_tokens)
             if piece[0] == MARK and piece[1:].isalpha() and piece[1:]]
    assert 50 < len(whole) < PIECES - 50
    original = tokenizer.encode(sentence)
    one_piece = [i for i, word in enumerate(words) if len(tokenizer.encode(word)) == 1 and i not in (0, 2)]
    assert len(one_piece) >= 2 and 1 not in one_piece  # the comma is a part of its word
    masked_words = MaskedWords(splitter)
    masked_words.add(sentence)
    masked_words.finish()
    for preset in ("paper", "code"):
        masked_lm = MaskedLM(model, tokenizer, 6, preset=preset)
        table = np.concatenate(list(masked_lm.answers([masked_words.batch(np.arange(len(masked_words)))])))
        rows = np.arange(len(masked_words))
        found = Candidates(splitter, masked_words.first, rows, table, {}).find(sentence, 0)[1]
        assert set(one_piece) <= set(found) and 1 not in found
        for i in one_piece:
            place = 1 + sum(len(tokenizer.encode(word)) for word in words[:i])
            ids = torch.tensor([[2, *original, 3, *original, 3]])
            ids[0, place] = 4
            segments = torch.tensor([[0] * (len(original) + 2) + [1] * (len(original) + 1)])
            with torch.no_grad():
                logits = model(ids, segments)[0, place]
            ranked = logits.argsort(descending=True).tolist()
            best = [index for index in ranked if index in whole][:6] if preset == "paper" else \
                [index for index in ranked[:6] if index in whole]
            assert found[i] == ([tokenizer.ids_to_tokens[index][1:] for index in best] or [words[i]])


def test_an_augmented_file(folder, lines, tmp_path, script):
    task = get_task("CoLA")
    write_lines(tmp_path / "glue" / "CoLA" / "train.tsv", task_lines(task, 30, lambda row, column: lines[row]))
    write_lines(tmp_path / "glove.txt", ["critics 1 0", "people 0.9 0.1", "velm 0 1"])
    run(script, "data_augmentation", ["--pretrained_bert_model", folder, "--glove_embs", tmp_path / "glove.txt",
                                      "--glue_dir", tmp_path / "glue", "--task_name", "CoLA", "--N", 4, "--no_cuda"])
    rows = (tmp_path / "glue" / "CoLA" / "train_aug.tsv").read_text(encoding="utf-8").splitlines()
    assert len(rows) > 60
    text = [row.split("\t")[3] for row in rows]
    assert MARK not in "".join(text) and not any(special in row for row in text for special in SPECIALS)


# --- SQuAD

@pytest.mark.parametrize("context, answer, expected", [
    ("He lived in Velm, by the sea.", "Velm", "velm"),
    ("He (1950-1960) lived.", "1950", "1950"),      # the mark stands before the bracket
    ("He (1950-1960) lived.", "1950-1960", "1950-1960"),
    ("It cost £15.", "15", "15"),
    ("one  \n two", "one  \n two", "one two"),
    ("He sells apples.", "apple", "apples."),       # neither end of these lies between two pieces: all of the word
    ("He sells apples.", "pples", "apples."),
])
def test_the_pieces_of_an_answer(tokenizer, context, answer, expected):
    pieces = PassagePieces.of(context, tokenizer)
    assert pieces.ids.tolist() == tokenizer.encode(context)
    first, last = pieces.find(answer, context.index(answer), tokenizer)
    assert tokenizer.spelled(pieces.ids[first:last + 1].tolist()) == expected


def test_answers_come_back(tokenizer, tmp_path):
    """What a perfect model says to the embedded world's questions is what their files say."""
    rng = random.Random(2)
    paragraphs = [squad_files.without_impossible(squad_files.make_paragraph(rng, 1)) for _ in range(40)]
    paragraphs.append({"context": "Bruno (born in Österreich) sells shells.", "qas": [
        {"id": "own", "question": "Where?", "answers": [{"text": "Österreich", "answer_start": 15}]}]})
    content = {"version": "1.1", "data": [{"title": "", "paragraphs": paragraphs}]}
    (tmp_path / "dev.json").write_text(json.dumps(content))
    task = get_task("squad1")
    train, score = (encode_windows(task, tmp_path / "dev.json", tokenizer, 200, 64, 40, use, num_workers=1)
                    for use in ("train", "score"))
    assert len(train) == len(score)  # a window a question: none is skipped
    logits = np.zeros((len(train), 200, 2))
    rows = np.arange(len(train))
    logits[rows, train.labels[:, 0], 0] = logits[rows, train.labels[:, 1], 1] = 9
    answers = [(question.answers[0][0], answer.text) for question, answer in decode(logits, score, task.head, False)]
    assert len(answers) > 80 and [pair for pair in answers if pair[0] != pair[1]] == []
