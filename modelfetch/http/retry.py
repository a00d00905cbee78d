"""When to retry a source, and when to stop: one rule for metadata, headers and downloads.

`Attempts` decides and does no I/O: the caller passes outcomes and times, and waits. `retry` is the loop for a coroutine
that succeeds or fails as a whole.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from modelfetch.core.units import format_seconds
from modelfetch.errors import ModelfetchError, RetryLaterError
from modelfetch.http.names import NameLookupError
from modelfetch.http.status import RateLimitedError, ServerError
from modelfetch.http.types import FLOOR_RATE, FLOOR_SECONDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

_SOME = 64 * 1024
"""After an attempt that gained this many bytes, the next one follows at once."""
_LONG = 10.0
"""Seconds after which an attempt must have kept the minimum rate to count as progress. Otherwise a source that sends a
few bytes and then stalls, again and again, would be retried forever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryTiming:
    """Intervals between attempts, in seconds, and rates, in bytes per second.

    Attributes:
        floor_rate: The minimum rate of an attempt that counts as progress.
        floor_seconds: How long it may be below that.
        backoff_first: The first pause; each one in a row is twice as long.
        backoff_most: The longest of these pauses.
        short_pause: The pause after an attempt with little progress.
        source_seconds: How long a source may make no progress, pauses included, before the next mirror is tried. Waits
            that the source requested do not count.
        retry_after_most: The longest ``Retry-After`` to wait for; a longer one ends in exit code 75.
        name_lookups: Attempts if a host name can't be resolved. Three, in two or three seconds, are enough for a name
            server that is just starting.
        jitter: Returns a number from 0 to 1 that lengthens a pause by up to a quarter.
    """

    floor_rate: int = FLOOR_RATE
    floor_seconds: float = FLOOR_SECONDS
    backoff_first: float = 1.0
    backoff_most: float = 16.0
    short_pause: float = 0.1
    source_seconds: float = 60.0
    retry_after_most: float = 120.0
    name_lookups: int = 3
    jitter: Callable[[], float] = random.random


@dataclass(slots=True)
class Attempts:
    """The attempts at one source; those in a row without progress are counted.

    Args:
        most: The maximum number of consecutive attempts without progress; at least one is made.
        timing: The intervals.
        now: The start of the first one, on a monotonic clock.
    """

    most: int
    timing: RetryTiming
    now: float
    failed: int = 0
    _idle: float = 0.0
    _seconds: float = 0.0
    _gained: int = 0

    def after(self, error: ModelfetchError, *, now: float, gained: int = 0) -> float:
        """Record a failed attempt; returns the seconds to wait before the next one.

        Args:
            error: The error that ended it.
            now: The time.
            gained: The bytes that it gained.

        Raises:
            ModelfetchError: `error`, or RetryLaterError if the source requests too long a pause.
        """
        spent, self.now = now - self.now, now
        if error.permanent:
            raise error
        if self._is_progress(gained, spent):
            self.failed, self._idle = 0, 0.0
            delay = 0.0 if gained >= _SOME else self.timing.short_pause
        else:
            self.failed += 1
            self._idle += spent
            delay = self._backoff()
        requested = error.retry_after if isinstance(error, RateLimitedError | ServerError) else None
        if requested is not None and requested > self.timing.retry_after_most:
            raise _retry_later_error(error, requested)
        if self.failed >= self._most(error):
            raise error
        if requested is not None:
            self.now += requested  # a requested pause does not count against the source
            return max(requested, delay)
        if self._idle + (delay if self.failed else 0.0) > self.timing.source_seconds:
            raise error
        return delay

    def _most(self, error: ModelfetchError) -> int:
        most = max(1, self.most)
        return min(most, self.timing.name_lookups) if isinstance(error, NameLookupError) else most

    def _is_progress(self, gained: int, spent: float) -> bool:
        """Whether an attempt gained bytes, and together with those before it kept the minimum rate."""
        floor = self.timing.floor_rate
        self._seconds += spent
        self._gained += max(0, gained)
        if self._gained >= floor * self._seconds:
            self._seconds, self._gained = 0.0, 0
        crawls = self._seconds >= self.timing.floor_seconds
        return gained > 0 and not crawls and (spent < _LONG or gained >= floor * spent)

    def _backoff(self) -> float:
        doubled = self.timing.backoff_first * 2.0 ** (self.failed - 1)
        return min(doubled * (1.0 + self.timing.jitter() / 4), self.timing.backoff_most)


def _retry_later_error(error: ModelfetchError, seconds: float) -> RetryLaterError:
    return RetryLaterError(
        f"{error.message}; it can be tried again in {format_seconds(seconds)}",
        code="rate-limited",
        hint=error.hint or "run it again then: what was fetched is kept",
        uri=error.uri,
    )


async def retry(
    call: Callable[[], Awaitable[T]],
    *,
    retries: int,
    sleep: Callable[[float], Awaitable[object]],
    on_retry: Callable[[ModelfetchError, float], object] = lambda _error, _delay: None,
    timing: RetryTiming | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """Await ``call`` until it succeeds, fails for good, or has failed ``retries`` times.

    Args:
        call: One attempt.
        retries: Maximum number of attempts (`--retries`); at least one is made.
        sleep: Waits for a number of seconds.
        on_retry: Called with each failure except the last, and the wait that follows.
        timing: The intervals.
        clock: Monotonic clock, in seconds.

    Raises:
        ModelfetchError: The last failure.
    """
    attempts = Attempts(retries, timing or RetryTiming(), clock())
    while True:
        try:
            return await call()
        except ModelfetchError as error:
            delay = attempts.after(error, now=clock())
            on_retry(error, delay)
        await sleep(delay)
