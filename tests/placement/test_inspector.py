"""Existing files are adopted if their bytes are right, recognised if modelfetch placed them, and refused otherwise."""

from __future__ import annotations

import errno
import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.core import check_progress, fs
from modelfetch.core.events import CheckStarted, TransferEnded, TransferProgress
from modelfetch.demo import models as made
from modelfetch.errors import DestinationError
from modelfetch.placement.receipts import write_receipt
from modelfetch.placement.writer import ConsumerWriter
from modelfetch.store import Blob, Store
from tests.cases import first
from tests.placement.world import LARGE, SMALL, World

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from modelfetch.core.digest import Digest
    from tests.pipeline.conftest import Bench

PATH = "comfyui/models/vae/a.bin"


def whisper(bench: Bench) -> dict[str, Any]:
    if "acme/w" not in bench.world.repos:
        bench.world.hf_repo("acme/w", made.faster_whisper())
    return {"name": "w", "kind": "snapshot", "source": "hf://acme/w", "for": ["whisper"]}


def vae(bench: Bench) -> dict[str, Any]:
    if "acme/art" not in bench.world.repos:
        bench.world.hf_repo("acme/art", {"art.safetensors": made.vae()})
    return {"name": "art", "kind": "vae", "source": "hf://acme/art/art.safetensors", "for": ["comfyui"]}


def nltk(bench: Bench) -> dict[str, Any]:
    bench.world.file("punkt.zip", made.nltk_punkt())
    source, path = f"{bench.hub.files}punkt.zip", "nltk_data/tokenizers"
    return {"name": "nltk", "kind": "file", "source": source, "path": path, "unpack": "zip", "for": ["whisper"]}


def forget(bench: Bench) -> None:
    """Keep only the services' folders, as before the first run of modelfetch."""
    shutil.rmtree(bench.root / ".modelfetch")


def require_ready_without_a_request(bench: Bench, *models: dict[str, Any]) -> None:
    again = bench.sync(*models)
    assert (again.code, again.report["requests"]) == (0, 0), again.err
    assert bench.run("status", bench.manifest(*models)).code == 0
    assert not (bench.root / ".modelfetch/displaced").exists()


def hub_files(bench: Bench) -> list[Path]:
    return [path for path in (bench.root / "whisper/hub").rglob("*") if not path.is_dir()]


def test_a_cache_that_was_copied_without_its_symlinks_is_adopted(bench: Bench) -> None:
    entry = whisper(bench)
    assert bench.sync(entry).code == 0
    shutil.copytree(bench.root / "whisper", bench.root / "copied", symlinks=False)
    shutil.rmtree(bench.root / "whisper")
    (bench.root / "copied").rename(bench.root / "whisper")
    forget(bench)
    assert not any(path.is_symlink() for path in hub_files(bench))
    before = {path: path.stat().st_ino for path in hub_files(bench)}
    result = bench.sync(entry)
    assert result.code == 0, result.err
    assert result.report["bytes_fetched"] == 0
    assert {path: path.stat().st_ino for path in hub_files(bench)} == before
    require_ready_without_a_request(bench, entry)


def test_a_blob_that_is_a_link_to_another_blob_is_adopted(bench: Bench) -> None:
    entry = whisper(bench)
    assert bench.sync(entry).code == 0
    forget(bench)
    shared = bench.root / "whisper/hub/shared"
    shared.mkdir()
    (blobs,) = (bench.root / "whisper/hub").glob("models--*/blobs")
    for blob in list(blobs.iterdir()):
        blob.rename(shared / blob.name)
        blob.symlink_to(f"../../shared/{blob.name}")
    result = bench.sync(entry)
    assert result.code == 0, result.err
    assert result.report["bytes_fetched"] == 0
    assert all(blob.is_symlink() for blob in blobs.iterdir())
    require_ready_without_a_request(bench, entry)


