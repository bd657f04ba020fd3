"""Epochs of instances as arrays: what is read back, what is converted again and what is not, and batches of them."""
from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, started
from transformer.data import epochs
from transformer.data.arrays import open_arrays, unfinished_arrays
from transformer.data.epochs import Epochs, epoch_files, open_epoch
from transformer.data.features import Sequences
from transformer.data.parts import GrowingFiles, byte_ranges
from transformer.files import InputError
from transformer.tokenization import SPECIAL_TOKENS, BertTokenizer
from transformer.training.batches import shuffled_batches

PIECES = [*"abcdefgh", "##b", "é", "\u2028"]


def write_epoch(folder: Path, count: int, seed: int = 0) -> list[dict]:
    """vocab.txt, epoch_0.json with `count` random instances, and the metrics that the published script writes."""
    rng = random.Random(seed)
    instances = []
    for _ in range(count):
        first, second = rng.choices(PIECES, k=rng.randint(1, 9)), rng.choices(PIECES, k=rng.randint(1, 9))
        instances.append({"tokens": ["[CLS]", *first, "[SEP]", *second, "[SEP]"],
                          "segment_ids": [0] * (len(first) + 2) + [1] * (len(second) + 1), "is_random_next": True,
                          "masked_lm_positions": [1], "masked_lm_labels": [first[0]]})
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, *PIECES]) + "\n", encoding="utf-8")
    lines = (json.dumps(instance, ensure_ascii=rng.random() < 0.5) + "\n" for instance in instances)
    (folder / "epoch_0.json").write_text("".join(lines), encoding="utf-8")
    (folder / "epoch_0_metrics.json").write_text(json.dumps({"num_training_examples": count, "max_seq_len": 21}))
    return instances


def opened(folder: Path, max_seq_length: int = 21, **options) -> Sequences:
    return open_epoch(folder / "epoch_0.json", folder / "epoch_0_metrics.json", BertTokenizer(folder / "vocab.txt"),
                      max_seq_length, **options)


def read_back(sequences: Sequences) -> list[tuple[list[str], int]]:
    names = [*SPECIAL_TOKENS, *PIECES]
    return [([names[i] for i in sequences.tokens[begin:end]], int(first_length)) for begin, end, first_length
            in zip(sequences.offsets[:-1], sequences.offsets[1:], sequences.first_lengths, strict=True)]


def expected(instances: list[dict]) -> list[tuple[list[str], int]]:
    return [(instance["tokens"], instance["segment_ids"].count(0)) for instance in instances]


def array_files(folder: Path) -> dict[str, bytes]:
    (arrays,) = (folder / "epoch_0.arrays").iterdir()
    return {name: (arrays / name).read_bytes() for name in ("tokens", "offsets", "first_lengths")}


def swap_json(path: Path) -> None:
    """Other content of the same size and time of change."""
    status = path.stat()
    path.write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("many_pieces", [False, True])
def test_arrays_hold_the_json_which_is_read_once(tmp_path, in_memory, many_pieces):
    instances = write_epoch(tmp_path, 50)
    if many_pieces:
        with open(tmp_path / "vocab.txt", "a") as vocab:
            vocab.writelines(f"piece{i}\n" for i in range(1 << 16))
    for _ in range(2):
        sequences = opened(tmp_path, in_memory=in_memory)
        assert read_back(sequences) == expected(instances) and sequences.labels is None
        assert sequences.tokens.dtype == (np.int32 if many_pieces else np.uint16)
        assert (sequences.offsets.dtype, sequences.first_lengths.dtype) == (np.int64, np.int32)
        assert isinstance(sequences.tokens.base, np.memmap) != in_memory
        swap_json(tmp_path / "epoch_0.json")


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_line_ends_byte_order_mark_and_any_layout(tmp_path, end):
    instances = write_epoch(tmp_path, 20)
    lines = [json.dumps(dict(reversed(instance.items())), separators=(" , ", ":\t")) for instance in instances]
    text = end.join(lines) + end if end else "\n".join(lines)
    (tmp_path / "epoch_0.json").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_back(opened(tmp_path, num_workers=1, part_bytes=300)) == expected(instances)


