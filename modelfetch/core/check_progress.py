"""Report the hashing of existing files as events: its start, its progress a few times a second, its end."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

from modelfetch.core.events import CheckStarted, TransferEnded, TransferProgress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from modelfetch.core.events import Sink

WORTH_REPORTING = 16 * 2**20
"""Bytes from which the hashing of a single file takes long enough to be reported."""

_EVERY = 0.2
"""Seconds between two `TransferProgress` events."""


@contextlib.contextmanager
def reporting_check(sink: Sink, key: str, label: str, *, size: int, files: int = 1) -> Iterator[Callable[[int], None]]:
    """Report a check while the block runs; yields a function to call with each number of newly hashed bytes.

    Args:
        sink: Receives the events.
        key: The events' key.
        label: What is checked, and why.
        size: Bytes of all files together.
        files: Their number.
    """
    lock = threading.Lock()
    done, reported = 0, time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, reported
        with lock:
            done += count
            now = time.monotonic()
            if now - reported < _EVERY:
                return
            reported = now
            event = TransferProgress(key=key, done=done)
        sink(event)

    sink(CheckStarted(key=key, label=label, size=size, offset=0, source="", files=files))
    try:
        yield advance
    finally:
        sink(TransferEnded(key=key, label=label))


@contextlib.contextmanager
def reporting_large(sink: Sink, label: str, *, size: int) -> Iterator[Callable[[int], None]]:
    """Report the check of one file as `reporting_check` does, unless it is too small for that."""
    if size < WORTH_REPORTING:
        yield lambda _: None
        return
    with reporting_check(sink, f"check:{label}", label, size=size) as advance:
        yield advance
