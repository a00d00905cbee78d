"""Status of each model and consumer (ready, missing, changed or foreign), from stat alone, without network access."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelfetch.core import os_errors
from modelfetch.core.digest import Digest
from modelfetch.core.events import Notice
from modelfetch.core.fs import inode_of
from modelfetch.core.report import ArtifactReport, ModelReport
from modelfetch.core.units import total_size
from modelfetch.errors import ModelfetchError
from modelfetch.manifest.path_conflicts import Shape, model_claims
from modelfetch.pipeline.plan import ModelRequest, is_unpinned, select
from modelfetch.pipeline.preflight import check_folders
from modelfetch.pipeline.reporting import unresolved_report
from modelfetch.pipeline.resolve import resolve_recorded
from modelfetch.placement import State, wanted_digest
from modelfetch.placement.layouts import PlacementMethod
from modelfetch.placement.ollama_manifests import is_newer
from modelfetch.placement.receipts import Receipt, read_receipts
from modelfetch.store.ingest import LINK_AT_LEAST

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from modelfetch.core.artifact import Artifact, Resolution
    from modelfetch.core.report import Report
    from modelfetch.manifest.model import Manifest
    from modelfetch.pipeline.session import Session
    from modelfetch.placement.layouts import Placement

_WORST_FIRST = ("damaged", "foreign", "changed", "missing", "rewritten", "touched", "ready")
_ACTIONS = {word: "present" if word in ("ready", "touched") else word for word in _WORST_FIRST}
_OLLAMA_BLOBS = "ollama/models/blobs/"
_READY = ("ready", "rewritten", "touched")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """The state of one model for one consumer: ``state`` is the worst of its paths, ``size`` is in bytes if known.

    ``paths``: the paths that are not ready, with their states; those where nothing was placed yet are left out.
    ``optional``: the tier is complete without the model.
    """

    model: str
    consumer: str
    state: str
    files: int
    size: int | None
    unpinned: bool
    optional: bool = False
    paths: tuple[tuple[str, str], ...] = ()

    @property
    def is_ok(self) -> bool:
        """Whether this is what a successful `sync` leaves; that includes a file in the way of an optional model."""
        return self.state in _READY or (self.optional and self.state in ("missing", "foreign"))


@dataclass(frozen=True, slots=True)
class _PathState:
    """The state of one path of one consumer."""

    consumer: str
    path: str
    state: str
    uri: str | None = None
    """The artifact placed at the path; None for text that the layout supplies, or if nothing was resolved."""
    recorded: bool = True
    """Whether modelfetch placed something at the path, or something is there."""

    @property
    def is_named(self) -> bool:
        """Whether the path gets a line of its own: it is not as modelfetch left it."""
        return self.state != "ready" and self.recorded


def status_of(manifests: Sequence[Manifest], session: Session) -> tuple[Report, tuple[ModelStatus, ...]]:
    """Return the report and the status of each model and consumer; exit code 1 if a required model is not ready.

    Raises:
        DestinationError: The root is not a folder, or not mounted (see `check_folders`).
    """
    check_folders(session)
    receipts = read_receipts(session.options.root)
    statuses: list[ModelStatus] = []
    models: list[ModelReport] = []
    errors: list[ModelfetchError] = []
    for request in select(manifests, session.options.consumers):
        resolution: Resolution | None = None
        states: list[_PathState] = []
        try:
            # Compare with the recorded resolution, even if a variable sets `--refresh`, which would resolve again.
            resolution = resolve_recorded(request, session, receipts)
            if resolution is None:
                states = _foreign_paths(request, receipts, session)
            else:
                states = _states(request, resolution, receipts, session)
        except ModelfetchError as error:
            error.about(model=request.model.name, uri=str(request.model.source))
            if request.model.optional:
                session.sink(Notice(level="warning", message=f"{request.model.name}: {error.message}", hint=error.hint))
            else:
                errors.append(error)
        statuses.extend(_status(request, resolution, states, consumer) for consumer in request.consumers)
        models.append(_model(request, resolution, states))
    is_bad = not all(status.is_ok for status in statuses)
    return session.report(models, errors, manifests=manifests, is_bad=is_bad), tuple(statuses)


def _states(
    request: ModelRequest, resolution: Resolution, receipts: Mapping[str, Receipt], session: Session
) -> list[_PathState]:
    inspector = session.inspector
    with inspector.tree.keeping_folder_open():
        return [
            state
            for consumer in request.consumers
            for placement in inspector.lay_out(consumer, request.model, resolution, receipts[consumer], probe=False)
            for state in _states_of(placement, receipts[consumer], session)
        ]


def _states_of(placement: Placement, receipt: Receipt, session: Session) -> Iterator[_PathState]:
    """Yield the state of a path, or of each changed file of an archive that is unpacked there."""
    with os_errors.translated(placement.path, doing="can't examine"):
        state = session.inspector.state(placement, receipt, wanted_digest(placement))
        touched = state is State.CHANGED and _is_touched(placement.path, receipt, wanted_digest(placement), session)
    if state is State.MISSING and session.inspector.may_be_missing(placement.path):
        return
    if is_newer(placement.path) and _is_requested_tag(placement, session):
        state, touched = State.READY, False
    uri = placement.artifact.uri if placement.artifact else None
    if state is not State.READY and (members := _changed_members(placement, receipt, session)):
        for path, one in members.items():
            with os_errors.translated(path, doing="can't examine"):
                touched = one is State.CHANGED and _is_touched(path, receipt, None, session)
            yield _PathState(receipt.consumer, path, "touched" if touched else _word(one), uri)
        return
    recorded = state is not State.MISSING or placement.path in receipt.entries
    yield _PathState(receipt.consumer, placement.path, "touched" if touched else _word(state), uri, recorded)


def _word(state: State) -> str:
    return "changed" if state is State.OUTDATED else str(state)


def _changed_members(placement: Placement, receipt: Receipt, session: Session) -> Mapping[str, State]:
    """The files of an unpacked archive that are not ready; empty if it was never unpacked, or is no archive."""
    if placement.how is not PlacementMethod.UNPACK:
        return {}
    states = session.inspector.states_of_members(placement, receipt, wanted_digest(placement))
    return {path: state for path, state in states.items() if state is not State.READY}


def _is_requested_tag(placement: Placement, session: Session) -> bool:
    """Whether a tag of Ollama 0.40, whoever wrote it, leads to the requested model."""
    wanted = wanted_digest(placement)
    return wanted is not None and session.inspector.is_same_manifest(placement.path, wanted)


def _is_touched(path: str, receipt: Receipt, wanted: Digest | None, session: Session) -> bool:
    """Whether a file differs from its receipt only in its mtime, which Ollama updates on blobs that it reuses.

    A small file is read. A large one is trusted if it is a hardlink of the store's blob, and so was not replaced, or a
    blob of Ollama, which checks its blobs itself: `sync` and `verify` hash it. A manifest may be encoded differently.
    """
    entry, inspector = receipt.entries.get(path), session.inspector
    seen = inspector.tree.lstat(path)
    if entry is None or entry.digest is None or seen is None or not seen.regular:
        return False
    if (wanted is not None and entry.digest != str(wanted)) or inspector.is_damaged(path, seen):
        return False
    if wanted is not None and inspector.is_same_manifest(path, wanted):
        return True
    digest = Digest.parse(entry.digest)
    if seen.size != entry.size:
        return False
    if seen.size < LINK_AT_LEAST:
        return inspector.has_digest(path, digest)
    if path.startswith(_OLLAMA_BLOBS):
        return True
    try:
        blob = session.store.blob_path(digest).stat()
    except OSError:
        return False
    return inode_of(blob) == seen.inode


def _foreign_paths(request: ModelRequest, receipts: Mapping[str, Receipt], session: Session) -> list[_PathState]:
    """Files that modelfetch did not place, at the known paths of an unresolved model.

    Raises:
        DestinationError: A folder leads outside ROOT.
        DiskError: A path can't be examined.
    """
    found: list[_PathState] = []
    for claim in model_claims(request.model, request.manifest.file):
        consumer = claim.path.partition("/")[0]
        if claim.shape is not Shape.FILE or consumer not in request.consumers:
            continue
        with os_errors.translated(claim.path, doing="can't examine"):
            there = session.inspector.tree.lstat(claim.path) is not None
        if there and claim.path not in receipts[consumer].entries:
            found.append(_PathState(consumer, claim.path, "foreign"))
    return found


def _status(
    request: ModelRequest, resolution: Resolution | None, states: Sequence[_PathState], consumer: str
) -> ModelStatus:
    mine = [one for one in states if one.consumer == consumer]
    named = resolution.artifacts if resolution else request.model.files or ()
    return ModelStatus(
        model=request.model.name,
        consumer=consumer,
        state=_worst(one.state for one in mine),
        files=len(named),
        size=total_size(file.size for file in named or (request.model,)),
        unpinned=is_unpinned(request),
        optional=request.model.optional,
        paths=tuple((one.path, one.state) for one in mine if one.is_named),
    )


def _worst(words: Iterable[str]) -> str:
    found = set(words)
    return next((word for word in _WORST_FIRST if word in found), "missing")


def _model(request: ModelRequest, resolution: Resolution | None, states: Sequence[_PathState]) -> ModelReport:
    if resolution is None:
        return unresolved_report(request.model, "foreign" if states else "missing", [one.path for one in states])
    by_uri: dict[str, list[_PathState]] = defaultdict(list)
    texts: list[_PathState] = []
    for one in states:
        (texts if one.uri is None else by_uri[one.uri]).append(one)
    artifacts = [
        report for artifact in resolution.artifacts for report in _artifact_reports(artifact, by_uri[artifact.uri])
    ]
    artifacts += [
        ArtifactReport(
            uri=str(request.model.source),
            action=_ACTIONS[one.state],
            placements=(one.path,),
        )
        for one in texts
        if one.state not in _READY and one.is_named
    ]
    ready = bool(states) and all(one.state in _READY for one in states)
    return ModelReport(name=request.model.name, ok=ready, artifacts=tuple(artifacts))


def _artifact_reports(artifact: Artifact, states: Sequence[_PathState]) -> Iterator[ArtifactReport]:
    """Return one report for each action among the paths of an artifact; each names its paths."""
    by_action: dict[str, list[str]] = defaultdict(list)
    for one in states:
        by_action[_ACTIONS[one.state]].append(one.path)
    for action, paths in by_action.items() or [("missing", [])]:
        yield ArtifactReport(
            uri=artifact.uri,
            digest=str(artifact.digest) if artifact.digest else None,
            size=artifact.size,
            action=action,
            placements=tuple(paths),
        )
