"""The inventory: everything below ROOT and in the store, as one value that list, verify, remove and prune use.

It combines receipts, the store's index and a walk over the services' folders; nothing is hashed or written.
"""

from __future__ import annotations

import contextlib
import os
import stat as statmod
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache, cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from modelfetch.core import os_errors
from modelfetch.core.digest import Digest
from modelfetch.core.directories import own_folder
from modelfetch.core.fs import allocated_bytes, inode_of, read_link, read_small
from modelfetch.core.limits import raise_limit
from modelfetch.core.root import CONSUMERS
from modelfetch.core.temp_files import is_temporary_name
from modelfetch.errors import DestinationError
from modelfetch.manifest.paths import check_relative, collision_key
from modelfetch.placement.inspector import is_same_manifest
from modelfetch.placement.ollama_manifests import is_manifest
from modelfetch.placement.path_stat import PathStat
from modelfetch.placement.receipts import read_receipts
from modelfetch.placement.state import fits, is_rewritten
from modelfetch.store.checks import Check, now, read_checks
from modelfetch.store.index import RECORD_LIMIT, record_path
from modelfetch.store.record import BlobRecord

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from modelfetch.pipeline.session import Session
    from modelfetch.placement.receipts import Entry, Receipt
    from modelfetch.placement.root_tree import RootTree
    from modelfetch.store import Store

_UNFINISHED = ".part"
_CLOCKS_DIFFER = timedelta(days=1)
"""How much later than now, by the clock of this machine, another machine may have verified a file."""


class Origin(StrEnum):
    """The origin of a file (contract: ``list --json``)."""

    MADE = "made"
    ADOPTED = "adopted"
    FOREIGN = "foreign"
    BLOB = "blob"
    PARTIAL = "partial"


