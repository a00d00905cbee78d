"""Faults of servers, over real sockets: each ends in the right file or in a typed error."""

from __future__ import annotations

import gzip
import time
import tracemalloc
import zlib
from email.utils import formatdate
from typing import Any

import pytest

from modelfetch.core.events import SourceFailed, TransferRetrying
from modelfetch.errors import (
    CredentialsError,
    IntegrityError,
    ModelfetchError,
    NotAModelError,
    NotFoundError,
    RetryLaterError,
    UnreachableError,
)
from modelfetch.http import Timeouts
from tests.transfer.server import Conn, Origin, Request, Script, answering, drop_after, head, normally, raw, stall_after
from tests.transfer.world import World, payload, quick

DATA = payload(300_000)
BIG = payload(5_000_000, seed=2)


def as_chunks(data: bytes) -> bytes:
    """A chunked body."""
    pieces = (data[at : at + 65536] for at in range(0, len(data), 65536))
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@pytest.fixture(params=["digest", "no digest"])
def known(request: pytest.FixtureRequest) -> bytes | None:
    """The data where the digest is known beforehand, None where it isn't."""
    return DATA if request.param == "digest" else None


def test_a_correct_server_gets_one_request(world: World, known: bytes | None) -> None:
    with Origin(DATA) as origin:
        fetched = world.fetch(origin, data=known)
    assert (fetched.action, fetched.bytes_fetched, fetched.served_by) == ("fetched", len(DATA), origin.url)
    assert fetched.blob.path.read_bytes() == DATA
    assert len(origin.requests) == 1


def test_a_body_that_is_interrupted_hundreds_of_times_is_complete(world: World) -> None:
    drops = [drop_after(count) for count in [0, 1, 2, *range(500, 1500, 3)]]
    with Origin(DATA, scripts=[*drops]) as origin:
        world.tuning = quick(
            backoff_first=0.0, floor_seconds=60.0
        )  # hundreds of requests take seconds on a busy machine
        fetched = world.fetch(origin, data=DATA, allow_pickle=True)
        assert fetched.blob.path.read_bytes() == DATA
        assert len(origin.requests) > 250
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


# --- ranges ----------------------------------------------------------------------------------------------------


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


# --- 416 -------------------------------------------------------------------------------------------------------


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


# --- lengths and codings ---------------------------------------------------------------------------------------


def test_a_file_of_another_size_is_refused_before_its_body(world: World) -> None:
    with Origin(DATA + b"more") as origin, pytest.raises(IntegrityError) as caught:
        world.fetch(origin, data=DATA)
    assert (caught.value.code, caught.value.exit_code) == ("size-mismatch", 65)


def chunked(conn: Conn, _request: Request, origin: Origin) -> None:
    """No length, proper chunks."""
    conn.send(head(200, {"Transfer-Encoding": "chunked"}))
    for at in range(0, len(origin.data), 7_000):
        piece = origin.data[at : at + 7_000]
        conn.send(b"%x\r\n%b\r\n" % (len(piece), piece))
    conn.send(b"0\r\n\r\n")


def test_a_chunked_body_is_fetched_completely(world: World, known: bytes | None) -> None:
    with Origin(DATA, default=chunked) as origin:
        assert world.fetch(origin, data=known).blob.path.read_bytes() == DATA


def test_a_large_chunked_body_is_fetched_completely(world: World) -> None:
    with Origin(BIG, default=chunked) as origin:
        assert world.fetch(origin, data=BIG).blob.path.read_bytes() == BIG


def test_a_body_that_ends_with_the_connection_is_accepted(world: World, known: bytes | None) -> None:
    with Origin(DATA, default=raw(b"HTTP/1.0 200 OK\r\n\r\n" + DATA)) as origin:
        assert world.fetch(origin, data=known).blob.path.read_bytes() == DATA


