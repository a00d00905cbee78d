"""A file that can't be renamed over, such as a single file mounted into a container, is written in place."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from modelfetch.core import fs


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every rename fail as it does over a mount point."""

    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy", str(target))

    monkeypatch.setattr(Path, "replace", refuse)


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize("data", [b"", b"short", b"much longer than what was there before\n" * 100])
def test_the_same_inode_gets_the_new_bytes_and_nothing_is_left(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / ".env"
    file.write_bytes(b"A=1\nB=2\n")
    before = file.stat().st_ino
    fs.replace_document(file, data, mode=0o644)
    assert (file.read_bytes(), file.stat().st_ino) == (data, before)
    assert [path.name for path in tmp_path.iterdir()] == [".env"]


@pytest.mark.usefixtures("busy")
def test_what_fails_on_the_way_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / ".env"
    file.write_bytes(b"A=1\n")
    write = fs._overwrite
    calls = []

    def fail_once(path: Path, data: bytes) -> None:
        calls.append(data)
        write(path, data[:2] if len(calls) == 1 else data)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fs, "_overwrite", fail_once)
    with pytest.raises(OSError, match="No space"):
        fs.replace_document(file, b"B=22\n", mode=0o644)
    assert file.read_bytes() == b"A=1\n"
    assert [path.name for path in tmp_path.iterdir()] == [".env"]


def test_another_failure_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EACCES, "Permission denied", str(target))

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError):
        fs.replace_document(tmp_path / "x", b"", mode=0o644)
