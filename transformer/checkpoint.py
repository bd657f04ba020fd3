"""Model folders, which the steps hand to each other: weights, config.json, vocab.txt or spiece.model,
tokenizer_config.json."""
from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from transformer.config import CONFIG_NAME, BertConfig
from transformer.families import ELECTRA, model_type_of
from transformer.files import InputError, atomic_write, write_json
from transformer.modeling import HEADS, BertForMaskedLM, BertModel, BertPreTrainedModel
from transformer.pieces import Tokenizer
from transformer.tokenization import (
    TOKENIZER_CONFIG_NAME,
    open_tokenizer,
    resolve_casing,
    tokenizer_settings,
    vocab_path,
    vocabulary_content,
    vocabulary_names,
)
from transformer.weights import (
    SAFETENSORS_NAME,
    WEIGHTS_NAME,
    open_model_folder,
    own_names,
    read_model,
    write_bin,
    write_safetensors,
)


def load_encoder(folder: str | Path) -> BertModel:
    """The encoder of a model folder, of whatever family config.json says, without a pooler.

    What is printed, and the InputErrors, are those of BertModel.from_pretrained().
    """
    return BertModel.from_pretrained(folder, add_pooler=False)


def load_model(folder: str | Path, head: Any, new: tuple[str, ...] = (), **sizes: Any) -> BertPreTrainedModel:
    """The model of a folder, of whatever family config.json says, with a head of transformer.tasks.head.

    sizes: those of the class that the head does not tell, such as fit_size. `new`, what is printed, and the
    InputErrors are those of from_pretrained().
    """
    return head.model_class.from_pretrained(folder, new=new, **head.sizes, **sizes)


def load_masked_lm(folder: str | Path) -> BertForMaskedLM:
    """The model of a folder with its masked-LM head. What is printed, and the InputErrors, are those of
    from_pretrained(); where there is no such head, the error says which model to take."""
    try:
        return BertForMaskedLM.from_pretrained(folder)
    except InputError:
        require_masked_lm(folder)
        raise


def require_masked_lm(folder: str | Path) -> None:
    """InputError where the model of a folder has no masked-LM head; it says which model to take."""
    config, state = read_model(folder)
    if not any(name.startswith(HEADS["masked LM"]) for name in state):
        raise no_masked_lm(folder, config) from None


def no_masked_lm(folder: str | Path, config: BertConfig) -> InputError:
    """What is said of a model folder that cannot augment data; config: its own."""
    discriminator = ", as no ELECTRA's discriminator has" if config.family is ELECTRA else ""
    return InputError(f"{folder} has no masked-LM head, by which words are varied{discriminator}: take a model with "
                      "one, of the same vocabulary, such as bert-base-uncased")


def save_model(model: BertPreTrainedModel, folder: str | Path, source: str | Path, safetensors: bool = False,
               pickled: bool = True) -> None:
    """Write a model folder that the next step reads, and that Hugging Face transformers reads too; see head_note().

    source: the model folder, or vocabulary file, whose vocabulary and casing it has. Each file replaces its predecessor
    only when it is whole. safetensors: write model.safetensors as well; pickled: write pytorch_model.bin.
    """
    folder = Path(folder)
    (vocabulary_name, vocabulary), settings = vocabulary_content(source), tokenizer_settings(source)
    config = model.config
    state = own_names(model.state_dict(), config.family)
    if pickled:
        write_bin(folder / WEIGHTS_NAME, state)
    if safetensors:
        write_safetensors(folder / SAFETENSORS_NAME, state)
    config.extra.update(model_type=model_type_of(config.to_dict()),
                        architectures=[model.hf_architecture.replace("Bert", config.family.class_prefix)])
    config.to_json_file(folder / CONFIG_NAME)
    _write_bytes(folder / vocabulary_name, vocabulary)
    for other in {*vocabulary_names({})} - {vocabulary_name}:  # of a model that was here before
        (folder / other).unlink(missing_ok=True)
    write_json(folder / TOKENIZER_CONFIG_NAME, settings)


def head_note(config: BertConfig, folder: str | Path) -> str:
    """One line for people: whether Hugging Face's class gives the logits of the model of a task, of this config, that
    is saved in `folder`."""
    family = config.family
    # a model without a classifier has the head for spans
    kind = "QuestionAnswering" if config.classifier_relu is None else "SequenceClassification"
    hf_class = f"{family.class_prefix}For{kind}"
    if config.classifier_relu:
        return (f"{folder}: the classifier stands on relu(pooled). Hugging Face's {hf_class} has no relu and gives "
                "other logits until it is put in (docs/running.md, Back to Hugging Face); --hf_head trains a "
                "classifier without it")
    if family.hf_note:
        return f"{folder}: {family.hf_note}"
    return f"{folder}: Hugging Face's {hf_class} gives the same logits"


def model_sha256(model: BertPreTrainedModel, order: list[int] | None = None) -> str:
    """Hexadecimal SHA-256 of all that a model's answers follow from: the weights, wherever they came from, the sizes
    and rates that its config has, and, where it is given, the column of each class."""
    config = {name: value for name, value in vars(model.config).items() if name != "extra" and value is not None}
    digest = hashlib.sha256(json.dumps(config if order is None else [config, order], sort_keys=True).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def write_vocab(tokenizer_file: str | Path, vocab_file: str | Path) -> None:
    """Make a vocabulary file, one wordpiece a line in the order of the ids, from a tokenizer.json, atomically.

    Raises InputError as read_wordpieces() does.
    """
    _write_bytes(vocab_file, vocabulary_content(tokenizer_file)[1])


def _write_bytes(path: str | Path, content: bytes) -> None:
    with atomic_write(path, "wb") as handle:
        handle.write(content)


def tokenizer_files(folder: str | Path) -> list[str]:
    """Names of the files of a model folder that make its tokenizer."""
    config = [TOKENIZER_CONFIG_NAME] if (Path(folder) / TOKENIZER_CONFIG_NAME).is_file() else []
    return [vocab_path(folder).name, *config]


def load_tokenizer(folder: str | Path, do_lower_case: bool | None = None, cased: bool | None = None) -> Tokenizer:
    """The tokenizer of a model folder: of its vocabulary, which is of the size that config.json says, and its casing.

    do_lower_case, cased: flags, as in resolve_casing(), which says what is printed and refused; InputError also as
    open_model_folder() and Tokenizer.require_rows() raise it.
    """
    config = open_model_folder(folder)  # which says what is wrong with a folder that has no vocabulary either
    tokenizer = open_tokenizer(folder, resolve_casing(folder, do_lower_case, cased))
    tokenizer.require_rows(config.vocab_size, folder)
    return tokenizer


def require_same_vocabulary(student: str | Path, teacher: str | Path) -> None:
    """InputError where two model folders have different vocabularies: the student could not learn from the teacher.

    Of the student, what load_tokenizer() says is said; the teacher's tokenizer has been opened before.
    """
    student_tokenizer = load_tokenizer(student)
    teacher_tokenizer = open_tokenizer(teacher)
    if student_tokenizer.vocab_fingerprint != teacher_tokenizer.vocab_fingerprint:
        raise InputError(f"student and teacher vocabularies differ: {student_tokenizer.vocab_file} and "
                         f"{teacher_tokenizer.vocab_file}")
    if student_tokenizer.do_lower_case != teacher_tokenizer.do_lower_case:
        print(f"warning: of {student} and {teacher} one is cased, the other uncased: the teacher's casing is taken",
              flush=True)
