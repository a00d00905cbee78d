from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import pytest

from modelfetch.errors import ManifestError
from modelfetch.manifest.load import MAX_CHAIN
from modelfetch.tiers import discovery
from modelfetch.tiers.loader import load_manifest
from tests.cases import each
from tests.manifest.helpers import entry

GIB = 2**30
BASE = """\
version: 1
tier: 16g
vram: 16GiB
usable: 14GiB
description: the base
services:
  ollama: {vram: 4GiB, context: 4096}
  comfyui: {vram: 6GiB}
models:
  - {name: chat, source: ollama://llama3.2:3b, for: [ollama]}
  - {name: sdxl, kind: checkpoint, source: hf://a/b/sdxl.safetensors, for: [comfyui]}
  - {name: vae, kind: vae, source: hf://a/b/vae.safetensors, for: [comfyui]}
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(BASE)


def write(text: str, name: str = "mine.yaml") -> Path:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text("version: 1\n" + text)
    return Path(name)


def problems(text: str, name: str = "mine.yaml") -> list[str]:
    with pytest.raises(ManifestError) as caught:
        load_manifest(write(text, name))
    return [str(problem) for problem in caught.value.problems]


def test_an_extension_without_changes_is_the_base() -> None:
    manifest, base = load_manifest(write("extends: ./base.yaml\n")), load_manifest("base.yaml")
    assert manifest.models == base.models
    assert manifest.services == base.services
    assert (manifest.tier, manifest.vram, manifest.usable, manifest.description) == (
        "16g",
        16 * GIB,
        14 * GIB,
        "the base",
    )
    assert (manifest.file, manifest.files) == ("mine.yaml", ("mine.yaml", "base.yaml"))
    assert [model.position.file for model in manifest.models] == ["base.yaml"] * 3


def test_models_are_added_replaced_in_place_and_dropped() -> None:
    manifest = load_manifest(
        write(
            "extends: base.yaml\ndrop: [vae]\nmodels:\n"
            + entry("new", kind="lora", source="hf://a/b/l.safetensors", _for="[comfyui]")
            + entry("chat", source="ollama://qwen2.5:0.5b", _for="[ollama]")
        )
    )
    assert [(model.name, str(model.source)) for model in manifest.models] == [
        ("chat", "ollama://qwen2.5:0.5b"),
        ("sdxl", "hf://a/b/sdxl.safetensors"),
        ("new", "hf://a/b/l.safetensors"),
    ]
    assert str(manifest.models[0].position) == "mine.yaml:6:5"


def test_services_are_added_replaced_whole_and_dropped() -> None:
    manifest = load_manifest(
        write("extends: base.yaml\ndrop: [comfyui]\nservices: {ollama: {vram: 5GiB}, whisper: {vram: 2GiB}}\n")
    )
    assert [(s.name, s.vram, s.context) for s in manifest.services] == [
        ("ollama", 5 * GIB, None),
        ("whisper", 2 * GIB, None),
    ]


def test_a_dropped_model_may_be_added_again() -> None:
    manifest = load_manifest(
        write("extends: base.yaml\ndrop: [chat]\nmodels:\n" + entry("chat", source="ollama://x", _for="[ollama]"))
    )
    assert [model.name for model in manifest.models] == ["sdxl", "vae", "chat"]


def test_other_keys_are_the_nearest_ones() -> None:
    manifest = load_manifest(write("extends: base.yaml\ntier: mine\ndescription: my own\n"))
    assert (manifest.tier, manifest.description, manifest.usable) == ("mine", "my own", 14 * GIB)


def test_another_card_replaces_the_usable_memory_of_the_base() -> None:
    assert load_manifest(write("extends: base.yaml\nvram: 32GiB\n")).usable == int(30.9 * GIB)
    assert load_manifest(write("extends: base.yaml\nusable: 15GiB\n")).usable == 15 * GIB
    manifest = load_manifest(write("extends: base.yaml\nvram: 32GiB\nusable: 20GiB\n"))
    assert (manifest.vram, manifest.usable) == (32 * GIB, 20 * GIB)


def test_the_budget_is_checked_for_the_merged_manifest() -> None:
    assert problems("extends: base.yaml\nservices: {whisper: {vram: 5GiB}}\n")[0].startswith(
        "mine.yaml:3:1: services: expected at most 14.00 GiB"
    )
    assert problems("extends: base.yaml\nvram: 8GiB\n")[0].startswith(
        "base.yaml:6:1: services: expected at most 7.50 GiB"
    )
    Path("base.yaml").write_text(BASE.replace("6GiB", "60GiB"))
    load_manifest(write("extends: base.yaml\nservices: {comfyui: {vram: 1GiB}}\n"))


def test_path_conflicts_are_found_in_the_merged_manifest() -> None:
    (message,) = problems(
        "extends: base.yaml\nmodels:\n" + entry("x", kind="vae", source="hf://c/d/vae.safetensors", _for="[comfyui]")
    )
    assert message.startswith("mine.yaml:4:5: x: expected an unused path, found 'comfyui/models/vae/vae.safetensors'")
    assert message.endswith("which is already taken (vae, base.yaml:12:5)")
    load_manifest(
        write(
            "extends: base.yaml\ndrop: [vae]\nmodels:\n"
            + entry("x", kind="vae", source="hf://c/d/vae.safetensors", _for="[comfyui]")
        )
    )


def test_the_same_file_at_one_path_is_a_conflict_in_the_merged_manifest() -> None:
    assert problems(
        "extends: base.yaml\nmodels:\n" + entry("x", kind="vae", source="hf://a/b/vae.safetensors", _for="[comfyui]")
    )


def test_each_problem_names_the_file_that_it_is_in() -> None:
    Path("base.yaml").write_text(BASE.replace("for: [ollama]", "for: [olama]").replace("tier: 16g", "teir: 16g"))
    assert [line.split(": ")[0] for line in problems("extends: base.yaml\nfoo: 1\ndrop: [nothing]\n")] == [
        "base.yaml:2:1",
        "base.yaml:10:54",
        "mine.yaml:3:1",
        "mine.yaml:4:8",
    ]


def test_dropping_a_name_that_the_base_lacks_is_refused() -> None:
    assert problems("extends: base.yaml\ndrop: [vea]\n") == [
        "mine.yaml:3:8: drop: expected a model or service of what is extended, found 'vea'; did you mean 'vae'?"
    ]
    assert problems("drop: [x]\nmodels: []\n") == [
        "mine.yaml:2:1: drop: only a manifest that extends another can drop models"
    ]


def test_names_are_not_checked_when_the_base_is_unreadable() -> None:
    Path("base.yaml").write_text("version: [")
    (message,) = problems("extends: base.yaml\ndrop: [vae]\n")
    assert message.startswith("base.yaml:1:")
    (message,) = problems("extends: ./missing.yaml\ndrop: [vae]\n")
    assert message == "mine.yaml:2:1: extends: missing.yaml: no such file"


@pytest.mark.parametrize(
    ("extends", "found"),
    [
        ("base", None),
        ("base.yaml", "base.yaml"),
        ("./base.yaml", "base.yaml"),
        ("../base.yaml", "../base.yaml"),
        ("sub/b.yml", "sub/b.yml"),
    ],
)
def test_a_path_is_relative_to_the_file_that_names_it(tmp_path: Path, extends: str, found: str | None) -> None:
    write("models: []\n", "deep/sub/b.yml")
    write("models: []\n", "deep/base.yaml")
    file = write(f"extends: {extends}\n", "deep/mine.yaml")
    if found is None:
        with pytest.raises(ManifestError, match=r"\(\./base\.yaml\), found the unknown 'base'"):
            load_manifest(file)
    else:
        assert load_manifest(file).files == ("deep/mine.yaml", str(Path("deep") / found))
        assert load_manifest(tmp_path / file).files[1] == str(tmp_path / "deep" / found)


@each(
    "extends",
    [
        "/base.yaml",
        "/etc/passwd",
        "''",
        "1",
        "[base.yaml]",
        "~",
        '"a\\0b.yaml"',
        "nowhere/base.yaml",
        ".",
        "..",
        "./",
        "x" * 2000,
    ],
)
def test_extends_refuses_anything_but_a_name_or_a_relative_path(extends: str) -> None:
    (message,) = problems(f"extends: {extends}\n")
    assert message.startswith("mine.yaml:2:")
    assert "extends" in message


def test_a_tier_is_extended_by_name() -> None:
    text = "version: 1\nextends: 16g\n"
    asked: list[str] = []

    def find(name: str, *, behind: Path | None) -> Path | None:
        assert behind is None
        asked.append(name)
        return Path("base.yaml")

    assert len(load_manifest(text, find_tier=find).models) == 3
    assert asked == ["16g"]
    write("models: []\n", "manifests/own.yaml")
    assert load_manifest("version: 1\nextends: own\n").files == ("<text>", "manifests/own.yaml")
    write("models: []\n", "manifests/7g.yaml")
    for spelling in ("7g", "'7'", "7GB", "7 GiB"):
        assert load_manifest(f"version: 1\nextends: {spelling}\n").files == ("<text>", "manifests/7g.yaml")


def test_a_tier_may_extend_the_one_of_its_name_that_it_hides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / "16g.yaml").write_text(BASE)
    monkeypatch.setattr(discovery, "shipped_dir", lambda: tmp_path / "shipped")
    env = partial(discovery.find_tier, tiers_dir=tmp_path / "env")
    shipped = str(tmp_path / "shipped" / "16g.yaml")

    own = write("extends: 16g\ndrop: [vae]\n", "manifests/16g.yaml")
    manifest = load_manifest(own)
    assert [model.name for model in manifest.models] == ["chat", "sdxl"]
    assert manifest.files == ("manifests/16g.yaml", shipped)
    assert load_manifest(own.resolve()).files[1] == shipped

    first = write("extends: 16g\ndrop: [sdxl]\n", str(tmp_path / "env/16g.yaml"))
    assert load_manifest(first, find_tier=env).files == (str(first), "manifests/16g.yaml", shipped)
    assert load_manifest(own, find_tier=env).files == ("manifests/16g.yaml", shipped)
    elsewhere = write("extends: 16g\n", "elsewhere/16g.yaml")
    assert load_manifest(elsewhere, find_tier=env).files[1] == str(first)


def test_a_tier_that_extends_its_own_name_needs_another_of_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "shipped_dir", lambda: Path("manifests"))
    (message,) = problems("extends: 16g\n", "manifests/16g.yaml")
    assert message.startswith("manifests/16g.yaml:2:1: extends: expected a tier's name or a relative path (./16g.yaml)")
    assert message.endswith("found '16g', of which this file is the last")
    write("extends: 16g\n", "manifests/mine.yaml")
    assert "circular `extends`: " in problems("extends: mine\n", "manifests/16g.yaml")[0]


def test_circular_extends_is_refused() -> None:
    (message,) = problems("extends: ./mine.yaml\n")
    assert message == "mine.yaml:2:1: circular `extends`: mine.yaml → mine.yaml"
    write("extends: c.yaml\n", "b.yaml")
    write("extends: mine.yaml\n", "c.yaml")
    assert problems("extends: b.yaml\n") == ["c.yaml:2:1: circular `extends`: mine.yaml → b.yaml → c.yaml → mine.yaml"]
    Path("again.yaml").symlink_to("mine.yaml")
    assert "circular `extends`: " in problems("extends: again.yaml\n")[0]


def test_the_length_of_an_extends_chain_is_limited() -> None:
    write("models: []\n", "t0.yaml")
    for i in range(1, 12):
        write(f"extends: t{i - 1}.yaml\n", f"t{i}.yaml")
    assert len(load_manifest(f"t{MAX_CHAIN - 1}.yaml").files) == MAX_CHAIN
    with pytest.raises(ManifestError, match="at most 8 files that extend each other"):
        load_manifest(f"t{MAX_CHAIN}.yaml")


def test_the_hash_covers_every_file_in_order() -> None:
    file = write("extends: base.yaml\n")
    before = load_manifest(file).sha256
    digests = b"".join(hashlib.sha256(Path(name).read_bytes()).digest() for name in ("mine.yaml", "base.yaml"))
    assert before == hashlib.sha256(digests).hexdigest()
    Path("base.yaml").write_text(BASE + "# one more\n")
    assert load_manifest(file).sha256 != before


def test_plain_http_of_a_base_is_judged_as_well() -> None:
    Path("base.yaml").write_text(BASE.replace("hf://a/b/vae.safetensors", "http://nas/vae.safetensors"))
    assert "base.yaml:12:" in problems("extends: base.yaml\n")[0]
    load_manifest("mine.yaml", allow_http=lambda host, port: (host, port) == ("nas", 80))
