"""Check before the first download that the disks have enough space, take files of these sizes, and are writable."""

from __future__ import annotations

import os
import shlex
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from modelfetch.core.directories import blocking_part, nearest_existing_parent, own_folder, require_folder_path
from modelfetch.core.fs import allocated_bytes
from modelfetch.core.mounts import find_mount, free_bytes, largest_file
from modelfetch.core.os_errors import writable_hint
from modelfetch.core.units import format_size
from modelfetch.errors import DestinationError, DiskError, ModelfetchError
from modelfetch.pipeline.probes import LinkProbe, is_sequential
from modelfetch.placement import Action
from modelfetch.placement.layouts import PlacementMethod
from modelfetch.store import Store
from modelfetch.store.ingest import LINK_AT_LEAST

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from modelfetch.core.artifact import Artifact
    from modelfetch.pipeline.plan import ModelPlan
    from modelfetch.pipeline.session import Session
    from modelfetch.placement import RootTree


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceRequirement:
    """Free bytes that a file system needs (``free`` None: not reported); ``copies`` of them because hardlinks fail."""

    folder: Path
    bytes: int
    copies: int
    free: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The plans (optional ones that are left out have an error), the space that they need, and the problems found."""

    plans: tuple[ModelPlan, ...]
    space: tuple[SpaceRequirement, ...]
    problems: tuple[ModelfetchError, ...]


def check_folders(session: Session) -> None:
    """Check what needs no plan: that root and store can be folders, and that the root is mounted if that is required.

    Raises:
        DestinationError: A file is in the way (``foreign-file``); the root has no ``.modelfetch``, so it may be an
            empty mount point rather than a root that modelfetch filled (``root-not-mounted``); or the recorded folder
            of a consumer can't be used (see `find_consumer_dirs`).
    """
    root = session.options.root
    require_folder_path(root, "--root")
    require_folder_path(session.store.path, "--store")
    if session.settings.require_marker and not own_folder(root).is_dir():
        raise DestinationError(
            f"{root} has no .modelfetch folder, as MODELFETCH_REQUIRE_MARKER requires: is the disk or share mounted?",
            code="root-not-mounted",
            hint=f"mount it; for a new root, run: mkdir -p {shlex.quote(str(own_folder(root)))}",
        )
    _ = session.consumer_dirs


def check_capacity(
    plans: Sequence[ModelPlan], *, tree: RootTree, store: Path, in_store: Collection[str], reserve: int = 0
) -> Capacity:
    """Check that the disks have space for the plans, keeping ``reserve`` bytes free on each, and are writable.

    An optional model is left out if it can't be placed, or if the models before it leave no space for it.
    """
    tally = _SpaceTally(files_in_place(plans), tree=tree, store=store, in_store=in_store)
    required = [plan for plan in plans if not plan.request.model.optional]
    for plan in required:
        tally.add(tally.cost(plan))

    def with_problems(plan: ModelPlan) -> ModelPlan:
        if not plan.request.model.optional or plan.errors:
            return plan
        cost = tally.cost(plan)
        problems = writability_problems([plan], tree=tree, store=store, in_store=in_store)
        problems += size_problems([plan], tree=tree, store=store)
        problems += space_problems(tally.requirements(cost), reserve) if plan.missing else ()
        if problems:
            return replace(plan, errors=problems)
        tally.add(cost)
        return plan

    checked = tuple(with_problems(plan) for plan in plans)
    remaining = [plan for plan in checked if not _is_left_out(plan)]
    problems = writability_problems(remaining, tree=tree, store=store, in_store=in_store)
    problems += size_problems(remaining, tree=tree, store=store)
    space = tally.requirements()
    return Capacity(plans=checked, space=space, problems=space_problems(space, reserve) + problems)


@dataclass(slots=True)
class _Cost:
    """The cost of one plan: bytes and copies by existing folder, and the files that it includes."""

    bytes_on: dict[Path, int] = field(default_factory=lambda: defaultdict(int))
    copies_on: dict[Path, int] = field(default_factory=lambda: defaultdict(int))
    names: set[str] = field(default_factory=set)


class _SpaceTally:
    """Adds up the bytes that each file system must have free, plan by plan.

    Some bytes cost nothing in the store: files that it has already (by URI), the part of a file that an earlier run
    downloaded, and files in place that can be linked into it.
    """

    def __init__(self, kept: Mapping[str, str], *, tree: RootTree, store: Path, in_store: Collection[str]) -> None:
        self._tree = tree
        self._store = store
        self._blobs = Store(store)
        self._kept = kept
        self._in_store = in_store
        self._probe = LinkProbe(store, tree)
        self._existing: dict[Path, Path] = {}
        self._total = _Cost()

    def cost(self, plan: ModelPlan) -> _Cost:
        """The additional cost of a plan, given the plans counted so far."""
        cost = _Cost()
        for target in plan.targets:
            artifact = target.placement.artifact
            if not target.needs_bytes or artifact is None or artifact.size is None:
                continue
            name = str(artifact.digest or artifact.uri)
            large = artifact.size >= LINK_AT_LEAST
            if artifact.uri not in self._in_store and name not in self._total.names and name not in cost.names:
                cost.names.add(name)
                if not (large and name in self._kept and self._links(self._kept[name])):
                    cost.bytes_on[self._parent(self._store)] += artifact.size - _partial_bytes(artifact, self._store)
            path = self._tree.path(target.placement.path)
            private = artifact.digest is not None and self._blobs.is_private(artifact.digest)
            can_link = large and target.placement.how is PlacementMethod.FILE and self._links(target.placement.path)
            if not can_link or private:
                cost.bytes_on[self._parent(path.parent)] += artifact.size
                would_link = target.placement.how is PlacementMethod.FILE and large
                cost.copies_on[self._parent(path.parent)] += artifact.size if would_link else 0
        return cost

    def add(self, cost: _Cost) -> None:
        """Add a plan's cost to the total."""
        for total, more in ((self._total.bytes_on, cost.bytes_on), (self._total.copies_on, cost.copies_on)):
            for folder, count in more.items():
                total[folder] += count
        self._total.names |= cost.names

    def requirements(self, more: _Cost | None = None) -> tuple[SpaceRequirement, ...]:
        """The space that each file system must have free, including ``more`` if given."""
        together: dict[int, SpaceRequirement] = {}
        more = more or _Cost()
        for folder in (*self._total.bytes_on, *(f for f in more.bytes_on if f not in self._total.bytes_on)):
            device = folder.stat().st_dev
            before = together.get(device)
            count = self._total.bytes_on.get(folder, 0) + more.bytes_on.get(folder, 0)
            copies = self._total.copies_on.get(folder, 0) + more.copies_on.get(folder, 0)
            together[device] = SpaceRequirement(
                folder=before.folder if before else folder,
                bytes=count + (before.bytes if before else 0),
                copies=copies + (before.copies if before else 0),
                free=free_bytes(folder),
            )
        return tuple(together.values())

    def _links(self, path: str) -> bool:
        return self._probe.works(path.rpartition("/")[0])

    def _parent(self, folder: Path) -> Path:
        if folder not in self._existing:
            self._existing[folder] = nearest_existing_parent(folder)
        return self._existing[folder]