def test_a_users_link_to_the_right_bytes_is_adopted_and_checked(bench: Bench) -> None:
    entry = vae(bench)
    assert bench.sync(entry).code == 0
    there = bench.root / "comfyui/models/vae/art.safetensors"
    elsewhere = bench.folder / "elsewhere.bin"
    elsewhere.write_bytes(there.read_bytes())
    there.unlink()
    there.symlink_to(elsewhere)
    forget(bench)
    result = bench.sync(entry)
    assert (result.code, set(result.actions().values())) == (0, {"adopted"}), result.err
    assert there.is_symlink()
    require_ready_without_a_request(bench, entry)
    elsewhere.write_bytes(b"other")
    assert bench.run("status", bench.manifest(entry)).code == 1


@pytest.mark.parametrize("target", ["wrong.bin", "missing.bin", "/dev/zero", ".", "a-fifo"])
def test_a_link_of_the_users_to_anything_else_is_refused(bench: Bench, target: str) -> None:
    entry = vae(bench)
    there = bench.root / "comfyui/models/vae/art.safetensors"
    there.parent.mkdir(parents=True)
    (there.parent / "wrong.bin").write_bytes(b"wrong")
    os.mkfifo(there.parent / "a-fifo")
    there.symlink_to(target)
    assert bench.sync(entry).codes() == ["foreign-file"]
    assert str(there.readlink()) == target


@pytest.mark.parametrize("number", [errno.EPERM, errno.EIO])
def test_a_cache_on_a_file_system_without_symlinks_holds_real_files(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refuse_symlinks(monkeypatch, number)
    entry = whisper(bench)
    planned = bench.run("plan", bench.manifest(entry)).report
    assert not [p for a in planned["models"][0]["artifacts"] for p in a["placements"] if "/blobs/" in p]
    assert bench.sync(entry).code == 0
    (snapshot,) = (bench.root / "whisper/hub").glob("models--*/snapshots/*")
    assert {path.name for path in snapshot.iterdir() if path.is_file() and not path.is_symlink()} >= {"model.bin"}
    assert not list((bench.root / "whisper/hub").glob("models--*/blobs"))
    require_ready_without_a_request(bench, entry)
    monkeypatch.undo()
    monkeypatch.setenv("HF_ENDPOINT", bench.hub.endpoint)
    require_ready_without_a_request(bench, entry)  # also where nothing can be tried any more


def refuse_symlinks(monkeypatch: pytest.MonkeyPatch, number: int = errno.EPERM) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "symlink", refuse)


def diffrhythm(bench: Bench) -> dict[str, Any]:
    if "acme/song" not in bench.world.repos:
        bench.world.hf_repo("acme/song", {"model.bin": b"x" * 70_000, "deep/config.json": b"{}"})
    return {"name": "d", "kind": "snapshot", "source": "hf://acme/song", "for": ["diffrhythm"]}


def copy_without_links(bench: Bench) -> None:
    """Copy the root as `rsync` does without `--links`, which leaves symlinks out."""
    for path in list(bench.root.rglob("*")):
        if path.is_symlink():
            path.unlink()


def copy_with_files_for_links(bench: Bench) -> None:
    """Copy the root as `cp -rL` does, and lose a file of it and the content of another."""
    copied = bench.folder / "copied"
    shutil.copytree(bench.root, copied, symlinks=False)
    shutil.rmtree(bench.root)
    copied.rename(bench.root)
    lost, cut, *_ = snapshot_files(bench)
    lost.unlink()
    cut.write_text("cut")


def snapshot_files(bench: Bench) -> list[Path]:
    return sorted(path for path in bench.root.rglob("snapshots/**/*") if path.is_file())


