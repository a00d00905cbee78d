"""Locks between processes, containers and machines that share a store.

A lock is a file that names its owner and whose mtime is the owner's heartbeat; the owner also holds flock on it. Where
flock works, a dead owner is replaced at once because the kernel has released its flock. Where it has no effect (some
network shares), the owner's pid is checked if that is meaningful; otherwise the heartbeat decides. An owner without
a heartbeat for 30 s is replaced even if it is only suspended: see `Held.predecessor_may_be_alive`.

Replacing an owner:

- A free lock is acquired by creating its file with O_EXCL.
- A dead or silent owner is replaced by renaming a new file over its file. Only the process that has created
    ``NAME.taking`` may do that, and it checks the owner again afterwards. So, if several processes find a dead owner,
    one of them replaces it, and the others find the new owner alive.
- An owner that was suspended long enough to be replaced also renews its heartbeat under ``NAME.taking``: it either
    prevents the replacement or detects it.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict, TypeVar

from modelfetch.core.cancel import Cancel
from modelfetch.core.directories import make_directory
from modelfetch.core.events import Sink, Waiting, discard
from modelfetch.core.fs import closing, inode_of, open_regular, read_small
from modelfetch.core.os_errors import translated
from modelfetch.core.temp_files import sweep_temporaries, temporary_name
from modelfetch.core.units import format_duration
from modelfetch.errors import RetryLaterError
from modelfetch.store.locks.files import LockFile, LockFiles, create, flock_works, take_flock, write_owner
from modelfetch.store.locks.heartbeat import heartbeats
from modelfetch.store.locks.owner import Owner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

T = TypeVar("T")

HEARTBEAT = 5.0
"""Seconds between heartbeats."""
STALE = 30.0
"""Seconds without a heartbeat after which an owner counts as dead."""
REPORT_INTERVAL = 30.0
"""Seconds between `Waiting` events."""
BUSY_HINT = "try again when the other modelfetch is done, or give a longer --lock-timeout"
_POLL = 0.1
_TAKING_POLL = 0.005
_TRIES = 3
_MISSING_LIMIT = 1000  # attempts in a row that found no file although each had just made one or its folder
_OWNER_LIMIT = 4096
"""Maximum bytes of a lock file to read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LockTiming:
    """The intervals of a lock in seconds; tests shorten them."""

    heartbeat: float = HEARTBEAT
    stale: float = STALE
    report_interval: float = REPORT_INTERVAL
    poll: float = _POLL


class LockLostError(Exception):
    """The lock was taken over while it was held: the work now belongs to another process."""


