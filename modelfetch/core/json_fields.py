"""Check values that were read from JSON, so that a damaged file of modelfetch's own counts as a missing one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


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
