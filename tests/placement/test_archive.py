"""A zip that is damaged anywhere is unpacked correctly or refused."""

from __future__ import annotations

import contextlib
import io
import random
import struct
import zipfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from modelfetch.errors import IntegrityError
from modelfetch.formats.archives import read_member
from modelfetch.formats.content_check import check_pickle
from modelfetch.formats.pickles import find_pickle
from modelfetch.placement.archive import copy_member, list_members, open_archive
from tests.cases import first
from tests.examples import examples

if TYPE_CHECKING:
    from pathlib import Path

    from modelfetch.formats.range_reader import ReadAt

MEMBERS = {"a/b.txt": b"hello world" * 50, "ü/c.bin": random.Random(1).randbytes(300), "e": b"x" * 100}
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def zipped(method: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in MEMBERS.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return out.getvalue()


ZIPS = {method: zipped(method) for method in METHODS}


def unpacked(path: Path) -> dict[str, bytes]:
    found = {}
    with open_archive(path) as opened:
        for member in list_members(path, opened):
            copy_member(path, opened, member, target := io.BytesIO())
            found[member.path] = target.getvalue()
    return found


@pytest.mark.parametrize("method", METHODS)
def test_every_compression_of_zipfile_is_unpacked_in_bounded_steps(tmp_path: Path, method: int) -> None:
    (tmp_path / "x.zip").write_bytes(ZIPS[method])
    assert unpacked(tmp_path / "x.zip") == MEMBERS
    with zipfile.ZipFile(tmp_path / "x.zip", "w", method) as archive:
        archive.writestr("bomb", bytes(2**20))
    with open_archive(tmp_path / "x.zip") as opened:
        pieces = [len(piece) for piece in read_member(opened, opened.infolist()[0], 1000)]
    assert (max(pieces), sum(pieces)) == (1000, 2**20)


@pytest.mark.parametrize("method", first(1, METHODS))
def test_a_file_that_is_shorter_than_the_archive_says_is_damaged(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", method) as archive:
        archive.writestr("a", b"N0" * 99)
    data = bytearray((tmp_path / "x.zip").read_bytes())
    at = data.rindex(b"PK\1\2") + 24
    data[at : at + 4] = (2**31).to_bytes(4, "little")
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(IntegrityError, match="a is damaged") as caught:
        unpacked(tmp_path / "x.zip")
    assert caught.value.code == "unsafe-archive"


@pytest.mark.parametrize("method", [9, 93, 98])
def test_an_unknown_compression_is_refused(tmp_path: Path, method: int) -> None:
    data = bytearray(ZIPS[zipfile.ZIP_STORED])
    for at in [data.index(b"PK\3\4") + 8, data.index(b"PK\1\2") + 10]:
        data[at] = method
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(IntegrityError, match="a compression that modelfetch does not know") as caught:
        unpacked(tmp_path / "x.zip")
    assert caught.value.code == "unsafe-archive"
    assert "can't be read" in str(check_pickle("x.zip", len(data), reader(bytes(data))))


@settings(max_examples=examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(method=zipfile.ZIP_LZMA, changes=[(40, 255), (41, 255), (42, 255), (43, 255)], cut=0)
@example(method=zipfile.ZIP_BZIP2, changes=[(50, 0)], cut=0)
@example(method=zipfile.ZIP_STORED, changes=[(31, 0xC3)], cut=0)
@example(method=zipfile.ZIP_STORED, changes=[(-6, 255), (-5, 255)], cut=0)
@given(
    st.sampled_from(METHODS),
    st.lists(st.tuples(st.integers(-250, 250), st.integers(0, 255)), max_size=6),
    st.integers(0, 40),
)
def test_a_damaged_archive_is_refused_or_unpacked_correctly(
    tmp_path: Path, method: int, changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(ZIPS[method])
    for at, byte in changes:
        data[at] = byte
    del data[len(data) - cut :]
    (tmp_path / "x.zip").write_bytes(data)
    find_pickle(len(data), lambda at, count: bytes(data[at : at + count]))
    with contextlib.suppress(IntegrityError):
        unpacked(tmp_path / "x.zip")


def long_list(path: Path, *, count: int, comment: int = 0) -> bytearray:
    """A zip with empty files."""
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            info = zipfile.ZipInfo(f"{number}.txt")
            info.comment = bytes(comment)
            archive.writestr(info, b"")
    return bytearray(path.read_bytes())


def reader(data: bytes) -> ReadAt:
    return lambda at, count: data[at : at + count]


def large_end(data: bytearray, *, honest: bool) -> bytes:
    """Make the list of files one of a zip of more than 4 GB; if not ``honest``, its locator names another place."""
    end, at = data[-22:], len(data) - 22
    length, offset = struct.unpack("<II", end[12:20])
    record = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, 1, 1, length, offset)
    locator = struct.pack("<IIQI", 0x07064B50, 0, at if honest else 0, 1)
    return bytes(data[:-22]) + record + locator + end[:12] + bytes(4) + end[16:]


def test_an_archive_with_a_list_of_files_that_takes_much_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = bytes(long_list(tmp_path / "x", count=260, comment=65000))
    monkeypatch.setattr("modelfetch.formats.archives.MAX_MEMBERS", 1000)
    many = long_list(tmp_path / "y", count=1001)
    unread = many[:-22] + many[-22:-14] + bytes(4) + many[-10:]  # its end declares no file
    confusing = many[:-6] + b"PK\5\6" + many[-2:]  # its offset looks like another end
    for case in (long, many, unread, confusing, large_end(many, honest=True), large_end(many, honest=False)):
        (tmp_path / "z").write_bytes(case)
        with pytest.raises(IntegrityError, match="it has more than"), open_archive(tmp_path / "z"):
            pass
        assert "may hold a pickle among" in str(check_pickle("x.zip", len(case), reader(bytes(case))))
    (tmp_path / "z").write_bytes(long_list(tmp_path / "y", count=1000))
    with open_archive(tmp_path / "z") as opened:
        assert len(list_members(tmp_path / "z", opened)) == 1000
