"""What a plan takes for granted of texts in each language, where no file is there yet that tells."""
from __future__ import annotations

import re
from dataclasses import dataclass

from transformer.config import BertConfig
from transformer.tasks.task import Task
from transformer.tokenization import CJK_CLASS


@dataclass(frozen=True)
class Language:
    """Figures of one language.

    wikipedia: in words; dump, articles, text: its bytes compressed, extracted and as sentences; first_article: bytes of
    the text of an article where the dump begins, with long ones; instances: of up to 128 wordpieces, that an epoch
    draws of it. bert, config: folder and sizes of the BERT that get_bert_models.py fetches. pieces: wordpieces of a
    word, word_bytes: bytes of one in UTF-8, with what stands `between` it and the next. masked: share of the words of a
    row that the masked LM is asked about. sentences, corpus, epochs: bytes of text a second that one core splits,
    tokenizes and makes instances of, with --arrays and as JSON; store: bytes of the tokenized corpus for one of text.
    """
    wikipedia: str
    bert: str
    config: BertConfig
    dump: float
    articles: float
    text: float
    first_article: int
    instances: int
    pieces: float
    word_bytes: int
    between: str
    masked: float
    sentences: float
    corpus: float
    epochs: dict[bool, float]
    store: float


BERT_BASE = BertConfig(30_522)
# An English Wikipedia (docs/data.md, "Disk and memory"), 3.2 billion wordpieces in its 2.5 billion words; the rates are
# measured (docs/results.md, "Corpus steps"). Of the words of RTE, CoLA, SST-2 and MRPC 47 to 55% are masked: others are
# stop words or numbers, or take their candidates from GloVe. The first 105 articles have 25,000 bytes each.
ENGLISH = Language(
    wikipedia="an English Wikipedia", bert="bert-base-uncased", config=BERT_BASE, dump=22e9, articles=17e9, text=15e9,
    first_article=25_000, instances=32_000_000, pieces=1.28, word_bytes=6, between=" ", masked=0.5, sentences=7e6,
    corpus=22e6, epochs={True: 22e6, False: 16e6}, store=7 / 15)
# A Chinese one, estimated. The dump is from memory, as much of it is text as of the English one; WikiExtractor writes
# six bytes for a character of three; instances hold 100 wordpieces, as in English. A character is a word. Wordpieces,
# share of other characters than stop characters and rates (processor time) were counted on ChnSentiCorp and OCNLI, the
# splitter's as docs/chinese.md says. That its first articles are as long beside the others as English ones is assumed.
CHINESE = Language(
    wikipedia="a Chinese Wikipedia of 3 GB compressed, which is from memory", bert="bert-base-chinese",
    config=BertConfig(21_128), dump=3e9, articles=4.5e9, text=2e9, first_article=15_000, instances=6_700_000,
    pieces=1.02, word_bytes=3, between="", masked=0.65, sentences=10.9e6, corpus=36e6, epochs={True: 14e6, False: 11e6},
    store=0.86)
BY_LANGUAGE = {"english": ENGLISH, "chinese": CHINESE}

_ROW_WORDS = {1: 10, 2: 25}  # of each text of a GLUE row with so many texts
# Words of a row, of all its texts, counted in official train files, and the shape of a gamma distribution that is as
# wide as theirs.
ROW_LENGTHS = {"rte": (52.4, 2.6), "sst2": (9.5, 1.3), "cola": (7.7, 4.6), "mrpc": (43.9, 17.6)}
# Of each text of a Chinese task: those of OCNLI and ChnSentiCorp counted, the others from memory.
_ROW_CHARACTERS = {"afqmc": 13, "tnews": 22, "iflytek": 290, "cmnli": 18, "ocnli": 17, "csl": 110, "cluewsc2020": 65,
                   "chnsenticorp": 105, "xnlizh": 20}

_WORD = re.compile(rf"[{CJK_CLASS}]|[^\s{CJK_CLASS}]+")


def usual_words(task: Task) -> int:
    """Words of each text of a task's rows."""
    texts = len(task.text_columns)
    if task.key in ROW_LENGTHS:
        return round(ROW_LENGTHS[task.key][0] / texts)
    return _ROW_CHARACTERS.get(task.key) or _ROW_WORDS[texts]


def count_words(text: str) -> int:
    """Words of a text: what stands between spaces, and each Chinese character."""
    return len(text.split()) if text.isascii() else len(_WORD.findall(text))
