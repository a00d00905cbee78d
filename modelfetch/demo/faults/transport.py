"""Faults on the way: the right answer, sent badly, late, or not at all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from modelfetch.demo.faults.base import Concern, Fault

if TYPE_CHECKING:
    from modelfetch.demo.delivery import Delivery
    from modelfetch.demo.message import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class DropAfter(Fault):
    """The connection ends after ``bytes`` bytes of the body."""

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
    """The connection ends before a byte of the answer, by a reset unless ``reset`` is false."""

    concerns: ClassVar[Concern] = "response"
    reset: bool = True

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        """Say nothing."""
        return replace(delivery, not_http=b"", reset=self.reset)


@dataclass(frozen=True, slots=True, kw_only=True)
class NotHttp(Fault):
    """Bytes that are no HTTP, then the end."""

    concerns: ClassVar[Concern] = "response"
    data: bytes = b"\x15\x03\x01\x00\x02\x02\x46 this is not HTTP\r\n\r\n"

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        """Say something else."""
        return replace(delivery, not_http=self.data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall(Fault):
    """Silence for ``seconds`` (less when the hub stops) before the headers, of whatever answer."""

    concerns: ClassVar[Concern] = "response"
    seconds: float

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        """Wait first."""
        return replace(delivery, wait_first=self.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class StallAfter(Fault):
    """Silence for ``seconds`` (less when the hub stops) after ``bytes`` bytes of the body, then the rest."""

    needs_content: ClassVar[bool] = True
    seconds: float
    bytes: int = 0

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        """Wait in the middle."""
        return replace(delivery, stall_at=self.bytes, stall_for=self.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttle(Fault):
    """``rate`` bytes per second on each connection."""

    rate: int

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        """Slow down."""
        return replace(delivery, rate=self.rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class IgnoreRange(Fault):
    """The whole file with 200, though a range was asked for."""

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        """Overlook the range."""
        return replace(delivery, ignore_range=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongContentRange(Fault):
    """A Content-Range that is ``shift`` bytes beside the bytes that are sent."""

    shift: int = 1

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        """Mislabel the range."""
        return replace(delivery, content_range_shift=self.shift)


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongLength(Fault):
    """A Content-Length that is ``by`` bytes more (a short body) or less (a long one) than the bytes sent."""

    by: int

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        """Misstate the length."""
        return replace(delivery, length_error=self.by)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunked(Fault):
    """Chunked transfer encoding, so no Content-Length."""

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        """Frame by chunks."""
        return replace(delivery, framing="chunked")


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseDelimited(Fault):
    """No length at all: the body ends where the connection does."""

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        """Frame by the end of the connection."""
        return replace(delivery, framing="close")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gzip(Fault):
    """The content gzip-encoded, though nobody asked for it."""

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        """Encode the body."""
        return replace(delivery, compress=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndlessHeaders(Fault):
    """Header lines without end (64 MiB at most)."""

    concerns: ClassVar[Concern] = "response"

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        """Never come to the body."""
        return replace(delivery, endless_headers=True)
