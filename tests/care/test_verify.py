"""What verify finds, and what it notes."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

import modelfetch
from modelfetch.cli.app import run
from modelfetch.cli.fastpath.check import attempt
from modelfetch.store.checks import now
from tests.care.conftest import actions
from tests.cases import first
from tests.damage import flip
from tests.pipeline.entries import WEIGHTS, ollama, read, sha256, vae, whisper

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.pipeline.conftest import Bench, Result

ONE, TWO = "stable-diffusion/models/VAE/art.safetensors", "comfyui/models/vae/art.safetensors"


def test_a_whole_root_is_verified_without_a_request(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(vae(bench), ollama(bench), whisper(bench))
    result = care("verify")
    assert result.code == 0, result.out
    assert set(actions(result).values()) == {"present"}
    assert result.report["requests"] == 0


def test_silent_damage_is_reported_for_every_hardlink(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(vae(bench))
    flip(bench.root / ONE)
    assert care("verify", "--quick").code == 0
    result = care("verify")
    assert result.code == 1
    assert actions(result) == {ONE: "damaged", TWO: "damaged"}
    assert "hint: the same command with --repair" in result.err


def test_a_damaged_copy_does_not_mark_the_blob_as_damaged(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(vae(bench))
    path = bench.root / TWO
    copy = path.with_suffix(".copy")
    shutil.copyfile(path, copy)
    os.utime(copy, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    copy.replace(path)
    flip(path)
    assert actions(care("verify")) == {ONE: "present", TWO: "damaged"}


@pytest.mark.parametrize("pattern", ["comfyui/**/art.safetensors", ".modelfetch/blobs/sha256/*/*", "**/refs/main"])
def test_of_a_file_that_is_too_long_only_so_much_is_read_as_it_should_have(
    bench: Bench, care: Callable[..., Result], pattern: str
) -> None:
    """Hashing the whole sparse file would take an hour."""
    bench.sync(vae(bench), whisper(bench))
    path = next(path for path in bench.root.glob(pattern) if path.suffix != ".json")
    path.unlink()
    path.touch()
    os.truncate(path, 2**40)
    assert care("verify").code == 1
    assert care("verify", "--repair").code == 0
    assert path.stat().st_size < 2**30
    assert set(actions(care("verify")).values()) == {"present"}


@pytest.mark.parametrize("seconds", first(1, [2**40, -(2**40), 2**33, -10]))
def test_a_file_with_a_senseless_date_keeps_its_entry_in_the_receipt(
    bench: Bench, care: Callable[..., Result], seconds: int
) -> None:
    """And those of all other files of the service: one such date let the whole receipt count as damaged."""
    bench.sync(vae(bench), whisper(bench))
    records = list((bench.root / ".modelfetch/blobs/sha256").glob("??/*.json"))[1:]
    for path in (bench.root / TWO, *(bench.root / "whisper/hub").glob("*/refs/main"), *records):
        try:
            os.utime(path, (seconds, seconds))
        except (OSError, OverflowError):
            pytest.skip("this file system has no such dates")
    assert care("verify").code == 0
    assert care("verify", "--quick").code == 0
    assert care("list").code == 0
    assert care("remove", "vae", "w").code == 0
    assert not (bench.root / TWO).exists()


@pytest.mark.parametrize("days", first(2, [40_000, 0.1, -400]))
def test_a_check_that_a_wrong_clock_dated_later_than_now_is_repeated(
    bench: Bench, care: Callable[..., Result], days: float
) -> None:
    bench.sync(vae(bench))
    care("verify")
    at = int((now() + timedelta(days=days)).timestamp())
    for path in bench.root.glob(".modelfetch/checks.json"):
        found = json.loads(path.read_text())
        path.write_text(json.dumps({**found, "checked": {k: [*v[:2], at, v[3]] for k, v in found["checked"].items()}}))
    flip(bench.root / ONE)
    assert care("verify", "--older-than", "30d").code == (0 if days == 0.1 else 1)


def test_verify_quick_reports_damage_that_was_found_before(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(vae(bench))
    flip(bench.root / ONE)
    care("verify")
    assert care("verify", "--quick").code == 1


@pytest.mark.parametrize("quick", first(1, [True, False]))
def test_missing_and_changed_files_are_distinguished(bench: Bench, care: Callable[..., Result], *, quick: bool) -> None:
    bench.sync(vae(bench), whisper(bench))
    (bench.root / ONE).unlink()
    other = bench.root / TWO
    other.unlink()
    other.write_bytes(b"mine")
    result = care("verify", *(["--quick"] if quick else []))
    assert result.code == 1
    found = actions(result)
    assert (found.pop(ONE), found.pop(TWO)) == ("missing", "changed")
    assert set(found.values()) == {"present"}


def test_a_file_with_another_mtime_and_the_right_bytes_passes(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(vae(bench))
    os.utime(bench.root / ONE, ns=(1, 1))
    assert actions(care("verify", "--quick"))[ONE] == "changed"
    assert actions(care("verify"))[ONE] == "present"


def test_recently_verified_files_are_skipped(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(vae(bench))
    flip(bench.root / ONE)
    assert care("verify", "--older-than", "30d").code == 0
    checks = bench.root / ".modelfetch/checks.json"
    blob = next((bench.root / ".modelfetch/blobs/sha256").glob("??/*.json"))
    os.utime(blob, (1, 1))
    assert not checks.exists()
    assert care("verify", "--older-than", "30d").code == 1
    (check, *same) = json.loads(checks.read_text())["checked"].values()
    assert same == [check, check]  # the blob, and both of its links
    assert check[3] is False


def test_a_manifest_limits_the_check_and_missing_models_are_named(bench: Bench) -> None:
    bench.sync(vae(bench), ollama(bench))
    flip(bench.root / ONE)
    assert bench.run("verify", bench.manifest(ollama(bench))).code == 0
    result = bench.run("verify", bench.manifest(vae(bench), whisper(bench)))
    assert result.code == 1
    assert {m["name"]: m["artifacts"][0]["action"] for m in result.report["models"]} == {
        "vae": "damaged",
        "w": "missing",
    }


def test_a_damaged_blob_that_no_service_uses_is_found(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(vae(bench))
    shutil.rmtree(bench.root / "stable-diffusion")
    shutil.rmtree(bench.root / "comfyui")
    for receipt in (bench.root / ".modelfetch/receipts").glob("*.json"):
        receipt.unlink()
    flip(next(p for p in (bench.root / ".modelfetch/blobs/sha256").glob("??/*") if p.suffix != ".json"))
    result = care("verify")
    assert result.code == 1
    assert [m["name"] for m in result.report["models"]] == ["unused blobs"]


@pytest.mark.parametrize("words", [["verify"], ["verify", "--repair"], ["list"], ["prune"], ["remove", "vae"]])
def test_verify_of_a_missing_root_is_an_error_and_does_not_create_it(
    bench: Bench, care: Callable[..., Result], words: list[str]
) -> None:
    result = care(*words)
    assert result.code == 73
    assert "root-not-mounted" in result.out
    assert not bench.root.exists()
    assert (modelfetch.verify(root=bench.root).exit_code, modelfetch.prune(root=bench.root).exit_code) == (73, 73)


@pytest.mark.parametrize(
    "words", [["verify"], ["list"], ["prune"], ["remove", "vae"], ["adopt", "."], ["adopt", "--dedupe", "."]]
)
def test_no_command_works_on_a_root_without_its_required_marker(
    bench: Bench, care: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    bench.root.mkdir()
    monkeypatch.setenv("MODELFETCH_REQUIRE_MARKER", "1")
    result = care(*words)
    assert result.code == 73
    assert "root-not-mounted" in result.out
    assert list(bench.root.iterdir()) == []


def test_an_empty_root_is_reported_as_empty(bench: Bench) -> None:
    bench.root.mkdir()
    assert run(["verify", "--root", str(bench.root)]) == 0
    assert f"nothing to check in {bench.root}" in bench.capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["--repair"], ["--quick"]])
def test_an_unknown_model_is_a_usage_error_that_suggests_a_similar_one(
    bench: Bench, care: Callable[..., Result], words: list[str]
) -> None:
    bench.sync(vae(bench))
    result = care("verify", *words, "--model", "vaee")
    assert (result.code, result.codes()) == (2, ["not-placed"])
    assert "'vae'" in result.err


def test_an_unknown_model_in_a_variable_is_78(
    bench: Bench, care: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.sync(vae(bench))
    monkeypatch.setenv("MODELFETCH_VERIFY_MODEL", "vaee")
    result = care("verify")
    assert (result.code, result.codes()) == (78, ["not-placed"])
    assert "MODELFETCH_VERIFY_MODEL: no model 'vaee'" in result.err
    assert care("verify", "--model", "vae").code == 0


def test_verify_reports_models_that_were_never_placed(bench: Bench) -> None:
    bench.root.mkdir()
    manifest = bench.manifest(vae(bench, digest=sha256(WEIGHTS)))
    assert run(["verify", "--repair", "--manifest", str(manifest), "--root", str(bench.root)]) == 1
    assert "modelfetch sync" in bench.capsys.readouterr().out


def test_status_shows_times_of_verification_and_damage(bench: Bench, care: Callable[..., Result]) -> None:
    manifest = bench.manifest(vae(bench), ollama(bench))
    bench.run("sync", manifest)
    flip(bench.root / ONE)
    care("verify")
    bench.capsys.readouterr()
    run(["status", "--manifest", str(manifest), "--root", str(bench.root)])
    out = bench.capsys.readouterr().out
    assert "1 damaged" in out
    assert now().date().isoformat() in out
    run(["status", "--manifest", str(manifest), "--root", str(bench.root), "--format", "prom"])
    out = bench.capsys.readouterr().out
    assert 'modelfetch_model_damaged_files{tier="test",model="vae",consumer="comfyui"} 1' in out
    assert 'modelfetch_model_state{tier="test",model="vae",consumer="comfyui",state="damaged"} 1' in out
    assert re.search(r'modelfetch_model_check_age_seconds\{[^}]*model="tiny"[^}]*\} \d+\n', out)
    assert re.search(r'modelfetch_disk_bytes\{consumer="ollama"\} \d+\n', out)
    assert "modelfetch_reclaimable_bytes 0\n" in out


@pytest.mark.parametrize(
    ("number", "action", "code"),
    [(errno.ENOENT, "missing", 1), (errno.EACCES, "failed", 73), (errno.EIO, "damaged", 74)],
)
def test_unreadable_files_are_distinguished_from_damaged_ones(
    bench: Bench, care: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, number: int, action: str, code: int
) -> None:
    bench.sync(vae(bench))

    def refuse(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number), "x")

    monkeypatch.setattr(os, "readv", refuse)
    result = care("verify")
    assert (result.code, actions(result)) == (code, {ONE: action, TWO: action})
    monkeypatch.undo()
    assert care("verify", "--quick").code == (1 if action == "damaged" else 0)


def test_a_file_that_the_disk_cannot_read_is_repaired(
    bench: Bench, care: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.sync(vae(bench))
    refused = (bench.root / ONE).stat().st_ino
    readv = os.readv

    def read(fd: int, buffers: list[memoryview]) -> int:
        if os.fstat(fd).st_ino == refused:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return readv(fd, buffers)

    monkeypatch.setattr(os, "readv", read)
    result = care("verify", "--repair")
    assert result.code == 0, result.err
    assert (bench.root / ONE).stat().st_ino != refused
    assert (bench.root / ONE).samefile(bench.root / TWO)


@pytest.mark.parametrize("offline", first(1, [False, True]))
def test_damage_is_recorded_until_it_is_repaired(bench: Bench, care: Callable[..., Result], *, offline: bool) -> None:
    manifest = bench.manifest(vae(bench), whisper(bench))
    bench.run("sync", manifest)
    flip(bench.root / ONE)
    assert care("verify").code == 1
    if not offline:
        del bench.world.repos["acme/art"]
    assert care("verify", "--repair", *(["--offline"] if offline else [])).code not in (0, 1)
    assert actions(care("verify", "--quick"))[ONE] == "damaged"
    status = bench.run("status", manifest)
    assert (status.code, actions(status)[ONE]) == (1, "damaged")


def test_a_file_recorded_as_damaged_is_ready_once_it_verifies(bench: Bench, care: Callable[..., Result]) -> None:
    manifest = bench.manifest(vae(bench))
    bench.run("sync", manifest)
    flip(bench.root / ONE)
    assert care("verify").code == 1
    flip(bench.root / ONE)
    assert care("verify").code == 0
    assert bench.run("status", manifest).code == 0


@pytest.mark.parametrize("path", first(2, [ONE, "whisper", TWO]))
def test_sync_restores_what_verify_found_damaged(bench: Bench, care: Callable[..., Result], path: str) -> None:
    manifest = bench.manifest(vae(bench), whisper(bench))
    bench.run("sync", manifest)
    file = bench.root / path
    if path == "whisper":
        file = next(p for p in file.rglob("hub/*/blobs/*") if p.stat().st_size > 100)
    data = file.read_bytes()
    flip(file)
    assert bench.run("sync", manifest).code == 0  # the damage is not known yet
    assert care("verify").code == 1
    assert bench.run("sync", manifest).code == 0
    assert file.read_bytes() == data
    assert not (bench.root / ".modelfetch/displaced").exists()
    assert bench.run("status", manifest).code == 0
    assert care("verify").code == 0


def test_damage_found_by_verify_disables_the_fast_path_of_sync(bench: Bench, care: Callable[..., Result]) -> None:
    manifest = bench.manifest(vae(bench))
    words = ["sync", "--manifest", str(manifest), "--root", str(bench.root)]
    assert run(words) == 0
    assert run(words) == 0
    assert attempt(words) == 0
    flip(bench.root / ONE)
    assert care("verify").code == 1
    assert attempt(words) is None


def test_sync_fails_and_keeps_the_record_of_damage_that_it_cannot_restore(
    bench: Bench, care: Callable[..., Result]
) -> None:
    manifest = bench.manifest(vae(bench))
    bench.run("sync", manifest)
    flip(bench.root / ONE)
    assert care("verify").code == 1
    for _ in range(2):
        assert bench.run("sync", manifest, "--offline").code == 69
    assert (bench.root / ONE).exists()
    assert actions(bench.run("status", manifest))[ONE] == "damaged"
    assert bench.run("sync", manifest).code == 0
    assert care("verify").code == 0


def test_a_touched_file_is_ready_after_it_was_hashed_again(bench: Bench, care: Callable[..., Result]) -> None:
    manifest = bench.manifest(vae(bench), whisper(bench))
    bench.run("sync", manifest)
    config = next(p for p in (bench.root / "whisper/hub").rglob("blobs/*") if p.stat().st_size < 64 * 1024)
    replaced = bench.root / "comfyui/models/vae/art.safetensors"  # no hardlink of its blob any more
    replaced.unlink()
    replaced.write_bytes(read(WEIGHTS))
    for path in (replaced, config):
        os.utime(path, (5, 5))
    assert bench.run("status", manifest).code == 1
    assert care("verify").code == 0
    assert bench.run("status", manifest).code == 0
    assert care("verify", "--quick").code == 0


def test_a_manifest_that_ollama_reencoded_counts_as_unchanged(bench: Bench, care: Callable[..., Result]) -> None:
    manifest = bench.manifest(ollama(bench))
    bench.run("sync", manifest)
    tag = bench.root / "ollama/models/manifests/registry.ollama.ai/library/tiny/1b"
    raw = json.loads(tag.read_text())
    for text in (json.dumps(raw, indent=2), json.dumps(dict(reversed(raw.items())))):
        tag.write_text(text)
        for words in (("status", str(manifest)), ("verify", "--quick"), ("verify",), ("prune", "--dry-run")):
            assert care(*words).code == 0, words
    tag.write_text(json.dumps(raw, indent=4))
    assert bench.run("sync", manifest).code == 0
    assert tag.read_text() == json.dumps(raw, indent=4)
    assert not (bench.root / ".modelfetch/displaced").exists()
    tag.write_text(json.dumps({**raw, "layers": raw["layers"][:1]}))
    assert actions(care("verify"))[str(tag.relative_to(bench.root))] == "changed"


def test_a_model_whose_manifest_ollama_encoded_again_is_removed_as_a_whole(
    bench: Bench, care: Callable[..., Result]
) -> None:
    bench.sync(ollama(bench))
    tag = bench.root / "ollama/models/manifests/registry.ollama.ai/library/tiny/1b"
    tag.write_text(json.dumps(json.loads(tag.read_text()), indent=2))
    result = care("remove", next(model["name"] for model in care("verify", "--quick").report["models"]))
    assert set(actions(result).values()) == {"removed"}
    assert not [path for path in (bench.root / "ollama").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("gone", "by", "code"),
    first(
        2,
        [
            ("manifests-v2", "nothing", 0),
            ("manifests-v2", "file", 1),
            ("manifests-v2/ollama.com", "nothing", 0),
            ("manifests-v2/ollama.com/library", "file", 1),
            ("manifests-v2", "link", 1),
            ("manifests", "nothing", 1),
        ],
    ),
)
def test_status_and_verify_agree_about_the_manifests_of_ollama_0_40(
    bench: Bench, care: Callable[..., Result], gone: str, by: str, code: int
) -> None:
    """Without a newer manifest Ollama reads the older one, but something else than a folder there stops `sync`."""
    models = bench.root / "ollama/models"
    (models / "manifests-v2").mkdir(parents=True)
    manifest = bench.manifest(ollama(bench))
    assert bench.run("sync", manifest).code == 0
    shutil.rmtree(models / gone)
    if by == "file":
        (models / gone).write_text("mine")
    elif by == "link":
        (models / gone).symlink_to("nowhere")
    found = [bench.run("status", manifest), bench.run("verify", manifest), care("verify"), care("verify", "--quick")]
    assert [one.code for one in found] == [code] * 4
    assert bench.run("sync", manifest).code == (0 if by == "nothing" else 73)
