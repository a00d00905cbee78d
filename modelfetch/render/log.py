"""Progress as plain lines, for a container's log or a file."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TextIO

from modelfetch.core import events as ev
from modelfetch.core.units import format_list
from modelfetch.render.progress import Progress
from modelfetch.render.sentence import verified

if TYPE_CHECKING:
    from collections.abc import Callable

MANY_FILES = 50
"""With more planned files than this, small ones get no line."""

_INTERVALS = ((30.0, 5.0), (300.0, 30.0), (float("inf"), 60.0))
"""Pairs of a time after the start and the interval of the lines until then, both in seconds: the interval grows."""

_NAMES = 2
"""How many running files a line names."""


def next_line_after(elapsed: float) -> float:
    """Seconds until the next line, for a run that started ``elapsed`` seconds ago."""
    return next(interval for until, interval in _INTERVALS if elapsed < until)


class Log(Progress):
    """One line for the whole run at intervals, and a line for each file that ends. No control characters."""

    def __init__(
        self, stream: TextIO | None = None, *, verbose: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(stream, verbose=verbose, clock=clock)
        self._started: float | None = None
        self._last_line = 0.0

    def show(self, event: ev.Event) -> None:
        """Show an event. The first transfer starts the timer for the lines at intervals."""
        if isinstance(event, ev.TransferStarted) and self._started is None:
            self._started = self._last_line = self._clock()
            self.start_ticking(1.0)
        super().show(event)

    def text(self, event: ev.Event) -> str | None:
        """The line for an event: files that end always have one, unless there are very many."""
        if isinstance(event, ev.TransferFinished) and self.tracker.files <= MANY_FILES:
            return verified(event)
        return super().text(event)

    def tick(self) -> None:
        """Print a line for the whole run if it is time for one."""
        with self._lock:
            now = self._clock()
            if self._started is None or not self.tracker.running:
                return
            if now - self._last_line >= next_line_after(self._last_line - self._started):
                self._last_line = now
                self.write(self._line(now))

    def _line(self, now: float) -> str:
        """``3/7 files  34 %  2.1 GiB of 6.5 GiB  88.0 MiB/s  ETA 50s  (base.safetensors and 2 more)``."""
        total = self.tracker.total
        assert total is not None  # noqa: S101 - a transfer is running
        labels = [file.label for file in self.tracker.running.values()]
        names = format_list(labels, _NAMES)
        return f"{self.tracker.headline()}  {total.percent()} %  {total.numbers(now)}  ({names})"
