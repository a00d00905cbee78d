"""Progress on stderr."""

from __future__ import annotations

import io
import json
import os
import pty
import sys
from typing import TYPE_CHECKING

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
from modelfetch.render.log import Log
from modelfetch.render.renderers import Json, Quiet, make_progress
from modelfetch.render.sentence import sentence
from tests.cases import each

if TYPE_CHECKING:
    from modelfetch.render.progress import Progress

MIB = 2**20
START = TransferStarted(key="k", label="base: x.safetensors", size=1000 * MIB, offset=0, source="hf://a/b")
END = TransferFinished(
    key="k", label="base: x.safetensors", size=1000 * MIB, fetched=1000 * MIB, seconds=10.0, digest="sha256:" + "a" * 64
)


@each("renderer", [Log, Quiet, Json])
def test_no_control_character_of_a_server_reaches_the_terminal(renderer: type[Progress]) -> None:
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


@each(
    ("event", "text"),
    [
        (Planned(artifacts=1, bytes=MIB, present=3), "1 file to download, 1.0 MiB; 3 already here"),
        (Planned(artifacts=0, bytes=0, present=3), None),
        (
            TransferStarted(key="k", label="l", size=10 * MIB, offset=5 * MIB, source="s"),
            "l: resuming at 5.0 MiB of 10.0 MiB",
        ),
        (TransferStarted(key="k", label="l", size=10, offset=0, source="s"), None),
        (
            TransferRetrying(key="k", label="l", reason="reset", delay=0, attempt=0, attempts=5),
            "l: reset; continuing where it stopped",
        ),
        (
            TransferRetrying(key="k", label="l", reason="reset", delay=2, attempt=1, attempts=5),
            "l: reset; retrying in 2s (attempt 1 of 5)",
        ),
        (Waiting(key="k", label="l", owner="pid 7", seconds=31), "l: waiting for pid 7 (31s so far)"),
    ],
)
def test_each_event_is_described_in_one_sentence(event: Event, text: str | None) -> None:
    assert sentence(event, verbose=False) == text


def test_a_closed_progress_stream_does_not_stop_the_work() -> None:
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


def test_the_failure_of_the_only_source_is_not_logged_before_its_error() -> None:
    out = io.StringIO()
    log = Log(out)
    for event in (FAILED, TransferEnded(key="k", label="base: x.safetensors")):
        log(event)
    assert out.getvalue() == ""


def test_a_long_address_is_shortened_to_its_host_unless_verbose() -> None:
    reason = f"https://cdn.example/{'a' * 64} broke off before the end of the file"
    event = TransferRetrying(key="k", label="l", reason=reason, delay=0, attempt=0, attempts=5)
    short = "l: https://cdn.example/… broke off before the end of the file; continuing where it stopped"
    assert sentence(event, verbose=False) == short
    assert reason in (sentence(event, verbose=True) or "")


def test_a_message_about_many_models_is_printed_once() -> None:
    out = io.StringIO()
    log = Log(out)
    for message in ("hub: no connection", "hub: no connection", "other: no connection"):
        log(Notice(level="info", message=message))
    assert out.getvalue().splitlines() == ["info: hub: no connection", "info: other: no connection"]


def test_the_query_of_an_address_is_not_shown() -> None:
    started = TransferStarted(key="k", label="x", size=1, offset=0, source="https://h.example/x?token=planted")
    failed = SourceFailed(key="k", label="x", source="https://h.example/x?token=planted", reason="gone")
    out = io.StringIO()
    Json(out)(started)
    assert json.loads(out.getvalue())["source"] == "https://h.example/x"
    for event in (started, failed):
        assert "planted" not in (sentence(event, verbose=True) or "")


@pytest.mark.parametrize(
    ("kind", "term", "name"),
    [("auto", "xterm", "Bars"), ("auto", "dumb", "Log"), ("bar", "dumb", "Bars"), ("log", "xterm", "Log")],
)
def test_a_terminal_that_can_not_move_its_cursor_gets_lines(
    monkeypatch: pytest.MonkeyPatch, kind: str, term: str, name: str
) -> None:
    read, write = pty.openpty()
    with os.fdopen(write, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", term)
        assert type(make_progress(kind, verbose=False, quiet=False)).__name__ == name
    os.close(read)
