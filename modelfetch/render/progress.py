"""Progress on stderr: a bar on a terminal, a line every few seconds elsewhere, or events as JSON."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn, TextIO

from modelfetch.core import events as ev
from modelfetch.core.units import format_seconds, format_size
from modelfetch.render.sentence import NEXT, WORTH_A_LINE, sentence, without_query
from modelfetch.render.text import plain

if TYPE_CHECKING:
    from collections.abc import Callable

LINE_EVERY = 5.0
"""Seconds between two lines of one running artifact."""

_WINDOW = 15.0
_MOMENT = 0.5
_COLUMNS, _ROWS = 80, 24

_NOBODY_LISTENS = contextlib.suppress(OSError, ValueError)
"""A closed pipe or stream is no reason to stop the work."""


@dataclass(slots=True)
class Running:
    """An artifact on its way; rates are over the last seconds, so that a stall shows."""

    label: str
    size: int | None
    done: int
    samples: deque[tuple[float, int]] = field(default_factory=deque)
    said: float = 0.0

    def advance(self, now: float, done: int) -> None:
        """So many bytes are there now."""
        self.done = done
        self.samples.append((now, done))
        while len(self.samples) > 2 and now - self.samples[0][0] > _WINDOW:
            self.samples.popleft()

    def rate(self, now: float) -> float:
        """Bytes per second of late."""
        if not self.samples:
            return 0.0
        then, before = self.samples[0]
        return (self.done - before) / (now - then) if now - then > 0.05 else 0.0

    def line(self, now: float) -> str:
        """``label  34 %  2.1 of 6.5 GiB  88 MiB/s  ETA 50s``."""
        rate = self.rate(now)
        parts = [self.label]
        if self.size:
            parts.append(f"{100 * self.done // self.size} %")
            parts.append(f"{format_size(self.done)} of {format_size(self.size)}")
        else:
            parts.append(format_size(self.done))
        parts.append(f"{format_size(rate)}/s")
        if self.size:
            parts.append(f"ETA {format_seconds((self.size - self.done) / rate)}" if rate > 0 else "ETA unknown")
        return "  ".join(parts)


class Progress:
    """The base of the renderers: keeps what runs; `show` is what a subclass adds. Safe to call from any thread."""

    def __init__(
        self, stream: TextIO | None = None, *, verbose: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream or sys.stderr
        self._verbose = verbose
        self._clock = clock
        self._lock = threading.RLock()
        self._running: dict[str, Running] = {}
        self._given_up: dict[str, ev.SourceFailed] = {}
        self._mirrored: set[str] = set()
        self._told: set[str] = set()

    def __call__(self, event: ev.Event) -> None:
        """Take an event."""
        with self._lock:
            self._track(event)
            self.show(event)

    def _track(self, event: ev.Event) -> None:
        now = self._clock()
        match event:
            case ev.TransferStarted():
                self._running[event.key] = Running(label=event.label, size=event.size, done=event.offset, said=now)
                self._running[event.key].advance(now, event.offset)
            case ev.TransferProgress() if event.key in self._running:
                self._running[event.key].advance(now, event.done)
            case _:
                pass

    def show(self, event: ev.Event) -> None:
        """Show an event."""
        if not self._is_the_last_word(event) and not self._was_told(event):
            text = sentence(event, verbose=self._verbose)
            if text is not None:
                self.write(text)
        if isinstance(event, (ev.TransferFinished, ev.TransferEnded)):
            self._running.pop(event.key, None)

    def _was_told(self, event: ev.Event) -> bool:
        """Whether an event is a word to whoever watches that stands there already."""
        if not isinstance(event, ev.Notice) or event.level != "info":
            return False
        told = event.message in self._told
        self._told.add(event.message)
        return told

    def _is_the_last_word(self, event: ev.Event) -> bool:
        """Whether an event is a source's failure: only what comes after it tells whether a mirror is tried.

        Where none is, the transfer ends. Of a single source the error that follows says the same, with a hint.
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

    def write(self, line: str) -> None:
        """Print a line."""
        with _NOBODY_LISTENS:
            self._stream.write(plain(line) + "\n")
            self._stream.flush()

    def close(self) -> None:
        """No more events come."""


