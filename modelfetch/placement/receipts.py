"""Receipts: which files one consumer has, their state when they were placed, and how each model was resolved.

A receipt is read without a lock and changed only under its consumer's lock (the caller holds it): read, merged,
written to a temporary file, fsynced and renamed. A lost or damaged receipt counts as empty: files that modelfetch
placed are then recognised by the journal (`modelfetch.placement.journal`), which is written before the files are.

A receipt is stored below the ROOT that it describes, wherever the blobs are. Roots that share a store are therefore
independent, and a root that is moved or mounted elsewhere keeps its receipts.
"""

from __future__ import annotations

import bisect
import errno
import json
import re
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from modelfetch.core import directories, fs, temp_files
from modelfetch.core.artifact import Resolution
from modelfetch.core.json_fields import known_fields, parse, texts
from modelfetch.core.root import CONSUMERS
from modelfetch.core.units import MAX_SIZE
from modelfetch.errors import DestinationError, DiskError
from modelfetch.placement import journal
from modelfetch.placement.journal import Claim
from modelfetch.placement.path_stat import lstat_path
from modelfetch.store.locks.lock import lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import Unpack

    from modelfetch.store.locks.lock import Held, LockOptions

_VERSION = 1
_MAX_BYTES = 512 * 2**20

WRITE_EVERY = 1.0
"""Minimum time between two writes of a receipt during a run, in seconds; the last write is at the end of the run."""
_WRITE_SHARE = 0.05
"""The fraction of a run's time that may be spent writing receipts."""

_MAX_MTIME = 2**63 * 10**9
"""In ns: the seconds of the kernel have 64 bits, and tmpfs, btrfs and ZFS store them all."""

_PENDING = -1
"""The ``mtime_ns`` that older versions recorded in a receipt before they placed the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One path that modelfetch manages.

    ``digest`` is the sha256 of its bytes; ``size`` (in bytes) and ``mtime_ns`` are its state when the bytes were last
    known to be right. A symlink made by modelfetch has a ``target`` instead; an adopted symlink of the user has both
    (size and time are then those of the file it leads to). ``how`` is link, reflink, copy, text, symlink or adopted;
    ``made``: modelfetch created the path. ``archive`` is the digest of the archive that a file was unpacked from.
    ``manifests`` are the tiers or files that request it.
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

    @property
    def claim(self) -> Claim:
        """The claim for its bytes."""
        return Claim(digest=self.digest, target=self.target, uri=self.uri, model=self.model)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """The saved resolution of one entry of one manifest text."""

    tier: str
    model: str
    resolution: Resolution


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """One consumer's receipt: ``entries`` and ``claims`` by path below ROOT, ``frozen`` by `ModelRequest.key`.

    ``claims`` are the bytes that modelfetch has placed, or was about to place, at each path.
    """

    consumer: str
    entries: Mapping[str, Entry] = field(default_factory=dict)
    frozen: Mapping[str, Frozen] = field(default_factory=dict)
    claims: Mapping[str, tuple[Claim, ...]] = field(default_factory=dict)
    _sorted: list[str] = field(default_factory=list, init=False, compare=False, repr=False)
    _by_model: dict[str, list[Frozen]] = field(default_factory=dict, init=False, compare=False, repr=False)
    _by_entry: dict[str, list[Frozen]] = field(default_factory=dict, init=False, compare=False, repr=False)

    def below(self, folder: str) -> dict[str, Entry]:
        """The entries below a folder, by path."""
        if len(self._sorted) != len(self.entries):
            self._sorted[:] = sorted(self.entries)
        first, last = (bisect.bisect_left(self._sorted, f"{folder}{end}") for end in ("/", "0"))  # "0" follows "/"
        return {path: self.entries[path] for path in self._sorted[first:last]}

    def frozen_as(self, model: str) -> Sequence[Frozen]:
        """The saved resolutions of the entries of this name, of all manifest texts."""
        if self.frozen and not self._by_model:
            for frozen in self.frozen.values():
                self._by_model.setdefault(frozen.model, []).append(frozen)
        return self._by_model.get(model, ())

    def frozen_of(self, entry: str) -> Sequence[Frozen]:
        """The saved resolutions of an entry, of all manifest texts; ``entry`` is one of `ModelRequest.entry_keys`."""
        if self.frozen and not self._by_entry:
            for key, frozen in self.frozen.items():
                self._by_entry.setdefault(key.rpartition(":")[2], []).append(frozen)
        return self._by_entry.get(entry, ())

    def unfinished(self) -> Iterator[str]:
        """The paths that are claimed but have no entry: a run was killed while it placed them."""
        for path, claims in self.claims.items():
            entry = self.entries.get(path)
            if entry is None or (entry.digest, entry.target) != (claims[-1].digest, claims[-1].target):
                yield path


def receipt_path(root: Path, consumer: str) -> Path:
    """The path of a consumer's receipt."""
    return directories.own_folder(root) / "receipts" / f"{consumer}.json"


