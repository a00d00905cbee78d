"""Verify: hash files on disk again and report which are damaged, for which service and model. Uses no network."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from modelfetch.care.hashing import Hashed, hash_files
from modelfetch.care.inventory import Condition, Inventory, Item, Origin, condition_of, take_inventory
from modelfetch.care.preconditions import require_root, unknown_names
from modelfetch.care.requested import Requested, find_requested
from modelfetch.core import os_errors
from modelfetch.core.digest import Digest
from modelfetch.core.directories import own_folder
from modelfetch.core.events import Notice
from modelfetch.core.report import ArtifactReport, ModelReport
from modelfetch.errors import ModelfetchError
from modelfetch.placement.path_stat import PathStat
from modelfetch.store.checks import Check, add_checks, now
from modelfetch.store.locks.lock import LockLostError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from modelfetch.core.report import Report
    from modelfetch.manifest.model import Manifest
    from modelfetch.pipeline.plan import ModelRequest
    from modelfetch.pipeline.session import Session
    from modelfetch.placement import RootTree

UNUSED = "unused blobs"
"""The name in the report of blobs that no receipt names."""

_BAD = ("damaged", "changed", "foreign", "missing", "failed")
_WORST_FIRST = (*_BAD, "rewritten", "present")
_SAVE_EVERY = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions:
    """Options of a check.

    Attributes:
        quick: Compare size and mtime only.
        older_than: Hash only what was last checked longer ago than this, in seconds; None hashes everything.
        models: Only models of these names; empty for all.
        models_variable: The environment variable that gave ``models``; None if the caller did.
    """

    quick: bool = False
    older_than: float | None = None
    models: tuple[str, ...] = ()
    models_variable: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result for one file, as an action of the report. ``optional``: the tier is complete without it."""

    model: str
    uri: str
    digest: str | None
    size: int | None
    action: str
    path: str | None = None
    consumer: str | None = None
    optional: bool = False
    item: Item | None = None

    @property
    def is_bad(self) -> bool:
        """Whether it makes the command fail."""
        return self.action in _BAD and not (self.optional and self.action in ("missing", "foreign"))

    @property
    def can_be_restored(self) -> bool:
        """Whether ``--repair`` restores it; files that were never placed, and those of others, are left to `sync`."""
        return self.is_bad and self.item is not None and self.action != "foreign"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """All findings; ``hashed`` files with ``bytes`` in total were hashed completely."""

    inventory: Inventory
    findings: tuple[Finding, ...]
    hashed: int = 0
    bytes: int = 0
    errors: tuple[ModelfetchError, ...] = ()


def verify_files(manifests: Sequence[Manifest], session: Session, options: VerifyOptions) -> Verification:
    """Check the files that the manifests request, or, without manifests, all that receipts and the store have; blocks.

    Raises:
        InterruptedSync: It was cancelled; the checks that were finished are noted.
        DiskError, DestinationError: A folder can't be read, or ROOT does not exist.
        UsageError, SettingError: There is no model of a name (``not-placed``).
    """
    require_root(session)
    inventory = take_inventory(session, foreign=False)
    consumers = session.options.consumers
    requested = find_requested(manifests, session, inventory.receipts, consumers=consumers) if manifests else None
    also = requested.model_names() if requested else ()
    for error in unknown_names(options.models, inventory, also=also, variable=options.models_variable):
        raise error
    items = chosen_items(inventory, requested, consumers)
    if options.models:
        items = tuple(item for item in items if item.model in options.models)
    due = [] if options.quick else due_for_check(items, options.older_than)
    results = _hash(due, inventory, session)
    _update_receipts(items, results, session)
    findings = [*_of_items(items, results, inventory, requested)]
    if requested:
        findings += _not_placed(requested, inventory, session.inspector.tree)
    return Verification(
        inventory=inventory,
        findings=tuple(
            one
            for one in findings
            if not (options.models and one.model not in options.models)
            and not (one.action == "missing" and one.path and session.inspector.may_be_missing(one.path))
        ),
        hashed=len(results),
        bytes=sum(result.size for result in results.values()),
        errors=tuple(_unreadable(results)),
    )


def verification_report(
    found: Verification, manifests: Sequence[Manifest], session: Session, *, bytes_fetched: int = 0
) -> Report:
    """Build the report; its exit code is 1 if a file is damaged, changed or missing."""
    is_bad = any(finding.is_bad for finding in found.findings)
    return session.report(
        _models(found.findings), found.errors, manifests=manifests, is_bad=is_bad, bytes_fetched=bytes_fetched
    )


def chosen_items(inventory: Inventory, requested: Requested | None, consumers: Sequence[str]) -> tuple[Item, ...]:
    """Select the placements and blobs to check."""
    placements = [item for item in inventory.placements if not consumers or item.consumer in consumers]
    if requested is not None:
        placements = [item for item in placements if requested.includes(item)]
    if requested is None and not consumers:
        return (*placements, *inventory.blobs)
    digests = {item.digest for item in placements if item.digest}
    return (*placements, *(blob for blob in inventory.blobs if blob.digest in digests))


