"""Transport faults: the right response, sent incorrectly, late, or not at all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from modelfetch.demo.faults.base import Concern, Fault

if TYPE_CHECKING:
    from modelfetch.demo.delivery import Delivery
    from modelfetch.demo.message import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class DropAfter(Fault):
    """The connection closes after ``bytes`` bytes of the body."""

    needs_content: ClassVar[bool] = True
    bytes: int

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        """Cut the body."""
        return replace(delivery, cut_after=self.bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetAfter(Fault):
    """The connection is reset after ``bytes`` bytes of the body."""

    needs_content: ClassVar[bool] = True
    bytes: int

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        """Cut the body."""
        return replace(delivery, cut_after=self.bytes, reset=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse(Fault):
    """The connection closes before the response; with a reset unless ``reset`` is false."""

    concerns: ClassVar[Concern] = "response"
    reset: bool = True

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        """Send nothing."""
        return replace(delivery, not_http=b"", reset=self.reset)


@dataclass(frozen=True, slots=True, kw_only=True)
class NotHttp(Fault):
    """Bytes that are not HTTP, then the end of the connection."""

    concerns: ClassVar[Concern] = "response"
    data: bytes = b"\x15\x03\x01\x00\x02\x02\x46 this is not HTTP\r\n\r\n"

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        """Send the invalid bytes."""
        return replace(delivery, not_http=self.data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall(Fault):
    """A pause of ``seconds`` (less if the hub stops) before the headers of any response."""

    concerns: ClassVar[Concern] = "response"
    seconds: float

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        """Delay the response."""
        return replace(delivery, wait_first=self.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class StallAfter(Fault):
    """A pause of ``seconds`` (less if the hub stops) after ``bytes`` bytes of the body, then the rest."""

    needs_content: ClassVar[bool] = True
    seconds: float
    bytes: int = 0

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        """Pause in the middle of the body."""
        return replace(delivery, stall_at=self.bytes, stall_for=self.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttle(Fault):
    """A limit of ``rate`` bytes per second on each connection."""

    rate: int

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        """Limit the rate."""
        return replace(delivery, rate=self.rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class IgnoreRange(Fault):
    """The whole file with status 200 in response to a range request."""

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        """Ignore the range."""
        return replace(delivery, ignore_range=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongContentRange(Fault):
    """A Content-Range that differs by ``shift`` bytes from the range sent."""

    shift: int = 1

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        """Change the Content-Range."""
        return replace(delivery, content_range_shift=self.shift)


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongLength(Fault):
    """A Content-Length that is ``by`` bytes too large (a short body) or too small (a long one)."""

    by: int

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        """Change the Content-Length."""
        return replace(delivery, length_error=self.by)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunked(Fault):
    """Chunked transfer encoding, without a Content-Length."""

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        """Use chunked encoding."""
        return replace(delivery, framing="chunked")


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseDelimited(Fault):
    """No length: the body ends when the connection closes."""

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        """Close the connection to mark the end of the body."""
        return replace(delivery, framing="close")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gzip(Fault):
    """A gzip-encoded body that was not requested."""

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        """Encode the body."""
        return replace(delivery, compress=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndlessHeaders(Fault):
    """Endless header lines (64 MiB at most)."""

    concerns: ClassVar[Concern] = "response"

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        """Send headers without end."""
        return replace(delivery, endless_headers=True)
