"""Read the beginning of a file, as far as its header goes.

Two views of a file serve the header readers: `HeaderBuffer` keeps what it fetched (few ranges, none of them twice, and
a later download can begin with the bytes), `HeaderWindow` moves along and holds little, for files on this machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from modelfetch.core.os_errors import translated
from modelfetch.errors import NotAModelError

if TYPE_CHECKING:
    from pathlib import Path

KIB, MIB, GIB = 2**10, 2**20, 2**30
FIRST = 64 * KIB
"""The first range, in bytes: every hyperparameter of a GGUF file that a converter wrote lies within it."""
FIRST_STEP = 512 * KIB
"""The second range, in bytes; each later one is twice as long, up to `STEP`."""
STEP = 4 * MIB
"""The longest range, in bytes; with it, 7.6 MiB hold the header of a model with a vocabulary of 128k tokens."""
LIMIT = 64 * MIB
"""The most that is ever fetched of one file for its header, in bytes; a longer header is refused."""
WINDOW = 64 * KIB
"""Bytes that a `HeaderWindow` reads at a time."""

ReadAt = Callable[[int, int], bytes]
"""Reads so many bytes (second) at a position (first); fewer at the end of the file."""


class RangeReader(Protocol):
    """A file that can be read by range: over HTTP, on a disk, in the store."""

    @property
    def size(self) -> int | None:
        """The file's length in bytes, None if the source does not give it."""

    def read(self, offset: int, length: int) -> bytes:
        """The bytes at ``offset``, fewer than ``length`` only at the end of the file.

        Raises:
            ModelfetchError: The source failed.
        """


class FileReader:
    """A file on disk as a `RangeReader`; opened for each read, so that none stays open."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def size(self) -> int | None:
        """The file's length in bytes."""
        with translated(self._path, doing="reading"):
            return self._path.stat().st_size

    def read(self, offset: int, length: int) -> bytes:
        """The bytes at ``offset``; raises DiskError, DestinationError, or RetryLaterError for a limit."""
        with translated(self._path, doing="reading"), self._path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), length, offset)


class HeaderView(Protocol):
    """The part of a file that a header reader sees."""

    @property
    def size(self) -> int | None:
        """The file's length in bytes, None if it is not known."""

    @property
    def limit(self) -> int:
        """The last position, in bytes, that can be read."""

    @property
    def memo(self) -> dict[str, Any]:
        """Parsed results of these bytes, for reading again with other settings."""

    def view(self, start: int, end: int) -> tuple[bytes | bytearray, int]:
        """Bytes that include those from ``start`` to ``end``, and the position of the first of them.

        Raises:
            NotAModelError: The file ends before, or ``end`` lies beyond `limit`.
            ModelfetchError: The source failed.
        """

    def is_loaded(self, end: int) -> bool:
        """Whether the bytes before ``end`` cost no request."""


class HeaderWindow:
    """A view of a file on this machine that holds a few bytes at a time.

    Args:
        size: The file's length in bytes.
        read_at: Reads from it.
    """

    def __init__(self, size: int, read_at: ReadAt) -> None:
        self.size = self.limit = size
        self.memo: dict[str, Any] = {}
        self._read_at = read_at
        self._start = 0
        self._bytes = b""

    def view(self, start: int, end: int) -> tuple[bytes | bytearray, int]:
        """The bytes from ``start`` to ``end``, and more if they are already in memory."""
        if end > self.size:
            raise _ends_early(end, self.size)
        if not self._start <= start <= end <= self._start + len(self._bytes):
            self._bytes, self._start = self._read_at(start, min(max(end - start, WINDOW), self.size - start)), start
            if len(self._bytes) < end - start:
                raise _ends_early(end, start + len(self._bytes))
        return self._bytes, self._start

    def is_loaded(self, end: int) -> bool:
        """Always: reading from this machine costs no request."""
        return True


class HeaderBuffer:
    """The beginning of a file, which grows as far as it is needed and no further than `LIMIT`.

    Args:
        reader: Where the bytes come from.
        first: Length of the first range in bytes; later ones grow from `FIRST_STEP` to `STEP`.
    """

    limit = LIMIT

    def __init__(self, reader: RangeReader, *, first: int = FIRST) -> None:
        self._reader = reader
        self._first = first
        self._step = FIRST_STEP
        self._ended = False
        self.size = reader.size
        self.data = bytearray()
        self.memo: dict[str, Any] = {}

    @property
    def fetched(self) -> int:
        """Bytes read so far."""
        return len(self.data)

    def view(self, start: int, end: int) -> tuple[bytes | bytearray, int]:
        """All bytes so far, which are at least ``end``."""
        return self.upto(end), 0

    def is_loaded(self, end: int) -> bool:
        """Whether the bytes before ``end`` were read."""
        return end <= len(self.data)

    def upto(self, end: int) -> bytearray:
        """All bytes so far, which are at least ``end``.

        Raises:
            NotAModelError: The file ends before, or ``end`` lies beyond `LIMIT`.
            ModelfetchError: The source failed.
        """
        if end > len(self.data):
            self._check(end)
        while end > len(self.data):
            self._grow(end)
        return self.data

    def _check(self, end: int) -> None:
        if self.size is not None and end > self.size:
            raise _ends_early(end, self.size)
        if end > LIMIT:
            raise NotAModelError(f"the header is longer than {LIMIT // MIB} MiB, the limit for a header")

    def _grow(self, end: int) -> None:
        have = len(self.data)
        want = min(self._next_length(end - have), LIMIT - have)
        if self.size is not None:
            want = min(want, self.size - have)
        chunk = b"" if self._ended else self._reader.read(have, want)[:want]
        self._ended = self._ended or len(chunk) < want
        if not chunk:
            raise _ends_early(end, have)
        self.data += chunk

    def _next_length(self, needed: int) -> int:
        """Bytes of the next range: longer ranges cost fewer round trips, shorter ones fewer bytes beyond the header."""
        if not self.data:
            return self._first
        length = min(STEP, max(self._step, needed))
        self._step = min(STEP, 2 * length)
        return length


def _ends_early(needed: int, size: int) -> NotAModelError:
    return NotAModelError(
        f"the header needs {needed} bytes, but the file ends after {size}", hint="the file may be cut off"
    )
