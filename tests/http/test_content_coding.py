"""Content codings: which are decoded, in which steps, and how damage is reported."""

from __future__ import annotations

import gzip
import zlib

import pytest

from modelfetch.http.content_coding import STEP, NotEncodedError, can_decode, codings, decode
from tests.cases import each, first

DATA = bytes(range(256)) * 1500


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def undo(packed: bytes, name: str, step: int = 1000) -> bytes:
    return b"".join(decode(iter([packed[at : at + step] for at in range(0, len(packed), step)]), name))


@each(
    "field", ["", "identity", "none", "binary", "UTF-8", "ISO-8859-1", "8bit", "aws-chunked", "identity, none", " , "]
)
def test_an_identity_coding_is_not_a_coding(field: str) -> None:
    assert codings(field) == ()


@each(
    ("field", "known"),
    [
        ("gzip", True),
        ("X-GZip", True),
        ("deflate", True),
        ("aws-chunked, gzip", True),
        ("br", False),
        ("zstd", False),
        ("compress", False),
        ("gzip, gzip", False),
        ("deflate,gzip", False),
        ("made-up", False),
    ],
)
def test_one_layer_of_gzip_or_deflate_can_be_undone(field: str, *, known: bool) -> None:
    assert can_decode(codings(field)) is known


@each("step", [1, 7, 1000, 10**9])
@each(
    ("name", "packed"),
    [
        ("gzip", gzip.compress(DATA, 1)),
        ("x-gzip", gzip.compress(DATA, 9)),
        ("gzip", gzip.compress(DATA[:1000]) + gzip.compress(DATA[1000:])),
        ("gzip", gzip.compress(DATA) + bytes(100)),
        ("deflate", zlib.compress(DATA)),
        ("deflate", raw_deflate(DATA)),
    ],
)
def test_a_compressed_body_is_decoded(name: str, packed: bytes, step: int) -> None:
    assert undo(packed, name, step) == DATA


def test_no_body_is_no_content() -> None:
    assert undo(b"", "gzip") == b""


@pytest.mark.parametrize("name", first(1, ["gzip", "deflate"]))
def test_a_compression_bomb_is_decoded_in_small_pieces(name: str) -> None:
    """Content that expands a thousandfold: its first pieces arrive long before the last, and none is large."""
    packed = gzip.compress(bytes(2**26), 9) if name == "gzip" else zlib.compress(bytes(2**26), 9)
    pieces = decode(iter([packed]), name)
    assert [len(next(pieces)) for _ in range(3)] == [STEP] * 3
    assert sum(map(len, pieces)) == 2**26 - 3 * STEP


@each("cut", [1, 5, 100, 1000])
@each("name", ["gzip", "deflate"])
def test_a_truncated_body_is_damaged(name: str, cut: int) -> None:
    packed = gzip.compress(DATA) if name == "gzip" else zlib.compress(DATA)
    with pytest.raises(ValueError, match="too early"):
        undo(packed[:-cut], name)


@each("packed", [b"no gzip at all", gzip.compress(DATA) + b"rubbish", b"\x1f\x8bxxxxxxxxxxxxxxx"])
def test_a_body_that_is_not_gzip_is_damaged(packed: bytes) -> None:
    with pytest.raises(NotEncodedError):
        undo(packed, "gzip")


def test_a_header_without_content_shows_as_empty_pieces() -> None:
    endless = [b"\x1f\x8b\x08\x08\0\0\0\0\0\x03", *[b"name" * 100] * 50]
    pieces = decode(iter(endless), "gzip")
    assert [next(pieces) for _ in range(40)] == [b""] * 40
