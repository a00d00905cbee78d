from __future__ import annotations

import contextlib

import pytest

from modelfetch.errors import UnreachableError
from modelfetch.transfer.ring_buffer import BufferPool, RingBuffer

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


def test_a_failed_write_is_reported_also_if_the_connection_breaks_then() -> None:
    class FailingWriter:
        fd = -1

        def hash(self, offset: int, data: memoryview) -> None: ...

        def done(self, end: int) -> None: ...

    pool = BufferPool(buffers=4, large=MIB, small=MIB, single=MIB)
    ring = RingBuffer(FailingWriter(), pool=pool, flush=lambda _end: None)  # type: ignore[arg-type]
    assert ring.start()
    ring.publish(ring.take(), 0, MIB)
    with pytest.raises(OSError, match="Bad file descriptor"), ring:
        raise UnreachableError("the connection broke")
