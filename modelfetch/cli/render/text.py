"""Text for a terminal: no control characters from outside, columns that line up."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def plain(text: str) -> str:
    """One line without control characters: what a server or a file said can't steer a terminal or forge a line."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text.replace("\n", " "))


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Columns that line up; those numbered in ``right`` are aligned to the right."""
    everything = [[plain(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in everything) for i in range(len(head))]
    lines = []
    for row in everything:
        cells = [
            cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
