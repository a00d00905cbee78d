"""List everything below ROOT and in the store, with filters and sorting."""

from __future__ import annotations

import fnmatch
import re
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modelfetch.care.inventory import Inventory, Item, Origin, take_inventory
from modelfetch.care.preconditions import require_root
from modelfetch.care.references import References
from modelfetch.care.removal import Rules, plan_removal
from modelfetch.core.units import parse_age, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from modelfetch.pipeline.session import Session

SORTS = ("model", "size", "verified", "path")
"""What entries may be sorted by."""
_FILTER_KEYS = ("size", "verified", "origin", "model", "for", "tier")
_FILTER = re.compile(rf"({'|'.join(_FILTER_KEYS)})\s*(>=|<=|=|>|<)\s*(.+)\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Entries, and the number of bytes that a `prune` without a tier would free.

    ``limit``: the maximum number of entries or rows shown; totals cover all entries. ``folders``: the folders of
    services that are outside ROOT. ``sort``: what the entries are sorted by, and whether in reverse.
    """

    root: str
    store: str
    entries: tuple[Item, ...]
    reclaimable: int
    limit: int | None = None
    folders: Mapping[str, Path] = field(default_factory=dict)
    sort: tuple[str, bool] = ("model", False)

    def rows(self) -> list[tuple[Item, ...]]:
        """The entries of each model and service together, in the order of the sums of their sizes, or oldest dates."""
        groups: dict[tuple[str | None, ...], list[Item]] = defaultdict(list)
        for item in self.entries:
            groups[item.model, None if item.model else item.origin, item.consumer].append(item)
        rows = [tuple(items) for items in groups.values()]
        key, reverse = self.sort
        if key in _ROW_KEYS:  # otherwise they are sorted, like the entries
            rows.sort(key=_ROW_KEYS[key], reverse=reverse)
        return rows

    @property
    def bytes(self) -> int:
        """The disk space of the entries, in bytes; shared bytes count once."""
        return bytes_of(self.entries)

    def as_dict(self) -> dict[str, Any]:
        """Convert to the value that `list --json` prints."""
        return {
            "root": self.root,
            "store": self.store,
            "entries": [_as_dict(item) for item in self.entries[: self.limit]],
            "bytes": self.bytes,
            "reclaimable": self.reclaimable,
        }


def list_files(
    session: Session,
    *,
    filters: Sequence[Callable[[Item], bool]] = (),
    sort: tuple[str, bool] = ("model", False),
    limit: int | None = None,
) -> Listing:
    """List all files; blocks.

    Args:
        session: The session, with the root, the store and the consumers to list.
        filters: Predicates of `parse_filter`; all must hold.
        sort: One of `SORTS`, and whether in reverse.
        limit: The maximum number of entries or rows shown.

    Raises:
        DestinationError, DiskError: A folder can't be read.
    """
    name, reverse = sort
    require_root(session)
    inventory = take_inventory(session)
    consumers = session.options.consumers
    entries = [
        item
        for item in shown_items(inventory)
        if (not consumers or item.consumer in consumers) and all(test(item) for test in filters)
    ]
    entries.sort(
        key=lambda item: (item.model is None, item.model or "", item.path is None, item.path or str(item.file))
    )
    entries.sort(key=_KEYS[name], reverse=reverse)
    return Listing(
        root=str(session.options.root),
        store=str(session.store.path),
        entries=tuple(entries),
        reclaimable=reclaimable_bytes(inventory),
        limit=limit,
        folders=session.consumer_dirs,
        sort=sort,
    )


def shown_items(inventory: Inventory) -> list[Item]:
    """All items but the blobs whose bytes a placement shows already, and the placements that are gone."""
    placed = {item.inode for item in inventory.placements if item.inode is not None}
    return [
        item
        for item in inventory.items
        if item.inode is not None and not (item.origin is Origin.BLOB and item.inode in placed)
    ]


def bytes_of(items: Iterable[Item]) -> int:
    """The disk space of items, in bytes; bytes that several names share count once."""
    return sum({item.inode: item.size for item in items if item.inode is not None}.values())


def reclaimable_bytes(inventory: Inventory) -> int:
    """The number of bytes that `prune` without a tier would free."""
    rules = Rules(wanted=lambda _: True, now=time.time())
    return plan_removal(inventory, References(), rules).freed


def oldest_check(items: Iterable[Item]) -> datetime | None:
    """The oldest date of verification of the items that have a digest; None if one has none, or if none has one."""
    dates = [item.verified for item in items if item.digest is not None]
    return None if None in dates else min((date for date in dates if date is not None), default=None)


def parse_sort(text: str) -> tuple[str, bool]:
    """Parse ``KEY[:asc|:desc]`` to a key and whether to reverse; sizes and dates are descending by default.

    Raises ValueError with the expected form.
    """
    name, _, direction = text.partition(":")
    if name not in SORTS or direction not in ("", "asc", "desc"):
        raise ValueError(f"expected one of {', '.join(SORTS)}, with :asc or :desc after it, found {text!r:.80}")
    return name, direction == "desc" if direction else name in ("size", "verified")


def parse_filter(text: str) -> Callable[[Item], bool]:
    """Parse ``KEY OP VALUE`` to a predicate; raises ValueError with the expected form.

    Such as ``size>1GB``, ``verified>30d`` (longer ago), ``origin=foreign``, ``model=sdxl*``, ``for=ollama`` or
    ``tier=16g``.
    """
    match = _FILTER.match(text.strip())
    if match is None:
        keys = ", ".join(_FILTER_KEYS)
        raise ValueError(f"expected one of {keys}, an operator and a value, such as size>1GB, found {text!r:.80}")
    key, operator, value = match.groups()
    return _test(key, operator, value.strip())


_KEYS: dict[str, Callable[[Item], Any]] = {
    "model": lambda item: (item.model is None, item.model or ""),
    "size": lambda item: item.size,
    "verified": lambda item: item.verified.timestamp() if item.verified else 0.0,
    "path": lambda item: item.path or str(item.file),
}
_ROW_KEYS: dict[str, Callable[[Iterable[Item]], float]] = {
    "size": bytes_of,
    "verified": lambda items: date.timestamp() if (date := oldest_check(items)) else 0.0,
}
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    "=": lambda a, b: a == b,
}


def _test(key: str, operator: str, value: str) -> Callable[[Item], bool]:
    if key == "size":
        size = parse_size(value)
        return lambda item: _COMPARE[operator](item.size, size)
    if key == "verified":
        age, now = parse_age(value), time.time()
        never = operator.startswith(">")  # of a file that a check would hash
        return lambda item: (
            _COMPARE[operator](now - item.verified.timestamp(), age)
            if item.verified is not None
            else never and item.digest is not None
        )
    if operator != "=":
        raise ValueError(f"{key} supports only =")
    if key == "origin" and value not in tuple(Origin):
        raise ValueError(f"expected one of {', '.join(Origin)}")
    return lambda item: any(fnmatch.fnmatchcase(word, value) for word in _words(item, key))


def _words(item: Item, key: str) -> Sequence[str]:
    if key == "tier":
        return item.tiers
    word = {"origin": str(item.origin), "model": item.model, "for": item.consumer}[key]
    return (word,) if word else ()


def _as_dict(item: Item) -> dict[str, Any]:
    return {
        "model": item.model,
        "consumer": item.consumer,
        "path": item.path,
        "digest": item.digest,
        "size": item.size,
        "origin": str(item.origin),
        "tiers": list(item.tiers),
        "verified": item.verified.isoformat().replace("+00:00", "Z") if item.verified else None,
    }
