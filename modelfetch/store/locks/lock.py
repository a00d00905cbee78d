"""Locks between processes, containers and machines that share a store.

A lock is a file that names its owner and whose mtime is the owner's heartbeat; the owner also holds flock on it. Where
flock works, a dead owner is replaced at once, for the kernel has released its flock. Where it does nothing (some
network shares), the owner's pid is looked up if it can mean anything; otherwise the heartbeat decides. An owner without
a heartbeat for 30 s is replaced even if it is only suspended: see `Held.predecessor_may_be_alive`.

How the owner changes:

- A free lock is taken by creating its file with O_EXCL.
- A dead or silent owner is replaced by renaming a new file over its own. Only the process that has created
  ``NAME.taking`` may do that, and it judges the owner again after creating it, so that of several processes that find a
  dead owner one replaces it and the others find a living one.
- An owner that was suspended for long enough to be replaced renews its heartbeat under ``NAME.taking`` too: it either
  prevents the replacement or finds out that it has taken place.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modelfetch.core.cancel import Cancel
from modelfetch.core.events import Sink, Waiting, discard
from modelfetch.core.fs import (
    COPY_MODE,
    make_directory,
    open_regular,
    read_small,
    remove_abandoned,
    temporary_name,
    translate,
    try_chmod,
)
from modelfetch.errors import RetryLaterError
from modelfetch.store.locks.flock import flock_works, take_flock
from modelfetch.store.locks.heartbeat import heart
from modelfetch.store.locks.owner import Owner

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HEARTBEAT = 5.0
"""Seconds between heartbeats."""
STALE = 30.0
"""Seconds without a heartbeat after which an owner counts as dead."""
SAY_EVERY = 30.0
"""Seconds between `Waiting` events."""
_POLL = 0.1
_TAKING_POLL = 0.005
_OWNER_LIMIT = 4096
"""Bytes of a lock file that are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LockTiming:
    """The intervals of a lock in seconds; tests shorten them."""

    heartbeat: float = HEARTBEAT
    stale: float = STALE
    say_every: float = SAY_EVERY
    poll: float = _POLL


class LockLostError(Exception):
    """The lock was taken over while it was held: the work is another process's now."""


@dataclass(slots=True, kw_only=True)
class Held:
    """A lock that is held.

    Before each write that other processes rely on (a receipt, a blob, a journal), call `ensure_owned` or look at
    `still_owned`: a process that was suspended (SIGSTOP, a frozen container, a closed lid) may have been replaced
    meanwhile, and must not write over what the new owner has written.

    ``predecessor_may_be_alive``: the previous owner may be suspended rather than dead, so the new owner must not write
    to files that it may have open, and works on a copy. ``waited``: there was another owner.
    """

    path: Path
    owner: Owner
    fd: int
    predecessor_may_be_alive: bool = False
    waited: bool = False
    pace: LockTiming = field(default_factory=LockTiming)
    _lost: bool = field(default=False)
    _beaten: float = field(default_factory=time.monotonic)

    def beat(self) -> None:
        """Renew the heartbeat, and find out whether the lock was taken over."""
        slept = time.monotonic() - self._beaten > self.pace.stale / 2
        try:
            if slept:
                self._beat_exclusively()
            else:
                self._beat()
        except OSError as error:
            if error.errno == errno.ESTALE:  # the file is gone from a network share
                self._lost = True
            # otherwise the share failed for a moment: the next beat finds out
        self._beaten = time.monotonic()

    def _beat(self) -> None:
        os.utime(self.fd)
        self._lost = not _is_current(self.fd, self.path)

    def _beat_exclusively(self) -> None:
        """Renew the heartbeat while no other process can be between its last look at it and its take-over."""
        while _is_current(self.fd, self.path):
            with _taking_over(self.path, self.pace.stale) as taking:
                if taking is not None:
                    self._beat()
                    return
            time.sleep(_TAKING_POLL)
        self._lost = True

    def check(self) -> None:
        """Raise if the lock is known to be lost; cheap enough for every piece of a body.

        The disk is looked at only where the last heartbeat is so old that another process may have taken over.

        Raises:
            LockLostError: Another process took the lock, because this one was suspended, or its file is gone.
        """
        if time.monotonic() - self._beaten > self.pace.stale / 2:
            self.beat()
        if self._lost:
            raise LockLostError(str(self.path))

    def still_owned(self) -> bool:
        """Whether this process still has the lock, as the disk says now (three system calls)."""
        self.beat()
        return not self._lost

    def ensure_owned(self) -> None:
        """Raise unless this process still has the lock, as the disk says now; see `still_owned`.

        Raises:
            LockLostError: Another process took the lock, or its file is gone.
        """
        if not self.still_owned():
            raise LockLostError(str(self.path))


