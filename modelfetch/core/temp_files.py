"""Temporary files: their names, the removal of abandoned ones, and files that are replaced as a whole by a rename."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from modelfetch.core.directories import exchange, rename_new, sync_directory
from modelfetch.core.fs import PRIVATE_MODE, REFUSED, finish_file, read_head
from modelfetch.errors import DestinationError, DiskError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_PREFIX, _SUFFIX = ".modelfetch-", ".part"
_ABANDONED_AFTER = 3600.0  # seconds


def temporary_name(stem: str = "") -> str:
    """Return a new name for an unfinished file: hidden, unique, with this process's pid (see `sweep_temporaries`).

    Args:
        stem: Its purpose, in letters and digits.
    """
    return f"{_PREFIX}{stem and stem + '-'}{os.getpid()}-{secrets.token_hex(6)}{_SUFFIX}"


def is_temporary_name(name: str, *, stem: str = "") -> bool:
    """Whether a file's name is one of `temporary_name`, for any purpose if ``stem`` is empty."""
    return name.startswith(f"{_PREFIX}{stem and stem + '-'}") and name.endswith(_SUFFIX)


def sweep_temporaries(
    folder: int | Path, *, stem: str = "", locked: Iterable[str] = (), older: str | None = None
) -> None:
    """Remove temporary files that killed processes left in a folder, once they are an hour old.

    A pid does not identify processes in other containers that use the folder, so only its age shows that a file is
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
    path: Path,
    data: bytes,
    *,
    mode: int,
    temporary: Path | None = None,
    owner: tuple[int, int] | None = None,
    rename: Callable[[Path, Path], object] | None = None,
    confirm: Callable[[], None] = lambda: None,
) -> None:
    """Write ``data`` to a temporary file next to ``path``, fsync it, and rename it to ``path``.

    Args:
        path: The target; a regular file or missing.
        data: All of its bytes.
        mode: Its mode, whatever the umask.
        temporary: The temporary file, on the same file system; next to ``path`` by default.
        owner: (uid, gid), if different from this process's.
        rename: Renames the temporary file; by default, it replaces the target.
        confirm: Called right before the rename; raises if it must not take place.

    Raises:
        OSError: It can't be written; no temporary file remains.
    """
    temporary = temporary or path.with_name(temporary_name())
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE_MODE)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            finish_file(file.fileno(), mode=mode, owner=owner)
        confirm()
        if rename is None:
            require_replaceable(path)
            temporary.replace(path)
        else:
            rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_directory(path.parent)


def replace_document(
    path: Path, data: bytes, *, before: bytes | None, mode: int, owner: tuple[int, int] | None = None
) -> None:
    """Replace a user's file as `write_atomically` does, or in place if a rename is not possible.

    ``before`` is the content that the new one was made from; None if the file did not exist. If it has another content
    now, another program has written it, and it stays as it is.

    A single file that is mounted into a container refuses a rename (EBUSY), and its folder may be read-only or another
    user's. It is then overwritten, if it is writable; until that is done a copy exists next to it or in the temporary
    folder.

    Raises:
        DestinationError: It was changed meanwhile.
        DiskError: It could be written only partly, in place; the message names the copy of what was in it.
        OSError: It can't be written; its content is unchanged.
    """

    def rename(source: Path, target: Path) -> None:
        _rename_over(source, target, before)

    with contextlib.suppress(OSError):
        sweep_temporaries(path.parent, stem="document")
    temporary = path.with_name(temporary_name("document"))
    try:
        write_atomically(path, data, mode=mode, temporary=temporary, owner=owner, rename=rename)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EXDEV, *REFUSED) or before is None or not os.access(path, os.W_OK):
            raise
        _require_content(path, before, path)
        backup = _back_up(path, before)
        try:
            _overwrite(path, data)
        except BaseException:
            _restore(path, before, backup)
            raise
        backup.unlink(missing_ok=True)


def _restore(path: Path, before: bytes, backup: Path) -> None:
    try:
        _overwrite(path, before)
    except OSError as error:
        message = f"{path} was only partly written, and can't be restored: {error.strerror}"
        raise DiskError(message, hint=f"what was in it is in {backup}") from error
    backup.unlink(missing_ok=True)


def _rename_over(source: Path, target: Path, before: bytes | None) -> None:
    """Rename a file over one with the content ``before``, or to an unused name if it is None."""
    if before is None:
        try:
            rename_new(str(source), str(target))
        except FileExistsError:
            raise _changed_error(target) from None
        return
    _require_content(target, before, target)
    if not exchange(str(source), str(target)):
        source.replace(target)
        return
    try:
        _require_content(source, before, target)  # the old file, whatever it was at that moment
    except DestinationError:
        exchange(str(source), str(target))
        raise
    source.unlink()


def _require_content(path: Path, expected: bytes, shown: Path) -> None:
    with contextlib.suppress(OSError):
        if not path.is_symlink() and read_head(path, len(expected) + 1) == expected:
            return
    raise _changed_error(shown)


def _changed_error(path: Path) -> DestinationError:
    return DestinationError(
        f"{path} was changed by another program meanwhile, so it was not overwritten", hint="run it again"
    )


def _back_up(path: Path, data: bytes) -> Path:
    for folder in (path.parent, Path(tempfile.gettempdir())):
        backup = folder / f".{path.name}.{secrets.token_hex(6)}.bak"
        try:
            fd = os.open(backup, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_MODE)
        except OSError as error:
            failure = error
            continue
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
        except OSError as error:
            failure = error
            backup.unlink(missing_ok=True)
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
