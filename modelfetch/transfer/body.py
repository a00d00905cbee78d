"""Receive a response's body into the partial file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from modelfetch.core.urls import redact
from modelfetch.errors import IntegrityError, ModelfetchError, UnreachableError
from modelfetch.formats.content_check import HEAD
from modelfetch.transfer.pump import Flow, Pump
from modelfetch.transfer.rate import Floor
from modelfetch.transfer.ring_buffer import RingBuffer
from modelfetch.transfer.syscalls import WriteBack, no_write_back

if TYPE_CHECKING:
    from modelfetch.core.cancel import Cancel
    from modelfetch.http import Response
    from modelfetch.transfer.scheduler import Segment
    from modelfetch.transfer.types import Context
    from modelfetch.transfer.writer import SegmentWriter

CheckHead = Callable[[bytes, "Response"], ModelfetchError | None]


class SurplusError(IntegrityError):
    """A body of unknown length has more bytes than the file may have."""


class Body:
    """One response body.

    Args:
        context: The state that all transfers share.
        response: The response, its body unread.
        writer: Writes the bytes to the partial file.
        segment: The requested range; its end may move down meanwhile.
        alone: Whether it is the file's only connection: then hashing and writing get separate threads.
        cancel: Ends it when it is set.
        check_head: Checks the first bytes of a file and returns what is wrong with them.
        progress: Called with the number of bytes received.
        flow: Counts received bytes over all connections.
    """

    def __init__(
        self,
        context: Context,
        response: Response,
        writer: SegmentWriter,
        segment: Segment,
        *,
        alone: bool,
        cancel: Cancel,
        check_head: CheckHead | None,
        progress: Callable[[int], None],
        flow: Flow,
    ) -> None:
        self._context = context
        self._response = response
        self._writer = writer
        self._segment = segment
        self._alone = alone
        self._cancel = cancel
        self._check_head = check_head
        self._progress = progress
        self._flow = flow
        self._floor = Floor(floor_rate(context), context.tuning.floor_seconds, 0.0)
        self._requested_end = segment.requested_end

    def receive(self) -> None:
        """Read to the end of the segment, or of a body of unknown length.

        Raises:
            UnreachableError: The body broke off, stalled, or was too slow.
            SurplusError: It is longer than the file may be.
            NotAModelError, CredentialsError: `check_head` rejected it.
            InterruptedSync: It was cancelled.
            OSError: The disk failed.
        """
        response, segment = self._response, self._segment
        pieces = self._count_pieces(response.iter_decoded())
        if self._check_head is not None:
            pieces = _check_first_bytes(pieces, response, self._check_head)
        sock = response.socket()
        if sock is not None and segment.left >= self._context.tuning.pump_from:
            first = next(pieces, b"")
            self._write(memoryview(first))
            self._context.limiter.take(len(first), self._cancel)
            pump = Pump(
                self._context,
                response,
                sock,
                flow=self._flow,
                floor=self._floor,
                cancel=self._cancel,
                progress=self._progress,
            )
            with_threads = self._alone and segment.left >= self._context.tuning.threads_from
            self._receive_with_threads(pump) if with_threads else self._receive_in_this_thread(pump)
            if segment.position == self._requested_end:
                response.reuse()
        else:
            self._receive_pieces(pieces)
        if segment.left > 0:
            raise UnreachableError(f"{redact(response.url)} broke off at byte {segment.position} of {segment.end}")

    def _receive_with_threads(self, pump: Pump) -> None:
        durable = self._context.tuning.durable
        flush = WriteBack(self._writer.fd, self._writer.position) if durable else no_write_back
        ring = RingBuffer(self._writer, pool=self._context.buffer_pool, flush=flush)
        if not ring.start():
            self._receive_in_this_thread(pump)
            return
        with ring:
            pump.read_into(ring, self._segment)

    def _receive_in_this_thread(self, pump: Pump) -> None:
        """Hash and write in this thread, as each of several connections does; the pool starts the write-back."""
        segment = self._segment
        with self._context.buffer_pool.single() as slot:
            while wanted := segment.claim(min(len(slot.memory), pump.next_claim)):
                count = pump.fill(slot.memory[:wanted])
                self._write(slot.memory[:count])

    def _receive_pieces(self, pieces: Iterator[bytes]) -> None:
        """Read through httpx: for small bodies, and for those that the pump can't read."""
        for piece in pieces:
            if not self._write(memoryview(piece)):
                return
            self._context.limiter.take(len(piece), self._cancel)

    def _count_pieces(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """Count the pieces and yield them; raises if they come too slowly."""
        clock = self._context.tuning.clock
        waited, before = 0.0, clock()
        for piece in pieces:
            waited += clock() - before
            if piece:  # a coded body may come without any content
                self._flow.received += len(piece)
                yield piece
            self._floor.note(len(piece), waited)
            before = clock()

    def _write(self, piece: memoryview) -> bool:
        """Hash and write a piece; returns whether the segment continues after it."""
        segment, length = self._segment, len(piece)
        count = segment.claim(length)
        if count:
            self._writer.take(piece[:count])
            segment.advance(count)
            self._progress(count)
        if count < length and segment.end == self._requested_end:
            raise SurplusError(f"{redact(self._response.url)} sent more than {segment.end} bytes", code="size-mismatch")
        return count == length


def floor_rate(context: Context) -> float:
    """The minimum rate of a connection in bytes per second, lower where the user has set a cap."""
    rate = float(context.tuning.floor_rate)
    if context.limiter.rate is not None:
        rate = min(rate, context.limiter.rate / 256)
    return rate


def _check_first_bytes(pieces: Iterator[bytes], response: Response, check_head: CheckHead) -> Iterator[bytes]:
    """Yield the same pieces, after the first bytes were checked."""
    head = b""
    for piece in pieces:
        head += piece
        if len(head) >= HEAD:
            break
    error = check_head(head, response)
    if error is not None:
        raise error
    if head:
        yield head
    yield from pieces
