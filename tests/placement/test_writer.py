"""A file that appears or changes after the inspection is never overwritten; no temporary file is left."""

from __future__ import annotations

import errno
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.core import directories, fs
from modelfetch.errors import DestinationError
from modelfetch.placement import PlacementJob
from modelfetch.placement.layouts import Placement, PlacementMethod
from modelfetch.placement.receipts import ReceiptBook
from tests.cases import first
from tests.placement.crashes import Killed
from tests.placement.world import LARGE, SMALL, World

if TYPE_CHECKING:
    from collections.abc import Callable

PATH = "comfyui/models/vae/a.bin"


@pytest.fixture(params=["renameat2", "link", "neither"])
def _renames(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ways to give a name: not every C library, kernel and file system has all of them."""
    if request.param != "renameat2":
        monkeypatch.setattr(directories, "_load_renameat2", lambda: None)
    if request.param == "neither":
        monkeypatch.setattr(os, "link", refused(errno.EPERM))


def refused(number: int) -> Callable[..., None]:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


def between_inspection_and_writing(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    claim = ReceiptBook.claim

    def then_act(self: ReceiptBook, claims: Any) -> None:
        claim(self, claims)
        act()

    monkeypatch.setattr(ReceiptBook, "claim", then_act)


def job_of(world: World, kind: str) -> PlacementJob:
    if kind == "link":
        return world.job(PATH, LARGE)
    if kind == "copy":
        return world.job(PATH, SMALL)
    if kind == "text":
        return PlacementJob(placement=Placement(path=PATH, how=PlacementMethod.TEXT, text=b"text"))
    return PlacementJob(placement=Placement(path=PATH, how=PlacementMethod.SYMLINK, target="elsewhere"))


@pytest.mark.usefixtures("_renames")
@pytest.mark.parametrize("kind", ["link", "copy", "text", "symlink"])
def test_a_foreign_file_that_appears_after_the_check_is_kept(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    job, there = job_of(world, kind), world.root / PATH
    there.parent.mkdir(parents=True)
    between_inspection_and_writing(monkeypatch, lambda: there.write_bytes(b"precious"))
    with pytest.raises(DestinationError) as refusal:
        world.place(job)
    assert refusal.value.code == "foreign-file"
    assert there.read_bytes() == b"precious"
    assert [path.name for path in there.parent.iterdir()] == ["a.bin"]


@pytest.mark.usefixtures("_renames")
@pytest.mark.parametrize("kind", ["link", "copy", "text"])
def test_an_own_file_edited_after_the_check_is_moved_aside(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    there = world.root / PATH
    world.place(world.job(PATH, b"older"))

    def edit() -> None:
        there.write_bytes(b"edited")

    between_inspection_and_writing(monkeypatch, edit)
    world.place(job_of(world, kind))
    (aside,) = (world.root / ".modelfetch/displaced").glob(f"*/{PATH}")
    assert aside.read_bytes() == b"edited"
    assert there.read_bytes() != b"edited"


def test_an_edited_file_is_kept_even_if_what_replaced_it_is_removed_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, exchange = world.root / PATH, directories.exchange
    world.place(world.job(PATH, b"older"))

    def exchange_and_lose(source: str, target: str, *, source_folder: int, target_folder: int) -> bool:
        monkeypatch.setattr(directories, "exchange", exchange)
        done = exchange(source, target, source_folder=source_folder, target_folder=target_folder)
        there.unlink()
        return done

    monkeypatch.setattr(directories, "exchange", exchange_and_lose)
    between_inspection_and_writing(monkeypatch, lambda: there.write_bytes(b"edited"))
    world.place(world.job(PATH, SMALL))
    (aside,) = (world.root / ".modelfetch/displaced").glob(f"*/{PATH}")
    assert (aside.read_bytes(), there.read_bytes()) == (b"edited", SMALL)


@pytest.mark.usefixtures("_renames")
@pytest.mark.parametrize("what", ["fifo", "folder", "link"])
def test_anything_but_a_regular_file_is_neither_opened_nor_replaced(world: World, what: str) -> None:
    there = world.root / PATH
    there.parent.mkdir(parents=True)
    if what == "fifo":
        os.mkfifo(there)
    elif what == "folder":
        there.mkdir()
    else:
        there.symlink_to("/dev/zero")
    with pytest.raises(DestinationError) as refusal:
        world.place(world.job(PATH, SMALL))
    assert refusal.value.code == "foreign-file"
    assert os.path.lexists(there)


def test_a_fifo_in_the_place_of_an_own_file_is_moved_aside(world: World) -> None:
    world.place(world.job(PATH, SMALL))
    (world.root / PATH).unlink()
    os.mkfifo(world.root / PATH)
    world.place(world.job(PATH, SMALL))
    assert (world.root / PATH).read_bytes() == SMALL


def test_a_file_changed_in_the_same_way_again_is_moved_aside_once(world: World) -> None:
    """A newer tag that is pulled in a frontend: each sync puts the pinned manifest back."""
    job = world.job("ollama/models/manifests/h/l/m/t", SMALL, PlacementMethod.COPY)
    for _ in range(3):
        world.place(job, consumer="ollama")
        (world.root / "ollama/models/manifests/h/l/m/t").write_bytes(b"pulled anew")
    world.place(job, consumer="ollama")
    (aside,) = [path for path in (world.root / ".modelfetch/displaced").rglob("*") if path.is_file()]
    assert aside.read_bytes() == b"pulled anew"
    assert (world.root / "ollama/models/manifests/h/l/m/t").read_bytes() == SMALL
    assert any(getattr(event, "hint", None) and "update the pin" in event.hint for event in world.events)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("call", "number"), [("chmod", errno.EPERM), ("fsync", errno.EINVAL), ("fsync", errno.EOPNOTSUPP)]
)
def test_an_unsupported_operation_is_reported_once_and_placing_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    jobs = [world.job(f"comfyui/models/{name}.json", name.encode()) for name in "abc"]
    monkeypatch.setattr(os, call, refused(number))
    world.place(*jobs)
    assert (world.root / "comfyui/models/c.json").read_bytes() == b"c"
    assert len(world.warnings) == 1


def test_a_refused_chown_is_reported_once_and_placing_goes_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.owner = (12, 34)
    monkeypatch.setattr(os, "chown", refused(errno.EPERM))
    world.place(*(world.job(f"comfyui/models/{name}.json", name.encode()) for name in "abc"))
    assert len(world.warnings) == 1
    assert "chown" in world.warnings[0]


@pytest.mark.parametrize(
    "stray",
    [
        ".modelfetch/receipts/.comfyui.1.part",
        ".modelfetch/receipts/.modelfetch-comfyui-1-0a.part",
        ".modelfetch/tmp/comfyui/.modelfetch-1-0a.part",
        ".modelfetch/.modelfetch-probe-4194305.part",
        "comfyui/.modelfetch-probe-4194305-link.part",
        "comfyui/models/vae/.modelfetch-4194305-0.part",
        ".modelfetch-4194305-0a.part",
        ".modelfetch/.modelfetch-4194305-0a.part",
        ".modelfetch/noop/.0123456789abcdef.part",
    ],
)
def test_temporary_files_of_killed_processes_are_removed_after_an_hour(
    world: World, stray: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (world.root / stray).parent.mkdir(parents=True, exist_ok=True)
    (world.root / stray).write_bytes(b"half")
    now = time.time()
    monkeypatch.setattr("modelfetch.core.temp_files.time.time", lambda: now + 3601)
    world.place(world.job(PATH, SMALL))
    assert not (world.root / stray).exists()


@pytest.mark.parametrize("pid", [None, 4194305], ids=["this", "none"])
@pytest.mark.parametrize("form", [".modelfetch/journal/.modelfetch-{}-0a.part", ".modelfetch-{}-0a.part"])
def test_temporary_files_of_other_processes_are_kept_for_an_hour(world: World, form: str, pid: int | None) -> None:
    name = form.format(pid or os.getpid())
    (world.root / name).parent.mkdir(parents=True, exist_ok=True)
    (world.root / name).write_bytes(b"half")
    world.place(world.job(PATH, SMALL))
    assert (world.root / name).exists()


def test_the_temporary_receipt_of_another_consumer_is_kept(world: World) -> None:
    there = world.root / f".modelfetch/receipts/.modelfetch-ollama-{os.getpid()}-0a.part"
    there.parent.mkdir(parents=True)
    there.write_bytes(b"half")
    world.place(world.job(PATH, SMALL))
    assert there.exists()


@pytest.fixture
def _apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The consumer's folder is on another file system than ROOT's own folder."""
    renameat2 = directories._renameat2

    def apart(source: str, target: str, source_folder: int, target_folder: int, flags: int) -> bool:
        if target == source == "a.bin":
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return renameat2(source, target, source_folder, target_folder, flags)

    monkeypatch.setattr(directories, "_renameat2", apart)


@pytest.mark.usefixtures("_apart")
def test_a_file_on_another_file_system_is_moved_aside_too(world: World) -> None:
    world.place(world.job(PATH, SMALL))
    (world.root / PATH).write_bytes(b"edited")
    world.place(world.job(PATH, SMALL))
    (aside,) = (world.root / ".modelfetch/displaced").glob(f"*/{PATH}")
    assert (aside.read_bytes(), (world.root / PATH).read_bytes()) == (b"edited", SMALL)


def edit(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b" again")


def save(path: Path) -> None:
    path.with_name("new").write_bytes(b"edited again")
    path.with_name("new").replace(path)


def save_elsewhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("edited again")


@pytest.mark.usefixtures("_apart")
@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("act", first(1, [edit, save, save_elsewhere, Path.unlink]))
def test_a_file_that_changes_while_it_is_copied_aside_is_moved_aside_as_it_is_then(
    world: World, monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], None], *, linked: bool
) -> None:
    owner, name = (os, "symlink") if linked else (fs, "copy_descriptor")
    copy, copies = getattr(owner, name), list[str]()

    def then_act(*given: Any, **named: Any) -> None:
        copy(*given, **named)
        if not copies:
            copies.append(name)
            (save if linked and act is edit else act)(world.root / PATH)

    world.place(world.job(PATH, SMALL))
    (world.root / PATH).unlink()
    (world.root / PATH).symlink_to("edited") if linked else (world.root / PATH).write_bytes(b"edited")
    monkeypatch.setattr(owner, name, then_act)
    world.place(world.job(PATH, SMALL))
    found = [path for path in (world.root / ".modelfetch/displaced").rglob("*") if path.is_symlink() or path.is_file()]
    kept = [str(path.readlink()) if path.is_symlink() else path.read_text() for path in found]
    assert kept == ([] if act is Path.unlink else ["edited again"])
    assert (world.root / PATH).read_bytes() == SMALL


