"""What receipts keep of a resolution, so that a later run needs no request: addresses without endpoints and secrets."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from modelfetch.core.urls import display_url
from modelfetch.manifest.uri import HttpUri, OllamaUri
from modelfetch.placement.receipts import Frozen

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from modelfetch.config.settings import Settings
    from modelfetch.core.artifact import Artifact, Resolution
    from modelfetch.manifest.model import Model
    from modelfetch.manifest.uri import Uri
    from modelfetch.pipeline.plan import ModelRequest
    from modelfetch.placement.receipts import Receipt


def freeze(request: ModelRequest, resolution: Resolution, settings: Settings) -> dict[str, Frozen]:
    """What the receipts of a request keep of its resolution."""
    names = {f"{endpoint}/": f"{name}:/" for name, endpoint in _endpoints(settings).items()}
    resolution = _readdressed(resolution, names)
    return {request.key: Frozen(tier=request.requested_by, model=request.model.name, resolution=resolution)}


def frozen_for(request: ModelRequest, receipts: Mapping[str, Receipt], settings: Settings) -> Resolution | None:
    """What an earlier run resolved for this entry of the same manifest text, with the current settings' endpoints."""
    for receipt in receipts.values():
        if found := request.frozen_in(receipt):
            return _current(found, request.model, settings)
    return None


def same_pins(request: ModelRequest, receipts: Mapping[str, Receipt], settings: Settings) -> Resolution | None:
    """What an earlier run resolved for a file with the same source and pins, under another manifest text.

    The pins fix the bytes, so all that it adds is the file's name, which some sources give only with a request.
    """
    model = request.model
    if model.digest is None or model.files is not None or isinstance(model.source, OllamaUri):
        return None
    for receipt in receipts.values():
        for frozen in receipt.frozen_as(model.name):
            artifacts = frozen.resolution.artifacts
            if len(artifacts) == 1 and _has_pins(artifacts[0], model):
                return _current(frozen, model, settings)
    return None


def frozen_before(request: ModelRequest, receipts: Mapping[str, Receipt], settings: Settings) -> Resolution | None:
    """What an earlier run resolved for the same entry under another manifest text, preferably one of this tier."""
    found = [
        frozen
        for receipt in receipts.values()
        for age, entry in enumerate(request.entry_keys)
        for frozen in receipt.frozen_of(entry)
        if age == 0 or frozen.model == request.model.name
    ]
    if not found:
        return None
    best = min(found, key=lambda one: (one.tier != request.requested_by, one.model != request.model.name))
    return _current(best, request.model, settings)


def _current(frozen: Frozen, model: Model, settings: Settings) -> Resolution:
    return at_current_endpoints(frozen.resolution, settings, (model.source, *model.mirrors))


def _has_pins(artifact: Artifact, model: Model) -> bool:
    return (
        artifact.uri == str(model.source)
        and artifact.digest == model.digest
        and model.size in (None, artifact.size)
        and model.filename is None
    )


def at_current_endpoints(resolution: Resolution, settings: Settings, uris: Iterable[Uri] = ()) -> Resolution:
    """Return a resolution from a receipt with the addresses that today's settings give.

    A receipt holds addresses without their secrets, which are taken from ``uris``, the manifest's own.
    """
    names = {f"{name}:/": f"{endpoint}/" for name, endpoint in _endpoints(settings).items()}
    secret = {display_url(uri.url): uri.url for uri in uris if isinstance(uri, HttpUri)}
    return _readdressed(resolution, names, secret)


def _endpoints(settings: Settings) -> dict[str, str]:
    """The names that receipts hold instead of endpoints, which variables may change."""
    return {
        "hf-endpoint": settings.hf_endpoint,
        "ollama-registry": settings.ollama_registry,
        "civitai-endpoint": settings.civitai_endpoint,
    }


def _readdressed(
    resolution: Resolution, prefixes: Mapping[str, str], secret: Mapping[str, str] | None = None
) -> Resolution:
    """The resolution with other prefixes, and with the secrets of the manifest's own addresses put back."""

    def moved(url: str) -> str:
        url = (secret or {}).get(url, url)
        old = next((prefix for prefix in prefixes if url.startswith(prefix)), "")
        return prefixes.get(old, "") + url.removeprefix(old)

    artifacts = (
        replace(one, locations=tuple(replace(place, url=moved(place.url)) for place in one.locations))
        for one in resolution.artifacts
    )
    return replace(resolution, artifacts=tuple(artifacts))
