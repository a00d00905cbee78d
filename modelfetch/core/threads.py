"""Run a coroutine to completion from synchronous code."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from modelfetch.core.limits import require_files_of_loop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from typing import ParamSpec

    from modelfetch.core.cancel import Cancel

    P = ParamSpec("P")

T = TypeVar("T")

_POLL_INTERVAL = 0.1
"""Seconds between two checks for cancellation of the calling task."""

_SHUTDOWN_GRACE = 1.0
"""Grace period for releasing locks on interruption, in seconds."""


def run_anywhere(start: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine to completion: in this thread if it has no running loop, else in a thread with a new loop.

    If the caller is interrupted (Ctrl-C, a cancelled task), the work ends first; then the interruption is raised.

    Raises:
        RetryLaterError: No further file can be opened.
    """

    async def main() -> T:
        executor = FrugalExecutor(thread_name_prefix="modelfetch-worker")
        asyncio.get_running_loop().set_default_executor(executor)
        try:
            return await start()
        finally:
            executor.shutdown()  # here, because the loop's own shutdown needs another thread

    require_files_of_loop()
    try:
        caller = asyncio.current_task()
    except RuntimeError:
        pass  # the work's errors must not appear as raised while this one was handled
    else:
        return _ThreadedRunner(main).result(caller)
    return asyncio.run(main())


def blocking(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Return the blocking form of ``NAME_async``: same parameters and documentation, see `run_anywhere`."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return run_anywhere(lambda: function(*args, **kwargs))

    call.__name__ = function.__name__.removesuffix("_async")
    call.__qualname__ = call.__name__
    return call


async def until_cancelled(work: Coroutine[Any, Any, T], cancel: Cancel) -> T:
    """Await ``work``, and end it when ``cancel`` is set, from any thread.

    Raises:
        InterruptedSync: ``cancel`` was set.
        asyncio.CancelledError: The caller's own task was cancelled, which ends the work too.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)

    def end() -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed at the same moment
            loop.call_soon_threadsafe(task.cancel)

    withdraw = cancel.on_cancel(end)
    try:
        return await task
    except asyncio.CancelledError:
        caller = asyncio.current_task()
        if not cancel.is_set() or (caller is not None and caller.cancelling()):
            raise
        raise cancel.error() from None
    finally:
        withdraw()


class FrugalExecutor(ThreadPoolExecutor):
    """An executor that uses its existing threads if the system allows no more."""

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            if not self._threads:
                raise


class _ThreadedRunner(Generic[T]):
    """Runs a coroutine on its own event loop in a worker thread."""

    def __init__(self, main: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._main = main
        self._results: list[T] = []
        self._errors: list[BaseException] = []
        self._at_work: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="modelfetch", daemon=True)

    def result(self, caller: asyncio.Task[Any] | None) -> T:
        """Wait for the result; end early if the calling task is cancelled, which it can't detect while it waits."""
        try:
            self._thread.start()  # inside: an interrupt during the start must end the work, too
            while self._thread.is_alive():
                self._thread.join(_POLL_INTERVAL)
                if caller is not None and caller.cancelling():
                    self._end()
        except BaseException:
            self._end()
            if self._thread.ident is not None:
                self._thread.join(_SHUTDOWN_GRACE)
            raise
        if self._errors:
            raise self._errors[0]
        return self._results[0]

    def _end(self) -> None:
        self._is_over.set()
        if self._at_work is not None:
            loop, task = self._at_work
            with contextlib.suppress(RuntimeError):  # the loop was closed at the same moment
                loop.call_soon_threadsafe(task.cancel)

    def _run(self) -> None:
        try:
            self._results.append(asyncio.run(self._watched()))
        except BaseException as error:
            self._errors.append(error)

    async def _watched(self) -> T:
        task = asyncio.ensure_future(self._main())
        self._at_work = asyncio.get_running_loop(), task
        if self._is_over.is_set():
            task.cancel()
        return await task
