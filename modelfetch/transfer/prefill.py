"""Keep the start of a file that was read for another purpose as the partial file that a transfer resumes.

All of this is optional: what can't be kept is fetched again, and existing files are left alone. A transfer trusts these
bytes no more than any partial file: the journal names their version, and they are compared before they count.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import xxhash

from modelfetch.core.directories import nearest_existing_parent
from modelfetch.core.fs import closing, open_regular
from modelfetch.errors import ModelfetchError
from modelfetch.store.locks.lock import LockLostError, lock
from modelfetch.transfer.fetch import key_of
from modelfetch.transfer.journal import ChunkChecksum, Identity, Journal
from modelfetch.transfer.partial import Partial, read_journal
from modelfetch.transfer.writer import SegmentWriter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from modelfetch.core.artifact import Artifact
    from modelfetch.store.store import Store


def prefill(store: Store, artifact: Artifact, data: memoryview, identity: Identity) -> bool:
    """Keep the first bytes of an artifact for its transfer; returns whether they were kept. Never raises or waits.

    Nothing is done where it could do harm: while the artifact's lock is taken, if there is a longer partial file or one
    of another version, if there is a blob (even a damaged one, whose intact chunks are worth more), or if files of this
    user would be created in another user's folder.

    Args:
        store: The store of the transfer.
        artifact: The artifact that it will fetch.
        data: The file's first bytes.
        identity: The version that they are of.
    """
    if artifact.digest is None:
        # A complete partial file would be accepted without a request, and one without a validator discarded.
        data = data[: (identity.size or 0) - 1] if len(data) == identity.size else data
        if identity.validator is None:
            return False
    key = key_of(artifact)
    try:
        if not data or _has_blob(store, artifact) or not _belongs_to_user(store):
            return False
        guard, path = store.path / "locks" / f"{key}.lock", store.path / "ingest" / f"{key}.part"
        if guard.exists() or not _may_replace(path, len(data), identity):
            return False
        store.folder("locks")
        store.folder("ingest")
        with lock(guard, label=artifact.path, timeout=0.0) as held:
            if held.predecessor_may_be_alive or not _may_replace(path, len(data), identity):
                return False
            partial = Partial(path, algorithms=(), size=artifact.size, ensure_owned=held.ensure_owned)
            _write(partial, data, identity)
    except (ModelfetchError, OSError, LockLostError):
        return False
    return True


def _has_blob(store: Store, artifact: Artifact) -> bool:
    """Whether the store has a blob for the artifact's digest, valid or damaged."""
    if artifact.digest is None:
        return False
    sha256 = store.index.sha256_of(artifact.digest)
    return sha256 is not None and (os.path.lexists(store.blob_path(sha256)) or store.damaged(sha256) is not None)


def _belongs_to_user(store: Store) -> bool:
    """Whether the folders to write to, or those in which they would be created, belong to this user."""
    try:
        folders = (nearest_existing_parent(store.path / name) for name in ("ingest", "locks"))
        return all(folder.stat().st_uid == os.geteuid() for folder in folders)
    except OSError:
        return False


def _may_replace(path: Path, length: int, identity: Identity) -> bool:
    """Whether there is no partial file, or one of the same version with fewer than ``length`` bytes."""
    try:
        size = path.lstat().st_size
    except FileNotFoundError:
        return True
    return size < length and read_journal(path).identity == identity


def _write(partial: Partial, data: memoryview, identity: Identity) -> None:
    kept = False
    try:
        partial.trust()
        partial.identify(identity)
        for start, end in partial.spans.missing(len(data)):
            writer = SegmentWriter(partial, start)
            writer.take(data[start:end])
            writer.close()
        kept = True
    finally:
        partial.close(keep=kept)


class PartialPrefix:
    """The verified first bytes of an artifact's partial file, read without its lock, even during a transfer.

    Only an artifact with a digest has them, since nothing else shows that the bytes are still valid; and only bytes
    from one of its own locations count.

    Args:
        store: The store with the partial file, if there is one.
        artifact: The artifact.
    """

    def __init__(self, store: Store, artifact: Artifact) -> None:
        self._path = store.path / "ingest" / f"{key_of(artifact)}.part"
        journal = read_journal(self._path) if artifact.digest is not None else Journal()
        known = journal.identity
        ours = known is not None and any(known.is_from(place.uri, place.url) for place in artifact.locations)
        self._checksums = self._contiguous(journal.checksums) if ours else iter(())
        self._data = bytearray()

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes at ``offset``, up to the first that is not verified."""
        end = offset + length
        with contextlib.suppress(OSError):
            while len(self._data) < end and (checksum := next(self._checksums, None)) is not None:
                if not self._verify(checksum):
                    self._checksums = iter(())
        return bytes(self._data[offset:end])

    def _contiguous(self, checksums: dict[int, ChunkChecksum]) -> Iterator[ChunkChecksum]:
        """Yield the checksums that follow each other without a gap from the first byte on."""
        while (checksum := checksums.get(len(self._data))) is not None:
            yield checksum

    def _verify(self, checksum: ChunkChecksum) -> bool:
        """Read the bytes of a checksum once, and keep them if they match: the file may change at any time."""
        start, _ = checksum.span
        with closing(open_regular(self._path)) as fd:
            data = os.pread(fd, checksum.length, start)
        if len(data) != checksum.length or xxhash.xxh3_64_hexdigest(data) != checksum.xxh3:
            return False
        self._data += data
        return True
