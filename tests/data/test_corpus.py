"""From extracted articles to sentences, instances and arrays: what BERT prescribes, checked on every instance.

Most corpora here have a word of their own at every position, so that a token tells where in the corpus it comes from.
"""
from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import types
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pregenerate_training_data
from tests.conftest import ROOT, without_vocab_txt
from transformer.data import corpus as corpus_module
from transformer.data import parts
from transformer.data.corpus import Corpus, corpus_sha256, open_corpus, tokenize_part
from transformer.data.epochs import Epochs, epoch_files
from transformer.data.instances import InstanceSampler, InstanceSettings, truncate
from transformer.files import InputError
from transformer.tokenization import SPECIAL_TOKENS, BertTokenizer


def write_vocab(path: Path, pieces) -> Path:
    path.write_text("\n".join([*SPECIAL_TOKENS, *pieces]) + "\n", encoding="utf-8")
    return path


def numbered_corpus(folder: Path, sentence_lengths: list[list[int]]) -> tuple[Path, BertTokenizer, list]:
    """A corpus file of words t0, t1, t2, ... as documents of sentences of these lengths; its tokenizer; its numbers."""
    count = sum(map(sum, sentence_lengths))
    vocab = write_vocab(folder / "vocab.txt", [".", *(f"t{i}" for i in range(count))])
    numbers = iter(range(count))
    documents = [[[next(numbers) for _ in range(length)] for length in lengths] for lengths in sentence_lengths]
    text = "\n\n".join("\n".join(" ".join(f"t{i}" for i in sentence) for sentence in document)
                       for document in documents)
    (folder / "corpus.txt").write_text(text + "\n", encoding="utf-8")
    return folder / "corpus.txt", BertTokenizer(vocab), documents


def read_corpus(path: Path, tokenizer: BertTokenizer, store: str = "store") -> Corpus:
    with open_corpus(path, tokenizer, path.parent / store) as (corpus, _):
        return corpus


def draw(sampler: InstanceSampler, epoch: int, document: int) -> list[dict]:
    lines = [sampler.json_line(instance) for instance in sampler.instances(epoch, document)]
    instances = [json.loads(line) for line in lines]
    assert [json.dumps(instance) + "\n" for instance in instances] == lines
    return instances


def unmask(instance: dict) -> list[str]:
    tokens = list(instance["tokens"])
    for position, label in zip(instance["masked_lm_positions"], instance["masked_lm_labels"], strict=True):
        tokens[position] = label
    return tokens


def halves(instance: dict) -> tuple[list[int], list[int]]:
    """Positions in a numbered corpus of both halves; -1 for the "." of an empty one."""
    tokens = unmask(instance)
    first_length = instance["segment_ids"].count(0)
    assert instance["segment_ids"] == [0] * first_length + [1] * (len(tokens) - first_length)
    assert tokens[0] == "[CLS]" and tokens[first_length - 1] == tokens[-1] == "[SEP]"
    numbers = [[-1 if token == "." else int(token[1:]) for token in part]
               for part in (tokens[1:first_length - 1], tokens[first_length:-1])]
    return numbers[0], numbers[1]


def assert_share(hits: int, trials: int, share: float) -> None:
    """`hits` of `trials` is within 4 standard errors of `share`."""
    assert abs(hits / trials - share) < 4 * math.sqrt(share * (1 - share) / trials), (hits, trials, share)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """400 documents of 1 to 40 sentences of 1 to 40 words (and a few of 200)."""
    rng = random.Random(3)
    lengths = [[rng.choice((rng.randint(1, 40), rng.randint(1, 12))) if rng.random() < 0.98 else 200
                for _ in range(rng.choice((1, 2, rng.randint(3, 40))))] for _ in range(400)]
    path, tokenizer, documents = numbered_corpus(tmp_path_factory.mktemp("mixed"), lengths)
    return read_corpus(path, tokenizer), tokenizer, documents


@pytest.fixture(scope="module")
def single_words(tmp_path_factory):
    """60 documents of 20 to 200 sentences of one word: nothing is ever truncated."""
    rng = random.Random(4)
    lengths = [[1] * rng.randint(20, 200) for _ in range(60)]
    path, tokenizer, documents = numbered_corpus(tmp_path_factory.mktemp("single"), lengths)
    return read_corpus(path, tokenizer), tokenizer, documents


def test_corpus_arrays(mixed):
    corpus, _, documents = mixed
    assert corpus.tokens.dtype == np.uint16
    assert [[corpus.tokens[corpus.sentence_offsets[s]:corpus.sentence_offsets[s + 1]].tolist()
             for s in range(*corpus.document_offsets[d:d + 2])] for d in range(corpus.num_documents)] \
        == [[[i + 6 for i in sentence] for sentence in document] for document in documents]


@pytest.mark.parametrize("part_bytes", [1, 3, 7, 1 << 22])
def test_line_ends_and_empty_lines(tmp_path, monkeypatch, part_bytes):
    monkeypatch.setattr(corpus_module, "TEXT_PART_BYTES", part_bytes)
    vocab = write_vocab(tmp_path / "vocab.txt", "abcde")
    tokenizer = BertTokenizer(vocab)
    plain = b"a b\nc\n\nd\n\ne a\n"
    variants = [plain, plain[:-1], plain.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + plain, b"\n\n" + plain + b"\n\n\n",
                plain.replace(b"\n\n", b"\n\n \n\t\n\n"), plain.replace(b"c\n", b"c\n\xe2\x80\x8b\n")]
    for variant in variants:
        (tmp_path / "corpus.txt").write_bytes(variant)
        corpus = read_corpus(tmp_path / "corpus.txt", tokenizer)
        assert tokenizer.convert_ids_to_tokens(corpus.tokens) == ["a", "b", "c", "d", "e", "a"], variant
        assert corpus.sentence_offsets.tolist() == [0, 2, 3, 4, 6], variant
        assert corpus.document_offsets.tolist() == [0, 2, 3, 4], variant


def test_a_part_of_a_text(tmp_path):
    tokenizer = BertTokenizer(write_vocab(tmp_path / "vocab.txt", "abcde"))
    before, part, after = b"a b\n\n", "c\n\u200b\n\x07\nd e e\n\n \na b\n\u200b\n".encode(), b"e\n\n\xff\n"
    (tmp_path / "corpus.txt").write_bytes(before + part + after)
    start, stop = len(before), len(before + part)
    result = tokenize_part(tmp_path / "corpus.txt", tokenizer, (start, stop))
    assert result.sha256 == hashlib.sha256(part).hexdigest()
    assert tokenizer.convert_ids_to_tokens(np.frombuffer(result.tokens, np.uint16)) == list("cdeeab")
    assert np.frombuffer(result.sentence_ends, np.int64).tolist() == [1, 4, 6]
    assert np.frombuffer(result.document_ends, np.int64).tolist() == [2, 2]
    assert result.left_out == 3
    with pytest.raises(InputError, match="corpus.txt, line 13: not valid UTF-8"):
        tokenize_part(tmp_path / "corpus.txt", tokenizer, (stop, stop + len(after)))


