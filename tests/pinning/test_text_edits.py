"""Layouts that people write by hand: pinned in place, or refused with the text left alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from modelfetch.config.settings import Settings
from modelfetch.core.digest import Digest
from modelfetch.errors import SettingError
from modelfetch.manifest.load import load_bytes
from modelfetch.manifest.model import FileSpec, Model
from modelfetch.manifest.uri import HfUri
from modelfetch.pinning.document import Document, with_pins
from modelfetch.pinning.entry import at_commit
from tests.cases import each

if TYPE_CHECKING:
    from collections.abc import Callable

FILE = Path("tier.yaml")
COMMIT = "c" * 40
DIGEST = Digest("sha256", "d" * 64)
FILES = (FileSpec(path="a.json", size=1, digest=DIGEST), FileSpec(path="b, c.bin", size=2, digest=DIGEST))
PINS = f"size: 5, digest: {DIGEST}"


def pinned(model: Model) -> Model:
    """The same pins for every model."""
    assert isinstance(model.source, HfUri)
    source = at_commit(model.source, model.source, COMMIT)
    if model.kind != "snapshot":
        return replace(model, source=source, size=5, digest=DIGEST)
    if model.files is not None:
        return replace(model, source=source, files=tuple(replace(f, size=5, digest=DIGEST) for f in model.files))
    return replace(model, source=source, files=FILES, include=None)


def pin(text: str, how: Callable[[Model], Model] = pinned) -> str:
    manifest = load_bytes(text.encode(), file=str(FILE))
    document = Document(path=FILE, data=text.encode(), manifest=manifest)
    return with_pins(document, {model.name: how(model) for model in manifest.models}, Settings()).decode()


def vae(rest: str) -> str:
    return f"version: 1\nmodels:\n{rest}"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(
            "- {\n    name: v, kind: vae, for: [comfyui],\n    source: hf://a/b/v.st\n  }\n",
            f"- {{\n    name: v, kind: vae, for: [comfyui],\n    source: hf://a/b@{COMMIT}/v.st,\n"
            f"    size: 5,\n    digest: {DIGEST}\n  }}\n",
            id="the last line of braces gets its comma",
        ),
        pytest.param(
            "- {\n    source: hf://a/b/v.st , # here\n    name: v, kind: vae, for: [comfyui]\n  }\n",
            f"- {{\n    source: hf://a/b@{COMMIT}/v.st , # here\n    size: 5,\n    digest: {DIGEST},\n"
            "    name: v, kind: vae, for: [comfyui]\n  }\n",
            id="a comment behind the comma stays on its line",
        ),
        pytest.param(
            "- {name: v, source: hf://a/b/v.st,\n   kind: vae, for: [comfyui]}",
            f"- {{name: v, source: hf://a/b@{COMMIT}/v.st, {PINS},\n   kind: vae, for: [comfyui]}}",
            id="a line that several keys share gets them on it",
        ),
        pytest.param(
            "-\n   name: v\n   kind: vae\n   for: [comfyui]\n   source:\n      hf://a/b/v.st\n",
            f"-\n   name: v\n   kind: vae\n   for: [comfyui]\n   source:\n      hf://a/b@{COMMIT}/v.st\n"
            f"   size: 5\n   digest: {DIGEST}\n",
            id="a value below its key",
        ),
        pytest.param(
            "- name: v\n  kind: vae\n  for: [comfyui]\n  source: &s hf://a/b/v.st\n",
            f"- name: v\n  kind: vae\n  for: [comfyui]\n  source: &s hf://a/b@{COMMIT}/v.st\n"
            f"  size: 5\n  digest: {DIGEST}\n",
            id="an anchor stays",
        ),
        pytest.param(
            "- &v\n  name: v\n  kind: vae\n  for: [comfyui]\n  source: hf://a/b/v.st\nx-same: *v\n",
            f"- &v\n  name: v\n  kind: vae\n  for: [comfyui]\n  source: hf://a/b@{COMMIT}/v.st\n"
            f"  size: 5\n  digest: {DIGEST}\nx-same: *v\n",
            id="an entry that is named elsewhere",
        ),
        pytest.param(
            "- name: v\n  kind: vae\n  for: [comfyui]\n  source: *s\n",
            f"- name: v\n  kind: vae\n  for: [comfyui]\n  source: hf://a/b@{COMMIT}/v.st\n"
            f"  size: 5\n  digest: {DIGEST}\n",
            id="an alias is written out",
        ),
        pytest.param(
            '- "name": v\n  "kind": vae\n  "for": [comfyui]\n  "source": "hf://a/b/v\\u002est"\n',
            f'- "name": v\n  "kind": vae\n  "for": [comfyui]\n  "source": "hf://a/b@{COMMIT}/v\\u002est"\n'.replace(
                "\\u002e", "."
            )
            + f'  "size": 5\n  "digest": "{DIGEST}"\n',
            id="keys in quotes beget keys in quotes",
        ),
        pytest.param(
            "- name: v\n  kind: vae\n  for: [comfyui]\n  size: 6g\n  digest: 'blake3:" + "0" * 64 + "'\n"
            "  source: hf://a/b/v.st",
            f"- name: v\n  kind: vae\n  for: [comfyui]\n  size: 5\n  digest: '{DIGEST}'\n  source: hf://a/b@{COMMIT}/v.st",
            id="other pins are replaced where they stand",
        ),
        pytest.param(
            "- {name: v, kind: snapshot, for: [whisper], include: ['*.json' , b*], source: hf://a/b}\n",
            f"- {{name: v, kind: snapshot, for: [whisper], files: [{{path: a.json, size: 1, digest: {DIGEST}}}, "
            f'{{path: "b, c.bin", size: 2, digest: {DIGEST}}}], source: hf://a/b@{COMMIT}}}\n',
            id="globs in braces",
        ),
        pytest.param(
            "- {\n    name: v, kind: snapshot, for: [whisper],\n    include: [ # some\n      '*.json', # one\n"
            "      b*\n    ], # all\n    source: hf://a/b\n  }\n",
            "- {\n    name: v, kind: snapshot, for: [whisper],\n    files: [\n      # some\n      # one\n"
            f"      {{path: a.json, size: 1, digest: {DIGEST}}},\n"
            f'      {{path: "b, c.bin", size: 2, digest: {DIGEST}}}\n    ], # all\n'
            f"    source: hf://a/b@{COMMIT}\n  }}\n",
            id="globs in brackets over several lines, with their comments",
        ),
        pytest.param(
            "- include: &g [a.json]  # which\n  name: v\n  kind: snapshot\n  source: hf://a/b\n  for: [whisper]\n",
            f"- files:  # which\n  - {{path: a.json, size: 1, digest: {DIGEST}}}\n"
            f'  - {{path: "b, c.bin", size: 2, digest: {DIGEST}}}\n'
            f"  name: v\n  kind: snapshot\n  source: hf://a/b@{COMMIT}\n  for: [whisper]\n",
            id="globs as the first key, whose anchor nobody uses",
        ),
    ],
)
def test_the_pins_are_written_as_the_entry_is(before: str, after: str) -> None:
    head = "x-s: &s hf://a/b/v.st\n" if "*s" in before else ""
    assert pin(head + vae(before)) == head + vae(after)


def test_block_style_entries_get_block_style_files() -> None:
    known = "- name: k\n  kind: snapshot\n  source: hf://a/k\n  for: [whisper]\n  files:\n    - path: x\n      # mid\n"
    text = vae(known + "- name: v\n  kind: snapshot\n  source: hf://a/b\n  for: [whisper]\n")
    known = known.replace("a/k", f"a/k@{COMMIT}").replace(
        "path: x\n", f"path: x\n      size: 5\n      digest: {DIGEST}\n"
    )
    assert pin(text) == vae(
        known + f"- name: v\n  kind: snapshot\n  source: hf://a/b@{COMMIT}\n"
        f"  files:\n  - path: a.json\n    size: 1\n    digest: {DIGEST}\n"
        f'  - path: "b, c.bin"\n    size: 2\n    digest: {DIGEST}\n  for: [whisper]\n'
    )


def test_a_list_shared_by_an_alias_is_pinned_once_if_its_entries_agree() -> None:
    text = (
        "version: 1\nx-files: &f\n- path: x\nmodels:\n"
        "- {name: v, kind: snapshot, source: hf://a/b, files: *f, for: [whisper]}\n"
        "- {name: w, kind: snapshot, source: hf://a/c, files: *f, for: [whisper]}\n"
    )
    new = pin(text)
    assert f"- path: x\n  size: 5\n  digest: {DIGEST}\nmodels:" in new
    assert new.count("digest") == 1

    def each_its_own(model: Model) -> Model:
        files = (FileSpec(path="x", size=5, digest=Digest.sha256(model.name.encode())),)
        return replace(pinned(model), files=files)

    with pytest.raises(SettingError, match="share by an alias"):
        pin(text, each_its_own)


@each(
    "text",
    [
        vae("- name: v\n  kind: vae\n  for: [comfyui]\n  source: >-\n    hf://a/b/v.st\n"),
        vae("- name: v\n  kind: vae\n  for: [comfyui]\n  source: |-\n    hf://a/b/v.st\n"),
        vae("- ? name\n  : v\n  ? kind\n  : vae\n  ? for\n  : [comfyui]\n  ? source\n  : hf://a/b/v.st\n"),
        vae("- {name: v, kind: snapshot, source: hf://a/b, files: [path: x], for: [whisper]}\n"),
        vae("- {name: v, kind: snapshot, source: hf://a/b, include: &i [x], for: [whisper]}\nx-i: *i\n"),
        vae("- {name: v, kind: vae, source: &s hf://a/b/v.st, mirrors: [*s], for: [comfyui]}\n"),
    ],
)
def test_a_file_that_needs_other_edits_too_is_not_pinned(text: str) -> None:
    with pytest.raises(SettingError, match="the pins can't be written") as caught:
        pin(text)
    assert (caught.value.code, caught.value.exit_code) == ("invalid-manifest", 78)
    assert "is unchanged" in (caught.value.hint or "")


def test_directives_and_document_markers_are_kept() -> None:
    entry = "- name: v\n  kind: vae\n  for: [comfyui]\n  source: hf://a/b/v.st"
    pins = f"\n  size: 5\n  digest: {DIGEST}"
    text = f"# top\n%YAML 1.2\n--- # begin\n{vae(entry)}\n...\n# after\n"
    assert pin(text) == text.replace("a/b/", f"a/b@{COMMIT}/").replace("v.st", f"v.st{pins}")


def test_the_text_is_unchanged_without_new_pins() -> None:
    text = vae("- {name: v, kind: vae, source: hf://a/b/v.st, for: [comfyui]}\n")
    assert pin(text, lambda model: model) == text
