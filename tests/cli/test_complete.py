"""What the shell completes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.shell_completion import ShellComplete

from modelfetch.cli.app import cli, run
from modelfetch.core.root import CONSUMERS
from modelfetch.demo import models as made
from tests.cases import each

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = """version: 1
models:
  - {name: small, kind: lora, source: "file:///%s", for: [comfyui]}
  - {name: other, kind: lora, source: "hf://a/b/x.safetensors", for: [comfyui]}
"""


def completed(*words: str) -> list[tuple[str, str]]:
    *before, incomplete = words
    found = ShellComplete(cli, {}, "modelfetch", "_X").get_completions(before, incomplete)
    return [(item.type, item.value) for item in found]


def names(*words: str) -> list[str]:
    return [value for kind, value in completed(*words) if kind == "plain"]


@pytest.fixture(autouse=True)
def _manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.yaml").write_text(MANIFEST % "nowhere")


def test_tiers_services_and_kinds_are_completed() -> None:
    assert {"16g", "16g-2026", "12g"} == set(names("sync", "--tier", "1")) - {"12g-2026"}
    assert "auto" in names("remove", "x", "--keep-tier", "a")
    assert names("sync", "--for", "c") == ["comfyui"]
    assert names("sync", "--for", "whisper,c") == names("add", "x", "--for", "whisper,c") == ["whisper,comfyui"]
    assert names("snyc", "--for", "w") == []
    assert names("add", "x", "--for", "") == list(CONSUMERS)
    assert "lora" in names("add", "x", "--kind", "l")


@each(
    ("words", "kind"),
    [
        (["sync", "m"], "file"),
        (["plan", "--manifest", "m"], "file"),
        (["fit", "m"], "file"),
        (["validate", "m"], "file"),
        (["pin", "m"], "file"),
        (["fetch", "x", "-o", "m"], "file"),
        (["sync", "--root", "m"], "dir"),
        (["sync", "--store", "m"], "dir"),
        (["adopt", "m"], "dir"),
    ],
)
def test_files_and_folders_are_left_to_the_shell(words: list[str], kind: str) -> None:
    assert completed(*words) == [(kind, "m")]


def test_models_are_those_of_the_manifest_or_of_the_receipts(tmp_path: Path) -> None:
    assert names("pin", "m.yaml", "--upgrade", "s") == ["small"]
    assert names("pin", "nowhere.yaml", "--upgrade", "s") == []
    assert names("remove", "--root", "root", "") == []
    file = tmp_path / "x.safetensors"
    file.write_bytes(bytes(made.lora().read(0, made.lora().size)))
    entry = {"name": "ink", "kind": "lora", "source": file.as_uri(), "for": ["comfyui"]}
    (tmp_path / "here.yaml").write_text(json.dumps({"version": 1, "models": [entry]}))
    assert run(["sync", "here.yaml", "--root", "root", "-q"]) == 0
    assert names("remove", "--root", "root", "") == names("verify", "--root", "root", "--model", "i") == ["ink"]
    (tmp_path / "root/.modelfetch/receipts/comfyui.json").write_text("{")
    assert names("remove", "--root", "root", "") == []
