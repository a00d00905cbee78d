from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from modelfetch.manifest.schema import FILE, MANIFEST, MODEL, SERVICE, json_schema, json_schema_text
from tests.cases import each
from tests.manifest.helpers import COMMIT, DIGEST, VALIDATOR

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "manifest.schema.json"

TOP = "version tier vram usable description extends drop services models"
MODEL_KEYS = (
    "name kind source mirrors size digest for filename path files include cache_as unpack task license optional "
    "allow_pickle allow_unscanned"
)
SERVICE_KEYS = (
    "vram memory model context parallel kv_type flash_attention offload resolution batch compute_type device exclusive"
)


def errors(document: Any) -> list[str]:
    return [error.message for error in VALIDATOR.iter_errors(document)]


def manifest(**keys: Any) -> dict[str, Any]:
    model = {"name": "m", "kind": "checkpoint", "source": "hf://a/b/c.safetensors", "for": ["comfyui"]} | keys
    return {"version": 1, "models": [{key.replace("_for", "for"): value for key, value in model.items()}]}


def test_the_keys_are_the_documented_ones() -> None:
    assert set(MANIFEST.keys) == set(TOP.split())
    assert set(MODEL.keys) == set(MODEL_KEYS.split())
    assert set(SERVICE.keys) == set(SERVICE_KEYS.split())
    assert set(FILE.keys) == {"path", "size", "digest"}


def test_it_is_a_schema_of_draft_2020_12() -> None:
    VALIDATOR.check_schema(json_schema())
    assert json_schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert json.loads(json_schema_text()) == json_schema()


def test_the_committed_schema_is_the_one_that_the_code_makes() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == json_schema_text()


def test_every_key_is_explained_to_editors() -> None:
    def walk(schema: Any) -> None:
        for key, value in schema.get("properties", {}).items():
            assert value["description"].endswith("."), key
            walk(value)
        for value in (schema.get("items"), *schema.get("patternProperties", {}).values()):
            if isinstance(value, dict):
                walk(value)

    walk(json_schema())


@each(
    "document",
    [
        manifest(),
        manifest(size="6.5GiB", digest=DIGEST, mirrors=["https://h.example/x"], optional=True, license="mit"),
        manifest(kind="file", path="a/b", unpack="zip", _for=["whisper", "ollama"]),
        manifest(kind="snapshot", source=f"hf://a/b@{COMMIT}", _for=["whisper"], files=[{"path": "x", "size": 1}]),
        {"version": 1, "models": [{"name": "m", "source": "ollama://x", "for": ["ollama"], "x-a": None}]},
        {
            "version": 1,
            "extends": "16g",
            "drop": ["x"],
            "x-a": [1],
            "services": {"a": {"vram": "4GiB", "x-b": 1}, "x-c": 1},
        },
    ],
)
def test_the_schema_accepts_valid_manifests(document: Any) -> None:
    assert errors(document) == []


@each(
    "document",
    [
        {},
        [],
        None,
        {"version": 1},
        {"version": 2, "models": []},
        {"version": "1", "models": []},
        {"version": 1, "models": [], "foo": 1},
        {"version": 1, "models": [], "vram": "lots"},
        {"version": 1, "models": [], "tier": "../x"},
        {"version": 1, "models": [], "services": {"A": {}}},
        {"version": 1, "models": [], "services": {"a": {"vrm": 1}}},
        {"version": 1, "models": [], "services": {"a": {"kv_type": "f32"}}},
        manifest(foo=1),
        manifest(kind="cheksum"),
        manifest(source="x"),
        manifest(digest="sha256:x"),
        manifest(size=-1),
        manifest(size=True),
        manifest(_for=[]),
        manifest(_for=["comfyui", "comfyui"]),
        manifest(_for=["whisper"]),
        manifest(path="x"),
        manifest(files=[{"path": "x"}]),
        manifest(kind="file"),
        manifest(kind="file", path="x", unpack="tar"),
        manifest(kind="snapshot", files=[]),
        manifest(kind="snapshot", files=[{"path": "x", "foo": 1}]),
        manifest(source="ollama://x"),
        {"version": 1, "models": [{"name": "m", "source": "hf://a/b/c", "for": ["ollama"]}]},
        {"version": 1, "models": [{"name": "m", "source": "ollama://x", "for": ["comfyui"]}]},
        {"version": 1, "models": [{"name": "m", "for": ["comfyui"], "kind": "vae"}]},
    ],
)
def test_the_schema_refuses_invalid_manifests(document: Any) -> None:
    assert errors(document)
