"""The digests of a file while it is downloaded, in whatever order its bytes arrive."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from modelfetch.core.digest import Digest, new_hasher
from modelfetch.store.chunks import read_into

if TYPE_CHECKING:
    from collections.abc import Callable


class PrefixHasher:
    """Hashes the contiguous bytes of a file from its first byte on.

    Bytes that arrive at the hash's position are hashed while they are in the CPU cache; `catch_up` reads all others
    back from the file later.
    """

    def __init__(self, algorithms: tuple[str, ...], size: int | None) -> None:
        self._algorithms = algorithms
        self._size = size
        self._lock = threading.Lock()
        self.position = 0
        self._hashers: dict[str, Any] = self._fresh()

    def _fresh(self) -> dict[str, Any]:
        # git's hash starts with the size: while that is unknown, it is computed at the end
        known = [a for a in dict.fromkeys(self._algorithms) if a != "git-sha1" or self._size is not None]
        return {name: new_hasher(name, self._size) for name in known}

    def reset(self) -> None:
        """Start again at the first byte."""
        with self._lock:
            self.position = 0
            self._hashers = self._fresh()

    def feed(self, offset: int, data: memoryview | bytes) -> None:
        """Hash bytes if they are the next ones; else leave them to `catch_up`."""
        if offset == self.position:
            with self._lock:
                if offset == self.position:
                    self._update(data)

    def catch_up(self, fd: int, reach: Callable[[int], int], *, until: int | None = None) -> None:
        """Read and hash the bytes after the position, at most up to `until`; raises OSError as reading does.

        Args:
            fd: The file.
            reach: Returns the end of the contiguous bytes from a position on.
            until: The position to stop at.
        """
        while True:
            with self._lock:
                start = self.position
                end = min(reach(start), start + 2**20) if until is None else min(reach(start), start + 2**20, until)
                if end <= start or not read_into(fd, start, end, self._update):
                    return

    def trial(self) -> tuple[int, dict[str, Any]]:
        """Return the state, for `restore`."""
        return self.position, {name: hasher.copy() for name, hasher in self._hashers.items()}

    def restore(self, state: tuple[int, dict[str, Any]]) -> None:
        """Return to an earlier state."""
        self.position, self._hashers = state

    def digests(self) -> dict[str, Digest]:
        """Return the digests of all bytes so far."""
        with self._lock:
            return {name: Digest(name, hasher.hexdigest()) for name, hasher in self._hashers.items()}

    def _update(self, data: memoryview | bytes) -> None:
        for hasher in self._hashers.values():
            hasher.update(data)
        self.position += len(data)
