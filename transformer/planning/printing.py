"""How a plan and a rehearsal print what they found."""
from __future__ import annotations

from collections.abc import Sequence

from transformer.planning.steps import Work


def hours_text(hours: float | None) -> str:
    """Hours for a table: two digits that say something."""
    if hours is None:
        return "?"
    return "<0.01" if 0 < hours < 0.01 else f"{hours:.2f}" if hours < 10 else f"{hours:,.0f}"


def aligned(rows: Sequence[Sequence[str]], names: int) -> str:
    """Rows of a table as lines: the first columns, `names` of them, and the last to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    last = len(widths) - 1
    return "\n".join("  ".join(cell.ljust(width) if number < names or number == last else cell.rjust(width)
                               for number, (cell, width) in enumerate(zip(cells, widths))).rstrip() for cells in rows)


def print_assumed(works: Sequence[Work]) -> None:
    """Print what is a guess in the counts of some commands, each guess once, with the files that it is about."""
    assumed: dict[str, list[str]] = {}
    for what, _, which in (text.partition(": ") for work in works for text in work.assumed):
        assumed.setdefault(what, []).append(which)
    for what, which in assumed.items():
        print(f"assumed: {what}: {', '.join(dict.fromkeys(which))}")
