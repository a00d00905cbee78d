"""Delete what a removal plan names.

Files that a service lists or reads first (manifests, snapshots) are deleted first, then their bytes, then the blobs;
the receipts are written last. If the process is killed in between, or a blob can't be deleted, receipts name missing
files, and the same command finishes the work.
"""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from modelfetch.care.inventory import Origin
from modelfetch.core import os_errors
from modelfetch.core.digest import Digest
from modelfetch.core.fs import inode_of
from modelfetch.errors import DestinationError, ModelfetchError
from modelfetch.manifest.kinds import FOLDERS
from modelfetch.placement import journal
from modelfetch.placement.receipts import Receipt, lock_receipt, read_receipt, write_receipt
from modelfetch.store.adopted import unmark_adopted
from modelfetch.store.locks.lock import repeat_if_lost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from modelfetch.care.inventory import Inventory, Item
    from modelfetch.care.references import References
    from modelfetch.care.removal import RemovalPlan
    from modelfetch.pipeline.session import Session
    from modelfetch.placement.root_tree import RootTree
    from modelfetch.store.locks.lock import Held

_STATIC = frozenset(f"{consumer}/{folder}" if folder else consumer for (consumer, _), folder in FOLDERS.items()) | {
    "ollama/models",
    "ollama/models/blobs",
    "ollama/models/manifests",
}
"""Folders that a service reads; they are kept when empty."""


def delete_items(
    plan: RemovalPlan,
    inventory: Inventory,
    references: References,
    session: Session,
    *,
    confirm: Callable[[], None],
) -> tuple[tuple[Item, ...], tuple[ModelfetchError, ...]]:
    """Delete the items of a plan; blocks. The caller excludes other processes.

    ``confirm`` is called before each item is deleted; it raises if they are not excluded any more.

    Returns:
        The items that were deleted, and an error for each that could not be.

    Raises:
        InterruptedSync: It was cancelled; the receipts have what was deleted until then.
        RetryLaterError: Another process kept a consumer's lock, or ``confirm`` raised it.
    """
    deletion = _Deletion(inventory, references, session, confirm)
    deletion.run(plan)
    return tuple(deletion.removed), tuple(deletion.errors)


