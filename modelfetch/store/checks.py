"""The date and result of the last full check of each file.

They are stored in ``checks.json``: those of blobs in the store, those of placed files below ROOT. A hardlink of a blob
has both, so its state is still known when the blob is gone. If the file is lost, the next check is due earlier. A check
applies only to a file of the same size and mtime.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from modelfetch.core.directories import make_directory
from modelfetch.core.events import Sink, discard
from modelfetch.core.fs import PUBLIC_MODE, read_small
from modelfetch.core.json_fields import parse
from modelfetch.core.os_errors import translated
from modelfetch.core.temp_files import write_atomically
from modelfetch.store.locks.lock import lock, repeat_if_lost

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping
    from pathlib import Path

_VERSION = 1
_MAX_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One full check: the file's size in bytes and mtime in ns, the date, and whether its bytes were right."""

    size: int
    mtime_ns: int
    at: datetime
    ok: bool

    def applies_to(self, size: int, mtime_ns: int) -> bool:
        """Whether the file has not been modified since the check."""
        return (self.size, self.mtime_ns) == (size, mtime_ns)


def now() -> datetime:
    """Return the current time in whole seconds, as checks record it."""
    return datetime.now(UTC).replace(microsecond=0)


def read_checks(folder: Path) -> dict[str, Check]:
    """Read the checks of a folder, by ``sha256:HEX`` of a blob or path below ROOT; empty if there are none."""
    try:
        raw = parse(read_small(folder / "checks.json", _MAX_BYTES))
        if raw["version"] != _VERSION:
            return {}
        return {key: _check(data) for key, data in raw["checked"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return {}


def add_checks(
    folder: Path,
    checks: Mapping[str, Check],
    *,
    known: Container[str] | None = None,
    timeout: float | None,
    sink: Sink = discard,
) -> None:
    """Add checks to those of a folder.

    Args:
        folder: The folder.
        checks: The new checks.
        known: The keys of files that exist, if only their older checks are kept.
        timeout: Seconds to wait for another process that does this; None waits indefinitely.
        sink: Receives `Waiting` events.

    Raises:
        DestinationError, DiskError: They can't be written.
        RetryLaterError: Another process kept the lock.
    """
    label = "the dates of checks"

    def work() -> None:
        with lock(folder / "locks" / "checks.lock", label=label, timeout=timeout, sink=sink) as held:
            kept = {key: check for key, check in read_checks(folder).items() if known is None or key in known}
            with translated(folder, doing="writing"):
                write_checks(folder, {**kept, **checks}, confirm=held.ensure_owned)

    repeat_if_lost(work, label=label)


def write_checks(folder: Path, checks: Mapping[str, Check], *, confirm: Callable[[], None] = lambda: None) -> None:
    """Replace the checks of a folder; the caller holds the lock ``checks``.

    Raises:
        OSError: They can't be written.
        LockLostError: ``confirm``, which is called right before they are replaced, found that the lock was lost.
    """
    make_directory(folder)
    data = {"version": _VERSION, "checked": {key: _as_json(check) for key, check in sorted(checks.items())}}
    write_atomically(folder / "checks.json", json.dumps(data).encode("ascii"), mode=PUBLIC_MODE, confirm=confirm)


def _as_json(check: Check) -> list[Any]:
    return [check.size, check.mtime_ns, int(check.at.timestamp()), check.ok]


def _check(data: list[Any]) -> Check:
    size, mtime_ns, at, ok = data
    return Check(size=int(size), mtime_ns=int(mtime_ns), at=datetime.fromtimestamp(int(at), UTC), ok=bool(ok))
