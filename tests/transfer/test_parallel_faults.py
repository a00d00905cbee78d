"""Faults while several connections fetch one file."""

from __future__ import annotations

import errno
import threading
import time
from typing import Any

import pytest

from modelfetch.config.options import Options
from modelfetch.errors import DiskError, UnreachableError
from modelfetch.http import Timeouts
from modelfetch.transfer.concurrency import ConcurrencyController
from modelfetch.transfer.prefix_hash import PrefixHasher
from tests.transfer.server import Conn, Origin, Request, Script, answering, drop_after, head, normally
from tests.transfer.world import World, payload

DATA = payload(24_000_000, seed=13)


def capped(rate: int, **more: str) -> Script:
    """So many bytes per second for each connection; `more` header fields."""

    def script(conn: Conn, request: Request, origin: Origin) -> None:
        status, fields, start, end = origin.fields(request, **more)
        conn.send(head(status, fields))
        begin, step = time.monotonic(), rate // 50
        for turn, at in enumerate(range(start, end, step)):
            conn.send(origin.data[at : min(at + step, end)])
            if origin.stop.wait(max(0.0, begin + (turn + 1) / 50 - time.monotonic())):
                return

    return script


@pytest.mark.parametrize("known", [DATA, None])
def test_servers_with_different_etags_for_one_version_still_serve_the_file(world: World, known: bytes | None) -> None:
    """Each request reaches another machine behind one name, and each has its own ETag for the same bytes."""

    def machine(conn: Conn, request: Request, origin: Origin) -> None:
        name = f'"machine {len(origin.requests)}"'
        if request.headers.get("if-range") not in (None, name):
            request = Request(method=request.method, target=request.target, headers={})
        capped(20_000_000, ETag=name)(conn, request, origin)

    with Origin(DATA, default=machine) as origin:
        assert world.fetch(origin, data=known).blob.path.read_bytes() == DATA
        assert len(origin.requests) < 40


def test_a_web_page_for_a_further_connection_stops_none_that_works(world: World) -> None:
    page = answering(200, {"Content-Type": "text/html"}, b"<html>Too many connections</html>")
    with Origin(DATA, scripts=[capped(20_000_000)], default=page) as origin:
        fetched = world.fetch(origin, data=DATA, path="model.safetensors")
        assert fetched.blob.path.read_bytes() == DATA
        assert fetched.bytes_fetched == len(DATA)
        assert 1 < len(origin.requests) < 10


def test_a_source_that_sends_one_byte_per_range_is_read_without_ranges(world: World) -> None:
    def crumbs(conn: Conn, request: Request, origin: Origin) -> None:
        if "range" not in request.headers:
            normally(conn, request, origin)
            return
        start, _ = request.span(len(DATA)) or (0, 0)
        fields = {"Content-Range": f"bytes {start}-{start}/{len(DATA)}", "ETag": origin.etag or ""}
        conn.answer(206, fields, DATA[start : start + 1])

    with Origin(DATA, scripts=[drop_after(5_000_000)], default=crumbs) as origin:
        assert world.fetch(origin, data=DATA).blob.path.read_bytes() == DATA
        assert len(origin.requests) < 10


def test_slow_first_bytes_are_below_the_minimum_rate(world: World) -> None:
    def trickle(conn: Conn, request: Request, origin: Origin) -> None:
        status, fields, start, end = origin.fields(request)
        conn.send(head(status, fields))
        for at in range(start, end):
            conn.send(DATA[at : at + 1])
            if origin.stop.wait(0.05):
                return

    world.options = Options(retries=1)
    start = time.monotonic()
    with Origin(DATA, default=trickle) as origin, pytest.raises(UnreachableError) as caught:
        world.fetch(origin, path="model.safetensors")
    assert caught.value.code == "timeout"
    assert time.monotonic() - start < 8, "512 bytes at this pace take 25 seconds"


def test_a_disk_that_can_not_be_read_stops_all_connections_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: object, **_more: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(PrefixHasher, "catch_up", broken)
    start = time.monotonic()
    with Origin(DATA, default=capped(1_000_000)) as origin:
        with pytest.raises(DiskError) as caught:
            world.fetch(origin, data=DATA)
        assert caught.value.exit_code == 74
    assert time.monotonic() - start < 2.5, "the connections would have needed three seconds at least"


def test_without_more_threads_one_connection_fetches_the_file(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real, started = threading.Thread.start, [0]

    def start(self: threading.Thread, *args: Any) -> None:
        if self.name == "modelfetch-connection":
            started[0] += 1
            if started[0] > 1:
                raise RuntimeError("can't start new thread")
        real(self, *args)

    monkeypatch.setattr(threading.Thread, "start", start)
    with Origin(DATA, default=capped(30_000_000)) as origin:
        assert world.fetch(origin, data=DATA).blob.path.read_bytes() == DATA
        assert len(origin.requests) == 1
        assert started[0] > 1


def test_the_last_segment_is_reassigned_from_a_slow_connection(world: World) -> None:
    def crawling(conn: Conn, request: Request, origin: Origin) -> None:
        capped(100_000 if len(origin.requests) == 3 else 10_000_000)(conn, request, origin)

    start = time.monotonic()
    with Origin(DATA, default=crawling) as origin:
        fetched = world.fetch(origin, data=DATA)
        assert fetched.blob.path.read_bytes() == DATA
        assert fetched.bytes_fetched < len(DATA) + 2 * 2**20
    assert time.monotonic() - start < 10, "the last bytes take that connection twenty seconds"


def test_the_last_segment_is_reassigned_from_a_stalled_connection(world: World) -> None:
    def stalling(conn: Conn, request: Request, origin: Origin) -> None:
        if len(origin.requests) == 3:
            status, fields, start, _ = origin.fields(request)
            conn.send(head(status, fields) + DATA[start : start + 300_000])
            origin.stop.wait(30)
        capped(10_000_000)(conn, request, origin)

    world.timeouts = Timeouts(connect=10.0, headers=10.0, idle=20.0)
    start = time.monotonic()
    with Origin(DATA, default=stalling) as origin:
        assert world.fetch(origin, data=DATA).blob.path.read_bytes() == DATA
    assert time.monotonic() - start < 10, "it would be waited for for twenty seconds"


def test_a_slow_first_connection_leaves_the_end_of_its_range_to_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its buffers are large, but it claims no more of them than it fills in a moment."""
    # A busy machine may not find that more connections help: all of them are opened.
    more = lambda self, _now, _total, *, active, left, behind=0.0: int(active < self.most)  # noqa: E731
    monkeypatch.setattr(ConcurrencyController, "step", more)
    with Origin(DATA[:20_000_000], default=capped(2_000_000)) as origin:
        assert world.fetch(origin, data=DATA[:20_000_000]).blob.path.read_bytes() == DATA[:20_000_000]
        assert len(origin.requests) > 8, "each of the eight connections was asked once, and the first one did the rest"
