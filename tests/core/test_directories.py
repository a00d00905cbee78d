"""Directories are opened and made safely, and a rename never replaces a file."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.core import directories
from modelfetch.errors import DestinationError

if TYPE_CHECKING:
    from collections.abc import Iterator


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
    fd = directories.open_folder_beneath(top, "a/b")
    if fd is None:
        pytest.skip("this kernel has no openat2")
    assert os.path.samestat(os.fstat(fd), (tmp_path / "top/a/b").stat())
    assert not os.get_inheritable(fd)
    os.close(fd)


@pytest.mark.parametrize("path", ["link", "link/b", "out", "out/top", "../top", "a/../../top", "/", "file", "file/x"])
def test_links_paths_that_leave_the_folder_and_files_are_not_opened(top: int, path: str) -> None:
    assert directories.open_folder_beneath(top, path) is None


def test_a_missing_folder_is_an_error(top: int) -> None:
    if directories.open_folder_beneath(top, "a") is None:
        pytest.skip("this kernel has no openat2")
    with pytest.raises(FileNotFoundError):
        directories.open_folder_beneath(top, "a/c")


def test_without_the_system_call_nothing_is_opened(top: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directories, "_load_syscall", lambda: None)
    assert directories.open_folder_beneath(top, "a") is None


def test_new_folders_get_their_mode_for_any_umask_and_existing_ones_keep_theirs(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir(mode=0o700)
    before = os.umask(0o077)
    try:
        directories.make_directory(tmp_path / "there/a/b")
        directories.make_directory(tmp_path / "there/a/b")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / path).stat().st_mode) for path in ("there", "there/a", "there/a/b")]
    assert modes == [0o700, 0o755, 0o755]


def test_a_new_folder_that_becomes_a_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root, this would give any folder another mode and owner."""
    victim, mkdir = tmp_path / "victim", Path.mkdir
    victim.mkdir()
    victim.chmod(0o700)

    def then_swap(self: Path, **named: Any) -> None:
        mkdir(self, **named)
        self.rmdir()
        self.symlink_to(victim)

    monkeypatch.setattr(Path, "mkdir", then_swap)
    with pytest.raises(OSError, match="new"):
        directories.make_directory(tmp_path / "new", owner=(os.geteuid(), os.getegid()))
    assert stat.S_IMODE(victim.stat().st_mode) == 0o700


def test_a_file_in_the_place_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in ("file", "file/below"):
        with pytest.raises(OSError, match=r"exists|Not a directory"):
            directories.make_directory(tmp_path / path)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("support", ["renameat2", "link", "neither"])
def test_a_rename_never_replaces_a_file(
    support: str, tmp_path: Path, opened: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if support != "renameat2":
        monkeypatch.setattr(directories, "_renameat2", lambda *_: False)
    if support == "neither":
        monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "one").write_bytes(b"1")
    (tmp_path / "two").write_bytes(b"2")
    with pytest.raises(FileExistsError):
        directories.rename_new("one", "two", source_folder=opened, target_folder=opened)
    directories.rename_new("one", "three", source_folder=opened, target_folder=opened)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"two": b"2", "three": b"1"}


def test_a_dangling_link_exists_too(tmp_path: Path, opened: int) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    assert directories.exists_at("link", opened)
    assert not directories.exists_at("other", opened)


def test_a_file_can_be_written_where_there_is_one_or_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "file", tmp_path / "new", tmp_path / "new" / "file"):
        directories.require_file_path(path)
    for path, problem in (
        (tmp_path, "is a folder, expected the path of a file"),
        (Path("/"), "is a folder, expected the path of a file"),
        (tmp_path / "pipe", "is not a regular file"),
        (Path("/dev/null"), "is not a regular file"),
    ):
        with pytest.raises(DestinationError, match=f"^{path} {problem}$") as caught:
            directories.require_file_path(path)
        assert (caught.value.exit_code, caught.value.code) == (73, "foreign-file")