@contextlib.contextmanager
def lock(
    path: Path,
    *,
    label: str,
    timeout: float | None = None,
    sink: Sink = discard,
    cancel: Cancel | None = None,
    pace: LockTiming | None = None,
) -> Iterator[Held]:
    """Hold a lock while the block runs.

    Args:
        path: Its file; missing folders are created.
        label: What it protects, as `Waiting` events show it.
        timeout: Seconds to wait for another owner, None for as long as that one lives.
        sink: Where `Waiting` events go.
        cancel: Ends the waiting.
        pace: The lock's intervals.

    Raises:
        RetryLaterError: The time-out passed (``lock-timeout``).
        InterruptedSync: It was cancelled.
        DestinationError, DiskError: The file can't be created.
    """
    waiter = _Waiter(path, label, timeout, sink, cancel or Cancel(), pace or LockTiming())
    try:
        held = waiter.acquire()
    except OSError as error:
        raise translate(error, path, doing="locking") from error
    stop = heart.add(held, waiter.pace.heartbeat)
    try:
        yield held
    finally:
        stop()
        _release(held)


class _Verdict(enum.Enum):
    """What a waiter finds out about a lock's owner."""

    ALIVE = enum.auto()
    SILENT = enum.auto()
    DEAD = enum.auto()


class _Waiter:
    """One attempt to get a lock."""

    def __init__(
        self, path: Path, label: str, timeout: float | None, sink: Sink, cancel: Cancel, pace: LockTiming
    ) -> None:
        self._path, self._label, self._timeout, self._sink, self._cancel = path, label, timeout, sink, cancel
        self.pace = pace
        self._seen: tuple[object, ...] | None = None
        self._seen_at = 0.0
        self._age_then = 0.0

    def acquire(self) -> Held:
        start = time.monotonic()
        said = start - self.pace.say_every + 1.0  # the first event after a second
        waited = False
        while True:
            self._cancel.check()
            try:
                held = self._try()
            except FileNotFoundError:  # its owner removed it meanwhile, or the folder isn't there
                make_directory(self._path.parent)
                continue
            if held is not None:
                held.waited = waited
                return held
            waited = True
            now = time.monotonic()
            if self._timeout is not None and now - start >= self._timeout:
                raise RetryLaterError(
                    f"{self._label}: {_owner_name(self._path)} kept the lock for {now - start:.0f} s",
                    code="lock-timeout",
                    hint="try again when the other modelfetch is done, or give a longer --lock-timeout",
                )
            if now - said >= self.pace.say_every:
                said = now
                owner = _owner_name(self._path)
                self._sink(Waiting(key=self._path.stem, label=self._label, owner=owner, seconds=now - start))
            self._cancel.wait(self.pace.poll)

    def _try(self) -> Held | None:
        """Create the file, or replace a dead owner's; None while another owner lives."""
        try:
            fd = _create(self._path)
        except FileExistsError:
            return self._take_over()
        owner = _sign(fd) if take_flock(fd) else None
        if owner is None or not _is_current(fd, self._path):  # another process judged and replaced it already
            os.close(fd)
            return None
        return self._held(fd, owner)

    def _held(self, fd: int, owner: Owner, *, predecessor_may_be_alive: bool = False) -> Held:
        return Held(
            path=self._path, owner=owner, fd=fd, predecessor_may_be_alive=predecessor_may_be_alive, pace=self.pace
        )

    def _take_over(self) -> Held | None:
        try:
            fd = open_regular(self._path, os.O_RDWR)
        except FileNotFoundError:
            return None
        try:
            if self._judge(fd) is _Verdict.ALIVE:
                return None
            with _taking_over(self._path, self.pace.stale) as taking:
                # Judged again: until now another process may have replaced the owner, or the owner woken up.
                verdict = self._judge(fd) if taking is not None else _Verdict.ALIVE
                if taking is None or verdict is _Verdict.ALIVE:
                    return None
                return self._replace(taking, predecessor_may_be_alive=verdict is _Verdict.SILENT)
        finally:
            os.close(fd)

    def _judge(self, fd: int) -> _Verdict:
        """Whether the owner of an open lock file lives; a file that was replaced has a living heir."""
        if not _is_current(fd, self._path):
            return _Verdict.ALIVE
        free = take_flock(fd)
        owner = Owner.parse(os.pread(fd, _OWNER_LIMIT, 0))
        if free and (owner is None or owner.same_kernel()) and flock_works(self._path):
            return _Verdict.DEAD
        if owner is not None and owner.is_dead():
            return _Verdict.DEAD
        return _Verdict.SILENT if self._silence(fd) >= self.pace.stale else _Verdict.ALIVE

    def _silence(self, fd: int) -> float:
        """Seconds since the owner's last heartbeat, at first by the clock of the disk, then by ours."""
        stat = os.fstat(fd)
        seen = (stat.st_dev, stat.st_ino, stat.st_mtime_ns)
        if seen != self._seen:
            first = self._seen is None
            self._seen, self._seen_at = seen, time.monotonic()
            self._age_then = _age_on_disk(self._path, stat.st_mtime) if first else 0.0
        return self._age_then + time.monotonic() - self._seen_at

    def _replace(self, taking: int, *, predecessor_may_be_alive: bool) -> Held | None:
        """Put a new file in the place of the owner's; ``taking`` is our open ``NAME.taking``."""
        remove_abandoned(self._path.parent, ".*")
        fresh = _temporary(self._path)
        fd = _create(fresh)
        try:
            take_flock(fd)
            owner = _sign(fd)
            if not _is_current(taking, _taking_path(self._path)):
                os.close(fd)
                return None
            fresh.replace(self._path)
        finally:
            fresh.unlink(missing_ok=True)
        return self._held(fd, owner, predecessor_may_be_alive=predecessor_may_be_alive)


