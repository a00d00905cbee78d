from __future__ import annotations

from modelfetch.core.cancel import Cancel
from modelfetch.transfer.scheduler import Segment
from modelfetch.transfer.stragglers import StragglerDetector

MIB = 2**20


def dropped(rates: list[float], *, size: int = 20 * MIB, at_end: bool = True, slow_after: float = 1e9) -> int:
    """The number of connections dropped within ten seconds; after ``slow_after`` each has a hundredth of its rate."""
    stragglers, received = StragglerDetector(4), 0
    segments = [Segment(0, size) for _ in rates]
    cancels = [Cancel() for _ in rates]
    for segment, cancel in zip(segments, cancels, strict=True):
        stragglers.begin(segment, cancel, 0.0)
    for tick in range(1, 500):
        for segment, rate in zip(segments, rates, strict=True):
            count = min(segment.left, int(rate / 50 / (100 if tick / 50 > slow_after else 1)))
            segment.position += count
            received += count
        active = sum(segment.left > 0 for segment in segments)
        found = stragglers.step(tick / 50, received, active=active, setup=0.05, at_end=at_end)
        if found is not None:
            found.set()
    return sum(cancel.is_set() for cancel in cancels)


def test_the_connection_that_delays_the_end_is_closed() -> None:
    assert dropped([20e6, 20e6, 20e6, 1e4]) == 1
    assert dropped([20e6, 20e6, 20e6, 0]) == 1


def test_a_connection_as_slow_as_the_others_is_kept() -> None:
    assert dropped([1e5]) == 0
    assert dropped([1e5, 2e5, 1e5]) == 0


def test_no_connection_is_closed_while_work_remains() -> None:
    assert dropped([20e6, 20e6, 1e4], at_end=False) == 0


def test_a_link_that_becomes_slow_closes_each_connection_at_most_once() -> None:
    assert 0 < dropped([5e6] * 6, size=100 * MIB, slow_after=2.0) <= 4
