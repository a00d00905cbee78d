"""Execute plans: make each model's bytes available in the store, then place them for each consumer."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from modelfetch.core import directories, os_errors
from modelfetch.core.bounded import map_bounded
from modelfetch.core.events import Notice
from modelfetch.errors import DestinationError, InterruptedSync, ModelfetchError
from modelfetch.pipeline.final_check import check_final_names
from modelfetch.pipeline.obtain import ArtifactProvider
from modelfetch.pipeline.place import place_model, with_digests
from modelfetch.placement import Action
from modelfetch.placement.consumer_dirs import record_consumer_dirs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from modelfetch.core.artifact import Artifact
    from modelfetch.pipeline.plan import ModelPlan
    from modelfetch.pipeline.session import Session
    from modelfetch.transfer import Fetched


_MODELS_AT_ONCE = 128
_FILES_AT_ONCE = 128
"""Files of all models that are in progress. The engine transfers fewer at once; the others are looked up on disk."""


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


async def execute_plans(outcomes: list[Outcome], session: Session) -> None:
    """Execute all plans concurrently. The first failure cancels the others, unless ``keep_going`` is set.

    Each outcome, at first only a plan, is replaced when its model is done or has failed.
    """
    plans = [outcome.plan for outcome in outcomes]
    if any(not plan.complete and not plan.errors for plan in plans):
        await asyncio.to_thread(_make_root, session)
    await asyncio.to_thread(_record_consumer_dirs, plans, session)
    executor = await asyncio.to_thread(_PlanExecutor, plans, session)

    async def one(index: int) -> None:
        outcomes[index] = await executor.execute(plans[index])
        if not session.options.keep_going and _is_failure(outcomes[index]):
            raise _FirstFailureError

    try:
        with contextlib.suppress(_FirstFailureError):
            await map_bounded(one, range(len(plans)), limit=_MODELS_AT_ONCE)
    finally:
        await executor.close()
    outcomes[:] = [executor.after_receipts(outcome) for outcome in outcomes]


class _FirstFailureError(Exception):
    """A model has failed, which cancels the others."""


def _make_root(session: Session) -> None:
    """Create ROOT with the owner and mode of its subdirectories, before the store would create it with its own."""
    options = session.options
    with os_errors.translated(options.root, doing="making"):
        directories.make_directory(options.root, owner=options.chown)
    session.block_removals(make=True)


def _record_consumer_dirs(plans: Sequence[ModelPlan], session: Session) -> None:
    """Record the folders that are filled, so that later commands find them. If that fails, they must be named again."""
    consumers = dict.fromkeys(consumer for plan in plans for consumer in plan.request.consumers)
    folders = {consumer: session.consumer_dirs.get(consumer) for consumer in consumers}
    try:
        record_consumer_dirs(session.options.root, folders)
    except OSError as error:
        message = f"the folders of --consumer-dir can't be recorded below {session.options.root}: {error.strerror}"
        hint = "name them in every command, or set MODELFETCH_CONSUMER_DIR"
        session.sink(Notice(level="warning", message=message, hint=hint))


def _is_failure(outcome: Outcome) -> bool:
    if outcome.error is None:
        return False
    return not outcome.plan.request.model.optional or isinstance(outcome.error, InterruptedSync)


class _PlanExecutor:
    """Executes the plans of one run: obtains the missing files of each model, checks their names, and places them."""

    def __init__(self, plans: Sequence[ModelPlan], session: Session) -> None:
        self._session = session
        self._provider = ArtifactProvider(plans, session)
        self._slots = asyncio.Semaphore(_FILES_AT_ONCE)
        self._turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._receipt_errors: dict[str, ModelfetchError] = {}

    async def execute(self, plan: ModelPlan) -> Outcome:
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
        except (ModelfetchError, OSError, UnicodeEncodeError) as error:
            return Outcome(plan=plan, fetched=fetched, error=self._typed(error, plan))
        return Outcome(plan=plan, fetched=fetched, done=True)

    def _typed(self, error: ModelfetchError | OSError | UnicodeEncodeError, plan: ModelPlan) -> ModelfetchError:
        """Return the typed error of a model. A disk error at one model does not end the others either."""
        if not isinstance(error, ModelfetchError):
            error = os_errors.translate(error, self._session.options.root, doing="working in")
        return error.about(model=plan.request.model.name, uri=str(plan.request.model.source))

    async def _fetch_all(
        self, plan: ModelPlan, fetched: dict[str, Fetched], failures: dict[str, BaseException]
    ) -> None:
        """Make all missing files of a model available; a file that fails does not end the others."""

        async def one(artifact: Artifact) -> None:
            try:
                fetched[artifact.uri] = await self._provider.obtain(plan.request, artifact)
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
        complete = await asyncio.to_thread(with_digests, plan, fetched)
        try:
            for consumer in plan.request.consumers:
                async with self._turns[consumer]:  # at most one thread waits for the lock of a consumer
                    await asyncio.to_thread(place_model, complete, consumer, fetched, self._session)
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
        await self._provider.close()
        self._receipt_errors = await asyncio.to_thread(self._session.placer.finish)

    def after_receipts(self, outcome: Outcome) -> Outcome:
        """Return the outcome, with an error if the model was placed but its receipt could not be written."""
        plan = outcome.plan
        errors = [e for consumer, e in self._receipt_errors.items() if consumer in plan.request.consumers]
        if not errors or not outcome.done or plan.complete or self._is_only_unrecorded(plan, errors[0]):
            return outcome
        return replace(outcome, done=False, error=errors[0])
