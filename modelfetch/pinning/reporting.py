"""Report the result of pinning, as the report and as lines for people. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from modelfetch.core.report import ArtifactReport, ModelReport
from modelfetch.manifest.kinds import REPO_KINDS
from modelfetch.manifest.model import FileSpec
from modelfetch.manifest.uri import HfUri, OllamaUri
from modelfetch.pinning.entry import Measured, PinEntry, PinState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from modelfetch.core.artifact import Resolution

_ACTIONS = {
    PinState.CURRENT: "present",
    PinState.BEHIND: "changed",
    PinState.UNPINNED: "missing",
    PinState.UNKNOWN: "skipped",
    None: "failed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PinStatus:
    """The pins of one model, as shown: their state, what they are or were, and what upstream has."""

    model: str
    state: str
    pinned: str
    upstream: str


def kept_model(entry: PinEntry) -> ModelReport:
    """Report an entry whose pins are kept."""
    artifacts = tuple(_written(entry, {}, otherwise="present"))
    return ModelReport(name=entry.model.name, ok=True, artifacts=artifacts)


def pinned_model(entry: PinEntry, resolution: Resolution, measured: Mapping[str, Measured]) -> ModelReport:
    """Report a pinned entry: what had to be read was fetched, the rest is left to `sync`."""
    by_path = {a.path: measured[a.uri] for a in resolution.artifacts if a.uri in measured}
    artifacts = tuple(_written(entry, by_path, otherwise="would-fetch"))
    return ModelReport(name=entry.model.name, ok=True, artifacts=artifacts)


def open_model(entry: PinEntry, *, failed: bool, measured: Mapping[str, Measured]) -> ModelReport:
    """Report an entry that stays open, because it or another one could not be resolved."""
    line = ArtifactReport(
        uri=str(entry.model.source),
        digest=str(entry.model.digest) if entry.model.digest else None,
        size=entry.model.size,
        action="failed" if failed else "skipped",
        bytes_fetched=sum(one.bytes_fetched for one in measured.values()),
    )
    return ModelReport(name=entry.model.name, ok=False, artifacts=(line,))


def checked_model(entry: PinEntry, state: PinState | None, now: Resolution | None) -> ModelReport:
    """Report an entry under `--check`: one artifact, as upstream has it if that is known, else as it is pinned."""
    uri, model = str(entry.model.source), entry.model
    digest, size = (str(model.digest) if model.digest else None), model.size
    if now is not None and isinstance(entry.home, OllamaUri):
        digest = now.revision
    elif now is not None and model.kind in REPO_KINDS and isinstance(entry.home, HfUri):
        uri = f"hf://{entry.home.repo}@{now.revision}"
        size = sum(artifact.size or 0 for artifact in now.artifacts)
    elif now is not None:
        (artifact,) = now.artifacts
        uri, size = artifact.uri, artifact.size
        digest = str(artifact.digest) if artifact.digest else None
    line = ArtifactReport(uri=uri, digest=digest, size=size, action=_ACTIONS[state])
    return ModelReport(name=model.name, ok=state in (PinState.CURRENT, PinState.UNKNOWN), artifacts=(line,))


def _written(entry: PinEntry, measured: Mapping[str, Measured], *, otherwise: str) -> Iterator[ArtifactReport]:
    """Report the files of an entry, with what was done for each."""
    model, home = entry.model, entry.home
    if model.kind in REPO_KINDS and isinstance(home, HfUri):
        files = [(f"hf://{home.repo}@{home.commit}/{quote(spec.path)}", spec) for spec in model.files or ()]
    else:
        files = [(str(model.source), FileSpec(path="", size=model.size, digest=model.digest))]
    for uri, spec in files:
        found = measured.get(spec.path) if spec.path else next(iter(measured.values()), None)
        yield ArtifactReport(
            uri=uri,
            served_by=found.served_by if found else None,
            digest=str(spec.digest) if spec.digest else None,
            size=spec.size,
            action=found.action if found else otherwise,
            bytes_fetched=found.bytes_fetched if found else 0,
        )
