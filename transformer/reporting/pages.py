"""A document of headings, paragraphs, tables and pictures, as Markdown and as one HTML page that needs nothing else."""
from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

_LONG = 60  # characters; a text cell that holds more breaks its lines


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
    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph."""
    kind: ClassVar[str] = "text"
    content: Inline


@dataclass(frozen=True)
class Table:
    """`groups`: (heading, number of columns) for each run of columns, over `header`; `align`: l or r by column.
    `note` stands below."""
    kind: ClassVar[str] = "table"
    header: list[str]
    rows: list[list[Inline]]
    align: str
    groups: tuple[tuple[str, int], ...] = ()
    note: Inline = ""

    @property
    def header_in_one_row(self) -> list[str]:
        """The header where there is no row of groups: their names stand before those of their columns."""
        groups = [name for name, columns in self.groups for _ in range(columns)] or [""] * len(self.header)
        return [f"{group}: {name}" if group else name for group, name in zip(groups, self.header)]


@dataclass(frozen=True)
class Pictures:
    """PNG files with their captions, (path, alternative text, caption)."""
    kind: ClassVar[str] = "pictures"
    items: list[tuple[Path, str, Inline]]


Block = Heading | Text | Table | Pictures


def render(template: str, title: str, blocks: list[Block], folder: Path) -> str:
    """The document as the template (report.md.j2 or report.html.j2) shows it; links are relative to `folder`.

    What goes into the HTML page is escaped by jinja2, what goes into the Markdown by the template's own filter.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=select_autoescape(["html.j2"]), trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined)
    environment.filters.update(parts=_parts, markdown=as_markdown, classes=_classes, base64=_base64,
                               target=lambda path: _target(path, folder))
    return environment.get_template(template).render(title=title, blocks=blocks)


def _parts(content: Inline) -> Iterator[str | Link]:
    """The texts and links of a content, one after the other."""
    if isinstance(content, list):
        for part in content:
            yield from _parts(part)
    else:
        yield content


def as_markdown(text: str) -> str:
    """A text that GitHub's Markdown shows as it is, in one line."""
    escaped = re.sub(r"([\\`*\[\]|])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;"))
    return escaped.replace("\n", " ")


def _target(path: Path, folder: Path) -> str:
    """A relative link from `folder`, with / between its parts."""
    relative = Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    return quote(relative + "/" if path.is_dir() else relative)


def _classes(cell: Inline, side: str) -> str:
    """The classes of a table's cell in the style of the HTML page."""
    classes = ["r"] if side == "r" else []
    if cell == "missing":
        classes.append("missing")
    if side == "l" and isinstance(cell, str) and len(cell) > _LONG:
        classes.append("wrap")
    return " ".join(classes)


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
