"""Find the known word that a mistyped one probably means."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_LONGEST = 100
"""Characters; a longer text is not a typing mistake, and comparing it would take long."""


def nearest(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the known word that is most similar to ``word``, whatever its case; None if there is none.

    ``cutoff`` is the least similarity, from 0 to 1 (source: difflib.get_close_matches).
    """
    if len(word) > _LONGEST:
        return None
    by_lower = {one.lower(): one for one in known}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[near[0]] if near else None
