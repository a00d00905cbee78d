"""Plain folders: one file of a kind in the folder that a service reads that kind from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelfetch.placement.layouts.base import Placement, PlacementMethod

if TYPE_CHECKING:
    from modelfetch.core.artifact import Resolution


def place_single(path: str, resolution: Resolution) -> tuple[Placement, ...]:
    """One file at ``path`` below ROOT."""
    (artifact,) = resolution.artifacts
    return (Placement(path=path, how=PlacementMethod.FILE, artifact=artifact),)


def place_tree(folder: str, resolution: Resolution) -> tuple[Placement, ...]:
    """All files of a snapshot below ``folder``, as they lie in the repo."""
    return tuple(
        Placement(path=f"{folder}/{artifact.path}", how=PlacementMethod.FILE, artifact=artifact)
        for artifact in resolution.artifacts
    )


def place_unpacked(folder: str, resolution: Resolution) -> tuple[Placement, ...]:
    """An archive, unpacked into ``folder`` below ROOT."""
    (artifact,) = resolution.artifacts
    return (Placement(path=folder, how=PlacementMethod.UNPACK, artifact=artifact),)
