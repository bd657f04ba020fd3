"""The training scripts on tiny models: what they compute, save and hand to the next step."""
import errno
import itertools
import os
import signal

import pytest
import torch

import general_distill
import task_distill
from tests.conftest import (
    PIECES,
    assert_equal_weights,
    command_line,
    edit_config,
    finetune,
    general,
    lines,
    make_cased,
    names,
    pad_embeddings,
    run,
    sentence,
    train,
    without_dropout,
    without_vocab_txt,
    write_lines,
)
from transformer.checkpoint import load_tokenizer
from transformer.data.features import encode_file
from transformer.data.parts import GrowingFiles
from transformer.files import read_json
from transformer.modeling import TinyBertForPreTraining, TinyBertForSequenceClassification
from transformer.optimization import BertAdam
from transformer.reporting.collection import examine_run
from transformer.reporting.curves import draw_curves
from transformer.tasks.head import Classes, Score
from transformer.tasks.table import GLUE, SQUAD, get_task
from transformer.training.batches import shuffled_batches
from transformer.training.processes import Processes
from transformer.training.scoring import evaluate
from transformer.weights import read_weights, write_bin


def test_general_task_and_evaluation_chain(tiny, script, monkeypatch):
    """Each step's folder is the next one's input; what is handed on is what the README says."""
    monkeypatch.setattr("transformer.reporting.curves.draw_curves", draw_curves)
    out = run(script, "general_distill", general(tiny, output_dir=tiny / "gd", eval_step=2, do_eval=True))
    assert "example 0: [CLS] the" in out or "example 0: [CLS] [UNK]" in out
    assert {path.name for path in (tiny / "gd").iterdir()} == {
        "pytorch_model.bin", "config.json", "vocab.txt", "tokenizer_config.json", "run.json", "metrics.jsonl",
        "log.txt", "curves.png", "step_2_pytorch_model.bin", "step_4_pytorch_model.bin"}
    logged = lines(tiny / "gd" / "metrics.jsonl")
    assert [line["step"] for line in logged] == [2, 4]
    for line in logged:
        assert line["loss"] == pytest.approx(line["att_loss"] + line["rep_loss"])
        assert line["eval_att_loss"] > 0 and line["eval_rep_loss"] > 0
    assert_equal_weights(tiny / "gd", _folder_of(tiny / "gd" / "step_4_pytorch_model.bin", tiny / "step4"), 0)

    run(script, "task_distill", train(tiny, student_model=tiny / "gd", output_dir=tiny / "stage1", aug_train=True))
    state = read_weights(tiny / "stage1")
    assert state["fit_dense.weight"].shape == (16, 8)
    run(script, "task_distill", train(tiny, student_model=tiny / "stage1", output_dir=tiny / "stage2",
                                      pred_distill=True, eval_step=1))
    assert not any(name.startswith("fit_dense") for name in read_weights(tiny / "stage2"))
    scores = [line["acc"] for line in lines(tiny / "stage2" / "metrics.jsonl")]
    assert len(scores) == 3  # 24 examples in batches of 8
    for _ in range(2):  # evaluations share a folder
        out = run(script, "task_distill", [
            "--do_eval", "--data_dir", tiny / "glue" / "MRPC", "--task_name", "mrpc", "--student_model",
            tiny / "stage2", "--output_dir", tiny / "tmp", "--do_lower_case", "--max_seq_length", 24, "--no_cuda"])
    evaluated = lines(tiny / "tmp" / "metrics.jsonl")
    assert len(evaluated) == 2 and evaluated[0] == evaluated[1]
    assert evaluated[0]["acc"] == max(scores), "the best checkpoint is the one that is kept"
    assert evaluated[0]["acc_and_f1"] == pytest.approx((evaluated[0]["acc"] + evaluated[0]["f1"]) / 2)
    record = read_json(tiny / "stage2" / "run.json")
    assert record["finished"] and record["settings"]["learning_rate"] == 3e-5 and record["kept"]["acc"] == max(scores)


