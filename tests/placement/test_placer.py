from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.core import fs
from modelfetch.core.digest import Digest
from modelfetch.errors import DestinationError, DiskError
from modelfetch.placement import PlacementJob, PlacementRequest, Placer
from modelfetch.placement.layouts import Placement, PlacementMethod
from modelfetch.placement.receipts import read_receipt, receipt_path
from modelfetch.placement.writer import ChangedMeanwhileError, ConsumerWriter, Made
from tests.placement.world import LARGE, SMALL, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from modelfetch.placement.path_stat import PathStat


def test_a_large_file_is_a_hardlink_of_its_blob_and_read_only(world: World) -> None:
    world.place(world.job("comfyui/models/vae/a.safetensors", LARGE))
    placed = world.root / "comfyui/models/vae/a.safetensors"
    assert placed.samefile(world.blob(LARGE).path)
    assert stat.S_IMODE(placed.stat().st_mode) == 0o444
    assert world.receipt("comfyui/models/vae/a.safetensors").how == "link"


def test_a_small_file_is_a_copy_that_its_service_may_rewrite(world: World) -> None:
    world.place(world.job("comfyui/models/vae/a.json", SMALL))
    placed = world.root / "comfyui/models/vae/a.json"
    assert not placed.samefile(world.blob(SMALL).path)
    assert stat.S_IMODE(placed.stat().st_mode) == 0o644
    placed.write_bytes(b"rewritten")
    assert world.blob(SMALL).path.read_bytes() == SMALL


def test_a_placement_that_must_be_a_copy_is_copied_at_any_size(world: World) -> None:
    world.place(world.job("comfyui/x/manifest", LARGE, PlacementMethod.COPY))
    assert not (world.root / "comfyui/x/manifest").samefile(world.blob(LARGE).path)


def test_directories_are_0755_for_any_umask(world: World) -> None:
    world.place(world.job("comfyui/models/vae/deep/a.bin", SMALL))
    for folder in ("comfyui", "comfyui/models", "comfyui/models/vae", "comfyui/models/vae/deep", ".modelfetch"):
        assert stat.S_IMODE((world.root / folder).stat().st_mode) == 0o755, folder


def test_folders_in_a_shared_one_pass_its_group_on(world: World) -> None:
    shutil.rmtree(world.root, ignore_errors=True)
    world.root.mkdir()
    world.root.chmod(0o2775)
    world.place(world.job("comfyui/models/vae/a.bin", SMALL))
    for folder in ("comfyui", "comfyui/models/vae", ".modelfetch", ".modelfetch/receipts"):
        assert stat.S_IMODE((world.root / folder).stat().st_mode) == 0o2755, folder


def test_existing_files_with_the_right_bytes_are_adopted_and_keep_their_owner(world: World) -> None:
    there = world.root / "comfyui/models/vae/a.safetensors"
    there.parent.mkdir(parents=True)
    there.write_bytes(LARGE)
    before = there.stat()
    world.place(world.job("comfyui/models/vae/a.safetensors", LARGE))
    assert (there.stat().st_ino, there.stat().st_mode) == (before.st_ino, before.st_mode)
    entry = world.receipt("comfyui/models/vae/a.safetensors")
    assert entry.how == "adopted"
    assert not entry.made


def test_other_bytes_without_a_receipt_are_refused_before_anything_is_touched(world: World) -> None:
    there = world.root / "comfyui/models/vae/b.safetensors"
    there.parent.mkdir(parents=True)
    there.write_bytes(b"precious")
    with pytest.raises(DestinationError) as refused:
        world.place(
            world.job("comfyui/models/vae/a.safetensors", LARGE), world.job("comfyui/models/vae/b.safetensors", LARGE)
        )
    assert refused.value.code == "foreign-file"
    assert there.read_bytes() == b"precious"
    assert not (world.root / "comfyui/models/vae/a.safetensors").exists()


def test_a_changed_own_file_is_moved_aside_and_replaced_with_a_warning(world: World) -> None:
    job = world.job("comfyui/models/vae/a.json", SMALL)
    world.place(job)
    placed = world.root / "comfyui/models/vae/a.json"
    placed.write_bytes(b"edited by hand")
    world.place(job)
    assert placed.read_bytes() == SMALL
    (aside,) = (world.root / ".modelfetch/displaced").glob("*/comfyui/models/vae/a.json")
    assert aside.read_bytes() == b"edited by hand"
    assert any(str(aside) in warning for warning in world.warnings)


def test_two_changes_on_one_day_are_both_kept(world: World) -> None:
    job = world.job("comfyui/models/vae/a.json", SMALL)
    for text in (b"one", b"two"):
        world.place(job)
        (world.root / "comfyui/models/vae/a.json").write_bytes(text)
    world.place(job)
    aside = {p.read_bytes() for p in (world.root / ".modelfetch/displaced").glob("*/comfyui/models/vae/a.json")}
    assert aside == {b"one", b"two"}


