"""Which files need which others: Ollama's manifests and Hugging Face snapshots need their blobs.

A blob is removed only with the last file that needs it, no matter who created that file, so models that users pulled
themselves keep their blobs. Sources: ollama, server/images.go and manifest/paths.go (0.40: ``manifests-v2`` takes
precedence over ``manifests``, a tag may be a list of further manifests stored among the blobs, converted models have
shadow tags); huggingface_hub, guides/manage-cache.
"""

from __future__ import annotations

import os
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

    from modelfetch.care.inventory import Inventory, Item
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
        elif item.entry is not None and item.entry.digest is not None and item.entry.target is not None:
            needs[path] = frozenset(_placements_of(item, inventory))
        elif ("/snapshots/" in path or "/blobs/" in path) and item.file.is_symlink():
            needs[path] = frozenset((_target_of(tree, path, item.file),))
    return References(needs=needs, unreadable=tuple(unreadable))


def _placements_of(item: Item, inventory: Inventory) -> Iterator[str]:
    """The placements that a user's link, which was adopted, leads to."""
    for other in inventory.by_inode.get(item.inode or (0, 0), ()):
        if other is not item and other.path is not None and os.path.realpath(other.file) == str(item.file):
            yield other.path


def _target_of(tree: RootTree, path: str, link: Path) -> str:
    """The path below ROOT that a symlink in a cache leads to."""
    text, consumer = fs.read_link(link), path.partition("/")[0]
    for top in (str(tree.path(consumer)), os.path.realpath(tree.path(consumer))):
        if text.startswith(f"{top}/"):
            return posixpath.normpath(f"{consumer}/{text.removeprefix(f'{top}/')}")
    return posixpath.normpath(f"{posixpath.dirname(path)}/{text}")


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
