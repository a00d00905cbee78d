"""A log of all requests to the hub, for tests."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from modelfetch.demo.message import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedRequest:
    """One request and its result.

    ``sent`` counts body bytes passed to the socket; ``connection`` is the connection's number, to detect reuse.
    ``status`` is 0 until headers are sent; ``ended`` is None while the response is in progress (monotonic seconds).
    """

    number: int
    origin: str
    connection: int
    method: str
    host: str
    path: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    started: float
    status: int = 0
    sent: int = 0
    ended: float | None = None
    faults: tuple[str, ...] = ()

    @property
    def range(self) -> str | None:
        """The Range header."""
        return self.headers.get("range")

    @property
    def authorization(self) -> str | None:
        """The Authorization header."""
        return self.headers.get("authorization")


class RequestLog:
    """A thread-safe list of requests, oldest first."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._entries: dict[int, LoggedRequest] = {}
        self._next = 0

    def open(self, request: Request, connection: int) -> int:
        """Record a request that has just been read; returns its number."""
        with self._changed:
            number = self._next
            self._next += 1
            self._entries[number] = LoggedRequest(
                number=number,
                origin=request.origin,
                connection=connection,
                method=request.method,
                host=request.headers.get("host", ""),
                path=request.path,
                target=request.target,
                headers=dict(request.headers),
                body=request.body,
                started=time.monotonic(),
            )
            return number

    def answered(self, number: int, status: int, faults: tuple[str, ...]) -> None:
        """Record the status, just before headers are sent."""
        self._update(number, status=status, faults=faults)

    def count(self, number: int, sent: int) -> None:
        """Record the number of body bytes sent so far."""
        self._update(number, sent=sent)

    def close(self, number: int) -> None:
        """Record that the response has ended, complete or not."""
        self._update(number, ended=time.monotonic())

    def _update(self, number: int, **changes: object) -> None:
        with self._changed:
            entry = self._entries.get(number)
            if entry is not None:  # a test may have cleared the log
                self._entries[number] = replace(entry, **changes)  # type: ignore[arg-type]
                self._changed.notify_all()

    def requests(self, glob: str = "*", *, origin: str | None = None, method: str | None = None) -> list[LoggedRequest]:
        """Return the requests whose decoded path matches ``glob`` (``*`` crosses slashes), oldest first."""
        with self._changed:
            entries = list(self._entries.values())
        return [
            entry
            for entry in entries
            if fnmatchcase(entry.path, glob) and origin in (None, entry.origin) and method in (None, entry.method)
        ]

    def mark(self) -> int:
        """Return a point in time for ``since``."""
        with self._changed:
            return self._next

    def since(self, mark: int) -> list[LoggedRequest]:
        """Return the requests after ``mark``."""
        return [entry for entry in self.requests() if entry.number >= mark]

    def clear(self) -> None:
        """Remove all requests; a response in progress is not logged again."""
        with self._changed:
            self._entries.clear()

    def sent(self, glob: str = "*", *, origin: str | None = None) -> int:
        """Return the body bytes sent for matching requests."""
        return sum(entry.sent for entry in self.requests(glob, origin=origin))

    def wait_idle(self, timeout: float = 5.0) -> bool:
        """Wait until no response is in progress; False if that takes longer than ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(
                lambda: all(entry.ended is not None for entry in self._entries.values()), timeout
            )

    def __len__(self) -> int:
        with self._changed:
            return len(self._entries)
