"""Write values as JSON, and check those that were read: a damaged file of modelfetch's own counts as missing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from modelfetch.core.untrusted_json import count_values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


MAX_VALUES = 2**22
"""Values of one file: a receipt of more than 100,000 files. More can take a gigabyte of memory."""


def parse(content: bytes, *, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Parse a file of modelfetch's own; ``object_hook`` is that of `json.loads`.

    Raises:
        ValueError: It is not JSON, or may have more than `MAX_VALUES` values.
        RecursionError: It is nested too deeply.
    """
    if count_values(content) > MAX_VALUES:
        raise ValueError("it has too many values")
    return json.loads(content, object_hook=object_hook)


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
