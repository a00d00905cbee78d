"""How to renew the pin of an entry, for hints."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelfetch.manifest.model import Model

_PACKAGE = Path(__file__).resolve().parents[1]


def how_to_upgrade(model: Model) -> str:
    """Return what to do to accept another file upstream, as the end of a sentence."""
    return _in_own_manifest(model) or f"update the pin: `{_command(model)} --upgrade {shlex.quote(model.name)}`"


def how_to_pin(model: Model) -> str:
    """Return what to do to pin an entry, as the end of a sentence."""
    return _in_own_manifest(model) or f"pin the entry: `{_command(model)}`"


def _command(model: Model) -> str:
    return f"modelfetch pin {shlex.quote(model.position.file)}"


def _in_own_manifest(model: Model) -> str | None:
    """What to do for an entry of a tier that is part of the package, which can't be pinned; None for another one."""
    file = Path(model.position.file)
    if not file.resolve().is_relative_to(_PACKAGE):
        return None
    return f"write a manifest with `extends: {file.stem}` and your own entry {model.name}, then pin that"
