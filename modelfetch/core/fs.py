"""Files: opening them safely, modes regardless of the umask, durable writes, hashing, cloning and copying."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from modelfetch.core.digest import Digest, Hasher, new_hasher
from modelfetch.core.events import Notice, Sink
from modelfetch.core.limits import open_descriptor

if TYPE_CHECKING:
    from pathlib import Path

DIRECTORY_MODE = 0o755
COPY_MODE = 0o644
BLOB_MODE = 0o444
PUBLIC_MODE = 0o644
"""The mode of a file of modelfetch's own that other users and containers need (docs/concepts/on-disk.md has them)."""
PRIVATE_MODE = 0o600
"""The mode of one that may hold something private, such as an address with a query; and of any while it is written."""

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Error numbers."""
NO_SYMLINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
"""What `os.symlink` fails with on a file system without symlinks."""

_FICLONE = 0x40049409  # ioctl number of FICLONE (source: linux/fs.h)
_CHUNK = 1 << 20
_INHERITED = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")
_NOT_SUPPORTED = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY)

Refused = Callable[[str, OSError], None]
"""Called with the name of an optional operation (``chmod``) that a file system refused."""


def ignore_refusal(operation: str, error: OSError) -> None:
    """Ignore what a file system refuses, for callers that do not report it."""


class RefusalReporter:
    """Reports what file systems refuse as warnings, each kind of operation once.

    Args:
        sink: Receives the `Notice`.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._reported: set[object] = set()

    def __call__(self, operation: str, error: OSError) -> None:
        """Report that ``operation`` was refused, unless that was reported before."""
        name = f" of {error.filename}" if isinstance(error.filename, str) else ""
        text = f"this file system refuses {operation}{name} ({error.strerror}): continuing without it"
        self.report(text, kind=(operation, error.errno))

    def report(self, message: str, *, kind: object = None) -> None:
        """Report a message once, or one of its ``kind`` once."""
        if (kind or message) not in self._reported:
            self._reported.add(kind or message)
            self._sink(Notice(level="warning", message=message))


def try_chmod(fd: int, mode: int, *, refused: Refused = ignore_refusal) -> None:
    """Change the mode of an open file or folder if the file system supports it; raises any OSError but a refusal.

    By its descriptor, for others may put a link in the place of a name.
    """
    _try("chmod", lambda: os.chmod(fd, mode), (*_NOT_SUPPORTED, *REFUSED), refused)


def try_chown(fd: int, owner: tuple[int, int], *, refused: Refused = ignore_refusal) -> None:
    """Change the owner (uid, gid) of an open file or folder; raises as `try_chmod`."""
    _try("chown", lambda: os.chown(fd, *owner), (*_NOT_SUPPORTED, *REFUSED), refused)


def try_fsync(fd: int, *, refused: Refused = ignore_refusal) -> None:
    """Make a file durable if the file system supports it; raises OSError if the disk fails or is full."""
    _try("fsync", lambda: os.fsync(fd), (*_NOT_SUPPORTED, errno.EPERM), refused)


def _try(operation: str, call: Callable[[], None], refusals: tuple[int, ...], refused: Refused) -> None:
    try:
        call()
    except OSError as error:
        if error.errno not in refusals:
            raise
        refused(operation, error)


def open_regular(
    path: str | Path,
    flags: int = os.O_RDONLY,
    mode: int = COPY_MODE,
    *,
    folder: int | None = None,
    follow: bool = False,
) -> int:
    """Open a regular file and return its descriptor; never waits for a FIFO, follows a symlink only with ``follow``.

    Args:
        path: The file; relative to ``folder`` (a descriptor) if given.
        flags: Flags of `os.open`.
        mode: The mode of a new file.
        folder: An open folder.
        follow: Whether ``path`` may be a symlink.

    Raises:
        FileExistsError: The path is not a regular file (a FIFO, a device, a socket).
        IsADirectoryError: The path is a folder, and ``flags`` are for writing.
        RetryLaterError: A limit was reached.
        OSError: As `os.open` does; ELOOP for a symlink.
    """
    flags |= os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    fd = open_descriptor(path, flags, mode, dir_fd=folder)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise FileExistsError(errno.EEXIST, "not a regular file", str(path))


@contextlib.contextmanager
def closing(fd: int) -> Iterator[int]:
    """Close a descriptor at the end of the block."""
    try:
        yield fd
    finally:
        os.close(fd)


class SymlinkUnreadableError(PermissionError):
    """The file system does not show where a symlink leads, as sshfs does with targets that contain ``..``."""


def inode_of(found: os.stat_result) -> tuple[int, int]:
    """Return the device and inode, which are the same for all names of a file."""
    return found.st_dev, found.st_ino


def allocated_bytes(found: os.stat_result) -> int:
    """Return the bytes that a file takes on its disk."""
    return found.st_blocks * 512


def read_link(path: str | Path, *, folder: int | None = None, name: Path | None = None) -> str:
    """Return a symlink's target.

    Args:
        path: The symlink; relative to ``folder`` (a descriptor) if given.
        folder: An open folder.
        name: What an error calls it.

    Raises:
        SymlinkUnreadableError: The file system refuses to show the target.
        OSError: It can't be read, or it is not a symlink.
    """
    try:
        return os.readlink(path, dir_fd=folder)
    except PermissionError as error:
        raise SymlinkUnreadableError(error.errno, error.strerror, str(name or path)) from None


