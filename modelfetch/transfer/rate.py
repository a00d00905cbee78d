"""Rate limits: a maximum for the whole process, a minimum for each connection."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from modelfetch.core.units import format_size
from modelfetch.errors import UnreachableError

if TYPE_CHECKING:
    from modelfetch.core.cancel import Cancel

_BURST = 0.05


class Limiter:
    """A maximum rate for all connections together; without one it costs nothing.

    All connections take turns on one time line, so that the total holds however many there are.
    """

    def __init__(self, rate: int | None) -> None:
        self.rate = rate
        self._lock = threading.Lock()
        self._next = 0.0

    @property
    def step(self) -> int | None:
        """The most bytes that a connection should read at once, None for no limit."""
        return None if self.rate is None else max(1024, min(256 * 1024, int(self.rate * _BURST)))

    def take(self, count: int, cancel: Cancel) -> None:
        """Wait until ``count`` bytes, which were just received, are within the limit.

        Raises:
            InterruptedSync: It was cancelled meanwhile.
        """
        if self.rate is None:
            return
        with self._lock:
            now = time.monotonic()
            # A sleep that was too long is compensated for, idle time is not.
            begin = now if self._next == 0.0 else max(self._next, now - _BURST)
            self._next = begin + count / self.rate
            delay = self._next - now
        if delay > 0 and cancel.wait(delay):
            cancel.check()


class Floor:
    """The minimum rate of a connection, measured over a period.

    Args:
        rate: Bytes per second; 0 for no minimum.
        seconds: The period in seconds.
        now: The time at which the connection started.
    """

    def __init__(self, rate: float, seconds: float, now: float) -> None:
        self._rate = rate
        self._seconds = seconds
        self._marks: deque[tuple[float, int]] = deque([(now, 0)])
        self._total = 0

    def note(self, count: int, now: float) -> None:
        """Record ``count`` bytes as received.

        Raises:
            UnreachableError: The connection is too slow (``timeout``, retryable).
        """
        self._total += count
        if now - self._marks[-1][0] >= self._seconds / 20:
            self._marks.append((now, self._total))
        while len(self._marks) > 1 and now - self._marks[1][0] >= self._seconds:
            self._marks.popleft()
        then, total = self._marks[0]
        if now - then >= self._seconds and (self._total - total) < self._rate * (now - then):
            raise UnreachableError(
                f"the connection gave less than {format_size(self._rate)} per second for {self._seconds:.0f} s",
                code="timeout",
            )
