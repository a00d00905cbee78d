from __future__ import annotations

import random

import pytest

from modelfetch.transfer.concurrency import ConcurrencyController
from modelfetch.transfer.types import Tuning

MIB = 2**20


def simulate(
    per_connection: float, total: float, *, most: int, size: int, limit: int | None = None
) -> tuple[int, float]:
    """The final number of connections and the seconds, for a link with a rate per connection and a total rate."""
    controller = ConcurrencyController(most, limit=limit, setup=0.01, tuning=Tuning())
    now, done, active = 0.0, 0, 1
    while done < size:
        now += 0.02
        done += int(min(active * per_connection, total, limit or 1e18) * 0.02)
        active += controller.step(now, done, active=active, left=size - done)
    return active, now


def test_a_server_with_a_cap_per_connection_quickly_gets_the_maximum_of_connections() -> None:
    for most in (4, 8, 16):
        connections, seconds = simulate(50e6, 1e12, most=most, size=512 * MIB)
        assert connections == most
        assert seconds < 1.4 * 512 * MIB / (50e6 * most)


def test_a_fast_link_gets_no_further_connection() -> None:
    assert simulate(2 * Tuning().fast_rate, 2 * Tuning().fast_rate, most=16, size=4096 * MIB)[0] == 1


def test_a_full_link_soon_gets_no_further_connection() -> None:
    assert simulate(10e6, 10e6, most=16, size=60 * MIB)[0] == 1


def test_a_short_file_gets_no_further_connection() -> None:
    assert simulate(50e6, 1e12, most=16, size=10 * MIB)[0] == 1


def test_the_rate_limit_of_the_user_causes_no_further_connection() -> None:
    assert simulate(50e6, 1e12, most=16, size=100 * MIB, limit=10_000_000)[0] == 1


def test_buffered_bytes_cause_no_further_connection() -> None:
    controller = ConcurrencyController(16, limit=None, setup=0.01, tuning=Tuning())
    assert not any(controller.step(n / 50, n * 10**6, active=1, left=10**10, behind=0.9) for n in range(200))
    assert any(
        controller.step(4 + n / 50, 2 * 10**8 + n * 10**6, active=1, left=10**10, behind=0.1) for n in range(200)
    )


def test_a_refused_connection_ends_the_growth() -> None:
    controller = ConcurrencyController(16, limit=None, setup=0.01, tuning=Tuning())
    controller.failed(0.0, refused=True, active=3)
    assert controller.most == 3


def test_bursts_over_a_slow_link_do_not_end_the_growth() -> None:
    """Every 0.3 s each connection gets its window's worth, and nothing in between."""
    controller = ConcurrencyController(8, limit=None, setup=0.45, tuning=Tuning())
    done, active = 0, 1
    for tick in range(1, 500):
        done += active * 2 * MIB * (tick % 15 == 0)
        active += controller.step(tick / 50, done, active=active, left=10**10)
    assert active == 8


@pytest.mark.parametrize("rate", [0, 15_000])
def test_connections_without_throughput_cause_no_further_ones(rate: int) -> None:
    """Otherwise some would always be waiting for a response, and the attempt would never fail."""
    controller = ConcurrencyController(8, limit=None, setup=0.01, floor=16 * 1024, tuning=Tuning())
    assert not any(controller.step(n / 50, n * rate // 50, active=1, left=10**10) for n in range(500))
    assert any(controller.step(10 + n / 50, 150_000 + n * 10**6, active=1, left=10**10) for n in range(500))


def test_noise_does_not_cause_unlimited_growth() -> None:
    random_ = random.Random(1)
    controller = ConcurrencyController(16, limit=None, setup=0.01, tuning=Tuning())
    now, done, active = 0.0, 0, 1
    while now < 5:
        now += 0.02
        done += int(20e6 * 0.02 * random_.uniform(0.97, 1.03))
        active += controller.step(now, done, active=active, left=10**12)
    assert active <= 4
