"""Replace the block in a ``.env``; every other line is kept byte for byte. Pure."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelfetch.tiers.dotenv.cards import CARD_VARIABLES
from modelfetch.tiers.dotenv.render import END, KeptParts, render_block
from modelfetch.tiers.dotenv.variables import HEADER, RENAMED, RETIRED, VARIABLES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from modelfetch.tiers.dotenv.render import TierText

_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=(.*)\Z", re.DOTALL)
_RULE = re.compile(r"\s*#\s*[#=*~─━═-]{4,}[\s#]*\Z")
_KNOWN = {variable.name: variable for variable in VARIABLES}
_OURS = frozenset((*_KNOWN, *RETIRED, *RENAMED))


class BlockError(ValueError):
    """The file's markers don't show where the block begins and ends; the message explains why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Updated:
    """The new content of a file.

    Attributes:
        data: The content.
        changed: Variables of the block whose value changed, with the old and the new value.
        twice: Variables that a line outside of the block sets too, each with that line's number.
    """

    data: bytes
    changed: tuple[tuple[str, str, str], ...] = ()
    twice: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Span:
    """The block's lines, from ``start`` up to but not including ``end``; empty if the file has no block."""

    start: int
    end: int


def update_block(data: bytes, tier: TierText, others: Sequence[TierText] = ()) -> Updated:
    """Return a file's content with its block replaced by a tier's, or with the block appended if there was none.

    Values of the old block that no tier sets are kept, and so are lines with variables unknown to modelfetch. The
    file's line endings are kept.

    Raises:
        BlockError: The block can't be distinguished from the rest; nothing should be written.
    """
    bom = codecs.BOM_UTF8 if data.startswith(codecs.BOM_UTF8) else b""
    text = data.removeprefix(bom).decode("utf-8", errors="surrogateescape")
    lines = _split(text)
    span = _find(lines)
    newline = _newline(lines[span.start : span.end] or lines)
    old = dict(_assignments(lines[span.start : span.end]))
    kept = _kept(lines[span.start : span.end], old, tier)
    block = render_block(tier, others, kept)
    before = "".join(lines[: span.start])
    if span.start == span.end and before:
        before += ("" if before.endswith("\n") else newline) + ("" if before.endswith(newline * 2) else newline)
    after = "".join(lines[span.end :])
    new = before + block.replace("\n", newline) + after
    outside = [*lines[: span.start], *([""] * (span.end - span.start)), *lines[span.end :]]
    return Updated(
        data=bom + new.encode("utf-8", errors="surrogateescape"),
        changed=_changed(old, dict(_assignments(_split(block)))),
        twice=_twice(outside),
    )


def _split(text: str) -> list[str]:
    """Split at line feeds only: a lone carriage return does not end a line."""
    return re.findall(r"[^\n]*\n|[^\n]+\Z", text)


def _find(lines: Sequence[str]) -> _Span:
    heads = [number for number, line in enumerate(lines) if _is_header(line)]
    ends = [number for number, line in enumerate(lines) if line.strip() == END]
    if not heads and not ends:
        return _Span(start=len(lines), end=len(lines))
    if len(heads) != 1 or len(ends) > 1 or (ends and ends[0] < heads[0]):
        where = ", ".join(str(number + 1) for number in sorted([*heads, *ends]))
        raise BlockError(f"expected one header {HEADER!r} and one end line after it, found marks on line {where}")
    start = heads[0] - 1 if heads[0] and _RULE.match(lines[heads[0] - 1]) else heads[0]
    return _Span(start=start, end=ends[0] + 1 if ends else _unmarked_end(lines, heads[0]))


def _is_header(line: str) -> bool:
    bare = line.lstrip(" \t")
    return bare.startswith("#") and bare.strip("#=*~─━═- \t\r\n").casefold() == HEADER.casefold()


def _unmarked_end(lines: Sequence[str], head: int) -> int:
    """The end of a block that has no end line: after the last known line, before the next section at the latest."""
    end = head + 1
    if end < len(lines) and _RULE.match(lines[end]):
        end += 1
    for number in range(end, len(lines)):
        if _RULE.match(lines[number]):
            break
        found = _ASSIGNMENT.match(lines[number])
        if found and found[1] in _KNOWN:
            end = number + 1
    return end


def _assignments(lines: Iterable[str]) -> Iterable[tuple[str, str]]:
    for line in lines:
        if found := _ASSIGNMENT.match(line.rstrip("\r\n")):
            yield found[1], found[2].strip()


def _kept(lines: Sequence[str], old: dict[str, str], tier: TierText) -> KeptParts:
    renamed = {RENAMED[name]: value for name, value in old.items() if name in RENAMED}
    values = {name: value for name, value in {**renamed, **old}.items() if name in _KNOWN}
    raw = {name: value for name, value in values.items() if name not in tier.values and _is_own(name, value, tier)}
    return KeptParts(raw=raw, lines=[line.rstrip("\r\n") for line in lines if _is_foreign(line)])


def _is_own(name: str, value: str, tier: TierText) -> bool:
    """Whether a value was set by the user: neither a default of an earlier block nor the value of another card."""
    variable = _KNOWN[name]
    plain = value.strip("\"'")
    if plain in variable.former or (variable.commented and plain == variable.default):
        return False
    return tier.card is None or plain not in CARD_VARIABLES.get(name, ())


def _is_foreign(line: str) -> bool:
    """Whether a line is neither a comment nor sets a known variable."""
    if not line.strip() or line.lstrip().startswith("#"):
        return False
    found = _ASSIGNMENT.match(line)
    return found is None or found[1] not in _OURS


def _newline(lines: Sequence[str]) -> str:
    return "\r\n" if lines and lines[0].endswith("\r\n") else "\n"


def _changed(old: dict[str, str], new: dict[str, str]) -> tuple[tuple[str, str, str], ...]:
    return tuple((name, old[name], value) for name, value in new.items() if name in old and old[name] != value)


def _twice(lines: Sequence[str]) -> tuple[tuple[str, int], ...]:
    found = {name: number for number, line in enumerate(lines, 1) for name, _ in _assignments([line])}
    return tuple((name, number) for name, number in found.items() if name in _KNOWN)
