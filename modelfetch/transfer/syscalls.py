"""System calls that Python lacks, or offers in another form than needed here."""

from __future__ import annotations

import ctypes
import os

from modelfetch.core import libc
from modelfetch.core.fs import DISK_FULL

_WRITE = 2  # SYNC_FILE_RANGE_WRITE (source: linux/fs.h)
_SLICE = 512 * 1024
_WRITE_BACK = 32 * 2**20


def write_all(fd: int, data: memoryview, offset: int) -> None:
    """Write at a position, in slices that suit the page cache (measured: docs/benchmarks.md)."""
    while data:
        count = os.pwrite(fd, data[:_SLICE], offset)
        data = data[count:]
        offset += count


def allocate(fd: int, size: int) -> None:
    """Reserve a file's blocks where the file system can.

    The fallback of the C library, which `os.posix_fallocate` includes, writes to every block, so it is not used.

    Raises:
        OSError: There is not enough space.
    """
    types = (ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    function = libc.function("fallocate64", *types) or libc.function("fallocate", *types)
    if function is not None and function(fd, 0, 0, size) != 0:
        number = ctypes.get_errno()
        if number in DISK_FULL:
            raise OSError(number, os.strerror(number))


def no_write_back(_end: int) -> None:
    """Do nothing: the file need not be durable, or another thread starts the write-back."""


class WriteBack:
    """Starts writing to the disk early, so that the fsync at the end has little left to do.

    It calls Linux's sync_file_range; where there is none, fsync does all of it.

    Args:
        fd: The file.
        start: The position at which writing starts.
    """

    def __init__(self, fd: int, start: int) -> None:
        self._fd = fd
        self._done = start
        self._call = libc.function(
            "sync_file_range", ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint
        )

    def __call__(self, end: int) -> None:
        """Record that the file is written up to ``end``."""
        if self._call is not None and end - self._done >= _WRITE_BACK:
            self._call(self._fd, self._done, end - self._done, _WRITE)
            self._done = end
