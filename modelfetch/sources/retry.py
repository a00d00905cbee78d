"""Retry queries to sources; the waiting function is passed in.

The rules are those of a transfer (`modelfetch.transfer.retry`), for queries that succeed or fail as a whole.
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
"""Longest ``Retry-After`` of a source to wait for, in seconds; a longer one is reported to the user (exit code 75)."""

_LOOKUPS = 3
"""Attempts if a host name can't be resolved: a second or two is enough for a name server that is just starting."""

MAX_TOTAL_WAIT = 60.0
"""Seconds before the next mirror is tried: covers timeouts and our own pauses; waits that the source requested are
not counted.
"""


def pause(error: ModelfetchError, attempt: int) -> float | None:
    """Return the seconds to wait after a failed attempt (counted from 1) before the next; None if a retry can't help.

    Default pauses are 1, 2, 4, 8, 16 seconds; a time given by the source takes precedence.

    Raises:
        RetryLaterError: The source gives a time longer than the limit.
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
    """Return the seconds that a source asks to wait; None if it gives no time."""
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
        retries: Maximum number of attempts (`--retries`); at least one is made.
        sleep: Waits for a number of seconds.
        on_retry: Called with each failure except the last, and the wait that follows.
        clock: Monotonic clock, in seconds.

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
