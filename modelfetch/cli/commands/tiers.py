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

    from modelfetch.config.settings import Settings
    from modelfetch.tiers.listing import TierLine


@click.command("tiers")
@options.root
@options.store
@options.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def command(root: Path, store: Path | None, *, as_json: bool) -> int:
    """List the tiers: the card each is for, its models, their size, and how much of it is present."""
    from modelfetch.config.options import Options
    from modelfetch.config.settings import Settings
    from modelfetch.pipeline.session import Session
    from modelfetch.tiers.listing import list_lines

    given = Options(root=root, store=store)
    settings = Settings.from_env(os.environ)
    auto, why = _auto(settings)
    lines, errors = list_lines(Session(given, settings), auto=auto)
    text = json.dumps({"tiers": [line.as_dict() for line in lines]}) if as_json else _text(lines, why)
    put(text)
    show_errors(errors)
    return exit_code_of(errors)


def _auto(settings: Settings) -> tuple[str | None, str]:
    """The tier that ``auto`` would choose on this machine (None: none), and a line that explains why."""
    from modelfetch.tiers.gpu import auto_tier
    from modelfetch.tiers.selection import all_tiers

    try:
        chosen = auto_tier(all_tiers(settings), os.environ)
    except SettingError as error:
        return None, f"auto: {error.message}"
    return chosen.tier, f"* auto: {chosen.gpu}, {format_size(chosen.usable)} usable"


def _text(lines: tuple[TierLine, ...], why: str) -> str:
    """The table, followed by the models of each tier."""
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
        parts += textwrap.wrap(
            plain(f"{line.name}: {', '.join(_named(line)) or '-'}"),
            width=min(100, width or 100),
            subsequent_indent="    ",
            break_on_hyphens=False,
            break_long_words=False,
        )
    if any(line.open for line in lines):
        parts += ["", "?: not counted in SIZE, as only the source knows it (`modelfetch plan` asks)"]
    return "\n".join([*parts, "", *textwrap.wrap(plain(why), width or len(why) + 1, break_on_hyphens=False)])


def _named(line: TierLine) -> list[str]:
    """The models of a tier; those whose size is not included in the tier's size are marked."""
    return [f"{name}?" if name in line.open else name for name in line.models]
