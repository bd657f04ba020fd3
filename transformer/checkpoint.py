"""Model folders: what the steps hand to each other. pytorch_model.bin, config.json, vocab.txt."""
from __future__ import annotations

from pathlib import Path

from transformer.files import InputError, atomic_write
from transformer.modeling import CONFIG_NAME, BertConfig, BertPreTrainedModel
from transformer.tokenization import BertTokenizer
from transformer.weights import SAFETENSORS_NAME, WEIGHTS_NAME, write_bin, write_safetensors

VOCAB_NAME = "vocab.txt"


def save_model(model: BertPreTrainedModel, folder: str | Path, vocab_file: str | Path,
               safetensors: bool = False) -> None:
    """Write a model folder that the next step reads, and that Hugging Face transformers reads too.

    Each file replaces its predecessor only when it is whole. safetensors: write model.safetensors as well.
    """
    folder = Path(folder)
    vocabulary = Path(vocab_file).read_bytes()
    state = model.state_dict()
    write_bin(folder / WEIGHTS_NAME, state)
    if safetensors:
        write_safetensors(folder / SAFETENSORS_NAME, state)
    model.config.extra.update(model_type="bert", architectures=[model.hf_architecture])
    model.config.to_json_file(folder / CONFIG_NAME)
    with atomic_write(folder / VOCAB_NAME, "wb") as handle:
        handle.write(vocabulary)


def load_tokenizer(folder: str | Path, do_lower_case: bool) -> BertTokenizer:
    """The tokenizer of a model folder, its vocabulary as large as config.json says; InputError otherwise.

    Warns when the vocabulary is uncased and the text is to stay cased: every capitalised word becomes [UNK].
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"model folder {folder} does not exist")
    tokenizer = BertTokenizer.from_pretrained(folder, do_lower_case=do_lower_case)
    vocab_size = BertConfig.from_json_file(folder / CONFIG_NAME).vocab_size
    if len(tokenizer.vocab) != vocab_size:
        raise InputError(f"{folder}: {VOCAB_NAME} has {len(tokenizer.vocab)} pieces and config.json says "
                         f"vocab_size {vocab_size}: the files do not belong together")
    if not do_lower_case and tokenizer.is_uncased:
        print(f"warning: {folder}/{VOCAB_NAME} is uncased and --do_lower_case is not given: "
              "capitalised words become [UNK]", flush=True)
    return tokenizer


def require_same_vocabulary(student: str | Path, teacher: str | Path) -> None:
    """InputError where two model folders have different vocabularies: the student could not learn from the teacher."""
    if load_tokenizer(student, True).vocab != load_tokenizer(teacher, True).vocab:
        raise InputError(f"student and teacher vocabularies differ: {Path(student) / VOCAB_NAME} and "
                         f"{Path(teacher) / VOCAB_NAME}")