def test_a_longer_body_than_the_file_may_be_is_refused(world: World) -> None:
    with Origin(DATA + b"more", default=chunked) as origin, pytest.raises(IntegrityError) as caught:
        world.fetch(origin, data=DATA)
    assert caught.value.code == "size-mismatch"
    assert world.partial() is None


def test_a_body_shorter_than_the_file_is_requested_again(world: World) -> None:
    short = [raw(b"HTTP/1.0 200 OK\r\n\r\n" + DATA[:1000])]
    with Origin(DATA, scripts=[*short]) as origin:
        assert world.fetch(origin, data=DATA).blob.path.read_bytes() == DATA


def test_a_body_longer_than_announced_is_cut_at_the_announced_end(world: World, known: bytes | None) -> None:
    with Origin(DATA, default=raw(head(200, {"Content-Length": str(len(DATA))}) + DATA + b"trailing")) as origin:
        assert world.fetch(origin, data=known).blob.path.read_bytes() == DATA


@pytest.mark.parametrize("length", ["-5", "abc", "1e3", "5, 6"])
def test_an_invalid_content_length_is_a_bad_answer(world: World, length: str) -> None:
    bad = raw(head(200, {"Content-Length": length}) + DATA)
    with Origin(DATA, scripts=[bad]) as origin:
        assert world.fetch(origin, data=DATA).blob.path.read_bytes() == DATA


def test_an_unrequested_gzip_body_is_decoded(world: World, known: bytes | None) -> None:
    packed = gzip.compress(DATA, 1)
    with Origin(DATA, default=answering(200, {"Content-Encoding": "gzip"}, packed)) as origin:
        assert world.fetch(origin, data=known).blob.path.read_bytes() == DATA
        assert origin.requests[0].headers["accept-encoding"] == "identity"


def test_a_truncated_gzip_body_is_not_kept(world: World) -> None:
    packed = gzip.compress(DATA, 1)
    torn = raw(head(200, {"Content-Encoding": "gzip", "Content-Length": str(len(packed))}) + packed[:1000])
    with Origin(DATA, scripts=[torn, torn]) as origin:
        assert world.fetch(origin, data=DATA).blob.path.read_bytes() == DATA


def test_gzip_data_that_is_damaged_later_is_requested_again_and_then_refused(world: World) -> None:
    packed = gzip.compress(DATA, 1)
    damaged = answering(200, {"Content-Encoding": "gzip"}, packed[:100_000] + bytes(1000) + packed[101_000:])
    with Origin(DATA, scripts=[damaged]) as origin:
        assert world.fetch(origin).blob.path.read_bytes() == DATA
        assert len(origin.requests) == 2
    with Origin(DATA[1:], default=damaged) as origin, pytest.raises(IntegrityError) as caught:
        world.fetch(origin)
    assert (caught.value.code, caught.value.exit_code) == ("unsupported-encoding", 65)
    assert len(origin.requests) > 1


@pytest.mark.parametrize("field", ["compress", "zstd", "exi", "made-up", "gzip", "deflate"])
def test_a_mirror_replaces_a_source_whose_coding_can_not_be_decoded(
    world: World, known: bytes | None, field: str
) -> None:
    coded = answering(200, {"Content-Encoding": field}, b"(" + DATA)
    with Origin(DATA, default=coded) as source, Origin(DATA) as mirror:
        assert world.fetch(source, mirror, data=known).blob.path.read_bytes() == DATA
        assert len(source.requests) <= (1 if known is None else 3)
        assert len(mirror.requests) == 1


@pytest.mark.parametrize("field", ["none", "binary", "utf-8", "aws-chunked", "identity", "Identity, none"])
def test_an_identity_coding_changes_nothing(world: World, known: bytes | None, field: str) -> None:
    with Origin(DATA, default=answering(200, {"Content-Encoding": field}, DATA)) as origin:
        assert world.fetch(origin, data=known).blob.path.read_bytes() == DATA


