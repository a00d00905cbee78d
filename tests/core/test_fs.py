"""Opening a folder below another one in one step."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from modelfetch.core import fs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def top(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "top" / "a" / "b").mkdir(parents=True)
    (tmp_path / "top" / "file").touch()
    (tmp_path / "top" / "link").symlink_to("a")
    (tmp_path / "top" / "out").symlink_to(tmp_path)
    fd = os.open(tmp_path / "top", os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_a_folder_is_opened(top: int, tmp_path: Path) -> None:
    fd = fs.open_folder_beneath(top, "a/b")
    if fd is None:
        pytest.skip("this kernel has no openat2")
    assert os.path.samestat(os.fstat(fd), (tmp_path / "top/a/b").stat())
    assert not os.get_inheritable(fd)
    os.close(fd)


@pytest.mark.parametrize("path", ["link", "link/b", "out", "out/top", "../top", "a/../../top", "/", "file", "file/x"])
def test_a_link_a_way_out_and_a_file_are_not_opened(top: int, path: str) -> None:
    assert fs.open_folder_beneath(top, path) is None


def test_a_missing_folder_is_an_error(top: int) -> None:
    if fs.open_folder_beneath(top, "a") is None:
        pytest.skip("this kernel has no openat2")
    with pytest.raises(FileNotFoundError):
        fs.open_folder_beneath(top, "a/c")


def test_without_the_system_call_nothing_is_opened(top: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fs, "_load_syscall", lambda: None)
    assert fs.open_folder_beneath(top, "a") is None
