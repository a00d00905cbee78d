"""Who fetches which bytes: one contiguous range per connection, and halves for those who are done. No I/O."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from modelfetch.store.chunks import CHUNK

_ALIGN = 2**20
_LEAST = 4 * 2**20
"""A range that has fewer bytes left is not worth a second connection."""


@dataclass(slots=True)
class Segment:
    """A range that one connection works on: ``position`` moves towards ``end``, which moves down when half is taken.

    ``asked_end`` is where the answer under way ends; ``end`` is None while nobody knows the file's size.
    """

    position: int
    end: int | None
    asked_end: int | None = None

    @property
    def left(self) -> int:
        """Bytes to go."""
        return 0 if self.end is None else max(0, self.end - self.position)


class Board:
    """The ranges of one file: those at work and those that nobody has yet.

    Args:
        gaps: What is missing, in order.
    """

    def __init__(self, gaps: list[tuple[int, int | None]]) -> None:
        self._lock = threading.Lock()
        self._waiting = [Segment(start, end) for start, end in gaps]
        self._working: list[Segment] = []

    @property
    def left(self) -> int:
        """Bytes to go, all together."""
        with self._lock:
            return sum(segment.left for segment in (*self._waiting, *self._working))

    def take(self, *, least: int = _LEAST) -> Segment | None:
        """A range for a connection that has nothing to do: one that waits, else half of the longest one at work.

        Args:
            least: Bytes that must be left of a range for half of it to be taken.
        """
        with self._lock:
            if self._waiting:
                segment = self._waiting.pop(0)
            else:
                longest = max(self._working, key=lambda s: s.left, default=None)
                if longest is None or longest.end is None or longest.left < max(least, 2 * _ALIGN):
                    return None
                middle = _middle(longest.position, longest.end)
                segment = Segment(middle, longest.end)
                longest.end = middle
            self._working.append(segment)
            return segment

    def leave(self, segment: Segment) -> None:
        """A connection is through with a range, or failed in it: what is left goes to the one before, or waits.

        The one before can go on over it if its answer reaches that far.
        """
        with self._lock:
            self._working = [other for other in self._working if other is not segment]
            if segment.end is not None and segment.position >= segment.end:
                return
            for other in self._working:
                reaches = other.asked_end is not None and segment.end is not None and other.asked_end >= segment.end
                if other.end == segment.position and reaches:
                    other.end = segment.end
                    return
            self._waiting.append(Segment(segment.position, segment.end))


def _middle(position: int, end: int) -> int:
    """A cut near the middle, at the edge of a chunk where the range is long enough, so that chunks stay whole."""
    align = CHUNK if end - position >= 6 * CHUNK else _ALIGN
    middle = (position + end) // 2
    return -(-middle // align) * align
