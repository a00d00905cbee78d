"""Asking again: when, how often, how long; the waiting itself is passed in."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from modelfetch.errors import ModelfetchError, RetryLaterError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

LONGEST_PAUSE = 120.0
"""A source's ``Retry-After`` is honoured up to so many seconds; a longer one is told to the user (exit code 75)."""

PATIENCE = 60.0
"""Seconds of waiting that one source gets before the next mirror is tried; waits that it asked for not counted."""


def pause(error: ModelfetchError, attempt: int) -> float | None:
    """Seconds to wait after a failed attempt (counted from 1) before the next one; None: don't.

    Own pauses are 1, 2, 4, 8, 16 seconds; where a source names a time, that is what counts.
    """
    asked: float | None = getattr(error, "retry_after", None)
    if error.permanent and not isinstance(error, RetryLaterError):
        return None
    if error.code == "lock-timeout":
        return None
    if asked is not None:
        return max(asked, 0.2) if asked <= LONGEST_PAUSE else None
    return min(2.0 ** (attempt - 1), 16.0)


async def persist(
    call: Callable[[], Awaitable[T]],
    *,
    retries: int,
    sleep: Callable[[float], Awaitable[object]],
    told: Callable[[ModelfetchError, float], object] = lambda _error, _delay: None,
) -> T:
    """Await ``call`` until it succeeds, fails for good, or has failed ``retries`` times more than once.

    Args:
        call: One attempt.
        retries: How many more attempts a failure gets.
        sleep: Waits so many seconds.
        told: Hears of each failure that is not the last, and of the wait that follows.

    Raises:
        ModelfetchError: The last failure.
    """
    waited = 0.0
    attempt = 0
    while True:
        attempt += 1
        try:
            return await call()
        except ModelfetchError as error:
            delay = pause(error, attempt)
            if delay is None or attempt > retries:
                raise
            if getattr(error, "retry_after", None) is None:
                waited += delay
                if waited > PATIENCE:
                    raise
            told(error, delay)
        await sleep(delay)
