"""Inspect paths below ROOT: state from stat, contents by hashing; each file is hashed at most once per run."""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from modelfetch.core import directories, fs, temp_files
from modelfetch.core.cancel import Cancel
from modelfetch.core.check_progress import reporting_large
from modelfetch.core.digest import Digest
from modelfetch.core.events import discard
from modelfetch.errors import DestinationError, DiskError
from modelfetch.formats.oci_manifest import MAX_MANIFEST
from modelfetch.placement.layouts import Placement, PlacementMethod, placements
from modelfetch.placement.ollama_manifests import (
    NEWER_FOLDER,
    is_manifest,
    is_newer,
    lists_manifest,
    older_path,
    same_manifest,
)
from modelfetch.placement.receipts import Entry
from modelfetch.placement.root_tree import RootTree
from modelfetch.placement.state import (
    Action,
    State,
    action_after_hashing,
    action_before_hashing,
    fits,
    is_rewritten,
    state_of_file,
    state_of_symlink,
)
from modelfetch.store.adopted import is_adopted
from modelfetch.store.checks import read_checks

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from modelfetch.core.artifact import Resolution
    from modelfetch.core.events import Sink
    from modelfetch.manifest.model import Model
    from modelfetch.placement.path_stat import PathStat
    from modelfetch.placement.receipts import Receipt
    from modelfetch.store import Blob, Store
    from modelfetch.store.checks import Check

_ATTEMPTS = 3
_NEVER = -1
"""An mtime that no file has."""


def wanted_digest(placement: Placement) -> Digest | None:
    """The digest that a placement's bytes must have, if it is known before they are fetched."""
    if placement.text is not None:
        return Digest.sha256(placement.text)
    return placement.artifact.digest if placement.artifact else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """The action for a path, and what was found there.

    ``state`` is what stat alone shows (see `Inspector.state`), ``entry`` what the receipt or the journal records about
    the bytes there, ``seen`` their state when they were inspected, ``digest`` the sha256 of bytes that are kept (for an
    unpacked archive: the archive's).
    """

    action: Action
    state: State
    entry: Entry | None = None
    seen: PathStat | None = None
    digest: Digest | None = None


class _ChangedError(Exception):
    """A file was modified while it was being read."""


