"""Split the articles of an extracted Wikipedia dump into sentences: data/extracted_wiki -> data/wiki_for_bert.txt.

Reads every wiki_* file that `python -m wikiextractor.WikiExtractor DUMP --json -o data/extracted_wiki` wrote (one JSON
object a line, field `text`), in the order of their paths. Writes one sentence per line and an empty line between
articles, as pregenerate_training_data.py reads it. A long Chinese sentence takes several lines.
"""
from __future__ import annotations

import argparse
import contextlib
import html
import io
import itertools
import json
import re
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from html.entities import html5
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from transformer.cli import Parser, add_run_flags, positive, print_settings, run_script
from transformer.data.chinese import chinese_splitter
from transformer.data.language import NOT_SPLIT, guess_language
from transformer.data.parallel import in_order
from transformer.data.parts import FilePart, byte_ranges, decode_lines, line_number, read_range
from transformer.files import InputError, atomic_write, find_folder, require_no_file

if TYPE_CHECKING:
    from nltk.tokenize.punkt import PunktParameters

LANGUAGES = ("czech danish dutch english estonian finnish french german greek italian malayalam norwegian polish "
             "portuguese russian slovene spanish swedish turkish").split()  # those of NLTK's punkt_tab
DOWNLOAD_TIMEOUT = 20          # seconds without an answer before the Punkt model counts as out of reach
SAMPLE_CHARACTERS = 500_000    # of the corpus, to train a Punkt model on; more come no nearer to punkt_tab
SAMPLE_PARTS, SAMPLE_ARTICLES = 16, 50  # parts of the corpus, articles of each: to guess the language by
FILE_PART_BYTES = 1 << 20      # of an extracted file, a worker's task; WikiExtractor's files are about as big
REDIRECT = re.compile(r"\s*#\s*(redirect|重定向|重新導向)", re.IGNORECASE)
# whole ones alone: html.unescape() also takes names without their `;`, and `&copy=2` is part of an address
ENTITY = re.compile(r"&(#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[0-9A-Za-z]+);")
BACKUP = re.compile(r"~$|\.(bak|old|orig|save|sw[a-p]|tmp)$|\s")  # of editors and file managers, beside what they copy


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__.splitlines()[0])
    group = parser.add_argument_group("data")
    group.add_argument("--input_dir", type=Path, default=Path("data/extracted_wiki"),
                       help="folder with WikiExtractor's wiki_* files, at any depth")
    group.add_argument("--output_file", type=Path, default=Path("data/wiki_for_bert.txt"),
                       help="text file to write: a sentence per line, an empty line between articles")
    group.add_argument("--language", type=splittable, choices=[*LANGUAGES, "chinese"],
                       help="language of the articles: chooses the model of NLTK's punkt_tab that splits sentences, or "
                            "the splitter for Chinese (default: as the letters of a sample have it, English if Latin)")
    group.add_argument("--train_splitter", action="store_true",
                       help=f"train the sentence splitter on the first {SAMPLE_CHARACTERS:,} characters of the corpus "
                            "even where punkt_tab can be had")
    group.add_argument("--simplified", action="store_true",
                       help="of Chinese, turn traditional characters into simplified ones; needs the package opencc")
    group = parser.add_argument_group("machine (no effect on the result)")
    group.add_argument("--num_workers", type=positive, default=1, help="number of processes that split articles")
    add_run_flags(parser)
    return parser.parse_args(argv)


def splittable(language: str) -> str:
    """Type of a flag: ArgumentTypeError, with the reason, for a language that cannot be split."""
    if language in NOT_SPLIT:
        raise argparse.ArgumentTypeError(f"{language.title()} cannot be split: {NOT_SPLIT[language]}")
    return language


