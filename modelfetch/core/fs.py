"""File system primitives: durable and atomic writes, fixed modes regardless of umask, renames that never overwrite."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import re
import secrets
import stat
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from modelfetch.core.digest import Digest, Hasher, new_hasher
from modelfetch.core.events import Notice, Sink
from modelfetch.core.limits import limit_error
from modelfetch.core.units import format_size
from modelfetch.errors import DestinationError, DiskError, ModelfetchError

if TYPE_CHECKING:
    from collections.abc import Iterable

DIRECTORY_MODE = 0o755
COPY_MODE = 0o644
BLOB_MODE = 0o444
PRIVATE_MODE = 0o600
"""The mode of files that may hold private data, such as receipts."""

_FICLONE = 0x40049409  # ioctl number of FICLONE (source: linux/fs.h)
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2  # flags of renameat2 (source: linux/fs.h)
_OPENAT2 = 437  # number of the system call on all common architectures (source: asm-generic/unistd.h)
_CURRENT_FOLDER = -100  # AT_FDCWD (source: linux/fcntl.h)
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_RESOLVE = 0x02 | 0x04 | 0x08  # NO_MAGICLINKS, NO_SYMLINKS, BENEATH (source: linux/openat2.h)
_CHUNK = 1 << 20
_INHERITED = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")
_ABANDONED_AFTER = 3600.0  # seconds
_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_IN_THE_WAY = (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENXIO)
_TEMPORARY_PREFIX, _TEMPORARY_SUFFIX = ".modelfetch-", ".part"
_NOT_SUPPORTED = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY)

Refused = Callable[[str, OSError], None]
"""Called with the name of an optional operation (``chmod``) that a file system refused."""


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
    if error.errno in _FULL:
        return DiskError(
            f"{doing} {name}: {reason}{_space_left(Path(str(name)), needed)}",
            code="no-space",
            hint="make room and run again: what was fetched is kept",
        )
    if error.errno == errno.EFBIG:
        return DiskError(
            f"{doing} {name}: {reason}",
            code="file-too-large",
            hint="FAT takes files of less than 4 GiB: put ROOT on another file system (or see `ulimit -f`)",
        )
    if error.errno in _REFUSED:
        return DestinationError(f"{doing} {name}: {reason}", hint=writable_hint(Path(str(name))))
    if error.errno in _IN_THE_WAY:
        return DestinationError(
            f"{doing} {name}: {reason}",
            code="foreign-file",
            hint="something that modelfetch did not make is in the way: move it away, or choose another path",
        )
    if error.errno == errno.ENOENT:
        return DiskError(f"{doing} {name}: {reason}", hint="is its folder there, and is the disk mounted?")
    return DiskError(f"{doing} {name}: {reason}")


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


def writable_hint(path: Path) -> str:
    """What to do so that a path can be written."""
    with contextlib.suppress(OSError, ValueError):
        folder = nearest_existing_parent(path)
        if os.statvfs(folder).f_flag & os.ST_RDONLY:
            return f"{folder} is mounted read-only: mount it for writing (in a compose file, without `:ro`)"
    return f"it must be writable for uid {os.geteuid()}"


def _space_left(path: Path, needed: int | None) -> str:
    """The space on a path's file system as the end of a message, empty if it does not tell."""
    try:
        disk = os.statvfs(nearest_existing_parent(path))
    except (OSError, ValueError):
        return ""
    if not disk.f_blocks:
        return ""
    if disk.f_files and not disk.f_favail:
        return "; it has no inodes left (`df -i`)"
    more = f", {format_size(needed)} more needed" if needed else ""
    return f"; {format_size(disk.f_bavail * disk.f_frsize)} free{more}"


def ignore_refusal(operation: str, error: OSError) -> None:
    """Ignore what a file system refuses, for callers that do not report it."""


