"""Content that the hub serves: bytes in memory, or computed on read, so that gigabytes take no memory."""

from __future__ import annotations

import hashlib
import struct
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

READ_SIZE = 1 << 20
"""Bytes to read, hash or send at a time."""


class Body(Protocol):
    """Content of a known size that can be read at any offset."""

    @property
    def size(self) -> int:
        """Length in bytes."""

    @property
    def sha256(self) -> str:
        """The sha256 as 64 lower-case hex digits."""

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """Return up to ``length`` bytes from ``offset``; fewer only at the end of the body."""


def spans(start: int, stop: int, step: int = READ_SIZE) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) pairs that cover ``start`` to ``stop`` without crossing a multiple of ``step``."""
    while start < stop:
        length = min(step - start % step, stop - start)
        yield start, length
        start += length


def hash_body(body: Body) -> str:
    """Return the sha256 of a body, read piece by piece."""
    state = hashlib.sha256()
    for offset, length in spans(0, body.size):
        state.update(body.read(offset, length))
    return state.hexdigest()


def read_all(body: Body) -> bytes:
    """Return the whole body in memory."""
    return b"".join(body.read(offset, length) for offset, length in spans(0, body.size))


class BytesBody:
    """Content in memory."""

    def __init__(self, data: bytes) -> None:
        self._view = memoryview(data)

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self._view)

    @cached_property
    def sha256(self) -> str:
        """The sha256 as 64 lower-case hex digits."""
        return hashlib.sha256(self._view).hexdigest()

    def read(self, offset: int, length: int) -> memoryview:
        """Return a view of the bytes, without a copy."""
        return self._view[offset : offset + length]


class ZeroBody:
    """Content of zero bytes."""

    def __init__(self, size: int) -> None:
        self.size = size

    @cached_property
    def sha256(self) -> str:
        """The sha256 as 64 lower-case hex digits."""
        return hash_body(self)

    def read(self, offset: int, length: int) -> bytes:
        """Return zeros, up to the end of the body."""
        return bytes(max(0, min(length, self.size - offset)))


class PatternBody:
    """Pseudo-random content, the same on every machine, without two equal blocks of 64 KiB.

    Each block is the same noise combined with its block number, so bytes at a wrong offset change the digest.
    """

    _BLOCK = 1 << 16

    def __init__(self, size: int, *, seed: int = 0, prefix: bytes = b"", half_floats: bool = False) -> None:
        """Create a body of ``size`` bytes; ``prefix`` (a file header) replaces the first bytes of the pattern.

        With ``half_floats``, each two bytes are a finite number between -2 and 2 when read as a little-endian float16.
        """
        self.size = size
        self._prefix = prefix
        pattern = bytearray(noise(self._BLOCK - 8, seed=seed))
        if half_floats:
            pattern[1::2] = pattern[1::2].translate(bytes(byte & 0xBF for byte in range(256)))  # a small exponent
        self._noise = bytes(pattern)

    @cached_property
    def sha256(self) -> str:
        """The sha256 as 64 lower-case hex digits."""
        return hash_body(self)

    def read(self, offset: int, length: int) -> bytes:
        """Compute and return the bytes at ``offset``."""
        stop = min(offset + length, self.size)
        if offset >= stop:
            return b""
        first, last = offset // self._BLOCK, (stop - 1) // self._BLOCK
        blocks = b"".join(struct.pack("<Q", number) + self._noise for number in range(first, last + 1))
        start = first * self._BLOCK
        data = blocks[offset - start : stop - start]
        if offset < len(self._prefix):
            head = self._prefix[offset:stop]
            data = head + data[len(head) :]
        return data


def noise(length: int, *, seed: int) -> bytes:
    """Return pseudo-random bytes, the same on every machine and Python version (SHAKE-256 of the seed)."""
    return hashlib.shake_256(b"modelfetch demo %d" % seed).digest(length)


def as_body(content: bytes | str | Body) -> Body:
    """Convert bytes or text to a body; return a body unchanged."""
    if isinstance(content, str):
        content = content.encode()
    if isinstance(content, bytes):
        return BytesBody(content)
    return content
