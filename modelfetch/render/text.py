"""Text for a terminal: no control characters from outside, columns that line up."""

from __future__ import annotations

import shutil
import textwrap
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO


def plain(text: str) -> str:
    """One line without control characters: what a server or a file said can't steer a terminal or forge a line."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text.replace("\n", " "))


def display_width(text: str) -> int:
    """The columns that a text takes on a terminal: wide characters (CJK, emoji) take two, combining ones none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def cut(text: str, columns: int) -> str:
    """A text cut to at most ``columns`` columns, with an ellipsis where something is missing."""
    if display_width(text) <= columns:
        return text
    kept, width = [], 0
    for character in text:
        width += display_width(character)
        if width > columns - 1:
            break
        kept.append(character)
    return "".join(kept) + "…"


def terminal_width(stream: TextIO) -> int | None:
    """The columns of the terminal that a stream writes to; None where it is none, and nothing need be cut to fit."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), width: int | None = None
) -> str:
    """Columns that line up; those numbered in ``right`` are aligned to the right.

    Where ``width`` (columns of the terminal) is not enough, the last column goes on in lines of its own.
    """
    everything = [[plain(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in everything) for i in range(len(head))]
    lines = []
    for row in everything:
        cells = [
            cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines += _folded("  ".join(cells[:-1]) + "  " if cells[1:] else "", cells[-1].rstrip(), width)
    return "\n".join(lines)


def _folded(start: str, last: str, width: int | None) -> list[str]:
    room = (width or 0) - len(start)
    if width is None or len(last) <= room or room < 16:
        return [(start + last).rstrip()]
    first, *others = textwrap.wrap(last, room, break_on_hyphens=False)
    return [start + first, *(" " * len(start) + other for other in others)]
