"""Marks for blobs that share their bytes with a file that existed before modelfetch.

The mark is written before the link is made. If receipts are lost, it distinguishes a user's file, which modelfetch
must not remove, from another name of a blob that modelfetch placed.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from modelfetch.core.directories import make_directory
from modelfetch.core.fs import PUBLIC_MODE, open_regular

if TYPE_CHECKING:
    from pathlib import Path

    from modelfetch.core.digest import Digest


def mark_adopted(store: Path, sha256: Digest) -> None:
    """Record that a blob has, or is about to have, a user's file as another name. Raises OSError."""
    path = _mark(store, sha256)
    make_directory(path.parent)
    os.close(open_regular(path, os.O_WRONLY | os.O_CREAT, PUBLIC_MODE))


def is_adopted(store: Path, sha256: Digest) -> bool:
    """Return whether a blob may have a user's file as another name."""
    return os.path.lexists(_mark(store, sha256))


def unmark_adopted(store: Path, sha256: Digest) -> None:
    """Remove the mark of a removed blob."""
    with contextlib.suppress(OSError):
        _mark(store, sha256).unlink(missing_ok=True)


def _mark(store: Path, sha256: Digest) -> Path:
    return store / "adopted" / sha256.hex
