"""The source class of each URI scheme, imported on first use."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from modelfetch.core.urls import below
from modelfetch.manifest.paste import link_to_civitai, link_to_hf, token_in
from modelfetch.manifest.uri import CivitaiUri, HfUri, HttpUri, parse_uri

if TYPE_CHECKING:
    from modelfetch.config.settings import Settings
    from modelfetch.core.artifact import Artifact, Resolution
    from modelfetch.http import Http
    from modelfetch.manifest.uri import Uri
    from modelfetch.sources.base import ReadBlob, Source, SourceRequest


def source_type(scheme: str) -> type[Source[Any]]:
    """Return the source class of a scheme, imported on first use."""
    if scheme == "hf":
        from modelfetch.sources.huggingface.source import HfSource

        return HfSource
    if scheme == "ollama":
        from modelfetch.sources.ollama import OllamaSource

        return OllamaSource
    if scheme == "civitai":
        from modelfetch.sources.civitai import CivitaiSource

        return CivitaiSource
    if scheme == "oci":
        from modelfetch.sources.oci import OciSource

        return OciSource
    if scheme == "file":
        from modelfetch.sources.file import FileSource

        return FileSource
    from modelfetch.sources.https import HttpsSource

    return HttpsSource


def make_source(scheme: str, http: Http, settings: Settings) -> Source[Any]:
    """Return a source for a scheme."""
    kind: Any = source_type(scheme)
    return cast("Source[Any]", kind(http, settings))


def canonical_uri(uri: Uri, settings: Settings, *, keep_text: bool = True) -> Uri:
    """Convert an https page or link of the configured endpoint to the URI of the hub's own scheme.

    Links of the public hubs are converted as they are parsed (`modelfetch.manifest.paste`). The text of one for the
    Hugging Face Hub stays as it is written, unless ``keep_text`` is false.
    """
    if not isinstance(uri, HttpUri):
        return uri
    for endpoint, convert in ((settings.hf_endpoint, link_to_hf), (settings.civitai_endpoint, link_to_civitai)):
        try:
            path, query = below(uri.url, endpoint), urlsplit(uri.url).query
            if path is None:
                continue
            text = convert(path, query)
            found = parse_uri(text) if text else None
        except ValueError:
            continue
        if isinstance(found, HfUri):
            return replace(found, text=uri.text) if keep_text else found
        if isinstance(found, CivitaiUri):
            return replace(found, token=token_in(query))
    return uri


def known(wanted: SourceRequest, settings: Settings, read_blob: ReadBlob) -> Resolution | None:
    """Resolve a model from the manifest alone, without any request; None if its source is needed.

    Args:
        wanted: The request.
        settings: Endpoints, and whether requests are allowed.
        read_blob: Returns the bytes of a small blob in the store (a registry's manifest), None if it is missing.

    Raises:
        IntegrityError: The stored content contradicts the manifest.
    """
    source = source_type(wanted.uri.scheme)
    found = source.known(wanted.uri, wanted, settings, read_blob)
    if found is None and settings.offline and not wanted.cached:
        # Sizes can't be requested; digests verify what is present, and missing files can't be fetched anyway.
        found = source.known(wanted.uri, _with_sizes(wanted), settings, read_blob)
        return found and replace(
            found, artifacts=tuple(_without_size(artifact, wanted) for artifact in found.artifacts)
        )
    return found


def _with_sizes(wanted: SourceRequest) -> SourceRequest:
    """Return the request with a size if the manifest gives none."""
    files = wanted.files and tuple(replace(spec, size=0) if spec.size is None else spec for spec in wanted.files)
    return replace(wanted, size=0 if wanted.size is None else wanted.size, files=files)


def _without_size(artifact: Artifact, wanted: SourceRequest) -> Artifact:
    """Return the artifact without a size that the manifest does not give."""
    sizes = {spec.path: spec.size for spec in wanted.files or ()}
    return replace(artifact, size=sizes.get(artifact.path) if wanted.files is not None else wanted.size)
