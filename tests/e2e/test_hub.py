"""The official client and real registry clients can use the embedded hub."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from modelfetch.demo import Hub, PatternBody
from tests.e2e.manifests import write_manifest
from tests.e2e.servers import plain_environment
from tests.e2e.tree import contents, sha256

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from modelfetch.demo.world import Content
    from tests.e2e.program import Modelfetch

REPO = "acme/tiny"
WEIGHTS = PatternBody(5_000_000)
FILES: dict[str, Content] = {
    "config.json": '{"a": 1}\n',
    "model.bin": WEIGHTS,
    "sub/notes.md": "# Notes\n",
    "vocabulary.txt": "a\nb\n",
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub with one repository."""
    with Hub() as running:
        running.world.hf_repo(REPO, FILES, refs={"v1": None})
        yield running


def official(code: str, hub: Hub, home: Path) -> str:
    """Run code in a fresh interpreter whose official client uses the hub."""
    done = subprocess.run(
        [sys.executable, "-c", f"from huggingface_hub import *; {code}"],
        env=plain_environment(home, HF_ENDPOINT=hub.endpoint, HF_HUB_DISABLE_TELEMETRY="1"),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_official_client_downloads_a_snapshot(hub: Hub, workplace: Path) -> None:
    official(f"snapshot_download({REPO!r}, local_dir='got')", hub, workplace)
    for path in FILES:
        assert (workplace / "got" / path).is_file(), path
    assert sha256(workplace / "got" / "model.bin") == WEIGHTS.sha256


def test_the_official_client_downloads_one_file_of_a_tag(hub: Hub, workplace: Path) -> None:
    code = f"print(hf_hub_download({REPO!r}, 'model.bin', revision='v1', cache_dir='cache'))"
    assert sha256(workplace / official(code, hub, workplace)) == WEIGHTS.sha256


def test_the_official_client_reads_sizes_and_digests(hub: Hub, workplace: Path) -> None:
    code = (
        f"import json; info = HfApi().model_info({REPO!r}, files_metadata=True); "
        "print(json.dumps([info.sha, {f.rfilename: [f.size, f.lfs and f.lfs.sha256] for f in info.siblings}]))"
    )
    commit, files = json.loads(official(code, hub, workplace))
    assert commit == hub.world.repos[REPO].main
    assert set(files) == set(FILES)
    assert files["model.bin"] == [WEIGHTS.size, WEIGHTS.sha256]


def test_sync_makes_the_cache_that_the_official_client_makes(
    hub: Hub, modelfetch_at: Modelfetch, workplace: Path
) -> None:
    official(f"snapshot_download({REPO!r}, cache_dir='cache')", hub, workplace)
    model = {"name": "tiny", "kind": "snapshot", "source": f"hf://{REPO}", "for": ["whisper"]}
    modelfetch_at.report("sync", "--manifest", str(write_manifest(workplace / "m.yaml", model)))
    folder = f"models--{REPO.replace('/', '--')}"
    for part in ("snapshots", "refs"):
        theirs = contents(workplace / "cache" / folder / part)
        assert contents(modelfetch_at.root / "whisper" / "hub" / folder / part) == theirs != {}


def test_oras_reads_the_registry_side(hub: Hub, oras_binary: Path, workplace: Path) -> None:
    model = hub.world.ollama_model("tiny:1b", [("model", WEIGHTS)], config=b"{}")
    reference = hub.ollama.removeprefix("http://") + "/library/tiny"
    fetched = [
        subprocess.run(
            [str(oras_binary), *command, "--plain-http", "--output", "-", target],
            env=plain_environment(workplace),
            capture_output=True,
            timeout=60,
            check=True,
        ).stdout
        for command, target in (
            (["manifest", "fetch"], f"{reference}:1b"),
            (["blob", "fetch"], f"{reference}@sha256:{WEIGHTS.sha256}"),
        )
    ]
    assert fetched[0] == model.manifest
    assert hashlib.sha256(fetched[1]).hexdigest() == WEIGHTS.sha256


@pytest.fixture
def modelfetch_at(modelfetch: Modelfetch, hub: Hub) -> Modelfetch:
    """The installed program, for which the hub is Hugging Face."""
    return modelfetch.with_environment(HF_ENDPOINT=hub.endpoint)
