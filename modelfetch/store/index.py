"""The small files beside the blobs: their records, their other names. Losing any of them costs a hash, nothing more."""

from __future__ import annotations

import contextlib
import os
import secrets
from typing import TYPE_CHECKING

from modelfetch.core.digest import Digest
from modelfetch.core.fs import COPY_MODE, make_directory
from modelfetch.store.record import Record

if TYPE_CHECKING:
    from pathlib import Path

_WRITTEN_STRAIGHT = 16 * 2**20
"""Blobs below this size are hashed again in no time, so that their records need no care."""


class Index:
    """Reads and writes them; nothing here is worth an error, so nothing here raises one.

    Args:
        path: The store's folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    # --- records -----------------------------------------------------------------------------------------------

    def record(self, blob: Path) -> Record | None:
        """What was written of a blob when it was right."""
        try:
            return Record.parse(beside(blob).read_bytes())
        except OSError:
            return None

    def write_record(self, blob: Path, record: Record) -> None:
        """Write a blob's record, and let it be found by its other digests."""
        with contextlib.suppress(OSError):
            if record.size < _WRITTEN_STRAIGHT:
                _write_new(beside(blob), record.dump())
            else:
                write_whole(beside(blob), record.dump())
        for algorithm, digits in record.digests.items():
            self.write_alias(Digest(algorithm, digits), Digest("sha256", blob.name))

    def drop(self, blob: Path) -> None:
        """Forget a blob that is gone."""
        record = self.record(blob)
        with contextlib.suppress(OSError):
            beside(blob).unlink(missing_ok=True)
        for algorithm, digits in (record.digests if record else {}).items():
            self.drop_alias(Digest(algorithm, digits))

    # --- other digests -----------------------------------------------------------------------------------------

    def sha256_of(self, digest: Digest) -> Digest | None:
        """The sha256 that another digest was found to belong to; whoever asks has to check it."""
        return digest if digest.algorithm == "sha256" else _read_digest(self._alias(digest))

    def write_alias(self, digest: Digest, sha256: Digest) -> None:
        """Note that a digest is that of a blob."""
        self._write_digest(self._alias(digest), sha256)

    def drop_alias(self, digest: Digest) -> None:
        """Forget a digest."""
        with contextlib.suppress(OSError):
            self._alias(digest).unlink(missing_ok=True)

    def _alias(self, digest: Digest) -> Path:
        return self._path / "blobs" / digest.algorithm / digest.hex[:2] / digest.hex

    # --- names -------------------------------------------------------------------------------------------------

    def remember(self, key: str, sha256: Digest) -> None:
        """Note what a name without a digest turned out to be, for those who waited for it meanwhile."""
        self._write_digest(self._name(key), sha256)

    def recall(self, key: str) -> tuple[int, Digest] | None:
        """What `remember` noted last, and when (ns)."""
        path = self._name(key)
        try:
            when = path.stat().st_mtime_ns
        except OSError:
            return None
        digest = _read_digest(path)
        return (when, digest) if digest else None

    def _name(self, key: str) -> Path:
        return self._path / "blobs" / "name" / key[:2] / key

    def _write_digest(self, path: Path, sha256: Digest) -> None:
        with contextlib.suppress(OSError):
            make_directory(path.parent)
            write_whole(path, sha256.hex.encode())


def beside(blob: Path) -> Path:
    """Where a blob's record lies."""
    return blob.with_name(blob.name + ".json")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is whole whenever it is read, but may be gone after a power cut; raises OSError."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        _write_new(temporary, data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write_new(path: Path, data: bytes) -> None:
    """Write a file in one go; one that is read in the midst of it, or torn, is a record that says nothing."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, COPY_MODE)
    try:
        os.write(fd, data)
        os.fchmod(fd, COPY_MODE)
    finally:
        os.close(fd)


def _read_digest(path: Path) -> Digest | None:
    try:
        return Digest("sha256", path.read_bytes()[:65].decode("ascii").strip())
    except (OSError, ValueError):
        return None
