"""Check relative paths: below their folder and valid on every system."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

_DRIVE = re.compile(r"[A-Za-z]:")
_UNUSABLE = re.compile(
    "[\\\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"
)  # backslash, controls, line ends, surrogates
_MAX_PART = 255  # bytes; NAME_MAX of every Linux file system
_MAX_PATH = 1024  # bytes; well below PATH_MAX, whatever the root is
_MAX_ENCODED = 4  # bytes of a character in UTF-8
_SPECIAL = frozenset(("", ".", ".."))


def check_relative(path: str) -> str:
    """Return ``path`` if it is relative, stays below its folder and names a file.

    Raises:
        ValueError: It is empty, absolute, has a ``..``, ``.`` or empty part, a backslash, a drive, a control
            character, or is too long.
    """
    if not path:
        raise ValueError("expected a relative path, found an empty one")
    if path.startswith("/") or _DRIVE.match(path):
        raise ValueError(f"expected a relative path, found the absolute {_shown(path)}")
    if _UNUSABLE.search(path):
        raise ValueError(f"expected a path without backslashes and control characters, found {_shown(path)}")
    parts = path.split("/")
    if not _SPECIAL.isdisjoint(parts):
        raise ValueError(f"expected a path that stays below its folder (no empty, . or .. part), found {_shown(path)}")
    if len(path) * _MAX_ENCODED <= _MAX_PART:
        return path  # this is called for every file several times
    encoded = path.encode()
    if len(encoded) > _MAX_PATH or max(map(len, encoded.split(b"/"))) > _MAX_PART:
        raise ValueError(f"expected parts of at most {_MAX_PART} bytes and {_MAX_PATH} in all, found {_shown(path)}…")
    return path


def _shown(path: str) -> str:
    return repr(path[:120])


def collision_key(path: str) -> str:
    """Return a key that is equal for paths that are one file on case-insensitive or Unicode-normalising disks."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def parents(path: str) -> tuple[str, ...]:
    """Return the folders above a path, the nearest last."""
    parts = path.split("/")
    return tuple("/".join(parts[:end]) for end in range(1, len(parts)))


def below_a_file(paths: Collection[str]) -> str | None:
    """Return a path that needs another of the paths of files to be a folder; None if there is none."""
    return next((path for path in paths if any(parent in paths for parent in parents(path))), None)


def safe_name(name: str) -> str | None:
    """Make a server's filename safe: its last part without forbidden characters; None if nothing is left."""
    last = re.split(r"[/\\]", name)[-1]
    kept = "".join(c for c in last if c.isprintable() and c not in '<>:"|?*').strip(" .")
    try:
        return check_relative(kept)
    except ValueError:
        return None
