"""The Python functions do what the commands do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import modelfetch
from tests.care.test_adopt import collection
from tests.damage import flip
from tests.pipeline.entries import WEIGHTS, ollama, read, vae

if TYPE_CHECKING:
    from tests.pipeline.conftest import Bench

ONE = "stable-diffusion/models/VAE/art.safetensors"


def test_verify_finds_and_repairs(bench: Bench) -> None:
    bench.sync(vae(bench))
    flip(bench.root / ONE)
    assert modelfetch.verify(root=bench.root, older_than="30d").ok
    assert modelfetch.verify(root=bench.root).exit_code == 1
    assert modelfetch.verify(root=bench.root, repair=True).ok
    assert (bench.root / ONE).read_bytes() == read(WEIGHTS)


def test_a_bad_age_is_a_usage_error_of_the_report(bench: Bench) -> None:
    report = modelfetch.verify(root=bench.root, older_than="soon")
    assert [error.code for error in report.errors] == ["usage"]


def test_remove_and_prune_remove_the_named_models(bench: Bench) -> None:
    bench.sync(vae(bench), ollama(bench))
    manifest = bench.manifest(ollama(bench))
    assert modelfetch.remove("vae", root=bench.root, dry_run=True).models
    assert modelfetch.remove(["vae"], root=bench.root, dry_run=True).models
    assert (bench.root / ONE).exists()
    assert modelfetch.prune(root=bench.root, manifest=manifest).ok
    assert not (bench.root / ONE).exists()


def test_adopted_files_are_not_downloaded(bench: Bench) -> None:
    collection(bench.folder / "theirs", "ComfyUI", read(WEIGHTS))
    assert modelfetch.adopt([str(bench.folder / "theirs")], root=bench.folder / "list").models
    report = modelfetch.adopt(bench.folder / "theirs", root=bench.root)
    assert [artifact.action for model in report.models for artifact in model.artifacts] == ["adopted"]
