"""Render the block of ``.env`` as text. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modelfetch.tiers.dotenv.variables import GROUPS, HEADER, VARIABLES, Variable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

RULE = "# " + "=" * 78
END = "# <<< end of what `modelfetch env --update` rewrites"
"""The last line of the block."""

_PLAIN = re.compile(r"[A-Za-z0-9_./:,@%+=?&~-]*\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class TierText:
    """A tier as shown in the block.

    Attributes:
        name: Its name.
        values: The variables that it sets.
        description: Its purpose, in one line.
        shares: The VRAM of each service, in one line.
        card: The variables that the graphics card sets; None if no card was found.
    """

    name: str
    values: Mapping[str, str]
    description: str = ""
    shares: str = ""
    card: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptParts:
    """The parts of an earlier block that are kept.

    Attributes:
        raw: The values, as written, of variables that no tier sets.
        lines: Lines that set variables unknown to modelfetch.
    """

    raw: Mapping[str, str] = field(default_factory=dict)
    lines: Sequence[str] = ()


def render_block(tier: TierText, others: Sequence[TierText] = (), kept: KeptParts | None = None) -> str:
    """Render the block for a tier, from its header to its last line, with a newline at the end.

    Args:
        tier: The tier; a variable that it does not set gets the table's default.
        others: Further tiers, whose differences are shown as comments.
        kept: The parts of an earlier block that are kept.
    """
    kept = kept or KeptParts()
    lines = [RULE, f"# {HEADER}", RULE, *_introduction(tier)]
    for group, words in GROUPS.items():
        variables = [variable for variable in VARIABLES if variable.group == group]
        if not variables:
            continue
        lines += ["", f"# --- {group} ---", *_comment(words), *([""] if words else [])]
        for variable in variables:
            lines += _variable(variable, tier, kept.raw)
    lines += _examples(tier, others)
    if kept.lines:
        lines += ["", "# --- Kept from before: not modelfetch's ---", *kept.lines]
    return "\n".join([*lines, "", END]) + "\n"


def quote(value: str) -> str:
    """Quote a value so that compose and shells read it the same way; a value of plain characters is not quoted."""
    if _PLAIN.match(value):
        return value
    escaped = re.sub(r'([\\"$`])', r"\\\1", value)
    return f'"{escaped}"'


def _introduction(tier: TierText) -> Iterator[str]:
    what = " ".join(tier.description.split())
    yield f"# Tier {tier.name}" + (f": {what}" if what else "")
    yield from _comment(tier.shares)
    yield "#"
    yield "# Written by `modelfetch env`. `modelfetch env --tier NAME --update .env` switches the tier: it rewrites"
    yield "# this block, keeps the values that do not depend on the tier, and changes no other line."


def _variable(variable: Variable, tier: TierText, raw: Mapping[str, str]) -> Iterator[str]:
    yield from _comment(variable.comment)
    chosen = {**(tier.card or {}), **tier.values}
    if variable.name in raw and variable.name not in tier.values:
        yield f"{variable.name}={raw[variable.name]}"
    elif variable.name in chosen:
        yield f"{variable.name}={quote(chosen[variable.name])}"
    else:
        yield f"{'#' if variable.commented else ''}{variable.name}={quote(variable.default)}"


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in text.splitlines()]


def _examples(tier: TierText, others: Sequence[TierText]) -> Iterator[str]:
    """The other tiers' differences from this one."""
    shown = [other for other in others if other.name != tier.name]
    if not shown:
        return
    yield ""
    yield "# --- The other tiers: what differs ---"
    for other in shown:
        what = " ".join(other.description.split())
        yield ""
        yield f"# {other.name}" + (f": {what}" if what else "")
        yield from _comment(other.shares)
        for name, value in other.values.items():
            if value != tier.values.get(name):
                yield f"#{name}={quote(value)}"
