"""A consumer's folder outside ROOT, named on purpose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.demo import models as made

if TYPE_CHECKING:
    from pathlib import Path

    from tests.pipeline.conftest import Bench


def vae(bench: Bench) -> dict[str, Any]:
    bench.world.hf_repo("acme/art", {"art.safetensors": made.vae()})
    return {"name": "art", "kind": "vae", "source": "hf://acme/art/art.safetensors", "for": ["comfyui"]}


@pytest.fixture
def installed(bench: Bench) -> Path:
    folder = bench.folder / "ComfyUI"
    (folder / "models/vae").mkdir(parents=True)
    (folder / "models/vae/mine.safetensors").write_bytes(b"precious")
    return folder


@pytest.mark.parametrize("written", ["ComfyUI", "ComfyUI/models", "~/ComfyUI", "variable"])
def test_an_existing_installation_is_filled(
    bench: Bench, installed: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    monkeypatch.setenv("HOME", str(bench.folder))
    entry = vae(bench)
    options = ("--consumer-dir", f"comfyui={written}")
    if written == "variable":
        monkeypatch.setenv("MODELFETCH_CONSUMER_DIR", "comfyui=ComfyUI")
        options = ()  # type: ignore[assignment]
    manifest = bench.manifest(entry)
    assert bench.run("sync", manifest, *options).code == 0
    assert sorted(p.name for p in (installed / "models/vae").iterdir()) == ["art.safetensors", "mine.safetensors"]
    assert not (bench.root / "comfyui").exists()
    again = bench.run("sync", manifest, *options)
    assert (again.code, again.report["requests"]) == (0, 0)
    for command in ("status", "verify"):
        assert bench.run(command, manifest, *options).code == 0, command
    (installed / "models/vae/art.safetensors").unlink()
    assert bench.run("status", manifest, *options).code == 1
    assert bench.run("sync", manifest, *options).code == 0


def test_a_folder_in_it_that_leads_outside_is_refused(bench: Bench, installed: Path) -> None:
    (bench.folder / "outside").mkdir()
    (installed / "models/vae/mine.safetensors").unlink()
    (installed / "models/vae").rmdir()
    (installed / "models/vae").symlink_to(bench.folder / "outside")
    result = bench.sync(vae(bench), options=("--consumer-dir", f"comfyui={installed}"))
    assert result.codes() == ["outside-root"]
    assert not list((bench.folder / "outside").iterdir())


@pytest.mark.parametrize("value", ["comfyui", "nobody=/x", "comfyui=", "=x"])
def test_what_names_no_folder_of_a_service_is_wrong_usage(bench: Bench, value: str) -> None:
    assert bench.sync(vae(bench), options=("--consumer-dir", value)).code == 2