class Inspector:
    """Reads the disk below ROOT; caches hashes by inode, size and mtime.

    Args:
        root: ROOT, or its tree.
        cancel: Cancels the hashing of a large file.
        store: The store; a path that is a hardlink of a blob needs no hashing and is not foreign.
        sink: Receives the progress of long hashing.
    """

    def __init__(
        self,
        root: Path | RootTree,
        cancel: Cancel | None = None,
        *,
        store: Store | None = None,
        sink: Sink = discard,
    ) -> None:
        self.tree = root if isinstance(root, RootTree) else RootTree(root)
        self._cancel = cancel or Cancel()
        self._store = store
        self._sink = sink
        self._hashes: dict[tuple[object, ...], Digest] = {}
        self._takes_symlinks: dict[str, bool] = {}

    def lay_out(
        self, consumer: str, model: Model, resolution: Resolution, receipt: Receipt, *, probe: bool = True
    ) -> tuple[Placement, ...]:
        """Return what a consumer expects on disk for a model, given the file system of its folder.

        If symlinks can't be created there, a Hugging Face cache gets regular files, as huggingface_hub does it, and
        keeps them. A store that Ollama 0.40 or later has used gets its manifests in both places.

        Args:
            consumer: The consumer.
            model: The model.
            resolution: Its files.
            receipt: The consumer's receipt.
            probe: Whether to try creating a symlink if one must be made: a root may have been moved to a file system
                without them.
        """
        found = placements(consumer, model, resolution, newer_ollama=self._has_newer_manifests)
        links = [one for one in found if one.how is PlacementMethod.SYMLINK]
        if not links or self._has_symlinks(consumer, links, receipt, probe=probe):
            return found
        return placements(consumer, model, resolution, symlinks=False)

    def state(self, placement: Placement, receipt: Receipt, wanted: Digest | None) -> State:
        """The state of a placement, from stat alone.

        Raises:
            DestinationError: Its path leads outside ROOT.
            OSError: The path can't be examined.
        """
        if placement.how is PlacementMethod.UNPACK:
            return self._state_of_archive(placement, receipt, wanted)
        return self._recorded_state(placement, receipt, self._stat(placement), wanted)

    def states_of_members(self, placement: Placement, receipt: Receipt, wanted: Digest | None) -> dict[str, State]:
        """The state of each file that was unpacked from an archive, by path; empty if the receipt names none.

        A file is ready if it is unchanged and a copy. Raises as `state` does.
        """
        self.tree.lstat(f"{placement.path}/x")  # raises if the folder leads outside ROOT
        return {
            path: self._state_of_member(path, entry)
            for path, entry in receipt.below(placement.path).items()
            if entry.archive and _is_from(entry, placement, wanted)
        }

    def inspect(self, placement: Placement, receipt: Receipt, wanted: Digest | None) -> Inspection:
        """Decide what to do about a placement; hashes the file there if stat is not enough.

        Raises:
            DestinationError: Its path leads outside ROOT.
            DiskError: The file is being written to.
            OSError: The path can't be examined.
        """
        if placement.how is PlacementMethod.UNPACK:
            return self._inspect_archive(placement, receipt, wanted)
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(_ChangedError):
                return self._inspect(placement, receipt, wanted)
        path = self.tree.path(placement.path)
        raise DiskError(f"{path} changes while it is read", hint="stop the service that writes to it, and run again")

    def is_in_place(self, path: str, entry: Entry) -> bool:
        """Whether a path is in the state that an entry records, or was rewritten by its service since."""
        with contextlib.suppress(OSError, DestinationError):
            seen = self.tree.lstat(path)
            if seen is not None and seen.target is not None and entry.digest is not None:  # an adopted symlink
                seen = self.tree.lstat(path, follow=True)
            return seen is not None and (fits(entry, seen) or is_rewritten(path, entry, seen))
        return False

    def find_claimed(self, path: str, receipt: Receipt) -> Entry | None:
        """The entry of a file that the journal claims, if it has the claimed bytes; hashes what is no link of a blob.

        Raises:
            DestinationError: The path leads outside ROOT.
            OSError: It can't be read.
        """
        with contextlib.suppress(_ChangedError):
            return self._known(path, receipt, self.tree.lstat(path))
        return None

    def is_damaged(self, path: str, seen: PathStat | None) -> bool:
        """Whether the last full check of a path found other bytes, and nothing was written since."""
        check = self._damage.get(path)
        return check is not None and seen is not None and check.applies_to(seen.size, seen.mtime_ns)

    def has_digest(self, path: str, digest: Digest) -> bool:
        """Whether a path is a regular file with a digest, whatever its date; reads the file.

        Raises:
            DestinationError: Its path leads outside ROOT.
            OSError: It can't be read.
        """
        seen = self.tree.lstat(path)
        with contextlib.suppress(_ChangedError):
            return seen is not None and seen.regular and self._hash(path, seen, digest.algorithm) == digest
        return False

    def is_same_manifest(self, path: str, wanted: Digest) -> bool:
        """Whether a path is a manifest of Ollama with the content of the stored one with the digest ``wanted``."""
        return self._store is not None and is_same_manifest(self.tree, self._store, path, wanted)

    def may_be_missing(self, path: str) -> bool:
        """Whether Ollama does without a missing path: from 0.40 on, it reads the older manifest if a tag has no newer.

        If something that is not a folder is in the way of the newer one, Ollama can't be relied on to do so.
        """
        if not is_newer(path):
            return False
        try:
            with self.tree.folder(path.rpartition("/")[0]):
                return True
        except FileNotFoundError:
            return True
        except (OSError, DestinationError):
            return False

    # --- inside ------------------------------------------------------------------------------------------------

    @cached_property
    def _has_newer_manifests(self) -> bool:
        with contextlib.suppress(OSError, DestinationError):
            return self.tree.lstat(NEWER_FOLDER.rstrip("/")) is not None
        return False

    @cached_property
    def _blobs_by_inode(self) -> dict[tuple[int, int], Blob]:
        found: dict[tuple[int, int], Blob] = {}
        for blob in self._store.blobs() if self._store else ():
            with contextlib.suppress(OSError):
                found[fs.inode_of(blob.path.lstat())] = blob
        return found

    @cached_property
    def _digests_by_size(self) -> dict[int, set[Digest]]:
        found: dict[int, set[Digest]] = defaultdict(set)
        for blob in self._blobs_by_inode.values():
            found[blob.size].add(blob.digest)
        return found

    @cached_property
    def _damage(self) -> dict[str, Check]:
        checks = read_checks(directories.own_folder(self.tree.path("")))
        return {path: check for path, check in checks.items() if not check.ok}

    def _recorded_state(
        self, placement: Placement, receipt: Receipt, seen: PathStat | None, wanted: Digest | None
    ) -> State:
        """The state of a path, given its stat result, according to the receipt."""
        state = self._known_state(placement, _recorded_entry(placement.path, receipt), seen, wanted)
        # Modelfetch has placed something here. Only hashing can show whether this is still the same file.
        return State.CHANGED if state is State.FOREIGN and placement.path in receipt.claims else state

    def _known_state(
        self, placement: Placement, entry: Entry | None, seen: PathStat | None, wanted: Digest | None
    ) -> State:
        state = _state(placement, entry, seen, wanted)
        return State.DAMAGED if state is State.READY and self.is_damaged(placement.path, seen) else state

    def _inspect(self, placement: Placement, receipt: Receipt, wanted: Digest | None) -> Inspection:
        seen = self._stat(placement)
        recorded = self._recorded_state(placement, receipt, seen, wanted)
        entry = self._known(placement.path, receipt, seen)
        state = self._known_state(placement, entry, seen, wanted)
        action = action_before_hashing(state, entry)
        if action is None:
            action = action_after_hashing(state, entry, equal=self._equal(placement, seen, wanted))
        if action is Action.REFUSE and seen is not None:
            action = self._action_for_blob(placement.path, seen)
        digest = None
        if action is Action.KEEP and seen is not None and seen.regular:
            known = state is State.REWRITTEN or (entry is not None and fits(entry, seen) and state is not State.DAMAGED)
            ready = entry is not None and entry.digest is not None and known
            # The receipt records the sha256; the next run needs it to recognise by stat that nothing changed.
            digest = Digest.parse(entry.digest) if entry and entry.digest and ready else self._sha256(placement, seen)
            if entry is None and self._is_own_blob(seen, digest):  # the receipt was lost
                entry = _entry_of_link(placement, digest, seen)
        return Inspection(action=action, state=recorded, entry=entry, seen=seen, digest=digest)

    def _stat(self, placement: Placement) -> PathStat | None:
        """Stat a placement's path; an unexpected symlink is followed, since it may lead to the right bytes."""
        seen = self.tree.lstat(placement.path)
        if seen is None or seen.target is None or seen.target == placement.target:
            return seen
        return self.tree.lstat(placement.path, follow=True)

    def _known(self, path: str, receipt: Receipt, seen: PathStat | None) -> Entry | None:
        """The receipt's entry; if it does not describe the file there, an entry made from the journal's claims.

        Raises:
            _ChangedError: The file was modified while it was being read.
            OSError: It can't be read.
        """
        entry = _recorded_entry(path, receipt)
        claims = receipt.claims.get(path, ())
        if seen is None or not claims or (entry is not None and fits(entry, seen)):
            return entry
        for claim in reversed(claims):
            found = Entry(
                digest=claim.digest,
                size=seen.size,
                mtime_ns=seen.mtime_ns,
                how="symlink" if claim.digest is None else "copy",
                made=True,
                model=claim.model,
                uri=claim.uri,
                target=seen.target,
                archive=entry.archive if entry else None,
                manifests=entry.manifests if entry else (),
            )
            if claim.digest is None:
                if seen.target is not None and seen.target == claim.target:
                    return found
            elif seen.regular and seen.target is None and claim.size in (None, seen.size):
                wanted = Digest.parse(claim.digest)
                if (linked := self._is_blob(seen, wanted)) or self._hash(path, seen) == wanted:
                    return replace(found, how="link") if linked else found
        return entry

    def _equal(self, placement: Placement, seen: PathStat | None, wanted: Digest | None) -> bool:
        if seen is None:
            return False
        if seen.target is not None and seen.target == placement.target:
            return True
        if wanted is not None and self.is_same_manifest(placement.path, wanted):
            return True
        size = len(placement.text) if placement.text is not None else placement.artifact and placement.artifact.size
        if wanted is None or not seen.regular or (size is not None and size != seen.size):
            return False
        return self._is_blob(seen, wanted) or self._hash(placement.path, seen, wanted.algorithm) == wanted

    def _sha256(self, placement: Placement, seen: PathStat) -> Digest:
        wanted = wanted_digest(placement)
        if wanted is not None and wanted.algorithm == "sha256":
            return wanted  # already compared
        return self._hash(placement.path, seen)

    def _action_for_blob(self, path: str, seen: PathStat) -> Action:
        """The action for a file that no receipt or claim names, but whose bytes the store has.

        This happens when the receipts of an older version, which kept no journal, were lost. A hardlink of a blob is
        replaced, since its bytes stay in the store; a copy is moved aside.
        """
        if self._store is None or not seen.regular or seen.target is not None:
            return Action.REFUSE
        linked = self._blobs_by_inode.get(seen.inode)
        if linked is not None and self._is_blob(seen, linked.digest):
            return Action.REPLACE if self._is_own_blob(seen, linked.digest) else Action.REFUSE
        same_size = self._digests_by_size.get(seen.size, ())
        return Action.DISPLACE if same_size and self._hash(path, seen) in same_size else Action.REFUSE

    def _is_blob(self, seen: PathStat, digest: Digest) -> bool:
        """Whether a path is a hardlink of a blob that is known to be complete."""
        if self._store is None or (blob := self._store.peek(digest)) is None:
            return False
        with contextlib.suppress(OSError):
            found = blob.path.lstat()
            return fs.inode_of(found) == seen.inode
        return False

    def _is_own_blob(self, seen: PathStat, digest: Digest) -> bool:
        """Whether a path is a hardlink of a complete blob, and not a name that a user's file had before."""
        return self._store is not None and not is_adopted(self._store.path, digest) and self._is_blob(seen, digest)

    def _hash(self, path: str, seen: PathStat, algorithm: str = "sha256") -> Digest:
        """Hash a file that must still be in the state ``seen``.

        Raises:
            _ChangedError: Its state has changed, or it was modified while it was being read.
            OSError: It can't be read.
        """
        key = (seen.inode, seen.size, seen.mtime_ns)
        if (*key, algorithm) not in self._hashes:
            try:
                fd = self.tree.open(path, follow=seen.target is not None)
            except FileNotFoundError:
                raise _ChangedError(path) from None
            with fs.closing(fd):
                # If the file matches another kind of digest, its sha256 is needed next.
                _require_state(fd, key)
                algorithms = dict.fromkeys((algorithm, "sha256"))
                label = f"{path}: size or date changed, checking"
                with reporting_large(self._sink, label, size=seen.size) as advance:
                    digests = fs.hash_descriptor(fd, *algorithms, check=self._cancel.check, advance=advance)
                _require_state(fd, key)
            for found in digests:
                self._hashes[*key, found.algorithm] = found
        return self._hashes[*key, algorithm]

    def _inspect_archive(self, placement: Placement, receipt: Receipt, wanted: Digest | None) -> Inspection:
        state = self._state_of_archive(placement, receipt, wanted)
        if state not in (State.READY, State.OUTDATED):
            return Inspection(action=Action.CREATE, state=state)
        uri = placement.artifact.uri if placement.artifact else None
        archives = {entry.archive for entry in receipt.below(placement.path).values() if entry.uri == uri}
        found = archives.pop() if len(archives) == 1 else None
        return Inspection(action=Action.KEEP, state=state, digest=Digest.parse(found) if found else None)

    def _state_of_archive(self, placement: Placement, receipt: Receipt, wanted: Digest | None) -> State:
        """The state of an unpacked archive: that of the first file that is not as it was unpacked."""
        states = self.states_of_members(placement, receipt, wanted).values()
        whole = State.OUTDATED if State.OUTDATED in states else State.READY if states else State.MISSING
        return next((state for state in states if state not in (State.READY, State.OUTDATED)), whole)

    def _state_of_member(self, path: str, entry: Entry) -> State:
        seen = self.tree.lstat(path, follow=True)
        if seen is None:
            return State.MISSING
        if not fits(entry, seen):
            return State.CHANGED
        if self.is_damaged(path, seen):
            return State.DAMAGED
        return State.OUTDATED if entry.how == "link" else State.READY

    def _has_symlinks(self, consumer: str, links: Sequence[Placement], receipt: Receipt, *, probe: bool) -> bool:
        known = [entry for link in links if (entry := receipt.entries.get(link.path)) is not None]
        no_links = all(entry.target is None for entry in known)
        if no_links and (any(entry.made for entry in known) or self._are_files(links)):
            return False
        if not probe or self._are_in_place(links, receipt):
            return True
        if consumer not in self._takes_symlinks:
            self._takes_symlinks[consumer] = self._try_symlink(links[0].path)
        return self._takes_symlinks[consumer]

    def _are_files(self, links: Sequence[Placement]) -> bool:
        """Whether files are in the place of links that would lead nowhere, as in a cache from Windows."""
        with contextlib.suppress(DestinationError, OSError), self.tree.keeping_folder_open():
            found = [seen for link in links if (seen := self.tree.lstat(link.path)) is not None]
            if found and all(seen.regular and seen.target is None for seen in found):
                return any(self.tree.lstat(_target_path(link)) is None for link in links)
        return False

    def _are_in_place(self, links: Sequence[Placement], receipt: Receipt) -> bool:
        """Whether each of these paths is as the receipt has it, so that no symlink must be made."""
        with contextlib.suppress(DestinationError, OSError), self.tree.keeping_folder_open():
            for link in links:
                entry, seen = receipt.entries.get(link.path), self._stat(link)
                if entry is None or seen is None or not fits(entry, seen):
                    return False
        return True

    def _try_symlink(self, path: str) -> bool:
        """Whether a symlink can be created in the nearest existing folder above a path; True if that is unknown."""
        with contextlib.suppress(DestinationError, OSError), self.tree.nearest_folder(path.rpartition("/")[0]) as fd:
            return _takes_symlinks(fd)
        return True


