"""Connections that fail, stall or are slow, over real sockets: each ends in the right file or in a typed error."""

from __future__ import annotations

import time

import pytest

from modelfetch.core.events import TransferRetrying
from modelfetch.errors import UnreachableError
from modelfetch.http import Timeouts
from tests.transfer.bodies import BIG, DATA
from tests.transfer.server import Conn, Origin, Request, drop_after, head, raw, stall_after
from tests.transfer.world import World, quick


def test_a_correct_server_gets_one_request(world: World, known: bytes | None) -> None:
    with Origin(DATA) as origin:
        fetched = world.fetch(origin, data=known)
    assert (fetched.action, fetched.bytes_fetched, fetched.served_by) == ("fetched", len(DATA), origin.url)
    assert fetched.blob.path.read_bytes() == DATA
    assert len(origin.requests) == 1


def test_a_body_that_is_interrupted_a_hundred_times_is_complete(world: World) -> None:
    drops = [drop_after(count) for count in [0, 1, 2, *range(500, 1500, 10)]]
    with Origin(DATA, scripts=[*drops]) as origin:
        # So many requests take seconds on a busy machine.
        world.tuning = quick(backoff_first=0.0, floor_seconds=60.0)
        fetched = world.fetch(origin, data=DATA, allow_pickle=True)
        assert fetched.blob.path.read_bytes() == DATA
        assert len(origin.requests) > 100
        assert origin.sent == len(DATA)


def test_a_reset_connection_is_resumed(world: World, known: bytes | None) -> None:
    with Origin(DATA, scripts=[drop_after(100_000, reset=True), drop_after(50_000, reset=True)]) as origin:
        assert world.fetch(origin, data=known).blob.path.read_bytes() == DATA


def test_a_connection_that_is_reset_before_any_answer_is_tried_again(world: World) -> None:
    with Origin(DATA, scripts=[lambda conn, _r, _o: conn.reset(), lambda conn, _r, _o: conn.close()]) as origin:
        assert world.fetch(origin, data=DATA).blob.path.read_bytes() == DATA


@pytest.mark.parametrize("after", [None, 0, 150_000, 297_000])
def test_a_stall_ends_in_a_new_connection(world: World, after: int | None) -> None:
    world.timeouts = Timeouts(connect=10.0, headers=0.4, idle=0.4)
    with Origin(DATA, scripts=[stall_after(after)]) as origin:
        start = time.monotonic()
        assert world.fetch(origin, data=DATA).blob.path.read_bytes() == DATA
        assert time.monotonic() - start < 5


def test_a_stalled_pump_ends_in_a_new_connection(world: World) -> None:
    world.timeouts = Timeouts(connect=10.0, headers=10.0, idle=1.0)
    with Origin(BIG, scripts=[stall_after(3_000_000)]) as origin:
        assert world.fetch(origin, data=BIG).blob.path.read_bytes() == BIG
        assert origin.requests[1].headers["range"].startswith("bytes=3000000-")


def test_a_source_that_always_stalls_is_a_timeout(world: World) -> None:
    world.timeouts = Timeouts(connect=0.2, headers=0.1, idle=0.1)
    with Origin(DATA, default=stall_after(None)) as origin, pytest.raises(UnreachableError) as caught:
        world.fetch(origin, data=DATA)
    assert (caught.value.code, caught.value.exit_code) == ("timeout", 69)
    assert len(origin.requests) == 5


def slow(conn: Conn, request: Request, origin: Origin) -> None:
    """A few bytes at a time: never idle, never done."""
    status, fields, start, end = origin.fields(request)
    conn.send(head(status, fields))
    for at in range(start, end, 20):
        conn.send(origin.data[at : at + 20])
        if origin.stop.wait(0.02):
            return


@pytest.mark.parametrize("data", [DATA, BIG], ids=["in pieces", "pumped"])
def test_a_connection_below_the_floor_rate_is_dropped_and_resumed(world: World, data: bytes) -> None:
    with Origin(data, scripts=[slow]) as origin:
        assert world.fetch(origin, data=data).blob.path.read_bytes() == data
        assert len(origin.requests) == 2
        assert "less than" in world.events_of(TransferRetrying)[0].reason


def test_slow_headers_are_a_timeout(world: World) -> None:
    def trickle(conn: Conn, _request: Request, origin: Origin) -> None:
        conn.send(b"HTTP/1.1 200 OK\r\n")
        while not origin.stop.wait(0.05):
            conn.send(b"X-More: yes\r\n")

    with Origin(DATA, scripts=[trickle]) as origin:
        start = time.monotonic()
        world.timeouts = Timeouts(connect=0.2, headers=0.3, idle=5)
        assert world.fetch(origin, data=DATA).blob.path.read_bytes() == DATA
        assert time.monotonic() - start < 3


def test_headers_without_end_are_a_bad_answer(world: World) -> None:
    def endless(conn: Conn, _request: Request, origin: Origin) -> None:
        conn.send(b"HTTP/1.1 200 OK\r\n")
        while not origin.stop.is_set():
            conn.send(b"X-Long: " + b"x" * 8000 + b"\r\n")

    with Origin(DATA, default=endless) as origin, pytest.raises(UnreachableError) as caught:
        world.fetch(origin, data=DATA)
    assert caught.value.code == "bad-response"


def test_an_answer_that_is_not_http_is_a_bad_answer(world: World) -> None:
    with (
        Origin(DATA, default=raw(b"\x00\xff\x16\x03 hello\r\n\r\n")) as origin,
        pytest.raises(UnreachableError) as caught,
    ):
        world.fetch(origin, data=DATA)
    assert (caught.value.code, caught.value.exit_code) == ("bad-response", 69)


def test_a_closed_port_is_unreachable(world: World) -> None:
    with pytest.raises(UnreachableError) as caught:
        world.fetch("http://127.0.0.1:9/x", data=DATA)
    assert caught.value.code == "unreachable"
