"""Ollama's manifests: their two locations, and whether two of them describe the same model.

Ollama may rewrite a manifest with other white space or another order of keys. From 0.40 on, a tag in ``manifests-v2``
takes precedence over the one in ``manifests``, and may be a list of manifests, such as the pulled one and the one of
the model as Ollama converted it.

Sources: ollama, manifest/manifest.go (a pulled manifest is encoded from its parsed form), manifest/paths.go (0.40: the
default host is ``ollama.com`` in ``manifests-v2``, and ``:`` is written ``%3A``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modelfetch.core import untrusted_json
from modelfetch.formats.oci_manifest import MAX_MANIFEST

if TYPE_CHECKING:
    from modelfetch.core.digest import Digest

FOLDER = "ollama/models/manifests/"
NEWER_FOLDER = "ollama/models/manifests-v2/"
_DEFAULT_HOST, _NEWER_DEFAULT_HOST = "registry.ollama.ai", "ollama.com"


def is_manifest(path: str) -> bool:
    """Whether a path below ROOT is that of a manifest."""
    return path.startswith((FOLDER, NEWER_FOLDER))


def is_newer(path: str) -> bool:
    """Whether a path below ROOT is that of a tag of Ollama 0.40 and later."""
    return path.startswith(NEWER_FOLDER)


def newer_path(path: str) -> str:
    """The path of the same tag from Ollama 0.40 on."""
    host, _, tag = path.removeprefix(FOLDER).partition("/")
    return f"{NEWER_FOLDER}{_NEWER_DEFAULT_HOST if host == _DEFAULT_HOST else host.replace(':', '%3A')}/{tag}"


def older_path(path: str) -> str:
    """The path of the same tag before Ollama 0.40."""
    host, _, tag = path.removeprefix(NEWER_FOLDER).partition("/")
    return f"{FOLDER}{_DEFAULT_HOST if host == _NEWER_DEFAULT_HOST else host.replace('%3A', ':')}/{tag}"


def same_manifest(one: bytes, other: bytes) -> bool:
    """Whether two manifests have the same content, however they are encoded. Pure."""
    first = _parse(one)
    return first is not None and first == _parse(other)


def lists_manifest(data: bytes, wanted: Digest) -> bool:
    """Whether a manifest is a list that contains the one with the digest ``wanted``. Pure."""
    children = (_parse(data) or {}).get("manifests")
    return isinstance(children, list) and any(
        isinstance(child, dict) and child.get("digest") == str(wanted) for child in children
    )


def _parse(data: bytes) -> dict[str, Any] | None:
    if len(data) > MAX_MANIFEST:
        return None
    try:
        return untrusted_json.parse_object(data)
    except ValueError:
        return None
