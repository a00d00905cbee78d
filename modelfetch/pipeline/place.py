"""Place a model's files for one consumer, from its plan and what was fetched."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from modelfetch.pipeline.frozen import freeze
from modelfetch.pipeline.pin_hint import how_to_upgrade
from modelfetch.pipeline.plan import ModelPlan, jobs_for
from modelfetch.pipeline.preflight import require_space
from modelfetch.placement import Action, PlacementJob, PlacementRequest
from modelfetch.placement.archive import unpack, unpacked_size
from modelfetch.placement.layouts import PlacementMethod
from modelfetch.placement.receipts import Receipt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from modelfetch.pipeline.session import Session
    from modelfetch.transfer import Fetched


def with_digests(plan: ModelPlan, fetched: Mapping[str, Fetched]) -> ModelPlan:
    """Return the plan with the sha256 and size of each artifact that was fetched."""
    blobs = {uri: one.blob for uri, one in fetched.items()}
    return plan.with_artifacts(
        {
            artifact.uri: replace(artifact, digest=blob.digest, size=blob.size)
            for artifact in (plan.resolution.artifacts if plan.resolution else ())
            if (blob := blobs.get(artifact.uri)) is not None
        }
    )


def place_model(plan: ModelPlan, consumer: str, fetched: Mapping[str, Fetched], session: Session) -> None:
    """Place a model for one of its consumers; blocks.

    Args:
        plan: The plan, with the digests of what was fetched (see `with_digests`).
        consumer: The consumer.
        fetched: What was fetched, by artifact URI.
        session: The session.

    Raises:
        ModelfetchError: As `Placer.place`, `unpack` and `require_space`.
    """
    archives = [t for t in plan.targets if t.consumer == consumer and t.placement.how is PlacementMethod.UNPACK]
    receipt = session.placer.receipt(consumer) if archives else Receipt(consumer=consumer)
    jobs: list[PlacementJob] = []
    for job in jobs_for(plan, consumer, receipt):
        artifact = job.placement.artifact
        carried = job.placement.how in (PlacementMethod.FILE, PlacementMethod.COPY) and job.archive is None
        blob = fetched[artifact.uri].blob if carried and artifact and artifact.uri in fetched else None
        jobs.append(replace(job, blob=blob))
    for target in archives:
        artifact = target.placement.artifact
        if artifact is not None and target.action is not Action.KEEP:
            archive = fetched[artifact.uri].blob
            require_space(session, unpacked_size(archive))  # a small archive may fill the disk
            jobs[:0] = unpack(session.store, archive, target.placement)
    request = plan.request
    session.placer.place(
        PlacementRequest(
            consumer=consumer,
            model=request.model.name,
            requested_by=request.requested_by,
            jobs=jobs,
            frozen=freeze(request, plan.resolution, session.settings) if plan.resolution else {},
            how_to_upgrade=how_to_upgrade(request.model),
        )
    )