def files_in_place(plans: Iterable[ModelPlan]) -> dict[str, str]:
    """Return a path below ROOT for each digest that is already in place."""
    return {
        str(artifact.digest): target.placement.path
        for plan in plans
        for target in plan.targets
        if target.action is Action.KEEP
        and target.placement.how in (PlacementMethod.FILE, PlacementMethod.COPY)
        and (artifact := target.placement.artifact) is not None
        and artifact.digest is not None
    }


def _is_left_out(plan: ModelPlan) -> bool:
    return bool(plan.errors) and plan.request.model.optional


def _partial_bytes(artifact: Artifact, store: Path) -> int:
    """Bytes of an artifact's partial file on disk, at most the artifact's size."""
    from modelfetch.transfer.fetch import key_of

    try:
        partial = (store / "ingest" / f"{key_of(artifact)}.part").lstat()
    except OSError:
        return 0
    return min(allocated_bytes(partial), artifact.size or 0)


def space_problems(needed: Iterable[SpaceRequirement], reserve: int = 0) -> tuple[ModelfetchError, ...]:
    """A ``no-space`` error for each file system that lacks space for the plans plus ``reserve`` bytes."""
    kept = f", {format_size(reserve)} to be kept free" if reserve else ""
    return tuple(
        DiskError(
            f"{need.folder}: {format_size(need.bytes)} needed, {format_size(need.free)} free{kept}",
            code="no-space",
            hint="make room there, choose a smaller tier, or put ROOT on a larger disk",
        )
        for need in needed
        if need.free is not None and need.bytes and need.bytes + reserve > need.free
    )


