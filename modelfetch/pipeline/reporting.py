"""From what came of a plan to the lines of the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelfetch.core.report import ArtifactReport, ModelReport
from modelfetch.placement import Action, State

if TYPE_CHECKING:
    from modelfetch.core.artifact import Artifact
    from modelfetch.pipeline.execute import Outcome
    from modelfetch.transfer import Fetched


def build_model_report(outcome: Outcome) -> ModelReport:
    """One model of the report."""
    plan = outcome.plan
    artifacts = plan.resolution.artifacts if plan.resolution else ()
    if not artifacts:
        source = str(plan.item.model.source)
        unknown = ArtifactReport(
            uri=source,
            served_by=None,
            digest=str(plan.item.model.digest) if plan.item.model.digest else None,
            size=plan.item.model.size,
            action="failed" if plan.errors or outcome.error else "skipped",
        )
        return ModelReport(name=plan.item.model.name, ok=False, artifacts=(unknown,))
    lines = tuple(_describe_artifact(outcome, artifact) for artifact in artifacts)
    ok = outcome.done or (outcome.preview and plan.complete)
    return ModelReport(name=plan.item.model.name, ok=ok, artifacts=lines)


def _describe_artifact(outcome: Outcome, artifact: Artifact) -> ArtifactReport:
    fetched = outcome.fetched.get(artifact.uri)
    digest = fetched.blob.digest if fetched else artifact.digest
    return ArtifactReport(
        uri=artifact.uri,
        served_by=fetched.served_by if fetched and fetched.action in ("fetched", "resumed") else None,
        digest=str(digest) if digest else None,
        size=fetched.blob.size if fetched else artifact.size,
        action=_action(outcome, artifact, fetched),
        bytes_fetched=fetched.bytes_fetched if fetched else 0,
        placements=outcome.plan.placements_of(artifact),
    )


def _action(outcome: Outcome, artifact: Artifact, fetched: Fetched | None) -> str:
    if fetched is not None:
        return fetched.action
    plan = outcome.plan
    targets = [t for t in plan.targets if t.placement.artifact == artifact]
    if any(t.needs_bytes for t in targets):
        if outcome.preview and (str(artifact.digest) in outcome.here or artifact.content is not None):
            return "present"
        if outcome.error is not None or plan.errors:
            return "failed"
        return "would-fetch" if outcome.preview else "skipped"
    if plan.errors or not targets:
        return "failed" if plan.errors else "present"
    adopted = any(t.act is Action.KEEP and t.state is State.FOREIGN for t in targets)
    return "adopted" if adopted else "present"
