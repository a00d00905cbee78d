"""What the tests of the HTTP client share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelfetch.http import Http

DATA = b"model " * 5000
LONG = DATA * 20


def pump(client: Http, url: str) -> bytes:
    """Read a body from the socket, as the engine does."""
    with client.open("GET", url) as response:
        got = bytearray(next(response.iter_raw()))
        sock = response.socket()
        assert sock is not None
        buffer = bytearray(100_000)
        while left := (response.length or 0) - len(got):
            got += memoryview(buffer)[: sock.recv_into(buffer, min(left, len(buffer)))]
        response.reuse()
    return bytes(got)
