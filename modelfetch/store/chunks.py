"""Chunks: the unit in which a file is checked, resumed and repaired."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import xxhash

from modelfetch.core.digest import Digest, Hasher, new_hasher

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK = 16 * 2**20
"""Bytes per chunk."""

_SLICE = 2**20


def chunk_count(size: int) -> int:
    """Return the number of chunks of a file of ``size`` bytes."""
    return -(-size // CHUNK)


def chunk_span(index: int, size: int) -> tuple[int, int]:
    """Return the start and end offsets of a chunk."""
    return index * CHUNK, min((index + 1) * CHUNK, size)


def xxh3(fd: int, start: int, end: int) -> str | None:
    """Return the xxh3 (64 bits, hex) of a range of a file, None if the file ends before it; raises OSError."""
    state = xxhash.xxh3_64()
    return state.hexdigest() if read_into(fd, start, end, state.update) else None


def read_into(fd: int, start: int, end: int, *sinks: Callable[[memoryview], object]) -> bool:
    """Pass a range of a file to functions, piece by piece; returns False if the file ends before the range does."""
    buffer = memoryview(bytearray(min(_SLICE, max(end - start, 1))))
    while start < end:
        count = os.preadv(fd, [buffer[: min(len(buffer), end - start)]], start)
        if count == 0:
            return False
        for sink in sinks:
            sink(buffer[:count])
        start += count
    return True


class FileHash:
    """Computes the digests of a file and the xxh3 of its chunks in one pass."""

    def __init__(self, *algorithms: str, size: int) -> None:
        self._whole: dict[str, Hasher] = {name: new_hasher(name, size) for name in dict.fromkeys(algorithms)}
        self._chunk = xxhash.xxh3_64()
        self._in_chunk = 0
        self.chunks: list[str] = []

    def update(self, data: memoryview) -> None:
        """Hash more bytes, of any length."""
        for hasher in self._whole.values():
            hasher.update(data)
        while data:
            part = data[: CHUNK - self._in_chunk]
            self._chunk.update(part)
            self._in_chunk += len(part)
            data = data[len(part) :]
            if self._in_chunk == CHUNK:
                self._end_chunk()

    def finish(self) -> tuple[dict[str, Digest], tuple[str, ...]]:
        """Return the digests by algorithm, and the xxh3 of each chunk."""
        if self._in_chunk:
            self._end_chunk()
        return {name: Digest(name, h.hexdigest()) for name, h in self._whole.items()}, tuple(self.chunks)

    def _end_chunk(self) -> None:
        self.chunks.append(self._chunk.hexdigest())
        self._chunk = xxhash.xxh3_64()
        self._in_chunk = 0


def hash_open_file(
    fd: int, *algorithms: str, advance: Callable[[int], None] = lambda _: None
) -> tuple[dict[str, Digest], tuple[str, ...]]:
    """Return the digests of an open file and the xxh3 of each chunk; raises OSError as reading does.

    ``advance`` is called with the number of bytes of each piece.
    """
    size = os.fstat(fd).st_size
    hashes = FileHash(*algorithms, size=size)
    read_into(fd, 0, size, hashes.update, lambda piece: advance(len(piece)))
    return hashes.finish()
