"""Deduplicate equal files of several programs: each becomes a link to one blob.

A file is replaced atomically by a hardlink (or a reflink with the file's mode, owner and time) of a blob with the same
digest. The old file gets a temporary name and is removed last, so a kill loses nothing. The next run removes what a
killed one left, if the store has its bytes.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelfetch.care.collections import CollectionFile, find_candidates, kind_of
from modelfetch.care.hashing import Hashed, hash_files, hash_one
from modelfetch.core import directories, fs, os_errors
from modelfetch.core.digest import Digest
from modelfetch.core.events import Notice
from modelfetch.core.report import ArtifactReport, ModelReport
from modelfetch.errors import ModelfetchError, UsageError
from modelfetch.pipeline.preflight import check_folders
from modelfetch.store.ingest import add_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from modelfetch.core.report import Report
    from modelfetch.pipeline.session import Session
    from modelfetch.store import Blob

ALLOWED = ("Hugging Face cache", "ComfyUI", "AUTOMATIC1111 or Forge", "Stability Matrix", "LM Studio")
"""The collections whose programs never modify an existing model."""
_MIN_SIZE = 1 << 20
"""Minimum size in bytes: smaller files save nothing, and programs rewrite some of them."""
_OLD = re.compile(r"\.modelfetch-dedupe-(?P<pid>\d+)-[0-9a-f]+\.old")
"""The temporary name of an old file. No other command sweeps it, for it may hold the only copy of its bytes."""
_NEEDED_FOR = 3600.0
"""Seconds after which no process needs an old file any more; usually it is milliseconds."""
_OTHER_READERS = "another user owns the file in the store, or its mode differs"
_NOT_SHARED = "its bytes can't be shared with the store"
State = tuple[tuple[int, int], int, int]
"""Inode, size and mtime of a file."""
_WRITTEN_TO = "it or the file to keep was written to meanwhile"


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate:
    """A file whose bytes the store has or will have: the action (linked, would-link, kept), and a reason if kept."""

    file: Path
    digest: str
    size: int
    result: str
    reason: str | None = None
    candidate: CollectionFile | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Deduped:
    """All duplicates."""

    duplicates: tuple[Duplicate, ...]
    applied: bool

    @property
    def freed(self) -> int:
        """The number of bytes that were, or would be, freed: those of files all of whose links are replaced."""
        replaced = [one.candidate for one in self.duplicates if one.candidate is not None and one.result != "kept"]
        links = Counter(one.inode for one in replaced)
        return sum({one.inode: one.size for one in replaced if links[one.inode] >= one.links}.values())


def dedupe_folders(folders: Sequence[Path], session: Session, *, apply: bool = False) -> tuple[Report, Deduped]:
    """Find equal files below the given folders and in the store, and deduplicate them; blocks.

    Raises:
        UsageError: A folder does not exist, or its program does not allow deduplication.
        DestinationError, DiskError: A folder can't be read, or the store can't be written.
        InterruptedSync: It was cancelled.
    """
    check_folders(session)
    for folder in folders:
        _require_allowed(folder)
    if apply:
        session.block_removals(make=True)
    candidates = list(_without_outside([one for folder in folders for one in _candidates(folder)], folders, session))
    groups = _equal_files(candidates, session)
    duplicates = list(_remove_leftovers(candidates, session)) if apply else []
    errors: list[ModelfetchError] = []
    for digest, files in groups.items():
        session.cancel.check()
        try:
            blob = _blob(digest, files, session, apply=apply)
            keeper = blob.path if blob else files[0].file
            inode = fs.inode_of(keeper.lstat())
            kept = next((_hashed_state(one) for one in files if one.inode == inode), _state(keeper.lstat()))
            for one in files:
                if one.inode != inode:
                    duplicates.append(_replace(one, digest, keeper, kept, apply=apply))
        except ModelfetchError as error:
            errors.append(error)
        except OSError as error:
            errors.append(os_errors.translate(error, files[0].file, doing="deduplicating"))
    found = Deduped(duplicates=tuple(duplicates), applied=apply)
    return session.report(map(_model_report, duplicates), errors), found


def _model_report(one: Duplicate) -> ModelReport:
    action = {"linked": "adopted", "would-link": "present", "kept": "skipped"}[one.result]
    artifact = ArtifactReport(uri=one.file.as_uri(), digest=one.digest, size=one.size, action=action)
    return ModelReport(name=one.file.name, ok=True, artifacts=(artifact,))


def _require_allowed(folder: Path) -> None:
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder")
    kind = kind_of(folder)
    if kind not in ALLOWED:
        raise UsageError(
            f"{folder} can't be deduplicated: it is not a {', '.join(ALLOWED[:-1])} or {ALLOWED[-1]} folder",
            hint="its program may rewrite its files; `modelfetch adopt` takes them without changing them",
        )


def _candidates(folder: Path) -> Iterator[CollectionFile]:
    with os_errors.translated(folder, doing="reading"):
        yield from (one for one in find_candidates(folder, every_link=True) if one.size >= _MIN_SIZE)


def _without_outside(
    candidates: Sequence[CollectionFile], folders: Sequence[Path], session: Session
) -> Iterator[CollectionFile]:
    """Leave out files that links lead to outside of the folders: they may be another program's, which rewrites them."""
    tops = [os.path.realpath(folder) for folder in folders]
    outside = 0
    for one in candidates:
        if any(one.file.is_relative_to(top) for top in tops):
            yield one
        else:
            outside += 1
    if outside:
        message = f"files left out, because links lead to them outside of the named folders: {outside}"
        session.sink(Notice(level="warning", message=message, hint="name the folders in which they are, too"))