@pytest.mark.parametrize(
    ("make", "copy"),
    first(2, [(whisper, copy_without_links), (diffrhythm, copy_with_files_for_links)])
    + first(0, [(diffrhythm, copy_without_links), (whisper, copy_with_files_for_links)]),
)
def test_a_root_that_moved_to_a_file_system_without_symlinks_gets_real_files(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Bench], dict[str, Any]],
    copy: Callable[[Bench], None],
) -> None:
    entry = make(bench)
    assert bench.sync(entry).code == 0
    copy(bench)
    with monkeypatch.context() as there:
        refuse_symlinks(there)
        repaired = bench.run("verify", bench.manifest(entry), "--repair")
        assert repaired.code == 0 or {error["hint"] for error in repaired.report["errors"]} == {
            "`modelfetch sync` places files instead"
        }
        planned = bench.run("plan", bench.manifest(entry)).report
        assert not [p for a in planned["models"][0]["artifacts"] for p in a["placements"] if "/blobs/" in p]
        result = bench.sync(entry)
        assert (result.code, result.report["bytes_fetched"]) == (0, 0), result.err
        assert bench.sync(entry).report["requests"] == 0
        assert bench.run("prune", bench.manifest(entry)).code == 0
        assert not list(bench.root.glob("*/**/models--*/blobs/*"))
        assert bench.run("verify", bench.manifest(entry)).code == 0
        assert bench.run("status", bench.manifest(entry)).code == 0
    snapshot_files(bench)[0].unlink()
    assert bench.sync(entry).code == 0  # symlinks are possible again, and the files stay files
    assert not [path for path in bench.root.rglob("*") if path.is_symlink()]
    assert bench.run("status", bench.manifest(entry)).code == 0


def test_links_that_exist_stay_where_new_ones_are_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows' file systems, which need a privilege to make one."""
    entry = whisper(bench)
    assert bench.sync(entry).code == 0
    link, *others = [path for path in hub_files(bench) if path.is_symlink()]
    link.unlink()
    refuse_symlinks(monkeypatch)
    assert bench.sync(entry).code == 0
    assert link.is_file()
    assert not link.is_symlink()
    assert all(path.is_symlink() for path in others)
    require_ready_without_a_request(bench, entry)


def test_one_link_that_its_user_replaced_does_not_turn_the_others_into_files(bench: Bench) -> None:
    entry = whisper(bench)
    assert bench.sync(entry).code == 0
    link = next(path for path in hub_files(bench) if path.is_symlink())
    data = link.read_bytes()
    link.unlink()
    link.write_bytes(data)
    assert bench.sync(entry).code == 0
    next(path for path in hub_files(bench) if path.is_symlink()).unlink()
    assert bench.sync(entry).code == 0
    assert [path for path in hub_files(bench) if "snapshots" in path.parts and not path.is_symlink()] == [link]
    assert bench.run("status", bench.manifest(entry)).code == 0


