"""Write values as JSON, and check those that were read: a damaged file of modelfetch's own counts as missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


def known_fields(value: object) -> dict[str, Any]:
    """Return the fields of a slotted dataclass that are not None."""
    fields = ((name, getattr(value, name)) for name in type(value).__slots__)  # type: ignore[attr-defined]
    return {name: found for name, found in fields if found is not None}


def texts(values: Iterable[Any]) -> tuple[str, ...]:
    """Return values that must be texts.

    Raises:
        TypeError: One of them is not, or they are a text instead of several.
    """
    if isinstance(values, str):
        raise TypeError("expected several texts, found one")
    found = tuple(values)
    "".join(found)  # the fastest check of their types: a receipt has many
    return found