class RefusalReporter:
    """Reports each kind of refused operation once, as a warning.

    Args:
        sink: Receives the `Notice`.
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
    """Change the mode of a file or folder if the file system supports it; raises any OSError but a refusal."""
    _try("chmod", lambda: os.chmod(target, mode), (*_NOT_SUPPORTED, *_REFUSED), refused)  # noqa: PTH101 - may be an fd


def try_chown(target: int | Path, owner: tuple[int, int], *, refused: Refused = ignore_refusal) -> None:
    """Change the owner (uid, gid) if the file system supports it; raises any OSError but a refusal."""
    _try("chown", lambda: os.chown(target, *owner), (*_NOT_SUPPORTED, *_REFUSED), refused)


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
        OSError: As `os.open` does; ELOOP for a symlink.
    """
    flags |= os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    fd = os.open(path, flags, mode, dir_fd=folder)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise FileExistsError(errno.EEXIST, "not a regular file", str(path))


def read_small(path: Path, limit: int) -> bytes:
    """Return the bytes of a small file of our own; raises as `open_regular`, and OSError (EFBIG) for a larger file."""
    fd = open_regular(path)
    try:
        data = bytearray()
        if os.fstat(fd).st_size > limit:
            raise OSError(errno.EFBIG, f"more than {limit} bytes", str(path))
        while piece := os.read(fd, limit + 1 - len(data)):
            data += piece
    finally:
        os.close(fd)
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
        try_chmod(folder, DIRECTORY_MODE)
        if owner:
            try_chown(folder, owner)


def sync_directory(path: Path) -> None:
    """Make the names in a folder durable, if the file system supports it."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def temporary_name(stem: str = "") -> str:
    """Return a new name for an unfinished file: hidden, unique, with this process's pid (see `sweep_temporaries`).

    Args:
        stem: Its purpose, in letters and digits.
    """
    return f"{_TEMPORARY_PREFIX}{stem and stem + '-'}{os.getpid()}-{secrets.token_hex(6)}{_TEMPORARY_SUFFIX}"


def is_temporary_name(name: str, *, stem: str = "") -> bool:
    """Whether a file's name is one of `temporary_name`, for any purpose if ``stem`` is empty."""
    return name.startswith(f"{_TEMPORARY_PREFIX}{stem and stem + '-'}") and name.endswith(_TEMPORARY_SUFFIX)


def sweep_temporaries(
    folder: int | Path, *, stem: str = "", locked: Iterable[str] = (), older: str | None = None
) -> None:
    """Remove temporary files that killed processes left in a folder, once they are an hour old.

    A pid says nothing about processes in other containers that use the folder, so only age tells that a file is
    abandoned.

    Args:
        folder: The folder, or its descriptor.
        stem: Only files of this purpose, in a folder that is not modelfetch's own.
        locked: Prefixes of names reserved for the holder of the caller's lock: these files are removed immediately.
        older: A regular expression for names that earlier versions used in this folder.

    Raises:
        OSError: The folder can't be listed.
    """
    prefixes = tuple(locked)
    oldest = time.time() - _ABANDONED_AFTER
    with contextlib.ExitStack() as closing:
        if isinstance(folder, Path):
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            closing.callback(os.close, fd)
        else:
            fd = folder
        for name in os.listdir(fd):  # noqa: PTH208 - a descriptor
            if not is_temporary_name(name, stem=stem) and (older is None or not re.fullmatch(older, name)):
                continue
            with contextlib.suppress(OSError):
                found = os.lstat(name, dir_fd=fd)
                mine = bool(prefixes) and name.startswith(prefixes)
                if not stat.S_ISDIR(found.st_mode) and (mine or found.st_ctime < oldest):
                    os.unlink(name, dir_fd=fd)


def write_atomically(
    path: Path, data: bytes, *, mode: int, temporary: Path | None = None, owner: tuple[int, int] | None = None
) -> None:
    """Write ``data`` to a temporary file next to ``path``, fsync it, and rename it to ``path``.

    Args:
        path: The target; a regular file or missing.
        data: All of its bytes.
        mode: Its mode, whatever the umask.
        temporary: The temporary file, on the same file system; next to ``path`` by default.
        owner: (uid, gid), if different from this process's.

    Raises:
        OSError: It can't be written; no temporary file remains.
    """
    temporary = temporary or path.with_name(temporary_name())
    require_replaceable(path)
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE_MODE)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            finish_file(file.fileno(), mode=mode, owner=owner)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_directory(path.parent)


