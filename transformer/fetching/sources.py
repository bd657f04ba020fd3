"""What this kit downloads, as data: hosts, models, and the published files with their sizes, sums and licences.

Environment variables name other hosts: those of HOSTS.
"""
from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """A file, or a repository of the hub, at its default address. size (bytes) and sha256 are None where not known."""
    name: str  # of a file: as published; of a repository: the folder under models/
    url: str
    size: int | None
    sha256: str | None
    licence: str


HOSTS = {
    "HF_ENDPOINT": "https://huggingface.co",
    "GLUE_BASE": "https://dl.fbaipublicfiles.com/glue/data",
    "SENTEVAL_BASE": "https://dl.fbaipublicfiles.com/senteval/senteval_data",
    "SQUAD_BASE": "https://rajpurkar.github.io/SQuAD-explorer/dataset",
    "CLUE_BASE": "https://storage.googleapis.com/cluebenchmark/tasks",
    "OCNLI_BASE": "https://github.com/CLUEbenchmark/OCNLI/archive",
    "CHNSENTICORP_BASE": "https://raw.githubusercontent.com/ymcui/Chinese-BERT-wwm/master/data/chnsenticorp",
    "XNLI_BASE": "https://dl.fbaipublicfiles.com/XNLI",
}


def base_url(variable: str) -> str:
    """The address set by the environment variable `variable`, or its default in HOSTS; no slash at the end."""
    return (os.environ.get(variable) or HOSTS[variable]).rstrip("/")


_HUB, _GLUE, _SENTEVAL, _SQUAD, _CLUE, _OCNLI, _CHNSENTICORP = map(HOSTS.get, (
    "HF_ENDPOINT", "GLUE_BASE", "SENTEVAL_BASE", "SQUAD_BASE", "CLUE_BASE", "OCNLI_BASE", "CHNSENTICORP_BASE"))
OCNLI_ARCHIVE = "02d55cb3c7dc984682677b8dd81db6a1e4710720.zip"  # of the repository at this commit
_BERT = "google-bert/bert-base-uncased"
REVISIONS = {_BERT: "86b5e0934494bd15c9632b12f734a8a67f723594"}  # of hub repositories; the others: main
_BERT_FILES = f"{_HUB}/{_BERT}/resolve/{REVISIONS[_BERT]}"
_GLOVE = "https://nlp.stanford.edu/data"

_APACHE, _PDDL = "Apache-2.0", "PDDL 1.0"
_TASK = "terms of the original data set, see gluebenchmark.com"
_BY_SA = "CC BY-SA 4.0"
_UNKNOWN = "not stated by CLUE, see cluebenchmarks.com"
_AS_SQUAD = f"{_BY_SA}, as SQuAD"
_PAGE = "see the model's page on the hub"

