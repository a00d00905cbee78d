"""The pump reads bodies from the response's socket straight into reused buffers."""

from __future__ import annotations

import array
import fcntl
import termios
from typing import TYPE_CHECKING

from modelfetch.core.urls import redact
from modelfetch.errors import UnreachableError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from modelfetch.core.cancel import Cancel
    from modelfetch.http import Response
    from modelfetch.transfer.rate import Floor
    from modelfetch.transfer.ring_buffer import RingBuffer
    from modelfetch.transfer.scheduler import Segment
    from modelfetch.transfer.types import Context

_PUBLISH_AFTER = 0.1
"""Seconds after which a buffer is passed on although it is not full: a kill loses what is only in memory."""
_MIN_CLAIM = 256 * 1024
_BACKLOG = 256 * 1024
_MAX_SAMPLES = 16


class Flow:
    """Counts what a file receives over all its connections, to decide whether to add more.

    ``received`` counts bytes as they arrive, long before they are written. It is updated without a lock, because lost
    additions do not matter here.
    """

    def __init__(self) -> None:
        self.received = 0
        self._ratio = 0.0
        self._samples = 0
        self._waiting = array.array("i", [0])

    @property
    def backlog_ratio(self) -> float:
        """How often bytes were already waiting when a connection came to read: then the network is fast enough."""
        return self._ratio

    def sample(self, sock: socket.socket) -> None:
        """Sample how many bytes wait in a socket."""
        try:
            fcntl.ioctl(sock.fileno(), termios.FIONREAD, self._waiting)
        except (OSError, ValueError):
            return
        self._samples = min(_MAX_SAMPLES, self._samples + 1)
        self._ratio += (float(self._waiting[0] >= _BACKLOG) - self._ratio) / self._samples


class Pump:
    """Reads one body from a socket.

    Args:
        context: The state that all transfers share.
        response: The response; closing it ends the connection.
        sock: Its socket.
        floor: The minimum rate of the connection.
        cancel: Ends it when it is set.
        progress: Called with the number of bytes received.
        flow: Counts received bytes over all connections.
    """

    def __init__(
        self,
        context: Context,
        response: Response,
        sock: socket.socket,
        *,
        flow: Flow,
        floor: Floor,
        cancel: Cancel,
        progress: Callable[[int], None],
    ) -> None:
        self._where = redact(response.url)
        self._sock = sock
        self._failure: UnreachableError | None = None
        self._flow = flow
        self._floor = floor
        self._cancel = cancel
        self._progress = progress
        self._clock = context.tuning.clock
        self._limiter = context.limiter
        self._step = context.limiter.step
        self._idle = context.http.timeouts.idle
        self._waited = 0.0
        self.next_claim = 2**62
        """Bytes to claim for the next `fill`: twice what the last one got, so that others can take the rest."""

    def fill(self, memory: memoryview) -> int:
        """Read until memory is full, a tenth of a second has passed, or the user's cap is reached.

        Only the wait for the first bytes may be longer, as long as the connection may be idle.

        Returns:
            The number of bytes received, at least one. If the connection ended after some bytes, the next call raises.

        Raises:
            UnreachableError: The connection ended, stalled, or is too slow.
            InterruptedSync: It was cancelled.
        """
        if self._failure is not None:
            raise self._failure
        self._flow.sample(self._sock)
        want = len(memory) if self._step is None else min(len(memory), self._step)
        filled, began = 0, self._clock()
        until = began + _PUBLISH_AFTER
        try:
            self._sock.settimeout(self._idle)
            while filled < want:
                count = self._sock.recv_into(memory[filled:want])
                if filled == 0:
                    self._sock.settimeout(_PUBLISH_AFTER)
                filled += count
                self._flow.received += count
                if count == 0:
                    self._failure = UnreachableError(f"{self._where} broke off before the end of the file")
                    break
                if self._clock() > until:
                    break
        except TimeoutError:
            if filled == 0:
                self._failure = UnreachableError(f"{self._where} sent nothing for {self._idle:g} s", code="timeout")
        except (OSError, ValueError) as error:
            self._failure = UnreachableError(f"{self._where} broke off: {error}")
        self._waited += self._clock() - began
        if filled == 0:
            self._cancel.check()
            raise self._failure or UnreachableError(f"{self._where} broke off")
        self.next_claim = max(_MIN_CLAIM, 2 * filled)
        self._floor.note(filled, self._waited)
        self._limiter.take(filled, self._cancel)
        return filled

    def read_into(self, ring: RingBuffer, segment: Segment) -> None:
        """Read a segment to its end, which may move meanwhile, into a ring; raises as `fill` and `RingBuffer.take`."""
        while wanted := segment.claim(min(ring.size, self.next_claim)):
            self._cancel.check()
            slot = ring.take()
            filled = 0
            try:
                filled = self.fill(slot.memory[:wanted])
            finally:
                ring.publish(slot, segment.position, filled)
                segment.advance(filled)
                self._progress(filled)
