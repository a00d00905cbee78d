"""Status names every path that differs from what modelfetch placed, by stat alone."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.cli.app import run
from modelfetch.demo import models as made
from tests.cases import first

if TYPE_CHECKING:
    from pathlib import Path

    from tests.pipeline.conftest import Bench


def whisper(bench: Bench) -> dict[str, Any]:
    bench.world.hf_repo("a/w", made.faster_whisper())
    return {"name": "w", "kind": "snapshot", "source": "hf://a/w", "for": ["whisper"]}


def vae(bench: Bench) -> dict[str, Any]:
    bench.world.hf_repo("a/b", {"x.safetensors": made.vae()})
    return {"name": "v", "kind": "vae", "source": "hf://a/b/x.safetensors", "for": ["comfyui", "stable-diffusion"]}


def ollama(bench: Bench) -> dict[str, Any]:
    bench.world.ollama_model("llama3.2:1b", made.ollama_layers(), config=made.ollama_config())
    return {"name": "o", "source": "ollama://llama3.2:1b", "for": ["ollama"]}


def archive(bench: Bench) -> dict[str, Any]:
    bench.world.file("punkt.zip", made.nltk_punkt())
    url = f"{bench.hub.files}punkt.zip"
    return {"name": "z", "kind": "file", "path": "nltk_data", "unpack": "zip", "source": url, "for": ["whisper"]}


def formats(bench: Bench, manifest: Path) -> dict[str, str]:
    found = {}
    for form in ("table", "json", "prom"):
        run(["status", "--manifest", str(manifest), "--root", str(bench.root), "--format", form])
        found[form] = bench.capsys.readouterr().out
    return found


def touch(path: Path) -> None:
    found = path.stat()
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 10**9))


@pytest.mark.parametrize("inside", ["refs/main", "snapshots/*/config.json"])
def test_a_changed_path_is_named_in_every_format(bench: Bench, inside: str) -> None:
    manifest = bench.manifest(whisper(bench))
    assert bench.run("sync", manifest).code == 0
    (path,) = bench.root.glob(f"whisper/hub/models--a--w/{inside}")
    path = path.resolve()
    path.chmod(0o644)
    path.write_text("something else")
    assert bench.run("status", manifest).code == 1
    name = str(path.relative_to(bench.root.resolve()))
    for form, text in formats(bench, manifest).items():
        assert name in text, form
    lines = [a for a in bench.run("status", manifest).report["models"][0]["artifacts"] if a["action"] == "changed"]
    assert name in [path for line in lines for path in line["placements"]]


@pytest.mark.parametrize("entry", first(1, [whisper, vae, ollama]))
@pytest.mark.parametrize("top", first(1, [{"description": "edited"}, {"tier": "other"}]))
def test_an_edit_that_does_not_concern_a_model_leaves_its_state(bench: Bench, entry: Any, top: dict[str, str]) -> None:
    model = entry(bench)
    before = bench.manifest(model)
    assert bench.run("sync", before).code == 0
    first = bench.run("status", before).report["models"]
    manifest = bench.manifest(model, **top)
    for command, *options in (["status"], ["verify"], ["plan", "--offline"]):
        found = bench.run(command, manifest, *options)
        assert found.code == 0, command
        assert {a["action"] for m in found.report["models"] for a in m["artifacts"]} == {"present"}, command
    assert bench.run("status", manifest).report["models"] == first
    removed = bench.run("prune", manifest, "--dry-run").report["models"]
    assert [a for m in removed for a in m["artifacts"] if a["action"] == "would-remove"] == []
    synced = bench.run("sync", manifest, "--offline")
    assert (synced.code, synced.report["requests"]) == (0, 0)
    changed = bench.manifest({**model, "source": model["source"] + "x"}, **top)
    assert bench.run("status", changed).code == 1
    assert bench.run("sync", changed, "--offline").code == 69


def test_each_path_that_disappeared_is_named_in_every_format(bench: Bench) -> None:
    manifest = bench.manifest(whisper(bench), vae(bench), ollama(bench), archive(bench))
    assert bench.run("sync", manifest).code == 0
    gone = [
        "whisper/hub/models--a--w/refs/main",
        "whisper/hub/models--a--w/snapshots/*/config.json",
        "whisper/hub/models--a--w/blobs/*",
        "comfyui/models/vae/x.safetensors",
        "whisper/nltk_data/punkt_tab/README",
        "ollama/models/manifests/registry.ollama.ai/library/llama3.2/1b",
    ]
    paths = [min(bench.root.glob(pattern)) for pattern in gone]
    for path in paths:
        path.unlink()
    for form, text in formats(bench, manifest).items():
        assert [path for path in paths if str(path.relative_to(bench.root)) not in text] == [], form


@pytest.mark.parametrize("member", ["README", "english/ortho_context.tab"])
def test_a_changed_file_of_an_archive_is_named_in_every_format(bench: Bench, member: str) -> None:
    manifest = bench.manifest(archive(bench))
    assert bench.run("sync", manifest).code == 0
    path = bench.root / "whisper/nltk_data/punkt_tab" / member
    path.write_text("changed")
    name = str(path.relative_to(bench.root))
    for form, text in formats(bench, manifest).items():
        assert name in text, form
    (line,) = bench.run("status", manifest).report["models"][0]["artifacts"]
    assert (line["action"], line["placements"]) == ("changed", [name])


@pytest.mark.parametrize("as_link", first(1, [True, False]))
def test_one_sync_accepts_the_same_bytes_in_another_file_or_behind_a_link(bench: Bench, as_link: bool) -> None:
    manifest = bench.manifest(whisper(bench), archive(bench))
    assert bench.run("sync", manifest).code == 0
    links = {path for path in bench.root.rglob("snapshots/*/*") if path.is_symlink()}
    replaced = [
        next(path for path in links if path.name == "config.json"),
        bench.root / "whisper/nltk_data/punkt_tab/README",
    ]
    for path in replaced:
        data = path.read_bytes()
        path.unlink()
        (path.with_name("other") if as_link else path).write_bytes(data)
        if as_link:
            path.symlink_to("other")
    assert bench.run("status", manifest).code == 1
    for command in ("sync", "status", "verify"):
        assert bench.run(command, manifest).code == 0, command
    assert all(path.is_symlink() for path in links - set(replaced))


def test_paths_where_nothing_was_placed_are_not_named(bench: Bench) -> None:
    manifest = bench.manifest(whisper(bench), archive(bench))
    assert bench.run("sync", manifest).code == 0
    more = bench.manifest(whisper(bench), archive(bench), vae(bench), tier="more")
    shown = formats(bench, more)
    assert bench.run("status", more).code == 1
    assert "x.safetensors" not in shown["table"] + shown["prom"]


def test_one_of_two_placements_of_a_file_is_named_alone(bench: Bench) -> None:
    manifest = bench.manifest(vae(bench))
    assert bench.run("sync", manifest).code == 0
    path = bench.root / "comfyui/models/vae/x.safetensors"
    path.unlink()
    path.write_bytes(b"other")
    lines = bench.run("status", manifest).report["models"][0]["artifacts"]
    assert {line["action"]: line["placements"] for line in lines} == {
        "changed": ["comfyui/models/vae/x.safetensors"],
        "present": ["stable-diffusion/models/VAE/x.safetensors"],
    }


@pytest.mark.parametrize("entry", first(1, [ollama, vae]))
def test_a_touched_file_is_ready_and_sync_hashes_it_again(bench: Bench, entry: Any) -> None:
    manifest = bench.manifest(entry(bench))
    assert bench.run("sync", manifest).code == 0
    paths = [
        p for p in bench.root.rglob("*") if p.is_file() and ".modelfetch" not in p.parts and "manifests" not in p.parts
    ]
    for path in paths:
        touch(path)
    result = bench.run("status", manifest)
    assert result.code == 0
    assert {a["action"] for a in result.report["models"][0]["artifacts"]} == {"present"}
    shown = formats(bench, manifest)
    assert "touched, not re-checked" in shown["table"]
    assert 'state="touched"} 1' in shown["prom"]
    assert 'modelfetch_ready{tier="test"} 1' in shown["prom"]
    assert bench.run("sync", manifest).code == 0
    assert "re-checked" not in formats(bench, manifest)["table"]


@pytest.mark.parametrize(
    "name",
    first(2, ["whisper/hub/models--*/refs/main", "whisper/nltk_data/punkt_tab/README", "ollama/models/blobs/sha256-*"]),
)
def test_a_small_file_is_read_if_its_date_changed(bench: Bench, name: str) -> None:
    manifest = bench.manifest(whisper(bench), archive(bench), ollama(bench))
    assert bench.run("sync", manifest).code == 0
    path = min(bench.root.glob(name), key=lambda path: path.stat().st_size)
    touch(path)
    shown = formats(bench, manifest)
    assert bench.run("status", manifest).code == 0
    assert f"touched: {path.relative_to(bench.root)}" in shown["table"]
    assert 'modelfetch_ready{tier="test"} 1' in shown["prom"]
    path.chmod(0o644)
    path.write_bytes(bytes(path.stat().st_size))
    assert bench.run("status", manifest).code == 1
    assert f"changed: {path.relative_to(bench.root)}" in formats(bench, manifest)["table"]


def test_another_file_of_the_same_size_is_changed(bench: Bench) -> None:
    manifest = bench.manifest(vae(bench))
    assert bench.run("sync", manifest).code == 0
    path = bench.root / "comfyui/models/vae/x.safetensors"
    other = bench.folder / "other"
    shutil.copyfile(path, other)
    path.unlink()
    other.rename(path)
    assert bench.run("status", manifest).code == 1


def test_a_model_with_thousands_of_paths_lists_only_some(bench: Bench) -> None:
    bench.world.hf_repo("a/many", {f"{i}.json": b"{}" for i in range(40)})
    manifest = bench.manifest({"name": "m", "kind": "snapshot", "source": "hf://a/many", "for": ["comfyui"]})
    assert bench.run("sync", manifest).code == 0
    for path in (bench.root / "comfyui").rglob("*.json"):
        path.chmod(0o644)
        path.write_text("changed")
    shown = formats(bench, manifest)
    assert "… and 20 more paths" in shown["table"]
    assert len(json.loads(shown["json"])["models"][0]["artifacts"]) == 40


def test_verbose_plan_names_files_and_destinations(bench: Bench) -> None:
    manifest = bench.manifest(vae(bench))
    words = ["plan", "--manifest", str(manifest), "--root", str(bench.root)]
    assert run(words) == 0
    assert "stable-diffusion/models/VAE/x.safetensors" not in bench.capsys.readouterr().out
    assert run([*words, "-v"]) == 0
    out = bench.capsys.readouterr().out
    assert "stable-diffusion/models/VAE/x.safetensors" in out
    assert "comfyui/models/vae/x.safetensors" in out
