"""Files elsewhere on this machine that may have the right bytes: Hugging Face's cache, collections adopted in place.

They are found by name or by a record, and verified against their digest before they are used.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections import defaultdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelfetch.core import directories, fs, temp_files
from modelfetch.core.json_fields import parse
from modelfetch.manifest.kinds import HF_MODEL_PREFIX, hf_folder_name
from modelfetch.manifest.uri import HfUri, parse_uri

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from modelfetch.core.artifact import Artifact

_MAX_BYTES = 64 * 2**20


class LocalFiles:
    """Looks for files by digest; each place is read once, when it is first needed.

    Args:
        root: ROOT, which has the list of collections adopted in place.
        hf_cache: huggingface_hub's cache; None for none.
    """

    def __init__(self, root: Path, hf_cache: Path | None) -> None:
        self._root = root
        self._hf_cache = hf_cache
        self._lock = threading.Lock()

    def find(self, artifact: Artifact) -> list[Path]:
        """Files that may be the artifact, the likelier ones first."""
        digest = artifact.digest
        if digest is None:
            return []
        with self._lock:
            names = dict.fromkeys(filter(None, (digest.hex, artifact.cache_name)))
            found = [path for name in names for path in self._cached.get(name, ())]
            found += self._in_snapshot(artifact)
            found += [Path(one["path"]) for one in self._in_place.get(str(digest), ()) if _is_unchanged(one)]
        return found

    def _in_snapshot(self, artifact: Artifact) -> Iterator[Path]:
        """The file in the cache's snapshot of the same commit: a small file's blob is not named by its sha256."""
        if self._hf_cache is None or not self._repos or not artifact.uri.startswith("hf://"):
            return
        uri = parse_uri(artifact.uri)
        if isinstance(uri, HfUri) and uri.commit and uri.path and (repo := hf_folder_name(uri.repo)) in self._repos:
            file = self._hf_cache / repo / "snapshots" / uri.commit / uri.path
            if file.is_file():
                yield file

    @cached_property
    def _in_place(self) -> Mapping[str, Sequence[dict[str, Any]]]:
        return read_in_place(self._root)

    @cached_property
    def _cached(self) -> Mapping[str, Sequence[Path]]:
        """The blobs of all repos of the cache by name: sha256 of LFS files, git's sha1 of others."""
        found: dict[str, list[Path]] = defaultdict(list)
        for repo in self._repos.values():
            with contextlib.suppress(OSError), os.scandir(repo / "blobs") as blobs:
                for blob in blobs:
                    found[blob.name].append(Path(blob.path))
        return found

    @cached_property
    def _repos(self) -> Mapping[str, Path]:
        """The folders of the cache's repos, by name."""
        found: dict[str, Path] = {}
        if self._hf_cache is not None:
            with contextlib.suppress(OSError), os.scandir(self._hf_cache) as entries:
                names = [one.name for one in entries if one.name.startswith((HF_MODEL_PREFIX, "datasets--"))]
                found = {name: self._hf_cache / name for name in names}
        return found


def in_place_list(root: Path) -> Path:
    """The path of the list of collections that were adopted in place."""
    return directories.own_folder(root) / "in-place.json"


def read_in_place(root: Path) -> dict[str, list[dict[str, Any]]]:
    """The recorded files: by digest, each one's ``path``, ``size`` and ``mtime_ns``; empty if nothing can be read."""
    try:
        raw = parse(fs.read_small(in_place_list(root), _MAX_BYTES))
        files = dict(raw["files"]) if raw["version"] == 1 else {}
        return {digest: [one for one in found if isinstance(one, dict)] for digest, found in files.items()}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def write_in_place(
    root: Path, files: Mapping[str, Sequence[Mapping[str, Any]]], *, confirm: Callable[[], None]
) -> None:
    """Replace the list; the caller holds a lock on it. Raises OSError, and what ``confirm`` raises just before."""
    path = in_place_list(root)
    directories.make_directory(path.parent)
    data = json.dumps({"version": 1, "files": files}).encode("ascii")
    temp_files.write_atomically(path, data, mode=fs.PRIVATE_MODE, confirm=confirm)


def _is_unchanged(one: Mapping[str, Any]) -> bool:
    try:
        found = os.stat(one["path"])  # noqa: PTH116 - as it was noted
        return bool((found.st_size, found.st_mtime_ns) == (one["size"], one["mtime_ns"]))
    except (OSError, KeyError, TypeError, ValueError):
        return False