def replace_document(path: Path, data: bytes, *, mode: int, owner: tuple[int, int] | None = None) -> None:
    """Replace a user's file as `write_atomically` does, or in place if a rename is not possible.

    A single file that is mounted into a container refuses a rename (EBUSY). It is then overwritten; until that is done
    a copy exists next to it or in the temporary folder.

    Raises:
        OSError: It can't be written; its content is unchanged.
    """
    with contextlib.suppress(OSError):
        sweep_temporaries(path.parent, stem="document")
    temporary = path.with_name(temporary_name("document"))
    try:
        write_atomically(path, data, mode=mode, temporary=temporary, owner=owner)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EXDEV):
            raise
        before = path.read_bytes()
        backup = _back_up(path, before)
        try:
            _overwrite(path, data)
        except OSError:
            _overwrite(path, before)
            raise
        finally:
            backup.unlink(missing_ok=True)


def _back_up(path: Path, data: bytes) -> Path:
    for folder in (path.parent, Path(tempfile.gettempdir())):
        backup = folder / f".{path.name}.{os.getpid()}.bak"
        try:
            fd = os.open(backup, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_MODE)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
        except OSError as error:
            failure = error
        else:
            return backup
    raise failure


def _overwrite(path: Path, data: bytes) -> None:
    with path.open("r+b") as file:
        file.write(data)
        file.truncate()
        file.flush()
        with contextlib.suppress(OSError):
            os.fsync(file.fileno())


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


def require_replaceable(path: Path) -> None:
    """Check that ``path`` is a regular file or missing, so that a rename may replace it.

    Raises:
        FileExistsError: It is a folder, link, device, FIFO or socket.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise FileExistsError(errno.EEXIST, "something that is not a regular file is in the way", str(path))


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


def exchange(source: str, target: str, *, source_folder: int, target_folder: int) -> bool:
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
    return _libc_function(
        "syscall", ctypes.c_long, ctypes.c_long, ctypes.c_long, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t
    )


@functools.cache
def _load_renameat2() -> Callable[[int, bytes, int, bytes, int], int] | None:
    return _libc_function(
        "renameat2", ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint
    )


def _libc_function(name: str, result: type, *arguments: type) -> Callable[..., int] | None:
    """Return a function of the C library with these types; None if the library does not have it."""
    try:
        function = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (OSError, AttributeError):
        return None
    function.argtypes, function.restype = arguments, result
    return cast("Callable[..., int]", function)


def hash_file(path: Path, *algorithms: str, check: Callable[[], None] = lambda: None) -> tuple[Digest, ...]:
    """Return the digests of a file, read once; ``check`` is called periodically and may raise to abort.

    Raises:
        OSError: It can't be read.
    """
    fd = open_regular(path, follow=True)
    try:
        return hash_descriptor(fd, *algorithms, check=check)
    finally:
        os.close(fd)


def hash_descriptor(
    fd: int,
    *algorithms: str,
    check: Callable[[], None] = lambda: None,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[Digest, ...]:
    """Return the digests of an open file from its beginning, as `hash_file` does.

    ``advance`` is called with the number of bytes of each piece.
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
        with source.open("rb") as read, target.open("xb") as write:
            if clone_descriptor(read.fileno(), write.fileno()):
                return True
    except OSError as error:
        if error.errno in _FULL:
            raise
    with contextlib.suppress(OSError):
        target.unlink()
    return False


def clone_descriptor(source: int, target: int) -> bool:
    """Clone ``source`` into the empty open file ``target``; False if the file system can't.

    Raises:
        OSError: The disk is full.
    """
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in _FULL:
            raise
        return False
    return True


def copy_bytes(source: Path, target: Path) -> None:
    """Copy ``source`` to the new file ``target``, durably. Raises OSError; ``target`` is removed then."""
    try:
        with source.open("rb") as read, target.open("xb") as write:
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


def own_folder(root: Path) -> Path:
    """Return ROOT's folder for its own data; also the store's default location."""
    return root / ".modelfetch"
