"""What a person or a program sees while work goes on."""

from __future__ import annotations

import io
import json
import os
import pty
import sys
import time

import pytest

from modelfetch.core.events import (
    Event,
    Notice,
    Planned,
    SourceFailed,
    TransferEnded,
    TransferFinished,
    TransferProgress,
    TransferRetrying,
    TransferStarted,
    Waiting,
)
from modelfetch.render.progress import Bar, Json, Log, Quiet
from modelfetch.render.sentence import sentence

MIB = 2**20
START = TransferStarted(key="k", label="base: x.safetensors", size=1000 * MIB, offset=0, source="hf://a/b")
END = TransferFinished(
    key="k", label="base: x.safetensors", size=1000 * MIB, fetched=1000 * MIB, seconds=10.0, digest="sha256:" + "a" * 64
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_log_has_one_line_every_few_seconds_for_each_running_file_with_rate_and_eta() -> None:
    out, clock = io.StringIO(), Clock()
    log = Log(out, clock=clock, every=5)
    log(START)
    for second in range(1, 13):
        clock.now = second
        log(TransferProgress(key="k", done=50 * MIB * second))
        log.tick()
    log.close()
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[1] == "base: x.safetensors  25 %  250.0 MiB of 1000.0 MiB  50.0 MiB/s  ETA 15s"


def test_a_stall_shows_in_the_rate_and_the_lines_go_on() -> None:
    out, clock = io.StringIO(), Clock()
    log = Log(out, clock=clock, every=5)
    log(START)
    clock.now = 1
    log(TransferProgress(key="k", done=50 * MIB))
    clock.now = 60
    log.tick()
    log.close()
    assert "50.0 MiB of 1000.0 MiB" in out.getvalue().splitlines()[-1]


def test_the_clock_of_a_log_ticks_by_itself() -> None:
    out = io.StringIO()
    log = Log(out, every=0.05)
    log(START)
    deadline = time.monotonic() + 5
    while out.getvalue().count("\n") < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    log.close()
    assert out.getvalue().count("ETA") >= 2


@pytest.mark.parametrize("renderer", [Log, Quiet, Json])
def test_no_control_character_of_a_server_reaches_the_terminal(renderer: type[Log]) -> None:
    out = io.StringIO()
    evil = "\x1b[2J\x07evil\r\nerror: forged"
    view = renderer(out)
    view(TransferStarted(key="k", label=evil, size=None, offset=0, source=evil))
    view(Notice(level="warning", message=evil, hint=evil))
    view.close()
    text = out.getvalue()
    assert "evil" in text
    assert not any(ord(c) < 0x20 and c != "\n" for c in text)
    assert "\nerror: forged" not in text


def test_json_progress_is_one_object_a_line() -> None:
    out = io.StringIO()
    view = Json(out)
    for event in (Planned(artifacts=1, bytes=5, present=0), START, TransferProgress(key="k", done=7), END):
        view(event)
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [e["event"] for e in events] == ["planned", "transfer-started", "transfer-progress", "transfer-finished"]
    assert events[2]["done"] == 7


def test_a_bar_for_each_running_file_and_lines_above_it() -> None:
    out = io.StringIO()
    bar = Bar(out)
    bar(START)
    bar(TransferProgress(key="k", done=500 * MIB))
    bar(Notice(level="warning", message="look"))
    bar(END)
    bar.close()
    text = out.getvalue()
    assert "base: x.safetensors" in text
    assert "50%" in text
    assert "warning: look" in text


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (Planned(artifacts=1, bytes=MIB, present=3), "1 file to fetch, 1.0 MiB; 3 already here"),
        (Planned(artifacts=0, bytes=0, present=3), None),
        (
            TransferStarted(key="k", label="l", size=10 * MIB, offset=5 * MIB, source="s"),
            "l: resuming at 5.0 MiB of 10.0 MiB",
        ),
        (TransferStarted(key="k", label="l", size=10, offset=0, source="s"), None),
        (
            TransferRetrying(key="k", label="l", reason="reset", delay=0, attempt=0, attempts=5),
            "l: reset; going on where it stopped",
        ),
        (
            TransferRetrying(key="k", label="l", reason="reset", delay=2, attempt=1, attempts=5),
            "l: reset; again in 2s (try 1 of 5)",
        ),
        (Waiting(key="k", label="l", owner="pid 7", seconds=31), "l: waiting for pid 7 (31s so far)"),
    ],
)
def test_an_event_as_a_sentence(event: Event, text: str | None) -> None:
    assert sentence(event, verbose=False) == text


