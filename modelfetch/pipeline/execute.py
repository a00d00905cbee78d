"""Execute plans: make each model's bytes available in the store, then place them for each consumer."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from modelfetch.core import fs
from modelfetch.core.artifact import Resolution
from modelfetch.core.bounded import map_bounded
from modelfetch.core.events import Notice
from modelfetch.errors import DestinationError, IntegrityError, InterruptedSync, ModelfetchError
from modelfetch.pipeline.deduplicate import TransferDeduplicator
from modelfetch.pipeline.final_check import check_final_names
from modelfetch.pipeline.plan import ModelPlan, freeze, jobs_for
from modelfetch.pipeline.resolve import mirrors_of
from modelfetch.placement import Action, PlacementJob, PlacementRequest
from modelfetch.placement.archive import unpack
from modelfetch.placement.layouts import PlacementMethod
from modelfetch.placement.receipts import Receipt
from modelfetch.store.adopted import mark_adopted
from modelfetch.store.adoption import adopt_file
from modelfetch.transfer import Fetched

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from modelfetch.core.artifact import Artifact
    from modelfetch.core.digest import Digest
    from modelfetch.manifest.model import Model
    from modelfetch.pipeline.session import Session
    from modelfetch.store import Blob


_MODELS_AT_ONCE = 128
_FILES_AT_ONCE = 128
"""Files of all models that are in progress. The engine transfers fewer at once; the others find out what is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of a plan: what was fetched, by artifact URI, and the error that ended it (None if there was none).

    ``done``: everything is in place. ``preview``: nothing was attempted; ``here`` then holds the digests that need no
    transfer.
    """

    plan: ModelPlan
    fetched: Mapping[str, Fetched] = field(default_factory=dict)
    error: ModelfetchError | None = None
    done: bool = False
    preview: bool = False
    here: frozenset[str] = frozenset()


async def execute_plans(plans: Sequence[ModelPlan], session: Session) -> list[Outcome]:
    """Execute all plans concurrently. The first failure cancels the others, unless ``keep_going`` is set."""
    if any(not plan.complete and not plan.errors for plan in plans):
        await asyncio.to_thread(_make_root, session)
    work = await asyncio.to_thread(_PlanExecutor, plans, session)
    outcomes = [Outcome(plan=plan) for plan in plans]

    async def one(index: int) -> None:
        outcomes[index] = await work.model(plans[index])
        if not session.options.keep_going and _is_failure(outcomes[index]):
            raise _FirstFailureError

    try:
        with contextlib.suppress(_FirstFailureError):
            await map_bounded(one, range(len(plans)), limit=_MODELS_AT_ONCE)
    finally:
        await work.close()
    return work.after_receipts(outcomes)


class _FirstFailureError(Exception):
    """A model has failed, which cancels the others."""


def _make_root(session: Session) -> None:
    """Create ROOT with the owner and mode of its subdirectories, before the store would create it with its own."""
    options = session.options
    try:
        fs.make_directory(options.root, owner=options.chown)
    except OSError as error:
        raise fs.translate(error, options.root, doing="making") from error
    session.block_removals(make=True)


def _is_failure(outcome: Outcome) -> bool:
    if outcome.error is None:
        return False
    return not outcome.plan.request.model.optional or isinstance(outcome.error, InterruptedSync)


class _PlanExecutor:
    """Executes the plans of one run; models that need the same bytes share one transfer."""

    def __init__(self, plans: Sequence[ModelPlan], session: Session) -> None:
        self._plans = plans
        self._session = session
        self._transfers = TransferDeduplicator()
        self._reusable = _reusable_files(plans, session)
        self._slots = asyncio.Semaphore(_FILES_AT_ONCE)
        self._turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._receipt_errors: dict[str, ModelfetchError] = {}

    async def model(self, plan: ModelPlan) -> Outcome:
        """Fetch and place one model for all of its consumers."""
        fetched: dict[str, Fetched] = {}
        try:
            if plan.errors:
                return Outcome(plan=plan, error=plan.errors[0])
            if plan.complete:
                return Outcome(plan=plan, done=True)
            failures: dict[str, BaseException] = {}
            await self._fetch_all(plan, fetched, failures)
            for artifact in plan.missing:
                if artifact.uri in failures:
                    raise failures[artifact.uri]
            await asyncio.to_thread(check_final_names, plan, fetched)
            await self._place_all(plan, fetched)
        except ModelfetchError as error:
            error.about(model=plan.request.model.name, uri=str(plan.request.model.source))
            return Outcome(plan=plan, fetched=fetched, error=error)
        return Outcome(plan=plan, fetched=fetched, done=True)

    async def _fetch_all(
        self, plan: ModelPlan, fetched: dict[str, Fetched], failures: dict[str, BaseException]
    ) -> None:
        """Make all missing files of a model available; a file that fails does not end the others."""

        async def one(artifact: Artifact) -> None:
            try:
                fetched[artifact.uri] = await self._ensure_available(plan, artifact)
            except BaseException as error:
                failures[artifact.uri] = error
                if not isinstance(error, Exception):
                    raise
            finally:
                self._slots.release()

        async with asyncio.TaskGroup() as group:
            for artifact in plan.missing:
                await self._slots.acquire()
                group.create_task(one(artifact))

    async def _place_all(self, plan: ModelPlan, fetched: Mapping[str, Fetched]) -> None:
        settled = await asyncio.to_thread(_settled, plan, fetched)
        try:
            for consumer in plan.request.consumers:
                async with self._turns[consumer]:  # so that at most one thread waits for its lock
                    await asyncio.to_thread(self._place, settled, consumer, fetched)
        except DestinationError as error:
            if not self._is_only_unrecorded(plan, error):
                raise

    def _is_only_unrecorded(self, plan: ModelPlan, error: ModelfetchError) -> bool:
        """Whether a model is completely in place and only its receipt, which saves work next time, can't be written."""
        if error.code != "not-writable" or any(target.action is not Action.KEEP for target in plan.targets):
            return False
        message = f"{plan.request.model.name} is in place, but its receipt can't be written: {error.message}"
        self._session.sink(Notice(level="warning", message=message, hint=error.hint))
        return True

    async def close(self) -> None:
        """Cancel the transfers that no model is waiting for, and write the receipts."""
        await self._transfers.close()
        self._receipt_errors = await asyncio.to_thread(self._session.placer.finish)

    def after_receipts(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """The outcomes, with an error where a model was placed and its receipt could not be written."""
        return [self._after_receipts(outcome) for outcome in outcomes]

    def _after_receipts(self, outcome: Outcome) -> Outcome:
        plan = outcome.plan
        errors = [e for consumer, e in self._receipt_errors.items() if consumer in plan.request.consumers]
        if not errors or not outcome.done or plan.complete or self._is_only_unrecorded(plan, errors[0]):
            return outcome
        return replace(outcome, done=False, error=errors[0])

    async def _ensure_available(self, plan: ModelPlan, artifact: Artifact) -> Fetched:
        key = str(artifact.digest or artifact.uri)
        way = (artifact.locations, plan.request.model.mirrors, artifact.size, artifact.allow_pickle)
        fetched, mine = await self._transfers.get(key, way, lambda: self._fetch_or_reuse(plan, artifact))
        return fetched if mine else replace(fetched, action="present", bytes_fetched=0)

    async def _fetch_or_reuse(self, plan: ModelPlan, artifact: Artifact) -> Fetched:
        """Return an artifact's blob from known content, the store, another consumer's file, or else the sources."""
        found = await asyncio.to_thread(self._on_disk, artifact)
        if found is not None:
            return found
        label = _label(plan.request.model.name, artifact)
        mirrors = mirrors_of(plan.request, artifact, self._session)
        engine = self._session.engine
        try:
            return await engine.fetch(artifact, mirrors, label=label)
        except IntegrityError:
            if not mirrors or not _size_is_unpinned(plan.request.model, artifact):
                raise
        # The source's file is proven to be a different one, so its size does not apply to the mirrors.
        return await engine.fetch(replace(artifact, size=None, locations=()), mirrors, label=label)

    def _on_disk(self, artifact: Artifact) -> Fetched | None:
        store = self._session.store
        if artifact.digest is not None and (blob := store.find(artifact.digest, artifact.size)):
            return _present(blob, artifact)
        if artifact.content is not None:
            return _present(store.add_bytes(artifact.content), artifact)
        for path in self._reusable.get(artifact.digest, ()) if artifact.digest else ():
            with contextlib.suppress(IntegrityError, OSError):  # changed or removed since it was inspected
                return _present(self._shared_from(path, artifact), artifact)
        for path in self._session.local_files.find(artifact):
            with contextlib.suppress(IntegrityError, DestinationError, OSError):  # a different file of that name
                blob, _ = adopt_file(store, path, digest=artifact.digest, copy=True)
                self._session.sink(Notice(level="info", message=f"{artifact.path}: taken from {path}"))
                return replace(_present(blob, artifact), action="adopted")
        return None

    def _shared_from(self, path: Path, artifact: Artifact) -> Blob:
        """Import a placed file as a blob to share with other services; warns if a hardlink makes the file read-only."""
        store = self._session.store
        if artifact.digest is not None and artifact.digest.algorithm == "sha256":
            mark_adopted(store.path, artifact.digest)
        before = path.stat().st_mode
        blob = store.add_file(path, artifact.digest)
        mark_adopted(store.path, blob.digest)
        if path.stat().st_mode != before:
            message = f"{path} serves several services now and is read-only: all of them share its bytes"
            self._session.sink(Notice(level="warning", message=message, hint="replace it, don't write into it"))
        return blob

    def _place(self, plan: ModelPlan, consumer: str, fetched: Mapping[str, Fetched]) -> None:
        archives = [t for t in plan.targets if t.consumer == consumer and t.placement.how is PlacementMethod.UNPACK]
        receipt = self._session.placer.receipt(consumer) if archives else Receipt(consumer=consumer)
        jobs: list[PlacementJob] = []
        for job in jobs_for(plan, consumer, receipt):
            artifact = job.placement.artifact
            carried = job.placement.how in (PlacementMethod.FILE, PlacementMethod.COPY) and job.archive is None
            blob = fetched[artifact.uri].blob if carried and artifact and artifact.uri in fetched else None
            jobs.append(replace(job, blob=blob))
        for target in archives:
            if target.action is not Action.KEEP:
                archive = fetched[target.placement.artifact.uri].blob  # type: ignore[union-attr]
                jobs[:0] = unpack(self._session.store, archive, target.placement)
        request = plan.request
        self._session.placer.place(
            PlacementRequest(
                consumer=consumer,
                model=request.model.name,
                requested_by=request.requested_by,
                jobs=jobs,
                frozen=freeze(plan, self._session.settings),
            )
        )


def _reusable_files(plans: Sequence[ModelPlan], session: Session) -> dict[Digest, list[Path]]:
    """The complete and correct files that this run's placements already have, by digest."""
    found: dict[Digest, list[Path]] = defaultdict(list)
    for plan in plans:
        for target in plan.targets:
            artifact = target.placement.artifact
            holds_bytes = target.placement.how in (PlacementMethod.FILE, PlacementMethod.COPY)
            if holds_bytes and target.action is Action.KEEP and artifact is not None and artifact.digest is not None:
                found[artifact.digest].append(session.examiner.tree.path(target.placement.path))
    return found


def _size_is_unpinned(model: Model, artifact: Artifact) -> bool:
    """Whether the manifest pins an artifact's digest but not its size."""
    if model.files is not None:
        return any(f.path == artifact.path and f.digest is not None and f.size is None for f in model.files)
    return model.digest is not None and model.size is None


def _label(model: str, artifact: Artifact) -> str:
    """The display name of an artifact: the kind of a registry layer, the file name otherwise."""
    kind = (artifact.media_type or "").rpartition(".")[2].partition("+")[0].replace("v1", "config")
    name = artifact.path.rpartition("/")[2]
    return f"{model}: {kind if name.startswith('sha256') and kind else name}"


def _present(blob: Blob, artifact: Artifact) -> Fetched:
    source = artifact.locations[0].uri if artifact.locations else artifact.uri
    return Fetched(blob=blob, action="present", bytes_fetched=0, served_by=source)


def _settled(plan: ModelPlan, fetched: Mapping[str, Fetched]) -> ModelPlan:
    """The plan with the sha256 and size of each artifact that was fetched filled in."""
    if plan.resolution is None:
        return plan
    known = tuple(
        replace(a, digest=fetched[a.uri].blob.digest, size=fetched[a.uri].blob.size) if a.uri in fetched else a
        for a in plan.resolution.artifacts
    )
    resolution = Resolution(artifacts=known, revision=plan.resolution.revision, pinned=plan.resolution.pinned)
    new = {old.uri: now for old, now in zip(plan.resolution.artifacts, known, strict=True)}
    targets = tuple(
        replace(t, placement=replace(t.placement, artifact=new[t.placement.artifact.uri]))
        if t.placement.artifact
        else t
        for t in plan.targets
    )
    return replace(plan, resolution=resolution, targets=targets)