def test_number_of_workers_and_parts_change_nothing(tmp_path):
    instances = write_epoch(tmp_path, 200)
    results = []
    for workers, part_bytes in ((1, 1 << 24), (1, 777), (2, 4000)):
        assert read_back(opened(tmp_path, num_workers=workers, part_bytes=part_bytes)) == expected(instances)
        results.append(array_files(tmp_path))
        shutil.rmtree(tmp_path / "epoch_0.arrays")
    assert results[0] == results[1] == results[2]


def test_another_json_is_converted_beside_mapped_arrays(tmp_path):
    old_instances = write_epoch(tmp_path, 300)
    old = opened(tmp_path)
    new_instances = write_epoch(tmp_path, 20, seed=1)
    assert read_back(opened(tmp_path)) == expected(new_instances)
    assert read_back(old) == expected(old_instances)
    assert len(list((tmp_path / "epoch_0.arrays").iterdir())) == 1  # the old one takes no more room
    with open(tmp_path / "vocab.txt", "a") as vocab:
        vocab.write("new\n")
    assert read_back(opened(tmp_path)) == expected(new_instances)
    assert len(list((tmp_path / "epoch_0.arrays").iterdir())) == 2


@pytest.mark.parametrize("damage", ["tokens", "offsets", "first_lengths", "manifest.json", "half a manifest", "facts"])
def test_damaged_arrays_are_converted_again(tmp_path, damage):
    instances = write_epoch(tmp_path, 60)
    opened(tmp_path, num_workers=1, part_bytes=2000)
    whole = array_files(tmp_path)
    (arrays,) = (tmp_path / "epoch_0.arrays").iterdir()
    manifest = (arrays / "manifest.json").read_text()
    if damage == "manifest.json":
        (arrays / damage).unlink()
    elif damage == "half a manifest":
        (arrays / "manifest.json").write_text(manifest[:50])
    elif damage == "facts":
        (arrays / "manifest.json").write_text(manifest.replace('"format": ', '"format": 9'))
    else:
        os.truncate(arrays / damage, len(whole[damage]) // 2)
    assert read_back(opened(tmp_path, num_workers=1, part_bytes=2000)) == expected(instances)
    assert array_files(tmp_path) == whole and (arrays / "manifest.json").read_text() == manifest


STOPPING = """
import sys
from pathlib import Path
from transformer.data import epochs, parts
from transformer import tokenization

folder, stop_at, parse, count = Path(sys.argv[1]), int(sys.argv[2]), epochs._parse_instances, 0

def parse_part(part):
    global count
    count += 1
    print("part", part[1], flush=True)
    if count == stop_at:
        sys.stdin.readline()
    return parse(part)

epochs._parse_instances, parts._SECONDS_BETWEEN_SAVES = parse_part, 0
epochs.open_epoch(folder / "epoch_0.json", folder / "epoch_0_metrics.json",
                  tokenization.BertTokenizer(folder / "vocab.txt"), 21, num_workers=1, part_bytes=2000)
"""


def opening(folder: Path, stop_at: int = 0) -> contextlib.AbstractContextManager:
    """A process that opens the epoch, prints where each part begins that it parses, and stops at the beginning of part
    `stop_at` until it is given a line."""
    return started(sys.executable, "-c", STOPPING, folder, stop_at, cwd=ROOT)


def part_lines(folder: Path) -> list[str]:
    """What a process prints that parses all parts."""
    return [f"part {start}\n" for start, _ in byte_ranges(folder / "epoch_0.json", 2000)]


def test_killed_conversion_goes_on(tmp_path):
    instances = write_epoch(tmp_path, 60)
    parts = part_lines(tmp_path)
    with opening(tmp_path, 4) as process:
        assert [process.stdout.readline() for _ in range(4)] == parts[:4] != parts
        process.kill()
    assert not list(tmp_path.glob("epoch_0.arrays/*/manifest.json"))
    with opening(tmp_path) as process:
        assert process.stdout.readlines() == parts[3:]  # the three finished ones are not done again
    continued = array_files(tmp_path)
    assert read_back(opened(tmp_path)) == expected(instances)
    shutil.rmtree(tmp_path / "epoch_0.arrays")
    opened(tmp_path)
    assert array_files(tmp_path) == continued


def test_unfinished_arrays(tmp_path):
    """Filled by parts; whole when the block ends without an error, and not before; then None."""
    places, typecodes, facts = [tmp_path / "arrays"], {"numbers": "i", "bytes": "B"}, {"format": 1}
    with pytest.raises(KeyError), unfinished_arrays(places, typecodes, facts, 2) as files:
        files.append([np.arange(2, dtype=np.int32).tobytes(), b"ab"])
        raise KeyError
    with pytest.raises(InputError, match="no whole arrays"):
        open_arrays(places, typecodes, facts)
    with unfinished_arrays(places, typecodes, facts, 2) as files:
        assert len(files.records) == 1  # what the first one did is kept
        files.append([np.arange(2, 4, dtype=np.int32).tobytes(), b"cd"])
        files.summary = {"columns": 2}
    with unfinished_arrays(places, typecodes, facts, 2) as files:
        assert files is None
    arrays, manifest = open_arrays(places, typecodes, facts)
    assert arrays["numbers"].tolist() == [0, 1, 2, 3] and arrays["bytes"].tobytes() == b"abcd"
    assert manifest == {"facts": facts, "sizes": [16, 4], "columns": 2} \
        == json.loads((places[0] / "manifest.json").read_text())
    with unfinished_arrays(places, typecodes, {"format": 2}, 2) as files:
        assert files.sizes == [0, 0]  # other facts: nothing of it is used


def test_a_folder_of_something_else_is_not_waited_for(tmp_path, capsys):
    (tmp_path / "arrays").mkdir()
    (tmp_path / "arrays" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="arrays holds files of something else"), \
            unfinished_arrays([tmp_path / "arrays"], {"numbers": "i"}, {}, 1):
        pass
    assert capsys.readouterr().out == "" and (tmp_path / "arrays" / "notes.txt").read_text() == "mine"


def test_two_at_once_convert_once(tmp_path):
    instances = write_epoch(tmp_path, 60)
    parts = part_lines(tmp_path)
    with opening(tmp_path, 2) as first:
        assert [first.stdout.readline() for _ in range(2)] == parts[:2]
        with opening(tmp_path) as second:
            folder, = (tmp_path / "epoch_0.arrays").iterdir()
            assert second.stdout.readline() == f"another run is working in {folder}: waiting for it to end\n"
            assert first.communicate("go on\n")[0] == "".join(parts[2:]) and "part" not in second.communicate()[0]
            assert first.returncode == second.returncode == 0
    assert read_back(opened(tmp_path)) == expected(instances)


@pytest.mark.parametrize("asked", ["exists", "iterdir"])
def test_a_folder_that_another_process_makes_at_this_moment(tmp_path, monkeypatch, asked):
    """Between any two looks at it the other one may begin: with progress.jsonl, then its files."""
    ask, folder = getattr(Path, asked), tmp_path / "arrays"
    folder.mkdir()

    def ask_before_it_begins(path):
        answer = ask(path)
        if asked == "iterdir":
            answer = iter(list(answer))
        if path in (folder, folder / "progress.jsonl"):
            for name in ("progress.jsonl", "a"):
                (folder / name).touch()
        return answer

    monkeypatch.setattr(Path, asked, ask_before_it_begins)
    with GrowingFiles(folder, ["a"], {"format": 1}, wait=True) as files:
        assert files.records == []


STUCK = """
import os, signal, sys
from pathlib import Path
from transformer.data import epochs, parallel, parts
from transformer import tokenization
from transformer.cli import run_script

folder, number, to_all = Path(sys.argv[1]), int(sys.argv[2]), bool(int(sys.argv[3]))
main, parse, append, third = os.getpid(), epochs._parse_instances, parts.GrowingFiles.append, int(sys.argv[4])
appended = parallel._CONTEXT.Semaphore(0)

def parse_part(part):
    if part[1] == third:
        appended.acquire()
        appended.acquire()
        os.killpg(0, number) if to_all else os.kill(main, number)
        while True:
            signal.pause()
    return parse(part)

def noted(self, *blocks, **record):
    append(self, *blocks, **record)
    appended.release()

epochs._parse_instances, parts.GrowingFiles.append, parts._SECONDS_BETWEEN_SAVES = parse_part, noted, 0
sys.exit(run_script(lambda: epochs.open_epoch(folder / "epoch_0.json", folder / "epoch_0_metrics.json",
         tokenization.BertTokenizer(folder / "vocab.txt"), 21, num_workers=2, part_bytes=2000)))
"""


@pytest.mark.parametrize("number,to_all", [(signal.SIGINT, 0), (signal.SIGINT, 1), (signal.SIGTERM, 0)])
def test_a_signal_ends_a_conversion_whose_worker_is_stuck(tmp_path, number, to_all):
    """At once, with all workers (which a terminal's Ctrl-C reaches as well), and what was done is kept."""
    write_epoch(tmp_path, 60)
    third = byte_ranges(tmp_path / "epoch_0.json", 2000)[2][0]
    with started(sys.executable, "-c", STUCK, tmp_path, int(number), to_all, third, cwd=ROOT,
                 start_new_session=True) as process:
        _, err = process.communicate()  # until no process holds the pipe
    assert process.returncode == (130 if number == signal.SIGINT else -number) and "Traceback" not in err, err
    with opening(tmp_path) as process:
        assert process.stdout.readlines() == part_lines(tmp_path)[2:]


@pytest.mark.parametrize("how", ["no folder", "no file"])
def test_folder_that_cannot_be_written(tmp_path, capsys, monkeypatch, how):
    data, fallback = tmp_path / "data", tmp_path / "out"
    instances = write_epoch(data, 10)
    if how == "no folder":
        (data / "epoch_0.arrays").write_text("no place for a folder")  # even root cannot make one here
    else:
        access = os.access
        monkeypatch.setattr(os, "access", lambda path, mode: data not in path.parents and access(path, mode))
    with pytest.raises(InputError, match="make .*data/epoch_0.arrays writable"):
        opened(data)
    assert read_back(opened(data, fallback=fallback)) == expected(instances)
    assert f"{data}/epoch_0.arrays cannot be written\nthe arrays go to {fallback}/epoch_0.arrays" \
        in capsys.readouterr().out
    swap_json(data / "epoch_0.json")
    assert read_back(opened(data, fallback=fallback)) == expected(instances)
    assert not list(data.glob("epoch_0.arrays/*/*"))


def test_json_that_changes_meanwhile(tmp_path, monkeypatch):
    write_epoch(tmp_path, 10)
    parse = epochs._parse_instances

    def change(part):
        os.utime(tmp_path / "epoch_0.json", (1, 1))
        return parse(part)

    monkeypatch.setattr(epochs, "_parse_instances", change)
    with pytest.raises(InputError, match="epoch_0.json changed while it was read"):
        opened(tmp_path)


@pytest.mark.parametrize("part_bytes", [1 << 24, 1])
def test_reading_damaged_epochs(tmp_path, part_bytes):
    write_epoch(tmp_path, 1)
    good = {"tokens": ["[CLS]", "a", "[SEP]", "b", "[SEP]"], "segment_ids": [0, 0, 0, 1, 1], "is_random_next": True,
            "masked_lm_positions": [], "masked_lm_labels": []}
    epoch, metrics = tmp_path / "epoch_0.json", tmp_path / "epoch_0_metrics.json"

    def refuse(message: str, *instances, **recorded) -> None:
        epoch.write_text("".join((item if isinstance(item, str) else json.dumps(item)) + "\n" for item in instances))
        metrics.write_text(json.dumps({"num_training_examples": len(instances), "max_seq_len": 8, **recorded}))
        for _ in range(2):  # arrays made at the first time excuse nothing at the second
            with pytest.raises(InputError, match=message):
                opened(tmp_path, 5, num_workers=1, part_bytes=part_bytes)

    refuse("holds 2 instances.* says 3", good, good, num_training_examples=3)
    refuse("line 2: token 'z' is not in the vocabulary", good, good | {"tokens": ["[CLS]", "z", "[SEP]", "b", "[SEP]"]})
    refuse("line 2: token None is not in the voc", good, good | {"tokens": ["[CLS]", None, "[SEP]", "b", "[SEP]"]})
    refuse("line 2: 6 wordpieces, more than --max_seq_length 5; .*--max_seq_len 8", good,
           good | {"tokens": ["[CLS]", "a", "a", "[SEP]", "b", "[SEP]"], "segment_ids": [0, 0, 0, 0, 1, 1]})
    refuse("another vocabulary", good, vocab_sha256="0" * 64)
    refuse("no num_training_examples", good, num_training_examples=None)
    refuse("holds no instances")
    for bad in (json.dumps(good)[:40], "[]", "", good | {"segment_ids": [0, 0, 1, 0, 1]}, good | {"tokens": []},
                good | {"segment_ids": [0, 0, 0, 1]}, good | {"tokens": [[2], "a", "a", "a", "a"]},
                {"tokens": ["[CLS]"]}, good | {"segment_ids": 5}, "[" * 100_000):
        refuse("line 2: not an instance", good, bad)
    metrics.write_text(json.dumps({"num_training_examples": 2, "max_seq_len": 8}))
    epoch.write_text(json.dumps(good) + "\n" + json.dumps(good)[:40])
    with pytest.raises(InputError, match="epoch_0.json, line 2: cut short: .*killed, or it was not copied whole"):
        opened(tmp_path, 5, num_workers=1, part_bytes=part_bytes)
    epoch.write_bytes(b"\xef\xbb\xbf")
    with pytest.raises(InputError, match="holds 0 instances.* says 2"):
        opened(tmp_path)
    epoch.write_bytes(json.dumps(good).encode() + b"\n\xff\n")
    with pytest.raises(InputError, match="line 2: not valid UTF-8"):
        opened(tmp_path, 5, num_workers=1, part_bytes=part_bytes)
    epoch.unlink()
    with pytest.raises(InputError, match="epoch_0.json does not exist"):
        opened(tmp_path)
    metrics.unlink()
    with pytest.raises(InputError, match="epoch_0_metrics.json does not exist"):
        opened(tmp_path)


def test_error_in_a_worker_names_the_line(tmp_path):
    instances = write_epoch(tmp_path, 100)
    lines = [json.dumps(instance) for instance in instances]
    lines[70] = lines[70][:30]
    (tmp_path / "epoch_0.json").write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match="epoch_0.json, line 71: not an instance"):
        opened(tmp_path, num_workers=2, part_bytes=4000)


