"""Repair: restore the files that receipts name, transferring as few bytes as possible.

A damaged blob is set aside; chunks that still match the checksums in its record are kept, and only the rest is fetched.
The new blob is verified by its digest before it is placed, and each path is replaced atomically. Files that a user
changed are moved to ``displaced`` first.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from modelfetch.care.inventory import Condition, Item, Origin
from modelfetch.care.requested import Requested, find_requested
from modelfetch.care.verify import Finding, Verification, VerifyOptions, save_checks, verification_report, verify_files
from modelfetch.core import fs
from modelfetch.core.artifact import Artifact, Location
from modelfetch.core.digest import Digest
from modelfetch.core.directories import own_folder
from modelfetch.errors import DiskError, IntegrityError, ModelfetchError, UnreachableError
from modelfetch.pipeline.frozen import at_current_endpoints
from modelfetch.pipeline.preflight import require_space
from modelfetch.pipeline.resolve import mirrors_of
from modelfetch.placement.writer import ChangedMeanwhileError
from modelfetch.sources.base import offline_error
from modelfetch.store.checks import Check, now
from modelfetch.store.ingest import LINK_AT_LEAST
from modelfetch.store.locks.lock import repeat_if_lost

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from modelfetch.core.report import Report
    from modelfetch.manifest.model import Manifest
    from modelfetch.pipeline.session import Session
    from modelfetch.placement.path_stat import PathStat
    from modelfetch.placement.receipts import Entry, ReceiptBook
    from modelfetch.placement.root_tree import RootTree
    from modelfetch.placement.writer import ConsumerWriter, Made
    from modelfetch.store import Blob

_TRIES = 3
_REPAIRABLE = ("damaged", "missing", "changed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """The result of a repair: the updated findings, and what was fetched."""

    verification: Verification
    bytes_fetched: int = 0
    files: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bytes:
    """The right bytes of a digest: a blob, or a known small text; and how they were obtained."""

    blob: Blob | None = None
    text: bytes | None = None
    action: str = "present"
    served_by: str | None = None
    fetched: int = 0


async def check_files(
    manifests: Sequence[Manifest], session: Session, options: VerifyOptions, *, repair: bool = False
) -> tuple[Report, Repaired]:
    """Verify files, and restore those that can be restored if ``repair`` is set; raises as `verify_files`."""
    found = await asyncio.to_thread(verify_files, manifests, session, options)
    repaired = Repaired(verification=found)
    if repair:
        repaired = await repair_files(found, manifests, session, rewritten=bool(options.models))
    verification, fetched = repaired.verification, repaired.bytes_fetched
    report = await asyncio.to_thread(verification_report, verification, manifests, session, bytes_fetched=fetched)
    return report, repaired


async def repair_files(
    found: Verification, manifests: Sequence[Manifest], session: Session, *, rewritten: bool = False
) -> Repaired:
    """Restore every finding that can be restored; failures are errors in the result.

    Args:
        found: The result of `verify_files`.
        manifests: Manifests that may name mirrors.
        session: The session, used to fetch and place.
        rewritten: Whether to restore files that their service rewrote, too.
    """
    broken = [f for f in found.findings if _is_repairable(f, rewritten=rewritten)]
    if not broken:
        return Repaired(verification=found)
    await asyncio.to_thread(partial(session.block_removals, make=True))
    sources = await asyncio.to_thread(_find_sources, found, manifests, session)
    fixed: dict[int, Finding] = {}
    errors: list[ModelfetchError] = []
    fetched = 0
    try:
        for digest, findings in _by_digest(broken).items():
            session.cancel.check()
            try:
                right = await sources.get(digest) if digest else None
                fetched += right.fetched if right else 0
                await asyncio.to_thread(_restore, findings, right, session)
            except ModelfetchError as error:
                errors.append(error.about(model=findings[0].model, uri=findings[0].uri))
                continue
            action = right.action if right else "present"
            fixed |= {id(finding): replace(finding, action=action) for finding in findings}
    finally:
        errors += (await asyncio.to_thread(session.placer.finish)).values()
    await asyncio.to_thread(_note_checks, found, fixed, session)
    unread = [error for error in found.errors if error.code != "io-error"]  # what the disk can't read was replaced
    errors = [*unread, *errors] if len(fixed) == len(broken) else [*found.errors, *errors]
    now_found = tuple(fixed.get(id(finding), finding) for finding in found.findings)
    verification = replace(found, findings=now_found, errors=tuple(errors))
    return Repaired(verification=verification, bytes_fetched=fetched, files=len(fixed))


def _is_repairable(finding: Finding, *, rewritten: bool) -> bool:
    item = finding.item
    if item is None:
        return False  # never placed: `sync` does that
    if finding.action == "rewritten":
        return rewritten
    if item.origin is Origin.ADOPTED:
        return finding.action == "damaged"  # the user removed or changed it on purpose
    return finding.action in _REPAIRABLE


def _by_digest(findings: Sequence[Finding]) -> dict[str | None, list[Finding]]:
    grouped: dict[str | None, list[Finding]] = defaultdict(list)
    for finding in findings:
        grouped[finding.digest].append(finding)
    return grouped


def _find_sources(found: Verification, manifests: Sequence[Manifest], session: Session) -> _Sources:
    return _Sources(found, find_requested(manifests, session, found.inventory.receipts), session)


class _Sources:
    """Finds the right bytes of a digest: in the store, in another file on this machine, or at their original source."""

    def __init__(self, found: Verification, requested: Requested, session: Session) -> None:
        self._session = session
        requests = (*requested.paths.values(), *requested.folders.values())
        self._requests = {request.model.name: request for request in requests}
        self._damaged_inodes: set[tuple[int, int] | None] = set()
        self._good_files: dict[str | None, list[Path]] = defaultdict(list)
        for finding in found.findings:
            if finding.item and finding.action in ("damaged", "changed"):
                self._damaged_inodes.add(finding.item.inode)
            elif finding.item and finding.action == "present" and finding.item.is_placement:
                self._good_files[finding.digest].append(finding.item.file)
        self._damaged_blobs = {i.digest for i in found.inventory.blobs if i.inode in self._damaged_inodes}
        resolved = [
            (frozen.model, at_current_endpoints(frozen.resolution, session.settings))
            for receipt in found.inventory.receipts.values()
            for frozen in receipt.frozen.values()
        ]
        self._artifacts = {str(a.digest): (model, a) for model, known in resolved for a in known.artifacts if a.digest}
        # The content of a ref in a Hugging Face cache is the resolved commit.
        commits = {known.revision.encode() for _, known in resolved if known.revision}
        self._texts = {str(Digest.sha256(commit)): commit for commit in commits}

    async def get(self, digest: str) -> _Bytes:
        """Get the right bytes.

        Raises:
            ModelfetchError: They are not available.
        """
        sha256 = Digest.parse(digest)
        if (text := self._texts.get(digest)) is not None:
            return _Bytes(text=text)
        blob = await asyncio.to_thread(self._good_blob, sha256)
        if blob is not None:
            return _Bytes(blob=blob)
        known = self._artifacts.get(digest)
        name, artifact = known or ("a copy", Artifact(uri=digest, path=digest))
        artifact = replace(artifact, digest=sha256)
        files = [*self._good_files.get(digest, ()), *await asyncio.to_thread(self._files_elsewhere, artifact)]
        if known is None and not files:
            raise UnreachableError(
                f"{digest} is damaged or missing, and no receipt names its source",
                hint="name the manifest: `modelfetch verify --repair FILE`, or run `modelfetch sync`",
                permanent=True,
            )
        absolute = [file.absolute() for file in files]
        local = tuple(Location(uri=f"file://{file}", url=file.as_uri()) for file in absolute)
        artifact = replace(artifact, locations=(*local, *artifact.locations))
        mirrors = mirrors_of(self._requests[name], artifact, self._session) if name in self._requests else ()
        if self._session.settings.offline:
            mirrors = ()
            artifact = replace(artifact, locations=tuple(one for one in artifact.locations if one.is_local))
            if not artifact.locations:
                raise offline_error(artifact.uri)
        await asyncio.to_thread(require_space, self._session, artifact.size or 0)
        fetched = await self._session.engine.fetch(artifact, mirrors, label=f"{name}: {artifact.path}")
        action = "present" if (fetched.served_by or "").startswith("file:") else fetched.action
        remote = 0 if action == "present" else fetched.bytes_fetched
        return _Bytes(blob=fetched.blob, action=action, served_by=fetched.served_by, fetched=remote)

    def _good_blob(self, sha256: Digest) -> Blob | None:
        """The blob, if it is intact; a damaged one is set aside so that its intact chunks can be reused."""
        if str(sha256) in self._damaged_blobs:
            self._session.store.set_aside(sha256)
            return None
        return self._session.store.find(sha256)

    def _files_elsewhere(self, artifact: Artifact) -> list[Path]:
        """Files of other programs on this machine that are not links to a damaged one."""
        return [path for path in self._session.local_files.find(artifact) if _inode(path) not in self._damaged_inodes]


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return fs.inode_of(found)


def _restore(findings: Sequence[Finding], right: _Bytes | None, session: Session) -> None:
    """Write the right bytes to each path.

    Raises:
        ModelfetchError: One can't be written.
    """
    by_consumer: dict[str, list[Item]] = defaultdict(list)
    for finding in findings:
        if finding.item is not None and finding.item.consumer is not None:
            by_consumer[finding.item.consumer].append(finding.item)
    restored: dict[PathStat, Made] = {}
    for consumer, items in by_consumer.items():

        def work(consumer: str = consumer, items: Sequence[Item] = items) -> None:
            with session.placer.locked(consumer, doing="restoring in") as (book, writer):
                _restore_items(items, right, book, writer, restored)

        try:
            repeat_if_lost(work, label=consumer)
        except ChangedMeanwhileError:
            path = session.inspector.tree.path(items[0].path or "")
            raise DiskError(f"{path} was changed while it was restored", hint="run it again") from None


def _restore_items(
    items: Sequence[Item],
    right: _Bytes | None,
    book: ReceiptBook,
    writer: ConsumerWriter,
    restored: dict[PathStat, Made],
) -> None:
    """Write the right bytes to each path of a consumer, under its lock.

    ``restored``: the files that have them already, for two services may have one folder by a link or mount.
    """
    entries: dict[str, Entry] = {}
    for item in items:
        entry = book.load().entries.get(item.path or "")
        if entry is None or entry != item.entry:
            continue  # another process placed something else meanwhile
        book.claim({item.path or "": entry.claim} if entry.made else {})
        there = writer.tree.lstat(item.path or "")
        made = restored.get(there) if there is not None else None
        made = made or _persistently(partial(_write, item, entry, right, writer))
        restored[made.seen] = made
        seen, how = made.seen, made.how if entry.made else entry.how
        entries[item.path or ""] = replace(entry, size=seen.size, mtime_ns=seen.mtime_ns, how=how, target=seen.target)
    writer.sync()
    book.add(entries, {})
    if book.is_due:  # the journal has what the next run needs
        book.write(writer.confirm)


def _persistently(write: Callable[[], Made]) -> Made:
    """Call ``write``, again if the file changed meanwhile: a rename on an overlay may change its inode."""
    for _ in range(_TRIES - 1):
        with contextlib.suppress(ChangedMeanwhileError):
            return write()
    return write()


def _write(item: Item, entry: Entry, right: _Bytes | None, writer: ConsumerWriter) -> Made:
    path, tree = item.path or "", writer.tree
    over: PathStat | None = tree.lstat(path)
    if over is not None and _is_changed(item, over, tree):  # it may be the user's work
        writer.displace(path)
        over = None
    if entry.digest is None:
        return writer.symlink(entry.target or "", path, over)
    if right is None:
        raise IntegrityError(f"{tree.path(path)} can't be restored")
    if right.text is not None:
        return writer.text(right.text, path, over)
    assert right.blob is not None  # noqa: S101 - a text or a blob
    if entry.how == "link" and right.blob.size >= LINK_AT_LEAST:
        return writer.link(right.blob.path, path, over)
    with fs.closing(fs.open_regular(right.blob.path)) as fd:
        return writer.copy(fd, path, over)


def _is_changed(item: Item, over: PathStat, tree: RootTree) -> bool:
    """Whether a file was changed, before the inventory or since; that of an adopted symlink is not compared again."""
    if item.condition is Condition.CHANGED:
        return True
    return item.file == tree.path(item.path or "") and (over.size, over.mtime_ns) != (item.size, item.mtime_ns)


def _note_checks(found: Verification, fixed: Mapping[int, Finding], session: Session) -> None:
    """Record that the restored files were verified now."""
    at = now()
    new: dict[Path, dict[str, Check]] = defaultdict(dict)
    for finding in fixed.values():
        item = finding.item
        if item is None or finding.digest is None:
            continue
        path, key = item.path, finding.digest
        with contextlib.suppress(OSError):
            blob = session.store.blob_path(Digest.parse(key)).lstat()
            new[session.store.path][key] = Check(size=blob.st_size, mtime_ns=blob.st_mtime_ns, at=at, ok=True)
        if path is not None and (seen := session.inspector.tree.lstat(path)) is not None:
            new[own_folder(found.inventory.root)][path] = Check(size=seen.size, mtime_ns=seen.mtime_ns, at=at, ok=True)
    with contextlib.suppress(ModelfetchError):
        save_checks(new, found.inventory, session)
