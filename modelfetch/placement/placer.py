"""Place verified blobs at the paths that each consumer expects, and record them in a receipt.

For each model and consumer, under the consumer's lock: inspect every path before any is touched, record in the journal
what is about to be created, create it, check it again, add it to the receipt. If this is interrupted at any point, the
next run completes it.
"""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from modelfetch.core import directories, fs, os_errors
from modelfetch.core.cancel import Cancel
from modelfetch.core.events import Notice, Placed
from modelfetch.core.units import format_list
from modelfetch.errors import DestinationError, DiskError, ModelfetchError, RetryLaterError
from modelfetch.placement.inspector import Inspection, wanted_digest
from modelfetch.placement.journal import Claim
from modelfetch.placement.layouts import Placement, PlacementMethod
from modelfetch.placement.receipts import Entry, ReceiptBook, lock_receipt
from modelfetch.placement.rewritten import rewriting_service
from modelfetch.placement.state import Action, State, is_rewritten
from modelfetch.placement.writer import ChangedMeanwhileError, ConsumerWriter, Made
from modelfetch.store.checks import Check, add_checks, now
from modelfetch.store.ingest import LINK_AT_LEAST
from modelfetch.store.locks.lock import repeat_if_lost

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from modelfetch.core.digest import Digest
    from modelfetch.core.events import Sink
    from modelfetch.placement.inspector import Inspector
    from modelfetch.placement.path_stat import PathStat
    from modelfetch.placement.receipts import Frozen, Receipt
    from modelfetch.store import Blob, Store

_TRIES = 3
_LAST_WRITE_TIMEOUT = 10.0
"""Maximum time that the last write of a receipt waits for another process's lock, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementJob:
    """One placement and the blob to place there (None for a text, or if the right bytes are there already).

    ``archive`` is the digest of the archive that contains the file.
    """

    placement: Placement
    blob: Blob | None = None
    archive: str | None = None

    @property
    def wanted(self) -> Digest | None:
        """The wanted digest of the bytes: the blob's if it is known."""
        return self.blob.digest if self.blob else wanted_digest(self.placement)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementRequest:
    """All placements of one model for one consumer.

    ``requested_by`` names the requesting manifest (tier or file); ``how_to_upgrade`` is what to do to accept another
    file upstream, for a hint.
    """

    consumer: str
    model: str
    requested_by: str
    jobs: Sequence[PlacementJob]
    frozen: Mapping[str, Frozen] = field(default_factory=dict)
    how_to_upgrade: str = "update the pin"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """A job and the inspection of its path."""

    job: PlacementJob
    found: Inspection

    @property
    def path(self) -> str:
        return self.job.placement.path


@dataclass(slots=True, kw_only=True)
class _ConsumerRun:
    """State shared by one consumer's placements during a run; the lock ``turn`` admits one thread at a time."""

    book: ReceiptBook
    writer: ConsumerWriter
    turn: threading.Lock = field(default_factory=threading.Lock)
    recovered: bool = False


