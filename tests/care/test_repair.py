"""What verify --repair restores, from where, and how many bytes that moves."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.care import repair, verify
from modelfetch.cli.app import run
from modelfetch.placement import receipts, writer
from modelfetch.store.chunks import CHUNK
from tests.care.conftest import actions
from tests.care.test_prune import refused, share_folder
from tests.cases import first
from tests.damage import flip
from tests.pipeline.entries import WEIGHTS, commit, ollama, read, sha256, vae, whisper
from tests.transfer.world import payload

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from modelfetch.care.verify import Finding
    from modelfetch.pipeline.session import Session
    from modelfetch.placement.receipts import Receipt
    from tests.pipeline.conftest import Bench, Result

ONE, TWO = "stable-diffusion/models/VAE/art.safetensors", "comfyui/models/vae/art.safetensors"


def large(bench: Bench, size: int = 5 * CHUNK - 1000) -> tuple[dict[str, Any], bytes]:
    """A model of several chunks for two services."""
    data = payload(size)
    bench.world.hf_repo("acme/large", {"large.bin": data})
    entry = {
        "name": "large",
        "kind": "file",
        "path": "large.bin",
        "source": "hf://acme/large/large.bin",
        "digest": sha256(data),
        "for": ["comfyui", "whisper"],
    }
    return entry, data


def test_repairing_one_flipped_byte_fetches_at_most_two_chunks(bench: Bench, care: Callable[..., Result]) -> None:
    entry, data = large(bench)
    assert bench.sync(entry).code == 0
    flip(bench.root / "comfyui/large.bin", offset=2 * CHUNK + 5)
    before = bench.hub.log.sent("*", origin="cdn")
    result = care("verify", "--repair")
    assert result.code == 0, result.err
    assert 0 < bench.hub.log.sent("*", origin="cdn") - before <= 2 * CHUNK
    assert result.report["bytes_fetched"] <= 2 * CHUNK
    assert (bench.root / "comfyui/large.bin").read_bytes() == data
    assert (bench.root / "comfyui/large.bin").samefile(bench.root / "whisper/large.bin")
    assert set(actions(care("verify")).values()) == {"present"}


def test_a_damaged_blob_is_restored_from_a_good_copy_below_a_relative_root(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.sync(ollama(bench)).code == 0
    manifest = next((bench.root / "ollama/models/manifests").rglob("1b"))
    digest = sha256(manifest.read_bytes()).partition(":")[2]
    flip(bench.root / f".modelfetch/blobs/sha256/{digest[:2]}/{digest}")
    monkeypatch.chdir(bench.root.parent)
    before = bench.hub.log.sent("*")
    assert run(["verify", "--repair", "--root", bench.root.name]) == 0, capsys.readouterr().err
    assert bench.hub.log.sent("*") == before
    assert run(["verify", "--root", bench.root.name]) == 0


def test_a_repair_keeps_the_reserve_of_the_disk(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(vae(bench))
    flip(bench.root / ONE)
    damaged = (bench.root / ONE).read_bytes()
    result = care("verify", "--repair", "--min-free", "1000000TB")
    assert (result.code, result.codes()) == (74, ["no-space"])
    assert (bench.root / ONE).read_bytes() == damaged
    assert care("verify", "--repair").code == 0


def test_no_path_is_missing_or_short_at_any_moment(bench: Bench, care: Callable[..., Result]) -> None:
    entry, data = large(bench, 3 * CHUNK - 1000)
    bench.sync(entry)
    path = bench.root / "comfyui/large.bin"
    flip(path)
    done = threading.Event()
    sizes: set[int] = set()

    def watch() -> None:
        while not done.is_set():
            try:
                sizes.add(path.stat().st_size)
            except FileNotFoundError:
                sizes.add(-1)
            time.sleep(0.0002)

    thread = threading.Thread(target=watch)
    thread.start()
    assert care("verify", "--repair").code == 0
    done.set()
    thread.join()
    assert sizes == {len(data)}


def test_a_damaged_copy_is_restored_from_the_store_without_a_request(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(ollama(bench), whisper(bench))
    config = next(p for p in (bench.root / "whisper/hub").rglob("blobs/*") if p.stat().st_size < 64 * 1024)
    flip(config, offset=1)
    result = care("verify", "--repair")
    assert (result.code, result.report["bytes_fetched"], result.report["requests"]) == (0, 0, 0)
    assert care("verify").code == 0


def test_repair_restores_missing_files_links_and_text_files(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(vae(bench), whisper(bench))
    folder = bench.root / "whisper/hub/models--acme--whisper"
    link = folder / "snapshots" / commit(bench, "acme/whisper") / "config.json"
    ref = folder / "refs/main"
    for path in (bench.root / ONE, link, ref):
        path.unlink()
    result = care("verify", "--repair")
    assert result.code == 0, result.out
    assert (bench.root / ONE).samefile(bench.root / TWO)
    assert link.is_symlink()
    assert ref.read_text() == commit(bench, "acme/whisper")
    assert care("verify").code == 0


def many(bench: Bench, count: int = 12) -> list[Path]:
    """Place a snapshot of small files, and damage each of its blobs, but not the copies in the store."""
    bench.world.hf_repo("acme/many", {f"{n}.json": b'{"number": %d}' % n for n in range(count)})
    entry = {"name": "many", "kind": "snapshot", "source": "hf://acme/many", "for": ["whisper"]}
    assert bench.sync(entry).code == 0
    blobs = sorted((bench.root / "whisper/hub/models--acme--many/blobs").iterdir())
    for blob in blobs:
        flip(blob, offset=11)
    return blobs


def count_writes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The consumers whose receipts are written from now on; none is written before the end of a run."""
    written: list[str] = []
    write = receipts.write_receipt

    def counted(root: Path, receipt: Receipt, *, confirm: Callable[[], None]) -> None:
        written.append(receipt.consumer)
        write(root, receipt, confirm=confirm)

    monkeypatch.setattr(receipts, "WRITE_EVERY", 3600.0)
    monkeypatch.setattr(receipts, "write_receipt", counted)
    return written


