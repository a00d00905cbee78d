"""The engine's decisions, without any I/O."""

from __future__ import annotations

import contextlib
import itertools
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfetch.core.cancel import Cancel
from modelfetch.errors import InterruptedSync, UnreachableError
from modelfetch.store.chunks import CHUNK
from modelfetch.transfer.concurrency import ConcurrencyController
from modelfetch.transfer.intervals import IntervalSet
from modelfetch.transfer.journal import (
    ChunkChecksum,
    Identity,
    checksum_line,
    identity_line,
    parse_journal,
)
from modelfetch.transfer.rate import Floor, Limiter
from modelfetch.transfer.ring_buffer import BufferPool
from modelfetch.transfer.scheduler import Segment, SegmentQueue
from modelfetch.transfer.stragglers import StragglerDetector
from modelfetch.transfer.types import Tuning

MIB = 2**20

# --- spans -----------------------------------------------------------------------------------------------------

spans_of_a_small_file = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=12)


@given(spans_of_a_small_file, st.integers(0, 45))
def test_intervals_behave_like_a_set_of_positions(added: list[tuple[int, int]], size: int) -> None:
    spans, plain = IntervalSet(), set()
    for start, end in added:
        spans.add(start, end)
        plain |= set(range(start, end))
    assert spans.total == len(plain)
    assert {p for start, end in spans for p in range(start, end)} == plain
    assert {p for start, end in spans.missing(size) for p in range(start, end)} == set(range(size)) - plain
    assert spans.covers(0, size) == (set(range(size)) <= plain)
    assert spans.end == max(plain, default=-1) + 1
    listed = list(spans)
    assert all(left[1] < right[0] for left, right in itertools.pairwise(listed))


# --- the journal -----------------------------------------------------------------------------------------------

identities = st.builds(
    Identity,
    uri=st.text(max_size=20),
    url=st.text(max_size=20),
    etag=st.none() | st.text(max_size=10),
    modified=st.none() | st.text(max_size=10),
    size=st.none() | st.integers(0, 2**50),
)
checksums = st.integers(0, CHUNK - 1).flatmap(
    lambda skip: st.builds(
        ChunkChecksum,
        chunk=st.integers(0, 1000),
        skip=st.just(skip),
        length=st.integers(1, CHUNK - skip),
        xxh3=st.integers(0, 2**64 - 1).map("{:016x}".format),
    )
)


@given(identities, st.lists(checksums, max_size=5))
def test_a_journal_is_read_as_written(identity: Identity, written: list[ChunkChecksum]) -> None:
    journal = parse_journal(identity_line(identity) + b"".join(map(checksum_line, written)))
    assert journal.identity == identity
    assert journal.checksums == {checksum.span[0]: checksum for checksum in written}


@given(st.binary(max_size=200))
def test_a_garbage_journal_lists_no_invalid_chunk(data: bytes) -> None:
    for checksum in parse_journal(data).checksums.values():
        assert 0 < checksum.length <= CHUNK


