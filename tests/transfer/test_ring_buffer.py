from __future__ import annotations

import contextlib

from modelfetch.transfer.ring_buffer import BufferPool

MIB = 2**20


def test_the_buffers_of_many_connections_stay_small_and_are_used_again() -> None:
    pool = BufferPool(buffers=4, large=4 * MIB, small=MIB, single=MIB)
    for _ in range(3):
        with contextlib.ExitStack() as stack:
            slots = [stack.enter_context(pool.single()) for _ in range(64)]
            assert len({id(slot) for slot in slots}) == 64
            assert sum(len(slot.memory) for slot in slots) <= 28 * MIB
    with pool.single() as slot:
        assert len(slot.memory) == MIB