def test_a_deflate_body_is_decoded(world: World, known: bytes | None) -> None:
    with Origin(DATA, default=answering(200, {"Content-Encoding": "deflate"}, zlib.compress(DATA))) as origin:
        assert world.fetch(origin, data=known).blob.path.read_bytes() == DATA


@pytest.mark.parametrize(
    "field", ["br", "zstd", "compress", "exi", "pack200-gzip", "gzip, gzip", "gzip,br", "made-up", "gzip", "deflate"]
)
@pytest.mark.parametrize("chunked", [False, True])
def test_an_unsupported_coding_is_refused(world: World, field: str, *, chunked: bool) -> None:
    fields = {"Content-Encoding": field}
    coded = raw(head(200, {**fields, "Transfer-Encoding": "chunked"}) + as_chunks(DATA), then_close=False)
    with (
        Origin(DATA, default=coded if chunked else answering(200, fields, DATA)) as origin,
        pytest.raises(IntegrityError) as caught,
    ):
        world.fetch(origin)
    assert (caught.value.code, caught.value.exit_code) == ("unsupported-encoding", 65)
    assert field.partition(",")[0] in caught.value.message
    assert len(origin.requests) == 1


@pytest.mark.parametrize("field", ["gzip", "x-gzip", "br", "zstd", "gzip, gzip"])
@pytest.mark.parametrize("sized", [False, True])
def test_encoded_bytes_with_the_pinned_digest_are_kept_as_they_are(world: World, field: str, *, sized: bool) -> None:
    """As Apache serves a .gz: it declares a content coding, but the bytes are the file."""
    packed = gzip.compress(DATA, 1)
    size = len(packed) if sized else None
    with Origin(packed, default=answering(200, {"Content-Encoding": field}, packed)) as origin:
        assert world.fetch(origin, data=packed, size=size, path="file").blob.path.read_bytes() == packed
    assert len(origin.requests) == (1 if sized or "gzip" not in field or "," in field else 2)


@pytest.mark.parametrize("field", ["gzip", "deflate", "utf-8, gzip", "br"])
@pytest.mark.parametrize("keys", [{"data": DATA, "size": None}, {"data": DATA}, {"size": len(DATA)}])
def test_a_coding_that_was_never_applied_is_ignored_if_the_bytes_match(
    world: World, field: str, keys: dict[str, Any]
) -> None:
    with Origin(DATA, default=answering(200, {"Content-Encoding": field}, DATA)) as origin:
        assert world.fetch(origin, **keys).blob.path.read_bytes() == DATA


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("field", ["gzip", "br"])
def test_encoded_bytes_with_the_pinned_size_are_kept_as_they_are(world: World, field: str, *, chunked: bool) -> None:
    packed = gzip.compress(DATA, 1)
    fields = {"Content-Encoding": field}
    coded = raw(head(200, {**fields, "Transfer-Encoding": "chunked"}) + as_chunks(packed), then_close=False)
    with Origin(packed, default=coded if chunked else answering(200, fields, packed)) as origin:
        assert world.fetch(origin, size=len(packed), path="file.gz").blob.path.read_bytes() == packed
    assert len(origin.requests) == 1


def test_decoded_bytes_with_the_pinned_size_are_kept(world: World) -> None:
    with Origin(DATA, default=answering(200, {"Content-Encoding": "gzip"}, gzip.compress(DATA, 1))) as origin:
        assert world.fetch(origin, size=len(DATA), path="file.gz").blob.path.read_bytes() == DATA
    assert len(origin.requests) == 1


def test_decoded_bytes_with_the_pinned_digest_are_kept(world: World) -> None:
    """By its name the raw bytes are, by its digest they are not; the digest decides."""
    with Origin(DATA, default=answering(200, {"Content-Encoding": "gzip"}, gzip.compress(DATA, 1))) as origin:
        assert world.fetch(origin, data=DATA, size=None, path="file.gz").blob.path.read_bytes() == DATA
    assert len(origin.requests) == 2


