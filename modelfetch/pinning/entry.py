"""Decide which entries to pin, what to request from their sources, and what to write. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING
from urllib.parse import quote

from modelfetch.core.digest import Digest
from modelfetch.manifest.kinds import REPO_KINDS
from modelfetch.manifest.model import FileSpec
from modelfetch.manifest.uri import CivitaiUri, FileUri, HfUri, HttpUri, OciUri, OllamaUri, parse_uri
from modelfetch.sources import SourceRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from modelfetch.core.artifact import Artifact, Resolution
    from modelfetch.manifest.model import Model
    from modelfetch.manifest.uri import Uri

_NAMES_BYTES = ("sha256", "blake3")
"""Digests that a manifest may hold, unlike the git sha1 of a hub's plain files."""

_REVISION = re.compile(r"@(?:refs/pr/[0-9]+(?=/|\Z)|[^/]*)")


class PinState(StrEnum):
    """The state of an entry's pins."""

    CURRENT = "current"
    BEHIND = "behind"
    UNPINNED = "unpinned"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class PinEntry:
    """One model of a file; ``home`` is its source, with a hub's web address as the hub's own URI.

    ``upgrade`` replaces its pins by what upstream has now.
    """

    model: Model
    home: Uri
    upgrade: bool = False

    @property
    def pinned(self) -> bool:
        """Whether the entry fixes its bytes and, for a hub, the commit."""
        return self.model.is_pinned and not (isinstance(self.home, HfUri) and self.home.commit is None)

    @property
    def complete(self) -> bool:
        """Whether nothing is left to write: pinned, and each size is known."""
        if not self.pinned or isinstance(self.home, OllamaUri):
            return self.pinned
        return all(file.size is not None for file in self.model.pins)

    @property
    def request(self) -> SourceRequest:
        """The request for what the pins leave open, or for what is newest with ``upgrade``."""
        # Names in a cache don't matter here, so a mirror without them is sufficient.
        fills_size = self.model.digest is not None and self.model.size is None
        request = replace(SourceRequest.of(self.model), uri=self.home, cached=False, fills_size=fills_size)
        return self.newest if self.upgrade else request

    @property
    def newest(self) -> SourceRequest:
        """The request for what upstream has now: at ``main`` for a commit, else by the name as it is written.

        A pickle whose digest was pinned stays allowed: its pin is moved because the user named it.
        """
        model, uri = self.model, self.home
        if isinstance(uri, HfUri) and uri.commit is not None:
            path = f"/{quote(uri.path)}" if uri.path is not None else ""
            uri = replace(uri, text=f"hf://{uri.repo}{path}", revision=None)
        return replace(
            SourceRequest.of(model),
            uri=uri,
            digest=None,
            size=None,
            files=tuple(FileSpec(path=spec.path) for spec in model.files) if model.files is not None else None,
            allow_pickle=model.allow_pickle or self.pinned,
            cached=False,
        )

    @property
    def pinned_request(self) -> SourceRequest:
        """The request for the pinned revision without the pinned digests."""
        return replace(self.newest, uri=self.home)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The sha256 ``digest`` and ``size`` in bytes of a file that was read, and how it was obtained."""

    digest: Digest
    size: int
    action: str
    bytes_fetched: int = 0
    served_by: str | None = None


def files_to_measure(entry: PinEntry, resolution: Resolution) -> tuple[Artifact, ...]:
    """Return the files that must be read because no source gives their digest (or the size that replaces a pin)."""
    if isinstance(entry.home, OllamaUri):
        return ()
    return tuple(a for a in resolution.artifacts if _digest(a) is None or (entry.upgrade and a.size is None))


def fill_pins(entry: PinEntry, resolution: Resolution, measured: Mapping[str, Measured]) -> Model:
    """Return the entry with its pins.

    Args:
        entry: The entry as it is.
        resolution: The answer of its source.
        measured: The digests and sizes of the files of `files_to_measure`, by their URIs.
    """
    model = entry.model
    if isinstance(entry.home, OllamaUri):
        size = sum(artifact.size or 0 for artifact in resolution.artifacts if artifact.content is None)
        return replace(model, size=size, digest=Digest.parse(resolution.revision)) if resolution.revision else model
    specs = tuple(_spec(artifact, measured.get(artifact.uri)) for artifact in resolution.artifacts)
    source = model.source
    if isinstance(entry.home, HfUri) and resolution.revision and entry.home.commit != resolution.revision:
        source = at_commit(model.source, entry.home, resolution.revision)
    if model.kind in REPO_KINDS:
        return replace(model, source=source, files=specs, include=None)
    (spec,) = specs
    return replace(model, source=source, size=model.size if spec.size is None else spec.size, digest=spec.digest)


def at_commit(source: Uri, home: HfUri, commit: str) -> Uri:
    """Return a source with a commit as its revision; the rest stays as it is written."""
    if isinstance(source, HttpUri):
        link = re.compile(rf"(/{re.escape(home.repo)}/(?:resolve|blob)/)(?:refs/pr/\d+|[^/?#]+)(?=/)")
        return parse_uri(link.sub(rf"\g<1>{commit}", source.text, count=1))
    scheme, rest = source.text[:5], source.text[5:]
    path = rest[len(home.repo) :]
    if revision := _REVISION.match(path):
        path = path[revision.end() :]
    return parse_uri(f"{scheme}{rest[: len(home.repo)]}@{commit}{path}")


def _spec(artifact: Artifact, measured: Measured | None) -> FileSpec:
    if measured is not None:
        return FileSpec(path=artifact.path, size=measured.size, digest=measured.digest)
    return FileSpec(path=artifact.path, size=artifact.size, digest=_digest(artifact))


def _digest(artifact: Artifact) -> Digest | None:
    digest = artifact.digest
    return digest if digest is not None and digest.algorithm in _NAMES_BYTES else None


# -- checking ----------------------------------------------------------------------------------------------------------


def state_without_request(entry: PinEntry) -> PinState | None:
    """Return an entry's state if it is known without a request; None if its source must be queried.

    Whether a file of a web server or a folder changed can only be seen by its bytes; a version of CivitAI and a digest
    of a registry never change.
    """
    if not entry.pinned:
        return PinState.UNPINNED if isinstance(entry.home, HttpUri | FileUri) else None
    if isinstance(entry.home, HttpUri | FileUri):
        return PinState.UNKNOWN
    fixed = isinstance(entry.home, CivitaiUri) or (isinstance(entry.home, OciUri) and entry.home.digest is not None)
    return PinState.CURRENT if fixed else None


def compare(entry: PinEntry, now: Resolution, then: Resolution | None = None) -> PinState | None:
    """Compare a pinned entry with what upstream has now.

    Args:
        entry: The entry.
        now: What upstream has.
        then: What upstream has at the pinned revision, for files whose digests can't be compared.

    Returns:
        The state; None if ``then`` is needed and missing.
    """
    if isinstance(entry.home, OllamaUri):
        return PinState.CURRENT if now.revision == str(entry.model.digest) else PinState.BEHIND
    if isinstance(entry.home, HfUri) and now.revision == entry.home.commit:
        return PinState.CURRENT
    pins = {file.path: file for file in entry.model.pins}
    before = {artifact.path: artifact for artifact in then.artifacts} if then is not None else {}
    states = set()
    for artifact in now.artifacts:
        pin = pins.get(artifact.path) or FileSpec(path=artifact.path, size=entry.model.size, digest=entry.model.digest)
        states.add(_compare_file(pin, artifact, before.get(artifact.path)))
    if PinState.BEHIND in states:
        return PinState.BEHIND
    if PinState.UNKNOWN in states:
        return None if then is None else PinState.UNKNOWN
    return PinState.CURRENT


def _compare_file(pin: FileSpec, now: Artifact, then: Artifact | None) -> PinState:
    for before in (pin.digest, then.digest if then is not None else None):
        if before is not None and now.digest is not None and before.algorithm == now.digest.algorithm:
            return PinState.CURRENT if before == now.digest else PinState.BEHIND
    if pin.size is not None and now.size is not None and pin.size != now.size:
        return PinState.BEHIND
    return PinState.UNKNOWN


# -- showing -----------------------------------------------------------------------------------------------------------


def display_pin(entry: PinEntry) -> str:
    """Return an entry's pin in a few characters: a commit or a digest; ``-`` if it has none."""
    if not entry.pinned:
        return "-"
    if isinstance(entry.home, HfUri):
        return _short(entry.home.commit)
    return _short(str(entry.model.pins[0].digest))


def display_upstream(resolution: Resolution) -> str:
    """Return what upstream has, in the same form."""
    if resolution.revision is not None and not resolution.revision.isdigit():
        return _short(resolution.revision)
    digest = resolution.artifacts[0].digest
    return "unknown" if digest is None else _short(str(digest))


def _short(name: str | None) -> str:
    algorithm, colon, digits = (name or "-").rpartition(":")
    return f"{algorithm}{colon}{digits[:12]}"
