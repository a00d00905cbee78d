"""What a shell's completion offers: tiers, files, folders, and names of models."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from modelfetch.core.root import CONSUMERS
from modelfetch.errors import ModelfetchError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import click
    from click.shell_completion import CompletionItem


def tiers(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """The names of all tiers, and ``auto``."""
    from modelfetch.tiers.discovery import list_tiers

    folder = os.environ.get("MODELFETCH_TIERS_DIR", "").strip()
    return _matching(("auto", *(name for name, _ in list_tiers(Path(folder) if folder else None))), incomplete)


def files(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The files that the shell finds."""
    return _by_shell("file", incomplete)


def folders(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The folders that the shell finds."""
    return _by_shell("dir", incomplete)


def kinds(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """The kinds that `add` can write."""
    from modelfetch.pinning.add import KINDS_TO_ADD

    return _matching(KINDS_TO_ADD, incomplete)


def placed_models(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """The names of the models that receipts below ROOT have."""
    from modelfetch.placement.receipts import read_receipt

    names: set[str] = set()
    for consumer in CONSUMERS:
        with contextlib.suppress(ModelfetchError, OSError):
            entries = read_receipt(Path(str(ctx.params["root"])), consumer).entries
            names.update(entry.model for entry in entries.values())
    return _matching(sorted(names), incomplete)


def models_of_file(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """The names of the models in the manifest FILE."""
    from modelfetch.tiers.loader import load_manifest

    # An option that still lacks its value ends click's parsing, so the words before it are not yet arguments.
    file = ctx.params.get("file") or next(iter(ctx.args), "")
    with contextlib.suppress(ModelfetchError, OSError):
        return _matching((model.name for model in load_manifest(Path(file)).models), incomplete)
    return []


def _by_shell(kind: str, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem  # imported only when a shell completes

    return [CompletionItem(incomplete, type=kind)]


def _matching(words: Iterable[str], incomplete: str) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]
