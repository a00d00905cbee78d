"""Write one connection's bytes to a partial file."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import xxhash

from modelfetch.store.chunks import CHUNK, read_into
from modelfetch.transfer.journal import ChunkChecksum
from modelfetch.transfer.syscalls import write_all

if TYPE_CHECKING:
    from modelfetch.transfer.partial import Partial

_STEP = CHUNK // 16
"""Bytes between two journal entries for an unfinished chunk: the most that a kill costs a connection."""


class SegmentWriter:
    """Writes one connection's bytes to the partial file, from a position on and without gaps.

    `hash` may run in another thread than the write; `done` is called in order, after both for the same bytes.
    """

    def __init__(self, partial: Partial, position: int) -> None:
        self.position = position
        self.fd = partial.fd
        self._partial = partial
        self._chunk = position // CHUNK
        self._hashed = position
        self._state = xxhash.xxh3_64()
        self._ready: list[ChunkChecksum] = []
        self._hashed_from = position
        start = self._chunk * CHUNK
        if start != position and partial.spans.covers(start, position):
            read_into(partial.fd, start, position, self._state.update)
            self._hashed_from = start

    def hash(self, offset: int, data: memoryview) -> None:
        """Add bytes to the digests."""
        self._partial.prefix.feed(offset, data)
        self._hashed = offset
        while data:
            edge = (self._hashed // _STEP + 1) * _STEP
            part = data[: edge - self._hashed]
            self._state.update(part)
            self._hashed += len(part)
            data = data[len(part) :]
            if self._hashed == edge:
                self._record_checksum()

    def _record_checksum(self) -> None:
        """Record the checksum of the chunk so far; at its end, continue with the next one."""
        self._ready.append(self._checksum_up_to(self._hashed))
        if self._hashed == (self._chunk + 1) * CHUNK:
            self._chunk += 1
            self._hashed_from = self._hashed
            self._state = xxhash.xxh3_64()

    def _checksum_up_to(self, end: int) -> ChunkChecksum:
        skip = self._hashed_from - self._chunk * CHUNK
        return ChunkChecksum(chunk=self._chunk, length=end - self._hashed_from, xxh3=self._state.hexdigest(), skip=skip)

    def done(self, end: int) -> None:
        """Record that all bytes up to ``end`` are hashed and written."""
        if end == self._partial.size == self._hashed and end > self._hashed_from:
            self._record_checksum()
        checksums = tuple(checksum for checksum in self._ready if checksum.span[1] <= end)
        self._ready = [checksum for checksum in self._ready if checksum.span[1] > end]
        start, self.position = self.position, end
        self._partial.written(start, end, checksums)

    def take(self, data: memoryview) -> None:
        """Hash and write the next bytes in this thread."""
        self.hash(self.position, data)
        write_all(self.fd, data, self.position)
        self.done(self.position + len(data))

    def close(self) -> None:
        """End the connection: record the checksum of its last, incomplete chunk."""
        if self.position > self._hashed_from and self._hashed == self.position:
            with contextlib.suppress(OSError):
                self._partial.written(self.position, self.position, (self._checksum_up_to(self.position),))
