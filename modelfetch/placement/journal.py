"""The journal of each consumer: which bytes modelfetch has placed, or was about to place, at which path.

It is extended and synced to disk before anything is placed. Therefore modelfetch can recognise its own files even if it
is killed before the receipt is written, or the receipt is lost: a file is its own if its bytes match a claim on the
path. The file is ``.modelfetch/journal/CONSUMER.jsonl``, one JSON object per line; a line that was truncated by a kill
is ignored.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelfetch.core import directories, fs, temp_files
from modelfetch.core.digest import Digest
from modelfetch.core.json_fields import known_fields, texts

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping
    from pathlib import Path

_MAX_BYTES = 512 * 2**20
_LONGEST_LINE = 2**20
"""In bytes; a manifest, and so an address in it, is not longer."""
_KEPT_PER_PATH = 4
_COMPACT_FROM = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Bytes that modelfetch places: their sha256 and size (None: unknown), or a symlink's target.

    ``uri`` and ``model`` identify their origin.
    """

    digest: str | None
    target: str | None = None
    size: int | None = None
    uri: str | None = None
    model: str = ""


def path_of(root: Path, consumer: str) -> Path:
    """The path of a consumer's journal."""
    return directories.own_folder(root) / "journal" / f"{consumer}.jsonl"


def read(root: Path, consumer: str) -> dict[str, tuple[Claim, ...]]:
    """Read all claims by path, oldest first; empty if there is no journal or it can't be read."""
    try:
        data = fs.read_small(path_of(root, consumer), _MAX_BYTES)
    except OSError:
        return {}
    claims: dict[str, list[Claim]] = {}
    for line in data.splitlines():
        try:
            if len(line) > _LONGEST_LINE:
                continue
            raw = json.loads(line)
            path = raw.pop("path")
            claim = _claim(raw)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue
        if isinstance(path, str):
            claims.setdefault(path, []).append(claim)
    return {path: tuple(known) for path, known in claims.items()}


def _claim(raw: dict[str, Any]) -> Claim:
    claim = Claim(**raw)
    if claim.digest is not None:
        Digest.parse(claim.digest)
    texts((claim.target or "", claim.uri or "", claim.model))
    if not isinstance(claim.size, int | None):
        raise TypeError("the size of a claim is not a number")
    return claim


def append(root: Path, consumer: str, claims: Mapping[str, Claim]) -> None:
    """Append claims durably; the caller holds the consumer's lock. Raises OSError."""
    path = path_of(root, consumer)
    directories.make_directory(path.parent)
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, fs.PRIVATE_MODE), "r+b", buffering=0) as file:
        fd = file.fileno()
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise FileExistsError(errno.EEXIST, "not a regular file", str(path))
        size = os.fstat(fd).st_size
        # A line that was truncated by a kill must not corrupt the next one.
        cut = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
        fs.write_all(fd, (b"\n" if cut else b"") + _dump(claims.items()))
        fs.finish_file(fd, mode=fs.PRIVATE_MODE)
    if size == 0:
        directories.sync_directory(path.parent)


def compact(root: Path, consumer: str, claims: Mapping[str, tuple[Claim, ...]], *, confirm: Callable[[], None]) -> None:
    """Compact a journal that has grown to several times its content. Raises OSError, and what ``confirm`` raises."""
    path = path_of(root, consumer)
    try:
        size = path.lstat().st_size
    except FileNotFoundError:
        return
    if size < _COMPACT_FROM:
        return
    data = _dump((name, claim) for name, known in claims.items() for claim in _distinct(known)[-_KEPT_PER_PATH:])
    if len(data) * 2 < size:
        temp_files.write_atomically(path, data, mode=fs.PRIVATE_MODE, confirm=confirm)


def forget(root: Path, consumer: str, paths: Container[str], *, confirm: Callable[[], None]) -> None:
    """Drop the claims on removed paths: a file that appears there later is not modelfetch's. Raises as `compact`."""
    claims = read(root, consumer)
    left = {path: known for path, known in claims.items() if path not in paths}
    if len(left) < len(claims):
        data = _dump((name, claim) for name, known in left.items() for claim in known)
        temp_files.write_atomically(path_of(root, consumer), data, mode=fs.PRIVATE_MODE, confirm=confirm)


def _distinct(claims: tuple[Claim, ...]) -> list[Claim]:
    """Deduplicate claims, keeping the last occurrence of each."""
    return list(dict.fromkeys(reversed(claims)))[::-1]


def _dump(claims: Iterable[tuple[str, Claim]]) -> bytes:
    lines = (json.dumps({"path": path, "digest": None, **known_fields(claim)}) for path, claim in claims)
    return "".join(f"{line}\n" for line in lines).encode("ascii")
