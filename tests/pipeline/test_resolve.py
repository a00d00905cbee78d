"""Resolving without a request: what the pins and the receipts already say."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.demo import models as made
from modelfetch.demo.world import CivitaiFile

if TYPE_CHECKING:
    from tests.pipeline.conftest import Bench

WEIGHTS = made.vae()
PINS = {"size": WEIGHTS.size, "digest": f"sha256:{hashlib.sha256(bytes(WEIGHTS.read(0, WEIGHTS.size))).hexdigest()}"}


@pytest.fixture(params=["odd name", "civitai"])
def entry(request: pytest.FixtureRequest, bench: Bench) -> dict[str, Any]:
    """A pinned file whose name only its source gives."""
    bench.world.file("sd-v15", WEIGHTS)
    bench.world.civitai_version(7, [CivitaiFile(id=1, name="style.safetensors", body=WEIGHTS)])
    source = f"{bench.hub.files}sd-v15" if request.param == "odd name" else "civitai://7"
    return {"name": "m", "kind": "vae", "source": source, "for": ["comfyui"], **PINS}


@pytest.mark.parametrize("command", ["sync", "plan", "status"])
def test_a_pinned_file_in_place_needs_no_request_after_another_part_of_the_manifest_changed(
    bench: Bench, entry: dict[str, Any], command: str
) -> None:
    assert bench.sync(entry).code == 0
    result = bench.run(command, bench.manifest(entry, description="changed"))
    assert (result.code, result.report["requests"]) == (0, 0)
    offline = () if command == "status" else ("--offline",)
    assert bench.run(command, bench.manifest(entry, description="changed again"), *offline).code == 0


def test_changed_pins_are_resolved_again(bench: Bench, entry: dict[str, Any]) -> None:
    assert bench.sync(entry).code == 0
    other = {**entry, "digest": "sha256:" + "1" * 64}
    assert bench.run("plan", bench.manifest(other)).report["requests"] > 0
    assert bench.run("sync", bench.manifest(other), "--offline").code == 69
    assert bench.run("sync", bench.manifest(entry), "--refresh").report["requests"] > 0
