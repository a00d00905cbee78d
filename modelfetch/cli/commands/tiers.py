"""``modelfetch tiers``."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from typing import TYPE_CHECKING

import click

from modelfetch.cli import options
from modelfetch.core.units import format_size
from modelfetch.errors import SettingError, exit_code_of
from modelfetch.render.errors import show_errors
from modelfetch.render.out import put
from modelfetch.render.text import plain, table, terminal_width

if TYPE_CHECKING:
    from pathlib import Path

    from modelfetch.care.tiers import Share, TierLine
    from modelfetch.config.settings import Settings


@click.command("tiers")
@options.root
@options.store
@options.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def command(root: Path, store: Path | None, *, as_json: bool) -> int:
    """List the tiers: the card that each is for, its description, its models, their size, and what is present."""
    from modelfetch.care.tiers import list_lines
    from modelfetch.config.options import Options
    from modelfetch.config.settings import Settings
    from modelfetch.pipeline.session import Session

    given = Options(root=root, store=store)
    settings = Settings.from_env(os.environ)
    auto, why = _auto(settings)
    lines, errors = list_lines(Session(given, settings), auto=auto)
    shown = {"tiers": [line.as_dict() for line in lines], "why": list(why)}
    text = json.dumps(shown) if as_json else _text(lines, why)
    put(text)
    show_errors(errors)
    return exit_code_of(errors)


def _auto(settings: Settings) -> tuple[str | None, tuple[str, ...]]:
    """The tier that ``auto`` would choose on this machine (None: none), and lines that explain why."""
    from modelfetch.tiers.gpu import auto_tier
    from modelfetch.tiers.selection import all_tiers

    try:
        chosen = auto_tier(all_tiers(settings), os.environ)
    except SettingError as error:
        return None, (f"auto: {error.message}",)
    return chosen.tier, chosen.reasons()


def _text(lines: tuple[TierLine, ...], why: tuple[str, ...]) -> str:
    """The table, followed by the description and the models of each tier."""
    rows: list[tuple[str, ...]] = [
        (
            line.name + (" *" if line.auto else ""),
            format_size(line.vram) if line.vram else "-",
            str(len(line.models)),
            ("over " if line.open else "") + format_size(line.bytes),
            format_size(line.present),
            ", ".join(line.services) or "-",
        )
        for line in lines
    ]
    head = ("TIER", "VRAM", "MODELS", "SIZE", "PRESENT", "SERVICES")
    width = terminal_width(sys.stdout)
    parts = [table(head, rows, right=(1, 2, 3, 4), width=width), ""]
    for line in lines:
        models = f"    models: {', '.join(_named(line)) or '-'}"
        for text in (f"{line.name}: {line.description}".removesuffix(": "), models, *_together(line)):
            parts += _wrapped(text, min(100, width or 100), indent="        ")
    if any(line.open for line in lines):
        parts += ["", "?: not counted in SIZE, because only the source knows it (see `modelfetch plan`)"]
    marked = f"* auto would choose {chosen}" if (chosen := next((x.name for x in lines if x.auto), None)) else None
    reasons = [line for text in (*([marked] if marked else ()), *why) for line in _wrapped(text, width)]
    return "\n".join([*parts, "", *reasons])


def _wrapped(text: str, width: int | None, *, indent: str = "") -> list[str]:
    return textwrap.wrap(
        plain(text),
        width=width or len(text) + 1,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _together(line: TierLine) -> list[str]:
    """Which services of a tier run at the same time, with their shares of the card."""
    on_card = [share for share in line.shares if share.vram]
    if not on_card:
        return []
    words = [f"{_share(share)} {format_size(share.vram)}" for share in on_card]
    total = format_size(sum(share.vram for share in on_card))
    text = f"    together: {' + '.join(words)} = {total}" + (f" of {format_size(line.usable)}" if line.usable else "")
    on_cpu = [_share(share) for share in line.shares if not share.vram]
    return [text + (f"; on the CPU: {', '.join(on_cpu)}" if on_cpu else "")]


def _share(share: Share) -> str:
    models = f" ({', '.join(share.models)})" if share.models else ""
    return f"{' or '.join(share.services)}{models}"


def _named(line: TierLine) -> list[str]:
    """The models of a tier; those whose size is not included in the tier's size are marked."""
    return [f"{name}?" if name in line.open else name for name in line.models]