def due_for_check(items: Iterable[Item], older_than: float | None) -> list[Item]:
    """Return one item for each file to hash: first those never checked, then in the order of their last check."""
    limit = None if older_than is None else now() - timedelta(seconds=older_than)
    due: dict[tuple[int, int], Item] = {}
    for item in items:
        if item.inode is None or item.digest is None or item.condition is Condition.REWRITTEN:
            continue
        is_due = limit is None or item.is_damaged or item.verified is None or item.verified <= limit
        if is_due and (item.inode not in due or item.origin is Origin.BLOB):
            due[item.inode] = item
    return sorted(due.values(), key=lambda item: (item.verified.timestamp() if item.verified else 0.0, -item.size))


_Results = dict[tuple[int, int], Hashed]


def _hash(due: Sequence[Item], inventory: Inventory, session: Session) -> _Results:
    if not due:
        return {}
    by_file = {item.file: item for item in due}
    right_sizes = {item.digest: item.right_size for item in inventory.items if item.right_size is not None}
    results: _Results = {}
    saver = _Saver(inventory, session)

    def done(result: Hashed) -> None:
        item = by_file[result.file]
        if item.inode is not None:
            results[item.inode] = _as_recorded(item, result, session)
            saver.note(item.inode, results[item.inode])

    def most(item: Item) -> int | None:
        size = right_sizes.get(item.digest)
        return None if size is None else size + 1

    try:
        todo = [(item.file, item.size, most(item)) for item in due]
        hash_files(todo, sink=session.sink, cancel=session.cancel, done=done)
    finally:
        saver.save()
    return results


def _as_recorded(item: Item, result: Hashed, session: Session) -> Hashed:
    """The result, with the recorded digest if the file is a manifest that Ollama only encoded in another way."""
    if item.path is None or item.digest is None or result.digest in (None, item.digest):
        return result
    same = session.inspector.is_same_manifest(item.path, Digest.parse(item.digest))
    return replace(result, digest=item.digest) if same else result


def _update_receipts(items: Sequence[Item], results: _Results, session: Session) -> None:
    """Record the state of files that were touched or copied since they were placed, but still have the right bytes."""
    touched: dict[str, dict[str, Item]] = defaultdict(dict)
    for item in items:
        result = results.get(item.inode) if item.inode else None
        if item.condition is Condition.CHANGED and result is not None and result.digest == item.digest:
            touched[item.consumer or ""][item.path or ""] = item
    for consumer, changed in touched.items():
        try:
            with session.placer.locked(consumer) as (book, writer):
                now_known = book.load().entries
                book.add(
                    {
                        path: replace(item.entry, size=item.size, mtime_ns=item.mtime_ns)
                        for path, item in changed.items()
                        if item.entry is not None and now_known.get(path) == item.entry
                    },
                    {},
                )
                book.write(writer.confirm)
        except (ModelfetchError, LockLostError) as error:
            reason = error.message if isinstance(error, ModelfetchError) else str(error)
            message = f"the receipt of {consumer} can't be updated: {reason}"
            session.sink(Notice(level="warning", message=message))