def write_epochs(folder: Path, sizes: list[int]) -> list[list[dict]]:
    """vocab.txt and an epoch_K.json of so many instances for each size, with metrics; the instances of each."""
    written = []
    for epoch, count in enumerate(sizes):
        written.append(write_epoch(folder / "one", count, seed=epoch))
        for name in ("epoch_0.json", "epoch_0_metrics.json"):
            (folder / "one" / name).rename(folder / name.replace("0", str(epoch)))
    (folder / "one" / "vocab.txt").rename(folder / "vocab.txt")
    return written


@pytest.mark.parametrize("in_memory", [False, True])
def test_epochs_of_a_run(tmp_path, capsys, in_memory):
    """Opened one by one, when they are asked for; gone over again where the run has more epochs than there are."""
    written = write_epochs(tmp_path, [5, 9])
    run = Epochs(epoch_files(tmp_path, 3), BertTokenizer(tmp_path / "vocab.txt"), 21, in_memory=in_memory)
    assert f"warning: 3 epochs asked for, {tmp_path} holds 2: going over them again" in capsys.readouterr().out
    assert len(run) == 3 and run.counts == [5, 9, 5]
    assert run.data_bytes == [(tmp_path / f"epoch_{epoch}.json").stat().st_size for epoch in (0, 1, 0)]
    assert not list(tmp_path.glob("*.arrays"))
    assert read_back(run[1]) == expected(written[1]) and not (tmp_path / "epoch_0.arrays").exists()
    assert [read_back(data) for data in run] == [expected(written[epoch]) for epoch in (0, 1, 0)]
    assert isinstance(run[2].tokens.base, np.memmap) != in_memory