def test_a_repair_of_many_files_writes_the_receipt_once(
    bench: Bench, care: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = many(bench)
    written = count_writes(monkeypatch)
    assert care("verify", "--repair").code == 0
    assert written == ["whisper"]
    assert {blob.read_bytes() for blob in blobs} == {b'{"number": %d}' % n for n in range(len(blobs))}
    assert set(actions(care("verify")).values()) == {"present"}


def test_an_interrupted_repair_records_what_it_has_restored(
    bench: Bench, care: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    many(bench)
    written = count_writes(monkeypatch)
    restore, calls = repair._restore, []

    def interrupted(findings: Sequence[Finding], right: Any, session: Session) -> None:
        restore(findings, right, session)
        calls.append(findings)
        if len(calls) == 3:
            session.cancel.set()

    monkeypatch.setattr(repair, "_restore", interrupted)
    assert care("verify", "--repair").code == 130
    assert written == ["whisper"]
    monkeypatch.setattr(repair, "_restore", restore)
    found = list(actions(care("verify")).values())
    assert (found.count("damaged"), found.count("changed")) == (9, 0)


def test_a_file_changed_by_a_user_is_moved_aside(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(vae(bench))
    path = bench.root / ONE
    path.unlink()
    path.write_bytes(b"my own")
    assert care("verify", "--repair").code == 0
    assert path.read_bytes() == read(WEIGHTS)
    (aside,) = (bench.root / ".modelfetch/displaced").rglob("art.safetensors")
    assert aside.read_bytes() == b"my own"


@pytest.mark.parametrize("when", ["before it is hashed", "after it was hashed"])
def test_a_file_that_is_changed_during_the_check_is_moved_aside(
    bench: Bench, care: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    bench.sync(whisper(bench))
    path = next(p for p in (bench.root / "whisper/hub").rglob("blobs/*") if p.stat().st_size < 64 * 1024)
    data = path.read_bytes()
    step = "take_inventory" if when == "before it is hashed" else "_hash"
    original = getattr(verify, step)
    if when == "after it was hashed":
        flip(path, offset=1)

    def change_after(*args: Any, **options: Any) -> Any:
        found = original(*args, **options)
        path.write_bytes(b"my own")
        return found

    monkeypatch.setattr(verify, step, change_after)
    result = care("verify", "--repair")
    assert result.code == 0, result.err
    assert path.read_bytes() == data
    (aside,) = (p for p in (bench.root / ".modelfetch/displaced").rglob(path.name) if p.is_file())
    assert aside.read_bytes() == b"my own"


def test_a_file_without_a_source_stays_damaged_and_is_reported(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(vae(bench))
    flip(bench.root / ONE)
    del bench.world.repos["acme/art"]
    result = care("verify", "--repair")
    assert result.code != 0
    assert actions(result) == {ONE: "damaged", TWO: "damaged"}
    assert result.report["errors"]
    assert (bench.root / ONE).stat().st_size == len(read(WEIGHTS))


def test_a_file_whose_inode_changes_with_the_first_rename_is_restored(
    bench: Bench, care: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on an overlay, which copies a file of the lower layer then; a file that keeps changing is an error."""
    is_still, answers = writer._is_still, [False, False]

    def looked_at(*given: Any) -> bool:
        return answers.pop() if answers else is_still(*given)

    monkeypatch.setattr(writer, "_is_still", looked_at)
    assert bench.sync(vae(bench)).code == 0
    flip(bench.root / ONE)
    result = care("verify", "--repair")
    assert (result.code, answers) == (0, []), result.err
    assert (bench.root / ONE).read_bytes() == (bench.root / TWO).read_bytes() == read(WEIGHTS)
    assert not (bench.root / ".modelfetch/displaced").exists()
    flip(bench.root / ONE)
    answers += [False] * 3
    assert care("verify", "--repair").code == 74


def edit(path: Path) -> None:
    path.unlink()
    path.write_bytes(b"edited")


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("harm", first(1, [flip, Path.unlink, edit]))
def test_a_file_in_a_folder_that_two_services_share_is_restored_once(
    bench: Bench,
    care: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[Path], None],
    *,
    links: bool,
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", refused)
    shared = share_folder(bench)
    assert bench.sync(vae(bench)).code == 0
    harm(shared / "art.safetensors")
    result = care("verify", "--repair")
    assert result.code == 0, result.err
    aside = [path.read_bytes() for path in (bench.root / ".modelfetch/displaced").rglob("*") if path.is_file()]
    assert aside == ([b"edited"] if harm is edit else [])
    assert (shared / "art.safetensors").read_bytes() == read(WEIGHTS)
    assert bench.run("status", bench.manifest(vae(bench))).code == 0


@pytest.mark.parametrize("where", ["snapshots/*/model.bin", "refs/main"])
def test_a_file_restored_in_the_place_of_a_users_link_is_ready(
    bench: Bench, care: Callable[..., Result], where: str
) -> None:
    entry = whisper(bench)
    assert bench.sync(entry).code == 0
    (path,) = (bench.root / "whisper/hub").glob(f"models--*/{where}")
    own = bench.folder / "own"
    own.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(own)
    assert bench.sync(entry).code == 0
    own.write_bytes(b"edited")
    assert care("verify", "--repair").code == 0
    assert bench.run("status", bench.manifest(entry)).code == 0
    assert set(actions(care("verify")).values()) == {"present"}
    assert own.read_bytes() == b"edited"


def test_an_adopted_file_that_its_owner_changed_is_left_alone(bench: Bench, care: Callable[..., Result]) -> None:
    path = bench.root / ONE
    path.parent.mkdir(parents=True)
    path.write_bytes(read(WEIGHTS))
    bench.sync(vae(bench, digest=sha256(WEIGHTS), **{"for": ["stable-diffusion"]}))
    path.write_bytes(b"better")
    assert care("verify", "--repair").code == 1
    assert path.read_bytes() == b"better"


@pytest.mark.parametrize("named", [False, True])
def test_a_file_rewritten_by_a_service_is_restored_only_by_name(
    bench: Bench, care: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, *, named: bool
) -> None:
    import re

    from modelfetch.placement import rewritten

    monkeypatch.setattr(rewritten, "_REWRITES", (("comfyui", re.compile(re.escape(TWO))),))
    bench.sync(vae(bench))
    path = bench.root / TWO
    path.unlink()
    path.write_bytes(b"rewritten")
    assert care("verify").code == 0
    assert actions(care("verify"))[TWO] == "rewritten"
    assert care("verify", "--repair", *(["--model", "vae"] if named else [])).code == 0
    assert path.read_bytes() == (read(WEIGHTS) if named else b"rewritten")


def test_offline_repair_uses_only_bytes_on_disk(
    bench: Bench, care: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.sync(vae(bench), ollama(bench))
    config = min((bench.root / "ollama/models/blobs").iterdir(), key=lambda path: path.stat().st_size)
    flip(bench.root / ONE)
    config.unlink()
    mark = bench.hub.log.mark()
    result = care("verify", "--repair", "--offline")
    assert (result.code, result.codes()) == (69, ["offline"])
    assert bench.hub.log.since(mark) == []
    assert config.is_file()
    assert actions(result)[ONE] == "damaged"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert care("verify", "--repair").codes() == ["offline"]
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert care("verify", "--repair").code == 0