class Condition(StrEnum):
    """How a file compares with its records, from `os.lstat` alone; only a manifest that looks changed is read."""

    PRESENT = "present"
    MISSING = "missing"
    CHANGED = "changed"
    REWRITTEN = "rewritten"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One file, symlink or blob.

    Attributes:
        file: Its absolute path.
        path: Its path below ROOT; None if it is in the store.
        digest: ``sha256:HEX`` from the receipt or store; None for symlinks, foreign and partial files.
        size: Size in bytes; for a partial file, the bytes that take space on disk.
        right_size: The size in bytes of the file that has ``digest``, if it is on record.
        inode: Device and inode; items with the same inode share their bytes. None if the file is missing.
        links: The number of hardlinks of the inode, anywhere on the file system.
        mtime_ns: The file's current mtime.
        tiers: The tiers or manifests that requested it when they were synced.
        check: The last full check, if the file has not been modified since.
        verified_at: When its bytes were last known to be right without a check of their own: the date of a blob's
            record, or the mtime of a file that modelfetch wrote and that was not modified since.
        entry: The receipt's entry, for a placement.
        respelled: The path of another placement that is this very file: its folder is the same by a link or a mount, or
            the file system makes no difference between upper and lower case.
    """

    file: Path
    origin: Origin
    condition: Condition
    size: int
    right_size: int | None = None
    path: str | None = None
    consumer: str | None = None
    model: str | None = None
    digest: str | None = None
    inode: tuple[int, int] | None = None
    links: int = 0
    mtime_ns: int = 0
    tiers: tuple[str, ...] = ()
    check: Check | None = None
    verified_at: datetime | None = None
    entry: Entry | None = None
    respelled: str | None = None

    @property
    def place(self) -> str:
        """Whose space it takes: a service's, the ``store``'s, or ``other`` for what else lies below ROOT."""
        if self.consumer is not None:
            return self.consumer
        return "other" if self.origin is Origin.FOREIGN else "store"

    @property
    def is_placement(self) -> bool:
        """Whether a receipt names it."""
        return self.entry is not None

    @property
    def verified(self) -> datetime | None:
        """The date when its bytes were last known to be right; None if never, or if a clock was wrong then."""
        found = self.verified_at if self.check is None else self.check.at if self.check.ok else None
        if found is None or found > (today := now()) + _CLOCKS_DIFFER:
            return None
        return min(found, today)

    @property
    def is_damaged(self) -> bool:
        """Whether the last full check found wrong bytes, and the file has not been modified since."""
        return self.check is not None and not self.check.ok


@dataclass(frozen=True)
class Inventory:
    """All items, of one ROOT and one store.

    ``unlisted``: folders of services that can't be listed, as paths below ROOT; ``items`` lacks files that others
    created in them.
    """

    root: Path
    store: Path
    items: tuple[Item, ...]
    receipts: Mapping[str, Receipt]
    unlisted: tuple[str, ...] = ()

    @cached_property
    def placements(self) -> tuple[Item, ...]:
        """Everything that receipts name, including missing files."""
        return tuple(item for item in self.items if item.is_placement)

    @cached_property
    def blobs(self) -> tuple[Item, ...]:
        """All blobs in the store."""
        return tuple(item for item in self.items if item.origin is Origin.BLOB)

    @cached_property
    def by_inode(self) -> Mapping[tuple[int, int], tuple[Item, ...]]:
        """All names below ROOT and in the store that share their bytes."""
        found: dict[tuple[int, int], list[Item]] = defaultdict(list)
        for item in self.items:
            if item.inode is not None:
                found[item.inode].append(item)
        return {inode: tuple(items) for inode, items in found.items()}


def take_inventory(session: Session, *, foreign: bool = True) -> Inventory:
    """Take the inventory of a session's root and store; blocks. ``foreign``: also files that no receipt names.

    Raises:
        DestinationError, DiskError: A receipt or a folder can't be read.
    """
    root, tree, store = session.options.root, session.inspector.tree, session.store
    with os_errors.translated(root, doing="reading"):
        receipts = read_receipts(root, _consumers(root))
        checks = read_checks(own_folder(root))
        placed = _with_spellings(
            [item for receipt in receipts.values() for item in _placements(tree, store, receipt, checks)]
        )
        stored = list(_stored(store, checks if store.path == own_folder(root) else read_checks(store.path)))
        items = [*placed, *_named(stored, placed), *_partials(store)]
        unlisted: list[str] = []
        if foreign:
            there = {item.path for item in placed if item.path is not None and item.inode is not None}
            for consumer, receipt in receipts.items():
                items += [_claimed(item, receipt) or item for item in _foreign(tree, consumer, there, unlisted)]
            items += _outside_services(root, services=receipts, store=store)
        return Inventory(
            root=root,
            store=store.path,
            items=tuple(_with_shared_checks(items)),
            receipts=receipts,
            unlisted=tuple(unlisted),
        )


def _consumers(root: Path) -> Iterable[str]:
    """All consumers, and those that no longer exist but have a receipt."""
    folder = own_folder(root) / "receipts"
    others = sorted(path.stem for path in folder.glob("*.json") if not path.name.startswith("."))
    return dict.fromkeys((*CONSUMERS, *others))


def _placements(tree: RootTree, store: Store, receipt: Receipt, checks: Mapping[str, Check]) -> Iterator[Item]:
    inside: dict[str, bool] = {}
    for path, entry in receipt.entries.items():
        folder = path.rpartition("/")[0]
        if folder not in inside:
            inside[folder] = _leads_inside(tree, path)
        if inside[folder]:
            file, found, seen = _stat(tree.path(path), entry)
        elif _is_below_root(path):
            file, found, seen = tree.path(path), None, None  # a folder became a link out of ROOT: it counts as missing
        else:
            continue  # a receipt written by hand
        condition = condition_of(path, entry, seen)
        if condition is Condition.CHANGED and _is_encoded_again(tree, store, path, entry):
            condition = Condition.PRESENT
        written = found if entry.made and entry.digest and condition is Condition.PRESENT else None
        yield Item(
            file=file,
            path=path,
            consumer=receipt.consumer,
            model=entry.model,
            digest=entry.digest,
            size=entry.size if found is None else found.st_size,
            right_size=entry.size if entry.digest else None,
            inode=inode_of(found) if found else None,
            links=found.st_nlink if found else 0,
            mtime_ns=found.st_mtime_ns if found else 0,
            origin=Origin.MADE if entry.made else Origin.ADOPTED,
            condition=condition,
            tiers=entry.manifests,
            check=_applicable(checks.get(path), found),
            verified_at=_date_of(written) if written else None,
            entry=entry,
        )


def _with_spellings(placed: list[Item]) -> list[Item]:
    """Note which placements are one file by two paths.

    One of two spellings is not listed in the folder; the folders of two services may be one, by links or mounts.
    """
    folders, names = cache(os.stat), cache(os.listdir)
    groups: dict[object, list[Item]] = defaultdict(list)
    for item in placed:
        if item.path is not None and item.inode is not None:
            with contextlib.suppress(OSError):  # it was removed meanwhile
                groups[inode_of(folders(item.file.parent)), collision_key(item.file.name)].append(item)
    same: dict[str, Item] = {}
    for group in (group for group in groups.values() if len(group) > 1):
        listed = {item.file.name for item in group if item.file.name in names(item.file.parent)}
        if len(listed) < len(group):
            # What modelfetch made by one path, it found there by the other.
            made = any(item.origin is Origin.MADE and item.condition is Condition.PRESENT for item in group)
            for item, other in zip(group, (*group[1:], group[0]), strict=True):
                origin = Origin.MADE if made else item.origin
                same[item.path or ""] = replace(item, respelled=other.path, origin=origin)
    return [same.get(item.path or "", item) for item in placed]


def _stat(file: Path, entry: Entry) -> tuple[Path, os.stat_result | None, PathStat | None]:
    """Stat a placement's path; an adopted symlink of the user is followed."""
    found = _lstat(file)
    if found is None or not statmod.S_ISLNK(found.st_mode):
        return file, found, PathStat.of(found) if found else None
    target = read_link(file)
    if entry.digest is not None:
        real = Path(os.path.realpath(file))
        if (followed := _lstat(real)) is not None:
            return real, followed, PathStat.of(followed, target=target)
    return file, found, PathStat.of(found, target=target)


