"""Progress events as values: renderers turn them into a bar, log lines or JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """The base of all events."""

    def as_dict(self) -> dict[str, Any]:
        """Return the event as one JSON object, with its kind under ``event``."""
        name = "".join("-" + c.lower() if c.isupper() else c for c in type(self).__name__).lstrip("-")
        return {"event": name, **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned(Event):
    """The plan is complete: this many artifacts and bytes will be fetched."""

    artifacts: int
    bytes: int
    present: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _ItemEvent(Event):
    """Concerns one artifact or lock: ``key`` identifies it, ``label`` is the name that is shown."""

    key: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferStarted(_ItemEvent):
    """A transfer has started; ``offset`` bytes of ``size`` (None: unknown) are already on disk and trusted."""

    size: int | None
    offset: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckStarted(TransferStarted):
    """This many existing files, ``size`` bytes in all, are being hashed in place; progress follows as in a transfer."""

    files: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferProgress(Event):
    """The number of the artifact's bytes on disk."""

    key: str
    done: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferRetrying(_ItemEvent):
    """An attempt failed; the next one starts after ``delay`` seconds."""

    reason: str
    delay: float
    attempt: int
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFailed(_ItemEvent):
    """A source failed permanently; the next mirror is tried."""

    source: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferFinished(_ItemEvent):
    """The artifact is verified and in the store."""

    size: int
    fetched: int
    seconds: float
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferEnded(_ItemEvent):
    """The artifact's transfer failed or was cancelled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting(_ItemEvent):
    """Another process is doing this work; ``seconds`` is the waiting time so far."""

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
    """A warning (``level`` "warning") or a message ("info") for the user."""

    level: str
    message: str
    hint: str | None = None


Sink = Callable[[Event], None]
"""Receives events. Called from worker threads too, and must not block."""


def discard(event: Event) -> None:
    """Ignore the event: the default sink."""