def find_extracted_files(folder: Path) -> list[Path]:
    """The wiki_* files below `folder` sorted by path; InputError if the folder or the files are missing."""
    how = "unpack a dump there with `python -m wikiextractor.WikiExtractor DUMP --json -o data/extracted_wiki`"
    try:
        folder = find_folder(folder)
    except InputError as error:
        raise InputError(f"{error}: {how}") from None
    candidates = sorted(path for path in folder.rglob("wiki_*") if path.is_file())
    files = [path for path in candidates if not BACKUP.search(path.name)]
    if len(files) < len(candidates):
        backups = [str(path) for path in candidates if path not in set(files)]
        print(f"passed over {len(backups)} backup files: {', '.join(backups[:3])}{', ...' * (len(backups) > 3)}",
              flush=True)
    if not files:
        raise InputError(f"{folder} holds no wiki_* files: {how}")
    compressed = [path for path in files if path.suffix]
    if compressed:
        raise InputError(f"{compressed[0]} is not a plain wiki_* file: run WikiExtractor without --compress")
    return files


def refuse_cut(part: FilePart) -> None:
    """InputError where the last line of a file, in this part of it, has no end and is cut short."""
    path, start, stop = part
    if read_range(path, stop - 1, stop) == b"\n":
        return
    content = read_range(path, start, stop)
    line_start = content.rfind(b"\n") + 1
    line = content[line_start:]
    with contextlib.suppress(ValueError, RecursionError):
        json.loads(line)
        return
    if line.lstrip().startswith(b"{"):
        raise InputError(f"{path}, line {line_number(path, start + line_start)}: cut short: the extraction was killed "
                         "while it wrote this file; run WikiExtractor again")


def unescape(text: str) -> str:
    """The text with the characters that its HTML entities stand for, once: `&amp;lt;` is `&lt;`."""
    return ENTITY.sub(lambda match: html.unescape(match[0]) if match[1][0] == "#" else
                      html5.get(f"{match[1]};", match[0]), text)


def read_texts(part: FilePart) -> Iterator[str]:
    """The `text` of every article in a part of a file; InputError names the file and line of a bad one.

    WikiExtractor writes &amp; &lt; &gt; for the characters themselves.
    """
    path, start, stop = part

    def bad_line(index: int, problem: str) -> InputError:
        return InputError(f"{path}, line {line_number(path, start) + index}: {problem}; run WikiExtractor with --json")

    for index, line in enumerate(decode_lines(path, start, read_range(path, start, stop))):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
            text.encode("utf-8")  # JSON can spell half of a surrogate pair, which no text file can hold
        except json.JSONDecodeError as error:
            raise bad_line(index, f"not a JSON object ({error.msg})") from None
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
            raise bad_line(index, "expected a JSON object with a string in the field `text`") from None
        yield unescape(text)


def train_splitter(parts: list[FilePart]) -> PunktParameters:
    """A Punkt model trained on the first articles of the corpus."""
    from nltk.tokenize.punkt import PunktTrainer
    trainer = PunktTrainer()
    seen = 0
    for text in (text for part in parts for text in read_texts(part)):
        trainer.train(text, finalize=False)
        seen += len(text)
        if seen >= SAMPLE_CHARACTERS:
            break
    print(f"Sentence splitter: a Punkt model trained on {seen:,} characters of the corpus", flush=True)
    return trainer.get_params()


def installed_splitter(language: str) -> PunktParameters:
    """NLTK's Punkt model of a language; LookupError where it is not installed."""
    import nltk
    from nltk.tokenize.punkt import load_punkt_params
    params = load_punkt_params(nltk.data.find(f"tokenizers/punkt_tab/{language}/"))
    print(f"Sentence splitter: NLTK's punkt_tab for {language.title()}", flush=True)
    return params


def load_splitter(language: str) -> PunktParameters | None:
    """NLTK's Punkt model of a language, downloaded unless it is there; None, with a warning, if it cannot be had."""
    with contextlib.suppress(LookupError):
        return installed_splitter(language)
    import nltk
    print(f"NLTK's punkt_tab for {language.title()} is not installed: downloading it", flush=True)
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)  # nltk itself would wait for ever
    problem = io.StringIO()
    try:
        nltk.download("punkt_tab", quiet=True, print_error_to=problem)
        return installed_splitter(language)
    except (LookupError, OSError) as error:
        reason = " ".join(problem.getvalue().replace("[nltk_data]", "").split()) or type(error).__name__
    finally:
        socket.setdefaulttimeout(timeout)
    print(f"warning: punkt_tab cannot be had ({reason}). The sentence splitter is trained on the corpus instead, "
          "so sentences may differ a little from those of punkt_tab; to have it, where there is a network: "
          "python -m nltk.downloader punkt_tab", flush=True)
    return None


