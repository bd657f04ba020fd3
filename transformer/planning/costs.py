"""What a piece of work takes: operations, hours on a device, memory, disk. All estimates but the rate of a device.

Hours are matrix products at a share of the rate that the device reaches in torch.mm, or, where that is more, the time
that the host takes to launch the operations of a step on a GPU: small batches of small models are bound by that.
"""
from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from transformer.augmentation.candidates import batch_tokens_in
from transformer.config import BertConfig
from transformer.distillation import chosen_attention_loss, compared, needed
from transformer.planning.steps import INSTANCE_LENGTH, TEXT_OF_XML, Work, load_script
from transformer.training.processes import PRECISIONS
from transformer.training.stages import keeps_answers, learns_labels
from transformer.training.states import SHARE_OF_TIME

# Of the rate of torch.mm, what training reaches: on a GPU with big batches (assumed); on a CPU a step of general
# distillation reached 74% in fp32 and 58% in bf16 (benchmarks/bench_train.py --stages general --busy).
SHARES = {"cuda": 0.4, "cpu": 0.7}
LAUNCH_SECONDS = 1e-5      # of the host for each operation on a GPU (assumed)
DISK_RATE = 5e8            # bytes a second, written (assumed)
ARRAYS_RATE = 20_000  # instances that a core reads a second, measured (docs/results.md, "Corpus steps")
# Bytes (docs/data.md, "Disk and memory"): of files fetched or unpacked, of an instance.
GLOVE = {"glove.840B.300d.zip": 2.2e9, "glove.840B.300d.txt": 5.8e9,  # as which others count
         "glove.6B.zip": 0.86e9, "glove.6B.50d.txt": 0.17e9}
BERT_FOLDER = 0.44e9
INSTANCE_JSON, INSTANCE_ARRAYS = 1470, 250
UNPACKED = 2.5  # times the size of an archive of texts (assumed)


class Kept(NamedTuple):
    """Bytes that a training step holds at its peak, counted by benchmarks/bench_gpu.py.

    For each wordpiece, times a width: hidden and inner (intermediate size) in each layer of a student, embedding
    (hidden size) once, fit (the teacher's width) for each compared hidden state, taught for each of the teacher's. For
    each attention score in a layer: score where it is compared, plain where it is not and no fused kernel computes it.
    Of the attention loss without scores, times a width in each layer: gram_own (hidden size), gram_taught (the
    teacher's), beside two matrices of 32 bits of each head.
    """
    hidden: float
    inner: float
    embedding: float
    fit: float
    taught: float
    score: float
    plain: float
    gram_own: float
    gram_taught: float


KEPT = {True: Kept(28.4, 3.9, 3.5, 10.4, 2, 23, 6, 8.4, 12),  # with matrix products in 16 bits
        False: Kept(34, 8, 9, 4, 4, 26, 12, 9, 17.5)}


def forward_flops(config: BertConfig, length: float, fit_size: int = 0, layers: int | None = None) -> float:
    """Floating-point operations of the matrix products in one forward pass of one sequence of `length` wordpieces.

    A product of [n, k] and [k, m] counts 2 n k m. For each layer and wordpiece: four projections of H x H, two of
    H x I, and the products of queries with keys and of attention with values, length x H each. fit_size: width of the
    teacher, to which a student projects its layers + 1 hidden states. layers: how many are run; None: all. A backward
    pass takes twice as much. Pooler and head, which take next to nothing, are left out.
    """
    hidden, layers = config.hidden_size, config.num_hidden_layers if layers is None else layers
    layer = 4 * hidden * hidden + 2 * hidden * config.intermediate_size + 2 * length * hidden
    return 2 * length * (layers * layer + (layers + 1) * hidden * fit_size)


def distillation_flops(students: Sequence[BertConfig], teacher: BertConfig, length: float,
                       layers: Sequence[int | None] | None = None) -> float:
    """Of one sequence in general distillation and in the intermediate stage: one forward pass of the teacher, and of
    each student forward and backward. layers: of each student and last of the teacher, as in forward_flops()."""
    *own, taught = layers or [None] * (len(students) + 1)
    return forward_flops(teacher, length, layers=taught) + 3 * sum(
        forward_flops(student, length, teacher.hidden_size, count)
        for student, count in zip(students, own, strict=True))