def test_epochs_are_checked_from_the_first_that_is_left(tmp_path):
    written = write_epochs(tmp_path, [5, 6, 7])
    run = Epochs(epoch_files(tmp_path, 3), BertTokenizer(tmp_path / "vocab.txt"), 21, in_memory=True)
    first, _ = run.check(1)
    assert read_back(first) == expected(written[1]) and isinstance(first.tokens.base, np.memmap)
    assert sorted(path.name for path in tmp_path.glob("*.arrays")) == ["epoch_1.arrays", "epoch_2.arrays"]
    assert list(run.check(3)) == []
    (tmp_path / "epoch_0.json").write_text("no instance\n")
    list(run.check(1))
    with pytest.raises(InputError, match="epoch_0.json, line 1: not an instance"):
        list(run.check(0))
    (tmp_path / "epoch_2.json").write_text("no instance\n")
    checked = run.check(1)
    assert read_back(next(checked)) == expected(written[1])  # before the next one is looked at
    with pytest.raises(InputError, match="epoch_2.json, line 1: not an instance"):
        next(checked)


def test_epochs_that_fit_no_run(tmp_path):
    tokenizer = write_epochs(tmp_path, [5]) and BertTokenizer(tmp_path / "vocab.txt")
    with pytest.raises(InputError, match="up to 21 wordpieces, more than --max_seq_length 20"):
        Epochs(epoch_files(tmp_path, 1), tokenizer, 20)
    with pytest.raises(InputError, match="holds no epoch_0.json, and no epoch_0.instances"):
        epoch_files(tmp_path / "one", 1)


