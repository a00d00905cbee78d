"""The heartbeats of all locks that this process holds."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

IDLE = 5.0
"""Seconds between two wake-ups while no lock is held."""


class HeartbeatThread:
    """One thread that renews the heartbeats of all locks of this process.

    If no thread can be started (a container's limit on processes), `Held.check` renews them during the work.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._beating: dict[int, _Beating] = {}
        self._wake = threading.Event()
        self._until = 0.0
        self._thread: threading.Thread | None = None

    def add(self, beat: Callable[[], None], interval: float) -> Callable[[], None]:
        """Call what renews a lock's heartbeat at an interval in seconds; returns a function that stops this."""
        due = time.monotonic() + interval
        beating = _Beating(beat, interval, due)
        with self._lock:
            self._beating[id(beating)] = beating
            if self._thread is None or not self._thread.is_alive():
                self._until = due
                self._thread = threading.Thread(target=self._run, name="modelfetch-heartbeat", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError:
                    self._thread = None
            sleeps_too_long = due < self._until
        if sleeps_too_long:
            self._wake.set()
        return lambda: self._remove(beating)

    def _remove(self, beating: _Beating) -> None:
        with self._lock:
            self._beating.pop(id(beating), None)

    def _run(self) -> None:
        while True:
            with self._lock:
                now = time.monotonic()
                for beating in self._beating.values():
                    if beating.due <= now:
                        beating.beat()
                        beating.due = now + beating.interval
                self._until = min((beating.due for beating in self._beating.values()), default=now + IDLE)
            self._wake.wait(self._until - now)
            self._wake.clear()


@dataclass(slots=True)
class _Beating:
    """What renews a lock's heartbeat, the seconds between two calls, and when the next one is due."""

    beat: Callable[[], None]
    interval: float
    due: float


heartbeats = HeartbeatThread()
os.register_at_fork(after_in_child=heartbeats.__init__)  # type: ignore[misc]  # a forked child holds none of the locks
