"""When to retry a source, and when to give up on it. No I/O: the caller passes outcomes and times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelfetch.core.units import format_seconds
from modelfetch.errors import ModelfetchError, RetryLaterError
from modelfetch.http.status import RateLimitedError, ServerError

if TYPE_CHECKING:
    from modelfetch.transfer.types import Tuning

_SOME = 64 * 1024
"""After an attempt that gained this many bytes, the next one follows at once."""
_LONG = 10.0
"""Seconds after which an attempt must have kept the minimum rate to count as progress. Otherwise a source that sends a
few bytes and then stalls, again and again, would be retried forever."""


@dataclass(slots=True)
class Attempts:
    """The attempts at one source; those in a row without progress are counted.

    Args:
        most: The maximum number of consecutive attempts without progress.
        tuning: The intervals.
        now: The start of the first one, on the engine's clock.
    """

    most: int
    tuning: Tuning
    now: float
    failed: int = 0
    _idle: float = 0.0
    _seconds: float = 0.0
    _gained: int = 0

    def after(self, error: ModelfetchError, *, gained: int, now: float) -> float:
        """Record a failed attempt; returns the seconds to wait before the next one.

        Args:
            error: The error that ended it.
            gained: The bytes that it gained.
            now: The time.

        Raises:
            ModelfetchError: `error`, or RetryLaterError if the source asks for too long a pause.
        """
        spent, self.now = now - self.now, now
        if error.permanent:
            raise error
        if self._is_progress(gained, spent):
            self.failed, self._idle = 0, 0.0
            delay = 0.0 if gained >= _SOME else self.tuning.breath
        else:
            self.failed += 1
            self._idle += spent
            delay = self._backoff()
        asked = error.retry_after if isinstance(error, RateLimitedError | ServerError) else None
        if asked is not None and asked > self.tuning.retry_after_most:
            raise _later(error, asked)
        if self.failed >= self.most:
            raise error
        if asked is not None:
            self.now += asked  # a requested pause does not count against the source
            return max(asked, delay)
        if self._idle + (delay if self.failed else 0.0) > self.tuning.source_seconds:
            raise error
        return delay

    def _is_progress(self, gained: int, spent: float) -> bool:
        """Whether an attempt gained bytes, and together with those before it kept the minimum rate."""
        floor = self.tuning.floor_rate
        self._seconds += spent
        self._gained += max(0, gained)
        if self._gained >= floor * self._seconds:
            self._seconds, self._gained = 0.0, 0
        crawls = self._seconds >= self.tuning.floor_seconds
        return gained > 0 and not crawls and (spent < _LONG or gained >= floor * spent)

    def _backoff(self) -> float:
        doubled = self.tuning.backoff_first * 2.0 ** (self.failed - 1)
        return min(doubled * (1.0 + self.tuning.jitter() / 4), self.tuning.backoff_most)


def _later(error: ModelfetchError, seconds: float) -> RetryLaterError:
    return RetryLaterError(
        f"{error.message}, and wants to be asked again in {format_seconds(seconds)}",
        code="rate-limited",
        hint="run it again then: what was fetched is kept",
        uri=error.uri,
    )
