"""Temporary files are swept, and a file is replaced as a whole or stays as it was."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from modelfetch.core import temp_files
from modelfetch.errors import DestinationError, DiskError

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_temporary_name_is_hidden_new_and_known_by_its_stem() -> None:
    name = temp_files.temporary_name("probe")
    assert name.startswith(".")
    assert name != temp_files.temporary_name("probe")
    assert temp_files.is_temporary_name(name)
    assert temp_files.is_temporary_name(name, stem="probe")
    assert not temp_files.is_temporary_name(name, stem="fetch")
    assert not temp_files.is_temporary_name("probe.part")


def test_only_old_temporary_files_and_those_of_the_lock_are_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    young, mine = temp_files.temporary_name("probe"), temp_files.temporary_name("mine")
    for name in (young, mine, "precious.part", ".earlier-1"):
        (tmp_path / name).touch()
    (tmp_path / temp_files.temporary_name("folder")).mkdir()
    temp_files.sweep_temporaries(tmp_path, locked=[mine[:18]])
    left = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert left == {young, "precious.part", ".earlier-1"}
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3700)
    temp_files.sweep_temporaries(tmp_path, stem="fetch")
    assert (tmp_path / young).exists()
    temp_files.sweep_temporaries(tmp_path, older=r"\.earlier-\d")
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"precious.part"}
    assert len(list(tmp_path.iterdir())) == 2, "a folder is never removed"


def test_a_file_is_replaced_atomically_with_its_mode_for_any_umask(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    before = os.umask(0o077)
    try:
        temp_files.write_atomically(path, b"new", mode=0o644)
    finally:
        os.umask(before)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", 0o644)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_temporary(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os if call == "fsync" else Path, call, fail)
    with pytest.raises(OSError, match="No space"):
        temp_files.write_atomically(path, b"new", mode=0o644)
    assert [(left.name, left.read_bytes()) for left in tmp_path.iterdir()] == [("file", b"old")]


@pytest.mark.parametrize("kind", ["folder", "link", "fifo"])
def test_anything_but_a_regular_file_is_never_replaced(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "there"
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("x")
    else:
        os.mkfifo(path)
    before = path.lstat().st_ino
    with pytest.raises(FileExistsError):
        temp_files.write_atomically(path, b"new", mode=0o644)
    assert [(left.name, left.lstat().st_ino) for left in tmp_path.iterdir()] == [("there", before)]


@pytest.mark.parametrize("kind", ["folder", "link", "fifo"])
def test_what_appears_while_a_file_is_written_is_not_replaced(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "there"
    monkeypatch.setattr(temp_files, "finish_file", lambda *_, **__: CHANGES[kind](path))
    with pytest.raises(FileExistsError):
        temp_files.write_atomically(path, b"new", mode=0o644)
    assert {left.name for left in tmp_path.iterdir()} <= {"there", "target"}
    assert not stat.S_ISREG(path.lstat().st_mode)


# ── a file that can't be renamed over, such as a single file mounted into a container ──
@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every rename fail as it does over a mount point."""

    def refuse(source: str, target: str) -> bool:
        raise OSError(errno.EBUSY, "Device or resource busy", target)

    monkeypatch.setattr(temp_files, "exchange", refuse)


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize("data", [b"", b"short", b"much longer than what was there before\n" * 100])
def test_the_same_inode_gets_the_new_bytes_and_nothing_is_left(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / ".env"
    file.write_bytes(b"A=1\nB=2\n")
    before = file.stat().st_ino
    temp_files.replace_document(file, data, before=b"A=1\nB=2\n", mode=0o644)
    assert (file.read_bytes(), file.stat().st_ino) == (data, before)
    assert [path.name for path in tmp_path.iterdir()] == [".env"]


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
@pytest.mark.parametrize("writable", [True, False])
def test_a_writable_file_in_a_folder_that_is_not_is_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, writable: bool
) -> None:
    file, elsewhere = tmp_path / "folder/.env", tmp_path / "tmp"
    elsewhere.mkdir()
    file.parent.mkdir()
    file.write_bytes(b"A=1\n")
    before = file.stat().st_ino
    make = os.open

    def refuse(path: Any, flags: int, *more: Any, **options: Any) -> int:
        if flags & os.O_CREAT and Path(path).parent == file.parent:
            raise OSError(number, os.strerror(number), str(path))
        return make(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "access", lambda *_: writable)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(elsewhere))
    failure = contextlib.nullcontext() if writable else pytest.raises(OSError, match=re.escape(os.strerror(number)))
    with failure:
        temp_files.replace_document(file, b"B=22\n", before=b"A=1\n", mode=0o644)
    assert (file.read_bytes(), file.stat().st_ino) == (b"B=22\n" if writable else b"A=1\n", before)
    assert [path.name for path in (*file.parent.iterdir(), *elsewhere.iterdir())] == [".env"]


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize("kind", ["full", "disk", "interrupt", "lost"])
def test_what_was_in_a_file_is_kept_if_it_is_written_only_partly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    file = tmp_path / ".env"
    file.write_bytes(b"A=1\n")
    write = temp_files._overwrite
    calls = []

    def fail(path: Path, data: bytes) -> None:
        calls.append(data)
        if len(calls) == 1 or kind == "lost":
            write(path, data[:2])
            raise failure
        write(path, data)

    monkeypatch.setattr(temp_files, "_overwrite", fail)
    numbers = {"full": errno.ENOSPC, "disk": errno.EIO, "lost": errno.EIO}
    failure = KeyboardInterrupt() if kind == "interrupt" else OSError(numbers[kind], os.strerror(numbers[kind]))
    expected = {"full": OSError, "disk": OSError, "interrupt": KeyboardInterrupt, "lost": DiskError}[kind]
    with pytest.raises(expected, match="No space" if kind == "full" else None) as caught:
        temp_files.replace_document(file, b"B=22\n", before=b"A=1\n", mode=0o644)
    backups = [path for path in tmp_path.iterdir() if path != file]
    if kind == "lost":
        (backup,) = backups
        assert backup.read_bytes() == b"A=1\n"
        assert str(backup) in (getattr(caught.value, "hint", "") or "")
    else:
        assert backups == []
        assert file.read_bytes() == b"A=1\n"