@pytest.mark.parametrize("part_bytes", [4, 1 << 20])
def test_a_store_keeps_what_comes_from_the_same_text(tmp_path, monkeypatch, capsys, part_bytes):
    monkeypatch.setattr(corpus_module, "TEXT_PART_BYTES", part_bytes)
    tokenizer = BertTokenizer(write_vocab(tmp_path / "vocab.txt", "abcde"))
    path, ranges = tmp_path / "corpus.txt", []
    monkeypatch.setattr(corpus_module, "tokenize_part",
                        lambda *arguments: ranges.append(arguments[-1]) or tokenize_part(*arguments))

    def store(text: str, name: str) -> tuple[dict, dict, int]:
        """Manifest and files of a store, and how many bytes at the end of the text were tokenized for it."""
        ranges.clear()
        path.write_text(text)
        with open_corpus(path, tokenizer, tmp_path / name) as (corpus, manifest):
            assert (corpus.num_documents, corpus.num_sentences) == (manifest["documents"], manifest["sentences"])
        assert manifest == json.loads((tmp_path / name / corpus_module.STORE_MANIFEST).read_text())
        return manifest, contents(tmp_path / name), sum(stop - start for start, stop in ranges)

    text = "a\n\nb c\n\u200b\nd\n\u200b\n\ne\n"
    manifest, _, tokenized = store(text, "store")
    assert tokenized == len(text.encode())
    assert {name: manifest[name] for name in ("documents", "sentences", "wordpieces", "left_out")} \
        == {"documents": 3, "sentences": 4, "wordpieces": 5, "left_out": 2}
    assert manifest["corpus_sha256"] == corpus_sha256(path) and manifest["train_corpus"] == str(path)
    for number, (changed, again) in enumerate([
            (text, 0), (text[:-2] + "d\n", 3), (text[:-2] + "d\n\na\n", 6), (text, 3), (text[:-3], 6),
            (text, 9), ("b" + text[1:], len(text.encode())), ("b" + text[1:-1], 2)]):
        whole = part_bytes > 4 and again  # one part: all of it, or nothing
        capsys.readouterr()
        made, files, tokenized = store(changed, "store")
        assert tokenized == (len(changed.encode()) if whole else again), number
        assert ("tokenized already" in capsys.readouterr().out) == (tokenized < len(changed.encode()))
        fresh, fresh_files, _ = store(changed, f"fresh{number}")
        assert made == fresh and files == fresh_files
        assert (made["corpus_sha256"] == manifest["corpus_sha256"]) == (changed == text)


@pytest.mark.parametrize("text, message", [("", "holds no text"), ("\u200b\n\n\u200b\n", "holds no text"),
                                           ("a\nb c\n\n", "has no document breaks")])
def test_a_text_that_cannot_be_used_leaves_nothing_behind(tmp_path, text, message):
    tokenizer = BertTokenizer(write_vocab(tmp_path / "vocab.txt", "abc"))
    path = tmp_path / "corpus.txt"
    path.write_text(text)
    for _ in range(2):
        with pytest.raises(InputError, match=f"^{path} {message}"):
            read_corpus(path, tokenizer)
        assert not contents(tmp_path / "store")["tokens"]
    path.write_text("a\n\nb c\n")
    assert read_corpus(path, tokenizer).document_offsets.tolist() == [0, 1, 2]


@pytest.mark.parametrize("vocabulary", [100, 1 << 16])
def test_wordpieces_read_instead_of_mapped(tmp_path, vocabulary):
    numbers = [random.Random(0).randrange(vocabulary) for _ in range(200)]
    tokenizer = BertTokenizer(write_vocab(tmp_path / "vocab.txt", (f"t{i}" for i in range(vocabulary))))
    (tmp_path / "corpus.txt").write_text("".join(f"t{i}\n\n" for i in numbers))
    read_corpus(tmp_path / "corpus.txt", tokenizer)
    mapped, read = (Corpus.map(tmp_path / "store", tokenizer, reduce_memory) for reduce_memory in (False, True))
    assert mapped.file is None and read.file is not None
    for corpus in (mapped, read):
        assert corpus.tokens.itemsize == (2 if vocabulary == 100 else 4)
        for start, stop in ((0, 200), (7, 12), (199, 200), (5, 5)):
            assert corpus.ids(start, stop) == [i + 5 for i in numbers[start:stop]]
            corpus.release()
    os.close(read.file)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=3), min_size=1, max_size=12), st.integers(1, 40))
def test_document_ranges_against_a_document_at_a_time(documents, wordpieces):
    offsets = [np.append(0, np.cumsum(lengths)) for lengths in (sum(documents, []), list(map(len, documents)))]
    ranges, size = [], wordpieces
    for number, document in enumerate(documents):
        if size >= wordpieces:  # the range before is big enough
            ranges.append((number, number))
            size = 0
        ranges[-1] = ranges[-1][0], number + 1
        size += sum(document)
    assert list(Corpus(np.zeros(offsets[0][-1], np.uint16), *offsets, []).document_ranges(wordpieces)) == ranges


def naive_instances(documents: list[list[list[int]]], index: int, settings: InstanceSettings,
                    rng: random.Random) -> list[tuple[list[int], list[int], bool]]:
    """BERT's procedure with lists, a sentence and a token at a time, drawing from `rng` in the same order."""
    room = settings.max_seq_len - 3
    target = rng.randint(2, room) if rng.random() < settings.short_seq_prob else room
    result, chunk, document = [], [], documents[index]
    i = 0
    while i < len(document):
        chunk.append(document[i])
        if i == len(document) - 1 or sum(map(len, chunk)) >= target:
            split = rng.randrange(1, len(chunk)) if len(chunk) >= 2 else 1
            first, second = sum(chunk[:split], []), []
            random_next = not settings.one_seq and (len(chunk) == 1 or rng.random() < 0.5)
            if random_next:
                others = [(d, s) for d in range(len(documents)) if d != index for s in range(len(documents[d]))]
                other, sentence = others[rng.randrange(len(others))]
                while True:
                    second += documents[other][sentence]
                    sentence += 1
                    if sentence == len(documents[other]) or len(second) >= target - len(first):
                        break
                i -= len(chunk) - split
            else:
                second = sum(chunk[split:], [])
            second = second or [-1]
            cut_first = cut_second = 0
            while len(first) - cut_first + len(second) - cut_second > room:
                if len(first) - cut_first > len(second) - cut_second:
                    cut_first += 1
                else:
                    cut_second += 1
            if cut_first or cut_second:
                for tokens, cut in ((first, cut_first), (second, cut_second)):
                    front = bin(rng.getrandbits(cut)).count("1")
                    del tokens[:front], tokens[len(tokens) - (cut - front):]
            result.append((first, second, random_next))
            chunk = []
        i += 1
    return result


@pytest.mark.parametrize("change", [{}, {"one_seq": True}, {"short_seq_prob": 1.0}, {"max_seq_len": 16},
                                    {"max_seq_len": 9, "short_seq_prob": 0.5, "seed": 7}])
def test_instances_as_the_naive_procedure(mixed, change):
    corpus, tokenizer, documents = mixed
    settings = InstanceSettings(**change)
    sampler = InstanceSampler(corpus, tokenizer, settings)
    count = 0
    for index in range(0, len(documents), 3):
        expected = naive_instances(documents, index, settings, random.Random(f"{settings.seed} 2 {index}"))
        instances = draw(sampler, 2, index)
        assert [(*halves(instance), instance["is_random_next"]) for instance in instances] == expected
        assert all(not instance["masked_lm_positions"] for instance in instances)
        count += len(instances)
    assert count > 200


@pytest.mark.parametrize("lengths", [[[1], [1]], [[3], [2, 20], [4, 1, 9], [30]], [[2, 2, 2, 2], [1, 7]]])
def test_instances_of_few_documents(tmp_path, lengths):
    """Each sentence of the others is drawn often, those next to the document itself too."""
    path, tokenizer, documents = numbered_corpus(tmp_path, lengths)
    settings = InstanceSettings(max_seq_len=13, short_seq_prob=0.3)
    sampler = InstanceSampler(read_corpus(path, tokenizer), tokenizer, settings)
    for epoch, index in itertools.product(range(40), range(len(documents))):
        expected = naive_instances(documents, index, settings, random.Random(f"42 {epoch} {index}"))
        assert [(*halves(instance), instance["is_random_next"]) for instance in draw(sampler, epoch, index)] == expected


@pytest.mark.parametrize("one_seq", [False, True])
def test_every_instance_holds_what_bert_prescribes(mixed, one_seq):
    corpus, tokenizer, documents = mixed
    document_of = {i: d for d, document in enumerate(documents) for sentence in document for i in sentence}
    sampler = InstanceSampler(corpus, tokenizer, InstanceSettings(one_seq=one_seq, max_seq_len=64, masked_lm_prob=0.15))
    lengths = Counter()
    for index in range(len(documents)):
        for instance in draw(sampler, 0, index):
            positions = instance["masked_lm_positions"]
            assert positions == sorted(set(positions)) and len(positions) == len(instance["masked_lm_labels"]) >= 1
            first, second = halves(instance)  # the numbers run on, so the labels restore what was masked
            assert 1 <= len(first) and 1 <= len(second) and len(first) + len(second) <= 61
            lengths[len(instance["tokens"])] += 1
            assert first == list(range(first[0], first[0] + len(first)))  # in order, nothing left out inside
            assert {document_of[i] for i in first} == {index}
            if second == [-1]:
                assert one_seq and not instance["is_random_next"]
                continue
            assert second == list(range(second[0], second[0] + len(second)))
            others = {document_of[i] for i in second}
            if instance["is_random_next"]:
                assert len(others) == 1 and others != {index} and not one_seq
            else:
                assert others == {index} and second[0] > first[-1]
    assert lengths.most_common(1)[0][0] == 64


