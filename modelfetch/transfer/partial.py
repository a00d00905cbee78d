"""A partial file and its journal: which bytes are there, and which of them are verified."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from typing import TYPE_CHECKING

import xxhash

from modelfetch.core.fs import (
    PRIVATE_MODE,
    PUBLIC_MODE,
    allocated_bytes,
    closing,
    open_regular,
    read_small,
    try_reflink,
)
from modelfetch.core.mounts import free_bytes
from modelfetch.core.temp_files import temporary_name
from modelfetch.core.units import format_size
from modelfetch.errors import DiskError
from modelfetch.store.chunks import CHUNK, chunk_count, chunk_span, read_into, xxh3
from modelfetch.store.locks.lock import LockLostError
from modelfetch.transfer.intervals import IntervalSet
from modelfetch.transfer.journal import ChunkChecksum, Identity, Journal, checksum_line, identity_line, parse_journal
from modelfetch.transfer.prefix_hash import PrefixHasher
from modelfetch.transfer.syscalls import allocate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_JOURNAL_LIMIT = 256 * 2**20
"""Bytes of a journal that are read: enough for several terabytes."""
_RESERVED_FROM = 2**20
"""Bytes from which on it is worth checking the space for a file before any of it is written."""


class Partial:
    """The partial file of one artifact. Its owner holds the lock of its key; a `SegmentWriter` writes to it.

    Args:
        path: ``ingest/KEY.part``; the journal is ``ingest/KEY.json``.
        algorithms: The digests to compute, ``sha256`` among them.
        size: The required size in bytes, if known.
        predecessor_may_be_alive: Whether a suspended owner may have it open: then work goes on in a copy.
        ensure_owned: Called before the journal is replaced or removed; raises LockLostError if the work is another
            process's by now.

    Raises (all methods):
        OSError: The disk failed.
    """

    def __init__(
        self,
        path: Path,
        *,
        algorithms: tuple[str, ...],
        size: int | None,
        predecessor_may_be_alive: bool = False,
        ensure_owned: Callable[[], None] = lambda: None,
    ) -> None:
        self.path = path
        self.size = self._required_size = size
        self.spans = IntervalSet()
        self.prefix = PrefixHasher(algorithms, size)
        self._lock = threading.Lock()
        self._journal_lock = threading.RLock()
        self._checksums: dict[int, ChunkChecksum] = {}
        self._journal_fd = -1
        self.reserved: int | None = None
        self._gone = False
        self._ensure_owned = ensure_owned
        journal = self._open(predecessor_may_be_alive=predecessor_may_be_alive)
        self.identity: Identity | None = journal.identity
        self._claimed = journal.checksums

    def _open(self, *, predecessor_may_be_alive: bool) -> Journal:
        """Open the file, and read the journal of one that was there."""
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self.fd = os.open(self.path, flags, PUBLIC_MODE)
            self._fresh = True
            return Journal()
        except FileExistsError:
            self._fresh = False
        if predecessor_may_be_alive or self.path.lstat().st_nlink > 1:  # a run was killed that had just stored it
            _move_to_new_inode(self.path, read_journal(self.path))
        self.fd = open_regular(self.path, os.O_RDWR | os.O_CREAT, PUBLIC_MODE)
        return read_journal(self.path)

    @functools.cached_property
    def _journal_path(self) -> Path:
        return self.path.with_suffix(".json")

    # --- resuming ----------------------------------------------------------------------------------------------

    def trust(self) -> int:
        """Compare the journal with the bytes that are there; returns how many bytes are verified."""
        for first in sorted(self._claimed):
            checksum = self._claimed[first]
            start, end = checksum.span
            if (self.size is not None and end > self.size) or self.spans.covers(start, end):
                continue
            if self._verify(checksum):
                self._checksums[first] = checksum
                self.spans.add(start, end)
        self._claimed = {}
        if not self._fresh:
            self._rewrite_journal()
        return self.spans.total

    def _verify(self, checksum: ChunkChecksum) -> bool:
        """Verify a claimed range; its bytes are also added to the file's digest while there is no gap before it."""
        start, end = checksum.span
        if start != self.prefix.position:
            return xxh3(self.fd, start, end) == checksum.xxh3
        before = self.prefix.trial()
        state = xxhash.xxh3_64()
        whole = read_into(self.fd, start, end, state.update, lambda data: self.prefix.feed(self.prefix.position, data))
        if whole and state.hexdigest() == checksum.xxh3:
            return True
        self.prefix.restore(before)
        return False

    def distrust(self) -> None:
        """Discard all bytes, on disk too."""
        with self._lock:
            self.spans = IntervalSet()
            self._checksums.clear()
            self._claimed = {}
            self.identity = self.reserved = None
            self.size = self._required_size
            os.ftruncate(self.fd, 0)
        self.prefix.reset()
        if self._journal_fd >= 0:
            self._rewrite_journal()

    def identify(self, identity: Identity) -> None:
        """Record which version the following bytes are of."""
        if identity != self.identity:
            self.identity = identity
            if self._journal_fd >= 0:
                self._append(identity_line(identity))

    # --- writing -----------------------------------------------------------------------------------------------

    def reserve(self, size: int) -> None:
        """Reserve space for the whole file, in contiguous blocks where the file system can.

        Raises:
            DiskError: There is not enough space (``no-space``).
        """
        self.size = self.reserved = size
        if size < _RESERVED_FROM and self._fresh:
            return  # the write itself fails if there is no space
        stat = os.fstat(self.fd)
        needed = size - allocated_bytes(stat)
        free = free_bytes(self.path.parent)
        if free is not None and needed > free:
            raise DiskError(
                f"{self.path.parent} has {format_size(free)} left, {format_size(needed)} more are needed",
                code="no-space",
                hint="make room and run again: what was fetched is kept",
            )
        if stat.st_size > size:
            os.ftruncate(self.fd, size)
        if size >= CHUNK and needed > 0:
            allocate(self.fd, size)

    def written(self, start: int, end: int, checksums: tuple[ChunkChecksum, ...] = ()) -> None:
        """Record a range as written; `checksums` are those that were computed on the way."""
        with self._lock:
            self.spans.add(start, end)
            touched = range(start // CHUNK, (end - 1) // CHUNK + 1)
            self._checksums |= {checksum.span[0]: checksum for checksum in checksums}
            late = [found for index in touched if (found := self._completed(index)) is not None]
            self._checksums |= {checksum.span[0]: checksum for checksum in late}
            # A file that arrived in one go is verified as a whole next: it needs no journal.
            needless = self._journal_fd < 0 and self.size is not None and self.spans.covers(0, self.size)
        if (checksums or late) and not needless:
            self._append(b"".join(map(checksum_line, (*checksums, *late))))

    def _completed(self, index: int) -> ChunkChecksum | None:
        """Return the checksum of a complete chunk that was not hashed in one go, as several connections wrote to it."""
        if self.size is None:
            return None
        start, end = chunk_span(index, self.size)
        known = self._checksums.get(start)
        if (known is not None and known.length == end - start) or not self.spans.covers(start, end):
            return None
        digest = xxh3(self.fd, start, end)
        return ChunkChecksum(chunk=index, length=end - start, xxh3=digest) if digest else None

    def reach(self, position: int) -> int:
        """Return the end of the contiguous bytes from a position on."""
        with self._lock:
            return self.spans.reach(position)

    def missing(self) -> list[tuple[int, int | None]]:
        """Return the missing ranges in order; the last end is None while the size is unknown."""
        with self._lock:
            if self.size is None:  # what is there is not written again: it may have been hashed
                return [*self.spans.missing(self.spans.end), (self.spans.end, None)]
            return list(self.spans.missing(self.size))

    @property
    def total(self) -> int:
        """The number of bytes that are there."""
        with self._lock:
            return self.spans.total

    def is_complete(self) -> bool:
        """Whether the size is known and every byte is there."""
        with self._lock:
            return self.size is not None and self.spans.covers(0, self.size)

    def chunks(self) -> tuple[str, ...]:
        """Return the xxh3 of each chunk of the complete file."""
        size = self.size or 0
        found = []
        for index in range(chunk_count(size)):
            start, end = chunk_span(index, size)
            checksum = self._checksums.get(start)
            known = (
                checksum.xxh3 if checksum is not None and checksum.length == end - start else xxh3(self.fd, start, end)
            )
            found.append(known or "")
        return tuple(found)

    # --- ending ------------------------------------------------------------------------------------------------

    def admitted(self) -> None:
        """The file has become a blob: remove its journal."""
        self._gone = True
        if self._journal_fd >= 0 or not self._fresh:
            self._remove_journal()

    def close(self, *, keep: bool) -> None:
        """Close the file; free blocks beyond its last byte, or remove it and its journal unless ``keep``.

        If another process has taken over, its files are left alone.
        """
        with contextlib.suppress(OSError, LockLostError):
            if self._gone:
                pass
            elif not keep or self.spans.total == 0:
                self._ensure_owned()
                if os.path.samestat(os.fstat(self.fd), self.path.lstat()):
                    self.path.unlink()
                self._remove_journal()
            else:
                if self._journal_fd < 0:
                    self._rewrite_journal()
                if not self.is_complete() and os.fstat(self.fd).st_size > self.spans.end:
                    os.ftruncate(self.fd, self.spans.end)
        for fd in (self.fd, self._journal_fd):
            with contextlib.suppress(OSError):  # of no file, or of bytes that are checked before they are used
                os.close(fd)

    # --- the journal -------------------------------------------------------------------------------------------

    def _append(self, lines: bytes) -> None:
        with self._journal_lock:
            if self._journal_fd < 0:
                self._rewrite_journal()
            os.write(self._journal_fd, lines)

    def _rewrite_journal(self) -> None:
        """Replace the journal by the verified state: a new file, which no earlier owner has open.

        Its URL may have a query, so it is private. Other users can't resume the download anyway: the partial file is
        writable for its owner only.
        """
        with self._journal_lock:
            self._ensure_owned()
            lines = [identity_line(self.identity)] if self.identity else []
            lines += [checksum_line(checksum) for _, checksum in sorted(dict(self._checksums).items())]
            temporary = self.path.with_name(temporary_name())
            fd = os.open(
                temporary,
                os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC,
                PRIVATE_MODE,
            )
            try:
                os.write(fd, b"".join(lines))
                temporary.replace(self._journal_path)
            except BaseException:
                os.close(fd)
                temporary.unlink(missing_ok=True)
                raise
            if self._journal_fd >= 0:
                os.close(self._journal_fd)
            self._journal_fd = fd

    def _remove_journal(self) -> None:
        with contextlib.suppress(LockLostError):
            self._ensure_owned()
            self._journal_path.unlink(missing_ok=True)


def read_journal(partial: Path) -> Journal:
    """Read the journal of a partial file; empty if there is none, or it can't be read."""
    try:
        return parse_journal(read_small(partial.with_suffix(".json"), _JOURNAL_LIMIT))
    except OSError:
        return Journal()


def _move_to_new_inode(path: Path, journal: Journal) -> None:
    """Replace a partial file by a copy, so that a process that has the old one open can't write into ours."""
    if not path.exists():
        return
    copy = path.with_name(temporary_name())
    try:
        if not try_reflink(path, copy):
            with closing(open_regular(path)) as fd, copy.open("xb") as write:
                for checksum in journal.checksums.values():
                    start, end = checksum.span
                    write.seek(start)
                    read_into(fd, start, end, write.write)
        copy.replace(path)
    finally:
        copy.unlink(missing_ok=True)
