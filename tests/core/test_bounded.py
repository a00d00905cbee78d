"""Many coroutines, a limited number at a time."""

from __future__ import annotations

import asyncio

import pytest

from modelfetch.core.bounded import map_bounded


def test_results_come_in_the_order_of_the_items() -> None:
    async def work(number: int) -> int:
        await asyncio.sleep(0.001 * (5 - number))
        return number * 2

    assert asyncio.run(map_bounded(work, range(5), limit=3)) == [0, 2, 4, 6, 8]
    assert asyncio.run(map_bounded(work, [], limit=3)) == []


def test_no_more_than_the_limit_run_at_once() -> None:
    running, most = 0, 0

    async def work(_: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running, len(asyncio.all_tasks()) - 1)
        await asyncio.sleep(0)
        running -= 1

    asyncio.run(map_bounded(work, range(500), limit=7))
    assert most == 7


def test_items_without_await_do_not_block_the_loop() -> None:
    done = 0
    longest = 0

    async def work(_: int) -> None:
        nonlocal done
        done += 1

    async def watch() -> None:
        nonlocal longest
        before = done
        while True:
            await asyncio.sleep(0)
            longest, before = max(longest, done - before), done

    async def main() -> None:
        watcher = asyncio.create_task(watch())
        await map_bounded(work, range(1000), limit=10)
        watcher.cancel()

    asyncio.run(main())
    assert longest <= 10


def test_the_first_failure_cancels_the_others_and_starts_no_more() -> None:
    started: list[int] = []
    ended: list[int] = []

    async def work(number: int) -> None:
        started.append(number)
        try:
            if number == 1:
                raise ValueError(number)
            await asyncio.sleep(60)
        finally:
            ended.append(number)

    with pytest.raises(ValueError, match="1"):
        asyncio.run(map_bounded(work, range(100), limit=3))
    assert started == [0, 1, 2]
    assert sorted(ended) == started
