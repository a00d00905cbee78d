"""Daemon threads for blocking work that a coroutine awaits; one that hangs in a system call blocks no exit."""

from __future__ import annotations

import asyncio
import ctypes
import threading
import time
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from modelfetch.core.limits import limit_error
from modelfetch.errors import InterruptedSync

if TYPE_CHECKING:
    from collections.abc import Callable

    from modelfetch.core.cancel import Cancel

_T = TypeVar("_T")
_MEMORY_PAUSE = 0.05  # seconds
_GRACE = 0.8  # seconds in which cancelled work can save its state


async def run_in_thread(work: Callable[[], _T]) -> _T:
    """Run blocking work in a new thread; a cancelled task does not wait for the thread.

    If the system allows no further thread, the work takes its turn in those of the loop's executor.

    Raises:
        Exception: Any exception of ``work``.
    """
    future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
    try:
        threading.Thread(target=_delivering(work, future), name="modelfetch-worker", daemon=True).start()
    except RuntimeError:
        return await asyncio.to_thread(work)
    return await future


class Workers:
    """Reused threads, as many as there is simultaneous work: thousands of small files would start one each."""

    def __init__(self) -> None:
        with suppress(OSError):
            # glibc loads it when a thread ends, and aborts the process if there is no memory left for it then.
            ctypes.CDLL("libgcc_s.so.1")
        self._lock = threading.Lock()
        self._idle = 0
        self._count = 0
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    async def run(self, work: Callable[[], _T], cancel: Cancel) -> _T:
        """Run blocking work in a thread; cancelling the task cancels the work."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()
        ended = asyncio.Event()
        self._submit(_delivering(work, future, ended))
        try:
            return await future
        except asyncio.CancelledError:
            cancel.set()
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), _GRACE)
            raise

    def close(self) -> None:
        """End the idle threads."""
        with self._lock:
            count, self._count, self._idle = self._count, 0, 0
        for _ in range(count):
            self._queue.put(None)

    def _submit(self, do: Callable[[], None]) -> None:
        with self._lock:
            if self._idle > 0:
                self._idle -= 1
            else:
                self._add_thread()
        self._queue.put(do)

    def _add_thread(self) -> None:
        """Start a thread; where the system allows no further one, the existing ones do the work in turn."""
        try:
            threading.Thread(target=self._serve, name="modelfetch-transfer", daemon=True).start()
        except RuntimeError as error:
            if self._count == 0:
                raise limit_error(error) or error from None
        else:
            self._count += 1

    def _serve(self) -> None:
        while (do := self._queue.get()) is not None:
            do()
            del do  # what it refers to may be large
            with self._lock:
                self._idle += 1


def _delivering(
    work: Callable[[], _T], future: asyncio.Future[_T], ended: asyncio.Event | None = None
) -> Callable[[], None]:
    """Return a function that does the work in any thread and sets its result, and ``ended``, in the future's loop."""
    loop = future.get_loop()

    def do() -> None:
        result: Any = None
        error: BaseException | None = None
        try:
            result = work()
        except BaseException as caught:
            error = caught
        while True:
            try:
                with suppress(RuntimeError):  # the loop is gone, so no task is waiting
                    loop.call_soon_threadsafe(_settle, future, ended, result, error)
                return
            except MemoryError:  # the task would wait forever
                time.sleep(_MEMORY_PAUSE)

    return do


def _settle(future: asyncio.Future[_T], ended: asyncio.Event | None, result: _T, error: BaseException | None) -> None:
    if ended is not None:
        ended.set()
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        # Here, not in the thread: making the error takes memory, and whatever happens the future must get a result.
        error = limit_error(error) or error
        future.set_exception(error if isinstance(error, Exception) else InterruptedSync(str(error)))
