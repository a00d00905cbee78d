"""Small files next to the blobs: their records and other names. If one is lost, its blob is just hashed again."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from modelfetch.core.digest import Digest
from modelfetch.core.directories import make_directory
from modelfetch.core.fs import PUBLIC_MODE, closing, open_regular, read_small, try_chmod
from modelfetch.core.temp_files import temporary_name
from modelfetch.store.record import BlobRecord

_WRITTEN_IN_PLACE = 16 * 2**20
"""Blobs below this size are quick to hash again, so their records need no durability."""
_RECORD = ".json"
RECORD_LIMIT = 2 * 2**20
"""Maximum bytes of a record to read: enough for a blob of 1.8 TB."""


class Index:
    """Reads and writes records and names. Raises no errors: after a failure, a blob is just hashed again.

    Args:
        path: The store's folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._blobs = str(path / "blobs")

    # --- records -----------------------------------------------------------------------------------------------

    def record(self, blob: Path | str) -> BlobRecord | None:
        """Return the state of a blob at its last verification; None if there is no valid record."""
        try:
            return BlobRecord.parse(read_small(f"{blob}{_RECORD}", RECORD_LIMIT))
        except OSError:
            return None

    def write_record(self, blob: Path, record: BlobRecord) -> None:
        """Write a blob's record, and record its other digests as aliases."""
        with contextlib.suppress(OSError):
            if record.size < _WRITTEN_IN_PLACE:
                write_new(f"{blob}{_RECORD}", record.dump())
            else:
                self._write_whole(record_path(blob), record.dump())
        for algorithm, digits in record.digests.items():
            self.write_alias(Digest(algorithm, digits), Digest("sha256", blob.name))

    def drop(self, blob: Path) -> None:
        """Remove the record and other names of a removed blob."""
        record = self.record(blob)
        with contextlib.suppress(OSError):
            record_path(blob).unlink(missing_ok=True)
        for algorithm, digits in (record.digests if record else {}).items():
            self.drop_alias(Digest(algorithm, digits))

    # --- other digests -----------------------------------------------------------------------------------------

    def sha256_of(self, digest: Digest) -> Digest | None:
        """Return the sha256 of the blob recorded for another digest; the caller must verify it."""
        return digest if digest.algorithm == "sha256" else _read_digest(self._alias(digest))

    def write_alias(self, digest: Digest, sha256: Digest) -> None:
        """Record another digest of a blob."""
        path = Path(self._alias(digest))
        with contextlib.suppress(OSError):
            make_directory(path.parent)
            write_new(path, sha256.hex.encode())

    def drop_alias(self, digest: Digest) -> None:
        """Remove another digest."""
        with contextlib.suppress(OSError):
            Path(self._alias(digest)).unlink(missing_ok=True)

    def _alias(self, digest: Digest) -> str:
        return f"{self._blobs}/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}"

    # --- names -------------------------------------------------------------------------------------------------

    def remember(self, key: str, sha256: Digest) -> None:
        """Record the digest for a name without one, for processes that waited for it."""
        path = self._name(key)
        with contextlib.suppress(OSError):
            make_directory(path.parent)
            self._write_whole(path, sha256.hex.encode())

    def recall(self, key: str) -> tuple[int, Digest] | None:
        """Return the last digest from `remember` and its time (ns)."""
        path = self._name(key)
        try:
            when = path.lstat().st_mtime_ns
        except OSError:
            return None
        digest = _read_digest(path)
        return (when, digest) if digest else None

    def sweep(self) -> None:
        """Remove the other digests and names of blobs that do not exist; the caller excludes other processes."""
        for path in Path(self._blobs).glob("*/??/*"):
            sha256 = _read_digest(path) if path.parts[-3] != "sha256" else None
            if sha256 is not None and not os.path.lexists(f"{self._blobs}/sha256/{sha256.hex[:2]}/{sha256.hex}"):
                with contextlib.suppress(OSError):
                    path.unlink()

    def _name(self, key: str) -> Path:
        return self._path / "blobs" / "name" / key[:2] / key

    def _write_whole(self, path: Path, data: bytes) -> None:
        ingest = self._path / "ingest"
        make_directory(ingest)
        write_whole(path, data, temporary=ingest / temporary_name())


def record_path(blob: Path) -> Path:
    """Return the path of a blob's record."""
    return blob.with_name(blob.name + _RECORD)


def write_whole(path: Path, data: bytes, *, temporary: Path) -> None:
    """Write a file atomically but without fsync: readers see it whole, but a power cut may lose it.

    Args:
        path: The file.
        data: All of its bytes.
        temporary: A new name for it while it is written, in the store's ``ingest``, which is cleaned after killed runs.

    Raises:
        OSError: It can't be written.
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


def write_new(path: Path | str, data: bytes) -> None:
    """Write a file in place; if it is read meanwhile or torn, the record is invalid and ignored. Raises OSError."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, PUBLIC_MODE)
    except FileExistsError:
        fd = open_regular(path, os.O_WRONLY | os.O_TRUNC)
    with closing(fd):
        os.write(fd, data)
        try_chmod(fd, PUBLIC_MODE)


def _read_digest(path: Path | str) -> Digest | None:
    try:
        return Digest("sha256", read_small(path, 65).decode("ascii").strip())
    except (OSError, ValueError):
        return None
