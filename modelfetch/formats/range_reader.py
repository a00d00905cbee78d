"""Bytes from the start of a file, fetched in few ranges, none of them twice.

What was fetched stays in ``HeaderBuffer.data``, so that a later download of the same file can begin with it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol

from modelfetch.errors import NotAModelError

if TYPE_CHECKING:
    from pathlib import Path

KIB, MIB, GIB = 2**10, 2**20, 2**30
FIRST = 64 * KIB
"""The first range, in bytes: every hyperparameter of a GGUF file that a converter wrote lies within it."""
STEP = 4 * MIB
"""Every later range, in bytes: two of them hold the header of all models with a vocabulary of 128k tokens."""
LIMIT = 64 * MIB
"""The most that is ever read of one file, in bytes; a longer header is refused."""


class RangeReader(Protocol):
    """A file that can be read by range: over HTTP, on a disk, in the store."""

    @property
    def size(self) -> int | None:
        """The file's length in bytes, None where the source does not say."""

    def read(self, offset: int, length: int) -> bytes:
        """The bytes at ``offset``, fewer than ``length`` only where the file ends.

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
        return self._path.stat().st_size

    def read(self, offset: int, length: int) -> bytes:
        """The bytes at ``offset``."""
        with self._path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), length, offset)


class HeaderBuffer:
    """The beginning of a file, which grows as far as it is needed and no further than `LIMIT`.

    Args:
        reader: Where the bytes come from.
        first: Length of the first range in bytes; later ones are `STEP` long.
    """

    def __init__(self, reader: RangeReader, *, first: int = FIRST) -> None:
        self._reader = reader
        self._first = first
        self._ended = False
        self.size = reader.size
        self.data = bytearray()
        self.memo: dict[str, Any] = {}
        """What readers made of these bytes, so that asking again under other settings costs nothing."""

    @property
    def fetched(self) -> int:
        """Bytes read so far."""
        return len(self.data)

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
            raise NotAModelError(f"the header needs {end} bytes, but the file ends after {self.size}")
        if end > LIMIT:
            raise NotAModelError(f"the header is longer than the {LIMIT // MIB} MiB that are read of it")

    def _grow(self, end: int) -> None:
        have = len(self.data)
        want = min(STEP if self.data else self._first, LIMIT - have)
        if self.size is not None:
            want = min(want, self.size - have)
        chunk = b"" if self._ended else self._reader.read(have, want)[:want]
        self._ended = self._ended or len(chunk) < want
        if not chunk:
            raise NotAModelError(f"the header needs {end} bytes, but the file ends after {have}")
        self.data += chunk
