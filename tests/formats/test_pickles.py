"""Pickles are found by their content, in every protocol and in every wrapping that torch loads."""

from __future__ import annotations

import bz2
import collections
import errno
import gzip
import io
import lzma
import os
import pickle
import random
import struct
import tarfile
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfetch.formats import archives
from modelfetch.formats.opcodes import PickleVerdict, read_pickle
from modelfetch.formats.pickles import find_pickle, starts_as_pickle
from tests.cases import each

if TYPE_CHECKING:
    from collections.abc import Callable


class Runs:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


def judged(data: bytes) -> str | None:
    return find_pickle(len(data), lambda at, count: data[at : at + count])


def found(data: bytes) -> bool:
    return judged(data) is not None


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def tarred(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


VALUES = [
    Runs(),
    {"a": [1, 2.5, "x", None, True] * 40},
    collections.OrderedDict(a=1),
    [2**70, b"bytes", "text\nof lines"],
]


@each("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@each("value", VALUES)
def test_a_pickle_of_every_protocol_is_found(protocol: int, value: Any) -> None:
    assert found(pickle.dumps(value, protocol=protocol))


@each("protocol", [0, 1, 2])
def test_torch_before_1_6_wrote_several_pickles_before_the_tensors(protocol: int) -> None:
    parts = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, collections.OrderedDict(a=1))
    data = b"".join(pickle.dumps(part, protocol=protocol) for part in parts) + random.Random(1).randbytes(4000)
    assert found(data)


def test_an_import_behind_many_harmless_opcodes_is_found() -> None:
    padding = b"X" + (300_000).to_bytes(4, "little") + b"a" * 300_000 + b"0"
    assert found(padding * 3 + pickle.dumps(Runs(), protocol=1))
    assert found(b"N0" * 60_000 + pickle.dumps(Runs(), protocol=0))


def test_an_error_of_the_disk_is_no_verdict() -> None:
    data = zipped({"m/notes.txt": b"Only text.\n" * 100})
    directory = data.rindex(b"PK\1\2")

    def fails(at: int, count: int) -> bytes:
        if (at, count) == (0, 512) or at + count >= directory:
            return data[at : at + count]
        raise OSError(errno.EIO, "Input/output error")

    assert not found(data)
    with pytest.raises(OSError, match="Input/output"):
        find_pickle(len(data), fails)


@each("line", [b"V%b\n0", b"S'%b'\n0", b"L%bL\n0", b"I%b\n0", b"F%b\n0"])
def test_a_very_long_line_hides_no_import(line: bytes) -> None:
    data = line % (b"1" * 70_000) + pickle.dumps(Runs(), protocol=0)
    assert found(data)
    assert not found(data[:60_000])


@each(
    "line",
    [b"I0x1", b"I 1\t", b"I1_0", b"L0b1L", b"FNAN", b"Finfinity", b"F 1_0", b"S'a'b'", b"S'a''", b"Np 1", b"Np1\n0g 1"],
)
def test_a_number_or_text_in_any_form_that_python_reads_hides_no_import(line: bytes) -> None:
    assert found(line + b"\n0" + pickle.dumps(Runs(), protocol=0))


def test_a_module_and_its_function_may_share_their_name() -> None:
    assert found(b"X\6\0\0\0timeit2\x93X\4\0\0\0code\x85R." + b"\xff" * 99)


def test_a_file_that_is_several_things_at_once_is_judged_as_each() -> None:
    run, archive = pickle.dumps(Runs(), 0), zipped({"notes.txt": b"Only text.\n"})
    directory = archive.rindex(b"PK\1\2")
    encrypted = archive[:6] + b"\1" + archive[7 : directory + 8] + b"\1" + archive[directory + 9 :]
    large = b"PK\5\6" + bytes(8) + (2**31).to_bytes(4, "little") + bytes(6)
    for behind in (archive, encrypted, large, zipped({"a": b""}, zipfile.ZIP_LZMA)):
        assert judged(run + b"\xff" * 99 + behind) == "is a pickle"
    assert judged(named_tar(run)) == "is a pickle"
    assert not found(named_tar(b"notes.txt"))
    assert found(named_tar(b"PK\3\4") + zipped({"m/data.pkl": run}))


def named_tar(name: bytes) -> bytes:
    """A tar in the oldest form, whose headers have no signature."""
    data = bytearray(tarred({"x": b"Only text.\n"}))
    data[:100], data[148:156], data[257:265] = name.ljust(100, b"\0"), b" " * 8, bytes(8)
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


def two_directories(*, large: bool) -> bytes:
    """A zip in which Python finds one directory and the reader of torch another."""
    bad, good = zipped({"m/data.pkl": pickle.dumps(Runs())}), bytearray(zipped({"m/weights0": b"0"}))
    bad_at, at = bad.rindex(b"PK\1\2"), good.rindex(b"PK\1\2")
    length = len(good) - 22 - at
    if not large:
        good[at + 42 : at + 46] = (bad_at - at).to_bytes(4, "little")
        return bad[:-22] + good[:-6] + bad_at.to_bytes(4, "little") + bytes(2)
    good[at + 42 : at + 46] = len(bad).to_bytes(4, "little")
    records = [
        b"PK\6\6" + bytes(20) + struct.pack("<QQQQ", 1, 1, length, where) for where in (bad_at, len(bad) + 56 + at)
    ]
    locator = b"PK\6\7" + bytes(4) + (len(bad) + at).to_bytes(8, "little") + bytes(4)
    end = b"PK\5\6" + bytes(4) + b"\xff" * 12 + bytes(2)
    return bad + good[:at] + records[0] + good[at:-22] + records[1] + locator + end


@each("large", [False, True])
def test_a_zip_in_which_readers_find_different_directories_is_refused(*, large: bool) -> None:
    data = two_directories(large=large)
    assert zipfile.ZipFile(io.BytesIO(data)).namelist() == ["m/weights0"]
    assert judged(data) == "can't be read, and may hold a pickle"
    assert not found(b"\0" * 100 + zipped({"a": b"b"}))


def test_a_torch_zip_is_recognised_by_any_first_member() -> None:
    tensor = random.Random(2).randbytes(100_000)
    assert found(zipped({"m/data/0": tensor, "m/data.pkl": pickle.dumps(Runs())}))
    assert found(zipped({"m/weights": tensor, "m/structure": pickle.dumps(Runs(), protocol=0)}))
    assert found(zipped({"m/weights": tensor, "m/x.ckpt": b""}, zipfile.ZIP_DEFLATED))
    assert not found(zipped({"m/weights": bytes(1000), "readme.txt": b"Weights of a model.\n"}))


@each("compress", [gzip.compress, bz2.compress, lzma.compress])
@each("start", [b"", b"N0", b"V" + b"a" * 999 + b"\n0"])
def test_a_pickle_in_a_later_part_of_compressed_data_is_found(compress: Callable[[bytes], bytes], start: bytes) -> None:
    run = compress(pickle.dumps(Runs(), 0) + os.urandom(999))
    assert found(compress(start) + run)
    assert found(compress(start) + bytes(8) + run)
    assert not found(compress(start) + compress(b"weights \0\1\2"))


def test_a_long_name_in_a_gzip_header_hides_no_pickle() -> None:
    run = gzip.compress(pickle.dumps(Runs(), 0))
    assert found(run[:3] + b"\x08" + run[4:10] + b"a" * 2**20 + b"\0" + run[10:])


@each("compress", [gzip.compress, zlib.compress, bz2.compress, lzma.compress])
def test_a_compressed_pickle_is_found(compress: Callable[[bytes], bytes]) -> None:
    for protocol in (0, 4):
        packed = compress(pickle.dumps([*range(10_000), Runs(), os.urandom(100_000)], protocol))
        assert found(packed)
    assert not found(packed[:2] + b"\0" * 100)
    assert not found(compress(b"weights \0\1\2" * 1000))


def test_a_pickle_that_takes_much_memory_to_decompress_is_found() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 2**27}]
    assert found(lzma.compress(pickle.dumps(Runs()), filters=filters))
    assert found(zipped({"data": lzma.compress(pickle.dumps(Runs()), filters=filters)}))
    assert not found(lzma.compress(b"weights \0\1\2" * 1000, preset=9))


