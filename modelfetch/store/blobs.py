"""The store: whole, verified, read-only files named by their sha256."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelfetch.digests import Digest, new_hasher
from modelfetch.errors import IntegrityError
from modelfetch.fsio import BLOB_MODE, make_directory, sync_directory, translate, try_reflink
from modelfetch.store.chunks import hash_open_file, read_into
from modelfetch.store.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_TAG = (
    b"Signature: 8a477f597d28d172789f06886806bc55\n"
    b"# This directory holds model files that modelfetch can fetch again.\n"
    b"# For information about cache directory tags see https://bford.info/cachedir/\n"
)
_RECORD_MODE = 0o644
_ABANDONED = 3600.0
"""Seconds after which a temporary file belongs to nobody."""
_WRITTEN_STRAIGHT = 16 * 2**20
"""Blobs below this size are hashed again in no time, so that their records need no care."""
_SYNCED_TOGETHER = 2**20
_MOST_UNSYNCED = 128
_LINK_FROM = 64 * 1024
"""Files below this size are copied, never linked, for a service may rewrite them in place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A verified file of the store; ``digest`` is its sha256, ``size`` in bytes."""

    digest: Digest
    size: int
    path: Path


class Store:
    """A folder of blobs. Nothing is made on disk before something is written.

    Args:
        path: The folder, ``ROOT/.modelfetch`` or what ``--store`` names.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._swept = False
        self._lock = threading.Lock()
        self._unsynced: set[Path] = set()
        self._made: dict[tuple[str, ...], Path] = {}

    # --- looking -----------------------------------------------------------------------------------------------

    def peek(self, digest: Digest) -> Blob | None:
        """The blob, if it is there and its record says that it is right; one look, nothing hashed or written."""
        sha256 = self._sha256_of(digest)
        if sha256 is None:
            return None
        path = self.blob_path(sha256)
        try:
            stat = path.stat()
        except OSError:
            return None
        record = self._record(path)
        if record is None or not record.fits(stat):
            return None
        return Blob(digest=sha256, size=stat.st_size, path=path)

    def find(self, digest: Digest, size: int | None = None) -> Blob | None:
        """The blob, proven: by its record, else by hashing it again; one that is damaged is removed.

        Args:
            digest: sha256, blake3 or git-sha1.
            size: What it must have, in bytes, where that is known.

        Raises:
            DiskError, DestinationError: It can't be read, or a damaged one can't be removed.
        """
        blob = self.peek(digest)
        if blob is None and digest.algorithm == "sha256" and not os.path.lexists(self.blob_path(digest)):
            return None
        blob = blob or self._prove(digest)
        return None if blob is None or (size is not None and blob.size != size) else blob

    def read(self, digest: Digest) -> bytes | None:
        """The bytes of a small blob, checked against their digest; None when it isn't there or is damaged."""
        sha256 = self._sha256_of(digest)
        if sha256 is None:
            return None
        try:
            data = self.blob_path(sha256).read_bytes()
        except OSError:
            return None
        hasher = new_hasher(digest.algorithm, len(data))
        hasher.update(data)
        return data if hasher.hexdigest() == digest.hex else None

    def blobs(self) -> Iterator[Blob]:
        """All that lies in the store, by name and stat only."""
        for path in sorted((self.path / "blobs" / "sha256").glob("??/" + "?" * 64)):
            with contextlib.suppress(ValueError, OSError):
                yield Blob(digest=Digest("sha256", path.name), size=path.stat().st_size, path=path)

    def blob_path(self, sha256: Digest) -> Path:
        """Where the blob of a sha256 lies, whether it is there or not."""
        return self.path / "blobs" / "sha256" / sha256.hex[:2] / sha256.hex

    def record(self, sha256: Digest) -> Record | None:
        """What was written of a blob when it was right."""
        return self._record(self.blob_path(sha256))

    # --- writing -----------------------------------------------------------------------------------------------

    def folder(self, *parts: str) -> Path:
        """A folder of the store, made if need be.

        Raises:
            DestinationError, DiskError: It can't be made.
        """
        path = self._made.get(parts)
        if path is not None:
            return path
        path = self.path.joinpath(*parts)
        if not path.is_dir():
            try:
                make_directory(path)
                tag = self.path / "CACHEDIR.TAG"
                if not tag.exists():
                    self._replace(tag, _TAG, _RECORD_MODE)
            except OSError as error:
                raise translate(error, path, doing="making") from error
        self._made[parts] = path
        return path

    def look_again(self) -> None:
        """Forget which folders are there: somebody may have removed them."""
        self._made.clear()

    def tmp(self, suffix: str = ".part") -> Path:
        """A fresh name, on the store's file system, for a file that does not exist yet."""
        folder = self.folder("ingest")
        if not self._swept:
            self._swept = True
            _sweep(folder)
        return folder / f"tmp-{secrets.token_hex(8)}{suffix}"

    def add_bytes(self, data: bytes) -> Blob:
        """Keep some bytes; raises DestinationError or DiskError."""
        digest = Digest.sha256(data)
        found = self.find(digest)
        if found is not None:
            return found
        temporary = self.tmp()
        try:
            with temporary.open("xb") as file:
                file.write(data)
            fd = os.open(temporary, os.O_RDONLY)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise translate(error, temporary, doing="writing") from error
        with contextlib.closing(_Fd(fd)):
            return self.admit(temporary, fd, {"sha256": digest}, hash_open_file(fd)[1])

    def add_file(self, path: Path, digest: Digest | None) -> Blob:
        """Keep a file that is already on disk, sharing its blocks where the file system can; the file stays.

        Args:
            path: The file.
            digest: What it must have, where that is known.

        Raises:
            IntegrityError: It has another digest.
            DestinationError, DiskError: It can't be read, or not be kept.
        """
        algorithms = ["sha256"] if digest is None else ["sha256", digest.algorithm]
        temporary = self.tmp()
        try:
            before = path.stat()
            with path.open("rb") as file:
                digests, chunks = hash_open_file(file.fileno(), *algorithms)
            if digest is not None and digests[digest.algorithm] != digest:
                raise IntegrityError(f"{path} has {digests[digest.algorithm]}, expected {digest}")
            found = self.find(digests["sha256"])
            if found is not None:
                return found
            _take(path, temporary)
            fd = os.open(temporary, os.O_RDONLY)
            with contextlib.closing(_Fd(fd)):
                after, ours = path.stat(), path.parent == temporary.parent
                if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                    raise IntegrityError(f"{path} changed while it was read", code="size-mismatch")
                mode = BLOB_MODE if ours or not os.path.samestat(after, os.fstat(fd)) else None
                return self.admit(temporary, fd, digests, chunks, mode=mode)
        except OSError as error:
            raise translate(error, path, doing="keeping") from error
        finally:
            temporary.unlink(missing_ok=True)

    def admit(
        self,
        part: Path,
        fd: int,
        digests: dict[str, Digest],
        chunks: tuple[str, ...],
        *,
        durable: bool = False,
        mode: int | None = BLOB_MODE,
    ) -> Blob:
        """Make a verified file a blob: fsync, read-only, rename, fsync of the folder, record.

        Args:
            part: The file, on the store's file system; its name is gone afterwards.
            fd: The same file, open.
            digests: By algorithm, ``sha256`` among them.
            chunks: The xxh3 of each chunk.
            durable: Whether the data was made durable already.
            mode: The blob's mode, None to leave it.

        Raises:
            DestinationError, DiskError: The system refused; the part is still there.
        """
        sha256 = digests["sha256"]
        path = self.blob_path(sha256)
        self.folder("blobs", "sha256", sha256.hex[:2])
        try:
            if not durable:
                os.fsync(fd)
            if mode is not None:
                os.fchmod(fd, mode)
            mine = os.fstat(fd)
            named = part.stat()
            if (named.st_dev, named.st_ino) != (mine.st_dev, mine.st_ino):
                raise FileNotFoundError(2, "replaced by another process", str(part))
            part.replace(path)
        except OSError as error:
            raise translate(error, part, doing="storing") from error
        self._sync_later(path.parent, small=mine.st_size < _SYNCED_TOGETHER)
        others = {name: digest.hex for name, digest in digests.items() if name != "sha256"}
        self._write_record(path, Record(size=mine.st_size, mtime_ns=mine.st_mtime_ns, chunks=chunks, digests=others))
        return Blob(digest=sha256, size=mine.st_size, path=path)

    def remember(self, key: str, sha256: Digest) -> None:
        """Note what a name without a digest turned out to be, for those who waited for it meanwhile."""
        with contextlib.suppress(OSError):
            path = self.path / "blobs" / "name" / key[:2] / key
            make_directory(path.parent)
            self._replace(path, sha256.hex.encode(), _RECORD_MODE)

    def recall(self, key: str) -> tuple[int, Digest] | None:
        """What `remember` noted last, and when (ns)."""
        path = self.path / "blobs" / "name" / key[:2] / key
        try:
            return path.stat().st_mtime_ns, Digest("sha256", path.read_bytes()[:65].decode("ascii").strip())
        except (OSError, ValueError):
            return None

    def settle(self) -> None:
        """Make the names of small blobs durable: they are many, and losing one costs no more than fetching it again."""
        with self._lock:
            folders, self._unsynced = self._unsynced, set()
        for folder in folders:
            sync_directory(folder)

    def _sync_later(self, folder: Path, *, small: bool) -> None:
        if not small:
            sync_directory(folder)
            return
        with self._lock:
            self._unsynced.add(folder)
            many = len(self._unsynced) >= _MOST_UNSYNCED
        if many:
            self.settle()

    def alias(self, blob: Blob, digest: Digest) -> None:
        """Let a blob be found by another digest of the same bytes, which the caller has proven."""
        self._write_alias(blob.digest, digest)

    def remove(self, sha256: Digest) -> bool:
        """Remove a blob and its record; whether there was one.

        Raises:
            DestinationError, DiskError: The system refused.
        """
        path = self.blob_path(sha256)
        record = self._record(path)
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise translate(error, path, doing="removing") from error
        with contextlib.suppress(OSError):
            _beside(path).unlink(missing_ok=True)
        for algorithm, digits in (record.digests if record else {}).items():
            with contextlib.suppress(OSError):
                self._alias_path(Digest(algorithm, digits)).unlink(missing_ok=True)
        return True

    # --- inside ------------------------------------------------------------------------------------------------

    def _prove(self, digest: Digest) -> Blob | None:
        """Hash a blob whose record does not speak for it."""
        sha256 = self._sha256_of(digest)
        if sha256 is None:
            return None
        path = self.blob_path(sha256)
        old = self._record(path)
        known = {"sha256", digest.algorithm, *(old.digests if old else ())}
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise translate(error, path, doing="reading") from error
        try:
            stat = os.fstat(fd)
            digests, chunks = hash_open_file(fd, *known)
        except OSError as error:
            raise translate(error, path, doing="reading") from error
        finally:
            os.close(fd)
        if digests["sha256"] != sha256 or digests[digest.algorithm] != digest:
            self.remove(sha256)
            return None
        others = {name: found.hex for name, found in digests.items() if name != "sha256"}
        self._write_record(path, Record(size=stat.st_size, mtime_ns=stat.st_mtime_ns, chunks=chunks, digests=others))
        return Blob(digest=sha256, size=stat.st_size, path=path)

    def _record(self, path: Path) -> Record | None:
        try:
            return Record.parse(_beside(path).read_bytes())
        except OSError:
            return None

    def _write_record(self, path: Path, record: Record) -> None:
        """Write a blob's record. Losing it costs a hash later, so it is neither synced nor worth an error."""
        with contextlib.suppress(OSError):
            if record.size < _WRITTEN_STRAIGHT:
                _write_new(_beside(path), record.dump())
            else:
                self._replace(_beside(path), record.dump(), _RECORD_MODE)
        for algorithm, digits in record.digests.items():
            self._write_alias(Digest("sha256", path.name), Digest(algorithm, digits))

    def _write_alias(self, sha256: Digest, digest: Digest) -> None:
        with contextlib.suppress(OSError):
            path = self._alias_path(digest)
            make_directory(path.parent)
            self._replace(path, sha256.hex.encode(), _RECORD_MODE)

    def _replace(self, path: Path, data: bytes, mode: int) -> None:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                os.fchmod(file.fileno(), mode)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _alias_path(self, digest: Digest) -> Path:
        return self.path / "blobs" / digest.algorithm / digest.hex[:2] / digest.hex

    def _sha256_of(self, digest: Digest) -> Digest | None:
        """The sha256 that another digest was found to belong to; it is checked where it matters."""
        if digest.algorithm == "sha256":
            return digest
        try:
            return Digest("sha256", self._alias_path(digest).read_bytes()[:65].decode("ascii").strip())
        except (OSError, ValueError):
            return None


def _sweep(folder: Path) -> None:
    """Remove temporary files of processes that were killed: nobody writes to them for an hour and still lives."""
    oldest = time.time() - _ABANDONED
    for path in folder.glob("tmp-*"):
        with contextlib.suppress(OSError):
            if path.lstat().st_mtime < oldest:
                path.unlink()


def _write_new(path: Path, data: bytes) -> None:
    """Write a file in one go; one that is read in the midst of it, or torn, is a record that says nothing."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, _RECORD_MODE)
    try:
        os.write(fd, data)
        os.fchmod(fd, _RECORD_MODE)
    finally:
        os.close(fd)


class _Fd:
    """A file descriptor to close."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def close(self) -> None:
        os.close(self._fd)


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _take(source: Path, target: Path) -> None:
    """Bring a file's bytes under a new name: by sharing blocks, else by a link, else by a copy."""
    if try_reflink(source, target):
        return
    if source.stat().st_size >= _LINK_FROM:
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    with source.open("rb") as read, target.open("xb") as write:
        read_into(read.fileno(), 0, os.fstat(read.fileno()).st_size, write.write)
