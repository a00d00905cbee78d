"""Refuse ``MODELFETCH_`` variables that would be ignored: misspelled names and options that do not exist."""

from __future__ import annotations

import re
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

COMPOSE_VARIABLES = frozenset({PREFIX + "IMAGE", PREFIX + "BASE_IMAGE"})
"""Variables that only the stack's compose files read, from a shell that may export them."""

_SERVICE = re.compile(r"_SERVICE_HOST\Z|_SERVICE_PORT(_\w+)?\Z|_PORT(_\d+_[A-Z]+(_PROTO|_PORT|_ADDR)?)?\Z")
"""Variables that Kubernetes sets in each container for a service, here one that is named ``modelfetch…``."""

_SIMILAR = 0.8


def check_environment(ctx: click.Context, environ: Mapping[str, str]) -> None:
    """Check the variables that begin with ``MODELFETCH_``; an empty one counts as unset.

    Raises:
        SettingError: A variable is neither an option nor a setting.
    """
    names = {name for name, value in environ.items() if name.startswith(PREFIX) and value.strip()}
    unknown = {name for name in names - SETTINGS - COMPOSE_VARIABLES if not _SERVICE.search(name)}
    group = ctx.command
    if not unknown or not isinstance(group, click.Group):
        return
    known = set(SETTINGS)
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        if command is not None:
            below = click.Context(command, info_name=name)
            known.update(*(one.variables(below) for one in command.params if isinstance(one, EnvOption)))
    for name in sorted(unknown - known):
        near = nearest(name.removeprefix(PREFIX), (one.removeprefix(PREFIX) for one in known), cutoff=_SIMILAR)
        advice = f"unset it, or leave it empty: {name}="
        hint = f"did you mean {PREFIX}{near}? Otherwise {advice}" if near else advice
        raise SettingError(f"{name}: this version has no such option or setting", hint=hint)
