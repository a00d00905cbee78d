"""A zip that is damaged anywhere is unpacked correctly or refused."""

from __future__ import annotations

import contextlib
import io
import random
import zipfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from modelfetch.errors import IntegrityError
from modelfetch.formats.pickles import contains_pickle
from modelfetch.placement.archive import copy_member, list_members, open_archive
from tests.examples import examples

if TYPE_CHECKING:
    from pathlib import Path

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
def test_every_method_is_unpacked(tmp_path: Path, method: int) -> None:
    (tmp_path / "x.zip").write_bytes(ZIPS[method])
    assert unpacked(tmp_path / "x.zip") == MEMBERS


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
    contains_pickle(len(data), lambda at, count: bytes(data[at : at + count]))
    with contextlib.suppress(IntegrityError):
        unpacked(tmp_path / "x.zip")


def test_an_archive_with_a_list_of_files_that_takes_much_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(260):
            info = zipfile.ZipInfo(f"{number}.txt")
            info.comment = bytes(65000)
            archive.writestr(info, b"")
    with pytest.raises(IntegrityError, match="the list of its files is too long"), open_archive(path):
        pass
