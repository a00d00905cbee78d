"""Checks before a command works on what is on disk: ROOT exists, and the named models were placed."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from modelfetch.core.directories import require_folder_path
from modelfetch.core.similar import nearest
from modelfetch.errors import DestinationError, unusable_value
from modelfetch.pipeline.preflight import check_folders

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from modelfetch.care.inventory import Inventory
    from modelfetch.errors import ModelfetchError
    from modelfetch.pipeline.session import Session


def require_root(session: Session) -> None:
    """Check that ROOT exists: a disk that is not mounted must not pass for one that holds nothing.

    Raises:
        DestinationError: It does not, or a check of `check_folders` failed (``root-not-mounted``).
    """
    root = session.options.root
    require_folder_path(root, "--root")
    if not root.is_dir():
        raise DestinationError(
            f"{root} does not exist: is the disk or share mounted?",
            code="root-not-mounted",
            hint="mount it, name the folder that `modelfetch sync` filled (--root DIR), or run `modelfetch sync` first",
        )
    check_folders(session)


def unknown_names(
    names: Sequence[str], inventory: Inventory, *, also: Iterable[str] = (), variable: str | None = None
) -> Iterator[ModelfetchError]:
    """Yield an error (``not-placed``) for each name that neither a placed model nor one of ``also`` has.

    ``variable``: the environment variable that gave the names; None if the caller did.
    """
    known = sorted({*also, *(item.model for item in inventory.placements if item.model)})
    for name in names:
        if name not in known:
            near = nearest(name, known)
            command = shlex.join(["modelfetch", "list", "--root", str(inventory.root)])
            yield unusable_value(
                f"no model {name[:80]!r} was placed in {inventory.root}",
                variable=variable,
                code="not-placed",
                hint=f"did you mean {near!r}?" if near else f"`{command}` shows them",
            )
