"""Which connection fetches which bytes: pieces in file order for the hash, halves of ranges at the end. No I/O."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from modelfetch.store.chunks import CHUNK

_ALIGN = 2**20
_MIN_SPLIT = 4 * 2**20
"""A range with fewer bytes left is not worth a second connection."""


@dataclass(slots=True)
class Segment:
    """A range that one connection works on: ``position`` moves up to ``end``, which moves down when a part is taken.

    A connection claims bytes before it writes them, and no other connection can take them: so bytes that were hashed
    are never written a second time, and no source can change them between the hash and the end of the file.

    Attributes:
        position: The next byte to receive.
        end: The end of the range, None while the file's size is unknown.
        requested_end: The end of the current response; None without one, or if it is not read any further.
        claimed: The end of the bytes that are being written.
    """

    position: int
    end: int | None
    requested_end: int | None = None
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
        """Record a response: its end and the file's size, each if known."""
        with self.lock:
            if self.end is None:
                self.end = size
            if end is not None:
                self.end = end if self.end is None else min(self.end, end)
            self.requested_end = size if end is None else end

    def claim(self, most: int) -> int:
        """Claim up to ``most`` of the next bytes; returns 0 at the end, where the connection then stops."""
        with self.lock:
            count = most if self.end is None else min(most, self.end - self.position)
            if count <= 0:
                self.requested_end = None
                return 0
            self.claimed = self.position + count
            return count

    def advance(self, count: int) -> None:
        """Record ``count`` of the claimed bytes as received."""
        with self.lock:
            self.position += count
            self.claimed = self.position


class SegmentQueue:
    """The ranges of one file: those at work and those that wait.

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
    def has_waiting(self) -> bool:
        """Whether there is a range without a connection."""
        return bool(self._waiting)

    def take(self, *, piece: int | None = None, least: int = _MIN_SPLIT) -> Segment | None:
        """Take a range for an idle connection: the next waiting one, else half of the longest one at work.

        Args:
            piece: The length in bytes, None for the whole range.
            least: Bytes that must be left of a range before half of it is taken.
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
        """Shorten a range to ``piece`` bytes and return the rest; None if the rest would be small."""
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

    def put_back(self, segment: Segment) -> None:
        """Give a range back, finished or not; what is left of it waits again.

        After a failure, a connection whose response reaches further continues over what waits behind its range. In this
        way a source that refuses further requests is read to its end by the existing responses.
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
        """Let a connection continue over what waits right behind its range, as far as its response reaches."""
        for segment in tuple(self._waiting):
            reach, end = working.requested_end, working.end
            if segment.end is None or reach is None or end != segment.position or reach <= end:
                continue
            working.end = segment.position = min(reach, segment.end)
            if not segment.left:
                self._waiting.remove(segment)


def _middle(position: int, end: int) -> int:
    """A position near the middle; of a long range at a chunk boundary, so that chunks stay whole."""
    align = CHUNK if end - position >= 6 * CHUNK else _ALIGN
    middle = (position + end) // 2
    return -(-middle // align) * align
