"""Decide which files may be removed, from the inventory, the requests and the references. Pure.

Removed are files that modelfetch made according to a receipt and that were not changed since, blobs without references
or links, and old unfinished downloads. A file that a user changed or added, and an adopted one, stays.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelfetch.care.inventory import Condition, Origin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from modelfetch.care.inventory import Inventory, Item
    from modelfetch.care.references import References

WEEK = 7 * 86_400.0
"""Seconds after which a partial file may go, and a blob that may belong to an unfinished sync."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptItem:
    """An item that is kept although it is not requested, and the reason."""

    item: Item
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovalPlan:
    """The items to remove, those that are kept for a reason, and the receipt entries of files that no longer exist."""

    items: tuple[Item, ...] = ()
    kept: tuple[KeptItem, ...] = ()
    forgotten: tuple[Item, ...] = ()

    @property
    def freed(self) -> int:
        """The number of bytes freed: those of files all of whose links are removed."""
        return bytes_freed(self.items)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The rules of a removal.

    Attributes:
        wanted: Whether a placement is requested.
        now: Seconds since the epoch.
        older_than: Minimum age of removed files, in seconds; if None, `WEEK` for partial files and none for others.
        consumers: Only these consumers' placements (none: all).
        rewritten: Whether files that their service rewrote are removed as well.
        kept_by: The tier that keeps a placement which would be removed otherwise.
        leftovers: Whether unused blobs and partial files are removed; `remove` leaves those of other models.
        requested: The digests of all files that are requested: blobs that a sync has yet to place. None if they are
            unknown: then any blob younger than a week may be one, while the store has an unfinished download as young.
    """

    wanted: Callable[[Item], bool]
    now: float
    older_than: float | None = None
    consumers: Sequence[str] = ()
    rewritten: bool = False
    leftovers: bool = True
    requested: frozenset[str] | None = None
    kept_by: Callable[[Item], str | None] = lambda _: None


def plan_removal(inventory: Inventory, references: References, rules: Rules) -> RemovalPlan:
    """Decide about every item."""
    unwanted = [
        item
        for item in inventory.placements
        if not rules.wanted(item) and (not rules.consumers or item.consumer in rules.consumers)
    ]
    going: dict[str, Item] = {}
    kept: list[KeptItem] = []
    for item in unwanted:
        if item.condition is Condition.MISSING:
            continue
        reason = _reason_to_keep(item, rules)
        if reason is None:
            going[item.path or ""] = item
        else:
            kept.append(KeptItem(item=item, reason=reason))
    kept.extend(
        KeptItem(item=item, reason=f"tier {tier} needs it")
        for item in inventory.placements
        if rules.wanted(item) and (not rules.consumers or item.consumer in rules.consumers)
        if (tier := rules.kept_by(item)) is not None
    )
    _add_orphans(going, inventory, references, rules)
    for path, reason in _still_needed(going, inventory, references).items():
        kept.append(KeptItem(item=going.pop(path), reason=reason))
    forgotten = tuple(item for item in unwanted if item.condition is Condition.MISSING)
    gone = (*going.values(), *forgotten)
    blobs, pending = _unused_blobs(inventory, gone, rules)
    kept.extend(KeptItem(item=blob, reason="a sync that was not finished may need it") for blob in pending)
    partials = _old_partials(inventory, rules) if rules.leftovers else ()
    return RemovalPlan(items=(*going.values(), *blobs, *partials), kept=tuple(kept), forgotten=forgotten)


def bytes_freed(items: Iterable[Item]) -> int:
    """The number of bytes of the files all of whose links are among the items."""
    names: Counter[tuple[int, int]] = Counter()
    sizes: dict[tuple[int, int], tuple[int, int]] = {}
    for item in items:
        if item.inode is not None:
            names[item.inode] += 1
            sizes[item.inode] = item.size, item.links
    return sum(size for inode, (size, links) in sizes.items() if names[inode] >= links)


def _reason_to_keep(item: Item, rules: Rules) -> str | None:
    """Return why a placement that is not requested is kept; None if it is removed."""
    if item.origin is Origin.ADOPTED:
        return "modelfetch did not create it"
    if item.condition is Condition.CHANGED:
        return "it was changed since modelfetch placed it"
    if item.condition is Condition.REWRITTEN and not rules.rewritten:
        return "its service has rewritten it"
    if _is_young(item, rules.older_than, rules.now):
        return "it is newer than --older-than"
    return None


def _add_orphans(going: dict[str, Item], inventory: Inventory, references: References, rules: Rules) -> None:
    """Add the files that only removed files need, whichever model they were recorded for."""
    needed = {path for name in going for path in references.needs.get(name, ())}
    for item in inventory.placements:
        path = item.path or ""
        chosen = not rules.consumers or item.consumer in rules.consumers
        ours = item.origin is Origin.MADE and item.condition is Condition.PRESENT
        if path in needed and path not in going and chosen and ours and _reason_to_keep(item, rules) is None:
            going[path] = item


def _still_needed(going: dict[str, Item], inventory: Inventory, references: References) -> dict[str, str]:
    """Return the paths to remove that remaining files need, with the reason to keep each."""
    stay: dict[str, str] = {}
    for item in inventory.items:
        name = item.path
        if name is None or name in going or item.inode is None:
            continue
        for path in references.needs.get(name, ()):
            stay.setdefault(path, f"{name} needs it")
        if item.respelled is not None:
            stay.setdefault(item.respelled, f"{name} is the same file on this disk")
    for unread in references.unreadable:
        reason = f"{unread} can't be read, so it is unknown whether this blob is needed"
        stay.update({path: reason for path in going if path not in stay and _may_need(unread, path)})
    return {path: reason for path, reason in stay.items() if path in going}


def _may_need(unread: str, path: str) -> bool:
    """Whether what can't be read may need a blob: it is in the same Ollama folder or cache, or has that in it."""
    above, blobs, _ = path.rpartition("/blobs/")
    return bool(blobs) and (unread == above or unread.startswith(f"{above}/") or above.startswith(f"{unread}/"))


