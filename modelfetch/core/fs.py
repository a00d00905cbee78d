"""The few ways in which modelfetch touches a file system: durable, atomic, with modes that no umask changes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING

from modelfetch.core.digest import Digest, Hasher, new_hasher
from modelfetch.core.events import Notice, Sink
from modelfetch.errors import DestinationError, DiskError, ModelfetchError

if TYPE_CHECKING:
    from pathlib import Path

DIRECTORY_MODE = 0o755
COPY_MODE = 0o644
BLOB_MODE = 0o444

_FICLONE = 0x40049409  # ioctl number of FICLONE (source: linux/fs.h)
_CHUNK = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_IN_THE_WAY = (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENXIO)
_NOT_SUPPORTED = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY)

Refused = Callable[[str, OSError], None]
"""Called with the name of an operation (``chmod``) that a file system refused though nothing depends on it."""


def translate(error: OSError, path: object, *, doing: str) -> ModelfetchError:
    """The typed error for what the operating system said of ``path``."""
    name = error.filename if isinstance(error.filename, str) and error.filename else path
    reason = error.strerror or type(error).__name__
    if error.errno in _FULL:
        return DiskError(
            f"{doing} {name}: {reason}", code="no-space", hint="make room and run again: what was fetched is kept"
        )
    if error.errno in _REFUSED:
        return DestinationError(f"{doing} {name}: {reason}", hint=f"it must be writable for uid {os.geteuid()}")
    if error.errno in _IN_THE_WAY:
        return DestinationError(
            f"{doing} {name}: {reason}",
            code="foreign-file",
            hint="something that modelfetch did not make is in the way: move it",
        )
    if error.errno == errno.ENOENT:
        return DiskError(f"{doing} {name}: {reason}", hint="is its folder there, and is the disk mounted?")
    return DiskError(f"{doing} {name}: {reason}")


def ignore_refusal(operation: str, error: OSError) -> None:
    """For callers that do not report what a file system refuses."""


class RefusalReporter:
    """Reports each kind of refused operation once, as a warning.

    Args:
        sink: Where the `Notice` goes.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._reported: set[tuple[str, int | None]] = set()

    def __call__(self, operation: str, error: OSError) -> None:
        """Report that ``operation`` was refused, unless that was reported before."""
        kind = (operation, error.errno)
        if kind not in self._reported:
            self._reported.add(kind)
            name = f" of {error.filename}" if isinstance(error.filename, str) else ""
            text = f"this file system refuses {operation}{name} ({error.strerror}): going on without it"
            self._sink(Notice(level="warning", message=text))


def try_chmod(target: int | Path, mode: int, *, refused: Refused = ignore_refusal) -> None:
    """Change the mode of a file or folder where the file system can; raises other OSErrors than a refusal."""
    _try("chmod", lambda: os.chmod(target, mode), (*_NOT_SUPPORTED, *_REFUSED), refused)  # noqa: PTH101 - may be an fd


def try_chown(target: int | Path, owner: tuple[int, int], *, refused: Refused = ignore_refusal) -> None:
    """Change the owner (uid, gid) where the file system can; raises other OSErrors than a refusal."""
    _try("chown", lambda: os.chown(target, *owner), (*_NOT_SUPPORTED, *_REFUSED), refused)


def try_fsync(fd: int, *, refused: Refused = ignore_refusal) -> None:
    """Make a file durable where the file system can; raises OSError where the disk fails or is full."""
    _try("fsync", lambda: os.fsync(fd), (*_NOT_SUPPORTED, errno.EPERM), refused)


def _try(operation: str, call: Callable[[], None], refusals: tuple[int, ...], refused: Refused) -> None:
    try:
        call()
    except OSError as error:
        if error.errno not in refusals:
            raise
        refused(operation, error)


def open_regular(path: Path, flags: int = os.O_RDONLY, mode: int = COPY_MODE) -> int:
    """Open a regular file of our own and return its descriptor; never waits for a FIFO, never follows a link.

    Raises:
        FileExistsError: Something else lies there (a FIFO, a device, a socket).
        IsADirectoryError: A folder lies there, and it was to be written.
        OSError: As `os.open` does; ELOOP for a link.
    """
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, mode)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise FileExistsError(errno.EEXIST, "not a regular file", str(path))


def read_small(path: Path, limit: int) -> bytes:
    """The bytes of a small file of our own; raises as `open_regular` does, and OSError (EFBIG) for a larger file."""
    fd = open_regular(path)
    try:
        data = bytearray()
        while piece := os.read(fd, limit + 1 - len(data)):
            data += piece
    finally:
        os.close(fd)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"more than {limit} bytes", str(path))
    return bytes(data)


def make_directory(path: Path, *, owner: tuple[int, int] | None = None) -> None:
    """Make ``path`` and its missing parents with mode 0755 whatever the umask, owned by ``owner`` (uid, gid) if given.

    Raises:
        OSError: The system refused.
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
            continue  # another process was faster
        try_chmod(folder, DIRECTORY_MODE)
        if owner:
            try_chown(folder, owner)


def sync_directory(path: Path) -> None:
    """Make what was renamed in a folder durable; file systems that can't are left alone."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def write_atomically(
    path: Path, data: bytes, *, mode: int, temporary: Path, owner: tuple[int, int] | None = None
) -> None:
    """Write ``data`` to ``temporary`` (same file system), fsync, and rename it to ``path``.

    Raises:
        OSError: The system refused; nothing is left behind then.
    """
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            if owner:
                os.fchown(file.fileno(), *owner)
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_directory(path.parent)


def hash_file(path: Path, *algorithms: str, check: Callable[[], None] = lambda: None) -> tuple[Digest, ...]:
    """The digests of a file's bytes, read once; ``check`` is called now and then, and may raise to end it.

    Raises:
        OSError: It can't be read.
    """
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        hashers: list[Hasher] = [new_hasher(algorithm, size) for algorithm in algorithms]
        buffer = memoryview(bytearray(_CHUNK))
        while count := file.readinto(buffer):
            check()
            for hasher in hashers:
                hasher.update(buffer[:count])
    return tuple(Digest(a, h.hexdigest()) for a, h in zip(algorithms, hashers, strict=True))


def sha256_file(path: Path) -> Digest:
    """The sha256 of a file's bytes; raises OSError as reading does."""
    with path.open("rb") as file:
        return Digest("sha256", hashlib.file_digest(file, "sha256").hexdigest())


def try_reflink(source: Path, target: Path) -> bool:
    """Let ``target`` (new) share ``source``'s blocks; False where the file system can't (``target`` is gone then)."""
    try:
        with source.open("rb") as read, target.open("xb") as write:
            fcntl.ioctl(write.fileno(), _FICLONE, read.fileno())
    except OSError as error:
        if error.errno in _FULL:
            raise
        with contextlib.suppress(OSError):
            target.unlink()
        return False
    return True


def copy_bytes(source: Path, target: Path) -> None:
    """Copy ``source`` to the new file ``target``, durably. Raises OSError; ``target`` is gone then."""
    try:
        with source.open("rb") as read, target.open("xb") as write:
            shutil.copyfileobj(read, write, _CHUNK)
            write.flush()
            os.fsync(write.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            target.unlink()
        raise


def own_folder(root: Path) -> Path:
    """The folder below ROOT for what concerns this ROOT alone; the store too, unless told otherwise."""
    return root / ".modelfetch"