def write_arrays(folder: Path, instances: list[dict]) -> BertTokenizer:
    """epoch_0.instances of these instances, in the place of epoch_0.json, as pregenerate_training_data.py writes it."""
    tokenizer = BertTokenizer(folder / "vocab.txt")
    with GrowingFiles(folder / "epoch_0.unfinished", epochs.EPOCH_ARRAYS, {}) as files:
        for some in (instances[:7], instances[7:]):
            tokens = [tokenizer.vocab[token] for instance in some for token in instance["tokens"]]
            part = Sequences(np.array(tokens, tokenizer.id_typecode),
                             np.cumsum([0, *(len(instance["tokens"]) for instance in some)]),
                             np.array([instance["segment_ids"].count(0) for instance in some], np.int32))
            epochs.append_instances(files, part, {})
        epochs.finish_instances(files, folder / "epoch_0.instances", tokenizer.vocab_fingerprint)
    (folder / "epoch_0.json").unlink(missing_ok=True)
    return tokenizer


def test_an_epoch_that_is_arrays_already(tmp_path, capsys):
    """Mapped or read; before JSON of the same epoch, which is said; nothing is written."""
    instances = write_epoch(tmp_path, 20)
    epoch_json = (tmp_path / "epoch_0.json").read_bytes()
    tokenizer = write_arrays(tmp_path, instances)
    before = sorted(tmp_path.rglob("*"))
    for in_memory in (False, True):
        run = Epochs(epoch_files(tmp_path, 2), tokenizer, 21, in_memory=in_memory)
        assert run.counts == [20, 20] and run.data_bytes == [sum(
            (tmp_path / "epoch_0.instances" / name).stat().st_size for name in epochs.EPOCH_ARRAYS)] * 2
        assert read_back(run[1]) == expected(instances) and run[1].labels is None
        assert isinstance(run[1].tokens.base, np.memmap) != in_memory
        (checked,) = run.check()
        assert read_back(checked) == expected(instances)
    assert sorted(tmp_path.rglob("*")) == before and "both" not in capsys.readouterr().out
    (tmp_path / "epoch_0.json").write_bytes(epoch_json)
    assert epoch_files(tmp_path, 1) == [(tmp_path / "epoch_0.instances", tmp_path / "epoch_0_metrics.json")]
    assert "holds both epoch_0.instances and epoch_0.json: taking epoch_0.instances" in capsys.readouterr().out


