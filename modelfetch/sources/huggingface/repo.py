"""A hub repo as values: parse its untrusted metadata, and select files from it."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelfetch.config import hub
from modelfetch.core.digest import Digest, is_commit, new_hasher
from modelfetch.core.units import MAX_SIZE, format_list
from modelfetch.errors import NotFoundError
from modelfetch.manifest.paths import check_relative
from modelfetch.sources.answers import unsafe_name_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from modelfetch.manifest.uri import HfUri
    from modelfetch.sources.base import ReadBlob, SourceRequest

_LFS_SIZE = 10 * 2**20
_LFS_SUFFIXES = (
    *(".7z", ".arrow", ".bin", ".bz2", ".ckpt", ".ftz", ".gguf", ".gz", ".h5", ".joblib", ".lfs", ".mlmodel", ".model"),
    *(".msgpack", ".npy", ".npz", ".onnx", ".ot", ".parquet", ".pb", ".pickle", ".pkl", ".pt", ".pth", ".rar"),
    *(".safetensors", ".tar", ".tflite", ".tgz", ".wasm", ".xz", ".zip", ".zst"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """One file of a repo in the hub's metadata; ``sha256`` for LFS files only, ``oid`` is the git blob's sha1."""

    path: str
    size: int | None
    oid: str | None
    sha256: str | None

    @property
    def digest(self) -> Digest | None:
        """The digest of the file's content."""
        if self.sha256 is not None:
            return Digest("sha256", self.sha256)
        return Digest("git-sha1", self.oid) if self.oid is not None and self.size is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Repo:
    """One revision of a repo; ``license`` is the hub's identifier for its licence, such as ``apache-2.0``."""

    commit: str
    files: dict[str, HubFile | None]
    """By path; None for a file with an unsafe path."""
    license: str | None = None


def read_info(info: Any, revision: str) -> Repo:
    """Parse a ModelInfo.

    Raises:
        ValueError, TypeError, AttributeError: It does not follow the hub's API.
    """
    commit = info.sha
    if not isinstance(commit, str) or len(commit) != 40:
        raise ValueError("no commit")
    commit = Digest("git-sha1", commit).hex
    if is_commit(revision) and revision != commit:
        raise ValueError("another commit than the requested one")
    files: dict[str, HubFile | None] = {}
    for sibling in info.siblings or ():
        path = sibling.rfilename
        if not isinstance(path, str):
            raise TypeError("a path that is not a string")
        files[path] = read_file(path, sibling) if _is_safe(path) else None
    return Repo(commit=commit, files=files, license=_license(info))


def _license(info: Any) -> str | None:
    """Return the licence in a repo's tags."""
    tags = getattr(info, "tags", None)
    names = [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []
    found = next((name for tag in names if (name := tag.removeprefix("license:")) != tag), "")
    return found if found and found.isprintable() and len(found) <= 100 else None


def read_file(path: str, entry: Any) -> HubFile:
    """Parse a RepoSibling or RepoFile; raises as `read_info` does."""
    lfs = getattr(entry, "lfs", None)
    size = lfs.size if lfs is not None else getattr(entry, "size", None)
    oid = getattr(entry, "blob_id", None)
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_SIZE):
        raise ValueError("an impossible size")
    return HubFile(
        path=path,
        size=size,
        oid=None if oid is None else Digest("git-sha1", oid).hex,
        sha256=None if lfs is None else Digest("sha256", lfs.sha256).hex,
    )


def _is_safe(path: str) -> bool:
    try:
        check_relative(path)
    except ValueError:
        return False
    return True


def git_name(path: str, size: int | None, digest: Digest | None, read_blob: ReadBlob) -> str | None:
    """Return git's name of a stored file if repos keep such files outside LFS; else None.

    Source: the Hub's default .gitattributes, and its limit of 10 MiB for files outside LFS.
    """
    if digest is None or size is None or size >= _LFS_SIZE or path.lower().endswith(_LFS_SUFFIXES):
        return None
    content = read_blob(digest)
    if content is None:
        return None
    hasher = new_hasher("git-sha1", len(content))
    hasher.update(content)
    return hasher.hexdigest()


# -- choosing files ----------------------------------------------------------------------------------------------------


def choose(repo: Repo, uri: HfUri, wanted: SourceRequest) -> list[HubFile]:
    """Select files: the one in the URI, the listed ones, those that match the patterns, or all.

    Raises:
        NotFoundError: Some do not exist; the message names them.
        IntegrityError: A path is unsafe (``unsafe-path``).
    """
    if uri.path is not None:
        names = [uri.path]
    elif wanted.files is not None:
        names = [spec.path for spec in wanted.files]
    elif wanted.include is not None:
        names = hub.matching(repo.files, wanted.include)
    else:
        names = sorted(repo.files)
    if missing := [name for name in names if name not in repo.files]:
        raise _missing(repo, uri, missing)
    if not names:
        what = f"no file that matches {', '.join(wanted.include)}" if wanted.include else "no files"
        raise NotFoundError(f"{uri.repo} at {repo.commit[:12]} has {what}", hint=f"it has {_some(repo.files)}")
    chosen = []
    for name in names:
        file = repo.files[name]
        if file is None:
            raise unsafe_name_error(uri.repo, name)
        chosen.append(file)
    return chosen


def _missing(repo: Repo, uri: HfUri, missing: Sequence[str]) -> NotFoundError:
    near = difflib.get_close_matches(missing[0], repo.files, n=3, cutoff=0.5)
    return NotFoundError(
        f"{uri.repo} at {repo.commit[:12]} has no file {format_list(missing)}",
        hint=f"did you mean {' or '.join(near)}?" if near else f"it has {_some(repo.files)}",
    )


def _some(names: Iterable[str]) -> str:
    return format_list(sorted(names)) or "no files"
