"""Placement: verified blobs under the names that each consumer expects, and a receipt of it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from modelfetch.core import fs
from modelfetch.core.events import Notice, Placed
from modelfetch.core.fs import own_folder
from modelfetch.errors import DestinationError, DiskError
from modelfetch.placement.inspector import Examiner, wanted_digest
from modelfetch.placement.layouts import Placement, PlacementMethod
from modelfetch.placement.path_guard import destination
from modelfetch.placement.receipts import Entry, read_receipt, write_receipt
from modelfetch.placement.state import PENDING, Action, lstat_path
from modelfetch.placement.writer import LINK_AT_LEAST, Disk
from modelfetch.store.locks.lock import lock

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from modelfetch.core.cancel import Cancel
    from modelfetch.core.digest import Digest
    from modelfetch.core.events import Sink
    from modelfetch.placement.receipts import Frozen
    from modelfetch.store import Blob, Store

_LOOKS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementJob:
    """One placement and the blob whose bytes go there (None where the right bytes are there already, or a text).

    ``archive`` is the digest of the archive that the file comes out of.
    """

    placement: Placement
    blob: Blob | None = None
    archive: str | None = None

    @property
    def wanted(self) -> Digest | None:
        """The digest of the bytes: the blob's where it is known."""
        return self.blob.digest if self.blob else wanted_digest(self.placement)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementRequest:
    """All that one model wants of one consumer; ``requested_by`` names the manifest (tier or file) on whose behalf."""

    consumer: str
    model: str
    requested_by: str
    jobs: Sequence[PlacementJob]
    frozen: Mapping[str, Frozen] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    job: PlacementJob
    path: Path
    act: Action
    known: Entry | None

    @property
    def name(self) -> str:
        return self.job.placement.path


class Placer:
    """Places for all consumers of one ROOT; several threads may call it.

    Args:
        root: ROOT.
        store: The store.
        owner: (uid, gid) for directories and copies; None leaves them ours.
        lock_timeout: Seconds to wait for another process that places for the same consumer; None waits on.
        sink: Where events go.
        cancel: Ends the waiting.
    """

    def __init__(
        self,
        root: Path,
        store: Store,
        *,
        owner: tuple[int, int] | None = None,
        lock_timeout: float | None = None,
        sink: Sink,
        cancel: Cancel,
    ) -> None:
        self._root = root
        self._store = store
        self._owner = owner
        self._lock_timeout = lock_timeout
        self._sink = sink
        self._cancel = cancel
        self._examiner = Examiner(root, cancel)
        self._said: set[tuple[str, str]] = set()

    def place(self, order: PlacementRequest) -> None:
        """Judge every path before any is touched, write down what will be made, make it, look again, write the receipt.

        Raises:
            DestinationError: Something that is not ours is in the way, or the folder can't be written.
            DiskError: The disk failed or is full.
            RetryLaterError: Another process kept the consumer's lock.
        """
        with _translated(self._root / order.consumer), self._locked(order.consumer):
            receipt = read_receipt(self._root, order.consumer)
            disk = self._disk(order.consumer)
            disk.sweep((self._root / job.placement.path).parent for job in order.jobs)
            steps = [self._judge(job, receipt.entries) for job in order.jobs]
            if pending := {
                step.name: _pending(step, order) for step in steps if step.act in (Action.CREATE, Action.REPLACE)
            }:
                write_receipt(self._root, receipt.merged(pending, {}))
            entries = {step.name: self._carry_out(disk, step, order) for step in steps}
            entries |= self._look_again(disk, steps, order)
            disk.sync()
            write_receipt(self._root, receipt.merged(entries, order.frozen))
        self._sink(Placed(model=order.model, consumer=order.consumer, paths=len(entries)))

    def _disk(self, consumer: str) -> Disk:
        return Disk(self._root, consumer, owner=self._owner, sink=self._sink, said=self._said)

    @contextmanager
    def _locked(self, consumer: str) -> Iterator[None]:
        with lock(
            own_folder(self._root) / "locks" / f"consumer-{consumer}.lock",
            label=f"the receipt of {consumer}",
            timeout=self._lock_timeout,
            sink=self._sink,
            cancel=self._cancel,
        ):
            yield

    def _judge(self, job: PlacementJob, entries: Mapping[str, Entry]) -> _Step:
        path = destination(self._root, job.placement.path)
        act = self._examiner.act(job.placement, entries, job.wanted)
        if act is Action.REFUSE:
            if not _is_blob(path, job.blob):
                raise foreign_file_error(path)
            act = Action.KEEP
        return _Step(job=job, path=path, act=act, known=entries.get(job.placement.path))

    def _carry_out(self, disk: Disk, step: _Step, order: PlacementRequest) -> Entry:
        self._cancel.check()
        if step.act is Action.KEEP:
            return self._kept(step, order)
        if step.act is Action.DISPLACE:
            aside = disk.displace(step.path)
            message = f"{step.path} was not what modelfetch placed there: moved to {aside}"
            self._sink(Notice(level="warning", message=message))
        how = self._put(disk, step)
        digest = None if step.job.placement.how is PlacementMethod.SYMLINK else str(step.job.wanted)
        return _entry(step, order, how=how, made=True, digest=digest)

    def _put(self, disk: Disk, step: _Step) -> str:
        placement = step.job.placement
        if placement.how is PlacementMethod.SYMLINK:
            return disk.symlink(placement.target or "", step.path)
        if placement.text is not None:
            return disk.text(placement.text, step.path)
        blob = step.job.blob or (self._store.find(step.job.wanted) if step.job.wanted else None)
        if blob is None:
            raise DiskError(f"{step.path} changed while modelfetch worked", hint="run it again")
        linked = placement.how is PlacementMethod.FILE and blob.size >= LINK_AT_LEAST
        return disk.link(blob.path, step.path) if linked else disk.copy(blob.path, step.path)

    def _look_again(self, disk: Disk, steps: Sequence[_Step], order: PlacementRequest) -> dict[str, Entry]:
        """Place again what vanished meanwhile: a server that starts beside us may sweep its store (Ollama does)."""
        entries: dict[str, Entry] = {}
        for _ in range(_LOOKS):
            gone = [step for step in steps if lstat_path(step.path) is None]
            if not gone:
                return entries
            entries |= {step.name: self._carry_out(disk, replace(step, act=Action.CREATE), order) for step in gone}
        raise DiskError(
            f"{gone[0].path} vanishes again and again after it was placed",
            hint="does the service clean its folder? Start it after modelfetch, or with OLLAMA_NOPRUNE=1",
        )

    def _kept(self, step: _Step, order: PlacementRequest) -> Entry:
        """The entry of a path that already is right: what is known of it stays, its state is read anew."""
        made = step.known.made if step.known else _is_blob(step.path, step.job.blob)
        how = step.known.how if step.known else "link" if made else "adopted"
        return _entry(step, order, how=how, made=made, digest=self._digest_of_kept(step))

    def _digest_of_kept(self, step: _Step) -> str | None:
        """The sha256 of a right file, without reading it again where the receipt or the manifest has it."""
        known, wanted = step.known, step.job.wanted
        if step.job.placement.how is PlacementMethod.SYMLINK:
            return None
        seen = lstat_path(step.path)
        if known and known.digest and seen and (seen.size, seen.mtime_ns) == (known.size, known.mtime_ns):
            return known.digest
        if wanted is not None and wanted.algorithm == "sha256":
            return str(wanted)
        found = self._examiner.digest(step.path)
        return str(found) if found else None


