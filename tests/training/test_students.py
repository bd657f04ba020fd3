"""Students that learn side by side: each comes to what it comes to alone, bit for bit, from one pass of the teacher."""
from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.conftest import STUDENT, TEACHER, contents, general, lines, names, run, train, write_lines
from transformer.checkpoint import save_model
from transformer.config import BertConfig
from transformer.modeling import BertModel, TinyBertForPreTraining
from transformer.training.run import Training
from transformer.weights import read_weights

# Width and layers of each; the teacher of all has 4 layers of width 16.
SIZES = {"two": (8, 2), "four": (12, 4), "one": (20, 1), "wide": (16, 2), "layers": (8, 3)}
ODD = {"heads": {"num_attention_heads": 4}, "sizes": {"max_position_embeddings": 20}}  # beside those of "two"
SPEEDS = {"sequences_per_s", "wordpieces_per_s", "memory_gb"}
STEPS = {"general_distill": 4, "task_distill": 3}  # optimizer steps of conftest's arguments


@pytest.fixture(scope="module")
def world(world):
    """With the student folders of SIZES."""
    torch.manual_seed(1)
    sizes = {name: {"hidden_size": width, "num_hidden_layers": layers} for name, (width, layers) in SIZES.items()}
    sizes["wide"]["intermediate_size"] = TEACHER["intermediate_size"]
    for name, odd in {**sizes, **ODD}.items():
        config = BertConfig(**{**STUDENT, **odd})
        save_model(TinyBertForPreTraining(config, fit_size=TEACHER["hidden_size"]), world / name, world / "vocab.txt")
    return world


@pytest.fixture
def tiny(world, tmp_path):
    """A copy of it for one test."""
    return shutil.copytree(world, tmp_path, dirs_exist_ok=True)


@pytest.fixture
def passes(monkeypatch) -> Counter:
    """(width, examples, whether it trains) of every pass through an encoder, how often."""
    forward, passes = BertModel.forward, Counter()

    def counted(self, input_ids, *args, **options):
        passes[self.config.hidden_size, len(input_ids), self.training or torch.is_grad_enabled()] += 1
        return forward(self, input_ids, *args, **options)

    monkeypatch.setattr(BertModel, "forward", counted)
    return passes


def arguments(world: Path, name: str, students: tuple[str, ...], outputs: list[Path], **changes) -> list:
    make = general if name == "general_distill" else train
    return make(world, **{"student_model": [world / student for student in students], "output_dir": outputs,
                          "learning_rate": 1e-2, "eval_step": 2, **changes})


def results(folder: Path) -> dict[str, object]:
    """What is in a student's folder, less what tells of time, of the others and of its place."""
    files = contents(folder)
    record = json.loads(files.pop("run.json"))
    files["run.json"] = {fact: record[fact] for fact in record.keys() - {
        "command", "settings", "started", "seconds", "seconds_of", "times_of", "trained_with"}}
    metrics = lines(folder / "metrics.jsonl")
    files["metrics.jsonl"] = [{key: line[key] for key in line.keys() - SPEEDS} for line in metrics]
    return files


G, T = "general_distill", "task_distill"