def hide_symlinks_with_dots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read symlinks as sshfs does."""
    readlink = os.readlink

    def contained(path: str, *, dir_fd: int | None = None) -> str:
        target = readlink(path, dir_fd=dir_fd)
        if ".." in target:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), path)
        return target

    monkeypatch.setattr(os, "readlink", contained)


def test_a_cache_on_a_file_system_that_hides_symlinks_holds_real_files(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_symlinks_with_dots(monkeypatch)
    entry = whisper(bench)
    assert bench.sync(entry).code == 0
    (snapshot,) = (bench.root / "whisper/hub").glob("models--*/snapshots/*")
    assert not any(path.is_symlink() for path in snapshot.iterdir())
    require_ready_without_a_request(bench, entry)


@pytest.mark.parametrize(
    ("make", "lost"),
    [
        (whisper, ".modelfetch"),
        *first(0, [(diffrhythm, ".modelfetch"), (whisper, "blobs"), (whisper, "a snapshot's file")]),
    ],
)
def test_the_files_of_a_cache_without_links_and_blobs_are_not_downloaded_again(
    bench: Bench, make: Callable[[Bench], dict[str, Any]], lost: str
) -> None:
    """As in a cache from Windows, or after `cp -rL` of its snapshots."""
    entry = make(bench)
    assert bench.sync(entry).code == 0
    copied = bench.folder / "copied"
    shutil.copytree(bench.root, copied, symlinks=False)
    shutil.rmtree(bench.root)
    copied.rename(bench.root)
    if lost == "a snapshot's file":
        next(bench.root.glob("**/snapshots/*/model.bin")).unlink()
    else:
        shutil.rmtree(next(bench.root.glob("**/models--*/blobs")))
    shutil.rmtree(bench.root / ".modelfetch/blobs" if lost == "blobs" else bench.root / ".modelfetch")
    mark = bench.hub.log.mark()
    assert bench.sync(entry).code == 0
    assert not [sent.target for sent in bench.hub.log.since(mark) if "/resolve/" in sent.target]
    require_ready_without_a_request(bench, entry)


@pytest.mark.parametrize("name", first(1, [("one.json",), ("two.json",)]))
def test_one_of_two_equal_files_that_became_a_file_is_ready_after_a_sync(bench: Bench, name: str) -> None:
    bench.world.hf_repo("acme/w", {**made.faster_whisper(), "one.json": b"{}", "two.json": b"{}"})
    entry = whisper(bench)
    assert bench.sync(entry).code == 0
    (link,) = bench.root.glob(f"whisper/hub/*/snapshots/*/{name}")
    link.unlink()
    link.write_bytes(b"{}")
    assert bench.sync(entry).code == 0
    require_ready_without_a_request(bench, entry)


@pytest.mark.parametrize("command", ["plan", "status", "verify"])
def test_a_symlink_that_can_not_be_read_is_named_with_the_remedy(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    entry = whisper(bench)
    assert bench.sync(entry).code == 0
    hide_symlinks_with_dots(monkeypatch)
    result = bench.run(command, bench.manifest(entry))
    assert (result.code, set(result.codes())) == (73, {"symlink-unreadable"})
    assert f"{bench.root}/whisper/hub/models--" in result.err
    assert "no_contain_symlinks" in result.err


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("tokenizers/punkt_tab/english/ortho_context.tab", {}),
        ("tokenizers/punkt_tab.zip", {"path": "nltk_data/tokenizers/punkt_tab.zip", "unpack": None}),
    ],
)
def test_a_file_of_nltk_that_an_older_version_linked_becomes_a_copy_without_a_request(
    bench: Bench, name: str, keys: dict[str, Any]
) -> None:
    entry = {key: value for key, value in {**nltk(bench), **keys}.items() if value is not None}
    assert bench.sync(entry).code == 0
    name = f"whisper/nltk_data/{name}"
    placed = bench.root / name
    assert placed.stat().st_nlink == 1
    receipt = bench.root / ".modelfetch/receipts/whisper.json"
    raw = json.loads(receipt.read_bytes())
    digest = raw["placements"][name]["digest"].partition(":")[2]
    blob = bench.root / f".modelfetch/blobs/sha256/{digest[:2]}/{digest}"
    placed.unlink()
    placed.hardlink_to(blob)
    raw["placements"][name].update(how="link", mtime_ns=blob.stat().st_mtime_ns)
    receipt.write_text(json.dumps(raw))
    mark = bench.hub.log.mark()
    assert bench.sync(entry).code == 0
    assert bench.hub.log.since(mark) == []
    assert placed.stat().st_nlink == 1
    require_ready_without_a_request(bench, entry)


def test_a_root_of_an_older_version_opens_as_a_no_op(bench: Bench) -> None:
    """Its receipts had other white space and modes, and there was no journal."""
    models = [whisper(bench), vae(bench), nltk(bench)]
    assert bench.sync(*models).code == 0
    shutil.rmtree(bench.root / ".modelfetch/journal")
    shutil.rmtree(bench.root / ".modelfetch/noop", ignore_errors=True)
    for receipt in (bench.root / ".modelfetch/receipts").glob("*.json"):
        receipt.write_text(json.dumps(json.loads(receipt.read_bytes()), indent=1))
        receipt.chmod(0o644)
    before = {path: path.stat().st_mtime_ns for path in (bench.root / ".modelfetch/receipts").iterdir()}
    require_ready_without_a_request(bench, *models)
    assert {path: path.stat().st_mtime_ns for path in (bench.root / ".modelfetch/receipts").iterdir()} == before


@pytest.mark.parametrize("data", [LARGE, SMALL], ids=["link", "copy"])
@pytest.mark.parametrize("left", ["pending", "lost", "newer"])
def test_an_upgrade_that_an_older_version_was_cut_off_in_is_finished(world: World, data: bytes, left: str) -> None:
    world.place(world.job(PATH, data))
    shutil.rmtree(world.root / ".modelfetch/journal")
    receipt = world.root / ".modelfetch/receipts/comfyui.json"
    raw = json.loads(receipt.read_bytes())
    if left == "pending":
        raw["placements"][PATH].update(mtime_ns=-1, size=0, digest=str(world.blob(data + b"2").digest))
    else:
        raw["version"] = 2
    receipt.write_text(json.dumps(raw))
    if left == "lost":
        receipt.unlink()
    world.place(world.job(PATH, data + b"2"))
    assert (world.root / PATH).read_bytes() == data + b"2"
    assert world.receipt(PATH).made


@pytest.mark.parametrize("data", [LARGE, SMALL], ids=["link", "copy"])
def test_files_without_a_receipt_are_compared_with_few_blobs_of_their_size(
    world: World, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Comparing each with every blob would take hours for thousands of files of one size."""
    looked_at: list[Digest] = []
    peek = Store.peek

    def counted(self: Store, digest: Digest) -> Blob | None:
        looked_at.append(digest)
        return peek(self, digest)

    paths = [f"comfyui/models/vae/{number}.bin" for number in range(20)]
    world.place(*(world.job(path, data + path.encode()) for path in paths))
    shutil.rmtree(world.root / ".modelfetch/receipts")
    shutil.rmtree(world.root / ".modelfetch/journal")
    newer = [world.job(path, path.encode() + data) for path in paths]
    monkeypatch.setattr(Store, "peek", counted)
    world.place(*newer)
    assert [(world.root / path).read_bytes() for path in paths] == [path.encode() + data for path in paths]
    assert len(looked_at) < 6 * len(paths)


