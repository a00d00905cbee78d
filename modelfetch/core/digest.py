"""Digests: they identify and verify blobs."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Protocol, Self

_HEX_LENGTH = {"sha256": 64, "blake3": 64, "git-sha1": 40}
_PUBLIC = ("sha256", "blake3")
_HEX = re.compile(r"[0-9a-fA-F]+\Z")
_COMMIT = re.compile(r"[0-9a-f]{40}\Z")


def is_commit(revision: str) -> bool:
    """Return whether a git revision is a full commit hash (40 lower-case hex digits), which is immutable."""
    return bool(_COMMIT.match(revision))


class Hasher(Protocol):
    """The common interface of hashlib's and blake3's hash objects."""

    def update(self, data: bytes | bytearray | memoryview, /) -> object:
        """Hash more bytes."""

    def hexdigest(self) -> str:
        """Return the digest so far as lower-case hex."""


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    r"""An algorithm and its lower-case hex, written ``sha256:…`` or ``blake3:…``.

    ``git-sha1`` is supported too: the Hugging Face Hub provides it for files outside LFS, as the sha1 of
    ``blob SIZE\0`` and the bytes (source: git's object format). It never names a blob of the store.
    """

    algorithm: str
    hex: str

    def __post_init__(self) -> None:
        length = _HEX_LENGTH.get(self.algorithm)
        if length is None:
            raise ValueError(f"unknown digest algorithm {self.algorithm!r}, expected sha256 or blake3")
        if len(self.hex) != length or not _HEX.match(self.hex):
            raise ValueError(f"expected {length} hex digits after {self.algorithm}:, found {self.hex[:80]!r}")
        object.__setattr__(self, "hex", self.hex.lower())

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``sha256:HEX`` or ``blake3:HEX`` (hex in either case).

        Raises:
            ValueError: The text is not a valid digest; the message gives the expected form.
        """
        if not isinstance(text, str):
            raise ValueError(f"expected a text as digest, found {type(text).__name__}")  # noqa: TRY004 - as documented
        algorithm, colon, digits = text.partition(":")
        if not colon or algorithm not in _PUBLIC:
            raise ValueError(f"expected sha256: or blake3: and 64 hex digits, found {text[:80]!r}")
        return cls(algorithm, digits)

    @classmethod
    def sha256(cls, data: bytes | bytearray | memoryview) -> Self:
        """Return the sha256 of some bytes."""
        return cls("sha256", hashlib.sha256(data).hexdigest())

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


def new_hasher(algorithm: str, size: int | None = None) -> Hasher:
    """Return a new hasher for an algorithm of `Digest`; ``git-sha1`` needs the size in bytes in advance."""
    if algorithm == "sha256":
        return hashlib.sha256()
    if algorithm == "blake3":
        from blake3 import blake3

        return blake3()
    if algorithm == "git-sha1":
        if size is None:
            raise ValueError("git-sha1 needs the size beforehand")
        return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    raise ValueError(f"unknown digest algorithm {algorithm!r}")
