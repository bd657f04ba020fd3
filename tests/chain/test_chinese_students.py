"""Chinese students: published general ones, new ones from the two config folders; capitals under their vocabulary."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor
from torch.nn import functional

import fix_teacher_layers
import get_bert_models
from tests.conftest import ROOT, lines, run, train, write_lines
from transformer.checkpoint import save_model
from transformer.config import BertConfig
from transformer.modeling import TinyBertForPreTraining, TinyBertForSequenceClassification
from transformer.tasks.labels import name_labels
from transformer.tasks.table import get_task
from transformer.tokenization import open_tokenizer, resolve_casing
from transformer.weights import read_weights

# As bert-base-chinese has them: no capitals but in <S> and <T>, and full-width letters.
PIECES = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<S>", "<T>", *"天地山水好书人大小看电影。，",
          *"abipt", "##p", "##hone", "ａ", *(f"##{character}" for character in "天地山水")]
HEADS, WIDTH, TEACHER_WIDTH, INNER = 12, 24, 48, 40
SIZES = {"vocab_size": len(PIECES), "num_attention_heads": HEADS, "max_position_embeddings": 32, "type_vocab_size": 2,
         "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "hidden_act": "gelu",
         "initializer_range": 0.2}
TEXTS = ["天地好，山水大。", "书 iPhone 好看", "看电影", "大小人书Ａ，天地山水天地山水。"]


def published_state(width: int) -> dict[str, Tensor]:
    """Random weights of two layers by the names and shapes of the published file."""
    generator = torch.Generator().manual_seed(width)
    vocab = len(PIECES)
    linear = {"bert.pooler.dense": (width, width), "cls.predictions.transform.dense": (width, width),
              "cls.seq_relationship": (2, width), "fit_dense": (TEACHER_WIDTH, width)}
    norms = ["bert.embeddings.LayerNorm", "cls.predictions.transform.LayerNorm"]
    for number in range(2):
        layer = f"bert.encoder.layer.{number}"
        linear |= {f"{layer}.attention.{part}": (width, width)
                   for part in ("self.query", "self.key", "self.value", "output.dense")}
        linear |= {f"{layer}.intermediate.dense": (INNER, width), f"{layer}.output.dense": (width, INNER)}
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    sizes = {f"bert.embeddings.{name}_embeddings.weight": (rows, width)
             for name, rows in (("word", vocab), ("position", 32), ("token_type", 2))}
    for name, shape in linear.items():
        sizes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name in norms:
        sizes |= {f"{name}.gamma": (width,), f"{name}.beta": (width,)}
    sizes["cls.predictions.bias"] = (vocab,)
    state = {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in sizes.items()}
    state["cls.predictions.decoder.weight"] = state["bert.embeddings.word_embeddings.weight"].clone()
    return state


def published(folder: Path, width: int) -> Path:
    """A folder as the hub's of a general Chinese TinyBERT, in small."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({
        **SIZES, "hidden_size": width, "num_hidden_layers": 2, "intermediate_size": INNER, "cell": {},
        "emb_size": width, "pre_trained": "", "structure": []}))
    write_lines(folder / "vocab.txt", PIECES)
    torch.save(published_state(width), folder / "pytorch_model.bin")
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Of ChnSentiCorp a folder of tables and a teacher of 4 layers."""
    folder = tmp_path_factory.mktemp("chinese")
    torch.manual_seed(0)
    task = get_task("ChnSentiCorp")
    config = BertConfig(hidden_size=TEACHER_WIDTH, num_hidden_layers=4, intermediate_size=INNER, **SIZES)
    name_labels(config.extra, task)
    save_model(TinyBertForSequenceClassification(config, 2), folder / "teacher_chnsenticorp",
               write_lines(folder / "vocab.txt", PIECES))
    for file in ("train.tsv", *task.dev_files):
        write_lines(folder / "glue" / task.name / file,
                    ["label\ttext_a", *(f"{number % 2}\t{text}" for number, text in enumerate(TEXTS))])
    return folder


def hidden_states(state: dict[str, Tensor], width: int, layers: int, batch: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Those of Hugging Face's BERT, embedding output first."""
    config = transformers.BertConfig(**SIZES, hidden_size=width, num_hidden_layers=layers, intermediate_size=INNER)
    model = transformers.BertModel(config).eval()
    names = {name: name.replace("gamma", "weight").replace("beta", "bias") for name in state}
    model.load_state_dict({new.removeprefix("bert."): state[name] for name, new in names.items()
                           if name.startswith("bert.")}, strict=True)
    ids, mask = batch
    with torch.no_grad():
        return list(model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states)


