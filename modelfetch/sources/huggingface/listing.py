"""Lists of a repo's files: parse a hub's untrusted entries, and keep them in little memory.

One rule for all answers of a hub. It may know less than the Hub: what is missing, or has another form than in the Hub's
API, is unknown, and is looked for elsewhere. What can't be true is refused (`ImpossibleError`): a size that no file
has, two different files of one path, a file in a file, another commit than the requested one.
"""

from __future__ import annotations

import re
import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from typing import Any, NamedTuple

from modelfetch.core.digest import Digest
from modelfetch.core.units import MAX_SIZE
from modelfetch.manifest.paths import below_a_file, check_relative
from modelfetch.sources.huggingface.errors import ImpossibleError

GIT_LIMIT = 10 * 2**20
"""Bytes of the largest file that the Hub keeps outside LFS."""
SHA1 = re.compile(r"[0-9a-fA-F]{40}\Z")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """What is known of one file of a repo: size in bytes, git blob's sha1 if it is outside LFS, sha256 if in LFS."""

    path: str
    size: int | None = None
    oid: str | None = None
    sha256: str | None = None

    @property
    def digest(self) -> Digest | None:
        """The digest of the file's content."""
        if self.sha256 is not None:
            return Digest("sha256", self.sha256)
        return Digest("git-sha1", self.oid) if self.oid is not None and self.size is not None else None

    def updated(self, other: HubFile) -> HubFile:
        """Return this with all that ``other`` knows."""
        return replace(self, **{name: value for name, value in asdict(other).items() if value is not None})


class Keys(NamedTuple):
    """The names of values in a list's entries; ``sha256`` is inside of ``lfs``."""

    path: str
    oid: str
    sha256: str


SIBLINGS = Keys("rfilename", "blobId", "sha256")
TREE = Keys("path", "oid", "oid")


def read_files(entries: Iterable[Any], keys: Keys) -> dict[str, HubFile | None]:
    """Parse a list of files; the value of an unsafe path is None.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: It is not a list of files with names.
        ImpossibleError: It can't be true.
    """
    files: dict[str, HubFile | None] = {}
    for entry in entries:
        if entry.get("type", "file") != "file":
            continue
        path = entry[keys.path]
        if not isinstance(path, str):
            raise TypeError("a path that is not a string")
        file = _read_file(path, entry, keys) if _is_safe(path) else None
        if files.setdefault(path, file) != file:
            raise ImpossibleError(f"the hub lists two different files named {path[:120]!r}")
    if (path := below_a_file(files)) is not None:
        raise ImpossibleError(f"the hub lists {path[:120]!r} in a folder that is a file")
    return files


def read_commit(value: Any, revision: str) -> str | None:
    """Return the commit that a hub names for a revision; None if it does not name one.

    Raises:
        ImpossibleError: The revision is another commit.
    """
    commit = value.lower() if isinstance(value, str) and SHA1.match(value) else None
    requested = revision.lower() if SHA1.match(revision) else None
    if requested and commit and requested != commit:
        raise ImpossibleError(f"the hub answers with commit {commit[:12]} for {requested[:12]}")
    return requested or commit


def read_hash(value: Any, form: re.Pattern[str] = _SHA256) -> str | None:
    """Return a hash in lower case; None if it is not one."""
    return value.lower() if isinstance(value, str) and form.match(value) else None


def read_size(value: Any) -> int | None:
    """Return a size in bytes; None if it is not a number.

    Raises:
        ImpossibleError: No file has this size.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    if not 0 <= value <= MAX_SIZE:
        raise ImpossibleError(f"the hub lists a file of {str(value)[:30]} bytes")
    return value


def _read_file(path: str, entry: Mapping[str, Any], keys: Keys) -> HubFile:
    size, linked = read_size(entry.get("size")), entry.get("lfs")
    if linked and isinstance(linked, dict):
        of_content = read_size(linked.get("size"))
        return HubFile(
            path=path, size=size if of_content is None else of_content, sha256=read_hash(linked.get(keys.sha256))
        )
    # A list without `lfs` gives the oid of a large file's pointer, not of its content.
    is_git = not linked and (size is None or size < GIT_LIMIT)
    return HubFile(path=path, size=size, oid=read_hash(entry.get(keys.oid), SHA1) if is_git else None)


def _is_safe(path: str) -> bool:
    try:
        check_relative(path)
    except ValueError:
        return False
    return True


_ROW = struct.Struct("<q20s32sB")
_HAS_OID, _HAS_SHA256, _UNSAFE = 1, 2, 4


class Listing(Mapping[str, "HubFile | None"]):
    """The files of a repo by path, sorted, in some 100 bytes each: a dictionary of them takes four times as much."""

    def __init__(self, files: Mapping[str, HubFile | None]) -> None:
        paths = sorted(files)
        names = [path.encode("utf-8", "surrogatepass") for path in paths]
        self._ends = array("q", accumulate(map(len, names)))
        self._names = b"".join(names)
        self._rows = b"".join(_pack(files[path]) for path in paths)

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[str]:
        return map(self._path, range(len(self)))

    def __getitem__(self, path: str) -> HubFile | None:
        at = bisect_left(range(len(self)), path, key=self._path)
        if at == len(self) or self._path(at) != path:
            raise KeyError(path)
        return _unpack(path, self._rows[at * _ROW.size : (at + 1) * _ROW.size])

    def _path(self, at: int) -> str:
        return self._names[self._ends[at - 1] if at else 0 : self._ends[at]].decode("utf-8", "surrogatepass")


def _pack(file: HubFile | None) -> bytes:
    if file is None:
        return _ROW.pack(-1, b"", b"", _UNSAFE)
    known = (_HAS_OID if file.oid else 0) | (_HAS_SHA256 if file.sha256 else 0)
    size = -1 if file.size is None else file.size
    return _ROW.pack(size, bytes.fromhex(file.oid or ""), bytes.fromhex(file.sha256 or ""), known)


def _unpack(path: str, row: bytes) -> HubFile | None:
    size, oid, sha256, known = _ROW.unpack(row)
    if known & _UNSAFE:
        return None
    return HubFile(
        path=path,
        size=None if size < 0 else size,
        oid=oid.hex() if known & _HAS_OID else None,
        sha256=sha256.hex() if known & _HAS_SHA256 else None,
    )
