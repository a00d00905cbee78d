"""Status tells ready, missing, changed and foreign files apart, without a request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelfetch.cli.app import run

if TYPE_CHECKING:
    import pytest

    from tests.pipeline.conftest import Bench
from tests.pipeline.entries import vae, whisper


def test_status_distinguishes_ready_missing_changed_and_foreign(bench: Bench) -> None:
    entry = vae(bench, **{"for": ["comfyui"]})
    path = bench.root / "comfyui/models/vae/art.safetensors"

    def status() -> tuple[int, str]:
        result = bench.run("status", bench.manifest(entry))
        return result.code, result.report["models"][0]["artifacts"][0]["action"]

    assert status() == (1, "missing")
    assert bench.sync(entry).code == 0
    assert status() == (0, "present")
    path.unlink()
    assert status() == (1, "missing")
    path.write_bytes(b"else")
    assert status() == (1, "changed")
    (bench.root / ".modelfetch/receipts/comfyui.json").unlink()
    mark = bench.hub.log.mark()
    assert status()[0] == 1
    assert bench.hub.log.since(mark) == []


def test_status_sends_no_request(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bench.sync(vae(bench)).code == 0
    assert bench.run("status", bench.manifest(vae(bench)), "--refresh").code == 0
    monkeypatch.setenv("MODELFETCH_REFRESH", "1")
    assert bench.run("status", bench.manifest(vae(bench))).code == 0


def test_status_of_an_unresolved_model_names_files_in_the_way(bench: Bench) -> None:
    there = bench.root / "comfyui/models/vae/art.safetensors"
    there.parent.mkdir(parents=True)
    there.write_bytes(b"precious")
    result = bench.run("status", bench.manifest(vae(bench)))
    assert result.code == 1
    (artifact,) = result.report["models"][0]["artifacts"]
    assert (artifact["action"], artifact["placements"]) == ("foreign", ["comfyui/models/vae/art.safetensors"])
    (bench.root / "stable-diffusion").symlink_to(bench.folder)
    assert bench.run("status", bench.manifest(vae(bench))).codes() == ["outside-root"]
    assert bench.hub.log.since(0) == []


def test_status_counts_the_files_of_a_manifest_without_a_request(bench: Bench) -> None:
    files = [{"path": "config.json", "size": 2}, {"path": "model.bin", "size": 3_000_000}]
    manifest = bench.manifest(whisper(bench, files=files))
    bench.capsys.readouterr()
    assert run(["status", "--manifest", str(manifest), "--root", str(bench.root)]) == 1
    assert "missing      2  2.9 MiB" in bench.capsys.readouterr().out
    assert bench.hub.log.requests() == []
