"""Every flag of the scripts that train does something; precision; logits that are kept; curves."""
from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from argparse import Namespace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib import image

from tests.conftest import ROOT, STUDENT, finetune, general, lines, run, train, without_dropout
from transformer.checkpoint import load_tokenizer
from transformer.cli import Parser, run_script
from transformer.config import BertConfig
from transformer.data import epochs
from transformer.data.tables import read_rows
from transformer.files import InputError, read_json
from transformer.modeling import TinyBertForSequenceClassification
from transformer.optimization import BertAdam, parameter_groups
from transformer.reporting.curves import draw_curves, draw_or_warn
from transformer.reporting.curves import main as draw_main
from transformer.tasks.table import get_task
from transformer.training import run as training_run
from transformer.training import scoring
from transformer.training.processes import Processes, join_processes, set_device_flags, set_precision
from transformer.training.states import Allowance, States
from transformer.weights import read_weights

MAKE = {"general_distill": general, "task_distill": train, "finetune_teacher": finetune}
PREDICTION = {"pred_distill": True}
SCORING = {"student_model": "student_mrpc", **dict.fromkeys(  # of flags for training none
    ("teacher_model", "train_batch_size", "num_train_epochs", "learning_rate", "skip_teacher_check"))}

# flag: (flags of the plain run, flags of the changed one, what shows the change). WEIGHTS: the student's; METRICS: the
# lines of metrics.jsonl; a string: printed by the changed run alone, or said by its refusal after "refused: ".
WEIGHTS, METRICS = object(), object()
SHARED = {
    "--overwrite_output_dir": ({"output_dir": "full", "overwrite_output_dir": True}, {"overwrite_output_dir": None},
                               "refused: not empty"),
    "--resume": ({}, {"resume": True, "output_dir": "stopped"}, "refused: was None and is"),
    "--variant": ({}, {"variant": "no_attn"}, "variant=no_attn"),
    "--train_batch_size": ({}, {"train_batch_size": 4}, WEIGHTS),
    "--gradient_accumulation_steps": ({}, {"gradient_accumulation_steps": 3}, "refused: no multiple"),
    "--learning_rate": ({}, {"learning_rate": 2e-3}, WEIGHTS),
    "--weight_decay": ({}, {"weight_decay": 0.5}, WEIGHTS),
    "--num_train_epochs": ({}, {"num_train_epochs": 1}, METRICS),
    "--warmup_proportion": ({}, {"warmup_proportion": 0.5}, WEIGHTS),
    "--save_steps": ({}, {"save_steps": 1}, "state 1 is saved"),
    "--precision": ({}, {"precision": "bf16"}, WEIGHTS),
    "--fp16": ({}, {"fp16": True, "no_cuda": None}, "refused: --precision fp16 needs a GPU"),
    "--compile": ({}, {"compile": True}, "is compiled"),
    "--tensorboard": ({}, {"tensorboard": True}, "refused: --tensorboard needs the package tensorboard"),
    "--deterministic": ({}, {"deterministic": True, "no_cuda": None}, "refused: --deterministic is for a GPU"),
    "--seed": ({}, {"seed": 7}, WEIGHTS)}
DISTILL = {
    "--output_dir": ({}, {"output_dir": "elsewhere"}, "student in {tiny}/elsewhere"),
    "--layer_mapping": ({}, {"layer_mapping": "top"}, WEIGHTS),
    "--without": ({}, {"without": "attn"}, WEIGHTS),
    "--attention_loss": ({}, {"attention_loss": "gram"}, WEIGHTS),
    "--fit_per_layer": ({}, {"fit_per_layer": True}, WEIGHTS),
    "--eval_step": ({}, {"eval_step": 1}, METRICS),
    "--preset": ({"pred_distill": None}, {"preset": "code"}, WEIGHTS)}
SPANS = {flag: ({}, {flag[2:]: value}, f"refused: {flag} is for the passages of SQuAD") for flag, value in (
    ("--doc_stride", 9), ("--max_query_length", 9), ("--n_best_size", 9), ("--max_answer_length", 9),
    ("--null_score_diff_threshold", 0.5))}  # what they do there is in test_squad_runs.py