@contextlib.contextmanager
def _taking_over(path: Path, stale: float) -> Iterator[int | None]:
    """Be the one process that may change the owner of a lock; yields None while another process is."""
    guard = _taking_path(path)
    fd = _enter(guard, stale)
    try:
        yield fd
    finally:
        if fd is not None:
            with contextlib.suppress(OSError):
                if _is_current(fd, guard):
                    guard.unlink()
            os.close(fd)


def _enter(guard: Path, stale: float) -> int | None:
    """Create the guard file; one whose process has died is removed, for the next try."""
    try:
        fd = _create(guard)
    except FileExistsError:
        _remove_abandoned(guard, stale)
        return None
    entered = False
    try:
        if take_flock(fd):
            _sign(fd)
            entered = _is_current(fd, guard)  # another process may have taken the new file for an abandoned one
    finally:
        if not entered:
            os.close(fd)
    return fd if entered else None


def _remove_abandoned(guard: Path, stale: float) -> None:
    """Remove the guard of a process that died while it changed an owner, or stopped doing so long ago."""
    with contextlib.suppress(FileNotFoundError):
        if guard.is_dir():  # an earlier version made a folder
            if _age_on_disk(guard, guard.stat().st_mtime) > stale:
                guard.rmdir()
            return
        fd = open_regular(guard, os.O_RDWR)
        try:
            free = take_flock(fd)
            owner = Owner.parse(os.pread(fd, _OWNER_LIMIT, 0))
            dead = free and (owner is None or owner.same_kernel()) and flock_works(guard)
            dead = dead or (owner is not None and owner.is_dead())
            if (dead or _age_on_disk(guard, os.fstat(fd).st_mtime) > stale) and _is_current(fd, guard):
                guard.unlink()
        finally:
            os.close(fd)


def _taking_path(path: Path) -> Path:
    return path.with_name(path.name + ".taking")


def _temporary(path: Path) -> Path:
    return path.with_name(temporary_name())


def _create(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, COPY_MODE)


def _sign(fd: int) -> Owner:
    """Write this process's name into a file of its own."""
    owner = Owner.me()
    os.pwrite(fd, owner.dump(), 0)
    try_chmod(fd, COPY_MODE)
    return owner


def _age_on_disk(path: Path, mtime: float) -> float:
    """How old a time stamp is by the clock that made it, which on a network share is not this machine's."""
    probe = _temporary(path)
    with contextlib.suppress(OSError):
        try:
            probe.touch()
            return max(0.0, probe.stat().st_mtime - mtime)
        finally:
            probe.unlink(missing_ok=True)
    return 0.0


def _is_current(fd: int, path: Path) -> bool:
    """Whether a path still leads to an open file."""
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False


def _owner_name(path: Path) -> str:
    try:
        owner = Owner.parse(read_small(path, _OWNER_LIMIT))
    except OSError:
        owner = None
    return str(owner) if owner else "another process"


def _release(held: Held) -> None:
    """Remove the file if it is still ours, then release flock."""
    try:
        if held.still_owned():
            held.path.unlink()
    except OSError:
        pass
    finally:
        os.close(held.fd)
