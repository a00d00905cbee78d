"""The journal of a partial file: which version its bytes are of, and the xxh3 of what was written. Pure.

It has one JSON object per line and is appended to, so that a torn or damaged line costs only the bytes that it
describes. Nothing in it is trusted before the bytes are compared.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import Any

from modelfetch.core.urls import display_url
from modelfetch.store.chunks import CHUNK

VERSION = 1
_XXH3 = re.compile(r"[0-9a-f]{16}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Which version of which file: the location's URI and stable URL, and what its server states.

    ``size`` in bytes and ``etag`` as sent are None if unknown; ``modified`` only if it is a strong validator.
    """

    uri: str
    url: str
    etag: str | None = None
    modified: str | None = None
    size: int | None = None

    def is_from(self, uri: str, url: str) -> bool:
        """Return whether these bytes came from that location; secrets in addresses are not compared, nor stored."""
        return (display_url(self.uri), display_url(self.url)) == (display_url(uri), display_url(url))

    @property
    def validator(self) -> str | None:
        """The value for ``If-Range``: a strong ETag, else a date (source: RFC 9110, section 13.1.5)."""
        if self.etag is not None and not self.etag.startswith("W/"):
            return self.etag
        return self.modified if self.etag is None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkChecksum:
    """The xxh3 of ``length`` bytes that were written to a chunk, from its byte ``skip`` on.

    A connection that starts inside a chunk records only the checksum of its own bytes.
    """

    chunk: int
    length: int
    xxh3: str
    skip: int = 0

    @property
    def span(self) -> tuple[int, int]:
        """The range of the file that it covers."""
        start = self.chunk * CHUNK + self.skip
        return start, start + self.length


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """The contents of a journal; ``checksums`` by their first byte: of several that start there the last one counts."""

    identity: Identity | None = None
    checksums: dict[int, ChunkChecksum] = field(default_factory=dict)


def identity_line(identity: Identity) -> bytes:
    """Format the line that states which version the checksums after it belong to."""
    data = {
        "modelfetch": VERSION,
        "uri": identity.uri,
        "url": display_url(identity.url),
        "etag": identity.etag,
        "modified": identity.modified,
        "size": identity.size,
    }
    return json.dumps(data, separators=(",", ":")).encode() + b"\n"


def checksum_line(checksum: ChunkChecksum) -> bytes:
    """Format the line of a checksum."""
    data = {"chunk": checksum.chunk, "length": checksum.length, "xxh3": checksum.xxh3}
    if checksum.skip:
        data["skip"] = checksum.skip
    return json.dumps(data, separators=(",", ":")).encode() + b"\n"


def parse_journal(data: bytes) -> Journal:
    """Parse a journal; damaged lines are ignored."""
    journal = Journal()
    for line in data.split(b"\n"):
        raw = _object(line)
        if "modelfetch" in raw:
            journal = replace(journal, identity=_identity(raw))
        elif (checksum := _checksum(raw)) is not None:
            journal.checksums[checksum.span[0]] = checksum
    return journal


def _object(line: bytes) -> dict[str, Any]:
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return raw if isinstance(raw, dict) else {}


def _identity(raw: dict[str, Any]) -> Identity | None:
    uri, url, etag, modified, size = (raw.get(name) for name in ("uri", "url", "etag", "modified", "size"))
    if raw.get("modelfetch") != VERSION or not isinstance(uri, str) or not isinstance(url, str):
        return None
    if not (etag is None or isinstance(etag, str)) or not (modified is None or isinstance(modified, str)):
        return None
    if size is not None and (type(size) is not int or size < 0):
        return None
    return Identity(uri=uri, url=url, etag=etag, modified=modified, size=size)


def _checksum(raw: dict[str, Any]) -> ChunkChecksum | None:
    chunk, length, skip, xxh3 = raw.get("chunk"), raw.get("length"), raw.get("skip", 0), raw.get("xxh3")
    if type(chunk) is not int or type(length) is not int or type(skip) is not int or not isinstance(xxh3, str):
        return None
    if not (0 <= chunk < 2**40 and 0 <= skip < CHUNK and 0 < length <= CHUNK - skip and _XXH3.match(xxh3)):
        return None
    return ChunkChecksum(chunk=chunk, length=length, xxh3=xxh3, skip=skip)
