"""Attacks on remove, prune and dedupe: links, shared stores, broken manifests, odd names."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from modelfetch.cli.app import run
from tests.care.conftest import actions
from tests.care.test_prune import ONE, TWO, blobs, files
from tests.cases import first
from tests.damage import flip
from tests.interpreter import Process
from tests.pipeline.entries import WEIGHTS, ollama, read, sha256, vae, whisper

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.pipeline.conftest import Bench, Result


def test_files_behind_a_users_link_outside_the_root_are_kept(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(vae(bench))
    mine = bench.folder / "mine.safetensors"
    mine.hardlink_to(bench.root / ONE)
    assert care("remove", "vae").code == 0
    assert care("prune", "--older-than", "0s").code == 0
    assert mine.read_bytes() == read(WEIGHTS)


def test_a_root_behind_a_symlink_is_pruned_in_place(bench: Bench, care: Callable[..., Result]) -> None:
    real = bench.folder / "real"
    real.mkdir()
    bench.root.symlink_to(real)
    bench.sync(vae(bench), ollama(bench))
    (real / "comfyui/mine.bin").write_bytes(b"mine")
    assert care("remove", "vae").code == 0
    assert bench.root.is_symlink()
    assert (real / "comfyui/mine.bin").read_bytes() == b"mine"
    assert not (real / TWO).exists()


def test_prune_removes_nothing_behind_a_folder_that_became_a_link(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(vae(bench))
    outside = bench.folder / "outside"
    shutil.move(bench.root / "comfyui/models/vae", outside)
    (bench.root / "comfyui/models/vae").symlink_to(outside)
    care("remove", "vae")
    care("prune", "--older-than", "0s")
    assert (outside / "art.safetensors").read_bytes() == read(WEIGHTS)


def test_prune_keeps_the_files_of_another_root_with_the_same_store(bench: Bench, care: Callable[..., Result]) -> None:
    store = bench.folder / "store"
    other = bench.folder / "other"
    manifest = bench.manifest(vae(bench), whisper(bench))
    for root in (bench.root, other):
        assert run(["sync", str(manifest), "--root", str(root), "--store", str(store), "-q"]) == 0
    before = files(other)
    assert care("remove", "vae", "w", "--store", str(store)).code == 0
    assert care("prune", "--older-than", "0s", "--store", str(store)).code == 0
    assert files(other) == before
    assert (other / ONE).read_bytes() == read(WEIGHTS)
    assert run(["verify", "--root", str(other), "--store", str(store), "-q"]) == 0


@pytest.mark.parametrize(
    "text",
    [
        "version: 1\nmodels: [",
        "version: 1\nextends: nowhere\nmodels: []",
        "version: 1\nmodels:\n- {name: ../x, kind: nothing, source: hf://a/b}",
    ],
)
def test_prune_removes_nothing_if_a_kept_tier_can_not_be_read(
    bench: Bench, care: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    bench.sync(vae(bench))
    before = files(bench.root)
    (bench.folder / "broken.yaml").write_text(text)
    monkeypatch.setenv("MODELFETCH_TIERS_DIR", str(bench.folder))
    for words in (("prune", "--keep-tier", "broken"), ("remove", "vae", "--keep-tier", "broken")):
        assert care(*words).code == 78
    assert care("prune", str(bench.folder / "broken.yaml")).code == 78
    assert care("remove", "vae", "--keep-tier", "missing").code in (2, 78)
    assert files(bench.root) == before


@pytest.mark.parametrize(
    "path", first(3, ["../../mine.bin", "/mine.bin", "comfyui/*", "comfyui/../../mine.bin", "comfyui/a\nb"])
)
def test_a_forged_receipt_causes_no_removal_outside_the_root(
    bench: Bench, care: Callable[..., Result], path: str
) -> None:
    bench.sync(vae(bench))
    receipt = bench.root / ".modelfetch/receipts/comfyui.json"
    raw = json.loads(receipt.read_text())
    mine = bench.folder / "mine.bin"
    mine.write_bytes(b"mine")
    stat = mine.stat()
    entry = {**raw["placements"][TWO], "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "model": "evil"}
    raw["placements"][path] = entry
    receipt.write_text(json.dumps(raw))
    for words in (("list",), ("verify",), ("remove", "evil"), ("prune", "--older-than", "0s")):
        result = care(*words)
        assert "Traceback" not in result.err
    assert mine.read_bytes() == b"mine"
    assert (bench.root / TWO).read_bytes() == read(WEIGHTS)


@pytest.mark.parametrize("name", first(3, ["*", "../vae", "vae\n", "v?e", "", "-vae"]))
def test_remove_does_not_treat_a_name_as_a_pattern_or_path(bench: Bench, name: str) -> None:
    bench.sync(vae(bench))
    before = files(bench.root)
    bench.capsys.readouterr()
    assert run(["remove", "--root", str(bench.root), "--", name]) == 2
    assert files(bench.root) == before


def test_a_file_that_was_written_in_place_is_kept_with_its_other_names(
    bench: Bench, care: Callable[..., Result]
) -> None:
    bench.sync(vae(bench))
    path = bench.root / ONE
    path.chmod(0o644)
    path.write_bytes(b"trained further")
    result = care("remove", "vae")
    assert set(actions(result).values()) == {"changed"}
    assert care("prune", "--older-than", "0s").code == 0
    assert path.read_bytes() == (bench.root / TWO).read_bytes() == b"trained further"


def test_a_sync_and_a_prune_at_once_both_succeed(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(vae(bench), ollama(bench))
    small = bench.manifest(ollama(bench), tier="small")
    large = bench.manifest(whisper(bench), vae(bench), ollama(bench), tier="large")
    words = ["sync", str(large), "--root", str(bench.root), "-q"]
    process = Process("-m", "modelfetch", *words)
    pruned = care("prune", str(small))
    assert process.communicate() == ("", "")
    assert (process.returncode, pruned.code) == (0, 0)
    for path in files(bench.root):
        assert os.path.exists(bench.root / path)  # noqa: PTH110 - no symlink dangles
    assert bench.run("sync", large).code == 0
    assert care("verify").code == 0


def test_care_commands_work_on_a_consumer_folder_outside_the_root(bench: Bench, care: Callable[..., Result]) -> None:
    installed = bench.folder / "ComfyUI"
    (installed / "models/vae").mkdir(parents=True)
    mine = installed / "models/vae/mine.safetensors"
    mine.write_bytes(b"precious")
    options = ("--consumer-dir", f"comfyui={installed}")
    manifest = bench.manifest(vae(bench, digest=sha256(WEIGHTS)))
    assert bench.run("sync", manifest, *options).code == 0
    ours = installed / "models/vae/art.safetensors"
    listed = {entry["path"]: entry["origin"] for entry in care("list", *options).report["entries"]}
    assert listed == {ONE: "made", TWO: "made", "comfyui/models/vae/mine.safetensors": "foreign"}
    flip(ours)
    assert care("verify", *options).code == 1
    assert care("verify", "--repair", *options).code == 0
    assert ours.read_bytes() == read(WEIGHTS)
    assert care("prune", str(manifest), *options).report["models"] == []
    assert care("remove", "vae", *options).code == 0
    assert [path.name for path in (installed / "models/vae").iterdir()] == ["mine.safetensors"]
    assert blobs(bench.root) == []


def test_files_that_services_write_next_to_a_model_are_kept(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(vae(bench))
    names = ("art.civitai.info", "art.json", "art.preview.png", "art.safetensors.sha256", "cache.db")
    for name in names:
        for path in (ONE, TWO):
            (bench.root / path).with_name(name).write_bytes(name.encode())
    assert bench.sync(vae(bench)).code == 0
    assert care("verify").code == 0
    assert care("remove", "vae").code == 0
    assert care("prune", "--older-than", "0s").code == 0
    for path in (ONE, TWO):
        left = {file.name: file.read_bytes() for file in (bench.root / path).parent.iterdir()}
        assert left == {name: name.encode() for name in names}
    assert {entry["origin"] for entry in care("list").report["entries"]} == {"foreign"}
