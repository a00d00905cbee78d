"""Layouts: (consumer, model, what was resolved) → placements below ROOT. Pure: nothing here touches a disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelfetch.manifest.kinds import FOLDERS, HF_CACHES, hf_repo_folder, repo_folder
from modelfetch.manifest.uri import HfUri, OllamaUri
from modelfetch.placement.layouts import folders, hf_cache, ollama
from modelfetch.placement.layouts.base import Placement, PlacementMethod

if TYPE_CHECKING:
    from modelfetch.core.artifact import Resolution
    from modelfetch.manifest.model import Model

__all__ = ["PlacementMethod", "Placement", "placements"]


def placements(
    consumer: str, model: Model, resolution: Resolution, *, symlinks: bool = True, newer_ollama: bool = False
) -> tuple[Placement, ...]:
    """Return what ``consumer`` expects on disk for ``model``, in placement order.

    ``symlinks``: whether the consumer's file system supports them. ``newer_ollama``: whether the store of Ollama has
    the manifests of version 0.40 and later.

    Raises:
        ValueError: The manifest has a combination that no layout supports; `load_manifest` refuses those.
    """
    if isinstance(model.source, OllamaUri):
        return ollama.place(model.source, resolution, newer=newer_ollama)
    if model.kind == "file" and model.path is not None:
        path = f"{consumer}/{model.path}"
        return folders.place_unpacked(path, resolution) if model.unpack else folders.place_single(path, resolution)
    if model.kind == "snapshot" and isinstance(model.source, HfUri):
        if consumer in HF_CACHES:
            folder = hf_repo_folder(consumer, model.cache_as or model.source.repo)
            return hf_cache.place(folder, model.source.revision, resolution, symlinks=symlinks)
        return folders.place_tree(repo_folder(consumer, model), resolution)
    if model.kind == "immich-model":
        # TASK/NAME/…, as Immich downloads it; copies, since it may rewrite or delete them. It takes a model for present
        # if its ``model.onnx`` is a file (source: immich, machine-learning/immich_ml/models/base.py).
        return folders.place_tree(repo_folder(consumer, model), resolution, PlacementMethod.COPY)
    kind_folder = FOLDERS.get((consumer, model.kind or ""))
    if kind_folder is None:
        raise ValueError(f"{consumer} does not support the kind {model.kind!r}")
    name = model.filename or resolution.artifacts[0].path.rpartition("/")[2]
    return folders.place_single(f"{consumer}/{kind_folder}/{name}", resolution)
