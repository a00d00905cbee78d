"""Files and folders are opened, written, renamed, copied and swept with nothing lost and nothing left."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from modelfetch import load_manifest
from modelfetch.care.hashing import hash_one
from modelfetch.cli.fastpath import check
from modelfetch.core import fs
from modelfetch.core.digest import Digest
from modelfetch.core.events import Event, Notice
from modelfetch.errors import DestinationError, DiskError, ManifestError, ModelfetchError
from modelfetch.store.adopted import mark_adopted
from modelfetch.store.checks import read_checks

if TYPE_CHECKING:
    from collections.abc import Iterator


# ── a folder below another, in one step ──
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


# ── errors and refusals ──
@pytest.mark.parametrize(
    ("number", "kind", "code", "exit_code"),
    [
        (errno.ENOSPC, DiskError, "no-space", 74),
        (errno.EDQUOT, DiskError, "no-space", 74),
        (errno.EIO, DiskError, DiskError.default_code, 74),
        (errno.ENOENT, DiskError, DiskError.default_code, 74),
        (errno.EACCES, DestinationError, DestinationError.default_code, 73),
        (errno.EROFS, DestinationError, DestinationError.default_code, 73),
        (errno.ENOTDIR, DestinationError, "foreign-file", 73),
        (errno.ELOOP, DestinationError, "foreign-file", 73),
    ],
)
def test_an_error_of_the_system_is_typed_and_names_its_path(
    number: int, kind: type[ModelfetchError], code: str, exit_code: int
) -> None:
    error = fs.translate(OSError(number, os.strerror(number), "/a/path"), "/another", doing="writing")
    assert (type(error), error.code, error.exit_code) == (kind, code, exit_code)
    assert str(error).startswith("writing /a/path: ")
    assert "/another" in str(fs.translate(OSError(number, os.strerror(number)), "/another", doing="writing"))


def test_a_name_that_the_locale_lacks_is_an_error_of_the_destination() -> None:
    error = fs.translate(UnicodeEncodeError("ascii", "modèle", 3, 4, "ordinal"), "x", doing="making")
    assert (error.code, error.exit_code) == ("unencodable-name", 73)
    assert "mod\\xe8le" in str(error)


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


def test_a_failing_disk_is_no_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with (tmp_path / "file").open("wb") as file, pytest.raises(OSError, match="Input/output"):
        fs.finish_file(file.fileno(), mode=0o644)


# ── opening and reading ──
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


# ── folders ──
def test_missing_folders_get_their_mode_whatever_the_umask_and_others_keep_theirs(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir(mode=0o700)
    before = os.umask(0o077)
    try:
        fs.make_directory(tmp_path / "there/a/b")
        fs.make_directory(tmp_path / "there/a/b")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / path).stat().st_mode) for path in ("there", "there/a", "there/a/b")]
    assert modes == [0o700, 0o755, 0o755]


def test_a_file_in_the_place_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in ("file", "file/below"):
        with pytest.raises(OSError, match=r"exists|Not a directory"):
            fs.make_directory(tmp_path / path)


# ── temporary files ──
def test_a_temporary_name_is_hidden_new_and_known_by_its_stem() -> None:
    name = fs.temporary_name("probe")
    assert name.startswith(".")
    assert name != fs.temporary_name("probe")
    assert fs.is_temporary_name(name)
    assert fs.is_temporary_name(name, stem="probe")
    assert not fs.is_temporary_name(name, stem="fetch")
    assert not fs.is_temporary_name("probe.part")


def test_only_old_temporary_files_and_those_of_the_lock_are_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    young, mine = fs.temporary_name("probe"), fs.temporary_name("mine")
    for name in (young, mine, "precious.part", ".earlier-1"):
        (tmp_path / name).touch()
    (tmp_path / fs.temporary_name("folder")).mkdir()
    fs.sweep_temporaries(tmp_path, locked=[mine[:18]])
    left = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert left == {young, "precious.part", ".earlier-1"}
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3700)
    fs.sweep_temporaries(tmp_path, stem="fetch")
    assert (tmp_path / young).exists()
    fs.sweep_temporaries(tmp_path, older=r"\.earlier-\d")
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"precious.part"}
    assert len(list(tmp_path.iterdir())) == 2, "a folder is never removed"


# ── writing and renaming ──
def test_a_file_is_replaced_whole_with_its_mode_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    before = os.umask(0o077)
    try:
        fs.write_atomically(path, b"new", mode=0o644)
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
        fs.write_atomically(path, b"new", mode=0o644)
    assert [(left.name, left.read_bytes()) for left in tmp_path.iterdir()] == [("file", b"old")]


@pytest.mark.parametrize("kind", ["folder", "link", "fifo"])
def test_what_is_no_regular_file_is_never_replaced(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "there"
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("x")
    else:
        os.mkfifo(path)
    before = path.lstat().st_ino
    with pytest.raises(FileExistsError):
        fs.write_atomically(path, b"new", mode=0o644)
    assert [(left.name, left.lstat().st_ino) for left in tmp_path.iterdir()] == [("there", before)]


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
        monkeypatch.setattr(fs, "_renameat2", lambda *_: False)
    if support == "neither":
        monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "one").write_bytes(b"1")
    (tmp_path / "two").write_bytes(b"2")
    with pytest.raises(FileExistsError):
        fs.rename_new("one", "two", source_folder=opened, target_folder=opened)
    fs.rename_new("one", "three", source_folder=opened, target_folder=opened)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"two": b"2", "three": b"1"}


def test_a_dangling_link_exists_too(tmp_path: Path, opened: int) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    assert fs.exists_at("link", opened)
    assert not fs.exists_at("other", opened)


# ── copying and hashing ──
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

    with pytest.raises(KeyboardInterrupt):
        fs.hash_file(path, "sha256", check=stop)


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


def test_a_full_disk_is_no_missing_ability_to_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("fcntl.ioctl", fail)
    (tmp_path / "source").write_bytes(b"x")
    with pytest.raises(OSError, match="No space"):
        fs.try_reflink(tmp_path / "source", tmp_path / "target")


# ── what may not be a file ──
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


def test_a_file_of_ours_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
