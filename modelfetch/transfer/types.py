"""The engine's tuning, shared context and results."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modelfetch.http.retry import RetryTiming
from modelfetch.store.locks.lock import LockTiming

if TYPE_CHECKING:
    from collections.abc import Callable

    from modelfetch.config.options import Options
    from modelfetch.core.events import Sink
    from modelfetch.http import Http
    from modelfetch.store.locks.files import LockFiles
    from modelfetch.store.store import Blob, Store
    from modelfetch.transfer.rate import Limiter
    from modelfetch.transfer.ring_buffer import BufferPool


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning(RetryTiming):
    """The engine's intervals (seconds), sizes (bytes) and clock, which tests change.

    ``durable`` is False in benchmarks against programs that do not wait for the disk.
    """

    name_lookups: int = 100
    """As many as `--retries` allows: the network of a long download may be away for longer than at its start."""
    small: int = 4 * 2**20
    ring_buffers: int = 4
    ring_bytes: int = 4 * 2**20
    shared_ring_bytes: int = 2**20
    single_bytes: int = 2**20
    split_from: int = 16 * 2**20
    """Files below this size use one connection."""
    min_piece: int = 4 * 2**20
    max_piece: int = 64 * 2**20
    pump_from: int = 128 * 1024
    """Bodies below this size mostly arrive with their headers, and are read through httpx."""
    threads_from: int = 8 * 2**20
    """Bodies from this size on are hashed and written by separate threads."""
    fast_rate: int = 200 * 2**20
    """Bytes per second at which one connection is enough: hashing and the disk are near their own limits there."""
    hold_seconds: float = 2.0
    """How long no connections are added after some did not help; it doubles each time."""
    progress_seconds: float = 0.1
    durable: bool = True
    lock_timing: LockTiming = field(default_factory=LockTiming)
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A fetched artifact.

    Attributes:
        blob: The verified blob.
        action: ``fetched``, ``resumed`` (from a partial file), ``present`` or ``adopted``.
        bytes_fetched: Bytes received.
        served_by: The URI of the location that sent the last byte; None if nothing was fetched.
    """

    blob: Blob
    action: str = "present"
    bytes_fetched: int = 0
    served_by: str | None = None


class Traffic:
    """Counts the bytes that all transfers of an engine receive, in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.received = 0

    def add(self, count: int) -> None:
        """Count more bytes."""
        with self._lock:
            self.received += count


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The state that all transfers of an engine share."""

    http: Http
    store: Store
    options: Options
    tuning: Tuning
    limiter: Limiter
    buffer_pool: BufferPool
    lock_files: LockFiles
    traffic: Traffic
    sink: Sink