@pytest.mark.parametrize("name", [*epochs.EPOCH_ARRAYS, "manifest.json"])
@pytest.mark.parametrize("how", ["cut short", "gone"])
def test_arrays_of_an_epoch_that_are_not_whole(tmp_path, name, how):
    tokenizer = write_arrays(tmp_path, write_epoch(tmp_path, 20))
    path = tmp_path / "epoch_0.instances" / name
    os.truncate(path, path.stat().st_size - 1) if how == "cut short" else path.unlink()
    if how == "cut short" and name == "manifest.json":
        os.truncate(path, 30)
    run = Epochs(epoch_files(tmp_path, 1), tokenizer, 21)
    for look in (lambda: run[0], lambda: run.data_bytes, lambda: list(run.check())):
        with pytest.raises(InputError, match="epoch_0.instances is not whole: .*pregenerate_training_data.py again"):
            look()


def test_arrays_of_an_epoch_that_fit_no_run(tmp_path):
    """Another vocabulary, also where the metrics do not tell; fewer or longer instances than the metrics tell."""
    instances = write_epoch(tmp_path, 20)
    write_arrays(tmp_path, instances)
    folder, metrics = tmp_path / "epoch_0.instances", tmp_path / "epoch_0_metrics.json"
    longest = max(len(instance["tokens"]) for instance in instances)
    number = next(i for i, instance in enumerate(instances) if len(instance["tokens"]) == longest)

    def refuse(message: str, max_seq_length: int = 21, **recorded) -> None:
        metrics.write_text(json.dumps({"num_training_examples": 20, "max_seq_len": 21, **recorded}))
        with pytest.raises(InputError, match=message):
            open_epoch(folder, metrics, BertTokenizer(tmp_path / "vocab.txt"), max_seq_length)

    refuse("epoch_0.instances holds 20 instances.* says 21", num_training_examples=21)
    refuse(f"epoch_0.instances, instance {number + 1}: {longest} wordpieces, more than --max_seq_length "
           f"{longest - 1}; .*--max_seq_len 21", longest - 1)
    refuse("generated with another vocabulary than .*--bert_model", vocab_sha256="0" * 64)
    with open(tmp_path / "vocab.txt", "a") as vocab:
        vocab.write("new\n")
    refuse("epoch_0.instances was generated with another vocabulary than .*vocab.txt, or by another version")
    metrics.unlink()
    with pytest.raises(InputError, match="epoch_0_metrics.json does not exist"):
        Epochs(epoch_files(tmp_path, 1), BertTokenizer(tmp_path / "vocab.txt"), 21)