def test_a_touched_file_with_the_same_bytes_only_refreshes_the_receipt(world: World) -> None:
    job = world.job("comfyui/models/vae/a.json", SMALL)
    world.place(job)
    placed = world.root / "comfyui/models/vae/a.json"
    os.utime(placed, ns=(1, 1))
    world.place(job)
    assert world.receipt("comfyui/models/vae/a.json").mtime_ns == 1
    assert not (world.root / ".modelfetch/displaced").exists()


def test_an_unchanged_own_file_is_replaced_without_a_warning(world: World) -> None:
    world.place(world.job("comfyui/models/vae/a.safetensors", LARGE))
    world.place(world.job("comfyui/models/vae/a.safetensors", LARGE + b"v2"))
    assert (world.root / "comfyui/models/vae/a.safetensors").read_bytes() == LARGE + b"v2"
    assert not world.warnings


def test_a_linked_file_is_recognised_after_its_receipt_was_lost(world: World) -> None:
    job = world.job("comfyui/models/vae/a.safetensors", LARGE)
    world.place(job)
    (world.root / ".modelfetch/receipts/comfyui.json").unlink()
    world.place(job)
    assert world.receipt("comfyui/models/vae/a.safetensors").made


def test_a_copy_is_recognised_after_a_crash_before_the_receipt(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: object, **_options: object) -> None:
        raise KeyboardInterrupt

    job = world.job("comfyui/models/vae/a.json", SMALL)
    monkeypatch.setattr("modelfetch.placement.receipts.write_receipt", dies)
    with pytest.raises(KeyboardInterrupt):
        world.place(job)
    monkeypatch.undo()
    world.place(job)
    assert world.receipt("comfyui/models/vae/a.json").made


@pytest.mark.parametrize("garbage", [b'{"version": 1, "placements": [[[', b"", b'{"version": 2}', b"[]", b"\xff" * 99])
def test_own_files_are_recognised_with_a_damaged_or_newer_receipt(world: World, garbage: bytes) -> None:
    job = world.job("comfyui/models/vae/a.json", SMALL)
    world.place(job)
    (world.root / ".modelfetch/receipts/comfyui.json").write_bytes(garbage)
    world.place(job)
    assert world.receipt("comfyui/models/vae/a.json").made


