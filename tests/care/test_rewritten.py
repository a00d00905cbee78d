"""Files that their service rewrites by itself: no failure, no displacement, restored only by name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.care import inventory, verify
from modelfetch.placement import rewritten
from modelfetch.placement.rewritten import rewriting_service
from tests.care.conftest import actions
from tests.pipeline.entries import WEIGHTS, read, vae

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.pipeline.conftest import Bench, Result

ONE, TWO = "stable-diffusion/models/VAE/art.safetensors", "comfyui/models/vae/art.safetensors"


def rewrite_in_place(path: Path) -> None:
    """Save a slightly changed model under the same name, as Immich does with its recognition models."""
    data = path.read_bytes()
    with path.open("wb") as file:
        file.write(data + b"batch axis")


@pytest.fixture(autouse=True)
def _rewriting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat ComfyUI's file as one that its service rewrites."""
    monkeypatch.setattr(rewritten, "_REWRITES", (("comfyui", re.compile(re.escape(TWO))),))


def test_a_file_that_a_service_rewrites_is_a_copy_of_its_blob(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(vae(bench))
    assert not (bench.root / TWO).samefile(bench.root / ONE)
    rewrite_in_place(bench.root / TWO)
    assert (bench.root / ONE).read_bytes() == read(WEIGHTS)
    result = care("verify")
    assert (result.code, actions(result)) == (0, {ONE: "present", TWO: "rewritten"})


def test_status_names_the_service_that_rewrote_a_file_and_reports_ready(bench: Bench) -> None:
    manifest = bench.manifest(vae(bench))
    bench.run("sync", manifest)
    rewrite_in_place(bench.root / TWO)
    result = bench.run("status", manifest)
    assert result.code == 0
    assert {path: a["action"] for a in result.report["models"][0]["artifacts"] for path in a["placements"]} == {
        ONE: "present",
        TWO: "rewritten",
    }


def test_repeated_syncs_leave_a_rewritten_file_unchanged(bench: Bench, care: Callable[..., Result]) -> None:
    manifest = bench.manifest(vae(bench))
    bench.run("sync", manifest)
    rewrite_in_place(bench.root / TWO)
    data = (bench.root / TWO).read_bytes()
    for _ in range(2):
        assert bench.run("sync", manifest).code == 0
        assert (bench.root / TWO).read_bytes() == data
    assert not (bench.root / ".modelfetch/displaced").exists()
    assert actions(care("verify"))[TWO] == "rewritten"
    care("verify", "--repair", "--model", "vae")
    assert (bench.root / TWO).read_bytes() == read(WEIGHTS)


def test_a_file_that_a_service_rewrites_during_the_check_is_left_unchanged(
    bench: Bench, care: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.sync(vae(bench))
    take_inventory = inventory.take_inventory

    def rewrite_after(*args: Any, **options: Any) -> Any:
        found = take_inventory(*args, **options)
        rewrite_in_place(bench.root / TWO)
        return found

    monkeypatch.setattr(verify, "take_inventory", rewrite_after)
    result = care("verify", "--repair")
    assert (result.code, actions(result)[TWO]) == (0, "rewritten")
    assert (bench.root / TWO).read_bytes() == read(WEIGHTS) + b"batch axis"


def test_prune_keeps_a_rewritten_file_and_remove_removes_it(
    bench: Bench, care: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.sync(vae(bench))
    rewrite_in_place(bench.root / TWO)
    bench.manifest(tier="none")
    monkeypatch.setenv("MODELFETCH_TIERS_DIR", str(bench.folder))
    care("prune", "--keep-tier", "none")
    assert (bench.root / TWO).exists()
    assert not (bench.root / ONE).exists()
    care("remove", "vae")
    assert not (bench.root / TWO).exists()


@pytest.mark.parametrize(
    ("path", "service"),
    [
        ("immich/facial-recognition/buffalo_l/recognition/model.onnx", "immich"),
        ("immich/facial-recognition/antelopev2/main/recognition/model.onnx", "immich"),
        ("immich/facial-recognition/buffalo_l/detection/model.onnx", None),
        ("immich/clip/ViT-B-32__openai/visual/model.onnx", None),
        ("comfyui/models/vae/recognition/model.onnx", None),
    ],
)
def test_only_files_that_immich_rewrites_in_place_are_accepted(
    path: str, service: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    assert rewriting_service(path) == service
