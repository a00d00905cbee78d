"""Fully pinned entries are compared with their source, and if necessary its mirrors, before any download."""

from __future__ import annotations

import hashlib
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.demo import models as made
from modelfetch.demo.world import CivitaiFile
from tests.cases import first
from tests.faults import RateLimited, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.pipeline.conftest import Bench

WEIGHTS = made.vae()
SIZE = WEIGHTS.size
DIGEST = "sha256:" + hashlib.sha256(bytes(WEIGHTS.read(0, SIZE))).hexdigest()
OTHER = "sha256:" + "1" * 64


def entry(source: str, name: str = "m", **keys: Any) -> dict[str, Any]:
    pins = {"size": SIZE, "digest": DIGEST, "filename": f"{name}.safetensors"}
    return {"name": name, "kind": "vae", "source": source, "for": ["comfyui"], **pins, **keys}


def bodies(bench: Bench) -> int:
    return sum(e.sent for e in bench.hub.log.requests() if e.status in (200, 206) and e.origin in ("cdn", "files"))


def hub_file(bench: Bench) -> str:
    bench.world.hf_repo("acme/m", {"x.safetensors": WEIGHTS})
    return f"hf://acme/m@{bench.world.repos['acme/m'].main}/x.safetensors"


def web_file(bench: Bench) -> str:
    bench.world.file("x.safetensors", WEIGHTS)
    return f"{bench.hub.files}x.safetensors"


def civitai_file(**version: Any) -> Callable[[Bench], str]:
    def add(bench: Bench) -> str:
        scan = version.get("scan", "Success")
        more = {key: value for key, value in version.items() if key != "scan"}
        bench.world.civitai_version(7, [CivitaiFile(id=1, name="x.safetensors", body=WEIGHTS, scan=scan)], **more)
        return "civitai://7"

    return add


@pytest.mark.parametrize("command", first(1, ["sync", "plan"]))
@pytest.mark.parametrize(
    ("source", "keys", "found"),
    [
        (hub_file, {"digest": OTHER}, (65, "digest-mismatch")),
        (hub_file, {"size": SIZE - 1}, (65, "size-mismatch")),
        (web_file, {"size": SIZE - 1}, (65, "size-mismatch")),
        (civitai_file(), {"digest": OTHER}, (65, "digest-mismatch")),
        (civitai_file(), {"size": SIZE - 1}, (65, "size-mismatch")),
        (civitai_file(scan="Danger"), {}, (65, "scan-not-clean")),
        (civitai_file(early_access=True), {}, (77, "early-access")),
        (civitai_file(login="page"), {}, (77, "login-page")),
        (civitai_file(login="json"), {}, (77, "unauthorized")),
        (civitai_file(login="forbidden"), {}, (77, "login-page")),
        (lambda bench: f"file://{bench.folder}/none.safetensors", {}, (66, "not-found")),
    ],
)
def test_a_contradiction_of_a_pin_is_found_before_any_download(
    bench: Bench, command: str, source: Callable[[Bench], str], keys: dict[str, Any], found: tuple[int, str]
) -> None:
    result = bench.run(command, bench.manifest(entry(source(bench), **keys)))
    assert (result.code, *result.codes()) == found
    assert bodies(bench) <= 1  # the one byte that is requested
    if found[0] == 77:
        hint = result.report["errors"][0]["hint"]
        assert "CIVITAI_API_TOKEN" in hint or "buy access" in hint
    assert result.actions() == {result.report["errors"][0]["uri"]: "failed"}


def test_a_pinned_file_with_a_failed_scan_is_fetched_with_allow_unscanned(bench: Bench) -> None:
    source = civitai_file(scan="Danger")(bench)
    assert bench.sync(entry(source, allow_unscanned=True)).code == 0


@pytest.mark.parametrize(
    "fault",
    [
        Status(code=404, body="<html>no API</html>", content_type="text/html"),
        Status(code=200, body="<html>an app</html>", content_type="text/html"),
        Status(code=503),
        RateLimited(wait=900, kind="api"),
    ],
    ids=["none", "a page", "broken", "limited"],
)
def test_a_hub_mirror_without_the_api_serves_pinned_files(bench: Bench, fault: Status) -> None:
    source = hub_file(bench)
    bench.hub.faults.add("/api/*", fault, times=None)
    assert bench.run("plan", bench.manifest(entry(source))).code == 0
    assert bench.sync(entry(source)).code == 0


