"""safetensors headers: few requests, every size checked, and false lengths."""

from __future__ import annotations

import contextlib
import ctypes
import json
import struct
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelfetch.errors import NotAModelError
from modelfetch.formats.range_reader import LIMIT, FileReader, HeaderBuffer, HeaderWindow
from modelfetch.formats.safetensors import BITS, FIRST, check_safetensors, read_safetensors
from tests.cases import THOROUGH, each
from tests.examples import any_text, examples
from tests.fitting.build import MadeFile, raw_safetensors, safetensors
from tests.fitting.real import sdxl

if TYPE_CHECKING:
    from pathlib import Path

GOOD = {
    "a": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]},
    "b": {"dtype": "F32", "shape": [2], "data_offsets": [12, 20]},
}


def refused(file: MadeFile) -> str:
    with pytest.raises(NotAModelError) as caught:
        read_safetensors(file)
    assert caught.value.exit_code == 65
    assert sum(length for _, length in file.asked) <= LIMIT
    return caught.value.message


def said(entries: object, data: int = 20) -> MadeFile:
    return raw_safetensors(json.dumps(entries).encode(), data)


def test_names_types_shapes_and_places_are_read_in_the_order_of_the_data() -> None:
    header = read_safetensors(said({"__metadata__": {"format": "pt"}, "b": GOOD["b"], "a": GOOD["a"]}))
    assert [(t.name, t.dtype, t.shape, t.nbytes) for t in header.tensors] == [
        ("a", "F16", (2, 3), 12),
        ("b", "F32", (2,), 8),
    ]
    assert header.metadata == {"format": "pt"}


def test_a_real_checkpoints_header_takes_one_request() -> None:
    file = sdxl()
    header = read_safetensors(file)
    assert len(file.asked) == 1
    assert header.size == file.size


def test_a_long_header_is_read_on_in_further_ranges() -> None:
    file = safetensors({f"layer.{i:06d}.weight": ("F16", (4, 4)) for i in range(20_000)})
    assert len(read_safetensors(file).tensors) == 20_000
    assert file.asked[0] == (0, FIRST)
    assert file.asked[1][0] == FIRST
    assert len(file.asked) == 3


def test_a_prefix_that_was_read_is_not_read_again() -> None:
    prefix = HeaderBuffer(sdxl())
    read_safetensors(prefix)
    before = prefix.fetched
    read_safetensors(prefix)
    assert prefix.fetched == before


def test_files_of_the_library_itself_are_read(tmp_path: Path) -> None:
    from safetensors import TensorSpec, serialize_file

    path = tmp_path / "x.safetensors"
    weights = ctypes.create_string_buffer(60)
    at = ctypes.addressof(weights)
    specs = {
        "w": TensorSpec(dtype="float32", shape=[3, 5], data_ptr=at, data_len=60),
        "e": TensorSpec(dtype="float16", shape=[0], data_ptr=at, data_len=0),
    }
    serialize_file(specs, path, {"by": "test"})
    header = read_safetensors(FileReader(path))
    assert {(t.name, t.dtype, t.shape) for t in header.tensors} == {("w", "F32", (3, 5)), ("e", "F16", (0,))}
    assert header.size == path.stat().st_size


@each("dtype", BITS)
def test_every_type_of_the_library_has_its_size(dtype: str) -> None:
    nbytes = 16 * BITS[dtype] // 8
    header = read_safetensors(said({"x": {"dtype": dtype, "shape": [16], "data_offsets": [0, nbytes]}}, nbytes))
    assert header.tensors[0].nbytes == nbytes


def test_a_tensor_of_unknown_type_has_the_size_of_its_offsets() -> None:
    header = read_safetensors(said({"x": {"dtype": "F99", "shape": [7], "data_offsets": [0, 20]}}))
    assert (header.tensors[0].dtype, header.tensors[0].nbytes) == ("F99", 20)


@each(("shape", "nbytes"), [([1000], 20), ([1], 20), ([0], 20), ([7], 0)])
def test_an_unknown_type_whose_elements_can_not_have_that_size_is_refused(shape: list[int], nbytes: int) -> None:
    entries = {"x": {"dtype": "F99", "shape": shape, "data_offsets": [0, nbytes]}}
    assert "elements of 'F99' can't be in" in refused(said(entries, nbytes))


# ── what is refused ──
@each(
    "length",
    [
        LIMIT,
        100_000_001,
        2**63,
        2**64 - 1,
        int.from_bytes(b"<!DOCTYP", "little"),
        int.from_bytes(b'{"error"', "little"),
    ],
)
def test_a_header_length_beyond_the_limit_is_refused_at_once(length: int) -> None:
    file = MadeFile(header=struct.pack("<Q", length) + b"{}", size=10**12)
    assert "expected at most" in refused(file)
    assert len(file.asked) == 1


@each("data", [b"", b"\x01", struct.pack("<Q", 100), struct.pack("<Q", 100) + b"{"])
def test_a_file_that_ends_within_its_header_is_refused(data: bytes) -> None:
    assert "the file ends after" in refused(MadeFile(header=data, size=len(data)))


