"""Model folders: what the steps hand to each other. pytorch_model.bin, config.json, vocab.txt."""
from __future__ import annotations

from pathlib import Path

from transformer.config import CONFIG_NAME, BertConfig
from transformer.files import InputError, atomic_write, read_json
from transformer.modeling import BertPreTrainedModel
from transformer.tokenization import BertTokenizer
from transformer.weights import SAFETENSORS_NAME, WEIGHTS_NAME, write_bin, write_safetensors

VOCAB_NAME = "vocab.txt"
TOKENIZER_NAME = "tokenizer.json"  # of the package tokenizers; some models have it instead


def save_model(model: BertPreTrainedModel, folder: str | Path, vocab_file: str | Path,
               safetensors: bool = False) -> None:
    """Write a model folder that the next step reads, and that Hugging Face transformers reads too; see head_note().

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


def head_note(config: BertConfig, folder: str | Path) -> str:
    """One line for people: whether Hugging Face's class gives the logits of the classifier saved in `folder`."""
    if config.classifier_relu is not False:  # a new one has it, too
        return (f"{folder}: the classifier stands on relu(pooled). Hugging Face's BertForSequenceClassification has no "
                "relu and gives other logits until it is put in (README, Back to Hugging Face); --hf_head trains a "
                "classifier without it")
    return f"{folder}: Hugging Face's BertForSequenceClassification gives the same logits"


def write_vocab(tokenizer_file: str | Path, vocab_file: str | Path) -> None:
    """Make a vocabulary file, one piece a line in the order of the ids, from a tokenizer.json, atomically.

    Pieces that were added to the vocabulary are part of it. Raises InputError where the tokenizer is no WordPiece with
    the prefix ##, where the ids are not 0, 1, 2, ... or where a line cannot hold a piece.
    """
    content = read_json(tokenizer_file)
    model = content.get("model")
    try:
        if model.get("type", "WordPiece") != "WordPiece" or model.get("continuing_subword_prefix", "##") != "##":
            raise InputError(f"{tokenizer_file} is no WordPiece with the prefix ##, as BERT has: take another model")
        pieces = [*model["vocab"].items(), *((token["content"], token["id"])
                                             for token in content.get("added_tokens") or ())]
        vocab = dict(pieces)
        ids = sorted(vocab.values())
        if any(vocab[piece] != index for piece, index in pieces) or ids != list(range(len(ids))):
            raise InputError(f"{tokenizer_file}: the ids of its {len(ids)} pieces are not 0, 1, 2 and so on, each once")
        if any(not piece or "\n" in piece or "\r" in piece for piece in vocab):
            raise InputError(f"{tokenizer_file}: a piece is empty or holds the end of a line")
        lines = "".join(f"{piece}\n" for piece in sorted(vocab, key=vocab.get)).encode()
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(f"{tokenizer_file} holds no table of pieces of text and their ids: get it again") from None
    with atomic_write(vocab_file, "wb") as handle:
        handle.write(lines)


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
