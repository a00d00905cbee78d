"""Files are opened, read, hashed and copied safely, and refused operations are reported."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from modelfetch import load_manifest
from modelfetch.care.hashing import hash_one
from modelfetch.cli.fastpath import check
from modelfetch.core import fs
from modelfetch.core.digest import Digest
from modelfetch.core.events import Event, Notice
from modelfetch.errors import ManifestError
from modelfetch.store.adopted import mark_adopted
from modelfetch.store.checks import read_checks


def test_each_kind_of_refusal_is_reported_once() -> None:
    events: list[Event] = []
    report = fs.RefusalReporter(events.append)
    for number in (errno.EPERM, errno.EPERM, errno.EROFS):
        report("chmod", OSError(number, os.strerror(number), "file"))
    assert [event.message.partition(" (")[0] for event in events if isinstance(event, Notice)] == [
        "this file system refuses chmod of file"
    ] * 2


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_refused_mode_owner_or_sync_is_passed_on_and_not_raised(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    for name in ("chmod", "chown", "fsync"):
        monkeypatch.setattr(os, name, refuse)
    refused: list[str] = []
    with (tmp_path / "file").open("wb") as file:
        fs.finish_file(file.fileno(), mode=0o644, owner=(1, 1), refused=lambda what, _: refused.append(what))
    assert refused == ["chmod", "chown", "fsync"]


def test_a_disk_error_is_not_reported_as_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with (tmp_path / "file").open("wb") as file, pytest.raises(OSError, match="Input/output"):
        fs.finish_file(file.fileno(), mode=0o644)


def test_only_a_regular_file_is_opened_and_a_link_only_on_request(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "to-fifo").symlink_to("fifo")
    for name in ("fifo", "."):
        with pytest.raises(FileExistsError):
            fs.open_regular(tmp_path / name)
    with pytest.raises(FileExistsError):
        fs.open_regular(tmp_path / "to-fifo", follow=True)
    with pytest.raises(OSError, match="symbolic links"):
        fs.open_regular(tmp_path / "link")
    fd = fs.open_regular(tmp_path / "link", follow=True)
    assert os.read(fd, 10) == b"content"
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_a_small_file_is_read_whole_and_a_larger_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert fs.read_small(path, 5) == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes") as caught:
        fs.read_small(path, 4)
    assert caught.value.errno == errno.EFBIG
    assert fs.read_small(path, 2**50) == b"12345"  # a limit takes no memory


def test_a_copy_is_whole_never_replaces_and_leaves_nothing_if_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(bytes(range(256)) * 5000)
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data[:70_000])))  # as a full pipe or disk does
    fs.copy_bytes(source, target)
    assert target.read_bytes() == source.read_bytes()

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(OSError, match="Input/output"):
        fs.copy_bytes(source, tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_a_file_is_hashed_with_several_algorithms_and_can_be_cancelled(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(3 * 2**20))
    found = fs.hash_file(path, "sha256", "blake3")
    assert found[0] == fs.sha256_file(path) == Digest.sha256(path.read_bytes())
    assert [digest.algorithm for digest in found] == ["sha256", "blake3"]
    calls: list[int] = []

    def stop() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with path.open("rb") as file, pytest.raises(KeyboardInterrupt):
        fs.hash_descriptor(file.fileno(), "sha256", check=stop)


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL])
def test_a_clone_that_the_file_system_can_not_make_leaves_nothing(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.ioctl", refuse)
    (tmp_path / "source").write_bytes(b"x")
    assert not fs.try_reflink(tmp_path / "source", tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_full_disk_does_not_count_as_missing_clone_support(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("fcntl.ioctl", fail)
    (tmp_path / "source").write_bytes(b"x")
    with pytest.raises(OSError, match="No space"):
        fs.try_reflink(tmp_path / "source", tmp_path / "target")


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def test_a_named_file_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    (tmp_path / "link").symlink_to("file")
    assert fs.read_head(tmp_path / "link", 4) == b"0123"


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/tty0", "/dev/ptmx"])
def test_a_device_and_a_fifo_in_the_place_of_a_file_are_refused(fifo: Path, device: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(device)
    for path in (fifo, tmp_path / "link"):
        with pytest.raises(OSError, match=r"regular file|No such|denied|No such device"):
            fs.read_head(path, 10)


def test_a_pipe_that_was_handed_over_is_read() -> None:
    read, write = os.pipe()
    os.write(write, b"version: 1")
    os.close(write)
    assert fs.read_head(Path(f"/dev/fd/{read}"), 100) == b"version: 1"
    os.close(read)


def test_an_own_file_over_the_size_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(2**40)
    monkeypatch.delattr(os, "read")
    with pytest.raises(OSError, match="more than 10 bytes"):
        fs.read_small(path, 10)


def test_the_readers_of_single_files_refuse_a_fifo(fifo: Path, tmp_path: Path) -> None:
    fifo.rename(tmp_path / "checks.json")
    assert read_checks(tmp_path) == {}
    assert isinstance(hash_one(tmp_path / "checks.json").error, FileExistsError)
    with pytest.raises(ManifestError, match="regular file"):
        load_manifest(str(tmp_path / "checks.json"))
    with pytest.raises(ValueError, match=r"checks\.json"):
        check.read_bytes(str(tmp_path / "checks.json"))
    with pytest.raises(OSError, match="No such device"):  # ENXIO: a FIFO without a reader
        mark_adopted(_with_fifo(tmp_path / "store"), Digest.sha256(b""))


def _with_fifo(store: Path) -> Path:
    (store / "adopted").mkdir(parents=True)
    os.mkfifo(store / "adopted" / Digest.sha256(b"").hex)
    return store


def test_a_pipe_in_the_place_of_a_file_is_not_copied_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert not fs.try_reflink(tmp_path / "pipe", tmp_path / "new")
    assert not fs.can_reflink(tmp_path / "pipe", tmp_path)
    with pytest.raises(FileExistsError):
        fs.copy_bytes(tmp_path / "pipe", tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]
