"""What is to be done about one path: pure decisions from the receipt, the disk and what is wanted."""

from __future__ import annotations

import stat as statmod
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from modelfetch.core.digest import Digest
    from modelfetch.placement.receipts import Entry

PENDING = -1
"""The ``mtime_ns`` of an entry that was written before its file: a crash between the two leaves the file ours."""


class State(StrEnum):
    """How a path stands against its receipt and what is wanted, by `os.lstat` alone."""

    READY = "ready"  # the receipt's bytes, unchanged, and they are the wanted ones
    MISSING = "missing"  # nothing is there
    OUTDATED = "outdated"  # the receipt's bytes, unchanged, but others are wanted now
    CHANGED = "changed"  # a receipt names it, but it is not in the state that the receipt has
    FOREIGN = "foreign"  # something is there that no receipt names


class Action(StrEnum):
    """What to do about a path."""

    KEEP = "keep"  # right bytes: only the receipt may need a word
    CREATE = "create"
    REPLACE = "replace"  # ours and unchanged: nothing is lost
    DISPLACE = "displace"  # not what we placed: move it aside, then place
    REFUSE = "refuse"  # not ours and not the right bytes: untouched, exit 73


@dataclass(frozen=True, slots=True, kw_only=True)
class PathStat:
    """What lies at a path: its kind, size in bytes, time of change, and a symlink's text."""

    size: int
    mtime_ns: int
    inode: tuple[int, int]
    regular: bool
    target: str | None = None


def lstat_path(path: Path) -> PathStat | None:
    """What lies at ``path``; None for nothing. A symlink is not followed.

    Raises:
        OSError: The path can't be examined.
    """
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    link = statmod.S_ISLNK(found.st_mode)
    return PathStat(
        size=found.st_size,
        mtime_ns=found.st_mtime_ns,
        inode=(found.st_dev, found.st_ino),
        regular=statmod.S_ISREG(found.st_mode),
        target=str(path.readlink()) if link else None,
    )


def state_of_file(entry: Entry | None, seen: PathStat | None, wanted: Digest | None, uri: str | None) -> State:
    """The state of a regular file that shall hold ``wanted`` (None: whatever ``uri`` gave when it was fetched)."""
    if seen is None:
        return State.MISSING
    if entry is None:
        return State.FOREIGN
    unchanged = seen.regular and (seen.size, seen.mtime_ns) == (entry.size, entry.mtime_ns)
    if not unchanged or entry.digest is None:
        return State.CHANGED
    if wanted is None:
        return State.READY if entry.uri == uri else State.OUTDATED
    if entry.digest == str(wanted):
        return State.READY
    return State.OUTDATED if wanted.algorithm == "sha256" else State.CHANGED


def state_of_symlink(entry: Entry | None, seen: PathStat | None, target: str) -> State:
    """The state of a symlink that shall say ``target``."""
    if seen is None:
        return State.MISSING
    if entry is None:
        return State.FOREIGN
    if seen.target == target:
        return State.READY if entry.target == target else State.CHANGED
    return State.OUTDATED if seen.target is not None and seen.target == entry.target else State.CHANGED


def act_unhashed(state: State, entry: Entry | None) -> Action | None:
    """What to do where the state alone tells; None where the bytes must be compared first."""
    if state is State.READY:
        return Action.KEEP
    if state is State.MISSING:
        return Action.CREATE
    if state is State.OUTDATED and entry is not None:
        return Action.REPLACE if entry.made else Action.DISPLACE
    return None


def act_compared(entry: Entry | None, *, equal: bool) -> Action:
    """What to do once it is known whether the right bytes are there."""
    if equal:
        return Action.KEEP
    if entry is None or entry.mtime_ns == PENDING:
        return Action.REFUSE
    return Action.DISPLACE