@pytest.mark.usefixtures("_apart")
def test_a_kill_while_a_file_is_copied_aside_leaves_no_part_of_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.place(world.job(PATH, SMALL))
    (world.root / PATH).write_bytes(b"edited")
    for _ in range(2):
        with monkeypatch.context() as dying:

            def cut(_source: int, target: int, _check: object, dying: pytest.MonkeyPatch = dying) -> None:
                fs.write_all(target, b"edi")
                dying.setattr(os, "unlink", lambda *_, **__: None)
                raise Killed

            dying.setattr(fs, "copy_descriptor", cut)
            with pytest.raises(Killed):
                world.place(world.job(PATH, SMALL))
    world.place(world.job(PATH, SMALL))
    kept = [path.read_bytes() for path in (world.root / ".modelfetch/displaced").rglob("*") if path.is_file()]
    assert kept == [b"edited"]
    assert list((world.root / ".modelfetch/tmp").rglob("*.part")) == []


@pytest.mark.usefixtures("_apart")
def test_a_private_file_that_is_copied_aside_stays_private(world: World) -> None:
    world.place(world.job(PATH, SMALL))
    (world.root / PATH).write_bytes(b"edited")
    (world.root / PATH).chmod(0o600)
    if os.geteuid() == 0:
        os.chown(world.root / PATH, 12345, 12345)
    before = (world.root / PATH).stat()
    world.place(world.job(PATH, SMALL))
    (aside,) = (world.root / ".modelfetch/displaced").glob(f"*/{PATH}")
    after = aside.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


