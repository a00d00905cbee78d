"""From a manifest to files in place, against the hub's wire shapes."""

from __future__ import annotations

import errno
import io
import json
import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.cli.app import run
from modelfetch.demo.faults import DropAfter
from tests.faults import HtmlPage, JsonError, Status

if TYPE_CHECKING:
    from tests.pipeline.conftest import Bench
from tests.pipeline.entries import REPO, WEIGHTS, commit, ollama, read, sha256, vae, whisper


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


def test_an_archive_that_unpacks_to_more_than_the_disk_has_is_not_unpacked(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.writestr(f"{number}.txt", b"%d" % number * 400_000)
    bench.world.file("a.zip", packed.getvalue())
    entry = {"name": "a", "kind": "file", "source": f"{bench.hub.files}a.zip", "path": "models", "unpack": "zip"}
    monkeypatch.setattr("modelfetch.pipeline.preflight.free_bytes", lambda _folder: 1_000_000)
    result = bench.sync({**entry, "for": ["comfyui"]})
    assert (result.code, result.codes()) == (74, ["no-space"])
    assert not (bench.root / "comfyui").exists()
    stored = [path.stat().st_size for path in (bench.root / ".modelfetch/blobs").rglob("*") if path.is_file()]
    assert max(stored) < 100_000  # the archive alone


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


def test_a_share_that_refuses_modes_is_filled_with_one_warning(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "chmod", refuse)
    result = bench.sync(vae(bench), whisper(bench))
    assert result.code == 0
    assert result.err.count("refuses chmod") == 1


def test_a_file_that_its_service_will_not_list_is_a_warning_until_it_is_placed(bench: Bench) -> None:
    bench.world.hf_repo("acme/small", {"s.json": b"{}"})
    small = vae(bench, name="s", source="hf://acme/small/s.json")
    warning = "warning: {}:{}:{}: comfyui does not list 's.json': for kind vae it lists names that end in .safetensors"
    for command in ("plan", "sync"):
        result = bench.run(command, bench.manifest(small))
        assert result.code == 0
        assert warning.format(bench.manifest(small), 5, 3) in result.err
    assert "does not list" not in bench.sync(small).err


def test_a_snapshot_that_its_service_will_not_list_is_one_warning(bench: Bench) -> None:
    bench.world.hf_repo("acme/repo", {"a.json": b"{}", "b.json": b"{ }"})
    result = bench.sync({"name": "r", "kind": "snapshot", "source": "hf://acme/repo", "for": ["stable-diffusion"]})
    assert result.code == 0
    assert result.err.count("stable-diffusion lists no snapshot") == 1
