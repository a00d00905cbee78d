"""What prune and remove delete, and what they never touch."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.care import deletion, removal
from modelfetch.care.inventory import Condition, Inventory, Item, Origin
from modelfetch.care.references import References
from modelfetch.cli.app import run
from modelfetch.core.digest import Digest
from modelfetch.placement.receipts import Receipt, read_receipt, write_receipt
from modelfetch.store import Store
from tests.care.conftest import actions
from tests.cases import first
from tests.pipeline.entries import OTHER, WEIGHTS, commit, ollama, read, vae, whisper

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.pipeline.conftest import Bench, Result

ONE, TWO = "stable-diffusion/models/VAE/art.safetensors", "comfyui/models/vae/art.safetensors"


def files(root: Path) -> set[str]:
    """Everything below the services' folders."""
    return {
        str(path.relative_to(root))
        for path in root.rglob("*")
        if not path.is_dir() and not path.is_relative_to(root / ".modelfetch")
    }


def blobs(root: Path) -> list[Path]:
    return [p for p in (root / ".modelfetch/blobs/sha256").glob("??/*") if p.suffix != ".json"]


def test_removing_a_model_removes_its_files_blobs_and_receipt_entries(
    bench: Bench, care: Callable[..., Result]
) -> None:
    bench.sync(vae(bench), ollama(bench))
    before = files(bench.root)
    result = care("remove", "vae")
    assert result.code == 0, result.err
    assert actions(result) == {ONE: "removed", TWO: "removed"}
    assert files(bench.root) == before - {ONE, TWO}
    assert Digest.sha256(read(WEIGHTS)).hex not in [path.name for path in blobs(bench.root)]
    assert json.loads((bench.root / ".modelfetch/receipts/comfyui.json").read_text())["placements"] == {}
    assert "the next sync of it places it again" in result.err
    assert care("verify").code == 0
    assert bench.sync(vae(bench), ollama(bench)).code == 0
    assert files(bench.root) == before


