"""Receipts: what lies where for one consumer, its state when it was placed, and what was resolved for it.

A receipt is read without a lock and changed only under its consumer's lock (the caller holds it): read, merged,
written to a temporary file, fsynced and renamed. One that can't be read counts as none: the files it named are then
hashed again and adopted, nothing is lost.

It lies below the ROOT that it speaks of, wherever the blobs are: roots that share a store know nothing of each other,
and one that is moved, or mounted elsewhere, takes its receipts along.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from modelfetch.core.artifact import Resolution
from modelfetch.core.fs import make_directory, own_folder, write_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One path that modelfetch answers for.

    ``digest`` is the sha256 of its bytes, ``size`` in bytes and ``mtime_ns`` their state when they were last known to
    be right; a symlink has a ``target`` instead. ``how`` is link, reflink, copy, text, symlink or adopted: ``made``
    tells whether modelfetch put it there. ``archive`` is the digest of the archive a file was unpacked from.
    ``manifests`` are the tiers or files that ask for it.
    """

    digest: str | None
    size: int
    mtime_ns: int
    how: str
    made: bool
    model: str
    uri: str | None = None
    target: str | None = None
    archive: str | None = None
    manifests: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """What was resolved for one entry of one manifest text."""

    tier: str
    model: str
    resolution: Resolution


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """All of one consumer: ``entries`` by path below ROOT, ``frozen`` by `frozen_key`."""

    consumer: str
    entries: Mapping[str, Entry] = field(default_factory=dict)
    frozen: Mapping[str, Frozen] = field(default_factory=dict)

    def merged(self, entries: Mapping[str, Entry], frozen: Mapping[str, Frozen]) -> Self:
        """This receipt with more; what was frozen for an older text of the same tier's model goes."""
        newer = {(f.tier, f.model) for f in frozen.values()}
        kept = {key: f for key, f in self.frozen.items() if (f.tier, f.model) not in newer}
        return replace(self, entries={**self.entries, **entries}, frozen={**kept, **frozen})


def receipt_path(root: Path, consumer: str) -> Path:
    """Where a consumer's receipt lies."""
    return own_folder(root) / "receipts" / f"{consumer}.json"


def read_receipt(root: Path, consumer: str) -> Receipt:
    """The consumer's receipt; an empty one where there is none or it can't be read."""
    try:
        raw = json.loads(receipt_path(root, consumer).read_bytes())
        return _from_json(consumer, raw)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Receipt(consumer=consumer)


def write_receipt(root: Path, receipt: Receipt) -> None:
    """Replace the consumer's receipt durably.

    Raises:
        OSError: The disk refused.
    """
    path = receipt_path(root, receipt.consumer)
    make_directory(path.parent)
    # ASCII alone: a manifest whose file name is no Unicode must not make the receipt one that nobody can read.
    data = json.dumps(_to_json(receipt), indent=1).encode("ascii")
    write_atomically(path, data, mode=0o644, temporary=path.with_name(f".{receipt.consumer}.{os.getpid()}.part"))


def _to_json(receipt: Receipt) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "consumer": receipt.consumer,
        "placements": {path: _entry_json(entry) for path, entry in sorted(receipt.entries.items())},
        "resolved": {
            key: {"tier": f.tier, "model": f.model, **f.resolution.as_dict()}
            for key, f in sorted(receipt.frozen.items())
        },
    }


def _entry_json(entry: Entry) -> dict[str, Any]:
    return {key: value for key, value in asdict(entry).items() if value is not None}


def _from_json(consumer: str, raw: dict[str, Any]) -> Receipt:
    if raw["version"] != _VERSION:
        return Receipt(consumer=consumer)
    entries = {path: _entry(data) for path, data in raw["placements"].items()}
    frozen = {
        key: Frozen(tier=data["tier"], model=data["model"], resolution=Resolution.from_dict(data))
        for key, data in raw["resolved"].items()
    }
    return Receipt(consumer=consumer, entries=entries, frozen=frozen)


def _entry(data: dict[str, Any]) -> Entry:
    known = {"digest": None, **data}
    for name, kind in (("size", int), ("mtime_ns", int), ("made", bool), ("how", str), ("model", str)):
        if not isinstance(known[name], kind):
            raise TypeError(f"{name} of an entry has a wrong type")
    known["manifests"] = tuple(known.get("manifests", ()))
    return Entry(**known)
