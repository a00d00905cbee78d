"""Decide what to do about one path, given the receipt, the disk and the wanted content. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from modelfetch.placement.rewritten import rewriting_service

if TYPE_CHECKING:
    from modelfetch.core.digest import Digest
    from modelfetch.placement.path_stat import PathStat
    from modelfetch.placement.receipts import Entry


class State(StrEnum):
    """How a path compares with its receipt and the wanted content, from stat alone."""

    READY = "ready"  # unchanged since the receipt, and the wanted bytes
    MISSING = "missing"  # nothing is there
    OUTDATED = "outdated"  # unchanged since the receipt, but other bytes are wanted now, or a copy instead of a link
    CHANGED = "changed"  # modelfetch placed something here, but not what is here now
    DAMAGED = "damaged"  # unchanged since the receipt, but the last full check found other bytes
    FOREIGN = "foreign"  # something that no receipt names is here
    REWRITTEN = "rewritten"  # placed by modelfetch and then rewritten by its service


class Action(StrEnum):
    """What to do about a path."""

    KEEP = "keep"  # right bytes: update at most the receipt
    CREATE = "create"
    REPLACE = "replace"  # placed by modelfetch and unchanged: nothing is lost
    DISPLACE = "displace"  # not the bytes that modelfetch placed: move them aside, then place
    REFUSE = "refuse"  # not placed by modelfetch and not the right bytes: leave it untouched, exit 73


def fits(entry: Entry, seen: PathStat) -> bool:
    """Whether a path is in the state that its receipt records."""
    if entry.digest is None:
        return seen.target is not None and seen.target == entry.target
    return (seen.regular, seen.target, seen.size, seen.mtime_ns) == (True, entry.target, entry.size, entry.mtime_ns)


def is_rewritten(path: str, entry: Entry | None, seen: PathStat | None) -> bool:
    """Whether a file differs from what was placed because its service rewrites it."""
    if entry is None or seen is None or not entry.made or fits(entry, seen):
        return False
    return seen.regular and seen.target is None and seen.size > 0 and rewriting_service(path) is not None


def state_of_file(entry: Entry | None, seen: PathStat | None, wanted: Digest | None, uri: str | None) -> State:
    """The state of a file that should contain ``wanted`` (None: whatever ``uri`` returned when it was fetched)."""
    if seen is None:
        return State.MISSING
    if entry is None:
        return State.FOREIGN
    if entry.digest is None or not fits(entry, seen):
        return State.CHANGED
    if wanted is None:
        return State.READY if entry.uri == uri else State.OUTDATED
    if entry.digest == str(wanted):
        return State.READY
    return State.OUTDATED if wanted.algorithm == "sha256" else State.CHANGED


def state_of_symlink(
    entry: Entry | None, seen: PathStat | None, target: str, wanted: Digest | None, uri: str | None
) -> State:
    """The state of a symlink to ``target``; an adopted regular file with the right bytes is accepted too."""
    if seen is None:
        return State.MISSING
    if entry is None:
        return State.FOREIGN
    if seen.target == target:
        return State.READY if entry.target == target else State.CHANGED
    if entry.digest is not None:
        return state_of_file(entry, seen, wanted, uri)
    return State.OUTDATED if fits(entry, seen) else State.CHANGED


def action_before_hashing(state: State, entry: Entry | None) -> Action | None:
    """The action, if the state alone determines it; None if the bytes must be compared first."""
    if state in (State.READY, State.REWRITTEN):
        return Action.KEEP
    if state is State.MISSING:
        return Action.CREATE
    if state is State.OUTDATED and entry is not None:
        return Action.REPLACE if entry.made else Action.DISPLACE
    return None


def action_after_hashing(state: State, entry: Entry | None, *, equal: bool) -> Action:
    """The action once the bytes have been compared."""
    if equal:
        return Action.KEEP
    if state is State.DAMAGED and entry is not None and entry.made:
        return Action.REPLACE
    return Action.REFUSE if entry is None else Action.DISPLACE