@pytest.mark.parametrize("field", ["gzip", "br"])
def test_an_encoded_body_that_matches_neither_raw_nor_decoded_is_refused(world: World, field: str) -> None:
    coded = answering(200, {"Content-Encoding": field}, gzip.compress(b"another file" * 1000))
    with Origin(DATA, default=coded) as origin, pytest.raises(IntegrityError) as caught:
        world.fetch(origin, data=DATA, size=None)
    assert caught.value.exit_code == 65
    assert len(origin.requests) <= 3


def test_an_encoded_file_that_is_interrupted_is_resumed(world: World) -> None:
    packed = gzip.compress(BIG, 0)

    def part(conn: Conn, request: Request, origin: Origin) -> None:
        status, fields, start, end = origin.fields(request, **{"Content-Encoding": "gzip"})
        conn.send(head(status, fields) + origin.data[start : min(start + 3_000_000, end)])
        conn.close()

    with Origin(packed, default=part) as origin:
        assert world.fetch(origin, data=packed).blob.path.read_bytes() == packed
    assert [request.headers.get("range", "") for request in origin.requests][1] == f"bytes=3000000-{len(packed) - 1}"


@pytest.mark.parametrize("size", [1000, None])
def test_a_compression_bomb_is_not_decoded_beyond_the_size_of_the_file(world: World, size: int | None) -> None:
    bomb = gzip.compress(bytes(2**26), 9)
    with Origin(bomb, default=answering(200, {"Content-Encoding": "gzip"}, bomb)) as origin:
        if size is None:  # the size is unknown: it is written piece by piece
            tracemalloc.start()
            assert world.fetch(origin, path="zeros.txt").blob.size == 2**26
            assert tracemalloc.get_traced_memory()[1] < 2**24
            tracemalloc.stop()
        else:
            with pytest.raises(IntegrityError):
                world.fetch(origin, size=size)


# --- bodies of framing only ------------------------------------------------------------------------------------


def trickling(start: bytes, step: bytes) -> Script:
    """Send this, then something at intervals without end."""

    def script(conn: Conn, _request: Request, origin: Origin) -> None:
        conn.send(start)
        while not origin.stop.wait(0.05):
            conn.send(step)

    return script


CHUNKED = head(200, {"Transfer-Encoding": "chunked"})


@pytest.mark.parametrize(
    ("start", "step"),
    [
        (CHUNKED + b"5;", b"x"),
        (CHUNKED + b"5\r\nhello\r\n10;ext=", b"y"),
        (CHUNKED + b"5\r\nhello\r\n0\r\nTrailer: ", b"z"),
        (CHUNKED + b"5\r\nhello\r\n0\r\n", b"A: b\r\n"),
        (head(200, {"Content-Encoding": "gzip"}) + b"\x1f\x8b\x08\x08\0\0\0\0\0\x03", b"name"),
        (head(200, {"Content-Encoding": "gzip"}) + gzip.compress(b"hello"), b"\0"),
        (head(200, {"Content-Encoding": "deflate"}) + zlib.compress(b"hello"), b"x"),
    ],
    ids=["extension", "second extension", "trailer", "trailers", "gzip header", "gzip padding", "after deflate"],
)
def test_a_chunked_body_without_data_is_an_error(world: World, known: bytes | None, start: bytes, step: bytes) -> None:
    world.timeouts = Timeouts(connect=2.0, headers=2.0, idle=4.0, payload=0.2)
    with Origin(DATA, scripts=[trickling(start, step)]) as origin:
        begun = time.monotonic()
        assert world.fetch(origin, data=known).blob.path.read_bytes() == DATA
        assert time.monotonic() - begun < 5
    assert len(origin.requests) == 2