@dataclass(slots=True, kw_only=True)
class Held:
    """A lock that is held.

    Before each write that other processes rely on (a receipt, a blob, a journal), call `ensure_owned` or check
    `still_owned`: a process that was suspended (SIGSTOP, a frozen container, a closed lid) may have been replaced
    meanwhile, and must not overwrite the new owner's data.

    ``predecessor_may_be_alive``: the previous owner may be suspended rather than dead, so the new owner must not write
    to files that it may have open, and works on a copy. ``waited``: there was a previous owner to wait for. ``kept``:
    the file belongs to the run, which uses it again.
    """

    path: Path
    owner: Owner
    fd: int
    predecessor_may_be_alive: bool = False
    waited: bool = False
    timing: LockTiming = field(default_factory=LockTiming)
    kept: LockFile | None = None
    _lost: bool = field(default=False)
    _beaten: float = field(default_factory=time.monotonic)
    inode: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        """Look up the identity of the file."""
        self.inode = inode_of(os.fstat(self.fd)) if self.kept is None else self.kept.inode

    def beat(self) -> None:
        """Renew the heartbeat, and detect whether the lock was taken over."""
        slept = time.monotonic() - self._beaten > self.timing.stale / 2
        try:
            if slept:
                self._beat_exclusively()
            else:
                self._beat()
        except OSError as error:
            if error.errno == errno.ESTALE:  # the file was deleted on a network share
                self._lost = True
            # a temporary failure of the share: the next beat detects a take-over
        self._beaten = time.monotonic()

    def _beat(self) -> None:
        os.utime(self.fd)
        self._lost = not _is_current(self.fd, self.path)

    def _beat_exclusively(self) -> None:
        """Renew the heartbeat while no other process can be between its last check of it and its take-over."""
        while _is_current(self.fd, self.path):
            with _taking_over(self.path, self.timing.stale) as taking:
                if taking is not None:
                    self._beat()
                    return
            time.sleep(_TAKING_POLL)
        self._lost = True

    def check(self) -> None:
        """Raise if the lock is known to be lost; cheap enough to call for every piece of a body.

        Reads the disk only if the last heartbeat is so old that another process may have taken over.

        Raises:
            LockLostError: Another process took the lock because this one was suspended, or its file is gone.
        """
        if time.monotonic() - self._beaten > self.timing.stale / 2:
            self.beat()
        if self._lost:
            raise LockLostError(str(self.path))

    def still_owned(self) -> bool:
        """Return whether this process still has the lock according to the disk.

        One system call, unless it is time for a heartbeat.
        """
        if time.monotonic() - self._beaten > min(self.timing.heartbeat, self.timing.stale / 2):
            self.beat()
        elif not self._lost:
            try:
                found = os.lstat(self.path)
                self._lost = inode_of(found) != self.inode
            except FileNotFoundError:
                self._lost = True
            except OSError:
                pass  # as in `beat`
        return not self._lost

    def ensure_owned(self) -> None:
        """Raise unless this process still has the lock according to the disk; see `still_owned`.

        Raises:
            LockLostError: Another process took the lock, or its file is gone.
        """
        if not self.still_owned():
            raise LockLostError(str(self.path))


class LockOptions(TypedDict):
    """The arguments of `lock` that are the same for all locks of a command."""

    timeout: float | None
    sink: Sink
    cancel: Cancel


@contextlib.contextmanager
def lock(
    path: Path,
    *,
    label: str,
    timeout: float | None = None,
    sink: Sink = discard,
    cancel: Cancel | None = None,
    timing: LockTiming | None = None,
    files: LockFiles | None = None,
) -> Iterator[Held]:
    """Hold a lock while the block runs.

    Args:
        path: Its file; missing folders are created.
        label: The protected resource, as `Waiting` events show it.
        timeout: Seconds to wait for another owner, None to wait as long as it is alive.
        sink: Receives `Waiting` events.
        cancel: Cancels the waiting.
        timing: The lock's intervals.
        files: The kept files of a run that takes many locks in this folder.

    Raises:
        RetryLaterError: The timeout expired (``lock-timeout``).
        InterruptedSync: It was cancelled.
        DestinationError, DiskError: The file can't be created.
    """
    waiter = _Waiter(path, label, timeout, sink, cancel or Cancel(), timing or LockTiming(), files)
    with translated(path, doing="locking"):
        held = waiter.acquire()
    stop = heartbeats.add(held.beat, waiter.timing.heartbeat)
    try:
        yield held
    finally:
        stop()
        _release(held, files)


def repeat_if_lost(work: Callable[[], T], *, label: str) -> T:
    """Call what takes a lock and works under it, again if another process took the lock over; returns its result.

    Args:
        work: It reads again what the other process may have written.
        label: The protected resource, for the error.

    Raises:
        RetryLaterError: The lock was lost each time (``lock-timeout``).
    """
    for _ in range(_TRIES):
        with contextlib.suppress(LockLostError):
            return work()
    message = f"{label}: another process took the lock {_TRIES} times"
    raise RetryLaterError(message, code="lock-timeout", hint="was this machine suspended? Run it again")


class _OwnerState(enum.Enum):
    """What a waiter knows of a lock's owner; SILENT: it may be alive, but its heartbeats have stopped."""

    ALIVE = enum.auto()
    SILENT = enum.auto()
    DEAD = enum.auto()


