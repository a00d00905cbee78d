"""A mirror serves when its source can't, and also when its source has other bytes than the manifest pins."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from modelfetch.demo import models as made

if TYPE_CHECKING:
    from tests.pipeline.conftest import Bench

RIGHT, OTHER = made.vae(), made.lora()
DIGEST = "sha256:" + hashlib.sha256(bytes(RIGHT.read(0, RIGHT.size))).hexdigest()


def test_a_mirror_with_the_pinned_version_is_used_if_the_source_has_another(bench: Bench) -> None:
    bench.world.hf_repo("acme/moved", {"x.safetensors": OTHER})
    bench.world.file("x.safetensors", RIGHT)
    mirror = f"{bench.hub.files}x.safetensors"
    for pins in ({"digest": DIGEST}, {"digest": DIGEST, "size": RIGHT.size}):
        entry = {"name": "m", "kind": "vae", "source": "hf://acme/moved/x.safetensors", "for": ["comfyui"], **pins}
        assert bench.sync(entry).codes() in (["digest-mismatch"], ["size-mismatch"])
        result = bench.sync({**entry, "mirrors": [mirror]})
        assert result.code == 0, result.err
        assert (bench.root / "comfyui/models/vae/x.safetensors").stat().st_size == RIGHT.size
        (bench.root / "comfyui/models/vae/x.safetensors").unlink()


def test_a_file_refused_by_a_scan_is_refused_from_mirrors_too(bench: Bench) -> None:
    from modelfetch.demo import BytesBody
    from modelfetch.demo.world import CivitaiFile

    data = bytes(RIGHT.read(0, RIGHT.size))
    bench.world.civitai_version(3, [CivitaiFile(id=1, name="x.safetensors", body=BytesBody(data), scan="Danger")])
    bench.world.file("x.safetensors", RIGHT)
    entry = {"name": "m", "kind": "vae", "source": "civitai://3", "for": ["comfyui"]}
    assert bench.sync({**entry, "mirrors": [f"{bench.hub.files}x.safetensors"]}).codes() == ["scan-not-clean"]


def test_a_hub_cache_folder_has_the_name_of_the_pinned_commit_for_any_mirror(bench: Bench) -> None:
    bench.world.hf_repo("acme/copy", {"config.json": b"{}", "model.safetensors": RIGHT})
    commit = "1" * 40
    entry = {
        "name": "m",
        "kind": "snapshot",
        "source": f"hf://acme/gone@{commit}",
        "mirrors": ["hf://acme/copy"],
        "for": ["whisper"],
    }
    result = bench.sync(entry)
    assert result.code == 0, result.err
    folder = bench.root / "whisper/hub/models--acme--gone"
    assert [p.name for p in (folder / "snapshots").iterdir()] == [commit]
    assert (folder / "refs/main").read_text() == commit
