"""The guide to your own tier: its examples are valid and fit; errors name a line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from modelfetch.cli.app import run
from modelfetch.demo.hub import Hub
from modelfetch.manifest.load import load_manifest
from modelfetch.tiers.discovery import find_tier
from tests.cases import THOROUGH
from tests.fitting.world import shipped, tier_world

if TYPE_CHECKING:
    from modelfetch.manifest.model import Manifest

GUIDE = Path(__file__).parent.parent.parent / "docs/guides/own-tier.md"
EXAMPLES: dict[str, str] = {
    re.findall(r"^tier: (\S+)$", text, re.MULTILINE)[0]: text
    for text in re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL)
}


def load(name: str) -> Manifest:
    return load_manifest(EXAMPLES[name], find_tier=find_tier)


def test_the_guide_has_both_examples() -> None:
    assert set(EXAMPLES) == {"studio", "94g-open"}


def test_the_studio_example_adds_replaces_and_drops_models() -> None:
    own, base = load("studio"), shipped("16g")
    names = {model.name for model in own.models}
    assert names - {model.name for model in base.models} == {"mistral-7b", "watercolour"}
    dropped = {model.name for model in base.models} - names
    assert dropped == {"llama3.2-3b", *(m.name for m in base.models if "diffrhythm" in m.consumers)}
    vae = {model.name: model for model in own.models}["sdxl-vae-fp16-fix"]
    assert (vae.consumers, vae.filename) == (("comfyui",), None)
    assert (own.vram, own.usable) == (base.vram, base.usable)
    assert {s.name for s in own.services} == {s.name for s in base.services}
    assert next(s for s in own.services if s.name == "ollama").model == "mistral:7b"


def test_the_open_example_has_no_gated_model_and_more_memory_for_ollama() -> None:
    own = load("94g-open")
    assert not any("black-forest-labs" in str(model.source) for model in own.models)
    comfyui = {s.name: s.vram or 0 for s in own.services}["comfyui"]
    assert comfyui + 11 * 2**30 == {s.name: s.vram for s in shipped("94g").services}["comfyui"]


@THOROUGH
@pytest.mark.parametrize("name", ["studio", "94g-open"])
def test_an_example_fits_its_budgets(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / f"{name}.yaml").write_text(EXAMPLES[name])
    monkeypatch.chdir(tmp_path)
    own = load(name)
    with Hub(tier_world(own)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("MODELFETCH_OLLAMA_REGISTRY", hub.ollama)
        code = run(["fit", "--tier", name, "--json"])
        report = json.loads(capsys.readouterr().out)
        assert (code, report["errors"]) == (0, [])
        assert report["tier"] == name
        if name == "94g-open":
            longer = EXAMPLES[name].replace(
                "services:\n",
                'services:\n  ollama: {vram: 55.5GiB, model: "llama3.1:70b", context: 32768, flash_attention: true}\n',
            )
            (tmp_path / "longer.yaml").write_text(longer)
            assert run(["fit", "--manifest", "longer.yaml", "--json"]) == 0


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("extends: 16g\ndrop: [sdxl-bass]\n", 3, "did you mean 'sdxl-base'"),
        ("extends: 15g\n", 2, "15g"),
        ("extends: 16g\nservices: {ollama: {vram: 9GiB}}\n", 3, "too much"),
        ("extends: ./own.yaml\n", 2, "extends"),
        (
            "extends: 16g\nmodels: [{name: x, kind: lora, source: 'hf://a/b/x.safetensors', for: [whisper]}]\n",
            3,
            "whisper",
        ),
    ],
)
def test_an_invalid_own_tier_is_78_with_its_line(
    text: str, line: int, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.yaml").write_text("version: 1\n" + text)
    monkeypatch.chdir(tmp_path)
    for command in ("fit", "env", "status"):
        assert run([command, "--manifest", "own.yaml"]) == 78
        err = capsys.readouterr().err
        assert f"error: own.yaml:{line}:" in err, err
        assert why in err


def test_a_tier_has_the_name_of_its_file_whatever_it_extends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "nameless.yaml").write_text("version: 1\nextends: 8g\n")
    monkeypatch.chdir(tmp_path)
    for words in (["status"], ["fit", "--offline"]):
        run([*words, "--tier", "nameless", "--json"])
        assert json.loads(capsys.readouterr().out)["tier"] == "nameless"
    monkeypatch.setenv("OLLAMA_AUTO_PULL_MODEL", "llama3.2:3b")
    run(["status", "--tier", "nameless"])
    assert "the default of tiers 12g, 16g, while nameless is chosen" in capsys.readouterr().err