def _is_encoded_again(tree: RootTree, store: Store, path: str, entry: Entry) -> bool:
    """Whether a file differs from its entry only because Ollama wrote the same manifest in another form."""
    try:
        return is_manifest(path) and is_same_manifest(tree, store, path, Digest.parse(entry.digest or ""))
    except ValueError:  # a receipt written by hand
        return False


def condition_of(path: str, entry: Entry, seen: PathStat | None) -> Condition:
    """How a placement compares with its entry, from stat alone."""
    if seen is None:
        return Condition.MISSING
    if fits(entry, seen):
        return Condition.PRESENT
    return Condition.REWRITTEN if is_rewritten(path, entry, seen) else Condition.CHANGED


def _stored(store: Store, checks: Mapping[str, Check]) -> Iterator[Item]:
    for blob in store.blobs():
        found = _lstat(blob.path)
        if found is None:
            continue
        record = record_path(blob.path)
        known, noted = _read_record(record), _lstat(record)
        fits = known is not None and known.fits(found)
        yield Item(
            file=blob.path,
            digest=str(blob.digest),
            size=found.st_size,
            right_size=known.size if known else None,
            inode=inode_of(found),
            links=found.st_nlink,
            mtime_ns=found.st_mtime_ns,
            origin=Origin.BLOB,
            condition=Condition.PRESENT if fits else Condition.CHANGED,
            check=_applicable(checks.get(str(blob.digest)), found),
            verified_at=_date_of(noted) if fits and noted else None,
        )


def _named(blobs: Sequence[Item], placed: Sequence[Item]) -> Iterator[Item]:
    """The blobs, with the model and tiers of placements that have the same digest."""
    models: dict[str, str] = {}
    tiers: dict[str, dict[str, None]] = defaultdict(dict)
    for item in placed:
        if item.entry is not None and item.model:
            for digest in filter(None, (item.digest, item.entry.archive)):
                models.setdefault(digest, item.model)
                tiers[digest].update(dict.fromkeys(item.tiers))
    for blob in blobs:
        digest = blob.digest or ""
        yield replace(blob, model=models.get(digest), tiers=tuple(tiers.get(digest, ())))


def _partials(store: Store) -> Iterator[Item]:
    """The content of ``ingest``: partial files and their journals, blobs that were set aside, temporary files."""
    for file in sorted((store.path / "ingest").glob("*")):
        found = _lstat(file)
        if found is not None and statmod.S_ISREG(found.st_mode):
            yield Item(
                file=file,
                size=min(found.st_size, allocated_bytes(found)) if file.suffix == _UNFINISHED else found.st_size,
                inode=inode_of(found),
                links=found.st_nlink,
                mtime_ns=found.st_mtime_ns,
                origin=Origin.PARTIAL,
                condition=Condition.PRESENT,
            )


def _foreign(tree: RootTree, consumer: str, there: set[str], unlisted: list[str]) -> Iterator[Item]:
    """Files and symlinks below a service's folder that no receipt names; symlinks are not followed.

    Args:
        tree: ROOT.
        consumer: The service.
        there: The paths of placements that are on disk.
        unlisted: Receives the folders that can't be listed.
    """
    listed = list(_walk(str(tree.path(consumer)), f"{consumer}/", unlisted=unlisted))
    # Where upper and lower case are the same, or Unicode is normalised, a placement can be listed by another spelling.
    # Inodes don't show that: FUSE gives each spelling its own.
    absent = {path for path in there if path.startswith(f"{consumer}/")}.difference(path for path, _ in listed)
    respelled = {collision_key(path) for path in absent}
    for path, file in listed:
        if path in there or (respelled and collision_key(path) in respelled):
            continue
        if (item := _foreign_item(path, file, consumer)) is not None:
            yield item