class Log(Progress):
    """Plain lines, without control characters: for a container's log."""

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        verbose: bool = False,
        clock: Callable[[], float] = time.monotonic,
        every: float = LINE_EVERY,
    ) -> None:
        super().__init__(stream, verbose=verbose, clock=clock)
        self._every = every
        self._stop = threading.Event()
        self._ticker: threading.Thread | None = None

    def show(self, event: ev.Event) -> None:
        """Show an event; the first transfer starts the clock that makes the lines come."""
        super().show(event)
        if isinstance(event, ev.TransferStarted) and self._ticker is None:
            self._ticker = threading.Thread(target=self._tick, name="progress", daemon=True)
            self._ticker.start()

    def tick(self) -> None:
        """Print a line for each artifact that has had none for a while."""
        with self._lock:
            now = self._clock()
            for running in self._running.values():
                if now - running.said >= self._every:
                    running.said = now
                    self.write(running.line(now))

    def close(self) -> None:
        """Stop the clock."""
        self._stop.set()
        if self._ticker is not None:
            self._ticker.join(timeout=2)

    def _tick(self) -> None:
        while not self._stop.wait(min(1.0, self._every)):
            self.tick()


class Bar(Progress):
    """A tqdm bar for each running artifact that is worth one, lines for the rest: for a terminal."""

    def __init__(
        self, stream: TextIO | None = None, *, verbose: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(stream, verbose=verbose, clock=clock)
        from tqdm import tqdm

        self._tqdm = tqdm
        self._bars: dict[str, tqdm[NoReturn]] = {}

    def show(self, event: ev.Event) -> None:
        """Show an event."""
        match event:
            case ev.TransferStarted() if event.key in self._bars:
                bar = self._bars[event.key]
                bar.n = event.offset
                bar.refresh()
            case ev.TransferStarted() if event.size is None or event.size >= WORTH_A_LINE:
                self._open(event.key)
            case ev.TransferProgress() if event.key in self._bars:
                bar = self._bars[event.key]
                bar.update(event.done - bar.n)
            case ev.TransferProgress() if self._takes_its_time(event.key):
                self._open(event.key)
            case ev.TransferFinished() | ev.TransferEnded() if event.key in self._bars:
                self._bars.pop(event.key).close()
                # A bar below others leaves the cursor where its blanks ended.
                self._raw("\r")
            case _:
                pass
        super().show(event)

    def write(self, line: str) -> None:
        """Print a line above the bars."""
        with _NOBODY_LISTENS:
            self._tqdm.write(plain(line), file=self._stream)

    def close(self) -> None:
        """Take the bars away."""
        for bar in self._bars.values():
            bar.close()
        self._bars.clear()

    def _raw(self, text: str) -> None:
        with _NOBODY_LISTENS:
            self._stream.write(text)
            self._stream.flush()

    def _knows_its_size(self) -> bool:
        """Whether the terminal says how large it is: one that says 0 columns would get no bar at all."""
        with contextlib.suppress(OSError, ValueError):
            return os.get_terminal_size(self._stream.fileno()).columns > 0
        return False

    def _takes_its_time(self, key: str) -> bool:
        """Whether a small file lasts a moment: others are over before anybody read their bars, which leave gaps."""
        return key in self._running and self._clock() - self._running[key].said >= _MOMENT

    def _open(self, key: str) -> None:
        running = self._running[key]
        self._bars[key] = self._tqdm(
            total=running.size,
            initial=running.done,
            desc=plain(running.label)[:40],
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            file=self._stream,
            leave=False,
            ncols=None if self._knows_its_size() else _COLUMNS,
            nrows=None if self._knows_its_size() else _ROWS,
            dynamic_ncols=self._knows_its_size(),
            miniters=1,
        )


class Json(Progress):
    """Each event as one JSON object on a line of its own."""

    def show(self, event: ev.Event) -> None:
        """Show an event."""
        fields = event.as_dict()
        if isinstance(fields.get("source"), str):
            fields["source"] = without_query(fields["source"])
        self.write(json.dumps(fields))
        if isinstance(event, (ev.TransferFinished, ev.TransferEnded)):
            self._running.pop(event.key, None)


class Quiet(Progress):
    """Warnings only."""

    def show(self, event: ev.Event) -> None:
        """Show a warning."""
        if isinstance(event, ev.Notice) and event.level == "warning":
            super().show(event)


def make_progress(kind: str, *, verbose: bool, quiet: bool) -> Progress:
    """The renderer that was asked for; ``auto`` is a bar on a terminal and lines elsewhere."""
    if quiet and kind == "auto":
        return Quiet()
    if kind == "bar" or (kind == "auto" and sys.stderr.isatty()):
        return Bar(verbose=verbose)
    if kind == "json":
        return Json()
    if kind == "none":
        return Quiet()
    return Log(verbose=verbose)
