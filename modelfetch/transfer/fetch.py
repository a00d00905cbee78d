"""Fetch one artifact from the first source that has it, through a partial file, into the store."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from modelfetch.core.events import (
    SourceFailed,
    TransferEnded,
    TransferFinished,
    TransferProgress,
    TransferRetrying,
    TransferStarted,
)
from modelfetch.core.fs import allocated_bytes
from modelfetch.core.os_errors import translate
from modelfetch.errors import (
    OF_THE_SOURCE,
    DestinationError,
    DiskError,
    IntegrityError,
    ModelfetchError,
    RetryLaterError,
    UnreachableError,
    most_serious,
)
from modelfetch.formats.content_check import (
    HEAD,
    check_artifact,
    check_artifact_head,
    digest_decides,
    may_be_hidden_pickle,
    message_error,
)
from modelfetch.http.retry import Attempts
from modelfetch.store.chunks import hash_open_file
from modelfetch.store.locks.lock import Held, LockLostError, lock
from modelfetch.transfer.coding import CodingChoice
from modelfetch.transfer.download import Download, DownloadSpec
from modelfetch.transfer.local import copy_file, read_head
from modelfetch.transfer.partial import Partial
from modelfetch.transfer.repair import reuse_intact_chunks
from modelfetch.transfer.types import Fetched

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from modelfetch.core.artifact import Artifact, Location
    from modelfetch.core.cancel import Cancel
    from modelfetch.core.digest import Digest
    from modelfetch.http import Response
    from modelfetch.store.store import Blob, Store
    from modelfetch.transfer.types import Context

_MAX_TAKEOVERS = 3


def key_of(artifact: Artifact) -> str:
    """Return the name of an artifact's partial file and lock: its digest if known, else a hash of its URI."""
    if artifact.digest is not None and artifact.digest.algorithm in ("sha256", "blake3"):
        return artifact.digest.hex
    return hashlib.sha256(artifact.uri.encode()).hexdigest()


def find_present(store: Store, artifact: Artifact) -> Fetched | None:
    """Return the artifact if the store has it, or if its bytes came with the source's response and are stored now.

    Raises:
        DiskError, DestinationError: The store can't be read or written.
    """
    blob = store.find(artifact.digest, artifact.size) if artifact.digest else None
    if blob is None and artifact.content is not None:
        blob = store.add_bytes(artifact.content)
    return Fetched(blob=blob) if blob else None


def fetch(
    context: Context, artifact: Artifact, locations: Iterable[Location | ModelfetchError], *, label: str, cancel: Cancel
) -> Fetched:
    """Fetch an artifact into the store; blocks the thread until it is there.

    Args:
        context: The state that all transfers share.
        artifact: The artifact.
        locations: Its locations in order of preference; later ones may be looked up during iteration, and an error
            takes the place of a source whose location could not be looked up.
        label: Its name in events and messages.
        cancel: Ends the transfer when it is set; the partial file is kept.

    Raises:
        ModelfetchError: The source, the disk or the lock failed.
        InterruptedSync: It was cancelled.
    """
    known = list(locations) if isinstance(locations, Sequence) else _CachedLocations(locations)
    key = key_of(artifact)
    for _ in range(_MAX_TAKEOVERS):
        if (found := find_present(context.store, artifact)) is not None:
            return found
        noted = context.store.index.recall(key) if artifact.digest is None else None
        guard = lock(
            context.store.folder("locks") / f"{key}.lock",
            label=label,
            timeout=context.options.lock_timeout,
            sink=context.sink,
            cancel=cancel,
            timing=context.tuning.lock_timing,
            files=context.lock_files,
        )
        with suppress(LockLostError), guard as held:
            found = _found_meanwhile(context, artifact, noted) if held.waited else None
            return found or _Transfer(context, artifact, label, cancel, held).run(known)
        context.store.invalidate_cache()
    raise RetryLaterError(f"{label}: other processes keep taking it over", code="lock-timeout", uri=artifact.uri)


class _CachedLocations:
    """An iterable that can be iterated again, and looks up each location once."""

    def __init__(self, locations: Iterable[Location | ModelfetchError]) -> None:
        self._more = iter(locations)
        self._seen: list[Location | ModelfetchError] = []

    def __iter__(self) -> Iterator[Location | ModelfetchError]:
        yield from list(self._seen)
        for location in self._more:
            self._seen.append(location)
            yield location


def _found_meanwhile(context: Context, artifact: Artifact, noted: tuple[int, Digest] | None) -> Fetched | None:
    """Return what the lock's previous owner fetched while this process waited."""
    if artifact.digest is not None:
        return find_present(context.store, artifact)
    after = context.store.index.recall(key_of(artifact))
    blob = context.store.find(after[1], artifact.size) if after is not None and after != noted else None
    return Fetched(blob=blob) if blob else None


