"""From a URI's scheme to the source that answers for it; each is imported only when it is needed."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from modelfetch.manifest.paths import check_relative
from modelfetch.manifest.uri import CivitaiUri, HfUri, HttpUri, is_repo_id

if TYPE_CHECKING:
    from modelfetch.config.settings import Settings
    from modelfetch.core.artifact import Artifact, Resolution
    from modelfetch.http import Http
    from modelfetch.manifest.uri import Uri
    from modelfetch.sources.base import ReadBlob, Source, SourceRequest


_HF_LINK = re.compile(r"/([^/?#]+/[^/?#]+)/(?:resolve|blob)/(refs/pr/\d+|[^/?#]+)/([^?#]+)(?:\?download=true)?\Z")
_CIVITAI_LINK = re.compile(r"/api/download/models/(\d{1,12})(?:\?fileId=(\d{1,12}))?\Z", re.ASCII)


def make_source(scheme: str, http: Http, settings: Settings) -> Source[Any]:
    """The source of a scheme."""
    from modelfetch.http.auth import Credentials

    if scheme == "hf":
        from modelfetch.sources.huggingface.source import HfSource

        return HfSource(http, settings, Credentials(settings))
    if scheme == "ollama":
        from modelfetch.sources.ollama import OllamaSource

        return OllamaSource(http, settings)
    if scheme == "civitai":
        from modelfetch.sources.civitai import CivitaiSource

        return CivitaiSource(http, settings)
    if scheme == "oci":
        from modelfetch.sources.oci import OciSource

        return OciSource(http, settings)
    if scheme == "file":
        from modelfetch.sources.file import FileSource

        return FileSource()
    from modelfetch.sources.https import HttpsSource

    return HttpsSource(http, Credentials(settings))


def canonical_uri(uri: Uri, settings: Settings) -> Uri:
    """The URI of a hub's own source where an https address is one that the hub gives to people.

    So a pasted link gets the digest, the hints and the checks that the hub's own URI would.
    """
    if not isinstance(uri, HttpUri):
        return uri
    if uri.url.startswith(settings.hf_endpoint + "/") and (found := _hf_link(uri, settings.hf_endpoint)):
        return found
    if uri.url.startswith(settings.civitai_endpoint + "/"):
        match = _CIVITAI_LINK.match(uri.url.removeprefix(settings.civitai_endpoint))
        if match:
            return CivitaiUri(text=uri.text, version=int(match[1]), file=int(match[2]) if match[2] else None)
    return uri


def _hf_link(uri: HttpUri, endpoint: str) -> HfUri | None:
    match = _HF_LINK.match(uri.url.removeprefix(endpoint))
    if not match or not is_repo_id(match[1]):
        return None
    path = unquote(match[3])
    try:
        check_relative(path)
    except ValueError:
        return None
    return HfUri(text=uri.text, repo=match[1], revision=unquote(match[2]), path=path)


def known(wanted: SourceRequest, settings: Settings, read_blob: ReadBlob) -> Resolution | None:
    """What the manifest alone tells of a model, without any request; None where its source must be asked.

    Args:
        wanted: What is asked.
        settings: Where the default hosts are.
        read_blob: The bytes of a small blob in the store (a registry's manifest), None when it is not there.

    Raises:
        IntegrityError: What the store holds of it contradicts the manifest.
    """
    from modelfetch.http import Http

    # The client is never used: whatever has to be asked is not known.
    source = make_source(wanted.uri.scheme, Http(), settings)
    found = source.known(wanted.uri, wanted, read_blob)
    if found is None and settings.offline and not wanted.cached:
        # Nobody may be asked for the sizes; digests prove what is here, and what is not can't be fetched anyhow.
        found = source.known(wanted.uri, _sized(wanted), read_blob)
        return found and replace(found, artifacts=tuple(_unsized(artifact, wanted) for artifact in found.artifacts))
    return found


def _sized(wanted: SourceRequest) -> SourceRequest:
    """With a size where the manifest gives none."""
    files = wanted.files and tuple(replace(spec, size=0) if spec.size is None else spec for spec in wanted.files)
    return replace(wanted, size=0 if wanted.size is None else wanted.size, files=files)


def _unsized(artifact: Artifact, wanted: SourceRequest) -> Artifact:
    """Without the size that the manifest does not give."""
    sizes = {spec.path: spec.size for spec in wanted.files or ()}
    return replace(artifact, size=sizes.get(artifact.path) if wanted.files is not None else wanted.size)
