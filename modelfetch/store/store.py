"""The store: whole, verified, read-only files named by their sha256."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelfetch.core.digest import Digest, new_hasher
from modelfetch.core.fs import BLOB_MODE, make_directory, sync_directory, translate, try_reflink
from modelfetch.errors import IntegrityError, ModelfetchError
from modelfetch.store.chunks import hash_open_file, read_into
from modelfetch.store.index import Index, beside, write_whole
from modelfetch.store.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_TAG = (
    b"Signature: 8a477f597d28d172789f06886806bc55\n"
    b"# This directory holds model files that modelfetch can fetch again.\n"
    b"# For information about cache directory tags see https://bford.info/cachedir/\n"
)
_ABANDONED = 3600.0
"""Seconds after which a temporary file belongs to nobody."""
_SYNCED_TOGETHER = 4 * 2**20 + 1
_MOST_UNSYNCED = 300
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
        self.index = Index(path)
        self._swept = False
        self._lock = threading.Lock()
        self._unsynced: set[Path] = set()
        self._made: dict[tuple[str, ...], Path] = {}

    # --- looking -----------------------------------------------------------------------------------------------

    def peek(self, digest: Digest) -> Blob | None:
        """The blob, if it is there and its record says that it is right; one look, nothing hashed or written."""
        sha256 = self.index.sha256_of(digest)
        if sha256 is None:
            return None
        path = self.blob_path(sha256)
        try:
            stat = path.stat()
        except OSError:
            return None
        record = self.index.record(path)
        if record is None or not record.fits(stat):
            return None
        if digest != sha256 and record.digests.get(digest.algorithm) != digest.hex:
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
        sha256 = self.index.sha256_of(digest)
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
        return self.index.record(self.blob_path(sha256))

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
                    write_whole(tag, _TAG)
            except OSError as error:
                raise translate(error, path, doing="making") from error
        self._made[parts] = path
        return path

    def invalidate_cache(self) -> None:
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
        """Keep a file that is already on disk; the file stays.

        Its blocks are shared where the file system can. Else the large file itself is, by a link, and becomes read-only
        as any blob: who wrote to it would write to every service's. One whose mode is not ours to change is copied.

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
                after = path.stat()
                if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                    raise IntegrityError(f"{path} changed while it was read", code="size-mismatch")
                return self.admit(temporary, fd, digests, chunks)
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
    ) -> Blob:
        """Make a verified file a blob: fsync, read-only, rename, fsync of the folder, record.

        Args:
            part: The file, on the store's file system; its name is gone afterwards.
            fd: The same file, open.
            digests: By algorithm, ``sha256`` among them.
            chunks: The xxh3 of each chunk.
            durable: Whether the data was made durable already.

        Raises:
            DestinationError, DiskError: The system refused; the part is still there.
        """
        sha256 = digests["sha256"]
        path = self.blob_path(sha256)
        self.folder("blobs", "sha256", sha256.hex[:2])
        try:
            if not durable:
                os.fsync(fd)
            os.fchmod(fd, BLOB_MODE)
            mine = os.fstat(fd)
            named = part.stat()
            if (named.st_dev, named.st_ino) != (mine.st_dev, mine.st_ino):
                raise FileNotFoundError(2, "replaced by another process", str(part))
            part.replace(path)
        except OSError as error:
            raise translate(error, part, doing="storing") from error
        self._sync_later(path.parent, small=mine.st_size < _SYNCED_TOGETHER)
        others = {name: digest.hex for name, digest in digests.items() if name != "sha256"}
        self.index.write_record(
            path, Record(size=mine.st_size, mtime_ns=mine.st_mtime_ns, chunks=chunks, digests=others)
        )
        return Blob(digest=sha256, size=mine.st_size, path=path)

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
        """Let a blob be found by another digest of the same bytes, which is checked when it is."""
        self.index.write_alias(digest, blob.digest)

    def remove(self, sha256: Digest) -> bool:
        """Remove a blob and its record; whether there was one.

        Raises:
            DestinationError, DiskError: The system refused.
        """
        path = self.blob_path(sha256)
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise translate(error, path, doing="removing") from error
        self.index.drop(path)
        return True

    # --- inside ------------------------------------------------------------------------------------------------

    def _prove(self, digest: Digest) -> Blob | None:
        """Hash a blob whose record does not speak for it."""
        sha256 = self.index.sha256_of(digest)
        if sha256 is None:
            return None
        path = self.blob_path(sha256)
        old = self.index.record(path)
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
        if digests["sha256"] != sha256:
            self._set_aside(sha256, old)
            return None
        others = {name: found.hex for name, found in digests.items() if name != "sha256"}
        record = Record(size=stat.st_size, mtime_ns=stat.st_mtime_ns, chunks=chunks, digests=others)
        self.index.write_record(path, record)
        if digests[digest.algorithm] != digest:
            self.index.drop_alias(digest)
            return None
        return Blob(digest=sha256, size=stat.st_size, path=path)

    def _set_aside(self, sha256: Digest, record: Record | None) -> None:
        """Take a damaged blob out of the store; one of many chunks is kept for its good ones, see `damaged`."""
        path = self.blob_path(sha256)
        if record is not None and len(record.chunks) > 1:
            with contextlib.suppress(ModelfetchError, OSError):
                aside = self.folder("ingest") / f"{sha256.hex}.damaged"
                write_whole(beside(aside), record.dump())
                path.replace(aside)
        self.remove(sha256)

    def damaged(self, digest: Digest) -> tuple[Path, Record] | None:
        """A file that was the blob of a digest before it was damaged, and what its record said; the caller removes it.

        Other names may share its bytes: it must not be written to.
        """
        sha256 = self.index.sha256_of(digest)
        if sha256 is None:
            return None
        aside = self.path / "ingest" / f"{sha256.hex}.damaged"
        record = self.index.record(aside)
        return (aside, record) if record is not None and aside.exists() else None


def _sweep(folder: Path) -> None:
    """Remove temporary files of processes that were killed: nobody writes to them for an hour and still lives."""
    oldest = time.time() - _ABANDONED
    for path in (*folder.glob("tmp-*"), *folder.glob("*.damaged*")):
        with contextlib.suppress(OSError):
            if path.lstat().st_ctime < oldest:
                path.unlink()


class _Fd:
    """A file descriptor to close."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def close(self) -> None:
        os.close(self._fd)


def _take(source: Path, target: Path) -> None:
    """Bring a file's bytes under a new name: by sharing blocks, else by a read-only link, else by a copy."""
    if try_reflink(source, target):
        return
    if source.stat().st_size >= _LINK_FROM:
        try:
            target.hardlink_to(source)
            target.chmod(BLOB_MODE)
        except OSError:
            target.unlink(missing_ok=True)
        else:
            return
    with source.open("rb") as read, target.open("xb") as write:
        read_into(read.fileno(), 0, os.fstat(read.fileno()).st_size, write.write)
