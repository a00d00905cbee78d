"""Files that are at a path before sync: adopted if their bytes are right, never touched if not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.pipeline.conftest import Bench
from tests.pipeline.entries import WEIGHTS, read, vae, whisper


def test_a_foreign_file_stops_the_run_before_any_download(bench: Bench) -> None:
    there = bench.root / "comfyui/models/vae/art.safetensors"
    there.parent.mkdir(parents=True)
    there.write_bytes(b"precious")
    result = bench.sync(vae(bench))
    assert (result.code, result.codes()) == (73, ["foreign-file"])
    assert there.read_bytes() == b"precious"
    assert bench.hub.log.requests("*", origin="cdn") == []


def test_right_bytes_that_are_there_are_adopted_without_a_download_and_serve_the_other_consumer(bench: Bench) -> None:
    there = bench.root / "comfyui/models/vae/art.safetensors"
    there.parent.mkdir(parents=True)
    there.write_bytes(read(WEIGHTS))
    result = bench.sync(vae(bench))
    assert result.code == 0, result.err
    assert bench.hub.log.requests("*", origin="cdn") == []
    assert (bench.root / "stable-diffusion/models/VAE/art.safetensors").read_bytes() == read(WEIGHTS)


def test_a_file_of_the_users_that_serves_another_consumer_too_exists_once_and_can_not_be_written_through(
    bench: Bench,
) -> None:
    there = bench.root / "comfyui/models/vae/art.safetensors"
    there.parent.mkdir(parents=True)
    there.write_bytes(read(WEIGHTS))
    there.chmod(0o640)
    assert bench.sync(vae(bench, **{"for": ["comfyui"]})).code == 0
    assert (there.stat().st_mode & 0o777, there.stat().st_nlink) == (0o640, 1)
    result = bench.sync(vae(bench))
    assert result.code == 0, result.err
    other = bench.root / "stable-diffusion/models/VAE/art.safetensors"
    if not other.samefile(there):  # the file system shares blocks, not files
        assert there.stat().st_mode & 0o777 == 0o640
        return
    assert there.stat().st_mode & 0o777 == 0o444
    assert "read-only" in result.err
    receipt = json.loads((bench.root / ".modelfetch/receipts/comfyui.json").read_bytes())
    assert [entry["made"] for entry in receipt["placements"].values()] == [False]
    assert "read-only" not in bench.sync(vae(bench)).err


def test_an_adopted_file_for_one_consumer_needs_no_blob(bench: Bench) -> None:
    there = bench.root / "comfyui/models/vae/art.safetensors"
    there.parent.mkdir(parents=True)
    there.write_bytes(read(WEIGHTS))
    result = bench.sync(vae(bench, **{"for": ["comfyui"]}))
    assert set(result.actions().values()) == {"adopted"}
    assert not (bench.root / ".modelfetch/blobs").exists()


def test_a_file_in_place_of_a_caches_folder_is_reported_with_all_other_problems(bench: Bench) -> None:
    bench.root.mkdir()
    (bench.root / "whisper").write_text("mine")
    gone = {"name": "gone", "kind": "vae", "source": "hf://acme/gone/x.safetensors", "for": ["comfyui"]}
    result = bench.run("plan", bench.manifest(whisper(bench), gone))
    assert sorted(result.codes()) == ["foreign-file", "missing-or-private"]
    assert len(result.report["models"]) == 2


def test_a_removed_link_is_placed_again_from_the_store(bench: Bench) -> None:
    bench.sync(vae(bench))
    path = bench.root / "comfyui/models/vae/art.safetensors"
    path.unlink()
    mark = bench.hub.log.mark()
    assert bench.sync(vae(bench)).code == 0
    assert path.read_bytes() == read(WEIGHTS)
    assert bench.hub.log.since(mark) == []


def test_a_missing_store_causes_no_request_while_all_files_are_in_place(bench: Bench) -> None:
    bench.sync(vae(bench))
    import shutil

    shutil.rmtree(bench.root / ".modelfetch/blobs")
    assert bench.sync(vae(bench)).report["requests"] == 0
    (bench.root / "comfyui/models/vae/art.safetensors").unlink()
    result = bench.sync(vae(bench))
    assert (result.code, result.report["requests"]) == (0, 0)
