"""The chain with a teacher of another family, on tiny models; test_families.py holds what these models compute."""
from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers

from tests.augmentation.test_augmentation import POSITIONS, SENTENCES, VOCAB, found, naive_candidates
from tests.conftest import PIECES, TEACHER, TEACHERS, WORDS, finetune, general, lines, run, train, write_lines
from tests.export.test_export import put_relu
from transformer.checkpoint import load_encoder, load_tokenizer, save_model
from transformer.config import BertConfig
from transformer.data.features import encode_file
from transformer.files import read_json
from transformer.modeling import BertForMaskedLM, TinyBertForPreTraining, TinyBertForSequenceClassification
from transformer.tasks.table import get_task
from transformer.weights import read_weights

HF_CLASS = {"electra": "ElectraFor", "albert": "AlbertFor"}  # version 5 has none for a NEZHA


def hugging_face(kind, folder):
    """The model of a folder, of which no weight is missing and none is left over, in eval mode."""
    model, report = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()


def teacher_hidden(family, folder, ids, segments, mask):
    """Hidden states of a base model, of Hugging Face's where there is one."""
    if family == "nezha":
        return load_encoder(folder).eval()(ids, segments, mask)[0]
    model = hugging_face({"electra": "ElectraModel", "albert": "AlbertForMaskedLM"}[family], folder)
    return model(ids, mask, segments, output_hidden_states=True).hidden_states


def general_batch(tiny, length=32):
    """All instances of the last epoch: ids, segments, mask."""
    instances = lines(tiny / "json/epoch_1.json")
    batch = torch.zeros(3, len(instances), length, dtype=torch.int64)
    for row, instance in enumerate(instances):
        size = len(instance["tokens"])
        batch[0, row, :size] = torch.tensor([PIECES.index(token) for token in instance["tokens"]])
        batch[1, row, :size] = torch.tensor(instance["segment_ids"])
        batch[2, row, :size] = 1
    return batch


@pytest.mark.parametrize("family", TEACHERS)
def test_the_chain(family, tiny, script):
    """General distillation, augmentation, fine-tuning, both stages and the scores: the loss is that of the definition
    on Hugging Face's hidden states, the teacher's logits and score are those of Hugging Face's model, losses fall."""
    base, teacher, data = tiny / f"base_{family}", tiny / "fine_tuned", tiny / "glue/MRPC"
    run(script, "fix_teacher_layers", [base])
    run(script, "general_distill", general(tiny, teacher_model=base, output_dir=tiny / "general_student", do_eval=True,
                                           eval_batch_size=20, num_train_epochs=2, eval_step=1, learning_rate=1e-2))
    batch = general_batch(tiny)
    student = TinyBertForPreTraining.from_pretrained(tiny / "general_student", fit_size=TEACHER["hidden_size"]).eval()
    with torch.no_grad():
        hidden = teacher_hidden(family, base, *batch)
        learned = student(*batch)[1]
    wanted = sum((learned[layer] - hidden[2 * layer]).pow(2).mean().item() for layer in range(3))
    first, *_, last = lines(tiny / "general_student/metrics.jsonl")
    assert last["eval_rep_loss"] == pytest.approx(wanted, abs=1e-4) and wanted < 0.9 * first["eval_rep_loss"]

    glove = write_lines(tiny / "glove.txt", (f"{word} 1 {number}" for number, word in enumerate(WORDS)))
    masked_lm = tiny / "bert" if family == "electra" else base  # whose discriminator has no masked LM
    run(script, "data_augmentation", ["--pretrained_bert_model", masked_lm, "--glove_embs", glove, "--glue_dir",
                                      tiny / "glue", "--task_name", "MRPC", "--N", 2, "--no_cuda"])
    assert len((data / "train_aug.tsv").read_text().splitlines()) > 24

    out = run(script, "finetune_teacher", finetune(tiny, model=base, output_dir=teacher, num_train_epochs=4,
                                                   learning_rate=3e-3))
    assert "without relu" in out
    examples = encode_file(get_task("mrpc"), data / "dev.tsv", load_tokenizer(teacher, True), 24)
    batch = examples.batch(np.arange(24))
    with torch.no_grad():
        logits = TinyBertForSequenceClassification.from_pretrained(teacher, num_labels=2).eval()(*batch)[0]
        if family in HF_CLASS:
            theirs = hugging_face(f"{HF_CLASS[family]}SequenceClassification", teacher)
            torch.testing.assert_close(logits, theirs(batch[0], batch[2], batch[1]).logits, rtol=0, atol=1e-5)
    assert read_json(teacher / "config.json")["model_type"] == family
    accuracy = (logits.argmax(1).numpy() == examples.labels).mean()
    assert read_json(teacher / "run.json")["acc"] == pytest.approx(accuracy)

    stages = {"teacher_model": teacher, "aug_train": True, "learning_rate": 1e-2, "num_train_epochs": 3,
              "eval_step": 8}
    for student, output, stage in (("general_student", "between", {}), ("between", "out", {"pred_distill": True})):
        run(script, "task_distill", train(tiny, student_model=tiny / student, output_dir=tiny / output, **stages,
                                          **stage))
        first, *_, last = lines(tiny / output / "metrics.jsonl")
        name = "cls_loss" if stage else "rep_loss"
        assert last[name] < first[name]
    run(script, "task_distill", ["--do_eval", "--data_dir", data, "--task_name", "MRPC", "--student_model",
                                 tiny / "out", "--output_dir", tiny / "scores", "--max_seq_length", 24,
                                 "--do_lower_case", "--no_cuda"])
    student = hugging_face("BertForSequenceClassification", tiny / "out")
    put_relu(student)
    with torch.no_grad():
        logits = student(batch[0], batch[2], batch[1]).logits
    assert read_json(tiny / "out/eval_results.json")["values"]["acc"] == pytest.approx(
        (logits.argmax(1).numpy() == examples.labels).mean())