def parameter_count(config: BertConfig, fit_size: int = 0, fit_per_layer: bool = False) -> int:
    """Weights of an encoder with its pooler, and of a projection to fit_size, or one for each hidden state."""
    fits = config.num_hidden_layers + 1 if fit_per_layer else 1
    return config.parameters + fit_size * (config.hidden_size + 1) * fits


@dataclass(frozen=True)
class Device:
    """What computes: its name, cuda or cpu, bytes of its memory, whether it has bf16 (else auto means fp32), and the
    operations a second that it reaches in matrix products of a precision."""
    name: str
    type: str
    memory: float
    has_bf16: bool
    rate: Callable[[str], float]

    @property
    def share(self) -> float:
        """Of the rate of torch.mm, what is reached in training."""
        return SHARES[self.type]

    def precision(self, work: Work) -> str:
        """The precision that a command computes in on this device."""
        asked = getattr(work.args, "precision", "fp32")
        return asked if asked != "auto" else "bf16" if self.has_bf16 else "fp32"

    def scoring_rate(self, work: Work) -> float:
        """Of a step that only scores, in 32 bits, with tf32 its products: in training the precision is that of the
        rest."""
        return self.rate("tf32" if self.precision(work) == "tf32" else "fp32")


# Dense peaks, with float32 sums, of their data sheets.
RTX_4090 = Device("RTX 4090", "cuda", 24e9, True, {
    "bf16": 165e12, "fp16": 165e12, "tf32": 83e12, "fp32": 83e12}.__getitem__)
H100 = Device("H100 SXM", "cuda", 80e9, True, {
    "bf16": 989e12, "fp16": 989e12, "tf32": 495e12, "fp32": 67e12}.__getitem__)