def _equal_files(candidates: Sequence[CollectionFile], session: Session) -> dict[str, list[CollectionFile]]:
    """Group files by digest if the store or another file has the same one; only files of equal size are hashed."""
    sizes: dict[int, dict[tuple[int, int], dict[Path, CollectionFile]]] = defaultdict(lambda: defaultdict(dict))
    for one in candidates:
        sizes[one.size][one.inode][one.file] = one
    stored: dict[int, set[str]] = defaultdict(set)
    for blob in session.store.blobs():
        stored[blob.size].add(str(blob.digest))
    files = [
        list(links.values())
        for size, found in sizes.items()
        if len(found) > 1 or size in stored
        for links in found.values()
    ]
    by_file = {links[0].file: links for links in files}
    groups: dict[str, list[list[CollectionFile]]] = defaultdict(list)

    def done(result: Hashed) -> None:
        links = by_file[result.file]
        if result.digest is not None and (result.size, result.mtime_ns) == (links[0].size, links[0].mtime_ns):
            groups[result.digest].append(links)

    todo = [(links[0].file, links[0].size, None) for links in files]
    hash_files(todo, sink=session.sink, cancel=session.cancel, done=done)
    return {
        digest: sorted((one for links in found for one in links), key=lambda one: str(one.file))
        for digest, found in groups.items()
        if len(found) > 1 or digest in stored[found[0][0].size]
    }


def _blob(digest: str, files: Sequence[CollectionFile], session: Session, *, apply: bool) -> Blob | None:
    """The blob to keep; created from the first file if the store does not have it."""
    blob = session.store.find(Digest.parse(digest))
    if blob is None and apply:
        blob, _ = add_file(session.store, files[0].file, digest=Digest.parse(digest), keep_mode=True, copy=False)
    return blob


def _replace(one: CollectionFile, digest: str, keeper: Path, kept: State, *, apply: bool) -> Duplicate:
    """Replace a file by a link to the one to keep, if possible; or only report what would be done."""
    reason = _put_link(one, keeper, kept) if apply else _foresee(one, keeper)
    result = "kept" if reason is not None else "linked" if apply else "would-link"
    return Duplicate(file=one.file, digest=digest, size=one.size, result=result, reason=reason, candidate=one)


def _foresee(one: CollectionFile, keeper: Path) -> str | None:
    """Why a file could not be replaced, as far as that is known without trying; None if nothing is known."""
    if fs.can_reflink(keeper, one.file.parent):
        return None
    before, kept = one.file.lstat(), keeper.lstat()
    return _NOT_SHARED if before.st_dev != kept.st_dev else _why_no_hardlink(kept, before)