def read_receipt(root: Path, consumer: str) -> Receipt:
    """Read the consumer's receipt; empty if there is none, or it is damaged or written by a newer version.

    Raises:
        DestinationError: This process lacks permission to read it, or it is not a regular file.
        DiskError: The disk failed.
    """
    claims = journal.read(root, consumer)
    data = _read(receipt_path(root, consumer))
    try:
        entries, frozen, pending = _from_json(_parse(data)) if data else ({}, {}, {})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        entries, frozen, pending = {}, {}, {}
    for path, claim in pending.items():
        claims[path] = (*claims.get(path, ()), claim)
    return Receipt(consumer=consumer, entries=entries, frozen=frozen, claims=claims)


def read_receipts(root: Path, consumers: Iterable[str] = CONSUMERS) -> dict[str, Receipt]:
    """Read the receipts of several consumers; raises the same errors as `read_receipt`."""
    return {consumer: read_receipt(root, consumer) for consumer in consumers}


def write_receipt(root: Path, receipt: Receipt, *, confirm: Callable[[], None]) -> None:
    """Replace the consumer's receipt durably. Claims are not written: they are stored in the journal.

    The file is readable by other users, for whom a root that was filled by root must be complete too, unless a URL
    in it has a query, which may contain an undeclared credential.

    Raises:
        OSError: It can't be written.
        LockLostError: ``confirm``, which is called right before it is replaced, found that the lock was lost.
    """
    path = receipt_path(root, receipt.consumer)
    directories.make_directory(path.parent)
    temporary = path.with_name(temp_files.temporary_name(receipt.consumer))
    data = _dump(receipt)
    mode = fs.PRIVATE_MODE if b"?" in data else fs.PUBLIC_MODE
    temp_files.write_atomically(path, data, mode=mode, temporary=temporary, confirm=confirm)


def lock_receipt(root: Path, consumer: str, **options: Unpack[LockOptions]) -> AbstractContextManager[Held]:
    """Lock a consumer's receipt and its files below ROOT; options and errors are those of `lock`."""
    path = directories.own_folder(root) / "locks" / f"consumer-{consumer}.lock"
    return lock(path, label=f"the receipt of {consumer}", **options)


