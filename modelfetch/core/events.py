"""What happens while work goes on, as values: renderers turn them into a bar, log lines or JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """The base of all events."""

    def as_dict(self) -> dict[str, Any]:
        """The event as one JSON object, its kind under ``event``."""
        name = "".join("-" + c.lower() if c.isupper() else c for c in type(self).__name__).lstrip("-")
        return {"event": name, **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned(Event):
    """The plan is made: this many artifacts and bytes are to be fetched."""

    artifacts: int
    bytes: int
    present: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferStarted(Event):
    """An artifact is being fetched; ``offset`` bytes of ``size`` (None: unknown) were there and are trusted."""

    key: str
    label: str
    size: int | None
    offset: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckStarted(TransferStarted):
    """This many files, ``size`` bytes in all, are being hashed where they lie; progress follows as of a transfer."""

    files: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferProgress(Event):
    """So many bytes of the artifact are on disk now."""

    key: str
    done: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferRetrying(Event):
    """A try ended without success; the next one starts after ``delay`` seconds."""

    key: str
    label: str
    reason: str
    delay: float
    attempt: int
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFailed(Event):
    """A source was given up; the next mirror is tried."""

    key: str
    label: str
    source: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferFinished(Event):
    """The artifact is in the store, verified."""

    key: str
    label: str
    size: int
    fetched: int
    seconds: float
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferEnded(Event):
    """The artifact's transfer ended without success (failed or cancelled)."""

    key: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting(Event):
    """Another process owns this work; ``seconds`` have been waited so far."""

    key: str
    label: str
    owner: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed(Event):
    """A model is in place for a consumer."""

    model: str
    consumer: str
    paths: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice(Event):
    """A warning (``level`` "warning") or a word ("info") for the person who watches."""

    level: str
    message: str
    hint: str | None = None


Sink = Callable[[Event], None]
"""Where events go. It is called from worker threads too, and must not block."""


def discard(event: Event) -> None:
    """The sink of those who don't care."""