@each("dict_size", [2**12, 2**15, 2**16, 2**23])
def test_a_pickle_in_the_older_form_of_lzma_is_found(dict_size: int) -> None:
    """joblib knows it by its first two bytes."""
    filters = [{"id": lzma.FILTER_LZMA1, "dict_size": dict_size}]
    assert found(lzma.compress(pickle.dumps(Runs()), lzma.FORMAT_ALONE, filters=filters))


def test_a_pickle_that_an_old_joblib_compressed_is_found() -> None:
    assert found(b"ZF" + hex(1000).ljust(19).encode() + zlib.compress(pickle.dumps(Runs())))


def test_a_tar_that_torch_wrote_is_found() -> None:
    for start in (b"", b"V" + b"a" * 5000 + b"\n0"):
        assert found(tarred({"sys_info": b"", "pickle": start + pickle.dumps(Runs(), 0), "tensors": bytes(100)}))
    assert not found(tarred({"notes.txt": b"Only text.\n"}))


@each("kind", [b"\0", b"0", b"7", b"Z"])
def test_a_file_of_any_type_in_a_tar_is_read(kind: bytes) -> None:
    assert found(tar_member(pickle.dumps(Runs(), 0), kind))
    assert not found(tar_member(b"Only text.\n", kind))


def array(header: str, data: bytes, version: int = 1) -> bytes:
    length = len(header).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes((version, 0)) + length + header.encode() + data


