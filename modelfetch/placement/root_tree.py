"""ROOT and everything below it, accessed by directory descriptors, so that no path and no race leads outside.

A path is walked folder by folder with ``openat`` and ``O_NOFOLLOW``, so a folder that is swapped for a symlink between
a check and a write is noticed by the write itself. Symlinks between folders of ROOT are allowed: each is resolved to a
path below ROOT, which is walked again from ROOT in the same way.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import stat as statmod
import threading
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from modelfetch.core import directories, fs
from modelfetch.core.limits import open_descriptor
from modelfetch.core.root import CONSUMERS
from modelfetch.errors import DestinationError
from modelfetch.manifest.paths import check_relative
from modelfetch.placement.path_stat import PathStat

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Mapping

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_MAX_LINKS = 40


class RootTree:
    """A folder, with everything below it named by relative paths with POSIX separators.

    Args:
        root: The folder; it may be a symlink, and need not exist yet.
        mounts: Folders that replace the first part of a path: those of consumers outside ROOT, which the user named.
    """

    def __init__(self, root: Path, mounts: Mapping[str, Path] | None = None) -> None:
        self._root = root
        self._mounts = dict(mounts or {})
        self._reading = _Reading()

    def path(self, relative: str) -> Path:
        """The file system path of a relative path, for messages and for code outside of this class."""
        first, _, rest = relative.partition("/")
        return self._mounts[first] / rest if first in self._mounts else self._root / relative

    @contextlib.contextmanager
    def folder(self, relative: str = "", *, make: Callable[[int], None] | None = None) -> Iterator[int]:
        """Open a folder; yields its descriptor.

        Args:
            relative: The folder; empty for ROOT itself.
            make: If given, missing folders are created, and it is called with the descriptor of each.

        Raises:
            DestinationError: ``outside-root``: a symlink on the way leads outside ROOT, or the path is not a safe one.
            OSError: It does not exist, can't be opened, or something else is in the way.
        """
        with fs.closing(self._walk(relative, make)) as fd:
            yield fd

    @contextlib.contextmanager
    def keeping_folder_open(self) -> Iterator[None]:
        """In this block, `lstat` in this thread walks to a folder once for all successive paths in it.

        A folder that is replaced in between is still read: use it for paths that are looked at one after another.
        """
        reading = self._reading
        if reading.active:  # the block around this one closes the folder
            yield
            return
        reading.active = True
        try:
            yield
        finally:
            reading.active = False
            reading.forget()

    @contextlib.contextmanager
    def nearest_folder(self, relative: str) -> Iterator[int]:
        """Open a folder, or the nearest existing one above it, above ROOT too. Raises as `folder` does."""
        with fs.closing(self._open_nearest(relative)) as fd:
            yield fd

    @contextlib.contextmanager
    def parent(self, path: str, *, make: Callable[[int], None] | None = None) -> Iterator[tuple[int, str]]:
        """Open the folder of a path; yields its descriptor and the path's last part. Raises as `folder` does."""
        above, name = _split(path)
        with self.folder(above, make=make) as fd:
            yield fd, name

    def lstat(self, path: str, *, follow: bool = False) -> PathStat | None:
        """The state of a path; None if nothing is there.

        Args:
            path: The path.
            follow: Whether a symlink's size, time and kind are those of the file that it leads to.

        Raises:
            DestinationError: As `folder` does.
            OSError: It can't be examined.
        """
        try:
            with self._parent_to_read(path) as (folder, name):
                found = os.lstat(name, dir_fd=folder)
                if not statmod.S_ISLNK(found.st_mode):
                    return PathStat.of(found)
                target = fs.read_link(name, folder=folder, name=self.path(path))
                if follow:
                    with contextlib.suppress(OSError):
                        found = os.stat(name, dir_fd=folder)
                return PathStat.of(found, target=target)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def open(self, path: str, *, follow: bool = False) -> int:
        """Open a regular file for reading; the caller closes the descriptor. Raises as `folder` does."""
        with self.parent(path) as (folder, name):
            return fs.open_regular(name, folder=folder, follow=follow)

    def remove_empty_folders(self, path: str, *, stop: Container[str]) -> None:
        """Remove the empty folders above ``path``, up to one of ``stop`` or a top folder; errors are ignored."""
        folder = path.rpartition("/")[0]
        with contextlib.suppress(OSError, DestinationError):
            while "/" in folder and folder not in stop:
                with self.parent(folder) as (above, name):
                    os.rmdir(name, dir_fd=above)
                folder = folder.rpartition("/")[0]

    @contextlib.contextmanager
    def _parent_to_read(self, path: str) -> Iterator[tuple[int, str]]:
        """As `parent`, with the folder that `keeping_folder_open` keeps."""
        above, name = _split(path)
        reading = self._reading
        if not reading.active:
            with self.folder(above) as fd:
                yield fd, name
            return
        if reading.folder != above:
            reading.forget()
            with contextlib.suppress(FileNotFoundError):
                reading.fd = self._walk(above, None)
            reading.folder = above
        if reading.fd is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.path(above))
        yield reading.fd, name

    def _open_nearest(self, relative: str) -> int:
        top = self._mounts.get(relative.partition("/")[0], self._root)
        while relative:
            with contextlib.suppress(FileNotFoundError):
                return self._walk(relative, None)
            relative = relative.rpartition("/")[0]
        return open_descriptor(directories.nearest_existing_parent(top), _FOLDER)

    def _walk(self, relative: str, make: Callable[[int], None] | None) -> int:
        first, _, rest = relative.partition("/")
        mounted = first in self._mounts
        top = self._mounts[first] if mounted else self._root
        below = rest if mounted else relative
        if (fd := _open_at_once(top, below, missing_is_error=make is None)) is not None:
            return fd
        return self._walk_parts(os.path.realpath(top), below, make)

    def _walk_parts(self, base: str, relative: str, make: Callable[[int], None] | None) -> int:
        """Walk folder by folder; makes missing folders, and resolves symlinks between folders of ROOT."""
        todo = deque(relative.split("/") if relative else ())
        done: list[str] = []
        links = 0
        fd = _open_base(base, make)
        try:
            while todo:
                part = todo.popleft()
                if not part:
                    continue
                target = os.path.join(base, *done, part)  # noqa: PTH118 - also realpath's form
                if _is_link(part, fd):
                    links += 1
                    _limit_links(links, target)
                    todo.extendleft(reversed(_inside(base, target)))
                    done.clear()
                    child = open_descriptor(base, _FOLDER)
                else:
                    child = _open_child(part, fd, target, make)
                    done.append(part)
                os.close(fd)
                fd = child
        except BaseException:
            os.close(fd)
            raise
        return fd


