"""Content codings: parse the header, and decode a body in bounded steps.

Every request asks for ``identity``, so an encoded body comes from a server or proxy that ignores that. One layer
of gzip or deflate is decoded; nothing else is.
"""

from __future__ import annotations

import zlib
from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

STEP = 256 * 1024
"""Largest decoder output in bytes, so that a body that expands a thousandfold is never held in memory as a whole."""

_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "iso-8859-15", "latin1", "windows-1252"})
_NO_CODING = frozenset({"", "identity", "none", "null", "binary", "7bit", "8bit", "aws-chunked"}) | _CHARSETS
"""Content-Encoding values that servers send for unencoded bodies: charsets, names of MIME's Content-Transfer-Encoding,
and ``aws-chunked``, which is left over from an upload."""
_GZIP = frozenset({"gzip", "x-gzip"})
_DEFLATE = "deflate"


class NotEncodedError(ValueError):
    """The data is not valid for its coding."""


def codings(field: str) -> tuple[str, ...]:
    """Return the codings of a Content-Encoding field in the order in which they were applied."""
    names = (part.strip().lower() for part in field.split(","))
    return tuple(name for name in names if name not in _NO_CODING)


def can_decode(names: tuple[str, ...]) -> bool:
    """Return whether `decode` can undo these codings: one layer of gzip or deflate."""
    return len(names) == 1 and (names[0] in _GZIP or names[0] == _DEFLATE)


def decode(pieces: Iterator[bytes], name: str) -> Iterator[bytes]:
    """Decode a body, in pieces of at most `STEP` bytes.

    If a piece gives no output, an empty one is yielded, so that the caller can distinguish slow content from none: a
    gzip header may contain a name of unlimited length.

    Raises:
        NotEncodedError: The data is damaged, or has another coding.
        ValueError: It is truncated.
    """
    first = next(pieces, b"")
    while 0 < len(first) < 2 and (more := next(pieces, b"")):
        first += more  # these bytes distinguish the two forms of deflate
    decoder = _decoder(name, first)
    for data in chain((first,), pieces):
        left = data
        while left:
            if decoder.eof:
                left = left.lstrip(b"\0") if name in _GZIP else b""
                if not left:
                    yield b""
                    break
                decoder = _decoder(name, left)  # a gzip file may consist of several members
            yield from _undo(decoder, left)
            left = decoder.unused_data
    if first and not decoder.eof:
        raise ValueError(f"the {name} data ends too early")


def _decoder(name: str, start: bytes) -> Any:
    """Return a zlib decompressor; some servers send deflate without the zlib header (RFC 9110, 8.4.1.2)."""
    if name in _GZIP:
        return zlib.decompressobj(16 + zlib.MAX_WBITS)
    has_header = len(start) >= 2 and start[0] & 15 == 8 and int.from_bytes(start[:2], "big") % 31 == 0
    return zlib.decompressobj(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)


def _undo(decoder: Any, data: bytes) -> Iterator[bytes]:
    while True:
        try:
            piece = decoder.decompress(data, STEP)
        except zlib.error as error:
            raise NotEncodedError(str(error)) from None
        yield piece
        data = decoder.unconsumed_tail
        if decoder.eof or (not data and len(piece) < STEP):
            return
