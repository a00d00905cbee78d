from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfetch.transfer.intervals import IntervalSet
from modelfetch.transfer.scheduler import Segment, SegmentQueue

MIB = 2**20


def test_segments_are_assigned_in_file_order() -> None:
    queue = SegmentQueue([(0, 512 * MIB)])
    head = queue.take()
    assert head is not None
    assert head.claim(5 * MIB) == 5 * MIB
    head.advance(5 * MIB)
    taken = [queue.take(piece=16 * MIB) for _ in range(3)]
    assert head.end == 21 * MIB
    assert [(s.position, s.end) for s in taken if s] == [
        (21 * MIB, 37 * MIB),
        (37 * MIB, 53 * MIB),
        (53 * MIB, 69 * MIB),
    ]


def test_the_rest_of_a_failed_connection_is_assigned_next() -> None:
    queue = SegmentQueue([(0, 512 * MIB)])
    queue.take(piece=16 * MIB)
    failed, _later = queue.take(piece=16 * MIB), queue.take(piece=16 * MIB)
    assert failed is not None
    failed.claim(4 * MIB)
    failed.advance(3 * MIB)
    queue.put_back(failed)
    again = queue.take(piece=16 * MIB)
    assert again is not None
    assert (again.position, again.end) == (19 * MIB, 32 * MIB)


@pytest.mark.parametrize("piece", [None, 1 * MIB])
def test_a_segment_in_progress_is_not_assigned_twice(piece: int | None) -> None:
    """Or a source that changes its bytes could put others where the hash has been."""
    queue = SegmentQueue([(0, 16 * MIB)])
    first = queue.take()
    assert first is not None
    assert first.claim(10 * MIB) == 10 * MIB
    other = queue.take(piece=piece, least=2 * MIB)
    assert other is not None
    assert other.position >= 10 * MIB
    assert first.end == other.position


def test_two_connections_get_halves_and_four_get_quarters() -> None:
    queue = SegmentQueue([(0, 512 * MIB)])
    first = queue.take()
    others = [queue.take() for _ in range(3)]
    assert first is not None
    assert sorted((s.position, s.end) for s in [first, *others] if s) == [
        (0, 128 * MIB),
        (128 * MIB, 256 * MIB),
        (256 * MIB, 384 * MIB),
        (384 * MIB, 512 * MIB),
    ]


def test_a_range_that_is_nearly_done_is_not_split() -> None:
    queue = SegmentQueue([(0, 3 * MIB)])
    assert queue.take() is not None
    assert queue.take() is None
    big = SegmentQueue([(0, 100 * MIB)])
    assert big.take() is not None
    assert big.take(least=200 * MIB) is None


def test_the_rest_of_a_failed_connection_goes_to_a_response_that_covers_it() -> None:
    queue = SegmentQueue([(0, 100 * MIB)])
    head, tail = queue.take(), queue.take()
    assert head is not None
    assert tail is not None
    head.requested_end = 100 * MIB
    queue.put_back(tail)
    assert head.end == 100 * MIB
    head.requested_end = 50 * MIB
    tail = queue.take()
    assert tail is not None
    queue.put_back(tail)
    again = queue.take()
    assert again is not None
    assert (again.position, again.end) == (tail.position, tail.end)


@given(
    st.integers(1, 300),
    st.lists(st.tuples(st.sampled_from(["take", "claim", "work", "leave"]), st.integers(0, 9)), max_size=60),
)
def test_every_byte_is_done_assigned_or_queued_exactly_once(size: int, steps: list[tuple[str, int]]) -> None:
    """Whatever connections do, the bytes done and those in the queue are the file, and each is in it once."""
    queue, done = SegmentQueue([(0, size * MIB)]), IntervalSet()
    working: list[Segment] = []
    claims: dict[int, int] = {}
    for what, which in steps:
        if what == "take":
            if (segment := queue.take(piece=7 * MIB if which % 2 else None, least=2 * MIB)) is not None:
                segment.answered(segment.end if which % 3 else size * MIB, size * MIB)
                working.append(segment)
        elif not working:
            continue
        elif what == "claim":
            segment = working[which % len(working)]
            claims[id(segment)] = segment.claim(5 * MIB)
        elif what == "work":  # less than was claimed may have come
            segment = working[which % len(working)]
            step = min(claims.pop(id(segment), 0), 3 * MIB)
            done.add(segment.position, segment.position + step)
            segment.advance(step)
        else:
            segment = working.pop(which % len(working))
            claims.pop(id(segment), None)
            queue.put_back(segment)
        assert done.total + queue.left == size * MIB
        assert all(s.end is not None and s.position + claims.get(id(s), 0) <= s.end for s in working)
