"""Types of the HTTP layer. Does not import httpx, which a run without network access does not need."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Protocol, Self

from modelfetch.core.units import MAX_SIZE

FLOOR_RATE = 16 * 1024
"""Lowest acceptable transfer rate, in bytes per second."""
FLOOR_SECONDS = 60.0
"""Time below `FLOOR_RATE` after which a connection is dropped, in seconds."""
_CONTENT_RANGE = re.compile(r"bytes (?:([0-9]{1,19})-([0-9]{1,19})|\*)/([0-9]{1,19}|\*)")


class Headers(Mapping[str, str]):
    """Header fields by case-insensitive name; values of repeated fields are joined with ``, ``."""

    def __init__(self, items: Iterable[tuple[str, str]] | Mapping[str, str] = ()) -> None:
        self._fields: dict[str, str] = {}
        for name, value in items.items() if isinstance(items, Mapping) else items:
            key = name.lower()
            self._fields[key] = f"{self._fields[key]}, {value}" if key in self._fields else value

    def __getitem__(self, name: str) -> str:
        return self._fields[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __repr__(self) -> str:
        return f"Headers({sorted(self._fields)})"  # names only: values may be secret


@functools.lru_cache(maxsize=64)  # of many small files, most have the same dates
def http_date(text: str) -> float | None:
    """Parse a date of a header field into Unix time; None if it is invalid. Without a time zone, it is in GMT."""
    if not text.isascii() or not text.isprintable():
        return None
    try:
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentRange:
    """The part of a file that a response contains: from ``start`` to ``end`` (exclusive), which are equal in a refusal.

    ``size`` is that of the whole file in bytes, None if the server does not know it.
    """

    start: int
    end: int
    size: int | None

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Self | None:
        """Parse ``Content-Range``; None if it is missing, invalid, or that of a body with several parts.

        Source: RFC 9110, sections 14.4 and 15.3.7.2. Each part begins with header fields of its own.
        """
        match = _CONTENT_RANGE.fullmatch(headers.get("content-range", "").strip())
        if match is None or headers.get("content-type", "").strip().lower().startswith("multipart/byteranges"):
            return None
        start, end = (int(match[1]), int(match[2]) + 1) if match[1] else (0, 0)
        size = None if match[3] == "*" else int(match[3])
        valid = start <= end <= MAX_SIZE if size is None else start <= end <= size <= MAX_SIZE
        if not valid or (match[1] and start == end):
            return None
        return cls(start=start, end=end, size=size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Time limits in seconds.

    Attributes:
        connect: To connect.
        headers: To receive all headers.
        idle: Between two bytes of a body.
        payload: Between two bytes of a body's content; chunk sizes, extensions and trailers do not count.
    """

    connect: float = 10.0
    headers: float = 60.0
    idle: float = 30.0
    payload: float = FLOOR_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A complete response; ``url`` is the final URL (it may be signed, so show it with `redact`)."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str
    authorized: bool = False
    """Whether the request to ``url`` carried a credential."""


class Fetch(Protocol):
    """Sends one request and returns its complete response: `Http.get`."""

    def __call__(
        self,
        url: str,
        /,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
        limit: int = ...,
    ) -> Reply:
        """Send a request; raises as `Http.open` does."""


class Authenticator(Protocol):
    """Provides credentials for requests."""

    def headers(self, url: str) -> Mapping[str, str]:
        """Return the credential header fields for a request to this URL; called for every hop."""

    def rejected(self, url: str) -> bool:
        """Return whether a login was sent for this URL, in which case a 401 means it was rejected."""

    def challenged(self, url: str, status: int, headers: Mapping[str, str], fetch: Fetch) -> bool:
        """Handle a 401 or 403 from this URL; return whether credentials were renewed and a retry makes sense.

        Raises:
            CredentialsError: The required credential can't be read, or the token server rejects it.
        """
