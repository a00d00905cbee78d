from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from modelfetch.errors import ModelfetchError, NotFoundError, RetryLaterError, UnreachableError
from modelfetch.http.status import RateLimitedError, ServerError
from modelfetch.sources.resolver import in_thread
from modelfetch.sources.retry import pause, retry

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("error", "attempt", "seconds"),
    [
        (UnreachableError("x"), 1, 1),
        (UnreachableError("x"), 5, 16),
        (UnreachableError("x"), 9, 16),
        (UnreachableError("x", permanent=True), 1, None),
        (NotFoundError("x"), 1, None),
        (RateLimitedError("x", retry_after=30), 1, 30),
        (RateLimitedError("x", retry_after=120), 1, 120),
        (RateLimitedError("x", retry_after=None), 2, 2),
        (RateLimitedError("x", retry_after=0), 1, 0.2),
        (ServerError("x", retry_after=7), 1, 7),
        (RetryLaterError("x", code="lock-timeout"), 1, None),
    ],
)
def test_how_long_the_next_try_waits(error: ModelfetchError, attempt: int, seconds: float | None) -> None:
    assert pause(error, attempt) == seconds


@pytest.mark.parametrize("error", [RateLimitedError("x", retry_after=121), ServerError("x", retry_after=3600)])
def test_a_wait_beyond_our_patience_is_told_as_75(error: ModelfetchError) -> None:
    with pytest.raises(RetryLaterError, match="asked again in") as caught:
        pause(error, 1)
    assert (caught.value.exit_code, caught.value.code) == (75, "rate-limited")


def _persist(failures: list[ModelfetchError], attempts: int = 5) -> tuple[str, list[float]]:
    waits: list[float] = []

    async def call() -> str:
        if failures:
            raise failures.pop(0)
        return "done"

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    return asyncio.run(retry(call, retries=attempts, sleep=sleep)), waits


def test_five_attempts_in_a_row_double_their_pauses() -> None:
    assert _persist([UnreachableError("x")] * 4) == ("done", [1, 2, 4, 8])
    with pytest.raises(UnreachableError):
        _persist([UnreachableError("x")] * 5)


def test_a_source_gets_a_minute_of_our_own_pauses_however_many_tries_are_left() -> None:
    with pytest.raises(UnreachableError):
        _persist([UnreachableError("x")] * 50, attempts=50)
    assert _persist([RateLimitedError("x", retry_after=100)] * 4)[1] == [100] * 4


def test_at_least_one_attempt_is_made() -> None:
    assert _persist([], attempts=0) == ("done", [])
    with pytest.raises(UnreachableError):
        _persist([UnreachableError("x")], attempts=0)


def _run(work: Callable[[], object], limit: float) -> object:
    return asyncio.run(in_thread(work, limit=limit))


def test_work_in_a_thread_gives_its_result_or_its_exception() -> None:
    assert _run(lambda: 7, 5) == 7
    with pytest.raises(ZeroDivisionError):
        _run(lambda: 1 // 0, 5)


def test_work_that_never_ends_holds_up_neither_the_attempt_nor_the_loop() -> None:
    import threading

    blocked = threading.Event()
    with pytest.raises(UnreachableError) as caught:
        _run(lambda: blocked.wait(30), 0.05)
    assert (caught.value.code, caught.value.permanent) == ("timeout", False)
    blocked.set()


def test_a_cancelled_question_ends_at_once() -> None:
    import threading

    blocked = threading.Event()

    async def ask() -> None:
        task = asyncio.create_task(in_thread(lambda: blocked.wait(30), limit=60))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(ask())
    blocked.set()


@pytest.mark.parametrize(("silence", "asked"), [(30.0, 2), (59.5, 1), (61.0, 1), (20.0, 3), (0.0, 5)])
def test_the_time_that_a_silent_source_takes_counts_against_its_minute(silence: float, asked: int) -> None:
    now = 0.0
    calls = 0

    async def call() -> None:
        nonlocal now, calls
        now += silence
        calls += 1
        raise UnreachableError("no answer in time", code="timeout")

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    with pytest.raises(UnreachableError):
        asyncio.run(retry(call, retries=5, sleep=sleep, clock=lambda: now))
    assert calls == asked
