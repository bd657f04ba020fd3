"""Articles of the embedded world as a MediaWiki XML dump, with the markup that an extractor has to take away."""
from __future__ import annotations

import bz2
import random
from collections.abc import Iterable
from pathlib import Path
from xml.sax.saxutils import escape

from .language import REGIONS, Article

_HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="{language}">
  <siteinfo>
    <sitename>Miniworld</sitename>
    <dbname>miniworld</dbname>
    <base>http://localhost/wiki/Main_Page</base>
    <generator>tests.miniworld</generator>
    <case>first-letter</case>
    <namespaces>
      <namespace key="0" case="first-letter" />
      <namespace key="10" case="first-letter">Template</namespace>
      <namespace key="14" case="first-letter">Category</namespace>
    </namespaces>
  </siteinfo>
"""
TEMPLATES = {
    "Nowrap": '<span style="white-space:nowrap">{{{1}}}</span>',
    "Infobox": "{| class=\"infobox\"\n! Region\n| {{{region}}}\n|}",
}
LINKED = {word for values in REGIONS.values() for kind in ("town", "job", "goods") for word in values[kind]}


def markup(rng: random.Random, sentence: str) -> str:
    """The sentence with some of its words linked, wrapped in a template, or followed by a footnote."""
    words = sentence.split(" ")
    for index, word in enumerate(words):
        bare = word.rstrip(".,")
        if bare in LINKED and rng.random() < 0.3:
            link = f"[[{bare}]]" if rng.random() < 0.7 else f"[[{bare} (word)|{bare}]]"
            words[index] = (f"{{{{nowrap|{link}}}}}" if rng.random() < 0.2 else link) + word[len(bare):]
    note = "<ref>Chronicle, page 7.</ref>" if rng.random() < 0.1 else ""
    return " ".join(words) + note


def wikitext(rng: random.Random, article: Article) -> str:
    """The source of an article: infobox, sections of running text, a list, a table, a category."""
    sentences = [markup(rng, sentence) for sentence in article.sentences]
    plain_title = article.title.split(" (")[0]
    sentences[0] = sentences[0].replace(plain_title, f"'''{plain_title}'''", 1)
    half = len(sentences) // 2
    parts = [f"{{{{Infobox\n| region = {article.subject.region}\n}}}}" if article.subject else "",
             " ".join(sentences[:half]), "== More ==", " ".join(sentences[half:])]
    if rng.random() < 0.5:
        parts += ["{| class=\"wikitable\"", "! Year !! Number", "|-", f"| {rng.randint(1800, 1999)} || 7", "|}"]
    if rng.random() < 0.5:
        parts += ["== See also ==", *(f"* [[{town}]]" for town in rng.sample(sorted(LINKED), 3))]
    return "\n".join([*parts, f"[[Category:{article.kind.title()}]]"])


def page(number: int, title: str, namespace: int, text: str, redirect: str | None = None) -> str:
    """A page of a dump; redirect: the title of the page that it leads to."""
    note = f'    <redirect title="{escape(redirect)}" />\n' if redirect else ""
    return (f"  <page>\n    <title>{escape(title)}</title>\n    <ns>{namespace}</ns>\n    <id>{number}</id>\n{note}"
            f"    <revision>\n      <id>{number}</id>\n      <model>wikitext</model>\n"
            f"      <format>text/x-wiki</format>\n"
            f"      <text xml:space=\"preserve\">{escape(text)}</text>\n    </revision>\n  </page>\n")


def write_dump(path: Path, seed: int, articles: Iterable[Article]) -> None:
    """A .xml.bz2 dump of `articles`, their templates, and a redirect for every tenth one."""
    rng = random.Random(seed)
    pages = [(f"Template:{name}", 10, text, None) for name, text in TEMPLATES.items()]
    for index, article in enumerate(articles):
        pages.append((article.title, 0, wikitext(rng, article), None))
        if index % 10 == 0:
            pages.append((f"{article.title} (old name)", 0, f"#REDIRECT [[{article.title}]]", article.title))
    write_pages(path, [page(number, *parts) for number, parts in enumerate(pages, 1)])


def write_pages(path: Path, pages: Iterable[str], language: str = "en") -> None:
    """A .xml.bz2 dump of pages as page() makes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with bz2.open(path, "wt", encoding="utf-8", newline="\n") as handle:
        handle.write(_HEAD.replace("{language}", language))
        handle.writelines(pages)
        handle.write("</mediawiki>\n")
