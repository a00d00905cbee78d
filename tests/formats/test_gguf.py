"""GGUF headers: every version and byte order, few requests, and false lengths."""

from __future__ import annotations

import contextlib
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelfetch.errors import NotAModelError
from modelfetch.fitting.llm.hyperparameters import hyperparameters
from modelfetch.formats.ggml import TYPES, tensor_bytes
from modelfetch.formats.gguf import ArrayHead, read_gguf
from modelfetch.formats.range_reader import FIRST, FIRST_STEP, LIMIT, MIB, STEP, HeaderBuffer
from tests.cases import each
from tests.examples import examples
from tests.fitting.build import (
    F32,
    I32,
    STRING,
    U8,
    MadeFile,
    Order,
    Shape,
    TensorSpec,
    Value,
    array,
    gguf,
    llm,
    metadata,
    tensors,
    text,
    u32,
)
from tests.fitting.real import REAL, real_llm
from tests.fitting.small import SHAPES

if TYPE_CHECKING:
    from collections.abc import Mapping

ORDERS: tuple[Order, ...] = ("converter", "sorted", "tokenizer-first")


def refused(file: MadeFile, *, whole: bool = True) -> str:
    with pytest.raises(NotAModelError) as caught:
        read_gguf(file, tensors=whole)
    assert caught.value.exit_code == 65
    assert caught.value.code == "not-a-model"
    assert sum(length for _, length in file.asked) <= LIMIT
    return caught.value.message


def small(
    pairs: Mapping[str, Value] | None = None, specs: list[TensorSpec] | None = None, **kwargs: object
) -> MadeFile:
    base = {"general.architecture": text("llama")}
    return gguf({**base, **(pairs or {})}, specs or [], **kwargs)  # type: ignore[arg-type]


# ── what is read ──
@each("version", [1, 2, 3])
@each("big_endian", [False, True])
@each("shape", ["gqa", "deci", "moe", "gemma2", "phi3"])
def test_every_version_and_byte_order_reads_the_same(version: int, big_endian: bool, shape: str) -> None:
    file = llm(SHAPES[shape], version=version, big_endian=big_endian)
    header = read_gguf(file)
    expected = tensors(SHAPES[shape])
    assert header.version == version
    assert header.tensors is not None
    assert [(t.name, t.shape, t.nbytes) for t in header.tensors] == [(t.name, t.shape, t.nbytes) for t in expected]
    assert header.metadata["general.architecture"] == SHAPES[shape].arch
    assert header.data_offset == len(file.header)


def test_a_magic_in_the_other_byte_order_is_read_too() -> None:
    file = llm(Shape(), big_endian=True)
    swapped = MadeFile(header=b"FUGG" + file.header[4:], size=file.size)
    assert read_gguf(swapped) == read_gguf(file)


def test_scalars_short_arrays_and_the_length_of_long_ones_are_kept() -> None:
    header = read_gguf(
        small(
            {
                "a.flag": Value(kind=7, value=True),
                "a.float": Value(kind=F32, value=0.5),
                "a.heads": array(I32, [8, 2, 4]),
                "a.long": array(U8, [1] * 5000),
                "a.words": array(STRING, ["x", "", "yz"]),
                "a.template": text("t" * 2000),
            }
        )
    )
    kept = {key: header.metadata[key] for key in header.metadata if key.startswith("a.")}
    assert kept == {
        "a.flag": True,
        "a.float": 0.5,
        "a.heads": (8, 2, 4),
        "a.long": ArrayHead(5000),
        "a.words": ArrayHead(3),
        "a.template": ArrayHead(2000),
    }


def test_another_alignment_is_obeyed() -> None:
    pairs = {"general.architecture": text("llama"), "general.alignment": u32(64)}
    specs = [TensorSpec(name="a", shape=(7,)), TensorSpec(name="b", shape=(3,))]
    header = read_gguf(gguf(pairs, specs, alignment=64))
    assert [t.offset for t in header.tensors or ()] == [0, 64]
    assert (header.data_offset or 1) % 64 == 0


