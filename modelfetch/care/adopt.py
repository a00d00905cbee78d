"""Adopt: take files that are already on disk into the store by digest, so that they are never downloaded again."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from modelfetch.care.collections import CollectionFile, find_candidates, kind_of
from modelfetch.care.hashing import hash_one, in_threads
from modelfetch.core import fs, os_errors
from modelfetch.core.check_progress import reporting_check
from modelfetch.core.digest import Digest
from modelfetch.core.directories import nearest_existing_parent, own_folder
from modelfetch.core.report import ArtifactReport, ModelReport
from modelfetch.errors import DestinationError, DiskError, IntegrityError, ModelfetchError, UsageError
from modelfetch.pipeline.local_files import read_in_place, write_in_place
from modelfetch.pipeline.preflight import check_folders
from modelfetch.store.ingest import LinkImpossibleError, add_file
from modelfetch.store.locks.lock import lock, repeat_if_lost
from modelfetch.tiers.selection import all_tiers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from modelfetch.core.report import Report
    from modelfetch.manifest.model import Model
    from modelfetch.pipeline.session import Session

_KEY = "adopt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """The result for one file: adopted, present (the store had it), recorded (in place), elsewhere, or failed."""

    candidate: CollectionFile
    folder: Path
    result: str
    digest: str | None = None
    how: str | None = None
    error: ModelfetchError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TierProgress:
    """How many of a tier's models have all pinned files present locally, and the total."""

    tier: str
    complete: int
    models: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """The results of all files, the program that each folder belongs to, and the progress of the tiers."""

    files: tuple[Adoption, ...]
    kinds: tuple[tuple[Path, str], ...]
    tiers: tuple[TierProgress, ...]


def adopt_folders(folders: Sequence[Path], session: Session, *, in_place: bool = False) -> tuple[Report, Adopted]:
    """Adopt every model below the given folders; blocks.

    Args:
        folders: The collections.
        session: The session whose store receives the files.
        in_place: Record the files' locations instead of sharing their bytes with the store.

    Raises:
        UsageError: A folder does not exist.
        DestinationError, DiskError: A folder can't be read, or the store can't be written.
    """
    check_folders(session)
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"{folder} is not a folder")
    session.block_removals(make=True)
    found: list[tuple[Path, CollectionFile]] = []
    for folder in folders:
        with os_errors.translated(folder, doing="reading"):
            found += [(folder, one) for one in find_candidates(folder)]
    unreachable = set() if in_place else _unreachable(found, session)
    work = [(folder, one) for folder, one in found if _origin(one) not in unreachable]
    elsewhere = [
        Adoption(candidate=one, folder=folder, result="elsewhere", how=_refused_owner(one, session))
        for folder, one in found
        if _origin(one) in unreachable
    ]
    done = _in_threads(work, _record if in_place else _take, session)
    # A blob that is a reflink or copy has no other link, so prune may remove it: sync then takes the file again.
    if noted := [one for one in done if one.result == "recorded" or one.how in ("reflink", "copy")]:
        _note_in_place(noted, session)
    session.store.settle()
    kinds = tuple((folder, kind_of(folder)) for folder in folders)
    present = {one.digest for one in done if one.digest}
    adopted = Adopted(files=(*done, *elsewhere), kinds=kinds, tiers=tuple(tier_progress(session, present)))
    return _report(adopted, session), adopted


def _report(found: Adopted, session: Session) -> Report:
    """Build the report, with a model for each file."""
    errors = (one.error for one in found.files if one.error is not None)
    actions = {"adopted": "adopted", "recorded": "adopted", "present": "present", "failed": "failed"}
    models = (
        ModelReport(
            name=one.candidate.name,
            ok=one.result in ("adopted", "recorded", "present"),
            artifacts=(
                ArtifactReport(
                    uri=one.candidate.file.as_uri(),
                    digest=one.digest,
                    size=one.candidate.size,
                    action=actions.get(one.result, "skipped"),
                ),
            ),
        )
        for one in found.files
    )
    return session.report(models, errors)


def tier_progress(session: Session, present: set[str]) -> Iterator[TierProgress]:
    """The progress of each tier: a model counts if all its pinned files are in the store or in ``present``."""
    for name, manifest in all_tiers(session.settings):
        complete = sum(_is_complete(model, session, present) for model in manifest.models)
        yield TierProgress(tier=name, complete=complete, models=len(manifest.models))


