"""What a layout says: paths below ROOT, and how each comes to be."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelfetch.core.artifact import Artifact


class PlacementMethod(StrEnum):
    """How a placement comes to be.

    ``FILE`` is a blob's bytes: linked where that works and the file is large enough, else copied. ``COPY`` is always
    copied, because the service may rewrite it. ``SYMLINK`` points to another path of the same consumer. ``TEXT`` is
    a small file whose bytes the layout itself knows. ``UNPACK`` is a folder that an archive is unpacked into.
    """

    FILE = "file"
    COPY = "copy"
    SYMLINK = "symlink"
    TEXT = "text"
    UNPACK = "unpack"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """One path of a consumer, relative to ROOT, with POSIX separators.

    ``artifact`` is the file whose bytes go there (for a symlink: the file that is reached through it), None for a
    text. ``target`` is a symlink's text, ``text`` the bytes of a text.
    """

    path: str
    how: PlacementMethod
    artifact: Artifact | None = None
    target: str | None = None
    text: bytes | None = None
