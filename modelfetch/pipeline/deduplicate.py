"""Share one transfer between models that need the same bytes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from modelfetch.errors import OF_THE_SOURCE, ModelfetchError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable
    from typing import Any

    from modelfetch.transfer import Fetched


class TransferDeduplicator:
    """Runs each transfer once for all callers; if it fails, a caller that knows another way tries that."""

    def __init__(self) -> None:
        self._current: dict[str, tuple[Hashable, asyncio.Task[Fetched]]] = {}
        self._failed: dict[tuple[str, Hashable], ModelfetchError] = {}

    async def get(
        self, key: str, way: Hashable, start: Callable[[], Coroutine[Any, Any, Fetched]]
    ) -> tuple[Fetched, bool]:
        """Return what was fetched, and whether this call was the one that fetched it.

        Args:
            key: Identifies the bytes.
            way: Identifies a way to get them; each way is tried at most once.
            start: Starts the transfer by this way.

        Raises:
            ModelfetchError: This way has failed, or the failure would be the same any other way.
        """
        while True:
            mine = key not in self._current
            if (known := self._failed.get((key, way))) is not None:
                raise known
            if mine:
                self._current[key] = way, asyncio.create_task(start())
            gone, task = self._current[key]
            try:
                return await asyncio.shield(task), mine
            except ModelfetchError as error:
                self._failed[key, gone] = error
                if gone == way or not isinstance(error, OF_THE_SOURCE):
                    raise
                if self._current.get(key) == (gone, task):
                    del self._current[key]

    async def close(self) -> None:
        """Cancel the transfers that no caller is waiting for."""
        tasks = [task for _, task in self._current.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
