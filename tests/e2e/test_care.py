"""Verify, repair, remove, prune and adopt under the real services: what they read before, they read afterwards."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import safetensors

from tests.damage import flip
from tests.e2e.servers import serve_ollama
from tests.e2e.test_huggingface import CACHES, assert_all_is_read, read_offline
from tests.e2e.test_ollama import short_names
from tests.e2e.tree import contents

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.program import Modelfetch

OURS = "llama-tiny"


def weights(models: Path) -> Path:
    """The largest blob of a store of Ollama."""
    return max((models / "blobs").iterdir(), key=lambda path: path.stat().st_size)


def test_ollama_keeps_its_own_model_that_shares_our_blobs(
    modelfetch: Modelfetch, ollama_binary: Path, workplace: Path
) -> None:
    modelfetch.report("sync", "--tier", "demo")
    models = modelfetch.root / "ollama" / "models"
    (ours,) = short_names(models)
    with serve_ollama(ollama_binary, models, workplace / "served") as ollama:
        ollama.run("cp", ours, "mine")
        assert modelfetch.report("verify")["ok"]
        assert modelfetch.report("remove", OURS)["ok"]
        assert modelfetch.report("prune")["ok"]
        assert ollama.names() == ["mine:latest"]
        assert ollama.generate("mine")["eval_count"] > 0
    with serve_ollama(ollama_binary, models, workplace / "served-again") as ollama:
        assert ollama.generate("mine")["eval_count"] > 0
    assert modelfetch.report("sync", "--tier", "demo")["ok"]


def test_a_damaged_model_generates_again_after_its_repair(
    modelfetch: Modelfetch, ollama_binary: Path, workplace: Path
) -> None:
    modelfetch.report("sync", "--tier", "demo")
    models = modelfetch.root / "ollama" / "models"
    before = contents(models)
    blob = weights(models)
    flip(blob, offset=blob.stat().st_size // 2)
    assert modelfetch.run("verify").returncode == 1
    with serve_ollama(ollama_binary, models, workplace / "served") as ollama:
        assert modelfetch.report("verify", "--repair", "--tier", "demo")["ok"]
        assert ollama.generate(short_names(models)[0])["eval_count"] > 0
    assert contents(models) == before
    assert modelfetch.report("verify")["ok"]


def test_a_model_of_ollama_is_adopted_and_served_from_both_folders(
    modelfetch: Modelfetch, filled: Path, ollama_binary: Path, workplace: Path
) -> None:
    from tests.e2e.tree import copy_tree

    theirs = copy_tree(filled / "ollama", workplace / "theirs") / "models"
    before = contents(theirs)
    modelfetch.report("adopt", str(theirs))
    report = modelfetch.report("sync", "--tier", "demo", "--for", "ollama")
    assert report["bytes_fetched"] == 0
    refused = modelfetch.report("adopt", "--dedupe", "--no-dry-run", str(theirs), exit_code=2)
    assert "can't be deduplicated" in refused["errors"][0]["message"]  # Ollama sweeps and converts its blobs
    for number, models in enumerate((theirs, modelfetch.root / "ollama" / "models")):
        with serve_ollama(ollama_binary, models, workplace / f"served-{number}") as ollama:
            assert ollama.generate(short_names(models)[0])["eval_count"] > 0
    assert contents(theirs) == before


def test_the_official_client_reads_the_caches_after_each_command(modelfetch: Modelfetch, workplace: Path) -> None:
    modelfetch.report("sync", "--tier", "demo")
    home = workplace / "client"
    home.mkdir()
    caches = [modelfetch.root / name for name in CACHES]
    for words in (("verify",), ("verify", "--repair", "--tier", "demo"), ("prune",), ("prune", "--tier", "demo")):
        assert modelfetch.report(*words)["ok"]
        for cache in caches:
            assert_all_is_read(read_offline(cache, home), cache)
    assert modelfetch.report("remove", OURS)["ok"]
    for cache in caches:
        assert_all_is_read(read_offline(cache, home), cache)


def hub_cache(folder: Path, data: bytes) -> Path:
    """A cache of huggingface_hub with one repository of one file."""
    digest, commit = hashlib.sha256(data).hexdigest(), "1" * 40
    repo = folder / "models--acme--large"
    for name in ("blobs", "refs", f"snapshots/{commit}"):
        (repo / name).mkdir(parents=True)
    (repo / "blobs" / digest).write_bytes(data)
    (repo / "refs/main").write_text(commit)
    (repo / "snapshots" / commit / "model.safetensors").symlink_to(f"../../blobs/{digest}")
    return folder


def test_deduplicated_collections_are_read_by_their_programs_before_and_after(
    modelfetch: Modelfetch, filled: Path, workplace: Path
) -> None:
    checkpoint = next((filled / "comfyui/models/checkpoints").glob("*.safetensors"))
    comfyui = workplace / "ComfyUI"
    (comfyui / "models/checkpoints").mkdir(parents=True)
    copy = comfyui / "models/checkpoints" / checkpoint.name
    copy.write_bytes(checkpoint.read_bytes())
    caches = [hub_cache(workplace / name, checkpoint.read_bytes()) for name in ("hub", "other-hub")]
    home = workplace / "client"
    home.mkdir()

    def assert_read() -> None:
        for cache in caches:
            assert_all_is_read(read_offline(cache, home), cache)
        assert safetensors.deserialize(copy.read_bytes())  # type: ignore[no-untyped-call]

    assert_read()
    folders = [str(comfyui), *map(str, caches)]
    modelfetch.report("adopt", *folders)
    assert_read()
    dry = modelfetch.report("adopt", "--dedupe", *folders)
    assert len(dry["models"]) in (2, 3)  # where the store shares blocks, it has a file of its own
    modelfetch.report("adopt", "--dedupe", "--no-dry-run", *folders)
    assert_read()
    blobs = [next((cache / "models--acme--large/blobs").iterdir()) for cache in caches]
    assert blobs[0].samefile(blobs[1])
    assert blobs[0].samefile(copy)
    modelfetch.report("prune", "--older-than", "0s")
    assert_read()
