"""Add an existing file to the store."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from modelfetch.core.fs import BLOB_MODE, closing, open_regular, try_reflink
from modelfetch.core.os_errors import translate
from modelfetch.errors import DestinationError, IntegrityError
from modelfetch.store.adopted import mark_adopted
from modelfetch.store.chunks import hash_open_file, read_into

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from modelfetch.core.digest import Digest
    from modelfetch.store.store import Blob, Store

LINK_AT_LEAST = 64 * 1024
"""Size in bytes below which files are copied, never linked, since a service may rewrite them in place."""


class _Hashed(NamedTuple):
    """What was read of a file: its state before, its digests by algorithm, the xxh3 of each chunk."""

    state: os.stat_result
    digests: dict[str, Digest]
    chunks: tuple[str, ...]


class LinkImpossibleError(DestinationError):
    """The store can't share a file's bytes: it is on another file system, or links are refused."""


def add_file(
    store: Store,
    path: Path,
    *,
    digest: Digest | None = None,
    keep_mode: bool = False,
    copy: bool = True,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[Blob, str]:
    """Store a file as a blob; the file itself remains.

    Its blocks are shared if the file system can. Otherwise a large file is hardlinked. It then becomes read-only like
    any blob, since writing to it would change the files of all services, or is copied if its mode can't be changed.

    Args:
        store: The store.
        path: The file; a symlink is followed.
        digest: The required digest, if known.
        keep_mode: Leave mode, owner and mtime of a linked file as they are: it belongs to the user (adopted).
        copy: Whether a large file may be copied if its bytes can't be shared.
        advance: Called with each number of newly hashed bytes; what it raises ends the work.

    Returns:
        The blob, and reflink, link, copy, or present (the store had it already).

    Raises:
        LinkImpossibleError: Its bytes can't be shared, and copying is not allowed.
        IntegrityError: It has another digest, or it changed while it was read.
        DestinationError, DiskError: It can't be read or stored.
    """
    temporary = store.tmp()
    try:
        with closing(open_regular(path.resolve())) as source:
            how = _link_or_copy(path.resolve(), source, temporary, copy=copy)
            with closing(open_regular(temporary)) as taken:
                hashed = _hash(path, taken, digest, advance)
                if found := store.find(hashed.digests["sha256"]):
                    return found, "present"
                adopted = how == "link" and keep_mode
                if how != "link" or adopted or _make_read_only(taken):
                    return _admit(store, path, temporary, taken, hashed, adopted=adopted), how
            temporary.unlink()
            return _admit_copy(store, source, temporary, hashed), "copy"
    except OSError as error:
        raise translate(error, path, doing="storing") from error
    finally:
        temporary.unlink(missing_ok=True)


def _link_or_copy(path: Path, source: int, target: Path, *, copy: bool) -> str:
    """Give the bytes of an open file a new name: by sharing blocks, else with a link, else with a copy."""
    if try_reflink(path, target):
        return "reflink"
    state = os.fstat(source)
    if state.st_size >= LINK_AT_LEAST:
        try:
            os.link(path, target, follow_symlinks=False)
            linked = target.lstat()
            # gocryptfs 2.3 gives a new link another size for a second (source: its issue 724).
            if os.path.samestat(linked, state) and linked.st_size == state.st_size:
                return "link"
        except OSError as error:
            if not copy:
                raise LinkImpossibleError(
                    f"{path} can't be shared with {target.parent} ({error.strerror})",
                    hint="`modelfetch adopt --in-place` records where it is; `--store DIR` puts the store next to it",
                ) from error
        target.unlink(missing_ok=True)
    _copy(source, target)
    return "copy"


def _copy(source: int, target: Path) -> None:
    with target.open("xb") as write:
        read_into(source, 0, os.fstat(source).st_size, write.write)


def _hash(path: Path, taken: int, wanted: Digest | None, advance: Callable[[int], None]) -> _Hashed:
    """Hash what was taken of a file; raises IntegrityError if it is not what is wanted."""
    algorithms = dict.fromkeys(("sha256", wanted.algorithm if wanted else "sha256"))
    state = os.fstat(taken)
    digests, chunks = hash_open_file(taken, *algorithms, advance=advance)
    if wanted is not None and digests[wanted.algorithm] != wanted:
        raise IntegrityError(f"{path} has {digests[wanted.algorithm]}, expected {wanted}")
    return _Hashed(state, digests, chunks)


def _admit(store: Store, path: Path, temporary: Path, taken: int, hashed: _Hashed, *, adopted: bool) -> Blob:
    """Store a hashed file; an adopted one keeps its mode and is marked as its user's."""
    before, after = hashed.state, os.fstat(taken)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise IntegrityError(f"{path} changed while it was read", code="size-mismatch")
    if adopted:
        mark_adopted(store.path, hashed.digests["sha256"])
    mode = None if adopted else BLOB_MODE
    return store.admit(temporary, taken, hashed.digests, hashed.chunks, state=before, mode=mode)


def _admit_copy(store: Store, source: int, temporary: Path, hashed: _Hashed) -> Blob:
    """Store a copy of a hashed file whose mode can't be changed."""
    _copy(source, temporary)
    with closing(open_regular(temporary)) as fd:
        if hash_open_file(fd, "sha256")[0]["sha256"] != hashed.digests["sha256"]:
            raise IntegrityError("it changed while it was read", code="size-mismatch")
        return store.admit(temporary, fd, hashed.digests, hashed.chunks)


def _make_read_only(fd: int) -> bool:
    """Make a file with other names read-only; False if this process may not change its mode."""
    try:
        os.fchmod(fd, BLOB_MODE)
    except OSError:
        return False
    return True
