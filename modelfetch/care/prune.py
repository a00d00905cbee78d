"""Prune and remove: decide with `removal`, then delete while no other process works on the root or store."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from modelfetch.care.deletion import delete_items
from modelfetch.care.inventory import Condition, Inventory, Item, Origin, take_inventory
from modelfetch.care.preconditions import require_root, unknown_names
from modelfetch.care.references import read_references
from modelfetch.care.removal import RemovalPlan, Rules, bytes_freed, plan_removal
from modelfetch.care.requested import find_requested
from modelfetch.core import os_errors
from modelfetch.core.directories import own_folder
from modelfetch.core.report import ArtifactReport, ModelReport
from modelfetch.errors import DestinationError, ModelfetchError, exit_code_of
from modelfetch.store.locks.gate import removing
from modelfetch.tiers.selection import load_selected, select_manifests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from modelfetch.core.report import Report
    from modelfetch.manifest.model import Manifest
    from modelfetch.pipeline.session import Session

LEFTOVERS = "leftovers"
"""The name in the report for unreferenced blobs and unfinished downloads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneOptions:
    """Options of a removal.

    Attributes:
        dry_run: Only report what would be removed.
        older_than: Minimum age of removed files, in seconds.
        keep_tiers: Tiers whose models are kept, in addition to the chosen manifests.
        keep_tiers_variable: The environment variable that gave ``keep_tiers``; None if the caller did.
    """

    dry_run: bool = False
    older_than: float | None = None
    keep_tiers: tuple[str, ...] = ()
    keep_tiers_variable: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What was (or would be) removed, what was kept and why, and the number of bytes freed."""

    inventory: Inventory
    plan: RemovalPlan
    items: tuple[Item, ...] = ()
    dry_run: bool = False
    errors: tuple[ModelfetchError, ...] = ()

    @property
    def freed(self) -> int:
        """The number of bytes freed."""
        return bytes_freed(self.items)


def prune_files(
    manifests: Sequence[Manifest], session: Session, options: PruneOptions, environ: Mapping[str, str]
) -> tuple[Report, Removed]:
    """Remove what no chosen manifest or kept tier requests; without any, what no receipt names. Blocks.

    Raises:
        ModelfetchError: A kept tier can't be read, the lock was not available, or the disk failed.
    """
    chosen = (*manifests, *_kept_tiers(options, session, environ))

    def rules(inventory: Inventory) -> Rules:
        requested = find_requested(chosen, session, inventory.receipts) if chosen else None
        return Rules(
            wanted=requested.includes if requested else lambda _: True,
            requested=requested.digests if requested and not requested.unresolved else None,
            now=time.time(),
            older_than=options.older_than,
            consumers=session.options.consumers,
        )

    found = _remove(session, options, rules)
    return _report(found, manifests, session), found


def prune_after_sync(
    manifests: Sequence[Manifest], session: Session, report: Report, environ: Mapping[str, str]
) -> tuple[Report, Removed]:
    """Remove what the manifests of a successful sync don't request; blocks.

    Returns:
        The report of the sync, failed if something could not be removed; and what was removed.
    """
    session.allow_removals()  # this session's own lock would block the removal
    _, removed = prune_files(manifests, session, PruneOptions(), environ)
    errors = removed.errors
    return replace(report, ok=not errors, exit_code=exit_code_of(errors), errors=errors), removed


def remove_models(
    names: Sequence[str], session: Session, options: PruneOptions, environ: Mapping[str, str]
) -> tuple[Report, Removed]:
    """Remove models by name, except what a kept tier requests; blocks.

    A name that no model has is an error of the result if other names are right: the command may be the second run of
    one that was killed.

    Raises:
        UsageError: No model has any of the names (``not-placed``).
        ModelfetchError: For the same reasons as in `prune_files`.
    """
    kept = _kept_tiers(options, session, environ)
    unknown: list[ModelfetchError] = []

    def rules(inventory: Inventory) -> Rules:
        unknown.extend(unknown_names(names, inventory))
        if len(unknown) == len(names):
            raise unknown[0]
        requested = find_requested(kept, session, inventory.receipts) if kept else None
        return Rules(
            wanted=lambda item: item.model not in names or (requested is not None and requested.includes(item)),
            now=time.time(),
            older_than=options.older_than,
            consumers=session.options.consumers,
            rewritten=True,
            leftovers=False,
            kept_by=lambda item: requested.tier_of(item) if requested is not None and item.model in names else None,
        )

    found = _remove(session, options, rules)
    found = replace(found, errors=(*unknown, *found.errors))
    return _report(found, (), session), found


def _report(found: Removed, manifests: Sequence[Manifest], session: Session) -> Report:
    """Build the report: what was or would be removed, and what was kept despite the request."""
    grouped: dict[str, list[ArtifactReport]] = defaultdict(list)
    gone = {id(item) for item in found.items}
    for item in found.plan.items:
        action = "would-remove" if found.dry_run else "removed" if id(item) in gone else "failed"
        grouped[item.model or LEFTOVERS].append(_artifact(item, action))
    for kept in found.plan.kept:
        action = str(kept.item.origin if kept.item.origin is Origin.ADOPTED else kept.item.condition)
        grouped[kept.item.model or LEFTOVERS].append(_artifact(kept.item, action))
    models = (
        ModelReport(name=name, ok=all(a.action != "failed" for a in artifacts), artifacts=tuple(artifacts))
        for name, artifacts in grouped.items()
    )
    return session.report(models, found.errors, manifests=manifests)


def _artifact(item: Item, action: str) -> ArtifactReport:
    return ArtifactReport(
        uri=(item.entry.uri if item.entry else None) or item.path or item.digest or item.file.name,
        digest=item.digest,
        size=item.size,
        action=action,
        placements=(item.path,) if item.path else (),
    )


def _kept_tiers(options: PruneOptions, session: Session, environ: Mapping[str, str]) -> tuple[Manifest, ...]:
    found: list[Manifest] = []
    for tier in options.keep_tiers:
        choice = select_manifests(
            tier=tier,
            manifests=(),
            settings=session.settings,
            environ=environ,
            tier_variable=options.keep_tiers_variable,
            sink=session.sink,
        )
        found += load_selected(choice, settings=session.settings, environ=environ, sink=session.sink)
    return tuple(found)


def _remove(session: Session, options: PruneOptions, rules: Callable[[Inventory], Rules]) -> Removed:
    require_root(session)
    refused: DestinationError | None = None
    confirm: Callable[[], None] | None = None
    with contextlib.ExitStack() as held:
        if not options.dry_run:
            try:
                confirm = held.enter_context(_exclusively(session))
            except DestinationError as error:  # a read-only root: that matters only if something must be removed
                refused = error
        with os_errors.translated(session.options.root, doing="reading"):
            inventory = _with_unfinished(take_inventory(session), session)
            references = read_references(session.inspector.tree, inventory)
        plan = plan_removal(inventory, references, rules(inventory))
        if refused is not None and (plan.items or plan.forgotten):
            raise refused
        if confirm is None:
            return Removed(inventory=inventory, plan=plan, items=plan.items, dry_run=options.dry_run)
        removed, errors = delete_items(plan, inventory, references, session, confirm=confirm)
        return Removed(inventory=inventory, plan=plan, items=removed, errors=errors)


def _with_unfinished(inventory: Inventory, session: Session) -> Inventory:
    """Return the inventory with entries for what a killed sync has placed, which only the journal names yet."""

    def recovered(item: Item) -> Item:
        path, consumer = item.path or "", item.consumer or ""
        is_unfinished = item.origin is Origin.MADE and (item.entry is None or item.condition is Condition.CHANGED)
        if not is_unfinished or path not in inventory.receipts[consumer].claims:
            return item
        session.cancel.check()
        entry = session.inspector.find_claimed(path, inventory.receipts[consumer])
        if entry is None:
            return replace(item, origin=Origin.FOREIGN, model=None, digest=None)
        return (
            item
            if entry is item.entry
            else replace(item, entry=entry, digest=entry.digest, condition=Condition.PRESENT)
        )

    return replace(inventory, items=tuple(map(recovered, inventory.items)))


@contextlib.contextmanager
def _exclusively(session: Session) -> Iterator[Callable[[], None]]:
    """Exclude other processes as `removing` does from this root and its store; a root that is missing is not made."""
    folders = dict.fromkeys((own_folder(session.options.root), session.store.path))
    locks = [folder / "locks" for folder in folders if folder.is_dir()]
    with removing(locks, **session.lock_options) as confirm:
        yield confirm
