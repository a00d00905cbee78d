"""Hints about pins can be pasted: they name the manifest and the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import modelfetch
from modelfetch.manifest.load import load_manifest
from modelfetch.manifest.model import Position
from modelfetch.pipeline.pin_hint import how_to_pin, how_to_upgrade
from tests.pipeline.entries import WEIGHTS, read, vae

if TYPE_CHECKING:
    from tests.pipeline.conftest import Bench

PLACED = "comfyui/models/vae/art.safetensors"


def test_the_warning_of_a_file_that_was_moved_aside_has_the_command_that_keeps_it(bench: Bench) -> None:
    manifest = bench.manifest(vae(bench), tier="my-models")
    assert bench.run("sync", manifest).code == 0
    (bench.root / PLACED).unlink()
    (bench.root / PLACED).write_bytes(b"newer")
    result = bench.run("sync", manifest)
    assert result.code == 0, result.err
    assert f"to keep the new content, update the pin: `modelfetch pin {manifest} --upgrade vae`" in result.err
    assert "`modelfetch prune`" in result.err


def test_a_file_in_the_way_of_one_without_a_digest_comes_with_the_command_that_pins_it(bench: Bench) -> None:
    bench.world.file("m.safetensors", read(WEIGHTS))
    entry = vae(bench, source=f"{bench.hub.files}m.safetensors", filename="art.safetensors")
    (bench.root / PLACED).parent.mkdir(parents=True)
    (bench.root / PLACED).write_bytes(b"mine")
    manifest = bench.manifest(entry)
    result = bench.run("plan", manifest)
    assert result.code == 73
    assert result.report["errors"][0]["hint"].startswith(f"pin the entry: `modelfetch pin {manifest}`, or move")


def test_an_entry_of_a_tier_of_the_package_is_pinned_in_a_manifest_that_extends_it(bench: Bench) -> None:
    (model,) = load_manifest(bench.manifest(vae(bench))).models
    inside = Position(file=str(Path(modelfetch.__file__).parent / "data/16g.yaml"), line=1, column=1)
    wanted = "write a manifest with `extends: 16g` and your own entry vae, then pin that"
    assert how_to_pin(replace(model, position=inside)) == how_to_upgrade(replace(model, position=inside)) == wanted