def test_a_placed_symlink_points_within_the_consumers_folder(world: World) -> None:
    blob = world.job("whisper/hub/m/blobs/x", LARGE)
    link = PlacementJob(
        placement=Placement(
            path="whisper/hub/m/snapshots/c/f",
            how=PlacementMethod.SYMLINK,
            artifact=blob.placement.artifact,
            target="../../blobs/x",
        )
    )
    text = PlacementJob(placement=Placement(path="whisper/hub/m/refs/main", how=PlacementMethod.TEXT, text=b"c"))
    world.place(blob, link, text, consumer="whisper")
    moved = world.root.parent / "elsewhere"
    (world.root / "whisper").rename(moved)
    assert (moved / "hub/m/snapshots/c/f").read_bytes() == LARGE
    assert (moved / "hub/m/refs/main").read_bytes() == b"c"


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EIO])
def test_refused_links_become_copies_with_one_notice(
    world: World, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    jobs = [world.job(f"comfyui/models/vae/{name}.safetensors", LARGE) for name in "ab"]
    monkeypatch.setattr(os, "link", refuse)
    world.place(*jobs)
    assert world.receipt("comfyui/models/vae/a.safetensors").how in ("copy", "reflink")
    assert stat.S_IMODE((world.root / "comfyui/models/vae/a.safetensors").stat().st_mode) == 0o644
    assert len(world.warnings) == 1


@pytest.mark.parametrize("mount", ["comfyui", "comfyui/models/vae"])
def test_a_folder_that_is_a_separate_mount_takes_one_copy_of_each_file(
    world: World, monkeypatch: pytest.MonkeyPatch, mount: str
) -> None:
    mounted = str(world.root / mount) + "/"
    rename, link, copy = os.rename, os.link, fs.copy_descriptor
    copies: list[str] = []

    def where(name: str | Path, folder: int | None) -> str:
        return str(Path(f"/proc/self/fd/{folder}").readlink() / name) if folder is not None else str(name)

    def require_same_mount(one: str, other: str) -> None:
        if one.startswith(mounted) != other.startswith(mounted):
            raise OSError(errno.EXDEV, "Invalid cross-device link")

    def rename_within(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        require_same_mount(where(source, src_dir_fd), where(target, dst_dir_fd))
        rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    def link_within(source: Path, target: str, *, dst_dir_fd: int, **keys: bool) -> None:
        require_same_mount(str(source), where(target, dst_dir_fd))
        link(source, target, dst_dir_fd=dst_dir_fd, **keys)

    def copy_to(source: int, target: int, check: Callable[[], None]) -> None:
        copies.append(str(Path(f"/proc/self/fd/{target}").readlink().parent))
        copy(source, target, check)

    jobs = [world.job(f"comfyui/models/vae/{name}.safetensors", LARGE) for name in "ab"]
    monkeypatch.setattr(os, "rename", rename_within)
    monkeypatch.setattr(os, "link", link_within)
    monkeypatch.setattr(fs, "copy_descriptor", copy_to)
    monkeypatch.setattr(fs, "clone_descriptor", lambda *_: False)
    world.place(*jobs)
    assert copies == [mounted.rstrip("/")] * len(jobs)
    assert sorted(path.name for path in (world.root / "comfyui/models/vae").iterdir()) == [
        "a.safetensors",
        "b.safetensors",
    ]


@pytest.mark.parametrize(
    ("user", "text"), [("other", f"of uid {os.geteuid()} are refused to uid 4321"), ("own", "the file system at ")]
)
def test_the_notice_for_refused_links_names_the_reason_once(
    world: World, monkeypatch: pytest.MonkeyPatch, user: str, text: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    jobs = {consumer: world.job(f"{consumer}/a.safetensors", LARGE) for consumer in ("comfyui", "stable-diffusion")}
    monkeypatch.setattr(os, "link", refuse)
    if user == "other":
        monkeypatch.setattr(os, "geteuid", lambda: 4321)
    for consumer, job in jobs.items():
        world.placer.place(PlacementRequest(consumer=consumer, model="m", requested_by="8g", jobs=[job]))
    (warning,) = world.warnings
    assert text in warning


def test_a_consumers_folder_outside_of_the_root_is_refused(world: World, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (world.root / "comfyui").symlink_to(outside)
    with pytest.raises(DestinationError) as refused:
        world.place(world.job("comfyui/models/vae/a.json", SMALL))
    assert refused.value.code == "outside-root"
    assert list(outside.iterdir()) == []


def test_the_root_itself_may_be_a_symlink(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "disk")
    world = World(tmp_path / "root")
    world.place(world.job("comfyui/models/vae/a.json", SMALL))
    assert (tmp_path / "disk/comfyui/models/vae/a.json").read_bytes() == SMALL


@pytest.mark.parametrize("path", ["../out", "/etc/passwd", "comfyui/../../out", "comfyui//x", "comfyui/a\0b", ""])
def test_paths_that_leave_their_folder_are_refused(world: World, path: str) -> None:
    with pytest.raises(DestinationError) as refused:
        world.place(world.job(path, SMALL))
    assert refused.value.code == "outside-root"


def test_a_file_that_vanishes_while_it_is_placed_is_placed_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An Ollama that starts meanwhile removes blobs that no manifest names yet."""
    blob, manifest = (
        world.job("ollama/models/blobs/sha256-x", LARGE),
        world.job("ollama/models/manifests/h/l/m/t", SMALL, PlacementMethod.COPY),
    )
    copy = ConsumerWriter.copy
    swept: list[bool] = []

    def sweep(self: ConsumerWriter, source: int, path: str, over: PathStat | None) -> Made:
        made = copy(self, source, path, over)
        if path.endswith("/t") and not swept:
            swept.append(True)
            (world.root / "ollama/models/blobs/sha256-x").unlink()
        return made

    monkeypatch.setattr(ConsumerWriter, "copy", sweep)
    world.place(blob, manifest, consumer="ollama")
    assert swept
    assert (world.root / "ollama/models/blobs/sha256-x").read_bytes() == LARGE


def test_a_file_that_always_vanishes_or_changes_is_an_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "comfyui/models/vae/a.json"
    copy = ConsumerWriter.copy

    def vanish(self: ConsumerWriter, source: int, path: str, over: PathStat | None) -> Made:
        made = copy(self, source, path, over)
        (world.root / path).unlink()
        return made

    def change(_self: ConsumerWriter, _source: int, path: str, _over: PathStat | None) -> Made:
        raise ChangedMeanwhileError(path)

    monkeypatch.setattr(ConsumerWriter, "copy", vanish)
    with pytest.raises(DiskError, match=r"a\.json keeps disappearing"):
        world.place(world.job(path, SMALL))
    monkeypatch.setattr(ConsumerWriter, "copy", copy)
    world.place(world.job(path, b"older"))
    monkeypatch.setattr(ConsumerWriter, "copy", change)
    with pytest.raises(DiskError, match=r"a\.json keeps changing"):
        world.place(world.job(path, SMALL))


@pytest.mark.parametrize("folder", [".modelfetch/tmp/comfyui", "comfyui", "comfyui/models/vae"])
def test_temporary_files_of_a_killed_process_are_removed_by_the_placer(world: World, folder: str) -> None:
    stray = world.root / folder / ".modelfetch-1-0.part"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"half")
    world.place(world.job("comfyui/models/vae/a.json", SMALL))
    assert not stray.exists()


def test_a_file_in_the_place_of_a_folder_is_a_typed_error(world: World) -> None:
    (world.root / "comfyui").mkdir()
    (world.root / "comfyui/models").write_bytes(b"not a folder")
    with pytest.raises(DestinationError):
        world.place(world.job("comfyui/models/vae/a.json", SMALL))
    assert (world.root / "comfyui/models").read_bytes() == b"not a folder"


def test_a_receipt_records_both_manifests_that_request_a_file(world: World) -> None:
    job = world.job("comfyui/models/vae/a.safetensors", LARGE)
    world.place(job, requested_by="8g")
    world.place(job, requested_by="16g")
    assert world.receipt("comfyui/models/vae/a.safetensors").manifests == ("8g", "16g")


@pytest.mark.parametrize("newer", [False, True], ids=["same bytes", "newer bytes"])
@pytest.mark.parametrize("added", [False, True], ids=["same files", "one more file"])
@pytest.mark.parametrize("swept", [False, True], ids=["kept", "swept"])
def test_a_receipt_renamed_after_another_process_took_over_is_repaired_by_the_next_run(
    world: World, monkeypatch: pytest.MonkeyPatch, *, newer: bool, added: bool, swept: bool
) -> None:
    """Its owner is suspended between the last check of the lock and the rename; its new receipt may be swept."""
    large, small, more = (f"comfyui/models/vae/{name}" for name in ("a.bin", "s.json", "b.bin"))
    world.place(world.job(large, LARGE), world.job(small, SMALL))
    other = World(world.root)
    theirs = [other.job(large, LARGE + b"2" * newer), other.job(small, SMALL + b" " * newer)]
    theirs += [other.job(more, LARGE + b"b")] * added
    receipt, rename = receipt_path(world.root, "comfyui"), Path.replace

    def resumed_late(source: Path, target: Path) -> Path:
        if target == receipt:
            monkeypatch.setattr(Path, "replace", rename)
            (world.root / ".modelfetch/locks/consumer-comfyui.lock").unlink()  # a take-over replaces it
            data = source.read_bytes()
            other.place(*theirs)
            source.unlink(missing_ok=True)
            if not swept:
                source.write_bytes(data)
        return rename(source, target)

    monkeypatch.setattr(Path, "replace", resumed_late)
    own = world.job("comfyui/models/vae/c.bin", LARGE + b"c")
    world.place(own)
    left = read_receipt(world.root, "comfyui").entries
    stale = [
        job.placement.path for job in theirs if str(job.wanted) != getattr(left.get(job.placement.path), "digest", "")
    ]
    assert bool(stale) is ((newer or added) and not swept)
    world.events.clear()
    world.place(own, *theirs)
    assert world.warnings == []
    for job in (own, *theirs):
        entry = world.receipt(job.placement.path)
        assert (entry.digest, entry.made) == (str(job.wanted), True)
        assert Digest.sha256((world.root / job.placement.path).read_bytes()) == job.wanted
    assert not (world.root / ".modelfetch/displaced").exists()


@pytest.mark.parametrize("moment", [(Placer, "_displace"), (ConsumerWriter, "displace")], ids=["opened", "moved"])
def test_a_changed_file_that_vanishes_before_it_is_moved_aside_is_placed_again(
    world: World, monkeypatch: pytest.MonkeyPatch, moment: tuple[type, str]
) -> None:
    job = world.job("comfyui/models/vae/a.json", SMALL)
    world.place(job)
    placed = world.root / "comfyui/models/vae/a.json"
    placed.write_bytes(b"edited by hand")
    real = getattr(*moment)

    def vanished(*args: Any) -> Any:
        placed.unlink()
        return real(*args)

    monkeypatch.setattr(*moment, vanished)
    world.place(job)
    assert placed.read_bytes() == SMALL
    assert world.warnings == []
    assert [*(world.root / ".modelfetch").glob("displaced/*")] == []


def test_a_file_that_can_not_be_moved_aside_leaves_no_empty_folders(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = world.job("comfyui/models/vae/a.json", SMALL)
    world.place(job)
    (world.root / "comfyui/models/vae/a.json").write_bytes(b"edited by hand")

    def refused(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(ConsumerWriter, "_move_aside", refused)
    with pytest.raises(DiskError):
        world.place(job)
    assert [*(world.root / ".modelfetch").glob("displaced/*")] == []
