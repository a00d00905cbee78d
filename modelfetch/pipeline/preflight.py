"""What can be foreseen before the first byte: space on each file system, folders that can't be written."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from modelfetch.core.fs import own_folder
from modelfetch.core.units import format_size
from modelfetch.errors import DestinationError, DiskError, ModelfetchError
from modelfetch.placement import Action
from modelfetch.placement.layouts import PlacementMethod
from modelfetch.placement.writer import LINK_AT_LEAST

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from modelfetch.core.artifact import Artifact
    from modelfetch.pipeline.plan import ModelPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceRequirement:
    """Bytes that a file system must have free, ``copies`` of them because no link is possible there."""

    folder: Path
    bytes: int
    copies: int
    free: int


class LinkProbe:
    """Finds out whether a blob can be linked into a folder: by trying, once for each.

    Bind mounts of one file system refuse it though their device is the same, so ``st_dev`` says nothing.
    """

    def __init__(self, store: Path) -> None:
        self._store = nearest_existing_parent(store)
        self._known: dict[Path, bool] = {}

    def works(self, folder: Path) -> bool:
        """Whether a hardlink from the store into ``folder`` (or its nearest existing parent) works."""
        folder = nearest_existing_parent(folder)
        if folder not in self._known:
            self._known[folder] = folder == self._store or self._try(folder)
        return self._known[folder]

    def _try(self, folder: Path) -> bool:
        here = self._store / f".modelfetch-probe-{os.getpid()}.part"
        there = folder / f".modelfetch-probe-{os.getpid()}-link.part"
        try:
            os.close(os.open(here, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            there.hardlink_to(here)
        except OSError:
            return False
        finally:
            for path in (there, here):
                with contextlib.suppress(OSError):
                    path.unlink()
        return True


def nearest_existing_parent(path: Path) -> Path:
    """The nearest folder on the way to ``path`` that exists."""
    current = Path(os.path.realpath(path))
    while not current.is_dir() and current.parent != current:
        current = current.parent
    return current


def drop_unplaceable_optional(
    plans: Sequence[ModelPlan], *, root: Path, store: Path, in_store: Iterable[str]
) -> tuple[ModelPlan, ...]:
    """The plans, with an error at each optional one that can't be placed, or has no space beside those before it."""
    have = tuple(in_store)
    taken = [plan for plan in plans if not plan.item.model.optional]

    def judged(plan: ModelPlan) -> ModelPlan:
        if not plan.item.model.optional or plan.errors:
            return plan
        problems = writability_problems([plan], root=root, store=store, in_store=have)
        if plan.missing():
            problems += space_problems(needs([*taken, plan], root=root, store=store, in_store=have))
        if not problems:
            taken.append(plan)
        return replace(plan, errors=problems)

    return tuple(judged(plan) for plan in plans)


def needs(
    plans: Sequence[ModelPlan], *, root: Path, store: Path, in_store: Iterable[str] = ()
) -> tuple[SpaceRequirement, ...]:
    """The bytes that each file system must have free.

    What is in the store already (by URI) costs nothing there, nor does what an earlier run has brought of a file, nor a
    file in place that can be linked into it.
    """
    probe = LinkProbe(store)
    kept = kept_in(plans)
    have = set(in_store)
    bytes_on: dict[Path, int] = defaultdict(int)
    copies_on: dict[Path, int] = defaultdict(int)
    counted: set[str] = set()
    for plan in plans:
        for target in () if _is_left_out(plan) else plan.targets:
            artifact = target.placement.artifact
            if not target.needs_bytes or artifact is None or artifact.size is None:
                continue
            name = str(artifact.digest or artifact.uri)
            large = artifact.size >= LINK_AT_LEAST
            if name not in counted and artifact.uri not in have:
                counted.add(name)
                if not (large and name in kept and probe.works((root / kept[name]).parent)):
                    bytes_on[nearest_existing_parent(store)] += artifact.size - _on_the_way(artifact, store)
            folder = (root / target.placement.path).parent
            if not (target.placement.how is PlacementMethod.FILE and large and probe.works(folder)):
                bytes_on[nearest_existing_parent(folder)] += artifact.size
                copies_on[nearest_existing_parent(folder)] += artifact.size if artifact.size >= LINK_AT_LEAST else 0
    return _by_file_system(bytes_on, copies_on)


