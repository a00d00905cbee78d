"""Several connections for one file: a thread each, while this one decides how many and hashes behind them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from modelfetch.errors import (
    CredentialsError,
    InterruptedSync,
    ModelfetchError,
    NotFoundError,
    RetryLaterError,
    UnreachableError,
)
from modelfetch.http.status import RateLimitedError, ServerError
from modelfetch.transfer.growth import Growth
from modelfetch.transfer.request import WrongRangeError

if TYPE_CHECKING:
    from modelfetch.cancel import Cancel
    from modelfetch.transfer.context import Context
    from modelfetch.transfer.download import Download
    from modelfetch.transfer.partial import Partial
    from modelfetch.transfer.ranges import Board, Segment

_TICK = 0.02
_STEP = 8 * 2**20  # bytes hashed between two looks at the clock


class Team:
    """The connections of one attempt.

    Args:
        download: Sends the requests.
        board: Who works on what.
        context: What all transfers share.
        partial: Where the bytes go.
        cancel: What may end it.
    """

    def __init__(self, download: Download, board: Board, context: Context, partial: Partial, cancel: Cancel) -> None:
        self._download = download
        self._board = board
        self._context = context
        self._partial = partial
        self._cancel = cancel
        self._stop = cancel.child()
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._active = 0
        self._alone = True
        self._errors: list[BaseException] = []
        self._fatal: BaseException | None = None
        self._growth: Growth | None = None
        self._started = context.tuning.clock()

    def run(self) -> None:
        """Work until nothing is left or nobody is left.

        Raises:
            StartAgain: What is there is of no use.
            ModelfetchError: The last error of the connections.
            OSError: The disk refused.
        """
        threads: list[threading.Thread] = []
        try:
            self._hire(threads, 1)
            while self._active and self._fatal is None:
                self._changed.wait(_TICK)
                self._changed.clear()
                self._cancel.check()
                self._hire(threads, self._wanted())
                if len(threads) > 1:
                    self._hash_behind()
        finally:
            if self._fatal is not None or self._cancel.is_set():
                self._stop.set()
            for thread in threads:
                thread.join()
            self._stop.release()
        self._cancel.check()
        if self._fatal is not None:
            raise self._fatal
        if self._errors and not self._partial.is_complete():
            raise self._errors[-1]

    def _hash_behind(self) -> None:
        until = self._partial.prefix.position + _STEP
        self._partial.prefix.catch_up(self._partial.fd, self._partial.reach, until=until)

    def _wanted(self) -> int:
        """How many connections to add."""
        if not self._download.splittable or self._partial.size is None:
            return 0
        clock, options = self._context.tuning.clock, self._context.options
        now = clock()
        if self._growth is None:
            setup = min(2.0, now - self._started)
            self._growth = Growth(options.connections, limit=options.limit_rate, setup=setup)
        flow = self._download.flow
        return self._growth.step(now, flow.received, active=self._active, left=self._board.left, behind=flow.share)

    def _hire(self, threads: list[threading.Thread], count: int) -> None:
        for _ in range(count):
            segment = self._board.take(least=self._least())
            if segment is None:
                return
            self._alone = not threads
            with self._lock:
                self._active += 1
            thread = threading.Thread(target=self._work, args=(segment,), name="modelfetch-connection", daemon=True)
            threads.append(thread)
            thread.start()

    def _least(self) -> int:
        """Bytes that must be left of a range for half of it to be worth a new request."""
        rate = self._growth.rate() if self._growth is not None else 0.0
        return max(4 * 2**20, int(0.25 * rate / max(1, self._active)))

    def _work(self, first: Segment) -> None:
        """One connection's life: its range, then halves of others'."""
        segment: Segment | None = first
        try:
            while segment is not None:
                try:
                    self._download.bring(segment, alone=self._alone, cancel=self._stop)
                finally:
                    self._board.leave(segment)
                segment = self._board.take(least=self._least())
        except InterruptedSync:
            pass
        except (CredentialsError, NotFoundError, RetryLaterError, UnreachableError) as error:
            self._note(error)
        except BaseException as error:
            self._fatal = error
        finally:
            with self._lock:
                self._active -= 1
            self._changed.set()

    def _note(self, error: ModelfetchError) -> None:
        self._errors.append(error)
        if self._active > 1:
            self._download.tell_lost(error)
        if self._growth is not None:
            refused = isinstance(error, RateLimitedError | ServerError | WrongRangeError) or error.permanent
            now = self._context.tuning.clock()
            self._growth.failed(now, refused=refused, active=max(1, self._active - 1))
