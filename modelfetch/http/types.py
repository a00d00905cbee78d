"""The values that HTTP deals in. Nothing here imports httpx: a run that needs no network doesn't pay for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from modelfetch.http.client import Http


FLOOR_RATE = 16 * 1024
"""Bytes per second below which whatever is read is given up …"""
FLOOR_SECONDS = 60.0
"""… when it was no faster for so long."""


class Headers(Mapping[str, str]):
    """Header fields by name in any case; of a repeated field the values are joined with ``, ``."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long to wait, in seconds.

    Attributes:
        connect: For a connection.
        headers: For the whole of the headers.
        idle: For the next byte of a body.
        payload: For the next byte of a body's content; chunk sizes, extensions and trailers do not count.
    """

    connect: float = 10.0
    headers: float = 60.0
    idle: float = 30.0
    payload: float = FLOOR_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole answer; ``url`` is where it came from in the end (it may be signed: show it by `redact`)."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str


class Authenticator(Protocol):
    """Who knows the credentials."""

    def headers(self, url: str) -> Mapping[str, str]:
        """The header fields that this URL's own scheme and host may see; asked anew for every hop."""

    def challenged(self, url: str, status: int, headers: Mapping[str, str], http: Http) -> bool:
        """A 401 or 403 came from this URL: True when credentials were renewed and it should be asked once more."""