@given(identities, st.lists(checksums, max_size=4), st.data())
def test_a_damaged_journal_lists_no_additional_chunk(
    identity: Identity, written: list[ChunkChecksum], data: st.DataObject
) -> None:
    text = bytearray(identity_line(identity) + b"".join(map(checksum_line, written)))
    for _ in range(data.draw(st.integers(0, 3))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    parse_journal(bytes(text[: data.draw(st.integers(0, len(text)))]))


@pytest.mark.parametrize(
    "line",
    [
        {"chunk": -1, "length": 5, "xxh3": "0" * 16},
        {"chunk": True, "length": 5, "xxh3": "0" * 16},
        {"chunk": 0, "length": CHUNK + 1, "xxh3": "0" * 16},
        {"chunk": 0, "length": 0, "xxh3": "0" * 16},
        {"chunk": 0, "length": CHUNK, "skip": 1, "xxh3": "0" * 16},
        {"chunk": 0, "length": 5, "skip": -1, "xxh3": "0" * 16},
        {"chunk": 0, "length": 5, "skip": CHUNK, "xxh3": "0" * 16},
        {"chunk": 0, "length": 5, "xxh3": "0" * 15},
        {"chunk": 0, "length": 5, "xxh3": 5},
        {"chunk": 10**30, "length": 5, "xxh3": "0" * 16},
        {"chunk": 0.5, "length": 5, "xxh3": "0" * 16},
        {"modelfetch": 2, "uri": "a", "url": "b"},
        {"modelfetch": 1, "uri": 5, "url": "b"},
        {"modelfetch": 1, "uri": "a", "url": "b", "size": -1},
        {"modelfetch": 1, "uri": "a", "url": "b", "etag": 5},
    ],
)
def test_lines_that_make_no_sense_are_left_out(line: dict[str, object]) -> None:
    journal = parse_journal(json.dumps(line).encode())
    assert (journal.identity, journal.checksums) == (None, {})


def test_a_weak_etag_is_no_validator_and_hides_the_date() -> None:
    assert Identity(uri="", url="", etag='"a"', modified="d").validator == '"a"'
    assert Identity(uri="", url="", etag='W/"a"', modified="d").validator is None
    assert Identity(uri="", url="", modified="d").validator == "d"


# --- rates -----------------------------------------------------------------------------------------------------


def trickle(floor: Floor, count: int, seconds: range) -> None:
    for second in seconds:
        floor.note(count, float(second))


def test_a_connection_is_ended_below_the_minimum_rate() -> None:
    floor = Floor(16 * 1024, 60.0, 0.0)
    for second in range(1, 600):
        floor.note(16 * 1024, float(second))
    slow = Floor(16 * 1024, 60.0, 0.0)
    with pytest.raises(UnreachableError):
        trickle(slow, 16 * 1024 - 300, range(1, 62))


def test_a_slow_end_is_detected_after_a_fast_start() -> None:
    floor = Floor(16 * 1024, 60.0, 0.0)
    floor.note(10**9, 1.0)
    with pytest.raises(UnreachableError):
        trickle(floor, 100, range(2, 70))


def test_a_limiter_without_a_rate_never_waits() -> None:
    limiter = Limiter(None)
    limiter.take(10**15, Cancel())
    assert limiter.step is None


def test_a_cancelled_call_does_not_wait_for_the_rate_limit() -> None:
    cancel = Cancel()
    cancel.set()
    with pytest.raises(InterruptedSync):
        Limiter(1000).take(10**6, cancel)


# --- ranges ----------------------------------------------------------------------------------------------------


def test_segments_are_assigned_in_file_order() -> None:
    board = SegmentQueue([(0, 512 * MIB)])
    head = board.take()
    assert head is not None
    assert head.claim(5 * MIB) == 5 * MIB
    head.advance(5 * MIB)
    taken = [board.take(piece=16 * MIB) for _ in range(3)]
    assert head.end == 21 * MIB
    assert [(s.position, s.end) for s in taken if s] == [
        (21 * MIB, 37 * MIB),
        (37 * MIB, 53 * MIB),
        (53 * MIB, 69 * MIB),
    ]


def test_the_rest_of_a_failed_connection_is_assigned_next() -> None:
    board = SegmentQueue([(0, 512 * MIB)])
    board.take(piece=16 * MIB)
    failed, _later = board.take(piece=16 * MIB), board.take(piece=16 * MIB)
    assert failed is not None
    failed.claim(4 * MIB)
    failed.advance(3 * MIB)
    board.put_back(failed)
    again = board.take(piece=16 * MIB)
    assert again is not None
    assert (again.position, again.end) == (19 * MIB, 32 * MIB)


@pytest.mark.parametrize("piece", [None, 1 * MIB])
def test_a_segment_in_progress_is_not_assigned_twice(piece: int | None) -> None:
    """Or a source that changes its bytes could put others where the hash has been."""
    board = SegmentQueue([(0, 16 * MIB)])
    first = board.take()
    assert first is not None
    assert first.claim(10 * MIB) == 10 * MIB
    other = board.take(piece=piece, least=2 * MIB)
    assert other is not None
    assert other.position >= 10 * MIB
    assert first.end == other.position


def test_two_connections_get_halves_and_four_get_quarters() -> None:
    board = SegmentQueue([(0, 512 * MIB)])
    first = board.take()
    others = [board.take() for _ in range(3)]
    assert first is not None
    assert sorted((s.position, s.end) for s in [first, *others] if s) == [
        (0, 128 * MIB),
        (128 * MIB, 256 * MIB),
        (256 * MIB, 384 * MIB),
        (384 * MIB, 512 * MIB),
    ]


def test_a_range_that_is_nearly_done_is_not_split() -> None:
    board = SegmentQueue([(0, 3 * MIB)])
    assert board.take() is not None
    assert board.take() is None
    big = SegmentQueue([(0, 100 * MIB)])
    assert big.take() is not None
    assert big.take(least=200 * MIB) is None


def test_the_rest_of_a_failed_connection_goes_to_a_response_that_covers_it() -> None:
    board = SegmentQueue([(0, 100 * MIB)])
    head, tail = board.take(), board.take()
    assert head is not None
    assert tail is not None
    head.requested_end = 100 * MIB
    board.put_back(tail)
    assert head.end == 100 * MIB
    head.requested_end = 50 * MIB
    tail = board.take()
    assert tail is not None
    board.put_back(tail)
    again = board.take()
    assert again is not None
    assert (again.position, again.end) == (tail.position, tail.end)


@given(
    st.integers(1, 300),
    st.lists(st.tuples(st.sampled_from(["take", "claim", "work", "leave"]), st.integers(0, 9)), max_size=60),
)
def test_every_byte_is_done_assigned_or_queued_exactly_once(size: int, steps: list[tuple[str, int]]) -> None:
    """Whatever connections do, the bytes done and those on the board are the file, and each is on it once."""
    board, done = SegmentQueue([(0, size * MIB)]), IntervalSet()
    working: list[Segment] = []
    claims: dict[int, int] = {}
    for what, which in steps:
        if what == "take":
            if (segment := board.take(piece=7 * MIB if which % 2 else None, least=2 * MIB)) is not None:
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
            board.put_back(segment)
        assert done.total + board.left == size * MIB
        assert all(s.end is not None and s.position + claims.get(id(s), 0) <= s.end for s in working)


# --- buffers ---------------------------------------------------------------------------------------------------


def test_the_buffers_of_many_connections_stay_small_and_are_used_again() -> None:
    pool = BufferPool(buffers=4, large=4 * MIB, small=MIB, single=MIB)
    for _ in range(3):
        with contextlib.ExitStack() as stack:
            slots = [stack.enter_context(pool.single()) for _ in range(64)]
            assert len({id(slot) for slot in slots}) == 64
            assert sum(len(slot.memory) for slot in slots) <= 28 * MIB
    with pool.single() as slot:
        assert len(slot.memory) == MIB


# --- growth ----------------------------------------------------------------------------------------------------


def simulate(
    per_connection: float, total: float, *, most: int, size: int, limit: int | None = None
) -> tuple[int, float]:
    """Connections in the end, and seconds, for a link with a rate per connection and one in all."""
    controller = ConcurrencyController(most, limit=limit, setup=0.01, tuning=Tuning())
    now, done, active = 0.0, 0, 1
    while done < size:
        now += 0.02
        done += int(min(active * per_connection, total, limit or 1e18) * 0.02)
        active += controller.step(now, done, active=active, left=size - done)
    return active, now


def test_a_server_with_a_cap_per_connection_quickly_gets_the_maximum_of_connections() -> None:
    for most in (4, 8, 16):
        connections, seconds = simulate(50e6, 1e12, most=most, size=512 * MIB)
        assert connections == most
        assert seconds < 1.4 * 512 * MIB / (50e6 * most)


def test_a_fast_link_gets_no_further_connection() -> None:
    assert simulate(2 * Tuning().fast_rate, 2 * Tuning().fast_rate, most=16, size=4096 * MIB)[0] == 1


def test_a_full_link_soon_gets_no_further_connection() -> None:
    assert simulate(10e6, 10e6, most=16, size=60 * MIB)[0] == 1


def test_a_short_file_gets_no_further_connection() -> None:
    assert simulate(50e6, 1e12, most=16, size=10 * MIB)[0] == 1


def test_the_rate_limit_of_the_user_causes_no_further_connection() -> None:
    assert simulate(50e6, 1e12, most=16, size=100 * MIB, limit=10_000_000)[0] == 1


def test_buffered_bytes_cause_no_further_connection() -> None:
    controller = ConcurrencyController(16, limit=None, setup=0.01, tuning=Tuning())
    assert not any(controller.step(n / 50, n * 10**6, active=1, left=10**10, behind=0.9) for n in range(200))
    assert any(
        controller.step(4 + n / 50, 2 * 10**8 + n * 10**6, active=1, left=10**10, behind=0.1) for n in range(200)
    )


def test_a_refused_connection_ends_the_growth() -> None:
    controller = ConcurrencyController(16, limit=None, setup=0.01, tuning=Tuning())
    controller.failed(0.0, refused=True, active=3)
    assert controller.most == 3


def test_bursts_over_a_slow_link_do_not_end_the_growth() -> None:
    """Every 0.3 s each connection gets its window's worth, and nothing in between."""
    controller = ConcurrencyController(8, limit=None, setup=0.45, tuning=Tuning())
    done, active = 0, 1
    for tick in range(1, 500):
        done += active * 2 * MIB * (tick % 15 == 0)
        active += controller.step(tick / 50, done, active=active, left=10**10)
    assert active == 8


@pytest.mark.parametrize("rate", [0, 15_000])
def test_connections_without_throughput_cause_no_further_ones(rate: int) -> None:
    """Else some would always be waiting for an answer, and the attempt would never have failed."""
    controller = ConcurrencyController(8, limit=None, setup=0.01, floor=16 * 1024, tuning=Tuning())
    assert not any(controller.step(n / 50, n * rate // 50, active=1, left=10**10) for n in range(500))
    assert any(controller.step(10 + n / 50, 150_000 + n * 10**6, active=1, left=10**10) for n in range(500))


def test_noise_does_not_cause_unlimited_growth() -> None:
    random_ = random.Random(1)
    controller = ConcurrencyController(16, limit=None, setup=0.01, tuning=Tuning())
    now, done, active = 0.0, 0, 1
    while now < 5:
        now += 0.02
        done += int(20e6 * 0.02 * random_.uniform(0.97, 1.03))
        active += controller.step(now, done, active=active, left=10**12)
    assert active <= 4


# --- stragglers ------------------------------------------------------------------------------------------------


def let_go(rates: list[float], *, size: int = 20 * MIB, at_end: bool = True, slow_after: float = 1e9) -> int:
    """How many connections are let go within ten seconds, each with its rate, a hundredth of it after a while."""
    stragglers, received = StragglerDetector(4), 0
    segments = [Segment(0, size) for _ in rates]
    cancels = [Cancel() for _ in rates]
    for segment, cancel in zip(segments, cancels, strict=True):
        stragglers.begin(segment, cancel, 0.0)
    for tick in range(1, 500):
        for segment, rate in zip(segments, rates, strict=True):
            count = min(segment.left, int(rate / 50 / (100 if tick / 50 > slow_after else 1)))
            segment.position += count
            received += count
        active = sum(segment.left > 0 for segment in segments)
        found = stragglers.step(tick / 50, received, active=active, setup=0.05, at_end=at_end)
        if found is not None:
            found.set()
    return sum(cancel.is_set() for cancel in cancels)


def test_the_connection_that_delays_the_end_is_closed() -> None:
    assert let_go([20e6, 20e6, 20e6, 1e4]) == 1
    assert let_go([20e6, 20e6, 20e6, 0]) == 1


def test_a_connection_as_slow_as_the_others_is_kept() -> None:
    assert let_go([1e5]) == 0
    assert let_go([1e5, 2e5, 1e5]) == 0


def test_no_connection_is_closed_while_work_remains() -> None:
    assert let_go([20e6, 20e6, 1e4], at_end=False) == 0


def test_a_link_that_becomes_slow_closes_each_connection_at_most_once() -> None:
    assert 0 < let_go([5e6] * 6, size=100 * MIB, slow_after=2.0) <= 4