def choose_language(args: argparse.Namespace, parts: list[FilePart]) -> str:
    """--language, or the one that a sample has; InputError where the other flags do not go with it."""
    step = -(-len(parts) // SAMPLE_PARTS) or 1
    language = args.language or guess_language(text for part in parts[::step]
                                               for text in itertools.islice(read_texts(part), SAMPLE_ARTICLES))
    if args.train_splitter and language == "chinese":
        raise InputError("--train_splitter trains a Punkt model, and Chinese is split without one: drop it")
    if args.simplified and language != "chinese":
        raise InputError(f"--simplified is for Chinese and the articles are {language.title()}: drop it")
    return language


split_text: Callable[[str], Iterable[str]]  # of a worker process


def start_splitting(params: PunktParameters | None, simplified: bool) -> None:
    """Make this process's sentence splitter; params: None for Chinese."""
    global split_text
    if params is None:
        split_text = chinese_splitter(simplified)
        return
    from nltk.tokenize.punkt import PunktSentenceTokenizer
    params.ortho_context = Counter(params.ortho_context)  # a defaultdict would keep every word it is asked for
    split_text = PunktSentenceTokenizer(params).tokenize


def split_part(part: FilePart) -> tuple[bytes, Counter]:
    """The articles of a part as they stand in the output file, and counts of what they hold and of those left out."""
    documents = []
    counts = Counter()
    for text in read_texts(part):
        if REDIRECT.match(text):
            counts["redirects"] += 1
            continue
        # Newlines inside a sentence become spaces: in the output they end sentences and documents.
        lines = [line for line in (" ".join(sentence.split()) for sentence in split_text(text)) if line]
        if lines:
            documents.append("\n".join(lines) + "\n")
            counts.update(articles=1, sentences=len(lines))
        else:
            counts["empty"] += 1
    return "\n".join(documents).encode(), counts


def main(argv: list[str] | None = None) -> None:
    """Write the corpus."""
    args = parse_args(argv)
    print_settings(args)
    require_no_file(args.output_file.parent)
    if args.output_file.is_dir():
        raise InputError(f"--output_file {args.output_file} is a folder: name the text file to write")
    files = find_extracted_files(args.input_dir)
    print(f"Splitting {len(files)} files below {args.input_dir} into sentences -> {args.output_file}", flush=True)
    parts = [(path, start, stop) for path in files for start, stop in byte_ranges(path, FILE_PART_BYTES)]
    for part in parts:
        refuse_cut(part)
    language = choose_language(args, parts)
    params = None if args.train_splitter or language == "chinese" else load_splitter(language)
    if params is None and language != "chinese":
        params = train_splitter(parts)

    counts = Counter()
    examples: list[str] = []
    worker_facts = (params, args.simplified)
    with atomic_write(args.output_file, "wb") as output, \
            contextlib.closing(in_order(split_part, parts, args.num_workers, start_splitting, worker_facts)) as results:
        for text, part_counts in tqdm(results, total=len(parts), unit=" MB", disable=None):
            output.write(b"\n" + text if text and counts["articles"] else text)
            counts += part_counts
            if len(examples) < 2:
                examples += [line for line in text.decode().split("\n") if line][:2 - len(examples)]
        if not counts["articles"]:
            raise InputError(f"none of the {counts.total()} articles below {args.input_dir} holds any text; "
                             "is it a whole dump?")
    for line in examples:
        print(f"  {line}")
    print(f"Wrote {args.output_file}: {counts['articles']:,} articles, {counts['sentences']:,} sentences; skipped "
          f"{counts['empty']:,} articles without text and {counts['redirects']:,} redirects", flush=True)


if __name__ == "__main__":
    sys.exit(run_script(main))