# ── requests ──
@each("name", REAL)
def test_the_first_64_kib_contain_the_hyperparameters_of_a_real_model(name: str) -> None:
    file = real_llm(name)
    header = read_gguf(file, tensors=False)
    assert file.asked == [(0, FIRST)]
    assert header.tensors is None
    assert header.metadata["tokenizer.ggml.tokens"].length == REAL[name].vocab


@pytest.mark.parametrize("name", REAL)
def test_the_exact_estimate_reads_on_in_growing_steps_without_reading_twice(name: str) -> None:
    file = real_llm(name)
    prefix = HeaderBuffer(file)
    read_gguf(prefix, tensors=False)
    read_gguf(prefix)
    read_gguf(prefix)
    lengths = [FIRST, FIRST_STEP, 2 * FIRST_STEP, 4 * FIRST_STEP, STEP][: len(file.asked)]
    assert file.asked == [(sum(lengths[:i]), length) for i, length in enumerate(lengths)]
    assert len(file.header) <= prefix.fetched <= 8 * MIB
    assert bytes(prefix.data[: len(file.header)]) == file.header


@each("order", ORDERS)
def test_hyperparameters_are_found_in_any_order(order: Order) -> None:
    shape = Shape(vocab=20_000)
    file = llm(shape, order=order)
    header = read_gguf(file, tensors=False)
    assert header.metadata["llama.block_count"] == shape.layers
    assert hyperparameters(header).vocabulary == shape.vocab
    assert len(file.asked) == (2 if order == "tokenizer-first" else 1)


def test_an_architecture_key_behind_the_tokenizer_is_found() -> None:
    file = llm(Shape(arch="xverse", vocab=20_000), order="sorted")
    assert read_gguf(file, tensors=False).metadata["xverse.block_count"] == 4
    assert len(file.asked) == 2


def test_the_header_of_a_small_model_is_read_with_one_request() -> None:
    file = llm(Shape())
    assert read_gguf(file, tensors=False).tensors is not None
    assert len(file.asked) == 1


def test_a_source_of_unknown_size_is_read() -> None:
    file = llm(Shape())
    header = read_gguf(MadeFile(header=file.header, size=None))
    assert header.size is None
    assert len(header.tensors or ()) == len(tensors(Shape()))


# ── what is refused ──
@each("start", [b"<html><body>", b'{"error": "x"}', b"PK\x03\x04abcdefgh", b"\x80\x04\x95abcdefg", bytes(64)])
def test_bytes_without_the_magic_are_not_a_gguf_file(start: bytes) -> None:
    assert "expected it to begin with b'GGUF'" in refused(MadeFile(header=start, size=len(start)))


@each("size", [0, 1, 3, 4, 8, 23])
def test_a_file_that_ends_within_the_first_bytes_is_refused(size: int) -> None:
    assert "the file ends after" in refused(MadeFile(header=llm(Shape()).header[:size], size=size))


@each("version", [0, 4, 65535])
def test_an_unknown_version_is_refused(version: int) -> None:
    header = bytearray(llm(Shape()).header)
    header[4:8] = struct.pack("<I", version)
    assert "version" in refused(MadeFile(header=bytes(header), size=10**6))


@each(("tensor_count", "pairs"), [(2**63, 1), (1, 2**63), (2**64 - 1, 2**64 - 1), (1_000_001, 0), (900_000, 0)])
def test_counts_that_the_file_can_not_hold_are_refused_before_anything_is_read_for_them(
    tensor_count: int, pairs: int
) -> None:
    file = MadeFile(header=b"GGUF" + struct.pack("<IQQ", 3, tensor_count, pairs), size=10**6)
    refused(file)
    assert len(file.asked) == 1


@each("length", [2**64 - 1, 2**63, 2**40, 10**7])
def test_lengths_beyond_the_file_are_refused_before_anything_is_read_for_them(length: int) -> None:
    start = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    key = struct.pack("<Q", 1) + b"k"
    bodies = {
        "key": struct.pack("<Q", length),
        "text": key + struct.pack("<IQ", 8, length),
        "numbers": key + struct.pack("<IIQ", 9, 10, length),
        "texts": key + struct.pack("<IIQ", 9, 8, length),
        "a text of texts": key + struct.pack("<IIQQ", 9, 8, 5, length),
    }
    for body in bodies.values():
        file = MadeFile(header=start + body, size=10**6)
        refused(file)
        assert sum(asked for _, asked in file.asked) <= 10**6


