"""The few ways in which modelfetch touches a file system: durable, atomic, with modes that no umask changes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
from typing import TYPE_CHECKING

from modelfetch.core.digest import Digest, Hasher, new_hasher
from modelfetch.errors import DestinationError, DiskError, ModelfetchError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DIRECTORY_MODE = 0o755
COPY_MODE = 0o644
BLOB_MODE = 0o444

_FICLONE = 0x40049409  # ioctl number of FICLONE (source: linux/fs.h)
_CHUNK = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_IN_THE_WAY = (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP)


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
        folder.chmod(DIRECTORY_MODE)
        if owner:
            os.chown(folder, *owner)


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
