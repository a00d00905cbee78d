"""Faults of hubs that no demo needs: other answers and content, and transport that breaks, stalls or lies."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from modelfetch.demo.body import Body, BytesBody
from modelfetch.demo.cdn import refusal
from modelfetch.demo.faults import Concern, Fault
from modelfetch.demo.message import Response, as_json, redirect, text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from modelfetch.demo.delivery import Delivery
    from modelfetch.demo.message import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Status(Fault):
    """Another status instead of the response."""

    concerns: ClassVar[Concern] = "response"
    code: int
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "text/plain; charset=utf-8"

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        answer = text(self.code, self.body, *self.headers.items(), kind=self.content_type)
        return _instead(delivery, answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimited(Fault):
    """429 as the Hub sends it; ``wait`` in seconds, and also as Retry-After if ``retry_after`` is set."""

    concerns: ClassVar[Concern] = "response"
    wait: int = 1
    kind: str = "resolvers"
    retry_after: bool = False

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        headers = [
            ("RateLimit", f'"{self.kind}";r=0;t={self.wait}'),
            ("RateLimit-Policy", f'"fixed window";"{self.kind}";q=3000;w=300'),
        ]
        if self.retry_after:
            headers.append(("Retry-After", str(self.wait)))
        return _instead(delivery, as_json(429, {"error": "We had to rate limit your IP"}, *headers))


@dataclass(frozen=True, slots=True, kw_only=True)
class RedirectTo(Fault):
    """A redirect to another location."""

    concerns: ClassVar[Concern] = "response"
    url: str
    code: int = 302

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        return _instead(delivery, redirect(self.code, self.url))


@dataclass(frozen=True, slots=True, kw_only=True)
class RedirectLoop(Fault):
    """A redirect to the same URL. Add it with ``times=None`` to make it a loop."""

    concerns: ClassVar[Concern] = "response"

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        return _instead(delivery, redirect(302, request.target))


@dataclass(frozen=True, slots=True, kw_only=True)
class HtmlPage(Fault):
    """A login or error page with status 200 instead of the response. Like every "file" fault, it waits for a file."""

    concerns: ClassVar[Concern] = "file"
    page: str = "<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Please sign in.</body></html>"
    content_type: str = "text/html; charset=utf-8"

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        return _instead(delivery, text(200, self.page, kind=self.content_type))


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonError(Fault):
    """A JSON error with status 200 instead of a file."""

    concerns: ClassVar[Concern] = "file"
    message: str = "Something went wrong"

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        return _instead(delivery, as_json(200, {"error": self.message}))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpiredUrl(Fault):
    """An object store's 403 for an expired signed URL. ``Hub.expire_urls`` really expires all of them."""

    concerns: ClassVar[Concern] = "file"

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        return _instead(delivery, refusal(403, "AccessDenied", "Request has expired"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedETag(Fault):
    """A different ETag (None: no ETag at all); conditional requests are evaluated with it."""

    concerns: ClassVar[Concern] = "file"
    etag: str | None = '"changed"'

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        return replace(delivery, response=replace(delivery.response, etag=self.etag))


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherHeaders(Fault):
    """The right response with headers added, replaced or removed (case-insensitive), as a mirror or a proxy does."""

    concerns: ClassVar[Concern] = "response"
    put: Mapping[str, str] = field(default_factory=dict)
    remove: tuple[str, ...] = ()

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        """Change the headers; those that frame the body (Content-Length, Transfer-Encoding) are unchanged."""
        gone = {name.lower() for name in (*self.put, *self.remove)}
        response = delivery.response
        kept = tuple((name, value) for name, value in response.headers if name.lower() not in gone)
        etag = None if "etag" in gone else response.etag
        modified = None if "last-modified" in gone else response.last_modified
        changed = replace(response, headers=kept, etag=etag, last_modified=modified)
        return _instead(delivery, changed.with_headers(*self.put.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherContent(Fault):
    """Other bytes instead of the file's, with their correct length and the same validators."""

    concerns: ClassVar[Concern] = "file"
    content: bytes

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        return replace(delivery, response=replace(delivery.response, body=BytesBody(self.content)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncated(Fault):
    """The file ends after ``size`` bytes, with a matching Content-Length."""

    concerns: ClassVar[Concern] = "file"
    size: int

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        short = _Shortened(delivery.response.body, self.size)
        return replace(delivery, response=replace(delivery.response, body=short))


@dataclass(frozen=True, slots=True, kw_only=True)
class BitFlip(Fault):
    """One flipped bit in the byte at ``at`` (counted from the file's start)."""

    at: int

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        damaged = _Flipped(delivery.response.body, self.at)
        return replace(delivery, response=replace(delivery.response, body=damaged))


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetAfter(Fault):
    """The connection is reset after ``bytes`` bytes of the body."""

    needs_content: ClassVar[bool] = True
    bytes: int

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        return replace(delivery, cut_after=self.bytes, reset=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse(Fault):
    """The connection closes before the response; with a reset unless ``reset`` is false."""

    concerns: ClassVar[Concern] = "response"
    reset: bool = True

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        return replace(delivery, not_http=b"", reset=self.reset)


@dataclass(frozen=True, slots=True, kw_only=True)
class NotHttp(Fault):
    """Bytes that are not HTTP, then the end of the connection."""

    concerns: ClassVar[Concern] = "response"
    data: bytes = b"\x15\x03\x01\x00\x02\x02\x46 this is not HTTP\r\n\r\n"

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        return replace(delivery, not_http=self.data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall(Fault):
    """A pause of ``seconds`` (less if the hub stops) before the headers of any response."""

    concerns: ClassVar[Concern] = "response"
    seconds: float

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        return replace(delivery, wait_first=self.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class StallAfter(Fault):
    """A pause of ``seconds`` (less if the hub stops) after ``bytes`` bytes of the body, then the rest."""

    needs_content: ClassVar[bool] = True
    seconds: float
    bytes: int = 0

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        return replace(delivery, stall_at=self.bytes, stall_for=self.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class IgnoreRange(Fault):
    """The whole file with status 200 in response to a range request."""

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        return replace(delivery, ignore_range=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongContentRange(Fault):
    """A Content-Range that differs by ``shift`` bytes from the range sent."""

    shift: int = 1

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        return replace(delivery, content_range_shift=self.shift)


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongLength(Fault):
    """A Content-Length that is ``by`` bytes too large (a short body) or too small (a long one)."""

    by: int

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        return replace(delivery, length_error=self.by)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunked(Fault):
    """Chunked transfer encoding, without a Content-Length."""

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        return replace(delivery, framing="chunked")


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseDelimited(Fault):
    """No length: the body ends when the connection closes."""

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        return replace(delivery, framing="close")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gzip(Fault):
    """A gzip-encoded body that was not requested."""

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        return replace(delivery, compress=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndlessHeaders(Fault):
    """Endless header lines (64 MiB at most)."""

    concerns: ClassVar[Concern] = "response"

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        return replace(delivery, endless_headers=True)


def _instead(delivery: Delivery, response: Response) -> Delivery:
    return replace(delivery, response=response)


class _Shortened:
    """The first bytes of another body."""

    def __init__(self, body: Body, size: int) -> None:
        self._body = body
        self.size = min(size, body.size)
        self.sha256 = body.sha256

    def read(self, offset: int, length: int) -> bytes | memoryview:
        return self._body.read(offset, max(0, min(length, self.size - offset)))


class _Flipped:
    """Another body with one bit changed."""

    def __init__(self, body: Body, at: int) -> None:
        self._body = body
        self._at = at
        self.size = body.size
        self.sha256 = body.sha256

    def read(self, offset: int, length: int) -> bytes | memoryview:
        data = self._body.read(offset, length)
        if not offset <= self._at < offset + len(data):
            return data
        changed = bytearray(data)
        changed[self._at - offset] ^= 1
        return bytes(changed)
