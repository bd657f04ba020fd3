"""What a model says of examples, and when it is asked: batches, waits."""
import math

import numpy as np
import pytest
import torch
from conftest import PIECES, TEACHER

from transformer.config import BertConfig
from transformer.data.features import Sequences
from transformer.modeling import TinyBertForSequenceClassification
from transformer.tasks.glue import TASKS
from transformer.training.processes import Processes
from transformer.training.scoring import predict

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
