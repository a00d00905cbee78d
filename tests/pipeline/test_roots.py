"""Several roots may share one store without affecting each other."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.cli.app import run
from modelfetch.cli.fastpath.check import attempt
from modelfetch.core import fs
from modelfetch.demo import models as made
from tests.interpreter import Process

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.pipeline.conftest import Bench, Result

WHERE = "comfyui/models/vae/art.safetensors"


def vae(bench: Bench, **keys: Any) -> dict[str, Any]:
    if "acme/art" not in bench.world.repos:
        bench.world.hf_repo("acme/art", {"art.safetensors": made.vae()})
    return {"name": "art", "kind": "vae", "source": "hf://acme/art/art.safetensors", "for": ["comfyui"], **keys}


class Shared:
    """Two roots and one store."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.store = bench.folder / "store"
        self.entry = vae(bench)

    def run(self, root: str, command: str = "sync", *options: str) -> Result:
        manifest = self.bench.manifest(self.entry)
        return self.bench.run(command, manifest, "--root", str(self.path(root)), "--store", str(self.store), *options)

    def path(self, root: str, below: str = "") -> Path:
        return self.bench.folder / root / below


@pytest.fixture
def shared(bench: Bench) -> Shared:
    return Shared(bench)


def test_a_foreign_file_in_a_second_root_is_refused_though_the_first_has_placed_one_there(shared: Shared) -> None:
    assert shared.run("one").code == 0
    there = shared.path("two", WHERE)
    there.parent.mkdir(parents=True)
    there.write_bytes(b"precious")
    for command in ("plan", "sync"):
        assert shared.run("two", command).codes() == ["foreign-file"]
    assert there.read_bytes() == b"precious"
    assert not list(shared.bench.folder.rglob("displaced"))


def test_each_root_has_its_own_status_and_one_body_serves_both(shared: Shared) -> None:
    assert shared.run("one").code == 0
    assert shared.run("two", "status").code == 1
    assert shared.run("two").report["bytes_fetched"] == 0
    assert shared.path("one", WHERE).samefile(shared.path("two", WHERE))
    shared.path("one", WHERE).unlink()
    assert shared.run("one", "status").code == 1
    assert shared.run("two", "status").code == 0


def test_a_root_that_is_moved_or_mounted_elsewhere_is_still_known(shared: Shared) -> None:
    assert shared.run("one").code == 0
    shared.path("one").rename(shared.path("moved"))
    shared.path("link").symlink_to("moved")
    for name in ("moved", "link"):
        assert shared.run(name, "status").code == 0
        again = shared.run(name)
        assert (again.code, again.report["requests"]) == (0, 0)


def test_receipts_are_below_the_root_and_blobs_in_the_store(shared: Shared) -> None:
    assert shared.run("one").code == 0
    own = shared.path("one", ".modelfetch")
    receipt = json.loads((own / "receipts/comfyui.json").read_bytes())
    assert list(receipt["placements"]) == [WHERE]
    assert not (own / "blobs").exists()
    assert {path.name for path in shared.store.iterdir()} <= {"blobs", "ingest", "locks", "CACHEDIR.TAG"}


def test_another_store_for_the_same_root_changes_nothing_that_is_in_place(shared: Shared) -> None:
    assert shared.run("one").code == 0
    shared.store = shared.bench.folder / "other"
    assert shared.run("one", "status").code == 0
    again = shared.run("one")
    assert (again.code, again.report["requests"], shared.store.exists()) == (0, 0, False)


def test_a_replaced_file_is_moved_aside_below_its_own_root(shared: Shared) -> None:
    assert shared.run("one").code == 0
    there = shared.path("one", WHERE)
    there.unlink()
    there.write_bytes(b"edited")
    assert shared.run("one").code == 0
    (aside,) = shared.path("one", ".modelfetch/displaced").glob(f"*/{WHERE}")
    assert aside.read_bytes() == b"edited"


def test_each_root_has_its_own_fast_path_record(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two containers see their roots under one path, and share a store: neither result may be used for the other."""
    words = ["sync", "--manifest", str(shared.bench.manifest(shared.entry))]
    words += ["--root", "root", "--store", str(shared.store), "--json"]
    for name in ("one", "two"):
        shared.path(name).mkdir()
        shared.path("root").unlink(missing_ok=True)
        shared.path("root").symlink_to(name)
        assert attempt(words) is None
        assert run(words) == 0
    for name in ("one", "two"):
        shared.path("root").unlink()
        shared.path("root").symlink_to(name)
        assert attempt(words) == 0
    shared.path("one", WHERE).unlink()
    assert attempt(words) == 0
    shared.path("two", WHERE).unlink()
    assert attempt(words) is None


def test_a_store_on_another_file_system_gets_no_second_copy(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    copy_descriptor = fs.copy_descriptor
    copies: list[Path] = []

    def copy(source: int, target: int, check: Callable[[], None]) -> None:
        copies.append(Path(f"/proc/self/fd/{target}").readlink())
        copy_descriptor(source, target, check)

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(fs, "clone_descriptor", lambda *_: False)
    monkeypatch.setattr(fs, "copy_descriptor", copy)
    assert shared.run("one").code == 0
    assert shared.path("one", WHERE).stat().st_size > 64 * 1024
    assert len(copies) == 1
    assert shared.path("one") in copies[0].parents


def test_two_roots_are_filled_at_once_from_one_store(shared: Shared) -> None:
    manifest = shared.bench.manifest(shared.entry)
    words = ["-m", "modelfetch", "sync", "--manifest", str(manifest), "--store", str(shared.store), "-q"]
    processes = [Process(*words, "--root", str(shared.path(name))) for name in ("one", "two", "three")]
    assert [(p.communicate()[1], p.wait()) for p in processes] == [("", 0)] * 3
    assert len(shared.bench.hub.log.requests("*", origin="cdn")) <= 8
    for name in ("one", "two", "three"):
        assert shared.run(name, "status").code == 0


def test_a_root_that_can_not_be_written_is_73_though_its_store_can(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shared.run("one").code == 0
    root = shared.path("one")
    monkeypatch.setattr("os.access", lambda path, *_: root not in (Path(path), *Path(path).parents))
    assert shared.run("one").code == 0
    shared.path("one", WHERE).unlink()
    for command in ("plan", "sync"):
        result = shared.run("one", command)
        assert (result.code, set(result.codes())) == (73, {"not-writable"})


@pytest.mark.parametrize("command", ["plan", "sync"])
def test_a_complete_store_need_not_be_writable(shared: Shared, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """Many machines may share one that is mounted read-only; each has its own root."""
    assert shared.run("one").code == 0

    def refuse(path: Path, *_: Any) -> bool:
        return shared.store not in (Path(path), *Path(path).parents)

    monkeypatch.setattr("os.access", refuse)
    assert shared.run("two", command).code == 0
    assert shared.path("two", WHERE).exists() == (command == "sync")
    shared.bench.world.hf_repo("acme/other", {"other.safetensors": b"{}"})
    shared.entry["source"] = "hf://acme/other/other.safetensors"
    result = shared.run("three", command)
    assert (result.code, result.codes()) == (73, ["not-writable"])
    assert f"error: {shared.store} can't be written" in result.err