class _Waiter:
    """One attempt to get a lock."""

    def __init__(
        self,
        path: Path,
        label: str,
        timeout: float | None,
        sink: Sink,
        cancel: Cancel,
        timing: LockTiming,
        files: LockFiles | None,
    ) -> None:
        self._path, self._label, self._timeout, self._sink, self._cancel = path, label, timeout, sink, cancel
        self.timing = timing
        self._files = files
        self._seen: tuple[object, ...] | None = None
        self._seen_at = 0.0
        self._age_then = 0.0

    def acquire(self) -> Held:
        start = time.monotonic()
        last_reported = start - self.timing.report_interval + 1.0  # the first event after a second
        waited = False
        missing = 0
        while True:
            self._cancel.check()
            try:
                held = self._try()
            except FileNotFoundError:  # the owner has just removed it, or the folder doesn't exist
                missing += 1
                if missing > _MISSING_LIMIT:
                    raise
                make_directory(self._path.parent)
                continue
            if held is not None:
                held.waited = waited
                return held
            waited, missing = True, 0
            now = time.monotonic()
            if self._timeout is not None and now - start >= self._timeout:
                raise RetryLaterError(
                    f"{self._label}: {owner_name(self._path)} kept the lock for {format_duration(now - start)}",
                    code="lock-timeout",
                    hint=BUSY_HINT,
                )
            if now - last_reported >= self.timing.report_interval:
                last_reported = now
                owner = owner_name(self._path)
                self._sink(Waiting(key=self._path.stem, label=self._label, owner=owner, seconds=now - start))
            self._cancel.wait(self.timing.poll)

    def _try(self) -> Held | None:
        """Create the file, or replace a dead owner's; None while another owner is alive."""
        try:
            kept = self._files.link(self._path) if self._files is not None else None
            if kept is not None:
                return Held(path=self._path, owner=kept.owner, fd=kept.fd, timing=self.timing, kept=kept)
            fd = create(self._path)
        except FileExistsError:
            return self._take_over()
        try:
            owner = write_owner(fd) if take_flock(fd) else None
            if owner is not None and _is_current(fd, self._path):
                return self._held(fd, owner)
        except OSError:  # a full disk: leave no lock without an owner
            with contextlib.suppress(OSError):
                if _is_current(fd, self._path):
                    self._path.unlink()
            os.close(fd)
            raise
        os.close(fd)  # another process has already replaced it
        return None

    def _held(self, fd: int, owner: Owner, *, predecessor_may_be_alive: bool = False) -> Held:
        return Held(
            path=self._path, owner=owner, fd=fd, predecessor_may_be_alive=predecessor_may_be_alive, timing=self.timing
        )

    def _take_over(self) -> Held | None:
        try:
            fd = open_regular(self._path, os.O_RDWR)
        except FileNotFoundError:
            return None
        try:
            if self._owner_state(fd) is _OwnerState.ALIVE:
                return None
            with _taking_over(self._path, self.timing.stale) as taking:
                # Check again: another process may have replaced the owner, or the owner may have resumed.
                owner = self._owner_state(fd) if taking is not None else _OwnerState.ALIVE
                if taking is None or owner is _OwnerState.ALIVE:
                    return None
                return self._replace(taking, predecessor_may_be_alive=owner is _OwnerState.SILENT)
        finally:
            os.close(fd)

    def _owner_state(self, fd: int) -> _OwnerState:
        """The state of the owner of an open lock file; ALIVE if the file was replaced, since its new owner is."""
        if not _is_current(fd, self._path):
            return _OwnerState.ALIVE
        free = take_flock(fd)
        owner = Owner.parse(os.pread(fd, _OWNER_LIMIT, 0))
        if free and (owner is None or owner.same_kernel()) and flock_works(self._path):
            return _OwnerState.DEAD
        if owner is not None and owner.is_dead():
            return _OwnerState.DEAD
        return _OwnerState.SILENT if self._seconds_silent(fd) >= self.timing.stale else _OwnerState.ALIVE

    def _seconds_silent(self, fd: int) -> float:
        """Return the seconds since the owner's last heartbeat, first by the disk's clock, then by this machine's."""
        stat = os.fstat(fd)
        seen = (inode_of(stat), stat.st_mtime_ns)
        if seen != self._seen:
            first = self._seen is None
            self._seen, self._seen_at = seen, time.monotonic()
            self._age_then = _age_on_disk(self._path, stat.st_mtime) if first else 0.0
        return self._age_then + time.monotonic() - self._seen_at

    def _replace(self, taking: int, *, predecessor_may_be_alive: bool) -> Held | None:
        """Replace the owner's file with a new one; ``taking`` is our open ``NAME.taking``."""
        with contextlib.suppress(OSError):
            sweep_temporaries(self._path.parent, older=r"\..*")
        fresh = _temporary(self._path)
        fd = create(fresh)
        try:
            take_flock(fd)
            owner = write_owner(fd)
            if not _is_current(taking, _taking_path(self._path)):
                os.close(fd)
                return None
            fresh.replace(self._path)
        except OSError:
            os.close(fd)
            raise
        finally:
            fresh.unlink(missing_ok=True)
        return self._held(fd, owner, predecessor_may_be_alive=predecessor_may_be_alive)


