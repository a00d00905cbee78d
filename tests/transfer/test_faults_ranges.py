"""Servers that send other ranges, or another file than before: each ends in the right file or in a typed error."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from modelfetch.errors import UnreachableError
from tests.transfer.bodies import DATA
from tests.transfer.server import Conn, Origin, Request, Script, answering, drop_after, head, normally, raw
from tests.transfer.world import World, payload


def whole_file(conn: Conn, request: Request, origin: Origin) -> None:
    """A server without ranges."""
    normally(conn, Request(method="GET", target=request.target, headers={}), origin)


def test_a_200_to_a_range_is_not_appended(world: World, known: bytes | None) -> None:
    with Origin(DATA, scripts=[drop_after(100_000)], default=whole_file) as origin:
        assert world.fetch(origin, data=known).blob.path.read_bytes() == DATA


def test_a_source_without_ranges_that_always_breaks_off_is_given_up(world: World) -> None:
    def half(conn: Conn, request: Request, origin: Origin) -> None:
        drop_after(150_000)(conn, Request(method="GET", target=request.target, headers={}), origin)

    with Origin(DATA, default=half) as origin, pytest.raises(UnreachableError):
        world.fetch(origin, data=DATA)
    assert len(origin.requests) < 30


@pytest.mark.parametrize(
    "content_range",
    [
        "bytes 0-299999/300000",
        "bytes 100001-299999/300000",
        "bytes 100000-299999/299999",
        "bytes 100000-399999/*",
        "bytes 100000-99999/300000",
        "lines 100000-299999/300000",
        "bytes -1-5/9",
        "",
    ],
)
def test_a_wrong_content_range_is_refused(world: World, content_range: str, known: bytes | None) -> None:
    def wrong(conn: Conn, request: Request, origin: Origin) -> None:
        status, fields, start, end = origin.fields(request)
        conn.send(head(status, {**fields, "Content-Range": content_range}) + origin.data[start:end])

    with Origin(DATA, scripts=[drop_after(100_000), wrong]) as origin:
        assert world.fetch(origin, data=known).blob.path.read_bytes() == DATA


def test_a_body_with_several_parts_is_not_appended(world: World, known: bytes | None) -> None:
    def wrong(conn: Conn, request: Request, origin: Origin) -> None:
        status, fields, start, end = origin.fields(request, **{"Content-Type": "multipart/byteranges; boundary=x"})
        part = b"--x\r\nContent-Range: bytes 100000-299999/300000\r\n\r\n"
        conn.send(head(status, fields) + part + origin.data[start : end - len(part)])

    with Origin(DATA, scripts=[drop_after(100_000), wrong]) as origin:
        assert world.fetch(origin, data=known).blob.path.read_bytes() == DATA


def test_a_range_with_a_contradicting_length_is_refused(world: World) -> None:
    def wrong(conn: Conn, request: Request, origin: Origin) -> None:
        status, fields, start, end = origin.fields(request)
        conn.send(head(status, {**fields, "Content-Length": str(end - start - 10)}) + origin.data[start : end - 10])

    with Origin(DATA, scripts=[drop_after(100_000), wrong]) as origin:
        assert world.fetch(origin, data=DATA).blob.path.read_bytes() == DATA


def test_an_unrequested_range_is_refused(world: World) -> None:
    part = head(206, {"Content-Range": "bytes 5-9/300000", "Content-Length": "5"}) + DATA[5:10]
    with Origin(DATA, scripts=[raw(part)]) as origin:
        assert world.fetch(origin, data=DATA).blob.path.read_bytes() == DATA


def test_a_shorter_range_than_requested_is_used_and_the_rest_requested(world: World, known: bytes | None) -> None:
    def shorter(conn: Conn, request: Request, origin: Origin) -> None:
        status, fields, start, end = origin.fields(request)
        stop = min(start + 50_000, end)
        fields |= {"Content-Range": f"bytes {start}-{stop - 1}/{len(origin.data)}", "Content-Length": str(stop - start)}
        conn.send(head(status, fields) + origin.data[start:stop])

    with Origin(DATA, scripts=[drop_after(100_000), shorter, shorter, shorter]) as origin:
        assert world.fetch(origin, data=known).blob.path.read_bytes() == DATA


def test_a_file_that_changes_between_requests_is_restarted(world: World) -> None:
    other = payload(len(DATA), seed=9)

    def change(conn: Conn, request: Request, origin: Origin) -> None:
        origin.data, origin.etag = other, '"other"'
        normally(conn, request, origin)

    with Origin(DATA, scripts=[drop_after(100_000), change]) as origin:
        assert world.fetch(origin).blob.path.read_bytes() == other


def test_a_changed_file_is_restarted_if_the_server_ignores_if_range(world: World) -> None:
    """The server ignores If-Range, but its ETag shows the change."""
    other = payload(len(DATA), seed=9)

    def change(conn: Conn, request: Request, origin: Origin) -> None:
        origin.data, origin.etag = other, '"other"'
        fields = {name: value for name, value in request.headers.items() if name != "if-range"}
        normally(conn, Request(method="GET", target="/", headers=fields), origin)

    with Origin(DATA, scripts=[drop_after(100_000), change]) as origin:
        assert world.fetch(origin).blob.path.read_bytes() == other


@pytest.mark.parametrize("later", [None, 'W/"a"'])
@pytest.mark.parametrize("known", [False, True])
def test_a_part_without_the_validator_of_the_first_bytes_is_added_only_to_a_pinned_file(
    world: World, later: str | None, *, known: bool
) -> None:
    """A server, or a proxy, ignores If-Range and leaves the entity tag out, or weakens it."""
    other = DATA if known else payload(len(DATA), seed=9)

    def change(conn: Conn, request: Request, origin: Origin) -> None:
        origin.data, origin.etag = other, later
        fields = {name: value for name, value in request.headers.items() if name != "if-range"}
        normally(conn, Request(method="GET", target="/", headers=fields), origin)

    with Origin(DATA, scripts=[drop_after(100_000), change], etag='"a"') as origin:
        assert world.fetch(origin, data=DATA if known else None).blob.path.read_bytes() == other
    assert len(origin.requests) == (2 if known else 3)


def test_a_file_whose_length_changes_between_requests_is_restarted(world: World) -> None:
    other = payload(len(DATA) + 5, seed=9)

    def change(conn: Conn, request: Request, origin: Origin) -> None:
        origin.data = other
        normally(conn, request, origin)

    with Origin(DATA, scripts=[drop_after(100_000), change]) as origin:
        assert world.fetch(origin).blob.path.read_bytes() == other


def test_a_file_that_keeps_changing_is_an_error(world: World) -> None:
    def change(conn: Conn, request: Request, origin: Origin) -> None:
        origin.etag = f'"{len(origin.requests)}"'
        drop_after(50_000)(conn, request, origin)

    with Origin(DATA, default=change) as origin, pytest.raises(UnreachableError):
        world.fetch(origin)
    assert len(origin.requests) < 40


def dated(modified: float, sent: float | None, data: bytes = DATA) -> Script:
    """Answer as a server without entity tags does, and break off in the middle of the first answer."""

    def script(conn: Conn, request: Request, origin: Origin) -> None:
        fields = {"Last-Modified": formatdate(modified, usegmt=True), "Accept-Ranges": "bytes"}
        if sent is not None:
            fields["Date"] = formatdate(sent, usegmt=True)
        span = request.span(len(data))
        start, end = span or (0, len(data))
        if span is not None:
            fields["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        conn.send(head(206 if span else 200, {**fields, "Content-Length": str(end - start)}))
        conn.send(data[start : end if len(origin.requests) > 1 else 100_000])
        conn.close()

    return script


@pytest.mark.parametrize("age", [0.0, -10.0, None])
def test_a_last_modified_date_as_recent_as_the_answer_is_not_a_validator(world: World, age: float | None) -> None:
    """The file is replaced within the second: both versions have the same date, and the server finds them equal."""
    now = 1_700_000_000.0 if age is not None else time.time()
    sent = now + age if age is not None else None
    with Origin(DATA, scripts=[dated(now, sent, payload(len(DATA), seed=9)), dated(now, sent)], etag=None) as origin:
        assert world.fetch(origin).blob.path.read_bytes() == DATA
    assert "if-range" not in origin.requests[1].headers


@pytest.mark.parametrize("constant", [0.0, 1.0, 315_532_800.0])
def test_a_date_that_builds_give_to_every_version_is_not_a_validator(world: World, constant: float) -> None:
    now = 1_700_000_000.0
    scripts = [dated(constant, now, payload(len(DATA), seed=9)), dated(constant, now)]
    with Origin(DATA, scripts=scripts, etag=None) as origin:
        assert world.fetch(origin).blob.path.read_bytes() == DATA
    assert "if-range" not in origin.requests[1].headers


@pytest.mark.parametrize(("age", "has_date"), [(1.0, True), (3600.0, True), (3600.0, False)])
def test_an_older_last_modified_date_is_a_validator(world: World, age: float, *, has_date: bool) -> None:
    now = time.time() if not has_date else 1_700_000_000.0
    with Origin(DATA, default=dated(now - age, now if has_date else None), etag=None) as origin:
        assert world.fetch(origin).blob.path.read_bytes() == DATA
    assert origin.requests[1].headers["if-range"] == formatdate(now - age, usegmt=True)


def test_a_partial_file_with_another_date_is_discarded(world: World) -> None:
    """From a server that does not know If-Range, and no entity tags."""
    now = 1_700_000_000.0
    scripts = [dated(now - 100, now, payload(len(DATA), seed=9)), dated(now - 50, now)]
    with Origin(DATA, scripts=scripts, default=dated(now - 50, now), etag=None) as origin:
        assert world.fetch(origin).blob.path.read_bytes() == DATA


@pytest.mark.parametrize("etag", ['""', '"a", "b"', '"a\tb"', '"\xe9"', "x" * 5000])
def test_an_etag_that_cannot_be_sent_is_not_a_validator(world: World, etag: str) -> None:
    with Origin(DATA, scripts=[drop_after(100_000)], etag=etag) as origin:
        assert world.fetch(origin).blob.path.read_bytes() == DATA
    assert "if-range" not in origin.requests[1].headers


def test_bytes_without_a_validator_are_not_resumed_where_no_digest_decides(world: World) -> None:
    with Origin(DATA, scripts=[drop_after(100_000)], etag=None) as origin:
        assert world.fetch(origin).blob.path.read_bytes() == DATA
        assert "range" not in origin.requests[1].headers


def test_bytes_without_a_validator_are_resumed_where_a_digest_decides(world: World) -> None:
    with Origin(DATA, scripts=[drop_after(100_000)], etag=None) as origin:
        assert world.fetch(origin, data=DATA).blob.path.read_bytes() == DATA
        assert origin.requests[1].headers["range"] == f"bytes=100000-{len(DATA) - 1}"


def test_a_416_for_a_partial_from_another_version_starts_again(world: World) -> None:
    def shrink(conn: Conn, request: Request, origin: Origin) -> None:
        origin.data, origin.etag = DATA[:50_000], '"small"'
        conn.answer(416, {"Content-Range": "bytes */50000"})

    with Origin(DATA, scripts=[drop_after(100_000), shrink]) as origin:
        assert world.fetch(origin).blob.path.read_bytes() == DATA[:50_000]


def test_a_416_confirms_that_a_body_of_unknown_length_was_complete(world: World) -> None:
    def chunked_without_end(conn: Conn, _request: Request, origin: Origin) -> None:
        conn.send(head(200, {"Transfer-Encoding": "chunked", "ETag": origin.etag or ""}))
        conn.send(b"%x\r\n%b\r\n" % (len(DATA), DATA))
        conn.close()

    with Origin(DATA, scripts=[chunked_without_end]) as origin:
        assert world.fetch(origin).blob.path.read_bytes() == DATA
        assert origin.requests[1].headers["range"] == f"bytes={len(DATA)}-"


def test_a_permanent_416_is_an_error(world: World) -> None:
    scripts = [drop_after(100_000)]
    with Origin(DATA, scripts=scripts, default=answering(416)) as origin, pytest.raises(UnreachableError):
        world.fetch(origin, data=DATA)
    assert len(origin.requests) < 20
