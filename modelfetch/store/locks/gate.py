"""Keep work that adds files separate from work that removes them.

Any number of processes may add at once, each with its own lock. A process that removes holds ``removing.lock``, and
waits while any other lock in the same folders is held, so that those that add finish first. An adding process takes
its own lock before it checks for a remover, and a remover does the reverse, so at least one of them sees the other.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from functools import partial
from typing import TYPE_CHECKING

from modelfetch.core.events import Sink, Waiting, discard
from modelfetch.core.units import format_duration
from modelfetch.errors import RetryLaterError
from modelfetch.store.locks.lock import BUSY_HINT, Held, LockLostError, LockTiming, lock, owner_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from modelfetch.core.cancel import Cancel

_REMOVING = "removing.lock"
_POLL = 0.2
_TIMING = LockTiming()


@contextlib.contextmanager
def adding(
    folder: Path,
    *,
    timeout: float | None = None,
    sink: Sink = discard,
    cancel: Cancel | None = None,
) -> Iterator[Held]:
    """Keep removers out of a folder of locks while the block runs; waits for an active one.

    Yields the lock that does so. It may be lost if this process is suspended.

    Raises:
        RetryLaterError: The timeout expired (``lock-timeout``).
        InterruptedSync: It was cancelled.
        DestinationError, DiskError: A lock can't be created.
    """
    own = folder / f"adding-{secrets.token_hex(8)}.lock"
    with lock(own, label="this run", sink=sink, cancel=cancel) as held:
        remover = folder / _REMOVING
        if remover.exists():
            with lock(remover, label="removal of files", timeout=timeout, sink=sink, cancel=cancel):
                pass
        yield held


@contextlib.contextmanager
def removing(
    folders: Sequence[Path],
    *,
    timeout: float | None = None,
    sink: Sink = discard,
    cancel: Cancel,
) -> Iterator[Callable[[], None]]:
    """Hold folders of locks exclusively while the block runs; waits until no other process holds a lock in them.

    Yields a function to call before each removal. It raises RetryLaterError once another process has taken over, as it
    may if this one is suspended: that process may need any of the files.

    Raises:
        RetryLaterError: The timeout expired (``lock-timeout``).
        InterruptedSync: It was cancelled.
        DestinationError, DiskError: A lock can't be created.
    """
    started = time.monotonic()
    last_reported = started - _TIMING.report_interval + 1.0
    while True:
        with contextlib.ExitStack() as held:
            guards: list[Held] = []
            for folder in folders:
                left = None if timeout is None else max(0.0, timeout - (time.monotonic() - started))
                guard = lock(folder / _REMOVING, label="removal of files", timeout=left, sink=sink, cancel=cancel)
                guards.append(held.enter_context(guard))
            busy = _first_held(folders)
            if busy is None:
                yield partial(_ensure_owned, guards)
                return
        now = time.monotonic()
        if timeout is not None and now - started >= timeout:
            raise RetryLaterError(
                f"{busy} is still working on these files after {format_duration(now - started)}; nothing was removed",
                code="lock-timeout",
                hint=BUSY_HINT,
            )
        if now - last_reported >= _TIMING.report_interval:
            last_reported = now
            sink(Waiting(key="removing", label="removal of files", owner=busy, seconds=now - started))
        cancel.wait(_POLL)
        cancel.check()


def _ensure_owned(guards: Sequence[Held]) -> None:
    try:
        for guard in guards:
            guard.ensure_owned()
    except LockLostError:
        raise RetryLaterError(
            "another process took over while this one was suspended: nothing more was removed",
            code="lock-timeout",
            hint="run it again",
        ) from None


def _first_held(folders: Sequence[Path]) -> str | None:
    """Return the name of a process that holds a lock in the folders, except `_REMOVING`; None if there is none."""
    for folder in folders:
        for path in sorted(folder.glob("*.lock")):
            if path.name == _REMOVING or path.name.startswith("."):
                continue
            try:
                with lock(path, label=path.stem, timeout=0.0):
                    pass
            except RetryLaterError:
                return owner_name(path)
    return None