@pytest.mark.parametrize("one_seq", [False, True])
def test_unused_sentences_are_put_back(single_words, one_seq):
    """Sentences of one word: chunks meet the target exactly, and every document is gone through without a gap."""
    corpus, tokenizer, documents = single_words
    sampler = InstanceSampler(corpus, tokenizer, InstanceSettings(one_seq=one_seq, max_seq_len=32))
    for index, document in enumerate(documents):
        expected = document[0][0]
        for instance in draw(sampler, 1, index):
            first, second = halves(instance)
            assert first[0] == expected
            expected = first[-1] + 1
            if not instance["is_random_next"] and second != [-1]:
                assert second[0] == expected
                expected = second[-1] + 1
        assert expected == document[-1][0] + 1


def test_shares(single_words):
    corpus, tokenizer, documents = single_words
    document_of = [d for d, document in enumerate(documents) for _ in document]
    settings = InstanceSettings(max_seq_len=19, short_seq_prob=0.3)
    sampler = InstanceSampler(corpus, tokenizer, settings)
    multi = random_next = 0
    drawn, expected_draws, variance = Counter(), Counter(), Counter()
    targets, splits, places = [], [], []
    sizes = [len(document) for document in documents]
    for epoch in range(60):
        for index in range(len(documents)):
            instances = draw(sampler, epoch, index)
            for number, instance in enumerate(instances):
                first, second = halves(instance)
                if number == 0 and not instance["is_random_next"]:
                    targets.append(len(first) + len(second))
                if instance["is_random_next"]:
                    drawn[document_of[second[0]]] += 1
                    other = documents[document_of[second[0]]]
                    places.append((second[0] - other[0][0] + 0.5) / len(other))
                    for d, size in enumerate(sizes):
                        share = 0 if d == index else size / (sum(sizes) - sizes[index])
                        expected_draws[d] += share
                        variance[d] += share * (1 - share)
                if documents[index][-1][0] - first[0] >= 16:  # enough sentences were left for any target
                    multi += 1
                    random_next += instance["is_random_next"]
                    if not instance["is_random_next"] and len(first) + len(second) == 16:
                        splits.append(len(first))
    assert_share(random_next, multi, 0.5)
    # Random next halves start at any sentence of other documents alike.
    for d in range(len(documents)):
        assert abs(drawn[d] - expected_draws[d]) < 4 * math.sqrt(variance[d]), d
    assert abs(np.mean(places) - 0.5) < 4 * math.sqrt(1 / 12 / len(places))
    # A target of its own, 2 to 16, for 0.3 of the documents: 16 too comes out of one in 15 of those.
    assert_share(sum(target < 16 for target in targets), len(targets), 0.3 * 14 / 15)
    for target in range(2, 16):
        assert_share(targets.count(target), len(targets), 0.3 / 15)
    assert abs(np.mean(splits) - 8) < 4 * math.sqrt((15 ** 2 - 1) / 12 / len(splits))  # uniform over 1 to 15
    assert set(splits) == set(range(1, 16))


def test_truncate_against_one_token_at_a_time():
    rng = random.Random(0)
    fronts = Counter()
    for first_length in range(1, 24):
        for second_length in range(1, 24):
            for room in (2, 3, 10, 11, 30, 46):
                a, b = list(range(first_length)), list(range(second_length))
                short_a, short_b = truncate(a, b, room, rng)
                while len(a) + len(b) > room:
                    (a if len(a) > len(b) else b).pop()
                assert (len(short_a), len(short_b)) == (len(a), len(b))
                for short, length in ((short_a, first_length), (short_b, second_length)):
                    assert short == list(range(short[0], short[0] + len(short)))
                    fronts[True] += short[0]
                    fronts[False] += length - 1 - short[-1]
    assert_share(fronts[True], sum(fronts.values()), 0.5)


def test_masking_shares(mixed):
    corpus, tokenizer, documents = mixed
    sampler = InstanceSampler(corpus, tokenizer, InstanceSettings(masked_lm_prob=0.15, max_predictions_per_seq=17))
    kinds, places, total = Counter(), 0.0, 0
    for index in range(len(documents)):
        for instance in draw(sampler, 0, index):
            positions, tokens = instance["masked_lm_positions"], instance["tokens"]
            assert len(positions) == min(17, max(1, round(0.15 * len(tokens))), len(tokens) - 3)
            assert positions == sorted(set(positions))
            original = unmask(instance)
            for position, label in zip(positions, instance["masked_lm_labels"], strict=True):
                assert label not in SPECIAL_TOKENS
                kinds["mask" if tokens[position] == "[MASK]" else "kept" if tokens[position] == label else "other"] += 1
                assert tokens[position] == "[MASK]" or tokens[position] not in SPECIAL_TOKENS
            assert all(new == old for i, (new, old) in enumerate(zip(tokens, original, strict=True))
                       if i not in positions)
            if len(tokens) == 128:
                places += sum(positions)
                total += len(positions)
    count = sum(kinds.values())
    assert count > 3000
    assert_share(kinds["mask"], count, 0.8)
    assert_share(kinds["kept"], count, 0.1)  # a random piece is the old one once in 30,000
    assert_share(kinds["other"], count, 0.1)
    assert abs(places / total - 63.5) < 4 * 128 / math.sqrt(12 * total)  # positions 1 to 126 alike


def test_whole_word_masking(tmp_path):
    vocab = write_vocab(tmp_path / "vocab.txt", [".", "a", "b", "##c", "##d"])
    rng = random.Random(0)
    text = "\n\n".join("\n".join(" ".join(rng.choice("ab") + "".join(rng.choices("cd", k=rng.randint(0, 3)))
                                          for _ in range(rng.randint(1, 15))) for _ in range(12)) for _ in range(40))
    (tmp_path / "corpus.txt").write_text(text)
    tokenizer = BertTokenizer(vocab)
    corpus = read_corpus(tmp_path / "corpus.txt", tokenizer)
    by_whole_word = {}
    apart = 0
    kinds = Counter()
    for whole_word in (True, False):
        sampler = InstanceSampler(corpus, tokenizer, InstanceSettings(masked_lm_prob=0.15, whole_word=whole_word))
        broken = instances = 0
        for instance in (i for document in range(corpus.num_documents) for i in draw(sampler, 0, document)):
            original, masked = unmask(instance), set(instance["masked_lm_positions"])
            assert len(masked) <= min(20, max(1, round(0.15 * len(original))))
            instances += 1
            for position in masked:
                new = instance["tokens"][position]
                kinds["mask" if new == "[MASK]" else "kept" if new == original[position] else "other"] += 1
            # A ## piece shares the fate of the piece before it, unless truncation left it first in its half.
            broken += any(token.startswith("##") and original[i - 1] not in ("[CLS]", "[SEP]")
                          and (i in masked) != (i - 1 in masked) for i, token in enumerate(original))
            second_start = instance["segment_ids"].count(0)
            apart += whole_word and original[second_start].startswith("##") \
                and (second_start in masked) != (second_start - 2 in masked)
        by_whole_word[whole_word] = broken, instances
    assert by_whole_word[True][0] == 0
    assert apart > 0  # no word reaches over a [SEP]
    assert by_whole_word[False][0] > by_whole_word[False][1] / 2
    # Of the 10% that become one of the 5 pieces at random, a fifth stay as they are.
    for kind, share in (("mask", 0.8), ("kept", 0.12), ("other", 0.08)):
        assert_share(kinds[kind], sum(kinds.values()), share)


def test_presets_differ_in_one_masked_piece_only(mixed):
    corpus, tokenizer, documents = mixed
    paper = InstanceSampler(corpus, tokenizer, InstanceSettings())
    code = InstanceSampler(corpus, tokenizer, InstanceSettings(mask_at_least_one=True))
    for index in range(0, len(documents), 4):
        for ours, theirs in zip(draw(paper, 0, index), draw(code, 0, index), strict=True):
            assert ours["masked_lm_positions"] == ours["masked_lm_labels"] == []
            assert len(theirs["masked_lm_positions"]) == len(theirs["masked_lm_labels"]) == 1
            assert unmask(theirs) == ours["tokens"]
            assert theirs["segment_ids"] == ours["segment_ids"]


