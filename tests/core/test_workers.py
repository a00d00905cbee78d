"""Blocking work in threads: its result or exception reaches the task, and hanging work blocks nothing."""

from __future__ import annotations

import asyncio
import threading

import pytest

from modelfetch.core.cancel import Cancel
from modelfetch.core.workers import Workers, run_in_thread


def test_work_in_a_thread_gives_its_result_or_its_exception() -> None:
    async def main() -> None:
        workers = Workers()
        assert (await run_in_thread(lambda: 7), await workers.run(lambda: 8, Cancel())) == (7, 8)
        with pytest.raises(ZeroDivisionError):
            await run_in_thread(lambda: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            await workers.run(lambda: 1 // 0, Cancel())
        workers.close()

    asyncio.run(main())


def test_without_further_threads_the_executor_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        await asyncio.to_thread(int)
        monkeypatch.setattr(threading.Thread, "start", start)
        assert await run_in_thread(lambda: 7) == 7
        monkeypatch.undo()

    asyncio.run(main())


def test_work_that_never_ends_blocks_neither_its_task_nor_the_loop() -> None:
    blocked = threading.Event()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(run_in_thread(lambda: blocked.wait(30)), 0.05)
        task = asyncio.create_task(run_in_thread(lambda: blocked.wait(30)))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    blocked.set()
