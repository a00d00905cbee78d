"""When to ask a source again, and when to give it up. Pure: it is told what happened and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelfetch.core.units import format_seconds
from modelfetch.errors import ModelfetchError, RetryLaterError
from modelfetch.http.status import RateLimitedError, ServerError

if TYPE_CHECKING:
    from modelfetch.transfer.types import Tuning

_SOME = 64 * 1024
"""An attempt that brought so many bytes is followed by the next at once."""
_LONG = 10.0
"""Seconds after which an attempt must have kept the floor rate to count as progress: else a source that sends a few
bytes and then nothing, again and again, would never be given up."""


@dataclass(slots=True)
class Attempts:
    """The attempts at one source: those in a row without progress are counted.

    Args:
        most: How many of them may there be.
        tuning: The seconds that it goes by.
        now: When the first one starts, on the engine's clock.
    """

    most: int
    tuning: Tuning
    now: float
    failed: int = 0
    _idle: float = 0.0
    _seconds: float = 0.0
    _gained: int = 0

    def after(self, error: ModelfetchError, *, gained: int, now: float) -> float:
        """Seconds to wait before the next attempt.

        Args:
            error: How the last one ended.
            gained: The bytes that it brought.
            now: The time.

        Raises:
            ModelfetchError: `error`, or the word that the source wants to be left alone for too long.
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
            self.now += asked  # waiting because we were asked to is not held against the source
            return max(asked, delay)
        if self._idle + (delay if self.failed else 0.0) > self.tuning.source_seconds:
            raise error
        return delay

    def _is_progress(self, gained: int, spent: float) -> bool:
        """Whether an attempt brought something, and it and those before it no less than a connection has to bring."""
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
