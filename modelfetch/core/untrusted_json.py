"""Parse JSON that a server or another program wrote, so that a small text can't take much memory.

The text of an object or list with nothing in it is 3 bytes; as a value it is thirty times as large.
"""

from __future__ import annotations

import json
from typing import Any

MAX_VALUES = 250_000
"""Values of one document: a manifest with 10,000 layers has less than half as many."""


def parse_object(content: bytes) -> dict[str, Any]:
    """Parse a document that must be an object.

    Raises:
        ValueError: It is not, is nested too deeply, or may have more than `MAX_VALUES` values; the message explains it.
    """
    if count_values(content) > MAX_VALUES:
        raise ValueError("it has too many values")
    try:
        document = json.loads(content)
    except ValueError:
        raise ValueError("it is not JSON") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if isinstance(document, dict):
        return document
    raise ValueError("it is not a JSON object")


def count_values(content: bytes) -> int:
    """Return a number that a document, or a part of one, has at most as many values as; commas in texts count too."""
    return content.count(b",") + content.count(b"{") + content.count(b"[")
