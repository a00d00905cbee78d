"""One rule of retries for metadata, headers and downloads."""

from __future__ import annotations

import asyncio

import pytest

from modelfetch.errors import (
    CredentialsError,
    ModelfetchError,
    NotFoundError,
    RetryLaterError,
    UnreachableError,
)
from modelfetch.http.names import NameLookupError
from modelfetch.http.retry import Attempts, RetryTiming, retry
from modelfetch.http.status import RateLimitedError, ServerError
from modelfetch.transfer.types import Tuning
from tests.cases import each

MIB = 2**20
EXACT = RetryTiming(jitter=lambda: 0.0)


def attempts(**changes: float) -> Attempts:
    return Attempts(5, RetryTiming(jitter=lambda: 0.0, **changes), 0.0)  # type: ignore[arg-type]


def delays(tries: Attempts, error: ModelfetchError, *, seconds: float = 0.0, gained: int = 0) -> list[float]:
    """The delays until the error is raised."""
    found, now = [], 0.0
    for _ in range(100):
        now += seconds
        try:
            found.append(tries.after(error, gained=gained, now=now))
        except ModelfetchError:
            return found
        now += found[-1]
    raise AssertionError("it never ends")


def test_a_few_bytes_before_each_stall_do_not_count_as_progress() -> None:
    assert len(delays(attempts(), UnreachableError("x"), seconds=31.0, gained=1000)) < 3
    with pytest.raises(AssertionError, match="never ends"):
        delays(attempts(), UnreachableError("x"), seconds=31.0, gained=MIB)


def test_a_few_bytes_before_each_disconnect_soon_stop_counting_as_progress() -> None:
    few = delays(attempts(), UnreachableError("x"), seconds=3.0, gained=1000)
    assert 60 / 4 < len(few) < 30
    with pytest.raises(AssertionError, match="never ends"):
        delays(attempts(), UnreachableError("x"), seconds=3.0, gained=MIB)


def test_five_attempts_in_a_row_are_one_to_sixteen_seconds_apart() -> None:
    assert delays(attempts(), UnreachableError("x")) == [1.0, 2.0, 4.0, 8.0]
    assert (
        delays(Attempts(9, RetryTiming(jitter=lambda: 0.0, source_seconds=1e9), 0.0), UnreachableError("x"))[4:]
        == [16.0] * 4
    )


def test_a_source_gets_sixty_seconds_without_progress() -> None:
    assert len(delays(attempts(), UnreachableError("x", code="timeout"), seconds=30.0)) == 1
    assert len(delays(attempts(), UnreachableError("x"), seconds=15.0)) == 3


def test_a_permanent_error_is_not_retried() -> None:
    assert delays(attempts(), UnreachableError("x", permanent=True)) == []
    assert delays(attempts(), CredentialsError("x")) == []
    assert delays(attempts(), NotFoundError("x")) == []
    assert delays(attempts(), RetryLaterError("x", code="lock-timeout")) == []


def test_progress_starts_the_count_again() -> None:
    tries = attempts()
    for turn in range(50):
        assert tries.after(UnreachableError("x"), gained=0, now=turn * 10.0) == 1.0
        assert tries.after(UnreachableError("x"), gained=100, now=turn * 10.0 + 5) == 0.1
        assert tries.after(UnreachableError("x"), gained=10**6, now=turn * 10.0 + 5) == 0.0


def test_retry_after_is_honoured_up_to_two_minutes() -> None:
    for kind in (RateLimitedError, ServerError):
        assert attempts().after(kind("x", retry_after=120.0), gained=0, now=0.0) == 120.0
        with pytest.raises(RetryLaterError) as caught:
            attempts().after(kind("x", retry_after=121.0), gained=0, now=0.0)
        assert (caught.value.exit_code, caught.value.code) == (75, "rate-limited")


def test_a_retry_after_of_zero_still_waits() -> None:
    assert attempts().after(RateLimitedError("x", retry_after=0), now=0.0) == 1.0
    assert attempts().after(RateLimitedError("x", retry_after=None), now=0.0) == 1.0


def test_a_name_that_does_not_resolve_is_looked_up_three_times_and_by_a_transfer_as_often_as_it_may() -> None:
    assert delays(attempts(), NameLookupError("x")) == [1.0, 2.0]
    assert delays(Attempts(1, EXACT, 0.0), NameLookupError("x")) == []
    assert delays(Attempts(5, Tuning(jitter=lambda: 0.0), 0.0), NameLookupError("x")) == [1.0, 2.0, 4.0, 8.0]


def test_a_requested_wait_does_not_count_as_a_failure() -> None:
    assert delays(attempts(), RateLimitedError("x", retry_after=100.0)) == [100.0] * 4


def test_jitter_never_makes_a_delay_longer_than_the_longest() -> None:
    tries = Attempts(50, RetryTiming(jitter=lambda: 1.0, source_seconds=1e9), 0.0)
    assert max(delays(tries, UnreachableError("x"))) == 16.0


# --- the loop --------------------------------------------------------------------------------------------------


def run(failures: list[ModelfetchError], retries: int = 5, *, silence: float = 0.0) -> tuple[int, list[float]]:
    """The attempts made and the pauses between them; each attempt takes ``silence`` seconds."""
    now, calls = 0.0, 0
    waits: list[float] = []

    async def call() -> int:
        nonlocal now, calls
        now += silence
        calls += 1
        if failures:
            raise failures.pop(0)
        return calls

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        waits.append(seconds)

    try:
        asyncio.run(retry(call, retries=retries, sleep=sleep, timing=EXACT, clock=lambda: now))
    except UnreachableError:
        return -calls, waits
    return calls, waits


def test_a_call_is_repeated_until_it_succeeds_or_has_failed_as_often_as_allowed() -> None:
    assert run([UnreachableError("x")] * 4) == (5, [1, 2, 4, 8])
    assert run([UnreachableError("x")] * 5) == (-5, [1, 2, 4, 8])
    assert run([RateLimitedError("x", retry_after=100)] * 4) == (5, [100] * 4)
    assert run([UnreachableError("x")] * 50, 50)[0] == -7  # sixty seconds are over


def test_at_least_one_attempt_is_made() -> None:
    assert run([], 0) == (1, [])
    assert run([UnreachableError("x")], 0) == (-1, [])


@each(("silence", "made"), [(30.0, 2), (59.5, 1), (61.0, 1), (20.0, 3), (0.0, 5)])
def test_the_time_that_a_silent_source_takes_counts_against_its_minute(silence: float, made: int) -> None:
    assert run([UnreachableError("no answer within the time limit", code="timeout")] * 5, silence=silence)[0] == -made
