"""The interface of a source, and the guarantees of the base class.

A source reports what upstream provides. The base class checks that against the manifest's pins, lets only typed
errors out, names the URI in each of them, and sends no request when offline.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, Self, TypeVar, final

from modelfetch.core.units import format_list
from modelfetch.errors import (
    InterruptedSync,
    ModelfetchError,
    PinMismatchError,
    SettingError,
    UnreachableError,
)
from modelfetch.formats.content_check import is_listed
from modelfetch.formats.pickles import is_pickle_name, pickle_error
from modelfetch.formats.signatures import IMAGE_SUFFIXES
from modelfetch.manifest.kinds import HF_CACHES, REPO_KINDS, WEIGHT_KINDS
from modelfetch.manifest.paths import safe_name
from modelfetch.manifest.uri import OllamaUri

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from modelfetch.config.settings import Settings
    from modelfetch.core.artifact import Artifact, Resolution
    from modelfetch.core.digest import Digest
    from modelfetch.http import Response
    from modelfetch.manifest.model import FileSpec, Model
    from modelfetch.manifest.uri import Uri

    ReadBlob = Callable[[Digest], bytes | None]

U = TypeVar("U", bound="Uri")

_FINAL = frozenset({"scan-not-clean", "pickle-not-allowed"})
"""Errors about the file itself: a mirror with the same file gives the same result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRequest:
    """A request to a source: a URI and everything that the manifest specifies for it.

    ``size`` in bytes. ``name``: the file's name, because a mirror may use another. ``cached``: some consumer
    uses an HF cache, so the upstream names of blobs are needed. ``fills_size``: the size will be written into a
    manifest, so the start of the file is checked, too.
    """

    uri: Uri
    kind: str | None = None
    digest: Digest | None = None
    size: int | None = None
    files: tuple[FileSpec, ...] | None = None
    include: tuple[str, ...] | None = None
    filename: str | None = None
    name: str | None = None
    allow_pickle: bool = False
    allow_unscanned: bool = False
    cached: bool = False
    fills_size: bool = False

    @classmethod
    def of(cls, model: Model, uri: Uri | None = None) -> Self:
        """Return the request for a manifest entry, to its own source or to another URI (a mirror)."""
        return cls(
            uri=uri or model.source,
            kind=model.kind,
            digest=model.digest,
            size=model.size,
            files=model.files,
            include=model.include,
            filename=model.filename,
            name=_basename(model.source) if uri is not None and uri != model.source else None,
            allow_pickle=model.allow_pickle,
            allow_unscanned=model.allow_unscanned,
            cached=model.kind == "snapshot" and any(consumer in HF_CACHES for consumer in model.consumers),
        )

    @property
    def snapshot(self) -> bool:
        """Whether this is several files: a repo, or a selection from one."""
        return self.kind in REPO_KINDS or self.files is not None or self.include is not None

    @property
    def single(self) -> bool:
        """Whether this is a single file; for a registry artifact, ``files`` may select it."""
        return not self.snapshot or self.kind not in (None, *REPO_KINDS)

    def is_unlisted(self, name: str) -> bool:
        """Whether these are weights, the manifest does not name their file, and no service lists one of this name."""
        if self.kind not in WEIGHT_KINDS or self.filename or self.name or is_listed(name):
            return False
        return self.kind != "embedding" or not name.lower().endswith(IMAGE_SUFFIXES)


class Source(ABC, Generic[U]):
    """Resolves URIs of one scheme to files and their locations.

    Each source implements `query`; it may also resolve fully pinned entries without a request (`known`).
    """

    @abstractmethod
    def query(self, uri: U, wanted: SourceRequest) -> Resolution:
        """Query upstream. Blocks; called in worker threads, concurrently.

        Raises:
            ModelfetchError: Upstream lacks it, refuses, can't be reached, or sends an invalid response.
        """

    @classmethod
    def known(cls, uri: U, wanted: SourceRequest, settings: Settings, read_blob: ReadBlob) -> Resolution | None:
        """Resolve from the manifest's pins without a request; None if they are not sufficient.

        Args:
            uri: The URI.
            wanted: The request.
            settings: Endpoints, and whether requests are allowed.
            read_blob: Returns the bytes of a small blob in the store, None if it is missing.
        """
        return None

    def explain(self, response: Response, uri: U) -> ModelfetchError | None:
        """Return a more specific error for a refusal by this source's own server; None if the status is enough."""
        return None

    @classmethod
    def apply_pins(cls, wanted: SourceRequest, found: Resolution) -> Resolution:
        """Return the resolution with the manifest's pins applied.

        Raises:
            PinMismatchError: They contradict each other.
        """
        artifacts = _pin_files(found.artifacts, wanted) if wanted.snapshot else found.artifacts
        if wanted.single:
            artifacts = tuple(
                replace(pin(a, wanted.digest, wanted.size, wanted), path=wanted.name or a.path) for a in artifacts
            )
        return replace(found, artifacts=artifacts)

    @final
    def resolve(self, uri: U, wanted: SourceRequest, *, offline: bool) -> Resolution:
        """Query upstream, and check the result against the manifest.

        Raises:
            UnreachableError: Requests are disabled (``offline``), or the source does not respond.
            ModelfetchError: As `query` and `apply_pins`.
        """
        try:
            if offline and uri.scheme != "file":
                raise offline_error(str(uri))
            return self.apply_pins(wanted, self.query(uri, wanted))
        except ModelfetchError as error:
            raise error.about(uri=str(uri)) from error.__cause__