def foreign_file_error(path: Path, *, comparable: bool = True) -> DestinationError:
    """The refusal of a path where something lies that modelfetch did not make.

    ``comparable``: there was a digest to hold it against; without one even the right file can't be known as such.
    """
    if not comparable:
        return DestinationError(
            f"{path} is in the way: modelfetch did not make it, and without a digest nothing tells whether it is right",
            code="foreign-file",
            hint="pin the entry (`modelfetch pin FILE`), or move the file away; it was not touched",
        )
    return DestinationError(
        f"{path} is in the way: modelfetch did not make it, and it is not what the manifest wants there",
        code="foreign-file",
        hint="move it away, or drop the model from the manifest; it was not touched",
    )


def _is_blob(path: Path, blob: Blob | None) -> bool:
    """Whether a path is a link of the very blob that goes there: then a crash lost its receipt, nothing else."""
    try:
        return blob is not None and path.samefile(blob.path)
    except OSError:
        return False


def _pending(step: _Step, order: PlacementRequest) -> Entry:
    """The entry that says beforehand that we are about to make a file of our own."""
    placement = step.job.placement
    return Entry(
        digest=None if placement.how is PlacementMethod.SYMLINK else str(step.job.wanted),
        size=0,
        mtime_ns=PENDING,
        how=str(placement.how),
        made=True,
        model=order.model,
        uri=placement.artifact.uri if placement.artifact else None,
        target=placement.target,
        archive=step.job.archive,
        manifests=(order.requested_by,),
    )


def _entry(step: _Step, order: PlacementRequest, *, how: str, made: bool, digest: str | None) -> Entry:
    seen = lstat_path(step.path)
    if seen is None:
        raise DiskError(
            f"{step.path} vanished right after it was placed", hint="does something else clean this folder?"
        )
    artifact = step.job.placement.artifact
    asked = (*(step.known.manifests if step.known else ()), order.requested_by)
    return Entry(
        digest=digest,
        size=seen.size,
        mtime_ns=seen.mtime_ns,
        how=how,
        made=made,
        model=order.model,
        uri=artifact.uri if artifact else None,
        target=seen.target,
        archive=step.job.archive,
        manifests=tuple(dict.fromkeys(asked)),
    )


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise fs.translate(error, path, doing="can't place into") from error
