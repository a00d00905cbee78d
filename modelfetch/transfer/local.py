"""The ``file:`` source: copy a local file into a partial file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from modelfetch.core import fs
from modelfetch.core.os_errors import missing_file_error, not_a_file_error
from modelfetch.errors import IntegrityError, UnreachableError
from modelfetch.transfer.journal import Identity
from modelfetch.transfer.range_request import size_error
from modelfetch.transfer.writer import SegmentWriter

if TYPE_CHECKING:
    from collections.abc import Callable

    from modelfetch.core.artifact import Artifact, Location
    from modelfetch.core.cancel import Cancel
    from modelfetch.transfer.partial import Partial
    from modelfetch.transfer.types import Context

_PIECE = 2**20


def copy_file(
    context: Context,
    artifact: Artifact,
    location: Location,
    partial: Partial,
    *,
    cancel: Cancel,
    progress: Callable[[int], None],
) -> None:
    """Copy what is missing of a partial file from a local file.

    Args:
        context: The state that all transfers share.
        artifact: The artifact; with a digest, bytes of another version may stay, as the whole file is verified.
        location: The location of the file.
        partial: The partial file to complete.
        cancel: Ends it when it is set.
        progress: Called with the number of bytes copied.

    Raises:
        NotFoundError: There is no such file.
        UnreachableError: It can't be read, so another location is tried.
        IntegrityError: It has another size, or changed meanwhile.
        InterruptedSync: It was cancelled.
        OSError: The store's disk failed.
    """
    path = location.local_path
    try:
        fd = fs.open_regular(path, follow=True)
    except (FileNotFoundError, NotADirectoryError):
        raise missing_file_error(path).about(uri=location.uri) from None
    except FileExistsError:
        raise not_a_file_error(path).about(uri=location.uri) from None
    except OSError as error:
        raise _unreadable(location, error) from None
    with fs.closing(fd):
        stat = os.fstat(fd)
        if artifact.size is not None and stat.st_size != artifact.size:
            raise size_error(str(path), found=stat.st_size, expected=artifact.size)
        identity = _identity(location, stat)
        if partial.identity != identity and artifact.digest is None:
            partial.distrust()
        partial.identify(identity)
        partial.reserve(stat.st_size)
        for start, end in partial.missing():
            _copy_range(context, fd, location, partial, start, end or stat.st_size, cancel, progress)
        if _identity(location, os.fstat(fd)) != identity:
            raise IntegrityError(f"{path} changed while it was copied", code="size-mismatch", uri=location.uri)


def read_head(location: Location, length: int) -> bytes:
    """Return the first bytes of a local file; none if it can't be read, which `copy_file` reports."""
    try:
        return fs.read_head(location.local_path, length)
    except OSError:
        return b""


def _identity(location: Location, stat: os.stat_result) -> Identity:
    version = f'"{stat.st_ino}-{stat.st_mtime_ns}"'
    return Identity(uri=location.uri, url=location.url, etag=version, size=stat.st_size)


def _unreadable(location: Location, error: OSError) -> UnreachableError:
    return UnreachableError(f"{location.local_path} can't be read: {error.strerror}", uri=location.uri, permanent=True)


def _copy_range(
    context: Context,
    fd: int,
    location: Location,
    partial: Partial,
    start: int,
    end: int,
    cancel: Cancel,
    progress: Callable[[int], None],
) -> None:
    writer = SegmentWriter(partial, start)
    buffer = memoryview(bytearray(min(_PIECE, max(end - start, 1))))
    try:
        while writer.position < end:
            cancel.check()
            try:
                count = os.preadv(fd, [buffer[: min(len(buffer), end - writer.position)]], writer.position)
            except OSError as error:
                raise _unreadable(location, error) from None
            if count == 0:
                return
            writer.take(buffer[:count])
            progress(count)
            context.limiter.take(count, cancel)
    finally:
        writer.close()
