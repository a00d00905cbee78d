"""Every request that the hub saw, for tests to read."""

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
    """One request and what came of it.

    ``sent`` counts body bytes handed to the socket; ``connection`` numbers the connections, so that reuse shows.
    ``status`` is 0 until headers went out; ``ended`` is None while the answer is under way (seconds, monotonic clock).
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
        """Note a request that has just been read; returns its number."""
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
        """Note the status, just before headers go out."""
        self._update(number, status=status, faults=faults)

    def count(self, number: int, sent: int) -> None:
        """Note how many body bytes have been handed over so far."""
        self._update(number, sent=sent)

    def close(self, number: int) -> None:
        """Note that the answer is over, whole or not."""
        self._update(number, ended=time.monotonic())

    def _update(self, number: int, **changes: object) -> None:
        with self._changed:
            entry = self._entries.get(number)
            if entry is not None:  # cleared by a test meanwhile
                self._entries[number] = replace(entry, **changes)  # type: ignore[arg-type]
                self._changed.notify_all()

    def requests(self, glob: str = "*", *, origin: str | None = None, method: str | None = None) -> list[LoggedRequest]:
        """The requests whose decoded path matches ``glob`` (``*`` crosses slashes), oldest first."""
        with self._changed:
            entries = list(self._entries.values())
        return [
            entry
            for entry in entries
            if fnmatchcase(entry.path, glob) and origin in (None, entry.origin) and method in (None, entry.method)
        ]

    def mark(self) -> int:
        """A point in time for ``since``."""
        with self._changed:
            return self._next

    def since(self, mark: int) -> list[LoggedRequest]:
        """The requests that came after ``mark``."""
        return [entry for entry in self.requests() if entry.number >= mark]

    def clear(self) -> None:
        """Forget all requests; one under way is not logged again."""
        with self._changed:
            self._entries.clear()

    def sent(self, glob: str = "*", *, origin: str | None = None) -> int:
        """Body bytes sent for the requests that match."""
        return sum(entry.sent for entry in self.requests(glob, origin=origin))

    def wait_idle(self, timeout: float = 5.0) -> bool:
        """Wait until no answer is under way; False when ``timeout`` seconds were not enough."""
        with self._changed:
            return self._changed.wait_for(
                lambda: all(entry.ended is not None for entry in self._entries.values()), timeout
            )

    def __len__(self) -> int:
        with self._changed:
            return len(self._entries)
