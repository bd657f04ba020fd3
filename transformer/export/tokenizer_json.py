"""tokenizer.json, by which the package tokenizers, and all that is built on it, opens a tokenizer."""
from __future__ import annotations

from typing import Any

from transformer.tokenization import BertTokenizer


def tokenizer_json(tokenizer: BertTokenizer) -> dict[str, Any]:
    """The content of tokenizer.json for a BERT's tokenizer, in the format 1.0 of the package tokenizers.

    Its pieces are those of the package's own BERT, so what differs there from BERT's definition differs here, too: the
    Greek final sigma, special tokens within a word, characters that came after Unicode 8. Of a pair of which both texts
    are cut, and that leaves an odd number of pieces, the package gives the odd one to the second, BERT to the first.
    """
    names = tokenizer.SPECIALS
    begin, end = (tokenizer.ids_to_tokens[index] for index in (tokenizer.cls_id, tokenizer.sep_id))

    def special(name: str, segment: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": name, "type_id": segment}}

    def text(name: str, segment: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": segment}}

    single = [special(begin, 0), text("A", 0), special(end, 0)]
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": index, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True}
                         for index, name in sorted((tokenizer.vocab[name], name) for name in names)],
        # strip_accents null: where it lower-cases
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                       "strip_accents": None, "lowercase": tokenizer.do_lower_case},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing", "single": single, "pair": [*single, text("B", 1), special(end, 1)],
            "special_tokens": {name: {"id": name, "ids": [tokenizer.vocab[name]], "tokens": [name]}
                               for name in (begin, end)}},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": tokenizer.wordpiece_tokenizer.unk_token,
                  "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": tokenizer.wordpiece_tokenizer.max_input_chars_per_word,
                  "vocab": tokenizer.vocab}}