def test_seed_epoch_and_document_change_instances(mixed):
    corpus, tokenizer, _ = mixed

    def instances(seed: int, epoch: int) -> list[dict]:
        sampler = InstanceSampler(corpus, tokenizer, InstanceSettings(seed=seed, masked_lm_prob=0.15))
        return [instance for document in range(20) for instance in draw(sampler, epoch, document)]

    assert instances(1, 0) == instances(1, 0)
    assert instances(1, 0) != instances(2, 0) != instances(1, 1)


@pytest.mark.parametrize("settings", [{}, {"one_seq": True}, {"max_seq_len": 16}, {"short_seq_prob": 1.0}])
def test_wordpieces_used_are_those_that_stand_in_instances_of_their_document(mixed, settings):
    """Every word of this corpus has a piece of its own, so that what instances hold can be looked up."""
    corpus, tokenizer, documents = mixed
    sampler = InstanceSampler(corpus, tokenizer, InstanceSettings(**settings))
    for index in (3, 17, 250):
        before, own = sampler.used, {number for sentence in documents[index] for number in sentence}
        drawn = [number for instance in draw(sampler, 0, index) for half in halves(instance) for number in half]
        assert sampler.used - before == len(own & set(drawn))
        assert corpus.wordpieces(index, index + 1) == len(own)
    assert corpus.wordpieces(0, len(documents)) == len(corpus.tokens)


def test_wordpieces_past_the_longest_line(mixed, monkeypatch):
    corpus, _, documents = mixed
    monkeypatch.setattr(corpus_module, "_SENTENCES_AT_A_TIME", 100)
    assert corpus.longer_than(30) == sum(max(len(sentence) - 30, 0) for document in documents for sentence in document)


@pytest.fixture
def small(tmp_path):
    """Arguments of a pregenerate_training_data run on a small corpus, and its output folder."""
    rng = random.Random(6)
    path, _, _ = numbered_corpus(tmp_path, [[rng.randint(1, 12) for _ in range(rng.randint(1, 9))] for _ in range(250)])
    return ["--train_corpus", path, "--bert_model", tmp_path / "vocab.txt", "--output_dir", tmp_path / "out",
            "--max_seq_len", "40", "--epochs_to_generate", "2", "--do_lower_case"], tmp_path / "out"


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder; names that begin with a dot are those of files that are being written."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name[0] != "."}


def test_machine_flags_do_not_change_the_result(small, script, tmp_path, monkeypatch):
    arguments, output = small
    results, stores = [], []
    for flags in ([], ["--reduce_memory"], ["--num_workers", "2"], ["--num_workers", "3", "--reduce_memory"]):
        shutil.rmtree(tmp_path / "store", ignore_errors=True)
        status, out, err = script("pregenerate_training_data", *arguments, "--masked_lm_prob", "0.15", *flags,
                                  "--overwrite_output_dir", "--tmp_dir", tmp_path / "store")
        assert status == 0 and "250 documents" in out and "instance 1: [CLS]" in out, err
        assert {path.name for path in output.iterdir()} - {".lock"} == set(contents(output))
        results.append(contents(output))
        stores.append(contents(tmp_path / "store" / "tokenized_corpus"))
        del stores[-1]["progress.jsonl"]
        monkeypatch.setattr(corpus_module, "TEXT_PART_BYTES", 3000)  # one part, then several
        monkeypatch.setattr(pregenerate_training_data, "PART_WORDPIECES", 1000)
    assert set(results[0]) == {"epoch_0.json", "epoch_0_metrics.json", "epoch_1.json", "epoch_1_metrics.json"}
    assert results[0]["epoch_0.json"] != results[0]["epoch_1.json"]
    instances = [{name: data for name, data in result.items() if "metrics" not in name} for result in results]
    assert all(other == instances[0] for other in instances)
    assert all(other == results[1] for other in results[2:])
    assert stores[1] == stores[2] == stores[3]
    assert all(stores[1][name] == stores[0][name] for name in corpus_module.STORE_FILES)