@pytest.mark.parametrize("padded", ["bert", "teacher_mrpc", "general", "config"])
def test_padded_word_embeddings(padded, tiny, script):
    """Teacher and student of the same pieces learn from each other whichever of them has rows for padding; a padded
    teacher teaches the same."""
    name, make, flags = {
        "bert": ("general_distill", general, {"student_model": tiny / "general", "continue_train": True}),
        "config": ("general_distill", general, {"student_model": tiny / "config"}),
        "teacher_mrpc": ("task_distill", train, {"student_model": tiny / "student_mrpc", "pred_distill": True}),
        "general": ("task_distill", train, {})}[padded]
    run(script, name, make(tiny, **flags, output_dir=tiny / "plain"))
    pieces = len(PIECES)
    if padded == "config":
        edit_config(tiny / "config", vocab_size=pieces + 6)
        out = run(script, "task_distill", train(tiny, student_model=tiny / "config", from_scratch=True,
                                                output_dir=tiny / "scratch"))
        assert out.count(f"{tiny / padded}/config.json says vocab_size {pieces + 6}: {pieces} is taken") == 1
    else:
        pad_embeddings(tiny / padded, 6)
    out = run(script, name, make(tiny, **flags))
    said = f"/config.json says vocab_size {pieces + 6}: {pieces} is taken" if padded == "config" else \
        f": {pieces + 6} word embeddings for {pieces} pieces"
    assert out.count(f"{tiny / padded}{said}") == 1
    if padded in ("bert", "teacher_mrpc"):
        assert_equal_weights(tiny / "out", tiny / "plain", 0)
    rows = len(read_weights(tiny / "out")["bert.embeddings.word_embeddings.weight"])
    assert rows == read_json(tiny / "out" / "config.json")["vocab_size"]
    assert rows == pieces + (6 if padded == "general" else 0)  # a random student is made for its teacher's
    assert (tiny / "out" / "vocab.txt").read_text().splitlines() == PIECES


def scoring(tiny, model) -> list:
    """Arguments of --do_eval, without --do_lower_case."""
    return ["--do_eval", "--data_dir", tiny / "glue" / "MRPC", "--task_name", "mrpc", "--student_model", model,
            "--output_dir", tiny / "tmp", "--max_seq_length", 24, "--no_cuda"]


def test_a_tokenizer_json_does_for_every_script_that_trains(tiny, script):
    """The same weights as with vocab.txt, and a folder that the next step reads."""
    runs = {"gd": ("general_distill", general(tiny, student_model=tiny / "general", continue_train=True)),
            "td": ("task_distill", train(tiny)), "ft": ("finetune_teacher", finetune(tiny, model=tiny / "bert"))}
    for out in ("plain", "table"):
        for folder, (name, arguments) in runs.items():
            run(script, name, [*arguments, "--output_dir", tiny / f"{out}_{folder}"])
        if out == "plain":
            without_vocab_txt(*(tiny / name for name in ("bert", "teacher_mrpc", "general")))
    for folder in runs:
        assert_equal_weights(tiny / f"plain_{folder}", tiny / f"table_{folder}", 0)
        assert (tiny / f"table_{folder}" / "vocab.txt").read_text().splitlines() == PIECES
    without_vocab_txt(tiny / "table_ft")
    run(script, "task_distill", scoring(tiny, tiny / "table_ft"))
    assert read_json(tiny / "table_ft" / "eval_results.json")["settings"]["do_lower_case"] is True


