"""Plain folders: files go into the folder from which a service reads their kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelfetch.placement.layouts.base import Placement, PlacementMethod

if TYPE_CHECKING:
    from modelfetch.core.artifact import Resolution


def place_single(path: str, resolution: Resolution) -> tuple[Placement, ...]:
    """One file at ``path`` below ROOT; a copy if it is NLTK's, which (from 3.10.3) refuses files with several links."""
    (artifact,) = resolution.artifacts
    how = PlacementMethod.COPY if "nltk_data" in path.split("/") else PlacementMethod.FILE
    return (Placement(path=path, how=how, artifact=artifact),)


def place_tree(
    folder: str, resolution: Resolution, how: PlacementMethod = PlacementMethod.FILE
) -> tuple[Placement, ...]:
    """All files of a snapshot below ``folder``, with the same paths as in the repo."""
    return tuple(
        Placement(path=f"{folder}/{artifact.path}", how=how, artifact=artifact) for artifact in resolution.artifacts
    )


def place_unpacked(folder: str, resolution: Resolution) -> tuple[Placement, ...]:
    """An archive that is unpacked into ``folder`` below ROOT."""
    (artifact,) = resolution.artifacts
    return (Placement(path=folder, how=PlacementMethod.UNPACK, artifact=artifact),)
