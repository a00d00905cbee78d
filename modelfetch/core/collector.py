"""Keep Python's garbage collector from stopping all threads of a large run for long.

A full collection visits every object that exists, and no thread runs meanwhile. What a run knows about its files lives
until the run ends and forms no cycles, so there is nothing to find among it.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_lock = threading.Lock()
_runs = 0


@contextlib.contextmanager
def short_collections() -> Iterator[None]:
    """Exempt what survives a partial collection from full ones while the block runs.

    It has no effect in a program that has called `gc.freeze` itself. Afterwards everything is collected as before,
    unless another such block runs in this process.
    """
    global _runs  # noqa: PLW0603 - there is one collector in a process
    with _lock:
        if ours := _runs > 0 or gc.get_freeze_count() == 0:
            _runs += 1
        if _runs == 1:
            gc.freeze()
            gc.callbacks.append(_exempt)
    try:
        yield
    finally:
        with _lock:
            _runs -= ours
            if ours and _runs == 0:
                gc.callbacks.remove(_exempt)
                gc.unfreeze()


def _exempt(phase: str, info: Mapping[str, int]) -> None:
    if phase == "stop" and info["generation"] > 0:
        gc.freeze()
