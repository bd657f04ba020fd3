"""A document of headings, paragraphs, tables and pictures, as Markdown and as one HTML page that needs nothing else."""
from __future__ import annotations

import base64
import html
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote


@dataclass(frozen=True)
class Link:
    """A link to a file or folder; `small` ones stand above the line, as the number of a footnote does."""
    text: str
    path: Path
    small: bool = False


Inline = str | Link | list  # a text, a link, or a list of them


@dataclass(frozen=True)
class Heading:
    """A heading of the second level; on the HTML page it is also a link in the list on top."""
    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph."""
    content: Inline


@dataclass(frozen=True)
class Table:
    """`groups`: (heading, number of columns) for each run of columns, over `header`; `align`: l or r by column.
    `note` stands below."""
    header: list[str]
    rows: list[list[Inline]]
    align: str
    groups: tuple[tuple[str, int], ...] = ()
    note: Inline = ""


@dataclass(frozen=True)
class Pictures:
    """PNG files with their captions, (path, alternative text, caption)."""
    items: list[tuple[Path, str, Inline]]


Block = Heading | Text | Table | Pictures


def _target(path: Path, folder: Path) -> str:
    """A relative link from `folder`, with / between its parts."""
    relative = Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    return quote(relative + "/" if path.is_dir() else relative)


def _markdown_text(content: Inline, folder: Path) -> str:
    if isinstance(content, list):
        return "".join(_markdown_text(part, folder) for part in content)
    if isinstance(content, Link):
        link = f"[{_markdown_text(content.text, folder)}]({_target(content.path, folder)})"
        return f"<sup>{link}</sup>" if content.small else link
    text = re.sub(r"([\\`*\[\]|])", r"\\\1", content.replace("&", "&amp;").replace("<", "&lt;"))
    return " ".join(text.split("\n"))


def to_markdown(title: str, blocks: list[Block], folder: Path) -> str:
    """The document as GitHub's Markdown; links and pictures are relative to `folder`."""
    def text(content: Inline) -> str:
        return _markdown_text(content, folder)

    parts = [f"# {text(title)}"]
    for block in blocks:
        if isinstance(block, Heading):
            parts.append(f"## {text(block.text)}")
        elif isinstance(block, Text):
            parts.append(text(block.content))
        elif isinstance(block, Pictures):
            parts += [f"![{text(alt)}]({_target(path, folder)})\n\n{text(caption)}"
                      for path, alt, caption in block.items]
        else:
            groups = [name for name, count in block.groups for _ in range(count)] or [""] * len(block.header)
            lines = [[text(f"{group}: {name}" if group else name) for group, name in zip(groups, block.header)],
                     ["---:" if side == "r" else "---" for side in block.align],
                     *([text(cell) for cell in row] for row in block.rows)]
            parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
            parts += [text(block.note)] if block.note else []
    return "\n\n".join(parts) + "\n"


_STYLE = """
:root { color-scheme: light; --line: #d8dee4; --soft: #57606a; --link: #0b5cad; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem clamp(.9rem, 3vw, 2.5rem) 4rem;
  background: #fff; color: #1f2328;
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .3rem 0 .8rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; padding-top: .9rem; border-top: 1px solid var(--line); }
p { max-width: 46rem; margin: .6rem 0; overflow-wrap: anywhere; }
a { color: var(--link); text-decoration: none; } a:hover { text-decoration: underline; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; margin: 1rem 0; font-size: .92rem; }
sup { font-size: .68rem; line-height: 0; margin-left: .18rem; }
.scroll { overflow-x: auto; margin: .9rem 0 .4rem; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .7rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
td.wrap { white-space: normal; min-width: 16rem; overflow-wrap: anywhere; }
th { color: var(--soft); font-weight: 600; } tr.groups th { text-align: center; border-bottom: 0; color: #1f2328; }
.r { text-align: right; }
tbody tr:hover td { background: #f3f7fb; }
td.missing { color: #9a6700; }
tr > :first-child { position: sticky; left: 0; background: #fff; }
.note { color: var(--soft); font-size: .85rem; margin-top: 0; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); gap: 1.2rem; }
figure { margin: 0; } img { display: block; width: 100%; max-width: 34rem; height: auto; }
figcaption { color: var(--soft); font-size: .82rem; }
@media (max-width: 40rem) { h1 { font-size: 1.35rem; } th, td { padding: .3rem .5rem; } table { font-size: .82rem; } }
"""


def to_html(title: str, blocks: list[Block], folder: Path) -> str:
    """The document as one page: style and pictures are inside; links are relative to `folder`."""
    def text(content: Inline) -> str:
        if isinstance(content, list):
            return "".join(map(text, content))
        if isinstance(content, Link):
            link = f'<a href="{html.escape(_target(content.path, folder))}" ' \
                   f'title="{html.escape(str(content.path))}">{html.escape(content.text)}</a>'
            return f"<sup>{link}</sup>" if content.small else link
        return html.escape(content)

    def cell(content: Inline, side: str) -> str:
        plain = content if isinstance(content, str) else ""
        names = [name for name, holds in (("r", side == "r"), ("missing", plain == "missing"),
                                          ("wrap", side == "l" and len(plain) > 60)) if holds]
        return f'<td{" class=" + chr(34) + " ".join(names) + chr(34) if names else ""}>{text(content)}</td>'

    headings = [block.text for block in blocks if isinstance(block, Heading)]
    parts = ["<!DOCTYPE html>", '<html lang="en"><head><meta charset="utf-8">',
             '<meta name="viewport" content="width=device-width, initial-scale=1">',
             f"<title>{html.escape(title)}</title>", f"<style>{_STYLE}</style></head><body>",
             f"<h1>{html.escape(title)}</h1>", "<nav>",
             *(f'<a href="#part{number}">{html.escape(name)}</a>' for number, name in enumerate(headings)), "</nav>"]
    for block in blocks:
        if isinstance(block, Heading):
            parts.append(f'<h2 id="part{headings.index(block.text)}">{html.escape(block.text)}</h2>')
        elif isinstance(block, Text):
            parts.append(f"<p>{text(block.content)}</p>")
        elif isinstance(block, Pictures):
            parts.append('<div class="pictures">')
            for path, alt, caption in block.items:
                data = base64.b64encode(path.read_bytes()).decode()
                parts.append(f'<figure><img src="data:image/png;base64,{data}" alt="{html.escape(alt)}">'
                             f"<figcaption>{text(caption)}</figcaption></figure>")
            parts.append("</div>")
        else:
            parts.append('<div class="scroll"><table><thead>')
            if block.groups:
                cells = "".join(f'<th colspan="{count}">{html.escape(name)}</th>' for name, count in block.groups)
                parts.append(f'<tr class="groups">{cells}</tr>')
            cells = "".join(f'<th class="{side}">{html.escape(name)}</th>'
                            for name, side in zip(block.header, block.align))
            parts.append(f"<tr>{cells}</tr></thead><tbody>")
            parts += ["<tr>" + "".join(map(cell, row, block.align)) + "</tr>" for row in block.rows]
            parts.append("</tbody></table></div>")
            parts += [f'<p class="note">{text(block.note)}</p>'] if block.note else []
    return "\n".join([*parts, "</body></html>", ""])
