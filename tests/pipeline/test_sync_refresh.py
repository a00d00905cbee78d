"""What is resolved stays until a refresh, which takes what upstream has by then."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.pipeline.conftest import Bench
from tests.pipeline.entries import OTHER, REPO, WEIGHTS, commit, read, sha256, vae


def test_an_unpinned_entry_keeps_its_resolved_version_until_refresh(bench: Bench) -> None:
    entry = vae(bench)
    bench.sync(entry)
    bench.world.repos[REPO].commit({"art.safetensors": OTHER})
    assert bench.sync(entry).report["requests"] == 0
    assert (bench.root / "comfyui/models/vae/art.safetensors").read_bytes() == read(WEIGHTS)
    assert bench.sync(entry, options=("--refresh",)).code == 0
    assert (bench.root / "comfyui/models/vae/art.safetensors").read_bytes() == read(OTHER)


def test_a_refresh_that_finds_the_same_bytes_at_a_newer_commit_is_remembered(bench: Bench) -> None:
    entry = vae(bench)
    bench.sync(entry)
    bench.world.repos[REPO].commit({"art.safetensors": WEIGHTS, "README.md": b"more"})
    newer = bench.sync(entry, options=("--refresh",)).actions()
    assert newer == {f"hf://{REPO}@{commit(bench)}/art.safetensors": "present"}
    assert bench.sync(entry).actions() == newer
    assert bench.run("status", bench.manifest(entry)).actions() == newer


def test_a_refresh_takes_the_file_that_a_web_server_has_by_now(bench: Bench) -> None:
    bench.world.file("art.safetensors", WEIGHTS)
    entry = vae(bench, source=f"{bench.hub.files}art.safetensors")
    assert bench.sync(entry).code == 0
    there = bench.root / "comfyui/models/vae/art.safetensors"
    bench.world.file("art.safetensors", OTHER)
    assert bench.sync(entry).report["requests"] == 0
    result = bench.sync(entry, options=("--refresh",))
    assert result.code == 0, result.err
    assert there.read_bytes() == read(OTHER)
    assert result.report["models"][0]["artifacts"][0]["digest"] == sha256(OTHER)