CASES = {
    "general_distill": {
        **SHARED, **DISTILL,
        "--pregenerated_data": ({}, {"pregenerated_data": "other_json"}, WEIGHTS),
        "--teacher_model": ({}, {"teacher_model": "other_bert"}, WEIGHTS),
        "--student_model": ({}, {"student_model": "other_config"}, WEIGHTS),
        "--continue_train": ({"student_model": "general"}, {"continue_train": True}, WEIGHTS),
        "--init_from_teacher_layers": ({"student_model": "bert"}, {"init_from_teacher_layers": True}, WEIGHTS),
        "--max_seq_length": ({}, {"max_seq_length": 36}, WEIGHTS),
        "--do_lower_case": ({"teacher_model": "cased_bert", "pregenerated_data": "cased_json"}, {"do_lower_case": True},
                            "refused: cased_bert is cased"),
        "--reduce_memory": ({}, {"reduce_memory": True}, "in_memory False"),
        "--keep_checkpoints": ({"eval_step": 1}, {"keep_checkpoints": 1}, "step_4_pytorch_model.bin alone"),
        "--do_eval": ({}, {"do_eval": True}, METRICS),
        "--eval_batch_size": ({"do_eval": True}, {"eval_batch_size": 13}, METRICS)},
    "task_distill": {
        **SHARED, **DISTILL, **SPANS,
        "--data_dir": ({}, {"data_dir": "other_glue/MRPC"}, WEIGHTS),
        "--task_name": ({}, {"task_name": "MNLI"}, "refused: [2, 16]"),
        "--teacher_model": ({}, {"teacher_model": "other_teacher"}, WEIGHTS),
        "--student_model": ({}, {"student_model": "student_mrpc"}, WEIGHTS),
        "--from_scratch": ({}, {"from_scratch": True}, WEIGHTS),
        "--fit_per_layer": ({"from_scratch": True}, {"fit_per_layer": True}, WEIGHTS),
        "--cache_dir": ({"aug_train": True}, {"cache_dir": "features_of_mine"}, "features_of_mine is there"),
        "--max_seq_length": ({}, {"max_seq_length": 9}, WEIGHTS),
        "--do_lower_case": ({"teacher_model": "cased_teacher", "do_lower_case": None}, {"do_lower_case": True},
                            "refused: cased_teacher is cased"),
        "--pred_distill": ({}, PREDICTION, "prediction stage"),
        "--aug_train": ({}, {"aug_train": True}, "48 examples"),
        "--temperature": (PREDICTION, {"temperature": 3.0}, WEIGHTS),
        "--dynamic_padding": ({}, {"dynamic_padding": True}, WEIGHTS),
        "--hard_labels": (PREDICTION, {"hard_labels": True}, WEIGHTS),
        "--hf_head": (PREDICTION, {"hf_head": True}, WEIGHTS),
        "--skip_teacher_check": ({}, {"skip_teacher_check": None, "teacher_model": "chance_teacher"},
                                 "refused: chance"),
        "--warmup_proportion": (PREDICTION, {"warmup_proportion": 0.5}, WEIGHTS),
        "--do_eval": ({}, {"do_eval": True, **SCORING}, "Eval results"),
        "--do_predict": ({}, {"do_predict": True, **SCORING}, "refused: test.tsv does not exist"),
        "--predict_file": ({}, {"predict_file": "dev.json"}, "refused: --do_predict"),
        "--save_predictions": ({}, {"save_predictions": True}, "refused: --do_eval"),
        "--eval_batch_size": (PREDICTION, {"eval_batch_size": 5}, "batches of 5")},
    "finetune_teacher": {
        **SHARED, **SPANS,
        "--tasks": ({}, {"tasks": "CoLA", "output_dir": None}, "CoLA teacher in {tiny}/final_cola_teacher"),
        "--glue_dir": ({}, {"glue_dir": "other_glue"}, WEIGHTS),
        "--models_dir": ({"model": None}, {"models_dir": "data"}, "refused: bert-base-uncased"),
        "--model": ({}, {"model": "other_bert"}, WEIGHTS),
        "--output_dir": ({}, {"output_dir": "elsewhere"}, "MRPC teacher in {tiny}/elsewhere"),
        "--overwrite_output_dir": ({"output_dir": "full", "overwrite_output_dir": True},
                                   {"overwrite_output_dir": None}, "refused: not empty"),
        "--cased": ({}, {"cased": True}, "refused: bert is uncased"),
        "--keep_head": ({}, {"keep_head": True}, "refused: has none"),
        "--new_head": ({"model": "teacher_mrpc"}, {"new_head": True}, WEIGHTS),
        "--hf_head": ({}, {"hf_head": True}, "without relu"),
        "--max_seq_length": ({}, {"max_seq_length": 9}, WEIGHTS),
        "--eval_batch_size": ({}, {"eval_batch_size": 5}, "batches of 5")}}