class _Deletion:
    """Deletes files; a failure is recorded as an error, and the rest continues."""

    def __init__(
        self, inventory: Inventory, references: References, session: Session, confirm: Callable[[], None]
    ) -> None:
        self._inventory = inventory
        self._references = references
        self._session = session
        self._confirm = confirm
        self._tree = session.inspector.tree
        self.removed: list[Item] = []
        self.errors: list[ModelfetchError] = []
        self._undeleted_blobs: set[str | None] = set()

    def run(self, plan: RemovalPlan) -> None:
        placed: dict[str, list[Item]] = defaultdict(list)
        stored: list[Item] = []
        for item in plan.items:
            (stored if item.consumer is None else placed[item.consumer]).append(item)
        gone: dict[str, set[str]] = defaultdict(set)
        for item in plan.forgotten:
            gone[item.consumer or ""].add(item.path or "")
        try:
            for consumer, items in placed.items():
                self._session.cancel.check()
                self._delete_placements(consumer, items, gone[consumer])
            for item in stored:
                self._session.cancel.check()
                self._confirm()
                self._delete_stored(item)
            self._confirm()
            self._session.store.index.sweep()
        finally:
            for consumer, paths in gone.items():
                if paths:
                    self._forget(consumer, paths)

    def _delete_placements(self, consumer: str, items: list[Item], gone: set[str]) -> None:
        """Delete placements of a consumer, and add their paths to ``gone``."""
        with self._lock(consumer):
            entries = read_receipt(self._inventory.root, consumer).entries
            known = self._inventory.receipts[consumer].entries
            for item in sorted(items, key=self._bytes_last):
                path = item.path or ""
                self._confirm()
                if entries.get(path) == known.get(path) and self._unlink(item, path):
                    gone.add(path)

    def _bytes_last(self, item: Item) -> int:
        path = item.path or ""
        is_read_first = path in self._references.needs or (item.entry is not None and item.entry.target is not None)
        return 0 if is_read_first or "/refs/" in path else 1

    def _unlink(self, item: Item, path: str) -> bool:
        """Delete a placement unless it changed since the inventory; returns whether it is gone."""
        with self._recorded(item):
            if _unlink_unchanged(self._tree, path, item):
                self.removed.append(item)
                self._tree.remove_empty_folders(path, stop=_STATIC)
                return True
        return False

    def _delete_stored(self, item: Item) -> None:
        """Delete a blob that has no more links, or the remains of a download, unless it changed since the inventory."""
        with self._recorded(item), contextlib.suppress(FileNotFoundError):
            found = item.file.lstat()
            if inode_of(found) != item.inode or found.st_mtime_ns != item.mtime_ns:
                return
            if item.origin is not Origin.BLOB:
                item.file.unlink()
            elif found.st_nlink > 1:
                return
            else:
                digest = Digest.parse(item.digest or "")
                self._session.store.remove(digest)
                unmark_adopted(self._inventory.store, digest)
            self.removed.append(item)

    @contextlib.contextmanager
    def _recorded(self, item: Item) -> Iterator[None]:
        """Record an error instead of raising it."""
        try:
            with os_errors.translated(item.file, doing="removing"):
                yield
        except ModelfetchError as error:
            self.errors.append(error.about(model=item.model))
            if item.origin is Origin.BLOB:
                self._undeleted_blobs.add(item.digest)

    def _forget(self, consumer: str, gone: set[str]) -> None:
        """Drop the paths from the receipt and the journal of a consumer.

        Those that exist again stay: if this process was suspended, another one may have placed files there meanwhile.
        So do those whose blob could not be deleted: by them, the same command finds it again.
        """
        root = self._inventory.root

        def work() -> None:
            with self._lock(consumer) as held:
                try:
                    receipt = read_receipt(root, consumer)
                    undeleted = {
                        path
                        for path, entry in receipt.entries.items()
                        if self._undeleted_blobs & {entry.digest, entry.archive}
                    }
                    missing = {path for path in gone - undeleted if not self._exists(path)}
                    journal.forget(root, consumer, missing, confirm=held.ensure_owned)
                    write_receipt(root, _without_paths(receipt, missing), confirm=held.ensure_owned)
                except OSError:
                    held.ensure_owned()  # if another process took over, that is the reason
                    raise

        try:
            with os_errors.translated(root, doing="writing the receipt in"):
                repeat_if_lost(work, label=consumer)
        except ModelfetchError as error:
            self.errors.append(error)

    def _exists(self, path: str) -> bool:
        with contextlib.suppress(DestinationError):  # it leads outside ROOT, so nothing there was placed
            return self._tree.lstat(path) is not None
        return False

    def _lock(self, consumer: str) -> AbstractContextManager[Held]:
        return lock_receipt(self._inventory.root, consumer, **self._session.lock_options)


def _without_paths(receipt: Receipt, gone: set[str]) -> Receipt:
    """The receipt without the given paths, and without the resolutions of models that have no path left."""
    entries = {path: entry for path, entry in receipt.entries.items() if path not in gone}
    lost = {receipt.entries[path].model for path in gone if path in receipt.entries}
    left = {entry.model for entry in entries.values()}
    frozen = {key: found for key, found in receipt.frozen.items() if found.model not in lost - left}
    return replace(receipt, entries=entries, frozen=frozen)


def _unlink_unchanged(tree: RootTree, path: str, item: Item) -> bool:
    """Remove ``path`` below ROOT if it is still the item's file; returns whether it was removed.

    Raises:
        DestinationError: The path leads outside ROOT.
        OSError: The file can't be removed.
    """
    with tree.parent(path) as (folder, name):
        try:
            found = os.lstat(name, dir_fd=folder)
        except FileNotFoundError:
            return False
        if (inode_of(found), found.st_size, found.st_mtime_ns) != (item.inode, item.size, item.mtime_ns):
            return False
        os.unlink(name, dir_fd=folder)
        return True
