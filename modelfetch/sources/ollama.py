"""``ollama://…``: models of an Ollama registry, or of any other registry with Ollama's manifests.

Source: ollama, server/images.go and types/model/name.go. A public model needs no token; the manifest's bytes are kept
as served because its sha256 is the model's identity and Ollama reads the file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelfetch.core.artifact import Artifact, Location, Resolution
from modelfetch.errors import IntegrityError, NotFoundError, PinMismatchError
from modelfetch.formats.oci_manifest import DOCKER_MANIFEST, MANIFESTS, Descriptor, Image, ImageIndex, parse_manifest
from modelfetch.manifest.uri import OLLAMA_HOST, OllamaUri
from modelfetch.sources.base import Source, SourceRequest
from modelfetch.sources.registry import EVERY_TYPE, ManifestResponse, Registry, bases, blob_url

if TYPE_CHECKING:
    from collections.abc import Iterable

    from modelfetch.config.settings import Settings
    from modelfetch.core.digest import Digest
    from modelfetch.http import Http
    from modelfetch.sources.base import ReadBlob

_LAYER = "application/vnd.ollama.image."
_MODEL = _LAYER + "model"
_TENSOR = _LAYER + "tensor"
_MAX_TRIED = 16


class OllamaSource(Source[OllamaUri]):
    """Resolves a manifest to its blobs, and to the manifest itself, whose bytes are the model's identity."""

    def __init__(self, http: Http, settings: Settings) -> None:
        self._registry = Registry(http, settings)

    def query(self, uri: OllamaUri, wanted: SourceRequest) -> Resolution:
        """Return config and layers, then the manifest itself, with its bytes."""
        served = self._fetch(uri)
        found = parse_manifest(served.content, served.media_type)
        if isinstance(found, ImageIndex):
            image = self._choose(uri, found, wanted.digest)
        else:
            image = found
            check_runnable(image)
            check_pin(wanted, image.digest)
        return _resolution(uri, image, served.base, pinned=wanted.digest is not None)

    @classmethod
    def known(cls, uri: OllamaUri, wanted: SourceRequest, settings: Settings, read_blob: ReadBlob) -> Resolution | None:
        """Return the files of a pinned manifest that is already in the store."""
        addresses = bases(uri.host, settings)
        if wanted.digest is None or wanted.digest.algorithm != "sha256":
            return None
        if len(addresses) > 1 and not settings.offline:
            return None  # only a request shows whether the host supports TLS
        content = read_blob(wanted.digest)
        if content is None:
            return None
        image = parse_manifest(content)
        if isinstance(image, ImageIndex):
            return None
        check_pin(wanted, image.digest)
        return _resolution(uri, image, addresses[0], pinned=True)

    @classmethod
    def apply_pins(cls, wanted: SourceRequest, found: Resolution) -> Resolution:
        """Accept the resolution: `query` has checked the entry's digest, the manifest's, which pins the blobs."""
        return found

    def _fetch(self, uri: OllamaUri) -> ManifestResponse:
        """Request the manifest in Ollama's format; if the registry lacks it, request it again in any format."""
        repo = f"{uri.namespace}/{uri.model}"
        try:
            return self._registry.manifest(uri.host, repo, uri.tag, accept=DOCKER_MANIFEST, uri=uri.text)
        except NotFoundError:
            if uri.host == OLLAMA_HOST:
                raise
            return self._registry.manifest(uri.host, repo, uri.tag, accept=EVERY_TYPE, uri=uri.text)

    def _choose(self, uri: OllamaUri, index: ImageIndex, pinned: Digest | None) -> Image:
        """Return the pinned child if one is pinned, else the one that Ollama runs on this machine.

        Raises:
            IntegrityError: None is suitable (``unsupported-manifest``), or the pinned one is not among them.
        """
        candidates = list(_candidates(index))
        if pinned is not None and pinned != index.digest:
            candidates = [child for child in candidates if child.digest == pinned]
            if not candidates:
                raise PinMismatchError(f"{uri.text} is {index.digest} upstream, expected {pinned}")
        why = "it lists none"
        for child in candidates[:_MAX_TRIED]:
            served = self._registry.manifest(
                uri.host, f"{uri.namespace}/{uri.model}", str(child.digest), accept=EVERY_TYPE, uri=uri.text
            )
            image = parse_manifest(served.content, served.media_type)
            if isinstance(image, ImageIndex):
                continue
            problem = why_not_runnable(image)
            if problem is None:
                return image
            why = problem
        raise _unsupported(f"{uri} is a list of manifests, none of which Ollama's blob store can run: {why}")


def check_pin(wanted: SourceRequest, digest: Digest) -> None:
    """Check a manifest against the entry's pinned digest.

    Raises:
        PinMismatchError: They differ.
    """
    pinned = wanted.digest
    if pinned is not None and pinned.algorithm == "sha256" and pinned != digest:
        raise PinMismatchError(f"{wanted.uri} is {digest} upstream, expected {pinned}")


def why_not_runnable(image: Image) -> str | None:
    """Return why Ollama can't run a manifest from its blob store; None if it can."""
    kinds = {layer.media_type for layer in image.layers}
    if _TENSOR in kinds:
        return "it holds single tensors, which need an Ollama with MLX"
    if image.config is None:
        return "it has no config"
    if _MODEL not in kinds:
        return "it holds no model layer (a cloud model has no weights to fetch)"
    return None


def check_runnable(image: Image) -> None:
    """Reject a manifest that Ollama can't run.

    Raises:
        IntegrityError: Ollama can't run it (``unsupported-manifest``).
    """
    if (problem := why_not_runnable(image)) is not None:
        raise _unsupported(f"Ollama's blob store can't run the registry's manifest: {problem}")


def _candidates(index: ImageIndex) -> Iterable[Descriptor]:
    """Yield possible children in the index's order: manifests for Linux or without a platform."""
    for child in index.children:
        if child.media_type in MANIFESTS and (child.platform is None or child.platform[0] in ("linux", "")):
            yield child


def _resolution(uri: OllamaUri, image: Image, base: str, *, pinned: bool) -> Resolution:
    repo = f"{uri.namespace}/{uri.model}"
    blobs = [
        Artifact(
            uri=f"{uri.text}#{blob.digest}",
            path=f"sha256-{blob.digest.hex}",
            size=blob.size,
            digest=blob.digest,
            media_type=blob.media_type,
            locations=(Location(uri=f"{uri.text}#{blob.digest}", url=blob_url(base, repo, blob.digest)),),
        )
        for blob in image.blobs
    ]
    manifest = Artifact(
        uri=uri.text,
        path=uri.tag,
        size=len(image.content),
        digest=image.digest,
        media_type=image.media_type,
        content=image.content,
        locations=(Location(uri=uri.text, url=f"{base}/v2/{repo}/manifests/{image.digest}"),),
    )
    return Resolution(artifacts=(*blobs, manifest), revision=str(image.digest), pinned=pinned)


def _unsupported(message: str) -> IntegrityError:
    return IntegrityError(
        message, code="unsupported-manifest", hint="choose another tag, such as one of a GGUF quantisation"
    )
