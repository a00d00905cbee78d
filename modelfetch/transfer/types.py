"""What the engine is told and what it answers."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modelfetch.http.types import FLOOR_RATE, FLOOR_SECONDS
from modelfetch.store.locks.lock import LockTiming

if TYPE_CHECKING:
    from collections.abc import Callable

    from modelfetch.store.store import Blob


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What the user may choose.

    Attributes:
        jobs: Large files at once; of small ones (up to `Tuning.small` bytes) four times as many.
        connections: Connections per file at most.
        limit_rate: Bytes per second for the whole process, None for no limit.
        retries: Attempts in a row without progress before a source is given up.
        lock_timeout: Seconds to wait for another process, None for as long as it lives.
    """

    jobs: int = 4
    connections: int = 8
    limit_rate: int | None = None
    retries: int = 5
    lock_timeout: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What tests change: the seconds and bytes that the engine goes by, and its clock.

    ``durable`` is for benchmarks beside programs that do not wait for the disk.
    """

    floor_rate: int = FLOOR_RATE
    floor_seconds: float = FLOOR_SECONDS
    backoff_first: float = 1.0
    backoff_most: float = 16.0
    breath: float = 0.1
    source_seconds: float = 60.0
    retry_after_most: float = 120.0
    small: int = 4 * 2**20
    ring_buffers: int = 4
    ring_bytes: int = 4 * 2**20
    ring_bytes_beside: int = 2**20
    lane_bytes: int = 2**20
    progress_seconds: float = 0.1
    durable: bool = True
    pace: LockTiming = field(default_factory=LockTiming)
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """An artifact that is in the store now.

    Attributes:
        blob: The verified blob.
        action: ``fetched``, ``resumed`` (part of it was there) or ``present``.
        bytes_fetched: Bytes of bodies received.
        served_by: The URI of the location that gave the last byte; the artifact's own when nothing was fetched.
    """

    blob: Blob
    action: str
    bytes_fetched: int
    served_by: str