DEVICE = {"--no_cuda", "--local_rank"}  # in a test of their own
PATHS = {"output_dir", "pregenerated_data", "teacher_model", "student_model", "data_dir", "cache_dir", "glue_dir",
         "models_dir", "model"}


def flags_of(script: str) -> list[str]:
    """The flags of a script, from its parser; the first name of each."""
    class Stop(Exception):
        pass

    with pytest.MonkeyPatch.context() as patch:
        def stop(parser, *_):
            raise Stop([action.option_strings[0] for action in parser._actions])
        patch.setattr(Parser, "parse_args", stop)
        try:
            importlib.import_module(script).parse_args([])
        except Stop as flags:
            return [flag for flag in flags.args[0] if flag != "-h" and flag not in DEVICE]
    raise AssertionError("parse_args() asks no Parser")


@pytest.fixture(scope="module")
def world(world):
    tiny = world
    shutil.copytree(tiny / "bert", tiny / "bert-base-uncased")
    for name, source in (("bert", "general"), ("teacher", "teacher_cola"), ("chance_teacher", "teacher_mrpc")):
        place = tiny / (name if name.startswith("chance") else f"other_{name}")
        shutil.copytree(tiny / source if name != "bert" else tiny / "bert", place)
        state = read_weights(place)
        factor = 0.0 if name == "chance_teacher" else -1.0
        for key in ("classifier.weight", "bert.encoder.layer.0.attention.self.query.weight"):
            if key in state:
                state[key] = state[key] * factor
        torch.save(state, place / "pytorch_model.bin")
    for name in ("bert", "teacher"):
        place = shutil.copytree(tiny / f"other_{name}", tiny / f"cased_{name}")
        (place / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    (tiny / "other_config").mkdir()
    BertConfig(**{**STUDENT, "hidden_size": 12}).to_json_file(tiny / "other_config" / "config.json")
    for name in ("other_json", "cased_json"):
        shutil.copytree(tiny / "json", tiny / name)
        for path in (tiny / name).glob("epoch_?.json"):
            path.write_text(path.read_text().replace('"dog"', '"old"'))
        for path in (tiny / name).glob("*_metrics.json"):
            path.write_text(json.dumps(read_json(path) | {"do_lower_case": name != "cased_json"}))
    shutil.copytree(tiny / "glue", tiny / "other_glue")
    for path in (tiny / "other_glue").glob("*/*.tsv"):
        path.write_text(path.read_text().replace("dog", "OLD"))
    return tiny


@pytest.fixture(scope="module")
def plain_runs() -> dict[tuple, tuple]:
    """What the plain runs gave, by script and flags: many are the same."""
    return {}


@pytest.mark.parametrize("script_name,flag", [(name, flag) for name in MAKE for flag in flags_of(name)])
def test_every_flag_changes_something(script_name, flag, world, plain_runs, script, monkeypatch):
    plain, changed, effect = CASES[script_name][flag]
    save = States.save
    opens, source = ("open_epoch", epochs) if script_name == "general_distill" else ("predict", scoring)
    opened = getattr(source, opens)

    def noted_save(self, step, **state):
        print(f"state {step} is saved")
        save(self, step, **state)

    def noted(*args, **kwargs):
        print(f"in_memory {kwargs.get('in_memory')}" if opens == "open_epoch" else f"batches of {args[3]}")
        return opened(*args, **kwargs)

    monkeypatch.setattr(States, "save", noted_save)
    monkeypatch.setattr(Allowance, "is_left", False)
    monkeypatch.setattr(source, opens, noted)
    monkeypatch.setattr(torch, "compile", lambda model, mode=None: print("is compiled") or model)
    find_spec = importlib.util.find_spec  # what tensorboard does where it is installed is in test_tensorboard.py
    monkeypatch.setattr(importlib.util, "find_spec",
                        lambda name, *args: None if name == "tensorboard" else find_spec(name, *args))

    def start(out: str, flags: dict) -> tuple[int, str, str]:
        base = {"learning_rate": 1e-3, "num_train_epochs": 2, "output_dir": out}
        if script_name == "finetune_teacher":
            base["model"] = "bert"
        flags = {**base, **flags}
        flags = {name: world / value if name in PATHS and value else value for name, value in flags.items()}
        folder = flags["output_dir"] or world / "final_cola_teacher"
        shutil.rmtree(folder, ignore_errors=True)
        if folder.name == "full":
            folder.mkdir()
            (folder / "file").touch()
        if folder.name == "stopped":
            folder.mkdir()
            (folder / "run.json").write_text('{"finished": false}')
            torch.save({"step": 1, "settings": {}}, folder / "state_1.pt")
        return folder, *script(script_name, *MAKE[script_name](world, **flags))

    key = (script_name, *sorted(plain.items()))
    if key not in plain_runs:
        before, status, first, err = start("plain", plain)
        assert status == 0, err
        settings = read_json(before / "run.json")["settings"]
        plain_runs[key] = read_weights(before), lines(before / "metrics.jsonl"), settings, first
    weights, metrics, settings, first = plain_runs[key]
    after, status, second, err = start("changed", {**plain, **changed})
    if isinstance(effect, str) and effect.startswith("refused: "):
        assert status == 2 and effect.removeprefix("refused: ") in err and len(err.strip().splitlines()) == 1, err
        return
    assert status == 0, err
    if (after / "run.json").is_file():
        assert read_json(after / "run.json")["settings"][flag[2:]] != settings[flag[2:]]
    if effect is WEIGHTS:
        other = read_weights(after)
        assert all(tensor.dtype == torch.float32 for tensor in other.values())
        assert weights.keys() != other.keys() or any(
            weights[name].shape != other[name].shape or not torch.equal(weights[name], other[name]) for name in weights)
    elif effect is METRICS:
        speeds = {"sequences_per_s", "wordpieces_per_s", "memory_gb"}
        assert [{k: line[k] for k in line.keys() - speeds} for line in metrics] != \
            [{k: line[k] for k in line.keys() - speeds} for line in lines(after / "metrics.jsonl")]
    elif flag == "--keep_checkpoints":
        assert [path.name for path in after.glob("step_*")] == ["step_4_pytorch_model.bin"]
    elif flag == "--cache_dir":
        assert len(list((world / "features_of_mine").glob("mrpc_*"))) == 2
    else:
        text = effect.format(tiny=world)
        assert text in second and text not in first


def test_no_case_is_of_a_flag_that_is_no_more():
    assert {name: set(flags_of(name)) for name in MAKE} == {name: set(cases) for name, cases in CASES.items()}


@pytest.mark.parametrize("name", sorted(path.stem for path in ROOT.glob("*.py")))
def test_help_and_refused_flags_answer_before_the_slow_imports(name):
    """On the command line, and also where a script is imported: what is slow stands inside the functions."""
    slow = {"torch", "nltk", "matplotlib", "sklearn", "scipy"}
    for flag, status in (("--help", 0), ("--no_such_flag", 2)):
        answer = subprocess.run([sys.executable, "-X", "importtime", ROOT / f"{name}.py", flag], cwd=ROOT,
                                capture_output=True, text=True)
        assert answer.returncode == status and (status or answer.stdout.startswith(f"usage: {name}.py"))
        loaded = {line.split("|")[2].strip().split(".")[0] for line in answer.stderr.splitlines()
                  if line.startswith("import time:")}
        assert "transformer" in loaded and loaded & slow == set()
    importing = subprocess.run([sys.executable, "-c", f"import sys, {name}; print(*sys.modules)"], cwd=ROOT,
                               capture_output=True, text=True, check=True)
    assert slow.intersection(importing.stdout.split()) == set()


def test_device_flags(tiny, monkeypatch):
    for name, make in MAKE.items():
        for rank in ("--local_rank", "--local-rank"):  # which torch.distributed.launch adds
            assert importlib.import_module(name).parse_args([*map(str, make(tiny)), f"{rank}=1"]).local_rank == 1
    cpu = torch.device("cpu")
    assert join_processes(True, 0) == Processes(0, 1, cpu)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_arch_list", list)
    assert join_processes(True) == Processes(0, 1, cpu)
    assert join_processes().device == torch.device("cuda", 0)
    assert join_processes(local_rank=1).device == torch.device("cuda", 1)
    with pytest.raises(InputError, match="GPU 2"):
        join_processes(local_rank=2)


@pytest.mark.parametrize("name", MAKE)
def test_precision(name, tiny, script, refused):
    """bf16 gives nearly the losses of fp32, --fp16 is --precision fp16; what needs a GPU is refused without one."""
    without_dropout(tiny, "config", "bert", "general", "teacher_mrpc")
    extra = {"model": tiny / "bert"} if name == "finetune_teacher" else {"eval_step": 1}
    losses = {}
    for precision in ("fp32", "bf16"):
        out = tiny / precision
        run(script, name, MAKE[name](tiny, precision=precision, output_dir=out, **extra))
        losses[precision] = [line["loss"] for line in lines(out / "metrics.jsonl")]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02) and losses["bf16"] != losses["fp32"]
    if not torch.cuda.is_available():
        for flags in ({"precision": "tf32"}, {"precision": "fp16"}, {"fp16": True}):
            refused(name, *MAKE[name](tiny, no_cuda=None, output_dir=tiny / "no", **flags, **extra),
                    words=("needs a GPU", flags.get("precision", "fp16")))
    module = importlib.import_module(name)
    one, other = (module.parse_args([str(part) for part in MAKE[name](tiny, no_cuda=None, **flags)])
                  for flags in ({"fp16": True}, {"precision": "fp16"}))
    assert one.precision == other.precision == "fp16"
    for other in ("bf16", "fp32"):
        refused(name, *MAKE[name](tiny, fp16=True, precision=other, **extra), words=("--fp16", other))


