"""The Hugging Face cache: ``models--ORG--NAME/{blobs,snapshots/COMMIT,refs/…}``.

Source: huggingface_hub, guides/manage-cache. Snapshots are relative symlinks into ``blobs``, so the folder works
wherever it is mounted. ``refs/NAME`` contains a commit without a newline; offline readers look it up. If symlinks
can't be created, huggingface_hub (``_create_symlink``) moves each file into the snapshot and keeps no blob.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelfetch.core.digest import is_commit
from modelfetch.placement.layouts.base import Placement, PlacementMethod

if TYPE_CHECKING:
    from modelfetch.core.artifact import Artifact, Resolution


def place(folder: str, revision: str | None, resolution: Resolution, *, symlinks: bool = True) -> tuple[Placement, ...]:
    """Return the blobs, then the snapshot's symlinks, then the refs.

    Args:
        folder: The repo's folder in the cache, below ROOT.
        revision: The revision as written in the manifest; a branch or tag gets its own ref in addition to ``main``.
        resolution: Its ``revision`` is the commit; each artifact's ``path`` is the path inside the repo.
        symlinks: Whether the file system supports symlinks; without them, the snapshot contains the files themselves.
    """
    commit = resolution.revision
    if commit is None:
        raise ValueError(f"{folder} has no commit")
    blobs: dict[str, Placement] = {}
    links: list[Placement] = []
    files: list[Placement] = []
    for artifact in resolution.artifacts:
        name = _blob_name(artifact)
        up = "../" * (artifact.path.count("/") + 2)
        link = f"{folder}/snapshots/{commit}/{artifact.path}"
        if not symlinks:
            files.append(Placement(path=link, how=PlacementMethod.FILE, artifact=artifact))
            continue
        blobs[name] = Placement(path=f"{folder}/blobs/{name}", how=PlacementMethod.FILE, artifact=artifact)
        links.append(Placement(path=link, how=PlacementMethod.SYMLINK, artifact=artifact, target=f"{up}blobs/{name}"))
    names = dict.fromkeys(("main", *(() if revision is None or is_commit(revision) else (revision,))))
    refs = [Placement(path=f"{folder}/refs/{name}", how=PlacementMethod.TEXT, text=commit.encode()) for name in names]
    return (*blobs.values(), *links, *files, *refs)


def _blob_name(artifact: Artifact) -> str:
    if artifact.cache_name is not None:
        return artifact.cache_name
    if artifact.digest is None:
        raise ValueError(f"{artifact.uri} has neither an ETag nor a digest")
    return artifact.digest.hex
