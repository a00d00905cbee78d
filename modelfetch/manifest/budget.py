"""Check the VRAM that a tier's services may use together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from modelfetch.core.units import GIB, format_size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from modelfetch.manifest.model import Service


class Exclusive(Protocol):
    """A service, or what is known of one; those with the same ``exclusive`` word never run at the same time."""

    @property
    def exclusive(self) -> str | None:
        """The word."""


E = TypeVar("E", bound=Exclusive)

MIN_FREE = GIB // 4
"""VRAM that Ollama leaves free when it loads a model, if a tier gives everything to its services; in bytes."""

_USABLE = {8: 7.5, 16: 15, 32: 30.9, 94: 93}
"""Usable GiB by a card's class in GiB: what drivers and displays leave, as measured."""


def default_usable(vram: int) -> int:
    """Return the bytes that services may use of a card of this class (in bytes)."""
    known = _USABLE.get(vram // GIB) if vram % GIB == 0 else None
    return int(known * GIB) if known is not None else vram * 94 // 100


def in_turns(services: Iterable[E]) -> list[list[E]]:
    """Return groups, in order: each has one service, or all that take turns because of their ``exclusive`` word."""
    groups: dict[str | int, list[E]] = {}
    for number, service in enumerate(services):
        groups.setdefault(service.exclusive or number, []).append(service)
    return list(groups.values())


def vram_of(service: Service) -> int:
    """The bytes of GPU memory that a service may use; 0 if it runs on the CPU."""
    return 0 if service.device == "cpu" else service.vram or 0


def together(services: Iterable[Service]) -> int:
    """Add up the bytes of services that run together; of those that take turns, only the largest counts."""
    return sum(max(vram_of(service) for service in group) for group in in_turns(services))


def check_budget(services: Iterable[Service], usable: int | None) -> str | None:
    """Return a message if the services exceed what is usable, else None."""
    services = tuple(services)
    needed = together(services)
    if usable is None or needed <= usable:
        return None
    parts = ", ".join(f"{s.name} {format_size(vram_of(s))}" for s in services if vram_of(s))
    return (
        f"services: expected at most {format_size(usable)} of vram together (usable), found {format_size(needed)}: "
        f"{needed - usable} bytes ({format_size(needed - usable)}) too much ({parts})"
    )
