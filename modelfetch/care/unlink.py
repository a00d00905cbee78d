"""Removing one file below ROOT: through directory descriptors, and only while it is what was decided about."""

from __future__ import annotations

import contextlib
import os
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from modelfetch.errors import DestinationError
from modelfetch.manifest.paths import check_relative

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def unlink_unchanged(root: Path, path: str, *, inode: tuple[int, int], size: int, mtime_ns: int) -> bool:
    """Remove ``path`` below ROOT if it still is that file; whether it was removed.

    Raises:
        DestinationError: The path leads outside ROOT, or its folder can't be written.
        OSError: The system refused.
    """
    with _parent(root, path) as (folder, name):
        try:
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if ((found.st_dev, found.st_ino), found.st_size, found.st_mtime_ns) != (inode, size, mtime_ns):
            return False
        os.unlink(name, dir_fd=folder)
        return True


def remove_empty_folders(root: Path, path: str, *, stop: frozenset[str]) -> None:
    """Remove the folders above ``path`` that are empty now, up to one of ``stop``; none is worth an error."""
    folder = PurePosixPath(path).parent
    with contextlib.suppress(OSError, DestinationError):
        while str(folder) not in stop and len(folder.parts) > 1:
            with _parent(root, str(folder)) as (above, name):
                os.rmdir(name, dir_fd=above)
            folder = folder.parent


@contextlib.contextmanager
def _parent(root: Path, path: str) -> Iterator[tuple[int, str]]:
    """The folder that holds ``path``, open, and the last part of it. Folders that are links must stay inside ROOT."""
    try:
        check_relative(path)
    except ValueError as error:
        raise DestinationError(f"{path[:200]!r} can't be removed: {error}", code="outside-root") from None
    base = os.path.realpath(root)
    real = os.path.realpath(os.path.join(base, os.path.dirname(path)))  # noqa: PTH118, PTH120 - plain text here
    if real != base and not real.startswith(base.rstrip("/") + "/"):
        raise DestinationError(f"{root / path}: its folder leads outside {base}", code="outside-root")
    fd = os.open(base, _FOLDER)
    try:
        for part in PurePosixPath(os.path.relpath(real, base)).parts:
            deeper = os.open(part, _FOLDER, dir_fd=fd)
            os.close(fd)
            fd = deeper
        yield fd, PurePosixPath(path).name
    finally:
        os.close(fd)