@pytest.mark.parametrize("index_type", [np.int64, np.uint32])
@pytest.mark.parametrize("token_type", [np.uint16, np.int32])
def test_batches_against_rows(token_type, index_type):
    rng = np.random.default_rng(0)
    for trial in range(60):
        lengths = rng.integers(1, rng.integers(2, 40), rng.integers(1, 30))
        examples = [rng.integers(1, 60_000, length) for length in lengths]
        first_lengths = np.array([rng.integers(0, length + 1) for length in lengths], dtype=np.int32)
        tokens = np.concatenate(examples).astype(token_type)
        tokens.flags.writeable = False
        sequences = Sequences(tokens, np.append(0, lengths.cumsum()), first_lengths)
        rows = rng.integers(0, len(lengths), rng.integers(1, 9)).astype(index_type)
        longest = int(lengths[rows].max())
        length = (None, longest, longest + 1, 50)[trial % 4]
        batch = [tensor.tolist() for tensor in sequences.batch(rows, length)]
        for number, row in enumerate(rows):
            padding = [0] * ((length or longest) - lengths[row])
            first = int(first_lengths[row])
            assert batch[0][number] == [*examples[row].tolist(), *padding]
            assert batch[1][number] == [*[0] * first, *[1] * (lengths[row] - first), *padding]
            assert batch[2][number] == [*[1] * lengths[row], *padding]
        assert {str(tensor.dtype) for tensor in sequences.batch(rows, length)} == {"torch.int64"}
        with pytest.raises(ValueError, match=f"{longest} wordpieces does not fit into {longest - 1}"):
            sequences.batch(rows, longest - 1)


def test_shuffled_batches():
    def batches(**changes) -> list[list[int]]:
        settings = {"count": 103, "batch_size": 10, "seed": 3, "epoch": 1} | changes
        return [rows.tolist() for rows in shuffled_batches(**settings)]

    whole = batches()
    assert [len(rows) for rows in whole] == [10] * 10
    assert sorted(sum(batches(batch_size=1), [])) == list(range(103))
    assert sum(whole, []) == np.random.default_rng((3, 1)).permutation(103)[:100].tolist()
    for start in (0, 1, 7, 10, 11):
        assert batches(start=start) == whole[start:]
    assert whole == batches() and whole != batches(epoch=2) != batches(seed=4) != whole
    assert next(shuffled_batches(10, 10, 3, 1)).dtype == np.uint32, "half the memory of 100 million instances"


def test_no_torch_in_workers():
    code = "import sys, transformer.data.epochs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