def is_same_manifest(tree: RootTree, store: Store, path: str, wanted: Digest) -> bool:
    """Whether a path is a manifest of Ollama with the content of the stored one with the digest ``wanted``."""
    if not is_manifest(path):
        return False
    try:
        fd = tree.open(path, follow=True)  # Ollama 0.40 makes a tag a symlink to a blob
    except (OSError, DestinationError):
        return False
    with os.fdopen(fd, "rb") as file:
        data = file.read(MAX_MANIFEST + 1)
    expected = store.read(wanted)
    return lists_manifest(data, wanted) or (expected is not None and same_manifest(data, expected))


def _target_path(link: Placement) -> str:
    """The path below ROOT that a symlink leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(link.path), link.target or ""))


def _recorded_entry(path: str, receipt: Receipt) -> Entry | None:
    """The receipt's entry for a path; that of the older path for a tag that Ollama 0.40 wrote for a model of ours."""
    entry = receipt.entries.get(path)
    if entry is None and is_newer(path) and (older := receipt.entries.get(older_path(path))) is not None:
        return replace(older, mtime_ns=_NEVER) if older.made else None
    return entry


def _takes_symlinks(folder: int) -> bool:
    """Whether a relative symlink can be created in a folder and read back; sshfs hides those that contain ``..``."""
    name, target = temp_files.temporary_name("probe"), "../x"
    try:
        os.symlink(target, name, dir_fd=folder)
        try:
            return os.readlink(name, dir_fd=folder) == target
        finally:
            os.unlink(name, dir_fd=folder)
    except OSError as error:
        return error.errno not in (*fs.NO_SYMLINKS, errno.EIO)  # EIO: rclone


