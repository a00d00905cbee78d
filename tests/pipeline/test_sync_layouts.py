"""Each service finds what it expects: the store of Ollama, caches of Hugging Face, archives, plain files."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from blake3 import blake3

from modelfetch.demo import models as made

if TYPE_CHECKING:
    from tests.pipeline.conftest import Bench
from tests.pipeline.entries import WEIGHTS, commit, ollama, read, vae, whisper


def test_the_ollama_store_is_byte_for_byte(bench: Bench) -> None:
    result = bench.sync(ollama(bench))
    assert result.code == 0, result.err
    store = bench.root / "ollama/models"
    manifest = store / "manifests/registry.ollama.ai/library/tiny/1b"
    (model,) = bench.world.ollama.values()
    assert manifest.read_bytes() == model.manifest
    parsed = json.loads(model.manifest)
    for layer in [parsed["config"], *parsed["layers"]]:
        blob = store / "blobs" / layer["digest"].replace(":", "-")
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == layer["digest"][7:]
    assert len(list((store / "blobs").iterdir())) == len({d["digest"] for d in [parsed["config"], *parsed["layers"]]})


def test_a_rewritten_ollama_manifest_does_not_reach_the_store(bench: Bench) -> None:
    bench.sync(ollama(bench))
    manifest = bench.root / "ollama/models/manifests/registry.ollama.ai/library/tiny/1b"
    ours = manifest.read_bytes()
    manifest.write_bytes(b'{"schemaVersion": 2}')
    for blob in (bench.root / ".modelfetch/blobs/sha256").glob("??/*"):
        if not blob.name.endswith(".json"):
            assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    result = bench.sync(ollama(bench))
    assert result.code == 0
    assert "warning" in result.err
    assert manifest.read_bytes() == ours
    assert [p.read_bytes() for p in (bench.root / ".modelfetch/displaced").rglob("1b")] == [b'{"schemaVersion": 2}']


def test_a_snapshot_is_a_cache_that_the_official_client_reads_offline(bench: Bench) -> None:
    assert bench.sync(whisper(bench)).code == 0
    moved = bench.folder / "moved"
    (bench.root / "whisper/hub").rename(moved)
    from huggingface_hub import hf_hub_download, snapshot_download

    here = snapshot_download("acme/whisper", cache_dir=moved, local_files_only=True)
    assert {p.name for p in Path(here).iterdir()} == {*made.faster_whisper(), "README.md", "sub"}
    path = hf_hub_download("acme/whisper", "sub/dir/extra.json", cache_dir=moved, local_files_only=True)
    assert Path(path).read_bytes() == b"{}"
    assert (moved / "models--acme--whisper/refs/main").read_bytes() == commit(bench, "acme/whisper").encode()


def test_blobs_of_a_cache_are_named_as_the_hub_names_them(bench: Bench) -> None:
    bench.sync(whisper(bench))
    blobs = bench.root / "whisper/hub/models--acme--whisper/blobs"
    weights = read(made.faster_whisper()["model.bin"])
    assert (blobs / hashlib.sha256(weights).hexdigest()).read_bytes() == weights
    text = b"# whisper"
    assert (
        blobs / hashlib.sha1(b"blob %d\0" % len(text) + text, usedforsecurity=False).hexdigest()
    ).read_bytes() == text


def test_include_and_files_choose_what_a_snapshot_holds(bench: Bench) -> None:
    assert bench.sync(whisper(bench, include=["*.json"])).code == 0
    snapshot = bench.root / "whisper/hub/models--acme--whisper/snapshots" / commit(bench, "acme/whisper")
    assert not (snapshot / "model.bin").exists()
    assert bench.sync(whisper(bench, files=[{"path": "model.bin"}])).code == 0
    assert (snapshot / "model.bin").exists()


def test_cache_as_names_the_folder_and_a_branch_gets_its_ref(bench: Bench) -> None:
    bench.world.hf_repo("acme/x", {"config.json": b"{}"}, refs={"v1": None})
    entry = {
        "name": "x",
        "kind": "snapshot",
        "source": "hf://acme/x@v1",
        "cache_as": "xlm-roberta-base",
        "for": ["diffrhythm"],
    }
    assert bench.sync(entry).code == 0
    refs = bench.root / "diffrhythm/models--xlm-roberta-base/refs"
    assert {p.name for p in refs.iterdir()} == {"main", "v1"}


def test_a_zip_is_unpacked_and_known_the_next_time(bench: Bench) -> None:
    bench.world.file("punkt.zip", made.nltk_punkt())
    source = f"{bench.hub.files}punkt.zip"
    entry = {
        "name": "nltk",
        "kind": "file",
        "source": source,
        "path": "nltk_data/tokenizers",
        "unpack": "zip",
        "for": ["whisper"],
    }
    assert bench.sync(entry).code == 0
    files = [p for p in (bench.root / "whisper/nltk_data/tokenizers").rglob("*") if p.is_file()]
    assert files
    again = bench.sync(entry)
    assert (again.code, again.report["requests"]) == (0, 0)
    files[0].write_bytes(b"edited")
    assert bench.sync(entry).code == 0
    assert files[0].read_bytes() != b"edited"


def test_files_in_the_folder_of_an_archive_are_compared_with_its_members(bench: Bench) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("a.txt", b"a" * 70_000)
        opened.writestr("b.txt", b"b")
    bench.world.file("x.zip", archive.getvalue())
    entry = {
        "name": "x",
        "kind": "file",
        "source": f"{bench.hub.files}x.zip",
        "path": "data",
        "unpack": "zip",
        "for": ["whisper"],
    }
    there = bench.root / "whisper/data/a.txt"
    there.parent.mkdir(parents=True)
    there.write_bytes(b"a" * 70_000)
    assert bench.sync(entry).code == 0
    assert (bench.root / "whisper/data/b.txt").read_bytes() == b"b"
    os.utime(there, (1, 1))
    assert bench.sync(entry).code == 0
    assert not (bench.root / ".modelfetch/displaced").exists()


def test_files_pinned_by_git_or_blake3_digest_are_ready_after_verification(bench: Bench) -> None:
    entry = whisper(bench)
    assert bench.sync(entry).code == 0
    bench.world.repos["acme/whisper"].commit({**made.faster_whisper(), "README.md": b"# whisper", "new.json": b"[]"})
    assert bench.sync(entry, options=("--refresh",)).code == 0
    assert bench.run("status", bench.manifest(entry)).code == 0
    there = bench.root / "comfyui/models/vae/art.safetensors"
    there.parent.mkdir(parents=True)
    there.write_bytes(read(WEIGHTS))
    pinned = vae(bench, digest="blake3:" + blake3(read(WEIGHTS)).hexdigest(), **{"for": ["comfyui"]})
    assert bench.sync(pinned).code == 0
    assert bench.run("status", bench.manifest(pinned)).code == 0
    assert bench.sync(pinned).report["requests"] == 0


def test_a_repo_may_hold_names_that_differ_by_case_alone(bench: Bench) -> None:
    bench.world.hf_repo("acme/case", {"README.md": b"1", "readme.md": b"2"})
    entry = {"name": "c", "kind": "snapshot", "source": "hf://acme/case", "for": ["whisper", "comfyui"]}
    assert bench.sync(entry).code == 0
    folder = bench.root / "comfyui/models/diffusers/case"
    assert ((folder / "README.md").read_bytes(), (folder / "readme.md").read_bytes()) == (b"1", b"2")
    other = {
        "name": "o",
        "kind": "file",
        "path": "models/diffusers/case/Readme.md",
        "source": "hf://acme/case/README.md",
        "for": ["comfyui"],
    }
    result = bench.sync(entry, other)
    assert (result.code, result.codes()) == (78, ["invalid-manifest"])
    assert "`modelfetch schema`" in result.err
