"""The simulated allocator of ggml: which tensors share memory, and where they are placed."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from modelfetch.fitting.llm.allocator import GIVEN, Graph, Tensor, _Memory


def new(size: int, *sources: Tensor, inplace: bool = False) -> Tensor:
    return Tensor(shape=(size // 4,), sources=sources, inplace=inplace)


def peak_bytes(*ends: Tensor) -> int:
    graph = Graph()
    for end in ends:
        graph.expand(end)
    return graph.peak_bytes()


def test_an_input_is_freed_right_after_its_last_use() -> None:
    first = new(640, GIVEN)
    second = new(320, first)
    assert peak_bytes(new(640, second)) == 960
    first = new(640, GIVEN)
    second = new(320, first)
    assert peak_bytes(new(640, second), new(32, first)) == 960 + 640


def test_in_place_operations_allocate_nothing() -> None:
    first = new(640, GIVEN)
    assert peak_bytes(new(640, new(640, first, inplace=True), inplace=True)) == 640


def test_a_tensor_is_overwritten_only_if_unused_and_of_the_same_layout() -> None:
    first = new(640, GIVEN)
    assert peak_bytes(new(640, new(640, first, inplace=True), first)) == 3 * 640
    assert peak_bytes(new(320, new(640, GIVEN), inplace=True)) == 960
    assert peak_bytes(new(640, GIVEN, inplace=True)) == 640


def test_a_view_allocates_nothing_keeps_its_tensor_and_is_never_overwritten() -> None:
    first = new(640, GIVEN)
    view = first.view(8, 20)
    assert peak_bytes(Tensor(shape=(8, 20), sources=(view,), inplace=True)) == 1280
    first = new(640, GIVEN)
    one, two = first.view(10, 16), first.view(20, 8)
    middle = new(320, one)
    assert peak_bytes(new(640, middle, two)) == 640 + 320 + 640


def test_inputs_are_allocated_before_any_operation() -> None:
    late = Tensor(shape=(160,), is_input=True)
    assert peak_bytes(new(32, new(640, GIVEN), late)) == 640 + 640 + 32


def test_sizes_are_multiples_of_the_alignment() -> None:
    assert peak_bytes(Tensor(shape=(1, 3), width=2, sources=(GIVEN,))) == 32


def test_a_cast_that_lists_itself_as_an_input_is_freed() -> None:
    def rest(cast: Tensor) -> int:
        return peak_bytes(new(640, new(32, new(32, cast))))

    cast = new(640, GIVEN)
    cast.sources = (GIVEN, cast)
    assert rest(cast) == rest(new(640, GIVEN)) == 32 + 640


def test_the_smallest_free_block_that_fits_is_used() -> None:
    memory = _Memory()
    places = [memory.take(size) for size in (96, 32, 64, 32, 96, 32)]
    for place, size in zip(places[::2], (96, 64, 96), strict=True):
        memory.free(place, size)
    assert memory.take(64) == places[2]
    assert memory.take(96) == places[4]  # of two that are as good the last
    assert memory.take(96) == places[0]
    assert memory.take(64) == 352
    assert memory.peak_bytes == 416


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 40)), max_size=80))
def test_tensors_in_use_do_not_overlap(steps: list[tuple[int, int]]) -> None:
    memory, highest = _Memory(), 0
    used: list[tuple[int, int]] = []
    for choice, size in steps:
        if choice < 4 and used:
            memory.free(*used.pop(choice % len(used)))
        else:
            place = memory.take(size)
            used.append((place, size))
            highest = max(highest, place + size)
    ordered = sorted(used)
    assert all(place + size <= after for (place, size), (after, _) in pairwise(ordered))
    assert memory.peak_bytes == highest
    for place, size in used:
        memory.free(place, size)
    assert memory.take(10**6) == 0
