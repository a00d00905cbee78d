"""One Hugging Face repository: commits, references, and the object ids that git and LFS would give its files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

from modelfetch.demo.body import Body, as_body, read_all

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

Gate = Literal[False, "auto", "manual"]

LFS_SUFFIXES = (
    *(".bin", ".bz2", ".ckpt", ".ftz", ".gguf", ".gz", ".h5", ".joblib", ".mlmodel", ".model", ".msgpack", ".npy"),
    *(".npz", ".onnx", ".ot", ".parquet", ".pb", ".pickle", ".pkl", ".pt", ".pth", ".safetensors", ".tar", ".tflite"),
    *(".tgz", ".wasm", ".xz", ".zip", ".zst"),
)
"""Suffixes that a new repository's .gitattributes assigns to LFS."""
LFS_SIZE = 10 * 1024 * 1024
"""Size in bytes from which the Hub requires LFS for any file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoFile:
    """One file of one commit. ``sha256`` is set for LFS files only, and is then the linked ETag."""

    path: str
    body: Body
    oid: str
    sha256: str | None
    pointer_size: int

    @property
    def etag(self) -> str:
        """Return the Hub's ETag for the content: sha256 for LFS, the git blob's sha1 otherwise."""
        return self.sha256 or self.oid

    @property
    def xet_hash(self) -> str:
        """Return 64 hex digits that resemble a sha256 but are not one: the CDN's own ETag."""
        return hashlib.sha256(b"xet" + self.etag.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """One immutable state of a repository."""

    sha: str
    files: Mapping[str, RepoFile]


@dataclass(slots=True, kw_only=True)
class HfRepo:
    """A repository; ``refs`` maps branch and tag names, and full names such as ``refs/pr/1``, to commits."""

    repo_id: str
    lfs: Collection[str] | bool | None = None
    gated: Gate = False
    private: bool = False
    xet: bool = False
    resolve_cache: bool = False
    license: str | None = None
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    def commit(self, files: Mapping[str, bytes | str | Body], *, ref: str = "main") -> str:
        """Replace the target of ``ref`` with a commit of exactly these files; returns its hash.

        The hash depends only on the repository's name and the content, so it is the same on every machine.
        """
        entries = {path: self._entry(path, as_body(content)) for path, content in sorted(files.items())}
        state = hashlib.sha1(self.repo_id.encode(), usedforsecurity=False)
        for entry in entries.values():
            state.update(f"\n{entry.path}\0{entry.oid}".encode())
        sha = state.hexdigest()
        self.commits[sha] = Commit(sha=sha, files=entries)
        self.refs[ref] = sha
        return sha

    @property
    def main(self) -> str:
        """Return the commit that ``main`` points to."""
        return self.refs["main"]

    def resolve(self, revision: str) -> Commit | None:
        """Return the commit for a branch, tag, full reference, commit hash or unambiguous short hash."""
        if revision in self.refs:
            return self.commits[self.refs[revision]]
        if len(revision) >= 7:  # the shortest hash that the Hub accepts
            found = [commit for sha, commit in self.commits.items() if sha.startswith(revision)]
            if len(found) == 1:
                return found[0]
        return None

    def _entry(self, path: str, body: Body) -> RepoFile:
        if not self._is_lfs(path, body):
            return RepoFile(path=path, body=body, oid=git_oid(read_all(body)), sha256=None, pointer_size=0)
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{body.sha256}\nsize {body.size}\n".encode()
        return RepoFile(path=path, body=body, oid=git_oid(pointer), sha256=body.sha256, pointer_size=len(pointer))

    def _is_lfs(self, path: str, body: Body) -> bool:
        if isinstance(self.lfs, bool):
            return self.lfs
        if self.lfs is not None:
            return any(fnmatchcase(path, glob) for glob in self.lfs)
        return path.endswith(LFS_SUFFIXES) or body.size > LFS_SIZE


def git_oid(data: bytes) -> str:
    """Return git's sha1 of a blob."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