def _entry_of_link(placement: Placement, digest: Digest, seen: PathStat) -> Entry:
    return Entry(
        digest=str(digest),
        size=seen.size,
        mtime_ns=seen.mtime_ns,
        how="link",
        made=True,
        model="",
        uri=placement.artifact.uri if placement.artifact else None,
    )


def _require_state(fd: int, key: tuple[object, ...]) -> None:
    found = os.fstat(fd)
    if (fs.inode_of(found), found.st_size, found.st_mtime_ns) != key:
        raise _ChangedError


def _state(placement: Placement, entry: Entry | None, seen: PathStat | None, wanted: Digest | None) -> State:
    artifact = placement.artifact
    uri = artifact.uri if artifact else None
    if placement.how is PlacementMethod.SYMLINK:
        return state_of_symlink(entry, seen, placement.target or "", wanted, uri)
    state = state_of_file(entry, seen, wanted, uri)
    if state is State.CHANGED and is_rewritten(placement.path, entry, seen):
        return State.REWRITTEN if wanted is None or (entry and entry.digest == str(wanted)) else State.CHANGED
    if state is not State.READY:
        return state
    if placement.how is PlacementMethod.COPY and entry is not None and entry.how == "link":
        return State.OUTDATED
    if wanted is None and artifact and artifact.size not in (None, entry and entry.size):
        return State.OUTDATED  # no digest is known, but the source has a different file now
    return state


def _is_from(entry: Entry, placement: Placement, wanted: Digest | None) -> bool:
    if wanted is not None and wanted.algorithm == "sha256":
        return entry.archive == str(wanted)
    return placement.artifact is not None and entry.uri == placement.artifact.uri