# --- statuses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind", "code", "exit_code"),
    [
        (401, CredentialsError, "missing-or-private", 77),
        (403, CredentialsError, "forbidden", 77),
        (404, NotFoundError, "not-found", 66),
        (410, NotFoundError, "not-found", 66),
        (400, UnreachableError, "bad-response", 69),
        (418, UnreachableError, "bad-response", 69),
        (304, UnreachableError, "bad-response", 69),
    ],
)
def test_a_permanent_status_is_not_retried(
    world: World, status: int, kind: type[ModelfetchError], code: str, exit_code: int
) -> None:
    with Origin(DATA, default=answering(status)) as origin, pytest.raises(kind) as caught:
        world.fetch(origin, data=DATA)
    assert (caught.value.code, caught.value.exit_code) == (code, exit_code)
    assert len(origin.requests) == 1


@pytest.mark.parametrize(("status", "code"), [(500, "server-error"), (502, "server-error"), (408, "server-error")])
def test_a_failing_server_gets_five_requests(world: World, status: int, code: str) -> None:
    with Origin(DATA, default=answering(status)) as origin, pytest.raises(UnreachableError) as caught:
        world.fetch(origin, data=DATA)
    assert (caught.value.code, caught.value.exit_code) == (code, 69)
    assert len(origin.requests) == 5


def test_attempts_count_only_without_progress(world: World) -> None:
    scripts = [answering(500) if turn % 4 else drop_after(20_000) for turn in range(1, 40)]
    with Origin(DATA, scripts=scripts) as origin:
        assert world.fetch(origin, data=DATA).blob.path.read_bytes() == DATA


@pytest.mark.parametrize(("status", "form"), [(429, "seconds"), (503, "date")])
def test_retry_after_is_waited_for(world: World, status: int, form: str) -> None:
    after = "1" if form == "seconds" else formatdate(time.time() + 1.9, usegmt=True)
    with Origin(DATA, scripts=[answering(status, {"Retry-After": after})]) as origin:
        start = time.monotonic()
        assert world.fetch(origin, data=DATA).blob.path.read_bytes() == DATA
        assert 0.8 <= time.monotonic() - start < 2.5


@pytest.mark.parametrize("status", [429, 503])
def test_a_retry_after_that_is_too_long_is_try_again_later(world: World, status: int) -> None:
    with (
        Origin(DATA, default=answering(status, {"Retry-After": "3600"})) as origin,
        pytest.raises(RetryLaterError) as caught,
    ):
        world.fetch(origin, data=DATA)
    assert (caught.value.code, caught.value.exit_code) == ("rate-limited", 75)
    assert len(origin.requests) == 1


def test_a_permanent_429_is_try_again_later(world: World) -> None:
    with Origin(DATA, default=answering(429)) as origin, pytest.raises(RetryLaterError) as caught:
        world.fetch(origin, data=DATA)
    assert caught.value.exit_code == 75
    assert len(origin.requests) == 5


# --- content ---------------------------------------------------------------------------------------------------


def test_a_web_page_is_refused_as_a_model(world: World) -> None:
    page = answering(200, {"Content-Type": "text/html; charset=utf-8"}, b"<!DOCTYPE html><html>Sorry</html>")
    with Origin(DATA, default=page) as origin:
        for data in (DATA, None):
            with pytest.raises(NotAModelError) as caught:
                world.fetch(origin, data=data, path="model.safetensors")
            assert (caught.value.code, caught.value.exit_code) == ("not-a-model", 65)
    assert world.partial() is None


@pytest.mark.parametrize("kind", ["text/html", "image/png"])
def test_an_error_page_does_not_discard_the_progress(world: World, kind: str) -> None:
    """A captive portal requires a login: the next run resumes where the last one stopped."""
    page = answering(200, {"Content-Type": kind}, b"<html>Welcome to our network</html>")
    with Origin(DATA, scripts=[drop_after(200_000), page]) as origin:
        with pytest.raises(NotAModelError):
            world.fetch(origin, data=DATA, path="model.safetensors")
        assert world.fetch(origin, data=DATA, path="model.safetensors").action == "resumed"
        assert origin.sent == len(DATA)