@pytest.mark.parametrize("device,units,others,wanted", [
    ("cuda", True, True, "bf16"), ("cuda", False, False, "fp32"), ("cuda", True, False, "fp32"),
    ("cpu", True, False, "fp32")])
def test_precision_that_is_not_given(device, units, others, wanted, monkeypatch):
    """bf16 where every process has a GPU with units for it, not where one would emulate it."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or units)
    monkeypatch.setattr(Processes, "any", lambda self, flag: flag or not others)
    assert set_precision("auto", Processes(0, 2, torch.device(device))) == wanted
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_a_gpu_without_the_precision(precision, monkeypatch):
    """It would compute in another, or slowly: refused, as fp32 and fp16 are not."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    gpu = Processes(0, 1, torch.device("cuda", 0))
    with pytest.raises(InputError, match=f"--precision {precision} .*8.0 and Tesla T4 has less: take fp32 or fp16"):
        set_precision(precision, gpu)
    assert [set_precision(other, gpu) for other in ("auto", "fp32", "fp16")] == ["fp32", "fp32", "fp16"]
    assert set_precision("bf16", Processes(0, 1, torch.device("cpu"))) == "bf16"


def test_a_deterministic_gpu(monkeypatch, refused, tiny):
    asked = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", asked.append)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    gpu = Processes(0, 1, torch.device("cuda", 0))
    set_device_flags(Namespace(compile=False, deterministic=False), gpu)
    assert not asked and "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    set_device_flags(Namespace(compile=False, deterministic=True), gpu)
    assert asked == [True] and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not torch.utils.deterministic.fill_uninitialized_memory
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":16:8"  # the user's own
    set_device_flags(Namespace(compile=False, deterministic=True), gpu)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    refused("task_distill", *train(tiny, deterministic=True), words=("--deterministic", "--no_cuda"))


