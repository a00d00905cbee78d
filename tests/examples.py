"""How many examples a property test generates: a fifth in `make test`, twice the full number in `make e2e`."""

from __future__ import annotations

import os

SHARE = float(os.environ.get("EXAMPLES", "0.2"))
"""``EXAMPLES=1`` generates the numbers that the tests name."""


def examples(full: int) -> int:
    return max(5, round(full * SHARE))
