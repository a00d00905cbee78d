"""Disks that are full, refuse, fail or vanish: a typed error with the path, and the next run continues."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

import modelfetch.transfer.writer as writer_module
from modelfetch.config.options import Options
from modelfetch.core.digest import Digest
from modelfetch.errors import DestinationError, DiskError, ModelfetchError
from modelfetch.store.chunks import CHUNK
from tests.cases import first
from tests.store.test_store import obstruct
from tests.transfer.server import Conn, Origin, Request, Script, drop_after, head
from tests.transfer.world import World, payload

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DATA = payload(300_000)
BIG = payload(CHUNK + 8_000_000, seed=2)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 28 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a disk")
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=28m", "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_foreseen_lack_of_space_ends_a_transfer_before_the_body(small_disk: Path) -> None:
    world = World(root=small_disk)
    (small_disk / "ballast").write_bytes(bytes(8 * 2**20))
    with Origin(BIG) as origin:
        with pytest.raises(DiskError) as caught:
            world.fetch(origin, data=BIG)
        assert (caught.value.code, caught.value.exit_code) == ("no-space", 74)
        assert str(small_disk) in caught.value.message
        (small_disk / "ballast").unlink()
        assert world.fetch(origin, data=BIG).blob.size == len(BIG)


def test_a_full_disk_during_a_transfer_keeps_the_partial_file(small_disk: Path) -> None:
    """The file's size is unknown, and the disk fills in the middle of it."""
    from tests.transfer.bodies import chunked

    world = World(root=small_disk)
    (small_disk / "ballast").write_bytes(bytes(8 * 2**20))
    with Origin(BIG, scripts=[chunked]) as origin:
        with pytest.raises(DiskError) as caught:
            world.fetch(origin, data=BIG, size=None)
        assert (caught.value.code, caught.value.exit_code) == ("no-space", 74)
        assert str(small_disk) in caught.value.message
        assert world.partial() is not None
        (small_disk / "ballast").unlink()
        fetched = world.fetch(origin, data=BIG)
        assert fetched.action == "resumed"
        assert fetched.blob.path.read_bytes() == BIG


def test_the_reserved_space_of_a_partial_file_is_released(world: World) -> None:
    world.options = Options(retries=1)
    with Origin(BIG, scripts=[drop_after(5_000_000)], default=drop_after(0)) as origin, pytest.raises(ModelfetchError):
        world.fetch(origin, data=BIG)
    part = world.partial()
    assert part is not None
    assert part.stat().st_size == 5_000_000
    assert part.stat().st_blocks * 512 < 5_100_000


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    first(
        3,
        [
            (errno.EIO, DiskError, "io-error"),
            (errno.EROFS, DestinationError, "not-writable"),
            (errno.ENOSPC, DiskError, "no-space"),
            (errno.EACCES, DestinationError, "not-writable"),
            (errno.EDQUOT, DiskError, "no-space"),
        ],
    ),
)
@pytest.mark.parametrize("what", first(1, ["write_all", "fsync"]))
@pytest.mark.parametrize("data", [DATA, BIG], ids=["small", "pumped"])
def test_a_disk_that_fails_is_a_typed_error_with_its_path(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    kind: type[ModelfetchError],
    code: str,
    what: str,
    data: bytes,
) -> None:
    def fail(*_args: object, **_more: object) -> None:
        raise OSError(number, os.strerror(number))

    with Origin(data) as origin:
        with monkeypatch.context() as patched:
            if what == "fsync":
                patched.setattr("modelfetch.store.store.os.fsync", fail)
            else:
                patched.setattr(writer_module, "write_all", fail)
            with pytest.raises(kind) as caught:
                world.fetch(origin, data=data)
        assert caught.value.code == code
        assert str(world.root / "store") in caught.value.message
        assert not list(world.store.blobs())
        assert world.fetch(origin, data=data).blob.path.read_bytes() == data