def test_store_is_reused_while_nothing_changed(small, script, tmp_path, monkeypatch):
    arguments, output = small
    monkeypatch.setattr(corpus_module, "TEXT_PART_BYTES", 3000)
    tokenized = []
    original = corpus_module.tokenize_part

    def watch(text_file, tokenizer, text_range):
        if text_file.name == "corpus.txt":  # not the estimate's sample
            tokenized.append(text_range)
        return original(text_file, tokenizer, text_range)

    monkeypatch.setattr(corpus_module, "tokenize_part", watch)

    def run(*flags) -> int:
        tokenized.clear()
        status, _, err = script("pregenerate_training_data", *arguments, "--tmp_dir", tmp_path / "store", *flags)
        assert status == 0, err
        return len(tokenized)

    everything = run()
    assert everything == -(-(tmp_path / "corpus.txt").stat().st_size // 3000) > 3
    first = contents(output)
    assert run() == 0 and contents(output) == first
    assert run("--seed", 1, "--output_dir", tmp_path / "other") == 0
    text = (tmp_path / "corpus.txt").read_bytes()
    (tmp_path / "corpus.txt").write_bytes(text[:-20] + text[-20:].replace(b"t", b"T"))  # the same tokens, another text
    assert run("--overwrite_output_dir") == 1  # the last part
    assert contents(output)["epoch_1.json"] == first["epoch_1.json"]
    (tmp_path / "corpus.txt").write_bytes(text + b"\nt1\n\nt2\n")
    assert 1 <= run("--overwrite_output_dir") <= 2
    tokens = tmp_path / "store" / "tokenized_corpus" / "tokens"
    os.truncate(tokens, tokens.stat().st_size // 2)  # a damaged store
    assert 1 < run("--overwrite_output_dir") < everything
    vocab = (tmp_path / "vocab.txt").read_text()
    (tmp_path / "vocab.txt").write_text(vocab + "more\n")
    assert run("--overwrite_output_dir") == everything
    corpus, tokenizer = Corpus.map(tmp_path / "store" / "tokenized_corpus", BertTokenizer(tmp_path / "vocab.txt")), \
        BertTokenizer(tmp_path / "vocab.txt")
    fresh = read_corpus(tmp_path / "corpus.txt", tokenizer, "fresh")
    for name in corpus_module.STORE_FILES:
        assert np.array_equal(getattr(corpus, name), getattr(fresh, name))


def test_only_one_run_has_a_store_and_an_output_folder(small, refused, tmp_path):
    arguments, output = small
    tokenizer = BertTokenizer(tmp_path / "vocab.txt")
    with open_corpus(tmp_path / "corpus.txt", tokenizer, output / "tokenized_corpus"):
        refused("pregenerate_training_data", *arguments, words=("another run is working in", "tokenized_corpus"))
    with parts.locked(output / ".lock"):
        refused("pregenerate_training_data", *arguments, "--tmp_dir", tmp_path / "elsewhere",
                "--overwrite_output_dir", words=("another run is working in", "out"))


def test_folders_of_somebody_else_are_left_alone(small, refused, tmp_path):
    arguments, _ = small
    (tmp_path / "mine" / "tokenized_corpus").mkdir(parents=True)
    (tmp_path / "mine" / "tokenized_corpus" / "tokens").write_text("precious")
    refused("pregenerate_training_data", *arguments, "--tmp_dir", tmp_path / "mine", words=("something else",))
    assert contents(tmp_path / "mine" / "tokenized_corpus") == {"tokens": b"precious"}


def test_corpus_that_changes_while_it_is_read(small, refused, monkeypatch):
    arguments, output = small
    original = corpus_module.tokenize_part

    def grow(text_file, tokenizer, text_range):
        part = original(text_file, tokenizer, text_range)
        if text_file.name == "corpus.txt":
            with open(text_file, "a") as handle:
                handle.write("t1\n")
        return part

    monkeypatch.setattr(corpus_module, "tokenize_part", grow)
    refused("pregenerate_training_data", *arguments, words=("corpus.txt changed while it was read",))
    assert not contents(output)


@pytest.mark.parametrize("call", range(2, 12))
def test_interrupted_while_saving(tmp_path, monkeypatch, call):
    """Ctrl-C at any fsync: no record is written twice, and going on gives the same files."""
    calls = 0

    def interrupt(_) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt

    monkeypatch.setattr(parts, "_SECONDS_BETWEEN_SAVES", 0)
    monkeypatch.setattr(os, "fsync", interrupt)
    for _ in range(2):
        with contextlib.suppress(KeyboardInterrupt), parts.GrowingFiles(tmp_path / "files", ["a", "b"], {}) as files:
            for number in range(len(files.records), 4):
                files.append([f"{number} ".encode(), b"x" * number])
    assert contents(tmp_path / "files")["a"] == b"0 1 2 3 " and contents(tmp_path / "files")["b"] == b"x" * 6
    with parts.GrowingFiles(tmp_path / "files", ["a", "b"], {}) as files:
        assert [record["part"] for record in files.records] == [0, 1, 2, 3]
    progress = tmp_path / "files" / "progress.jsonl"
    os.truncate(progress, progress.stat().st_size - 1)  # a record without its line end
    with parts.GrowingFiles(tmp_path / "files", ["a", "b"], {}) as files:
        assert len(files.records) == 3
        files.append([b"4 ", b""])
    with parts.GrowingFiles(tmp_path / "files", ["a", "b"], {}) as files:
        assert len(files.records) == 4 and contents(tmp_path / "files")["a"] == b"0 1 2 4 "


RUN_WITH_SMALL_PARTS = """
import sys, pregenerate_training_data, transformer.data.corpus, transformer.data.parts
from transformer.cli import run_script
transformer.data.parts._SECONDS_BETWEEN_SAVES = 0
transformer.data.corpus.TEXT_PART_BYTES, pregenerate_training_data.PART_WORDPIECES = 4000, 2500
sys.exit(run_script(lambda: pregenerate_training_data.main(sys.argv[1:])))
"""


@pytest.mark.parametrize("form,flags", [("json", []), ("instances", ["--arrays"])])
def test_killed_at_random_moments(form, flags, tmp_path):
    """kill -9 in the middle, five times, each run going on where the last one was stopped."""
    rng = random.Random(5)
    numbered_corpus(tmp_path, [[rng.randint(1, 12) for _ in range(rng.randint(1, 9))] for _ in range(500)])

    def start(output: str) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-c", RUN_WITH_SMALL_PARTS, "--train_corpus", "corpus.txt",
                                 "--bert_model", "vocab.txt", "--output_dir", output, "--do_lower_case",
                                 "--num_workers", "2", "--masked_lm_prob", "0.15", "--max_seq_len", "40", *flags],
                                cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, start_new_session=True)

    def progress(output: str) -> int:
        size = 0
        for folder, _, files in os.walk(tmp_path / output):  # goes on where a folder was renamed just now
            for path in (Path(folder, name) for name in files):
                with contextlib.suppress(FileNotFoundError):
                    size += path.stat().st_size if path.suffix != ".jsonl" else 0
        return size

    whole = start("whole")
    assert whole.wait(60) == 0, whole.stderr.read()
    total = progress("whole")
    for moment in sorted(rng.random() for _ in range(5)):
        run = start("killed")
        while run.poll() is None and progress("killed") < moment * total:
            time.sleep(0.001)
        run.kill()
        assert run.wait() == -signal.SIGKILL
        assert not (tmp_path / "killed" / f"epoch_2.{form}").exists()
        for folder in (".", *(path.name for path in (tmp_path / "killed").glob("*.instances"))):
            for name, data in contents(tmp_path / "killed" / folder).items():
                assert data == (tmp_path / "whole" / folder / name).read_bytes()  # under a final name all is whole
        for _ in range(1000):  # the workers end by themselves
            try:
                os.killpg(run.pid, 0)
            except ProcessLookupError:
                break
            time.sleep(0.01)
        else:
            raise AssertionError("a worker outlives the main process")
    last = start("killed")
    out, err = last.communicate(timeout=60)
    assert last.returncode == 0 and "parts of corpus.txt are tokenized already" in out, err
    assert "parts are there already" in out or "epoch_2" in out
    folders = [f"epoch_{epoch}.instances" for epoch in range(3) if form == "instances"]
    for folder in (".", *folders):
        assert contents(tmp_path / "killed" / folder) == contents(tmp_path / "whole" / folder) != {}
    assert {path.name for path in (tmp_path / "killed").iterdir()} \
        == {*contents(tmp_path / "whole"), "tokenized_corpus", ".lock", *folders}


@pytest.mark.parametrize("name,flags", [("tokens", []), ("instances", []), ("first_lengths", ["--arrays"])])
def test_full_disk_keeps_what_is_finished(small, script, monkeypatch, name, flags):
    arguments, output = small
    arguments = [*arguments, *flags]
    monkeypatch.setattr(corpus_module, "TEXT_PART_BYTES", 1500)
    monkeypatch.setattr(pregenerate_training_data, "PART_WORDPIECES", 1000)
    monkeypatch.setattr(parts, "_SECONDS_BETWEEN_SAVES", 0)
    append = parts.GrowingFiles.append

    def full(files, blocks, **record):
        if len(files.records) == 3 and (files.folder / name).exists() and files.folder.is_relative_to(output):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(files, blocks, **record)

    monkeypatch.setattr(parts.GrowingFiles, "append", full)
    status, _, err = script("pregenerate_training_data", *arguments)
    assert status == 2 and "No space left on device" in err and len(err.splitlines()) == 1
    assert not list(output.glob("epoch_*.json")) and not list(output.glob("epoch_*.instances"))
    monkeypatch.setattr(parts.GrowingFiles, "append", append)
    status, out, err = script("pregenerate_training_data", *arguments)
    assert status == 0 and f"{'epoch 0: ' if name != 'tokens' else ''}3 of " in out, err


def test_disk_too_small_is_refused_before_the_work(small, refused, script, monkeypatch, tmp_path):
    """What is enough for two epochs of arrays, 250 bytes for a JSON's 1,500, is not for JSON."""
    arguments, output = small
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=100_000))
    refused("pregenerate_training_data", *arguments, words=("lacks about", "GB", "--output_dir", "--tmp_dir"))
    assert not contents(output)
    status, _, err = script("pregenerate_training_data", *arguments, "--arrays")
    assert status == 0, err
    made = sum(path.stat().st_size for name in ("epoch_*.instances/*", "tokenized_corpus/*") for path in
               output.glob(name))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=made // 2))
    refused("pregenerate_training_data", *arguments, "--arrays", "--output_dir", tmp_path / "more",
            words=("lacks about",))


def test_estimate(small, script, tmp_path):
    arguments, output = small
    status, out, err = script("pregenerate_training_data", *arguments)
    assert status == 0, err
    promised = int(re.search(r"estimate: ([\d,]+) instances", out)[1].replace(",", ""))
    made = json.loads((output / "epoch_0_metrics.json").read_text())["num_training_examples"]
    assert abs(promised / made - 1) < 0.1


@pytest.mark.parametrize("documents", [[[1] * 70_000, [3, 4]], [[1]] * 70_000, [[500_000], [2, 2]]],
                         ids=["a document over 2^16 sentences", "over 2^16 documents", "one giant sentence"])
def test_unusual_corpora(tmp_path, script, documents):
    """Words of a vocabulary of 1,000 in order, so that a token tells its place modulo 1,000."""
    vocab = write_vocab(tmp_path / "vocab.txt", [".", *(f"t{i}" for i in range(1000))])
    words = (f"t{i % 1000}" for i in itertools.count())
    text = "\n\n".join("\n".join(" ".join(itertools.islice(words, length)) for length in document)
                       for document in documents)
    (tmp_path / "corpus.txt").write_text(text)
    status, _, err = script("pregenerate_training_data", "--train_corpus", tmp_path / "corpus.txt",
                              "--bert_model", vocab, "--output_dir", tmp_path / "out", "--epochs_to_generate", 1,
                              "--do_lower_case", "--short_seq_prob", 0)
    assert status == 0, err
    corpus = Corpus.map(tmp_path / "out" / "tokenized_corpus", BertTokenizer(vocab))
    assert np.array_equal(corpus.tokens, np.arange(sum(map(sum, documents))) % 1000 + 6)
    assert np.diff(corpus.sentence_offsets).tolist() == [length for document in documents for length in document]
    assert np.diff(corpus.document_offsets).tolist() == list(map(len, documents))
    covered = count = 0
    with open(tmp_path / "out" / "epoch_0.json") as lines:
        for instance in map(json.loads, lines):
            count += 1
            tokens = instance["tokens"]
            first_length = instance["segment_ids"].count(0)
            assert tokens[0] == "[CLS]" and tokens[first_length - 1] == tokens[-1] == "[SEP]" and len(tokens) <= 128
            assert instance["segment_ids"] == [0] * first_length + [1] * (len(tokens) - first_length)
            for half in (tokens[1:first_length - 1], tokens[first_length:-1]):
                numbers = [int(token[1:]) for token in half]
                assert numbers == [(numbers[0] + i) % 1000 for i in range(len(numbers))]
            covered += first_length - 2 if instance["is_random_next"] else len(tokens) - 3
    # One-sentence documents and chunks give one instance each; sentences of one word are used up without a gap.
    if len(documents) > 2:
        assert count == len(documents)
    elif len(documents[0]) == 70_000:
        assert 70_007 - 3 * count <= covered <= 70_007  # a random second half of 3 or 4 words may not fit


