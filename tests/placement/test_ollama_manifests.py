"""The manifests of Ollama 0.40 and later, which take precedence over the older ones."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.cli.app import run
from modelfetch.core.digest import Digest
from modelfetch.placement.ollama_manifests import newer_path, older_path
from tests.pipeline.entries import ollama

if TYPE_CHECKING:
    from pathlib import Path

    from tests.pipeline.conftest import Bench

OLDER = "ollama/models/manifests/registry.ollama.ai/library/tiny/1b"
NEWER = "ollama/models/manifests-v2/ollama.com/library/tiny/1b"
OTHER = b'{"schemaVersion": 2, "layers": []}'


def state(bench: Bench) -> tuple[int, str]:
    result = bench.run("status", bench.manifest(ollama(bench)))
    (model,) = result.report["models"]
    return result.code, "ready" if model["ok"] else "not ready"


def verified(bench: Bench) -> int:
    return run(["verify", "--root", str(bench.root)])


def write(tag: Path, form: str, ours: bytes) -> None:
    tag.parent.mkdir(parents=True)
    blob = tag.parents[4] / f"blobs/sha256-{Digest.sha256(ours).hex}"
    if form == "symlink":
        blob.write_bytes(ours)
        tag.symlink_to(os.path.relpath(blob, tag.parent))
    elif form == "list":
        children: list[dict[str, Any]] = [
            {"digest": str(digest), "runner": runner}
            for digest, runner in ((Digest.sha256(b"converted"), "llamacpp"), (Digest.sha256(ours), "ggml"))
        ]
        tag.write_text(json.dumps({"schemaVersion": 2, "manifests": children}))
    else:
        tag.write_bytes(ours)


def test_a_store_with_newer_manifests_gets_both(bench: Bench) -> None:
    (bench.root / "ollama/models/manifests-v2").mkdir(parents=True)
    assert bench.sync(ollama(bench)).code == 0
    assert (bench.root / NEWER).read_bytes() == (bench.root / OLDER).read_bytes()
    assert bench.sync(ollama(bench)).report["requests"] == 0
    assert state(bench) == (0, "ready")
    assert verified(bench) == 0
    (bench.root / NEWER).unlink()
    assert state(bench) == (0, "ready")  # Ollama then reads the older one


def test_a_store_without_them_gets_none(bench: Bench) -> None:
    assert bench.sync(ollama(bench)).code == 0
    assert not (bench.root / "ollama/models/manifests-v2").exists()


@pytest.mark.parametrize("form", ["copy", "symlink", "list"])
def test_a_tag_that_ollama_wrote_for_the_same_model_is_left_alone(bench: Bench, form: str) -> None:
    assert bench.sync(ollama(bench)).code == 0
    tag = bench.root / NEWER
    write(tag, form, (bench.root / OLDER).read_bytes())
    before = tag.read_bytes(), tag.lstat().st_mtime_ns
    for _ in range(2):
        assert state(bench) == (0, "ready")
        assert bench.sync(ollama(bench)).code == 0
        assert verified(bench) == 0
    assert (tag.read_bytes(), tag.lstat().st_mtime_ns) == before
    assert not (bench.root / ".modelfetch/displaced").exists()


def test_a_tag_that_leads_to_another_model_is_replaced(bench: Bench) -> None:
    assert bench.sync(ollama(bench)).code == 0
    write(bench.root / NEWER, "copy", OTHER)
    assert state(bench) == (1, "not ready")
    assert bench.sync(ollama(bench)).code == 0  # not the quick answer
    assert (bench.root / NEWER).read_bytes() == (bench.root / OLDER).read_bytes()
    assert state(bench) == (0, "ready")
    (displaced,) = (path for path in (bench.root / ".modelfetch/displaced").rglob("*") if path.is_file())
    assert displaced.read_bytes() == OTHER


def test_a_tag_of_somebody_else_is_not_touched(bench: Bench) -> None:
    write(bench.root / NEWER, "copy", OTHER)
    assert bench.sync(ollama(bench)).codes() == ["foreign-file"]
    assert (bench.root / NEWER).read_bytes() == OTHER


@pytest.mark.parametrize(
    ("older", "newer"),
    [("registry.ollama.ai/library/a/b", "ollama.com/library/a/b"), ("host:5000/ns/a/b", "host%3A5000/ns/a/b")],
)
def test_a_tag_has_a_path_for_each_version(older: str, newer: str) -> None:
    older, newer = f"ollama/models/manifests/{older}", f"ollama/models/manifests-v2/{newer}"
    assert (newer_path(older), older_path(newer)) == (newer, older)
