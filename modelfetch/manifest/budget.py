"""Check the VRAM that a tier's services may use together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelfetch.core.units import GIB, format_size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from modelfetch.manifest.model import Service

MIN_FREE = GIB // 4
"""VRAM that Ollama leaves free when it loads a model, if a tier gives everything to its services; in bytes."""

_USABLE = {8: 7.5, 16: 15, 32: 30.9, 94: 93}
"""Usable GiB by a card's class in GiB: what drivers and displays leave, as measured."""


def default_usable(vram: int) -> int:
    """Return the bytes that services may use of a card of this class (in bytes)."""
    known = _USABLE.get(vram // GIB) if vram % GIB == 0 else None
    return int(known * GIB) if known is not None else vram * 94 // 100


def together(services: Iterable[Service]) -> int:
    """Add up the bytes of services that run together; of those with one ``exclusive`` word only the largest counts."""
    groups: dict[tuple[str, str], int] = {}
    for service in services:
        group = ("exclusive", service.exclusive) if service.exclusive else ("service", service.name)
        groups[group] = max(groups.get(group, 0), service.vram or 0)
    return sum(groups.values())


def check_budget(services: Iterable[Service], usable: int | None) -> str | None:
    """Return a message if the services exceed what is usable, else None."""
    services = tuple(services)
    needed = together(services)
    if usable is None or needed <= usable:
        return None
    parts = ", ".join(f"{s.name} {format_size(s.vram)}" for s in services if s.vram)
    return (
        f"services: expected at most {format_size(usable)} of vram together (usable), found {format_size(needed)}: "
        f"{needed - usable} bytes ({format_size(needed - usable)}) too much ({parts})"
    )
