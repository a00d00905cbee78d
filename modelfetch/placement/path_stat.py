"""The stat result of a path, as placements are compared with it."""

from __future__ import annotations

import stat as statmod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from modelfetch.core import fs

if TYPE_CHECKING:
    import os
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class PathStat:
    """The stat result of a path: size in bytes, mtime, device and inode, and a symlink's target.

    If a symlink was followed, everything but ``target`` describes the file that it leads to.
    """

    size: int
    mtime_ns: int
    inode: tuple[int, int]
    regular: bool
    target: str | None = None

    @classmethod
    def of(cls, found: os.stat_result, *, target: str | None = None) -> Self:
        """Convert the result of `os.stat`."""
        return cls(
            size=found.st_size,
            mtime_ns=found.st_mtime_ns,
            inode=fs.inode_of(found),
            regular=statmod.S_ISREG(found.st_mode),
            target=target,
        )


def lstat_path(path: Path) -> PathStat | None:
    """Stat ``path`` without following a symlink; None if nothing is there.

    Raises:
        OSError: The path can't be examined.
    """
    try:
        found = path.lstat()
        return PathStat.of(found, target=fs.read_link(path) if statmod.S_ISLNK(found.st_mode) else None)
    except (FileNotFoundError, NotADirectoryError):
        return None