@each("version", [1, 2, 3])
@each("descr", ["'|O'", "'O'", '"|O8"', "[('a', '<f4'), ('b', '|O')]"])
def test_a_numpy_array_of_objects_counts_as_a_pickle_and_one_of_numbers_does_not(version: int, descr: str) -> None:
    objects = array(f"{{'descr': {descr}, 'shape': (1,), }}", pickle.dumps([Runs()]), version)
    numbers = array("{'descr': '<f4', 'fortran_order': False, 'shape': (64,), }", b"'|O'" * 64, version)
    assert found(objects)
    assert found(zipped({"a.npy": objects}, zipfile.ZIP_DEFLATED))
    assert not found(numbers)
    assert not found(zipped({"a.npy": numbers}))


def test_an_object_type_behind_many_fields_is_found() -> None:
    fields = ", ".join(f"('f{number}', '<f4')" for number in range(3000))
    data = array(f"{{'descr': [{fields}, ('o', '|O')], 'shape': (1,), }}", b"", 2)
    assert found(data)
    assert found(zipped({"a.npy": data}))
    assert found(zipped({"a.npy": data}, zipfile.ZIP_DEFLATED))


@each(
    "descr",
    [
        r"'\x4f'",
        "'object'",
        "'|' 'O'",
        "'f4, O'",
        "{'names': ('a',), 'formats': ('O',)}",
        "'<f4', 'descr': '|O'",
        "('|O', (2,))",
        "[['a', '|O']]",
        '"""|O"""',
        "[('a', [('b', 'O')])]",
        "unknown",
        "(" * 500 + "'<f4'" + ",)" * 500,
        "-" * 9000 + "1",
        "'<f4'" + " " * 10_000,
    ],
)
def test_a_type_that_may_hold_objects_counts_as_a_pickle_in_any_spelling(descr: str) -> None:
    assert found(array(f"{{'descr': {descr}, 'shape': (1,), }}", b""))


@each(
    "descr",
    ["'|u1'", "'<M8[ns]'", "'<U5'", "'|V2'", "[('a', '<f4', (2,)), (('t', 'b'), [('x', '|b1')])]", "('<f2', (3,))"],
)
@each("shape", ["(3,)", "(3L, 5L)"])
def test_a_type_of_numbers_or_texts_is_not_a_pickle(descr: str, shape: str) -> None:
    data = array(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}   \n", bytes(99))
    assert not found(data)
    assert not found(zipped({"a.npy": data, "b.npy": data}, zipfile.ZIP_DEFLATED))


