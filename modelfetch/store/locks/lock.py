"""Locks between processes, containers and machines that share a store.

A lock is a file that names its owner and whose mtime is the owner's heartbeat; the owner also holds flock on it. Where
flock works, a dead owner is replaced at once, for the kernel has let go of its lock. Where it does nothing (some
network shares), the owner's pid is asked if it can mean anything, else the heartbeat decides. An owner whose heart has
stopped for 30 s is replaced by a new file, even if it only sleeps: see `Held.predecessor_may_be_alive`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modelfetch.core.cancel import Cancel
from modelfetch.core.events import Sink, Waiting, discard
from modelfetch.core.fs import make_directory, translate
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
"""Seconds between words about waiting."""
_POLL = 0.1
_MODE = 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class LockTiming:
    """The seconds that a lock goes by; tests shorten them."""

    heartbeat: float = HEARTBEAT
    stale: float = STALE
    say_every: float = SAY_EVERY
    poll: float = _POLL


class LockLostError(Exception):
    """A lock was taken away while it was held: the work is somebody else's now."""


@dataclass(slots=True, kw_only=True)
class Held:
    """A lock that is held.

    ``predecessor_may_be_alive``: the owner before this one may be suspended rather than dead, so the new owner must not
    write to files that it may have open, and works on a copy. ``waited``: there was another owner.
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
        """Show that the owner lives; find out whether the lock was taken away."""
        self._beaten = time.monotonic()
        try:
            os.utime(self.fd)
            self._lost = not os.path.samestat(os.fstat(self.fd), self.path.stat())
        except FileNotFoundError:
            self._lost = True
        except OSError:
            pass  # a share that hiccups: the next beat will tell

    def check(self) -> None:
        """Do nothing, or end the work that the lock was for.

        The disk is looked at where the last heartbeat is so long ago that another process may have lost patience.

        Raises:
            LockLostError: Another process took it, because this one slept for too long, or its file is gone.
        """
        if time.monotonic() - self._beaten > self.pace.stale / 2:
            self.beat()
        if self._lost:
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
        path: Its file; folders are made if need be.
        label: What it protects, as `Waiting` events show it.
        timeout: Seconds to wait for another owner, None for as long as that one lives.
        sink: Where `Waiting` events go.
        cancel: What may end the waiting.
        pace: The seconds that it goes by.

    Raises:
        RetryLaterError: The time-out passed (``lock-timeout``).
        InterruptedSync: It was cancelled.
        DestinationError, DiskError: The file can't be made.
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
        _let_go(held)


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
        said = start - self.pace.say_every + 1.0  # the first word after a second
        waited = False
        while True:
            self._cancel.check()
            try:
                held = self._try()
            except FileNotFoundError:  # its owner removed it while we looked, or the folder isn't there
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
        """Make the file, or take over the one that is there; None while another owner lives."""
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        except FileExistsError:
            return self._take_over()
        return self._own(fd, fresh=True)

    def _own(self, fd: int, *, predecessor_may_be_alive: bool = False, fresh: bool = False) -> Held | None:
        """Write our name into a file that nobody else owns; None when somebody was faster."""
        if not take_flock(fd):
            os.close(fd)
            return None
        owner = Owner.me()
        if not fresh:
            os.ftruncate(fd, 0)
        os.pwrite(fd, owner.dump(), 0)
        os.fchmod(fd, _MODE)
        if not _is_current(fd, self._path):  # another owner had it between its making and our flock, and removed it
            os.close(fd)
            return None
        return Held(
            path=self._path, owner=owner, fd=fd, predecessor_may_be_alive=predecessor_may_be_alive, pace=self.pace
        )

    def _take_over(self) -> Held | None:
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        keep = False
        try:
            free = take_flock(fd)
            if not _is_current(fd, self._path):
                return None
            owner = Owner.parse(os.pread(fd, 4096, 0))
            if free and (owner is None or owner.same_kernel()) and flock_works(self._path):
                keep = True
                return self._own(fd)
            if owner is not None and owner.is_dead():
                return self._replace(fd, predecessor_may_be_alive=False)
            if self._silence(fd) >= self.pace.stale:
                return self._replace(fd, predecessor_may_be_alive=True)
            return None
        finally:
            if not keep:
                os.close(fd)

    def _silence(self, fd: int) -> float:
        """Seconds since the owner's last heartbeat, by the clock of the disk at first, then by ours."""
        stat = os.fstat(fd)
        seen = (stat.st_dev, stat.st_ino, stat.st_mtime_ns)
        if seen != self._seen:
            first = self._seen is None
            self._seen, self._seen_at = seen, time.monotonic()
            self._age_then = self._age_on_disk(stat.st_mtime) if first else 0.0
        return self._age_then + time.monotonic() - self._seen_at

    def _age_on_disk(self, mtime: float) -> float:
        """How old a time stamp is by the clock that stamped it, which on a share is not this machine's."""
        probe = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
        with contextlib.suppress(OSError):
            try:
                probe.touch()
                return max(0.0, probe.stat().st_mtime - mtime)
            finally:
                probe.unlink(missing_ok=True)
        return 0.0

    def _replace(self, fd: int, *, predecessor_may_be_alive: bool) -> Held | None:
        """Put a new file in the place of a dead owner's; of several that want to, one does."""
        taking = self._path.with_name(self._path.name + ".taking")
        if not _enter(taking, self.pace.stale):
            return None
        fresh = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
        try:
            if not _is_current(fd, self._path):
                return None
            mine = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
            take_flock(mine)
            os.pwrite(mine, Owner.me().dump(), 0)
            fresh.replace(self._path)
            return self._own(mine, predecessor_may_be_alive=predecessor_may_be_alive)
        finally:
            fresh.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                taking.rmdir()


def _enter(taking: Path, stale: float) -> bool:
    """Make the folder that says who replaces an owner; one that was left behind is removed."""
    try:
        taking.mkdir()
    except FileExistsError:
        with contextlib.suppress(OSError):
            if time.time() - taking.stat().st_mtime > stale:
                taking.rmdir()
        return False
    return True


def _is_current(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _owner_name(path: Path) -> str:
    try:
        owner = Owner.parse(path.read_bytes()[:4096])
    except OSError:
        owner = None
    return str(owner) if owner else "another process"


def _let_go(held: Held) -> None:
    """Remove the file if it is still ours, then let go of flock."""
    try:
        if _is_current(held.fd, held.path):
            held.path.unlink()
    except OSError:
        pass
    finally:
        os.close(held.fd)