def encoded(length: int) -> tuple[Tensor, Tensor]:
    """Ids and mask of TEXTS, by hand."""
    words = [["天", "地", "好", "，", "山", "水", "大", "。"], ["书", "i", "##p", "##hone", "好", "看"],
             ["看", "电", "影"], ["大", "小", "人", "书", "ａ", "，", *"天地山水天地山水", "。"]]
    rows = [["[CLS]", *row, "[SEP]"] for row in words]
    ids = torch.tensor([[PIECES.index(piece) for piece in row] + [0] * (length - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    return ids, mask


@pytest.mark.parametrize("name,width,mirror,fixed", [
    ("TinyBERT_4L_zh", WIDTH, True, False), ("TinyBERT_6L_zh", TEACHER_WIDTH, False, True)])
def test_published_students_learn_with_their_own_projection(name, width, mirror, fixed, world, tmp_path, script):
    """From a mirror or a folder, fixed or not, to the intermediate stage, whose first hidden loss is that of Hugging
    Face's BERT and the published fit_dense, also where the widths agree."""
    source = published(tmp_path / "huawei-noah" / name, width)
    origin = [f"huawei-noah/{name}", "--mirror", str(source.parent)] if mirror else [str(source)]
    get_bert_models.main(["--output_dir", str(tmp_path / "models"), "--models", *origin])
    student = tmp_path / "models" / name
    if fixed:
        fix_teacher_layers.main([str(student)])
    state = published_state(width)
    wanted = {name.replace("gamma", "weight").replace("beta", "bias"): tensor for name, tensor in state.items()}
    loaded = TinyBertForPreTraining.from_pretrained(student, fit_size=TEACHER_WIDTH).state_dict()
    assert loaded.keys() == wanted.keys() and all(torch.equal(loaded[key], wanted[key]) for key in wanted)

    out = tmp_path / "out"
    run(script, "task_distill", train(
        world, "ChnSentiCorp", "chnsenticorp", student_model=student, output_dir=out, train_batch_size=len(TEXTS),
        learning_rate=1e-3))
    # paper, equations 8 and 9: layers 0, 1, 2 of the student learn from 0, 2, 4
    batch = encoded(24)
    own = hidden_states(state, width, 2, batch)
    taught = hidden_states(read_weights(world / "teacher_chnsenticorp"), TEACHER_WIDTH, 4, batch)
    loss = sum(functional.mse_loss(own[m] @ state["fit_dense.weight"].T + state["fit_dense.bias"], taught[2 * m])
               for m in range(3))
    assert lines(out / "metrics.jsonl")[-1]["rep_loss"] == pytest.approx(loss.item(), rel=1e-4)
    after = read_weights(out)
    assert [key for key in after if key.startswith("fit")] == ["fit_dense.weight", "fit_dense.bias"]
    assert 0 < (after["fit_dense.weight"] - state["fit_dense.weight"]).abs().max() < 0.01  # it has learned a step


# Rows of embeddings and their norm; of each layer query, key, value and output of attention, two norms, the inner layer
# and its output; the pooler.
@pytest.mark.parametrize("config,parameters,megabytes", [
    ("tinybert_4l_config", (21128 + 512 + 2 + 2) * 312 + 4 * (
        4 * (312 * 312 + 312) + 2 * 2 * 312 + 312 * 1200 + 1200 + 1200 * 312 + 312) + 312 * 312 + 312, 47.1),
    ("tinybert_6l_config", (21128 + 512 + 2 + 2) * 768 + 6 * (
        4 * (768 * 768 + 768) + 2 * 2 * 768 + 768 * 3072 + 3072 + 3072 * 768 + 768) + 768 * 768 + 768, 244)])
def test_the_config_folders_make_chinese_students(config, parameters, megabytes, capsys):
    """Under a teacher with the vocabulary of bert-base-chinese: as many parameters as the published ones, whose files
    have so many megabytes with heads and fit_dense."""
    assert config != "tinybert_4l_config" or parameters == 11_419_320
    with torch.device("meta"):
        student = TinyBertForPreTraining.from_scratch(ROOT / config, BertConfig(21_128), fit_size=768)
    assert "vocab_size 30522: 21128 is taken, the teacher's" in capsys.readouterr().out
    assert student.bert.embeddings.word_embeddings.weight.shape[0] == 21128
    assert sum(weight.numel() for weight in student.bert.parameters()) == parameters
    size = 4e-6 * sum(weight.numel() for weight in student.parameters())
    assert size == pytest.approx(megabytes, rel=2e-3)


def test_capitals_are_no_unknown_words(tmp_path, capsys):
    """A vocabulary without capitals lower-cases; where tokenizer_config.json says otherwise, what will come is told."""
    texts = ["iPhone好", "IPHONE，天", "看B。", "Ａ", "天P地"]
    write_lines(tmp_path / "vocab.txt", PIECES)
    assert resolve_casing(tmp_path, do_lower_case=False) and "is uncased" in capsys.readouterr().out
    tokenizer = open_tokenizer(tmp_path)
    for text in texts:
        assert tokenizer.tokenize(text) == tokenizer.tokenize(text.lower()) and "[UNK]" not in tokenizer.tokenize(text)
    assert tokenizer.tokenize("iPhone天水，Ａ") == ["i", "##p", "##hone", "天", "水", "，", "ａ"]
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert not resolve_casing(tmp_path) and "capitalised words become [UNK]" in capsys.readouterr().out
    assert all("[UNK]" in open_tokenizer(tmp_path).tokenize(text) for text in texts)