def test_an_adopted_file_that_changes_before_its_state_is_recorded_is_not_trusted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = world.root / PATH
    there.parent.mkdir(parents=True)
    there.write_bytes(SMALL)
    os.utime(there, ns=(1, 1))
    sync = ConsumerWriter.sync

    def rewrite_then_sync(self: ConsumerWriter) -> None:
        there.write_bytes(SMALL[::-1])
        sync(self)

    monkeypatch.setattr(ConsumerWriter, "sync", rewrite_then_sync)
    world.place(world.job(PATH, SMALL))
    assert world.receipt(PATH).mtime_ns == 1
    monkeypatch.undo()
    world.place(world.job(PATH, SMALL))
    assert there.read_bytes() == SMALL
    (aside,) = (world.root / ".modelfetch/displaced").glob(f"*/{PATH}")
    assert aside.read_bytes() == SMALL[::-1]


def test_a_file_that_is_rewritten_while_it_is_hashed_is_not_adopted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = world.root / PATH
    there.parent.mkdir(parents=True)
    there.write_bytes(SMALL)
    hash_descriptor = fs.hash_descriptor

    def hash_then_rewrite(fd: int, *algorithms: str, **keys: Any) -> Any:
        found = hash_descriptor(fd, *algorithms, **keys)
        if there.read_bytes() == SMALL:
            there.write_bytes(b"x" * len(SMALL))
        return found

    job = world.job(PATH, SMALL)
    monkeypatch.setattr(fs, "hash_descriptor", hash_then_rewrite)
    with pytest.raises(DestinationError) as refusal:
        world.place(job)
    assert refusal.value.code == "foreign-file"
    assert there.read_bytes() == b"x" * len(SMALL)


