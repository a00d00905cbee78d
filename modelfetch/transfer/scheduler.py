"""Who fetches which bytes: pieces in the file's order, so that its hash can follow, and halves at the end. No I/O."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from modelfetch.store.chunks import CHUNK

_ALIGN = 2**20
_LEAST = 4 * 2**20
"""A range that has fewer bytes left is not worth a second connection."""


@dataclass(slots=True)
class Segment:
    """A range that one connection works on: ``position`` moves towards ``end``, which moves down when part is taken.

    What a connection is about to write it claims first, and nobody can take that from it: bytes that were hashed are
    never written a second time, so that no source can change them between its hash and the file's end.

    Attributes:
        position: The next byte to come.
        end: Where it ends, None while nobody knows the file's size.
        asked_end: Where the answer under way ends; None when there is none, or it is not read any further.
        claimed: Where that ends which is being written now.
    """

    position: int
    end: int | None
    asked_end: int | None = None
    claimed: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @property
    def left(self) -> int:
        """Bytes to go."""
        return 0 if self.end is None else max(0, self.end - self.position)

    @property
    def free_from(self) -> int:
        """The first byte that another connection may take."""
        return max(self.position, self.claimed)

    @property
    def spare(self) -> int:
        """Bytes to go that another connection may take."""
        return 0 if self.end is None else max(0, self.end - self.free_from)

    def answered(self, end: int | None, size: int | None) -> None:
        """An answer came: where it ends, if it says so, and the file's size, if that is known."""
        with self.lock:
            if self.end is None:
                self.end = size
            if end is not None:
                self.end = end if self.end is None else min(self.end, end)
            self.asked_end = size if end is None else end

    def claim(self, most: int) -> int:
        """Claim up to so many of the next bytes; 0 at the end, which is then where the connection stops."""
        with self.lock:
            count = most if self.end is None else min(most, self.end - self.position)
            if count <= 0:
                self.asked_end = None
                return 0
            self.claimed = self.position + count
            return count

    def advance(self, count: int) -> None:
        """So many of the claimed bytes came."""
        with self.lock:
            self.position += count
            self.claimed = self.position


class SegmentQueue:
    """The ranges of one file: those at work and those that nobody has yet.

    Args:
        gaps: What is missing, in order.
    """

    def __init__(self, gaps: list[tuple[int, int | None]]) -> None:
        self._lock = threading.Lock()
        self._waiting = [self._new(start, end) for start, end in gaps]
        self._working: list[Segment] = []

    def _new(self, start: int, end: int | None) -> Segment:
        return Segment(start, end, lock=self._lock)

    @property
    def left(self) -> int:
        """Bytes to go, all together."""
        with self._lock:
            return sum(segment.left for segment in (*self._waiting, *self._working))

    @property
    def waits(self) -> bool:
        """Whether there is a range that nobody works on."""
        return bool(self._waiting)

    def take(self, *, piece: int | None = None, least: int = _LEAST) -> Segment | None:
        """A range for a connection that has nothing to do.

        It is the next one that nobody works on, then the half of the longest one at work.

        Args:
            piece: Bytes that it should have, None for all of the first gap.
            least: Bytes that must be left of a range for half of it to be taken.
        """
        with self._lock:
            if not self._waiting:
                self._split_longest(piece, least)
            if not self._waiting:
                return None
            segment = self._waiting.pop(0)
            rest = self._cut(segment, piece)
            if rest is not None:
                self._waiting.insert(0, rest)
            self._working.append(segment)
            return segment

    def _split_longest(self, piece: int | None, least: int) -> None:
        longest = max(self._working, key=lambda s: s.spare, default=None)
        if longest is not None and longest.spare >= max(least, 2 * _ALIGN):
            self._waiting.append(self._cut(longest, piece) or self._halve(longest))

    def _cut(self, segment: Segment, piece: int | None) -> Segment | None:
        """Leave a range so many bytes and return what comes after them, None where that would be little."""
        if piece is None or segment.end is None or segment.spare < 2 * piece:
            return None
        middle = -(-(segment.free_from + piece) // _ALIGN) * _ALIGN
        rest = self._new(middle, segment.end)
        segment.end = middle
        return rest

    def _halve(self, segment: Segment) -> Segment:
        end = segment.end or 0
        middle = _middle(segment.free_from, end)
        segment.end = middle
        return self._new(middle, end)

    def leave(self, segment: Segment) -> None:
        """A connection is through with a range, or failed in it: then what is left waits.

        After a failure whoever has an answer that reaches further goes on over what waits behind its range: a source
        that refuses further requests is read to its end by the answers that there are. Others may take it again.
        """
        with self._lock:
            self._working = [other for other in self._working if other is not segment]
            if segment.end is not None and segment.position >= segment.end:
                return
            self._waiting.append(self._new(segment.position, segment.end))
            self._waiting.sort(key=lambda s: s.position)
            for other in self._working:
                self._extend(other)

    def _extend(self, working: Segment) -> None:
        """Let a connection go on over what waits right behind its range, as far as its answer reaches."""
        for segment in tuple(self._waiting):
            reach, end = working.asked_end, working.end
            if segment.end is None or reach is None or end != segment.position or reach <= end:
                continue
            working.end = segment.position = min(reach, segment.end)
            if not segment.left:
                self._waiting.remove(segment)


def _middle(position: int, end: int) -> int:
    """A cut near the middle, at the edge of a chunk where the range is long enough, so that chunks stay whole."""
    align = CHUNK if end - position >= 6 * CHUNK else _ALIGN
    middle = (position + end) // 2
    return -(-middle // align) * align