class _Saver:
    """Saves the dates of checks periodically and at the end, so that an interruption does not lose them."""

    def __init__(self, inventory: Inventory, session: Session) -> None:
        self._inventory = inventory
        self._session = session
        self._at = now()
        self._new: dict[Path, dict[str, Check]] = defaultdict(dict)
        self._saved = time.monotonic()

    def note(self, inode: tuple[int, int], result: Hashed) -> None:
        """Record the result for each of a file's names, since a failed repair may leave only one of them."""
        if result.digest is None and not result.is_unreadable:
            return  # it changed while it was read, is gone or is not readable, so its bytes are unknown
        items = self._inventory.by_inode.get(inode, ())
        for item in items:
            if item.digest is None:
                continue
            check = Check(size=item.size, mtime_ns=item.mtime_ns, at=self._at, ok=result.digest == item.digest)
            if item.path is None:
                if not check.ok:
                    self._session.store.distrust(Digest.parse(item.digest))
                elif item.condition is Condition.CHANGED:
                    self._session.store.confirm(Digest.parse(item.digest), size=result.size, mtime_ns=result.mtime_ns)
                self._new[self._inventory.store][item.digest] = check
            else:
                self._new[own_folder(self._inventory.root)][item.path] = check
        if time.monotonic() - self._saved > _SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Write the dates; if that fails, warn, since the check itself is still valid."""
        self._saved = time.monotonic()
        new, self._new = self._new, defaultdict(dict)
        try:
            save_checks(new, self._inventory, self._session)
        except ModelfetchError as error:
            message = f"the date of this check can't be kept: {error.message}"
            self._session.sink(Notice(level="warning", message=message, hint=error.hint))


def save_checks(new: Mapping[Path, Mapping[str, Check]], inventory: Inventory, session: Session) -> None:
    """Add checks to the saved ones, and drop those of files that no longer exist.

    Raises:
        DestinationError, DiskError: They can't be written.
        RetryLaterError: Another process kept the lock.
    """
    known = {key for item in inventory.items if (key := item.path or item.digest)}
    for folder, checks in new.items():
        add_checks(
            folder,
            checks,
            known=None if folder == inventory.store else known,
            timeout=session.options.lock_timeout,
            sink=session.sink,
        )


def _of_items(
    items: Sequence[Item], results: Mapping[tuple[int, int], Hashed], inventory: Inventory, requested: Requested | None
) -> Iterable[Finding]:
    placed = {item.inode for item in inventory.placements if item.inode is not None}
    for item in items:
        if item.origin is Origin.BLOB and item.inode in placed:
            continue  # a placement shares its bytes and is reported instead
        result = results.get(item.inode) if item.inode else None
        if result is not None:
            item = _as_hashed(item, result)  # noqa: PLW2901 - the same item, seen later
        request = requested.paths.get(item.path or "") if requested else None
        yield Finding(
            model=item.model or UNUSED,
            uri=(item.entry.uri if item.entry else None) or item.path or item.digest or str(item.file),
            digest=item.digest,
            size=item.size,
            action=action_of(item, result),
            path=item.path,
            consumer=item.consumer,
            optional=request.model.optional if request else False,
            item=item,
        )


def _as_hashed(item: Item, result: Hashed) -> Item:
    """The item, with its condition when it was hashed: it may have been written to since the inventory."""
    if result.error is not None or (result.size, result.mtime_ns) == (item.size, item.mtime_ns):
        return item
    if item.path is None or item.entry is None or item.inode is None:
        return replace(item, condition=Condition.CHANGED)
    target = item.entry.target
    seen = PathStat(size=result.size, mtime_ns=result.mtime_ns, inode=item.inode, regular=True, target=target)
    return replace(item, condition=condition_of(item.path, item.entry, seen))


def action_of(item: Item, result: Hashed | None) -> str:
    """Return the action of the report for a file, with the result of hashing it if it was hashed."""
    if item.condition is Condition.MISSING:
        return "missing"
    if item.condition is Condition.REWRITTEN:
        return "rewritten"
    if result is not None and isinstance(result.error, FileNotFoundError):
        return "missing"
    if result is not None and result.error is not None and not result.is_unreadable:
        return "failed"
    if result is None or (result.digest is None and result.error is None) or item.digest is None:
        if item.is_damaged:
            return "damaged"
        return "present" if item.origin is Origin.BLOB else str(item.condition)
    if result.digest == item.digest:
        return "present"
    return "changed" if item.condition is Condition.CHANGED and item.is_placement else "damaged"


def _not_placed(requested: Requested, inventory: Inventory, tree: RootTree) -> Iterable[Finding]:
    """Yield the files that the manifests request and no receipt names."""
    known = {item.path for item in inventory.placements}
    for path, request in requested.paths.items():
        if path not in known:
            action = "foreign" if os.path.lexists(tree.path(path)) else "missing"
            yield _requested_finding(request, action, path=path, consumer=path.partition("/")[0])
    placed = {(tier, item.model) for item in inventory.placements for tier in item.tiers}
    unpacked = [item.path or "" for item in inventory.placements if item.entry and item.entry.archive]
    empty = [
        request
        for folder, request in requested.folders.items()
        if not any(p.startswith(f"{folder}/") for p in unpacked)
    ]
    known_before = {request.key for request in (*requested.paths.values(), *requested.folders.values())}
    empty += [
        r for r in requested.unresolved if r.key not in known_before and (r.requested_by, r.model.name) not in placed
    ]
    for request in empty:
        yield _requested_finding(request, "missing")


def _requested_finding(
    request: ModelRequest, action: str, *, path: str | None = None, consumer: str | None = None
) -> Finding:
    model = request.model
    return Finding(
        model=model.name,
        uri=str(model.source),
        digest=str(model.digest) if model.digest else None,
        size=model.size,
        action=action,
        path=path,
        consumer=consumer,
        optional=model.optional,
    )


def _unreadable(results: Mapping[tuple[int, int], Hashed]) -> Iterable[ModelfetchError]:
    for result in results.values():
        if result.error is not None and not isinstance(result.error, FileNotFoundError):
            yield os_errors.translate(result.error, result.file, doing="reading")


def _models(findings: Sequence[Finding]) -> tuple[ModelReport, ...]:
    grouped: dict[str, dict[tuple[str, str | None, str], list[Finding]]] = defaultdict(lambda: defaultdict(list))
    for finding in findings:
        grouped[finding.model][finding.uri, finding.digest, finding.action].append(finding)
    return tuple(
        ModelReport(
            name=name,
            ok=not any(finding.is_bad for each in artifacts.values() for finding in each),
            artifacts=tuple(
                ArtifactReport(
                    uri=uri,
                    digest=digest,
                    size=each[0].size,
                    action=action,
                    placements=tuple(finding.path for finding in each if finding.path is not None),
                )
                for (uri, digest, action), each in artifacts.items()
            ),
        )
        for name, artifacts in grouped.items()
    )