def require_space(session: Session, size: int) -> None:
    """Check that the store has space for one more file.

    Raises:
        DiskError: There is not enough, or less than ``--min-free`` would be left (``no-space``).
    """
    folder = nearest_existing_parent(session.store.path)
    need = SpaceRequirement(folder=folder, bytes=size, copies=0, free=free_bytes(folder))
    for error in space_problems((need,), session.options.min_free or 0):
        raise error


def size_problems(plans: Sequence[ModelPlan], *, tree: RootTree, store: Path) -> tuple[ModelfetchError, ...]:
    """A ``file-too-large`` error for each model with a file that a file system can't take."""
    existing = lru_cache(maxsize=None)(nearest_existing_parent)
    limit_of = lru_cache(maxsize=None)(largest_file)
    found: list[ModelfetchError] = []
    for plan in plans:
        for target in plan.targets:
            artifact = target.placement.artifact
            if not target.needs_bytes or artifact is None or artifact.size is None:
                continue
            folders = (existing(path) for path in (store, tree.path(target.placement.path).parent))
            too_small = next((f for f in folders if (limit := limit_of(f)) is not None and artifact.size > limit), None)
            if too_small is not None:
                error = DiskError(
                    f"{too_small} is a FAT file system, which can't store a file of {format_size(artifact.size)}",
                    code="file-too-large",
                    hint=f"its files must be below 4 GiB: put ROOT on another file system ({artifact.path})",
                )
                found.append(error.about(model=plan.request.model.name, uri=artifact.uri))
                break
    return tuple(found)


def writability_problems(
    plans: Sequence[ModelPlan], *, tree: RootTree, store: Path, in_store: Collection[str] = ()
) -> tuple[ModelfetchError, ...]:
    """An error for each folder that must be written to but is not writable.

    A store that already has everything (``in_store``, by URI) is only read, since several machines may share one. The
    code is ``foreign-file`` if something other than a folder is in the way, otherwise ``not-writable``.
    """
    wanted = {
        tree.path(target.placement.path).parent: None
        for plan in plans
        for target in plan.targets
        if target.action is not Action.KEEP and not _is_left_out(plan)
    }
    if wanted:
        wanted[own_folder(tree.path(""))] = None
    if wanted and any(_must_be_stored(plan, in_store) for plan in plans):
        wanted[store] = None
    blocked = {thing: None for folder in wanted if (thing := blocking_part(folder)) is not None}
    folders = dict.fromkeys(nearest_existing_parent(folder) for folder in wanted if blocking_part(folder) is None)
    problems = [
        DestinationError(
            f"{thing} is in the way: a folder is needed there",
            code="foreign-file",
            hint="move it away; it was not touched",
        )
        for thing in blocked
    ]
    own = {nearest_existing_parent(folder): folder for folder in (own_folder(tree.path("")), store) if folder in wanted}
    for folder in folders:
        if not os.access(folder, os.W_OK | os.X_OK):
            problems.append(DestinationError(f"{folder} can't be written", hint=writable_hint(folder)))
        elif folder in own and is_sequential(folder):
            problems.append(_sequential_error(own[folder]))
    return tuple(problems)


def _sequential_error(folder: Path) -> DestinationError:
    mount = find_mount(nearest_existing_parent(folder))
    return DestinationError(
        f"{folder} can't be used: on {mount or 'its mount'}, files can only be written from beginning to end",
        hint="mount it with a write cache (rclone: `--vfs-cache-mode writes`)",
    )


def _must_be_stored(plan: ModelPlan, in_store: Collection[str]) -> bool:
    """Whether a plan adds to the store: a missing blob, or the files of an archive."""
    unpacks = any(target.placement.how is PlacementMethod.UNPACK and target.needs_bytes for target in plan.targets)
    return unpacks or any(artifact.uri not in in_store for artifact in plan.missing)
