"""Functions of the C library that Python does not offer."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable


def function(name: str, result: type, *arguments: type) -> Callable[..., int] | None:
    """Return a function of the C library with these types; None if the library does not have it."""
    try:
        found = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (OSError, AttributeError):
        return None
    found.argtypes, found.restype = arguments, result
    return cast("Callable[..., int]", found)