@pytest.mark.parametrize("tail", [struct.pack("<IIQ", 9, 0, 100 * MIB), struct.pack("<IIQ", 9, 8, 8 * MIB)])
def test_a_header_beyond_64_mib_is_refused_before_it_is_read(tail: bytes) -> None:
    start = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k"
    file = MadeFile(header=start + tail, size=10**10)
    assert "beyond the limit" in refused(file)
    assert len(file.asked) == 1


def test_more_texts_than_any_vocabulary_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file on this machine has no limit of 64 MiB, and each text is looked at."""
    monkeypatch.setattr("modelfetch.formats.gguf._MAX_TEXTS", 9)

    def header(*counts: int) -> MadeFile:
        arrays = (struct.pack("<Q", 1) + b"%d" % at + struct.pack("<IIQ", 9, 8, n) for at, n in enumerate(counts))
        text = b"".join(array + bytes(8 * n) for array, n in zip(arrays, counts, strict=True))
        return MadeFile(header=b"GGUF" + struct.pack("<IQQ", 3, 0, len(counts)) + text, size=10**6)

    assert read_gguf(header(4, 5)).metadata == {"0": ArrayHead(4), "1": ArrayHead(5)}
    assert "more than 9 texts" in refused(header(4, 6))


def test_strings_that_exceed_64_mib_together_are_refused() -> None:
    start = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 8, 3)
    texts = struct.pack("<Q", 60 * MIB) + bytes(60 * MIB) + struct.pack("<Q", 10 * MIB)
    assert "beyond the limit" in refused(MadeFile(header=start + texts, size=10**10))


def test_arrays_of_arrays_are_refused_however_deep() -> None:
    start = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<I", 9)
    assert "unknown type 9" in refused(MadeFile(header=start + struct.pack("<IQ", 9, 1) * 5000, size=10**6))


@each("kind", [13, 99, 2**32 - 1])
def test_an_unknown_value_type_is_refused(kind: int) -> None:
    start = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k"
    assert f"unknown type {kind}" in refused(MadeFile(header=start + struct.pack("<I", kind), size=10**4))
    assert f"unknown type {kind}" in refused(MadeFile(header=start + struct.pack("<IIQ", 9, kind, 1), size=10**4))


def test_a_key_that_occurs_twice_is_refused() -> None:
    file = small()
    doubled = file.header[:16] + struct.pack("<Q", 2) + file.header[24:56].ljust(32, b"\0")
    pair = struct.pack("<Q", 20) + b"general.architecture" + struct.pack("<IQ", 8, 5) + b"llama"
    doubled = b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + pair + pair
    assert "occurs twice" in refused(MadeFile(header=doubled, size=4096))


def test_a_tensor_that_occurs_twice_is_refused() -> None:
    assert "occurs twice" in refused(small(specs=[TensorSpec(name="a", shape=(32,))] * 2))


def test_overlapping_tensors_are_refused() -> None:
    specs = [TensorSpec(name="a", shape=(64,)), TensorSpec(name="b", shape=(64,), offset=64)]
    assert "overlap" in refused(small(specs=specs))


@each("offset", [2**63, 2**64 - 32, 10**9 * 32])
def test_tensors_beyond_the_end_of_the_file_are_refused(offset: int) -> None:
    assert "the file ends after" in refused(small(specs=[TensorSpec(name="a", shape=(64,), offset=offset)]))


def test_a_file_that_is_cut_off_within_the_weights_is_refused() -> None:
    whole = llm(Shape())
    assert whole.size is not None
    assert "ends at byte" in refused(MadeFile(header=whole.header, size=whole.size - 1))


def test_a_tensor_that_is_not_aligned_is_refused() -> None:
    assert "not a multiple of 32" in refused(small(specs=[TensorSpec(name="a", shape=(64,), offset=16)]))


@each("alignment", [u32(0), u32(3), u32(48), text("32"), Value(kind=7, value=True), Value(kind=5, value=-32)])
def test_an_alignment_that_is_no_power_of_two_is_refused(alignment: Value) -> None:
    assert "alignment" in refused(small({"general.alignment": alignment}))


@each("shape", [(2**62, 4), (2**64 - 1,), (2**32, 2**32), (3,) * 9])
def test_tensors_of_absurd_shape_are_refused(shape: tuple[int, ...]) -> None:
    refused(small(specs=[TensorSpec(name="a", shape=shape, offset=0)], size=10**6))


def test_rows_that_are_no_whole_blocks_are_refused() -> None:
    assert "not a whole number of Q4_K blocks" in refused(
        small(specs=[TensorSpec(name="a", shape=(100, 256), kind="Q4_K")])
    )


def test_names_that_are_not_utf_8_are_refused() -> None:
    raw = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2) + b"\xff\xfe" + struct.pack("<IB", 0, 1)
    assert "is not UTF-8" in refused(MadeFile(header=raw, size=1000))


def test_a_source_that_ends_early_or_returns_too_much_is_a_typed_error() -> None:
    class Odd(MadeFile):
        def read(self, offset: int, length: int) -> bytes:
            self.asked.append((offset, length))
            return self.header[offset : offset + length + 10]

    file = llm(Shape(vocab=20_000))
    assert read_gguf(Odd(header=file.header + bytes(4 * MIB), size=None)).tensors
    cut = Odd(header=file.header[:100_000], size=None)
    assert "the file ends after 100000" in refused(cut)


# ── any bytes ──
def outcome(data: bytes, size: int | None, *, whole: bool) -> None:
    file = MadeFile(header=data, size=size)
    with contextlib.suppress(NotAModelError):  # anything else would fail the test
        read_gguf(file, tensors=whole)
    assert sum(length for _, length in file.asked) <= LIMIT
    assert all(b[0] == a[0] + a[1] for a, b in zip(file.asked, file.asked[1:], strict=False))


SIZES = st.one_of(st.none(), st.integers(0, 10**12))


@given(st.binary(max_size=400), SIZES, st.booleans())
def test_random_bytes_raise_only_the_typed_error(data: bytes, size: int | None, whole: bool) -> None:
    outcome(data, size, whole=whole)


@given(st.binary(max_size=300), st.sampled_from([1, 2, 3]), st.integers(0, 3), st.integers(0, 3), SIZES)
def test_random_bytes_after_a_valid_start_raise_only_the_typed_error(
    data: bytes, version: int, tensor_count: int, pairs: int, size: int | None
) -> None:
    form = "<III" if version == 1 else "<IQQ"
    outcome(b"GGUF" + struct.pack(form, version, tensor_count, pairs) + data, size, whole=True)


VALID = [
    llm(shape, version=v, big_endian=b)
    for shape in (Shape(vocab=20, layers=1), SHAPES["deci"])
    for v, b in ((1, False), (2, True), (3, False))
]


@settings(max_examples=examples(300))
@given(
    st.sampled_from(VALID),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8),
    st.booleans(),
)
def test_headers_with_changed_bytes_raise_only_the_typed_error(
    file: MadeFile, changes: list[tuple[int, int]], whole: bool
) -> None:
    data = bytearray(file.header)
    for position, value in changes:
        data[position % len(data)] = value
    outcome(bytes(data), file.size, whole=whole)


@given(st.sampled_from(VALID), st.integers(0, 10**6), st.booleans())
def test_truncated_headers_raise_only_the_typed_error(file: MadeFile, end: int, known: bool) -> None:
    end %= len(file.header)
    cut = MadeFile(header=file.header[:end], size=end if known else None)
    if known:
        refused(cut)
    outcome(file.header[:end], end if known else None, whole=True)


# ── types ──
def test_the_type_table_matches_the_documented_one() -> None:
    assert len(TYPES) == 33
    assert tensor_bytes(12, (4096, 14336)) == 4096 * 14336 // 256 * 144
    assert tensor_bytes(39, (64, 2)) == 4 * 17
    assert tensor_bytes(4, (32,)) is None
    assert tensor_bytes(0, ()) == 4


def test_three_orders_of_metadata_are_read_equally() -> None:
    read = [dict(read_gguf(llm(Shape(), order=order)).metadata) for order in ORDERS]
    assert read[0] == read[1] == read[2]
    assert list(metadata(Shape(), "sorted")) == sorted(metadata(Shape()))
