"""Refuse ``MODELFETCH_`` variables that would be ignored: misspelled names and options that do not exist."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from modelfetch.cli.options import EnvOption
from modelfetch.core.similar import nearest
from modelfetch.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "MODELFETCH_"
SETTINGS = frozenset(
    PREFIX + name
    for name in ("ALLOW_HTTP", "CACHE", "CIVITAI_ENDPOINT", "MIRRORS", "OLLAMA_REGISTRY", "TIERS_DIR", "REQUIRE_MARKER")
)
"""Variables that are not options."""

RESERVED = frozenset({"FROM", "MIN_FREE", "CONSUMER_DIR"})
"""Option names of other versions."""

_SIMILAR = 0.88


def check_environment(ctx: click.Context, environ: Mapping[str, str]) -> None:
    """Check the variables that begin with ``MODELFETCH_``; an empty one counts as unset.

    Raises:
        SettingError: A variable is an option that this version lacks, or a misspelling of one.
    """
    unknown = {name for name, value in environ.items() if name.startswith(PREFIX) and value.strip()} - SETTINGS
    group = ctx.command
    if not unknown or not isinstance(group, click.Group):
        return
    known = set(SETTINGS)
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        if command is not None:
            below = click.Context(command, info_name=name)
            known.update(*(one.variables(below) for one in command.params if isinstance(one, EnvOption)))
    reserved = {PREFIX + part + name for name in RESERVED for part in ("", *_commands(group, ctx))} - known
    for name in sorted(unknown - known):
        if name in reserved:
            raise SettingError(f"{name}: this version has no such option", hint=f"unset it, or leave it empty: {name}=")
        if near := nearest(name, known, cutoff=_SIMILAR):
            raise SettingError(f"{name}: there is no such variable", hint=f"did you mean {near}?")


def _commands(group: click.Group, ctx: click.Context) -> list[str]:
    return [name.upper() + "_" for name in group.list_commands(ctx)]
