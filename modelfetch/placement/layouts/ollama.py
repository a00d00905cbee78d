"""The store of Ollama: ``models/{manifests/HOST/NS/MODEL/TAG, blobs/sha256-HEX}``.

Source: ollama, server/manifest and types/model/name.go; verified against the real server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelfetch.placement.layouts.base import Placement, PlacementMethod
from modelfetch.placement.ollama_manifests import newer_path

if TYPE_CHECKING:
    from modelfetch.core.artifact import Resolution
    from modelfetch.manifest.uri import OllamaUri

_FOLDER = "ollama/models"


def manifest_path(uri: OllamaUri) -> str:
    """The path of the manifest of a name, below ROOT."""
    return f"{_FOLDER}/manifests/{uri.host}/{uri.namespace}/{uri.model}/{uri.tag}"


def blob_path(sha256: str) -> str:
    """The path of a blob, below ROOT."""
    return f"{_FOLDER}/blobs/sha256-{sha256}"


def place(uri: OllamaUri, resolution: Resolution, *, newer: bool = False) -> tuple[Placement, ...]:
    """Return the blobs first and the manifest last, so that a model is listed only when it is complete.

    The manifest is copied, never linked, because Ollama rewrites it in place on ``create`` and ``pull``. ``newer``: it
    is also placed where Ollama 0.40 and later look first.
    """
    *blobs, manifest = resolution.artifacts
    placements = {}
    for blob in blobs:
        if blob.digest is None:
            raise ValueError(f"a layer of {uri} has no digest")
        path = blob_path(blob.digest.hex)
        placements[path] = Placement(path=path, how=PlacementMethod.FILE, artifact=blob)
    tag = manifest_path(uri)
    tags = (tag, newer_path(tag)) if newer else (tag,)
    return (
        *placements.values(),
        *(Placement(path=path, how=PlacementMethod.COPY, artifact=manifest) for path in tags),
    )
