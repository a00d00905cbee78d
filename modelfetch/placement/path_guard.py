"""No placement ever leads outside ROOT: the last check before a path is touched."""

from __future__ import annotations

import os
from pathlib import Path

from modelfetch.errors import DestinationError
from modelfetch.manifest.paths import check_relative


def destination(root: Path, path: str) -> Path:
    """The path of a placement below ``root`` (which may itself be a symlink).

    Raises:
        DestinationError: ``outside-root``: the path is no safe relative one, or a folder on the way leads out of ROOT.
    """
    try:
        check_relative(path)
    except ValueError as error:
        raise DestinationError(f"{path[:200]!r} can't be placed: {error}", code="outside-root") from None
    base = os.path.realpath(root)
    parent = os.path.realpath(Path(base, path).parent)
    if parent != base and not parent.startswith(base.rstrip("/") + "/"):
        raise DestinationError(
            f"{root / path}: its folder leads to {parent}, outside {base}",
            code="outside-root",
            hint="make ROOT itself the symlink, or replace the folder by a real one",
        )
    return root / path
