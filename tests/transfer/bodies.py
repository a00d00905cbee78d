"""The files and bodies that the tests of faults serve."""

from __future__ import annotations

from tests.transfer.server import Conn, Origin, Request, head
from tests.transfer.world import payload

DATA = payload(300_000)
BIG = payload(5_000_000, seed=2)


def as_chunks(data: bytes) -> bytes:
    """A chunked body."""
    pieces = (data[at : at + 65536] for at in range(0, len(data), 65536))
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def chunked(conn: Conn, _request: Request, origin: Origin) -> None:
    """No length, proper chunks."""
    conn.send(head(200, {"Transfer-Encoding": "chunked"}))
    for at in range(0, len(origin.data), 7_000):
        piece = origin.data[at : at + 7_000]
        conn.send(b"%x\r\n%b\r\n" % (len(piece), piece))
    conn.send(b"0\r\n\r\n")
