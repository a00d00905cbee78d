"""Entries appended to a manifest's text, whatever its layout."""

from __future__ import annotations

import pytest

from modelfetch.core.digest import Digest
from modelfetch.manifest.load import load_bytes
from modelfetch.manifest.model import FileSpec, Model, Position
from modelfetch.manifest.uri import parse_uri
from modelfetch.pinning.append import append, new_manifest
from tests.cases import each

COMMIT = "536b0662742c02347bc0e980a01041f333bce120"
NOWHERE = Position(file="", line=0, column=0)
LORA = Model(
    name="style",
    kind="lora",
    source=parse_uri(f"hf://acme/loras@{COMMIT}/style.safetensors"),
    consumers=("stable-diffusion", "comfyui"),
    position=NOWHERE,
    size=123,
    digest=Digest.sha256(b"x"),
    license="openrail++",
)
REPO = Model(
    name="small: the repo",
    kind="snapshot",
    source=parse_uri(f"hf://acme/small@{COMMIT}"),
    consumers=("whisper",),
    position=NOWHERE,
    files=(FileSpec(path="config.json", size=2, digest=Digest.sha256(b"y")), FileSpec(path="a b.bin")),
)
FIRST = "name: a, kind: vae, source: 'hf://acme/art/a.safetensors', for: [comfyui]"
TEXTS = [
    f"version: 1\nmodels:\n  - {{{FIRST}}}\n",
    f"version: 1\nmodels:\n- {{{FIRST}}}",
    f"# head\nversion: 1\nmodels:   # mine\n    -   {{{FIRST}}}  # the first\n\n# tail\nx-end: 1\n",
    "version: 1\nmodels:\n  -\n    name: a\n    kind: vae\n    source: hf://a/b/a.sft\n    for:\n    - comfyui\n",
    "version: 1\nmodels:\n- name: a\n  kind: vae\n  for: [comfyui]\n  source: hf://a/b/c\n  x-n: |\n    x\nx-end: 1\n",
    f"version: 1\r\nmodels:\r\n- {{{FIRST}}}\r\nx-end: 1\r\n",
    "version: 1\nmodels: []\n",
    "version: 1\nmodels: []  # none yet\nx-end: 1\n",
    f"version: 1\nmodels: [{{{FIRST}}}]\n",
    f"version: 1\nmodels: [\n  {{{FIRST}}},  # the first\n  ]\nx-end: 1\n",
    f"{{version: 1, models: [{{{FIRST}}}]}}\n",
]


@each("text", TEXTS)
@each("models", [(LORA,), (REPO,), (LORA, REPO)])
def test_entries_are_appended_and_all_other_text_is_kept(text: str, models: tuple[Model, ...]) -> None:
    before = load_bytes(text.encode(), file="m.yaml")
    changed = append(text, models)
    after = load_bytes(changed.encode(), file="m.yaml")
    assert [model.name for model in after.models] == [*(m.name for m in before.models), *(m.name for m in models)]
    for found, wanted in zip(after.models[-len(models) :], models, strict=True):
        assert (found.source, found.kind, found.size, found.digest) == (
            wanted.source,
            wanted.kind,
            wanted.size,
            wanted.digest,
        )
        assert (found.files, found.license, found.consumers) == (wanted.files, wanted.license, wanted.consumers)
    kept = [line.rstrip("]}") for line in text.splitlines() if line.strip() and "[]" not in line and FIRST not in line]
    lines = iter(changed.splitlines())
    assert all(any(line.startswith(old) for line in lines) for old in kept)
    assert changed.count("\r\n") == (changed.count("\n") if "\r\n" in text else 0)


def test_a_manifest_that_only_extends_gets_a_list() -> None:
    changed = append("version: 1\nextends: ./base.yaml", (LORA,))
    assert changed.startswith("version: 1\nextends: ./base.yaml\nmodels:\n  - name: style\n")


def test_a_list_that_is_an_alias_is_left_alone() -> None:
    with pytest.raises(ValueError, match="alias"):
        append(f"version: 1\nx-list: &l [{{{FIRST}}}]\nmodels: *l\n", (LORA,))


def test_a_new_manifest_names_its_schema_and_is_valid() -> None:
    text = new_manifest((LORA, REPO), "manifest.schema.json")
    assert text.startswith(
        "# yaml-language-server: $schema=manifest.schema.json\nversion: 1\nmodels:\n  - name: style\n"
    )
    assert [model.name for model in load_bytes(text.encode(), file="m.yaml").models] == ["style", "small: the repo"]
