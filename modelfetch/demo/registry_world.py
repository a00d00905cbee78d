"""Registry models in the form of Ollama's library: a compact manifest and the blobs that it names."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from modelfetch.demo.body import Body

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
LAYER_TYPE = "application/vnd.ollama.image."


@dataclass(slots=True)
class OllamaModel:
    """One tag: the manifest's bytes, from which its digest is computed."""

    manifest: bytes

    @property
    def digest(self) -> str:
        """Return ``sha256:`` and the hash of the manifest's bytes."""
        return "sha256:" + hashlib.sha256(self.manifest).hexdigest()


def model_key(name: str) -> str:
    """Return the full ``NAMESPACE/MODEL:TAG`` for a name that may omit the library namespace and the tag."""
    path, _, tag = name.partition(":")
    return f"{path if '/' in path else 'library/' + path}:{tag or 'latest'}"


def build_manifest(config: Body, layers: Iterable[tuple[str, Body]]) -> bytes:
    """Encode the manifest: compact JSON without a final newline, keys in the library's order."""
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": _descriptor(CONFIG_TYPE, config),
        "layers": [_descriptor(kind if "/" in kind else LAYER_TYPE + kind, body) for kind, body in layers],
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _descriptor(media_type: str, body: Body) -> dict[str, str | int]:
    return {"mediaType": media_type, "digest": f"sha256:{body.sha256}", "size": body.size}