@each(
    "text",
    [
        b"[]",
        b"null",
        b"{",
        b'{"a": NaN}',
        b'{"a": 1}',
        b'{"a": {}}',
        b'{"a":' * 5000,
        b'{"a":' + b"[" * 100_000,
        b'{"\xff": 1}',
        b"{}x",
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": {"dtype": "F16"}, "a": {"dtype": "F16"}}',
        b'{"__metadata__": 1}',
        b'{"__metadata__": {"a": 1}}',
    ],
)
def test_invalid_json_and_json_of_another_shape_are_refused(text: bytes) -> None:
    refused(raw_safetensors(text, 0))


@each(
    "change",
    [
        {"shape": [2, 4]},
        {"shape": [-2, -3]},
        {"shape": [2.0, 3]},
        {"shape": [True, 6]},
        {"shape": "23"},
        {"shape": [2**40, 2**40]},
        {"shape": [1] * 100},
        {"dtype": 3},
        {"dtype": "F32"},
        {"data_offsets": [0, 13]},
        {"data_offsets": [12, 0]},
        {"data_offsets": [0]},
        {"data_offsets": [0, 12, 20]},
        {"data_offsets": [0, 2**70]},
        {"data_offsets": None},
    ],
)
def test_an_impossible_entry_is_refused(change: dict[str, Any]) -> None:
    refused(said({"a": GOOD["a"] | change, "b": GOOD["b"]}))


def test_gaps_overlaps_and_a_file_of_another_length_are_refused() -> None:
    moved = {**GOOD, "b": {"dtype": "F32", "shape": [2], "data_offsets": [16, 24]}}
    assert "leaves a gap" in refused(said(moved, 24))
    over = {**GOOD, "b": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}
    assert "overlaps" in refused(said(over, 16))
    for size in (19, 21, 0):
        assert "the file ends after" in refused(said(GOOD, size))


# ── any bytes ──
def outcome(data: bytes, size: int | None) -> None:
    file = MadeFile(header=data, size=size)
    with contextlib.suppress(NotAModelError):  # anything else would fail the test
        read_safetensors(file)
    assert sum(length for _, length in file.asked) <= LIMIT


@given(st.binary(max_size=300), st.one_of(st.none(), st.integers(0, 10**9)))
def test_random_bytes_raise_only_the_typed_error(data: bytes, size: int | None) -> None:
    outcome(data, size)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "a", "__metadata__"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.dictionaries(any_text(max_size=4) | st.just("__metadata__"), JSON, max_size=4))
def test_any_json_raises_only_the_typed_error(entries: dict[str, Any]) -> None:
    file = raw_safetensors(json.dumps(entries).encode(), 20)
    outcome(file.header, file.size)


@settings(max_examples=examples(200))
@given(st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), min_size=1, max_size=6))
def test_headers_with_changed_bytes_raise_only_the_typed_error(changes: list[tuple[int, int]]) -> None:
    file = said(GOOD)
    data = bytearray(file.header)
    for position, value in changes:
        data[position % len(data)] = value
    outcome(bytes(data), file.size)


# ── memory ──
ENTRY = b'"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'


@each(
    ("header", "expected"),
    [
        (b'{"x":{"dtype":"U8","shape":[' + b"1," * 10**6 + b'1],"data_offsets":[0,1]}}', "a tensor's entry"),
        (b'{"x":{' + b'"k":0,' * 10**6 + b'"dtype":"U8"}}', "a tensor's entry"),
        (b'{"' + b"n" * 10**6 + ENTRY[2:] + b"}", "a tensor's entry"),
        (b"{" + b" " * 10**6 + ENTRY + b"}", "a tensor's entry"),
        (b'{"__metadata__":{"k":"' + "\u0416".encode() * 5 * 10**6 + b'"},' + ENTRY + b"}", "to map texts to texts"),
    ],
)
def test_an_entry_that_takes_much_memory_is_refused(header: bytes, expected: str) -> None:
    file = raw_safetensors(header, 1)
    tracemalloc.start()
    try:
        check_safetensors(HeaderWindow(file.size or 0, file.read))
    except NotAModelError as error:
        assert expected in error.message  # noqa: PT017 - the peak is needed too
    else:
        pytest.fail("accepted")
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 40 * 2**20


@THOROUGH
def test_too_many_texts_of_the_metadata_are_refused() -> None:
    header = b'{"__metadata__":{' + b'"":"",' * 250_001 + b'"k":""},' + ENTRY + b"}"
    with pytest.raises(NotAModelError, match="more than 250000 texts"):
        check_safetensors(HeaderBuffer(raw_safetensors(header, 1)))


def test_a_long_text_of_the_metadata_is_accepted() -> None:
    text = b"tags " * 10**6
    check_safetensors(HeaderBuffer(raw_safetensors(b'{"__metadata__":{"k":"' + text + b'"},' + ENTRY + b"}", 1)))