def test_without_the_api_the_size_is_still_compared_with_the_pin(bench: Bench) -> None:
    source = hub_file(bench)
    bench.hub.faults.add("/api/*", Status(code=404), times=None)
    result = bench.run("plan", bench.manifest(entry(source, size=SIZE - 1)))
    assert (result.code, result.codes()) == (65, ["size-mismatch"])


def test_the_failure_of_all_mirrors_is_detected_before_any_download(bench: Bench) -> None:
    good = web_file(bench)
    gone = entry(f"{bench.hub.files}gone.bin", "gone", mirrors=[f"{bench.hub.files}gone2.bin", "http://127.0.0.1:9/x"])
    for command in ("plan", "sync"):
        result = bench.run(command, bench.manifest(gone, entry(good, "good")))
        assert (result.code, result.codes()) == (66, ["not-found"])
        assert bodies(bench) <= 4  # the byte of the good one, and no more
        assert not (bench.root / "comfyui/models/vae/good.safetensors").exists()


def test_a_plan_succeeds_if_a_mirror_serves_the_file(bench: Bench) -> None:
    good = web_file(bench)
    moved = entry(hub_file(bench), digest=DIGEST, size=SIZE, mirrors=[good])
    bench.world.hf_repo("acme/other", {"x.safetensors": made.lora()})
    moved["source"] = f"hf://acme/other@{bench.world.repos['acme/other'].main}/x.safetensors"
    assert bench.run("plan", bench.manifest(moved)).code == 0
    result = bench.sync(moved)
    assert result.code == 0, result.err
    assert result.report["models"][0]["artifacts"][0]["from"] == good


def test_the_size_at_a_rejected_source_is_not_required_of_its_mirrors(bench: Bench) -> None:
    bench.world.file("other.safetensors", bytes(WEIGHTS.read(0, SIZE)) + b"more")
    good = web_file(bench)
    open_size = entry(f"{bench.hub.files}other.safetensors", mirrors=[good])
    del open_size["size"]
    result = bench.sync(open_size)
    assert result.code == 0, result.err
    assert result.report["models"][0]["artifacts"][0]["from"] == good


def test_a_revision_recorded_in_a_receipt_is_not_resolved_again(bench: Bench) -> None:
    bench.world.hf_repo("acme/m", {"x.safetensors": WEIGHTS})
    left_open = {"name": "m", "kind": "vae", "source": "hf://acme/m/x.safetensors", "for": ["comfyui"]}
    assert bench.sync(left_open).code == 0
    bench.world.repos["acme/m"].commit({"x.safetensors": made.lora()})
    for path in [p for p in bench.root.rglob("*") if p.is_file() and p.stat().st_size == SIZE]:
        path.unlink()
    mark = bench.hub.log.mark()
    assert bench.sync(left_open).code == 0
    assert not [e.path for e in bench.hub.log.since(mark) if e.path.startswith("/api/")]
    assert (bench.root / "comfyui/models/vae/x.safetensors").stat().st_size == SIZE


def test_bytes_of_a_partial_file_need_no_space_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    source = web_file(bench)
    free = SIZE - 64 * 1024
    (bench.root / ".modelfetch").mkdir(parents=True)
    monkeypatch.setattr(
        "modelfetch.pipeline.preflight.os.statvfs",
        lambda _path: SimpleNamespace(f_bavail=free, f_frsize=1, f_blocks=1),
        raising=True,
    )
    assert bench.run("plan", bench.manifest(entry(source))).codes() == ["no-space"]
    partial = bench.root / ".modelfetch/ingest" / f"{DIGEST.partition(':')[2]}.part"
    partial.parent.mkdir()
    partial.write_bytes(os.urandom(128 * 1024))
    assert bench.run("plan", bench.manifest(entry(source))).code == 0