@pytest.mark.parametrize("what", ["fifo", "folder", "link"])
def test_a_receipt_that_is_not_a_regular_file_is_an_error_and_does_not_block(world: World, what: str) -> None:
    receipt = world.root / ".modelfetch/receipts/comfyui.json"
    receipt.parent.mkdir(parents=True)
    if what == "fifo":
        os.mkfifo(receipt)
    elif what == "folder":
        receipt.mkdir()
    else:
        receipt.symlink_to("/dev/zero")
    with pytest.raises(DestinationError) as refusal:
        world.place(world.job(PATH, SMALL))
    assert refusal.value.code == "foreign-file"


@pytest.mark.parametrize("name", ["x.ckpt", "x.bin", "deep/x.pt"])
def test_a_pickle_inside_a_zip_is_refused_unless_the_manifest_pins_or_allows_it(bench: Bench, name: str) -> None:
    import hashlib
    import io
    import pickle
    import zipfile

    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("readme.txt", "hello")
        opened.writestr(name, pickle.dumps({"a": [1, 2, 3]}))
    bench.world.file("x.zip", archive.getvalue())
    entry: dict[str, Any] = {
        "name": "x",
        "kind": "file",
        "source": f"{bench.hub.files}x.zip",
        "path": "models/checkpoints",
        "unpack": "zip",
        "for": ["comfyui"],
    }
    assert bench.sync(entry).codes() == ["pickle-not-allowed"]
    assert not (bench.root / "comfyui/models/checkpoints").exists()
    entry["digest"] = "sha256:" + hashlib.sha256(archive.getvalue()).hexdigest()
    assert bench.sync(entry).code == 0


@pytest.mark.parametrize("size", [1000, 200_000], ids=["copy", "link"])
@pytest.mark.parametrize("updated", [False, True])
def test_a_file_without_digest_and_receipt_is_recognised_as_placed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, size: int, updated: bool
) -> None:
    entry = {"name": "x", "kind": "file", "source": f"{bench.hub.files}x.txt", "path": "x.txt", "for": ["comfyui"]}
    bench.world.file("x.txt", b"1" * size)
    if updated:
        assert bench.sync(entry).code == 0
        bench.world.file("x.txt", b"2" * (size + 1))

    def fail(*_: object, **_options: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("modelfetch.placement.receipts.write_receipt", fail)
    assert bench.sync(entry, options=("--refresh",)).code == 74
    monkeypatch.setattr("modelfetch.placement.receipts.write_receipt", write_receipt)
    placed = bench.root / "comfyui/x.txt"
    assert placed.stat().st_size == size + updated
    result = bench.sync(entry, options=("--refresh",))
    assert result.code == 0, result.err
    assert json.loads((bench.root / ".modelfetch/receipts/comfyui.json").read_bytes())["placements"]["comfyui/x.txt"][
        "made"
    ]
    require_ready_without_a_request(bench, entry)


@pytest.mark.parametrize("touched", ["placed file", "blob"])
def test_hashing_again_is_reported_with_progress(world: World, monkeypatch: pytest.MonkeyPatch, touched: str) -> None:
    monkeypatch.setattr(check_progress, "WORTH_REPORTING", len(LARGE))
    monkeypatch.setattr(check_progress, "_EVERY", 0.0)
    job = world.job(PATH, LARGE)
    assert job.blob is not None
    world.place(job)
    world.events.clear()
    path = world.root / PATH if touched == "placed file" else job.blob.path
    os.utime(path, ns=(1, 1))
    if touched == "placed file":
        world.place(job)
    else:
        world.store = Store(world.store.path, sink=world.events.append)
        assert world.store.find(job.blob.digest) is not None
    started = next(event for event in world.events if isinstance(event, CheckStarted))
    assert (started.size, started.files) == (len(LARGE), 1)
    assert PATH in started.label or job.blob.digest.hex[:12] in started.label
    assert [event.done for event in world.events if isinstance(event, TransferProgress)] == [len(LARGE)]
    assert any(isinstance(event, TransferEnded) for event in world.events)