@pytest.mark.parametrize("name,students,changes", [
    (G, ("two", "four"), {"do_eval": True, "gradient_accumulation_steps": 2}),
    (G, ("four", "two"), {"preset": "code", "gradient_accumulation_steps": 2}),
    (G, ("two", "one", "four"), {"preset": "code", "layer_mapping": "bottom", "continue_train": True}),
    (G, ("one", "four"), {"layer_mapping": "top", "without": ["hidn"]}),
    (G, ("two", "one"), {"preset": "code", "layer_mapping": "bottom", "without": ["attn"], "do_eval": True}),
    (G, ("two", "four"), {"without": ["attn", "hidn"], "keep_checkpoints": 0}),
    (G, ("wide", "wide"), {"init_from_teacher_layers": True}),
    (G, ("one", "layers"), {"layer_mapping": "last", "fit_per_layer": True}),
    (T, ("two", "four"), {"gradient_accumulation_steps": 2}),
    (T, ("four", "two"), {"preset": "code", "dynamic_padding": True, "gradient_accumulation_steps": 4}),
    (T, ("two", "one", "four"), {"preset": "code", "layer_mapping": "bottom", "dynamic_padding": True}),
    (T, ("one", "four"), {"preset": "code", "layer_mapping": "top", "without": ["hidn"], "aug_train": True}),
    (T, ("one", "two"), {"layer_mapping": "bottom", "without": ["attn", "embd"]}),
    (T, ("layers", "two"), {"layer_mapping": "last"}),
    (T, ("two", "four"), {"from_scratch": True, "dynamic_padding": True}),
    (G, ("four", "two"), {"attention_loss": "gram", "preset": "code"}),
    (T, ("one", "four"), {"attention_loss": "gram", "layer_mapping": "top", "gradient_accumulation_steps": 2})])