def test_a_zip_whose_directory_would_fill_the_memory_counts_as_one_that_can_not_be_read() -> None:
    whole = zipped({f"{number}": b"" for number in range(10)})
    end = whole.rfind(b"PK\5\6")
    large = whole[: end + 12] + (2**31).to_bytes(4, "little") + whole[end + 16 :]
    record = b"PK\6\6" + bytes(36) + (2**40).to_bytes(8, "little") + bytes(8)
    locator = b"PK\6\7" + bytes(4) + end.to_bytes(8, "little") + bytes(4)
    assert not found(whole)
    assert found(large)
    assert found(whole[:end] + record + locator + whole[end:])
    assert not found(b"\0" * 100 + large)  # no reader takes it for a zip


@each("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_file_of_a_zip_is_judged(method: int) -> None:
    for start in (b"", b"V" + b"a" * 200_000 + b"\n0"):
        assert found(zipped({"a.txt": start + pickle.dumps(Runs(), 0)}, method))
    assert not found(zipped({"a.txt": b"Only text.\n" * 999, "b": random.Random(2).randbytes(9999), "c": b""}, method))


def test_an_archive_that_takes_long_to_search_counts_as_one_that_can_not_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opcodes = zipped(dict.fromkeys("abcd", b"N0" * 2000 + b"\xff"))
    jump = zipped({"a": b"X" + (2**21).to_bytes(4, "little") + bytes(2**22)}, zipfile.ZIP_DEFLATED)
    header = f"{{'descr': '<f4', 'shape': ({'1,' * 400}), }}"
    headers = zipped({name: array(header, b"") for name in ("a.npy", "b.npy")})
    for data in (opcodes, jump, headers):
        assert not found(data)
    monkeypatch.setattr(archives.Effort.__init__, "__defaults__", (2**20,))
    for data in (opcodes, jump, headers):
        assert "too long" in str(judged(data))


def tar_member(content: bytes, kind: bytes = b"0", /, **records: str) -> bytes:
    info = tarfile.TarInfo("member")
    info.type, info.size, info.pax_headers = kind, len(content), records
    return info.tobuf(tarfile.PAX_FORMAT) + content + bytes(-len(content) % 512)


def for_all(**records: str) -> bytes:
    return tarfile.TarInfo.create_pax_global_header(records)


HOLES = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a", "GNU.sparse.realsize": "9"}


@each(
    "start",
    [
        tar_member(b"", comment="a" * 2**20),
        for_all(comment="a" * 2**20),
        tar_member(b"a" * 2**21, b"L"),
        tar_member(b"a" * 2**21, b"K"),
        tar_member(b"1000000\n" + b"0\n" * 2_000_000, **HOLES),
        tar_member(b"1\n0\n9\n".ljust(512, b"\0") + bytes(9), **HOLES),
        for_all(**{f"k{number}": "v" for number in range(1001)}),
        for_all(a="b") * 2000,
    ],
)
def test_a_tar_whose_headers_would_fill_the_memory_counts_as_one_that_can_not_be_read(start: bytes) -> None:
    data, read = start + tarred({"notes.txt": b"Only text.\n"}), 0

    def read_at(at: int, count: int) -> bytes:
        nonlocal read
        read += min(count, len(data) - at)
        return data[at : at + count]

    assert find_pickle(len(data), read_at)
    assert read < 1.6e6


def test_a_tar_with_too_many_files_counts_as_one_that_can_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    assert not found(tarred(dict.fromkeys("abc", b"text")))
    assert judged(tarred(dict.fromkeys("abcd", b"text"))) == "may hold a pickle among its more than 3 files"


def test_a_long_header_for_each_file_of_a_tar_is_read() -> None:
    one = tar_member(b"Only text.\n" * 500, comment="a" * 2000)
    assert not found(one * 600 + bytes(1024))
    assert found(one * 600 + tarred({"pickle": pickle.dumps(Runs(), 0)}))


def test_a_zip_behind_other_bytes_and_a_compressed_member_are_found() -> None:
    assert found(b"\0" * 100 + zipped({"m/data.pkl": pickle.dumps(Runs())}))
    assert found(zipped({"data": gzip.compress(pickle.dumps(Runs()))}))
    assert not found(b"\0" * 100 + zipped({"notes.txt": b"Only text.\n"}))
    assert not found(bytes(100) + b"PK\5\6" + bytes(18))
    of_two_disks = b"PK\6\7" + bytes(12) + b"\2\0\0\0" + b"PK\5\6" + bytes(18)
    assert not found(b"weights" * 99 + of_two_disks)
    assert found(pickle.dumps(Runs(), 0) + of_two_disks)


@each(
    "data",
    [zipped({"a": b"b"})[:-10], zipped({"a": b"b"})[:30], tarred({"a": b"b" * 600})[:700]],
)
def test_an_unreadable_archive_may_hold_a_pickle(data: bytes) -> None:
    assert judged(data) == "can't be read, and may hold a pickle"


@each(
    "text",
    [
        b"404: Not Found",
        b"Not Found",
        b"Access denied",
        b"Invalid username or password.",
        b"Unauthorized",
        b"Forbidden\n",
        b"Too Many Requests",
        b"Payment required\nx",
        b"Gateway Timeout",
        b"Internal Server Error\n",
        b"Please log in\n",
        b"error code: 1020",
        b"version https://git-lfs.github.com/spec/v1\n",
        b"",
    ],
)
def test_an_error_message_is_not_a_pickle(text: bytes) -> None:
    assert read_pickle(text) is PickleVerdict.NO


def test_weights_of_other_formats_are_not_pickles() -> None:
    random_bytes = random.Random(3)
    assert sum(starts_as_pickle(random_bytes.randbytes(512)) for _ in range(20_000)) <= 6
    assert not found(b"\x06\x00\x00\x00\x0c\x00WhisperSpec\x00" + bytes(500))
    assert not found(b"lmgg" + bytes(500))
    assert not found(bytes(500))


@each(
    "text",
    [
        b"ct\nm.j\nd.r\nprof\n",
        b"cat\ndog\nbird\n",
        b"cat\ndog\n",
        b"inst\nname\nother\n",
        b"Nothing.\n",
        b"a\tb\tc\n" * 100,
        b"I\nII\nIII\n",
        b"c,d\n1,2\n",
        b"]\n",
    ],
)
def test_a_list_of_words_is_not_a_pickle(text: bytes) -> None:
    assert not found(text)
    assert not starts_as_pickle(text)


def test_a_truncated_pickle_is_distinguished_from_other_data() -> None:
    data = pickle.dumps({"a": [1, 2.5, "x"] * 200}, protocol=0)
    assert read_pickle(data[:512]) is PickleVerdict.CUT_OFF
    assert read_pickle(data) is PickleVerdict.YES
    assert find_pickle(2**31, lambda at, count: b"N0N0N0"[at : at + count]) is None  # shorter than was said


@each("pack", [zipped, tarred])
def test_a_member_of_an_archive_is_judged_by_name_and_bytes(pack: Callable[[dict[str, bytes]], bytes]) -> None:
    assert found(pack({"models/x.CKPT": b""}))
    assert found(pack({"models/x.dat": pickle.dumps(Runs(), protocol=0)}))
    assert found(pack({"inner.zip": zipped({"m/data.pkl": b""})}))
    assert not found(pack({"ortho_context.tab": b"a\tb\tc\n" * 100, "empty": b""}))


@given(st.binary(max_size=400), st.sampled_from([b"", b"PK\x03\x04", b"(dp0\nS'", b"\x80\x01c", b"X\xff\xff\xff\x7f"]))
def test_any_bytes_are_judged_without_an_exception(data: bytes, start: bytes) -> None:
    found(start + data)
    found(tarred({"a": b"b"})[:400] + data)
