"""The small files beside the blobs: their records and other names. Losing any of them costs a hash, nothing more."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from modelfetch.core.digest import Digest
from modelfetch.core.fs import COPY_MODE, make_directory, open_regular, read_small, temporary_name, try_chmod
from modelfetch.store.record import Record

if TYPE_CHECKING:
    from pathlib import Path

_WRITTEN_IN_PLACE = 16 * 2**20
"""Blobs below this size are hashed again in no time, so that their records need no care."""
_RECORD_LIMIT = 16 * 2**20
"""Bytes of a record that are read: enough for a blob of 10 TB."""


class Index:
    """Reads and writes records and names. It raises no errors: what can't be read or written costs a hash.

    Args:
        path: The store's folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    # --- records -----------------------------------------------------------------------------------------------

    def record(self, blob: Path) -> Record | None:
        """The state of a blob when it was last verified; None where there is no valid record."""
        try:
            return Record.parse(read_small(beside(blob), _RECORD_LIMIT))
        except OSError:
            return None

    def write_record(self, blob: Path, record: Record) -> None:
        """Write a blob's record, and make it known under its other digests."""
        with contextlib.suppress(OSError):
            if record.size < _WRITTEN_IN_PLACE:
                write_new(beside(blob), record.dump())
            else:
                self._write_whole(beside(blob), record.dump())
        for algorithm, digits in record.digests.items():
            self.write_alias(Digest(algorithm, digits), Digest("sha256", blob.name))

    def drop(self, blob: Path) -> None:
        """Remove the record and other names of a removed blob."""
        record = self.record(blob)
        with contextlib.suppress(OSError):
            beside(blob).unlink(missing_ok=True)
        for algorithm, digits in (record.digests if record else {}).items():
            self.drop_alias(Digest(algorithm, digits))

    # --- other digests -----------------------------------------------------------------------------------------

    def sha256_of(self, digest: Digest) -> Digest | None:
        """The sha256 of the blob that another digest was noted for; the caller has to check it."""
        return digest if digest.algorithm == "sha256" else _read_digest(self._alias(digest))

    def write_alias(self, digest: Digest, sha256: Digest) -> None:
        """Record another digest of a blob."""
        self._write_digest(self._alias(digest), sha256)

    def drop_alias(self, digest: Digest) -> None:
        """Remove another digest."""
        with contextlib.suppress(OSError):
            self._alias(digest).unlink(missing_ok=True)

    def _alias(self, digest: Digest) -> Path:
        return self._path / "blobs" / digest.algorithm / digest.hex[:2] / digest.hex

    # --- names -------------------------------------------------------------------------------------------------

    def remember(self, key: str, sha256: Digest) -> None:
        """Record the digest of a name without one, for processes that waited for it meanwhile."""
        self._write_digest(self._name(key), sha256)

    def recall(self, key: str) -> tuple[int, Digest] | None:
        """Return what `remember` recorded last, with its time (ns)."""
        path = self._name(key)
        try:
            when = path.lstat().st_mtime_ns
        except OSError:
            return None
        digest = _read_digest(path)
        return (when, digest) if digest else None

    def _name(self, key: str) -> Path:
        return self._path / "blobs" / "name" / key[:2] / key

    def _write_digest(self, path: Path, sha256: Digest) -> None:
        with contextlib.suppress(OSError):
            make_directory(path.parent)
            self._write_whole(path, sha256.hex.encode())

    def _write_whole(self, path: Path, data: bytes) -> None:
        ingest = self._path / "ingest"
        make_directory(ingest)
        write_whole(path, data, temporary=ingest / temporary_name())


def beside(blob: Path) -> Path:
    """Return the path of a blob's record."""
    return blob.with_name(blob.name + ".json")


def write_whole(path: Path, data: bytes, *, temporary: Path) -> None:
    """Write a file that is whole whenever it is read, but may be gone after a power cut.

    Args:
        path: The file.
        data: All of its bytes.
        temporary: A new name for it while it is written, in the store's ``ingest``, where killed runs are swept.

    Raises:
        OSError: The system refused.
    """
    try:
        write_new(temporary, data)
        temporary.replace(path)
    except OSError as error:
        if error.errno != errno.EXDEV:  # two branches of a union mount
            raise
        write_new(path, data)
    finally:
        temporary.unlink(missing_ok=True)


def write_new(path: Path, data: bytes) -> None:
    """Write a file in place; one that is read meanwhile, or torn, is a record that says nothing. Raises OSError."""
    fd = open_regular(path, os.O_WRONLY | os.O_CREAT, COPY_MODE)
    try:
        os.ftruncate(fd, 0)
        os.write(fd, data)
        try_chmod(fd, COPY_MODE)
    finally:
        os.close(fd)


def _read_digest(path: Path) -> Digest | None:
    try:
        return Digest("sha256", read_small(path, 65).decode("ascii").strip())
    except (OSError, ValueError):
        return None