class ReceiptBook:
    """One consumer's receipt during a run: read once, extended in memory, written periodically.

    Everything but the constructor requires the consumer's lock. If another process changed the receipt in between, it
    is read again, and this run's entries are added to it as far as they still describe what is on disk.

    Args:
        root: ROOT.
        consumer: The consumer.
        is_in_place: Whether a path is in the state that an entry records.

    Attributes:
        overwritten: The paths of this run that another process has replaced or removed since.
    """

    def __init__(self, root: Path, consumer: str, *, is_in_place: Callable[[str, Entry], bool]) -> None:
        self._root = root
        self._consumer = consumer
        self._is_in_place = is_in_place
        self.overwritten: set[str] = set()
        self._entries: dict[str, Entry] = {}
        self._frozen: dict[str, Frozen] = {}
        self._claims: dict[str, tuple[Claim, ...]] = {}
        self._view = Receipt(consumer=consumer)
        self._keys: dict[tuple[str, str], set[str]] = {}
        self._added: dict[str, Entry] = {}
        self._unwritten: tuple[dict[str, Entry], dict[str, Frozen]] = ({}, {})
        self._stamp: tuple[object, object] | None = None
        self._written_at = time.monotonic()
        self._cost = 0.0

    @property
    def is_dirty(self) -> bool:
        """Whether there are unwritten changes."""
        return any(self._unwritten)

    @property
    def is_outdated(self) -> bool:
        """Whether another process has written the receipt or the journal since it was read."""
        return self._stamp is not None and self._stamp != self._current_stamp()

    @property
    def is_due(self) -> bool:
        """Whether a write is due; writes are rare enough that a run of n models does not write n² entries."""
        pause = max(WRITE_EVERY, self._cost / _WRITE_SHARE)
        return self.is_dirty and time.monotonic() - self._written_at >= pause

    def load(self) -> Receipt:
        """The current receipt, as a live view. Raises the same errors as `read_receipt`."""
        if self._stamp is None or self.is_outdated:
            stamp = self._current_stamp()
            found = read_receipt(self._root, self._consumer)
            self._entries, self._frozen = dict(found.entries), dict(found.frozen)
            self._claims, self._keys, self._stamp = dict(found.claims), {}, stamp
            for key, frozen in self._frozen.items():
                self._keys.setdefault((frozen.tier, frozen.model), set()).add(key)
            self._unwritten = (self._entries_in_place(found.entries), self._unwritten[1])
            self._merge(*self._unwritten)
            self._view = replace(found, entries=self._entries, frozen=self._frozen, claims=self._claims)
        return self._view

    def claim(self, claims: Mapping[str, Claim]) -> None:
        """Record durably, before placing, which bytes are about to be placed at which path. Raises OSError."""
        claims = {path: claim for path, claim in claims.items() if self._claims.get(path, ())[-1:] != (claim,)}
        if not claims:
            return  # a run that was interrupted has recorded the same
        journal.append(self._root, self._consumer, claims)
        for path, claim in claims.items():
            self._claims[path] = (*self._claims.get(path, ()), claim)
        if self._stamp is not None:  # a receipt that another process has written meanwhile is still to be read
            self._stamp = (self._stamp[0], self._current_stamp()[1])

    def add(self, entries: Mapping[str, Entry], frozen: Mapping[str, Frozen]) -> None:
        """Add placed paths and resolutions; `write` makes them durable."""
        self._added.update(entries)
        self.overwritten.difference_update(entries)
        self._unwritten[0].update(entries)
        self._unwritten[1].update(frozen)
        self._merge(entries, frozen)

    def write(self, confirm: Callable[[], None]) -> None:
        """Write the receipt; raises as `write_receipt` does."""
        started = time.monotonic()
        receipt = self.load()
        write_receipt(self._root, receipt, confirm=confirm)
        self._unwritten = ({}, {})
        journal.compact(self._root, self._consumer, self._claims, confirm=confirm)
        stamp = self._current_stamp()
        confirm()
        self._stamp = stamp
        self._written_at = time.monotonic()
        self._cost = self._written_at - started

    def _entries_in_place(self, recorded: Mapping[str, Entry]) -> dict[str, Entry]:
        """This run's entries that the receipt lacks; drops those of paths that another process has changed since."""
        kept: dict[str, Entry] = {}
        gone: list[str] = []
        for path, entry in self._added.items():
            known = recorded.get(path)
            if known == entry:
                continue
            if not self._is_in_place(path, entry):
                gone.append(path)
                continue
            manifests = dict.fromkeys((*(known.manifests if known else ()), *entry.manifests))
            if (merged := replace(entry, manifests=tuple(manifests))) != known:
                kept[path] = merged
        for path in gone:
            del self._added[path]
        self.overwritten.update(gone)
        return kept

    def _merge(self, entries: Mapping[str, Entry], frozen: Mapping[str, Frozen]) -> None:
        self._entries.update(entries)
        for one in frozen.values():
            for key in self._keys.pop((one.tier, one.model), ()):
                self._frozen.pop(key, None)
        for key, one in frozen.items():
            self._frozen[key] = one
            self._keys.setdefault((one.tier, one.model), set()).add(key)

    def _current_stamp(self) -> tuple[object, object]:
        receipt, claims = receipt_path(self._root, self._consumer), journal.path_of(self._root, self._consumer)
        return lstat_path(receipt), lstat_path(claims)


