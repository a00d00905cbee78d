"""Typed errors for what the operating system refuses, with a hint for each kind."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from modelfetch.core.directories import nearest_existing_parent
from modelfetch.core.fs import DISK_FULL, REFUSED, SymlinkUnreadableError
from modelfetch.core.limits import limit_error
from modelfetch.core.temp_files import is_temporary_name
from modelfetch.core.units import format_size
from modelfetch.errors import DestinationError, DiskError, ModelfetchError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

_FEW_INODES = 16
"""What was made for the operation that failed has been removed by then."""
_IN_THE_WAY = (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENXIO)


def translate(error: OSError | UnicodeError, path: object, *, doing: str, needed: int | None = None) -> ModelfetchError:
    """Return the typed error for an OSError about ``path``; ``needed`` is the bytes that it still lacks, if known."""
    if isinstance(error, UnicodeError):
        shown = str(error.object if isinstance(error, UnicodeEncodeError) else path)
        return DestinationError(
            f"{doing} {shown!a}: this locale's encoding, {sys.getfilesystemencoding()}, has no such characters",
            code="unencodable-name",
            hint="set LC_ALL=C.UTF-8, or PYTHONUTF8=1",
        )
    named = error.filename if isinstance(error.filename, str) else ""
    name = path if not named or is_temporary_name(os.path.basename(named)) else named  # noqa: PTH119 - may be odd
    reason = error.strerror or type(error).__name__
    if (limit := limit_error(error)) is not None:
        return limit
    if error.errno in DISK_FULL:
        return DiskError(
            f"{doing} {name}: {reason}{_space_left(Path(str(name)), needed)}",
            code="no-space",
            hint="make room and run again: what was fetched is kept",
        )
    if error.errno == errno.EFBIG:
        return DiskError(
            f"{doing} {name}: {reason}",
            code="file-too-large",
            hint="FAT allows only files below 4 GiB: put ROOT on another file system (or see `ulimit -f`)",
        )
    if isinstance(error, SymlinkUnreadableError):
        return DestinationError(
            f"{doing} {name}: the file system does not show where this symlink leads ({reason})",
            code="symlink-unreadable",
            hint="mount it so that it does: sshfs needs `-o no_contain_symlinks`",
        )
    if error.errno in REFUSED:
        return DestinationError(f"{doing} {name}: {reason}", hint=writable_hint(Path(str(name))))
    if error.errno in _IN_THE_WAY:
        return DestinationError(
            f"{doing} {name}: {reason}",
            code="foreign-file",
            hint="something that modelfetch did not make is in the way: move it away, or choose another path",
        )
    if error.errno == errno.ENAMETOOLONG:
        return DestinationError(f"{doing} {name}: {reason}", hint="choose a shorter name: most disks allow 255 bytes")
    if error.errno == errno.ENOENT:
        return DiskError(f"{doing} {name}: {reason}", hint="is its folder there, and is the disk mounted?")
    return DiskError(f"{doing} {name}: {reason}")


@contextlib.contextmanager
def translated(path: object, *, doing: str) -> Iterator[None]:
    """Raise the typed error for an OSError of the block, or for a name that the locale can't encode, about ``path``."""
    try:
        yield
    except (OSError, UnicodeEncodeError) as error:
        raise translate(error, path, doing=doing) from error


def missing_file_error(path: str | os.PathLike[str]) -> NotFoundError:
    """The error for a local file that does not exist."""
    return NotFoundError(f"{path} does not exist", hint="check the path; is its disk or share mounted?")


def not_a_file_error(path: str | os.PathLike[str]) -> NotFoundError:
    """The error for a path that is not a regular file."""
    if Path(path).is_dir():
        return NotFoundError(f"{path} is a folder, not a file", hint=f"name one file: file://{path}/FILE")
    return NotFoundError(f"{path} is not a regular file", hint="copy its content to a file, and name that")


def writable_hint(path: Path) -> str:
    """What to do so that a path can be written."""
    with contextlib.suppress(OSError, ValueError):
        folder = nearest_existing_parent(path)
        if os.statvfs(folder).f_flag & os.ST_RDONLY:
            return f"{folder} is mounted read-only: mount it for writing (in a compose file, without `:ro`)"
    return f"it must be writable for uid {os.geteuid()}"


def _space_left(path: Path, needed: int | None) -> str:
    """The space on a path's file system as the end of a message; empty if it is not known."""
    try:
        disk = os.statvfs(nearest_existing_parent(path))
    except (OSError, ValueError):
        return ""
    if not disk.f_blocks:
        return ""
    if disk.f_files and disk.f_favail < _FEW_INODES:
        return f"; it has {disk.f_favail or 'no'} inodes left (`df -i`)"
    more = f", {format_size(needed)} more needed" if needed else ""
    return f"; {format_size(disk.f_bavail * disk.f_frsize)} free{more}"
