"""The texts of property tests, and how many examples: a fifth in `make test`, twice the full number in `make e2e`."""

from __future__ import annotations

import os

from hypothesis import strategies as st

SHARE = float(os.environ.get("EXAMPLES", "0.2"))
"""``EXAMPLES=1`` generates the numbers that the tests name."""


def examples(full: int) -> int:
    return max(5, round(full * SHARE))


def any_text(*, min_size: int = 0, max_size: int | None = None) -> st.SearchStrategy[str]:
    """Texts of every character that UTF-8 can encode, as `st.text` alone generates them.

    In a fresh clone, `st.text` encodes each character once to find out which ones these are. That takes four seconds.
    """
    return st.text(st.characters(exclude_categories=["Cs"]), min_size=min_size, max_size=max_size)
