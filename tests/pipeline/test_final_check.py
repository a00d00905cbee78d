"""The kind of an entry decides how its bytes are checked, whatever its address or the server calls them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.cli.app import run
from modelfetch.demo import models as made
from tests.cases import first

if TYPE_CHECKING:
    from tests.pipeline.conftest import Bench

HTML = b"<!DOCTYPE html><html><body>Please wait</body></html>"
JSON = b'{"error": "no such version"}'
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 483546902\n"


def entry(source: str, **keys: Any) -> dict[str, Any]:
    return {"name": "m", "kind": "checkpoint", "source": source, "for": ["comfyui"], **keys}


def placed(bench: Bench) -> list[str]:
    return [p.name for p in (bench.root / "comfyui").rglob("*") if p.is_file()]


@pytest.mark.parametrize("name", first(2, ["download/models/12345?type=Model", "sd-v1.5", "download.php", "get"]))
@pytest.mark.parametrize("body", [HTML, JSON, POINTER, b"404: Not Found", b""])
def test_a_checkpoint_is_checked_whatever_the_suffix_of_its_address(bench: Bench, name: str, body: bytes) -> None:
    bench.world.file(name.partition("?")[0], body)
    result = bench.sync(entry(bench.hub.files + name))
    assert (result.code, result.codes()) == (65, ["not-a-model"])
    assert placed(bench) == []


def test_a_filename_in_the_manifest_does_not_change_the_required_format(bench: Bench) -> None:
    bench.world.file("get", b"404: Not Found")
    for name in ("sdxl.safetensors", "sdxl", "sdxl.v2"):
        assert bench.sync(entry(f"{bench.hub.files}get", filename=name)).codes() == ["not-a-model"]
    assert placed(bench) == []


def test_a_checkpoint_without_a_suffix_gets_the_one_of_its_content(bench: Bench) -> None:
    bench.world.file("sd-v1.5", made.vae())
    assert bench.sync(entry(f"{bench.hub.files}sd-v1.5")).code == 0
    assert placed(bench) == ["sd-v1.5.safetensors"]


@pytest.mark.parametrize("name", ["model.bin", "model.onnx", "model.safetensors"])
def test_a_pointer_that_a_repo_holds_in_place_of_the_file_is_refused(bench: Bench, name: str) -> None:
    bench.world.hf_repo("acme/pointer", {name: POINTER}, lfs=False)
    result = bench.sync(entry(f"hf://acme/pointer/{name}", kind="vae"))
    assert (result.code, result.codes()) == (65, ["not-a-model"])
    assert "Git LFS pointer" in result.err or "Git LFS pointer" in str(result.report)


def test_a_stored_text_is_no_model_under_another_name(bench: Bench) -> None:
    bench.world.hf_repo("acme/texts", {"notes.txt": b"404: Not Found", "model.onnx": b"404: Not Found"}, lfs=False)
    notes = entry("hf://acme/texts/notes.txt", kind="file", path="notes.txt")
    model = entry("hf://acme/texts/model.onnx", kind="file", path="model.onnx") | {"name": "n"}
    assert bench.sync(notes).code == 0
    assert bench.sync(model).codes() == ["not-a-model"]
    assert bench.sync(notes, model).codes() == ["not-a-model"]
    assert placed(bench) == ["notes.txt"]
    manifest = bench.manifest(notes, model)
    before = manifest.read_bytes()
    assert run(["pin", str(manifest)]) == 65
    assert manifest.read_bytes() == before


def test_a_file_of_any_kind_may_be_text(bench: Bench) -> None:
    bench.world.file("notes", b"404: a novel\n")
    assert bench.sync(entry(f"{bench.hub.files}notes", kind="file", path="notes")).code == 0