def test_each_is_what_it_is_alone(name, students, changes, world, tmp_path, script, passes):
    """Dropout is on, in the teacher as well with the preset code."""
    folders = [tmp_path / f"{number}_{student}" for number, student in enumerate(students)]
    run(script, name, arguments(world, name, students, folders, **changes))
    if changes.get("preset") == "code":
        shares = changes.get("gradient_accumulation_steps", 1)
        steps = STEPS[name] * (1 + ("aug_train" in changes))
        # ... and one for each student before the first step: which weights do its losses reach?
        assert passes[TEACHER["hidden_size"], 8 // shares, True] == steps * shares, "one pass of the teacher for all"
        assert all(passes[SIZES[student][0], 8 // shares, True] == steps * shares for student in students)
    for student, folder in zip(students, folders):
        alone = tmp_path / "alone" / folder.name
        run(script, name, arguments(world, name, (student,), [alone], **changes))
        weights, wanted = read_weights(folder), read_weights(alone)
        assert weights.keys() == wanted.keys() and all(torch.equal(weights[key], wanted[key]) for key in wanted)
        found, wanted = results(folder), results(alone)
        assert found.keys() == wanted.keys()
        for file, content in wanted.items():
            assert found[file] == content, file
    assert len({(folder / "pytorch_model.bin").read_bytes() for folder in folders}) == len(set(students))


def test_dropout_is_seeded_for_each_student(world, tmp_path, script, monkeypatch):
    """Of two that are the same the second comes to other weights where it takes the random numbers that the first has
    left: the test above can fail."""
    run(script, G, arguments(world, G, ("two", "two"), [tmp_path / "a", tmp_path / "b"]))
    monkeypatch.setattr(Training, "turns", lambda self: iter(self.active))
    run(script, G, arguments(world, G, ("two", "two"), [tmp_path / "c", tmp_path / "d"]))
    a, b, c, d = ((tmp_path / folder / "pytorch_model.bin").read_bytes() for folder in "abcd")
    assert a == b and c != d


@pytest.mark.parametrize("name", [G, T])
def test_each_record_speaks_of_one_student(name, world, tmp_path, script):
    """As it would alone, and whom it was trained with; a single one was trained with nobody."""
    folders = [tmp_path / "2l", tmp_path / "4l", tmp_path / "1l"]
    out = run(script, name, arguments(world, name, ("two", "four", "one"), folders))
    run(script, name, arguments(world, name, ("two",), [tmp_path / "alone"]))
    records = [json.loads((folder / "run.json").read_text()) for folder in (*folders, tmp_path / "alone")]
    for student, folder, record in zip(("two", "four", "one", "two"), (*folders, tmp_path / "alone"), records):
        assert record["settings"]["student_model"] == str(world / student)
        assert record["settings"]["output_dir"] == str(folder)
        assert record["student"] == f"{SIZES[student][1]}l" and record["finished"]
        others = [str(other) for other in folders if other != folder]
        assert record.get("trained_with") == (others if folder in folders else None)
        assert folder not in folders or f"student in {folder}" in out
    assert len({json.dumps([record["seconds_of"], record["times_of"]]) for record in records[:3]}) == 1
    assert len({record["student_parameters"] for record in records}) == 3


# --- bad input

NAMES = {G: general, T: train}


def test_flags_that_contradict_each_other(tiny, refused):
    two = {"student_model": [tiny / "two", tiny / "four"], "output_dir": [tiny / "a", tiny / "b"]}
    before = contents(tiny)
    for name, make in NAMES.items():
        refused(name, *make(tiny, **{**two, "output_dir": tiny / "a"}), words=("--student_model names 2", "1 folders"))
        refused(name, *make(tiny, **{**two, "student_model": tiny / "two"}), words=("--student_model names 1", "2"))
        for again in (f"{tiny}/a", f"{tiny}/./a", f"{tiny}/a/", f"{tiny}/b/../a"):
            refused(name, *make(tiny, **{**two, "output_dir": [tiny / "a", again]}), words=("names a folder twice",))
    for mode in ("pred_distill", "do_eval", "do_predict"):
        flags = {"teacher_model": None, "train_batch_size": None, "num_train_epochs": None, "skip_teacher_check": None}
        refused(T, *train(tiny, **two, **({} if mode == "pred_distill" else flags), **{mode: True}),
                words=("several students", "intermediate stage only"))
    assert contents(tiny) == before


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("what", ["not empty", "stopped", "student of another", "own student", "teacher"])
def test_an_output_folder_that_is_taken(what, name, tiny, refused):
    """Of the second student, when the first's was found free: nothing is written in either."""
    taken = tiny / "b"
    if what in ("not empty", "stopped"):
        write_lines(taken / ("thesis.txt" if what == "not empty" else "run.json"),
                    ["the only copy" if what == "not empty" else '{"finished": false}'])
    elif what == "teacher":
        taken = tiny / ("bert" if name == G else "teacher_mrpc")
    else:
        taken = tiny / ("two" if what == "student of another" else "four")
    overwrite = what not in ("not empty", "stopped")
    word = {"not empty": "is not empty", "stopped": "was stopped"}.get(what, "would lose it")
    before = contents(tiny)
    refused(name, *arguments(tiny, name, ("two", "four"), [tiny / "a", taken], overwrite_output_dir=overwrite),
            words=(str(taken), word))
    assert contents(tiny) == before and not (tiny / "a").exists()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("what,words", [
    ("vocabulary", ("vocab",)), ("layers", ("4 layers", "3, as the uniform layer mapping")), ("heads", ("heads",)),
    ("sizes", ("20", "--max_seq_length")), ("nowhere", ("does not exist",))])
def test_a_second_student_that_does_not_fit(what, words, name, tiny, refused):
    if what == "vocabulary":
        path = shutil.copytree(tiny / "four", tiny / what) / "vocab.txt"
        path.write_text(path.read_text().replace("\ndog\n", "\nwolf\n"))
    before = contents(tiny)
    refused(name, *arguments(tiny, name, ("two", what), [tiny / "a", tiny / "b"], continue_train=name == G),
            words=words)
    assert contents(tiny) == before
    assert not (tiny / "a").exists() and not (tiny / "b").exists()


@pytest.mark.parametrize("name", NAMES)
def test_not_finite_weights_of_one_are_told_by_its_folder(name, tiny, script):
    """The second starts from a weight that is none."""
    weights = read_weights(tiny / "four")
    weights["fit_dense.weight"][0, 0] = float("nan")
    torch.save(weights, tiny / "four" / "pytorch_model.bin")
    status, _, err = script(name, *arguments(tiny, name, ("two", "four"), [tiny / "a", tiny / "b"],
                                             continue_train=name == G))
    assert status == 2 and "Traceback" not in err
    assert f"{name}.py: error: {tiny / 'b'}: loss, gradients or weights are not finite at step 1, " in err, err
    assert "pytorch_model.bin" not in names(tiny / "b")
