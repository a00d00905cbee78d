"""Problems that can be foreseen are reported before any download."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.cli.app import run
from modelfetch.demo import models as made
from modelfetch.errors import DestinationError
from tests.cases import first
from tests.faults import Status

if TYPE_CHECKING:
    from pathlib import Path

    from tests.pipeline.conftest import Bench

WEIGHTS = made.vae()


def pinned(bench: Bench, repo: str = "acme/pinned", **repo_options: Any) -> dict[str, Any]:
    """An entry that needs no request."""
    data = bytes(WEIGHTS.read(0, WEIGHTS.size))
    bench.world.hf_repo(repo, {"x.safetensors": WEIGHTS}, **repo_options)
    commit = bench.world.repos[repo].refs["main"]
    return {
        "name": repo.rpartition("/")[2],
        "kind": "vae",
        "source": f"hf://{repo}@{commit}/x.safetensors",
        "size": len(data),
        "digest": "sha256:" + hashlib.sha256(data).hexdigest(),
        "filename": f"{repo.rpartition('/')[2]}.safetensors",
        "for": ["comfyui"],
    }


def bodies(bench: Bench) -> int:
    return sum(entry.sent for entry in bench.hub.log.requests("*", origin="cdn") if entry.sent > 1)


@pytest.mark.parametrize("command", ["plan", "sync"])
def test_pinned_models_that_are_gone_gated_or_private_are_all_reported(bench: Bench, command: str) -> None:
    good, gated = pinned(bench, "acme/good"), pinned(bench, "acme/gated", gated="auto")
    gone, private = pinned(bench, "acme/gone"), pinned(bench, "acme/private", private=True)
    del bench.world.repos["acme/gone"]
    result = bench.run(command, bench.manifest(good, gated, gone, private))
    assert {e["model"]: e["code"] for e in result.report["errors"]} == {
        "gated": "gated",
        "gone": "missing-or-private",
        "private": "missing-or-private",
    }
    assert result.code == 77
    assert all(e["hint"] for e in result.report["errors"])
    assert bodies(bench) == 0


def test_one_request_checks_that_a_pinned_model_is_available(bench: Bench) -> None:
    result = bench.run("plan", bench.manifest(pinned(bench)))
    assert result.code == 0
    assert len(bench.hub.log.requests("*", origin="hf")) == 1
    assert result.report["models"][0]["artifacts"][0]["action"] == "would-fetch"


def test_no_request_is_sent_for_blobs_in_the_store(bench: Bench) -> None:
    entry = pinned(bench)
    assert bench.sync(entry).code == 0
    (bench.root / "comfyui/models/vae/pinned.safetensors").unlink()
    mark = bench.hub.log.mark()
    assert bench.sync(entry, options=("--offline",)).code == 0
    assert bench.hub.log.since(mark) == []


@pytest.mark.parametrize("variable", [None, "HF_HUB_OFFLINE"])
def test_offline_a_missing_pinned_model_is_69_without_a_request(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, variable: str | None
) -> None:
    if variable:
        monkeypatch.setenv(variable, "1")
    result = bench.sync(pinned(bench), options=() if variable else ("--offline",))
    assert (result.code, result.codes()) == (69, ["offline"])
    assert bench.hub.log.since(0) == []


@pytest.mark.parametrize("command", ["sync", "plan", "status"])
def test_a_manifest_with_nothing_for_the_chosen_services_is_a_warning(bench: Bench, command: str) -> None:
    file = bench.manifest(pinned(bench))
    found = bench.run(command, file, "--for", "whisper", "--for", "ollama")
    assert found.code == 0
    assert f"nothing in {file} is for whisper or ollama" in found.err
    assert "it has models for comfyui" in found.err
    assert "nothing in" not in bench.run(command, file, "--for", "whisper", "--for", "comfyui").err


def test_a_manifest_without_models_is_a_warning_each_time(bench: Bench) -> None:
    file = bench.manifest()
    for _ in range(2):
        result = bench.run("sync", file)
        assert (result.code, f"{file}: no models are listed" in result.err) == (0, True)


def test_a_source_that_fails_before_the_first_body_is_left_to_its_mirror(bench: Bench) -> None:
    entry = pinned(bench)
    bench.world.file("copy.safetensors", WEIGHTS)
    entry["mirrors"] = [f"{bench.hub.files}copy.safetensors"]
    bench.hub.faults.add("*/x.safetensors", Status(code=404), times=None)
    result = bench.sync(entry)
    assert result.code == 0, result.err
    (artifact,) = result.report["models"][0]["artifacts"]
    assert artifact["from"] == f"{bench.hub.files}copy.safetensors"


def test_a_mirror_serves_also_where_the_source_can_not_even_be_resolved(bench: Bench) -> None:
    entry = pinned(bench)
    entry.update(source="hf://acme/never/x.safetensors", mirrors=[f"{bench.hub.files}copy.safetensors"])
    bench.world.file("copy.safetensors", WEIGHTS)
    result = bench.sync(entry)
    assert result.code == 0, result.err


def test_a_root_that_can_not_be_written_is_73_only_if_something_must_be(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = pinned(bench)
    assert bench.sync(entry).code == 0
    monkeypatch.setattr("os.access", lambda *_args, **_kwargs: False)
    assert bench.sync(entry).code == 0
    (bench.root / "comfyui/models/vae/pinned.safetensors").unlink()
    result = bench.sync(entry)
    assert (result.code, set(result.codes())) == (73, {"not-writable"})


def test_all_problems_together_have_the_exit_code_of_the_gravest(bench: Bench) -> None:
    there = bench.root / "comfyui/models/vae/foreign.safetensors"
    there.parent.mkdir(parents=True)
    there.write_bytes(b"precious")
    foreign = pinned(bench, "acme/foreign")
    gone = {"name": "gone", "kind": "vae", "source": f"{bench.hub.files}gone.safetensors", "for": ["comfyui"]}
    result = bench.sync(foreign, gone)
    assert set(result.codes()) == {"foreign-file", "not-found"}
    assert result.code == 73


def test_a_complete_model_needs_no_writable_folder(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = pinned(bench)
    there = bench.root / "comfyui/models/vae/pinned.safetensors"
    there.parent.mkdir(parents=True)
    there.write_bytes(bytes(WEIGHTS.read(0, WEIGHTS.size)))

    def read_only(path: Any, *_: Any, **__: Any) -> Any:
        raise DestinationError(f"locking {path}: Read-only file system")

    monkeypatch.setattr("modelfetch.placement.placer.lock_receipt", read_only)
    monkeypatch.setattr("os.access", lambda *_, **__: False)
    result = bench.sync(entry)
    assert result.code == 0, result.err
    assert "its receipt can't be written" in result.err
    there.unlink()
    assert (bench.sync(entry).code, bench.sync(entry).codes()) == (73, ["not-writable"] * 2)


def test_two_manifests_with_one_path_are_refused_before_any_request(bench: Bench) -> None:
    first = {"name": "a", "kind": "vae", "source": "hf://acme/a/x.safetensors", "for": ["comfyui"]}
    one = bench.manifest(first, tier="one")
    two = bench.manifest({**first, "source": "hf://acme/b/x.safetensors"}, tier="two")
    result = bench.run("sync", one, "--manifest", str(two))
    assert (result.code, result.codes()) == (78, ["invalid-manifest"])
    assert str(two) in result.err
    assert bench.hub.log.since(0) == []


def test_a_variable_that_claims_the_path_of_another_model_is_refused_before_any_request(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFYUI_AUTO_DOWNLOAD_MODEL", "hf://acme/a/x.safetensors,hf://acme/b/x.safetensors")
    result = bench.sync()
    assert (result.code, result.codes()) == (78, ["invalid-manifest"])
    assert "COMFYUI_AUTO_DOWNLOAD_MODEL" in result.err
    assert bench.hub.log.since(0) == []


def test_a_manifest_without_a_tier_is_reported_by_the_name_it_was_found_under(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bench.manifest(pinned(bench))
    path.write_text(path.read_text().replace('"tier": "test",', ""))
    monkeypatch.setenv("MODELFETCH_TIERS_DIR", str(path.parent))
    assert bench.run("status", path).report["tier"] is None
    bench.capsys.readouterr()
    run(["status", "--tier", "test", "--root", str(bench.root), "--json"])
    assert json.loads(bench.capsys.readouterr().out)["tier"] == "test"


def test_offline_a_file_is_recognised_by_its_digest_alone(bench: Bench) -> None:
    entry = pinned(bench)
    assert bench.sync(entry).code == 0
    del entry["size"]
    snapshot = {
        "name": "s",
        "kind": "snapshot",
        "source": entry["source"].rpartition("/")[0],
        "files": [{"path": "x.safetensors", "digest": entry["digest"]}],
        "for": ["stable-diffusion"],
    }
    bench.world.file("y.safetensors", WEIGHTS)
    plain = {**entry, "name": "y", "source": f"{bench.hub.files}y.safetensors", "filename": "y.safetensors"}
    mark = bench.hub.log.mark()
    result = bench.sync(entry, snapshot, plain, options=("--offline",))
    assert result.code == 0, result.err
    gone = {**entry, "name": "gone", "digest": "sha256:" + "0" * 64, "filename": "gone.safetensors"}
    result = bench.sync(entry, gone, options=("--offline",))
    assert (result.code, result.codes()) == (69, ["offline"])
    assert bench.hub.log.since(mark) == []


@pytest.mark.parametrize("command", ["plan", "sync"])
@pytest.mark.parametrize("place", ["comfyui/models", "comfyui", "", ".modelfetch"])
@pytest.mark.parametrize("link", first(1, [False, True]))
def test_a_file_where_a_folder_is_needed_is_73_before_the_first_body(
    bench: Bench, command: str, place: str, *, link: bool
) -> None:
    thing = bench.root / place
    thing.parent.mkdir(parents=True, exist_ok=True)
    if link:
        thing.symlink_to("nowhere")
    else:
        thing.write_bytes(b"precious")
    result = bench.run(command, bench.manifest(pinned(bench)))
    assert (result.code, set(result.codes())) == (73, {"foreign-file"}), result.err
    assert bodies(bench) == 0
    assert thing.is_symlink() if link else thing.read_bytes() == b"precious"


def optional(bench: Bench) -> dict[str, Any]:
    """An optional model for a separate consumer, for which the tier has another model too."""
    bench.world.hf_repo("acme/opt", {"opt.safetensors": WEIGHTS})
    return {
        "name": "opt",
        "kind": "vae",
        "source": "hf://acme/opt/opt.safetensors",
        "filename": "sub/opt.safetensors",
        "for": ["comfyui"],
        "optional": True,
    }


@pytest.mark.parametrize("command", ["plan", "sync"])
def test_an_optional_model_whose_folder_is_blocked_is_left_out(bench: Bench, command: str) -> None:
    blocking = bench.root / "comfyui/models/vae/sub"
    blocking.parent.mkdir(parents=True)
    blocking.write_bytes(b"precious")
    result = bench.run(command, bench.manifest(pinned(bench), optional(bench)))
    assert (result.code, result.codes()) == (0, []), result.err
    assert "opt is optional and was left out" in result.err
    assert blocking.read_bytes() == b"precious"
    assert bench.run("sync", bench.manifest(pinned(bench), {**optional(bench), "optional": False})).code == 73


@pytest.fixture
def nearly_full(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs

    def found(path: Any) -> os.statvfs_result:
        said = list(real(path))
        said[4] = int(WEIGHTS.size * 1.5) // said[1]
        return os.statvfs_result(said)

    monkeypatch.setattr(os, "statvfs", found)


@pytest.mark.usefixtures("nearly_full")
def test_optional_models_are_fetched_as_far_as_the_space_allows(bench: Bench) -> None:
    large = {**optional(bench), "source": other(bench)}
    bench.world.hf_repo("acme/small", {"s.json": b"{}"})
    small = {**large, "name": "small", "source": "hf://acme/small/s.json", "filename": "s.json"}
    result = bench.run("sync", bench.manifest(large, pinned(bench), {**large, "name": "x", "filename": "x"}, small))
    assert result.code == 0, result.err
    assert [model["ok"] for model in result.report["models"]] == [False, True, False, True]


@pytest.mark.usefixtures("nearly_full")
@pytest.mark.parametrize("command", ["plan", "sync"])
def test_an_optional_model_that_does_not_fit_is_left_out(bench: Bench, command: str) -> None:
    models = [pinned(bench), {**optional(bench), "source": other(bench)}]
    result = bench.run(command, bench.manifest(*models))
    assert (result.code, result.codes()) == (0, []), result.err
    assert "opt is optional and was left out" in result.err
    models[1]["optional"] = False
    assert bench.run(command, bench.manifest(*models)).codes() == ([] if command == "sync" else ["no-space"])


def other(bench: Bench) -> str:
    """A source of as many other bytes."""
    data = bytearray(WEIGHTS.read(0, WEIGHTS.size))
    data[-1] ^= 1
    bench.world.hf_repo("acme/other", {"opt.safetensors": bytes(data)})
    return "hf://acme/other/opt.safetensors"


def there_for_one_of_two(bench: Bench) -> tuple[dict[str, Any], Path]:
    """A model for two consumers, and its file, which is in place for the first."""
    there = bench.root / "comfyui/models/vae/pinned.safetensors"
    there.parent.mkdir(parents=True)
    there.write_bytes(bytes(WEIGHTS.read(0, WEIGHTS.size)))
    return {**pinned(bench), "for": ["comfyui", "stable-diffusion"]}, there


def test_a_file_that_is_there_and_serves_another_consumer_needs_no_space_and_is_nothing_to_fetch(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, there = there_for_one_of_two(bench)
    real = os.statvfs

    def full(path: Any) -> os.statvfs_result:
        said = list(real(path))
        said[4] = 1
        return os.statvfs_result(said)

    monkeypatch.setattr(os, "statvfs", full)
    monkeypatch.setattr("modelfetch.core.fs.try_reflink", lambda *_: False)
    for command in ("plan", "sync"):
        result = bench.run(command, bench.manifest(entry))
        assert (result.code, result.codes()) == (0, []), result.err
    assert "to download, " not in result.err.replace("nothing to download, ", "")
    assert there.samefile(bench.root / "stable-diffusion/models/VAE/pinned.safetensors")


def test_a_file_that_is_there_and_can_not_be_linked_needs_space_for_each_copy(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, _ = there_for_one_of_two(bench)
    monkeypatch.setattr("modelfetch.pipeline.probes.LinkProbe.works", lambda *_: False)
    bench.capsys.readouterr()
    assert run(["plan", "--manifest", str(bench.manifest(entry)), "--root", str(bench.root)]) == 0
    assert "740.1 KiB needed, 370.1 KiB of it copies" in bench.capsys.readouterr().out


def test_the_minimum_of_free_space_is_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    statvfs = os.statvfs

    def small(path: Any) -> Any:
        found = statvfs(path)
        blocks = (WEIGHTS.size + 2**20) // found.f_frsize + 1
        return os.statvfs_result((*found[:3], blocks, blocks, *found[5:]))

    monkeypatch.setattr(os, "statvfs", small)
    entry = pinned(bench)
    for command in ("plan", "sync"):
        result = bench.run(command, bench.manifest(entry), "--min-free", "8MiB")
        assert (result.code, result.codes()) == (74, ["no-space"])
    assert not (bench.root / "comfyui").exists()
    assert bench.run("sync", bench.manifest(entry), "--min-free", "64KiB").code == 0
    assert bench.run("sync", bench.manifest(entry), "--min-free", "8TiB").code == 0  # nothing is needed any more


@pytest.mark.parametrize("command", ["plan", "sync", "status"])
def test_a_root_that_is_not_mounted_is_not_filled(bench: Bench, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    entry = pinned(bench)
    bench.root.mkdir()
    monkeypatch.setenv("MODELFETCH_REQUIRE_MARKER", "1")
    mark = bench.hub.log.mark()
    result = bench.run(command, bench.manifest(entry))
    assert (result.code, result.codes()) == (73, ["root-not-mounted"])
    assert (list(bench.root.iterdir()), bench.hub.log.since(mark)) == ([], [])
    (bench.root / ".modelfetch").mkdir()
    assert bench.run(command, bench.manifest(entry)).code == (1 if command == "status" else 0)


def test_a_root_that_was_filled_before_has_its_marker(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = pinned(bench)
    assert bench.sync(entry).code == 0
    monkeypatch.setenv("MODELFETCH_REQUIRE_MARKER", "1")
    assert bench.sync(entry).code == 0


@pytest.mark.parametrize("command", ["plan", "sync"])
def test_a_file_too_large_for_the_file_system_is_reported_before_any_download(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr("modelfetch.pipeline.preflight.largest_file", lambda _: WEIGHTS.size - 1)
    result = bench.run(command, bench.manifest(pinned(bench)))
    assert (result.code, result.codes()) == (74, ["file-too-large"])
    assert bodies(bench) == 0


@pytest.mark.parametrize("command", ["plan", "sync"])
def test_a_mount_without_random_writes_is_reported_before_any_download(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """As rclone mounts are by default."""

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if offset != os.fstat(fd).st_size:
            raise OSError(errno.ESPIPE, os.strerror(errno.ESPIPE))
        return os.write(fd, data)

    monkeypatch.setattr(os, "pwrite", pwrite)
    result = bench.run(command, bench.manifest(pinned(bench)))
    assert (result.code, result.codes()) == (73, ["not-writable"])
    assert "rclone" in result.report["errors"][0]["hint"]
    assert bodies(bench) == 0
    assert list(bench.folder.glob(".modelfetch-*")) == []
