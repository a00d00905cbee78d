"""The official client accepts and stores files from the hub, which shows that the hub's responses are right."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.demo import Hub, PatternBody
from tests.cases import THOROUGH

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WEIGHTS = PatternBody(3_000_000, seed=5)

SCRIPT = """
import json, sys
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

def error(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except HfHubHTTPError as problem:
        return type(problem).__name__
    return None

cache = sys.argv[1]
api = HfApi()
info = api.model_info("org/name", files_metadata=True)
lfs = next(sibling for sibling in info.siblings if sibling.rfilename == "sub/model.safetensors")
print(json.dumps({
    "sha": info.sha,
    "lfs": [lfs.size, lfs.lfs.sha256, lfs.lfs.pointer_size],
    "renamed": api.model_info("old/name").id,
    "revision": api.resolve_revision("org/name", revision="refs/pr/1").resolved,
    "tree": [entry.path for entry in api.list_repo_tree("org/name", recursive=True)],
    "paths": [entry.path for entry in api.get_paths_info("org/name", ["config.json", "nothing"])],
    "file": hf_hub_download("org/name", "sub/model.safetensors", revision="v1", cache_dir=cache),
    "snapshot": snapshot_download("old/name", cache_dir=cache),
    "gated": hf_hub_download("org/gated", "a.bin", cache_dir=cache, token="hf_accepted"),
    "auth_check": error(api.auth_check, "org/gated", token="hf_accepted"),
    "errors": [
        error(api.model_info, "org/nothing", token="hf_accepted"),
        error(api.model_info, "org/name", revision="nothing"),
        error(hf_hub_download, "org/name", "nothing", cache_dir=cache),
        error(hf_hub_download, "org/gated", "a.bin", cache_dir=cache + "2", token=False),
        error(hf_hub_download, "org/gated", "a.bin", cache_dir=cache + "2", token="hf_not_yet"),
        error(api.auth_check, "org/gated", token="hf_not_yet"),
    ],
}))
"""


@pytest.fixture(scope="module")
def world() -> Iterator[Hub]:
    with Hub() as hub:
        hub.world.hf_repo(
            "org/name",
            {"config.json": b"{}", "sub/model.safetensors": WEIGHTS, "sub/deep/a.txt": b"a"},
            refs={"v1": None, "refs/pr/1": {"new.txt": b"new"}},
            renamed_from=["old/name"],
        )
        hub.world.hf_repo("org/gated", {"a.bin": b"gated"}, gated="auto")
        hub.world.token("hf", "hf_accepted", gated=["org/gated"])
        hub.world.token("hf", "hf_not_yet")
        hub.world.tree_page = 2
        yield hub


@pytest.fixture(scope="module")
def seen(world: Hub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("home")
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "HF_ENDPOINT": world.endpoint,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(home / "cache")], env=environ, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@THOROUGH
def test_the_official_client_reads_the_metadata(world: Hub, seen: dict[str, Any]) -> None:
    repo = world.world.repos["org/name"]
    assert seen["sha"] == repo.main
    assert seen["lfs"] == [WEIGHTS.size, WEIGHTS.sha256, 132]
    assert seen["renamed"] == "org/name"
    assert seen["revision"] == repo.refs["refs/pr/1"]
    assert seen["paths"] == ["config.json"]


def test_the_official_client_reads_all_pages_of_the_tree(seen: dict[str, Any]) -> None:
    assert seen["tree"] == ["config.json", "sub", "sub/deep", "sub/deep/a.txt", "sub/model.safetensors"]


def test_the_official_client_names_a_downloaded_file_by_its_sha256(world: Hub, seen: dict[str, Any]) -> None:
    from pathlib import Path

    path = Path(seen["file"])
    assert hashlib.sha256(path.read_bytes()).hexdigest() == WEIGHTS.sha256
    assert path.resolve().name == WEIGHTS.sha256
    assert path.parts[-3] == world.world.repos["org/name"].main


def test_the_official_client_downloads_a_snapshot_of_a_renamed_repository(seen: dict[str, Any]) -> None:
    from pathlib import Path

    root = Path(seen["snapshot"])
    assert root.parts[-3] == "models--old--name"
    assert _files(root) == ["config.json", "sub/deep/a.txt", "sub/model.safetensors"]
    assert (root / "config.json").read_bytes() == b"{}"


def test_the_official_client_needs_the_right_token_for_a_gated_repository(seen: dict[str, Any]) -> None:
    from pathlib import Path

    assert Path(seen["gated"]).read_bytes() == b"gated"
    assert seen["auth_check"] is None


def test_the_official_client_raises_its_typed_error_for_each_refusal(seen: dict[str, Any]) -> None:
    assert seen["errors"] == [
        "RepositoryNotFoundError",
        "RevisionNotFoundError",
        "RemoteEntryNotFoundError",
        "GatedRepoError",
        "GatedRepoError",
        "GatedRepoError",
    ]


def test_the_official_client_sends_no_token_to_the_cdn(world: Hub, seen: dict[str, Any]) -> None:
    served = world.log.requests(origin="cdn")
    assert served
    assert all(entry.authorization is None and entry.status == 200 for entry in served)


def _files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