@contextlib.contextmanager
def _taking_over(path: Path, stale: float) -> Iterator[int | None]:
    """Become the only process that may replace the owner of a lock; yields None while another process is."""
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
    """Create the guard file; if its process has died, remove it for the next attempt."""
    try:
        fd = create(guard)
    except FileExistsError:
        _remove_abandoned(guard, stale)
        return None
    entered = False
    try:
        if take_flock(fd):
            write_owner(fd)
            entered = _is_current(fd, guard)  # another process may have mistaken the new file for an abandoned one
    except OSError:
        guard.unlink(missing_ok=True)
        raise
    finally:
        if not entered:
            os.close(fd)
    return fd if entered else None


def _remove_abandoned(guard: Path, stale: float) -> None:
    """Remove the guard of a process that died while it replaced an owner, or stopped doing so long ago."""
    with contextlib.suppress(FileNotFoundError):
        if guard.is_dir():  # an earlier version created a folder
            if _age_on_disk(guard, guard.stat().st_mtime) > stale:
                guard.rmdir()
            return
        with closing(open_regular(guard, os.O_RDWR)) as fd:
            free = take_flock(fd)
            owner = Owner.parse(os.pread(fd, _OWNER_LIMIT, 0))
            dead = free and (owner is None or owner.same_kernel()) and flock_works(guard)
            dead = dead or (owner is not None and owner.is_dead())
            if (dead or _age_on_disk(guard, os.fstat(fd).st_mtime) > stale) and _is_current(fd, guard):
                guard.unlink()


def _taking_path(path: Path) -> Path:
    return path.with_name(path.name + ".taking")


def _temporary(path: Path) -> Path:
    return path.with_name(temporary_name())


def _age_on_disk(path: Path, mtime: float) -> float:
    """Return the age of a timestamp by the clock that made it, which on a network share is not this machine's."""
    probe = _temporary(path)
    with contextlib.suppress(OSError):
        try:
            probe.touch()
            return max(0.0, probe.stat().st_mtime - mtime)
        finally:
            probe.unlink(missing_ok=True)
    return 0.0


def _is_current(fd: int, path: Path) -> bool:
    """Return whether a path still refers to an open file."""
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False


def owner_name(path: Path) -> str:
    """Return how a lock's owner is called in messages, such as ``process 12 on HOST``."""
    try:
        owner = Owner.parse(read_small(path, _OWNER_LIMIT))
    except OSError:
        owner = None
    return str(owner) if owner else "another process"


def _release(held: Held, files: LockFiles | None) -> None:
    """Remove the lock's name if this process still owns it, then release flock, or keep the file for the next lock."""
    try:
        if held.still_owned():
            os.unlink(held.path)  # noqa: PTH108 - for each small file
    except OSError:
        pass
    finally:
        if files is not None and held.kept is not None:
            files.give(held.kept)
        else:
            os.close(held.fd)
