"""Count received bytes and report them from time to time."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from modelfetch.core.events import TransferProgress

if TYPE_CHECKING:
    from modelfetch.store.locks.lock import Held
    from modelfetch.transfer.partial import Partial
    from modelfetch.transfer.types import Context


class ReceivedCounter:
    """The bytes received for one artifact; called by all its connections."""

    def __init__(self, context: Context, key: str, partial: Partial, held: Held) -> None:
        self._held = held
        self._context = context
        self._key = key
        self._partial = partial
        self._lock = threading.Lock()
        self._reported = context.tuning.clock()
        self.received = 0

    def note(self, count: int) -> None:
        """Record ``count`` bytes as received.

        Raises:
            LockLostError: Another process has taken over.
        """
        self._held.check()
        now = self._context.tuning.clock()
        with self._lock:
            self.received += count
            if now - self._reported < self._context.tuning.progress_seconds:
                return
            self._reported = now
        self._context.sink(TransferProgress(key=self._key, done=self._partial.total))
