"""Rates: a cap for the whole process, and a floor for each connection."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from modelfetch.core.units import format_size
from modelfetch.errors import UnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from modelfetch.core.cancel import Cancel

_BURST = 0.05


class Limiter:
    """A cap on the bytes per second of all connections together; without one it costs nothing.

    Every taker is given its turn on one time line, so that the sum holds however many there are.
    """

    def __init__(self, rate: int | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._clock = clock
        self._lock = threading.Lock()
        self._next = 0.0

    @property
    def step(self) -> int | None:
        """The most bytes that a connection should read at once, None for any."""
        return None if self.rate is None else max(1024, min(256 * 1024, int(self.rate * _BURST)))

    def take(self, count: int, cancel: Cancel) -> None:
        """Wait until so many bytes, which were just received, are within the cap.

        Raises:
            InterruptedSync: It was cancelled meanwhile.
        """
        if self.rate is None:
            return
        with self._lock:
            now = self._clock()
            # A sleep that lasts too long is made up for, but not the time in which nobody wanted anything.
            begin = now if self._next == 0.0 else max(self._next, now - _BURST)
            self._next = begin + count / self.rate
            delay = self._next - now
        if delay > 0 and cancel.wait(delay):
            cancel.check()


class Floor:
    """The rate below which a connection is dropped: so many bytes per second over so many seconds.

    Args:
        rate: Bytes per second; 0 for none.
        seconds: The time over which it is looked at.
        now: When the connection started.
    """

    def __init__(self, rate: float, seconds: float, now: float) -> None:
        self._rate = rate
        self._seconds = seconds
        self._marks: deque[tuple[float, int]] = deque([(now, 0)])
        self._total = 0

    def note(self, count: int, now: float) -> None:
        """So many bytes came.

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
