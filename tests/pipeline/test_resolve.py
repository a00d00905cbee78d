"""Resolving without a request, from pins and receipts."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.demo import models as made
from modelfetch.demo.world import CivitaiFile

if TYPE_CHECKING:
    from tests.pipeline.conftest import Bench

WEIGHTS = made.vae()
PINS = {"size": WEIGHTS.size, "digest": f"sha256:{hashlib.sha256(bytes(WEIGHTS.read(0, WEIGHTS.size))).hexdigest()}"}


@pytest.fixture(params=["odd name", "civitai"])
def entry(request: pytest.FixtureRequest, bench: Bench) -> dict[str, Any]:
    """A pinned file whose name only its source gives."""
    bench.world.file("sd-v15", WEIGHTS)
    bench.world.civitai_version(7, [CivitaiFile(id=1, name="style.safetensors", body=WEIGHTS)])
    source = f"{bench.hub.files}sd-v15" if request.param == "odd name" else "civitai://7"
    return {"name": "m", "kind": "vae", "source": source, "for": ["comfyui"], **PINS}


@pytest.mark.parametrize("command", ["sync", "plan", "status"])
def test_a_pinned_file_in_place_needs_no_request_after_another_part_of_the_manifest_changed(
    bench: Bench, entry: dict[str, Any], command: str
) -> None:
    assert bench.sync(entry).code == 0
    result = bench.run(command, bench.manifest(entry, description="changed"))
    assert (result.code, result.report["requests"]) == (0, 0)
    offline = () if command == "status" else ("--offline",)
    assert bench.run(command, bench.manifest(entry, description="changed again"), *offline).code == 0


def test_changed_pins_are_resolved_again(bench: Bench, entry: dict[str, Any]) -> None:
    assert bench.sync(entry).code == 0
    other = {**entry, "digest": "sha256:" + "1" * 64}
    assert bench.run("plan", bench.manifest(other)).report["requests"] > 0
    assert bench.run("sync", bench.manifest(other), "--offline").code == 69
    assert bench.run("sync", bench.manifest(entry), "--refresh").report["requests"] > 0


@pytest.mark.parametrize("named", [0, 1])
def test_two_entries_of_one_source_keep_their_own_names(bench: Bench, named: int) -> None:
    bench.world.file("art.safetensors", WEIGHTS)
    source = f"{bench.hub.files}art.safetensors"
    entries = [{"name": name, "kind": "lora", "source": source, "for": ["comfyui"]} for name in "ab"]
    entries[named]["filename"] = "mine.safetensors"
    for options in ((), ("--refresh",)):
        assert bench.sync(*entries, options=options).code == 0
        plan = bench.run("plan", bench.manifest(*entries))
        assert [a["action"] for m in plan.report["models"] for a in m["artifacts"]] == ["present"] * 2


@pytest.mark.parametrize("allowed", ["comfyui", "stable-diffusion"])
def test_a_pickle_that_one_entry_of_a_source_allows_is_refused_for_another(bench: Bench, allowed: str) -> None:
    bench.world.file("art.bin", b"\x80\x02}q\x00." + b"\0" * 5000)
    entries = [
        {"name": service, "kind": "lora", "source": f"{bench.hub.files}art.bin", "for": [service]}
        | ({"allow_pickle": True} if service == allowed else {})
        for service in ("comfyui", "stable-diffusion")
    ]
    for _ in range(2):
        result = bench.sync(*entries, options=("--keep-going",))
        assert (result.code, result.codes()) == (65, ["pickle-not-allowed"])


@pytest.mark.parametrize("order", [1, -1])
def test_a_cache_keeps_the_names_of_its_blobs_next_to_a_plain_copy_of_the_repo(bench: Bench, order: int) -> None:
    data = b'{"small": true}'
    bench.world.hf_repo("acme/s", {"config.json": data})
    commit = bench.world.repos["acme/s"].refs["main"]
    file = {"path": "config.json", "size": len(data), "digest": f"sha256:{hashlib.sha256(data).hexdigest()}"}
    entries = [
        {"name": service, "kind": "snapshot", "source": f"hf://acme/s@{commit}", "files": [file], "for": [service]}
        for service in ("comfyui", "whisper")
    ][::order]
    for _ in range(2):
        assert bench.sync(*entries).code == 0
    assert [path.name for path in bench.root.glob("whisper/hub/*/blobs/*")] == [
        hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    ]
