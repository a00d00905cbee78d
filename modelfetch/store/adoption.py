"""Add an existing file to the store without changing its mode, owner or mtime."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from modelfetch.core.fs import BLOB_MODE, copy_bytes, open_regular, try_reflink
from modelfetch.core.os_errors import translate
from modelfetch.errors import DestinationError, IntegrityError
from modelfetch.store.adopted import mark_adopted
from modelfetch.store.chunks import hash_open_file

if TYPE_CHECKING:
    from pathlib import Path

    from modelfetch.core.digest import Digest
    from modelfetch.store.store import Blob, Store


_LINK_FROM = 64 * 1024


class LinkImpossibleError(DestinationError):
    """The store can't share a file's bytes: it is on another file system, or links are refused."""


def adopt_file(store: Store, path: Path, *, digest: Digest | None = None, copy: bool = False) -> tuple[Blob, str]:
    """Store a file as a blob: with a reflink, else a hardlink, else, if allowed, a copy.

    Args:
        store: The store.
        path: The file; a symlink is followed.
        digest: The required digest, if known.
        copy: Whether it may be copied if its bytes can't be shared.

    Returns:
        The blob, and reflink, link, copy, or present (the store had it already).

    Raises:
        LinkImpossibleError: Its bytes can't be shared, and copying is not allowed.
        IntegrityError: It has another digest, or it changed while it was read.
        DestinationError, DiskError: It can't be read or stored.
    """
    algorithms = ["sha256"] if digest is None else ["sha256", digest.algorithm]
    temporary = store.tmp()
    try:
        how = _link_or_copy(path.resolve(), temporary, copy=copy)
        fd = open_regular(temporary)
        try:
            before = os.fstat(fd)
            digests, chunks = hash_open_file(fd, *dict.fromkeys(algorithms))
            if digest is not None and digests[digest.algorithm] != digest:
                raise IntegrityError(f"{path} has {digests[digest.algorithm]}, expected {digest}")
            found = store.find(digests["sha256"])
            if found is not None:
                return found, "present"
            after = os.fstat(fd)
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise IntegrityError(f"{path} changed while it was read", code="size-mismatch")
            if how == "link":
                mark_adopted(store.path, digests["sha256"])
            mode = None if how == "link" else BLOB_MODE
            return store.admit(temporary, fd, digests, chunks, state=before, mode=mode), how
        finally:
            os.close(fd)
    except OSError as error:
        raise translate(error, path, doing="adopting") from error
    finally:
        temporary.unlink(missing_ok=True)


def _link_or_copy(source: Path, target: Path, *, copy: bool) -> str:
    if try_reflink(source, target):
        return "reflink"
    if source.stat().st_size < _LINK_FROM:  # its service may rewrite it in place
        copy_bytes(source, target)
        return "copy"
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if not copy:
            raise LinkImpossibleError(
                f"{source} can't be shared with {target.parent} ({error.strerror})",
                hint="`modelfetch adopt --in-place` records where it is; `--store DIR` puts the store beside it",
            ) from error
    else:
        return "link"
    copy_bytes(source, target)
    return "copy"