def read_small(path: Path | str, limit: int) -> bytes:
    """Return the bytes of a small file of our own; raises as `open_regular`, and OSError (EFBIG) for a larger file."""
    data = bytearray()
    with closing(open_regular(path)) as fd:
        if os.fstat(fd).st_size > limit:
            raise OSError(errno.EFBIG, f"more than {limit} bytes", str(path))
        while piece := os.read(fd, min(limit + 1 - len(data), _CHUNK)):  # it allocates as much as it may read
            data += piece
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"more than {limit} bytes", str(path))
    return bytes(data)


def read_head(path: Path, limit: int) -> bytes:
    """Return at most ``limit`` bytes of a file that the user named, or that a symlink may lead to.

    A pipe is read only if this process was given it open, as ``<(command)`` and ``/dev/stdin`` are: a FIFO or a device
    in the place of a file is refused, since to read it may never end.

    Raises:
        IsADirectoryError: It is a folder.
        FileExistsError: It is something else that is not a regular file.
        OSError: It can't be read.
    """
    if str(path).startswith(_INHERITED):
        with path.open("rb") as stream:
            return stream.read(limit)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    fd = open_regular(path, follow=True)
    with os.fdopen(fd, "rb") as file:
        return file.read(limit)


def mode_of_new_file() -> int:
    """Return the mode that a file created with plain ``open`` gets."""
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o666 & ~mask


def finish_file(
    fd: int,
    *,
    mode: int,
    owner: tuple[int, int] | None = None,
    refused: Refused = ignore_refusal,
) -> None:
    """Set a written file's mode and owner, then make it durable, as far as the file system supports each.

    Args:
        fd: The open file.
        mode: Its mode, whatever the umask.
        owner: (uid, gid), if different from this process's.
        refused: Called for each operation that the file system refuses.

    Raises:
        OSError: The disk failed or is full.
    """
    try_chmod(fd, mode, refused=refused)
    if owner:
        try_chown(fd, owner, refused=refused)
    try_fsync(fd, refused=refused)


def finish_folder(fd: int, *, owner: tuple[int, int] | None = None, refused: Refused = ignore_refusal) -> None:
    """Set a new folder's mode, 0755 whatever the umask, and owner; a set-group-ID bit that it inherited is kept.

    Arguments and errors are those of `finish_file`.
    """
    try_chmod(fd, DIRECTORY_MODE | (os.fstat(fd).st_mode & stat.S_ISGID), refused=refused)
    if owner:
        try_chown(fd, owner, refused=refused)


def hash_file(path: Path, *algorithms: str) -> tuple[Digest, ...]:
    """Return the digests of a file, read once.

    Raises:
        OSError: It can't be read.
    """
    with closing(open_regular(path, follow=True)) as fd:
        return hash_descriptor(fd, *algorithms)


def hash_descriptor(
    fd: int,
    *algorithms: str,
    check: Callable[[], None] = lambda: None,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[Digest, ...]:
    """Return the digests of an open file from its beginning, as `hash_file` does.

    ``check`` is called for each piece and may raise to abort, ``advance`` with the number of its bytes.
    """
    hashers: list[Hasher] = [new_hasher(algorithm, os.fstat(fd).st_size) for algorithm in algorithms]
    buffer = memoryview(bytearray(_CHUNK))
    offset = 0
    while count := os.preadv(fd, [buffer], offset):
        check()
        offset += count
        for hasher in hashers:
            hasher.update(buffer[:count])
        advance(count)
    return tuple(Digest(a, h.hexdigest()) for a, h in zip(algorithms, hashers, strict=True))


def sha256_file(path: Path) -> Digest:
    """Return the sha256 of a file; raises OSError as reading does."""
    return hash_file(path, "sha256")[0]


def try_reflink(source: Path, target: Path) -> bool:
    """Clone ``source`` to the new file ``target``; False if the file system can't (``target`` is removed then)."""
    try:
        with os.fdopen(open_regular(source, follow=True), "rb") as read, target.open("xb") as write:
            if clone_descriptor(read.fileno(), write.fileno()):
                return True
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
    with contextlib.suppress(OSError):
        target.unlink()
    return False


def can_reflink(source: Path, folder: Path) -> bool:
    """Whether ``source`` can be cloned into a folder; tried with a file that never gets a name."""
    try:
        with (
            os.fdopen(open_regular(source, follow=True), "rb") as read,
            os.fdopen(os.open(folder, os.O_TMPFILE | os.O_RDWR, PRIVATE_MODE), "wb") as write,
        ):
            return clone_descriptor(read.fileno(), write.fileno())
    except OSError:
        return False


def clone_descriptor(source: int, target: int) -> bool:
    """Clone ``source`` into the empty open file ``target``; False if the file system can't.

    Raises:
        OSError: The disk is full.
    """
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        return False
    return True


def copy_bytes(source: Path, target: Path) -> None:
    """Copy ``source`` to the new file ``target``, durably. Raises OSError; ``target`` is removed then."""
    try:
        with os.fdopen(open_regular(source, follow=True), "rb") as read, target.open("xb") as write:
            copy_descriptor(read.fileno(), write.fileno())
            os.fsync(write.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            target.unlink()
        raise


def copy_descriptor(source: int, target: int, check: Callable[[], None] = lambda: None) -> None:
    """Copy one open file into another, empty one; ``check`` is called periodically and may raise to abort.

    Raises:
        OSError: Reading or writing failed.
    """
    buffer = memoryview(bytearray(_CHUNK))
    offset = 0
    while count := os.preadv(source, [buffer], offset):
        check()
        write_all(target, buffer[:count])
        offset += count


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all bytes at the current position of an open file. Raises OSError."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
