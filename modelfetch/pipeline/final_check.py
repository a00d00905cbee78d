"""The last look at what was fetched, under the names that it is about to get.

The gate of a transfer judges bytes by the name that their source gave, and leaves them to the digest where one is
known. Two things it can't know: that a manifest calls the file something else, and that a digest which only the source
vouches for does not allow a pickle.
"""

from __future__ import annotations

import os
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from modelfetch.errors import NotAModelError
from modelfetch.formats.content_check import HEAD, judge_head, judge_whole, looks_like_pickle
from modelfetch.placement.layouts import PlacementMethod

if TYPE_CHECKING:
    from collections.abc import Mapping

    from modelfetch.core.artifact import Artifact
    from modelfetch.pipeline.plan import ModelPlan
    from modelfetch.store import Blob
    from modelfetch.transfer import Fetched


def check_final_names(plan: ModelPlan, fetched: Mapping[str, Fetched]) -> None:
    """Hold the files of a model against the names that they get.

    Raises:
        NotAModelError: One is not what its name says (``not-a-model``), or a pickle that the manifest neither pins nor
            allows (``pickle-not-allowed``).
        OSError: A blob can't be read.
    """
    for artifact in plan.resolution.artifacts if plan.resolution else ():
        found = fetched.get(artifact.uri)
        if found is None:
            continue
        places = [t.placement for t in plan.targets if t.placement.artifact == artifact]
        names = dict.fromkeys(PurePosixPath(place.path).name for place in places if place.how is PlacementMethod.FILE)
        if not artifact.allow_pickle:
            refuse_pickle(found.blob, artifact, (artifact.path, *(place.path for place in places)))
        for name in names:
            judge_renamed(found.blob, artifact, name)


def refuse_pickle(blob: Blob, artifact: Artifact, names: tuple[str, ...]) -> None:
    """Refuse a ``.bin`` (by any of its names) that is a pickle; raises as `check_final_names` does."""
    if not any(name.lower().endswith(".bin") for name in names):
        return
    with blob.path.open("rb") as file:
        if looks_like_pickle(file.read(HEAD)):
            raise NotAModelError(
                f"{artifact.path} is a pickle, which runs code when it is loaded",
                code="pickle-not-allowed",
                hint="pin its digest, or say allow_pickle: true",
                uri=artifact.uri,
            )


def judge_renamed(blob: Blob, artifact: Artifact, name: str) -> None:
    """Check a file without a digest against a name of another type than its source's; raises as `check_final_names`."""
    if artifact.digest is not None or _suffix(name) == _suffix(artifact.path):
        return
    with blob.path.open("rb") as file:
        error = judge_head(
            name, file.read(HEAD), url="", html_type=False, allow_pickle=artifact.allow_pickle
        ) or judge_whole(name, blob.size, lambda at, count: os.pread(file.fileno(), count, at))
    if error is not None:
        raise error.about(uri=artifact.uri)


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()
