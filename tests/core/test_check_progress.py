"""The hashing of existing files, as events."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from modelfetch.core import check_progress
from modelfetch.core.check_progress import WORTH_REPORTING, reporting_check, reporting_large
from modelfetch.core.events import CheckStarted, TransferEnded, TransferProgress
from modelfetch.render.log import Log

if TYPE_CHECKING:
    from modelfetch.core.events import Event


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_progress, "_EVERY", 0.0)


def test_progress_is_the_sum_of_all_pieces() -> None:
    events: list[Event] = []
    with reporting_check(events.append, "k", "checking", size=30, files=2) as advance:
        advance(10)
        advance(20)
    start, *progress, end = events
    assert isinstance(start, CheckStarted)
    assert (start.size, start.files, start.label) == (30, 2, "checking")
    assert [event.done for event in progress if isinstance(event, TransferProgress)] == [10, 30]
    assert end == TransferEnded(key="k", label="checking")


def test_a_failed_check_ends_its_progress() -> None:
    events: list[Event] = []
    with pytest.raises(OSError, match="disk"), reporting_check(events.append, "k", "checking", size=30):
        raise OSError("disk")
    assert isinstance(events[-1], TransferEnded)


def test_the_check_of_a_small_file_is_not_reported() -> None:
    events: list[Event] = []
    with reporting_large(events.append, "small", size=WORTH_REPORTING - 1) as advance:
        advance(1)
    assert not events


def test_a_log_shows_the_percentage_of_a_check() -> None:
    now, out = [0.0], io.StringIO()
    log = Log(out, clock=lambda: now[0])
    with reporting_large(log, "a.safetensors: size or date changed, checking", size=100 * 2**20) as advance:
        advance(40 * 2**20)
        now[0] = 3600.0
        log.tick()
    log.close()
    assert "a.safetensors: size or date changed, checking 1 file, 100.0 MiB" in out.getvalue()
    assert " 40 % " in out.getvalue()
