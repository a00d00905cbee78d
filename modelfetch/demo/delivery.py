"""Range selection and framing of a response, computed as a value before a byte is sent (RFC 9110, 9112)."""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal

from modelfetch.demo.body import Body, BytesBody, read_all

if TYPE_CHECKING:
    from modelfetch.demo.message import Request, Response

Framing = Literal["length", "chunked", "close"]

_RANGE = re.compile(r"bytes=(\d*)-(\d*)\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A response and the faults in its transport. Offsets are in this response's body bytes, times in seconds.

    ``length_error`` is added to the true Content-Length; ``cut_after`` closes the connection, with a reset if ``reset``
    is set; ``rate`` is in bytes per second.
    """

    response: Response
    ignore_range: bool = False
    content_range_shift: int = 0
    length_error: int = 0
    framing: Framing = "length"
    compress: bool = False
    cut_after: int | None = None
    reset: bool = False
    wait_first: float = 0.0
    stall_at: int | None = None
    stall_for: float = 0.0
    rate: int | None = None
    endless_headers: bool = False
    not_http: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Framed:
    """The encoded head, and the part of the body to send after it."""

    status: int
    head: bytes
    body: Body
    start: int
    stop: int
    chunked: bool
    close: bool


def frame(delivery: Delivery, request: Request) -> Framed:
    """Determine status, headers and the part of the body to send."""
    response = delivery.response
    if delivery.compress:
        packed = BytesBody(gzip.compress(read_all(response.body), mtime=0))
        response = replace(response, body=packed, ranges=False).with_headers(("Content-Encoding", "gzip"))
    headers = list(response.headers)
    status, start, stop = response.status, 0, response.body.size
    if response.file:
        headers += _validators(response)
        status, start, stop = _select(response, request, ignore=delivery.ignore_range)
        headers += _content_range(status, start, stop, response.body.size, delivery.content_range_shift)
    bodiless = status in {204, 304}
    if bodiless or status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        start = stop = 0
    length = max(0, stop - start + delivery.length_error)
    if delivery.framing == "chunked":
        headers.append(("Transfer-Encoding", "chunked"))
    elif delivery.framing == "length" and not bodiless:
        headers.append(("Content-Length", str(length)))
    close = _must_close(delivery, request)
    headers.append(("Connection", "close" if close else "keep-alive"))
    if request.method == "HEAD":
        stop = start
    return Framed(
        status=status,
        head=_head(status, headers),
        body=response.body,
        start=start,
        stop=stop,
        chunked=delivery.framing == "chunked" and request.method != "HEAD",
        close=close,
    )


def _must_close(delivery: Delivery, request: Request) -> bool:
    broken = delivery.cut_after is not None or delivery.length_error != 0 or delivery.framing == "close"
    return broken or request.headers.get("connection", "").lower() == "close"


def _head(status: int, headers: list[tuple[str, str]]) -> bytes:
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = "Unknown"
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1", "replace")


def _validators(response: Response) -> list[tuple[str, str]]:
    headers = [("Accept-Ranges", "bytes" if response.ranges else "none")]
    if response.etag is not None:
        headers.append(("ETag", response.etag))
    if response.last_modified is not None:
        headers.append(("Last-Modified", response.last_modified))
    return headers


def _select(response: Response, request: Request, *, ignore: bool) -> tuple[int, int, int]:
    """Return (status, start, stop): the whole file, one range, not modified (304) or not satisfiable (416)."""
    size = response.body.size
    whole = response.status, 0, size
    if response.etag is not None and request.headers.get("if-none-match") == response.etag:
        return 304, 0, 0
    wanted = request.headers.get("range")
    if wanted is None or ignore or not response.ranges or response.status != HTTPStatus.OK:
        return whole
    if not _if_range_holds(response, request):
        return whole
    match = _RANGE.match(wanted)
    if match is None or match[0] == "bytes=-":
        return whole  # several ranges, or another unit: a server may send the whole file
    if not match[1]:
        length = int(match[2])
        return (206, max(0, size - length), size) if length and size else (416, 0, 0)
    first = int(match[1])
    last = min(int(match[2]), size - 1) if match[2] else size - 1
    if match[2] and int(match[2]) < first:
        return whole  # an invalid range is ignored
    return (206, first, last + 1) if first < size else (416, 0, 0)


def _if_range_holds(response: Response, request: Request) -> bool:
    condition = request.headers.get("if-range")
    if condition is None:
        return True
    if condition.startswith("W/"):
        return False  # a weak validator never selects a range
    return condition in (response.etag, response.last_modified)


def _content_range(status: int, start: int, stop: int, size: int, shift: int) -> list[tuple[str, str]]:
    if status == HTTPStatus.PARTIAL_CONTENT:
        return [("Content-Range", f"bytes {start + shift}-{stop - 1 + shift}/{size}")]
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return [("Content-Range", f"bytes */{size}")]
    return []
