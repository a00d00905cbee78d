"""A root that an older version filled opens as a no-op.

``data/root-0.1.tar.xz`` was filled by version 0.1 before its modules became packages (commit 5f0fc8e): five models for
four services, a no-op note, and a download that was interrupted after 17 of 20 MiB.
"""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from modelfetch.cli.fastpath.check import attempt

if TYPE_CHECKING:
    from tests.pipeline.conftest import Bench

ARCHIVE = Path(__file__).parent / "data" / "root-0.1.tar.xz"
MIB = 2**20


def weights(count: int) -> bytes:
    """A safetensors file of one tensor of zeros."""
    head = json.dumps({"w": {"dtype": "U8", "shape": [count], "data_offsets": [0, count]}}).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + bytes(count)


@pytest.fixture
def filled(bench: Bench) -> Bench:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(bench.folder, filter="tar")
    (bench.folder / "root").rename(bench.root)
    for name, mtime_ns in json.loads((bench.folder / "times.json").read_text()).items():  # tar rounds them
        os.utime(bench.root / name, ns=(mtime_ns, mtime_ns), follow_symlinks=False)
    return bench


def contents(root: Path) -> dict[str, tuple[int, int]]:
    """The size and time of change of every file but notes and locks, which each run may write."""
    return {
        str(path.relative_to(root)): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file() and path.parent.name not in ("noop", "locks")
    }


def test_a_sync_finds_everything_in_place_and_changes_nothing(filled: Bench) -> None:
    before = contents(filled.root)
    assert len(before) > 30
    done = filled.run("sync", filled.folder / "manifest.yaml")
    assert done.code == 0, done.err
    assert set(done.actions().values()) == {"present"}
    assert done.report["requests"] == 0
    assert contents(filled.root) == before


def test_status_and_verify_find_all_of_it_ready(filled: Bench) -> None:
    for command in ("status", "verify"):
        done = filled.run(command, filled.folder / "manifest.yaml")
        assert (done.code, set(done.actions().values())) == (0, {"present"}), (command, done.err)


def test_a_record_of_an_older_version_is_ignored_and_rewritten(filled: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["sync", "--manifest", "manifest.yaml", "--root", "ai-models"]
    monkeypatch.chdir(filled.folder)
    assert attempt(words) is None
    assert filled.run("sync", Path("manifest.yaml")).code == 0
    words = ["sync", "--manifest", "manifest.yaml", "--root", str(filled.root), "--json", "--retries", "1"]
    assert attempt(words) is not None


def test_an_interrupted_download_is_resumed(filled: Bench) -> None:
    filled.world.hf_repo("acme/slow", {"slow.safetensors": weights(20 * MIB)})
    done = filled.run("sync", filled.folder / "unfinished.yaml")
    assert done.code == 0, done.err
    assert list(done.actions().values()) == ["resumed"]
    assert done.report["bytes_fetched"] < 4 * MIB
    assert (filled.root / "comfyui/models/vae/slow.safetensors").read_bytes() == weights(20 * MIB)
