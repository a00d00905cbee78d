"""Ollama's manifests, which Ollama may rewrite with other white space or another order of keys.

Source: ollama, manifest/manifest.go: a pulled manifest is encoded from its parsed form.
"""

from __future__ import annotations

import json

from modelfetch.sources.oci_manifest import MAX_MANIFEST


def is_manifest(path: str) -> bool:
    """Whether a path below ROOT is that of a manifest."""
    return path.startswith(("ollama/models/manifests/", "ollama/models/manifests-v2/"))


def same_manifest(one: bytes, other: bytes) -> bool:
    """Whether two manifests have the same content, however they are encoded. Pure."""
    if max(len(one), len(other)) > MAX_MANIFEST:
        return False
    try:
        first, second = json.loads(one), json.loads(other)
    except (ValueError, RecursionError):
        return False
    return isinstance(first, dict) and bool(first == second)
