"""From a URI's scheme to the source that answers for it; each is imported only when it is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelfetch.artifacts import Resolution
    from modelfetch.http import Http
    from modelfetch.settings import Settings
    from modelfetch.sources.base import ReadBlob, Source, Wanted


def make_source(scheme: str, http: Http, settings: Settings) -> Source[Any]:
    """The source of a scheme."""
    if scheme == "hf":
        from modelfetch.credentials import Credentials
        from modelfetch.sources.huggingface import HfSource

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

    return HttpsSource(http)


def known(wanted: Wanted, settings: Settings, read_blob: ReadBlob) -> Resolution | None:
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
    return make_source(wanted.uri.scheme, Http(), settings).known(wanted.uri, wanted, read_blob)
