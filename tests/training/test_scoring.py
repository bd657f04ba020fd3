"""What a model says of examples, and when it is asked: batches, waits, dev sets, how often a stage is scored."""
import itertools
import json
import math
import os
import signal

import numpy as np
import pytest
import torch

from tests.conftest import PIECES, TEACHER, finetune, lines, run, train, write_lines
from transformer.config import BertConfig
from transformer.data.features import Sequences
from transformer.files import read_json
from transformer.modeling import TinyBertForSequenceClassification
from transformer.optimization import BertAdam
from transformer.reporting.curves import draw_curves
from transformer.tasks.head import Classes
from transformer.tasks.table import TASKS
from transformer.training import scoring
from transformer.training.processes import Processes
from transformer.training.scoring import padded_wordpieces, predict, scoring_interval

MNLI = TASKS["mnli"]


class OnGpu(Processes):
    """A process that says that it computes on a GPU, and computes on the CPU."""

    def __init__(self):
        super().__init__(0, 1, torch.device("cuda"))

    def send(self, tensors):
        return tuple(tensors)


ONE = {"cpu": Processes(0, 1, torch.device("cpu")), "cuda": OnGpu()}


@pytest.fixture
def model() -> TinyBertForSequenceClassification:
    torch.manual_seed(0)
    return TinyBertForSequenceClassification(BertConfig(**TEACHER), num_labels=3)


@pytest.fixture
def sequences() -> Sequences:
    """60 random examples of 3 to 40 wordpieces, few of them long."""
    rng = np.random.default_rng(0)
    lengths = np.append([40, 39], rng.integers(3, 12, 58))
    rng.shuffle(lengths)
    offsets = np.append(0, np.cumsum(lengths))
    return Sequences(rng.integers(5, len(PIECES), offsets[-1]).astype(np.uint16), offsets, np.full(60, 2, np.int32))


@pytest.mark.parametrize("device", ONE)
def test_logits_are_those_of_each_example_alone_in_few_batches(device, model, sequences):
    """As many wordpieces at a time as --eval_batch_size of the longest have; on the CPU no more than fit its cache."""
    shapes = []
    watch = model.register_forward_pre_hook(lambda module, inputs: shapes.append(inputs[0].shape))
    logits = predict(model, MNLI.head, sequences, 4, ONE[device])
    assert len(shapes) <= 6 and max(rows for rows, _ in shapes) > 12
    assert sum(rows for rows, _ in shapes) == 60 and max(map(math.prod, shapes)) <= 4 * 40
    shapes.clear()
    np.testing.assert_allclose(predict(model, MNLI.head, sequences, 60, ONE[device]), logits, atol=2e-6)
    assert max(map(math.prod, shapes)) <= 512 if device == "cpu" else shapes == [(60, 40)]
    watch.remove()
    model.eval()
    with torch.no_grad():
        alone = np.concatenate([model(*sequences.batch(np.array([row])))[0].numpy() for row in range(60)])
    np.testing.assert_allclose(logits, alone, atol=2e-6)
    assert np.ptp(alone, axis=0).min() > 1e-3


@pytest.mark.parametrize("device", ONE)
def test_the_host_waits_once_however_many_batches_there_are(device, model, sequences, monkeypatch):
    waits = []

    def watch(name: str) -> None:
        plain = getattr(torch.Tensor, name)

        def noted(*arguments, **keywords):
            waits.append(name)
            return plain(*arguments, **keywords)
        monkeypatch.setattr(torch.Tensor, name, noted)

    for name in ("cpu", "numpy", "item", "tolist"):
        watch(name)
    found = []
    for batch_size in (60, 1):
        predict(model, MNLI.head, sequences, batch_size, ONE[device])
        found.append(waits.copy())
        waits.clear()
    assert found[0] == found[1] and found[0].count("cpu") == 1 and len(found[0]) == 3


SCORES = [0.9, 0.5, 0.4, 0.6, 0.6, 0.3]  # of the matched set, the first before training


@pytest.mark.parametrize("name", ["task_distill", "finetune_teacher"])
def test_the_second_dev_set_is_scored_with_the_best_and_at_the_end(name, tiny, script, monkeypatch):
    monkeypatch.setattr("transformer.reporting.curves.draw_curves", draw_curves)
    matched, names, scored = iter(SCORES), {}, []
    evaluate = scoring.evaluate

    def noted(model, task, sets, *arguments, **keywords):
        names.update({id(sequences): name for name, sequences in sets.items()})
        return evaluate(model, task, sets, *arguments, **keywords)

    def score(self, logits, examples):
        scored.append(names[id(examples)])
        return {"acc": next(matched) if scored[-1] == "dev_matched" else len(scored) / 100}

    monkeypatch.setattr(scoring, "evaluate", noted)
    monkeypatch.setattr(Classes, "score", score)
    arguments = (train(tiny, "MNLI", "mnli", pred_distill=True, eval_step=1, num_train_epochs=5 / 3)
                 if name == "task_distill" else finetune(tiny, tasks="MNLI", model=tiny / "bert", num_train_epochs=5,
                                                         output_dir=tiny / "out"))
    run(script, name, arguments)
    both = ["dev_matched", "dev_mismatched"]
    # where it is as good again, too: a run that goes on from an earlier state comes upon its best once more
    assert scored == [*both, *both, "dev_matched", *both, *both, *both]
    logged = lines(tiny / "out" / "metrics.jsonl")
    assert [line["acc"] for line in logged] == SCORES[1:] and next(matched, None) is None
    assert [line.get("acc_mismatched") for line in logged] == [0.04, None, 0.07, 0.09, 0.11]
    record = read_json(tiny / "out" / "run.json")
    kept = record["kept"] if name == "task_distill" else record
    assert (kept["acc"], kept["acc_mismatched"]) == (0.6, 0.07)
    assert (tiny / "out" / "curves.png").is_file()


