"""The process: manifests → what is wanted → what is there → what is fetched → what is placed → the report."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from modelfetch.core.events import Notice, Planned
from modelfetch.core.report import Report, failed
from modelfetch.errors import InterruptedSync, ModelfetchError, exit_code_of
from modelfetch.manifest.model import CONSUMERS
from modelfetch.pipeline.availability import check_availability, digests_here
from modelfetch.pipeline.execute import Outcome, execute_plans
from modelfetch.pipeline.plan import ModelPlan, clashes, plan_model, require_digests, select
from modelfetch.pipeline.preflight import (
    drop_unplaceable_optional,
    kept_in,
    needs,
    space_problems,
    writability_problems,
)
from modelfetch.pipeline.reporting import build_model_report
from modelfetch.pipeline.resolve import resolve_all
from modelfetch.placement.receipts import read_receipt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from modelfetch.manifest.model import Manifest
    from modelfetch.pipeline.plan import ModelRequest
    from modelfetch.pipeline.preflight import SpaceRequirement
    from modelfetch.pipeline.session import Session
    from modelfetch.placement.receipts import Receipt


async def sync_manifests(manifests: Sequence[Manifest], session: Session) -> Report:
    """Make everything that the manifests ask for present, verified and in place; never raises a `ModelfetchError`."""
    started = time.monotonic()
    try:
        await asyncio.to_thread(session.hold_off_removals)
        plans, problems, _ = await plan_manifests(manifests, session)
        await asyncio.to_thread(_announce, plans, session)
        if problems and not session.options.keep_going:
            outcomes = [Outcome(plan=plan) for plan in plans]
        else:
            outcomes = await execute_plans(plans, session)
        return _report(manifests, session, outcomes, problems, started)
    except ModelfetchError as error:
        return failed(
            [error], tier=tier_of(manifests), root=str(session.options.root), seconds=time.monotonic() - started
        )


async def preview_manifests(
    manifests: Sequence[Manifest], session: Session
) -> tuple[Report, tuple[ModelPlan, ...], tuple[SpaceRequirement, ...]]:
    """What `sync_manifests` would do, and every problem that can be foreseen; no body is fetched."""
    started = time.monotonic()
    try:
        plans, problems, needed = await plan_manifests(manifests, session)
    except ModelfetchError as error:
        seconds = time.monotonic() - started
        return failed([error], tier=tier_of(manifests), root=str(session.options.root), seconds=seconds), (), ()
    here = frozenset(await asyncio.to_thread(digests_here, plans, session))
    outcomes = [Outcome(plan=plan, preview=True, here=here) for plan in plans]
    return _report(manifests, session, outcomes, problems, started), plans, needed


async def plan_manifests(
    manifests: Sequence[Manifest], session: Session
) -> tuple[tuple[ModelPlan, ...], tuple[ModelfetchError, ...], tuple[SpaceRequirement, ...]]:
    """Resolve and examine everything; returns the plans, all problems found, and what each file system must take."""
    items = select(manifests, session.options.consumers)
    if session.options.require_digests and (unpinned := require_digests(items)):
        return tuple(ModelPlan(item=item) for item in items), unpinned, ()
    receipts = await asyncio.to_thread(_read_receipts, session)
    asked: set[str] = set()
    resolutions = await resolve_all(items, session, receipts, asked)
    plans = await asyncio.to_thread(_examine, items, resolutions, receipts, session)
    plans = await check_availability(plans, asked, session) if any(plan.missing() for plan in plans) else plans
    plans, needed, unwritable = await asyncio.to_thread(_check_capacity, plans, session)
    problems = tuple(e for plan in plans for e in plan.errors if not plan.item.model.optional)
    return plans, problems + clashes(plans) + space_problems(needed) + unwritable, needed


def tier_of(manifests: Sequence[Manifest]) -> str | None:
    """The tier that a report names: that of the first manifest."""
    return manifests[0].tier if manifests else None


def _read_receipts(session: Session) -> dict[str, Receipt]:
    return {consumer: read_receipt(session.options.root, consumer) for consumer in CONSUMERS}


def _examine(
    items: Sequence[ModelRequest],
    resolutions: Sequence[object],
    receipts: Mapping[str, Receipt],
    session: Session,
) -> tuple[ModelPlan, ...]:
    plans = []
    for item, resolution in zip(items, resolutions, strict=True):
        session.cancel.check()
        if isinstance(resolution, ModelfetchError):
            plans.append(ModelPlan(item=item, errors=(resolution,)))
        else:
            plans.append(plan_model(item, resolution, receipts, session.examiner))  # type: ignore[arg-type]
    return tuple(plans)


def _check_capacity(
    plans: Sequence[ModelPlan], session: Session
) -> tuple[tuple[ModelPlan, ...], tuple[SpaceRequirement, ...], tuple[ModelfetchError, ...]]:
    """The plans, marked where one has to be left out; what each file system must take; what can't be written."""
    in_store = [
        artifact.uri
        for plan in plans
        for artifact in plan.missing()
        if artifact.digest is not None and session.store.peek(artifact.digest)
    ]
    root, store = session.options.root, session.store.path
    possible = drop_unplaceable_optional(plans, root=root, store=store, in_store=in_store)
    needed = needs(possible, root=root, store=store, in_store=in_store)
    return possible, needed, writability_problems(possible, root=root, store=store, in_store=in_store)


def _announce(plans: Sequence[ModelPlan], session: Session) -> None:
    wanted = {a.uri: a for plan in plans for a in plan.missing()}
    kept = kept_in(plans)
    missing = [
        a for a in wanted.values() if a.digest is None or not (str(a.digest) in kept or session.store.peek(a.digest))
    ]
    total = sum(len(plan.resolution.artifacts) for plan in plans if plan.resolution)
    session.sink(Planned(artifacts=len(missing), bytes=sum(a.size or 0 for a in missing), present=total - len(missing)))


def _report(
    manifests: Sequence[Manifest],
    session: Session,
    outcomes: Sequence[Outcome],
    problems: Sequence[ModelfetchError],
    started: float,
) -> Report:
    """Put together what came of each model; a failure of an optional one is a warning."""
    errors = list(problems)
    for outcome in outcomes:
        error = outcome.error or next(iter(outcome.plan.errors), None)
        if error is None or error in errors:
            continue
        if outcome.plan.item.model.optional and not isinstance(error, InterruptedSync):
            message = f"{outcome.plan.item.model.name} is optional and was left out: {error.message}"
            session.sink(Notice(level="warning", message=message, hint=error.hint))
        else:
            errors.append(error)
    models = tuple(build_model_report(outcome) for outcome in outcomes)
    return Report(
        ok=not errors,
        exit_code=exit_code_of(errors),
        tier=tier_of(manifests),
        root=str(session.options.root),
        seconds=time.monotonic() - started,
        bytes_fetched=sum(a.bytes_fetched for model in models for a in model.artifacts),
        requests=session.requests,
        models=models,
        errors=tuple(errors),
    )
