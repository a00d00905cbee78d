"""A hub repo as values: select files from it, and name them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelfetch.config import hub
from modelfetch.core.digest import new_hasher
from modelfetch.core.units import format_list
from modelfetch.errors import NotFoundError
from modelfetch.sources.answers import unsafe_name_error
from modelfetch.sources.huggingface.listing import GIT_LIMIT, HubFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from modelfetch.core.digest import Digest
    from modelfetch.errors import ModelfetchError
    from modelfetch.manifest.uri import HfUri
    from modelfetch.sources.base import ReadBlob, SourceRequest

_LFS_SUFFIXES = (
    *(".7z", ".arrow", ".bin", ".bz2", ".ckpt", ".ftz", ".gguf", ".gz", ".h5", ".joblib", ".lfs", ".mlmodel", ".model"),
    *(".msgpack", ".npy", ".npz", ".onnx", ".ot", ".parquet", ".pb", ".pickle", ".pkl", ".pt", ".pth", ".rar"),
    *(".safetensors", ".tar", ".tflite", ".tgz", ".wasm", ".xz", ".zip", ".zst"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Repo:
    """What a hub says of one revision of a repo.

    Attributes:
        commit: The commit; None if the hub does not name it.
        files: By path; None for a file with an unsafe path.
        complete: Whether these are all files.
        license: The hub's identifier for its licence, such as ``apache-2.0``.
        problem: Why the hub gave nothing.
    """

    commit: str | None
    files: Mapping[str, HubFile | None]
    complete: bool = True
    license: str | None = None
    problem: ModelfetchError | None = None


def git_name(path: str, size: int | None, digest: Digest | None, read_blob: ReadBlob) -> str | None:
    """Return git's name of a stored file if repos keep such files outside LFS; else None.

    Source: the Hub's default .gitattributes, and its limit of 10 MiB for files outside LFS.
    """
    if digest is None or size is None or size >= GIT_LIMIT or path.lower().endswith(_LFS_SUFFIXES):
        return None
    content = read_blob(digest)
    if content is None:
        return None
    hasher = new_hasher("git-sha1", len(content))
    hasher.update(content)
    return hasher.hexdigest()


# -- choosing files ----------------------------------------------------------------------------------------------------


def named(uri: HfUri, wanted: SourceRequest) -> list[str] | None:
    """Return the paths of the requested files if they are named; None if they are selected from all."""
    if uri.path is not None:
        return [uri.path]
    return [spec.path for spec in wanted.files] if wanted.files is not None else None


def choose(repo: Repo, uri: HfUri, wanted: SourceRequest) -> list[HubFile]:
    """Select files: the one in the URI, the listed ones, those that match the patterns, or all.

    Raises:
        NotFoundError: Some do not exist; the message names them.
        IntegrityError: A path is unsafe (``unsafe-path``).
    """
    names = named(uri, wanted)
    if names is None:
        names = hub.matching(repo.files, wanted.include) if wanted.include is not None else sorted(repo.files)
    if missing := [name for name in names if name not in repo.files]:
        raise _missing(repo, uri, missing)
    if not names:
        what = f"no file that matches {', '.join(wanted.include)}" if wanted.include else "no files"
        raise NotFoundError(f"{_shown(uri, repo)} has {what}", hint=f"it has {_some(repo.files)}")
    chosen = []
    for name in names:
        file = repo.files[name]
        if file is None:
            raise unsafe_name_error(uri.repo, name)
        chosen.append(file)
    return chosen


def _shown(uri: HfUri, repo: Repo) -> str:
    return f"{uri.repo} at {repo.commit[:12]}" if repo.commit else f"{uri.repo}@{uri.revision or 'main'}"


def _missing(repo: Repo, uri: HfUri, missing: Sequence[str]) -> NotFoundError:
    near = difflib.get_close_matches(missing[0], repo.files, n=3, cutoff=0.5)
    return NotFoundError(
        f"{_shown(uri, repo)} has no file {format_list(missing)}",
        hint=f"did you mean {' or '.join(near)}?" if near else f"it has {_some(repo.files)}",
    )


def _some(names: Iterable[str]) -> str:
    return format_list(sorted(names)) or "no files"