def test_a_json_message_is_refused_as_a_model(world: World) -> None:
    message = answering(200, {"Content-Type": "application/json"}, b'{"error": "early access"}')
    with Origin(DATA, default=message) as origin:
        for data in (DATA, None):
            with pytest.raises(NotAModelError):
                world.fetch(origin, data=data, path="model.safetensors")


def test_a_login_page_is_a_credentials_error(world: World) -> None:
    page = answering(200, {"Content-Type": "text/html"}, b"<html>Log in</html>")
    with (
        Origin(DATA, scripts=[answering(302, {"Location": "/login?returnUrl=x"}), page]) as origin,
        pytest.raises(CredentialsError) as caught,
    ):
        world.fetch(origin, path="model.safetensors")
    assert (caught.value.code, caught.value.exit_code) == ("login-page", 77)


def test_a_web_page_in_place_of_a_text_file_is_refused_too(world: World) -> None:
    page = answering(200, {"Content-Type": "text/html"}, b"<html>Sorry</html>")
    with Origin(DATA, default=page) as origin, pytest.raises(NotAModelError):
        world.fetch(origin, path="config.json")


def test_a_known_digest_alone_decides(world: World) -> None:
    page = b"<html>This is what was asked for</html>"
    with Origin(page, default=answering(200, {"Content-Type": "text/html"}, page)) as origin:
        assert world.fetch(origin, data=page, path="model.safetensors").blob.path.read_bytes() == page


def test_a_wrong_digest_is_an_error_after_all_sources(world: World) -> None:
    with (
        Origin(payload(300_000, seed=5)) as first,
        Origin(payload(300_000, seed=6)) as second,
        pytest.raises(IntegrityError) as caught,
    ):
        world.fetch(first, second, data=DATA)
    assert (caught.value.code, caught.value.exit_code) == ("digest-mismatch", 65)
    assert "expected sha256:" in caught.value.message
    assert (len(first.requests), len(second.requests)) == (1, 1)
    assert not list(world.store.blobs())
    assert world.partial() is None


def test_a_wrong_file_is_fetched_from_the_next_source(world: World) -> None:
    with Origin(payload(300_000, seed=5)) as wrong, Origin(DATA) as right:
        fetched = world.fetch(wrong, right, data=DATA)
    assert fetched.blob.path.read_bytes() == DATA
    assert fetched.served_by == right.url
    assert [event.source for event in world.events_of(SourceFailed)] == [wrong.url]


def test_a_mirror_resumes_the_download_of_the_source(world: World) -> None:
    dying = [drop_after(200_000), *[answering(500)] * 9]
    with Origin(DATA, scripts=[*dying]) as source, Origin(DATA) as mirror:
        fetched = world.fetch(source, mirror, data=DATA)
        assert fetched.blob.path.read_bytes() == DATA
        assert mirror.requests[0].headers["range"] == f"bytes=200000-{len(DATA) - 1}"
        assert mirror.sent == 100_000


def test_without_a_digest_no_bytes_of_two_sources_are_mixed(world: World) -> None:
    other = payload(len(DATA), seed=7)
    dying = [drop_after(200_000), *[answering(500)] * 9]
    with Origin(DATA, scripts=[*dying]) as source, Origin(other) as mirror:
        assert world.fetch(source, mirror).blob.path.read_bytes() == other


def test_the_most_severe_error_of_the_sources_is_reported(world: World) -> None:
    with (
        Origin(DATA, default=answering(404)) as gone,
        Origin(DATA, default=answering(401)) as private,
        pytest.raises(CredentialsError),
    ):
        world.fetch(gone, private, data=DATA)


def test_an_artifact_without_sources_is_an_error(world: World) -> None:
    with pytest.raises(UnreachableError):
        world.fetch(data=DATA)


def test_a_closed_port_is_unreachable(world: World) -> None:
    with pytest.raises(UnreachableError) as caught:
        world.fetch("http://127.0.0.1:9/x", data=DATA)
    assert caught.value.code == "unreachable"
