"""Rates, totals and stalls, from events alone."""

from __future__ import annotations

from modelfetch.core.events import Planned, TransferEnded, TransferFinished, TransferProgress, TransferStarted
from modelfetch.render.tracker import Meter, Tracker

MIB = 2**20


def started(key: str, size: int | None, offset: int = 0) -> TransferStarted:
    return TransferStarted(key=key, label=f"label of {key}", size=size, offset=offset, source="hf://a/b")


def finished(key: str, size: int) -> TransferFinished:
    return TransferFinished(key=key, label=key, size=size, fetched=size, seconds=1.0, digest="sha256:" + "a" * 64)


def test_the_total_counts_finished_and_running_files() -> None:
    tracker = Tracker()
    tracker.take(Planned(artifacts=3, bytes=300 * MIB, present=2), 0)
    tracker.take(started("a", 100 * MIB), 0)
    tracker.take(started("b", 100 * MIB, offset=20 * MIB), 0)
    tracker.take(TransferProgress(key="a", done=50 * MIB), 1)
    assert tracker.total is not None
    assert (tracker.total.done, tracker.total.size) == (70 * MIB, 300 * MIB)
    tracker.take(finished("a", 100 * MIB), 2)
    assert tracker.total.done == 120 * MIB
    assert tracker.headline() == "1/3 files"
    tracker.take(TransferEnded(key="b", label="b"), 3)
    assert tracker.total.done == 100 * MIB


def test_a_size_that_the_plan_did_not_know_is_added_when_it_is_known() -> None:
    tracker = Tracker()
    tracker.take(Planned(artifacts=1, bytes=0, present=0), 0)
    tracker.take(started("a", 100 * MIB), 0)
    assert tracker.total is not None
    assert tracker.total.size == 100 * MIB
    assert tracker.total.percent() == 0


def test_bytes_present_at_the_start_do_not_count_as_progress() -> None:
    meter = Meter(size=1000 * MIB, done=500 * MIB, started=0)
    meter.advance(0, 500 * MIB)
    meter.advance(2, 600 * MIB)
    assert meter.rate(2) == 50 * MIB
    assert meter.numbers(2) == "600.0 MiB of 1000.0 MiB  50.0 MiB/s  ETA 8s"


def test_in_a_stall_the_rate_falls_and_the_line_shows_its_duration() -> None:
    meter = Meter(size=1000 * MIB, done=0, started=0)
    for second in range(11):
        meter.advance(second, second * 10 * MIB)
    assert meter.rate(10) == 10 * MIB
    assert meter.rate(20) < 10 * MIB
    assert meter.rate(60) < 2 * MIB
    assert meter.numbers(72) == "100.0 MiB of 1000.0 MiB  stalled for 1m 02s"
    meter.advance(73, 110 * MIB)
    assert "stalled" not in meter.numbers(73)


def test_without_a_size_there_is_no_percentage_and_no_eta() -> None:
    meter = Meter(size=None, done=0, started=0)
    meter.advance(0, 0)
    meter.advance(1, 5 * MIB)
    assert meter.percent() == 0
    assert meter.numbers(1) == "5.0 MiB  5.0 MiB/s"