def offline_error(uri: str) -> UnreachableError:
    """Return the error for what would have to be requested."""
    return UnreachableError(
        f"{uri} is not on this machine yet, and network access is disabled",
        code="offline",
        permanent=True,
        hint="run it once without --offline, MODELFETCH_OFFLINE and HF_HUB_OFFLINE",
    )


def is_final(error: ModelfetchError) -> bool:
    """Return whether a source's failure applies to its mirrors too."""
    return isinstance(error, (SettingError, InterruptedSync)) or error.code in _FINAL


def refuse_pickles(wanted: SourceRequest, found: Resolution) -> None:
    """Refuse, by its name, a pickle that the manifest neither pins nor allows, before anything is fetched.

    Raises:
        NotAModelError: There is such a file (``pickle-not-allowed``).
    """
    if isinstance(wanted.uri, OllamaUri):
        return  # a tag is not a file name
    pickles = [a for a in found.artifacts if not a.allow_pickle and is_pickle_name(a.path)]
    if not pickles:
        return
    if not wanted.snapshot:
        raise pickle_error(f"{pickles[0].uri} is {pickles[0].path}, a pickle", uri=pickles[0].uri)
    raise pickle_error(
        f"{wanted.uri} holds {format_list([a.path for a in pickles])}, a pickle",
        hint="leave it out with `files` or `include`, pin its digest, or set `allow_pickle: true`",
    )


def _basename(uri: Uri) -> str | None:
    path = getattr(uri, "path", None)
    return safe_name(path.rpartition("/")[2]) if isinstance(path, str) else None


def _pin_files(artifacts: Iterable[Artifact], wanted: SourceRequest) -> tuple[Artifact, ...]:
    """Apply the pins to every file; if several contradict them, one error names all of these."""
    specs = {spec.path: spec for spec in wanted.files or ()}
    agreed: list[Artifact] = []
    wrong: list[tuple[str, PinMismatchError]] = []
    for artifact in artifacts:
        try:
            spec = specs.get(artifact.path)
            agreed.append(pin(artifact, spec.digest if spec else None, spec.size if spec else None, wanted))
        except PinMismatchError as error:
            wrong.append((artifact.path, error))
    if not wrong:
        return tuple(agreed)
    (_, first), *others = wrong
    if not others:
        raise first
    names = format_list([path for path, _ in others])
    raise PinMismatchError(f"{first.message}; also wrong: {names}", code=first.code)


def pin(artifact: Artifact, digest: Digest | None, size: int | None, wanted: SourceRequest) -> Artifact:
    """Return an artifact with the manifest's digest and size, which take precedence.

    Raises:
        PinMismatchError: Upstream has different ones (``digest-mismatch``, ``size-mismatch``).
    """
    if size is not None and artifact.size is not None and size != artifact.size:
        raise PinMismatchError(
            f"{artifact.uri} has {artifact.size} bytes upstream, expected {size}", code="size-mismatch"
        )
    theirs = artifact.digest
    if digest is not None and theirs is not None and theirs.algorithm == digest.algorithm and theirs != digest:
        raise PinMismatchError(f"{artifact.uri} is {theirs} upstream, expected {digest}")
    return replace(
        artifact,
        size=artifact.size if size is None else size,
        digest=digest or theirs,
        allow_pickle=wanted.allow_pickle or digest is not None,
        weights=wanted.kind in WEIGHT_KINDS,
    )
