"""`sync` and `plan`: resolve, plan, check, transfer, place, report."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from modelfetch.core.events import Notice, Planned
from modelfetch.errors import ModelfetchError
from modelfetch.manifest.kinds import name_warnings
from modelfetch.pipeline.availability import check_availability, digests_here
from modelfetch.pipeline.execute import Outcome, execute_plans
from modelfetch.pipeline.plan import ModelPlan, clashes, plan_model, require_digests, select
from modelfetch.pipeline.preflight import check_capacity, check_folders, files_in_place
from modelfetch.pipeline.reporting import build_interrupted_report, build_report
from modelfetch.pipeline.resolve import resolve_all
from modelfetch.placement.receipts import read_receipts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from modelfetch.core.artifact import Resolution
    from modelfetch.core.report import Report
    from modelfetch.manifest.model import Manifest
    from modelfetch.pipeline.plan import ModelRequest
    from modelfetch.pipeline.preflight import SpaceRequirement
    from modelfetch.pipeline.session import Session
    from modelfetch.placement.receipts import Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The plans of all models, the problems that prevent their execution, and the space that they need."""

    models: tuple[ModelPlan, ...]
    problems: tuple[ModelfetchError, ...] = ()
    space: tuple[SpaceRequirement, ...] = ()


async def sync_manifests(manifests: Sequence[Manifest], session: Session) -> Report:
    """Make everything in the manifests present, verified and in place; errors are in the report."""
    outcomes = [Outcome(plan=ModelPlan(request=one)) for one in select(manifests, session.options.consumers)]
    session.report_interruption = partial(build_interrupted_report, manifests, session, outcomes, ())
    try:
        await asyncio.to_thread(check_folders, session)
        await asyncio.to_thread(session.block_removals)
        plan = await make_plan(manifests, session)
        await asyncio.to_thread(_report_planned, plan, session)
        outcomes = [Outcome(plan=model) for model in plan.models]
        if not plan.problems or session.options.keep_going:
            session.report_interruption = partial(build_interrupted_report, manifests, session, outcomes, plan.problems)
            await execute_plans(outcomes, session)
    except ModelfetchError as error:
        return session.report(errors=[error], manifests=manifests)
    session.cancel.check()
    return await asyncio.to_thread(build_report, manifests, session, outcomes, plan.problems)


async def preview_manifests(manifests: Sequence[Manifest], session: Session) -> tuple[Report, Plan]:
    """Report what `sync_manifests` would do, and every problem that can be foreseen, without downloading a file."""
    try:
        await asyncio.to_thread(check_folders, session)
        plan = await make_plan(manifests, session)
    except ModelfetchError as error:
        return session.report(errors=[error], manifests=manifests), Plan(models=())
    here = frozenset(await asyncio.to_thread(digests_here, plan.models, session))
    outcomes = [Outcome(plan=model, preview=True, here=here) for model in plan.models]
    return await asyncio.to_thread(build_report, manifests, session, outcomes, plan.problems), plan


async def make_plan(manifests: Sequence[Manifest], session: Session) -> Plan:
    """Resolve the models, plan each, and check that the plans can be carried out.

    Raises:
        ModelfetchError: No plan can be made; what is wrong with single models is in the plan.
    """
    requests = select(manifests, session.options.consumers)
    if session.options.require_digests and (unpinned := require_digests(requests)):
        return Plan(models=tuple(ModelPlan(request=request) for request in requests), problems=unpinned)
    receipts = await asyncio.to_thread(read_receipts, session.options.root)
    queried: set[str] = set()
    resolutions = await resolve_all(requests, session, receipts, queried)
    models = await asyncio.to_thread(_plan_models, requests, resolutions, receipts, session)
    models = await check_availability(models, queried, session)
    return await asyncio.to_thread(_check, models, session)


def _plan_models(
    requests: Sequence[ModelRequest],
    resolutions: Sequence[Resolution | ModelfetchError],
    receipts: Mapping[str, Receipt],
    session: Session,
) -> tuple[ModelPlan, ...]:
    plans = []
    with session.inspector.tree.keeping_folder_open():
        for request, resolution in zip(requests, resolutions, strict=True):
            session.cancel.check()
            if isinstance(resolution, ModelfetchError):
                plans.append(ModelPlan(request=request, errors=(resolution,)))
            else:
                plans.append(plan_model(request, resolution, receipts, session.inspector))
                _warn_of_names(plans[-1], session)
    return tuple(plans)


def _warn_of_names(plan: ModelPlan, session: Session) -> None:
    """Warn of the files to place that their service will not list, or that are in a repeated folder."""
    model = plan.request.model
    paths = [(target.consumer, PurePosixPath(target.placement.path)) for target in plan.targets if not target.is_ok]
    warnings = (warning for consumer, path in paths for warning in name_warnings(model, consumer, path.name))
    for warning in dict.fromkeys(warnings):
        session.sink(Notice(level="warning", message=warning))


def _check(models: Sequence[ModelPlan], session: Session) -> Plan:
    """Check that the disks can take the plans, and that no two models need one path."""
    in_store = {
        artifact.uri
        for model in models
        for artifact in model.missing
        if artifact.digest is not None and session.store.peek(artifact.digest)
    }
    capacity = check_capacity(
        models,
        tree=session.inspector.tree,
        store=session.store.path,
        in_store=in_store,
        reserve=session.options.min_free or 0,
    )
    own = tuple(e for model in capacity.plans for e in model.errors if not model.request.model.optional)
    problems = own + clashes(capacity.plans) + capacity.problems
    return Plan(models=capacity.plans, problems=problems, space=capacity.space)


def _report_planned(plan: Plan, session: Session) -> None:
    wanted = {a.uri: a for model in plan.models for a in model.missing}
    kept = files_in_place(plan.models)
    missing = [
        a for a in wanted.values() if a.digest is None or not (str(a.digest) in kept or session.store.peek(a.digest))
    ]
    total = sum(len(model.resolution.artifacts) for model in plan.models if model.resolution)
    session.sink(Planned(artifacts=len(missing), bytes=sum(a.size or 0 for a in missing), present=total - len(missing)))