def product_rate(dtype: torch.dtype, clock: Callable[[], float] = time.perf_counter,
                 device: torch.device | str = "cpu") -> float:
    """Floating-point operations a second of torch.mm, for the best of the sizes of BERT-base and a square."""
    on_gpu = torch.device(device).type == "cuda"
    rates = []
    for n, k, m in ((1024, 768, 768), (1024, 768, 3072), (1024, 3072, 768), (2048, 2048, 2048), (8192, 8192, 8192)):
        if n > 2048 and not on_gpu:
            continue
        a, b = torch.randn(n, k, device=device).to(dtype), torch.randn(k, m, device=device).to(dtype)
        stamps = []
        while len(stamps) < 3 or len(stamps) < 16 and stamps[-1] - stamps[0] < 0.1:
            torch.mm(a, b)
            if on_gpu:
                torch.cuda.synchronize(device)
            stamps.append(clock())
        steps = sorted(later - sooner for sooner, later in itertools.pairwise(stamps))
        rates.append(2 * n * k * m / steps[len(steps) // 2])
    return max(rates)


@dataclass(frozen=True)
class Cost:
    """Seconds of the work itself, of evaluations and of saving; bytes of memory (of the GPU, where there is one), of
    disk that stay, and of disk that it takes beside those while it runs. seconds is None where nothing tells."""
    seconds: float | None
    evaluation: float = 0.0
    saving: float = 0.0
    memory: float = 0.0
    disk: float = 0.0
    passing: float = 0.0

    @property
    def hours(self) -> float | None:
        """All of it."""
        return None if self.seconds is None else (self.seconds + self.evaluation + self.saving) / 3600


def training_flops(work: Work) -> float:
    """Operations of the optimizer steps, and of asking the teacher for its logits before them."""
    sequences = work.steps * work.args.train_batch_size
    if compares(work):
        return sequences * distillation_flops(work.students, work.teacher, work.length, layers_read(work))
    own = sequences * 3 * forward_flops(work.student, work.length)
    if work.kind == "teacher" or learns_labels(work.args, work.task.head):
        return own
    asked = work.asked if keeps_answers(work.args, work.task.head) else sequences
    return own + asked * forward_flops(work.teacher, work.length)


def evaluation_flops(work: Work) -> float:
    """Operations of scoring the dev sets, by the student, and once by the teacher."""
    own = work.evaluations * work.dev_examples * forward_flops(work.student, work.length)
    return own + work.dev_examples * forward_flops(work.teacher, work.length) if work.teacher else own


def compares(work: Work) -> bool:
    """Whether the losses of a training compare layers, and not answers."""
    return work.kind in ("general", "intermediate")


def layers_read(work: Work) -> list[int]:
    """Of a training that compares layers: up to which one the losses read each student, and last the teacher. No other
    is run; memory is estimated for all, which is too much where some are not."""
    pairs = [compared(student, work.teacher, work.args.layer_mapping, work.args.without) for student in work.students]
    return [*(needed([pair], 0)["layers"] for pair in pairs), needed(pairs, 1)["layers"]]


def student_weights(work: Work) -> list[int]:
    """Weights of each student of a training, with those of its projections."""
    fit = (work.teacher.hidden_size, work.args.fit_per_layer) if compares(work) else ()
    return [parameter_count(student, *fit) for student in work.students]


def launches(work: Work, is_short: bool) -> int:
    """Kernels that the host launches for one optimizer step on a GPU, counted by benchmarks/bench_gpu.py; is_short:
    with matrix products in 16 bits."""
    if compares(work):
        *layers, layers_of_teacher = layers_read(work)
        forward_backward = 14 * layers_of_teacher + (133 if is_short else 87) * sum(layers)
    else:
        forward_backward = (82 if is_short else 47) * work.student.num_hidden_layers + 40
    return work.args.gradient_accumulation_steps * forward_backward + 35 * len(work.students)


def scoring_launches(student: BertConfig, is_short: bool) -> int:
    """Kernels that the host launches to score a batch on a GPU, as launches(); autocast's copies of the weights, once
    for all batches, are left out."""
    return (21 if is_short else 15) * student.num_hidden_layers


def activations(work: Work, student: BertConfig, kept: Kept, on_gpu: bool) -> float:
    """Bytes that the losses of one sequence keep for the backward pass of a student, without the teacher's."""
    args, layers = work.args, student.num_hidden_layers
    length = args.max_seq_length  # padded batches are all as long as they can be; of others the longest counts
    wordpiece = layers * (kept.hidden * student.hidden_size + kept.inner * student.intermediate_size)
    wordpiece += kept.embedding * student.hidden_size
    heads = layers * student.num_attention_heads
    is_fused = on_gpu and not student.max_relative_position
    squares = 0 if is_fused else kept.plain * heads * length ** 2  # fused kernels keep none
    if compares(work):
        fit_size = work.teacher.hidden_size
        wordpiece += kept.fit * (layers + 1) * fit_size
        squares = kept.score * heads * length ** 2
        if chosen_attention_loss(args.attention_loss, args.preset, length, [student, work.teacher]) == "gram":
            wordpiece += layers * (kept.gram_own * student.hidden_size + kept.gram_taught * fit_size)
            squares = 2 * 4 * heads * ((student.hidden_size + fit_size) / student.num_attention_heads) ** 2
    return length * wordpiece + squares


def training_memory(work: Work, device: Device) -> float:
    """Bytes that a training step takes at its peak: weights, gradients and both moments of BertAdam, 16 bytes a
    weight; the teacher; what a micro batch keeps for the backward pass, of one student at a time."""
    is_short = PRECISIONS[device.precision(work)] is not None
    kept = KEPT[is_short]
    counts = student_weights(work)
    sequence = max(activations(work, student, kept, device.type == "cuda") for student in work.students)
    total = 16 * sum(counts)
    if work.teacher:
        total += (2 if is_short else 4) * parameter_count(work.teacher)
    if compares(work):
        states = (work.teacher.num_hidden_layers + 1) * work.teacher.hidden_size
        sequence += work.args.max_seq_length * kept.taught * states
    # autocast's copies of the weights are gone when BertAdam spreads its factors over the gradients
    return total + max(work.micro_batch * sequence + 2 * is_short * max(counts), 4 * max(counts))


def _training_cost(work: Work, device: Device, cores: int) -> Cost:
    precision = device.precision(work)
    rate, is_short = device.share * device.rate(precision), PRECISIONS[precision] is not None
    seconds, scoring = training_flops(work) / rate, evaluation_flops(work) / rate
    if device.type == "cuda":
        seconds = max(seconds, work.steps * launches(work, is_short) * LAUNCH_SECONDS)
        # batches of one number of wordpieces, not of rows
        batches = math.ceil(work.dev_examples * work.length / (work.args.eval_batch_size * work.args.max_seq_length))
        scoring = max(scoring, work.evaluations * batches * scoring_launches(work.student, is_short) * LAUNCH_SECONDS)
    seconds += work.unread / ARRAYS_RATE / cores
    models = 4 * sum(student_weights(work))
    states = 3 * models  # with two moments
    at_a_log = states + models * compares(work)  # the last model is saved with the state
    saving = work.expected_saves * models / len(work.students) / DISK_RATE
    saving += min(work.logs * at_a_log / DISK_RATE, SHARE_OF_TIME * (seconds + scoring))
    disk = models + INSTANCE_ARRAYS * work.unread
    if work.asked:
        disk += work.files.kept_bytes * work.asked
    if work.kind == "general":
        disk += models * (work.args.keep_checkpoints or work.logs)
    return Cost(seconds, scoring, saving, training_memory(work, device), disk, 2 * states)


def _augment_cost(work: Work, device: Device) -> Cost:
    teacher = work.teacher
    files = work.files
    masked = work.counts[0] * work.words * work.language.masked
    flops = masked * (forward_flops(teacher, work.masked_length) +
                      2 * teacher.hidden_size * (teacher.hidden_size + teacher.vocab_size))
    tokens = work.args.batch_tokens or batch_tokens_in(device.memory if device.type == "cuda" else None)
    activations = tokens * 4 * (6 * teacher.hidden_size + 2 * teacher.intermediate_size)
    memory = 4 * parameter_count(teacher) + activations + tokens / work.masked_length * teacher.vocab_size * 8
    return Cost(flops / (device.share * device.rate(device.precision(work))), memory=memory,
                disk=files.augmented(work.counts[0], work.args.N) * files.augmented_bytes(work.words, work.length),
                passing=4 * masked * work.args.M)


def price(work: Work, device: Device, cores: int = 1) -> Cost:
    """What a command takes on a device, on a machine of so many cores."""
    if work.refused:
        return Cost(None)
    if work.steps:
        return _training_cost(work, device, cores)
    if work.kind == "augment":
        return _augment_cost(work, device)
    if work.kind == "evaluation":
        flops = work.examples * forward_flops(work.student, work.length)
        return Cost(0.0, flops / (device.share * device.scoring_rate(work)),
                    memory=4 * parameter_count(work.student))
    workers = min(cores, getattr(work.args, "num_workers", 1))
    if work.kind == "pregenerate":
        usual = work.language
        seconds = work.text_bytes * (1 / usual.corpus + len(work.counts) / usual.epochs[work.args.arrays])
        instance = INSTANCE_ARRAYS if work.args.arrays else INSTANCE_JSON
        disk = sum(work.counts) * instance * work.length / INSTANCE_LENGTH + usual.store * work.text_bytes
        return Cost(seconds / workers, disk=disk)
    if work.step.script == "prepare_data":
        return Cost(work.text_bytes / work.language.sentences / workers, disk=work.text_bytes)
    return Cost(None, disk=_size_of_files(work))


def _size_of_files(work: Work) -> float:
    """Bytes that a download, or a step that unpacks one, leaves."""
    script, argv = work.step.script, work.step.argv
    if script == "-m transformer.fetching.wikipedia":
        return work.text_bytes / TEXT_OF_XML
    if script == "-c" and argv[-1].endswith(".bz2"):
        return work.language.dump
    if script == "-c":  # the vectors, which are fetched, then unpacked
        file = Path(argv[-1])
        return GLOVE.get(file.name, GLOVE[f"glove.840B.300d{'.zip' if file.suffix == '.zip' else '.txt'}"])
    if script.startswith("-m wikiextractor"):
        return work.language.articles * work.text_bytes / work.language.text
    if script == "get_bert_models":
        return BERT_FOLDER * len(work.args.models)
    if script == "download_glue":
        fetched = load_script(work.step.argv[0])
        known = (fetched.KNOWN_FILES.get(f"{fetched.HOSTS[fetched.host_of(file)]}/{file}")
                 for name in work.args.tasks for file in fetched.TASK_FILES[name])
        return UNPACKED * sum(source.size for source in known if source)
    return 0.0
