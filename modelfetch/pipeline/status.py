"""Status: what is ready, missing, changed or foreign for each model and consumer; by stat alone, asking nobody."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelfetch.core import fs
from modelfetch.core.events import Notice
from modelfetch.core.report import ArtifactReport, ModelReport, Report
from modelfetch.errors import ModelfetchError, exit_code_of
from modelfetch.manifest.model import CONSUMERS
from modelfetch.manifest.path_conflicts import Shape, model_claims
from modelfetch.pipeline.plan import ModelRequest, frozen_for, is_unpinned, select
from modelfetch.pipeline.resolve import resolve_quietly
from modelfetch.placement import State, wanted_digest
from modelfetch.placement.receipts import Receipt, read_receipt

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from modelfetch.core.artifact import Artifact, Resolution
    from modelfetch.manifest.model import Manifest
    from modelfetch.pipeline.session import Session
    from modelfetch.placement.layouts import Placement

_WORST_FIRST = ("foreign", "changed", "missing", "rewritten", "ready")
_ACTIONS = {word: "present" if word == "ready" else word for word in _WORST_FIRST}
_READY = ("ready", "rewritten")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """How one model stands for one consumer: ``state`` is the worst of its paths, ``size`` in bytes where known.

    ``optional``: the tier is complete without it.
    """

    model: str
    consumer: str
    state: str
    files: int
    size: int | None
    unpinned: bool
    optional: bool = False

    @property
    def is_well(self) -> bool:
        """Whether all is as a successful `sync` leaves it; a file in the way of what is optional it leaves, too."""
        return self.state in _READY or (self.optional and self.state in ("missing", "foreign"))


def status_of(manifests: Sequence[Manifest], session: Session) -> tuple[Report, tuple[Line, ...]]:
    """The report and a line for each model and consumer; exit code 1 where not all is ready that must be."""
    started = time.monotonic()
    receipts = {consumer: read_receipt(session.options.root, consumer) for consumer in CONSUMERS}
    lines: list[Line] = []
    models: list[ModelReport] = []
    errors: list[ModelfetchError] = []
    for item in select(manifests, session.options.consumers):
        resolution: Resolution | None = None
        states: _States = {}
        strangers: tuple[str, ...] = ()
        try:
            # What lies here is what was resolved, also where `--refresh` (a variable may say it) would ask again.
            resolution = frozen_for(item, receipts, session.settings) or resolve_quietly(item, session, receipts)
            if resolution is None:
                strangers = _foreign_paths(item, receipts, session)
            else:
                states = _states(item, resolution, receipts, session)
        except ModelfetchError as error:
            error.about(model=item.model.name, uri=str(item.model.source))
            if item.model.optional:
                session.sink(Notice(level="warning", message=f"{item.model.name}: {error.message}", hint=error.hint))
            else:
                errors.append(error)
        lines.extend(_line(item, resolution, states, strangers, consumer) for consumer in item.consumers)
        models.append(_model(item, resolution, states, strangers))
    ready = all(line.is_well for line in lines)
    report = Report(
        ok=ready and not errors,
        exit_code=exit_code_of(errors) or (0 if ready else 1),
        tier=manifests[0].tier if manifests else None,
        root=str(session.options.root),
        seconds=time.monotonic() - started,
        models=tuple(models),
        errors=tuple(errors),
    )
    return report, tuple(lines)


_States = dict[tuple[str, str], tuple["Placement", str]]


def _states(item: ModelRequest, resolution: Resolution, receipts: Mapping[str, Receipt], session: Session) -> _States:
    """The state of each path, by consumer and path."""
    states: _States = {}
    for consumer in item.consumers:
        receipt = receipts[consumer]
        for placement in session.examiner.lay_out(consumer, item.model, resolution, receipt, probe=False):
            try:
                state = session.examiner.state(placement, receipt, wanted_digest(placement))
            except OSError as error:
                raise fs.translate(error, placement.path, doing="can't examine") from error
            states[consumer, placement.path] = placement, _word(state)
    return states


def _foreign_paths(item: ModelRequest, receipts: Mapping[str, Receipt], session: Session) -> tuple[str, ...]:
    """Paths that a model was never resolved for and whose names it alone tells, where something is that we didn't put.

    Raises:
        DestinationError: A folder leads outside ROOT.
        DiskError: A path can't be examined.
    """
    found: list[str] = []
    for claim in model_claims(item.model, item.manifest.file):
        consumer = claim.path.partition("/")[0]
        if claim.shape is not Shape.FILE or consumer not in item.consumers:
            continue
        try:
            there = session.examiner.tree.lstat(claim.path) is not None
        except OSError as error:
            raise fs.translate(error, claim.path, doing="can't examine") from error
        if there and claim.path not in receipts[consumer].entries:
            found.append(claim.path)
    return tuple(found)


def _word(state: State) -> str:
    return "changed" if state is State.OUTDATED else str(state)


def _line(
    item: ModelRequest, resolution: Resolution | None, states: _States, strangers: Sequence[str], consumer: str
) -> Line:
    mine = [word for (whose, _), (_, word) in states.items() if whose == consumer]
    mine += ["foreign" for path in strangers if path.startswith(f"{consumer}/")]
    named = resolution.artifacts if resolution else item.model.files or ()
    sizes = [file.size for file in named] if named else [item.model.size]
    return Line(
        model=item.model.name,
        consumer=consumer,
        state=_worst(mine),
        files=len(named),
        size=None if None in sizes else sum(size or 0 for size in sizes),
        unpinned=is_unpinned(item),
        optional=item.model.optional,
    )


def _worst(words: Iterable[str]) -> str:
    found = Counter(words)
    return next((word for word in _WORST_FIRST if found[word]), "missing")


def _model(
    item: ModelRequest, resolution: Resolution | None, states: _States, strangers: tuple[str, ...]
) -> ModelReport:
    if resolution is None:
        digest = str(item.model.digest) if item.model.digest else None
        unknown = ArtifactReport(
            uri=str(item.model.source),
            served_by=None,
            digest=digest,
            size=item.model.size,
            action="foreign" if strangers else "missing",
            placements=strangers,
        )
        return ModelReport(name=item.model.name, ok=False, artifacts=(unknown,))
    ready = bool(states) and all(word in _READY for _, word in states.values())
    return ModelReport(
        name=item.model.name, ok=ready, artifacts=tuple(_artifact(a, states) for a in resolution.artifacts)
    )


def _artifact(artifact: Artifact, states: _States) -> ArtifactReport:
    mine = {path: word for (_, path), (p, word) in states.items() if p.artifact == artifact}
    return ArtifactReport(
        uri=artifact.uri,
        served_by=None,
        digest=str(artifact.digest) if artifact.digest else None,
        size=artifact.size,
        action=_ACTIONS[_worst(mine.values())],
        placements=tuple(mine),
    )