def arrays_of(epoch_json: Path, vocab: Path) -> dict[str, list[int]]:
    """What epoch_K.instances is to hold of an epoch_K.json, an instance at a time."""
    ids = {piece: number for number, piece in enumerate(vocab.read_text().splitlines())}
    arrays: dict[str, list[int]] = {"tokens": [], "offsets": [0], "first_lengths": []}
    for instance in map(json.loads, epoch_json.read_text().splitlines()):
        arrays["tokens"] += [ids[token] for token in instance["tokens"]]
        arrays["offsets"].append(len(arrays["tokens"]))
        arrays["first_lengths"].append(instance["segment_ids"].count(0))
    return arrays


def test_arrays_hold_what_the_json_holds(small, script, tmp_path, monkeypatch):
    """Of the wordpieces as they are masked, by any number of workers and parts; the metrics are the same."""
    arguments, output = small
    arguments += ["--masked_lm_prob", "0.3", "--do_whole_word_mask", "--tmp_dir", tmp_path / "store"]
    assert script("pregenerate_training_data", *arguments)[0] == 0
    for number, flags in enumerate(([], ["--num_workers", "2"], ["--num_workers", "3", "--reduce_memory"])):
        folder = tmp_path / f"arrays{number}"
        status, out, err = script("pregenerate_training_data", *arguments, *flags, "--arrays", "--output_dir", folder)
        assert status == 0 and "estimate: " in out, err
        for epoch in range(2):
            wanted = arrays_of(output / f"epoch_{epoch}.json", tmp_path / "vocab.txt")
            made = folder / f"epoch_{epoch}.instances"
            assert f"{made}: {len(wanted['first_lengths']):,} instances, which hold" in out
            for name, typecode in (("tokens", "uint16"), ("offsets", "int64"), ("first_lengths", "int32")):
                assert np.fromfile(made / name, typecode).tolist() == wanted[name], (flags, name)
            assert contents(folder)[f"epoch_{epoch}_metrics.json"] == contents(output)[f"epoch_{epoch}_metrics.json"]
        assert {path.name for path in folder.iterdir()} == {
            ".lock", *(f"epoch_{epoch}{end}" for epoch in range(2) for end in (".instances", "_metrics.json"))}
        monkeypatch.setattr(pregenerate_training_data, "PART_WORDPIECES", 1000)
    status, out, err = script("pregenerate_training_data", *arguments, "--arrays", "--output_dir", folder)
    assert status == 0 and "all 2 epochs are there already" in out, err


