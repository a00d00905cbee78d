"""Run many coroutines, a limited number at a time, so that the event loop never starts thousands in one step."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

T = TypeVar("T")
R = TypeVar("R")


async def map_bounded(work: Callable[[T], Awaitable[R]], items: Sequence[T], *, limit: int) -> list[R]:
    """Await ``work`` for each item, at most ``limit`` at a time, and return the results in the order of the items.

    The first exception cancels what is still running, and is raised.
    """
    results: dict[int, R] = {}
    waiting = iter(enumerate(items))

    async def run() -> None:
        for index, item in waiting:
            results[index] = await work(item)
            await asyncio.sleep(0)  # work that never waits must not block the loop

    tasks = [asyncio.create_task(run()) for _ in range(min(limit, len(items)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [results[index] for index in range(len(items))]
