"""The official huggingface_hub client over the caches that `sync` filled."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors

from tests.e2e import consumers
from tests.e2e.servers import NOWHERE, plain_environment
from tests.e2e.tree import contents, copy_tree, sha256

CACHES = ("whisper/hub", "diffrhythm")


def read_offline(cache: Path, home: Path) -> dict[str, Any]:
    """What the official client finds in a cache without a network."""
    program = Path(*consumers.__path__, "read_hf_cache.py")
    done = subprocess.run(
        [sys.executable, str(program), str(cache)],
        env=plain_environment(home, HTTPS_PROXY=NOWHERE, HTTP_PROXY=NOWHERE),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def repo_ids(cache: Path) -> set[str]:
    """The repositories whose folders are in a cache."""
    return {folder.name.removeprefix("models--").replace("--", "/") for folder in cache.glob("models--*")}


def assert_all_is_read(seen: dict[str, Any], cache: Path) -> None:
    """Every repository is found by its name, every file of it lies in this cache, and the client has no complaint."""
    assert seen["warnings"] == []
    assert set(seen["repos"]) == repo_ids(cache) != set()
    for repo in seen["repos"].values():
        snapshot = Path(repo["snapshot"])
        assert repo["revisions"] == 1
        assert repo["files"]
        for path, found in repo["files"].items():
            assert found == [str(snapshot / path)] * 3
            real = (snapshot / path).resolve()
            assert real.is_relative_to(cache.resolve())
            assert len(real.name) != 64 or sha256(real) == real.name


@pytest.mark.parametrize("cache", CACHES)
def test_the_official_client_reads_it_offline_by_name(filled: Path, workplace: Path, cache: str) -> None:
    before = contents(filled / cache)
    assert_all_is_read(read_offline(filled / cache, workplace), filled / cache)
    assert contents(filled / cache) == before


@pytest.mark.parametrize("cache", CACHES)
def test_the_official_client_reads_it_after_the_folder_alone_is_moved(
    filled: Path, workplace: Path, cache: str
) -> None:
    consumer = Path(cache).parts[0]
    copy = copy_tree(filled, workplace / "copy")
    moved = workplace / "volume" / "mounted"
    moved.parent.mkdir()
    (copy / consumer).rename(moved)
    elsewhere = moved.joinpath(*Path(cache).parts[1:])
    subprocess.run(["rm", "-rf", str(copy)], check=True)
    assert_all_is_read(read_offline(elsewhere, workplace), elsewhere)


def test_every_safetensors_file_opens(filled: Path) -> None:
    files = [path for path in filled.rglob("*.safetensors") if ".modelfetch" not in path.parts]
    assert files
    for path in files:
        tensors = safetensors.deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
        assert tensors, path
        assert all(tensor["shape"] and tensor["data"] for _, tensor in tensors), path