@pytest.mark.parametrize("name", MAKE)
def test_the_precision_of_a_run_is_told(name, tiny, script):
    extra = {"model": tiny / "bert"} if name == "finetune_teacher" else {}
    out = run(script, name, MAKE[name](tiny, **extra))
    assert " precision=fp32 " in out
    record, = tiny.rglob("run.json")
    assert read_json(record)["settings"]["precision"] == "fp32"


@pytest.mark.parametrize("given,policy,spins", [
    ({}, "PASSIVE", 1000), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE", None), ({"GOMP_SPINCOUNT": "7"}, "PASSIVE", 7)])
def test_threads_sleep_while_they_wait(given, policy, spins):
    """Set before torch is loaded, which reads it then; what the user has set stays."""
    unset = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}
    environment = {name: text for name, text in os.environ.items() if name not in unset}
    program = subprocess.run(
        [sys.executable, "-c", "import task_distill, torch; torch.ones(9)"], cwd=ROOT, text=True, capture_output=True,
        env={**environment, "OMP_DISPLAY_ENV": "VERBOSE", **given}, check=True)
    assert f"OMP_WAIT_POLICY = '{policy}'" in program.stderr  # says the OpenMP that torch has loaded
    found = int(re.search(r"GOMP_SPINCOUNT = '(\d+)'", program.stderr)[1])
    assert found == spins if spins else found > 1_000_000


@pytest.mark.parametrize(("name", "make", "changes"), [
    ("general_distill", general, {}), ("task_distill", train, {}), ("finetune_teacher", finetune, {"model": "bert"})])
def test_compiling_where_torch_cannot(name, make, changes, tiny, refused, monkeypatch):
    """Before anything is written."""
    def broken(*args):
        raise RuntimeError("no g++\nand more")

    monkeypatch.setattr(torch, "compile", lambda model, mode=None: broken)
    monkeypatch.chdir(tiny)
    refused(name, *make(tiny, output_dir="out", compile=True, **changes),
            words=("--compile: torch cannot compile here: RuntimeError: no g++: mend that, or leave --compile out",))
    assert not list((tiny / "out").glob("*.json"))


def test_compiled_models_are_trained_alike(tiny, script, monkeypatch):
    compiled, compile_model = [], torch.compile

    def eager(model, mode=None):
        assert mode is None
        compiled.append(type(model).__name__)
        return compile_model(model, backend="eager")

    monkeypatch.setattr(torch, "compile", eager)
    without_dropout(tiny, "general", "teacher_mrpc")
    for out, flags in (("plain", {}), ("compiled", {"compile": True})):
        run(script, "task_distill", train(tiny, output_dir=tiny / out, learning_rate=1e-3, **flags))
    # a trial, the losses, student and teacher
    assert compiled == 2 * ["function"] + 2 * ["TinyBertForSequenceClassification"]
    first, second = read_weights(tiny / "plain"), read_weights(tiny / "compiled")
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=0, atol=1e-6)


