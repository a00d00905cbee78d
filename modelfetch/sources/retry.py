"""Asking again: when, how often, how long; the waiting itself is passed in.

The rules are those of a transfer (`modelfetch.transfer.retry`), for questions that either succeed whole or fail whole.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from modelfetch.core.units import format_seconds
from modelfetch.errors import ModelfetchError, RetryLaterError
from modelfetch.http.names import NameLookupError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

LONGEST_PAUSE = 120.0
"""A source's ``Retry-After`` is honoured up to so many seconds; a longer one is told to the user (exit code 75)."""

_LOOKUPS = 3
"""Attempts where a host name can't be resolved: a second or two cover a name server that is just starting."""

MAX_TOTAL_WAIT = 60.0
"""Seconds that one source gets before the next mirror is tried: its silence and our pauses; waits that it asked for are
not counted.
"""


def pause(error: ModelfetchError, attempt: int) -> float | None:
    """Seconds to wait after a failed attempt (counted from 1) before the next one; None: asking again can't help.

    Own pauses are 1, 2, 4, 8, 16 seconds; where a source names a time, that is what counts.

    Raises:
        RetryLaterError: The source names a time that is longer than we wait.
    """
    if error.permanent or (isinstance(error, NameLookupError) and attempt >= _LOOKUPS):
        return None
    asked = asked_pause(error)
    if asked is None:
        return min(2.0 ** (attempt - 1), 16.0)
    if asked > LONGEST_PAUSE:
        raise RetryLaterError(
            f"{error.message}, and wants to be asked again in {format_seconds(asked)}",
            code="rate-limited",
            hint=error.hint or "run it again then: what was fetched is kept",
            uri=error.uri,
        )
    return max(asked, 0.2)


def asked_pause(error: ModelfetchError) -> float | None:
    """Seconds after which a source wants to be asked again; None where it doesn't say."""
    asked: float | None = getattr(error, "retry_after", None)
    return asked


async def retry(
    call: Callable[[], Awaitable[T]],
    *,
    retries: int,
    sleep: Callable[[float], Awaitable[object]],
    on_retry: Callable[[ModelfetchError, float], object] = lambda _error, _delay: None,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """Await ``call`` until it succeeds, fails for good, or has failed ``retries`` times.

    Args:
        call: One attempt.
        retries: How many attempts there are at most (`--retries`); at least one is made.
        sleep: Waits so many seconds.
        on_retry: Hears of each failure that is not the last, and of the wait that follows.
        clock: Seconds that only grow.

    Raises:
        ModelfetchError: The last failure.
    """
    spent = 0.0
    attempt = 0
    while True:
        attempt += 1
        began = clock()
        try:
            return await call()
        except ModelfetchError as error:
            delay = pause(error, attempt)
            if delay is None or attempt >= retries:
                raise
            spent += clock() - began
            if asked_pause(error) is None:
                spent += delay
                if spent > MAX_TOTAL_WAIT:
                    raise
            on_retry(error, delay)
        await sleep(delay)
