from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from modelfetch.errors import UnreachableError
from modelfetch.sources.resolver import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable


def _run(work: Callable[[], object], limit: float) -> object:
    return asyncio.run(in_thread(work, limit=limit))


def test_work_in_a_thread_gives_its_result_or_its_exception() -> None:
    assert _run(lambda: 7, 5) == 7
    with pytest.raises(ZeroDivisionError):
        _run(lambda: 1 // 0, 5)


def test_work_that_never_ends_holds_up_neither_the_attempt_nor_the_loop() -> None:
    blocked = threading.Event()
    with pytest.raises(UnreachableError) as caught:
        _run(lambda: blocked.wait(30), 0.05)
    assert (caught.value.code, caught.value.permanent) == ("timeout", False)
    blocked.set()


def test_a_cancelled_question_ends_at_once() -> None:
    blocked = threading.Event()

    async def ask() -> None:
        task = asyncio.create_task(in_thread(lambda: blocked.wait(30), limit=60))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(ask())
    blocked.set()
