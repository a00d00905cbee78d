"""Whether a coded body is the file as it comes, or once it is decoded. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelfetch.http import Response

_PACKED = (".gz", ".tgz", ".z", ".zz", ".br", ".zst")


@dataclass(slots=True, kw_only=True)
class CodingChoice:
    """What is done with the bodies of one location that have a content coding.

    Without a digest or size they are decoded, as HTTP means it. Where one of them decides, it is the likelier one of
    the two at first, and `swap` takes the other: a server may call a ``.gz`` file one that it has packed for the way.

    Attributes:
        has_digest: Whether a digest decides.
        path: The file's name.
        size: What it must have, in bytes, where that is known.
    """

    has_digest: bool
    path: str
    size: int | None
    _raw: bool | None = field(default=None, init=False)
    _swapped: bool = field(default=False, init=False)

    def apply(self, response: Response) -> None:
        """Let a response be taken as it comes, if that is the choice."""
        if response.encoding is None or not (self.has_digest or self.size is not None):
            return
        if self._raw is None:
            packed = self.path.lower().endswith(_PACKED)
            has_both = self.size is not None and response.length is not None
            if not self.has_digest and has_both:
                self._raw = response.length == self.size
            else:
                same_size = has_both and response.length == self.size
                self._raw = response.status == 206 or same_size or packed or not response.can_decode
        if self._raw:
            response.take_raw()

    def swap(self) -> bool:
        """Choose the other way for the next attempt; False where no body was coded, or both ways were tried."""
        if self._raw is None or self._swapped:
            return False
        self._raw, self._swapped = not self._raw, True
        return True
