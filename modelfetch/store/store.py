"""The store: verified, read-only files named by their sha256."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from modelfetch.core.check_progress import reporting_large
from modelfetch.core.digest import Digest, new_hasher
from modelfetch.core.directories import link_descriptor, make_directory, rename_new, sync_directory
from modelfetch.core.events import Sink, discard
from modelfetch.core.fs import BLOB_MODE, RefusalReporter, closing, open_regular, read_small, try_chmod, try_fsync
from modelfetch.core.os_errors import translate, translated
from modelfetch.core.temp_files import sweep_temporaries, temporary_name
from modelfetch.errors import DiskError, ModelfetchError
from modelfetch.store.adopted import is_adopted
from modelfetch.store.chunks import hash_open_file, read_into
from modelfetch.store.index import Index, record_path, write_new, write_whole
from modelfetch.store.record import BlobRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_TAG_NAME = "CACHEDIR.TAG"
_TAG = (
    b"Signature: 8a477f597d28d172789f06886806bc55\n"
    b"# This directory holds model files that modelfetch can fetch again.\n"
    b"# For information about cache directory tags see https://bford.info/cachedir/\n"
)
_SYNCED_TOGETHER = 4 * 2**20 + 1
_MAX_UNSYNCED = 300
_READ_LIMIT = 64 * 2**20
"""Maximum size of a blob that is read whole: registry manifests and configurations, in practice a few kilobytes."""
_LEFT_OVER = r".*\.damaged.*|\..*|tmp-.*"
"""Damaged blobs that were set aside, and the temporary names of version 0.1."""
_READABLE = 0o444
_UNVERIFIED = -1
"""The ``mtime_ns`` of a record that fits no file."""


_OWN_NAME = re.compile(r"[0-9a-f]{40,}(\.\w+)*|[\w-]+\.lock(\.\w+)*|\.modelfetch-.*\.part")
"""The files of a store: blobs, partial files and their records, locks, temporary files."""


def is_store(folder: Path) -> bool:
    """Return whether a folder is a store, or another folder of modelfetch that has its tag."""
    return _read_tag(folder) == _TAG


def _read_tag(folder: Path) -> bytes | None:
    """The content of a folder's tag; None if it has none that may be modelfetch's, whole or cut off by a kill."""
    try:
        found = read_small(folder / _TAG_NAME, len(_TAG))
    except OSError:
        return None
    return found if _TAG.startswith(found) else None


def _remove_own_files(folder: Path) -> None:
    """Remove the files of a store below one of its folders, and the folders that are empty then; never raises."""
    for current, _, names in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            for name in names:
                if _OWN_NAME.fullmatch(name):
                    os.unlink(os.path.join(current, name))  # noqa: PTH108, PTH118 - of os.walk
            os.rmdir(current)  # noqa: PTH106


def _remove_open(path: Path, fd: int) -> None:
    """Remove a file that is open, unless the path is another file's by now."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(path.lstat(), os.fstat(fd)):
            path.unlink()


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A verified file of the store; ``digest`` is its sha256, ``size`` in bytes."""

    digest: Digest
    size: int
    path: Path


class Store:
    """A folder of blobs. It is created on the first write.

    Args:
        path: The folder, ``ROOT/.modelfetch`` or the value of ``--store``.
        sink: Receives warnings about operations that the file system refuses (modes, fsync), and the progress of
            hashing large blobs.
    """

    def __init__(self, path: Path, *, sink: Sink = discard) -> None:
        self.path = path
        self.index = Index(path)
        self._blobs = str(path / "blobs" / "sha256")
        self._ingest = str(path / "ingest")
        self._sink = sink
        self.refused = RefusalReporter(sink)
        """Reports what the file systems of a run refuse, each kind once; placing uses it too."""
        self._lock = threading.Lock()
        self._unsynced: set[Path] = set()
        self._made: dict[tuple[str, ...], Path] = {}
        self._is_tagged = False

    # --- reading -----------------------------------------------------------------------------------------------

    def peek(self, digest: Digest) -> Blob | None:
        """Return the blob if it exists and its record confirms its state; nothing is hashed or written."""
        sha256 = self.index.sha256_of(digest)
        if sha256 is None or (state := self._state_of(sha256)) is None:
            return None
        return self._confirmed(digest, sha256, state)

    def _state_of(self, sha256: Digest) -> os.stat_result | None:
        try:
            return os.lstat(self._blob_name(sha256))
        except OSError:
            return None

    def _confirmed(self, digest: Digest, sha256: Digest, state: os.stat_result) -> Blob | None:
        """Return the blob of a digest if its record confirms its state; ``sha256`` is the index's for the digest."""
        path = self.blob_path(sha256)
        record = self.index.record(path) if stat.S_ISREG(state.st_mode) else None
        if record is None or not record.fits(state):
            return None
        if digest != sha256 and record.digests.get(digest.algorithm) != digest.hex:
            return None
        return Blob(digest=sha256, size=state.st_size, path=path)

    def find(self, digest: Digest, size: int | None = None) -> Blob | None:
        """Return the blob, verified by its record or by hashing it again; a damaged one is removed.

        Args:
            digest: sha256, blake3 or git-sha1.
            size: The required size in bytes, if known.

        Raises:
            DiskError, DestinationError: It can't be read, or a damaged one can't be removed.
        """
        sha256 = self.index.sha256_of(digest)
        if sha256 is None or (state := self._state_of(sha256)) is None:
            return None
        blob = self._confirmed(digest, sha256, state) or self._verify(digest, sha256)
        return None if blob is None or (size is not None and blob.size != size) else blob

    def read(self, digest: Digest) -> bytes | None:
        """Return the bytes of a small blob, verified against the digest; None if it is missing or damaged."""
        sha256 = self.index.sha256_of(digest)
        if sha256 is None:
            return None
        try:
            data = read_small(self.blob_path(sha256), _READ_LIMIT)
        except OSError:
            return None
        hasher = new_hasher(digest.algorithm, len(data))
        hasher.update(data)
        return data if hasher.hexdigest() == digest.hex else None

    def blobs(self) -> Iterator[Blob]:
        """Yield every blob of the store, from its name and size; nothing is verified."""
        for path in sorted((self.path / "blobs" / "sha256").glob("??/" + "?" * 64)):
            with contextlib.suppress(ValueError, OSError):
                yield Blob(digest=Digest("sha256", path.name), size=path.stat().st_size, path=path)

    def blob_path(self, sha256: Digest) -> Path:
        """Return the path for the blob of a sha256, whether or not it exists."""
        return Path(self._blob_name(sha256))

    def _blob_name(self, sha256: Digest) -> str:
        return f"{self._blobs}/{sha256.hex[:2]}/{sha256.hex}"

    def record(self, sha256: Digest) -> BlobRecord | None:
        """Return the state of a blob at its last verification."""
        return self.index.record(self.blob_path(sha256))

    # --- writing -----------------------------------------------------------------------------------------------

    def folder(self, *parts: str) -> Path:
        """Return a folder of the store, created if it is missing.

        Raises:
            DestinationError, DiskError: It can't be created.
        """
        path = self._made.get(parts)
        if path is not None:
            return path
        path = self.path.joinpath(*parts)
        if not path.is_dir():
            with translated(path, doing="making"):
                make_directory(self.path)
                self._tag()
                make_directory(path)
        if parts == ("ingest",):
            self._sweep(path)
        self._made[parts] = path
        return path

    def _tag(self) -> None:
        if not self._is_tagged:
            tag = self.path / _TAG_NAME
            if not tag.exists() or _read_tag(self.path) is not None:
                write_new(tag, _TAG)
            self._is_tagged = True

    def invalidate_cache(self) -> None:
        """Forget which folders exist: another process may have removed them."""
        self._made.clear()
        self._is_tagged = False

    def _sweep(self, folder: Path) -> None:
        """Remove temporary files of killed processes, and damaged blobs that were not repaired."""
        with contextlib.suppress(OSError):
            sweep_temporaries(folder, older=_LEFT_OVER)

    def tmp(self) -> Path:
        """Return a new name on the store's file system for a temporary file; those of killed runs are removed."""
        return self.folder("ingest") / temporary_name()

    def add_bytes(self, data: bytes) -> Blob:
        """Store some bytes; raises DestinationError or DiskError."""
        digest = Digest.sha256(data)
        found = self.find(digest)
        if found is not None:
            return found
        temporary = self.tmp()
        try:
            with temporary.open("x+b") as file:
                file.write(data)
                file.flush()
                return self.admit(temporary, file.fileno(), {"sha256": digest}, hash_open_file(file.fileno())[1])
        except OSError as error:
            raise translate(error, temporary, doing="writing") from error
        finally:
            temporary.unlink(missing_ok=True)

    def admit(
        self,
        part: Path,
        fd: int,
        digests: dict[str, Digest],
        chunks: tuple[str, ...],
        *,
        fsync: bool = True,
        state: os.stat_result | None = None,
        mode: int | None = BLOB_MODE,
        ensure_owned: Callable[[], None] = lambda: None,
    ) -> Blob:
        """Make a verified file a blob: fsync, read-only, rename, fsync of the folder, record.

        A blob of these bytes that is whole stays, for placements share its bytes.

        Args:
            part: The name of the file; it is gone afterwards, unless it is another file's by now.
            fd: The same file, open.
            digests: By algorithm, ``sha256`` among them.
            chunks: The xxh3 of each chunk.
            fsync: Whether to wait until the data is on the disk.
            state: The file's state when it was hashed, if others may write to it; its current state by default.
            mode: Its new mode; None leaves it unchanged, for a file that belongs to another owner too.
            ensure_owned: Called right before the rename; raises if another process has taken over the work.

        Raises:
            DestinationError, DiskError: The operation failed; the part still exists.
        """
        sha256 = digests["sha256"]
        path = self.blob_path(sha256)
        others = {name: digest.hex for name, digest in digests.items() if name != "sha256"}
        if (kept := self._whole(sha256, fd)) is not None:
            with translated(part, doing="removing"):
                _remove_open(part, fd)
            if (record := self.record(sha256)) is not None:
                self.index.write_record(path, replace(record, digests={**record.digests, **others}))
            return kept
        folder = self.folder("blobs", "sha256", sha256.hex[:2])
        with translated(part, doing="storing"):
            if fsync:
                try_fsync(fd, refused=self.refused)
            if mode is not None:
                try_chmod(fd, mode, refused=self.refused)
            state = state or os.fstat(fd)
            ensure_owned()
            if not self._rename(part, fd, path):
                state = self._copy(fd, path, sha256)
            _remove_open(part, fd)
        self._sync_later(folder, small=state.st_size < _SYNCED_TOGETHER)
        self.index.write_record(
            path, BlobRecord(size=state.st_size, mtime_ns=state.st_mtime_ns, chunks=chunks, digests=others)
        )
        return Blob(digest=sha256, size=state.st_size, path=path)

    def _whole(self, sha256: Digest, fd: int) -> Blob | None:
        """Return the blob, if it is another file than the open one, not a user's, and hashing it finds the digest."""
        if self.peek(sha256) is None or is_adopted(self.path, sha256):
            return None
        with contextlib.suppress(FileNotFoundError):
            if not os.path.samestat(self.blob_path(sha256).lstat(), os.fstat(fd)):
                return self._verify(sha256, sha256, reason="downloaded again")
        return None

    def _rename(self, part: Path, fd: int, path: Path) -> bool:
        """Rename an open file to the path of its blob; False if it must be copied (a union mount).

        Only the descriptor counts: if this process was suspended after it checked its lock, ``part`` may be the
        unfinished file of another process. So the file first gets a name that no other process uses.
        """
        unique = self.tmp()
        linked = link_descriptor(fd, unique)
        try:
            if not linked:
                part.replace(unique)
            if os.path.samestat(unique.lstat(), os.fstat(fd)):
                unique.replace(path)
                return True
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.ENOENT):
                raise
        finally:
            with contextlib.suppress(OSError):
                if linked:
                    unique.unlink()
                else:
                    rename_new(str(unique), str(part))
        return False

    def _copy(self, fd: int, path: Path, sha256: Digest) -> os.stat_result:
        """Copy an open file to the path of its blob; returns the state of the copy."""
        self._sweep(path.parent)
        copy = path.with_name(temporary_name())
        try:
            with copy.open("x+b") as file:
                read_into(fd, 0, os.fstat(fd).st_size, file.write)
                file.flush()
                if hash_open_file(file.fileno(), "sha256")[0]["sha256"] != sha256:
                    raise DiskError(f"{copy} does not contain what was written to it")
                try_chmod(file.fileno(), BLOB_MODE, refused=self.refused)
                try_fsync(file.fileno(), refused=self.refused)
                copy.replace(path)
                return os.fstat(file.fileno())
        finally:
            copy.unlink(missing_ok=True)

    def settle(self) -> None:
        """Make the names of small blobs durable in one batch: a lost one is just fetched again."""
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
            many = len(self._unsynced) >= _MAX_UNSYNCED
        if many:
            self.settle()

    def is_private(self, sha256: Digest) -> bool:
        """Whether a blob is a user's file that other users may not read, so that services need copies of it."""
        if not is_adopted(self.path, sha256):
            return False
        with contextlib.suppress(OSError):
            return self.blob_path(sha256).lstat().st_mode & _READABLE != _READABLE
        return False

    def remove(self, sha256: Digest) -> bool:
        """Remove a blob and its record; returns whether there was one.

        Raises:
            DestinationError, DiskError: It can't be removed.
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

    def is_foreign(self) -> bool:
        """Return whether the folder has content that does not come from a store of modelfetch, or is another user's.

        Another user could have put links to any folder in it. Who owns the folder above may do so anyway.
        """
        if self.path.is_symlink() or (self.path.exists() and not self.path.is_dir()):
            return True
        if self.path.is_dir() and self.path.stat().st_uid not in (os.geteuid(), self.path.parent.stat().st_uid):
            return True
        # The tag comes first and goes last, so a folder of a killed run may have a part of it, or be empty.
        return self.path.is_dir() and _read_tag(self.path) is None and any(self.path.iterdir())

    def clear(self) -> None:
        """Remove the store's own files, and the folders that are empty then; never raises.

        The locks of other processes must not be held.
        """
        for name in ("blobs", "ingest", "locks"):
            if not (self.path / name).is_symlink():
                _remove_own_files(self.path / name)
        with contextlib.suppress(OSError):
            self._remove_tagged_folder()
        self.invalidate_cache()

    def remove_if_empty(self) -> None:
        """Remove the store's folder if it holds no blob, no partial file and no lock; never raises."""
        with contextlib.suppress(OSError):
            for name in ("ingest", "locks", "blobs"):
                with contextlib.suppress(FileNotFoundError):
                    (self.path / name).rmdir()
            self._remove_tagged_folder()
        self.invalidate_cache()

    def _remove_tagged_folder(self) -> None:
        """Remove the store's folder if only its tag is in it; raises OSError."""
        if os.listdir(self.path) == [_TAG_NAME]:  # noqa: PTH208 - names are enough
            (self.path / _TAG_NAME).unlink()
        self.path.rmdir()

    # --- internals ---------------------------------------------------------------------------------------------

    def _verify(self, digest: Digest, sha256: Digest, *, reason: str = "size or date changed") -> Blob | None:
        """Verify a blob by hashing it, and record its state; ``sha256`` is the index's for the digest."""
        path = self.blob_path(sha256)
        old = self.index.record(path)
        known = {"sha256", digest.algorithm, *(old.digests if old else ())}
        try:
            with closing(open_regular(path)) as fd:
                state = os.fstat(fd)
                label = f"{path.name[:12]}… in the store: {reason}, checking"
                with reporting_large(self._sink, label, size=state.st_size) as advance:
                    digests, chunks = hash_open_file(fd, *known, advance=advance)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise translate(error, path, doing="reading") from error
        if digests["sha256"] != sha256:
            self._set_aside(sha256, old)
            return None
        others = {name: found.hex for name, found in digests.items() if name != "sha256"}
        record = BlobRecord(size=state.st_size, mtime_ns=state.st_mtime_ns, chunks=chunks, digests=others)
        self.index.write_record(path, record)
        if digests[digest.algorithm] != digest:
            self.index.drop_alias(digest)
            return None
        return Blob(digest=sha256, size=state.st_size, path=path)

    def _set_aside(self, sha256: Digest, record: BlobRecord | None) -> None:
        """Remove a damaged blob; if it has many chunks, set it aside to reuse the intact ones (see `damaged`)."""
        path = self.blob_path(sha256)
        if record is not None and len(record.chunks) > 1:
            with contextlib.suppress(ModelfetchError, OSError):
                aside = self.folder("ingest") / f"{sha256.hex}.damaged"
                write_whole(record_path(aside), record.dump(), temporary=self.tmp())
                path.replace(aside)
        self.remove(sha256)

    def distrust(self, sha256: Digest) -> None:
        """Invalidate the record of a blob, so that it is hashed before it is used again.

        The chunks that the record knows are kept, for what can be saved of the blob.
        """
        if (record := self.record(sha256)) is not None:
            self.index.write_record(self.blob_path(sha256), replace(record, mtime_ns=_UNVERIFIED))

    def confirm(self, sha256: Digest, *, size: int, mtime_ns: int) -> None:
        """Record that a blob, with this size and mtime, was hashed and has the right bytes."""
        record = self.record(sha256)
        if record is not None and record.size == size:
            self.index.write_record(self.blob_path(sha256), replace(record, mtime_ns=mtime_ns))

    def set_aside(self, sha256: Digest) -> None:
        """Set aside a blob that is damaged although its record matches; see `damaged`.

        Raises:
            DestinationError, DiskError: It can't be moved.
        """
        self._set_aside(sha256, self.record(sha256))

    def damaged(self, digest: Digest) -> tuple[Path, BlobRecord] | None:
        """Return a damaged blob that was set aside, and its record; the caller must remove it.

        It must not be written to, since other files may share its bytes.
        """
        sha256 = self.index.sha256_of(digest)
        if sha256 is None:
            return None
        aside = f"{self._ingest}/{sha256.hex}.damaged"
        record = self.index.record(aside)
        return (Path(aside), record) if record is not None and Path(aside).exists() else None
