"""The record of a blob: its state at the last verification. No I/O."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modelfetch.core.digest import Digest

if TYPE_CHECKING:
    import os


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobRecord:
    """Size in bytes, mtime in ns, the xxh3 of each 16 MiB chunk, and other digests (by algorithm) of the same bytes."""

    size: int
    mtime_ns: int
    chunks: tuple[str, ...] = ()
    digests: dict[str, str] = field(default_factory=dict)

    def fits(self, stat: os.stat_result) -> bool:
        """Return whether a file's size and mtime match the record."""
        return self.size == stat.st_size and self.mtime_ns == stat.st_mtime_ns

    def dump(self) -> bytes:
        """Return the record as JSON."""
        data = {
            "size": self.size,
            "mtime_ns": self.mtime_ns,
            "chunks": list(self.chunks),
            "digests": dict(sorted(self.digests.items())),
        }
        return json.dumps(data, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def parse(cls, data: bytes) -> BlobRecord | None:
        """Parse what `dump` returns; None for anything else, in which case the blob is hashed again."""
        try:
            raw = json.loads(data)
            size, mtime_ns, chunks, digests = raw["size"], raw["mtime_ns"], raw["chunks"], raw["digests"]
            for algorithm, digits in digests.items():
                Digest(algorithm, digits)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        if type(size) is not int or type(mtime_ns) is not int or not isinstance(chunks, list):
            return None
        if not all(isinstance(chunk, str) for chunk in chunks):
            return None
        return cls(size=size, mtime_ns=mtime_ns, chunks=tuple(chunks), digests=dict(digests))
