"""Immich's machine learning: ``TASK/NAME/…``, the same layout as Immich's own download.

Source: immich-app/immich, ``machine-learning/immich_ml/models``. In ``base.py`` a model counts as present if its
``model.onnx`` is a file. `modelfetch.placement.rewritten` lists the file that Immich rewrites.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelfetch.placement.layouts.base import Placement, PlacementMethod

if TYPE_CHECKING:
    from modelfetch.core.artifact import Resolution


def place(folder: str, resolution: Resolution) -> tuple[Placement, ...]:
    """All files of a model as copies below ``folder``, since the service may rewrite or delete them."""
    return tuple(
        Placement(
            path=f"{folder}/{artifact.path}",
            how=PlacementMethod.COPY,
            artifact=artifact,
        )
        for artifact in resolution.artifacts
    )