def kept_in(plans: Iterable[ModelPlan]) -> dict[str, str]:
    """A path below ROOT where the bytes of a digest are in place, right and whole."""
    return {
        str(artifact.digest): target.placement.path
        for plan in plans
        for target in plan.targets
        if target.act is Action.KEEP
        and target.placement.how in (PlacementMethod.FILE, PlacementMethod.COPY)
        and (artifact := target.placement.artifact) is not None
        and artifact.digest is not None
    }


def _is_left_out(plan: ModelPlan) -> bool:
    return bool(plan.errors) and plan.item.model.optional


def _on_the_way(artifact: Artifact, store: Path) -> int:
    """The bytes that the partial file of an artifact has on disk, at most those that it will have."""
    from modelfetch.transfer.fetch import key_of

    try:
        partial = (store / "ingest" / f"{key_of(artifact)}.part").lstat()
    except OSError:
        return 0
    return min(partial.st_blocks * 512, artifact.size or 0)


def _by_file_system(bytes_on: dict[Path, int], copies_on: dict[Path, int]) -> tuple[SpaceRequirement, ...]:
    together: dict[int, SpaceRequirement] = {}
    for folder, count in bytes_on.items():
        device = folder.stat().st_dev
        found = os.statvfs(folder)
        before = together.get(device)
        together[device] = SpaceRequirement(
            folder=before.folder if before else folder,
            bytes=count + (before.bytes if before else 0),
            copies=copies_on[folder] + (before.copies if before else 0),
            free=found.f_bavail * found.f_frsize,
        )
    return tuple(together.values())


def space_problems(needed: Iterable[SpaceRequirement]) -> tuple[ModelfetchError, ...]:
    """A ``no-space`` error for each file system that can't take what is planned."""
    return tuple(
        DiskError(
            f"{need.folder}: {format_size(need.bytes)} are needed, {format_size(need.free)} are free",
            code="no-space",
            hint="make room there, choose a smaller tier, or put ROOT on a larger disk",
        )
        for need in needed
        if need.bytes > need.free
    )


def writability_problems(
    plans: Sequence[ModelPlan], *, root: Path, store: Path, in_store: Iterable[str] = ()
) -> tuple[ModelfetchError, ...]:
    """An error for each folder that must be written and can't be; nothing to write, no error.

    A store that has all that is to be placed (``in_store``, by URI) is only read: many machines may share one. The code
    is ``foreign-file`` where something that is no folder stands in the way, else ``not-writable``.
    """
    wanted = {
        (root / target.placement.path).parent: None
        for plan in plans
        for target in plan.targets
        if target.act is not Action.KEEP and not _is_left_out(plan)
    }
    if wanted:
        wanted[own_folder(root)] = None
    if wanted and any(_must_be_stored(plan, frozenset(in_store)) for plan in plans):
        wanted[store] = None
    blocked = {thing: None for folder in wanted if (thing := _in_the_way(folder)) is not None}
    folders = dict.fromkeys(nearest_existing_parent(folder) for folder in wanted if _in_the_way(folder) is None)
    return tuple(
        DestinationError(
            f"{thing} is in the way: a folder is needed there",
            code="foreign-file",
            hint="move it away; it was not touched",
        )
        for thing in blocked
    ) + tuple(
        DestinationError(f"{folder} can't be written", hint=f"it must be writable for uid {os.geteuid()}")
        for folder in folders
        if not os.access(folder, os.W_OK | os.X_OK)
    )


def _must_be_stored(plan: ModelPlan, in_store: Collection[str]) -> bool:
    """Whether a plan brings something into the store: a blob that it lacks, or the files of an archive."""
    unpacks = any(target.placement.how is PlacementMethod.UNPACK and target.needs_bytes for target in plan.targets)
    return unpacks or any(artifact.uri not in in_store for artifact in plan.missing())


def _in_the_way(folder: Path) -> Path | None:
    """What is there on the way to a folder and is none, a link that leads nowhere included."""
    for current in (folder, *folder.parents):
        if current.is_dir():
            return None
        if os.path.lexists(current):
            return current
    return None