class _Transfer:
    """The transfer that the lock's owner does."""

    def __init__(self, context: Context, artifact: Artifact, label: str, cancel: Cancel, held: Held) -> None:
        self._context = context
        self._artifact = artifact
        self._label = label
        self._cancel = cancel
        self._held = held
        self._key = key_of(artifact)
        self._path = context.store.folder("ingest") / f"{self._key}.part"
        self._started = context.tuning.clock()
        self._trusted = 0

    def _missing_bytes(self) -> int | None:
        """Bytes that the partial file still needs on its disk, if the file's size is known."""
        if self._artifact.size is None:
            return None
        try:
            return max(0, self._artifact.size - allocated_bytes(self._path.stat())) or None
        except OSError:
            return self._artifact.size

    def run(self, locations: Iterable[Location | ModelfetchError]) -> Fetched:
        algorithms = ["sha256"] if self._artifact.digest is None else ["sha256", self._artifact.digest.algorithm]
        blob: Blob | None = None
        try:
            if self._artifact.digest is not None:
                reuse_intact_chunks(self._context.store, self._artifact.digest, self._path)
            partial = Partial(
                self._path,
                algorithms=tuple(dict.fromkeys(algorithms)),
                size=self._artifact.size,
                predecessor_may_be_alive=self._held.predecessor_may_be_alive,
                ensure_owned=self._held.ensure_owned,
            )
            try:
                blob, served_by = self._try_sources(partial, locations)
            finally:
                partial.close(keep=blob is None)
        except OSError as error:
            self._held.ensure_owned()  # if another process took over, that is the reason
            failed = translate(error, self._path, doing="writing", needed=self._missing_bytes())
            raise failed.about(uri=self._artifact.uri) from error
        finally:
            if blob is None:
                self._context.sink(TransferEnded(key=self._key, label=self._label))
        seconds = self._context.tuning.clock() - self._started
        fetched = Fetched(
            blob=blob,
            action="resumed" if self._trusted and self._progress.received < blob.size else "fetched",
            bytes_fetched=self._progress.received,
            served_by=served_by,
        )
        self._context.sink(
            TransferFinished(
                key=self._key,
                label=self._label,
                size=blob.size,
                fetched=fetched.bytes_fetched,
                seconds=seconds,
                digest=str(blob.digest),
            )
        )
        return fetched

    def _try_sources(self, partial: Partial, locations: Iterable[Location | ModelfetchError]) -> tuple[Blob, str]:
        self._progress = _ReceivedCounter(self._context, self._key, partial, self._held)
        self._trusted = partial.trust()
        if partial.reach(0) >= HEAD and check_artifact_head(self._artifact, os.pread(partial.fd, HEAD, 0)) is not None:
            partial.distrust()  # accepted under other rules: start again, to check the response
            self._trusted = 0
        errors: list[ModelfetchError] = []
        for location in locations:
            if isinstance(location, ModelfetchError):
                self._report_source_failed(errors, location, location.uri or "a mirror")
                continue
            try:
                return self._try_source(partial, location), location.uri
            except OF_THE_SOURCE as error:
                self._report_source_failed(errors, error, location.uri)
        if not errors:
            raise UnreachableError(f"{self._label}: no source is known", uri=self._artifact.uri, permanent=True)
        raise most_serious(errors)

    def _report_source_failed(self, errors: list[ModelfetchError], error: ModelfetchError, source: str) -> None:
        errors.append(error.about(uri=self._artifact.uri))
        self._context.sink(SourceFailed(key=self._key, label=self._label, source=source, reason=error.message))

    def _try_source(self, partial: Partial, location: Location) -> Blob:
        """Try one source until it delivers the file or has failed for good."""
        clock = self._context.tuning.clock
        attempts = Attempts(self._context.options.retries, self._context.tuning, clock())
        self._report_started(partial, location)
        coding = CodingChoice(artifact=self._artifact)
        own_only = partial.total == 0
        best = partial.total
        while True:
            try:
                self._transfer_from(partial, location, coding)
                return self._verify_and_store(partial)
            except ModelfetchError as error:
                if isinstance(error, IntegrityError) and coding.swap():
                    partial.distrust()
                    self._trusted = 0
                    continue
                if isinstance(error, IntegrityError) and partial.is_complete():
                    mixed, own_only = not own_only, True
                    partial.distrust()
                    self._trusted = 0
                    if mixed:
                        continue  # it held bytes of another run or source, perhaps of another version
                gained = partial.total - best  # against the most there was: a source that always breaks off at the
                best = max(best, partial.total)  # same place and starts again makes no progress
                delay = attempts.after(error, gained=gained, now=clock())
                self._report_retry(error, delay, attempts)
            if self._cancel.wait(delay):
                self._cancel.check()

    def _report_started(self, partial: Partial, location: Location) -> None:
        self._context.sink(
            TransferStarted(
                key=self._key, label=self._label, size=partial.size, offset=partial.total, source=location.uri
            )
        )

    def _report_retry(self, error: ModelfetchError, delay: float = 0.0, attempts: Attempts | None = None) -> None:
        """Report a failed attempt, or a connection that broke while others continue, which counts as none."""
        self._context.sink(
            TransferRetrying(
                key=self._key,
                label=self._label,
                reason=error.message,
                delay=delay,
                attempt=attempts.failed if attempts else 0,
                attempts=attempts.most if attempts else self._context.options.retries,
            )
        )

    def _transfer_from(self, partial: Partial, location: Location, coding: CodingChoice) -> None:
        if location.is_local:
            head = read_head(location, HEAD)
            if head and (error := check_artifact_head(self._artifact, head)) is not None:
                raise error
            copy_file(
                self._context,
                self._artifact,
                location,
                partial,
                cancel=self._cancel,
                progress=self._progress.note,
            )
            return
        needs_check = not digest_decides(self._artifact) or may_be_hidden_pickle(self._artifact)
        spec = DownloadSpec(
            context=self._context,
            partial=partial,
            artifact=self._artifact,
            location=location,
            coding=coding,
            check_head=self._check_head if needs_check else None,
            progress=self._progress.note,
            on_connection_lost=self._report_retry,
        )
        Download(spec, self._cancel).run()

    def _check_head(self, head: bytes, response: Response) -> ModelfetchError | None:
        html_type = response.headers.get("content-type", "").lower().startswith("text/html")
        return check_artifact_head(self._artifact, head, url=response.url, html_type=html_type)

    # --- the whole file ----------------------------------------------------------------------------------------

    def _verify_and_store(self, partial: Partial) -> Blob:
        """Verify the whole file and make it a blob.

        Raises:
            IntegrityError: It is not the artifact.
            LockLostError: Another process has taken over meanwhile.
        """
        digests = self._verify(partial)
        try:
            blob = self._context.store.admit(
                self._path,
                partial.fd,
                digests,
                partial.chunks(),
                fsync=self._context.tuning.durable,
                ensure_owned=self._held.ensure_owned,
            )
        except (DiskError, DestinationError):
            self._held.ensure_owned()  # if another process took over, that is the reason
            raise
        partial.admitted()
        if self._artifact.digest is None and self._held.still_owned():
            self._context.store.index.remember(self._key, blob.digest)
        return blob

    def _verify(self, partial: Partial) -> dict[str, Digest]:
        size = partial.size or 0
        partial.prefix.catch_up(partial.fd, partial.reach)
        digests = partial.prefix.digests()
        if partial.prefix.position != size:
            raise UnreachableError(f"{self._label}: only {partial.prefix.position} of {size} bytes are there")
        wanted = self._artifact.digest
        if not digest_decides(self._artifact):
            error = check_artifact(self._artifact, size, lambda at, count: os.pread(partial.fd, count, at))
            if error is not None:
                raise error
        if wanted is None:
            return digests
        if wanted.algorithm not in digests:
            digests |= hash_open_file(partial.fd, wanted.algorithm)[0]
        found = digests[wanted.algorithm]
        if found != wanted:
            message = message_error(
                self._artifact.path, os.pread(partial.fd, HEAD, 0), "", by_kind=self._artifact.weights
            )
            raise message or IntegrityError(f"{self._artifact.path} has {found}, expected {wanted}")
        return digests


class _ReceivedCounter:
    """The bytes received for one artifact; called by all its connections."""

    def __init__(self, context: Context, key: str, partial: Partial, held: Held) -> None:
        self._held = held
        self._context = context
        self._key = key
        self._partial = partial
        self._lock = threading.Lock()
        self._reported = context.tuning.clock()
        self.received = 0

    def note(self, count: int) -> None:
        """Record ``count`` bytes as received.

        Raises:
            LockLostError: Another process has taken over.
        """
        self._held.check()
        now = self._context.tuning.clock()
        self._context.traffic.add(count)
        with self._lock:
            self.received += count
            if now - self._reported < self._context.tuning.progress_seconds:
                return
            self._reported = now
        self._context.sink(TransferProgress(key=self._key, done=self._partial.total))