def _put_link(one: CollectionFile, keeper: Path, kept: State) -> str | None:
    """Replace a file atomically by a reflink or hardlink of the one to keep; returns why not if it can't.

    Both are looked at again afterwards: if one was written to, the old file gets its name back.

    Raises:
        OSError: The folder can't be read or written.
    """
    folder = os.open(one.file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    temporary = f".modelfetch-dedupe-{os.getpid()}-{secrets.token_hex(6)}.old"
    ours = True  # whether the file of the temporary name may be removed

    def changed(name: str) -> bool:
        return not _is_as_hashed(one, os.lstat(name, dir_fd=folder)) or _state(keeper.lstat()) != kept

    try:
        before = os.lstat(one.file.name, dir_fd=folder)
        if not _is_as_hashed(one, before):
            return "it changed since it was compared"
        if (reason := _make(keeper, before, folder, temporary)) is not None:
            return reason
        if changed(one.file.name):
            return _WRITTEN_TO
        if not directories.exchange(temporary, one.file.name, source_folder=folder, target_folder=folder):
            os.rename(temporary, one.file.name, src_dir_fd=folder, dst_dir_fd=folder)
        elif changed(temporary):
            ours = False
            ours = directories.exchange(temporary, one.file.name, source_folder=folder, target_folder=folder)
            return _WRITTEN_TO
        fs.try_fsync(folder)
        return None
    finally:
        if ours:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
        os.close(folder)


def _remove_leftovers(candidates: Sequence[CollectionFile], session: Session) -> Iterator[Duplicate]:
    """Remove the old files that killed runs left; yields those that stay because the store lacks their bytes."""
    folders = dict.fromkeys(one.file.parent for one in candidates)
    for file in (file for folder in folders for file in sorted(folder.glob(".modelfetch-dedupe-*.old"))):
        match = _OLD.fullmatch(file.name)
        with contextlib.suppress(OSError):
            if match is None or _may_be_in_use(int(match["pid"]), file.lstat().st_ctime):
                continue
            found = hash_one(file, check=session.cancel.check)
            if found.digest is None:
                continue
            # An empty file is the target of a reflink that was about to be made.
            if found.size == 0 or session.store.find(Digest.parse(found.digest)) is not None:
                file.unlink()
                continue
            reason = "an interrupted run left it, and its bytes are nowhere else"
            yield Duplicate(file=file, digest=found.digest, size=found.size, result="kept", reason=reason)


def _may_be_in_use(pid: int, changed: float) -> bool:
    """Whether a running process may need its old file, which was last changed at a time in seconds.

    A pid alone does not tell: in a container, each run has the same one. A process in another container loses nothing
    if its old file goes early.
    """
    if pid == os.getpid() or changed < time.time() - _NEEDED_FOR:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _make(keeper: Path, before: os.stat_result, folder: int, temporary: str) -> str | None:
    """Create the replacement: a reflink with the old file's mode, owner and time, otherwise a hardlink.

    Args:
        keeper: The file whose bytes it has.
        before: The state of the old file.
        folder: The open folder of the old file, whatever its path leads to now.
        temporary: The replacement's name.

    Returns:
        Why it is not possible, or None.
    """
    if _reflink(keeper, before, folder, temporary):
        return None
    if (reason := _why_no_hardlink(keeper.lstat(), before)) is not None:
        return reason
    try:
        os.link(keeper, temporary, dst_dir_fd=folder, follow_symlinks=False)
    except OSError:
        return _NOT_SHARED
    return None


def _reflink(keeper: Path, before: os.stat_result, folder: int, temporary: str) -> bool:
    """Create the replacement as a reflink; by its descriptor, since others may replace its name by a link."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with (
            fs.closing(fs.open_regular(keeper)) as source,
            fs.closing(os.open(temporary, flags, fs.PRIVATE_MODE, dir_fd=folder)) as target,
        ):
            if fs.clone_descriptor(source, target):
                fs.try_chown(target, (before.st_uid, before.st_gid))
                fs.try_chmod(target, before.st_mode & 0o7777)
                os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
                return True
    except OSError as error:
        if error.errno in fs.DISK_FULL:
            raise
    with contextlib.suppress(OSError):
        os.unlink(temporary, dir_fd=folder)
    return False


def _why_no_hardlink(blob: os.stat_result, before: os.stat_result) -> str | None:
    return _OTHER_READERS if _readers(blob) != _readers(before) else None


def _readers(found: os.stat_result) -> tuple[int, int, int]:
    """Who may read a file, which a hardlink must not change; and its owner, who alone may give it another mode."""
    readable = found.st_mode & 0o444
    return found.st_uid, found.st_gid if readable & 0o040 and not readable & 0o004 else -1, readable


def _is_as_hashed(one: CollectionFile, found: os.stat_result) -> bool:
    return _state(found) == _hashed_state(one)


def _hashed_state(one: CollectionFile) -> State:
    return one.inode, one.size, one.mtime_ns


def _state(found: os.stat_result) -> State:
    return fs.inode_of(found), found.st_size, found.st_mtime_ns
