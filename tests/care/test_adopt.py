"""What adopt takes from other programs' folders, and that it changes nothing there."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.care import adopt, hashing
from modelfetch.cli.app import run
from modelfetch.core import check_progress, fs
from modelfetch.core.digest import Digest
from modelfetch.store import ingest
from tests.cases import first
from tests.damage import flip
from tests.pipeline.entries import OTHER, WEIGHTS, ollama, read, sha256, vae, whisper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.pipeline.conftest import Bench, Result

ONE, TWO = "stable-diffusion/models/VAE/art.safetensors", "comfyui/models/vae/art.safetensors"
LAYOUTS = {
    "ComfyUI": "models/vae/art.safetensors",
    "LM Studio": "acme/art/art.gguf",
    "Hugging Face cache": "models--acme--art/blobs/" + "a" * 64,
    "AUTOMATIC1111 or Forge": "models/VAE/art.safetensors",
    "Stability Matrix": "Data/Models/VAE/art.safetensors",
    "old cache of transformers": "b" * 64 + "." + "c" * 64,
}
MARKS = {"ComfyUI": "models/checkpoints", "AUTOMATIC1111 or Forge": "models/Stable-diffusion"}


def collection(folder: Path, kind: str, data: bytes) -> Path:
    path = folder / LAYOUTS[kind]
    path.parent.mkdir(parents=True)
    if kind in MARKS:
        (folder / MARKS[kind]).mkdir(parents=True)
    path.write_bytes(data)
    path.chmod(0o640)
    os.utime(path, ns=(5, 5))
    return path


def state(path: Path) -> tuple[Any, ...]:
    found = path.stat()
    return found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns, found.st_ino, path.read_bytes()


def pinned(bench: Bench) -> dict[str, Any]:
    return vae(bench, digest=sha256(WEIGHTS), size=len(read(WEIGHTS)))


def sent(bench: Bench) -> int:
    return bench.hub.log.sent("*", origin="cdn")


@pytest.mark.parametrize("kind", first(3, LAYOUTS))
def test_files_of_an_adopted_collection_are_not_fetched_again(
    bench: Bench, care: Callable[..., Result], kind: str
) -> None:
    path = collection(bench.folder / "theirs", kind, read(WEIGHTS))
    before = state(path)
    result = care("adopt", str(bench.folder / "theirs"))
    assert result.code == 0, result.err
    assert [a["action"] for m in result.report["models"] for a in m["artifacts"]] == ["adopted"]
    assert bench.sync(pinned(bench)).code == 0
    assert sent(bench) == 0
    assert state(path) == before
    assert (bench.root / ONE).read_bytes() == read(WEIGHTS)


@pytest.mark.parametrize(("mode", "shared"), first(1, [(0o640, False), (0o600, False), (0o644, True)]))
def test_services_can_read_what_was_adopted_from_a_private_file(
    bench: Bench, care: Callable[..., Result], mode: int, *, shared: bool
) -> None:
    path = collection(bench.folder / "theirs", "ComfyUI", read(WEIGHTS))
    path.chmod(mode)
    care("adopt", str(bench.folder / "theirs"))
    assert bench.sync(pinned(bench)).code == 0
    for name in (ONE, TWO):
        assert (bench.root / name).stat().st_mode & 0o444 == 0o444
        assert (bench.root / name).samefile(path) is shared
    assert path.stat().st_mode & 0o777 == mode


def test_removing_the_model_leaves_the_collection_as_it_was(bench: Bench, care: Callable[..., Result]) -> None:
    path = collection(bench.folder / "theirs", "ComfyUI", read(WEIGHTS))
    before = state(path)
    care("adopt", str(bench.folder / "theirs"))
    bench.sync(pinned(bench))
    care("remove", "vae")
    care("prune")
    assert state(path) == before
    assert not (bench.root / ONE).exists()


def test_remove_keeps_adopted_files_below_the_root(bench: Bench, care: Callable[..., Result]) -> None:
    path = bench.root / TWO
    path.parent.mkdir(parents=True)
    path.write_bytes(read(WEIGHTS))
    before = state(path)
    care("adopt", str(bench.root / "comfyui"))
    assert bench.sync(pinned(bench)).code == 0
    assert sent(bench) == 0
    care("remove", "vae")
    assert state(path) == before


def test_blobs_and_manifests_of_ollama_are_adopted(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(ollama(bench))
    shutil.move(bench.root / "ollama/models", bench.folder / "ollama-models")
    shutil.rmtree(bench.root)
    before = sent(bench)
    assert care("adopt", str(bench.folder / "ollama-models")).code == 0
    assert bench.sync(ollama(bench)).code == 0
    assert sent(bench) == before


def test_symlinks_of_a_cache_with_shared_blobs_are_followed(bench: Bench, care: Callable[..., Result]) -> None:
    cache = bench.folder / "hub"
    shared = cache / "blobs/ab/xet-hash"
    shared.parent.mkdir(parents=True)
    shared.write_bytes(read(WEIGHTS))
    (cache / "blobs/.huggingface-shared-blobs").touch()
    blob = cache / "models--acme--art/blobs" / Digest.sha256(read(WEIGHTS)).hex
    blob.parent.mkdir(parents=True)
    blob.symlink_to(os.path.relpath(shared, blob.parent))
    snapshot = cache / "models--acme--art/snapshots/123/art.safetensors"
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(os.path.relpath(blob, snapshot.parent))
    result = care("adopt", str(cache))
    assert len(result.report["models"]) == 1
    bench.sync(pinned(bench))
    assert sent(bench) == 0


def test_adopt_in_place_creates_no_links_and_prevents_the_download(bench: Bench, care: Callable[..., Result]) -> None:
    path = collection(bench.folder / "theirs", "ComfyUI", read(WEIGHTS))
    before = state(path)
    assert care("adopt", "--in-place", str(bench.folder / "theirs")).code == 0
    assert not (bench.root / ".modelfetch/blobs").exists()
    assert bench.run("plan", bench.manifest(pinned(bench))).actions()
    assert bench.sync(pinned(bench)).code == 0
    assert sent(bench) == 0
    assert state(path) == before


def test_a_file_that_changes_before_it_is_hashed_is_recorded_as_it_was_then(
    bench: Bench, care: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, hash_one = collection(bench.folder / "theirs", "ComfyUI", b"downloading"), hashing.hash_one

    def finish_first(*given: Any, **named: Any) -> Any:
        path.write_bytes(read(WEIGHTS))
        return hash_one(*given, **named)

    monkeypatch.setattr(adopt, "hash_one", finish_first)
    assert care("adopt", "--in-place", str(bench.folder / "theirs")).code == 0
    assert bench.sync(pinned(bench)).code == 0
    assert sent(bench) == 0


def test_a_file_that_changed_after_it_was_recorded_is_fetched(bench: Bench, care: Callable[..., Result]) -> None:
    path = collection(bench.folder / "theirs", "ComfyUI", read(WEIGHTS))
    care("adopt", "--in-place", str(bench.folder / "theirs"))
    path.chmod(0o644)
    path.write_bytes(read(OTHER))
    assert bench.sync(pinned(bench)).code == 0
    assert sent(bench) == len(read(WEIGHTS))


def test_adopt_neither_copies_nor_reads_files_on_another_file_system(
    bench: Bench, care: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = collection(bench.folder / "theirs", "ComfyUI", read(WEIGHTS))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr("modelfetch.store.ingest.hash_open_file", refuse)
    result = care("adopt", str(path.parent))
    assert result.code == 0
    assert [a["action"] for m in result.report["models"] for a in m["artifacts"]] == ["skipped"]
    assert not list((bench.root / ".modelfetch").rglob("blobs/sha256/??/*"))


def test_files_of_another_user_do_not_hinder_those_of_this_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a user who is not root: the kernel refuses hardlinks of files that belong to somebody else."""
    theirs = bench.folder / "col/a/one.safetensors"
    own = bench.folder / "col/b/two.safetensors"
    for path, data in ((theirs, read(OTHER)), (own, read(WEIGHTS))):
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
    link, stat = os.link, Path.stat

    def protected(source: Path, *args: Any, **options: Any) -> None:
        if Path(source).name == theirs.name:
            raise PermissionError(1, "Operation not permitted")
        link(source, *args, **options)

    def of_somebody(path: Path, **options: Any) -> Any:
        found = stat(path, **options)
        if path.name != theirs.name:
            return found
        values = {name: getattr(found, name) for name in dir(found) if name.startswith("st_")}
        return SimpleNamespace(**{**values, "st_uid": os.geteuid() + 1})

    monkeypatch.setattr(os, "link", protected)
    monkeypatch.setattr(Path, "stat", of_somebody)
    assert run(["adopt", str(bench.folder / "col"), "--root", str(bench.root), "-v"]) == 0
    out = capsys.readouterr().out
    rows = {line.split()[-1]: line.split()[0] for line in out.splitlines() if "safetensors" in line}
    assert rows == {"a/one.safetensors": "elsewhere", "b/two.safetensors": "adopted"}
    assert "files of another user" in out


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than the root's."""
    folders = [path for path in map(Path, ("/dev/shm", "/var/tmp")) if path.is_dir()]  # noqa: S108 - no names in them
    others = [path for path in folders if path.stat().st_dev != tmp_path.stat().st_dev]
    if not others:
        pytest.skip("there is no second file system")
    with tempfile.TemporaryDirectory(dir=others[0]) as name:
        yield Path(name)