def test_a_curve_of_values_that_few_logs_have(tmp_path, monkeypatch):
    """Only the logs that have one are points of it, and it is drawn though the first log has none."""
    drawn = {}
    plot = __import__("matplotlib.axes").axes.Axes.plot

    def noted(self, steps, values, **keywords):
        drawn[keywords["label"]] = (list(steps), list(values), keywords["marker"])
        return plot(self, steps, values, **keywords)

    monkeypatch.setattr("matplotlib.axes.Axes.plot", noted)
    write_lines(tmp_path / "metrics.jsonl", [
        json.dumps({"step": step, "loss": 1.0, "acc": 0.5, **({"acc_mismatched": 0.25} if step % 20 == 0 else {})})
        for step in range(1, 61)])
    draw_curves(tmp_path)
    assert drawn["acc_mismatched"] == ([20, 40, 60], [0.25] * 3, ".")
    assert drawn["acc"] == (list(range(1, 61)), [0.5] * 60, None) and set(drawn) == {"loss", "acc", "acc_mismatched"}


@pytest.mark.parametrize("steps,batch,dev,interval", [
    (1000, 300, 1000, 50),         # each scoring costs as much as ten steps may spend on it
    (1000, 300, 5000, 50),         # as fifty
    (1000, 300, 5001, 100),
    (149, 300, 5000, 100),         # after 50 and 100 steps and at the end would be three, and 149 steps pay for two
    (736_000, 2400, 786_000, 1000),  # about MNLI, augmented
    (30, 300, 5000, 50), (120, 300, 50_000, 150)])  # less than one: at the end
def test_how_often_a_stage_is_scored_by_hand(steps, batch, dev, interval):
    assert scoring_interval(steps, batch, dev) == interval


def test_how_often_a_stage_is_scored_is_the_most_often_that_is_a_tenth():
    rng = np.random.default_rng(0)
    for _ in range(300):
        steps, batch, dev = (int(10 ** rng.uniform(*bounds)) for bounds in ((0, 5), (1, 4), (1, 6)))
        for interval in itertools.count(50, 50):
            scorings = math.ceil(steps / interval)
            if 10 * scorings * dev <= 3 * steps * batch + scorings * dev or scorings == 1:
                break
        assert scoring_interval(steps, batch, dev) == interval, (steps, batch, dev)


def test_wordpieces_of_a_batch_by_hand():
    assert padded_wordpieces(np.array([2, 4]), 2) == 7  # the longer of two is 2 in one of four cases, else 4
    assert padded_wordpieces(np.array([2, 4, 6]), 1) == 4
    assert padded_wordpieces(np.full(9, 5), 8) == 40
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 60, 500)
    drawn = 8 * np.mean([rng.choice(lengths, 8, replace=False).max() for _ in range(4000)])
    assert padded_wordpieces(lengths, 8) == pytest.approx(drawn, rel=0.01)


def test_a_prediction_stage_is_scored_a_tenth_of_it(tiny, script, monkeypatch):
    """Without --eval_step, by the wordpieces that the student gets; the interval stands in run.json, and a run that
    was stopped finds it again."""
    dev = tiny / "glue" / "MRPC" / "dev.tsv"
    header, *rows = dev.read_text().splitlines()
    write_lines(dev, [header, *rows * 10])
    trained, scored, steps = [], [], []
    forward, step = TinyBertForSequenceClassification.forward, BertAdam.step

    def noted(self, ids, *arguments, **keywords):
        if self.config.hidden_size == 8:  # the student
            (trained if self.training else scored).append(ids.numel())
        return forward(self, ids, *arguments, **keywords)

    def stepped(self):
        step(self)
        steps.append(1)
        if len(steps) == 130:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(TinyBertForSequenceClassification, "forward", noted)
    monkeypatch.setattr(BertAdam, "step", stepped)
    arguments = train(tiny, aug_train=True, pred_distill=True, num_train_epochs=42)
    assert script("task_distill", *arguments)[0] == 128 + signal.SIGTERM
    out = run(script, "task_distill", [*arguments, "--resume"])
    assert "252 steps of 8" in out and "a log every 150" in out and len(steps) == 252
    assert read_json(tiny / "out" / "run.json")["settings"]["eval_step"] == 150
    assert [line["step"] for line in lines(tiny / "out" / "metrics.jsonl")] == [150, 252]
    assert 0.07 < sum(scored) / (3 * sum(trained) + sum(scored)) <= 0.1


def test_the_intermediate_stage_logs_every_50_steps(tiny, script):
    run(script, "task_distill", train(tiny, aug_train=True, num_train_epochs=10))
    assert [line["step"] for line in lines(tiny / "out" / "metrics.jsonl")] == [50, 60]