def _read(path: Path) -> bytes:
    try:
        return fs.read_small(path, _MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return b""
    except PermissionError as error:
        hint = "receipts are private: run modelfetch as the user who ran it before, or as root"
        raise DestinationError(f"{path} can't be read: {error.strerror}", hint=hint) from error
    except OSError as error:
        if error.errno == errno.EFBIG:
            return b""
        if error.errno in (errno.EEXIST, errno.ELOOP, errno.ENXIO):
            raise DestinationError(
                f"{path} is not a regular file", code="foreign-file", hint="move it away; it was not touched"
            ) from error
        raise DiskError(f"{path} can't be read: {error.strerror}") from error


def _parse(data: bytes) -> Any:
    """Parse JSON; the function that is called for each object lets other threads run meanwhile."""
    return parse(data, object_hook=lambda found: found)


def _dump(receipt: Receipt) -> bytes:
    """Serialise to JSON, one line per path and resolution; ASCII, since a manifest's file name may not be Unicode."""
    placements = _lines((path, json.dumps(known_fields(entry))) for path, entry in sorted(receipt.entries.items()))
    resolved = _lines((key, _frozen_json(frozen)) for key, frozen in sorted(receipt.frozen.items()))
    consumer = json.dumps(receipt.consumer)
    text = f'{{"version": {_VERSION}, "consumer": {consumer},\n"placements": {placements},\n"resolved": {resolved}}}\n'
    return text.encode("ascii")


def _lines(items: Iterable[tuple[str, str]]) -> str:
    return "{" + ",".join(f"\n{json.dumps(key)}: {value}" for key, value in items) + "}"


def _frozen_json(frozen: Frozen) -> str:
    """Serialise artifact by artifact, since other threads can't run during a call of `json.dumps`."""
    whole = frozen.resolution.as_dict()
    artifacts = ", ".join(json.dumps(artifact) for artifact in whole.pop("artifacts"))
    head = json.dumps({"tier": frozen.tier, "model": frozen.model, **whole})
    return f'{head.removesuffix("}")}, "artifacts": [{artifacts}]}}'


def _from_json(raw: dict[str, Any]) -> tuple[dict[str, Entry], dict[str, Frozen], dict[str, Claim]]:
    """Parse entries, frozen resolutions, and the claims of files that an older version had not placed yet."""
    entries: dict[str, Entry] = {}
    frozen: dict[str, Frozen] = {}
    pending: dict[str, Claim] = {}
    if raw["version"] != _VERSION:
        return entries, frozen, pending
    for path, data in raw["placements"].items():
        entry = _entry(data)
        if entry.mtime_ns == _PENDING:
            pending[path] = entry.claim
        else:
            entries[path] = entry
    for key, data in raw["resolved"].items():
        tier, model = texts((data["tier"], data["model"]))
        frozen[key] = Frozen(tier=tier, model=model, resolution=Resolution.from_dict(data))
    return entries, frozen, pending


_TEXT = (str, type(None))
_TYPES = {"size": int, "mtime_ns": int, "made": bool, "how": str, "model": str}
_OPTIONAL_TEXTS = ("uri", "target", "archive")
_DIGEST = re.compile(r"(?:sha256|blake3):[0-9a-f]{64}")


def _entry(data: MutableMapping[str, Any]) -> Entry:
    known = {"digest": None, **data}
    for name, kind in _TYPES.items():
        if not isinstance(known[name], kind):
            raise TypeError(f"{name} of an entry has a wrong type")
    for name in _OPTIONAL_TEXTS:
        if not isinstance(known.get(name), _TEXT):
            raise TypeError(f"{name} of an entry has a wrong type")
    if not 0 <= known["size"] <= MAX_SIZE or abs(known["mtime_ns"]) > _MAX_MTIME:
        raise ValueError("a number of an entry is out of range")
    if known["digest"] is not None and not _DIGEST.fullmatch(known["digest"]):
        raise ValueError("the digest of an entry is invalid")
    known["manifests"] = texts(known.get("manifests", ()))
    return Entry(**known)
