"""Several connections for one file, each in a thread, while the calling thread adds or drops some and hashes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

from modelfetch.errors import (
    CredentialsError,
    InterruptedSync,
    ModelfetchError,
    NotFoundError,
    RetryLaterError,
    UnreachableError,
)
from modelfetch.http.status import RateLimitedError, ServerError
from modelfetch.transfer.body import floor_rate
from modelfetch.transfer.concurrency import ConcurrencyController
from modelfetch.transfer.range_request import PageInsteadError, WrongRangeError
from modelfetch.transfer.stragglers import StragglerDetector
from modelfetch.transfer.syscalls import WriteBack, no_write_back

if TYPE_CHECKING:
    from collections.abc import Callable

    from modelfetch.core.cancel import Cancel
    from modelfetch.transfer.partial import Partial
    from modelfetch.transfer.pump import Flow
    from modelfetch.transfer.scheduler import Segment, SegmentQueue
    from modelfetch.transfer.types import Context

_TICK = 0.02
_PIECE_SECONDS = 0.12
_PIECE_SETUPS = 20  # at most a twentieth of the time that a piece takes may go into its request
_TAIL_SECONDS = 0.04
_TAIL_SETUPS = 4
_TAIL_MIN = 2 * 2**20
_STEP = 8 * 2**20  # bytes hashed between two decisions


class Attempt(Protocol):
    """One attempt at one location: it sends the requests, and knows what was seen of the source so far.

    ``flow``: the bytes received. ``setup``: the seconds that the last request took to be answered. ``splittable``:
    whether several connections may fetch the file.
    """

    flow: Flow
    setup: float
    splittable: bool

    def fetch_segment(self, segment: Segment, *, alone: bool, cancel: Cancel) -> None:
        """Request one segment and receive its body; called from several threads."""


class ConnectionPool:
    """The connections of one attempt.

    Args:
        attempt: The attempt.
        queue: The ranges that are left, and those at work.
        context: The state that all transfers share.
        partial: The partial file.
        cancel: Ends it when it is set.
        on_connection_lost: Called with the error of a connection that broke while others continue.
    """

    def __init__(
        self,
        attempt: Attempt,
        queue: SegmentQueue,
        context: Context,
        partial: Partial,
        cancel: Cancel,
        on_connection_lost: Callable[[ModelfetchError], None],
    ) -> None:
        self._attempt = attempt
        self._queue = queue
        self._context = context
        self._partial = partial
        self._cancel = cancel
        self._on_connection_lost = on_connection_lost
        self._stop = cancel.child()
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._active = 0
        self._spare = 0  # connections that may go: adding them did not help
        self._alone = True
        self._errors: list[ModelfetchError] = []
        self._fatal: BaseException | None = None
        self._controller: ConcurrencyController | None = None
        self._stragglers = StragglerDetector(context.options.connections if context.limiter.rate is None else 0)
        self._flush = WriteBack(partial.fd, partial.prefix.position) if context.tuning.durable else no_write_back

    def run(self) -> None:
        """Work until no range or no connection is left.

        Raises:
            RestartDownload: The partial file is of no use.
            ModelfetchError: The last error of the connections.
            OSError: The disk failed.
        """
        threads: list[threading.Thread] = []
        try:
            self._add_connections(threads, 1)
            behind = False
            while self._active and self._fatal is None:
                self._changed.wait(0 if behind else _TICK)
                self._changed.clear()
                self._cancel.check()
                wanted = self._connections_to_add()
                if wanted:
                    with self._lock:
                        self._spare = max(0, -wanted)
                self._add_connections(threads, wanted)
                if len(threads) > 1:
                    self._drop_straggler()
                    behind = self._hash_next_step()
        finally:
            if self._active:
                self._stop.set()  # this loop ended early: the rest is not needed
            for thread in threads:
                thread.join()
            self._stop.release()
        self._cancel.check()
        if self._fatal is not None:
            raise self._fatal
        if self._errors and not self._partial.is_complete():
            raise self._error_to_raise()

    def _error_to_raise(self) -> ModelfetchError:
        """Choose the error to raise: a refusal only if no connection merely broke."""
        return next((error for error in reversed(self._errors) if not error.permanent), self._errors[-1])

    def _hash_next_step(self) -> bool:
        """Hash the next step of the contiguous bytes; returns whether there may be more."""
        prefix = self._partial.prefix
        before = prefix.position
        prefix.catch_up(self._partial.fd, self._partial.reach, until=before + _STEP)
        self._flush(prefix.position)
        return prefix.position - before >= _STEP

    def _connections_to_add(self) -> int:
        """Return how many connections to add."""
        if not self._attempt.splittable or self._partial.size is None:
            return 0
        context = self._context
        now = context.tuning.clock()
        if self._controller is None:
            setup = min(2.0, self._attempt.setup)
            floor = floor_rate(context)
            self._controller = ConcurrencyController(
                context.options.connections, limit=context.limiter.rate, setup=setup, tuning=context.tuning, floor=floor
            )
        flow = self._attempt.flow
        return self._controller.step(
            now, flow.received, active=self._active, left=self._queue.left, behind=flow.backlog_ratio
        )

    def _drop_straggler(self) -> None:
        """End the one connection that holds up the file: its thread requests the rest again."""
        cancel = self._stragglers.step(
            self._context.tuning.clock(),
            self._attempt.flow.received,
            active=self._active,
            setup=self._attempt.setup,
            at_end=not self._queue.has_waiting,
        )
        if cancel is not None:
            cancel.set()

    def _add_connections(self, threads: list[threading.Thread], count: int) -> None:
        for _ in range(count):
            segment = self._take_segment(alone=False)
            if segment is None:
                return
            self._alone = not threads
            with self._lock:
                self._active += 1
            thread = threading.Thread(
                target=self._run_connection, args=(segment,), name="modelfetch-connection", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:  # the system allows no further thread
                if not threads:
                    self._run_connection(segment)  # then this one fetches everything
                    return
                self._queue.put_back(segment)
                self._connection_done()
                if threads and self._controller is not None:
                    self._controller.most = max(1, self._active)
                    return
                raise
            threads.append(thread)

    def _take_segment(self, *, alone: bool) -> Segment | None:
        """Take the next range: long enough to be worth a request, short enough that hashing keeps up."""
        if self._controller is None or alone:
            return self._queue.take()
        rate = self._controller.rate() / max(1, self._active)
        setup = self._attempt.setup
        piece = int(rate * max(_PIECE_SECONDS, _PIECE_SETUPS * setup))
        tail = int(rate * (_TAIL_SECONDS + _TAIL_SETUPS * setup))
        tuning = self._context.tuning
        piece = min(max(piece, tuning.min_piece), tuning.max_piece)
        return self._queue.take(piece=piece, least=max(_TAIL_MIN, tail))

    def _run_connection(self, first: Segment) -> None:
        """Run one connection: fetch its range, then others, until none is left or the connection is spare."""
        try:
            segment: Segment | None = first
            while segment is not None:
                self._fetch_segment(segment)
                segment = self._next_segment()
        except InterruptedSync:
            self._connection_done()
        except (CredentialsError, NotFoundError, PageInsteadError, RetryLaterError, UnreachableError) as error:
            if not self._stop.is_set():
                self._report_failure(error)
            self._connection_done()
        except BaseException as error:
            self._fatal = error
            self._connection_done()
        finally:
            self._changed.set()

    def _fetch_segment(self, segment: Segment) -> None:
        """Fetch a range; what is not fetched is queued again."""
        cancel = self._stop.child()
        work = self._stragglers.begin(segment, cancel, self._context.tuning.clock())
        try:
            self._attempt.fetch_segment(segment, alone=self._alone, cancel=cancel)
        except (InterruptedSync, UnreachableError):
            if self._stop.is_set() or not cancel.is_set():
                raise
        finally:
            self._stragglers.end(work)
            cancel.release()
            self._queue.put_back(segment)

    def _next_segment(self) -> Segment | None:
        """Take the next range for a connection; if there is none, the connection ends."""
        with self._lock:
            alone = self._active == 1
            segment = self._take_segment(alone=alone) if alone or not self._spare else None
            if segment is None:
                self._active -= 1
                self._spare = max(0, self._spare - 1)
            return segment

    def _connection_done(self) -> None:
        with self._lock:
            self._active -= 1

    def _report_failure(self, error: ModelfetchError) -> None:
        self._errors.append(error)
        if self._active > 1:
            self._on_connection_lost(error)
        if self._controller is not None:
            refused = isinstance(error, RateLimitedError | ServerError | WrongRangeError) or error.permanent
            now = self._context.tuning.clock()
            self._controller.failed(now, refused=refused, active=max(1, self._active - 1))