@pytest.mark.parametrize("changes,wanted", [
    ({}, "reduce-overhead"), ({"dynamic_padding": False}, "reduce-overhead"), ({"dynamic_padding": True}, None),
    ({"gradient_accumulation_steps": 2}, None), ({"world": 2}, None), ({"device": "cpu"}, None), ({"runs": 2}, None),
    ({"compile": False}, "not compiled")])
def test_a_step_is_captured_where_it_is_one_pass_of_one_model_on_a_gpu(changes, wanted, monkeypatch):
    """Elsewhere gradients would come upon those of the capture. General distillation has no --dynamic_padding."""
    monkeypatch.setattr(torch, "compile", lambda model, mode: mode)
    asked = {"device": "cuda", "world": 1, "runs": 1, "compile": True, "gradient_accumulation_steps": 1, **changes}
    training = SimpleNamespace(processes=Processes(0, asked.pop("world"), torch.device(asked.pop("device"))),
                               runs=range(asked.pop("runs")), args=argparse.Namespace(**asked))
    assert training_run.Training._compiled(training, "not compiled") == wanted


def test_prediction_stage_equals_a_teacher_asked_each_time(tiny, script, monkeypatch):
    """Kept logits and short batches give the losses of asking the teacher at every step, all padded to 24."""
    without_dropout(tiny, "student_mrpc", "teacher_mrpc")
    asked, batches = [], []
    forward, own_shares = TinyBertForSequenceClassification.forward, training_run.own_shares

    def noted_forward(self, input_ids, *args, **kwargs):
        if self.config.hidden_size == 16:
            asked.append(len(input_ids))
        return forward(self, input_ids, *args, **kwargs)

    def noted_shares(rows, *args):
        batches.append(rows.tolist())
        return own_shares(rows, *args)

    monkeypatch.setattr(TinyBertForSequenceClassification, "forward", noted_forward)
    monkeypatch.setattr(training_run, "own_shares", noted_shares)

    def losses(out, **changes):
        asked.clear()
        batches.clear()
        run(script, "task_distill", train(
            tiny, student_model=tiny / "student_mrpc", output_dir=tiny / out, pred_distill=True, aug_train=True,
            eval_step=1, learning_rate=1e-2, temperature=2.0, gradient_accumulation_steps=2, **changes))
        return [line["cls_loss"] for line in lines(tiny / out / "metrics.jsonl")]

    first = losses("first")
    assert sum(asked) == 24 + 48  # the dev set, the training rows
    assert losses("second") == first and sum(asked) == 24, "the training rows are asked for once"
    assert losses("code", preset="code") == pytest.approx(first, abs=1e-5)
    assert sum(asked) == 24 + 48 + 1  # each time, and once to see what is trained

    task, tokenizer = get_task("mrpc"), load_tokenizer(tiny / "general", True)
    texts = [[columns[c] for c in task.text_columns]
             for _, columns in read_rows(task, tiny / "glue/MRPC/train_aug.tsv")]

    def padded(rows):
        ids, segments, mask = torch.zeros(3, len(rows), 24, dtype=torch.long)
        for place, row in enumerate(rows):
            a, b = ([tokenizer.vocab[piece] for piece in tokenizer.tokenize(text)] for text in texts[row])
            length = len(a) + len(b) + 3
            ids[place, :length] = torch.tensor([tokenizer.vocab["[CLS]"], *a, tokenizer.vocab["[SEP]"], *b,
                                                tokenizer.vocab["[SEP]"]])
            segments[place, len(a) + 2:length] = 1
            mask[place, :length] = 1
        return ids, segments, mask

    teacher, student = (TinyBertForSequenceClassification.from_pretrained(tiny / f"{role}_mrpc", num_labels=2)
                        for role in ("teacher", "student"))
    optimizer = BertAdam(parameter_groups(student, 0.01), lr=1e-2, warmup=0.1, t_total=6)
    wanted = []
    for rows in batches:
        with torch.no_grad():
            soft = (teacher.eval()(*padded(rows))[0] / 2).softmax(1)
        loss = -(soft * (student(*padded(rows))[0] / 2).log_softmax(1)).mean()  # over the classes too
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        wanted.append(loss.item())
    assert first == pytest.approx(wanted, abs=1e-5) and np.ptp(wanted) > 1e-3