def test_a_reader_that_went_away_does_not_stop_the_work() -> None:
    out = io.StringIO()
    log = Log(out)
    out.close()
    log(START)
    log.close()


FAILED = SourceFailed(key="k", label="base: x.safetensors", source="hf://a/b", reason="no answer")


def test_a_source_that_failed_is_named_once_the_next_one_is_tried() -> None:
    out = io.StringIO()
    log = Log(out)
    log(FAILED)
    assert out.getvalue() == ""
    log(START)
    log.close()
    assert out.getvalue().startswith("base: x.safetensors: hf://a/b failed (no answer); trying the next mirror\n")


def test_each_mirror_that_failed_is_named_too() -> None:
    out = io.StringIO()
    log = Log(out)
    for event in (FAILED, FAILED, TransferEnded(key="k", label="base: x.safetensors")):
        log(event)
    first, last = out.getvalue().splitlines()
    assert first == "base: x.safetensors: hf://a/b failed (no answer); trying the next mirror"
    assert last == "base: x.safetensors: hf://a/b failed (no answer)"


def test_a_failure_of_the_only_source_is_left_to_the_error_that_follows() -> None:
    out = io.StringIO()
    log = Log(out)
    for event in (FAILED, TransferEnded(key="k", label="base: x.safetensors")):
        log(event)
    assert out.getvalue() == ""


def test_small_files_have_no_bar() -> None:
    out = io.StringIO()
    bar = Bar(out)
    bar(TransferStarted(key="s", label="small", size=MIB, offset=0, source="s"))
    bar(TransferEnded(key="s", label="small"))
    bar.close()
    assert out.getvalue() == ""


def test_after_a_bar_went_away_the_next_line_begins_at_the_left() -> None:
    out = io.StringIO()
    bar = Bar(out)
    other = TransferStarted(key="o", label="other", size=1000 * MIB, offset=0, source="s")
    for event in (START, other, TransferEnded(key="o", label="other")):
        bar(event)
    assert out.getvalue().endswith("\r")
    bar.close()


def test_a_long_address_in_a_reason_is_cut_to_its_host_unless_more_was_asked_for() -> None:
    reason = f"https://cdn.example/{'a' * 64} broke off before the end of the file"
    event = TransferRetrying(key="k", label="l", reason=reason, delay=0, attempt=0, attempts=5)
    short = "l: https://cdn.example/… broke off before the end of the file; going on where it stopped"
    assert sentence(event, verbose=False) == short
    assert reason in (sentence(event, verbose=True) or "")


def test_the_same_word_about_many_models_stands_there_once() -> None:
    out = io.StringIO()
    log = Log(out)
    for message in ("hub: no connection", "hub: no connection", "other: no connection"):
        log(Notice(level="info", message=message))
    assert out.getvalue().splitlines() == ["info: hub: no connection", "info: other: no connection"]


def test_a_small_file_that_takes_its_time_has_a_bar() -> None:
    out = io.StringIO()
    bar = Bar(out)
    bar(TransferStarted(key="s", label="small", size=MIB, offset=0, source="s"))
    end = time.monotonic() + 5
    while "small:" not in out.getvalue() and time.monotonic() < end:
        time.sleep(0.1)
        bar(TransferProgress(key="s", done=1000 + int(time.monotonic() * 100) % 1000))
    bar(TransferEnded(key="s", label="small"))
    bar.close()
    assert "small:" in out.getvalue()


def test_a_terminal_that_says_no_size_has_a_bar_nevertheless(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = pty.openpty()  # 0 columns and rows
    with os.fdopen(write, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        bar = Bar(terminal)
        bar(START)
        bar(TransferProgress(key="k", done=10 * MIB))
        bar.close()
        seen = os.read(read, 4096)
    os.close(read)
    assert b"%|" in seen


def test_the_query_of_an_address_is_not_shown() -> None:
    started = TransferStarted(key="k", label="x", size=1, offset=0, source="https://h.example/x?token=planted")
    failed = SourceFailed(key="k", label="x", source="https://h.example/x?token=planted", reason="gone")
    out = io.StringIO()
    Json(out)(started)
    assert json.loads(out.getvalue())["source"] == "https://h.example/x"
    for event in (started, failed):
        assert "planted" not in (sentence(event, verbose=True) or "")
