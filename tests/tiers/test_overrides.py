from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from modelfetch.core.digest import Digest
from modelfetch.core.events import Event, Notice
from modelfetch.errors import SettingError
from modelfetch.manifest.load import load_manifest
from modelfetch.tiers.overrides import apply_overrides
from tests.cases import each

if TYPE_CHECKING:
    from modelfetch.manifest.model import Manifest

DIGEST = Digest.sha256(b"manifest")
COMMIT = "1" * 40
TIER = f"""
version: 1
tier: 16g
models:
  - {{name: chat, source: "ollama://llama3.2:3b", digest: "{DIGEST}", for: [ollama]}}
  - {{name: embed, source: "ollama://nomic-embed-text", for: [ollama]}}
  - name: base
    kind: checkpoint
    source: hf://stabilityai/base@{COMMIT}/base.safetensors
    digest: {Digest.sha256(b"base")}
    for: [stable-diffusion, comfyui]
  - {{name: vae, kind: vae, source: "hf://a/b@{COMMIT}/vae.safetensors", for: [stable-diffusion, comfyui]}}
"""
OTHER = """
version: 1
tier: 8g
models:
  - {name: small, source: "ollama://qwen2.5:0.5b", for: [ollama]}
"""


def apply(environ: dict[str, str], events: list[Event] | None = None) -> Manifest:
    return apply_overrides(
        load_manifest(TIER),
        environ,
        allow_http=lambda _host, _port: False,
        other_tiers=lambda: [load_manifest(OTHER), load_manifest(OTHER.replace("8g", "32g")), load_manifest(TIER)],
        sink=(events if events is not None else []).append,
    )


def names(manifest: Manifest, consumer: str) -> list[str]:
    return [m.name for m in manifest.models if consumer in m.consumers]


def test_an_empty_variable_means_the_value_of_the_tier() -> None:
    assert apply({"OLLAMA_AUTO_PULL_MODEL": "  "}) == load_manifest(TIER)


def test_a_model_is_named_by_what_was_pasted_not_by_the_command_around_it() -> None:
    manifest = apply({"OLLAMA_AUTO_PULL_MODEL": "ollama run mistral:7b, https://ollama.com/library/phi4"})
    assert names(manifest, "ollama") == ["mistral:7b", "phi4"]


def test_a_list_of_names_replaces_all_ollama_entries_and_nothing_else() -> None:
    manifest = apply({"OLLAMA_AUTO_PULL_MODEL": "mistral:7b, phi4"})
    assert [str(m.source) for m in manifest.models if "ollama" in m.consumers] == [
        "ollama://mistral:7b",
        "ollama://phi4",
    ]
    assert names(manifest, "comfyui") == ["base", "vae"]


@each("name", ["llama3.2:3b", "ollama://llama3.2:3b", "library/llama3.2:3b", "registry.ollama.ai/library/llama3.2:3b"])
def test_a_value_that_is_an_entrys_source_keeps_it_with_its_digest(name: str) -> None:
    manifest = apply({"OLLAMA_AUTO_PULL_MODEL": name})
    (kept,) = [m for m in manifest.models if "ollama" in m.consumers]
    assert kept.digest == DIGEST


@each(
    "value",
    [
        "https://huggingface.co/stabilityai/base/resolve/main/base.safetensors",
        f"https://huggingface.co/stabilityai/base/resolve/{COMMIT}/base.safetensors",
        f"hf://stabilityai/base@{COMMIT}/base.safetensors",
        "hf://stabilityai/base/base.safetensors",
    ],
)
def test_a_url_of_the_entrys_file_keeps_the_entry(value: str) -> None:
    assert apply({"STABLE_DIFFUSION_AUTO_DOWNLOAD_MODEL": value}) == load_manifest(TIER)


def test_a_checkpoint_is_replaced_for_its_consumer_only() -> None:
    manifest = apply({"STABLE_DIFFUSION_AUTO_DOWNLOAD_MODEL": "https://models.example/other.safetensors"})
    assert names(manifest, "stable-diffusion") == ["vae", "other.safetensors"]
    assert names(manifest, "comfyui") == ["base", "vae"]


@each(
    ("variable", "value"),
    [
        ("OLLAMA_AUTO_PULL_MODEL", "bad name"),
        ("OLLAMA_AUTO_PULL_MODEL", "../../etc"),
        ("OLLAMA_AUTO_PULL_MODEL", "https://example.com/x"),
        ("STABLE_DIFFUSION_AUTO_DOWNLOAD_MODEL", "not a url"),
        ("STABLE_DIFFUSION_AUTO_DOWNLOAD_MODEL", "http://plain.example/x.safetensors"),
        ("STABLE_DIFFUSION_AUTO_DOWNLOAD_MODEL", "https://models.example/pickle.ckpt"),
        ("COMFYUI_AUTO_DOWNLOAD_MODEL", "ollama://llama3.2:3b"),
    ],
)
def test_an_invalid_value_is_a_setting_error_that_names_the_variable(variable: str, value: str) -> None:
    with pytest.raises(SettingError, match=variable) as bad:
        apply({variable: value})
    assert bad.value.exit_code == 78


def test_a_repeated_value_is_one_entry() -> None:
    events: list[Event] = []
    manifest = apply({"OLLAMA_AUTO_PULL_MODEL": "qwen2.5:0.5b,ollama://qwen2.5:0.5b,library/qwen2.5:0.5b"}, events)
    assert len(names(manifest, "ollama")) == 1
    assert len(events) == 1


def test_the_page_of_a_civitai_version_is_that_version() -> None:
    page = "https://civitai.com/models/4384/dreamshaper?utm=x&modelVersionId=128713"
    manifest = apply({"COMFYUI_AUTO_DOWNLOAD_MODEL": page})
    assert [str(m.source) for m in manifest.models if m.kind == "checkpoint" and "comfyui" in m.consumers] == [
        "civitai://128713"
    ]


@each(
    ("variable", "value", "why"),
    [
        ("OLLAMA_AUTO_PULL_MODEL", "hf://a/b/c.gguf", "expected a model of Ollama"),
        ("STABLE_DIFFUSION_AUTO_DOWNLOAD_MODEL", "ollama://tiny", "expected the URI of one checkpoint"),
        ("COMFYUI_AUTO_DOWNLOAD_MODEL", "sdxl", "expected the URI of one checkpoint"),
        ("COMFYUI_AUTO_DOWNLOAD_MODEL", "x.safetensors", "expected the URI of one checkpoint"),
        ("COMFYUI_AUTO_DOWNLOAD_MODEL", "a/b", "expected a URI"),
        ("STABLE_DIFFUSION_AUTO_DOWNLOAD_MODEL", "https://models.example/x.ckpt", "'x.ckpt' (.ckpt .pt .pth .pkl) can"),
    ],
)
def test_the_error_names_the_variable_and_not_a_manifest(variable: str, value: str, why: str) -> None:
    with pytest.raises(SettingError) as bad:
        apply({variable: value})
    assert str(bad.value).startswith(f"{variable}='{value}': {why}")


def test_another_tiers_default_is_obeyed_with_a_warning() -> None:
    events: list[Event] = []
    manifest = apply({"OLLAMA_AUTO_PULL_MODEL": "qwen2.5:0.5b"}, events)
    assert names(manifest, "ollama") == ["qwen2.5:0.5b"]
    (notice,) = events
    assert isinstance(notice, Notice)
    assert "the default of tiers 8g, 32g, while 16g is chosen" in notice.message
