"""Create one link, copy, text file or symlink: complete, atomic, with the right mode and owner.

Nothing is overwritten unless it was inspected before. A new file is created with a call that fails if the name exists
(link, symlink, ``RENAME_NOREPLACE``). A replacement is swapped with the old file (``RENAME_EXCHANGE``), so that the old
file can be compared with what was inspected, and be put back.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from modelfetch.core import directories, fs, temp_files
from modelfetch.core.mounts import find_mount
from modelfetch.errors import DestinationError
from modelfetch.placement.path_stat import PathStat
from modelfetch.placement.root_tree import RootTree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

_OLDER_NAMES = r"\.[\w-]+\.\d+(?:-\w+)*\.part"
_OLDER_NOTES = r"\.[0-9a-f]{16}\.part"
_NO_LINK = (
    *(errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS),
    errno.EIO,  # returned by mounts of rclone; if the disk has failed, the copy fails as well
)
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class ChangedMeanwhileError(Exception):
    """A path changed since it was inspected: something appeared there or was modified."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """How a file was created (link, reflink, copy, text or symlink), and its state afterwards."""

    how: str
    seen: PathStat


class ConsumerWriter:
    """Writes below one consumer's folder; unfinished files are in modelfetch's own folder or have a ``.part`` name.

    All paths are relative to ROOT. ``over`` is the inspected file at a path that may be replaced, if there is one.
    The caller holds the consumer's lock.

    Args:
        tree: ROOT.
        consumer: The consumer that the folder belongs to.
        own: ``ROOT/.modelfetch``.
        owner: (uid, gid) for directories and copies, never for a shared blob.
        check: Called periodically while bytes are copied; raises if the run was cancelled.
        refused: Reports what the file system refuses that is not essential: hardlinks, modes, owners, fsync.
    """

    def __init__(
        self,
        tree: RootTree,
        consumer: str,
        *,
        own: Path,
        owner: tuple[int, int] | None,
        check: Callable[[], None],
        refused: fs.RefusalReporter,
    ) -> None:
        self.tree = tree
        self._own = RootTree(own)
        self._consumer = consumer
        self._owner = owner
        self._check = check
        self._refused = refused
        self._touched: set[str] = set()
        self._swept: set[tuple[RootTree, str]] = set()
        self._workspaces: dict[str, tuple[RootTree, str]] = {}
        self.confirm: Callable[[], None] = lambda: None
        """Called just before a file gets its final name; raises if the lock was lost."""

    def link(self, blob: Path, path: str, over: PathStat | None) -> Made:
        """Place a blob at a path: by hardlink, else reflink, else copy.

        Raises:
            ChangedMeanwhileError: The path changed since it was inspected.
            DestinationError: It leads outside ROOT.
            OSError: It can't be written.
        """

        def make(folder: int, name: str) -> Made:
            os.link(blob, name, dst_dir_fd=folder, follow_symlinks=False)
            return Made(how="link", seen=PathStat.of(os.lstat(name, dir_fd=folder)))

        try:
            return self._publish(path, over, make, in_place=True)
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
            self._warn_no_link(blob, error)
        with fs.closing(fs.open_regular(blob)) as fd:
            return self.copy(fd, path, over)

    def copy(self, source: int, path: str, over: PathStat | None) -> Made:
        """Create an independent copy of an open file, by reflink if possible. Raises the same errors as `link`."""

        def write(fd: int) -> str:
            if fs.clone_descriptor(source, fd):
                return "reflink"
            fs.copy_descriptor(source, fd, self._check)
            return "copy"

        return self._publish(path, over, lambda folder, name: self._write(folder, name, write))

    def text(self, data: bytes, path: str, over: PathStat | None) -> Made:
        """Create a small file with the given bytes. Raises the same errors as `link`."""

        def write(fd: int) -> str:
            fs.write_all(fd, data)
            return "text"

        return self._publish(path, over, lambda folder, name: self._write(folder, name, write))

    def symlink(self, text: str, path: str, over: PathStat | None) -> Made:
        """Create a symlink. Raises the same errors as `link`, and DestinationError if the file system has none."""

        def make(folder: int, name: str) -> Made:
            try:
                os.symlink(text, name, dir_fd=folder)
            except OSError as error:
                if error.errno in fs.NO_SYMLINKS:
                    raise _no_symlink_error(self.tree.path(path), error) from None
                raise
            return Made(how="symlink", seen=PathStat.of(os.lstat(name, dir_fd=folder), target=text))

        return self._publish(path, over, make, in_place=True)

    def displace(self, path: str) -> str:
        """Move the file at a path to ``displaced/DATE/PATH`` in modelfetch's folder, under an unused name.

        Returns:
            Its new path, below ``ROOT/.modelfetch``.

        Raises:
            ChangedMeanwhileError: It was removed meanwhile.
            DestinationError: It leads outside ROOT, or it is a folder or a device on another file system.
            OSError: It can't be moved.
        """
        self.confirm()
        day = datetime.now(UTC).strftime("%Y-%m-%d")
        with self.tree.parent(path) as (folder, name):
            for attempt in itertools.count(1):
                aside = f"displaced/{day if attempt == 1 else f'{day}.{attempt}'}/{path}"
                if self._moved_to(aside, name, folder, path):
                    break
        self._touched.add(path.rpartition("/")[0])
        return aside

    def has_displaced(self, path: str, fd: int) -> bool:
        """Whether an earlier run already moved a file with the same bytes as this open one aside from the path."""
        try:
            with self._own.folder("displaced") as folder:
                days = os.listdir(folder)  # noqa: PTH208 - of a descriptor
        except (FileNotFoundError, NotADirectoryError):
            return False
        return any(self._same_bytes(f"displaced/{day}/{path}", fd) for day in sorted(days, reverse=True))

    def sync(self) -> None:
        """Make all names created since the last call durable.

        Raises:
            OSError: The disk failed.
        """
        for folder in self._touched:
            with contextlib.suppress(FileNotFoundError), self.tree.folder(folder) as fd:
                fs.try_fsync(fd)
        self._touched.clear()

    def sweep(self, folders: Iterable[str]) -> None:
        """Remove temporary files of killed runs from modelfetch's folders and the given ones, each once per run."""
        own = ("", self._scratch, "receipts", "journal", "noop", "locks")
        below = dict.fromkeys(("", self._consumer, *folders))
        for tree, folder in [*((self._own, name) for name in own), *((self.tree, name) for name in below)]:
            if (tree, folder) in self._swept:
                continue
            self._swept.add((tree, folder))
            locked: tuple[str, ...] = (".modelfetch-",)  # only the lock holder creates files here
            if folder == "receipts":
                locked = (f".modelfetch-{self._consumer}-", f".{self._consumer}.")
            elif folder in ("", "journal", "noop", "locks"):
                locked = ()
            with contextlib.suppress(OSError, DestinationError), tree.folder(folder) as fd:
                temp_files.sweep_temporaries(
                    fd, locked=locked, older=_OLDER_NOTES if folder == "noop" else _OLDER_NAMES
                )

    # --- inside ------------------------------------------------------------------------------------------------

    @property
    def _scratch(self) -> str:
        return f"tmp/{self._consumer}"

    def _write(self, folder: int, name: str, write: Callable[[int], str]) -> Made:
        with fs.closing(os.open(name, _CREATE, fs.PRIVATE_MODE, dir_fd=folder)) as fd:
            how = write(fd)
            fs.finish_file(fd, mode=fs.COPY_MODE, owner=self._owner, refused=self._refused)
            return Made(how=how, seen=PathStat.of(os.fstat(fd)))

    def _publish(
        self, path: str, over: PathStat | None, make: Callable[[int, str], Made], *, in_place: bool = False
    ) -> Made:
        """Create a file and give it its final name.

        ``in_place``: ``make`` is atomic and never replaces, so a new file needs no temporary name.
        """
        with self.tree.parent(path, make=self._finish_folder) as (folder, name):
            self._touched.add(path.rpartition("/")[0])
            if over is None and in_place:
                self.confirm()
                try:
                    return make(folder, name)
                except FileExistsError:
                    raise ChangedMeanwhileError(path) from None
            tree, where = self._workspace_for(path.rpartition("/")[0], folder)
            with tree.folder(where, make=self._finish_own_folder) as workspace:
                temporary = temp_files.temporary_name()
                try:
                    made = make(workspace, temporary)
                    self.confirm()
                    self._rename(temporary, workspace, name, folder, over, path)
                finally:
                    # Also after success, when the replaced file has this name.
                    with contextlib.suppress(OSError):
                        os.unlink(temporary, dir_fd=workspace)
                return made

    def _rename(self, temporary: str, workspace: int, name: str, folder: int, over: PathStat | None, path: str) -> None:
        if over is None:
            try:
                directories.rename_new(temporary, name, source_folder=workspace, target_folder=folder)
            except FileExistsError:
                raise ChangedMeanwhileError(path) from None
            return
        try:
            exchanged = directories.exchange(temporary, name, source_folder=workspace, target_folder=folder)
        except FileNotFoundError:
            raise ChangedMeanwhileError(path) from None
        if not exchanged:
            if not _is_still(over, name, folder):
                raise ChangedMeanwhileError(path)
            os.rename(temporary, name, src_dir_fd=workspace, dst_dir_fd=folder)
        elif not _is_still(over, temporary, workspace):
            try:
                directories.exchange(temporary, name, source_folder=workspace, target_folder=folder)
            except FileNotFoundError:  # the new file was removed meanwhile, so its name is free
                directories.rename_new(temporary, name, source_folder=workspace, target_folder=folder)
            raise ChangedMeanwhileError(path)

    def _workspace_for(self, parent: str, folder: int) -> tuple[RootTree, str]:
        """Find the folder in which to create a file that is then renamed into ``parent``: the first where that works.

        The choices in order: modelfetch's own folder; if that is another file system or mount, the consumer's folder,
        outside the folders that it loads from; if ``parent`` is yet another mount, ``parent`` itself.
        """
        if parent not in self._workspaces:
            candidates = ((self._own, self._scratch), (self.tree, self._consumer), (self.tree, parent))
            self._workspaces[parent] = next(c for c in candidates if c[1] == parent or self._renames(*c, folder))
        return self._workspaces[parent]

    def _renames(self, tree: RootTree, where: str, folder: int) -> bool:
        here, there = temp_files.temporary_name(), temp_files.temporary_name()
        with tree.folder(where, make=self._finish_own_folder) as workspace:
            try:
                os.close(os.open(here, _CREATE, fs.PRIVATE_MODE, dir_fd=workspace))
                os.rename(here, there, src_dir_fd=workspace, dst_dir_fd=folder)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                return False
            finally:
                for name, where_fd in ((here, workspace), (there, folder)):
                    with contextlib.suppress(OSError):
                        os.unlink(name, dir_fd=where_fd)
        return True

    def _moved_to(self, aside: str, name: str, folder: int, path: str) -> bool:
        """Move a file to a path in modelfetch's folder; False if there is already another."""
        with self._own.parent(aside, make=self._finish_own_folder) as (own, own_name):
            try:
                self._move_aside(name, folder, own_name, own, path)
            except FileExistsError:
                return False
            except (OSError, ChangedMeanwhileError) as error:
                self._own.remove_empty_folders(aside, stop=())
                if isinstance(error, FileNotFoundError):
                    raise ChangedMeanwhileError(path) from None
                raise
            fs.try_fsync(own)
        return True

    def _move_aside(self, name: str, folder: int, own_name: str, own: int, path: str) -> None:
        try:
            directories.rename_new(name, own_name, source_folder=folder, target_folder=own)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            seen = _stat_at(name, folder)
            if seen.target is not None:
                os.symlink(seen.target, own_name, dir_fd=own)
            elif seen.regular:
                self._copy_aside(name, folder, own_name, own)
            else:
                raise _unmovable_error(self.tree.path(path)) from None
            if not _is_still(seen, name, folder):  # a copy takes minutes
                os.unlink(own_name, dir_fd=own)
                raise ChangedMeanwhileError(path) from None
            os.unlink(name, dir_fd=folder)

    def _copy_aside(self, name: str, folder: int, own_name: str, own: int) -> None:
        """Copy a file with its mode and owner to another file system; never replaces an existing file.

        It gets its name when it is whole: a run that is killed leaves a temporary file, which the next one removes.
        """
        if directories.exists_at(own_name, own):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), own_name)
        if not self._renames(self._own, self._scratch, own):
            self._copy_file(name, folder, own_name, own)
            return
        with self._own.folder(self._scratch) as scratch:
            temporary = temp_files.temporary_name()
            self._copy_file(name, folder, temporary, scratch)
            try:
                directories.rename_new(temporary, own_name, source_folder=scratch, target_folder=own)
            except BaseException:
                os.unlink(temporary, dir_fd=scratch)
                raise

    def _copy_file(self, name: str, folder: int, new_name: str, new_folder: int) -> None:
        with (
            fs.closing(fs.open_regular(name, folder=folder)) as source,
            fs.closing(os.open(new_name, _CREATE, fs.PRIVATE_MODE, dir_fd=new_folder)) as target,
        ):
            try:
                fs.copy_descriptor(source, target, self._check)
                found = os.fstat(source)
                fs.finish_file(target, mode=stat.S_IMODE(found.st_mode), owner=(found.st_uid, found.st_gid))
            except BaseException:
                os.unlink(new_name, dir_fd=new_folder)
                raise

    def _same_bytes(self, aside: str, fd: int) -> bool:
        try:
            other = self._own.open(aside)
        except (OSError, DestinationError):
            return False
        with fs.closing(other):
            same_size = os.fstat(other).st_size == os.fstat(fd).st_size
            return same_size and fs.hash_descriptor(other, "sha256") == fs.hash_descriptor(fd, "sha256")

    def _finish_folder(self, fd: int) -> None:
        """Set the mode and owner of a new folder."""
        fs.finish_folder(fd, owner=self._owner, refused=self._refused)

    def _finish_own_folder(self, fd: int) -> None:
        fs.finish_folder(fd)

    def _warn_no_link(self, blob: Path, error: OSError) -> None:
        user, here, there = os.geteuid(), find_mount(blob.parent), find_mount(self.tree.path(self._consumer))
        if error.errno in (errno.EPERM, errno.EACCES) and user not in (0, owner := blob.stat().st_uid):
            message = f"hardlinks of blobs of uid {owner} are refused to uid {user} ({error.strerror})"
        elif here != there or error.errno == errno.EXDEV:
            message = (
                f"no hardlinks are possible from {blob.parents[3]} to {there or self._consumer} ({error.strerror})"
            )
        else:
            message = f"the file system at {there or self._consumer} supports no hardlinks ({error.strerror})"
        self._refused.report(f"{message}; files are copied, which takes additional space")


def _no_symlink_error(path: Path, error: OSError) -> DestinationError:
    return DestinationError(
        f"{path} can't be made: it is a symlink, which this file system refuses ({error.strerror})",
        hint="`modelfetch sync` places files instead",
    )


def _unmovable_error(path: Path) -> DestinationError:
    return DestinationError(
        f"{path} is in the way: it is not a file, and can't be moved to the file system of ROOT",
        code="foreign-file",
        hint="move it away; it was not touched",
    )


def _stat_at(name: str, folder: int) -> PathStat:
    found = os.lstat(name, dir_fd=folder)
    return PathStat.of(found, target=os.readlink(name, dir_fd=folder) if stat.S_ISLNK(found.st_mode) else None)


def _is_still(inspected: PathStat, name: str, folder: int) -> bool:
    """Whether the file of this name is still the one that was inspected."""
    try:
        found = os.lstat(name, dir_fd=folder)
        target = os.readlink(name, dir_fd=folder) if inspected.target is not None else None
    except (FileNotFoundError, OSError):
        return False
    if inspected.target is not None:
        return target == inspected.target
    return PathStat.of(found) == inspected
