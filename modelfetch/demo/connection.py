"""One client connection: read a request, call the route, and send the response with its faults."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from http.client import HTTPException, parse_headers
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit

from modelfetch.demo.body import READ_SIZE, spans
from modelfetch.demo.delivery import Delivery, Framed, frame
from modelfetch.demo.message import Request, Response, Route, as_json

if TYPE_CHECKING:
    import threading

    from modelfetch.demo.faults import FaultTable
    from modelfetch.demo.log import RequestLog

MAX_LINE = 65536
MAX_BODY = 1 << 20
ENDLESS = 64 << 20


class HangUpError(Exception):
    """Close the connection now."""


class Connection:
    """Serves requests on one socket until either side closes it."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        number: int,
        origin: str,
        route: Route,
        faults: FaultTable,
        log: RequestLog,
        stopping: threading.Event,
        keep: bool = True,
    ) -> None:
        self._sock = sock
        self._number = number
        self._origin = origin
        self._route = route
        self._faults = faults
        self._log = log
        self._stopping = stopping
        self._keep = keep

    def serve(self) -> None:
        """Answer until the connection ends; never raises because of a client's behaviour."""
        # HangUpError is raised here; other errors mean that a client disconnected or sent invalid data.
        with contextlib.suppress(HangUpError, OSError, HTTPException), self._sock.makefile("rb") as reader:
            while self._one(reader):
                pass

    def _one(self, reader: BinaryIO) -> bool:
        request = self._read(reader)
        if request is None:
            return False
        number = self._log.open(request, self._number)
        try:
            return self._answer(request, number)
        finally:
            self._log.close(number)

    def _read(self, reader: BinaryIO) -> Request | None:
        line = reader.readline(MAX_LINE).strip()
        if not line:
            return None
        try:
            return self._parse(line.decode("latin-1"), reader)
        except ValueError:
            self._sock.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return None

    def _parse(self, line: str, reader: BinaryIO) -> Request:
        method, target, version = line.split(" ")
        if not version.startswith("HTTP/1."):
            raise ValueError(version)
        urlsplit(target)  # may raise for an invalid target that looks like a host
        headers = {name.lower(): value for name, value in parse_headers(reader).items()}
        if not self._keep:
            headers["connection"] = "close"
        elif version == "HTTP/1.0":
            headers.setdefault("connection", "close")
        length = int(headers.get("content-length", "0"))
        body = reader.read(length) if 0 < length <= MAX_BODY else b""
        return Request(origin=self._origin, method=method, target=target, headers=headers, body=body)

    def _answer(self, request: Request, number: int) -> bool:
        response = self._decide(request)
        delivery = Delivery(response=response)
        faults = self._faults.take(request, response)
        for fault in faults:
            delivery = fault.apply(delivery, request)
        self._wait(delivery.wait_first)
        framed = frame(delivery, request)
        self._log.answered(number, framed.status, tuple(type(fault).__name__ for fault in faults))
        if delivery.not_http is not None:
            self._sock.sendall(delivery.not_http)
            self._hang_up(reset=delivery.reset)
        if delivery.endless_headers:
            self._send_endless_headers()
        self._sock.sendall(framed.head)
        self._send_body(delivery, framed, number)
        return not framed.close

    def _decide(self, request: Request) -> Response:
        try:
            return self._route(request)
        except Exception as error:  # like a real server, report an internal error to the client
            return as_json(500, {"error": f"{type(error).__name__}: {error}"})

    def _send_body(self, delivery: Delivery, framed: Framed, number: int) -> None:
        stop = framed.stop
        if delivery.cut_after is not None:
            stop = min(stop, framed.start + delivery.cut_after)
        sent = 0
        started = time.monotonic()
        for offset, length in self._pieces(delivery, framed.start, stop):
            if delivery.stall_at == sent:
                self._wait(delivery.stall_for)
            data = framed.body.read(offset, length)
            sent += length
            self._log.count(number, sent)
            self._send_piece(data, chunked=framed.chunked)
            if delivery.rate is not None:
                self._wait(started + sent / delivery.rate - time.monotonic())
        if delivery.cut_after is not None:
            self._hang_up(reset=delivery.reset)
        if framed.chunked:
            self._sock.sendall(b"0\r\n\r\n")

    def _pieces(self, delivery: Delivery, start: int, stop: int) -> list[tuple[int, int]]:
        """Split the range to send: into small pieces at a low rate, and at the position of a stall."""
        step = READ_SIZE if delivery.rate is None else max(1, min(READ_SIZE, delivery.rate // 32))
        pause = stop if delivery.stall_at is None else min(stop, start + delivery.stall_at)
        return [*spans(start, pause, step), *spans(pause, stop, step)]

    def _send_piece(self, data: bytes | memoryview, *, chunked: bool) -> None:
        if chunked:
            self._sock.sendall(b"%x\r\n" % len(data) + bytes(data) + b"\r\n")
        else:
            self._sock.sendall(data)

    def _send_endless_headers(self) -> None:
        self._sock.sendall(b"HTTP/1.1 200 OK\r\n")
        line = b"X-Padding: " + b"a" * 1000 + b"\r\n"
        for _ in range(ENDLESS // len(line)):
            self._sock.sendall(line)
        raise HangUpError

    def _wait(self, seconds: float) -> None:
        if seconds > 0 and self._stopping.wait(seconds):
            raise HangUpError

    def _hang_up(self, *, reset: bool) -> None:
        if reset:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise HangUpError