class Placer:
    """Places files for all consumers of one ROOT; may be called from several threads. `finish` ends a run.

    Args:
        root: ROOT.
        store: The store.
        inspector: Reads what lies below ROOT.
        owner: (uid, gid) for directories and copies; None leaves them ours.
        lock_timeout: Seconds to wait for another process that places for the same consumer; None waits indefinitely.
        sink: Receives events.
        cancel: Cancels waiting and copying.
    """

    def __init__(
        self,
        root: Path,
        store: Store,
        *,
        inspector: Inspector,
        owner: tuple[int, int] | None = None,
        lock_timeout: float | None = None,
        sink: Sink,
        cancel: Cancel,
    ) -> None:
        self._root = root
        self._store = store
        self._inspector = inspector
        self._owner = owner
        self._lock_timeout = lock_timeout
        self._sink = sink
        self._cancel = cancel
        self._runs: dict[str, _ConsumerRun] = {}
        self._runs_lock = threading.Lock()
        self._checked: dict[str, Check] = {}
        self._made: dict[PathStat, str] = {}

    def place(self, request: PlacementRequest) -> None:
        """Place a model for a consumer.

        Raises:
            DestinationError: A file that modelfetch did not make is in the way, or the folder can't be written.
            DiskError: The disk failed or is full.
            RetryLaterError: Another process kept the consumer's lock, or took it several times.
        """
        run = self._run_of(request.consumer)

        def work() -> None:
            with self.locked(request.consumer):
                self._place(request, run)
                if run.book.is_due:
                    run.book.write(run.writer.confirm)

        repeat_if_lost(work, label=request.consumer)
        self._sink(Placed(model=request.model, consumer=request.consumer, paths=len(request.jobs)))

    def receipt(self, consumer: str) -> Receipt:
        """A consumer's receipt, including this run's additions. Raises the same errors as `read_receipt`."""
        run = self._run_of(consumer)
        with run.turn:
            return run.book.load()

    def finish(self) -> dict[str, ModelfetchError]:
        """Write all changed receipts, and the dates at which kept files were hashed; returns the errors by consumer.

        Files of interrupted models are recorded too, so that the next run need not read them again. It is an error if
        another process has replaced or removed what this run has placed.
        """
        if self._checked:
            with suppress(ModelfetchError, OSError):  # they then count as never verified
                add_checks(directories.own_folder(self._root), self._checked, timeout=_LAST_WRITE_TIMEOUT)
        errors: dict[str, ModelfetchError] = {}
        for consumer, run in list(self._runs.items()):
            if not run.book.is_dirty and not run.book.is_outdated:
                continue
            try:
                repeat_if_lost(partial(self._write_last, consumer, run.book), label=consumer)
            except ModelfetchError as error:
                errors[consumer] = error
        return errors

    def _write_last(self, consumer: str, book: ReceiptBook) -> None:
        """Write a receipt at the end of the run; raises as `locked`, and RetryLaterError for overwritten files."""
        with self.locked(consumer, last=True) as (_, writer):
            book.load()
            if book.is_dirty:
                book.write(writer.confirm)
        if book.overwritten:
            raise self._overwritten_error(book.overwritten)

    @contextmanager
    def locked(
        self, consumer: str, *, doing: str = "can't place into", last: bool = False
    ) -> Iterator[tuple[ReceiptBook, ConsumerWriter]]:
        """Hold a consumer's lock while the block works on its receipt and files.

        Args:
            consumer: The consumer.
            doing: What is done, for the message of a disk error.
            last: Whether this is the run's last write: then it waits briefly, even if the run was cancelled.

        Raises:
            LockLostError: Another process took the lock.
            RetryLaterError: Another process kept it.
            DestinationError, DiskError: The disk failed.
        """
        run, folder = self._run_of(consumer), self._inspector.tree.path(consumer)
        timeout, cancel = (_LAST_WRITE_TIMEOUT, Cancel()) if last else (self._lock_timeout, self._cancel)
        with (
            os_errors.translated(folder, doing=doing),
            run.turn,
            lock_receipt(self._root, consumer, timeout=timeout, sink=self._sink, cancel=cancel) as held,
        ):
            run.writer.confirm = held.ensure_owned
            try:
                yield run.book, run.writer
            except OSError:
                held.ensure_owned()  # if another process took over, that is the reason: it removes temporary files
                raise

    def _run_of(self, consumer: str) -> _ConsumerRun:
        with self._runs_lock:
            if consumer not in self._runs:
                writer = ConsumerWriter(
                    self._inspector.tree,
                    consumer,
                    own=directories.own_folder(self._root),
                    owner=self._owner,
                    check=self._cancel.check,
                    refused=self._store.refused,
                )
                book = ReceiptBook(self._root, consumer, is_in_place=self._inspector.is_in_place)
                self._runs[consumer] = _ConsumerRun(book=book, writer=writer)
            return self._runs[consumer]

    def _place(self, request: PlacementRequest, run: _ConsumerRun) -> None:
        paths = [job.placement.path for job in request.jobs]
        if not run.recovered:  # a killed run may have left files for a model that is not wanted any more
            paths += run.book.load().unfinished()
            run.recovered = True
        run.writer.sweep(path.rpartition("/")[0] for path in paths)
        entries: dict[str, Entry] = {}
        tries: Counter[str] = Counter()
        while jobs := [job for job in request.jobs if job.placement.path not in entries]:
            tries[jobs[0].placement.path] += 1
            if tries[jobs[0].placement.path] > _TRIES + 1:
                raise self._unstable_error(jobs[0])
            entries |= self._place_jobs(jobs, request, run)
            # A server that starts in the meantime may clean up its store (Ollama does).
            with self._inspector.tree.keeping_folder_open():
                gone = [path for path in entries if self._inspector.tree.lstat(path) is None]
            for path in gone:
                del entries[path]
        run.writer.sync()
        run.book.add(entries, request.frozen)

    def _place_jobs(
        self, jobs: Sequence[PlacementJob], request: PlacementRequest, run: _ConsumerRun
    ) -> dict[str, Entry]:
        """Inspect all paths, then place the files in order; stops at a path that changed since it was inspected."""
        receipt = run.book.load()
        with self._inspector.tree.keeping_folder_open():
            steps = [self._inspect(job, receipt) for job in jobs]
        claims = {step.path: _claim(step, request) for step in steps if step.found.action is not Action.KEEP}
        if claims:
            run.book.claim(claims)
        entries: dict[str, Entry] = {}
        with suppress(ChangedMeanwhileError):
            for step in steps:
                self._cancel.check()
                entries[step.path] = self._place_one(step, request, run.writer)
        return entries

    def _inspect(self, job: PlacementJob, receipt: Receipt) -> _Step:
        found = self._inspector.inspect(job.placement, receipt, job.wanted)
        if found.action is Action.REFUSE:
            raise foreign_file_error(self._path(job))
        return _Step(job=job, found=found)

    def _place_one(self, step: _Step, request: PlacementRequest, writer: ConsumerWriter) -> Entry:
        if step.found.action is Action.KEEP:
            entry = _kept_entry(step, request, self._made)
            if entry.digest and step.found.state not in (State.READY, State.REWRITTEN):
                self._checked[step.path] = Check(size=entry.size, mtime_ns=entry.mtime_ns, at=now(), ok=True)
            return entry
        with _named(self._path(step.job)):
            made = self._write(step, request, writer)
        if made.how != "link":  # a blob may be a user's file, which then has the same state
            self._made[made.seen] = made.how
        digest = None if step.job.placement.how is PlacementMethod.SYMLINK else step.job.wanted
        return _entry_of(step, request, made.seen, how=made.how, made=True, digest=digest)

    def _write(self, step: _Step, request: PlacementRequest, writer: ConsumerWriter) -> Made:
        over = step.found.seen if step.found.action is Action.REPLACE else None
        if step.found.action is Action.DISPLACE:
            over = self._displace(step, request, writer)
        placement, wanted = step.job.placement, step.job.wanted
        if placement.how is PlacementMethod.SYMLINK:
            return writer.symlink(placement.target or "", step.path, over)
        if placement.text is not None:
            return writer.text(placement.text, step.path, over)
        blob = step.job.blob or (self._store.find(wanted) if wanted else None)
        linked = placement.how is PlacementMethod.FILE and rewriting_service(step.path) is None
        if blob is not None and linked and blob.size >= LINK_AT_LEAST and not self._store.is_private(blob.digest):
            return writer.link(blob.path, step.path, over)
        with fs.closing(self._open_source(step, blob)) as source:
            return writer.copy(source, step.path, over)

    def _open_source(self, step: _Step, blob: Blob | None) -> int:
        """Open the bytes to copy: the blob's, or the file's own if a link is being turned into a copy."""
        if blob is not None:
            return fs.open_regular(blob.path)
        entry = step.found.entry
        if step.found.action is Action.REPLACE and entry is not None and entry.digest == str(step.job.wanted):
            return self._inspector.tree.open(step.path)
        raise DiskError(f"{self._path(step.job)} changed while modelfetch worked", hint="run it again")

    def _displace(self, step: _Step, request: PlacementRequest, writer: ConsumerWriter) -> PathStat | None:
        """Move a changed file aside, or replace it if its bytes were moved aside before, to avoid a copy per run.

        Returns:
            The file that may be replaced; None if nothing is left at the path.

        Raises:
            ChangedMeanwhileError: It was removed meanwhile.
        """
        shown, seen = self._path(step.job), step.found.seen
        hint = (
            f"to keep the new content, {request.how_to_upgrade} (or `sync --refresh` if the entry is not pinned); "
            "`modelfetch prune` then removes the files that it replaces"
        )
        if seen is not None and seen.regular and seen.target is None:
            try:
                opened = self._inspector.tree.open(step.path)
            except FileNotFoundError:
                raise ChangedMeanwhileError(step.path) from None
            with fs.closing(opened) as fd:
                kept = writer.has_displaced(step.path, fd)
            if kept:
                message = f"{shown} was changed in the same way again and replaced: a copy was kept the last time"
                self._sink(Notice(level="warning", message=message, hint=hint))
                return seen
        aside = directories.own_folder(self._root) / writer.displace(step.path)
        message = f"{shown} was not what modelfetch placed there: moved to {aside}"
        self._sink(Notice(level="warning", message=message, hint=hint))
        return None

    def _unstable_error(self, job: PlacementJob) -> DiskError:
        path = self._path(job)
        if self._inspector.tree.lstat(job.placement.path) is None:
            hint = "does the service clean its folder? Start it after modelfetch, or with OLLAMA_NOPRUNE=1"
            return DiskError(f"{path} keeps disappearing after it was placed", hint=hint)
        return DiskError(f"{path} keeps changing", hint="stop the service that writes to it, and run again")

    def _overwritten_error(self, paths: set[str]) -> RetryLaterError:
        shown = format_list([str(self._inspector.tree.path(path)) for path in sorted(paths)], most=2)
        message = f"{shown}: another process replaced or removed what was placed"
        return RetryLaterError(message, code="lock-timeout", hint="run it again once the other one has ended")

    def _path(self, job: PlacementJob) -> Path:
        return self._inspector.tree.path(job.placement.path)


