"""The output of a layout: paths below ROOT, and how each is created."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelfetch.core.artifact import Artifact


class PlacementMethod(StrEnum):
    """How a placement is created.

    ``FILE`` has a blob's bytes: linked if that works and the file is large enough, otherwise copied. ``COPY`` is always
    copied, because the service may rewrite it or refuses links. ``SYMLINK`` points to another path of the same
    consumer. ``TEXT`` is a small file with bytes that the layout supplies. ``UNPACK`` is a folder that an archive is
    unpacked into.
    """

    FILE = "file"
    COPY = "copy"
    SYMLINK = "symlink"
    TEXT = "text"
    UNPACK = "unpack"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """One path of a consumer, relative to ROOT, with POSIX separators.

    ``artifact`` is the file to place there (for a symlink: the file that it leads to), None for a text.
    ``target`` is a symlink's target, ``text`` the bytes of a text.
    """

    path: str
    how: PlacementMethod
    artifact: Artifact | None = None
    target: str | None = None
    text: bytes | None = None