class _Reading(threading.local):
    """The folder that one thread keeps open while it examines many paths; ``fd`` is None if it does not exist."""

    active = False
    folder: str | None = None
    fd: int | None = None

    def forget(self) -> None:
        """Close the folder."""
        fd, self.folder, self.fd = self.fd, None, None
        if fd is not None:
            os.close(fd)


def _split(path: str) -> tuple[str, str]:
    """The folder and the last part of a path below ROOT.

    Raises:
        DestinationError: It is not a safe path (``outside-root``).
    """
    try:
        check_relative(path)
    except ValueError as error:
        raise DestinationError(f"{path[:200]!r} can't be placed: {error}", code="outside-root") from None
    above, _, name = path.rpartition("/")
    return above, name


def _open_at_once(top: Path, relative: str, *, missing_is_error: bool) -> int | None:
    """Open a folder in one step, if no symlink is on the way; None if the parts must be walked."""
    try:
        fd = open_descriptor(top, _FOLDER)
        if not relative:
            return fd
        with fs.closing(fd):
            return directories.open_folder_beneath(fd, relative)
    except FileNotFoundError as error:
        if not missing_is_error:
            return None
        error.filename = os.path.join(top, relative)  # noqa: PTH118 - called for every file several times
        raise


def _open_base(base: str, make: Callable[[int], None] | None) -> int:
    try:
        return open_descriptor(base, _FOLDER)
    except FileNotFoundError:
        if make is None:
            raise
    directories.make_directory(Path(base))
    fd = open_descriptor(base, _FOLDER)
    make(fd)
    return fd


def _is_link(part: str, folder: int) -> bool:
    try:
        return statmod.S_ISLNK(os.lstat(part, dir_fd=folder).st_mode)
    except FileNotFoundError:
        return False


def _limit_links(count: int, path: str) -> None:
    if count > _MAX_LINKS:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def _open_child(part: str, folder: int, shown: str, make: Callable[[int], None] | None) -> int:
    try:
        try:
            return open_descriptor(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
        except FileNotFoundError:
            if make is None:
                raise
        try:
            os.mkdir(part, fs.DIRECTORY_MODE, dir_fd=folder)
            made = True
        except FileExistsError:
            made = False  # another process made it first
        fd = open_descriptor(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    except OSError as error:
        error.filename = shown
        raise
    try:
        # A folder that another process put in the place of the new one keeps its mode and owner.
        if made and os.fstat(fd).st_uid == os.geteuid():
            make(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _inside(base: str, link: str) -> list[str]:
    """The parts, below ``base``, of the folder that a symlink leads to."""
    real = os.path.realpath(link)
    if real == base:
        return []
    if not real.startswith(base.rstrip("/") + "/"):
        hint = "make ROOT itself the symlink, or replace the folder by a real one"
        if (consumer := link.removeprefix(base.rstrip("/") + "/")) in CONSUMERS:
            hint += f"; to use the other folder, name it: --consumer-dir {shlex.quote(f'{consumer}={real}')}"
        text = f"{link}: this folder leads to {real}, outside {base}"
        raise DestinationError(text, code="outside-root", hint=hint)
    if not Path(real).is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "the symlink does not lead to a folder", link)
    return real[len(base.rstrip("/")) + 1 :].split("/")
