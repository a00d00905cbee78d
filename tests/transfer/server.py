"""A scripted HTTP server on a raw socket: for responses that no correct server sends."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import xxhash

if TYPE_CHECKING:
    from types import TracebackType


@dataclass(frozen=True, kw_only=True)
class Request:
    method: str
    target: str
    headers: Mapping[str, str]

    def span(self, size: int) -> tuple[int, int] | None:
        """First byte and end of the requested range, None for the whole file."""
        value = self.headers.get("range")
        if value is None:
            return None
        first, _, last = value.removeprefix("bytes=").partition("-")
        return int(first), min(int(last) + 1, size) if last else size


class Conn:
    """One connection, as a script uses it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = b""

    def read_request(self) -> Request | None:
        while b"\r\n\r\n" not in self._buffer:
            data = self.sock.recv(65536)
            if not data:
                return None
            self._buffer += data
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        pairs = (line.partition(":") for line in lines)
        return Request(method=method, target=target, headers={n.lower(): v.strip() for n, _, v in pairs})

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def answer(self, status: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> None:
        fields = {"Content-Length": str(len(body)), **(headers or {})}
        self.send(head(status, fields) + body)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def reset(self) -> None:
        """End it by RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


Script = Callable[[Conn, Request, "Origin"], None]
"""Answers one request; the connection continues unless the script ended it."""


def head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Status", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


@dataclass
class Origin:
    """A server of one file under any name; `scripts` answer the first requests, `normally` all others."""

    data: bytes
    scripts: list[Script] = field(default_factory=list)
    etag: str | None = ""
    default: Script | None = None

    def __post_init__(self) -> None:
        if self.etag == "":
            self.etag = f'"{xxhash.xxh3_128_hexdigest(self.data)}"'
        self.requests: list[Request] = []
        self.sent = 0
        self.connections = 0
        self.stop = threading.Event()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/file.bin"
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self.stop.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
                sock.close()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            thread = threading.Thread(target=self._serve, args=(Conn(sock),), daemon=True)
            with self._lock:
                if self.stop.is_set():
                    sock.close()
                    return
                self._open.append(sock)
                self.connections += 1
                self._threads.append(thread)
            thread.start()

    def _serve(self, conn: Conn) -> None:
        with contextlib.suppress(OSError, ValueError):
            while (request := conn.read_request()) is not None:
                with self._lock:
                    self.requests.append(request)
                    script = self.scripts.pop(0) if self.scripts else self.default or normally
                script(conn, request, self)
        conn.close()

    def send(self, conn: Conn, piece: bytes) -> None:
        """Send a piece of the body. It counts before a client can have it, and no more if it can't be sent."""
        self._count(len(piece))
        try:
            conn.send(piece)
        except OSError:
            self._count(-len(piece))
            raise

    def _count(self, number: int) -> None:
        with self._lock:
            self.sent += number

    def fields(self, request: Request, **more: str) -> tuple[int, dict[str, str], int, int]:
        """Status, headers, first byte and end of what a proper server sends."""
        size = len(self.data)
        fields = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        if self.etag is not None:
            fields["ETag"] = self.etag
        span = request.span(size)
        guard = request.headers.get("if-range")
        if span is None or (guard is not None and guard != self.etag):
            return 200, {**fields, "Content-Length": str(size), **more}, 0, size
        start, end = span
        if start >= size:
            return 416, {"Content-Range": f"bytes */{size}", "Content-Length": "0", **more}, 0, 0
        fields["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        return 206, {**fields, "Content-Length": str(end - start), **more}, start, end


def normally(conn: Conn, request: Request, origin: Origin) -> None:
    """As a proper server does."""
    status, fields, start, end = origin.fields(request)
    conn.send(head(status, fields))
    for at in range(start, end, 65536):
        piece = origin.data[at : min(at + 65536, end)]
        origin.send(conn, piece)


def paced(step: int, pause: float) -> Script:
    """As a proper server does, with a pause of so many seconds after so many bytes, so that there is a middle."""

    def script(conn: Conn, request: Request, origin: Origin) -> None:
        status, fields, start, end = origin.fields(request)
        conn.send(head(status, fields))
        for at in range(start, end, step):
            piece = origin.data[at : min(at + step, end)]
            origin.send(conn, piece)
            if origin.stop.wait(pause):
                return

    return script


def drop_after(count: int, *, reset: bool = False) -> Script:
    """Send so many bytes of the body, then end the connection."""

    def script(conn: Conn, request: Request, origin: Origin) -> None:
        status, fields, start, end = origin.fields(request)
        conn.send(head(status, fields))
        piece = origin.data[start : min(start + count, end)]
        origin.send(conn, piece)
        if reset:
            conn.reset()
        else:
            conn.close()

    return script


def answering(status: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Script:
    """Answer this."""
    return lambda conn, _request, _origin: conn.answer(status, headers, body)


def raw(data: bytes, *, then_close: bool = True) -> Script:
    """Send these bytes, whatever they mean."""

    def script(conn: Conn, _request: Request, _origin: Origin) -> None:
        conn.send(data)
        if then_close:
            conn.close()

    return script


def stall_after(count: int | None) -> Script:
    """Send so many bytes of the body, or no header even, then nothing more until the server stops."""

    def script(conn: Conn, request: Request, origin: Origin) -> None:
        if count is not None:
            status, fields, start, end = origin.fields(request)
            conn.send(head(status, fields) + origin.data[start : min(start + count, end)])
        origin.stop.wait(30)

    return script
