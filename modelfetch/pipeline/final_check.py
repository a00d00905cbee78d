"""Validate fetched files against their destination names.

A transfer validates a file under the name that its source gives it, and relies on the digest if there is one. Three
cases remain for this check: the manifest gives the file another name; its digest comes only from the source, which does
not permit a pickle; and the file was in the store already, perhaps fetched under another name.
"""

from __future__ import annotations

import os
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from modelfetch.formats.content_check import check_artifact, check_pickle, digest_decides
from modelfetch.placement.layouts import PlacementMethod

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from modelfetch.core.artifact import Artifact
    from modelfetch.pipeline.plan import ModelPlan
    from modelfetch.store import Blob
    from modelfetch.transfer import Fetched


def check_final_names(plan: ModelPlan, fetched: Mapping[str, Fetched]) -> None:
    """Check the files of a model against their destination names.

    Raises:
        NotAModelError: A file's content does not match its name (``not-a-model``), or it is a pickle that the manifest
            neither pins nor allows (``pickle-not-allowed``).
        OSError: A blob can't be read.
    """
    for artifact in plan.resolution.artifacts if plan.resolution else ():
        found = fetched.get(artifact.uri)
        if found is None:
            continue
        places = [target.placement for target in plan.targets_of(artifact)]
        names = [PurePosixPath(place.path).name for place in places if place.how is PlacementMethod.FILE]
        refuse_pickle(found.blob, artifact, (artifact.path, *(place.path for place in places)))
        for name in dict.fromkeys((artifact.path, *names)):
            check_content(found.blob, artifact, name)


def refuse_pickle(blob: Blob, artifact: Artifact, names: Iterable[str]) -> None:
    """Refuse a file that is a pickle under any of its names; raises the same errors as `check_final_names`."""
    if artifact.allow_pickle:
        return
    with blob.path.open("rb", buffering=0) as file:
        for name in dict.fromkeys(names):
            error = check_pickle(name, blob.size, lambda at, count: os.pread(file.fileno(), count, at))
            if error is not None:
                raise error.about(uri=artifact.uri)


def check_content(blob: Blob, artifact: Artifact, name: str) -> None:
    """Check the content of a file against a name, unless its digest decides; raises as `check_final_names`.

    A file without a digest was checked under its source's name by its transfer.
    """
    if digest_decides(artifact) or (artifact.digest is None and _suffix(name) == _suffix(artifact.path)):
        return
    with blob.path.open("rb", buffering=0) as file:
        error = check_artifact(artifact, blob.size, lambda at, count: os.pread(file.fileno(), count, at), name=name)
    if error is not None:
        raise error


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()
