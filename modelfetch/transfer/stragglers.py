"""Find the connection that holds up the end of a file, so that its range is requested again. No I/O."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelfetch.core.cancel import Cancel
    from modelfetch.transfer.scheduler import Segment

_WINDOW = 1.0
_SETUPS = 4
_WORSE = 4
"""A connection is dropped when the rest would take this many times as long as over another one, plus a second."""


@dataclass(slots=True, eq=False)
class Work:
    """A connection's current range, how to end it, and its position at the last check."""

    segment: Segment
    cancel: Cancel
    since: float
    position: int


class StragglerDetector:
    """Watches the connections of one attempt, which call `begin` and `end` for each range.

    Args:
        most: How many connections may be dropped: on a link that has become slow as a whole, dropping does not help.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._works: list[Work] = []
        self._seconds = 0.0
        self._before: float | None = None

    def begin(self, segment: Segment, cancel: Cancel, now: float) -> Work:
        """Record that a connection begins a range; pass the result to `end`."""
        work = Work(segment, cancel, now, segment.position)
        with self._lock:
            self._works.append(work)
        return work

    def end(self, work: Work) -> None:
        """Record that a connection has finished its range."""
        with self._lock:
            self._works.remove(work)

    def step(self, now: float, received: int, *, active: int, setup: float, at_end: bool) -> Cancel | None:
        """Return what ends the connection to drop now, if there is one.

        Args:
            now: The time.
            received: Bytes that all connections have received.
            active: Connections at work.
            setup: Seconds from a request to its first byte.
            at_end: Whether no range waits, so that other connections are idle.
        """
        self._seconds += active * (now - self._before) if self._before is not None else 0.0
        self._before = now
        if not at_end or self._most <= 0 or self._seconds <= 0 or received <= 0:
            return None
        with self._lock:
            found = [work for work in self._works if self._lags(work, now, received / self._seconds, setup)]
        if not found:
            return None
        self._most -= 1
        return max(found, key=lambda work: work.segment.left).cancel

    def _lags(self, work: Work, now: float, typical: float, setup: float) -> bool:
        """Whether a connection is far slower than another one would be; measured over at least a second."""
        seconds, left = now - work.since, work.segment.left
        if seconds < max(_WINDOW, _SETUPS * setup) or left == 0:
            return False
        rate = (work.segment.position - work.position) / seconds
        work.since, work.position = now, work.segment.position
        return left > rate * (_WORSE * (left / typical + 2 * setup) + 1.0)