_TABLE = [Source(name, f"{base}/{name}", size, sha256, licence) for base, licence, name, size, sha256 in [
    (_GLUE, _TASK, "CoLA.zip", 376971, "f212fcd832b8f7b435fb991f101abf89f96b933ab400603bf198960dfc32cbff"),
    (_GLUE, _TASK, "SST-2.zip", 7439277, "d67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa"),
    (_GLUE, _TASK, "QQP-clean.zip", 41696084, "40e7c862c04eb26ee04b67fd900e76c45c6ba8e6d8fab4f8f1f8072a1a3fbae0"),
    (_GLUE, _TASK, "STS-B.zip", 802872, "e60a6393de5a8b5b9bac5020a1554b54e3691f9d600b775bd131e613ac179c85"),
    (_GLUE, _TASK, "MNLI.zip", 312783507, "e7c1d896d26ed6caf700110645df426cc2d8ebf02a5ab743d5a5c68ac1c83633"),
    (_GLUE, _AS_SQUAD, "QNLIv2.zip", 10627589, "e634e78627a29adaecd4f955359b22bf5e70f2cbd93b493f2d624138a0c0e5f5"),
    (_GLUE, _TASK, "RTE.zip", 697150, "6bf86de103ecd335f3441bd43574d23fef87ecc695977a63b82d5efb206556ee"),
    (_GLUE, _TASK, "WNLI.zip", 28999, "ae0e8e4d16f4d46d4a0a566ec7ecceccfd3fbfaa4a7a4b4e02848c0f2561ac46"),
    (_GLUE, _TASK, "AX.tsv", 222257, "0e13510b1bb14436ff7e2ee82338f0efb0133ecf2e73507a697dc210db3f05fd"),
    (_GLUE, _TASK, "mrpc_dev_ids.tsv", 6222, "971d7767d81b997fd9060ade0ec23c4fc31cbb226a55d1bd4a1bac474eb81dc7"),
    (_SENTEVAL, _TASK, "msr_paraphrase_train.txt", 1047044,
     "60a9b09084528f0673eedee2b69cb941920f0b8cd0eeccefc464a98768457f89"),
    (_SENTEVAL, _TASK, "msr_paraphrase_test.txt", 441275,
     "a04e271090879aaba6423d65b94950c089298587d9c084bf9cd7439bd785f784"),
    (_SQUAD, _BY_SA, "train-v1.1.json", 30288272, "3527663986b8295af4f7fcdff1ba1ff3f72d07d61a20f487cb238a6ef92fd955"),
    (_SQUAD, _BY_SA, "dev-v1.1.json", 4854279, "95aa6a52d5d6a735563366753ca50492a658031da74f301ac5238b03966972c9"),
    (_SQUAD, _BY_SA, "train-v2.0.json", 42123633, "68dcfbb971bd3e96d5b46c7177b16c1a4e7d4bdef19fb204502738552dede002"),
    (_SQUAD, _BY_SA, "dev-v2.0.json", 4370528, "80a5225e94905956a6446d296ca1093975c4d3b3260f1d6c8f68bc2ab77182d8"),
    # CLUE's as Hugging Face's data sets recorded them until 2022. AFQMC's was replaced since, it seems, and nobody
    # recorded XNLI's: these come as files of which nothing is known.
    (_CLUE, _UNKNOWN, "tnews_public.zip", 5123575,
     "77c476e70cfe0b014a81b84c6e1db2142a8a2f52f4ae0a8216aa75e673933462"),
    (_CLUE, _UNKNOWN, "iflytek_public.zip", 6505938,
     "c59b961b29f1d0bad0c5e01aa62e4a61a80e9cfb980ce89b06c000851fbb3b06"),
    (_CLUE, _UNKNOWN, "cmnli_public.zip", 31404066,
     "3a3f3b1d3d27134cf11e585156f07fa050bd0a0836821c02696af0dbaa14513b"),
    (_CLUE, _UNKNOWN, "clue_diagnostics_public.zip", 12062,
     "56b52e70c195686557a966c6064c9bdc4dece1de8c89551f89ad046637e9a7c4"),
    (_CLUE, _UNKNOWN, "cluewsc2020_public.zip", 281384,
     "ebe5f357b19392d601be401b2fd4246983f534809a078eab7bda1de418fb3ffe"),
    (_CLUE, _UNKNOWN, "csl_public.zip", 3234594, "795d1a2e475d59acad8236f6c5baba7a0b43d3e0508cb60f15ffbc76d5f437c4"),
    (_OCNLI, "CC BY-NC 2.0", OCNLI_ARCHIVE, 4359754,
     "93abd5dbe417101d4c7526920fae59cc67969936c1868b1559fa4802839c49d0"),
    (_CHNSENTICORP, "not stated (of the repository around it: Apache-2.0)", "chnsenticorp.zip", 1756782,
     "79218af1c3efdfd3223569440736eac207ab6b19babd2cd73b7ffc04250700ba"),
    (_BERT_FILES, _APACHE, "model.safetensors", 440449768,
     "68d45e234eb4a928074dfd868cead0219ab85354cc53d20e772753c6bb9169d3"),
    (_BERT_FILES, _APACHE, "pytorch_model.bin", 440473133,
     "097417381d6c7230bd9e3557456d726de6e83245ec8b24f529f60198a67b203a"),
    (_BERT_FILES, _APACHE, "vocab.txt", 231508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
    (_BERT_FILES, _APACHE, "config.json", 570, "7160e1553ad2ca51d8c1cb066be533db31826e12d173824c1bb0cb1a4f187d20"),
    (_GLOVE, _PDDL, "glove.840B.300d.zip", None, "c06db255e65095393609f19a4cfca20bf3a71e20cc53e892aafa490347e3849f"),
]] + [Source(folder, f"{_HUB}/{repository}", None, None, licence) for folder, repository, licence in [
    ("bert-base-uncased", _BERT, _APACHE),
    *((f"bert-base-uncased-{task}", f"JeremiahZ/bert-base-uncased-{task}", _PAGE)  # fine-tuned on a task
      for task in ("mrpc", "sst2", "cola", "rte", "mnli", "qqp")),
    ("bert-base-uncased-squad1", "csarron/bert-base-uncased-squad-v1", _PAGE),
    ("bert-base-uncased-squad2", "deepset/bert-base-uncased-squad2", "CC BY 4.0"),
    ("distilled_tinybert_4l", "huawei-noah/TinyBERT_General_4L_312D", _PAGE),      # under the names that
    ("distilled_tinybert_6l", "huawei-noah/TinyBERT_General_6L_768D", _PAGE),      # general_distill.py's results have
    ("bert-base-chinese", "google-bert/bert-base-chinese", _APACHE),
    ("distilled_tinybert_4l_zh", "huawei-noah/TinyBERT_4L_zh", _PAGE),
    ("distilled_tinybert_6l_zh", "huawei-noah/TinyBERT_6L_zh", _PAGE),
]]

KNOWN_FILES = {source.url: source for source in _TABLE if source.sha256}
HUB_MODELS = {source.name: source.url.removeprefix(f"{_HUB}/") for source in _TABLE if not source.sha256}
# Trained on lower-cased text, as Google's code has it, whatever tokenizer_config.json at the hub says.
LOWER_CASED = ("google-bert/bert-base-chinese",)
DEFAULT_MODELS = tuple(HUB_MODELS)[:5]  # BERT-base and those fine-tuned on the four tasks of the reproduction
