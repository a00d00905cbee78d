"""Hash many files on disk in parallel, one per processor."""

from __future__ import annotations

import errno
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from modelfetch.core import fs
from modelfetch.core.check_progress import reporting_check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from modelfetch.core.cancel import Cancel
    from modelfetch.core.events import Sink

T = TypeVar("T")

_BUFFER = 1 << 20
_KEY = "check"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hashed:
    """The result of hashing a file, or its beginning: ``sha256:HEX`` with its size and mtime, or the disk's error."""

    file: Path
    digest: str | None = None
    size: int = 0
    mtime_ns: int = 0
    error: OSError | None = None

    @property
    def is_unreadable(self) -> bool:
        """Whether the disk failed to read the file, which then counts as damaged."""
        return self.error is not None and self.error.errno == errno.EIO


def hash_files(
    files: Sequence[tuple[Path, int, int | None]],
    *,
    sink: Sink,
    cancel: Cancel,
    done: Callable[[Hashed], None],
) -> None:
    """Hash files (path, size, how much of it at most) in order; pass each result to ``done``, in the calling thread.

    Raises:
        InterruptedSync: It was cancelled; finished results were passed on.
    """
    total = sum(size if most is None else min(size, most) for _, size, most in files)
    with reporting_check(sink, _KEY, "checking", size=total, files=len(files)) as advance:
        work = [partial(hash_one, file, most=most, advance=advance, check=cancel.check) for file, _, most in files]
        for result in in_threads(work):
            done(result)


def in_threads(work: Sequence[Callable[[], T]]) -> Iterator[T]:
    """Yield the results of functions that run in parallel, one per processor, as they finish."""
    processors = len(os.sched_getaffinity(0)) or 1
    pool = ThreadPoolExecutor(max_workers=max(1, min(len(work), processors)), thread_name_prefix="hash")
    try:
        tasks = [pool.submit(one) for one in work]
        for task in as_completed(tasks):
            yield task.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def hash_one(
    file: Path,
    *,
    most: int | None = None,
    advance: Callable[[int], None] = lambda _: None,
    check: Callable[[], None] = lambda: None,
) -> Hashed:
    """Hash one regular file; a disk error, or a change of the file while hashing, is part of the result.

    Args:
        file: The file.
        most: Bytes to read at most: to compare a file, one more than it should have is enough.
        advance: Called with the number of bytes of each piece.
        check: Called after each piece; raises to stop.
    """
    try:
        with fs.closing(fs.open_regular(file)) as fd:
            before = os.fstat(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            hasher = hashlib.sha256()
            buffer = memoryview(bytearray(_BUFFER))
            left = before.st_size + 1 if most is None else most
            while count := os.readv(fd, [buffer[:left]]):
                hasher.update(buffer[:count])
                left -= count
                advance(count)
                check()
            after = os.fstat(fd)
    except OSError as error:
        return Hashed(file=file, error=error)
    changed = (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns)
    digest = None if changed else f"sha256:{hasher.hexdigest()}"
    return Hashed(file=file, digest=digest, size=after.st_size, mtime_ns=after.st_mtime_ns)
