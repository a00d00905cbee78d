"""The plan of each model: which paths it needs, what is there, and which files must be downloaded. Writes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from modelfetch.core import os_errors
from modelfetch.core.digest import Digest
from modelfetch.errors import ManifestError, ModelfetchError, SettingError
from modelfetch.manifest.kinds import HF_CACHES
from modelfetch.manifest.path_conflicts import PathClaim, Shape, find_clashes
from modelfetch.manifest.uri import OllamaUri
from modelfetch.pipeline.pin_hint import how_to_pin
from modelfetch.placement import Action, Inspector, PlacementJob, State, foreign_file_error, wanted_digest
from modelfetch.placement.layouts import Placement, PlacementMethod
from modelfetch.sources import SourceRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from modelfetch.core.artifact import Artifact, Resolution
    from modelfetch.manifest.model import Manifest, Model
    from modelfetch.placement.receipts import Frozen, Receipt


@dataclass(frozen=True, kw_only=True)
class ModelRequest:
    """One model of one manifest, for the consumers that were chosen."""

    manifest: Manifest
    model: Model
    consumers: tuple[str, ...]

    @property
    def requested_by(self) -> str:
        """The tier that has the model, or the manifest's file."""
        return self.manifest.tier or self.manifest.file

    @cached_property
    def key(self) -> str:
        """The name of this entry of this manifest text in a receipt; equal for entries that are resolved alike."""
        return f"{self.manifest.sha256[:32]}:{self.entry_keys[0]}"

    @cached_property
    def entry_keys(self) -> tuple[str, ...]:
        """The part of `key` that is the same in any manifest, then the one of older versions if that was another."""
        model = self.model
        parts: list[Any] = [
            model.source.text,
            model.kind,
            str(model.digest),
            model.size,
            [[f.path, f.size, str(f.digest)] for f in model.files] if model.files is not None else None,
            model.include,
        ]
        further = [model.filename, model.allow_pickle, model.allow_unscanned, SourceRequest.of(model).cached]
        versions = ([*parts, further], parts) if any(further) else (parts,)
        return tuple(hashlib.sha256(json.dumps(version).encode()).hexdigest()[:32] for version in versions)

    def frozen_in(self, receipt: Receipt) -> Frozen | None:
        """Return what the receipt keeps of this entry's resolution by an earlier run with the same manifest text."""
        manifest = self.manifest.sha256[:32]
        current, *older = (receipt.frozen.get(f"{manifest}:{entry}") for entry in self.entry_keys)
        # An older version had one key for all entries of a source, and the last of them wrote it.
        return current or next((one for one in older if one and one.model == self.model.name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One placement of one consumer, its state, and what to do about it."""

    consumer: str
    placement: Placement
    state: State
    action: Action

    @property
    def is_ok(self) -> bool:
        """Whether nothing needs to be done."""
        return self.state in (State.READY, State.REWRITTEN)

    @property
    def needs_bytes(self) -> bool:
        """Whether the artifact's bytes must be available to do it."""
        carried = self.placement.how in (PlacementMethod.FILE, PlacementMethod.COPY, PlacementMethod.UNPACK)
        return carried and self.action in (Action.CREATE, Action.REPLACE, Action.DISPLACE)


@dataclass(frozen=True, kw_only=True)
class ModelPlan:
    """The plan for one model; ``errors`` are the reasons why it can't be executed.

    ``settled``: the receipts know all of it, what was resolved and for which manifest.
    """

    request: ModelRequest
    resolution: Resolution | None = None
    settled: bool = False
    targets: tuple[Target, ...] = ()
    errors: tuple[ModelfetchError, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether there is nothing to do: every path is ready and the receipts know this manifest."""
        return self.settled and not self.errors and all(target.is_ok for target in self.targets)

    @cached_property
    def missing(self) -> tuple[Artifact, ...]:
        """The artifacts whose bytes are needed, each once, in order."""
        wanted = {t.placement.artifact.uri for t in self.targets if t.needs_bytes and t.placement.artifact}
        return tuple(a for a in (self.resolution.artifacts if self.resolution else ()) if a.uri in wanted)

    def targets_of(self, artifact: Artifact) -> Sequence[Target]:
        """The targets that get an artifact."""
        return self._targets_by_uri.get(artifact.uri, ())

    def with_artifacts(self, new: Mapping[str, Artifact]) -> ModelPlan:
        """The plan with other artifacts in place of some, by URI."""
        if self.resolution is None:
            return self
        artifacts = tuple(new.get(artifact.uri, artifact) for artifact in self.resolution.artifacts)
        targets = tuple(
            replace(t, placement=replace(t.placement, artifact=new[t.placement.artifact.uri]))
            if t.placement.artifact and t.placement.artifact.uri in new
            else t
            for t in self.targets
        )
        return replace(self, resolution=replace(self.resolution, artifacts=artifacts), targets=targets)

    @cached_property
    def _targets_by_uri(self) -> Mapping[str, Sequence[Target]]:
        found: dict[str, list[Target]] = {}
        for target in self.targets:
            if target.placement.artifact is not None:
                found.setdefault(target.placement.artifact.uri, []).append(target)
        return found


def select(manifests: Iterable[Manifest], consumers: Sequence[str]) -> tuple[ModelRequest, ...]:
    """Every model that the chosen consumers need; all models if none is chosen.

    If a chosen consumer has optional models only, they are required: its service must not start without them.
    """
    requests = []
    for manifest in manifests:
        for model in manifest.models:
            chosen = tuple(c for c in model.consumers if not consumers or c in consumers)
            if chosen:
                requests.append(ModelRequest(manifest=manifest, model=model, consumers=chosen))
    if not consumers:
        return tuple(requests)
    served = {consumer for request in requests if not request.model.optional for consumer in request.consumers}
    return tuple(request if set(request.consumers) <= served else _required(request) for request in requests)


def _required(request: ModelRequest) -> ModelRequest:
    return replace(request, model=replace(request.model, optional=False))


def require_digests(requests: Iterable[ModelRequest]) -> tuple[ModelfetchError, ...]:
    """An error for each entry whose bytes the manifest does not pin."""
    return tuple(
        SettingError(
            f"{request.model.position}: not all its files are pinned, as --require-digests requires",
            code="digest-required",
            hint=f"modelfetch pin {shlex.quote(request.model.position.file)}",
            model=request.model.name,
            uri=str(request.model.source),
        )
        for request in requests
        if not request.model.is_pinned
    )


def plan_model(
    request: ModelRequest, resolution: Resolution, receipts: Mapping[str, Receipt], inspector: Inspector
) -> ModelPlan:
    """Plan one model: examine every path that it needs. What can't be done is an error of the plan."""
    targets: list[Target] = []
    errors: list[ModelfetchError] = []
    found: dict[str, set[Digest | None]] = {}
    for consumer in request.consumers:
        receipt = receipts[consumer]
        for placement in inspector.lay_out(consumer, request.model, resolution, receipt):
            try:
                target, digest = _inspect(consumer, request.model, placement, receipt, inspector)
            except ModelfetchError as error:
                errors.append(error.about(model=request.model.name, uri=str(request.model.source)))
                continue
            targets.append(target)
            artifact = placement.artifact
            is_link = placement.how is PlacementMethod.SYMLINK and digest is None
            if artifact and not _by_sha256(artifact) and not is_link:
                found.setdefault(artifact.uri, set()).add(digest)
    plan = ModelPlan(request=request, resolution=resolution, targets=tuple(targets), errors=tuple(errors))
    # A file whose paths all hold the same bytes is known by their sha256 from here on, as after a download.
    sha256 = {uri: one for uri, digests in found.items() if len(digests) == 1 and (one := next(iter(digests)))}
    return _with_settled(_renamed(plan, sha256, receipts, inspector) if sha256 else plan, receipts)


def _inspect(
    consumer: str, model: Model, placement: Placement, receipt: Receipt, inspector: Inspector
) -> tuple[Target, Digest | None]:
    """The state of one path, and the sha256 of what is kept there.

    Raises:
        ModelfetchError: It can't be examined, or nothing can be done about it.
    """
    wanted = wanted_digest(placement)
    with os_errors.translated(placement.path, doing="can't examine"):
        os.fsencode(placement.path)
        found = inspector.inspect(placement, receipt, wanted)
    if found.action is Action.REFUSE:
        how = how_to_pin(model) if wanted is None else None
        raise foreign_file_error(inspector.tree.path(placement.path), how_to_pin=how)
    return Target(consumer=consumer, placement=placement, state=found.state, action=found.action), found.digest


def _by_sha256(artifact: Artifact) -> bool:
    return artifact.digest is not None and artifact.digest.algorithm == "sha256"


def _renamed(
    plan: ModelPlan, sha256: Mapping[str, Digest], receipts: Mapping[str, Receipt], inspector: Inspector
) -> ModelPlan:
    """The plan with the sha256 of some artifacts, by URI: with it, stat is enough to compare them with receipts."""
    artifacts = plan.resolution.artifacts if plan.resolution else ()
    named = plan.with_artifacts({a.uri: replace(a, digest=sha256[a.uri]) for a in artifacts if a.uri in sha256})

    def inspected_again(target: Target) -> Target:
        placement = target.placement
        if placement.artifact is None or placement.artifact.uri not in sha256:
            return target
        state = inspector.state(placement, receipts[target.consumer], wanted_digest(placement))
        return replace(target, state=state)

    return replace(named, targets=tuple(map(inspected_again, named.targets)))


def _with_settled(plan: ModelPlan, receipts: Mapping[str, Receipt]) -> ModelPlan:
    """The plan with ``settled`` filled in."""
    request = plan.request
    settled = all(
        _is_frozen(plan, receipts[consumer])
        and all(
            request.requested_by in entry.manifests
            for t in plan.targets
            if t.consumer == consumer and (entry := receipts[consumer].entries.get(t.placement.path))
        )
        for consumer in request.consumers
    )
    return replace(plan, settled=settled)


def _is_frozen(plan: ModelPlan, receipt: Receipt) -> bool:
    frozen = plan.request.frozen_in(receipt)
    return (
        frozen is not None and plan.resolution is not None and _content(frozen.resolution) == _content(plan.resolution)
    )


def _content(resolution: Resolution) -> tuple[object, ...]:
    """A resolution without locations."""
    return (resolution.revision, [(a.uri, a.path, a.digest) for a in resolution.artifacts])


def clashes(plans: Iterable[ModelPlan]) -> tuple[ModelfetchError, ...]:
    """Errors for resolved models that need the same path, or two commits of one repo in one cache."""
    claims = [claim for plan in plans for claim in _claims(plan)]
    return tuple(
        SettingError(str(p), code=ManifestError.default_code, hint=ManifestError.default_hint)
        for p in find_clashes(claims)
    )


def _claims(plan: ModelPlan) -> Iterable[PathClaim]:
    request = plan.request
    for target in plan.targets:
        placement = target.placement
        in_cache = request.model.kind == "snapshot" and target.consumer in HF_CACHES
        yield PathClaim(
            path=placement.path,
            model=request.model.name,
            manifest=request.manifest.file,
            position=request.model.position,
            shape=Shape.FOLDER if placement.how is PlacementMethod.UNPACK else Shape.FILE,
            source=placement.target or (placement.artifact.uri if placement.artifact else ""),
            digest=None if placement.target else str(wanted_digest(placement) or "") or None,
            shared=in_cache or (isinstance(request.model.source, OllamaUri) and placement.how is PlacementMethod.FILE),
        )


def jobs_for(plan: ModelPlan, consumer: str, receipt: Receipt) -> tuple[PlacementJob, ...]:
    """The jobs of one consumer, without blobs; an archive that is unpacked already is replaced by its files."""
    jobs: list[PlacementJob] = []
    for target in plan.targets:
        if target.consumer != consumer:
            continue
        if target.placement.how is not PlacementMethod.UNPACK:
            jobs.append(PlacementJob(placement=target.placement))
        elif target.action is Action.KEEP:
            jobs.extend(_unpacked_jobs(target.placement, receipt))
    return tuple(jobs)


def _unpacked_jobs(placement: Placement, receipt: Receipt) -> Iterable[PlacementJob]:
    for path, entry in receipt.below(placement.path).items():
        if entry.archive and entry.digest and placement.artifact:
            algorithm, _, digits = entry.digest.partition(":")
            artifact = replace(placement.artifact, digest=Digest(algorithm, digits), size=entry.size)
            file = replace(placement, path=path, how=PlacementMethod.COPY, artifact=artifact)
            yield PlacementJob(placement=file, archive=entry.archive)


def is_unpinned(request: ModelRequest) -> bool:
    """Whether the manifest does not determine the bytes."""
    model = request.model
    if model.is_pinned:
        return False
    commit = getattr(model.source, "commit", None)
    return isinstance(model.source, OllamaUri) or commit is None