@pytest.mark.parametrize("times", [1, 9])
def test_a_receipt_that_another_process_took_over_meanwhile_is_read_again(
    bench: Bench, care: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """As after a suspension: its entries are kept, and an older receipt is not written over it."""
    bench.sync(vae(bench))
    newer = "comfyui/models/vae/newer.safetensors"
    left = [times]
    without = deletion._without_paths

    def taken_over(receipt: Receipt, gone: set[str]) -> Receipt:
        if receipt.consumer == "comfyui" and left[0]:
            left[0] -= 1
            (bench.root / ".modelfetch/locks/consumer-comfyui.lock").unlink()
            write_receipt(
                bench.root,
                replace(receipt, entries={**receipt.entries, newer: receipt.entries[TWO]}),
                confirm=lambda: None,
            )
        return without(receipt, gone)

    monkeypatch.setattr(deletion, "_without_paths", taken_over)
    result = care("remove", "vae")
    entries = read_receipt(bench.root, "comfyui").entries
    assert newer in entries
    assert (result.code, TWO in entries) == ((0, False) if times == 1 else (75, True)), result.err


def test_a_dry_run_names_the_same_files_and_removes_none(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(vae(bench), whisper(bench))
    before = files(bench.root)
    result = care("remove", "w", "--dry-run")
    assert set(actions(result).values()) == {"would-remove"}
    assert files(bench.root) == before
    assert set(actions(care("remove", "w"))) == set(actions(result))


def test_folders_of_a_removed_snapshot_are_removed_and_those_of_the_service_kept(
    bench: Bench, care: Callable[..., Result]
) -> None:
    bench.sync(whisper(bench), vae(bench))
    care("remove", "w", "vae")
    assert not (bench.root / "whisper/hub/models--acme--whisper").exists()
    assert (bench.root / "whisper/hub").is_dir()
    assert (bench.root / "comfyui/models/vae").is_dir()


@pytest.mark.parametrize("words", [("remove", "vae"), ("prune", "--keep-tier", "none")])
def test_changed_adopted_and_foreign_files_are_never_touched(
    bench: Bench, care: Callable[..., Result], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    adopted = bench.root / ONE
    adopted.parent.mkdir(parents=True)
    adopted.write_bytes(read(WEIGHTS))
    digest = f"sha256:{Digest.sha256(read(WEIGHTS)).hex}"
    assert bench.sync(vae(bench, digest=digest)).code == 0
    changed = bench.root / TWO
    changed.unlink()
    changed.write_bytes(b"changed by hand")
    foreign = bench.root / "comfyui/models/vae/foreign.safetensors"
    foreign.write_bytes(b"foreign")
    bench.manifest(tier="none")
    monkeypatch.setenv("MODELFETCH_TIERS_DIR", str(bench.folder))
    before = files(bench.root)
    result = care(*words)
    assert result.code == 0, result.err
    assert files(bench.root) == before
    assert actions(result) == {ONE: "adopted", TWO: "changed"}


def test_a_model_requested_by_a_kept_tier_is_kept(
    bench: Bench, care: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELFETCH_TIERS_DIR", str(bench.folder))
    bench.sync(vae(bench), ollama(bench), tier="large")
    bench.sync(vae(bench), tier="small")
    before = files(bench.root)
    care("remove", "vae", "--keep-tier", "small")
    assert files(bench.root) == before
    bench.capsys.readouterr()
    assert run(["remove", "vae", "--keep-tier", "small", "--root", str(bench.root)]) == 0
    assert "kept: vae for comfyui, 1 file: tier small needs it" in bench.capsys.readouterr().out
    result = care("prune", "--tier", "small")
    assert result.code == 0, result.err
    assert files(bench.root) == {ONE, TWO}
    assert set(actions(result).values()) == {"removed"}


def test_a_model_resolved_by_another_manifest_is_kept(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(ollama(bench), whisper(bench), tier="large")
    before = files(bench.root)
    renamed = {**ollama(bench), "name": "other"}
    never_synced = bench.manifest(renamed, whisper(bench), tier="small")
    result = care("prune", str(never_synced))
    assert result.code == 0, result.err
    assert files(bench.root) == before


def test_remove_removes_known_models_and_reports_the_unknown_one(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(vae(bench))
    result = care("remove", "vae", "vea")
    assert (result.code, result.codes()) == (2, ["not-placed"])
    assert not (bench.root / ONE).exists()


def test_blobs_of_an_unfinished_sync_are_kept_for_the_next_one(bench: Bench, care: Callable[..., Result]) -> None:
    missing = vae(bench, source="hf://acme/art/nowhere.safetensors", name="gone")
    assert bench.sync(ollama(bench), missing, options=("--keep-going",)).code == 66
    for path in (bench.root / "ollama", bench.root / ".modelfetch/receipts", bench.root / ".modelfetch/journal"):
        shutil.rmtree(path)
    partial = bench.root / ".modelfetch/ingest/half.part"
    partial.write_bytes(b"p" * 100)
    before = blobs(bench.root)
    assert before
    result = care("prune")
    assert {a["action"] for m in result.report["models"] for a in m["artifacts"]} == {"present"}
    assert blobs(bench.root) == before
    other = bench.manifest(vae(bench, digest="sha256:" + "0" * 64, size=1), tier="other")
    assert care("prune", str(other), "--dry-run").report["models"]
    care("prune", "--older-than", "0s")
    assert blobs(bench.root) == []


def test_an_unused_blob_is_removed_at_once_if_no_download_is_unfinished(
    bench: Bench, care: Callable[..., Result]
) -> None:
    bench.sync(ollama(bench))
    for path in (bench.root / "ollama", bench.root / ".modelfetch/receipts", bench.root / ".modelfetch/journal"):
        shutil.rmtree(path)
    assert blobs(bench.root)
    assert care("prune").code == 0
    assert blobs(bench.root) == []


def test_prune_without_a_tier_removes_only_leftovers(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(vae(bench), ollama(bench), whisper(bench))
    ingest = bench.root / ".modelfetch/ingest"
    ingest.mkdir(exist_ok=True)
    old, new = ingest / "old.part", ingest / "new.part"
    for path in (old, new):
        path.write_bytes(b"p" * 100)
    os.utime(old, (1, 1))
    before = files(bench.root), len(blobs(bench.root))
    result = care("prune")
    assert (files(bench.root), len(blobs(bench.root))) == before
    assert not old.exists()
    assert new.exists()
    assert [m["name"] for m in result.report["models"]] == ["leftovers"]


def test_prune_frees_the_space_of_a_model_that_the_tier_dropped(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(vae(bench), ollama(bench))
    manifest = bench.manifest(vae(bench))
    result = care("prune", str(manifest))
    assert result.code == 0, result.err
    assert files(bench.root) == {ONE, TWO}
    assert len(blobs(bench.root)) == 1
    assert bench.run("sync", manifest).report["bytes_fetched"] == 0


def test_a_model_pulled_by_ollama_itself_keeps_the_blobs_that_it_shares(
    bench: Bench, care: Callable[..., Result]
) -> None:
    bench.sync(ollama(bench))
    folder = bench.root / "ollama/models/manifests/registry.ollama.ai/library"
    ours = folder / "tiny/1b"
    theirs = folder / "mine/latest"
    theirs.parent.mkdir()
    raw = json.loads(ours.read_text())
    shared, dropped = raw["layers"][0]["digest"], raw["layers"][1]["digest"]
    theirs.write_text(json.dumps({**raw, "layers": raw["layers"][:1]}))
    assert care("remove", "tiny").code == 0
    left = files(bench.root)
    assert f"ollama/models/blobs/{shared.replace(':', '-')}" in left
    assert f"ollama/models/blobs/{dropped.replace(':', '-')}" not in left
    assert str(theirs.relative_to(bench.root)) in left
    assert not ours.exists()


@pytest.mark.parametrize("form", first(3, ["tag", "list", "unreadable", "symlink", "shadow", "no list"]))
def test_the_roots_of_ollama_0_40_keep_their_blobs(bench: Bench, care: Callable[..., Result], form: str) -> None:
    bench.sync(ollama(bench))
    models = bench.root / "ollama/models"
    ours = models / "manifests/registry.ollama.ai/library/tiny/1b"
    data = ours.read_bytes()
    blob = models / f"blobs/sha256-{Digest.sha256(data).hex}"
    tag = models / "manifests-v2/ollama.com/library/tiny/1b"
    if form == "shadow":
        tag = models / f"manifests/registry.ollama.ai/library/llamacpp/{Digest.sha256(data).hex}"
    tag.parent.mkdir(parents=True)
    if form == "list":
        blob.write_bytes(data)
        child = {"mediaType": "x", "digest": f"sha256:{blob.name[7:]}", "runner": "ggml"}
        tag.write_text(json.dumps({"schemaVersion": 2, "manifests": [child]}))
    elif form == "symlink":
        blob.write_bytes(data)
        tag.symlink_to(os.path.relpath(blob, tag.parent))
    else:
        tag.write_bytes({"unreadable": b"not JSON", "no list": b'{"manifests": 5}'}.get(form, data))
    before = files(bench.root)
    result = care("remove", "tiny")
    assert result.code == 0, result.err
    assert files(bench.root) == before - {str(ours.relative_to(bench.root))}


@pytest.mark.parametrize("unlisted", ["manifests/registry.ollama.ai/library/mine", "manifests"])
def test_blobs_are_kept_if_a_folder_of_manifests_can_not_be_listed(
    bench: Bench, care: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, unlisted: str
) -> None:
    bench.sync(ollama(bench))
    ours = bench.root / "ollama/models/manifests/registry.ollama.ai/library/tiny/1b"
    theirs = ours.parents[1] / "mine/latest"
    theirs.parent.mkdir()
    theirs.write_bytes(ours.read_bytes())
    folder = bench.root / "ollama/models" / unlisted
    scandir = os.scandir

    def refuse(path: Any = ".") -> Any:
        if str(path) == str(folder):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    before = files(bench.root)
    monkeypatch.setattr(os, "scandir", refuse)
    result = care("remove", "tiny")
    monkeypatch.undo()
    assert result.code == 0, result.err
    assert files(bench.root) == before - {str(ours.relative_to(bench.root))}


@pytest.mark.parametrize("words", [("remove", "vae"), ("prune", "--keep-tier", "empty")], ids=" ".join)
def test_the_same_command_finishes_a_removal_whose_blob_could_not_be_deleted(
    bench: Bench, care: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("MODELFETCH_TIERS_DIR", str(bench.folder))
    bench.manifest(tier="empty")
    bench.sync(vae(bench))

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    with monkeypatch.context() as refusing:
        refusing.setattr(Store, "remove", refuse)
        assert care(*words).code == 73
    assert not (bench.root / ONE).exists()
    result = care(*words)
    assert result.code == 0, result.err
    assert not blobs(bench.root)
    assert not care("list").report["entries"]


def test_planning_a_removal_takes_time_in_proportion_to_the_blobs(monkeypatch: pytest.MonkeyPatch) -> None:
    comparisons = 0
    is_young = removal._is_young

    def counted(*args: Any) -> bool:
        nonlocal comparisons
        comparisons += 1
        return is_young(*args)

    monkeypatch.setattr(removal, "_is_young", counted)
    state: dict[str, Any] = {"condition": Condition.PRESENT, "size": 1, "links": 1, "mtime_ns": time.time_ns()}
    unused = [
        Item(file=Path(f"/store/{i}"), origin=Origin.BLOB, digest=f"sha256:{i:064x}", inode=(1, i), **state)
        for i in range(300)
    ]
    partial = Item(file=Path("/store/x.part"), origin=Origin.PARTIAL, inode=(1, 300), **state)
    inventory = Inventory(root=Path("/root"), store=Path("/store"), items=(*unused, partial), receipts={})
    plan = removal.plan_removal(inventory, References(), removal.Rules(wanted=lambda _: True, now=time.time()))
    assert (len(plan.kept), plan.items) == (300, ())
    assert comparisons < 3 * 300


def test_a_cache_blob_is_kept_while_another_snapshot_needs_it(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(whisper(bench))
    folder = bench.root / "whisper/hub/models--acme--whisper"
    link = folder / "snapshots" / commit(bench, "acme/whisper") / "config.json"
    other = folder / "snapshots" / ("0" * 40) / "config.json"
    other.parent.mkdir()
    other.symlink_to(link.readlink())
    care("remove", "w")
    assert other.resolve().is_file()
    assert {path.name for path in (folder / "blobs").iterdir()} == {other.resolve().name}


@pytest.mark.parametrize("command", first(1, ["remove", "prune"]))
@pytest.mark.parametrize("target", first(1, ["../vae/art.safetensors", "hop", "/comfyui/models/vae/art.safetensors"]))
def test_a_file_is_kept_while_the_adopted_link_of_another_model_leads_to_it(
    bench: Bench, care: Callable[..., Result], target: str, command: str
) -> None:
    entry = vae(bench, **{"for": ["comfyui"]})
    assert bench.sync(entry).code == 0
    other = {**entry, "name": "other", "kind": "lora", "filename": "other.safetensors"}
    link = bench.root / "comfyui/models/loras/other.safetensors"
    link.parent.mkdir()
    (link.parent / "hop").symlink_to("../vae/art.safetensors")
    link.symlink_to(f"{bench.root}{target}" if target.startswith("/") else target)
    assert bench.sync(entry, other).code == 0
    result = care("remove", "vae") if command == "remove" else bench.run("prune", bench.manifest(other))
    assert result.code == 0, result.err
    assert bench.run("status", bench.manifest(other)).code == 0
    assert link.is_symlink()
    link.unlink()
    assert bench.run("prune", bench.manifest(ollama(bench))).code == 0
    assert not (bench.root / "comfyui/models/vae/art.safetensors").exists()


def refused(*_: object, **__: object) -> None:
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def share_folder(bench: Bench) -> Path:
    """Let two services have one folder, as by bind mounts too."""
    shared = bench.root / "shared"
    shared.mkdir(parents=True)
    for path, target in ((ONE, str(shared)), (TWO, "../../shared")):
        (bench.root / path).parent.parent.mkdir(parents=True)
        (bench.root / path).parent.symlink_to(target)
    return shared


@pytest.mark.parametrize("links", [True, False])
def test_a_file_in_a_folder_that_two_services_share_goes_with_the_last_of_them(
    bench: Bench, care: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, *, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", refused)
    shared = share_folder(bench)
    assert bench.sync(vae(bench)).code == 0
    one = bench.manifest(vae(bench, **{"for": ["comfyui"]}))
    assert care("remove", "vae", "--for", "stable-diffusion").code == 0
    assert bench.run("prune", one).code == 0
    assert bench.run("status", one).code == 0
    assert care("remove", "vae").code == 0
    assert list(shared.iterdir()) == []
    assert care("list").report["entries"] == []


@pytest.mark.parametrize("known", first(1, [False, True]))
@pytest.mark.parametrize("absolute", first(1, [False, True]))
def test_a_shared_blob_is_kept_while_another_repo_leads_to_it(
    bench: Bench, care: Callable[..., Result], *, absolute: bool, known: bool
) -> None:
    """``known``: modelfetch has adopted the link; else it is one of a repo that a user downloaded."""
    entry = whisper(bench)
    assert bench.sync(entry).code == 0
    hub = bench.root / "whisper/hub"
    blob = max((hub / "models--acme--whisper/blobs").iterdir(), key=lambda path: path.stat().st_size)
    copied = hub / "models--acme--copied"
    (copied / "blobs").mkdir(parents=True)
    (copied / "blobs" / blob.name).symlink_to(blob if absolute else f"../../models--acme--whisper/blobs/{blob.name}")
    if known:
        bench.world.hf_repo("acme/copied", {"model.bin": blob.read_bytes()})
        assert bench.sync(entry, {**entry, "name": "copied", "source": "hf://acme/copied"}).code == 0
    else:
        (copied / "snapshots/abc").mkdir(parents=True)
        (copied / "snapshots/abc/model.bin").symlink_to(f"../../blobs/{blob.name}")
    result = care("remove", "w")
    assert result.code == 0, result.err
    assert (copied / "blobs" / blob.name).is_symlink()
    assert next(copied.glob("snapshots/*/model.bin")).stat().st_size == blob.stat().st_size
    assert list(blob.parent.iterdir()) == [blob]


def test_the_other_names_of_a_blob_go_with_it(bench: Bench, care: Callable[..., Result]) -> None:
    bench.world.file("art.safetensors", WEIGHTS)
    source = f"{bench.hub.files}art.safetensors"
    bench.sync(whisper(bench), {"name": "a", "kind": "vae", "source": source, "for": ["comfyui"]})
    names = bench.root / ".modelfetch/blobs"
    assert {path.name for path in names.iterdir()} == {"git-sha1", "name", "sha256"}
    assert care("remove", "w").code == 0
    assert {path.parts[-3] for path in names.glob("*/??/*") if path.suffix != ".json"} == {"sha256", "name"}
    assert care("remove", "a").code == 0
    assert list(names.glob("*/??/*")) == []


def test_an_unknown_name_is_a_usage_error_that_suggests_a_similar_one(
    bench: Bench, care: Callable[..., Result]
) -> None:
    bench.sync(vae(bench))
    result = care("remove", "vaee")
    assert (result.code, result.codes()) == (2, ["not-placed"])
    assert "'vae'" in result.err


def test_a_blob_linked_by_another_root_is_kept(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(vae(bench))
    elsewhere = bench.folder / "elsewhere.safetensors"
    elsewhere.hardlink_to(bench.root / ONE)
    care("remove", "vae")
    assert [path.samefile(elsewhere) for path in blobs(bench.root)] == [True]


def test_remove_for_one_service_keeps_the_files_of_the_others(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(vae(bench))
    care("remove", "vae", "--for", "comfyui")
    assert files(bench.root) == {ONE}
    assert len(blobs(bench.root)) == 1


def test_files_younger_than_the_given_age_are_kept(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(vae(bench))
    care("remove", "vae", "--older-than", "1d")
    assert files(bench.root) == {ONE, TWO}


def test_a_folder_that_became_a_link_out_of_the_root_is_left_alone(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(vae(bench))
    outside = bench.folder / "outside"
    (bench.root / "comfyui/models/vae").rename(outside)
    (bench.root / "comfyui/models/vae").symlink_to(outside)
    result = care("verify")
    assert (result.code, set(actions(result).values())) == (1, {"missing", "present"})
    assert care("verify", "--repair").code == 73
    care("remove", "vae")
    assert (outside / "art.safetensors").exists()


def test_sync_prunes_only_after_success(bench: Bench) -> None:
    bench.sync(vae(bench), ollama(bench))
    before = files(bench.root)
    broken = {**whisper(bench), "source": "hf://acme/nothing"}
    assert bench.sync(vae(bench), broken, options=("--prune",)).code != 0
    assert files(bench.root) == before
    result = bench.sync(vae(bench), options=("--prune",))
    assert result.code == 0, result.err
    assert files(bench.root) == {ONE, TWO}


@pytest.mark.parametrize("command", first(1, ["sync --prune", "prune", "remove"]))
def test_a_read_only_root_matters_only_if_something_must_be_removed(
    bench: Bench, care: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """An init container with a read-only volume and ``--prune`` finds everything in place."""
    small = bench.manifest(vae(bench), tier="small")
    assert bench.run("sync", small).code == 0

    def refuse(path: Path) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr("modelfetch.store.locks.lock.create", refuse)
    if command != "remove":
        result = bench.run(command.split(maxsplit=1)[0], small, *command.split()[1:])
        assert result.code == 0, result.err
        assert care("prune", "--dry-run", str(bench.manifest(tier="none"))).code == 0
        assert bench.run("prune", bench.manifest(tier="none")).code == 73
    assert care("remove", "vae").code == 73
    assert files(bench.root) == {ONE, TWO}


def test_sync_with_prune_never_uses_the_fast_path(bench: Bench) -> None:
    small = bench.manifest(vae(bench), tier="small")
    assert bench.run("sync", small, "--prune").code == 0
    assert bench.run("sync", small, "--prune").code == 0
    bench.sync(ollama(bench))
    assert bench.run("sync", small, "--prune").code == 0
    assert files(bench.root) == {ONE, TWO}


@pytest.mark.parametrize("entries", ["none", "older"])
def test_prune_removes_what_a_killed_sync_has_placed_and_not_recorded(
    bench: Bench, care: Callable[..., Result], entries: str
) -> None:
    """Only the journal names it: the kill came before the receipt was written."""
    receipts = bench.root / ".modelfetch/receipts"
    older = {**vae(bench), "source": "hf://acme/art/other.safetensors", "filename": "art.safetensors"}
    bench.world.hf_repo("acme/art", {"art.safetensors": WEIGHTS, "other.safetensors": OTHER})
    bench.sync(older if entries == "older" else ollama(bench))
    before = {path: path.read_bytes() for path in receipts.iterdir()}
    bench.sync(vae(bench), whisper(bench), ollama(bench))
    for path in receipts.iterdir():
        path.write_bytes(before.get(path, b"{}"))
    (bench.root / TWO).unlink()
    (bench.root / TWO).write_bytes(b"x" * len(read(WEIGHTS)))  # a file of the user, as large as the claimed one
    result = bench.run("prune", bench.manifest(ollama(bench), tier="small"))
    assert result.code == 0, result.err
    assert {path for path in files(bench.root) if not path.startswith("ollama")} == {TWO}
    assert bench.sync(ollama(bench)).code == 0
