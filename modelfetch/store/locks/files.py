"""The files of locks: created for one lock, or kept by a run that takes thousands of them.

A kept file has a temporary name, and is a lock while it has the lock's name too, as a hardlink. So a run with thousands
of small files does not create and delete a lock file for each. That took a quarter of the time on ext4, which does not
reuse a deleted file's inode for some seconds but examines it each time that a file is created.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modelfetch.core.fs import PUBLIC_MODE, closing, inode_of, open_regular, try_chmod
from modelfetch.core.temp_files import temporary_name
from modelfetch.store.locks.owner import Owner

if TYPE_CHECKING:
    from pathlib import Path

_FRESH = 1.0
"""Seconds for which a file's time stamp is recent enough for a new lock's heartbeat."""


def create(path: Path) -> int:
    """Create a lock's file and open it; raises OSError, FileExistsError if there is one."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PUBLIC_MODE)


def write_owner(fd: int) -> Owner:
    """Write this process's identity into its own new file."""
    owner = Owner.me()
    os.pwrite(fd, owner.dump(), 0)
    try_chmod(fd, PUBLIC_MODE)
    return owner


def take_flock(fd: int) -> bool:
    """Take flock if it is free; True also if the file system does not support it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # not supported here: the heartbeat decides
    return True


def flock_works(path: Path) -> bool:
    """Return whether another open file is denied the lock that this process holds."""
    with closing(open_regular(path, os.O_RDWR)) as fd:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return False


@dataclass(slots=True, kw_only=True)
class LockFile:
    """A kept file: its temporary name, its descriptor, which holds flock, and the time of its last heartbeat."""

    path: Path
    fd: int
    inode: tuple[int, int]
    owner: Owner
    beaten: float = field(default_factory=time.monotonic)


class LockFiles:
    """Keeps the files of one run's locks.

    Args:
        folder: The folder of the locks.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._idle: list[LockFile] = []
        self._linkable = True

    def link(self, path: Path) -> LockFile | None:
        """Acquire the lock of a path in the folder; None if this is not possible with a kept file.

        Raises:
            FileExistsError: The lock has an owner.
        """
        file = self._take()
        if file is None:
            return None
        try:
            if time.monotonic() - file.beaten > _FRESH:
                os.utime(file.fd)
                file.beaten = time.monotonic()
            os.link(file.path, path, follow_symlinks=False)
        except FileExistsError:
            self.give(file)
            raise
        except FileNotFoundError:  # the folder was cleared, or its old temporary files were
            _discard(file)
            return None
        except OSError:  # this file system has no hardlinks
            self._linkable = False
            _discard(file)
            return None
        return file

    def give(self, file: LockFile) -> None:
        """Keep a file that is no longer a lock for the next one."""
        with self._lock:
            self._idle.append(file)

    def clear(self) -> None:
        """Remove the kept files that are not locks at the moment."""
        with self._lock:
            idle, self._idle = self._idle, []
        for file in idle:
            _discard(file)

    def _take(self) -> LockFile | None:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        if not self._linkable:
            return None
        path = self._folder / temporary_name()
        try:
            fd = create(path)
        except OSError:
            return None
        try:
            if take_flock(fd):
                return LockFile(path=path, fd=fd, inode=inode_of(os.fstat(fd)), owner=write_owner(fd))
        except OSError:  # a full disk, which the attempt without a kept file reports
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        os.close(fd)
        return None


def _discard(file: LockFile) -> None:
    with contextlib.suppress(OSError):
        file.path.unlink(missing_ok=True)
    os.close(file.fd)
