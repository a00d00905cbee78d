"""Directories: finding and making them, opening one below another, and renames that never overwrite a file."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from modelfetch.core import libc
from modelfetch.core.fs import DIRECTORY_MODE, closing, finish_folder
from modelfetch.errors import DestinationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2  # flags of renameat2 (source: linux/fs.h)
_OPENAT2 = 437  # number of the system call on all common architectures (source: asm-generic/unistd.h)
_CURRENT_FOLDER = -100  # AT_FDCWD (source: linux/fcntl.h)
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_RESOLVE = 0x02 | 0x04 | 0x08  # NO_MAGICLINKS, NO_SYMLINKS, BENEATH (source: linux/openat2.h)


def own_folder(root: Path) -> Path:
    """Return ROOT's folder for its own data; also the store's default location."""
    return root / ".modelfetch"


def nearest_existing_parent(path: Path) -> Path:
    """The nearest parent folder of ``path`` that exists."""
    current = Path(os.path.realpath(path))
    while not current.is_dir() and current.parent != current:
        current = current.parent
    return current


def blocking_part(folder: Path) -> Path | None:
    """The first part of a folder's path that exists but is not a folder (a dangling link counts)."""
    for current in (folder, *folder.parents):
        if current.is_dir():
            return None
        if os.path.lexists(current):
            return current
    return None


def require_folder_path(folder: Path, option: str) -> None:
    """Check that a folder exists or can be made; ``option`` is the option that names it.

    Raises:
        DestinationError: A part of its path is something else (``foreign-file``).
    """
    if (blocking := blocking_part(folder)) is not None:
        raise DestinationError(
            f"{blocking} is not a folder, but {option} needs one there",
            code="foreign-file",
            hint=f"move it away, or name another folder: {option} DIR",
        )


def require_file_path(path: Path) -> None:
    """Check that a path names a regular file, or one that can be made.

    Raises:
        DestinationError: It is a folder, a device or a pipe (``foreign-file``).
    """
    if not path.name or path.is_dir():
        text = f"{path} is a folder, expected the path of a file"
        raise DestinationError(text, code="foreign-file", hint="name the file")
    if path.exists() and not path.is_file():
        raise DestinationError(f"{path} is not a regular file", code="foreign-file", hint="name another path")


def require_parent(path: Path) -> None:
    """Check that the folder exists in which a file that the user named is to be written.

    Raises:
        DestinationError: It does not.
    """
    if not path.parent.exists():
        hint = f"make it first: mkdir -p {shlex.quote(str(path.parent))}"
        raise DestinationError(f"{path} can't be written: the folder {path.parent} does not exist", hint=hint)


def make_directory(path: Path, *, owner: tuple[int, int] | None = None) -> None:
    """Create ``path`` and missing parents with mode 0755 whatever the umask, owned by ``owner`` (uid, gid) if given.

    Raises:
        OSError: A folder can't be created.
    """
    missing = []
    current = path
    while not current.is_dir():
        missing.append(current)
        if current.parent == current:
            break
        current = current.parent
    for folder in reversed(missing):
        try:
            folder.mkdir(mode=DIRECTORY_MODE)
        except FileExistsError:
            if not folder.is_dir():
                raise
            continue  # another process created it first
        with closing(os.open(folder, _OPEN_FOLDER)) as fd:  # not a link that others have put in its place
            finish_folder(fd, owner=owner)


def sync_directory(path: Path) -> None:
    """Make the names in a folder durable, if the file system supports it."""
    with contextlib.suppress(OSError), _opened(path) as fd:
        os.fsync(fd)


def _opened(folder: Path) -> AbstractContextManager[int]:
    return closing(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


def rename_new(
    source: str, target: str, *, source_folder: int = _CURRENT_FOLDER, target_folder: int = _CURRENT_FOLDER
) -> None:
    """Rename a file to an unused name, without ever replacing an existing file.

    Args:
        source: Its name in the folder of the descriptor ``source_folder``.
        target: Its new name in the folder of ``target_folder``.
        source_folder: An open folder (default: the current one).
        target_folder: An open folder, on the same file system (default: the current one).

    Raises:
        FileExistsError: The target name exists.
        OSError: The rename failed.
    """
    if _renameat2(source, target, source_folder, target_folder, _RENAME_NOREPLACE):
        return
    try:
        os.link(source, target, src_dir_fd=source_folder, dst_dir_fd=target_folder, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise
        # Neither call is supported (FAT, some network shares): check first. A file created in between is lost.
        if exists_at(target, target_folder):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target) from None
        os.rename(source, target, src_dir_fd=source_folder, dst_dir_fd=target_folder)
    else:
        os.unlink(source, dir_fd=source_folder)


def link_descriptor(fd: int, path: Path) -> bool:
    """Give an open file one more name, whatever its other names are now; False if that is not possible.

    Raises:
        FileExistsError: The name exists.
    """
    try:
        # Given a descriptor of a folder, Python calls linkat, which can follow the link in /proc.
        with _opened(path.parent) as folder:
            os.link(f"/proc/self/fd/{fd}", path.name, dst_dir_fd=folder, follow_symlinks=True)
    except FileExistsError:
        raise
    except OSError:  # no hardlinks here, no /proc, or the file has no name any more
        return False
    return True


def exchange(
    source: str, target: str, *, source_folder: int = _CURRENT_FOLDER, target_folder: int = _CURRENT_FOLDER
) -> bool:
    """Swap two names atomically; False if the file system can't.

    Raises:
        OSError: One of them is missing, or they are on two file systems.
    """
    return _renameat2(source, target, source_folder, target_folder, _RENAME_EXCHANGE)


def exists_at(name: str, folder: int) -> bool:
    """Return whether a name exists in an open folder, dangling links included."""
    try:
        os.lstat(name, dir_fd=folder)
    except FileNotFoundError:
        return False
    return True


def _renameat2(source: str, target: str, source_folder: int, target_folder: int, flags: int) -> bool:
    """Call renameat2; False if the C library, the kernel or the file system does not support it or the flag."""
    function = _load_renameat2()
    if function is None:
        return False
    names = os.fsencode(source), os.fsencode(target)
    if function(source_folder, names[0], target_folder, names[1], flags) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), target)


class _OpenHow(ctypes.Structure):
    """The argument of openat2 (source: ``struct open_how`` in linux/openat2.h)."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_folder_beneath(folder: int, path: str) -> int | None:
    """Open a folder below an open one, in one system call that follows no symlink on the way; return its descriptor.

    Returns:
        None if the kernel can't do it (before Linux 5.6, or forbidden by a container's filter), or if it refuses the
        path, because of a symlink for example.

    Raises:
        FileNotFoundError: A part of the path does not exist.
    """
    call = _load_syscall()
    if call is None:
        return None
    how = _OpenHow(_OPEN_FOLDER, 0, _RESOLVE)
    fd: int = call(_OPENAT2, folder, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))
    if fd >= 0:
        return fd
    if ctypes.get_errno() == errno.ENOENT:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return None


@functools.cache
def _load_syscall() -> Callable[..., int] | None:
    return libc.function(
        "syscall", ctypes.c_long, ctypes.c_long, ctypes.c_long, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t
    )


@functools.cache
def _load_renameat2() -> Callable[[int, bytes, int, bytes, int], int] | None:
    return libc.function(
        "renameat2", ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint
    )
