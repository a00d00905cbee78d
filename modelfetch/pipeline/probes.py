"""What a folder's file system allows, found by trying it with a small file."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from modelfetch.core.directories import nearest_existing_parent
from modelfetch.core.fs import PRIVATE_MODE, inode_of
from modelfetch.core.temp_files import sweep_temporaries, temporary_name
from modelfetch.errors import DestinationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from modelfetch.placement import RootTree


class LinkProbe:
    """Tests whether a blob can be hardlinked into a folder, by trying it once for each folder.

    Comparing ``st_dev`` is not enough: bind mounts of one file system have the same device and refuse hardlinks.
    """

    def __init__(self, store: Path, tree: RootTree) -> None:
        self._store = nearest_existing_parent(store)
        self._tree = tree
        self._known: dict[str, bool] = {}
        self._tried: dict[tuple[int, int], bool] = {}

    def works(self, folder: str) -> bool:
        """Whether a hardlink from the store into a folder below ROOT (or the nearest existing one above it) works."""
        if folder not in self._known:
            self._known[folder] = False
            with contextlib.suppress(OSError, DestinationError), self._tree.nearest_folder(folder) as fd:
                found = os.fstat(fd)
                inode = inode_of(found)
                if inode not in self._tried:
                    self._tried[inode] = self._try(fd)
                self._known[folder] = self._tried[inode]
        return self._known[folder]

    def _try(self, folder: int) -> bool:
        _sweep(folder)
        name = temporary_name("probe")
        try:
            with _trial_file(self._store) as (file, _):
                os.link(file, name, dst_dir_fd=folder, follow_symlinks=False)
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=folder)
        except OSError:
            return False
        return True


def is_sequential(folder: Path) -> bool:
    """Whether files in a folder can only be written from the beginning to the end, as on an rclone mount by default."""
    with contextlib.suppress(OSError), _trial_file(folder) as (_, fd):
        try:
            os.pwrite(fd, b"b", 1)
            os.pwrite(fd, b"a", 0)
        except OSError as error:
            return error.errno in (errno.ESPIPE, errno.EPERM, errno.EINVAL, errno.EOPNOTSUPP)
    return False


@contextlib.contextmanager
def _trial_file(folder: Path) -> Iterator[tuple[Path, int]]:
    """Create an empty file, open for reading and writing, that is removed at the end. Raises OSError."""
    _sweep(folder)
    file = folder / temporary_name("probe")
    fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_MODE)
    try:
        yield file, fd
    finally:
        os.close(fd)
        with contextlib.suppress(OSError):
            file.unlink()


def _sweep(folder: int | Path) -> None:
    with contextlib.suppress(OSError):
        sweep_temporaries(folder, stem="probe")
