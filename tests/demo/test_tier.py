from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ruamel.yaml import YAML

from modelfetch.demo.tier import CHECKPOINT_RATE, DROP_AT, FILES_HOST, demo_environment, demo_world
from tests.demo.conftest import ask

if TYPE_CHECKING:
    from modelfetch.demo.body import Body
    from modelfetch.demo.world import World

MANIFEST = Path(__file__).parents[2] / "manifests" / "demo.yaml"
CONSUMERS = {"ollama", "stable-diffusion", "comfyui", "whisper", "diffrhythm"}


@pytest.fixture(scope="module")
def world() -> World:
    return demo_world()


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    document: dict[str, Any] = YAML(typ="safe").load(MANIFEST)
    return document


def test_the_manifest_names_its_schema_for_editors() -> None:
    first = MANIFEST.read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=../docs/reference/manifest.schema.json"


def test_the_tier_serves_all_five_consumers(manifest: dict[str, Any]) -> None:
    assert {consumer for model in manifest["models"] for consumer in model["for"]} == CONSUMERS
    assert set(manifest["services"]) == CONSUMERS


def test_every_source_exists_and_every_pin_equals_the_generated_bytes(world: World, manifest: dict[str, Any]) -> None:
    unpinned = []
    for model in manifest["models"]:
        found = _artifacts(world, model)
        assert found, model["name"]
        pins = model.get("files", [model])
        for pin in pins:
            body = found[pin.get("path", "")] if "files" in model else next(iter(found.values()))
            if "digest" not in pin:
                unpinned.append(model["name"])
                continue
            assert pin["digest"] == (body if isinstance(body, str) else f"sha256:{body.sha256}"), model["name"]
            if "size" in pin:
                assert not isinstance(body, str)
                assert pin["size"] == body.size, model["name"]
    assert unpinned == ["sd-tiny-vae", "tiny-style", "diffrhythm-vae-tiny", "xlm-roberta-tiny"]


def test_revisions_are_pinned_but_for_one(world: World, manifest: dict[str, Any]) -> None:
    floating = []
    for model in manifest["models"]:
        if not model["source"].startswith("hf://"):
            continue
        repo_id, revision, _ = _split(model["source"])
        if revision is None:
            floating.append(model["name"])
        else:
            assert revision == world.repos[repo_id].main, model["name"]
    assert floating == ["sd-tiny-vae"]


def test_the_environment_redirects_every_source_to_the_hub() -> None:
    with demo_environment() as environ:
        assert set(environ) == {
            "HF_ENDPOINT",
            "MODELFETCH_OLLAMA_REGISTRY",
            "MODELFETCH_CIVITAI_ENDPOINT",
            "MODELFETCH_MIRRORS",
        }
        prefix, _, target = environ["MODELFETCH_MIRRORS"].partition("=")
        assert prefix == FILES_HOST
        assert ask(target + "embeddings/tiny-style.safetensors").status == 200
        assert ask(environ["MODELFETCH_OLLAMA_REGISTRY"] + "/v2/library/modelfetch-demo/manifests/latest").status == 200
        assert ask(environ["HF_ENDPOINT"] + "/api/models/modelfetch-demo/sd-tiny").status == 200


def test_the_checkpoint_download_breaks_off_once_and_is_resumed(world: World) -> None:
    size = next(iter(_artifacts(world, {"source": "hf://modelfetch-demo/sd-tiny/sd_tiny.safetensors"}).values()))
    assert not isinstance(size, str)
    assert size.size > DROP_AT
    with demo_environment() as environ:
        url = environ["HF_ENDPOINT"] + "/modelfetch-demo/sd-tiny/resolve/main/sd_tiny.safetensors"
        location = ask(url).headers["location"]
        with pytest.raises(Exception, match="IncompleteRead") as caught:
            ask(location)
        assert type(caught.value).__name__ == "IncompleteRead"
        started = time.monotonic()
        rest = ask(location, Range=f"bytes={size.size - 1_000_000}-")
        assert (rest.status, len(rest.body)) == (206, 1_000_000)
        assert time.monotonic() - started >= 1_000_000 / CHECKPOINT_RATE * 0.9


def _split(source: str) -> tuple[str, str | None, str]:
    """Return (repository, revision, path) of an hf source."""
    parts = source.removeprefix("hf://").split("/", 2)
    name, _, revision = parts[1].partition("@")
    return f"{parts[0]}/{name}", revision or None, parts[2] if len(parts) > 2 else ""


def _artifacts(world: World, model: dict[str, Any]) -> dict[str, Body | str]:
    """Return the world's content for a source: bodies by path, or a manifest's digest."""
    source = model["source"]
    if source.startswith("ollama://"):
        return {"": world.ollama["library/" + source.removeprefix("ollama://")].digest}
    if source.startswith(FILES_HOST):
        return {"": world.files[source.removeprefix(FILES_HOST)].body}
    repo_id, revision, path = _split(source)
    commit = world.repos[repo_id].resolve(revision or "main")
    assert commit is not None
    return {name: file.body for name, file in commit.files.items() if path in ("", name)}