@pytest.mark.parametrize("family", TEACHERS)
def test_a_student_from_scratch(family, tiny, script):
    """Task distillation alone: the intermediate losses of random weights fall."""
    config = BertConfig.from_dict({**TEACHER, **TEACHERS[family]})
    save_model(TinyBertForSequenceClassification(config, 2), tiny / "teacher", tiny / "vocab.txt")
    run(script, "task_distill", train(tiny, student_model=tiny / "config", from_scratch=True, eval_step=3,
                                      teacher_model=tiny / "teacher", num_train_epochs=10, learning_rate=1e-2))
    first, *_, last = lines(tiny / "out/metrics.jsonl")
    assert last["rep_loss"] < 0.8 * first["rep_loss"] and last["att_loss"] < 0.8 * first["att_loss"]


def test_a_nezha_as_student(tiny, script):
    """Where its config says so: the family's own names stay through both stages."""
    config = json.loads((tiny / "config/config.json").read_text())
    (tiny / "config/config.json").write_text(json.dumps({**config, **TEACHERS["nezha"]}))
    save_model(TinyBertForSequenceClassification(BertConfig.from_dict({**TEACHER, **TEACHERS["nezha"]}), 2),
               tiny / "teacher", tiny / "vocab.txt")
    run(script, "task_distill", train(tiny, student_model=tiny / "config", from_scratch=True,
                                      teacher_model=tiny / "teacher", output_dir=tiny / "between"))
    out = run(script, "task_distill", train(tiny, student_model=tiny / "between", teacher_model=tiny / "teacher",
                                            pred_distill=True, hf_head=True))
    assert f"--hf_head: the classifier of {tiny / 'between'} has no relu anyway" in out
    names = {name.split(".")[0] for name in read_weights(tiny / "out")}
    assert names == {"nezha", "classifier"}
    assert read_json(tiny / "out/config.json")["max_relative_position"] == 3


def test_candidates_of_an_albert_are_those_of_the_naive_way(tmp_path):
    """On Hugging Face's model, word by word."""
    torch.manual_seed(3)
    sizes = {"vocab_size": len(VOCAB), "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
             "intermediate_size": 40, "max_position_embeddings": POSITIONS, "initializer_range": 0.4}
    model = BertForMaskedLM(BertConfig.from_dict({**sizes, **TEACHERS["albert"]}))
    save_model(model, tmp_path / "albert", write_lines(tmp_path / "vocab.txt", VOCAB))
    candidates, numbers, _ = found(tmp_path / "albert", tmp_path, SENTENCES, 6)
    compared = 0
    for sentence, number in zip(SENTENCES, numbers, strict=True):
        _, replacements, _ = candidates.find(sentence, number)
        for word, best in naive_candidates(tmp_path / "albert", sentence.split(), 6).items():
            assert replacements[word] == best, (sentence, word)
            compared += 1
    assert compared > 60
