"""The beginning of a file that was read for another purpose, kept as the partial file that a transfer goes on from.

Nothing here is needed: what can't be kept is fetched again, and what is in the way stays as it is. The transfer trusts
a seed no more than any partial file: its journal names the version, and its bytes are compared before they count.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import xxhash

from modelfetch.core.fs import open_regular, read_small
from modelfetch.errors import ModelfetchError
from modelfetch.store.locks.lock import LockLostError, lock
from modelfetch.transfer.fetch import key_of
from modelfetch.transfer.journal import ChunkChecksum, Identity, Journal, parse_journal
from modelfetch.transfer.partial import JOURNAL_LIMIT, Partial
from modelfetch.transfer.writer import SegmentWriter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from modelfetch.core.artifact import Artifact
    from modelfetch.store.store import Store


def prefill(store: Store, artifact: Artifact, data: memoryview, identity: Identity) -> bool:
    """Keep the first bytes of an artifact for its transfer; whether they are there now. Never raises, never waits.

    Nothing is done where it could do harm: while somebody has the artifact's lock, where a partial file is further or
    of another version, where a blob (perhaps a damaged one, whose good parts are worth more) lies, or where files of
    this user would be in another user's folder.

    Args:
        store: Where the transfer will look.
        artifact: What it will be told to fetch.
        data: The file from its first byte on.
        identity: Which version of it that is.
    """
    if artifact.digest is None:
        # A partial file that is complete would pass without a question to the source, and without a validator one
        # that is not would be thrown away.
        data = data[: (identity.size or 0) - 1] if len(data) == identity.size else data
        if identity.validator is None:
            return False
    key = key_of(artifact)
    try:
        if not data or _has_blob(store, artifact) or not _is_ours(store):
            return False
        guard, path = store.path / "locks" / f"{key}.lock", store.path / "ingest" / f"{key}.part"
        if guard.exists() or not _is_short(path, len(data), identity):
            return False
        store.folder("locks")
        store.folder("ingest")
        with lock(guard, label=artifact.path, timeout=0.0) as held:
            if held.predecessor_may_be_alive or not _is_short(path, len(data), identity):
                return False
            partial = Partial(path, algorithms=(), size=artifact.size, ensure_owned=held.ensure_owned)
            _write(partial, data, identity)
    except (ModelfetchError, OSError, LockLostError):
        return False
    return True


def _has_blob(store: Store, artifact: Artifact) -> bool:
    """Whether the store has something under the artifact's digest, right or wrong."""
    if artifact.digest is None:
        return False
    sha256 = store.index.sha256_of(artifact.digest)
    return sha256 is not None and (os.path.lexists(store.blob_path(sha256)) or store.damaged(sha256) is not None)


def _is_ours(store: Store) -> bool:
    """Whether the folders that are written to, or in which they would be made, are this user's own."""
    try:
        return all(_existing(store.path / name).stat().st_uid == os.geteuid() for name in ("ingest", "locks"))
    except OSError:
        return False


def _existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _is_short(path: Path, length: int, identity: Identity) -> bool:
    """Whether there is no partial file, or one of the same version that has less than ``length`` bytes."""
    try:
        size = path.lstat().st_size
    except FileNotFoundError:
        return True
    return size < length and _journal(path).identity == identity


def _write(partial: Partial, data: memoryview, identity: Identity) -> None:
    kept = False
    try:
        partial.trust()
        partial.identify(identity)
        for start, end in partial.spans.missing(len(data)):
            lane = SegmentWriter(partial, start)
            lane.take(data[start:end])
            lane.close()
        kept = True
    finally:
        partial.close(keep=kept)


def _journal(path: Path) -> Journal:
    try:
        return parse_journal(read_small(path.with_suffix(".json"), JOURNAL_LIMIT))
    except OSError:
        return Journal()


class PartialPrefix:
    """The proven first bytes of an artifact's partial file, read without its lock: a transfer may be at work on it.

    Only an artifact with a digest has one, for nothing else tells that its bytes are still the right ones; and only
    bytes that came from one of its own places count.

    Args:
        store: Where the partial file lies, if there is one.
        artifact: What it is part of.
    """

    def __init__(self, store: Store, artifact: Artifact) -> None:
        self._path = store.path / "ingest" / f"{key_of(artifact)}.part"
        journal = _journal(self._path) if artifact.digest is not None else Journal()
        known = journal.identity
        ours = known is not None and any(known.is_from(place.uri, place.url) for place in artifact.locations)
        self._marks = self._in_line(journal.marks) if ours else iter(())
        self._data = bytearray()

    def read(self, offset: int, length: int) -> bytes:
        """The bytes at ``offset`` as far as they are proven, none beyond the first that is not."""
        end = offset + length
        with contextlib.suppress(OSError):
            while len(self._data) < end and (mark := next(self._marks, None)) is not None:
                if not self._prove(mark):
                    self._marks = iter(())
        return bytes(self._data[offset:end])

    def _in_line(self, marks: dict[int, ChunkChecksum]) -> Iterator[ChunkChecksum]:
        """The marks that follow each other without a gap from the first byte on."""
        while (mark := marks.get(len(self._data))) is not None:
            yield mark

    def _prove(self, mark: ChunkChecksum) -> bool:
        """Read what a mark speaks for, and keep it if it is that: the file may change at any time."""
        start, _ = mark.span
        fd = open_regular(self._path)
        try:
            data = os.pread(fd, mark.length, start)
        finally:
            os.close(fd)
        if len(data) != mark.length or xxhash.xxh3_64_hexdigest(data) != mark.xxh3:
            return False
        self._data += data
        return True
