"""Recorded resolutions are used with the current endpoints of the environment."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.demo import models
from modelfetch.demo.body import as_body
from modelfetch.demo.hub import Hub
from modelfetch.demo.world import CivitaiFile

if TYPE_CHECKING:
    from tests.pipeline.conftest import Bench

ENTRIES: dict[str, dict[str, Any]] = {
    "hf": {"name": "art", "kind": "vae", "source": "hf://acme/art/art.safetensors", "for": ["comfyui"]},
    "ollama": {"name": "chat", "source": "ollama://tiny", "for": ["ollama"]},
    "civitai": {"name": "style", "kind": "lora", "source": "civitai://7", "for": ["comfyui"]},
}


@pytest.mark.parametrize("kind", ENTRIES)
def test_a_lost_file_is_fetched_from_the_endpoint_of_the_current_environment(
    kind: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.world.hf_repo("acme/art", {"art.safetensors": models.vae()})
    bench.world.ollama_model("tiny", models.ollama_layers(), config=models.ollama_config())
    bench.world.civitai_version(7, [CivitaiFile(id=1, name="style.safetensors", body=as_body(models.lora()))])
    assert bench.sync(ENTRIES[kind]).code == 0
    receipts = "".join(path.read_text() for path in (bench.root / ".modelfetch/receipts").iterdir())
    assert "http://127.0.0.1" not in receipts
    for folder in ("comfyui", "ollama", ".modelfetch/blobs"):
        shutil.rmtree(bench.root / folder, ignore_errors=True)
    with Hub(bench.world) as other:
        monkeypatch.setenv("HF_ENDPOINT", other.endpoint)
        monkeypatch.setenv("MODELFETCH_OLLAMA_REGISTRY", other.ollama)
        monkeypatch.setenv("MODELFETCH_CIVITAI_ENDPOINT", other.civitai)
        bench.hub.stop()
        result = bench.sync(ENTRIES[kind])
    assert result.code == 0, result.err
    assert "fetched" in result.actions().values()
