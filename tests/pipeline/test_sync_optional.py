"""An optional model that fails is a warning, for sync and for status."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pipeline.conftest import Bench
from tests.pipeline.entries import vae, whisper


def test_an_optional_model_that_fails_is_a_warning(bench: Bench) -> None:
    gone = {
        "name": "gone",
        "kind": "vae",
        "source": "hf://acme/gone/x.safetensors",
        "for": ["comfyui"],
        "optional": True,
    }
    result = bench.sync(vae(bench), gone)
    assert result.code == 0
    assert "gone is optional" in result.err
    assert [m["ok"] for m in result.report["models"]] == [True, False]


def test_the_warning_of_an_optional_model_has_the_command_that_renews_its_pin(bench: Bench) -> None:
    replaced = vae(bench, name="replaced", filename="other.safetensors", digest=f"sha256:{'0' * 64}", optional=True)
    result = bench.sync(vae(bench), replaced)
    assert result.code == 0
    assert f"update the pin: `modelfetch pin {bench.folder}/test.yaml --upgrade replaced`" in result.err


def test_an_optional_model_is_required_for_a_consumer_that_has_no_other(bench: Bench) -> None:
    gone = {"kind": "vae", "source": "hf://acme/gone/x.safetensors", "optional": True}
    only = vae(bench, **{"for": ["comfyui"]})
    models = (only, {**gone, "name": "gone", "for": ["stable-diffusion"]})
    assert bench.sync(*models).code == 0
    assert bench.sync(*models, options=("--for", "comfyui")).code == 0
    assert bench.sync(*models, options=("--for", "stable-diffusion")).code == 77


def test_status_lists_an_optional_model_as_missing_without_failing(bench: Bench) -> None:
    gone = {"name": "gone", "kind": "vae", "source": "hf://acme/gone/x.safetensors", "for": ["comfyui"]}
    models = (vae(bench, **{"for": ["comfyui"]}), {**gone, "optional": True})
    assert bench.run("status", bench.manifest(*models)).code == 1
    assert bench.sync(*models).code == 0
    result = bench.run("status", bench.manifest(*models))
    assert (result.code, result.report["ok"], [m["ok"] for m in result.report["models"]]) == (0, True, [True, False])
    assert result.report["models"][1]["artifacts"][0]["action"] == "missing"
    assert bench.run("status", bench.manifest(models[0], gone)).code == 1
    assert bench.run("status", bench.manifest(models[1]), "--for", "comfyui").code == 1


@pytest.mark.parametrize("resolved", [False, True])
def test_a_foreign_file_in_the_place_of_an_optional_model_is_shown_without_failing(
    bench: Bench, *, resolved: bool
) -> None:
    path = bench.root / "comfyui/models/vae/opt.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"precious")
    source = "hf://acme/art/art.safetensors" if resolved else "hf://acme/gone/x.safetensors"
    other = {"kind": "vae", "source": source, "filename": "opt.safetensors", "for": ["comfyui"]}
    models = (vae(bench, **{"for": ["comfyui"]}), {**other, "name": "opt", "optional": True})
    assert bench.sync(*models).code == 0
    result = bench.run("status", bench.manifest(*models))
    assert (result.code, result.report["models"][1]["artifacts"][0]["action"]) == (0, "foreign")
    assert path.read_bytes() == b"precious"


def test_a_changed_file_of_an_optional_model_is_one_for_status(bench: Bench) -> None:
    optional = vae(bench, name="opt", filename="opt.safetensors", optional=True, **{"for": ["comfyui"]})
    models = (vae(bench, **{"for": ["comfyui"]}), optional)
    assert bench.sync(*models).code == 0
    path = bench.root / "comfyui/models/vae/opt.safetensors"
    path.unlink()
    path.write_bytes(b"else")
    assert bench.run("status", bench.manifest(*models)).code == 1


def test_status_warns_of_an_optional_model_whose_folder_links_outside(bench: Bench) -> None:
    required = vae(bench, **{"for": ["comfyui"]})
    optional = {**whisper(bench), "optional": True}
    assert bench.sync(required, optional).code == 0
    (bench.root / "whisper").rename(bench.folder / "outside")
    (bench.root / "whisper").symlink_to(bench.folder / "outside")
    for command in ("plan", "status", "sync"):
        result = bench.run(command, bench.manifest(required, optional))
        assert (result.code, result.codes()) == (0, []), command
        assert "outside" in result.err