@pytest.mark.usefixtures("_apart")
def test_symlinks_on_another_file_system_are_moved_aside_again_and_again(world: World) -> None:
    world.place(world.job(PATH, SMALL))
    for target in ("one", "two"):
        (world.root / PATH).unlink()
        (world.root / PATH).symlink_to(target)
        world.place(world.job(PATH, SMALL))
    aside = sorted(path for path in (world.root / ".modelfetch/displaced").rglob("*") if path.is_symlink())
    assert [str(path.readlink()) for path in aside] == ["one", "two"]


@pytest.mark.usefixtures("_apart")
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_and_on_another_file_system_is_refused(world: World, make: Callable[[Path], None]) -> None:
    world.place(world.job(PATH, SMALL))
    (world.root / PATH).unlink()
    make(world.root / PATH)
    with pytest.raises(DestinationError) as caught:
        world.place(world.job(PATH, SMALL))
    assert (caught.value.code, (world.root / PATH).exists()) == ("foreign-file", True)


def test_journals_are_private_and_so_are_receipts_with_the_query_of_an_address(world: World) -> None:
    modes = []
    for uri in ("https://host/a.bin", "https://host/a.bin?key=1"):
        job = world.job(PATH, SMALL)
        artifact = replace(job.placement.artifact, uri=uri) if job.placement.artifact else None
        world.place(replace(job, placement=replace(job.placement, artifact=artifact)))
        files = [world.root / ".modelfetch" / name for name in ("receipts/comfyui.json", "journal/comfyui.jsonl")]
        modes.append([path.stat().st_mode & 0o777 for path in files])
    assert modes == [[0o644, 0o600], [0o600, 0o600]]
