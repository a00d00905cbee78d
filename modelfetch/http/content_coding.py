"""Content codings: which ones a body has, and undoing one in bounded steps.

Every request asks for ``identity``, so a coded body is one that a server or a proxy sends on its own account. One layer
of gzip or deflate is undone; nothing else is.
"""

from __future__ import annotations

import zlib
from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

STEP = 256 * 1024
"""The largest piece that comes out of a decoder, in bytes: a body that expands a thousandfold is never held whole."""

_NO_CODING = frozenset({"", "identity", "none", "binary", "utf-8", "utf8", "aws-chunked"})
"""What servers write into Content-Encoding though the body is as it is; ``aws-chunked`` is left over from an upload."""
_GZIP = frozenset({"gzip", "x-gzip"})
_DEFLATE = "deflate"


def codings(field: str) -> tuple[str, ...]:
    """The codings of a Content-Encoding field in the order in which they were applied."""
    names = (part.strip().lower() for part in field.split(","))
    return tuple(name for name in names if name not in _NO_CODING)


def can_decode(names: tuple[str, ...]) -> bool:
    """Whether `decode` can undo these codings: one layer of gzip or deflate."""
    return len(names) == 1 and (names[0] in _GZIP or names[0] == _DEFLATE)


def decode(pieces: Iterator[bytes], name: str) -> Iterator[bytes]:
    """Undo a coding, in pieces of at most `STEP` bytes.

    Where a piece gives no output an empty one is yielded, so that the caller can tell slow content from none: a gzip
    header may hold a name without end.

    Raises:
        ValueError: The data is damaged, or ends too early.
    """
    first = next(pieces, b"")
    while 0 < len(first) < 2 and (more := next(pieces, b"")):
        first += more  # what tells the two forms of deflate apart
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
    """A zlib decompressor; deflate comes with the zlib header or, from some servers, without it (RFC 9110, 8.4.1.2)."""
    if name in _GZIP:
        return zlib.decompressobj(16 + zlib.MAX_WBITS)
    has_header = len(start) >= 2 and start[0] & 15 == 8 and int.from_bytes(start[:2], "big") % 31 == 0
    return zlib.decompressobj(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)


def _undo(decoder: Any, data: bytes) -> Iterator[bytes]:
    while True:
        try:
            piece = decoder.decompress(data, STEP)
        except zlib.error as error:
            raise ValueError(f"damaged content coding: {error}") from None
        yield piece
        data = decoder.unconsumed_tail
        if decoder.eof or (not data and len(piece) < STEP):
            return
