"""Chinese articles: Wikipedia's markup of variants, simplified characters, and lines for instances."""
from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator

from transformer.files import InputError
from transformer.tokenization import CJK_CLASS

# Bytes of UTF-8 of a sentence that stays whole: 20 Chinese characters, or the Latin letters of as many wordpieces.
# Instances are cut off where the last of their lines does not fit, half a line on average: of whole sentences, some 40
# characters, a tenth of the text would be lost.
_LONGEST_LINE = 60
_LETTER = re.compile(r"[^\W_]")
_SENTENCE_MARKS = "。｡．！？；‼⁇⁈⁉"


def _mark(full_width: str, half_width: str) -> re.Pattern:
    """Finds a mark; a title and an address as a whole, so that no mark in them is found.

    A half-width mark does not count with ASCII on both sides, 12,000, nor with a space and Latin or a number behind it.
    All begins with one class of characters, which Python's re can search for quickly.
    """
    return re.compile(f"[{full_width}{half_width}《:](?:(?<=[{full_width}])|(?<=《)[^《》]{{1,80}}》|(?<=:)//[!-~]+|"
                      f"(?<=[{half_width}])(?:(?<![!-~].)(?<![!-~] .)|(?![!-~]| [0-9A-Za-z])))")


_SENTENCE_END = _mark(_SENTENCE_MARKS, "…⋯!?;")
_CLAUSE_END = _mark("，、：", ",:")
_GOES_WITH_END = frozenset(_SENTENCE_MARKS + "…⋯!?;" + "”’」』﹂﹄）】》〉〕］｝〗)]}")
_GOES_ON = frozenset("，、：,:")   # behind an end: the sentence is not over
# where a clause may be cut; titles and short brackets are matched whole, and stay so
_BREAK = re.compile(f"(?<=[{CJK_CLASS}）》])(?=[{CJK_CLASS}（《])|(?<= )|《[^《》]{{1,80}}》|（[^（）]{{1,20}}）")

_VARIANT_MARK = re.compile(r"(-\{|\}-)")
_VARIANT_FLAGS = re.compile(r"\s*(?:{0}\s*(?:;\s*{0}\s*)*)?\|".format(r"(?:[ATRDHN-]|zh(?:-\w+)*)"))
_VARIANT_NAME = re.compile(r"(?:^|;)(?:[^;:]*=>)?\s*(zh(?:-\w+)*)\s*:")


def resolve_variants(text: str) -> str:
    """The text with one of the variants that Wikipedia's `-{zh-hans:..;zh-hant:..}-` offers in place of each markup.

    That for zh-hans or zh-cn, or else the last; flags (`T|`) are dropped. Markup may be nested, and where it does not
    end it stays as it is.
    """
    around: list[list[str]] = [[]]  # of each markup that is open, what stands in it so far
    for token in _VARIANT_MARK.split(text):
        if token == "-{":
            around.append([])
        elif token == "}-" and len(around) > 1:
            chosen = _choose_variant("".join(around.pop()))
            around[-1].append(chosen)
        else:
            around[-1].append(token)
    return "-{".join(map("".join, around))


def _choose_variant(content: str) -> str:
    flags = _VARIANT_FLAGS.match(content)
    content = content[flags.end():] if flags else content
    names = list(_VARIANT_NAME.finditer(content))
    if not names or names[0].start():
        return content
    ends = [name.start() for name in names[1:]] + [len(content)]
    variants = {name[1]: content[name.end():end].strip(" ;") for name, end in zip(names, ends)}
    return variants.get("zh-hans", variants.get("zh-cn", [*variants.values()][-1]))


def chinese_splitter(simplified: bool) -> Callable[[str], Iterator[str]]:
    """What makes lines of an article: variants are chosen, then sentences are split.

    simplified: with traditional characters turned into simplified ones, by OpenCC; InputError where it is not
    installed.
    """
    if not simplified:
        return lambda text: chinese_lines(resolve_variants(text))
    try:
        import opencc
    except ImportError:
        raise InputError("--simplified needs OpenCC, which is not installed: pip install opencc") from None
    simplify = opencc.OpenCC("t2s").convert
    return lambda text: chinese_lines(simplify(resolve_variants(text)))


def chinese_lines(text: str) -> Iterator[str]:
    """The sentences of a text, as lines for instances; a long one in several.

    A sentence ends behind 。！？；… and their like, with quotes and brackets that close there, and where a line does.
    Marks in titles and addresses are no ends, nor are half-width ones between Latin letters or numbers. Of a sentence
    of more than some 20 characters the clauses share lines, and a longer clause is cut between characters. Nothing is
    lost but space.
    """
    for line in text.splitlines():
        for sentence in _cut_behind(" ".join(line.split()), _SENTENCE_END):
            if len(sentence.encode()) <= _LONGEST_LINE:
                yield sentence.strip()
            else:
                yield from _clause_lines(sentence)


def _cut_behind(line: str, marks: re.Pattern) -> Iterator[str]:
    """A line, cut behind its marks and what goes with them. A part without a letter goes with the next one."""
    start = counted = quotes = 0  # quotes: the straight ones in line[:counted]; behind an odd number one closes
    letter = _first_letter(line, start)
    for mark in marks.finditer(line):
        end = mark.end()
        if end <= max(counted, letter) or len(mark[0]) > 1:
            continue
        quotes, counted = quotes + line.count('"', counted, end), end
        while line[end:end + 1] in _GOES_WITH_END or line[end:end + 1] == '"' and quotes % 2:
            quotes += line[end] == '"'
            end = counted = end + 1
        if line[end:end + 1] not in _GOES_ON:
            yield line[start:end]
            start, letter = end, _first_letter(line, end)
    if line[start:]:
        yield line[start:]


def _first_letter(line: str, start: int) -> int:
    """Where the first letter from `start` on stands; the end of the line where there is none."""
    letter = _LETTER.search(line, start)
    return letter.start() if letter else len(line)


def _clause_lines(sentence: str) -> Iterator[str]:
    """A long sentence as lines of clauses."""
    line, size = "", 0
    for clause in _cut_behind(sentence, _CLAUSE_END):
        for piece in _even_pieces(clause):
            more = len(piece.encode())
            if line and size + more > _LONGEST_LINE:
                yield line.strip()
                line, size = "", 0
            line, size = line + piece, size + more
    yield line.strip()


def _even_pieces(clause: str) -> Iterator[str]:
    """A clause, or as many pieces of about one length as bring each under _LONGEST_LINE."""
    count = -(-len(clause.encode()) // _LONGEST_LINE)
    breaks = [match.start() for match in _BREAK.finditer(clause)] if count > 1 else []
    start = 0
    for number in range(1, count if breaks else 1):
        wanted = len(clause) * number // count
        after = bisect_left(breaks, wanted)
        end = min(breaks[max(after - 1, 0):after + 1], key=lambda place: abs(place - wanted))
        if end > start:
            yield clause[start:end]
            start = end
    yield clause[start:]