def _is_complete(model: Model, session: Session, present: set[str]) -> bool:
    return all(
        file.digest is not None and (str(file.digest) in present or session.store.peek(file.digest) is not None)
        for file in model.pins
    )


def _unreachable(found: Sequence[tuple[Path, CollectionFile]], session: Session) -> set[tuple[int, int]]:
    """The file systems and owners whose files the store can't share; tests one file of each, without hashing it.

    The kernel refuses hardlinks of another user's files that this process can't write (``fs.protected_hardlinks``).
    """
    tried: dict[tuple[int, int], bool] = {}
    for _, one in found:
        if _origin(one) not in tried:
            tried[_origin(one)] = _can_share(one, session)
    return {origin for origin, possible in tried.items() if not possible}


def _origin(one: CollectionFile) -> tuple[int, int]:
    return one.inode[0], one.owner


def _refused_owner(one: CollectionFile, session: Session) -> str | None:
    """``of uid N`` for a file that can't be shared because it is another user's, not because of its file system."""
    same_device = nearest_existing_parent(session.store.path).stat().st_dev == one.inode[0]
    return f"of uid {one.owner}" if same_device and one.owner != os.geteuid() else None


def _can_share(one: CollectionFile, session: Session) -> bool:
    temporary = session.store.tmp()
    try:
        if fs.try_reflink(one.file, temporary):
            return True
        os.link(one.file, temporary, follow_symlinks=False)
    except OSError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _take(folder: Path, one: CollectionFile, session: Session, advance: Callable[[int], None]) -> Adoption:
    try:
        blob, how = add_file(session.store, one.file, keep_mode=True, copy=False, advance=advance)
    except LinkImpossibleError:
        return Adoption(candidate=one, folder=folder, result="elsewhere", how=_refused_owner(one, session))
    except (IntegrityError, DestinationError, DiskError) as error:
        if error.code == "no-space":
            raise
        return Adoption(candidate=one, folder=folder, result="failed", error=error)
    result = "present" if how == "present" else "adopted"
    return Adoption(candidate=one, folder=folder, result=result, digest=str(blob.digest), how=how)


def _record(folder: Path, one: CollectionFile, session: Session, advance: Callable[[int], None]) -> Adoption:
    hashed = hash_one(one.file, advance=advance)
    if hashed.digest is None:
        reason = hashed.error or OSError(0, "it changed while it was read")
        error = os_errors.translate(reason, one.file, doing="reading")
        return Adoption(candidate=one, folder=folder, result="failed", error=error)
    known = session.store.peek(Digest.parse(hashed.digest)) is not None
    as_hashed = replace(one, size=hashed.size, mtime_ns=hashed.mtime_ns)
    return Adoption(
        candidate=as_hashed,
        folder=folder,
        result="present" if known else "recorded",
        digest=hashed.digest,
        how="in place",
    )


def _in_threads(
    work: Sequence[tuple[Path, CollectionFile]],
    do: Callable[[Path, CollectionFile, Session, Callable[[int], None]], Adoption],
    session: Session,
) -> list[Adoption]:
    """Hash and take files in threads, which a cancellation ends after the piece that they are reading."""
    total = sum(one.size for _, one in work)
    with reporting_check(session.sink, _KEY, "adopting", size=total, files=len(work)) as advance:

        def hashed(count: int) -> None:
            session.cancel.check()
            advance(count)

        done = in_threads([partial(do, folder, one, session, hashed) for folder, one in work])
        return sorted(done, key=lambda one: (str(one.folder), one.candidate.name))


def _note_in_place(done: Sequence[Adoption], session: Session) -> None:
    root = session.options.root
    label = "the note of adopted folders"

    def work() -> None:
        with lock(own_folder(root) / "locks" / "in-place.lock", label=label, **session.lock_options) as held:
            noted = defaultdict(list, read_in_place(root))
            for one in done:
                if one.digest is None:
                    continue
                path = str(one.candidate.file)
                others = [other for other in noted[one.digest] if other.get("path") != path]
                entry = {"path": path, "size": one.candidate.size, "mtime_ns": one.candidate.mtime_ns}
                noted[one.digest] = [*others, entry]
            with os_errors.translated(root, doing="writing in"):
                write_in_place(root, noted, confirm=held.ensure_owned)

    repeat_if_lost(work, label=label)
