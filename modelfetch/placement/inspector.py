"""Examining paths: state by stat, bytes by hashing, each file hashed once a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelfetch.core import fs
from modelfetch.core.cancel import Cancel
from modelfetch.core.digest import Digest
from modelfetch.placement.layouts import Placement, PlacementMethod
from modelfetch.placement.path_guard import destination
from modelfetch.placement.state import (
    Action,
    State,
    act_compared,
    act_unhashed,
    lstat_path,
    state_of_file,
    state_of_symlink,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from modelfetch.placement.receipts import Entry
    from modelfetch.placement.state import PathStat


def wanted_digest(placement: Placement) -> Digest | None:
    """The digest that a placement's bytes must have, as far as it is known before they are fetched."""
    if placement.text is not None:
        return Digest.sha256(placement.text)
    return placement.artifact.digest if placement.artifact else None


class Examiner:
    """Reads the disk below ROOT; remembers hashes by inode, size and time of change.

    Args:
        root: ROOT.
        cancel: Ends the hashing of a large file.
    """

    def __init__(self, root: Path, cancel: Cancel | None = None) -> None:
        self.root = root
        self._cancel = cancel or Cancel()
        self._hashes: dict[tuple[object, ...], Digest] = {}

    def state(self, placement: Placement, entries: Mapping[str, Entry], wanted: Digest | None) -> State:
        """How a placement stands, by stat alone.

        Raises:
            DestinationError: Its path leads outside ROOT.
            OSError: The path can't be examined.
        """
        if placement.how is PlacementMethod.UNPACK:
            return self._state_of_archive(placement, entries, wanted)
        path = destination(self.root, placement.path)
        entry, seen = entries.get(placement.path), lstat_path(path)
        if placement.how is PlacementMethod.SYMLINK:
            return state_of_symlink(entry, seen, placement.target or "")
        artifact = placement.artifact
        state = state_of_file(entry, seen, wanted, artifact.uri if artifact else None)
        if state is State.READY and wanted is None and artifact and artifact.size not in (None, entry and entry.size):
            return State.OUTDATED  # nobody knows a digest, but the source has another file by now
        return state

    def act(self, placement: Placement, entries: Mapping[str, Entry], wanted: Digest | None) -> Action:
        """What to do about a placement; hashes what is there where stat can't tell. Raises as `state` does."""
        state = self.state(placement, entries, wanted)
        entry = entries.get(placement.path)
        act = act_unhashed(state, entry)
        if act is None and placement.how is PlacementMethod.UNPACK:
            return Action.CREATE
        if act is None:
            act = act_compared(entry, equal=self._equal(placement, wanted))
        return act

    def digest(self, path: Path, algorithm: str = "sha256") -> Digest | None:
        """The digest of a regular file; None where there is none. Raises OSError as reading does."""
        seen = lstat_path(path)
        if seen is None or not seen.regular:
            return None
        key = (seen.inode, seen.size, seen.mtime_ns)
        if (*key, algorithm) not in self._hashes:
            # The sha256 of a file that is right by another digest is asked for next.
            for found in fs.hash_file(path, *dict.fromkeys((algorithm, "sha256")), check=self._cancel.check):
                self._hashes[*key, found.algorithm] = found
        return self._hashes[*key, algorithm]

    def known_as(self, placement: Placement, entries: Mapping[str, Entry]) -> Digest | None:
        """The sha256 of what a placement that is kept has: the receipt's while it holds, else by reading it.

        Receipts have the sha256, so only with it can the next run tell by a stat that all is as it was.

        Of an archive that is unpacked, the receipt's alone. Raises as `state` does.
        """
        if placement.how is PlacementMethod.UNPACK:
            inside = (e for name, e in entries.items() if e.archive and name.startswith(f"{placement.path}/"))
            uri = placement.artifact.uri if placement.artifact else None
            archives = {entry.archive for entry in inside if entry.uri == uri and entry.archive}
            return Digest.parse(archives.pop()) if len(archives) == 1 else None
        path = destination(self.root, placement.path)
        entry, seen = entries.get(placement.path), lstat_path(path)
        if entry and entry.digest and seen and _unchanged(entry, seen):
            return Digest.parse(entry.digest)
        return self.digest(path)

    def _equal(self, placement: Placement, wanted: Digest | None) -> bool:
        path = destination(self.root, placement.path)
        seen = lstat_path(path)
        if placement.how is PlacementMethod.SYMLINK:
            return seen is not None and seen.target == placement.target
        size = len(placement.text) if placement.text is not None else placement.artifact and placement.artifact.size
        if wanted is None or seen is None or not seen.regular or (size is not None and size != seen.size):
            return False
        return self.digest(path, wanted.algorithm) == wanted

    def _state_of_archive(self, placement: Placement, entries: Mapping[str, Entry], wanted: Digest | None) -> State:
        """An unpacked archive is ready when each file that came out of it is as it was."""
        destination(self.root, f"{placement.path}/x")
        inside = {
            path: entry
            for path, entry in entries.items()
            if entry.archive and path.startswith(placement.path + "/") and _is_from(entry, placement, wanted)
        }
        if not inside:
            return State.MISSING
        for path, entry in inside.items():
            seen = lstat_path(self.root / path)
            if seen is None:
                return State.MISSING
            if not _unchanged(entry, seen):
                return State.CHANGED
        return State.READY


def _is_from(entry: Entry, placement: Placement, wanted: Digest | None) -> bool:
    if wanted is not None and wanted.algorithm == "sha256":
        return entry.archive == str(wanted)
    return placement.artifact is not None and entry.uri == placement.artifact.uri


def _unchanged(entry: Entry, seen: PathStat) -> bool:
    return seen.regular and (seen.size, seen.mtime_ns) == (entry.size, entry.mtime_ns)