def test_a_store_that_can_not_be_created_is_a_destination_error(world: World) -> None:
    (world.root / "store").write_text("I am a file")
    with Origin(DATA) as origin, pytest.raises(DestinationError) as caught:
        world.fetch(origin, data=DATA)
    assert str(world.root / "store") in caught.value.message
    assert caught.value.exit_code == 73
    assert not origin.requests


def test_a_read_only_disk_is_a_destination_error(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with Origin(DATA) as origin, pytest.raises(DestinationError) as caught:
        World(root=small_disk).fetch(origin, data=DATA)
    assert caught.value.exit_code == 73
    assert str(small_disk) in caught.value.message


def vanishing(world: World, *, blocked: bool) -> Script:
    """In the middle of the body the store goes away, and perhaps something else takes its place."""

    def vanish(conn: Conn, request: Request, origin: Origin) -> None:
        status, fields, start, end = origin.fields(request)
        conn.send(head(status, fields) + origin.data[start : start + 5_000_000])
        shutil.rmtree(world.root / "store")
        if blocked:
            (world.root / "store").write_text("in the way")
        conn.send(origin.data[start + 5_000_000 : end])

    return vanish


def test_a_store_replaced_during_a_transfer_is_a_typed_error(world: World) -> None:
    with Origin(BIG, scripts=[vanishing(world, blocked=True)]) as origin:
        with pytest.raises((DiskError, DestinationError)) as caught:
            world.fetch(origin, data=BIG)
        assert str(world.root / "store") in caught.value.message


def test_a_store_deleted_during_a_transfer_is_created_again(world: World) -> None:
    with Origin(BIG, scripts=[vanishing(world, blocked=False)]) as origin:
        assert world.fetch(origin, data=BIG).blob.path.read_bytes() == BIG


@pytest.mark.parametrize("kind", ["FIFO", "folder", "link"])
@pytest.mark.parametrize("name", [".part", ".json", ".lock"])
def test_a_fifo_in_the_place_of_an_own_file_does_not_block(world: World, kind: str, name: str) -> None:
    folder = world.store.folder("locks" if name == ".lock" else "ingest")
    obstruct(folder / f"{Digest.sha256(DATA).hex}{name}", kind)
    with Origin(DATA, scripts=[drop_after(100_000)]) as origin:
        if name == ".json":  # a small file needs no journal
            assert world.fetch(origin, data=DATA).blob.path.read_bytes() == DATA
        else:
            with pytest.raises(DestinationError) as caught:
                world.fetch(origin, data=DATA)
            assert caught.value.exit_code == 73


def test_a_huge_journal_is_not_read(world: World) -> None:
    part = world.store.folder("ingest") / f"{Digest.sha256(DATA).hex}.part"
    part.write_bytes(DATA[:1000])
    with part.with_suffix(".json").open("wb") as file:
        file.truncate(2**40)
    with Origin(DATA) as origin:
        assert world.fetch(origin, data=DATA).blob.path.read_bytes() == DATA


def test_a_disk_of_unknown_size_counts_as_large_enough(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = os.statvfs_result((4096, 4096, 0, 0, 0, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _path: unknown)
    with Origin(BIG) as origin:
        assert world.fetch(origin, data=BIG).blob.path.read_bytes() == BIG


@pytest.mark.parametrize("operation", ["chmod", "fchmod", "fsync"])
def test_an_unsupported_operation_does_not_end_a_transfer(
    world: World, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, operation, refuse)
    with Origin(BIG) as origin:
        assert world.fetch(origin, data=BIG).blob.path.read_bytes() == BIG


def test_a_partial_that_is_a_symlink_is_not_followed(world: World) -> None:
    victim = world.root / "victim"
    victim.write_bytes(b"precious")
    part = world.store.folder("ingest") / f"{Digest.sha256(DATA).hex}.part"
    part.symlink_to(victim)
    with Origin(DATA) as origin, pytest.raises(ModelfetchError) as caught:
        world.fetch(origin, data=DATA)
    assert caught.value.exit_code == 73
    assert victim.read_bytes() == b"precious"
