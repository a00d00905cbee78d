"""The files that modelfetch keeps for itself, and their modes.

A file that may hold something private, such as an address with a query or the name of a private repository, is for its
owner only. What other users need is readable for all: `status` by another user, several containers on one store. No
file holds a credential, whatever its mode. Files in ``displaced`` are the user's and keep their mode.
`docs/concepts/on-disk.md` has this table for users.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

PUBLIC, PRIVATE, READ_ONLY = 0o644, 0o600, 0o444


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnFile:
    """A kind of file.

    Attributes:
        paths: Globs of its paths below ``.modelfetch``, a store or the user's cache; ``*`` crosses folders.
        mode: Its mode, whatever the umask.
        if_private: Its mode if it holds something private, where not every one does.
    """

    paths: tuple[str, ...]
    mode: int
    if_private: int | None = None


RECEIPT = OwnFile(paths=("receipts/*.json",), mode=PUBLIC, if_private=PRIVATE)
"""Where each file of a consumer came from; private if one of the addresses has a query."""
JOURNAL = OwnFile(paths=("journal/*.jsonl",), mode=PRIVATE)
"""Files that were placed or were about to be placed, with the address of each."""
IN_PLACE = OwnFile(paths=("in-place.json",), mode=PRIVATE)
"""Where on this machine files are that were adopted in place."""
CONSUMER_DIR = OwnFile(paths=("consumer-dirs/*.json",), mode=PUBLIC)
"""The folder outside ROOT that a consumer's files are placed in."""
NOTE = OwnFile(paths=("noop/*",), mode=PRIVATE)
"""Keyed hashes of the settings of a `sync`, and each user's key."""
CHECKS = OwnFile(paths=("checks.json",), mode=PUBLIC)
"""Digests and paths, and when each was verified."""
UNPLACED = OwnFile(paths=("tmp/*",), mode=PRIVATE)
"""Files that are not in place yet."""
RECORD = OwnFile(paths=("blobs/sha256/*.json",), mode=PUBLIC)
"""A blob's size, mtime and checksums."""
BLOB = OwnFile(paths=("blobs/sha256/*",), mode=READ_ONLY)
"""Verified bytes; one that is a user's own file, adopted in place, keeps its mode."""
NAME = OwnFile(paths=("blobs/git-sha1/*", "blobs/name/*", "blobs/blake3/*", "adopted/*", "CACHEDIR.TAG"), mode=PUBLIC)
"""Digests, and hashes of addresses."""
PARTIAL = OwnFile(paths=("ingest/*.part",), mode=PUBLIC)
"""Bytes of a download that is not complete."""
PARTIAL_JOURNAL = OwnFile(paths=("ingest/*.json",), mode=PRIVATE)
"""The address that a partial download came from, and its checksums."""
LOCK = OwnFile(paths=("locks/*",), mode=PUBLIC)
"""The owner's process and machine; every container that uses the store reads it."""
CACHED = OwnFile(paths=("files/*",), mode=READ_ONLY)
"""Links to blobs under their own names, in the user's cache."""
CACHE_INDEX = OwnFile(paths=("index/*.json",), mode=PRIVATE)
"""The address of each file in the user's cache."""

OWN_FILES = (
    RECEIPT,
    JOURNAL,
    IN_PLACE,
    CONSUMER_DIR,
    NOTE,
    CHECKS,
    UNPLACED,
    RECORD,
    BLOB,
    NAME,
    PARTIAL,
    PARTIAL_JOURNAL,
    LOCK,
    CACHED,
    CACHE_INDEX,
)


def own_file(path: str) -> OwnFile | None:
    """Return the kind of a file by its path below ``.modelfetch``, a store or the cache; None for an unknown one."""
    return next((kind for kind in OWN_FILES if any(fnmatchcase(path, glob) for glob in kind.paths)), None)