def _unused_blobs(inventory: Inventory, gone: Sequence[Item], rules: Rules) -> tuple[list[Item], list[Item]]:
    """Blobs that no remaining placement names and that have no other link once the removed files are gone.

    Returns:
        Those to remove, and those to keep because a sync may have yet to place them.
    """
    going = {item.path for item in gone}
    named: set[str | None] = set()
    for item in inventory.placements:
        if item.path not in going and item.entry is not None:
            named |= {item.digest, item.entry.archive}
    links = Counter(item.inode for item in gone if item.inode is not None)
    ours = {digest for item in gone if item.entry for digest in (item.digest, item.entry.archive)}
    unused = [
        blob
        for blob in inventory.blobs
        if blob.digest not in named and blob.links - (links[blob.inode] if blob.inode else 0) <= 1
    ]
    if not rules.leftovers:
        return [blob for blob in unused if blob.digest in ours], []
    unfinished = any(item.origin is Origin.PARTIAL and _is_young(item, WEEK, rules.now) for item in inventory.items)
    remove: list[Item] = []
    pending: list[Item] = []
    for blob in unused:
        if not _is_young(blob, rules.older_than, rules.now):
            is_pending = blob.digest not in ours and _may_be_pending(blob, rules, unfinished=unfinished)
            (pending if is_pending else remove).append(blob)
    return remove, pending


def _may_be_pending(blob: Item, rules: Rules, *, unfinished: bool) -> bool:
    """Whether a sync may have yet to place a blob; ``unfinished``: the store has a recent unfinished download."""
    if rules.requested is not None:
        return blob.digest in rules.requested
    return unfinished and rules.older_than is None and _is_young(blob, WEEK, rules.now)


def _old_partials(inventory: Inventory, rules: Rules) -> tuple[Item, ...]:
    age = WEEK if rules.older_than is None else rules.older_than
    return tuple(
        item for item in inventory.items if item.origin is Origin.PARTIAL and not _is_young(item, age, rules.now)
    )


def _is_young(item: Item, age: float | None, now: float) -> bool:
    return age is not None and now - item.mtime_ns / 1e9 < age