@pytest.mark.parametrize("first,then", [([], ["--arrays"]), (["--arrays"], []), (["--arrays"], ["--arrays"])])
def test_a_run_that_was_stopped_goes_on_in_the_same_form_or_starts_in_the_other(first, then, small, script, monkeypatch,
                                                                               tmp_path):
    """Nothing of the one form is left in what the other one wrote."""
    arguments, output = small
    monkeypatch.setattr(pregenerate_training_data, "PART_WORDPIECES", 1000)
    assert script("pregenerate_training_data", *arguments, *then, "--output_dir", tmp_path / "whole")[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(pregenerate_training_data, "write_json", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        assert script("pregenerate_training_data", *arguments, *first)[0] == 130
    parts_made = len((output / "epoch_0.unfinished" / "progress.jsonl").read_text().splitlines()) - 1
    status, out, err = script("pregenerate_training_data", *arguments, *then)
    assert status == 0 and ("parts are there already" in out) == (first == then), err
    how = "with --arrays" if first else "as JSON"
    assert (f"epoch 0: {parts_made} parts that were made {how} are deleted" in out) == (first != then)
    assert out.count("are deleted") == (first != then)  # of the second epoch there is none
    for folder in (".", *(f"epoch_{epoch}.instances" for epoch in range(2) if then)):
        assert contents(output / folder) == contents(tmp_path / "whole" / folder) != {}
    assert {path.name for path in output.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}


@pytest.mark.parametrize("flags,other", [([], ["--arrays"]), (["--arrays"], [])])
def test_an_epoch_that_is_there_in_the_other_form(flags, other, small, script, refused):
    """It counts as there, which is said, if it was made from the same; --overwrite_output_dir makes it anew."""
    arguments, output = small
    names = ["epoch_0.json", "epoch_1.json"] if other else ["epoch_0.instances", "epoch_1.instances"]
    assert script("pregenerate_training_data", *arguments, *flags)[0] == 0
    before = sorted(path.name for path in output.iterdir())
    status, out, err = script("pregenerate_training_data", *arguments, *other)
    assert status == 0 and "all 2 epochs are there already" in out, err
    for name in names:
        assert f"{output} holds {name} already, which general_distill.py reads as well" in out
    assert sorted(path.name for path in output.iterdir()) == before
    refused("pregenerate_training_data", *arguments, *other, "--seed", 7,
            words=("already holds epoch_", names[0].removeprefix("epoch_0"), "another seed"))
    (output / "epoch_0.arrays" / "of that JSON").mkdir(parents=True)
    assert script("pregenerate_training_data", *arguments, *other, "--overwrite_output_dir")[0] == 0
    assert {path.name for path in output.glob("epoch_*")} == {
        f"epoch_{epoch}{end}" for epoch in range(2)
        for end in ("_metrics.json", ".instances" if other else ".json")}


@pytest.mark.parametrize("name", ["tokens", "offsets", "first_lengths", "manifest.json"])
def test_arrays_that_are_not_whole_are_made_again(name, small, script):
    arguments, output = small
    arguments = [*arguments, "--arrays"]
    assert script("pregenerate_training_data", *arguments)[0] == 0
    whole = contents(output / "epoch_1.instances")
    os.truncate(output / "epoch_1.instances" / name, len(whole[name]) // 2)
    status, out, err = script("pregenerate_training_data", *arguments)
    assert status == 0 and out.count("which hold") == 1, err
    assert contents(output / "epoch_1.instances") == whole


def stopped_in_epoch(number: int, monkeypatch, script, arguments) -> None:
    """A run that gets SIGINT when all parts of an epoch are made."""
    finish = pregenerate_training_data.finish_epoch
    with monkeypatch.context() as patch:
        patch.setattr(pregenerate_training_data, "finish_epoch", lambda args, epoch, *others:
                      os.kill(os.getpid(), signal.SIGINT) if epoch == number else finish(args, epoch, *others))
        assert script("pregenerate_training_data", *arguments)[0] == 130


def test_parts_that_are_not_gone_on_with(small, script, monkeypatch):
    """Those of other settings are deleted, which is said; those of epochs that are not asked for stay."""
    arguments, output = small
    monkeypatch.setattr(pregenerate_training_data, "PART_WORDPIECES", 1000)
    stopped_in_epoch(0, monkeypatch, script, arguments)
    stopped_in_epoch(1, monkeypatch, script, [*arguments, "--seed", "7"])
    left = contents(output / "epoch_1.unfinished")
    assert left["instances"]
    status, out, err = script("pregenerate_training_data", *arguments, "--seed", "7", "--epochs_to_generate", "1",
                              "--arrays")
    assert status == 0 and "are deleted" not in out and contents(output / "epoch_1.unfinished") == left, err
    (output / "epoch_0.json").unlink()
    status, out, err = script("pregenerate_training_data", *arguments, "--seed", "8")
    parts_left = len(left["progress.jsonl"].splitlines()) - 1
    assert status == 0 and re.findall(r"epoch \d: \d+ parts .*", out) == [
        f"epoch 1: {parts_left} parts that were made with other settings are deleted"], err


@pytest.mark.parametrize("flags", [[], ["--arrays"]])
@pytest.mark.parametrize("damage", ["cut short", "a file", "a link to nothing", "longest", "examples"])
def test_damaged_arrays_beside_whole_json(damage, flags, small, script):
    """general_distill.py refuses them by name; started again in either form, the script makes the epoch anew."""
    arguments, output = small
    arguments += ["--epochs_to_generate", "1"]
    assert script("pregenerate_training_data", *arguments)[0] == 0
    epoch_json, instances = output / "epoch_0.json", output / "epoch_0.instances"
    wanted, tokenizer = epoch_json.read_bytes(), BertTokenizer(output.parent / "vocab.txt", do_lower_case=True)
    epoch_json.rename(output / "kept")
    assert script("pregenerate_training_data", *arguments, "--arrays")[0] == 0
    (output / "kept").rename(epoch_json)
    whole = contents(instances)
    if damage == "cut short":
        os.truncate(instances / "tokens", 100)
    elif damage in ("longest", "examples"):
        manifest = json.loads(whole["manifest.json"])
        del manifest[damage]
        (instances / "manifest.json").write_text(json.dumps(manifest))
    else:
        shutil.rmtree(instances)
        instances.write_text("not a folder") if damage == "a file" else instances.symlink_to("nothing")
    epochs = Epochs(epoch_files(output, 1), tokenizer, 40)
    for look in (lambda: epochs[0], lambda: epochs.data_bytes):
        with pytest.raises(InputError, match=f"{instances} is not whole: copy it again, or start pregenerate_training"):
            look()
    status, out, err = script("pregenerate_training_data", *arguments, *flags)
    assert status == 0 and out.count("which hold") == 1, err
    assert epoch_json.read_bytes() == wanted
    assert (contents(instances) == whole) if flags else not os.path.lexists(instances)
    assert len(Epochs(epoch_files(output, 1), tokenizer, 40)[0]) == len(wanted.splitlines())
    assert "all 1 epochs are there already" in script("pregenerate_training_data", *arguments, *flags)[1]


def test_overwriting_links_and_folders_that_cannot_be_deleted(small, script, refused, tmp_path, monkeypatch):
    """What a link leads to stays. Where a folder cannot be deleted, the metrics still tell what it holds."""
    arguments, output = small
    arguments += ["--arrays", "--epochs_to_generate", "1"]
    assert script("pregenerate_training_data", *arguments)[0] == 0
    instances, elsewhere = output / "epoch_0.instances", tmp_path / "elsewhere"
    whole = contents(instances)
    instances.rename(elsewhere)
    instances.symlink_to(elsewhere)
    (output / "epoch_0.arrays").symlink_to(elsewhere)
    assert "all 1 epochs are there already" in script("pregenerate_training_data", *arguments)[1]
    assert script("pregenerate_training_data", *arguments, "--overwrite_output_dir")[0] == 0
    assert contents(instances) == contents(elsewhere) == whole and not instances.is_symlink()
    assert not (output / "epoch_0.arrays").is_symlink()

    shutil.rmtree(instances)
    instances.symlink_to(elsewhere)
    os.truncate(elsewhere / "tokens", 100)  # and one that is not whole is replaced, not written to
    assert script("pregenerate_training_data", *arguments)[0] == 0
    assert contents(instances) == whole != contents(elsewhere) and not instances.is_symlink()

    rmtree = shutil.rmtree

    def refuse(path, *others, **options):
        if path == instances:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        rmtree(path, *others, **options)

    monkeypatch.setattr("shutil.rmtree", refuse)
    refused("pregenerate_training_data", *arguments, "--overwrite_output_dir",
            words=("epoch_0.instances: Permission denied",))
    assert (output / "epoch_0_metrics.json").exists()


@pytest.mark.parametrize("flags", [[], ["--arrays"]])
def test_an_epoch_without_metrics_is_refused(flags, small, script, refused):
    arguments, output = small
    assert script("pregenerate_training_data", *arguments, *flags)[0] == 0
    (output / "epoch_1_metrics.json").unlink()
    refused("pregenerate_training_data", *arguments, *flags,
            words=("already holds epoch_1.", "but no epoch_1_metrics.json", "--overwrite_output_dir"))


def test_files_of_a_run(small, script, tmp_path):
    arguments, output = small
    assert script("pregenerate_training_data", *arguments, "--preset", "code", "--epochs_to_generate", "1")[0] == 0
    lines = (output / "epoch_0.json").read_text().splitlines()
    instances = [json.loads(line) for line in lines]
    metrics = json.loads((output / "epoch_0_metrics.json").read_text())
    assert (metrics["num_training_examples"], metrics["max_seq_len"], metrics["seed"]) == (len(lines), 40, 42)
    assert all(set(instance) == {"tokens", "segment_ids", "is_random_next", "masked_lm_positions", "masked_lm_labels"}
               and len(instance["masked_lm_positions"]) == 1 for instance in instances)


def test_flags_of_the_instances(small, script):
    arguments, output = small
    flags = ["--masked_lm_prob", "0.5", "--max_predictions_per_seq", "3", "--one_seq"]
    assert script("pregenerate_training_data", *arguments, *flags)[0] == 0
    instances = [json.loads(line) for line in (output / "epoch_0.json").read_text().splitlines()]
    assert not any(instance["is_random_next"] for instance in instances)  # half of them without --one_seq
    assert max(len(instance["masked_lm_positions"]) for instance in instances) == 3


def test_text_that_is_never_used_is_counted_and_warned_of(tmp_path, script, monkeypatch):
    """Two documents of one line of 100 words: of each the first half of an instance is cut to 18 or fewer."""
    path, _, _ = numbered_corpus(tmp_path, [[100], [100]])
    arguments = ["--train_corpus", path, "--bert_model", tmp_path / "vocab.txt", "--do_lower_case", "--one_seq",
                 "--epochs_to_generate", "1", "--output_dir"]
    status, out, err = script("pregenerate_training_data", *arguments, tmp_path / "out", "--max_seq_len", 40)
    assert status == 0, err
    metrics = json.loads((tmp_path / "out/epoch_0_metrics.json").read_text())
    assert (metrics["wordpieces"], metrics["wordpieces_used"]) == (200, 2 * 36)  # 37, of which one is the "." of B
    assert f"warning: 63.0% of the wordpieces of {path} will be in no instance" in out and "into sentences" in out
    assert "2 instances, which hold 36.0% of the corpus's wordpieces" in out
    status, out, err = script("pregenerate_training_data", *arguments, tmp_path / "more", "--max_seq_len", 103)
    assert status == 0 and "warning" not in out and "which hold 99.0%" in out, err  # 99 words and the "."


@pytest.mark.parametrize("past, warned", [(6, True), (4, False)])
def test_more_than_a_twentieth_in_lines_too_long_is_warned_of_at_once(tmp_path, script, past, warned):
    """--max_seq_len 40 leaves a line room for 37 of the corpus's 100 wordpieces."""
    path, _, _ = numbered_corpus(tmp_path, [[37 + past], [37, 26 - past]])
    status, out, err = script("pregenerate_training_data", "--train_corpus", path, "--bert_model", tmp_path /
                              "vocab.txt", "--do_lower_case", "--output_dir", tmp_path / "out", "--max_seq_len", 40)
    assert status == 0, err
    assert (f"warning: {past}.0% of the wordpieces of {path} will be in no instance" in out) == warned
    assert ("will be in no instance" in out) == warned


@pytest.mark.parametrize("second, used, unused", [(31, "66.1%", "33.9%"), (30, "67.3%", None)])
def test_more_than_a_third_cut_off_is_warned_of_once(tmp_path, script, second, used, unused):
    """Of each document the two lines are one instance, cut to 37 wordpieces; no line is longer than that."""
    path, _, _ = numbered_corpus(tmp_path, [[25, second], [25, second]])
    status, out, err = script("pregenerate_training_data", "--train_corpus", path, "--bert_model", tmp_path /
                              "vocab.txt", "--do_lower_case", "--one_seq", "--short_seq_prob", 0, "--max_seq_len", 40,
                              "--epochs_to_generate", 2, "--output_dir", tmp_path / "out")
    assert status == 0 and out.count(f"2 instances, which hold {used}") == 2, err
    assert out.count("warning") == out.count(f"warning: {unused} of the wordpieces are in no instance") == bool(unused)
    assert out.count("not split into sentences") == bool(unused)


def test_wordpieces_used_survive_a_stop_and_parts_of_an_earlier_version(small, script, monkeypatch):
    arguments, output = small
    monkeypatch.setattr(pregenerate_training_data, "PART_WORDPIECES", 1000)
    assert script("pregenerate_training_data", *arguments)[0] == 0
    whole = contents(output)
    for old in (False, True):
        for file in output.glob("epoch_*.json"):
            file.unlink()
        with monkeypatch.context() as patch:
            patch.setattr(pregenerate_training_data, "write_json", lambda *_: os.kill(os.getpid(), signal.SIGINT))
            assert script("pregenerate_training_data", *arguments)[0] == 130
        progress = output / "epoch_0.unfinished" / "progress.jsonl"
        facts, *records = progress.read_text().splitlines()
        assert len(records) > 3
        if old:  # two parts whose wordpieces were not counted
            for number in (0, 1):
                record = json.loads(records[number])
                del record["wordpieces"], record["wordpieces_used"]
                records[number] = json.dumps(record)
            metrics = json.loads(whole["epoch_0_metrics.json"])  # now without a sum of some of the parts
            del metrics["wordpieces"], metrics["wordpieces_used"]
            whole["epoch_0_metrics.json"] = (json.dumps(metrics, indent=2) + "\n").encode()
            progress.write_text("\n".join([facts, *records]) + "\n")
        status, out, err = script("pregenerate_training_data", *arguments)
        assert status == 0 and "parts are there already" in out, err
        assert out.count("which hold") == 2 - old
        assert {name: data for name, data in contents(output).items() if name in whole} == whole


def test_bad_corpora(small, tmp_path, refused):
    arguments, output = small
    corpus = tmp_path / "bad.txt"
    arguments = arguments + ["--train_corpus", corpus]

    def refuse(content: bytes | None, *words: str) -> None:
        if content is not None:
            corpus.write_bytes(content)
        refused("pregenerate_training_data", *arguments, words=words)
        assert not contents(output) if output.exists() else True

    refuse(None, "bad.txt does not exist")
    refuse(b"", "holds no text")
    refuse(b"\n \n\n", "holds no text")
    refuse(b"t1 t2\nt3\nt4\n", "no document breaks", "empty line between documents")
    refuse(b"t1 t2\nt3\n\n\n", "no document breaks")
    refuse(b"t1\n\nt2 \xff\n", "bad.txt, line 3", "UTF-8")
    corpus.unlink()
    corpus.mkdir()
    refuse(None, "is not a file", "prepare_data.py")


def test_refused_settings(small, tmp_path, refused, script):
    arguments, output = small
    refused("pregenerate_training_data", *arguments, "--max_seq_len", 4, words=("--max_seq_len 4", "at least 8"))
    refused("pregenerate_training_data", *arguments, "--masked_lm_prob", 1.5, words=("--masked_lm_prob", "1.5"))
    refused("pregenerate_training_data", *arguments, "--num_workers", 0, words=("--num_workers",))
    refused("pregenerate_training_data", *arguments, "--bert_model", tmp_path / "nowhere", words=("does not exist",))
    (tmp_path / "bert").mkdir()
    refused("pregenerate_training_data", *arguments, "--bert_model", tmp_path / "bert", words=("vocab.txt",))
    (tmp_path / "bert" / "vocab.txt").write_bytes((tmp_path / "vocab.txt").read_bytes())
    (tmp_path / "bert" / "config.json").write_text('{"max_position_embeddings": 39}')
    refused("pregenerate_training_data", *arguments, "--bert_model", tmp_path / "bert",
            words=("--max_seq_len 40", "39 positions"))
    assert not output.exists()

    output.mkdir()
    (output / "epoch_7.json").write_text("precious")
    refused("pregenerate_training_data", *arguments, words=("already holds epoch_7.json", "--overwrite_output_dir"))
    refused("pregenerate_training_data", *arguments, "--overwrite_output_dir", "--train_corpus", tmp_path / "vocab.txt",
            words=("no document breaks",))
    assert contents(output) == {"epoch_7.json": b"precious"}
    assert script("pregenerate_training_data", *arguments, "--overwrite_output_dir")[0] == 0
    assert "epoch_7.json" not in contents(output) and len(contents(output)) == 4
    refused("pregenerate_training_data", *arguments, "--seed", 7, words=("epoch_", "another seed"))
    (tmp_path / "corpus.txt").write_text((tmp_path / "corpus.txt").read_text() + "t1\n")
    refused("pregenerate_training_data", *arguments, words=("epoch_", "another training corpus"))


def test_warnings_and_pasted_paths(small, tmp_path, script, monkeypatch):
    arguments, _ = small
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "corpus.txt").rename(tmp_path / "data" / "corpus.txt")
    arguments = [*arguments[2:-1], "--train_corpus", "corpus.txt"]  # without --do_lower_case
    status, out, err = script("pregenerate_training_data", *arguments, "--do_whole_word_mask")
    assert status == 0, err
    assert "taking data/corpus.txt" in out
    assert "is uncased" in out and "--do_whole_word_mask changes nothing" in out


def test_the_model_tells_vocabulary_and_casing(small, tmp_path, script, refused):
    """By vocab.txt or tokenizer.json, with the flag or without: the same instances. Padded embeddings are said."""
    arguments, output = small
    assert script("pregenerate_training_data", *arguments)[0] == 0
    wanted = (output / "epoch_1.json").read_bytes()
    (tmp_path / "bert").mkdir()
    shutil.copy(tmp_path / "vocab.txt", tmp_path / "bert")
    without_vocab_txt(tmp_path / "bert")
    pieces = len((tmp_path / "vocab.txt").read_text().splitlines())
    (tmp_path / "bert" / "config.json").write_text(json.dumps({"vocab_size": pieces + 6}))
    for number, bert in enumerate(("bert", "bert/tokenizer.json")):
        flags = [*arguments[:-1], "--bert_model", tmp_path / bert, "--output_dir", tmp_path / f"other{number}"]
        status, out, err = script("pregenerate_training_data", *flags)
        assert status == 0, err
        assert out.count(f"{pieces + 6} word embeddings for {pieces} pieces") == 1 - number
        assert f"{tmp_path / bert} is uncased" in out and "lower-casing, as with --do_lower_case" in out
        assert "do_lower_case=True" in out
        assert (tmp_path / f"other{number}" / "epoch_1.json").read_bytes() == wanted
    (tmp_path / "bert" / "config.json").write_text(json.dumps({"vocab_size": pieces - 1}))
    refused("pregenerate_training_data", *arguments, "--bert_model", tmp_path / "bert", words=(f"{pieces - 1}",))
    (tmp_path / "vocab.txt").write_text((tmp_path / "vocab.txt").read_text() + "Capital\n")
    refused("pregenerate_training_data", *arguments, words=("--do_lower_case", "vocab.txt is cased", "drop the flag"))


def test_refusal_on_the_command_line(tmp_path):
    """What the in-process checks above stand for: exit status 2, one line on stderr, nothing else."""
    (tmp_path / "vocab.txt").write_text("\n".join(SPECIAL_TOKENS))
    (tmp_path / "corpus.txt").write_text("one\ntwo\n")
    for arguments, message in (
            ([], "pregenerate_training_data.py: error: the following arguments are required: --train_corpus"),
            (["--train_corpus", "corpus.txt", "--bert_model", "vocab.txt", "--output_dir", "out"],
             "pregenerate_training_data.py: error: corpus.txt has no document breaks")):
        done = subprocess.run([sys.executable, str(ROOT / "pregenerate_training_data.py"), *arguments], cwd=tmp_path,
                              capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith(message), done.stderr
        assert not list(tmp_path.glob("out/epoch*"))


def test_no_torch_before_it_is_needed():
    code = ("import sys, data_augmentation, pregenerate_training_data, prepare_data; "
            "sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