def _outside_services(root: Path, *, services: Collection[str], store: Store) -> Iterator[Item]:
    """Files below ROOT that are in no service's folder, and those that modelfetch moved aside."""
    base = os.path.realpath(root)
    own = own_folder(Path(base))
    top = os.listdir(base) if root.is_dir() else []  # noqa: PTH208 - names are enough
    # Where upper and lower case are the same, a service's folder can be listed by another spelling.
    respelled = {collision_key(name) for name in services if name not in top and (root / name).is_dir()}
    theirs = {name for name in top if name in services or collision_key(name) in respelled}
    skipped = {f"{base}/{name}" for name in theirs} | {str(own), os.path.realpath(store.path)}
    walks = (_walk(base, "", skipped), _walk(str(own / "displaced"), f"{own.name}/displaced/"))
    for path, file in chain.from_iterable(walks):
        if (item := _foreign_item(path, file)) is not None:
            yield item


def _foreign_item(path: str, file: str, consumer: str | None = None) -> Item | None:
    found = _lstat(Path(file))
    if found is None:
        return None
    return Item(
        file=Path(file),
        path=path,
        consumer=consumer,
        size=found.st_size,
        inode=inode_of(found),
        links=found.st_nlink,
        mtime_ns=found.st_mtime_ns,
        origin=Origin.FOREIGN,
        condition=Condition.PRESENT,
    )


def _walk(
    base: str, prefix: str, skipped: Collection[str] = (), unlisted: list[str] | None = None
) -> Iterator[tuple[str, str]]:
    """All files and symlinks to files below a folder: their paths below ROOT, and those of the file system.

    Args:
        base: The folder.
        prefix: Its path below ROOT, with a slash at the end.
        skipped: Folders that are left out.
        unlisted: Receives the paths below ROOT of folders that can't be listed.
    """

    def note(error: OSError) -> None:
        raise_limit(error)
        if unlisted is not None and not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            unlisted.append(f"{prefix}{str(error.filename)[len(base) + 1 :]}".rstrip("/"))

    for folder, folders, names in os.walk(base, onerror=note):
        if skipped:
            folders[:] = [name for name in folders if os.path.join(folder, name) not in skipped]  # noqa: PTH118
        for name in names:
            if not is_temporary_name(name):
                full = os.path.join(folder, name)  # noqa: PTH118 - one of many thousands
                yield f"{prefix}{full[len(base) + 1 :]}", full


def _claimed(item: Item, receipt: Receipt) -> Item | None:
    """A file that a sync is placing, or placed before it was killed: no receipt names it, but the journal does."""
    for claim in reversed(receipt.claims.get(item.path or "", ())):
        if claim.digest is not None and claim.size in (None, item.size):
            return replace(item, origin=Origin.MADE, model=claim.model or None, digest=claim.digest)
        if claim.digest is None and item.file.is_symlink() and read_link(item.file) == claim.target:
            return replace(item, origin=Origin.MADE, model=claim.model or None)
    return None


def _with_shared_checks(items: Sequence[Item]) -> Iterator[Item]:
    """Apply a blob's check to its hardlinks."""
    blobs = {item.inode: item for item in items if item.origin is Origin.BLOB and item.inode is not None}
    for item in items:
        blob = blobs.get(item.inode) if item.inode is not None else None
        if blob is None or item is blob or item.origin not in (Origin.MADE, Origin.ADOPTED):
            yield item
        else:
            yield replace(item, check=blob.check or item.check, verified_at=blob.verified_at)


def _applicable(check: Check | None, found: os.stat_result | None) -> Check | None:
    fits = check is not None and found is not None and check.applies_to(found.st_size, found.st_mtime_ns)
    return check if fits else None


def _date_of(found: os.stat_result) -> datetime | None:
    """The date when a file was written, in whole seconds; None for one before the year 1 or after 9999."""
    try:
        return datetime.fromtimestamp(int(found.st_mtime), UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _leads_inside(tree: RootTree, path: str) -> bool:
    try:
        tree.lstat(path)
    except DestinationError:
        return False
    return True


def _is_below_root(path: str) -> bool:
    try:
        check_relative(path)
    except ValueError:
        return False
    return True


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _read_record(path: Path) -> BlobRecord | None:
    try:
        return BlobRecord.parse(read_small(path, RECORD_LIMIT))
    except OSError:
        return None