def foreign_file_error(path: Path, *, how_to_pin: str | None = None) -> DestinationError:
    """The error for a path that has a file which modelfetch did not create.

    ``how_to_pin``: what to do to pin its entry, if there is no digest to compare the file with; without one even the
    right file can't be recognised.
    """
    if how_to_pin is not None:
        return DestinationError(
            f"{path} is in the way: modelfetch did not make it, and no digest is known to check whether it is right",
            code="foreign-file",
            hint=f"{how_to_pin}, or move the file away; it was not touched",
        )
    return DestinationError(
        f"{path} is in the way: modelfetch did not make it, and its content is not what the manifest requires",
        code="foreign-file",
        hint="move it away, or drop the model from the manifest; it was not touched",
    )


def _claim(step: _Step, request: PlacementRequest) -> Claim:
    """The journal's record of the bytes that are about to be placed."""
    placement = step.job.placement
    uri = placement.artifact.uri if placement.artifact else None
    if placement.how is PlacementMethod.SYMLINK:
        return Claim(digest=None, target=placement.target, uri=uri, model=request.model)
    size = len(placement.text) if placement.text is not None else step.job.blob.size if step.job.blob else None
    return Claim(digest=str(step.job.wanted), size=size, uri=uri, model=request.model)


def _kept_entry(step: _Step, request: PlacementRequest, placed: Mapping[PathStat, str]) -> Entry:
    """The entry of a path that is already right: its known data is kept, with the state when it was inspected.

    ``placed``: how this run made copies, which another consumer may have in the same folder, by a link or mount.
    """
    known, seen = step.found.entry, step.found.seen
    assert seen is not None  # noqa: S101 - only an existing file can be kept
    made = known.made if known else seen in placed
    how = known.how if known else placed.get(seen, "adopted")
    if known is not None and is_rewritten(step.path, known, seen):
        # The entry still names what modelfetch placed, which is what a repair by name restores.
        seen = replace(seen, size=known.size, mtime_ns=known.mtime_ns)
    return _entry_of(step, request, seen, how=how, made=made, digest=step.found.digest)


def _entry_of(
    step: _Step, request: PlacementRequest, seen: PathStat, *, how: str, made: bool, digest: Digest | None
) -> Entry:
    artifact, known = step.job.placement.artifact, step.found.entry
    return Entry(
        digest=str(digest) if digest else None,
        size=seen.size,
        mtime_ns=seen.mtime_ns,
        how=how,
        made=made,
        model=request.model,
        uri=artifact.uri if artifact else None,
        target=seen.target,
        archive=step.job.archive,
        manifests=tuple(dict.fromkeys((*(known.manifests if known else ()), request.requested_by))),
    )


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Make an OSError of a call relative to a folder name the full path."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise
