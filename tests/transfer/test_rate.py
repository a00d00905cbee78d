from __future__ import annotations

import pytest

from modelfetch.core.cancel import Cancel
from modelfetch.errors import InterruptedSync, UnreachableError
from modelfetch.transfer.rate import Floor, Limiter


def trickle(floor: Floor, count: int, seconds: range) -> None:
    for second in seconds:
        floor.note(count, float(second))


def test_a_connection_is_ended_below_the_minimum_rate() -> None:
    floor = Floor(16 * 1024, 60.0, 0.0)
    for second in range(1, 600):
        floor.note(16 * 1024, float(second))
    slow = Floor(16 * 1024, 60.0, 0.0)
    with pytest.raises(UnreachableError):
        trickle(slow, 16 * 1024 - 300, range(1, 62))


def test_a_slow_end_is_detected_after_a_fast_start() -> None:
    floor = Floor(16 * 1024, 60.0, 0.0)
    floor.note(10**9, 1.0)
    with pytest.raises(UnreachableError):
        trickle(floor, 100, range(2, 70))


def test_a_limiter_without_a_rate_never_waits() -> None:
    limiter = Limiter(None)
    limiter.take(10**15, Cancel())
    assert limiter.step is None


def test_a_cancelled_call_does_not_wait_for_the_rate_limit() -> None:
    cancel = Cancel()
    cancel.set()
    with pytest.raises(InterruptedSync):
        Limiter(1000).take(10**6, cancel)
