"""Text for a terminal: no control characters from outside, columns that line up."""

from __future__ import annotations

import shutil
import sys
import unicodedata
from itertools import zip_longest
from typing import TYPE_CHECKING

from modelfetch.core.units import format_size

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from typing import TextIO


_LEAST = 16
"""The minimum width of a column whose cells are folded, in columns of the terminal."""


def plain(text: str) -> str:
    """One line without control characters: text of a server or a file can't control a terminal or forge a line."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text.replace("\n", " "))


def display_width(text: str) -> int:
    """The columns that a text takes on a terminal: wide characters (CJK, emoji) take two, combining ones none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def cut(text: str, columns: int) -> str:
    """A text cut to at most ``columns`` columns, with an ellipsis where something is missing."""
    return text if display_width(text) <= columns else cut_off(text, columns - 1) + "…"


def cut_off(text: str, columns: int) -> str:
    """The beginning of a text that fits into ``columns`` columns."""
    width = 0
    for at, character in enumerate(text):
        width += display_width(character)
        if width > columns:
            return text[:at]
    return text


def terminal_width(stream: TextIO) -> int | None:
    """The columns of the terminal that a stream writes to; None if it is not a terminal, so nothing has to be cut."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), width: int | None = None
) -> str:
    """Columns that line up; those numbered in ``right`` are aligned to the right.

    If ``width`` (columns of the terminal) is not enough, the columns move together, and the cells of the widest ones
    continue on further lines. If there is no room even for that, the cells of a row follow each other without columns,
    and never break in the middle.
    """
    everything = [[plain(cell) for cell in row] for row in (head, *rows)]
    widths = [max(display_width(row[i]) for row in everything) for i in range(len(head))]
    gap = 2
    if width is not None:
        texts = [i for i in range(len(widths)) if i not in right]
        for gap in (2, 1):
            room = width - gap * (len(widths) - 1)
            widths = _narrowed(widths, texts, room)
            if sum(widths) <= room:
                break
        else:
            return "\n".join(line for row in everything for line in _flowing(row, width))
    return "\n".join(line for row in everything for line in _row_lines(row, widths, right, " " * gap))


def _narrowed(widths: Sequence[int], texts: Sequence[int], room: int) -> list[int]:
    """The widths, the widest of ``texts`` reduced until all have room or none is wider than `_LEAST`."""
    narrowed = list(widths)
    while sum(narrowed) > room and texts:
        widest = max(texts, key=lambda i: narrowed[i])
        if narrowed[widest] <= _LEAST:
            break
        narrowed[widest] -= 1
    return narrowed


def _row_lines(row: Sequence[str], widths: Sequence[int], right: Sequence[int], gap: str) -> list[str]:
    cells = [fold(cell, width) for cell, width in zip(row, widths, strict=True)]
    return [
        gap.join(_padded(part, widths[i], right=i in right) for i, part in enumerate(parts)).rstrip()
        for parts in zip_longest(*cells, fillvalue="")
    ]


def stdout_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """A `table` that fits the terminal, if stdout is one."""
    return table(head, rows, right=right, width=terminal_width(sys.stdout))


def known_size(size: int | None) -> str:
    """A size in bytes for people; ``?`` if it is not known."""
    return "?" if size is None else format_size(size)


def day(at: datetime | None) -> str:
    """A day such as ``2026-11-28``; ``never`` for None."""
    return at.date().isoformat() if at else "never"


def _padded(cell: str, columns: int, *, right: bool) -> str:
    space = " " * (columns - display_width(cell))
    return space + cell if right else cell + space


def fold(text: str, columns: int) -> list[str]:
    """Split a text into lines of at most ``columns`` columns: after a space or a mark in their last two thirds."""
    lines = []
    while len(text) > 1 and display_width(text) > columns:
        end = max(1, len(cut_off(text, columns)))
        breaks = (text.rfind(" ", 0, end + 1), *(text.rfind(mark, 0, end) for mark in "/,-_."))
        at = next((found + 1 for found in breaks if found >= end // 3), end)
        lines.append(text[:at].rstrip(" "))
        text = text[at:].lstrip(" ")
    return [*lines, text]


def _flowing(row: Sequence[str], width: int) -> list[str]:
    """The cells of a row on as few lines as possible; lines after the first are indented."""
    lines = [""]
    for cell in row:
        if lines[-1].strip() and display_width(lines[-1]) + 2 + display_width(cell) > width:
            lines.append("  " + cell)
        else:
            lines[-1] += ("  " if lines[-1] else "") + cell
    return lines
