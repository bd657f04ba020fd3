"""Split the articles of an extracted Wikipedia dump into sentences: data/extracted_wiki -> data/wiki_for_bert.txt.

Reads every wiki_* file that `python -m wikiextractor.WikiExtractor DUMP --json -o data/extracted_wiki` wrote (one JSON
object a line, field `text`), in the order of their paths. Writes one sentence per line and an empty line between
articles, as pregenerate_training_data.py reads it.
"""
from __future__ import annotations

import argparse
import contextlib
import io
import json
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from transformer.cli import Parser, add_run_flags, print_settings, run_script
from transformer.files import InputError, atomic_write, find_input, read_lines

DOWNLOAD_TIMEOUT = 20          # seconds without an answer before the Punkt model counts as out of reach
SAMPLE_CHARACTERS = 4_000_000  # of the corpus, to train a Punkt model on: about 5 seconds


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__.splitlines()[0])
    group = parser.add_argument_group("data")
    group.add_argument("--input_dir", type=Path, default=Path("data/extracted_wiki"),
                       help="folder with WikiExtractor's wiki_* files, at any depth")
    group.add_argument("--output_file", type=Path, default=Path("data/wiki_for_bert.txt"),
                       help="text file to write: a sentence per line, an empty line between articles")
    group.add_argument("--train_splitter", action="store_true",
                       help="train the sentence splitter on the first 4 million characters of the corpus even where "
                            "NLTK's English model (punkt_tab) can be had")
    add_run_flags(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_args()  # --help and refused flags answer before the slow imports below

import nltk
from nltk.tokenize.punkt import PunktSentenceTokenizer, PunktTokenizer, PunktTrainer
from tqdm import tqdm


def find_extracted_files(folder: Path) -> list[Path]:
    """The wiki_* files below `folder` sorted by path; InputError if the folder or the files are missing."""
    how = "unpack a dump there with `python -m wikiextractor.WikiExtractor DUMP --json -o data/extracted_wiki`"
    try:
        folder = find_input(folder)
    except InputError as error:
        raise InputError(f"{error}: {how}") from None
    files = sorted(path for path in folder.rglob("wiki_*") if path.is_file())
    if not files:
        raise InputError(f"{folder} holds no wiki_* files: {how}")
    compressed = [path for path in files if path.suffix]
    if compressed:
        raise InputError(f"{compressed[0]} is not a plain wiki_* file: run WikiExtractor without --compress")
    return files


def read_texts(path: Path) -> Iterator[str]:
    """The `text` of every article in one of WikiExtractor's files; InputError names the file and line of a bad one."""
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
            text.encode("utf-8")  # JSON can spell half of a surrogate pair, which no text file can hold
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}: not a JSON object ({error.msg}); "
                             "run WikiExtractor with --json") from None
        except (KeyError, TypeError, AttributeError, UnicodeEncodeError, RecursionError):
            raise InputError(f"{path}, line {number}: expected a JSON object with a string in the field `text`; "
                             "run WikiExtractor with --json") from None
        yield text


def train_splitter(files: list[Path]) -> Callable[[str], list[str]]:
    """A Punkt sentence splitter trained on the first articles of the corpus."""
    trainer = PunktTrainer()
    seen = 0
    for text in (text for path in files for text in read_texts(path)):
        trainer.train(text, finalize=False)
        seen += len(text)
        if seen >= SAMPLE_CHARACTERS:
            break
    print(f"Sentence splitter: a Punkt model trained on {seen:,} characters of the corpus", flush=True)
    return PunktSentenceTokenizer(trainer.get_params()).tokenize


def load_splitter() -> Callable[[str], list[str]] | None:
    """NLTK's English Punkt model, downloaded unless it is there; None, with a warning, if it cannot be had."""
    with contextlib.suppress(LookupError):
        return PunktTokenizer("english").tokenize
    print("NLTK's punkt_tab is not installed: downloading it", flush=True)
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)  # nltk itself would wait for ever
    problem = io.StringIO()
    try:
        nltk.download("punkt_tab", quiet=True, print_error_to=problem)
        return PunktTokenizer("english").tokenize
    except (LookupError, OSError) as error:
        reason = " ".join(problem.getvalue().replace("[nltk_data]", "").split()) or type(error).__name__
    finally:
        socket.setdefaulttimeout(timeout)
    print(f"WARNING: punkt_tab cannot be had ({reason}). The sentence splitter is trained on the corpus instead, "
          "so sentences may differ a little from those of punkt_tab; to have it, where there is a network: "
          "python -m nltk.downloader punkt_tab", flush=True)
    return None


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    print_settings(args)
    files = find_extracted_files(args.input_dir)
    print(f"Splitting {len(files)} files below {args.input_dir} into sentences -> {args.output_file}", flush=True)
    splitter = None if args.train_splitter else load_splitter()
    if splitter is None:
        splitter = train_splitter(files)
    else:
        print("Sentence splitter: NLTK's punkt_tab for English", flush=True)

    articles = sentences = empty = 0
    shown: list[str] = []
    with atomic_write(args.output_file) as output:
        for path in tqdm(files, unit=" files", disable=None):
            for text in read_texts(path):
                # Newlines inside a sentence become spaces: in the output they end sentences and documents.
                lines = [line for line in (" ".join(sentence.split()) for sentence in splitter(text)) if line]
                if not lines:
                    empty += 1
                    continue
                output.write(("\n" if articles else "") + "\n".join(lines) + "\n")
                articles += 1
                sentences += len(lines)
                shown += lines[:2 - len(shown)]
        if not articles:
            raise InputError(f"none of the {empty} articles below {args.input_dir} holds any text; "
                             "is it a whole dump?")
    for line in shown:
        print(f"  {line}")
    print(f"Wrote {args.output_file}: {articles:,} articles, {sentences:,} sentences; "
          f"skipped {empty:,} articles without text (redirects and the like)", flush=True)


if __name__ == "__main__":
    sys.exit(run_script(main))
