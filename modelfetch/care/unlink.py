"""Remove one file below ROOT, through directory descriptors, and only if it has not changed since the decision."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from modelfetch.errors import DestinationError

if TYPE_CHECKING:
    from modelfetch.placement.root_tree import RootTree


def unlink_unchanged(tree: RootTree, path: str, *, inode: tuple[int, int], size: int, mtime_ns: int) -> bool:
    """Remove ``path`` below ROOT if it is still that file; returns whether it was removed.

    Raises:
        DestinationError: The path leads outside ROOT.
        OSError: The file can't be removed.
    """
    with tree.parent(path) as (folder, name):
        try:
            found = os.lstat(name, dir_fd=folder)
        except FileNotFoundError:
            return False
        if ((found.st_dev, found.st_ino), found.st_size, found.st_mtime_ns) != (inode, size, mtime_ns):
            return False
        os.unlink(name, dir_fd=folder)
        return True


def remove_empty_folders(tree: RootTree, path: str, *, stop: frozenset[str]) -> None:
    """Remove the empty folders above ``path``, up to one of ``stop``; errors are ignored."""
    folder = path.rpartition("/")[0]
    with contextlib.suppress(OSError, DestinationError):
        while "/" in folder and folder not in stop:
            with tree.parent(folder) as (above, name):
                os.rmdir(name, dir_fd=above)
            folder = folder.rpartition("/")[0]
