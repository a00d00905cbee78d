"""From a manifest to files in place, against the hub's wire shapes."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from blake3 import blake3

from modelfetch.cli.app import run
from modelfetch.demo import models as made
from modelfetch.demo.faults import DropAfter
from tests.faults import HtmlPage, JsonError, Status

if TYPE_CHECKING:
    from tests.pipeline.conftest import Bench

WEIGHTS = made.vae()
OTHER = made.lora()
REPO = "acme/art"


def read(body: Any) -> bytes:
    return body if isinstance(body, bytes) else bytes(body.read(0, body.size))


def sha256(data: Any) -> str:
    return "sha256:" + hashlib.sha256(read(data)).hexdigest()


def commit(bench: Bench, repo: str = REPO, ref: str = "main") -> str:
    return bench.world.repos[repo].refs[ref]


def vae(bench: Bench, **keys: Any) -> dict[str, Any]:
    if REPO not in bench.world.repos:
        bench.world.hf_repo(REPO, {"art.safetensors": WEIGHTS, "README.md": b"# art"})
    entry = {
        "name": "vae",
        "kind": "vae",
        "source": f"hf://{REPO}/art.safetensors",
        "for": ["stable-diffusion", "comfyui"],
    }
    return {**entry, **keys}


def ollama(bench: Bench, **keys: Any) -> dict[str, Any]:
    if not bench.world.ollama:
        bench.world.ollama_model("tiny:1b", made.ollama_layers(), config=made.ollama_config())
    return {"name": "tiny", "source": "ollama://tiny:1b", "for": ["ollama"], **keys}


def whisper(bench: Bench, **keys: Any) -> dict[str, Any]:
    repo = "acme/whisper"
    if repo not in bench.world.repos:
        bench.world.hf_repo(repo, {**made.faster_whisper(), "README.md": b"# whisper", "sub/dir/extra.json": b"{}"})
    return {"name": "w", "kind": "snapshot", "source": f"hf://{repo}", "for": ["whisper"], **keys}


def test_one_download_serves_two_consumers_from_one_copy(bench: Bench) -> None:
    result = bench.sync(vae(bench))
    assert result.code == 0, result.err
    one, two = (
        bench.root / "stable-diffusion/models/VAE/art.safetensors",
        bench.root / "comfyui/models/vae/art.safetensors",
    )
    assert one.read_bytes() == read(WEIGHTS)
    assert one.samefile(two)
    assert bench.hub.log.sent("*", origin="cdn") == len(read(WEIGHTS))
    (artifact,) = result.report["models"][0]["artifacts"]
    assert artifact["uri"] == f"hf://{REPO}@{commit(bench)}/art.safetensors"
    assert artifact["action"] == "fetched"
    assert artifact["digest"] == sha256(WEIGHTS)
    assert sorted(artifact["placements"]) == [
        "comfyui/models/vae/art.safetensors",
        "stable-diffusion/models/VAE/art.safetensors",
    ]
    assert result.report["bytes_fetched"] == len(read(WEIGHTS))


def test_a_second_sync_sends_no_request_and_reports_present(bench: Bench) -> None:
    entries = (vae(bench), ollama(bench), whisper(bench))
    assert bench.sync(*entries).code == 0
    mark = bench.hub.log.mark()
    result = bench.sync(*entries)
    assert result.code == 0
    assert bench.hub.log.since(mark) == []
    assert result.report["requests"] == 0
    assert set(result.actions().values()) == {"present"}


def test_an_unpinned_entry_keeps_its_resolved_version_until_refresh(bench: Bench) -> None:
    entry = vae(bench)
    bench.sync(entry)
    bench.world.repos[REPO].commit({"art.safetensors": OTHER})
    assert bench.sync(entry).report["requests"] == 0
    assert (bench.root / "comfyui/models/vae/art.safetensors").read_bytes() == read(WEIGHTS)
    assert bench.sync(entry, options=("--refresh",)).code == 0
    assert (bench.root / "comfyui/models/vae/art.safetensors").read_bytes() == read(OTHER)


def test_a_refresh_that_finds_the_same_bytes_at_a_newer_commit_is_remembered(bench: Bench) -> None:
    entry = vae(bench)
    bench.sync(entry)
    bench.world.repos[REPO].commit({"art.safetensors": WEIGHTS, "README.md": b"more"})
    newer = bench.sync(entry, options=("--refresh",)).actions()
    assert newer == {f"hf://{REPO}@{commit(bench)}/art.safetensors": "present"}
    assert bench.sync(entry).actions() == newer
    assert bench.run("status", bench.manifest(entry)).actions() == newer


def test_a_refresh_takes_the_file_that_a_web_server_has_by_now(bench: Bench) -> None:
    bench.world.file("art.safetensors", WEIGHTS)
    entry = vae(bench, source=f"{bench.hub.files}art.safetensors")
    assert bench.sync(entry).code == 0
    there = bench.root / "comfyui/models/vae/art.safetensors"
    bench.world.file("art.safetensors", OTHER)
    assert bench.sync(entry).report["requests"] == 0
    result = bench.sync(entry, options=("--refresh",))
    assert result.code == 0, result.err
    assert there.read_bytes() == read(OTHER)
    assert result.report["models"][0]["artifacts"][0]["digest"] == sha256(OTHER)


def test_the_ollama_store_is_byte_for_byte(bench: Bench) -> None:
    result = bench.sync(ollama(bench))
    assert result.code == 0, result.err
    store = bench.root / "ollama/models"
    manifest = store / "manifests/registry.ollama.ai/library/tiny/1b"
    (model,) = bench.world.ollama.values()
    assert manifest.read_bytes() == model.manifest
    parsed = json.loads(model.manifest)
    for layer in [parsed["config"], *parsed["layers"]]:
        blob = store / "blobs" / layer["digest"].replace(":", "-")
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == layer["digest"][7:]
    assert len(list((store / "blobs").iterdir())) == len({d["digest"] for d in [parsed["config"], *parsed["layers"]]})


def test_a_rewritten_ollama_manifest_does_not_reach_the_store(bench: Bench) -> None:
    bench.sync(ollama(bench))
    manifest = bench.root / "ollama/models/manifests/registry.ollama.ai/library/tiny/1b"
    ours = manifest.read_bytes()
    manifest.write_bytes(b'{"schemaVersion": 2}')
    for blob in (bench.root / ".modelfetch/blobs/sha256").glob("??/*"):
        if not blob.name.endswith(".json"):
            assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    result = bench.sync(ollama(bench))
    assert result.code == 0
    assert "warning" in result.err
    assert manifest.read_bytes() == ours
    assert [p.read_bytes() for p in (bench.root / ".modelfetch/displaced").rglob("1b")] == [b'{"schemaVersion": 2}']


def test_a_snapshot_is_a_cache_that_the_official_client_reads_offline(bench: Bench) -> None:
    assert bench.sync(whisper(bench)).code == 0
    moved = bench.folder / "moved"
    (bench.root / "whisper/hub").rename(moved)
    from huggingface_hub import hf_hub_download, snapshot_download

    here = snapshot_download("acme/whisper", cache_dir=moved, local_files_only=True)
    assert {p.name for p in Path(here).iterdir()} == {*made.faster_whisper(), "README.md", "sub"}
    path = hf_hub_download("acme/whisper", "sub/dir/extra.json", cache_dir=moved, local_files_only=True)
    assert Path(path).read_bytes() == b"{}"
    assert (moved / "models--acme--whisper/refs/main").read_bytes() == commit(bench, "acme/whisper").encode()


def test_blobs_of_a_cache_are_named_as_the_hub_names_them(bench: Bench) -> None:
    bench.sync(whisper(bench))
    blobs = bench.root / "whisper/hub/models--acme--whisper/blobs"
    weights = read(made.faster_whisper()["model.bin"])
    assert (blobs / hashlib.sha256(weights).hexdigest()).read_bytes() == weights
    text = b"# whisper"
    assert (
        blobs / hashlib.sha1(b"blob %d\0" % len(text) + text, usedforsecurity=False).hexdigest()
    ).read_bytes() == text


def test_include_and_files_choose_what_a_snapshot_holds(bench: Bench) -> None:
    assert bench.sync(whisper(bench, include=["*.json"])).code == 0
    snapshot = bench.root / "whisper/hub/models--acme--whisper/snapshots" / commit(bench, "acme/whisper")
    assert not (snapshot / "model.bin").exists()
    assert bench.sync(whisper(bench, files=[{"path": "model.bin"}])).code == 0
    assert (snapshot / "model.bin").exists()


def test_cache_as_names_the_folder_and_a_branch_gets_its_ref(bench: Bench) -> None:
    bench.world.hf_repo("acme/x", {"config.json": b"{}"}, refs={"v1": None})
    entry = {
        "name": "x",
        "kind": "snapshot",
        "source": "hf://acme/x@v1",
        "cache_as": "xlm-roberta-base",
        "for": ["diffrhythm"],
    }
    assert bench.sync(entry).code == 0
    refs = bench.root / "diffrhythm/models--xlm-roberta-base/refs"
    assert {p.name for p in refs.iterdir()} == {"main", "v1"}


def test_a_zip_is_unpacked_and_known_the_next_time(bench: Bench) -> None:
    bench.world.file("punkt.zip", made.nltk_punkt())
    source = f"{bench.hub.files}punkt.zip"
    entry = {
        "name": "nltk",
        "kind": "file",
        "source": source,
        "path": "nltk_data/tokenizers",
        "unpack": "zip",
        "for": ["whisper"],
    }
    assert bench.sync(entry).code == 0
    files = [p for p in (bench.root / "whisper/nltk_data/tokenizers").rglob("*") if p.is_file()]
    assert files
    again = bench.sync(entry)
    assert (again.code, again.report["requests"]) == (0, 0)
    files[0].write_bytes(b"edited")
    assert bench.sync(entry).code == 0
    assert files[0].read_bytes() != b"edited"


def test_files_in_the_folder_of_an_archive_are_compared_with_its_members(bench: Bench) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("a.txt", b"a" * 70_000)
        opened.writestr("b.txt", b"b")
    bench.world.file("x.zip", archive.getvalue())
    entry = {
        "name": "x",
        "kind": "file",
        "source": f"{bench.hub.files}x.zip",
        "path": "data",
        "unpack": "zip",
        "for": ["whisper"],
    }
    there = bench.root / "whisper/data/a.txt"
    there.parent.mkdir(parents=True)
    there.write_bytes(b"a" * 70_000)
    assert bench.sync(entry).code == 0
    assert (bench.root / "whisper/data/b.txt").read_bytes() == b"b"
    os.utime(there, (1, 1))
    assert bench.sync(entry).code == 0
    assert not (bench.root / ".modelfetch/displaced").exists()


def test_files_pinned_by_git_or_blake3_digest_are_ready_after_verification(bench: Bench) -> None:
    entry = whisper(bench)
    assert bench.sync(entry).code == 0
    bench.world.repos["acme/whisper"].commit({**made.faster_whisper(), "README.md": b"# whisper", "new.json": b"[]"})
    assert bench.sync(entry, options=("--refresh",)).code == 0
    assert bench.run("status", bench.manifest(entry)).code == 0
    there = bench.root / "comfyui/models/vae/art.safetensors"
    there.parent.mkdir(parents=True)
    there.write_bytes(read(WEIGHTS))
    pinned = vae(bench, digest="blake3:" + blake3(read(WEIGHTS)).hexdigest(), **{"for": ["comfyui"]})
    assert bench.sync(pinned).code == 0
    assert bench.run("status", bench.manifest(pinned)).code == 0
    assert bench.sync(pinned).report["requests"] == 0


def test_chown_gives_away_the_root_directories_and_copies_but_no_blob(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, tuple[int, int]] = {}

    def chown(path: Path | int, uid: int, gid: int) -> None:
        given[str(Path(f"/proc/self/fd/{path}").readlink() if isinstance(path, int) else path)] = (uid, gid)

    monkeypatch.setattr(os, "chown", chown)
    bench.world.hf_repo("acme/small", {"s.json": b"{}"})
    small = vae(bench, name="s", source="hf://acme/small/s.json", **{"for": ["comfyui"]})
    assert bench.sync(vae(bench), small, options=("--chown", "12:34")).code == 0
    assert set(given.values()) == {(12, 34)}
    folders = {".", "comfyui", "comfyui/models", "comfyui/models/vae", "stable-diffusion", "stable-diffusion/models"}
    assert folders | {"stable-diffusion/models/VAE"} == {
        os.path.relpath(path, bench.root) for path in given if not path.endswith(".part")
    }
    assert len([path for path in given if path.endswith(".part")]) == 1  # the copy, before it gets its name


def test_for_limits_sync_to_one_consumer(bench: Bench) -> None:
    assert bench.sync(vae(bench), ollama(bench), options=("--for", "comfyui")).code == 0
    assert {p.name for p in bench.root.iterdir()} == {".modelfetch", "comfyui"}
    mark = bench.hub.log.mark()
    assert bench.sync(vae(bench), ollama(bench), options=("--for", "stable-diffusion")).code == 0
    assert bench.hub.log.since(mark) == []


def test_a_dropped_connection_is_resumed_not_repeated(bench: Bench) -> None:
    entry = vae(bench)
    half = len(read(WEIGHTS)) // 2
    bench.hub.faults.add("*art.safetensors*", DropAfter(bytes=half), origin="cdn")
    result = bench.sync(entry)
    assert result.code == 0, result.err
    assert bench.hub.log.sent("*", origin="cdn") < len(read(WEIGHTS)) * 1.6


@pytest.mark.parametrize(
    ("fault", "code", "exit_code"),
    [
        (Status(code=404), "not-found", 66),
        (Status(code=401), "missing-or-private", 77),
        (Status(code=403), "forbidden", 77),
        (Status(code=500), "server-error", 69),
    ],
)
def test_each_hub_error_has_its_exit_code(bench: Bench, fault: Status, code: str, exit_code: int) -> None:
    source = f"{bench.hub.files}x.safetensors"
    bench.world.file("x.safetensors", WEIGHTS)
    bench.hub.faults.add("*x.safetensors", fault, times=None)
    result = bench.sync({"name": "x", "kind": "vae", "source": source, "for": ["comfyui"]})
    assert result.codes() == [code]
    assert result.code == exit_code
    assert "hint:" in result.err
    assert not (bench.root / "comfyui").exists()


@pytest.mark.parametrize("fault", [HtmlPage(), JsonError()])
def test_an_html_page_or_a_json_error_is_refused_as_a_model(bench: Bench, fault: Any) -> None:
    bench.world.file("x.safetensors", WEIGHTS)
    bench.hub.faults.add("*x.safetensors", fault, times=None)
    result = bench.sync({"name": "x", "kind": "vae", "source": f"{bench.hub.files}x.safetensors", "for": ["comfyui"]})
    assert result.code in (65, 77)
    assert not (bench.root / "comfyui").exists()


def test_a_wrong_digest_is_65_and_nothing_is_placed(bench: Bench) -> None:
    result = bench.sync(vae(bench, digest=sha256(b"other")))
    assert (result.code, result.codes()) == (65, ["digest-mismatch"])
    assert not (bench.root / "comfyui").exists()


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


def test_offline_names_the_missing_files(bench: Bench) -> None:
    result = bench.sync(vae(bench), options=("--offline",))
    assert (result.code, result.codes()) == (69, ["offline"])
    assert bench.hub.log.since(0) == []


def test_require_digests_names_each_open_entry_and_sends_nothing(bench: Bench) -> None:
    result = bench.sync(vae(bench), ollama(bench), options=("--require-digests",))
    assert (result.code, result.codes()) == (78, ["digest-required"] * 2)
    assert bench.hub.log.since(0) == []


def test_every_problem_that_can_be_foreseen_is_reported_at_once(bench: Bench) -> None:
    models = (
        vae(bench),
        {"name": "gone", "kind": "vae", "source": "hf://acme/gone/x.safetensors", "for": ["comfyui"]},
        {"name": "no-tag", "source": "ollama://tiny:none", "for": ["ollama"]},
    )
    result = bench.run("plan", bench.manifest(*models))
    assert {e["model"] for e in result.report["errors"]} == {"gone", "no-tag"}
    assert result.actions()[f"hf://{REPO}@{commit(bench)}/art.safetensors"] == "would-fetch"
    assert not bench.root.exists()


def test_an_optional_model_that_fails_is_a_warning(bench: Bench) -> None:
    gone = {
        "name": "gone",
        "kind": "vae",
        "source": "hf://acme/gone/x.safetensors",
        "for": ["comfyui"],
        "optional": True,
    }
    result = bench.sync(vae(bench), gone)
    assert result.code == 0
    assert "gone is optional" in result.err
    assert [m["ok"] for m in result.report["models"]] == [True, False]


def test_an_optional_model_is_required_for_a_consumer_that_has_no_other(bench: Bench) -> None:
    gone = {"kind": "vae", "source": "hf://acme/gone/x.safetensors", "optional": True}
    only = vae(bench, **{"for": ["comfyui"]})
    models = (only, {**gone, "name": "gone", "for": ["stable-diffusion"]})
    assert bench.sync(*models).code == 0
    assert bench.sync(*models, options=("--for", "comfyui")).code == 0
    assert bench.sync(*models, options=("--for", "stable-diffusion")).code == 77


def test_status_lists_an_optional_model_as_missing_without_failing(bench: Bench) -> None:
    gone = {"name": "gone", "kind": "vae", "source": "hf://acme/gone/x.safetensors", "for": ["comfyui"]}
    models = (vae(bench, **{"for": ["comfyui"]}), {**gone, "optional": True})
    assert bench.run("status", bench.manifest(*models)).code == 1
    assert bench.sync(*models).code == 0
    result = bench.run("status", bench.manifest(*models))
    assert (result.code, result.report["ok"], [m["ok"] for m in result.report["models"]]) == (0, True, [True, False])
    assert result.report["models"][1]["artifacts"][0]["action"] == "missing"
    assert bench.run("status", bench.manifest(models[0], gone)).code == 1
    assert bench.run("status", bench.manifest(models[1]), "--for", "comfyui").code == 1


@pytest.mark.parametrize("resolved", [False, True])
def test_a_foreign_file_in_the_place_of_an_optional_model_is_shown_without_failing(
    bench: Bench, *, resolved: bool
) -> None:
    path = bench.root / "comfyui/models/vae/opt.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"precious")
    source = "hf://acme/art/art.safetensors" if resolved else "hf://acme/gone/x.safetensors"
    other = {"kind": "vae", "source": source, "filename": "opt.safetensors", "for": ["comfyui"]}
    models = (vae(bench, **{"for": ["comfyui"]}), {**other, "name": "opt", "optional": True})
    assert bench.sync(*models).code == 0
    result = bench.run("status", bench.manifest(*models))
    assert (result.code, result.report["models"][1]["artifacts"][0]["action"]) == (0, "foreign")
    assert path.read_bytes() == b"precious"


def test_a_changed_file_of_an_optional_model_is_one_for_status(bench: Bench) -> None:
    optional = vae(bench, name="opt", filename="opt.safetensors", optional=True, **{"for": ["comfyui"]})
    models = (vae(bench, **{"for": ["comfyui"]}), optional)
    assert bench.sync(*models).code == 0
    path = bench.root / "comfyui/models/vae/opt.safetensors"
    path.unlink()
    path.write_bytes(b"else")
    assert bench.run("status", bench.manifest(*models)).code == 1


def test_status_warns_of_an_optional_model_whose_folder_links_outside(bench: Bench) -> None:
    required = vae(bench, **{"for": ["comfyui"]})
    optional = {**whisper(bench), "optional": True}
    assert bench.sync(required, optional).code == 0
    (bench.root / "whisper").rename(bench.folder / "outside")
    (bench.root / "whisper").symlink_to(bench.folder / "outside")
    for command in ("plan", "status", "sync"):
        result = bench.run(command, bench.manifest(required, optional))
        assert (result.code, result.codes()) == (0, []), command
        assert "outside" in result.err


def test_keep_going_places_what_it_can(bench: Bench) -> None:
    gone = {"name": "gone", "kind": "vae", "source": "hf://acme/gone/x.safetensors", "for": ["comfyui"]}
    assert bench.sync(gone, vae(bench)).code in (66, 77)
    assert not (bench.root / "comfyui").exists()
    result = bench.sync(gone, vae(bench), options=("--keep-going",))
    assert result.code in (66, 77)
    assert (bench.root / "comfyui/models/vae/art.safetensors").exists()


def test_a_full_disk_at_one_model_does_not_end_the_others(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(bench.root))

    monkeypatch.setattr("modelfetch.pipeline.place.unpack", full)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.txt", b"text")
    bench.world.file("a.zip", packed.getvalue())
    entry = {"name": "a", "kind": "file", "source": f"{bench.hub.files}a.zip", "path": "models", "unpack": "zip"}
    result = bench.sync({**entry, "for": ["comfyui"]}, vae(bench), options=("--keep-going",))
    assert (result.code, result.codes()) == (74, ["no-space"])
    assert [model["ok"] for model in result.report["models"]] == [False, True]


def test_a_file_in_place_of_a_caches_folder_is_reported_with_all_other_problems(bench: Bench) -> None:
    bench.root.mkdir()
    (bench.root / "whisper").write_text("mine")
    gone = {"name": "gone", "kind": "vae", "source": "hf://acme/gone/x.safetensors", "for": ["comfyui"]}
    result = bench.run("plan", bench.manifest(whisper(bench), gone))
    assert sorted(result.codes()) == ["foreign-file", "missing-or-private"]
    assert len(result.report["models"]) == 2


def test_lack_of_space_is_found_before_any_download(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs

    def full(path: Any) -> os.statvfs_result:
        found = list(real(path))
        found[4] = 1
        return os.statvfs_result(found)

    monkeypatch.setattr(os, "statvfs", full)
    result = bench.sync(vae(bench))
    assert (result.code, result.codes()) == (74, ["no-space"])
    assert bench.hub.log.requests("*", origin="cdn") == []


def test_two_models_that_want_one_path_are_78_with_the_line(bench: Bench) -> None:
    result = bench.sync(vae(bench), vae(bench, name="again"))
    assert result.code == 78
    assert result.report["models"] == []
    assert "test.yaml:" in result.err
    assert bench.hub.log.since(0) == []


def test_tiers_with_the_same_files_need_no_request_together(bench: Bench) -> None:
    first, second = bench.manifest(vae(bench), tier="one"), bench.manifest(vae(bench), tier="two")
    assert bench.run("sync", first).code == 0
    assert bench.run("sync", second).code == 0
    assert bench.run("sync", first, "--manifest", str(second)).report["requests"] == 0


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


def test_a_manifest_that_can_not_be_read_still_gives_a_report(bench: Bench) -> None:
    result = bench.run("sync", bench.folder / "none.yaml")
    assert result.code == 78
    assert result.report["models"] == []
    assert result.report["errors"][0]["code"] == "invalid-manifest"


def test_json_progress_contains_only_json(bench: Bench) -> None:
    result = bench.sync(vae(bench), options=("--progress", "json"))
    assert result.code == 0
    events = [json.loads(line)["event"] for line in result.err.splitlines()]
    assert events[0] == "planned"
    assert {"transfer-started", "transfer-finished", "placed"} <= set(events)


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


@pytest.mark.parametrize(
    ("upstream", "content", "filename"),
    [
        ("download", b'{"error": "log in"}', "m.safetensors"),
        ("download", b"<html><body>Welcome</body></html>", "m.safetensors"),
        ("notes.txt", b'{"error": "log in"}', "m.bin"),
        ("download", b"GGUF" + b"x" * 80, "m.gguf"),
        ("download", read(WEIGHTS)[:-7], "deep/m.safetensors"),
    ],
)
def test_a_file_that_is_renamed_is_judged_by_its_new_name(
    bench: Bench, upstream: str, content: bytes, filename: str
) -> None:
    bench.world.file(upstream, content, content_type="text/plain")
    source = bench.hub.files + upstream
    result = bench.sync(vae(bench, source=source, filename=filename, **{"for": ["comfyui"]}))
    assert (result.code, result.codes()) == (65, ["not-a-model"])
    assert not (bench.root / "comfyui").exists()
    target = bench.folder / "out" / filename
    assert run(["fetch", source, "-o", str(target)]) == 65
    assert not target.exists()
    assert list(target.parent.iterdir()) == []


def test_a_renamed_file_of_the_right_format_is_accepted(bench: Bench) -> None:
    bench.world.file("download", WEIGHTS)
    assert bench.sync(vae(bench, source=f"{bench.hub.files}download", filename="m.safetensors")).code == 0


def test_a_manifest_with_a_file_name_that_is_not_unicode_is_recorded_in_the_receipt(bench: Bench) -> None:
    path = bench.manifest(vae(bench))
    odd = os.fsdecode(os.fsencode(bench.folder) + b"/m\xff.yaml")
    Path(odd).write_text(path.read_text().replace('"tier": "test",', ""))
    assert bench.run("sync", Path(odd)).code == 0
    assert bench.run("sync", Path(odd)).report["requests"] == 0
    assert bench.run("status", Path(odd)).code == 0


def test_a_deleted_working_directory_is_a_typed_error(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bench.manifest(vae(bench))
    gone = bench.folder / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    bench.capsys.readouterr()
    assert run(["sync", "--manifest", str(path), "--json"]) == 74
    assert json.loads(bench.capsys.readouterr().out)["errors"][0]["code"] == "io-error"


def test_a_repo_may_hold_names_that_differ_by_case_alone(bench: Bench) -> None:
    bench.world.hf_repo("acme/case", {"README.md": b"1", "readme.md": b"2"})
    entry = {"name": "c", "kind": "snapshot", "source": "hf://acme/case", "for": ["whisper", "comfyui"]}
    assert bench.sync(entry).code == 0
    folder = bench.root / "comfyui/models/diffusers/case"
    assert ((folder / "README.md").read_bytes(), (folder / "readme.md").read_bytes()) == (b"1", b"2")
    other = {
        "name": "o",
        "kind": "file",
        "path": "models/diffusers/case/Readme.md",
        "source": "hf://acme/case/README.md",
        "for": ["comfyui"],
    }
    result = bench.sync(entry, other)
    assert (result.code, result.codes()) == (78, ["invalid-manifest"])
    assert "`modelfetch schema`" in result.err


def test_status_counts_the_files_of_a_manifest_without_a_request(bench: Bench) -> None:
    files = [{"path": "config.json", "size": 2}, {"path": "model.bin", "size": 3_000_000}]
    manifest = bench.manifest(whisper(bench, files=files))
    bench.capsys.readouterr()
    assert run(["status", "--manifest", str(manifest), "--root", str(bench.root)]) == 1
    assert "missing      2  2.9 MiB" in bench.capsys.readouterr().out
    assert bench.hub.log.requests() == []


def test_a_share_that_refuses_modes_is_filled_with_one_warning(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "chmod", refuse)
    result = bench.sync(vae(bench), whisper(bench))
    assert result.code == 0
    assert result.err.count("refuses chmod") == 1
