"""Parse and format sizes and durations; format counts and lists."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MIB, GIB = 2**20, 2**30

_UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
    # binary, as in compose's memory limits
    "b": 1,
    "k": 2**10,
    "m": 2**20,
    "g": 2**30,
    "t": 2**40,
}
_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,9})?) ?([A-Za-z]{0,3})\Z", re.ASCII)
MAX_SIZE = 2**63 - 1
"""The largest supported size, in bytes."""


def parse_size(text: str) -> int:
    """Parse bytes from ``6938078334``, ``7.5GiB``, ``50MB`` or compose's ``6g``.

    Raises:
        ValueError: Not a valid size; the message gives the expected form.
    """
    match = _SIZE.match(text)
    factor = _UNITS.get(match[2]) if match else None
    if match is None or factor is None:
        raise ValueError(
            f"expected bytes or a number with B, KB, MB, GB, KiB, MiB, GiB or compose's k, m, g; found {text[:40]!r}"
        )
    size = Decimal(match[1]) * factor
    if factor == 1 and size != int(size):
        raise ValueError(f"expected a whole number of bytes, found {text[:40]!r}")
    if size > MAX_SIZE:
        raise ValueError(f"expected a size below 8 EiB, found {text[:40]!r}")
    return int(size)


def parse_decimal(text: str, *, digits: int = 19) -> int | None:
    """Parse a whole number of at most ``digits`` ASCII digits, as headers and variables have; None for other text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= digits else None


_AGE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) ?([smhdw])\Z", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


def parse_age(text: str) -> float:
    """Parse seconds from ``30d``, ``12h``, ``90m`` or ``2w``.

    Raises:
        ValueError: Not a valid age; the message gives the expected form.
    """
    match = _AGE.match(text.strip())
    if match is None:
        raise ValueError(f"expected a number with s, m, h, d or w, such as 30d; found {text[:40]!r}")
    return float(match[1]) * _SECONDS[match[2]]


def total_size(sizes: Iterable[int | None]) -> int | None:
    """Add up sizes in bytes; None if one of them is not known."""
    known = list(sizes)
    return None if None in known else sum(size or 0 for size in known)


def format_size(size: float) -> str:
    """Format bytes for people: ``6.46 GiB``, ``2.3 KiB``, ``17 B``."""
    unit, factor, digits = _unit_of(size)
    return f"{size / factor:.{digits}f} {unit}" if factor > 1 else f"{int(size)} B"


def format_share(part: int, whole: int) -> str:
    """Format a part of some bytes, in the unit of the whole: ``0.51/6.46 GiB``."""
    _, factor, digits = _unit_of(whole)
    return f"{part / factor:.{digits}f}/{format_size(whole)}"


def _unit_of(size: float) -> tuple[str, int, int]:
    """The largest unit that is not larger than a size, its bytes, and the decimals that are shown with it."""
    for unit, factor, digits in (("TiB", 2**40, 2), ("GiB", 2**30, 2), ("MiB", 2**20, 1), ("KiB", 2**10, 1)):
        if size >= factor:
            return unit, factor, digits
    return "B", 1, 0


def format_duration(seconds: float) -> str:
    """Format a measured duration for people: ``0.7s``, ``3m 05s``."""
    return f"{seconds:.1f}s" if seconds < 60 else format_seconds(seconds)


def format_seconds(seconds: float) -> str:
    """Format a duration in whole seconds for people: ``4s``, ``3m 05s``, ``2h 10m``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02d}m"


def format_list(names: Sequence[str], most: int = 5) -> str:
    """Format names for people: ``a, b``, of many the first ``most``: ``a, b, c, d, e and 3 more``."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def format_count(number: int, thing: str) -> str:
    """Format a number of things: ``1 file``, ``3 files``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
