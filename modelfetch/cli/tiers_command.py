"""``modelfetch tiers``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelfetch.cli import options
from modelfetch.cli.render.errors import show_errors
from modelfetch.cli.render.text import table
from modelfetch.errors import exit_code_of
from modelfetch.units import format_size

if TYPE_CHECKING:
    from modelfetch.tiers import TierLine


@click.command("tiers")
@options.option("--root", metavar="DIR", default="./files/ai-models", show_default=True, help="Where the models are.")
@options.option("--store", metavar="DIR", help="Where verified blobs are kept.  [default: ROOT/.modelfetch]")
@options.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
def command(root: str, store: str | None, *, as_json: bool) -> int:
    """List the tiers: the card each is for, its models and their size, and what of it is here."""
    from modelfetch.session import Options, Session
    from modelfetch.settings import Settings
    from modelfetch.tiers import list_lines

    given = Options(root=Path(root), store=Path(store) if store else None)
    lines, errors = list_lines(Session(given, Settings.from_env(os.environ)))
    text = json.dumps({"tiers": [line.as_dict() for line in lines]}) if as_json else _table(lines)
    print(text)  # noqa: T201 - data goes to stdout
    show_errors(errors)
    return exit_code_of(errors)


def _table(lines: tuple[TierLine, ...]) -> str:
    rows: list[tuple[Any, ...]] = [
        (
            line.name + (" *" if line.auto else ""),
            format_size(line.vram) if line.vram else "-",
            ", ".join(line.services) or "-",
            ", ".join(line.models),
            format_size(line.bytes),
            format_size(line.present),
        )
        for line in lines
    ]
    return table(("TIER", "VRAM", "SERVICES", "MODELS", "SIZE", "PRESENT"), rows, right=(1, 4, 5))
