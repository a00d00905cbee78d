"""Kept lock files: the same lock, without a new file each time."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from modelfetch.errors import DiskError, RetryLaterError
from modelfetch.store.locks.files import LockFiles
from modelfetch.store.locks.lock import LockLostError, LockTiming, lock
from modelfetch.store.locks.owner import Owner

TIMING = LockTiming(heartbeat=60, stale=60, poll=0.001)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "locks"
    path.mkdir()
    return path


def test_one_file_serves_many_locks_and_none_is_left(folder: Path) -> None:
    files, inodes = LockFiles(folder), set()
    for number in range(5):
        path = folder / f"{number}.lock"
        with lock(path, label="x", files=files, timing=TIMING) as held:
            inodes.add(path.stat().st_ino)
            assert Owner.parse(path.read_bytes()) == held.owner
            assert held.still_owned()
        assert not path.exists()
    assert len(inodes) == 1
    files.clear()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_a_lock_excludes_locks_with_and_without_kept_files(folder: Path, *, kept: bool, first: bool) -> None:
    path, files = folder / "key.lock", LockFiles(folder)
    with (
        lock(path, label="x", files=files if first else None, timing=TIMING),
        pytest.raises(RetryLaterError),
        lock(path, label="x", timeout=0, files=LockFiles(folder) if kept else files, timing=TIMING),
    ):
        raise AssertionError("two owners")


def test_locks_held_at_once_have_separate_files(folder: Path) -> None:
    files = LockFiles(folder)
    with (
        lock(folder / "a.lock", label="a", files=files, timing=TIMING) as a,
        lock(folder / "b.lock", label="b", files=files, timing=TIMING) as b,
    ):
        assert a.inode != b.inode


def test_an_old_time_stamp_is_renewed_before_the_lock_appears(folder: Path) -> None:
    files, path = LockFiles(folder), folder / "key.lock"
    with lock(path, label="x", files=files, timing=TIMING) as held:
        kept = held.kept
    assert kept is not None
    os.utime(kept.fd, (1, 1))
    kept.beaten -= 100
    with lock(path, label="x", files=files, timing=TIMING):
        assert path.stat().st_mtime > 1


def test_a_lock_that_was_lost_is_left_to_its_new_owner(folder: Path) -> None:
    files, path = LockFiles(folder), folder / "key.lock"
    with lock(path, label="x", files=files, timing=TIMING) as held:
        path.unlink()
        path.write_bytes(b"another's")
        with pytest.raises(LockLostError):
            held.ensure_owned()
    assert path.read_bytes() == b"another's"
    path.unlink()
    with lock(path, label="x", files=files, timing=TIMING) as again:
        assert again.still_owned()


@pytest.mark.parametrize("fault", ["no hardlinks", "kept file removed", "folder removed"])
def test_without_a_kept_file_the_lock_gets_a_new_one(folder: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise PermissionError(1, "not permitted")

    files, path = LockFiles(folder), folder / "key.lock"
    if fault == "no hardlinks":
        monkeypatch.setattr(os, "link", refuse)
    else:
        with lock(path, label="x", files=files, timing=TIMING):
            pass
        for left in folder.iterdir():
            left.unlink()
        if fault == "folder removed":
            folder.rmdir()
    with lock(path, label="x", files=files, timing=TIMING) as held:
        assert held.still_owned()
        assert path.exists()
    files.clear()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("before", ["nothing", "a dead owner"])
@pytest.mark.parametrize("kept", [False, True])
def test_a_full_disk_leaves_no_lock_without_an_owner(
    folder: Path, monkeypatch: pytest.MonkeyPatch, before: str, kept: bool
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path, names = folder / "key.lock", []
    if before == "a dead owner":
        path.touch()
        names = [path]
    monkeypatch.setattr(os, "pwrite", full)
    fds = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(DiskError), lock(path, label="x", files=LockFiles(folder) if kept else None, timing=TIMING):
        pass
    assert (list(folder.iterdir()), len(list(Path("/proc/self/fd").iterdir()))) == (names, fds)
