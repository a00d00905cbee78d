"""The transfer engine: schedules many artifacts in the event loop and downloads them in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from modelfetch.config.options import Options
from modelfetch.core.cancel import Cancel
from modelfetch.core.events import Sink, discard
from modelfetch.core.workers import Workers
from modelfetch.errors import ModelfetchError
from modelfetch.store.locks.files import LockFiles
from modelfetch.transfer.fetch import fetch
from modelfetch.transfer.rate import Limiter
from modelfetch.transfer.ring_buffer import BufferPool
from modelfetch.transfer.types import Context, Fetched, Traffic, Tuning

if TYPE_CHECKING:
    from modelfetch.core.artifact import Artifact, Location
    from modelfetch.http import Http
    from modelfetch.store.store import Store

Mirror = Callable[[], Awaitable[Sequence["Location"]]]
"""Looks up where a mirror has the artifact; awaited only when the locations before it have failed."""

_SMALL_PER_JOB = 4
_MAX_SMALL = 32


class Engine:
    """Fetches artifacts into a store.

    Args:
        http: The HTTP client.
        store: The store that artifacts are fetched into.
        options: The user's options. Of small files (up to `Tuning.small` bytes), four times as many as ``jobs`` are
            fetched at once.
        sink: Receives events.
        cancel: Ends all transfers when it is set.
        tuning: Intervals and sizes that tests change.
    """

    def __init__(
        self,
        *,
        http: Http,
        store: Store,
        options: Options | None = None,
        sink: Sink = discard,
        cancel: Cancel | None = None,
        tuning: Tuning | None = None,
    ) -> None:
        options, tuning = options or Options(), tuning or Tuning()
        self._cancel = cancel or Cancel()
        self._context = Context(
            http=http,
            store=store,
            options=options,
            tuning=tuning,
            limiter=Limiter(options.limit_rate),
            buffer_pool=BufferPool(
                buffers=tuning.ring_buffers,
                large=tuning.ring_bytes,
                small=min(tuning.ring_bytes, tuning.shared_ring_bytes),
                single=tuning.single_bytes,
            ),
            lock_files=LockFiles(store.path / "locks"),
            traffic=Traffic(),
            sink=sink,
        )
        jobs = max(1, options.jobs)
        self._large = asyncio.Semaphore(jobs)
        self._small = asyncio.Semaphore(1 if jobs == 1 else min(_MAX_SMALL, jobs * _SMALL_PER_JOB))
        self._workers = Workers()
        self._running: set[asyncio.Task[Fetched]] = set()

    @property
    def bytes_received(self) -> int:
        """The bytes that all transfers received so far."""
        return self._context.traffic.received

    async def fetch(self, artifact: Artifact, mirrors: Sequence[Mirror] = (), *, label: str) -> Fetched:
        """Fetch an artifact into the store unless it is there.

        A call for an artifact that is being fetched waits for its lock. A run shares one transfer among its models
        instead, by `TransferDeduplicator`.

        Args:
            artifact: The artifact, with its own locations.
            mirrors: Further locations, each looked up when it is needed.
            label: Its name in events and messages.

        Raises:
            ModelfetchError: The sources, the disk or the lock failed.
            InterruptedSync: The engine's `cancel` was set.
            asyncio.CancelledError: The task was cancelled; partial work is kept.
        """
        task = asyncio.create_task(self._run(artifact, mirrors, label))
        self._running.add(task)
        try:
            return await task
        finally:
            self._running.discard(task)

    async def close(self) -> None:
        """Cancel running transfers and wait until they have saved their partial files."""
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._workers.run(self._settle, Cancel())
        self._workers.close()

    def _settle(self) -> None:
        self._context.store.settle()
        self._context.lock_files.clear()

    async def _run(self, artifact: Artifact, mirrors: Sequence[Mirror], label: str) -> Fetched:
        small = artifact.size is not None and artifact.size <= self._context.tuning.small
        async with self._small if small else self._large:
            cancel = self._cancel.child()
            locations = _locations(artifact, mirrors, asyncio.get_running_loop(), cancel)

            def work() -> Fetched:
                try:
                    return fetch(self._context, artifact, locations, label=label, cancel=cancel)
                finally:
                    if len(self._running) <= 1:  # leave no file of ours in a store that may be removed
                        self._context.lock_files.clear()

            try:
                return await self._workers.run(work, cancel)
            finally:
                cancel.release()


def _locations(
    artifact: Artifact, mirrors: Sequence[Mirror], loop: asyncio.AbstractEventLoop, cancel: Cancel
) -> Iterator[Location | ModelfetchError]:
    """Yield the artifact's own locations, then those of each mirror; runs in the transfer's thread."""
    yield from artifact.locations
    for mirror in mirrors:
        yield from _look_up_mirror(mirror, loop, cancel)


def _look_up_mirror(
    mirror: Mirror, loop: asyncio.AbstractEventLoop, cancel: Cancel
) -> Sequence[Location | ModelfetchError]:
    async def find() -> Sequence[Location]:
        return await mirror()

    future = asyncio.run_coroutine_threadsafe(find(), loop)
    withdraw = cancel.on_cancel(future.cancel)
    try:
        return future.result()
    except ModelfetchError as error:
        return (error,)
    finally:
        withdraw()
        cancel.check()