@pytest.mark.usefixtures("busy")
def test_a_backup_that_can_not_be_written_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / ".env"
    file.write_bytes(b"A=1\n")
    elsewhere = tmp_path / "tmp"
    elsewhere.mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(elsewhere))
    made = os.fdopen

    class Full:
        def __init__(self, fd: int) -> None:
            self._file = made(fd, "wb")

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def write(self, _data: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    def opened(fd: int, mode: str) -> object:
        return Full(fd) if Path(f"/proc/self/fd/{fd}").readlink().suffix == ".bak" else made(fd, mode)

    monkeypatch.setattr(os, "fdopen", opened)
    with pytest.raises(OSError, match="No space"):
        temp_files.replace_document(file, b"B=22\n", before=b"A=1\n", mode=0o644)
    assert {path.name for path in tmp_path.iterdir()} == {".env", "tmp"}
    assert list(elsewhere.iterdir()) == []
    assert file.read_bytes() == b"A=1\n"


def test_another_failure_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, target: str) -> None:
        raise OSError(errno.EACCES, "Permission denied", target)

    monkeypatch.setattr(temp_files, "rename_new", refuse)
    with pytest.raises(PermissionError):
        temp_files.replace_document(tmp_path / "x", b"", before=None, mode=0o644)


# ── a file that another program changes meanwhile ──
def put_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def put_link(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path.with_name("target"))
    path.with_name("target").write_bytes(b"A=1\n")


def put_fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "edited": lambda path: path.write_bytes(b"A=2\n"),
    "longer": lambda path: path.write_bytes(b"A=1\nB=2\n"),
    "folder": put_folder,
    "link": put_link,
    "fifo": put_fifo,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    ("before", "moment"),
    [
        (b"A=1\n", "finish_file"),
        (b"A=1\n", "_require_content"),
        (b"A=1\n", "exchange"),
        (None, "finish_file"),
        (None, "rename_new"),
    ],
)
def test_what_another_program_wrote_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, before: bytes | None, moment: str
) -> None:
    file = tmp_path / ".env"
    if before is not None:
        file.write_bytes(before)
    real = getattr(temp_files, moment)
    changed: list[int] = []

    def change_first(*args: Any, **options: Any) -> Any:
        if not changed:
            CHANGES[change](file)
            changed.append(file.lstat().st_ino)
        return real(*args, **options)

    monkeypatch.setattr(temp_files, moment, change_first)
    with pytest.raises(DestinationError, match="changed by another program"):
        temp_files.replace_document(file, b"new", before=before, mode=0o644)
    assert [file.lstat().st_ino] == changed
    assert {path.name for path in tmp_path.iterdir()} <= {".env", "target"}
