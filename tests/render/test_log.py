"""The lines of a container's log."""

from __future__ import annotations

import io
import time

import pytest

from modelfetch.core.events import Planned, TransferFinished, TransferProgress, TransferStarted
from modelfetch.render import log as module
from modelfetch.render.log import Log

MIB = 2**20


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def start(log: Log, key: str, size: int = 1000 * MIB) -> None:
    log(TransferStarted(key=key, label=f"{key}.safetensors", size=size, offset=0, source="hf://a/b"))


def end(log: Log, key: str, size: int) -> None:
    log(TransferFinished(key=key, label=key, size=size, fetched=size, seconds=10.0, digest="sha256:" + "a" * 64))


def test_one_line_for_the_whole_run_with_rate_and_eta() -> None:
    out, clock = io.StringIO(), Clock()
    log = Log(out, clock=clock)
    log(Planned(artifacts=3, bytes=2000 * MIB, present=0))
    start(log, "a")
    start(log, "b")
    clock.now = 5
    log(TransferProgress(key="a", done=250 * MIB))
    log(TransferProgress(key="b", done=250 * MIB))
    log.tick()
    log.close()
    line = out.getvalue().splitlines()[-1]
    assert line == ("0/3 files  25 %  500.0 MiB of 1.95 GiB  100.0 MiB/s  ETA 15s  (a.safetensors, b.safetensors)")


def test_the_interval_between_lines_grows() -> None:
    out, clock = io.StringIO(), Clock()
    log = Log(out, clock=clock)
    start(log, "a")
    times = []
    for second in range(1, 601):
        clock.now = second
        before = out.getvalue()
        log(TransferProgress(key="a", done=second * MIB))
        log.tick()
        if out.getvalue() != before:
            times.append(second)
    log.close()
    assert times[:6] == [5, 10, 15, 20, 25, 30]
    assert times[6:15] == [60, 90, 120, 150, 180, 210, 240, 270, 300]
    assert times[15:] == [360, 420, 480, 540, 600]


def test_nothing_is_printed_while_no_file_is_in_progress() -> None:
    out, clock = io.StringIO(), Clock()
    log = Log(out, clock=clock)
    start(log, "a", size=5)
    end(log, "a", 5)
    before = out.getvalue()
    clock.now = 100
    log.tick()
    log.close()
    assert out.getvalue() == before


@pytest.mark.parametrize(("files", "lines"), [(2, 1), (1000, 0)])
def test_each_finished_file_has_a_line_unless_there_are_very_many(files: int, lines: int) -> None:
    out = io.StringIO()
    log = Log(out)
    log(Planned(artifacts=files, bytes=files, present=0))
    start(log, "a", size=5)
    end(log, "a", 5)
    log.close()
    assert out.getvalue().count("a: verified, 5 B") == lines


def test_a_log_prints_by_its_own_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_INTERVALS", ((float("inf"), 0.05),))
    out = io.StringIO()
    log = Log(out)
    start(log, "a")
    deadline = time.monotonic() + 10
    while out.getvalue().count("files") + out.getvalue().count("file ") < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    log.close()
    assert out.getvalue().count("0/1 file ") >= 1
