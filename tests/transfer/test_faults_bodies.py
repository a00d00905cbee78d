"""Bodies of a wrong length, coding or framing: each ends in the right file or in a typed error."""

from __future__ import annotations

import gzip
import time
import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.errors import IntegrityError
from modelfetch.http import Timeouts
from tests.cases import first
from tests.transfer.bodies import BIG, DATA, as_chunks, chunked
from tests.transfer.server import Conn, Origin, Request, Script, answering, head, raw

if TYPE_CHECKING:
    from tests.transfer.world import World


def test_a_file_of_another_size_is_refused_before_its_body(world: World) -> None:
    with Origin(DATA + b"more") as origin, pytest.raises(IntegrityError) as caught:
        world.fetch(origin, data=DATA)
    assert (caught.value.code, caught.value.exit_code) == ("size-mismatch", 65)


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
        assert world.fetch(origin, size=len(DATA), path="file.zst").blob.path.read_bytes() == DATA
    assert len(origin.requests) == 1


@pytest.mark.parametrize("path", first(1, ["data.tar.gz", "DATA.TGZ"]))
@pytest.mark.parametrize(("field", "layers"), [("gzip", 1), ("gzip", 2), ("br", 1)])
def test_of_a_compressed_file_without_digest_and_size_the_name_decides(
    world: World, path: str, field: str, layers: int
) -> None:
    """The decoded bytes of a file that was sent as if it had been compressed on the way are not what its name says."""
    packed = gzip.compress(DATA, 1)
    body = packed if layers == 1 else gzip.compress(packed, 1)
    with Origin(packed, default=answering(200, {"Content-Encoding": field}, body)) as origin:
        assert world.fetch(origin, size=None, path=path).blob.path.read_bytes() == packed
    assert len(origin.requests) == (2 if (field, layers) == ("gzip", 1) else 1)


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


@pytest.mark.parametrize("size", first(1, [None, 1000]))
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