def test_a_cased_chain_needs_no_flag(tiny, script):
    """The start model's tokenizer_config.json tells the casing of the teacher, and the teacher's that of the student:
    the sentences, written with capitals, are read with them."""
    for path in (tiny / "glue/MRPC").glob("*.tsv"):
        path.write_text(path.read_text().replace(" cat ", " CAT "))
    (tiny / "bert" / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    teacher, task = tiny / "final_mrpc_teacher", {"teacher_model": tiny / "final_mrpc_teacher", "do_lower_case": None}
    out = run(script, "finetune_teacher", finetune(tiny, model=tiny / "bert"))
    assert out.count("keeping capitals, as with --cased") == 1 and " cased=True" in out and "[UNK]" in out
    run(script, "task_distill", scoring(tiny, teacher))
    found, notes = examine_run(teacher)
    assert found.stage == "teacher" and found.source == "eval_results.json" and notes == []
    out = run(script, "task_distill", train(tiny, **task))
    assert f"warning: of {tiny / 'general'} and {teacher} one is cased" in out
    out = run(script, "task_distill", train(tiny, **task, student_model=tiny / "out", pred_distill=True,
                                            output_dir=tiny / "student"))
    assert "one is cased" not in out
    for folder in (teacher, tiny / "out", tiny / "student"):
        assert load_tokenizer(folder).tokenize("CAT cat") == ["[UNK]", "cat"]
        settings = read_json(folder / "run.json")["settings"]
        assert settings["cased"] if folder == teacher else not settings["do_lower_case"]


@pytest.mark.parametrize("name,make,first,second", [
    ("task_distill", train, {"do_lower_case": None}, {"do_lower_case": True}),
    ("general_distill", general, {"do_lower_case": True}, {}), ("finetune_teacher", finetune, {"cased": True}, {})])
def test_a_stopped_run_goes_on_with_and_without_the_flag(name, make, first, second, tiny, script, monkeypatch):
    flags = {"save_steps": 1, "output_dir": tiny / "out"}
    if name == "finetune_teacher":
        flags["model"] = tiny / "bert"
        make_cased(tiny / "bert")
    with monkeypatch.context() as patch:
        step, steps = BertAdam.step, itertools.count()

        def stopped(self, *args):
            if next(steps) == 2:
                raise KeyboardInterrupt
            return step(self, *args)
        patch.setattr(BertAdam, "step", stopped)
        assert script(name, *make(tiny, **flags, **first))[0] == 130
    out = run(script, name, make(tiny, **flags, **second, resume=True))
    assert "going on from" in out and read_json(tiny / "out" / "run.json")["resumed_from"] == 2


def _folder_of(weights, folder):
    folder.mkdir()
    weights.rename(folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize("stage", [{}, {"pred_distill": True}])
def test_accumulation_does_not_change_task_distillation(stage, tiny, script):
    without_dropout(tiny, "general", "teacher_mrpc")
    for accumulation in (1, 4):
        run(script, "task_distill", train(tiny, gradient_accumulation_steps=accumulation, learning_rate=1e-2,
                                          output_dir=tiny / f"out{accumulation}", **stage))
    # the classifier of a general student is random, so the seed must make it the same
    assert_equal_weights(tiny / "out1", tiny / "out4", 2e-6)
    before = read_weights(tiny / "general")["bert.encoder.layer.0.output.dense.weight"]
    moved = (read_weights(tiny / "out1")["bert.encoder.layer.0.output.dense.weight"] - before).abs().max()
    assert moved > 1e-3


def test_accumulation_and_reduced_memory_do_not_change_general_distillation(tiny, script):
    without_dropout(tiny, "config", "bert")
    for name, changes in (("plain", {}), ("accumulated", {"gradient_accumulation_steps": 2}),
                          ("mapped", {"reduce_memory": True})):
        run(script, "general_distill", general(tiny, output_dir=tiny / name, learning_rate=1e-2, **changes))
    assert_equal_weights(tiny / "plain", tiny / "accumulated", 2e-6)
    assert_equal_weights(tiny / "plain", tiny / "mapped", 0)
    assert not [path for path in (tiny / "mapped").iterdir() if path.is_dir()]


def test_same_seed_same_bytes_other_seed_other_student(tiny, script):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(script, "general_distill", general(tiny, output_dir=tiny / name, seed=seed))
    assert_equal_weights(tiny / "a", tiny / "b", 0)
    name = "bert.encoder.layer.0.output.dense.weight"
    assert not torch.equal(read_weights(tiny / "a")[name], read_weights(tiny / "c")[name])


def test_continue_train_starts_from_the_weights(tiny, script):
    run(script, "general_distill", general(tiny, student_model=tiny / "general", continue_train=True,
                                           learning_rate=1e-9, weight_decay=0, output_dir=tiny / "on"))
    assert_equal_weights(tiny / "on", tiny / "general", 1e-6)


def test_fraction_of_an_epoch(tiny, script):
    run(script, "general_distill", general(tiny, num_train_epochs=1.5))
    assert read_json(tiny / "out" / "run.json")["steps"] == 3  # 2 steps of 8 in 20 sequences, then half of 2


def test_general_distillation_equals_a_plain_loop(tiny, script):
    """Four steps written out: same batches, losses summed, gradients clipped per tensor, warm-up and linear decay."""
    from transformer.modeling import BertModel
    without_dropout(tiny, "general", "bert")
    run(script, "general_distill", general(tiny, student_model=tiny / "general", continue_train=True,
                                           learning_rate=1e-2, warmup_proportion=0.5, eval_step=1))
    vocab = (tiny / "vocab.txt").read_text().splitlines()
    student = TinyBertForPreTraining.from_pretrained(tiny / "general", fit_size=16)
    teacher = BertModel.from_pretrained(tiny / "bert").eval()
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in student.named_parameters()}
    step = 0
    for epoch in range(2):
        instances = lines(tiny / "json" / f"epoch_{epoch}.json")
        for rows in shuffled_batches(20, 8, 42, epoch):
            ids, segments, mask = torch.zeros(3, 8, 32, dtype=torch.long)
            for b, row in enumerate(rows):
                for s, (token, segment) in enumerate(zip(instances[row]["tokens"], instances[row]["segment_ids"])):
                    ids[b, s], segments[b, s], mask[b, s] = vocab.index(token), segment, 1
            scores, hidden = student(ids, segments, mask)
            with torch.no_grad():
                teacher_hidden, teacher_scores, _ = teacher(ids, segments, mask)
            loss = sum(((a * (a > -100)) - (b * (b > -100))).square().mean()
                       for a, b in zip(scores, (teacher_scores[1], teacher_scores[3])))
            loss = loss + sum((a - b).square().mean() for a, b in zip(hidden, teacher_hidden[::2]))
            assert lines(tiny / "out" / "metrics.jsonl")[step]["loss"] == pytest.approx(loss.item(), abs=1e-4)
            student.zero_grad()
            loss.backward()
            rate = 1e-2 * (step / 4 / 0.5 if step / 4 < 0.5 else (1 - step / 4) / 0.5)
            for name, parameter in student.named_parameters():
                if parameter.grad is None:
                    continue
                gradient = parameter.grad * min(1.0, 1.0 / (parameter.grad.norm().item() + 1e-6))
                m, v = moments[name]
                m.mul_(0.9).add_(0.1 * gradient)
                v.mul_(0.999).add_(0.001 * gradient ** 2)
                decay = 0.0 if name.endswith("bias") or "LayerNorm" in name else 0.01
                parameter.data -= rate * (m / (v.sqrt() + 1e-6) + decay * parameter.data)
            step += 1
    assert step == 4
    wanted, trained = student.state_dict(), read_weights(tiny / "out")
    for name, tensor in wanted.items():
        torch.testing.assert_close(trained[name], tensor, rtol=0, atol=2e-5)


def test_best_checkpoint_is_kept_also_when_its_score_is_0(tiny, script):
    run(script, "task_distill", train(tiny, "CoLA", "cola", pred_distill=True, learning_rate=1e-9))
    record = read_json(tiny / "out" / "run.json")
    assert record["kept"]["mcc"] <= 0 and (tiny / "out" / "pytorch_model.bin").is_file()


def test_matched_set_stays_the_matched_set(tiny, script):
    dev = tiny / "glue" / "MNLI" / "dev_mismatched.tsv"
    rows = dev.read_text().splitlines()
    dev.write_text("\n".join([rows[0], *(row.rsplit("\t", 1)[0] + "\tneutral" for row in rows[1:])]) + "\n")
    evaluation = ["--do_eval", "--data_dir", tiny / "glue" / "MNLI", "--student_model", tiny / "student_mnli",
                  "--output_dir", tiny / "tmp", "--do_lower_case", "--max_seq_length", 24, "--no_cuda"]
    run(script, "task_distill", [*evaluation, "--task_name", "mnli-mm"])
    first = lines(tiny / "tmp" / "metrics.jsonl")[0]
    assert set(first) == {"task", "model", "acc", "acc_mismatched"} and first["acc"] != first["acc_mismatched"]
    # the same model with its classes in another order, which id2label tells
    state = read_weights(tiny / "student_mnli")
    for name in ("classifier.weight", "classifier.bias"):
        state[name] = state[name][[1, 2, 0]]
    write_bin(tiny / "student_mnli" / "pytorch_model.bin", state)
    edit_config(tiny / "student_mnli", id2label={"0": "ENTAILMENT", "1": "NEUTRAL", "2": "CONTRADICTION"})
    run(script, "task_distill", [*evaluation, "--task_name", "MNLI"])
    assert lines(tiny / "tmp" / "metrics.jsonl")[1] == first


def spy_on_training(monkeypatch):
    """Record (module in train mode, gradients on) of every classifier call, and the labels the prediction loss got."""
    modes, labels = set(), []
    forward = TinyBertForSequenceClassification.forward

    def spied_forward(self, *args, **kwargs):
        modes.add((self.training, torch.is_grad_enabled()))
        return forward(self, *args, **kwargs)

    def spied(loss, is_hard):
        def spied_loss(self, logits, targets, *others, **named):
            labels.append(targets if is_hard else None)
            return loss(self, logits, targets, *others, **named)
        return spied_loss

    monkeypatch.setattr(TinyBertForSequenceClassification, "forward", spied_forward)
    for kind in (Classes, Score):
        for name in ("hard_loss", "soft_loss"):
            monkeypatch.setattr(kind, name, spied(getattr(kind, name), name == "hard_loss"))
    return modes, labels


@pytest.mark.parametrize("preset,teacher_mode", [("paper", False), ("code", True)])
def test_presets_teacher_mode_in_general_distillation(preset, teacher_mode, tiny, script, monkeypatch):
    from transformer.modeling import BertModel
    modes, forward = set(), BertModel.forward

    def spied(self, *args, **kwargs):
        modes.add((self.training, torch.is_grad_enabled()))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(BertModel, "forward", spied)
    run(script, "general_distill", general(tiny, preset=preset))
    assert modes == {(True, True), (teacher_mode, False)}


@pytest.mark.parametrize("task,preset,gold,teacher_trains", [
    ("MRPC", "paper", False, False), ("MRPC", "code", False, True),
    ("STS-B", "paper", False, False), ("STS-B", "code", True, False)])  # who learns from labels asks no teacher
def test_presets_teacher_mode_and_regression_targets(task, preset, gold, teacher_trains, tiny, script, monkeypatch):
    modes, labels = spy_on_training(monkeypatch)
    run(script, "task_distill", train(tiny, task, get_task(task).key, pred_distill=True, preset=preset))
    # the student trains with gradients; the teacher's training calls have none; dev-set scoring is in eval mode
    assert modes == {(True, True), (False, False), *([(True, False)] if teacher_trains else [])}
    assert all((label is not None) == gold for label in labels) and labels


@pytest.mark.parametrize("task,stage,preset,epochs,length,rate", [
    ("CoLA", False, "paper", 50, 64, 5e-5), ("SST-2", False, "paper", 20, 64, 5e-5),
    ("MNLI", False, "paper", 10, 128, 5e-5), ("RTE", False, "paper", 20, 128, 5e-5),
    ("CoLA", True, "paper", 3, 64, 3e-5), ("MRPC", True, "code", 3, 128, 5e-5), ("CoLA", False, "code", 3, 128, 5e-5)])
def test_presets_fill_in_what_is_not_given(task, stage, preset, epochs, length, rate):
    base = ["--data_dir", "d", "--task_name", task, "--student_model", "s", "--teacher_model", "t", "--output_dir", "o",
            "--preset", preset, *(["--pred_distill"] if stage else [])]
    args = task_distill.parse_args(base)
    task_distill.resolve(args, get_task(task))
    assert (args.num_train_epochs, args.max_seq_length, args.learning_rate) == (epochs, length, rate)
    args = task_distill.parse_args([*base, "--num_train_epochs", "7", "--max_seq_length", "9", "--learning_rate", "1"])
    task_distill.resolve(args, get_task(task))
    assert (args.num_train_epochs, args.max_seq_length, args.learning_rate) == (7, 9, 1.0)


@pytest.mark.parametrize("preset,rate,batch", [("paper", 1e-4, 256), ("code", 5e-5, 32)])
def test_presets_of_general_distillation(preset, rate, batch):
    base = ["--pregenerated_data", "d", "--student_model", "s", "--teacher_model", "t", "--output_dir", "o",
            "--preset", preset]
    args = general_distill.parse_args(base)
    general_distill.resolve_preset(args)
    assert (args.learning_rate, args.train_batch_size, args.weight_decay) == (rate, batch, 0.01)
    args = general_distill.parse_args([*base, "--learning_rate", "1", "--train_batch_size", "7"])
    general_distill.resolve_preset(args)
    assert (args.learning_rate, args.train_batch_size) == (1.0, 7)


@pytest.mark.parametrize("preset,steps,share", [
    ("paper", 375_000, 10_000 / 375_000), ("paper", 100_000, 0.1), ("paper", 40, 0.1), ("code", 375_000, 0.1)])
def test_warm_up_of_general_distillation(preset, steps, share):
    assert general_distill.warmup_share(preset, steps) == share


@pytest.mark.parametrize("given", [None, 0.0])
def test_warm_up_that_is_not_given_follows_from_the_steps(given, tiny, script, monkeypatch):
    asked = []
    monkeypatch.setattr(general_distill, "warmup_share", lambda *facts: asked.append(facts) or 0.5)
    run(script, "general_distill", general(tiny, warmup_proportion=given, learning_rate=None, eval_step=1))
    assert asked == ([("paper", 4)] if given is None else [])
    settings = read_json(tiny / "out" / "run.json")["settings"]
    assert settings["warmup_proportion"] == (0.5 if given is None else 0.0)
    rates = [line["learning_rate"] for line in lines(tiny / "out" / "metrics.jsonl")]
    assert rates == pytest.approx([0, 5e-5, 1e-4, 5e-5] if given is None else [1e-4, 7.5e-5, 5e-5, 2.5e-5])


def test_paper_table_of_epochs_and_lengths():
    assert {t.name: (t.intermediate_epochs, t.max_seq_length) for t in (GLUE | SQUAD).values()} == {
        "CoLA": (50, 64), "SST-2": (20, 64), "MRPC": (20, 128), "STS-B": (20, 128), "QQP": (10, 128),
        "MNLI": (10, 128), "QNLI": (10, 128), "RTE": (20, 128), "WNLI": (20, 128),
        "SQuAD1": (20, 384), "SQuAD2": (20, 384)}


def test_left_out_losses(tiny, script):
    without_dropout(tiny, "general", "teacher_mrpc")

    def first_loss(name, *without):
        run(script, "task_distill", [*train(tiny, output_dir=tiny / name, eval_step=1),
                                     *(("--without", *without) if without else ())])
        first = lines(tiny / name / "metrics.jsonl")[0]
        return {name: first[name] for name in ("loss", "att_loss", "rep_loss")}

    full, attn = first_loss("full"), first_loss("a", "attn")
    embd, hidn = first_loss("e", "embd"), first_loss("h", "hidn")
    assert attn["att_loss"] == 0 and attn["rep_loss"] == pytest.approx(full["rep_loss"], abs=1e-5)
    # the hidden loss is the sum of its two parts
    assert embd["rep_loss"] + hidn["rep_loss"] == pytest.approx(full["rep_loss"], abs=1e-5)
    assert embd["rep_loss"] > 0 and hidn["rep_loss"] > 0
    assert first_loss("t", "attn", "hidn") == {**hidn, "att_loss": 0.0, "loss": hidn["rep_loss"]}


@pytest.mark.parametrize("changes,flags", [
    ({"num_hidden_layers": 3}, ["--layer_mapping", "top"]),  # 3 layers under 4
    ({"num_attention_heads": 4}, ["--without", "attn"]),     # 4 heads under 2
    ({"num_hidden_layers": 3, "num_attention_heads": 4}, ["--without", "attn", "hidn"])])
def test_only_what_is_compared_has_to_fit(changes, flags, tiny, script, refused):
    """From a config to the prediction stage, which compares neither layers nor scores."""
    edit_config(tiny / "config", **changes)
    refused("general_distill", *general(tiny), words=("the student",))
    run(script, "general_distill", [*general(tiny, output_dir=tiny / "gd"), *flags])
    stage = {"student_model": tiny / "gd", "output_dir": tiny / "stage1"}
    refused("task_distill", *train(tiny, **stage), words=("the student",))
    run(script, "task_distill", [*train(tiny, **stage), *flags])
    run(script, "task_distill", train(tiny, student_model=tiny / "stage1", pred_distill=True))
    assert read_json(tiny / "out" / "run.json")["finished"]
    assert changes.items() <= read_json(tiny / "out" / "config.json").items()


def test_hard_labels(tiny, script, monkeypatch):
    _, labels = spy_on_training(monkeypatch)
    run(script, "task_distill", train(tiny, pred_distill=True, hard_labels=True))
    labels = labels[1:]  # the first call only tells which weights are trained
    assert len(labels) == 3 and sorted(torch.cat(labels).tolist()) == [0.0] * 16 + [1.0] * 8


def test_evaluation_leaves_the_training_record_alone(tiny, script):
    run(script, "task_distill", train(tiny, pred_distill=True))
    before = (tiny / "out" / "run.json").read_bytes()
    run(script, "task_distill", [
        "--do_eval", "--data_dir", tiny / "glue" / "MRPC", "--task_name", "mrpc", "--student_model", tiny / "out",
        "--output_dir", tiny / "out", "--do_lower_case", "--max_seq_length", 24, "--no_cuda"])
    assert (tiny / "out" / "run.json").read_bytes() == before
    assert read_json(tiny / "out" / "eval_results.json")["values"]["acc"] == \
        read_json(tiny / "out" / "run.json")["kept"]["acc"]


def test_overwriting_starts_the_logs_afresh(tiny, script):
    for _ in range(2):
        run(script, "general_distill", general(tiny, overwrite_output_dir=True))
    assert len(lines(tiny / "out" / "metrics.jsonl")) == 1
    run(script, "general_distill", general(tiny, overwrite_output_dir=True, num_train_epochs=1))
    assert [path.name for path in (tiny / "out").glob("step_*")] == ["step_2_pytorch_model.bin"]


@pytest.mark.parametrize("keep,left", [(None, [3, 4]), (1, [4]), (3, [2, 3, 4]), (0, [1, 2, 3, 4])])
def test_checkpoints_of_general_distillation_are_thinned(keep, left, tiny, script):
    run(script, "general_distill", general(tiny, eval_step=1, keep_checkpoints=keep))
    assert sorted(path.name for path in (tiny / "out").glob("step_*")) == [f"step_{n}_pytorch_model.bin" for n in left]
    assert_equal_weights(tiny / "out", _folder_of(tiny / "out" / "step_4_pytorch_model.bin", tiny / "last"), 0)


def test_checkpoints_of_before_a_stop_are_thinned(tiny, script, monkeypatch):
    step, calls = BertAdam.step, []

    def stepped(self):
        step(self)
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(BertAdam, "step", stepped)
    assert script("general_distill", *general(tiny, eval_step=1, keep_checkpoints=0))[0] == 128 + signal.SIGTERM
    assert len(list((tiny / "out").glob("step_*"))) == 2
    run(script, "general_distill", general(tiny, eval_step=1, keep_checkpoints=1, resume=True))
    assert [path.name for path in (tiny / "out").glob("step_*")] == ["step_4_pytorch_model.bin"]


def test_a_number_of_checkpoints_below_0(tiny, refused):
    refused("general_distill", *general(tiny), "--keep_checkpoints=-1", words=("--keep_checkpoints", "-1 is not"))


def spoil_line(tiny, monkeypatch):
    text = (tiny / "json" / "epoch_1.json").read_text().splitlines()
    (tiny / "json" / "epoch_1.json").write_text("\n".join([*text[:6], text[6][:50], *text[7:]]) + "\n")


def spoil_count(tiny, monkeypatch):
    (tiny / "json" / "epoch_1_metrics.json").write_text('{"num_training_examples": 21, "max_seq_len": 32}')


def fill_disk(tiny, monkeypatch):
    append = GrowingFiles.append

    def refuse(self, *args, **record):
        if "epoch_1" in str(self.folder):
            raise OSError(errno.ENOSPC, "No space left on device", str(self.folder / "tokens"))
        append(self, *args, **record)

    monkeypatch.setattr(GrowingFiles, "append", refuse)


@pytest.mark.parametrize("spoil,words", [
    (spoil_line, ("epoch_1.json, line 7: not an instance",)), (fill_disk, ("No space left", "epoch_1.arrays")),
    (spoil_count, ("epoch_1.json holds 20 instances", "epoch_1_metrics.json says 21"))])
def test_an_epoch_that_cannot_be_used_is_found_before_the_first_step(spoil, words, tiny, refused, script, monkeypatch):
    run(script, "general_distill", general(tiny, num_train_epochs=1))
    spoil(tiny, monkeypatch)
    monkeypatch.setattr("transformer.optimization.BertAdam.step", None)
    refused("general_distill", *general(tiny, overwrite_output_dir=True, reduce_memory=True), words=words)
    assert (tiny / "out" / "step_2_pytorch_model.bin").is_file(), "the run before lost something for nothing"


@pytest.mark.parametrize("where", ["cache", "glue/MRPC/features"])
def test_encoded_examples_are_kept_and_found_again(where, tiny, script, monkeypatch):
    flags = {"aug_train": True, "cache_dir": tiny / where if where == "cache" else None}
    run(script, "task_distill", train(tiny, output_dir=tiny / "a", **flags))
    assert len(list((tiny / where).glob("mrpc_*"))) == 2  # train and dev
    monkeypatch.setattr("transformer.data.features.encode", None)  # nothing is tokenized again
    run(script, "task_distill", train(tiny, output_dir=tiny / "b", **flags))
    assert_equal_weights(tiny / "a", tiny / "b", 0)


def test_input_paths_with_and_without_data(tiny, script, monkeypatch):
    monkeypatch.chdir(tiny)
    (tiny / "data").mkdir()
    (tiny / "json").rename(tiny / "data" / "json")
    out = run(script, "general_distill", general(tiny, pregenerated_data="json"))
    assert "json does not exist: taking data/json" in out
    out = run(script, "task_distill", train(tiny, data_dir="data/glue/MRPC", output_dir=tiny / "out2"))
    assert "taking glue/MRPC" in out


def pregenerate(tiny, **flags) -> list:
    """Arguments of a pregenerate_training_data run for the teacher of general()."""
    sentences = ((sentence(i), sentence(i + 7), sentence(2 * i), "") for i in range(30))
    text = write_lines(tiny / "text", itertools.chain.from_iterable(sentences))
    return command_line({"train_corpus": text, "bert_model": tiny / "bert", "max_seq_len": 32,
                         "epochs_to_generate": 2} | flags)


@pytest.mark.parametrize("memory", [{}, {"reduce_memory": True}])
def test_arrays_and_json_give_the_same_student(memory, tiny, script):
    """Bit for bit; and of arrays nothing else is made."""
    for form, arrays in (("made_json", None), ("made_arrays", True)):
        run(script, "pregenerate_training_data", pregenerate(tiny, output_dir=tiny / form, masked_lm_prob=0.2,
                                                             arrays=arrays))
        run(script, "general_distill", general(tiny, pregenerated_data=tiny / form, output_dir=tiny / f"from_{form}",
                                               **memory))
    assert_equal_weights(tiny / "from_made_json", tiny / "from_made_arrays", 0)
    first, second = (read_json(tiny / f"from_{form}" / "run.json") for form in ("made_json", "made_arrays"))
    assert first["att_loss"] == second["att_loss"] > 0
    assert names(tiny / "made_arrays") == [
        ".lock", "epoch_0.instances", "epoch_0_metrics.json", "epoch_1.instances", "epoch_1_metrics.json",
        "tokenized_corpus"]


def test_arrays_that_fit_no_run_are_refused(tiny, script, refused):
    """Before the first step: another vocabulary, another casing, longer ones, and those that are not whole."""
    run(script, "pregenerate_training_data", pregenerate(tiny, output_dir=tiny / "made", arrays=True))
    flags = {"pregenerated_data": tiny / "made"}
    refused("general_distill", *general(tiny, **flags, max_seq_length=31),
            words=("epoch_0_metrics.json", "up to 32 wordpieces", "set it to 32"))
    vocab = (tiny / "bert" / "vocab.txt").read_text()
    (tiny / "bert" / "vocab.txt").write_text(vocab.replace("bird", "fish"))
    refused("general_distill", *general(tiny, **flags),
            words=("epoch_0.instances was generated with another vocabulary", "--bert_model"))
    (tiny / "bert" / "vocab.txt").write_text(vocab)
    os.truncate(tiny / "made" / "epoch_1.instances" / "tokens", 100)
    refused("general_distill", *general(tiny, **flags), words=("epoch_1.instances is not whole",))
    make_cased(tiny / "bert")
    refused("general_distill", *general(tiny, **flags), words=("epoch_0_metrics.json", "the teacher is cased"))
    assert not (tiny / "out" / "pytorch_model.bin").exists()


def test_general_distill_shows_examples_before_it_reads_the_next_epoch(tiny, script):
    """The arrays of a real epoch take long: whoever looks sees wrong data at once."""
    (tiny / "json" / "epoch_1.json").write_text("no instance\n")
    status, out, err = script("general_distill", *general(tiny))
    assert status == 2 and "epoch_1.json, line 1" in err and "example 0: [CLS]" in out


def test_finetune_teacher_learns_and_is_skipped_when_done(tiny, script):
    out = run(script, "finetune_teacher", finetune(tiny, model=tiny / "bert", learning_rate=2e-3, num_train_epochs=60))
    folder = tiny / "final_mrpc_teacher"
    record = read_json(folder / "run.json")
    assert record["finished"] and record["acc"] > record["before"]["acc"] and record["acc"] > 0.8, record
    assert read_json(folder / "config.json")["classifier_relu"] is True and "newly initialised" in out
    best = max(line["acc"] for line in lines(folder / "metrics.jsonl"))
    model = TinyBertForSequenceClassification.from_pretrained(folder, num_labels=2).eval()
    sequences = encode_file(get_task("mrpc"), tiny / "glue/MRPC/dev.tsv", load_tokenizer(folder, True), 24)
    processes = Processes(0, 1, torch.device("cpu"))
    answers, _ = evaluate(model, get_task("mrpc"), {"dev": sequences}, [0, 1], 5, processes)
    assert answers["acc"] == best
    weights = (folder / "pytorch_model.bin").read_bytes()
    assert "skipped" in run(script, "finetune_teacher", finetune(tiny))
    assert (folder / "pytorch_model.bin").read_bytes() == weights


def test_finetune_teacher_shows_loss_and_score(tiny, script):
    status, _, err = script("finetune_teacher", *finetune(tiny, model=tiny / "bert", num_train_epochs=1))
    line, = lines(tiny / "final_mrpc_teacher" / "metrics.jsonl")
    assert status == 0 and f"loss={line['loss']:.4f}, acc={line['acc']:.4f}]" in err


def test_finetune_teacher_keeps_a_head_with_its_convention(tiny, script):
    edit_config(tiny / "teacher_mnli", classifier_relu=False,
                id2label={"0": "neutral", "1": "contradiction", "2": "entailment"})
    head = read_weights(tiny / "teacher_mnli")["classifier.weight"]
    run(script, "finetune_teacher", finetune(tiny, tasks="MNLI", model=tiny / "teacher_mnli", learning_rate=1e-9))
    config = read_json(tiny / "final_mnli_teacher" / "config.json")
    assert config["classifier_relu"] is False and config["id2label"]["0"] == "contradiction"
    torch.testing.assert_close(read_weights(tiny / "final_mnli_teacher")["classifier.weight"], head[[1, 2, 0]],
                               rtol=0, atol=1e-6)


def test_finetune_regression(tiny, script):
    run(script, "finetune_teacher", finetune(tiny, tasks="STS-B", model=tiny / "bert"))
    record = read_json(tiny / "final_stsb_teacher" / "run.json")
    assert record["corr"] == pytest.approx((record["pearson"] + record["spearmanr"]) / 2)
    assert read_weights(tiny / "final_stsb_teacher")["classifier.weight"].shape == (1, 16)
