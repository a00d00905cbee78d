"""Whether a body with a content coding is the file itself, or must be decoded first. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelfetch.core.artifact import Artifact
    from modelfetch.http import Response

_PACKED = (".gz", ".tgz", ".z", ".zz", ".br", ".zst")


@dataclass(slots=True, kw_only=True)
class CodingChoice:
    """Decides whether the bodies of one location that have a content coding are decoded.

    Without a digest or size they are decoded, as HTTP requires, unless the file's name is that of a compressed file,
    whose first bytes show whether that was right. Then the more likely choice comes first, and `swap` takes the other
    one: some servers send a ``.gz`` file as if they had compressed it for the transfer.

    Attributes:
        artifact: The file; its digest decides if it has one.
    """

    artifact: Artifact
    _raw: bool | None = field(default=None, init=False)
    _swapped: bool = field(default=False, init=False)

    def apply(self, response: Response) -> None:
        """Leave a response's body undecoded, if so chosen."""
        size, has_digest = self.artifact.size, self.artifact.digest is not None
        packed = self.artifact.path.lower().endswith(_PACKED)
        if response.encoding is None or not (has_digest or size is not None or packed):
            return
        if self._raw is None:
            has_both = size is not None and response.length is not None
            if not has_digest and has_both:
                self._raw = response.length == size
            elif not has_digest and size is None:
                self._raw = not response.can_decode
            else:
                same_size = has_both and response.length == size
                self._raw = response.status == 206 or same_size or packed or not response.can_decode
        if self._raw:
            response.take_raw()

    def swap(self) -> bool:
        """Choose the other way for the next attempt; False if no body was coded, or both ways were tried."""
        if self._raw is None or self._swapped:
            return False
        self._raw, self._swapped = not self._raw, True
        return True
