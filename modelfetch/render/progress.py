"""The base of the renderers of progress on stderr."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from typing import TYPE_CHECKING, TextIO

from modelfetch.core import events as ev
from modelfetch.render.sentence import NEXT, sentence
from modelfetch.render.text import plain
from modelfetch.render.tracker import Tracker

if TYPE_CHECKING:
    from collections.abc import Callable

CLOSED_STREAM = contextlib.suppress(OSError, ValueError)
"""The errors of a closed pipe or stream, which do not stop the work."""


class Progress:
    """The base of the renderers; `show` is what a subclass adds. Safe to call from any thread.

    Args:
        stream: Where to write (default: stderr).
        verbose: Whether to show small files and sources as well.
        clock: A monotonic clock, in seconds.
    """

    def __init__(
        self, stream: TextIO | None = None, *, verbose: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream or sys.stderr
        self._verbose = verbose
        self._clock = clock
        self._lock = threading.RLock()
        self.tracker = Tracker()
        self._given_up: dict[str, ev.SourceFailed] = {}
        self._mirrored: set[str] = set()
        self._shown_notices: set[str] = set()
        self._stop = threading.Event()
        self._ticker: threading.Thread | None = None

    def __call__(self, event: ev.Event) -> None:
        """Take an event."""
        with self._lock:
            self.tracker.take(event, self._clock())
            self.show(event)

    def show(self, event: ev.Event) -> None:
        """Show an event."""
        if not self._is_held_back(event) and not self._is_repeated(event) and (text := self.text(event)) is not None:
            self.write(text)

    def text(self, event: ev.Event) -> str | None:
        """The line for an event, None where it has none."""
        return sentence(event, verbose=self._verbose)

    def write(self, line: str) -> None:
        """Print a line."""
        with CLOSED_STREAM:
            self._stream.write(plain(line) + "\n")
            self._stream.flush()

    def start_ticking(self, interval: float) -> None:
        """Call `tick` every ``interval`` seconds; if the system allows no further thread, only events are shown."""
        if self._ticker is None:
            self._ticker = threading.Thread(target=self._tick, args=(interval,), name="progress", daemon=True)
            with contextlib.suppress(RuntimeError):
                self._ticker.start()

    def tick(self) -> None:
        """Update what is shown."""

    def close(self) -> None:
        """Called after the last event."""
        self._stop.set()
        if self._ticker is not None and self._ticker.ident is not None:
            self._ticker.join(timeout=2)

    def _tick(self, interval: float) -> None:
        while not self._stop.wait(interval):
            self.tick()

    def _is_repeated(self, event: ev.Event) -> bool:
        """Whether the same notice has been shown before: many models of one hub may cause the same one."""
        if not isinstance(event, ev.Notice) or event.level != "info":
            return False
        repeated = event.message in self._shown_notices
        self._shown_notices.add(event.message)
        return repeated

    def _is_held_back(self, event: ev.Event) -> bool:
        """Whether an event is a source's failure, whose wording depends on whether a mirror is tried next.

        If none is, the transfer ends. For a single source the error that follows reports the same, with a hint.
        """
        key = getattr(event, "key", None)
        if key is None:
            return False
        before = self._given_up.pop(key, None)
        if before is not None and not isinstance(event, ev.TransferEnded):
            self._mirrored.add(key)
            self.write(sentence(before, verbose=self._verbose) or "")
        elif before is not None and key in self._mirrored:
            self.write((sentence(before, verbose=self._verbose) or "").removesuffix(NEXT))
        if isinstance(event, ev.SourceFailed):
            self._given_up[key] = event
            return True
        return False
