"""No content of a file makes a command fail with an internal error (70)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelfetch.cli.app import run
from tests.examples import any_text, examples

if TYPE_CHECKING:
    from pathlib import Path

FORESEEN = {0, 1, 2, 65, 66, 69, 73, 74, 77, 78}
MANIFEST = """\
# yaml-language-server: $schema=x
version: 1
vram: 8GiB
services:
  ollama: {vram: 4GiB, model: "tiny:1b"}
models:
  - name: a
    kind: vae
    source: hf://acme/art@536b0662742c02347bc0e980a01041f333bce120/a.safetensors
    mirrors: ["https://mirror.example/a.safetensors"]
    for: [comfyui]
  - {name: b, source: ollama://tiny:1b, for: [ollama]}
  - name: c
    kind: snapshot
    source: hf://acme/small
    files: &files
      - {path: config.json, size: 2370}
    for: [whisper]
"""
SIGNS = ["\t", ": ", "'", '"', "[", "]", "{", "}", "- ", "|", ">", "#", "~", "? ", "@", "`", "\r", "\n\n", "é", "\0"]
WORDS = ["&a ", "*a", "!!int ", "%YAML 1.1", "---\n", "\ufeff", "\u2028", "0x", ".inf", "<<: ", "9" * 400, "models:"]
PIECES = st.sampled_from([*SIGNS, *WORDS, "extends: x", "x-a: 1\n"])


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A manifest with pieces put in, taken out or doubled."""
    text = MANIFEST
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(text)))
        cut = draw(st.integers(0, 12))
        text = text[:at] + draw(PIECES | any_text(max_size=4)) + text[at + cut :]
    return text.encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("command", [["plan"], ["pin"], ["pin", "--check"], ["add", "ollama://tiny:2b", "--manifest"]])
@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=damaged() | st.binary(max_size=200))
def test_any_manifest_ends_in_success_or_a_typed_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], data: bytes
) -> None:
    monkeypatch.setenv("MODELFETCH_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "m.yaml"
    file.write_bytes(data)
    words = [*command, str(file), "--offline", "--progress", "none"]
    assert run([*words, "--root", str(tmp_path / "root")] if command == ["plan"] else words) in FORESEEN
    assert file.read_bytes() == data