def test_curves(tiny, script, monkeypatch, capfd):
    monkeypatch.setattr("transformer.reporting.curves.draw_curves", draw_curves)
    run(script, "task_distill", train(tiny, pred_distill=True, eval_step=1))
    drawn = tiny / "out" / "curves.png"
    picture = image.imread(drawn)  # a PNG, by its own reader
    assert picture.shape[0] > 500 and picture.shape[1] > 500
    assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 5, "nothing is drawn"
    drawn.unlink()

    def draw(*argv):
        monkeypatch.setattr("sys.argv", ["curves.py", *map(str, argv)])
        return run_script(draw_main), *capfd.readouterr()

    assert draw(tiny / "out") == (0, f"{drawn}\n", "")
    assert np.array_equal(image.imread(drawn), picture)
    (tiny / "glue" / "metrics.jsonl").write_text('{"task": "MRPC", "acc": 0.5}\n')
    for argv, word in (((tiny / "json",), "metrics.jsonl does not exist"), ((tiny / "nowhere",), "does not exist"),
                       ((tiny / "glue",), "no losses"), ((), "name one folder")):
        status, _, err = draw(*argv)
        assert status == 2 and word in err and len(err.splitlines()) == 1, err


def failing(error: Exception):
    def fail(*_, **__):
        raise error
    return fail


