from __future__ import annotations

import re
from pathlib import Path

import pytest

from modelfetch.core.root import CONSUMERS
from modelfetch.manifest.kinds import FOLDERS, KINDS
from modelfetch.manifest.load import load_manifest
from modelfetch.manifest.schema import FILE, MANIFEST, MODEL, SERVICE
from tests.cases import each

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "manifest.md").read_text(encoding="utf-8")
FULL, EXTENDING = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def table(heading: str) -> dict[str, list[str]]:
    """The first table below a heading: first cell (without backticks) to the others."""
    (section,) = re.findall(rf"^##+ {heading}\n(.*?)(?=^#)", PAGE + "\n#", re.DOTALL | re.MULTILINE)
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return {row[0].strip().strip("`"): [cell.strip() for cell in row[1:]] for row in rows[2:]}


def test_the_full_example_is_valid() -> None:
    manifest = load_manifest(FULL)
    assert {consumer for model in manifest.models for consumer in model.consumers} < set(CONSUMERS)


def test_the_documented_extends_example_is_valid_and_works_as_described(tmp_path: Path) -> None:
    base = tmp_path / "16g.yaml"
    base.write_text(FULL, encoding="utf-8")
    manifest = load_manifest(EXTENDING, find_tier=lambda name, **_: base if name == "16g" else None)
    assert [model.name for model in manifest.models] == ["llama3.2-3b", "sdxl-base", "faster-whisper-small", "vae"]
    assert str(manifest.models[0].source) == "ollama://qwen2.5:0.5b"
    assert [(service.name, service.context) for service in manifest.services] == [
        ("ollama", 8192),
        ("stable-diffusion", None),
    ]
    assert (manifest.tier, manifest.description) == ("mine", "Balanced: a 3B chat model beside SDXL")


@each(
    ("heading", "keys"),
    [
        ("Keys", {*MANIFEST.keys, "x-…"}),
        ("Services", set(SERVICE.keys)),
        ("Models", set(MODEL.keys)),
        ("Files", set(FILE.keys)),
    ],
)
def test_every_key_has_its_row(heading: str, keys: set[str]) -> None:
    assert set(table(heading)) == keys


def test_the_table_of_kinds_is_the_codes() -> None:
    order = ("stable-diffusion", "comfyui", "whisper", "diffrhythm", "immich", "ollama")
    rows = table("Kinds and consumers")
    assert list(rows) == [*KINDS, "none (`ollama://`)"]
    for kind in KINDS:
        for consumer, cell in zip(order, rows[kind], strict=True):
            folder = FOLDERS.get((consumer, kind))
            shown = {None: "\N{EN DASH}", "": "."}.get(folder, folder)
            if folder == "" and kind in ("file", "immich-model"):
                shown = {"file": "PATH", "immich-model": "TASK"}[kind]
            assert cell.removesuffix(" (cache)").removesuffix("/NAME") == shown, (kind, consumer)


def test_every_link_inside_the_page_has_a_target() -> None:
    headings = {
        re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)
    }
    anchors = headings | set(re.findall(r'<a id="([^"]+)">', PAGE))
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= anchors


@pytest.mark.parametrize(
    "file", sorted((Path(__file__).parents[2] / "manifests").glob("*.yaml")), ids=lambda file: file.name
)
def test_each_shipped_manifest_is_valid_and_names_the_schema_for_editors(file: Path) -> None:
    assert load_manifest(file).tier == file.stem
    (schema,) = re.findall(r"^# yaml-language-server: \$schema=(\S+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    assert (file.parent / schema).resolve().name == "manifest.schema.json"
    assert (file.parent / schema).is_file()
