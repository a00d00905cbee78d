"""What the hub serves: bytes in memory, or content that is computed where it is read, so that gigabytes cost none."""

from __future__ import annotations

import hashlib
import struct
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

READ_SIZE = 1 << 20
"""Bytes read, hashed or sent at a time."""


class Body(Protocol):
    """Content of a known size that can be read anywhere."""

    @property
    def size(self) -> int:
        """Length in bytes."""

    @property
    def sha256(self) -> str:
        """64 lower-case hex digits."""

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """Up to ``length`` bytes from ``offset``; fewer only where the body ends."""


def spans(start: int, stop: int, step: int = READ_SIZE) -> Iterator[tuple[int, int]]:
    """(offset, length) pairs that cover ``start`` to ``stop`` without crossing a multiple of ``step``."""
    while start < stop:
        length = min(step - start % step, stop - start)
        yield start, length
        start += length


def hash_body(body: Body) -> str:
    """The sha256 of a body, read piece by piece."""
    state = hashlib.sha256()
    for offset, length in spans(0, body.size):
        state.update(body.read(offset, length))
    return state.hexdigest()


def read_all(body: Body) -> bytes:
    """The whole body in memory."""
    return b"".join(body.read(offset, length) for offset, length in spans(0, body.size))


class BytesBody:
    """Content that is in memory."""

    def __init__(self, data: bytes) -> None:
        self._view = memoryview(data)

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self._view)

    @cached_property
    def sha256(self) -> str:
        """64 lower-case hex digits."""
        return hashlib.sha256(self._view).hexdigest()

    def read(self, offset: int, length: int) -> memoryview:
        """A view of the bytes, without a copy."""
        return self._view[offset : offset + length]


class ZeroBody:
    """Zeros."""

    def __init__(self, size: int) -> None:
        self.size = size

    @cached_property
    def sha256(self) -> str:
        """64 lower-case hex digits."""
        return hash_body(self)

    def read(self, offset: int, length: int) -> bytes:
        """Zeros, as many as there are."""
        return bytes(max(0, min(length, self.size - offset)))


class PatternBody:
    """Pseudo-random content, the same on every machine, in which no two blocks of 64 KiB are equal.

    Each block is the same noise under its own number, so bytes that land at a wrong offset change the digest.
    """

    _BLOCK = 1 << 16

    def __init__(self, size: int, *, seed: int = 0, prefix: bytes = b"", half_floats: bool = False) -> None:
        """Make a body of ``size`` bytes; ``prefix`` (a file header) replaces the first bytes of the pattern.

        With ``half_floats`` every two bytes are a finite number between -2 and 2, if read as a little-endian float16.
        """
        self.size = size
        self._prefix = prefix
        pattern = bytearray(noise(self._BLOCK - 8, seed=seed))
        if half_floats:
            pattern[1::2] = pattern[1::2].translate(bytes(byte & 0xBF for byte in range(256)))  # a small exponent
        self._noise = bytes(pattern)

    @cached_property
    def sha256(self) -> str:
        """64 lower-case hex digits."""
        return hash_body(self)

    def read(self, offset: int, length: int) -> bytes:
        """The bytes at ``offset``, computed now."""
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
    """Pseudo-random bytes, the same on every machine and Python version (SHAKE-256 of the seed)."""
    return hashlib.shake_256(b"modelfetch demo %d" % seed).digest(length)


def as_body(content: bytes | str | Body) -> Body:
    """Bytes and text become a body; a body stays as it is."""
    if isinstance(content, str):
        content = content.encode()
    if isinstance(content, bytes):
        return BytesBody(content)
    return content