def test_sync_copies_adopted_files_from_another_file_system(
    bench: Bench, care: Callable[..., Result], other_disk: Path
) -> None:
    path = collection(other_disk / "theirs", "ComfyUI", read(WEIGHTS))
    before = state(path)
    result = care("adopt", str(other_disk / "theirs"))
    assert [a["action"] for m in result.report["models"] for a in m["artifacts"]] == ["skipped"]
    assert care("adopt", "--in-place", str(other_disk / "theirs")).code == 0
    assert bench.sync(pinned(bench)).code == 0
    assert sent(bench) == 0
    assert (bench.root / ONE).read_bytes() == read(WEIGHTS)
    assert state(path) == before


def test_a_file_that_is_adopted_in_place_repairs_its_copy(
    bench: Bench, care: Callable[..., Result], other_disk: Path
) -> None:
    collection(other_disk, "ComfyUI", read(WEIGHTS))
    care("adopt", "--in-place", str(other_disk))
    assert bench.sync(pinned(bench)).code == 0
    flip(bench.root / ONE)
    assert care("verify", "--repair", "--offline").code == 0
    assert sent(bench) == 0
    assert (bench.root / ONE).read_bytes() == read(WEIGHTS)


def test_a_hardlink_of_a_damaged_file_is_not_used_for_a_repair(
    bench: Bench, care: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelfetch.store.ingest.try_reflink", lambda *_: False)
    path = collection(bench.folder / "theirs", "ComfyUI", read(WEIGHTS))
    path.chmod(0o644)
    care("adopt", "--in-place", str(bench.folder / "theirs"))
    assert bench.sync(pinned(bench)).code == 0
    assert path.samefile(bench.root / ONE)
    flip(path)
    assert care("verify", "--repair", "--offline").codes() == ["offline"]
    assert care("verify", "--repair").code == 0
    assert (bench.root / ONE).read_bytes() == read(WEIGHTS)


def test_the_report_counts_the_adopted_models_of_each_tier(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELFETCH_TIERS_DIR", str(bench.folder))
    collection(bench.folder / "theirs", "ComfyUI", read(WEIGHTS))
    bench.manifest(pinned(bench), whisper(bench), tier="mine")
    assert run(["adopt", str(bench.folder / "theirs"), "--root", str(bench.root)]) == 0
    assert "tier mine: 1 of 2 models on disk" in capsys.readouterr().out


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HF_HOME"])
def test_sync_uses_files_of_the_hugging_face_cache(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    cache = bench.folder / "hub"
    blob = cache / "models--other--name/blobs" / Digest.sha256(read(WEIGHTS)).hex
    blob.parent.mkdir(parents=True)
    blob.write_bytes(read(WEIGHTS))
    before = state(blob)
    monkeypatch.setenv(variable, str(cache if variable == "HF_HUB_CACHE" else bench.folder))
    result = bench.sync(pinned(bench))
    assert result.code == 0, result.err
    assert set(result.actions().values()) == {"adopted"}
    assert sent(bench) == 0
    assert state(blob) == before


def pinned_cache(bench: Bench) -> tuple[dict[str, Any], Path]:
    """A Hugging Face cache elsewhere, and the entry that pins each of its files by sha256."""
    assert bench.sync(whisper(bench)).code == 0
    (snapshot,) = (bench.root / "whisper/hub").glob("models--*/snapshots/*")
    named = {str(path.relative_to(snapshot)): path.read_bytes() for path in snapshot.rglob("*") if path.is_file()}
    files = [{"path": name, "size": len(data), "digest": sha256(data)} for name, data in named.items()]
    entry = {**whisper(bench, files=files), "source": f"hf://acme/whisper@{snapshot.name}"}
    cache = bench.folder / "hub"
    shutil.move(bench.root / "whisper/hub", cache)
    shutil.rmtree(bench.root)
    return entry, cache


@pytest.mark.parametrize("reflinks", first(1, [False, True]))
def test_files_adopted_as_copies_are_not_fetched_after_a_prune(
    bench: Bench, care: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, *, reflinks: bool
) -> None:
    """Small files are copied into the store, and all are where the file system shares blocks."""

    def clone(source: Path, target: Path) -> bool:
        if reflinks:
            shutil.copyfile(source, target)
        return reflinks

    entry, cache = pinned_cache(bench)
    monkeypatch.setattr("modelfetch.store.ingest.try_reflink", clone)
    assert care("adopt", str(cache)).code == 0
    assert care("prune", "--older-than", "0s").report["models"]
    left = [p for p in (bench.root / ".modelfetch/blobs/sha256").glob("??/*") if p.suffix != ".json"]
    assert bool(left) is not reflinks  # hardlinked ones stay
    assert bench.sync(entry, options=("--offline",)).code == 0


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("offline", first(1, [False, True]))
def test_small_files_of_the_hugging_face_cache_are_found_by_their_snapshot(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, *, shared: bool, offline: bool
) -> None:
    """The manifest has their sha256; the cache names them by git's sha1. ``shared``: the blobs of huggingface_hub 2."""
    entry, cache = pinned_cache(bench)
    for number, blob in enumerate(sorted(cache.glob("models--*/blobs/*")) if shared else ()):
        blob.rename(cache / f"shared-{number}")
        blob.symlink_to(f"../../shared-{number}")
    before = sent(bench)
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    result = bench.sync(entry, options=("--offline",) if offline else ())
    assert result.code == 0, result.err
    assert set(result.actions().values()) == {"adopted"}
    assert sent(bench) == before


def test_a_damaged_file_in_the_hugging_face_cache_is_not_used(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = bench.folder / "hub/models--other--name/blobs" / Digest.sha256(read(WEIGHTS)).hex
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"x" * len(read(WEIGHTS)))
    monkeypatch.setenv("HF_HUB_CACHE", str(bench.folder / "hub"))
    assert bench.sync(pinned(bench)).code == 0
    assert (bench.root / ONE).read_bytes() == read(WEIGHTS)


def test_text_files_with_a_suffix_of_weights_are_not_adopted(bench: Bench, care: Callable[..., Result]) -> None:
    packages = bench.folder / "theirs/venv/lib/python3.11/site-packages"
    packages.mkdir(parents=True)
    (packages / "__editable__.pth").write_text("/somewhere/else\n")
    (packages / "weights.pth").write_bytes(b"PK\3\4" + bytes(60))
    result = care("adopt", str(bench.folder / "theirs"))
    assert [m["name"] for m in result.report["models"]] == ["venv/lib/python3.11/site-packages/weights.pth"]


def test_adopting_a_missing_folder_is_a_usage_error_and_makes_no_root(
    bench: Bench, care: Callable[..., Result]
) -> None:
    (bench.folder / "theirs").mkdir()
    assert care("adopt", str(bench.folder / "theirs"), "/nowhere/at/all").code == 2
    assert not bench.root.exists()


@pytest.mark.parametrize("words", [(), ("--in-place",)])
def test_a_large_file_shows_its_progress_while_it_is_hashed(
    bench: Bench, care: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setattr(check_progress, "_EVERY", 0.0)
    path = collection(bench.folder / "theirs", "ComfyUI", read(WEIGHTS))
    with path.open("ab") as file:
        file.truncate(5 * 2**20)
    lines = care("adopt", str(bench.folder / "theirs"), *words, "--progress", "json").err.splitlines()
    done = [event["done"] for event in map(json.loads, lines) if event["event"] == "transfer-progress"]
    assert done == [2**20 * n for n in range(1, 6)]


@pytest.mark.parametrize(
    ("function", "words"), [("_link_or_copy", ()), ("_hash", ()), ("open_regular", ("--in-place",))], ids=str
)
def test_a_file_that_the_disk_can_not_read_does_not_keep_the_others_from_being_adopted(
    bench: Bench,
    care: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    words: tuple[str, ...],
) -> None:
    for name in ("bad.safetensors", "good.safetensors"):
        file = bench.folder / "theirs" / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(read(WEIGHTS) + name.encode())
    module = fs if words else ingest
    real = getattr(module, function)

    def failing(path: Path, *args: Any, **options: Any) -> Any:
        if str(path).endswith("bad.safetensors"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, *args, **options)

    monkeypatch.setattr(module, function, failing)
    result = care("adopt", str(bench.folder / "theirs"), *words)
    assert (result.code, [error["code"] for error in result.report["errors"]]) == (74, ["io-error"])
    assert {m["name"]: m["ok"] for m in result.report["models"]} == {"bad.safetensors": False, "good.safetensors": True}


def test_a_full_disk_ends_adopting(bench: Bench, care: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    collection(bench.folder / "theirs", "ComfyUI", read(WEIGHTS))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ingest, "_hash", full)
    result = care("adopt", str(bench.folder / "theirs"))
    assert (result.code, [error["code"] for error in result.report["errors"]]) == (74, ["no-space"])
