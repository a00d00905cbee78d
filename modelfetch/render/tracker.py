"""The state and rate of transfers, computed from events. Pure: time is passed in, nothing is printed."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from modelfetch.core import events as ev
from modelfetch.core.units import format_count, format_seconds, format_share, format_size

STALL_AFTER = 5.0
"""Seconds without progress after which a transfer is shown as stalled."""

_WINDOW = 15.0
"""Seconds over which rates are averaged."""


@dataclass(slots=True)
class Meter:
    """Bytes done over time; rates are over the last seconds, so that a stall shows.

    ``size`` and ``done`` are bytes; ``size`` is None while it is unknown.
    """

    size: int | None
    done: int
    started: float
    _samples: deque[tuple[float, int]] = field(default_factory=deque)
    _moved: float | None = None

    def advance(self, now: float, done: int) -> None:
        """Record that ``done`` bytes have arrived."""
        if done != self.done or self._moved is None:
            self._moved = now
        self.done = done
        self._samples.append((now, done))
        self._forget(now)

    def rate(self, now: float) -> float:
        """Bytes per second over the last seconds."""
        self._forget(now)
        if not self._samples:
            return 0.0
        then, before = self._samples[0]
        return max(0.0, (self.done - before) / (now - then)) if now - then > 0.05 else 0.0

    def stalled(self, now: float) -> float | None:
        """Seconds without progress, None while there is some."""
        since = now - (self._moved if self._moved is not None else self.started)
        return since if since >= STALL_AFTER else None

    def percent(self) -> int:
        """How much is done, in percent; 0 while the size is unknown."""
        return min(100, 100 * self.done // self.size) if self.size else 0

    def numbers(self, now: float) -> str:
        """``2.10 GiB of 6.50 GiB  88.0 MiB/s  ETA 50s``."""
        done = f"{format_size(self.done)} of {format_size(self.size)}" if self.size else format_size(self.done)
        return "  ".join((done, *self._pace(now)))

    def short_numbers(self, now: float) -> str:
        """The same for a narrow terminal, with one unit: ``2.10/6.50 GiB 88.0 MiB/s ETA 50s``."""
        done = format_share(self.done, self.size) if self.size else format_size(self.done)
        return " ".join((done, *self._pace(now)))

    def _pace(self, now: float) -> tuple[str, ...]:
        """The rate and the remaining time, or how long nothing has arrived."""
        if (stall := self.stalled(now)) is not None:
            return (f"stalled for {format_seconds(stall)}",)
        rate = self.rate(now)
        if not self.size:
            return (f"{format_size(rate)}/s",)
        left = format_seconds((self.size - self.done) / rate) if rate > 0 else "unknown"
        return (f"{format_size(rate)}/s", f"ETA {left}")

    def _forget(self, now: float) -> None:
        while len(self._samples) > 1 and now - self._samples[1][0] > _WINDOW:
            self._samples.popleft()


@dataclass(slots=True)
class TrackedFile:
    """A file that is being downloaded."""

    label: str
    meter: Meter


class Tracker:
    """All files of a run: those running, and the total of the plan."""

    def __init__(self) -> None:
        self.running: dict[str, TrackedFile] = {}
        self.total: Meter | None = None
        self.files = 0
        self.files_done = 0
        self._planned_bytes = 0
        self._finished_bytes = 0

    def take(self, event: ev.Event, now: float) -> None:
        """Update the state from an event."""
        match event:
            case ev.Planned():
                self.files, self._planned_bytes = event.artifacts, event.bytes
            case ev.TransferStarted():
                meter = Meter(size=event.size, done=event.offset, started=now)
                meter.advance(now, event.offset)
                self.running[event.key] = TrackedFile(label=event.label, meter=meter)
            case ev.TransferProgress() if event.key in self.running:
                self.running[event.key].meter.advance(now, event.done)
            case ev.TransferFinished():
                self.running.pop(event.key, None)
                self.files_done += 1
                self._finished_bytes += event.size
            case ev.TransferEnded():
                self.running.pop(event.key, None)
            case _:
                return
        self._sum_up(now)

    def headline(self) -> str:
        """``3/7 files``."""
        files = max(self.files, self.files_done + len(self.running))
        return f"{self.files_done}/{format_count(files, 'file')}"

    def _sum_up(self, now: float) -> None:
        meters = [file.meter for file in self.running.values()]
        done = self._finished_bytes + sum(meter.done for meter in meters)
        known = self._finished_bytes + sum(meter.size or meter.done for meter in meters)
        size = max(self._planned_bytes, known)
        if self.total is None:
            self.total = Meter(size=size, done=done, started=now)
        self.total.size = size
        self.total.advance(now, done)
