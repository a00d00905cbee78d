"""Which connection holds up the end of a file, so that what it has is better asked for anew. No I/O."""

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
"""A connection is let go when its rest would take so many times as long as by another one, and a second."""


@dataclass(slots=True, eq=False)
class Work:
    """A connection at a range: how to end it, and where it was at a moment."""

    segment: Segment
    cancel: Cancel
    since: float
    position: int


class StragglerDetector:
    """Watches the connections of one attempt; each tells when it begins a range and when it is through.

    Args:
        most: How many may be let go: where all of a link has become slow, that would help nobody.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._works: list[Work] = []
        self._seconds = 0.0
        self._before: float | None = None

    def begin(self, segment: Segment, cancel: Cancel, now: float) -> Work:
        """A connection begins a range; `end` takes what this returns."""
        work = Work(segment, cancel, now, segment.position)
        with self._lock:
            self._works.append(work)
        return work

    def end(self, work: Work) -> None:
        """It is through with it."""
        with self._lock:
            self._works.remove(work)

    def step(self, now: float, received: int, *, active: int, setup: float, at_end: bool) -> Cancel | None:
        """The connection to let go now, by what ends it.

        Args:
            now: The time.
            received: Bytes that all connections have brought.
            active: How many are at work.
            setup: Seconds that a request takes to its first byte.
            at_end: Whether no range waits, so that whoever is through has nothing to do.
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
        """Whether a connection's rest takes far longer than another one would; looks at a second or more at a time."""
        seconds, left = now - work.since, work.segment.left
        if seconds < max(_WINDOW, _SETUPS * setup) or left == 0:
            return False
        rate = (work.segment.position - work.position) / seconds
        work.since, work.position = now, work.segment.position
        return left > rate * (_WORSE * (left / typical + 2 * setup) + 1.0)
