"""Full garbage collections skip the objects of a run."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from modelfetch.core.collector import short_collections

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _nothing_frozen() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()


def test_survivors_of_a_partial_collection_are_exempt_until_the_end() -> None:
    callbacks = list(gc.callbacks)
    with short_collections():
        before = gc.get_freeze_count()
        kept = [[number] for number in range(20_000)]
        gc.collect(1)
        assert gc.get_freeze_count() > before + len(kept) // 2
    assert gc.get_freeze_count() == 0
    assert gc.callbacks == callbacks


def test_collection_is_adjusted_until_the_last_run_ends() -> None:
    with short_collections():
        with short_collections():
            pass
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0


def test_a_program_that_froze_its_objects_keeps_them_frozen() -> None:
    gc.freeze()
    before, callbacks = gc.get_freeze_count(), list(gc.callbacks)
    with short_collections():
        assert gc.callbacks == callbacks
    assert gc.get_freeze_count() > before // 2  # other threads may have released some of them
