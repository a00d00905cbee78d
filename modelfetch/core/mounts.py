"""Mounted file systems, as the kernel lists them."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
_LARGEST_ON_FAT = 2**32 - 1
_FAT = ("vfat", "msdos", "fuse.fusefat")


def largest_file(folder: Path) -> int | None:
    """The most bytes that a file in an existing folder can have; None if its file system sets no limit known here."""
    mount = find_mount(folder)
    return _LARGEST_ON_FAT if mount is not None and mount.type in _FAT else None


def free_bytes(folder: Path) -> int | None:
    """The bytes that this process may still write to a folder's file system; None if that reports no sizes."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize if found.f_blocks else None


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted file system: where, and its type, such as ``ext4``."""

    point: str
    type: str

    def __str__(self) -> str:
        return f"{self.point} ({self.type})"


def find_mount(folder: Path) -> Mount | None:
    """The mount that an existing folder is on; None if the kernel does not list it.

    Source: proc_pid_mountinfo(5); octal escapes stand for white space in a mount point.
    """
    path = os.path.realpath(folder)
    best: Mount | None = None
    with contextlib.suppress(OSError):
        for line in _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            before, _, after = line.partition(" - ")
            point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), before.split(" ")[4])
            # A later mount on the same point covers an earlier one.
            if os.path.commonpath((point, path)) == point and (best is None or len(point) >= len(best.point)):
                best = Mount(point, after.split(" ")[0])
    return best
