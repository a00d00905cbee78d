"""Which files need which others: Ollama's manifests and Hugging Face snapshots need their blobs.

A blob is removed only with the last file that needs it, no matter who created that file, so models that users pulled
themselves keep their blobs. Sources: ollama, server/images.go and manifest/paths.go (0.40: ``manifests-v2`` takes
precedence over ``manifests``, a tag may be a list of further manifests stored among the blobs, converted models have
shadow tags); huggingface_hub, guides/manage-cache.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modelfetch.core import fs, untrusted_json
from modelfetch.formats.oci_manifest import MAX_MANIFEST
from modelfetch.placement.layouts.ollama import blob_path
from modelfetch.placement.ollama_manifests import is_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from modelfetch.care.inventory import Inventory
    from modelfetch.placement.root_tree import RootTree

_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """The references below ROOT.

    Attributes:
        needs: By path below ROOT, the paths that it needs.
        unreadable: Manifests and folders that can't be read and may need any blob of the same service or cache.
    """

    needs: Mapping[str, frozenset[str]] = field(default_factory=dict)
    unreadable: tuple[str, ...] = ()


def read_references(tree: RootTree, inventory: Inventory) -> References:
    """Read the references among the files below ROOT; raises OSError if a file can't be read."""
    needs: dict[str, frozenset[str]] = {}
    unreadable: list[str] = list(inventory.unlisted)
    for item in inventory.items:
        path = item.path
        if path is None or item.inode is None:
            continue
        if is_manifest(path):
            found = _blobs_of_manifest(tree, path)
            if found is None:
                unreadable.append(path)
            else:
                needs[path] = frozenset(found)
        elif "/snapshots/" in path and item.file.is_symlink():
            target = posixpath.normpath(f"{posixpath.dirname(path)}/{fs.read_link(item.file)}")
            needs[path] = frozenset((target,))
    return References(needs=needs, unreadable=tuple(unreadable))


def _blobs_of_manifest(tree: RootTree, path: str) -> set[str] | None:
    """The blobs that an Ollama tag needs, below ROOT, with those of the manifests that it lists; None if unreadable."""
    file = tree.path(path)
    found: set[str] = set()
    if file.is_symlink() and (own := _DIGEST.match(posixpath.basename(fs.read_link(file)))):
        found.add(blob_path(own[1]))
    todo = [file]
    seen = set()
    while todo:
        raw = _parse(todo.pop())
        if raw is None:
            return None
        for digest in _digests(raw):
            found.add(blob_path(digest))
        children = raw.get("manifests") or []
        if not isinstance(children, list):
            return None
        for child in children:
            match = _DIGEST.match(str(child.get("digest", ""))) if isinstance(child, dict) else None
            blob = tree.path(blob_path(match[1])) if match else None
            if blob is not None and blob not in seen and blob.exists():
                seen.add(blob)
                todo.append(blob)
    return found


def _parse(file: Path) -> dict[str, Any] | None:
    try:
        return untrusted_json.parse_object(fs.read_head(file, MAX_MANIFEST))
    except (OSError, ValueError):
        return None


def _digests(raw: Any) -> Iterator[str]:
    """Every digest in a manifest, at any depth, so that unknown keys are covered too."""
    if isinstance(raw, dict):
        for value in raw.values():
            yield from _digests(value)
    elif isinstance(raw, list):
        for value in raw:
            yield from _digests(value)
    elif isinstance(raw, str) and (match := _DIGEST.match(raw)):
        yield match[1]
