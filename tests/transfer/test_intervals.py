from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from modelfetch.transfer.intervals import IntervalSet

intervals_of_a_small_file = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=12)


@given(intervals_of_a_small_file, st.integers(0, 45))
def test_intervals_behave_like_a_set_of_positions(added: list[tuple[int, int]], size: int) -> None:
    intervals, plain = IntervalSet(), set()
    for start, end in added:
        intervals.add(start, end)
        plain |= set(range(start, end))
    assert intervals.total == len(plain)
    assert {p for start, end in intervals for p in range(start, end)} == plain
    assert {p for start, end in intervals.missing(size) for p in range(start, end)} == set(range(size)) - plain
    assert intervals.covers(0, size) == (set(range(size)) <= plain)
    assert intervals.end == max(plain, default=-1) + 1
    listed = list(intervals)
    assert all(left[1] < right[0] for left, right in itertools.pairwise(listed))