@pytest.mark.parametrize("spoil,reason", [
    (lambda patch: patch.setitem(sys.modules, "matplotlib.figure", None), "matplotlib.figure"),
    (lambda patch: patch.setattr("matplotlib.backends.backend_agg.get_font",
                                 failing(FileNotFoundError(2, "No such file", "DejaVuSans.ttf"))), "DejaVuSans.ttf"),
    (lambda patch: patch.setattr("matplotlib.figure.Figure.savefig", failing(OSError(28, "No space left on device"))),
     "No space left on device"),
    (lambda patch: patch.setattr("matplotlib.figure.Figure.savefig", failing(RuntimeError("a\nb"))), "a b")],
    ids=["no_matplotlib", "no_font", "no_space", "broken"])
def test_a_run_is_finished_also_where_no_curves_can_be_drawn(spoil, reason, tiny, script, monkeypatch, capfd):
    monkeypatch.setattr("transformer.reporting.curves.draw_curves", draw_curves)
    spoil(monkeypatch)
    out = run(script, "task_distill", train(tiny, pred_distill=True))
    warnings = [line for line in out.splitlines() if line.startswith("warning:")]
    assert len(warnings) == 1 and f"{tiny}/out/curves.png cannot be drawn" in warnings[0] and reason in warnings[0]
    assert "Errno" not in out and ".tmp" not in out and not list((tiny / "out").glob("*curves*"))
    assert read_json(tiny / "out" / "run.json")["finished"] and out.splitlines()[-1].startswith(f"{tiny}/out: ")
    monkeypatch.setattr("sys.argv", ["curves.py", f"{tiny}/out"])
    assert run_script(draw_main) == 2
    err = capfd.readouterr().err
    assert err.startswith("curves.py: error: ") and reason in err and len(err.splitlines()) == 1


def test_a_picture_or_a_warning(tmp_path, monkeypatch, capfd):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    draw_or_warn(tmp_path)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG") and capfd.readouterr() == ("", "")
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", failing(RuntimeError("a\nb")))
    draw_or_warn(tmp_path)
    out, err = capfd.readouterr()
    assert out.startswith(f"warning: {tmp_path}/curves.png cannot be drawn (a b): ") and out.count("\n") == 1
    assert err == ""


def test_curves_are_drawn_without_a_home(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    drawing = subprocess.run([sys.executable, "-m", "transformer.reporting.curves", tmp_path], cwd=ROOT,
                             capture_output=True, text=True, env={"HOME": "/proc/self", "PATH": os.environ["PATH"]})
    assert (drawing.returncode, drawing.stdout, drawing.stderr) == (0, f"{tmp_path}/curves.png\n", "")
