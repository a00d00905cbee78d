"""Build the report from the outcome of each plan."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from modelfetch.core.events import Notice
from modelfetch.core.report import ArtifactReport, ModelReport
from modelfetch.errors import InterruptedSync, ModelfetchError, PinMismatchError
from modelfetch.pipeline.pin_hint import how_to_upgrade
from modelfetch.placement import Action, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelfetch.core.artifact import Artifact
    from modelfetch.core.report import Report
    from modelfetch.manifest.model import Manifest, Model
    from modelfetch.pipeline.execute import Outcome
    from modelfetch.pipeline.session import Session
    from modelfetch.transfer import Fetched


def build_report(
    manifests: Sequence[Manifest],
    session: Session,
    outcomes: Sequence[Outcome],
    problems: Sequence[ModelfetchError],
) -> Report:
    """Return the report of a run; a failure of an optional model is a warning."""
    errors = list(problems)
    for problem in problems:
        _complete_hint(problem, manifests)
    known = set(map(id, errors))
    for outcome in outcomes:
        error = outcome.error or next(iter(outcome.plan.errors), None)
        if error is None or id(error) in known:
            continue
        known.add(id(error))
        _complete_hint(error, manifests)
        if outcome.plan.request.model.optional and not isinstance(error, InterruptedSync):
            message = f"{outcome.plan.request.model.name} is optional and was left out: {error.message}"
            session.sink(Notice(level="warning", message=message, hint=error.hint))
        else:
            errors.append(error)
    models = tuple(build_model_report(outcome) for outcome in outcomes)
    fetched = sum(a.bytes_fetched for model in models for a in model.artifacts)
    return session.report(models, errors, manifests=manifests, bytes_fetched=fetched)


def build_interrupted_report(
    manifests: Sequence[Manifest],
    session: Session,
    outcomes: Sequence[Outcome],
    problems: Sequence[ModelfetchError],
) -> Report:
    """Return the report of a run that was cancelled: what it did until then, and one error for the interruption."""
    own = [replace(o, error=None) if isinstance(o.error, InterruptedSync) else o for o in outcomes]
    report = build_report(manifests, session, own, (*problems, session.cancel.error()))
    return replace(report, bytes_fetched=session.bytes_received)


def _complete_hint(error: ModelfetchError, manifests: Sequence[Manifest]) -> None:
    """Name the command that renews a pin which upstream contradicts."""
    models = (model for one in manifests for model in one.models if model.name == error.model)
    if isinstance(error, PinMismatchError) and (model := next(models, None)) is not None:
        error.hint = f"if the change upstream is intended, {how_to_upgrade(model)}"


def unresolved_report(model: Model, action: str, placements: Sequence[str] = ()) -> ModelReport:
    """Build the report of a model whose files are not known."""
    unknown = ArtifactReport(
        uri=str(model.source),
        digest=str(model.digest) if model.digest else None,
        size=model.size,
        action=action,
        placements=tuple(placements),
    )
    return ModelReport(name=model.name, ok=False, artifacts=(unknown,))


def build_model_report(outcome: Outcome) -> ModelReport:
    """Build the report of one model."""
    plan = outcome.plan
    artifacts = plan.resolution.artifacts if plan.resolution else ()
    if not artifacts:
        return unresolved_report(plan.request.model, "failed" if plan.errors or outcome.error else "skipped")
    lines = tuple(_describe_artifact(outcome, artifact) for artifact in artifacts)
    ok = outcome.done or (outcome.preview and plan.complete)
    return ModelReport(name=plan.request.model.name, ok=ok, artifacts=lines)


def _describe_artifact(outcome: Outcome, artifact: Artifact) -> ArtifactReport:
    fetched = outcome.fetched.get(artifact.uri)
    digest = fetched.blob.digest if fetched else artifact.digest
    return ArtifactReport(
        uri=artifact.uri,
        served_by=fetched.served_by if fetched else None,
        digest=str(digest) if digest else None,
        size=fetched.blob.size if fetched else artifact.size,
        action=_action(outcome, artifact, fetched),
        bytes_fetched=fetched.bytes_fetched if fetched else 0,
        placements=tuple(target.placement.path for target in outcome.plan.targets_of(artifact)),
    )


def _action(outcome: Outcome, artifact: Artifact, fetched: Fetched | None) -> str:
    if fetched is not None:
        return fetched.action
    plan = outcome.plan
    targets = plan.targets_of(artifact)
    if any(t.needs_bytes for t in targets):
        if outcome.preview and (str(artifact.digest) in outcome.here or artifact.content is not None):
            return "present"
        if outcome.error is not None or plan.errors:
            return "failed"
        return "would-fetch" if outcome.preview else "skipped"
    if plan.errors or not targets:
        return "failed" if plan.errors else "present"
    adopted = any(t.action is Action.KEEP and t.state is State.FOREIGN for t in targets)
    return "adopted" if adopted else "present"
