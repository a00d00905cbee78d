"""No path and no race leads outside ROOT."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from modelfetch.core import directories
from modelfetch.errors import DestinationError, ModelfetchError
from modelfetch.placement import RootTree
from tests.placement.world import LARGE, SMALL, World


@pytest.fixture(autouse=True, params=["at once", "part by part"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders are opened with openat2, and as on kernels that lack it."""
    if request.param == "part by part":
        monkeypatch.setattr(directories, "open_folder_beneath", lambda folder, path: None)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir(mode=0o700)
    folder.chmod(0o700)
    return folder


def test_a_folder_swapped_for_a_link_while_files_are_placed_is_not_followed(world: World, outside: Path) -> None:
    """As root and with --chown, where a lost race could change the owner of any folder."""
    world.owner = (12345, 12345) if os.geteuid() == 0 else None
    consumer = world.root / "comfyui"
    (consumer / "models").mkdir(parents=True)
    (consumer / "swap").symlink_to(outside)
    stop = threading.Event()

    def swap() -> None:
        folder = os.open(consumer, os.O_RDONLY | os.O_DIRECTORY)
        while not stop.is_set():
            directories.exchange("models", "swap", source_folder=folder, target_folder=folder)
        os.close(folder)

    attacker = threading.Thread(target=swap)
    attacker.start()
    codes: set[str] = set()
    try:
        for number in range(60):
            try:
                world.place(
                    world.job(f"comfyui/models/deep{number}/a.bin", LARGE + b"%d" % number),
                    world.job(f"comfyui/models/deep{number}/b.json", SMALL),
                )
                codes.add("placed")
            except ModelfetchError as error:
                codes.add(error.code)
    finally:
        stop.set()
        attacker.join()
    assert len(codes) > 1
    assert codes <= {"placed", "outside-root", "foreign-file", "io-error", "not-writable"}
    assert list(outside.iterdir()) == []
    assert (outside.stat().st_mode & 0o777, outside.stat().st_uid) == (0o700, os.geteuid())


def test_a_folder_may_be_a_link_to_another_one_below_the_root(world: World) -> None:
    (world.root / "models/vae").mkdir(parents=True)
    (world.root / "comfyui").mkdir()
    (world.root / "comfyui/relative").symlink_to("../models")
    (world.root / "comfyui/absolute").symlink_to(world.root / "models")
    world.place(world.job("comfyui/relative/vae/a.json", SMALL), world.job("comfyui/absolute/new/b.json", SMALL))
    assert (world.root / "models/vae/a.json").read_bytes() == SMALL
    assert (world.root / "models/new/b.json").read_bytes() == SMALL


def test_a_symlink_loop_is_an_error(world: World) -> None:
    (world.root / "a").symlink_to("b")
    (world.root / "b").symlink_to("a")
    with pytest.raises(OSError, match="a"), RootTree(world.root).folder("a/c"):
        pass


@pytest.mark.parametrize("text", ["../outside", "/etc", "../../.."])
def test_a_link_outside_of_the_root_is_refused(world: World, outside: Path, text: str) -> None:
    (world.root / "comfyui").symlink_to(text)
    with pytest.raises(DestinationError) as refusal:
        world.place(world.job("comfyui/x/a.json", SMALL))
    assert refusal.value.code == "outside-root"
    assert list(outside.iterdir()) == []


def test_a_consumers_folder_outside_may_be_named_on_purpose(tmp_path: Path, outside: Path) -> None:
    tree = RootTree(tmp_path / "root", {"comfyui": outside})
    with tree.parent("comfyui/models/vae/a.bin", make=lambda _fd: None) as (folder, name):
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=folder))
    assert (outside / "models/vae/a.bin").exists()
    assert tree.path("comfyui/models/vae/a.bin") == outside / "models/vae/a.bin"
    assert tree.lstat("ollama/x") is None


def test_a_folder_kept_open_is_walked_to_once_for_successive_paths(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("1", "2"):
        (tmp_path / "a" / name).write_text(name)
    (tmp_path / "new").mkdir()
    tree, before = RootTree(tmp_path), _descriptors()
    with tree.keeping_folder_open():
        assert tree.lstat("a/1") is not None
        (tmp_path / "a").rename(tmp_path / "old")
        (tmp_path / "new").rename(tmp_path / "a")
        assert tree.lstat("a/2") is not None  # still that of the folder that was opened for the first
        assert tree.lstat("old/1") is not None
        assert tree.lstat("a/2") is None
    assert _descriptors() == before
    assert tree.lstat("a/1") is None


def test_a_missing_folder_has_no_files_until_the_block_ends(tmp_path: Path) -> None:
    tree = RootTree(tmp_path)
    with tree.keeping_folder_open():
        assert tree.lstat("a/1") is None
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "1").touch()
        assert tree.lstat("a/1") is None
    assert tree.lstat("a/1") is not None


def test_another_thread_does_not_use_a_folder_kept_open(tmp_path: Path) -> None:
    tree = RootTree(tmp_path)
    found = []
    with tree.keeping_folder_open(), tree.keeping_folder_open():
        assert tree.lstat("a/1") is None
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "1").touch()
        other = threading.Thread(target=lambda: found.append(tree.lstat("a/1")))
        other.start()
        other.join()
    assert found[0] is not None


def test_an_error_leaves_no_folder_open(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "root" / "in").mkdir(parents=True)
    (tmp_path / "root" / "out").symlink_to(outside)
    tree, before = RootTree(tmp_path / "root"), _descriptors()
    with tree.keeping_folder_open():
        assert tree.lstat("in/a") is None
        with pytest.raises(DestinationError):
            tree.lstat("out/a")
    assert _descriptors() == before


def _descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}
